// A program that uses a mounted directory in every way at once, checks all that it reads, and ends with 1 at the first
// error or wrong byte. usage: restless <directory> <file for the number of rounds>; SIGTERM ends it with 0.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { FILES = 3000, SIZE = 1 << 20, MAPPED = 1 << 18, LINE = 24 };

static volatile sig_atomic_t ended;
static uint64_t round_number;

static void end(int number) { (void)number; ended = 1; }

#define MUST(condition)                                                                                  \
    do {                                                                                                 \
        if (!(condition)) {                                                                              \
            printf("round %llu, line %d: %s: %s\n", (unsigned long long)round_number, __LINE__, #condition, \
                   strerror(errno));                                                                     \
            exit(1);                                                                                     \
        }                                                                                                \
    } while (0)

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

// A file with random bytes at random places, held against a copy in memory. The kernel is made to forget it.
static void scribble(int file, uint8_t *copy) {
    static uint8_t buffer[65536];
    size_t count = 1 + rand() % sizeof buffer, place = rand() % (SIZE - count);
    for (size_t i = 0; i < count; i++) buffer[i] = copy[place + i] = rand();
    MUST(pwrite(file, buffer, count, place) == (ssize_t)count);
    if (round_number % 4 == 0) MUST(fsync(file) == 0);
    MUST(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0);
    count = 1 + rand() % sizeof buffer, place = rand() % (SIZE - count);
    MUST(pread(file, buffer, count, place) == (ssize_t)count);
    MUST(memcmp(buffer, copy + place, count) == 0);
}

// One line after the other, each with its number: none may be missing, double or elsewhere.
static void append(int file) {
    char line[LINE + 1];
    struct stat status;
    snprintf(line, sizeof line, "%023llu\n", (unsigned long long)round_number);
    MUST(write(file, line, LINE) == LINE);
    MUST(fstat(file, &status) == 0 && status.st_size == (off_t)((round_number + 1) * LINE));
}

static void check_lines(const char *path) {
    char line[LINE + 1] = "", wanted[LINE + 1];
    FILE *file = fopen(path, "r");
    MUST(file);
    for (uint64_t i = 0; i < round_number; i++) {
        snprintf(wanted, sizeof wanted, "%023llu\n", (unsigned long long)i);
        MUST(fread(line, LINE, 1, file) == 1 && strcmp(line, wanted) == 0);
    }
    MUST(fgetc(file) == EOF);
    fclose(file);
}

static void map(int file, uint8_t *mapped, uint8_t *copy) {
    static uint8_t buffer[4096];
    size_t place = rand() % (MAPPED / 4096) * 4096;
    for (int i = 0; i < 4096; i++) mapped[place + i] = copy[place + i] = rand();
    MUST(msync(mapped + place, 4096, MS_SYNC) == 0);
    MUST(pread(file, buffer, 4096, place) == 4096 && memcmp(buffer, copy + place, 4096) == 0);
    place = rand() % (MAPPED / 4096) * 4096;
    MUST(madvise(mapped, MAPPED, MADV_DONTNEED) == 0);
    MUST(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0);
    MUST(memcmp(mapped + place, copy + place, 4096) == 0);
}

// Written past the kernel's cache, and read through it.
static void write_directly(int direct, int file, uint8_t *copy) {
    static uint8_t buffer[8192] __attribute__((aligned(4096))), seen[65536];
    size_t place = rand() % (SIZE / sizeof buffer) * sizeof buffer, from = place & ~(sizeof seen - 1);
    MUST(pread(file, seen, sizeof seen, from) == sizeof seen && memcmp(seen, copy + from, sizeof seen) == 0);
    for (size_t i = 0; i < sizeof buffer; i++) buffer[i] = copy[place + i] = rand();
    MUST(pwrite(direct, buffer, sizeof buffer, place) == sizeof buffer);
    MUST(pread(file, seen, sizeof seen, from) == sizeof seen && memcmp(seen, copy + from, sizeof seen) == 0);
}

// A listing that goes on over many rounds: each name once.
static void list(DIR *directory, char *seen) {
    for (int i = 0; i < 40; i++) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry) {
            MUST(errno == 0);
            for (int number = 0; number < FILES; number++) MUST(seen[number] == 1);
            memset(seen, 0, FILES);
            rewinddir(directory);
            return;
        }
        if (entry->d_name[0] == '.') continue;
        int number = atoi(entry->d_name);
        MUST(number >= 0 && number < FILES && seen[number]++ == 0);
    }
}

