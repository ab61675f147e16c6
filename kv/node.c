/*
 * kv/node.c: the bytes of one B+tree page: making, reading and changing it.
 *
 * Owns       nothing: every function works on the caller's node_bytes of memory.
 * Invariant  what kv_node_validate checks (node_validate.c); every function keeps it.
 * Locks      none; the caller holds the node. What does without is in node_search.c.
 * On disk    see kv/node_layout.h.
 */
#include "kv/node_layout.h"

/* ---- making ------------------------------------------------------------------ */

void kv_node_init(void *node, size_t node_bytes, uint64_t page_id, uint8_t tree, uint8_t level,
                  struct kv_bytes low, struct kv_bytes high)
{
    KV_ASSERT(low.length <= KV_KEY_MAX);
    KV_ASSERT(high.length <= KV_KEY_MAX);

    uint8_t *const bytes = node;
    struct kv_disk_node *const header = node;
    const size_t high_bytes = high.data ? high.length : 0;
    const size_t end = node_bytes - low.length - high_bytes;

    memset(bytes, 0, node_bytes);
    header->magic = kv_le32_of(KV_NODE_MAGIC);
    header->level = level;
    header->flags = (uint8_t)(high.data ? 0 : KV_NODE_HIGH_INF);
    header->page_id = kv_le64_of(page_id);
    header->heap_start = kv_le32_of((uint32_t)end);
    header->low_bytes = kv_le16_of((uint16_t)low.length);
    header->high_bytes = kv_le16_of((uint16_t)high_bytes);
    header->prefix_bytes = kv_le16_of((uint16_t)prefix_between(low, high));
    header->tree = tree;
    if (low.length)
        memcpy(bytes + end, low.data, low.length);
    if (high_bytes)
        memcpy(bytes + node_bytes - high_bytes, high.data, high_bytes);
}

/* ---- reading, node held -------------------------------------------------------- */

struct kv_bytes kv_node_low(const void *node, size_t node_bytes)
{
    return (struct kv_bytes){prefix_of(node, node_bytes), kv_le16_get(header_of(node)->low_bytes)};
}

struct kv_bytes kv_node_high(const void *node, size_t node_bytes)
{
    const struct kv_disk_node *const header = node;
    const size_t length = kv_le16_get(header->high_bytes);
    if (header->flags & KV_NODE_HIGH_INF)
        return (struct kv_bytes){NULL, 0};
    return (struct kv_bytes){(const uint8_t *)node + node_bytes - length, length};
}

/* Is a fence what the key of `slot` is? The low fence stands for slot 0 of an inner node. */
static bool equals_slot(const void *node, size_t node_bytes, unsigned slot, struct kv_bytes fence)
{
    const struct kv_bytes low = kv_node_low(node, node_bytes);
    if (slot == 0)
        return !kv_key_compare(fence.data, fence.length, low.data, low.length);
    const size_t prefix = prefix_bytes_of(node);
    const size_t suffix_len = suffix_bytes(node, slot);
    return fence.length == prefix + suffix_len && !memcmp(fence.data, low.data, prefix) &&
           !memcmp((const uint8_t *)fence.data + prefix, suffix_of(node, slot), suffix_len);
}

bool kv_node_is_root(const void *node, size_t node_bytes, uint8_t tree)
{
    return header_of(node)->tree == tree && !kv_node_low(node, node_bytes).length &&
           !kv_node_high(node, node_bytes).data;
}

bool kv_node_is_child(const void *parent, size_t node_bytes, unsigned slot, const void *child)
{
    if (header_of(child)->tree != header_of(parent)->tree ||
        kv_node_level(child) + 1 != kv_node_level(parent) ||
        !equals_slot(parent, node_bytes, slot, kv_node_low(child, node_bytes)))
        return false;
    const struct kv_bytes high = kv_node_high(child, node_bytes);
    if (slot + 1 < kv_node_count(parent))
        return high.data && equals_slot(parent, node_bytes, slot + 1, high);
    const struct kv_bytes parent_high = kv_node_high(parent, node_bytes);
    if (!high.data || !parent_high.data)
        return high.data == parent_high.data;
    return !kv_key_compare(high.data, high.length, parent_high.data, parent_high.length);
}

bool kv_node_covers_before(const void *node, size_t node_bytes, struct kv_bytes key)
{
    const struct kv_bytes low = kv_node_low(node, node_bytes);
    const struct kv_bytes high = kv_node_high(node, node_bytes);
    if (!key.data)
        return !high.data;
    return kv_key_compare(low.data, low.length, key.data, key.length) < 0 &&
           (!high.data || kv_key_compare(key.data, key.length, high.data, high.length) <= 0);
}

