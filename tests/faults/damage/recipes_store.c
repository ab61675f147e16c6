/*
 * tests/faults/damage/recipes_store.c: damaged pages, map blocks, bitmaps, blobs and logs, and
 * stores whose parts contradict each other though every digest is right.
 */
#include "recipes.h"

/* A key in the middle of the tree, and one whose value is a blob. */
static struct fs_key middle_key(const struct scene *scene)
{
    return scene_entry_key(scene_find(scene, "d05")->ino, "f30");
}

static struct fs_key blob_key(const struct scene *scene, const char *path, uint64_t offset)
{
    struct fs_key key = {.length = FS_DATA_KEY_BYTES};
    fs_data_key(key.bytes, scene_find(scene, path)->ino, offset);
    return key;
}

/* ---- bytes --------------------------------------------------------------------------- */

/* The page `up` levels above the middle key gets a bit flipped. */
static void flip_page(struct scene *scene, int up)
{
    const struct fs_key key = middle_key(scene);
    scene_open(scene);
    const uint64_t page = scene_page(scene, KV_TREE_KEYS, &key, (unsigned)up);
    const struct kv_disk_ptr ptr = scene_page_ptr(scene, page);
    if (up == 0)
        scene_excuse_page(scene, page);
    scene_close(scene);
    scene_flip(scene, kv_le64_get(ptr.block), 1000);
}

static void zero_leaf(struct scene *scene, int argument)
{
    const struct fs_key key = middle_key(scene);
    (void)argument;
    scene_open(scene);
    const uint64_t page = scene_page(scene, KV_TREE_KEYS, &key, 0);
    const struct kv_disk_ptr ptr = scene_page_ptr(scene, page);
    scene_excuse_page(scene, page);
    scene_close(scene);
    scene_zero(scene, kv_le64_get(ptr.block));
}

/* Two leaves change places on the device. */
static void swap_leaves(struct scene *scene, int argument)
{
    const struct fs_key keys[2] = {middle_key(scene),
                                   scene_entry_key(scene_find(scene, "d08")->ino, "f10")};
    uint64_t blocks[2];
    uint8_t bytes[2][KV_BLOCK_BYTES];
    (void)argument;
    scene_open(scene);
    for (unsigned i = 0; i < 2; i++) {
        const uint64_t page = scene_page(scene, KV_TREE_KEYS, &keys[i], 0);
        const struct kv_disk_ptr ptr = scene_page_ptr(scene, page);
        scene_excuse_page(scene, page);
        blocks[i] = kv_le64_get(ptr.block);
    }
    scene_close(scene);
    for (unsigned i = 0; i < 2; i++)
        scene_read(scene, blocks[i], bytes[i]);
    for (unsigned i = 0; i < 2; i++)
        scene_write(scene, blocks[i], bytes[!i]);
}

/* The leaf is as it was before its last change. */
static void stale_leaf(struct scene *scene, int argument)
{
    const struct fs_key key = middle_key(scene);
    uint8_t old[KV_BLOCK_BYTES];
    (void)argument;
    scene_open(scene);
    const uint64_t page = scene_page(scene, KV_TREE_KEYS, &key, 0);
    struct kv_disk_ptr ptr = scene_page_ptr(scene, page);
    scene_read(scene, kv_le64_get(ptr.block), old);
    struct fs_record record = scene_record(scene, &key);
    record.atime_ns++;
    scene_put_record(scene, &key, &record);
    scene_close(scene);
    scene_open(scene);
    ptr = scene_page_ptr(scene, page);
    scene_excuse_page(scene, page);
    scene_close(scene);
    scene_write(scene, kv_le64_get(ptr.block), old);
}

static void flip_counts(struct scene *scene, int argument)
{
    const struct fs_key any = {.length = 8};
    (void)argument;
    scene_open(scene);
    const uint64_t page = scene_page(scene, KV_TREE_REFS, &any, 0);
    const struct kv_disk_ptr ptr = scene_page_ptr(scene, page);
    scene_close(scene);
    scene_flip(scene, kv_le64_get(ptr.block), 70);
}

