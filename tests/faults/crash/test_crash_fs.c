/*
 * tests/faults/crash/test_crash_fs.c: the filesystem after every crash: each operation of
 * fs/volume.h followed by each kind of persistence point, all pairs of operations, and long
 * random workloads until the number of states is reached.
 *
 * Each state must open by itself, be the tree after some prefix of the operations that reaches
 * at least to the last one that was acknowledged as durable, with everything that stat, read and
 * getxattr say, have no orphan left, pass kv_check and fs_check without a finding, and take and
 * keep one more change.
 *
 *   test_crash_fs [STATES]     or KVFS_CRASH_STATES: how many distinct states
 *   KVFS_SEED                  where the random numbers start (printed)
 *   KVFS_CRASH_WORKERS         processes
 *   KVFS_CRASH_SAVE            write the image on which something was wrong to this path
 */
#include "../../kv/support_crash.h"
#include "clock.h"
#include "fs_walk.h"
#include "fs_work.h"
#include "plan.h"

#include <unistd.h>

#include "fs/format.h"
#include "fs/fsck.h"
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

static const struct config configs[] = {{4096, KV_CODEC_NONE, KV_SYNC_FSYNC},
                                        {4096, KV_CODEC_LZ4, KV_SYNC_ALWAYS},
                                        {16384, KV_CODEC_ZSTD, KV_SYNC_FSYNC},
                                        {4096, KV_CODEC_NONE, KV_SYNC_CHECKPOINT}};
#define CONFIG_COUNT (sizeof configs / sizeof *configs)

/* An image with some of everything in it, unmounted cleanly, and what it holds. */
struct base {
    struct recorder *recorder;
    struct model *model;
    unsigned name_next;
};

static void make_filesystem(struct kv_device *device, const struct config *config)
{
    const struct kv_create_options options = {
        .node_bytes = config->node_bytes,
        .extent_bytes = 16384,
        .log_bytes = KV_LOG_BYTES_MIN,
        .codec = {config->codec, config->codec == KV_CODEC_ZSTD},
        .uuid = {'c', 'r', 'a', 's', 'h', (uint8_t)config->sync, 'f'},
    };
    struct kv_error error = {""};
    plan_must(kv_create_on_device(device, &options, &error), error.text);
    struct kv_store *store = test_open_on(device);
    plan_must(fs_format(store, 0, 0, 0755), "format");
    plan_must(kv_close(store), "format");
}

static void make_base(struct base *base, const struct config *config)
{
    static const enum work_op ops[] = {
        OP_MKDIR,       OP_MKDIR,     OP_MKDIR,       OP_MKDIR,       OP_MKNOD,   OP_MKNOD,
        OP_MKNOD,       OP_MKNOD,     OP_MKNOD,       OP_MKNOD,       OP_SYMLINK, OP_LINK,
        OP_WRITE,       OP_WRITE,     OP_WRITE_LARGE, OP_WRITE_LARGE, OP_COPY,    OP_ALLOCATE,
        OP_WRITE_SMALL, OP_XATTR_SET, OP_XATTR_SET,   OP_ACL,         OP_SPECIAL};
    struct test_random random = {config->node_bytes + (uint64_t)config->codec};
    clock_set(TIME_OF_WORK - 1000);
    struct kv_device *device = memory_device_new(IMAGE_BLOCKS);
    base->recorder = recorder_new(device);
    make_filesystem(recorder_device(base->recorder), config);
    base->model = model_new(FS_ROOT_INO, S_IFDIR | 0755);
    struct promises promises;
    promises_init(&promises, base->recorder, 0, 0);
    struct fs_work work = {.device = recorder_device(base->recorder),
                           .promises = &promises,
                           .model = base->model,
                           .random = &random,
                           .sync = config->sync};
    plan_must(fs_work_begin(&work), "base");
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        plan_must(fs_work_step(&work, ops[i], SETTLE_NOT), work_op_names[ops[i]]);
    plan_must(fs_work_step(&work, OP_MKNOD, SETTLE_UNMOUNT), "base");
    fs_volume_close(work.volume);
    plan_must(kv_close(work.store), "base");
    free(work.bytes);
    fs_work_release(&work);
    promises_release(&promises);
    base->name_next = work.name_next;
}

/* ---- one life of a volume, as something that can be crashed ----------------------------- */

struct life {
    struct recorder *recorder;
    struct model *model;
    struct promises promises;
    struct fs_work work;
    char story[256];
};

/* Everything but notes is a finding. */
static void take_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    if (severity == KV_CHECK_NOTE)
        return;
    printf("fs check: %s: %s\n", what, text);
    ++*(uint64_t *)context;
}

static bool has_orphans(struct kv_store *store)
{
    const uint8_t prefix = FS_KEY_ORPHAN;
    struct kv_cursor *cursor;
    int err = kv_cursor_open_prefix(store, &prefix, 1, &cursor);
    if (err)
        return true;
    err = kv_cursor_first(cursor);
    kv_cursor_close(cursor);
    if (err != -ENOENT)
        printf("files without a name are still there\n");
    return err != -ENOENT;
}

