/*
 * tests/fs/test_full.c: a volume that fills up: is what statfs promises what can be written, in
 * whole space and in space full of holes?
 *
 * KVFS_SEED chooses sizes and bytes; the bytes do not compress.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/format.h"
#include "fs/volume.h"
#include "scratch_store.h"
#include "tests/run.h"

#define FILE_COUNT 400u

static struct scratch_store scratch;
static struct fs_volume *volume;
static const struct fs_caller root_caller;
static uint8_t *random_bytes; /* FS_WRITE_MAX of them, and as many behind: no two writes alike */

static void open_volume(void)
{
    const struct fs_volume_options options = {.read_only = false};
    struct kv_error error = {.text = ""};
    ck_assert_msg(fs_volume_open(scratch.store, &options, &volume, &error) == 0, "%s", error.text);
}

static void begin(uint64_t image_bytes, uint32_t node_bytes, uint64_t *state)
{
    *state = scratch_seed();
    random_bytes = malloc(2u * FS_WRITE_MAX);
    ck_assert_ptr_nonnull(random_bytes);
    for (size_t i = 0; i < 2u * FS_WRITE_MAX; i += sizeof *state) {
        const uint64_t word = scratch_random(state);
        memcpy(random_bytes + i, &word, sizeof word);
    }
    scratch_open(&scratch, image_bytes, node_bytes, 0);
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    open_volume();
}

static void end(void)
{
    fs_volume_close(volume);
    scratch_close(&scratch);
    free(random_bytes);
}

static uint64_t available_bytes(void)
{
    struct statvfs status;
    fs_statfs(volume, &status);
    return status.f_bavail * status.f_frsize;
}

/* Free, but in no whole place of a page, which are all kept for pages when a volume is full: holes
 * of a block or two, that no piece of a large file goes into. */
static uint64_t short_hole_bytes(void)
{
    struct kv_stats stats;
    kv_store_stats(scratch.store, &stats);
    return stats.free_bytes - stats.free_whole_bytes;
}

static uint64_t make_file(const char *name)
{
    const struct fs_new_node node = {.mode = S_IFREG | 0600};
    struct fs_record record;
    ck_assert_int_eq(
        fs_create(volume, &root_caller, FS_ROOT_INO, name, strlen(name), &node, &record), 0);
    return record.file.ino;
}

static void remove_file(const char *name, uint64_t ino)
{
    ck_assert_int_eq(fs_unlink(volume, FS_ROOT_INO, name, strlen(name)), 0);
    fs_forget(volume, ino, 1);
}

/* Append until nothing goes in any more, and read it all back. */
static uint64_t fill(uint64_t ino, uint64_t *state)
{
    uint64_t size = 0;
    size_t written, shifts[1024], count = 0;
    uint64_t ends[1024];
    int err = 0;
    while (!err) {
        ck_assert_uint_lt(count, 1024);
        shifts[count] = scratch_below(state, FS_WRITE_MAX);
        err = fs_write_most(volume, ino, size, random_bytes + shifts[count], FS_WRITE_MAX, false,
                            &written);
        ck_assert(err == 0 || err == -ENOSPC);
        ck_assert(err || written == FS_WRITE_MAX);
        size += written;
        ends[count++] = size;
    }
    uint8_t *back = malloc(FS_WRITE_MAX);
    ck_assert_ptr_nonnull(back);
    for (size_t i = 0; i < count; i++) {
        const uint64_t from = i ? ends[i - 1] : 0;
        size_t got = 0;
        ck_assert_int_eq(fs_read(volume, ino, from, back, ends[i] - from, &got), 0);
        ck_assert_uint_eq(got, ends[i] - from);
        ck_assert_int_eq(memcmp(back, random_bytes + shifts[i], got), 0);
    }
    free(back);
    return size;
}

/* Three times: what statfs said goes in, but for the holes that were too short, and at most a
 * little more. */
static void fill_and_compare(uint64_t *state)
{
    for (unsigned round = 0; round < 3; round++) {
        const uint64_t promised = available_bytes();
        const uint64_t ino = make_file("large");
        const uint64_t written = fill(ino, state);
        printf("promised %llu, written %llu\n", (unsigned long long)promised,
               (unsigned long long)written);
        ck_assert_uint_ge(written + short_hole_bytes() + promised / 100, promised);
        ck_assert_uint_le(written, promised + promised / 50);
        ck_assert_uint_le(available_bytes(), promised / 100);
        remove_file("large", ino);
        if (round == 1) {
            fs_volume_close(volume);
            scratch_reopen(&scratch);
            open_volume();
        }
    }
}

START_TEST(what_statfs_promises_can_be_written)
{
    static const uint32_t nodes[] = {4096, 16384, 65536};
    for (unsigned i = 0; i < sizeof nodes / sizeof nodes[0]; i++) {
        uint64_t state;
        begin(96u << 20, nodes[i], &state);
        fill_and_compare(&state);
        end();
    }
}
END_TEST

START_TEST(space_full_of_holes_is_written_to_the_end)
{
    uint64_t state;
    uint64_t inos[FILE_COUNT];
    char name[16];
    begin(96u << 20, 0, &state);
    for (unsigned i = 0; i < FILE_COUNT; i++) {
        size_t written;
        snprintf(name, sizeof name, "f%u", i);
        inos[i] = make_file(name);
        ck_assert_int_eq(fs_write_most(volume, inos[i], 0, random_bytes + i,
                                       8192 + scratch_below(&state, 60000), false, &written),
                         0);
    }
    for (unsigned i = 0; i < FILE_COUNT; i += 1 + (unsigned)scratch_below(&state, 3)) {
        snprintf(name, sizeof name, "f%u", i);
        remove_file(name, inos[i]);
    }
    ck_assert_int_eq(fs_checkpoint(volume), 0);
    fill_and_compare(&state);
    struct kv_check_result result;
    const struct kv_check_options options = {.read_blobs = true};
    ck_assert_int_eq(kv_check(scratch.store, &options, &result), 0);
    ck_assert_uint_eq(result.repairable + result.damaged, 0);
    end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("full");
    TCase *tcase = tcase_create("full");
    tcase_set_timeout(tcase, 300);
    tcase_add_test(tcase, what_statfs_promises_can_be_written);
    tcase_add_test(tcase, space_full_of_holes_is_written_to_the_end);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
