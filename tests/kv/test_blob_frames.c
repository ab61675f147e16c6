/*
 * tests/kv/test_blob_frames.c: parts of blobs in frames: what is read for them, what is believed.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/blob.h"
#include "kv/codec.h"
#include "support_devices.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define DEVICE_BLOCKS 8000u
#define EPOCH         7u
#define EXTENT        131072u

static uint64_t seed_start;
static const struct kv_codec_spec codecs[] = {
    {KV_CODEC_NONE, 0}, {KV_CODEC_LZ4, 0}, {KV_CODEC_ZSTD, 1}};

struct fixture {
    struct faulty *faulty;
    struct test_pages pages;
    struct kv_blobs blobs;
    struct test_random random;
    uint8_t *bytes, *back; /* KV_BLOB_MAX each, aligned */
};

static void fixture_init(struct fixture *f, uint64_t salt)
{
    memset(f, 0, sizeof *f);
    f->faulty = faulty_new(memory_device_new(DEVICE_BLOCKS));
    test_pages_init(&f->pages, faulty_device(f->faulty), 16384, 0, KV_CODEC_NONE);
    f->blobs.device = f->pages.device;
    f->blobs.space = f->pages.space;
    f->blobs.buffers = f->pages.buffers;
    f->blobs.in_frames = true;
    f->random.state = seed_start * 100 + salt;
    f->bytes = kv_device_alloc(KV_BLOB_MAX);
    f->back = kv_device_alloc(KV_BLOB_MAX);
    ck_assert_ptr_nonnull(f->bytes);
    ck_assert_ptr_nonnull(f->back);
}

static void fixture_release(struct fixture *f)
{
    free(f->bytes);
    free(f->back);
    kv_blob_cache_free(f->blobs.cache);
    test_pages_release(&f->pages);
    faulty_free(f->faulty);
}

static size_t below(struct fixture *f, size_t limit)
{
    return test_random_below(&f->random, limit);
}

/* Content that shrinks to about half, or not at all. */
static void fill(struct fixture *f, size_t length, bool shrinks)
{
    for (size_t at = 0; at < length; at += 8) {
        const uint64_t word = at / 8 % 2 && shrinks ? 0 : test_random_next(&f->random);
        memcpy(f->bytes + at, &word, kv_min_u64(8, length - at));
    }
}

/* A blob, and its table. */
struct written {
    struct kv_blob_ref ref;
    struct kv_disk_blob_ref disk;
    uint8_t table[KV_BLOB_TABLE_MAX];
    size_t table_length;
};

static struct written write_blob(struct fixture *f, size_t length, struct kv_codec_spec codec)
{
    struct written blob;
    struct kv_blob_source source = {.bytes = f->bytes, .length = length, .table = blob.table};
    ck_assert_int_eq(kv_blobs_write_many(&f->blobs, &source, 1, &codec, EPOCH), 0);
    ck_assert_uint_eq(source.written, length);
    blob.ref = source.ref;
    blob.table_length = source.table_length;
    memcpy(&blob.disk, &blob.ref, sizeof blob.disk);
    return blob;
}

static int read_part(struct fixture *f, const struct written *blob, size_t offset, size_t length)
{
    const struct kv_blob_part part = {.ref = blob->ref,
                                      .buf = f->back,
                                      .offset = offset,
                                      .length = length,
                                      .table = blob->table,
                                      .table_from = 0,
                                      .table_to = kv_blob_length(&blob->ref)};
    memset(f->back, 0x5a, length);
    return kv_blobs_read(&f->blobs, &part, 1);
}

static struct kv_device_counts counts_of(const struct fixture *f)
{
    return f->pages.device->counts;
}

/* Flip a bit of the stored bytes. */
static void damage(struct fixture *f, const struct written *blob, size_t at)
{
    uint8_t *const block = kv_device_alloc(KV_BLOCK_BYTES);
    const uint64_t number = kv_le64_get(blob->disk.ptr.block) + at / KV_BLOCK_BYTES;
    ck_assert_int_eq(kv_device_read(f->pages.device, number, 1, block), 0);
    block[at % KV_BLOCK_BYTES] ^= 0x10;
    ck_assert_int_eq(kv_device_write(f->pages.device, number, 1, block), 0);
    free(block);
}

