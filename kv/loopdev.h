/*
 * kv/loopdev.h: what lies under a loop device, and which loop devices lie over a file.
 *
 * Owns       nothing. What the kernel says is looked up anew each time.
 * Threads: any.
 */
#ifndef KV_LOOPDEV_H
#define KV_LOOPDEV_H

#include <limits.h>
#include <sys/stat.h>

#include "kv/base.h"

/* The bytes under a loop device, or under a partition of one. */
struct kv_loop {
    char path[PATH_MAX]; /* of the file or device that it lies over, as seen from here */
    uint64_t offset_bytes, length_bytes;
};

/*
 * What lies under an open block device. *fd: that, open for writing if possible; the caller's
 * to close.
 *
 * Returns 0; -ENODEV not a loop device; -ENXIO what lies under it can not be reached from here
 * by its path (deleted, or in another mount namespace); loop->path is set all the same; others:
 * nobody can tell now.
 */
KV_MUST_CHECK int kv_loop_below(int device_fd, struct kv_loop *loop, int *fd);

/* `node`: path of a loop device. Not 0: end the walk. */
typedef int kv_loop_visit_fn(void *context, const char *node, dev_t device);

/*
 * Visit the loop devices that lie over a file or device, as far as that can be seen.
 * Returns 0, or what `visit` returned to end the walk.
 */
KV_MUST_CHECK int kv_loop_each_over(const struct stat *file, kv_loop_visit_fn *visit,
                                    void *context);

#endif
