/*
 * tests/kv/test_store_threads.c: readers, cursors, writers and checkpoints at the same time.
 *
 * Every value says which key and which version it is and ends in a sum over itself, so that a
 * torn or misplaced one is seen by whoever reads it. Built for the thread sanitizer, and with
 * more data than memory.
 *
 * KVFS_SEED chooses the random numbers, KVFS_STEPS how many batches each writer applies.
 */
#include "kv/store.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>
#include <time.h>

#define WRITER_COUNT    2u
#define READER_COUNT    4u
#define KEYS_PER_WRITER 6000u
#define KEY_COUNT       (WRITER_COUNT * KEYS_PER_WRITER)
#define KEY_BYTES       17u
#define VALUE_MAX       (150u << 10)
#define BATCH_MAX       12u

static uint64_t seed_start;
static uint64_t steps_wanted;

/* ---- values that prove themselves ------------------------------------------------ */

struct stamp {
    uint64_t number;
    uint64_t version;
    uint64_t length;
    uint64_t sum;
};

static uint64_t sum_of(const void *bytes, size_t length, uint64_t number, uint64_t version)
{
    const uint8_t *const at = bytes;
    uint64_t sum = 0xcbf29ce484222325u ^ (number * 0x9e3779b97f4a7c15u) ^ (version << 32);
    for (size_t i = 0; i + 8 <= length; i += 8) {
        uint64_t word;
        memcpy(&word, at + i, sizeof word);
        sum = (sum ^ word) * 0x100000001b3u;
        sum ^= sum >> 29;
    }
    return sum;
}

static size_t value_make(uint8_t *out, size_t length, uint64_t number, uint64_t version)
{
    struct stamp stamp = {.number = number, .version = version, .length = length};
    test_fill(out + sizeof stamp, length, number << 20 ^ version);
    stamp.sum = sum_of(out + sizeof stamp, length, number, version);
    memcpy(out, &stamp, sizeof stamp);
    return sizeof stamp + length;
}

/* The version that a value is of; it must be whole and belong to the key. */
static uint64_t value_check(const uint8_t *value, size_t value_len, uint64_t number)
{
    struct stamp stamp;
    KV_ASSERT(value_len >= sizeof stamp);
    memcpy(&stamp, value, sizeof stamp);
    KV_ASSERT(stamp.number == number);
    KV_ASSERT(stamp.length == value_len - sizeof stamp);
    KV_ASSERT(stamp.sum == sum_of(value + sizeof stamp, stamp.length, number, stamp.version));
    return stamp.version;
}

/*
 * Keys of writer w are numbers n with n % WRITER_COUNT == w, so that the writers meet in every
 * leaf. Kind 's' is always there, kind 't' is written with it in one batch, 'c' comes and goes.
 */
static void key_make(uint8_t out[KEY_BYTES], uint64_t number, char kind)
{
    char text[KEY_BYTES + 1];
    const int length = snprintf(text, sizeof text, "group%02u/%08u%c", (unsigned)(number % 13),
                                (unsigned)number, kind);
    KV_ASSERT(length == (int)KEY_BYTES);
    memcpy(out, text, KEY_BYTES);
}

static uint64_t key_number(const uint8_t *key, size_t key_len)
{
    char digits[9] = {0};
    KV_ASSERT(key_len == KEY_BYTES);
    memcpy(digits, key + 8, 8);
    return strtoull(digits, NULL, 10);
}

/* ---- what the threads share -------------------------------------------------------- */

struct scene {
    struct kv_store *store;
    uint64_t versions[KEY_COUNT]; /* atomic: what was applied, for kinds s and t */
    bool done;                    /* atomic: the writers have finished */
};

struct actor {
    struct scene *scene;
    struct test_random random;
    unsigned index;
    uint8_t *buf;
};

static size_t pick_length(struct test_random *random)
{
    const size_t dice = test_random_below(random, 400);
    if (dice == 0)
        return test_random_below(random, VALUE_MAX - sizeof(struct stamp) - 8);
    if (dice < 12)
        return test_random_below(random, 5000);
    return test_random_below(random, 500);
}

