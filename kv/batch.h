/*
 * kv/batch.h: a batch in memory, and one change as the log holds it.
 *
 * A batch is what the caller asked for. Before it is applied it is turned into redo
 * operations: the same, but with large values replaced by references to the blobs that hold
 * them. Redo operations are what the log stores and what replay applies: there is one way to
 * apply a change. A batch lies in memory as the record of its operations, so that one where
 * nothing is to be replaced is its own record.
 *
 * Record body: redo operations one after another, each
 *    kind(1) use(1) key length(2) value length(4) argument(8) key value
 */
#ifndef KV_BATCH_H
#define KV_BATCH_H

#include "kv/base.h"
#include "kv/kv.h"

struct kv_span {
    const uint8_t *data;
    size_t length;
};

enum kv_redo_kind {
    KV_REDO_PUT = 1,       /* value: the value */
    KV_REDO_DEL = 2,       /* no value */
    KV_REDO_DEL_RANGE = 3, /* key: lower (may be empty), value: upper (empty: no end) */
    KV_REDO_PATCH = 4,     /* value: bytes, argument: offset */
    KV_REDO_PUT_REF = 5,   /* value: head and reference, use: enum kv_blob_use */
    KV_REDO_PUT_LARGE = 6, /* value: references, argument: bit i set: reference i is new */
};

struct kv_redo {
    enum kv_redo_kind kind;
    uint8_t use;
    struct kv_span key, value;
    uint64_t argument;
};

#define KV_LARGE_REFS_MAX 64u /* references in one large value */

/* The order in which operations of a record are applied: by ascending keys, or as they lie. */
struct kv_record_order {
    uint32_t *places; /* own: where each begins in the record */
    size_t count;     /* 0: as they lie */
};

/* A record: bytes of its own that grow, or those of a batch. */
struct kv_record {
    const uint8_t *bytes; /* own, or borrowed */
    size_t length;
    uint8_t *own;
    size_t capacity; /* of own */
    bool plain;      /* each operation is of one key, and none refers to a blob */
    bool single;     /* each operation is of one key */
    struct kv_record_order order;
};

KV_MUST_CHECK int kv_record_add(struct kv_record *record, const struct kv_redo *redo);
void kv_record_release(struct kv_record *record);
/*
 * The next operation of an untrusted record body; *at starts as 0. Spans point into it.
 * 0; -ENOENT at the end; -EUCLEAN nonsense.
 */
KV_MUST_CHECK int kv_record_next(const uint8_t *body, size_t length, size_t *at,
                                 struct kv_redo *redo);

/* Walks a record that is trusted, in its order. */
struct kv_record_walk {
    const struct kv_record *record;
    size_t at, ordered; /* where the next operation begins; how many came by the order */
};
static inline int kv_record_walk(struct kv_record_walk *walk, struct kv_redo *redo)
{
    const struct kv_record *record = walk->record;
    if (record->order.count) {
        if (walk->ordered == record->order.count)
            return -ENOENT;
        walk->at = record->order.places[walk->ordered++];
    }
    return kv_record_next(record->bytes, record->length, &walk->at, redo);
}

/* An operation of a batch; keys and values lie in batch->bytes, behind their heads. */
struct kv_batch_op {
    enum kv_redo_kind kind; /* PUT_LARGE only by kv_batch_add_redo */
    uint8_t use;
    size_t key_at, key_len, value_at, value_len;
    uint64_t argument;
};

struct kv_batch {
    struct kv_batch_op *ops;
    size_t count, capacity;
    uint8_t *bytes;
    size_t length, bytes_capacity;
    /* Where a small batch lies: with these it is as long as malloc has ready for a thread. */
    struct kv_batch_op few_ops[4];
    uint8_t few_bytes[704];
};

static inline struct kv_span kv_batch_key(const struct kv_batch *batch,
                                          const struct kv_batch_op *op)
{
    return (struct kv_span){batch->bytes + op->key_at, op->key_len};
}
static inline struct kv_span kv_batch_value(const struct kv_batch *batch,
                                            const struct kv_batch_op *op)
{
    return (struct kv_span){batch->bytes + op->value_at, op->value_len};
}

/* An operation of a record, as it is: nothing is checked or folded. 0; -ENOMEM. */
KV_MUST_CHECK int kv_batch_add_redo(struct kv_batch *batch, const struct kv_redo *redo);

/* Room for so many operations more, of so many bytes in all (kv_batch.length): adding them does not
 * fail. 0; -ENOMEM. */
KV_MUST_CHECK int kv_batch_make_room(struct kv_batch *batch, size_t count, size_t bytes);

/* Where the operation begins in batch->bytes. */
size_t kv_batch_op_at(const struct kv_batch *batch, size_t index);

/*
 * The order of a batch by ascending keys, for who applies it: leaves are then met one after the
 * other. Nobody may ask for it unless each operation is of one key. Where there is no memory for
 * that it stays as it lies, and so it does where it is in order.
 */
void kv_batch_order(const struct kv_batch *batch, struct kv_record_order *order);

#endif
