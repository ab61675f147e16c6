/*
 * tests/kv/test_retain.c: what somebody asked to be retained is in memory, whatever else is read.
 *
 * The store holds several times its memory; pages read from the device are counted.
 */
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>

#define KEYS         24000u
#define VALUE_BYTES  1000u
#define BUDGET_BYTES (8ull << 20)

static struct faulty *faulty; /* its device outlives the store */
static struct kv_store *store;

static void open_store(uint32_t percent)
{
    const struct kv_open_options options = {.memory_budget_bytes = BUDGET_BYTES,
                                            .blob_percent = 25,
                                            .retain_percent = percent,
                                            .no_background = true,
                                            .log = test_log_nothing,
                                            .device = faulty_device(faulty)};
    struct kv_error error = {""};
    const int err = kv_open("test", &options, &store, &error);
    ck_assert_msg(!err, "%s", error.text);
}

static void put_all(uint32_t version)
{
    static uint8_t value[VALUE_BYTES];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (uint32_t key = 0; key < KEYS; key++) {
        char name[24];
        test_fill(value, sizeof value, (uint64_t)version << 32 | key);
        ck_assert_int_eq(kv_batch_put(batch, name, test_number_key(name, key), value, sizeof value),
                         0);
        if (key % 500 != 499)
            continue;
        ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
        kv_batch_clear(batch);
    }
    kv_batch_free(batch);
    ck_assert_int_eq(kv_checkpoint(store), 0);
}

static void setup(void)
{
    faulty = faulty_new(memory_device_new(60000));
    test_create_on(faulty_device(faulty), 16384, KV_CODEC_NONE, 8u << 20);
    open_store(25);
    put_all(1);
}

static void teardown(void)
{
    ck_assert_int_eq(kv_close(store), 0);
    faulty_free(faulty);
}

static void get(uint64_t key)
{
    static uint8_t value[VALUE_BYTES];
    char name[24];
    size_t length;
    ck_assert_int_eq(kv_get(store, name, test_number_key(name, key), value, sizeof value, &length),
                     0);
}

static void get_range(uint64_t from, uint64_t to)
{
    for (uint64_t key = from; key < to; key++)
        get(key);
}

static void retain(uint64_t from, uint64_t to)
{
    char lower[24], upper[24];
    const size_t lower_len = test_number_key(lower, from), upper_len = test_number_key(upper, to);
    ck_assert_int_eq(kv_retain(store, lower, lower_len, upper, upper_len), 0);
}

static struct kv_stats stats(void)
{
    struct kv_stats now;
    kv_store_stats(store, &now);
    return now;
}

/* How many pages a read of the range takes from the device. */
static uint64_t pages_read(uint64_t from, uint64_t to)
{
    const uint64_t before = stats().page_misses;
    get_range(from, to);
    return stats().page_misses - before;
}

START_TEST(retained_keys_are_read_from_memory_after_all_others_were_read)
{
    retain(7000, 7300);
    for (unsigned round = 0; round < 3; round++) {
        get_range(8000, KEYS);
        get_range(0, 7000);
        ck_assert_uint_eq(pages_read(7000, 7300), 0);
    }
    ck_assert_uint_gt(pages_read(0, 6000), 0); /* the others were not */
    ck_assert_uint_gt(stats().retained_bytes, 300 * VALUE_BYTES);
    ck_assert_uint_le(stats().retained_bytes, stats().retained_max_bytes);
    ck_assert_uint_le(stats().retained_max_bytes, BUDGET_BYTES / 4);
}
END_TEST

START_TEST(they_stay_while_they_change_and_are_written)
{
    retain(7000, 7300);
    put_all(2); /* with values as long as before nothing splits */
    get_range(8000, KEYS);
    ck_assert_uint_eq(pages_read(7000, 7300), 0);
}
END_TEST

START_TEST(more_than_the_share_leaves_room_for_the_rest)
{
    for (uint64_t key = 0; key < KEYS; key += 200) {
        retain(key, key + 200);
        ck_assert_uint_le(stats().retained_bytes, stats().retained_max_bytes);
    }
    retain(0, 0); /* a key alone */
    get_range(1000, KEYS);
    ck_assert_uint_eq(pages_read(0, 1), 0);
    put_all(3);
}
END_TEST

START_TEST(without_a_share_nothing_is_retained)
{
    ck_assert_int_eq(kv_close(store), 0);
    open_store(0);
    retain(7000, 7300);
    ck_assert_uint_eq(stats().retained_bytes, 0);
    ck_assert_uint_eq(stats().retained_max_bytes, 0);
    get_range(8000, KEYS);
    ck_assert_uint_gt(pages_read(7000, 7300), 0);
}
END_TEST

