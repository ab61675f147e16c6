/*
 * tests/kv/test_space.c: allocation, the two views, and which bitmap copy counts.
 */
#include "kv/space.h"

#include "kv/format.h"
#include "tests/run.h"

#include <check.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* ---- an image in memory --------------------------------------------------- */

struct memory {
    struct kv_device base;
    uint8_t *bytes;
    uint64_t writes_left; /* further ones fail with -EIO */
    uint64_t unreadable;  /* this block can not be read; 0: all can */
};

static int memory_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct memory *memory = (struct memory *)device;
    (void)flush;
    int first_err = 0;
    for (size_t i = 0; i < io_count; i++) {
        struct kv_io *io = &ios[i];
        uint8_t *at = memory->bytes + io->block * KV_BLOCK_BYTES;
        const size_t length = (size_t)io->block_count * KV_BLOCK_BYTES;
        io->result = 0;
        if (io->kind == KV_IO_READ) {
            if (memory->unreadable >= io->block &&
                memory->unreadable < io->block + io->block_count && memory->unreadable)
                io->result = -EIO;
            else
                memcpy(io->buf, at, length);
        } else if (memory->writes_left == 0) {
            io->result = -EIO;
        } else {
            memory->writes_left--;
            memcpy(at, io->buf, length);
        }
        if (!first_err)
            first_err = io->result;
    }
    return first_err;
}

static int memory_discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    (void)device;
    (void)block;
    (void)block_count;
    return 0;
}

static void memory_close(struct kv_device *device)
{
    (void)device; /* the test's */
}

static const struct kv_device_ops memory_ops = {
    .submit = memory_submit, .discard = memory_discard, .close = memory_close};

#define LOG_ID      77u
#define FIRST_BLOCK 16u

struct fixture {
    struct memory memory;
    struct kv_space_config config;
    struct kv_space *space;
    uint64_t epoch, digest; /* of the durable superblock */
};

