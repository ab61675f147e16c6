/*
 * tests/kv/test_check_pages.c: what kv_check makes of damaged pages and map blocks.
 *
 * Keys are lost with the leaves that were hit, and with nothing else.
 */
#include "support_scene.h"
#include "tests/run.h"

#include <check.h>

/* ---- damaged pages ----------------------------------------------------------- */

START_TEST(a_damaged_leaf_loses_its_keys_and_no_others)
{
    struct scene *const scene = scene_make(scene_kinds[_i].node_bytes, scene_kinds[_i].codec);
    scene_open(scene);
    const uint64_t leaf = scene_page_above(scene->store, SCENE_KEYS / 2, 0);
    const uint64_t block = scene_page_block(scene->store, leaf);
    scene_mark_lost(scene, scene_is_page, &leaf);
    scene_close(scene);
    scene_harm(scene, block, 100);

    scene_open(scene);
    scene_look(scene);
    scene_expect_only(scene, "page-checksum", 1);
    ck_assert_uint_eq(scene->findings.result.damaged, 1);
    scene_expect_mended(scene);
    ck_assert_uint_eq(scene_count_of(scene, "page-checksum"), 1);
    scene_end_sound(scene);
}
END_TEST

START_TEST(a_damaged_leaf_of_shared_blobs_leaves_right_counts)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    uint64_t ids[KV_TREE_DEPTH_MAX];
    char key[24];
    scene_open(scene);
    const unsigned depth =
        scene_path(scene->store, KV_TREE_KEYS, key, scene_blob_key(SCENE_BLOBS / 2, 0, key), ids);
    const uint64_t leaf = ids[depth - 1];
    const uint64_t block = scene_page_block(scene->store, leaf);
    scene_mark_lost(scene, scene_is_page, &leaf);
    scene_close(scene);
    scene_harm(scene, block, 2000);

    scene_open(scene);
    scene_expect_mended(scene);
    ck_assert_uint_eq(scene_count_of(scene, "page-checksum"), 1);
    scene_end_sound(scene);
}
END_TEST

START_TEST(a_damaged_inner_page_loses_no_key)
{
    struct scene *const scene = scene_make(4096, _i ? KV_CODEC_LZ4 : KV_CODEC_NONE);
    scene_open(scene);
    const uint64_t root = scene->store->trees[KV_TREE_KEYS].root;
    const uint64_t inner = scene_page_above(scene->store, SCENE_KEYS / 2, 1);
    ck_assert_uint_ne(inner, root);
    const uint64_t block = scene_page_block(scene->store, inner);
    scene_close(scene);
    scene_harm(scene, block, 77);

    scene_open(scene);
    scene_expect_mended(scene);
    ck_assert_uint_eq(scene_count_of(scene, "page-checksum"), 1);
    scene_end_sound(scene);
}
END_TEST

START_TEST(damaged_roots_lose_no_key)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    uint64_t blocks[KV_TREE_COUNT];
    scene_open(scene);
    for (unsigned tree = 0; tree < KV_TREE_COUNT; tree++)
        blocks[tree] = scene_page_block(scene->store, scene->store->trees[tree].root);
    scene_close(scene);
    for (unsigned tree = 0; tree < KV_TREE_COUNT; tree++)
        if ((_i + 1) & (1 << tree))
            scene_harm(scene, blocks[tree], 60);

    scene_open(scene);
    scene_expect_mended(scene);
    ck_assert_uint_ge(scene_count_of(scene, "page-checksum"), 1);
    scene_end_sound(scene);
}
END_TEST

/* Put children of an inner page where they do not belong; the store is open. */
static void misplace_children(struct kv_store *store, uint64_t inner, bool twice)
{
    struct kv_page page;
    pthread_mutex_lock(&store->writer);
    ck_assert_int_eq(kv_pager_pin(store->pager, inner, &page), 0);
    ck_assert_int_eq(kv_pager_dirty(store->pager, &page), 0);
    const unsigned slot = kv_node_count(page.bytes) - 2;
    const uint64_t first = kv_node_child(page.bytes, slot);
    const uint64_t second = kv_node_child(page.bytes, slot + 1);
    kv_pager_latch(store->pager, &page);
    kv_node_set_child(page.bytes, slot + 1, first);
    if (!twice)
        kv_node_set_child(page.bytes, slot, second);
    kv_pager_unlatch(store->pager, &page);
    kv_pager_unpin(store->pager, &page);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
}

