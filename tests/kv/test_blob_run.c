/*
 * tests/kv/test_blob_run.c: small blobs that are flushed soon get blocks that were written before.
 */
#include "kv/blob_run.h"
#include "kv/format.h"
#include "support_devices.h"
#include "tests/run.h"

#include <check.h>
#include <pthread.h>

#define FIRST_BLOCK 16u
#define END_BLOCK   (FIRST_BLOCK + KV_GROUP_META_BLOCKS + 1024u)
#define OLD_BYTE    0x5a

/* Flushes that begin a run, and as many blobs of a block before each. */
#define FLUSHES 4u

struct fixture {
    struct faulty *faulty;
    struct kv_device *device;
    const struct kv_device_ops *ops; /* the faulty device's own */
    struct kv_device_ops written_ops;
    struct kv_space *space;
    struct kv_blob_run *run;
};

static bool never_written(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    (void)device;
    (void)block;
    (void)block_count;
    return false;
}

/* Blocks hold OLD_BYTE, and the host takes them for not written if `holes`. */
static void fixture_init(struct fixture *f, bool holes)
{
    f->faulty = faulty_new(memory_device_new(END_BLOCK));
    f->device = faulty_device(f->faulty);
    f->ops = f->device->ops;
    f->written_ops = *f->ops;
    f->written_ops.is_written = holes ? never_written : NULL;
    f->device->ops = &f->written_ops;
    const struct kv_space_config config = {.group_first_block = FIRST_BLOCK,
                                           .group_count = 1,
                                           .end_block = END_BLOCK,
                                           .cluster_blocks = 4,
                                           .log_id = 7};
    uint64_t digest, used;
    ck_assert_int_eq(kv_space_format(f->device, &config, 1, &digest, &used), 0);
    ck_assert_int_eq(kv_space_open(f->device, &config, 1, digest, &f->space), 0);
    uint8_t *const old = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(old);
    memset(old, OLD_BYTE, KV_BLOCK_BYTES);
    for (uint64_t block = FIRST_BLOCK + KV_GROUP_META_BLOCKS; block < END_BLOCK; block++)
        ck_assert_int_eq(kv_device_write(f->device, block, 1, old), 0);
    free(old);
    f->run = kv_blob_run_new(f->device, f->space);
    ck_assert_ptr_nonnull(f->run);
}

static void fixture_release(struct fixture *f)
{
    kv_blob_run_free(f->run);
    kv_space_close(f->space);
    f->device->ops = f->ops;
    faulty_free(f->faulty);
}

static uint64_t busy_blocks(struct fixture *f)
{
    struct kv_space_stats stats;
    kv_space_stats(f->space, &stats);
    return stats.busy_blocks;
}

static uint8_t first_byte(struct fixture *f, uint64_t block)
{
    uint8_t *const bytes = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_int_eq(kv_device_read(f->device, block, 1, bytes), 0);
    const uint8_t byte = bytes[0];
    free(bytes);
    return byte;
}

/* Some flushes, each after `blocks` blocks; none of these comes from a run. */
static void flush_often(struct fixture *f, uint32_t blocks)
{
    for (uint32_t i = 0; i < FLUSHES; i++) {
        uint64_t block;
        ck_assert(!kv_blob_run_take(f->run, blocks, &block));
        kv_blob_run_flushed(f->run);
    }
}

START_TEST(blobs_that_are_flushed_soon_lie_in_blocks_that_were_written_before)
{
    struct fixture f;
    fixture_init(&f, true);
    const uint64_t busy = busy_blocks(&f);
    flush_often(&f, 1);
    uint64_t first, next;
    ck_assert(kv_blob_run_take(f.run, 1, &first));
    ck_assert_uint_eq(busy_blocks(&f), busy + KV_BLOB_RUN_BLOCKS);
    for (uint64_t block = first; block < first + KV_BLOB_RUN_BLOCKS; block++)
        ck_assert_uint_eq(first_byte(&f, block), 0);
    const uint64_t writes = f.device->counts.writes;
    ck_assert(kv_blob_run_take(f.run, 3, &next));
    ck_assert_uint_eq(next, first + 1);
    ck_assert_uint_eq(f.device->counts.writes, writes);
    ck_assert_uint_eq(kv_blob_run_left(f.run), KV_BLOB_RUN_BLOCKS - 4);
    ck_assert(kv_space_owned(f.space, first, 4));
    fixture_release(&f);
}
END_TEST

START_TEST(what_the_host_has_seen_written_is_not_written_again)
{
    struct fixture f;
    fixture_init(&f, false);
    flush_often(&f, 1);
    const uint64_t writes = f.device->counts.writes;
    uint64_t block;
    ck_assert(kv_blob_run_take(f.run, 1, &block));
    ck_assert_uint_eq(f.device->counts.writes, writes);
    ck_assert_uint_eq(first_byte(&f, block), OLD_BYTE);
    fixture_release(&f);
}
END_TEST

