/*
 * tests/kv/test_scrub.c: kv/scrub.c names what is damaged, and nothing else, whatever else the
 * store is doing.
 */
#include "kv/check_walk.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <pthread.h>
#include <sched.h>

#define BLOCK_COUNT 4096u /* 16 MiB */
#define BLOB_BYTES  9000u

struct findings {
    unsigned count;
    char what[32]; /* of the last one */
    char key[64];
    struct kv_scrub_result result;
};

static void note_finding(void *context, const struct kv_scrub_finding *finding)
{
    struct findings *const findings = context;
    if (test_env("KVFS_VERBOSE", 0))
        printf("  %s: %s\n", finding->what, finding->text);
    findings->count++;
    snprintf(findings->what, sizeof findings->what, "%s", finding->what);
    if (finding->key)
        snprintf(findings->key, sizeof findings->key, "%.*s", (int)finding->key_len,
                 (const char *)finding->key);
}

static int scrub(struct kv_store *store, struct findings *findings)
{
    const struct kv_scrub_options options = {.report = note_finding, .context = findings};
    memset(findings, 0, sizeof *findings);
    const int err = kv_scrub(store, &options, &findings->result);
    ck_assert_uint_eq(findings->count, findings->result.findings);
    return err;
}

/* ---- the store ----------------------------------------------------------------------- */

struct scene {
    struct kv_device *device;
    struct faulty *faulty; /* outlives a store on it */
    struct kv_store *store;
};

static void put_blob(struct kv_store *store, const char *key, uint64_t identity)
{
    uint8_t bytes[BLOB_BYTES];
    struct kv_blob_ref ref;
    size_t written;
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    test_fill(bytes, sizeof bytes, identity);
    int err = kv_blob_write(store, bytes, sizeof bytes, NULL, &ref, &written);
    ck_assert_int_eq(err, 0);
    ck_assert_int_eq(kv_batch_put_blob(batch, key, strlen(key), "head", 4, &ref, KV_BLOB_NEW), 0);
    err = kv_apply(store, batch, 0, NULL);
    ck_assert_int_eq(err, 0);
    kv_batch_free(batch);
}

/* Some levels of pages and of the page map, some blobs, and a log that is not empty. */
static struct scene make_scene(void)
{
    struct scene scene = {.faulty = faulty_new(memory_device_new(BLOCK_COUNT))};
    scene.device = faulty_device(scene.faulty);
    test_create_on(scene.device, 4096, KV_CODEC_LZ4, 1u << 20);
    scene.store = test_open_on(scene.device);
    for (uint64_t i = 0; i < 4000; i++)
        ck_assert_int_eq(test_put_number(scene.store, i, 100), 0);
    for (unsigned i = 0; i < 20; i++) {
        char key[24];
        snprintf(key, sizeof key, "blob %02u", i);
        put_blob(scene.store, key, i);
    }
    ck_assert_int_eq(kv_checkpoint(scene.store), 0);
    for (uint64_t i = 0; i < 200; i++)
        ck_assert_int_eq(test_put_number(scene.store, i, 120), 0);
    ck_assert_int_eq(kv_sync(scene.store), 0);
    return scene;
}

static void free_scene(struct scene *scene)
{
    if (scene->store)
        kv_abandon(scene->store);
    faulty_free(scene->faulty);
}

static void flip(struct scene *scene, uint64_t block, size_t offset)
{
    uint8_t *const bytes = kv_device_alloc(KV_BLOCK_BYTES);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_int_eq(kv_device_read(scene->device, block, 1, bytes), 0);
    bytes[offset] ^= 4;
    ck_assert_int_eq(kv_device_write(scene->device, block, 1, bytes), 0);
    free(bytes);
}

/* Damage is found under its word, once, and nothing is found when it is gone again. */
static void expect_found(struct scene *scene, uint64_t block, size_t offset, const char *what)
{
    struct findings findings;
    flip(scene, block, offset);
    ck_assert_int_eq(scrub(scene->store, &findings), 0);
    ck_assert_msg(findings.count == 1, "%u findings for %s, the last %s", findings.count, what,
                  findings.what);
    ck_assert_str_eq(findings.what, what);
    flip(scene, block, offset);
    ck_assert_int_eq(scrub(scene->store, &findings), 0);
    ck_assert_uint_eq(findings.count, 0);
}

/* ---- tests --------------------------------------------------------------------------- */

