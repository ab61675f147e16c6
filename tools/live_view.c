/*
 * tools/live_view.c: figures of a mount as text for people.
 *
 * Owns       nothing; which figures stand where is in the tables here.
 */
#include "tools/live_view.h"

#include <stdlib.h>
#include <string.h>

#include "fs/figures.h"
#include "kv/base.h"
#include "tools/options.h"

#define OPERATIONS_MAX 64u
#define MIB            1048576.0

void tool_view_duration(double ns, char text[TOOL_DURATION_TEXT])
{
    if (ns < 1e3)
        (void)snprintf(text, TOOL_DURATION_TEXT, "%.0f ns", ns);
    else if (ns < 1e6)
        (void)snprintf(text, TOOL_DURATION_TEXT, "%.1f us", ns / 1e3);
    else if (ns < 1e9)
        (void)snprintf(text, TOOL_DURATION_TEXT, "%.2f ms", ns / 1e6);
    else
        (void)snprintf(text, TOOL_DURATION_TEXT, "%.2f s", ns / 1e9);
}

/* ---- operations ----------------------------------------------------------------------- */

struct operation {
    const char *name;
    double count, rate; /* of all; in a second */
    double mean_ns;     /* between the two readings; 0: none came */
};

static double member(const struct tool_figures *figures, const char *group, const char *name,
                     const char *what)
{
    char path[TOOL_FIGURE_PATH];
    (void)snprintf(path, sizeof path, "%s.%s.%s", group, name, what);
    return tool_figure(figures, path);
}

static int busiest_first(const void *a, const void *b)
{
    const struct operation *x = a, *y = b;
    if (x->rate != y->rate)
        return x->rate < y->rate ? 1 : -1;
    return x->count < y->count ? 1 : x->count > y->count ? -1 : strcmp(x->name, y->name);
}

/* The operations of which there were any, the busiest first. before: NULL, since the mount. */
static size_t find_operations(const struct tool_figures *now, const struct tool_figures *before,
                              struct operation operations[OPERATIONS_MAX])
{
    static const char group[] = "requests.";
    size_t count = 0;
    for (size_t i = 0; i < now->count && count < OPERATIONS_MAX; i++) {
        if (strncmp(now->rows[i].path, group, sizeof group - 1) != 0)
            continue;
        const char *name = now->rows[i].path + sizeof group - 1;
        struct operation *operation = &operations[count++];
        *operation = (struct operation){.name = name, .count = now->rows[i].value};
        double times = member(now, "latency_ns", name, "count");
        double sum = member(now, "latency_ns", name, "sum");
        if (before) {
            operation->rate = tool_figure_rate(now, before, now->rows[i].path);
            times -= member(before, "latency_ns", name, "count");
            sum -= member(before, "latency_ns", name, "sum");
        }
        operation->mean_ns = times > 0 && sum > 0 ? sum / times : 0;
    }
    qsort(operations, count, sizeof operations[0], busiest_first);
    return count;
}

static void print_operation(FILE *out, const struct tool_figures *now,
                            const struct operation *operation, bool with_rate)
{
    static const char *const columns[] = {"p50", "p99", "p999", "max"};
    char text[TOOL_DURATION_TEXT];
    fprintf(out, "  %-20s %12.0f", operation->name, operation->count);
    if (with_rate)
        fprintf(out, " %9.0f", operation->rate);
    tool_view_duration(operation->mean_ns, text);
    fprintf(out, " %10s", operation->mean_ns > 0 ? text : "-");
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        const double ns = member(now, "latency_ns", operation->name, columns[i]);
        tool_view_duration(ns, text);
        fprintf(out, " %10s", ns > 0 ? text : "-");
    }
    fputc('\n', out);
}

static void print_operations(FILE *out, const struct tool_figures *now,
                             const struct tool_figures *before)
{
    struct operation operations[OPERATIONS_MAX];
    const size_t count = find_operations(now, before, operations);
    fprintf(out, "  %-20s %12s%s %10s %10s %10s %10s %10s\n", "requests", "count",
            before ? "        /s" : "", "mean", "p50", "p99", "p99.9", "max");
    for (size_t i = 0; i < count; i++)
        print_operation(out, now, &operations[i], before != NULL);
}

/* ---- the rest ------------------------------------------------------------------------- */

/* "1.2 GiB" of a figure. */
static const char *size_of(const struct tool_figures *figures, const char *path,
                           char text[TOOL_SIZE_TEXT])
{
    tool_format_size((uint64_t)tool_figure(figures, path), text);
    return text;
}

/* "98.7 %", or "-" where there is nothing to divide. */
static const char *percent_of(const struct tool_figures *figures, const char *path,
                              char text[TOOL_SIZE_TEXT])
{
    if (tool_figure_is_there(figures, path))
        (void)snprintf(text, TOOL_SIZE_TEXT, "%.1f %%", 100 * tool_figure(figures, path));
    else
        (void)snprintf(text, TOOL_SIZE_TEXT, "-");
    return text;
}