static bool clean_check(struct kv_store *store)
{
    uint64_t findings = 0;
    struct kv_check_result result;
    const struct kv_check_options options = {.report = take_finding, .context = &findings};
    if (test_check(store, &result))
        return false;
    const int err = fs_check(store, &options, &result);
    if (err)
        printf("fs check: %s\n", strerror(-err));
    return !err && !findings && !result.repairable && !result.damaged;
}

/* Change something; make it durable one way or another; let go of the volume. */
static int change_and_leave(struct kv_store *store, struct fs_volume *volume, uint64_t found,
                            uint64_t *after)
{
    uint64_t like_model;
    const unsigned manner = (unsigned)(found >> 7) % 3;
    int err = fs_setxattr(volume, FS_ROOT_INO, "user.found", &found, sizeof found, 0, false);
    if (!err)
        err = walk_volume(volume, false, &like_model, after);
    if (!err)
        err = manner == 1 ? fs_checkpoint(volume) : fs_sync(volume);
    fs_volume_close(volume);
    if (!err && manner == 2)
        return kv_close(store);
    kv_abandon(store);
    return err;
}

static bool recover_volume(void *context, struct recorder *recorder,
                           struct crash_recovery *recovery)
{
    const struct life *life = context;
    struct kv_device *device = recorder_device(recorder);
    struct kv_store *store;
    struct fs_volume *volume;
    uint64_t like_model, again;
    clock_set(TIME_AFTER);
    if (fs_work_open(device, life->work.sync, false, &store, &volume))
        return false;
    if (walk_volume(volume, false, &like_model, &recovery->found) || has_orphans(store) ||
        !clean_check(store))
        return false;
    recovery->started = recorder_event_count(recorder);
    const int err = change_and_leave(store, volume, recovery->found, &recovery->after);
    recovery->durable = recorder_event_count(recorder);
    if (err) {
        printf("one more change: %s\n", strerror(-err));
        return false;
    }
    if (fs_work_open(device, life->work.sync, false, &store, &volume) ||
        walk_volume(volume, false, &like_model, &again))
        return false;
    fs_volume_close(volume);
    kv_abandon(store);
    if (again != recovery->after)
        printf("one more change is not there, or something else has changed\n");
    return again == recovery->after;
}

static bool peek_volume(void *context, struct kv_device *device, uint64_t *found)
{
    const struct life *life = context;
    struct kv_store *store;
    struct fs_volume *volume;
    uint64_t like_model;
    clock_set(TIME_AFTER);
    if (fs_work_open(device, life->work.sync, true, &store, &volume))
        return false;
    const bool good = !walk_volume(volume, false, &like_model, found);
    fs_volume_close(volume);
    kv_abandon(store);
    return good;
}

static bool allows_version(void *context, size_t earliest, size_t latest, uint64_t digest)
{
    const struct life *life = context;
    size_t first, last;
    promises_find(&life->promises, earliest, latest, life->work.version_count - 1, &first, &last);
    for (size_t i = last + 1; i > first; i--)
        if (life->work.versions[i - 1] == digest)
            return true;
    return false;
}

static void explain_version(void *context, struct kv_device *device, size_t earliest, size_t latest)
{
    const struct life *life = context;
    struct kv_store *store;
    struct fs_volume *volume;
    size_t first, last;
    uint64_t like_model, found;
    promises_find(&life->promises, earliest, latest, life->work.version_count - 1, &first, &last);
    printf("allowed: versions %zu to %zu of %zu\n", first, last, life->work.version_count - 1);
    if (fs_work_open(device, life->work.sync, true, &store, &volume) ||
        walk_volume(volume, true, &like_model, &found))
        return;
    for (size_t i = 0; i < life->work.version_count; i++)
        if (life->work.versions[i] == found)
            printf("there: version %zu\n", i);
}

/* ---- scenarios -------------------------------------------------------------------- */

struct run {
    struct plan_share share;
    struct base bases[CONFIG_COUNT];
};

static void begin_life(struct run *run, size_t config, struct life *life,
                       struct test_random *random)
{
    struct base *base = &run->bases[config];
    if (!base->recorder)
        make_base(base, &configs[config]);
    struct crash_walk walk;
    crash_walk_init(&walk, base->recorder);
    crash_walk_advance(&walk, recorder_event_count(base->recorder));
    life->recorder = recorder_new(crash_walk_state(&walk, &(struct crash_choice){0}));
    crash_walk_release(&walk);

    life->model = model_copy(base->model);
    promises_init(&life->promises, life->recorder, 0, 0);
    life->work = (struct fs_work){.device = recorder_device(life->recorder),
                                  .promises = &life->promises,
                                  .model = life->model,
                                  .random = random,
                                  .sync = configs[config].sync,
                                  .name_next = base->name_next};
    clock_set(TIME_OF_WORK);
    plan_must(fs_work_begin(&life->work), life->story);
}

