/*
 * fs/lock.h: the locks of inodes.
 *
 * An operation names all inodes it will touch, takes their locks at once and gives them back
 * at once. Inodes share a fixed number of locks by hash, so locks cost no memory per inode;
 * taking them in the order of their place in the array excludes deadlock.
 *
 * What a lock guards: the inode's record and content, the key the record stands under, and
 * for a directory its entries. An entry's record is guarded by the lock of the inode that it
 * describes; its coming, going and changing between inode and link by the directory's too.
 *
 * These come first in the lock order (kv/README.md); fs/inode_table.c's mutexes come after.
 */
#ifndef FS_LOCK_H
#define FS_LOCK_H

#include "fs/record.h"

struct fs_locks;

struct fs_locks *fs_locks_new(void); /* NULL: no memory */
void fs_locks_free(struct fs_locks *locks);

#define FS_LOCK_SET_MAX 6u

/* The locks one operation holds. Initialise with FS_LOCK_SET_INIT; add; take; drop. */
struct fs_lock_set {
    struct {
        uint32_t stripe;
        bool exclusive;
        bool leaves; /* fs_lock_leave */
    } wanted[FS_LOCK_SET_MAX];
    uint32_t count;
    bool held;
};
#define FS_LOCK_SET_INIT                                                                           \
    {                                                                                              \
        .count = 0                                                                                 \
    }

enum fs_lock_mode { FS_LOCK_SHARED, FS_LOCK_EXCLUSIVE };

/* Before taking: one more inode. 0 stands for none and is left out. */
void fs_lock_add(struct fs_lock_set *set, uint64_t ino, enum fs_lock_mode mode);
void fs_lock_take(struct fs_locks *locks, struct fs_lock_set *set);
/* Give all back and empty the set; nothing happens if it is not held. */
void fs_lock_drop(struct fs_locks *locks, struct fs_lock_set *set);

/*
 * Leave a record with the exclusive lock of its inode, for who takes it next: it is what the store
 * holds, and will not be changed before the lock is dropped. Inodes that share a lock take each
 * other's place.
 */
void fs_lock_leave(struct fs_locks *locks, struct fs_lock_set *set, const struct fs_record *record);
/* What was left with the lock of an inode, or NULL. The caller holds it and has changed nothing. */
const struct fs_record *fs_lock_left(const struct fs_locks *locks, uint64_t ino);

/* All there are, exclusively: nobody else reads or changes any inode until they are dropped. */
void fs_lock_take_all(struct fs_locks *locks);
void fs_lock_drop_all(struct fs_locks *locks);

#endif
