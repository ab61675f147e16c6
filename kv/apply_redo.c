/*
 * kv/apply_redo.c: redo operations go into the trees, for batches and for replay.
 *
 * Owns       nothing; works on the store under its writer lock.
 * Invariant  a blob that one value refers to has no count; the refs tree holds counts of two and
 *            more. In one record all new shares count before any drop, so that a value may move
 *            its blob from one key to another. Who cuts an extent shares and drops the same blob:
 *            counts of shared ones are kept beside the tree until the record ends.
 * Locks      the writer lock, held by the caller.
 */
#include "kv/store.h"

/* ---- blob references ------------------------------------------------------------- */

static struct kv_bytes ref_key(uint64_t block, uint8_t key[8])
{
    kv_be64_put(key, block);
    return (struct kv_bytes){key, 8};
}

/* How many values refer to the blob at `block`; 1 when nothing is noted. */
static int ref_count(struct kv_store *store, uint64_t block, uint64_t *count)
{
    uint8_t key[8];
    kv_le64 stored;
    size_t length;
    uint8_t kind;
    const struct kv_bytes name = ref_key(block, key);
    const int err = kv_btree_get(&store->trees[KV_TREE_REFS], name.data, name.length, &stored,
                                 sizeof stored, &length, &kind);
    *count = 1;
    if (err)
        return err == -ENOENT ? 0 : err;
    if (length != sizeof stored || kind != KV_VALUE_INLINE || kv_le64_get(stored) < 2)
        return -EUCLEAN;
    *count = kv_le64_get(stored);
    return 0;
}

static int set_ref_count(struct kv_store *store, uint64_t block, uint64_t count)
{
    uint8_t key[8];
    const struct kv_btree_drop nobody = {0};
    struct kv_btree *tree = &store->trees[KV_TREE_REFS];
    if (count < 2)
        return kv_btree_del(tree, ref_key(block, key), nobody);
    const kv_le64 stored = kv_le64_of(count);
    return kv_btree_put(tree, ref_key(block, key), KV_VALUE_INLINE,
                        (struct kv_bytes){&stored, sizeof stored}, nobody);
}

static struct kv_share *find_share(struct kv_store *store, uint64_t block)
{
    for (size_t i = 0; i < store->share_count; i++)
        if (store->shares[i].block == block)
            return &store->shares[i];
    return NULL;
}

/* One more value is going to refer to the blob. Nothing is changed yet, if there is room to note
 * it.
 */
static int share_ref(struct kv_store *store, const struct kv_blob_ref *ref)
{
    uint64_t block, count;
    uint32_t block_count;
    const uint64_t more = KV_PLANT(share_counted_twice) ? 2 : 1;
    int err = kv_blobs_extent(&store->blobs, ref, &block, &block_count);
    if (err)
        return err;
    struct kv_share *const known = find_share(store, block);
    if (known) {
        known->count += more;
        return 0;
    }
    err = ref_count(store, block, &count);
    if (err)
        return err;
    if (store->share_count == KV_SHARES_MAX)
        return set_ref_count(store, block, count + more);
    store->shares[store->share_count++] =
        (struct kv_share){.block = block, .stored = count, .count = count + more};
    return 0;
}

static int drop_ref(struct kv_store *store, const struct kv_blob_ref *ref)
{
    uint64_t block, count;
    uint32_t block_count;
    int err = kv_blobs_extent(&store->blobs, ref, &block, &block_count);
    if (err)
        return err;
    struct kv_share *const known = find_share(store, block);
    const uint64_t last = KV_PLANT(shared_blob_freed) ? 2 : 1;
    if (known && known->count > last) {
        known->count--;
        return 0;
    }
    if (known) { /* all that shared it are gone, too */
        count = known->count;
        if (known->stored != count)
            err = set_ref_count(store, block, count);
        *known = store->shares[--store->share_count];
    } else {
        err = ref_count(store, block, &count);
    }
    if (err)
        return err;
    if (count > last)
        return set_ref_count(store, block, count - 1);
    kv_blobs_unwanted(&store->blobs, ref);
    const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    return kv_space_free(store->space, epoch, block, block_count);
}

/* The counts that the record has changed, and not back again, are stored. */
static int settle_shares(struct kv_store *store)
{
    int err = 0;
    for (size_t i = 0; i < store->share_count && !err; i++) {
        const struct kv_share *const share = &store->shares[i];
        if (share->count != share->stored)
            err = set_ref_count(store, share->block, share->count);
    }
    store->share_count = 0;
    return err;
}

