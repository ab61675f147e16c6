/*
 * tests/kv/test_blob_reading.c: reads that the caller makes: they end late, in any order, short,
 * not at all, or when their blocks are somebody else's already.
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
#define EXTENT        131072u
#define BLOBS         6u
#define READINGS      40u
#define DESCRIPTOR    4711 /* only handed on */

static uint64_t seed_start;
static const struct kv_codec_spec codecs[] = {
    {KV_CODEC_NONE, 0}, {KV_CODEC_LZ4, 0}, {KV_CODEC_ZSTD, 1}};

/* A device in memory that says of itself that others can read it. */
struct described {
    struct kv_device base;
    struct kv_device *below;
};

static int submit_below(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    return kv_device_submit(((struct described *)device)->below, ios, io_count, flush);
}

static int descriptor_of(struct kv_device *device)
{
    (void)device;
    return DESCRIPTOR;
}

struct written {
    struct kv_blob_ref ref;
    uint8_t table[KV_BLOB_TABLE_MAX];
    uint8_t *bytes; /* EXTENT of them */
};

struct fixture {
    struct described described;
    struct test_pages pages;
    struct kv_blobs blobs;
    struct test_random random;
    struct written written[BLOBS];
};

static size_t below(struct fixture *f, size_t limit)
{
    return test_random_below(&f->random, limit);
}

static void write_blob(struct fixture *f, struct written *blob, unsigned kind)
{
    const bool shrinks = kind / 3 % 2;
    for (size_t at = 0; at < EXTENT; at += 8) {
        const uint64_t word = at / 8 % 2 && shrinks ? 0 : test_random_next(&f->random);
        memcpy(blob->bytes + at, &word, 8);
    }
    struct kv_blob_source source = {.bytes = blob->bytes, .length = EXTENT, .table = blob->table};
    ck_assert_int_eq(kv_blobs_write_many(&f->blobs, &source, 1, &codecs[kind % 3], EPOCH), 0);
    ck_assert_uint_eq(source.written, EXTENT);
    blob->ref = source.ref;
}

static void fixture_init(struct fixture *f, uint64_t salt)
{
    static const struct kv_device_ops ops = {.submit = submit_below, .descriptor = descriptor_of};
    memset(f, 0, sizeof *f);
    f->random.state = seed_start * 100 + salt;
    test_pages_init(&f->pages, memory_device_new(DEVICE_BLOCKS), 16384, 0, KV_CODEC_NONE);
    f->described = (struct described){.base = {.ops = &ops, .block_count = DEVICE_BLOCKS},
                                      .below = f->pages.device};
    f->blobs.device = &f->described.base;
    f->blobs.space = f->pages.space;
    f->blobs.buffers = f->pages.buffers;
    f->blobs.in_frames = true;
    for (unsigned i = 0; i < BLOBS; i++) {
        f->written[i].bytes = kv_device_alloc(EXTENT);
        ck_assert_ptr_nonnull(f->written[i].bytes);
        write_blob(f, &f->written[i], i);
    }
}

static void fixture_release(struct fixture *f)
{
    for (unsigned i = 0; i < BLOBS; i++)
        free(f->written[i].bytes);
    kv_blob_cache_free(f->blobs.cache);
    test_pages_release(&f->pages);
    kv_device_close(f->described.below);
}

/* A part of a blob that was asked for. */
struct asked {
    const struct written *blob;
    struct kv_blob_part part;
    struct kv_blob_reading *reading;
    struct kv_blob_transfer transfer;
};

static void ask(struct fixture *f, const struct written *blob, size_t offset, size_t length,
                struct asked *asked)
{
    asked->blob = blob;
    asked->part = (struct kv_blob_part){.ref = blob->ref,
                                        .buf = kv_device_alloc(EXTENT),
                                        .offset = offset,
                                        .length = length,
                                        .table = blob->table,
                                        .table_from = 0,
                                        .table_to = EXTENT};
    ck_assert_ptr_nonnull(asked->part.buf);
    memset(asked->part.buf, 0x5a, EXTENT);
    /* Neither the part nor its table outlives the call. */
    uint8_t table[KV_BLOB_TABLE_MAX];
    memcpy(table, blob->table, sizeof table);
    struct kv_blob_part part = asked->part;
    part.table = table;
    ck_assert_int_eq(kv_blobs_read_begin(&f->blobs, &part, &asked->reading, &asked->transfer), 0);
    memset(table, 0, sizeof table);
    memset(&part, 0, sizeof part);
}

/* The device does what was asked for. */
static int make_transfer(struct fixture *f, const struct kv_blob_transfer *transfer)
{
    ck_assert_int_eq(transfer->descriptor, DESCRIPTOR);
    ck_assert_uint_eq(transfer->offset % KV_BLOCK_BYTES, 0);
    ck_assert_uint_eq(transfer->length % KV_BLOCK_BYTES, 0);
    ck_assert_int_eq(kv_device_read(f->pages.device, transfer->offset / KV_BLOCK_BYTES,
                                    transfer->length / KV_BLOCK_BYTES, transfer->buf),
                     0);
    return (int)transfer->length;
}

static bool came(const struct asked *asked)
{
    return memcmp(asked->part.buf, asked->blob->bytes + asked->part.offset, asked->part.length) ==
           0;
}