uint64_t kv_node_child(const void *node, unsigned slot)
{
    KV_ASSERT(slot < kv_node_count(node));
    const struct kv_disk_inner_cell *const cell = (const void *)cell_of(node, slot);
    return kv_le64_get(cell->child);
}

size_t kv_node_key(const void *node, size_t node_bytes, unsigned slot, void *out)
{
    KV_ASSERT(slot < kv_node_count(node));
    uint8_t *const key = out;
    if (kv_node_level(node) && slot == 0) {
        const struct kv_bytes low = kv_node_low(node, node_bytes);
        memcpy(key, low.data, low.length);
        return low.length;
    }
    const size_t prefix = prefix_bytes_of(node);
    const size_t suffix_len = suffix_bytes(node, slot);
    kv_copy_short(key, prefix_of(node, node_bytes), prefix);
    kv_copy_short(key + prefix, suffix_of(node, slot), suffix_len);
    return prefix + suffix_len;
}

struct kv_bytes kv_node_value(const void *node, unsigned slot, uint8_t *kind)
{
    KV_ASSERT(slot < kv_node_count(node));
    const struct kv_disk_leaf_cell *const cell = (const void *)cell_of(node, slot);
    *kind = cell->kind;
    return (struct kv_bytes){suffix_of(node, slot) + suffix_bytes(node, slot),
                             kv_le16_get(cell->value_bytes)};
}

struct kv_node_gap kv_node_gap(const void *node, size_t node_bytes)
{
    const struct kv_disk_node *const header = node;
    const size_t slots_end = HEADER_BYTES + SLOT_BYTES * kv_le16_get(header->slot_count);
    const size_t heap_start = kv_le32_get(header->heap_start);
    if (slots_end > heap_start || heap_start > node_bytes)
        return (struct kv_node_gap){node_bytes, node_bytes};
    return (struct kv_node_gap){slots_end, heap_start};
}

size_t kv_node_used(const void *node, size_t node_bytes)
{
    return node_bytes - free_between(node) - kv_le32_get(header_of(node)->garbage_bytes);
}

/* ---- changing, node held --------------------------------------------------------- */

/* Push the cells together at the end of the heap, in slot order. */
static void compact(void *node, size_t node_bytes, uint8_t *scratch)
{
    struct kv_disk_node *const header = node;
    const unsigned count = kv_node_count(node);
    const size_t end = heap_end(node, node_bytes);
    size_t at = end;

    for (unsigned slot = 0; slot < count; slot++) {
        const size_t length = cell_bytes_of(node, slot);
        at -= length;
        memcpy(scratch + at, cell_of(node, slot), length);
        slot_of_mut(node, slot)->offset = kv_le16_of((uint16_t)at);
    }
    memcpy((uint8_t *)node + at, scratch + at, end - at);
    header->heap_start = kv_le32_of((uint32_t)at);
    header->garbage_bytes = kv_le32_of(0);
}

/* Move the slots from `slot` on by one; see kv_copy_short on why not by memmove. */
static void shift_slots(void *node, unsigned slot, unsigned count)
{
    typedef long long pair __attribute__((vector_size(16), may_alias, aligned(1)));
    typedef uint64_t word __attribute__((may_alias, aligned(1)));
    static_assert(SLOT_BYTES == sizeof(word), "two slots are a pair");
    uint8_t *const first = (uint8_t *)slot_of_mut(node, slot);
    uint8_t *end = first + SLOT_BYTES * (count - slot);
    for (; end - first >= 32; end -= 32) {
        const pair high = *(const pair *)(end - 16);
        const pair low = *(const pair *)(end - 32);
        *(pair *)(end - 16 + SLOT_BYTES) = high;
        *(pair *)(end - 32 + SLOT_BYTES) = low;
    }
    for (; end > first; end -= SLOT_BYTES) /* three at most, so nobody's loop to improve */
        *(volatile word *)end = *(const volatile word *)(end - SLOT_BYTES);
}

/*
 * Make room for a new slot and a cell of cell_bytes whose key ends in `suffix`; the cell's
 * header is set and its suffix is in place. Returns the cell, NULL: does not fit.
 */
