/*
 * tests/kv/test_blob_near.c: small blobs that lie side by side come with one transfer; none of them
 * is worse off for it: not when the one beside it is damaged, can not be read, is gone, or is not
 * what the hints say, and not where nobody reads on.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/blob.h"
#include "support_devices.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#define DEVICE_BLOCKS 8000u
#define EPOCH         7u
#define COUNT         256u /* blobs of a block each */
#define PLACES        (COUNT / KV_BLOB_NEAR_BLOCKS)
#define BLOCK         KV_BLOCK_BYTES

static uint64_t seed_start;

struct fixture {
    struct faulty *faulty;
    struct test_pages pages;
    struct kv_blobs blobs;
    struct test_random random;
    struct kv_blob_ref refs[COUNT]; /* ascending, without a gap */
    uint64_t first_block;           /* of a place */
    _Atomic unsigned asked;         /* how often neighbours were looked for */
    bool nobody;                    /* they are not found */
};

static uint64_t block_of(const struct kv_blob_ref *ref)
{
    struct kv_disk_blob_ref disk;
    memcpy(&disk, ref, sizeof disk);
    return kv_le64_get(disk.ptr.block);
}

static size_t find_near(void *context, const void *key, size_t key_len, uint64_t block,
                        uint32_t block_count, struct kv_blob_ref *refs, size_t max)
{
    struct fixture *const f = context;
    size_t found = 0;
    ck_assert_uint_eq(key_len, 3);
    ck_assert_mem_eq(key, "key", 3);
    f->asked++;
    for (size_t i = 0; i < COUNT && found < max && !f->nobody; i++)
        if (block_of(&f->refs[i]) >= block && block_of(&f->refs[i]) - block < block_count)
            refs[found++] = f->refs[i];
    return found;
}

static void write_blob(struct fixture *f, uint64_t identity, size_t length, struct kv_blob_ref *ref)
{
    static uint8_t bytes[BLOCK * KV_BLOB_NEAR_BLOB_BLOCKS];
    size_t written;
    test_fill(bytes, length, identity);
    ck_assert_int_eq(kv_blobs_write(&f->blobs, bytes, length, NULL, EPOCH, ref, &written), 0);
    ck_assert_uint_eq(written, length);
}

static void fixture_init(struct fixture *f, uint64_t cache_bytes)
{
    struct kv_blob_ref before;
    memset(f, 0, sizeof *f);
    f->random.state = seed_start;
    f->faulty = faulty_new(memory_device_new(DEVICE_BLOCKS));
    test_pages_init(&f->pages, faulty_device(f->faulty), 16384, 0, KV_CODEC_NONE);
    f->blobs = (struct kv_blobs){.device = f->pages.device,
                                 .space = f->pages.space,
                                 .buffers = f->pages.buffers,
                                 .cache = kv_blob_cache_new(cache_bytes, 0),
                                 .near = kv_blob_near_new(find_near, f)};
    ck_assert_ptr_nonnull(f->blobs.cache);
    ck_assert_ptr_nonnull(f->blobs.near);
    do
        write_blob(f, 0, BLOCK, &before);
    while ((block_of(&before) + 1) % KV_BLOB_NEAR_BLOCKS);
    for (size_t i = 0; i < COUNT; i++) {
        write_blob(f, i + 1, BLOCK, &f->refs[i]);
        ck_assert_uint_eq(block_of(&f->refs[i]), block_of(&before) + 1 + i);
    }
    f->first_block = block_of(&f->refs[0]);
}

static void fixture_release(struct fixture *f)
{
    kv_blob_near_free(f->blobs.near);
    kv_blob_cache_free(f->blobs.cache);
    test_pages_release(&f->pages);
    faulty_free(f->faulty);
}

/* Read blob `i`, whose bytes must be right if there are any. */
static int read_blob(struct fixture *f, size_t i, bool with_key)
{
    static _Thread_local uint8_t expected[BLOCK], bytes[BLOCK];
    const struct kv_blob_part part = {.ref = f->refs[i],
                                      .buf = bytes,
                                      .length = BLOCK,
                                      .key = with_key ? "key" : NULL,
                                      .key_len = with_key ? 3 : 0};
    memset(bytes, 0, BLOCK);
    const int err = kv_blobs_read(&f->blobs, &part, 1);
    test_fill(expected, BLOCK, i + 1);
    if (!err)
        ck_assert_mem_eq(bytes, expected, BLOCK);
    return err;
}

static uint64_t transfers(struct fixture *f)
{
    return atomic_load(&f->blobs.reads);
}

static bool is_cached(struct fixture *f, size_t i)
{
    struct kv_disk_blob_ref disk;
    memcpy(&disk, &f->refs[i], sizeof disk);
    return kv_blob_cache_has(f->blobs.cache, &disk, 0);
}

