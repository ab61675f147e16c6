/*
 * tests/kv/test_tiers.c: a store whose data is several times its memory, with all four tiers.
 *
 * A model knows what every key must hold. Whatever tier a page comes from, and whatever became of
 * it meanwhile, the store must say the same; and what the tiers say of themselves must add up.
 *
 * KVFS_SEED chooses the random numbers, KVFS_STEPS how many steps are taken.
 */
#include "kv/codec.h"
#include "kv/node.h"
#include "kv/pager_frames.h"
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define NODE_BYTES    16384u
#define DEVICE_BLOCKS 60000u
#define KEYS          26000u
#define VALUE_MAX     1800u
#define BUDGET_BYTES  (8ull << 20)

static uint64_t seed_start, steps_wanted;

struct scene {
    struct faulty *faulty; /* its device outlives the store */
    struct kv_store *store;
    struct test_random random;
    bool threads;
    uint32_t versions[KEYS]; /* 0: no such key. Atomic where readers are about */
    uint8_t value[VALUE_MAX], found[VALUE_MAX];
};

static void open_store(struct scene *scene)
{
    const struct kv_open_options options = {.memory_budget_bytes = BUDGET_BYTES,
                                            .tiers = {{12, 3, 45, 40}},
                                            .no_background = !scene->threads,
                                            .log = test_log_nothing,
                                            .device = faulty_device(scene->faulty)};
    struct kv_error error = {""};
    const int err = kv_open("test", &options, &scene->store, &error);
    ck_assert_msg(!err, "%s", error.text);
}

static struct scene *scene_new(enum kv_codec codec, bool threads)
{
    struct scene *scene = calloc(1, sizeof *scene);
    ck_assert_ptr_nonnull(scene);
    scene->random.state = seed_start;
    scene->threads = threads;
    scene->faulty = faulty_new(memory_device_new(DEVICE_BLOCKS));
    test_create_on(faulty_device(scene->faulty), NODE_BYTES, codec, 8u << 20);
    open_store(scene);
    return scene;
}

static void scene_free(struct scene *scene)
{
    ck_assert_int_eq(kv_close(scene->store), 0);
    faulty_free(scene->faulty);
    free(scene);
}

/* ---- keys and values ----------------------------------------------------------------- */

static size_t value_of(uint8_t value[VALUE_MAX], uint64_t key, uint32_t version)
{
    const size_t length = 16 + (key * 7 + version * 13) % (VALUE_MAX - 16);
    kv_be64_put(value, key);
    kv_be64_put(value + 8, version);
    memset(value + 16, (int)('a' + key % 26), length - 16);
    test_fill(value + 16, (length - 16) / 3, key << 32 ^ version);
    return length;
}

static int put(struct scene *scene, uint64_t key, uint32_t version)
{
    char name[24];
    const size_t length = value_of(scene->value, key, version);
    const int err = kv_put(scene->store, name, test_number_key(name, key), scene->value, length);
    if (!err)
        __atomic_store_n(&scene->versions[key], version, __ATOMIC_RELEASE);
    return err;
}

static void get_and_compare(struct scene *scene, uint64_t key)
{
    char name[24];
    size_t length = 0;
    const int err =
        kv_get(scene->store, name, test_number_key(name, key), scene->found, VALUE_MAX, &length);
    if (!scene->versions[key]) {
        ck_assert_int_eq(err, -ENOENT);
        return;
    }
    ck_assert_int_eq(err, 0);
    ck_assert_uint_eq(length, value_of(scene->value, key, scene->versions[key]));
    ck_assert_mem_eq(scene->found, scene->value, length);
}

static void fill(struct scene *scene)
{
    struct kv_batch *batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (uint64_t key = 0; key < KEYS; key++) {
        char name[24];
        const size_t length = value_of(scene->value, key, 1);
        ck_assert_int_eq(
            kv_batch_put(batch, name, test_number_key(name, key), scene->value, length), 0);
        scene->versions[key] = 1;
        if (kv_batch_count(batch) < 100 && key + 1 < KEYS)
            continue;
        ck_assert_int_eq(kv_apply(scene->store, batch, 0, NULL), 0);
        kv_batch_clear(batch);
    }
    kv_batch_free(batch);
    ck_assert_int_eq(kv_checkpoint(scene->store), 0);
}

