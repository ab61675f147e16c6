/*
 * kv/owner.h: one process owns an image at a time, whatever way leads to it.
 *
 * Threads: those that make and end an owner; it has a thread of its own.
 */
#ifndef KV_OWNER_H
#define KV_OWNER_H

#include "kv/base.h"
#include "kv/kv.h"

struct kv_owner;

/*
 * First step: lock what lies under the image, if that is a loop device.
 *
 * Returns 0; -EBUSY somebody owns it; -ENXIO it can not be reached from here, so that nobody
 * can tell; -ENOMEM: `error` has the words. What open(2) says of the path, without words. Waits for
 * the last I/O of an owner that is dead.
 */
KV_MUST_CHECK int kv_owner_begin(const char *path, struct kv_owner **owner, struct kv_error *error);

/*
 * Second step: open the image itself, a block device with O_EXCL. *fd: the caller's to close,
 * after kv_owner_end. As open(2); -EBUSY as above, the only error that sets `error`.
 */
KV_MUST_CHECK int kv_owner_open(struct kv_owner *owner, const char *path, int flags, int *fd,
                                struct kv_error *error);

/*
 * Third step: lock what was opened. All I/O is to go through this descriptor: the lock then
 * lasts as long as the last request, also after the process was killed.
 *
 * Returns 0; -EBUSY; -ESTALE the path leads elsewhere by now; what flock(2) says.
 */
KV_MUST_CHECK int kv_owner_lock(struct kv_owner *owner, const char *path, int fd,
                                struct kv_error *error);

/* Let go of all but the descriptor. NULL: nothing. */
void kv_owner_end(struct kv_owner *owner);

#endif
