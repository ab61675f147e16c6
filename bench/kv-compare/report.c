/*
 * bench/kv-compare/report.c: what was measured, as JSON and back.
 *
 * The JSON holds all that the tables show, so that a result file can be rendered later.
 */
#include "bench/kv-compare/report.h"

#include <stdlib.h>
#include <string.h>

#include "bench/kv-compare/json_tree.h"
#include "tools/json.h"

#define FORMAT_VERSION 1u
#define JSON_BYTES_MAX ((size_t)64 << 20)

void report_release(struct report *report)
{
    for (unsigned i = 0; i < report->size_count; i++)
        free(report->sizes[i]);
    report->size_count = 0;
}

void report_add(struct figure *figure, const struct workload_result *result, const char *why)
{
    if (why) {
        (void)snprintf(figure->failure, sizeof figure->failure, "%s", why); /* enough of it */
        return;
    }
    if (figure->round_count >= REPORT_ROUNDS_MAX)
        return;
    const unsigned at = figure->round_count++;
    figure->per_second[at] = result->per_second;
    figure->per_cpu_second[at] = result->per_cpu_second;
    figure->p50_ns[at] = result->p50_ns;
    figure->p99_ns[at] = result->p99_ns;
    figure->p999_ns[at] = result->p999_ns;
    figure->longest_ns = kv_max_u64(figure->longest_ns, result->longest_ns);
    figure->peak_rss_bytes = kv_max_u64(figure->peak_rss_bytes, result->peak_rss_bytes);
    figure->operation_count = result->operation_count;
    figure->disk_bytes = result->disk_bytes;
    figure->used_bytes = result->used_bytes;
    figure->written_bytes = result->written_bytes;
    figure->cpu_ns = result->cpu_ns;
}

static const char *name_of(unsigned engine)
{
    return engine == REPORT_RAW ? "raw" : engine_at(engine)->name;
}

/* ---- fields, by name, for writing and for reading ------------------------------------- */

struct text_field {
    const char *name;
    size_t offset;
};

static const struct text_field texts[] = {
    {"commit", offsetof(struct report, machine.commit)},
    {"time", offsetof(struct report, machine.time)},
    {"options", offsetof(struct report, options)},
    {"memory_limit", offsetof(struct report, memory_limit)},
    {"processor", offsetof(struct report, machine.processor)},
    {"kernel", offsetof(struct report, machine.kernel)},
    {"file_system", offsetof(struct report, machine.file_system)},
};

static const struct text_field numbers[] = {
    {"processors", offsetof(struct report, machine.processor_count)},
    {"memory_bytes", offsetof(struct report, machine.memory_bytes)},
    {"rounds", offsetof(struct report, round_count)},
    {"value_bytes", offsetof(struct report, value_bytes)},
    {"large_value_bytes", offsetof(struct report, large_value_bytes)},
    {"milliseconds_a_row", offsetof(struct report, seconds_ms)},
};

static const struct text_field size_numbers[] = {
    {"records", offsetof(struct size_report, record_count)},
    {"large_records", offsetof(struct size_report, large_count)},
    {"cache_bytes", offsetof(struct size_report, cache_bytes)},
    {"limit_bytes", offsetof(struct size_report, limit_bytes)},
};

static const struct text_field figure_numbers[] = {
    {"longest_ns", offsetof(struct figure, longest_ns)},
    {"operations", offsetof(struct figure, operation_count)},
    {"peak_rss_bytes", offsetof(struct figure, peak_rss_bytes)},
    {"disk_bytes", offsetof(struct figure, disk_bytes)},
    {"used_bytes", offsetof(struct figure, used_bytes)},
    {"written_bytes", offsetof(struct figure, written_bytes)},
    {"cpu_ns", offsetof(struct figure, cpu_ns)},
};

static const struct text_field figure_lists[] = {
    {"p50_ns", offsetof(struct figure, p50_ns)},
    {"p99_ns", offsetof(struct figure, p99_ns)},
    {"p999_ns", offsetof(struct figure, p999_ns)},
};

#define COUNT_OF(table) (sizeof(table) / sizeof *(table))

