/*
 * kv/cursor.c: walking the keys in order, over private copies of leaves.
 *
 * Owns       one copied leaf, the bounds, the last large value that was read.
 * Invariant  slot lies in the copy, and its key in [lower, upper), or the cursor is on none.
 *            Moving past the copy's edge continues at the fence that stood there, so a key
 *            that stays in the tree is met exactly once, whatever splits and merges happen.
 * Locks      none, unless changes wait for their leaves: they go there first.
 */
#include "kv/store.h"

/* A cursor that has passed some leaves in order reads one that is not in memory together with those
 * that follow, more and more, and has as many behind them read ahead. */
#define AHEAD_AFTER 4u
#define AHEAD_MAX   32u
/* One that is told to walk on waits for a few wherever the first is not in memory, and has more
 * read ahead; where nobody reads ahead it waits for as many. */
#define WALK_LEAVES 4u
#define WALK_AHEAD  16u
static_assert(AHEAD_MAX <= KV_PAGES_AT_ONCE / 2, "kv_ahead_read takes as many");

struct kv_cursor {
    struct kv_store *store;
    uint8_t *leaf;    /* node_bytes: the copy */
    uint8_t *scratch; /* node_bytes, for going backward and looking ahead; NULL until then */
    bool positioned;  /* on a key; slot is valid */
    bool walks_on;    /* kv_cursor_walk_on */
    bool began;       /* to go forward: there is a copy */
    bool follows;     /* it began where an earlier walk ended: the next will where this one does */
    unsigned slot;
    size_t key_len;
    uint8_t key[KV_KEY_MAX]; /* the key that the cursor is on */
    size_t lower_len, upper_len;
    uint8_t lower[KV_KEY_MAX], upper[KV_KEY_MAX]; /* lengths 0: unbounded */
    unsigned leaves_in_order;                     /* that it passed, one after the other */
    bool has_large;                               /* the next two are the present key's */
    uint8_t *large;
    size_t large_len;
};

int kv_cursor_open(struct kv_store *store, const void *lower, size_t lower_len, const void *upper,
                   size_t upper_len, struct kv_cursor **out)
{
    if (lower_len > KV_KEY_MAX || upper_len > KV_KEY_MAX)
        return -EINVAL;
    struct kv_cursor *cursor = malloc(sizeof *cursor);
    if (!cursor)
        return -ENOMEM;
    /* Keys take most of it: they are set when they are known. */
    cursor->store = store;
    cursor->scratch = NULL;
    cursor->positioned = false;
    cursor->walks_on = false;
    cursor->began = false;
    cursor->follows = false;
    cursor->slot = 0;
    cursor->key_len = 0;
    cursor->leaves_in_order = 0;
    cursor->has_large = false;
    cursor->large = NULL;
    cursor->large_len = 0;
    cursor->leaf = malloc(store->node_bytes);
    if (!cursor->leaf) {
        free(cursor);
        return -ENOMEM;
    }
    cursor->lower_len = lower_len;
    cursor->upper_len = upper_len;
    if (lower_len)
        memcpy(cursor->lower, lower, lower_len);
    if (upper_len)
        memcpy(cursor->upper, upper, upper_len);
    *out = cursor;
    return 0;
}

int kv_cursor_open_prefix(struct kv_store *store, const void *prefix, size_t prefix_len,
                          struct kv_cursor **cursor)
{
    uint8_t upper[KV_KEY_MAX];
    if (prefix_len > KV_KEY_MAX)
        return -EINVAL;
    size_t upper_len = prefix_len;
    if (prefix_len)
        memcpy(upper, prefix, prefix_len);
    /* The first key after all that begin with the prefix: its last byte below 0xff plus one. */
    while (upper_len && upper[upper_len - 1] == 0xff)
        upper_len--;
    if (upper_len)
        upper[upper_len - 1]++;
    return kv_cursor_open(store, prefix, prefix_len, upper, upper_len, cursor);
}

static void leave_key(struct kv_cursor *cursor)
{
    cursor->positioned = false;
    cursor->has_large = false;
    free(cursor->large);
    cursor->large = NULL;
}

void kv_cursor_walk_on(struct kv_cursor *cursor)
{
    cursor->walks_on = true;
}

void kv_cursor_close(struct kv_cursor *cursor)
{
    if (!cursor)
        return;
    /* One that stops half way is gone on from by the same walk, which has not ended. */
    if (cursor->walks_on && cursor->began && (!cursor->positioned || cursor->follows))
        kv_ahead_left(cursor->store->ahead, kv_node_page_id(cursor->leaf));
    leave_key(cursor);
    free(cursor->scratch);
    free(cursor->leaf);
    free(cursor);
}

/* Stand on `slot` of the copied leaf if its key is within bounds. */
static int arrive(struct kv_cursor *cursor, unsigned slot)
{
    const size_t length = kv_node_key(cursor->leaf, cursor->store->node_bytes, slot, cursor->key);
    if (cursor->upper_len &&
        kv_key_compare(cursor->key, length, cursor->upper, cursor->upper_len) >= 0)
        return -ENOENT;
    if (kv_key_compare(cursor->key, length, cursor->lower, cursor->lower_len) < 0)
        return -ENOENT;
    cursor->slot = slot;
    cursor->key_len = length;
    cursor->positioned = true;
    return 0;
}

