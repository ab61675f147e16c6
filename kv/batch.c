/*
 * kv/batch.c: a batch in memory, and one change as the log holds it.
 *
 * Owns       the batch's operations and copied bytes.
 * Invariant  every span of an operation lies inside batch->bytes. A patch of a key that the
 *            batch puts or deletes is folded into a put, so patches are always of stored values.
 * Locks      none: a batch belongs to one thread at a time.
 */
#include "kv/batch.h"

/* ---- building ---------------------------------------------------------------- */

struct kv_batch *kv_batch_new(void)
{
    return calloc(1, sizeof(struct kv_batch));
}

void kv_batch_free(struct kv_batch *batch)
{
    if (!batch)
        return;
    free(batch->ops);
    free(batch->bytes);
    free(batch);
}

void kv_batch_clear(struct kv_batch *batch)
{
    batch->count = 0;
    batch->length = 0;
}

size_t kv_batch_count(const struct kv_batch *batch)
{
    return batch->count;
}

/* Make `array` hold `need` elements; doubles. */
static int grow(void **array, size_t *capacity, size_t need, size_t element_bytes)
{
    if (need <= *capacity)
        return 0;
    size_t bigger = *capacity ? 2 * *capacity : 16;
    while (bigger < need)
        bigger *= 2;
    void *moved = realloc(*array, bigger * element_bytes);
    if (!moved)
        return -ENOMEM;
    *array = moved;
    *capacity = bigger;
    return 0;
}

/* Add an operation with room for its bytes: key, then head, then value (which may be NULL). */
static int add_op(struct kv_batch *batch, enum kv_redo_kind kind, struct kv_span key,
                  struct kv_span head, struct kv_span value, struct kv_batch_op **out)
{
    const size_t extra = key.length + head.length + value.length;
    int err = grow((void **)&batch->ops, &batch->capacity, batch->count + 1, sizeof *batch->ops);
    if (!err)
        err = grow((void **)&batch->bytes, &batch->bytes_capacity, batch->length + extra, 1);
    if (err)
        return err;
    struct kv_batch_op *op = &batch->ops[batch->count++];
    *op = (struct kv_batch_op){.kind = kind,
                               .key_at = batch->length,
                               .key_len = key.length,
                               .value_at = batch->length + key.length,
                               .value_len = head.length + value.length};
    uint8_t *at = batch->bytes + batch->length;
    if (key.length)
        memcpy(at, key.data, key.length);
    if (head.length)
        memcpy(at + key.length, head.data, head.length);
    if (value.length)
        memcpy(at + key.length + head.length, value.data, value.length);
    batch->length += extra;
    *out = op;
    return 0;
}

static bool key_length_ok(size_t key_len)
{
    return key_len >= 1 && key_len <= KV_KEY_MAX;
}

int kv_batch_put(struct kv_batch *batch, const void *key, size_t key_len, const void *value,
                 size_t value_len)
{
    if (!key_length_ok(key_len) || value_len > KV_VALUE_MAX)
        return -EINVAL;
    struct kv_batch_op *op;
    return add_op(batch, KV_REDO_PUT, (struct kv_span){key, key_len}, (struct kv_span){0},
                  (struct kv_span){value, value_len}, &op);
}

int kv_batch_del(struct kv_batch *batch, const void *key, size_t key_len)
{
    if (!key_length_ok(key_len))
        return -EINVAL;
    struct kv_batch_op *op;
    return add_op(batch, KV_REDO_DEL, (struct kv_span){key, key_len}, (struct kv_span){0},
                  (struct kv_span){0}, &op);
}

int kv_batch_del_range(struct kv_batch *batch, const void *lower, size_t lower_len,
                       const void *upper, size_t upper_len)
{
    if (lower_len > KV_KEY_MAX || upper_len > KV_KEY_MAX)
        return -EINVAL;
    struct kv_batch_op *op;
    return add_op(batch, KV_REDO_DEL_RANGE, (struct kv_span){lower, lower_len}, (struct kv_span){0},
                  (struct kv_span){upper, upper_len}, &op);
}

int kv_batch_put_blob(struct kv_batch *batch, const void *key, size_t key_len, const void *head,
                      size_t head_len, const struct kv_blob_ref *ref, enum kv_blob_use use)
{
    if (!key_length_ok(key_len) || head_len > KV_BLOB_HEAD_MAX ||
        (use != KV_BLOB_NEW && use != KV_BLOB_SHARED))
        return -EINVAL;
    struct kv_batch_op *op;
    const int err = add_op(batch, KV_REDO_PUT_REF, (struct kv_span){key, key_len},
                           (struct kv_span){head, head_len},
                           (struct kv_span){ref->bytes, sizeof ref->bytes}, &op);
    if (!err)
        op->use = (uint8_t)use;
    return err;
}

/* ---- patches ------------------------------------------------------------------- */

/* Does the operation decide what `key` holds after it? */
static bool touches(const struct kv_batch *batch, const struct kv_batch_op *op, struct kv_span key)
{
    const struct kv_span own = kv_batch_key(batch, op);
    const int order = kv_key_compare(own.data, own.length, key.data, key.length);
    if (op->kind != KV_REDO_DEL_RANGE)
        return order == 0;
    const struct kv_span upper = kv_batch_value(batch, op);
    return order <= 0 &&
           (!upper.length || kv_key_compare(key.data, key.length, upper.data, upper.length) < 0);
}

