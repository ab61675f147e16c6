/* bench/kv-compare/histogram.c: see histogram.h. */
#include "bench/kv-compare/histogram.h"

#include <assert.h>

#include "kv/base.h"

#define STEP_BITS 5u
static_assert(1u << STEP_BITS == HISTOGRAM_STEPS, "the steps of a power of two");

/* Numbers below HISTOGRAM_STEPS have a bucket each; above, the five bits after the highest count.
 */
static unsigned bucket_of(uint64_t ns)
{
    if (ns < HISTOGRAM_STEPS)
        return (unsigned)ns;
    const unsigned top = 63u - (unsigned)__builtin_clzll(ns);
    const unsigned step = (unsigned)(ns >> (top - STEP_BITS)) - HISTOGRAM_STEPS;
    return (top - STEP_BITS + 1) * HISTOGRAM_STEPS + step;
}

static uint64_t highest_in(unsigned bucket)
{
    if (bucket < HISTOGRAM_STEPS)
        return bucket;
    const unsigned shift = bucket / HISTOGRAM_STEPS - 1;
    const uint64_t first = (uint64_t)(HISTOGRAM_STEPS + bucket % HISTOGRAM_STEPS) << shift;
    return first + ((uint64_t)1 << shift) - 1;
}

void histogram_add(struct histogram *histogram, uint64_t ns)
{
    histogram->counts[bucket_of(ns)]++;
    histogram->total++;
    histogram->longest_ns = kv_max_u64(histogram->longest_ns, ns);
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        to->counts[i] += from->counts[i];
    to->total += from->total;
    to->longest_ns = kv_max_u64(to->longest_ns, from->longest_ns);
}

uint64_t histogram_at(const struct histogram *histogram, unsigned permille)
{
    if (!histogram->total)
        return 0;
    const uint64_t wanted = kv_min_u64(histogram->total * permille / 1000, histogram->total - 1);
    uint64_t seen = 0;
    unsigned bucket = 0;
    while (seen + histogram->counts[bucket] <= wanted)
        seen += histogram->counts[bucket++];
    return kv_min_u64(highest_in(bucket), histogram->longest_ns);
}
