/*
 * tests/fs/test_reaper.c: files without name and reference are deleted together, and in time.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/reaper.h"
#include "scratch_store.h"
#include "tests/run.h"

#define PACKED_BYTES 1000u /* neither inline nor an extent */

static struct scratch_store scratch;
static struct fs_volume *volume;
static const struct fs_caller root_caller;
static const uint8_t content[FS_WRITE_MAX];

static void open_volume(void)
{
    const struct fs_volume_options options = {.read_only = false};
    struct kv_error error = {.text = ""};
    ck_assert_msg(fs_volume_open(scratch.store, &options, &volume, &error) == 0, "%s", error.text);
}

static void setup(void)
{
    scratch_open(&scratch, 16u << 20, 0, 0);
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    open_volume();
}

static void teardown(void)
{
    fs_volume_close(volume);
    scratch_close(&scratch);
}

static uint64_t make_file(unsigned number, size_t bytes)
{
    const struct fs_new_node node = {.mode = S_IFREG | 0600};
    struct fs_record record;
    char name[16];
    const int length = snprintf(name, sizeof name, "%u", number);
    ck_assert_int_eq(
        fs_create(volume, &root_caller, FS_ROOT_INO, name, (size_t)length, &node, &record), 0);
    if (bytes)
        ck_assert_int_eq(fs_write(volume, record.file.ino, 0, content, bytes, false), 0);
    return record.file.ino;
}

static void unlink_file(unsigned number)
{
    char name[16];
    const int length = snprintf(name, sizeof name, "%u", number);
    ck_assert_int_eq(fs_unlink(volume, FS_ROOT_INO, name, (size_t)length), 0);
}

/* Keys of a type. */
static unsigned count_keys(enum fs_key_type type)
{
    const uint8_t prefix = (uint8_t)type;
    struct kv_cursor *cursor;
    unsigned count = 0;
    ck_assert_int_eq(kv_cursor_open_prefix(scratch.store, &prefix, 1, &cursor), 0);
    int err = kv_cursor_first(cursor);
    for (; !err; err = kv_cursor_next(cursor))
        count++;
    ck_assert_int_eq(err, -ENOENT);
    kv_cursor_close(cursor);
    return count;
}

static uint64_t count_batches(void)
{
    struct kv_stats stats;
    kv_store_stats(scratch.store, &stats);
    return stats.batches;
}

START_TEST(forgotten_files_go_in_one_batch)
{
    const size_t sizes[] = {0, 100, PACKED_BYTES};
    uint64_t inos[FS_REAP_FILES];
    for (unsigned i = 0; i < FS_REAP_FILES; i++)
        inos[i] = make_file(i, sizes[i % 3]);
    ck_assert_int_eq(fs_setxattr(volume, inos[5], "user.a", "b", 1, 0, false), 0);
    const uint64_t stays = make_file(1000, PACKED_BYTES);
    for (unsigned i = 0; i < FS_REAP_FILES; i++)
        unlink_file(i);

    const uint64_t before = count_batches();
    for (unsigned i = FS_REAP_FILES; i-- > 1;)
        fs_forget(volume, inos[i], 1);
    ck_assert_uint_eq(count_batches(), before);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), FS_REAP_FILES);
    fs_forget(volume, inos[0], 1); /* as many as may wait */
    ck_assert_uint_eq(count_batches(), before + 1);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_XATTR), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_DATA), 1);
    ck_assert(!fs_reap(volume));

    uint64_t known, bytes;
    fs_forget(volume, stays, 1);
    fs_volume_usage(volume, &known, &bytes);
    ck_assert_uint_eq(known, 0);
}
END_TEST

START_TEST(what_lies_between_in_number_is_left_alone)
{
    uint64_t inos[9];
    for (unsigned i = 0; i < 9; i++)
        inos[i] = make_file(i, PACKED_BYTES);
    for (unsigned i = 0; i < 9; i++) {
        if (i == 4)
            continue; /* keeps its name */
        unlink_file(i);
        if (i != 6) /* is open */
            fs_forget(volume, inos[i], 1);
    }
    ck_assert(fs_reap(volume));
    ck_assert_uint_eq(count_keys(FS_KEY_DATA), 2);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 1);
    uint8_t back[PACKED_BYTES];
    size_t got;
    for (unsigned i = 4; i <= 6; i += 2) {
        ck_assert_int_eq(fs_read(volume, inos[i], 0, back, sizeof back, &got), 0);
        ck_assert_uint_eq(got, PACKED_BYTES);
    }
    fs_forget(volume, inos[4], 1);
    fs_forget(volume, inos[6], 1);
    ck_assert(fs_reap(volume));
    ck_assert_uint_eq(count_keys(FS_KEY_DATA), 1);
}
END_TEST