/* An image of `groups` groups, the last of `last_blocks`, formatted and opened at epoch 1. */
static void fixture_init(struct fixture *f, uint32_t groups, uint32_t last_blocks, uint32_t cluster)
{
    *f = (struct fixture){0};
    f->config = (struct kv_space_config){
        .group_first_block = FIRST_BLOCK,
        .group_count = groups,
        .end_block = FIRST_BLOCK + (uint64_t)(groups - 1) * KV_GROUP_BLOCKS + last_blocks,
        .cluster_blocks = cluster,
        .log_id = LOG_ID,
    };
    f->memory.base.ops = &memory_ops;
    f->memory.base.block_count = f->config.end_block;
    f->memory.bytes = calloc(f->config.end_block, KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(f->memory.bytes);
    f->memory.writes_left = UINT64_MAX;
    uint64_t used;
    f->epoch = 1;
    ck_assert_int_eq(kv_space_format(&f->memory.base, &f->config, 1, &f->digest, &used), 0);
    ck_assert_uint_eq(used, (uint64_t)groups * KV_GROUP_META_BLOCKS);
    ck_assert_int_eq(kv_space_open(&f->memory.base, &f->config, 1, f->digest, &f->space), 0);
}

static void fixture_release(struct fixture *f)
{
    kv_space_close(f->space);
    free(f->memory.bytes);
}

static int reopen(struct fixture *f)
{
    kv_space_close(f->space);
    f->space = NULL;
    return kv_space_open(&f->memory.base, &f->config, f->epoch, f->digest, &f->space);
}

/* A checkpoint whose superblock becomes durable. */
static void checkpoint(struct fixture *f, uint64_t epoch)
{
    uint64_t used;
    ck_assert_int_eq(kv_space_write(f->space, epoch, &f->digest, &used), 0);
    kv_space_written(f->space, epoch);
    f->epoch = epoch;
}

static struct kv_space_stats stats_of(struct fixture *f)
{
    struct kv_space_stats stats;
    kv_space_stats(f->space, &stats);
    return stats;
}

static uint64_t alloc_run(struct fixture *f, enum kv_space_purpose purpose, uint32_t count)
{
    uint64_t block;
    uint32_t got;
    ck_assert_int_eq(kv_space_alloc(f->space, purpose, count, count, &block, &got), 0);
    ck_assert_uint_eq(got, count);
    return block;
}

static int try_alloc(struct fixture *f, enum kv_space_purpose purpose, uint32_t count)
{
    uint64_t block;
    uint32_t got;
    return kv_space_alloc(f->space, purpose, count, count, &block, &got);
}

/* ---- random numbers -------------------------------------------------------- */

static uint64_t random_state;

static void seed_random(const char *test)
{
    const char *text = getenv("KVFS_SEED");
    const uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
    printf("%s: KVFS_SEED=%llu\n", test, (unsigned long long)seed);
    random_state = seed * 2862933555777941757ull + 1;
}

static uint64_t random_below(uint64_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % bound;
}

/* ---- the model ------------------------------------------------------------- */

#define MODEL_RUNS 4096u

enum run_state {
    RUN_NONE,
    RUN_ALLOCATED, /* busy, in no epoch */
    RUN_COMMITTED, /* in `born` */
    RUN_FREED      /* in `died` */
};

struct model_run {
    enum run_state state;
    uint64_t block, born, died;
    uint32_t count;
};

struct model {
    struct model_run runs[MODEL_RUNS];
    struct model_run durable[MODEL_RUNS]; /* as of the durable superblock */
    uint8_t *busy;                        /* a byte per block of the image */
    uint64_t open_epoch;
};

static void model_mark(struct model *model, uint64_t block, uint32_t count, uint8_t from,
                       uint8_t to)
{
    for (uint64_t i = block; i < block + count; i++) {
        ck_assert_uint_eq(model->busy[i], from);
        model->busy[i] = to;
    }
}

static bool model_is_meta(const struct fixture *f, uint64_t block)
{
    return (block - f->config.group_first_block) % KV_GROUP_BLOCKS < KV_GROUP_META_BLOCKS;
}

/* Wholly free clusters, counted the slow way. */
static uint64_t model_whole_clusters(const struct fixture *f, const struct model *model)
{
    const uint32_t cluster = f->config.cluster_blocks;
    uint64_t whole = 0;
    for (uint64_t block = f->config.group_first_block; block + cluster <= f->config.end_block;
         block += cluster) {
        bool is_free = true;
        for (uint64_t i = block; i < block + cluster; i++)
            is_free = is_free && !model->busy[i] && !model_is_meta(f, i);
        whole += is_free;
    }
    return whole;
}

static void model_check(struct fixture *f, struct model *model, bool committed_too)
{
    uint64_t busy = 0;
    for (uint64_t i = f->config.group_first_block; i < f->config.end_block; i++)
        busy += model->busy[i];
    ck_assert_uint_eq(stats_of(f).busy_blocks, busy);
    if (!committed_too)
        return;

    const uint64_t span = f->config.end_block - f->config.group_first_block;
    uint64_t *seen = calloc((size_t)(span + 63) / 64, sizeof *seen);
    ck_assert_ptr_nonnull(seen);
    for (unsigned i = 0; i < MODEL_RUNS; i++) {
        const struct model_run *run = &model->durable[i];
        if (run->state != RUN_COMMITTED)
            continue;
        for (uint64_t block = run->block; block < run->block + run->count; block++) {
            const uint64_t bit = block - f->config.group_first_block;
            seen[bit / 64] |= 1ull << bit % 64;
        }
    }
    uint64_t leaked, unmarked;
    kv_space_compare(f->space, seen, false, &leaked, &unmarked);
    ck_assert_uint_eq(leaked, 0);
    ck_assert_uint_eq(unmarked, 0);
    free(seen);
}

static void model_alloc(struct fixture *f, struct model *model)
{
    struct model_run *run = &model->runs[random_below(MODEL_RUNS)];
    if (run->state != RUN_NONE)
        return;
    const uint32_t count = 1 + (uint32_t)random_below(random_below(8) ? 6 : 400);
    const uint32_t least = 1 + (uint32_t)random_below(count);
    uint64_t block;
    uint32_t got;
    const int err = kv_space_alloc(f->space, KV_SPACE_DATA, count, least, &block, &got);
    if (err) {
        ck_assert_int_eq(err, -ENOSPC);
        return;
    }
    ck_assert_uint_ge(got, least);
    ck_assert_uint_le(got, count);
    ck_assert(kv_space_contains(f->space, block, got));
    model_mark(model, block, got, 0, 1);
    *run = (struct model_run){.state = RUN_ALLOCATED, .block = block, .count = got};
}

/* Commit, undo or free some run, in the open epoch. */
static void model_change(struct fixture *f, struct model *model)
{
    struct model_run *run = &model->runs[random_below(MODEL_RUNS)];
    if (run->state == RUN_ALLOCATED && random_below(10) == 0) {
        kv_space_unalloc(f->space, run->block, run->count);
        model_mark(model, run->block, run->count, 1, 0);
        run->state = RUN_NONE;
    } else if (run->state == RUN_ALLOCATED) {
        ck_assert_int_eq(kv_space_commit(f->space, model->open_epoch, run->block, run->count), 0);
        run->state = RUN_COMMITTED;
        run->born = model->open_epoch;
    } else if (run->state == RUN_COMMITTED && random_below(4) == 0) {
        ck_assert_int_eq(kv_space_free(f->space, model->open_epoch, run->block, run->count), 0);
        ck_assert_int_eq(kv_space_free(f->space, model->open_epoch, run->block, run->count),
                         -EUCLEAN);
        run->state = RUN_FREED;
        run->died = model->open_epoch;
    }
}

static void model_step(struct fixture *f, struct model *model)
{
    if (random_below(3) == 0)
        model_alloc(f, model);
    else
        model_change(f, model);
}

/* What the bitmaps of `epoch` hold. */
static void model_freeze(struct model *model, uint64_t epoch)
{
    for (unsigned i = 0; i < MODEL_RUNS; i++) {
        struct model_run run = model->runs[i];
        const bool reached = (run.state == RUN_COMMITTED && run.born <= epoch) ||
                             (run.state == RUN_FREED && run.born <= epoch && run.died > epoch);
        run.state = reached ? RUN_COMMITTED : RUN_NONE;
        model->durable[i] = run;
    }
}

static void model_checkpoint(struct fixture *f, struct model *model)
{
    const uint64_t closing = model->open_epoch++;
    for (int i = 0; i < 30; i++) /* the next epoch is open by now */
        model_step(f, model);
    uint64_t digest, used;
    ck_assert_int_eq(kv_space_write(f->space, closing, &digest, &used), 0);
    for (int i = 0; i < 30; i++)
        model_step(f, model);
    struct model_run *before = malloc(sizeof model->durable);
    ck_assert_ptr_nonnull(before);
    memcpy(before, model->durable, sizeof model->durable);
    model_freeze(model, closing);

    if (random_below(5) == 0) { /* power cut before the superblock */
        memcpy(model->durable, before, sizeof model->durable);
        memcpy(model->runs, before, sizeof model->durable);
        free(before);
        model->open_epoch = f->epoch + 1 + random_below(3);
        ck_assert_int_eq(reopen(f), 0);
        memset(model->busy, 0, f->config.end_block);
        for (unsigned i = 0; i < MODEL_RUNS; i++) {
            if (model->runs[i].state == RUN_COMMITTED)
                model_mark(model, model->runs[i].block, model->runs[i].count, 0, 1);
        }
        model_check(f, model, true);
        return;
    }
    free(before);
    kv_space_written(f->space, closing);
    f->epoch = closing;
    f->digest = digest;
    for (unsigned i = 0; i < MODEL_RUNS; i++) {
        struct model_run *run = &model->runs[i];
        if (run->state == RUN_FREED && run->died <= closing) {
            model_mark(model, run->block, run->count, 1, 0);
            run->state = RUN_NONE;
        }
    }
    model_check(f, model, true);
}

static void run_model(uint32_t groups, uint32_t last_blocks, uint32_t cluster, int rounds)
{
    struct fixture f;
    fixture_init(&f, groups, last_blocks, cluster);
    struct model *model = calloc(1, sizeof *model);
    ck_assert_ptr_nonnull(model);
    model->busy = calloc(f.config.end_block, 1);
    ck_assert_ptr_nonnull(model->busy);
    model->open_epoch = 2;

    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 2000; i++)
            model_step(&f, model);
        model_check(&f, model, false);
        const uint64_t kept = stats_of(&f).emergency_blocks / cluster;
        ck_assert_uint_ge(model_whole_clusters(&f, model), kept);
        model_checkpoint(&f, model);
    }
    free(model->busy);
    free(model);
    fixture_release(&f);
}

