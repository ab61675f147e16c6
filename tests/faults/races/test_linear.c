/*
 * tests/faults/races/test_linear.c: threads that read, write and delete the same few keys get
 * answers that one thread could have got: their histories are linearizable, key by key.
 *
 * The keys lie in a tree that does not fit into memory and whose leaves split and merge all the
 * time, while checkpoints run. A round is short: some operations of each thread, with the moment
 * of call and return of each by one counter. Reads are kv_get, kv_get_many and cursors, for which
 * each key of the range is a read, whether it was met or not.
 *
 *   KVFS_SEED         where the random numbers start (printed)
 *   KVFS_RACE_ROUNDS  how many rounds (4000; under the thread sanitizer 150)
 */
#include "kv/kv.h"
#include "linear.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#define PLAYERS       4u
#define OPS_PER_ROUND 10u
#define HOT_KEYS      6u
#define FILLERS       24u
#define COLD_KEYS     20000u
#define COLD_BYTES    600u
#define DEVICE_BLOCKS 24000u
#define VALUE_MAX     20000u

#if defined(__SANITIZE_THREAD__)
#define ROUNDS_DEFAULT 150u
#else
#define ROUNDS_DEFAULT 4000u
#endif

static uint64_t seed_start;

struct history {
    struct linear_op ops[LINEAR_OPS_MAX];
    size_t count;
};

struct stage;

struct player {
    struct stage *stage;
    struct test_random random;
    struct history histories[HOT_KEYS]; /* of this round */
    uint8_t *value, *expected;
    uint64_t next_value; /* ours alone: the index is in its low bits */
};

struct stage {
    struct kv_store *store;
    _Atomic uint64_t clock;
    pthread_barrier_t barrier;
    _Atomic bool over;
    struct player players[PLAYERS];
    uint64_t rounds, operations;
};

/* ---- keys and values ------------------------------------------------------------------ */

static size_t hot_key(char key[32], unsigned number)
{
    return (size_t)snprintf(key, 32, "hot%02u", number);
}

static size_t filler_key(char key[32], unsigned hot, unsigned number)
{
    return (size_t)snprintf(key, 32, "hot%02u/%03u", hot, number);
}

/* A value: its number, then bytes and a length that follow from it. */
static size_t make_value(uint8_t *out, uint64_t number)
{
    const size_t length = 8 + (number % 23 == 0  ? 5000 + number % (VALUE_MAX - 6000)
                               : number % 3 == 0 ? number % 900
                                                 : number % 40);
    memcpy(out, &number, 8);
    test_fill(out + 8, length - 8, number);
    return length;
}

static uint64_t value_number(struct player *player, const void *bytes, size_t length)
{
    uint64_t number;
    KV_ASSERT(length >= 8);
    memcpy(&number, bytes, 8);
    KV_ASSERT(make_value(player->expected, number) == length);
    KV_ASSERT(!memcmp(bytes, player->expected, length));
    return number;
}

/* ---- noted operations ------------------------------------------------------------------- */

static uint64_t now(struct stage *stage)
{
    return atomic_fetch_add(&stage->clock, 1);
}

static void note(struct player *player, unsigned key, bool is_write, uint64_t value, uint64_t call)
{
    struct history *history = &player->histories[key];
    KV_ASSERT(history->count < LINEAR_OPS_MAX);
    history->ops[history->count++] = (struct linear_op){
        .is_write = is_write, .value = value, .call = call, .end = now(player->stage)};
}

static unsigned pick_key(struct player *player)
{
    return (unsigned)test_random_below(&player->random, HOT_KEYS);
}

static void do_get(struct player *player)
{
    char key[32];
    const unsigned number = pick_key(player);
    const size_t key_len = hot_key(key, number);
    size_t length = 0;
    const uint64_t call = now(player->stage);
    const int err = kv_get(player->stage->store, key, key_len, player->value, VALUE_MAX, &length);
    KV_ASSERT(err == 0 || err == -ENOENT);
    note(player, number, false, err ? LINEAR_ABSENT : value_number(player, player->value, length),
         call);
}

static void do_get_many(struct player *player)
{
    char keys[HOT_KEYS][32];
    struct kv_lookup lookups[HOT_KEYS];
    uint8_t *values = malloc((size_t)HOT_KEYS * VALUE_MAX);
    KV_ASSERT(values != NULL);
    for (unsigned i = 0; i < HOT_KEYS; i++)
        lookups[i] = (struct kv_lookup){.key = keys[i],
                                        .key_len = hot_key(keys[i], i),
                                        .buf = values + (size_t)i * VALUE_MAX,
                                        .buf_cap = VALUE_MAX};
    const uint64_t call = now(player->stage);
    const int err = kv_get_many(player->stage->store, lookups, HOT_KEYS);
    KV_ASSERT(err == 0);
    for (unsigned i = 0; i < HOT_KEYS; i++) {
        KV_ASSERT(lookups[i].result == 0 || lookups[i].result == -ENOENT);
        note(player, i, false,
             lookups[i].result ? LINEAR_ABSENT
                               : value_number(player, lookups[i].buf, lookups[i].value_len),
             call);
    }
    free(values);
}

