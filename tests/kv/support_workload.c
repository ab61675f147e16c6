/*
 * tests/kv/support_workload.c: changes of a store beside their history.
 *
 * Owns       the batch and the bytes of the value being made.
 * Invariant  before a batch is given to the store its version is in the history and noted as
 *            started; it is noted as durable only after the store said so.
 */
#include "support_workload.h"

#include "kv/store.h"

#define VALUE_BYTES_MAX 40000u
#define BLOB_BYTES_MAX  50000u
#define MANY_PUTS       30u

const char *const work_op_names[WORK_OP_COUNT] = {
    "put",         "put-large", "overwrite", "del",     "del-range", "patch",   "blob",
    "shared-blob", "del-blob",  "discard",   "several", "many",      "del-many"};
const char *const work_settle_names[SETTLE_COUNT] = {"nothing", "apply-sync", "sync",
                                                     "sync-to", "checkpoint", "close"};

/* ---- opening ---------------------------------------------------------------- */

int workload_open(struct kv_device *device, enum kv_sync_mode sync, bool read_only,
                  struct kv_store **store)
{
    const struct kv_open_options options = {
        .read_only = read_only,
        .sync = sync,
        .memory_budget_bytes = 8u << 20,
        .blob_percent = 25,
        .no_background = true,
        .log = test_log_nothing,
        .device = device,
    };
    struct kv_error error = {""};
    const int err = kv_open("recorded", &options, store, &error);
    if (err)
        printf("open: %s: %s\n", strerror(-err), error.text);
    return err;
}

int workload_begin(struct workload *work)
{
    work->batch = kv_batch_new();
    work->bytes = malloc(VALUE_BYTES_MAX + BLOB_BYTES_MAX);
    KV_ASSERT(work->batch != NULL && work->bytes != NULL);
    return work->store ? 0 : workload_open(work->device, work->sync, false, &work->store);
}

void workload_end(struct workload *work)
{
    kv_batch_free(work->batch);
    free(work->bytes);
}

/* ---- keys ------------------------------------------------------------------- */

static size_t make_key(uint8_t *key, char kind, size_t number)
{
    /* Lengths from 5 to some 200 bytes; the number comes first, so that order is by number. */
    const size_t key_len = 5 + number * 7919 % 190 * (number % 3 > 0);
    memset(key, 'a' + (int)(number % 26), key_len);
    key[0] = (uint8_t)kind;
    for (size_t i = 0; i < 4; i++, number /= 10)
        key[4 - i] = (uint8_t)('0' + number % 10);
    return key_len;
}

static size_t any_key(struct workload *work, bool blob, uint8_t *key)
{
    const size_t count = blob ? WORK_BLOB_KEY_COUNT : WORK_PLAIN_KEY_COUNT;
    return make_key(key, blob ? HISTORY_BLOB_KEY : 'k', test_random_below(work->random, count));
}

/* How many blob keys the version being made has; they come first. */
static size_t count_blobs(const struct history_version *version)
{
    size_t count = 0;
    while (count < version->count && version->entries[count].key[0] == HISTORY_BLOB_KEY)
        count++;
    return count;
}

/* A key that is there; any key when there is none. */
static size_t present_key(struct workload *work, bool blob, uint8_t *key)
{
    const struct history_version *now = history_pending(work->history);
    const size_t blobs = count_blobs(now);
    const size_t first = blob ? 0 : blobs, end = blob ? blobs : now->count;
    if (first == end)
        return any_key(work, blob, key);
    const struct history_entry *entry =
        &now->entries[first + test_random_below(work->random, end - first)];
    memcpy(key, entry->key, entry->key_len);
    return entry->key_len;
}

/* Mostly short; now and then as long as `max`. */
static size_t random_length(struct test_random *random, size_t max)
{
    switch (test_random_below(random, 8)) {
    case 0:
        return test_random_below(random, max + 1);
    case 1:
        return test_random_below(random, max / 8 + 1);
    default:
        return test_random_below(random, 400);
    }
}

/* ---- operations ------------------------------------------------------------- */

static int put(struct workload *work, const uint8_t *key, size_t key_len, size_t length)
{
    test_fill(work->bytes, length, test_random_next(work->random));
    history_put(work->history, key, key_len, work->bytes, length);
    return kv_batch_put(work->batch, key, key_len, work->bytes, length);
}

static int add_put(struct workload *work, size_t length)
{
    uint8_t key[KV_KEY_MAX];
    const size_t key_len = any_key(work, false, key);
    return put(work, key, key_len, length);
}

static int add_overwrite(struct workload *work)
{
    uint8_t key[KV_KEY_MAX];
    const size_t key_len = present_key(work, false, key);
    return put(work, key, key_len, random_length(work->random, VALUE_BYTES_MAX));
}

