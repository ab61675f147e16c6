/*
 * Tests of kv/pager_adapt.c: cold and frozen get a share while that spares reads, and lose it when
 * it does not.
 *
 * The store has no threads: the test asks the pager to look, as the packer does twice a second.
 */
#include "kv/pager_frames.h"
#include "kv/store.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>

#define NODE_BYTES    16384u
#define DEVICE_BLOCKS 60000u
#define BUDGET_BYTES  (8ull << 20)
#define VALUE_BYTES   1000u
#define MANY          24000u /* keys: three times what memory holds */
#define FEW           2400u  /* a third of it */
#define WINDOW        400u   /* operations between two looks */

struct scene {
    struct kv_device *device;
    struct kv_store *store;
    struct test_random random;
    bool packs;
};

static void put(struct scene *scene, uint64_t key)
{
    uint8_t value[VALUE_BYTES];
    char name[24];
    memset(value, (int)('a' + key % 26), sizeof value);
    const size_t noise = scene->packs ? sizeof value / 2 : sizeof value;
    for (size_t i = 0; i + 8 <= noise; i += 8)
        kv_be64_put(value + i, test_random_next(&scene->random));
    ck_assert_int_eq(kv_put(scene->store, name, test_number_key(name, key), value, sizeof value),
                     0);
}

static void get(struct scene *scene, uint64_t key)
{
    uint8_t value[VALUE_BYTES];
    char name[24];
    size_t length;
    ck_assert_int_eq(
        kv_get(scene->store, name, test_number_key(name, key), value, sizeof value, &length), 0);
    ck_assert_uint_eq(length, VALUE_BYTES);
}

static void scene_open(struct scene *scene, bool packs, const struct kv_open_options *given)
{
    *scene = (struct scene){.device = memory_device_new(DEVICE_BLOCKS), .packs = packs};
    scene->random.state = 1;
    test_create_on(scene->device, NODE_BYTES, KV_CODEC_LZ4, 8u << 20);
    struct kv_open_options options = *given;
    options.memory_budget_bytes = BUDGET_BYTES;
    options.no_background = true;
    options.log = test_log_nothing;
    options.device = scene->device;
    struct kv_error error = {""};
    const int err = kv_open("test", &options, &scene->store, &error);
    ck_assert_msg(!err, "%s", error.text);
}

/* A store with MANY keys, of which memory holds a third. */
static void scene_fill(struct scene *scene, bool packs, const struct kv_open_options *given)
{
    scene_open(scene, packs, given);
    for (uint64_t key = 0; key < MANY; key++)
        put(scene, key);
    ck_assert_int_eq(kv_checkpoint(scene->store), 0);
    kv_pager_adapt(scene->store->pager); /* of the fill nothing shall be left */
}

static void scene_close(struct scene *scene)
{
    ck_assert_int_eq(kv_close(scene->store), 0);
}

static bool packed_has_share(struct scene *scene)
{
    struct kv_stats stats;
    kv_store_stats(scene->store, &stats);
    return stats.tiers[KV_TIER_COLD].bytes_max > 0;
}

static uint64_t misses(struct scene *scene)
{
    struct kv_stats stats;
    kv_store_stats(scene->store, &stats);
    return stats.page_misses;
}

/* Windows of random gets among `keys`, with one put for `puts_percent` of them. Returns after how
 * many of them cold and frozen had a share, or had none, as `until` says; at most `windows`. */
static unsigned windows_until(struct scene *scene, unsigned windows, uint64_t keys,
                              unsigned puts_percent, bool until)
{
    for (unsigned window = 1; window <= windows; window++) {
        for (unsigned i = 0; i < WINDOW; i++) {
            const uint64_t key = test_random_below(&scene->random, keys);
            if (test_random_below(&scene->random, 100) < puts_percent)
                put(scene, key);
            else
                get(scene, key);
        }
        kv_pager_adapt(scene->store->pager);
        if (packed_has_share(scene) == until)
            return window;
    }
    return windows + 1;
}

static const struct kv_open_options nothing_given;

START_TEST(random_reads_of_more_than_memory_get_packed_tiers_and_fewer_reads)
{
    struct scene scene;
    scene_fill(&scene, true, &nothing_given);
    ck_assert(!packed_has_share(&scene));
    ck_assert_uint_le(windows_until(&scene, 8, MANY, 0, true), 8);

    (void)windows_until(&scene, 20, MANY, 0, false); /* until slabs are full */
    const uint64_t before = misses(&scene);
    ck_assert_uint_gt(windows_until(&scene, 10, MANY, 0, false), 10);
    const uint64_t with = misses(&scene) - before;
    ck_assert_uint_lt(with, 10 * WINDOW / 2); /* of memory alone two of three gets read */
    scene_close(&scene);
}
END_TEST

START_TEST(pages_that_do_not_pack_leave_all_to_frames)
{
    struct scene scene;
    scene_fill(&scene, false, &nothing_given);
    ck_assert_uint_gt(windows_until(&scene, 20, MANY, 0, true), 20);
    scene_close(&scene);
}
END_TEST

