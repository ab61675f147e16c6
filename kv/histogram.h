/*
 * kv/histogram.h: how numbers are distributed, in memory that does not grow: latencies, sizes.
 *
 * Log-linear buckets: numbers below 32 have a bucket each; above, each power of two is cut into
 * 32 buckets of the same width. What is told of a number is the top of its bucket, so it is never
 * too small and at most 1/32 (3.2 percent) too large. Numbers from 2^42 on (73 minutes of
 * nanoseconds) share the last bucket; the sum and the greatest are exact. (HdrHistogram, Tene 2012,
 * with fixed bounds.)
 *
 * Two forms: struct kv_histogram is one thread's, or what was read of the other; a set
 * (struct kv_histogram_set) is what many threads add to at once without locks. Each processor has
 * its own part of a set, which are put together when it is read. Like kv/counter.h a set is not
 * exact: two threads that take turns on one processor in the middle of an addition may lose one.
 *
 * Threads    a histogram: one at a time. A set: any, but for new and free.
 */
#ifndef KV_HISTOGRAM_H
#define KV_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define KV_HISTOGRAM_STEP_BITS 5u
#define KV_HISTOGRAM_STEPS     (1u << KV_HISTOGRAM_STEP_BITS) /* buckets in each power of two */
#define KV_HISTOGRAM_TOP_BITS  42u
#define KV_HISTOGRAM_BUCKETS                                                                       \
    (KV_HISTOGRAM_STEPS * (KV_HISTOGRAM_TOP_BITS - KV_HISTOGRAM_STEP_BITS + 1u))

/* All zero at the start. */
struct kv_histogram {
    uint64_t count, sum, max;
    uint64_t buckets[KV_HISTOGRAM_BUCKETS];
};

void kv_histogram_add(struct kv_histogram *histogram, uint64_t number);
void kv_histogram_merge(struct kv_histogram *to, const struct kv_histogram *from);
/* What came since `before`, an earlier reading of the same: the greatest is that of its bucket. */
void kv_histogram_subtract(struct kv_histogram *from, const struct kv_histogram *before);
/* What `permille` of 1000 numbers did not exceed, rounded up to its bucket; 0: no numbers. */
uint64_t kv_histogram_at(const struct kv_histogram *histogram, unsigned permille);
/* How many numbers were below `limit`, which must be a power of two, at most 2^42: exact. */
uint64_t kv_histogram_below(const struct kv_histogram *histogram, uint64_t limit);

struct kv_histogram_set;

/* `count` histograms. NULL: no memory. Memory that is never added to is never touched. */
struct kv_histogram_set *kv_histogram_set_new(unsigned count);
void kv_histogram_set_free(struct kv_histogram_set *set); /* NULL is fine */
void kv_histogram_set_add(struct kv_histogram_set *set, unsigned index, uint64_t number);
void kv_histogram_set_read(const struct kv_histogram_set *set, unsigned index,
                           struct kv_histogram *out);

#endif
