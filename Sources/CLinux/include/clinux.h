// System calls of Linux that Swift's Glibc module lacks. Wrappers only: each has its man page's name,
// arguments and result (-1 and errno on failure).
#ifndef GODWIT_CLINUX_H
#define GODWIT_CLINUX_H

#include <stdint.h>

int gw_fallocate(int descriptor, int mode, int64_t offset, int64_t byte_count);
int gw_syncfs(int descriptor);
int gw_sync_file_range(int descriptor, int64_t offset, int64_t byte_count, unsigned int flags);

enum {
    GW_FALLOC_FL_KEEP_SIZE = 0x01,
    GW_FALLOC_FL_PUNCH_HOLE = 0x02,
    GW_FALLOC_FL_ZERO_RANGE = 0x10,
    GW_SEEK_DATA = 3,
    GW_SEEK_HOLE = 4,
};

#endif
