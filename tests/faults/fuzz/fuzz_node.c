/*
 * tests/faults/fuzz/fuzz_node.c: the bytes of one page (kv/node.h).
 *
 * Input      shape(1) seed of the base node(1), then patches offset(2) length(1) bytes until
 *            a length of 0, then operations.
 * Checked    the racy readers and kv_node_restore on whatever bytes there are; kv_node_validate on
 *            the same; and
 *            on what it lets pass, every function that changes nodes, each of which must
 *            leave a node that is valid again.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "kv/node.h"

#define NODE_BYTES KV_NODE_BYTES_MIN
#define PAGE_ID    77u
#define RIGHT_ID   78u

/* Each of its own memory, so that a byte too far is seen. */
struct nodes {
    uint8_t *node, *right, *scratch, *copy;
    uint8_t key[KV_KEY_MAX];
};

/* ---- base nodes ---------------------------------------------------------------- */

enum shape { SHAPE_INNER = 1, SHAPE_HIGH = 2, SHAPE_LONG = 4, SHAPE_COUNT = 8 };
#define SEED_COUNT 128u

static size_t base_key(uint8_t key[KV_KEY_MAX], unsigned shape, unsigned number)
{
    const size_t pad = shape & SHAPE_LONG ? 200 : 6;
    memset(key, 'k', pad);
    return pad + (size_t)snprintf((char *)key + pad, 16, "%04u", number);
}

static void build_node(uint8_t *node, uint8_t *scratch, unsigned shape, unsigned seed)
{
    uint8_t low[KV_KEY_MAX], high[KV_KEY_MAX], key[KV_KEY_MAX], value[64];
    const size_t low_len = base_key(low, shape, 0);
    const size_t high_len = base_key(high, shape, 9999);
    const bool inner = shape & SHAPE_INNER;
    const struct kv_bytes none = {0};
    kv_node_init(node, NODE_BYTES, PAGE_ID, 0, inner ? 1 : 0, (struct kv_bytes){low, low_len},
                 shape & SHAPE_HIGH ? (struct kv_bytes){high, high_len} : none);
    memset(value, 0x5a, sizeof value);
    for (unsigned i = 0; i < 12 + seed % 64; i++) {
        const size_t key_len = base_key(key, shape, 10 + i * 7);
        const size_t value_len = (i * 13 + seed) % sizeof value;
        const uint8_t kind = value_len >= 40 && seed & 64 ? KV_VALUE_REF : KV_VALUE_INLINE;
        const bool fits =
            inner ? kv_node_insert_child(node, NODE_BYTES, i, key, key_len, 100 + i, scratch)
                  : kv_node_insert(node, NODE_BYTES, i, key, key_len, kind,
                                   (struct kv_bytes){value, value_len}, scratch);
        if (!fits)
            break;
    }
}

/* Making one takes longer than all that is done with it: each is made once. */
static void copy_base(uint8_t *node, uint8_t *scratch, unsigned shape, unsigned seed)
{
    static uint8_t *bases[SHAPE_COUNT][SEED_COUNT];
    uint8_t **const base = &bases[shape % SHAPE_COUNT][seed % SEED_COUNT];
    if (!*base) {
        *base = malloc(NODE_BYTES);
        KV_ASSERT(*base);
        build_node(*base, scratch, shape % SHAPE_COUNT, seed % SEED_COUNT);
    }
    memcpy(node, *base, NODE_BYTES);
}

static void patch_node(uint8_t *node, struct fuzz_input *input)
{
    for (;;) {
        const size_t at = fuzz_u16(input) % NODE_BYTES;
        size_t length = fuzz_u8(input);
        if (!length)
            return;
        length = kv_min_u64(length, NODE_BYTES - at);
        fuzz_take(input, node + at, length);
    }
}

