/*
 * kv/node_split.c: one node becomes two, two neighbours become one.
 *
 * Owns       nothing: every function works on the caller's memory.
 * Invariant  what kv_node_validate checks, on both sides of a split and after a merge.
 * Locks      none; the caller holds the nodes.
 */
#include "kv/node_layout.h"

/*
 * Any cell fits after one split: let c be the largest cell with its slot, f the longest
 * fence, U = node_bytes - HEADER_BYTES. Cells and fences of a full node and the new cell take
 * at most U + c. Among the borders between these cells one has at most (U + c) / 2 + c / 2
 * = U / 2 + c on either side, the old fence of that side included; the separator adds f to
 * each. So c <= U / 2 - f will do: 1504 for the smallest node. A quarter of that node is less,
 * as is a longest key with the references of a value of KV_VALUE_MAX; and a third of U - 2f,
 * which is the limit for larger nodes, is less in any. Inner nodes can not split just before
 * the new cell, which costs another c / 2: c <= (U / 2 - f) * 2 / 3 = 1002 is more than their
 * 528.
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
            fits = kv_node_add_inner_cell(to, node_bytes, at, key + skip, key_len - skip,
                                          kv_node_child(from, slot), NULL);
        } else {
            uint8_t kind;
            const struct kv_bytes value = kv_node_value(from, slot, &kind);
            fits = kv_node_add_leaf_cell(to, node_bytes, at, key + prefix, key_len - prefix, kind,
                                         value, NULL);
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
