/*
 * bench/kv-compare/tables.c: what was measured, as tables in Markdown.
 *
 * A figure is the median of the rounds; a ratio is that of two medians. "Best" is the best of the
 * others, our own variants and the bare device left out.
 */
#include <math.h>
#include <string.h>

#include "bench/kv-compare/report.h"
#include "bench/measure.h"

#define CELL 48u

enum judgement { NOT_JUDGED, SHOWN, MET, MISSED };

struct verdict {
    enum judgement judgement;
    double own, other; /* 0: none */
    char other_name[CELL];
    double ratio; /* or the figure itself, of ROW_ABSOLUTE; 0: none */
};

static bool less_is_better(const struct row *row)
{
    return row->measure != ROW_PER_SECOND;
}

static bool is_peer(unsigned engine)
{
    return engine < ENGINE_COUNT && strncmp(engine_at(engine)->name, "kvfs", 4) != 0;
}

static double median_of(const double *values, unsigned count)
{
    double sorted[REPORT_ROUNDS_MAX];
    memcpy(sorted, values, sizeof sorted);
    return measure_median(sorted, count);
}

static double median_rate(const struct figure *figure)
{
    return median_of(figure->per_second, figure->round_count);
}

static uint64_t median_ns(const uint64_t *ns, unsigned count)
{
    double values[REPORT_ROUNDS_MAX];
    for (unsigned i = 0; i < count; i++)
        values[i] = (double)ns[i];
    return (uint64_t)measure_median(values, count);
}

static const struct figure *figure_of(const struct size_report *size, const struct row *row,
                                      unsigned engine)
{
    const struct row *source = row->from ? row_named(row->from) : row;
    return &size->figures[row_index(source)][engine];
}

/* 0: there is none. */
static double value_of(const struct size_report *size, const struct row *row, unsigned engine)
{
    const struct figure *figure = figure_of(size, row, engine);
    if (!figure->round_count || figure->failure[0])
        return 0;
    switch (row->measure) {
    case ROW_DISK_BYTES:
        return engine == REPORT_RAW ? 0 : (double)figure->disk_bytes;
    case ROW_LONGEST:
        return (double)figure->longest_ns;
    case ROW_PER_SECOND:
        break;
    }
    return median_rate(figure);
}

static unsigned engine_index(const char *name)
{
    unsigned engine = 0;
    while (engine < ENGINE_COUNT && strcmp(engine_at(engine)->name, name) != 0)
        engine++;
    return engine;
}

static unsigned best_peer(const struct size_report *size, const struct row *row)
{
    unsigned best = ENGINE_COUNT;
    double best_value = 0;
    for (unsigned engine = 0; engine < ENGINE_COUNT; engine++) {
        const double value = is_peer(engine) ? value_of(size, row, engine) : 0;
        if (value > 0 &&
            (best_value == 0 || (less_is_better(row) ? value < best_value : value > best_value))) {
            best = engine;
            best_value = value;
        }
    }
    return best;
}

static void name_other(struct verdict *verdict, const char *name)
{
    (void)snprintf(verdict->other_name, sizeof verdict->other_name, "%s", name); /* names fit */
}

/* What our figure is held against. */
static void find_other(const struct size_report *size, const struct row *row,
                       struct verdict *verdict)
{
    if (row->goal_kind == ROW_OWN_ROW) {
        const struct row *other = row_named(row->other);
        verdict->other = value_of(size, other, engine_index("kvfs"));
        name_other(verdict, other->name);
        return;
    }
    unsigned engine = best_peer(size, row);
    if (row->goal_kind == ROW_PEER)
        engine = engine_index(row->other);
    const double raw = value_of(size, row, REPORT_RAW);
    const double raw_there = row->goal_kind == ROW_ABSOLUTE && row->other
                                 ? value_of(size, row_named(row->other), REPORT_RAW)
                                 : 0;
    if (raw_there > raw) {
        verdict->other = raw_there;
        name_other(verdict, row->other);
    } else if (row->goal_kind == ROW_RAW || (row->goal_kind == ROW_ABSOLUTE && raw > 0)) {
        verdict->other = raw;
        name_other(verdict, "raw");
    } else if (engine < ENGINE_COUNT) {
        verdict->other = value_of(size, row, engine);
        name_other(verdict, engine_at(engine)->name);
    }
}

static struct verdict judge(const struct report *report, const struct size_report *size,
                            const struct row *row)
{
    struct verdict verdict = {.judgement = NOT_JUDGED};
    verdict.own = value_of(size, row, engine_index(row->engine ? row->engine : "kvfs"));
    find_other(size, row, &verdict);
    if (row->goal_kind == ROW_ABSOLUTE)
        verdict.ratio = verdict.own;
    else if (verdict.own > 0 && verdict.other > 0)
        verdict.ratio = verdict.own / verdict.other;
    if (row->goal_kind == ROW_SHOWN)
        verdict.judgement = SHOWN;
    else if (verdict.ratio > 0 && !(row->limited && !report->memory_limit[0]))
        verdict.judgement =
            (less_is_better(row) ? verdict.ratio <= row->goal : verdict.ratio >= row->goal)
                ? MET
                : MISSED;
    return verdict;
}

