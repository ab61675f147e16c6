/*
 * tests/kv/test_metrics.c: what a store notes of its work, while it is asked to.
 */
#include <check.h>
#include <string.h>

#include "kv/histogram.h"
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#define IMAGE_BLOCKS (2 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

static struct recorder *recorder; /* its device outlives a store */
static struct kv_device *device;
static struct kv_store *store;
static struct kv_histogram histogram;

static void setup(void)
{
    recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    device = recorder_device(recorder);
    test_create_on(device, 0, KV_CODEC_LZ4, 0);
    store = test_open_on(device);
}

static void teardown(void)
{
    ck_assert_int_eq(kv_close(store), 0);
    recorder_free(recorder);
}

static const struct kv_histogram *read_histogram(enum kv_histogram_id id)
{
    kv_store_histogram(store, id, &histogram);
    return &histogram;
}

static void put_numbers(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        ck_assert_int_eq(test_put_number(store, i, 300), 0);
}

START_TEST(nothing_is_noted_unless_it_is_asked_for)
{
    put_numbers(100);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    for (unsigned id = 0; id < KV_HISTOGRAM_COUNT; id++)
        ck_assert_uint_eq(read_histogram((enum kv_histogram_id)id)->count, 0);
}
END_TEST

START_TEST(each_category_notes_its_own)
{
    static const struct {
        unsigned category;
        enum kv_histogram_id first, last;
    } rows[] = {
        {KV_METRIC_IO, KV_HISTOGRAM_DEVICE_READ, KV_HISTOGRAM_DEVICE_FLUSH},
        {KV_METRIC_WAL, KV_HISTOGRAM_LOG_FLUSH, KV_HISTOGRAM_CHECKPOINT_BYTES},
        {KV_METRIC_CODEC, KV_HISTOGRAM_PACK_NONE, KV_HISTOGRAM_UNPACK_ZSTD},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t before[KV_HISTOGRAM_COUNT], own = 0;
        for (unsigned id = 0; id < KV_HISTOGRAM_COUNT; id++)
            before[id] = read_histogram((enum kv_histogram_id)id)->count;
        kv_set_metrics(store, rows[i].category);
        put_numbers(50);
        ck_assert_int_eq(kv_sync(store), 0);
        ck_assert_int_eq(kv_checkpoint(store), 0);
        kv_set_metrics(store, 0);
        for (unsigned id = 0; id < KV_HISTOGRAM_COUNT; id++) {
            const uint64_t more = read_histogram((enum kv_histogram_id)id)->count - before[id];
            const bool is_own = id >= rows[i].first && id <= rows[i].last;
            own += is_own ? more : 0;
            ck_assert_msg(is_own || !more, "category %u also noted %u", rows[i].category, id);
        }
        ck_assert_uint_gt(own, 0);
    }
}
END_TEST

START_TEST(a_flush_of_the_log_knows_how_many_batches_it_made_durable)
{
    kv_set_metrics(store, KV_METRIC_WAL | KV_METRIC_IO);
    ck_assert_int_eq(kv_sync(store), 0);
    const uint64_t flushes = read_histogram(KV_HISTOGRAM_LOG_FLUSH)->count;
    const uint64_t batches = read_histogram(KV_HISTOGRAM_LOG_GROUP)->sum;
    put_numbers(37);
    ck_assert_int_eq(kv_sync(store), 0);
    put_numbers(5);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert_uint_eq(read_histogram(KV_HISTOGRAM_LOG_FLUSH)->count, flushes + 2);
    ck_assert_uint_eq(read_histogram(KV_HISTOGRAM_LOG_GROUP)->sum, batches + 42);
    ck_assert_uint_eq(histogram.max, 37);
    ck_assert_uint_ge(read_histogram(KV_HISTOGRAM_DEVICE_FLUSH)->count, 2);
}
END_TEST