static bool has_scratch(struct kv_cursor *cursor)
{
    if (!cursor->scratch)
        cursor->scratch = malloc(cursor->store->node_bytes);
    return cursor->scratch != NULL;
}

/* Where to read ahead ends. */
static struct kv_bytes end_of_reading(const struct kv_cursor *cursor)
{
    if (cursor->follows)
        return (struct kv_bytes){.length = 0};
    return (struct kv_bytes){.data = cursor->upper, .length = cursor->upper_len};
}

/*
 * Read together the leaf with `key` and those that follow, at most `leaves`. Nothing depends on
 * this: an error will be met again by who wants a leaf.
 */
static void read_together(struct kv_cursor *cursor, struct kv_bytes key, unsigned leaves)
{
    struct kv_store *const store = cursor->store;
    struct kv_btree_ahead ahead = {.max = leaves};
    const struct kv_bytes upper = end_of_reading(cursor);
    if (has_scratch(cursor) &&
        !kv_btree_leaves_ahead(&store->trees[KV_TREE_KEYS], key, upper, cursor->scratch, &ahead))
        (void)kv_pager_prefetch(store->pager, ahead.page_ids, ahead.count);
}

/* Have leaves read that follow the `passed` from the one with `key` on. */
static void read_ahead(const struct kv_cursor *cursor, struct kv_bytes key, unsigned passed)
{
    const struct kv_bytes upper = end_of_reading(cursor);
    const unsigned wanted =
        cursor->walks_on ? WALK_AHEAD : (unsigned)kv_min_u64(AHEAD_MAX, cursor->leaves_in_order);
    kv_ahead_read(cursor->store->ahead, key, upper, passed,
                  kv_ahead_within_room(cursor->store->ahead, wanted));
}

/* Copy the leaf with `key`; if it is not in memory and the cursor will go on, others come along. */
static int read_leaf(struct kv_cursor *cursor, struct kv_bytes key)
{
    struct kv_store *const store = cursor->store;
    struct kv_btree *const btree = &store->trees[KV_TREE_KEYS];
    if (!cursor->walks_on && cursor->leaves_in_order < AHEAD_AFTER)
        return kv_btree_leaf_at(btree, key.data, key.length, cursor->leaf);
    const int err = kv_btree_leaf_at_resident(btree, key.data, key.length, cursor->leaf);
    if (!err) {
        const unsigned reached = kv_ahead_reached(store->ahead, kv_node_page_id(cursor->leaf));
        if (reached)
            read_ahead(cursor, key, reached);
    }
    if (err != -EAGAIN)
        return err;
    const unsigned few = kv_ahead_runs(store->ahead) ? WALK_LEAVES : WALK_AHEAD;
    const unsigned told = cursor->walks_on ? few : 0;
    const unsigned now = kv_ahead_within_room(
        store->ahead, (unsigned)kv_min_u64(AHEAD_MAX, kv_max_u64(told, cursor->leaves_in_order)));
    read_ahead(cursor, key, now);
    read_together(cursor, key, now);
    return kv_btree_leaf_at(btree, key.data, key.length, cursor->leaf);
}

static int copy_leaf(struct kv_cursor *cursor, struct kv_bytes key)
{
    if (!KV_PLANT(walk_misses_deferred))
        kv_ignore(kv_settle(cursor->store));
    const int err = read_leaf(cursor, key);
    if (!err && cursor->walks_on && !cursor->began) {
        cursor->began = true;
        cursor->follows = kv_ahead_follows(cursor->store->ahead, kv_node_page_id(cursor->leaf));
    }
    return err;
}

/* The first key >= `key` in the leaf that covers it, or in the leaves behind. */
static int seek_forward(struct kv_cursor *cursor, const void *key, size_t key_len)
{
    const size_t node_bytes = cursor->store->node_bytes;
    uint8_t at[KV_KEY_MAX];
    size_t at_len = key_len;
    if (key_len)
        memcpy(at, key, key_len);
    for (;;) {
        const int err = copy_leaf(cursor, (struct kv_bytes){at, at_len});
        if (err)
            return err;
        bool exact;
        const unsigned slot = kv_node_search(cursor->leaf, node_bytes, at, at_len, &exact);
        if (slot < kv_node_count(cursor->leaf))
            return arrive(cursor, slot);
        const struct kv_bytes high = kv_node_high(cursor->leaf, node_bytes);
        if (!high.data)
            return -ENOENT;
        memcpy(at, high.data, high.length);
        at_len = high.length;
    }
}

