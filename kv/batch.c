/*
 * kv/batch.c: a batch in memory, and one change as the log holds it.
 *
 * Owns       the batch's operations and copied bytes.
 * Invariant  every span of an operation lies inside batch->bytes. A patch of a key that the
 *            batch puts or deletes is folded into a put, so patches are always of stored values.
 * Locks      none: a batch belongs to one thread at a time.
 */
#include "kv/batch.h"

#include "kv/format.h"

/* The head of one operation, in a record and in a batch. */
struct disk_redo {
    uint8_t kind;
    uint8_t use;
    kv_le16 key_bytes;
    kv_le32 value_bytes;
    kv_le64 argument;
};
static_assert(sizeof(struct disk_redo) == 16, "redo header is part of the format");

/* ---- building ---------------------------------------------------------------- */

struct kv_batch *kv_batch_new(void)
{
    struct kv_batch *batch = malloc(sizeof *batch);
    if (!batch)
        return NULL;
    batch->ops = batch->few_ops;
    batch->capacity = sizeof batch->few_ops / sizeof batch->few_ops[0];
    batch->bytes = batch->few_bytes;
    batch->bytes_capacity = sizeof batch->few_bytes;
    kv_batch_clear(batch);
    return batch;
}

void kv_batch_free(struct kv_batch *batch)
{
    if (!batch)
        return;
    if (batch->ops != batch->few_ops)
        free(batch->ops);
    if (batch->bytes != batch->few_bytes)
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

#define BYTES_FIRST 1024u

/*
 * Make `array` hold `need` elements; BYTES_FIRST at first, then it doubles. few: what it is as long
 * as it is not allocated, of which the first `used` are kept; or NULL.
 */
static int grow(void **array, size_t *capacity, size_t need, size_t element_bytes, const void *few,
                size_t used)
{
    if (need <= *capacity)
        return 0;
    size_t bigger = *capacity ? 2 * *capacity : BYTES_FIRST;
    while (bigger < need)
        bigger *= 2;
    const bool is_few = few && *array == few;
    void *moved = realloc(is_few ? NULL : *array, bigger * element_bytes);
    if (!moved)
        return -ENOMEM;
    if (is_few)
        memcpy(moved, few, used * element_bytes);
    *array = moved;
    *capacity = bigger;
    return 0;
}

int kv_batch_make_room(struct kv_batch *batch, size_t count, size_t bytes)
{
    const int err = grow((void **)&batch->ops, &batch->capacity, batch->count + count,
                         sizeof *batch->ops, batch->few_ops, batch->count);
    return err ? err
               : grow((void **)&batch->bytes, &batch->bytes_capacity, batch->length + bytes, 1,
                      batch->few_bytes, batch->length);
}

static void put_head(uint8_t *at, const struct kv_redo *redo)
{
    const struct disk_redo head = {.kind = (uint8_t)redo->kind,
                                   .use = redo->use,
                                   .key_bytes = kv_le16_of((uint16_t)redo->key.length),
                                   .value_bytes = kv_le32_of((uint32_t)redo->value.length),
                                   .argument = kv_le64_of(redo->argument)};
    memcpy(at, &head, sizeof head);
}

/*
 * Add an operation. What its value begins with may stand elsewhere, in `first`; then redo->value
 * is the rest.
 */
static int add_op(struct kv_batch *batch, struct kv_redo redo, struct kv_span first)
{
    const struct kv_span rest = redo.value;
    redo.value.length += first.length;
    const size_t extra = sizeof(struct disk_redo) + redo.key.length + redo.value.length;
    const int err = kv_batch_make_room(batch, 1, extra);
    if (err)
        return err;
    const size_t key_at = batch->length + sizeof(struct disk_redo);
    batch->ops[batch->count++] = (struct kv_batch_op){.kind = redo.kind,
                                                      .use = redo.use,
                                                      .key_at = key_at,
                                                      .key_len = redo.key.length,
                                                      .value_at = key_at + redo.key.length,
                                                      .value_len = redo.value.length,
                                                      .argument = redo.argument};
    put_head(batch->bytes + batch->length, &redo);
    uint8_t *at = batch->bytes + key_at;
    kv_copy_short(at, redo.key.data, redo.key.length);
    kv_copy_short(at + redo.key.length, first.data, first.length);
    if (rest.length)
        kv_copy_short(at + redo.key.length + first.length, rest.data, rest.length);
    batch->length += extra;
    return 0;
}

int kv_batch_add_redo(struct kv_batch *batch, const struct kv_redo *redo)
{
    return add_op(batch, *redo, (struct kv_span){0});
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
    return add_op(
        batch,
        (struct kv_redo){.kind = KV_REDO_PUT, .key = {key, key_len}, .value = {value, value_len}},
        (struct kv_span){0});
}

int kv_batch_del(struct kv_batch *batch, const void *key, size_t key_len)
{
    if (!key_length_ok(key_len))
        return -EINVAL;
    return add_op(batch, (struct kv_redo){.kind = KV_REDO_DEL, .key = {key, key_len}},
                  (struct kv_span){0});
}

int kv_batch_del_range(struct kv_batch *batch, const void *lower, size_t lower_len,
                       const void *upper, size_t upper_len)
{
    if (lower_len > KV_KEY_MAX || upper_len > KV_KEY_MAX)
        return -EINVAL;
    return add_op(batch,
                  (struct kv_redo){.kind = KV_REDO_DEL_RANGE,
                                   .key = {lower, lower_len},
                                   .value = {upper, upper_len}},
                  (struct kv_span){0});
}

int kv_batch_put_blob(struct kv_batch *batch, const void *key, size_t key_len, const void *head,
                      size_t head_len, const struct kv_blob_ref *ref, enum kv_blob_use use)
{
    struct kv_disk_blob_ref disk;
    memcpy(&disk, ref, sizeof disk);
    const size_t table_max = disk.form == KV_BLOB_FORM_FRAMES ? KV_BLOB_TABLE_MAX : 0;
    if (!key_length_ok(key_len) || head_len > KV_BLOB_HEAD_MAX + table_max ||
        (use != KV_BLOB_NEW && use != KV_BLOB_SHARED))
        return -EINVAL;
    return add_op(batch,
                  (struct kv_redo){.kind = KV_REDO_PUT_REF,
                                   .use = (uint8_t)use,
                                   .key = {key, key_len},
                                   .value = {ref->bytes, sizeof ref->bytes}},
                  (struct kv_span){head, head_len});
}

size_t kv_batch_op_at(const struct kv_batch *batch, size_t index)
{
    return batch->ops[index].key_at - sizeof(struct disk_redo);
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
    return add_op(batch,
                  (struct kv_redo){
                      .kind = KV_REDO_PATCH, .key = key_span, .value = patch, .argument = offset},
                  (struct kv_span){0});
}

/* ---- records ------------------------------------------------------------------ */

int kv_record_add(struct kv_record *record, const struct kv_redo *redo)
{
    const size_t need = sizeof(struct disk_redo) + redo->key.length + redo->value.length;
    KV_ASSERT(!record->length || record->bytes == record->own);
    const int err =
        grow((void **)&record->own, &record->capacity, record->length + need, 1, NULL, 0);
    if (err)
        return err;
    uint8_t *at = record->own + record->length;
    put_head(at, redo);
    at += sizeof(struct disk_redo);
    if (redo->key.length)
        memcpy(at, redo->key.data, redo->key.length);
    if (redo->value.length)
        memcpy(at + redo->key.length, redo->value.data, redo->value.length);
    record->bytes = record->own;
    record->length += need;
    return 0;
}

void kv_record_release(struct kv_record *record)
{
    free(record->own);
    free(record->order.places);
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
               redo->value.length <= KV_BLOB_HEAD_MAX + KV_BLOB_TABLE_MAX + ref_bytes &&
               redo->use <= KV_BLOB_SHARED;
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
