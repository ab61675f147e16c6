/*
 * bench/tiers.c: what do the compressed tiers of memory gain, and what can they cost?
 *
 * Reads values at random from an image of several times the memory budget: with all four tiers, and
 * with the same budget for hot and warm alone. Loads: Zipf and uniform choice, of values that pack
 * and of values that do not. The two take turns, in each round another one first, so that what else
 * the machine does meets both alike. Every value read is verified.
 *
 * Owns       one image for each kind of data, made at the start and removed at the end.
 * Invariant  both read the same keys in the same order, and sum up to the same checksum.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/resource.h>
#include <unistd.h>
#include <xxhash.h>

#include "bench/machine.h"
#include "bench/measure.h"
#include "bench/options.h"
#include "bench/phases.h"
#include "bench/zipf.h"
#include "kv/kv.h"
#include "tools/options.h"

#define KEY_BYTES   16u
#define VALUE_HEAD  8u /* the key's number */
#define ROUNDS_MAX  31u
#define THREADS_MAX 64u
#define FILL_BATCH  256u
#define RAW_READS   2000u
#define RAW_BYTES   8192u
#define RAW_SKIPPED (4u << 20) /* superblocks and a group's bitmaps */
#define OUTSIDE_MIB 64u        /* what a store may use beside the budget and a tenth of it */

enum data { DATA_PACKS, DATA_NOISE, DATA_COUNT };
enum memory { MEMORY_TIERS, MEMORY_TWO, MEMORY_COUNT };
enum pick { PICK_ZIPF, PICK_UNIFORM };

struct load_kind {
    const char *name;
    enum data data;
    enum pick pick;
    double goal; /* the least ratio of four tiers to two */
};

static const struct load_kind load_kinds[] = {
    {"zipf", DATA_PACKS, PICK_ZIPF, 1.5},
    {"uniform", DATA_PACKS, PICK_UNIFORM, 0.95},
    {"zipf-incompressible", DATA_NOISE, PICK_ZIPF, 0.95},
    {"uniform-incompressible", DATA_NOISE, PICK_UNIFORM, 0.95},
};
#define LOAD_COUNT (sizeof load_kinds / sizeof load_kinds[0])

static const char *const memory_names[MEMORY_COUNT] = {"four", "two"};
struct options {
    char *directory, *json;
    uint64_t budget_bytes, value_bytes, times, operations, warm_operations, seed;
    unsigned round_count, thread_count, compressible_percent;
    struct kv_tiers tiers[MEMORY_COUNT];
    struct kv_codec_spec codec;
    bool selected[LOAD_COUNT];
    bool verbose;
};

/* One load with one division of the memory: a figure of each round, counts of the last. */
struct result {
    double per_second[ROUNDS_MAX], per_cpu_second[ROUNDS_MAX];
    struct measure_latencies latencies; /* of the last round */
    uint64_t checksum, peak_rss_bytes, memory_used_max;
    uint64_t device_reads, device_read_bytes;
    struct kv_stats after; /* tiers' hits and the like since the warm-up */
};

struct worker {
    struct measure_latencies latencies;
    uint8_t *found, *wanted; /* value_bytes */
    uint64_t checksum;
};

struct bench {
    const struct options *options;
    uint64_t key_count;
    char images[DATA_COUNT][4096];
    uint64_t stored_bytes[DATA_COUNT]; /* of the image, when it was filled */
    uint64_t raw_read_ns;              /* a direct read of 8 KiB from an image, median */
    struct zipf zipf;
    struct worker workers[THREADS_MAX];
    struct result results[LOAD_COUNT][MEMORY_COUNT];
    /* of the run that is under way */
    struct kv_store *store;
    const struct load_kind *load;
    uint64_t first, operation_count; /* which of all draws */
};

static int complain(const char *what, int err)
{
    fprintf(stderr, "bench-tiers: %s: %s\n", what, strerror(-err));
    return err;
}

/* ---- data ------------------------------------------------------------------------- */

static void make_key(uint64_t id, uint8_t key[KEY_BYTES])
{
    memcpy(key, "tierskey", KEY_BYTES - 8);
    kv_be64_put(key + KEY_BYTES - 8, id);
}

