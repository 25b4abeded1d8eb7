/* Lets the Nth file operation below one folder fail, or ends the process there: for LD_PRELOAD, see failing_files.py.

Counted are the operations that change a file or a folder, and fsync; reading is not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FILES 4096

static char folder[PATH_MAX];
static long nth, count;
static int code;
static int exchanges = 1;
static char kind[32];
static unsigned char is_below[MAX_FILES];

/* Watch a folder; its `number`th operation fails with `error`, or ends the process where that is 0. 0: count only. */
void failing_files_watch(const char *path, long number, int error) {
    strncpy(folder, path, sizeof folder - 1);
    nth = number;
    code = error;
    count = 0;
}

/* Whether the file system shall be able to let two names change places. */
void failing_files_exchange(int is_possible) { exchanges = is_possible; }

long failing_files_count(void) { return count; }

const char *failing_files_kind(void) { return kind; }

static int below(const char *path) {
    return folder[0] && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int below_file(int file) { return folder[0] && file >= 0 && file < MAX_FILES && is_below[file]; }

static int below_at(int home, const char *path) { return path && (path[0] == '/' ? below(path) : below_file(home)); }

/* Whether this operation shall not happen. */
static int stops(const char *name) {
    if (++count != nth) return 0;
    strncpy(kind, name, sizeof kind - 1);
    if (!code) _exit(99);
    errno = code;
    return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int note(int file, int is) {
    if (file >= 0 && file < MAX_FILES) is_below[file] = (unsigned char)is;
    return file;
}

#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)
#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) REAL(name); int is = below(path); \
        if (is && (flags & WRITES) && stops(#name)) return -1; \
        return note(real(path, flags, mode), is); }
#define OPENAT(name) \
    int name(int home, const char *path, int flags, ...) { \
        MODE(flags) REAL(name); int is = below_at(home, path); \
        if (is && (flags & WRITES) && stops(#name)) return -1; \
        return note(real(home, path, flags, mode), is); }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int close(int file) { REAL(close); note(file, 0); return real(file); }

/* A process that ends in the middle of a write leaves a half of it. */
ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    if (below_file(file)) {
        if (count + 1 == nth && !code) real(file, data, size / 2);
        if (stops("write")) return -1;
    }
    return real(file, data, size);
}

#define ON_FILE(type, name, parameters, arguments) \
    type name parameters { REAL(name); if (below_file(file) && stops(#name)) return -1; return real arguments; }
ON_FILE(ssize_t, writev, (int file, const struct iovec *parts, int number), (file, parts, number))
ON_FILE(ssize_t, pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
ON_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at))
ON_FILE(int, fsync, (int file), (file))
ON_FILE(int, fdatasync, (int file), (file))
ON_FILE(int, ftruncate, (int file, off_t size), (file, size))
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size))
ON_FILE(ssize_t, sendfile, (int file, int from, off_t *at, size_t size), (file, from, at, size))
ON_FILE(ssize_t, sendfile64, (int file, int from, off64_t *at, size_t size), (file, from, at, size))

ssize_t copy_file_range(int from, off64_t *at, int file, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    if (below_file(file) && stops("copy_file_range")) return -1;
    return real(from, at, file, to, size, flags);
}

#define ON_PATH(name, parameters, arguments) \
    int name parameters { REAL(name); if (below(path) && stops(#name)) return -1; return real arguments; }
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(rmdir, (const char *path), (path))
ON_PATH(unlink, (const char *path), (path))
ON_PATH(truncate, (const char *path, off_t size), (path, size))
ON_PATH(rename, (const char *path, const char *to), (path, to))

#define ON_PATH_AT(name, parameters, arguments) \
    int name parameters { REAL(name); if (below_at(home, path) && stops(#name)) return -1; return real arguments; }
ON_PATH_AT(mkdirat, (int home, const char *path, mode_t mode), (home, path, mode))
ON_PATH_AT(unlinkat, (int home, const char *path, int flags), (home, path, flags))
ON_PATH_AT(renameat, (int home, const char *path, int other, const char *to), (home, path, other, to))

int renameat2(int home, const char *path, int other, const char *to, unsigned flags) {
    REAL(renameat2);
    if (flags && !exchanges) { errno = EINVAL; return -1; }
    if (below_at(home, path) && stops("renameat2")) return -1;
    return real(home, path, other, to, flags);
}
