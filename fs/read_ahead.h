/*
 * fs/read_ahead.h: how far the kernel reads ahead of a program that reads a file in order.
 *
 * A FUSE daemon may ask the kernel for less than its default (128 KiB) when it answers FUSE_INIT;
 * more has to be set in sysfs, which only root may, and only after that answer, which would take it
 * back. So the file is opened when the filesystem is mounted, before the daemon gives up its
 * rights, and written when it serves.
 *
 * Threads: one.
 */
#ifndef FS_READ_AHEAD_H
#define FS_READ_AHEAD_H

#include "kv/kv.h"

struct fs_read_ahead;

#define FS_READ_AHEAD_DEFAULT (128u << 10) /* the kernel's */

/*
 * For the mount point `dir`, on which a mount of ours lies and is not served yet. NULL: nothing is
 * to be set (bytes 0, or no more than the default), or it can not be, as the log says.
 */
struct fs_read_ahead *fs_read_ahead_new(const char *dir, uint32_t bytes, kv_log_fn *log,
                                        void *log_context);
/* Requests are served: set it. NULL is fine. */
void fs_read_ahead_set(struct fs_read_ahead *ahead);
void fs_read_ahead_free(struct fs_read_ahead *ahead); /* NULL is fine */

#endif
