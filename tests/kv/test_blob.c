/*
 * tests/kv/test_blob.c: blobs of every size and codec come back; what is not them does not.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/blob.h"
#include "support_devices.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define DEVICE_BLOCKS 8000u
#define EPOCH         7u

static uint64_t seed_start;

struct fixture {
    struct faulty *faulty;
    struct test_pages pages;
    struct kv_blobs blobs;
    struct test_random random;
    uint8_t *bytes, *back; /* KV_BLOB_MAX each */
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
    f->bytes = malloc(KV_BLOB_MAX);
    f->back = malloc(KV_BLOB_MAX);
    ck_assert_ptr_nonnull(f->bytes);
    ck_assert_ptr_nonnull(f->back);
}

static int read_part(struct fixture *f, const struct kv_blob_ref *ref, size_t offset, void *buf,
                     size_t length)
{
    const struct kv_blob_part part = {.ref = *ref, .buf = buf, .offset = offset, .length = length};
    return kv_blobs_read(&f->blobs, &part, 1);
}

static void fixture_release(struct fixture *f)
{
    free(f->bytes);
    free(f->back);
    test_pages_release(&f->pages);
    faulty_free(f->faulty);
}

static size_t below(struct fixture *f, size_t limit)
{
    return test_random_below(&f->random, limit);
}

static void discard(struct fixture *f, const struct kv_blob_ref *ref)
{
    uint64_t block;
    uint32_t count;
    ck_assert_int_eq(kv_blobs_extent(&f->blobs, ref, &block, &count), 0);
    kv_space_unalloc(f->pages.space, block, count);
}

static struct kv_blob_ref write_blob(struct fixture *f, size_t length, struct kv_codec_spec codec)
{
    struct kv_blob_ref ref;
    size_t written = 0;
    ck_assert_int_eq(kv_blobs_write(&f->blobs, f->bytes, length, &codec, EPOCH, &ref, &written), 0);
    ck_assert_uint_eq(written, length);
    return ref;
}

START_TEST(blobs_come_back_whole_and_in_parts)
{
    static const size_t sizes[] = {1, 100, 4095, 4096, 4097, 50000, 131072, KV_BLOB_MAX};
    static const struct kv_codec_spec codecs[] = {
        {KV_CODEC_NONE, 0}, {KV_CODEC_LZ4, 0}, {KV_CODEC_ZSTD, 1}};
    struct fixture f;
    fixture_init(&f, 0);
    const uint64_t used = test_pages_used_blocks(&f.pages);
    for (size_t i = 0; i < 3 * sizeof sizes / sizeof sizes[0]; i++) {
        const size_t length = sizes[i / 3];
        test_fill(f.bytes, length, i % 2 ? 2 : 1 + i);
        const struct kv_blob_ref ref = write_blob(&f, length, codecs[i % 3]);
        ck_assert_uint_eq(kv_blob_length(&ref), length);
        ck_assert_uint_le(kv_blob_stored_bytes(&ref),
                          kv_blocks_for(length) * (size_t)KV_BLOCK_BYTES);
        ck_assert_int_eq(kv_blobs_verify(&f.blobs, &ref), 0);
        ck_assert_int_eq(read_part(&f, &ref, 0, f.back, length), 0);
        ck_assert_int_eq(memcmp(f.back, f.bytes, length), 0);
        for (unsigned part = 0; part < 20; part++) {
            const size_t offset = below(&f, length + 1);
            const size_t count = below(&f, length - offset + 1);
            ck_assert_int_eq(read_part(&f, &ref, offset, f.back, count), 0);
            ck_assert_int_eq(memcmp(f.back, f.bytes + offset, count), 0);
        }
        ck_assert_int_eq(read_part(&f, &ref, length, f.back, 1), -ERANGE);
        ck_assert_int_eq(read_part(&f, &ref, 1, f.back, SIZE_MAX), -ERANGE);
        discard(&f, &ref);
    }
    ck_assert_uint_eq(test_pages_used_blocks(&f.pages), used);
    fixture_release(&f);
}
END_TEST