static void add_put(struct actor *actor, struct kv_batch *batch, uint64_t number, char kind,
                    uint64_t version)
{
    uint8_t key[KEY_BYTES];
    key_make(key, number, kind);
    const size_t length = value_make(actor->buf, pick_length(&actor->random), number, version);
    const int err = kv_batch_put(batch, key, sizeof key, actor->buf, length);
    KV_ASSERT(err == 0);
}

static void write_batch(struct actor *actor, struct kv_batch *batch)
{
    struct scene *const scene = actor->scene;
    uint64_t numbers[BATCH_MAX];
    uint64_t versions[BATCH_MAX];
    const size_t count = 1 + test_random_below(&actor->random, BATCH_MAX);

    kv_batch_clear(batch);
    const uint64_t base = test_random_below(&actor->random, KEYS_PER_WRITER);
    const bool together = test_random_below(&actor->random, 2);
    for (size_t i = 0; i < count; i++) {
        const uint64_t rank = together ? (base + i) % KEYS_PER_WRITER
                                       : test_random_below(&actor->random, KEYS_PER_WRITER);
        numbers[i] = rank * WRITER_COUNT + actor->index;
        versions[i] = __atomic_load_n(&scene->versions[numbers[i]], __ATOMIC_RELAXED) + 1 + i;
        add_put(actor, batch, numbers[i], 's', versions[i]);
        add_put(actor, batch, numbers[i], 't', versions[i]);
        if (test_random_below(&actor->random, 2)) {
            add_put(actor, batch, numbers[i], 'c', versions[i]);
        } else {
            uint8_t key[KEY_BYTES];
            key_make(key, numbers[i], 'c');
            const int err = kv_batch_del(batch, key, sizeof key);
            KV_ASSERT(err == 0);
        }
    }

    if (!test_random_below(&actor->random, 50)) /* so that changes wait for their leaves */
        kv_pager_drop_clean(scene->store->pager);
    const unsigned flags = test_random_below(&actor->random, 100) ? 0 : (unsigned)KV_APPLY_SYNC;
    const int err = kv_apply(scene->store, batch, flags, NULL);
    KV_ASSERT(err == 0);
    /* Pairs with the acquire in read_one: who sees the version must find it in the store. */
    for (size_t i = 0; i < count; i++)
        __atomic_store_n(&scene->versions[numbers[i]], versions[i], __ATOMIC_RELEASE);
}

static void *writer_main(void *context)
{
    struct actor *const actor = context;
    struct kv_batch *const batch = kv_batch_new();
    KV_ASSERT(batch);
    for (uint64_t step = 0; step < steps_wanted; step++)
        write_batch(actor, batch);
    kv_batch_free(batch);
    return NULL;
}

/* ---- readers ------------------------------------------------------------------------- */

static void read_one(struct actor *actor)
{
    static const char kinds[] = "stc";
    struct scene *const scene = actor->scene;
    const uint64_t number = test_random_below(&actor->random, KEY_COUNT);
    const char kind = kinds[test_random_below(&actor->random, 3)];
    const uint64_t least = __atomic_load_n(&scene->versions[number], __ATOMIC_ACQUIRE);
    uint8_t key[KEY_BYTES];
    size_t value_len = 0;
    key_make(key, number, kind);
    const int err = kv_get(scene->store, key, sizeof key, actor->buf, VALUE_MAX, &value_len);
    if (kind == 'c' && err == -ENOENT)
        return;
    KV_ASSERT(err == 0);
    const uint64_t version = value_check(actor->buf, value_len, number);
    KV_ASSERT(kind == 'c' || version >= least);
}

static void read_many(struct actor *actor)
{
    enum { MANY = 16, CAP = 8192 };
    struct kv_lookup lookups[MANY];
    uint8_t keys[MANY][KEY_BYTES];
    uint64_t numbers[MANY];
    for (size_t i = 0; i < MANY; i++) {
        numbers[i] = test_random_below(&actor->random, KEY_COUNT);
        key_make(keys[i], numbers[i], 's');
        lookups[i] = (struct kv_lookup){
            .key = keys[i], .key_len = KEY_BYTES, .buf = actor->buf + i * CAP, .buf_cap = CAP};
    }
    const int err = kv_get_many(actor->scene->store, lookups, MANY);
    KV_ASSERT(err == 0);
    for (size_t i = 0; i < MANY; i++) {
        KV_ASSERT(lookups[i].result == 0 || lookups[i].result == -ERANGE);
        if (lookups[i].result == 0)
            (void)value_check(lookups[i].buf, lookups[i].value_len, numbers[i]);
        else
            KV_ASSERT(lookups[i].value_len > CAP);
    }
}