static int commit_ref(struct kv_store *store, const struct kv_blob_ref *ref)
{
    uint64_t block;
    uint32_t block_count;
    const int err = kv_blobs_extent(&store->blobs, ref, &block, &block_count);
    if (err)
        return err;
    const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    return kv_space_commit(store->space, epoch, block, block_count);
}

/*
 * kv_btree_drop_fn: remember the references of a value that vanishes. There is room for all of a
 * leaf, which is the most that goes at once: a change that is half done can not wait for memory.
 */
static int note_dropped(void *context, uint8_t kind, struct kv_bytes value)
{
    struct kv_store *store = context;
    if (kind == KV_VALUE_INLINE)
        return 0;
    const size_t size = sizeof(struct kv_blob_ref);
    const size_t count = kind == KV_VALUE_REF ? 1 : value.length / size;
    if (count > store->dropped_capacity - store->dropped_count)
        return -EUCLEAN; /* more than a leaf holds */
    const uint8_t *refs = (const uint8_t *)value.data + (value.length - count * size);
    memcpy(&store->dropped[store->dropped_count], refs, count * size);
    store->dropped_count += count;
    return 0;
}

static int drop_noted(struct kv_store *store)
{
    int err = 0;
    for (size_t i = 0; i < store->dropped_count && !err; i++)
        err = drop_ref(store, &store->dropped[i]);
    store->dropped_count = 0;
    return err;
}

/* ---- one redo operation ------------------------------------------------------------ */

static struct kv_bytes bytes_of(struct kv_span span)
{
    return (struct kv_bytes){span.data, span.length};
}

static int put_value(struct kv_store *store, struct kv_span key, uint8_t kind, struct kv_span value)
{
    const size_t cell =
        sizeof(struct kv_disk_slot) + sizeof(struct kv_disk_leaf_cell) + key.length + value.length;
    const size_t most = kind == KV_VALUE_LARGE ? kv_node_cell_limit(store->node_bytes)
                                               : kv_node_cell_max(store->node_bytes);
    if (cell > most)
        return -EUCLEAN; /* only a forged log gets here: batches are prepared to fit */
    const struct kv_btree_drop drop = {.note = note_dropped, .context = store};
    const int err =
        kv_btree_put(&store->trees[KV_TREE_KEYS], bytes_of(key), kind, bytes_of(value), drop);
    return err ? err : drop_noted(store);
}

static int apply_patch(struct kv_store *store, const struct kv_redo *redo)
{
    struct kv_btree *tree = &store->trees[KV_TREE_KEYS];
    size_t length = 0;
    uint8_t kind = KV_VALUE_INLINE;
    const size_t offset = (size_t)redo->argument;
    const int err = kv_btree_get(tree, redo->key.data, redo->key.length, store->value,
                                 store->node_bytes, &length, &kind);
    if (err && err != -ENOENT)
        return err;
    if (kind != KV_VALUE_INLINE || offset + redo->value.length > store->node_bytes)
        return -EUCLEAN;
    if (!err && offset + redo->value.length <= length)
        return kv_btree_overwrite(tree, bytes_of(redo->key), offset, bytes_of(redo->value));
    if (offset > length)
        memset(store->value + length, 0, offset - length);
    if (redo->value.length)
        memcpy(store->value + offset, redo->value.data, redo->value.length);
    const size_t whole = kv_max_u64(length, offset + redo->value.length);
    return put_value(store, redo->key, KV_VALUE_INLINE, (struct kv_span){store->value, whole});
}

static int apply_del_range(struct kv_store *store, const struct kv_redo *redo)
{
    uint8_t at[KV_KEY_MAX] = {0};
    size_t at_len = redo->key.length;
    if (at_len)
        memcpy(at, redo->key.data, at_len);
    const struct kv_bytes upper = {redo->value.length ? redo->value.data : NULL,
                                   redo->value.length};
    const struct kv_btree_drop drop = {.note = note_dropped, .context = store};
    bool more = true;
    int err = 0;
    if (upper.data && kv_key_compare(at, at_len, upper.data, upper.length) >= 0)
        return 0;
    while (!err && more) {
        err = kv_btree_del_leaf(&store->trees[KV_TREE_KEYS], (struct kv_bytes){at, at_len}, upper,
                                drop, at, &at_len, &more);
        if (!err)
            err = drop_noted(store);
    }
    return err;
}