/* Delete [first, first + count): pages merge, are freed, and their ids come back. */
static void delete_range(struct scene *scene, uint64_t first, uint64_t count)
{
    char lower[24], upper[24];
    const uint64_t end = kv_min_u64(first + count, KEYS);
    struct kv_batch *batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    ck_assert_int_eq(kv_batch_del_range(batch, lower, test_number_key(lower, first), upper,
                                        test_number_key(upper, end)),
                     0);
    ck_assert_int_eq(kv_apply(scene->store, batch, 0, NULL), 0);
    kv_batch_free(batch);
    for (uint64_t key = first; key < end; key++)
        scene->versions[key] = 0;
}

/* Some keys are asked for more often than others. */
static uint64_t pick_key(struct scene *scene)
{
    const size_t range = test_random_below(&scene->random, 3) ? KEYS / 4 : KEYS;
    return test_random_below(&scene->random, range) * 7919 % KEYS;
}

/* ---- figures -------------------------------------------------------------------------- */

/* What must hold of the figures at any moment. */
static void check_stats(struct scene *scene)
{
    struct kv_stats stats;
    kv_store_stats(scene->store, &stats);
    uint64_t bytes = 0;
    uint64_t hits = 0;
    for (unsigned tier = 0; tier < KV_TIER_COUNT; tier++) {
        bytes += stats.tiers[tier].bytes;
        hits += stats.tiers[tier].hits;
    }
    ck_assert_uint_le(bytes, stats.memory_budget_bytes);
    ck_assert_uint_le(stats.memory_used_bytes, stats.memory_budget_bytes);
    ck_assert_uint_eq(hits, stats.page_hits);
    ck_assert_uint_eq(stats.tiers[KV_TIER_HOT].pages, stats.frames_hot);
    ck_assert_uint_eq(stats.tiers[KV_TIER_WARM].pages, stats.frames_warm);
    /* What was found packed came up into warm, and nothing else did. */
    ck_assert_uint_eq(stats.tiers[KV_TIER_COLD].hits + stats.tiers[KV_TIER_FROZEN].hits,
                      stats.tiers[KV_TIER_WARM].promotions);
}

static void check_sound(struct scene *scene)
{
    struct kv_pager *const pager = scene->store->pager;
    pthread_mutex_lock(&pager->mutex);
    const bool sound = kv_cache_packed_sound(&pager->cache);
    const bool within = kv_cache_frames(&pager->cache) >= KV_FRAMES_MIN;
    pthread_mutex_unlock(&pager->mutex);
    ck_assert(sound);
    ck_assert(within);
}

