/*
 * kv/store_read.c: values by their keys, one at a time and many together.
 *
 * Owns       nothing.
 * Invariant  what is returned was stored under the key at one moment of the call.
 * Locks      none: optimistic reads (kv/btree.h); while changes are deferred, theirs.
 */
#include "kv/store.h"

size_t kv_large_length(const struct kv_blob_ref *refs, size_t count)
{
    size_t length = 0;
    for (size_t i = 0; i < count; i++)
        length += kv_blob_length(&refs[i]);
    return length;
}

int kv_store_read_large(struct kv_store *store, const struct kv_blob_ref *refs, size_t count,
                        uint8_t *buf)
{
    struct kv_blob_part parts[KV_BLOBS_AT_ONCE];
    int err = 0;
    for (size_t at = 0; at < count && !err;) {
        size_t now = 0;
        for (; now < KV_BLOBS_AT_ONCE && at < count; now++, at++) {
            const size_t length = kv_blob_length(&refs[at]);
            parts[now] = (struct kv_blob_part){.ref = refs[at], .buf = buf, .length = length};
            buf += length;
        }
        err = kv_blobs_read(&store->blobs, parts, now);
    }
    return err;
}

/* References of the large value under `key`, or -EAGAIN when it is not large any more. */
static int get_refs(struct kv_store *store, const void *key, size_t key_len,
                    struct kv_blob_ref *refs, size_t *count)
{
    size_t length;
    uint8_t kind;
    const int err = kv_btree_get(&store->trees[KV_TREE_KEYS], key, key_len, refs,
                                 KV_LARGE_REFS_MAX * sizeof *refs, &length, &kind);
    if (err)
        return err;
    *count = length / sizeof *refs;
    if (kind != KV_VALUE_LARGE)
        return -EAGAIN;
    if (*count > KV_LARGE_REFS_MAX)
        return -EUCLEAN;
    const size_t value_len = kv_large_length(refs, *count);
    return value_len && value_len <= KV_VALUE_MAX ? 0 : -EUCLEAN; /* what is empty is inline */
}

/*
 * Read a large value. Its blobs may be freed and their blocks written anew while we read:
 * then the digests fail, and the key refers to something else by now.
 */
static int get_large(struct kv_store *store, const void *key, size_t key_len, void *buf,
                     size_t buf_cap, size_t *value_len)
{
    struct kv_blob_ref refs[KV_LARGE_REFS_MAX], again[KV_LARGE_REFS_MAX];
    size_t count, again_count;
    int err = get_refs(store, key, key_len, refs, &count);
    while (!err) {
        *value_len = kv_large_length(refs, count);
        if (*value_len > buf_cap)
            return -ERANGE;
        const int read_err = kv_store_read_large(store, refs, count, buf);
        if (!read_err)
            return 0;
        err = get_refs(store, key, key_len, again, &again_count);
        if (err)
            return err;
        if (again_count == count && !memcmp(refs, again, count * sizeof *refs))
            return read_err;
        memcpy(refs, again, again_count * sizeof *refs);
        count = again_count;
    }
    return err;
}

/* As kv_get when a change that waits for its leaf decides; -EAGAIN: none does. */
static int get_deferred(struct kv_store *store, const void *key, size_t key_len, void *buf,
                        size_t buf_cap, size_t *value_len)
{
    if (!kv_deferred_any(store->deferred))
        return -EAGAIN;
    const int err = kv_deferred_get(store->deferred, key, key_len, buf, buf_cap, value_len);
    return !err && *value_len > buf_cap ? -ERANGE : err;
}

static int get_one(struct kv_store *store, const void *key, size_t key_len, void *buf,
                   size_t buf_cap, size_t *value_len)
{
    if (key_len < 1 || key_len > KV_KEY_MAX)
        return -EINVAL;
    const int deferred = get_deferred(store, key, key_len, buf, buf_cap, value_len);
    if (deferred != -EAGAIN)
        return deferred;
    for (;;) {
        uint8_t kind;
        int err =
            kv_btree_get(&store->trees[KV_TREE_KEYS], key, key_len, buf, buf_cap, value_len, &kind);
        if (err)
            return err;
        if (kind != KV_VALUE_LARGE)
            return *value_len <= buf_cap ? 0 : -ERANGE;
        err = get_large(store, key, key_len, buf, buf_cap, value_len);
        if (err != -EAGAIN)
            return err;
    }
}

int kv_get(struct kv_store *store, const void *key, size_t key_len, void *buf, size_t buf_cap,
           size_t *value_len)
{
    kv_counter_add(&store->gets, 1);
    return get_one(store, key, key_len, buf, buf_cap, value_len);
}