static void make_value(const struct bench *bench, enum data data, uint64_t id, uint8_t *value)
{
    const struct options *options = bench->options;
    kv_be64_put(value, id);
    measure_fill(value + VALUE_HEAD, options->value_bytes - VALUE_HEAD,
                 measure_mix(options->seed ^ measure_mix(id)),
                 data == DATA_PACKS ? options->compressible_percent : 0);
}

static int open_store(struct bench *bench, enum data data, const struct kv_tiers *tiers)
{
    struct kv_error error = {{0}};
    const struct kv_open_options open = {
        .memory_budget_bytes = bench->options->budget_bytes, .tiers = *tiers, .fixed_tiers = true};
    const int err = kv_open(bench->images[data], &open, &bench->store, &error);
    if (err)
        fprintf(stderr, "bench-tiers: %s: %s\n", bench->images[data], error.text);
    return err;
}

static int close_store(struct bench *bench)
{
    const int err = bench->store ? kv_close(bench->store) : 0;
    bench->store = NULL;
    return err ? complain("close", err) : 0;
}

static int put_all(struct bench *bench, enum data data, struct kv_batch *batch)
{
    uint8_t *const value = bench->workers[0].wanted;
    int err = 0;
    for (uint64_t id = 0; id < bench->key_count && !err; id++) {
        uint8_t key[KEY_BYTES];
        make_key(id, key);
        make_value(bench, data, id, value);
        err = kv_batch_put(batch, key, sizeof key, value, bench->options->value_bytes);
        if (err || (kv_batch_count(batch) < FILL_BATCH && id + 1 < bench->key_count))
            continue;
        err = kv_apply(bench->store, batch, 0, NULL);
        kv_batch_clear(batch);
    }
    return err ? complain("fill", err) : 0;
}

static int fill_image(struct bench *bench, enum data data)
{
    const struct options *options = bench->options;
    struct kv_error error = {{0}};
    const struct kv_create_options create = {
        .size_bytes = 4 * options->times * options->budget_bytes + (1ull << 30),
        .codec = options->codec,
        .force = true};
    int err = kv_create(bench->images[data], &create, &error);
    if (err) {
        fprintf(stderr, "bench-tiers: %s: %s\n", bench->images[data], error.text);
        return err;
    }
    err = open_store(bench, data, &options->tiers[MEMORY_TWO]);
    struct kv_batch *batch = err ? NULL : kv_batch_new();
    if (!err && !batch)
        err = -ENOMEM;
    if (!err)
        err = put_all(bench, data, batch);
    if (!err)
        err = kv_checkpoint(bench->store);
    if (!err) {
        struct kv_stats stats;
        kv_store_stats(bench->store, &stats);
        bench->stored_bytes[data] = stats.total_bytes - stats.free_bytes;
    }
    if (batch)
        kv_batch_free(batch);
    const int closed = close_store(bench);
    return err ? err : closed;
}

/* ---- reading ------------------------------------------------------------------------ */

static uint64_t draw(const struct bench *bench, uint64_t at)
{
    const uint64_t random = measure_mix(bench->options->seed ^ measure_mix(at));
    if (bench->load->pick == PICK_UNIFORM)
        return random % bench->key_count;
    return measure_mix(zipf_rank(&bench->zipf, random)) % bench->key_count;
}

/* measure_work_fn: this thread's share of the draws. */
static int read_values(void *context, unsigned thread)
{
    struct bench *bench = context;
    const struct options *options = bench->options;
    struct worker *worker = &bench->workers[thread];
    int err = 0;
    for (uint64_t i = thread; i < bench->operation_count && !err; i += options->thread_count) {
        const uint64_t id = draw(bench, bench->first + i);
        uint8_t key[KEY_BYTES];
        size_t length = 0;
        make_key(id, key);
        const uint64_t begun_ns = measure_now_ns();
        err = kv_get(bench->store, key, sizeof key, worker->found, options->value_bytes, &length);
        const uint64_t took_ns = measure_now_ns() - begun_ns;
        if (!err && (length != options->value_bytes || kv_be64_take(worker->found) != id))
            err = -EUCLEAN;
        if (!err && i % 64 == thread) { /* the whole of some; making it costs more than reading */
            make_value(bench, bench->load->data, id, worker->wanted);
            err = memcmp(worker->found, worker->wanted, length) ? -EUCLEAN : 0;
        }
        if (!err) {
            worker->checksum += XXH3_64bits(worker->found, length);
            err = measure_latencies_add(&worker->latencies, took_ns);
        }
    }
    return err ? complain("get", err) : 0;
}

