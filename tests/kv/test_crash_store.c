/*
 * tests/kv/test_crash_store.c: what a crash may leave, at every point, of a store at work.
 *
 * A random workload runs on a recording device beside a model that keeps every version. Then
 * the states that a crash can leave are built, from every prefix of the writes: all of the
 * writes that were not flushed, some, and one torn. Each must open, be the model after some
 * prefix of the batches that reaches at least to the last one that was acknowledged as durable
 * at that moment, and pass kv_check.
 *
 *   KVFS_SEED          where the random numbers start (printed)
 *   KVFS_CRASH_ROUNDS  workloads for each test (1)
 *   KVFS_CRASH_BATCHES batches in a workload (120)
 *   KVFS_CRASH_STATES  positions that are tried in each workload; 0: all of them (250)
 *   KVFS_CRASH_LIVES   how many crashes one image goes through (100)
 *   KVFS_CRASH_SAVE    write the image on which a check failed to this path
 */
#include "support_devices.h"
#include "support_history.h"
#include "support_store.h"

#include "kv/store.h"

#include <check.h>

#define IMAGE_BLOCKS    (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define BATCH_OPS_MAX   8u
#define PLAIN_KEY_COUNT 120u
#define BLOB_KEY_COUNT  16u
#define VALUE_BYTES_MAX 40000u
#define BLOB_BYTES_MAX  50000u

/* ---- what was promised when ------------------------------------------------ */

/* From this position of the log on. */
struct mark {
    size_t position;
    size_t durable; /* the newest version that was acknowledged as durable */
    size_t started; /* the newest version of which anything may be there */
};

/* A life of a store: from opening to closing or the end of the recording. */
struct life {
    struct recorder *recorder;
    struct history *history;
    enum kv_sync_mode sync;
    bool torn_superblock;  /* it began with one copy torn */
    size_t first_position; /* crashes before it are not promised anything */
    struct mark *marks;    /* in order; the first is at position 0 */
    size_t mark_count, mark_capacity;
};

static void note(struct life *life, size_t durable, size_t started)
{
    if (life->mark_count == life->mark_capacity) {
        life->mark_capacity = life->mark_capacity ? life->mark_capacity * 2 : 64;
        life->marks = realloc(life->marks, life->mark_capacity * sizeof *life->marks);
        KV_ASSERT(life->marks != NULL);
    }
    life->marks[life->mark_count++] = (struct mark){
        .position = recorder_event_count(life->recorder), .durable = durable, .started = started};
}

static struct mark *last_mark(struct life *life)
{
    return &life->marks[life->mark_count - 1];
}

static void note_durable(struct life *life, size_t version)
{
    const struct mark mark = *last_mark(life);
    note(life, (size_t)kv_max_u64(mark.durable, version), mark.started);
}

static void note_started(struct life *life, size_t version)
{
    const struct mark mark = *last_mark(life);
    note(life, mark.durable, (size_t)kv_max_u64(mark.started, version));
}

/* The versions that a crash at a position may leave: [*first, *last]. */
static void find_bounds(const struct life *life, size_t position, size_t *first, size_t *last)
{
    *first = life->marks[0].durable;
    *last = life->marks[0].started;
    for (size_t i = 0; i < life->mark_count; i++) {
        if (life->marks[i].position <= position)
            *first = life->marks[i].durable;
        if (life->marks[i].position < position)
            *last = life->marks[i].started;
    }
    /* A batch that changes nothing may be acknowledged without a write. */
    *last = (size_t)kv_max_u64(*first, kv_min_u64(*last, history_last(life->history)));
}

/* Takes the recorder and the history over. */
static struct life *life_new(struct recorder *recorder, struct history *history,
                             enum kv_sync_mode sync, size_t durable, size_t started)
{
    struct life *life = calloc(1, sizeof *life);
    KV_ASSERT(life != NULL);
    life->recorder = recorder;
    life->history = history;
    life->sync = sync;
    note(life, durable, started);
    return life;
}