/* The last key of the leaves before the one that covers `key`. */
static int floor_before(struct kv_store *store, const void *key, size_t key_len, uint8_t *found,
                        size_t *found_len)
{
    struct kv_cursor *cursor;
    int err = kv_cursor_open(store, NULL, 0, NULL, 0, &cursor);
    if (err)
        return err;
    err = kv_cursor_seek_before(cursor, key, key_len);
    if (!err) {
        const void *const there = kv_cursor_key(cursor, found_len);
        memcpy(found, there, *found_len);
    }
    kv_cursor_close(cursor);
    return err;
}

/* So often in a row nobody deletes just the key that was found: the leaves contradict each other.
 */
#define FLOOR_TRIES_MAX 1000u

int kv_get_floor(struct kv_store *store, const void *key, size_t key_len, void *found,
                 size_t *found_len, void *buf, size_t buf_cap, size_t *value_len)
{
    if (key_len < 1 || key_len > KV_KEY_MAX)
        return -EINVAL;
    kv_counter_add(&store->gets, 1);
    kv_ignore(kv_settle(store));
    for (unsigned tries = 0; tries < FLOOR_TRIES_MAX; tries++) {
        uint8_t kind = KV_VALUE_INLINE;
        int err = kv_btree_get_floor(&store->trees[KV_TREE_KEYS], key, key_len, found, found_len,
                                     buf, buf_cap, value_len, &kind);
        if (!err && kind != KV_VALUE_LARGE)
            return *value_len <= buf_cap ? 0 : -ERANGE;
        if (err == -ENOENT)
            err = floor_before(store, key, key_len, found, found_len);
        if (err)
            return err;
        err = get_one(store, found, *found_len, buf, buf_cap, value_len);
        if (err != -ENOENT) /* it was deleted meanwhile: another one is the last now */
            return err;
    }
    return -EUCLEAN;
}

/* ---- many together --------------------------------------------------------------- */

#define LOOKUPS_AT_ONCE KV_BTREE_TOGETHER

/* Take what was found in memory. -EAGAIN: a page was not. */
static int finish_lookup(struct kv_store *store, struct kv_lookup *lookup,
                         const struct kv_btree_lookup *found)
{
    if (found->result)
        return found->result;
    lookup->value_len = found->value_len;
    if (found->kind == KV_VALUE_LARGE)
        return get_one(store, lookup->key, lookup->key_len, lookup->buf, lookup->buf_cap,
                       &lookup->value_len);
    return lookup->value_len <= lookup->buf_cap ? 0 : -ERANGE;
}

/*
 * All lookups go down the tree together: each round takes them as far as memory reaches, then
 * all pages that are missing are read with one submission. What others keep pushing out of
 * memory meanwhile is left to get_one.
 */
static void look_up_together(struct kv_store *store, struct kv_lookup *lookups, size_t count)
{
    struct kv_btree_lookup found[LOOKUPS_AT_ONCE];
    uint64_t missing[LOOKUPS_AT_ONCE];
    struct kv_lookup *pending[LOOKUPS_AT_ONCE];
    size_t pending_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct kv_lookup *lookup = &lookups[i];
        const bool usable = lookup->key_len >= 1 && lookup->key_len <= KV_KEY_MAX;
        lookup->result = usable ? get_deferred(store, lookup->key, lookup->key_len, lookup->buf,
                                               lookup->buf_cap, &lookup->value_len)
                                : -EINVAL;
        if (lookup->result == -EAGAIN)
            pending[pending_count++] = lookup;
    }
    for (unsigned round = 0; pending_count && round < 2 * KV_TREE_DEPTH_MAX; round++) {
        for (size_t i = 0; i < pending_count; i++)
            found[i] = (struct kv_btree_lookup){.key = pending[i]->key,
                                                .key_len = pending[i]->key_len,
                                                .buf = pending[i]->buf,
                                                .buf_cap = pending[i]->buf_cap};
        kv_btree_get_together(&store->trees[KV_TREE_KEYS], found, pending_count);
        size_t left = 0;
        for (size_t i = 0; i < pending_count; i++) {
            struct kv_lookup *lookup = pending[i];
            lookup->result = finish_lookup(store, lookup, &found[i]);
            if (lookup->result == -EAGAIN) {
                missing[left] = found[i].missing;
                pending[left++] = lookup;
            }
        }
        pending_count = left;
        if (left)
            kv_btree_load(&store->trees[KV_TREE_KEYS], missing, left);
    }
    for (size_t i = 0; i < pending_count; i++)
        pending[i]->result = get_one(store, pending[i]->key, pending[i]->key_len, pending[i]->buf,
                                     pending[i]->buf_cap, &pending[i]->value_len);
}

int kv_get_many(struct kv_store *store, struct kv_lookup *lookups, size_t count)
{
    kv_counter_add(&store->gets, count);
    for (size_t at = 0; at < count; at += LOOKUPS_AT_ONCE)
        look_up_together(store, lookups + at, kv_min_u64(count - at, LOOKUPS_AT_ONCE));
    return 0;
}
