/*
 * bench/kv.c: how fast is the store by itself, without a kernel and without files?
 *
 * Fills an image in ascending and in shuffled order, gets keys at random, scans everything, and
 * mixes gets with overwrites, also beside one checkpoint after the other, on the library alone.
 * Every value read is verified: it names its key and its generation, and the rest of it follows
 * from these.
 *
 * Owns       one image, made at the start of each fill and removed at the end; the thread that
 * makes checkpoints. Invariant  key k is overwritten by thread k % threads only, so its owner knows
 * its generation. Threads    generations[k] belongs to the owner of k; the rest is constant while
 * threads run.
 */
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>
#include <xxhash.h>

#include "bench/options.h"
#include "bench/phases.h"
#include "kv/kv.h"
#include "tools/options.h"

enum phase {
    PHASE_FILL_SEQ,
    PHASE_GET,
    PHASE_SCAN,
    PHASE_MIXED,
    PHASE_MIXED_CHECKPOINTS,
    PHASE_FILL_RANDOM,
    PHASE_COUNT
};

#define KEY_BYTES      16u
#define VALUE_HEAD     16u /* key and generation */
#define THREADS_MAX    256u
#define BATCH_MAX      100000u
#define MIXED_PUT_RATE 5u /* one of so many operations of `mixed` overwrites */

struct options {
    char *image;
    uint64_t key_count, value_bytes, budget_bytes, seed, image_bytes;
    unsigned thread_count, run_count, batch_count, compressible_percent;
    enum kv_sync_mode sync;
    struct kv_codec_spec codec;
    bool selected[PHASE_COUNT];
    bool buffered_io, keep, verbose;
};

/* One thread's part of a phase. */
struct worker {
    struct phase_tally tally;
    struct kv_batch *batch;
    uint8_t *value; /* value_bytes: what is put, or what must be found */
    uint8_t *found; /* value_bytes */
};

/* What a phase of the last run made the device do, up to the next checkpoint. */
struct phase_writes {
    uint64_t written_bytes, log_flushes, checkpoints;
};

struct bench {
    const struct options *options;
    struct kv_store *store;        /* NULL: none open */
    uint64_t *order;               /* of the keys in fill-random */
    uint32_t *generations;         /* how often each key was overwritten */
    const struct phase_kind *kind; /* the phase that runs */
    struct worker *workers;        /* options->thread_count */
    struct phase_result results[PHASE_COUNT];
    struct phase_writes writes[PHASE_COUNT];
    uint64_t image_used_bytes; /* after the last fill */
    bool direct_io;
};

/* One thread's part: items [begin, end) of 0..key_count-1. */
typedef int work_range_fn(struct bench *bench, struct worker *worker, uint64_t begin, uint64_t end);

struct phase_kind {
    const char *name;
    work_range_fn *work;
    bool fresh_image;
    bool writes;
    bool beside_checkpoints;
};

static int complain(const char *what, int err)
{
    fprintf(stderr, "bench-kv: %s: %s\n", what, strerror(-err));
    return err;
}

/* ---- keys and values ----------------------------------------------------------- */

static void make_key(uint64_t id, uint8_t key[KEY_BYTES])
{
    memcpy(key, "benchkey", KEY_BYTES - 8);
    kv_be64_put(key + KEY_BYTES - 8, id);
}

static void make_value(const struct bench *bench, uint64_t id, uint64_t generation, uint8_t *value)
{
    const struct options *options = bench->options;
    const uint64_t seed = measure_mix(options->seed ^ measure_mix(id) ^ (generation << 40));
    kv_be64_put(value, id);
    kv_be64_put(value + 8, generation);
    measure_fill(value + VALUE_HEAD, options->value_bytes - VALUE_HEAD, seed,
                 options->compressible_percent);
}

/* Does `value` hold what some generation of key `id` must hold? `scratch`: value_bytes. */
static int verify_value(const struct bench *bench, uint64_t id, const uint8_t *value,
                        size_t value_len, uint8_t *scratch, uint64_t *generation)
{
    if (value_len != bench->options->value_bytes || kv_be64_take(value) != id) {
        fprintf(stderr, "bench-kv: key %" PRIu64 ": not its value\n", id);
        return -EUCLEAN;
    }
    *generation = kv_be64_take(value + 8);
    make_value(bench, id, *generation, scratch);
    if (memcmp(scratch, value, value_len) != 0) {
        fprintf(stderr, "bench-kv: key %" PRIu64 ": its value is damaged\n", id);
        return -EUCLEAN;
    }
    return 0;
}

