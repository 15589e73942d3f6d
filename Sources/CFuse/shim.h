// Debian's libfuse3 for Swift. Imported by the Swift target FuseMount and by nothing else.
//
// _FILE_OFFSET_BITS is not defined here on purpose: Glibc's own module is built without it, and two
// definitions of one struct cannot be imported together. On the 64-bit targets that we support off_t has
// 64 bits anyway.
#ifndef GODWIT_CFUSE_SHIM_H
#define GODWIT_CFUSE_SHIM_H

#define FUSE_USE_VERSION 312

#include <fuse3/fuse_lowlevel.h>

_Static_assert(sizeof(off_t) == 8, "files are larger than 32 bits can tell");

// Serves a session with up to `thread_count` threads until it ends. A macro in libfuse.
static inline int gw_fuse_session_loop(struct fuse_session *session, unsigned int thread_count) {
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (!config) return -1;
    // clone_fd gains nothing on two cores, and would prevent handing the session to another process.
    fuse_loop_cfg_set_clone_fd(config, 0);
    fuse_loop_cfg_set_max_threads(config, thread_count);
    fuse_loop_cfg_set_idle_threads(config, thread_count);
    int result = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    return result;
}

#endif
