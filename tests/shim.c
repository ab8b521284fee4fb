/* Fails or kills at the n-th call that changes a file beneath a folder, and refuses to read or lock files: preloaded into a process
   by tests/faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NOTHING, EIO_, ENOSPC_, SHORT_WRITE, KILL };
static char root[4096];
static int kind = NOTHING;
static long at = -1, calls = 0;
static char text[256]; /* of the paths of files that are not to be read */
static int refused = 0, on_open = 0;
static long from = 0, reads = 0;
static char ours[65536]; /* descriptors that were opened beneath the folder */

void fault_arm(const char *folder, int what, long number) {
    strncpy(root, folder, sizeof root - 1);
    kind = what;
    at = number;
    calls = 0;
}
long fault_calls(void) { return calls; }

static int beneath(const char *path) { return root[0] && path && !strncmp(path, root, strlen(root)); }

/* 0: go on; 1: fail with errno set; 2: write half */
static int strike(void) {
    if (calls++ != at) return 0;
    if (kind == KILL) kill(getpid(), SIGKILL);
    if (kind == SHORT_WRITE) return 2;
    errno = kind == ENOSPC_ ? ENOSPC : EIO;
    return kind == NOTHING ? 0 : 1;
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opened(const char *path, int flags, int descriptor) {
    if (descriptor >= 0 && descriptor < (int)sizeof ours) ours[descriptor] = beneath(path) && (flags & (O_WRONLY | O_RDWR | O_DIRECTORY));
    return descriptor;
}
#define OPENER(name, declared, passed)                                         \
    int name declared {                                                        \
        va_list more;                                                          \
        va_start(more, flags);                                                 \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                          \
        if (beneath(path) && (flags & O_CREAT) && strike() == 1) return -1;    \
        if (on_open && refused && beneath(path) && strstr(path, text)) {       \
            errno = refused;                                                   \
            return -1;                                                         \
        }                                                                      \
        return opened(path, flags, REAL(name) passed);                         \
    }
OPENER(open, (const char *path, int flags, ...), (path, flags, mode))
OPENER(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENER(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENER(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

ssize_t write(int descriptor, const void *data, size_t n) {
    if (descriptor >= 0 && descriptor < (int)sizeof ours && ours[descriptor]) {
        int result = strike();
        if (result == 1) return -1;
        if (result == 2) n = n > 1 ? n / 2 : n;
    }
    return REAL(write)(descriptor, data, n);
}
#define ON_DESCRIPTOR(name)                                                                                                \
    int name(int descriptor) {                                                                                             \
        if (descriptor >= 0 && descriptor < (int)sizeof ours && ours[descriptor] && strike() == 1) return -1;              \
        return REAL(name)(descriptor);                                                                                     \
    }
ON_DESCRIPTOR(fsync)
ON_DESCRIPTOR(fdatasync)
int close(int descriptor) {
    int mine = descriptor >= 0 && descriptor < (int)sizeof ours && ours[descriptor];
    if (mine) ours[descriptor] = 0;
    int result = REAL(close)(descriptor);
    if (mine && strike() == 1) return -1;
    return result;
}
/* From the n-th call on, reading (or locking) a file beneath the folder, whose path has a text, fails with an error. */

void fault_refuse(const char *folder, const char *part, int error, int opening, long number) {
    strncpy(root, folder, sizeof root - 1);
    strncpy(text, part, sizeof text - 1);
    refused = error;
    on_open = opening;
    from = number;
    reads = 0;
}
long fault_reads(void) { return reads; }

static int refuse(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t n = text[0] ? readlink(link, path, sizeof path - 1) : -1;
    if (n < 0) return 0;
    path[n] = 0;
    if (!beneath(path) || !strstr(path, text) || reads++ < from || !refused || on_open) return 0;
    errno = refused;
    return 1;
}
ssize_t read(int descriptor, void *data, size_t n) {
    return refuse(descriptor) ? -1 : REAL(read)(descriptor, data, n);
}
ssize_t pread(int descriptor, void *data, size_t n, off_t offset) {
    return refuse(descriptor) ? -1 : REAL(pread)(descriptor, data, n, offset);
}
ssize_t pread64(int descriptor, void *data, size_t n, off64_t offset) {
    return refuse(descriptor) ? -1 : REAL(pread64)(descriptor, data, n, offset);
}
/* NFS without a lock daemon and Lustre without flock: no lock of either kind. */
int flock(int descriptor, int operation) {
    if (refused == ENOLCK) {
        errno = ENOLCK;
        return -1;
    }
    return REAL(flock)(descriptor, operation);
}
#define LOCKER(name)                                                                                                 \
    int name(int descriptor, int command, ...) {                                                                     \
        va_list more;                                                                                                \
        va_start(more, command);                                                                                     \
        void *argument = va_arg(more, void *);                                                                       \
        va_end(more);                                                                                                \
        if (refused == ENOLCK && (command == F_SETLK || command == F_SETLKW || command == F_GETLK)) {                \
            errno = ENOLCK;                                                                                          \
            return -1;                                                                                               \
        }                                                                                                            \
        return REAL(name)(descriptor, command, argument);                                                            \
    }
LOCKER(fcntl)
LOCKER(fcntl64)

int rename(const char *from, const char *to) {
    if (beneath(to) && strike() == 1) return -1;
    return REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    if (beneath(to) && strike() == 1) return -1;
    return REAL(renameat)(a, from, b, to);
}
int link(const char *from, const char *to) {
    if (beneath(to) && strike() == 1) return -1;
    return REAL(link)(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    if (beneath(to) && strike() == 1) return -1;
    return REAL(linkat)(a, from, b, to, flags);
}
int unlink(const char *path) {
    if (beneath(path) && strike() == 1) return -1;
    return REAL(unlink)(path);
}
int mkdir(const char *path, mode_t mode) {
    if (beneath(path) && strike() == 1) return -1;
    return REAL(mkdir)(path, mode);
}
