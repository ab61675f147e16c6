/*
 * tests/kv/test_checkpoint.c: the order of the device's writes around each superblock, and what
 * happens when one of them fails.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>

#define IMAGE_BLOCKS (2 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

static uint64_t seed_start;

/* A life with small and large values, several checkpoints and early writes. */
static void live(struct kv_store *store, struct test_random *random)
{
    for (unsigned i = 0; i < 1500; i++) {
        const uint64_t number = test_random_below(random, 4000);
        const size_t length =
            test_random_below(random, test_random_below(random, 30) ? 900 : 30000);
        char key[24];
        const int err = test_random_below(random, 5)
                            ? test_put_number(store, number, length)
                            : kv_del(store, key, test_number_key(key, number));
        KV_ASSERT(err == 0);
        if (i % 100 == 99)
            ck_assert_int_eq(i % 200 == 99 ? kv_checkpoint(store) : kv_sync(store), 0);
    }
}

/* ---- what the device saw -------------------------------------------------------------------- */

struct seen {
    struct recorder *recorder;
    uint8_t *image;                       /* as all events so far leave it */
    struct kv_disk_superblock superblock; /* the last one that is durable */
    uint8_t bits[KV_GROUP_BITMAP_BYTES];  /* of its bitmap: what it reaches */
    uint64_t active_copy;                 /* first block of the bitmap's copy that it counts on */
    uint64_t superblocks;
    uint64_t last_slot;
};

static uint64_t log_first(const struct seen *seen)
{
    return kv_le64_get(seen->superblock.log_first_block);
}

static bool in_log(const struct seen *seen, uint64_t block)
{
    return block >= log_first(seen) &&
           block < log_first(seen) + kv_le64_get(seen->superblock.log_block_count);
}

static bool is_superblock(const struct recorded_event *event)
{
    return !event->is_flush && event->bytes &&
           (event->block == KV_SUPERBLOCK_A_BLOCK || event->block == KV_SUPERBLOCK_B_BLOCK) &&
           !memcmp(event->bytes, KV_SUPERBLOCK_MAGIC, 8);
}

/* The superblock at `block` is durable: note what it reaches. */
static void adopt(struct seen *seen, uint64_t block)
{
    memcpy(&seen->superblock, seen->image + block * KV_BLOCK_BYTES, sizeof seen->superblock);
    const uint64_t group = kv_le64_get(seen->superblock.group_first_block);
    const uint64_t epoch = kv_le64_get(seen->superblock.epoch);
    uint64_t best = 0;
    seen->active_copy = 0;
    for (unsigned copy = 0; copy < 2; copy++) {
        const uint64_t at = group + copy * KV_GROUP_COPY_BLOCKS;
        struct kv_disk_bitmap_header header;
        memcpy(&header, seen->image + at * KV_BLOCK_BYTES, sizeof header);
        const uint64_t own = kv_le64_get(header.epoch);
        if (kv_le32_get(header.magic) != KV_BITMAP_MAGIC || own > epoch || own < best)
            continue;
        best = own;
        seen->active_copy = at;
        memcpy(seen->bits, seen->image + (at + 1) * KV_BLOCK_BYTES, sizeof seen->bits);
    }
    ck_assert_uint_ne(seen->active_copy, 0);
    seen->superblocks++;
}

/* Does the durable superblock reach this block? */
static bool reached(const struct seen *seen, uint64_t block)
{
    const uint64_t group = kv_le64_get(seen->superblock.group_first_block);
    if (block < group || block == IMAGE_BLOCKS - 1)
        return false;
    if (block < group + KV_GROUP_META_BLOCKS)
        return block >= seen->active_copy && block < seen->active_copy + KV_GROUP_COPY_BLOCKS;
    return seen->bits[(block - group) / 8] >> ((block - group) % 8) & 1;
}