/* ---- the phases ------------------------------------------------------------------ */

static int get_and_verify(struct bench *bench, struct worker *worker, uint64_t id,
                          uint64_t *generation)
{
    uint8_t key[KEY_BYTES];
    make_key(id, key);
    size_t value_len = 0;
    const uint64_t begun_ns = measure_now_ns();
    int err = kv_get(bench->store, key, sizeof key, worker->found, bench->options->value_bytes,
                     &value_len);
    if (err)
        return complain("get", err);
    const uint64_t took_ns = measure_now_ns() - begun_ns;
    err = verify_value(bench, id, worker->found, value_len, worker->value, generation);
    if (err)
        return err;
    worker->tally.operation_count++;
    return measure_latencies_add(&worker->tally.latencies, took_ns);
}

/* Apply what is in the batch; one latency is one batch. */
static int apply_batch(struct bench *bench, struct worker *worker)
{
    const size_t count = kv_batch_count(worker->batch);
    if (!count)
        return 0;
    const uint64_t begun_ns = measure_now_ns();
    const int err = kv_apply(bench->store, worker->batch, 0, NULL);
    if (err)
        return complain("apply", err);
    const uint64_t took_ns = measure_now_ns() - begun_ns;
    kv_batch_clear(worker->batch);
    worker->tally.operation_count += count;
    return measure_latencies_add(&worker->tally.latencies, took_ns);
}

static int put_later(struct bench *bench, struct worker *worker, uint64_t id, uint64_t generation)
{
    uint8_t key[KEY_BYTES];
    make_key(id, key);
    make_value(bench, id, generation, worker->value);
    worker->tally.checksum += XXH3_64bits(worker->value, bench->options->value_bytes);
    int err =
        kv_batch_put(worker->batch, key, sizeof key, worker->value, bench->options->value_bytes);
    if (err)
        return complain("batch", err);
    if (kv_batch_count(worker->batch) >= bench->options->batch_count)
        err = apply_batch(bench, worker);
    return err;
}

static int fill_ascending(struct bench *bench, struct worker *worker, uint64_t begin, uint64_t end)
{
    for (uint64_t id = begin; id < end; id++) {
        const int err = put_later(bench, worker, id, 0);
        if (err)
            return err;
    }
    return apply_batch(bench, worker);
}

static int fill_shuffled(struct bench *bench, struct worker *worker, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++) {
        const int err = put_later(bench, worker, bench->order[i], 0);
        if (err)
            return err;
    }
    return apply_batch(bench, worker);
}

static int get_shuffled(struct bench *bench, struct worker *worker, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++) {
        uint64_t generation;
        const int err = get_and_verify(bench, worker, bench->order[i], &generation);
        if (err)
            return err;
        worker->tally.checksum += XXH3_64bits(worker->found, bench->options->value_bytes);
    }
    return 0;
}

/* The keys [begin, end) by cursor; one latency is one key. */
static int scan_range(struct bench *bench, struct worker *worker, uint64_t begin, uint64_t end)
{
    uint8_t lower[KEY_BYTES], upper[KEY_BYTES];
    make_key(begin, lower);
    make_key(end, upper);
    struct kv_cursor *cursor;
    int err = kv_cursor_open(bench->store, lower, sizeof lower, upper, sizeof upper, &cursor);
    if (err)
        return complain("cursor", err);
    uint64_t id = begin;
    uint64_t begun_ns = measure_now_ns();
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor), id++) {
        const void *value;
        size_t key_len, value_len;
        const uint8_t *key = kv_cursor_key(cursor, &key_len);
        err = kv_cursor_value(cursor, &value, &value_len);
        if (err)
            break;
        const uint64_t took_ns = measure_now_ns() - begun_ns;
        uint8_t wanted[KEY_BYTES];
        make_key(id, wanted);
        uint64_t generation;
        if (kv_key_compare(key, key_len, wanted, sizeof wanted) != 0)
            err = -EUCLEAN;
        if (!err)
            err = verify_value(bench, id, value, value_len, worker->value, &generation);
        if (!err)
            err = measure_latencies_add(&worker->tally.latencies, took_ns);
        if (err)
            break;
        worker->tally.checksum += XXH3_64bits(value, value_len);
        worker->tally.operation_count++;
        begun_ns = measure_now_ns();
    }
    kv_cursor_close(cursor);
    if (err == -ENOENT)
        err = id == end ? 0 : -EUCLEAN;
    return err ? complain("scan", err) : 0;
}

