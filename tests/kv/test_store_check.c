/*
 * tests/kv/test_store_check.c: what kv_check finds, and what is left after it has mended it.
 *
 * Each test makes an image, closes it, plants one kind of damage, and opens it again. Which keys
 * may be lost by that is known beforehand: those of the leaves that were hit and no others.
 */
#include "kv/check_walk.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <fcntl.h>
#include <unistd.h>

#define IMAGE_BYTES (48ull << 20)
#define KEY_COUNT   12000u
#define BLOB_COUNT  40u
#define HOLDERS_MAX 3u

/* ---- findings --------------------------------------------------------------------- */

#define FINDINGS_MAX 4096u

struct findings {
    size_t count; /* worse than notes */
    char words[FINDINGS_MAX][24];
    struct kv_check_result result;
};

static void note_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    struct findings *const findings = context;
    if (test_env("KVFS_VERBOSE", 0))
        printf("  %d %s: %s\n", (int)severity, what, text);
    if (severity == KV_CHECK_NOTE)
        return;
    ck_assert_uint_lt(findings->count, FINDINGS_MAX);
    snprintf(findings->words[findings->count++], sizeof findings->words[0], "%s", what);
}

static void check_store(struct kv_store *store, bool repair, struct findings *findings)
{
    memset(findings, 0, sizeof *findings);
    const struct kv_check_options options = {
        .repair = repair, .read_blobs = true, .report = note_finding, .context = findings};
    ck_assert_int_eq(kv_check(store, &options, &findings->result), 0);
    ck_assert_uint_eq(findings->count, findings->result.repairable + findings->result.damaged);
}

/* ---- the image ------------------------------------------------------------------------ */

static const struct kv_open_options quiet = {
    .memory_budget_bytes = 16u << 20, .no_background = true, .log = test_log_nothing};

/* An image, and what was put in it. */
struct scene {
    struct test_dir dir;
    struct kv_store *store;   /* while it is open */
    bool lost[KEY_COUNT];     /* keys that may be gone */
    bool any_blob_lost;       /* likewise the keys of shared blobs */
    struct findings findings; /* of the last look, or repair */
};

static size_t key_of(unsigned number, char key[24])
{
    return (size_t)snprintf(key, 24, "key %06u", number);
}

static size_t length_of(unsigned number)
{
    return number % 60 == 7 ? 12000 + number : 20 + number % 100;
}

static size_t blob_key(unsigned number, unsigned holder, char key[24])
{
    return (size_t)snprintf(key, 24, "shared %03u %u", number, holder);
}

static unsigned holders_of(unsigned blob)
{
    return 1 + blob % HOLDERS_MAX;
}

static void fill_keys(struct kv_store *store)
{
    static uint8_t value[12000 + KEY_COUNT];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (unsigned i = 0; i < KEY_COUNT; i++) {
        char key[24];
        const size_t key_len = key_of(i, key);
        test_fill(value, length_of(i), i);
        ck_assert_int_eq(kv_batch_put(batch, key, key_len, value, length_of(i)), 0);
        if (i % 50 != 49)
            continue;
        ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
        kv_batch_clear(batch);
    }
    kv_batch_free(batch);
}

static void fill_blobs(struct kv_store *store)
{
    static uint8_t bytes[20000];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (unsigned i = 0; i < BLOB_COUNT; i++) {
        struct kv_blob_ref ref;
        size_t written;
        test_fill(bytes, sizeof bytes, KEY_COUNT + i);
        ck_assert_int_eq(kv_blob_write(store, bytes, sizeof bytes, NULL, &ref, &written), 0);
        ck_assert_uint_eq(written, sizeof bytes);
        for (unsigned holder = 0; holder < holders_of(i); holder++) {
            char key[24];
            const size_t key_len = blob_key(i, holder, key);
            ck_assert_int_eq(kv_batch_put_blob(batch, key, key_len, "head", 4, &ref,
                                               holder ? KV_BLOB_SHARED : KV_BLOB_NEW),
                             0);
        }
        ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
        kv_batch_clear(batch);
    }
    kv_batch_free(batch);
}

