/*
 * kv/batch_order.c: in which order the keys of a batch come.
 *
 * Owns       nothing but what it allocates for the call.
 * Invariant  operations of the same key keep the order in which the batch has them.
 * Locks      none: a batch belongs to one thread at a time.
 *
 * Keys of one batch mostly begin alike: they are told apart by the eight bytes behind what all of
 * them have in common, by a radix sort (Knuth, volume 3, 5.2.5) over those of the eight that
 * differ. Where these bytes are the same the whole keys decide.
 */
#include "kv/batch.h"

#include "kv/format.h"

#define HEAD_BYTES 8u
#define DIGITS     256u

struct entry {
    uint64_t head; /* the eight bytes as a number, zeroes behind a shorter key */
    uint32_t op;   /* which of the batch's */
};

/* How many bytes all keys begin with. */
static size_t shared_bytes(const struct kv_batch *batch)
{
    const struct kv_span first = kv_batch_key(batch, &batch->ops[0]);
    size_t shared = first.length;
    for (size_t i = 1; i < batch->count && shared; i++) {
        const struct kv_span key = kv_batch_key(batch, &batch->ops[i]);
        shared = kv_min_u64(shared, key.length);
        if (!memcmp(first.data, key.data, shared))
            continue;
        size_t same = 0;
        while (first.data[same] == key.data[same])
            same++;
        shared = same;
    }
    return shared;
}

static int compare_ops(const struct kv_batch *batch, uint32_t left, uint32_t right)
{
    const struct kv_span a = kv_batch_key(batch, &batch->ops[left]);
    const struct kv_span b = kv_batch_key(batch, &batch->ops[right]);
    const int order = kv_key_compare(a.data, a.length, b.data, b.length);
    return order ? order : (left > right) - (left < right);
}

static bool is_ascending(const struct kv_batch *batch)
{
    for (uint32_t i = 1; i < batch->count; i++)
        if (compare_ops(batch, i - 1, i) > 0)
            return false;
    return true;
}

static void take_heads(const struct kv_batch *batch, size_t shared, struct entry *entries)
{
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct kv_span key = kv_batch_key(batch, &batch->ops[i]);
        uint8_t head[HEAD_BYTES] = {0};
        const size_t left = key.length - shared;
        if (left >= HEAD_BYTES)
            memcpy(head, key.data + shared, HEAD_BYTES);
        else
            memcpy(head, key.data + shared, left);
        entries[i] = (struct entry){.head = kv_be64_take(head), .op = i};
    }
}

/* Sort by heads; what is equal stays in order. Returns where the result lies: one of the two. */
static struct entry *sort_heads(struct entry *entries, struct entry *other, size_t count)
{
    uint64_t differ = 0;
    for (size_t i = 1; i < count; i++)
        differ |= entries[i].head ^ entries[0].head;
    for (unsigned shift = 0; shift < 8 * HEAD_BYTES; shift += 8) {
        if (!(differ >> shift & (DIGITS - 1)))
            continue;
        uint32_t ends[DIGITS] = {0};
        for (size_t i = 0; i < count; i++)
            ends[entries[i].head >> shift & (DIGITS - 1)]++;
        for (unsigned digit = 1; digit < DIGITS; digit++)
            ends[digit] += ends[digit - 1];
        for (size_t i = count; i-- > 0;)
            other[--ends[entries[i].head >> shift & (DIGITS - 1)]] = entries[i];
        struct entry *const sorted = other;
        other = entries;
        entries = sorted;
    }
    return entries;
}

static int compare_entries(const void *left, const void *right, void *batch)
{
    return compare_ops(batch, ((const struct entry *)left)->op, ((const struct entry *)right)->op);
}

/* Among equal heads the whole keys decide. */
static void sort_equal_heads(const struct kv_batch *batch, struct entry *entries)
{
    for (size_t at = 0, end; at < batch->count; at = end) {
        bool ordered = true;
        for (end = at + 1; end < batch->count && entries[end].head == entries[at].head; end++)
            ordered = ordered && compare_ops(batch, entries[end - 1].op, entries[end].op) < 0;
        if (!ordered)
            qsort_r(entries + at, end - at, sizeof *entries, compare_entries, (void *)batch);
    }
}

void kv_batch_order(const struct kv_batch *batch, struct kv_record_order *order)
{
    order->count = 0;
    if (batch->length > UINT32_MAX || batch->count < 2 || is_ascending(batch))
        return;
    uint32_t *places = malloc(batch->count * sizeof *places);
    struct entry *entries = malloc(2 * batch->count * sizeof *entries);
    if (places && entries) {
        take_heads(batch, shared_bytes(batch), entries);
        struct entry *const sorted = sort_heads(entries, entries + batch->count, batch->count);
        sort_equal_heads(batch, sorted);
        for (size_t i = 0; i < batch->count; i++)
            places[i] = (uint32_t)kv_batch_op_at(batch, sorted[i].op);
        free(order->places);
        order->places = places;
        order->count = batch->count;
        places = NULL;
    }
    free(entries);
    free(places);
}
