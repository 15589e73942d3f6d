// Debian's libfuse3 for Swift. Imported by the Swift target FuseMount and by nothing else.
//
// _FILE_OFFSET_BITS is not defined here on purpose: Glibc's own module is built without it, and two
// definitions of one struct cannot be imported together. On the 64-bit targets that we support off_t has
// 64 bits anyway.
#ifndef GODWIT_CFUSE_SHIM_H
#define GODWIT_CFUSE_SHIM_H

#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(off_t) == 8, "files are larger than 32 bits can tell");

// What this libfuse does not know of the kernel's protocol is handed on in a form that it knows.
enum {
    GW_FUSE_HEADER_SIZE = 40,
    // Of INIT's flags: set-ID bits are cleared by us, where a write says so. See gw_fuse_translate.
    GW_FUSE_HANDLE_KILLPRIV_V2 = 1 << 28,
    // Of a write's open flags, where no flag of open(2) is: the writer has no privilege to keep set-ID bits.
    GW_FUSE_WRITE_KILLS_SET_IDS = 1 << 30,
    // open(2); hidden where _GNU_SOURCE is not defined.
    GW_O_DIRECT = __O_DIRECT,
    GW_O_NOATIME = __O_NOATIME,
};

// fuse_init_out, as far as we change it.
struct gw_fuse_init_out {
    uint32_t major, minor, max_readahead, flags;
};

// O_TMPFILE has an opcode of its own (51). Request and answer are those of FUSE_CREATE (35), and the name is "/",
// which no file has: so it is handed on as that. A write (16) tells in write_flags (at 20 of fuse_write_in, bit 2),
// which libfuse keeps to itself, what we look for in the file's flags (at 32), which it hands on.
static inline void gw_fuse_translate(struct fuse_buf *buffer) {
    uint32_t opcode, write_flags, flags;
    char *request = (char *)buffer->mem, *body = request + GW_FUSE_HEADER_SIZE;
    if (buffer->flags & FUSE_BUF_IS_FD || buffer->size < GW_FUSE_HEADER_SIZE) return;
    memcpy(&opcode, request + 4, sizeof opcode);
    if (opcode == 51) {
        opcode = 35;
        memcpy(request + 4, &opcode, sizeof opcode);
    } else if (opcode == 16 && buffer->size >= GW_FUSE_HEADER_SIZE + 36) {
        memcpy(&write_flags, body + 20, sizeof write_flags);
        memcpy(&flags, body + 32, sizeof flags);
        flags &= ~(uint32_t)GW_FUSE_WRITE_KILLS_SET_IDS;
        if (write_flags & 4) flags |= GW_FUSE_WRITE_KILLS_SET_IDS;
        memcpy(body + 32, &flags, sizeof flags);
    }
}

// One thread that takes requests. `buffer` is the caller's, and outlives the thread.
struct gw_fuse_worker {
    struct fuse_session *session;
    struct fuse_buf buffer;
    sem_t *ended;
    pthread_t thread;
};

static inline void *gw_fuse_work(void *data) {
    struct gw_fuse_worker *worker = (struct gw_fuse_worker *)data;
    int ignored;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &ignored);
    while (!fuse_session_exited(worker->session)) {
        // Only while it waits may it be ended from outside: never with a request in its hands.
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &ignored);
        int count = fuse_session_receive_buf(worker->session, &worker->buffer);
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &ignored);
        if (count == -EINTR || count == -EAGAIN) continue;
        if (count <= 0) break;
        gw_fuse_translate(&worker->buffer);
        fuse_session_process_buf(worker->session, &worker->buffer);
    }
    fuse_session_exit(worker->session);
    sem_post(worker->ended);
    return NULL;
}

// Serves a session with `thread_count` threads until it ends; then none of them is left.
// clone_fd gains nothing on two cores, and would prevent handing the session to another process.
static inline int gw_fuse_session_loop(struct fuse_session *session, unsigned int thread_count) {
    sem_t ended;
    unsigned int started = 0;
    struct gw_fuse_worker *workers =
        (struct gw_fuse_worker *)calloc(thread_count, sizeof(struct gw_fuse_worker));
    if (!workers || sem_init(&ended, 0, 0) != 0) {
        free(workers);
        return -1;
    }
    for (; started < thread_count; started++) {
        workers[started].session = session;
        workers[started].ended = &ended;
        if (pthread_create(&workers[started].thread, NULL, gw_fuse_work, &workers[started]) != 0) break;
    }
    if (started > 0) {
        while (sem_wait(&ended) != 0) {}
    }
    for (unsigned int index = 0; index < started; index++) pthread_cancel(workers[index].thread);
    for (unsigned int index = 0; index < started; index++) pthread_join(workers[index].thread, NULL);
    for (unsigned int index = 0; index < started; index++) free(workers[index].buffer.mem);
    free(workers);
    sem_destroy(&ended);
    return started > 0 ? 0 : -1;
}

#endif
