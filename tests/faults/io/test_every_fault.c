/*
 * tests/faults/io/test_every_fault.c: opening, reading, changing, checking, mending, salvaging,
 * scrubbing and making an image: each once for each request to the device and for each allocation
 * that it makes, which fails, alone or with all that follow.
 *
 *    test_every_fault [SUBJECT]
 *
 * Whatever fails: what was asked for is done, or an error says why not; nothing wrong is ever
 * read; and afterwards, when nothing fails any more, the image is sound and holds what it held
 * before, or (where something was changed) all of what it was to hold. A repair that was cut
 * short so is made anew, and ends as one that was not.
 *
 * Environment: KVFS_POINTS how many points of each series to try, evenly spread (0: all).
 */
#include "little_content.h"
#include "little_image.h"
#include "memory_faults.h"

#include "../../kv/support_store.h"
#include "kv/check_walk.h"
#include "kv/superblock.h"

#include <errno.h>
#include <inttypes.h>

#define FAULT_MEMORY LITTLE_TARGETS /* beside those of enum little_target */
#define FAULT_KINDS  (LITTLE_TARGETS + 1)
static const char *const kind_names[FAULT_KINDS] = {"read", "write", "flush", "room", "memory"};

/* What is tried, and what must hold of the image before it and after it. */
struct subject {
    const char *name;
    void (*prepare)(struct kv_device *device);
    /* Opens the device, does what there is to do, closes it. */
    int (*act)(struct kv_device *device);
    bool repairs; /* the image is damaged: who looks at it must mend it first */
    bool changes; /* what it holds afterwards is something else */
};

static struct {
    const struct subject *subject;
    const char *kind;
    uint64_t point;
    bool lasting;
    uint64_t findings; /* of a check or a scrub in the act */
} now;

static void require(bool holds, const char *what, int err)
{
    if (holds)
        return;
    memory_fault_end();
    (void)fprintf(stderr, "test_every_fault: %s: %s %s %" PRIu64 ": %s: %s\n", now.subject->name,
                  now.kind, now.lasting ? "lasting" : "once", now.point, what, strerror(-err));
    abort();
}

/* ---- opening, mending, closing -------------------------------------------------------- */

static void note_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    (void)context;
    if (test_env("KVFS_VERBOSE", 0))
        printf("  %d %s: %s\n", (int)severity, what, text);
    now.findings += severity != KV_CHECK_NOTE;
}

static int open_on(struct kv_device *device, bool repair, bool read_only, struct kv_store **store)
{
    const struct kv_open_options options = {.device = device,
                                            .memory_budget_bytes = 8u << 20,
                                            .blob_percent = 20,
                                            .retain_percent = 20,
                                            .no_background = true,
                                            .log = test_log_nothing,
                                            .repair = repair,
                                            .report = repair ? note_finding : NULL,
                                            .read_only = read_only};
    return kv_open("little", &options, store, NULL);
}

static int check(struct kv_store *store, bool repair)
{
    struct kv_check_result result;
    const struct kv_check_options options = {
        .read_blobs = true, .repair = repair, .estimate = !repair, .report = note_finding};
    return kv_check(store, &options, &result);
}

static struct kv_store *must_open(struct kv_device *device, bool repair)
{
    struct kv_store *store = NULL;
    const int err = open_on(device, repair, false, &store);
    require(err == 0, "it can not be opened", err);
    return store;
}

static void must_close(struct kv_store *store)
{
    const int err = kv_close(store);
    require(err == 0, "it can not be closed", err);
}

/* ---- images to begin with ------------------------------------------------------------- */

static void prepare_full(struct kv_device *device)
{
    test_create_on(device, 4096, KV_CODEC_LZ4, 1u << 20);
    struct kv_store *const store = must_open(device, false);
    little_fill(store);
    must_close(store);
}

static void prepare_crashed(struct kv_device *device)
{
    prepare_full(device);
    struct kv_store *const store = must_open(device, false);
    little_log(store);
    kv_abandon(store);
}

