/*
 * tests/kv/test_pager.c: pages in little memory, over epochs, shadows, frees and failures.
 *
 * Each page is a leaf with one key, whose value says which page and which version it is.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "kv/codec.h"
#include "kv/node.h"
#include "support_devices.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>
#include <pthread.h>

#define NODE_BYTES    4096u
#define BUDGET_BYTES  (1u << 20)
#define DEVICE_BLOCKS 40000u
#define PAGES_MAX     4000u
#define FILL_BYTES    904u

static uint64_t seed_start;

/* ---- a device that tells the test of each submission ------------------------------------ */

/* What is begun is done when it is waited for: until then its bytes must stay as they are. */
struct watched {
    struct kv_device base;
    struct kv_device *below;
    void (*on_write)(void *context); /* before the requests are done */
    void *context;
    uint64_t read_submissions, read_requests; /* atomic */
    bool never_begins;                        /* every submission is waited for */
    unsigned under_way, most_under_way;       /* of the one thread that begins any */
};

struct watched_flight {
    struct kv_device_flight base;
    struct kv_io *ios;
    size_t io_count;
};

static int watched_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct watched *const watched = (struct watched *)device;
    if (io_count && ios[0].kind == KV_IO_WRITE && watched->on_write)
        watched->on_write(watched->context);
    if (io_count && ios[0].kind == KV_IO_READ) {
        (void)__atomic_fetch_add(&watched->read_submissions, 1, __ATOMIC_RELAXED);
        (void)__atomic_fetch_add(&watched->read_requests, io_count, __ATOMIC_RELAXED);
    }
    return kv_device_submit(watched->below, ios, io_count, flush);
}

static struct kv_device_flight *watched_begin(struct kv_device *device, struct kv_io *ios,
                                              size_t io_count)
{
    struct watched *const watched = (struct watched *)device;
    struct watched_flight *const flight = watched->never_begins ? NULL : calloc(1, sizeof *flight);
    if (!flight)
        return NULL;
    flight->ios = ios;
    flight->io_count = io_count;
    if (++watched->under_way > watched->most_under_way)
        watched->most_under_way = watched->under_way;
    return &flight->base;
}

static int watched_end(struct kv_device *device, struct kv_device_flight *flight)
{
    struct watched *const watched = (struct watched *)device;
    struct watched_flight *const begun = (struct watched_flight *)flight;
    watched->under_way--;
    const int result = watched_submit(device, begun->ios, begun->io_count, false);
    free(begun);
    return result;
}

static void watched_close(struct kv_device *device)
{
    kv_device_close(((struct watched *)device)->below);
}

static void watched_init(struct watched *watched, struct kv_device *below)
{
    static const struct kv_device_ops ops = {.submit = watched_submit,
                                             .begin = watched_begin,
                                             .end = watched_end,
                                             .close = watched_close};
    *watched =
        (struct watched){.base = {.ops = &ops, .block_count = below->block_count}, .below = below};
}

/* ---- pages with versions ----------------------------------------------------------------- */

struct scene {
    struct watched watched;
    struct faulty *faulty;
    struct test_pages pages;
    struct test_random random;
    uint64_t ids[PAGES_MAX];                                      /* 0: no such page */
    uint64_t versions[PAGES_MAX];                                 /* what each holds now ... */
    uint64_t durable_ids[PAGES_MAX], durable_versions[PAGES_MAX]; /* ... and at the last gate */
};

struct stamp {
    uint64_t page, version;
    uint8_t fill[FILL_BYTES];
};

static struct scene *scene_new(size_t node_bytes, uint64_t budget_bytes, enum kv_codec codec)
{
    struct scene *const scene = calloc(1, sizeof *scene);
    ck_assert_ptr_nonnull(scene);
    scene->random.state = seed_start;
    scene->faulty = faulty_new(memory_device_new(DEVICE_BLOCKS));
    watched_init(&scene->watched, faulty_device(scene->faulty));
    test_pages_init(&scene->pages, &scene->watched.base, node_bytes, budget_bytes, codec);
    return scene;
}

static void scene_free(struct scene *scene)
{
    test_pages_release(&scene->pages);
    kv_device_close(&scene->watched.base);
    faulty_free(scene->faulty);
    free(scene);
}

static void make_stamp(struct stamp *stamp, size_t page, uint64_t version)
{
    stamp->page = page;
    stamp->version = version;
    test_fill(stamp->fill, sizeof stamp->fill, version * PAGES_MAX + page);
}

