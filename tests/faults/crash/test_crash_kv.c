/*
 * tests/faults/crash/test_crash_kv.c: the store after every crash: each operation followed by
 * each kind of persistence point, all pairs of operations, the log at its wrap, and long random
 * workloads until the number of states is reached.
 *
 * Each state must open by itself, be the model after some prefix of the batches that reaches at
 * least to the last one that was acknowledged as durable, pass kv_check without a finding, and
 * take and keep one more change.
 *
 *   test_crash_kv [STATES]     or KVFS_CRASH_STATES: how many distinct states
 *   KVFS_SEED                  where the random numbers start (printed)
 *   KVFS_CRASH_WORKERS         processes
 *   KVFS_CRASH_SAVE            write the image on which something was wrong to this path
 */
#include "../../kv/support_crash_store.h"
#include "../../kv/support_workload.h"
#include "clock.h"
#include "plan.h"

#include "kv/store.h"

#define IMAGE_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define TIME_OF_WORK 1700000000u
#define TIME_AFTER   1800000000u

/* ---- images --------------------------------------------------------------------- */

struct config {
    uint32_t node_bytes;
    enum kv_codec codec;
    enum kv_sync_mode sync;
};

static const struct config configs[] = {
    {4096, KV_CODEC_NONE, KV_SYNC_FSYNC},      {4096, KV_CODEC_LZ4, KV_SYNC_FSYNC},
    {4096, KV_CODEC_NONE, KV_SYNC_ALWAYS},     {16384, KV_CODEC_ZSTD, KV_SYNC_FSYNC},
    {4096, KV_CODEC_NONE, KV_SYNC_CHECKPOINT}, {16384, KV_CODEC_NONE, KV_SYNC_FSYNC}};
#define CONFIG_COUNT (sizeof configs / sizeof *configs)

/* An image with some of everything in it, closed cleanly, and what it holds. */
struct base {
    struct recorder *recorder;
    struct history *history;
};

static void create_image(struct kv_device *device, const struct config *config)
{
    const struct kv_create_options options = {
        .node_bytes = config->node_bytes,
        .log_bytes = KV_LOG_BYTES_MIN,
        .codec = {config->codec, config->codec == KV_CODEC_ZSTD},
        .uuid = {'c', 'r', 'a', 's', 'h', (uint8_t)config->sync},
    };
    struct kv_error error = {""};
    plan_must(kv_create_on_device(device, &options, &error), error.text);
}

static void make_base(struct base *base, const struct config *config)
{
    struct test_random random = {config->node_bytes + (uint64_t)config->codec};
    clock_set(TIME_OF_WORK - 1000);
    base->recorder = recorder_new(memory_device_new(IMAGE_BLOCKS));
    base->history = history_new();
    create_image(recorder_device(base->recorder), config);
    struct promises promises;
    promises_init(&promises, base->recorder, 0, 0);
    struct workload work = {.device = recorder_device(base->recorder),
                            .promises = &promises,
                            .history = base->history,
                            .random = &random,
                            .sync = config->sync};
    plan_must(workload_begin(&work), "base");
    for (int i = 0; i < 3; i++)
        plan_must(workload_step(&work, WORK_MANY, SETTLE_NOT), "base");
    for (int i = 0; i < 5; i++)
        plan_must(workload_step(&work, i < 3 ? WORK_BLOB : WORK_SHARED_BLOB, SETTLE_NOT), "base");
    plan_must(workload_step(&work, WORK_PUT_LARGE, SETTLE_NOT), "base");
    plan_must(kv_close(work.store), "base");
    workload_end(&work);
    promises_release(&promises);
}

/* ---- scenarios -------------------------------------------------------------------- */

static void set_clock_after(void)
{
    clock_set(TIME_AFTER);
}

struct run {
    struct plan_share share;
    struct base bases[CONFIG_COUNT];
};

