/*
 * fs/figures_text.c: the figures of a mount as JSON, and in the text format of Prometheus.
 *
 * Owns       nothing.
 *
 * JSON has every count, of all categories: they are kept anyway. What is timed is there while its
 * category was on. For Prometheus what is off is left out.
 *
 * Source: Prometheus, "Exposition formats", text-based format version 0.0.4.
 */
#include "fs/figures.h"
#include "fs/text.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- JSON ----------------------------------------------------------------------------- */

static void add_figure(struct fs_text *text, const char *separator, const struct fs_figure *figure,
                       const struct fs_figures *figures)
{
    const uint64_t value = fs_figure_value(figure, figures);
    if (figure->kind == FS_FIGURE_FLAG)
        fs_text_add(text, "%s\"%s\": %s", separator, figure->name, value ? "true" : "false");
    else
        fs_text_add(text, "%s\"%s\": %" PRIu64, separator, figure->name, value);
}

static void add_histogram(struct fs_text *text, const char *separator, const char *name,
                          const struct kv_histogram *histogram)
{
    fs_text_add(text,
                "%s\"%s\": {\"count\": %" PRIu64 ", \"sum\": %" PRIu64 ", \"p50\": %" PRIu64
                ", \"p95\": %" PRIu64 ", \"p99\": %" PRIu64 ", \"p999\": %" PRIu64
                ", \"max\": %" PRIu64 "}",
                separator, name, histogram->count, histogram->sum, kv_histogram_at(histogram, 500),
                kv_histogram_at(histogram, 950), kv_histogram_at(histogram, 990),
                kv_histogram_at(histogram, 999), histogram->max);
}

static void add_latencies(struct fs_text *text, const struct fs_counters *counters)
{
    struct kv_histogram histogram, all = {.count = 0};
    const char *separator = "";
    fs_text_add(text, ", \"latency_ns\": {");
    for (uint32_t opcode = 0; opcode < FS_OPCODE_LIMIT; opcode++) {
        if (!fs_counters_name(opcode))
            continue;
        fs_counters_latency(counters, opcode, &histogram);
        if (!histogram.count)
            continue;
        add_histogram(text, separator, fs_counters_name(opcode), &histogram);
        kv_histogram_merge(&all, &histogram);
        separator = ", ";
    }
    if (all.count)
        add_histogram(text, separator, "all", &all);
    fs_text_add(text, "}");
}

static void add_distributions(struct fs_text *text, struct kv_store *store)
{
    struct kv_histogram histogram;
    const char *separator = "";
    fs_text_add(text, ", \"histograms\": {");
    for (unsigned id = 0; id < KV_HISTOGRAM_COUNT; id++) {
        const struct fs_distribution *distribution = fs_distribution_at(id);
        if (!distribution)
            continue;
        kv_store_histogram(store, (enum kv_histogram_id)id, &histogram);
        if (!histogram.count)
            continue;
        char name[64];
        (void)snprintf(name, sizeof name, "%s%s", distribution->name,
                       distribution->is_duration ? "_ns" : "");
        add_histogram(text, separator, name, &histogram);
        separator = ", ";
    }
    fs_text_add(text, "}");
}

static void add_codecs(struct fs_text *text, const struct kv_stats *store)
{
    fs_text_add(text, ", \"codecs\": {");
    for (unsigned i = 0; i < KV_CODEC_COUNT; i++)
        fs_text_add(text,
                    "%s\"%s\": {\"packed_raw_bytes\": %" PRIu64
                    ", \"packed_stored_bytes\": %" PRIu64 ", \"unpacked_bytes\": %" PRIu64 "}",
                    i ? ", " : "", kv_codec_name(i), store->packed_raw_bytes[i],
                    store->packed_stored_bytes[i], store->unpacked_bytes[i]);
    fs_text_add(text, "}");
}

static void add_ratios(struct fs_text *text, const struct fs_figures *figures)
{
    const char *separator = "";
    fs_text_add(text, ", \"ratios\": {");
    for (size_t i = 0; fs_ratio_at(i); i++) {
        const double value = fs_ratio_at(i)->value(figures);
        if (value < 0)
            fs_text_add(text, "%s\"%s\": null", separator, fs_ratio_at(i)->name);
        else
            fs_text_add(text, "%s\"%s\": %.6f", separator, fs_ratio_at(i)->name, value);
        separator = ", ";
    }
    fs_text_add(text, "}");
}