static void flip(struct kv_device *device, uint64_t block, size_t offset)
{
    static _Alignas(4096) uint8_t bytes[KV_BLOCK_BYTES];
    int err = kv_device_read(device, block, 1, bytes);
    bytes[offset] ^= 0x10;
    if (!err)
        err = kv_device_write(device, block, 1, bytes);
    require(err == 0, "harm", err);
}

/* Where pages and map blocks lie. */
struct places {
    uint64_t pages[512], maps[64];
    size_t page_count, map_count;
};

static int note_place(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                      int error)
{
    struct places *const places = context;
    (void)index;
    require(error == 0, "a map block", error);
    if (level < 0 && places->page_count < 512)
        places->pages[places->page_count++] = kv_le64_get(ptr->block);
    if (level >= 0 && places->map_count < 64)
        places->maps[places->map_count++] = kv_le64_get(ptr->block);
    return 0;
}

static struct places find_places(struct kv_device *device)
{
    struct places places = {.page_count = 0};
    struct kv_store *const store = must_open(device, false);
    const int err = kv_pagemap_walk(store->map, note_place, &places);
    require(err == 0, "the walk over the map", err);
    kv_abandon(store);
    return places;
}

static struct kv_disk_superblock superblock_of(struct kv_device *device)
{
    struct kv_disk_superblock superblock;
    enum kv_superblock_twin twin;
    const int err = kv_superblock_read(device, "little", false, &superblock, &twin, NULL);
    require(err == 0, "the superblock", err);
    return superblock;
}

/* Inner pages and leaves are damaged, and a copy of the superblock. */
static void prepare_damaged(struct kv_device *device)
{
    prepare_full(device);
    const struct places places = find_places(device);
    for (size_t i = 0; i < places.page_count; i += 3)
        flip(device, places.pages[i], 100);
    flip(device, KV_SUPERBLOCK_B_BLOCK, 70);
}

/* A map block is damaged: nothing tells where its pages are but they themselves. */
static void prepare_unmapped(struct kv_device *device)
{
    prepare_full(device);
    const struct places places = find_places(device);
    flip(device, places.maps[places.map_count - 1], 100);
}

/* Nothing tells which block is whose, and there is a log to be replayed. */
static void prepare_unmarked(struct kv_device *device)
{
    prepare_crashed(device);
    const uint64_t first = kv_le64_get(superblock_of(device).group_first_block);
    flip(device, first + 1, 300);
    flip(device, first + KV_GROUP_COPY_BLOCKS + 1, 300);
}

/* Both superblocks are lost, and the backup is of an earlier time. */
static void prepare_headless(struct kv_device *device)
{
    prepare_full(device);
    struct kv_store *const store = must_open(device, false);
    int err = little_change(store, 0);
    for (unsigned i = 0; i < 3 && !err; i++)
        err = kv_checkpoint(store);
    require(err == 0, "a later state", err);
    kv_abandon(store);
    flip(device, KV_SUPERBLOCK_A_BLOCK, 70);
    flip(device, KV_SUPERBLOCK_B_BLOCK, 70);
}

/* ---- what is done with them ------------------------------------------------------------ */

static int close_after(struct kv_store *store, int err)
{
    const int close_err = kv_close(store);
    return err ? err : close_err;
}

static int act_create(struct kv_device *device)
{
    const struct kv_create_options options = {
        .node_bytes = 4096, .log_bytes = 1u << 20, .force = true, .label = "little"};
    return kv_create_on_device(device, &options, NULL);
}

static int act_open(struct kv_device *device)
{
    struct kv_store *store;
    struct little_sum sum;
    const int err = open_on(device, false, false, &store);
    return err ? err : close_after(store, little_read(store, &sum));
}

static int act_open_read_only(struct kv_device *device)
{
    struct kv_store *store;
    const int err = open_on(device, false, true, &store);
    return err ? err : close_after(store, little_read_about(store));
}

static int act_read(struct kv_device *device)
{
    struct kv_store *store;
    const int err = open_on(device, false, false, &store);
    return err ? err : close_after(store, little_read_about(store));
}