static void fill_page(struct scene *scene, struct kv_page *held, size_t page, uint64_t version)
{
    static _Thread_local uint8_t scratch[KV_NODE_BYTES_MAX];
    const size_t node_bytes = scene->pages.node_bytes;
    const struct kv_bytes low = {"", 0};
    struct stamp stamp;
    make_stamp(&stamp, page, version);
    kv_node_init(held->bytes, node_bytes, held->id, 0, 0, low, (struct kv_bytes){0});
    const bool fits = kv_node_insert(held->bytes, node_bytes, 0, "key", 3, KV_VALUE_INLINE,
                                     (struct kv_bytes){&stamp, sizeof stamp}, scratch);
    KV_ASSERT(fits);
}

/* The writer's steps; each says what the pager said. */

static int try_new(struct scene *scene, size_t page)
{
    struct kv_pager *const pager = scene->pages.pager;
    struct kv_page held;
    int err = kv_pager_reserve(pager, 1, false);
    if (err)
        return err;
    err = kv_pager_new(pager, &held);
    if (!err) {
        fill_page(scene, &held, page, 1);
        kv_pager_unlatch(pager, &held);
        scene->ids[page] = held.id;
        scene->versions[page] = 1;
        kv_pager_unpin(pager, &held);
    }
    kv_pager_unreserve(pager);
    return err;
}

static int try_change(struct scene *scene, size_t page)
{
    struct kv_pager *const pager = scene->pages.pager;
    struct kv_page held;
    int err = kv_pager_reserve(pager, 1, false);
    if (err)
        return err;
    err = kv_pager_pin(pager, scene->ids[page], &held);
    if (!err) {
        err = kv_pager_dirty(pager, &held);
        if (!err) {
            kv_pager_latch(pager, &held);
            fill_page(scene, &held, page, ++scene->versions[page]);
            kv_pager_unlatch(pager, &held);
        }
        kv_pager_unpin(pager, &held);
    }
    kv_pager_unreserve(pager);
    return err;
}

static int try_free(struct scene *scene, size_t page)
{
    struct kv_pager *const pager = scene->pages.pager;
    struct kv_page held;
    int err = kv_pager_reserve(pager, 1, true);
    if (err)
        return err;
    err = kv_pager_pin(pager, scene->ids[page], &held);
    if (!err) {
        err = kv_pager_dirty(pager, &held);
        if (err)
            kv_pager_unpin(pager, &held);
        else
            err = kv_pager_free(pager, &held);
    }
    if (!err)
        scene->ids[page] = 0;
    kv_pager_unreserve(pager);
    return err;
}

static void make_pages(struct scene *scene, size_t count)
{
    for (size_t page = 0; page < count; page++) {
        const int err = try_new(scene, page);
        KV_ASSERT(err == 0);
    }
}

static void change(struct scene *scene, size_t page)
{
    const int err = try_change(scene, page);
    KV_ASSERT(err == 0);
}

/* Read a page as a reader does. */
static int try_read(struct scene *scene, size_t page)
{
    for (;;) {
        struct kv_page_view view;
        struct stamp stamp, expected;
        size_t length = 0;
        uint8_t kind;
        int err = kv_pager_view(scene->pages.pager, scene->ids[page], &view);
        if (err)
            return err;
        err = kv_node_value_racy(view.bytes, scene->pages.node_bytes, "key", 3, &stamp,
                                 sizeof stamp, &length, &kind);
        if (!kv_pager_view_valid(&view))
            continue;
        KV_ASSERT(err == 0);
        KV_ASSERT(length == sizeof stamp);
        make_stamp(&expected, page, scene->versions[page]);
        KV_ASSERT(memcmp(&stamp, &expected, sizeof stamp) == 0);
        return 0;
    }
}

static void expect_all(struct scene *scene)
{
    for (size_t page = 0; page < PAGES_MAX; page++) {
        const int err = scene->ids[page] ? try_read(scene, page) : 0;
        KV_ASSERT(err == 0);
    }
}

static void note_gate(struct scene *scene)
{
    memcpy(scene->durable_ids, scene->ids, sizeof scene->ids);
    memcpy(scene->durable_versions, scene->versions, sizeof scene->versions);
}

static void checkpoint(struct scene *scene)
{
    note_gate(scene);
    test_pages_checkpoint(&scene->pages);
}

