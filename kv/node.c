/*
 * kv/node.c: the bytes of one B+tree page: search, insert, split, merge, validate.
 *
 * Owns       nothing: every function works on the caller's node_bytes of memory.
 * Invariant  what kv_node_validate checks; every function keeps it.
 * Locks      none; the caller holds the node, except for the _racy functions.
 * On disk    struct kv_disk_node, kv_disk_slot, kv_disk_leaf_cell, kv_disk_inner_cell:
 *
 *    0        64            heap_start          heap end            node_bytes
 *    | header | slots -> ... | <- cells and holes | low | high fence |
 *
 * A racy function takes each number from the node exactly once, bounds it, and only then
 * uses it as an offset; so a torn or damaged node gives a wrong answer, never a wrong access.
 */
#include "kv/node.h"

/*
 * Pieces of the racy functions: compiled into them, and like them not looked at by the
 * thread sanitizer. They must not call memcpy or memcmp, which it intercepts everywhere.
 */
#if defined(__clang__)
#define RACY_PIECE static inline __attribute__((always_inline, no_sanitize("thread")))
#elif defined(__SANITIZE_THREAD__)
#define RACY_PIECE static inline __attribute__((always_inline, no_sanitize_thread))
#else
#define RACY_PIECE static inline __attribute__((always_inline))
#endif

typedef uint16_t unaligned_u16 __attribute__((may_alias, aligned(1)));
typedef uint32_t unaligned_u32 __attribute__((may_alias, aligned(1)));
typedef uint64_t unaligned_u64 __attribute__((may_alias, aligned(1)));
typedef uint64_t unaligned_pair
    __attribute__((vector_size(16), may_alias, aligned(1))); /* 16 bytes at once */

#define HEADER_BYTES sizeof(struct kv_disk_node)
#define SLOT_BYTES   sizeof(struct kv_disk_slot)
#define HEAD_BYTES   4u

/* The racy readers take header fields and slots as whole words. */
static_assert(offsetof(struct kv_disk_node, level) == 4, "read alone");
static_assert(offsetof(struct kv_disk_node, slot_count) == 6, "read alone");
static_assert(offsetof(struct kv_disk_node, low_bytes) == 32, "read with the next three");
static_assert(offsetof(struct kv_disk_node, high_bytes) == 34, "read with low_bytes");
static_assert(offsetof(struct kv_disk_node, prefix_bytes) == 36, "read with low_bytes");
static_assert(offsetof(struct kv_disk_slot, head) == 4, "a slot is read as one word");
static_assert(KV_NODE_BYTES_MAX <= 65536, "offsets of cells are 16 bits wide");

/*
 * Any cell fits after one split: let c be the largest cell with its slot, f the longest
 * fence, U = node_bytes - HEADER_BYTES. Cells and fences of a full node and the new cell take
 * at most U + c. Among the borders between these cells one has at most (U + c) / 2 + c / 2
 * = U / 2 + c on either side, the old fence of that side included; the separator adds f to
 * each. So c <= U / 2 - f will do: 1504 for the smallest node. A quarter of the node is less,
 * as is a longest key with the references of a value of KV_VALUE_MAX. Inner nodes can not
 * split just before the new cell, which costs another c / 2: c <= (U / 2 - f) * 2 / 3 = 1002
 * is more than their 528.
 */
#define INNER_CELL_MAX (SLOT_BYTES + sizeof(struct kv_disk_inner_cell) + KV_KEY_MAX)
#define SPLIT_HALF_MIN ((KV_NODE_BYTES_MIN - HEADER_BYTES) / 2 - KV_KEY_MAX)
static_assert(KV_NODE_BYTES_MIN / 4 + SLOT_BYTES <= SPLIT_HALF_MIN,
              "a leaf cell fits after a split");
static_assert(SLOT_BYTES + sizeof(struct kv_disk_leaf_cell) + KV_KEY_MAX +
                      KV_VALUE_MAX / KV_BLOB_MAX * sizeof(struct kv_disk_blob_ref) <=
                  SPLIT_HALF_MIN,
              "the references of a largest value fit after a split");
static_assert(INNER_CELL_MAX * 3 <= SPLIT_HALF_MIN * 2, "an inner cell fits after a split");

/* A run of ascending insertions counts from this many slots on. */
#define RUN_SLOTS_MIN 3u

/* ---- plain access to a node that is held ----------------------------------- */

static const struct kv_disk_node *header_of(const void *node)
{
    return node;
}

