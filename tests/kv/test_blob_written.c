/*
 * tests/kv/test_blob_written.c: what was written lately is read from memory: as far as there is
 * room, without pushing out what was read, and not for a moment longer than somebody may want it.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/blob.h"
#include "kv/store.h"
#include "support_devices.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>

#define CHUNK 4096u /* what memory is given in */

static uint64_t seed_start;

/* ---- the cache ---------------------------------------------------------------------- */

static struct kv_disk_blob_ref make_ref(uint64_t number)
{
    return (struct kv_disk_blob_ref){.ptr = {.block = kv_le64_of(number + 1),
                                             .length_bytes = kv_le32_of(CHUNK),
                                             .birth_epoch = kv_le64_of(3),
                                             .digest = kv_le64_of(number * 77)},
                                     .raw_bytes = kv_le32_of(CHUNK)};
}

static void keep(struct kv_blob_cache *cache, uint64_t number, enum kv_blob_kept kept)
{
    uint8_t content[CHUNK];
    const struct kv_disk_blob_ref ref = make_ref(number);
    test_fill(content, CHUNK, number);
    kv_blob_cache_keep(cache, &ref, 0, content, CHUNK, kept);
}

static void keep_many(struct kv_blob_cache *cache, uint64_t from, uint64_t to,
                      enum kv_blob_kept kept)
{
    for (uint64_t number = from; number < to; number++)
        keep(cache, number, kept);
}

static bool has(struct kv_blob_cache *cache, uint64_t number)
{
    const struct kv_disk_blob_ref ref = make_ref(number);
    return kv_blob_cache_has(cache, &ref, 0);
}

static bool reads(struct kv_blob_cache *cache, uint64_t number)
{
    uint8_t content[CHUNK], back[CHUNK];
    const struct kv_disk_blob_ref ref = make_ref(number);
    if (!kv_blob_cache_copy(cache, &ref, 0, 0, back, CHUNK, KV_BLOB_WANTED))
        return false;
    test_fill(content, CHUNK, number);
    KV_ASSERT(memcmp(back, content, CHUNK) == 0);
    return true;
}

static unsigned count_there(struct kv_blob_cache *cache, uint64_t from, uint64_t to)
{
    unsigned count = 0;
    for (uint64_t number = from; number < to; number++)
        count += has(cache, number);
    return count;
}

static void drop(struct kv_blob_cache *cache, uint64_t number)
{
    const struct kv_disk_blob_ref ref = make_ref(number);
    kv_blob_cache_drop(cache, &ref, 1);
}

static struct kv_blob_cache *new_cache(void)
{
    struct kv_blob_cache *const cache = kv_blob_cache_new(1u << 20, 25);
    ck_assert_ptr_nonnull(cache);
    return cache;
}

/* How many contents of a chunk fit. */
static unsigned capacity_of(struct kv_blob_cache *cache)
{
    unsigned count = 0;
    keep_many(cache, 1000000, 1000000 + 1000, KV_BLOB_WRITTEN);
    count = count_there(cache, 1000000, 1000000 + 1000);
    for (uint64_t number = 1000000; number < 1000000 + 1000; number++)
        drop(cache, number);
    ck_assert_uint_ge(count, 200);
    return count;
}

START_TEST(what_was_written_takes_what_is_free_and_the_newest_stay)
{
    struct kv_blob_cache *const cache = new_cache();
    const unsigned capacity = capacity_of(cache);
    keep_many(cache, 0, 3 * capacity, KV_BLOB_WRITTEN);
    ck_assert_uint_eq(count_there(cache, 2 * capacity, 3 * capacity), capacity);
    kv_blob_cache_free(cache);
}
END_TEST

