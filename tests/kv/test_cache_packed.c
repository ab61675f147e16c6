/*
 * tests/kv/test_cache_packed.c: packed pages in slabs: what is kept is what was given, and memory
 * is never more than the slabs.
 *
 * KVFS_SEED chooses the random numbers, KVFS_STEPS how many steps are tried.
 */
#include "kv/cache.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define FRAME_BYTES 16384u
#define FRAMES      200u
#define PAGES       700u

static uint64_t seed_start, steps_wanted;

struct fixture {
    struct kv_cache cache;
    struct test_random random;
    uint64_t versions[PAGES]; /* that was kept last; 0: none, or it was dropped */
    uint8_t bytes[FRAME_BYTES], found[FRAME_BYTES];
};

static struct fixture *fixture_new(struct kv_tiers tiers)
{
    struct fixture *f = calloc(1, sizeof *f);
    ck_assert_ptr_nonnull(f);
    const uint64_t budget = FRAMES * (uint64_t)(FRAME_BYTES + KV_CACHE_FRAME_COST);
    ck_assert_int_eq(kv_cache_init(&f->cache, budget, FRAME_BYTES, &tiers), 0);
    f->random.state = seed_start;
    return f;
}

static void fixture_free(struct fixture *f)
{
    kv_cache_release(&f->cache);
    free(f);
}

/* As the pager does it: a frame becomes a slab if one is wanted and there is one. */
static void grow(struct fixture *f, size_t length)
{
    if (!kv_cache_wants_slab(&f->cache, length))
        return;
    const uint32_t index = kv_cache_take_free(&f->cache);
    if (index != KV_FRAME_NONE)
        kv_cache_add_slab(&f->cache, index);
}

static struct kv_packed packed_of(uint64_t page, uint64_t version, size_t length)
{
    struct kv_packed packed;
    memset(&packed, 0, sizeof packed);
    packed.ptr.block = kv_le64_of(page * 10);
    packed.ptr.digest = kv_le64_of(version);
    packed.digest = version;
    packed.length = (uint32_t)length;
    packed.codec = KV_CODEC_LZ4;
    return packed;
}

static bool keep(struct fixture *f, uint64_t page, uint64_t version, size_t length)
{
    const struct kv_packed packed = packed_of(page, version, length);
    test_fill(f->bytes, length, page << 32 ^ version);
    grow(f, length);
    const bool kept = kv_cache_keep_packed(&f->cache, page + 1, &packed, f->bytes);
    f->versions[page] = kept ? version : 0;
    return kept;
}

/* What is found must be the version that was kept last, unchanged. Returns whether it is there. */
static bool look(struct fixture *f, uint64_t page)
{
    struct kv_packed packed;
    if (!kv_cache_copy_packed(&f->cache, page + 1, &packed, f->found))
        return false;
    ck_assert_uint_eq(kv_le64_get(packed.ptr.digest), f->versions[page]);
    ck_assert_uint_eq(kv_le64_get(packed.ptr.block), page * 10);
    test_fill(f->bytes, packed.length, page << 32 ^ f->versions[page]);
    ck_assert_mem_eq(f->found, f->bytes, packed.length);
    return true;
}

/* Pack a frozen page closer: its bytes begin as before, so that `look` finds them right. */
static void shrink_one(struct fixture *f)
{
    uint64_t page_id;
    struct kv_packed packed;
    if (!kv_cache_take_fresh_frozen(&f->cache, &page_id, &packed, f->found))
        return;
    packed.length = packed.length / 2 + 1;
    if (f->random.state & 1)
        packed.ptr.digest = kv_le64_of(UINT64_MAX); /* another version: no */
    const bool same = !(f->random.state & 1);
    ck_assert_int_eq(kv_cache_shrink_packed(&f->cache, page_id, &packed, f->found), same);
}

static void step(struct fixture *f, uint64_t version)
{
    /* Some pages are asked for more often, so that some stay and some pass. */
    const size_t range = test_random_below(&f->random, 2) ? PAGES : PAGES / 8;
    const uint64_t page = test_random_below(&f->random, range);
    switch (test_random_below(&f->random, 12)) {
    case 0:
        kv_cache_drop_packed(&f->cache, page + 1);
        ck_assert(!kv_cache_has_packed(&f->cache, page + 1));
        break;
    case 1:
        shrink_one(f);
        break;
    case 2:
        if (f->cache.queues[KV_QUEUE_SLAB].count > FRAMES / 4)
            kv_cache_free_slab(&f->cache);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        if (keep(f, page, version, 1 + test_random_below(&f->random, FRAME_BYTES / 4 * 3)))
            ck_assert(look(f, page));
        break;
    default:
        (void)look(f, page);
        break;
    }
}

