/*
 * tests/kv/test_recover.c: what replay makes of a log whose end, or whose blobs, did not reach
 * the device, and of too little room.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define IMAGE_BLOCKS (2 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

static uint64_t seed_start;

struct fixture {
    struct faulty *faulty; /* its device outlives the store */
    struct kv_store *store;
    struct test_random random;
};

static void fixture_init(struct fixture *f, uint64_t blocks, uint32_t node_bytes,
                         uint64_t log_bytes)
{
    f->faulty = faulty_new(memory_device_new(blocks));
    f->random.state = seed_start;
    test_create_on(faulty_device(f->faulty), node_bytes, KV_CODEC_NONE, log_bytes);
    f->store = test_open_on(faulty_device(f->faulty));
}

static void fixture_release(struct fixture *f)
{
    faulty_free(f->faulty);
}

static void crash(struct fixture *f)
{
    kv_abandon(f->store);
    f->store = test_open_on(faulty_device(f->faulty));
}

static void expect_clean(struct fixture *f)
{
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(f->store, &result), 0);
}

static void flip(struct fixture *f, uint64_t block, size_t offset)
{
    uint8_t *const bytes = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_int_eq(kv_device_read(faulty_device(f->faulty), block, 1, bytes), 0);
    bytes[offset] ^= 1;
    ck_assert_int_eq(kv_device_write(faulty_device(f->faulty), block, 1, bytes), 0);
    free(bytes);
}

/* Where a random value's bytes lie on the device. */
static uint64_t find_bytes(struct fixture *f, const uint8_t *start)
{
    struct kv_device *const device = faulty_device(f->faulty);
    uint8_t *const bytes = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    uint64_t block = 0;
    for (;; block++) {
        ck_assert_uint_lt(block, device->block_count);
        const int err = kv_device_read(device, block, 1, bytes);
        KV_ASSERT(err == 0);
        if (!memcmp(bytes, start, 64))
            break;
    }
    free(bytes);
    return block;
}

START_TEST(all_that_was_synced_is_replayed)
{
    struct fixture f;
    fixture_init(&f, IMAGE_BLOCKS, 4096, 0);
    for (unsigned i = 0; i < 2000; i++)
        ck_assert_int_eq(test_put_number(f.store, i, i % 50 ? i % 700 : 20000), 0);
    ck_assert_int_eq(kv_sync(f.store), 0);
    for (unsigned again = 0; again < 3; again++) {
        crash(&f);
        for (unsigned i = 0; i < 2000; i++)
            ck_assert_int_eq(test_get_number(f.store, i, i % 50 ? i % 700 : 20000), 0);
        expect_clean(&f);
    }
    ck_assert_int_eq(kv_close(f.store), 0);
    fixture_release(&f);
}
END_TEST

/* One flush, several batches; the blob of the middle one was lost. */
START_TEST(a_record_whose_blob_was_lost_ends_the_log)
{
    struct fixture f;
    const size_t large = 30000;
    uint8_t start[64];
    fixture_init(&f, IMAGE_BLOCKS, 4096, 0);
    ck_assert_int_eq(test_put_number(f.store, 1, 100), 0);
    ck_assert_int_eq(test_put_number(f.store, 2, large), 0);
    ck_assert_int_eq(test_put_number(f.store, 3, large), 0);
    ck_assert_int_eq(test_put_number(f.store, 4, 100), 0);
    ck_assert_int_eq(kv_sync(f.store), 0);
    kv_abandon(f.store);
    test_fill(start, sizeof start, 3);
    flip(&f, find_bytes(&f, start) + 2, 77);

    f.store = test_open_on(faulty_device(f.faulty));
    ck_assert_int_eq(test_get_number(f.store, 1, 100), 0);
    ck_assert_int_eq(test_get_number(f.store, 2, large), 0);
    ck_assert_int_eq(test_get_number(f.store, 3, large), -ENOENT);
    ck_assert_int_eq(test_get_number(f.store, 4, 100), -ENOENT);
    expect_clean(&f); /* the lost blob's space is free */

    /* Life goes on, and what was dropped does not come back. */
    ck_assert_int_eq(test_put_number(f.store, 5, 100), 0);
    ck_assert_int_eq(kv_sync(f.store), 0);
    crash(&f);
    ck_assert_int_eq(test_get_number(f.store, 4, 100), -ENOENT);
    ck_assert_int_eq(test_get_number(f.store, 5, 100), 0);
    ck_assert_int_eq(kv_close(f.store), 0);
    fixture_release(&f);
}
END_TEST