size_t fs_figures_json(const struct fs_figures *figures, struct kv_store *store,
                       const struct fs_counters *counters, char *out, size_t cap)
{
    struct fs_text text = {.out = out, .cap = cap};
    char categories[FS_CATEGORIES_TEXT];
    fs_categories_text(figures->categories, categories);
    fs_text_add(&text, "{\"read_only\": %s, \"requests\": ", figures->read_only ? "true" : "false");
    const bool fits = text.length < cap;
    text.length +=
        fs_counters_json(counters, fits ? out + text.length : NULL, fits ? cap - text.length : 0);
    fs_text_add(&text, ", \"mount\": {");
    for (size_t i = 0; fs_figure_of_mount(i); i++)
        add_figure(&text, i ? ", " : "", fs_figure_of_mount(i), figures);
    fs_text_add(&text,
                "}, \"inodes\": {\"known\": %" PRIu64 ", \"memory_bytes\": %" PRIu64
                "}, \"content\": {\"read_bytes\": %" PRIu64 ", \"written_bytes\": %" PRIu64
                "}, \"failed\": %s, \"metrics\": \"%s\", \"version\": \"" KVFS_VERSION
                "\", \"store\": {",
                figures->inode_count, figures->inode_bytes, figures->read_bytes,
                figures->written_bytes, figures->failed ? "true" : "false", categories);
    for (size_t i = 0; fs_figure_of_store(i); i++)
        add_figure(&text, i ? ", " : "", fs_figure_of_store(i), figures);
    fs_text_add(&text, "}");
    add_ratios(&text, figures);
    add_codecs(&text, &figures->store);
    add_latencies(&text, counters);
    add_distributions(&text, store);
    fs_text_add(&text, "}\n");
    return text.length;
}

/* ---- Prometheus ----------------------------------------------------------------------- */

/* Bounds of the buckets that are told: powers of two, so that the counts are exact. */
#define LEAST_BIT_NS    10u /* about 1 us */
#define GREATEST_BIT_NS 34u /* about 17 s */
#define LEAST_BIT       0u
#define GREATEST_BIT    34u
#define BIT_STEP        2u

static void add_header(struct fs_text *text, const char *name, const char *help, const char *type)
{
    fs_text_add(text, "# HELP kvfs_%s %s\n# TYPE kvfs_%s %s\n", name, help, name, type);
}

static void add_metric(struct fs_text *text, const struct fs_figure *figure,
                       const struct fs_figures *figures)
{
    const uint64_t value = fs_figure_value(figure, figures);
    char name[96];
    if (figure->category && !(figure->category & figures->categories))
        return;
    if (figure->kind == FS_FIGURE_TIME_NS) {
        (void)snprintf(name, sizeof name, "%.*s_timestamp_seconds",
                       (int)(strlen(figure->name) - strlen("_ns")), figure->name);
        add_header(text, name, figure->help, "gauge");
        fs_text_add(text, "kvfs_%s %" PRIu64 ".%09" PRIu64 "\n", name, value / 1000000000u,
                    value % 1000000000u);
        return;
    }
    if (figure->kind == FS_FIGURE_DURATION_NS) {
        (void)snprintf(name, sizeof name, "%.*s_seconds_total",
                       (int)(strlen(figure->name) - strlen("_ns")), figure->name);
        add_header(text, name, figure->help, "counter");
        fs_text_add(text, "kvfs_%s %" PRIu64 ".%09" PRIu64 "\n", name, value / 1000000000u,
                    value % 1000000000u);
        return;
    }
    const bool counts = figure->kind == FS_FIGURE_COUNTER;
    (void)snprintf(name, sizeof name, "%s%s", figure->metric ? figure->metric : figure->name,
                   counts ? "_total" : "");
    add_header(text, name, figure->help, counts ? "counter" : "gauge");
    fs_text_add(text, "kvfs_%s %" PRIu64 "\n", name, value);
}

/* label: "op=\"read\"" or "". Durations are told in seconds. */
static void add_buckets(struct fs_text *text, const char *name, const char *label, bool is_duration,
                        const struct kv_histogram *histogram)
{
    const char *comma = *label ? "," : "";
    const unsigned least = is_duration ? LEAST_BIT_NS : LEAST_BIT;
    const unsigned greatest = is_duration ? GREATEST_BIT_NS : GREATEST_BIT;
    for (unsigned bit = least; bit <= greatest; bit += BIT_STEP) {
        /* All numbers are whole: what is below 2^n is at most 2^n - 1. */
        const uint64_t limit = (uint64_t)1 << bit;
        const uint64_t bound = limit - 1;
        fs_text_add(text, "kvfs_%s_bucket{%s%sle=\"", name, label, comma);
        if (is_duration)
            fs_text_add(text, "%" PRIu64 ".%09" PRIu64, bound / 1000000000u, bound % 1000000000u);
        else
            fs_text_add(text, "%" PRIu64, bound);
        fs_text_add(text, "\"} %" PRIu64 "\n", kv_histogram_below(histogram, limit));
    }
    fs_text_add(text, "kvfs_%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, label, comma,
                histogram->count);
    const char *open = *label ? "{" : "", *close = *label ? "}" : "";
    if (is_duration)
        fs_text_add(text, "kvfs_%s_sum%s%s%s %" PRIu64 ".%09" PRIu64 "\n", name, open, label, close,
                    histogram->sum / 1000000000u, histogram->sum % 1000000000u);
    else
        fs_text_add(text, "kvfs_%s_sum%s%s%s %" PRIu64 "\n", name, open, label, close,
                    histogram->sum);
    fs_text_add(text, "kvfs_%s_count%s%s%s %" PRIu64 "\n", name, open, label, close,
                histogram->count);
}

