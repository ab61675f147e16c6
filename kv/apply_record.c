/*
 * kv/apply_record.c: from a batch to a record: what is long becomes blobs, patches what they give.
 *
 * Owns       the blobs that were written for a batch, until it is applied.
 * Invariant  every blob that a record calls new was written for it. Nothing is changed here: what
 *            is discarded leaves no trace.
 * Locks      the writer lock when the batch has patches; else none is needed.
 */
#include "kv/apply_record.h"

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

void kv_prepared_discard(struct kv_store *store, struct prepared *prepared)
{
    for (size_t i = 0; i < prepared->count; i++)
        kv_blob_discard(store, &prepared->fresh[i]);
    prepared->count = 0;
}

/* ---- large values ----------------------------------------------------------------- */

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

int kv_apply_write_blobs(struct kv_store *store, struct kv_blob_source *sources, size_t count,
                         const struct kv_codec_spec *codec)
{
    for (size_t i = 0; i < count; i++)
        sources[i].written = 0;
    if (atomic_load_explicit(&store->failure, memory_order_acquire))
        return -EROFS;
    const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    const int err = kv_blobs_write_many(&store->blobs, sources, count, codec, epoch);
    return err == -EIO ? kv_store_fail(store, err, "writing a blob") : err;
}

/* Write bytes as blobs and append their references. */
static int large_write(struct kv_store *store, struct large *large, const uint8_t *bytes,
                       size_t length, size_t max, struct prepared *prepared)
{
    while (length) {
        if (large->count >= max)
            return -ENOSPC;
        struct kv_blob_source source = {.bytes = bytes, .length = kv_min_u64(length, KV_BLOB_MAX)};
        int err = kv_apply_write_blobs(store, &source, 1, NULL);
        if (err)
            return err;
        err = note_fresh(prepared, &source.ref);
        if (err) {
            kv_blob_discard(store, &source.ref);
            return err;
        }
        large->fresh_mask |= 1ull << large->count;
        large->refs[large->count++] = source.ref;
        bytes += source.written;
        length -= source.written;
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

/* ---- patches ---------------------------------------------------------------------- */

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
        const struct kv_blob_part part = {
            .ref = refs[i], .buf = out + (from - start), .offset = from - at, .length = to - from};
        const int err = from < to ? kv_blobs_read(&store->blobs, &part, 1) : 0;
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

/* ---- the record ------------------------------------------------------------------- */

/* Can the leaf hold a reference with what stands before it, and is that one of a blob? */
static bool ref_fits(const struct kv_store *store, size_t key_len, struct kv_span value)
{
    struct kv_blob_ref ref;
    uint64_t block;
    uint32_t count;
    memcpy(&ref, value.data + value.length - sizeof ref, sizeof ref);
    return value.length <= kv_node_inline_max(store->node_bytes, key_len) &&
           !kv_blobs_extent(&store->blobs, &ref, &block, &count);
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
    if (op->kind == KV_REDO_PUT_REF && !ref_fits(store, key.length, value))
        return -EINVAL;
    return kv_record_add(record, &(struct kv_redo){.kind = op->kind,
                                                   .use = op->use,
                                                   .key = key,
                                                   .value = value,
                                                   .argument = op->argument});
}

/* Does the batch say what its record would say? */
static bool is_record(const struct kv_store *store, const struct kv_batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        const struct kv_batch_op *op = &batch->ops[i];
        const bool same = op->kind == KV_REDO_DEL || op->kind == KV_REDO_DEL_RANGE ||
                          (op->kind == KV_REDO_PUT_REF &&
                           ref_fits(store, op->key_len, kv_batch_value(batch, op))) ||
                          (op->kind == KV_REDO_PUT &&
                           op->value_len <= kv_node_inline_max(store->node_bytes, op->key_len));
        if (!same)
            return false;
    }
    return true;
}

int kv_record_build(struct kv_store *store, const struct kv_batch *batch, struct kv_record *record,
                    struct prepared *prepared)
{
    bool refs = false, ranges = false;
    for (size_t i = 0; i < batch->count; i++) {
        refs = refs || batch->ops[i].kind == KV_REDO_PUT_REF;
        ranges = ranges || batch->ops[i].kind == KV_REDO_DEL_RANGE;
    }
    record->order.count = 0;
    record->single = !ranges;
    record->plain = false;
    if (is_record(store, batch)) {
        record->plain = !refs && !ranges;
        record->bytes = batch->bytes;
        record->length = batch->length;
        if (record->plain && batch->count >= KV_ORDERED_MIN)
            kv_batch_order(batch, &record->order);
        return 0;
    }
    record->length = 0;
    int err = 0;
    for (size_t i = 0; i < batch->count && !err; i++)
        err = add_op(store, record, batch, i, prepared);
    return err;
}