START_TEST(a_number_is_stale_while_its_inode_waits)
{
    const uint64_t ino = make_file(0, 10);
    struct fs_record record;
    unlink_file(0);
    ck_assert_int_eq(fs_getattr(volume, ino, &record), 0);
    fs_forget(volume, ino, 1);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 1);
    ck_assert_int_eq(fs_getattr(volume, ino, &record), -ESTALE);
    ck_assert_int_eq(fs_write(volume, ino, 0, "x", 1, false), -ESTALE);
    fs_forget(volume, ino, 1); /* once too often: nothing */
    ck_assert(fs_reap(volume));
    ck_assert(!fs_reap(volume));
}
END_TEST

START_TEST(content_in_quantity_does_not_wait)
{
    const uint64_t ino = make_file(0, FS_REAP_UNITS_EACH * 512u + 1);
    unlink_file(0);
    ck_assert_uint_gt(count_keys(FS_KEY_DATA), 0);
    fs_forget(volume, ino, 1);
    ck_assert_uint_eq(count_keys(FS_KEY_DATA), 0);

    const unsigned few = FS_REAP_UNITS / FS_REAP_UNITS_EACH;
    uint64_t inos[FS_REAP_UNITS / FS_REAP_UNITS_EACH];
    for (unsigned i = 0; i < few; i++)
        inos[i] = make_file(i, FS_REAP_UNITS_EACH * 512u);
    for (unsigned i = 0; i < few; i++)
        unlink_file(i);
    for (unsigned i = 0; i < few; i++) {
        ck_assert_uint_gt(count_keys(FS_KEY_DATA), 0);
        fs_forget(volume, inos[i], 1);
    }
    ck_assert_uint_eq(count_keys(FS_KEY_DATA), 0);
}
END_TEST

START_TEST(the_next_mount_deletes_what_waited)
{
    for (unsigned i = 0; i < 5; i++) {
        const uint64_t ino = make_file(i, PACKED_BYTES);
        unlink_file(i);
        fs_forget(volume, ino, 1);
    }
    ck_assert_int_eq(kv_sync(scratch.store), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 5);
    struct fs_volume *lost = volume; /* as if its process had died here */
    open_volume();
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_DATA), 0);
    fs_volume_close(lost);
}
END_TEST

START_TEST(room_is_counted_and_given_after_the_reaping)
{
    struct statvfs status;
    fs_statfs(volume, &status);
    const uint64_t bavail = status.f_bavail;
    const uint64_t ino = make_file(0, FS_REAP_UNITS_EACH * 512u);
    unlink_file(0);
    fs_forget(volume, ino, 1);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 1);
    fs_statfs(volume, &status);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 0);
    ck_assert_uint_ge(status.f_bavail + 16, bavail); /* the batches' pages are still dirty */

    /* Fill it up, delete files that then wait, and what has no room at first gets theirs. */
    unsigned count = 0;
    uint64_t state = scratch_seed(), inos[256];
    uint8_t *bytes = malloc(FS_REAP_UNITS_EACH * 512u);
    ck_assert_ptr_nonnull(bytes);
    int err = 0;
    for (; !err; count++) {
        ck_assert_uint_lt(count, 256);
        for (size_t at = 0; at < FS_REAP_UNITS_EACH * 512u; at += 8) {
            const uint64_t word = scratch_random(&state);
            memcpy(bytes + at, &word, sizeof word);
        }
        inos[count] = make_file(count, 0);
        err = fs_write(volume, inos[count], 0, bytes, FS_REAP_UNITS_EACH * 512u, false);
    }
    ck_assert_int_eq(err, -ENOSPC);
    for (unsigned i = 0; i < 4; i++) {
        unlink_file(i);
        fs_forget(volume, inos[i], 1);
    }
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 4);
    err = fs_write(volume, inos[count - 1], 0, bytes, FS_REAP_UNITS_EACH * 512u, false);
    ck_assert_int_eq(err, 0);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 0);
    free(bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reaper");
    TCase *tcase = tcase_create("core");
    suite_add_tcase(suite, tcase);
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, forgotten_files_go_in_one_batch);
    tcase_add_test(tcase, what_lies_between_in_number_is_left_alone);
    tcase_add_test(tcase, a_number_is_stale_while_its_inode_waits);
    tcase_add_test(tcase, content_in_quantity_does_not_wait);
    tcase_add_test(tcase, the_next_mount_deletes_what_waited);
    tcase_add_test(tcase, room_is_counted_and_given_after_the_reaping);
    return test_run(suite);
}
