/*
 * tests/faults/damage/scene.c: an image with a filesystem in it that a recipe damages.
 *
 * Owns       the sound image, and each scene's copy of it.
 */
#include "scene.h"

#include "kv/codec.h"
#include "kv/stored_page.h"

#include "fs/format.h"
#include "fs/xattr.h"

#define NODE_BYTES   4096u
#define EXTENT_BYTES 16384u
#define DIRECTORIES  14u
#define FILES_EACH   60u
#define BIG_BYTES    200000u
#define COMPRESSIBLE (1ull << 63)

static void must_work(int err, const char *what)
{
    if (err)
        printf("%s: %s\n", what, strerror(-err));
    KV_ASSERT(err == 0);
}

static void *must_have(void *memory)
{
    KV_ASSERT(memory);
    return memory;
}

/* ---- a device that is only lent ------------------------------------------------------ */

struct lent {
    struct kv_device device;
    struct kv_device *below;
};

static int submit_lent(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct kv_device *below = ((struct lent *)device)->below;
    return below->ops->submit(below, ios, io_count, flush);
}

static int discard_lent(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct kv_device *below = ((struct lent *)device)->below;
    return below->ops->discard(below, block, block_count);
}

static void close_lent(struct kv_device *device)
{
    free(device);
}

static const struct kv_device_ops lent_ops = {
    .submit = submit_lent, .discard = discard_lent, .close = close_lent};

static struct kv_device *lend(struct kv_device *device, uint64_t block_count)
{
    struct lent *lent = must_have(calloc(1, sizeof *lent));
    lent->device.ops = &lent_ops;
    lent->device.block_count = block_count ? block_count : device->block_count;
    lent->device.direct_io = true;
    lent->below = device;
    return &lent->device;
}

static struct kv_device *clone_device(struct kv_device *device)
{
    static const uint8_t zeros[KV_BLOCK_BYTES];
    struct kv_device *copy = memory_device_new(device->block_count);
    uint8_t *bytes = must_have(kv_device_alloc(64u * KV_BLOCK_BYTES));
    for (uint64_t block = 0; block < device->block_count; block += 64) {
        must_work(kv_device_read(device, block, 64, bytes), "read");
        for (unsigned i = 0; i < 64; i++)
            if (memcmp(bytes + i * KV_BLOCK_BYTES, zeros, KV_BLOCK_BYTES) != 0)
                must_work(kv_device_write(copy, block + i, 1, bytes + i * KV_BLOCK_BYTES), "write");
    }
    free(bytes);
    return copy;
}

/* ---- the sound image ----------------------------------------------------------------- */

static const struct fs_caller caller = {.uid = 1000, .gid = 1000, .umask = 022};

static void fill_content(uint8_t *out, uint64_t size, uint64_t content)
{
    test_fill(out, size, content & ~COMPRESSIBLE);
    if (content & COMPRESSIBLE)
        memset(out + size / 8, (int)(content & 0xff), size - size / 8);
}

static struct scene_item *add_item(struct scene_base *base, const char *path, uint64_t parent,
                                   const struct fs_record *record)
{
    KV_ASSERT(base->item_count < SCENE_ITEMS_MAX);
    struct scene_item *item = &base->items[base->item_count++];
    snprintf(item->path, sizeof item->path, "%s", path);
    item->ino = record->file.ino;
    item->parent = parent;
    item->mode = record->mode;
    item->nlink = record->nlink;
    return item;
}

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static uint64_t make(struct scene_base *base, struct fs_volume *volume, uint64_t parent,
                     const char *path, uint32_t mode, const char *target)
{
    struct fs_record record;
    const struct fs_new_node node = {
        .mode = mode, .target = target, .target_len = target ? strlen(target) : 0};
    const char *name = name_of(path);
    must_work(fs_create(volume, &caller, parent, name, strlen(name), &node, &record), path);
    add_item(base, path, parent, &record);
    return record.file.ino;
}

static void make_file(struct scene_base *base, struct fs_volume *volume, uint64_t parent,
                      const char *path, uint64_t size, uint64_t content)
{
    const uint64_t ino = make(base, volume, parent, path, S_IFREG | 0644, NULL);
    uint8_t *bytes = must_have(malloc(size + 1));
    fill_content(bytes, size, content);
    must_work(fs_write(volume, ino, 0, bytes, size, false), path);
    free(bytes);
    struct scene_item *item = &base->items[base->item_count - 1];
    item->size = size;
    item->content = content;
}

