/*
 * tests/kv/test_blob_cache.c: what was kept comes back byte for byte or not at all; a pass over
 * much data leaves what is used again; threads may do all of it at once; a part of a blob that was
 * read before takes no read of the device.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/blob.h"
#include "kv/blob_cache.h"
#include "support_devices.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>

#define CHUNK 4096u /* what memory is given in */

static uint64_t seed_start;

/* A reference whose content follows from its number. */
static struct kv_disk_blob_ref make_ref(uint64_t number, uint32_t length)
{
    return (struct kv_disk_blob_ref){.ptr = {.block = kv_le64_of(number + 1),
                                             .length_bytes = kv_le32_of(length),
                                             .birth_epoch = kv_le64_of(3),
                                             .digest = kv_le64_of(number * 77)},
                                     .raw_bytes = kv_le32_of(length)};
}

static uint32_t length_of(uint64_t number)
{
    return (uint32_t)(number * 7919 % (9 * CHUNK)) + 1;
}

static void keep(struct kv_blob_cache *cache, uint64_t number)
{
    static _Thread_local uint8_t content[9 * CHUNK];
    const uint32_t length = length_of(number);
    const struct kv_disk_blob_ref ref = make_ref(number, length);
    test_fill(content, length, number);
    kv_blob_cache_keep(cache, &ref, (uint32_t)number % 3, content, length, KV_BLOB_USED);
}

/* Is it there? If so, some part of it must be right. */
static bool is_kept(struct kv_blob_cache *cache, uint64_t number, struct test_random *random)
{
    static _Thread_local uint8_t content[9 * CHUNK], back[9 * CHUNK];
    const uint32_t length = length_of(number);
    const struct kv_disk_blob_ref ref = make_ref(number, length);
    const size_t offset = test_random_below(random, length);
    const size_t count = 1 + test_random_below(random, length - offset);
    if (!kv_blob_cache_copy(cache, &ref, (uint32_t)number % 3, offset, back, count, KV_BLOB_WANTED))
        return false;
    test_fill(content, length, number);
    KV_ASSERT(memcmp(back, content + offset, count) == 0);
    return true;
}

START_TEST(what_is_kept_comes_back_in_any_part)
{
    struct test_random random = {.state = seed_start};
    struct kv_blob_cache *const cache = kv_blob_cache_new(8u << 20, 0);
    ck_assert_ptr_nonnull(cache);
    for (uint64_t number = 0; number < 40; number++) {
        ck_assert(!is_kept(cache, number, &random));
        keep(cache, number);
        keep(cache, number); /* once more is no news */
        for (unsigned part = 0; part < 20; part++)
            ck_assert(is_kept(cache, number, &random));
    }
    struct kv_disk_blob_ref other = make_ref(1, length_of(1));
    uint8_t byte;
    other.ptr.birth_epoch = kv_le64_of(4); /* the same place, later */
    ck_assert(!kv_blob_cache_copy(cache, &other, 1, 0, &byte, 1, KV_BLOB_WANTED));
    other = make_ref(1, length_of(1));
    ck_assert(!kv_blob_cache_copy(cache, &other, 0, 0, &byte, 1,
                                  KV_BLOB_WANTED)); /* another piece of it */
    struct kv_blob_cache_stats stats;
    kv_blob_cache_stats(cache, &stats);
    ck_assert_uint_eq(stats.hits, 800);
    ck_assert_uint_eq(stats.misses, 42);
    kv_blob_cache_free(cache);
}
END_TEST

START_TEST(memory_stays_within_what_was_allowed)
{
    struct test_random random = {.state = seed_start};
    struct kv_blob_cache *const cache = kv_blob_cache_new(1u << 20, 0);
    ck_assert_ptr_nonnull(cache);
    unsigned kept = 0;
    for (uint64_t number = 0; number < 2000; number++) {
        keep(cache, number);
        struct kv_blob_cache_stats stats;
        kv_blob_cache_stats(cache, &stats);
        ck_assert_uint_le(stats.bytes, 1u << 20);
        ck_assert(is_kept(cache, number, &random)); /* the newest always is */
    }
    for (uint64_t number = 0; number < 2000; number++)
        kept += is_kept(cache, number, &random);
    ck_assert_uint_ge(kept, 5);
    ck_assert_uint_lt(kept, 500);
    kv_blob_cache_free(cache);
}
END_TEST