/* Each hot key between the ends of the walk is read once, met or not. */
static void do_walk(struct player *player)
{
    struct kv_cursor *cursor;
    uint64_t seen[HOT_KEYS] = {0};
    const bool forward = test_random_below(&player->random, 2);
    const uint64_t call = now(player->stage);
    int err = kv_cursor_open_prefix(player->stage->store, "hot", 3, &cursor);
    KV_ASSERT(err == 0);
    for (err = forward ? kv_cursor_first(cursor) : kv_cursor_last(cursor); !err;
         err = forward ? kv_cursor_next(cursor) : kv_cursor_prev(cursor)) {
        size_t key_len, length;
        const char *key = kv_cursor_key(cursor, &key_len);
        const void *value;
        if (key_len != 5)
            continue;
        const unsigned number = (unsigned)(key[4] - '0');
        const int value_err = kv_cursor_value(cursor, &value, &length);
        KV_ASSERT(value_err == 0 || value_err == -ENOENT); /* large, and deleted meanwhile */
        KV_ASSERT(number < HOT_KEYS);
        KV_ASSERT(!seen[number]);
        seen[number] = value_err ? LINEAR_ABSENT : value_number(player, value, length);
    }
    KV_ASSERT(err == -ENOENT);
    kv_cursor_close(cursor);
    for (unsigned i = 0; i < HOT_KEYS; i++)
        note(player, i, false, seen[i], call);
}

static void do_put(struct player *player)
{
    char key[32];
    const unsigned number = pick_key(player);
    const size_t key_len = hot_key(key, number);
    const uint64_t value = player->next_value += PLAYERS;
    const size_t length = make_value(player->value, value);
    const uint64_t call = now(player->stage);
    const int err = kv_put(player->stage->store, key, key_len, player->value, length);
    KV_ASSERT(err == 0);
    note(player, number, true, value, call);
}

static void do_del(struct player *player)
{
    char key[32];
    const unsigned number = pick_key(player);
    const size_t key_len = hot_key(key, number);
    const uint64_t call = now(player->stage);
    const int err = kv_del(player->stage->store, key, key_len);
    KV_ASSERT(err == 0);
    note(player, number, true, LINEAR_ABSENT, call);
}

/* Two hot keys and what lies between the keys, in one batch: leaves split, or merge. */
static void do_batch(struct player *player)
{
    char key[32], upper[32];
    const unsigned a = pick_key(player), b = pick_key(player);
    struct kv_batch *batch = kv_batch_new();
    KV_ASSERT(batch != NULL);
    const uint64_t value = player->next_value += PLAYERS;
    int err = 0;
    const size_t length = make_value(player->value, value);
    err = kv_batch_put(batch, key, hot_key(key, a), player->value, length);
    if (!err && b != a)
        err = kv_batch_del(batch, key, hot_key(key, b));
    if (test_random_below(&player->random, 2)) {
        const size_t key_len = filler_key(key, a, 0), upper_len = filler_key(upper, a, 999);
        err = err ? err : kv_batch_del_range(batch, key, key_len, upper, upper_len);
    } else {
        uint8_t filler[400];
        test_fill(filler, sizeof filler, value);
        for (unsigned i = 0; i < FILLERS && !err; i++) {
            const size_t key_len = filler_key(key, a, i);
            err = kv_batch_put(batch, key, key_len, filler, sizeof filler);
        }
    }
    const uint64_t call = now(player->stage);
    if (!err)
        err = kv_apply(player->stage->store, batch, 0, NULL);
    KV_ASSERT(err == 0);
    note(player, a, true, value, call);
    if (b != a)
        note(player, b, true, LINEAR_ABSENT, call);
    kv_batch_free(batch);
}

static void *play(void *argument)
{
    struct player *const player = argument;
    struct stage *const stage = player->stage;
    for (;;) {
        pthread_barrier_wait(&stage->barrier);
        if (atomic_load(&stage->over))
            return NULL;
        for (unsigned i = 0; i < OPS_PER_ROUND; i++) {
            switch (test_random_below(&player->random, 12)) {
            case 0:
                do_get_many(player);
                break;
            case 1:
                do_walk(player);
                break;
            case 2:
                do_del(player);
                break;
            case 3:
                do_batch(player);
                break;
            case 4:
            case 5:
            case 6:
            case 7:
                do_put(player);
                break;
            default:
                do_get(player);
            }
        }
        pthread_barrier_wait(&stage->barrier);
    }
}

