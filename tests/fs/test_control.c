/*
 * tests/fs/test_control.c: the nodes of the control directory, without a mount: their lives and
 * bounds; what health says of figures; which names a pattern matches.
 */
#include <check.h>
#include <string.h>

#include "fs/apply_packed.h"
#include "fs/control.h"
#include "fs/format.h"
#include "scratch_store.h"
#include "tests/run.h"

static struct scratch_store scratch;
static struct fs_volume *volume;
static struct fs_counters counters;
static struct fs_health *health;
static struct fs_prefetch *prefetch;
static struct fs_notifier *notifier;
static struct fs_control_apply *apply;
static struct fs_settings *settings;
static struct fs_control *control;
static _Atomic unsigned log_level;
static char last_line[512];
static unsigned line_count;

static void note_line(void *context, enum kv_log_level level, const char *line)
{
    (void)context;
    (void)level;
    (void)snprintf(last_line, sizeof last_line, "%s", line);
    line_count++;
}

static const char *const tier_words[KV_TIER_COUNT] = {"hot_ratio", "warm_ratio", "cold_ratio",
                                                      "frozen_ratio"};

/* Settings that can change, and one that can not. */
static int set_word(const char *key, const char *value, struct fs_mount_options *options,
                    struct kv_error *error)
{
    const bool is_interval = strcmp(key, "commit_interval") == 0;
    for (unsigned i = 0; i < KV_TIER_COUNT; i++)
        if (strcmp(key, tier_words[i]) == 0) {
            options->tiers.ratio[i] = (uint32_t)strtol(value, NULL, 10);
            return 0;
        }
    if (!is_interval && strcmp(key, "threads") != 0)
        return -ENOENT;
    const long number = strtol(value, NULL, 10);
    if (number < 1) {
        (void)snprintf(error->text, sizeof error->text, "%s is no number", value);
        return -EINVAL;
    }
    if (is_interval)
        options->commit_interval_ms = (uint32_t)number;
    else
        options->threads = (unsigned)number;
    return 0;
}

static bool show_word(size_t index, const struct fs_mount_options *options, char *line, size_t cap)
{
    if (index == 0)
        (void)snprintf(line, cap, "commit_interval=%u", options->commit_interval_ms);
    else if (index == 1)
        (void)snprintf(line, cap, "threads=%u", options->threads);
    else if (index < 2 + KV_TIER_COUNT)
        (void)snprintf(line, cap, "%s=%u", tier_words[index - 2], options->tiers.ratio[index - 2]);
    return index < 2 + KV_TIER_COUNT;
}

static const struct fs_settings_words words = {.set = set_word, .show = show_word};

static struct fs_control_parts parts(const char *name)
{
    return (struct fs_control_parts){.volume = volume,
                                     .counters = &counters,
                                     .health = health,
                                     .prefetch = prefetch,
                                     .settings = settings,
                                     .apply = apply,
                                     .name = name};
}

static void setup(void)
{
    const struct fs_volume_options options = {.log = note_line};
    const struct fs_mount_options mount = {
        .words = &words, .commit_interval_ms = 1000, .threads = 10};
    struct kv_error error = {""};
    scratch_open(&scratch, 64u << 20, 0, 0);
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    ck_assert_int_eq(fs_volume_open(scratch.store, &options, &volume, &error), 0);
    memset(&counters, 0, sizeof counters);
    ck_assert_int_eq(fs_counters_init(&counters, KV_METRIC_ALL), 0);
    health = fs_health_new(volume, &counters, false, &mount.alerts);
    prefetch = fs_prefetch_new(volume);
    notifier = fs_notifier_new(volume);
    apply = fs_control_apply_new(volume, notifier);
    const struct fs_settings_parts settings_parts = {
        .volume = volume, .counters = &counters, .health = health, .log_level = &log_level};
    settings = fs_settings_new(&mount, &settings_parts);
    const struct fs_control_parts control_parts = parts("");
    ck_assert_int_eq(fs_control_new(&control_parts, &control, &error), 0);
    line_count = 0;
}