static uint8_t *open_cell(void *node, size_t node_bytes, unsigned slot, const uint8_t *suffix,
                          size_t suffix_len, size_t cell_bytes, uint8_t *scratch)
{
    struct kv_disk_node *const header = node;
    const unsigned count = kv_node_count(node);
    const size_t need = cell_bytes + SLOT_BYTES;
    const size_t between = free_between(node);

    if (between < need) {
        if (between + kv_le32_get(header->garbage_bytes) < need)
            return NULL;
        compact(node, node_bytes, scratch);
    }

    const size_t at = kv_le32_get(header->heap_start) - cell_bytes;
    struct kv_disk_slot *const place = slot_of_mut(node, slot);
    shift_slots(node, slot, count);
    place->offset = kv_le16_of((uint16_t)at);
    place->key_bytes = kv_le16_of((uint16_t)suffix_len);
    place->head = kv_le32_of(head_of(suffix, suffix_len));
    header->heap_start = kv_le32_of((uint32_t)at);
    header->slot_count = kv_le16_of((uint16_t)(count + 1));

    uint8_t *const cell = (uint8_t *)node + at;
    kv_copy_short(cell + cell_header_bytes(header->level), suffix, suffix_len);
    return cell;
}

/* A leaf cell from the key's part after the prefix; the hint is not touched. */
bool kv_node_add_leaf_cell(void *node, size_t node_bytes, unsigned slot, const uint8_t *suffix,
                           size_t suffix_len, uint8_t kind, struct kv_bytes value, uint8_t *scratch)
{
    const size_t fixed = sizeof(struct kv_disk_leaf_cell) + suffix_len;
    if (value.length > node_bytes)
        return false;
    uint8_t *const cell =
        open_cell(node, node_bytes, slot, suffix, suffix_len, fixed + value.length, scratch);
    if (!cell)
        return false;

    struct kv_disk_leaf_cell *const cell_header = (void *)cell;
    cell_header->value_bytes = kv_le16_of((uint16_t)value.length);
    cell_header->kind = kind;
    cell_header->reserved = 0;
    kv_copy_short(cell + fixed, value.data, value.length);
    return true;
}

bool kv_node_add_inner_cell(void *node, size_t node_bytes, unsigned slot, const uint8_t *suffix,
                            size_t suffix_len, uint64_t child, uint8_t *scratch)
{
    uint8_t *const cell = open_cell(node, node_bytes, slot, suffix, suffix_len,
                                    sizeof(struct kv_disk_inner_cell) + suffix_len, scratch);
    if (!cell)
        return false;
    ((struct kv_disk_inner_cell *)(void *)cell)->child = kv_le64_of(child);
    return true;
}

/* Close the gap of a slot and give its cell back; the hint is not touched. */
static void drop_cell(void *node, size_t node_bytes, unsigned slot)
{
    struct kv_disk_node *const header = node;
    const unsigned count = kv_node_count(node);
    const size_t length = cell_bytes_of(node, slot);
    const size_t heap_start = kv_le32_get(header->heap_start);
    struct kv_disk_slot *const place = slot_of_mut(node, slot);

    if (count == 1) {
        header->heap_start = kv_le32_of((uint32_t)heap_end(node, node_bytes));
        header->garbage_bytes = kv_le32_of(0);
    } else if (cell_offset(node, slot) == heap_start) {
        header->heap_start = kv_le32_of((uint32_t)(heap_start + length));
    } else {
        const uint32_t garbage = kv_le32_get(header->garbage_bytes);
        header->garbage_bytes = kv_le32_of(garbage + (uint32_t)length);
    }
    memmove(place, place + 1, SLOT_BYTES * (count - slot - 1));
    header->slot_count = kv_le16_of((uint16_t)(count - 1));
}

/* How far below the cell that was inserted in order the processor's cache is asked for more, and
 * how much at once: more than a small cell. */
#define RUN_AHEAD_BYTES 1024u
#define RUN_FETCH_LINES 3u

/* Keys come in order: ask for where the next cells go, which nobody has looked at for long. */
static void fetch_run(const void *node)
{
    const size_t heap_start = kv_le32_get(header_of(node)->heap_start);
    if (free_between(node) < RUN_AHEAD_BYTES + RUN_FETCH_LINES * 64)
        return;
    const uint8_t *const ahead = (const uint8_t *)node + heap_start - RUN_AHEAD_BYTES;
    for (unsigned line = 1; line <= RUN_FETCH_LINES; line++)
        __builtin_prefetch(ahead - 64 * line, 1);
}