START_TEST(random_changes_and_crashes_agree_with_a_model)
{
    seed_random("random_changes_and_crashes_agree_with_a_model");
    run_model(1, 9000, 4, 60);
    run_model(1, 4001, 1, 30);
    run_model(1, 12345, 16, 30);
    run_model(2, 3000, 4, 10);
}
END_TEST

/* ---- the views ------------------------------------------------------------- */

START_TEST(freed_blocks_are_used_again_only_after_the_checkpoint)
{
    struct fixture f;
    fixture_init(&f, 1, 100, 1);
    const uint64_t block = alloc_run(&f, KV_SPACE_PAGE, 70);
    ck_assert_int_eq(kv_space_commit(f.space, 2, block, 70), 0);
    checkpoint(&f, 2);

    ck_assert_int_eq(kv_space_free(f.space, 3, block, 70), 0);
    ck_assert_uint_eq(stats_of(&f).deferred_blocks, 70);
    ck_assert_int_eq(try_alloc(&f, KV_SPACE_PAGE, 70), -ENOSPC);
    uint64_t digest, used;
    ck_assert_int_eq(kv_space_write(f.space, 3, &digest, &used), 0);
    ck_assert_uint_eq(used, KV_GROUP_META_BLOCKS);
    ck_assert_int_eq(try_alloc(&f, KV_SPACE_PAGE, 70), -ENOSPC);
    kv_space_written(f.space, 3);

    ck_assert_uint_eq(stats_of(&f).deferred_blocks, 0);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 0);
    ck_assert_int_eq(try_alloc(&f, KV_SPACE_PAGE, 70), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(a_block_born_and_freed_in_one_epoch_is_not_in_its_bitmap)
{
    struct fixture f;
    fixture_init(&f, 1, 500, 4);
    const uint64_t block = alloc_run(&f, KV_SPACE_DATA, 9);
    ck_assert_int_eq(kv_space_free(f.space, 2, block, 9), 0);
    ck_assert_int_eq(kv_space_commit(f.space, 2, block, 9), 0);
    checkpoint(&f, 2);
    ck_assert_int_eq(reopen(&f), 0);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 0);
    fixture_release(&f);
}
END_TEST

