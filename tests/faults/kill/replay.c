/*
 * tests/faults/kill/replay.c: how long does an image take to open when its log is full?
 *
 * Fills a log as far as the store lets it (no background threads, so that a checkpoint comes
 * only when there is no room), gives the store up as a crash does, opens the image and checks
 * that all is there. Two kinds of records: many small
 * values under scattered keys, the worst for a replay, and values of some KiB in order. The
 * figures are printed, none is asserted.
 *
 * Owns       an image in a temporary directory.
 * Environment: KVFS_SEED, REPLAY_LOG_MIB (16), REPLAY_IMAGE_MIB (8 times as much).
 */
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kv/base.h"
#include "kv/kv.h"

struct kind {
    const char *name;
    size_t value_len;
    bool scattered;
    unsigned batch; /* puts in each */
};

static const struct kind kinds[] = {
    {"small values, scattered, one a batch", 100, true, 1},
    {"small values, scattered, 16 a batch", 100, true, 16},
    {"values of 2 KiB, in order", 2000, false, 1},
};

static char directory[] = "/tmp/kvfs-replay-XXXXXX";
static char image[sizeof directory + 16];

static void clean_up(void)
{
    unlink(image);
    rmdir(directory);
}

static void require(int err, const char *what, const struct kv_error *error)
{
    if (!err)
        return;
    fprintf(stderr, "replay: FAILED: %s: %s %s\n", what, strerror(-err), error ? error->text : "");
    exit(1);
}

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t from_environment(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : usual;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void make_pair(const struct kind *kind, uint64_t seed, uint64_t number, uint8_t key[16],
                      uint8_t *value)
{
    const uint64_t first = kind->scattered ? mix(seed + number) : __builtin_bswap64(number);
    memcpy(key, &first, 8);
    memcpy(key + 8, &number, 8);
    for (size_t i = 0; i < kind->value_len; i += 8) {
        const uint64_t word = mix(first + i);
        memcpy(value + i, &word, kind->value_len - i < 8 ? kind->value_len - i : 8);
    }
}

struct filling {
    struct kv_store *store;
    const struct kind *kind;
    struct kv_batch *batch;
    uint64_t seed, count;
};

/* Put one more batch. Returns the bytes of log in use. */
static uint64_t put_some(struct filling *filling, struct kv_stats *stats)
{
    uint8_t key[16], value[4096];
    const struct kind *kind = filling->kind;
    kv_batch_clear(filling->batch);
    for (unsigned i = 0; i < kind->batch; i++) {
        make_pair(kind, filling->seed, filling->count++, key, value);
        require(kv_batch_put(filling->batch, key, sizeof key, value, kind->value_len), "put", NULL);
    }
    require(kv_apply(filling->store, filling->batch, 0, NULL), "apply", NULL);
    kv_store_stats(filling->store, stats);
    return stats->log_used_bytes;
}

/*
 * Put until the log is full: at the first time that is seen when it gets empty, at the second
 * it stays so. Returns how many pairs.
 */
static uint64_t fill(struct kv_store *store, const struct kind *kind, uint64_t seed)
{
    struct filling filling = {.store = store, .kind = kind, .batch = kv_batch_new(), .seed = seed};
    struct kv_stats stats;
    uint64_t brim = 0, used;
    require(filling.batch ? 0 : -ENOMEM, "batch", NULL);
    while ((used = put_some(&filling, &stats)) >= brim)
        brim = used;
    while (used < brim / 100 * 98)
        used = put_some(&filling, &stats);
    require(kv_sync(store), "sync", NULL);
    kv_batch_free(filling.batch);
    printf("%s: %llu pairs, %.1f MiB in a log of %llu, at most %.1f", kind->name,
           (unsigned long long)filling.count, (double)used / (1 << 20),
           (unsigned long long)stats.log_total_bytes >> 20, (double)brim / (1 << 20));
    return filling.count;
}

static void check(struct kv_store *store, const struct kind *kind, uint64_t seed, uint64_t count)
{
    uint8_t key[16], value[4096], found[4096];
    for (uint64_t i = 0; i < count; i++) {
        size_t length;
        make_pair(kind, seed, i, key, value);
        require(kv_get(store, key, sizeof key, found, sizeof found, &length), "get", NULL);
        require(length == kind->value_len && !memcmp(found, value, length) ? 0 : -EUCLEAN,
                "a value is not what was put", NULL);
    }
}

static uint64_t run(const struct kind *kind, uint64_t seed)
{
    const uint64_t log_mib = from_environment("REPLAY_LOG_MIB", 16);
    const struct kv_create_options create = {
        .size_bytes = from_environment("REPLAY_IMAGE_MIB", 8 * log_mib) << 20,
        .log_bytes = log_mib << 20,
        .force = true};
    const struct kv_open_options filling = {.no_background = true};
    struct kv_error error = {""};
    struct kv_store *store;
    require(kv_create(image, &create, &error), "create", &error);
    require(kv_open(image, &filling, &store, &error), "open", &error);
    const uint64_t count = fill(store, kind, seed);
    kv_abandon(store);
    const double begun = seconds_of(CLOCK_MONOTONIC);
    const double cpu_begun = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    require(kv_open(image, NULL, &store, &error), "open after the crash", &error);
    printf("; opened in %.3f s, %.3f s of CPU\n", seconds_of(CLOCK_MONOTONIC) - begun,
           seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_begun);
    check(store, kind, seed, count);
    require(kv_close(store), "close", NULL);
    return count;
}

int main(void)
{
    const uint64_t seed = from_environment("KVFS_SEED", 1);
    uint64_t count = 0;
    printf("KVFS_SEED=%llu\n", (unsigned long long)seed);
    require(mkdtemp(directory) ? 0 : -errno, directory, NULL);
    snprintf(image, sizeof image, "%s/image", directory);
    (void)atexit(clean_up);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        count += run(&kinds[i], seed);
    printf("%llu pairs in full logs, all there\n", (unsigned long long)count);
    return 0;
}
