// A clock of its own for one process: preloaded, it moves what the wall clock says by an offset that a test may change at any
// moment. The monotonic clocks stay as they are. GODWIT_TEST_CLOCK names a file of two numbers of eight bytes: nanoseconds
// that are added, and how many nanoseconds the clock gains in a second; it is mapped, so that a change is seen at once.
//
// A wait until a moment of the wall clock is moved as well: the kernel knows only its own clock.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct setting {
    volatile int64_t offset;
    volatile int64_t gained;
};

static struct setting *setting;
static struct timespec beginning;

// The kernel's own, past the C library: what is interposed here must not be called from here.
static int real_clock(clockid_t clock, struct timespec *time) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return next(clock, time);
}

__attribute__((constructor)) static void open_setting(void) {
    real_clock(CLOCK_MONOTONIC, &beginning);
    const char *path = getenv("GODWIT_TEST_CLOCK");
    if (!path) return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(struct setting), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) setting = mapped;
}

// By how much the wall clock is wrong now.
static int64_t error_now(void) {
    if (!setting) return 0;
    struct timespec now;
    real_clock(CLOCK_MONOTONIC, &now);
    int64_t seconds = now.tv_sec - beginning.tv_sec;
    return setting->offset + seconds * setting->gained;
}

static struct timespec moved(struct timespec time, int64_t by) {
    __int128 all = (__int128)time.tv_sec * 1000000000 + time.tv_nsec + by;
    if (all < 0) all = 0;
    return (struct timespec){(time_t)(all / 1000000000), (long)(all % 1000000000)};
}

// A moment of the wall clock is half a century after its beginning; one of a monotonic clock is not.
static int is_wall(const struct timespec *time) { return time && time->tv_sec > 1000000000; }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = real_clock(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        *time = moved(*time, error_now());
    }
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *time = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

#define MOVE(moment)                                      \
    struct timespec kernels;                              \
    if (is_wall(moment)) {                                \
        kernels = moved(*(moment), -error_now());         \
        moment = &kernels;                                \
    }

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    MOVE(until)
    return next(condition, mutex, until);
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *until) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    MOVE(until)
    return next(condition, mutex, clock, until);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*next)(sem_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "sem_timedwait");
    MOVE(until)
    return next(semaphore, until);
}

int timerfd_settime(int timer, int flags, const struct itimerspec *value, struct itimerspec *old) {
    static int (*next)(int, int, const struct itimerspec *, struct itimerspec *);
    if (!next) next = dlsym(RTLD_NEXT, "timerfd_settime");
    struct itimerspec kernels = *value;
    if ((flags & TFD_TIMER_ABSTIME) && is_wall(&kernels.it_value)) {
        kernels.it_value = moved(kernels.it_value, -error_now());
    }
    return next(timer, flags, &kernels, old);
}

long syscall(long number, ...) {
    static long (*next)(long, ...);
    if (!next) next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list arguments;
    va_start(arguments, number);
    long a = va_arg(arguments, long), b = va_arg(arguments, long), c = va_arg(arguments, long);
    long d = va_arg(arguments, long), e = va_arg(arguments, long), f = va_arg(arguments, long);
    va_end(arguments);
    struct timespec kernels;
    if (number == SYS_futex && (b & FUTEX_CLOCK_REALTIME) && is_wall((const struct timespec *)d)) {
        kernels = moved(*(const struct timespec *)d, -error_now());
        d = (long)&kernels;
    }
    return next(number, a, b, c, d, e, f);
}
