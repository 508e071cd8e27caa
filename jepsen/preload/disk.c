// A disk that can be slow, full, fail, or lose power, for daemons that are started with this library preloaded.
//
// It stands before fsync(2), fdatasync(2), write(2) and its kin. Beside the file that `--config` names it keeps
//   synced   for each sync that succeeded: device, inode, birth and size of the file, four numbers of eight bytes
//   disk     what it is to do, mapped and shared: a word (0 work, 1 syncs are late, 2 syncs fail with EIO, 3 no space is
//            left), milliseconds
// From `synced` a nemesis knows what a loss of power may take: everything behind the last synced size of each file. An inode comes
// back with another file, which was born later.
//
// A process without `--config`, and one whose files cannot be had, is left alone.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "folder.h"

enum { WORK = 0, LATE = 1, FAIL = 2, FULL = 3 };

struct control {
    _Atomic uint32_t mode;
    _Atomic uint32_t millis;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int record = -1;
static struct control *control;

static void prepare(void) {
    char at[4096], file[4200];
    if (folder(at, sizeof at))
        return;
    snprintf(file, sizeof file, "%s/synced", at);
    record = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    control = shared(at, "disk", sizeof *control);
}

// Nanoseconds since 1970; 0 where the file system does not say.
static uint64_t birth(int fd) {
    struct statx about;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &about) || !(about.stx_mask & STATX_BTIME))
        return 0;
    return (uint64_t)about.stx_btime.tv_sec * 1000000000 + about.stx_btime.tv_nsec;
}

static int sync_by(long call, int fd) {
    pthread_once(&once, prepare);
    uint32_t mode = control ? atomic_load(&control->mode) : WORK;
    if (mode == FAIL) {
        errno = EIO;
        return -1;
    }
    if (mode == LATE) {
        uint32_t millis = atomic_load(&control->millis);
        struct timespec pause = {millis / 1000, (long)(millis % 1000) * 1000000};
        nanosleep(&pause, NULL);
    }
    // What is written while the sync runs may not be covered by it, so the size is read before.
    struct stat about;
    int known = fstat(fd, &about) == 0 && S_ISREG(about.st_mode);
    int result = (int)syscall(call, fd);
    int saved = errno;
    if (result == 0 && known && record >= 0) {
        uint64_t line[4] = {about.st_dev, about.st_ino, birth(fd), (uint64_t)about.st_size};
        ssize_t written = syscall(SYS_write, record, line, sizeof line);
        (void)written;
    }
    errno = saved;
    return result;
}

int fsync(int fd) { return sync_by(SYS_fsync, fd); }

int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }

// Whether a file would have to grow on a disk that is full. Pipes and sockets do not.
static int no_space(int fd) {
    pthread_once(&once, prepare);
    if (!control || atomic_load(&control->mode) != FULL)
        return 0;
    struct stat about;
    if (fstat(fd, &about) || !S_ISREG(about.st_mode))
        return 0;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t count) { return no_space(fd) ? -1 : syscall(SYS_write, fd, bytes, count); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return no_space(fd) ? -1 : syscall(SYS_writev, fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return no_space(fd) ? -1 : syscall(SYS_pwrite64, fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

int fallocate64(int fd, int mode, off64_t at, off64_t length) {
    return no_space(fd) ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, length);
}

int fallocate(int fd, int mode, off_t at, off_t length) { return fallocate64(fd, mode, at, length); }