static uint64_t cpu_ns(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage))
        return 0;
    return ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * 1000000000u +
           ((uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec) * 1000u;
}

/* From here on VmHWM is what is used from here on, where the kernel allows it. */
static void reset_peak(void)
{
    FILE *out = fopen("/proc/self/clear_refs", "we");
    if (!out)
        return;
    (void)fputs("5", out); /* then the peak is that of the whole process: too high, not too low */
    (void)fclose(out);
}

static int drop_samples(struct bench *bench)
{
    for (unsigned i = 0; i < bench->options->thread_count; i++) {
        bench->workers[i].latencies.count = 0;
        bench->workers[i].checksum = 0;
    }
    return 0;
}

static int collect(struct bench *bench, struct result *result, unsigned round, uint64_t elapsed_ns,
                   uint64_t used_cpu_ns)
{
    uint64_t checksum = 0;
    int err = 0;
    measure_latencies_release(&result->latencies); /* else they are most of the memory that shows */
    for (unsigned i = 0; i < bench->options->thread_count && !err; i++) {
        checksum += bench->workers[i].checksum;
        err = measure_latencies_merge(&result->latencies, &bench->workers[i].latencies);
    }
    if (err)
        return complain("latencies", err);
    const double operations = (double)bench->operation_count;
    result->per_second[round] = operations * 1e9 / (double)kv_max_u64(elapsed_ns, 1);
    result->per_cpu_second[round] = operations * 1e9 / (double)kv_max_u64(used_cpu_ns, 1);
    if (round && checksum != result->checksum)
        return complain("another checksum than in the round before", -EUCLEAN);
    result->checksum = checksum;
    return 0;
}

static void note_stats(struct result *result, const struct kv_stats *before,
                       const struct kv_stats *after)
{
    result->after = *after;
    result->device_reads = after->device_reads - before->device_reads;
    result->device_read_bytes = after->device_read_bytes - before->device_read_bytes;
    result->memory_used_max = kv_max_u64(result->memory_used_max, after->memory_used_bytes);
    for (enum kv_tier tier = 0; tier < KV_TIER_COUNT; tier++) {
        struct kv_tier_stats *const of = &result->after.tiers[tier];
        of->hits -= before->tiers[tier].hits;
        of->promotions -= before->tiers[tier].promotions;
        of->evictions -= before->tiers[tier].evictions;
        of->ghost_hits -= before->tiers[tier].ghost_hits;
    }
    result->after.page_misses -= before->page_misses;
}

static int run(struct bench *bench, unsigned load, enum memory memory, unsigned round)
{
    const struct options *options = bench->options;
    struct result *result = &bench->results[load][memory];
    bench->load = &load_kinds[load];
    int err = open_store(bench, bench->load->data, &options->tiers[memory]);
    if (err)
        return err;
    reset_peak();
    uint64_t elapsed_ns;
    struct kv_stats before, after;
    bench->first = 0;
    bench->operation_count = options->warm_operations;
    err = measure_parallel(options->thread_count, read_values, bench, &elapsed_ns);
    if (!err)
        err = drop_samples(bench);
    if (!err) {
        kv_store_stats(bench->store, &before);
        bench->first = options->warm_operations;
        bench->operation_count = options->operations;
        const uint64_t cpu_before_ns = cpu_ns();
        err = measure_parallel(options->thread_count, read_values, bench, &elapsed_ns);
        const uint64_t used_cpu_ns = cpu_ns() - cpu_before_ns;
        kv_store_stats(bench->store, &after);
        note_stats(result, &before, &after);
        result->peak_rss_bytes =
            kv_max_u64(result->peak_rss_bytes, measure_process_memory(getpid(), "VmHWM"));
        if (!err)
            err = collect(bench, result, round, elapsed_ns, used_cpu_ns);
    }
    const int closed = close_store(bench);
    return err ? err : closed;
}