/* What an author who wants to be believed puts right: the heads of slots, the sum of holes. */
static void make_plausible(uint8_t *node)
{
    struct kv_disk_node header;
    memcpy(&header, node, sizeof header);
    const size_t cell_header =
        header.level ? sizeof(struct kv_disk_inner_cell) : sizeof(struct kv_disk_leaf_cell);
    const size_t fences = kv_le16_get(header.low_bytes) + (size_t)kv_le16_get(header.high_bytes);
    const size_t count = kv_le16_get(header.slot_count);
    size_t used = 0;
    for (size_t i = 0;
         i < count && sizeof header + (i + 1) * sizeof(struct kv_disk_slot) <= NODE_BYTES; i++) {
        struct kv_disk_slot slot;
        uint8_t *const place = node + sizeof header + i * sizeof slot;
        memcpy(&slot, place, sizeof slot);
        const size_t offset = kv_le16_get(slot.offset);
        const size_t key_len = kv_le16_get(slot.key_bytes);
        if (offset + cell_header + key_len > NODE_BYTES)
            continue;
        uint8_t head[4] = {0};
        memcpy(head, node + offset + cell_header, key_len < 4 ? key_len : 4);
        uint32_t big;
        memcpy(&big, head, sizeof big);
        slot.head = kv_le32_of(__builtin_bswap32(big));
        memcpy(place, &slot, sizeof slot);
        used += cell_header + key_len;
        if (!header.level) {
            kv_le16 value_bytes;
            memcpy(&value_bytes, node + offset, sizeof value_bytes);
            used += kv_le16_get(value_bytes);
        }
    }
    const size_t heap = NODE_BYTES - fences - kv_le32_get(header.heap_start);
    header.garbage_bytes = kv_le32_of((uint32_t)(heap - used));
    memcpy(node, &header, sizeof header);
}

/* ---- reading what may be anything ------------------------------------------------ */

static void read_racy(struct nodes *nodes, size_t key_len)
{
    uint8_t value[64];
    size_t value_len = 0;
    uint8_t kind = 0;
    unsigned slot = 0;
    (void)kv_node_level_racy(nodes->node);
    const uint64_t child = kv_node_child_racy(nodes->node, NODE_BYTES, nodes->key, key_len, &slot);
    KV_ASSERT(child == UINT64_MAX || child <= KV_PAGE_ID_MAX);
    const int err = kv_node_value_racy(nodes->node, NODE_BYTES, nodes->key, key_len, value,
                                       sizeof value, &value_len, &kind);
    KV_ASSERT(err == 0 || err == -ENOENT || err == -EAGAIN);
    KV_ASSERT(err || value_len < NODE_BYTES);
    kv_node_copy_racy(nodes->copy, nodes->node, NODE_BYTES);
}

/* ---- changing what is valid ------------------------------------------------------- */

static bool valid(const uint8_t *node, uint64_t page_id)
{
    return kv_node_validate(node, NODE_BYTES, page_id) == 0;
}

static bool covers(const uint8_t *node, const uint8_t *key, size_t key_len)
{
    const struct kv_bytes low = kv_node_low(node, NODE_BYTES);
    const struct kv_bytes high = kv_node_high(node, NODE_BYTES);
    return kv_key_compare(key, key_len, low.data, low.length) >= 0 &&
           (!high.data || kv_key_compare(key, key_len, high.data, high.length) < 0);
}

/* A key inside the fences: the low one and some bytes, or one of the node's with a change. */
static size_t choose_key(struct nodes *nodes, struct fuzz_input *input)
{
    const uint8_t how = fuzz_u8(input);
    const unsigned count = kv_node_count(nodes->node);
    size_t length;
    if ((how & 1) && count) {
        length = kv_node_key(nodes->node, NODE_BYTES, fuzz_u8(input) % count, nodes->key);
    } else {
        const struct kv_bytes low = kv_node_low(nodes->node, NODE_BYTES);
        length = low.length;
        if (length)
            memcpy(nodes->key, low.data, length);
    }
    struct fuzz_input more = fuzz_part(input, how >> 4);
    const size_t room = KV_KEY_MAX - length;
    const size_t added = more.left < room ? more.left : room;
    fuzz_take(&more, nodes->key + length, added);
    length += added;
    if ((how & 8) && length < KV_KEY_MAX) { /* a longest key */
        memset(nodes->key + length, 'z', KV_KEY_MAX - length);
        length = KV_KEY_MAX;
    }
    return length;
}