START_TEST(a_share_that_makes_no_sense_is_refused)
{
    const struct kv_open_options options = {
        .retain_percent = 51, .log = test_log_nothing, .device = memory_device_new(1000)};
    struct kv_store *other;
    struct kv_error error = {""};
    ck_assert_int_eq(kv_open("test", &options, &other, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "51 percent"));
}
END_TEST

/* The loop index is the codec. */
START_TEST(blobs_that_are_retained_are_read_once)
{
    static uint8_t bytes[65536], back[65536];
    const struct kv_codec_spec spec = {_i ? KV_CODEC_LZ4 : KV_CODEC_NONE, 0};
    struct kv_blob_ref refs[200];
    struct kv_batch *const batch = kv_batch_new();
    size_t written;
    for (size_t i = 0; i < 200; i++) {
        char name[24];
        memset(bytes, (int)i, sizeof bytes);
        test_fill(bytes, sizeof bytes / 2, i);
        ck_assert_int_eq(kv_blob_write(store, bytes, sizeof bytes, &spec, &refs[i], &written), 0);
        ck_assert_uint_eq(written, sizeof bytes);
        ck_assert_int_eq(kv_batch_put_blob(batch, name, test_number_key(name, KEYS + i), NULL, 0,
                                           &refs[i], KV_BLOB_NEW),
                         0);
    }
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    kv_batch_free(batch);
    ck_assert_int_eq(kv_close(store), 0); /* nothing waits to be written any more */
    open_store(25);
    struct kv_blob_part part = {.ref = refs[0], .buf = back, .length = sizeof back, .retain = true};
    ck_assert_int_eq(kv_blob_read_many(store, &part, 1), 0);
    for (size_t i = 1; i < 200; i++) /* in parts, so that each is worth keeping */
        ck_assert_int_eq(kv_blob_read(store, &refs[i], 100, back, 1000), 0);
    const uint64_t before = stats().blob_reads;
    memset(back, 0, sizeof back);
    ck_assert_int_eq(kv_blob_read(store, &refs[0], 0, back, sizeof back), 0);
    ck_assert_uint_eq(stats().blob_reads, before);
    memset(bytes, 0, sizeof bytes);
    test_fill(bytes, sizeof bytes / 2, 0);
    ck_assert_mem_eq(back, bytes, sizeof back);
    ck_assert_int_eq(kv_blob_read(store, &refs[1], 0, back, sizeof back), 0);
    ck_assert_uint_eq(stats().blob_reads, before + 1);
    ck_assert_uint_ge(stats().retained_bytes, sizeof bytes);
}
END_TEST

/* ---- while everything else goes on --------------------------------------------------------------
 */

struct worker {
    pthread_t thread;
    struct test_random random;
    bool writes;
};

static void *work(void *context)
{
    static const uint32_t step_count = 1500;
    struct worker *const worker = context;
    uint8_t value[VALUE_BYTES];
    for (uint32_t i = 0; i < step_count; i++) {
        const uint64_t key = test_random_below(&worker->random, KEYS);
        char name[24];
        const size_t name_len = test_number_key(name, key);
        size_t length = 0;
        int err;
        if (worker->writes) { /* of other lengths, so that pages split and go */
            length = 1 + test_random_below(&worker->random, VALUE_BYTES);
            test_fill(value, length, key);
            err = i % 3 ? kv_put(store, name, name_len, value, length)
                        : kv_del(store, name, name_len);
        } else if (i % 2) {
            err = kv_retain(store, name, name_len, name, name_len);
        } else {
            err = kv_get(store, name, name_len, value, sizeof value, &length);
        }
        KV_ASSERT(!err || err == -ENOENT);
    }
    return NULL;
}

START_TEST(retaining_meets_readers_and_a_writer)
{
    struct worker workers[4];
    ck_assert_int_eq(kv_close(store), 0);
    open_store(50);
    ck_assert_int_eq(kv_start_background(store), 0);
    const struct kv_tiers tiers = {{12, 3, 10, 5}};
    ck_assert_int_eq(kv_set_tiers(store, &tiers), 0);
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){.writes = i == 0,
                                     .random = {.state = test_env("KVFS_SEED", 1) * 10 + i}};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
    ck_assert_uint_gt(stats().retained_bytes, 0);
    ck_assert_uint_le(stats().retained_bytes, stats().retained_max_bytes);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("retain");
    TCase *const tests = tcase_create("retain");
    tcase_set_timeout(tests, 300);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, retained_keys_are_read_from_memory_after_all_others_were_read);
    tcase_add_test(tests, they_stay_while_they_change_and_are_written);
    tcase_add_test(tests, more_than_the_share_leaves_room_for_the_rest);
    tcase_add_test(tests, without_a_share_nothing_is_retained);
    tcase_add_test(tests, a_share_that_makes_no_sense_is_refused);
    tcase_add_loop_test(tests, blobs_that_are_retained_are_read_once, 0, 2);
    tcase_add_test(tests, retaining_meets_readers_and_a_writer);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