static void teardown(void)
{
    fs_control_free(control);
    fs_settings_free(settings);
    fs_control_apply_free(apply);
    fs_notifier_free(notifier);
    fs_prefetch_free(prefetch);
    fs_health_free(health);
    fs_counters_release(&counters);
    fs_volume_close(volume);
    scratch_close(&scratch);
}

static uint64_t look_up(const char *name)
{
    struct stat stat;
    uint64_t directory, ino;
    ck_assert_int_eq(fs_control_lookup(control, FS_ROOT_INO, ".kvfs", true, &directory, &stat), 0);
    ck_assert(S_ISDIR(stat.st_mode));
    ck_assert_int_eq(fs_control_lookup(control, directory, name, true, &ino, &stat), 0);
    ck_assert(S_ISREG(stat.st_mode));
    ck_assert(fs_control_owns(ino));
    return ino;
}

/* All of a node, as a text. */
static const char *content(uint64_t ino)
{
    static char text[262144];
    size_t got, used = 0;
    do {
        ck_assert_int_eq(fs_control_read(control, ino, used, text + used, 1000, &got), 0);
        used += got;
    } while (got);
    text[used] = '\0';
    return text;
}

static int write_to(const char *name, const char *text)
{
    static const struct fs_caller caller = {.uid = 0};
    const uint64_t ino = look_up(name);
    const int err = fs_control_write(control, ino, &caller, 0, text, strlen(text));
    fs_control_forget(control, ino, 1);
    return err;
}

START_TEST(each_lookup_is_a_node_that_stays_as_it_was_until_it_is_forgotten)
{
    struct stat first, second;
    const uint64_t before = look_up("stats");
    char *kept = strdup(content(before));
    fs_counters_add(&counters, 1);
    const uint64_t after = look_up("stats");
    ck_assert_uint_ne(before, after);
    ck_assert_str_eq(content(before), kept);
    ck_assert_str_ne(content(after), kept);
    ck_assert_int_eq(fs_control_getattr(control, before, &first), 0);
    ck_assert_int_eq(fs_control_getattr(control, after, &second), 0);
    ck_assert_uint_eq(first.st_ino, second.st_ino); /* one file for who compares */
    ck_assert_uint_eq((uint64_t)first.st_size, strlen(kept));
    free(kept);

    fs_control_forget(control, before, 1);
    ck_assert_int_eq(fs_control_getattr(control, before, &first), -ESTALE);
    ck_assert_int_eq(fs_control_getattr(control, after, &first), 0);
    fs_control_forget(control, after, UINT64_MAX);
    ck_assert_uint_eq(fs_control_node_count(control), 0);
}
END_TEST

START_TEST(nodes_are_bounded_and_some_are_kept_for_the_owner)
{
    struct stat stat;
    uint64_t directory, ino, inos[1000];
    unsigned count = 0;
    ck_assert_int_eq(fs_control_lookup(control, FS_ROOT_INO, ".kvfs", false, &directory, &stat), 0);
    while (!fs_control_lookup(control, directory, "health", false, &ino, &stat))
        inos[count++] = ino;
    ck_assert_uint_ge(count, 100);
    ck_assert_int_eq(fs_control_lookup(control, directory, "health", false, &ino, &stat), -ENFILE);
    while (!fs_control_lookup(control, directory, "health", true, &ino, &stat))
        inos[count++] = ino;
    ck_assert_uint_eq(count, fs_control_node_count(control));
    ck_assert_uint_lt(count, 1000);
    for (unsigned i = 0; i < count; i++)
        fs_control_forget(control, inos[i], 1);
    ck_assert_uint_eq(fs_control_node_count(control), 0);
    ck_assert_int_eq(fs_control_lookup(control, directory, "health", false, &ino, &stat), 0);
    fs_control_forget(control, ino, 1);
}
END_TEST

