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
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "request.h"

_Static_assert(sizeof(off_t) == 8, "files are larger than 32 bits can tell");

// What this libfuse does not know of the kernel's protocol is handed on in a form that it knows.
enum {
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
// which libfuse keeps to itself, what we look for in the file's flags (at 32), which it hands on. Of a listing (28, 44) it
// keeps these to itself (at 32 of fuse_read_in), and hands on the handle (at 0), which we give none: so they come as that.
static inline void gw_fuse_translate(char *request) {
    char *body = request + GW_FUSE_HEADER_SIZE;
    uint32_t opcode = gw_fuse_number(request + 4);
    if (opcode == GW_FUSE_TMPFILE) {
        opcode = GW_FUSE_CREATE;
        memcpy(request + 4, &opcode, sizeof opcode);
    } else if (opcode == GW_FUSE_WRITE) {
        uint32_t flags = gw_fuse_number(body + 32) & ~(uint32_t)GW_FUSE_WRITE_KILLS_SET_IDS;
        if (gw_fuse_number(body + 20) & 4) flags |= GW_FUSE_WRITE_KILLS_SET_IDS;
        memcpy(body + 32, &flags, sizeof flags);
    } else if (opcode == GW_FUSE_READDIR || opcode == GW_FUSE_READDIRPLUS) {
        uint64_t flags = gw_fuse_number(body + 32);
        memcpy(body, &flags, sizeof flags);
    }
}

// Hands a request to libfuse, changed where it stands; or answers it, if it is none.
static inline void gw_fuse_process(struct fuse_session *session, int descriptor, char *request, size_t size) {
    struct fuse_buf buffer;
    if (!gw_fuse_is_sound(request, size)) return gw_fuse_refuse(descriptor, request);
    gw_fuse_translate(request);
    memset(&buffer, 0, sizeof buffer);
    buffer.mem = request;
    buffer.size = size;
    fuse_session_process_buf(session, &buffer);
}

// How many requests of a kind were answered, and how long they were in our hands: from read(2) until the answer's write, or
// until another thread took them over (bytes that are elsewhere, a sync while others wait for the disk). By __atomic.
struct gw_fuse_tally {
    uint64_t count, nanoseconds;
};

// By opcode; greater ones are counted as 0, which is none.
enum { GW_FUSE_TALLIES = 64 };

static inline uint64_t gw_fuse_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline struct gw_fuse_tally gw_fuse_tally_at(const struct gw_fuse_tally *tallies, int opcode) {
    struct gw_fuse_tally tally = {
        __atomic_load_n(&tallies[opcode].count, __ATOMIC_RELAXED),
        __atomic_load_n(&tallies[opcode].nanoseconds, __ATOMIC_RELAXED)};
    return tally;
}

// Threads that take requests of a session. Made and freed by the caller, and not moved while it runs.
//
// libfuse's own way to read is not used: it lets go of a request that it has read when the session is being ended just
// then, and pthread_cancel may end a thread that has one in its hands. A session that goes on under another server may
// lose none.
struct gw_fuse_loop {
    struct fuse_session *session;
    int descriptor;
    // Whole requests, one after the other, which an earlier server had read and not answered. Done first.
    const char *replay;
    size_t replay_size;
    // How far that has come. For others only when the loop has ended.
    size_t replayed;
    // GW_FUSE_TALLIES of them, which outlive the loop.
    struct gw_fuse_tally *tallies;
    // By __atomic: the threads are to end; the kernel has ended the session; threads that have not ended yet.
    int stops, is_over, live;
    sem_t wake;
    // Each thread's own gw_fuse_worker.
    pthread_key_t current;
};

struct gw_fuse_worker {
    struct gw_fuse_loop *loop;
    pthread_t thread;
    char *buffer;
    size_t size;
    int replays;
    // By __atomic: it is in read(2), or just before or after.
    int waits;
    // The request that it is at, until that is answered or put off; began: when it was read, 0 afterwards.
    uint32_t opcode;
    uint64_t unique, began;
};

static inline void gw_fuse_begin_count(struct gw_fuse_worker *worker) {
    worker->opcode = gw_fuse_number(worker->buffer + 4);
    memcpy(&worker->unique, worker->buffer + 8, sizeof worker->unique);
    worker->began = gw_fuse_now();
}

static inline void gw_fuse_end_count(struct gw_fuse_worker *worker) {
    struct gw_fuse_tally *tally = worker->loop->tallies;
    if (worker->began == 0) return;
    if (worker->opcode < GW_FUSE_TALLIES) tally += worker->opcode;
    __atomic_fetch_add(&tally->nanoseconds, gw_fuse_now() - worker->began, __ATOMIC_RELAXED);
    __atomic_fetch_add(&tally->count, 1, __ATOMIC_RELAXED);
    worker->began = 0;
}

// To be called before an answer is written: that wakes who asked, perhaps in this thread's place. What is written may also
// be something else than the answer to this thread's request.
static inline void gw_fuse_count_answer(pthread_key_t current, const struct iovec *answer) {
    struct gw_fuse_worker *worker = (struct gw_fuse_worker *)pthread_getspecific(current);
    struct fuse_answer_header { uint32_t size; int32_t error; uint64_t unique; } header;
    if (!worker || answer->iov_len < sizeof header) return;
    memcpy(&header, answer->iov_base, sizeof header);
    if (header.unique == worker->unique) gw_fuse_end_count(worker);
}

// `current`: one for all loops of the process, for there are few keys.
static inline int gw_fuse_loop_prepare(struct gw_fuse_loop *loop, pthread_key_t current) {
    loop->current = current;
    return sem_init(&loop->wake, 0, 0);
}

static inline void gw_fuse_loop_destroy(struct gw_fuse_loop *loop) {
    sem_destroy(&loop->wake);
}

// Ends a loop: each request that was read is handed to libfuse, and none is read any more. Returns at once.
static inline void gw_fuse_loop_stop(struct gw_fuse_loop *loop) {
    __atomic_store_n(&loop->stops, 1, __ATOMIC_SEQ_CST);
    sem_post(&loop->wake);
}

// The request that the calling thread is at; NULL on a thread that is none of the loop's.
static inline const void *gw_fuse_current_request(const struct gw_fuse_loop *loop, size_t *size) {
    struct gw_fuse_worker *worker = (struct gw_fuse_worker *)pthread_getspecific(loop->current);
    if (!worker) return NULL;
    *size = worker->size;
    return worker->buffer;
}

// One request into `buffer`. Returns its size, 0 to try again, or -1 when the session is over.
static inline ssize_t gw_fuse_read(int descriptor, char *buffer) {
    ssize_t count = read(descriptor, buffer, GW_FUSE_BUFFER_SIZE);
    if (count >= GW_FUSE_HEADER_SIZE) return count;
    // ENOENT: whoever waited for it has gone.
    return count < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT) ? 0 : -1;
}

