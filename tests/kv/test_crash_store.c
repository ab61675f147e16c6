/*
 * tests/kv/test_crash_store.c: what is left of a store at work after one crash upon the other,
 * and after a device that failed.
 *
 * A random workload runs on a recording device beside a model that keeps every version. What a
 * single crash may leave is tried in tests/faults/crash, exhaustively.
 *
 *   KVFS_SEED         where the random numbers start (printed)
 *   KVFS_CRASH_LIVES  how many crashes one image goes through (100)
 *   KVFS_CRASH_FAULTS how many writes and flushes fail, one image each (30)
 *   KVFS_CRASH_SAVE   write the image on which a check failed to this path
 */
#include "support_crash_store.h"
#include "support_workload.h"

#include "kv/store.h"
#include "tests/run.h"

#include <check.h>

#define IMAGE_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

/* ---- lives -------------------------------------------------------------------------- */

static void create_image(struct kv_device *device, struct test_random *random)
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
    const int err = kv_create_on_device(device, &options, &error);
    ck_assert_msg(!err, "create: %s: %s", strerror(-err), error.text);
}

static struct store_life *new_life(struct recorder *recorder, struct history *history,
                                   enum kv_sync_mode sync, size_t durable, size_t started)
{
    struct store_life *life = calloc(1, sizeof *life);
    ck_assert_ptr_nonnull(life);
    life->recorder = recorder;
    life->history = history;
    life->sync = sync;
    promises_init(&life->promises, recorder, durable, started);
    return life;
}

static void free_life(struct store_life *life)
{
    promises_release(&life->promises);
    recorder_free(life->recorder);
    history_free(life->history);
    free(life);
}

/* A fresh image, not yet opened. */
static struct store_life *first_life(struct test_random *random, enum kv_sync_mode sync)
{
    struct kv_device *device = memory_device_new(IMAGE_BLOCKS);
    create_image(device, random);
    return new_life(recorder_new(device), history_new(), sync, 0, 0);
}

/* What a random crash of another life leaves; that one must outlive it. */
static struct store_life *next_life(const struct store_life *life, struct test_random *random)
{
    const size_t end = recorder_event_count(life->recorder);
    size_t position = test_random_below(random, end + 1);
    /* As often as not where much is pending. */
    while (test_random_below(random, 2) && position < end &&
           !recorder_event(life->recorder, position).is_flush)
        position++;
    struct crash_walk walk;
    crash_walk_init(&walk, life->recorder);
    crash_walk_advance(&walk, position);
    const size_t pending = crash_walk_pending(&walk);
    bool *kept = calloc(pending + 1, sizeof *kept);
    ck_assert_ptr_nonnull(kept);
    for (size_t i = 0; i < pending; i++)
        kept[i] = test_random_below(random, 3) > 0;
    const struct crash_choice choice = {.kept = kept,
                                        .torn = pending && test_random_below(random, 2),
                                        .torn_index = pending ? pending - 1 : 0,
                                        .torn_bytes = (uint32_t)test_random_below(random, 8) * 512,
                                        .rest = (enum torn_rest)test_random_below(random, 3),
                                        .random_seed = test_random_next(random)};
    size_t first, last;
    promises_find(&life->promises, position, position, history_last(life->history), &first, &last);
    struct store_life *next =
        new_life(recorder_new(crash_walk_state(&walk, &choice)),
                 history_fork(life->history, first, last), life->sync, first, last);
    snprintf(next->story, sizeof next->story, "crash before event %zu of %zu", position, end);
    free(kept);
    crash_walk_release(&walk);
    return next;
}

/* Open it; it must be what it must be after the crash before. Versions that were lost go. */
static struct kv_store *open_life(struct store_life *life)
{
    struct kv_store *store = NULL;
    size_t first, last, version;
    struct kv_check_result result;
    ck_assert_msg(!workload_open(recorder_device(life->recorder), life->sync, false, &store),
                  "%s: does not open", life->story);
    promises_find(&life->promises, 0, 0, history_last(life->history), &first, &last);
    ck_assert_int_eq(history_find(life->history, store, first, last, &version), 0);
    ck_assert_msg(version != HISTORY_NONE, "%s: did not recover", life->story);
    ck_assert_msg(test_check(store, &result) == 0, "%s: is not sound", life->story);
    while (history_last(life->history) > version)
        history_drop(life->history);
    promises_release(&life->promises);
    promises_init(&life->promises, life->recorder, version, version);
    return store;
}

static struct workload work_in(struct store_life *life, struct kv_device *device,
                               struct kv_store *store, struct test_random *random)
{
    return (struct workload){.store = store,
                             .device = device,
                             .promises = &life->promises,
                             .history = life->history,
                             .random = random,
                             .sync = life->sync};
}

static struct test_random random_of(const char *test, int loop)
{
    const uint64_t seed = test_env("KVFS_SEED", 1);
    printf("KVFS_SEED=%llu %s %d\n", (unsigned long long)seed, test, loop);
    (void)fflush(stdout); /* best effort: the test may abort next */
    return (struct test_random){seed * 1000003 + (uint64_t)loop};
}

