/*
 * bench/kv-compare/report.h: what was measured, as JSON and as tables.
 *
 * Threads    one.
 */
#ifndef BENCH_KV_COMPARE_REPORT_H
#define BENCH_KV_COMPARE_REPORT_H

#include <stdio.h>

#include "bench/kv-compare/rows.h"
#include "bench/machine.h"

#define REPORT_ROUNDS_MAX 31u
#define REPORT_SIZES_MAX  4u
#define REPORT_ENGINES    (ENGINE_COUNT + 1u)
#define REPORT_RAW        ENGINE_COUNT /* the bare device, behind the engines */
#define REPORT_TEXT       MACHINE_TEXT

/* One engine in one row at one size. */
struct figure {
    unsigned round_count;
    double per_second[REPORT_ROUNDS_MAX], per_cpu_second[REPORT_ROUNDS_MAX];
    /* Of the round in the middle: latencies. Of all rounds: the longest, the peak. */
    uint64_t p50_ns[REPORT_ROUNDS_MAX], p99_ns[REPORT_ROUNDS_MAX], p999_ns[REPORT_ROUNDS_MAX];
    uint64_t longest_ns, peak_rss_bytes;
    uint64_t operation_count, disk_bytes, used_bytes, written_bytes, cpu_ns; /* of the last */
    char failure[REPORT_TEXT];                                               /* empty: none */
};

struct size_report {
    uint64_t record_count, large_count;
    uint64_t cache_bytes, limit_bytes; /* of the rows that fit; of those that do not */
    struct figure figures[ROW_COUNT_MAX][REPORT_ENGINES];
};

struct report {
    struct machine machine;
    char options[REPORT_TEXT];
    char memory_limit[REPORT_TEXT];           /* how memory was limited; empty: it was not */
    char versions[ENGINE_COUNT][REPORT_TEXT]; /* empty: not built in */
    uint64_t round_count, value_bytes, large_value_bytes;
    uint64_t seconds_ms; /* of each row that runs for a time */
    unsigned size_count;
    struct size_report *sizes[REPORT_SIZES_MAX]; /* owned */
};

void report_release(struct report *report);

/* Add the result of a round. why: not NULL: it failed. */
void report_add(struct figure *figure, const struct workload_result *result, const char *why);

void report_write_json(const struct report *report, FILE *out);
/* Read what report_write_json wrote. `why` as in process_run. */
KV_MUST_CHECK int report_read_json(FILE *in, struct report *report, char *why, size_t why_cap);

/* The tables, in Markdown. */
void report_write_tables(const struct report *report, FILE *out);

#endif
