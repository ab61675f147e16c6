/*
 * tests/kv/test_arguments.c: what a caller gives that can not be: each is refused with -EINVAL by
 * whoever is given it first, in words where there is room for words, and changes nothing.
 */
#include "kv/format.h"
#include "kv/kv.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <unistd.h>

#define BLOCK_COUNT 32768u /* 128 MiB, with room for the largest value */

struct fixture {
    struct kv_device *device;
    struct kv_store *store;
    uint8_t too_long[KV_KEY_MAX + 1];
};

static void fixture_init(struct fixture *f)
{
    f->device = memory_device_new(BLOCK_COUNT);
    test_create_on(f->device, 4096, KV_CODEC_NONE, 32u << 20);
    f->store = test_open_on(f->device);
    memset(f->too_long, 'k', sizeof f->too_long);
}

/* No call that was refused has left anything. */
static void expect_empty(struct kv_store *store)
{
    struct kv_cursor *cursor = NULL;
    ck_assert_int_eq(kv_cursor_open(store, NULL, 0, NULL, 0, &cursor), 0);
    ck_assert_int_eq(kv_cursor_first(cursor), -ENOENT);
    kv_cursor_close(cursor);
}

/* ---- keys and values ------------------------------------------------------------------ */

START_TEST(lengths_out_of_range_are_refused)
{
    struct fixture f;
    struct kv_blob_ref ref = {{0}};
    size_t length = 0;
    char byte;
    uint8_t *const huge = calloc(1, KV_VALUE_MAX + 1);
    ck_assert_ptr_nonnull(huge);
    fixture_init(&f);

    ck_assert_int_eq(kv_put(f.store, f.too_long, 0, "v", 1), -EINVAL);
    ck_assert_int_eq(kv_put(f.store, f.too_long, sizeof f.too_long, "v", 1), -EINVAL);
    ck_assert_int_eq(kv_put(f.store, "k", 1, huge, KV_VALUE_MAX + 1), -EINVAL);
    ck_assert_int_eq(kv_del(f.store, f.too_long, 0), -EINVAL);
    ck_assert_int_eq(kv_del(f.store, f.too_long, sizeof f.too_long), -EINVAL);
    ck_assert_int_eq(kv_get(f.store, f.too_long, 0, &byte, 1, &length), -EINVAL);
    ck_assert_int_eq(kv_get(f.store, f.too_long, sizeof f.too_long, &byte, 1, &length), -EINVAL);
    ck_assert_int_eq(kv_blob_write(f.store, huge, 0, NULL, &ref, &length), -EINVAL);
    ck_assert_int_eq(kv_blob_write(f.store, huge, KV_BLOB_MAX + 1, NULL, &ref, &length), -EINVAL);
    expect_empty(f.store);

    /* The longest and the largest are taken. */
    huge[KV_VALUE_MAX - 1] = 'e';
    ck_assert_int_eq(kv_put(f.store, f.too_long, KV_KEY_MAX, huge, KV_VALUE_MAX), 0);
    ck_assert_int_eq(kv_get(f.store, f.too_long, KV_KEY_MAX, NULL, 0, &length), -ERANGE);
    ck_assert_uint_eq(length, KV_VALUE_MAX);
    memset(huge, 1, KV_VALUE_MAX);
    ck_assert_int_eq(kv_get(f.store, f.too_long, KV_KEY_MAX, huge, KV_VALUE_MAX, &length), 0);
    ck_assert_uint_eq(huge[0], 0);
    ck_assert_uint_eq(huge[KV_VALUE_MAX - 1], 'e');

    ck_assert_int_eq(kv_close(f.store), 0);
    free(huge);
}
END_TEST