START_TEST(damaged_pointers_are_refused_and_change_nothing)
{
    struct fixture f;
    fixture_init(&f, 2, 500, 4);
    const uint64_t second = FIRST_BLOCK + KV_GROUP_BLOCKS;
    const struct {
        uint64_t block;
        uint32_t count;
    } outside[] = {{0, 1},
                   {FIRST_BLOCK, 1},
                   {FIRST_BLOCK + KV_GROUP_META_BLOCKS - 1, 2},
                   {second - 1, 2},
                   {second + 3, 1},
                   {f.config.end_block - 1, 2},
                   {f.config.end_block, 1},
                   {UINT64_MAX, 1},
                   {UINT64_MAX - 3, 8},
                   {second + 100, 0}};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        ck_assert(!kv_space_contains(f.space, outside[i].block, outside[i].count));
        ck_assert_int_eq(kv_space_claim(f.space, outside[i].block, outside[i].count), -EUCLEAN);
        ck_assert_int_eq(kv_space_free(f.space, 2, outside[i].block, outside[i].count), -EUCLEAN);
    }
    ck_assert_int_eq(kv_space_free(f.space, 2, second + 100, 5), -EUCLEAN);
    ck_assert_int_eq(kv_space_claim(f.space, second + 100, 5), 0);
    ck_assert_int_eq(kv_space_claim(f.space, second + 104, 5), -EUCLEAN);
    ck_assert_int_eq(kv_space_free(f.space, 2, second + 100, 6), -EUCLEAN);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 5);
    ck_assert_uint_eq(stats_of(&f).deferred_blocks, 0);
    fixture_release(&f);
}
END_TEST

/* A page of a hostile image says that it owns what was just handed out, and is freed. */
START_TEST(what_a_damaged_pointer_frees_before_it_has_an_owner_is_not_handed_over)
{
    struct fixture f;
    fixture_init(&f, 1, 500, 4);
    const uint64_t block = alloc_run(&f, KV_SPACE_DATA, 9);
    const uint64_t other = alloc_run(&f, KV_SPACE_DATA, 9);
    ck_assert_int_eq(kv_space_free(f.space, 2, block + 2, 3), 0);
    ck_assert_int_eq(kv_space_free(f.space, 2, other, 9), 0);
    checkpoint(&f, 2);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 6);
    ck_assert_int_eq(kv_space_commit(f.space, 3, block, 9), -EUCLEAN);
    kv_space_unalloc(f.space, block, 9);
    kv_space_unalloc(f.space, other, 9);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 0);
    checkpoint(&f, 3);
    ck_assert_int_eq(reopen(&f), 0);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 0);
    fixture_release(&f);
}
END_TEST

/* ---- running out of space --------------------------------------------------- */

START_TEST(data_never_takes_reserved_clusters_and_pages_always_get_theirs)
{
    struct fixture f;
    fixture_init(&f, 1, 8018, 4);
    ck_assert_int_eq(kv_space_reserve(f.space, 500, KV_SPACE_NORMAL), 0);

    /* Given data that takes all it can get, in pieces that leave holes ... */
    uint64_t block;
    uint32_t got;
    while (!kv_space_alloc(f.space, KV_SPACE_DATA, 3, 1, &block, &got)) {
    }
    /* ... when all reserved pages are written, each finds room. */
    for (int i = 0; i < 500; i++) {
        (void)alloc_run(&f, KV_SPACE_PAGE, 4);
        kv_space_unreserve(f.space, 1);
    }
    ck_assert_int_eq(try_alloc(&f, KV_SPACE_DATA, 1), -ENOSPC);
    ck_assert_uint_eq(stats_of(&f).reserved_blocks, 0);
    fixture_release(&f);
}
END_TEST

