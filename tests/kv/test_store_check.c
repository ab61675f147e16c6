/*
 * tests/kv/test_store_check.c: what kv_check finds in sound images, with a log behind them, and in
 * much damage at once.
 *
 * test_check_pages.c and test_check_space.c have one kind of damage each.
 */
#include "support_scene.h"
#include "tests/run.h"

#include <check.h>

/* ---- sound images --------------------------------------------------------------------------- */

START_TEST(a_sound_store_has_no_findings_and_right_figures)
{
    struct scene *const scene = scene_make(scene_kinds[_i].node_bytes, scene_kinds[_i].codec);
    scene_open(scene);
    scene_look(scene);
    ck_assert_uint_eq(scene->findings.count, 0);
    unsigned shared = 0, holders = 0;
    for (unsigned i = 0; i < SCENE_BLOBS; i++) {
        shared += scene_holders(i) > 1;
        holders += scene_holders(i);
    }
    ck_assert_uint_eq(scene->findings.result.keys, SCENE_KEYS + holders);
    ck_assert_uint_eq(scene->findings.result.shared_blobs, shared);
    ck_assert_uint_ge(scene->findings.result.blobs, SCENE_BLOBS);
    ck_assert_uint_gt(scene->findings.result.pages, 2);

    scene_mend(scene);
    ck_assert_uint_eq(scene->findings.count, 0);
    ck_assert_uint_eq(scene->findings.result.repaired, 0);
    scene_end_sound(scene);
}
END_TEST

/* Blocks are set aside for blobs that are flushed one by one: they are nobody's, and not free. */
START_TEST(a_repair_of_a_store_in_use_leaves_what_is_set_aside_alone)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_LZ4);
    static uint8_t bytes[8000];
    size_t length;
    uint64_t block;
    uint32_t count;
    scene_open(scene);
    for (unsigned i = 0; i < 60; i++) {
        char key[] = {'Z', (char)('0' + i)};
        test_fill(bytes, sizeof bytes, i);
        ck_assert_int_eq(kv_put(scene->store, key, sizeof key, bytes, sizeof bytes), 0);
        ck_assert_int_eq(kv_sync(scene->store), 0);
        if (i != 19)
            continue;
        ck_assert_uint_gt(kv_blob_run_left(scene->store->blobs.run), 0);
        ck_assert_int_eq(kv_space_alloc(scene->store->space, KV_SPACE_DATA, 3, 3, &block, &count),
                         0);
        ck_assert_int_eq(kv_space_commit(scene->store->space,
                                         atomic_load(&scene->store->checkpoint.epoch), block,
                                         count),
                         0); /* a leak */
        ck_assert_int_eq(kv_checkpoint(scene->store), 0);
        scene_mend(scene);
        ck_assert_uint_gt(scene->findings.count, 0);
    }
    for (unsigned i = 0; i < 60; i++) {
        const char key[] = {'Z', (char)('0' + i)};
        uint8_t expected[sizeof bytes];
        test_fill(expected, sizeof expected, i);
        ck_assert_int_eq(kv_get(scene->store, key, sizeof key, bytes, sizeof bytes, &length), 0);
        ck_assert_mem_eq(bytes, expected, sizeof expected);
        ck_assert_int_eq(kv_del(scene->store, key, sizeof key), 0);
    }
    scene_end_sound(scene);
}
END_TEST

START_TEST(a_store_that_is_read_only_can_be_checked_but_not_mended)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_LZ4);
    struct kv_open_options options = scene_quiet;
    scene_open(scene);
    ck_assert_int_eq(kv_put(scene->store, "late", 4, "value", 5), 0);
    ck_assert_int_eq(kv_sync(scene->store), 0);
    kv_abandon(scene->store);

    options.read_only = true;
    scene_open_with(scene, &options);
    scene_expect_clean(scene);
    scene_expect_keys(scene);
    struct kv_check_result result;
    const struct kv_check_options repair = {.repair = true};
    ck_assert_int_eq(kv_check(scene->store, &repair, &result), -EROFS);
    scene_close(scene);

    scene_open(scene); /* the log is still there */
    size_t length;
    char value[5];
    ck_assert_int_eq(kv_get(scene->store, "late", 4, value, sizeof value, &length), 0);
    scene_close(scene);
    scene_free(scene);
}
END_TEST

/* ---- the log ----------------------------------------------------------------- */

/* The ring block that holds the `ahead`th block of the log. */
static uint64_t log_block(const struct scene *scene, uint64_t ahead)
{
    const struct kv_disk_superblock superblock = scene_superblock(scene);
    const uint64_t position = kv_le64_get(superblock.log_tail) + ahead;
    return kv_le64_get(superblock.log_first_block) +
           position % kv_le64_get(superblock.log_block_count);
}

