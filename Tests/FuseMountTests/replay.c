// Does the operations that standard input lists, one a line, and prints what each returned: run in two places
// with the same lines, the outputs tell where the places differ.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { slots = 8, room = 1 << 19 };
static int descriptors[slots];
static unsigned char bytes[room];

static void say(long long result) {
    if (result < 0) printf(" %s", strerrorname_np(errno));
    else printf(" %lld", result);
}

static unsigned long long hash(const unsigned char *data, long count) {
    unsigned long long value = 14695981039346656037ULL;
    for (long index = 0; index < count; index++) value = (value ^ data[index]) * 1099511628211ULL;
    return value;
}

static void fill(unsigned char *place, long count, unsigned seed) {
    for (long index = 0; index < count; index++) place[index] = (unsigned char)((index + 1) * 31 + seed * 7 + (index >> 8));
}

static void say_status(const struct stat *status) {
    int is_directory = S_ISDIR(status->st_mode);
    printf(" %o %lu %u:%u", status->st_mode, (unsigned long)status->st_nlink, status->st_uid, status->st_gid);
    if (!is_directory) printf(" %lld", (long long)status->st_size);
    if (S_ISCHR(status->st_mode)) printf(" dev %lu", (unsigned long)status->st_rdev);
}

static int compare(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

// Names in the order of the alphabet, with the values' hashes: file systems list them in any.
static void say_attributes(const char *path) {
    static char list[65536], value[65536];
    char *names[64];
    int count = 0;
    long size = llistxattr(path, list, sizeof list);
    if (size < 0) return say(size);
    for (char *name = list; name < list + size && count < 64; name += strlen(name) + 1) names[count++] = name;
    qsort(names, count, sizeof *names, compare);
    for (int index = 0; index < count; index++) {
        long length = lgetxattr(path, names[index], value, sizeof value);
        printf(" %s=", names[index]);
        if (length < 0) say(length);
        else printf("%llx", hash((unsigned char *)value, length));
    }
}

static void say_list(const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) return say(count);
    for (int index = 0; index < count; index++) {
        printf(" %s:%d", entries[index]->d_name, entries[index]->d_type);
        free(entries[index]);
    }
    free(entries);
}

static void say_tree(const char *path) {
    struct stat status;
    if (lstat(path, &status) < 0) return say(-1);
    printf("\n  %s", path);
    say_status(&status);
    printf(" [%ld.%ld]", status.st_mtim.tv_sec < 1000000000 ? (long)status.st_mtim.tv_sec : 0,
        status.st_mtim.tv_sec < 1000000000 ? status.st_mtim.tv_nsec : 0);
    say_attributes(path);
    if (S_ISREG(status.st_mode)) {
        int descriptor = open(path, O_RDONLY);
        printf(" #%llx", hash(bytes, read(descriptor, bytes, room)));
        close(descriptor);
    } else if (S_ISLNK(status.st_mode)) {
        long count = readlink(path, (char *)bytes, room);
        printf(" > %.*s", (int)count, (char *)bytes);
    } else if (S_ISDIR(status.st_mode)) {
        struct dirent **entries;
        int count = scandir(path, &entries, NULL, alphasort);
        for (int index = 0; index < count; index++) {
            char inner[4096];
            snprintf(inner, sizeof inner, "%s/%s", path, entries[index]->d_name);
            if (strcmp(entries[index]->d_name, ".") && strcmp(entries[index]->d_name, "..")) say_tree(inner);
            free(entries[index]);
        }
        if (count >= 0) free(entries);
    }
}

// A list for user 10, with a mask: owner, user, group, mask and other have three bits each.
static long make_list(unsigned permissions) {
    static const unsigned tags[5] = {1, 2, 4, 16, 32};
    uint32_t version = 2;
    memcpy(bytes, &version, 4);
    for (int index = 0; index < 5; index++) {
        uint16_t pair[2] = {(uint16_t)tags[index], (uint16_t)(permissions >> (12 - 3 * index) & 7)};
        uint32_t id = index == 1 ? 10 : UINT32_MAX;
        memcpy(bytes + 4 + 8 * index, pair, 4);
        memcpy(bytes + 8 + 8 * index, &id, 4);
    }
    return 44;
}

static long become(unsigned user) {
    gid_t groups[1] = {20};
    if (seteuid(0) < 0 || setegid(user) < 0 || setgroups(user == 10, groups) < 0) return -1;
    return seteuid(user);
}

static long store_through_map(int descriptor, long offset, long count, unsigned seed) {
    struct stat status;
    if (fstat(descriptor, &status) < 0 || !S_ISREG(status.st_mode)) return 0;
    long start = offset & ~4095L, end = offset + count < status.st_size ? offset + count : status.st_size;
    if (end <= offset) return 0;
    unsigned char *memory = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, start);
    if (memory == MAP_FAILED) return -1;
    fill(memory + (offset - start), end - offset, seed);
    int result = msync(memory, end - start, MS_SYNC);
    munmap(memory, end - start);
    return result;
}