static inline ssize_t gw_fuse_next(struct gw_fuse_worker *worker) {
    struct gw_fuse_loop *loop = worker->loop;
    ssize_t count;
    if (worker->replays && loop->replayed < loop->replay_size) {
        uint32_t size;
        memcpy(&size, loop->replay + loop->replayed, sizeof size);
        memcpy(worker->buffer, loop->replay + loop->replayed, size);
        loop->replayed += size;
        return size;
    }
    __atomic_store_n(&worker->waits, 1, __ATOMIC_SEQ_CST);
    // The order matters: who stops the loop looks at `waits` after that was set.
    count = __atomic_load_n(&loop->stops, __ATOMIC_SEQ_CST) ? 0 : gw_fuse_read(loop->descriptor, worker->buffer);
    __atomic_store_n(&worker->waits, 0, __ATOMIC_SEQ_CST);
    return count;
}

static inline void *gw_fuse_work(void *data) {
    struct gw_fuse_worker *worker = (struct gw_fuse_worker *)data;
    struct gw_fuse_loop *loop = worker->loop;
    sigset_t waking;
    sigemptyset(&waking);
    sigaddset(&waking, SIGURG);
    pthread_sigmask(SIG_UNBLOCK, &waking, NULL);
    pthread_setspecific(loop->current, worker);
    while (!__atomic_load_n(&loop->stops, __ATOMIC_SEQ_CST)) {
        ssize_t count = gw_fuse_next(worker);
        if (count == 0) continue;
        if (count > 0) {
            worker->size = (size_t)count;
            gw_fuse_begin_count(worker);
            gw_fuse_process(loop->session, loop->descriptor, worker->buffer, worker->size);
            gw_fuse_end_count(worker);
        }
        if (count < 0 || fuse_session_exited(loop->session)) {
            __atomic_store_n(&loop->is_over, 1, __ATOMIC_SEQ_CST);
            gw_fuse_loop_stop(loop);
        }
    }
    __atomic_sub_fetch(&loop->live, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static inline void gw_fuse_wake(int signal) { (void)signal; }

// Wakes threads that wait in read(2), until all have ended. A reader that was woken reads again (SA_RESTART), and gets
// EAGAIN or one more request; any other call that the signal meets goes on as well.
static inline void gw_fuse_loop_finish(
    struct gw_fuse_loop *loop, struct gw_fuse_worker *workers, unsigned int count) {
    struct sigaction action;
    int flags = fcntl(loop->descriptor, F_GETFL);
    memset(&action, 0, sizeof action);
    action.sa_handler = gw_fuse_wake;
    action.sa_flags = SA_RESTART;
    sigaction(SIGURG, &action, NULL);
    if (flags >= 0) fcntl(loop->descriptor, F_SETFL, flags | O_NONBLOCK);
    while (__atomic_load_n(&loop->live, __ATOMIC_SEQ_CST) > 0) {
        for (unsigned int index = 0; index < count; index++) {
            if (__atomic_load_n(&workers[index].waits, __ATOMIC_SEQ_CST)) {
                pthread_kill(workers[index].thread, SIGURG);
            }
        }
        usleep(500);
    }
    for (unsigned int index = 0; index < count; index++) pthread_join(workers[index].thread, NULL);
    if (flags >= 0) fcntl(loop->descriptor, F_SETFL, flags & ~O_NONBLOCK);
}

// Serves a session with `thread_count` threads until it is over or stopped; then none of them is left.
// clone_fd gains nothing on two cores, and would prevent handing the session to another process.
// Returns -1 when no thread could be started.
static inline int gw_fuse_loop_run(struct gw_fuse_loop *loop, unsigned int thread_count) {
    unsigned int started = 0;
    struct gw_fuse_worker *workers =
        (struct gw_fuse_worker *)calloc(thread_count, sizeof(struct gw_fuse_worker));
    if (!workers) return -1;
    for (; started < thread_count; started++) {
        struct gw_fuse_worker *worker = &workers[started];
        worker->loop = loop;
        worker->replays = started == 0;
        worker->buffer = (char *)malloc(GW_FUSE_BUFFER_SIZE);
        if (!worker->buffer) break;
        __atomic_add_fetch(&loop->live, 1, __ATOMIC_SEQ_CST);
        if (pthread_create(&worker->thread, NULL, gw_fuse_work, worker) != 0) {
            __atomic_sub_fetch(&loop->live, 1, __ATOMIC_SEQ_CST);
            free(worker->buffer);
            break;
        }
    }
    if (started > 0) {
        while (!__atomic_load_n(&loop->stops, __ATOMIC_SEQ_CST)) sem_wait(&loop->wake);
        gw_fuse_loop_finish(loop, workers, started);
    }
    for (unsigned int index = 0; index < started; index++) free(workers[index].buffer);
    free(workers);
    return started > 0 ? 0 : -1;
}

// Whether the kernel still serves the mount that a descriptor belongs to.
static inline int gw_fuse_is_connected(int descriptor) {
    struct pollfd item = {.fd = descriptor, .events = POLLIN};
    return poll(&item, 1, 0) >= 0 && !(item.revents & (POLLERR | POLLNVAL | POLLHUP));
}

#endif
