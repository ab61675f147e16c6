/*
 * tests/kv/test_check_space.c: what kv_check makes of bitmaps, superblocks, counts and blobs that
 * are wrong.
 *
 * None of it costs a key.
 */
#include "support_scene.h"
#include "tests/run.h"

#include <check.h>

/* ---- bitmaps and superblocks ------------------------------------------------- */

START_TEST(damaged_bitmaps_are_made_anew)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_LZ4);
    scene_harm_bitmaps(scene);
    scene_expect_open_fails(scene, -EBADMSG);

    scene_open_for_repair(scene);
    scene_look(scene);
    scene_expect_only(scene, "bitmap", 1);
    scene_expect_mended(scene);
    scene_end_sound(scene);
}
END_TEST

START_TEST(damaged_bitmaps_and_an_inner_page_lose_no_key)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_LZ4);
    scene_open(scene);
    const uint64_t block = scene_page_block(scene->store, scene_page_above(scene->store, 6000, 1));
    scene_close(scene);
    scene_crash_with_log(scene, 1000, 300); /* the replay must not take for free what is hidden */
    scene_harm_bitmaps(scene);
    scene_harm(scene, block, 99);
    scene_expect_open_fails(scene, -EBADMSG);

    scene_open_for_repair(scene);
    scene_expect_mended(scene);
    ck_assert_uint_eq(scene_count_of(scene, "bitmap"), 1);
    scene_end_sound(scene);
}
END_TEST

START_TEST(a_superblock_that_is_damaged_while_open_is_found_and_written_anew)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    const uint64_t block = _i ? KV_SUPERBLOCK_B_BLOCK : KV_SUPERBLOCK_A_BLOCK;
    scene_open(scene);
    scene_harm(scene, block, 40);
    scene_mend(scene);
    scene_expect_only(scene, "superblock-copy", 1);
    ck_assert_uint_eq(scene->findings.result.repaired, 1);
    scene_expect_clean(scene);
    scene_close(scene);

    /* After a clean close no power cut explains it: opening mends it, the check says so. */
    scene_harm(scene, block, 40);
    scene_open(scene);
    scene_mend(scene);
    ck_assert_uint_eq(scene_count_of(scene, "superblock-copy"), 1);
    ck_assert_uint_eq(scene->findings.result.repaired, 1);
    scene_expect_clean(scene);
    scene_expect_keys(scene);
    scene_close(scene);
    struct kv_image_info info;
    ck_assert_int_eq(kv_image_info(scene->dir.image, &info, NULL), 0);
    ck_assert(!info.superblock_damaged);
    scene_free(scene);
}
END_TEST

START_TEST(without_superblocks_the_backup_opens_the_image)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    scene_harm(scene, KV_SUPERBLOCK_A_BLOCK, 40);
    scene_harm(scene, KV_SUPERBLOCK_B_BLOCK, 40);
    scene_expect_open_fails(scene, -EBADMSG);

    scene_open_for_repair(scene);
    scene_expect_mended(scene);
    scene_expect_only(scene, "superblock-copy", 1);
    scene_end_sound(scene);
}
END_TEST

/* ---- blocks and counts ------------------------------------------------------- */

START_TEST(blocks_that_belong_to_nothing_are_freed)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    scene_open(scene);
    struct kv_store *const store = scene->store;
    uint64_t block;
    uint32_t got;
    ck_assert_int_eq(kv_space_alloc(store->space, KV_SPACE_DATA, 7, 7, &block, &got), 0);
    ck_assert_int_eq(kv_space_commit(store->space, store->checkpoint.epoch, block, 7), 0);
    scene_close(scene);

    scene_open(scene);
    struct kv_space_stats before, after;
    kv_space_stats(scene->store->space, &before);
    scene_look(scene);
    scene_expect_only(scene, "block-leaked", 1);
    scene_mend(scene);
    kv_space_stats(scene->store->space, &after);
    ck_assert_uint_eq(after.busy_blocks - after.deferred_blocks,
                      before.busy_blocks - before.deferred_blocks - 7);
    scene_close(scene);
    scene_open(scene);
    scene_end_sound(scene);
}
END_TEST

START_TEST(blocks_in_use_that_are_marked_free_are_marked)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    scene_open(scene);
    struct kv_store *const store = scene->store;
    const uint64_t block = scene_page_block(store, scene_page_above(store, 3000, _i ? 1u : 0u));
    ck_assert_int_eq(kv_space_free(store->space, store->checkpoint.epoch, block, 1), 0);
    scene_close(scene);

    scene_open(scene);
    scene_look(scene);
    scene_expect_only(scene, "block-unmarked", 1);
    scene_expect_mended(scene);
    scene_end_sound(scene);
}
END_TEST

