/*
 * bench/kv-compare/workload.c: one kind of work on one engine, in this process.
 *
 * Owns       the engine while it is open, one worker for each thread.
 * Invariant  the clock of a worker runs only while the engine works or a value is looked at.
 */
#include "bench/kv-compare/workload.h"

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench/kv-compare/chooser.h"
#include "bench/kv-compare/raw.h"
#include "bench/measure.h"
#include "kv/histogram.h"

#define CHUNK_OPERATIONS 256u
#define SAMPLE_EVERY     8u  /* of reads: the clock costs as much as a read from the cache */
#define MIXED_PUT_RATE   5u  /* one of so many operations of WORKLOAD_MIXED overwrites */
#define VALUE_HEAD       16u /* number and generation */
#define COMPRESSIBLE     50u /* percent */

/* One thread's part. */
struct worker {
    const struct engine_kind *kind;
    const struct workload *work;
    struct engine_session *session;
    struct chooser chooser;
    struct kv_histogram *latencies;
    struct measure_clock clock;
    uint64_t operation_count, generation;
    uint64_t checksum; /* keeps the compiler from leaving values out */
    /* The operations that come next. */
    struct engine_record records[WORKLOAD_BATCH_MAX];
    uint64_t numbers[WORKLOAD_BATCH_MAX];
    bool puts[WORKLOAD_BATCH_MAX];
    uint8_t *values;   /* value_bytes for each record */
    uint8_t *expected; /* value_bytes */
};

/* ---- keys and values ------------------------------------------------------------- */

static void make_key(uint64_t number, struct engine_key *key)
{
    for (unsigned i = ENGINE_KEY_BYTES; i-- > 0; number /= 10)
        key->bytes[i] = (uint8_t)('0' + number % 10);
}

static void make_value(const struct workload *work, uint64_t number, uint64_t generation,
                       uint8_t *value)
{
    kv_be64_put(value, number);
    kv_be64_put(value + 8, generation);
    measure_fill(value + VALUE_HEAD, work->value_bytes - VALUE_HEAD,
                 measure_mix(number ^ (generation << 40)), COMPRESSIBLE);
}

static int complain_value(uint64_t number)
{
    fprintf(stderr, "record %" PRIu64 ": not its value\n", number);
    return -EUCLEAN;
}

/* Read every byte of a value, and see whose it is. */
static inline int look_at(struct worker *worker, uint64_t number, const struct engine_value *value)
{
    const size_t length = value->length;
    if (length != worker->work->value_bytes || kv_be64_take(value->bytes) != number)
        return complain_value(number);
    uint64_t sum = 0;
    for (size_t at = 0; at + 8 <= length; at += 8) {
        uint64_t word;
        memcpy(&word, value->bytes + at, 8);
        sum += word;
    }
    worker->checksum += sum;
    return 0;
}

/* ---- what is timed ---------------------------------------------------------------- */

/* Choose the next `count` operations and make what they need. */
static void prepare(struct worker *worker, size_t count)
{
    const struct workload *work = worker->work;
    for (size_t i = 0; i < count; i++) {
        const bool overwrites = work->operation == WORKLOAD_MIXED &&
                                (chooser_random(&worker->chooser) >> 32) % MIXED_PUT_RATE == 0;
        const bool puts = work->operation == WORKLOAD_PUT || overwrites;
        const uint64_t number = chooser_next(&worker->chooser);
        worker->numbers[i] = number;
        worker->puts[i] = puts;
        make_key(number, &worker->records[i].key);
        if (puts)
            make_value(work, number, overwrites ? ++worker->generation : 0,
                       worker->values + i * work->value_bytes);
    }
}

static int put_batches(struct worker *worker, size_t count)
{
    const size_t batch = worker->work->batch_count;
    uint64_t begun_ns = measure_now_ns();
    for (size_t at = 0; at < count; at += batch) {
        const int err =
            worker->kind->put(worker->session, worker->records + at, kv_min_u64(batch, count - at));
        if (err)
            return err;
        const uint64_t now_ns = measure_now_ns();
        kv_histogram_add(worker->latencies, now_ns - begun_ns);
        begun_ns = now_ns;
    }
    return 0;
}

static int get_one(struct worker *worker, size_t i)
{
    struct engine_value value;
    const int err = worker->kind->get(worker->session, &worker->records[i].key, &value);
    return err ? err : look_at(worker, worker->numbers[i], &value);
}

