// System calls for shell scripts: prints what a call returned, or the name of its error.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int say(long long result) {
    if (result < 0) printf("%s\n", strerrorname_np(errno));
    else printf("%lld\n", result);
    return 0;
}

static int flag(const char *words) {
    int flags = 0;
    if (strstr(words, "r")) flags |= O_RDONLY;
    if (strstr(words, "w")) flags |= O_WRONLY;
    if (strstr(words, "b")) flags |= O_RDWR;
    if (strstr(words, "c")) flags |= O_CREAT;
    if (strstr(words, "x")) flags |= O_EXCL;
    if (strstr(words, "a")) flags |= O_APPEND;
    if (strstr(words, "t")) flags |= O_TRUNC;
    if (strstr(words, "s")) flags |= O_SYNC;
    if (strstr(words, "d")) flags |= O_DIRECTORY;
    if (strstr(words, "n")) flags |= O_NOFOLLOW;
    return flags;
}

// Names in the order of a listing; after the first `pause` of them something is changed, and the place that
// telldir gave there is sought again.
static int list(const char *path, int pause, const char *command, int flags) {
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | flags);
    DIR *directory = descriptor < 0 ? NULL : fdopendir(descriptor);
    struct dirent *entry;
    long place = 0;
    int count = 0;
    if (!directory) return say(-1);
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] == '.') continue;
        puts(entry->d_name);
        if (++count == pause) {
            place = telldir(directory);
            fflush(stdout);
            if (system(command) != 0) return 1;
            while (readdir(directory)) {}
            seekdir(directory, place);
        }
    }
    closedir(directory);
    return 0;
}

static int tmpfile_in(const char *directory, const char *content, const char *name, int flags) {
    char path[64];
    int descriptor = open(directory, O_TMPFILE | O_RDWR | flags, 0666);
    struct stat status;
    if (descriptor < 0) return say(-1);
    if (write(descriptor, content, strlen(content)) < 0 || fstat(descriptor, &status) < 0) return say(-1);
    printf("%lu ", (unsigned long)status.st_nlink);
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    return say(linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW));
}

// Stores text through a mapping and reads the file through its descriptor.
static int map(const char *path, int flags, const char *text) {
    int descriptor = open(path, O_RDWR);
    char found[256] = {0};
    char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, descriptor, 0);
    if (descriptor < 0 || memory == MAP_FAILED) return say(-1);
    memcpy(memory, text, strlen(text));
    if (flags == MAP_SHARED && msync(memory, 4096, MS_SYNC) < 0) return say(-1);
    munmap(memory, 4096);
    if (pread(descriptor, found, strlen(text), 0) < 0) return say(-1);
    return puts(found) < 0;
}

// Takes a lock, and lets another process try the same.
static int lock(const char *path, const char *kind) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    for (int isOther = 0; isOther < 2; isOther++) {
        int descriptor = open(path, O_RDWR);
        int result = strcmp(kind, "flock") == 0 ? flock(descriptor, LOCK_EX | LOCK_NB)
            : fcntl(descriptor, strcmp(kind, "ofd") == 0 ? F_OFD_SETLK : F_SETLK, &whole);
        say(result);
        fflush(stdout);
        if (isOther) _exit(0);
        pid_t child = fork();
        if (child != 0) {
            waitpid(child, NULL, 0);
            return 0;
        }
    }
    return 0;
}

static int unlinked(const char *path) {
    struct stat status;
    char found[16] = {0};
    int descriptor = open(path, O_RDWR | O_CREAT, 0600);
    if (write(descriptor, "before", 6) != 6 || unlink(path) < 0) return say(-1);
    if (pwrite(descriptor, "+after", 6, 6) != 6 || pread(descriptor, found, 12, 0) != 12) return say(-1);
    if (fstat(descriptor, &status) < 0) return say(-1);
    printf("%s %lu %lld\n", found, (unsigned long)status.st_nlink, (long long)status.st_size);
    return 0;
}