/* Each page that is packed is the version that the page map names, and is not dirty. */
static void check_packed_are_current(struct scene *scene)
{
    static uint8_t bytes[NODE_BYTES];
    struct kv_pager *const pager = scene->store->pager;
    unsigned count = 0;
    for (uint64_t page_id = 1; page_id < 4000; page_id++) {
        struct kv_packed packed;
        struct kv_disk_ptr ptr;
        if (!kv_cache_copy_packed(&pager->cache, page_id, &packed, bytes))
            continue;
        ck_assert_int_eq(kv_pagemap_get(pager->config.map, page_id, &ptr), 0);
        ck_assert_mem_eq(&ptr, &packed.ptr, sizeof ptr);
        const uint32_t frame = kv_cache_find(&pager->cache, page_id);
        if (frame != KV_FRAME_NONE)
            ck_assert(!(pager->cache.frames[frame].flags & KV_FRAME_DIRTY));
        count++;
    }
    ck_assert_uint_gt(count, 0);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static const struct kv_tiers some_tiers[] = {
    {{10, 20, 30, 40}}, {{12, 3, 45, 40}}, {{1, 2, 0, 0}},
    {{10, 10, 0, 80}},  {{10, 10, 80, 0}}, {{0, 50, 25, 25}},
};

static void step(struct scene *scene)
{
    const uint64_t key = pick_key(scene);
    const size_t dice = test_random_below(&scene->random, 1000);
    if (dice == 0)
        ck_assert_int_eq(kv_checkpoint(scene->store), 0);
    else if (dice == 1)
        delete_range(scene, key, test_random_below(&scene->random, 400));
    else if (dice == 2)
        ck_assert_int_eq(
            kv_set_tiers(scene->store, &some_tiers[test_random_below(&scene->random, 6)]), 0);
    else if (dice < 20)
        (void)kv_pager_pack_some(scene->store->pager, 64);
    else if (dice < 150)
        ck_assert_int_eq(put(scene, key, scene->versions[key] + 1), 0);
    else
        get_and_compare(scene, key);
}

static uint64_t hits_of(struct scene *scene, enum kv_tier tier)
{
    struct kv_stats stats;
    kv_store_stats(scene->store, &stats);
    return stats.tiers[tier].hits;
}

/*
 * Whatever ratios the last step left: each tier gets room, packed ones less than all pages need,
 * and pages. Longer and longer stretches are read again and again; at some length cold lets go of
 * what is then asked for once more.
 */
static void read_with_all_tiers(struct scene *scene)
{
    const struct kv_tiers tiers = {{30, 30, 20, 20}};
    const uint64_t hits = hits_of(scene, KV_TIER_FROZEN);
    ck_assert_int_eq(kv_set_tiers(scene->store, &tiers), 0);
    for (uint64_t end = KEYS / 8; end <= KEYS; end += KEYS / 8)
        for (unsigned round = 0; round < 4 && hits_of(scene, KV_TIER_FROZEN) == hits; round++)
            for (uint64_t key = 0; key < end; key++) {
                get_and_compare(scene, key);
                if (key % 500 == 0)
                    (void)kv_pager_pack_some(scene->store->pager, 64);
            }
}

START_TEST(every_value_is_right_whatever_tier_it_comes_from)
{
    static const enum kv_codec codecs[] = {KV_CODEC_NONE, KV_CODEC_LZ4, KV_CODEC_ZSTD};
    struct scene *scene = scene_new(codecs[_i], false);
    fill(scene);
    for (uint64_t i = 0; i < steps_wanted; i++) {
        step(scene);
        if (i % 4096 == 0) {
            check_stats(scene);
            check_sound(scene);
        }
    }
    read_with_all_tiers(scene);
    check_stats(scene);
    struct kv_stats stats;
    kv_store_stats(scene->store, &stats);
    ck_assert_uint_gt(stats.tiers[KV_TIER_COLD].hits, 0);
    if (codecs[_i] != KV_CODEC_NONE) /* else all that is packed is what was hot */
        ck_assert_uint_gt(stats.tiers[KV_TIER_FROZEN].hits, 0);
    ck_assert_uint_gt(stats.tiers[KV_TIER_WARM].evictions, 0);
    if (codecs[_i] == KV_CODEC_NONE)
        ck_assert_uint_gt(stats.pages_packed, 0);
    check_packed_are_current(scene);
    /* After a crash and with nothing in memory it is the same. */
    ck_assert_int_eq(kv_sync(scene->store), 0);
    kv_abandon(scene->store);
    open_store(scene);
    for (uint64_t key = 0; key < KEYS; key++)
        get_and_compare(scene, key);
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(scene->store, &result), 0);
    scene_free(scene);
}
END_TEST

/* Half of it zstd packs to half, and lz4 does not; the rest both do. */
static size_t text_of(uint8_t value[VALUE_MAX], uint64_t key)
{
    struct test_random random = {key};
    memset(value, 'r', VALUE_MAX);
    kv_be64_put(value, key);
    for (size_t i = 8; i < VALUE_MAX / 2; i++)
        value[i] = (uint8_t) "0123456789abcdef"[test_random_below(&random, 16)];
    return VALUE_MAX;
}

START_TEST(frozen_pages_that_are_used_again_and_again_are_packed_closer_by_zstd)
{
    enum { TEXTS = 12000, READS = 15000 };
    struct scene *const scene = scene_new(KV_CODEC_LZ4, false);
    const struct kv_tiers mostly_frozen = {{4, 2, 4, 90}};
    struct kv_stats stats, at_last;
    size_t length;
    char name[24];
    for (uint64_t key = 0; key < TEXTS; key++) {
        length = text_of(scene->value, key);
        ck_assert_int_eq(
            kv_put(scene->store, name, test_number_key(name, key), scene->value, length), 0);
    }
    ck_assert_int_eq(kv_checkpoint(scene->store), 0);
    ck_assert_int_eq(kv_set_tiers(scene->store, &mostly_frozen), 0);
    kv_store_stats(scene->store, &stats);
    ck_assert_uint_eq(stats.pages_repacked, 0);
    for (unsigned i = 0; i < READS; i++) { /* few of them often */
        const size_t below = 1 + test_random_below(&scene->random, TEXTS);
        const uint64_t key = test_random_below(&scene->random, below);
        (void)text_of(scene->value, key);
        ck_assert_int_eq(kv_get(scene->store, name, test_number_key(name, key), scene->found,
                                VALUE_MAX, &length),
                         0);
        ck_assert_uint_eq(length, VALUE_MAX);
        ck_assert_mem_eq(scene->found, scene->value, length);
        if (i % 16 == 0)
            (void)kv_pager_pack_some(scene->store->pager, 16);
    }
    kv_store_stats(scene->store, &at_last);
    printf("%" PRIu64 " pages were packed closer\n", at_last.pages_repacked);
    ck_assert_uint_gt(at_last.pages_repacked, 100);
    check_packed_are_current(scene);
    check_stats(scene);
    scene_free(scene);
}
END_TEST