static int apply_put_blobs(struct kv_store *store, const struct kv_redo *redo)
{
    const bool large = redo->kind == KV_REDO_PUT_LARGE;
    const size_t size = sizeof(struct kv_blob_ref);
    size_t count = large ? redo->value.length / size : 1;
    const struct kv_blob_ref *refs =
        (const struct kv_blob_ref *)(redo->value.data + redo->value.length - count * size);
    /* First what may fail for outside reasons. */
    int err = put_value(store, redo->key, large ? KV_VALUE_LARGE : KV_VALUE_REF, redo->value);
    for (size_t i = 0; i < count && !err; i++) {
        const bool fresh = large ? (redo->argument >> i) & 1 : redo->use == KV_BLOB_NEW;
        if (fresh)
            err = commit_ref(store, &refs[i]);
    }
    return err;
}

static int apply_redo(struct kv_store *store, const struct kv_redo *redo)
{
    switch (redo->kind) {
    case KV_REDO_PUT:
        return put_value(store, redo->key, KV_VALUE_INLINE, redo->value);
    case KV_REDO_DEL: {
        const struct kv_btree_drop drop = {.note = note_dropped, .context = store};
        const int err = kv_btree_del(&store->trees[KV_TREE_KEYS], bytes_of(redo->key), drop);
        return err ? err : drop_noted(store);
    }
    case KV_REDO_DEL_RANGE:
        return apply_del_range(store, redo);
    case KV_REDO_PATCH:
        return apply_patch(store, redo);
    case KV_REDO_PUT_REF:
    case KV_REDO_PUT_LARGE:
        return apply_put_blobs(store, redo);
    }
    return -EUCLEAN;
}

/* Count the references that the record adds to blobs which values hold already. */
static int share_all(struct kv_store *store, const uint8_t *body, size_t length)
{
    struct kv_redo redo;
    size_t at = 0;
    int err;
    while (!(err = kv_record_next(body, length, &at, &redo))) {
        if (redo.kind != KV_REDO_PUT_LARGE &&
            !(redo.kind == KV_REDO_PUT_REF && redo.use == KV_BLOB_SHARED))
            continue;
        const size_t size = sizeof(struct kv_blob_ref);
        const size_t count = redo.kind == KV_REDO_PUT_LARGE ? redo.value.length / size : 1;
        const uint8_t *refs = redo.value.data + redo.value.length - count * size;
        for (size_t i = 0; i < count && !err; i++) {
            const bool kept = redo.kind == KV_REDO_PUT_REF || !((redo.argument >> i) & 1);
            struct kv_blob_ref ref;
            memcpy(&ref, refs + i * size, size);
            if (kept)
                err = share_ref(store, &ref);
        }
        if (err)
            return err;
    }
    return err == -ENOENT ? 0 : err;
}

int kv_store_apply_record(struct kv_store *store, const struct kv_record *record,
                          const struct kv_btree_leads *leads)
{
    struct kv_btree *keys = &store->trees[KV_TREE_KEYS];
    store->dropped_count = 0;
    store->share_count = 0;
    int err = record->plain ? 0 : share_all(store, record->bytes, record->length);
    struct kv_record_walk walk = {.record = record};
    struct kv_redo redo;
    kv_btree_begin_puts(keys);
    for (size_t done = 0; !err && !(err = kv_record_walk(&walk, &redo)); done++) {
        if (leads && done < leads->count)
            kv_btree_lead(keys, leads, done);
        err = apply_redo(store, &redo);
    }
    kv_btree_end_puts(keys);
    return err == -ENOENT ? settle_shares(store) : err;
}

#define PAGES_EACH_OP    4u
#define PAGES_EACH_BATCH 16u
static_assert(PAGES_EACH_BATCH + 2 * PAGES_EACH_OP <= KV_SPACE_BATCHES_CLUSTERS,
              "a reference to data and the record of its owner");

uint64_t kv_store_pages_needed(const struct kv_store *store, size_t op_count, size_t bytes,
                               uint64_t del_pages)
{
    /* For each operation its leaf, a new page if that splits, and some of what is above and in
     * the other tree; but each page that is there now is dirtied once and splits at most into
     * two, unless what is added fills more. */
    uint64_t pages = PAGES_EACH_OP * (uint64_t)op_count;
    if (pages > 64)
        pages = kv_min_u64(pages, 2 * kv_pagemap_used_ids(store->map));
    /* Ranges give pages back as they go: no need to reserve more than a few hundred. */
    return pages + 4 * (bytes / store->node_bytes) + 2 * kv_min_u64(del_pages, 256) +
           PAGES_EACH_BATCH;
}
