/*
 * tests/kv/test_store.c: what the store promises beyond what each of its layers does: reading
 * together, life without room, waiting, and failures before anything has happened.
 *
 * KVFS_SEED chooses the random numbers, KVFS_STEPS how long life at the edge goes on and how
 * often a device fails.
 */
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define IMAGE_BLOCKS (2 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

static uint64_t seed_start;
static uint64_t steps_wanted;

/* ---- a device that counts ---------------------------------------------------------------- */

struct counting {
    struct kv_device base;
    struct kv_device *below;
    uint64_t read_submissions; /* atomic */
};

static int counting_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct counting *const counting = (struct counting *)device;
    if (io_count && ios[0].kind == KV_IO_READ)
        (void)__atomic_fetch_add(&counting->read_submissions, 1, __ATOMIC_RELAXED);
    return kv_device_submit(counting->below, ios, io_count, flush);
}

static void counting_close(struct kv_device *device)
{
    (void)device; /* the test closes the one below */
}

static void counting_init(struct counting *counting, struct kv_device *below)
{
    static const struct kv_device_ops ops = {.submit = counting_submit, .close = counting_close};
    *counting =
        (struct counting){.base = {.ops = &ops, .block_count = below->block_count}, .below = below};
}

/* ---- blobs ---------------------------------------------------------------------------------- */

START_TEST(a_blob_goes_to_the_device_with_what_makes_it_durable)
{
    enum { LENGTH = 20000 };
    static uint8_t bytes[LENGTH], back[LENGTH];
    for (unsigned by_checkpoint = 0; by_checkpoint < 2; by_checkpoint++) {
        struct counting counting;
        struct kv_device *const below = memory_device_new(IMAGE_BLOCKS);
        counting_init(&counting, below);
        test_create_on(&counting.base, 4096, KV_CODEC_NONE, 0);
        struct kv_store *store = test_open_on(&counting.base);
        struct kv_batch *const batch = kv_batch_new();
        ck_assert_ptr_nonnull(batch);
        const uint64_t writes = below->counts.writes;
        struct kv_blob_ref ref;
        size_t written;
        test_fill(bytes, LENGTH, 1);
        ck_assert_int_eq(kv_blob_write(store, bytes, LENGTH, NULL, &ref, &written), 0);
        ck_assert_uint_eq(written, LENGTH);
        ck_assert_int_eq(kv_batch_put_blob(batch, "b", 1, NULL, 0, &ref, KV_BLOB_NEW), 0);
        ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
        ck_assert_int_eq(kv_blob_read(store, &ref, 0, back, LENGTH), 0);
        ck_assert_int_eq(memcmp(bytes, back, LENGTH), 0);
        ck_assert_uint_eq(below->counts.writes, writes);
        ck_assert_int_eq(by_checkpoint ? kv_checkpoint(store) : kv_sync(store), 0);
        kv_abandon(store);

        store = test_open_on(&counting.base);
        memset(back, 0, LENGTH);
        ck_assert_int_eq(kv_blob_read(store, &ref, 0, back, LENGTH), 0);
        ck_assert_int_eq(memcmp(bytes, back, LENGTH), 0);
        kv_batch_free(batch);
        ck_assert_int_eq(kv_close(store), 0);
        kv_device_close(below);
    }
}
END_TEST

/* ---- reading together ----------------------------------------------------------------------- */

/* The map's own blocks are not what is counted. */
static void warm_page_map(struct kv_store *store)
{
    const uint64_t next = kv_pagemap_next_id(store->map);
    for (uint64_t page_id = 1; page_id < next; page_id++) {
        struct kv_disk_ptr ptr;
        ck_assert_int_eq(kv_pagemap_get(store->map, page_id, &ptr), 0);
    }
}

