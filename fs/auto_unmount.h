/*
 * fs/auto_unmount.h: a process that outlives the daemon and clears its mount away.
 *
 * Threads: one opens, tells and closes.
 */
#ifndef FS_AUTO_UNMOUNT_H
#define FS_AUTO_UNMOUNT_H

#include "fs/mount_point.h"
#include "kv/kv.h"

struct fs_auto_unmount;

/*
 * Start the process for a mount on `dir`, an absolute path. Before the mount, and before anything
 * that a child should not inherit.
 */
KV_MUST_CHECK int fs_auto_unmount_open(const char *dir, struct fs_auto_unmount **helper);
/* `mount` is on `dir`: unmount it if this process ends without doing so. */
KV_MUST_CHECK int fs_auto_unmount_tell(struct fs_auto_unmount *helper, const char *dir,
                                       const struct fs_mount_identity *mount);
/* The mount is gone: leave alone what is on its directory from now on. NULL: nothing. */
void fs_auto_unmount_forget(struct fs_auto_unmount *helper);
/* End the process, which has a last try at a mount that is not gone, and wait for it. NULL:
 * nothing. */
void fs_auto_unmount_close(struct fs_auto_unmount *helper);

#endif