static const struct kv_disk_slot *slot_of(const void *node, unsigned slot)
{
    return (const struct kv_disk_slot *)((const uint8_t *)node + HEADER_BYTES) + slot;
}

static struct kv_disk_slot *slot_of_mut(void *node, unsigned slot)
{
    return (struct kv_disk_slot *)((uint8_t *)node + HEADER_BYTES) + slot;
}

static size_t cell_header_bytes(uint8_t level)
{
    return level ? sizeof(struct kv_disk_inner_cell) : sizeof(struct kv_disk_leaf_cell);
}

static size_t cell_offset(const void *node, unsigned slot)
{
    return kv_le16_get(slot_of(node, slot)->offset);
}

static const uint8_t *cell_of(const void *node, unsigned slot)
{
    return (const uint8_t *)node + cell_offset(node, slot);
}

static size_t suffix_bytes(const void *node, unsigned slot)
{
    return kv_le16_get(slot_of(node, slot)->key_bytes);
}

static const uint8_t *suffix_of(const void *node, unsigned slot)
{
    return cell_of(node, slot) + cell_header_bytes(header_of(node)->level);
}

static size_t value_bytes(const void *node, unsigned slot)
{
    const struct kv_disk_leaf_cell *cell = (const void *)cell_of(node, slot);
    return kv_le16_get(cell->value_bytes);
}

/* Of one cell, without its slot. */
static size_t cell_bytes_of(const void *node, unsigned slot)
{
    const uint8_t level = header_of(node)->level;
    return cell_header_bytes(level) + suffix_bytes(node, slot) +
           (level ? 0 : value_bytes(node, slot));
}

static size_t prefix_bytes_of(const void *node)
{
    return kv_le16_get(header_of(node)->prefix_bytes);
}

/* Where the cells end and the fences begin. */
static size_t heap_end(const void *node, size_t node_bytes)
{
    const struct kv_disk_node *header = header_of(node);
    return node_bytes - kv_le16_get(header->low_bytes) - kv_le16_get(header->high_bytes);
}

static const uint8_t *prefix_of(const void *node, size_t node_bytes)
{
    return (const uint8_t *)node + heap_end(node, node_bytes);
}

static size_t free_between(const void *node)
{
    return kv_le32_get(header_of(node)->heap_start) - HEADER_BYTES -
           SLOT_BYTES * kv_node_count(node);
}

static size_t common_bytes(const void *a, size_t a_len, const void *b, size_t b_len)
{
    const uint8_t *const left = a;
    const uint8_t *const right = b;
    const size_t shared = a_len < b_len ? a_len : b_len;
    size_t i = 0;
    while (i < shared && left[i] == right[i])
        i++;
    return i;
}

static size_t prefix_between(struct kv_bytes low, struct kv_bytes high)
{
    return high.data ? common_bytes(low.data, low.length, high.data, high.length) : 0;
}

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

static uint32_t head_of(const uint8_t *suffix, size_t length)
{
    uint32_t head = 0;
    if (length)
        memcpy(&head, suffix, length < HEAD_BYTES ? length : HEAD_BYTES);
    return __builtin_bswap32(head);
}

/* A bit for each byte of the largest node. */
struct byte_set {
    uint64_t words[KV_NODE_BYTES_MAX / 64];
};