static void crash(struct scene *scene)
{
    test_pages_reopen(&scene->pages);
    memcpy(scene->ids, scene->durable_ids, sizeof scene->ids);
    memcpy(scene->versions, scene->durable_versions, sizeof scene->versions);
}

static struct kv_pager_stats stats_of(struct scene *scene)
{
    struct kv_pager_stats stats;
    kv_pager_stats(scene->pages.pager, &stats);
    return stats;
}

/* After two checkpoints every block in use is a page's or the map's. */
static int count_blocks(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                        int error)
{
    uint64_t *const blocks = context;
    (void)index;
    KV_ASSERT(error == 0);
    *blocks += level < 0 ? kv_blocks_for(kv_le32_get(ptr->length_bytes)) : 1;
    return 0;
}

static void expect_no_leak(struct scene *scene)
{
    struct kv_space_stats space;
    uint64_t blocks = 0;
    checkpoint(scene);
    checkpoint(scene);
    ck_assert_int_eq(kv_pagemap_walk(scene->pages.map, count_blocks, &blocks), 0);
    ck_assert_uint_eq(test_pages_used_blocks(&scene->pages), blocks);
    kv_space_stats(scene->pages.space, &space);
    ck_assert_uint_eq(space.reserved_blocks, 0);
    ck_assert_uint_eq(stats_of(scene).dirty, 0);
}

/* ---- the budget -------------------------------------------------------------- */

START_TEST(ten_times_the_memory_goes_through_the_budget)
{
    static const enum kv_codec codecs[] = {KV_CODEC_NONE, KV_CODEC_LZ4, KV_CODEC_ZSTD};
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, codecs[_i]);
    const size_t count = 2600;
    make_pages(scene, count);
    const struct kv_pager_stats stats = stats_of(scene);
    ck_assert_uint_lt(stats.frames * 10, count);
    ck_assert_uint_le(stats.memory_bytes, BUDGET_BYTES);
    ck_assert_uint_le(stats.dirty, stats.frames);
    ck_assert_uint_gt(stats.writes, 0); /* although there was no checkpoint */
    expect_all(scene);
    for (unsigned i = 0; i < 5000; i++)
        change(scene, test_random_below(&scene->random, count));
    expect_all(scene);
    checkpoint(scene);
    expect_all(scene);
    crash(scene);
    expect_all(scene);
    expect_no_leak(scene);
    scene_free(scene);
}
END_TEST

START_TEST(some_frames_always_stay_clean)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    const uint64_t frames = stats_of(scene).frames;
    for (size_t page = 0; page < 2000; page++) {
        ck_assert_int_eq(try_new(scene, page), 0);
        if (stats_of(scene).dirty > frames * 8 / 10)
            ck_abort_msg("%" PRIu64 " of %" PRIu64 " frames are dirty", stats_of(scene).dirty,
                         frames);
    }
    scene_free(scene);
}
END_TEST

START_TEST(a_writer_whose_pages_are_cleaned_in_time_writes_none_itself)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    scene->pages.is_cleaned = true;
    const uint64_t frames = stats_of(scene).frames;
    for (size_t page = 0; page < 2000; page++) {
        const struct kv_pager_stats before = stats_of(scene);
        const unsigned asked = scene->pages.crowded_count;
        ck_assert_int_eq(try_new(scene, page), 0);
        ck_assert_uint_eq(stats_of(scene).writes, before.writes);
        if (scene->pages.crowded_count == asked)
            continue;
        kv_pager_clean(scene->pages.pager);
        ck_assert_uint_gt(stats_of(scene).writes, before.writes);
        ck_assert_uint_le(stats_of(scene).dirty, frames * 3 / 4);
    }
    ck_assert_uint_gt(scene->pages.crowded_count, 10);
    expect_all(scene);
    crash(scene);
    expect_all(scene);
    expect_no_leak(scene);
    scene_free(scene);
}
END_TEST