static void link_to(struct scene_base *base, struct fs_volume *volume, const char *from,
                    uint64_t parent, const char *path)
{
    const char *name = name_of(path);
    size_t i = 0;
    while (strcmp(base->items[i].path, from) != 0)
        i++;
    struct fs_record record;
    must_work(fs_link(volume, base->items[i].ino, parent, name, strlen(name), &record), path);
    struct scene_item *item = add_item(base, path, parent, &record);
    item->size = base->items[i].size;
    item->content = base->items[i].content;
    base->items[i].nlink = record.nlink;
}

static void make_tree(struct scene_base *base, struct fs_volume *volume)
{
    uint64_t directories[DIRECTORIES];
    char path[64];
    for (unsigned d = 0; d < DIRECTORIES; d++) {
        snprintf(path, sizeof path, "d%02u", d);
        directories[d] = make(base, volume, FS_ROOT_INO, path, S_IFDIR | 0755, NULL);
        for (unsigned f = 0; f < FILES_EACH; f++) {
            snprintf(path, sizeof path, "d%02u/f%02u", d, f);
            make_file(base, volume, directories[d], path,
                      f % 6 == 0 ? 3000 + 10 * f : 100 + f * 7 % 150, 100 * d + f + 1);
        }
    }
    make_file(base, volume, FS_ROOT_INO, "big", BIG_BYTES, 50000);
    make_file(base, volume, FS_ROOT_INO, "zip", BIG_BYTES, 50001 | COMPRESSIBLE);
    make_file(base, volume, FS_ROOT_INO, "copy", 1, 50000);
    struct scene_item *copy = &base->items[base->item_count - 1];
    uint64_t copied = 0;
    for (uint64_t at = 0; at < BIG_BYTES; at += copied)
        must_work(fs_copy_range(volume, copy[-2].ino, at, copy->ino, at, BIG_BYTES - at, &copied),
                  "clone");
    copy->size = BIG_BYTES;
    make_file(base, volume, FS_ROOT_INO, "hard1", 120, 60000);
    link_to(base, volume, "hard1", directories[0], "d00/hard2");
    make(base, volume, FS_ROOT_INO, "sym", S_IFLNK | 0777, "d00/f00");
    const uint64_t sub = make(base, volume, directories[2], "d02/sub", S_IFDIR | 0755, NULL);
    const uint64_t deep = make(base, volume, sub, "d02/sub/deep", S_IFDIR | 0755, NULL);
    make_file(base, volume, deep, "d02/sub/deep/file", 60000, 60001);
    const uint64_t ino = base->items[1].ino; /* d00/f00 */
    must_work(fs_setxattr(volume, ino, "user.colour", "blue", 4, 0, false), "attribute");
    /* Links that directories got meanwhile. */
    for (size_t i = 0; i < base->item_count; i++) {
        struct fs_record record;
        must_work(fs_getattr(volume, base->items[i].ino, &record), base->items[i].path);
        base->items[i].nlink = record.nlink;
    }
}

static struct kv_open_options options_for(struct kv_device *device)
{
    return (struct kv_open_options){.memory_budget_bytes = 8u << 20,
                                    .no_background = true,
                                    .log = test_log_nothing,
                                    .device = device};
}

struct scene_base *scene_base_new(void)
{
    struct scene_base *base = must_have(calloc(1, sizeof *base));
    base->device = memory_device_new(SCENE_BLOCKS);
    const struct kv_create_options create = {.node_bytes = NODE_BYTES,
                                             .extent_bytes = EXTENT_BYTES,
                                             .log_bytes = 1u << 20,
                                             .codec = {KV_CODEC_LZ4, 0}};
    must_work(kv_create_on_device(base->device, &create, NULL), "create");
    const struct kv_open_options open = options_for(lend(base->device, 0));
    const struct fs_volume_options quiet = {.log = test_log_nothing};
    struct kv_store *store;
    struct fs_volume *volume;
    must_work(kv_open("scene", &open, &store, NULL), "open");
    must_work(fs_format(store, 0, 0, 0755), "format");
    must_work(fs_volume_open(store, &quiet, &volume, NULL), "volume");
    make_tree(base, volume);
    fs_volume_close(volume);
    must_work(kv_close(store), "close");
    return base;
}

