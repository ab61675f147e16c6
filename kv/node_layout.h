/*
 * kv/node_layout.h: where things stand in a node's bytes. For kv/node*.c, hence the short names.
 *
 *    0        64            heap_start          heap end            node_bytes
 *    | header | slots -> ... | <- cells and holes | low | high fence |
 *
 * struct kv_disk_node, kv_disk_slot, kv_disk_leaf_cell and kv_disk_inner_cell are in kv/format.h.
 * What is here trusts the offsets that it finds: the node is held and valid, or its validation
 * has come past them.
 */
#ifndef KV_NODE_LAYOUT_H
#define KV_NODE_LAYOUT_H

#include "kv/node.h"

#define HEADER_BYTES sizeof(struct kv_disk_node)
#define SLOT_BYTES   sizeof(struct kv_disk_slot)
#define HEAD_BYTES   4u

static_assert(KV_NODE_BYTES_MAX <= 65536, "offsets of cells are 16 bits wide");

static inline const struct kv_disk_node *header_of(const void *node)
{
    return node;
}

static inline const struct kv_disk_slot *slot_of(const void *node, unsigned slot)
{
    return (const struct kv_disk_slot *)((const uint8_t *)node + HEADER_BYTES) + slot;
}

static inline struct kv_disk_slot *slot_of_mut(void *node, unsigned slot)
{
    return (struct kv_disk_slot *)((uint8_t *)node + HEADER_BYTES) + slot;
}

static inline size_t cell_header_bytes(uint8_t level)
{
    return level ? sizeof(struct kv_disk_inner_cell) : sizeof(struct kv_disk_leaf_cell);
}

static inline size_t cell_offset(const void *node, unsigned slot)
{
    return kv_le16_get(slot_of(node, slot)->offset);
}

static inline const uint8_t *cell_of(const void *node, unsigned slot)
{
    return (const uint8_t *)node + cell_offset(node, slot);
}

static inline size_t suffix_bytes(const void *node, unsigned slot)
{
    return kv_le16_get(slot_of(node, slot)->key_bytes);
}

static inline const uint8_t *suffix_of(const void *node, unsigned slot)
{
    return cell_of(node, slot) + cell_header_bytes(header_of(node)->level);
}

static inline size_t value_bytes(const void *node, unsigned slot)
{
    const struct kv_disk_leaf_cell *cell = (const void *)cell_of(node, slot);
    return kv_le16_get(cell->value_bytes);
}

/* Of one cell, without its slot. */
static inline size_t cell_bytes_of(const void *node, unsigned slot)
{
    const uint8_t level = header_of(node)->level;
    return cell_header_bytes(level) + suffix_bytes(node, slot) +
           (level ? 0 : value_bytes(node, slot));
}

static inline size_t prefix_bytes_of(const void *node)
{
    return kv_le16_get(header_of(node)->prefix_bytes);
}

/* Where the cells end and the fences begin. */
static inline size_t heap_end(const void *node, size_t node_bytes)
{
    const struct kv_disk_node *header = header_of(node);
    return node_bytes - kv_le16_get(header->low_bytes) - kv_le16_get(header->high_bytes);
}

static inline const uint8_t *prefix_of(const void *node, size_t node_bytes)
{
    return (const uint8_t *)node + heap_end(node, node_bytes);
}

static inline size_t free_between(const void *node)
{
    return kv_le32_get(header_of(node)->heap_start) - HEADER_BYTES -
           SLOT_BYTES * kv_node_count(node);
}

static inline size_t common_bytes(const void *a, size_t a_len, const void *b, size_t b_len)
{
    const uint8_t *const left = a;
    const uint8_t *const right = b;
    const size_t shared = a_len < b_len ? a_len : b_len;
    size_t i = 0;
    while (i < shared && left[i] == right[i])
        i++;
    return i;
}

static inline size_t prefix_between(struct kv_bytes low, struct kv_bytes high)
{
    return high.data ? common_bytes(low.data, low.length, high.data, high.length) : 0;
}

/* The first bytes of a stored key as a number, as its slot holds them. */
static inline uint32_t head_of(const uint8_t *suffix, size_t length)
{
    uint32_t head = 0;
    if (length)
        memcpy(&head, suffix, length < HEAD_BYTES ? length : HEAD_BYTES);
    return __builtin_bswap32(head);
}

/* Behind the slot that was inserted last: where a run of ascending insertions goes on. */
static inline unsigned hint_of(const void *node)
{
    return kv_le16_get(header_of(node)->last_insert);
}

static inline void set_hint(void *node, unsigned next_slot)
{
    struct kv_disk_node *const header = node;
    header->last_insert = kv_le16_of((uint16_t)next_slot);
}

/* ---- cells (node.c) ------------------------------------------------------- */

/*
 * Add a cell whose key, after the prefix, is `suffix`; the hint is not touched. false: does not
 * fit. scratch: as for kv_node_insert; NULL where there are no holes, hence nothing to compact.
 */
KV_MUST_CHECK bool kv_node_add_leaf_cell(void *node, size_t node_bytes, unsigned slot,
                                         const uint8_t *suffix, size_t suffix_len, uint8_t kind,
                                         struct kv_bytes value, uint8_t *scratch);
KV_MUST_CHECK bool kv_node_add_inner_cell(void *node, size_t node_bytes, unsigned slot,
                                          const uint8_t *suffix, size_t suffix_len, uint64_t child,
                                          uint8_t *scratch);

#endif