/* Most frames are hot and clean, so few of all are dirty; and yet most of those that may leave. */
START_TEST(a_reader_whose_way_is_cleaned_in_time_writes_nothing)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    const size_t frames = stats_of(scene).frames, hot = frames * 6 / 10, pages = 4 * frames;
    ck_assert_uint_le(pages, PAGES_MAX);
    make_pages(scene, pages);
    checkpoint(scene);
    for (size_t page = 0; page < 3 * hot; page++) /* they leave warm, and come back */
        ck_assert_int_eq(try_read(scene, page % hot), 0);
    for (size_t page = 2 * frames; page < 3 * frames; page++)
        ck_assert_int_eq(try_read(scene, page), 0);
    for (unsigned round = 0; round < 3; round++)
        for (size_t page = 0; page < hot; page++)
            ck_assert_int_eq(try_read(scene, page), 0);

    scene->pages.is_cleaned = true;
    for (size_t page = frames; page < pages; page++) {
        const struct kv_pager_stats before = stats_of(scene);
        const unsigned asked = scene->pages.crowded_count;
        ck_assert_int_eq(try_read(scene, page), 0);
        ck_assert_uint_eq(stats_of(scene).writes, before.writes);
        ck_assert_uint_le(before.dirty, frames * 3 / 4);
        if (page % 3 == 0)
            change(scene, page);
        ck_assert_uint_eq(stats_of(scene).writes, before.writes);
        for (size_t i = 0; i < 8; i++)
            ck_assert_int_eq(try_read(scene, (page * 8 + i) % hot), 0);
        if (scene->pages.crowded_count != asked)
            kv_pager_clean(scene->pages.pager);
    }
    ck_assert_uint_gt(scene->pages.crowded_count, 1);
    ck_assert_uint_gt(stats_of(scene).writes, 100);
    expect_all(scene);
    crash(scene);
    expect_all(scene);
    scene_free(scene);
}
END_TEST

START_TEST(cleaning_is_asked_for_once_until_it_was_done)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    scene->pages.is_cleaned = true;
    for (size_t page = 0; page < 2000; page++) /* the writer does it, as nobody came */
        ck_assert_int_eq(try_new(scene, page), 0);
    ck_assert_uint_gt(stats_of(scene).writes, 0);
    ck_assert_uint_eq(scene->pages.crowded_count, 1);
    kv_pager_clean(scene->pages.pager);
    for (size_t page = 2000; scene->pages.crowded_count == 1; page++)
        ck_assert_int_eq(try_new(scene, page), 0);
    /* After a failed write it ends, like everything that writes. */
    faulty_arm(scene->faulty, (struct fault){.targets = FAULT_WRITES, .error = -EIO});
    kv_pager_clean(scene->pages.pager);
    ck_assert_int_eq(scene->pages.failure, -EIO);
    scene_free(scene);
}
END_TEST

/* Each round writes every page early; without a checkpoint, so nothing older becomes free. */
START_TEST(changing_pages_often_in_one_epoch_takes_the_space_of_once)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    const size_t count = 3000;
    make_pages(scene, count);
    for (unsigned round = 0; round < 30; round++)
        for (size_t page = 0; page < count; page++)
            change(scene, page);
    ck_assert_uint_gt(stats_of(scene).writes, DEVICE_BLOCKS * 2);
    expect_all(scene);
    expect_no_leak(scene);
    scene_free(scene);
}
END_TEST

START_TEST(a_scan_leaves_the_pages_that_are_used_in_memory)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    const size_t count = 2500, used = 40;
    make_pages(scene, count);
    checkpoint(scene);
    for (unsigned round = 0; round < 4; round++)
        for (size_t page = 0; page < 2 * used; page++)
            ck_assert_int_eq(try_read(scene, round % 2 ? page / 2 : page), 0);
    for (size_t page = 2 * used; page < count; page++) { /* each page once */
        const int err = try_read(scene, page);
        KV_ASSERT(err == 0);
    }
    struct kv_page_view view;
    size_t resident = 0;
    for (size_t page = 0; page < used; page++)
        resident += kv_pager_view_resident(scene->pages.pager, scene->ids[page], &view);
    ck_assert_uint_eq(resident, used);
    scene_free(scene);
}
END_TEST

/* ---- two epochs at once ------------------------------------------------------ */

/* Each time the checkpoint writes, the next epoch changes some pages, makes and frees some. */
static void disturb(void *context)
{
    struct scene *const scene = context;
    void (*const on_write)(void *) = scene->watched.on_write;
    scene->watched.on_write = NULL; /* our own early writes are left alone */
    for (unsigned i = 0; i < 20; i++) {
        const size_t page = test_random_below(&scene->random, PAGES_MAX);
        const size_t dice = test_random_below(&scene->random, 10);
        int err = 0;
        if (!scene->ids[page])
            err = dice < 2 ? try_new(scene, page) : 0;
        else if (dice < 2)
            err = try_free(scene, page);
        else
            err = try_change(scene, page);
        KV_ASSERT(err == 0);
    }
    scene->watched.on_write = on_write;
}

