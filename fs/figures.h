/*
 * fs/figures.h: all that a mount can be asked for in numbers, as one table.
 *
 * A figure is a row of the table in figures.c: its name, in JSON and in the metrics, its category,
 * and where it stands in struct fs_figures. Whoever has one more adds a row there.
 *
 * Threads: any.
 */
#ifndef FS_FIGURES_H
#define FS_FIGURES_H

#include "fs/counters.h"
#include "fs/volume.h"

/* Of about one moment; each layer's own are of one. */
struct fs_figures {
    unsigned categories; /* enum kv_metric_category that are on */
    bool read_only;      /* as it was mounted */
    bool failed;         /* a write failed: nothing can be written any more */
    struct kv_stats store;
    uint64_t inode_count, inode_bytes;
    uint64_t read_bytes, written_bytes; /* content, as programs see it */
    uint64_t threads, thread_waits;     /* as in struct fs_counters, and the next */
    uint64_t names_again, reads_again;
    uint64_t long_reads, long_read_bytes, long_read_pieces; /* struct fs_long_reads */
    uint64_t cpu_ns;                                        /* of the whole process */
    uint64_t uptime_ns;
};

void fs_figures_read(struct fs_volume *volume, const struct fs_counters *counters, bool read_only,
                     struct fs_figures *figures);

enum fs_figure_kind {
    FS_FIGURE_COUNTER, /* only grows */
    FS_FIGURE_GAUGE,
    FS_FIGURE_FLAG,        /* a bool */
    FS_FIGURE_TIME_NS,     /* since 1970 */
    FS_FIGURE_DURATION_NS, /* a sum, which only grows */
};

struct fs_figure {
    const char *name; /* with its unit, but for what is counted by ones */
    const char *help;
    unsigned category; /* 0: always told */
    enum fs_figure_kind kind;
    size_t offset;      /* in struct fs_figures */
    const char *metric; /* its name in the metrics, where `name` would be misread there; or NULL */
};

/* The rows that are about the store, then those about the mount; NULL past the last. */
const struct fs_figure *fs_figure_of_store(size_t index);
const struct fs_figure *fs_figure_of_mount(size_t index);
uint64_t fs_figure_value(const struct fs_figure *figure, const struct fs_figures *figures);

/* What is computed from several of them; below 0: it makes no sense (yet). */
struct fs_ratio {
    const char *name; /* ends in _ratio */
    const char *help;
    unsigned category;
    double (*value)(const struct fs_figures *figures);
};
const struct fs_ratio *fs_ratio_at(size_t index);

/* The store's histograms, by enum kv_histogram_id. */
struct fs_distribution {
    const char *name; /* with its unit, as in JSON */
    const char *help;
    unsigned category;
    bool is_duration; /* nanoseconds; else plain numbers */
};
const struct fs_distribution *fs_distribution_at(unsigned id); /* NULL: no such */

/* A category's word, "cache"; NULL past the last. */
const char *fs_category_name(size_t index, unsigned *bit);
/*
 * "cache,wal" as enum kv_metric_category; "all" and "none" are words, too. "cache+wal" is the same,
 * for options, whose list is cut at commas. -EINVAL another word.
 */
KV_MUST_CHECK int fs_categories_parse(const char *text, unsigned *categories);
/* The other way round; cap: at least FS_CATEGORIES_TEXT. */
#define FS_CATEGORIES_TEXT 64u
void fs_categories_text(unsigned categories, char *text);

/* ---- as texts; like snprintf: each returns the length that the text has -------------------- */

/* JSON: requests by operation, inodes, the store's figures, ratios, latencies. */
size_t fs_figures_json(const struct fs_figures *figures, struct kv_store *store,
                       const struct fs_counters *counters, char *out, size_t cap);
/* The text format of Prometheus, version 0.0.4: what is of a category that is on. */
size_t fs_figures_prometheus(const struct fs_figures *figures, struct kv_store *store,
                             const struct fs_counters *counters, char *out, size_t cap);

#endif
