// A wall clock that steps and drifts, for daemons that are started with this library preloaded.
//
// It stands before clock_gettime(2) for CLOCK_REALTIME and what is made of it. Beside the file that `--config` names it keeps
//   clock    mapped and shared: nanoseconds to add; parts in a million by which it is fast; since when, by CLOCK_MONOTONIC
// All other clocks are the kernel's. Nobody can set those, and leases are timed by one of them.
//
// A process without `--config`, and one whose file cannot be had, is left alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "folder.h"

struct control {
    _Atomic int64_t offset;
    _Atomic int64_t fast_ppm;
    _Atomic int64_t since;
};

static const int64_t SECOND = 1000000000;
static struct control *control;
static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

__attribute__((constructor)) static void prepare(void) {
    char at[4096];
    // Asked first: to look it up may take memory, and an allocator may want to know the time.
    *(void **)&real_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    *(void **)&real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (folder(at, sizeof at) == 0)
        control = shared(at, "clock", sizeof *control);
}

static int kernels(clockid_t clock, struct timespec *time) {
    return real_gettime ? real_gettime(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
}

static int64_t ahead(void) {
    if (!control)
        return 0;
    int64_t by = atomic_load(&control->offset), ppm = atomic_load(&control->fast_ppm);
    if (ppm) {
        struct timespec now;
        kernels(CLOCK_MONOTONIC, &now);
        by += (now.tv_sec * SECOND + now.tv_nsec - atomic_load(&control->since)) / 1000000 * ppm;
    }
    return by;
}

static void add(struct timespec *time, int64_t by) {
    int64_t sum = time->tv_nsec + by % SECOND;
    time->tv_sec += by / SECOND + (sum >= SECOND) - (sum < 0);
    time->tv_nsec = sum + (sum < 0 ? SECOND : sum >= SECOND ? -SECOND : 0);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = kernels(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        add(time, ahead());
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME_COARSE, &now))
        return -1;
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}

// Waits until an instant of the wall clock, which the kernel reads by its own. The second bit of `__wrefs` says which clock
// a condition counts by; a set one is the monotonic.
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec kernels_until = *until;
    if (!(condition->__data.__wrefs & 2))
        add(&kernels_until, -ahead());
    return real_timedwait(condition, mutex, &kernels_until);
}
