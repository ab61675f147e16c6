/*
 * kv/deferred.h: changes whose leaves are not in memory, until they are.
 *
 * A put of a key whose leaf is on the device need not wait for it: it is in the log, and here,
 * where readers look first. Later many leaves are read with one submission, and the changes go into
 * them (kv/apply_deferred.c). It is the idea of InnoDB's change buffer, without a place on the
 * device of its own: the log has what a crash takes from here, and no checkpoint ends before it is
 * empty.
 *
 * Two rounds: one gathers changes, the other one is settled, and does not change meanwhile.
 *
 * Threads: kv_deferred_any, _find, _get: any. _room, _add: the writer (the store's lock). _turn,
 * _round, _settled: who holds `settling`.
 */
#ifndef KV_DEFERRED_H
#define KV_DEFERRED_H

#include "kv/batch.h"

#include <pthread.h>
#include <stdatomic.h>

/* Of a round, and of both twice that. A submission reads KV_BTREE_TOGETHER pages. */
#define KV_DEFERRED_OPS_MAX   64u
#define KV_DEFERRED_BYTES_MAX (64u << 10)
#define KV_DEFERRED_SLOTS     1024u

/* Changes in the order in which they came, by their keys. */
struct kv_deferred_round {
    struct kv_batch *batch;            /* NULL before the first */
    uint64_t clusters;                 /* that are reserved for them (kv_space_reserve) */
    uint16_t slots[KV_DEFERRED_SLOTS]; /* by key: number of its last operation, from 1; 0: free */
};

struct kv_deferred {
    pthread_mutex_t settling; /* by who settles; before the writer lock */
    pthread_mutex_t mutex;    /* the rest; nothing is taken under it */
    struct kv_deferred_round rounds[2];
    unsigned gathers;       /* which of them */
    _Atomic unsigned count; /* of operations in both */
    _Atomic unsigned stuck; /* of these, so many found no leaf when they were tried last */
};

struct kv_deferred *kv_deferred_new(void); /* NULL: no memory */
void kv_deferred_free(struct kv_deferred *deferred);

/* Is there any change here? One that was added before the call is seen. */
static inline bool kv_deferred_any(const struct kv_deferred *deferred)
{
    return atomic_load_explicit(&deferred->count, memory_order_acquire) != 0;
}

/* Is there one that was not tried? */
static inline bool kv_deferred_due(const struct kv_deferred *deferred)
{
    return atomic_load_explicit(&deferred->count, memory_order_acquire) >
           atomic_load_explicit(&deferred->stuck, memory_order_relaxed);
}

/*
 * The last change of `key`: 0 with its value, of which as much as there is room for is copied, and
 * its length; -ENOENT it is deleted; -EAGAIN there is none, the tree knows.
 */
KV_MUST_CHECK int kv_deferred_get(struct kv_deferred *deferred, const void *key, size_t key_len,
                                  void *buf, size_t buf_cap, size_t *value_len);
/* Is there a change of a key of the batch, or in one of its ranges? */
bool kv_deferred_touches(struct kv_deferred *deferred, const struct kv_batch *batch);

/*
 * May the round that gathers take the batch, each of whose operations puts or deletes one key?
 * -ENOBUFS: it is full, so it is to be settled first; -ENOMEM. room: out: how many operations and
 * bytes it has then, and how many clusters are reserved for what it has.
 */
struct kv_deferred_room {
    size_t count, bytes;
    uint64_t clusters;
    unsigned round;
};
KV_MUST_CHECK int kv_deferred_room(struct kv_deferred *deferred, const struct kv_batch *batch,
                                   struct kv_deferred_room *room);
/*
 * Add the batch there, for which so many more clusters were reserved. false: somebody has begun to
 * settle that round meanwhile, so there is to be asked anew.
 */
bool kv_deferred_add(struct kv_deferred *deferred, const struct kv_batch *batch,
                     const struct kv_deferred_room *room, uint64_t clusters);

/*
 * The changes that are to be settled now: what was left of the round before, or what has been
 * gathered so far. NULL: there is none. It stays as it is until kv_deferred_settled.
 */
struct kv_deferred_round *kv_deferred_turn(struct kv_deferred *deferred);
/* Is it the last of that round that concerns its key? */
bool kv_deferred_counts(struct kv_deferred_round *round, size_t index);
/* All of that round are in their leaves. */
void kv_deferred_settled(struct kv_deferred *deferred);
/*
 * All are but some, `kept`, at most one of each key: these are gathered again, unless a later
 * change of their key is. clusters: are reserved for them. -ENOMEM: the round stays as it is.
 */
KV_MUST_CHECK int kv_deferred_settled_but(struct kv_deferred *deferred, const struct kv_batch *kept,
                                          uint64_t clusters);

#endif