void scene_base_free(struct scene_base *base)
{
    kv_device_close(base->device);
    free(base);
}

void scene_init(struct scene *scene, const struct scene_base *base)
{
    *scene = (struct scene){.base = base, .device = clone_device(base->device)};
}

void scene_copy(struct scene *copy, const struct scene *scene)
{
    KV_ASSERT(!scene->store);
    *copy = *scene;
    copy->device = clone_device(scene->device);
}

void scene_release(struct scene *scene)
{
    if (scene->store)
        kv_abandon(scene->store);
    kv_device_close(scene->device);
}

struct kv_store *scene_open(struct scene *scene)
{
    const struct kv_open_options options = options_for(lend(scene->device, scene->shown_blocks));
    must_work(kv_open("scene", &options, &scene->store, NULL), "open");
    return scene->store;
}

int scene_open_for_fsck(struct scene *scene, bool past_damage, bool read_only,
                        kv_check_report_fn *report, void *context)
{
    struct kv_open_options options = options_for(lend(scene->device, scene->shown_blocks));
    options.read_only = read_only;
    options.repair = past_damage;
    options.report = report;
    options.report_context = context;
    return kv_open("scene", &options, &scene->store, NULL);
}

void scene_close(struct scene *scene)
{
    must_work(kv_close(scene->store), "close");
    scene->store = NULL;
}

void scene_crash(struct scene *scene)
{
    kv_abandon(scene->store);
    scene->store = NULL;
}

/* ---- items --------------------------------------------------------------------------- */

const struct scene_item *scene_find(const struct scene *scene, const char *path)
{
    for (size_t i = 0; i < scene->base->item_count; i++)
        if (strcmp(scene->base->items[i].path, path) == 0)
            return &scene->base->items[i];
    printf("%s: not in the image\n", path);
    abort();
}

void scene_excuse(struct scene *scene, const char *path)
{
    scene->excused[scene_find(scene, path) - scene->base->items] = true;
}

void scene_excuse_ino(struct scene *scene, uint64_t ino)
{
    for (size_t i = 0; i < scene->base->item_count; i++)
        if (scene->base->items[i].ino == ino)
            scene->excused[i] = true;
}

/* Is it, or what it lies in, excused? */
static bool is_excused(const struct scene *scene, size_t number)
{
    const struct scene_item *items = scene->base->items;
    if (scene->all_excused || scene->excused[number])
        return true;
    for (size_t i = 0; i < scene->base->item_count; i++) {
        const size_t length = strlen(items[i].path);
        if (scene->excused[i] && S_ISDIR(items[i].mode) &&
            !strncmp(items[i].path, items[number].path, length) &&
            items[number].path[length] == '/')
            return true;
    }
    return false;
}

static void excuse_key(struct scene *scene, const uint8_t *key, size_t key_len)
{
    uint64_t directory;
    const char *name;
    size_t name_len;
    if (!fs_key_entry_parse(key, key_len, &directory, &name, &name_len)) {
        for (size_t i = 0; i < scene->base->item_count; i++) {
            const struct scene_item *item = &scene->base->items[i];
            const char *own = name_of(item->path);
            if (item->parent == directory && strlen(own) == name_len &&
                !memcmp(own, name, name_len))
                scene->excused[i] = true;
        }
    } else if (key_len >= 9) {
        scene_excuse_ino(scene, kv_be64_take(key + 1));
    }
}

void scene_excuse_page(struct scene *scene, uint64_t page_id)
{
    const struct kv_disk_ptr ptr = scene_page_ptr(scene, page_id);
    uint8_t *node = must_have(kv_device_alloc(NODE_BYTES));
    must_work(kv_pager_read_stored(scene->store->pager, page_id, &ptr, node), "page");
    for (unsigned slot = 0; slot < kv_node_count(node); slot++) {
        uint8_t key[KV_KEY_MAX];
        const size_t key_len = kv_node_key(node, NODE_BYTES, slot, key);
        if (kv_node_level(node))
            scene_excuse_page(scene, kv_node_child(node, slot));
        else
            excuse_key(scene, key, key_len);
    }
    free(node);
}

