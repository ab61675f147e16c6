/*
 * tests/kv/support_kinds.h: what kind of block a write is of, told by its place and its bytes.
 *
 * Blobs can be told from the later blocks of pages only where there are none of these
 * (KV_CODEC_NONE, pages of one block); elsewhere both are of the kind "packed".
 */
#ifndef TESTS_KV_SUPPORT_KINDS_H
#define TESTS_KV_SUPPORT_KINDS_H

#include "kv/device.h"

enum block_kind {
    KIND_SUPERBLOCK_A,
    KIND_SUPERBLOCK_B,
    KIND_BACKUP,
    KIND_LOG,
    KIND_BITMAP_HEADER,
    KIND_BITMAP_BITS,
    KIND_MAP,
    KIND_LEAF,
    KIND_INNER,
    KIND_BLOB,
    KIND_PACKED, /* a blob, or a page's second block or later */
    KIND_COUNT
};
extern const char *const block_kind_names[KIND_COUNT];

struct image_layout {
    uint64_t image_blocks, log_first, log_end, group_first;
    bool plain; /* pages are one block, and blobs are stored as they are */
};

/* From the first superblock, which must be sound. */
void image_layout_read(struct image_layout *layout, struct kv_device *device);
/* bytes: KV_BLOCK_BYTES, or NULL for zeros. */
enum block_kind block_kind_of(const struct image_layout *layout, uint64_t block,
                              const uint8_t *bytes);

#endif