/* Put a packed copy back that the page's change has thrown away. */
START_TEST(a_stale_copy_is_not_served_even_if_it_is_there)
{
    struct scene *scene = scene_new(KV_CODEC_LZ4, false);
    fill(scene);
    struct kv_pager *const pager = scene->store->pager;
    /* Given a copy of each packed page */
    static uint8_t bytes[4000][NODE_BYTES];
    static struct kv_packed packed[4000];
    for (uint64_t key = 0; key < KEYS; key++)
        get_and_compare(scene, key);
    unsigned count = 0;
    for (uint64_t page_id = 1; page_id < 4000; page_id++)
        if (kv_cache_copy_packed(&pager->cache, page_id, &packed[page_id], bytes[page_id]))
            count++;
    ck_assert_uint_gt(count, 100);
    /* when all pages change, some are freed and their ids used again, */
    delete_range(scene, KEYS / 3, KEYS / 3);
    for (uint64_t key = 0; key < KEYS; key++)
        ck_assert_int_eq(put(scene, key, scene->versions[key] + 2), 0);
    ck_assert_int_eq(kv_checkpoint(scene->store), 0);
    kv_pager_drop_clean(pager);
    /* and the old copies are there again, */
    unsigned kept = 0;
    for (uint64_t page_id = 1; page_id < 4000; page_id++)
        if (packed[page_id].length)
            kept += kv_cache_keep_packed(&pager->cache, page_id, &packed[page_id], bytes[page_id]);
    ck_assert_uint_gt(kept, 100);
    /* then each key has its new value. */
    for (uint64_t key = 0; key < KEYS; key++)
        get_and_compare(scene, key);
    check_sound(scene);
    scene_free(scene);
}
END_TEST

/* A bit of a packed copy flips: the page is read from the device instead. */
START_TEST(a_packed_copy_that_is_damaged_costs_a_read)
{
    struct scene *scene = scene_new(KV_CODEC_LZ4, false);
    fill(scene);
    struct kv_pager *const pager = scene->store->pager;
    for (uint64_t key = 0; key < KEYS; key++)
        get_and_compare(scene, key);
    static uint8_t bytes[NODE_BYTES];
    unsigned count = 0;
    for (uint64_t page_id = 1; page_id < 4000; page_id++) {
        struct kv_packed packed;
        if (!kv_cache_copy_packed(&pager->cache, page_id, &packed, bytes))
            continue;
        bytes[packed.length / 2] ^= 1;
        kv_cache_drop_packed(&pager->cache, page_id);
        count += kv_cache_keep_packed(&pager->cache, page_id, &packed, bytes);
    }
    ck_assert_uint_gt(count, 100);
    for (uint64_t key = 0; key < KEYS; key++)
        get_and_compare(scene, key);
    ck_assert_int_eq(kv_store_failure(scene->store), 0);
    scene_free(scene);
}
END_TEST

START_TEST(what_memory_holds_packed_is_not_read_again)
{
    struct scene *scene = scene_new(KV_CODEC_LZ4, false);
    fill(scene);
    for (unsigned round = 0; round < 3; round++)
        for (uint64_t key = 0; key < KEYS / 2; key++)
            get_and_compare(scene, key);
    struct kv_stats before, after;
    kv_store_stats(scene->store, &before);
    for (uint64_t key = 0; key < KEYS / 2; key++)
        get_and_compare(scene, key);
    kv_store_stats(scene->store, &after);
    /* Hot and warm have room for a part of the pages, packed ones for all. */
    const uint64_t read = after.page_misses - before.page_misses;
    const uint64_t unpacked =
        after.tiers[KV_TIER_WARM].promotions - before.tiers[KV_TIER_WARM].promotions;
    ck_assert_uint_gt(unpacked, 4 * read);
    scene_free(scene);
}
END_TEST