/* Parts of more blobs than one submission takes; some go straight to where they are wanted. */
START_TEST(several_blobs_are_read_together)
{
    enum { COUNT = 2 * KV_BLOBS_AT_ONCE + 3, ROOM = 32768 };
    struct fixture f;
    struct kv_blob_part parts[COUNT];
    fixture_init(&f, 1);
    uint8_t *const all = malloc((size_t)COUNT * ROOM);
    uint8_t *const back = kv_device_alloc((size_t)COUNT * ROOM);
    ck_assert_ptr_nonnull(all);
    ck_assert_ptr_nonnull(back);
    memset(all, 0, (size_t)COUNT * ROOM);
    for (size_t i = 0; i < COUNT; i++) {
        struct kv_blob_part *const part = &parts[i];
        const size_t length = i % 4 ? 1 + below(&f, ROOM) : 4096 * (1 + below(&f, 8));
        test_fill(f.bytes, length, i);
        part->ref = write_blob(&f, length, (struct kv_codec_spec){(enum kv_codec)(i % 3), 0});
        part->offset = i % 4 == 1 ? below(&f, length) : 0;
        part->length = length - part->offset;
        part->buf = back + i * ROOM + (i % 5 ? 0 : 7) % (ROOM - part->length + 1);
        memcpy(all + ((uint8_t *)part->buf - back), f.bytes + part->offset, part->length);
    }
    ck_assert_int_eq(kv_blobs_read(&f.blobs, parts, COUNT), 0);
    ck_assert_int_eq(memcmp(all, back, (size_t)COUNT * ROOM), 0);
    ck_assert_int_eq(kv_blobs_read(&f.blobs, parts, 0), 0);

    /* One that is not what the reference says spoils it. */
    parts[COUNT - 1].ref.bytes[24] ^= 1;
    ck_assert_int_eq(kv_blobs_read(&f.blobs, parts, COUNT), -EBADMSG);
    parts[COUNT - 2].offset = ROOM;
    ck_assert_int_eq(kv_blobs_read(&f.blobs, parts, COUNT), -ERANGE);
    free(all);
    free(back);
    fixture_release(&f);
}
END_TEST

/* The bytes of a reference come from leaves and from the log. */
START_TEST(no_reference_makes_a_wrong_access)
{
    struct fixture f;
    fixture_init(&f, 2);
    test_fill(f.bytes, 60000, 9);
    const struct kv_blob_ref good = write_blob(&f, 60000, (struct kv_codec_spec){KV_CODEC_LZ4, 0});
    unsigned accepted = 0;
    for (unsigned i = 0; i < 20000; i++) {
        struct kv_blob_ref ref = good;
        const unsigned changes = 1 + (unsigned)below(&f, 3);
        for (unsigned k = 0; k < changes; k++)
            ref.bytes[below(&f, sizeof ref.bytes)] = (uint8_t)test_random_next(&f.random);
        if (i % 4 == 0)
            for (size_t k = 0; k < sizeof ref.bytes; k++)
                ref.bytes[k] = (uint8_t)test_random_next(&f.random);
        const size_t length = kv_min_u64(kv_blob_length(&ref), KV_BLOB_MAX);
        const int err = read_part(&f, &ref, 0, f.back, length);
        KV_ASSERT(err == 0 || err == -EUCLEAN || err == -EBADMSG || err == -ERANGE);
        accepted += err == 0 && memcmp(f.back, f.bytes, length) != 0;
    }
    ck_assert_uint_eq(accepted, 0);
    fixture_release(&f);
}
END_TEST

START_TEST(an_old_blob_in_the_same_place_is_not_taken_for_the_new_one)
{
    struct fixture f;
    fixture_init(&f, 3);
    const struct kv_codec_spec none = {KV_CODEC_NONE, 0};
    test_fill(f.bytes, 5000, 1);
    const struct kv_blob_ref old = write_blob(&f, 5000, none);
    discard(&f, &old);
    struct kv_blob_ref moved;
    size_t written;
    do { /* the search goes on from where it was: come round to the same place */
        test_fill(f.bytes, 5000, 2);
        ck_assert_int_eq(
            kv_blobs_write(&f.blobs, f.bytes, 5000, &none, EPOCH + 1, &moved, &written), 0);
        if (memcmp(moved.bytes, old.bytes, 8) != 0)
            continue;
        break;
    } while (true);
    ck_assert_int_eq(kv_blobs_verify(&f.blobs, &moved), 0);
    ck_assert_int_eq(kv_blobs_verify(&f.blobs, &old), -EBADMSG);
    fixture_release(&f);
}
END_TEST

START_TEST(on_fragmented_space_less_is_taken_and_said)
{
    struct fixture f;
    fixture_init(&f, 4);
    const struct kv_codec_spec none = {KV_CODEC_NONE, 0};
    struct kv_blob_ref refs[4000];
    size_t count = 0, written;
    test_fill(f.bytes, KV_BLOB_MAX, 4); /* does not matter: it is not packed */
    while (count < 4000 && !kv_blobs_write(&f.blobs, f.bytes, 2 * KV_BLOCK_BYTES, &none, EPOCH,
                                           &refs[count], &written))
        count++;
    ck_assert_uint_lt(count, 4000);
    /* Every other one goes: no free run is longer than two or three blocks. */
    for (size_t i = 0; i < count; i += 2)
        discard(&f, &refs[i]);
    struct kv_blob_ref ref;
    size_t taken = 0;
    while (!kv_blobs_write(&f.blobs, f.bytes, KV_BLOB_MAX, &none, EPOCH, &ref, &written)) {
        ck_assert_uint_ge(written, 1);
        ck_assert_uint_lt(written, KV_BLOB_MAX);
        ck_assert_uint_eq(kv_blob_length(&ref), written);
        ck_assert_int_eq(read_part(&f, &ref, 0, f.back, written), 0);
        ck_assert_int_eq(memcmp(f.back, f.bytes, written), 0);
        taken += kv_blocks_for(written);
    }
    ck_assert_uint_ge(taken, count / 2);
    fixture_release(&f);
}
END_TEST