/* Have the refs tree say `count` of the blob that key "shared `number`" holds. */
static void set_count(struct kv_store *store, unsigned number, uint64_t count)
{
    char name[24];
    uint8_t value[4 + sizeof(struct kv_blob_ref)], key[8];
    size_t length;
    struct kv_blob_ref ref;
    uint64_t block;
    uint32_t block_count;
    const struct kv_btree_drop nobody = {0};
    const size_t name_len = scene_blob_key(number, 0, name);
    ck_assert_int_eq(kv_get(store, name, name_len, value, sizeof value, &length), 0);
    memcpy(&ref, value + 4, sizeof ref);
    ck_assert_int_eq(kv_blobs_extent(&store->blobs, &ref, &block, &block_count), 0);
    kv_be64_put(key, block);
    const kv_le64 stored = kv_le64_of(count);
    pthread_mutex_lock(&store->writer);
    const int err =
        count ? kv_btree_put(&store->trees[KV_TREE_REFS], (struct kv_bytes){key, 8},
                             KV_VALUE_INLINE, (struct kv_bytes){&stored, 8}, nobody)
              : kv_btree_del(&store->trees[KV_TREE_REFS], (struct kv_bytes){key, 8}, nobody);
    ck_assert_int_eq(err, 0);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
}

START_TEST(wrong_reference_counts_are_corrected)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_LZ4);
    scene_open(scene);
    set_count(scene->store, 0, 2);  /* has one holder, and should not be counted */
    set_count(scene->store, 1, 7);  /* two */
    set_count(scene->store, 2, 2);  /* three */
    set_count(scene->store, 5, 0);  /* three */
    set_count(scene->store, 11, 1); /* three */
    scene_close(scene);

    scene_open(scene);
    scene_look(scene);
    scene_expect_only(scene, "ref-count", 5);
    scene_expect_mended(scene);
    scene_end_sound(scene);
}
END_TEST

/* The value that key "shared `to`" has becomes the one that "shared `from`" has, a bit apart. */
static void forge_ref(struct kv_store *store, unsigned from, unsigned to, uint64_t block_shift)
{
    char name[24];
    uint8_t value[4 + sizeof(struct kv_blob_ref)];
    size_t length;
    struct kv_disk_blob_ref ref;
    const struct kv_btree_drop nobody = {0};
    size_t name_len = scene_blob_key(from, 0, name);
    ck_assert_int_eq(kv_get(store, name, name_len, value, sizeof value, &length), 0);
    memcpy(&ref, value + 4, sizeof ref);
    ref.ptr.block = kv_le64_of(kv_le64_get(ref.ptr.block) + block_shift);
    memcpy(value + 4, &ref, sizeof ref);
    name_len = scene_blob_key(to, 0, name);
    pthread_mutex_lock(&store->writer);
    ck_assert_int_eq(kv_btree_put(&store->trees[KV_TREE_KEYS], (struct kv_bytes){name, name_len},
                                  KV_VALUE_REF, (struct kv_bytes){value, length}, nobody),
                     0);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
}

START_TEST(values_that_refer_to_what_is_not_theirs_are_removed)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    const bool outside = _i == 1;
    scene_open(scene);
    forge_ref(scene->store, 3, 0, outside ? 1ull << 40 : 1);
    scene->any_blob_lost = true;
    scene_look(scene);
    ck_assert_uint_ge(scene_count_of(scene, outside ? "blob-reference" : "block-shared"), 1);
    scene_mend(scene);
    char key[24];
    size_t length;
    const size_t key_len = scene_blob_key(0, 0, key);
    ck_assert_int_eq(kv_get(scene->store, key, key_len, NULL, 0, &length), -ENOENT);
    scene_end_sound(scene);
}
END_TEST

START_TEST(a_damaged_blob_is_found_and_its_key_kept)
{
    struct scene *const scene = scene_make(4096, KV_CODEC_NONE);
    char key[24];
    uint8_t value[4 + sizeof(struct kv_blob_ref)];
    size_t length;
    struct kv_blob_ref ref;
    uint64_t block;
    uint32_t block_count;
    scene_open(scene);
    const size_t key_len = scene_blob_key(2, 1, key);
    ck_assert_int_eq(kv_get(scene->store, key, key_len, value, sizeof value, &length), 0);
    memcpy(&ref, value + 4, sizeof ref);
    ck_assert_int_eq(kv_blobs_extent(&scene->store->blobs, &ref, &block, &block_count), 0);
    scene_close(scene);
    scene_harm(scene, block + 1, 17);

    scene_open(scene);
    scene_mend(scene);
    scene_expect_only(scene, "blob-checksum", 1);
    ck_assert_uint_eq(scene->findings.result.repaired, 0);
    ck_assert_int_eq(kv_get(scene->store, key, key_len, value, sizeof value, &length), 0);
    scene_expect_all_can_be_deleted(scene);
    scene_close(scene);
    scene_free(scene);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("check space");
    TCase *const space = tcase_create("space");
    tcase_set_timeout(space, 120);
    tcase_add_test(space, damaged_bitmaps_are_made_anew);
    tcase_add_test(space, damaged_bitmaps_and_an_inner_page_lose_no_key);
    tcase_add_loop_test(space, a_superblock_that_is_damaged_while_open_is_found_and_written_anew, 0,
                        2);
    tcase_add_test(space, without_superblocks_the_backup_opens_the_image);
    tcase_add_test(space, blocks_that_belong_to_nothing_are_freed);
    tcase_add_loop_test(space, blocks_in_use_that_are_marked_free_are_marked, 0, 2);
    tcase_add_test(space, wrong_reference_counts_are_corrected);
    tcase_add_loop_test(space, values_that_refer_to_what_is_not_theirs_are_removed, 0, 2);
    tcase_add_test(space, a_damaged_blob_is_found_and_its_key_kept);
    suite_add_tcase(suite, space);
    return test_run(suite);
}