START_TEST(cold_lookups_cost_one_submission_a_level)
{
    enum { KEYS = 20000, MANY = 64, LENGTH = 200 };
    struct counting counting;
    struct kv_device *const below = memory_device_new(3 * IMAGE_BLOCKS);
    static uint8_t values[MANY][LENGTH], expected[LENGTH];
    char keys[MANY][24];
    struct kv_lookup lookups[MANY];
    counting_init(&counting, below);
    test_create_on(&counting.base, 4096, KV_CODEC_NONE, 0);
    struct kv_store *store = test_open_on(&counting.base);
    for (unsigned i = 0; i < KEYS; i++) {
        const int err = test_put_number(store, i, LENGTH);
        KV_ASSERT(err == 0);
    }
    ck_assert_int_eq(kv_close(store), 0);

    store = test_open_on(&counting.base);
    warm_page_map(store);
    for (unsigned i = 0; i < MANY; i++) {
        const uint64_t number = i % 9 == 8 ? KEYS + i : i * (KEYS / MANY); /* some are not there */
        lookups[i] = (struct kv_lookup){.key = keys[i],
                                        .key_len = test_number_key(keys[i], number),
                                        .buf = values[i],
                                        .buf_cap = i % 7 ? LENGTH : 10};
    }
    counting.read_submissions = 0;
    ck_assert_int_eq(kv_get_many(store, lookups, MANY), 0);
    /* Three levels: the root may be there already. */
    ck_assert_uint_ge(counting.read_submissions, 2);
    ck_assert_uint_le(counting.read_submissions, 3);
    for (unsigned i = 0; i < MANY; i++) {
        if (i % 9 == 8) {
            ck_assert_int_eq(lookups[i].result, -ENOENT);
            continue;
        }
        ck_assert_int_eq(lookups[i].result, i % 7 ? 0 : -ERANGE);
        ck_assert_uint_eq(lookups[i].value_len, LENGTH);
        test_fill(expected, LENGTH, i * (KEYS / MANY));
        ck_assert(i % 7 == 0 || !memcmp(values[i], expected, LENGTH));
    }
    counting.read_submissions = 0;
    ck_assert_int_eq(kv_get_many(store, lookups, MANY), 0);
    ck_assert_uint_eq(counting.read_submissions, 0);
    lookups[0].key_len = 0;
    lookups[1].key_len = KV_KEY_MAX + 1;
    ck_assert_int_eq(kv_get_many(store, lookups, 2), 0);
    ck_assert_int_eq(lookups[0].result, -EINVAL);
    ck_assert_int_eq(lookups[1].result, -EINVAL);
    ck_assert_int_eq(kv_get_many(store, NULL, 0), 0);
    ck_assert_int_eq(kv_close(store), 0);
    kv_device_close(below);
}
END_TEST

START_TEST(the_blobs_of_a_large_value_are_read_together)
{
    struct counting counting;
    struct kv_device *const below = memory_device_new(6 * IMAGE_BLOCKS);
    const size_t length = 6u << 20; /* six blobs */
    counting_init(&counting, below);
    test_create_on(&counting.base, 16384, KV_CODEC_NONE, 0);
    struct kv_store *const store = test_open_on(&counting.base);
    ck_assert_int_eq(test_put_number(store, 1, length), 0);
    counting.read_submissions = 0;
    ck_assert_int_eq(test_get_number(store, 1, length), 0);
    ck_assert_uint_eq(counting.read_submissions, 1);
    ck_assert_int_eq(kv_close(store), 0);
    kv_device_close(below);
}
END_TEST

/* ---- without room ------------------------------------------------------------ */

START_TEST(a_batch_of_hundreds_fits_into_the_least_image)
{
    static const uint32_t node_sizes[] = {4096, 16384, 65536};
    struct kv_device *const device = memory_device_new(KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES);
    struct kv_batch *const batch = kv_batch_new();
    char key[24];
    ck_assert_ptr_nonnull(batch);
    test_create_on(device, node_sizes[_i], KV_CODEC_NONE, 0);
    struct kv_store *const store = test_open_on(device);
    for (unsigned round = 0; round < 3; round++) {
        kv_batch_clear(batch);
        for (unsigned i = 0; i < 1000; i++)
            ck_assert_int_eq(
                kv_batch_put(batch, key, test_number_key(key, 7 * i + round), key, sizeof key), 0);
        ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    }
    ck_assert_int_eq(kv_close(store), 0);
    kv_batch_free(batch);
}
END_TEST

/* Fill with small values until there is no room; returns how many there are. */
static uint64_t fill_up(struct kv_store *store, size_t length)
{
    uint64_t count = 0;
    int err;
    while (!(err = test_put_number(store, count, length)))
        count++;
    ck_assert_int_eq(err, -ENOSPC);
    return count;
}

/* A patch is built under the writer lock; a checkpoint, which it may need, takes that lock. */
START_TEST(a_patch_that_finds_no_space_does_not_hang)
{
    struct kv_device *const device = memory_device_new(KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES);
    struct kv_batch *const batch = kv_batch_new();
    static uint8_t bytes[100000];
    ck_assert_ptr_nonnull(batch);
    test_create_on(device, 4096, KV_CODEC_NONE, 0);
    struct kv_store *const store = test_open_on(device);
    ck_assert_int_eq(kv_put(store, "large", 5, bytes, sizeof bytes), 0);
    (void)fill_up(store, 20000);
    unsigned refused = 0;
    for (unsigned i = 0; i < 20; i++) {
        /* Each time the blobs that it replaces become free with the next checkpoint only. */
        kv_batch_clear(batch);
        ck_assert_int_eq(kv_batch_patch(batch, "large", 5, 50000, "x", 1), 0);
        const int err = kv_apply(store, batch, 0, NULL);
        ck_assert(err == 0 || err == -ENOSPC);
        refused += err != 0;
        char key[24];
        for (unsigned k = 0; i == 10 && k < 60; k++)
            ck_assert_int_eq(kv_del(store, key, test_number_key(key, k)), 0);
    }
    ck_assert_uint_lt(refused, 20);
    ck_assert_int_eq(kv_store_failure(store), 0);
    ck_assert_int_eq(kv_close(store), 0);
    kv_batch_free(batch);
}
END_TEST

