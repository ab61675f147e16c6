/*
 * tests/fs/support_mount.h: an image of our own, mounted by a daemon of our own.
 *
 * Owns       a temporary directory with the image and the mount point, and the daemon, which
 *            is a forked child and unmounts by itself when this process dies.
 */
#ifndef SUPPORT_MOUNT_H
#define SUPPORT_MOUNT_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fs/mount.h"

struct test_mount {
    char base[PATH_MAX / 4];  /* temporary directory */
    char image[PATH_MAX / 2]; /* in it */
    char dir[PATH_MAX / 2];   /* mount point, in it */
    pid_t daemon;             /* 0: not mounted */
    struct fs_mount_options options;
};

/* Can this machine mount at all? If not, says why; tests then pass without doing anything. */
bool test_mount_possible(void);

/* Make the image (image_mib MiB) and mount it. options: NULL for the defaults. Aborts on failure.
 */
void test_mount_begin(struct test_mount *mount, const struct fs_mount_options *options,
                      unsigned image_mib);
/* Unmount, remove all. The daemon must have ended well. */
void test_mount_end(struct test_mount *mount);

/* The two halves, to remount in between. unmount: waits for the daemon; returns its status. */
void test_mount_start(struct test_mount *mount);
int test_mount_unmount(struct test_mount *mount);
/* End the daemon as a crash does, and clear the dead mount away. */
void test_mount_kill(struct test_mount *mount);

/* "dir/name" in a buffer that lasts until the fourth call after it. */
const char *test_path(const struct test_mount *mount, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Requests counted so far for an operation (fs/counters.h names), or for all if NULL. */
uint64_t test_requests(const struct test_mount *mount, const char *operation);
/* A figure of the mount's statistics by name, e.g. "known". */
uint64_t test_figure(const struct test_mount *mount, const char *name);

/* Run a function as another user and group in a forked child; returns what it returned. */
int test_as_user(unsigned uid, unsigned gid, int (*function)(void *), void *context);

/* From the environment's KVFS_SEED, or the clock; printed. */
uint64_t test_seed(void);
/* splitmix64 (Steele, Lea, Flood 2014): the next number, and one below a limit. */
uint64_t test_random(uint64_t *state);
uint64_t test_below(uint64_t *state, uint64_t limit);

#endif