/* ---- words ------------------------------------------------------------------------------- */

static void put_scaled(char *text, double value, const char *const units[], unsigned unit_count,
                       double step)
{
    unsigned unit = 0;
    while (unit + 1 < unit_count && value >= step) {
        value /= step;
        unit++;
    }
    const int digits = value >= 100 || (value == floor(value) && !unit) ? 0 : value >= 10 ? 1 : 2;
    (void)snprintf(text, CELL, "%.*f%s", digits, value, units[unit]); /* fits: scaled down */
}

static void put_rate(char *text, double value)
{
    static const char *const units[] = {"", " k", " M", " G"};
    put_scaled(text, value, units, 4, 1000);
}

static void put_bytes(char *text, double value)
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB"};
    put_scaled(text, value, units, 5, 1024);
}

static void put_time(char *text, double ns)
{
    static const char *const units[] = {" ns", " µs", " ms", " s"};
    put_scaled(text, ns, units, 4, 1000);
}

static void put_value(char *text, const struct row *row, double value)
{
    if (value <= 0)
        (void)snprintf(text, CELL, "–"); /* fits */
    else if (row->measure == ROW_DISK_BYTES)
        put_bytes(text, value);
    else if (row->measure == ROW_LONGEST)
        put_time(text, value);
    else
        put_rate(text, value);
}

static void put_goal(char *text, const struct row *row)
{
    const char *sign = less_is_better(row) ? "≤" : "≥";
    char time[CELL];
    switch (row->goal_kind) {
    case ROW_SHOWN:
        (void)snprintf(text, CELL, "shown"); /* fits, as the next ones */
        break;
    case ROW_ABSOLUTE:
        put_time(time, row->goal);
        (void)snprintf(text, CELL, "%s %.20s", sign, time);
        break;
    case ROW_BEST_PEER:
        (void)snprintf(text, CELL, "%s %g × best", sign, row->goal);
        break;
    case ROW_PEER:
    case ROW_OWN_ROW:
        (void)snprintf(text, CELL, "%s %g × %.16s", sign, row->goal, row->other);
        break;
    case ROW_RAW:
        (void)snprintf(text, CELL, "%s %g × raw", sign, row->goal);
        break;
    }
}

static void put_ratio(char *text, const struct row *row, const struct verdict *verdict)
{
    if (verdict->ratio <= 0)
        (void)snprintf(text, CELL, "–"); /* fits, as below */
    else if (row->goal_kind == ROW_ABSOLUTE)
        put_time(text, verdict->ratio);
    else
        (void)snprintf(text, CELL, "%.2f", verdict->ratio);
}

static const char *const judgement_words[] = {
    [NOT_JUDGED] = "not judged", [SHOWN] = "", [MET] = "met", [MISSED] = "**missed**"};

/* ---- the tables --------------------------------------------------------------------------- */

static bool was_run(const struct size_report *size, const struct row *row)
{
    for (unsigned engine = 0; engine < REPORT_ENGINES; engine++) {
        const struct figure *figure = figure_of(size, row, engine);
        if (figure->round_count || figure->failure[0])
            return true;
    }
    return false;
}

/* Who misses the goal that we miss, and does nothing but use the device or the memory; or "". */
static const char *also_missed_by(const struct row *row, const struct verdict *verdict)
{
    if (verdict->judgement != MISSED || row->goal_kind != ROW_ABSOLUTE ||
        verdict->other <= row->goal)
        return "";
    if (strcmp(verdict->other_name, "raw") == 0)
        return ", as by the device";
    return row->other && strcmp(verdict->other_name, row->other) == 0 ? ", as by the memory" : "";
}

static void write_goals(const struct report *report, const struct size_report *size, FILE *out)
{
    fputs("| work | kvfs | held against | ratio | goal | |\n|---|---:|---:|---:|---|---|\n", out);
    const struct row *row;
    for (unsigned r = 0; (row = row_at(r)); r++) {
        if (!was_run(size, row))
            continue;
        const struct verdict verdict = judge(report, size, row);
        char own[CELL], other[CELL], ratio[CELL], goal[CELL];
        put_value(own, row, verdict.own);
        put_value(other, row, verdict.other);
        put_ratio(ratio, row, &verdict);
        put_goal(goal, row);
        fprintf(out, "| %s | %s | %s %s | %s | %s | %s%s |\n", row->title, own, other,
                verdict.other_name, ratio, goal, judgement_words[verdict.judgement],
                also_missed_by(row, &verdict));
    }
    fputc('\n', out);
}