/* What a read of two blocks costs without a store: the median of some, from an image. */
static int measure_raw_read(struct bench *bench, enum data data)
{
    struct measure_latencies latencies = MEASURE_LATENCIES_INIT;
    const int fd = open(bench->images[data], O_RDONLY | O_DIRECT | O_CLOEXEC);
    void *buf = NULL;
    int err = fd < 0 ? -errno : -posix_memalign(&buf, KV_BLOCK_BYTES, RAW_BYTES);
    const uint64_t places = bench->stored_bytes[data] / 2 / RAW_BYTES;
    struct kv_image_info info;
    struct kv_error error;
    if (!err)
        err = kv_image_info(bench->images[data], &info, &error);
    for (uint64_t i = 0; i < RAW_READS && !err; i++) {
        const uint64_t place = measure_mix(bench->options->seed ^ i) % kv_max_u64(places, 1);
        const uint64_t begun_ns = measure_now_ns();
        if (pread(fd, buf, RAW_BYTES, (off_t)(info.log_bytes + RAW_SKIPPED + place * RAW_BYTES)) <
            0)
            err = -errno;
        const uint64_t took_ns = measure_now_ns() - begun_ns;
        if (!err)
            err = measure_latencies_add(&latencies, took_ns);
    }
    measure_latencies_sort(&latencies);
    bench->raw_read_ns = measure_latencies_at(&latencies, 500);
    measure_latencies_release(&latencies);
    free(buf);
    if (fd >= 0)
        (void)close(fd); /* only read */
    return err ? complain("reading the image", err) : 0;
}

static int run_all(struct bench *bench)
{
    const struct options *options = bench->options;
    int err = 0;
    for (enum data data = 0; data < DATA_COUNT && !err; data++)
        for (unsigned load = 0; load < LOAD_COUNT && !err; load++)
            if (options->selected[load] && load_kinds[load].data == data) {
                err = fill_image(bench, data);
                if (!err)
                    err = measure_raw_read(bench, data);
                break;
            }
    for (unsigned round = 0; round < options->round_count && !err; round++)
        for (unsigned load = 0; load < LOAD_COUNT && !err; load++) {
            if (!options->selected[load])
                continue;
            for (unsigned turn = 0; turn < MEMORY_COUNT && !err; turn++)
                err = run(bench, load, (enum memory)((turn + round) % MEMORY_COUNT), round);
            if (!err && bench->results[load][MEMORY_TIERS].checksum !=
                            bench->results[load][MEMORY_TWO].checksum)
                err = complain("the two did not read the same", -EUCLEAN);
        }
    for (enum data data = 0; data < DATA_COUNT; data++)
        if (unlink(bench->images[data]) && errno != ENOENT && !err)
            err = complain(bench->images[data], -errno);
    return err;
}

/* ---- results -------------------------------------------------------------------------- */

static double median_of(const double *values, unsigned count)
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, count * sizeof *values);
    return measure_median(sorted, count);
}

/* The median of the rounds' ratios: what met one round met both. */
static double ratio_of(const struct bench *bench, unsigned load, size_t offset)
{
    double ratios[ROUNDS_MAX];
    const struct result *results = bench->results[load];
    for (unsigned round = 0; round < bench->options->round_count; round++) {
        double figures[MEMORY_COUNT];
        for (unsigned memory = 0; memory < MEMORY_COUNT; memory++)
            memcpy(&figures[memory],
                   (const char *)&results[memory] + offset + round * sizeof(double),
                   sizeof(double));
        ratios[round] = figures[MEMORY_TIERS] / figures[MEMORY_TWO];
    }
    return measure_median(ratios, bench->options->round_count);
}

static uint64_t rss_limit(const struct options *options)
{
    return options->budget_bytes + options->budget_bytes / 10 + ((uint64_t)OUTSIDE_MIB << 20);
}

static void print_tier_json(FILE *out, const struct kv_tier_stats *tier, const char *name)
{
    fprintf(out,
            "\"%s\":{\"pages\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"hits\":%" PRIu64
            ",\"promotions\":%" PRIu64 ",\"evictions\":%" PRIu64 ",\"ghost_hits\":%" PRIu64 "}",
            name, tier->pages, tier->bytes, tier->hits, tier->promotions, tier->evictions,
            tier->ghost_hits);
}

