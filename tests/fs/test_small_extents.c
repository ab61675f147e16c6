/*
 * tests/fs/test_small_extents.c: small files that are extents of their own: which are, that they
 * are read together, and that nothing that happens to them or beside them shows in what is read.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/format.h"
#include "fs/inode.h"
#include "tests/fs/scratch_store.h"
#include "tests/run.h"

#define CONTENT_MAX 16384u
#define FILES       200u

static const struct fs_caller root_caller;

struct bench {
    struct scratch_store scratch;
    struct fs_volume *volume;
    uint64_t random;
    struct kv_stats before;
};

static void open_volume(struct bench *b)
{
    const struct fs_volume_options options = {.read_only = false};
    struct kv_error error = {.text = ""};
    ck_assert_msg(fs_volume_open(b->scratch.store, &options, &b->volume, &error) == 0, "%s",
                  error.text);
    kv_store_stats(b->scratch.store, &b->before);
}

/* With memory for contents, as a mount has it. */
static void open_store(struct bench *b)
{
    const struct kv_open_options options = {.memory_budget_bytes = 32u << 20,
                                            .buffered_io = true,
                                            .no_background = true,
                                            .blob_percent = 25};
    struct kv_error error = {.text = ""};
    ck_assert_msg(kv_open(b->scratch.path, &options, &b->scratch.store, &error) == 0, "%s",
                  error.text);
    open_volume(b);
}

static void begin(struct bench *b)
{
    memset(b, 0, sizeof *b);
    b->random = scratch_seed();
    scratch_open(&b->scratch, 96u << 20, 0, 0);
    ck_assert_int_eq(fs_format(b->scratch.store, 0, 0, 0755), 0);
    ck_assert_int_eq(kv_close(b->scratch.store), 0);
    open_store(b);
}

static void reopen(struct bench *b)
{
    fs_volume_close(b->volume);
    ck_assert_int_eq(kv_close(b->scratch.store), 0);
    open_store(b);
}

static void end(struct bench *b)
{
    struct kv_check_result result;
    const struct kv_check_options options = {.read_blobs = true};
    ck_assert_int_eq(kv_check(b->scratch.store, &options, &result), 0);
    ck_assert_uint_eq(result.repairable + result.damaged, 0);
    fs_volume_close(b->volume);
    scratch_close(&b->scratch);
}

static uint64_t make_file(struct bench *b, unsigned number)
{
    const struct fs_new_node node = {.mode = S_IFREG | 0600};
    struct fs_record record;
    char name[16];
    const int length = snprintf(name, sizeof name, "f%u", number);
    ck_assert_int_eq(
        fs_create(b->volume, &root_caller, FS_ROOT_INO, name, (size_t)length, &node, &record), 0);
    return record.file.ino;
}

/* After opening nobody knows an inode that was not looked up. */
static void look_up(struct bench *b, unsigned number, uint64_t ino)
{
    struct fs_record record;
    char name[16];
    const int length = snprintf(name, sizeof name, "f%u", number);
    ck_assert_int_eq(fs_lookup(b->volume, FS_ROOT_INO, name, (size_t)length, &record), 0);
    ck_assert_uint_eq(record.file.ino, ino);
}

/* Bytes of `values` different kinds: 256 is noise. */
static void fill(uint8_t *bytes, size_t length, uint64_t identity, unsigned values)
{
    uint64_t state = identity * 1000 + 1;
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(' ' + scratch_random(&state) % values);
}

static void write_file(struct bench *b, uint64_t ino, uint64_t identity, size_t length,
                       unsigned values)
{
    static uint8_t bytes[CONTENT_MAX];
    fill(bytes, length, identity, values);
    ck_assert_int_eq(fs_write(b->volume, ino, 0, bytes, length, false), 0);
}

static void read_file(struct bench *b, uint64_t ino, uint64_t identity, size_t length,
                      unsigned values)
{
    static uint8_t bytes[CONTENT_MAX], expected[CONTENT_MAX];
    size_t got;
    fill(expected, length, identity, values);
    ck_assert_int_eq(fs_read(b->volume, ino, 0, bytes, CONTENT_MAX, &got), 0);
    ck_assert_uint_eq(got, length);
    ck_assert_mem_eq(bytes, expected, length);
}

static uint64_t blobs_written(struct bench *b)
{
    struct kv_stats now;
    kv_store_stats(b->scratch.store, &now);
    return now.blob_writes - b->before.blob_writes;
}

static void write_many(struct bench *b, unsigned count, size_t length, unsigned values,
                       bool flush_each)
{
    for (unsigned i = 0; i < count; i++) {
        write_file(b, make_file(b, i), i, length, values);
        if (flush_each)
            ck_assert_int_eq(fs_sync(b->volume), 0);
    }
}

/* ---- which --------------------------------------------------------------------------- */

START_TEST(noise_in_many_files_goes_into_blocks_of_its_own)
{
    struct bench b;
    begin(&b);
    write_many(&b, FILES, 4096, 256, false);
    ck_assert_uint_eq(blobs_written(&b), FILES - FS_BULK_WRITES);
    end(&b);
}
END_TEST

START_TEST(text_stays_in_pages)
{
    struct bench b;
    begin(&b);
    write_many(&b, FILES, 4096, 48, false);
    ck_assert_uint_eq(blobs_written(&b), 0);
    end(&b);
}
END_TEST

START_TEST(a_file_that_is_flushed_by_itself_stays_in_the_log)
{
    struct bench b;
    begin(&b);
    write_many(&b, FILES, 4096, 256, true);
    ck_assert_uint_eq(blobs_written(&b), 0);
    end(&b);
}
END_TEST