/* Add [first, first + length); false when a byte of it is in the set already. */
static bool byte_set_add(struct byte_set *set, size_t first, size_t length)
{
    uint64_t seen = 0;
    while (length) {
        const size_t bit = first % 64;
        const size_t step = length < 64 - bit ? length : 64 - bit;
        const uint64_t mask = (UINT64_MAX >> (64 - step)) << bit;
        seen |= set->words[first / 64] & mask;
        set->words[first / 64] |= mask;
        first += step;
        length -= step;
    }
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
        return length >= ref_bytes && length <= KV_BLOB_HEAD_MAX + ref_bytes;
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

/* ---- reading, racy ----------------------------------------------------------- */

RACY_PIECE uint16_t load_u16(const uint8_t *at)
{
    return *(const volatile unaligned_u16 *)at;
}

RACY_PIECE uint64_t load_u64(const uint8_t *at)
{
    return *(const volatile unaligned_u64 *)at;
}

RACY_PIECE void copy_bytes(uint8_t *dst, const uint8_t *src, size_t length)
{
    size_t i = 0;
    for (; length - i >= 64; i += 64) {
        const unaligned_pair a = *(const volatile unaligned_pair *)(src + i);
        const unaligned_pair b = *(const volatile unaligned_pair *)(src + i + 16);
        const unaligned_pair c = *(const volatile unaligned_pair *)(src + i + 32);
        const unaligned_pair d = *(const volatile unaligned_pair *)(src + i + 48);
        *(unaligned_pair *)(dst + i) = a;
        *(unaligned_pair *)(dst + i + 16) = b;
        *(unaligned_pair *)(dst + i + 32) = c;
        *(unaligned_pair *)(dst + i + 48) = d;
    }
    for (; length - i >= 8; i += 8)
        *(unaligned_u64 *)(dst + i) = load_u64(src + i);
    for (; i < length; i++)
        dst[i] = ((const volatile uint8_t *)src)[i];
}

/* The order of `length` bytes of the caller's key and of the node's. */
RACY_PIECE int compare_bytes(const uint8_t *key, const uint8_t *stored, size_t length)
{
    size_t i = 0;
    for (; length - i >= 8; i += 8) {
        const uint64_t a = *(const unaligned_u64 *)(key + i);
        const uint64_t b = load_u64(stored + i);
        if (a != b)
            return __builtin_bswap64(a) < __builtin_bswap64(b) ? -1 : 1;
    }
    for (; i < length; i++) {
        const uint8_t b = ((const volatile uint8_t *)stored)[i];
        if (key[i] != b)
            return key[i] < b ? -1 : 1;
    }
    return 0;
}

/* A node's header, read once; offsets in it are inside the node. */
struct shape {
    unsigned count;
    unsigned prefix_bytes;
    unsigned heap_end;
    unsigned high_bytes;
    uint8_t level;
    bool high_infinite;
};

RACY_PIECE bool load_shape(const uint8_t *node, size_t node_bytes, struct shape *shape)
{
    const uint64_t lengths = load_u64(node + offsetof(struct kv_disk_node, low_bytes));
    const unsigned low_bytes = (uint16_t)lengths;
    const unsigned high_bytes = (uint16_t)(lengths >> 16);

    const uint8_t flags = *(const volatile uint8_t *)(node + offsetof(struct kv_disk_node, flags));
    shape->level = *(const volatile uint8_t *)(node + offsetof(struct kv_disk_node, level));
    shape->count = load_u16(node + offsetof(struct kv_disk_node, slot_count));
    shape->prefix_bytes = (uint16_t)(lengths >> 32);
    if (shape->count > (node_bytes - HEADER_BYTES) / SLOT_BYTES)
        return false;
    if (low_bytes + high_bytes > node_bytes - HEADER_BYTES || shape->prefix_bytes > low_bytes)
        return false;
    shape->heap_end = (unsigned)node_bytes - low_bytes - high_bytes;
    shape->high_bytes = high_bytes;
    shape->high_infinite = flags & KV_NODE_HIGH_INF;
    return true;
}

RACY_PIECE uint64_t load_slot(const uint8_t *node, unsigned slot)
{
    return load_u64(node + HEADER_BYTES + SLOT_BYTES * slot);
}

RACY_PIECE uint32_t load_head(const uint8_t *node, unsigned slot)
{
    return *(const volatile unaligned_u32 *)(node + HEADER_BYTES + SLOT_BYTES * slot + 4);
}

/* The first slot in [first, end) whose head is not below `head` (or, `above`: is above it). */
RACY_PIECE unsigned find_head(const uint8_t *node, unsigned first, unsigned end, uint32_t head,
                              bool above)
{
    unsigned length = end - first;
    while (length > 1) {
        /* Both places where the next step may look: it need not wait for this one. */
        const unsigned half = length / 2;
        const unsigned next_half = (length - half) / 2;
        __builtin_prefetch(node + HEADER_BYTES + SLOT_BYTES * (first + next_half));
        __builtin_prefetch(node + HEADER_BYTES + SLOT_BYTES * (first + half + next_half));
        const uint32_t middle = load_head(node, first + half - 1);
        const bool right = above ? middle <= head : middle < head;
        first += right ? half : 0;
        length -= half;
    }
    if (length) {
        const uint32_t last = load_head(node, first);
        first += above ? last <= head : last < head;
    }
    return first;
}

/* How the key's part after the prefix stands to that of a slot; false: nonsense. */
RACY_PIECE bool compare_slot(const uint8_t *node, size_t node_bytes, uint8_t level, unsigned slot,
                             const uint8_t *suffix, size_t suffix_len, int *order)
{
    const uint64_t word = load_slot(node, slot);
    const size_t header_bytes =
        level ? sizeof(struct kv_disk_inner_cell) : sizeof(struct kv_disk_leaf_cell);
    const size_t offset = (uint16_t)word + header_bytes;
    const size_t stored_len = (uint16_t)(word >> 16);
    if (offset + stored_len > node_bytes)
        return false;

    const size_t shared = suffix_len < stored_len ? suffix_len : stored_len;
    *order = compare_bytes(suffix, node + offset, shared);
    if (*order == 0)
        *order = (suffix_len > stored_len) - (suffix_len < stored_len);
    return true;
}

/*
 * The first slot from `first` on whose key is >= key. false: the bytes make no sense.
 * Heads decide nearly always; among equal heads the whole keys are compared.
 */
RACY_PIECE bool find_slot(const uint8_t *node, size_t node_bytes, const struct shape *shape,
                          unsigned first, const uint8_t *key, size_t key_len, unsigned *slot,
                          bool *exact)
{
    const size_t prefix = shape->prefix_bytes;
    const size_t shared = key_len < prefix ? key_len : prefix;
    const int prefix_order = compare_bytes(key, node + shape->heap_end, shared);

    *exact = false;
    if (prefix_order != 0 || key_len < prefix) {
        *slot = prefix_order > 0 ? shape->count : first;
        return true;
    }

    const uint8_t *const suffix = key + prefix;
    const size_t suffix_len = key_len - prefix;
    uint32_t head = 0;
    if (suffix_len >= HEAD_BYTES) {
        head = __builtin_bswap32(*(const unaligned_u32 *)suffix);
    } else {
        for (size_t i = 0; i < HEAD_BYTES; i++)
            head = head << 8 | (i < suffix_len ? suffix[i] : 0u);
    }

    unsigned low = find_head(node, first, shape->count, head, false);
    unsigned high = low;
    if (low < shape->count && load_head(node, low) == head) {
        high = low + 1;
        if (high < shape->count && load_head(node, high) == head)
            high = find_head(node, high + 1, shape->count, head, true);
    }
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        int order;
        if (!compare_slot(node, node_bytes, shape->level, middle, suffix, suffix_len, &order))
            return false;
        if (order == 0) {
            *slot = middle;
            *exact = true;
            return true;
        }
        if (order > 0)
            low = middle + 1;
        else
            high = middle;
    }
    *slot = low;
    return true;
}

