/*
 * bench/kv-compare/main.c: how does the store compare with the others that run in a process?
 *
 * The command line of bench-kv-compare; rows.c says what is done, bench/README.md how each engine
 * is set.
 */
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/kv-compare/comparison.h"
#include "bench/measure.h"

#define TIMEOUT_S_MIN 600u

struct options {
    struct comparison comparison;
    const char *parent; /* where the directory is made */
    const char *render;
    const char *cgroup;
    bool quick, list;
};

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "bench-kv-compare: %s: %s\n", what, why);
    return -EINVAL;
}

static void print_usage(FILE *out)
{
    fputs("usage: bench-kv-compare [option...]\n"
          "  --quick          100,000 records, one round, a fraction of a second a row\n"
          "  --records LIST   how many records, one or more numbers (2000000)\n"
          "  --rounds N       how often, for the median (3)\n"
          "  --rows LIST      of those that --list shows (all)\n"
          "  --engines LIST   likewise (all that are built in)\n"
          "  --seconds S      how long a row runs that has no end, may be a fraction (5)\n"
          "  --dir DIR        where the data goes (/var/tmp); it takes some 30 times of it\n"
          "  --cgroup DIR     make cgroups for the limited rows there (where our own are)\n"
          "  --seed N         values and orders depend on it (1)\n"
          "  --json FILE      write all figures there\n"
          "  --render FILE    print the tables of such a file, measure nothing\n"
          "  --list           print rows and engines\n",
          out);
}

static void print_list(void)
{
    puts("rows:");
    for (unsigned r = 0; row_at(r); r++)
        printf("  %-14s %s\n", row_at(r)->name, row_at(r)->title);
    puts("engines:");
    for (unsigned i = 0; engine_at(i); i++) {
        const struct engine_kind *kind = engine_at(i);
        if (kind->version)
            printf("  %-14s %s: %s\n", kind->name, kind->version, kind->settings);
        else
            printf("  %-14s missing, %s builds it in\n", kind->name, kind->package);
    }
}

/* ---- options ---------------------------------------------------------------------------- */

typedef const char *name_at_fn(unsigned index);

static const char *row_name_at(unsigned index)
{
    return row_at(index) ? row_at(index)->name : NULL;
}

static const char *engine_name_at(unsigned index)
{
    return engine_at(index) ? engine_at(index)->name : NULL;
}

static int select_names(name_at_fn *name_at, char *list, bool *selected)
{
    for (unsigned i = 0; name_at(i); i++)
        selected[i] = false;
    char *rest;
    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        unsigned i = 0;
        while (name_at(i) && strcmp(name_at(i), word) != 0)
            i++;
        if (!name_at(i))
            return complain(word, "there is no such thing, see --list");
        selected[i] = true;
    }
    return 0;
}

static int add_size(struct report *report, uint64_t record_count)
{
    if (report->size_count >= REPORT_SIZES_MAX)
        return complain("--records", "too many numbers");
    struct size_report *size = calloc(1, sizeof *size);
    if (!size)
        return -ENOMEM;
    size->record_count = record_count;
    report->sizes[report->size_count++] = size;
    return 0;
}

static int set_records(struct report *report, char *list)
{
    report_release(report);
    char *rest;
    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        uint64_t count = 0;
        if (measure_parse_number(word, 100, 4000000000u, &count))
            return complain(word, "not a number of records from 100 to 4,000,000,000");
        const int err = add_size(report, count);
        if (err)
            return err;
    }
    return report->size_count ? 0 : complain("--records", "no number");
}

static int set_seconds(const char *text, uint64_t *ms)
{
    char *end;
    const double seconds = strtod(text, &end);
    if (*end || !(seconds >= 0.01 && seconds <= 3600))
        return complain(text, "not from 0.01 to 3600 seconds");
    *ms = (uint64_t)(seconds * 1000);
    return 0;
}

static int set_number(const char *text, uint64_t least, uint64_t most, uint64_t *number)
{
    return measure_parse_number(text, least, most, number) ? complain(text, "not such a number")
                                                           : 0;
}

enum option_key {
    OPTION_QUICK = 256,
    OPTION_RECORDS,
    OPTION_ROUNDS,
    OPTION_ROWS,
    OPTION_ENGINES,
    OPTION_SECONDS,
    OPTION_DIR,
    OPTION_CGROUP,
    OPTION_SEED,
    OPTION_JSON,
    OPTION_RENDER,
    OPTION_LIST,
};

static const struct option long_options[] = {
    {"quick", no_argument, NULL, OPTION_QUICK},
    {"records", required_argument, NULL, OPTION_RECORDS},
    {"rounds", required_argument, NULL, OPTION_ROUNDS},
    {"rows", required_argument, NULL, OPTION_ROWS},
    {"engines", required_argument, NULL, OPTION_ENGINES},
    {"seconds", required_argument, NULL, OPTION_SECONDS},
    {"dir", required_argument, NULL, OPTION_DIR},
    {"cgroup", required_argument, NULL, OPTION_CGROUP},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"json", required_argument, NULL, OPTION_JSON},
    {"render", required_argument, NULL, OPTION_RENDER},
    {"list", no_argument, NULL, OPTION_LIST},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static int set_option(struct options *options, int key, char *value)
{
    struct comparison *comparison = &options->comparison;
    struct report *report = comparison->report;
    switch (key) {
    case OPTION_QUICK:
        options->quick = true;
        return 0;
    case OPTION_RECORDS:
        return set_records(report, value);
    case OPTION_ROUNDS:
        return set_number(value, 1, REPORT_ROUNDS_MAX, &report->round_count);
    case OPTION_ROWS:
        return select_names(row_name_at, value, comparison->rows);
    case OPTION_ENGINES:
        return select_names(engine_name_at, value, comparison->engines);
    case OPTION_SECONDS:
        return set_seconds(value, &report->seconds_ms);
    case OPTION_DIR:
        options->parent = value;
        return 0;
    case OPTION_CGROUP:
        options->cgroup = value;
        return 0;
    case OPTION_SEED:
        return set_number(value, 0, UINT64_MAX, &comparison->seed);
    case OPTION_JSON:
        comparison->json_path = value;
        return 0;
    case OPTION_RENDER:
        options->render = value;
        return 0;
    case OPTION_LIST:
        options->list = true;
        return 0;
    default:
        print_usage(stderr);
        return -EINVAL;
    }
}

