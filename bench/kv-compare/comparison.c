/* bench/kv-compare/comparison.c: see comparison.h. */
#include "bench/kv-compare/comparison.h"

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/kv-compare/process.h"
#include "bench/measure.h"

#define CACHE_TO_DATA      2u /* everything fits, also in pages that are half full */
#define CACHE_BYTES_MORE   ((uint64_t)64 << 20)
#define LIMIT_BYTES_MIN    ((uint64_t)16 << 20)
#define DATA_TO_LIMIT      4u
#define RAW_FILL_MAX_NS    60000000000u
#define PUT_ONE_TO_SECONDS 20u /* time for a fill one by one, in times of a read's */

static volatile sig_atomic_t stopped;

void comparison_stop(void)
{
    stopped = 1;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    return remove(path) && errno != ENOENT ? -errno : 0;
}

int comparison_remove(const char *directory)
{
    const int err = nftw(directory, remove_entry, 16, FTW_PHYS | FTW_DEPTH);
    return err == -1 ? (errno == ENOENT ? 0 : -errno) : err;
}

static int forget_file(int fd)
{
    return fsync(fd) ? -errno : -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* The kernel's pages of the files: whoever reads one next pays for it with his own memory. */
static int forget_files(const char *directory)
{
    const int err = workload_each_file(directory, forget_file);
    return err == -1 ? -errno : err;
}

void comparison_complete_rows(struct comparison *comparison)
{
    for (unsigned r = 0; row_at(r); r++) {
        const struct row *row = row_at(r);
        if (!comparison->rows[r])
            continue;
        const struct row *needed = row->from ? row_named(row->from) : row;
        comparison->rows[row_index(needed)] = true;
        const struct row *maker = row_maker(needed->data);
        if (maker)
            comparison->rows[row_index(maker)] = true;
        if (needed->goal_kind == ROW_OWN_ROW)
            comparison->rows[row_index(row_named(needed->other))] = true;
        if (row->goal_kind == ROW_ABSOLUTE && row->other)
            comparison->rows[row_index(row_named(row->other))] = true;
    }
}

/* ---- one piece of work ----------------------------------------------------------------- */

static const char *const data_names[] = {
    [ROW_FRESH] = "fresh", [ROW_RANDOM] = "random", [ROW_LARGE] = "large"};

static void describe_work(const struct comparison *comparison, const struct size_report *size,
                          const struct row *row, struct workload *work)
{
    const struct report *report = comparison->report;
    const bool large = row->data == ROW_LARGE;
    const uint64_t time_ns = report->seconds_ms * 1000000;
    const bool puts = row->operation == WORKLOAD_PUT;
    *work = (struct workload){
        .operation = row->operation,
        .pick = row->pick,
        .thread_count = row->thread_count,
        .batch_count = row->batch_count ? row->batch_count : 1,
        .sync = row->sync,
        .limited = row->limited,
        .record_count = large ? size->large_count : size->record_count,
        .value_bytes = large ? report->large_value_bytes : report->value_bytes,
        .cache_bytes = row->limited ? size->limit_bytes / 8 * 5 : size->cache_bytes,
        .time_max_ns = time_ns,
        .seed = comparison->seed,
    };
    if (puts) {
        work->operations_max = work->record_count;
        if (work->batch_count > 1)
            work->time_max_ns = 0;
        else if (!work->sync)
            work->time_max_ns = time_ns * PUT_ONE_TO_SECONDS;
    } else {
        work->scan_first = !row->limited;
        work->warm_ns = row->limited ? time_ns : time_ns / 2;
    }
}

/*
 * A host takes memory back that its guest does not use, and takes its time to give it again. So
 * that this is not counted against the first engine that wants it, as much as its cache is touched
 * and let go of. A hint: who is refused does without.
 */
static void ready_memory(const struct workload *work)
{
    const bool grows = work->operation == WORKLOAD_PUT || work->operation == WORKLOAD_RAW_MEMORY;
    if (!grows || work->limited)
        return;
    const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t free_bytes = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * page_bytes;
    const uint64_t bytes = kv_min_u64(work->cache_bytes, free_bytes / 2);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return;
    if (!madvise(memory, bytes, MADV_HUGEPAGE))
        (void)madvise(memory, bytes, MADV_POPULATE_WRITE);
    (void)munmap(memory, bytes);
}

static int make_directory(const char *path)
{
    return mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
}

/* DIRECTORY/ENGINE/DATA, empty if the row begins with nothing. */
static int ready_directory(const struct comparison *comparison, const char *engine,
                           const struct row *row, char **path)
{
    char *parent = engine_path(comparison->directory, engine);
    char *own = parent ? engine_path(parent, data_names[row->data]) : NULL;
    int err = own ? make_directory(parent) : -ENOMEM;
    if (!err && (row->makes_data || row->data == ROW_FRESH))
        err = comparison_remove(own);
    if (!err)
        err = make_directory(own);
    free(parent);
    if (err) {
        free(own);
        return err;
    }
    *path = own;
    return 0;
}

static int run_limited(const struct comparison *comparison, const struct engine_kind *kind,
                       const char *directory, const struct workload *work, uint64_t limit_bytes,
                       struct workload_result *result, char *why, size_t why_cap)
{
    char *group = NULL;
    if (work->limited && comparison->limit.parent) {
        int err = forget_files(directory);
        if (!err)
            err = memory_limit_make(&comparison->limit, limit_bytes, &group);
        if (err) {
            (void)snprintf(why, why_cap, "no cgroup: %s", strerror(-err));
            return err;
        }
    }
    int err =
        process_run(kind, directory, work, group, comparison->timeout_s, result, why, why_cap);
    if (group) {
        const int removed = memory_limit_remove(group);
        if (removed && !err) {
            (void)snprintf(why, why_cap, "the cgroup stays: %s", strerror(-removed));
            err = removed;
        }
        free(group);
    }
    return err;
}

static bool has_data(const struct size_report *size, const struct row *row, unsigned engine)
{
    const struct row *maker = row_maker(row->data);
    if (!maker || maker == row)
        return true;
    return !size->figures[row_index(maker)][engine].failure[0];
}

static const struct figure *our_figure(const struct size_report *size, const struct row *row)
{
    unsigned engine = 0;
    while (engine_at(engine) != &engine_kvfs)
        engine++;
    return &size->figures[row_index(row)][engine];
}

/*
 * The bare machine instead of an engine. Where much is written, as much in as long a time as we
 * wrote in this row; where memory is used, as much of it in as long a time as we took in the fill.
 * Returns false if it is not known how much that is.
 */
static bool describe_raw(const struct size_report *size, const struct row *row,
                         struct workload *work)
{
    if (!row->raw_only)
        work->operation = row->sync ? WORKLOAD_RAW_SYNC : WORKLOAD_RAW_FILL;
    work->thread_count = 1;
    if (row->sync)
        return true;
    const struct figure *ours = our_figure(size, row->raw_only ? row_maker(ROW_RANDOM) : row);
    if (!ours->round_count || ours->failure[0] || !ours->written_bytes)
        return false;
    const double seconds = (double)ours->operation_count / ours->per_second[ours->round_count - 1];
    work->raw_bytes_per_second = kv_max_u64((uint64_t)((double)ours->written_bytes / seconds), 1);
    work->time_max_ns = kv_min_u64((uint64_t)(seconds * 1e9), RAW_FILL_MAX_NS);
    work->raw_memory_bytes = ours->peak_rss_bytes;
    return true;
}

static int run_one(struct comparison *comparison, struct size_report *size, const struct row *row,
                   unsigned engine)
{
    const struct engine_kind *kind = engine == REPORT_RAW ? NULL : engine_at(engine);
    const char *name = kind ? kind->name : "raw";
    struct figure *figure = &size->figures[row_index(row)][engine];
    struct workload_result result = {.error = 0};
    if (!has_data(size, row, engine)) {
        report_add(figure, &result, "its data could not be loaded");
        return 0;
    }
    struct workload work;
    describe_work(comparison, size, row, &work);
    if (!kind && !describe_raw(size, row, &work))
        return 0;
    char *directory;
    int err = ready_directory(comparison, name, row, &directory);
    if (err) {
        fprintf(stderr, "kv-compare: %s: %s\n", comparison->directory, strerror(-err));
        return err;
    }
    ready_memory(&work);
    char why[REPORT_TEXT] = "";
    const int failed = run_limited(comparison, kind, directory, &work, size->limit_bytes, &result,
                                   why, sizeof why);
    if (!stopped) {
        report_add(figure, &result, failed ? why : NULL);
        fprintf(stderr, "  %-14s %-14s ", row->name, name);
        if (failed)
            fprintf(stderr, "failed: %s\n", why);
        else
            fprintf(stderr, "%12.0f /s, longest %.2f ms, %" PRIu64 " MiB memory\n",
                    result.per_second, (double)result.longest_ns / 1e6,
                    result.peak_rss_bytes >> 20);
    }
    if (row->data == ROW_FRESH)
        err = comparison_remove(directory);
    free(directory);
    return stopped ? -EINTR : err;
}

/* ---- rounds ------------------------------------------------------------------------------ */

static bool takes_part(const struct comparison *comparison, const struct row *row, unsigned engine)
{
    if (engine == REPORT_RAW)
        return comparison->raw && row->raw;
    const struct engine_kind *kind = engine_at(engine);
    return comparison->engines[engine] && kind->version && !row->raw_only &&
           (kind != &engine_kvfs_none || row->both_codecs);
}

static int run_row(struct comparison *comparison, struct size_report *size, const struct row *row,
                   unsigned round)
{
    int err = 0;
    for (unsigned i = 0; i < REPORT_ENGINES && !err; i++) {
        const unsigned engine = (i + round) % REPORT_ENGINES;
        if (takes_part(comparison, row, engine))
            err = run_one(comparison, size, row, engine);
    }
    return err;
}

static int write_json(const struct comparison *comparison)
{
    if (!comparison->json_path)
        return 0;
    FILE *out = fopen(comparison->json_path, "we");
    int err = out ? 0 : -errno;
    if (out) {
        report_write_json(comparison->report, out);
        if (ferror(out))
            err = -EIO;
        if (fclose(out) && !err)
            err = -errno;
    }
    if (err)
        fprintf(stderr, "kv-compare: %s: %s\n", comparison->json_path, strerror(-err));
    return err;
}

static int run_round(struct comparison *comparison, struct size_report *size, unsigned round)
{
    int err = 0;
    for (unsigned r = 0; row_at(r) && !err; r++) {
        const struct row *row = row_at(r);
        if (comparison->rows[r] && !row->from)
            err = run_row(comparison, size, row, round);
    }
    for (unsigned engine = 0; engine < REPORT_ENGINES; engine++) {
        char *path = engine_path(comparison->directory,
                                 engine == REPORT_RAW ? "raw" : engine_at(engine)->name);
        const int removed = path ? comparison_remove(path) : -ENOMEM;
        if (!err)
            err = removed;
        free(path);
    }
    return err;
}

static void choose_sizes(const struct report *report, struct size_report *size)
{
    const uint64_t data_bytes = size->record_count * (report->value_bytes + ENGINE_KEY_BYTES);
    const uint64_t large_bytes = report->large_value_bytes + ENGINE_KEY_BYTES;
    size->large_count = kv_max_u64(data_bytes / large_bytes, 100);
    size->cache_bytes = data_bytes * CACHE_TO_DATA + CACHE_BYTES_MORE;
    size->limit_bytes = kv_max_u64(data_bytes / DATA_TO_LIMIT, LIMIT_BYTES_MIN) & ~(uint64_t)4095;
}

int comparison_run(struct comparison *comparison)
{
    struct report *report = comparison->report;
    int err = 0;
    for (unsigned s = 0; s < report->size_count && !err; s++) {
        struct size_report *size = report->sizes[s];
        choose_sizes(report, size);
        for (unsigned round = 0; round < report->round_count && !err; round++) {
            fprintf(stderr, "%" PRIu64 " records, round %u of %" PRIu64 "\n", size->record_count,
                    round + 1, report->round_count);
            err = run_round(comparison, size, round);
            const int written = write_json(comparison);
            if (!err)
                err = written;
        }
    }
    return err;
}
