/*
 * tests/kv/test_store_model.c: the whole store against a sorted array.
 *
 * Random batches of every kind of operation, reads of every kind, checkpoints, syncs, closing
 * and power cuts after a sync, with a budget so small that pages come and go. One walk for
 * each size of node and each codec.
 *
 * KVFS_SEED chooses the random numbers, KVFS_STEPS how many steps each walk makes.
 */
#include "kv/store.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define IMAGE_BYTES     (384ull << 20)
#define MODEL_KEYS_MAX  6000u
#define MODEL_BYTES_MAX (32u << 20)
#define LARGE_BYTES_MAX (1u << 20)
#define OPERATIONS_MAX  24u
#define LOOKUPS_MAX     40u

static uint64_t seed_start;
static uint64_t steps_wanted;

/* ---- the model ------------------------------------------------------------------- */

struct entry {
    size_t key_len;
    size_t value_len;
    uint8_t *value;
    bool is_blob;           /* the value ends in a reference to a blob ... */
    uint64_t blob_identity; /* ... whose bytes are test_fill of this ... */
    size_t blob_bytes;      /* ... and so many */
    uint8_t key[KV_KEY_MAX];
};

struct model {
    struct entry **entries;
    size_t count;
    size_t value_bytes; /* blobs included, as often as they are referred to */
};

static void model_init(struct model *model)
{
    *model =
        (struct model){.entries = calloc(MODEL_KEYS_MAX + OPERATIONS_MAX, sizeof(struct entry *))};
    ck_assert_ptr_nonnull(model->entries);
}

/* The first entry whose key is >= key. */
static size_t model_find(const struct model *model, const void *key, size_t key_len)
{
    size_t low = 0;
    size_t high = model->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const struct entry *const entry = model->entries[middle];
        if (kv_key_compare(entry->key, entry->key_len, key, key_len) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct entry *model_get(const struct model *model, const void *key, size_t key_len)
{
    const size_t at = model_find(model, key, key_len);
    if (at == model->count)
        return NULL;
    struct entry *const entry = model->entries[at];
    return kv_key_compare(entry->key, entry->key_len, key, key_len) ? NULL : entry;
}

static void model_remove_range(struct model *model, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        struct entry *const entry = model->entries[i];
        model->value_bytes -= entry->value_len + entry->blob_bytes;
        free(entry->value);
        free(entry);
    }
    memmove(&model->entries[first], &model->entries[end],
            (model->count - end) * sizeof(struct entry *));
    model->count -= end - first;
}

static void model_delete(struct model *model, const void *key, size_t key_len)
{
    const size_t at = model_find(model, key, key_len);
    if (model_get(model, key, key_len))
        model_remove_range(model, at, at + 1);
}

/* Takes the value over. */
static struct entry *model_put(struct model *model, const void *key, size_t key_len, uint8_t *value,
                               size_t value_len)
{
    model_delete(model, key, key_len);
    const size_t at = model_find(model, key, key_len);
    struct entry *const entry = calloc(1, sizeof *entry);
    ck_assert_ptr_nonnull(entry);
    memcpy(entry->key, key, key_len);
    entry->key_len = key_len;
    entry->value = value;
    entry->value_len = value_len;
    ck_assert_uint_lt(model->count, MODEL_KEYS_MAX + OPERATIONS_MAX);
    memmove(&model->entries[at + 1], &model->entries[at],
            (model->count - at) * sizeof(struct entry *));
    model->entries[at] = entry;
    model->count++;
    model->value_bytes += value_len;
    return entry;
}

static void model_release(struct model *model)
{
    model_remove_range(model, 0, model->count);
    free(model->entries);
}

/* ---- one walk -------------------------------------------------------------------- */

struct name {
    size_t length;
    uint8_t bytes[KV_KEY_MAX];
};

struct walk {
    struct test_random random;
    struct test_dir dir;
    struct kv_store *store;
    struct model model;
    struct kv_batch *batch;
    uint8_t *buf; /* LARGE_BYTES_MAX twice, for values read */
    uint64_t identity_next;
};

static size_t below(struct walk *walk, size_t limit)
{
    return test_random_below(&walk->random, limit);
}

static void make_name(struct walk *walk, struct name *name)
{
    switch (below(walk, 16)) {
    case 0: /* few bytes, many of them zero */
        name->length = 1 + below(walk, 4);
        for (size_t i = 0; i < name->length; i++)
            name->bytes[i] = (uint8_t)(below(walk, 3) * 127);
        break;
    case 1: /* as long as can be, differing at the end */
        memset(name->bytes, 'L', sizeof name->bytes);
        name->length = KV_KEY_MAX - below(walk, 3);
        name->bytes[name->length - 1] = (uint8_t)below(walk, 256);
        break;
    default:
        name->length =
            (size_t)snprintf((char *)name->bytes, sizeof name->bytes, "directory%02zu/file%04zu",
                             below(walk, 20), below(walk, 400));
    }
}

/* Mostly a key that is there. */
static void pick_name(struct walk *walk, struct name *name)
{
    if (walk->model.count == 0 || below(walk, 5) == 0) {
        make_name(walk, name);
        return;
    }
    const struct entry *const entry = walk->model.entries[below(walk, walk->model.count)];
    memcpy(name->bytes, entry->key, entry->key_len);
    name->length = entry->key_len;
}

static void open_store(struct walk *walk)
{
    const struct kv_open_options options = {
        .memory_budget_bytes = 8u << 20,
        .commit_interval_ms = (uint32_t)(1 + below(walk, 50)),
        .no_background = below(walk, 2),
        .buffered_io = below(walk, 2),
    };
    struct kv_error error = {{0}};
    const int err = kv_open(walk->dir.image, &options, &walk->store, &error);
    ck_assert_msg(err == 0, "open: %d: %s", err, error.text);
}

static void expect_ok(int err, const char *what)
{
    ck_assert_msg(err == 0, "%s: %s", what, strerror(-err));
}

/* ---- writing ---- */

static void batch_put(struct walk *walk)
{
    struct name name;
    if (below(walk, 3))
        make_name(walk, &name);
    else
        pick_name(walk, &name);
    static const size_t sizes[] = {40, 40, 40, 200, 200, 1500, 6000, 20000, 70000, LARGE_BYTES_MAX};
    const size_t rare = below(walk, 24) ? 7 : sizeof sizes / sizeof sizes[0];
    const size_t length = below(walk, sizes[below(walk, rare)] + 1);
    uint8_t *const value = malloc(length + 1);
    ck_assert_ptr_nonnull(value);
    test_fill(value, length, walk->identity_next++);
    expect_ok(kv_batch_put(walk->batch, name.bytes, name.length, value, length), "batch put");
    (void)model_put(&walk->model, name.bytes, name.length, value, length);
}

static void batch_delete(struct walk *walk)
{
    struct name name;
    pick_name(walk, &name);
    expect_ok(kv_batch_del(walk->batch, name.bytes, name.length), "batch del");
    model_delete(&walk->model, name.bytes, name.length);
}

static void batch_delete_range(struct walk *walk)
{
    struct model *const model = &walk->model;
    struct name lower;
    struct name upper;
    pick_name(walk, &lower);
    const size_t first = model_find(model, lower.bytes, lower.length);
    const size_t reach = below(walk, 64) ? 30 : 1000;
    const size_t end = kv_min_u64(first + below(walk, reach), model->count);
    if (end == model->count) {
        make_name(walk, &upper);
    } else {
        upper.length = model->entries[end]->key_len;
        memcpy(upper.bytes, model->entries[end]->key, upper.length);
    }
    if (kv_key_compare(lower.bytes, lower.length, upper.bytes, upper.length) >= 0)
        return;
    expect_ok(kv_batch_del_range(walk->batch, lower.bytes, lower.length, upper.bytes, upper.length),
              "batch del range");
    model_remove_range(model, first, model_find(model, upper.bytes, upper.length));
}

static void batch_patch(struct walk *walk)
{
    struct name name;
    pick_name(walk, &name);
    const struct entry *const old = model_get(&walk->model, name.bytes, name.length);
    if (old && old->is_blob)
        return; /* the bytes of a reference are not for patching */
    const size_t old_len = old ? old->value_len : 0;
    const size_t offset = below(walk, old_len + (below(walk, 4) ? 1 : 3000));
    const size_t length = below(walk, below(walk, 8) ? 300 : 9000);
    const size_t new_len = kv_max_u64(old_len, length ? offset + length : old_len);
    uint8_t *const bytes = malloc(length + 1);
    uint8_t *const value = calloc(1, kv_max_u64(new_len, old_len) + 1);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_ptr_nonnull(value);
    if (length == 0) {
        free(bytes);
        free(value);
        return;
    }
    test_fill(bytes, length, walk->identity_next++);
    if (old_len)
        memcpy(value, old->value, old_len);
    memcpy(value + offset, bytes, length);
    expect_ok(kv_batch_patch(walk->batch, name.bytes, name.length, offset, bytes, length),
              "batch patch");
    free(bytes);
    (void)model_put(&walk->model, name.bytes, name.length, value, new_len);
}

static void model_put_blob(struct walk *walk, const struct name *name, const uint8_t *head,
                           size_t head_len, const struct kv_blob_ref *ref, uint64_t identity,
                           size_t blob_bytes)
{
    const size_t value_len = head_len + sizeof ref->bytes;
    uint8_t *const value = malloc(value_len);
    ck_assert_ptr_nonnull(value);
    memcpy(value, head, head_len);
    memcpy(value + head_len, ref->bytes, sizeof ref->bytes);
    struct entry *const entry =
        model_put(&walk->model, name->bytes, name->length, value, value_len);
    entry->is_blob = true;
    entry->blob_identity = identity;
    entry->blob_bytes = blob_bytes;
    walk->model.value_bytes += blob_bytes;
}

static void batch_new_blob(struct walk *walk)
{
    static const struct kv_codec_spec specs[] = {
        {KV_CODEC_NONE, 0}, {KV_CODEC_LZ4, 0}, {KV_CODEC_ZSTD, 1}};
    const size_t choice = below(walk, 4);
    const uint64_t identity = walk->identity_next++;
    const size_t length = 1 + below(walk, below(walk, 16) ? 20000 : KV_BLOB_MAX);
    struct kv_blob_ref ref;
    size_t written = 0;
    struct name name;
    uint8_t head[KV_BLOB_HEAD_MAX];

    test_fill(walk->buf, length, identity);
    expect_ok(kv_blob_write(walk->store, walk->buf, length, choice < 3 ? &specs[choice] : NULL,
                            &ref, &written),
              "blob write");
    ck_assert_uint_ge(written, 1);
    ck_assert_uint_le(written, length);
    ck_assert_uint_eq(kv_blob_length(&ref), written);
    ck_assert_uint_eq(kv_blob_stored_bytes(&ref) % KV_BLOCK_BYTES, 0);
    if (below(walk, 8) == 0) {
        kv_blob_discard(walk->store, &ref);
        return;
    }
    pick_name(walk, &name);
    const size_t head_len = below(walk, sizeof head + 1);
    test_fill(head, head_len, walk->identity_next++);
    expect_ok(
        kv_batch_put_blob(walk->batch, name.bytes, name.length, head, head_len, &ref, KV_BLOB_NEW),
        "batch put blob");
    model_put_blob(walk, &name, head, head_len, &ref, identity, written);
}

static const struct entry *pick_blob(struct walk *walk)
{
    for (unsigned i = 0; walk->model.count && i < 200; i++) {
        const struct entry *const entry = walk->model.entries[below(walk, walk->model.count)];
        if (entry->is_blob)
            return entry;
    }
    return NULL;
}

/* Only what is stored before the batch may be shared, so this goes first. */
static void batch_shared_blob(struct walk *walk)
{
    const struct entry *const holder = pick_blob(walk);
    if (!holder)
        return;
    struct kv_blob_ref ref;
    memcpy(ref.bytes, holder->value + holder->value_len - sizeof ref.bytes, sizeof ref.bytes);
    const uint64_t identity = holder->blob_identity;
    const size_t blob_bytes = holder->blob_bytes;
    struct name name;
    uint8_t head[8];
    pick_name(walk, &name);
    test_fill(head, sizeof head, walk->identity_next++);
    expect_ok(kv_batch_put_blob(walk->batch, name.bytes, name.length, head, sizeof head, &ref,
                                KV_BLOB_SHARED),
              "batch put shared blob");
    model_put_blob(walk, &name, head, sizeof head, &ref, identity, blob_bytes);
}

static void step_batch(struct walk *walk)
{
    struct model *const model = &walk->model;
    const bool full = model->count > MODEL_KEYS_MAX || model->value_bytes > MODEL_BYTES_MAX;
    const size_t operations = 1 + below(walk, OPERATIONS_MAX - 1);
    kv_batch_clear(walk->batch);
    ck_assert_uint_eq(kv_batch_count(walk->batch), 0);
    if (below(walk, 4) == 0)
        batch_shared_blob(walk);
    for (size_t i = 0; i < operations; i++) {
        const size_t dice = below(walk, 100);
        if (full || dice < 22)
            batch_delete(walk);
        else if (dice < 25)
            batch_delete_range(walk);
        else if (dice < 40)
            batch_patch(walk);
        else if (dice < 50)
            batch_new_blob(walk);
        else
            batch_put(walk);
    }
    if (full && below(walk, 4) == 0)
        batch_delete_range(walk);

    const unsigned flags =
        (below(walk, 16) ? 0 : (unsigned)KV_APPLY_SYNC) | (full ? (unsigned)KV_APPLY_URGENT : 0);
    uint64_t position = 0;
    if (below(walk, 16) == 0) /* then small changes wait for their leaves */
        kv_pager_drop_clean(walk->store->pager);
    expect_ok(kv_apply(walk->store, walk->batch, flags, &position), "apply");
    if (below(walk, 16) == 0)
        expect_ok(kv_sync_to(walk->store, position), "sync to");
}

/* ---- reading ---- */

static void step_get(struct walk *walk)
{
    struct name name;
    size_t value_len = 12345;
    pick_name(walk, &name);
    const struct entry *const entry = model_get(&walk->model, name.bytes, name.length);
    const size_t cap = below(walk, 8) ? 2 * LARGE_BYTES_MAX : below(walk, 100);
    const int err =
        kv_get(walk->store, name.bytes, name.length, cap ? walk->buf : NULL, cap, &value_len);
    if (!entry) {
        ck_assert_int_eq(err, -ENOENT);
        return;
    }
    ck_assert_int_eq(err, entry->value_len > cap ? -ERANGE : 0);
    ck_assert_uint_eq(value_len, entry->value_len);
    if (err == 0)
        ck_assert_int_eq(memcmp(walk->buf, entry->value, value_len), 0);
}

static void step_get_many(struct walk *walk)
{
    struct kv_lookup lookups[LOOKUPS_MAX];
    static struct name names[LOOKUPS_MAX];
    const size_t count = below(walk, LOOKUPS_MAX + 1);
    const size_t cap = 2 * LARGE_BYTES_MAX / LOOKUPS_MAX;
    for (size_t i = 0; i < count; i++) {
        pick_name(walk, &names[i]);
        lookups[i] = (struct kv_lookup){.key = names[i].bytes,
                                        .key_len = names[i].length,
                                        .buf = walk->buf + i * cap,
                                        .buf_cap = cap};
    }
    expect_ok(kv_get_many(walk->store, lookups, count), "get many");
    for (size_t i = 0; i < count; i++) {
        const struct entry *const entry = model_get(&walk->model, names[i].bytes, names[i].length);
        if (!entry) {
            ck_assert_int_eq(lookups[i].result, -ENOENT);
            continue;
        }
        ck_assert_int_eq(lookups[i].result, entry->value_len > cap ? -ERANGE : 0);
        ck_assert_uint_eq(lookups[i].value_len, entry->value_len);
        if (lookups[i].result == 0)
            ck_assert_int_eq(memcmp(lookups[i].buf, entry->value, entry->value_len), 0);
    }
}

static void step_read_blob(struct walk *walk)
{
    const struct entry *const entry = pick_blob(walk);
    if (!entry)
        return;
    struct kv_blob_ref ref;
    memcpy(ref.bytes, entry->value + entry->value_len - sizeof ref.bytes, sizeof ref.bytes);
    ck_assert_uint_eq(kv_blob_length(&ref), entry->blob_bytes);
    const size_t offset = below(walk, entry->blob_bytes);
    const size_t length = below(walk, entry->blob_bytes - offset + 1);
    expect_ok(kv_blob_read(walk->store, &ref, offset, walk->buf, length), "blob read");
    uint8_t *const expected = walk->buf + LARGE_BYTES_MAX;
    test_fill(expected, offset + length, entry->blob_identity);
    ck_assert_int_eq(memcmp(walk->buf, expected + offset, length), 0);
}

static void compare_cursor(struct kv_cursor *cursor, const struct entry *entry)
{
    size_t key_len = 0;
    size_t value_len = 0;
    const void *value = NULL;
    const void *const key = kv_cursor_key(cursor, &key_len);
    ck_assert_int_eq(kv_key_compare(key, key_len, entry->key, entry->key_len), 0);
    expect_ok(kv_cursor_value(cursor, &value, &value_len), "cursor value");
    ck_assert_uint_eq(value_len, entry->value_len);
    if (value_len)
        ck_assert_int_eq(memcmp(value, entry->value, value_len), 0);
}

/* Everything, in order. */
static void compare_all(struct walk *walk)
{
    struct kv_cursor *cursor;
    size_t at = 0;
    expect_ok(kv_cursor_open(walk->store, NULL, 0, NULL, 0, &cursor), "cursor open");
    int err = kv_cursor_first(cursor);
    for (; err == 0; err = kv_cursor_next(cursor)) {
        ck_assert_uint_lt(at, walk->model.count);
        compare_cursor(cursor, walk->model.entries[at++]);
    }
    ck_assert_int_eq(err, -ENOENT);
    ck_assert_uint_eq(at, walk->model.count);
    kv_cursor_close(cursor);
}

/* What a prefix, as bounds, means: up to the first string above all that begin with it. */
static size_t prefix_end(const struct model *model, const struct name *prefix)
{
    struct name end = *prefix;
    while (end.length && end.bytes[end.length - 1] == 0xff)
        end.length--;
    if (!end.length)
        return model->count;
    end.bytes[end.length - 1]++;
    return model_find(model, end.bytes, end.length);
}

/* A cursor with bounds goes here and there; `at` says where it must be. */
static void step_cursor(struct walk *walk)
{
    const struct model *const model = &walk->model;
    struct kv_cursor *cursor;
    struct name lower;
    struct name upper;
    size_t first = 0;
    size_t end = model->count;

    pick_name(walk, &lower);
    if (below(walk, 3) == 0) {
        lower.length = 1 + below(walk, lower.length);
        first = model_find(model, lower.bytes, lower.length);
        end = prefix_end(model, &lower);
        expect_ok(kv_cursor_open_prefix(walk->store, lower.bytes, lower.length, &cursor),
                  "cursor open prefix");
    } else {
        pick_name(walk, &upper);
        lower.length *= below(walk, 2);
        upper.length *= below(walk, 2);
        if (lower.length)
            first = model_find(model, lower.bytes, lower.length);
        if (upper.length)
            end = model_find(model, upper.bytes, upper.length);
        end = kv_max_u64(end, first);
        expect_ok(kv_cursor_open(walk->store, lower.bytes, lower.length, upper.bytes, upper.length,
                                 &cursor),
                  "cursor open");
    }

    size_t at = end; /* end: on none */
    const size_t moves = 1 + below(walk, 60);
    const size_t habit = below(walk, 2);
    for (size_t i = 0; i < moves; i++) {
        struct name name;
        int err = 0;
        size_t sought = 0;
        const size_t dice = at == end ? below(walk, 4) : below(walk, 40);
        switch (dice) {
        case 0:
            err = kv_cursor_first(cursor);
            at = first;
            break;
        case 1:
            err = kv_cursor_last(cursor);
            at = end > first ? end - 1 : end;
            break;
        case 2:
            pick_name(walk, &name);
            err = kv_cursor_seek(cursor, name.bytes, name.length);
            sought = model_find(model, name.bytes, name.length);
            at = kv_min_u64(kv_max_u64(sought, first), end);
            break;
        case 3:
            pick_name(walk, &name);
            err = kv_cursor_seek_before(cursor, name.bytes, name.length);
            sought = kv_min_u64(model_find(model, name.bytes, name.length), end);
            at = sought > first ? sought - 1 : end;
            break;
        default:
            if (dice % 8 ? habit : !habit) {
                err = kv_cursor_next(cursor);
                at++;
            } else {
                err = kv_cursor_prev(cursor);
                at = at > first ? at - 1 : end;
            }
        }
        ck_assert_int_eq(err, at == end ? -ENOENT : 0);
        if (err == 0)
            compare_cursor(cursor, model->entries[at]);
    }
    kv_cursor_close(cursor);
}

/* ---- the walk ---- */

static void step_reopen(struct walk *walk)
{
    if (below(walk, 2)) {
        expect_ok(kv_close(walk->store), "close");
    } else {
        expect_ok(kv_sync(walk->store), "sync");
        kv_abandon(walk->store);
    }
    open_store(walk);
    compare_all(walk);
}

static void step(struct walk *walk)
{
    const size_t dice = below(walk, 1000);
    if (dice < 450)
        step_batch(walk);
    else if (dice < 600)
        step_get(walk);
    else if (dice < 700)
        step_get_many(walk);
    else if (dice < 800)
        step_read_blob(walk);
    else if (dice < 950)
        step_cursor(walk);
    else if (dice < 970)
        expect_ok(kv_sync(walk->store), "sync");
    else if (dice < 988)
        expect_ok(kv_checkpoint(walk->store), "checkpoint");
    else
        step_reopen(walk);
}

static int compare_refs(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct kv_blob_ref));
}

/* How many blobs the model holds more than once. */
static uint64_t model_shared_blobs(const struct model *model)
{
    struct kv_blob_ref *const refs = malloc((model->count + 1) * sizeof *refs);
    ck_assert_ptr_nonnull(refs);
    size_t count = 0;
    for (size_t i = 0; i < model->count; i++) {
        const struct entry *const entry = model->entries[i];
        if (entry->is_blob)
            memcpy(refs[count++].bytes, entry->value + entry->value_len - sizeof *refs,
                   sizeof *refs);
    }
    qsort(refs, count, sizeof *refs, compare_refs);
    uint64_t shared = 0;
    for (size_t i = 1; i < count; i++)
        if (compare_refs(&refs[i - 1], &refs[i]) == 0 &&
            (i == 1 || compare_refs(&refs[i - 2], &refs[i]) != 0))
            shared++;
    free(refs);
    return shared;
}

static void expect_clean(struct walk *walk)
{
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(walk->store, &result), 0);
    ck_assert_uint_eq(result.keys, walk->model.count);
    ck_assert_uint_eq(result.shared_blobs, model_shared_blobs(&walk->model));
}

START_TEST(random_operations_agree_with_a_sorted_array)
{
    static const uint32_t node_sizes[] = {4096, 16384, 65536};
    static const struct kv_codec_spec codecs[] = {
        {KV_CODEC_NONE, 0}, {KV_CODEC_LZ4, 0}, {KV_CODEC_ZSTD, 3}};
    const struct kv_create_options create = {
        .size_bytes = IMAGE_BYTES,
        .node_bytes = node_sizes[_i % 3],
        .log_bytes = _i % 2 ? 0 : 8u << 20,
        .codec = codecs[_i / 3],
    };
    struct walk walk = {.random = {seed_start * 1000 + (uint64_t)_i}, .identity_next = 1};
    struct kv_error error = {{0}};

    model_init(&walk.model);
    test_dir_make(&walk.dir);
    walk.buf = malloc((size_t)2 * LARGE_BYTES_MAX);
    walk.batch = kv_batch_new();
    ck_assert_ptr_nonnull(walk.buf);
    ck_assert_ptr_nonnull(walk.batch);
    const int err = kv_create(walk.dir.image, &create, &error);
    ck_assert_msg(err == 0, "create: %d: %s", err, error.text);
    open_store(&walk);

    for (uint64_t i = 0; i < steps_wanted; i++)
        step(&walk);
    compare_all(&walk);
    expect_clean(&walk);

    /* Again from what lies on disk, and once more when all is deleted. */
    expect_ok(kv_close(walk.store), "close");
    open_store(&walk);
    compare_all(&walk);
    expect_clean(&walk);
    kv_batch_clear(walk.batch);
    for (size_t i = 0; i < walk.model.count; i++)
        expect_ok(
            kv_batch_del(walk.batch, walk.model.entries[i]->key, walk.model.entries[i]->key_len),
            "batch del");
    expect_ok(kv_apply(walk.store, walk.batch, 0, NULL), "apply");
    model_remove_range(&walk.model, 0, walk.model.count);
    compare_all(&walk);
    expect_ok(kv_checkpoint(walk.store), "checkpoint");
    expect_clean(&walk);
    expect_ok(kv_close(walk.store), "close");

    kv_batch_free(walk.batch);
    free(walk.buf);
    model_release(&walk.model);
    test_dir_remove(&walk.dir);
}
END_TEST

/* ---- cursors amid changes ------------------------------------------------------------ */

#define STABLE_KEYS 3000u

static void churn(struct kv_store *store, struct test_random *random)
{
    char key[32];
    char value[300];
    const unsigned number = (unsigned)test_random_below(random, STABLE_KEYS);
    const size_t value_len = test_random_below(random, sizeof value);
    const int key_len =
        snprintf(key, sizeof key, "k%06u-%u", number, (unsigned)test_random_below(random, 4));
    memset(value, 'c', sizeof value);
    if (test_random_below(random, 2))
        expect_ok(kv_put(store, key, (size_t)key_len, value, value_len), "put");
    else
        expect_ok(kv_del(store, key, (size_t)key_len), "del");
}

START_TEST(a_cursor_amid_changes_sees_each_untouched_key_once)
{
    const struct kv_create_options create = {.size_bytes = 64u << 20, .node_bytes = 4096};
    const struct kv_open_options options = {.memory_budget_bytes = 8u << 20};
    struct test_random random = {seed_start ^ 4711};
    struct test_dir dir;
    struct kv_store *store;
    char key[32];
    test_dir_make(&dir);
    expect_ok(kv_create(dir.image, &create, NULL), "create");
    expect_ok(kv_open(dir.image, &options, &store, NULL), "open");
    for (unsigned i = 0; i < STABLE_KEYS; i++) {
        const int key_len = snprintf(key, sizeof key, "k%06u", i);
        expect_ok(kv_put(store, key, (size_t)key_len, key, (size_t)key_len), "put");
    }

    for (unsigned round = 0; round < 6; round++) {
        const bool forward = round % 2;
        struct kv_cursor *cursor;
        unsigned seen = 0;
        char before[32] = "";
        expect_ok(kv_cursor_open_prefix(store, "k", 1, &cursor), "cursor open");
        int err = forward ? kv_cursor_first(cursor) : kv_cursor_last(cursor);
        while (err == 0) {
            size_t key_len = 0;
            const void *const found = kv_cursor_key(cursor, &key_len);
            ck_assert_uint_lt(key_len, sizeof key);
            memcpy(key, found, key_len);
            key[key_len] = 0;
            if (before[0])
                ck_assert(forward ? strcmp(before, key) < 0 : strcmp(before, key) > 0);
            memcpy(before, key, sizeof before);
            if (key_len == 7) {
                char expected[32];
                snprintf(expected, sizeof expected, "k%06u",
                         forward ? seen : STABLE_KEYS - 1 - seen);
                ck_assert_str_eq(key, expected);
                seen++;
            }
            for (size_t i = test_random_below(&random, 4); i > 0; i--)
                churn(store, &random);
            err = forward ? kv_cursor_next(cursor) : kv_cursor_prev(cursor);
        }
        ck_assert_int_eq(err, -ENOENT);
        ck_assert_uint_eq(seen, STABLE_KEYS);
        kv_cursor_close(cursor);
    }

    struct kv_check_result result;
    ck_assert_uint_eq(test_check(store, &result), 0);
    expect_ok(kv_close(store), "close");
    test_dir_remove(&dir);
}
END_TEST

static Suite *store_suite(void)
{
    Suite *const suite = suite_create("store model");
    TCase *const model = tcase_create("model");
    tcase_set_timeout(model, 0);
    tcase_add_loop_test(model, random_operations_agree_with_a_sorted_array, 0, 9);
    tcase_add_test(model, a_cursor_amid_changes_sees_each_untouched_key_once);
    suite_add_tcase(suite, model);
    return suite;
}

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    steps_wanted = test_env("KVFS_STEPS", 600);
    printf("seed: %" PRIu64 " (KVFS_SEED), steps: %" PRIu64 " (KVFS_STEPS)\n", seed_start,
           steps_wanted);

    return test_run(store_suite());
}
