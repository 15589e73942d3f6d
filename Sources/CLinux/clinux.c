#define _GNU_SOURCE
#include "clinux.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

int gw_fallocate(int descriptor, int mode, int64_t offset, int64_t byte_count) {
    return fallocate(descriptor, mode, offset, byte_count);
}

int gw_syncfs(int descriptor) { return syncfs(descriptor); }

int gw_clone_range(int target, int source, uint64_t offset, uint64_t byte_count) {
    struct file_clone_range range = {
        .src_fd = source, .src_offset = offset, .src_length = byte_count, .dest_offset = offset};
    return ioctl(target, FICLONERANGE, &range);
}

int gw_sync_file_range(int descriptor, int64_t offset, int64_t byte_count, unsigned int flags) {
    return sync_file_range(descriptor, offset, byte_count, flags);
}

int gw_bind_mount(const char *source, const char *target) { return mount(source, target, NULL, MS_BIND, NULL); }

int gw_remount_bind(const char *target, unsigned long flags) {
    return mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | flags, NULL);
}