static struct kv_store *open_with(struct scene *scene, const struct kv_open_options *options)
{
    struct kv_error error = {""};
    const int err = kv_open(scene->dir.image, options, &scene->store, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    return scene->store;
}

static struct kv_store *open_scene(struct scene *scene)
{
    return open_with(scene, &quiet);
}

static struct kv_store *open_for_repair(struct scene *scene)
{
    struct kv_open_options options = quiet;
    options.repair = true;
    return open_with(scene, &options);
}

static void close_scene(struct scene *scene)
{
    ck_assert_int_eq(kv_close(scene->store), 0);
    scene->store = NULL;
}

/* A closed image with keys in it. */
static struct scene *make_scene(uint32_t node_bytes, enum kv_codec codec)
{
    struct scene *const scene = calloc(1, sizeof *scene);
    ck_assert_ptr_nonnull(scene);
    test_dir_make(&scene->dir);
    const struct kv_create_options options = {.size_bytes = IMAGE_BYTES,
                                              .node_bytes = node_bytes,
                                              .log_bytes = 2u << 20,
                                              .codec = {.codec = codec}};
    struct kv_error error = {""};
    const int err = kv_create(scene->dir.image, &options, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    open_scene(scene);
    fill_keys(scene->store);
    fill_blobs(scene->store);
    close_scene(scene);
    return scene;
}

static void free_scene(struct scene *scene)
{
    test_dir_remove(&scene->dir);
    free(scene);
}

/* ---- looking, mending ---------------------------------------------------------------- */

static void look(struct scene *scene)
{
    check_store(scene->store, false, &scene->findings);
}

static void mend(struct scene *scene)
{
    check_store(scene->store, true, &scene->findings);
}

static size_t count_of(const struct scene *scene, const char *word)
{
    size_t count = 0;
    for (size_t i = 0; i < scene->findings.count; i++)
        count += strcmp(scene->findings.words[i], word) == 0;
    return count;
}

/* What was found last is `word`, so many times, and nothing else. */
static void expect_only(const struct scene *scene, const char *word, size_t count)
{
    ck_assert_uint_eq(scene->findings.count, count);
    ck_assert_uint_eq(count_of(scene, word), count);
}

/* Looks by itself: what was found last stays known. */
static void expect_clean(struct scene *scene)
{
    static struct findings findings;
    check_store(scene->store, false, &findings);
    ck_assert_msg(findings.count == 0, "%s", findings.words[0]);
}

/* Every key that is there has its value; every one that may not be lost is there. */
static void expect_keys(struct scene *scene)
{
    static uint8_t want[12000 + KEY_COUNT], got[12000 + KEY_COUNT];
    char key[24];
    size_t got_len, missing = 0;
    for (unsigned i = 0; i < KEY_COUNT; i++) {
        const size_t key_len = key_of(i, key);
        const int err = kv_get(scene->store, key, key_len, got, sizeof got, &got_len);
        missing += err == -ENOENT;
        if (err == -ENOENT && scene->lost[i])
            continue;
        ck_assert_msg(err == 0, "%s: %s", key, strerror(-err));
        test_fill(want, length_of(i), i);
        ck_assert_uint_eq(got_len, length_of(i));
        ck_assert_int_eq(memcmp(got, want, got_len), 0);
    }
    for (unsigned i = 0; i < BLOB_COUNT; i++)
        for (unsigned holder = 0; holder < holders_of(i); holder++) {
            const size_t key_len = blob_key(i, holder, key);
            const int err = kv_get(scene->store, key, key_len, got, sizeof got, &got_len);
            if (err == -ENOENT && scene->any_blob_lost)
                continue;
            ck_assert_msg(err == 0, "%s: %s", key, strerror(-err));
            struct kv_blob_ref ref;
            ck_assert_uint_eq(got_len, 4 + sizeof ref);
            memcpy(&ref, got + 4, sizeof ref);
            test_fill(want, 20000, KEY_COUNT + i);
            ck_assert_int_eq(kv_blob_read(scene->store, &ref, 0, got, 20000), 0);
            ck_assert_int_eq(memcmp(got, want, 20000), 0);
        }
    if (test_env("KVFS_VERBOSE", 0))
        printf("  %zu keys are gone\n", missing);
}

/* Deleting everything must leave nothing behind: no count and no block was wrong. */
static void expect_all_can_be_deleted(struct scene *scene)
{
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    ck_assert_int_eq(kv_batch_del_range(batch, NULL, 0, NULL, 0), 0);
    ck_assert_int_eq(kv_apply(scene->store, batch, KV_APPLY_URGENT, NULL), 0);
    kv_batch_free(batch);
    static struct findings findings;
    check_store(scene->store, false, &findings);
    ck_assert_uint_eq(findings.count, 0);
    ck_assert_uint_eq(findings.result.keys, 0);
    ck_assert_uint_eq(findings.result.blobs, 0);
}

/* The end of most tests: nothing is wrong with the open store, and it does what it should. */
static void end_sound(struct scene *scene)
{
    expect_clean(scene);
    expect_keys(scene);
    expect_all_can_be_deleted(scene);
    close_scene(scene);
    free_scene(scene);
}

/*
 * The store is open and damaged: mend it. It must be clean then, and stay so when it is closed
 * and opened; all that may be asked for must be there. What was mended stays in the findings.
 */
static void expect_mended(struct scene *scene)
{
    mend(scene);
    ck_assert_uint_gt(scene->findings.count, 0);
    ck_assert_uint_eq(scene->findings.result.repaired, scene->findings.count);
    expect_clean(scene);
    expect_keys(scene);
    close_scene(scene);
    open_scene(scene);
}

/* ---- where things lie, and harm ----------------------------------------------------------- */

/* Page ids from the root to the leaf that covers a key; returns how many. */
static unsigned path_to(struct kv_store *store, unsigned tree, const char *key, size_t key_len,
                        uint64_t ids[KV_TREE_DEPTH_MAX])
{
    uint64_t id = store->trees[tree].root;
    for (unsigned depth = 0;; depth++) {
        struct kv_page page;
        ids[depth] = id;
        ck_assert_int_eq(kv_pager_pin(store->pager, id, &page), 0);
        const unsigned level = kv_node_level(page.bytes);
        if (level)
            id = kv_node_child(page.bytes,
                               kv_node_child_slot(page.bytes, store->node_bytes, key, key_len));
        kv_pager_unpin(store->pager, &page);
        if (!level)
            return depth + 1;
    }
}

/* The page on the path to key `number`, `up` levels above the leaf. */
static uint64_t page_above(struct kv_store *store, unsigned number, unsigned up)
{
    uint64_t ids[KV_TREE_DEPTH_MAX];
    char key[24];
    const unsigned depth = path_to(store, KV_TREE_KEYS, key, key_of(number, key), ids);
    ck_assert_uint_lt(up, depth);
    return ids[depth - 1 - up];
}

static uint64_t block_of_page(struct kv_store *store, uint64_t page_id)
{
    struct kv_disk_ptr ptr;
    ck_assert_int_eq(kv_pagemap_get(store->map, page_id, &ptr), 0);
    ck_assert_uint_ne(kv_le64_get(ptr.block), 0);
    return kv_le64_get(ptr.block);
}

/* May the leaf that a key lies in be hit? Marks the keys of all leaves for which it says so. */
static void mark_lost(struct scene *scene, bool (*hit)(uint64_t leaf, const void *context),
                      const void *context)
{
    uint64_t ids[KV_TREE_DEPTH_MAX];
    char key[24];
    for (unsigned i = 0; i < KEY_COUNT; i++) {
        const unsigned depth = path_to(scene->store, KV_TREE_KEYS, key, key_of(i, key), ids);
        scene->lost[i] = scene->lost[i] || hit(ids[depth - 1], context);
    }
    for (unsigned i = 0; i < BLOB_COUNT; i++)
        for (unsigned holder = 0; holder < holders_of(i); holder++) {
            const unsigned depth =
                path_to(scene->store, KV_TREE_KEYS, key, blob_key(i, holder, key), ids);
            scene->any_blob_lost = scene->any_blob_lost || hit(ids[depth - 1], context);
        }
}

static bool is_page(uint64_t leaf, const void *context)
{
    return leaf == *(const uint64_t *)context;
}

/* Flip a bit of the closed image. */
static void harm(const struct scene *scene, uint64_t block, size_t offset)
{
    uint8_t byte;
    const off_t at = (off_t)(block * KV_BLOCK_BYTES + offset);
    const int fd = open(scene->dir.image, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    ck_assert_int_eq((int)pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Of the closed image. */
static struct kv_disk_superblock superblock_of(const struct scene *scene)
{
    struct kv_disk_superblock superblock;
    struct kv_device *device;
    enum kv_superblock_twin twin;
    ck_assert_int_eq(kv_device_open(scene->dir.image, KV_DEVICE_READ_ONLY, &device, NULL), 0);
    ck_assert_int_eq(kv_superblock_read(device, "image", false, &superblock, &twin, NULL), 0);
    kv_device_close(device);
    return superblock;
}

/* Where the durable map block (level, index) lies. */
struct map_search {
    int level;
    uint64_t index, block;
};

static int find_map_block(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                          int error)
{
    struct map_search *const search = context;
    ck_assert_int_eq(error, 0);
    if (level == search->level && index == search->index)
        search->block = kv_le64_get(ptr->block);
    return 0;
}

static uint64_t map_block(struct kv_store *store, int level, uint64_t index)
{
    struct map_search search = {.level = level, .index = index};
    ck_assert_int_eq(kv_pagemap_walk(store->map, find_map_block, &search), 0);
    ck_assert_uint_ne(search.block, 0);
    return search.block;
}

/* Put keys with a flush after each few, and leave the image as after a crash. */
static void crash_with_log(struct scene *scene, unsigned first, unsigned count)
{
    static uint8_t value[12000 + KEY_COUNT];
    open_scene(scene);
    for (unsigned i = first; i < first + count; i++) {
        char key[24];
        const size_t key_len = key_of(i, key);
        test_fill(value, length_of(i), i);
        ck_assert_int_eq(kv_put(scene->store, key, key_len, value, length_of(i)), 0);
        if (i % 10 == 9)
            ck_assert_int_eq(kv_sync(scene->store), 0);
    }
    ck_assert_int_eq(kv_sync(scene->store), 0);
    kv_abandon(scene->store);
    scene->store = NULL;
}

/* ---- sound images --------------------------------------------------------------------------- */

static const struct {
    uint32_t node_bytes;
    enum kv_codec codec;
} kinds[] = {
    {4096, KV_CODEC_NONE}, {4096, KV_CODEC_LZ4}, {16384, KV_CODEC_ZSTD}, {65536, KV_CODEC_LZ4}};

START_TEST(a_sound_store_has_no_findings_and_right_figures)
{
    struct scene *const scene = make_scene(kinds[_i].node_bytes, kinds[_i].codec);
    open_scene(scene);
    look(scene);
    ck_assert_uint_eq(scene->findings.count, 0);
    unsigned shared = 0, holders = 0;
    for (unsigned i = 0; i < BLOB_COUNT; i++) {
        shared += holders_of(i) > 1;
        holders += holders_of(i);
    }
    ck_assert_uint_eq(scene->findings.result.keys, KEY_COUNT + holders);
    ck_assert_uint_eq(scene->findings.result.shared_blobs, shared);
    ck_assert_uint_ge(scene->findings.result.blobs, BLOB_COUNT);
    ck_assert_uint_gt(scene->findings.result.pages, 2);

    mend(scene);
    ck_assert_uint_eq(scene->findings.count, 0);
    ck_assert_uint_eq(scene->findings.result.repaired, 0);
    end_sound(scene);
}
END_TEST

START_TEST(a_store_that_is_read_only_can_be_checked_but_not_mended)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_LZ4);
    struct kv_open_options options = quiet;
    open_scene(scene);
    ck_assert_int_eq(kv_put(scene->store, "late", 4, "value", 5), 0);
    ck_assert_int_eq(kv_sync(scene->store), 0);
    kv_abandon(scene->store);

    options.read_only = true;
    open_with(scene, &options);
    expect_clean(scene);
    expect_keys(scene);
    struct kv_check_result result;
    const struct kv_check_options repair = {.repair = true};
    ck_assert_int_eq(kv_check(scene->store, &repair, &result), -EROFS);
    close_scene(scene);

    open_scene(scene); /* the log is still there */
    size_t length;
    char value[5];
    ck_assert_int_eq(kv_get(scene->store, "late", 4, value, sizeof value, &length), 0);
    close_scene(scene);
    free_scene(scene);
}
END_TEST

/* ---- damaged pages ----------------------------------------------------------- */

START_TEST(a_damaged_leaf_loses_its_keys_and_no_others)
{
    struct scene *const scene = make_scene(kinds[_i].node_bytes, kinds[_i].codec);
    open_scene(scene);
    const uint64_t leaf = page_above(scene->store, KEY_COUNT / 2, 0);
    const uint64_t block = block_of_page(scene->store, leaf);
    mark_lost(scene, is_page, &leaf);
    close_scene(scene);
    harm(scene, block, 100);

    open_scene(scene);
    look(scene);
    expect_only(scene, "page-checksum", 1);
    ck_assert_uint_eq(scene->findings.result.damaged, 1);
    expect_mended(scene);
    ck_assert_uint_eq(count_of(scene, "page-checksum"), 1);
    end_sound(scene);
}
END_TEST

START_TEST(a_damaged_leaf_of_shared_blobs_leaves_right_counts)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    uint64_t ids[KV_TREE_DEPTH_MAX];
    char key[24];
    open_scene(scene);
    const unsigned depth =
        path_to(scene->store, KV_TREE_KEYS, key, blob_key(BLOB_COUNT / 2, 0, key), ids);
    const uint64_t leaf = ids[depth - 1];
    const uint64_t block = block_of_page(scene->store, leaf);
    mark_lost(scene, is_page, &leaf);
    close_scene(scene);
    harm(scene, block, 2000);

    open_scene(scene);
    expect_mended(scene);
    ck_assert_uint_eq(count_of(scene, "page-checksum"), 1);
    end_sound(scene);
}
END_TEST

START_TEST(a_damaged_inner_page_loses_no_key)
{
    struct scene *const scene = make_scene(4096, _i ? KV_CODEC_LZ4 : KV_CODEC_NONE);
    open_scene(scene);
    const uint64_t root = scene->store->trees[KV_TREE_KEYS].root;
    const uint64_t inner = page_above(scene->store, KEY_COUNT / 2, 1);
    ck_assert_uint_ne(inner, root);
    const uint64_t block = block_of_page(scene->store, inner);
    close_scene(scene);
    harm(scene, block, 77);

    open_scene(scene);
    expect_mended(scene);
    ck_assert_uint_eq(count_of(scene, "page-checksum"), 1);
    end_sound(scene);
}
END_TEST

START_TEST(damaged_roots_lose_no_key)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    uint64_t blocks[KV_TREE_COUNT];
    open_scene(scene);
    for (unsigned tree = 0; tree < KV_TREE_COUNT; tree++)
        blocks[tree] = block_of_page(scene->store, scene->store->trees[tree].root);
    close_scene(scene);
    for (unsigned tree = 0; tree < KV_TREE_COUNT; tree++)
        if ((_i + 1) & (1 << tree))
            harm(scene, blocks[tree], 60);