static int direct(const char *path) {
    int descriptor = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    char *block;
    if (descriptor < 0 || posix_memalign((void **)&block, 4096, 8192) != 0) return say(-1);
    memset(block, 'd', 8192);
    if (pwrite(descriptor, block, 8192, 0) < 0) return say(-1);
    memset(block, 0, 8192);
    say(pread(descriptor, block, 8192, 4096));
    return say(block[0] == 'd' && block[4095] == 'd' && block[4096] == 0 ? 0 : 1);
}

// Opens a file by its handle after something was done; tells its inode number.
static int by_handle(const char *path, const char *command) {
    struct file_handle *handle = malloc(sizeof *handle + MAX_HANDLE_SZ);
    struct stat status;
    int mount, top = open(".", O_RDONLY | O_DIRECTORY);
    handle->handle_bytes = MAX_HANDLE_SZ;
    if (name_to_handle_at(AT_FDCWD, path, handle, &mount, 0) < 0 || system(command) != 0) return say(-1);
    int descriptor = open_by_handle_at(top, handle, O_RDONLY);
    if (descriptor < 0 || fstat(descriptor, &status) < 0) return say(-1);
    return say((long long)status.st_ino);
}

// Writes asynchronously with O_DIRECT while another process reads through the cache: what is written is seen at once.
static int asynchronous(const char *path) {
    enum { size = 65536, rounds = 600 };
    int direct = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600), cached = open(path, O_RDWR);
    char *block, found[size];
    aio_context_t context = 0;
    if (direct < 0 || cached < 0 || posix_memalign((void **)&block, 4096, size) != 0) return say(-1);
    memset(block, 0, size);
    if (pwrite(direct, block, size, 0) != size || syscall(SYS_io_setup, 1, &context) < 0) return say(-1);
    pid_t reader = fork();
    if (reader == 0)
        while (pread(cached, found, size, 0) == size) {}
    for (int round = 1; round <= rounds; round++) {
        struct iocb write = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = direct, .aio_buf = (uintptr_t)block,
            .aio_nbytes = size}, *list[] = {&write};
        struct io_event event;
        memset(block, round, size);
        if (syscall(SYS_io_submit, context, 1, list) != 1) break;
        if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1 || event.res != size) break;
        if (pread(cached, found, size, 0) != size || memcmp(found, block, size) != 0) break;
    }
    kill(reader, SIGKILL);
    waitpid(reader, NULL, 0);
    return say(memcmp(found, block, size) == 0 && (unsigned char)block[0] == rounds % 256 ? 0 : 1);
}

static int watch(const char *path, const char *command) {
    char buffer[4096];
    int descriptor = inotify_init1(IN_NONBLOCK);
    if (inotify_add_watch(descriptor, path, IN_ALL_EVENTS & ~(IN_OPEN | IN_ACCESS)) < 0) return say(-1);
    if (system(command) != 0) return 1;
    long count = read(descriptor, buffer, sizeof buffer);
    for (char *place = buffer; count > 0 && place < buffer + count;) {
        struct inotify_event *event = (struct inotify_event *)place;
        printf("%s%s%s%s%s%s%s ", event->mask & IN_CREATE ? "create" : "", event->mask & IN_MODIFY ? "modify" : "",
            event->mask & IN_MOVED_FROM ? "from" : "", event->mask & IN_MOVED_TO ? "to" : "",
            event->mask & IN_DELETE ? "delete" : "", event->mask & IN_ATTRIB ? "attrib" : "",
            event->mask & IN_CLOSE_WRITE ? "close" : "");
        place += sizeof *event + event->len;
    }
    puts("");
    return 0;
}