START_TEST(a_checkpoint_writes_pages_as_they_were_at_the_gate)
{
    static const size_t node_sizes[] = {4096, 16384};
    struct scene *const scene = scene_new(node_sizes[_i], 64 * node_sizes[_i] * 4, KV_CODEC_NONE);
    scene->watched.context = scene;
    make_pages(scene, 1200);
    for (unsigned round = 0; round < 40; round++) {
        for (unsigned i = 0; i < 60; i++)
            disturb(scene);
        note_gate(scene);
        const uint64_t closed = test_pages_close_epoch(&scene->pages);
        scene->watched.on_write = disturb;
        ck_assert_int_eq(test_pages_write(&scene->pages, closed), 0);
        scene->watched.on_write = NULL;
        expect_all(scene);
        if (round % 3 == 2) {
            crash(scene);
            expect_all(scene);
        }
    }
    expect_no_leak(scene);
    scene_free(scene);
}
END_TEST

/* A checkpoint that is slower than the writer: more pages change than there may be shadows. */
struct slow {
    struct scene *scene;
    uint64_t epoch;
    int err;
};

static void *write_epoch(void *context)
{
    struct slow *const slow = context;
    slow->err = test_pages_write(&slow->scene->pages, slow->epoch);
    return NULL;
}

static void be_slow(void *context)
{
    (void)context;
    const struct timespec pause = {.tv_nsec = 200000};
    (void)nanosleep(&pause, NULL);
}

START_TEST(a_writer_that_is_ahead_waits_for_the_checkpoint)
{
    struct scene *const scene = scene_new(16384, 8u << 20, KV_CODEC_NONE);
    const size_t count = 350; /* nearly all frames; a quarter may have shadows */
    make_pages(scene, count);
    scene->watched.on_write = be_slow;
    for (unsigned round = 0; round < 10; round++) {
        pthread_t thread;
        for (size_t page = 0; page < count; page++)
            change(scene, page);
        note_gate(scene);
        struct slow slow = {.scene = scene, .epoch = test_pages_close_epoch(&scene->pages)};
        ck_assert_int_eq(pthread_create(&thread, NULL, write_epoch, &slow), 0);
        for (size_t page = 0; page < count; page++)
            change(scene, page);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_int_eq(slow.err, 0);
        expect_all(scene);
    }
    crash(scene);
    expect_all(scene);
    scene_free(scene);
}
END_TEST

START_TEST(who_helps_writes_as_much_of_the_closing_epoch_as_is_asked)
{
    struct scene *const scene = scene_new(16384, 8u << 20, KV_CODEC_NONE);
    enum { COUNT = 350 };
    struct kv_pager_stats before, after;
    make_pages(scene, COUNT);
    for (size_t page = 0; page < COUNT; page++)
        change(scene, page);
    note_gate(scene);
    const uint64_t closed = test_pages_close_epoch(&scene->pages);
    struct kv_pager *const pager = scene->pages.pager;
    kv_pager_stats(pager, &before);
    ck_assert_int_eq(kv_pager_help(pager, 0), 0);
    kv_pager_stats(pager, &after);
    ck_assert_uint_eq(after.writes, before.writes);
    ck_assert_int_eq(kv_pager_help(pager, 50), 0);
    kv_pager_stats(pager, &after);
    ck_assert_uint_lt(after.dirty, before.dirty / 2 + 1);
    ck_assert_uint_gt(after.dirty, 0);
    ck_assert_int_eq(kv_pager_help(pager, 100), 0);
    kv_pager_stats(pager, &after);
    ck_assert_uint_eq(after.dirty, 0);
    const uint64_t writes = after.writes;
    ck_assert_int_eq(test_pages_write(&scene->pages, closed), 0);
    kv_pager_stats(pager, &after);
    ck_assert_uint_eq(after.writes, writes);
    ck_assert_int_eq(kv_pager_help(pager, 100), 0);
    crash(scene);
    expect_all(scene);
    scene_free(scene);
}
END_TEST