static void end_life(struct run *run, struct life *life, struct test_random *random)
{
    fs_work_end(&life->work);
    const struct crash_subject subject = {.context = life,
                                          .story = life->story,
                                          .recover = recover_volume,
                                          .peek = peek_volume,
                                          .allows = allows_version,
                                          .explain = explain_version};
    crash_explore(run->share.engine, &subject, life->recorder, 0,
                  &run->share.plan->sizes[run->share.phase], random);
    fs_work_release(&life->work);
    promises_release(&life->promises);
    recorder_free(life->recorder);
    model_free(life->model);
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
    struct life life;
    struct test_random random = plan_random(run->share.plan, 1, 0, 0);
    int used =
        snprintf(life.story, sizeof life.story,
                 "KVFS_SEED=%llu config %zu:", (unsigned long long)run->share.plan->seed, config);
    for (size_t i = 0; i < count; i++)
        used += snprintf(life.story + used, sizeof life.story - (size_t)used, " %s, %s;",
                         work_op_names[steps[i].op], work_settle_names[steps[i].settle]);
    begin_life(run, config, &life, &random);
    for (size_t i = 0; i < count; i++) {
        random =
            plan_random(run->share.plan, 2 + i, (size_t)steps[i].op, i ? (size_t)steps[0].op : 0);
        plan_must(fs_work_step(&life.work, steps[i].op, steps[i].settle), life.story);
    }
    random = plan_random(run->share.plan, 4, (size_t)steps[0].op, (size_t)steps[count - 1].op);
    end_life(run, &life, &random);
}

static void run_singles(struct run *run, bool all_configs)
{
    for (size_t op = 0; op < OP_COUNT; op++)
        for (size_t settle = 0; settle < SETTLE_COUNT; settle++)
            for (size_t config = 0; config < CONFIG_COUNT; config++) {
                const struct step step = {(enum work_op)op, (enum work_settle)settle};
                if (!all_configs && config != (op + settle) % CONFIG_COUNT)
                    continue;
                if (plan_is_mine(&run->share))
                    run_steps(run, config, &step, 1);
            }
}

/* Every pair, or one of so many; configurations and ways of making them durable in turn. */
static void run_pairs(struct run *run, size_t one_of)
{
    size_t turn = 0;
    for (size_t first = 0; first < OP_COUNT; first++)
        for (size_t second = 0; second < OP_COUNT; second++, turn++) {
            const size_t settles = turn * 5 % (SETTLE_COUNT * SETTLE_COUNT);
            const struct step steps[2] = {
                {(enum work_op)first, (enum work_settle)(settles % SETTLE_COUNT)},
                {(enum work_op)second, (enum work_settle)(settles / SETTLE_COUNT)}};
            if ((turn + run->share.plan->seed) % one_of == 0 && plan_is_mine(&run->share))
                run_steps(run, turn % CONFIG_COUNT, steps, 2);
        }
}

static void run_random(struct run *run, size_t number)
{
    static const enum work_settle mix[10] = {SETTLE_FSYNC, SETTLE_FSYNC, SETTLE_FSYNC,
                                             SETTLE_CHECKPOINT, SETTLE_UNMOUNT};
    struct life life;
    const size_t config = number % CONFIG_COUNT;
    struct test_random random = plan_random(run->share.plan, 6, number, 0);
    snprintf(life.story, sizeof life.story, "KVFS_SEED=%llu config %zu: random %zu",
             (unsigned long long)run->share.plan->seed, config, number);
    begin_life(run, config, &life, &random);
    const size_t steps = 1 + test_random_below(&random, 40);
    for (size_t i = 0; i < steps; i++) {
        const enum work_op op = (enum work_op)test_random_below(&random, OP_COUNT);
        plan_must(fs_work_step(&life.work, op, mix[test_random_below(&random, 10)]), life.story);
    }
    end_life(run, &life, &random);
}

static void run_all(void *context, size_t worker, size_t worker_count)
{
    struct run *run = context;
    run->share.worker = worker;
    run->share.worker_count = worker_count;
    plan_begin_phase(&run->share, PHASE_SINGLES, "single operations");
    run_singles(run, run->share.plan->large);
    plan_begin_phase(&run->share, PHASE_PAIRS, "pairs");
    run_pairs(run, run->share.plan->large ? 1 : 7);
    plan_begin_phase(&run->share, PHASE_RANDOM, "random workloads");
    for (size_t i = 0; !crash_engine_full(run->share.engine); i++)
        if (plan_is_mine(&run->share))
            run_random(run, i);
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        recorder_free(run->bases[i].recorder);
        model_free(run->bases[i].model);
    }
}

int main(int argc, char **argv)
{
    const struct plan plan = plan_read(argc, argv, 20000);
    struct crash_engine *engine = crash_engine_new(plan.states);
    struct run run = {.share = {.plan = &plan, .engine = engine}};
    bool good = crash_run_workers(engine, plan.workers, run_all, &run);
    good = plan_finish(&plan, engine, "crashes of the filesystem") && good;
    crash_engine_free(engine);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