START_TEST(several_blobs_are_written_together)
{
    enum { COUNT = 9, LENGTH = 60000 };
    struct fixture f;
    fixture_init(&f, 6);
    ck_assert_int_eq(kv_crew_new(&f.blobs.crew), 0);
    const struct kv_codec_spec lz4 = {KV_CODEC_LZ4, 0};
    struct kv_blob_source sources[COUNT];
    for (size_t i = 0; i < COUNT; i++) { /* one in three shrinks */
        uint8_t *const bytes = f.bytes + i * LENGTH;
        for (size_t at = 0; at < LENGTH; at++)
            bytes[at] = i % 3 ? (uint8_t)test_random_next(&f.random) : (uint8_t)(i + at / 1000);
        sources[i] = (struct kv_blob_source){.bytes = bytes, .length = LENGTH};
    }
    ck_assert_int_eq(kv_blobs_write_many(&f.blobs, sources, COUNT, &lz4, EPOCH), 0);
    uint64_t last = 0;
    for (size_t i = 0; i < COUNT; i++) {
        uint64_t block;
        uint32_t count;
        ck_assert_uint_eq(sources[i].written, LENGTH);
        ck_assert_int_eq(kv_blobs_extent(&f.blobs, &sources[i].ref, &block, &count), 0);
        ck_assert_uint_gt(block, last);
        ck_assert_uint_eq(count == kv_blocks_for(LENGTH), i % 3 != 0);
        last = block;
        ck_assert_int_eq(read_part(&f, &sources[i].ref, 0, f.back, LENGTH), 0);
        ck_assert_int_eq(memcmp(f.back, sources[i].bytes, LENGTH), 0);
    }
    /* What was written before one that fails is told. */
    faulty_arm(f.faulty, (struct fault){.targets = FAULT_WRITES, .after = 2, .error = -EIO});
    ck_assert_int_eq(kv_blobs_write_many(&f.blobs, sources, COUNT, &lz4, EPOCH), -EIO);
    for (size_t i = 0; i < COUNT; i++)
        ck_assert_uint_eq(sources[i].written, i < 2 ? LENGTH : 0);
    kv_crew_free(f.blobs.crew);
    fixture_release(&f);
}
END_TEST

START_TEST(a_failed_write_gives_the_space_back)
{
    struct fixture f;
    fixture_init(&f, 5);
    const struct kv_codec_spec none = {KV_CODEC_NONE, 0};
    struct kv_blob_ref ref;
    size_t written = 77;
    const uint64_t used = test_pages_used_blocks(&f.pages);
    test_fill(f.bytes, 100000, 1);
    faulty_arm(f.faulty,
               (struct fault){.targets = FAULT_WRITES, .lasting = true, .error = -ENOSPC});
    ck_assert_int_eq(kv_blobs_write(&f.blobs, f.bytes, 100000, &none, EPOCH, &ref, &written), -EIO);
    ck_assert_uint_eq(test_pages_used_blocks(&f.pages), used);
    ck_assert_int_eq(kv_blobs_write(&f.blobs, f.bytes, 0, &none, EPOCH, &ref, &written), -EINVAL);
    ck_assert_int_eq(
        kv_blobs_write(&f.blobs, f.bytes, KV_BLOB_MAX + 1, &none, EPOCH, &ref, &written), -EINVAL);
    fixture_release(&f);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("blob");
    TCase *const blob = tcase_create("blob");
    tcase_set_timeout(blob, 120);
    tcase_add_test(blob, blobs_come_back_whole_and_in_parts);
    tcase_add_test(blob, several_blobs_are_read_together);
    tcase_add_test(blob, several_blobs_are_written_together);
    tcase_add_test(blob, no_reference_makes_a_wrong_access);
    tcase_add_test(blob, an_old_blob_in_the_same_place_is_not_taken_for_the_new_one);
    tcase_add_test(blob, on_fragmented_space_less_is_taken_and_said);
    tcase_add_test(blob, a_failed_write_gives_the_space_back);
    suite_add_tcase(suite, blob);
    return test_run(suite);
}
