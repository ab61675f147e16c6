/*
 * kv/node_validate.c: is this page what a node must be? Every byte of it comes from a disk.
 *
 * Owns       nothing: it reads the caller's node_bytes of memory.
 * Invariant  no offset is followed before it is known to stay inside the node.
 * Locks      none; nobody changes the node meanwhile.
 */
#include "kv/node_layout.h"

/* A bit for each byte of the largest node. */
struct byte_set {
    uint64_t words[KV_NODE_BYTES_MAX / 64];
};

/* Add `step` bytes from `first` on, all of one word of the set; what of them was in it already. */
static inline uint64_t byte_set_add_some(struct byte_set *set, size_t first, size_t step)
{
    const uint64_t mask = (UINT64_MAX >> (64 - step)) << first % 64;
    const uint64_t seen = set->words[first / 64] & mask;
    set->words[first / 64] |= mask;
    return seen;
}

/* Add [first, first + length), which is not empty; false when a byte of it is in the set already.
 */
static bool byte_set_add(struct byte_set *set, size_t first, size_t length)
{
    const size_t end = first + length;
    size_t at = kv_min_u64(end, (first / 64 + 1) * 64);
    uint64_t seen = byte_set_add_some(set, first, at - first);
    for (; end - at >= 64; at += 64) {
        seen |= set->words[at / 64];
        set->words[at / 64] = UINT64_MAX;
    }
    if (at < end)
        seen |= byte_set_add_some(set, at, end - at);
    return !seen;
}

static bool validate_header(const struct kv_disk_node *header, size_t node_bytes, uint64_t page_id)
{
    const size_t low_bytes = kv_le16_get(header->low_bytes);
    const size_t high_bytes = kv_le16_get(header->high_bytes);
    const size_t count = kv_le16_get(header->slot_count);
    const size_t heap_start = kv_le32_get(header->heap_start);

    if (kv_le32_get(header->magic) != KV_NODE_MAGIC || kv_le64_get(header->page_id) != page_id)
        return false;
    if (header->level >= KV_TREE_DEPTH_MAX || header->tree > 1)
        return false;
    if (header->flags & ~KV_NODE_HIGH_INF)
        return false;
    for (size_t i = offsetof(struct kv_disk_node, stored_codec); i < HEADER_BYTES; i++)
        if (((const uint8_t *)header)[i])
            return false;
    if (low_bytes > KV_KEY_MAX || high_bytes > KV_KEY_MAX)
        return false;
    if (kv_le16_get(header->last_insert) > count)
        return false;
    if (header->level && !count)
        return false;
    return heap_start <= node_bytes - low_bytes - high_bytes &&
           HEADER_BYTES + SLOT_BYTES * count <= heap_start;
}

static bool validate_fences(const uint8_t *node, size_t node_bytes)
{
    const struct kv_disk_node *const header = header_of(node);
    const struct kv_bytes low = kv_node_low(node, node_bytes);
    const struct kv_bytes high = kv_node_high(node, node_bytes);

    if (!high.data && kv_le16_get(header->high_bytes))
        return false;
    if (high.data && kv_key_compare(low.data, low.length, high.data, high.length) >= 0)
        return false;
    return prefix_bytes_of(node) == prefix_between(low, high);
}

static bool validate_leaf_cell(const struct kv_disk_leaf_cell *cell)
{
    const size_t length = kv_le16_get(cell->value_bytes);
    const size_t ref_bytes = sizeof(struct kv_disk_blob_ref);

    if (cell->reserved)
        return false;
    switch (cell->kind) {
    case KV_VALUE_INLINE:
        return true;
    case KV_VALUE_REF:
        return length >= ref_bytes && length <= KV_BLOB_HEAD_MAX + KV_BLOB_TABLE_MAX + ref_bytes;
    case KV_VALUE_LARGE:
        return length > 0 && length % ref_bytes == 0;
    default:
        return false;
    }
}

