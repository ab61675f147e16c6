/*
 * bench/kv-compare/comparison.h: all rows with all engines, round by round.
 *
 * Within a row the engines run directly one after the other, in each round another one first, so
 * that what the machine does meanwhile meets all of them alike.
 */
#ifndef BENCH_KV_COMPARE_COMPARISON_H
#define BENCH_KV_COMPARE_COMPARISON_H

#include "bench/kv-compare/memory_limit.h"
#include "bench/kv-compare/report.h"

struct comparison {
    const char *directory; /* ours, empty at the start */
    const char *json_path; /* written after each round; NULL: none */
    bool rows[ROW_COUNT_MAX];
    bool engines[ENGINE_COUNT];
    bool raw; /* the bare device beside the rows that sync */
    struct memory_limit limit;
    uint64_t seed;
    unsigned timeout_s;
    struct report *report; /* its sizes are what is run */
};

/* Rows that make data for those that were asked for are added. */
void comparison_complete_rows(struct comparison *comparison);

/*
 * Run everything. A failure of an engine is a figure; returned is what makes going on useless:
 * no space for directories, no memory, -EINTR after a signal.
 */
KV_MUST_CHECK int comparison_run(struct comparison *comparison);

/* From a signal handler: end after the piece of work that is running. */
void comparison_stop(void);

/* Remove a directory and everything in it. */
KV_MUST_CHECK int comparison_remove(const char *directory);

#endif