    open_scene(scene);
    expect_mended(scene);
    ck_assert_uint_ge(count_of(scene, "page-checksum"), 1);
    end_sound(scene);
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
    struct scene *const scene = make_scene(4096, KV_CODEC_LZ4);
    open_scene(scene);
    misplace_children(scene->store, page_above(scene->store, KEY_COUNT / 2, _i == 1 ? 2 : 1),
                      _i == 2);
    look(scene);
    ck_assert_uint_ge(count_of(scene, _i == 2 ? "page-shared" : "page-fences"), 1);
    expect_mended(scene);
    end_sound(scene);
}
END_TEST

START_TEST(a_page_that_nothing_reaches_is_found_and_forgotten)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    struct kv_page page;
    open_scene(scene);
    struct kv_store *const store = scene->store;
    pthread_mutex_lock(&store->writer);
    ck_assert_int_eq(kv_pager_new(store->pager, &page), 0);
    kv_node_init(page.bytes, store->node_bytes, page.id, 0, 0, (struct kv_bytes){"", 0},
                 (struct kv_bytes){0});
    kv_pager_unlatch(store->pager, &page);
    const uint64_t id = page.id;
    kv_pager_unpin(store->pager, &page);
    pthread_mutex_unlock(&store->writer);

    look(scene);
    expect_only(scene, "page-leaked", 1);
    mend(scene);
    struct kv_disk_ptr ptr;
    ck_assert_int_eq(kv_pagemap_get(store->map, id, &ptr), 0);
    ck_assert_uint_eq(kv_le64_get(ptr.block), 0);
    end_sound(scene);
}
END_TEST

