/*
 * tests/faults/io/workload_kv.c: batches, blobs, checkpoints, evictions, a log that wraps, and
 * reopening with a replay; and their model.
 *
 * Every value says whose it is, which change made it and what its bytes must be, so that a store
 * that is read tells which of the states of the model it is in.
 */
#include "workload.h"

#include "../../kv/support_store.h"

#include <unistd.h>

#define BULK_COUNT  9600u
#define SMALL_COUNT 400u
#define LARGE_COUNT 40u
#define BLOB_COUNT  40u
#define KEY_COUNT   (BULK_COUNT + SMALL_COUNT + LARGE_COUNT + BLOB_COUNT)
#define VALUE_MAX   60000u
#define BATCH_MAX   64u
#define CHANGES_MAX 200000u /* of a whole run at the largest scale */

/* What a value begins with. */
struct stamp {
    uint32_t number, change;
    uint64_t identity; /* of the bytes that follow */
    uint32_t length;   /* of them */
    uint32_t zero;
};

/* What a key holds. */
struct state {
    uint32_t change; /* that made it; 0: the key is absent */
    uint32_t length;
    uint64_t identity;
};

struct change {
    uint32_t number, version;
    struct state before, after;
};

struct run {
    const struct workload_config *config;
    struct kv_store *store;
    struct test_random random;
    struct state states[KEY_COUNT];
    struct change *changes; /* of all versions, in order; CHANGES_MAX */
    size_t change_count;
    uint32_t version, durable; /* batches that were applied; that are known to be durable */
    uint32_t next_change;
    bool unsure; /* the last version may or may not be there: the store failed in it */
    unsigned after_failure;

    /* the batch in the making */
    struct kv_batch *batch;
    struct change pending[KEY_COUNT];
    size_t pending_count;
    uint8_t *value, *expected; /* VALUE_MAX and a stamp */
};

/* ---- keys and values ------------------------------------------------------------- */

/* Small ones, then bulk, then large ones; blobs have a letter of their own. */
static bool is_blob(uint32_t number)
{
    return number >= KEY_COUNT - BLOB_COUNT;
}

static size_t key_of(uint32_t number, char key[16])
{
    return (size_t)snprintf(key, 16, "%c%08u", is_blob(number) ? 'b' : 'k', number);
}

static uint32_t length_of(struct run *run, uint32_t number)
{
    if (number < SMALL_COUNT)
        return (uint32_t)test_random_below(&run->random, 150);
    if (number < SMALL_COUNT + BULK_COUNT)
        return 880;
    return 5000 + (uint32_t)test_random_below(&run->random, VALUE_MAX - 5000);
}

static struct stamp stamp_of(uint32_t number, const struct state *state)
{
    return (struct stamp){.number = number,
                          .change = state->change,
                          .identity = state->identity,
                          .length = state->length};
}

static bool same_state(const struct state *a, const struct state *b)
{
    return a->change == b->change &&
           (!a->change || (a->length == b->length && a->identity == b->identity));
}

/* ---- errors ------------------------------------------------------------------------ */

static bool has_failed(const struct run *run)
{
    return run->store && kv_store_failure(run->store) != 0;
}

static void expect_tolerable(const struct run *run, const char *what, int err, bool changes)
{
    if (err && !tolerable(&run->config->tolerance, run->store, err, changes))
        violate("%s: %s (store: %s)", what, strerror(-err),
                run->store ? strerror(-kv_store_failure(run->store)) : "closed");
}

/* Enough was seen of a store that has turned read-only, or there is none. */
static bool is_over(struct run *run)
{
    return !run->store || (has_failed(run) && run->after_failure++ > 12);
}

/* ---- batches ------------------------------------------------------------------------- */

static void begin_batch(struct run *run)
{
    run->pending_count = 0;
    if (run->batch)
        kv_batch_clear(run->batch);
    else
        run->batch = kv_batch_new();
    expect_tolerable(run, "kv_batch_new", run->batch ? 0 : -ENOMEM, false);
}

static struct state *state_in_batch(struct run *run, uint32_t number)
{
    for (size_t i = run->pending_count; i-- > 0;)
        if (run->pending[i].number == number)
            return &run->pending[i].after;
    return &run->states[number];
}

static void note_pending(struct run *run, uint32_t number, struct state after)
{
    const struct state before = *state_in_batch(run, number);
    KV_ASSERT(run->pending_count < KEY_COUNT);
    run->pending[run->pending_count++] =
        (struct change){.number = number, .before = before, .after = after};
}