bool kv_node_insert(void *node, size_t node_bytes, unsigned slot, const void *key, size_t key_len,
                    uint8_t kind, struct kv_bytes value, void *scratch)
{
    const size_t prefix = prefix_bytes_of(node);
    KV_ASSERT(kv_node_level(node) == 0);
    KV_ASSERT(slot <= kv_node_count(node));
    KV_ASSERT(key_len >= prefix);
    KV_ASSERT(key_len <= KV_KEY_MAX);

    if (!kv_node_add_leaf_cell(node, node_bytes, slot, (const uint8_t *)key + prefix,
                               key_len - prefix, kind, value, scratch))
        return false;
    set_hint(node, slot + 1);
    if (slot + 1 == kv_node_count(node))
        fetch_run(node);
    return true;
}

bool kv_node_replace(void *node, size_t node_bytes, unsigned slot, uint8_t kind,
                     struct kv_bytes value, void *scratch)
{
    struct kv_disk_node *const header = node;
    KV_ASSERT(header->level == 0);
    KV_ASSERT(slot < kv_node_count(node));

    const size_t suffix_len = suffix_bytes(node, slot);
    const size_t old_length = value_bytes(node, slot);
    const uint32_t garbage = kv_le32_get(header->garbage_bytes);
    uint8_t *const cell = (uint8_t *)node + cell_offset(node, slot);

    if (value.length <= old_length) {
        struct kv_disk_leaf_cell *const cell_header = (void *)cell;
        cell_header->value_bytes = kv_le16_of((uint16_t)value.length);
        cell_header->kind = kind;
        kv_copy_short(cell + sizeof *cell_header + suffix_len, value.data, value.length);
        header->garbage_bytes = kv_le32_of(garbage + (uint32_t)(old_length - value.length));
        return true;
    }
    if (value.length - old_length > free_between(node) + garbage)
        return false;

    uint8_t suffix[KV_KEY_MAX];
    memcpy(suffix, suffix_of(node, slot), suffix_len);
    drop_cell(node, node_bytes, slot);
    const bool fits =
        kv_node_add_leaf_cell(node, node_bytes, slot, suffix, suffix_len, kind, value, scratch);
    KV_ASSERT(fits);
    return true;
}

void kv_node_overwrite(void *node, unsigned slot, size_t offset, const void *bytes, size_t length)
{
    KV_ASSERT(kv_node_level(node) == 0);
    KV_ASSERT(slot < kv_node_count(node));
    KV_ASSERT(offset <= value_bytes(node, slot));
    KV_ASSERT(length <= value_bytes(node, slot) - offset);

    uint8_t *const value = (uint8_t *)node + cell_offset(node, slot) +
                           sizeof(struct kv_disk_leaf_cell) + suffix_bytes(node, slot);
    if (length)
        memcpy(value + offset, bytes, length);
}

static void remove_slot(void *node, size_t node_bytes, unsigned slot)
{
    KV_ASSERT(slot < kv_node_count(node));
    const unsigned hint = hint_of(node);
    drop_cell(node, node_bytes, slot);
    if (slot < hint)
        set_hint(node, hint - 1); /* a run goes on although its beginning is consumed */
}

void kv_node_remove(void *node, size_t node_bytes, unsigned slot)
{
    KV_ASSERT(kv_node_level(node) == 0);
    remove_slot(node, node_bytes, slot);
}

bool kv_node_insert_child(void *node, size_t node_bytes, unsigned slot, const void *key,
                          size_t key_len, uint64_t child, void *scratch)
{
    const unsigned count = kv_node_count(node);
    const size_t skip = slot == 0 ? key_len : prefix_bytes_of(node);
    KV_ASSERT(kv_node_level(node) > 0);
    KV_ASSERT(slot <= count);
    KV_ASSERT(slot > 0 || count == 0);
    KV_ASSERT(key_len >= skip);
    KV_ASSERT(key_len <= KV_KEY_MAX);

    const uint8_t *const suffix = skip ? (const uint8_t *)key + skip : key;
    if (!kv_node_add_inner_cell(node, node_bytes, slot, suffix, key_len - skip, child, scratch))
        return false;
    set_hint(node, slot + 1);
    return true;
}

void kv_node_remove_child(void *node, size_t node_bytes, unsigned slot)
{
    KV_ASSERT(kv_node_level(node) > 0);
    KV_ASSERT(slot > 0);
    remove_slot(node, node_bytes, slot);
}

void kv_node_set_child(void *node, unsigned slot, uint64_t child)
{
    KV_ASSERT(kv_node_level(node) > 0);
    KV_ASSERT(slot < kv_node_count(node));
    struct kv_disk_inner_cell *const cell = (void *)((uint8_t *)node + cell_offset(node, slot));
    cell->child = kv_le64_of(child);
}
