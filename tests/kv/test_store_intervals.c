/*
 * tests/kv/test_store_intervals.c: what kv_open_options say about time and log: checkpoints come by
 * themselves, and a log buffer of any size loses nothing.
 */
#include <time.h>

#include "kv/format.h"
#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"
#include "tests/run.h"

#define IMAGE_BLOCKS (2 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define PATIENCE_MS  60000u

static uint64_t checkpoints_of(struct kv_store *store)
{
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    return stats.checkpoints;
}

static void pause_a_moment(void)
{
    const struct timespec moment = {.tv_nsec = 1000000};
    (void)nanosleep(&moment, NULL);
}

START_TEST(a_checkpoint_comes_when_its_interval_is_over)
{
    struct kv_device *const device = memory_device_new(IMAGE_BLOCKS);
    struct kv_store *store;
    const struct kv_open_options options = {
        .commit_interval_ms = 3600000, .checkpoint_interval_ms = 20, .device = device};
    test_create_on(device, 4096, KV_CODEC_NONE, 0);
    ck_assert_int_eq(kv_open("x", &options, &store, NULL), 0);

    for (uint64_t round = 0; round < 3; round++) {
        const uint64_t before = checkpoints_of(store);
        ck_assert_int_eq(test_put_number(store, round, 100), 0);
        unsigned waited_ms = 0;
        while (checkpoints_of(store) == before && waited_ms++ < PATIENCE_MS)
            pause_a_moment();
        ck_assert_uint_gt(checkpoints_of(store), before);
    }
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

START_TEST(what_was_never_flushed_is_there_after_the_checkpoint)
{
    struct recorder *const recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    struct kv_store *store;
    const struct kv_open_options options = {.sync = KV_SYNC_CHECKPOINT,
                                            .checkpoint_interval_ms = 20,
                                            .device = recorder_device(recorder)};
    test_create_on(recorder_device(recorder), 4096, KV_CODEC_NONE, 0);
    ck_assert_int_eq(kv_open("x", &options, &store, NULL), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0); /* nothing is left that would ask for another */
    const uint64_t before = checkpoints_of(store);
    ck_assert_int_eq(test_put_number(store, 7, 100), 0);
    for (unsigned waited_ms = 0; checkpoints_of(store) == before && waited_ms < PATIENCE_MS;
         waited_ms++)
        pause_a_moment();
    ck_assert_uint_gt(checkpoints_of(store), before);

    kv_abandon(store);

    store = test_open_on(recorder_device(recorder));
    ck_assert_int_eq(test_get_number(store, 7, 100), 0);
    ck_assert_int_eq(kv_close(store), 0);
    recorder_free(recorder);
}
END_TEST

/* Records of many sizes, up to several times the buffer, survive a crash right after a sync. */
START_TEST(a_log_buffer_of_any_size_loses_nothing)
{
    static const uint32_t sizes[] = {1, 4096, 64u << 10, 256u << 10, 16u << 20};
    struct kv_device *const device = memory_device_new(8 * IMAGE_BLOCKS);
    struct recorder *const recorder = recorder_new(device);
    struct kv_store *store;
    const struct kv_open_options options = {.commit_interval_ms = 3600000,
                                            .checkpoint_interval_ms = 3600000,
                                            .log_buffer_bytes = sizes[_i],
                                            .device = recorder_device(recorder)};
    test_create_on(recorder_device(recorder), 4096, KV_CODEC_NONE, 8u << 20);
    ck_assert_int_eq(kv_open("x", &options, &store, NULL), 0);
    const uint64_t count = 600;
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (uint64_t number = 0; number < count; number++)
        ck_assert_int_eq(test_put_number(store, number, number * 13 % 1000), 0);
    static unsigned char value[900];
    memset(value, 0x6b, sizeof value);
    for (unsigned i = 0; i < 500; i++) { /* one record of 450 KB */
        char key[16];
        const int length = snprintf(key, sizeof key, "batch%06u", i);
        ck_assert_int_eq(kv_batch_put(batch, key, (size_t)length, value, sizeof value), 0);
    }
    ck_assert_int_eq(kv_apply(store, batch, KV_APPLY_SYNC, NULL), 0);
    kv_batch_free(batch);

    kv_abandon(store);

    store = test_open_on(recorder_device(recorder));
    for (uint64_t number = 0; number < count; number++)
        ck_assert_int_eq(test_get_number(store, number, number * 13 % 1000), 0);
    size_t value_len;
    ck_assert_int_eq(kv_get(store, "batch000499", 11, value, sizeof value, &value_len), 0);
    ck_assert_uint_eq(value_len, sizeof value);
    ck_assert_int_eq(kv_close(store), 0);
    recorder_free(recorder);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("store_intervals");
    TCase *const intervals = tcase_create("intervals");
    tcase_set_timeout(intervals, 300);
    tcase_add_test(intervals, a_checkpoint_comes_when_its_interval_is_over);
    tcase_add_test(intervals, what_was_never_flushed_is_there_after_the_checkpoint);
    tcase_add_loop_test(intervals, a_log_buffer_of_any_size_loses_nothing, 0, 5);
    suite_add_tcase(suite, intervals);
    return test_run(suite);
}