START_TEST(what_is_in_memory_replaces_what_is_damaged_on_disk)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    open_scene(scene);
    expect_keys(scene); /* so that the pages are in memory */
    for (unsigned up = 0; up < 3; up++)
        harm(scene, block_of_page(scene->store, page_above(scene->store, 4000, up)), 50);
    harm(scene, map_block(scene->store, 0, 0), 50);

    expect_mended(scene);
    ck_assert_uint_eq(count_of(scene, "map-block"), 1);
    end_sound(scene);
}
END_TEST

/* ---- the page map ------------------------------------------------------------ */

START_TEST(a_damaged_map_block_loses_no_key)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    open_scene(scene);
    const uint64_t block = map_block(scene->store, 0, (uint64_t)_i);
    close_scene(scene);
    harm(scene, block, 5);

    open_for_repair(scene);
    look(scene);
    ck_assert_uint_eq(count_of(scene, "map-block"), 1);
    expect_mended(scene);
    ck_assert_uint_eq(count_of(scene, "map-block"), 1);
    end_sound(scene);
}
END_TEST

START_TEST(a_map_without_its_root_loses_no_key)
{
    struct scene *const scene = make_scene(4096, _i ? KV_CODEC_LZ4 : KV_CODEC_NONE);
    open_scene(scene);
    const uint64_t block = map_block(scene->store, 1, 0);
    close_scene(scene);
    harm(scene, block, 5);

    open_for_repair(scene);
    expect_mended(scene);
    ck_assert_uint_eq(count_of(scene, "map-block"), 1);
    ck_assert_uint_eq(scene->findings.result.lost_ranges, 0);
    ck_assert_uint_eq(scene->findings.result.stale_keys, 0);
    ck_assert_uint_ge(scene->findings.result.salvaged_keys, KEY_COUNT);
    end_sound(scene);
}
END_TEST