START_TEST(any_part_comes_back_by_any_part_of_the_table)
{
    static const size_t sizes[] = {1,     16384,  16385,  30001,      65536,
                                   65537, EXTENT, 200000, KV_BLOB_MAX};
    struct fixture f;
    fixture_init(&f, 0);
    for (size_t i = 0; i < 6 * sizeof sizes / sizeof sizes[0]; i++) {
        const size_t length = sizes[i / 6];
        fill(&f, length, i % 2);
        const struct written blob = write_blob(&f, length, codecs[i % 3]);
        size_t at;
        ck_assert_uint_eq(blob.table_length, kv_blob_table_range(&blob.ref, 0, length, &at));
        ck_assert_uint_le(blob.table_length, KV_BLOB_TABLE_MAX);
        const bool packed = i % 3 && i % 2 && length > KV_BLOCK_BYTES;
        ck_assert_uint_eq(kv_blob_codec(&blob.ref), packed ? codecs[i % 3].codec : KV_CODEC_NONE);
        ck_assert_uint_eq(blob.table_length > 0, length > (packed ? 65536u : 16384u));
        ck_assert(kv_blob_table_agrees(&blob.ref, 0, length, blob.table));
        ck_assert_int_eq(kv_blobs_verify(&f.blobs, &blob.ref), 0);
        for (unsigned part = 0; part < 40; part++) {
            const size_t from = below(&f, length), to = from + 1 + below(&f, length - from);
            const size_t begin = from + below(&f, to - from);
            const size_t count = 1 + below(&f, to - begin);
            const size_t slice = kv_blob_table_range(&blob.ref, from, to - from, &at);
            uint8_t *const table = malloc(slice + 1); /* no more than that is looked at */
            memcpy(table, blob.table + at, slice);
            const struct kv_blob_part wanted = {.ref = blob.ref,
                                                .buf = f.back,
                                                .offset = begin,
                                                .length = count,
                                                .table = slice && part % 5 ? table : NULL,
                                                .table_from = from,
                                                .table_to = to};
            ck_assert_int_eq(kv_blobs_read(&f.blobs, &wanted, 1), 0);
            ck_assert_int_eq(memcmp(f.back, f.bytes + begin, count), 0);
            free(table);
        }
        if (blob.table_length) {
            const struct kv_blob_part outside = {.ref = blob.ref,
                                                 .buf = f.back,
                                                 .offset = 0,
                                                 .length = 10,
                                                 .table = blob.table,
                                                 .table_from = 1,
                                                 .table_to = 9};
            ck_assert_int_eq(kv_blobs_read(&f.blobs, &outside, 1), -ERANGE);
        }
        kv_blobs_discard(&f.blobs, &blob.ref);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(a_block_of_what_is_not_packed_takes_one_read_of_a_block)
{
    struct fixture f;
    fixture_init(&f, 1);
    fill(&f, EXTENT, false);
    const struct written blob = write_blob(&f, EXTENT, codecs[1]);
    ck_assert_uint_eq(blob.table_length, 256);
    for (size_t at = 0; at < EXTENT; at += KV_BLOCK_BYTES) {
        const struct kv_device_counts before = counts_of(&f);
        ck_assert_int_eq(read_part(&f, &blob, at, KV_BLOCK_BYTES), 0);
        ck_assert_int_eq(memcmp(f.back, f.bytes + at, KV_BLOCK_BYTES), 0);
        ck_assert_uint_eq(counts_of(&f).reads - before.reads, 1);
        ck_assert_uint_eq(counts_of(&f).read_bytes - before.read_bytes, KV_BLOCK_BYTES);
    }
    /* Two bytes in two frames. */
    const struct kv_device_counts before = counts_of(&f);
    ck_assert_int_eq(read_part(&f, &blob, 8191, 2), 0);
    ck_assert_int_eq(memcmp(f.back, f.bytes + 8191, 2), 0);
    ck_assert_uint_eq(counts_of(&f).read_bytes - before.read_bytes, 2u * KV_BLOCK_BYTES);
    fixture_release(&f);
}
END_TEST

START_TEST(a_part_of_what_is_packed_takes_one_read_of_its_frame)
{
    struct fixture f;
    fixture_init(&f, 2);
    fill(&f, EXTENT, true);
    const struct written blob = write_blob(&f, EXTENT, codecs[1]);
    const size_t stored = kv_blob_stored_bytes(&blob.ref);
    ck_assert_uint_eq(blob.table_length, 2u * sizeof(struct kv_disk_packed_blob_frame));
    ck_assert_uint_le(stored, EXTENT * 3 / 4);
    for (size_t at = 0; at < EXTENT; at += KV_BLOCK_BYTES) {
        const struct kv_device_counts before = counts_of(&f);
        ck_assert_int_eq(read_part(&f, &blob, at, KV_BLOCK_BYTES), 0);
        ck_assert_int_eq(memcmp(f.back, f.bytes + at, KV_BLOCK_BYTES), 0);
        ck_assert_uint_eq(counts_of(&f).reads - before.reads, 1);
        ck_assert_uint_le(counts_of(&f).read_bytes - before.read_bytes,
                          stored / 2 + 2u * KV_BLOCK_BYTES);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(a_damaged_frame_spoils_what_touches_it_and_nothing_else)
{
    struct fixture f;
    fixture_init(&f, 3);
    for (unsigned packed = 0; packed < 2; packed++) {
        fill(&f, EXTENT, packed);
        const struct written blob = write_blob(&f, EXTENT, codecs[packed]);
        const uint32_t frame = packed ? 65536 : KV_BLOCK_BYTES;
        damage(&f, &blob, packed ? 5000 : 3u * frame + 77);
        const size_t bad = packed ? 0 : 3u * frame;
        for (size_t at = 0; at < EXTENT; at += KV_BLOCK_BYTES) {
            const bool touches = at >= bad && at < bad + frame;
            ck_assert_int_eq(read_part(&f, &blob, at, KV_BLOCK_BYTES), touches ? -EBADMSG : 0);
            if (!touches)
                ck_assert_int_eq(memcmp(f.back, f.bytes + at, KV_BLOCK_BYTES), 0);
        }
        ck_assert_int_eq(read_part(&f, &blob, 0, EXTENT), -EBADMSG);
        ck_assert_int_eq(kv_blobs_verify(&f.blobs, &blob.ref), -EBADMSG);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(damaged_lengths_of_frames_spoil_the_whole_and_no_part)
{
    struct fixture f;
    fixture_init(&f, 4);
    fill(&f, EXTENT, true);
    const struct written blob = write_blob(&f, EXTENT, codecs[1]);
    damage(&f, &blob, 1);
    ck_assert_int_eq(read_part(&f, &blob, 0, EXTENT), -EBADMSG);
    ck_assert_int_eq(kv_blobs_verify(&f.blobs, &blob.ref), -EBADMSG);
    ck_assert_int_eq(read_part(&f, &blob, 70000, 100), 0);
    ck_assert_int_eq(memcmp(f.back, f.bytes + 70000, 100), 0);
    fixture_release(&f);
}
END_TEST

/* A table comes from a leaf, and that may be an enemy's. */
START_TEST(no_table_makes_a_wrong_access)
{
    struct fixture f;
    fixture_init(&f, 5);
    for (unsigned packed = 0; packed < 2; packed++) {
        fill(&f, EXTENT, packed);
        const struct written good = write_blob(&f, EXTENT, codecs[packed]);
        unsigned wrong = 0, disagreeing = 0;
        for (unsigned i = 0; i < 5000; i++) {
            struct written bad = good;
            const unsigned changes = 1 + (unsigned)below(&f, 3);
            for (unsigned k = 0; k < changes; k++)
                bad.table[below(&f, bad.table_length)] = (uint8_t)test_random_next(&f.random);
            const size_t offset = below(&f, EXTENT), count = 1 + below(&f, EXTENT - offset);
            const int err = read_part(&f, &bad, offset, count);
            KV_ASSERT(err == 0 || err == -EBADMSG || err == -EUCLEAN);
            wrong += err == 0 && memcmp(f.back, f.bytes + offset, count) != 0;
            disagreeing += memcmp(bad.table, good.table, good.table_length) != 0 &&
                           kv_blob_table_agrees(&bad.ref, 0, EXTENT, bad.table);
        }
        ck_assert_uint_eq(wrong, 0);
        ck_assert_uint_eq(disagreeing, 0);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(an_image_without_the_feature_has_no_frames)
{
    struct fixture f;
    fixture_init(&f, 6);
    fill(&f, EXTENT, true);
    const struct written new = write_blob(&f, EXTENT, codecs[1]);
    f.blobs.in_frames = false;
    const struct written old = write_blob(&f, EXTENT, codecs[1]);
    ck_assert_uint_eq(old.table_length, 0);
    ck_assert_uint_eq(old.disk.form, KV_BLOB_FORM_WHOLE);
    ck_assert_int_eq(read_part(&f, &old, 5000, 5000), 0);
    ck_assert_int_eq(memcmp(f.back, f.bytes + 5000, 5000), 0);
    ck_assert_int_eq(read_part(&f, &new, 5000, 5000), -EUCLEAN);
    /* And one with it still reads those from before. */
    f.blobs.in_frames = true;
    ck_assert_int_eq(read_part(&f, &old, 70000, 5000), 0);
    ck_assert_int_eq(memcmp(f.back, f.bytes + 70000, 5000), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(frames_are_cached_one_by_one_and_read_ahead_in_order)
{
    struct fixture f;
    fixture_init(&f, 7);
    f.blobs.cache = kv_blob_cache_new(1u << 20, 0);
    fill(&f, EXTENT, false);
    const struct written blob = write_blob(&f, EXTENT, codecs[0]);
    /* 1, 1 and 1 more, 1 and 3 more, ...: 0 | 1 2 | 3..6 | 7..14 | 15..30 | 31 */
    struct kv_device_counts before = counts_of(&f);
    for (size_t at = 0; at < EXTENT; at += KV_BLOCK_BYTES) {
        ck_assert_int_eq(read_part(&f, &blob, at, KV_BLOCK_BYTES), 0);
        ck_assert_int_eq(memcmp(f.back, f.bytes + at, KV_BLOCK_BYTES), 0);
    }
    ck_assert_uint_eq(counts_of(&f).reads - before.reads, 6);
    ck_assert_uint_eq(counts_of(&f).read_bytes - before.read_bytes, EXTENT);
    /* Now all of it is there. */
    before = counts_of(&f);
    for (unsigned i = 0; i < 200; i++) {
        const size_t offset = below(&f, EXTENT), count = 1 + below(&f, EXTENT - offset);
        ck_assert_int_eq(read_part(&f, &blob, offset, count), 0);
        ck_assert_int_eq(memcmp(f.back, f.bytes + offset, count), 0);
    }
    ck_assert_uint_eq(counts_of(&f).reads, before.reads);

    /* At random nothing is read ahead. */
    const struct written other = write_blob(&f, EXTENT, codecs[0]);
    before = counts_of(&f);
    for (size_t at = 0; at < EXTENT; at += 2u * KV_BLOCK_BYTES)
        ck_assert_int_eq(read_part(&f, &other, at, KV_BLOCK_BYTES), 0);
    ck_assert_uint_eq(counts_of(&f).read_bytes - before.read_bytes, EXTENT / 2);
    fixture_release(&f);
}
END_TEST

START_TEST(what_is_only_read_ahead_may_be_damaged_or_unreadable)
{
    struct fixture f;
    fixture_init(&f, 8);
    f.blobs.cache = kv_blob_cache_new(1u << 20, 0);
    fill(&f, EXTENT, false);
    const struct written blob = write_blob(&f, EXTENT, codecs[0]);
    damage(&f, &blob, 2u * KV_BLOCK_BYTES);
    ck_assert_int_eq(read_part(&f, &blob, 0, KV_BLOCK_BYTES), 0);
    ck_assert_int_eq(read_part(&f, &blob, KV_BLOCK_BYTES, KV_BLOCK_BYTES), 0); /* and one more */
    ck_assert_int_eq(read_part(&f, &blob, 2u * KV_BLOCK_BYTES, KV_BLOCK_BYTES), -EBADMSG);
    ck_assert_int_eq(read_part(&f, &blob, 6u * KV_BLOCK_BYTES, KV_BLOCK_BYTES), 0);
    /* The read that takes one more along fails, the one without it does not. */
    faulty_arm(f.faulty, (struct fault){.targets = FAULT_READS, .error = -EIO});
    ck_assert_int_eq(read_part(&f, &blob, 7u * KV_BLOCK_BYTES, KV_BLOCK_BYTES), 0);
    ck_assert_int_eq(memcmp(f.back, f.bytes + 7u * KV_BLOCK_BYTES, KV_BLOCK_BYTES), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(what_waits_to_be_written_is_read_in_parts_too)
{
    struct fixture f;
    fixture_init(&f, 9);
    const struct kv_blob_pending_config config = {.device = f.pages.device, .block_count = 256};
    f.blobs.pending = kv_blob_pending_new(&config);
    ck_assert_ptr_nonnull(f.blobs.pending);
    for (unsigned packed = 0; packed < 2; packed++) {
        fill(&f, EXTENT, packed);
        const struct written blob = write_blob(&f, EXTENT, codecs[packed]);
        const struct kv_device_counts before = counts_of(&f);
        for (unsigned i = 0; i < 50; i++) {
            const size_t offset = below(&f, EXTENT), count = 1 + below(&f, EXTENT - offset);
            ck_assert_int_eq(read_part(&f, &blob, offset, count), 0);
            ck_assert_int_eq(memcmp(f.back, f.bytes + offset, count), 0);
        }
        ck_assert_uint_eq(counts_of(&f).reads, before.reads);
    }
    ck_assert_int_eq(kv_blobs_flush(&f.blobs), 0);
    kv_blob_pending_free(f.blobs.pending);
    fixture_release(&f);
}
END_TEST

/* ---- ahead of need ------------------------------------------------------------------------ */

#define AHEAD 6u

/* Blobs of which every other one shrinks, and what they hold. */
struct several {
    struct written blobs[AHEAD];
    struct kv_blob_ref refs[AHEAD];
    uint8_t contents[AHEAD][EXTENT];
};

static void write_several(struct fixture *f, struct several *several, struct kv_codec_spec codec)
{
    f->blobs.cache = kv_blob_cache_new(4u << 20, 0);
    ck_assert_ptr_nonnull(f->blobs.cache);
    for (unsigned i = 0; i < AHEAD; i++) {
        fill(f, EXTENT, i % 2);
        memcpy(several->contents[i], f->bytes, EXTENT);
        several->blobs[i] = write_blob(f, EXTENT, codec);
        several->refs[i] = several->blobs[i].ref;
    }
}

static void expect_part(struct fixture *f, const struct several *several, unsigned i, size_t offset,
                        size_t length)
{
    ck_assert_int_eq(read_part(f, &several->blobs[i], offset, length), 0);
    ck_assert_mem_eq(f->back, several->contents[i] + offset, length);
}

START_TEST(what_is_prefetched_is_read_without_the_device_once)
{
    static struct several several;
    struct fixture f;
    fixture_init(&f, 60u + (unsigned)_i);
    write_several(&f, &several, codecs[_i]);
    kv_blobs_prefetch(&f.blobs, several.refs, AHEAD);
    ck_assert_uint_eq(atomic_load(&f.blobs.reads), AHEAD);
    kv_blobs_prefetch(&f.blobs, several.refs, AHEAD); /* they are there */
    for (unsigned i = 0; i < AHEAD; i++) {
        expect_part(&f, &several, i, 0, EXTENT / 2);
        expect_part(&f, &several, i, EXTENT / 2, EXTENT / 2);
    }
    ck_assert_uint_eq(atomic_load(&f.blobs.reads), AHEAD);
    /* Who reads much at once goes by: with their last bytes they made room. */
    for (unsigned i = 0; i < AHEAD; i++)
        expect_part(&f, &several, i, 0, EXTENT);
    ck_assert_uint_eq(atomic_load(&f.blobs.reads), 2 * AHEAD);
    fixture_release(&f);
}
END_TEST

START_TEST(what_is_prefetched_may_be_damaged_or_unreadable)
{
    static struct several several;
    struct fixture f;
    fixture_init(&f, 70u + (unsigned)_i);
    write_several(&f, &several, codecs[_i]);
    damage(&f, &several.blobs[2], 5000);
    faulty_arm(f.faulty, (struct fault){.targets = FAULT_READS, .after = 4, .error = -EIO});
    kv_blobs_prefetch(&f.blobs, several.refs, AHEAD);
    ck_assert_uint_eq(faulty_failures(f.faulty), 1);
    for (unsigned i = 0; i < AHEAD; i++) {
        if (i == 2)
            ck_assert_int_eq(read_part(&f, &several.blobs[i], 0, EXTENT), -EBADMSG);
        else
            expect_part(&f, &several, i, 0, EXTENT);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(prefetching_ends_where_nobody_uses_what_it_reads)
{
    struct fixture f;
    struct kv_blob_ref refs[64];
    fixture_init(&f, 80);
    f.blobs.cache = kv_blob_cache_new(1u << 20, 0); /* far less than all of them */
    ck_assert_ptr_nonnull(f.blobs.cache);
    for (unsigned i = 0; i < 64; i++) {
        fill(&f, EXTENT, false);
        refs[i] = write_blob(&f, EXTENT, codecs[0]).ref;
    }
    for (unsigned round = 0; round < 40; round++)
        for (unsigned i = 0; i < 64; i += 8)
            kv_blobs_prefetch(&f.blobs, refs + i, 8);
    ck_assert_uint_ge(atomic_load(&f.blobs.reads), 64);
    ck_assert_uint_lt(atomic_load(&f.blobs.reads), 700); /* of 2,560 */
    fixture_release(&f);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("blob_frames");
    TCase *const tcase = tcase_create("blob_frames");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, any_part_comes_back_by_any_part_of_the_table);
    tcase_add_test(tcase, a_block_of_what_is_not_packed_takes_one_read_of_a_block);
    tcase_add_test(tcase, a_part_of_what_is_packed_takes_one_read_of_its_frame);
    tcase_add_test(tcase, a_damaged_frame_spoils_what_touches_it_and_nothing_else);
    tcase_add_test(tcase, damaged_lengths_of_frames_spoil_the_whole_and_no_part);
    tcase_add_test(tcase, no_table_makes_a_wrong_access);
    tcase_add_test(tcase, an_image_without_the_feature_has_no_frames);
    tcase_add_test(tcase, frames_are_cached_one_by_one_and_read_ahead_in_order);
    tcase_add_test(tcase, what_is_only_read_ahead_may_be_damaged_or_unreadable);
    tcase_add_loop_test(tcase, what_is_prefetched_is_read_without_the_device_once, 0, 3);
    tcase_add_loop_test(tcase, what_is_prefetched_may_be_damaged_or_unreadable, 0, 3);
    tcase_add_test(tcase, prefetching_ends_where_nobody_uses_what_it_reads);
    tcase_add_test(tcase, what_waits_to_be_written_is_read_in_parts_too);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