START_TEST(what_was_written_makes_a_tenth_leave_of_what_was_read)
{
    struct kv_blob_cache *const cache = new_cache();
    const unsigned capacity = capacity_of(cache), part = capacity / 10;
    keep_many(cache, 0, capacity, KV_BLOB_USED);
    keep_many(cache, 5000, 5000 + 20 * capacity, KV_BLOB_WRITTEN);
    ck_assert_uint_eq(count_there(cache, 0, capacity), capacity - part);
    ck_assert_uint_eq(count_there(cache, 5000, 5000 + 20 * capacity), part);

    /* What is read takes the place of what was only written, as far as that has more than its part.
     */
    struct kv_blob_cache *const other = new_cache();
    keep_many(other, 0, capacity, KV_BLOB_WRITTEN);
    keep_many(other, 5000, 5000 + 20 * capacity, KV_BLOB_USED);
    ck_assert_uint_eq(count_there(other, 0, capacity), part);
    ck_assert_uint_eq(count_there(other, capacity - part, capacity), part);
    kv_blob_cache_free(cache);
    kv_blob_cache_free(other);
}
END_TEST

START_TEST(what_was_written_and_read_is_what_was_read)
{
    struct kv_blob_cache *const cache = new_cache();
    const unsigned capacity = capacity_of(cache);
    keep_many(cache, 0, capacity, KV_BLOB_WRITTEN);
    for (uint64_t number = 0; number < 10; number++)
        ck_assert(reads(cache, number));
    keep_many(cache, 5000, 5000 + 5 * capacity, KV_BLOB_WRITTEN);
    ck_assert_uint_eq(count_there(cache, 0, 10), 10);
    kv_blob_cache_free(cache);
}
END_TEST

START_TEST(what_is_spare_takes_nobodys_place)
{
    struct kv_blob_cache *const cache = new_cache();
    const unsigned capacity = capacity_of(cache);
    keep_many(cache, 0, capacity - 3, KV_BLOB_WRITTEN);
    keep_many(cache, 5000, 5010, KV_BLOB_SPARE);
    ck_assert_uint_eq(count_there(cache, 0, capacity - 3), capacity - 3);
    ck_assert_uint_eq(count_there(cache, 5000, 5010), 3);
    kv_blob_cache_free(cache);
}
END_TEST

START_TEST(what_was_dropped_is_gone_and_its_room_is_free)
{
    struct test_random random = {.state = seed_start};
    struct kv_blob_cache *const cache = new_cache();
    const unsigned capacity = capacity_of(cache);
    for (unsigned round = 0; round < 20; round++) {
        for (uint64_t number = 0; number < capacity; number++) {
            keep(cache, number, (enum kv_blob_kept)test_random_below(&random, 5));
            if (test_random_below(&random, 2))
                ck_assert(reads(cache, number));
            if (test_random_below(&random, 2)) {
                const struct kv_disk_blob_ref ref = make_ref(number);
                uint8_t byte;
                ck_assert(kv_blob_cache_copy(cache, &ref, 0, 0, &byte, 1, KV_BLOB_WANTED_RETAIN));
            }
        }
        ck_assert_uint_eq(count_there(cache, 0, capacity), capacity);
        for (uint64_t number = 0; number < capacity; number++) {
            drop(cache, (number * 7 + round) % capacity);
            drop(cache, (number * 7 + round) % capacity);
        }
        for (uint64_t number = 0; number < capacity; number++)
            drop(cache, number);
        struct kv_blob_cache_stats stats;
        kv_blob_cache_stats(cache, &stats);
        ck_assert_uint_eq(stats.bytes, 0);
        ck_assert_uint_eq(stats.retained_bytes, 0);
    }
    kv_blob_cache_free(cache);
}
END_TEST

struct worker {
    pthread_t thread;
    struct kv_blob_cache *cache;
    struct test_random random;
};

static void *work(void *context)
{
    struct worker *const worker = context;
    for (unsigned i = 0; i < 5000; i++) {
        const uint64_t number = test_random_below(&worker->random, 300);
        switch (test_random_below(&worker->random, 3)) {
        case 0:
            drop(worker->cache, number);
            break;
        case 1:
            keep(worker->cache, number, KV_BLOB_WRITTEN);
            break;
        default:
            if (!reads(worker->cache, number))
                keep(worker->cache, number, KV_BLOB_USED);
        }
    }
    return NULL;
}