/* Bit 0: the lowest level; bit 1: the root. */
static void flip_map(struct scene *scene, int which)
{
    scene_open(scene);
    const unsigned depth = scene_map_depth(scene);
    const uint64_t blocks[2] = {scene_map_block(scene, 0, 0),
                                scene_map_block(scene, (int)depth - 1, 0)};
    scene_close(scene);
    for (unsigned i = 0; i < 2; i++)
        if (which >> i & 1)
            scene_flip(scene, blocks[i], 40);
}

static void flip_bitmaps(struct scene *scene, int which)
{
    const struct kv_disk_superblock superblock = scene_superblock(scene);
    const uint64_t group = kv_le64_get(superblock.group_first_block);
    struct kv_disk_bitmap_header headers[2];
    for (unsigned i = 0; i < 2; i++)
        scene_read(scene, group + i * KV_GROUP_COPY_BLOCKS, &headers[i]);
    const unsigned active = kv_le64_get(headers[1].epoch) > kv_le64_get(headers[0].epoch);
    if (which & 1)
        scene_flip(scene, group + active * KV_GROUP_COPY_BLOCKS + 1, 5);
    if (which & 2)
        scene_flip(scene, group + !active * KV_GROUP_COPY_BLOCKS + 1, 5);
    if (which & 4)
        scene_flip(scene, group + active * KV_GROUP_COPY_BLOCKS, 20);
}

static struct kv_disk_blob_ref ref_of(struct scene *scene, const struct fs_key *key, uint8_t *value,
                                      size_t cap, size_t *length)
{
    struct kv_disk_blob_ref ref;
    const int err = kv_get(scene->store, key->bytes, key->length, value, cap, length);
    KV_ASSERT(err == 0);
    KV_ASSERT(*length >= sizeof ref);
    memcpy(&ref, value + *length - sizeof ref, sizeof ref);
    return ref;
}

/* 0: a plain one, 1: a packed one, 2: one that two files share, 3: its last block. */
static void flip_blob(struct scene *scene, int which)
{
    static const char *const paths[] = {"d02/sub/deep/file", "zip", "copy", "big"};
    uint8_t value[512];
    size_t length;
    scene_open(scene);
    const struct fs_key key = blob_key(scene, paths[which], 0);
    const struct kv_disk_blob_ref ref = ref_of(scene, &key, value, sizeof value, &length);
    scene_close(scene);
    const uint64_t blocks = kv_blocks_for(kv_le32_get(ref.ptr.length_bytes));
    scene_flip(scene, kv_le64_get(ref.ptr.block) + (which == 3 ? blocks - 1 : 0), 0);
    scene_excuse(scene, paths[which]);
    scene_excuse(scene, "big"); /* shares with the copy */
    scene_excuse(scene, "copy");
}

/* ---- the log ------------------------------------------------------------------------- */

/* Change a time of a file again and again, each change flushed, and crash. */
static void crash_with_log(struct scene *scene)
{
    scene_open(scene);
    const struct fs_key key = middle_key(scene);
    for (unsigned i = 0; i < 40; i++) {
        struct fs_record record = scene_record(scene, &key);
        record.atime_ns++;
        scene_put_record(scene, &key, &record);
        const int err = kv_sync(scene->store);
        KV_ASSERT(err == 0);
    }
    scene_crash(scene);
}

static uint64_t log_block(const struct scene *scene, uint64_t ahead)
{
    const struct kv_disk_superblock superblock = scene_superblock(scene);
    const uint64_t position = kv_le64_get(superblock.log_tail) + ahead;
    return kv_le64_get(superblock.log_first_block) +
           position % kv_le64_get(superblock.log_block_count);
}

/* -1: sound; otherwise the block of the log that gets a bit flipped. */
static void flip_log(struct scene *scene, int block)
{
    crash_with_log(scene);
    if (block >= 0)
        scene_flip(scene, log_block(scene, (uint64_t)block), 500);
}

