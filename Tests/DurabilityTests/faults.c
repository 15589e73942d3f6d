// Makes a process's disk fail: calls on what is below one directory end with an error. Preloaded; compiled by the
// tests that use it. Two ways to say which, at the same time if need be:
//
//   FAULT_ROOT     the directory
//   FAULT_FILE     lines "call errno part-of-the-path", for pread, pwrite, fsync, fdatasync, syncfs, ftruncate,
//                  fallocate, open, mkdir, rename, unlink; no file, or no such line: everything works
//   FAULT_COUNTER  a file that is mapped, `struct counter`: counts calls of some kinds and fails the nth, or all from
//                  there on
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum kind {
    READ = 1, WRITE = 2, SYNC = 4, TRUNCATE = 8, ALLOCATE = 16, OPEN_TO_READ = 32, OPEN_TO_WRITE = 64, CREATE = 128,
    MAKE_DIRECTORY = 256, RENAME = 512, UNLINK = 1024,
};

// FaultCounter.swift knows this layout.
struct counter {
    uint64_t kinds;    // which are counted; 0: none
    uint64_t at;       // which one fails; 0: none
    uint64_t lasting;  // not 0: and all after it
    uint64_t error;
    uint64_t count;
    uint64_t hits;
    char first[208];  // what was hit first
};

static struct counter *counter;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULT_COUNTER");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) counter = mapped;
    close(fd);
}

static int is_below(const char *path) {
    const char *root = getenv("FAULT_ROOT");
    if (!root) return 0;
    size_t length = strlen(root);
    return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

// The error that the fault file wants; 0: none.
static int listed(const char *call, const char *path) {
    const char *file = getenv("FAULT_FILE");
    if (!file || access(file, R_OK) != 0) return 0;
    char line[PATH_MAX + 64], wanted[32], part[PATH_MAX];
    FILE *lines = fopen(file, "re");
    if (!lines) return 0;
    int number, found = 0;
    while (!found && fgets(line, sizeof line, lines))
        if (sscanf(line, "%31s %d %4095s", wanted, &number, part) == 3 && !strcmp(wanted, call) && strstr(path, part))
            found = number;
    fclose(lines);
    return found;
}

static int counted(uint64_t kinds, const char *call, const char *path) {
    if (!counter || !(__atomic_load_n(&counter->kinds, __ATOMIC_ACQUIRE) & kinds)) return 0;
    uint64_t number = __atomic_add_fetch(&counter->count, 1, __ATOMIC_ACQ_REL);
    if (counter->at == 0 || number < counter->at || (number > counter->at && !counter->lasting)) return 0;
    if (__atomic_fetch_add(&counter->hits, 1, __ATOMIC_ACQ_REL) == 0) {
        // Of a long path the end tells more.
        size_t length = strlen(path);
        snprintf(counter->first, sizeof counter->first, "%s %s", call, length > 150 ? path + length - 150 : path);
    }
    return (int)counter->error;
}

// The error that a call is to end with; 0: none.
static int fault(uint64_t kinds, const char *call, const char *path) {
    if (!is_below(path)) return 0;
    int error = counted(kinds, call, path);
    return error ? error : listed(call, path);
}

static int fault_of(uint64_t kinds, const char *call, int fd) {
    if (!getenv("FAULT_FILE") && !(counter && counter->kinds)) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return fault(kinds, call, path);
}

static int fault_at(uint64_t kinds, const char *call, int directory, const char *name) {
    if (name[0] == '/') return fault(kinds, call, name);
    if (directory == AT_FDCWD) return 0;
    char link[64], path[PATH_MAX + NAME_MAX + 2];
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    snprintf(path + length, sizeof path - (size_t)length, "/%s", name);
    return fault(kinds, call, path);
}

#define FAIL(found)              \
    {                            \
        int before = errno;      \
        int failure = found;     \
        if (failure) {           \
            errno = failure;     \
            return -1;           \
        }                        \
        errno = before;          \
    }

ssize_t pread64(int fd, void *bytes, size_t count, off_t offset) {
    FAIL(fault_of(READ, "pread", fd))
    return syscall(SYS_pread64, fd, bytes, count, offset);
}
ssize_t pread(int fd, void *bytes, size_t count, off_t offset) { return pread64(fd, bytes, count, offset); }

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) {
    FAIL(fault_of(WRITE, "pwrite", fd))
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

int fsync(int fd) {
    FAIL(fault_of(SYNC, "fsync", fd))
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    FAIL(fault_of(SYNC, "fdatasync", fd))
    return (int)syscall(SYS_fdatasync, fd);
}

int syncfs(int fd) {
    FAIL(fault_of(SYNC, "syncfs", fd))
    return (int)syscall(SYS_syncfs, fd);
}

int ftruncate64(int fd, off_t size) {
    FAIL(fault_of(TRUNCATE, "ftruncate", fd))
    return (int)syscall(SYS_ftruncate, fd, size);
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fallocate64(int fd, int mode, off_t offset, off_t count) {
    FAIL(fault_of(ALLOCATE, "fallocate", fd))
    return (int)syscall(SYS_fallocate, fd, mode, offset, count);
}
int fallocate(int fd, int mode, off_t offset, off_t count) { return fallocate64(fd, mode, offset, count); }

static int open_any(int directory, const char *name, int flags, mode_t mode) {
    uint64_t kinds = (flags & O_ACCMODE) == O_RDONLY && !(flags & (O_CREAT | O_TRUNC)) ? OPEN_TO_READ : OPEN_TO_WRITE;
    // What is there already takes no inode.
    if (flags & O_CREAT && syscall(SYS_faccessat, directory, name, F_OK) != 0) kinds |= CREATE;
    FAIL(fault_at(kinds, "open", directory, name))
    return (int)syscall(SYS_openat, directory, name, flags, mode);
}
#define MODE(flags, mode)                    \
    mode_t mode = 0;                         \
    if (flags & (O_CREAT | __O_TMPFILE)) {   \
        va_list rest;                        \
        va_start(rest, flags);               \
        mode = va_arg(rest, mode_t);         \
        va_end(rest);                        \
    }
int open(const char *name, int flags, ...) { MODE(flags, mode) return open_any(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags, mode) return open_any(AT_FDCWD, name, flags, mode); }
int openat(int directory, const char *name, int flags, ...) { MODE(flags, mode) return open_any(directory, name, flags, mode); }
int openat64(int directory, const char *name, int flags, ...) { MODE(flags, mode) return open_any(directory, name, flags, mode); }

int mkdirat(int directory, const char *name, mode_t mode) {
    // On a disk that takes nothing, mkdir(2) of what is there says so first.
    if (syscall(SYS_faccessat, directory, name, F_OK) != 0) FAIL(fault_at(MAKE_DIRECTORY, "mkdir", directory, name))
    return (int)syscall(SYS_mkdirat, directory, name, mode);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int renameat(int from, const char *old, int to, const char *name) {
    FAIL(fault_at(RENAME, "rename", from, old))
    return (int)syscall(SYS_renameat, from, old, to, name);
}
int rename(const char *old, const char *name) { return renameat(AT_FDCWD, old, AT_FDCWD, name); }

int unlinkat(int directory, const char *name, int flags) {
    FAIL(fault_at(UNLINK, "unlink", directory, name))
    return (int)syscall(SYS_unlinkat, directory, name, flags);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