START_TEST(numbers_that_were_never_given_are_refused)
{
    static const struct fs_caller caller = {.uid = 0};
    static const uint64_t numbers[] = {(1ull << 63) + 1, (1ull << 63) + 16, UINT64_MAX};
    struct stat stat;
    uint64_t ino;
    char buf[16];
    size_t got;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        ck_assert(fs_control_owns(numbers[i]));
        ck_assert_int_eq(fs_control_getattr(control, numbers[i], &stat), -ESTALE);
        ck_assert_int_eq(fs_control_truncate(control, numbers[i], 0), -ESTALE);
        ck_assert_int_eq(fs_control_read(control, numbers[i], 0, buf, sizeof buf, &got), -ESTALE);
        ck_assert_int_eq(fs_control_write(control, numbers[i], &caller, 0, "x", 1), -ESTALE);
        ck_assert_int_lt(fs_control_lookup(control, numbers[i], "stats", true, &ino, &stat), 0);
        fs_control_forget(control, numbers[i], 1);
    }
    ck_assert(!fs_control_owns(FS_INO_MAX));
    const uint64_t directory = 1ull << 63;
    ck_assert_int_eq(fs_control_read(control, directory, 0, buf, sizeof buf, &got), -EISDIR);
    ck_assert_int_eq(fs_control_write(control, directory, &caller, 0, "x", 1), -EISDIR);
    ck_assert_int_eq(fs_control_lookup(control, directory, "nothing", true, &ino, &stat), -ENOENT);
}
END_TEST

START_TEST(an_entry_of_that_name_in_the_image_is_an_error_and_none_is_made)
{
    const struct fs_caller caller = {.uid = 0};
    const struct fs_new_node node = {.mode = S_IFDIR | 0755};
    struct fs_record record;
    struct fs_control *other;
    struct kv_error error = {""};
    ck_assert_int_eq(fs_create(volume, &caller, FS_ROOT_INO, "mine", 4, &node, &record), 0);
    const struct fs_control_parts mine = parts("mine");
    ck_assert_int_eq(fs_control_new(&mine, &other, &error), -EEXIST);
    ck_assert_ptr_nonnull(strstr(error.text, "\"mine\""));
    ck_assert_ptr_nonnull(strstr(error.text, "control="));
    fs_forget(volume, record.file.ino, 1);

    ck_assert_int_eq(write_to("apply", "put .kvfs/x y\n"), -EACCES);
    ck_assert_int_eq(write_to("apply", "put a x\nrename a .kvfs\n"), -EACCES);
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, ".kvfs", 5, &record), -ENOENT);
}
END_TEST

#define NO_RATIOS "hot_ratio=0\nwarm_ratio=0\ncold_ratio=0\nfrozen_ratio=0\n"

START_TEST(settings_change_all_or_none)
{
    ck_assert_int_eq(write_to("config", "commit_interval=250\n# remark\n\n"), 0);
    uint64_t ino = look_up("config");
    ck_assert_str_eq(content(ino), "commit_interval=250\nthreads=10\n" NO_RATIOS);
    fs_control_forget(control, ino, 1);
    line_count = 0;
    ck_assert_int_eq(write_to("config", "commit_interval=300\nthreads=3\n"), -EINVAL);
    ck_assert_ptr_nonnull(strstr(last_line, "threads can not change while it is mounted"));
    ck_assert_int_eq(write_to("config", "commit_interval=0\n"), -EINVAL);
    ck_assert_ptr_nonnull(strstr(last_line, "0 is no number"));
    ck_assert_int_eq(write_to("config", "colour = red\n"), -EINVAL);
    ck_assert_ptr_nonnull(strstr(last_line, "colour is no setting"));
    ck_assert_int_eq(write_to("config", "nonsense\n"), -EINVAL);
    ck_assert_uint_eq(line_count, 4);
    ck_assert_int_eq(write_to("config", "threads=10\n"), 0); /* as it is */
    ck_assert_int_eq(write_to("stats", "x"), -EPERM);
    ino = look_up("config");
    ck_assert_str_eq(content(ino), "commit_interval=250\nthreads=10\n" NO_RATIOS);
    ck_assert_int_eq(fs_control_truncate(control, ino, 5), -EINVAL);
    ck_assert_int_eq(fs_control_truncate(control, ino, 0), 0);
    ck_assert_str_eq(content(ino), "");
    fs_control_forget(control, ino, 1);
}
END_TEST