static int bind_socket(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    return say(bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
}

static struct timespec moment(const char *word) {
    struct timespec time = {0, UTIME_OMIT};
    if (strcmp(word, "now") == 0) time.tv_nsec = UTIME_NOW;
    else if (strcmp(word, "omit") != 0) sscanf(word, "%ld.%9ld", &time.tv_sec, &time.tv_nsec);
    return time;
}

// In replay.c.
int replay(void);

int main(int count, char **words) {
    static char room[1 << 17];
    const char *call = count > 1 ? words[1] : "";
    const char *path = count > 2 ? words[2] : "";
#define number(index) ((index) < count ? strtoll(words[index], NULL, 0) : 0)
    if (!strcmp(call, "replay")) return replay();
    if (!strcmp(call, "rename")) return say(renameat2(AT_FDCWD, path, AT_FDCWD, words[3], number(4)));
    if (!strcmp(call, "link")) return say(link(path, words[3]));
    if (!strcmp(call, "symlink")) return say(symlink(path, words[3]));
    if (!strcmp(call, "mkdir")) return say(mkdir(path, 0777));
    if (!strcmp(call, "rmdir")) return say(rmdir(path));
    if (!strcmp(call, "unlink")) return say(unlink(path));
    if (!strcmp(call, "mknod")) return say(mknod(path, strtol(words[3], NULL, 8), makedev(number(4), number(5))));
    if (!strcmp(call, "socket")) return bind_socket(path);
    if (!strcmp(call, "open")) return say(open(path, flag(words[3]), 0666) < 0 ? -1 : 0);
    if (!strcmp(call, "truncate")) return say(truncate(path, number(3)));
    if (!strcmp(call, "write"))
        return say(pwrite(open(path, flag(words[3]), 0666), words[5], strlen(words[5]), number(4)));
    if (!strcmp(call, "fallocate")) return say(fallocate(open(path, O_RDWR), number(3), number(4), number(5)));
    if (!strcmp(call, "seek")) return say(lseek(open(path, O_RDONLY), number(4), number(3)));
    if (!strcmp(call, "fiemap")) {
        struct fiemap map = {.fm_length = FIEMAP_MAX_OFFSET};
        return say(ioctl(open(path, O_RDONLY), FS_IOC_FIEMAP, &map));
    }
    if (!strcmp(call, "copy")) {
        off_t from = number(3), to = number(5);
        return say(copy_file_range(open(path, O_RDONLY), &from, open(words[4], O_RDWR), &to, number(6), 0));
    }
    if (!strcmp(call, "tmpfile")) return tmpfile_in(path, words[3], words[4], count > 5 ? O_EXCL : 0);
    if (!strcmp(call, "map")) return map(path, !strcmp(words[3], "shared") ? MAP_SHARED : MAP_PRIVATE, words[4]);
    if (!strcmp(call, "lock")) return lock(path, words[3]);
    if (!strcmp(call, "unlinked")) return unlinked(path);
    if (!strcmp(call, "direct")) return direct(path);
    if (!strcmp(call, "list"))
        return list(path, number(3), count > 4 ? words[4] : "", count > 5 ? O_NOATIME : 0);
    if (!strcmp(call, "asynchronous")) return asynchronous(path);
    if (!strcmp(call, "handle")) return by_handle(path, words[3]);
    if (!strcmp(call, "watch")) return watch(path, words[3]);
    if (!strcmp(call, "setxattr")) return say(lsetxattr(path, words[3], words[4], strlen(words[4]), number(5)));
    if (!strcmp(call, "bigxattr")) return say(lsetxattr(path, words[3], room, number(4), 0));
    if (!strcmp(call, "getxattr")) return say(lgetxattr(path, words[3], room, number(4)));
    if (!strcmp(call, "listxattr")) return say(llistxattr(path, room, number(3)));
    if (!strcmp(call, "removexattr")) return say(lremovexattr(path, words[3]));
    if (!strcmp(call, "fsync")) return say(fsync(open(path, O_RDONLY)));
    if (!strcmp(call, "fdatasync")) return say(fdatasync(open(path, O_RDONLY)));
    if (!strcmp(call, "syncfs")) return say(syncfs(open(path, O_RDONLY)));
    if (!strcmp(call, "times")) {
        struct timespec times[2] = {moment(words[3]), moment(words[4])};
        return say(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW));
    }
    if (!strcmp(call, "namemax")) {
        struct statvfs status;
        return say(statvfs(path, &status) < 0 ? -1 : (long long)status.f_namemax);
    }
    fprintf(stderr, "probe: no call '%s'\n", call);
    return 2;
}