/* ---- bitmaps and superblocks ------------------------------------------------- */

/* Both copies of the first group's bitmap. */
static void harm_bitmaps(const struct scene *scene)
{
    const struct kv_disk_superblock superblock = superblock_of(scene);
    const uint64_t first = kv_le64_get(superblock.group_first_block);
    harm(scene, first + 1, 300);
    harm(scene, first + KV_GROUP_COPY_BLOCKS + 1, 300);
}

static void expect_open_fails(const struct scene *scene, int error)
{
    struct kv_store *store;
    ck_assert_int_eq(kv_open(scene->dir.image, &quiet, &store, NULL), error);
}

START_TEST(damaged_bitmaps_are_made_anew)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_LZ4);
    harm_bitmaps(scene);
    expect_open_fails(scene, -EBADMSG);

    open_for_repair(scene);
    look(scene);
    expect_only(scene, "bitmap", 1);
    expect_mended(scene);
    end_sound(scene);
}
END_TEST

START_TEST(damaged_bitmaps_and_an_inner_page_lose_no_key)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_LZ4);
    open_scene(scene);
    const uint64_t block = block_of_page(scene->store, page_above(scene->store, 6000, 1));
    close_scene(scene);
    crash_with_log(scene, 1000, 300); /* the replay must not take for free what is hidden */
    harm_bitmaps(scene);
    harm(scene, block, 99);
    expect_open_fails(scene, -EBADMSG);

    open_for_repair(scene);
    expect_mended(scene);
    ck_assert_uint_eq(count_of(scene, "bitmap"), 1);
    end_sound(scene);
}
END_TEST

