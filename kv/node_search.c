/*
 * kv/node_search.c: find a key in a node, also while another thread changes the node.
 *
 * Owns       nothing: every function looks at the caller's node_bytes of memory.
 * Invariant  a racy function takes each number from the node exactly once, bounds it, and only
 *            then uses it as an offset; so a torn or damaged node gives a wrong answer, never a
 *            wrong access.
 * Locks      none. Who holds the node, and so needs no version, searches it with the same code.
 */
#include "kv/node_layout.h"

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

/* The racy readers take header fields and slots as whole words. */
static_assert(offsetof(struct kv_disk_node, level) == 4, "read alone");
static_assert(offsetof(struct kv_disk_node, slot_count) == 6, "read alone");
static_assert(offsetof(struct kv_disk_node, low_bytes) == 32, "read with the next three");
static_assert(offsetof(struct kv_disk_node, high_bytes) == 34, "read with low_bytes");
static_assert(offsetof(struct kv_disk_node, prefix_bytes) == 36, "read with low_bytes");
static_assert(offsetof(struct kv_disk_slot, head) == 4, "a slot is read as one word");

RACY_PIECE uint16_t load_u16(const uint8_t *at)
{
    return *(const volatile unaligned_u16 *)at;
}

RACY_PIECE uint32_t load_u32(const uint8_t *at)
{
    return *(const volatile unaligned_u32 *)at;
}

RACY_PIECE uint64_t load_u64(const uint8_t *at)
{
    return *(const volatile unaligned_u64 *)at;
}

#define LONG_BYTES 1024u /* from here on it pays to let the processor choose how to copy */

RACY_PIECE void copy_bytes(uint8_t *dst, const uint8_t *src, size_t length)
{
#if defined(__x86_64__)
    if (length >= LONG_BYTES) {
        __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(length) : : "memory");
        return;
    }
#endif
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
    for (; length - i >= 16; i += 16)
        *(unaligned_pair *)(dst + i) = *(const volatile unaligned_pair *)(src + i);
    if (i < length && length >= 16) { /* the last sixteen, some of them once more */
        *(unaligned_pair *)(dst + length - 16) =
            *(const volatile unaligned_pair *)(src + length - 16);
        return;
    }
    for (; length - i >= 8; i += 8)
        *(unaligned_u64 *)(dst + i) = load_u64(src + i);
    for (; i < length; i++)
        dst[i] = ((const volatile uint8_t *)src)[i];
}

/* The order of `length` bytes, at most 8, of the caller's key and of the node's. */
RACY_PIECE int compare_few(const uint8_t *key, const uint8_t *stored, size_t length)
{
    if (length >= 4) { /* the first four and the last four, which may overlap */
        const size_t rest = length - 4;
        const uint64_t a = (uint64_t) * (const unaligned_u32 *)key |
                           (uint64_t) * (const unaligned_u32 *)(key + rest) << 32;
        const uint64_t b = load_u32(stored) | (uint64_t)load_u32(stored + rest) << 32;
        const uint32_t a_first = __builtin_bswap32((uint32_t)a);
        const uint32_t b_first = __builtin_bswap32((uint32_t)b);
        const uint32_t a_last = __builtin_bswap32((uint32_t)(a >> 32));
        const uint32_t b_last = __builtin_bswap32((uint32_t)(b >> 32));
        if (a_first != b_first)
            return a_first < b_first ? -1 : 1;
        return (a_last > b_last) - (a_last < b_last);
    }
    for (size_t i = 0; i < length; i++) {
        const uint8_t b = ((const volatile uint8_t *)stored)[i];
        if (key[i] != b)
            return key[i] < b ? -1 : 1;
    }
    return 0;
}