START_TEST(urgent_reservations_reach_into_the_emergency_reserve_but_not_all_of_it)
{
    struct fixture f;
    fixture_init(&f, 1, 32 + 8000, 4); /* 2000 whole clusters, the first ones after metadata */
    const uint64_t emergency = stats_of(&f).emergency_blocks / 4;
    ck_assert_uint_eq(emergency, 64);
    uint64_t whole = 0;
    while (!kv_space_reserve(f.space, 1, KV_SPACE_NORMAL))
        whole++;
    uint64_t urgent = 0;
    while (!kv_space_reserve(f.space, 1, KV_SPACE_URGENT))
        urgent++;
    /* What stays is enough to write the map of all pages anew. */
    const uint64_t map_blocks = 8000 / KV_MAP_FANOUT + 2;
    ck_assert_uint_ge((emergency - urgent) * 4, map_blocks);
    ck_assert_uint_ge(urgent, emergency / 2);
    ck_assert_int_eq(kv_space_reserve(f.space, UINT64_MAX, KV_SPACE_URGENT), -ENOSPC);
    uint64_t last = 0;
    while (!kv_space_reserve(f.space, 1, KV_SPACE_LAST))
        last++;
    ck_assert_uint_eq(last, emergency - urgent);
    kv_space_unreserve(f.space, last + urgent + 1);
    ck_assert_int_eq(kv_space_reserve(f.space, 1, KV_SPACE_NORMAL), 0);
    ck_assert_int_eq(kv_space_reserve(f.space, 1, KV_SPACE_NORMAL), -ENOSPC);
    fixture_release(&f);
}
END_TEST

START_TEST(a_small_image_keeps_at_most_an_eighth_for_emergencies)
{
    struct fixture f;
    fixture_init(&f, 1, 32 + 160, 4);
    ck_assert_uint_le(stats_of(&f).emergency_blocks, 164 / 8);
    ck_assert_uint_gt(stats_of(&f).emergency_blocks, 0);
    fixture_release(&f);
}
END_TEST