START_TEST(a_sound_store_has_no_findings_and_is_read_as_a_whole)
{
    struct scene scene = make_scene();
    struct findings findings;
    struct kv_stats stats;
    ck_assert_int_eq(scrub(scene.store, &findings), 0);
    ck_assert_uint_eq(findings.count, 0);
    kv_store_stats(scene.store, &stats);
    ck_assert_uint_ge(findings.result.pages, stats.page_count);
    ck_assert_uint_ge(findings.result.blobs, 20);
    ck_assert_uint_ge(findings.result.map_blocks, 3);
    ck_assert_uint_gt(findings.result.log_blocks, 0);
    ck_assert_uint_eq(stats.scrubs, 1);
    ck_assert_uint_eq(stats.scrub_bytes, findings.result.bytes);
    ck_assert_uint_eq(stats.scrub_findings, 0);
    ck_assert_uint_gt(stats.scrub_finished_ns, 0);
    free_scene(&scene);
}
END_TEST

START_TEST(superblocks_bitmaps_and_log_are_read)
{
    struct scene scene = make_scene();
    const struct kv_disk_superblock *const sb = &scene.store->checkpoint.superblock;
    struct kv_wal_stats wal;
    kv_wal_stats(scene.store->wal, &wal);
    ck_assert_uint_gt(wal.used_blocks, 4);
    const uint64_t log = kv_le64_get(sb->log_first_block);
    const uint64_t tail = kv_le64_get(sb->log_tail) % kv_le64_get(sb->log_block_count);
    struct findings findings;
    expect_found(&scene, log + tail + 1, 3000, "log-damaged"); /* after this it is empty */
    expect_found(&scene, KV_SUPERBLOCK_A_BLOCK, 200, "superblock-copy");
    expect_found(&scene, KV_SUPERBLOCK_B_BLOCK, 4095, "superblock-copy");
    expect_found(&scene, BLOCK_COUNT - 1, 50, "superblock-copy");

    /* One of the two copies of the bitmap counts, the other may be anything. */
    const uint64_t group = kv_le64_get(sb->group_first_block);
    unsigned found = 0;
    for (unsigned copy = 0; copy < 2; copy++) {
        flip(&scene, group + copy * KV_GROUP_COPY_BLOCKS + 1, 7);
        ck_assert_int_eq(scrub(scene.store, &findings), 0);
        found += findings.count;
        flip(&scene, group + copy * KV_GROUP_COPY_BLOCKS + 1, 7);
    }
    ck_assert_uint_eq(found, 1);
    free_scene(&scene);
}
END_TEST

struct places {
    uint64_t map[2], page, page_id;
};

static int note_place(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                      int error)
{
    struct places *const places = context;
    ck_assert_int_eq(error, 0);
    if (level >= 0)
        places->map[level > 0] = kv_le64_get(ptr->block);
    else if (index == 50)
        places->page = kv_le64_get(ptr->block);
    return 0;
}

START_TEST(map_blocks_pages_and_blobs_are_read_and_a_blobs_key_is_named)
{
    struct scene scene = make_scene();
    struct places places = {.page = 0};
    ck_assert_int_eq(kv_checkpoint(scene.store), 0);
    ck_assert_int_eq(kv_pagemap_walk(scene.store->map, note_place, &places), 0);
    ck_assert_uint_ne(places.map[1], 0);
    ck_assert_uint_ne(places.page, 0);
    expect_found(&scene, places.map[0], 100, "map-damaged");
    expect_found(&scene, places.map[1], 100, "map-damaged");
    expect_found(&scene, places.page, 100, "page-damaged");

    uint8_t value[64];
    size_t length;
    struct kv_blob_ref ref;
    struct findings findings;
    ck_assert_int_eq(kv_get(scene.store, "blob 07", 7, value, sizeof value, &length), 0);
    memcpy(&ref, value + 4, sizeof ref);
    uint64_t block;
    uint32_t block_count;
    ck_assert_int_eq(kv_blobs_extent(&scene.store->blobs, &ref, &block, &block_count), 0);
    flip(&scene, block, 0);
    ck_assert_int_eq(scrub(scene.store, &findings), 0);
    ck_assert_uint_eq(findings.count, 1);
    ck_assert_str_eq(findings.what, "blob-damaged");
    ck_assert_str_eq(findings.key, "blob 07");
    free_scene(&scene);
}
END_TEST

struct lines {
    unsigned count;
    char last[512];
};

static void keep_line(void *context, enum kv_log_level level, const char *line)
{
    struct lines *const lines = context;
    if (level != KV_LOG_ERROR)
        return;
    lines->count++;
    snprintf(lines->last, sizeof lines->last, "%s", line);
}