START_TEST(who_copies_what_is_dropped_meanwhile_gets_it_whole)
{
    struct worker workers[4];
    struct kv_blob_cache *const cache = new_cache();
    const unsigned capacity = capacity_of(cache);
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){.cache = cache, .random = {.state = seed_start * 10 + i + 1}};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
    for (uint64_t number = 0; number < 300; number++)
        drop(cache, number);
    ck_assert_uint_eq(capacity_of(cache), capacity); /* none of its memory is lost */
    kv_blob_cache_free(cache);
}
END_TEST

/* ---- blobs over it ---------------------------------------------------------------------- */

#define EPOCH          7u
#define COUNT          120u
#define PENDING_BLOCKS 64u

struct fixture {
    struct faulty *faulty;
    struct test_pages pages;
    struct kv_blobs blobs;
    struct kv_blob_ref refs[COUNT];
    uint8_t tables[COUNT][KV_BLOB_TABLE_MAX];
};

static void on_failure(void *context, int error)
{
    (void)context;
    ck_abort_msg("a write failed: %d", error);
}

static void on_leave(void *context, const struct kv_disk_blob_ref *ref, const uint8_t *stored)
{
    struct fixture *const f = context;
    kv_blobs_keep_written(&f->blobs, ref, stored);
}

static void fixture_init(struct fixture *f, uint64_t cache_bytes)
{
    memset(f, 0, sizeof *f);
    f->faulty = faulty_new(memory_device_new(12000));
    test_pages_init(&f->pages, faulty_device(f->faulty), 16384, 0, KV_CODEC_NONE);
    const struct kv_blob_pending_config config = {.device = f->pages.device,
                                                  .block_count = PENDING_BLOCKS,
                                                  .on_failure = on_failure,
                                                  .on_leave = on_leave,
                                                  .context = f};
    f->blobs = (struct kv_blobs){.device = f->pages.device,
                                 .space = f->pages.space,
                                 .buffers = f->pages.buffers,
                                 .cache = kv_blob_cache_new(cache_bytes, 0),
                                 .pending = kv_blob_pending_new(&config),
                                 .in_frames = true};
    ck_assert_ptr_nonnull(f->blobs.cache);
    ck_assert_ptr_nonnull(f->blobs.pending);
}

static void fixture_release(struct fixture *f)
{
    kv_blob_pending_free(f->blobs.pending);
    kv_blob_cache_free(f->blobs.cache);
    test_pages_release(&f->pages);
    faulty_free(f->faulty);
}

static size_t length_of(size_t number)
{
    return number % 5 == 4 ? KV_BLOB_WRITTEN_MAX : 100 + number * 7919 % 60000;
}

static void write_blob(struct fixture *f, size_t number, uint64_t identity)
{
    static uint8_t bytes[KV_BLOB_WRITTEN_MAX];
    const struct kv_codec_spec spec = {number % 2 ? KV_CODEC_LZ4 : KV_CODEC_NONE, 0};
    struct kv_blob_source source = {
        .bytes = bytes, .length = length_of(number), .table = f->tables[number]};
    test_fill(bytes, source.length, identity);
    ck_assert_int_eq(kv_blobs_write_many(&f->blobs, &source, 1, &spec, EPOCH), 0);
    ck_assert_uint_eq(source.written, source.length);
    f->refs[number] = source.ref;
}

/* Each blob with its number as what is in it. */
static void write_all(struct fixture *f)
{
    for (size_t i = 0; i < COUNT; i++)
        write_blob(f, i, i);
}

static void read_blob(struct fixture *f, size_t number, uint64_t identity, size_t offset,
                      size_t length)
{
    static uint8_t bytes[KV_BLOB_WRITTEN_MAX], back[KV_BLOB_WRITTEN_MAX];
    const struct kv_blob_part part = {
        .ref = f->refs[number], .buf = back, .offset = offset, .length = length};
    test_fill(bytes, length_of(number), identity);
    ck_assert_int_eq(kv_blobs_read(&f->blobs, &part, 1), 0);
    ck_assert_mem_eq(back, bytes + offset, length);
}