START_TEST(a_batch_takes_no_operation_that_can_not_be)
{
    static const uint8_t huge[KV_VALUE_MAX + 1];
    struct fixture f;
    struct kv_blob_ref ref = {{0}};
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    fixture_init(&f);
    const size_t too_long = sizeof f.too_long;

    ck_assert_int_eq(kv_batch_put(batch, f.too_long, 0, "v", 1), -EINVAL);
    ck_assert_int_eq(kv_batch_put(batch, "k", 1, huge, KV_VALUE_MAX + 1), -EINVAL);
    ck_assert_int_eq(kv_batch_del(batch, f.too_long, too_long), -EINVAL);
    ck_assert_int_eq(kv_batch_del_range(batch, f.too_long, too_long, "z", 1), -EINVAL);
    ck_assert_int_eq(kv_batch_del_range(batch, "a", 1, f.too_long, too_long), -EINVAL);
    ck_assert_int_eq(kv_batch_patch(batch, f.too_long, 0, 0, "v", 1), -EINVAL);
    ck_assert_int_eq(kv_batch_patch(batch, f.too_long, too_long, 0, "v", 1), -EINVAL);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, KV_VALUE_MAX, "v", 1), -EINVAL);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, SIZE_MAX, "v", 1), -EINVAL);
    ck_assert_int_eq(kv_batch_patch(batch, "k", 1, 1, huge, KV_VALUE_MAX), -EINVAL);
    ck_assert_int_eq(kv_batch_put_blob(batch, f.too_long, 0, NULL, 0, &ref, KV_BLOB_NEW), -EINVAL);
    ck_assert_int_eq(kv_batch_put_blob(batch, f.too_long, too_long, NULL, 0, &ref, KV_BLOB_NEW),
                     -EINVAL);
    ck_assert_int_eq(
        kv_batch_put_blob(batch, "k", 1, huge, KV_BLOB_HEAD_MAX + 1, &ref, KV_BLOB_NEW), -EINVAL);
    ck_assert_int_eq(kv_batch_put_blob(batch, "k", 1, NULL, 0, &ref, (enum kv_blob_use)2), -EINVAL);
    ck_assert_uint_eq(kv_batch_count(batch), 0);

    /* What is left of it is empty, and may be applied. */
    ck_assert_int_eq(kv_apply(f.store, batch, 0, NULL), 0);
    expect_empty(f.store);
    kv_batch_free(batch);
    ck_assert_int_eq(kv_close(f.store), 0);
}
END_TEST

START_TEST(an_empty_patch_makes_an_empty_value_and_keeps_what_is_there)
{
    struct fixture f;
    char value[8];
    size_t length = 9;
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    fixture_init(&f);
    ck_assert_int_eq(kv_batch_put(batch, "b", 1, "bytes", 5), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "b", 1, 2, NULL, 0), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "a", 1, 0, NULL, 0), 0);
    /* A range that ends before the key, or begins behind it, is none of its changes. */
    ck_assert_int_eq(kv_batch_del_range(batch, "a", 1, "b", 1), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "b", 1, 0, "B", 1), 0);
    ck_assert_int_eq(kv_batch_put(batch, "c", 1, "gone", 4), 0);
    ck_assert_int_eq(kv_batch_del_range(batch, "c", 1, NULL, 0), 0);
    ck_assert_int_eq(kv_batch_patch(batch, "c", 1, 2, "c", 1), 0);
    ck_assert_int_eq(kv_apply(f.store, batch, 0, NULL), 0);
    ck_assert_int_eq(kv_get(f.store, "a", 1, value, sizeof value, &length), -ENOENT);
    ck_assert_int_eq(kv_get(f.store, "b", 1, value, sizeof value, &length), 0);
    ck_assert_uint_eq(length, 5);
    ck_assert_mem_eq(value, "Bytes", 5);
    ck_assert_int_eq(kv_get(f.store, "c", 1, value, sizeof value, &length), 0);
    ck_assert_uint_eq(length, 3);
    ck_assert_mem_eq(value, "\0\0c", 3);
    kv_batch_free(batch);
    ck_assert_int_eq(kv_close(f.store), 0);
}
END_TEST

/* ---- ranges ------------------------------------------------------------------------------ */

START_TEST(ranges_that_no_key_can_bound_are_refused)
{
    struct fixture f;
    struct kv_cursor *cursor = NULL;
    uint8_t found[KV_KEY_MAX];
    size_t found_len, length;
    uint64_t bytes_read = 7;
    fixture_init(&f);
    const size_t too_long = sizeof f.too_long;
    ck_assert_int_eq(kv_put(f.store, "key", 3, "value", 5), 0);

    ck_assert_int_eq(kv_cursor_open(f.store, f.too_long, too_long, NULL, 0, &cursor), -EINVAL);
    ck_assert_int_eq(kv_cursor_open(f.store, NULL, 0, f.too_long, too_long, &cursor), -EINVAL);
    ck_assert_int_eq(
        kv_get_floor(f.store, f.too_long, too_long, found, &found_len, NULL, 0, &length), -EINVAL);
    ck_assert_int_eq(kv_get_floor(f.store, "z", 1, found, &found_len, NULL, 0, &length), -ERANGE);
    ck_assert_uint_eq(found_len, 3);
    ck_assert_uint_eq(length, 5);
    ck_assert_int_eq(kv_retain(f.store, f.too_long, too_long, NULL, 0), -EINVAL);
    ck_assert_int_eq(kv_retain(f.store, NULL, 0, f.too_long, too_long), -EINVAL);
    ck_assert_int_eq(kv_prefetch(f.store, f.too_long, too_long, NULL, 0, 0, &bytes_read), -EINVAL);
    ck_assert_uint_eq(bytes_read, 0);
    ck_assert_int_eq(kv_prefetch(f.store, NULL, 0, f.too_long, too_long, 0, NULL), -EINVAL);
    ck_assert_int_eq(kv_prefetch(f.store, NULL, 0, NULL, 0, 0, NULL), 0);

    /* A cursor that is told to go where no key can be stays usable. */
    ck_assert_int_eq(kv_cursor_open(f.store, NULL, 0, NULL, 0, &cursor), 0);
    ck_assert_int_eq(kv_cursor_seek(cursor, f.too_long, too_long), -EINVAL);
    ck_assert_int_eq(kv_cursor_seek_before(cursor, f.too_long, too_long), -EINVAL);
    ck_assert_int_eq(kv_cursor_seek(cursor, "k", 1), 0);
    ck_assert_mem_eq(kv_cursor_key(cursor, &length), "key", 3);
    kv_cursor_close(cursor);
    ck_assert_int_eq(kv_close(f.store), 0);
}
END_TEST