/* Walk a stretch of keys; every key that never goes away must be met, in order. */
static void walk_group(struct actor *actor)
{
    struct kv_cursor *cursor;
    char prefix[16];
    uint8_t before[KEY_BYTES];
    const unsigned group = (unsigned)test_random_below(&actor->random, 13);
    const bool forward = test_random_below(&actor->random, 2);
    const bool with_values = test_random_below(&actor->random, 2);
    const int prefix_len = snprintf(prefix, sizeof prefix, "group%02u/", group);
    int err = kv_cursor_open_prefix(actor->scene->store, prefix, (size_t)prefix_len, &cursor);
    KV_ASSERT(err == 0);

    size_t stable = 0;
    bool is_first = true;
    for (err = forward ? kv_cursor_first(cursor) : kv_cursor_last(cursor); err == 0;
         err = forward ? kv_cursor_next(cursor) : kv_cursor_prev(cursor)) {
        size_t key_len = 0;
        const uint8_t *const key = kv_cursor_key(cursor, &key_len);
        const uint64_t number = key_number(key, key_len);
        KV_ASSERT(number % 13 == group);
        if (!is_first) {
            const int order = memcmp(before, key, KEY_BYTES);
            KV_ASSERT(forward ? order < 0 : order > 0);
        }
        is_first = false;
        memcpy(before, key, KEY_BYTES);
        stable += key[KEY_BYTES - 1] != 'c';
        if (with_values) {
            const void *value = NULL;
            size_t value_len = 0;
            err = kv_cursor_value(cursor, &value, &value_len);
            /* A large value may be deleted between the leaf's copy and the reading of it. */
            if (err == -ENOENT)
                continue;
            KV_ASSERT(err == 0);
            (void)value_check(value, value_len, number);
        }
    }
    KV_ASSERT(err == -ENOENT);
    kv_cursor_close(cursor);
    const size_t expected = (KEY_COUNT - group + 12) / 13 * 2;
    KV_ASSERT(stable == expected);
}

static void *reader_main(void *context)
{
    struct actor *const actor = context;
    while (!__atomic_load_n(&actor->scene->done, __ATOMIC_ACQUIRE)) {
        const size_t dice = test_random_below(&actor->random, 200);
        if (dice == 0)
            walk_group(actor);
        else if (dice < 40)
            read_many(actor);
        else
            read_one(actor);
    }
    return NULL;
}

/* Checkpoints and syncs, as fast as they go. */
static void *keeper_main(void *context)
{
    struct actor *const actor = context;
    while (!__atomic_load_n(&actor->scene->done, __ATOMIC_ACQUIRE)) {
        const struct timespec pause = {.tv_nsec =
                                           (long)test_random_below(&actor->random, 20000000)};
        const int err = test_random_below(&actor->random, 3) ? kv_sync(actor->scene->store)
                                                             : kv_checkpoint(actor->scene->store);
        KV_ASSERT(err == 0);
        (void)nanosleep(&pause, NULL); /* being woken early does no harm */
    }
    return NULL;
}

/* ---- the tests ------------------------------------------------------------------------ */

static void fill_store(struct actor *actor)
{
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    for (uint64_t number = 0; number < KEY_COUNT; number++) {
        actor->scene->versions[number] = 1;
        add_put(actor, batch, number, 's', 1);
        add_put(actor, batch, number, 't', 1);
        if (number % 64 == 63 || number + 1 == KEY_COUNT) {
            ck_assert_int_eq(kv_apply(actor->scene->store, batch, 0, NULL), 0);
            kv_batch_clear(batch);
        }
    }
    kv_batch_free(batch);
}