/* A key that this thread owns, so that it alone changes it. */
static uint64_t owned_key(const struct bench *bench, uint64_t random, uint64_t owner)
{
    const uint64_t threads = bench->options->thread_count;
    const uint64_t owned_count = (bench->options->key_count - owner + threads - 1) / threads;
    return owner + random % owned_count * threads;
}

static int mix_gets_and_puts(struct bench *bench, struct worker *worker, uint64_t begin,
                             uint64_t end)
{
    const uint64_t owner = (uint64_t)(worker - bench->workers);
    int err = 0;
    for (uint64_t i = begin; i < end && !err; i++) {
        const uint64_t random = measure_mix(bench->options->seed ^ (i << 8));
        if (random % MIXED_PUT_RATE == 0) {
            const uint64_t id = owned_key(bench, random >> 8, owner);
            err = put_later(bench, worker, id, ++bench->generations[id]);
            if (!err)
                err = apply_batch(bench, worker);
            continue;
        }
        const uint64_t id = (random >> 8) % bench->options->key_count;
        uint64_t generation;
        err = get_and_verify(bench, worker, id, &generation);
        if (!err && id % bench->options->thread_count == owner &&
            generation != bench->generations[id]) {
            fprintf(stderr, "bench-kv: key %" PRIu64 ": an older value came back\n", id);
            err = -EUCLEAN;
        }
    }
    return err;
}

static const struct phase_kind phase_kinds[PHASE_COUNT] = {
    [PHASE_FILL_SEQ] = {.name = "fill-seq",
                        .work = fill_ascending,
                        .fresh_image = true,
                        .writes = true},
    [PHASE_GET] = {.name = "get", .work = get_shuffled},
    [PHASE_SCAN] = {.name = "scan", .work = scan_range},
    [PHASE_MIXED] = {.name = "mixed", .work = mix_gets_and_puts, .writes = true},
    [PHASE_MIXED_CHECKPOINTS] = {.name = "mixed-checkpoints",
                                 .work = mix_gets_and_puts,
                                 .writes = true,
                                 .beside_checkpoints = true},
    [PHASE_FILL_RANDOM] = {.name = "fill-random",
                           .work = fill_shuffled,
                           .fresh_image = true,
                           .writes = true},
};

/* ---- running them ---------------------------------------------------------------- */

/* measure_work_fn: one thread's stretch of the keys. */
static int run_worker(void *context, unsigned thread)
{
    struct bench *bench = context;
    const uint64_t count = bench->options->key_count;
    const uint64_t threads = bench->options->thread_count;
    return bench->kind->work(bench, &bench->workers[thread], count * thread / threads,
                             count * (thread + 1) / threads);
}

/* Makes one checkpoint after the other. */
struct checkpointer {
    struct kv_store *store;
    pthread_t thread;
    _Atomic bool stopping;
    int err; /* of the thread, until it has ended */
};

static void *make_checkpoints(void *context)
{
    struct checkpointer *checkpointer = context;
    while (!checkpointer->err &&
           !atomic_load_explicit(&checkpointer->stopping, memory_order_relaxed))
        checkpointer->err = kv_checkpoint(checkpointer->store);
    return NULL;
}

/* All threads do their part; the time that this takes. */
static int run_workers(struct bench *bench, uint64_t *elapsed_ns)
{
    const unsigned threads = bench->options->thread_count;
    struct checkpointer checkpointer = {.store = bench->store};
    if (!bench->kind->beside_checkpoints)
        return measure_parallel(threads, run_worker, bench, elapsed_ns);
    int err = -pthread_create(&checkpointer.thread, NULL, make_checkpoints, &checkpointer);
    if (err)
        return complain("checkpoints", err);
    err = measure_parallel(threads, run_worker, bench, elapsed_ns);
    atomic_store_explicit(&checkpointer.stopping, true, memory_order_relaxed);
    pthread_join(checkpointer.thread, NULL);
    if (checkpointer.err)
        (void)complain("checkpoints", checkpointer.err);
    return err ? err : checkpointer.err;
}

static int close_store(struct bench *bench)
{
    if (!bench->store)
        return 0;
    const int err = kv_close(bench->store);
    bench->store = NULL;
    return err ? complain("close", err) : 0;
}