/* A page and the one below it could push each other out of the only frame that is left. */
START_TEST(reading_goes_on_with_hardly_a_frame_to_be_had)
{
    struct scene *scene = scene_new(KV_CODEC_LZ4, false);
    fill(scene);
    for (uint64_t key = 0; key < KEYS; key++)
        get_and_compare(scene, key);
    struct kv_pager *const pager = scene->store->pager;
    static struct kv_page held[4000];
    size_t count = 0;
    const size_t left = (size_t)_i;
    for (uint64_t page_id = 1; count + left < kv_cache_frames(&pager->cache); page_id++) {
        if (kv_pager_pin(pager, page_id, &held[count]))
            continue;
        if (kv_node_level_racy(held[count].bytes))
            kv_pager_unpin(pager, &held[count]);
        else
            count++;
    }
    for (uint64_t key = 0; key < KEYS; key += 7)
        get_and_compare(scene, key);
    while (count)
        kv_pager_unpin(pager, &held[--count]);
    scene_free(scene);
}
END_TEST

/* Nothing is in memory. */
static void forget(struct scene *scene)
{
    ck_assert_int_eq(kv_close(scene->store), 0);
    open_store(scene);
}

START_TEST(what_was_prefetched_is_not_read_again)
{
    struct scene *scene = scene_new(KV_CODEC_LZ4, false);
    fill(scene);
    forget(scene);
    char lower[24], upper[24];
    const size_t lower_len = test_number_key(lower, 1000);
    const size_t upper_len = test_number_key(upper, 1200);
    struct kv_stats before, after;
    uint64_t bytes;
    ck_assert_int_eq(kv_prefetch(scene->store, lower, lower_len, upper, upper_len, 0, &bytes), 0);
    ck_assert_uint_gt(bytes, 4 * NODE_BYTES);
    kv_store_stats(scene->store, &before);
    for (uint64_t key = 1000; key < 1200; key++)
        get_and_compare(scene, key);
    kv_store_stats(scene->store, &after);
    ck_assert_uint_eq(after.page_misses, before.page_misses);
    /* All keys are more than it may read; a limit is kept to. */
    ck_assert_int_eq(kv_prefetch(scene->store, NULL, 0, NULL, 0, 0, &bytes), 0);
    ck_assert_uint_lt(bytes, BUDGET_BYTES / 2);
    ck_assert_int_eq(kv_prefetch(scene->store, NULL, 0, NULL, 0, 5 * NODE_BYTES, &bytes), 0);
    ck_assert_uint_eq(bytes, 5 * NODE_BYTES);
    ck_assert_int_eq(kv_prefetch(scene->store, lower, KV_KEY_MAX + 1, NULL, 0, 0, NULL), -EINVAL);
    scene_free(scene);
}
END_TEST

START_TEST(a_cursor_that_goes_on_reads_ahead)
{
    struct scene *scene = scene_new(KV_CODEC_LZ4, false);
    fill(scene);
    forget(scene);
    struct kv_stats stats;
    struct kv_cursor *cursor;
    ck_assert_int_eq(kv_cursor_open(scene->store, NULL, 0, NULL, 0, &cursor), 0);
    uint64_t key = 0, reads = 0, steps_that_read = 0;
    kv_store_stats(scene->store, &stats);
    reads = stats.page_misses;
    int err = kv_cursor_first(cursor);
    for (; !err; err = kv_cursor_next(cursor), key++) {
        char name[24];
        size_t key_len, length;
        const void *value;
        const void *found = kv_cursor_key(cursor, &key_len);
        ck_assert_uint_eq(key_len, test_number_key(name, key));
        ck_assert_mem_eq(found, name, key_len);
        ck_assert_int_eq(kv_cursor_value(cursor, &value, &length), 0);
        ck_assert_uint_eq(length, value_of(scene->value, key, 1));
        ck_assert_mem_eq(value, scene->value, length);
        kv_store_stats(scene->store, &stats);
        steps_that_read += stats.page_misses != reads;
        reads = stats.page_misses;
    }
    ck_assert_int_eq(err, -ENOENT);
    ck_assert_uint_eq(key, KEYS);
    kv_cursor_close(cursor);
    ck_assert_uint_gt(reads, 5 * steps_that_read);
    /* One pass is no use: what was read ahead is not taken for hot. */
    ck_assert_uint_lt(stats.frames_hot, 8);
    scene_free(scene);
}
END_TEST

