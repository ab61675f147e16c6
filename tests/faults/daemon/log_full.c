/*
 * tests/faults/daemon/log_full.c: a log that is full waits for the checkpoint and never deadlocks.
 *
 * Given      the least log (1 MiB), or a larger one of which the host has room for a part only;
 *            a device whose writes and flushes take their time, so that checkpoints are slow.
 * When       many threads apply batches of all sizes up to the largest that the log takes,
 *            sync, ask for checkpoints, and delete, all at once, in each sync mode.
 * Then       all of it comes to an end; each batch is there whole or was refused for its size or
 *            for want of space; deletions of few keys never are; the store is sound, also after it
 *            was opened anew.
 *
 * usage: log_full [STEPS of each thread]; KVFS_SEED chooses the random numbers. ctest ends a run
 * that hangs. Prints its counts.
 */
#include "kv/kv.h"
#include "support_store.h"
#include "support_thin.h"

#include "support_devices.h"

#include <inttypes.h>
#include <pthread.h>
#include <time.h>

#define IMAGE_BLOCKS     16384u /* 64 MiB */
#define THREADS          6u
#define KEYS_PER_THREAD  2600u
#define VALUE_BYTES      200u
#define LOG_BYTES_LEAST  (1u << 20)
#define BACKED_ROOM      1500u /* blocks: for part of the log, and less than what is put */
#define ROUNDS           4u
#define RECORD_OVERHEADS 40u /* of an operation in the log, at most */

/* ---- a device that takes its time ------------------------------------------------- */

struct slow {
    struct kv_device device;
    struct kv_device *below;
};

static void take_time(long microseconds)
{
    const struct timespec pause = {.tv_nsec = microseconds * 1000};
    (void)nanosleep(&pause, NULL); /* cut short is as good */
}

static int submit_slow(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct slow *slow = (struct slow *)device;
    bool writes = false;
    for (size_t i = 0; i < io_count; i++)
        writes |= ios[i].kind == KV_IO_WRITE;
    if (writes)
        take_time(200);
    if (flush)
        take_time(800);
    return io_count ? kv_device_submit(slow->below, ios, io_count, flush)
                    : kv_device_flush(slow->below);
}

static int discard_slow(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    return kv_device_discard(((struct slow *)device)->below, block, block_count);
}

static int reserve_slow(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    take_time(300);
    return kv_device_reserve(((struct slow *)device)->below, block, block_count);
}

static int room_of_slow(struct kv_device *device, uint64_t *block_count)
{
    *block_count = kv_device_room(((struct slow *)device)->below);
    return 0;
}

static int zero_slow(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    return kv_device_zero(((struct slow *)device)->below, block, block_count);
}

static void close_slow(struct kv_device *device)
{
    (void)device; /* main frees what is below */
}

static const struct kv_device_ops slow_ops = {
    .submit = submit_slow,
    .discard = discard_slow,
    .close = close_slow,
    .reserve = reserve_slow,
    .room = room_of_slow,
    .zero = zero_slow,
};

/* ---- threads ------------------------------------------------------------------------ */

struct client {
    pthread_t thread;
    struct kv_store *store;
    struct test_random random;
    uint64_t steps, number;
    uint32_t versions[KEYS_PER_THREAD]; /* 0: the key is not there */
    uint32_t version;
    uint64_t batches, too_large, refused, syncs, checkpoints;
};

static uint64_t key_number(const struct client *client, uint32_t index)
{
    return client->number * KEYS_PER_THREAD + index;
}

static void value_of(uint8_t bytes[VALUE_BYTES], uint64_t number, uint32_t version)
{
    test_fill(bytes, VALUE_BYTES, (uint64_t)version << 32 | number);
}

/* Put or delete `count` keys from `first` on, in one batch. */
static int apply_range(struct client *client, uint32_t first, uint32_t count, bool deletes,
                       unsigned flags)
{
    struct kv_batch *batch = kv_batch_new();
    KV_ASSERT(batch != NULL);
    for (uint32_t i = first; i < first + count; i++) {
        char key[24];
        uint8_t value[VALUE_BYTES];
        const size_t length = test_number_key(key, key_number(client, i));
        value_of(value, key_number(client, i), client->version);
        KV_ASSERT(!(deletes ? kv_batch_del(batch, key, length)
                            : kv_batch_put(batch, key, length, value, sizeof value)));
    }
    const int err = kv_apply(client->store, batch, flags | (deletes ? KV_APPLY_URGENT : 0u), NULL);
    kv_batch_free(batch);
    return err;
}

static int delete_by_few(struct client *client, uint32_t first, uint32_t count, unsigned flags)
{
    int err = 0;
    for (uint32_t i = 0; i < count && !err; i += KV_URGENT_OPS)
        err = apply_range(client, first + i, (uint32_t)kv_min_u64(KV_URGENT_OPS, count - i), true,
                          flags);
    return err;
}

/* Put or delete `count` keys in a row. */
static void apply_one(struct client *client, uint32_t count, bool deletes, unsigned flags)
{
    const uint32_t first =
        (uint32_t)test_random_below(&client->random, KEYS_PER_THREAD - count + 1);
    const uint32_t version = ++client->version;
    int err = apply_range(client, first, count, deletes, flags);
    if (err == -E2BIG && count > LOG_BYTES_LEAST / 2 / (VALUE_BYTES + RECORD_OVERHEADS)) {
        client->too_large++;
        return;
    }
    if (err == -ENOSPC) {
        client->refused++;
        if (!deletes)
            return;
        err = delete_by_few(client, first, count, flags);
    }
    if (err)
        fprintf(stderr, "%u operations: %s\n", count, strerror(-err));
    KV_ASSERT(!err);
    client->batches++;
    for (uint32_t i = first; i < first + count; i++)
        client->versions[i] = deletes ? 0 : version;
}

