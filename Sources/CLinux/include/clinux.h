// System calls of Linux that Swift's Glibc module lacks. Wrappers only: each has its man page's name,
// arguments and result (-1 and errno on failure).
#ifndef GODWIT_CLINUX_H
#define GODWIT_CLINUX_H

#include <stdint.h>

int gw_fallocate(int descriptor, int mode, int64_t offset, int64_t byte_count);

// Syncs, which are counted: how many have ended since the process began, and how long they took together.
int gw_fsync(int descriptor);
int gw_fdatasync(int descriptor);
int gw_syncfs(int descriptor);
void gw_sync_totals(uint64_t *_Nonnull count, uint64_t *_Nonnull nanoseconds);

// ioctl_ficlonerange(2), at the same offset in both.
int gw_clone_range(int target, int source, uint64_t offset, uint64_t byte_count);
int gw_sync_file_range(int descriptor, int64_t offset, int64_t byte_count, unsigned int flags);

// ioctl_fiemap(2) (FS_IOC_FIEMAP): the blocks that a file has in a range, also those that were never written to, in their
// order. The first of them may begin before the range, and the last one end behind it. Returns how many it has put into
// `extents`, of which there is room for GW_EXTENT_LIMIT; fewer than that: there are no more.
struct gw_extent {
    uint64_t offset, byte_count;
};
int gw_fiemap(int descriptor, uint64_t offset, uint64_t byte_count, struct gw_extent *_Nonnull extents);

// Whether a directory is on an XFS: it makes blocks ahead of a growing file's end, and takes them back.
int gw_is_xfs(int descriptor);

// Of a file on XFS: whether room was allocated in it (FS_IOC_FSGETXATTR, FS_XFLAG_PREALLOC), which stays.
int gw_has_allocated_room(int descriptor);

// open(2) for reading what the disk holds, not what memory holds of it, with no trace in the access time.
// Never waits, whatever is there.
int gw_open_direct(const char *_Nonnull path);

// statx(2): the number of the mount that a file is reached through, which no other mount has until the next boot. Fails
// with EOPNOTSUPP before Linux 6.8.
int gw_unique_mount_id(const char *_Nonnull path, uint64_t *_Nonnull id);

// openat2(2) that follows no symbolic link, at the end of the path or before.
int gw_open_without_links(int directory, const char *_Nonnull path, int flags);

// The device of what a descriptor (O_PATH is enough) leads to, as /proc/self/mountinfo has it. Never waits for a file
// system's server.
int gw_device(int descriptor, uint32_t *_Nonnull major, uint32_t *_Nonnull minor);

// A copy of the mount that a directory is in, seen from there: open_tree(2). It is nowhere until it is attached, and goes
// with its descriptor if it never is.
int gw_clone_mount(int directory);

// mount_setattr(2) of one mount, by a descriptor of its root.
int gw_restrict_mount(int mount, uint64_t set, uint64_t clear);

// move_mount(2): attaches a copy at a directory. The descriptor leads to the mount there from then on.
int gw_attach_mount(int mount, int directory);

// memfd_create(2), closed at an exec.
int gw_memfd_create(const char *_Nonnull name);

// sendmsg(2) and recvmsg(2) of one message on a Unix socket, with descriptors beside it. Neither waits longer than the
// socket says, nor raises SIGPIPE. What is received is closed at an exec; what does not fit into `descriptors` (at most
// GW_PASSED_LIMIT) or a message longer than `byte_count` fails with EMSGSIZE, and then nothing is left open.
int64_t gw_send_descriptors(int socket, const void *_Nonnull bytes, uint64_t byte_count,
                            const int *_Nullable descriptors, int descriptor_count);
int64_t gw_receive_descriptors(int socket, void *_Nonnull bytes, uint64_t byte_count, int *_Nonnull descriptors,
                               int descriptor_limit, int *_Nonnull descriptor_count);

// The user at the other end of a Unix socket (SO_PEERCRED).
int gw_peer_user(int socket, uint32_t *_Nonnull user);

enum { GW_PASSED_LIMIT = 8, GW_EXTENT_LIMIT = 32 };

enum { GW_O_PATH = 010000000 };

// MOUNT_ATTR_*.
enum {
    GW_MOUNT_ATTR_RDONLY = 0x01,
    GW_MOUNT_ATTR_NOSUID = 0x02,
    GW_MOUNT_ATTR_NODEV = 0x04,
    GW_MOUNT_ATTR_NOEXEC = 0x08,
    GW_MOUNT_ATTR_NOATIME = 0x10,
    GW_MOUNT_ATTR_ATIME_MASK = 0x70,
};

enum {
    GW_FALLOC_FL_KEEP_SIZE = 0x01,
    GW_FALLOC_FL_PUNCH_HOLE = 0x02,
    GW_FALLOC_FL_ZERO_RANGE = 0x10,
    GW_SEEK_DATA = 3,
    GW_SEEK_HOLE = 4,
    GW_UTIME_OMIT = (1 << 30) - 2,
};

#endif
