#define _GNU_SOURCE
#include "testbed.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

int tb_set_segmentation_offload(int tun, bool allowed) {
    // Checksums need never be computed: both ends are kernels of this machine.
    unsigned long offloads = TUN_F_CSUM | (allowed ? TUN_F_TSO4 : 0);
    return ioctl(tun, TUNSETOFFLOAD, offloads) < 0 ? -errno : 0;
}

int tb_open_tun(const char *name) {
    struct ifreq request;
    if (strlen(name) >= sizeof request.ifr_name) return -ENAMETOOLONG;
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tun < 0) return -errno;
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, name);
    request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
    int failure = ioctl(tun, TUNSETIFF, &request) < 0 ? -errno : tb_set_segmentation_offload(tun, false);
    if (failure == 0) return tun;
    close(tun);
    return failure;
}

int tb_enter_network_namespace(const char *path) {
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0) return -errno;
    int failure = setns(namespace, CLONE_NEWNET) < 0 ? -errno : 0;
    close(namespace);
    return failure;
}

int tb_poll(struct pollfd *descriptors, size_t count, int64_t nanoseconds) {
    struct timespec limit = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    int ready = ppoll(descriptors, count, nanoseconds < 0 ? NULL : &limit, NULL);
    return ready < 0 ? -errno : ready;
}

int64_t tb_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void tb_prepare_thread(const char *name, int nice) {
    pthread_setname_np(pthread_self(), name);
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    if (nice != 0) setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), nice);
}

int tb_open_event(void) {
    int event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return event < 0 ? -errno : event;
}

int tb_fallocate(int descriptor, int mode, int64_t offset, int64_t byte_count) {
    return fallocate(descriptor, mode, offset, byte_count) == 0 ? 0 : -errno;
}

int tb_exchange(const char *one, const char *other) {
    return renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) == 0 ? 0 : -errno;
}

int tb_set_attribute(const char *path, const char *name, const void *value, size_t count) {
    return setxattr(path, name, value, count, 0) == 0 ? 0 : -errno;
}

int64_t tb_get_attribute(const char *path, const char *name, void *value, size_t room) {
    ssize_t count = getxattr(path, name, value, room);
    return count < 0 ? -errno : count;
}

int tb_remove_attribute(const char *path, const char *name) {
    return removexattr(path, name) == 0 ? 0 : -errno;
}

int tb_rename(const char *old_path, const char *new_path, unsigned int flags) {
    return renameat2(AT_FDCWD, old_path, AT_FDCWD, new_path, flags) == 0 ? 0 : -errno;
}

int tb_set_own_attribute(
    int descriptor, const char *path, const char *name, const void *value, size_t count, int flags) {
    int result = descriptor >= 0 ? fsetxattr(descriptor, name, value, count, flags)
                                 : lsetxattr(path, name, value, count, flags);
    return result == 0 ? 0 : -errno;
}

int64_t tb_get_own_attribute(int descriptor, const char *path, const char *name, void *value, size_t room) {
    ssize_t count =
        descriptor >= 0 ? fgetxattr(descriptor, name, value, room) : lgetxattr(path, name, value, room);
    return count < 0 ? -errno : count;
}

int64_t tb_list_own_attributes(int descriptor, const char *path, char *names, size_t room) {
    ssize_t count = descriptor >= 0 ? flistxattr(descriptor, names, room) : llistxattr(path, names, room);
    return count < 0 ? -errno : count;
}

int tb_remove_own_attribute(int descriptor, const char *path, const char *name) {
    int result = descriptor >= 0 ? fremovexattr(descriptor, name) : lremovexattr(path, name);
    return result == 0 ? 0 : -errno;
}

int64_t tb_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t count) {
    off64_t start = from_offset, place = to_offset;
    ssize_t copied = copy_file_range(from, &start, to, &place, count, 0);
    return copied < 0 ? -errno : copied;
}

int tb_open_memory_file(const char *name, bool append) {
    int file = memfd_create(name, MFD_CLOEXEC);
    if (file < 0) return -errno;
    if (!append || fcntl(file, F_SETFL, O_APPEND) == 0) return file;
    int failure = -errno;
    close(file);
    return failure;
}

// Processes

struct failure {
    int number;
    int stage;
};

static const char *const stage_names[] = {
    "fork", "pipe2", "sigprocmask", "setpgid", "dup2", "setns", "chdir", "setgroups", "setgid", "setuid",
    "prctl", "close_range", "execve", "pidfd_open",
};

enum stage {
    stage_fork, stage_pipe, stage_signals, stage_group, stage_descriptors, stage_namespace, stage_directory,
    stage_groups, stage_gid, stage_uid, stage_death_signal, stage_close, stage_exec, stage_pidfd,
};