/* Split as kv/btree_change.c does, then put both sides together again if they fit. */
static void split(struct nodes *nodes, unsigned slot, bool grows, const struct kv_bytes *key,
                  size_t cell_bytes)
{
    const unsigned count = kv_node_count(nodes->node);
    if (count < 2)
        return;
    uint8_t separator[KV_KEY_MAX];
    const unsigned at = grows ? kv_node_split_point_grow(nodes->node, NODE_BYTES, slot, cell_bytes)
                              : kv_node_split_point(nodes->node, NODE_BYTES, slot, cell_bytes);
    KV_ASSERT(at <= count);
    const size_t separator_len =
        kv_node_separator(nodes->node, NODE_BYTES, at, *key, slot, separator);
    KV_ASSERT(separator_len <= KV_KEY_MAX);
    memcpy(nodes->copy, nodes->node, NODE_BYTES);
    kv_node_split(nodes->node, NODE_BYTES, at, (struct kv_bytes){separator, separator_len},
                  nodes->right, RIGHT_ID, nodes->scratch);
    KV_ASSERT(valid(nodes->node, PAGE_ID));
    KV_ASSERT(valid(nodes->right, RIGHT_ID));
    KV_ASSERT(kv_node_count(nodes->node) + kv_node_count(nodes->right) == count);
    if (kv_node_can_merge(nodes->node, nodes->right, NODE_BYTES, 100)) {
        kv_node_merge(nodes->node, nodes->right, NODE_BYTES, nodes->scratch);
        KV_ASSERT(valid(nodes->node, PAGE_ID));
        KV_ASSERT(kv_node_count(nodes->node) == count);
        memcpy(nodes->node, nodes->copy, NODE_BYTES);
    }
}

static void put_leaf(struct nodes *nodes, struct fuzz_input *input, size_t key_len)
{
    const size_t fixed = sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_leaf_cell) + key_len;
    const size_t most = kv_node_cell_limit(NODE_BYTES) - fixed;
    const size_t value_len = fuzz_u16(input) % (most + 1);
    uint8_t *const bytes = calloc(1, value_len + 1);
    KV_ASSERT(bytes);
    const struct kv_bytes value = {bytes, value_len};
    const struct kv_bytes key = {nodes->key, key_len};
    const struct kv_bytes none = {0};
    bool exact;
    const unsigned slot = kv_node_search(nodes->node, NODE_BYTES, nodes->key, key_len, &exact);
    bool fits = exact ? kv_node_replace(nodes->node, NODE_BYTES, slot, KV_VALUE_INLINE, value,
                                        nodes->scratch)
                      : kv_node_insert(nodes->node, NODE_BYTES, slot, nodes->key, key_len,
                                       KV_VALUE_INLINE, value, nodes->scratch);
    KV_ASSERT(valid(nodes->node, PAGE_ID));
    if (!fits)
        split(nodes, slot, exact, exact ? &none : &key, fixed + value_len);
    free(bytes);
}

static void change_leaf(struct nodes *nodes, struct fuzz_input *input)
{
    const uint8_t what = fuzz_u8(input);
    const unsigned count = kv_node_count(nodes->node);
    const size_t key_len = choose_key(nodes, input);
    if (what % 4 < 2) {
        if (key_len && covers(nodes->node, nodes->key, key_len))
            put_leaf(nodes, input, key_len);
    } else if (count) {
        const unsigned slot = fuzz_u8(input) % count;
        uint8_t kind;
        const struct kv_bytes value = kv_node_value(nodes->node, slot, &kind);
        if (what % 4 == 2)
            kv_node_remove(nodes->node, NODE_BYTES, slot);
        else if (kind == KV_VALUE_INLINE && value.length)
            kv_node_overwrite(nodes->node, slot, value.length - 1, "x", 1);
    }
}

static void change_inner(struct nodes *nodes, struct fuzz_input *input)
{
    const uint8_t what = fuzz_u8(input);
    const unsigned count = kv_node_count(nodes->node);
    const size_t key_len = choose_key(nodes, input);
    if (what % 4 < 2) {
        bool exact;
        if (!key_len || !covers(nodes->node, nodes->key, key_len))
            return;
        const unsigned child = kv_node_child_slot(nodes->node, NODE_BYTES, nodes->key, key_len);
        const unsigned slot = child + 1;
        uint8_t old[KV_KEY_MAX];
        const size_t old_len = kv_node_key(nodes->node, NODE_BYTES, child, old);
        exact = !kv_key_compare(old, old_len, nodes->key, key_len);
        if (exact)
            return; /* a split never makes a key that is there */
        const struct kv_bytes none = {0};
        if (!kv_node_insert_child(nodes->node, NODE_BYTES, slot, nodes->key, key_len, 5000,
                                  nodes->scratch))
            split(nodes, slot, false, &none,
                  sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_inner_cell) + key_len);
    } else if (what % 4 == 2 && count > 1) {
        kv_node_remove_child(nodes->node, NODE_BYTES, 1 + fuzz_u8(input) % (count - 1));
    } else {
        kv_node_set_child(nodes->node, fuzz_u8(input) % count, 6000);
    }
}

