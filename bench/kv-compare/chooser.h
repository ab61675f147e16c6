/*
 * bench/kv-compare/chooser.h: which record comes next.
 *
 * Invariant  the same seed gives the same numbers, whatever engine asks.
 * Threads    one at a time; chooser_init of equal arguments gives equal choosers.
 */
#ifndef BENCH_KV_COMPARE_CHOOSER_H
#define BENCH_KV_COMPARE_CHOOSER_H

#include "bench/kv-compare/workload.h"
#include "bench/zipf.h"

struct chooser {
    enum workload_pick pick;
    uint64_t record_count;
    uint64_t seed;
    uint64_t at, step; /* numbers drawn so far, from `at` on by `step` */
    unsigned bits;     /* of record_count, for the shuffle */
    struct zipf zipf;
};

/* Thread `thread` of `thread_count` draws its share of what one would draw. */
void chooser_init(struct chooser *chooser, const struct workload *work, unsigned thread);
uint64_t chooser_next(struct chooser *chooser);
/* A number in which each draw is random by itself, also where records are drawn in order. */
uint64_t chooser_random(const struct chooser *chooser);

#endif