START_TEST(a_checkpoint_of_many_pages_by_two_threads_is_whole)
{
    struct scene *const scene = scene_new(16384, 32u << 20, KV_CODEC_LZ4);
    enum { COUNT = 1200 };
    make_pages(scene, COUNT);
    for (unsigned round = 0; round < 3; round++) {
        for (size_t page = 0; page < COUNT; page++)
            change(scene, page);
        note_gate(scene);
        const uint64_t closed = test_pages_close_epoch(&scene->pages);
        ck_assert_int_eq(kv_pager_write_epoch(scene->pages.pager, closed, true), 0);
        ck_assert_int_eq(test_pages_write(&scene->pages, closed), 0);
    }
    crash(scene);
    expect_all(scene);
    scene_free(scene);
}
END_TEST

START_TEST(a_checkpoint_packs_pages_while_those_before_are_on_their_way)
{
    struct scene *const scene = scene_new(16384, 32u << 20, KV_CODEC_LZ4);
    enum { COUNT = 600 };
    scene->watched.never_begins = _i;
    make_pages(scene, COUNT);
    checkpoint(scene);
    for (size_t page = 0; page < COUNT; page++)
        change(scene, page);
    scene->watched.most_under_way = 0;
    note_gate(scene);
    ck_assert_int_eq(test_pages_write(&scene->pages, test_pages_close_epoch(&scene->pages)), 0);
    ck_assert_uint_eq(scene->watched.most_under_way, _i ? 0 : 2);
    ck_assert_uint_eq(scene->watched.under_way, 0);
    crash(scene);
    expect_all(scene);
    scene_free(scene);
}
END_TEST

/* ---- freeing pages ----------------------------------------------------------- */

START_TEST(a_page_can_be_freed_in_every_state)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    /* never written; written and clean; written and dirty; not in memory */
    make_pages(scene, 1000);
    checkpoint(scene);
    for (size_t page = 0; page < 100; page++)
        change(scene, page);
    make_pages(scene, 0);
    for (size_t page = 1000; page < 1100; page++)
        ck_assert_int_eq(try_new(scene, page), 0);
    for (size_t page = 0; page < 1100; page += 2) {
        const uint64_t page_id = scene->ids[page];
        struct kv_page_view view;
        const int err = try_free(scene, page);
        KV_ASSERT(err == 0);
        KV_ASSERT(kv_pager_view(scene->pages.pager, page_id, &view) == -ESTALE);
    }
    expect_all(scene);
    expect_no_leak(scene);
    crash(scene);
    expect_all(scene);
    for (size_t page = 1; page < 1100; page += 2)
        ck_assert_int_eq(try_free(scene, page), 0);
    expect_no_leak(scene);
    /* Only an empty page map is left. */
    ck_assert_uint_le(test_pages_used_blocks(&scene->pages), 1100 / KV_MAP_FANOUT + 3);
    scene_free(scene);
}
END_TEST

START_TEST(what_no_page_has_is_stale)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    struct kv_page_view view;
    struct kv_page page;
    ck_assert_int_eq(kv_pager_view(scene->pages.pager, 77, &view), -ESTALE);
    ck_assert_int_eq(kv_pager_pin(scene->pages.pager, KV_PAGE_ID_MAX, &page), -ESTALE);
    ck_assert(!kv_pager_pin_resident(scene->pages.pager, 77, &page));
    ck_assert(!kv_pager_view_resident(scene->pages.pager, 77, &view));
    scene_free(scene);
}
END_TEST

/* ---- reading together -------------------------------------------------------- */

START_TEST(a_view_ends_with_the_next_change_of_its_page)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    struct kv_pager *const pager = scene->pages.pager;
    struct kv_page_view view, again;
    struct kv_page page;
    ck_assert_int_eq(try_new(scene, 0), 0);
    ck_assert_int_eq(kv_pager_view(pager, scene->ids[0], &view), 0);
    ck_assert(kv_pager_view_valid(&view));
    ck_assert_int_eq(kv_pager_pin(pager, scene->ids[0], &page), 0);
    ck_assert_int_eq(kv_pager_dirty(pager, &page), 0);
    ck_assert(kv_pager_view_valid(&view));
    kv_pager_latch(pager, &page);
    ck_assert(!kv_pager_view_valid(&view));
    kv_pager_unlatch(pager, &page);
    ck_assert(!kv_pager_view_valid(&view));
    ck_assert_int_eq(kv_pager_view(pager, scene->ids[0], &again), 0);
    ck_assert(kv_pager_view_valid(&again));
    kv_pager_unpin(pager, &page);
    scene_free(scene);
}
END_TEST