START_TEST(a_superblock_that_is_damaged_while_open_is_found_and_written_anew)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    const uint64_t block = _i ? KV_SUPERBLOCK_B_BLOCK : KV_SUPERBLOCK_A_BLOCK;
    open_scene(scene);
    harm(scene, block, 40);
    mend(scene);
    expect_only(scene, "superblock-copy", 1);
    ck_assert_uint_eq(scene->findings.result.repaired, 1);
    expect_clean(scene);
    close_scene(scene);

    /* After a clean close no power cut explains it: opening mends it, the check says so. */
    harm(scene, block, 40);
    open_scene(scene);
    mend(scene);
    ck_assert_uint_eq(count_of(scene, "superblock-copy"), 1);
    ck_assert_uint_eq(scene->findings.result.repaired, 1);
    expect_clean(scene);
    expect_keys(scene);
    close_scene(scene);
    struct kv_image_info info;
    ck_assert_int_eq(kv_image_info(scene->dir.image, &info, NULL), 0);
    ck_assert(!info.superblock_damaged);
    free_scene(scene);
}
END_TEST

START_TEST(without_superblocks_the_backup_opens_the_image)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    harm(scene, KV_SUPERBLOCK_A_BLOCK, 40);
    harm(scene, KV_SUPERBLOCK_B_BLOCK, 40);
    expect_open_fails(scene, -EBADMSG);

    open_for_repair(scene);
    expect_mended(scene);
    expect_only(scene, "superblock-copy", 1);
    end_sound(scene);
}
END_TEST

/* ---- blocks and counts ------------------------------------------------------- */

START_TEST(blocks_that_belong_to_nothing_are_freed)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    open_scene(scene);
    struct kv_store *const store = scene->store;
    uint64_t block;
    uint32_t got;
    ck_assert_int_eq(kv_space_alloc(store->space, KV_SPACE_DATA, 7, 7, &block, &got), 0);
    ck_assert_int_eq(kv_space_commit(store->space, store->checkpoint.epoch, block, 7), 0);
    close_scene(scene);

    open_scene(scene);
    struct kv_space_stats before, after;
    kv_space_stats(scene->store->space, &before);
    look(scene);
    expect_only(scene, "block-leaked", 1);
    mend(scene);
    kv_space_stats(scene->store->space, &after);
    ck_assert_uint_eq(after.busy_blocks - after.deferred_blocks,
                      before.busy_blocks - before.deferred_blocks - 7);
    close_scene(scene);
    open_scene(scene);
    end_sound(scene);
}
END_TEST

