/*
 * kv/stored_page.c: a B+tree page as it lies on the device, and telling one from other bytes.
 *
 * Owns       nothing.
 * Invariant  the stored form is never longer than the node, and with KV_CODEC_NONE it is the
 *            node, but for the fields that only the stored form has and, if it is shorter, for the
 *            gap between slots and cells.
 * Locks      none.
 * On disk    struct kv_disk_node:
 *
 *    0                              64                       stored_bytes
 *    | header: length, codec, digest | the rest, packed or not |
 *    | header: length, codec, digest | slots | cells, fences   |  dense
 */
#include "kv/stored_page.h"

#include "kv/codec.h"
#include "kv/node.h"

#define HEADER_BYTES sizeof(struct kv_disk_node)

/* Over all stored bytes, the digest itself taken as zero. `stored` is changed in between. */
static uint64_t digest_of(void *stored, size_t length, uint64_t image_id, uint64_t block)
{
    struct kv_disk_node *header = stored;
    const kv_le64 kept = header->stored_digest;
    header->stored_digest = kv_le64_of(0);
    const uint64_t digest = kv_digest(stored, length, kv_digest_seed(block, image_id));
    header->stored_digest = kept;
    return digest;
}

/* What a page that is not packed leaves out: nothing, unless that saves a block. */
static struct kv_node_gap gap_to_leave(const void *node, size_t node_bytes, bool dense)
{
    const struct kv_node_gap none = {node_bytes, node_bytes};
    if (!dense)
        return none;
    const struct kv_node_gap gap = kv_node_gap(node, node_bytes);
    const size_t length = node_bytes - (gap.end - gap.begin);
    return kv_blocks_for(length) < kv_blocks_for(node_bytes) ? gap : none;
}

size_t kv_stored_page_pack(const void *node, size_t node_bytes, struct kv_stored_form form,
                           uint64_t order, void *dst, enum kv_codec *used)
{
    const size_t rest = node_bytes - HEADER_BYTES;
    const struct kv_node_gap gap = gap_to_leave(node, node_bytes, form.dense);
    const size_t plain = node_bytes - (gap.end - gap.begin);
    const uint8_t *const body = (const uint8_t *)node + HEADER_BYTES;
    size_t packed = 0;
    if (kv_codec_may_shrink(form.codec, body, rest))
        packed = kv_codec_shrink(form.codec, body, rest, (uint8_t *)dst + HEADER_BYTES, rest);
    size_t length = HEADER_BYTES + packed;
    *used = form.codec.codec;
    if (!packed || kv_blocks_for(length) >= kv_blocks_for(plain)) {
        memcpy(dst, node, gap.begin);
        memcpy((uint8_t *)dst + gap.begin, (const uint8_t *)node + gap.end, node_bytes - gap.end);
        length = plain;
        *used = KV_CODEC_NONE;
    }
    struct kv_disk_node *header = dst;
    memcpy(header, node, HEADER_BYTES);
    header->stored_codec = (uint8_t)*used;
    header->stored_bytes = kv_le32_of((uint32_t)length);
    header->stored_order = kv_le64_of(order);
    return length;
}

void kv_stored_page_seal(void *stored, size_t length, uint64_t image_id, uint64_t block)
{
    struct kv_disk_node *header = stored;
    header->stored_digest = kv_le64_of(digest_of(stored, length, image_id, block));
}

/* `node` may be `stored`. */
static int spread(const uint8_t *stored, size_t length, uint8_t *node, size_t node_bytes)
{
    struct kv_node_gap gap = {node_bytes, node_bytes};
    if (length < node_bytes)
        gap = kv_node_gap(stored, node_bytes);
    if (node_bytes - (gap.end - gap.begin) != length)
        return -EUCLEAN;
    memmove(node + gap.end, stored + gap.begin, node_bytes - gap.end);
    if (stored != node)
        memcpy(node, stored, gap.begin);
    memset(node + gap.begin, 0, gap.end - gap.begin);
    return 0;
}

int kv_stored_page_unpack(const void *stored, size_t length, uint8_t codec, uint64_t page_id,
                          uint64_t epoch, void *node, size_t node_bytes)
{
    const struct kv_disk_node *said = stored;
    if (length < HEADER_BYTES || kv_le32_get(said->stored_bytes) != length ||
        said->stored_codec != codec || kv_le64_get(said->epoch) != epoch)
        return -EUCLEAN;
    int err = -EUCLEAN; /* packed bytes have no room to unpack where they are */
    if (codec == KV_CODEC_NONE) {
        err = spread(stored, length, node, node_bytes);
    } else if (stored != node) {
        memcpy(node, stored, HEADER_BYTES);
        err = kv_codec_unpack(codec, (const uint8_t *)stored + HEADER_BYTES, length - HEADER_BYTES,
                              (uint8_t *)node + HEADER_BYTES, node_bytes - HEADER_BYTES);
    }
    if (err)
        return err;
    struct kv_disk_node *header = node;
    header->stored_codec = 0;
    header->stored_bytes = kv_le32_of(0);
    header->stored_order = kv_le64_of(0);
    header->stored_digest = kv_le64_of(0);
    return kv_node_validate(node, node_bytes, page_id);
}

size_t kv_stored_page_length(const void *block, size_t node_bytes)
{
    const struct kv_disk_node *header = block;
    const size_t length = kv_le32_get(header->stored_bytes);
    if (kv_le32_get(header->magic) != KV_NODE_MAGIC ||
        kv_le64_get(header->page_id) > KV_PAGE_ID_MAX || header->level >= KV_TREE_DEPTH_MAX)
        return 0;
    return length >= HEADER_BYTES && length <= node_bytes ? length : 0;
}

bool kv_stored_page_genuine(void *stored, size_t length, uint64_t image_id, uint64_t block)
{
    const struct kv_disk_node *header = stored;
    return digest_of(stored, length, image_id, block) == kv_le64_get(header->stored_digest);
}