/* Each field is a whole uint64_t, or a char[REPORT_TEXT], at an offset from one of the tables. */
static uint64_t *number_at(const void *of, size_t offset)
{
    return (uint64_t *)((uintptr_t)of + offset);
}

static char *text_at(const void *of, size_t offset)
{
    return (char *)((uintptr_t)of + offset);
}

static void write_numbers(struct tool_json *json, const void *of, const struct text_field *fields,
                          size_t count)
{
    for (size_t i = 0; i < count; i++)
        tool_json_number(json, fields[i].name, *number_at(of, fields[i].offset));
}

static void read_numbers(const struct json_node *node, void *of, const struct text_field *fields,
                         size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const double number = json_number(node, fields[i].name);
        *number_at(of, fields[i].offset) = number > 0 && number < 1e19 ? (uint64_t)number : 0;
    }
}

static void read_text(const struct json_node *node, const char *name, char *text)
{
    (void)snprintf(text, REPORT_TEXT, "%s", json_text(node, name)); /* enough of it */
}

/* ---- writing --------------------------------------------------------------------------- */

static void write_rates(struct tool_json *json, const char *name, const double *rates,
                        unsigned count)
{
    tool_json_open(json, name, '[');
    for (unsigned i = 0; i < count; i++)
        tool_json_number(json, NULL, (uint64_t)(rates[i] + 0.5));
    tool_json_close(json, ']');
}

static void write_figure(struct tool_json *json, const struct row *row, unsigned engine,
                         const struct figure *figure)
{
    if (!figure->round_count && !figure->failure[0])
        return;
    tool_json_open(json, NULL, '{');
    tool_json_string(json, "row", row->name);
    tool_json_string(json, "engine", name_of(engine));
    if (figure->failure[0])
        tool_json_string(json, "failure", figure->failure);
    write_rates(json, "per_second", figure->per_second, figure->round_count);
    write_rates(json, "per_cpu_second", figure->per_cpu_second, figure->round_count);
    for (size_t list = 0; list < COUNT_OF(figure_lists); list++) {
        tool_json_open(json, figure_lists[list].name, '[');
        for (unsigned i = 0; i < figure->round_count; i++)
            tool_json_number(json, NULL, number_at(figure, figure_lists[list].offset)[i]);
        tool_json_close(json, ']');
    }
    write_numbers(json, figure, figure_numbers, COUNT_OF(figure_numbers));
    tool_json_close(json, '}');
}

static void write_size(struct tool_json *json, const struct size_report *size)
{
    tool_json_open(json, NULL, '{');
    write_numbers(json, size, size_numbers, COUNT_OF(size_numbers));
    tool_json_open(json, "figures", '[');
    const struct row *row;
    for (unsigned r = 0; (row = row_at(r)); r++)
        for (unsigned engine = 0; engine < REPORT_ENGINES; engine++)
            write_figure(json, row, engine, &size->figures[r][engine]);
    tool_json_close(json, ']');
    tool_json_close(json, '}');
}

void report_write_json(const struct report *report, FILE *out)
{
    struct tool_json json;
    tool_json_init(&json, out);
    tool_json_open(&json, NULL, '{');
    tool_json_string(&json, "bench", "kv-compare");
    tool_json_number(&json, "version", FORMAT_VERSION);
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        tool_json_string(&json, texts[i].name, text_at(report, texts[i].offset));
    write_numbers(&json, report, numbers, COUNT_OF(numbers));
    tool_json_open(&json, "engines", '[');
    for (unsigned i = 0; i < ENGINE_COUNT; i++) {
        const struct engine_kind *kind = engine_at(i);
        tool_json_open(&json, NULL, '{');
        tool_json_string(&json, "name", kind->name);
        tool_json_string(&json, "version", report->versions[i]);
        tool_json_string(&json, "settings", kind->settings ? kind->settings : "");
        tool_json_string(&json, "package", kind->package);
        tool_json_close(&json, '}');
    }
    tool_json_close(&json, ']');
    tool_json_open(&json, "sizes", '[');
    for (unsigned i = 0; i < report->size_count; i++)
        write_size(&json, report->sizes[i]);
    tool_json_close(&json, ']');
    tool_json_close(&json, '}');
    fputc('\n', out);
}

