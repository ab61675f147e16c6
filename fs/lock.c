/*
 * fs/lock.c: inode locks, striped.
 *
 * Owns       the array of read-write locks, and with each the record that was left with it.
 * Invariant  a set's stripes are strictly ascending, so no two operations wait for each other
 *            in a circle. What is left with a lock is what the store holds: who drops it after
 *            holding it exclusively leaves a record, or what was left goes.
 * Locks      what is left is guarded by the lock that it is left with: exclusive to write, shared
 *            to read.
 */
#include "fs/lock.h"

#include <pthread.h>

#define FS_STRIPE_BITS  10u
#define FS_STRIPE_COUNT (1u << FS_STRIPE_BITS)

/* In all some ten microseconds. */
#define TRIES        64u
#define PAUSES_A_TRY 8u

struct fs_locks {
    unsigned tries; /* before sleeping; 0: nobody else runs meanwhile */
    struct {
        pthread_rwlock_t lock;
        uint64_t left; /* whose record is left here; 0: none */
    } stripes[FS_STRIPE_COUNT];
    struct fs_record *records; /* by stripe; memory is taken as they are used */
};

struct fs_locks *fs_locks_new(void)
{
    struct fs_locks *locks = malloc(sizeof *locks);
    if (!locks)
        return NULL;
    locks->records = calloc(FS_STRIPE_COUNT, sizeof *locks->records);
    if (!locks->records) {
        free(locks);
        return NULL;
    }
    locks->tries = kv_cpu_count() > 1 ? TRIES : 0;
    for (size_t i = 0; i < FS_STRIPE_COUNT; i++) {
        pthread_rwlock_init(&locks->stripes[i].lock, NULL);
        locks->stripes[i].left = 0;
    }
    return locks;
}

void fs_locks_free(struct fs_locks *locks)
{
    if (!locks)
        return;
    for (size_t i = 0; i < FS_STRIPE_COUNT; i++)
        pthread_rwlock_destroy(&locks->stripes[i].lock);
    free(locks->records);
    free(locks);
}

static uint32_t stripe_of(uint64_t ino)
{
    return (uint32_t)((ino * 0x9e3779b97f4a7c15u) >> (64 - FS_STRIPE_BITS));
}

void fs_lock_add(struct fs_lock_set *set, uint64_t ino, enum fs_lock_mode mode)
{
    if (ino == 0)
        return;
    KV_ASSERT(!set->held);
    KV_ASSERT(set->count < FS_LOCK_SET_MAX);
    const uint32_t stripe = stripe_of(ino);
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
    set->wanted[at].leaves = false;
    set->count++;
}

/*
 * Most that is done under a lock takes less time than to sleep and be woken by another processor:
 * it is tried for a while before.
 */
static void take(const struct fs_locks *locks, pthread_rwlock_t *lock, bool exclusive)
{
    for (unsigned tries = 0; tries < locks->tries; tries++) {
        if (!(exclusive ? pthread_rwlock_trywrlock(lock) : pthread_rwlock_tryrdlock(lock)))
            return;
        for (unsigned i = 0; i < PAUSES_A_TRY; i++)
            kv_cpu_pause();
    }
    const int err = exclusive ? pthread_rwlock_wrlock(lock) : pthread_rwlock_rdlock(lock);
    KV_ASSERT(err == 0);
}

void fs_lock_take(struct fs_locks *locks, struct fs_lock_set *set)
{
    KV_ASSERT(!set->held);
    for (uint32_t i = 0; i < set->count; i++)
        take(locks, &locks->stripes[set->wanted[i].stripe].lock, set->wanted[i].exclusive);
    set->held = true;
}

void fs_lock_drop(struct fs_locks *locks, struct fs_lock_set *set)
{
    if (set->held) {
        for (uint32_t i = set->count; i-- > 0;) {
            const uint32_t stripe = set->wanted[i].stripe;
            if (set->wanted[i].exclusive && !set->wanted[i].leaves)
                locks->stripes[stripe].left = 0;
            pthread_rwlock_unlock(&locks->stripes[stripe].lock);
        }
    }
    *set = (struct fs_lock_set)FS_LOCK_SET_INIT;
}

void fs_lock_take_all(struct fs_locks *locks)
{
    for (size_t i = 0; i < FS_STRIPE_COUNT; i++)
        take(locks, &locks->stripes[i].lock, true);
}

void fs_lock_drop_all(struct fs_locks *locks)
{
    for (size_t i = FS_STRIPE_COUNT; i-- > 0;) {
        locks->stripes[i].left = 0;
        pthread_rwlock_unlock(&locks->stripes[i].lock);
    }
}

/* ---- records that are left with the locks --------------------------------------- */

void fs_lock_leave(struct fs_locks *locks, struct fs_lock_set *set, const struct fs_record *record)
{
    const uint32_t stripe = stripe_of(record->file.ino);
    uint32_t at = 0;
    KV_ASSERT(set->held);
    while (at < set->count && set->wanted[at].stripe != stripe)
        at++;
    KV_ASSERT(at < set->count);
    KV_ASSERT(set->wanted[at].exclusive);
    set->wanted[at].leaves = true;
    locks->stripes[stripe].left = record->file.ino;
    locks->records[stripe] = *record;
}

const struct fs_record *fs_lock_left(const struct fs_locks *locks, uint64_t ino)
{
    const uint32_t stripe = stripe_of(ino);
    return locks->stripes[stripe].left == ino ? &locks->records[stripe] : NULL;
}