/* A share of what came between the two. */
static const char *percent_between(const struct tool_figures *now,
                                   const struct tool_figures *before, const char *hits,
                                   const char *misses, char text[TOOL_SIZE_TEXT])
{
    const double hit = tool_figure(now, hits) - tool_figure(before, hits);
    const double missed = tool_figure(now, misses) - tool_figure(before, misses);
    if (hit + missed > 0)
        (void)snprintf(text, TOOL_SIZE_TEXT, "%.1f", 100 * hit / (hit + missed));
    else
        (void)snprintf(text, TOOL_SIZE_TEXT, "-");
    return text;
}

static void print_state(FILE *out, const char *dir, const struct tool_figures *now)
{
    char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT], c[TOOL_SIZE_TEXT], d[TOOL_SIZE_TEXT];
    fprintf(out, "%s%s%s\n", dir, tool_figure(now, "read_only") > 0 ? ", read-only" : "",
            tool_figure(now, "failed") > 0 ? ", FAILED: nothing can be written" : "");
    fprintf(out, "  space     %s of %s can still be written (%s), scattered %s\n",
            size_of(now, "store.available_bytes", a), size_of(now, "store.total_bytes", b),
            percent_of(now, "ratios.available_ratio", c),
            percent_of(now, "ratios.scattered_free_ratio", d));
    fprintf(out, "  memory    %s of %s; pages: %.0f hot, %.0f warm, %.0f dirty; extents: %s\n",
            size_of(now, "store.memory_used_bytes", a),
            size_of(now, "store.memory_budget_bytes", b), tool_figure(now, "store.frames_hot"),
            tool_figure(now, "store.frames_warm"), tool_figure(now, "store.frames_dirty"),
            size_of(now, "store.blob_cached_bytes", c));
    fprintf(out, "  hits      pages %s, extents %s; evicted %.0f, promoted %.0f\n",
            percent_of(now, "ratios.page_hit_ratio", a),
            percent_of(now, "ratios.extent_hit_ratio", b), tool_figure(now, "store.page_evictions"),
            tool_figure(now, "store.page_promotions"));
    fprintf(out, "  log       %s of %s in use (%s)\n", size_of(now, "store.log_used_bytes", a),
            size_of(now, "store.log_limit_bytes", b), percent_of(now, "ratios.log_used_ratio", c));
}

/* Histograms of the store: those that are durations, or the others. */
static void print_histograms(FILE *out, const struct tool_figures *now)
{
    static const struct {
        const char *name, *words;
        bool is_duration;
    } rows[] = {
        {"device_read_ns", "device read", true},
        {"device_write_ns", "device write", true},
        {"device_flush_ns", "device flush", true},
        {"log_flush_ns", "log flush", true},
        {"log_group_batches", "log group", false},
        {"checkpoint_ns", "checkpoint", true},
        {"checkpoint_size_bytes", "checkpoint B", false},
        {"pack_none_ns", "pack in vain", true},
        {"pack_lz4_ns", "pack lz4", true},
        {"pack_zstd_ns", "pack zstd", true},
        {"unpack_lz4_ns", "unpack lz4", true},
        {"unpack_zstd_ns", "unpack zstd", true},
    };
    static const char *const columns[] = {"p50", "p99", "p999", "max"};
    fprintf(out, "  %-20s %12s %10s %10s %10s %10s %10s\n", "store", "count", "mean", "p50", "p99",
            "p99.9", "max");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const double count = member(now, "histograms", rows[i].name, "count");
        if (count <= 0)
            continue;
        const double mean = member(now, "histograms", rows[i].name, "sum") / count;
        char text[TOOL_DURATION_TEXT];
        fprintf(out, "  %-20s %12.0f", rows[i].words, count);
        for (size_t j = 0; j <= sizeof columns / sizeof columns[0]; j++) {
            const double value = j ? member(now, "histograms", rows[i].name, columns[j - 1]) : mean;
            if (rows[i].is_duration)
                tool_view_duration(value, text);
            else
                (void)snprintf(text, sizeof text, "%.0f", value);
            fprintf(out, " %10s", text);
        }
        fputc('\n', out);
    }
}

static void print_codecs(FILE *out, const struct tool_figures *now)
{
    for (unsigned i = 0; i < KV_CODEC_COUNT; i++) {
        const char *const codec = kv_codec_name(i);
        const double raw = member(now, "codecs", codec, "packed_raw_bytes");
        const double stored = member(now, "codecs", codec, "packed_stored_bytes");
        if (raw > 0)
            fprintf(out, "  packed    %-5s %.1f MiB to %.1f MiB (%.2f : 1)\n", codec, raw / MIB,
                    stored / MIB, stored > 0 ? raw / stored : 0);
    }
}