KV_RACY uint8_t kv_node_level_racy(const void *node)
{
    return *((const volatile uint8_t *)node + offsetof(struct kv_disk_node, level));
}

KV_RACY uint64_t kv_node_child_racy(const void *node, size_t node_bytes, const void *key,
                                    size_t key_len, unsigned *slot)
{
    struct shape shape;
    unsigned found;
    bool exact;
    if (!load_shape(node, node_bytes, &shape) || !shape.level || !shape.count)
        return UINT64_MAX;
    if (!find_slot(node, node_bytes, &shape, 1, key, key_len, &found, &exact))
        return UINT64_MAX;
    found -= exact ? 0 : 1;

    const size_t offset = (uint16_t)load_slot(node, found);
    if (offset + sizeof(struct kv_disk_inner_cell) > node_bytes)
        return UINT64_MAX;
    const uint64_t child = load_u64((const uint8_t *)node + offset);
    if (!child || child > KV_PAGE_ID_MAX)
        return UINT64_MAX;
    *slot = found;
    return child;
}

KV_RACY int kv_node_value_racy(const void *node, size_t node_bytes, const void *key, size_t key_len,
                               void *buf, size_t buf_cap, size_t *value_len, uint8_t *kind)
{
    struct shape shape;
    unsigned slot;
    bool exact;
    if (!load_shape(node, node_bytes, &shape) || shape.level)
        return -EAGAIN;
    if (!find_slot(node, node_bytes, &shape, 0, key, key_len, &slot, &exact))
        return -EAGAIN;
    if (!exact)
        return -ENOENT;

    const uint64_t word = load_slot(node, slot);
    const size_t offset = (uint16_t)word;
    const size_t stored_len = (uint16_t)(word >> 16);
    if (offset + sizeof(struct kv_disk_leaf_cell) > node_bytes)
        return -EAGAIN;
    const uint8_t *const cell = (const uint8_t *)node + offset;
    const size_t length = load_u16(cell + offsetof(struct kv_disk_leaf_cell, value_bytes));
    const size_t value_at = offset + sizeof(struct kv_disk_leaf_cell) + stored_len;
    if (value_at + length > node_bytes)
        return -EAGAIN;

    *kind = *(const volatile uint8_t *)(cell + offsetof(struct kv_disk_leaf_cell, kind));
    *value_len = length;
    copy_bytes(buf, (const uint8_t *)node + value_at, length < buf_cap ? length : buf_cap);
    return 0;
}

