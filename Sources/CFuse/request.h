// What is a request of the kernel's. libfuse believes every number in one: how long the bytes of a write are, where a
// name ends. None gets there that would make it read beyond what has come: neither from a kernel that is not as we know
// it, nor from an earlier server, whose unanswered requests come through other hands.
#ifndef GODWIT_CFUSE_REQUEST_H
#define GODWIT_CFUSE_REQUEST_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum {
    // fuse_in_header: length, opcode, unique (8 bytes), node id (8), user, group, process, padding.
    GW_FUSE_HEADER_SIZE = 40,
    // The longest request: a write of 1 MiB with its headers, as libfuse reserves it.
    GW_FUSE_BUFFER_SIZE = (1 << 20) + 4096,
};

enum gw_fuse_opcode {
    GW_FUSE_FORGET = 2,
    GW_FUSE_WRITE = 16,
    GW_FUSE_INIT = 26,
    GW_FUSE_READDIR = 28,
    GW_FUSE_CREATE = 35,
    GW_FUSE_INTERRUPT = 36,
    GW_FUSE_NOTIFY_REPLY = 41,
    GW_FUSE_BATCH_FORGET = 42,
    GW_FUSE_READDIRPLUS = 44,
    GW_FUSE_TMPFILE = 51,
};

// What a request has behind its header.
struct gw_fuse_form {
    // Bytes of a fixed form, and then strings, each with its NUL.
    uint8_t fixed, names;
    // Behind them so many items of `item` bytes as the number at `count_at` of the fixed part says; 0: none.
    uint8_t item, count_at;
};

// By opcode, as in the kernel's fuse.h since 7.12 (Linux 2.6.31). What is not named has nothing that libfuse reads.
static const struct gw_fuse_form gw_fuse_forms[] = {
    [1] = {0, 1},                       // LOOKUP
    [GW_FUSE_FORGET] = {8},
    [3] = {16},                         // GETATTR
    [4] = {88},                         // SETATTR
    [6] = {0, 2},                       // SYMLINK
    [8] = {16, 1},                      // MKNOD
    [9] = {8, 1},                       // MKDIR
    [10] = {0, 1},                      // UNLINK
    [11] = {0, 1},                      // RMDIR
    [12] = {8, 2},                      // RENAME
    [13] = {8, 1},                      // LINK
    [14] = {8},                         // OPEN
    [15] = {40},                        // READ
    [GW_FUSE_WRITE] = {40, 0, 1, 16},
    [18] = {24},                        // RELEASE
    [20] = {16},                        // FSYNC
    [21] = {8, 1, 1, 0},                // SETXATTR
    [22] = {8, 1},                      // GETXATTR
    [23] = {8},                         // LISTXATTR
    [24] = {0, 1},                      // REMOVEXATTR
    [25] = {24},                        // FLUSH
    [GW_FUSE_INIT] = {16},
    [27] = {8},                         // OPENDIR
    [GW_FUSE_READDIR] = {40},
    [29] = {24},                        // RELEASEDIR
    [30] = {16},                        // FSYNCDIR
    [31] = {48},                        // GETLK
    [32] = {48},                        // SETLK
    [33] = {48},                        // SETLKW
    [34] = {8},                         // ACCESS
    [GW_FUSE_CREATE] = {16, 1},
    [GW_FUSE_INTERRUPT] = {8},
    [37] = {16},                        // BMAP
    [39] = {32, 0, 1, 24},              // IOCTL
    [40] = {24},                        // POLL
    [GW_FUSE_BATCH_FORGET] = {8, 0, 16},
    [43] = {32},                        // FALLOCATE
    [GW_FUSE_READDIRPLUS] = {40},
    [45] = {16, 2},                     // RENAME2
    [46] = {24},                        // LSEEK
    [47] = {56},                        // COPY_FILE_RANGE
    [GW_FUSE_TMPFILE] = {16, 1},
};

static inline uint32_t gw_fuse_number(const char *bytes) {
    uint32_t number;
    memcpy(&number, bytes, sizeof number);
    return number;
}

// The first request. Of an older kernel the others have other forms; a newer one would ask again, for version 7.
static inline int gw_fuse_is_sound_init(const char *body, size_t size) {
    enum { EXTENDED = 1 << 30 };
    return gw_fuse_number(body) == 7 && gw_fuse_number(body + 4) >= 12
        && (!(gw_fuse_number(body + 12) & EXTENDED) || size >= 64);
}

// Whether `size` bytes are one request, all of which is there. What its numbers mean is for whom they are handed to.
static inline int gw_fuse_is_sound(const char *request, size_t size) {
    struct gw_fuse_form form = {0};
    uint32_t opcode;
    if (size < GW_FUSE_HEADER_SIZE || gw_fuse_number(request) != size) return 0;
    opcode = gw_fuse_number(request + 4);
    // Answers a question that we never ask.
    if (opcode == GW_FUSE_NOTIFY_REPLY) return 0;
    if (opcode < sizeof gw_fuse_forms / sizeof *gw_fuse_forms) form = gw_fuse_forms[opcode];
    const char *body = request + GW_FUSE_HEADER_SIZE, *position = body + form.fixed;
    if (size - GW_FUSE_HEADER_SIZE < form.fixed) return 0;
    if (opcode == GW_FUSE_INIT && !gw_fuse_is_sound_init(body, size - GW_FUSE_HEADER_SIZE)) return 0;
    for (int name = 0; name < form.names; name++) {
        const char *end = (const char *)memchr(position, 0, (size_t)(request + size - position));
        if (!end) return 0;
        position = end + 1;
    }
    return !form.item
        || gw_fuse_number(body + form.count_at) <= (size_t)(request + size - position) / form.item;
}

// Answers, with EIO, what is no request; unless it is of a kind that nobody waits for.
static inline void gw_fuse_refuse(int descriptor, const char *request) {
    struct { uint32_t size; int32_t error; uint64_t unique; } answer = {sizeof answer, -EIO, 0};
    ssize_t written;
    switch (gw_fuse_number(request + 4)) {
    case GW_FUSE_FORGET: case GW_FUSE_INTERRUPT: case GW_FUSE_NOTIFY_REPLY: case GW_FUSE_BATCH_FORGET: return;
    default:
        memcpy(&answer.unique, request + 8, sizeof answer.unique);
        written = write(descriptor, &answer, sizeof answer);
        (void)written;
    }
}

#endif