START_TEST(ratios_of_tiers_change_together_and_reach_the_store)
{
    struct kv_stats stats;
    kv_store_stats(scratch.store, &stats);
    const uint64_t hot_max = stats.tiers[KV_TIER_HOT].bytes_max;
    ck_assert_uint_eq(stats.tiers[KV_TIER_FROZEN].bytes_max, 0);
    ck_assert_int_eq(
        write_to("config", "hot_ratio=5\nwarm_ratio=5\ncold_ratio=45\nfrozen_ratio=45\n"), 0);
    kv_store_stats(scratch.store, &stats);
    ck_assert_uint_lt(stats.tiers[KV_TIER_HOT].bytes_max, hot_max);
    ck_assert_uint_gt(stats.tiers[KV_TIER_FROZEN].bytes_max, 0);
    const uint64_t ino = look_up("config");
    ck_assert_ptr_nonnull(strstr(content(ino), "cold_ratio=45\n"));
    fs_control_forget(control, ino, 1);
    /* Alone it would make sense for a moment; what counts is the whole text. */
    ck_assert_int_eq(write_to("config", "hot_ratio=0\nwarm_ratio=1\n"), 0);
    line_count = 0;
    ck_assert_int_eq(write_to("config", "commit_interval=77\nwarm_ratio=0\n"), -EINVAL);
    ck_assert_ptr_nonnull(strstr(last_line, "can not both be 0"));
    ck_assert_uint_eq(line_count, 1);
    const uint64_t after = look_up("config");
    ck_assert_ptr_nonnull(strstr(content(after), "warm_ratio=1\n"));
    ck_assert_ptr_null(strstr(content(after), "commit_interval=77\n"));
    fs_control_forget(control, after, 1);
}
END_TEST

/* One write of several to the same open file. */
static int piece(uint64_t ino, uint64_t offset, const char *text)
{
    static const struct fs_caller caller = {.uid = 0};
    return fs_control_write(control, ino, &caller, offset, text, strlen(text));
}

static bool is_there(const char *name)
{
    struct fs_record record;
    const int err = fs_lookup(volume, FS_ROOT_INO, name, strlen(name), &record);
    if (!err)
        fs_forget(volume, record.file.ino, 1);
    return !err;
}

START_TEST(a_batch_is_one_write_or_what_stands_between_begin_and_commit)
{
    uint64_t ino = look_up("apply");
    ck_assert_int_eq(piece(ino, 0, "put one 1\nput two 2\n"), 0);
    ck_assert(is_there("one") && is_there("two"));
    ck_assert_int_eq(piece(ino, 20, "put three 3\n"), -EINVAL);
    ck_assert(!is_there("three"));
    fs_control_forget(control, ino, 1);

    ino = look_up("apply");
    ck_assert_int_eq(piece(ino, 7, "begin\nput three 3\n"), 0);
    ck_assert_int_eq(piece(ino, 25, "put four"), 0);
    ck_assert(!is_there("three"));
    /* The kernel hands a page in again. */
    ck_assert_int_eq(piece(ino, 13, "put three 3\nput four 4\ncommit\n"), 0);
    ck_assert(is_there("three") && is_there("four"));
    ck_assert_int_eq(piece(ino, 43, "put five 5\n"), -EINVAL);
    fs_control_forget(control, ino, 1);

    ino = look_up("apply");
    ck_assert_int_eq(piece(ino, 0, "begin\nput five 5\n"), 0);
    ck_assert_int_eq(piece(ino, 100, "put six 6\ncommit\n"), -EINVAL); /* a gap */
    ck_assert_int_eq(piece(ino, 0, "commit\n"), -EINVAL);
    fs_control_forget(control, ino, 1);

    ino = look_up("apply");
    ck_assert_int_eq(piece(ino, 0, "begin\nput five 5\n"), 0);
    fs_control_forget(control, ino, 1);
    ck_assert_ptr_nonnull(strstr(last_line, "without a line \"commit\""));
    ck_assert(!is_there("five") && !is_there("six"));

    ino = look_up("apply");
    ck_assert_int_eq(piece(ino, 0, "begin\nput five 5\ndelete nobody\ncommit\n"), -ENOENT);
    ck_assert_ptr_eq(strstr(content(ino), "error line 3"), content(ino));
    fs_control_forget(control, ino, 1);
    ino = look_up("apply");
    ck_assert_ptr_nonnull(strstr(content(ino), "state refused\nchanges 2\nline 3\n"));
    fs_control_forget(control, ino, 1);
    ck_assert_int_eq(write_to("apply", "begin\ncommit\n"), 0);
}
END_TEST

