/*
 * tests/kv/support_kinds.c: what kind of block a write is of.
 *
 * Owns       nothing.
 */
#include "support_kinds.h"

#include "kv/format.h"

const char *const block_kind_names[KIND_COUNT] = {"superblock A",  "superblock B", "backup", "log",
                                                  "bitmap header", "bitmap bits",  "map",    "leaf",
                                                  "inner",         "blob",         "packed"};

void image_layout_read(struct image_layout *layout, struct kv_device *device)
{
    struct kv_disk_superblock *superblock = kv_device_alloc(sizeof *superblock);
    KV_ASSERT(superblock != NULL);
    const int err = kv_device_read(device, KV_SUPERBLOCK_A_BLOCK, 1, superblock);
    KV_ASSERT(err == 0);
    KV_ASSERT(memcmp(superblock->magic, KV_SUPERBLOCK_MAGIC, 8) == 0);
    layout->image_blocks = kv_le64_get(superblock->image_blocks);
    layout->log_first = kv_le64_get(superblock->log_first_block);
    layout->log_end = layout->log_first + kv_le64_get(superblock->log_block_count);
    layout->group_first = kv_le64_get(superblock->group_first_block);
    layout->plain =
        superblock->codec == KV_CODEC_NONE && kv_le32_get(superblock->node_bytes) == KV_BLOCK_BYTES;
    free(superblock);
}

/* Pointers, and nothing but pointers, into this image? */
static bool looks_like_map(const struct image_layout *layout, const uint8_t *bytes)
{
    bool any = false;
    for (size_t i = 0; i < KV_MAP_FANOUT; i++) {
        struct kv_disk_ptr ptr;
        memcpy(&ptr, bytes + i * sizeof ptr, sizeof ptr);
        if (kv_le64_get(ptr.block) >= layout->image_blocks ||
            kv_le32_get(ptr.length_bytes) > KV_NODE_BYTES_MAX || ptr.codec > KV_CODEC_ZSTD ||
            ptr.reserved)
            return false;
        any |= kv_le64_get(ptr.block) != 0;
    }
    return any;
}

static enum block_kind kind_of_data(const struct image_layout *layout, const uint8_t *bytes)
{
    if (!bytes)
        return KIND_PACKED; /* a discard */
    if (looks_like_map(layout, bytes))
        return KIND_MAP;
    struct kv_disk_node node;
    memcpy(&node, bytes, sizeof node);
    if (kv_le32_get(node.magic) == KV_NODE_MAGIC)
        return node.level ? KIND_INNER : KIND_LEAF;
    return layout->plain ? KIND_BLOB : KIND_PACKED;
}

enum block_kind block_kind_of(const struct image_layout *layout, uint64_t block,
                              const uint8_t *bytes)
{
    if (block == KV_SUPERBLOCK_A_BLOCK)
        return KIND_SUPERBLOCK_A;
    if (block == KV_SUPERBLOCK_B_BLOCK)
        return KIND_SUPERBLOCK_B;
    if (block == layout->image_blocks - 1)
        return KIND_BACKUP;
    if (block >= layout->log_first && block < layout->log_end)
        return KIND_LOG;
    if (block < layout->group_first)
        return KIND_PACKED; /* nothing is there */
    const uint64_t in_group = (block - layout->group_first) % KV_GROUP_BLOCKS;
    if (in_group < KV_GROUP_META_BLOCKS)
        return in_group % KV_GROUP_COPY_BLOCKS ? KIND_BITMAP_BITS : KIND_BITMAP_HEADER;
    return kind_of_data(layout, bytes);
}
