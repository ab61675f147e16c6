/*
 * tests/fs/test_streams.c: who reads a file in order, in large pieces, waits for the device at the
 * beginning only, reads nothing twice, and never what was there before a change.
 */
#include <check.h>
#include <sched.h>
#include <stdatomic.h>

#include "fs/format.h"
#include "fs/inode.h"
#include "fs/streams.h"
#include "fs/volume.h"
#include "scratch_store.h"
#include "tests/run.h"

#define MIB    (UINT64_C(1) << 20)
#define PIECES 12u /* of a MiB: the file */

static struct scratch_store scratch;
static struct kv_store *store;
static struct fs_volume *volume;
static struct fs_streams *streams;
static uint64_t ino;
static uint64_t words[MIB / 8], back[MIB / 8];

/* A piece of content that no other place or version has. */
static void fill(uint64_t piece, uint64_t version)
{
    uint64_t state = piece * 1000 + version + 1;
    for (size_t i = 0; i < MIB / 8; i++) {
        state ^= state << 13; /* xorshift64 (Marsaglia 2003) */
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = state;
    }
}

static void write_piece(uint64_t piece, uint64_t version)
{
    size_t written;
    fill(piece, version);
    ck_assert_int_eq(fs_write_most(volume, ino, piece * MIB, words, MIB, false, &written), 0);
    ck_assert_uint_eq(written, MIB);
}

/* As a request is served. */
static void read_piece(uint64_t piece, uint64_t version)
{
    size_t got;
    fs_streams_read(streams, ino, piece * MIB, MIB);
    ck_assert_int_eq(fs_read(volume, ino, piece * MIB, back, MIB, &got), 0);
    ck_assert_uint_eq(got, MIB);
    fill(piece, version);
    ck_assert_mem_eq(back, words, MIB);
}

static uint64_t bytes_read(void)
{
    struct kv_stats stats;
    kv_store_stats(store, &stats);
    return stats.blob_read_bytes;
}

static void open_volume(void)
{
    const struct kv_open_options options = {.memory_budget_bytes = 64u << 20,
                                            .blob_percent = 25,
                                            .buffered_io = true,
                                            .no_background = true};
    const struct fs_volume_options volume_options = {.read_only = false};
    struct kv_error error = {.text = ""};
    ck_assert_int_eq(kv_open(scratch.path, &options, &scratch.store, &error), 0);
    store = scratch.store;
    if (!ino)
        ck_assert_int_eq(fs_format(store, 0, 0, 0755), 0);
    const int err = fs_volume_open(store, &volume_options, &volume, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    streams = fs_streams_new(volume);
    ck_assert_ptr_nonnull(streams);
}

static void close_volume(void)
{
    fs_streams_stop(streams);
    fs_streams_free(streams);
    fs_volume_close(volume);
}

/* A file, of which nothing is in memory. */
static void setup(void)
{
    static const struct fs_caller root = {.uid = 0};
    const struct fs_new_node node = {.mode = S_IFREG | 0644};
    struct fs_record record;
    scratch_create(&scratch, 128u << 20, 0, 0);
    open_volume();
    ck_assert_int_eq(fs_create(volume, &root, FS_ROOT_INO, "file", 4, &node, &record), 0);
    ino = record.file.ino;
    for (uint64_t i = 0; i < PIECES; i++)
        write_piece(i, 0);
    close_volume();
    ck_assert_int_eq(kv_close(store), 0);
    open_volume();
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "file", 4, &record), 0);
}

static void teardown(void)
{
    close_volume();
    scratch_close(&scratch);
    ino = 0;
}

START_TEST(who_reads_in_order_finds_what_follows_in_memory)
{
    ck_assert_int_eq(fs_streams_start(streams), 0);
    for (uint64_t i = 0; i < PIECES; i++) {
        const uint64_t before = bytes_read();
        read_piece(i, 0);
        /* Behind the third piece two are read ahead; it has all the time it needs. */
        const uint64_t least = kv_min_u64(i + 3, PIECES) * MIB;
        while (i >= 2 && bytes_read() < least)
            sched_yield();
        if (i < 2)
            ck_assert_uint_eq(bytes_read(), before + MIB);
    }
    ck_assert_uint_eq(bytes_read(), PIECES * MIB); /* once each */
}
END_TEST

START_TEST(who_does_not_read_in_order_gets_what_he_asks_for)
{
    ck_assert_int_eq(fs_streams_start(streams), 0);
    for (uint64_t i = 0; i < PIECES; i++)
        read_piece(PIECES - 1 - i, 0);
    fs_streams_stop(streams); /* all that it does is done */
    ck_assert_uint_eq(bytes_read(), PIECES * MIB);
}
END_TEST

START_TEST(without_a_thread_nothing_is_read_ahead)
{
    for (uint64_t i = 0; i < PIECES; i++) {
        read_piece(i, 0);
        ck_assert_uint_eq(bytes_read(), (i + 1) * MIB);
    }
}
END_TEST

START_TEST(what_is_written_meanwhile_is_read)
{
    ck_assert_int_eq(fs_streams_start(streams), 0);
    for (uint64_t version = 1; version < 6; version++) {
        for (uint64_t i = 0; i < PIECES; i++) {
            /* It may be read ahead, or just being read. */
            write_piece((i + 2) % PIECES, version);
            read_piece(i, version - (i < 2));
        }
    }
}
END_TEST

START_TEST(a_file_that_ends_or_is_gone_is_no_trouble)
{
    ck_assert_int_eq(fs_streams_start(streams), 0);
    for (uint64_t i = 0; i < 4; i++)
        read_piece(i, 0);
    ck_assert_int_eq(fs_unlink(volume, FS_ROOT_INO, "file", 4), 0);
    for (uint64_t i = 4; i < 8; i++)
        read_piece(i, 0); /* it is open */
    fs_forget(volume, ino, 1);
    size_t got;
    for (uint64_t i = 8; i < 12; i++) {
        fs_streams_read(streams, ino, i * MIB, MIB);
        ck_assert_int_eq(fs_read(volume, ino, i * MIB, back, MIB, &got), -ESTALE);
    }
    fs_streams_read(streams, ino, FS_SIZE_MAX - MIB, MIB);
    fs_streams_read(streams, ino, UINT64_MAX, SIZE_MAX);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("streams");
    TCase *const tcase = tcase_create("streams");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, who_reads_in_order_finds_what_follows_in_memory);
    tcase_add_test(tcase, who_does_not_read_in_order_gets_what_he_asks_for);
    tcase_add_test(tcase, without_a_thread_nothing_is_read_ahead);
    tcase_add_test(tcase, what_is_written_meanwhile_is_read);
    tcase_add_test(tcase, a_file_that_ends_or_is_gone_is_no_trouble);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