START_TEST(pages_in_the_wrong_place_are_found_and_their_keys_kept)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_LZ4);
    scene_open(scene);
    misplace_children(scene->store, scene_page_above(scene->store, SCENE_KEYS / 2, _i == 1 ? 2 : 1),
                      _i == 2);
    scene_look(scene);
    ck_assert_uint_ge(scene_count_of(scene, _i == 2 ? "page-shared" : "page-fences"), 1);
    scene_expect_mended(scene);
    scene_end_sound(scene);
}
END_TEST

START_TEST(a_page_that_nothing_reaches_is_found_and_forgotten)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    struct kv_page page;
    scene_open(scene);
    struct kv_store *const store = scene->store;
    pthread_mutex_lock(&store->writer);
    ck_assert_int_eq(kv_pager_new(store->pager, &page), 0);
    kv_node_init(page.bytes, store->node_bytes, page.id, 0, 0, (struct kv_bytes){"", 0},
                 (struct kv_bytes){0});
    kv_pager_unlatch(store->pager, &page);
    const uint64_t id = page.id;
    kv_pager_unpin(store->pager, &page);
    pthread_mutex_unlock(&store->writer);

    scene_look(scene);
    scene_expect_only(scene, "page-leaked", 1);
    scene_mend(scene);
    struct kv_disk_ptr ptr;
    ck_assert_int_eq(kv_pagemap_get(store->map, id, &ptr), 0);
    ck_assert_uint_eq(kv_le64_get(ptr.block), 0);
    scene_end_sound(scene);
}
END_TEST

START_TEST(what_is_in_memory_replaces_what_is_damaged_on_disk)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    scene_open(scene);
    scene_expect_keys(scene); /* so that the pages are in memory */
    for (unsigned up = 0; up < 3; up++)
        scene_harm(scene, scene_page_block(scene->store, scene_page_above(scene->store, 4000, up)),
                   50);
    scene_harm(scene, scene_map_block(scene->store, 0, 0), 50);

    scene_expect_mended(scene);
    ck_assert_uint_eq(scene_count_of(scene, "map-block"), 1);
    scene_end_sound(scene);
}
END_TEST

/* ---- the page map ------------------------------------------------------------ */

START_TEST(a_damaged_map_block_loses_no_key)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    scene_open(scene);
    const uint64_t block = scene_map_block(scene->store, 0, (uint64_t)_i);
    scene_close(scene);
    scene_harm(scene, block, 5);

    scene_open_for_repair(scene);
    scene_look(scene);
    ck_assert_uint_eq(scene_count_of(scene, "map-block"), 1);
    scene_expect_mended(scene);
    ck_assert_uint_eq(scene_count_of(scene, "map-block"), 1);
    scene_end_sound(scene);
}
END_TEST

START_TEST(a_map_without_its_root_loses_no_key)
{
    struct scene *const scene = scene_make(4096, _i ? KV_CODEC_LZ4 : KV_CODEC_NONE);
    scene_open(scene);
    const uint64_t block = scene_map_block(scene->store, 1, 0);
    scene_close(scene);
    scene_harm(scene, block, 5);

    scene_open_for_repair(scene);
    scene_expect_mended(scene);
    ck_assert_uint_eq(scene_count_of(scene, "map-block"), 1);
    ck_assert_uint_eq(scene->findings.result.lost_ranges, 0);
    ck_assert_uint_eq(scene->findings.result.stale_keys, 0);
    ck_assert_uint_ge(scene->findings.result.salvaged_keys, SCENE_KEYS);
    scene_end_sound(scene);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("check pages");
    TCase *const pages = tcase_create("pages");
    tcase_set_timeout(pages, 120);
    tcase_add_loop_test(pages, a_damaged_leaf_loses_its_keys_and_no_others, 0, SCENE_KINDS);
    tcase_add_test(pages, a_damaged_leaf_of_shared_blobs_leaves_right_counts);
    tcase_add_loop_test(pages, a_damaged_inner_page_loses_no_key, 0, 2);
    tcase_add_loop_test(pages, damaged_roots_lose_no_key, 0, 3);
    tcase_add_loop_test(pages, pages_in_the_wrong_place_are_found_and_their_keys_kept, 0, 3);
    tcase_add_test(pages, a_page_that_nothing_reaches_is_found_and_forgotten);
    tcase_add_test(pages, what_is_in_memory_replaces_what_is_damaged_on_disk);
    tcase_add_loop_test(pages, a_damaged_map_block_loses_no_key, 0, 3);
    tcase_add_loop_test(pages, a_map_without_its_root_loses_no_key, 0, 2);
    suite_add_tcase(suite, pages);
    return test_run(suite);
}
