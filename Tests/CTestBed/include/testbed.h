#ifndef GODWIT_TESTBED_H
#define GODWIT_TESTBED_H

// System calls that the test tools need and that Swift cannot reach: ioctls, variadic calls, and what has to
// happen between fork and exec. Unless stated otherwise a function returns 0 or a descriptor on success and
// a negative error number on failure, keeps no pointer after it returned, and may be called from any thread.

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#pragma clang assume_nonnull begin

/// The length of the header that precedes each packet of a TUN device made by `tb_open_tun`.
#define TB_PACKET_HEADER_SIZE 10

/// Opens a new TUN device in the calling thread's network namespace, not blocking, closed by exec. The device
/// vanishes with the last descriptor. Each packet carries a virtio_net_hdr of `TB_PACKET_HEADER_SIZE` bytes.
/// - name: at most 15 bytes.
int tb_open_tun(const char *name);

/// Says whether the kernel may hand over TCP packets larger than the MTU, to be cut by whoever receives them.
int tb_set_segmentation_offload(int tun, bool allowed);

/// Moves the calling thread, and no other, into the network namespace at `path`.
int tb_enter_network_namespace(const char *path);

/// poll(2) with a time limit in nanoseconds; negative: no limit. Returns the number of ready descriptors.
int tb_poll(struct pollfd *_Nullable descriptors, size_t count, int64_t nanoseconds);

/// Nanoseconds of CLOCK_MONOTONIC.
int64_t tb_now(void);

/// Names the calling thread, makes its timers exact, and asks for the priority `nice` (refusal is no error).
void tb_prepare_thread(const char *name, int nice);

/// An eventfd, not blocking, closed by exec.
int tb_open_event(void);

/// An anonymous file in memory, closed by exec. With `append`, each write goes to its end.
int tb_open_memory_file(const char *name, bool append);

/// fallocate(2), and renameat2(2) with RENAME_EXCHANGE: 0 or a negative errno.
int tb_fallocate(int descriptor, int mode, int64_t offset, int64_t byte_count);
int tb_exchange(const char *one, const char *other);

/// setxattr(2), and getxattr(2): how many bytes it has, or a negative errno.
int tb_set_attribute(const char *path, const char *name, const void *value, size_t count);
int64_t tb_get_attribute(const char *path, const char *name, void *value, size_t room);

/// removexattr(2): 0 or a negative errno.
int tb_remove_attribute(const char *path, const char *name);

/// renameat2(2) with any flags: 0 or a negative errno.
int tb_rename(const char *old_path, const char *new_path, unsigned int flags);

/// Extended attributes of what a descriptor has open, or, if that is negative, of what has the path, though it be a
/// symbolic link: setxattr(2) with its flags, getxattr(2), listxattr(2), removexattr(2). A negative errno; or 0, or how
/// many bytes there are.
int tb_set_own_attribute(
    int descriptor, const char *path, const char *name, const void *value, size_t count, int flags);
int64_t tb_get_own_attribute(int descriptor, const char *path, const char *name, void *value, size_t room);
int64_t tb_list_own_attributes(int descriptor, const char *path, char *names, size_t room);
int tb_remove_own_attribute(int descriptor, const char *path, const char *name);

/// copy_file_range(2): how many bytes were copied, or a negative errno.
int64_t tb_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t count);

/// A program to start. All pointers are borrowed for the time of the call.
struct tb_program {
    const char *path;
    char *_Nullable const *_Nonnull arguments;    // ends with NULL
    char *_Nullable const *_Nonnull environment;  // ends with NULL
    const char *_Nullable directory;
    const char *_Nullable network_namespace;  // path
    int standard_input;
    int standard_output;
    int standard_error;
    bool changes_user;
    uid_t user;
    gid_t group;
    const gid_t *_Nullable groups;
    size_t group_count;
    int parent_death_signal;  // 0: none
};

/// Starts a program as leader of its own process group, with no descriptor but 0, 1 and 2, all signals at
/// their default. It gets `parent_death_signal` when the *thread* that called this ends: call from a lasting
/// one.
/// - stage: on failure the name of the step that failed (a constant).
/// - pidfd: on success a descriptor that becomes readable when the program ends; the caller closes it.
///   Returns the process id, or a negative error number (then nothing was left behind).
pid_t tb_start(const struct tb_program *program, int *pidfd, const char *_Nonnull *_Nonnull stage);

/// Sends a signal through a pidfd: never hits a process that took over the number.
int tb_signal_process(int pidfd, int signal);

/// A descriptor for a process that is not our child (or is); readable when it ended.
int tb_open_process(pid_t pid);

/// From now on each delivery of one of the signals is one byte (its number) to read from the returned
/// descriptor. May be called once in a process: -EALREADY after that.
int tb_catch_signals(const int *signals, size_t count);

/// Catches them again after `tb_release_signals`; they come through the same descriptor.
int tb_catch_again(const int *signals, size_t count);

/// Gives the signals their default action again.
void tb_release_signals(const int *signals, size_t count);

#pragma clang assume_nonnull end
#endif
