/*
 * fs/auto_unmount.h: a process that outlives the daemon and clears its mount away.
 *
 * Threads: one opens, tells and closes.
 */
#ifndef FS_AUTO_UNMOUNT_H
#define FS_AUTO_UNMOUNT_H

#include "kv/kv.h"

struct fs_auto_unmount;

/* Start the process. Before the mount, and before anything that a child should not inherit. */
KV_MUST_CHECK int fs_auto_unmount_open(struct fs_auto_unmount **helper);
/* `dir`, an absolute path, is mounted now: unmount it if this process ends without doing so. */
KV_MUST_CHECK int fs_auto_unmount_tell(struct fs_auto_unmount *helper, const char *dir);
/* The mount is gone, or need not go: end the process and wait for it. NULL: nothing. */
void fs_auto_unmount_close(struct fs_auto_unmount *helper);

#endif