/* ---- tests --------------------------------------------------------------------------- */

START_TEST(an_image_survives_many_crashes_one_after_the_other)
{
    struct test_random random = random_of("lives", _i);
    const size_t life_count = 1 + test_env("KVFS_CRASH_LIVES", 100);
    uint64_t deferred = 0; /* batches that waited for their leaves */
    struct store_life **lives = calloc(life_count, sizeof *lives);
    ck_assert_ptr_nonnull(lives);
    for (size_t i = 0; i < life_count; i++) {
        lives[i] =
            i ? next_life(lives[i - 1], &random) : first_life(&random, (enum kv_sync_mode)_i);
        struct kv_store *store = open_life(lives[i]);
        struct workload work =
            work_in(lives[i], recorder_device(lives[i]->recorder), store, &random);
        ck_assert_int_eq(workload_begin(&work), 0);
        /* Short lives leave what the log of an earlier one wrote behind their own. */
        const size_t batches = test_random_below(&random, test_random_below(&random, 2) ? 20 : 3);
        const int err = workload_run(&work, batches);
        ck_assert_msg(!err, "life %zu: work: %s", i, strerror(-err));
        struct kv_stats stats;
        kv_store_stats(store, &stats);
        deferred += stats.batches_deferred;
        if (test_random_below(&random, 2)) {
            kv_abandon(store);
        } else {
            ck_assert_int_eq(kv_close(store), 0);
            promise_durable(&lives[i]->promises, history_last(lives[i]->history));
        }
        workload_end(&work);
    }
    for (size_t i = life_count; i > 0; i--)
        free_life(lives[i - 1]);
    free(lives);
    ck_assert(deferred > 0 || life_count < 20);
}
END_TEST

/* After a failure nothing is acknowledged, and nothing is written any more. */
static void expect_read_only(struct store_life *life, struct kv_store *store)
{
    const size_t events = recorder_event_count(life->recorder);
    ck_assert_int_eq(kv_put(store, "k", 1, "v", 1), -EROFS);
    ck_assert_int_ne(kv_sync(store), 0);
    ck_assert_int_ne(kv_checkpoint(store), 0);
    ck_assert_uint_eq(recorder_event_count(life->recorder), events);
}

START_TEST(a_failed_write_or_flush_loses_nothing_that_was_promised)
{
    struct test_random random = random_of("faults", _i);
    struct crash_engine *engine = crash_engine_new(100000);
    const struct crash_sizes sizes = {.subsets = 8, .random_subsets = 8, .torn = 4};
    for (size_t fault = 0; fault < test_env("KVFS_CRASH_FAULTS", 30); fault++) {
        struct store_life *life = first_life(&random, (enum kv_sync_mode)_i);
        struct faulty *faulty = faulty_new(recorder_device(life->recorder));
        struct kv_store *store = NULL;
        ck_assert_int_eq(workload_open(faulty_device(faulty), life->sync, false, &store), 0);
        const struct fault plan = {
            .targets = test_random_below(&random, 3) ? FAULT_WRITES : FAULT_FLUSHES,
            .after = test_random_below(&random, 60),
            .lasting = test_random_below(&random, 2),
            .error = -EIO,
            .partial_blocks = (uint32_t)test_random_below(&random, 4),
        };
        snprintf(life->story, sizeof life->story, "faults %d %zu: %s %llu fails%s", _i, fault,
                 plan.targets == FAULT_WRITES ? "write" : "flush", (unsigned long long)plan.after,
                 plan.lasting ? " for good" : "");
        faulty_arm(faulty, plan);
        struct workload work = work_in(life, faulty_device(faulty), store, &random);
        ck_assert_int_eq(workload_begin(&work), 0);
        const int err = workload_run(&work, 40);
        workload_end(&work);
        ck_assert_msg(!err || faulty_failures(faulty) > 0, "%s: work: %s", life->story,
                      strerror(-err));
        ck_assert_msg(!err || kv_store_failure(store) != 0 || err == -EIO, "%s: says %s",
                      life->story, strerror(-err));
        if (kv_store_failure(store))
            expect_read_only(life, store);
        kv_abandon(store);
        /* A crash may follow, in which what was not flushed may be lost. */
        const struct crash_subject subject = store_life_subject(life);
        crash_explore(engine, &subject, life->recorder, recorder_event_count(life->recorder),
                      &sizes, &random);
        faulty_free(faulty);
        free_life(life);
    }
    ck_assert_uint_gt(crash_engine_counts(engine).states, 0);
    crash_engine_free(engine);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("crash_store");
    TCase *tcase = tcase_create("crash_store");
    tcase_set_timeout(tcase, 0); /* many lives take as long as they take */
    const int modes = KV_SYNC_CHECKPOINT + 1;
    tcase_add_loop_test(tcase, an_image_survives_many_crashes_one_after_the_other, 0, modes);
    tcase_add_loop_test(tcase, a_failed_write_or_flush_loses_nothing_that_was_promised, 0, modes);
    suite_add_tcase(suite, tcase);

    return test_run(suite);
}