/* One slot and its cell, by themselves. The header is known to be good. */
static bool validate_cell(const uint8_t *node, size_t node_bytes, unsigned slot,
                          struct byte_set *used, size_t *used_bytes)
{
    const struct kv_disk_node *const header = header_of(node);
    const size_t end = heap_end(node, node_bytes);
    const size_t offset = cell_offset(node, slot);
    const size_t suffix_len = suffix_bytes(node, slot);
    const size_t key_len = prefix_bytes_of(node) + suffix_len;
    size_t length = cell_header_bytes(header->level) + suffix_len;

    if (offset < kv_le32_get(header->heap_start) || offset > end || length > end - offset)
        return false;
    /* No longer than what is ever stored, or a split could not make room beside it. */
    if (key_len > KV_KEY_MAX)
        return false;
    if (header->level) {
        const struct kv_disk_inner_cell *const cell = (const void *)(node + offset);
        const uint64_t child = kv_le64_get(cell->child);
        if (!child || child > KV_PAGE_ID_MAX)
            return false;
        if (slot == 0 && suffix_len != 0)
            return false;
    } else {
        length += value_bytes(node, slot);
        if (length > end - offset || key_len < 1 ||
            SLOT_BYTES + length + prefix_bytes_of(node) > kv_node_cell_limit(node_bytes))
            return false;
        if (!validate_leaf_cell((const void *)(node + offset)))
            return false;
    }
    if (kv_le32_get(slot_of(node, slot)->head) != head_of(suffix_of(node, slot), suffix_len))
        return false;
    *used_bytes += length;
    return byte_set_add(used, offset, length);
}

/* Is `slot` above what stands before it: the slot before, or the low fence? */
static bool validate_order(const uint8_t *node, size_t node_bytes, unsigned slot)
{
    const bool inner = header_of(node)->level != 0;
    const unsigned first = inner ? 1 : 0;
    if (slot < first)
        return true;
    if (slot > first)
        return kv_key_compare(suffix_of(node, slot - 1), suffix_bytes(node, slot - 1),
                              suffix_of(node, slot), suffix_bytes(node, slot)) < 0;

    const struct kv_bytes low = kv_node_low(node, node_bytes);
    const size_t prefix = prefix_bytes_of(node);
    const int order = kv_key_compare((const uint8_t *)low.data + prefix, low.length - prefix,
                                     suffix_of(node, slot), suffix_bytes(node, slot));
    return inner ? order < 0 : order <= 0;
}

static bool validate_below_high(const uint8_t *node, size_t node_bytes)
{
    const unsigned count = kv_node_count(node);
    const struct kv_bytes high = kv_node_high(node, node_bytes);
    const size_t prefix = prefix_bytes_of(node);
    if (!high.data || count <= (header_of(node)->level ? 1u : 0u))
        return true;
    return kv_key_compare(suffix_of(node, count - 1), suffix_bytes(node, count - 1),
                          (const uint8_t *)high.data + prefix, high.length - prefix) < 0;
}

int kv_node_validate(const void *node, size_t node_bytes, uint64_t page_id)
{
    const uint8_t *const bytes = node;
    const struct kv_disk_node *const header = node;

    if (node_bytes < KV_NODE_BYTES_MIN || node_bytes > KV_NODE_BYTES_MAX)
        return -EUCLEAN;
    if (!validate_header(header, node_bytes, page_id) || !validate_fences(bytes, node_bytes))
        return -EUCLEAN;

    struct byte_set used;
    memset(used.words, 0, node_bytes / 8);
    const unsigned count = kv_node_count(node);
    size_t used_bytes = 0;
    for (unsigned slot = 0; slot < count; slot++)
        if (!validate_cell(bytes, node_bytes, slot, &used, &used_bytes) ||
            !validate_order(bytes, node_bytes, slot))
            return -EUCLEAN;
    if (!validate_below_high(bytes, node_bytes))
        return -EUCLEAN;

    const size_t heap_bytes = heap_end(node, node_bytes) - kv_le32_get(header->heap_start);
    return heap_bytes - used_bytes == kv_le32_get(header->garbage_bytes) ? 0 : -EUCLEAN;
}