/* What was not said, --quick considered. */
static int set_defaults(struct options *options)
{
    struct report *report = options->comparison.report;
    if (!report->round_count)
        report->round_count = options->quick ? 1 : 3;
    if (!report->seconds_ms)
        report->seconds_ms = options->quick ? 250 : 5000;
    if (!report->size_count) {
        const int err = add_size(report, options->quick ? 100000 : 2000000);
        if (err)
            return err;
    }
    uint64_t most = 0;
    for (unsigned i = 0; i < report->size_count; i++)
        most = kv_max_u64(most, report->sizes[i]->record_count);
    options->comparison.timeout_s =
        (unsigned)(TIMEOUT_S_MIN + most / 5000 + report->seconds_ms / 1000 * 60);
    comparison_complete_rows(&options->comparison);
    return 0;
}

static void note_options(struct report *report, int argc, char **argv)
{
    size_t at = 0;
    for (int i = 1; i < argc && at < REPORT_TEXT - 1; i++) {
        const int length =
            snprintf(report->options + at, REPORT_TEXT - at, "%s%s", i > 1 ? " " : "", argv[i]);
        at += length > 0 ? (size_t)length : 0; /* cut off at the end */
    }
}

/* ---- running ------------------------------------------------------------------------------ */

static void stop(int number)
{
    (void)number;
    comparison_stop();
}

static int catch_signals(void)
{
    const struct sigaction action = {.sa_handler = stop};
    if (sigaction(SIGINT, &action, NULL) || sigaction(SIGTERM, &action, NULL) ||
        sigaction(SIGHUP, &action, NULL))
        return -errno;
    return 0;
}

static int find_limit(struct options *options)
{
    struct comparison *comparison = &options->comparison;
    const int err = memory_limit_find(options->cgroup, &comparison->limit);
    if (err == -EINVAL)
        return complain(options->cgroup, "no cgroup under which memory can be limited");
    if (!err && comparison->limit.parent)
        (void)snprintf(
            comparison->report->memory_limit, REPORT_TEXT,
            "a cgroup for each process, 5/8 of it for caches, 5/6 for that of kvfs"); /* fits */
    return err;
}

static int compare(struct options *options)
{
    struct comparison *comparison = &options->comparison;
    struct report *report = comparison->report;
    for (unsigned i = 0; i < ENGINE_COUNT; i++)
        if (engine_at(i)->version)
            (void)snprintf(report->versions[i], REPORT_TEXT, "%s", engine_at(i)->version);
    char *directory = engine_path(options->parent, "kv-compare.XXXXXX");
    if (!directory)
        return -ENOMEM;
    int err = catch_signals();
    if (!err && !mkdtemp(directory))
        err = -errno;
    if (err) {
        (void)complain(directory, strerror(-err));
        free(directory);
        return err;
    }
    comparison->directory = directory;
    err = find_limit(options);
    if (!err) {
        machine_describe(&report->machine, directory);
        err = comparison_run(comparison);
        report_write_tables(report, stdout);
    }
    memory_limit_release(&comparison->limit);
    const int removed = comparison_remove(directory);
    if (removed)
        (void)complain(directory, strerror(-removed));
    free(directory);
    return err ? err : removed;
}

static int render(struct report *report, const char *path)
{
    FILE *in = fopen(path, "re");
    if (!in)
        return complain(path, strerror(errno));
    char why[REPORT_TEXT];
    const int err = report_read_json(in, report, why, sizeof why);
    (void)fclose(in); /* only read */
    if (err)
        return complain(path, why);
    report_write_tables(report, stdout);
    return 0;
}

static int run(struct options *options)
{
    if (options->list) {
        print_list();
        return 0;
    }
    struct report *report = options->comparison.report;
    if (options->render) {
        report_release(report);
        return render(report, options->render);
    }
    const int err = set_defaults(options);
    return err ? err : compare(options);
}

int main(int argc, char **argv)
{
    struct report *report = calloc(1, sizeof *report);
    if (!report)
        return EXIT_FAILURE;
    report->value_bytes = 100;
    report->large_value_bytes = 4096;
    struct options options = {.parent = "/var/tmp",
                              .comparison = {.report = report, .raw = true, .seed = 1}};
    for (unsigned r = 0; row_at(r); r++)
        options.comparison.rows[r] = true;
    for (unsigned i = 0; i < ENGINE_COUNT; i++)
        options.comparison.engines[i] = true;
    note_options(report, argc, argv);

    int status = EXIT_SUCCESS;
    int key;
    while (status == EXIT_SUCCESS &&
           (key = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (key == 'h') {
            print_usage(stdout);
            goto out;
        }
        if (set_option(&options, key, optarg))
            status = 2;
    }
    if (status == EXIT_SUCCESS && optind < argc) {
        (void)complain(argv[optind], "too many arguments");
        status = 2;
    }
    if (status == EXIT_SUCCESS && run(&options))
        status = EXIT_FAILURE;
out:
    if (fflush(stdout) && status == EXIT_SUCCESS)
        status = EXIT_FAILURE;
    report_release(report);
    free(report);
    return status;
}