static int run_one(struct worker *worker, size_t i)
{
    return worker->puts[i] ? worker->kind->put(worker->session, &worker->records[i], 1)
                           : get_one(worker, i);
}

static int run_one_by_one(struct worker *worker, size_t count)
{
    int err = 0;
    for (size_t i = 0; i < count && !err; i++) {
        if (i % SAMPLE_EVERY) {
            err = run_one(worker, i);
            continue;
        }
        const uint64_t begun_ns = measure_now_ns();
        err = run_one(worker, i);
        kv_histogram_add(worker->latencies, measure_now_ns() - begun_ns);
    }
    return err;
}

static int get_many(struct worker *worker, size_t count)
{
    if (!worker->kind->get_many)
        return run_one_by_one(worker, count);
    int err = 0;
    for (size_t at = 0; at < count && !err; at += WORKLOAD_MANY) {
        struct engine_key keys[WORKLOAD_MANY];
        struct engine_value values[WORKLOAD_MANY];
        const size_t now = kv_min_u64(WORKLOAD_MANY, count - at);
        for (size_t i = 0; i < now; i++)
            keys[i] = worker->records[at + i].key;
        const uint64_t begun_ns = measure_now_ns();
        err = worker->kind->get_many(worker->session, keys, now, values);
        for (size_t i = 0; i < now && !err; i++)
            err = look_at(worker, worker->numbers[at + i], &values[i]);
        kv_histogram_add(worker->latencies, measure_now_ns() - begun_ns);
    }
    return err;
}

static int run_chunk(struct worker *worker, size_t count)
{
    switch (worker->work->operation) {
    case WORKLOAD_PUT:
        return put_batches(worker, count);
    case WORKLOAD_GET_MANY:
        return get_many(worker, count);
    default:
        return run_one_by_one(worker, count);
    }
}

/* Work until `operations_max` are done or `time_max_ns` have passed; 0: no such limit. */
static int run_chunks(struct worker *worker, uint64_t operations_max, uint64_t time_max_ns)
{
    const unsigned batch = worker->work->batch_count;
    const uint64_t chunk = batch > 1 ? batch : CHUNK_OPERATIONS;
    /* A number each once: no further than the share of this thread. */
    const uint64_t most = operations_max ? operations_max : UINT64_MAX;
    while (worker->operation_count < most &&
           (!time_max_ns || worker->clock.elapsed_ns < time_max_ns)) {
        size_t count = kv_min_u64(chunk, most - worker->operation_count);
        if (worker->work->sync)
            count = kv_min_u64(count, kv_max_u64(batch, 16)); /* of milliseconds each */
        prepare(worker, count);
        measure_clock_start(&worker->clock);
        const int err = run_chunk(worker, count);
        if (err)
            return err;
        (void)measure_clock_stop(&worker->clock);
        worker->operation_count += count;
    }
    return 0;
}

/* ---- scanning ---------------------------------------------------------------------- */

struct scanner {
    struct worker *worker;
    uint64_t count;
    bool verify; /* every byte of keys and values */
    int error;
};

static int verify_record(struct scanner *scanner, const uint8_t *key, size_t key_len,
                         const uint8_t *value, size_t value_len)
{
    const struct workload *work = scanner->worker->work;
    struct engine_key wanted;
    make_key(scanner->count, &wanted);
    if (key_len != ENGINE_KEY_BYTES || memcmp(key, wanted.bytes, key_len) != 0 ||
        value_len != work->value_bytes)
        return complain_value(scanner->count);
    make_value(work, scanner->count, kv_be64_take(value + 8), scanner->worker->expected);
    return memcmp(value, scanner->worker->expected, value_len) == 0
               ? 0
               : complain_value(scanner->count);
}

static bool count_record(void *context, const uint8_t *key, size_t key_len, const uint8_t *value,
                         size_t value_len)
{
    struct scanner *scanner = context;
    const struct engine_value found = {value, value_len};
    scanner->error = scanner->verify ? verify_record(scanner, key, key_len, value, value_len)
                                     : look_at(scanner->worker, scanner->count, &found);
    scanner->count++;
    return !scanner->error;
}

/* All records are there, in order, and no others. */
static int scan_once(struct worker *worker, bool verify)
{
    struct scanner scanner = {.worker = worker, .verify = verify};
    measure_clock_start(&worker->clock);
    int err = worker->kind->scan(worker->session, count_record, &scanner);
    if (!err)
        err = scanner.error;
    if (!err && scanner.count != worker->work->record_count) {
        fprintf(stderr, "%" PRIu64 " records instead of %" PRIu64 "\n", scanner.count,
                worker->work->record_count);
        err = -EUCLEAN;
    }
    if (err)
        return err;
    (void)measure_clock_stop(&worker->clock);
    worker->operation_count += scanner.count;
    return 0;
}

