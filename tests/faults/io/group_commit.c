/*
 * tests/faults/io/group_commit.c: many threads wait for one flush, and it fails.
 *
 * Threads put and sync, others make checkpoints and read, while one flush (or a write before
 * one) fails, and with it half of what was written since the last good flush is undone, as a
 * disk may do. Whoever was told that its key is durable finds it after opening anew; from the
 * failure on nobody is told so any more; what was acknowledged can be read, or an error is.
 *
 * KVFS_ROUNDS: how many times, each on an image of its own. KVFS_SEED. KVFS_TMP.
 */
#include "ring_faults.h"
#include "workload.h"

#include "../../kv/support_store.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define THREAD_COUNT 8u
#define PUTS_MAX     2000u
#define VALUE_BYTES  300u
#define FAILED_TRIES 6u /* after its first error each thread tries so often */

static char directory[64], image[80], point_text[96];

struct round {
    struct kv_store *store;
    uint64_t seed;
    _Atomic unsigned running; /* threads that put */
};

struct worker {
    struct round *round;
    pthread_t thread;
    unsigned index;
    unsigned acknowledged; /* its keys below this are durable */
    unsigned refused;      /* waits that ended with an error */
};

static void on_signal(int signal_number)
{
    (void)!write(STDERR_FILENO, signal_number == SIGALRM ? "HANG: " : "ENDED: ", 6);
    (void)!write(STDERR_FILENO, point_text, strlen(point_text));
    (void)!write(STDERR_FILENO, "\n", 1);
    (void)unlink(image);
    (void)rmdir(directory);
    (void)signal(SIGABRT, SIG_DFL);
    abort();
}

static uint64_t number_of(const struct worker *worker, unsigned put)
{
    return (uint64_t)worker->index * PUTS_MAX + put;
}

static void expect_read(struct kv_store *store, uint64_t number)
{
    const int err = test_get_number(store, number, VALUE_BYTES);
    if (err && err != -EIO && err != -EBADMSG && err != -EUCLEAN)
        violate("reading what was acknowledged: %s", strerror(-err));
}

/* One put that is durable on return 0, in one of three ways. */
static int put_durably(struct kv_store *store, uint64_t number, unsigned way)
{
    char key[24];
    uint8_t value[VALUE_BYTES];
    struct kv_batch *const batch = kv_batch_new();
    KV_ASSERT(batch);
    test_fill(value, sizeof value, number);
    int err = kv_batch_put(batch, key, test_number_key(key, number), value, sizeof value);
    KV_ASSERT(err == 0);
    uint64_t position = 0;
    err = kv_apply(store, batch, way == 0 ? KV_APPLY_SYNC : 0, &position);
    kv_batch_free(batch);
    if (err || way == 0)
        return err;
    return way == 1 ? kv_sync(store) : kv_sync_to(store, position);
}

static void *run_worker(void *context)
{
    struct worker *const worker = context;
    struct kv_store *const store = worker->round->store;
    for (unsigned put = 0; put < PUTS_MAX && worker->refused < FAILED_TRIES; put++) {
        /* Of a store that had failed before the call nothing may succeed. */
        const bool failed = kv_store_failure(store) != 0;
        const int err = put_durably(store, number_of(worker, put), (put + worker->index) % 3);
        if (err && err != -EIO && err != -EROFS)
            violate("a put: %s", strerror(-err));
        if (!err && (failed || worker->refused))
            violate("a put was acknowledged after the store had failed");
        if (!err)
            worker->acknowledged = put + 1;
        else
            worker->refused++;
        if (put % 5 == 0 && worker->acknowledged)
            expect_read(store, number_of(worker, worker->acknowledged / 2));
    }
    (void)atomic_fetch_sub_explicit(&worker->round->running, 1, memory_order_relaxed);
    return NULL;
}

/* Flushes of its own, beside those of the log. */
static void *run_checkpoints(void *context)
{
    struct round *const round = context;
    bool refused = false;
    while (atomic_load_explicit(&round->running, memory_order_relaxed)) {
        const int err = kv_checkpoint(round->store);
        if (err && err != -EIO)
            violate("a checkpoint: %s", strerror(-err));
        if (!err && refused)
            violate("a checkpoint succeeded after the store had failed");
        refused = err != 0;
    }
    return NULL;
}

static void make_image(void)
{
    const struct kv_create_options create = {
        .size_bytes = 64u << 20, .node_bytes = 4096, .log_bytes = 1u << 20, .force = true};
    struct kv_error error = {""};
    if (kv_create(image, &create, &error))
        violate("kv_create: %s", error.text);
}

static struct kv_store *open_image(void)
{
    const struct kv_open_options options = {
        .memory_budget_bytes = 8u << 20, .commit_interval_ms = 5, .log = test_log_nothing};
    struct kv_store *store = NULL;
    struct kv_error error = {""};
    if (kv_open(image, &options, &store, &error))
        violate("kv_open: %s", error.text);
    return store;
}