static int open_fresh_store(struct bench *bench)
{
    const struct options *options = bench->options;
    int err = close_store(bench);
    if (err)
        return err;
    if (unlink(options->image) && errno != ENOENT)
        return complain(options->image, -errno);

    struct kv_error error = {{0}};
    const struct kv_create_options create = {
        .size_bytes = options->image_bytes, .codec = options->codec, .force = true};
    err = kv_create(options->image, &create, &error);
    if (!err) {
        const struct kv_open_options open = {.sync = options->sync,
                                             .memory_budget_bytes = options->budget_bytes,
                                             .buffered_io = options->buffered_io};
        err = kv_open(options->image, &open, &bench->store, &error);
    }
    if (err)
        fprintf(stderr, "bench-kv: %s: %s\n", options->image, error.text);
    memset(bench->generations, 0, options->key_count * sizeof *bench->generations);
    return err;
}

static int collect_phase(struct bench *bench, enum phase phase, unsigned run, uint64_t elapsed_ns)
{
    struct phase_result *result = &bench->results[phase];
    for (unsigned i = 0; i < bench->options->thread_count; i++) {
        const int err = phase_result_take(result, &bench->workers[i].tally);
        if (err)
            return complain("latencies", err);
    }
    const int err = phase_result_end_run(result, run, bench->options->key_count, elapsed_ns);
    if (err)
        fprintf(stderr, "bench-kv: %s: run %u did not do the work of the others\n",
                phase_kinds[phase].name, run + 1);
    return err;
}

static int run_phase(struct bench *bench, enum phase phase, unsigned run)
{
    const struct phase_kind *kind = &phase_kinds[phase];
    struct phase_writes *writes = &bench->writes[phase];
    int err = kind->fresh_image || !bench->store ? open_fresh_store(bench) : 0;
    if (err)
        return err;

    struct kv_stats before, after;
    kv_store_stats(bench->store, &before);
    bench->kind = kind;
    uint64_t elapsed_ns;
    err = run_workers(bench, &elapsed_ns);
    if (err)
        return err;
    if (kind->writes) {
        /* Durable at the end of the time; in place, and counted, before the next phase. */
        const uint64_t begun_ns = measure_now_ns();
        err = kv_sync(bench->store);
        elapsed_ns += measure_now_ns() - begun_ns;
        if (!err)
            err = kv_checkpoint(bench->store);
        if (err)
            return complain("sync", err);
    }
    kv_store_stats(bench->store, &after);
    writes->written_bytes = after.device_write_bytes - before.device_write_bytes;
    writes->log_flushes = after.log_flushes - before.log_flushes;
    writes->checkpoints = after.checkpoints - before.checkpoints;
    bench->direct_io = after.direct_io;
    if (kind->fresh_image)
        bench->image_used_bytes = after.total_bytes - after.free_bytes;
    return collect_phase(bench, phase, run, elapsed_ns);
}

static int run_all(struct bench *bench)
{
    const struct options *options = bench->options;
    int err = 0;
    for (unsigned run = 0; run < options->run_count && !err; run++)
        for (enum phase phase = 0; phase < PHASE_COUNT && !err; phase++)
            if (options->selected[phase])
                err = run_phase(bench, phase, run);
    const int closed = close_store(bench);
    if (!err)
        err = closed;
    if (!options->keep && unlink(options->image) && errno != ENOENT && !err)
        err = complain(options->image, -errno);
    return err;
}

/* ---- results --------------------------------------------------------------------- */

static const char *const sync_names[] = {
    [KV_SYNC_FSYNC] = "fsync", [KV_SYNC_ALWAYS] = "always", [KV_SYNC_CHECKPOINT] = "checkpoint"};

static void print_table(struct bench *bench)
{
    fprintf(stderr, "%-17s %12s %12s %10s %10s %10s %12s\n", "phase", "operations", "per second",
            "p50 us", "p99 us", "p99.9 us", "written MiB");
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++) {
        if (!bench->options->selected[phase])
            continue;
        struct phase_result *result = &bench->results[phase];
        fprintf(stderr, "%-17s %12" PRIu64 " %12.0f %10.2f %10.2f %10.2f %12.1f\n",
                phase_kinds[phase].name, result->operation_count,
                measure_median(result->ops_per_s, bench->options->run_count),
                (double)measure_latencies_at(&result->latencies, 500) / 1000.0,
                (double)measure_latencies_at(&result->latencies, 990) / 1000.0,
                (double)measure_latencies_at(&result->latencies, 999) / 1000.0,
                (double)bench->writes[phase].written_bytes / 1048576.0);
    }
}