static void print_result_json(FILE *out, const struct bench *bench, struct result *result)
{
    static const char *const names[KV_TIER_COUNT] = {"hot", "warm", "cold", "frozen"};
    const unsigned rounds = bench->options->round_count;
    measure_latencies_sort(&result->latencies);
    fprintf(out, "{\"per_second\":%.0f,\"per_cpu_second\":%.0f,\"rounds\":[",
            median_of(result->per_second, rounds), median_of(result->per_cpu_second, rounds));
    for (unsigned round = 0; round < rounds; round++)
        fprintf(out, "%s%.0f", round ? "," : "", result->per_second[round]);
    fprintf(out,
            "],\"p50_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64 ",\"device_reads\":%" PRIu64
            ",\"device_read_bytes\":%" PRIu64 ",\"peak_rss_bytes\":%" PRIu64
            ",\"memory_used_bytes\":%" PRIu64 ",\"pages_packed\":%" PRIu64
            ",\"pages_repacked\":%" PRIu64 ",\"checksum\":\"%016" PRIx64 "\",\"tiers\":{",
            measure_latencies_at(&result->latencies, 500),
            measure_latencies_at(&result->latencies, 990), result->device_reads,
            result->device_read_bytes, result->peak_rss_bytes, result->memory_used_max,
            result->after.pages_packed, result->after.pages_repacked, result->checksum);
    for (unsigned tier = 0; tier < KV_TIER_COUNT; tier++) {
        fputs(tier ? "," : "", out);
        print_tier_json(out, &result->after.tiers[tier], names[tier]);
    }
    fputs("}}", out);
}

static void print_json(FILE *out, struct bench *bench)
{
    const struct options *options = bench->options;
    struct machine machine;
    machine_describe(&machine, options->directory);
    fputs("{\"bench\":\"tiers\",\"machine\":{", out);
    machine_print_json(out, &machine);
    fprintf(out,
            "},\"options\":{\"budget_bytes\":%" PRIu64 ",\"data_times\":%" PRIu64
            ",\"keys\":%" PRIu64 ",\"value_bytes\":%" PRIu64
            ",\"compressible_percent\":%u,\"codec\":\"%s\",\"threads\":%u,\"operations\":%" PRIu64
            ",\"warm_operations\":%" PRIu64 ",\"rounds\":%u,\"seed\":%" PRIu64 "}",
            options->budget_bytes, options->times, bench->key_count, options->value_bytes,
            options->compressible_percent, kv_codec_name(options->codec.codec),
            options->thread_count, options->operations, options->warm_operations,
            options->round_count, options->seed);
    fprintf(out, ",\"raw_read_ns\":%" PRIu64 ",\"rss_limit_bytes\":%" PRIu64 ",\"loads\":{",
            bench->raw_read_ns, rss_limit(options));
    const char *separator = "";
    for (unsigned load = 0; load < LOAD_COUNT; load++) {
        if (!options->selected[load])
            continue;
        const double ratio = ratio_of(bench, load, offsetof(struct result, per_second));
        fprintf(out, "%s\"%s\":{\"ratio\":%.3f,\"cpu_ratio\":%.3f,\"goal\":%.2f,\"met\":%s",
                separator, load_kinds[load].name, ratio,
                ratio_of(bench, load, offsetof(struct result, per_cpu_second)),
                load_kinds[load].goal, ratio >= load_kinds[load].goal ? "true" : "false");
        for (unsigned memory = 0; memory < MEMORY_COUNT; memory++) {
            fprintf(out, ",\"%s\":", memory_names[memory]);
            print_result_json(out, bench, &bench->results[load][memory]);
        }
        fputs("}", out);
        separator = ",";
    }
    fputs("}}\n", out);
}