START_TEST(a_full_image_has_room_again_after_freeing)
{
    struct fixture f;
    fixture_init(&f, 1, 5000, 4);
    uint64_t blocks[5000];
    uint32_t counts[5000], taken = 0;
    while (!kv_space_alloc(f.space, KV_SPACE_DATA, 16, 1, &blocks[taken], &counts[taken])) {
        ck_assert_int_eq(kv_space_commit(f.space, 2, blocks[taken], counts[taken]), 0);
        taken++;
    }
    checkpoint(&f, 2);
    for (uint32_t i = 0; i < taken; i += 2)
        ck_assert_int_eq(kv_space_free(f.space, 3, blocks[i], counts[i]), 0);
    ck_assert_int_eq(try_alloc(&f, KV_SPACE_DATA, 1), -ENOSPC);
    checkpoint(&f, 3);
    ck_assert_int_eq(try_alloc(&f, KV_SPACE_DATA, 16), 0);
    ck_assert_int_eq(reopen(&f), 0);
    ck_assert_int_eq(try_alloc(&f, KV_SPACE_DATA, 16), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(a_run_never_leaves_its_group)
{
    struct fixture f;
    fixture_init(&f, 2, 1000, 4);
    (void)alloc_run(&f, KV_SPACE_PAGE, KV_GROUP_BLOCKS - KV_GROUP_META_BLOCKS - 100);
    const uint64_t block = alloc_run(&f, KV_SPACE_PAGE, 200);
    ck_assert_uint_ge(block, FIRST_BLOCK + KV_GROUP_BLOCKS + KV_GROUP_META_BLOCKS);
    (void)alloc_run(&f, KV_SPACE_PAGE, 100);
    ck_assert_int_eq(try_alloc(&f, KV_SPACE_PAGE, KV_GROUP_BLOCKS), -ENOSPC);
    fixture_release(&f);
}
END_TEST

/* ---- copies ----------------------------------------------------------------- */

START_TEST(a_copy_of_an_aborted_checkpoint_is_never_chosen_later)
{
    struct fixture f;
    fixture_init(&f, 2, 1000, 4);
    const uint64_t second = FIRST_BLOCK + KV_GROUP_BLOCKS + 40;

    /* Given a checkpoint 5 that changed the second group and died before its superblock ... */
    ck_assert_int_eq(kv_space_claim(f.space, second, 8), 0);
    ck_assert_int_eq(kv_space_commit(f.space, 5, second, 8), 0);
    uint64_t digest, used;
    ck_assert_int_eq(kv_space_write(f.space, 5, &digest, &used), 0);
    ck_assert_int_eq(reopen(&f), 0);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 0);

    /* ... when later checkpoints change the first group only ... */
    for (uint64_t epoch = 4; epoch < 9; epoch++) {
        const uint64_t block = alloc_run(&f, KV_SPACE_DATA, 1);
        ck_assert_uint_lt(block, FIRST_BLOCK + KV_GROUP_BLOCKS);
        ck_assert_int_eq(kv_space_commit(f.space, epoch, block, 1), 0);
        checkpoint(&f, epoch);
        /* ... then each opens, and the dead one's bits are not there. */
        ck_assert_int_eq(reopen(&f), 0);
        ck_assert_uint_eq(stats_of(&f).busy_blocks, epoch - 3);
        ck_assert_int_eq(kv_space_claim(f.space, second, 8), 0);
        kv_space_unalloc(f.space, second, 8);
    }
    fixture_release(&f);
}
END_TEST

/* Keep of what changed in the group's copies since `before` only this block. */
static void keep_one_block(struct fixture *f, const uint8_t *before, uint64_t kept)
{
    for (uint64_t block = 0; block < KV_GROUP_META_BLOCKS; block++) {
        const uint64_t offset = (FIRST_BLOCK + block) * KV_BLOCK_BYTES;
        if (block != kept)
            memcpy(f->memory.bytes + offset, before + block * KV_BLOCK_BYTES, KV_BLOCK_BYTES);
    }
}

START_TEST(a_torn_copy_does_not_come_back_whole)
{
    struct fixture f;
    static uint8_t before[KV_GROUP_META_BLOCKS * KV_BLOCK_BYTES];
    uint8_t *group;
    uint64_t digest, used;
    fixture_init(&f, 1, 100000, 4);
    group = f.memory.bytes + FIRST_BLOCK * KV_BLOCK_BYTES;

    /* Given a checkpoint 3 that died before its superblock, ... */
    ck_assert_int_eq(kv_space_claim(f.space, FIRST_BLOCK + 40, 8), 0);
    ck_assert_int_eq(kv_space_commit(f.space, 3, FIRST_BLOCK + 40, 8), 0);
    ck_assert_int_eq(kv_space_write(f.space, 3, &digest, &used), 0);

    /* ... another 3 that died in the middle of the same copy, ... */
    ck_assert_int_eq(reopen(&f), 0);
    ck_assert_int_eq(kv_space_claim(f.space, FIRST_BLOCK + 90000, 8), 0);
    ck_assert_int_eq(kv_space_commit(f.space, 3, FIRST_BLOCK + 90000, 8), 0);
    memcpy(before, group, sizeof before);
    ck_assert_int_eq(kv_space_write(f.space, 3, &digest, &used), 0);
    keep_one_block(&f, before, KV_GROUP_COPY_BLOCKS + 1 + 90000 / 8 / KV_BLOCK_BYTES);

    /* ... and a third that changes nothing here and gets its superblock, ... */
    ck_assert_int_eq(reopen(&f), 0);
    checkpoint(&f, 3);

    /* ... when a checkpoint 4 dies with any one block of its bitmap on disk, */
    for (uint64_t kept = 0; kept < KV_GROUP_META_BLOCKS; kept++) {
        ck_assert_int_eq(reopen(&f), 0); /* ... then 3 opens. */
        ck_assert_uint_eq(stats_of(&f).busy_blocks, 0);
        ck_assert_int_eq(kv_space_claim(f.space, FIRST_BLOCK + 44, 4), 0);
        ck_assert_int_eq(kv_space_commit(f.space, 4, FIRST_BLOCK + 44, 4), 0);
        memcpy(before, group, sizeof before);
        ck_assert_int_eq(kv_space_write(f.space, 4, &digest, &used), 0);
        keep_one_block(&f, before, kept);
    }
    ck_assert_int_eq(reopen(&f), 0);
    fixture_release(&f);
}
END_TEST

START_TEST(a_clean_group_is_not_written_again)
{
    struct fixture f;
    fixture_init(&f, 2, 1000, 4);
    const uint64_t block = alloc_run(&f, KV_SPACE_DATA, 1);
    ck_assert_int_eq(kv_space_commit(f.space, 2, block, 1), 0);
    const uint64_t before = f.memory.writes_left;
    checkpoint(&f, 2);
    ck_assert_uint_eq(before - f.memory.writes_left, 1);
    checkpoint(&f, 3);
    ck_assert_uint_eq(before - f.memory.writes_left, 1);
    fixture_release(&f);
}
END_TEST

/* Change a byte of a copy's block. */
static void damage(struct fixture *f, unsigned copy, unsigned block, unsigned at)
{
    const uint64_t where = f->config.group_first_block + copy * KV_GROUP_COPY_BLOCKS + block;
    f->memory.bytes[where * KV_BLOCK_BYTES + at] ^= 0x10;
}

START_TEST(a_damaged_copy_is_seen_and_the_other_one_does_not_pass_for_it)
{
    struct fixture f;
    fixture_init(&f, 1, 1000, 4);
    const uint64_t block = alloc_run(&f, KV_SPACE_DATA, 1);
    ck_assert_int_eq(kv_space_commit(f.space, 2, block, 1), 0);
    checkpoint(&f, 2); /* in copy 1; copy 0 is of epoch 1 */
    for (unsigned i = 0; i < KV_GROUP_COPY_BLOCKS; i++) {
        const unsigned at = (i * 613) % 4096;
        damage(&f, 1, i, at);
        ck_assert_int_eq(reopen(&f), -EBADMSG);
        damage(&f, 0, i, at);
        ck_assert_int_eq(reopen(&f), -EBADMSG);
        damage(&f, 1, i, at);
        ck_assert_int_eq(reopen(&f), 0); /* the damaged older one does not matter */
        damage(&f, 0, i, at);
    }
    fixture_release(&f);
}
END_TEST

START_TEST(an_unreadable_inactive_copy_does_not_matter_and_an_active_one_does)
{
    struct fixture f;
    fixture_init(&f, 1, 1000, 4);
    f.memory.unreadable = FIRST_BLOCK + KV_GROUP_COPY_BLOCKS + 2;
    ck_assert_int_eq(reopen(&f), 0);
    f.memory.unreadable = FIRST_BLOCK + 2;
    ck_assert_int_eq(reopen(&f), -EIO);
    fixture_release(&f);
}
END_TEST

START_TEST(a_geometry_that_does_not_fit_is_refused)
{
    struct fixture f;
    fixture_init(&f, 1, 1000, 4);
    const struct kv_space_config sane = f.config;
    struct kv_space_config odd[6] = {sane, sane, sane, sane, sane, sane};
    odd[0].end_block++;
    odd[1].cluster_blocks = 3;
    odd[2].group_count = 2;
    odd[3].group_first_block = 17;
    odd[4].end_block = FIRST_BLOCK + KV_GROUP_META_BLOCKS;
    odd[5].group_count = UINT32_MAX;
    for (size_t i = 0; i < 6; i++) {
        f.config = odd[i];
        ck_assert_int_eq(reopen(&f), -EUCLEAN);
    }
    f.config = sane;
    f.config.end_block--; /* possible, but not what the bitmap says */
    ck_assert_int_eq(reopen(&f), -EBADMSG);
    f.config = sane;
    f.config.log_id++;
    ck_assert_int_eq(reopen(&f), -EBADMSG);
    f.config = sane;
    ck_assert_int_eq(reopen(&f), 0);
    fixture_release(&f);
}
END_TEST

/* A sparse file: all of it reads as zeroes. */
struct hollow {
    struct kv_device base;
    uint64_t resident_bytes; /* of the process at the first read; 0: none was made */
};

static uint64_t resident_bytes(void)
{
    unsigned long long all, resident;
    FILE *const file = fopen("/proc/self/statm", "re");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fscanf(file, "%llu %llu", &all, &resident), 2);
    (void)fclose(file); /* only read */
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int hollow_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct hollow *hollow = (struct hollow *)device;
    (void)flush;
    if (!hollow->resident_bytes)
        hollow->resident_bytes = resident_bytes();
    for (size_t i = 0; i < io_count; i++) {
        ck_assert(ios[i].kind == KV_IO_READ);
        memset(ios[i].buf, 0, kv_io_bytes(&ios[i]));
        ios[i].result = 0;
    }
    return 0;
}

