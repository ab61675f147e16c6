/*
 * tests/faults/daemon/log_jump.c: power cuts while the log goes round in the part that has room.
 *
 * Given      a log of which the host has room for the first part only, so that checkpoints let
 *            it jump back to its start (kv/wal_room.c), and a recorder below.
 * When       one thread applies batches and one syncs them, checkpoints run beside both, and the
 * power is cut before or after any write: with all that was pending, none of it, or some; sometimes
 * again during recovery. Then       the store opens; what was synced is there, and all there is is
 * a prefix.
 *
 * Batch i puts i under `last` and under KEYS_PER_BATCH keys that i decides, so `last` tells what
 * every key must hold. usage: log_jump [STATES]; KVFS_SEED. Prints its counts.
 */
#include "kv/kv.h"
#include "support_devices.h"
#include "support_store.h"
#include "support_thin.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define IMAGE_BLOCKS   16384u /* 64 MiB */
#define LOG_BYTES      (16u << 20)
#define ROOM_BLOCKS    1024u
#define KEY_COUNT      400u
#define KEYS_PER_BATCH 20u
#define VALUE_BYTES    900u
#define BATCH_COUNT    1000u

struct promise {
    size_t events; /* when it was given */
    uint64_t batch;
};

static uint64_t key_of(uint64_t batch, unsigned i)
{
    return (batch * 7 + i * 13) % KEY_COUNT;
}

static void apply_batch(struct kv_store *store, uint64_t number)
{
    struct kv_batch *batch = kv_batch_new();
    KV_ASSERT(batch != NULL);
    uint8_t value[VALUE_BYTES];
    for (unsigned i = 0; i < KEYS_PER_BATCH; i++) {
        char key[24];
        const size_t length = test_number_key(key, key_of(number, i));
        test_fill(value, sizeof value, number);
        KV_ASSERT(!kv_batch_put(batch, key, length, value, sizeof value));
    }
    KV_ASSERT(!kv_batch_put(batch, "last", 4, &number, sizeof number));
    KV_ASSERT(!kv_apply(store, batch, 0, NULL));
    kv_batch_free(batch);
}

/* ---- the load: one thread applies, one syncs, checkpoints run beside both ------------- */

struct load {
    struct kv_store *store;
    struct recorder *recorder;
    _Atomic uint64_t applied;
    struct promise *promises; /* the syncing thread's, until it is joined */
    size_t promise_count;
};

static void *sync_always(void *context)
{
    struct load *load = context;
    for (uint64_t batch = 0; batch < BATCH_COUNT;) {
        batch = atomic_load(&load->applied);
        KV_ASSERT(!kv_sync(load->store));
        load->promises[load->promise_count++] =
            (struct promise){recorder_event_count(load->recorder), batch};
        while (batch < BATCH_COUNT && atomic_load(&load->applied) == batch)
            sched_yield();
    }
    return NULL;
}

static void run_load(struct load *load)
{
    pthread_t syncer;
    KV_ASSERT(!pthread_create(&syncer, NULL, sync_always, load));
    for (uint64_t batch = 1; batch <= BATCH_COUNT; batch++) {
        apply_batch(load->store, batch);
        atomic_store(&load->applied, batch);
    }
    KV_ASSERT(!pthread_join(syncer, NULL));
}

/* The store is what the batches up to `last` make; returns that. */
static uint64_t verify(struct kv_store *store)
{
    uint64_t last = 0;
    size_t length;
    const int err = kv_get(store, "last", 4, &last, sizeof last, &length);
    KV_ASSERT(err == 0 || err == -ENOENT);
    KV_ASSERT(last <= BATCH_COUNT);
    uint64_t wanted[KEY_COUNT] = {0};
    for (uint64_t batch = 1; batch <= last; batch++)
        for (unsigned i = 0; i < KEYS_PER_BATCH; i++)
            wanted[key_of(batch, i)] = batch;
    for (uint64_t number = 0; number < KEY_COUNT; number++) {
        char key[24];
        uint8_t value[VALUE_BYTES], right[VALUE_BYTES];
        const size_t key_len = test_number_key(key, number);
        const int got = kv_get(store, key, key_len, value, sizeof value, &length);
        KV_ASSERT(got == (wanted[number] ? 0 : -ENOENT));
        if (got)
            continue;
        test_fill(right, sizeof right, wanted[number]);
        KV_ASSERT(length == VALUE_BYTES && !memcmp(value, right, length));
    }
    return last;
}