static bool takes_part(const struct report *report, unsigned engine)
{
    return engine == REPORT_RAW || report->versions[engine][0];
}

enum figure_kind { BY_CLOCK, BY_CPU };

static void write_cell(const struct size_report *size, const struct row *row, unsigned engine,
                       enum figure_kind kind, FILE *out)
{
    const struct figure *figure = figure_of(size, row, engine);
    char cell[CELL];
    if (kind == BY_CLOCK)
        put_value(cell, row, value_of(size, row, engine));
    else
        put_value(cell, row, median_of(figure->per_cpu_second, figure->round_count));
    fprintf(out, " %s |", figure->failure[0] ? "failed" : cell);
}

static void write_all_figures(const struct report *report, const struct size_report *size,
                              enum figure_kind kind, FILE *out)
{
    fprintf(out, "| %s |", kind == BY_CLOCK ? "per second" : "per CPU second");
    for (unsigned engine = 0; engine < REPORT_ENGINES; engine++)
        if (takes_part(report, engine))
            fprintf(out, " %s |", engine == REPORT_RAW ? "raw" : engine_at(engine)->name);
    fputs("\n|---|", out);
    for (unsigned engine = 0; engine < REPORT_ENGINES; engine++)
        if (takes_part(report, engine))
            fputs("---:|", out);
    fputc('\n', out);
    const struct row *row;
    for (unsigned r = 0; (row = row_at(r)); r++) {
        if (!was_run(size, row) || (row->measure != ROW_PER_SECOND && kind == BY_CPU))
            continue;
        fprintf(out, "| %s |", row->name);
        for (unsigned engine = 0; engine < REPORT_ENGINES; engine++)
            if (takes_part(report, engine))
                write_cell(size, row, engine, kind, out);
        fputc('\n', out);
    }
    fputc('\n', out);
}

static void write_latency_cells(const struct figure *figure, FILE *out)
{
    const uint64_t *const lists[] = {figure->p50_ns, figure->p99_ns, figure->p999_ns};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char cell[CELL];
        put_time(cell, (double)median_ns(lists[i], figure->round_count));
        fprintf(out, " %s |", cell);
    }
    char cell[CELL];
    put_time(cell, (double)figure->longest_ns);
    fprintf(out, " %s |", cell);
}

/* Bytes written for each byte of keys and values that was put; 0: the row does not only put. */
static double write_amplification(const struct report *report, const struct row *row,
                                  const struct figure *figure)
{
    const uint64_t value_bytes =
        row->data == ROW_LARGE ? report->large_value_bytes : report->value_bytes;
    const uint64_t put_bytes = figure->operation_count * (ENGINE_KEY_BYTES + value_bytes);
    return row->operation == WORKLOAD_PUT && put_bytes
               ? (double)figure->written_bytes / (double)put_bytes
               : 0;
}

static void write_latencies(const struct report *report, const struct size_report *size, FILE *out)
{
    fputs("| latency of one call | | p50 | p99 | p99.9 | longest | peak memory | written | to what "
          "was "
          "put | CPU |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
          out);
    const struct row *row;
    for (unsigned r = 0; (row = row_at(r)); r++) {
        if (row->from || !was_run(size, row))
            continue;
        const unsigned engines[] = {engine_index("kvfs"), best_peer(size, row)};
        for (size_t i = 0; i < 2; i++) {
            const struct figure *figure =
                engines[i] < ENGINE_COUNT ? figure_of(size, row, engines[i]) : NULL;
            if (!figure || !figure->round_count)
                continue;
            fprintf(out, "| %s | %s |", row->name, engine_at(engines[i])->name);
            write_latency_cells(figure, out);
            char peak[CELL], written[CELL], cpu[CELL];
            put_bytes(peak, (double)figure->peak_rss_bytes);
            put_bytes(written, (double)figure->written_bytes);
            put_time(cpu, (double)figure->cpu_ns);
            char ratio[CELL] = "";
            const double amplification = write_amplification(report, row, figure);
            if (amplification > 0)
                snprintf(ratio, sizeof ratio, "%.2f", amplification);
            fprintf(out, " %s | %s | %s | %s |\n", peak, written, ratio, cpu);
        }
    }
    fputc('\n', out);
}

