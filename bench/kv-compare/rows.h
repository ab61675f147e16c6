/*
 * bench/kv-compare/rows.h: the rows of the comparison: what is done, and what is asked of it.
 */
#ifndef BENCH_KV_COMPARE_ROWS_H
#define BENCH_KV_COMPARE_ROWS_H

#include "bench/kv-compare/workload.h"

/* Records that a row makes, or that it needs a row before it to have made. */
enum row_data {
    ROW_FRESH,  /* its own, gone after it */
    ROW_RANDOM, /* loaded at random, small values */
    ROW_LARGE   /* loaded at random, values of 4 KiB */
};

enum row_measure { ROW_PER_SECOND, ROW_DISK_BYTES, ROW_LONGEST };

enum row_goal {
    ROW_SHOWN,     /* no goal */
    ROW_BEST_PEER, /* ratio to the best of the others */
    ROW_PEER,      /* ratio to `other` */
    ROW_OWN_ROW,   /* ratio to our own figure in row `other` */
    ROW_RAW,       /* ratio to the bare device in this row */
    ROW_ABSOLUTE   /* the figure itself; shown beside the bare machine's, here or in `other` */
};

struct row {
    const char *name;   /* on the command line and in the results */
    const char *title;  /* in the table */
    const char *from;   /* NULL; else it is another figure of that row, and does no work */
    const char *engine; /* whose figure is judged; NULL: kvfs */
    enum row_data data;
    bool makes_data;
    bool both_codecs; /* kvfs-none, too */
    enum row_measure measure;
    enum workload_operation operation;
    enum workload_pick pick;
    unsigned thread_count;
    unsigned batch_count; /* 0: 1 */
    bool sync, limited;
    bool raw;      /* the bare machine does what is like it ... */
    bool raw_only; /* ... and nobody else */
    enum row_goal goal_kind;
    const char *other;
    double goal; /* at least; ROW_DISK_BYTES and ROW_LONGEST (ns): at most */
};

/* In the order in which they run: what makes data stands before what needs it. */
const struct row *row_at(unsigned index); /* NULL after the last */
const struct row *row_named(const char *name);
unsigned row_index(const struct row *row);
#define ROW_COUNT_MAX 32u

/* Which row makes the data that this one needs; NULL: none. */
const struct row *row_maker(enum row_data data);

#endif