START_TEST(what_is_found_is_what_was_kept_last)
{
    static const struct kv_tiers tiers[] = {
        {{10, 20, 30, 40}}, {{10, 20, 70, 0}}, {{10, 20, 0, 70}}, {{1, 0, 1, 1}}};
    struct fixture *f = fixture_new(tiers[_i]);
    for (uint64_t i = 1; i <= steps_wanted; i++) {
        step(f, i);
        if (i % 256 == 0)
            ck_assert(kv_cache_packed_sound(&f->cache));
        ck_assert_uint_le(f->cache.queues[KV_QUEUE_SLAB].count, f->cache.slabs_max);
    }
    ck_assert_uint_gt(f->cache.counts[KV_TIER_WARM].promotions, 0);
    kv_cache_drop_all_packed(&f->cache);
    ck_assert(kv_cache_packed_sound(&f->cache));
    ck_assert_uint_eq(f->cache.free_chunks,
                      f->cache.queues[KV_QUEUE_SLAB].count * f->cache.chunks_per_slab);
    fixture_free(f);
}
END_TEST

START_TEST(a_scan_passes_through_cold_and_leaves_frozen)
{
    struct fixture *f = fixture_new((struct kv_tiers){{10, 20, 30, 40}});
    /* Given pages that were used while they were cold, and so came to frozen, */
    for (uint64_t page = 0; page < 60; page++) {
        ck_assert(keep(f, page, 1, 6000));
        ck_assert(look(f, page));
    }
    for (uint64_t page = 60; page < 450; page++)
        ck_assert(keep(f, page, 1, 6000));
    ck_assert_uint_gt(f->cache.queues[KV_TIER_FROZEN].count, 50);
    /* when pages pass through that nobody uses, */
    for (uint64_t page = 450; page < PAGES; page++)
        ck_assert(keep(f, page, 1, 6000));
    /* then the others are still there. */
    unsigned found = 0;
    for (uint64_t page = 0; page < 60; page++)
        found += look(f, page);
    ck_assert_uint_ge(found, 59);
    fixture_free(f);
}
END_TEST

START_TEST(pages_that_come_back_stay_longer)
{
    struct fixture *f = fixture_new((struct kv_tiers){{10, 20, 30, 40}});
    for (unsigned round = 0; round < 3; round++)
        for (uint64_t page = 0; page < 400; page++)
            ck_assert(keep(f, page, 1, 6000));
    ck_assert_uint_gt(f->cache.counts[KV_TIER_FROZEN].ghost_hits, 0);
    ck_assert_uint_gt(f->cache.queues[KV_TIER_FROZEN].count, 0);
    ck_assert(kv_cache_packed_sound(&f->cache));
    fixture_free(f);
}
END_TEST

START_TEST(a_page_that_is_new_comes_in_the_second_time_when_all_room_is_taken)
{
    struct fixture *f = fixture_new((struct kv_tiers){{10, 20, 30, 40}});
    /* Given that there is room, all are let in; */
    uint64_t page = 0;
    for (; grow(f, 6000), f->cache.free_chunks >= 13; page++) {
        ck_assert(!kv_cache_turns_away(&f->cache, page + 1, 6000));
        ck_assert(keep(f, page, 1, 6000));
    }
    ck_assert_uint_gt(page, 100);
    /* when there is none, one that was never seen is turned away, and then no more, */
    ck_assert(kv_cache_turns_away(&f->cache, PAGES, 6000));
    ck_assert(!kv_cache_turns_away(&f->cache, PAGES, 6000));
    /* nor is one that is there, */
    ck_assert(!kv_cache_turns_away(&f->cache, 1, 6000));
    /* or left for want of room, */
    ck_assert(keep(f, page, 1, 6000));
    ck_assert(!kv_cache_has_packed(&f->cache, 1));
    ck_assert(!kv_cache_turns_away(&f->cache, 1, 6000));
    /* or was thrown away since it changed. */
    const uint64_t changed_id = page + 1;
    kv_cache_drop_packed(&f->cache, changed_id);
    while (f->cache.free_chunks >= 13)
        ck_assert(keep(f, ++page, 1, 6000));
    ck_assert(!kv_cache_turns_away(&f->cache, changed_id, 6000));
    ck_assert(kv_cache_packed_sound(&f->cache));
    fixture_free(f);
}
END_TEST

START_TEST(what_does_not_pack_gives_the_memory_to_frames)
{
    struct fixture *f = fixture_new((struct kv_tiers){{10, 20, 30, 40}});
    for (uint64_t page = 0; page < PAGES; page++) {
        kv_cache_note_packable(&f->cache, true);
        ck_assert(keep(f, page, 1, 6000));
    }
    ck_assert_uint_eq(f->cache.queues[KV_QUEUE_SLAB].count, f->cache.slabs_max);
    ck_assert(!kv_cache_has_spare_slab(&f->cache));
    for (unsigned i = 0; i < 30000; i++) {
        kv_cache_note_packable(&f->cache, false);
        if (kv_cache_has_spare_slab(&f->cache))
            kv_cache_free_slab(&f->cache);
    }
    ck_assert_uint_le(f->cache.queues[KV_QUEUE_SLAB].count, f->cache.slabs_max / 64 + 1);
    ck_assert(kv_cache_packed_sound(&f->cache));
    fixture_free(f);
}
END_TEST