static void ask_at_random(struct fixture *f, struct asked *asked)
{
    size_t offset = below(f, EXTENT), length = 1 + below(f, EXTENT - offset);
    if (below(f, 2)) { /* as programs mostly do */
        offset = offset / KV_BLOCK_BYTES * KV_BLOCK_BYTES;
        length = KV_BLOCK_BYTES;
    }
    ask(f, &f->written[below(f, BLOBS)], offset, length, asked);
}

START_TEST(readings_that_end_in_any_order_bring_what_was_asked_for)
{
    struct fixture f;
    fixture_init(&f, 0);
    for (unsigned cached = 0; cached < 2; cached++) {
        static struct asked asked[READINGS];
        unsigned made = 0;
        for (unsigned i = 0; i < READINGS; i++)
            ask_at_random(&f, &asked[i]);
        for (unsigned left = READINGS; left; left--) {
            const size_t at = below(&f, left);
            struct asked *const one = &asked[at];
            if (one->reading) {
                const int result = make_transfer(&f, &one->transfer);
                ck_assert_int_eq(kv_blobs_read_end(&f.blobs, one->reading, result), 0);
                made++;
            }
            ck_assert(came(one));
            free(one->part.buf);
            *one = asked[left - 1];
        }
        ck_assert_uint_gt(made, 0);
        ck_assert(cached || made == READINGS);
        if (!cached)
            f.blobs.cache = kv_blob_cache_new(4u << 20, 0);
    }
    /* What was kept is there at once. */
    struct asked first, again;
    ask(&f, &f.written[0], 4096, 4096, &first);
    if (first.reading)
        ck_assert_int_eq(
            kv_blobs_read_end(&f.blobs, first.reading, make_transfer(&f, &first.transfer)), 0);
    ask(&f, &f.written[0], 4096, 4096, &again);
    ck_assert_ptr_null(again.reading);
    ck_assert(came(&again));
    free(first.part.buf);
    free(again.part.buf);
    fixture_release(&f);
}
END_TEST

START_TEST(a_transfer_that_fails_or_is_short_is_an_error_and_can_be_made_again)
{
    struct fixture f;
    fixture_init(&f, 1);
    for (unsigned i = 0; i < READINGS; i++) {
        struct asked asked;
        ask_at_random(&f, &asked);
        const int whole = (int)asked.transfer.length;
        const int results[] = {-EIO, -EINTR, -ECANCELED, 0, whole - 512};
        ck_assert_int_ne(kv_blobs_read_end(&f.blobs, asked.reading, results[i % 5]), 0);
        ck_assert_int_eq(kv_blobs_read(&f.blobs, &asked.part, 1), 0);
        ck_assert(came(&asked));
        free(asked.part.buf);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(blocks_that_are_anothers_by_then_are_not_taken_for_the_blob)
{
    struct fixture f;
    fixture_init(&f, 2);
    for (unsigned i = 0; i < READINGS; i++) {
        struct asked asked;
        ask_at_random(&f, &asked);
        /* The same place, and bytes that were right for another place: of the next blob. */
        struct kv_io io = {.kind = KV_IO_WRITE,
                           .block = asked.transfer.offset / KV_BLOCK_BYTES,
                           .block_count = asked.transfer.length / KV_BLOCK_BYTES,
                           .buf = kv_device_alloc(asked.transfer.length)};
        void *const before = kv_device_alloc(asked.transfer.length);
        ck_assert_ptr_nonnull(io.buf);
        ck_assert_ptr_nonnull(before);
        ck_assert_int_eq(kv_device_read(f.pages.device, io.block, io.block_count, before), 0);
        memcpy(io.buf, f.written[i % BLOBS].bytes, kv_min_u64(EXTENT, asked.transfer.length));
        if (i % 2)
            memset(io.buf, 0, asked.transfer.length);
        const bool same = memcmp(io.buf, before, asked.transfer.length) == 0;
        ck_assert_int_eq(kv_device_submit(f.pages.device, &io, 1, false), 0);
        const int result = make_transfer(&f, &asked.transfer);
        const int err = kv_blobs_read_end(&f.blobs, asked.reading, result);
        ck_assert(err == -EBADMSG || (same && !err));
        memcpy(io.buf, before, asked.transfer.length);
        ck_assert_int_eq(kv_device_submit(f.pages.device, &io, 1, false), 0);
        free(io.buf);
        free(before);
        free(asked.part.buf);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(a_device_that_only_reads_itself_says_so)
{
    struct fixture f;
    fixture_init(&f, 3);
    const struct kv_blob_part part = {.ref = f.written[0].ref, .length = 1};
    struct kv_blob_reading *reading;
    struct kv_blob_transfer transfer;
    f.blobs.device = f.pages.device;
    ck_assert_int_eq(kv_blobs_read_begin(&f.blobs, &part, &reading, &transfer), -EOPNOTSUPP);
    ck_assert_ptr_null(reading);
    fixture_release(&f);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *suite = suite_create("blob reading");
    TCase *tests = tcase_create("blob reading");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, readings_that_end_in_any_order_bring_what_was_asked_for);
    tcase_add_test(tests, a_transfer_that_fails_or_is_short_is_an_error_and_can_be_made_again);
    tcase_add_test(tests, blocks_that_are_anothers_by_then_are_not_taken_for_the_blob);
    tcase_add_test(tests, a_device_that_only_reads_itself_says_so);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