START_TEST(a_checkpoint_knows_what_it_wrote)
{
    struct kv_stats before, after;
    kv_set_metrics(store, KV_METRIC_WAL | KV_METRIC_CODEC);
    kv_store_stats(store, &before);
    put_numbers(500);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    kv_store_stats(store, &after);
    ck_assert_uint_eq(read_histogram(KV_HISTOGRAM_CHECKPOINT)->count, 1);
    ck_assert_uint_eq(read_histogram(KV_HISTOGRAM_CHECKPOINT_BYTES)->count, 1);
    ck_assert_uint_eq(histogram.sum, after.checkpoint_bytes - before.checkpoint_bytes);
    const uint64_t pages = after.page_write_bytes - before.page_write_bytes;
    ck_assert_uint_gt(pages, 0);
    ck_assert_uint_gt(histogram.sum, pages); /* and the page map */
    ck_assert_uint_le(histogram.sum, after.device_write_bytes - before.device_write_bytes);

    uint64_t raw = 0, stored = 0;
    for (unsigned codec = 0; codec <= KV_CODEC_ZSTD; codec++) {
        raw += after.packed_raw_bytes[codec];
        stored += after.packed_stored_bytes[codec];
    }
    ck_assert_uint_eq(raw, (after.page_writes - before.page_writes) * store->node_bytes);
    ck_assert_uint_le(stored, raw);
    ck_assert_uint_le(stored, pages); /* which are whole blocks */
}
END_TEST

START_TEST(what_is_read_back_is_counted_as_unpacked)
{
    struct kv_stats stats;
    put_numbers(2000);
    ck_assert_int_eq(kv_close(store), 0);
    store = test_open_on(device);
    kv_set_metrics(store, KV_METRIC_CODEC | KV_METRIC_IO);
    ck_assert_int_eq(test_get_number(store, 1000, 300), 0);
    kv_store_stats(store, &stats);
    const uint64_t unpacked =
        stats.unpacked_bytes[KV_CODEC_NONE] + stats.unpacked_bytes[KV_CODEC_LZ4];
    ck_assert_uint_ge(unpacked, store->node_bytes);
    ck_assert_uint_eq(unpacked % store->node_bytes, 0);
    ck_assert_uint_gt(read_histogram(KV_HISTOGRAM_DEVICE_READ)->count, 0);
}
END_TEST

START_TEST(free_space_says_how_far_it_is_cut_up)
{
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    ck_assert_uint_le(stats.free_whole_bytes, stats.free_bytes);
    ck_assert_uint_gt(stats.free_whole_bytes, 0);
    ck_assert_uint_gt(stats.free_longest_bytes, 0);
    ck_assert_uint_le(stats.free_longest_bytes, stats.total_bytes);
    ck_assert(!stats.host_is_full);
}
END_TEST

START_TEST(the_commit_interval_can_change_while_threads_run)
{
    ck_assert_int_eq(kv_start_background(store), 0);
    ck_assert_int_eq(kv_set_commit_interval(store, 0), -EINVAL);
    ck_assert_int_eq(kv_set_commit_interval(store, 10), 0);
    put_numbers(10);
    const uint64_t position = kv_wal_position(store->wal);
    struct kv_stats stats;
    do /* the interval of before was a second; the time does not matter, that it happens does */
        kv_store_stats(store, &stats);
    while (!stats.log_flushes);
    ck_assert_uint_ge(position, 1);
    ck_assert_int_eq(kv_set_commit_interval(store, 3600000), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("metrics");
    TCase *tcase = tcase_create("metrics");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, nothing_is_noted_unless_it_is_asked_for);
    tcase_add_test(tcase, each_category_notes_its_own);
    tcase_add_test(tcase, a_flush_of_the_log_knows_how_many_batches_it_made_durable);
    tcase_add_test(tcase, a_checkpoint_knows_what_it_wrote);
    tcase_add_test(tcase, what_is_read_back_is_counted_as_unpacked);
    tcase_add_test(tcase, free_space_says_how_far_it_is_cut_up);
    tcase_add_test(tcase, the_commit_interval_can_change_while_threads_run);
    suite_add_tcase(suite, tcase);

    return test_run(suite);
}