void tool_view_totals(FILE *out, const char *dir, const struct tool_figures *now)
{
    char a[TOOL_SIZE_TEXT], b[TOOL_SIZE_TEXT];
    print_state(out, dir, now);
    fprintf(out, "  content   %s read, %s written", size_of(now, "content.read_bytes", a),
            size_of(now, "content.written_bytes", b));
    if (tool_figure_is_there(now, "ratios.write_amplification_ratio"))
        fprintf(out, "; %.2f bytes written to the device for each",
                tool_figure(now, "ratios.write_amplification_ratio"));
    fprintf(out, "\n  device    %.0f reads (%s), %.0f writes (%s), %.0f flushes\n",
            tool_figure(now, "store.device_reads"), size_of(now, "store.device_read_bytes", a),
            tool_figure(now, "store.device_writes"), size_of(now, "store.device_write_bytes", b),
            tool_figure(now, "store.device_flushes"));
    fprintf(out, "  batches   %.0f, %.0f flushes of the log, %.0f checkpoints (%s)\n",
            tool_figure(now, "store.batches"), tool_figure(now, "store.log_flushes"),
            tool_figure(now, "store.checkpoints"), size_of(now, "store.checkpoint_bytes", a));
    fprintf(out, "  inodes    %.0f known (%s)\n", tool_figure(now, "inodes.known"),
            size_of(now, "inodes.memory_bytes", a));
    print_codecs(out, now);
    fputc('\n', out);
    print_operations(out, now, NULL);
    fputc('\n', out);
    print_histograms(out, now);
}

void tool_view_line_head(FILE *out)
{
    fputs("  req/s    mean us  read MiB/s write MiB/s  hit %  dev rd/s  dev wr/s  flush/s  dirty "
          " log %\n",
          out);
}

static double all_requests(const struct tool_figures *now, const struct tool_figures *before)
{
    struct operation operations[OPERATIONS_MAX];
    const size_t count = find_operations(now, before, operations);
    double rate = 0;
    for (size_t i = 0; i < count; i++)
        rate += operations[i].rate;
    return rate;
}

static double mean_latency(const struct tool_figures *now, const struct tool_figures *before)
{
    const double count =
        member(now, "latency_ns", "all", "count") - member(before, "latency_ns", "all", "count");
    const double sum =
        member(now, "latency_ns", "all", "sum") - member(before, "latency_ns", "all", "sum");
    return count > 0 && sum > 0 ? sum / count : 0;
}

void tool_view_line(FILE *out, const struct tool_figures *now, const struct tool_figures *before)
{
    char hits[TOOL_SIZE_TEXT];
    fprintf(out, "%7.0f %10.1f %11.2f %11.2f %6s %9.0f %9.0f %8.0f %6.0f %6.1f\n",
            all_requests(now, before), mean_latency(now, before) / 1e3,
            tool_figure_rate(now, before, "content.read_bytes") / MIB,
            tool_figure_rate(now, before, "content.written_bytes") / MIB,
            percent_between(now, before, "store.page_hits", "store.page_misses", hits),
            tool_figure_rate(now, before, "store.device_reads"),
            tool_figure_rate(now, before, "store.device_writes"),
            tool_figure_rate(now, before, "store.device_flushes"),
            tool_figure(now, "store.frames_dirty"),
            100 * tool_figure(now, "ratios.log_used_ratio"));
}

void tool_view_screen(FILE *out, const char *dir, const struct tool_figures *now,
                      const struct tool_figures *before)
{
    char hits[TOOL_SIZE_TEXT], mean[TOOL_DURATION_TEXT];
    print_state(out, dir, now);
    tool_view_duration(mean_latency(now, before), mean);
    fprintf(
        out, "  now       %.0f requests/s, %s on average; %.2f MiB/s read, %.2f MiB/s written\n",
        all_requests(now, before), mean, tool_figure_rate(now, before, "content.read_bytes") / MIB,
        tool_figure_rate(now, before, "content.written_bytes") / MIB);
    fprintf(out,
            "            pages found %s %%; device: %.0f reads/s (%.2f MiB/s), %.0f writes/s "
            "(%.2f MiB/s), %.0f flushes/s\n",
            percent_between(now, before, "store.page_hits", "store.page_misses", hits),
            tool_figure_rate(now, before, "store.device_reads"),
            tool_figure_rate(now, before, "store.device_read_bytes") / MIB,
            tool_figure_rate(now, before, "store.device_writes"),
            tool_figure_rate(now, before, "store.device_write_bytes") / MIB,
            tool_figure_rate(now, before, "store.device_flushes"));
    fprintf(out, "            %.0f batches/s, %.1f checkpoints a minute\n\n",
            tool_figure_rate(now, before, "store.batches"),
            60 * tool_figure_rate(now, before, "store.checkpoints"));
    print_operations(out, now, before);
    fputc('\n', out);
    print_histograms(out, now);
}