/* The order of `length` bytes of the caller's key and of the node's. */
RACY_PIECE int compare_bytes(const uint8_t *key, const uint8_t *stored, size_t length)
{
    if (length < 8)
        return compare_few(key, stored, length);
    for (size_t i = 0;; i = i + 16 <= length ? i + 8 : length - 8) {
        /* The last eight may begin before what was compared ends. */
        const uint64_t a = *(const unaligned_u64 *)(key + i);
        const uint64_t b = load_u64(stored + i);
        if (a != b)
            return __builtin_bswap64(a) < __builtin_bswap64(b) ? -1 : 1;
        if (i + 8 == length)
            return 0;
    }
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

#define HEAD_AT        offsetof(struct kv_disk_slot, head)
#define SLOTS_PER_LINE (64 / SLOT_BYTES)

RACY_PIECE uint32_t load_head(const uint8_t *node, unsigned slot)
{
    return load_u32(node + HEADER_BYTES + SLOT_BYTES * slot + HEAD_AT);
}

/*
 * The first slot in [first, end) whose head is not below `head` (or, `above`: is above it).
 * `fetch`: nobody asked for the slots' lines yet.
 */
RACY_PIECE unsigned find_head(const uint8_t *node, unsigned first, unsigned end, uint32_t head,
                              bool above, bool fetch)
{
    const uint8_t *const slots = node + HEADER_BYTES;
    const uint8_t *at = slots + SLOT_BYTES * first;
    size_t length = end - first;
    while (length > 1) {
        /* Both places where the next step may look: it need not wait for this one. */
        const size_t half = length / 2;
        if (fetch && length > 2 * SLOTS_PER_LINE) {
            __builtin_prefetch(at + SLOT_BYTES * (half / 2));
            __builtin_prefetch(at + SLOT_BYTES * (half + half / 2));
        }
        const uint8_t *const right = at + SLOT_BYTES * half;
        const uint32_t middle = load_u32(right - SLOT_BYTES + HEAD_AT);
        at = (above ? middle <= head : middle < head) ? right : at;
        length -= half;
    }
    const unsigned slot = (unsigned)((size_t)(at - slots) / SLOT_BYTES);
    if (!length)
        return slot;
    const uint32_t last = load_u32(at + HEAD_AT);
    return slot + (above ? last <= head : last < head);
}

/* The first bytes of the caller's key as a number, as slots hold them. */
RACY_PIECE uint32_t key_head(const uint8_t *suffix, size_t suffix_len)
{
    if (suffix_len >= HEAD_BYTES)
        return __builtin_bswap32(*(const unaligned_u32 *)suffix);
    uint32_t head = 0;
    for (size_t i = 0; i < HEAD_BYTES; i++)
        head = head << 8 | (i < suffix_len ? suffix[i] : 0u);
    return head;
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

#define FEW_CELLS 4u

/* A leaf of few cells has long ones: ask for all of one while its key is still to be compared. */
RACY_PIECE void fetch_long_cell(const uint8_t *node, size_t node_bytes, const struct shape *shape,
                                unsigned slot)
{
    if (shape->level || shape->count > FEW_CELLS)
        return;
    const uint8_t *const cell = node + (uint16_t)load_slot(node, slot);
    for (size_t at = 0; at < node_bytes / FEW_CELLS; at += 64)
        __builtin_prefetch(cell + at);
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
    const uint32_t head = key_head(suffix, suffix_len);

    /* Who comes to a leaf has asked for its slots (kv_node_fetch_leaf). */
    unsigned low = shape->level ? find_head(node, first, shape->count, head, false, true)
                                : find_head(node, first, shape->count, head, false, false);
    unsigned high = low;
    if (low < shape->count && load_head(node, low) == head) {
        fetch_long_cell(node, node_bytes, shape, low);
        high = low + 1;
        if (high < shape->count && load_head(node, high) == head)
            high = find_head(node, high + 1, shape->count, head, true, false);
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

KV_RACY bool kv_node_is_leaf_of_racy(const void *node, uint8_t tree)
{
    const uint8_t *const bytes = node;
    return load_u32(bytes) == KV_NODE_MAGIC && kv_node_level_racy(node) == 0 &&
           *(const volatile uint8_t *)(bytes + offsetof(struct kv_disk_node, tree)) == tree;
}

KV_RACY size_t kv_node_room_racy(const void *node, size_t node_bytes)
{
    const uint8_t *const bytes = node;
    const size_t heap_start = load_u32(bytes + offsetof(struct kv_disk_node, heap_start));
    const size_t garbage = load_u32(bytes + offsetof(struct kv_disk_node, garbage_bytes));
    const size_t slots = load_u16(bytes + offsetof(struct kv_disk_node, slot_count));
    const size_t used = HEADER_BYTES + SLOT_BYTES * slots;
    return used > heap_start || heap_start > node_bytes || garbage > node_bytes
               ? 0
               : heap_start - used + garbage;
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

/* A small value may begin anywhere in a line, and its end in the next but one. */
#define FETCH_LINES 3u

KV_RACY void kv_node_fetch_heap_racy(const void *node, size_t node_bytes)
{
    const uint8_t *const bytes = node;
    const size_t heap_start = load_u32(bytes + offsetof(struct kv_disk_node, heap_start));
    if (heap_start < HEADER_BYTES + FETCH_LINES * 64 || heap_start > node_bytes)
        return;
    for (unsigned line = 0; line < FETCH_LINES; line++)
        __builtin_prefetch(bytes + heap_start - 64 * line - 1, 1);
}

KV_RACY unsigned kv_node_fetch_cell_racy(const void *node, size_t node_bytes, const void *key,
                                         size_t key_len)
{
    struct shape shape;
    if (!load_shape(node, node_bytes, &shape) || shape.level || key_len < shape.prefix_bytes)
        return KV_SLOT_NONE;
    const uint8_t *const suffix = (const uint8_t *)key + shape.prefix_bytes;
    const uint32_t head = key_head(suffix, key_len - shape.prefix_bytes);
    const unsigned slot = find_head(node, 0, shape.count, head, false, false);
    if (slot >= shape.count)
        return KV_SLOT_NONE;
    const uint8_t *const cell = (const uint8_t *)node + (uint16_t)load_slot(node, slot);
    for (unsigned line = 0; line < FETCH_LINES; line++)
        __builtin_prefetch(cell + 64 * line);
    return slot;
}

#define FETCH_FROM 256u /* what is nearer comes as soon; and fetch_long_cell was there before */

/* Copy the value in a leaf's slot. */
RACY_PIECE int copy_value(const uint8_t *node, size_t node_bytes, unsigned slot, uint8_t *buf,
                          size_t buf_cap, size_t *value_len, uint8_t *kind)
{
    const uint64_t word = load_slot(node, slot);
    const size_t offset = (uint16_t)word;
    const size_t stored_len = (uint16_t)(word >> 16);
    if (offset + sizeof(struct kv_disk_leaf_cell) > node_bytes)
        return -EAGAIN;
    const uint8_t *const cell = node + offset;
    const size_t length = load_u16(cell + offsetof(struct kv_disk_leaf_cell, value_bytes));
    const size_t value_at = offset + sizeof(struct kv_disk_leaf_cell) + stored_len;
    if (value_at + length > node_bytes)
        return -EAGAIN;

    *kind = *(const volatile uint8_t *)(cell + offsetof(struct kv_disk_leaf_cell, kind));
    *value_len = length;
    /* The processor itself looks ahead in one page of memory at a time, and begins late. */
    for (size_t at = FETCH_FROM; at < length && length < LONG_BYTES; at += 64)
        __builtin_prefetch(node + value_at + at);
    copy_bytes(buf, node + value_at, length < buf_cap ? length : buf_cap);
    return 0;
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

    return copy_value(node, node_bytes, slot, buf, buf_cap, value_len, kind);
}

KV_RACY bool kv_node_value_at_racy(const void *node, size_t node_bytes, unsigned slot,
                                   const void *key, size_t key_len, void *buf, size_t buf_cap,
                                   size_t *value_len, uint8_t *kind)
{
    struct shape shape;
    int order;
    if (!load_shape(node, node_bytes, &shape) || shape.level || slot >= shape.count)
        return false;
    const size_t prefix = shape.prefix_bytes;
    return key_len >= prefix &&
           !compare_bytes(key, (const uint8_t *)node + shape.heap_end, prefix) &&
           compare_slot(node, node_bytes, 0, slot, (const uint8_t *)key + prefix, key_len - prefix,
                        &order) &&
           !order && !copy_value(node, node_bytes, slot, buf, buf_cap, value_len, kind);
}

KV_RACY int kv_node_floor_racy(const void *node, size_t node_bytes, const void *key, size_t key_len,
                               void *found, size_t *found_len, void *buf, size_t buf_cap,
                               size_t *value_len, uint8_t *kind)
{
    struct shape shape;
    unsigned slot;
    bool exact;
    if (!load_shape(node, node_bytes, &shape) || shape.level)
        return -EAGAIN;
    if (!find_slot(node, node_bytes, &shape, 0, key, key_len, &slot, &exact))
        return -EAGAIN;
    if (!exact && slot == 0)
        return -ENOENT;
    slot -= exact ? 0 : 1;

    const uint8_t *const bytes = node;
    const uint64_t word = load_slot(node, slot);
    const size_t suffix_at = (uint16_t)word + sizeof(struct kv_disk_leaf_cell);
    const size_t suffix_len = (uint16_t)(word >> 16);
    if (suffix_at + suffix_len > node_bytes || shape.prefix_bytes + suffix_len > KV_KEY_MAX)
        return -EAGAIN;
    copy_bytes(found, bytes + shape.heap_end, shape.prefix_bytes);
    copy_bytes((uint8_t *)found + shape.prefix_bytes, bytes + suffix_at, suffix_len);
    *found_len = shape.prefix_bytes + suffix_len;
    return copy_value(node, node_bytes, slot, buf, buf_cap, value_len, kind);
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

KV_RACY bool kv_node_high_racy(const void *node, size_t node_bytes, void *fence, size_t *length)
{
    struct shape shape;
    *length = 0;
    if (!load_shape(node, node_bytes, &shape) || shape.high_infinite ||
        shape.high_bytes > KV_KEY_MAX)
        return false;
    *length = shape.high_bytes;
    copy_bytes(fence, (const uint8_t *)node + node_bytes - *length, *length);
    return true;
}

KV_RACY bool kv_node_low_racy(const void *node, size_t node_bytes, void *fence, size_t *length)
{
    struct shape shape;
    *length = 0;
    if (!load_shape(node, node_bytes, &shape))
        return false;
    const size_t low_len = node_bytes - shape.heap_end - shape.high_bytes;
    if (low_len > KV_KEY_MAX)
        return false;
    *length = low_len;
    copy_bytes(fence, (const uint8_t *)node + shape.heap_end, low_len);
    return true;
}

KV_RACY void kv_node_copy_racy(void *dst, const void *node, size_t node_bytes)
{
    copy_bytes(dst, node, node_bytes);
}

/* ---- the same, node held -------------------------------------------------------- */

/*
 * Does the key go behind the one that was inserted last, and before the next? So it is where keys
 * come in order. In a leaf; both the key and the slots have the prefix.
 */
RACY_PIECE bool continues_run(const uint8_t *node, size_t node_bytes, const struct shape *shape,
                              const uint8_t *suffix, size_t suffix_len, unsigned *slot)
{
    const unsigned next = load_u16(node + offsetof(struct kv_disk_node, last_insert));
    if (!next || next > shape->count)
        return false;
    const uint32_t head = key_head(suffix, suffix_len);
    int order = 1;
    if (load_head(node, next - 1) > head || (next < shape->count && load_head(node, next) < head) ||
        !compare_slot(node, node_bytes, 0, next - 1, suffix, suffix_len, &order) || order <= 0)
        return false;
    if (next < shape->count &&
        (!compare_slot(node, node_bytes, 0, next, suffix, suffix_len, &order) || order >= 0))
        return false;
    *slot = next;
    return true;
}

KV_RACY unsigned kv_node_search(const void *node, size_t node_bytes, const void *key,
                                size_t key_len, bool *exact)
{
    struct shape shape;
    unsigned slot;
    bool sane = load_shape(node, node_bytes, &shape);
    if (sane && !shape.level && key_len > shape.prefix_bytes &&
        !compare_bytes(key, (const uint8_t *)node + shape.heap_end, shape.prefix_bytes) &&
        continues_run(node, node_bytes, &shape, (const uint8_t *)key + shape.prefix_bytes,
                      key_len - shape.prefix_bytes, &slot)) {
        *exact = false;
        return slot;
    }
    sane = sane && find_slot(node, node_bytes, &shape, shape.level && shape.count ? 1 : 0, key,
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
