/*
 * kv/deferred.c: changes whose leaves are not in memory, by their keys.
 *
 * Owns       both rounds: their batches, and what finds the last operation of a key in them.
 * Invariant  a change that gathers is later than any of the same key in the other round. `count` is
 *            changed with the rounds, under the mutex: who finds it 0 finds all changes that came
 *            before in the tree.
 * Locks      mutex, a leaf, for each call. The round that is settled is read without it by who
 *            settles: nobody changes it until he says that it is done.
 */
#include "kv/deferred.h"

#include "kv/codec.h"

#include <assert.h>

struct kv_deferred *kv_deferred_new(void)
{
    struct kv_deferred *deferred = calloc(1, sizeof *deferred);
    if (!deferred)
        return NULL;
    pthread_mutex_init(&deferred->settling, NULL);
    kv_mutex_init_brief(&deferred->mutex);
    return deferred;
}

void kv_deferred_free(struct kv_deferred *deferred)
{
    if (!deferred)
        return;
    for (unsigned i = 0; i < 2; i++)
        kv_batch_free(deferred->rounds[i].batch);
    pthread_mutex_destroy(&deferred->settling);
    pthread_mutex_destroy(&deferred->mutex);
    free(deferred);
}

/* ---- a round ----------------------------------------------------------------------- */

static size_t round_count(const struct kv_deferred_round *round)
{
    return round->batch ? round->batch->count : 0;
}

static size_t round_bytes(const struct kv_deferred_round *round)
{
    return round->batch ? round->batch->length : 0;
}

/* Where the key's slot is, or the free one where it would be. */
static uint16_t *find_slot(struct kv_deferred_round *round, struct kv_span key)
{
    static_assert(KV_DEFERRED_SLOTS >= 4 * KV_DEFERRED_OPS_MAX, "a free slot is near");
    size_t at = kv_digest(key.data, key.length, 0) % KV_DEFERRED_SLOTS;
    while (round->slots[at]) {
        const struct kv_span there =
            kv_batch_key(round->batch, &round->batch->ops[round->slots[at] - 1]);
        if (there.length == key.length && !memcmp(there.data, key.data, key.length))
            break;
        at = (at + 1) % KV_DEFERRED_SLOTS;
    }
    return &round->slots[at];
}

/* The last operation of the key, or NULL. */
static const struct kv_batch_op *find_op(struct kv_deferred_round *round, struct kv_span key)
{
    if (!round_count(round))
        return NULL;
    const uint16_t *slot = find_slot(round, key);
    return *slot ? &round->batch->ops[*slot - 1] : NULL;
}

/* There is room for it. */
static void add_op(struct kv_deferred_round *round, const struct kv_batch *from,
                   const struct kv_batch_op *op)
{
    const struct kv_redo redo = {
        .kind = op->kind, .key = kv_batch_key(from, op), .value = kv_batch_value(from, op)};
    uint16_t *slot = find_slot(round, redo.key);
    const int err = kv_batch_add_redo(round->batch, &redo);
    KV_ASSERT(!err);
    *slot = (uint16_t)round->batch->count;
}

/* Room for so many operations more. */
static int make_room(struct kv_deferred_round *round, size_t count, size_t bytes)
{
    if (!round->batch)
        round->batch = kv_batch_new();
    return round->batch ? kv_batch_make_room(round->batch, count, bytes) : -ENOMEM;
}

/* The round that was settled is over; `again` of its operations gather once more. Under the mutex.
 */
static void end_round(struct kv_deferred *deferred, size_t again)
{
    struct kv_deferred_round *round = &deferred->rounds[!deferred->gathers];
    (void)atomic_fetch_sub_explicit(&deferred->count, (unsigned)(round->batch->count - again),
                                    memory_order_release);
    atomic_store_explicit(&deferred->stuck, (unsigned)again, memory_order_relaxed);
    kv_batch_clear(round->batch);
    memset(round->slots, 0, sizeof round->slots);
    round->clusters = 0;
}

/* ---- readers ----------------------------------------------------------------------- */

/* The last change of the key, in *round. */
static const struct kv_batch_op *find(struct kv_deferred *deferred, struct kv_span key,
                                      struct kv_deferred_round **round)
{
    *round = &deferred->rounds[deferred->gathers];
    const struct kv_batch_op *op = find_op(*round, key);
    if (op)
        return op;
    *round = &deferred->rounds[!deferred->gathers];
    return find_op(*round, key);
}

int kv_deferred_get(struct kv_deferred *deferred, const void *key, size_t key_len, void *buf,
                    size_t buf_cap, size_t *value_len)
{
    struct kv_deferred_round *round;
    int err = -EAGAIN;
    pthread_mutex_lock(&deferred->mutex);
    const struct kv_batch_op *op = find(deferred, (struct kv_span){key, key_len}, &round);
    if (op && op->kind == KV_REDO_PUT) {
        const struct kv_span value = kv_batch_value(round->batch, op);
        *value_len = value.length;
        if (buf_cap && value.length)
            memcpy(buf, value.data, kv_min_u64(value.length, buf_cap));
        err = 0;
    } else if (op) {
        err = -ENOENT;
    }
    pthread_mutex_unlock(&deferred->mutex);
    return err;
}

