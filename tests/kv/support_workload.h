/*
 * tests/kv/support_workload.h: changes of a store, each beside a history that remembers what it
 * must have done and the promises that were made.
 *
 * All is decided by one source of random numbers. One thread. Aborts when the machine does not
 * play along; what the store says is returned.
 */
#ifndef TESTS_KV_SUPPORT_WORKLOAD_H
#define TESTS_KV_SUPPORT_WORKLOAD_H

#include "support_history.h"
#include "support_promises.h"
#include "support_store.h"

#define WORK_BATCH_MAX       8u
#define WORK_PLAIN_KEY_COUNT 120u
#define WORK_BLOB_KEY_COUNT  16u

/* What a batch does. Keys are chosen at random, but for those that must be there. */
enum work_op {
    WORK_PUT,       /* a short value under any key */
    WORK_PUT_LARGE, /* a value that does not fit into a page */
    WORK_OVERWRITE, /* a value of any length over one that is there */
    WORK_DEL,       /* a key that is there */
    WORK_DEL_RANGE,
    WORK_PATCH,       /* inside of a value, at its end or beyond */
    WORK_BLOB,        /* a new blob */
    WORK_SHARED_BLOB, /* one more key for a blob that is there */
    WORK_DEL_BLOB,    /* a blob's key */
    WORK_DISCARD,     /* a blob that is written and given up, and a put */
    WORK_SEVERAL,     /* several of all these in one batch */
    WORK_MANY,        /* so many puts that pages split */
    WORK_DEL_MANY,    /* so many deletions that pages merge */
    WORK_OP_COUNT
};
extern const char *const work_op_names[WORK_OP_COUNT];

/* How it becomes durable. */
enum work_settle {
    SETTLE_NOT,
    SETTLE_APPLY,      /* KV_APPLY_SYNC */
    SETTLE_SYNC,       /* kv_sync */
    SETTLE_SYNC_TO,    /* kv_sync_to the batch's position */
    SETTLE_CHECKPOINT, /* kv_checkpoint */
    SETTLE_CLOSE,      /* kv_close, and opened again */
    SETTLE_COUNT
};
extern const char *const work_settle_names[SETTLE_COUNT];

struct workload {
    struct kv_store *store;    /* on `device`; the caller's to close or abandon in the end */
    struct kv_device *device;  /* of the promises' recorder; SETTLE_CLOSE opens it again */
    struct promises *promises; /* borrowed, as the next two */
    struct history *history;
    struct test_random *random;
    enum kv_sync_mode sync;

    struct kv_batch *batch;
    uint8_t *bytes;                           /* room for any value or blob */
    struct kv_blob_ref fresh[WORK_BATCH_MAX]; /* blobs that the batch makes its own */
    size_t fresh_count;
    uint64_t positions[WORK_BATCH_MAX]; /* what kv_apply said for some versions */
    size_t position_versions[WORK_BATCH_MAX];
};

/* Open quietly, with the least memory and no threads; prints why not. */
KV_MUST_CHECK int workload_open(struct kv_device *device, enum kv_sync_mode sync, bool read_only,
                                struct kv_store **store);

/* Fills in what the caller does not: memory, and the store unless it is given. */
KV_MUST_CHECK int workload_begin(struct workload *work);
/* Leaves the store alone. */
void workload_end(struct workload *work);

/* One batch, and what makes it durable. An image that is full gets a checkpoint instead. */
KV_MUST_CHECK int workload_step(struct workload *work, enum work_op op, enum work_settle settle);
/* Random batches of random operations, now and then made durable. */
KV_MUST_CHECK int workload_run(struct workload *work, size_t batch_count);

#endif