// Runs in the child: only calls that are safe after a fork of a process with threads. Returns the failed
// stage.
static enum stage prepare_and_execute(const struct tb_program *program, pid_t parent) {
    // All handlers were blocked before the fork; now that they are gone the mask may open. Straight to the
    // kernel: the C library would leave out its own two signals, which may be ignored here too.
    static const unsigned long standard[4];
    for (int number = 1; number <= 64; number++) syscall(SYS_rt_sigaction, number, standard, NULL, 8);
    sigset_t none;
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0) return stage_signals;
    if (setpgid(0, 0) < 0) return stage_group;
    // The three may be numbered 0 to 2 themselves: move them out of the way first.
    int standard_files[3] = {program->standard_input, program->standard_output, program->standard_error};
    for (int index = 0; index < 3; index++) {
        standard_files[index] = fcntl(standard_files[index], F_DUPFD_CLOEXEC, 3);
        if (standard_files[index] < 0) return stage_descriptors;
    }
    for (int index = 0; index < 3; index++) {
        if (dup2(standard_files[index], index) < 0) return stage_descriptors;
    }
    if (program->network_namespace != NULL) {
        int failure = tb_enter_network_namespace(program->network_namespace);
        if (failure < 0) {
            errno = -failure;
            return stage_namespace;
        }
    }
    if (program->changes_user) {
        if (setgroups(program->group_count, program->groups) < 0) return stage_groups;
        if (setresgid(program->group, program->group, program->group) < 0) return stage_gid;
        if (setresuid(program->user, program->user, program->user) < 0) return stage_uid;
    }
    if (program->directory != NULL && chdir(program->directory) < 0) return stage_directory;
    // After the change of user, which would clear it. A parent that died before this line is noticed below.
    if (program->parent_death_signal != 0) {
        if (prctl(PR_SET_PDEATHSIG, program->parent_death_signal) < 0) return stage_death_signal;
        if (getppid() != parent) _exit(127);
    }
    if (syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) < 0) return stage_close;
    execve(program->path, program->arguments, program->environment);
    return stage_exec;
}

static pid_t fail(const char **stage, enum stage which, int number) {
    *stage = stage_names[which];
    return -number;
}

static void reap(pid_t child) {
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
}

pid_t tb_start(const struct tb_program *program, int *pidfd, const char **stage) {
    int report[2];
    if (pipe2(report, O_CLOEXEC) < 0) return fail(stage, stage_pipe, errno);
    pid_t parent = getpid();
    // No handler of the parent may run in the child before it is removed there.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t child = fork();
    int fork_failure = errno;
    if (child == 0) {
        struct failure failure;
        failure.stage = (int)prepare_and_execute(program, parent);
        failure.number = errno;
        ssize_t written = write(report[1], &failure, sizeof failure);
        (void)written;
        _exit(127);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(report[1]);
    if (child < 0) {
        close(report[0]);
        return fail(stage, stage_fork, fork_failure);
    }
    struct failure failure;
    ssize_t length;
    do length = read(report[0], &failure, sizeof failure);
    while (length < 0 && errno == EINTR);
    close(report[0]);
    if (length == (ssize_t)sizeof failure) {
        reap(child);
        return fail(stage, (enum stage)failure.stage, failure.number);
    }
    int descriptor = tb_open_process(child);
    if (descriptor < 0) {
        kill(-child, SIGKILL);
        reap(child);
        return fail(stage, stage_pidfd, -descriptor);
    }
    *pidfd = descriptor;
    return child;
}

int tb_open_process(pid_t pid) {
    int descriptor = (int)syscall(SYS_pidfd_open, pid, 0U);
    return descriptor < 0 ? -errno : descriptor;
}

int tb_signal_process(int pidfd, int signal) {
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0U) < 0 ? -errno : 0;
}

// Signals

static atomic_int signal_pipe = -1;
static atomic_bool signals_caught = false;

static void note_signal(int number) {
    int before = errno;
    unsigned char byte = (unsigned char)number;
    ssize_t written = write(atomic_load(&signal_pipe), &byte, 1);
    (void)written;
    errno = before;
}

int tb_catch_signals(const int *signals, size_t count) {
    if (atomic_exchange(&signals_caught, true)) return -EALREADY;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
    // A full pipe must never block a handler.
    if (fcntl(ends[1], F_SETFL, O_NONBLOCK) < 0) return -errno;
    atomic_store(&signal_pipe, ends[1]);
    int failure = tb_catch_again(signals, count);
    return failure < 0 ? failure : ends[0];
}

int tb_catch_again(const int *signals, size_t count) {
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    for (size_t index = 0; index < count; index++) {
        if (sigaction(signals[index], &action, NULL) < 0) return -errno;
    }
    return 0;
}

void tb_release_signals(const int *signals, size_t count) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (size_t index = 0; index < count; index++) sigaction(signals[index], &action, NULL);
}
