/*
 * kv/node_bare.c: a node without what can be told from the rest of it, and back.
 *
 * Owns       nothing: it works in the caller's memory.
 * Invariant  nothing is followed before it is known to stay inside the node, so any bytes may be
 *            given to kv_node_restore; it is for kv_node_validate to say whether they are a node.
 * Locks      none; nobody changes the node meanwhile.
 * Layout     of a bare node, whose cells are in the order of their keys:
 *
 *    0        64               64 + 2 * slots
 *    | header | key_bytes -> ... | cells -> ... | low | high fence |
 *
 *            What follows the header ends, in the node that is made of it, where the node ends:
 *            the cells are in their place then, and the slots are made in front of them.
 */
#include "kv/node_layout.h"

#define LENGTH_BYTES sizeof(kv_le16)

size_t kv_node_strip(const void *node, size_t node_bytes, void *bare)
{
    const unsigned count = kv_node_count(node);
    const size_t end = heap_end(node, node_bytes);
    uint8_t *const lengths = (uint8_t *)bare + HEADER_BYTES;
    uint8_t *const cells = lengths + LENGTH_BYTES * count;
    uint8_t *to = cells;

    memcpy(bare, node, HEADER_BYTES);
    for (unsigned slot = 0; slot < count; slot++) {
        const size_t length = cell_bytes_of(node, slot);
        memcpy(lengths + LENGTH_BYTES * slot, &slot_of(node, slot)->key_bytes, LENGTH_BYTES);
        memcpy(to, cell_of(node, slot), length);
        to += length;
    }
    struct kv_disk_node *const header = bare;
    header->heap_start = kv_le32_of((uint32_t)(end - (size_t)(to - cells)));
    header->garbage_bytes = kv_le32_of(0);
    memcpy(to, (const uint8_t *)node + end, node_bytes - end);
    return (size_t)(to - (uint8_t *)bare) + node_bytes - end;
}

size_t kv_node_bare_bytes(const void *header, size_t node_bytes)
{
    const struct kv_disk_node *const said = header;
    const size_t count = kv_le16_get(said->slot_count);
    const size_t fences =
        (size_t)kv_le16_get(said->low_bytes) + (size_t)kv_le16_get(said->high_bytes);
    const size_t heap_start = kv_le32_get(said->heap_start);
    if (kv_le32_get(said->garbage_bytes) || heap_start > node_bytes ||
        heap_start < HEADER_BYTES + SLOT_BYTES * count || fences > node_bytes - heap_start)
        return 0;
    return HEADER_BYTES + LENGTH_BYTES * count + (node_bytes - heap_start);
}

int kv_node_restore(void *node, size_t node_bytes)
{
    const size_t bare_bytes = kv_node_bare_bytes(node, node_bytes);
    if (!bare_bytes)
        return -EUCLEAN;
    const unsigned count = kv_node_count(node);
    const size_t cell_header = cell_header_bytes(kv_node_level(node));
    const size_t end = heap_end(node, node_bytes);
    const size_t heap_start = kv_le32_get(header_of(node)->heap_start);
    const uint8_t *const lengths = (const uint8_t *)node + node_bytes - (bare_bytes - HEADER_BYTES);
    size_t at = heap_start;

    /* A slot never reaches a length that is still to be read: 6 bytes for each slot lie between. */
    for (unsigned slot = 0; slot < count; slot++) {
        kv_le16 key_bytes;
        memcpy(&key_bytes, lengths + LENGTH_BYTES * slot, LENGTH_BYTES);
        const size_t suffix_len = kv_le16_get(key_bytes);
        if (suffix_len + cell_header > end - at)
            return -EUCLEAN;
        struct kv_disk_slot *const place = slot_of_mut(node, slot);
        place->offset = kv_le16_of((uint16_t)at);
        place->key_bytes = key_bytes;
        place->head = kv_le32_of(head_of((const uint8_t *)node + at + cell_header, suffix_len));
        const size_t length = cell_bytes_of(node, slot);
        if (length > end - at)
            return -EUCLEAN;
        at += length;
    }
    if (at != end)
        return -EUCLEAN;
    const size_t slots_end = HEADER_BYTES + SLOT_BYTES * count;
    memset((uint8_t *)node + slots_end, 0, heap_start - slots_end);
    return 0;
}