static void *run_client(void *context)
{
    struct client *client = context;
    for (uint64_t step = 0; step < client->steps; step++) {
        const bool deletes = test_random_below(&client->random, 4) == 0;
        const unsigned flags = test_random_below(&client->random, 3) ? 0 : KV_APPLY_SYNC;
        uint32_t count = 1 + (uint32_t)test_random_below(&client->random, 40);
        switch (test_random_below(&client->random, 12)) {
        case 0:
            KV_ASSERT(!kv_sync(client->store));
            client->syncs++;
            break;
        case 1:
            KV_ASSERT(!kv_checkpoint(client->store));
            client->checkpoints++;
            break;
        case 2:
        case 3:
        case 4: /* about the largest that the log takes, and more */
            count = 1500 + (uint32_t)test_random_below(&client->random, KEYS_PER_THREAD - 1500);
            apply_one(client, count, deletes, flags);
            break;
        default:
            apply_one(client, count, deletes, flags);
        }
    }
    return NULL;
}

static void verify(const struct client *client, struct kv_store *store)
{
    for (uint32_t i = 0; i < KEYS_PER_THREAD; i++) {
        char key[24];
        uint8_t value[VALUE_BYTES], wanted[VALUE_BYTES];
        size_t length;
        const size_t key_len = test_number_key(key, key_number(client, i));
        const int err = kv_get(store, key, key_len, value, sizeof value, &length);
        KV_ASSERT(err == (client->versions[i] ? 0 : -ENOENT));
        if (err)
            continue;
        value_of(wanted, key_number(client, i), client->versions[i]);
        KV_ASSERT(length == VALUE_BYTES && !memcmp(value, wanted, length));
    }
}

static struct kv_store *open_store(struct kv_device *device, enum kv_sync_mode sync)
{
    const struct kv_open_options options = {.device = device,
                                            .memory_budget_bytes = 8u << 20,
                                            .sync = sync,
                                            .commit_interval_ms = 10,
                                            .log = test_log_nothing};
    struct kv_store *store;
    KV_ASSERT(!kv_open(NULL, &options, &store, NULL));
    return store;
}

static void run_round(unsigned round, uint64_t seed, uint64_t steps, struct client total[1])
{
    const enum kv_sync_mode sync = (enum kv_sync_mode)(round % 3);
    const bool partly_backed = round == ROUNDS - 1;
    struct thin *thin = thin_new(memory_device_new(IMAGE_BLOCKS), THIN_TAKES_NOTHING);
    struct slow slow = {.device = {.ops = &slow_ops, .block_count = IMAGE_BLOCKS},
                        .below = thin_device(thin)};
    slow.device.thin = partly_backed;
    test_create_on(&slow.device, 4096, KV_CODEC_LZ4, partly_backed ? 8u << 20 : LOG_BYTES_LEAST);
    if (partly_backed)
        thin_set_room(thin, BACKED_ROOM);

    struct client *clients = calloc(THREADS, sizeof *clients);
    KV_ASSERT(clients != NULL);
    struct kv_store *store = open_store(&slow.device, sync);
    for (unsigned i = 0; i < THREADS; i++) {
        clients[i].store = store;
        clients[i].random.state = seed * 100 + round * 10 + i;
        clients[i].steps = steps;
        clients[i].number = i;
        KV_ASSERT(!pthread_create(&clients[i].thread, NULL, run_client, &clients[i]));
    }
    for (unsigned i = 0; i < THREADS; i++) {
        KV_ASSERT(!pthread_join(clients[i].thread, NULL));
        verify(&clients[i], store);
        total->batches += clients[i].batches;
        total->too_large += clients[i].too_large;
        total->refused += clients[i].refused;
        total->syncs += clients[i].syncs;
        total->checkpoints += clients[i].checkpoints;
    }
    KV_ASSERT(!kv_store_failure(store));
    KV_ASSERT(!kv_sync(store));
    kv_abandon(store);
    store = open_store(&slow.device, sync);
    for (unsigned i = 0; i < THREADS; i++)
        verify(&clients[i], store);
    struct kv_check_result result;
    KV_ASSERT(test_check(store, &result) == 0);
    KV_ASSERT(!kv_close(store));
    free(clients);
    thin_free(thin);
}

int main(int argc, char **argv)
{
    const uint64_t seed = test_env("KVFS_SEED", 1);
    const uint64_t steps = argc > 1 ? strtoull(argv[1], NULL, 10) : 60;
    struct client total = {.number = 0};
    setlinebuf(stdout);
    printf("KVFS_SEED=%" PRIu64 "\n", seed);
    for (unsigned round = 0; round < ROUNDS; round++)
        run_round(round, seed, steps, &total);
    printf("log_full: %u rounds of %u threads, %" PRIu64 " batches, %" PRIu64 " too large, %" PRIu64
           " without space, %" PRIu64 " syncs, %" PRIu64
           " checkpoints: no deadlock, nothing lost\n",
           ROUNDS, THREADS, total.batches, total.too_large, total.refused, total.syncs,
           total.checkpoints);
    return 0;
}