static int run_scans(struct worker *worker, uint64_t time_max_ns)
{
    int err;
    do {
        err = scan_once(worker, false);
    } while (!err && worker->clock.elapsed_ns < time_max_ns);
    return err;
}

/* ---- the workers --------------------------------------------------------------------- */

static void forget_figures(struct worker *worker)
{
    worker->operation_count = 0;
    worker->clock = (struct measure_clock){0};
    memset(worker->latencies, 0, sizeof *worker->latencies);
}

static int work_for(struct worker *worker, uint64_t operations_max, uint64_t time_max_ns)
{
    return worker->work->operation == WORKLOAD_SCAN
               ? run_scans(worker, time_max_ns)
               : run_chunks(worker, operations_max, time_max_ns);
}

/* measure_work_fn */
static int warm_up(void *context, unsigned thread)
{
    struct worker *worker = &((struct worker *)context)[thread];
    const struct workload *work = worker->work;
    int err = work->scan_first && thread == 0 ? scan_once(worker, true) : 0;
    if (!err && work->warm_ns && work->operation != WORKLOAD_SCAN) {
        forget_figures(worker);
        err = work_for(worker, 0, work->warm_ns);
    }
    forget_figures(worker);
    return err;
}

/* measure_work_fn */
static int work_timed(void *context, unsigned thread)
{
    struct worker *worker = &((struct worker *)context)[thread];
    const struct workload *work = worker->work;
    const uint64_t share =
        (work->operations_max + work->thread_count - 1 - thread) / work->thread_count;
    return work->operations_max && !share ? 0 : work_for(worker, share, work->time_max_ns);
}

static void workers_free(struct worker *workers, const struct workload *work)
{
    for (unsigned i = 0; workers && i < work->thread_count; i++) {
        struct worker *worker = &workers[i];
        if (worker->session)
            worker->kind->session_close(worker->session);
        free(worker->latencies);
        free(worker->values);
        free(worker->expected);
    }
    free(workers);
}

static int worker_init(struct worker *worker, const struct engine_kind *kind, struct engine *engine,
                       const struct workload *work, unsigned thread)
{
    worker->kind = kind;
    worker->work = work;
    chooser_init(&worker->chooser, work, thread);
    worker->latencies = calloc(1, sizeof *worker->latencies);
    worker->values = calloc(WORKLOAD_BATCH_MAX, work->value_bytes);
    worker->expected = calloc(1, work->value_bytes);
    if (!worker->latencies || !worker->values || !worker->expected)
        return -ENOMEM;
    for (size_t i = 0; i < WORKLOAD_BATCH_MAX; i++)
        worker->records[i].value = worker->values + i * work->value_bytes;
    return kind->session_open(engine, &worker->session);
}

/* ---- flushing and measuring files ------------------------------------------------------ */

static __thread workload_visit_file_fn *visit_file; /* nftw has no context */

static int open_and_visit(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)place;
    if (kind != FTW_F)
        return 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno; /* the engine removed it */
    const int err = visit_file(fd);
    (void)close(fd); /* nothing was written by it */
    return err;
}

int workload_each_file(const char *directory, workload_visit_file_fn *visit)
{
    visit_file = visit;
    return nftw(directory, open_and_visit, 16, FTW_PHYS);
}

static int flush_file(int fd)
{
    return fdatasync(fd) ? -errno : 0;
}

static int flush(const struct engine_kind *kind, struct engine *engine, const char *directory)
{
    return kind->flush ? kind->flush(engine) : workload_each_file(directory, flush_file);
}

static __thread uint64_t walked_bytes; /* nftw has no context */

static int add_file(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)path;
    (void)place;
    if (kind == FTW_F)
        walked_bytes += (uint64_t)info->st_blocks * 512;
    return 0;
}

int workload_disk_bytes(const char *directory, uint64_t *bytes)
{
    walked_bytes = 0;
    if (nftw(directory, add_file, 16, FTW_PHYS))
        return -errno;
    *bytes = walked_bytes;
    return 0;
}

/* ---- one run ------------------------------------------------------------------------------ */

