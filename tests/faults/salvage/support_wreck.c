/*
 * tests/faults/salvage/support_wreck.c: destroy parts of an image that was closed cleanly.
 *
 *   support_wreck IMAGE PART...
 *
 *   map-root     the root of the page map
 *   map          every other inner block of the page map
 *   tree-root    the root of the tree of keys
 *   inner        every other inner page of that tree
 *   leaf=N       its N-th leaf
 *   bitmaps      both copies of the first group's bitmap
 *   superblocks  both superblocks
 *   backup       the backup superblock
 *
 * Each is overwritten with zeroes, one block of it.
 */
#include "kv/check_walk.h"
#include "kv/store.h"

#include <err.h>
#include <fcntl.h>
#include <unistd.h>

#define TARGETS_MAX 100000u

struct targets {
    struct kv_store *store;
    uint8_t *node;
    uint64_t map[TARGETS_MAX], inner[TARGETS_MAX], leaves[TARGETS_MAX];
    size_t map_count, inner_count, leaf_count;
    uint64_t map_root, tree_root;
};

static void add(uint64_t *blocks, size_t *count, uint64_t block)
{
    if (*count < TARGETS_MAX)
        blocks[(*count)++] = block;
}

/* kv_pagemap_visit_fn. */
static int visit(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr, int error)
{
    struct targets *targets = context;
    const struct kv_store *store = targets->store;
    const uint64_t block = kv_le64_get(ptr->block);
    if (error)
        errx(1, "the image is damaged already");
    if (level >= 0) {
        if ((uint32_t)level + 1 == kv_le32_get(store->checkpoint.superblock.map_depth))
            targets->map_root = block;
        else
            add(targets->map, &targets->map_count, block);
        return 0;
    }
    if (kv_pager_read_stored(store->pager, index, ptr, targets->node))
        errx(1, "page %llu can not be read", (unsigned long long)index);
    const struct kv_disk_node *header = (const struct kv_disk_node *)targets->node;
    if (header->tree != KV_TREE_KEYS)
        return 0;
    if (index == store->trees[KV_TREE_KEYS].root)
        targets->tree_root = block;
    else if (header->level)
        add(targets->inner, &targets->inner_count, block);
    else
        add(targets->leaves, &targets->leaf_count, block);
    return 0;
}

static void zero(int fd, uint64_t block)
{
    static const uint8_t zeroes[KV_BLOCK_BYTES];
    if (pwrite(fd, zeroes, sizeof zeroes, (off_t)(block * KV_BLOCK_BYTES)) !=
        (ssize_t)sizeof zeroes)
        err(1, "pwrite");
}

static void zero_some(int fd, const uint64_t *blocks, size_t count)
{
    for (size_t i = 0; i < count; i += 2)
        zero(fd, blocks[i]);
}

static void destroy(int fd, const char *part, const struct targets *targets,
                    const struct kv_disk_superblock *superblock)
{
    const uint64_t bitmap = kv_le64_get(superblock->group_first_block);
    if (strcmp(part, "map-root") == 0) {
        zero(fd, targets->map_root);
    } else if (strcmp(part, "map") == 0) {
        zero_some(fd, targets->map, targets->map_count);
    } else if (strcmp(part, "tree-root") == 0) {
        zero(fd, targets->tree_root);
    } else if (strcmp(part, "inner") == 0) {
        zero_some(fd, targets->inner, targets->inner_count);
    } else if (strncmp(part, "leaf=", 5) == 0) {
        const unsigned long number = strtoul(part + 5, NULL, 10);
        if (number >= targets->leaf_count)
            errx(1, "there are %zu leaves", targets->leaf_count);
        zero(fd, targets->leaves[number]);
    } else if (strcmp(part, "bitmaps") == 0) {
        zero(fd, bitmap);
        zero(fd, bitmap + KV_GROUP_COPY_BLOCKS);
    } else if (strcmp(part, "superblocks") == 0) {
        zero(fd, KV_SUPERBLOCK_A_BLOCK);
        zero(fd, KV_SUPERBLOCK_B_BLOCK);
    } else if (strcmp(part, "backup") == 0) {
        zero(fd, kv_le64_get(superblock->image_blocks) - 1);
    } else {
        errx(2, "%s: no part of an image", part);
    }
}

int main(int argc, char **argv)
{
    static struct targets targets;
    if (argc < 3)
        errx(2, "usage: support_wreck IMAGE PART...");
    const struct kv_open_options options = {.read_only = true, .no_background = true};
    struct kv_error error = {""};
    if (kv_open(argv[1], &options, &targets.store, &error))
        errx(1, "%s", error.text);
    targets.node = kv_device_alloc(targets.store->node_bytes);
    if (!targets.node || kv_pagemap_walk(targets.store->map, visit, &targets))
        errx(1, "the page map can not be walked");
    const struct kv_disk_superblock superblock = targets.store->checkpoint.superblock;
    kv_abandon(targets.store);
    free(targets.node);

    const int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    if (fd < 0)
        err(1, "%s", argv[1]);
    for (int i = 2; i < argc; i++)
        destroy(fd, argv[i], &targets, &superblock);
    printf("%zu leaves, %zu inner pages, %zu map blocks\n", targets.leaf_count, targets.inner_count,
           targets.map_count);
    return close(fd) ? 1 : 0;
}