/* Reads other keys, so that pages leave memory, and makes checkpoints. */
static void *disturb(void *argument)
{
    struct stage *const stage = argument;
    struct test_random random = {.state = seed_start + 99};
    while (!atomic_load(&stage->over)) {
        for (unsigned i = 0; i < 40 && !atomic_load(&stage->over); i++) {
            const int err =
                test_get_number(stage->store, test_random_below(&random, COLD_KEYS), COLD_BYTES);
            KV_ASSERT(err == 0);
        }
        const int err = kv_checkpoint(stage->store);
        KV_ASSERT(err == 0);
    }
    return NULL;
}

/* ---- the judge --------------------------------------------------------------------------- */

static uint64_t read_alone(struct stage *stage, unsigned number)
{
    struct player *const player = &stage->players[0]; /* nobody else is running */
    char key[32];
    size_t length = 0;
    const size_t key_len = hot_key(key, number);
    const int err = kv_get(stage->store, key, key_len, player->value, VALUE_MAX, &length);
    KV_ASSERT(err == 0 || err == -ENOENT);
    return err ? LINEAR_ABSENT : value_number(player, player->value, length);
}

static void say_history(const struct history *history, uint64_t first)
{
    printf("first %" PRIu64 "\n", first);
    for (size_t i = 0; i < history->count; i++)
        printf("  [%" PRIu64 ", %" PRIu64 "] %s %" PRIu64 "\n", history->ops[i].call,
               history->ops[i].end, history->ops[i].is_write ? "writes" : "reads",
               history->ops[i].value);
}

static void judge_round(struct stage *stage, uint64_t firsts[HOT_KEYS])
{
    for (unsigned key = 0; key < HOT_KEYS; key++) {
        struct history whole = {.count = 0};
        for (unsigned p = 0; p < PLAYERS; p++) {
            struct history *const part = &stage->players[p].histories[key];
            KV_ASSERT(whole.count + part->count < LINEAR_OPS_MAX);
            memcpy(&whole.ops[whole.count], part->ops, part->count * sizeof part->ops[0]);
            whole.count += part->count;
            part->count = 0;
        }
        stage->operations += whole.count;
        /* What is there when all is over is one more read. */
        const uint64_t call = now(stage), last = read_alone(stage, key);
        whole.ops[whole.count++] =
            (struct linear_op){.value = last, .call = call, .end = now(stage)};
        if (!linear_check(whole.ops, whole.count, firsts[key])) {
            say_history(&whole, firsts[key]);
            ck_abort_msg("key %u: no order explains round %" PRIu64, key, stage->rounds);
        }
        firsts[key] = last;
    }
}

START_TEST(histories_of_threads_are_linearizable)
{
    struct stage *const stage = calloc(1, sizeof *stage);
    ck_assert_ptr_nonnull(stage);
    struct kv_device *const device = memory_device_new(DEVICE_BLOCKS);
    test_create_on(device, 4096, KV_CODEC_NONE, 8u << 20);
    stage->store = test_open_on(device);
    for (unsigned i = 0; i < COLD_KEYS; i++)
        ck_assert_int_eq(test_put_number(stage->store, i, COLD_BYTES), 0);
    ck_assert_int_eq(kv_checkpoint(stage->store), 0);

    pthread_t threads[PLAYERS], disturber;
    atomic_init(&stage->clock, 1);
    ck_assert_int_eq(pthread_barrier_init(&stage->barrier, NULL, PLAYERS + 1), 0);
    for (unsigned p = 0; p < PLAYERS; p++) {
        struct player *const player = &stage->players[p];
        player->stage = stage;
        player->random.state = seed_start * PLAYERS + p;
        player->next_value = PLAYERS + p;
        player->value = malloc(VALUE_MAX);
        player->expected = malloc(VALUE_MAX);
        ck_assert(player->value && player->expected);
    }
    for (unsigned p = 0; p < PLAYERS; p++)
        ck_assert_int_eq(pthread_create(&threads[p], NULL, play, &stage->players[p]), 0);
    ck_assert_int_eq(pthread_create(&disturber, NULL, disturb, stage), 0);

    uint64_t firsts[HOT_KEYS] = {0};
    const uint64_t rounds = test_env("KVFS_RACE_ROUNDS", ROUNDS_DEFAULT);
    for (; stage->rounds < rounds; stage->rounds++) {
        pthread_barrier_wait(&stage->barrier); /* go */
        pthread_barrier_wait(&stage->barrier); /* all are done */
        judge_round(stage, firsts);
    }
    atomic_store(&stage->over, true);
    pthread_barrier_wait(&stage->barrier);
    for (unsigned p = 0; p < PLAYERS; p++)
        ck_assert_int_eq(pthread_join(threads[p], NULL), 0);
    ck_assert_int_eq(pthread_join(disturber, NULL), 0);

    struct kv_stats stats;
    struct kv_check_result result;
    kv_store_stats(stage->store, &stats);
    ck_assert_uint_eq(test_check(stage->store, &result), 0);
    ck_assert_int_eq(kv_close(stage->store), 0);
    printf("%" PRIu64 " rounds, %" PRIu64 " operations, %" PRIu64 " checkpoints, %" PRIu64
           " evictions: linearizable\n",
           stage->rounds, stage->operations, stats.checkpoints, stats.page_evictions);
    pthread_barrier_destroy(&stage->barrier);
    for (unsigned p = 0; p < PLAYERS; p++) {
        free(stage->players[p].value);
        free(stage->players[p].expected);
    }
    free(stage);
}
END_TEST