static void life_free(struct life *life)
{
    recorder_free(life->recorder);
    history_free(life->history);
    free(life->marks);
    free(life);
}

/* ---- the workload ----------------------------------------------------------- */

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

static size_t plain_key(struct test_random *random, uint8_t *key)
{
    return make_key(key, 'k', test_random_below(random, PLAIN_KEY_COUNT));
}

static size_t blob_key(struct test_random *random, uint8_t *key)
{
    return make_key(key, HISTORY_BLOB_KEY, test_random_below(random, BLOB_KEY_COUNT));
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

struct work {
    struct kv_store *store;
    struct life *life;
    struct test_random *random;
    struct kv_batch *batch;
    uint8_t *bytes;                          /* room for any value or blob */
    struct kv_blob_ref fresh[BATCH_OPS_MAX]; /* blobs that the batch makes its own */
    size_t fresh_count;
    uint64_t positions[BATCH_OPS_MAX]; /* what kv_apply said for some versions */
    size_t position_versions[BATCH_OPS_MAX];
};

static int add_put(struct work *work)
{
    uint8_t key[KV_KEY_MAX];
    const size_t key_len = plain_key(work->random, key);
    const size_t length = random_length(work->random, VALUE_BYTES_MAX);
    test_fill(work->bytes, length, test_random_next(work->random));
    history_put(work->life->history, key, key_len, work->bytes, length);
    return kv_batch_put(work->batch, key, key_len, work->bytes, length);
}

static int add_del(struct work *work)
{
    uint8_t key[KV_KEY_MAX];
    const size_t key_len =
        (test_random_below(work->random, 4) ? plain_key : blob_key)(work->random, key);
    history_del(work->life->history, key, key_len);
    return kv_batch_del(work->batch, key, key_len);
}

static int add_del_range(struct work *work)
{
    uint8_t lower[KV_KEY_MAX], upper[KV_KEY_MAX];
    const bool blobs = test_random_below(work->random, 4) == 0;
    const char kind = blobs ? HISTORY_BLOB_KEY : 'k';
    const size_t from = test_random_below(work->random, blobs ? BLOB_KEY_COUNT : PLAIN_KEY_COUNT);
    const size_t lower_len = make_key(lower, kind, from);
    const size_t upper_len = make_key(upper, kind, from + 1 + test_random_below(work->random, 9));
    history_del_range(work->life->history, lower, lower_len, upper, upper_len);
    return kv_batch_del_range(work->batch, lower, lower_len, upper, upper_len);
}

static int add_patch(struct work *work)
{
    uint8_t key[KV_KEY_MAX];
    const size_t key_len = plain_key(work->random, key);
    const size_t offset = random_length(work->random, 20000);
    const size_t length = 1 + random_length(work->random, 2000);
    test_fill(work->bytes, length, test_random_next(work->random));
    const int err = kv_batch_patch(work->batch, key, key_len, offset, work->bytes, length);
    if (err == -EINVAL)
        return 0; /* the batch has a patch of this key already */
    history_patch(work->life->history, key, key_len, offset, work->bytes, length);
    return err;
}

static int add_blob(struct work *work)
{
    uint8_t key[KV_KEY_MAX], head[KV_BLOB_HEAD_MAX];
    const size_t key_len = blob_key(work->random, key);
    const size_t head_len = test_random_below(work->random, sizeof head + 1);
    const size_t length = 1 + test_random_below(work->random, BLOB_BYTES_MAX);
    test_fill(head, head_len, test_random_next(work->random));
    test_fill(work->bytes, length, test_random_next(work->random));

    struct kv_blob_ref ref;
    size_t written;
    int err = kv_blob_write(work->store, work->bytes, length, NULL, &ref, &written);
    if (err == -ENOSPC)
        return 0; /* the batch goes on without it */
    if (err)
        return err;
    if (test_random_below(work->random, 10) == 0) {
        kv_blob_discard(work->store, &ref);
        return 0;
    }
    work->fresh[work->fresh_count++] = ref;
    history_put_blob(work->life->history, key, key_len, head, head_len, work->bytes, written, &ref);
    return kv_batch_put_blob(work->batch, key, key_len, head, head_len, &ref, KV_BLOB_NEW);
}

/* One more key for a blob that the version being made holds. */
static int add_shared_blob(struct work *work)
{
    const struct history_version *now = history_pending(work->life->history);
    size_t blob_count = 0;
    while (blob_count < now->count && now->entries[blob_count].key[0] == HISTORY_BLOB_KEY)
        blob_count++; /* they come first */
    if (!blob_count)
        return 0;

    uint8_t key[KV_KEY_MAX];
    const size_t key_len = blob_key(work->random, key);
    const struct history_entry held = now->entries[test_random_below(work->random, blob_count)];
    const size_t head_len = test_random_below(work->random, 64);
    test_fill(work->bytes, head_len, test_random_next(work->random));
    history_put_blob(work->life->history, key, key_len, work->bytes, head_len,
                     held.value + held.head_len, held.value_len - held.head_len, &held.ref);
    return kv_batch_put_blob(work->batch, key, key_len, work->bytes, head_len, &held.ref,
                             KV_BLOB_SHARED);
}

static int add_operation(struct work *work)
{
    switch (test_random_below(work->random, 16)) {
    case 0:
    case 1:
        return add_del(work);
    case 2:
        return add_del_range(work);
    case 3:
    case 4:
    case 5:
        return add_patch(work);
    case 6:
    case 7:
        return add_blob(work);
    case 8:
    case 9:
        return add_shared_blob(work);
    default:
        return add_put(work);
    }
}

/* Make and apply one batch. Returns 0, also when the image was full, or the store's failure. */
static int apply_one(struct work *work)
{
    struct history *history = work->life->history;
    const size_t op_count = 1 + test_random_below(work->random, BATCH_OPS_MAX);
    const bool sync = test_random_below(work->random, 12) == 0;
    int err = 0;

    note_started(work->life, history_last(history) + 1);
    kv_batch_clear(work->batch);
    work->fresh_count = 0;
    history_begin(history);
    for (size_t i = 0; i < op_count && !err; i++)
        err = add_operation(work);
    const size_t version = history_commit(history);
    if (err)
        return err;

    const size_t slot = test_random_below(work->random, BATCH_OPS_MAX);
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
    if (sync || work->life->sync == KV_SYNC_ALWAYS)
        note_durable(work->life, version);
    return 0;
}

/* Sometimes make things durable, one way or another. */
static int settle(struct work *work)
{
    const size_t last = history_last(work->life->history);
    const size_t slot = test_random_below(work->random, BATCH_OPS_MAX);
    int err = 0;
    switch (test_random_below(work->random, 24)) {
    case 0:
        err = kv_checkpoint(work->store);
        if (!err)
            note_durable(work->life, last);
        return err;
    case 1:
    case 2:
    case 3:
        err = kv_sync(work->store);
        if (!err)
            note_durable(work->life, last);
        return err;
    case 4:
        if (!work->position_versions[slot])
            return 0;
        err = kv_sync_to(work->store, work->positions[slot]);
        if (!err)
            note_durable(work->life, work->position_versions[slot]);
        return err;
    default:
        return 0;
    }
}

static int do_work(struct life *life, struct kv_store *store, struct test_random *random,
                   size_t batch_count)
{
    struct work work = {.store = store, .life = life, .random = random};
    work.batch = kv_batch_new();
    work.bytes = malloc(VALUE_BYTES_MAX + BLOB_BYTES_MAX);
    KV_ASSERT(work.batch != NULL && work.bytes != NULL);
    int err = 0;
    for (size_t i = 0; i < batch_count && !err; i++) {
        err = apply_one(&work);
        if (!err)
            err = settle(&work);
    }
    kv_batch_free(work.batch);
    free(work.bytes);
    return err;
}

/* ---- opening and checking ------------------------------------------------------ */

/* What is going on, for whoever reads a failure. */
static char story[1024];

/* How much was tried, so that a test that tries nothing is noticed. */
static size_t tried_states, tried_recoveries;

static int open_store(struct kv_device *device, enum kv_sync_mode sync, bool read_only,
                      struct kv_store **store)
{
    const struct kv_open_options options = {
        .read_only = read_only,
        .sync = sync,
        .memory_budget_bytes = 8u << 20,
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

static void create_image(struct recorder *recorder, struct test_random *random)
{
    static const uint32_t node_sizes[] = {4096, 4096, 16384};
    const enum kv_codec codec = (enum kv_codec)test_random_below(random, 3);
    const struct kv_create_options options = {
        .size_bytes = KV_IMAGE_BYTES_MIN,
        .node_bytes = node_sizes[test_random_below(random, 3)],
        .log_bytes = KV_LOG_BYTES_MIN,
        .codec = {codec, codec == KV_CODEC_ZSTD},
    };
    struct kv_error error = {""};
    const int err = kv_create_on_device(recorder_device(recorder), &options, &error);
    ck_assert_msg(!err, "create: %s: %s", strerror(-err), error.text);
}

static void save_image(struct kv_device *device)
{
    const char *path = getenv("KVFS_CRASH_SAVE");
    FILE *file = path ? fopen(path, "we") : NULL;
    uint8_t *block = kv_device_alloc(KV_BLOCK_BYTES);
    for (uint64_t i = 0; file && block && i < device->block_count; i++) {
        if (kv_device_read(device, i, 1, block) || fwrite(block, KV_BLOCK_BYTES, 1, file) != 1)
            printf("block %llu could not be saved\n", (unsigned long long)i);
    }
    if (file && !fclose(file))
        printf("the image is in %s\n", path);
    free(block);
}

struct findings {
    bool torn_superblock; /* the crash tore one copy, which kv_check then finds: the design's way */
    size_t count;
};

static void take_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    struct findings *findings = context;
    if (findings->torn_superblock && severity < KV_CHECK_DAMAGE && !strcmp(what, "superblock-copy"))
        return;
    printf("check: %s: %s\n", what, text);
    findings->count++;
}

/* Is an open store what it must be? Returns the version, or HISTORY_NONE when it printed why not.
 */
static size_t check_store(struct kv_store *store, const struct life *life, size_t position,
                          bool torn_superblock)
{
    size_t first, last, version;
    find_bounds(life, position, &first, &last);
    int err = history_find(life->history, store, first, last, &version);
    if (err) {
        printf("reading the store: %s\n", strerror(-err));
        return HISTORY_NONE;
    }
    struct findings findings = {.torn_superblock = torn_superblock};
    const struct kv_check_options options = {
        .read_blobs = true, .report = take_finding, .context = &findings};
    struct kv_check_result result;
    err = kv_check(store, &options, &result);
    if (err)
        printf("check: %s\n", strerror(-err));
    return err || findings.count ? HISTORY_NONE : version;
}

static bool is_superblock(const struct recorded_event *event)
{
    return !event->is_flush &&
           (event->block == KV_SUPERBLOCK_A_BLOCK || event->block == KV_SUPERBLOCK_B_BLOCK);
}

/* Does a crash leave a torn superblock: one that it tears itself, or that of an earlier crash? */
static bool leaves_torn_superblock(const struct life *life, const struct crash_walk *walk,
                                   const struct crash_choice *choice)
{
    if (choice->torn) {
        const struct recorded_event event =
            recorder_event(walk->recorder, walk->flushed_position + choice->torn_index);
        if (is_superblock(&event))
            return true;
    }
    /* The first superblock that a life writes goes over the torn one. */
    bool torn = life->torn_superblock;
    for (size_t i = 0; torn && i < walk->flushed_position; i++) {
        const struct recorded_event event = recorder_event(walk->recorder, i);
        torn = !is_superblock(&event);
    }
    return torn;
}

static void describe(char *out, size_t out_size, const struct life *life,
                     const struct crash_walk *walk, const struct crash_choice *choice)
{
    size_t first, last;
    find_bounds(life, walk->position, &first, &last);
    int used =
        snprintf(out, out_size, "crash before event %zu of %zu (%zu pending, versions %zu..%zu)",
                 walk->position, recorder_event_count(life->recorder), crash_walk_pending(walk),
                 first, last);
    if (choice->torn && used < (int)out_size)
        used += snprintf(out + used, out_size - (size_t)used, " torn: %zu at %u, rest %d",
                         choice->torn_index, choice->torn_bytes, (int)choice->rest);
    for (size_t i = 0; choice->kept && i < crash_walk_pending(walk) && used + 12 < (int)out_size;
         i++) {
        if (i == 0)
            used += snprintf(out + used, out_size - (size_t)used, " kept: ");
        out[used++] = choice->kept[i] ? '1' : '0';
        out[used] = '\0';
    }
}

/* The state must recover, read-only first if asked, to a version that was possible. */
static void check_state(const struct life *life, const struct crash_walk *walk,
                        const struct crash_choice *choice, bool read_only_too)
{
    char what[512];
    describe(what, sizeof what, life, walk, choice);
    const bool torn_superblock = leaves_torn_superblock(life, walk, choice);
    size_t versions[2] = {0, 0};
    tried_states++;
    for (int read_only = read_only_too; read_only >= 0; read_only--) {
        tried_recoveries++;
        struct recorder *recorder = recorder_new(crash_walk_state(walk, choice));
        struct kv_store *store = NULL;
        const int err = open_store(recorder_device(recorder), life->sync, read_only, &store);
        versions[read_only] =
            err ? HISTORY_NONE : check_store(store, life, walk->position, torn_superblock);
        if (versions[read_only] == HISTORY_NONE) {
            struct kv_device *again = crash_walk_state(walk, choice);
            save_image(again);
            kv_device_close(again);
            ck_abort_msg("%s%s: does not recover%s", story, what, read_only ? " read-only" : "");
        }
        kv_abandon(store);
        ck_assert_msg(!read_only || recorder_event_count(recorder) == 0,
                      "%s%s: a read-only open wrote", story, what);
        recorder_free(recorder);
    }
    ck_assert_msg(!read_only_too || versions[0] == versions[1],
                  "%s%s: version %zu, but read-only %zu", story, what, versions[0], versions[1]);
}

/* ---- choosing states --------------------------------------------------------------- */

static void choose_torn(struct test_random *random, struct crash_choice *choice, size_t index)
{
    choice->torn = true;
    choice->torn_index = index;
    choice->torn_bytes = (uint32_t)test_random_below(random, 8) * 512;
    choice->rest = (enum torn_rest)test_random_below(random, 3);
    choice->random_seed = test_random_next(random);
}

/* Any half of the pending writes, all but one, or only one; sometimes with one of them torn. */
static void choose_subset(struct test_random *random, struct crash_choice *choice, bool *kept,
                          size_t pending)
{
    const size_t manner = test_random_below(random, 3);
    const size_t special = test_random_below(random, pending);
    for (size_t i = 0; i < pending; i++)
        kept[i] = manner == 0   ? test_random_next(random) & 1
                  : manner == 1 ? i != special
                                : i == special;
    choice->kept = kept;
    if (test_random_below(random, 3) == 0)
        choose_torn(random, choice, test_random_below(random, pending));
}

/* A choice of any kind. `kept` has room for the pending writes. */
static struct crash_choice choose_any(struct test_random *random, const struct crash_walk *walk,
                                      bool *kept)
{
    struct crash_choice choice = {0};
    const size_t pending = crash_walk_pending(walk);
    const size_t manner = test_random_below(random, 3);
    if (pending && manner == 1)
        choose_torn(random, &choice, pending - 1);
    else if (pending && manner == 2)
        choose_subset(random, &choice, kept, pending);
    return choice;
}

static bool *alloc_kept(const struct crash_walk *walk)
{
    bool *kept = calloc(crash_walk_pending(walk) + 1, sizeof *kept);
    KV_ASSERT(kept != NULL);
    return kept;
}

/* All kinds of crashes at one position. */
static void crash_at(const struct life *life, const struct crash_walk *walk,
                     struct test_random *random)
{
    const size_t pending = crash_walk_pending(walk);
    struct crash_choice choice = {0};
    check_state(life, walk, &choice, test_random_below(random, 8) == 0);
    if (pending) {
        choose_torn(random, &choice, pending - 1);
        check_state(life, walk, &choice, test_random_below(random, 8) == 0);
    }
    if (pending > 1) {
        bool *kept = alloc_kept(walk);
        choice = (struct crash_choice){0};
        choose_subset(random, &choice, kept, pending);
        check_state(life, walk, &choice, test_random_below(random, 8) == 0);
        free(kept);
    }
}

/* How much a position is worth trying: the neighbours of a flush more than others. */
static size_t weigh(const struct life *life, size_t position)
{
    const size_t count = recorder_event_count(life->recorder);
    const bool before = position < count && recorder_event(life->recorder, position).is_flush;
    const bool after = position > 0 && recorder_event(life->recorder, position - 1).is_flush;
    return before || after || position == count ? 4 : 1;
}

/* Crash at about `position_count` positions, spread by their weight; 0: at all of them. */
static void crash_everywhere(const struct life *life, struct test_random *random,
                             size_t position_count)
{
    const size_t end = recorder_event_count(life->recorder);
    size_t total = 0;
    for (size_t position = life->first_position; position <= end; position++)
        total += weigh(life, position);

    struct crash_walk walk;
    crash_walk_init(&walk, life->recorder);
    for (size_t position = life->first_position; position <= end; position++) {
        if (position_count &&
            test_random_below(random, total) >= weigh(life, position) * position_count)
            continue;
        crash_walk_advance(&walk, position);
        crash_at(life, &walk, random);
    }
    crash_walk_release(&walk);
}

/* ---- lives ------------------------------------------------------------------------- */

/* A fresh image, not yet opened. */
static struct life *first_life(struct test_random *random, enum kv_sync_mode sync)
{
    struct recorder *recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    create_image(recorder, random);
    struct life *life = life_new(recorder, history_new(), sync, 0, 0);
    life->first_position = recorder_event_count(recorder);
    return life;
}

/*
 * Open the store of a life, see that it is what it must be after the crash before, and make
 * that durable. Versions that were lost are struck from the history.
 */
static struct kv_store *begin_life(struct life *life)
{
    struct kv_store *store = NULL;
    const int err = open_store(recorder_device(life->recorder), life->sync, false, &store);
    ck_assert_msg(!err, "%sdoes not open", story);
    const size_t version = check_store(store, life, 0, life->torn_superblock);
    ck_assert_msg(version != HISTORY_NONE, "%sdid not recover", story);
    ck_assert_msg(!kv_sync(store), "%sfirst sync", story);
    while (history_last(life->history) > version)
        history_drop(life->history);
    note(life, version, version);
    return store;
}

/* Close the store, or leave it as a crash would. */
static void end_life(struct life *life, struct kv_store *store, struct test_random *random)
{
    if (test_random_below(random, 2)) {
        kv_abandon(store);
        return;
    }
    const int err = kv_close(store);
    ck_assert_msg(!err, "%sclose: %s", story, strerror(-err));
    note_durable(life, history_last(life->history));
}

/* The life after a random crash at a position of another, which must outlive it. */
static struct life *next_life(const struct life *life, struct test_random *random, size_t position)
{
    struct crash_walk walk;
    crash_walk_init(&walk, life->recorder);
    crash_walk_advance(&walk, position);
    bool *kept = alloc_kept(&walk);
    const struct crash_choice choice = choose_any(random, &walk, kept);
    size_t first, last;
    find_bounds(life, position, &first, &last);

    char what[512];
    describe(what, sizeof what, life, &walk, &choice);
    const size_t used = strlen(story);
    snprintf(story + used, sizeof story - used, "%.400s; then ", what);

    struct life *next = life_new(recorder_new(crash_walk_state(&walk, &choice)),
                                 history_fork(life->history, first, last), life->sync, first, last);
    next->torn_superblock = leaves_torn_superblock(life, &walk, &choice);
    free(kept);
    crash_walk_release(&walk);
    return next;
}

/* Any position, as often as not one where much is pending. */
static size_t random_position(const struct life *life, struct test_random *random)
{
    const size_t end = recorder_event_count(life->recorder);
    size_t position =
        life->first_position + test_random_below(random, end - life->first_position + 1);
    if (test_random_below(random, 2)) {
        while (position < end && !recorder_event(life->recorder, position).is_flush)
            position++;
    }
    return position;
}

/* ---- tests --------------------------------------------------------------------------- */

static size_t round_count(void)
{
    return test_env("KVFS_CRASH_ROUNDS", 1);
}

static size_t batch_count(void)
{
    return test_env("KVFS_CRASH_BATCHES", 120);
}

static size_t state_count(void)
{
    return test_env("KVFS_CRASH_STATES", 250);
}

static void end_test(void)
{
    printf("%s%zu states, recovered %zu times\n", story, tried_states, tried_recoveries);
    (void)fflush(stdout); /* the test's process ends without */
    ck_assert_uint_gt(tried_states, 0);
}

/* The random numbers of one round of one test; say how to have the same again. */
static struct test_random begin_round(const char *test, int loop, size_t round)
{
    const uint64_t seed = test_env("KVFS_SEED", 1) + round;
    snprintf(story, sizeof story, "KVFS_SEED=%llu %s %d: ", (unsigned long long)seed, test, loop);
    printf("%s\n", story);
    (void)fflush(stdout); /* best effort: the test may abort next */
    return (struct test_random){seed * 1000003 + (uint64_t)loop};
}

START_TEST(a_crash_leaves_a_prefix_with_all_that_was_promised)
{
    for (size_t round = 0; round < round_count(); round++) {
        struct test_random random = begin_round("prefix", _i, round);
        struct life *life = first_life(&random, (enum kv_sync_mode)_i);
        struct kv_store *store = begin_life(life);
        const int err = do_work(life, store, &random, batch_count());
        ck_assert_msg(!err, "%swork: %s", story, strerror(-err));
        end_life(life, store, &random);
        crash_everywhere(life, &random, state_count());
        life_free(life);
    }
    end_test();
}
END_TEST

START_TEST(a_crash_during_recovery_is_a_crash_like_any_other)
{
    for (size_t round = 0; round < round_count(); round++) {
        struct test_random random = begin_round("recovery", _i, round);
        struct life *life = first_life(&random, (enum kv_sync_mode)_i);
        struct kv_store *store = begin_life(life);
        const int err = do_work(life, store, &random, batch_count() / 2);
        ck_assert_msg(!err, "%swork: %s", story, strerror(-err));
        kv_abandon(store);

        const size_t told = strlen(story);
        for (size_t crash = 0; crash < (state_count() ? 1 + state_count() / 16 : 50); crash++) {
            struct life *next = next_life(life, &random, random_position(life, &random));
            store = begin_life(next);
            /* Some work too: what the log says after a recovery must not mix with older. */
            const int next_err = do_work(next, store, &random, 6);
            ck_assert_msg(!next_err, "%swork: %s", story, strerror(-next_err));
            end_life(next, store, &random);
            crash_everywhere(next, &random, state_count() ? 1 + state_count() / 12 : 0);
            life_free(next);
            story[told] = '\0';
        }
        life_free(life);
    }
    end_test();
}
END_TEST

START_TEST(an_image_survives_many_crashes_one_after_the_other)
{
    for (size_t round = 0; round < round_count(); round++) {
        struct test_random random = begin_round("lives", _i, round);
        const size_t life_count = 1 + test_env("KVFS_CRASH_LIVES", 100);
        struct life **lives = calloc(life_count, sizeof *lives);
        ck_assert_ptr_nonnull(lives);
        const size_t told = strlen(story);
        for (size_t i = 0; i < life_count; i++) {
            story[told] = '\0';
            lives[i] = i ? next_life(lives[i - 1], &random, random_position(lives[i - 1], &random))
                         : first_life(&random, (enum kv_sync_mode)_i);
            struct kv_store *store = begin_life(lives[i]);
            /* Short lives leave what the log of an earlier one wrote behind their own. */
            const size_t batches =
                test_random_below(&random, test_random_below(&random, 2) ? 20 : 3);
            int err = do_work(lives[i], store, &random, batches);
            if (!err)
                err = kv_sync(store);
            if (!err)
                note_durable(lives[i], history_last(lives[i]->history));
            ck_assert_msg(!err, "%slife %zu: work: %s", story, i, strerror(-err));
            end_life(lives[i], store, &random);
        }
        for (size_t i = life_count; i > 0; i--)
            life_free(lives[i - 1]);
        free(lives);
    }
}
END_TEST

/* One write or flush fails: nothing acknowledged is lost, and nothing is acknowledged after. */
START_TEST(a_failed_write_or_flush_loses_nothing_that_was_promised)
{
    const size_t told_states = state_count() ? state_count() : 1000;
    struct test_random random = begin_round("faults", _i, 0);
    const size_t told = strlen(story);
    for (size_t fault = 0; fault < 4 + told_states / 8; fault++) {
        struct life *life = first_life(&random, (enum kv_sync_mode)_i);
        struct faulty *faulty = faulty_new(recorder_device(life->recorder));
        struct kv_store *store = NULL;
        ck_assert_int_eq(open_store(faulty_device(faulty), life->sync, false, &store), 0);
        const struct fault plan = {
            .targets = test_random_below(&random, 3) ? FAULT_WRITES : FAULT_FLUSHES,
            .after = test_random_below(&random, 60),
            .lasting = test_random_below(&random, 2),
            .error = -EIO,
            .partial_blocks = (uint32_t)test_random_below(&random, 4),
        };
        snprintf(story + told, sizeof story - told,
                 "%s %llu fails%s: ", plan.targets == FAULT_WRITES ? "write" : "flush",
                 (unsigned long long)plan.after, plan.lasting ? " for good" : "");
        faulty_arm(faulty, plan);
        const int err = do_work(life, store, &random, 40);

        if (err) {
            ck_assert_msg(faulty_failures(faulty) > 0, "%swork: %s", story, strerror(-err));
            const size_t events = recorder_event_count(life->recorder);
            ck_assert_msg(kv_store_failure(store) != 0 || err == -EIO, "%ssays %s", story,
                          strerror(-err));
            if (kv_store_failure(store)) {
                ck_assert_int_eq(kv_put(store, "k", 1, "v", 1), -EROFS);
                ck_assert_int_ne(kv_sync(store), 0);
                ck_assert_int_ne(kv_checkpoint(store), 0);
                ck_assert_uint_eq(recorder_event_count(life->recorder), events);
            }
        }
        kv_abandon(store);
        /* A crash may follow, in which what was not flushed may be lost. */
        struct crash_walk walk;
        crash_walk_init(&walk, life->recorder);
        crash_walk_advance(&walk, recorder_event_count(life->recorder));
        crash_at(life, &walk, &random);
        crash_walk_release(&walk);
        faulty_free(faulty);
        life_free(life);
    }
    end_test();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("crash_store");
    TCase *tcase = tcase_create("crash_store");
    tcase_set_timeout(tcase, 0); /* KVFS_CRASH_STATES=0 takes as long as it takes */
    const int modes = KV_SYNC_CHECKPOINT + 1;
    tcase_add_loop_test(tcase, a_crash_leaves_a_prefix_with_all_that_was_promised, 0, modes);
    tcase_add_loop_test(tcase, a_crash_during_recovery_is_a_crash_like_any_other, 0, modes);
    tcase_add_loop_test(tcase, an_image_survives_many_crashes_one_after_the_other, 0, modes);
    tcase_add_loop_test(tcase, a_failed_write_or_flush_loses_nothing_that_was_promised, 0, modes);
    suite_add_tcase(suite, tcase);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
