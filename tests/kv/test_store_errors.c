/*
 * tests/kv/test_store_errors.c: what bad arguments, a full image, damaged content and a failing
 * device get of an open store: the right errno, and nothing else changed.
 */
#include "kv/device.h"
#include "kv/format.h"
#include "support_image.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <unistd.h>

static const struct kv_open_options quiet_alone = {
    .memory_budget_bytes = 8u << 20,
    .no_background = true,
    .log = test_log_nothing,
};

/* ---- what may not be asked for --------------------------------------------------------- */

START_TEST(blobs_are_read_and_shared_within_bounds)
{
    struct test_dir dir;
    struct kv_blob_ref ref;
    struct kv_blob_ref gone;
    size_t written = 0;
    static uint8_t bytes[50000];
    uint8_t byte;
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    struct kv_store *const store = image_open(&dir);

    test_fill(bytes, sizeof bytes, 3);
    ck_assert_int_eq(kv_blob_write(store, bytes, sizeof bytes, NULL, &ref, &written), 0);
    ck_assert_uint_eq(written, sizeof bytes);
    ck_assert_int_eq(kv_batch_put_blob(batch, "a", 1, "head", 4, &ref, KV_BLOB_NEW), 0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    ck_assert_int_eq(kv_blob_read(store, &ref, sizeof bytes, &byte, 1), -ERANGE);
    ck_assert_int_eq(kv_blob_read(store, &ref, SIZE_MAX, &byte, 2), -ERANGE);
    ck_assert_int_eq(kv_blob_read(store, &ref, sizeof bytes - 1, &byte, 1), 0);
    ck_assert_uint_eq(byte, bytes[sizeof bytes - 1]);

    /* Sharing what nothing holds fails, and takes the whole batch with it. */
    ck_assert_int_eq(kv_blob_write(store, bytes, 9000, NULL, &gone, &written), 0);
    kv_blob_discard(store, &gone);
    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_put(batch, "b", 1, "v", 1), 0);
    ck_assert_int_eq(kv_batch_put_blob(batch, "c", 1, NULL, 0, &gone, KV_BLOB_SHARED), 0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), -ENOENT);
    ck_assert_int_eq(kv_get(store, "b", 1, NULL, 0, &written), -ENOENT);
    ck_assert_int_eq(kv_get(store, "c", 1, NULL, 0, &written), -ENOENT);
    ck_assert_int_eq(kv_store_failure(store), 0);

    image_expect_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    kv_batch_free(batch);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_batch_too_big_for_the_log_is_refused_whole)
{
    const struct kv_create_options create = {.size_bytes = 64u << 20, .log_bytes = 1u << 20};
    struct test_dir dir;
    char key[16];
    size_t length = 0;
    static const uint8_t value[900];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    test_dir_make(&dir);
    ck_assert_int_eq(kv_create(dir.image, &create, NULL), 0);
    struct kv_store *const store = image_open(&dir);
    for (unsigned i = 0; i < 4000; i++)
        ck_assert_int_eq(kv_batch_put(batch, key, image_number_key(key, i), value, sizeof value),
                         0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), -E2BIG);
    ck_assert_int_eq(kv_get(store, key, image_number_key(key, 0), NULL, 0, &length), -ENOENT);
    ck_assert_int_eq(kv_get(store, key, image_number_key(key, 3999), NULL, 0, &length), -ENOENT);

    kv_batch_clear(batch);
    ck_assert_int_eq(kv_batch_put(batch, "k", 1, value, sizeof value), 0);
    ck_assert_int_eq(kv_apply(store, batch, KV_APPLY_SYNC, NULL), 0);
    image_expect_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    kv_batch_free(batch);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_read_only_store_changes_nothing)
{
    struct kv_open_options options = image_quiet;
    struct test_dir dir;
    struct kv_store *store;
    struct kv_blob_ref ref;
    size_t length;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    store = image_open(&dir);
    for (unsigned i = 0; i < 300; i++)
        ck_assert_int_eq(image_put_number(store, i, 100), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    kv_abandon(store); /* the log is needed */
    const uint64_t before = image_file_digest(dir.image);

    options.read_only = true;
    ck_assert_int_eq(kv_open(dir.image, &options, &store, NULL), 0);
    for (unsigned i = 0; i < 300; i++)
        ck_assert_int_eq(image_get_number(store, i, 100), 0);
    ck_assert_int_eq(image_put_number(store, 1, 10), -EROFS);
    ck_assert_int_eq(kv_del(store, "k", 1), -EROFS);
    ck_assert_int_eq(kv_blob_write(store, "bytes", 5, NULL, &ref, &length), -EROFS);
    ck_assert_int_eq(kv_close(store), 0);
    ck_assert_uint_eq(image_file_digest(dir.image), before);
    test_dir_remove(&dir);
}
END_TEST

/* ---- a full image --------------------------------------------------------------------------- */

static unsigned fill_up(struct kv_store *store, size_t value_len)
{
    unsigned count = 0;
    int err;
    while ((err = image_put_number(store, count, value_len)) == 0)
        count++;
    ck_assert_int_eq(err, -ENOSPC);
    return count;
}

static void delete_numbers(struct kv_store *store, unsigned count)
{
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (unsigned i = 0; i < count; i++) {
        char key[16];
        kv_batch_clear(batch);
        ck_assert_int_eq(kv_batch_del(batch, key, image_number_key(key, i)), 0);
        ck_assert_int_eq(kv_apply(store, batch, KV_APPLY_URGENT, NULL), 0);
    }
    kv_batch_free(batch);
}

START_TEST(a_full_image_takes_deletions_and_gives_the_space_back)
{
    static const size_t sizes[] = {100, 900, 20000, 300000};
    const size_t value_len = sizes[_i];
    struct test_dir dir;
    struct kv_stats at_first;
    struct kv_stats at_last;
    test_dir_make(&dir);
    image_make(&dir, KV_IMAGE_BYTES_MIN);
    struct kv_store *store = image_open(&dir);
    kv_store_stats(store, &at_first);

    const unsigned count = fill_up(store, value_len);
    ck_assert_uint_gt(count * (value_len + 100), at_first.available_bytes / 2);
    ck_assert_int_eq(kv_store_failure(store), 0);
    for (unsigned i = 0; i < count; i += 1 + count / 500)
        ck_assert_int_eq(image_get_number(store, i, value_len), 0);
    ck_assert_int_eq(image_get_number(store, count, value_len), -ENOENT);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);

    /* Full as it is, it can be closed and opened. */
    ck_assert_int_eq(kv_close(store), 0);
    store = image_open(&dir);
    ck_assert_int_eq(image_get_number(store, count - 1, value_len), 0);
    image_expect_clean(store);

    delete_numbers(store, count);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    kv_store_stats(store, &at_last);
    ck_assert_uint_ge(at_last.free_bytes + (256u << 10), at_first.free_bytes);

    const unsigned again = fill_up(store, value_len);
    ck_assert_uint_ge(again + again / 5, count);
    delete_numbers(store, again);
    image_expect_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

/* ---- a failing device ------------------------------------------------------------------------ */

/* Passes everything on to the device below until it is told to fail. */
struct faulty {
    struct kv_device base;
    struct kv_device *below;
    bool fail_reads; /* atomic, as the next two */
    bool fail_writes;
    bool fail_flushes;
    int read_error;        /* of one thread: what reads say after so many; 0: they go through */
    unsigned reads_before; /* read_error */
};

/* Is this read one of those that have their own error? */
static bool has_read_error(struct faulty *faulty, const struct kv_io *io)
{
    if (io->kind != KV_IO_READ || !faulty->read_error)
        return false;
    if (!faulty->reads_before)
        return true;
    faulty->reads_before--;
    return false;
}

static int faulty_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct faulty *const faulty = (struct faulty *)device;
    int first_err = 0;
    for (size_t i = 0; i < io_count; i++) {
        const bool *const fails =
            ios[i].kind == KV_IO_READ ? &faulty->fail_reads : &faulty->fail_writes;
        ios[i].result = has_read_error(faulty, &ios[i]) ? faulty->read_error
                        : __atomic_load_n(fails, __ATOMIC_RELAXED)
                            ? -EIO
                            : kv_device_submit(faulty->below, &ios[i], 1, false);
        if (ios[i].result && !first_err)
            first_err = ios[i].result;
    }
    if (first_err || !flush)
        return first_err;
    if (__atomic_load_n(&faulty->fail_flushes, __ATOMIC_RELAXED))
        return -EIO;
    return kv_device_flush(faulty->below);
}