static void read_events(struct seen *seen, size_t from)
{
    const size_t count = recorder_event_count(seen->recorder);
    size_t unflushed = 0; /* writes since the last flush, but for the log's */
    uint64_t superblock_at = UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        const struct recorded_event event = recorder_event(seen->recorder, i);
        if (event.is_flush) {
            unflushed = 0;
            if (superblock_at != UINT64_MAX)
                adopt(seen, superblock_at);
            superblock_at = UINT64_MAX;
            continue;
        }
        if (i >= from) {
            /* Nothing is written between a superblock and its flush. */
            ck_assert_msg(superblock_at == UINT64_MAX, "event %zu comes before the flush", i);
            ck_assert_msg(!reached(seen, event.block), "event %zu overwrites block %" PRIu64, i,
                          event.block);
        }
        const bool again = /* in the other slot */
            seen->superblocks && is_superblock(&event) &&
            !memcmp(event.bytes, &seen->superblock, sizeof seen->superblock);
        ck_assert_msg(!again || event.block != seen->last_slot, "event %zu: not the other slot", i);
        if (is_superblock(&event) && !again) {
            ck_assert_msg(i < from || !unflushed, "event %zu: %zu writes are not flushed", i,
                          unflushed);
            ck_assert_msg(event.block != seen->last_slot, "event %zu: the same slot again", i);
            seen->last_slot = event.block;
            superblock_at = event.block;
        }
        if (event.bytes)
            memcpy(seen->image + event.block * KV_BLOCK_BYTES, event.bytes, KV_BLOCK_BYTES);
        else
            memset(seen->image + event.block * KV_BLOCK_BYTES, 0, KV_BLOCK_BYTES);
        unflushed += !seen->superblocks || !in_log(seen, event.block);
    }
}

