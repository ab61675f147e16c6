/*
 * tests/faults/io/call_faults.c: calls of the system that fail on order.
 *
 * Owns       the wrapped functions.
 * Locks      none: what is ordered concerns one thread, and others only look whether it is theirs.
 */
#include "call_faults.h"

#include <dirent.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

const struct call_fault call_faults[] = {
    {"open", EMFILE},
    {"open", EACCES},
    {"open", EINVAL}, /* as where O_DIRECT is not known */
    {"open", EROFS},
    {"openat", EMFILE},
    {"stat", EIO},
    {"fstat", EIO},
    {"fstatvfs", EIO},
    {"lseek", ENXIO},
    {"fallocate", ENOSPC},
    {"fallocate", EOPNOTSUPP},
    {"fallocate", EINTR},
    {"ftruncate", EFBIG},
    {"pread", EINVAL},
    {"pread", EIO},
    {"fcntl", EINVAL},
    {"fcntl", EBADF},
    {"flock", EINTR},
    {"flock", ENOLCK},
    {"ioctl", ENOTTY},
    {"ioctl", EIO},
    {"unlink", EACCES},
    {"opendir", EMFILE},
    {"readdir", 0},
    {"fopen", EMFILE},
    {"fgets", 0},
    {"getrandom", ENOSYS},
    {"mmap", ENOMEM},
    {"pthread_create", EAGAIN},
    {"io_uring_queue_init", ENOMEM},
    {"io_uring_queue_init", EINVAL},
    {"io_uring_queue_init", EPERM},
};
const size_t call_fault_count = sizeof call_faults / sizeof call_faults[0];

static _Thread_local bool ours; /* the order is of this thread */
static struct {
    size_t index;
    bool lasting;
    uint64_t after, seen, hits;
} order;

void call_fault_order(size_t index, uint64_t after, bool lasting)
{
    order.index = index;
    order.after = after;
    order.lasting = lasting;
    order.seen = order.hits = 0;
    ours = true;
}

uint64_t call_fault_end(uint64_t *seen)
{
    ours = false;
    *seen = order.seen;
    return order.hits;
}

/* Sets errno when the call is to fail. */
static bool fails(const char *function)
{
    if (!ours || strcmp(call_faults[order.index].function, function) != 0)
        return false;
    const uint64_t at = order.seen++;
    const bool struck = order.lasting ? at >= order.after : at == order.after;
    order.hits += struck;
    if (struck)
        errno = call_faults[order.index].error;
    return struck;
}

/* WRAP(what it returns, its name, its symbol, what it returns when it fails, parameters, names) */
#define WRAP(type, name, symbol, failed, parameters, names)                                        \
    type __real_##symbol parameters;                                                               \
    type __wrap_##symbol parameters;                                                               \
    type __wrap_##symbol parameters                                                                \
    {                                                                                              \
        return fails(name) ? (failed) : __real_##symbol names;                                     \
    }

/* The variable arguments of these are one word, which is passed on whether it was given or not. */
WRAP(int, "open", open64, -1, (const char *path, int flags, unsigned mode), (path, flags, mode))
WRAP(int, "openat", openat64, -1, (int at, const char *path, int flags, unsigned mode),
     (at, path, flags, mode))
WRAP(int, "fcntl", fcntl64, -1, (int fd, int command, void *argument), (fd, command, argument))
WRAP(int, "ioctl", ioctl, -1, (int fd, unsigned long request, void *argument),
     (fd, request, argument))

WRAP(int, "stat", stat64, -1, (const char *path, struct stat *status), (path, status))
WRAP(int, "fstat", fstat64, -1, (int fd, struct stat *status), (fd, status))
WRAP(int, "fstatvfs", fstatvfs64, -1, (int fd, struct statvfs *status), (fd, status))
WRAP(off_t, "lseek", lseek64, -1, (int fd, off_t offset, int whence), (fd, offset, whence))
WRAP(int, "fallocate", fallocate64, -1, (int fd, int mode, off_t offset, off_t length),
     (fd, mode, offset, length))
WRAP(int, "ftruncate", ftruncate64, -1, (int fd, off_t length), (fd, length))
WRAP(ssize_t, "pread", pread64, -1, (int fd, void *bytes, size_t length, off_t offset),
     (fd, bytes, length, offset))
WRAP(int, "flock", flock, -1, (int fd, int operation), (fd, operation))
WRAP(int, "unlink", unlink, -1, (const char *path), (path))
WRAP(DIR *, "opendir", opendir, NULL, (const char *path), (path))
WRAP(struct dirent *, "readdir", readdir64, NULL, (DIR * directory), (directory))
WRAP(FILE *, "fopen", fopen64, NULL, (const char *path, const char *mode), (path, mode))
WRAP(char *, "fgets", fgets, NULL, (char *line, int capacity, FILE *file), (line, capacity, file))
WRAP(ssize_t, "getrandom", getrandom, -1, (void *bytes, size_t length, unsigned flags),
     (bytes, length, flags))
WRAP(void *, "mmap", mmap64, MAP_FAILED,
     (void *at, size_t length, int protection, int flags, int fd, off_t offset),
     (at, length, protection, flags, fd, offset))
WRAP(int, "pthread_create", pthread_create, errno,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context),
     (thread, attributes, run, context))
WRAP(int, "io_uring_queue_init", io_uring_queue_init, -errno,
     (unsigned entries, struct io_uring *ring, unsigned flags), (entries, ring, flags))