static void zero_log(struct scene *scene, int block)
{
    crash_with_log(scene);
    scene_zero(scene, log_block(scene, (uint64_t)block));
}

/* The log of a clean image is not read. */
static void flip_old_log(struct scene *scene, int argument)
{
    (void)argument;
    scene_flip(scene, log_block(scene, 0), 500);
}

/* An author who says clean of an image that has a log: nothing of it is taken. */
static void clean_with_log(struct scene *scene, int argument)
{
    (void)argument;
    crash_with_log(scene);
    struct kv_disk_superblock superblock = scene_superblock(scene);
    superblock.clean = 1;
    scene_put_superblock(scene, &superblock);
}

/* A damaged page in the way of the log: the leaf, or one above it. */
static void log_and_page(struct scene *scene, int up)
{
    scene_open(scene);
    const struct fs_key key = middle_key(scene);
    const uint64_t page = scene_page(scene, KV_TREE_KEYS, &key, (unsigned)up);
    const struct kv_disk_ptr ptr = scene_page_ptr(scene, page);
    if (up == 0)
        scene_excuse_page(scene, page);
    scene_close(scene);
    crash_with_log(scene);
    scene_flip(scene, kv_le64_get(ptr.block), 1500);
}

static void log_and_bitmap(struct scene *scene, int argument)
{
    (void)argument;
    crash_with_log(scene);
    flip_bitmaps(scene, 3);
}

/* ---- owners of blocks ---------------------------------------------------------------------------
 */

static void leak_blocks(struct scene *scene, int count)
{
    struct kv_store *store = scene_open(scene);
    uint64_t block;
    uint32_t got;
    int err =
        kv_space_alloc(store->space, KV_SPACE_DATA, (uint32_t)count, (uint32_t)count, &block, &got);
    if (!err)
        err = kv_space_commit(store->space, store->checkpoint.epoch, block, got);
    KV_ASSERT(err == 0);
    scene_close(scene);
}

/* 0: a leaf, 1: the root, 2: a blob, 3: a map block is marked as free. */
static void unmark_blocks(struct scene *scene, int which)
{
    struct kv_store *store = scene_open(scene);
    const struct fs_key key = middle_key(scene);
    uint8_t value[512];
    size_t length;
    uint64_t block = 0;
    if (which < 2)
        block = kv_le64_get(
            scene_page_ptr(scene, scene_page(scene, KV_TREE_KEYS, &key, which ? 9 : 0)).block);
    if (which == 2) {
        const struct fs_key blob = blob_key(scene, "big", 0);
        block = kv_le64_get(ref_of(scene, &blob, value, sizeof value, &length).ptr.block);
    }
    if (which == 3) {
        /* One that the checkpoint of the closing leaves where it is. */
        block = scene_map_block(scene, 0, 0);
    }
    const int err = kv_space_free(store->space, store->checkpoint.epoch, block, 1);
    KV_ASSERT(err == 0);
    scene_close(scene);
}

/* A value that refers where another blob lies (1: a block on), or nowhere. */
static void forge_ref(struct scene *scene, int which)
{
    struct kv_store *store = scene_open(scene);
    const struct fs_key from = blob_key(scene, "zip", 0),
                        to = blob_key(scene, "d02/sub/deep/file", 0);
    uint8_t value[512];
    size_t length;
    struct kv_disk_blob_ref ref = ref_of(scene, &from, value, sizeof value, &length);
    const struct kv_btree_drop nobody = {0};
    if (which == 2)
        ref.ptr.codec = 77;
    else if (which == 4)
        ref.ptr.codec = ref.ptr.codec == KV_CODEC_LZ4 ? KV_CODEC_ZSTD : KV_CODEC_LZ4;
    else if (which == 3)
        ref.raw_bytes = kv_le32_of(100u << 20);
    else
        ref.ptr.block = kv_le64_of(which ? 1ull << 44 : kv_le64_get(ref.ptr.block) - 1);
    memcpy(value + length - sizeof ref, &ref, sizeof ref);
    pthread_mutex_lock(&store->writer);
    const int err =
        kv_btree_put(&store->trees[KV_TREE_KEYS], (struct kv_bytes){to.bytes, to.length},
                     KV_VALUE_REF, (struct kv_bytes){value, length}, nobody);
    KV_ASSERT(err == 0);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
    scene_close(scene);
    scene_excuse(scene, "d02/sub/deep/file");
    if (which == 4)
        scene_excuse(scene, "zip"); /* the same blob, so that one of the two must go */
}