/* The only blob of a store is damaged; its key is whatever it is. */
static void expect_line(const char *key, size_t key_len, const char *words)
{
    struct recorder *const recorder = recorder_new(memory_device_new(BLOCK_COUNT));
    struct kv_device *const device = recorder_device(recorder);
    struct lines lines = {.count = 0};
    const struct kv_open_options options = {.memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .log = keep_line,
                                            .log_context = &lines,
                                            .device = device};
    struct scene scene = {.device = device};
    struct kv_scrub_result result;
    struct kv_blob_ref ref;
    uint8_t value[64];
    size_t length;
    uint64_t block;
    uint32_t block_count;
    char copy[200];
    ck_assert_uint_lt(key_len, sizeof copy);
    memcpy(copy, key, key_len);
    copy[key_len] = '\0';
    test_create_on(device, 4096, KV_CODEC_LZ4, 1u << 20);
    ck_assert_int_eq(kv_open("image", &options, &scene.store, NULL), 0);
    put_blob(scene.store, copy, 5);
    ck_assert_int_eq(kv_checkpoint(scene.store), 0);
    ck_assert_int_eq(kv_get(scene.store, copy, key_len, value, sizeof value, &length), 0);
    memcpy(&ref, value + 4, sizeof ref);
    ck_assert_int_eq(kv_blobs_extent(&scene.store->blobs, &ref, &block, &block_count), 0);
    flip(&scene, block, 0);

    ck_assert_int_eq(kv_scrub(scene.store, NULL, &result), 0);
    ck_assert_uint_eq(result.findings, 1);
    ck_assert_uint_eq(lines.count, 1);
    ck_assert_ptr_nonnull(strstr(lines.last, "scrub: blob-damaged: "));
    ck_assert_msg(strstr(lines.last, words) != NULL, "'%s' does not say '%s'", lines.last, words);
    kv_abandon(scene.store);
    recorder_free(recorder);
}

START_TEST(what_nobody_is_told_goes_to_the_log_with_a_key_that_can_be_read)
{
    char long_key[150];
    memset(long_key, 'k', sizeof long_key);
    expect_line("blob", 4, "blob");
    expect_line("a b\\\x7f\xff", 6, "a\\x20b\\x5c\\x7f\\xff");
    expect_line(long_key, sizeof long_key, "kkk...");
}
END_TEST

/* Of a device that can not be read, too: it is found, not failed on. */
START_TEST(a_page_that_can_not_be_read_is_a_finding)
{
    struct scene scene = make_scene();
    struct findings findings;
    unsigned found = 0;
    for (uint64_t after = 0; after < 400; after += 7) {
        faulty_arm(scene.faulty,
                   (struct fault){.targets = FAULT_READS, .after = after, .error = -EIO});
        ck_assert_int_eq(scrub(scene.store, &findings), 0);
        ck_assert_uint_le(findings.count, 2);
        found += findings.count;
    }
    /* One failure is no finding where it is read again to be sure: of pages and blobs. */
    ck_assert_uint_lt(found, 40);
    faulty_arm(
        scene.faulty,
        (struct fault){.targets = FAULT_READS, .after = 100, .error = -EIO, .lasting = true});
    ck_assert_int_eq(scrub(scene.store, &findings), 0);
    ck_assert_uint_gt(findings.count, 10);
    faulty_arm(scene.faulty, (struct fault){.targets = 0});
    free_scene(&scene);
}
END_TEST

struct limit {
    uint64_t calls, most;
};

static bool stop_after(void *context, uint64_t done, uint64_t total)
{
    struct limit *const limit = context;
    ck_assert_uint_le(done, total);
    return ++limit->calls < limit->most;
}

START_TEST(progress_ends_a_scrub_also_while_it_pauses)
{
    struct scene scene = make_scene();
    struct limit limit = {.most = 10};
    struct kv_scrub_options options = {.progress = stop_after, .context = &limit};
    struct kv_scrub_result result;
    ck_assert_int_eq(kv_scrub(scene.store, &options, &result), -ECANCELED);
    ck_assert_uint_eq(limit.calls, 10);
    /* At a byte a second the first pause would take hours. */
    limit = (struct limit){.most = 5};
    options.bytes_per_second = 1;
    ck_assert_int_eq(kv_scrub(scene.store, &options, &result), -ECANCELED);
    ck_assert_uint_eq(limit.calls, 5);
    struct kv_stats stats;
    kv_store_stats(scene.store, &stats);
    ck_assert_uint_eq(stats.scrubs, 0);
    free_scene(&scene);
}
END_TEST