/* A superblock can claim any size, and a file can have it. */
START_TEST(no_memory_is_taken_for_bitmaps_that_were_not_seen)
{
    static const struct kv_device_ops ops = {
        .submit = hollow_submit, .discard = memory_discard, .close = memory_close};
    const uint32_t groups = 4096; /* 4 TiB, with 256 MiB of bitmaps */
    const struct kv_space_config config = {.group_first_block = FIRST_BLOCK,
                                           .group_count = groups,
                                           .end_block =
                                               FIRST_BLOCK + (uint64_t)groups * KV_GROUP_BLOCKS,
                                           .cluster_blocks = 4,
                                           .log_id = LOG_ID};
    struct hollow hollow = {.base = {.ops = &ops, .block_count = config.end_block}};
    struct kv_space *space = NULL;
    const uint64_t before = resident_bytes();
    ck_assert_int_eq(kv_space_open(&hollow.base, &config, 1, 0, &space), -EBADMSG);
    ck_assert_ptr_null(space);
    ck_assert_uint_gt(hollow.resident_bytes, 0);
    ck_assert_uint_lt(hollow.resident_bytes, before + (64u << 20));
}
END_TEST

START_TEST(a_failed_write_leaves_the_durable_copies_alone)
{
    struct fixture f;
    fixture_init(&f, 2, 1000, 4);
    for (uint32_t i = 0; i < 2; i++) {
        const uint64_t block = FIRST_BLOCK + i * KV_GROUP_BLOCKS + 50;
        ck_assert_int_eq(kv_space_claim(f.space, block, 3), 0);
        ck_assert_int_eq(kv_space_commit(f.space, 2, block, 3), 0);
    }
    f.memory.writes_left = 1;
    uint64_t digest, used;
    ck_assert_int_eq(kv_space_write(f.space, 2, &digest, &used), -EIO);
    ck_assert_int_eq(reopen(&f), 0);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 0);
    fixture_release(&f);
}
END_TEST