static void read_all(struct fixture *f, bool with_key)
{
    for (size_t i = 0; i < COUNT; i++)
        ck_assert_int_eq(read_blob(f, i, with_key), 0);
}

/* ---- how many transfers ------------------------------------------------------------- */

START_TEST(blobs_in_order_take_one_transfer_a_place)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    read_all(&f, true);
    /* The first place is not known until its second blob is wanted. */
    ck_assert_uint_eq(transfers(&f), PLACES + 1);
    ck_assert_uint_eq(atomic_load(&f.blobs.read_bytes), COUNT * BLOCK);
    read_all(&f, true);
    ck_assert_uint_eq(transfers(&f), PLACES + 1);
    fixture_release(&f);
}
END_TEST

START_TEST(blobs_backwards_take_one_transfer_a_place)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    for (size_t i = COUNT; i-- > 0;)
        ck_assert_int_eq(read_blob(&f, i, true), 0);
    ck_assert_uint_eq(transfers(&f), PLACES + 1);
    fixture_release(&f);
}
END_TEST

START_TEST(blobs_in_any_order_take_few_transfers_a_place)
{
    struct fixture f;
    size_t order[COUNT];
    fixture_init(&f, 4u << 20);
    for (size_t i = 0; i < COUNT; i++)
        order[i] = i;
    for (size_t i = COUNT; i > 1; i--) {
        const size_t other = test_random_below(&f.random, i), held = order[i - 1];
        order[i - 1] = order[other];
        order[other] = held;
    }
    for (size_t i = 0; i < COUNT; i++)
        ck_assert_int_eq(read_blob(&f, order[i], true), 0);
    /* One alone, and the rest, in as many pieces as those that came alone leave of it. */
    ck_assert_uint_le(transfers(&f), 4 * PLACES);
    fixture_release(&f);
}
END_TEST

START_TEST(who_does_not_tell_the_key_reads_one_by_one)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    read_all(&f, false);
    ck_assert_uint_eq(transfers(&f), COUNT);
    ck_assert_uint_eq(f.asked, 0);
    fixture_release(&f);
}
END_TEST

START_TEST(a_single_blob_of_a_place_takes_only_its_own_block)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    for (size_t i = 0; i < COUNT; i += 2 * KV_BLOB_NEAR_BLOCKS)
        ck_assert_int_eq(read_blob(&f, i, true), 0);
    ck_assert_uint_eq(f.asked, 0);
    ck_assert_uint_eq(atomic_load(&f.blobs.read_bytes), PLACES / 2 * BLOCK);
    fixture_release(&f);
}
END_TEST

START_TEST(where_nobody_was_found_nobody_is_looked_for_again)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    f.nobody = true;
    read_all(&f, true);
    ck_assert_uint_eq(transfers(&f), COUNT);
    ck_assert_uint_eq(f.asked, PLACES);
    fixture_release(&f);
}
END_TEST

START_TEST(what_is_in_memory_is_not_fetched_again)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    for (size_t i = 8; i < KV_BLOB_NEAR_BLOCKS; i++)
        ck_assert_int_eq(read_blob(&f, i, false), 0);
    const uint64_t before = atomic_load(&f.blobs.read_bytes);
    ck_assert_int_eq(read_blob(&f, 0, true), 0);
    ck_assert_int_eq(read_blob(&f, 1, true), 0);
    ck_assert_uint_eq(atomic_load(&f.blobs.read_bytes) - before, 8 * BLOCK);
    fixture_release(&f);
}
END_TEST

/* Twice round, in a cache for an eighth of them, in an order in which none is used in time. */
START_TEST(what_nobody_uses_in_time_ends_the_reading_ahead)
{
    struct fixture f;
    fixture_init(&f, COUNT / 8 * BLOCK);
    uint64_t bytes = 0;
    for (unsigned round = 0; round < 80; round++) {
        const uint64_t before = atomic_load(&f.blobs.read_bytes);
        for (size_t at = 0; at < PLACES; at++)
            for (size_t i = 0; i < 2; i++)
                ck_assert_int_eq(
                    read_blob(&f, at * KV_BLOB_NEAR_BLOCKS + (round % 10 * 3 + i * 2), true), 0);
        bytes = atomic_load(&f.blobs.read_bytes) - before;
    }
    /* One of 32 is tried all the same. */
    ck_assert_uint_le(bytes, (2 * PLACES + KV_BLOB_NEAR_BLOCKS) * BLOCK);
    fixture_release(&f);
}
END_TEST

/* ---- who is in it ------------------------------------------------------------------- */

static void damage(struct fixture *f, size_t i)
{
    uint8_t *const block = kv_device_alloc(BLOCK);
    ck_assert_ptr_nonnull(block);
    ck_assert_int_eq(kv_device_read(f->pages.device, block_of(&f->refs[i]), 1, block), 0);
    block[test_random_below(&f->random, BLOCK)] ^= 4;
    ck_assert_int_eq(kv_device_write(f->pages.device, block_of(&f->refs[i]), 1, block), 0);
    free(block);
}