/* ---- raw blocks ---------------------------------------------------------------------- */

static void transfer(struct kv_device *device, uint64_t block, void *bytes, enum kv_io_kind kind)
{
    uint8_t *io = must_have(kv_device_alloc(KV_BLOCK_BYTES));
    if (kind == KV_IO_WRITE) {
        memcpy(io, bytes, KV_BLOCK_BYTES);
        must_work(kv_device_write(device, block, 1, io), "write");
    } else {
        must_work(kv_device_read(device, block, 1, io), "read");
        memcpy(bytes, io, KV_BLOCK_BYTES);
    }
    free(io);
}

void scene_read(const struct scene *scene, uint64_t block, void *bytes)
{
    transfer(scene->device, block, bytes, KV_IO_READ);
}

void scene_write(struct scene *scene, uint64_t block, const void *bytes)
{
    uint8_t copy[KV_BLOCK_BYTES];
    memcpy(copy, bytes, sizeof copy);
    transfer(scene->device, block, copy, KV_IO_WRITE);
}

void scene_flip(struct scene *scene, uint64_t block, size_t offset)
{
    uint8_t bytes[KV_BLOCK_BYTES];
    scene_read(scene, block, bytes);
    bytes[offset] ^= 0x10;
    scene_write(scene, block, bytes);
}

void scene_zero(struct scene *scene, uint64_t block)
{
    static const uint8_t zeros[KV_BLOCK_BYTES];
    scene_write(scene, block, zeros);
}

struct kv_disk_superblock scene_superblock(const struct scene *scene)
{
    struct kv_disk_superblock superblock;
    scene_read(scene, KV_SUPERBLOCK_A_BLOCK, &superblock);
    return superblock;
}

void scene_put_superblock(struct scene *scene, struct kv_disk_superblock *superblock)
{
    superblock->digest =
        kv_le64_of(kv_digest(superblock, offsetof(struct kv_disk_superblock, digest), 0));
    scene_write(scene, KV_SUPERBLOCK_A_BLOCK, superblock);
    scene_write(scene, KV_SUPERBLOCK_B_BLOCK, superblock);
    scene_write(scene, SCENE_BLOCKS - 1, superblock);
}

/* ---- keys ---------------------------------------------------------------------------- */

void scene_put(struct scene *scene, const struct fs_key *key, const void *value, size_t length)
{
    must_work(kv_put(scene->store, key->bytes, key->length, value, length), "put");
}

void scene_del(struct scene *scene, const struct fs_key *key)
{
    must_work(kv_del(scene->store, key->bytes, key->length), "del");
}

struct fs_key scene_entry_key(uint64_t directory, const char *name)
{
    struct fs_key key;
    fs_key_entry(&key, directory, name, strlen(name));
    return key;
}

struct fs_key scene_ino_key(enum fs_key_type type, uint64_t ino)
{
    struct fs_key key;
    fs_key_ino(&key, type, ino);
    return key;
}

struct fs_record scene_record(struct scene *scene, const struct fs_key *key)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_record record;
    must_work(kv_get(scene->store, key->bytes, key->length, value, sizeof value, &length), "get");
    must_work(fs_record_decode(value, length, &record), "decode");
    return record;
}

void scene_put_record(struct scene *scene, const struct fs_key *key, const struct fs_record *record)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    scene_put(scene, key, value, fs_record_encode(record, value));
}

void scene_put_link(struct scene *scene, uint64_t directory, const char *name, uint64_t ino,
                    uint32_t type)
{
    struct fs_disk_link link;
    const struct fs_key key = scene_entry_key(directory, name);
    fs_link_encode(ino, type, &link);
    scene_put(scene, &key, &link, sizeof link);
}

void scene_put_parent(struct scene *scene, uint64_t ino, uint64_t parent, const char *name)
{
    uint8_t value[8 + FS_NAME_MAX];
    const struct fs_key key = scene_ino_key(FS_KEY_PARENT, ino);
    scene_put(scene, &key, value, fs_parent_encode(parent, name, strlen(name), value));
}

/* ---- pages --------------------------------------------------------------------------- */