/* The last key < `key` (data NULL: the last of all). */
static int seek_backward(struct kv_cursor *cursor, struct kv_bytes key)
{
    const size_t node_bytes = cursor->store->node_bytes;
    uint8_t at[KV_KEY_MAX];
    struct kv_bytes before = key;
    if (!has_scratch(cursor))
        return -ENOMEM;
    if (key.data) {
        memcpy(at, key.data, key.length);
        before.data = at;
    }
    for (;;) {
        kv_ignore(kv_settle(cursor->store));
        const int err = kv_btree_leaf_before(&cursor->store->trees[KV_TREE_KEYS], before,
                                             cursor->leaf, cursor->scratch);
        if (err)
            return err;
        bool exact;
        const unsigned slot = before.data ? kv_node_search(cursor->leaf, node_bytes, before.data,
                                                           before.length, &exact)
                                          : kv_node_count(cursor->leaf);
        if (slot > 0)
            return arrive(cursor, slot - 1);
        const struct kv_bytes low = kv_node_low(cursor->leaf, node_bytes);
        if (!low.length)
            return -ENOENT;
        memcpy(at, low.data, low.length);
        before = (struct kv_bytes){at, low.length};
    }
}

static void end_order(struct kv_cursor *cursor)
{
    cursor->leaves_in_order = 0;
    cursor->began = false;
    cursor->follows = false;
}

int kv_cursor_first(struct kv_cursor *cursor)
{
    leave_key(cursor);
    end_order(cursor);
    return seek_forward(cursor, cursor->lower, cursor->lower_len);
}

int kv_cursor_last(struct kv_cursor *cursor)
{
    leave_key(cursor);
    end_order(cursor);
    return seek_backward(
        cursor, (struct kv_bytes){cursor->upper_len ? cursor->upper : NULL, cursor->upper_len});
}

int kv_cursor_seek(struct kv_cursor *cursor, const void *key, size_t key_len)
{
    if (key_len > KV_KEY_MAX)
        return -EINVAL;
    leave_key(cursor);
    end_order(cursor);
    if (kv_key_compare(key, key_len, cursor->lower, cursor->lower_len) < 0)
        return seek_forward(cursor, cursor->lower, cursor->lower_len);
    return seek_forward(cursor, key, key_len);
}

int kv_cursor_seek_before(struct kv_cursor *cursor, const void *key, size_t key_len)
{
    if (key_len > KV_KEY_MAX)
        return -EINVAL;
    leave_key(cursor);
    end_order(cursor);
    if (cursor->upper_len && kv_key_compare(key, key_len, cursor->upper, cursor->upper_len) > 0)
        return kv_cursor_last(cursor);
    return seek_backward(cursor, (struct kv_bytes){key_len ? key : "", key_len});
}

int kv_cursor_next(struct kv_cursor *cursor)
{
    if (!cursor->positioned)
        return -ENOENT;
    const unsigned slot = cursor->slot + 1;
    leave_key(cursor);
    if (slot < kv_node_count(cursor->leaf))
        return arrive(cursor, slot);
    const struct kv_bytes high = kv_node_high(cursor->leaf, cursor->store->node_bytes);
    if (!high.data)
        return -ENOENT;
    cursor->leaves_in_order++;
    return seek_forward(cursor, high.data, high.length);
}

int kv_cursor_prev(struct kv_cursor *cursor)
{
    if (!cursor->positioned)
        return -ENOENT;
    const unsigned slot = cursor->slot;
    leave_key(cursor);
    if (slot > 0)
        return arrive(cursor, slot - 1);
    const struct kv_bytes low = kv_node_low(cursor->leaf, cursor->store->node_bytes);
    return low.length ? seek_backward(cursor, low) : -ENOENT;
}

const void *kv_cursor_key(struct kv_cursor *cursor, size_t *key_len)
{
    *key_len = cursor->positioned ? cursor->key_len : 0;
    return cursor->positioned ? cursor->key : NULL;
}

/*
 * Read the value of the key as it is now: the copied references may be stale. Once: what was
 * given is borrowed until the cursor moves.
 */
static int read_large(struct kv_cursor *cursor)
{
    if (cursor->has_large)
        return 0;
    size_t length = 0;
    int err = kv_get(cursor->store, cursor->key, cursor->key_len, NULL, 0, &length);
    while (err == -ERANGE) {
        free(cursor->large);
        cursor->large = malloc(length);
        if (!cursor->large)
            return -ENOMEM;
        err = kv_get(cursor->store, cursor->key, cursor->key_len, cursor->large, length, &length);
    }
    cursor->has_large = !err;
    cursor->large_len = length;
    return err;
}

int kv_cursor_value(struct kv_cursor *cursor, const void **value, size_t *value_len)
{
    if (!cursor->positioned)
        return -ENOENT;
    uint8_t kind;
    const struct kv_bytes stored = kv_node_value(cursor->leaf, cursor->slot, &kind);
    int err = 0;
    if (kind == KV_VALUE_LARGE)
        err = read_large(cursor);
    if (err)
        return err;
    *value = kind == KV_VALUE_LARGE ? cursor->large : stored.data;
    *value_len = kind == KV_VALUE_LARGE ? cursor->large_len : stored.length;
    return 0;
}