static void print_table(struct bench *bench)
{
    const struct options *options = bench->options;
    fprintf(stderr, "%-24s %10s %10s %6s %6s %5s %8s %8s | %6s %6s %6s %6s %6s\n", "load", "four/s",
            "two/s", "ratio", "cpu", "goal", "p50 us", "p99 us", "hot%", "warm%", "cold%", "frzn%",
            "disk%");
    for (unsigned load = 0; load < LOAD_COUNT; load++) {
        if (!options->selected[load])
            continue;
        struct result *four = &bench->results[load][MEMORY_TIERS];
        const struct kv_stats *stats = &four->after;
        /* Pages above the leaves are hits too: what counts is what each get needed. */
        const double all = (double)options->operations;
        fprintf(stderr, "%-24s %10.0f %10.0f %6.2f %6.2f %5.2f %8.1f %8.1f |",
                load_kinds[load].name, median_of(four->per_second, options->round_count),
                median_of(bench->results[load][MEMORY_TWO].per_second, options->round_count),
                ratio_of(bench, load, offsetof(struct result, per_second)),
                ratio_of(bench, load, offsetof(struct result, per_cpu_second)),
                load_kinds[load].goal, (double)measure_latencies_at(&four->latencies, 500) / 1000.0,
                (double)measure_latencies_at(&four->latencies, 990) / 1000.0);
        for (unsigned tier = 0; tier < KV_TIER_COUNT; tier++)
            fprintf(stderr, " %6.1f", (double)stats->tiers[tier].hits * 100 / all);
        fprintf(stderr, " %6.1f (two: %.1f)\n", (double)stats->page_misses * 100 / all,
                (double)bench->results[load][MEMORY_TWO].after.page_misses * 100 / all);
        fprintf(stderr,
                "    pages %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 ", packed %" PRIu64
                " repacked %" PRIu64 ", bytes each %" PRIu64 " %" PRIu64 ", ghosts %" PRIu64
                " %" PRIu64 ", peak %" PRIu64 " MiB of %" PRIu64 "\n",
                stats->tiers[0].pages, stats->tiers[1].pages, stats->tiers[2].pages,
                stats->tiers[3].pages, stats->pages_packed, stats->pages_repacked,
                stats->tiers[2].bytes / kv_max_u64(stats->tiers[2].pages, 1),
                stats->tiers[3].bytes / kv_max_u64(stats->tiers[3].pages, 1),
                stats->tiers[KV_TIER_WARM].ghost_hits, stats->tiers[KV_TIER_FROZEN].ghost_hits,
                kv_max_u64(four->peak_rss_bytes, bench->results[load][MEMORY_TWO].peak_rss_bytes) >>
                    20,
                rss_limit(options) >> 20);
    }
}

/* ---- the command line ------------------------------------------------------------------ */

static const char *load_name(unsigned load)
{
    return load < LOAD_COUNT ? load_kinds[load].name : NULL;
}

static int parse_tiers(char *text, void *target)
{
    struct kv_tiers *const tiers = target;
    char *rest;
    unsigned tier = 0;
    for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        if (tier == KV_TIER_COUNT ||
            measure_parse_unsigned(word, 0, KV_TIER_RATIO_MAX, &tiers->ratio[tier]))
            return -EINVAL;
        tier++;
    }
    return tier == KV_TIER_COUNT ? 0 : -EINVAL;
}

static int parse_codec(char *text, void *target)
{
    return tool_parse_codec(text, target);
}

static int parse_loads(char *text, void *target)
{
    return phase_select(load_name, text, target);
}

/* What comes after it on the command line may change it. */
static int choose_quick(char *text, void *target)
{
    struct options *const options = target;
    (void)text; /* takes none */
    options->budget_bytes = 32u << 20;
    options->operations = 150000;
    options->warm_operations = 100000;
    return 0;
}