/* ---- does the judge see what is wrong? ------------------------------------------------------ */

static bool judge(const struct linear_op *ops, size_t count)
{
    return linear_check(ops, count, LINEAR_ABSENT);
}

#define WRITES(number, from, to)                                                                   \
    {                                                                                              \
        .is_write = true, .value = number, .call = from, .end = to                                 \
    }
#define READS(number, from, to)                                                                    \
    {                                                                                              \
        .value = number, .call = from, .end = to                                                   \
    }
#define JUDGE(...)                                                                                 \
    judge((const struct linear_op[]){__VA_ARGS__},                                                 \
          sizeof((const struct linear_op[]){__VA_ARGS__}) / sizeof(struct linear_op))

START_TEST(the_judge_accepts_what_has_an_order)
{
    ck_assert(JUDGE(READS(0, 1, 2), WRITES(1, 3, 4), READS(1, 5, 6)));
    /* Before, after: both are right while the write is on its way. */
    ck_assert(JUDGE(WRITES(1, 1, 10), READS(0, 2, 3), READS(1, 4, 5)));
    ck_assert(JUDGE(WRITES(1, 1, 10), WRITES(2, 2, 9), READS(2, 3, 4), READS(1, 5, 6)));
    ck_assert(JUDGE(WRITES(1, 1, 4), WRITES(0, 2, 3), READS(1, 5, 6)));
}
END_TEST

START_TEST(the_judge_refuses_what_has_none)
{
    ck_assert(!JUDGE(WRITES(1, 1, 2), READS(0, 3, 4)));                  /* stale */
    ck_assert(!JUDGE(READS(7, 1, 2)));                                   /* from nowhere */
    ck_assert(!JUDGE(READS(1, 1, 2), WRITES(1, 3, 4)));                  /* from the future */
    ck_assert(!JUDGE(WRITES(1, 1, 10), READS(1, 2, 3), READS(0, 4, 5))); /* there and gone */
    ck_assert(!JUDGE(WRITES(1, 1, 2), WRITES(2, 3, 4), READS(1, 5, 6))); /* lost */
    ck_assert(!JUDGE(WRITES(1, 1, 9), WRITES(2, 2, 8), READS(1, 10, 11),
                     READS(2, 12, 13))); /* changed its mind */
}
END_TEST

/* A history made of moments that were chosen first has an order; one wrong read takes it. */
START_TEST(the_judge_tells_random_histories_apart)
{
    struct test_random random = {.state = seed_start};
    for (unsigned round = 0; round < 300; round++) {
        struct linear_op ops[40];
        uint64_t value = LINEAR_ABSENT;
        size_t last_read = SIZE_MAX;
        for (size_t i = 0; i < 40; i++) {
            const uint64_t moment = 1000 + 100 * i;
            ops[i] = (struct linear_op){.is_write = test_random_below(&random, 2),
                                        .call = moment - test_random_below(&random, 400),
                                        .end = moment + test_random_below(&random, 400)};
            if (ops[i].is_write)
                value = i + 1;
            else
                last_read = i;
            ops[i].value = value;
        }
        ck_assert(judge(ops, 40));
        if (last_read == SIZE_MAX)
            continue;
        ops[last_read].value = 4711;
        ck_assert(!judge(ops, 40));
    }
}
END_TEST

int main(void)
{
    seed_start = test_env("KVFS_SEED", (uint64_t)time(NULL));
    printf("KVFS_SEED=%" PRIu64 "\n", seed_start);
    Suite *const suite = suite_create("linear");
    TCase *const linear = tcase_create("linear");
    tcase_set_timeout(linear, 0);
    tcase_add_test(linear, the_judge_accepts_what_has_an_order);
    tcase_add_test(linear, the_judge_refuses_what_has_none);
    tcase_add_test(linear, the_judge_tells_random_histories_apart);
    tcase_add_test(linear, histories_of_threads_are_linearizable);
    suite_add_tcase(suite, linear);
    return test_run(suite);
}
