// Notes every change that a process makes below one directory, in the order in which it is made, so that a test
// can say what a disk might hold if the power failed at any moment. Preloaded; compiled by the test that uses it.
//
//   RECORD_ROOT  the directory            RECORD_LOG  where the notes go
//
// A note: type (4 bytes), length of the text (4), three numbers (8 each), length of the data (8), when (8, the same
// clock for all processes), text, data.
// A change is noted when it has been made, before its caller knows; of a sync the note says at which place of
// the log it began, for only what was noted before that is certainly covered.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE, ALLOCATE, SYNC, SYNC_ALL, CREATE, UNLINK, RENAME, MKDIR };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -2;
static uint64_t position;
static char root[PATH_MAX];
static size_t root_length;

static void begin(void) {
    if (log_fd != -2) return;
    const char *path = getenv("RECORD_LOG"), *directory = getenv("RECORD_ROOT");
    log_fd = -1;
    if (!path || !directory || !realpath(directory, root)) return;
    root_length = strlen(root);
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    // Of processes one after the other each goes on where the one before has ended.
    struct stat status;
    if (log_fd >= 0 && fstat(log_fd, &status) == 0) position = (uint64_t)status.st_size;
}

// Called with the lock held.
static void note(uint32_t type, const char *text, uint64_t a, uint64_t b, uint64_t c, const void *data, uint64_t count) {
    if (log_fd < 0) return;
    uint32_t length = text ? (uint32_t)strlen(text) : 0;
    char head[48];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t time = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    memcpy(head, &type, 4), memcpy(head + 4, &length, 4), memcpy(head + 8, &a, 8), memcpy(head + 16, &b, 8);
    memcpy(head + 24, &c, 8), memcpy(head + 32, &count, 8);
    memcpy(head + 40, &time, 8);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)text, length}, {(void *)data, count}};
    ssize_t wanted = (ssize_t)sizeof head + (ssize_t)length + (ssize_t)count;
    if (syscall(SYS_writev, log_fd, parts, 3) != wanted) abort();
    position += (uint64_t)wanted;
}

// Whether a path, or what a descriptor is of, is below the root; its text comes relative to it.
static int below(const char *path, char *relative) {
    if (root_length == 0 || strncmp(path, root, root_length)) return 0;
    if (path[root_length] != '/' && path[root_length]) return 0;
    strcpy(relative, path[root_length] ? path + root_length + 1 : "");
    return 1;
}

static int of_descriptor(int fd, char *relative) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path, relative);
}

static int of_name(int directory, const char *name, char *relative) {
    char path[2 * PATH_MAX], parent[PATH_MAX], real[PATH_MAX];
    if (name[0] == '/') {
        snprintf(path, sizeof path, "%s", name);
    } else if (directory == AT_FDCWD) {
        return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, parent, sizeof parent - 1);
        if (length <= 0) return 0;
        parent[length] = 0;
        snprintf(path, sizeof path, "%s/%s", parent, name);
    }
    // The parent exists; the name itself may not, or not any more.
    char *slash = strrchr(path, '/');
    char last[NAME_MAX + 1];
    snprintf(last, sizeof last, "%s", slash + 1);
    *slash = 0;
    if (!realpath(path, real)) return 0;
    snprintf(path, sizeof path, "%s/%s", real, last);
    return below(path, relative);
}

static uint64_t inode_of(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

static uint64_t is_directory(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define RECORD(fd, call, body)                         \
    char relative[PATH_MAX];                           \
    pthread_mutex_lock(&lock);                         \
    begin();                                           \
    int is_below = log_fd >= 0 && of_descriptor(fd, relative); \
    __typeof__(call) result = call;                    \
    int failure = errno;                               \
    if (is_below) { body }                             \
    pthread_mutex_unlock(&lock);                       \
    errno = failure;                                   \
    return result;

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    RECORD(fd, syscall(SYS_pwrite64, fd, bytes, count, offset),
           if (result > 0) note(WRITE, NULL, inode_of(fd), (uint64_t)offset, 0, bytes, (uint64_t)result);)
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) { return pwrite(fd, bytes, count, offset); }

ssize_t write(int fd, const void *bytes, size_t count) {
    char relative[PATH_MAX];
    pthread_mutex_lock(&lock);
    begin();
    int is_below = log_fd >= 0 && of_descriptor(fd, relative);
    off_t offset = is_below ? lseek(fd, 0, SEEK_CUR) : 0;
    ssize_t result;
    if (!is_below) {
        // It may block, on a pipe: nobody must wait for it.
        pthread_mutex_unlock(&lock);
        return syscall(SYS_write, fd, bytes, count);
    }
    result = syscall(SYS_write, fd, bytes, count);
    int failure = errno;
    if (result > 0) note(WRITE, NULL, inode_of(fd), (uint64_t)offset, 0, bytes, (uint64_t)result);
    pthread_mutex_unlock(&lock);
    errno = failure;
    return result;
}

int ftruncate(int fd, off_t size) {
    RECORD(fd, (int)syscall(SYS_ftruncate, fd, size), if (result == 0) note(TRUNCATE, NULL, inode_of(fd), (uint64_t)size, 0, NULL, 0);)
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int fallocate(int fd, int mode, off_t offset, off_t count) {
    RECORD(fd, (int)syscall(SYS_fallocate, fd, mode, offset, count),
           if (result == 0) note(ALLOCATE, NULL, inode_of(fd), (uint64_t)offset, (uint64_t)count, &mode, 4);)
}
int fallocate64(int fd, int mode, off_t offset, off_t count) { return fallocate(fd, mode, offset, count); }

static int synchronize(int fd, int type, long number) {
    char relative[PATH_MAX];
    pthread_mutex_lock(&lock);
    begin();
    int is_below = log_fd >= 0 && of_descriptor(fd, relative);
    uint64_t began = position;
    pthread_mutex_unlock(&lock);
    int result = (int)syscall(number, fd);
    int failure = errno;
    if (is_below && result == 0) {
        pthread_mutex_lock(&lock);
        note((uint32_t)type, relative, inode_of(fd), began, is_directory(fd), NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = failure;
    return result;
}
int fsync(int fd) { return synchronize(fd, SYNC, SYS_fsync); }
int fdatasync(int fd) { return synchronize(fd, SYNC, SYS_fdatasync); }
int syncfs(int fd) { return synchronize(fd, SYNC_ALL, SYS_syncfs); }

static int open_any(int directory, const char *name, int flags, mode_t mode) {
    char relative[PATH_MAX];
    pthread_mutex_lock(&lock);
    begin();
    int is_below = log_fd >= 0 && flags & (O_CREAT | O_TRUNC) && of_name(directory, name, relative);
    int existed = is_below && faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    int result = (int)syscall(SYS_openat, directory, name, flags, mode);
    int failure = errno;
    if (is_below && result >= 0) {
        if (!existed) note(CREATE, relative, inode_of(result), 0, 0, NULL, 0);
        else if (flags & O_TRUNC) note(TRUNCATE, NULL, inode_of(result), 0, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = failure;
    return result;
}
#define MODE(flags, mode)                       \
    mode_t mode = 0;                            \
    if (flags & (O_CREAT | __O_TMPFILE)) {      \
        va_list rest;                           \
        va_start(rest, flags);                  \
        mode = va_arg(rest, mode_t);            \
        va_end(rest);                           \
    }
int open(const char *name, int flags, ...) { MODE(flags, mode) return open_any(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags, mode) return open_any(AT_FDCWD, name, flags, mode); }
int openat(int directory, const char *name, int flags, ...) { MODE(flags, mode) return open_any(directory, name, flags, mode); }
int openat64(int directory, const char *name, int flags, ...) { MODE(flags, mode) return open_any(directory, name, flags, mode); }

static int name_call(uint32_t type, int directory, const char *name, long number, unsigned long extra) {
    char relative[PATH_MAX];
    pthread_mutex_lock(&lock);
    begin();
    int is_below = log_fd >= 0 && of_name(directory, name, relative);
    int result = (int)syscall(number, directory, name, extra);
    int failure = errno;
    if (is_below && result == 0) note(type, relative, 0, 0, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = failure;
    return result;
}
int unlink(const char *name) { return name_call(UNLINK, AT_FDCWD, name, SYS_unlinkat, 0); }
int unlinkat(int directory, const char *name, int flags) { return name_call(UNLINK, directory, name, SYS_unlinkat, (unsigned)flags); }
int mkdir(const char *name, mode_t mode) { return name_call(MKDIR, AT_FDCWD, name, SYS_mkdirat, mode); }
int mkdirat(int directory, const char *name, mode_t mode) { return name_call(MKDIR, directory, name, SYS_mkdirat, mode); }

static int rename_any(int from, const char *old, int to, const char *name) {
    char before[PATH_MAX], after[PATH_MAX];
    pthread_mutex_lock(&lock);
    begin();
    int is_below = log_fd >= 0 && of_name(from, old, before) && of_name(to, name, after);
    int result = (int)syscall(SYS_renameat, from, old, to, name);
    int failure = errno;
    if (is_below && result == 0) note(RENAME, before, 0, 0, 0, after, strlen(after));
    pthread_mutex_unlock(&lock);
    errno = failure;
    return result;
}
int rename(const char *old, const char *name) { return rename_any(AT_FDCWD, old, AT_FDCWD, name); }
int renameat(int from, const char *old, int to, const char *name) { return rename_any(from, old, to, name); }