static int act_change(struct kv_device *device)
{
    struct kv_store *store;
    int err = open_on(device, false, false, &store);
    if (err)
        return err;
    err = little_change(store, KV_APPLY_SYNC);
    if (!err)
        err = kv_checkpoint(store);
    return close_after(store, err);
}

static int act_check(struct kv_device *device)
{
    struct kv_store *store;
    const int err = open_on(device, false, false, &store);
    return err ? err : close_after(store, check(store, false));
}

static int act_estimate(struct kv_device *device)
{
    struct kv_store *store;
    const int err = open_on(device, true, true, &store);
    return err ? err : close_after(store, check(store, false));
}

static int act_repair(struct kv_device *device)
{
    struct kv_store *store;
    const int err = open_on(device, true, false, &store);
    return err ? err : close_after(store, check(store, true));
}

static void note_scrubbed(void *context, const struct kv_scrub_finding *finding)
{
    (void)context;
    (void)finding;
    now.findings++;
}

static int act_scrub(struct kv_device *device)
{
    struct kv_store *store;
    struct kv_scrub_result result;
    const struct kv_scrub_options options = {.report = note_scrubbed};
    const int err = open_on(device, false, false, &store);
    return err ? err : close_after(store, kv_scrub(store, &options, &result));
}

static const struct subject subjects[] = {
    {.name = "create", .prepare = prepare_full, .act = act_create, .changes = true},
    {.name = "open", .prepare = prepare_crashed, .act = act_open},
    {.name = "open read-only", .prepare = prepare_crashed, .act = act_open_read_only},
    {.name = "read", .prepare = prepare_full, .act = act_read},
    {.name = "change", .prepare = prepare_full, .act = act_change, .changes = true},
    {.name = "check", .prepare = prepare_crashed, .act = act_check},
    {.name = "scrub", .prepare = prepare_full, .act = act_scrub},
    {.name = "estimate", .prepare = prepare_damaged, .act = act_estimate, .repairs = true},
    {.name = "repair pages", .prepare = prepare_damaged, .act = act_repair, .repairs = true},
    {.name = "repair map", .prepare = prepare_unmapped, .act = act_repair, .repairs = true},
    {.name = "repair bitmaps", .prepare = prepare_unmarked, .act = act_repair, .repairs = true},
    {.name = "repair from leaves", .prepare = prepare_headless, .act = act_repair, .repairs = true},
};

/* ---- looking ---------------------------------------------------------------------------- */

/* What a sound image holds, and that it is sound. */
static struct little_sum look(struct kv_device *device)
{
    struct kv_check_result result;
    struct little_sum sum;
    if (now.subject->repairs) {
        struct kv_store *const mending = must_open(device, true);
        const int err = check(mending, true);
        require(err == 0, "it can not be mended", err);
        must_close(mending);
    }
    struct kv_store *const store = must_open(device, false);
    require(test_check(store, &result) == 0, "it is not sound", 0);
    const int err = little_read(store, &sum);
    require(err == 0, "it can not be read", err);
    must_close(store);
    return sum;
}

/* An image that was not finished is none, or sound and as empty as it should be. */
static bool is_unmade(struct kv_device *device)
{
    struct kv_store *store;
    const int err = open_on(device, false, false, &store);
    if (!err)
        must_close(store);
    return err != 0 && now.subject->act == act_create;
}

/* ---- points --------------------------------------------------------------------------- */

struct sums {
    struct little_sum before, after; /* of a subject that nothing fails in */
    uint64_t findings;
};

struct counts {
    uint64_t points, struck, refused;
};

static bool may_say(unsigned kind, int err)
{
    switch (kind) {
    case FAULT_MEMORY:
        return err == -ENOMEM || err == -EIO; /* who has changed half of something has failed */
    case LITTLE_ROOM:
        return err == -ENOSPC;
    default:
        return err == -EIO || err == -EROFS;
    }
}

