// A disk that can be slow, fail, or lose power, for daemons that are started with this library preloaded.
//
// It stands before fsync(2) and fdatasync(2). Beside the file that `--config` names it keeps
//   synced   for each sync that succeeded: device, inode and size of the file, three numbers of eight bytes
//   disk     what syncs are to do, mapped and shared: a word (0 work, 1 be late, 2 fail with EIO), milliseconds
// From `synced` a nemesis knows what a loss of power may take: everything behind the last synced size of each file.
//
// A process without `--config`, and one whose files cannot be had, is left alone.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WORK = 0, LATE = 1, FAIL = 2 };

struct control {
    _Atomic uint32_t mode;
    _Atomic uint32_t millis;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int record = -1;
static struct control *control;

// The path behind `--config` in this process's command line, without its last part.
static int folder(char *path, size_t size) {
    static char line[8192];
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t length = read(fd, line, sizeof line - 1);
    close(fd);
    for (char *word = line, *end = line + (length > 0 ? length : 0); word < end; word += strlen(word) + 1) {
        char *next = word + strlen(word) + 1;
        char *slash;
        if (strcmp(word, "--config") != 0 || next >= end || !(slash = strrchr(next, '/')))
            continue;
        return (size_t)snprintf(path, size, "%.*s", (int)(slash - next), next) < size ? 0 : -1;
    }
    return -1;
}

static void prepare(void) {
    char at[4096], file[4200];
    if (folder(at, sizeof at))
        return;
    snprintf(file, sizeof file, "%s/synced", at);
    record = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    snprintf(file, sizeof file, "%s/disk", at);
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (ftruncate(fd, sizeof *control) == 0) {
        void *place = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        control = place == MAP_FAILED ? NULL : place;
    }
    close(fd);
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
        uint64_t line[3] = {about.st_dev, about.st_ino, (uint64_t)about.st_size};
        ssize_t written = write(record, line, sizeof line);
        (void)written;
    }
    errno = saved;
    return result;
}

int fsync(int fd) { return sync_by(SYS_fsync, fd); }

int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }
