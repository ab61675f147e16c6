/*
 * tests/faults/io/little_content.c: what the little image holds, and its model.
 *
 * Invariant  the bytes of a value or blob follow from the number in its key and the version, of
 *            which there are two.
 */
#include "little_content.h"

#include "../../kv/support_store.h"

#include <errno.h>

#define SMALL_COUNT  600u /* keys below it have small values, from there on large ones */
#define LARGE_COUNT  8u
#define KEY_COUNT    (SMALL_COUNT + LARGE_COUNT)
#define LARGE_BYTES  9000u
#define BLOB_COUNT   16u
#define BLOB_BYTES   20000u
#define CHANGED      UINT64_C(1000000) /* added to the number: the second version */
#define BLOB_CONTENT UINT64_C(500000)  /* likewise: the bytes of a blob */
#define HEAD         "head"
#define HEAD_BYTES   4u

static uint8_t bytes[BLOB_BYTES], right[BLOB_BYTES];

static void require(bool holds, const char *what)
{
    if (holds)
        return;
    (void)fprintf(stderr, "little_content: %s\n", what);
    abort();
}

/* ---- what there is ----------------------------------------------------------------- */

static size_t key_of(uint64_t number, char key[24])
{
    return (size_t)snprintf(key, 24, "key%05u", (unsigned)number);
}

/* Of each blob with an odd number there are two. */
static size_t blob_key(uint64_t number, unsigned holder, char key[24])
{
    return (size_t)snprintf(key, 24, "blob%05u %u", (unsigned)number, holder);
}

static size_t length_of(uint64_t number)
{
    return number < SMALL_COUNT ? 8 + number % 90 : LARGE_BYTES + number;
}

static int put(struct kv_batch *batch, uint64_t number, uint64_t version)
{
    char key[24];
    test_fill(bytes, length_of(number), number + version);
    return kv_batch_put(batch, key, key_of(number, key), bytes, length_of(number));
}

static int del(struct kv_batch *batch, uint64_t number)
{
    char key[24];
    return kv_batch_del(batch, key, key_of(number, key));
}

/* A new value over the one that is there, by patches. */
static int patch(struct kv_batch *batch, uint64_t number)
{
    char key[24];
    const size_t key_len = key_of(number, key), half = length_of(number) / 2;
    test_fill(right, length_of(number), number + CHANGED);
    int err = kv_batch_patch(batch, key, key_len, 0, right, half);
    if (!err)
        err = kv_batch_patch(batch, key, key_len, half, right + half, length_of(number) - half);
    return err;
}

static int put_blob(struct kv_store *store, struct kv_batch *batch, uint64_t number)
{
    struct kv_blob_ref ref;
    char key[24];
    size_t written = 0;
    test_fill(bytes, BLOB_BYTES, BLOB_CONTENT + number);
    int err = kv_blob_write(store, bytes, BLOB_BYTES, NULL, &ref, &written);
    if (err)
        return err;
    require(written == BLOB_BYTES, "a blob was written in part");
    for (unsigned holder = 0; holder <= number % 2 && !err; holder++)
        err = kv_batch_put_blob(batch, key, blob_key(number, holder, key), HEAD, HEAD_BYTES, &ref,
                                holder ? KV_BLOB_SHARED : KV_BLOB_NEW);
    return err;
}

void little_fill(struct kv_store *store)
{
    struct kv_batch *const batch = kv_batch_new();
    require(batch != NULL, "kv_batch_new");
    for (uint64_t i = 0; i < KEY_COUNT; i++)
        require(put(batch, i, 0) == 0, "kv_batch_put");
    require(kv_apply(store, batch, 0, NULL) == 0, "filling with keys");
    kv_batch_clear(batch);
    for (uint64_t i = 0; i < BLOB_COUNT; i++)
        require(put_blob(store, batch, i) == 0, "kv_blob_write");
    require(kv_apply(store, batch, 0, NULL) == 0, "filling with blobs");
    kv_batch_free(batch);
}

/* ---- changes ------------------------------------------------------------------------ */

/* Another key holds the blob of this one, too. */
static int share_blob(struct kv_store *store, struct kv_batch *batch, uint64_t number)
{
    struct kv_blob_ref ref;
    uint8_t value[HEAD_BYTES + sizeof ref];
    char key[24];
    size_t length;
    int err = kv_get(store, key, blob_key(number, 0, key), value, sizeof value, &length);
    if (err)
        return err;
    memcpy(&ref, value + HEAD_BYTES, sizeof ref);
    return kv_batch_put_blob(batch, key, blob_key(number, 7, key), HEAD, HEAD_BYTES, &ref,
                             KV_BLOB_SHARED);
}

static int add_changes(struct kv_store *store, struct kv_batch *batch)
{
    char lower[24], upper[24];
    int err = share_blob(store, batch, 4);
    if (!err)
        err = share_blob(store, batch, 5);
    for (uint64_t i = 0; i < SMALL_COUNT && !err; i += 3)
        err = put(batch, i, CHANGED);
    for (uint64_t i = 1; i < SMALL_COUNT && !err; i += 30)
        err = patch(batch, i);
    for (uint64_t i = 2; i < SMALL_COUNT && !err; i += 30)
        err = del(batch, i);
    if (!err)
        err = put(batch, SMALL_COUNT, CHANGED);
    if (!err)
        err = patch(batch, SMALL_COUNT + 1);
    if (!err)
        err = del(batch, SMALL_COUNT + 2);
    /* Several leaves, and blobs that others hold, too. */
    if (!err)
        err = kv_batch_del_range(batch, lower, key_of(200, lower), upper, key_of(420, upper));
    if (!err)
        err = kv_batch_del_range(batch, lower, blob_key(6, 0, lower), upper, blob_key(9, 0, upper));
    if (!err)
        err = kv_batch_del(batch, lower, blob_key(1, 1, lower));
    return err;
}

int little_change(struct kv_store *store, unsigned flags)
{
    struct kv_batch *const batch = kv_batch_new();
    int err = batch ? add_changes(store, batch) : -ENOMEM;
    if (!err)
        err = kv_apply(store, batch, flags, NULL);
    kv_batch_free(batch);
    return err;
}

void little_log(struct kv_store *store)
{
    struct kv_batch *const batch = kv_batch_new();
    require(batch != NULL, "kv_batch_new");
    for (uint64_t i = 450; i < 570; i++) {
        int err = i % 4 == 0   ? del(batch, i)
                  : i % 4 == 1 ? patch(batch, i)
                               : put(batch, i, CHANGED);
        if (!err && i % 20 == 0)
            err = put_blob(store, batch, BLOB_COUNT + i);
        if (!err && i % 5 == 0) {
            err = kv_apply(store, batch, i % 20 ? 0 : KV_APPLY_SYNC, NULL);
            kv_batch_clear(batch);
        }
        require(err == 0, "filling the log");
    }
    require(kv_apply(store, batch, KV_APPLY_SYNC, NULL) == 0, "the end of the log");
    kv_batch_free(batch);
    require(little_change(store, KV_APPLY_SYNC) == 0, "a large record");
}

/* ---- reading -------------------------------------------------------------------------- */

static uint64_t mix(uint64_t number)
{
    struct test_random random = {number};
    return test_random_next(&random);
}

static int judge_blob(struct kv_store *store, uint64_t number, const uint8_t *value, size_t length,
                      struct little_sum *sum)
{
    struct kv_blob_ref ref;
    require(length == HEAD_BYTES + sizeof ref && !memcmp(value, HEAD, HEAD_BYTES),
            "the value of a blob's key");
    memcpy(&ref, value + HEAD_BYTES, sizeof ref);
    require(kv_blob_length(&ref) == BLOB_BYTES, "the length of a blob");
    const int err = kv_blob_read(store, &ref, 0, bytes, BLOB_BYTES);
    if (err)
        return err;
    test_fill(right, BLOB_BYTES, BLOB_CONTENT + number);
    require(memcmp(bytes, right, BLOB_BYTES) == 0, "the bytes of a blob");
    sum->blobs++;
    return 0;
}

