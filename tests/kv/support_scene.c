/*
 * tests/kv/support_scene.c: images with damage in them.
 */
#include "support_scene.h"

#include <check.h>
#include <fcntl.h>
#include <unistd.h>

#define IMAGE_BYTES (48ull << 20)
#define HOLDERS_MAX 3u

/* ---- findings --------------------------------------------------------------------- */

static void note_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    struct findings *const findings = context;
    if (test_env("KVFS_VERBOSE", 0))
        printf("  %d %s: %s\n", (int)severity, what, text);
    if (severity == KV_CHECK_NOTE)
        return;
    ck_assert_uint_lt(findings->count, SCENE_FINDINGS_MAX);
    snprintf(findings->words[findings->count++], sizeof findings->words[0], "%s", what);
}

static void check(struct kv_store *store, bool repair, struct findings *findings)
{
    memset(findings, 0, sizeof *findings);
    const struct kv_check_options options = {
        .repair = repair, .read_blobs = true, .report = note_finding, .context = findings};
    ck_assert_int_eq(kv_check(store, &options, &findings->result), 0);
    ck_assert_uint_eq(findings->count, findings->result.repairable + findings->result.damaged);
}

/* ---- the image ------------------------------------------------------------------------ */

const struct scene_kind scene_kinds[SCENE_KINDS] = {
    {4096, KV_CODEC_NONE}, {4096, KV_CODEC_LZ4}, {16384, KV_CODEC_ZSTD}, {65536, KV_CODEC_LZ4}};

const struct kv_open_options scene_quiet = {
    .memory_budget_bytes = 16u << 20, .no_background = true, .log = test_log_nothing};

size_t scene_key(unsigned number, char key[24])
{
    return (size_t)snprintf(key, 24, "key %06u", number);
}

static size_t length_of(unsigned number)
{
    return number % 60 == 7 ? 12000 + number : 20 + number % 100;
}

size_t scene_blob_key(unsigned number, unsigned holder, char key[24])
{
    return (size_t)snprintf(key, 24, "shared %03u %u", number, holder);
}

unsigned scene_holders(unsigned blob)
{
    return 1 + blob % HOLDERS_MAX;
}