/* Open a state, perhaps die while that recovers, and open what is left. */
static void try_state(struct kv_device *state, struct test_random *random, uint64_t durable)
{
    struct recorder *recorder = recorder_new(state);
    struct kv_store *store;
    KV_ASSERT(!test_try_open_on(recorder_device(recorder), &store));
    uint64_t last = verify(store);
    KV_ASSERT(last >= durable);
    if (test_random_below(random, 3) == 0) {
        struct crash_walk walk;
        kv_abandon(store);
        crash_walk_init(&walk, recorder);
        crash_walk_advance(&walk, test_random_below(random, recorder_event_count(recorder) + 1));
        struct kv_device *again = crash_walk_state(&walk, &(struct crash_choice){.kept = NULL});
        KV_ASSERT(!test_try_open_on(again, &store));
        last = verify(store);
        KV_ASSERT(last >= durable);
        kv_abandon(store);
        crash_walk_release(&walk);
    } else {
        struct kv_check_result result;
        KV_ASSERT(test_check(store, &result) == 0);
        KV_ASSERT(!kv_close(store));
    }
    recorder_free(recorder);
}

int main(int argc, char **argv)
{
    const uint64_t seed = test_env("KVFS_SEED", 1);
    const uint64_t states = argc > 1 ? strtoull(argv[1], NULL, 10) : 150;
    printf("KVFS_SEED=%" PRIu64 "\n", seed);
    struct test_random random = {seed};
    struct recorder *recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    struct thin *thin = thin_new(recorder_device(recorder), THIN_TAKES_NOTHING);
    test_create_on(thin_device(thin), 4096, KV_CODEC_NONE, LOG_BYTES);
    thin_set_room(thin, ROOM_BLOCKS);
    const size_t first = recorder_event_count(recorder);

    struct promise *promises = calloc(BATCH_COUNT + 2, sizeof *promises);
    KV_ASSERT(promises != NULL);
    const struct kv_open_options options = {
        .device = thin_device(thin), .memory_budget_bytes = 8u << 20, .log = test_log_nothing};
    struct kv_store *store;
    KV_ASSERT(!kv_open(NULL, &options, &store, NULL));
    thin_set_delay(thin, 200);
    struct load load = {.store = store, .recorder = recorder, .promises = promises};
    run_load(&load);
    const size_t promise_count = load.promise_count;
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    /* More went through the log than its ring holds, and the host has not room for the ring. */
    KV_ASSERT(stats.log_bytes > LOG_BYTES);
    KV_ASSERT(thin_used(thin) * KV_BLOCK_BYTES < LOG_BYTES);
    kv_abandon(store);
    KV_ASSERT(thin_take_unpromised(thin) < 100); /* those of mkfs */

    /* Positions in order, so that the walk goes forward; each a random step on. */
    const size_t events = recorder_event_count(recorder);
    struct crash_walk walk;
    crash_walk_init(&walk, recorder);
    size_t known = 0;
    uint64_t tried = 0;
    for (uint64_t i = 0; i < states; i++) {
        const size_t span = (events - first) / (size_t)states + 1;
        const size_t position =
            kv_min_u64(first + i * span + test_random_below(&random, span), events);
        crash_walk_advance(&walk, position);
        while (known < promise_count && promises[known].events <= position)
            known++;
        const size_t pending = crash_walk_pending(&walk);
        bool *kept = calloc(pending + 1, sizeof *kept);
        KV_ASSERT(kept != NULL);
        for (size_t k = 0; k < pending; k++)
            kept[k] = i % 3 == 1 || (i % 3 == 2 && test_random_below(&random, 2));
        const struct crash_choice choice = {.kept = kept};
        try_state(crash_walk_state(&walk, &choice), &random, known ? promises[known - 1].batch : 0);
        free(kept);
        tried++;
    }
    crash_walk_release(&walk);
    free(promises);
    thin_free(thin); /* the recorder's device has nothing to close */
    recorder_free(recorder);
    printf("log_jump: %" PRIu64 " crash states of %zu writes and flushes, %" PRIu64
           " checkpoints: 0 violations\n",
           tried, events - first, stats.checkpoints);
    return 0;
}