static void sum_up(struct worker *workers, const struct workload *work, uint64_t flush_ns,
                   struct workload_result *result)
{
    double per_ns = 0;
    uint64_t cpu_ns = 0;
    for (unsigned i = 0; i < work->thread_count; i++) {
        struct worker *worker = &workers[i];
        result->operation_count += worker->operation_count;
        per_ns += (double)worker->operation_count / (double)kv_max_u64(worker->clock.elapsed_ns, 1);
        cpu_ns += worker->clock.cpu_ns;
        if (i)
            kv_histogram_merge(workers[0].latencies, worker->latencies);
    }
    if (per_ns > 0) {
        const double count = (double)result->operation_count;
        result->per_second = count / (count / per_ns + (double)flush_ns) * 1e9;
    }
    result->per_cpu_second = (double)result->operation_count * 1e9 / (double)kv_max_u64(cpu_ns, 1);
    result->p50_ns = kv_histogram_at(workers[0].latencies, 500);
    result->p99_ns = kv_histogram_at(workers[0].latencies, 990);
    result->p999_ns = kv_histogram_at(workers[0].latencies, 999);
    result->longest_ns = workers[0].latencies->max;
}

static bool is_writing(const struct workload *work)
{
    return work->operation == WORKLOAD_PUT || work->operation == WORKLOAD_MIXED;
}

static int run_workers(const struct engine_kind *kind, struct engine *engine, const char *directory,
                       const struct workload *work, struct worker *workers,
                       struct workload_result *result)
{
    int err = 0;
    for (unsigned i = 0; i < work->thread_count && !err; i++)
        err = worker_init(&workers[i], kind, engine, work, i);
    uint64_t wall_ns;
    if (!err && (work->scan_first || work->warm_ns))
        err = measure_parallel(work->thread_count, warm_up, workers, &wall_ns);
    if (!err)
        err = measure_parallel(work->thread_count, work_timed, workers, &wall_ns);
    if (err)
        return err;

    const bool writes = is_writing(work);
    const uint64_t begun_ns = measure_now_ns();
    if (writes)
        err = flush(kind, engine, directory);
    sum_up(workers, work, writes ? measure_now_ns() - begun_ns : 0, result);
    return err;
}

static int run_engine(const struct engine_kind *kind, const char *directory,
                      const struct workload *work, struct worker *workers,
                      struct workload_result *result)
{
    const struct engine_config config = {.directory = directory,
                                         .record_count = work->record_count,
                                         .value_bytes = work->value_bytes,
                                         .cache_bytes = work->cache_bytes,
                                         .limited = work->limited,
                                         .sync = work->sync,
                                         .session_count = work->thread_count};
    struct engine *engine;
    int err = kind->open(&config, &engine);
    if (err)
        return err;
    err = run_workers(kind, engine, directory, work, workers, result);
    for (unsigned i = 0; i < work->thread_count; i++) {
        if (workers[i].session)
            kind->session_close(workers[i].session);
        workers[i].session = NULL;
    }
    /* Without sessions: what they read last must not hold off a checkpoint. */
    if (!err && is_writing(work) && kind->settle)
        err = kind->settle(engine);
    if (!err && kind->used_bytes)
        result->used_bytes = kind->used_bytes(engine);
    const int closed = kind->close(engine);
    return err ? err : closed;
}

static uint64_t ns_of(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_usec * 1000u;
}

int workload_run(const struct engine_kind *kind, const char *directory, const struct workload *work,
                 struct workload_result *result)
{
    KV_ASSERT(work->thread_count >= 1);
    KV_ASSERT(work->thread_count <= WORKLOAD_THREADS_MAX);
    KV_ASSERT(work->batch_count <= WORKLOAD_BATCH_MAX);
    KV_ASSERT(work->value_bytes >= VALUE_HEAD);

    struct worker *workers = calloc(work->thread_count, sizeof *workers);
    int err = workers ? 0 : -ENOMEM;
    if (!err && kind) {
        err = run_engine(kind, directory, work, workers, result);
    } else if (!err) {
        err = raw_run(directory, work, result);
    }
    workers_free(workers, work);

    struct rusage usage;
    if (!getrusage(RUSAGE_SELF, &usage)) {
        result->peak_rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
        result->cpu_ns = ns_of(usage.ru_utime) + ns_of(usage.ru_stime);
    }
    result->written_bytes = measure_process_written((long)getpid());
    if (!err)
        err = workload_disk_bytes(directory, &result->disk_bytes);
    result->error = err;
    return err;
}