static void read_valid(struct nodes *nodes)
{
    uint8_t before[KV_KEY_MAX];
    size_t before_len = 0;
    const unsigned count = kv_node_count(nodes->node);
    const bool inner = kv_node_level(nodes->node) > 0;
    KV_ASSERT(kv_node_used(nodes->node, NODE_BYTES) <= NODE_BYTES);
    for (unsigned slot = 0; slot < count; slot++) {
        const size_t length = kv_node_key(nodes->node, NODE_BYTES, slot, nodes->key);
        KV_ASSERT(!slot || kv_key_compare(before, before_len, nodes->key, length) < 0);
        KV_ASSERT(covers(nodes->node, nodes->key, length));
        memcpy(before, nodes->key, length);
        before_len = length;
        bool exact;
        if (inner) {
            unsigned found = count;
            KV_ASSERT(kv_node_child_slot(nodes->node, NODE_BYTES, nodes->key, length) == slot);
            KV_ASSERT(kv_node_child_racy(nodes->node, NODE_BYTES, nodes->key, length, &found) ==
                      kv_node_child(nodes->node, slot));
            KV_ASSERT(found == slot);
            continue;
        }
        uint8_t kind, racy_kind, byte;
        size_t racy_len = 0;
        const struct kv_bytes value = kv_node_value(nodes->node, slot, &kind);
        KV_ASSERT(kv_node_search(nodes->node, NODE_BYTES, nodes->key, length, &exact) == slot);
        KV_ASSERT(exact);
        KV_ASSERT(kv_node_value_racy(nodes->node, NODE_BYTES, nodes->key, length, &byte, 1,
                                     &racy_len, &racy_kind) == 0);
        KV_ASSERT(racy_len == value.length);
        KV_ASSERT(racy_kind == kind);
    }
}

/* The same bytes as a bare node: what it makes of them is for kv_node_validate to judge. */
static void restore_bare(struct nodes *nodes)
{
    memcpy(nodes->copy, nodes->node, NODE_BYTES);
    ((struct kv_disk_node *)nodes->copy)->garbage_bytes = kv_le32_of(0);
    if (kv_node_restore(nodes->copy, NODE_BYTES) || !valid(nodes->copy, PAGE_ID))
        return;
    const size_t length = kv_node_strip(nodes->copy, NODE_BYTES, nodes->scratch);
    KV_ASSERT(length == kv_node_bare_bytes(nodes->copy, NODE_BYTES));
}

/* A valid one goes and comes back. */
static void strip_valid(struct nodes *nodes)
{
    const size_t used = kv_node_used(nodes->node, NODE_BYTES);
    const size_t rest =
        kv_node_strip(nodes->node, NODE_BYTES, nodes->scratch) - sizeof(struct kv_disk_node);
    memcpy(nodes->copy, nodes->scratch, sizeof(struct kv_disk_node));
    memcpy(nodes->copy + NODE_BYTES - rest, nodes->scratch + sizeof(struct kv_disk_node), rest);
    KV_ASSERT(kv_node_restore(nodes->copy, NODE_BYTES) == 0);
    KV_ASSERT(valid(nodes->copy, PAGE_ID));
    KV_ASSERT(kv_node_used(nodes->copy, NODE_BYTES) == used);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct fuzz_input input = {bytes, length};
    struct nodes nodes = {
        .node = malloc(NODE_BYTES),
        .right = malloc(NODE_BYTES),
        .scratch = malloc(NODE_BYTES),
        .copy = malloc(NODE_BYTES),
    };
    KV_ASSERT(nodes.node && nodes.right && nodes.scratch && nodes.copy);
    const unsigned shape = fuzz_u8(&input);
    copy_base(nodes.node, nodes.scratch, shape, fuzz_u8(&input));
    patch_node(nodes.node, &input);
    memset(nodes.key, 'k', sizeof nodes.key);
    read_racy(&nodes, 1 + shape % KV_KEY_MAX);
    restore_bare(&nodes);
    if (!valid(nodes.node, PAGE_ID))
        make_plausible(nodes.node);
    if (valid(nodes.node, PAGE_ID)) {
        strip_valid(&nodes);
        read_valid(&nodes);
        for (unsigned steps = 0; steps < 64 && input.left; steps++) {
            if (kv_node_level(nodes.node))
                change_inner(&nodes, &input);
            else
                change_leaf(&nodes, &input);
            KV_ASSERT(valid(nodes.node, PAGE_ID));
        }
        read_valid(&nodes);
    }
    free(nodes.copy);
    free(nodes.scratch);
    free(nodes.right);
    free(nodes.node);
    return 0;
}