START_TEST(a_pass_over_much_data_leaves_what_is_used_again)
{
    struct test_random random = {.state = seed_start};
    struct kv_blob_cache *const cache = kv_blob_cache_new(4u << 20, 0);
    ck_assert_ptr_nonnull(cache);
    for (uint64_t number = 0; number < 5; number++)
        keep(cache, number);
    for (uint64_t number = 100; number < 1000; number++) {
        keep(cache, number);
        for (uint64_t used = 0; used < 5; used++)
            ck_assert(is_kept(cache, used, &random));
    }
    kv_blob_cache_free(cache);
}
END_TEST

static bool retain(struct kv_blob_cache *cache, uint64_t number)
{
    uint8_t byte;
    const struct kv_disk_blob_ref ref = make_ref(number, length_of(number));
    return kv_blob_cache_copy(cache, &ref, (uint32_t)number % 3, 0, &byte, 1,
                              KV_BLOB_WANTED_RETAIN);
}

START_TEST(what_is_retained_stays_within_its_share)
{
    struct test_random random = {.state = seed_start};
    struct kv_blob_cache *const cache = kv_blob_cache_new(1u << 20, 50);
    struct kv_blob_cache_stats stats;
    ck_assert_ptr_nonnull(cache);
    for (uint64_t number = 0; number < 5; number++) {
        keep(cache, number);
        ck_assert(retain(cache, number));
    }
    kv_blob_cache_stats(cache, &stats);
    const uint64_t of_five = stats.retained_bytes;
    ck_assert_uint_ge(of_five, 5 * CHUNK);
    for (uint64_t number = 100; number < 2000; number++) {
        keep(cache, number);
        ck_assert(is_kept(cache, number, &random));
    }
    for (uint64_t number = 0; number < 5; number++) /* not used once in between */
        ck_assert(is_kept(cache, number, &random));

    /* Too much: those that are used stay, and there is room for others. */
    for (uint64_t number = 2000; number < 3000; number++) {
        keep(cache, number);
        ck_assert(retain(cache, number));
        ck_assert(retain(cache, 0));
        kv_blob_cache_stats(cache, &stats);
        ck_assert_uint_le(stats.retained_bytes, stats.retained_max_bytes);
        ck_assert_uint_le(stats.retained_max_bytes, 1u << 19);
    }
    ck_assert_uint_gt(stats.retained_bytes, of_five);
    ck_assert(is_kept(cache, 0, &random));
    ck_assert(!is_kept(cache, 1, &random));
    kv_blob_cache_free(cache);
}
END_TEST

START_TEST(what_is_larger_than_all_of_it_is_not_kept)
{
    static const size_t sizes[] = {0, 1, CHUNK - 1, CHUNK + 200};
    struct test_random random = {.state = seed_start};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct kv_blob_cache *const cache = kv_blob_cache_new(sizes[i], 0);
        ck_assert_ptr_nonnull(cache);
        for (uint64_t number = 0; number < 50; number++) {
            keep(cache, number);
            ck_assert(!is_kept(cache, number, &random) ||
                      (length_of(number) <= CHUNK && sizes[i] > CHUNK));
        }
        kv_blob_cache_free(cache);
    }
}
END_TEST

/* What is there is let go for it in vain. */
START_TEST(what_is_larger_than_all_of_it_is_not_kept_in_place_of_what_is_there)
{
    for (unsigned chunks = 1; chunks < 8; chunks++) {
        struct kv_blob_cache *const cache = kv_blob_cache_new(chunks * (CHUNK + 200), 0);
        ck_assert_ptr_nonnull(cache);
        for (enum kv_blob_kept kept = KV_BLOB_USED; kept <= KV_BLOB_SPARE; kept++) {
            static uint8_t content[9 * CHUNK];
            const struct kv_disk_blob_ref small = make_ref(1, 10);
            const struct kv_disk_blob_ref large = make_ref(2, sizeof content);
            kv_blob_cache_keep(cache, &small, 0, content, 10, KV_BLOB_AHEAD);
            kv_blob_cache_keep(cache, &large, 0, content, sizeof content, kept);
            ck_assert(!kv_blob_cache_has(cache, &large, 0));
        }
        kv_blob_cache_free(cache);
    }
}
END_TEST

