#define _GNU_SOURCE
#include "clinux.h"

#include <fcntl.h>
#include <unistd.h>

int gw_fallocate(int descriptor, int mode, int64_t offset, int64_t byte_count) {
    return fallocate(descriptor, mode, offset, byte_count);
}

int gw_syncfs(int descriptor) { return syncfs(descriptor); }

int gw_sync_file_range(int descriptor, int64_t offset, int64_t byte_count, unsigned int flags) {
    return sync_file_range(descriptor, offset, byte_count, flags);
}