static void print_json(struct bench *bench)
{
    const struct options *options = bench->options;
    struct rusage usage;
    const uint64_t peak_rss = getrusage(RUSAGE_SELF, &usage) ? 0 : (uint64_t)usage.ru_maxrss * 1024;
    printf("{\"bench\":\"kv\",\"keys\":%" PRIu64 ",\"key_bytes\":%u,\"value_bytes\":%" PRIu64
           ",\"compressible_percent\":%u,\"budget_bytes\":%" PRIu64
           ",\"threads\":%u,\"batch\":%u,\"sync\":\"%s\",\"codec\":\"%s\",\"codec_level\":%d"
           ",\"direct_io\":%s,\"runs\":%u,\"seed\":%" PRIu64 ",\"phases\":{",
           options->key_count, KEY_BYTES, options->value_bytes, options->compressible_percent,
           options->budget_bytes, options->thread_count, options->batch_count,
           sync_names[options->sync], kv_codec_name(options->codec.codec), options->codec.level,
           bench->direct_io ? "true" : "false", options->run_count, options->seed);
    const char *separator = "";
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++) {
        if (!options->selected[phase])
            continue;
        struct phase_result *result = &bench->results[phase];
        printf("%s\"%s\":{\"operations\":%" PRIu64 ",\"ops_per_s\":%.0f,\"p50_ns\":%" PRIu64
               ",\"p99_ns\":%" PRIu64 ",\"p999_ns\":%" PRIu64 ",\"written_bytes\":%" PRIu64
               ",\"log_flushes\":%" PRIu64 ",\"checkpoints\":%" PRIu64 ",\"checksum\":\"%016" PRIx64
               "\"}",
               separator, phase_kinds[phase].name, result->operation_count,
               measure_median(result->ops_per_s, options->run_count),
               measure_latencies_at(&result->latencies, 500),
               measure_latencies_at(&result->latencies, 990),
               measure_latencies_at(&result->latencies, 999), bench->writes[phase].written_bytes,
               bench->writes[phase].log_flushes, bench->writes[phase].checkpoints,
               result->checksum);
        separator = ",";
    }
    printf("},\"image_used_bytes\":%" PRIu64 ",\"peak_rss_bytes\":%" PRIu64 "}\n",
           bench->image_used_bytes, peak_rss);
}

/* ---- the command line ------------------------------------------------------------ */

static const char *phase_name(unsigned phase)
{
    return phase < PHASE_COUNT ? phase_kinds[phase].name : NULL;
}

static int parse_phases(char *text, void *target)
{
    return phase_select(phase_name, text, target);
}

static int parse_sync(char *text, void *target)
{
    for (size_t i = 0; i < sizeof sync_names / sizeof *sync_names; i++) {
        if (strcmp(text, sync_names[i]) == 0) {
            *(enum kv_sync_mode *)target = (enum kv_sync_mode)i;
            return 0;
        }
    }
    return -EINVAL;
}

static int parse_codec(char *text, void *target)
{
    return tool_parse_codec(text, target);
}