/* ---- repair ------------------------------------------------------------------ */

START_TEST(compare_counts_and_repair_makes_the_walk_the_truth)
{
    struct fixture f;
    fixture_init(&f, 1, 1000, 4);
    ck_assert_int_eq(kv_space_claim(f.space, FIRST_BLOCK + 100, 10), 0);
    ck_assert_int_eq(kv_space_commit(f.space, 2, FIRST_BLOCK + 100, 10), 0);
    checkpoint(&f, 2);

    uint64_t seen[16] = {0}, leaked, unmarked;
    for (uint64_t bit = 105; bit < 128; bit++)
        seen[bit / 64] |= 1ull << bit % 64;
    kv_space_compare(f.space, seen, true, &leaked, &unmarked);
    ck_assert_uint_eq(leaked, 5);
    ck_assert_uint_eq(unmarked, 18);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 23);
    checkpoint(&f, 3);
    ck_assert_int_eq(reopen(&f), 0);
    kv_space_compare(f.space, seen, false, &leaked, &unmarked);
    ck_assert_uint_eq(leaked, 0);
    ck_assert_uint_eq(unmarked, 0);
    fixture_release(&f);
}
END_TEST

START_TEST(repair_from_nothing_replaces_both_copies)
{
    struct fixture f;
    fixture_init(&f, 1, 1000, 4);
    const uint64_t block = alloc_run(&f, KV_SPACE_DATA, 1);
    ck_assert_int_eq(kv_space_commit(f.space, 3, block, 1), 0);
    uint64_t digest, used; /* aborted: copy 1 holds epoch 3 */
    ck_assert_int_eq(kv_space_write(f.space, 3, &digest, &used), 0);
    damage(&f, 0, 0, 0);
    ck_assert_int_eq(reopen(&f), -EBADMSG);

    ck_assert_int_eq(kv_space_open_empty(&f.memory.base, &f.config, &f.space), 0);
    ck_assert_int_eq(kv_space_claim(f.space, FIRST_BLOCK + 200, 4), 0);
    ck_assert_int_eq(kv_space_commit(f.space, 2, FIRST_BLOCK + 200, 4), 0);
    checkpoint(&f, 2);
    ck_assert_int_eq(reopen(&f), 0);
    checkpoint(&f, 3);
    ck_assert_int_eq(reopen(&f), 0);
    ck_assert_uint_eq(stats_of(&f).busy_blocks, 4);
    fixture_release(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("space");
    TCase *views = tcase_create("views");
    tcase_set_timeout(views, 300);
    tcase_add_test(views, random_changes_and_crashes_agree_with_a_model);
    tcase_add_test(views, freed_blocks_are_used_again_only_after_the_checkpoint);
    tcase_add_test(views, a_block_born_and_freed_in_one_epoch_is_not_in_its_bitmap);
    tcase_add_test(views, damaged_pointers_are_refused_and_change_nothing);
    tcase_add_test(views, what_a_damaged_pointer_frees_before_it_has_an_owner_is_not_handed_over);
    suite_add_tcase(suite, views);

    TCase *room = tcase_create("room");
    tcase_add_test(room, data_never_takes_reserved_clusters_and_pages_always_get_theirs);
    tcase_add_test(room, urgent_reservations_reach_into_the_emergency_reserve_but_not_all_of_it);
    tcase_add_test(room, a_small_image_keeps_at_most_an_eighth_for_emergencies);
    tcase_add_test(room, a_full_image_has_room_again_after_freeing);
    tcase_add_test(room, a_run_never_leaves_its_group);
    suite_add_tcase(suite, room);

    TCase *copies = tcase_create("copies");
    tcase_add_test(copies, a_copy_of_an_aborted_checkpoint_is_never_chosen_later);
    tcase_add_test(copies, a_torn_copy_does_not_come_back_whole);
    tcase_add_test(copies, a_clean_group_is_not_written_again);
    tcase_add_test(copies, a_damaged_copy_is_seen_and_the_other_one_does_not_pass_for_it);
    tcase_add_test(copies, an_unreadable_inactive_copy_does_not_matter_and_an_active_one_does);
    tcase_add_test(copies, a_geometry_that_does_not_fit_is_refused);
    tcase_add_test(copies, no_memory_is_taken_for_bitmaps_that_were_not_seen);
    tcase_add_test(copies, a_failed_write_leaves_the_durable_copies_alone);
    suite_add_tcase(suite, copies);

    TCase *repair = tcase_create("repair");
    tcase_add_test(repair, compare_counts_and_repair_makes_the_walk_the_truth);
    tcase_add_test(repair, repair_from_nothing_replaces_both_copies);
    suite_add_tcase(suite, repair);

    return test_run(suite);
}