/*
 * Random work on an image that is always about full. Nothing hangs, nothing turns read-only,
 * deletions always work, and what is there is right.
 */
struct edge {
    struct kv_store *store;
    struct test_random random;
    size_t lengths[3000]; /* SIZE_MAX: the key is not there */
};

static void edge_step(struct edge *edge)
{
    static const size_t sizes[] = {50, 500, 3000, 30000, 200000};
    const uint64_t number = test_random_below(&edge->random, 3000);
    const size_t dice = test_random_below(&edge->random, 100);
    char key[24];
    const size_t key_len = test_number_key(key, number);
    int err = 0;
    if (dice < 70) {
        const size_t length =
            1 + test_random_below(&edge->random, sizes[test_random_below(&edge->random, 5)]);
        err = test_put_number(edge->store, number, length);
        if (!err)
            edge->lengths[number] = length;
    } else if (dice < 85) {
        err = kv_del(edge->store, key, key_len);
        KV_ASSERT(err == 0);
        edge->lengths[number] = SIZE_MAX;
    } else if (edge->lengths[number] != SIZE_MAX) {
        /* A patch with the bytes that are there, so that the value is known. */
        static uint8_t value[200001];
        struct kv_batch *const batch = kv_batch_new();
        const size_t offset = test_random_below(&edge->random, edge->lengths[number]);
        KV_ASSERT(batch);
        test_fill(value, edge->lengths[number], number);
        err = kv_batch_patch(batch, key, key_len, offset, value + offset,
                             edge->lengths[number] - offset);
        KV_ASSERT(err == 0);
        err = kv_apply(edge->store, batch, 0, NULL);
        kv_batch_free(batch);
    }
    KV_ASSERT(err == 0 || err == -ENOSPC);
    err = kv_store_failure(edge->store);
    KV_ASSERT(err == 0);
}

START_TEST(life_goes_on_at_the_edge_of_full)
{
    static const uint32_t node_sizes[] = {4096, 16384};
    struct recorder *const recorder =
        recorder_new(memory_device_new(KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES));
    struct kv_check_result result;
    static struct edge edge;
    edge.random.state = seed_start + (uint64_t)_i;
    for (size_t i = 0; i < 3000; i++)
        edge.lengths[i] = SIZE_MAX;
    test_create_on(recorder_device(recorder), node_sizes[_i], (enum kv_codec)_i, 0);
    edge.store = test_open_on(recorder_device(recorder));
    for (uint64_t step = 1; step <= steps_wanted; step++) {
        edge_step(&edge);
        if (step % 500 == 0) { /* full as it is, it recovers */
            ck_assert_int_eq(kv_sync(edge.store), 0);
            kv_abandon(edge.store);
            edge.store = test_open_on(recorder_device(recorder));
        }
    }
    for (uint64_t number = 0; number < 3000; number++) {
        const size_t length = edge.lengths[number];
        const bool there = length != SIZE_MAX;
        const int err = test_get_number(edge.store, number, there ? length : 0);
        KV_ASSERT(err == (there ? 0 : -ENOENT));
    }
    ck_assert_uint_eq(test_check(edge.store, &result), 0);
    for (uint64_t number = 0; number < 3000; number++) {
        char key[24];
        const int err = kv_del(edge.store, key, test_number_key(key, number));
        KV_ASSERT(err == 0);
    }
    ck_assert_uint_eq(test_check(edge.store, &result), 0);
    ck_assert_int_eq(kv_close(edge.store), 0);
    recorder_free(recorder);
}
END_TEST

/* ---- waiting for each other -------------------------------------------------- */

struct writer {
    struct kv_store *store;
    uint64_t first;
    int err;
};

static void *write_numbers(void *context)
{
    struct writer *const writer = context;
    for (uint64_t i = 0; i < 600 && !writer->err; i++)
        writer->err = test_put_number(writer->store, writer->first + i, 1000);
    return NULL;
}

/* However busy the others are: a full log is no lack of space. */
START_TEST(writers_wait_for_room_in_a_small_log)
{
    enum { WRITERS = 6 };
    struct kv_device *const device = memory_device_new(2 * IMAGE_BLOCKS);
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    test_create_on(device, 4096, KV_CODEC_NONE, KV_LOG_BYTES_MIN);
    struct kv_store *const store = test_open_on(device);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.store = store, .first = i * 1000};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_numbers, &writers[i]), 0);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_int_eq(writers[i].err, 0);
    }
    for (uint64_t i = 0; i < WRITERS * 1000; i++)
        ck_assert_int_eq(test_get_number(store, i, 1000), i % 1000 < 600 ? 0 : -ENOENT);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