START_TEST(ratios_that_make_no_sense_are_refused)
{
    struct scene *scene = scene_new(KV_CODEC_LZ4, false);
    const struct kv_tiers none = {{0, 0, 1, 1}};
    ck_assert_int_eq(kv_set_tiers(scene->store, &none), -EINVAL);
    struct kv_store *other;
    struct kv_device *device = memory_device_new(DEVICE_BLOCKS);
    const struct kv_open_options options = {
        .tiers = none, .device = device, .log = test_log_nothing};
    struct kv_error error = {""};
    ck_assert_int_eq(kv_open("test", &options, &other, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "hot or warm"));
    scene_free(scene);
}
END_TEST

/* ---- threads ------------------------------------------------------------------------------- */

struct reader {
    struct scene *scene;
    pthread_t thread;
    struct test_random random;
    uint8_t value[VALUE_MAX], found[VALUE_MAX];
};

static bool writing; /* atomic */

/* What is read is whole, and not older than what was applied before the read began. */
static void *read_on(void *context)
{
    struct reader *reader = context;
    struct scene *scene = reader->scene;
    while (__atomic_load_n(&writing, __ATOMIC_ACQUIRE)) {
        const uint64_t key = test_random_below(&reader->random, KEYS);
        const uint32_t least = __atomic_load_n(&scene->versions[key], __ATOMIC_ACQUIRE);
        char name[24];
        size_t length = 0;
        const int err = kv_get(scene->store, name, test_number_key(name, key), reader->found,
                               VALUE_MAX, &length);
        KV_ASSERT(!err);
        const uint64_t version = kv_be64_take(reader->found + 8);
        KV_ASSERT(version >= least);
        KV_ASSERT(length == value_of(reader->value, key, (uint32_t)version));
        KV_ASSERT(!memcmp(reader->found, reader->value, length));
    }
    return NULL;
}

START_TEST(readers_promote_while_the_writer_changes_pages)
{
    enum { READERS = 3 };
    struct scene *scene = scene_new(_i ? KV_CODEC_LZ4 : KV_CODEC_NONE, true);
    static struct reader readers[READERS];
    fill(scene);
    __atomic_store_n(&writing, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < READERS; i++) {
        readers[i].scene = scene;
        readers[i].random.state = seed_start + i;
        ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_on, &readers[i]), 0);
    }
    for (uint64_t i = 0; i < steps_wanted / 8; i++) {
        const uint64_t key = pick_key(scene);
        ck_assert_int_eq(put(scene, key, scene->versions[key] + 1), 0);
        if (i % 512 == 0)
            ck_assert_int_eq(kv_checkpoint(scene->store), 0);
        if (i % 300 == 0)
            ck_assert_int_eq(kv_set_tiers(scene->store, &some_tiers[i / 300 % 6]), 0);
    }
    __atomic_store_n(&writing, false, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < READERS; i++)
        ck_assert_int_eq(pthread_join(readers[i].thread, NULL), 0);
    check_sound(scene);
    for (uint64_t key = 0; key < KEYS; key++)
        get_and_compare(scene, key);
    scene_free(scene);
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    steps_wanted = test_env("KVFS_STEPS", 20000);
    printf("KVFS_SEED=%" PRIu64 " KVFS_STEPS=%" PRIu64 "\n", seed_start, steps_wanted);
    Suite *const suite = suite_create("tiers");
    TCase *const tiers = tcase_create("tiers");
    tcase_set_timeout(tiers, 600);
    tcase_add_loop_test(tiers, every_value_is_right_whatever_tier_it_comes_from, 0, 3);
    tcase_add_test(tiers, frozen_pages_that_are_used_again_and_again_are_packed_closer_by_zstd);
    tcase_add_test(tiers, a_cursor_that_goes_on_reads_ahead);
    tcase_add_test(tiers, ratios_that_make_no_sense_are_refused);
    tcase_add_loop_test(tiers, readers_promote_while_the_writer_changes_pages, 0, 2);
    suite_add_tcase(suite, tiers);

    TCase *const alone = tcase_create("tiers, one thread");
    tcase_set_tags(alone, TEST_ONE_THREAD);
    tcase_set_timeout(alone, 600);
    tcase_add_test(alone, a_stale_copy_is_not_served_even_if_it_is_there);
    tcase_add_test(alone, a_packed_copy_that_is_damaged_costs_a_read);
    tcase_add_test(alone, what_memory_holds_packed_is_not_read_again);
    tcase_add_loop_test(alone, reading_goes_on_with_hardly_a_frame_to_be_had, 2, 6);
    tcase_add_test(alone, what_was_prefetched_is_not_read_again);
    suite_add_tcase(suite, alone);
    return test_run(suite);
}