static void begin_life(struct run *run, size_t config, struct store_life *life,
                       struct workload *work, struct test_random *random)
{
    struct base *base = &run->bases[config];
    if (!base->recorder)
        make_base(base, &configs[config]);
    struct crash_walk walk;
    crash_walk_init(&walk, base->recorder);
    crash_walk_advance(&walk, recorder_event_count(base->recorder));
    life->recorder = recorder_new(crash_walk_state(&walk, &(struct crash_choice){0}));
    crash_walk_release(&walk);

    const size_t version = history_last(base->history);
    life->history = history_fork(base->history, version, version);
    life->sync = configs[config].sync;
    life->before_open = set_clock_after;
    promises_init(&life->promises, life->recorder, version, version);
    *work = (struct workload){.device = recorder_device(life->recorder),
                              .promises = &life->promises,
                              .history = life->history,
                              .random = random,
                              .sync = life->sync};
    clock_set(TIME_OF_WORK);
    plan_must(workload_begin(work), life->story);
}

static void end_life(struct run *run, struct store_life *life, struct workload *work, size_t first,
                     struct test_random *random)
{
    kv_abandon(work->store);
    workload_end(work);
    const struct crash_subject subject = store_life_subject(life);
    crash_explore(run->share.engine, &subject, life->recorder, first,
                  &run->share.plan->sizes[run->share.phase], random);
    promises_release(&life->promises);
    recorder_free(life->recorder);
    history_free(life->history);
}

struct step {
    enum work_op op;
    enum work_settle settle;
};

/*
 * One or two operations, each made durable in its way. What the first does follows from it alone,
 * so that pairs that begin alike have their first states in common.
 */
static void run_steps(struct run *run, size_t config, const struct step *steps, size_t count)
{
    struct store_life life;
    struct workload work;
    struct test_random random = plan_random(run->share.plan, 1, 0, 0);
    int used =
        snprintf(life.story, sizeof life.story,
                 "KVFS_SEED=%llu config %zu:", (unsigned long long)run->share.plan->seed, config);
    for (size_t i = 0; i < count; i++)
        used += snprintf(life.story + used, sizeof life.story - (size_t)used, " %s, %s;",
                         work_op_names[steps[i].op], work_settle_names[steps[i].settle]);
    begin_life(run, config, &life, &work, &random);
    for (size_t i = 0; i < count; i++) {
        random =
            plan_random(run->share.plan, 2 + i, (size_t)steps[i].op, i ? (size_t)steps[0].op : 0);
        plan_must(workload_step(&work, steps[i].op, steps[i].settle), life.story);
    }
    random = plan_random(run->share.plan, 4, (size_t)steps[0].op, (size_t)steps[count - 1].op);
    end_life(run, &life, &work, 0, &random);
}

static void run_singles(struct run *run, bool all_configs)
{
    for (size_t op = 0; op < WORK_OP_COUNT; op++)
        for (size_t settle = 0; settle < SETTLE_COUNT; settle++)
            for (size_t config = 0; config < CONFIG_COUNT; config++) {
                const struct step step = {(enum work_op)op, (enum work_settle)settle};
                if (!all_configs && config != (op + settle) % CONFIG_COUNT)
                    continue;
                if (plan_is_mine(&run->share))
                    run_steps(run, config, &step, 1);
            }
}

/* Every pair, the ways of making them durable in turn; or every way, the configurations in turn. */
static void run_pairs(struct run *run, bool all_settles)
{
    size_t turn = 0;
    for (size_t first = 0; first < WORK_OP_COUNT; first++)
        for (size_t second = 0; second < WORK_OP_COUNT; second++)
            for (size_t settles = 0; settles < SETTLE_COUNT * SETTLE_COUNT; settles++) {
                if (!all_settles && settles != turn * 7 % (SETTLE_COUNT * SETTLE_COUNT))
                    continue;
                const struct step steps[2] = {
                    {(enum work_op)first, (enum work_settle)(settles % SETTLE_COUNT)},
                    {(enum work_op)second, (enum work_settle)(settles / SETTLE_COUNT)}};
                turn++;
                if (plan_is_mine(&run->share))
                    run_steps(run, turn % CONFIG_COUNT, steps, 2);
            }
}