START_TEST(blocks_in_use_that_are_marked_free_are_marked)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    open_scene(scene);
    struct kv_store *const store = scene->store;
    const uint64_t block = block_of_page(store, page_above(store, 3000, _i ? 1u : 0u));
    ck_assert_int_eq(kv_space_free(store->space, store->checkpoint.epoch, block, 1), 0);
    close_scene(scene);

    open_scene(scene);
    look(scene);
    expect_only(scene, "block-unmarked", 1);
    expect_mended(scene);
    end_sound(scene);
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
    const size_t name_len = blob_key(number, 0, name);
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
    struct scene *const scene = make_scene(4096, KV_CODEC_LZ4);
    open_scene(scene);
    set_count(scene->store, 0, 2);  /* has one holder, and should not be counted */
    set_count(scene->store, 1, 7);  /* two */
    set_count(scene->store, 2, 2);  /* three */
    set_count(scene->store, 5, 0);  /* three */
    set_count(scene->store, 11, 1); /* three */
    close_scene(scene);

    open_scene(scene);
    look(scene);
    expect_only(scene, "ref-count", 5);
    expect_mended(scene);
    end_sound(scene);
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
    size_t name_len = blob_key(from, 0, name);
    ck_assert_int_eq(kv_get(store, name, name_len, value, sizeof value, &length), 0);
    memcpy(&ref, value + 4, sizeof ref);
    ref.ptr.block = kv_le64_of(kv_le64_get(ref.ptr.block) + block_shift);
    memcpy(value + 4, &ref, sizeof ref);
    name_len = blob_key(to, 0, name);
    pthread_mutex_lock(&store->writer);
    ck_assert_int_eq(kv_btree_put(&store->trees[KV_TREE_KEYS], (struct kv_bytes){name, name_len},
                                  KV_VALUE_REF, (struct kv_bytes){value, length}, nobody),
                     0);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
}

START_TEST(values_that_refer_to_what_is_not_theirs_are_removed)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    const bool outside = _i == 1;
    open_scene(scene);
    forge_ref(scene->store, 3, 0, outside ? 1ull << 40 : 1);
    scene->any_blob_lost = true;
    look(scene);
    ck_assert_uint_ge(count_of(scene, outside ? "blob-reference" : "block-shared"), 1);
    mend(scene);
    char key[24];
    size_t length;
    const size_t key_len = blob_key(0, 0, key);
    ck_assert_int_eq(kv_get(scene->store, key, key_len, NULL, 0, &length), -ENOENT);
    end_sound(scene);
}
END_TEST

START_TEST(a_damaged_blob_is_found_and_its_key_kept)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    char key[24];
    uint8_t value[4 + sizeof(struct kv_blob_ref)];
    size_t length;
    struct kv_blob_ref ref;
    uint64_t block;
    uint32_t block_count;
    open_scene(scene);
    const size_t key_len = blob_key(2, 1, key);
    ck_assert_int_eq(kv_get(scene->store, key, key_len, value, sizeof value, &length), 0);
    memcpy(&ref, value + 4, sizeof ref);
    ck_assert_int_eq(kv_blobs_extent(&scene->store->blobs, &ref, &block, &block_count), 0);
    close_scene(scene);
    harm(scene, block + 1, 17);

    open_scene(scene);
    mend(scene);
    expect_only(scene, "blob-checksum", 1);
    ck_assert_uint_eq(scene->findings.result.repaired, 0);
    ck_assert_int_eq(kv_get(scene->store, key, key_len, value, sizeof value, &length), 0);
    expect_all_can_be_deleted(scene);
    close_scene(scene);
    free_scene(scene);
}
END_TEST

/* ---- the log ----------------------------------------------------------------- */

/* The ring block that holds the `ahead`th block of the log. */
static uint64_t log_block(const struct scene *scene, uint64_t ahead)
{
    const struct kv_disk_superblock superblock = superblock_of(scene);
    const uint64_t position = kv_le64_get(superblock.log_tail) + ahead;
    return kv_le64_get(superblock.log_first_block) +
           position % kv_le64_get(superblock.log_block_count);
}

START_TEST(a_log_damaged_before_its_durable_end_ends_there)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    crash_with_log(scene, 1000, 500); /* they are there already: none can be lost */
    harm(scene, log_block(scene, 20), 200);
    expect_open_fails(scene, -EBADMSG);

    open_for_repair(scene);
    look(scene);
    expect_only(scene, "log-damaged", 1);
    mend(scene);
    expect_keys(scene);
    close_scene(scene);
    /* What lies in the ring behind the damage must not come back to life. */
    for (unsigned round = 0; round < 3; round++) {
        crash_with_log(scene, 2000 * round, 40 + 100 * round);
        open_scene(scene);
        expect_clean(scene);
        expect_keys(scene);
        kv_abandon(scene->store);
    }
    open_scene(scene);
    end_sound(scene);
}
END_TEST