START_TEST(what_does_not_nearly_fill_its_blocks_stays_in_pages)
{
    static const struct {
        size_t length;
        unsigned blobs;
    } sizes[] = {{4095, 0}, {4096, 1}, {4097, 0}, {7000, 0}, {7400, 1}, {8192, 1}};
    struct bench b;
    begin(&b);
    write_many(&b, FS_BULK_WRITES, 300, 256, false);
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const uint64_t ino = make_file(&b, 1000 + i), before = blobs_written(&b);
        write_file(&b, ino, i, sizes[i].length, 256);
        ck_assert_uint_eq(blobs_written(&b) - before, sizes[i].blobs);
        read_file(&b, ino, i, sizes[i].length, 256);
    }
    end(&b);
}
END_TEST

/* ---- reading ------------------------------------------------------------------------- */

START_TEST(files_read_in_order_after_opening_take_few_transfers)
{
    struct bench b;
    uint64_t inos[FILES];
    begin(&b);
    for (unsigned i = 0; i < FILES; i++) {
        inos[i] = make_file(&b, i);
        write_file(&b, inos[i], i, 4096, 256);
    }
    reopen(&b);
    for (unsigned i = 0; i < FILES; i++) {
        look_up(&b, i, inos[i]);
        read_file(&b, inos[i], i, 4096, 256);
    }
    struct kv_stats now;
    kv_store_stats(b.scratch.store, &now);
    /* 32 blocks each; where they begin, where a leaf ends, and where they are not side by side cost
     * one more. */
    ck_assert_uint_ge(now.blob_reads - b.before.blob_reads, (FILES - FS_BULK_WRITES) / 32);
    ck_assert_uint_le(now.blob_reads - b.before.blob_reads, (FILES - FS_BULK_WRITES) / 32 + 8);
    end(&b);
}
END_TEST

/* ---- changing ------------------------------------------------------------------------ */

struct model {
    uint64_t ino;
    size_t size;
    uint8_t bytes[CONTENT_MAX];
};

static void compare(struct bench *b, const struct model *m)
{
    static uint8_t bytes[CONTENT_MAX];
    size_t got;
    ck_assert_int_eq(fs_read(b->volume, m->ino, 0, bytes, CONTENT_MAX, &got), 0);
    ck_assert_uint_eq(got, m->size);
    ck_assert_mem_eq(bytes, m->bytes, m->size);
}

static void write_at(struct bench *b, struct model *m, size_t offset, size_t length)
{
    if (offset > m->size)
        memset(m->bytes + m->size, 0, offset - m->size);
    fill(m->bytes + offset, length, scratch_random(&b->random), 256);
    ck_assert_int_eq(fs_write(b->volume, m->ino, offset, m->bytes + offset, length, false), 0);
    m->size = kv_max_u64(m->size, offset + length);
}

static void cut(struct bench *b, struct model *m, size_t size)
{
    const struct fs_attr_change change = {.valid = FS_ATTR_SIZE, .size = size};
    struct fs_record record;
    ck_assert_int_eq(fs_setattr(b->volume, m->ino, &change, &record), 0);
    if (size > m->size)
        memset(m->bytes + m->size, 0, size - m->size);
    m->size = size;
}

static void change_one(struct bench *b, struct model *m)
{
    switch (scratch_below(&b->random, 5)) {
    case 0: /* all of it anew, over what is there */
        write_at(b, m, 0, kv_max_u64(m->size, 4096));
        break;
    case 1:
        cut(b, m, 0);
        write_at(b, m, 0, 4096 * (1 + scratch_below(&b->random, 2)));
        break;
    case 2:
        write_at(b, m, scratch_below(&b->random, 6000), 1 + scratch_below(&b->random, 4096));
        break;
    case 3:
        cut(b, m, scratch_below(&b->random, 9000));
        break;
    default:
        write_at(b, m, m->size < 9000 ? m->size : 0, 1 + scratch_below(&b->random, 3000));
        break;
    }
}

START_TEST(files_that_change_beside_each_other_are_never_out_of_date)
{
    static struct model models[60];
    const size_t count = sizeof models / sizeof *models;
    struct bench b;
    begin(&b);
    write_many(&b, FS_BULK_WRITES, 300, 256, false);
    for (size_t i = 0; i < count; i++) {
        models[i] = (struct model){.ino = make_file(&b, 500 + (unsigned)i)};
        write_at(&b, &models[i], 0, 4096);
    }
    for (unsigned round = 0; round < 60; round++) {
        for (unsigned i = 0; i < 6; i++)
            change_one(&b, &models[scratch_below(&b.random, count)]);
        if (round % 7 == 0)
            ck_assert_int_eq(fs_checkpoint(b.volume), 0);
        if (round % 9 == 0) {
            reopen(&b);
            for (unsigned i = 0; i < count; i++)
                look_up(&b, 500 + i, models[i].ino);
        }
        const size_t first = scratch_below(&b.random, count);
        for (size_t i = 0; i < 20; i++)
            compare(&b, &models[(first + i) % count]);
    }
    for (size_t i = 0; i < count; i++)
        compare(&b, &models[i]);
    end(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("small_extents");
    TCase *tcase = tcase_create("small_extents");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, noise_in_many_files_goes_into_blocks_of_its_own);
    tcase_add_test(tcase, text_stays_in_pages);
    tcase_add_test(tcase, a_file_that_is_flushed_by_itself_stays_in_the_log);
    tcase_add_test(tcase, what_does_not_nearly_fill_its_blocks_stays_in_pages);
    tcase_add_test(tcase, files_read_in_order_after_opening_take_few_transfers);
    tcase_add_test(tcase, files_that_change_beside_each_other_are_never_out_of_date);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