/* ---- several threads ---------------------------------------------------------------- */

struct worker {
    pthread_t thread;
    struct kv_blob_cache *cache;
    struct test_random random;
    uint64_t found;
};

static void *work(void *context)
{
    struct worker *const worker = context;
    for (unsigned i = 0; i < 3000; i++) {
        const uint64_t number = test_random_below(&worker->random, 60);
        if (is_kept(worker->cache, number, &worker->random))
            worker->found++;
        else
            keep(worker->cache, number);
    }
    return NULL;
}

START_TEST(threads_find_what_others_kept_and_never_anything_else)
{
    struct worker workers[4];
    struct kv_blob_cache *const cache = kv_blob_cache_new(2u << 20, 0);
    ck_assert_ptr_nonnull(cache);
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){.cache = cache, .random = {.state = seed_start * 10 + i + 1}};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
        ck_assert_uint_gt(workers[i].found, 0);
    }
    kv_blob_cache_free(cache);
}
END_TEST

/* ---- under the blobs ------------------------------------------------------------------ */

static int read_part(struct kv_blobs *blobs, const struct kv_blob_ref *ref, size_t offset,
                     uint8_t *buf, size_t length)
{
    const struct kv_blob_part part = {.ref = *ref, .buf = buf, .offset = offset, .length = length};
    return kv_blobs_read(blobs, &part, 1);
}

/* The loop index is the codec: none, lz4. */
START_TEST(the_second_read_of_a_part_reads_nothing_from_the_device)
{
    static uint8_t bytes[131072], back[131072];
    struct faulty *const faulty = faulty_new(memory_device_new(8000));
    struct test_pages pages;
    test_pages_init(&pages, faulty_device(faulty), 16384, 0, KV_CODEC_NONE);
    struct kv_blobs blobs = {.device = pages.device,
                             .space = pages.space,
                             .buffers = pages.buffers,
                             .cache = kv_blob_cache_new(1u << 20, 0)};
    const struct kv_codec_spec spec = {_i ? KV_CODEC_LZ4 : KV_CODEC_NONE, 0};
    struct kv_blob_ref ref;
    size_t written;
    test_fill(bytes, sizeof bytes, 2);
    ck_assert_int_eq(kv_blobs_write(&blobs, bytes, sizeof bytes, &spec, 7, &ref, &written), 0);

    ck_assert_int_eq(read_part(&blobs, &ref, 0, back, sizeof bytes), 0);
    ck_assert_int_eq(read_part(&blobs, &ref, 70000, back, 4096), 0);
    const uint64_t reads = atomic_load(&blobs.reads);
    for (size_t offset = 0; offset < sizeof bytes; offset += 4096) {
        ck_assert_int_eq(read_part(&blobs, &ref, offset, back + offset, 4096), 0);
        ck_assert_int_eq(memcmp(back + offset, bytes + offset, 4096), 0);
    }
    ck_assert_uint_eq(atomic_load(&blobs.reads), reads);

    /* To verify is to look at the device, whatever memory says. */
    ck_assert_int_eq(kv_blobs_verify(&blobs, &ref), 0);
    ck_assert_uint_eq(atomic_load(&blobs.reads), reads + 1);
    kv_blob_cache_free(blobs.cache);
    test_pages_release(&pages);
    faulty_free(faulty);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    Suite *const suite = suite_create("blob_cache");
    TCase *const cache = tcase_create("blob_cache");
    tcase_set_timeout(cache, 120);
    tcase_add_test(cache, what_is_kept_comes_back_in_any_part);
    tcase_add_test(cache, memory_stays_within_what_was_allowed);
    tcase_add_test(cache, a_pass_over_much_data_leaves_what_is_used_again);
    tcase_add_test(cache, what_is_retained_stays_within_its_share);
    tcase_add_test(cache, what_is_larger_than_all_of_it_is_not_kept);
    tcase_add_test(cache, what_is_larger_than_all_of_it_is_not_kept_in_place_of_what_is_there);
    tcase_add_test(cache, threads_find_what_others_kept_and_never_anything_else);
    tcase_add_loop_test(cache, the_second_read_of_a_part_reads_nothing_from_the_device, 0, 2);
    suite_add_tcase(suite, cache);
    return test_run(suite);
}
