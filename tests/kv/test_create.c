/*
 * tests/kv/test_create.c: images of all sizes, and images that could not be made.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIN_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

static uint64_t seed_start;

/* Use a fresh image a little. */
static void try_out(struct kv_device *device)
{
    struct kv_check_result result;
    struct kv_stats stats;
    struct kv_store *store = test_open_on(device);
    kv_store_stats(store, &stats);
    ck_assert_uint_gt(stats.available_bytes, 0);
    ck_assert_uint_le(stats.available_bytes, stats.free_bytes);
    ck_assert_uint_le(stats.free_bytes, stats.total_bytes);
    ck_assert_uint_le(stats.total_bytes, device->block_count * KV_BLOCK_BYTES);
    ck_assert_uint_eq(stats.page_count, 2); /* two empty trees */
    for (unsigned i = 0; i < 100; i++)
        ck_assert_int_eq(test_put_number(store, i, i * 50), 0);
    ck_assert_int_eq(kv_sync(store), 0);
    kv_abandon(store);
    store = test_open_on(device);
    for (unsigned i = 0; i < 100; i++)
        ck_assert_int_eq(test_get_number(store, i, i * 50), 0);
    ck_assert_uint_eq(test_check(store, &result), 0);
    ck_assert_int_eq(kv_close(store), 0);
}

START_TEST(images_of_every_size_work)
{
    struct test_random random = {seed_start};
    static const uint64_t edges[] = {MIN_BLOCKS,
                                     MIN_BLOCKS + 1,
                                     MIN_BLOCKS + 15,
                                     3 * MIN_BLOCKS - 1,
                                     KV_GROUP_BLOCKS,
                                     KV_GROUP_BLOCKS + 40000,
                                     2 * KV_GROUP_BLOCKS + 70000};
    for (unsigned i = 0; i < 24; i++) {
        const uint64_t blocks = i < 7 ? edges[i] : MIN_BLOCKS + test_random_below(&random, 30000);
        const uint32_t node_bytes = 4096u << test_random_below(&random, 5);
        const uint64_t log_bytes =
            i % 2 ? 0 : KV_LOG_BYTES_MIN + test_random_below(&random, 7u << 20);
        struct recorder *const recorder = recorder_new(memory_device_new(blocks));
        test_create_on(recorder_device(recorder), node_bytes,
                       (enum kv_codec)test_random_below(&random, 3), log_bytes);
        try_out(recorder_device(recorder));
        recorder_free(recorder);
    }
}
END_TEST

static int create_on(struct kv_device *device, struct kv_create_options options)
{
    struct kv_error error = {""};
    const int err = kv_create_on_device(device, &options, &error);
    ck_assert(err == 0 || err == -EIO || error.text[0]);
    return err;
}

START_TEST(what_does_not_fit_is_refused)
{
    static const uint64_t too_small[] = {1, 100, 512, 600, MIN_BLOCKS - 1};
    for (size_t i = 0; i < sizeof too_small / sizeof too_small[0]; i++) {
        struct kv_device *const device = memory_device_new(too_small[i]);
        ck_assert_int_eq(create_on(device, (struct kv_create_options){0}), -ENOSPC);
        kv_device_close(device);
    }
    struct kv_device *const device = memory_device_new(MIN_BLOCKS);
    ck_assert_int_eq(create_on(device, (struct kv_create_options){.log_bytes = 4096}), -EINVAL);
    ck_assert_int_eq(create_on(device, (struct kv_create_options){.log_bytes = 15u << 20}),
                     -ENOSPC);
    ck_assert_int_eq(create_on(device, (struct kv_create_options){.log_bytes = 1ull << 60}),
                     -ENOSPC);
    ck_assert_int_eq(create_on(device, (struct kv_create_options){.codec = {KV_CODEC_LZ4, 20}}),
                     -EINVAL);
    kv_device_close(device);
}
END_TEST

START_TEST(what_is_not_empty_is_left_alone_without_force)
{
    struct kv_device *const device = memory_device_new(MIN_BLOCKS);
    uint8_t *const block = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(block);
    block[1000] = 1;
    ck_assert_int_eq(kv_device_write(device, 5, 1, block), 0);
    ck_assert_int_eq(create_on(device, (struct kv_create_options){0}), -EEXIST);
    ck_assert_int_eq(create_on(device, (struct kv_create_options){.force = true}), 0);
    ck_assert_int_eq(create_on(device, (struct kv_create_options){0}), -EEXIST);
    free(block);
    kv_device_close(device);
}
END_TEST

/* Each write and flush fails in turn: there is an error, and no image until the very end. */
START_TEST(an_unfinished_image_is_no_image)
{
    bool made = false;
    for (uint64_t after = 0; !made; after++) {
        struct faulty *const faulty = faulty_new(memory_device_new(MIN_BLOCKS));
        struct kv_disk_superblock superblock;
        enum kv_superblock_twin twin;
        faulty_arm(faulty, (struct fault){.targets = FAULT_WRITES | FAULT_FLUSHES,
                                          .after = after,
                                          .lasting = true,
                                          .error = -EIO});
        const int err = create_on(faulty_device(faulty),
                                  (struct kv_create_options){.log_bytes = KV_LOG_BYTES_MIN});
        made = err == 0;
        ck_assert(made || err == -EIO);
        faulty_arm(faulty, (struct fault){0});
        const int read_err =
            kv_superblock_read(faulty_device(faulty), "image", true, &superblock, &twin, NULL);
        ck_assert(read_err == 0 || read_err == -EMEDIUMTYPE);
        ck_assert(!made || read_err == 0);
        if (read_err == 0) /* whoever has a superblock has everything */
            try_out(faulty_device(faulty));
        faulty_free(faulty);
        ck_assert_uint_lt(after, 1000);
    }
}
END_TEST

