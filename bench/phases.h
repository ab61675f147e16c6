/*
 * bench/phases.h: the phases of a benchmark: which are chosen, and what their runs add up to.
 *
 * Owns       tallies of threads, results of phases.
 * Invariant  every run of a phase does the same operations with the same checksum; one that does
 *            not is an error, so that a figure never stands for less work than the others.
 * Threads    a tally belongs to one thread at a time, everything else to the one that collects.
 */
#ifndef BENCH_PHASES_H
#define BENCH_PHASES_H

#include "bench/measure.h"

#define PHASE_RUNS_MAX 1000u

/* What one thread did in a run of a phase. */
struct phase_tally {
    struct measure_latencies latencies;
    uint64_t operation_count;
    uint64_t checksum; /* a sum, so that it does not depend on the order */
};

/* All zero at the start. */
struct phase_result {
    struct measure_latencies latencies; /* of all runs */
    double ops_per_s[PHASE_RUNS_MAX];
    uint64_t operation_count; /* of one run */
    uint64_t checksum;
    struct phase_tally running; /* of the run that is being collected */
};

/* Move what a thread did to the run that is being collected; its tally is empty after it. */
KV_MUST_CHECK int phase_result_take(struct phase_result *result, struct phase_tally *tally);
/*
 * End run `run` (from 0): the threads together must have done `operation_count` operations, with
 * the checksum of the runs before.
 *
 * Returns 0; -EUCLEAN otherwise.
 */
KV_MUST_CHECK int phase_result_end_run(struct phase_result *result, unsigned run,
                                       uint64_t operation_count, uint64_t elapsed_ns);
void phase_result_release(struct phase_result *result);

/* The name of a phase; NULL from the last one on. */
typedef const char *phase_name_fn(unsigned phase);

/* Select the phases of a comma-separated list, which is cut up. -EINVAL: there is no such phase. */
KV_MUST_CHECK int phase_select(phase_name_fn *name, char *list, bool *selected);

#endif