/* ---- reading ---------------------------------------------------------------------------- */

static unsigned engine_named(const char *name)
{
    unsigned engine = 0;
    while (engine < REPORT_ENGINES && strcmp(name_of(engine), name) != 0)
        engine++;
    return engine;
}

static unsigned read_rates(const struct json_node *node, const char *name, double *rates)
{
    const struct json_node *list = json_member(node, name);
    unsigned count = 0;
    for (const struct json_node *at = list ? list->first : NULL; at && count < REPORT_ROUNDS_MAX;
         at = at->next)
        rates[count++] = at->number;
    return count;
}

static void read_figure(const struct json_node *node, struct size_report *size)
{
    const struct row *row = row_named(json_text(node, "row"));
    const unsigned engine = engine_named(json_text(node, "engine"));
    if (!row || engine >= REPORT_ENGINES)
        return; /* of another version */
    struct figure *figure = &size->figures[row_index(row)][engine];
    read_text(node, "failure", figure->failure);
    read_numbers(node, figure, figure_numbers, COUNT_OF(figure_numbers));
    figure->round_count = read_rates(node, "per_second", figure->per_second);
    (void)read_rates(node, "per_cpu_second", figure->per_cpu_second); /* as many */
    for (size_t list = 0; list < COUNT_OF(figure_lists); list++) {
        const struct json_node *all = json_member(node, figure_lists[list].name);
        uint64_t *out = number_at(figure, figure_lists[list].offset);
        unsigned i = 0;
        for (const struct json_node *at = all ? all->first : NULL; at && i < figure->round_count;
             at = at->next)
            out[i++] = at->number > 0 && at->number < 1e19 ? (uint64_t)at->number : 0;
    }
}

static int read_sizes(const struct json_node *sizes, struct report *report)
{
    for (const struct json_node *at = sizes ? sizes->first : NULL;
         at && report->size_count < REPORT_SIZES_MAX; at = at->next) {
        struct size_report *size = calloc(1, sizeof *size);
        if (!size)
            return -ENOMEM;
        report->sizes[report->size_count++] = size;
        read_numbers(at, size, size_numbers, COUNT_OF(size_numbers));
        const struct json_node *figures = json_member(at, "figures");
        for (const struct json_node *figure = figures ? figures->first : NULL; figure;
             figure = figure->next)
            read_figure(figure, size);
    }
    return 0;
}

static int read_tree(const struct json_node *root, struct report *report)
{
    if (strcmp(json_text(root, "bench"), "kv-compare") != 0 ||
        json_number(root, "version") != FORMAT_VERSION)
        return -EINVAL;
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        read_text(root, texts[i].name, text_at(report, texts[i].offset));
    read_numbers(root, report, numbers, COUNT_OF(numbers));
    const struct json_node *engines = json_member(root, "engines");
    for (const struct json_node *at = engines ? engines->first : NULL; at; at = at->next) {
        const unsigned engine = engine_named(json_text(at, "name"));
        if (engine < ENGINE_COUNT)
            read_text(at, "version", report->versions[engine]);
    }
    return read_sizes(json_member(root, "sizes"), report);
}

/* The whole of a file with a zero behind it; caller frees. */
static char *read_whole(FILE *in)
{
    size_t cap = 1 << 16, length = 0;
    char *text = malloc(cap);
    while (text) {
        length += fread(text + length, 1, cap - 1 - length, in);
        if (length < cap - 1)
            break;
        cap *= 2;
        char *more = cap <= JSON_BYTES_MAX ? realloc(text, cap) : NULL;
        if (!more)
            free(text);
        text = more;
    }
    if (text)
        text[length] = '\0';
    return text;
}

int report_read_json(FILE *in, struct report *report, char *why, size_t why_cap)
{
    memset(report, 0, sizeof *report);
    char *text = read_whole(in);
    struct json_node *root = text ? json_parse(text) : NULL;
    const int err = root ? read_tree(root, report) : -EINVAL;
    if (err)
        (void)snprintf(why, why_cap, "not a result of kv-compare, version %u", FORMAT_VERSION);
    json_free(root);
    free(text);
    if (err)
        report_release(report);
    return err;
}