START_TEST(nothing_of_the_image_before_is_left)
{
    struct recorder *const recorder = recorder_new(memory_device_new(MIN_BLOCKS));
    struct kv_device *const device = recorder_device(recorder);
    for (unsigned round = 0; round < 3; round++) {
        const struct kv_create_options options = {.force = true, .log_bytes = KV_LOG_BYTES_MIN};
        ck_assert_int_eq(create_on(device, options), 0);
        struct kv_store *const store = test_open_on(device);
        for (unsigned i = 0; i < 200; i++) {
            ck_assert_int_eq(test_get_number(store, i, 500), -ENOENT);
            ck_assert_int_eq(test_put_number(store, i, 500), 0);
        }
        ck_assert_int_eq(kv_sync(store), 0);
        kv_abandon(store); /* with a log that another image's must not continue */
    }
    recorder_free(recorder);
}
END_TEST

START_TEST(a_file_that_could_not_become_an_image_is_removed)
{
    const struct kv_create_options options = {.size_bytes = KV_IMAGE_BYTES_MIN,
                                              .log_bytes = 15u << 20};
    struct test_dir dir;
    struct stat st;
    struct kv_error error = {""};
    test_dir_make(&dir);
    ck_assert_int_eq(kv_create(dir.image, &options, &error), -ENOSPC);
    ck_assert_ptr_nonnull(strstr(error.text, dir.image));
    ck_assert_int_ne(stat(dir.image, &st), 0);
    test_dir_remove(&dir);
}
END_TEST

START_TEST(an_empty_file_that_could_not_become_an_image_is_empty_again)
{
    struct kv_create_options options = {.size_bytes = KV_IMAGE_BYTES_MIN, .log_bytes = 15u << 20};
    struct test_dir dir;
    struct stat st;
    test_dir_make(&dir);
    const int fd = open(dir.image, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert_int_eq(kv_create(dir.image, &options, NULL), -ENOSPC);
    ck_assert_int_eq(stat(dir.image, &st), 0);
    ck_assert_int_eq(st.st_size, 0);
    /* So another size is no obstacle. */
    options = (struct kv_create_options){.size_bytes = 2 * KV_IMAGE_BYTES_MIN};
    ck_assert_int_eq(kv_create(dir.image, &options, NULL), 0);
    test_dir_remove(&dir);
}
END_TEST

/* In a process of its own: exit with the error of making the image. */
static void contend(const char *path, int start)
{
    const struct kv_create_options options = {.size_bytes = KV_IMAGE_BYTES_MIN};
    struct kv_error error = {""};
    char byte;
    if (read(start, &byte, 1) != 0)
        _exit(255);
    const int err = kv_create(path, &options, &error);
    if (err && err != -EBUSY && err != -EEXIST)
        fprintf(stderr, "%s\n", error.text);
    _exit(-err);
}

START_TEST(of_many_that_make_one_image_one_succeeds_and_the_others_leave_it_alone)
{
    enum { PROCESSES = 5, ROUNDS = 40 };
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct test_dir dir;
        int start[2], status, winners = 0;
        struct kv_store *store;
        test_dir_make(&dir);
        ck_assert_int_eq(pipe(start), 0);
        for (unsigned i = 0; i < PROCESSES; i++) {
            const pid_t child = fork();
            ck_assert_int_ge(child, 0);
            if (child == 0) {
                close(start[1]);
                contend(dir.image, start[0]);
            }
        }
        close(start[0]);
        close(start[1]); /* now */
        for (unsigned i = 0; i < PROCESSES; i++) {
            ck_assert_int_gt(wait(&status), 0);
            ck_assert(WIFEXITED(status));
            winners += WEXITSTATUS(status) == 0;
            ck_assert_msg(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == EBUSY ||
                              WEXITSTATUS(status) == EEXIST,
                          "%s", strerror(WEXITSTATUS(status)));
        }
        ck_assert_int_eq(winners, 1);
        ck_assert_int_eq(kv_open(dir.image, NULL, &store, NULL), 0);
        ck_assert_int_eq(kv_close(store), 0);
        test_dir_remove(&dir);
    }
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("create");
    TCase *const create = tcase_create("create");
    tcase_set_timeout(create, 300);
    tcase_add_test(create, images_of_every_size_work);
    tcase_add_test(create, what_does_not_fit_is_refused);
    tcase_add_test(create, what_is_not_empty_is_left_alone_without_force);
    tcase_add_test(create, an_unfinished_image_is_no_image);
    tcase_add_test(create, nothing_of_the_image_before_is_left);
    tcase_add_test(create, a_file_that_could_not_become_an_image_is_removed);
    tcase_add_test(create, an_empty_file_that_could_not_become_an_image_is_empty_again);
    tcase_add_test(create, of_many_that_make_one_image_one_succeeds_and_the_others_leave_it_alone);
    suite_add_tcase(suite, create);
    return test_run(suite);
}