static int add_put(struct run *run, uint32_t number)
{
    char key[16];
    const struct state after = {.change = ++run->next_change,
                                .length = length_of(run, number),
                                .identity = test_random_next(&run->random)};
    const struct stamp stamp = stamp_of(number, &after);
    memcpy(run->value, &stamp, sizeof stamp);
    workload_fill(run->value + sizeof stamp, after.length, after.identity);
    const int err =
        kv_batch_put(run->batch, key, key_of(number, key), run->value, sizeof stamp + after.length);
    if (!err)
        note_pending(run, number, after);
    return err;
}

static int add_del(struct run *run, uint32_t number)
{
    char key[16];
    const int err = kv_batch_del(run->batch, key, key_of(number, key));
    if (!err)
        note_pending(run, number, (struct state){.change = 0});
    return err;
}

static int add_del_range(struct run *run, uint32_t first, uint32_t end)
{
    char lower[16], upper[16];
    const int err =
        kv_batch_del_range(run->batch, lower, key_of(first, lower), upper, key_of(end, upper));
    for (uint32_t number = first; !err && number < end; number++)
        note_pending(run, number, (struct state){.change = 0});
    return err;
}

/* Another stamp before the same bytes. */
static int add_patch(struct run *run, uint32_t number)
{
    char key[16];
    struct state after = *state_in_batch(run, number);
    if (!after.change)
        return add_put(run, number);
    after.change = ++run->next_change;
    const struct stamp stamp = stamp_of(number, &after);
    const int err = kv_batch_patch(run->batch, key, key_of(number, key), 0, &stamp, sizeof stamp);
    if (!err)
        note_pending(run, number, after);
    return err;
}

static void keep_changes(struct run *run)
{
    KV_ASSERT(run->change_count + run->pending_count <= CHANGES_MAX);
    for (size_t i = 0; i < run->pending_count; i++) {
        struct change *const change = &run->changes[run->change_count++];
        *change = run->pending[i];
        change->version = run->version;
        run->states[change->number] = change->after;
    }
    run->pending_count = 0;
}

/* Apply the batch, or what `err` says became of making it. Returns whether it is applied. */
static bool end_batch(struct run *run, int err, unsigned flags)
{
    const bool built = !err;
    const bool failed_before = has_failed(run);
    if (built)
        err = kv_apply(run->store, run->batch, flags, NULL);
    expect_tolerable(run, "a batch", err, built);
    if (built && failed_before && err == 0)
        violate("a store that is read-only after a failure took a batch");
    if (!err) {
        run->version++;
        keep_changes(run);
        if (flags & KV_APPLY_SYNC)
            run->durable = run->version;
        return true;
    }
    if (built && !failed_before && has_failed(run) && run->pending_count) {
        if (run->unsure)
            violate("the store failed twice");
        run->unsure = true; /* whole or absent; it may have come as far as the log */
        run->version++;
        keep_changes(run);
    }
    run->pending_count = 0;
    return false;
}

static void put_one(struct run *run, uint32_t number)
{
    begin_batch(run);
    if (run->batch)
        (void)end_batch(run, add_put(run, number), 0);
}

/* ---- blobs -------------------------------------------------------------------------- */

/* The reference that a blob key holds. Returns false when there is none to be had. */
static bool blob_ref_of(struct run *run, uint32_t number, struct kv_blob_ref *ref)
{
    char key[16];
    uint8_t value[sizeof(struct stamp) + sizeof *ref];
    size_t length;
    const int err = kv_get(run->store, key, key_of(number, key), value, sizeof value, &length);
    if (err == -ENOENT)
        return false;
    expect_tolerable(run, "the reference of a blob", err, false);
    if (err)
        return false;
    if (length != sizeof value)
        violate("the value of a blob key has %zu bytes", length);
    memcpy(ref, value + sizeof(struct stamp), sizeof *ref);
    return true;
}

static void put_blob(struct run *run, uint32_t number)
{
    char key[16];
    struct kv_blob_ref ref;
    size_t written = 0;
    struct state after = {.change = ++run->next_change,
                          .length = length_of(run, number),
                          .identity = test_random_next(&run->random)};
    begin_batch(run);
    if (!run->batch)
        return;
    workload_fill(run->value, after.length, after.identity);
    int err = kv_blob_write(run->store, run->value, after.length, NULL, &ref, &written);
    expect_tolerable(run, "kv_blob_write", err, true);
    if (err)
        return;
    after.length = (uint32_t)written;
    const struct stamp stamp = stamp_of(number, &after);
    err = kv_batch_put_blob(run->batch, key, key_of(number, key), &stamp, sizeof stamp, &ref,
                            KV_BLOB_NEW);
    if (!err)
        note_pending(run, number, after);
    if (!end_batch(run, err, 0) && !has_failed(run))
        kv_blob_discard(run->store, &ref);
}

/* The blob of one key goes to another one too, or moves there. */
static void share_blob(struct run *run, uint32_t from, uint32_t to, bool move)
{
    char key[16];
    struct kv_blob_ref ref;
    struct state after = run->states[from];
    if (from == to || !after.change || !blob_ref_of(run, from, &ref))
        return;
    begin_batch(run);
    if (!run->batch)
        return;
    after.change = ++run->next_change;
    const struct stamp stamp = stamp_of(to, &after);
    int err = kv_batch_put_blob(run->batch, key, key_of(to, key), &stamp, sizeof stamp, &ref,
                                KV_BLOB_SHARED);
    if (!err)
        note_pending(run, to, after);
    if (!err && move)
        err = add_del(run, from);
    (void)end_batch(run, err, 0);
}

static void drop_blob(struct run *run)
{
    struct kv_blob_ref ref;
    size_t written;
    workload_fill(run->value, 9000, 1);
    const int err = kv_blob_write(run->store, run->value, 9000, NULL, &ref, &written);
    expect_tolerable(run, "kv_blob_write", err, true);
    if (!err)
        kv_blob_discard(run->store, &ref);
}

/* ---- reading ------------------------------------------------------------------------ */

/* What a stored value says it is; its bytes must be just that. */
static int judge_value(struct run *run, uint32_t number, const uint8_t *value, size_t length,
                       struct state *found)
{
    struct stamp stamp;
    if (length < sizeof stamp)
        violate("the value of key %u has only %zu bytes", number, length);
    memcpy(&stamp, value, sizeof stamp);
    *found =
        (struct state){.change = stamp.change, .length = stamp.length, .identity = stamp.identity};
    if (stamp.number != number || !stamp.change || stamp.length > VALUE_MAX)
        violate("the value of key %u says that it is of %u, %u bytes", number, stamp.number,
                stamp.length);
    const uint8_t *bytes = value + sizeof stamp;
    size_t bytes_length = length - sizeof stamp;
    if (is_blob(number)) {
        struct kv_blob_ref ref;
        if (bytes_length != sizeof ref)
            violate("the value of blob key %u has %zu bytes", number, length);
        memcpy(&ref, bytes, sizeof ref);
        bytes_length = kv_blob_length(&ref);
        if (bytes_length > VALUE_MAX)
            violate("the blob of key %u has %zu bytes", number, bytes_length);
        static uint8_t content[VALUE_MAX];
        const int err = kv_blob_read(run->store, &ref, 0, content, bytes_length);
        if (err)
            return err;
        bytes = content;
    }
    if (bytes_length != stamp.length)
        violate("the value of key %u has %zu bytes, it says %u", number, bytes_length,
                stamp.length);
    workload_fill(run->expected, stamp.length, stamp.identity);
    if (memcmp(run->expected, bytes, stamp.length) != 0)
        violate("the value of key %u holds wrong bytes", number);
    return 0;
}

/* The model's state of a key, or when the last batch is unsure, the one before it. */
static void expect_state(const struct run *run, uint32_t number, const struct state *found)
{
    if (same_state(found, &run->states[number]))
        return;
    for (size_t i = run->change_count; run->unsure && i-- > 0;) {
        const struct change *const change = &run->changes[i];
        if (change->version != run->version)
            break;
        if (change->number == number && same_state(found, &change->before))
            return;
    }
    violate("key %u is of change %u instead of %u", number, found->change,
            run->states[number].change);
}

static int find_state(struct run *run, uint32_t number, struct state *found)
{
    char key[16];
    size_t length;
    *found = (struct state){.change = 0};
    const int err = kv_get(run->store, key, key_of(number, key), run->value,
                           VALUE_MAX + sizeof(struct stamp), &length);
    if (err)
        return err == -ENOENT ? 0 : err;
    return judge_value(run, number, run->value, length, found);
}

static void get_one(struct run *run, uint32_t number)
{
    struct state found;
    const int err = find_state(run, number, &found);
    expect_tolerable(run, "kv_get", err, false);
    if (!err)
        expect_state(run, number, &found);
}

static void get_many(struct run *run)
{
    enum { COUNT = 20, CAP = 1000 };
    static char keys[COUNT][16];
    static uint8_t values[COUNT][CAP];
    struct kv_lookup lookups[COUNT];
    uint32_t numbers[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        numbers[i] = (uint32_t)test_random_below(&run->random, SMALL_COUNT + BULK_COUNT);
        lookups[i] = (struct kv_lookup){.key = keys[i],
                                        .key_len = key_of(numbers[i], keys[i]),
                                        .buf = values[i],
                                        .buf_cap = CAP};
    }
    const int err = kv_get_many(run->store, lookups, COUNT);
    expect_tolerable(run, "kv_get_many", err, false);
    for (size_t i = 0; i < COUNT && !err; i++) {
        struct state found = {.change = 0};
        int result = lookups[i].result;
        if (!result)
            result = judge_value(run, numbers[i], values[i], lookups[i].value_len, &found);
        if (result == -ENOENT)
            result = 0;
        expect_tolerable(run, "a lookup", result, false);
        if (!result)
            expect_state(run, numbers[i], &found);
    }
}

/* Some steps; what is passed over must be absent. */
static void walk(struct run *run, bool forward, unsigned steps)
{
    struct kv_cursor *cursor = NULL;
    char key[16];
    uint32_t at = (uint32_t)test_random_below(&run->random, SMALL_COUNT + BULK_COUNT);
    int err = kv_cursor_open_prefix(run->store, "k", 1, &cursor);
    if (!err)
        err = forward ? kv_cursor_seek(cursor, key, key_of(at, key))
                      : kv_cursor_seek_before(cursor, key, key_of(at, key));
    for (; !err && steps; steps--) {
        size_t key_len, length;
        const void *value;
        const char *const found_key = kv_cursor_key(cursor, &key_len);
        char digits[9] = "";
        if (key_len != 9)
            violate("a key of %zu bytes", key_len);
        memcpy(digits, found_key + 1, 8);
        const uint32_t number = (uint32_t)strtoul(digits, NULL, 10);
        if (number >= KEY_COUNT || (forward ? number < at : number >= at))
            violate("a walk came to key %u after %u", number, at);
        const struct state absent = {.change = 0};
        for (uint32_t skipped = forward ? at : number + 1; skipped < (forward ? number : at);
             skipped++)
            expect_state(run, skipped, &absent);
        struct state found;
        err = kv_cursor_value(cursor, &value, &length);
        if (!err)
            err = judge_value(run, number, value, length, &found);
        if (err)
            break;
        expect_state(run, number, &found);
        at = forward ? number + 1 : number;
        err = forward ? kv_cursor_next(cursor) : kv_cursor_prev(cursor);
    }
    kv_cursor_close(cursor);
    expect_tolerable(run, "a walk", err == -ENOENT ? 0 : err, false);
}

/* ---- durability --------------------------------------------------------------------- */

static void sync_all(struct run *run, bool by_checkpoint)
{
    const bool failed_before = has_failed(run);
    const int err = by_checkpoint ? kv_checkpoint(run->store) : kv_sync(run->store);
    expect_tolerable(run, by_checkpoint ? "kv_checkpoint" : "kv_sync", err, true);
    if (!err && failed_before)
        violate("a store that is read-only after a failure promised durability");
    if (!err)
        run->durable = run->version;
    else if (!by_checkpoint && err != -EIO)
        violate("kv_sync: %s", strerror(-err));
}

/* Open the image; with faults about it may take a second time, or never be. */
static void open_store(struct run *run)
{
    const struct kv_open_options options = workload_open_options(run->config);
    run->after_failure = 0;
    for (unsigned tries = 0; !run->store && tries < 3; tries++) {
        struct kv_error error = {""};
        const int err = kv_open(run->config->image, &options, &run->store, &error);
        if (err && !tolerable(&run->config->tolerance, NULL, err, true))
            violate("kv_open: %s: %s", strerror(-err), error.text);
    }
}

/*
 * Read everything, find out which version the store is in, and go on from there. After this it
 * is durable: opening ends with a checkpoint.
 */
static void settle(struct run *run)
{
    static struct state found[KEY_COUNT];
    for (uint32_t number = 0; number < KEY_COUNT; number++) {
        int err = find_state(run, number, &found[number]);
        for (unsigned tries = 0; err && tries < 2; tries++) {
            expect_tolerable(run, "reading everything", err, false);
            err = find_state(run, number, &found[number]);
        }
        if (err) { /* nothing can be read any more: the end will tell */
            kv_abandon(run->store);
            run->store = NULL;
            return;
        }
    }
    const uint32_t last = run->version;
    size_t differences = 0;
    for (uint32_t number = 0; number < KEY_COUNT; number++)
        differences += !same_state(&found[number], &run->states[number]);
    while (differences && run->version > run->durable) {
        for (; run->change_count && run->changes[run->change_count - 1].version == run->version;
             run->change_count--) {
            const struct change *const change = &run->changes[run->change_count - 1];
            struct state *const state = &run->states[change->number];
            const struct state *const now = &found[change->number];
            differences -= !same_state(now, state);
            *state = change->before;
            differences += !same_state(now, state);
        }
        run->version--;
    }
    for (uint32_t number = 0; differences && number < KEY_COUNT; number++)
        if (!same_state(&found[number], &run->states[number]))
            fprintf(stderr, "key %u: change %u, version %u has %u\n", number, found[number].change,
                    run->version, run->states[number].change);
    if (differences)
        violate("the store is in none of the states from %u (durable) to %u%s", run->durable, last,
                run->unsure ? " (the last one unsure)" : "");
    run->durable = run->version;
    run->unsure = false;
}

static void reopen(struct run *run, bool close)
{
    if (run->store && close) {
        const bool failed = has_failed(run);
        const int err = kv_close(run->store);
        const struct tolerance *const tolerance = &run->config->tolerance;
        if (err && !tolerable(tolerance, NULL, err, true) && !(failed && err == -EIO))
            violate("kv_close: %s", strerror(-err));
        if (!err && failed)
            violate("a store that is read-only after a failure was closed well");
        if (!err)
            run->durable = run->version;
    } else if (run->store) {
        kv_abandon(run->store);
    }
    run->store = NULL;
    open_store(run);
    if (run->store)
        settle(run);
}

/* ---- the work ------------------------------------------------------------------------ */

static void put_small(struct run *run)
{
    for (unsigned i = 0; i < 60 * run->config->scale && !is_over(run); i++) {
        begin_batch(run);
        if (!run->batch)
            continue;
        int err = 0;
        for (unsigned j = 1 + i % 4; j && !err; j--)
            err = add_put(run, (uint32_t)test_random_below(&run->random, SMALL_COUNT));
        (void)end_batch(run, err, i % 5 == 0 ? KV_APPLY_SYNC : 0);
        if (i % 2 == 0)
            sync_all(run, false);
    }
}

/* More than the memory holds, and several times the log. */
static void put_bulk(struct run *run)
{
    const uint32_t count = (uint32_t)kv_min_u64(BULK_COUNT, BULK_COUNT / 4 * run->config->scale);
    for (uint32_t i = 0; i < count && !is_over(run); i += BATCH_MAX) {
        begin_batch(run);
        if (!run->batch)
            continue;
        int err = 0;
        for (uint32_t j = i; j < i + BATCH_MAX && j < count && !err; j++)
            err = add_put(run, SMALL_COUNT + (uint32_t)((j * 7919ull) % BULK_COUNT));
        (void)end_batch(run, err, 0);
        if (i / BATCH_MAX % 8 == 0)
            sync_all(run, false);
    }
}

static void read_about(struct run *run)
{
    for (unsigned i = 0; i < 100 * run->config->scale && !is_over(run); i++)
        get_one(run, (uint32_t)test_random_below(&run->random, KEY_COUNT));
    for (unsigned i = 0; i < 5 * run->config->scale && !is_over(run); i++)
        get_many(run);
    for (unsigned i = 0; i < 4 && !is_over(run); i++)
        walk(run, i % 2, 40);
}

static void put_blobs(struct run *run)
{
    const uint32_t first = KEY_COUNT - BLOB_COUNT, large = first - LARGE_COUNT;
    for (uint32_t i = 0; i < 10 * run->config->scale && !is_over(run); i++) {
        put_blob(run, first + i % BLOB_COUNT);
        put_one(run, large + i % LARGE_COUNT);
        if (i % 3 == 0)
            share_blob(run, first + i % BLOB_COUNT,
                       first + (uint32_t)test_random_below(&run->random, BLOB_COUNT), i % 2);
        if (i % 4 == 0)
            drop_blob(run);
        if (i % 5 == 0)
            sync_all(run, false);
    }
}

static int add_random(struct run *run)
{
    const uint32_t number =
        (uint32_t)test_random_below(&run->random, KEY_COUNT - BLOB_COUNT - LARGE_COUNT);
    switch (test_random_below(&run->random, 12)) {
    case 0:
    case 1:
        return add_del(run, number);
    case 2:
        return add_del_range(run, number,
                             (uint32_t)kv_min_u64(number + 20, KEY_COUNT - BLOB_COUNT - 1));
    case 3:
    case 4:
        return add_patch(run, number);
    default:
        return add_put(run, number);
    }
}

static void change_about(struct run *run, unsigned count)
{
    const uint32_t large = KEY_COUNT - BLOB_COUNT - LARGE_COUNT;
    for (unsigned i = 0; i < count && !is_over(run); i++) {
        begin_batch(run);
        if (!run->batch)
            continue;
        int err = 0;
        for (unsigned j = 1 + (unsigned)test_random_below(&run->random, 6); j && !err; j--)
            err = add_random(run);
        if (!err && i % 9 == 0)
            err = add_patch(run, large + (uint32_t)test_random_below(&run->random, LARGE_COUNT));
        (void)end_batch(run, err, i % 13 == 0 ? KV_APPLY_URGENT : 0);
        if (i % 3 == 0)
            sync_all(run, false);
        if (i % 4 == 0)
            get_one(run, (uint32_t)test_random_below(&run->random, KEY_COUNT));
        if (i % 40 == 39)
            sync_all(run, true);
    }
}

/* Whether there is an image now. */
static bool make_image(struct run *run)
{
    const struct kv_create_options options = {.size_bytes = 64u << 20,
                                              .node_bytes = 4096,
                                              .log_bytes = 1u << 20,
                                              .codec = {KV_CODEC_LZ4, 0},
                                              .uuid = {1},
                                              .force = true};
    for (unsigned tries = 0; tries < 3; tries++) {
        struct kv_error error = {""};
        const int err = kv_create(run->config->image, &options, &error);
        if (!err)
            return true;
        if (!tolerable(&run->config->tolerance, NULL, err, true))
            violate("kv_create: %s: %s", strerror(-err), error.text);
    }
    return false;
}

static void do_work(struct run *run)
{
    open_store(run);
    put_small(run);
    put_bulk(run);
    read_about(run);
    put_blobs(run);
    read_about(run);
    if (!is_over(run))
        sync_all(run, true);
    change_about(run, 60 * run->config->scale);
    reopen(run, false);
    change_about(run, 20 * run->config->scale);
    read_about(run);
    reopen(run, true);
    change_about(run, 10 * run->config->scale);
    reopen(run, run->config->seed % 2);
}

void workload_kv_run(const struct workload_config *config)
{
    struct run *const run = calloc(1, sizeof *run);
    KV_ASSERT(run);
    run->config = config;
    run->random.state = config->seed;
    run->value = malloc(VALUE_MAX + sizeof(struct stamp));
    run->expected = malloc(VALUE_MAX);
    run->changes = malloc(CHANGES_MAX * sizeof *run->changes);
    KV_ASSERT(run->value && run->expected && run->changes);
    (void)unlink(config->image); /* of the run before */

    config->start(config->context);
    const bool made = make_image(run);
    if (made)
        do_work(run);
    config->stop(config->context);

    if (!made) {
        if (!make_image(run))
            violate("no image can be made without faults either");
        if (run->store)
            violate("a store without an image");
    }
    /* Nothing fails any more, so nothing is tolerated. */
    struct workload_config healthy = *config;
    healthy.tolerance = (struct tolerance){.io = false};
    if (run->store)
        kv_abandon(run->store);
    run->store = NULL;
    run->config = &healthy;
    open_store(run);
    settle(run);
    workload_expect_clean(run->store);
    put_one(run, 1);
    reopen(run, true);
    kv_abandon(run->store);

    if (run->batch)
        kv_batch_free(run->batch);
    free(run->changes);
    free(run->expected);
    free(run->value);
    free(run);
}