/* The counts say `count` of the blob that `big` and `copy` share; 0: nothing. */
static void set_count(struct scene *scene, int count)
{
    struct kv_store *store = scene_open(scene);
    const struct fs_key key = blob_key(scene, "big", 0);
    uint8_t value[512], name[8];
    size_t length;
    const struct kv_disk_blob_ref ref = ref_of(scene, &key, value, sizeof value, &length);
    const struct kv_btree_drop nobody = {0};
    const kv_le64 stored = kv_le64_of((uint64_t)count);
    kv_be64_put(name, kv_le64_get(ref.ptr.block));
    pthread_mutex_lock(&store->writer);
    const int err =
        count ? kv_btree_put(&store->trees[KV_TREE_REFS], (struct kv_bytes){name, 8},
                             KV_VALUE_INLINE, (struct kv_bytes){&stored, 8}, nobody)
              : kv_btree_del(&store->trees[KV_TREE_REFS], (struct kv_bytes){name, 8}, nobody);
    KV_ASSERT(err == 0);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
    scene_close(scene);
}

/* 0: of a blob that has one holder; 1: of no blob; 2: a key of another length; 3: a value. */
static void stray_count(struct scene *scene, int which)
{
    struct kv_store *store = scene_open(scene);
    const struct fs_key key = blob_key(scene, "zip", 0);
    uint8_t value[512], name[9] = {0};
    size_t length;
    const struct kv_disk_blob_ref ref = ref_of(scene, &key, value, sizeof value, &length);
    const struct kv_btree_drop nobody = {0};
    const kv_le64 two = kv_le64_of(2);
    kv_be64_put(name, which == 1 ? 3 : kv_le64_get(ref.ptr.block));
    pthread_mutex_lock(&store->writer);
    const int err =
        kv_btree_put(&store->trees[KV_TREE_REFS], (struct kv_bytes){name, which == 2 ? 9 : 8},
                     KV_VALUE_INLINE, (struct kv_bytes){&two, which == 3 ? 3 : 8}, nobody);
    KV_ASSERT(err == 0);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
    scene_close(scene);
}

static void leak_page(struct scene *scene, int argument)
{
    struct kv_store *store = scene_open(scene);
    struct kv_page page;
    (void)argument;
    pthread_mutex_lock(&store->writer);
    const int err = kv_pager_new(store->pager, &page);
    KV_ASSERT(err == 0);
    kv_node_init(page.bytes, store->node_bytes, page.id, 0, 0, (struct kv_bytes){"", 0},
                 (struct kv_bytes){0});
    kv_pager_unlatch(store->pager, &page);
    kv_pager_unpin(store->pager, &page);
    store->changed = true;
    pthread_mutex_unlock(&store->writer);
    scene_close(scene);
}

