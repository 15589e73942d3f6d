// Makes a process's disk fail: below one directory, the calls that a file names fail as it says. Preloaded;
// compiled by the test that uses it.
//
//   FAULT_ROOT  the directory            FAULT_FILE  lines "call errno part-of-the-path"
//
// Calls: pwrite, fdatasync, syncfs. No file, or no such line: everything works.
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// The error that a call on this descriptor is to end with; 0: none.
static int fault(const char *call, int fd) {
    const char *root = getenv("FAULT_ROOT"), *file = getenv("FAULT_FILE");
    if (!root || !file || access(file, R_OK) != 0) return 0;
    char link[64], path[PATH_MAX], line[PATH_MAX], wanted[32], part[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, root, strlen(root))) return 0;
    FILE *lines = fopen(file, "re");
    if (!lines) return 0;
    int number, found = 0;
    while (!found && fgets(line, sizeof line, lines))
        if (sscanf(line, "%31s %d %4095s", wanted, &number, part) == 3 && !strcmp(wanted, call) && strstr(path, part))
            found = number;
    fclose(lines);
    return found;
}

#define FAIL(call, fd)                \
    int failure = fault(call, fd);    \
    if (failure) {                    \
        errno = failure;              \
        return -1;                    \
    }

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) {
    FAIL("pwrite", fd)
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

int fdatasync(int fd) {
    FAIL("fdatasync", fd)
    return (int)syscall(SYS_fdatasync, fd);
}

int syncfs(int fd) {
    FAIL("syncfs", fd)
    return (int)syscall(SYS_syncfs, fd);
}
