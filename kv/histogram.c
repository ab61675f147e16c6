/*
 * kv/histogram.c: log-linear buckets, alone and in sets that threads add to without locks.
 *
 * Owns       a set's parts: for each processor, a stretch with all histograms of the set.
 * Invariant  a histogram's count is the sum of its buckets, also when it is read while others add.
 * Locks      none. A part is added to by load and store, both relaxed: nothing is ordered by it,
 *            and threads of one processor are hardly ever in it at the same time.
 */
#include "kv/histogram.h"

#include <assert.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kv/base.h"
#include "kv/counter.h"

#define NUMBER_MAX (((uint64_t)1 << KV_HISTOGRAM_TOP_BITS) - 1)

static unsigned bucket_of(uint64_t number)
{
    if (number < KV_HISTOGRAM_STEPS)
        return (unsigned)number;
    if (number > NUMBER_MAX)
        return KV_HISTOGRAM_BUCKETS - 1;
    const unsigned top = 63u - (unsigned)__builtin_clzll(number);
    const unsigned shift = top - KV_HISTOGRAM_STEP_BITS;
    const unsigned step = (unsigned)(number >> shift) - KV_HISTOGRAM_STEPS;
    return (shift + 1) * KV_HISTOGRAM_STEPS + step;
}

static uint64_t highest_in(unsigned bucket)
{
    if (bucket < KV_HISTOGRAM_STEPS)
        return bucket;
    const unsigned shift = bucket / KV_HISTOGRAM_STEPS - 1;
    const uint64_t first = (uint64_t)(KV_HISTOGRAM_STEPS + bucket % KV_HISTOGRAM_STEPS) << shift;
    return first + ((uint64_t)1 << shift) - 1;
}

/* ---- one thread's --------------------------------------------------------------------- */

void kv_histogram_add(struct kv_histogram *histogram, uint64_t number)
{
    histogram->buckets[bucket_of(number)]++;
    histogram->count++;
    histogram->sum += number;
    histogram->max = kv_max_u64(histogram->max, number);
}

void kv_histogram_merge(struct kv_histogram *to, const struct kv_histogram *from)
{
    for (unsigned i = 0; i < KV_HISTOGRAM_BUCKETS; i++)
        to->buckets[i] += from->buckets[i];
    to->count += from->count;
    to->sum += from->sum;
    to->max = kv_max_u64(to->max, from->max);
}

void kv_histogram_subtract(struct kv_histogram *from, const struct kv_histogram *before)
{
    uint64_t count = 0;
    unsigned last = 0;
    for (unsigned i = 0; i < KV_HISTOGRAM_BUCKETS; i++) {
        from->buckets[i] -= kv_min_u64(from->buckets[i], before->buckets[i]);
        count += from->buckets[i];
        if (from->buckets[i])
            last = i;
    }
    const bool overflown = last == KV_HISTOGRAM_BUCKETS - 1;
    from->count = count;
    from->sum -= kv_min_u64(from->sum, before->sum);
    from->max = count && !overflown ? kv_min_u64(from->max, highest_in(last))
                : count             ? from->max
                                    : 0;
}

uint64_t kv_histogram_at(const struct kv_histogram *histogram, unsigned permille)
{
    if (!histogram->count)
        return 0;
    uint64_t wanted; /* how many are to lie below: count * permille / 1000, without overflow */
    wanted = histogram->count / 1000 * permille + histogram->count % 1000 * permille / 1000;
    wanted = kv_min_u64(wanted, histogram->count - 1);
    uint64_t seen = 0;
    unsigned bucket = 0;
    while (bucket < KV_HISTOGRAM_BUCKETS - 1 && seen + histogram->buckets[bucket] <= wanted)
        seen += histogram->buckets[bucket++];
    /* Beyond the last bucket's end all that is known is the greatest. */
    if (bucket == KV_HISTOGRAM_BUCKETS - 1)
        return histogram->max;
    return kv_min_u64(highest_in(bucket), histogram->max);
}

uint64_t kv_histogram_below(const struct kv_histogram *histogram, uint64_t limit)
{
    KV_ASSERT(limit && (limit & (limit - 1)) == 0);
    KV_ASSERT(limit <= NUMBER_MAX + 1);
    const unsigned end = limit > NUMBER_MAX ? KV_HISTOGRAM_BUCKETS : bucket_of(limit);
    uint64_t count = 0;
    for (unsigned i = 0; i < end; i++)
        count += histogram->buckets[i];
    return count;
}

/* ---- sets ----------------------------------------------------------------------------- */

struct part {
    _Atomic uint64_t sum, max;
    _Atomic uint64_t buckets[KV_HISTOGRAM_BUCKETS];
};

struct kv_histogram_set {
    unsigned count, part_count; /* immutable; part_count is a power of two */
    size_t stride;              /* immutable; bytes from one processor's parts to the next's */
    struct part parts[];        /* count for each processor, and a line that nobody uses */
};

static struct part *part_of(const struct kv_histogram_set *set, unsigned processor, unsigned index)
{
    uint8_t *const first = (uint8_t *)(uintptr_t)set->parts;
    return (struct part *)(void *)(first + processor * set->stride) + index;
}

struct kv_histogram_set *kv_histogram_set_new(unsigned count)
{
    const long processors = sysconf(_SC_NPROCESSORS_CONF);
    unsigned part_count = 1;
    while (part_count < KV_COUNTER_PARTS && (long)part_count < processors)
        part_count *= 2;
    const size_t stride = count * sizeof(struct part) + KV_COUNTER_LINE;
    struct kv_histogram_set *set = calloc(1, sizeof *set + part_count * stride);
    if (!set)
        return NULL;
    set->count = count;
    set->part_count = part_count;
    set->stride = stride;
    return set;
}

void kv_histogram_set_free(struct kv_histogram_set *set)
{
    free(set);
}

static void add_relaxed(_Atomic uint64_t *number, uint64_t more)
{
    const uint64_t before = atomic_load_explicit(number, memory_order_relaxed);
    atomic_store_explicit(number, before + more, memory_order_relaxed);
}

void kv_histogram_set_add(struct kv_histogram_set *set, unsigned index, uint64_t number)
{
    KV_ASSERT(index < set->count);
    /* No processor number, no harm: any part will do. */
    struct part *part = part_of(set, (unsigned)sched_getcpu() & (set->part_count - 1), index);
    add_relaxed(&part->buckets[bucket_of(number)], 1);
    add_relaxed(&part->sum, number);
    if (number > atomic_load_explicit(&part->max, memory_order_relaxed))
        atomic_store_explicit(&part->max, number, memory_order_relaxed);
}

void kv_histogram_set_read(const struct kv_histogram_set *set, unsigned index,
                           struct kv_histogram *out)
{
    KV_ASSERT(index < set->count);
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < set->part_count; i++) {
        const struct part *part = part_of(set, i, index);
        /* The greatest first: what is added meanwhile may be in the buckets without it. */
        const uint64_t max = atomic_load_explicit(&part->max, memory_order_relaxed);
        out->max = kv_max_u64(out->max, max);
        out->sum += atomic_load_explicit(&part->sum, memory_order_relaxed);
        if (!max && !atomic_load_explicit(&part->buckets[0], memory_order_relaxed))
            continue; /* nothing was ever added: leave its memory alone */
        for (unsigned bucket = 0; bucket < KV_HISTOGRAM_BUCKETS; bucket++) {
            const uint64_t count =
                atomic_load_explicit(&part->buckets[bucket], memory_order_relaxed);
            out->buckets[bucket] += count;
            out->count += count;
        }
    }
}