static int parse_options(int argc, char **argv, struct options *options)
{
    const struct bench_option table[] = {
        BENCH_TEXT("dir", "DIR", "where the images are made and removed (.)", &options->directory),
        BENCH_PARSED("quick", NULL, "a look: less data and fewer reads; less than five minutes",
                     choose_quick, options),
        BENCH_NUMBER("budget", "BYTES", "memory budget (128M)", &options->budget_bytes, 8u << 20,
                     (uint64_t)1 << 40),
        BENCH_NUMBER("times", "N", "data in relation to that (3)", &options->times, 1, 1000),
        BENCH_NUMBER("value-size", "BYTES", "bytes in each value (1000)", &options->value_bytes, 16,
                     KV_VALUE_MAX),
        BENCH_SMALL("compressible", "PCT", "how much of a value is constant, where it packs (75)",
                    &options->compressible_percent, 0, 100),
        BENCH_PARSED("codec", "CODEC", "of the image: none, lz4 or zstd[:LEVEL] (lz4)", parse_codec,
                     &options->codec),
        BENCH_PARSED("tiers", "H,W,C,F", "ratios of the four (12,3,90,80)", parse_tiers,
                     &options->tiers[MEMORY_TIERS]),
        BENCH_NUMBER("operations", "N", "reads that are measured (600000)", &options->operations, 1,
                     (uint64_t)1 << 40),
        BENCH_NUMBER("warm", "N", "reads before that (400000)", &options->warm_operations, 1,
                     (uint64_t)1 << 40),
        BENCH_SMALL("threads", "N", "that read at the same time (1)", &options->thread_count, 1,
                    THREADS_MAX),
        BENCH_SMALL("rounds", "N", "of all loads (3)", &options->round_count, 1, ROUNDS_MAX),
        BENCH_PARSED("loads", "LIST",
                     "of zipf,uniform,zipf-incompressible,uniform-incompressible (all)",
                     parse_loads, options->selected),
        BENCH_NUMBER("seed", "N", "contents and order depend on it (1)", &options->seed, 0,
                     UINT64_MAX),
        BENCH_TEXT("json", "FILE", "write the result there instead of to standard output",
                   &options->json),
        BENCH_OPTION_END,
    };
    return bench_options_parse("bench-tiers", "", table, &options->verbose, argc, argv);
}

static int init_bench(struct bench *bench, const struct options *options)
{
    bench->options = options;
    bench->key_count =
        options->times * options->budget_bytes / (options->value_bytes + KEY_BYTES) + 1;
    zipf_init(&bench->zipf, bench->key_count, ZIPF_THETA_USUAL);
    for (enum data data = 0; data < DATA_COUNT; data++) {
        const int length =
            snprintf(bench->images[data], sizeof bench->images[data], "%s/bench-tiers-%ld-%u.img",
                     options->directory, (long)getpid(), (unsigned)data);
        if (length < 0 || (size_t)length >= sizeof bench->images[data])
            return -ENAMETOOLONG;
    }
    for (unsigned i = 0; i < options->thread_count; i++) {
        bench->workers[i].found = malloc(options->value_bytes);
        bench->workers[i].wanted = malloc(options->value_bytes);
        if (!bench->workers[i].found || !bench->workers[i].wanted)
            return -ENOMEM;
    }
    return 0;
}

static void release_bench(struct bench *bench)
{
    for (unsigned i = 0; i < THREADS_MAX; i++) {
        free(bench->workers[i].found);
        free(bench->workers[i].wanted);
        measure_latencies_release(&bench->workers[i].latencies);
    }
    for (unsigned load = 0; load < LOAD_COUNT; load++)
        for (unsigned memory = 0; memory < MEMORY_COUNT; memory++)
            measure_latencies_release(&bench->results[load][memory].latencies);
    free(bench);
}

static int report(struct bench *bench)
{
    FILE *out = bench->options->json ? fopen(bench->options->json, "we") : stdout;
    if (!out)
        return complain(bench->options->json, -errno);
    print_json(out, bench);
    if (bench->options->verbose)
        print_table(bench);
    const bool failed = out == stdout ? fflush(out) != 0 : fclose(out) != 0;
    return failed ? complain("writing the result", -errno) : 0;
}

int main(int argc, char **argv)
{
    struct options options = {
        .directory = ".",
        .budget_bytes = 128u << 20,
        .value_bytes = 1000,
        .times = 3,
        .operations = 600000,
        .warm_operations = 400000,
        .seed = 1,
        .thread_count = 1,
        .round_count = 3,
        .compressible_percent = 75,
        .codec = {.codec = KV_CODEC_LZ4},
        .tiers[MEMORY_TIERS] = kv_tiers_with_packed(&(struct kv_tiers){.ratio = {12, 3}}),
        .tiers[MEMORY_TWO] = {.ratio = {4, 1, 0, 0}},
    };
    for (unsigned load = 0; load < LOAD_COUNT; load++)
        options.selected[load] = true;
    const int status = parse_options(argc, argv, &options);
    if (status != BENCH_GO_ON)
        return status;
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench) {
        fputs("bench-tiers: no memory\n", stderr);
        return EXIT_FAILURE;
    }
    int err = init_bench(bench, &options);
    err = err ? complain("setup", err) : run_all(bench);
    if (!err)
        err = report(bench);
    release_bench(bench);
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