START_TEST(damaged_pages_in_the_way_of_the_log_are_mended_first)
{
    struct scene *const scene = make_scene(4096, KV_CODEC_NONE);
    open_scene(scene);
    const uint64_t leaf = page_above(scene->store, 5000, 0);
    const uint64_t blocks[3] = {block_of_page(scene->store, leaf),
                                block_of_page(scene->store, page_above(scene->store, 9000, 1)),
                                map_block(scene->store, 0, 2)};
    mark_lost(scene, is_page, &leaf);
    close_scene(scene);
    crash_with_log(scene, 4900, 200);
    for (unsigned i = 4900; i < 5100; i++)
        scene->lost[i] = false; /* the log has them */
    for (int i = 0; i <= _i; i++)
        harm(scene, blocks[i], 123);
    struct kv_store *store;
    ck_assert_int_lt(kv_open(scene->dir.image, &quiet, &store, NULL), 0);

    open_for_repair(scene);
    expect_keys(scene);
    mend(scene);
    expect_clean(scene);
    close_scene(scene);
    open_scene(scene);
    end_sound(scene);
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
        make_scene(4096, test_random_below(&random, 2) ? KV_CODEC_LZ4 : KV_CODEC_NONE);
    open_scene(scene);
    targets.count = 0;
    ck_assert_int_eq(kv_pagemap_walk(scene->store->map, note_target, &targets), 0);
    size_t hits[40];
    const size_t hit_count = 1 + test_random_below(&random, 40);
    for (size_t i = 0; i < hit_count; i++) {
        hits[i] = test_random_below(&random, targets.count);
        if (!targets.is_map[hits[i]]) /* a map block loses no leaf */
            mark_lost(scene, is_page, &targets.ids[hits[i]]);
    }
    close_scene(scene);
    if (test_random_below(&random, 2))
        crash_with_log(scene, (unsigned)test_random_below(&random, KEY_COUNT - 300), 300);
    if (!test_random_below(&random, 3))
        harm_bitmaps(scene);
    if (!test_random_below(&random, 3))
        harm(scene, KV_SUPERBLOCK_A_BLOCK, 9);
    for (size_t i = 0; i < hit_count; i++)
        harm(scene, targets.blocks[hits[i]], i); /* twice the same page: not the same bit */

    open_for_repair(scene);
    expect_mended(scene);
    end_sound(scene);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("store check");
    TCase *const sound = tcase_create("sound");
    tcase_set_timeout(sound, 120);
    tcase_add_loop_test(sound, a_sound_store_has_no_findings_and_right_figures, 0, 4);
    tcase_add_test(sound, a_store_that_is_read_only_can_be_checked_but_not_mended);
    suite_add_tcase(suite, sound);

    TCase *const pages = tcase_create("pages");
    tcase_set_timeout(pages, 120);
    tcase_add_loop_test(pages, a_damaged_leaf_loses_its_keys_and_no_others, 0, 4);
    tcase_add_test(pages, a_damaged_leaf_of_shared_blobs_leaves_right_counts);
    tcase_add_loop_test(pages, a_damaged_inner_page_loses_no_key, 0, 2);
    tcase_add_loop_test(pages, damaged_roots_lose_no_key, 0, 3);
    tcase_add_loop_test(pages, pages_in_the_wrong_place_are_found_and_their_keys_kept, 0, 3);
    tcase_add_test(pages, a_page_that_nothing_reaches_is_found_and_forgotten);
    tcase_add_test(pages, what_is_in_memory_replaces_what_is_damaged_on_disk);
    tcase_add_loop_test(pages, a_damaged_map_block_loses_no_key, 0, 3);
    tcase_add_loop_test(pages, a_map_without_its_root_loses_no_key, 0, 2);
    suite_add_tcase(suite, pages);

    TCase *const rest = tcase_create("rest");
    tcase_set_timeout(rest, 120);
    tcase_add_test(rest, damaged_bitmaps_are_made_anew);
    tcase_add_test(rest, damaged_bitmaps_and_an_inner_page_lose_no_key);
    tcase_add_loop_test(rest, a_superblock_that_is_damaged_while_open_is_found_and_written_anew, 0,
                        2);
    tcase_add_test(rest, without_superblocks_the_backup_opens_the_image);
    tcase_add_test(rest, blocks_that_belong_to_nothing_are_freed);
    tcase_add_loop_test(rest, blocks_in_use_that_are_marked_free_are_marked, 0, 2);
    tcase_add_test(rest, wrong_reference_counts_are_corrected);
    tcase_add_loop_test(rest, values_that_refer_to_what_is_not_theirs_are_removed, 0, 2);
    tcase_add_test(rest, a_damaged_blob_is_found_and_its_key_kept);
    tcase_add_test(rest, a_log_damaged_before_its_durable_end_ends_there);
    tcase_add_loop_test(rest, damaged_pages_in_the_way_of_the_log_are_mended_first, 0, 3);
    suite_add_tcase(suite, rest);

    TCase *const much = tcase_create("much");
    tcase_set_timeout(much, 120);
    tcase_add_loop_test(much, much_damage_at_once_loses_what_it_hit_only, 0,
                        (int)test_env("KVFS_STEPS", 4));
    suite_add_tcase(suite, much);

    return test_run(suite);
}