START_TEST(who_waits_for_the_log_and_who_asks_for_checkpoints_is_counted)
{
    struct kv_device *const device = memory_device_new(2 * IMAGE_BLOCKS);
    struct kv_stats stats;
    test_create_on(device, 4096, KV_CODEC_NONE, KV_LOG_BYTES_MIN);
    const struct kv_open_options options = {.device = device, .no_background = true};
    struct kv_store *store;
    ck_assert_int_eq(kv_open(NULL, &options, &store, NULL), 0);
    ck_assert_int_eq(test_put_number(store, 1, 1000), 0);
    kv_store_stats(store, &stats);
    ck_assert_uint_eq(stats.log_waits, 0);
    /* Without threads a checkpoint is made by whoever finds the log full. */
    for (uint64_t i = 0; i < 2 * KV_LOG_BYTES_MIN / 1000; i++)
        ck_assert_int_eq(test_put_number(store, i, 1000), 0);
    kv_store_stats(store, &stats);
    ck_assert_uint_ge(stats.log_waits, 2);
    ck_assert_uint_gt(stats.log_wait_ns, 0);
    ck_assert_uint_eq(stats.checkpoints_asked, 0);
    ck_assert_uint_eq(stats.checkpoints_wanted, 0);
    for (unsigned i = 0; i < 2; i++) /* the second has nothing to do */
        ck_assert_int_eq(kv_checkpoint(store), 0);
    kv_store_stats(store, &stats);
    ck_assert_uint_eq(stats.checkpoints_asked, 1);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

START_TEST(an_empty_batch_changes_nothing)
{
    struct kv_device *const device = memory_device_new(IMAGE_BLOCKS);
    struct kv_batch *const batch = kv_batch_new();
    struct kv_stats before, after;
    uint64_t position = 0;
    ck_assert_ptr_nonnull(batch);
    test_create_on(device, 4096, KV_CODEC_NONE, 0);
    struct kv_store *const store = test_open_on(device);
    kv_store_stats(store, &before);
    ck_assert_int_eq(kv_apply(store, batch, KV_APPLY_SYNC, &position), 0);
    ck_assert_int_eq(kv_sync_to(store, position), 0);
    kv_store_stats(store, &after);
    ck_assert_uint_eq(after.log_records, before.log_records);
    ck_assert_int_eq(kv_close(store), 0);
    kv_batch_free(batch);
}
END_TEST

/* A block of a file, and what says whose it is, in the default node. */
START_TEST(a_value_of_a_block_stays_in_its_leaf)
{
    struct kv_device *const device = memory_device_new(IMAGE_BLOCKS);
    struct kv_stats stats;
    test_create_on(device, 16384, KV_CODEC_NONE, 0);
    struct kv_store *const store = test_open_on(device);
    for (uint64_t i = 0; i < 200; i++)
        ck_assert_int_eq(test_put_number(store, i, 4200), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    for (uint64_t i = 0; i < 200; i++)
        ck_assert_int_eq(test_get_number(store, i, 4200), 0);
    kv_store_stats(store, &stats);
    ck_assert_uint_eq(stats.blob_writes, 0);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

/* Large batches are applied in another order than they were made in. */
START_TEST(of_several_changes_of_a_key_in_a_large_batch_the_last_counts)
{
    enum { KEYS = 1500, BATCHES = 12, OPS = 600, GONE = UINT16_MAX };
    static uint16_t lengths[KEYS]; /* of the values, or GONE */
    struct test_random random = {test_env("KVFS_SEED", 1)};
    struct counting counting; /* the store closes it, and what is below stays */
    struct kv_device *const below = memory_device_new(4 * IMAGE_BLOCKS);
    counting_init(&counting, below);
    test_create_on(&counting.base, 4096, KV_CODEC_NONE, 0);
    struct kv_store *store = test_open_on(&counting.base);
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    memset(lengths, 0xff, sizeof lengths);
    static const uint8_t value[300] = {7};
    for (unsigned round = 0; round < BATCHES; round++) {
        /* From a few keys, which come again and again, to all of them. */
        const size_t among = round % 3 ? KEYS : 50;
        kv_batch_clear(batch);
        for (unsigned i = 0; i < OPS; i++) {
            char key[24];
            const size_t number = test_random_below(&random, among);
            const size_t key_len = test_number_key(key, number);
            const bool removes = test_random_below(&random, 4) == 0;
            lengths[number] =
                removes ? (uint16_t)GONE : (uint16_t)test_random_below(&random, sizeof value);
            const int err = removes ? kv_batch_del(batch, key, key_len)
                                    : kv_batch_put(batch, key, key_len, value, lengths[number]);
            ck_assert_int_eq(err, 0);
        }
        ck_assert_int_eq(kv_apply(store, batch, KV_APPLY_SYNC, NULL), 0);
    }
    for (unsigned again = 0; again < 2; again++) {
        for (unsigned i = 0; i < KEYS; i++) {
            char key[24];
            uint8_t found[sizeof value];
            size_t length;
            const size_t key_len = test_number_key(key, i);
            const int err = kv_get(store, key, key_len, found, sizeof found, &length);
            ck_assert_int_eq(err, lengths[i] == GONE ? -ENOENT : 0);
            if (!err)
                ck_assert_uint_eq(length, lengths[i]);
        }
        kv_abandon(store); /* and once more out of the log */
        store = test_open_on(&counting.base);
    }
    ck_assert_int_eq(kv_close(store), 0);
    kv_device_close(below);
    kv_batch_free(batch);
}
END_TEST

/* What a batch or a replay needs of a cold tree is read a level at a time, not a page. */
START_TEST(cold_batches_and_replays_read_their_pages_together)
{
    enum { KEYS = 20000, MANY = 64, LENGTH = 200 };
    struct counting counting;
    struct kv_device *const below = memory_device_new(3 * IMAGE_BLOCKS);
    counting_init(&counting, below);
    test_create_on(&counting.base, 4096, KV_CODEC_NONE, 0);
    struct kv_store *store = test_open_on(&counting.base);
    for (unsigned i = 0; i < KEYS; i++)
        ck_assert_int_eq(test_put_number(store, i, LENGTH), 0);
    ck_assert_int_eq(kv_close(store), 0);

    store = test_open_on(&counting.base);
    warm_page_map(store);
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (unsigned i = 0; i < MANY; i++) {
        char key[24];
        const size_t key_len = test_number_key(key, i * (KEYS / MANY));
        ck_assert_int_eq(kv_batch_put(batch, key, key_len, "new", 3), 0);
    }
    counting.read_submissions = 0;
    ck_assert_int_eq(kv_apply(store, batch, KV_APPLY_SYNC, NULL), 0);
    ck_assert_uint_le(counting.read_submissions, 3);
    kv_abandon(store);

    /* Other leaves, each in a batch of its own. */
    store = test_open_on(&counting.base);
    for (unsigned i = 0; i < MANY; i++) {
        char key[24];
        const size_t key_len = test_number_key(key, i * (KEYS / MANY) + KEYS / MANY / 2);
        ck_assert_int_eq(kv_put(store, key, key_len, "new", 3), 0);
    }
    ck_assert_int_eq(kv_sync(store), 0);
    kv_abandon(store);
    counting.read_submissions = 0;
    store = test_open_on(&counting.base);
    /* Superblocks, bitmaps, the log twice, some map blocks, and the leaves in two groups. */
    ck_assert_uint_lt(counting.read_submissions, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        char key[24], value[8];
        size_t value_len;
        const size_t key_len = test_number_key(key, i * (KEYS / MANY) + i % 2 * (KEYS / MANY / 2));
        ck_assert_int_eq(kv_get(store, key, key_len, value, sizeof value, &value_len), 0);
        ck_assert_uint_eq(value_len, 3);
    }
    kv_batch_free(batch);
    ck_assert_int_eq(kv_close(store), 0);
    kv_device_close(below);
}
END_TEST

/* ---- room on the host ---------------------------------------------------------------- */

static uint64_t file_room(const char *path)
{
    struct stat file;
    ck_assert_int_eq(stat(path, &file), 0);
    return (uint64_t)file.st_blocks * 512;
}

/* Can holes be punched beside the image, and is there room enough that it is done? */
static bool host_takes_back(const struct test_dir *dir)
{
    enum { BYTES = 1 << 20 };
    char path[PATH_MAX];
    static const char bytes[BYTES] = {1};
    struct statvfs host;
    (void)snprintf(path, sizeof path, "%s/punched", dir->dir);
    const int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, bytes, BYTES, 0), BYTES);
    ck_assert_int_eq(fsync(fd), 0);
    const bool punched = file_room(path) >= BYTES &&
                         !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BYTES) &&
                         !fsync(fd) && file_room(path) < BYTES;
    (void)close(fd);
    (void)unlink(path);
    ck_assert_int_eq(statvfs(dir->dir, &host), 0);
    const bool takes = punched && host.f_bavail * host.f_frsize >= 1ull << 30;
    if (!takes)
        fprintf(stderr, "the host takes nothing back, or is too full for that\n");
    return takes;
}

