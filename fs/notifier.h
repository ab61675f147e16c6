/*
 * fs/notifier.h: telling the kernel that what it has cached of an image is out of date, because
 * the daemon itself has changed it.
 *
 * The kernel takes locks of its own when it is told, which may be held by a program that waits for
 * an answer of ours: so a thread does the telling, which serves no request and holds no lock.
 *
 * Threads: any, but for new and free; start and stop by one.
 */
#ifndef FS_NOTIFIER_H
#define FS_NOTIFIER_H

#include "fs/volume.h"

struct fuse_session;
struct fs_notifier;

/* `volume` is for the log; borrowed until fs_notifier_free. NULL: no memory. */
struct fs_notifier *fs_notifier_new(struct fs_volume *volume);
void fs_notifier_free(struct fs_notifier *notifier); /* stopped; NULL is fine */

/* `session` is borrowed until fs_notifier_stop. What is noted before that is dropped. */
KV_MUST_CHECK int fs_notifier_start(struct fs_notifier *notifier, struct fuse_session *session);
/* The thread ends after what it is at; nobody waits for it any more. */
void fs_notifier_stop(struct fs_notifier *notifier);

/* To be told: a name in a directory, or the absence of one; an inode's attributes and content. */
void fs_notifier_entry(struct fs_notifier *notifier, uint64_t directory, const char *name,
                       size_t name_len);
void fs_notifier_inode(struct fs_notifier *notifier, uint64_t ino);

/*
 * Return when all that was noted before has been told. It waits two seconds at most: should the
 * kernel wait for the very worker that waits here, both go on, and the log says that something
 * old may be seen.
 */
void fs_notifier_wait(struct fs_notifier *notifier);

#endif