static int parse_options(int argc, char **argv, struct options *options)
{
    const struct bench_option table[] = {
        BENCH_TEXT("image", "FILE", "the image to make, use and remove", &options->image),
        BENCH_NUMBER("image-size", "BYTES",
                     "its size; grows as it is filled (16 times the data, at least 1G)",
                     &options->image_bytes, 1u << 20, (uint64_t)1 << 50),
        BENCH_NUMBER("keys", "N", "how many keys (100000)", &options->key_count, 1, 1000000000),
        BENCH_NUMBER("value-size", "BYTES", "bytes in each value, 16 or more (100)",
                     &options->value_bytes, VALUE_HEAD, KV_VALUE_MAX),
        BENCH_SMALL("compressible", "PCT", "how much of a value is constant (50)",
                    &options->compressible_percent, 0, 100),
        BENCH_NUMBER("budget", "BYTES", "memory_budget of the store (256M)", &options->budget_bytes,
                     8u << 20, (uint64_t)1 << 46),
        BENCH_SMALL("threads", "N", "how many work at the same time (1)", &options->thread_count, 1,
                    THREADS_MAX),
        BENCH_SMALL("batch", "N", "puts in one batch, in the fills (1)", &options->batch_count, 1,
                    BATCH_MAX),
        BENCH_PARSED("sync", "MODE", "fsync, always or checkpoint (fsync)", parse_sync,
                     &options->sync),
        BENCH_PARSED("codec", "CODEC", "none, lz4 or zstd[:LEVEL] (none)", parse_codec,
                     &options->codec),
        BENCH_FLAG("buffered", "use the page cache of the host, not O_DIRECT",
                   &options->buffered_io),
        BENCH_PARSED("phases", "LIST",
                     "of fill-seq,get,scan,mixed,mixed-checkpoints,fill-random (all)", parse_phases,
                     options->selected),
        BENCH_SMALL("runs", "N", "how often to repeat everything (1)", &options->run_count, 1,
                    PHASE_RUNS_MAX),
        BENCH_NUMBER("seed", "N", "contents and order depend on it (1)", &options->seed, 0,
                     UINT64_MAX),
        BENCH_FLAG("keep", "leave the image there", &options->keep),
        BENCH_OPTION_END,
    };
    return bench_options_parse("bench-kv", "--image FILE", table, &options->verbose, argc, argv);
}

/* The options that contradict each other. NULL: none do. */
static const char *find_contradiction(const struct options *options)
{
    if (!options->image)
        return "--image is missing";
    if (options->thread_count > options->key_count)
        return "--threads is more than --keys";
    const bool reads = options->selected[PHASE_GET] || options->selected[PHASE_SCAN] ||
                       options->selected[PHASE_MIXED] || options->selected[PHASE_MIXED_CHECKPOINTS];
    if (reads && !options->selected[PHASE_FILL_SEQ])
        return "get, scan and mixed read what fill-seq wrote: add it to --phases";
    return NULL;
}

static int init_bench(struct bench *bench, const struct options *options)
{
    bench->options = options;
    bench->order = measure_shuffled(options->key_count, options->seed);
    bench->generations = calloc(options->key_count, sizeof *bench->generations);
    bench->workers = calloc(options->thread_count, sizeof *bench->workers);
    if (!bench->order || !bench->generations || !bench->workers)
        return -ENOMEM;
    for (unsigned i = 0; i < options->thread_count; i++) {
        struct worker *worker = &bench->workers[i];
        worker->batch = kv_batch_new();
        worker->value = malloc(options->value_bytes);
        worker->found = malloc(options->value_bytes);
        if (!worker->batch || !worker->value || !worker->found)
            return -ENOMEM;
    }
    return 0;
}

static void release_bench(struct bench *bench)
{
    for (unsigned i = 0; bench->workers && i < bench->options->thread_count; i++) {
        struct worker *worker = &bench->workers[i];
        if (worker->batch)
            kv_batch_free(worker->batch);
        free(worker->value);
        free(worker->found);
        measure_latencies_release(&worker->tally.latencies);
    }
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
        phase_result_release(&bench->results[phase]);
    free(bench->workers);
    free(bench->generations);
    free(bench->order);
    free(bench);
}

int main(int argc, char **argv)
{
    struct options options = {
        .key_count = 100000,
        .value_bytes = 100,
        .budget_bytes = 256u << 20,
        .seed = 1,
        .thread_count = 1,
        .run_count = 1,
        .batch_count = 1,
        .compressible_percent = 50,
    };
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
        options.selected[phase] = true;

    const int status = parse_options(argc, argv, &options);
    if (status != BENCH_GO_ON)
        return status;
    const char *contradiction = find_contradiction(&options);
    if (contradiction) {
        fprintf(stderr, "bench-kv: %s\n", contradiction);
        return 2;
    }
    if (!options.image_bytes)
        options.image_bytes = kv_max_u64(options.key_count * (options.value_bytes + KEY_BYTES) * 16,
                                         (uint64_t)1 << 30);

    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench) {
        fputs("bench-kv: no memory\n", stderr);
        return EXIT_FAILURE;
    }
    int err = init_bench(bench, &options);
    if (err) {
        (void)complain("setup", err);
        goto out;
    }
    err = run_all(bench);
    if (err)
        goto out;
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
        measure_latencies_sort(&bench->results[phase].latencies);
    if (options.verbose)
        print_table(bench);
    print_json(bench);
out:
    release_bench(bench);
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