static int send(uint64_t ino, uint64_t offset, const void *bytes, size_t length)
{
    static const struct fs_caller root = {.uid = 0};
    return fs_control_write(control, ino, &root, offset, bytes, length);
}

START_TEST(packed_changes_come_in_pieces)
{
    static const struct fs_apply_attributes attributes = {.mode = S_IFREG | 0600};
    struct fs_apply_change change = {.kind = FS_APPLY_STORE,
                                     .path = "packed",
                                     .bytes = "value",
                                     .length = 5,
                                     .attributes = &attributes};
    uint8_t bytes[256] = {0};
    const size_t length = sizeof(struct fs_disk_packed_header) + fs_apply_packed_size(&change);
    ck_assert_uint_lt(length, sizeof bytes);
    fs_apply_pack(&change, 1, bytes);

    uint64_t ino = look_up("apply");
    ck_assert_int_eq(send(ino, 0, bytes, 20), 0);
    ck_assert_int_eq(send(ino, 20, bytes + 20, 9), 0);
    ck_assert(!is_there("packed"));
    ck_assert_int_eq(send(ino, 29, bytes + 29, length - 29), 0);
    ck_assert(is_there("packed"));
    ck_assert_ptr_nonnull(strstr(content(ino), "state done\nchanges 1\n"));
    ck_assert_int_eq(send(ino, length, bytes, length), -EINVAL); /* one for each open file */
    fs_control_forget(control, ino, 1);

    change.path = "other";
    fs_apply_pack(&change, 1, bytes);
    ino = look_up("apply");
    ck_assert_int_eq(send(ino, 0, bytes, 20), 0);
    fs_control_forget(control, ino, 1); /* the program has ended */
    ck_assert_ptr_nonnull(strstr(last_line, "before it was whole"));
    ino = look_up("apply");
    ck_assert_int_eq(send(ino, 0, bytes, length + 1), -EINVAL); /* more than it says */
    fs_control_forget(control, ino, 1);
    bytes[11] = 0x7f; /* of a length that nothing has */
    ino = look_up("apply");
    ck_assert_int_eq(send(ino, 0, bytes, length), -EINVAL);
    fs_control_forget(control, ino, 1);
    ck_assert_ptr_nonnull(strstr(last_line, "of a length that they can not have"));
    change.path = ".kvfs/in";
    fs_apply_pack(&change, 1, bytes);
    ino = look_up("apply");
    ck_assert_int_eq(send(ino, 0, bytes, length + 2), -EACCES);
    fs_control_forget(control, ino, 1);
    ck_assert(!is_there("other"));
}
END_TEST

START_TEST(health_compares_figures_with_its_alerts)
{
    char text[4096];
    enum fs_health_state state;
    ck_assert_uint_lt(fs_health_text(health, text, sizeof text, &state), sizeof text);
    ck_assert_int_eq(state, FS_HEALTH_OK);
    ck_assert_ptr_null(strstr(text, "WARN"));

    fs_health_look(health); /* all was well before */
    line_count = 0;
    struct fs_alerts alerts = {.space_warning_percent = 100};
    fs_health_set_alerts(health, &alerts);
    (void)fs_health_text(health, text, sizeof text, &state);
    ck_assert_int_eq(state, FS_HEALTH_WARNING);
    ck_assert_ptr_nonnull(strstr(text, "alert_space_warning=100"));
    fs_health_look(health);
    ck_assert_uint_eq(line_count, 1);
    fs_health_look(health); /* it is said once */
    ck_assert_uint_eq(line_count, 1);
    alerts.space_critical_percent = 100;
    fs_health_set_alerts(health, &alerts);
    fs_health_look(health);
    ck_assert_ptr_nonnull(strstr(last_line, "health: CRIT space"));
    alerts = (struct fs_alerts){.latency_warning_ms = 1};
    for (unsigned i = 0; i < 1000; i++) {
        fs_counters_add(&counters, 15);
        fs_counters_end(&counters, 15, 1); /* since the machine was started: long */
    }
    fs_health_set_alerts(health, &alerts);
    (void)fs_health_text(health, text, sizeof text, &state);
    ck_assert_int_eq(state, FS_HEALTH_WARNING);
    ck_assert_ptr_nonnull(strstr(text, "WARN  latency"));
    fs_health_look(health);
    fs_health_look(health);
    fs_health_look(health); /* it is long ago */
    (void)fs_health_text(health, text, sizeof text, &state);
    ck_assert_int_eq(state, FS_HEALTH_OK);
}
END_TEST

