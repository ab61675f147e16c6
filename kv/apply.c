/*
 * kv/apply.c: a batch becomes redo operations, goes into the trees and into the log.
 *
 * Owns       nothing; works on the store under its writer lock.
 * Invariant  everything that can fail for outside reasons (space, log room, damaged pages in
 *            the way) is tried before the first change. What fails after it leaves the trees
 *            ahead of the log, so the store turns read-only.
 * Locks      the writer lock from the reservation to the append to the log.
 *
 * Blob references: a blob that one value refers to has no count; the refs tree holds counts
 * of two and more. In one batch all new shares count before any drop, so that a value may
 * move its blob from one key to another.
 */
#include "kv/store.h"

#include "kv/error.h"

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

static int share_ref(struct kv_store *store, const struct kv_blob_ref *ref)
{
    uint64_t block, count;
    uint32_t block_count;
    int err = kv_blobs_extent(&store->blobs, ref, &block, &block_count);
    if (!err)
        err = ref_count(store, block, &count);
    return err ? err : set_ref_count(store, block, count + (KV_PLANT(share_counted_twice) ? 2 : 1));
}

static int drop_ref(struct kv_store *store, const struct kv_blob_ref *ref)
{
    uint64_t block, count;
    uint32_t block_count;
    int err = kv_blobs_extent(&store->blobs, ref, &block, &block_count);
    if (!err)
        err = ref_count(store, block, &count);
    if (err)
        return err;
    if (count > (KV_PLANT(shared_blob_freed) ? 2 : 1))
        return set_ref_count(store, block, count - 1);
    const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    return kv_space_free(store->space, epoch, block, block_count);
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

/* kv_btree_drop_fn: remember the references of a value that vanishes. */
static int note_dropped(void *context, uint8_t kind, struct kv_bytes value)
{
    struct kv_store *store = context;
    if (kind == KV_VALUE_INLINE)
        return 0;
    const size_t size = sizeof(struct kv_blob_ref);
    const size_t count = kind == KV_VALUE_REF ? 1 : value.length / size;
    if (store->dropped_count + count > store->dropped_capacity) {
        const size_t capacity = 2 * store->dropped_capacity + count;
        struct kv_blob_ref *moved = realloc(store->dropped, capacity * size);
        if (!moved)
            return -ENOMEM;
        store->dropped = moved;
        store->dropped_capacity = capacity;
    }
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

int kv_store_apply_record(struct kv_store *store, const uint8_t *body, size_t length)
{
    store->dropped_count = 0;
    int err = share_all(store, body, length);
    struct kv_redo redo;
    size_t at = 0;
    while (!err && !(err = kv_record_next(body, length, &at, &redo)))
        err = apply_redo(store, &redo);
    return err == -ENOENT ? 0 : err;
}

#define PAGES_EACH_OP    4u
#define PAGES_EACH_BATCH 16u
_Static_assert(PAGES_EACH_BATCH + 2 * PAGES_EACH_OP <= KV_SPACE_BATCH_CLUSTERS,
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

/* ---- from a batch to a record ---------------------------------------------------- */

/* Blobs written for the batch at hand, to be discarded if it is not applied. */
struct prepared {
    struct kv_blob_ref *fresh;
    size_t count, capacity;
};

static int note_fresh(struct prepared *prepared, const struct kv_blob_ref *ref)
{
    if (prepared->count == prepared->capacity) {
        const size_t capacity = prepared->capacity ? 2 * prepared->capacity : 16;
        struct kv_blob_ref *moved = realloc(prepared->fresh, capacity * sizeof *moved);
        if (!moved)
            return -ENOMEM;
        prepared->fresh = moved;
        prepared->capacity = capacity;
    }
    prepared->fresh[prepared->count++] = *ref;
    return 0;
}

static void discard_fresh(struct kv_store *store, struct prepared *prepared)
{
    for (size_t i = 0; i < prepared->count; i++)
        kv_blob_discard(store, &prepared->fresh[i]);
    prepared->count = 0;
}

/* References of one large value in the making. */
struct large {
    struct kv_blob_ref refs[KV_LARGE_REFS_MAX];
    size_t count;
    uint64_t fresh_mask;
};

static size_t refs_max(const struct kv_store *store, size_t key_len)
{
    const size_t fit = kv_node_inline_max(store->node_bytes, key_len) / sizeof(struct kv_blob_ref);
    return kv_min_u64(kv_max_u64(fit, KV_NODE_REFS_MIN), KV_LARGE_REFS_MAX);
}

static int large_keep(struct large *large, const struct kv_blob_ref *ref, size_t max)
{
    if (large->count >= max)
        return -ENOSPC; /* too fragmented for one value */
    large->refs[large->count++] = *ref;
    return 0;
}

/* -ENOSPC: a checkpoint may help, which is not made here: we may hold the writer lock. */
static int write_blob(struct kv_store *store, const void *bytes, size_t length,
                      const struct kv_codec_spec *codec, struct kv_blob_ref *ref, size_t *written)
{
    if (atomic_load_explicit(&store->failure, memory_order_acquire))
        return -EROFS;
    const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    const int err = kv_blobs_write(&store->blobs, bytes, length, codec, epoch, ref, written);
    return err == -EIO ? kv_store_fail(store, err, "writing a blob") : err;
}

/* Write bytes as blobs and append their references. */
static int large_write(struct kv_store *store, struct large *large, const uint8_t *bytes,
                       size_t length, size_t max, struct prepared *prepared)
{
    while (length) {
        if (large->count >= max)
            return -ENOSPC;
        struct kv_blob_ref ref;
        size_t written;
        int err = write_blob(store, bytes, kv_min_u64(length, KV_BLOB_MAX), NULL, &ref, &written);
        if (err)
            return err;
        err = note_fresh(prepared, &ref);
        if (err) {
            kv_blob_discard(store, &ref);
            return err;
        }
        large->fresh_mask |= 1ull << large->count;
        large->refs[large->count++] = ref;
        bytes += written;
        length -= written;
    }
    return 0;
}

static struct kv_redo large_redo(struct kv_span key, const struct large *large)
{
    return (struct kv_redo){
        .kind = KV_REDO_PUT_LARGE,
        .key = key,
        .value = {(const uint8_t *)large->refs, large->count * sizeof large->refs[0]},
        .argument = large->fresh_mask};
}

/* The stored value of a key: its bytes, or its references. */
struct stored {
    uint8_t kind;
    size_t length;  /* of the value that users see */
    uint8_t *bytes; /* node_bytes: inline value, or references */
    size_t ref_count;
};

static int load_stored(struct kv_store *store, struct kv_span key, struct stored *stored)
{
    size_t length = 0;
    stored->kind = KV_VALUE_INLINE;
    stored->ref_count = 0;
    const int err = kv_btree_get(&store->trees[KV_TREE_KEYS], key.data, key.length, stored->bytes,
                                 store->node_bytes, &length, &stored->kind);
    if (err && err != -ENOENT)
        return err;
    stored->length = length;
    if (stored->kind == KV_VALUE_LARGE) {
        const struct kv_blob_ref *refs = (const struct kv_blob_ref *)stored->bytes;
        stored->ref_count = length / sizeof *refs;
        for (size_t i = 0; i < stored->ref_count; i++) {
            uint64_t block;
            uint32_t count;
            const int bad = kv_blobs_extent(&store->blobs, &refs[i], &block, &count);
            if (bad)
                return bad;
        }
        stored->length = kv_large_length(refs, stored->ref_count);
        if (stored->length > KV_VALUE_MAX)
            return -EUCLEAN;
    }
    return 0;
}

/*
 * A patch whose result is large: keep the blobs that it does not touch, write anew those that
 * it does. A value that was inline is written whole.
 */
static int patch_large(struct kv_store *store, const struct stored *stored, struct kv_span patch,
                       size_t offset, size_t max, struct large *large, struct prepared *prepared)
{
    const struct kv_blob_ref *refs = (const struct kv_blob_ref *)stored->bytes;
    const size_t end_of_patch = offset + patch.length;
    const size_t new_length = kv_max_u64(stored->length, end_of_patch);
    size_t first = 0, start = 0; /* blobs wholly before the patch, and where they end */
    int err = 0;
    while (!err && first < stored->ref_count &&
           start + kv_blob_length(&refs[first]) <= kv_min_u64(offset, stored->length) &&
           !(first + 1 == stored->ref_count && new_length > stored->length)) {
        start += kv_blob_length(&refs[first]);
        err = large_keep(large, &refs[first++], max);
    }
    size_t last = stored->ref_count, end = stored->length; /* those wholly behind it */
    while (last > first && end - kv_blob_length(&refs[last - 1]) >= end_of_patch)
        end -= kv_blob_length(&refs[--last]);
    const size_t old_part = end - start;
    const size_t new_part = last == stored->ref_count ? new_length - start : old_part;
    uint8_t *bytes = err ? NULL : calloc(1, new_part ? new_part : 1);
    if (!bytes)
        return err ? err : -ENOMEM;
    if (stored->kind == KV_VALUE_LARGE)
        err = kv_store_read_large(store, refs + first, last - first, bytes);
    else if (stored->length)
        memcpy(bytes, stored->bytes, stored->length);
    if (!err && patch.length)
        memcpy(bytes + (offset - start), patch.data, patch.length);
    if (!err)
        err = large_write(store, large, bytes, new_part, max, prepared);
    for (; !err && last < stored->ref_count; last++)
        err = large_keep(large, &refs[last], max);
    free(bytes);
    return err;
}

static bool patches_key(const struct kv_batch *batch, const struct kv_batch_op *op,
                        struct kv_span key)
{
    const struct kv_span own = kv_batch_key(batch, op);
    return op->kind == KV_REDO_PATCH && !kv_key_compare(own.data, own.length, key.data, key.length);
}

static size_t patch_end(const struct kv_batch_op *op)
{
    return (size_t)op->argument + op->value_len;
}

/* All patches of the batch from `first` on that are of its key, as redo operations. */
static int add_inline_patches(struct kv_record *record, const struct kv_batch *batch, size_t first)
{
    const struct kv_span key = kv_batch_key(batch, &batch->ops[first]);
    int err = 0;
    for (size_t i = first; i < batch->count && !err; i++)
        if (patches_key(batch, &batch->ops[i], key))
            err = kv_record_add(record,
                                &(struct kv_redo){.kind = KV_REDO_PATCH,
                                                  .key = key,
                                                  .value = kv_batch_value(batch, &batch->ops[i]),
                                                  .argument = batch->ops[i].argument});
    return err;
}

/* Read what is stored of [start, end) of a value; zeroes behind its end. */
static int read_stored_range(struct kv_store *store, const struct stored *stored, size_t start,
                             size_t end, uint8_t *out)
{
    const size_t have = kv_min_u64(end, stored->length);
    memset(out, 0, end - start);
    if (start >= have)
        return 0;
    if (stored->kind == KV_VALUE_INLINE) {
        memcpy(out, stored->bytes + start, have - start);
        return 0;
    }
    const struct kv_blob_ref *refs = (const struct kv_blob_ref *)stored->bytes;
    size_t at = 0;
    for (size_t i = 0; i < stored->ref_count && at < have; i++) {
        const size_t length = kv_blob_length(&refs[i]);
        const size_t from = kv_max_u64(at, start), to = kv_min_u64(at + length, have);
        int err = 0;
        if (from < to)
            err =
                kv_blobs_read(&store->blobs, &refs[i], from - at, out + (from - start), to - from);
        if (err)
            return err;
        at += length;
    }
    return 0;
}

/* The same patches, of a value that is or becomes large: one patch of the range they cover. */
static int add_large_patches(struct kv_store *store, struct kv_record *record,
                             const struct kv_batch *batch, size_t first,
                             const struct stored *stored, struct prepared *prepared)
{
    const struct kv_span key = kv_batch_key(batch, &batch->ops[first]);
    size_t start = SIZE_MAX, end = 0;
    for (size_t i = first; i < batch->count; i++)
        if (patches_key(batch, &batch->ops[i], key)) {
            start = kv_min_u64(start, batch->ops[i].argument);
            end = kv_max_u64(end, patch_end(&batch->ops[i]));
        }
    uint8_t *bytes = malloc(end > start ? end - start : 1);
    if (!bytes)
        return -ENOMEM;
    int err = read_stored_range(store, stored, start, end, bytes);
    for (size_t i = first; i < batch->count && !err; i++) {
        const struct kv_span patch = kv_batch_value(batch, &batch->ops[i]);
        if (patches_key(batch, &batch->ops[i], key) && patch.length)
            memcpy(bytes + (batch->ops[i].argument - start), patch.data, patch.length);
    }
    struct large large = {.count = 0};
    if (!err)
        err = patch_large(store, stored, (struct kv_span){bytes, end - start}, start,
                          refs_max(store, key.length), &large, prepared);
    if (!err) {
        const struct kv_redo redo = large_redo(key, &large);
        err = kv_record_add(record, &redo);
    }
    free(bytes);
    return err;
}

/* The patch at `first` and all later ones of its key. */
static int add_patches(struct kv_store *store, struct kv_record *record,
                       const struct kv_batch *batch, size_t first, struct prepared *prepared)
{
    const struct kv_span key = kv_batch_key(batch, &batch->ops[first]);
    for (size_t i = 0; i < first; i++)
        if (patches_key(batch, &batch->ops[i], key))
            return 0; /* went in with that one */
    struct stored stored = {.bytes = malloc(store->node_bytes)};
    if (!stored.bytes)
        return -ENOMEM;
    int err = load_stored(store, key, &stored);
    size_t new_length = stored.length;
    for (size_t i = first; i < batch->count; i++)
        if (patches_key(batch, &batch->ops[i], key))
            new_length = kv_max_u64(new_length, patch_end(&batch->ops[i]));
    if (!err && (stored.kind == KV_VALUE_REF || new_length > KV_VALUE_MAX))
        err = -EINVAL;
    if (!err && stored.kind == KV_VALUE_INLINE &&
        new_length <= kv_node_inline_max(store->node_bytes, key.length))
        err = add_inline_patches(record, batch, first);
    else if (!err)
        err = add_large_patches(store, record, batch, first, &stored, prepared);
    free(stored.bytes);
    return err;
}

static int add_op(struct kv_store *store, struct kv_record *record, const struct kv_batch *batch,
                  size_t index, struct prepared *prepared)
{
    const struct kv_batch_op *op = &batch->ops[index];
    const struct kv_span key = kv_batch_key(batch, op);
    const struct kv_span value = kv_batch_value(batch, op);
    if (op->kind == KV_REDO_PATCH)
        return add_patches(store, record, batch, index, prepared);
    if (op->kind == KV_REDO_PUT &&
        value.length > kv_node_inline_max(store->node_bytes, key.length)) {
        struct large large = {.count = 0};
        const int err = large_write(store, &large, value.data, value.length,
                                    refs_max(store, key.length), prepared);
        const struct kv_redo redo = large_redo(key, &large);
        return err ? err : kv_record_add(record, &redo);
    }
    if (op->kind == KV_REDO_PUT_REF) {
        struct kv_blob_ref ref;
        uint64_t block;
        uint32_t count;
        memcpy(&ref, value.data + value.length - sizeof ref, sizeof ref);
        if (value.length > kv_node_inline_max(store->node_bytes, key.length) ||
            kv_blobs_extent(&store->blobs, &ref, &block, &count))
            return -EINVAL;
    }
    return kv_record_add(record, &(struct kv_redo){.kind = op->kind,
                                                   .use = op->use,
                                                   .key = key,
                                                   .value = value,
                                                   .argument = op->argument});
}

static bool has_patch(const struct kv_batch *batch)
{
    for (size_t i = 0; i < batch->count; i++)
        if (batch->ops[i].kind == KV_REDO_PATCH)
            return true;
    return false;
}

static int build_record(struct kv_store *store, const struct kv_batch *batch,
                        struct kv_record *record, struct prepared *prepared)
{
    record->length = 0;
    int err = 0;
    for (size_t i = 0; i < batch->count && !err; i++)
        err = add_op(store, record, batch, i, prepared);
    return err;
}

/* ---- before the first change ------------------------------------------------------- */

static bool prefix_has(struct kv_span range_upper, const void *key, size_t key_len)
{
    return !range_upper.length ||
           kv_key_compare(key, key_len, range_upper.data, range_upper.length) < 0;
}

/* Read the leaves of a range, so that damage shows before anything was changed. */
static int fault_range(struct kv_store *store, const struct kv_redo *redo, uint64_t *pages)
{
    uint8_t *leaf = malloc(store->node_bytes);
    uint8_t at[KV_KEY_MAX];
    size_t at_len = redo->key.length;
    if (!leaf)
        return -ENOMEM;
    if (at_len)
        memcpy(at, redo->key.data, at_len);
    int err;
    for (;;) {
        err = kv_btree_leaf_at(&store->trees[KV_TREE_KEYS], at, at_len, leaf);
        (*pages)++;
        const struct kv_bytes high = kv_node_high(leaf, store->node_bytes);
        if (err || !high.data || !prefix_has(redo->value, high.data, high.length))
            break;
        memcpy(at, high.data, high.length);
        at_len = high.length;
    }
    free(leaf);
    return err;
}

/* Bring every leaf that the record changes into memory, or say why that can not be. */
static int fault_record(struct kv_store *store, const struct kv_record *record, size_t *op_count,
                        uint64_t *range_pages)
{
    struct kv_redo redo;
    size_t at = 0;
    int err;
    *op_count = 0;
    *range_pages = 0;
    while (!(err = kv_record_next(record->bytes, record->length, &at, &redo))) {
        ++*op_count;
        if (redo.kind == KV_REDO_DEL_RANGE)
            err = fault_range(store, &redo, range_pages);
        else
            err = kv_btree_fault(&store->trees[KV_TREE_KEYS], redo.key.data, redo.key.length);
        if (err)
            return err;
    }
    return err == -ENOENT ? 0 : err;
}

/*
 * Is what the record refers to there? A new blob must have been written, a shared one be held.
 * Whether by a value or only by whoever wrote it is not known. Under the writer lock.
 */
static int check_refs(struct kv_store *store, const struct kv_record *record)
{
    struct kv_redo redo;
    size_t at = 0;
    int err;
    while (!(err = kv_record_next(record->bytes, record->length, &at, &redo))) {
        if (redo.kind != KV_REDO_PUT_REF)
            continue;
        struct kv_blob_ref ref;
        uint64_t block;
        uint32_t count;
        memcpy(&ref, redo.value.data + redo.value.length - sizeof ref, sizeof ref);
        err = kv_blobs_extent(&store->blobs, &ref, &block, &count);
        if (!err && !kv_space_owned(store->space, block, count))
            err = redo.use == KV_BLOB_SHARED ? -ENOENT : -EINVAL;
        if (err)
            return err;
    }
    return err == -ENOENT ? 0 : err;
}

/* Log room (-EAGAIN) and space (-ENOSPC) for the record. Under the writer lock. */
static int reserve(struct kv_store *store, const struct kv_record *record, uint64_t pages,
                   bool urgent)
{
    if (store->sync != KV_SYNC_CHECKPOINT) {
        const int err = kv_wal_room(store->wal, record->length);
        if (err)
            return err;
    }
    return kv_pager_reserve(store->pager, pages, urgent);
}

/* ---- apply -------------------------------------------------------------------------- */

/* Under the writer lock: change the trees, then the log. */
static int change(struct kv_store *store, const struct kv_record *record, uint64_t *position)
{
    const uint64_t changes = kv_pager_changes(store->pager);
    int err = kv_store_apply_record(store, record->bytes, record->length);
    if (err && kv_pager_changes(store->pager) == changes)
        return err; /* a page in the way could not be had; nothing has happened yet */
    if (err)
        return kv_store_fail(store, err, "applying a batch");
    store->changed = true;
    store->log_since_checkpoint += record->length;
    *position = 0;
    if (store->sync == KV_SYNC_CHECKPOINT)
        return 0;
    const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    err = kv_wal_append(store->wal, record->bytes, record->length, epoch, position);
    return err ? kv_store_fail(store, err, "writing the log") : 0;
}

/* A batch on its way in. */
struct attempt {
    const struct kv_batch *batch;
    bool late; /* it has patches, which depend on what is stored: built under the lock */
    bool urgent;
    bool ready; /* the record is built */
    struct kv_record record;
    struct prepared prepared;
    size_t op_count;
    uint64_t range_pages;
    uint64_t epoch; /* that was open when it was tried */
    bool want_checkpoint;
};

/* Build the record; its blobs are written. */
static int prepare(struct kv_store *store, struct attempt *attempt)
{
    int err = build_record(store, attempt->batch, &attempt->record, &attempt->prepared);
    if (!err)
        err = fault_record(store, &attempt->record, &attempt->op_count, &attempt->range_pages);
    attempt->ready = !err;
    return err;
}

static void unprepare(struct kv_store *store, struct attempt *attempt)
{
    discard_fresh(store, &attempt->prepared);
    attempt->ready = false;
}

/* With the writer lock. */
static int try_locked(struct kv_store *store, struct attempt *attempt, uint64_t *position)
{
    attempt->epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    int err = atomic_load_explicit(&store->failure, memory_order_acquire) ? -EROFS : 0;
    if (!err && !attempt->ready)
        err = prepare(store, attempt);
    if (!err)
        err = check_refs(store, &attempt->record);
    if (err)
        return err;
    const uint64_t pages = kv_store_pages_needed(store, attempt->op_count, attempt->record.length,
                                                 attempt->range_pages);
    err = reserve(store, &attempt->record, pages, attempt->urgent);
    if (err)
        return err;
    err = change(store, &attempt->record, position);
    kv_pager_unreserve(store->pager);
    attempt->want_checkpoint =
        store->log_since_checkpoint >= store->log_checkpoint_bytes || kv_wal_is_short(store->wal);
    return err;
}

static int try_apply(struct kv_store *store, struct attempt *attempt, uint64_t *position)
{
    int err = 0;
    attempt->epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    /* Pages are read in before the lock is taken, so that others need not wait for it. */
    if (!attempt->late && !attempt->ready)
        err = prepare(store, attempt);
    if (err)
        return err;
    pthread_mutex_lock(&store->writer);
    err = try_locked(store, attempt, position);
    pthread_mutex_unlock(&store->writer);
    return err;
}

/* There is space that the next checkpoint gives back. */
static bool checkpoint_may_help(struct kv_store *store)
{
    struct kv_space_stats stats;
    kv_space_stats(store->space, &stats);
    return stats.deferred_blocks || stats.reserved_blocks;
}

#define CHECKPOINTS_FOR_SPACE 3u

/* Try until it is done, fails, or no checkpoint helps any more. */
static int apply_attempt(struct kv_store *store, struct attempt *attempt, uint64_t *position)
{
    for (unsigned short_of_space = 0;;) {
        int err = try_apply(store, attempt, position);
        if (err == -ENOSPC && short_of_space++ < CHECKPOINTS_FOR_SPACE &&
            checkpoint_may_help(store))
            err = -EAGAIN;
        if (err != -EAGAIN)
            return err;
        if (attempt->late || !attempt->ready)
            unprepare(store, attempt);
        /* Each makes the log empty up to here: this ends as soon as others let us in. */
        err = kv_store_checkpoint_of(store, attempt->epoch);
        if (err)
            return err;
    }
}

int kv_apply(struct kv_store *store, const struct kv_batch *batch, unsigned flags,
             uint64_t *position)
{
    if (store->read_only)
        return -EROFS;
    struct attempt attempt = {
        .batch = batch, .late = has_patch(batch), .urgent = flags & KV_APPLY_URGENT};
    uint64_t end = 0;
    int err = 0;
    if (batch->count)
        err = apply_attempt(store, &attempt, &end);
    else if (store->sync != KV_SYNC_CHECKPOINT)
        end = kv_wal_position(store->wal);
    if (attempt.want_checkpoint)
        kv_store_want_checkpoint(store);
    if (err == -ENOSPC || (!err && !attempt.urgent))
        kv_store_note_host(store, err == -ENOSPC);
    if (err && !atomic_load_explicit(&store->failure, memory_order_acquire))
        discard_fresh(store, &attempt.prepared);
    free(attempt.prepared.fresh);
    kv_record_release(&attempt.record);
    if (err)
        return err;
    (void)atomic_fetch_add_explicit(&store->batches, 1, memory_order_relaxed);
    if (position)
        *position = end;
    if (store->sync == KV_SYNC_ALWAYS || (flags & KV_APPLY_SYNC))
        return kv_sync_to(store, end);
    return 0;
}

/* ---- blobs of the public interface -------------------------------------------------- */

int kv_blob_write(struct kv_store *store, const void *bytes, size_t length,
                  const struct kv_codec_spec *codec, struct kv_blob_ref *ref, size_t *written)
{
    if (store->read_only)
        return -EROFS;
    for (unsigned tries = 0;; tries++) {
        const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
        int err = write_blob(store, bytes, length, codec, ref, written);
        if (err != -ENOSPC || tries == 1 || !checkpoint_may_help(store)) {
            if (!err || err == -ENOSPC)
                kv_store_note_host(store, err == -ENOSPC);
            return err;
        }
        err = kv_store_checkpoint_of(store, epoch);
        if (err)
            return err;
    }
}

void kv_blob_discard(struct kv_store *store, const struct kv_blob_ref *ref)
{
    uint64_t block;
    uint32_t count;
    if (!kv_blobs_extent(&store->blobs, ref, &block, &count))
        kv_space_unalloc(store->space, block, count);
}

int kv_blob_read(struct kv_store *store, const struct kv_blob_ref *ref, size_t offset, void *buf,
                 size_t length)
{
    return kv_blobs_read(&store->blobs, ref, offset, buf, length);
}