/* ---- options ----------------------------------------------------------------------------- */

static void expect_option_refused(struct kv_open_options options, const char *words)
{
    struct kv_store *store = NULL;
    struct kv_error error = {""};
    options.device = memory_device_new(4096); /* closed, whatever is said */
    ck_assert_int_eq(kv_open("image", &options, &store, &error), -EINVAL);
    ck_assert_ptr_null(store);
    ck_assert_msg(strstr(error.text, words) != NULL, "'%s' does not say '%s'", error.text, words);
}

START_TEST(options_that_can_not_be_are_told_with_the_most_there_may_be)
{
    expect_option_refused((struct kv_open_options){.memory_budget_bytes = 1u << 20}, "8388608");
    expect_option_refused((struct kv_open_options){.blob_percent = 76}, "75");
    expect_option_refused((struct kv_open_options){.retain_percent = 51}, "50");
    expect_option_refused((struct kv_open_options){.tiers = {{0, 0, 1, 1}}}, "ratios");
    ck_assert_str_eq(kv_codec_name(KV_CODEC_ZSTD), "zstd");
    ck_assert_str_eq(kv_codec_name(KV_CODEC_COUNT), "?");
}
END_TEST

/* ---- who does not ask for the log -------------------------------------------------------- */

static void flip_superblock(struct kv_device *device)
{
    uint8_t *const bytes = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_int_eq(kv_device_read(device, KV_SUPERBLOCK_B_BLOCK, 1, bytes), 0);
    bytes[80] ^= 1;
    ck_assert_int_eq(kv_device_write(device, KV_SUPERBLOCK_B_BLOCK, 1, bytes), 0);
    free(bytes);
}

START_TEST(without_a_log_function_warnings_go_to_standard_error_and_the_rest_nowhere)
{
    struct recorder *const recorder = recorder_new(memory_device_new(4096));
    struct kv_device *const device = recorder_device(recorder);
    const struct kv_open_options options = {
        .memory_budget_bytes = 8u << 20, .no_background = true, .device = device};
    struct kv_store *store;
    char text[1024] = "";
    int ends[2];
    test_create_on(device, 4096, KV_CODEC_NONE, 1u << 20);
    store = test_open_on(device);
    ck_assert_int_eq(test_put_number(store, 1, 100), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    kv_abandon(store); /* what is replayed is told, too, but not as a warning */
    flip_superblock(device);

    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    const int before = dup(STDERR_FILENO);
    ck_assert_int_ge(before, 0);
    ck_assert_int_ge(dup2(ends[1], STDERR_FILENO), 0);
    const int err = kv_open("image", &options, &store, NULL);
    ck_assert_int_ge(dup2(before, STDERR_FILENO), 0);
    close(ends[1]);
    close(before);
    ck_assert_int_eq(err, 0);
    ck_assert_int_gt((int)read(ends[0], text, sizeof text - 1), 0);
    close(ends[0]);
    ck_assert_msg(strstr(text, "kvfs: warning: image: one superblock is") == text, "%s", text);
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
    ck_assert_int_eq(kv_close(store), 0);
    recorder_free(recorder);
}
END_TEST

START_TEST(only_what_a_repair_is_for_is_a_contradiction)
{
    static const int others[] = {0, -EIO, -ENOMEM, -ENOSPC, -EROFS, -ENOENT, -EINVAL, EUCLEAN};
    ck_assert(kv_error_is_contradiction(-EBADMSG));
    ck_assert(kv_error_is_contradiction(-EUCLEAN));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        ck_assert(!kv_error_is_contradiction(others[i]));
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("arguments");
    TCase *const tests = tcase_create("arguments");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, lengths_out_of_range_are_refused);
    tcase_add_test(tests, a_batch_takes_no_operation_that_can_not_be);
    tcase_add_test(tests, an_empty_patch_makes_an_empty_value_and_keeps_what_is_there);
    tcase_add_test(tests, ranges_that_no_key_can_bound_are_refused);
    tcase_add_test(tests, options_that_can_not_be_are_told_with_the_most_there_may_be);
    tcase_add_test(tests, only_what_a_repair_is_for_is_a_contradiction);
    tcase_add_test(tests,
                   without_a_log_function_warnings_go_to_standard_error_and_the_rest_nowhere);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