START_TEST(closing_gives_back_what_is_free)
{
    enum { KEYS = 24, LENGTH = 2 << 20 };
    struct test_dir dir;
    test_dir_make(&dir);
    const struct kv_create_options create = {.size_bytes = 256u << 20};
    const struct kv_open_options quiet = {.no_background = true, .log = test_log_nothing};
    struct kv_store *store;
    struct kv_stats stats;
    ck_assert_int_eq(kv_create(dir.image, &create, NULL), 0);
    ck_assert_int_eq(kv_open(dir.image, &quiet, &store, NULL), 0);
    for (uint64_t i = 0; i < KEYS; i++)
        ck_assert_int_eq(test_put_number(store, i, LENGTH), 0);
    for (uint64_t i = 0; i < KEYS; i++) {
        char key[24];
        if (i % 8)
            ck_assert_int_eq(kv_del(store, key, test_number_key(key, i)), 0);
    }
    ck_assert_int_eq(kv_checkpoint(store), 0);
    kv_store_stats(store, &stats);
    ck_assert_uint_gt(stats.batch_bytes, (uint64_t)KEYS * LENGTH);
    ck_assert_uint_gt(stats.device_write_bytes, 0);
    const uint64_t open_bytes = file_room(dir.image);
    ck_assert_int_eq(kv_close(store), 0);
    /* Half of what was written compresses; what is kept is 8 MiB and some. */
    if (host_takes_back(&dir))
        ck_assert_uint_lt(file_room(dir.image), open_bytes);

    ck_assert_int_eq(kv_open(dir.image, &quiet, &store, NULL), 0);
    for (uint64_t i = 0; i < KEYS; i++)
        ck_assert_int_eq(test_get_number(store, i, LENGTH), i % 8 ? -ENOENT : 0);
    for (uint64_t i = 0; i < KEYS; i++)
        ck_assert_int_eq(test_put_number(store, i, LENGTH), 0);
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(store, &result), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(closing_gives_back_small_holes_too)
{
    enum { KEYS = 2000, LENGTH = 48 << 10 };
    const uint64_t hole_bytes_min = (uint64_t)KEYS / 2 * LENGTH / 2; /* half of it compresses */
    struct test_dir dir;
    test_dir_make(&dir);
    const struct kv_create_options create = {.size_bytes = 256u << 20};
    const struct kv_open_options quiet = {.no_background = true, .log = test_log_nothing};
    struct kv_store *store;
    ck_assert_int_eq(kv_create(dir.image, &create, NULL), 0);
    ck_assert_int_eq(kv_open(dir.image, &quiet, &store, NULL), 0);
    for (uint64_t i = 0; i < KEYS; i++)
        ck_assert_int_eq(test_put_number(store, i, LENGTH), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    for (uint64_t i = 0; i < KEYS; i += 2) { /* each hole between two that stay */
        char key[24];
        ck_assert_int_eq(kv_del(store, key, test_number_key(key, i)), 0);
    }
    ck_assert_int_eq(kv_checkpoint(store), 0);
    const uint64_t open_bytes = file_room(dir.image);
    ck_assert_int_eq(kv_close(store), 0);
    /* 8 MiB and some stay; the log's ring gives back what it took beyond 4 MiB. */
    if (host_takes_back(&dir))
        ck_assert_uint_le(file_room(dir.image), open_bytes - hole_bytes_min + (12u << 20));

    ck_assert_int_eq(kv_open(dir.image, &quiet, &store, NULL), 0);
    for (uint64_t i = 0; i < KEYS; i++)
        ck_assert_int_eq(test_get_number(store, i, LENGTH), i % 2 ? 0 : -ENOENT);
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(store, &result), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

/* ---- failures before the first change ---------------------------------------- */

START_TEST(a_page_that_can_not_be_had_fails_its_batch_and_no_other)
{
    struct faulty *const faulty = faulty_new(memory_device_new(2 * IMAGE_BLOCKS));
    struct kv_batch *const batch = kv_batch_new();
    char key[24];
    ck_assert_ptr_nonnull(batch);
    test_create_on(faulty_device(faulty), 4096, KV_CODEC_NONE, 0);
    struct kv_store *store = test_open_on(faulty_device(faulty));
    for (unsigned i = 0; i < 20000; i++) {
        const int err = test_put_number(store, i, 600);
        KV_ASSERT(err == 0);
    }
    ck_assert_int_eq(kv_close(store), 0);
    store = test_open_on(faulty_device(faulty));
    unsigned failed = 0;
    for (unsigned i = 0; i < 200; i++) {
        faulty_arm(faulty, (struct fault){.targets = FAULT_READS, .lasting = true, .error = -EIO});
        kv_batch_clear(batch);
        for (unsigned k = 0; k < 3; k++)
            ck_assert_int_eq(
                kv_batch_put(batch, key, test_number_key(key, i * 60 + k * 3000), "new", 3), 0);
        int err = i % 3 == 0   ? kv_del(store, key, test_number_key(key, i * 60))
                  : i % 3 == 1 ? test_put_number(store, i * 60, 600)
                               : kv_apply(store, batch, 0, NULL);
        faulty_arm(faulty, (struct fault){0});
        failed += err != 0;
        ck_assert(err == 0 || err == -EIO);
        ck_assert_int_eq(kv_store_failure(store), 0);
        if (err && i % 3 == 2)
            for (unsigned k = 0; k < 3; k++)
                ck_assert_int_eq(test_get_number(store, i * 60 + k * 3000, 600), 0);
        err = test_put_number(store, 100000 + i, 600);
        ck_assert_int_eq(err, 0);
    }
    ck_assert_uint_gt(failed, 50);
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(store, &result), 0);
    ck_assert_int_eq(kv_close(store), 0);
    kv_batch_free(batch);
    faulty_free(faulty);
}
END_TEST

/* ---- a device that fails amid threads ---------------------------------------- */

struct crowd {
    struct kv_store *store;
    bool done;       /* atomic */
    uint64_t synced; /* atomic; numbers below it are durable */
};

/* Writes numbers in order and syncs now and then, until the store turns read-only. */
static void *crowd_writer(void *context)
{
    struct crowd *const crowd = context;
    int err = 0;
    for (uint64_t number = 0; !err; number++) {
        err = test_put_number(crowd->store, number, number % 40 ? 300 : 20000);
        if (!err && number % 50 == 49) {
            err = number % 100 == 99 ? kv_sync(crowd->store) : kv_checkpoint(crowd->store);
            if (!err)
                __atomic_store_n(&crowd->synced, number + 1, __ATOMIC_RELAXED);
        }
    }
    KV_ASSERT(err == -EIO || err == -EROFS);
    KV_ASSERT(kv_store_failure(crowd->store) != 0);
    return NULL;
}

static void *crowd_disturber(void *context)
{
    struct crowd *const crowd = context;
    struct test_random random = {seed_start};
    int err = 0;
    while (!err) {
        const uint64_t number = 1000000 + test_random_below(&random, 2000);
        err = test_put_number(crowd->store, number, 500);
    }
    KV_ASSERT(err == -EIO || err == -EROFS);
    return NULL;
}

static void *crowd_reader(void *context)
{
    struct crowd *const crowd = context;
    struct test_random random = {seed_start + 1};
    while (!__atomic_load_n(&crowd->done, __ATOMIC_RELAXED)) {
        const uint64_t synced = __atomic_load_n(&crowd->synced, __ATOMIC_RELAXED);
        if (!synced)
            continue;
        const uint64_t number = test_random_below(&random, synced);
        const int err = test_get_number(crowd->store, number, number % 40 ? 300 : 20000);
        KV_ASSERT(err == 0);
    }
    return NULL;
}

START_TEST(the_buffer_of_the_log_is_as_large_as_the_budget_allows)
{
    static const struct {
        uint64_t budget_bytes, buffer_bytes;
    } sizes[] = {{8u << 20, 256u << 10}, {64u << 20, 2u << 20}, {0, 4u << 20}};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct kv_device *const device = memory_device_new(2 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES);
        test_create_on(device, 0, KV_CODEC_NONE, 0);
        const struct kv_open_options options = {
            .memory_budget_bytes = sizes[i].budget_bytes, .no_background = true, .device = device};
        struct kv_store *store = NULL;
        struct kv_wal_stats stats;
        ck_assert_int_eq(kv_open(NULL, &options, &store, NULL), 0);
        kv_wal_stats(store->wal, &stats);
        ck_assert_uint_eq(stats.buffer_blocks * KV_BLOCK_BYTES, sizes[i].buffer_bytes);
        ck_assert_int_eq(kv_close(store), 0);
    }
}
END_TEST

START_TEST(threads_come_to_an_end_when_the_device_fails)
{
    struct test_random random = {seed_start};
    for (unsigned round = 0; round < 1 + steps_wanted / 400; round++) {
        static void *(*const roles[])(void *) = {crowd_writer, crowd_disturber, crowd_disturber,
                                                 crowd_reader, crowd_reader};
        struct faulty *const faulty = faulty_new(memory_device_new(8 * IMAGE_BLOCKS));
        struct crowd crowd = {0};
        pthread_t threads[5];
        const struct kv_open_options options = {
            .memory_budget_bytes = 8u << 20,
            .commit_interval_ms = 5,
            .log = test_log_nothing,
            .device = faulty_device(faulty),
        };
        test_create_on(faulty_device(faulty), 4096, KV_CODEC_NONE, 4u << 20);
        ck_assert_int_eq(kv_open("x", &options, &crowd.store, NULL), 0);
        faulty_arm(faulty, (struct fault){.targets = FAULT_WRITES | FAULT_FLUSHES,
                                          .after = test_random_below(&random, 4000),
                                          .lasting = round % 2,
                                          .error = -EIO});
        for (unsigned i = 0; i < 5; i++)
            ck_assert_int_eq(pthread_create(&threads[i], NULL, roles[i], &crowd), 0);
        for (unsigned i = 0; i < 5; i++) {
            __atomic_store_n(&crowd.done, i >= 3, __ATOMIC_RELAXED);
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        }
        ck_assert_int_eq(kv_close(crowd.store), -EIO);

        faulty_arm(faulty, (struct fault){0});
        struct kv_check_result result;
        struct kv_store *const store = test_open_on(faulty_device(faulty));
        for (uint64_t number = 0; number < crowd.synced; number++) {
            const int err = test_get_number(store, number, number % 40 ? 300 : 20000);
            KV_ASSERT(err == 0);
        }
        ck_assert_uint_eq(test_check(store, &result), 0);
        ck_assert_int_eq(kv_close(store), 0);
        faulty_free(faulty);
    }
}
END_TEST

START_TEST(a_failed_open_closes_what_it_was_given)
{
    struct kv_store *store = NULL;
    struct kv_error error = {""};
    const struct kv_open_options too_little = {.memory_budget_bytes = 1,
                                               .device = memory_device_new(IMAGE_BLOCKS)};
    ck_assert_int_eq(kv_open("x", &too_little, &store, &error), -EINVAL);
    ck_assert_int_eq(test_try_open_on(memory_device_new(IMAGE_BLOCKS), &store), -EMEDIUMTYPE);
    ck_assert_ptr_null(store);
}
END_TEST

/* ---- sync modes -------------------------------------------------------------- */

START_TEST(each_sync_mode_keeps_what_it_promises)
{
    static const enum kv_sync_mode modes[] = {KV_SYNC_FSYNC, KV_SYNC_ALWAYS, KV_SYNC_CHECKPOINT};
    for (unsigned mode = 0; mode < 3; mode++) {
        struct recorder *const recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
        struct kv_device *const device = recorder_device(recorder);
        const struct kv_open_options options = {
            .sync = modes[mode],
            .memory_budget_bytes = 8u << 20,
            .no_background = true,
            .device = device,
        };
        struct kv_store *store;
        test_create_on(device, 4096, KV_CODEC_NONE, 0);
        ck_assert_int_eq(kv_open("x", &options, &store, NULL), 0);
        for (unsigned i = 0; i < 100; i++)
            ck_assert_int_eq(test_put_number(store, i, 100), 0);
        if (modes[mode] != KV_SYNC_ALWAYS)
            ck_assert_int_eq(kv_sync(store), 0);
        ck_assert_int_eq(test_put_number(store, 100, 100), 0);
        /* What no flush followed is lost. */
        struct crash_walk walk;
        crash_walk_init(&walk, recorder);
        crash_walk_advance(&walk, recorder_event_count(recorder));
        static const bool none_kept[4096];
        ck_assert_uint_le(crash_walk_pending(&walk), 4096);
        struct kv_store *const again =
            test_open_on(crash_walk_state(&walk, &(struct crash_choice){.kept = none_kept}));
        for (unsigned i = 0; i < 100; i++)
            ck_assert_int_eq(test_get_number(again, i, 100), 0);
        ck_assert_int_eq(test_get_number(again, 100, 100),
                         modes[mode] == KV_SYNC_ALWAYS ? 0 : -ENOENT);
        ck_assert_int_eq(kv_close(again), 0);
        crash_walk_release(&walk);
        kv_abandon(store);
        recorder_free(recorder);
    }
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    steps_wanted = test_env("KVFS_STEPS", 4000);
    printf("seed: %" PRIu64 " (KVFS_SEED), steps: %" PRIu64 " (KVFS_STEPS)\n", seed_start,
           steps_wanted);
    Suite *const suite = suite_create("store");
    TCase *const store = tcase_create("store");
    tcase_set_timeout(store, 300);
    tcase_add_test(store, cold_lookups_cost_one_submission_a_level);
    tcase_add_test(store, the_blobs_of_a_large_value_are_read_together);
    tcase_add_loop_test(store, a_batch_of_hundreds_fits_into_the_least_image, 0, 3);
    tcase_add_test(store, a_patch_that_finds_no_space_does_not_hang);
    tcase_add_loop_test(store, life_goes_on_at_the_edge_of_full, 0, 2);
    tcase_add_test(store, writers_wait_for_room_in_a_small_log);
    tcase_add_test(store, who_waits_for_the_log_and_who_asks_for_checkpoints_is_counted);
    tcase_add_test(store, an_empty_batch_changes_nothing);
    tcase_add_test(store, a_value_of_a_block_stays_in_its_leaf);
    tcase_add_test(store, of_several_changes_of_a_key_in_a_large_batch_the_last_counts);
    tcase_add_test(store, cold_batches_and_replays_read_their_pages_together);
    tcase_add_test(store, a_page_that_can_not_be_had_fails_its_batch_and_no_other);
    tcase_add_test(store, the_buffer_of_the_log_is_as_large_as_the_budget_allows);
    tcase_add_test(store, threads_come_to_an_end_when_the_device_fails);
    tcase_add_test(store, a_failed_open_closes_what_it_was_given);
    tcase_add_test(store, a_blob_goes_to_the_device_with_what_makes_it_durable);
    tcase_add_test(store, each_sync_mode_keeps_what_it_promises);
    suite_add_tcase(suite, store);

    TCase *const alone = tcase_create("store, one thread");
    tcase_set_tags(alone, TEST_ONE_THREAD);
    tcase_set_timeout(alone, 300);
    tcase_add_test(alone, closing_gives_back_what_is_free);
    tcase_add_test(alone, closing_gives_back_small_holes_too);
    suite_add_tcase(suite, alone);
    return test_run(suite);
}