/* Returns whether the fault struck. */
static bool try_point(struct little_image *image, unsigned kind, const struct sums *sums,
                      struct counts *counts)
{
    struct kv_device *const device = little_device(image);
    uint64_t seen, struck;
    little_reset(image);
    now.findings = 0;
    if (kind == FAULT_MEMORY)
        memory_fault_order(now.point, now.lasting);
    else
        little_fail(image, (enum little_target)kind, now.point, now.lasting);
    const int err = now.subject->act(device);
    memory_fault_end();
    struck = little_heal(image, &seen);
    if (kind == FAULT_MEMORY)
        struck = memory_fault_hits();
    const uint64_t findings = now.findings;
    require(!err || may_say(kind, err), "an error that nobody can expect", err);
    require(err || findings >= sums->findings, "damage was not seen", 0);
    require(err || kind == LITTLE_READS || findings == sums->findings, "findings that are none", 0);
    counts->points++;
    counts->struck += struck > 0;
    counts->refused += err != 0;
    if (err && is_unmade(device))
        return struck > 0;
    const struct little_sum found = look(device);
    const bool is_after = found.sum == sums->after.sum && found.keys == sums->after.keys;
    const bool is_before = found.sum == sums->before.sum && found.keys == sums->before.keys;
    /* What can not be read while it is mended is given up. */
    const bool gave_up = now.subject->repairs && kind == LITTLE_READS && !err;
    require(is_after || gave_up || (now.subject->changes && is_before && err),
            "it holds something else", 0);
    return struck > 0;
}

static uint64_t measure(struct little_image *image, unsigned kind)
{
    uint64_t seen;
    little_reset(image);
    if (kind == FAULT_MEMORY)
        memory_fault_order(UINT64_MAX, false);
    else
        little_fail(image, (enum little_target)kind, UINT64_MAX, false);
    const int err = now.subject->act(little_device(image));
    memory_fault_end();
    (void)little_heal(image, &seen);
    require(err == 0, "it fails by itself", err);
    return kind == FAULT_MEMORY ? memory_fault_seen() : seen;
}

static void try_series(struct little_image *image, unsigned kind, const struct sums *sums,
                       struct counts *counts)
{
    const uint64_t total = measure(image, kind);
    const uint64_t wanted = test_env("KVFS_POINTS", 60);
    const uint64_t step = wanted && wanted < total ? (total + wanted - 1) / wanted : 1;
    now.kind = kind_names[kind];
    for (unsigned lasting = 0; lasting < 2; lasting++)
        for (uint64_t point = lasting ? step / 2 : 0; point < total; point += step) {
            now.point = point;
            now.lasting = lasting;
            (void)try_point(image, kind, sums, counts);
        }
    printf("  %s: %" PRIu64 " requests\n", kind_names[kind], total);
}

static void try_subject(const struct subject *subject, struct counts *counts)
{
    struct little_image *const image = little_new();
    struct kv_device *const device = little_device(image);
    struct sums sums = {.findings = 0};
    now.subject = subject;
    now.kind = "nothing";
    subject->prepare(device);
    little_keep(image);
    printf("%s\n", subject->name);
    if (!subject->repairs)
        sums.before = look(device);
    little_reset(image);
    now.findings = 0;
    const int err = subject->act(device);
    require(err == 0, "it fails by itself", err);
    sums.findings = now.findings;
    sums.after = look(device);
    for (unsigned kind = 0; kind < FAULT_KINDS; kind++)
        try_series(image, kind, &sums, counts);
    little_free(image);
}

int main(int argc, char **argv)
{
    struct counts counts = {.points = 0};
    for (size_t i = 0; i < sizeof subjects / sizeof subjects[0]; i++)
        if (argc < 2 || strcmp(argv[1], subjects[i].name) == 0)
            try_subject(&subjects[i], &counts);
    printf("%" PRIu64 " points tried, %" PRIu64 " struck, %" PRIu64 " refused; nothing was lost\n",
           counts.points, counts.struck, counts.refused);
    return counts.struck ? 0 : 1;
}