static void add_requests(struct fs_text *text, const struct fs_counters *counters)
{
    add_header(text, "requests_total", "Requests of the kernel, by operation", "counter");
    for (uint32_t opcode = 0; opcode < FS_OPCODE_LIMIT; opcode++) {
        const uint64_t count =
            atomic_load_explicit(&counters->requests[opcode], memory_order_relaxed);
        if (count && fs_counters_name(opcode))
            fs_text_add(text, "kvfs_requests_total{op=\"%s\"} %" PRIu64 "\n",
                        fs_counters_name(opcode), count);
    }
    add_header(text, "request_duration_seconds", "Time until a request was served, by operation",
               "histogram");
    for (uint32_t opcode = 0; opcode < FS_OPCODE_LIMIT; opcode++) {
        struct kv_histogram histogram;
        char label[64];
        if (!fs_counters_name(opcode))
            continue;
        fs_counters_latency(counters, opcode, &histogram);
        if (!histogram.count)
            continue;
        (void)snprintf(label, sizeof label, "op=\"%s\"", fs_counters_name(opcode));
        add_buckets(text, "request_duration_seconds", label, true, &histogram);
    }
}

static void add_store_histograms(struct fs_text *text, const struct fs_figures *figures,
                                 struct kv_store *store)
{
    for (unsigned id = 0; id < KV_HISTOGRAM_COUNT; id++) {
        const struct fs_distribution *distribution = fs_distribution_at(id);
        if (!distribution || !(distribution->category & figures->categories))
            continue;
        struct kv_histogram histogram;
        char name[96];
        kv_store_histogram(store, (enum kv_histogram_id)id, &histogram);
        (void)snprintf(name, sizeof name, "%s%s", distribution->name,
                       distribution->is_duration ? "_duration_seconds" : "");
        add_header(text, name, distribution->help, "histogram");
        add_buckets(text, name, "", distribution->is_duration, &histogram);
    }
}

static void add_codec_bytes(struct fs_text *text, const char *name, const char *help,
                            const uint64_t bytes[KV_CODEC_COUNT])
{
    add_header(text, name, help, "counter");
    for (unsigned i = 0; i < KV_CODEC_COUNT; i++)
        fs_text_add(text, "kvfs_%s{codec=\"%s\"} %" PRIu64 "\n", name, kv_codec_name(i), bytes[i]);
}

size_t fs_figures_prometheus(const struct fs_figures *figures, struct kv_store *store,
                             const struct fs_counters *counters, char *out, size_t cap)
{
    struct fs_text text = {.out = out, .cap = cap};
    add_header(&text, "build_info", "1, and the version of the daemon", "gauge");
    fs_text_add(&text, "kvfs_build_info{version=\"" KVFS_VERSION "\"} 1\n");
    for (size_t i = 0; fs_figure_of_mount(i); i++)
        add_metric(&text, fs_figure_of_mount(i), figures);
    for (size_t i = 0; fs_figure_of_store(i); i++)
        add_metric(&text, fs_figure_of_store(i), figures);
    for (size_t i = 0; fs_ratio_at(i); i++) {
        const struct fs_ratio *ratio = fs_ratio_at(i);
        const double value = ratio->value(figures);
        if (!(ratio->category & figures->categories) || value < 0)
            continue;
        add_header(&text, ratio->name, ratio->help, "gauge");
        fs_text_add(&text, "kvfs_%s %.6f\n", ratio->name, value);
    }
    if (figures->categories & KV_METRIC_CODEC) {
        const struct kv_stats *stats = &figures->store;
        add_codec_bytes(&text, "packed_raw_bytes_total", "Bytes before they were packed, by codec",
                        stats->packed_raw_bytes);
        add_codec_bytes(&text, "packed_stored_bytes_total", "Bytes that were left of them",
                        stats->packed_stored_bytes);
        add_codec_bytes(&text, "unpacked_bytes_total", "Bytes after they were unpacked, by codec",
                        stats->unpacked_bytes);
    }
    if (figures->categories & KV_METRIC_FUSE)
        add_requests(&text, counters);
    add_store_histograms(&text, figures, store);
    return text.length;
}