/* A later flush vouches for the blob: then it is damage, and only that value suffers. */
START_TEST(a_blob_that_was_promised_and_is_damaged_costs_only_itself)
{
    struct fixture f;
    const size_t large = 30000;
    uint8_t start[64];
    fixture_init(&f, IMAGE_BLOCKS, 4096, 0);
    for (unsigned i = 1; i <= 4; i++) {
        ck_assert_int_eq(test_put_number(f.store, i, large), 0);
        ck_assert_int_eq(kv_sync(f.store), 0);
    }
    kv_abandon(f.store);
    test_fill(start, sizeof start, 2);
    flip(&f, find_bytes(&f, start) + 1, 5);
    f.store = test_open_on(faulty_device(f.faulty));
    for (unsigned i = 1; i <= 4; i++)
        ck_assert_int_eq(test_get_number(f.store, i, large), i == 2 ? -EBADMSG : 0);
    ck_assert_int_eq(kv_close(f.store), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(a_log_that_is_damaged_before_its_durable_end_is_refused)
{
    struct fixture f;
    struct kv_store *store = NULL;
    fixture_init(&f, IMAGE_BLOCKS, 4096, 0);
    const uint64_t log_first = kv_le64_get(f.store->checkpoint.superblock.log_first_block);
    const uint64_t log_blocks = kv_le64_get(f.store->checkpoint.superblock.log_block_count);
    const uint64_t tail = kv_le64_get(f.store->checkpoint.superblock.log_tail);
    for (unsigned i = 1; i <= 10; i++) {
        ck_assert_int_eq(test_put_number(f.store, i, 100), 0);
        ck_assert_int_eq(kv_sync(f.store), 0);
    }
    kv_abandon(f.store);
    flip(&f, log_first + (tail + 4) % log_blocks, 100);
    ck_assert_int_eq(test_try_open_on(faulty_device(f.faulty), &store), -EBADMSG);
    flip(&f, log_first + (tail + 4) % log_blocks, 100);

    /* The last block is vouched for by none: there the log just ends. */
    flip(&f, log_first + (tail + 9) % log_blocks, 100);
    f.store = test_open_on(faulty_device(f.faulty));
    for (unsigned i = 1; i <= 10; i++)
        ck_assert_int_eq(test_get_number(f.store, i, 100), i == 10 ? -ENOENT : 0);
    ck_assert_int_eq(kv_close(f.store), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(recovery_can_be_cut_short_at_any_write)
{
    struct fixture f;
    struct kv_store *store = NULL;
    fixture_init(&f, IMAGE_BLOCKS, 4096, 0);
    for (unsigned i = 0; i < 1500; i++)
        ck_assert_int_eq(test_put_number(f.store, i % 1000, i % 100 ? 600 : 20000), 0);
    ck_assert_int_eq(kv_sync(f.store), 0);
    kv_abandon(f.store);
    bool opened = false;
    for (uint64_t after = 0; !opened; after++) {
        faulty_arm(f.faulty, (struct fault){.targets = FAULT_WRITES | FAULT_FLUSHES,
                                            .after = after,
                                            .lasting = true,
                                            .error = -EIO,
                                            .partial_blocks = 1});
        const int err = test_try_open_on(faulty_device(f.faulty), &store);
        opened = err == 0;
        ck_assert(opened || err == -EIO);
    }
    faulty_arm(f.faulty, (struct fault){0});
    f.store = store;
    for (unsigned i = 500; i < 1500; i++)
        ck_assert_int_eq(test_get_number(f.store, i % 1000, i % 100 ? 600 : 20000), 0);
    expect_clean(&f);
    ck_assert_int_eq(kv_close(f.store), 0);
    fixture_release(&f);
}
END_TEST

/*
 * More pages change, and more often, than fit into memory, all in one epoch: replay writes them
 * out again and again before it can make a checkpoint, and must not run out of space for it.
 */
START_TEST(replay_needs_no_more_space_than_what_it_repeats)
{
    struct fixture f;
    const unsigned keys = 4000;
    const size_t length = 3000;
    struct kv_stats before, after;
    fixture_init(&f, (64u << 20) / KV_BLOCK_BYTES, 16384, 24u << 20);
    for (unsigned i = 0; i < keys; i++)
        ck_assert_int_eq(test_put_number(f.store, i, length), 0);
    ck_assert_int_eq(kv_checkpoint(f.store), 0);
    kv_store_stats(f.store, &before);
    for (unsigned i = 0; i < 6400; i++) {
        const int err = test_put_number(f.store, test_random_below(&f.random, keys), length);
        KV_ASSERT(err == 0);
    }
    ck_assert_int_eq(kv_sync(f.store), 0);
    kv_store_stats(f.store, &after);
    ck_assert_uint_eq(after.checkpoints, before.checkpoints); /* all of it is in the log */
    ck_assert_uint_gt(after.page_write_bytes - before.page_write_bytes, 48u << 20);
    crash(&f);
    for (unsigned i = 0; i < keys; i++)
        ck_assert_int_eq(test_get_number(f.store, i, length), 0);
    expect_clean(&f);
    ck_assert_int_eq(kv_close(f.store), 0);
    fixture_release(&f);
}
END_TEST

/* A tree that is larger than memory, each of its leaves changed several times, here and there. */
START_TEST(replay_writes_each_page_once)
{
    struct fixture f;
    const unsigned keys = 100000, changes = 5000;
    struct kv_stats before, after;
    fixture_init(&f, (96u << 20) / KV_BLOCK_BYTES, 16384, 24u << 20);
    for (unsigned i = 0; i < keys; i++)
        ck_assert_int_eq(test_put_number(f.store, i, 100), 0);
    ck_assert_int_eq(kv_checkpoint(f.store), 0);
    kv_store_stats(f.store, &before);
    ck_assert_uint_gt(before.page_count * 16384, 10u << 20);
    for (unsigned i = 0; i < changes; i++) {
        const int err = test_put_number(f.store, test_random_below(&f.random, keys), 100);
        KV_ASSERT(err == 0);
    }
    ck_assert_int_eq(kv_sync(f.store), 0);
    crash(&f);
    kv_store_stats(f.store, &after);
    ck_assert_uint_ge(after.page_writes, before.page_count * 9 / 10); /* nearly all were changed */
    ck_assert_uint_le(after.page_writes, before.page_count * 11 / 10);
    expect_clean(&f);
    ck_assert_int_eq(kv_close(f.store), 0);
    fixture_release(&f);
}
END_TEST

/* What one key became is what its changes made of it in their order, whatever came in between. */
START_TEST(replay_keeps_the_order_of_each_key)
{
    enum { KEYS = 40, BYTES = 60 };
    struct fixture f;
    char model[KEYS][BYTES + 1] = {{0}}; /* empty: not there */
    char value[BYTES], key[24];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    fixture_init(&f, IMAGE_BLOCKS, 4096, 0);
    for (unsigned i = 0; i < 3000; i++) {
        const size_t number = test_random_below(&f.random, KEYS);
        const size_t key_len = test_number_key(key, number);
        const size_t length = 1 + test_random_below(&f.random, BYTES);
        int err;
        memset(value, 'a' + (int)test_random_below(&f.random, 26), sizeof value);
        kv_batch_clear(batch);
        switch (test_random_below(&f.random, 8)) {
        case 0:
            err = kv_batch_del(batch, key, key_len);
            model[number][0] = 0;
            break;
        case 1: { /* and those behind it: of several keys, so it stays where it is */
            char upper[24];
            const size_t end = kv_min_u64(KEYS, number + 5);
            const size_t upper_len = test_number_key(upper, end);
            err = kv_batch_del_range(batch, key, key_len, upper, upper_len);
            for (size_t j = number; j < end; j++)
                model[j][0] = 0;
            break;
        }
        case 2:
        case 3:
            if (model[number][0]) {
                const size_t whole = strlen(model[number]);
                const size_t at = test_random_below(&f.random, whole);
                const size_t part = kv_min_u64(length, whole - at);
                err = kv_batch_patch(batch, key, key_len, at, value, part);
                memcpy(model[number] + at, value, part);
                break;
            } /* fall through */
        default:
            err = kv_batch_put(batch, key, key_len, value, length);
            memcpy(model[number], value, length);
            model[number][length] = 0;
        }
        ck_assert_int_eq(err, 0);
        ck_assert_int_eq(kv_apply(f.store, batch, 0, NULL), 0);
    }
    ck_assert_int_eq(kv_sync(f.store), 0);
    crash(&f);
    for (unsigned i = 0; i < KEYS; i++) {
        char back[BYTES];
        size_t length = 0;
        const int err = kv_get(f.store, key, test_number_key(key, i), back, sizeof back, &length);
        ck_assert_int_eq(err, model[i][0] ? 0 : -ENOENT);
        if (!err) {
            ck_assert_uint_eq(length, strlen(model[i]));
            ck_assert_mem_eq(back, model[i], length);
        }
    }
    expect_clean(&f);
    ck_assert_int_eq(kv_close(f.store), 0);
    kv_batch_free(batch);
    fixture_release(&f);
}
END_TEST

/* References are counted through deletions, shares and moves that only the log knows. */
START_TEST(shared_blobs_are_counted_through_a_replay)
{
    struct fixture f;
    static uint8_t bytes[9000];
    struct kv_blob_ref ref;
    size_t written;
    uint8_t back[40];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    fixture_init(&f, IMAGE_BLOCKS, 4096, 0);
    test_fill(bytes, sizeof bytes, 1);
    ck_assert_int_eq(kv_blob_write(f.store, bytes, sizeof bytes, NULL, &ref, &written), 0);
    ck_assert_int_eq(kv_batch_put_blob(batch, "a", 1, NULL, 0, &ref, KV_BLOB_NEW), 0);
    ck_assert_int_eq(kv_apply(f.store, batch, 0, NULL), 0);
    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_put_blob(batch, "b", 1, NULL, 0, &ref, KV_BLOB_SHARED), 0);
    ck_assert_int_eq(kv_batch_put_blob(batch, "c", 1, NULL, 0, &ref, KV_BLOB_SHARED), 0);
    ck_assert_int_eq(kv_apply(f.store, batch, 0, NULL), 0);
    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_del(batch, "a", 1), 0);
    ck_assert_int_eq(kv_batch_put_blob(batch, "d", 1, NULL, 0, &ref, KV_BLOB_SHARED), 0);
    ck_assert_int_eq(kv_batch_del_range(batch, "b", 1, "d", 1), 0);
    ck_assert_int_eq(kv_apply(f.store, batch, KV_APPLY_SYNC, NULL), 0);
    crash(&f);
    ck_assert_int_eq(kv_get(f.store, "d", 1, back, sizeof back, &written), 0);
    ck_assert_mem_eq(back, ref.bytes, sizeof back);
    expect_clean(&f);
    /* The last holder goes: the space is free. */
    struct kv_stats before, after;
    kv_store_stats(f.store, &before);
    ck_assert_int_eq(kv_del(f.store, "d", 1), 0);
    ck_assert_int_eq(kv_checkpoint(f.store), 0);
    kv_store_stats(f.store, &after);
    ck_assert_uint_ge(after.free_bytes, before.free_bytes + 3u * KV_BLOCK_BYTES);
    expect_clean(&f);
    ck_assert_int_eq(kv_close(f.store), 0);
    kv_batch_free(batch);
    fixture_release(&f);
}
END_TEST

/* One record shares and drops more blobs than are counted beside the tree. */
START_TEST(many_blobs_change_hands_in_one_record)
{
    enum { COUNT = 40 };
    struct fixture f;
    static uint8_t bytes[9000];
    static struct kv_blob_ref refs[COUNT];
    size_t written;
    uint8_t back[sizeof refs[0]];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    fixture_init(&f, IMAGE_BLOCKS, 4096, 0);
    test_fill(bytes, sizeof bytes, 1);
    for (unsigned i = 0; i < COUNT; i++) {
        const char key[] = {'a', (char)i};
        ck_assert_int_eq(kv_blob_write(f.store, bytes, sizeof bytes, NULL, &refs[i], &written), 0);
        ck_assert_int_eq(kv_batch_put_blob(batch, key, 2, NULL, 0, &refs[i], KV_BLOB_NEW), 0);
    }
    ck_assert_int_eq(kv_apply(f.store, batch, 0, NULL), 0);
    kv_batch_clear(batch);
    /* Every third one goes back to one holder, every third one to two, the others to three. */
    for (unsigned i = 0; i < COUNT; i++) {
        const char own[] = {'a', (char)i}, other[] = {'b', (char)i}, third[] = {'c', (char)i};
        ck_assert_int_eq(kv_batch_put_blob(batch, other, 2, NULL, 0, &refs[i], KV_BLOB_SHARED), 0);
        if (i % 3 != 0)
            ck_assert_int_eq(kv_batch_put_blob(batch, third, 2, NULL, 0, &refs[i], KV_BLOB_SHARED),
                             0);
        if (i % 3 != 2)
            ck_assert_int_eq(kv_batch_del(batch, own, 2), 0);
    }
    ck_assert_int_eq(kv_apply(f.store, batch, KV_APPLY_SYNC, NULL), 0);
    expect_clean(&f);
    crash(&f);
    for (unsigned i = 0; i < COUNT; i++) {
        const char other[] = {'b', (char)i};
        ck_assert_int_eq(kv_get(f.store, other, 2, back, sizeof back, &written), 0);
        ck_assert_mem_eq(back, refs[i].bytes, sizeof back);
    }
    expect_clean(&f);
    struct kv_stats before, after;
    kv_store_stats(f.store, &before);
    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_del_range(batch, "a", 1, "d", 1), 0);
    ck_assert_int_eq(kv_apply(f.store, batch, 0, NULL), 0);
    ck_assert_int_eq(kv_checkpoint(f.store), 0);
    kv_store_stats(f.store, &after);
    ck_assert_uint_ge(after.free_bytes, before.free_bytes + 3ull * COUNT * KV_BLOCK_BYTES);
    expect_clean(&f);
    ck_assert_int_eq(kv_close(f.store), 0);
    kv_batch_free(batch);
    fixture_release(&f);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("recover");
    TCase *const recover = tcase_create("recover");
    tcase_set_timeout(recover, 300);
    tcase_add_test(recover, all_that_was_synced_is_replayed);
    tcase_add_test(recover, a_record_whose_blob_was_lost_ends_the_log);
    tcase_add_test(recover, a_blob_that_was_promised_and_is_damaged_costs_only_itself);
    tcase_add_test(recover, a_log_that_is_damaged_before_its_durable_end_is_refused);
    tcase_add_test(recover, recovery_can_be_cut_short_at_any_write);
    tcase_add_test(recover, replay_needs_no_more_space_than_what_it_repeats);
    tcase_add_test(recover, replay_writes_each_page_once);
    tcase_add_test(recover, replay_keeps_the_order_of_each_key);
    tcase_add_test(recover, shared_blobs_are_counted_through_a_replay);
    tcase_add_test(recover, many_blobs_change_hands_in_one_record);
    suite_add_tcase(suite, recover);
    return test_run(suite);
}