START_TEST(much_between_two_flushes_ends_it)
{
    struct fixture f;
    fixture_init(&f, true);
    flush_often(&f, KV_BLOB_RUN_BLOCKS + 1);
    uint64_t block;
    ck_assert(!kv_blob_run_take(f.run, 1, &block));
    kv_blob_run_flushed(f.run);
    for (uint32_t i = 0; i < FLUSHES; i++) /* nor do flushes of nothing begin it */
        kv_blob_run_flushed(f.run);
    ck_assert(!kv_blob_run_take(f.run, 1, &block));
    kv_blob_run_flushed(f.run);
    ck_assert(!kv_blob_run_take(f.run, 1, &block));
    kv_blob_run_flushed(f.run);
    ck_assert(!kv_blob_run_take(f.run, 1, &block));
    kv_blob_run_flushed(f.run);
    ck_assert(kv_blob_run_take(f.run, 1, &block));
    fixture_release(&f);
}
END_TEST

START_TEST(a_long_blob_finds_its_own_place)
{
    struct fixture f;
    fixture_init(&f, true);
    flush_often(&f, 1);
    uint64_t block;
    ck_assert(!kv_blob_run_take(f.run, 17, &block));
    ck_assert(kv_blob_run_take(f.run, 16, &block));
    fixture_release(&f);
}
END_TEST

START_TEST(what_is_left_goes_back_to_the_space)
{
    struct fixture f;
    fixture_init(&f, true);
    const uint64_t busy = busy_blocks(&f);
    ck_assert(!kv_blob_run_release(f.run));
    flush_often(&f, 1);
    uint64_t block;
    ck_assert(kv_blob_run_take(f.run, 5, &block));
    ck_assert(kv_blob_run_release(f.run));
    ck_assert_uint_eq(busy_blocks(&f), busy + 5);
    ck_assert_uint_eq(kv_blob_run_left(f.run), 0);
    ck_assert(!kv_blob_run_release(f.run));

    /* One that a blob does not fit into is given back for another. */
    for (uint32_t taken = 0; taken + 15 <= KV_BLOB_RUN_BLOCKS; taken += 15)
        ck_assert(kv_blob_run_take(f.run, 15, &block));
    ck_assert_uint_eq(kv_blob_run_left(f.run), KV_BLOB_RUN_BLOCKS % 15);
    ck_assert(kv_blob_run_take(f.run, 15, &block));
    ck_assert_uint_eq(kv_blob_run_left(f.run), KV_BLOB_RUN_BLOCKS - 15);
    fixture_release(&f);
}
END_TEST

START_TEST(without_room_or_when_zeroes_can_not_be_written_there_is_no_run)
{
    const bool full = _i;
    struct fixture f;
    fixture_init(&f, true);
    flush_often(&f, 1);
    uint64_t block = 0;
    uint32_t got = 1;
    if (full)
        while (got && !kv_space_alloc(f.space, KV_SPACE_DATA, 40, 40, &block, &got))
            continue;
    else
        faulty_arm(f.faulty, (struct fault){.targets = FAULT_WRITES, .error = -EIO});
    const uint64_t busy = busy_blocks(&f);
    ck_assert(!kv_blob_run_take(f.run, 1, &block));
    ck_assert_uint_eq(busy_blocks(&f), busy);
    ck_assert_uint_eq(kv_blob_run_left(f.run), 0);
    kv_blob_run_flushed(f.run);
    const uint64_t writes = f.device->counts.writes;
    ck_assert(!kv_blob_run_take(f.run, 1, &block)); /* it is not tried each time */
    ck_assert_uint_eq(f.device->counts.writes, writes);
    fixture_release(&f);
}
END_TEST

#define THREADS 4u
#define TAKES   200u

struct taker {
    struct fixture *f;
    uint64_t blocks[TAKES];
    unsigned count;
};

static void *take_and_flush(void *context)
{
    struct taker *const taker = context;
    for (unsigned i = 0; i < TAKES; i++) {
        if (kv_blob_run_take(taker->f->run, 1, &taker->blocks[taker->count]))
            taker->count++;
        kv_blob_run_flushed(taker->f->run);
        if (i % 50 == 0)
            (void)kv_blob_run_release(taker->f->run);
    }
    return NULL;
}

START_TEST(no_block_is_given_to_two)
{
    struct fixture f;
    fixture_init(&f, true);
    flush_often(&f, 1);
    struct taker takers[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        takers[i] = (struct taker){.f = &f};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, take_and_flush, &takers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    bool seen[END_BLOCK] = {false};
    for (unsigned i = 0; i < THREADS; i++) {
        for (unsigned j = 0; j < takers[i].count; j++) {
            ck_assert_uint_lt(takers[i].blocks[j], END_BLOCK);
            ck_assert(!seen[takers[i].blocks[j]]);
            seen[takers[i].blocks[j]] = true;
            ck_assert(kv_space_owned(f.space, takers[i].blocks[j], 1));
        }
    }
    fixture_release(&f);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("blob run");
    TCase *const run = tcase_create("run");
    tcase_add_test(run, blobs_that_are_flushed_soon_lie_in_blocks_that_were_written_before);
    tcase_add_test(run, what_the_host_has_seen_written_is_not_written_again);
    tcase_add_test(run, much_between_two_flushes_ends_it);
    tcase_add_test(run, a_long_blob_finds_its_own_place);
    tcase_add_test(run, what_is_left_goes_back_to_the_space);
    tcase_add_loop_test(run, without_room_or_when_zeroes_can_not_be_written_there_is_no_run, 0, 2);
    tcase_add_test(run, no_block_is_given_to_two);
    suite_add_tcase(suite, run);
    return test_run(suite);
}