static void fill_keys(struct kv_store *store)
{
    static uint8_t value[12000 + SCENE_KEYS];
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (unsigned i = 0; i < SCENE_KEYS; i++) {
        char key[24];
        const size_t key_len = scene_key(i, key);
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
    for (unsigned i = 0; i < SCENE_BLOBS; i++) {
        struct kv_blob_ref ref;
        size_t written;
        test_fill(bytes, sizeof bytes, SCENE_KEYS + i);
        ck_assert_int_eq(kv_blob_write(store, bytes, sizeof bytes, NULL, &ref, &written), 0);
        ck_assert_uint_eq(written, sizeof bytes);
        for (unsigned holder = 0; holder < scene_holders(i); holder++) {
            char key[24];
            const size_t key_len = scene_blob_key(i, holder, key);
            ck_assert_int_eq(kv_batch_put_blob(batch, key, key_len, "head", 4, &ref,
                                               holder ? KV_BLOB_SHARED : KV_BLOB_NEW),
                             0);
        }
        ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
        kv_batch_clear(batch);
    }
    kv_batch_free(batch);
}

struct kv_store *scene_open_with(struct scene *scene, const struct kv_open_options *options)
{
    struct kv_error error = {""};
    const int err = kv_open(scene->dir.image, options, &scene->store, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    return scene->store;
}

struct kv_store *scene_open(struct scene *scene)
{
    return scene_open_with(scene, &scene_quiet);
}

struct kv_store *scene_open_for_repair(struct scene *scene)
{
    struct kv_open_options options = scene_quiet;
    options.repair = true;
    return scene_open_with(scene, &options);
}

void scene_close(struct scene *scene)
{
    ck_assert_int_eq(kv_close(scene->store), 0);
    scene->store = NULL;
}

struct scene *scene_make(uint32_t node_bytes, enum kv_codec codec)
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
    scene_open(scene);
    fill_keys(scene->store);
    fill_blobs(scene->store);
    scene_close(scene);
    return scene;
}

void scene_free(struct scene *scene)
{
    test_dir_remove(&scene->dir);
    free(scene);
}

/* ---- looking, mending ---------------------------------------------------------------- */

void scene_look(struct scene *scene)
{
    check(scene->store, false, &scene->findings);
}

void scene_mend(struct scene *scene)
{
    check(scene->store, true, &scene->findings);
}

size_t scene_count_of(const struct scene *scene, const char *word)
{
    size_t count = 0;
    for (size_t i = 0; i < scene->findings.count; i++)
        count += strcmp(scene->findings.words[i], word) == 0;
    return count;
}

void scene_expect_only(const struct scene *scene, const char *word, size_t count)
{
    ck_assert_uint_eq(scene->findings.count, count);
    ck_assert_uint_eq(scene_count_of(scene, word), count);
}

void scene_expect_clean(struct scene *scene)
{
    static struct findings findings;
    check(scene->store, false, &findings);
    ck_assert_msg(findings.count == 0, "%s", findings.words[0]);
}

void scene_expect_keys(struct scene *scene)
{
    static uint8_t want[12000 + SCENE_KEYS], got[12000 + SCENE_KEYS];
    char key[24];
    size_t got_len, missing = 0;
    for (unsigned i = 0; i < SCENE_KEYS; i++) {
        const size_t key_len = scene_key(i, key);
        const int err = kv_get(scene->store, key, key_len, got, sizeof got, &got_len);
        missing += err == -ENOENT;
        if (err == -ENOENT && scene->lost[i])
            continue;
        ck_assert_msg(err == 0, "%s: %s", key, strerror(-err));
        test_fill(want, length_of(i), i);
        ck_assert_uint_eq(got_len, length_of(i));
        ck_assert_int_eq(memcmp(got, want, got_len), 0);
    }
    for (unsigned i = 0; i < SCENE_BLOBS; i++)
        for (unsigned holder = 0; holder < scene_holders(i); holder++) {
            const size_t key_len = scene_blob_key(i, holder, key);
            const int err = kv_get(scene->store, key, key_len, got, sizeof got, &got_len);
            if (err == -ENOENT && scene->any_blob_lost)
                continue;
            ck_assert_msg(err == 0, "%s: %s", key, strerror(-err));
            struct kv_blob_ref ref;
            ck_assert_uint_eq(got_len, 4 + sizeof ref);
            memcpy(&ref, got + 4, sizeof ref);
            test_fill(want, 20000, SCENE_KEYS + i);
            ck_assert_int_eq(kv_blob_read(scene->store, &ref, 0, got, 20000), 0);
            ck_assert_int_eq(memcmp(got, want, 20000), 0);
        }
    if (test_env("KVFS_VERBOSE", 0))
        printf("  %zu keys are gone\n", missing);
}

void scene_expect_all_can_be_deleted(struct scene *scene)
{
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    ck_assert_int_eq(kv_batch_del_range(batch, NULL, 0, NULL, 0), 0);
    ck_assert_int_eq(kv_apply(scene->store, batch, KV_APPLY_URGENT, NULL), 0);
    kv_batch_free(batch);
    static struct findings findings;
    check(scene->store, false, &findings);
    ck_assert_uint_eq(findings.count, 0);
    ck_assert_uint_eq(findings.result.keys, 0);
    ck_assert_uint_eq(findings.result.blobs, 0);
}

void scene_end_sound(struct scene *scene)
{
    scene_expect_clean(scene);
    scene_expect_keys(scene);
    scene_expect_all_can_be_deleted(scene);
    scene_close(scene);
    scene_free(scene);
}

void scene_expect_mended(struct scene *scene)
{
    scene_mend(scene);
    ck_assert_uint_gt(scene->findings.count, 0);
    ck_assert_uint_eq(scene->findings.result.repaired, scene->findings.count);
    scene_expect_clean(scene);
    scene_expect_keys(scene);
    scene_close(scene);
    scene_open(scene);
}

/* ---- where things lie, and harm ----------------------------------------------------------- */

unsigned scene_path(struct kv_store *store, unsigned tree, const char *key, size_t key_len,
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

uint64_t scene_page_above(struct kv_store *store, unsigned number, unsigned up)
{
    uint64_t ids[KV_TREE_DEPTH_MAX];
    char key[24];
    const unsigned depth = scene_path(store, KV_TREE_KEYS, key, scene_key(number, key), ids);
    ck_assert_uint_lt(up, depth);
    return ids[depth - 1 - up];
}

uint64_t scene_page_block(struct kv_store *store, uint64_t page_id)
{
    struct kv_disk_ptr ptr;
    ck_assert_int_eq(kv_pagemap_get(store->map, page_id, &ptr), 0);
    ck_assert_uint_ne(kv_le64_get(ptr.block), 0);
    return kv_le64_get(ptr.block);
}

void scene_mark_lost(struct scene *scene, bool (*hit)(uint64_t leaf, const void *context),
                     const void *context)
{
    uint64_t ids[KV_TREE_DEPTH_MAX];
    char key[24];
    for (unsigned i = 0; i < SCENE_KEYS; i++) {
        const unsigned depth = scene_path(scene->store, KV_TREE_KEYS, key, scene_key(i, key), ids);
        scene->lost[i] = scene->lost[i] || hit(ids[depth - 1], context);
    }
    for (unsigned i = 0; i < SCENE_BLOBS; i++)
        for (unsigned holder = 0; holder < scene_holders(i); holder++) {
            const unsigned depth =
                scene_path(scene->store, KV_TREE_KEYS, key, scene_blob_key(i, holder, key), ids);
            scene->any_blob_lost = scene->any_blob_lost || hit(ids[depth - 1], context);
        }
}

bool scene_is_page(uint64_t leaf, const void *context)
{
    return leaf == *(const uint64_t *)context;
}

void scene_harm(const struct scene *scene, uint64_t block, size_t offset)
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

struct kv_disk_superblock scene_superblock(const struct scene *scene)
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

uint64_t scene_map_block(struct kv_store *store, int level, uint64_t index)
{
    struct map_search search = {.level = level, .index = index};
    ck_assert_int_eq(kv_pagemap_walk(store->map, find_map_block, &search), 0);
    ck_assert_uint_ne(search.block, 0);
    return search.block;
}

void scene_crash_with_log(struct scene *scene, unsigned first, unsigned count)
{
    static uint8_t value[12000 + SCENE_KEYS];
    scene_open(scene);
    for (unsigned i = first; i < first + count; i++) {
        char key[24];
        const size_t key_len = scene_key(i, key);
        test_fill(value, length_of(i), i);
        ck_assert_int_eq(kv_put(scene->store, key, key_len, value, length_of(i)), 0);
        if (i % 10 == 9)
            ck_assert_int_eq(kv_sync(scene->store), 0);
    }
    ck_assert_int_eq(kv_sync(scene->store), 0);
    kv_abandon(scene->store);
    scene->store = NULL;
}

void scene_harm_bitmaps(const struct scene *scene)
{
    const struct kv_disk_superblock superblock = scene_superblock(scene);
    const uint64_t first = kv_le64_get(superblock.group_first_block);
    scene_harm(scene, first + 1, 300);
    scene_harm(scene, first + KV_GROUP_COPY_BLOCKS + 1, 300);
}

void scene_expect_open_fails(const struct scene *scene, int error)
{
    struct kv_store *store;
    ck_assert_int_eq(kv_open(scene->dir.image, &scene_quiet, &store, NULL), error);
}