static bool scrub_inside(void *context, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    struct kv_scrub_result result;
    ck_assert_int_eq(kv_scrub(context, NULL, &result), -EBUSY);
    return true;
}

START_TEST(one_scrub_at_a_time)
{
    struct scene scene = make_scene();
    const struct kv_scrub_options options = {.progress = scrub_inside, .context = scene.store};
    struct kv_scrub_result result;
    ck_assert_int_eq(kv_scrub(scene.store, &options, &result), 0);
    ck_assert_int_eq(kv_scrub(scene.store, NULL, &result), 0);
    free_scene(&scene);
}
END_TEST

/* ---- beside writers ------------------------------------------------------------------ */

struct traffic {
    struct kv_store *store;
    uint64_t seed;
    atomic_bool stop;
    atomic_uint batches;
};

/* Put, overwrite and delete small values, large ones and blobs, so that everything moves. */
static void *run_traffic(void *context)
{
    struct traffic *const traffic = context;
    struct test_random random = {.state = traffic->seed};
    while (!atomic_load_explicit(&traffic->stop, memory_order_relaxed)) {
        char key[24];
        const unsigned number = (unsigned)test_random_below(&random, 60);
        switch (test_random_below(&random, 5)) {
        case 0:
            snprintf(key, sizeof key, "blob %02u", number);
            put_blob(traffic->store, key, test_random_next(&random));
            break;
        case 1:
            snprintf(key, sizeof key, "blob %02u", number);
            ck_assert_int_eq(kv_del(traffic->store, key, strlen(key)), 0);
            break;
        case 2:
            ck_assert_int_eq(test_put_number(traffic->store, 5000 + number, 15000), 0);
            break;
        default:
            ck_assert_int_eq(test_put_number(traffic->store, test_random_below(&random, 4000),
                                             50 + test_random_below(&random, 200)),
                             0);
        }
        atomic_fetch_add_explicit(&traffic->batches, 1, memory_order_relaxed);
    }
    return NULL;
}

static void *run_checkpoints(void *context)
{
    struct traffic *const traffic = context;
    while (!atomic_load_explicit(&traffic->stop, memory_order_relaxed)) {
        ck_assert_int_eq(kv_checkpoint(traffic->store), 0);
        sched_yield();
    }
    return NULL;
}

START_TEST(beside_writers_and_checkpoints_nothing_is_found_that_is_not_there)
{
    struct scene scene = make_scene();
    struct traffic traffic = {.store = scene.store, .seed = test_env("KVFS_SEED", 1)};
    const uint64_t rounds = test_env("KVFS_ROUNDS", 30);
    pthread_t writers[2], checkpointer;
    printf("KVFS_SEED=%llu\n", (unsigned long long)traffic.seed);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&writers[i], NULL, run_traffic, &traffic), 0);
    ck_assert_int_eq(pthread_create(&checkpointer, NULL, run_checkpoints, &traffic), 0);
    struct findings findings;
    struct kv_check_result check;
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        ck_assert_int_eq(scrub(scene.store, &findings), 0);
        ck_assert_msg(findings.count == 0, "round %llu: %s", (unsigned long long)i, findings.what);
        bytes += findings.result.bytes;
    }
    atomic_store_explicit(&traffic.stop, true, memory_order_relaxed);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_join(writers[i], NULL), 0);
    ck_assert_int_eq(pthread_join(checkpointer, NULL), 0);
    printf("%llu scrubs, %llu MiB, beside %u batches: no finding\n", (unsigned long long)rounds,
           (unsigned long long)(bytes >> 20), atomic_load(&traffic.batches));
    ck_assert_uint_eq(test_check(scene.store, &check), 0);
    free_scene(&scene);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("scrub");
    TCase *const tests = tcase_create("scrub");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, a_sound_store_has_no_findings_and_is_read_as_a_whole);
    tcase_add_test(tests, superblocks_bitmaps_and_log_are_read);
    tcase_add_test(tests, map_blocks_pages_and_blobs_are_read_and_a_blobs_key_is_named);
    tcase_add_test(tests, what_nobody_is_told_goes_to_the_log_with_a_key_that_can_be_read);
    tcase_add_test(tests, a_page_that_can_not_be_read_is_a_finding);
    tcase_add_test(tests, progress_ends_a_scrub_also_while_it_pauses);
    tcase_add_test(tests, one_scrub_at_a_time);
    tcase_add_test(tests, beside_writers_and_checkpoints_nothing_is_found_that_is_not_there);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