/* s and t of a number were always written in one batch, and the last one counts. */
static void expect_last_versions(struct actor *actor)
{
    struct scene *const scene = actor->scene;
    for (uint64_t number = 0; number < KEY_COUNT; number++) {
        for (const char *kind = "st"; *kind; kind++) {
            uint8_t key[KEY_BYTES];
            size_t value_len = 0;
            key_make(key, number, *kind);
            const int err =
                kv_get(scene->store, key, sizeof key, actor->buf, VALUE_MAX, &value_len);
            ck_assert_int_eq(err, 0);
            ck_assert_uint_eq(value_check(actor->buf, value_len, number), scene->versions[number]);
        }
    }
}

static void actor_init(struct actor *actor, struct scene *scene, unsigned index, uint64_t salt)
{
    *actor = (struct actor){.scene = scene, .index = index, .random = {seed_start + salt * 1000}};
    actor->buf = malloc(VALUE_MAX);
    ck_assert_ptr_nonnull(actor->buf);
}

static void run_scene(unsigned writer_count, uint32_t node_bytes, enum kv_codec codec)
{
    const struct kv_create_options create = {
        .size_bytes = 512ull << 20,
        .log_bytes = 8u << 20,
        .node_bytes = node_bytes,
        .codec = {codec, 0},
    };
    const struct kv_open_options options = {
        .memory_budget_bytes = 8u << 20,
        .commit_interval_ms = 20,
    };
    static struct scene scene;
    struct test_dir dir;
    struct actor actors[WRITER_COUNT + READER_COUNT + 1];
    pthread_t threads[WRITER_COUNT + READER_COUNT + 1];
    struct kv_error error = {{0}};
    size_t count = 0;

    memset(&scene, 0, sizeof scene);
    test_dir_make(&dir);
    int err = kv_create(dir.image, &create, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    err = kv_open(dir.image, &options, &scene.store, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    for (unsigned i = 0; i < WRITER_COUNT + READER_COUNT + 1; i++)
        actor_init(&actors[i], &scene, i, node_bytes + i);
    fill_store(&actors[0]);

    for (; count < writer_count; count++)
        ck_assert_int_eq(pthread_create(&threads[count], NULL, writer_main, &actors[count]), 0);
    for (; count < writer_count + READER_COUNT; count++)
        ck_assert_int_eq(pthread_create(&threads[count], NULL, reader_main, &actors[count]), 0);
    ck_assert_int_eq(pthread_create(&threads[count], NULL, keeper_main, &actors[count]), 0);
    count++;

    for (size_t i = 0; i < count; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        if (i + 1 == writer_count)
            __atomic_store_n(&scene.done, true, __ATOMIC_RELEASE);
    }

    struct kv_stats stats;
    kv_store_stats(scene.store, &stats);
    ck_assert_uint_gt(stats.page_evictions, 0);
    ck_assert_uint_gt(stats.checkpoints, 0);
    ck_assert_uint_gt(stats.batches_deferred, 0);
    expect_last_versions(&actors[0]);
    struct kv_check_result result;
    ck_assert_uint_eq(test_check(scene.store, &result), 0);
    ck_assert_int_eq(kv_close(scene.store), 0);

    err = kv_open(dir.image, &options, &scene.store, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    expect_last_versions(&actors[0]);
    ck_assert_int_eq(kv_close(scene.store), 0);
    for (unsigned i = 0; i < WRITER_COUNT + READER_COUNT + 1; i++)
        free(actors[i].buf);
    test_dir_remove(&dir);
}

START_TEST(readers_see_whole_values_beside_one_writer)
{
    run_scene(1, 16384, KV_CODEC_LZ4);
}
END_TEST

START_TEST(readers_see_whole_values_beside_two_writers)
{
    run_scene(2, 4096, KV_CODEC_NONE);
}
END_TEST

static Suite *store_suite(void)
{
    Suite *const suite = suite_create("store threads");
    TCase *const threads = tcase_create("threads");
    tcase_set_timeout(threads, 0);
    tcase_add_test(threads, readers_see_whole_values_beside_one_writer);
    tcase_add_test(threads, readers_see_whole_values_beside_two_writers);
    suite_add_tcase(suite, threads);
    return suite;
}

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    steps_wanted = test_env("KVFS_STEPS", 2000);
    printf("seed: %" PRIu64 " (KVFS_SEED), steps: %" PRIu64 " (KVFS_STEPS)\n", seed_start,
           steps_wanted);

    return test_run(store_suite());
}