uint64_t scene_page(struct scene *scene, unsigned tree, const struct fs_key *key, unsigned up)
{
    uint64_t ids[KV_TREE_DEPTH_MAX];
    struct kv_store *store = scene->store;
    uint64_t id = store->trees[tree].root;
    for (unsigned depth = 0;; depth++) {
        struct kv_page page;
        ids[depth] = id;
        must_work(kv_pager_pin(store->pager, id, &page), "pin");
        const unsigned level = kv_node_level(page.bytes);
        if (level)
            id = kv_node_child(page.bytes, kv_node_child_slot(page.bytes, store->node_bytes,
                                                              key->bytes, key->length));
        kv_pager_unpin(store->pager, &page);
        if (!level)
            return ids[depth - (up < depth ? up : depth)];
    }
}

struct kv_disk_ptr scene_page_ptr(struct scene *scene, uint64_t page_id)
{
    struct kv_disk_ptr ptr;
    must_work(kv_pagemap_get(scene->store->map, page_id, &ptr), "map");
    KV_ASSERT(kv_le64_get(ptr.block) != 0);
    return ptr;
}

struct map_search {
    int level;
    uint64_t index, block;
    unsigned depth;
};

static int find_map_block(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                          int error)
{
    struct map_search *search = context;
    must_work(error, "map");
    if (level >= 0 && (unsigned)level + 1 > search->depth)
        search->depth = (unsigned)level + 1;
    if (level == search->level && index == search->index)
        search->block = kv_le64_get(ptr->block);
    return 0;
}

uint64_t scene_map_block(struct scene *scene, int level, uint64_t index)
{
    struct map_search search = {.level = level, .index = index};
    must_work(kv_pagemap_walk(scene->store->map, find_map_block, &search), "walk");
    KV_ASSERT(search.block != 0);
    return search.block;
}

unsigned scene_map_depth(struct scene *scene)
{
    struct map_search search = {.level = -1, .index = UINT64_MAX};
    must_work(kv_pagemap_walk(scene->store->map, find_map_block, &search), "walk");
    return search.depth;
}

/* Put a page's pointer into its map block and make the digests above right; the image is closed. */
static void put_ptr(struct scene *scene, const uint64_t *map_blocks, unsigned depth,
                    uint64_t page_id, struct kv_disk_ptr ptr)
{
    struct kv_disk_superblock superblock = scene_superblock(scene);
    uint64_t index = page_id;
    for (unsigned level = 0; level < depth; level++) {
        struct kv_disk_ptr ptrs[KV_MAP_FANOUT], above;
        const uint64_t block = map_blocks[level];
        scene_read(scene, block, ptrs);
        ptrs[index % KV_MAP_FANOUT] = ptr;
        scene_write(scene, block, ptrs);
        index /= KV_MAP_FANOUT;
        above = superblock.map_root;
        if (level + 1 < depth) {
            struct kv_disk_ptr upper[KV_MAP_FANOUT];
            scene_read(scene, map_blocks[level + 1], upper);
            above = upper[index % KV_MAP_FANOUT];
        }
        const uint64_t seed =
            kv_digest_seed(KV_MAP_ID(level, index), kv_le64_get(above.birth_epoch));
        above.digest = kv_le64_of(kv_digest(ptrs, KV_BLOCK_BYTES, seed));
        ptr = above;
    }
    superblock.map_root = ptr;
    scene_put_superblock(scene, &superblock);
}

/* Note where the map blocks above a page lie, and close. Returns the depth of the map. */
static unsigned close_above(struct scene *scene, uint64_t page_id,
                            uint64_t map_blocks[KV_MAP_DEPTH_MAX])
{
    must_work(kv_checkpoint(scene->store), "checkpoint");
    scene_close(scene);
    scene_open(scene);
    const unsigned depth = scene_map_depth(scene);
    for (unsigned level = 0; level < depth; level++) {
        page_id /= KV_MAP_FANOUT;
        map_blocks[level] = scene_map_block(scene, (int)level, page_id);
    }
    return depth;
}