/* The patched value of a key whose value so far is `base`, as one more put. */
static int put_patched(struct kv_batch *batch, struct kv_span key, struct kv_span base,
                       size_t offset, struct kv_span bytes)
{
    const size_t length = kv_max_u64(base.length, offset + bytes.length);
    uint8_t *value = calloc(1, length ? length : 1);
    if (!value)
        return -ENOMEM;
    if (base.length)
        memcpy(value, base.data, base.length);
    if (bytes.length)
        memcpy(value + offset, bytes.data, bytes.length);
    const int err = kv_batch_put(batch, key.data, key.length, value, length);
    free(value);
    return err;
}

int kv_batch_patch(struct kv_batch *batch, const void *key, size_t key_len, size_t offset,
                   const void *bytes, size_t length)
{
    if (!key_length_ok(key_len) || offset > KV_VALUE_MAX || length > KV_VALUE_MAX - offset)
        return -EINVAL;
    const struct kv_span key_span = {key, key_len};
    const struct kv_span patch = {bytes, length};
    for (size_t i = batch->count; i-- > 0;) {
        const struct kv_batch_op *op = &batch->ops[i];
        if (!touches(batch, op, key_span))
            continue;
        if (op->kind == KV_REDO_PUT)
            return put_patched(batch, key_span, kv_batch_value(batch, op), offset, patch);
        if (op->kind == KV_REDO_DEL || op->kind == KV_REDO_DEL_RANGE)
            return put_patched(batch, key_span, (struct kv_span){0}, offset, patch);
        if (op->kind == KV_REDO_PUT_REF)
            return -EINVAL;
        break; /* one more patch of what is stored */
    }
    struct kv_batch_op *op;
    const int err = add_op(batch, KV_REDO_PATCH, key_span, (struct kv_span){0}, patch, &op);
    if (!err)
        op->argument = offset;
    return err;
}

/* ---- records ------------------------------------------------------------------ */

struct disk_redo {
    uint8_t kind;
    uint8_t use;
    kv_le16 key_bytes;
    kv_le32 value_bytes;
    kv_le64 argument;
};
_Static_assert(sizeof(struct disk_redo) == 16, "redo header is part of the format");

int kv_record_add(struct kv_record *record, const struct kv_redo *redo)
{
    const size_t need = sizeof(struct disk_redo) + redo->key.length + redo->value.length;
    const int err = grow((void **)&record->bytes, &record->capacity, record->length + need, 1);
    if (err)
        return err;
    const struct disk_redo head = {.kind = (uint8_t)redo->kind,
                                   .use = redo->use,
                                   .key_bytes = kv_le16_of((uint16_t)redo->key.length),
                                   .value_bytes = kv_le32_of((uint32_t)redo->value.length),
                                   .argument = kv_le64_of(redo->argument)};
    uint8_t *at = record->bytes + record->length;
    memcpy(at, &head, sizeof head);
    if (redo->key.length)
        memcpy(at + sizeof head, redo->key.data, redo->key.length);
    if (redo->value.length)
        memcpy(at + sizeof head + redo->key.length, redo->value.data, redo->value.length);
    record->length += need;
    return 0;
}

void kv_record_release(struct kv_record *record)
{
    free(record->bytes);
    *record = (struct kv_record){0};
}

/* Are the lengths and arguments of a decoded operation possible? */
static bool redo_plausible(const struct kv_redo *redo)
{
    const size_t ref_bytes = sizeof(struct kv_blob_ref);
    if (redo->kind != KV_REDO_DEL_RANGE && !redo->key.length)
        return false;
    switch (redo->kind) {
    case KV_REDO_PUT:
        return true;
    case KV_REDO_DEL:
        return redo->value.length == 0;
    case KV_REDO_DEL_RANGE:
        return redo->value.length <= KV_KEY_MAX;
    case KV_REDO_PATCH:
        return redo->argument <= KV_VALUE_MAX &&
               redo->value.length <= KV_VALUE_MAX - redo->argument;
    case KV_REDO_PUT_REF:
        return redo->value.length >= ref_bytes &&
               redo->value.length <= KV_BLOB_HEAD_MAX + ref_bytes && redo->use <= KV_BLOB_SHARED;
    case KV_REDO_PUT_LARGE:
        return redo->value.length && redo->value.length % ref_bytes == 0 &&
               redo->value.length / ref_bytes <= KV_LARGE_REFS_MAX;
    }
    return false;
}

int kv_record_next(const uint8_t *body, size_t length, size_t *at, struct kv_redo *redo)
{
    if (*at == length)
        return -ENOENT;
    struct disk_redo head;
    if (length - *at < sizeof head)
        return -EUCLEAN;
    memcpy(&head, body + *at, sizeof head);
    const size_t key_len = kv_le16_get(head.key_bytes);
    const size_t value_len = kv_le32_get(head.value_bytes);
    const size_t left = length - *at - sizeof head;
    if (key_len > KV_KEY_MAX || key_len > left || value_len > left - key_len)
        return -EUCLEAN;
    *redo = (struct kv_redo){.kind = head.kind,
                             .use = head.use,
                             .key = {body + *at + sizeof head, key_len},
                             .value = {body + *at + sizeof head + key_len, value_len},
                             .argument = kv_le64_get(head.argument)};
    if (!redo_plausible(redo))
        return -EUCLEAN;
    *at += sizeof head + key_len + value_len;
    return 0;
}