static int faulty_discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct faulty *const faulty = (struct faulty *)device;
    return kv_device_discard(faulty->below, block, block_count);
}

static void faulty_close(struct kv_device *device)
{
    struct faulty *const faulty = (struct faulty *)device;
    kv_device_close(faulty->below);
    free(faulty);
}

static struct faulty *faulty_open(const struct test_dir *dir)
{
    static const struct kv_device_ops ops = {
        .submit = faulty_submit, .discard = faulty_discard, .close = faulty_close};
    struct faulty *const faulty = calloc(1, sizeof *faulty);
    ck_assert_ptr_nonnull(faulty);
    ck_assert_int_eq(kv_device_open(dir->image, 0, &faulty->below, NULL), 0);
    faulty->base.ops = &ops;
    faulty->base.block_count = faulty->below->block_count;
    faulty->base.direct_io = faulty->below->direct_io;
    return faulty;
}

static struct kv_store *open_faulty(const struct test_dir *dir, struct faulty **faulty)
{
    struct kv_open_options options = quiet_alone;
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    *faulty = faulty_open(dir);
    options.device = &(*faulty)->base;
    const int err = kv_open(dir->image, &options, &store, &error);
    ck_assert_msg(err == 0, "open: %s: %s", strerror(-err), error.text);
    return store;
}

