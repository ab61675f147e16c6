/*
 * kv/stored_page.c: a B+tree page as it lies on the device, and telling one from other bytes.
 *
 * Owns       nothing.
 * Invariant  the stored form is never longer than the node, and with KV_CODEC_NONE and
 *            KV_STORED_NODE it is the node, but for the fields that only the stored form has and,
 * if it is shorter, for the gap between slots and cells. Locks      none. On disk    struct
 * kv_disk_node:
 *
 *    0                                     64                       stored_bytes
 *    | header: length, codec, shape, digest | the rest, packed or not |
 *    | header: length, codec, shape, digest | slots | cells, fences   |  dense
 *    | header: length, codec, shape, digest | lengths, cells, fences, packed or not |  bare
 */
#include "kv/stored_page.h"

#include "kv/codec.h"
#include "kv/node.h"

#define HEADER_BYTES sizeof(struct kv_disk_node)
/* A bare page stays packed if that saves a block, or such a part of it: in memory bytes count. */
#define SAVING_PART 8u

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

/* Set what only the stored form has. Returns `length`. */
static size_t say(void *stored, size_t length, enum kv_codec used, enum kv_stored_shape shape,
                  uint64_t order)
{
    struct kv_disk_node *header = stored;
    header->stored_codec = (uint8_t)used;
    header->stored_shape = (uint8_t)shape;
    header->stored_bytes = kv_le32_of((uint32_t)length);
    header->stored_order = kv_le64_of(order);
    return length;
}

/* The bare form of a page. 0: it is neither packed then, nor shorter by a block. */
static size_t pack_bare(const void *node, size_t node_bytes, struct kv_stored_form form,
                        uint64_t order, uint8_t *bare, uint8_t *dst, enum kv_codec *used)
{
    const size_t length = kv_node_strip(node, node_bytes, bare);
    const size_t rest = length - HEADER_BYTES;
    size_t packed = 0;
    if (kv_codec_may_shrink(form.codec, bare + HEADER_BYTES, rest)) {
        const size_t limit = kv_max_u64(kv_codec_limit(length), length - length / SAVING_PART);
        packed = kv_codec_shrink(form.codec, bare + HEADER_BYTES, rest, dst + HEADER_BYTES,
                                 limit - HEADER_BYTES);
    }
    *used = packed ? form.codec.codec : KV_CODEC_NONE;
    if (packed) {
        memcpy(dst, bare, HEADER_BYTES);
        return say(dst, HEADER_BYTES + packed, *used, KV_STORED_BARE, order);
    }
    if (kv_blocks_for(length) == kv_blocks_for(node_bytes))
        return 0;
    memcpy(dst, bare, length);
    return say(dst, length, *used, KV_STORED_BARE, order);
}

/* The node as it is, but for its gap; packed if that saves a block. */
static size_t pack_node(const void *node, size_t node_bytes, struct kv_stored_form form,
                        uint64_t order, uint8_t *dst, enum kv_codec *used)
{
    const size_t rest = node_bytes - HEADER_BYTES;
    const struct kv_node_gap gap = gap_to_leave(node, node_bytes, form.dense);
    const size_t plain = node_bytes - (gap.end - gap.begin);
    const uint8_t *const body = (const uint8_t *)node + HEADER_BYTES;
    size_t packed = 0;
    if (kv_codec_may_shrink(form.codec, body, rest))
        packed = kv_codec_shrink(form.codec, body, rest, dst + HEADER_BYTES, kv_codec_limit(rest));
    size_t length = HEADER_BYTES + packed;
    *used = form.codec.codec;
    if (!packed || kv_blocks_for(length) >= kv_blocks_for(plain)) {
        memcpy(dst, node, gap.begin);
        memcpy(dst + gap.begin, (const uint8_t *)node + gap.end, node_bytes - gap.end);
        length = plain;
        *used = KV_CODEC_NONE;
    }
    memcpy(dst, node, HEADER_BYTES);
    return say(dst, length, *used, KV_STORED_NODE, order);
}

size_t kv_stored_page_pack(const void *node, size_t node_bytes, struct kv_stored_form form,
                           uint64_t order, void *scratch, void *dst, enum kv_codec *used)
{
    size_t length = 0;
    if (form.bare)
        length = pack_bare(node, node_bytes, form, order, scratch, dst, used);
    if (length)
        return length;
    if (form.bare)
        form.codec.codec = KV_CODEC_NONE;
    return pack_node(node, node_bytes, form, order, dst, used);
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

/* The rest of a bare page, to where kv_node_restore wants it. `node` may be `stored`. */
static int unpack_bare(const uint8_t *stored, size_t length, uint8_t codec, uint8_t *node,
                       size_t node_bytes)
{
    const size_t bare_bytes = kv_node_bare_bytes(stored, node_bytes);
    if (!bare_bytes)
        return -EUCLEAN;
    const size_t rest = bare_bytes - HEADER_BYTES;
    uint8_t *const to = node + node_bytes - rest;
    int err = 0;
    if (codec != KV_CODEC_NONE)
        err = kv_codec_unpack(codec, stored + HEADER_BYTES, length - HEADER_BYTES, to, rest);
    else if (length == bare_bytes)
        memmove(to, stored + HEADER_BYTES, rest);
    else
        err = -EUCLEAN;
    if (err)
        return err;
    if (stored != node)
        memcpy(node, stored, HEADER_BYTES);
    return kv_node_restore(node, node_bytes);
}

int kv_stored_page_unpack(const void *stored, size_t length, uint8_t codec, uint64_t page_id,
                          uint64_t epoch, void *node, size_t node_bytes)
{
    const struct kv_disk_node *said = stored;
    if (length < HEADER_BYTES || kv_le32_get(said->stored_bytes) != length ||
        said->stored_codec != codec || kv_le64_get(said->epoch) != epoch)
        return -EUCLEAN;
    int err;
    if (codec != KV_CODEC_NONE && stored == node)
        return -EUCLEAN; /* packed bytes have no room to unpack where they are */
    if (said->stored_shape == KV_STORED_BARE) {
        err = unpack_bare(stored, length, codec, node, node_bytes);
    } else if (said->stored_shape != KV_STORED_NODE) {
        return -EUCLEAN;
    } else if (codec == KV_CODEC_NONE) {
        err = spread(stored, length, node, node_bytes);
    } else {
        memcpy(node, stored, HEADER_BYTES);
        err = kv_codec_unpack(codec, (const uint8_t *)stored + HEADER_BYTES, length - HEADER_BYTES,
                              (uint8_t *)node + HEADER_BYTES, node_bytes - HEADER_BYTES);
    }
    if (err)
        return err;
    (void)say(node, 0, KV_CODEC_NONE, KV_STORED_NODE, 0);
    ((struct kv_disk_node *)node)->stored_digest = kv_le64_of(0);
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
