#define _GNU_SOURCE
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

int gw_fallocate(int descriptor, int mode, int64_t offset, int64_t byte_count) {
    return fallocate(descriptor, mode, offset, byte_count);
}

// By __atomic.
static uint64_t sync_count, sync_nanoseconds;

static uint64_t nanoseconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int counted(int (*sync)(int), int descriptor) {
    uint64_t start = nanoseconds_now();
    int result = sync(descriptor), reason = errno;
    __atomic_fetch_add(&sync_nanoseconds, nanoseconds_now() - start, __ATOMIC_RELAXED);
    __atomic_fetch_add(&sync_count, 1, __ATOMIC_RELAXED);
    errno = reason;
    return result;
}

int gw_fsync(int descriptor) { return counted(fsync, descriptor); }

int gw_fdatasync(int descriptor) { return counted(fdatasync, descriptor); }

int gw_syncfs(int descriptor) { return counted(syncfs, descriptor); }

void gw_sync_totals(uint64_t *count, uint64_t *nanoseconds) {
    *count = __atomic_load_n(&sync_count, __ATOMIC_RELAXED);
    *nanoseconds = __atomic_load_n(&sync_nanoseconds, __ATOMIC_RELAXED);
}

int gw_clone_range(int target, int source, uint64_t offset, uint64_t byte_count) {
    struct file_clone_range range = {
        .src_fd = source, .src_offset = offset, .src_length = byte_count, .dest_offset = offset};
    return ioctl(target, FICLONERANGE, &range);
}

int gw_sync_file_range(int descriptor, int64_t offset, int64_t byte_count, unsigned int flags) {
    return sync_file_range(descriptor, offset, byte_count, flags);
}

int gw_fiemap(int descriptor, uint64_t offset, uint64_t byte_count, struct gw_extent *extents) {
    struct {
        struct fiemap head;
        struct fiemap_extent extents[GW_EXTENT_LIMIT];
    } map;
    memset(&map, 0, sizeof map);
    map.head.fm_start = offset;
    map.head.fm_length = byte_count;
    map.head.fm_extent_count = GW_EXTENT_LIMIT;
    if (ioctl(descriptor, FS_IOC_FIEMAP, &map) != 0) return -1;
    for (uint32_t index = 0; index < map.head.fm_mapped_extents; index++) {
        extents[index].offset = map.extents[index].fe_logical;
        extents[index].byte_count = map.extents[index].fe_length;
    }
    return map.head.fm_mapped_extents;
}

int gw_is_xfs(int descriptor) {
    struct statfs status;
    return fstatfs(descriptor, &status) == 0 && status.f_type == XFS_SUPER_MAGIC;
}

int gw_has_allocated_room(int descriptor) {
    struct fsxattr flags;
    return ioctl(descriptor, FS_IOC_FSGETXATTR, &flags) == 0 && (flags.fsx_xflags & FS_XFLAG_PREALLOC) != 0;
}

int gw_open_direct(const char *path) {
    return open(path, O_RDONLY | O_DIRECT | O_NOATIME | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
}

int gw_unique_mount_id(const char *path, uint64_t *id) {
    const unsigned int unique = 0x4000;  // STATX_MNT_ID_UNIQUE, which older headers lack.
    struct statx status;
    if (syscall(SYS_statx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, unique, &status) != 0) return -1;
    if (!(status.stx_mask & unique)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    *id = status.stx_mnt_id;
    return 0;
}

// By number: the C library's own wrappers are younger than what we build on.
int gw_open_without_links(int directory, const char *path, int flags) {
    struct {
        uint64_t flags, mode, resolve;
    } how = {.flags = (unsigned int)flags, .resolve = 0x04};  // RESOLVE_NO_SYMLINKS
    return syscall(SYS_openat2, directory, path, &how, sizeof how);
}

int gw_device(int descriptor, uint32_t *major, uint32_t *minor) {
    struct statx status;
    // Nothing is asked for: the device is told without the file system, whose server may be gone.
    if (syscall(SYS_statx, descriptor, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &status) != 0) return -1;
    *major = status.stx_dev_major;
    *minor = status.stx_dev_minor;
    return 0;
}

int gw_clone_mount(int directory) {
    const unsigned int clone = 1, close_on_exec = O_CLOEXEC;  // OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC
    return syscall(SYS_open_tree, directory, "", clone | close_on_exec | AT_EMPTY_PATH);
}

int gw_restrict_mount(int mount, uint64_t set, uint64_t clear) {
    struct {
        uint64_t set, clear, propagation, user_namespace;
    } attributes = {.set = set, .clear = clear};
    return syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &attributes, sizeof attributes);
}

int gw_attach_mount(int mount, int directory) {
    const unsigned int from_empty_path = 0x04, to_empty_path = 0x40;  // MOVE_MOUNT_{F,T}_EMPTY_PATH
    return syscall(SYS_move_mount, mount, "", directory, "", from_empty_path | to_empty_path);
}

int gw_memfd_create(const char *name) { return memfd_create(name, MFD_CLOEXEC); }

int64_t gw_send_descriptors(int socket, const void *bytes, uint64_t byte_count, const int *descriptors,
                            int descriptor_count) {
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = byte_count};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(GW_PASSED_LIMIT * sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor_count < 0 || descriptor_count > GW_PASSED_LIMIT) {
        errno = EINVAL;
        return -1;
    }
    if (descriptor_count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(descriptor_count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(descriptor_count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), descriptors, descriptor_count * sizeof(int));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

int64_t gw_receive_descriptors(int socket, void *bytes, uint64_t byte_count, int *descriptors,
                               int descriptor_limit, int *descriptor_count) {
    struct iovec part = {.iov_base = bytes, .iov_len = byte_count};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(GW_PASSED_LIMIT * sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int fits;
    ssize_t count;
    *descriptor_count = 0;
    count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (count < 0) return -1;
    fits = !(message.msg_flags & (MSG_CTRUNC | MSG_TRUNC));
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        size_t size = header->cmsg_len - CMSG_LEN(0);
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        for (size_t index = 0; index < size / sizeof(int); index++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(header) + index * sizeof(int), sizeof descriptor);
            if (*descriptor_count < descriptor_limit) {
                descriptors[(*descriptor_count)++] = descriptor;
            } else {
                close(descriptor);
                fits = 0;
            }
        }
    }
    if (fits) return count;
    while (*descriptor_count > 0) close(descriptors[--*descriptor_count]);
    errno = EMSGSIZE;
    return -1;
}

int gw_peer_user(int socket, uint32_t *user) {
    struct ucred credentials;
    socklen_t size = sizeof credentials;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return -1;
    *user = credentials.uid;
    return 0;
}