// Operations on what is open.
static int on_slot(const char *call, char **w) {
#define n(index) strtoll(w[index], NULL, 0)
    int *slot = &descriptors[n(1) % slots];
    if (!strcmp(call, "open")) {
        close(*slot);
        *slot = open(w[2], (int)n(3) | O_NONBLOCK, (mode_t)n(4));
        say(*slot < 0 ? -1 : 0);
    } else if (!strcmp(call, "close")) {
        say(close(*slot));
        *slot = -1;
    } else if (!strcmp(call, "write")) {
        fill(bytes, n(3), (unsigned)n(4));
        say(pwrite(*slot, bytes, n(3), n(2)));
    } else if (!strcmp(call, "read")) {
        long count = pread(*slot, bytes, n(3), n(2));
        say(count);
        if (count > 0) printf(" #%llx", hash(bytes, count));
    } else if (!strcmp(call, "ftruncate")) say(ftruncate(*slot, n(2)));
    else if (!strcmp(call, "fallocate")) say(fallocate(*slot, (int)n(2), n(3), n(4)));
    else if (!strcmp(call, "map")) say(store_through_map(*slot, n(2), n(3), (unsigned)n(4)));
    else if (!strcmp(call, "fsync")) say(fsync(*slot));
    else if (!strcmp(call, "fchmod")) say(fchmod(*slot, (mode_t)n(2)));
    else if (!strcmp(call, "copy")) {
        off_t from = n(2), to = n(4);
        say(copy_file_range(*slot, &from, descriptors[n(3) % slots], &to, n(5), 0));
    } else if (!strcmp(call, "fstat")) {
        struct stat status;
        if (fstat(*slot, &status) < 0) say(-1);
        else say_status(&status);
    } else if (!strcmp(call, "name")) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", *slot);
        say(linkat(AT_FDCWD, path, AT_FDCWD, w[2], AT_SYMLINK_FOLLOW));
    } else return 0;
    return 1;
}

static int on_path(const char *call, char **w) {
    if (!strcmp(call, "mkdir")) say(mkdir(w[1], (mode_t)n(2)));
    else if (!strcmp(call, "mknod")) say(mknod(w[1], (mode_t)n(2), 0x0103));
    else if (!strcmp(call, "rmdir")) say(rmdir(w[1]));
    else if (!strcmp(call, "unlink")) say(unlink(w[1]));
    else if (!strcmp(call, "link")) say(link(w[1], w[2]));
    else if (!strcmp(call, "symlink")) say(symlink(w[1], w[2]));
    else if (!strcmp(call, "rename")) say(renameat2(AT_FDCWD, w[1], AT_FDCWD, w[2], (unsigned)n(3)));
    else if (!strcmp(call, "truncate")) say(truncate(w[1], n(2)));
    else if (!strcmp(call, "chmod")) say(chmod(w[1], (mode_t)n(2)));
    else if (!strcmp(call, "chown")) say(lchown(w[1], (uid_t)n(2), (gid_t)n(3)));
    else if (!strcmp(call, "access")) say(faccessat(AT_FDCWD, w[1], (int)n(2), AT_EACCESS));
    else if (!strcmp(call, "list")) say_list(w[1]);
    else if (!strcmp(call, "attributes")) say_attributes(w[1]);
    else if (!strcmp(call, "remove")) say(lremovexattr(w[1], w[2]));
    else if (!strcmp(call, "times")) {
        struct timespec times[2] = {{n(2), n(3)}, {n(2) / 2, n(3) / 2}};
        say(utimensat(AT_FDCWD, w[1], times, AT_SYMLINK_NOFOLLOW));
    } else if (!strcmp(call, "set")) {
        fill(bytes, n(3), (unsigned)n(4));
        say(lsetxattr(w[1], w[2], bytes, n(3), (int)n(5)));
    } else if (!strcmp(call, "acl")) {
        long size = make_list((unsigned)n(3));
        say(lsetxattr(w[1], w[2], bytes, size, 0));
    } else if (!strcmp(call, "stat")) {
        struct stat status;
        if (lstat(w[1], &status) < 0) say(-1);
        else say_status(&status);
    } else if (!strcmp(call, "tree")) say_tree(".");
    else if (!strcmp(call, "umask")) umask((mode_t)n(1));
    else if (!strcmp(call, "as")) say(become((unsigned)n(1)));
    else return 0;
    return 1;
}

int replay(void) {
    static char line[65536];
    for (int index = 0; index < slots; index++) descriptors[index] = -1;
    while (fgets(line, sizeof line, stdin)) {
        char *words[8] = {"", "", "", "", "", "", "", ""};
        int count = 0;
        char *rest = line;
        for (char *word; count < 8 && (word = strsep(&rest, " \n"));) if (*word) words[count++] = word;
        printf("%s", words[0]);
        if (!on_slot(words[0], words) && !on_path(words[0], words)) return 2;
        puts("");
    }
    return 0;
}