/* What tuning guides claim, beside what was measured here. */
static const struct {
    const char *claim;
    const char *row;
    enum { CLAIM_RATE, CLAIM_BYTES, CLAIM_P50, CLAIM_P99 } kind;
    const char *remark;
} claims[] = {
    {"20.4 M cached reads/s", "get-hot", CLAIM_RATE, "one at a time, from the processor's cache"},
    {"20.4 M cached reads/s", "get-hot-many", CLAIM_RATE, "32 at once, likewise"},
    {"20.4 M cached reads/s", "get", CLAIM_RATE, "from memory: each read misses the caches"},
    {"1.14 M writes/s", "fill-random", CLAIM_RATE, "in batches of 1,000"},
    {"1.14 M writes/s", "put-one", CLAIM_RATE, "one put in each batch"},
    {"885 K mixed/s", "mixed", CLAIM_RATE, "80 % get, 20 % put"},
    {"1.4 M concurrent/s", "get-2", CLAIM_RATE, "two threads on two processors"},
    {"5 GB/s large values", "large-get", CLAIM_BYTES, "values of 4 KiB, read one by one"},
    {"P50 49 µs", "get", CLAIM_P50, "random get"},
    {"P50 49 µs", "sync-1", CLAIM_P50, "put, durable"},
    {"P99 250 µs", "get", CLAIM_P99, "random get"},
    {"P99 250 µs", "sync-1", CLAIM_P99, "put, durable"},
};

static void write_claims(const struct report *report, const struct size_report *size, FILE *out)
{
    fputs("| headline of the guides | row | kvfs here | |\n|---|---|---:|---|\n", out);
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        const struct row *row = row_named(claims[i].row);
        const struct figure *figure = figure_of(size, row, engine_index("kvfs"));
        if (!figure->round_count)
            continue;
        char cell[CELL];
        switch (claims[i].kind) {
        case CLAIM_RATE:
            put_rate(cell, median_rate(figure));
            break;
        case CLAIM_BYTES:
            (void)snprintf(cell, sizeof cell, "%.2f GB", /* fits: a number */
                           median_rate(figure) * (double)report->large_value_bytes / 1e9);
            break;
        case CLAIM_P50:
            put_time(cell, (double)median_ns(figure->p50_ns, figure->round_count));
            break;
        case CLAIM_P99:
            put_time(cell, (double)median_ns(figure->p99_ns, figure->round_count));
            break;
        }
        fprintf(out, "| %s | %s | %s | %s |\n", claims[i].claim, claims[i].row, cell,
                claims[i].remark);
    }
    fputc('\n', out);
}

static void write_failures(const struct size_report *size, FILE *out)
{
    const struct row *row;
    for (unsigned r = 0; (row = row_at(r)); r++)
        for (unsigned engine = 0; engine < REPORT_ENGINES; engine++)
            if (size->figures[r][engine].failure[0])
                fprintf(out, "- %s, %s: %s\n", row->name,
                        engine == REPORT_RAW ? "raw" : engine_at(engine)->name,
                        size->figures[r][engine].failure);
}

static void write_head(const struct report *report, FILE *out)
{
    char memory[CELL];
    put_bytes(memory, (double)report->machine.memory_bytes);
    fprintf(out,
            "%s, commit %s, options `%s`\n\n%llu × %s, %s, Linux %s, %s; %llu rounds; keys of %u "
            "bytes, values of %llu and %llu\n\n",
            report->machine.time, report->machine.commit, report->options,
            (unsigned long long)report->machine.processor_count, report->machine.processor, memory,
            report->machine.kernel, report->machine.file_system,
            (unsigned long long)report->round_count, ENGINE_KEY_BYTES,
            (unsigned long long)report->value_bytes, (unsigned long long)report->large_value_bytes);
    for (unsigned i = 0; i < ENGINE_COUNT; i++) {
        const struct engine_kind *kind = engine_at(i);
        if (report->versions[i][0])
            fprintf(out, "- %s %s%s%s\n", kind->name, report->versions[i],
                    kind->settings ? ": " : "", kind->settings ? kind->settings : "");
        else
            fprintf(out, "- %s is missing: it takes %s to build it in\n", kind->name,
                    kind->package);
    }
    fprintf(out, "- memory of the limited rows: %s\n",
            report->memory_limit[0] ? report->memory_limit
                                    : "only the caches, for there is no cgroup to be had: who "
                                      "relies on the page cache has all memory, so they are not "
                                      "judged");
}

void report_write_tables(const struct report *report, FILE *out)
{
    write_head(report, out);
    for (unsigned i = 0; i < report->size_count; i++) {
        const struct size_report *size = report->sizes[i];
        char cache[CELL], limit[CELL];
        put_bytes(cache, (double)size->cache_bytes);
        put_bytes(limit, (double)size->limit_bytes);
        fprintf(out, "\n## %llu records (%llu of 4 KiB), cache %s, limited to %s\n\n",
                (unsigned long long)size->record_count, (unsigned long long)size->large_count,
                cache, limit);
        write_goals(report, size, out);
        write_all_figures(report, size, BY_CLOCK, out);
        write_all_figures(report, size, BY_CPU, out);
        write_latencies(report, size, out);
        write_claims(report, size, out);
        write_failures(size, out);
    }
}