START_TEST(a_log_damaged_before_its_durable_end_ends_there)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    scene_crash_with_log(scene, 1000, 500); /* they are there already: none can be lost */
    scene_harm(scene, log_block(scene, 20), 200);
    scene_expect_open_fails(scene, -EBADMSG);

    scene_open_for_repair(scene);
    scene_look(scene);
    scene_expect_only(scene, "log-damaged", 1);
    scene_mend(scene);
    scene_expect_keys(scene);
    scene_close(scene);
    /* What lies in the ring behind the damage must not come back to life. */
    for (unsigned round = 0; round < 3; round++) {
        scene_crash_with_log(scene, 2000 * round, 40 + 100 * round);
        scene_open(scene);
        scene_expect_clean(scene);
        scene_expect_keys(scene);
        kv_abandon(scene->store);
    }
    scene_open(scene);
    scene_end_sound(scene);
}
END_TEST

START_TEST(damaged_pages_in_the_way_of_the_log_are_mended_first)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    scene_open(scene);
    const uint64_t leaf = scene_page_above(scene->store, 5000, 0);
    const uint64_t blocks[3] = {
        scene_page_block(scene->store, leaf),
        scene_page_block(scene->store, scene_page_above(scene->store, 9000, 1)),
        scene_map_block(scene->store, 0, 2)};
    scene_mark_lost(scene, scene_is_page, &leaf);
    scene_close(scene);
    scene_crash_with_log(scene, 4900, 200);
    for (unsigned i = 4900; i < 5100; i++)
        scene->lost[i] = false; /* the log has them */
    for (int i = 0; i <= _i; i++)
        scene_harm(scene, blocks[i], 123);
    struct kv_store *store;
    ck_assert_int_lt(kv_open(scene->dir.image, &scene_quiet, &store, NULL), 0);

    scene_open_for_repair(scene);
    scene_expect_keys(scene);
    scene_mend(scene);
    scene_expect_clean(scene);
    scene_close(scene);
    scene_open(scene);
    scene_end_sound(scene);
}
END_TEST

/* ---- much at once --------------------------------------------------------------------------- */

/* Pages, and map blocks that place pages. */
struct targets {
    uint64_t blocks[8192];
    uint64_t ids[8192]; /* of the page, or index of the map block */
    bool is_map[8192];
    size_t count;
};

static int note_target(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                       int error)
{
    struct targets *const targets = context;
    ck_assert_int_eq(error, 0);
    ck_assert_uint_lt(targets->count, 8192);
    if (level > 0)
        return 0;
    targets->blocks[targets->count] = kv_le64_get(ptr->block);
    targets->is_map[targets->count] = level == 0;
    targets->ids[targets->count++] = index;
    return 0;
}

START_TEST(much_damage_at_once_loses_what_it_hit_only)
{
    static struct targets targets;
    struct test_random random = {test_env("KVFS_SEED", 1) + (uint64_t)_i};
    printf("seed: %llu (KVFS_SEED)\n", (unsigned long long)random.state);
    struct scene *const scene =
        scene_make(4096, test_random_below(&random, 2) ? KV_CODEC_LZ4 : KV_CODEC_NONE);
    scene_open(scene);
    targets.count = 0;
    ck_assert_int_eq(kv_pagemap_walk(scene->store->map, note_target, &targets), 0);
    size_t hits[40];
    const size_t hit_count = 1 + test_random_below(&random, 40);
    for (size_t i = 0; i < hit_count; i++) {
        hits[i] = test_random_below(&random, targets.count);
        if (!targets.is_map[hits[i]]) /* a map block loses no leaf */
            scene_mark_lost(scene, scene_is_page, &targets.ids[hits[i]]);
    }
    scene_close(scene);
    if (test_random_below(&random, 2))
        scene_crash_with_log(scene, (unsigned)test_random_below(&random, SCENE_KEYS - 300), 300);
    if (!test_random_below(&random, 3))
        scene_harm_bitmaps(scene);
    if (!test_random_below(&random, 3))
        scene_harm(scene, KV_SUPERBLOCK_A_BLOCK, 9);
    for (size_t i = 0; i < hit_count; i++)
        scene_harm(scene, targets.blocks[hits[i]], i); /* twice the same page: not the same bit */

    scene_open_for_repair(scene);
    scene_expect_mended(scene);
    scene_end_sound(scene);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("store check");
    TCase *const sound = tcase_create("sound");
    tcase_set_timeout(sound, 120);
    tcase_add_loop_test(sound, a_sound_store_has_no_findings_and_right_figures, 0, SCENE_KINDS);
    tcase_add_test(sound, a_repair_of_a_store_in_use_leaves_what_is_set_aside_alone);
    tcase_add_test(sound, a_store_that_is_read_only_can_be_checked_but_not_mended);
    suite_add_tcase(suite, sound);

    TCase *const ended = tcase_create("log");
    tcase_set_timeout(ended, 120);
    tcase_add_test(ended, a_log_damaged_before_its_durable_end_ends_there);
    tcase_add_loop_test(ended, damaged_pages_in_the_way_of_the_log_are_mended_first, 0, 3);
    suite_add_tcase(suite, ended);

    TCase *const much = tcase_create("much");
    tcase_set_timeout(much, 120);
    tcase_add_loop_test(much, much_damage_at_once_loses_what_it_hit_only, 0,
                        (int)test_env("KVFS_STEPS", 4));
    suite_add_tcase(suite, much);

    return test_run(suite);
}