KV_RACY bool kv_node_covers_racy(const void *node, size_t node_bytes, const void *key,
                                 size_t key_len)
{
    struct shape shape;
    if (!load_shape(node, node_bytes, &shape))
        return false;
    const uint8_t *const bytes = node;
    const size_t high_len = shape.high_bytes;
    const size_t low_len = node_bytes - shape.heap_end - high_len;
    const size_t low_shared = key_len < low_len ? key_len : low_len;
    const int low_order = compare_bytes(key, bytes + shape.heap_end, low_shared);
    if (low_order < 0 || (low_order == 0 && key_len < low_len))
        return false;
    if (shape.high_infinite)
        return true;
    const size_t high_shared = key_len < high_len ? key_len : high_len;
    const int high_order = compare_bytes(key, bytes + node_bytes - high_len, high_shared);
    return high_order < 0 || (high_order == 0 && key_len < high_len);
}

KV_RACY void kv_node_copy_racy(void *dst, const void *node, size_t node_bytes)
{
    copy_bytes(dst, node, node_bytes);
}

/* ---- reading, node held -------------------------------------------------------- */

unsigned kv_node_count(const void *node)
{
    return kv_le16_get(header_of(node)->slot_count);
}

uint8_t kv_node_level(const void *node)
{
    return header_of(node)->level;
}

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

KV_RACY unsigned kv_node_search(const void *node, size_t node_bytes, const void *key,
                                size_t key_len, bool *exact)
{
    struct shape shape;
    unsigned slot;
    const bool sane = load_shape(node, node_bytes, &shape) &&
                      find_slot(node, node_bytes, &shape, shape.level && shape.count ? 1 : 0, key,
                                key_len, &slot, exact);
    KV_ASSERT(sane);
    return slot;
}

unsigned kv_node_child_slot(const void *node, size_t node_bytes, const void *key, size_t key_len)
{
    KV_ASSERT(kv_node_level(node) > 0);
    KV_ASSERT(kv_node_count(node) > 0);
    bool exact;
    const unsigned slot = kv_node_search(node, node_bytes, key, key_len, &exact);
    return exact ? slot : slot - 1;
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
    memcpy(key, prefix_of(node, node_bytes), prefix);
    memcpy(key + prefix, suffix_of(node, slot), suffix_len);
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
    memmove(place + 1, place, SLOT_BYTES * (count - slot));
    place->offset = kv_le16_of((uint16_t)at);
    place->key_bytes = kv_le16_of((uint16_t)suffix_len);
    place->head = kv_le32_of(head_of(suffix, suffix_len));
    header->heap_start = kv_le32_of((uint32_t)at);
    header->slot_count = kv_le16_of((uint16_t)(count + 1));

    uint8_t *const cell = (uint8_t *)node + at;
    if (suffix_len)
        memcpy(cell + cell_header_bytes(header->level), suffix, suffix_len);
    return cell;
}

/* A leaf cell from the key's part after the prefix; the hint is not touched. */
static bool add_leaf_cell(void *node, size_t node_bytes, unsigned slot, const uint8_t *suffix,
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
    if (value.length)
        memcpy(cell + fixed, value.data, value.length);
    return true;
}

static bool add_inner_cell(void *node, size_t node_bytes, unsigned slot, const uint8_t *suffix,
                           size_t suffix_len, uint64_t child, uint8_t *scratch)
{
    uint8_t *const cell = open_cell(node, node_bytes, slot, suffix, suffix_len,
                                    sizeof(struct kv_disk_inner_cell) + suffix_len, scratch);
    if (!cell)
        return false;
    ((struct kv_disk_inner_cell *)(void *)cell)->child = kv_le64_of(child);
    return true;
}

static void set_hint(void *node, unsigned next_slot)
{
    struct kv_disk_node *const header = node;
    header->last_insert = kv_le16_of((uint16_t)next_slot);
}