/* What a store that failed still says. */
static void expect_read_only(struct round *round, const struct worker *workers)
{
    if (!kv_store_failure(round->store))
        violate("the fault struck, but the store did not fail");
    if (kv_sync(round->store) != -EIO || kv_checkpoint(round->store) != -EIO ||
        test_put_number(round->store, 1, 10) != -EROFS)
        violate("the store promises something after it has failed");
    for (unsigned i = 0; i < THREAD_COUNT; i++)
        for (unsigned put = 0; put < workers[i].acknowledged; put += 3)
            expect_read(round->store, number_of(&workers[i], put));
    if (!kv_close(round->store))
        violate("a store that failed was closed well");
}

/* Opened anew, all that was acknowledged is there. Returns how much that is. */
static uint64_t expect_acknowledged(const struct worker *workers)
{
    uint64_t count = 0;
    struct kv_store *const store = open_image();
    for (unsigned i = 0; i < THREAD_COUNT; i++)
        for (unsigned put = 0; put < workers[i].acknowledged; put++, count++) {
            const int err = test_get_number(store, number_of(&workers[i], put), VALUE_BYTES);
            if (err)
                violate("put %u of thread %u was acknowledged: %s", put, i, strerror(-err));
        }
    workload_expect_clean(store);
    if (kv_close(store))
        violate("the store can not be closed after it was opened anew");
    return count;
}

/* Returns how many waits were refused. */
static uint64_t run_round(uint64_t seed, uint64_t *acknowledged)
{
    static const enum ring_fault_kind kinds[] = {RING_LOST, RING_LOST, RING_EIO, RING_TORN};
    struct test_random random = {seed};
    const enum ring_fault_kind kind = kinds[test_random_below(&random, 4)];
    const struct ring_fault fault = {.targets = kind == RING_LOST ? RING_FLUSHES : RING_WRITES,
                                     .kind = kind,
                                     .lasting = test_random_below(&random, 4) == 0,
                                     .after = test_random_below(&random, 120),
                                     .seed = seed};
    snprintf(point_text, sizeof point_text, "seed %" PRIu64 ", %s %s after %" PRIu64, seed,
             ring_fault_name(kind), fault.lasting ? "lasting" : "once", fault.after);
    struct round round = {.seed = seed};
    struct worker workers[THREAD_COUNT];
    pthread_t checkpoints;
    make_image();
    round.store = open_image();
    atomic_init(&round.running, THREAD_COUNT);
    ring_fault_order(ring_faults(), fault);
    for (unsigned i = 0; i < THREAD_COUNT; i++) {
        workers[i] = (struct worker){.round = &round, .index = i};
        if (pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]))
            violate("no thread");
    }
    if (pthread_create(&checkpoints, NULL, run_checkpoints, &round))
        violate("no thread");
    uint64_t refused = 0;
    for (unsigned i = 0; i < THREAD_COUNT; i++) {
        pthread_join(workers[i].thread, NULL);
        refused += workers[i].refused;
    }
    pthread_join(checkpoints, NULL);
    const bool struck = ring_fault_hits(ring_faults()) > 0;
    ring_fault_order(ring_faults(), (struct ring_fault){.targets = 0});
    if (!struck)
        violate("the fault never struck");
    expect_read_only(&round, workers);
    *acknowledged += expect_acknowledged(workers);
    return refused;
}

int main(void)
{
    const uint64_t seed = test_env("KVFS_SEED", 1);
    const uint64_t rounds = test_env("KVFS_ROUNDS", 30);
    printf("seed: %" PRIu64 " (KVFS_SEED), rounds: %" PRIu64 " (KVFS_ROUNDS)\n", seed, rounds);
    const char *const tmp = getenv("KVFS_TMP");
    snprintf(directory, sizeof directory, "%s/kvfs-group-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        violate("%s: %s", directory, strerror(errno));
    snprintf(image, sizeof image, "%s/image", directory);
    violate_name_point(point_text);
    (void)signal(SIGALRM, on_signal);
    (void)signal(SIGABRT, on_signal);
    (void)signal(SIGTERM, on_signal);
    (void)signal(SIGINT, on_signal);

    uint64_t refused = 0, acknowledged = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        (void)alarm(300);
        refused += run_round(seed * 100000 + i, &acknowledged);
        (void)alarm(0);
    }
    (void)unlink(image);
    (void)rmdir(directory);
    printf("seed %" PRIu64 ": %" PRIu64 " rounds, %" PRIu64 " puts acknowledged and there, %" PRIu64
           " refused\n",
           seed, rounds, acknowledged, refused);
    return 0;
}
