/*
 * fs/expirer.h: removes what expires while a volume is mounted, in the background.
 *
 * A thread of its own, so that it may tell the kernel of names that are over: a request that is
 * being served, or a lock, would be in the way of that.
 *
 * Threads: any, but for new and free.
 */
#ifndef FS_EXPIRER_H
#define FS_EXPIRER_H

#include "fs/expiry.h"

struct fs_expirer;

/* Files removed at a time, and the pause between two times while more have expired. */
#define FS_EXPIRER_TICK_FILES UINT64_C(1000)
#define FS_EXPIRER_TICK_MS    100u

/* `volume` is borrowed until fs_expirer_stop. 0; -ENOMEM; -EAGAIN no thread to be had. */
KV_MUST_CHECK int fs_expirer_start(struct fs_volume *volume, fs_expired_fn *expired, void *context,
                                   struct fs_expirer **expirer);
/* Returns after the file it is at. NULL is fine. */
void fs_expirer_stop(struct fs_expirer *expirer);

#endif