static int add_del(struct workload *work, bool blob)
{
    uint8_t key[KV_KEY_MAX];
    const size_t key_len = present_key(work, blob, key);
    history_del(work->history, key, key_len);
    return kv_batch_del(work->batch, key, key_len);
}

static int add_del_range(struct workload *work, size_t most)
{
    uint8_t lower[KV_KEY_MAX], upper[KV_KEY_MAX];
    const bool blobs = test_random_below(work->random, 4) == 0;
    const char kind = blobs ? HISTORY_BLOB_KEY : 'k';
    const size_t from =
        test_random_below(work->random, blobs ? WORK_BLOB_KEY_COUNT : WORK_PLAIN_KEY_COUNT);
    const size_t lower_len = make_key(lower, kind, from);
    const size_t upper_len =
        make_key(upper, kind, from + 1 + test_random_below(work->random, most));
    history_del_range(work->history, lower, lower_len, upper, upper_len);
    return kv_batch_del_range(work->batch, lower, lower_len, upper, upper_len);
}

static int add_patch(struct workload *work)
{
    uint8_t key[KV_KEY_MAX];
    const size_t key_len = test_random_below(work->random, 4) ? present_key(work, false, key)
                                                              : any_key(work, false, key);
    const size_t offset = random_length(work->random, 20000);
    const size_t length = 1 + random_length(work->random, 2000);
    test_fill(work->bytes, length, test_random_next(work->random));
    const int err = kv_batch_patch(work->batch, key, key_len, offset, work->bytes, length);
    if (err == -EINVAL)
        return 0; /* the batch has a patch of this key already */
    history_patch(work->history, key, key_len, offset, work->bytes, length);
    return err;
}

static int add_blob(struct workload *work, bool discarded)
{
    uint8_t key[KV_KEY_MAX], head[KV_BLOB_HEAD_MAX], table[KV_BLOB_TABLE_MAX];
    const size_t key_len = any_key(work, true, key);
    size_t head_len = test_random_below(work->random, sizeof head + 1);
    const size_t length = 1 + test_random_below(work->random, BLOB_BYTES_MAX);
    test_fill(head, head_len, test_random_next(work->random));
    test_fill(work->bytes, length, test_random_next(work->random));

    /* One in two may be in frames; the head is then its table. */
    struct kv_blob_source source = {.bytes = work->bytes,
                                    .length = length,
                                    .table = test_random_below(work->random, 2) ? table : NULL};
    int err = kv_blob_write_many(work->store, &source, 1, NULL);
    if (err == -ENOSPC)
        return 0; /* the batch goes on without it */
    if (err)
        return err;
    const struct kv_blob_ref ref = source.ref;
    const size_t written = source.written;
    if (source.table_length) {
        head_len = source.table_length;
        memcpy(head, table, head_len);
    }
    if (discarded) {
        kv_blob_discard(work->store, &ref);
        return 0;
    }
    work->fresh[work->fresh_count++] = ref;
    history_put_blob(work->history, key, key_len, head, head_len, work->bytes, written, &ref);
    return kv_batch_put_blob(work->batch, key, key_len, head, head_len, &ref, KV_BLOB_NEW);
}

/* One more key for a blob that the version being made holds. */
static int add_shared_blob(struct workload *work)
{
    const struct history_version *now = history_pending(work->history);
    const size_t blob_count = count_blobs(now);
    if (!blob_count)
        return 0;

    uint8_t key[KV_KEY_MAX];
    const size_t key_len = any_key(work, true, key);
    const struct history_entry held = now->entries[test_random_below(work->random, blob_count)];
    const size_t head_len = test_random_below(work->random, 64);
    test_fill(work->bytes, head_len, test_random_next(work->random));
    history_put_blob(work->history, key, key_len, work->bytes, head_len, held.value + held.head_len,
                     held.value_len - held.head_len, &held.ref);
    return kv_batch_put_blob(work->batch, key, key_len, work->bytes, head_len, &held.ref,
                             KV_BLOB_SHARED);
}

static int add_operation(struct workload *work, enum work_op op);

static int add_several(struct workload *work)
{
    /* By how often each should be met: mostly puts. */
    static const enum work_op mix[16] = {
        WORK_DEL,         WORK_DEL_BLOB,    WORK_DEL_RANGE, WORK_PATCH,
        WORK_PATCH,       WORK_PATCH,       WORK_BLOB,      WORK_BLOB,
        WORK_SHARED_BLOB, WORK_SHARED_BLOB, WORK_OVERWRITE, WORK_OVERWRITE,
        WORK_PUT,         WORK_PUT,         WORK_PUT_LARGE, WORK_DISCARD};
    const size_t op_count = 1 + test_random_below(work->random, WORK_BATCH_MAX);
    int err = 0;
    for (size_t i = 0; i < op_count && !err; i++)
        err = add_operation(work, mix[test_random_below(work->random, 16)]);
    return err;
}