/* Is there a change of a key in [lower, upper) in the round? upper.length 0: no end. */
static bool changes_range(const struct kv_deferred_round *round, struct kv_span lower,
                          struct kv_span upper)
{
    const struct kv_batch *const batch = round->batch;
    const struct kv_batch_op *const ops = batch ? batch->ops : NULL;
    for (size_t i = 0; ops && i < batch->count; i++) {
        const struct kv_span key = kv_batch_key(batch, &ops[i]);
        if (kv_key_compare(key.data, key.length, lower.data, lower.length) >= 0 &&
            (!upper.length || kv_key_compare(key.data, key.length, upper.data, upper.length) < 0))
            return true;
    }
    return false;
}

bool kv_deferred_touches(struct kv_deferred *deferred, const struct kv_batch *batch)
{
    struct kv_deferred_round *round;
    bool touches = false;
    pthread_mutex_lock(&deferred->mutex);
    for (size_t i = 0; i < batch->count && !touches; i++) {
        const struct kv_batch_op *op = &batch->ops[i];
        const struct kv_span key = kv_batch_key(batch, op), upper = kv_batch_value(batch, op);
        if (op->kind == KV_REDO_DEL_RANGE)
            touches = changes_range(&deferred->rounds[0], key, upper) ||
                      changes_range(&deferred->rounds[1], key, upper);
        else
            touches = find(deferred, key, &round) != NULL;
    }
    pthread_mutex_unlock(&deferred->mutex);
    return touches;
}

/* ---- the writer --------------------------------------------------------------------- */

int kv_deferred_room(struct kv_deferred *deferred, const struct kv_batch *batch,
                     struct kv_deferred_room *room)
{
    pthread_mutex_lock(&deferred->mutex);
    struct kv_deferred_round *round = &deferred->rounds[deferred->gathers];
    *room = (struct kv_deferred_room){.count = round_count(round) + batch->count,
                                      .bytes = round_bytes(round) + batch->length,
                                      .clusters = round->clusters,
                                      .round = deferred->gathers};
    /* Of the other round some may come back. */
    const size_t both = round_count(&deferred->rounds[!deferred->gathers]) + room->count;
    const bool full = room->count > KV_DEFERRED_OPS_MAX || room->bytes > KV_DEFERRED_BYTES_MAX ||
                      both > 2 * (size_t)KV_DEFERRED_OPS_MAX;
    const int err = full ? -ENOBUFS : make_room(round, batch->count, batch->length);
    pthread_mutex_unlock(&deferred->mutex);
    return err;
}

bool kv_deferred_add(struct kv_deferred *deferred, const struct kv_batch *batch,
                     const struct kv_deferred_room *room, uint64_t clusters)
{
    pthread_mutex_lock(&deferred->mutex);
    const bool gathers = room->round == deferred->gathers;
    struct kv_deferred_round *round = &deferred->rounds[room->round];
    for (size_t i = 0; i < batch->count && gathers; i++)
        add_op(round, batch, &batch->ops[i]);
    if (gathers) {
        round->clusters += clusters;
        (void)atomic_fetch_add_explicit(&deferred->count, (unsigned)batch->count,
                                        memory_order_release);
    }
    pthread_mutex_unlock(&deferred->mutex);
    return gathers;
}

/* ---- who settles -------------------------------------------------------------------- */

struct kv_deferred_round *kv_deferred_turn(struct kv_deferred *deferred)
{
    pthread_mutex_lock(&deferred->mutex);
    struct kv_deferred_round *round = &deferred->rounds[!deferred->gathers];
    if (!round_count(round)) {
        round = &deferred->rounds[deferred->gathers];
        if (round_count(round))
            deferred->gathers = !deferred->gathers;
        else
            round = NULL;
    }
    pthread_mutex_unlock(&deferred->mutex);
    return round;
}

bool kv_deferred_counts(struct kv_deferred_round *round, size_t index)
{
    const struct kv_batch_op *op = &round->batch->ops[index];
    return find_op(round, kv_batch_key(round->batch, op)) == op;
}

void kv_deferred_settled(struct kv_deferred *deferred)
{
    pthread_mutex_lock(&deferred->mutex);
    end_round(deferred, 0);
    pthread_mutex_unlock(&deferred->mutex);
}

int kv_deferred_settled_but(struct kv_deferred *deferred, const struct kv_batch *kept,
                            uint64_t clusters)
{
    pthread_mutex_lock(&deferred->mutex);
    struct kv_deferred_round *round = &deferred->rounds[deferred->gathers];
    const int err = make_room(round, kept->count, kept->length);
    if (!err) {
        size_t again = 0;
        for (size_t i = 0; i < kept->count; i++)
            if (!find_op(round, kv_batch_key(kept, &kept->ops[i]))) {
                add_op(round, kept, &kept->ops[i]);
                again++;
            }
        round->clusters += clusters;
        end_round(deferred, again);
    }
    pthread_mutex_unlock(&deferred->mutex);
    return err;
}