START_TEST(categories_are_words_with_commas)
{
    static const char *const wrong[] = {"", ",", "cache,", "Cache", "cache wal", "caches"};
    unsigned categories = 1;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(fs_categories_parse(wrong[i], &categories), -EINVAL);
    ck_assert_uint_eq(categories, 1);
    for (unsigned set = 0; set <= KV_METRIC_ALL; set++) {
        char text[FS_CATEGORIES_TEXT];
        fs_categories_text(set, text);
        ck_assert_int_eq(fs_categories_parse(text, &categories), 0);
        ck_assert_uint_eq(categories, set);
    }
}
END_TEST

START_TEST(categories_of_an_option_are_words_with_plus_signs)
{
    static const char *const wrong[] = {"+", "cache+", "+wal", "cache+,wal", "cache++wal"};
    unsigned categories;
    ck_assert_int_eq(fs_categories_parse("cache+wal", &categories), 0);
    ck_assert_uint_eq(categories, KV_METRIC_CACHE | KV_METRIC_WAL);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(fs_categories_parse(wrong[i], &categories), -EINVAL);
}
END_TEST

START_TEST(metrics_leave_out_what_is_off)
{
    static char text[262144];
    struct fs_figures figures;
    fs_counters_add(&counters, 15);
    fs_counters_end(&counters, 15, 1);
    for (unsigned category = 1; category < KV_METRIC_ALL; category *= 2) {
        atomic_store(&counters.categories, category);
        fs_figures_read(volume, &counters, false, &figures);
        const size_t length =
            fs_figures_prometheus(&figures, scratch.store, &counters, text, sizeof text);
        ck_assert_uint_lt(length, sizeof text);
        ck_assert(!strstr(text, "kvfs_requests_total{op=\"read\"} 1\n") ==
                  (category != KV_METRIC_FUSE));
        for (size_t i = 0; fs_figure_of_store(i); i++) {
            const struct fs_figure *figure = fs_figure_of_store(i);
            char wanted[128];
            if (figure->kind != FS_FIGURE_GAUGE || figure->metric)
                continue;
            (void)snprintf(wanted, sizeof wanted, "\nkvfs_%s ", figure->name);
            ck_assert_msg(!strstr(text, wanted) == (figure->category != category), "%s",
                          figure->name);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("control");
    TCase *tcase = tcase_create("control");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, each_lookup_is_a_node_that_stays_as_it_was_until_it_is_forgotten);
    tcase_add_test(tcase, nodes_are_bounded_and_some_are_kept_for_the_owner);
    tcase_add_test(tcase, numbers_that_were_never_given_are_refused);
    tcase_add_test(tcase, an_entry_of_that_name_in_the_image_is_an_error_and_none_is_made);
    tcase_add_test(tcase, settings_change_all_or_none);
    tcase_add_test(tcase, ratios_of_tiers_change_together_and_reach_the_store);
    tcase_add_test(tcase, a_batch_is_one_write_or_what_stands_between_begin_and_commit);
    tcase_add_test(tcase, packed_changes_come_in_pieces);
    tcase_add_test(tcase, health_compares_figures_with_its_alerts);
    tcase_add_test(tcase, categories_are_words_with_commas);
    tcase_add_test(tcase, categories_of_an_option_are_words_with_plus_signs);
    tcase_add_test(tcase, metrics_leave_out_what_is_off);
    suite_add_tcase(suite, tcase);

    return test_run(suite);
}