START_TEST(what_fits_in_memory_needs_nothing_packed)
{
    struct scene scene;
    scene_fill(&scene, true, &nothing_given);
    ck_assert_uint_gt(windows_until(&scene, 20, FEW, 0, true), 20);
    scene_close(&scene);
}
END_TEST

START_TEST(who_reads_everything_once_is_not_served_better_by_packed_pages)
{
    struct scene scene;
    scene_fill(&scene, true, &nothing_given);
    for (uint64_t key = 0; key < MANY; key++) {
        get(&scene, key);
        if (key % WINDOW == 0)
            kv_pager_adapt(scene.store->pager);
        ck_assert(!packed_has_share(&scene));
    }
    scene_close(&scene);
}
END_TEST

START_TEST(many_changes_take_the_share_back)
{
    struct scene scene;
    scene_fill(&scene, true, &nothing_given);
    ck_assert_uint_le(windows_until(&scene, 8, MANY, 0, true), 8);
    ck_assert_uint_le(windows_until(&scene, 40, MANY, 100, false), 40);
    ck_assert_uint_gt(windows_until(&scene, 10, MANY, 100, true), 10);
    scene_close(&scene);
}
END_TEST

START_TEST(some_changes_among_reads_leave_it)
{
    struct scene scene;
    scene_fill(&scene, true, &nothing_given);
    ck_assert_uint_le(windows_until(&scene, 20, MANY, 20, true), 20);
    ck_assert_uint_gt(windows_until(&scene, 30, MANY, 20, false), 30);
    scene_close(&scene);
}
END_TEST

START_TEST(when_less_is_used_than_frames_hold_they_get_all_again)
{
    struct scene scene;
    scene_fill(&scene, true, &nothing_given);
    ck_assert_uint_le(windows_until(&scene, 8, MANY, 0, true), 8);
    (void)windows_until(&scene, 20, MANY, 0, false); /* most of memory is slabs */
    ck_assert_uint_le(windows_until(&scene, 60, FEW, 0, false), 60);
    ck_assert_uint_gt(windows_until(&scene, 20, FEW, 0, true), 20);
    scene_close(&scene);
}
END_TEST

START_TEST(frames_alone_are_tried_more_and_more_seldom)
{
    struct scene scene;
    scene_fill(&scene, true, &nothing_given);
    const uint64_t keys = MANY / 2; /* packed, all of it fits */
    unsigned before = 0;
    for (int trial = 0; trial < 4; trial++) {
        ck_assert_uint_le(windows_until(&scene, 40, keys, 0, true), 40);
        const unsigned windows = windows_until(&scene, 1000, keys, 0, false);
        ck_assert_uint_le(windows, 1000);
        ck_assert_uint_gt(windows, before);
        before = windows;
    }
    scene_close(&scene);
}
END_TEST

START_TEST(what_was_said_stays)
{
    struct scene scene;
    scene_fill(&scene, true, &(struct kv_open_options){.fixed_tiers = true});
    ck_assert_uint_gt(windows_until(&scene, 20, MANY, 0, true), 20);
    scene_close(&scene);

    scene_fill(&scene, true, &(struct kv_open_options){.tiers = {{12, 3, 5, 0}}});
    ck_assert(packed_has_share(&scene));
    ck_assert_uint_gt(windows_until(&scene, 20, MANY, 100, false), 20);
    ck_assert_uint_gt(windows_until(&scene, 20, FEW, 0, false), 20);
    scene_close(&scene);
}
END_TEST

START_TEST(ratios_that_change_are_said_anew)
{
    struct scene scene;
    scene_fill(&scene, true, &nothing_given);
    ck_assert_uint_le(windows_until(&scene, 8, MANY, 0, true), 8);
    ck_assert_int_eq(kv_set_tiers(scene.store, &(struct kv_tiers){{1, 1, 0, 0}}), 0);
    ck_assert(!packed_has_share(&scene));
    ck_assert_uint_le(windows_until(&scene, 8, MANY, 0, true), 8);
    scene_close(&scene);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("pager_adapt");
    TCase *const tcase = tcase_create("adapt");
    tcase_set_timeout(tcase, 300);
    tcase_set_tags(tcase, TEST_ONE_THREAD);
    tcase_add_test(tcase, random_reads_of_more_than_memory_get_packed_tiers_and_fewer_reads);
    tcase_add_test(tcase, pages_that_do_not_pack_leave_all_to_frames);
    tcase_add_test(tcase, what_fits_in_memory_needs_nothing_packed);
    tcase_add_test(tcase, who_reads_everything_once_is_not_served_better_by_packed_pages);
    tcase_add_test(tcase, many_changes_take_the_share_back);
    tcase_add_test(tcase, some_changes_among_reads_leave_it);
    tcase_add_test(tcase, when_less_is_used_than_frames_hold_they_get_all_again);
    tcase_add_test(tcase, frames_alone_are_tried_more_and_more_seldom);
    tcase_add_test(tcase, what_was_said_stays);
    tcase_add_test(tcase, ratios_that_change_are_said_anew);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