static int add_operation(struct workload *work, enum work_op op)
{
    int err = 0;
    switch (op) {
    case WORK_PUT:
        return add_put(work, test_random_below(work->random, 400));
    case WORK_PUT_LARGE:
        return add_put(work, VALUE_BYTES_MAX / 4 +
                                 test_random_below(work->random, VALUE_BYTES_MAX * 3 / 4));
    case WORK_OVERWRITE:
        return add_overwrite(work);
    case WORK_DEL:
        return add_del(work, false);
    case WORK_DEL_RANGE:
        return add_del_range(work, 9);
    case WORK_PATCH:
        return add_patch(work);
    case WORK_BLOB:
        return add_blob(work, false);
    case WORK_SHARED_BLOB:
        return add_shared_blob(work);
    case WORK_DEL_BLOB:
        return add_del(work, true);
    case WORK_DISCARD:
        err = add_blob(work, true);
        return err ? err : add_put(work, 20);
    case WORK_SEVERAL:
        return add_several(work);
    case WORK_MANY:
        for (size_t i = 0; i < MANY_PUTS && !err; i++)
            err = add_put(work, 100 + test_random_below(work->random, 500));
        return err;
    case WORK_DEL_MANY:
        return add_del_range(work, WORK_PLAIN_KEY_COUNT);
    default:
        return -EINVAL;
    }
}

/* ---- steps ------------------------------------------------------------------ */

/* Make and apply one batch. Returns 0, also when the image was full, or the store's failure. */
static int apply_one(struct workload *work, enum work_op op, bool sync)
{
    struct history *history = work->history;
    promise_started(work->promises, history_last(history) + 1);
    kv_batch_clear(work->batch);
    work->fresh_count = 0;
    history_begin(history);
    int err = add_operation(work, op);
    const size_t version = history_commit(history);
    if (err)
        return err;

    const size_t slot = test_random_below(work->random, WORK_BATCH_MAX);
    uint64_t position;
    err = kv_apply(work->store, work->batch, sync ? KV_APPLY_SYNC : 0, &position);
    if (err == -ENOSPC) {
        history_drop(history);
        for (size_t i = 0; i < work->fresh_count; i++)
            kv_blob_discard(work->store, &work->fresh[i]);
        return kv_checkpoint(work->store);
    }
    if (err)
        return err;
    work->positions[slot] = position;
    work->position_versions[slot] = version;
    if (sync || work->sync == KV_SYNC_ALWAYS)
        promise_durable(work->promises, version);
    return 0;
}

static int close_and_open(struct workload *work)
{
    const int err = kv_close(work->store);
    work->store = NULL;
    memset(work->position_versions, 0, sizeof work->position_versions);
    if (err)
        return err;
    promise_durable(work->promises, history_last(work->history));
    return workload_open(work->device, work->sync, false, &work->store);
}

static int settle_now(struct workload *work, enum work_settle settle)
{
    size_t version = history_last(work->history);
    const size_t slot = test_random_below(work->random, WORK_BATCH_MAX);
    int err = 0;
    switch (settle) {
    case SETTLE_SYNC:
        err = kv_sync(work->store);
        break;
    case SETTLE_SYNC_TO:
        version = work->position_versions[slot];
        if (!version)
            return 0;
        err = kv_sync_to(work->store, work->positions[slot]);
        break;
    case SETTLE_CHECKPOINT:
        err = kv_checkpoint(work->store);
        break;
    case SETTLE_CLOSE:
        return close_and_open(work);
    default:
        return 0;
    }
    if (!err)
        promise_durable(work->promises, version);
    return err;
}

int workload_step(struct workload *work, enum work_op op, enum work_settle settle)
{
    const int err = apply_one(work, op, settle == SETTLE_APPLY);
    return err ? err : settle_now(work, settle);
}

int workload_run(struct workload *work, size_t batch_count)
{
    static const enum work_settle mix[12] = {SETTLE_CHECKPOINT, SETTLE_SYNC, SETTLE_SYNC,
                                             SETTLE_SYNC_TO, SETTLE_APPLY};
    int err = 0;
    for (size_t i = 0; i < batch_count && !err; i++) {
        const enum work_settle settle = mix[test_random_below(work->random, 12)];
        /* A checkpoint not so often: the log must grow too. */
        const bool skip = settle == SETTLE_CHECKPOINT && test_random_below(work->random, 2);
        /* What is small and finds no page in memory waits for its leaf. */
        const bool forgets = !test_random_below(work->random, 4);
        if (forgets)
            kv_pager_drop_clean(work->store->pager);
        const bool small = forgets && test_random_below(work->random, 2);
        err = workload_step(work, small ? WORK_PUT : WORK_SEVERAL, skip ? SETTLE_NOT : settle);
    }
    return err;
}
