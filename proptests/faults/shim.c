/* A faulty disk under a real process: preloaded, it makes the k-th matching call of the C library fail.
 *
 * FAULT_FILE    part of the path of the files that are concerned
 * FAULT_CALLS   of: write sync open rename truncate unlink; a comma between them
 * FAULT_AT      which of the matching calls fails, from 1
 * FAULT_KIND    eio, enospc, erofs: the call fails with that error
 *               short   a write stores half and says so; the next one fails, the disk is full
 *               torn    a write stores half, and the process ends as if by a power cut
 *               crash   the process ends before the call
 *               lost    the call says that it did its work and did nothing (a write leaves zeros)
 *               flip    a write stores one bit wrong
 * FAULT_STICKY  if set, every matching call after it fails as well (not for torn, crash, lost, flip)
 * FAULT_FIRED   a file that is created when the fault happens
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PASS, FAIL, SHORT, TORN, CRASH, LOST, FLIP };

static atomic_long calls;
static atomic_int full;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int failure(void) {
    const char *kind = setting("FAULT_KIND");
    if (!strcmp(kind, "enospc") || !strcmp(kind, "short")) return ENOSPC;
    return !strcmp(kind, "erofs") ? EROFS : EIO;
}

/* What shall happen to this call. */
static int judge(const char *call, const char *path) {
    const char *file = setting("FAULT_FILE"), *kind = setting("FAULT_KIND");
    if (!*file || !path || !strstr(path, file) || !strstr(setting("FAULT_CALLS"), call)) return PASS;
    long at = atol(setting("FAULT_AT")), now = atomic_fetch_add(&calls, 1) + 1;
    if (now > at && (*setting("FAULT_STICKY") || atomic_load(&full))) {
        if (!strcmp(kind, "eio") || !strcmp(kind, "enospc") || !strcmp(kind, "erofs") || !strcmp(kind, "short")) return FAIL;
    }
    if (now != at) return PASS;
    const char *fired = setting("FAULT_FIRED");
    if (*fired) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, fired, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
        if (fd >= 0) syscall(SYS_close, fd);
    }
    int writes = !strcmp(call, "write");
    if (!strcmp(kind, "crash")) return CRASH;
    if (!strcmp(kind, "torn")) return writes ? TORN : CRASH;
    if (!strcmp(kind, "lost")) return LOST;
    if (!strcmp(kind, "flip")) return writes ? FLIP : PASS;
    if (!strcmp(kind, "short")) {
        atomic_store(&full, 1);
        return writes ? SHORT : FAIL;
    }
    return FAIL;
}

static const char *path_of(int fd, char *buffer, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, size - 1);
    if (length < 0) return NULL;
    buffer[length] = 0;
    return buffer;
}

static ssize_t put(int fd, const void *bytes, size_t size, off_t at) {
    return at < 0 ? syscall(SYS_write, fd, bytes, size) : syscall(SYS_pwrite64, fd, bytes, size, at);
}

static ssize_t do_write(int fd, const void *bytes, size_t size, off_t at) {
    char buffer[4096];
    switch (judge("write", path_of(fd, buffer, sizeof buffer))) {
    case FAIL:
        errno = failure();
        return -1;
    case SHORT:
        return put(fd, bytes, size > 1 ? size / 2 : size, at);
    case TORN:
        put(fd, bytes, size / 2, at);
        _exit(99);
    case CRASH:
        _exit(99);
    case LOST:
    case FLIP: {
        char *other = malloc(size ? size : 1);
        int lost = !strcmp(setting("FAULT_KIND"), "lost");
        memcpy(other, bytes, size);
        if (lost) memset(other, 0, size);
        else if (size) other[size / 2] ^= 0x10;
        ssize_t written = put(fd, other, size, at);
        free(other);
        return written;
    }
    default:
        return put(fd, bytes, size, at);
    }
}

ssize_t write(int fd, const void *bytes, size_t size) { return do_write(fd, bytes, size, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { return do_write(fd, bytes, size, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t at) { return do_write(fd, bytes, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t all = 0;
    for (int i = 0; i < count; i++) {
        if (!parts[i].iov_len) continue;
        ssize_t written = do_write(fd, parts[i].iov_base, parts[i].iov_len, -1);
        if (written < 0) return all ? all : -1;
        all += written;
        if ((size_t)written < parts[i].iov_len) break;
    }
    return all;
}

static int do_sync(int fd, long call) {
    char buffer[4096];
    switch (judge("sync", path_of(fd, buffer, sizeof buffer))) {
    case FAIL: errno = failure(); return -1;
    case CRASH: _exit(99);
    case LOST: return 0;
    default: return (int)syscall(call, fd);
    }
}

int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

int sync_file_range(int fd, off64_t from, off64_t size, unsigned flags) {
    return (int)syscall(SYS_sync_file_range, fd, from, size, flags);
}

/* Only calls that may write count. */
static int do_open(int dir, const char *path, int flags, mode_t mode) {
    if (flags & (O_WRONLY | O_RDWR)) {
        switch (judge("open", path)) {
        case FAIL: errno = failure(); return -1;
        case CRASH: _exit(99);
        default: break;
        }
    }
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }

int open(const char *path, int flags, ...) { MODE(flags, mode) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags, mode) return do_open(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags, mode) return do_open(dir, path, flags, mode); }

int rename(const char *from, const char *to) {
    switch (judge("rename", to)) {
    case FAIL: errno = failure(); return -1;
    case CRASH: _exit(99);
    case LOST: return 0;
    default: return (int)syscall(SYS_rename, from, to);
    }
}

static int do_truncate(int fd, off_t size) {
    char buffer[4096];
    switch (judge("truncate", path_of(fd, buffer, sizeof buffer))) {
    case FAIL: errno = failure(); return -1;
    case CRASH: _exit(99);
    case LOST: return 0;
    default: return (int)syscall(SYS_ftruncate, fd, size);
    }
}

int ftruncate(int fd, off_t size) { return do_truncate(fd, size); }
int ftruncate64(int fd, off_t size) { return do_truncate(fd, size); }

int unlink(const char *path) {
    switch (judge("unlink", path)) {
    case FAIL: errno = failure(); return -1;
    case CRASH: _exit(99);
    case LOST: return 0;
    default: return (int)syscall(SYS_unlink, path);
    }
}