START_TEST(ratios_change_while_pages_are_there)
{
    struct fixture *f = fixture_new((struct kv_tiers){{10, 20, 30, 40}});
    for (uint64_t page = 0; page < PAGES; page++)
        ck_assert(keep(f, page, 1, 6000));
    const struct kv_tiers fewer = {{60, 20, 10, 10}};
    kv_cache_set_tiers(&f->cache, &fewer);
    while (kv_cache_has_spare_slab(&f->cache))
        kv_cache_free_slab(&f->cache);
    ck_assert_uint_eq(f->cache.queues[KV_QUEUE_SLAB].count, FRAMES / 5);
    ck_assert(kv_cache_packed_sound(&f->cache));
    const struct kv_tiers none = {{1, 1, 0, 0}};
    kv_cache_set_tiers(&f->cache, &none);
    while (kv_cache_has_spare_slab(&f->cache))
        kv_cache_free_slab(&f->cache);
    ck_assert_uint_eq(f->cache.queues[KV_QUEUE_SLAB].count, 0);
    ck_assert(!kv_cache_keep_packed(&f->cache, 1, &(struct kv_packed){.length = 100}, f->bytes));
    ck_assert(kv_cache_packed_sound(&f->cache));
    fixture_free(f);
}
END_TEST

START_TEST(warm_keeps_its_share_when_frames_become_slabs)
{
    struct fixture *f = fixture_new((struct kv_tiers){{12, 0, 45, 43}});
    /* Given frames that are all used, and so nearly all hot, */
    for (uint64_t page_id = 1; page_id <= 3 * FRAMES; page_id++) {
        uint32_t index = kv_cache_take_free(&f->cache);
        if (index == KV_FRAME_NONE) {
            uint32_t dirty_count;
            kv_cache_remove(&f->cache, kv_cache_victim(&f->cache, NULL, 0, &dirty_count));
            index = kv_cache_take_free(&f->cache);
        }
        kv_cache_insert(&f->cache, index, page_id);
        kv_cache_touch_racy(&f->cache.frames[index]);
    }
    ck_assert_uint_gt(f->cache.queues[KV_TIER_HOT].count, FRAMES / 2);
    /* when slabs take them, as the pager does it, */
    while (f->cache.queues[KV_QUEUE_SLAB].count < f->cache.slabs_max) {
        uint32_t dirty_count;
        kv_cache_remove(&f->cache, kv_cache_victim(&f->cache, NULL, 0, &dirty_count));
        kv_cache_add_slab(&f->cache, kv_cache_take_free(&f->cache));
    }
    /* then warm is not what all of them were taken from, but for the last one. */
    ck_assert_uint_ge(f->cache.queues[KV_TIER_WARM].count + 1, KV_FRAMES_MIN / 4);
    fixture_free(f);
}
END_TEST

START_TEST(ratios_without_sense_are_told)
{
    ck_assert(kv_tiers_valid(&(struct kv_tiers){{0, 0, 0, 0}})); /* the defaults */
    ck_assert(kv_tiers_valid(&(struct kv_tiers){{0, 1, 0, 0}}));
    ck_assert(kv_tiers_valid(&(struct kv_tiers){{1, 2, 3, KV_TIER_RATIO_MAX}}));
    ck_assert(!kv_tiers_valid(&(struct kv_tiers){{0, 0, 1, 1}}));
    ck_assert(!kv_tiers_valid(&(struct kv_tiers){{1, 2, 3, KV_TIER_RATIO_MAX + 1}}));
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    steps_wanted = test_env("KVFS_STEPS", 40000);
    printf("KVFS_SEED=%" PRIu64 " KVFS_STEPS=%" PRIu64 "\n", seed_start, steps_wanted);
    Suite *const suite = suite_create("cache_packed");
    TCase *const packed = tcase_create("packed");
    tcase_set_timeout(packed, 300);
    tcase_add_loop_test(packed, what_is_found_is_what_was_kept_last, 0, 4);
    tcase_add_test(packed, a_scan_passes_through_cold_and_leaves_frozen);
    tcase_add_test(packed, pages_that_come_back_stay_longer);
    tcase_add_test(packed, a_page_that_is_new_comes_in_the_second_time_when_all_room_is_taken);
    tcase_add_test(packed, what_does_not_pack_gives_the_memory_to_frames);
    tcase_add_test(packed, ratios_change_while_pages_are_there);
    tcase_add_test(packed, warm_keeps_its_share_when_frames_become_slabs);
    tcase_add_test(packed, ratios_without_sense_are_told);
    suite_add_tcase(suite, packed);
    return test_run(suite);
}