// What may happen once only.
static void names(void) {
    char value[16];
    struct stat status;
    int file;
    MUST(mkdir("d", 0700) == 0);
    MUST((file = open("d/new", O_CREAT | O_EXCL | O_RDWR, 0600)) >= 0);
    MUST(write(file, "x", 1) == 1);
    MUST(setxattr("d/new", "user.round", "value", 5, XATTR_CREATE) == 0);
    MUST(link("d/new", "d/second") == 0);
    MUST(rename("d/new", "d/third") == 0);
    MUST(access("d/new", F_OK) != 0 && errno == ENOENT);
    MUST(getxattr("d/third", "user.round", value, sizeof value) == 5);
    MUST(fstat(file, &status) == 0 && status.st_nlink == 2);
    MUST(unlink("d/third") == 0 && unlink("d/second") == 0);
    MUST(fstat(file, &status) == 0 && status.st_nlink == 0 && status.st_size == 1);
    MUST(close(file) == 0);
    MUST(symlink("target", "d/link") == 0 && unlink("d/link") == 0);
    MUST(rmdir("d") == 0);
}

static void locks(int second, int third) {
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 1};
    MUST(flock(second, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK);
    MUST(fcntl(third, F_OFD_SETLK, &range) != 0 && errno == EAGAIN);
}

static int made(const char *name, int flags) {
    int file = open(name, O_CREAT | O_RDWR | flags, 0600);
    MUST(file >= 0);
    return file;
}

int main(int count, char **words) {
    if (count != 3 || chdir(words[1]) != 0 || mkdir("work", 0700) != 0 || chdir("work") != 0) return 2;
    int progress = open(words[2], O_CREAT | O_RDWR | O_TRUNC, 0600);
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
    char *seen = calloc(FILES, 1), name[32];
    uint8_t *copies = calloc(3, SIZE), *direct_copy = calloc(1, SIZE);
    double longest = 0;
    signal(SIGTERM, end);
    MUST(mkdir("many", 0700) == 0 && mkdir("gone", 0700) == 0);
    for (int number = 0; number < FILES; number++) {
        snprintf(name, sizeof name, "many/%d", number);
        MUST(close(made(name, 0)) == 0);
    }
    int log = made("log", O_APPEND), whole = made("whole", 0), unlinked = made("unlinked", 0);
    int unnamed = open(".", O_TMPFILE | O_RDWR, 0600), mapped_file = made("mapped", 0);
    int first = made("lock", 0), second = made("lock", 0), third = made("ranges", 0), fourth = made("ranges", 0);
    int cached = made("direct", 0), direct = made("direct", O_DIRECT);
    int removed = open("gone", O_RDONLY | O_DIRECTORY);
    MUST(unlink("unlinked") == 0 && rmdir("gone") == 0 && unnamed >= 0 && removed >= 0 && progress >= 0);
    MUST(flock(first, LOCK_EX) == 0 && fcntl(fourth, F_OFD_SETLK, &range) == 0);
    MUST(ftruncate(whole, SIZE) == 0 && ftruncate(unlinked, SIZE) == 0 && ftruncate(unnamed, SIZE) == 0);
    MUST(ftruncate(mapped_file, MAPPED) == 0 && ftruncate(cached, SIZE) == 0);
    uint8_t *mapped = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_SHARED, mapped_file, 0);
    uint8_t *mapped_copy = calloc(1, MAPPED);
    DIR *directory = opendir("many");
    MUST(mapped != MAP_FAILED && directory);
    while (!ended) {
        struct stat status;
        double start = now();
        append(log);
        scribble(whole, copies);
        scribble(unlinked, copies + SIZE);
        scribble(unnamed, copies + 2 * SIZE);
        map(mapped_file, mapped, mapped_copy);
        write_directly(direct, cached, direct_copy);
        list(directory, seen);
        names();
        locks(second, third);
        MUST(fstat(unlinked, &status) == 0 && status.st_nlink == 0);
        MUST(fstat(removed, &status) == 0 && status.st_nlink == 0);
        round_number++;
        MUST(pwrite(progress, &round_number, sizeof round_number, 0) == sizeof round_number);
        if (now() - start > longest) longest = now() - start;
    }
    MUST(linkat(AT_FDCWD, (snprintf(name, sizeof name, "/proc/self/fd/%d", unnamed), name), AT_FDCWD, "named",
                AT_SYMLINK_FOLLOW) == 0);
    check_lines("log");
    for (int i = 0; i < 3; i++) {
        static uint8_t all[SIZE];
        int file = i == 0 ? whole : i == 1 ? unlinked : unnamed;
        MUST(pread(file, all, SIZE, 0) == SIZE && memcmp(all, copies + (size_t)i * SIZE, SIZE) == 0);
    }
    printf("%llu rounds, the longest of %.2f s\n", (unsigned long long)round_number, longest);
    return 0;
}
