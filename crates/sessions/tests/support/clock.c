/* A wall clock that another process sets: the first eight bytes of CLOCK_FILE, in milliseconds since the epoch.
 * Preloaded into redis-server by tests/differential.rs. libfaketime does not come up beside jemalloc. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *page;

static long long now_ms(void) {
    if (!page) {
        const char *path = getenv("CLOCK_FILE");
        int file = path ? open(path, O_RDONLY) : -1;
        void *mapped = file < 0 ? MAP_FAILED : mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0)
            close(file);
        if (mapped == MAP_FAILED)
            _exit(99);
        page = mapped;
    }
    return *page;
}

int gettimeofday(struct timeval *tv, void *zone) {
    long long ms = now_ms();
    (void)zone;
    tv->tv_sec = ms / 1000;
    tv->tv_usec = ms % 1000 * 1000;
    return 0;
}

time_t time(time_t *out) {
    time_t now = now_ms() / 1000;
    if (out)
        *out = now;
    return now;
}

int clock_gettime(clockid_t clock, struct timespec *ts) {
    if (clock != CLOCK_REALTIME)
        return syscall(SYS_clock_gettime, clock, ts);
    long long ms = now_ms();
    ts->tv_sec = ms / 1000;
    ts->tv_nsec = ms % 1000 * 1000000;
    return 0;
}
