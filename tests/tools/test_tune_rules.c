/*
 * tests/tools/test_tune_rules.c: each rule finds what it is for, by figures alone, and nothing
 * where all is well.
 */
#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/run.h"
#include "tools/config.h"
#include "tools/tune.h"

static struct tool_figures now, before;
static struct tune_view view;
static struct tune_finding findings[TUNE_FINDINGS_MAX];

/* A mount that has done much, and to which nothing is wrong. */
static void setup(void)
{
    memset(&view, 0, sizeof view);
    now.count = before.count = 0;
    view.now = &now;
    view.has_settings = true;
    tool_config_defaults(&view.settings);
    view.image = (struct kv_image_info){.node_bytes = 16384, .codec = {KV_CODEC_LZ4, 0}};
    view.processors = 2;
}

static void put(struct tool_figures *figures, const char *path, double value)
{
    size_t i = 0;
    while (i < figures->count && strcmp(figures->rows[i].path, path) != 0)
        i++;
    if (i == figures->count)
        figures->count++;
    (void)snprintf(figures->rows[i].path, sizeof figures->rows[i].path, "%s", path);
    figures->rows[i].value = value;
}

static void well(void)
{
    static const struct {
        const char *path;
        double value;
    } rows[] = {
        {"store.page_hits", 1e6},
        {"store.page_misses", 2000},
        {"store.warm_ghost_hits", 100},
        {"store.device_read_bytes", 2000 * 16384.0},
        {"store.checkpoints", 40},
        {"store.checkpoints_asked", 1},
        {"mount.uptime_ns", 1.2e12},
        {"codecs.lz4.packed_raw_bytes", 1e9},
        {"codecs.none.packed_raw_bytes", 1e8},
        {"latency_ns.all.count", 1e5},
        {"latency_ns.all.sum", 5e9},
        {"mount.thread_waits", 300},
        {"mount.threads", 10},
        {"mount.cpu_ns", 3e9},
        {"requests.lookup", 20000},
        {"mount.names_again", 500},
        {"requests.read", 20000},
        {"mount.reads_again", 300},
        {"mount.long_reads", 5000},
        {"mount.long_read_bytes", 5000 * 131072.0},
        {"mount.long_read_pieces", 7000},
        {"store.log_waits", 3},
        {"store.memory_budget_bytes", 256 * 1048576.0},
        {"store.log_total_bytes", 64 * 1048576.0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        put(&now, rows[i].path, rows[i].value);
}

static const struct tune_finding *only(const char *name)
{
    const size_t count = tune_find(&view, findings);
    ck_assert_msg(count == 1, "%zu findings, the first is %s", count,
                  count ? findings[0].name : "none");
    ck_assert_str_eq(findings[0].name, name);
    ck_assert(findings[0].share >= 0);
    ck_assert(findings[0].share <= 1);
    ck_assert_uint_gt(findings[0].evidence_count, 0);
    ck_assert(*findings[0].text);
    ck_assert(*findings[0].setting);
    ck_assert(*findings[0].how);
    return &findings[0];
}

START_TEST(a_mount_that_is_well_has_no_findings)
{
    ck_assert_uint_eq(tune_find(&view, findings), 0); /* nor one that did nothing */
    well();
    ck_assert_uint_eq(tune_find(&view, findings), 0);
}
END_TEST

static void put_short_of_memory(void)
{
    well();
    put(&now, "store.page_misses", 1e5);
    put(&now, "store.warm_ghost_hits", 6e4);
    put(&now, "store.device_read_bytes", 1e5 * 16384.0);
}

START_TEST(memory_that_is_too_small_is_told_by_pages_that_come_back)
{
    put_short_of_memory();
    const struct tune_finding *finding = only("budget");
    ck_assert_str_eq(finding->setting, "memory_budget");
    ck_assert_str_eq(finding->present, "256M");
    ck_assert_str_eq(finding->proposed, "512M");
    /* Pages that never were there are no reason for more memory. */
    put(&now, "store.warm_ghost_hits", 1e4);
    ck_assert_uint_eq(tune_find(&view, findings), 0);
}
END_TEST

START_TEST(pages_that_pack_want_tiers_and_not_memory)
{
    put_short_of_memory();
    put(&now, "store.device_read_bytes", 1e5 * 8192.0);
    (void)only("budget"); /* the store gives them what they need by itself */
    view.settings.adapt_tiers = false;
    const struct tune_finding *finding = only("tiers");
    ck_assert_str_eq(finding->present, "12,3,0,0");
    ck_assert_str_eq(finding->proposed, "12,3,90,80");
    ck_assert_ptr_nonnull(strstr(finding->how, "cold_ratio=90"));
    /* With them it is the memory. */
    view.settings.tiers = (struct kv_tiers){.ratio = {12, 3, 90, 80}};
    put(&now, "store.frozen_ghost_hits", 6e4);
    put(&now, "store.cold_hits", 1000);
    (void)only("budget");
    /* Who may not read the settings can not be told that they are wrong. */
    view.has_settings = false;
    (void)only("budget");
}
END_TEST

START_TEST(hot_pages_without_room_are_told)
{
    put_short_of_memory();
    view.settings.tiers = (struct kv_tiers){.ratio = {1, 99, 0, 0}};
    ck_assert_str_eq(only("tiers")->proposed, "80,20,0,0");
}
END_TEST

START_TEST(frames_without_room_are_told)
{
    well();
    view.settings.tiers = (struct kv_tiers){.ratio = {4, 1, 50, 45}};
    put(&now, "store.cold_hits", 2e5);
    put(&now, "store.warm_ghost_hits", 1.9e5);
    ck_assert_str_eq(only("tiers")->proposed, "4,1,25,22");
}
END_TEST

START_TEST(a_log_that_is_too_small_makes_writers_wait)
{
    well();
    put(&now, "store.log_waits", 40);
    put(&now, "store.log_wait_ns", 1e9);
    const struct tune_finding *finding = only("log");
    ck_assert_str_eq(finding->proposed, "256 MiB");
    ck_assert_double_eq_tol(finding->share, 0.2, 1e-9);
}
END_TEST

START_TEST(checkpoints_are_told_with_who_is_the_cause)
{
    well();
    put(&now, "mount.uptime_ns", 60e9);
    put(&now, "store.checkpoints_wanted", 35);
    ck_assert_uint_eq(tune_find(&view, findings), 0); /* the log wants them */
    put(&now, "store.checkpoints_wanted", 0);
    put(&now, "store.checkpoints_asked", 38);
    ck_assert_str_eq(only("checkpoints")->setting, "who asks");
    view.settings.sync = KV_SYNC_CHECKPOINT;
    ck_assert_str_eq(only("checkpoints")->proposed, "fsync");
    put(&now, "store.checkpoints_asked", 0);
    ck_assert_str_eq(only("checkpoints")->setting, "checkpoint_interval");
    put(&now, "mount.uptime_ns", 1e12);
    ck_assert_uint_eq(tune_find(&view, findings), 0);
}
END_TEST

START_TEST(packing_in_vain_is_told_unless_nothing_is_packed)
{
    well();
    put(&now, "codecs.none.packed_raw_bytes", 9e9);
    put(&now, "histograms.pack_none_ns.sum", 1e9);
    const struct tune_finding *finding = only("codec");
    ck_assert_str_eq(finding->present, "lz4");
    ck_assert_str_eq(finding->proposed, "none");
    view.image.codec.codec = KV_CODEC_NONE;
    ck_assert_uint_eq(tune_find(&view, findings), 0);
}
END_TEST

START_TEST(threads_are_too_few_if_requests_wait_and_processors_do_not_help)
{
    well();
    put(&now, "mount.thread_waits", 5e4);
    ck_assert_uint_eq(tune_find(&view, findings), 0); /* the processors are busy */
    put(&now, "mount.cpu_ns", 1e9);
    ck_assert_str_eq(only("threads")->proposed, "20");
    put(&now, "mount.threads", 1);
    put(&now, "mount.cpu_ns", 5e9);
    ck_assert_str_eq(only("threads")->proposed, "10");
    put(&now, "mount.threads", 200);
    put(&now, "mount.cpu_ns", 1e8);
    ck_assert_str_eq(only("threads")->proposed, "256");
}
END_TEST

START_TEST(what_the_kernel_asks_again_is_told)
{
    well();
    put(&now, "mount.names_again", 15000);
    put(&now, "latency_ns.lookup.count", 20000);
    put(&now, "latency_ns.lookup.sum", 2e9);
    ck_assert_double_eq_tol(only("names")->share, 0.3, 1e-9);
    put(&now, "mount.names_again", 0);
    put(&now, "mount.reads_again", 15000);
    ck_assert_str_eq(only("reads")->present, "25");
}
END_TEST

START_TEST(files_in_small_pieces_are_told_and_the_worst_is_named)
{
    well();
    put(&now, "mount.long_read_pieces", 5000 * 32);
    put(&now, "latency_ns.read.sum", 4e9);
    ck_assert_str_eq(only("fragments")->present, "");
    view.files = (struct tune_files){.looked_at = 3,
                                     .fragmented = 1,
                                     .worst = "a/b",
                                     .worst_bytes = 1 << 20,
                                     .worst_pieces = 256};
    const struct tune_finding *finding = only("fragments");
    ck_assert_str_eq(finding->present, "pieces of 4.0 KiB");
    ck_assert_ptr_nonnull(strstr(finding->how, "first of all a/b"));
    /* Small files have one piece each, however small. */
    put(&now, "mount.long_read_pieces", 5000);
    put(&now, "mount.long_read_bytes", 5000 * 1000.0);
    ck_assert_uint_eq(tune_find(&view, findings), 0);
}
END_TEST

START_TEST(of_two_readings_the_difference_counts)
{
    put_short_of_memory();
    before = now;
    view.before = &before;
    ck_assert_uint_eq(tune_find(&view, findings), 0);
    put(&before, "store.page_misses", 0);
    put(&before, "store.page_hits", 0);
    put(&before, "store.warm_ghost_hits", 0);
    put(&before, "store.device_read_bytes", 0);
    (void)only("budget");
    /* A daemon that was started anew counts from 0: that is nothing, and not less. */
    put(&before, "store.page_misses", 1e9);
    ck_assert_double_eq(tune_more(&view, "store.page_misses"), 0);
    ck_assert_uint_eq(tune_find(&view, findings), 0);
}
END_TEST

START_TEST(the_most_important_comes_first)
{
    put_short_of_memory();
    put(&now, "histograms.device_read_ns.count", 1e5);
    put(&now, "histograms.device_read_ns.sum", 2e9); /* 6e4 of them: 0.24 of the time */
    put(&now, "store.log_waits", 100);
    put(&now, "store.log_wait_ns", 4e9);
    ck_assert_uint_eq(tune_find(&view, findings), 2);
    ck_assert_str_eq(findings[0].name, "log");
    ck_assert_str_eq(findings[1].name, "budget");
    put(&now, "store.log_wait_ns", 1e8);
    ck_assert_uint_eq(tune_find(&view, findings), 2);
    ck_assert_str_eq(findings[0].name, "budget");
}
END_TEST

START_TEST(an_image_tells_of_its_files)
{
    view.now = NULL;
    ck_assert_uint_eq(tune_find(&view, findings), 0);
    view.files = (struct tune_files){.looked_at = 4,
                                     .fragmented = 2,
                                     .bytes = 4 << 20,
                                     .pieces = 900,
                                     .worst = "x",
                                     .worst_bytes = 1 << 20,
                                     .worst_pieces = 256};
    ck_assert_double_eq_tol(only("fragments")->share, 0.5, 1e-9);
    view.files =
        (struct tune_files){.looked_at = 4, .raw_bytes = 100 << 20, .unpackable_bytes = 90 << 20};
    (void)only("codec");
    view.image.codec.codec = KV_CODEC_NONE;
    ck_assert_uint_eq(tune_find(&view, findings), 0);
}
END_TEST

START_TEST(every_limit_has_a_reason_and_every_rule_a_name)
{
    size_t count = 0;
    for (; tune_limit(count); count++) {
        ck_assert_ptr_nonnull(tune_limit(count)->name);
        ck_assert_ptr_nonnull(tune_limit(count)->reason);
        ck_assert(tune_limit(count)->value > 0);
        for (size_t i = 0; i < count; i++)
            ck_assert_str_ne(tune_limit(i)->name, tune_limit(count)->name);
    }
    ck_assert_uint_gt(count, 8);
    for (count = 0; tune_name(count); count++)
        for (size_t i = 0; i < count; i++)
            ck_assert_str_ne(tune_name(i), tune_name(count));
    ck_assert_uint_eq(count, 9);
    ck_assert_uint_le(count, TUNE_FINDINGS_MAX);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tune_rules");
    TCase *tests = tcase_create("tune_rules");
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_test(tests, a_mount_that_is_well_has_no_findings);
    tcase_add_test(tests, memory_that_is_too_small_is_told_by_pages_that_come_back);
    tcase_add_test(tests, pages_that_pack_want_tiers_and_not_memory);
    tcase_add_test(tests, hot_pages_without_room_are_told);
    tcase_add_test(tests, frames_without_room_are_told);
    tcase_add_test(tests, a_log_that_is_too_small_makes_writers_wait);
    tcase_add_test(tests, checkpoints_are_told_with_who_is_the_cause);
    tcase_add_test(tests, packing_in_vain_is_told_unless_nothing_is_packed);
    tcase_add_test(tests, threads_are_too_few_if_requests_wait_and_processors_do_not_help);
    tcase_add_test(tests, what_the_kernel_asks_again_is_told);
    tcase_add_test(tests, files_in_small_pieces_are_told_and_the_worst_is_named);
    tcase_add_test(tests, of_two_readings_the_difference_counts);
    tcase_add_test(tests, the_most_important_comes_first);
    tcase_add_test(tests, an_image_tells_of_its_files);
    tcase_add_test(tests, every_limit_has_a_reason_and_every_rule_a_name);
    suite_add_tcase(suite, tests);

    return test_run(suite);
}