START_TEST(missing_pages_are_read_with_one_submission)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_LZ4);
    struct kv_page_view view;
    uint64_t wanted[50];
    make_pages(scene, 600);
    checkpoint(scene);
    crash(scene);
    for (size_t i = 0; i < 50; i++)
        wanted[i] = scene->ids[i * 12];
    wanted[49] = wanted[3]; /* twice is once */
    wanted[48] = 99999;     /* there is none */
    ck_assert_int_eq(try_read(scene, 0), 0);
    ck_assert_int_eq(try_read(scene, 12), 0);
    struct kv_disk_ptr ptr; /* the map's blocks are not what is counted here */
    for (size_t page = 0; page < 600; page++)
        KV_ASSERT(kv_pagemap_get(scene->pages.map, scene->ids[page], &ptr) == 0);

    scene->watched.read_submissions = scene->watched.read_requests = 0;
    kv_pager_prefetch(scene->pages.pager, wanted, 50);
    ck_assert_uint_eq(scene->watched.read_submissions, 1);
    ck_assert_uint_eq(scene->watched.read_requests, 46);
    for (size_t i = 0; i < 50; i++)
        ck_assert_int_eq(kv_pager_view_resident(scene->pages.pager, wanted[i], &view), i != 48);
    expect_all(scene);
    scene_free(scene);
}
END_TEST

START_TEST(asking_for_more_pages_than_there_are_frames_does_not_hang)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    make_pages(scene, 2000);
    kv_pager_prefetch(scene->pages.pager, scene->ids, 2000);
    expect_all(scene);
    scene_free(scene);
}
END_TEST

/* ---- damage, failures -------------------------------------------------------- */

START_TEST(a_damaged_page_is_said_and_the_others_can_be_read)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
    struct kv_disk_ptr ptr;
    make_pages(scene, 100);
    checkpoint(scene);
    crash(scene);
    ck_assert_int_eq(kv_pagemap_get(scene->pages.map, scene->ids[5], &ptr), 0);
    uint8_t *const block = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_int_eq(kv_device_read(&scene->watched.base, kv_le64_get(ptr.block), 1, block), 0);
    block[1000] ^= 4;
    ck_assert_int_eq(kv_device_write(&scene->watched.base, kv_le64_get(ptr.block), 1, block), 0);
    free(block);
    for (size_t page = 0; page < 100; page++)
        ck_assert_int_eq(try_read(scene, page), page == 5 ? -EBADMSG : 0);
    ck_assert_int_eq(try_change(scene, 5), -EBADMSG);
    ck_assert_uint_eq(scene->pages.damage_count, 2);
    ck_assert_int_eq(scene->pages.failure, 0);

    /* So is one of two pages that were exchanged: the digest knows which page it is. */
    ck_assert_int_eq(kv_pagemap_get(scene->pages.map, scene->ids[6], &ptr), 0);
    test_pages_reopen(&scene->pages);
    ck_assert_int_eq(kv_pagemap_set(scene->pages.map, scene->pages.epoch, scene->ids[7], &ptr), 0);
    ck_assert_int_eq(try_read(scene, 7), -EBADMSG);
    scene_free(scene);
}
END_TEST

START_TEST(a_read_that_fails_can_be_tried_again)
{
    struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_LZ4);
    make_pages(scene, 300);
    checkpoint(scene);
    crash(scene);
    ck_assert_int_eq(try_read(scene, 299), 0); /* the map block is in memory now */
    faulty_arm(scene->faulty,
               (struct fault){.targets = FAULT_READS, .lasting = true, .error = -EIO});
    ck_assert_int_eq(try_read(scene, 1), -EIO);
    ck_assert_int_eq(try_change(scene, 2), -EIO);
    kv_pager_prefetch(scene->pages.pager, scene->ids, 20);
    faulty_arm(scene->faulty, (struct fault){0});
    expect_all(scene);
    scene_free(scene);
}
END_TEST

/*
 * Writes fail from the nth on: whatever was in memory stays true, nobody hangs, and what can be
 * had is read on.
 */