START_TEST(what_a_superblock_reaches_is_flushed_before_it_and_not_touched_after_it)
{
    static const uint32_t node_sizes[] = {4096, 16384, 65536};
    struct test_random random = {seed_start + (uint64_t)_i};
    struct seen seen = {.recorder = recorder_new(memory_device_new(IMAGE_BLOCKS)),
                        .last_slot = UINT64_MAX};
    struct kv_device *const device = recorder_device(seen.recorder);
    test_create_on(device, node_sizes[_i], (enum kv_codec)_i, KV_LOG_BYTES_MIN);
    const size_t from = recorder_event_count(seen.recorder);
    for (unsigned life = 0; life < 3; life++) {
        struct kv_store *const store = test_open_on(device);
        live(store, &random);
        if (life == 1)
            kv_abandon(store);
        else
            ck_assert_int_eq(kv_close(store), 0);
    }
    seen.image = calloc(IMAGE_BLOCKS, KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(seen.image);
    read_events(&seen, from);
    ck_assert_uint_ge(seen.superblocks, 20);
    free(seen.image);
    recorder_free(seen.recorder);
}
END_TEST

START_TEST(a_checkpoint_without_changes_writes_nothing)
{
    struct recorder *const recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    test_create_on(recorder_device(recorder), 4096, KV_CODEC_NONE, 0);
    struct kv_store *const store = test_open_on(recorder_device(recorder));
    ck_assert_int_eq(test_put_number(store, 1, 100), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    const size_t before = recorder_event_count(recorder);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    ck_assert_uint_eq(recorder_event_count(recorder), before);
    kv_abandon(store);
    recorder_free(recorder);
}
END_TEST

START_TEST(a_checkpoint_empties_the_log)
{
    struct recorder *const recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    struct kv_stats stats;
    test_create_on(recorder_device(recorder), 4096, KV_CODEC_NONE, 0);
    struct kv_store *const store = test_open_on(recorder_device(recorder));
    for (unsigned i = 0; i < 500; i++)
        ck_assert_int_eq(test_put_number(store, i, 500), 0);
    kv_store_stats(store, &stats);
    ck_assert_uint_gt(stats.log_used_bytes, 500 * 500);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    kv_store_stats(store, &stats);
    ck_assert_uint_eq(stats.log_used_bytes, 0);
    kv_abandon(store);
    recorder_free(recorder);
}
END_TEST

#define THIN_BLOCKS 32768u
#define RING_BYTES  (16u << 20)
#define PUTS        6000u /* that take more than half of the log that has room, and not all of it */
#define FEW_KEYS    100u

static int reserve_any(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    (void)device;
    (void)block;
    (void)block_count;
    return 0;
}

static int room_for_all(struct kv_device *device, uint64_t *block_count)
{
    (void)device;
    *block_count = UINT64_MAX;
    return 0;
}

/* Where there is no room for records until the checkpoint ends: not with many pages to write. */
START_TEST(only_a_brief_checkpoint_has_the_log_start_anew)
{
    const bool brief = _i;
    struct kv_device *const device = memory_device_new(THIN_BLOCKS);
    struct kv_device_ops thin_ops = *device->ops;
    thin_ops.reserve = reserve_any;
    thin_ops.room = room_for_all;
    test_create_on(device, 4096, KV_CODEC_NONE, RING_BYTES);
    device->ops = &thin_ops;
    device->thin = true;
    struct kv_store *const store = test_open_on(device);
    const uint64_t before = kv_wal_position(store->wal);
    for (unsigned i = 0; i < PUTS; i++)
        ck_assert_int_eq(test_put_number(store, brief ? i % FEW_KEYS : i, 500), 0);
    const uint64_t logged = kv_wal_position(store->wal) - before;
    ck_assert_uint_gt(logged, KV_WAL_BACKED_BLOCKS_MIN / 2);
    ck_assert_uint_lt(logged, KV_WAL_BACKED_BLOCKS_MIN);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    const uint64_t after = kv_wal_position(store->wal);
    if (brief)
        ck_assert_uint_gt(after, RING_BYTES / KV_BLOCK_BYTES);
    else
        ck_assert_uint_lt(after, KV_WAL_BACKED_BLOCKS_MIN);
    ck_assert_int_eq(test_put_number(store, 0, 500), 0);
    kv_abandon(store); /* and the device */
}
END_TEST

/* ---- failures ---------------------------------------------------------------- */

struct caller {
    struct kv_store *store;
    int err;
};

static void *call_checkpoint(void *context)
{
    struct caller *const caller = context;
    caller->err = kv_checkpoint(caller->store);
    return NULL;
}

/* The nth write or flush of a checkpoint fails, with others waiting for one of their own. */
START_TEST(after_a_failed_checkpoint_there_is_no_other)
{
    unsigned failed = 0;
    for (uint64_t after = 0; after < 40; after++) {
        struct faulty *const faulty = faulty_new(memory_device_new(IMAGE_BLOCKS));
        pthread_t threads[3];
        struct caller callers[3];
        test_create_on(faulty_device(faulty), 4096, KV_CODEC_NONE, 0);
        struct kv_store *store = test_open_on(faulty_device(faulty));
        for (unsigned i = 0; i < 300; i++)
            ck_assert_int_eq(test_put_number(store, i, 500), 0);
        ck_assert_int_eq(kv_sync(store), 0);
        faulty_arm(
            faulty,
            (struct fault){.targets = FAULT_WRITES | FAULT_FLUSHES, .after = after, .error = -EIO});
        for (unsigned i = 0; i < 3; i++) {
            callers[i] = (struct caller){.store = store};
            ck_assert_int_eq(pthread_create(&threads[i], NULL, call_checkpoint, &callers[i]), 0);
        }
        for (unsigned i = 0; i < 3; i++)
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        const bool happened = faulty_failures(faulty);
        failed += happened;
        for (unsigned i = 0; i < 3; i++)
            ck_assert_int_eq(callers[i].err, happened ? -EIO : 0);
        faulty_arm(faulty, (struct fault){0});
        for (unsigned i = 0; i < 300; i++)
            ck_assert_int_eq(test_get_number(store, i, 500), 0);
        ck_assert_int_eq(kv_checkpoint(store), happened ? -EIO : 0);
        ck_assert_int_eq(kv_checkpoint_run(&store->checkpoint, false), happened ? -EIO : 0);
        ck_assert_int_eq(test_put_number(store, 999, 10), happened ? -EROFS : 0);
        ck_assert_int_eq(kv_close(store), happened ? -EIO : 0);

        /* What was promised is there. */
        struct kv_check_result result;
        store = test_open_on(faulty_device(faulty));
        for (unsigned i = 0; i < 300; i++)
            ck_assert_int_eq(test_get_number(store, i, 500), 0);
        ck_assert_uint_eq(test_check(store, &result), 0);
        ck_assert_int_eq(kv_close(store), 0);
        faulty_free(faulty);
    }
    ck_assert_uint_gt(failed, 5);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("checkpoint");
    TCase *const checkpoint = tcase_create("checkpoint");
    tcase_set_timeout(checkpoint, 300);
    tcase_add_loop_test(
        checkpoint, what_a_superblock_reaches_is_flushed_before_it_and_not_touched_after_it, 0, 3);
    tcase_add_test(checkpoint, a_checkpoint_without_changes_writes_nothing);
    tcase_add_test(checkpoint, a_checkpoint_empties_the_log);
    tcase_add_loop_test(checkpoint, only_a_brief_checkpoint_has_the_log_start_anew, 0, 2);
    tcase_add_test(checkpoint, after_a_failed_checkpoint_there_is_no_other);
    suite_add_tcase(suite, checkpoint);
    return test_run(suite);
}