START_TEST(blobs_that_were_written_and_fit_are_read_without_the_device)
{
    static struct fixture f;
    struct test_random random = {.state = seed_start};
    fixture_init(&f, 16u << 20);
    write_all(&f);
    for (size_t i = 0; i < COUNT; i++)
        read_blob(&f, i, i, 0, length_of(i));
    for (size_t i = 0; i < 4 * COUNT; i++) {
        const size_t number = test_random_below(&random, COUNT);
        const size_t offset = test_random_below(&random, length_of(number));
        read_blob(&f, number, number, offset,
                  1 + test_random_below(&random, length_of(number) - offset));
    }
    struct kv_blob_cache_stats stats;
    kv_blob_cache_stats(f.blobs.cache, &stats);
    ck_assert_uint_eq(stats.misses, 0);
    ck_assert_uint_eq(atomic_load(&f.blobs.reads), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(what_does_not_fit_is_read_from_the_device_and_right)
{
    static struct fixture f;
    fixture_init(&f, 512u << 10);
    write_all(&f);
    for (unsigned round = 0; round < 2; round++)
        for (size_t i = 0; i < COUNT; i++)
            read_blob(&f, i, i, 0, length_of(i));
    ck_assert_uint_gt(atomic_load(&f.blobs.reads), 0);
    fixture_release(&f);
}
END_TEST

/* Blobs that nobody refers to leave memory, and what comes to their blocks is what is read there.
 */
START_TEST(a_blob_that_is_gone_is_in_memory_no_more_and_its_blocks_are_anothers)
{
    static struct fixture f;
    fixture_init(&f, 16u << 20);
    for (unsigned round = 0; round < 6; round++) {
        for (size_t i = 0; i < COUNT; i++)
            write_blob(&f, i, round * COUNT + i);
        for (size_t i = 0; i < COUNT; i += 1 + i % 3) /* some of them unpacked, too */
            read_blob(&f, i, round * COUNT + i, length_of(i) / 3, length_of(i) / 2);
        const uint64_t reads_before = atomic_load(&f.blobs.reads);
        for (size_t i = 0; i < COUNT; i++)
            read_blob(&f, i, round * COUNT + i, 0, length_of(i));
        ck_assert_uint_eq(atomic_load(&f.blobs.reads), reads_before);
        for (size_t i = 0; i < COUNT; i++) {
            if (round % 2)
                kv_blobs_unwanted(&f.blobs, &f.refs[i]); /* as when its last reference is dropped */
            kv_blobs_discard(&f.blobs, &f.refs[i]);
        }
        struct kv_blob_cache_stats stats;
        kv_blob_cache_stats(f.blobs.cache, &stats);
        ck_assert_uint_eq(stats.bytes, 0);
    }
    ck_assert_uint_eq(atomic_load(&f.blobs.reads), 0);
    fixture_release(&f);
}
END_TEST

/* Bytes from the device are verified, also of a blob that was in memory until lately. */
START_TEST(what_left_memory_is_verified_when_it_is_read)
{
    static struct fixture f;
    uint8_t *const noise = kv_device_alloc(KV_BLOCK_BYTES);
    uint8_t back[100];
    fixture_init(&f, 16u << 20);
    ck_assert_ptr_nonnull(noise);
    write_all(&f);
    ck_assert_int_eq(kv_blobs_flush(&f.blobs), 0);
    struct kv_disk_blob_ref disk;
    memcpy(&disk, &f.refs[0], sizeof disk);
    test_fill(noise, KV_BLOCK_BYTES, 1234567);
    ck_assert_int_eq(kv_device_write(f.pages.device, kv_le64_get(disk.ptr.block), 1, noise), 0);
    read_blob(&f, 0, 0, 0, length_of(0)); /* memory is right */
    kv_blobs_unwanted(&f.blobs, &f.refs[0]);
    const struct kv_blob_part part = {.ref = f.refs[0], .buf = back, .length = sizeof back};
    ck_assert_int_eq(kv_blobs_read(&f.blobs, &part, 1), -EBADMSG);
    free(noise);
    fixture_release(&f);
}
END_TEST

/* ---- a store ------------------------------------------------------------------------------ */

#define FILES 400u

static void put_blob(struct kv_store *store, struct kv_batch *batch, uint64_t number)
{
    static uint8_t bytes[40000];
    struct kv_blob_ref ref;
    char key[24];
    size_t written;
    test_fill(bytes, sizeof bytes, number);
    ck_assert_int_eq(kv_blob_write(store, bytes, sizeof bytes, NULL, &ref, &written), 0);
    ck_assert_uint_eq(written, sizeof bytes);
    ck_assert_int_eq(
        kv_batch_put_blob(batch, key, test_number_key(key, number), NULL, 0, &ref, KV_BLOB_NEW), 0);
}

START_TEST(a_tree_that_was_just_written_is_read_back_without_the_device)
{
    struct faulty *const faulty = faulty_new(memory_device_new(60000));
    const struct kv_open_options options = {.memory_budget_bytes = 64ull << 20,
                                            .blob_percent = 25,
                                            .no_background = true,
                                            .log = test_log_nothing,
                                            .device = faulty_device(faulty)};
    struct kv_error error = {""};
    struct kv_store *store;
    struct kv_stats stats;
    test_create_on(faulty_device(faulty), 16384, KV_CODEC_LZ4, 8u << 20);
    ck_assert_msg(!kv_open("test", &options, &store, &error), "%s", error.text);
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t number = 0; number < FILES; number++) {
            put_blob(store, batch, number);
            ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
            kv_batch_clear(batch);
        }
        ck_assert_int_eq(kv_checkpoint(store), 0);
        kv_store_stats(store, &stats);
        const uint64_t before = stats.blob_reads;
        for (uint64_t number = 0; number < FILES; number++) {
            static uint8_t bytes[40000], back[40000];
            struct kv_blob_ref ref;
            char key[24];
            size_t length;
            ck_assert_int_eq(
                kv_get(store, key, test_number_key(key, number), &ref, sizeof ref, &length), 0);
            ck_assert_uint_eq(length, sizeof ref);
            test_fill(bytes, sizeof bytes, number);
            ck_assert_int_eq(kv_blob_read(store, &ref, 0, back, sizeof back), 0);
            ck_assert_mem_eq(back, bytes, sizeof bytes);
        }
        kv_store_stats(store, &stats);
        ck_assert_uint_eq(stats.blob_reads, before);
        ck_assert_uint_le(stats.blob_cached_bytes, 16u << 20);
        ck_assert_uint_gt(stats.blob_cached_bytes, 1u << 20); /* more than what waits can hold */
        for (uint64_t number = 0; number < FILES; number++) {
            char key[24];
            ck_assert_int_eq(kv_batch_del(batch, key, test_number_key(key, number)), 0);
        }
        ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
        kv_batch_clear(batch);
        kv_store_stats(store, &stats);
        ck_assert_uint_eq(stats.blob_cached_bytes, 0);
    }
    kv_batch_free(batch);
    ck_assert_int_eq(kv_close(store), 0);
    faulty_free(faulty);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("blob_written");
    TCase *const written = tcase_create("blob_written");
    tcase_set_timeout(written, 120);
    tcase_add_test(written, what_was_written_takes_what_is_free_and_the_newest_stay);
    tcase_add_test(written, what_was_written_makes_a_tenth_leave_of_what_was_read);
    tcase_add_test(written, what_was_written_and_read_is_what_was_read);
    tcase_add_test(written, what_is_spare_takes_nobodys_place);
    tcase_add_test(written, what_was_dropped_is_gone_and_its_room_is_free);
    tcase_add_test(written, who_copies_what_is_dropped_meanwhile_gets_it_whole);
    tcase_add_test(written, blobs_that_were_written_and_fit_are_read_without_the_device);
    tcase_add_test(written, what_does_not_fit_is_read_from_the_device_and_right);
    tcase_add_test(written, a_blob_that_is_gone_is_in_memory_no_more_and_its_blocks_are_anothers);
    tcase_add_test(written, what_left_memory_is_verified_when_it_is_read);
    tcase_add_test(written, a_tree_that_was_just_written_is_read_back_without_the_device);
    suite_add_tcase(suite, written);
    return test_run(suite);
}