void scene_edit_page(struct scene *scene, uint64_t page_id, scene_edit_fn *edit, int argument)
{
    uint64_t map_blocks[KV_MAP_DEPTH_MAX];
    const unsigned depth = close_above(scene, page_id, map_blocks);
    struct kv_disk_ptr ptr = scene_page_ptr(scene, page_id);
    uint8_t *node = must_have(kv_device_alloc(NODE_BYTES));
    uint8_t *stored = must_have(kv_device_alloc(NODE_BYTES));
    must_work(kv_pager_read_stored(scene->store->pager, page_id, &ptr, node), "page");
    KV_ASSERT(kv_le32_get(ptr.length_bytes) == NODE_BYTES); /* a block is the least: not packed */
    scene_close(scene);

    edit(node, NODE_BYTES, argument);
    enum kv_codec used;
    const struct kv_disk_superblock superblock = scene_superblock(scene);
    const size_t length = kv_stored_page_pack(
        node, NODE_BYTES, (struct kv_stored_form){.dense = true}, 1, NULL, stored, &used);
    KV_ASSERT(length == NODE_BYTES);
    kv_stored_page_seal(stored, length, kv_superblock_log_id(&superblock), kv_le64_get(ptr.block));
    scene_write(scene, kv_le64_get(ptr.block), stored);
    const uint64_t seed = kv_digest_seed(page_id, kv_le64_get(ptr.birth_epoch));
    ptr.digest = kv_le64_of(kv_digest(stored, length, seed));
    put_ptr(scene, map_blocks, depth, page_id, ptr);
    free(stored);
    free(node);
}

void scene_edit_ptr(struct scene *scene, uint64_t page_id, scene_edit_ptr_fn *edit, int argument)
{
    uint64_t map_blocks[KV_MAP_DEPTH_MAX];
    const unsigned depth = close_above(scene, page_id, map_blocks);
    struct kv_disk_ptr ptr = scene_page_ptr(scene, page_id);
    scene_close(scene);
    edit(&ptr, argument);
    put_ptr(scene, map_blocks, depth, page_id, ptr);
}

/* ---- what survived ------------------------------------------------------------------- */

static int walk_to(struct fs_volume *volume, const char *path, struct fs_record *record)
{
    uint64_t directory = FS_ROOT_INO;
    for (;;) {
        const size_t length = strcspn(path, "/");
        const int err = fs_lookup(volume, directory, path, length, record);
        if (directory != FS_ROOT_INO)
            fs_forget(volume, directory, 1);
        if (err)
            return err;
        if (!path[length])
            return 0;
        directory = record->file.ino;
        path += length + 1;
    }
}

int scene_read_item(struct fs_volume *volume, const struct scene_item *item, const char **problem)
{
    static uint8_t want[BIG_BYTES], got[BIG_BYTES];
    struct fs_record record;
    size_t length = 0;
    *problem = NULL;
    int err = walk_to(volume, item->path, &record);
    if (err)
        return err;
    if (record.file.ino != item->ino || record.mode != item->mode)
        *problem = "another inode or type";
    else if (record.nlink != item->nlink)
        *problem = "another link count";
    else if (S_ISREG(item->mode) && record.file.size != item->size)
        *problem = "another size";
    else if (S_ISREG(item->mode)) {
        fill_content(want, item->size, item->content);
        err = fs_read(volume, item->ino, 0, got, item->size, &length);
        if (!err && (length != item->size || memcmp(got, want, length) != 0))
            *problem = "other content";
    }
    fs_forget(volume, record.file.ino, 1);
    return err ? err : *problem != NULL;
}

unsigned scene_compare(struct scene *scene)
{
    const struct fs_volume_options quiet = {.log = test_log_nothing};
    struct fs_volume *volume;
    unsigned problems = 0;
    if (scene->all_excused)
        return 0;
    scene_open(scene);
    const int err = fs_volume_open(scene->store, &quiet, &volume, NULL);
    if (err) {
        printf("  the volume does not open: %s\n", strerror(-err));
        return 1;
    }
    for (size_t i = 0; i < scene->base->item_count; i++) {
        if (is_excused(scene, i))
            continue;
        const char *problem;
        const int item_err = scene_read_item(volume, &scene->base->items[i], &problem);
        if (item_err && ++problems <= 5)
            printf("  %s: %s\n", scene->base->items[i].path,
                   problem ? problem : strerror(-item_err));
    }
    fs_volume_close(volume);
    scene_close(scene);
    return problems;
}
