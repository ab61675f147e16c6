/*
 * bench/kv-compare/histogram.h: how long operations took, in memory that does not grow.
 *
 * A sample of every operation of a fill would take more memory than some of the stores under
 * test, whose memory is measured. So samples are counted in buckets that are at most 1/32 wide.
 *
 * Threads    one at a time.
 */
#ifndef BENCH_KV_COMPARE_HISTOGRAM_H
#define BENCH_KV_COMPARE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS   32u /* buckets in each power of two */
#define HISTOGRAM_BUCKETS (HISTOGRAM_STEPS * 60u)

/* All zero at the start. */
struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t total, longest_ns;
};

void histogram_add(struct histogram *histogram, uint64_t ns);
void histogram_merge(struct histogram *to, const struct histogram *from);
/* What `permille` of 1000 samples did not exceed, rounded up to its bucket; 0: no samples. */
uint64_t histogram_at(const struct histogram *histogram, unsigned permille);

#endif