START_TEST(a_damaged_one_is_an_error_for_who_wants_it_and_nobody_else)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    damage(&f, 1);
    damage(&f, 40);
    for (unsigned round = 0; round < 3; round++)
        for (size_t i = 0; i < COUNT; i++)
            ck_assert_int_eq(read_blob(&f, i, true), i == 1 || i == 40 ? -EBADMSG : 0);
    ck_assert(!is_cached(&f, 1) && !is_cached(&f, 40));
    ck_assert(is_cached(&f, 2) && is_cached(&f, 39));
    fixture_release(&f);
}
END_TEST

START_TEST(when_the_transfer_fails_the_one_that_is_wanted_is_read_alone)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    ck_assert_int_eq(read_blob(&f, 0, true), 0);
    faulty_arm(f.faulty, (struct fault){.targets = FAULT_READS, .error = -EIO});
    ck_assert_int_eq(read_blob(&f, 1, true), 0); /* that of the place, once */
    ck_assert_uint_eq(faulty_failures(f.faulty), 1);
    ck_assert(is_cached(&f, 1) && !is_cached(&f, 2));
    faulty_arm(f.faulty, (struct fault){.targets = FAULT_READS, .error = -EIO, .lasting = true});
    ck_assert_int_eq(read_blob(&f, 2, true), -EIO);
    faulty_arm(f.faulty, (struct fault){0});
    read_all(&f, true);
    fixture_release(&f);
}
END_TEST