START_TEST(after_a_failed_write_memory_stays_as_it_was)
{
    for (uint64_t after = 0; after < 12; after++) {
        struct scene *const scene = scene_new(NODE_BYTES, BUDGET_BYTES, KV_CODEC_NONE);
        make_pages(scene, 800);
        checkpoint(scene);
        faulty_arm(scene->faulty,
                   (struct fault){
                       .targets = FAULT_WRITES, .after = after, .lasting = true, .error = -EIO});
        int err = 0;
        for (unsigned i = 0; !err && i < 3000; i++) {
            const size_t page = test_random_below(&scene->random, 1600);
            const uint64_t version = scene->versions[page];
            err = scene->ids[page] ? try_change(scene, page) : try_new(scene, page);
            if (err)
                scene->versions[page] = version;
            if (!err && i % 500 == 499) /* now and then in a checkpoint, with shadows */
                err = test_pages_write(&scene->pages, test_pages_close_epoch(&scene->pages));
        }
        ck_assert_int_eq(err, -EIO);
        ck_assert_uint_eq(scene->watched.under_way, 0);
        faulty_arm(scene->faulty, (struct fault){0});
        expect_all(scene);
        scene_free(scene);
    }
}
END_TEST

/* The writer waits for a shadow or a frame while the checkpoint fails. */
START_TEST(a_failing_checkpoint_sets_waiting_writers_free)
{
    for (unsigned round = 0; round < 20; round++) {
        struct scene *const scene = scene_new(16384, 8u << 20, KV_CODEC_NONE);
        pthread_t thread;
        make_pages(scene, 300);
        scene->watched.on_write = be_slow;
        struct slow slow = {.scene = scene, .epoch = test_pages_close_epoch(&scene->pages)};
        faulty_arm(scene->faulty, (struct fault){.targets = FAULT_WRITES,
                                                 .after = test_random_below(&scene->random, 4),
                                                 .lasting = true,
                                                 .error = -EIO});
        ck_assert_int_eq(pthread_create(&thread, NULL, write_epoch, &slow), 0);
        int err = 0;
        for (size_t page = 0; !err && page < 300; page++)
            err = try_change(scene, page);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_int_eq(slow.err, -EIO);
        ck_assert_uint_eq(scene->watched.under_way, 0);
        ck_assert_int_eq(scene->pages.failure, -EIO);
        scene_free(scene);
    }
}
END_TEST

static Suite *pager_suite(void)
{
    Suite *const suite = suite_create("pager");
    TCase *const pager = tcase_create("pager");
    tcase_set_timeout(pager, 300);
    tcase_add_loop_test(pager, ten_times_the_memory_goes_through_the_budget, 0, 3);
    tcase_add_test(pager, some_frames_always_stay_clean);
    tcase_add_test(pager, a_writer_whose_pages_are_cleaned_in_time_writes_none_itself);
    tcase_add_test(pager, a_reader_whose_way_is_cleaned_in_time_writes_nothing);
    tcase_add_test(pager, cleaning_is_asked_for_once_until_it_was_done);
    tcase_add_test(pager, a_scan_leaves_the_pages_that_are_used_in_memory);
    tcase_add_test(pager, a_writer_that_is_ahead_waits_for_the_checkpoint);
    tcase_add_test(pager, who_helps_writes_as_much_of_the_closing_epoch_as_is_asked);
    tcase_add_test(pager, a_checkpoint_of_many_pages_by_two_threads_is_whole);
    tcase_add_loop_test(pager, a_checkpoint_packs_pages_while_those_before_are_on_their_way, 0, 2);
    tcase_add_test(pager, a_page_can_be_freed_in_every_state);
    tcase_add_test(pager, what_no_page_has_is_stale);
    tcase_add_test(pager, a_view_ends_with_the_next_change_of_its_page);
    tcase_add_test(pager, missing_pages_are_read_with_one_submission);
    tcase_add_test(pager, asking_for_more_pages_than_there_are_frames_does_not_hang);
    tcase_add_test(pager, a_damaged_page_is_said_and_the_others_can_be_read);
    tcase_add_test(pager, a_read_that_fails_can_be_tried_again);
    tcase_add_test(pager, after_a_failed_write_memory_stays_as_it_was);
    tcase_add_test(pager, a_failing_checkpoint_sets_waiting_writers_free);
    suite_add_tcase(suite, pager);

    TCase *const alone = tcase_create("pager, one thread");
    tcase_set_tags(alone, TEST_ONE_THREAD);
    tcase_set_timeout(alone, 300);
    tcase_add_test(alone, changing_pages_often_in_one_epoch_takes_the_space_of_once);
    tcase_add_loop_test(alone, a_checkpoint_writes_pages_as_they_were_at_the_gate, 0, 2);
    suite_add_tcase(suite, alone);
    return suite;
}

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    printf("seed: %" PRIu64 " (KVFS_SEED)\n", seed_start);
    return test_run(pager_suite());
}