const struct recipe store_recipes[] = {
    {"sound", flip_old_log, 0, "", 0, 0, 0},
    {"leaf, a bit", flip_page, 0, "page-checksum", 4, 4, 1},
    {"inner page, a bit", flip_page, 1, "page-checksum", 4, 4, 1},
    {"root, a bit", flip_page, 9, "page-checksum", 4, 4, 1},
    {"leaf, zeroed", zero_leaf, 0, "page-checksum", 4, 4, 1},
    {"leaves swapped", swap_leaves, 0, "page-checksum", 4, 4, 1},
    {"leaf, its older version", stale_leaf, 0, "page-checksum", 4, 4, 1},
    {"counts, a bit", flip_counts, 0, "page-checksum", 4, 4, 1},
    {"map block, a bit", flip_map, 1, "map-block page-missing", 4, 4, 1},
    {"root of the map, a bit", flip_map, 2, "map-block page-missing", 4, 4, 1},
    {"map block and root of the map", flip_map, 3, "map-block page-missing", 4, 4, 1},
    {"bitmap, a bit", flip_bitmaps, 1, "bitmap", 4, 4, 1},
    {"bitmap that does not count, a bit", flip_bitmaps, 2, "", 0, 0, 0},
    {"both bitmaps, a bit", flip_bitmaps, 3, "bitmap", 4, 4, 1},
    {"header of the bitmap, a bit", flip_bitmaps, 4, "bitmap", 4, 4, 1},
    {"blob, a bit", flip_blob, 0, "blob-checksum", 4, 4, 4},
    {"packed blob, a bit", flip_blob, 1, "blob-checksum", 4, 4, 4},
    {"shared blob, a bit", flip_blob, 2, "blob-checksum", 4, 4, 4},
    {"last block of a blob, a bit", flip_blob, 3, "blob-checksum", 4, 4, 4},
    {"log to be replayed", flip_log, -1, "", 0, 0, 0},
    {"log, first block, a bit", flip_log, 0, "log-damaged", 4, 4, 1},
    {"log, in the middle, a bit", flip_log, 20, "log-damaged", 4, 4, 1},
    {"log, last block, a bit", flip_log, 39, "", 0, 0, 0},
    {"log, in the middle, zeroed", zero_log, 20, "log-damaged", 4, 4, 1},
    {"log marked clean", clean_with_log, 0, "", 0, 0, 0},
    {"log, and the leaf that it changes", log_and_page, 0,
     "block-leaked data-ownerless page-checksum", 4, 4, 1},
    {"log, and the page above", log_and_page, 1, "block-leaked page-checksum", 4, 4, 1},
    {"log and both bitmaps", log_and_bitmap, 0, "bitmap", 4, 4, 1},
    {"a block that belongs to nothing", leak_blocks, 1, "block-leaked", 4, 1, 1},
    {"many blocks that belong to nothing", leak_blocks, 300, "block-leaked", 4, 1, 1},
    {"leaf marked free", unmark_blocks, 0, "block-unmarked", 4, 1, 1},
    {"root marked free", unmark_blocks, 1, "block-unmarked", 4, 1, 1},
    {"blob marked free", unmark_blocks, 2, "block-unmarked", 4, 1, 1},
    {"map block marked free", unmark_blocks, 3, "block-unmarked", 4, 1, 1},
    {"value that refers into another blob", forge_ref, 0, "block-leaked block-shared ref-count", 4,
     4, 1},
    {"value that refers beyond the end", forge_ref, 1, "blob-reference block-leaked", 4, 4, 1},
    {"value that says another codec", forge_ref, 2, "blob-reference block-leaked", 4, 4, 1},
    {"value that says a codec that it is not", forge_ref, 4, "block-leaked block-shared ref-count",
     4, 4, 1},
    {"value that says it is 100 MiB", forge_ref, 3, "blob-reference block-leaked", 4, 4, 1},
    {"count too large", set_count, 7, "ref-count", 4, 1, 1},
    {"count of one", set_count, 1, "ref-count", 4, 1, 1},
    {"count missing", set_count, 0, "ref-count", 4, 1, 1},
    {"count of a blob that has one holder", stray_count, 0, "ref-count", 4, 1, 1},
    {"count of no blob", stray_count, 1, "ref-count", 4, 1, 1},
    {"count under a key of nine bytes", stray_count, 2, "ref-count", 4, 1, 1},
    {"count of three bytes", stray_count, 3, "ref-count", 4, 1, 1},
    {"page that nothing reaches", leak_page, 0, "page-leaked", 4, 1, 1},
};
const size_t store_recipe_count = sizeof store_recipes / sizeof store_recipes[0];