START_TEST(a_reference_that_is_of_old_brings_nothing_into_memory)
{
    struct fixture f;
    struct kv_disk_blob_ref old;
    fixture_init(&f, 4u << 20);
    /* The blob that the hint means has gone, and its block is another's. */
    const struct kv_blob_ref fresh = f.refs[3];
    memcpy(&old, &fresh, sizeof old);
    old.ptr.birth_epoch = kv_le64_of(EPOCH - 1);
    memcpy(&f.refs[3], &old, sizeof old);
    ck_assert_int_eq(read_blob(&f, 0, true), 0);
    ck_assert_int_eq(read_blob(&f, 1, true), 0);
    ck_assert(is_cached(&f, 2) && !is_cached(&f, 3) && is_cached(&f, 4));
    ck_assert_int_eq(read_blob(&f, 3, true), -EBADMSG);
    f.refs[3] = fresh;
    ck_assert(!is_cached(&f, 3));
    ck_assert_int_eq(read_blob(&f, 3, true), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(references_that_make_no_sense_are_left_out)
{
    struct fixture f;
    fixture_init(&f, 4u << 20);
    for (size_t i = 0; i < COUNT; i++) {
        struct kv_disk_blob_ref disk;
        memcpy(&disk, &f.refs[i], sizeof disk);
        if (i % 4 == 2)
            disk.ptr.length_bytes = kv_le32_of(UINT32_MAX);
        if (i % 4 == 3)
            disk.raw_bytes = kv_le32_of(KV_BLOB_MAX);
        memcpy(&f.refs[i], &disk, sizeof disk);
    }
    for (size_t i = 0; i < COUNT; i++)
        ck_assert_int_eq(read_blob(&f, i, true), i % 4 < 2 ? 0 : -EUCLEAN);
    fixture_release(&f);
}
END_TEST

/* ---- several threads ---------------------------------------------------------------- */

struct reader {
    pthread_t thread;
    struct fixture *f;
    struct test_random random;
};

static void *read_at_random(void *context)
{
    struct reader *const reader = context;
    for (unsigned i = 0; i < 2000; i++)
        ck_assert_int_eq(read_blob(reader->f, test_random_below(&reader->random, COUNT), true), 0);
    return NULL;
}

START_TEST(threads_that_bring_each_other_along_read_what_is_there)
{
    struct reader readers[4];
    struct fixture f;
    fixture_init(&f, COUNT / 2 * BLOCK);
    for (unsigned i = 0; i < 4; i++) {
        readers[i] = (struct reader){.f = &f, .random = {.state = seed_start * 10 + i}};
        ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_join(readers[i].thread, NULL), 0);
    ck_assert_uint_gt(f.asked, 0);
    fixture_release(&f);
}
END_TEST

/* ---- in a store --------------------------------------------------------------------- */

static struct kv_store *open_store(struct kv_device *device)
{
    const struct kv_open_options options = {.device = device,
                                            .blob_percent = 25,
                                            .memory_budget_bytes = 16u << 20,
                                            .no_background = true,
                                            .log = test_log_nothing};
    struct kv_store *store;
    struct kv_error why;
    ck_assert_int_eq(kv_open(NULL, &options, &store, &why), 0);
    return store;
}

#define FILES       600u
#define FILE_BYTES  (2u * BLOCK) /* of noise: two blocks */
#define HEAD        "head"
#define SINGLE_READ 8u

static void fill_noise(uint8_t *bytes, uint64_t identity)
{
    struct test_random random = {.state = identity * 77 + seed_start};
    for (size_t at = 0; at < FILE_BYTES; at += 8) {
        const uint64_t word = test_random_next(&random);
        memcpy(bytes + at, &word, 8);
    }
}

static void put_file(struct kv_store *store, uint64_t number, uint64_t identity)
{
    static uint8_t bytes[FILE_BYTES];
    char key[24];
    struct kv_blob_ref ref;
    size_t written;
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    fill_noise(bytes, identity);
    ck_assert_int_eq(kv_blob_write(store, bytes, sizeof bytes, NULL, &ref, &written), 0);
    ck_assert_uint_eq(written, sizeof bytes);
    const size_t key_len = test_number_key(key, number);
    ck_assert_int_eq(kv_batch_put_blob(batch, key, key_len, HEAD, sizeof HEAD, &ref, KV_BLOB_NEW),
                     0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    kv_batch_free(batch);
}

static void read_file(struct kv_store *store, uint64_t number, uint64_t identity)
{
    static uint8_t bytes[FILE_BYTES], expected[FILE_BYTES];
    uint8_t value[sizeof HEAD + sizeof(struct kv_blob_ref)];
    char key[24];
    size_t length;
    const size_t key_len = test_number_key(key, number);
    ck_assert_int_eq(kv_get(store, key, key_len, value, sizeof value, &length), 0);
    ck_assert_uint_eq(length, sizeof value);
    struct kv_blob_part part = {
        .buf = bytes, .length = sizeof bytes, .key = key, .key_len = key_len};
    memcpy(&part.ref, value + sizeof HEAD, sizeof part.ref);
    ck_assert_int_eq(kv_blob_read_many(store, &part, 1), 0);
    fill_noise(expected, identity);
    ck_assert_mem_eq(bytes, expected, sizeof bytes);
}

static uint64_t blob_reads(struct kv_store *store)
{
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    return stats.blob_reads;
}

START_TEST(files_of_a_store_come_together_and_what_changed_since_is_new)
{
    struct recorder *const recorder = recorder_new(memory_device_new(32768));
    struct kv_device *const device = recorder_device(recorder);
    test_create_on(device, 16384, KV_CODEC_LZ4, 1u << 20);
    struct kv_store *store = open_store(device);
    for (uint64_t i = 0; i < FILES; i++)
        put_file(store, i, i);
    ck_assert_int_eq(kv_close(store), 0);

    store = open_store(device);
    const uint64_t before = blob_reads(store);
    for (uint64_t i = 0; i < FILES; i++) {
        /* What follows, and maybe is in memory, changes before it is read. */
        if (i % 10 == 0 && i + 2 < FILES)
            put_file(store, i + 2, i + 9000);
        if (i % 100 == 0)
            ck_assert_int_eq(kv_checkpoint(store), 0);
        read_file(store, i, i % 10 == 2 ? i - 2 + 9000 : i);
    }
    ck_assert_uint_lt(blob_reads(store) - before, FILES / SINGLE_READ);
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(store, &result), 0);
    ck_assert_int_eq(kv_close(store), 0);
    recorder_free(recorder);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("blob_near");
    TCase *const near = tcase_create("blob_near");
    tcase_set_timeout(near, 120);
    tcase_add_test(near, blobs_in_order_take_one_transfer_a_place);
    tcase_add_test(near, blobs_backwards_take_one_transfer_a_place);
    tcase_add_test(near, blobs_in_any_order_take_few_transfers_a_place);
    tcase_add_test(near, who_does_not_tell_the_key_reads_one_by_one);
    tcase_add_test(near, a_single_blob_of_a_place_takes_only_its_own_block);
    tcase_add_test(near, where_nobody_was_found_nobody_is_looked_for_again);
    tcase_add_test(near, what_is_in_memory_is_not_fetched_again);
    tcase_add_test(near, what_nobody_uses_in_time_ends_the_reading_ahead);
    tcase_add_test(near, a_damaged_one_is_an_error_for_who_wants_it_and_nobody_else);
    tcase_add_test(near, when_the_transfer_fails_the_one_that_is_wanted_is_read_alone);
    tcase_add_test(near, a_reference_that_is_of_old_brings_nothing_into_memory);
    tcase_add_test(near, references_that_make_no_sense_are_left_out);
    tcase_add_test(near, threads_that_bring_each_other_along_read_what_is_there);
    tcase_add_test(near, files_of_a_store_come_together_and_what_changed_since_is_new);
    suite_add_tcase(suite, near);
    return test_run(suite);
}
