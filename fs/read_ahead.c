/*
 * fs/read_ahead.c: how far the kernel reads ahead of a program that reads a file in order.
 *
 * Owns       the file in sysfs, from the mount until it is written.
 * Invariant  no request is sent to the mount before it is served.
 */
#include "fs/read_ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct fs_read_ahead {
    int fd;
    uint32_t kib;
    kv_log_fn *log;
    void *log_context;
    char dir[PATH_MAX];
};

static void say(const struct fs_read_ahead *ahead, int err)
{
    char line[256];
    (void)snprintf(line, sizeof line,
                   "the kernel reads ahead 128 KiB, not %u KiB as read_ahead says: %s", ahead->kib,
                   err == EACCES ? "only root may set more" : strerror(err));
    ahead->log(ahead->log_context, KV_LOG_WARNING, line);
}

/* The file in sysfs of the filesystem mounted on `dir`, opened; or a negative errno. */
static int open_file(const char *dir)
{
    struct statx about;
    char path[64];
    /* Of what the kernel has of the root inode: it can not be asked for yet. */
    if (statx(AT_FDCWD, dir, AT_STATX_DONT_SYNC, STATX_TYPE, &about) < 0)
        return -errno;
    (void)snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", about.stx_dev_major,
                   about.stx_dev_minor);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

struct fs_read_ahead *fs_read_ahead_new(const char *dir, uint32_t bytes, kv_log_fn *log,
                                        void *log_context)
{
    if (bytes <= FS_READ_AHEAD_DEFAULT)
        return NULL;
    struct fs_read_ahead *ahead = malloc(sizeof *ahead);
    if (!ahead)
        return NULL; /* a slower mount is one all the same */
    ahead->kib = bytes / 1024;
    ahead->log = log;
    ahead->log_context = log_context;
    (void)snprintf(ahead->dir, sizeof ahead->dir, "%s", dir);
    ahead->fd = open_file(dir);
    if (ahead->fd >= 0)
        return ahead;
    say(ahead, -ahead->fd);
    free(ahead);
    return NULL;
}

void fs_read_ahead_set(struct fs_read_ahead *ahead)
{
    if (!ahead)
        return;
    char text[16];
    struct stat about;
    const int length = snprintf(text, sizeof text, "%u\n", ahead->kib);
    /* Whether it is asked or known already, what the root is like comes after FUSE_INIT's answer.
     */
    if (stat(ahead->dir, &about) < 0 || write(ahead->fd, text, (size_t)length) < 0)
        say(ahead, errno);
}

void fs_read_ahead_free(struct fs_read_ahead *ahead)
{
    if (!ahead)
        return;
    close(ahead->fd);
    free(ahead);
}