static void judge_value(uint64_t number, const uint8_t *value, size_t length,
                        struct little_sum *sum)
{
    require(length == length_of(number), "the length of a value");
    test_fill(right, length, number);
    const bool old = memcmp(value, right, length) == 0;
    test_fill(right, length, number + CHANGED);
    const bool changed = memcmp(value, right, length) == 0;
    require(old || changed, "the bytes of a value");
    sum->old += old;
    sum->changed += changed;
    sum->sum += mix(2 * number + changed);
}

static int judge(struct kv_cursor *cursor, struct kv_store *store, struct little_sum *sum)
{
    const void *value;
    size_t key_len, length;
    const char *const key = kv_cursor_key(cursor, &key_len);
    const int err = kv_cursor_value(cursor, &value, &length);
    if (err)
        return err;
    unsigned number, holder;
    char text[32];
    require(key_len < sizeof text, "the length of a key");
    memcpy(text, key, key_len);
    text[key_len] = '\0';
    sum->keys++;
    if (sscanf(text, "key%5u", &number) == 1) {
        judge_value(number, value, length, sum);
        return 0;
    }
    require(sscanf(text, "blob%5u %u", &number, &holder) == 2, "a key");
    sum->sum += mix(CHANGED + 10u * number + holder);
    return judge_blob(store, number, value, length, sum);
}

int little_read(struct kv_store *store, struct little_sum *sum)
{
    struct kv_cursor *cursor;
    *sum = (struct little_sum){0};
    int err = kv_cursor_open(store, NULL, 0, NULL, 0, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor))
        if ((err = judge(cursor, store, sum)))
            break;
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

static int first_of(int err, int next)
{
    return err ? err : next == -ENOENT ? 0 : next;
}

/* From the last key to the first, and from within. */
static int walk_back(struct kv_store *store)
{
    struct kv_cursor *cursor;
    struct little_sum sum = {0};
    char key[24];
    int err = kv_cursor_open_prefix(store, "key", 3, &cursor), moved;
    if (err)
        return err;
    for (moved = kv_cursor_last(cursor); !moved; moved = kv_cursor_prev(cursor))
        err = first_of(err, judge(cursor, store, &sum));
    err = first_of(err, moved);
    err = first_of(err, kv_cursor_seek_before(cursor, key, key_of(450, key)));
    err = first_of(err, kv_cursor_seek(cursor, key, key_of(450, key)));
    kv_cursor_close(cursor);
    return err;
}

#define LOOKUPS 48u

static int look_up(struct kv_store *store)
{
    static uint8_t values[LOOKUPS][128];
    char keys[LOOKUPS][24], found[KV_KEY_MAX];
    struct kv_lookup lookups[LOOKUPS];
    struct little_sum sum = {0};
    size_t length, found_len;
    for (size_t i = 0; i < LOOKUPS; i++)
        lookups[i] = (struct kv_lookup){.key = keys[i],
                                        .key_len = key_of(i * 37 % SMALL_COUNT, keys[i]),
                                        .buf = values[i],
                                        .buf_cap = sizeof values[i]};
    int err = kv_get_many(store, lookups, LOOKUPS);
    for (size_t i = 0; i < LOOKUPS && !err; i++) {
        err = first_of(0, lookups[i].result);
        if (!lookups[i].result)
            judge_value(i * 37 % SMALL_COUNT, values[i], lookups[i].value_len, &sum);
    }
    err = first_of(err, kv_get_floor(store, keys[1], lookups[1].key_len, found, &found_len,
                                     values[0], sizeof values[0], &length));
    err = first_of(err, kv_get(store, keys[0], key_of(SMALL_COUNT + 4, keys[0]), bytes,
                               sizeof bytes, &length));
    return err;
}

int little_read_about(struct kv_store *store)
{
    struct little_sum sum;
    uint64_t read_bytes;
    int err = first_of(0, kv_retain(store, "key000", 6, "key001", 6));
    err = first_of(err, kv_prefetch(store, "blob", 4, "key003", 6, 0, &read_bytes));
    err = first_of(err, look_up(store));
    err = first_of(err, walk_back(store));
    return first_of(err, little_read(store, &sum));
}