/* Where the last log block was written; 0: nowhere yet. */
static uint64_t last_log_block(struct recorder *recorder, const struct image_layout *layout)
{
    for (size_t i = recorder_event_count(recorder); i > 0; i--) {
        const struct recorded_event event = recorder_event(recorder, i - 1);
        if (!event.is_flush && event.block >= layout->log_first && event.block < layout->log_end)
            return event.block;
    }
    return 0;
}

/* The log goes over the end of its ring, in one lap or another. */
static void run_wrap(struct run *run, size_t number)
{
    struct store_life life;
    struct workload work;
    struct image_layout layout;
    size_t config = number % CONFIG_COUNT;
    if (configs[config].sync == KV_SYNC_CHECKPOINT)
        config = 0; /* that one has no log */
    struct test_random random = plan_random(run->share.plan, 5, number, 0);
    snprintf(life.story, sizeof life.story, "KVFS_SEED=%llu config %zu: wrap %zu",
             (unsigned long long)run->share.plan->seed, config, number);
    begin_life(run, config, &life, &work, &random);
    image_layout_read(&layout, recorder_device(life.recorder));
    const size_t laps = 1 + number % 3;
    for (size_t lap = 0; lap < laps; lap++) {
        /* To the last blocks of the ring; in all laps but the last one, over its end. */
        while (last_log_block(life.recorder, &layout) < layout.log_end - 7)
            plan_must(
                workload_step(&work, WORK_MANY,
                              test_random_below(&random, 30) ? SETTLE_SYNC : SETTLE_CHECKPOINT),
                life.story);
        while (lap + 1 < laps && last_log_block(life.recorder, &layout) > layout.log_first + 100)
            plan_must(workload_step(&work, WORK_MANY, SETTLE_SYNC), life.story);
    }
    const size_t first = recorder_event_count(life.recorder);
    for (size_t i = 0; i < 6; i++)
        plan_must(workload_step(&work, i % 2 ? WORK_PUT : WORK_MANY,
                                (enum work_settle)test_random_below(&random, SETTLE_CLOSE)),
                  life.story);
    end_life(run, &life, &work, first, &random);
}

static void run_random(struct run *run, size_t number)
{
    struct store_life life;
    struct workload work;
    const size_t config = number % CONFIG_COUNT;
    struct test_random random = plan_random(run->share.plan, 6, number, 0);
    snprintf(life.story, sizeof life.story, "KVFS_SEED=%llu config %zu: random %zu",
             (unsigned long long)run->share.plan->seed, config, number);
    begin_life(run, config, &life, &work, &random);
    plan_must(workload_run(&work, 1 + test_random_below(&random, 60)), life.story);
    end_life(run, &life, &work, 0, &random);
}

static void run_all(void *context, size_t worker, size_t worker_count)
{
    struct run *run = context;
    const bool large = run->share.plan->large;
    run->share.worker = worker;
    run->share.worker_count = worker_count;
    plan_begin_phase(&run->share, PHASE_SINGLES, "single operations");
    run_singles(run, large);
    plan_begin_phase(&run->share, PHASE_PAIRS, "pairs");
    run_pairs(run, large);
    plan_begin_phase(&run->share, PHASE_RANDOM, "the log's wrap");
    for (size_t i = 0; i < (large ? 60u : 6u); i++)
        if (plan_is_mine(&run->share))
            run_wrap(run, i);
    plan_begin_phase(&run->share, PHASE_RANDOM, "random workloads");
    for (size_t i = 0; !crash_engine_full(run->share.engine); i++)
        if (plan_is_mine(&run->share))
            run_random(run, i);
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        recorder_free(run->bases[i].recorder);
        history_free(run->bases[i].history);
    }
}

int main(int argc, char **argv)
{
    const struct plan plan = plan_read(argc, argv, 30000);
    struct crash_engine *engine = crash_engine_new(plan.states);
    struct run run = {.share = {.plan = &plan, .engine = engine}};
    bool good = crash_run_workers(engine, plan.workers, run_all, &run);
    good = plan_finish(&plan, engine, "crashes of the store") && good;
    crash_engine_free(engine);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