static void set_fault(bool *which, bool fails)
{
    __atomic_store_n(which, fails, __ATOMIC_RELAXED);
}

/* After a failed write or flush: every promise is refused, what is there can be read. */
static void expect_turned_read_only(struct kv_store *store, unsigned count)
{
    ck_assert_int_eq(kv_store_failure(store), -EIO);
    ck_assert_int_eq(kv_sync(store), -EIO);
    ck_assert_int_eq(image_put_number(store, 100000, 10), -EROFS);
    ck_assert_int_lt(kv_checkpoint(store), 0);
    for (unsigned i = 0; i < count; i += 7)
        ck_assert_int_eq(image_get_number(store, i, 500), 0);
}

START_TEST(a_failed_write_or_flush_turns_the_store_read_only)
{
    const bool by_flush = _i % 2;
    const bool in_checkpoint = _i / 2;
    const unsigned count = 400;
    struct test_dir dir;
    struct faulty *faulty;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    struct kv_store *store = open_faulty(&dir, &faulty);
    bool *const which = by_flush ? &faulty->fail_flushes : &faulty->fail_writes;
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(image_put_number(store, i, 500), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    ck_assert_int_eq(image_put_number(store, count, 500), 0);

    set_fault(which, true);
    const int err = in_checkpoint ? kv_checkpoint(store) : kv_sync(store);
    ck_assert_int_eq(err, -EIO);
    expect_turned_read_only(store, count);
    /* The device is well again, but what it lost is lost: nothing is promised any more. */
    set_fault(which, false);
    expect_turned_read_only(store, count);
    ck_assert_int_lt(kv_close(store), 0);

    store = image_open(&dir);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(image_get_number(store, i, 500), 0);
    image_expect_clean(store);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_failed_read_fails_that_read_only)
{
    const unsigned count = 20000; /* more than the budget holds */
    struct test_dir dir;
    struct faulty *faulty;
    unsigned failed = 0;
    test_dir_make(&dir);
    image_make(&dir, 128u << 20);
    struct kv_store *store = image_open(&dir);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(image_put_number(store, i, 700), 0);
    ck_assert_int_eq(kv_close(store), 0);

    store = open_faulty(&dir, &faulty);
    set_fault(&faulty->fail_reads, true);
    for (unsigned i = 0; i < count; i += 50) {
        const int err = image_get_number(store, i, 700);
        ck_assert(err == 0 || err == -EIO);
        failed += err != 0;
    }
    ck_assert_uint_gt(failed, 0);
    ck_assert_int_eq(kv_store_failure(store), 0);
    set_fault(&faulty->fail_reads, false);
    for (unsigned i = 0; i < count; i += 50)
        ck_assert_int_eq(image_get_number(store, i, 700), 0);
    ck_assert_int_eq(image_put_number(store, count, 700), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

/* Words that send nobody to mend what may be whole. */
static void expect_no_word_of_damage(const struct kv_error *error, const char *name)
{
    image_expect_words(error, name);
    ck_assert_msg(!strstr(error->text, "damage") && !strstr(error->text, "fsck"), "%s",
                  error->text);
}

START_TEST(what_can_not_be_read_is_not_called_damaged)
{
    /* Given a sound image with a log to be replayed, */
    static const int errors[] = {-ENOMEM, -EIO, -EAGAIN};
    const int wanted = errors[_i];
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    struct kv_store *store = image_open(&dir);
    for (unsigned i = 0; i < 400; i++)
        ck_assert_int_eq(image_put_number(store, i, 500), 0);
    ck_assert_int_eq(kv_checkpoint(store), 0);
    for (unsigned i = 0; i < 400; i++)
        ck_assert_int_eq(image_put_number(store, i, 500), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    kv_abandon(store);

    /* when reads fail from some point on for reasons that are not the image's, */
    unsigned reads = 0;
    for (int err = 1; err; reads++) {
        struct kv_open_options options = quiet_alone;
        struct kv_error error = {{0}};
        struct faulty *faulty = faulty_open(&dir);
        faulty->read_error = wanted;
        faulty->reads_before = reads;
        options.device = &faulty->base;
        options.read_only = true;
        err = kv_open(dir.image, &options, &store, &error);
        if (err) { /* then that is said. */
            ck_assert_msg(err == wanted, "after %u reads: %s", reads, error.text);
            expect_no_word_of_damage(&error, dir.image);
        }
    }
    ck_assert_uint_gt(reads, 5);
    kv_abandon(store);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(a_budget_beyond_all_bounds_is_not_the_images_damage)
{
    struct test_dir dir;
    test_dir_make(&dir);
    image_make(&dir, IMAGE_BYTES);
    struct kv_open_options options = quiet_alone;
    options.memory_budget_bytes = 1ull << 60;
    struct kv_store *store = NULL;
    struct kv_error error = {{0}};
    ck_assert_int_eq(kv_open(dir.image, &options, &store, &error), -EINVAL);
    expect_no_word_of_damage(&error, dir.image);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(damaged_content_is_said_and_the_rest_goes_on)
{
    const size_t length = 200000;
    const struct kv_create_options create = {.size_bytes = IMAGE_BYTES};
    struct test_dir dir;
    test_dir_make(&dir);
    ck_assert_int_eq(kv_create(dir.image, &create, NULL), 0);
    struct kv_store *store = image_open(&dir);
    ck_assert_int_eq(image_put_number(store, 1, length), 0);
    ck_assert_int_eq(image_put_number(store, 2, length), 0);
    ck_assert_int_eq(kv_close(store), 0);

    /* Random bytes do not pack, so the value's beginning lies somewhere as it is. */
    const uint64_t image_bytes = image_file_bytes(dir.image);
    uint8_t *const bytes = malloc(image_bytes);
    ck_assert_ptr_nonnull(bytes);
    image_read_file(dir.image, 0, bytes, image_bytes);
    struct test_random random = {1};
    uint8_t start[64];
    for (size_t i = 0; i < sizeof start; i++)
        start[i] = (uint8_t)test_random_next(&random);
    const uint8_t *const found = memmem(bytes, image_bytes, start, sizeof start);
    ck_assert_ptr_nonnull(found);
    const uint8_t flipped = (uint8_t)(found[5000] ^ 1);
    image_write_file(dir.image, (uint64_t)(found - bytes) + 5000, &flipped, 1);
    free(bytes);

    store = image_open(&dir);
    ck_assert_int_eq(image_get_number(store, 1, length), -EBADMSG);
    ck_assert_int_eq(image_get_number(store, 2, length), 0);
    ck_assert_int_eq(image_put_number(store, 3, 100), 0);
    struct kv_check_result result;
    ck_assert_uint_gt(test_check(store, &result), 0);
    ck_assert_uint_gt(result.damaged, 0);
    ck_assert_int_eq(image_put_number(store, 1, 100), 0);
    ck_assert_int_eq(image_get_number(store, 1, 100), 0);
    ck_assert_int_eq(kv_close(store), 0);
    test_dir_remove(&dir);
}
END_TEST

static Suite *store_suite(void)
{
    Suite *const suite = suite_create("store errors");
    TCase *const arguments = tcase_create("arguments");
    tcase_set_timeout(arguments, 120);
    tcase_add_test(arguments, blobs_are_read_and_shared_within_bounds);
    tcase_add_test(arguments, a_batch_too_big_for_the_log_is_refused_whole);
    tcase_add_test(arguments, a_read_only_store_changes_nothing);
    suite_add_tcase(suite, arguments);

    TCase *const space = tcase_create("space");
    tcase_set_timeout(space, 300);
    tcase_add_loop_test(space, a_full_image_takes_deletions_and_gives_the_space_back, 0, 4);
    suite_add_tcase(suite, space);

    TCase *const device = tcase_create("device");
    tcase_set_timeout(device, 120);
    tcase_add_loop_test(device, a_failed_write_or_flush_turns_the_store_read_only, 0, 4);
    tcase_add_test(device, a_failed_read_fails_that_read_only);
    tcase_add_loop_test(device, what_can_not_be_read_is_not_called_damaged, 0, 3);
    tcase_add_test(device, a_budget_beyond_all_bounds_is_not_the_images_damage);
    tcase_add_test(device, damaged_content_is_said_and_the_rest_goes_on);
    suite_add_tcase(suite, device);
    return suite;
}

int main(void)
{
    return test_run(store_suite());
}