static unsigned hint_of(const void *node)
{
    return kv_le16_get(header_of(node)->last_insert);
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

bool kv_node_insert(void *node, size_t node_bytes, unsigned slot, const void *key, size_t key_len,
                    uint8_t kind, struct kv_bytes value, void *scratch)
{
    const size_t prefix = prefix_bytes_of(node);
    KV_ASSERT(kv_node_level(node) == 0);
    KV_ASSERT(slot <= kv_node_count(node));
    KV_ASSERT(key_len >= prefix);
    KV_ASSERT(key_len <= KV_KEY_MAX);

    if (!add_leaf_cell(node, node_bytes, slot, (const uint8_t *)key + prefix, key_len - prefix,
                       kind, value, scratch))
        return false;
    set_hint(node, slot + 1);
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
        if (value.length)
            memcpy(cell + sizeof *cell_header + suffix_len, value.data, value.length);
        header->garbage_bytes = kv_le32_of(garbage + (uint32_t)(old_length - value.length));
        return true;
    }
    if (value.length - old_length > free_between(node) + garbage)
        return false;

    uint8_t suffix[KV_KEY_MAX];
    memcpy(suffix, suffix_of(node, slot), suffix_len);
    drop_cell(node, node_bytes, slot);
    const bool fits =
        add_leaf_cell(node, node_bytes, slot, suffix, suffix_len, kind, value, scratch);
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
    if (!add_inner_cell(node, node_bytes, slot, suffix, key_len - skip, child, scratch))
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

/* ---- splitting ---------------------------------------------------------------- */

/* What the cells of [first, end) take, with their slots. */
static size_t range_bytes(const void *node, unsigned first, unsigned end)
{
    size_t sum = 0;
    for (unsigned slot = first; slot < end; slot++)
        sum += cell_bytes_of(node, slot) + SLOT_BYTES;
    return sum;
}

/*
 * A node about to be split before slot `at`: what the two sides will hold, each with the
 * old fence that it keeps, without the separator and the new cell.
 */
struct sides {
    size_t left, right;
};

static struct sides sides_at(const void *node, unsigned at)
{
    const struct kv_disk_node *const header = node;
    return (struct sides){
        kv_le16_get(header->low_bytes) + range_bytes(node, 0, at),
        kv_le16_get(header->high_bytes) + range_bytes(node, at, kv_node_count(node)),
    };
}

/*
 * Does a new key at slot `at_new` go to the right of a split before `at`? A new key just at
 * the split of a leaf goes where less is; a key that is to become the separator of an inner
 * node is an old one, so that a new one just before it stays left.
 */
static bool new_goes_right(const void *node, unsigned at, unsigned at_new, struct sides sides)
{
    if (at_new != at)
        return at_new > at;
    return kv_node_level(node) == 0 && sides.left >= sides.right;
}

/* The longest that the separator of a split before `at` can be, the new key being unknown. */
static size_t separator_bound(const void *node, unsigned at, unsigned at_new, bool goes_right)
{
    const size_t prefix = prefix_bytes_of(node);
    size_t bound;
    if (kv_node_level(node) || (at == at_new && !goes_right)) {
        bound = prefix + suffix_bytes(node, at);
    } else if (at == at_new) {
        bound = prefix + suffix_bytes(node, at - 1) + 1;
    } else {
        bound = prefix + 1 +
                common_bytes(suffix_of(node, at - 1), suffix_bytes(node, at - 1),
                             suffix_of(node, at), suffix_bytes(node, at));
    }
    return kv_min_u64(bound, KV_KEY_MAX);
}

/* Bytes of the fuller side after splitting before `at` and inserting; SIZE_MAX: does not fit. */
static size_t split_load(const void *node, size_t node_bytes, unsigned at, unsigned slot,
                         size_t new_bytes, struct sides sides)
{
    const bool goes_right = new_goes_right(node, at, slot, sides);
    const bool left_empty = at == 0 && (slot != 0 || goes_right);
    const bool right_empty =
        at == kv_node_count(node) && (slot != at || !goes_right || kv_node_level(node));
    if (left_empty || right_empty || (kv_node_level(node) && at == 0))
        return SIZE_MAX;

    const size_t left = sides.left + (goes_right ? 0 : new_bytes);
    const size_t right = sides.right + (goes_right ? new_bytes : 0);
    const size_t fuller = kv_max_u64(left, right);
    const size_t separator = separator_bound(node, at, slot, goes_right);
    return fuller + separator <= node_bytes - HEADER_BYTES ? fuller : SIZE_MAX;
}

/* Where to cut so that a run of ascending insertions leaves full pages behind; 0 if nowhere. */
static unsigned run_split_point(const void *node, size_t node_bytes, unsigned slot)
{
    const unsigned count = kv_node_count(node);
    const struct sides sides = sides_at(node, slot);

    /* Of an inner node the new key can not be the separator; the one before it can. */
    if (sides.right <= node_bytes / 8 || slot + 1 >= count)
        return kv_node_level(node) ? slot - 1 : slot;
    /*
     * Much follows the run: let it go, but for one cell. The run then fills this page, and
     * at its end the case above holds. When more than half follows, the middle is as good.
     */
    return sides.right <= node_bytes / 2 ? slot + 1 : 0;
}

unsigned kv_node_split_point(const void *node, size_t node_bytes, unsigned slot, size_t cell_bytes)
{
    const unsigned count = kv_node_count(node);
    const size_t new_bytes = cell_bytes + SLOT_BYTES;
    KV_ASSERT(slot <= count);

    if (slot == hint_of(node) && slot >= RUN_SLOTS_MIN) {
        /* A page that is full to the brim has no room for a longer fence: give cells away. */
        unsigned at = run_split_point(node, node_bytes, slot);
        for (; at > slot / 2; at--)
            if (split_load(node, node_bytes, at, slot, new_bytes, sides_at(node, at)) != SIZE_MAX)
                return at;
    }

    struct sides sides = sides_at(node, 0);
    unsigned best = count;
    size_t best_load = SIZE_MAX;
    for (unsigned at = 0; at <= count; at++) {
        const size_t load = split_load(node, node_bytes, at, slot, new_bytes, sides);
        if (load < best_load) {
            best = at;
            best_load = load;
        }
        if (at < count) {
            const size_t moved = cell_bytes_of(node, at) + SLOT_BYTES;
            sides.left += moved;
            sides.right -= moved;
        }
    }
    KV_ASSERT(best_load != SIZE_MAX);
    return best;
}

unsigned kv_node_split_point_grow(const void *node, size_t node_bytes, unsigned slot,
                                  size_t cell_bytes)
{
    const unsigned count = kv_node_count(node);
    KV_ASSERT(slot < count);
    KV_ASSERT(count >= 2);
    if (slot + 1 == hint_of(node) && slot >= RUN_SLOTS_MIN) {
        const size_t behind = sides_at(node, slot + 1).right;
        if (behind <= node_bytes / 8)
            return slot;
        if (behind <= node_bytes / 2)
            return slot + 1 < count ? slot + 1 : slot;
    }
    const unsigned at = kv_node_split_point(node, node_bytes, slot, cell_bytes);
    return at < 1 ? 1 : at > count - 1 ? count - 1 : at;
}

size_t kv_node_separator(const void *node, size_t node_bytes, unsigned at, struct kv_bytes key,
                         unsigned at_new, void *out)
{
    const unsigned count = kv_node_count(node);
    KV_ASSERT(at <= count);
    if (kv_node_level(node)) {
        KV_ASSERT(at >= 1);
        KV_ASSERT(at < count);
        return kv_node_key(node, node_bytes, at, out);
    }

    bool is_last_left = false;
    bool is_first_right = false;
    if (key.data && at_new == at) {
        is_first_right = new_goes_right(node, at, at_new, sides_at(node, at));
        is_last_left = !is_first_right;
    }

    uint8_t last_left[KV_KEY_MAX];
    struct kv_bytes left = key;
    if (!is_last_left) {
        KV_ASSERT(at > 0);
        left = (struct kv_bytes){last_left, kv_node_key(node, node_bytes, at - 1, last_left)};
    }
    uint8_t first_right[KV_KEY_MAX];
    struct kv_bytes right = key;
    if (!is_first_right) {
        KV_ASSERT(at < count);
        right = (struct kv_bytes){first_right, kv_node_key(node, node_bytes, at, first_right)};
    }

    const size_t common = common_bytes(left.data, left.length, right.data, right.length);
    KV_ASSERT(common < right.length);
    memcpy(out, right.data, common + 1);
    return common + 1;
}

/*
 * Append slots [first, end) of `from` to `to`, whose prefix may be longer or shorter.
 * Slot 0 of an inner `from` gets its low fence as a key, unless it becomes slot 0 again.
 */
static void append_slots(void *to, const void *from, size_t node_bytes, unsigned first,
                         unsigned end)
{
    const size_t prefix = prefix_bytes_of(to);
    for (unsigned slot = first; slot < end; slot++) {
        uint8_t key[KV_KEY_MAX];
        const size_t key_len = kv_node_key(from, node_bytes, slot, key);
        const unsigned at = kv_node_count(to);
        bool fits;
        KV_ASSERT(key_len >= prefix);
        if (kv_node_level(from)) {
            const size_t skip = at == 0 ? key_len : prefix;
            fits = add_inner_cell(to, node_bytes, at, key + skip, key_len - skip,
                                  kv_node_child(from, slot), NULL);
        } else {
            uint8_t kind;
            const struct kv_bytes value = kv_node_value(from, slot, &kind);
            fits = add_leaf_cell(to, node_bytes, at, key + prefix, key_len - prefix, kind, value,
                                 NULL);
        }
        KV_ASSERT(fits);
    }
}

/* An empty node of the same kind as `like`, with other fences. */
static void init_like(void *node, size_t node_bytes, const void *like, uint64_t page_id,
                      struct kv_bytes low, struct kv_bytes high)
{
    const struct kv_disk_node *const model = like;
    kv_node_init(node, node_bytes, page_id, model->tree, model->level, low, high);
    ((struct kv_disk_node *)node)->epoch = model->epoch;
}

void kv_node_split(void *node, size_t node_bytes, unsigned at, struct kv_bytes separator,
                   void *right, uint64_t right_id, void *scratch)
{
    const unsigned count = kv_node_count(node);
    const unsigned hint = hint_of(node);
    KV_ASSERT(at <= count);

    init_like(right, node_bytes, node, right_id, separator, kv_node_high(node, node_bytes));
    append_slots(right, node, node_bytes, at + (KV_PLANT(split_loses_key) && at < count), count);
    set_hint(right, hint > at ? hint - at : 0);

    init_like(scratch, node_bytes, node, kv_le64_get(header_of(node)->page_id),
              kv_node_low(node, node_bytes), separator);
    append_slots(scratch, node, node_bytes, 0, at);
    set_hint(scratch, hint <= at ? hint : 0);
    memcpy(node, scratch, node_bytes);

    KV_ASSERT_SLOW(kv_node_validate(right, node_bytes, right_id) == 0);
}

/* ---- merging ------------------------------------------------------------------ */

/* What the cells of `node` take, slots included, when its keys lose only `prefix` bytes. */
static size_t cells_with_prefix(const void *node, size_t prefix)
{
    const unsigned count = kv_node_count(node);
    const unsigned keyed = kv_node_level(node) && count ? count - 1 : count;
    const size_t longer = prefix_bytes_of(node) - prefix;
    return range_bytes(node, 0, count) + keyed * longer;
}

bool kv_node_can_merge(const void *left, const void *right, size_t node_bytes, unsigned percent)
{
    const struct kv_bytes low = kv_node_low(left, node_bytes);
    const struct kv_bytes high = kv_node_high(right, node_bytes);
    const size_t prefix = prefix_between(low, high);
    size_t bytes = HEADER_BYTES + low.length + high.length + cells_with_prefix(left, prefix) +
                   cells_with_prefix(right, prefix);
    if (kv_node_level(right))
        bytes += kv_node_low(right, node_bytes).length - prefix;
    return bytes <= node_bytes * percent / 100;
}

void kv_node_merge(void *left, const void *right, size_t node_bytes, void *scratch)
{
    const unsigned left_count = kv_node_count(left);
    const unsigned left_hint = hint_of(left);
    const unsigned right_hint = hint_of(right);
    KV_ASSERT(kv_node_level(left) == kv_node_level(right));

    init_like(scratch, node_bytes, left, kv_le64_get(header_of(left)->page_id),
              kv_node_low(left, node_bytes),
              kv_node_high(KV_PLANT(merge_keeps_old_fence) ? left : right, node_bytes));
    append_slots(scratch, left, node_bytes, 0, left_count);
    append_slots(scratch, right, node_bytes, 0, kv_node_count(right));
    set_hint(scratch, right_hint ? left_count + right_hint : left_hint);
    memcpy(left, scratch, node_bytes);

    KV_ASSERT_SLOW(kv_node_validate(left, node_bytes, kv_le64_get(header_of(left)->page_id)) == 0);
}
