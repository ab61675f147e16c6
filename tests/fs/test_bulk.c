/*
 * tests/fs/test_bulk.c: a tree that comes in order into an empty store fills its pages from left to
 * right, each once: what kvfs import counts on.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/apply.h"
#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/namespace.h"
#include "tests/fs/scratch_store.h"
#include "tests/run.h"

#define DIRECTORIES 150u
#define FILES_EACH  100u
#define FILE_BYTES  200u

static const struct fs_caller root = {.uid = 0};
static const struct fs_apply_attributes directory = {.mode = S_IFDIR | 0755, .keep_same = true},
                                        file = {.mode = S_IFREG | 0644, .keep_same = true};

static struct kv_store *reopen(struct scratch_store *scratch, enum kv_sync_mode sync)
{
    const struct kv_open_options options = {
        .memory_budget_bytes = 32u << 20, .buffered_io = true, .no_background = true, .sync = sync};
    struct kv_error error = {""};
    ck_assert_int_eq(kv_close(scratch->store), 0);
    ck_assert_int_eq(kv_open(scratch->path, &options, &scratch->store, &error), 0);
    return scratch->store;
}

static struct fs_volume *open_volume(struct kv_store *store)
{
    const struct fs_volume_options options = {.read_only = false};
    struct fs_volume *volume;
    struct kv_error error = {""};
    ck_assert_int_eq(fs_volume_open(store, &options, &volume, &error), 0);
    return volume;
}

/* A directory and what is in it, as one batch. */
static void store_directory(struct fs_volume *volume, unsigned number)
{
    static char paths[FILES_EACH + 1][40], bytes[FILE_BYTES];
    struct fs_apply_change changes[FILES_EACH + 1];
    struct fs_apply_result result;
    snprintf(paths[0], sizeof paths[0], "d%04u", number);
    changes[0] = (struct fs_apply_change){
        .kind = FS_APPLY_STORE, .path = paths[0], .bytes = "", .attributes = &directory};
    for (unsigned i = 1; i <= FILES_EACH; i++) {
        snprintf(paths[i], sizeof paths[i], "d%04u/file-%07u", number, number * FILES_EACH + i);
        changes[i] = (struct fs_apply_change){.kind = FS_APPLY_STORE,
                                              .path = paths[i],
                                              .bytes = bytes,
                                              .length = FILE_BYTES,
                                              .attributes = &file};
    }
    ck_assert_int_eq(fs_apply(volume, &root, changes, FILES_EACH + 1, 0, NULL, &result), 0);
}

START_TEST(pages_are_filled_from_left_to_right_and_written_once)
{
    struct scratch_store scratch;
    struct kv_stats before, after;
    scratch_open(&scratch, 256u << 20, 0, 0);
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    struct kv_store *store = reopen(&scratch, KV_SYNC_CHECKPOINT);
    struct fs_volume *volume = open_volume(store);
    kv_store_stats(store, &before);
    for (unsigned i = 0; i < DIRECTORIES; i++)
        store_directory(volume, i);
    ck_assert_int_eq(fs_sync(volume), 0);
    kv_store_stats(store, &after);

    struct kv_image_info info;
    kv_store_info(store, &info);
    /* As in the log: bytes of keys and values, and a little for each. */
    const uint64_t bytes = after.batch_bytes - before.batch_bytes;
    const uint64_t page_bytes = (after.page_count - before.page_count) * info.node_bytes;
    printf("%llu bytes of operations, %llu of pages, %llu pages written, %llu bytes of log\n",
           (unsigned long long)bytes, (unsigned long long)page_bytes,
           (unsigned long long)(after.page_writes - before.page_writes),
           (unsigned long long)(after.log_bytes - before.log_bytes));
    ck_assert_uint_eq(after.log_bytes, before.log_bytes);
    ck_assert_uint_lt(page_bytes, bytes + bytes / 10); /* nine tenths full, inner pages and all */
    /* Once each, but for those that a checkpoint finds open. */
    ck_assert_uint_lt(after.page_writes - before.page_writes,
                      (after.page_count - before.page_count) * 5 / 4 + 16);
    fs_volume_close(volume);

    /* And nothing is missing after a crash. */
    kv_abandon(store);
    const struct kv_open_options options = {.no_background = true, .buffered_io = true};
    struct kv_error error = {""};
    ck_assert_int_eq(kv_open(scratch.path, &options, &scratch.store, &error), 0);
    struct kv_check_result result;
    const struct kv_check_options check = {.read_blobs = true};
    ck_assert_int_eq(fs_check(scratch.store, &check, &result), 0);
    ck_assert_uint_eq(result.damaged + result.repairable, 0);
    ck_assert_uint_ge(result.keys, DIRECTORIES * (FILES_EACH + 1));
    scratch_close(&scratch);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bulk");
    TCase *cases = tcase_create("bulk");
    tcase_set_timeout(cases, 400);
    tcase_add_test(cases, pages_are_filled_from_left_to_right_and_written_once);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
