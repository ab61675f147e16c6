/*
 * fs/lock.c: inode locks, striped.
 *
 * Owns       the array of read-write locks.
 * Invariant  a set's stripes are strictly ascending, so no two operations wait for each other
 *            in a circle.
 */
#include "fs/lock.h"

#include <pthread.h>

#define FS_STRIPE_BITS  10u
#define FS_STRIPE_COUNT (1u << FS_STRIPE_BITS)

struct fs_locks {
    pthread_rwlock_t stripes[FS_STRIPE_COUNT];
};

struct fs_locks *fs_locks_new(void)
{
    struct fs_locks *locks = malloc(sizeof *locks);
    if (!locks)
        return NULL;
    for (size_t i = 0; i < FS_STRIPE_COUNT; i++)
        pthread_rwlock_init(&locks->stripes[i], NULL);
    return locks;
}

void fs_locks_free(struct fs_locks *locks)
{
    if (!locks)
        return;
    for (size_t i = 0; i < FS_STRIPE_COUNT; i++)
        pthread_rwlock_destroy(&locks->stripes[i]);
    free(locks);
}

void fs_lock_add(struct fs_lock_set *set, uint64_t ino, enum fs_lock_mode mode)
{
    if (ino == 0)
        return;
    KV_ASSERT(!set->held);
    KV_ASSERT(set->count < FS_LOCK_SET_MAX);
    const uint32_t stripe = (uint32_t)((ino * 0x9e3779b97f4a7c15u) >> (64 - FS_STRIPE_BITS));
    uint32_t at = 0;
    while (at < set->count && set->wanted[at].stripe < stripe)
        at++;
    if (at < set->count && set->wanted[at].stripe == stripe) {
        set->wanted[at].exclusive |= mode == FS_LOCK_EXCLUSIVE;
        return;
    }
    memmove(&set->wanted[at + 1], &set->wanted[at], (set->count - at) * sizeof set->wanted[0]);
    set->wanted[at].stripe = stripe;
    set->wanted[at].exclusive = mode == FS_LOCK_EXCLUSIVE;
    set->count++;
}

void fs_lock_take(struct fs_locks *locks, struct fs_lock_set *set)
{
    KV_ASSERT(!set->held);
    for (uint32_t i = 0; i < set->count; i++) {
        pthread_rwlock_t *lock = &locks->stripes[set->wanted[i].stripe];
        const int err =
            set->wanted[i].exclusive ? pthread_rwlock_wrlock(lock) : pthread_rwlock_rdlock(lock);
        KV_ASSERT(err == 0);
    }
    set->held = true;
}

void fs_lock_drop(struct fs_locks *locks, struct fs_lock_set *set)
{
    if (set->held) {
        for (uint32_t i = set->count; i-- > 0;)
            pthread_rwlock_unlock(&locks->stripes[set->wanted[i].stripe]);
    }
    *set = (struct fs_lock_set)FS_LOCK_SET_INIT;
}

void fs_lock_take_all(struct fs_locks *locks)
{
    for (size_t i = 0; i < FS_STRIPE_COUNT; i++) {
        const int err = pthread_rwlock_wrlock(&locks->stripes[i]);
        KV_ASSERT(err == 0);
    }
}

void fs_lock_drop_all(struct fs_locks *locks)
{
    for (size_t i = FS_STRIPE_COUNT; i-- > 0;)
        pthread_rwlock_unlock(&locks->stripes[i]);
}
