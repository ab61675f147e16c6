/*
 * tests/tools/test_config.c: mount.conf and -o options say the same, and mistakes are named.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/policy.h"
#include "fs/settings.h"
#include "tests/run.h"
#include "tools/config.h"
#include "tools/memory.h"

static char dir[] = "/tmp/kvfs-config-XXXXXX";
static char path[sizeof dir + 16];

static void make_dir(void)
{
    strcpy(dir + sizeof dir - 7, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/mount.conf", dir);
}

static void remove_dir(void)
{
    (void)unlink(path); /* not every test writes it */
    ck_assert_int_eq(rmdir(dir), 0);
}

/* Read `text` as a file over the defaults. */
static int read_text(const char *text, struct fs_mount_options *options, struct kv_error *error)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
    tool_config_defaults(options);
    return tool_config_read(path, options, error);
}

static void assert_same_settings(const struct fs_mount_options *a, const struct fs_mount_options *b)
{
    ck_assert_int_eq(a->read_only, b->read_only);
    ck_assert_int_eq(a->allow_other, b->allow_other);
    ck_assert_int_eq(a->writeback, b->writeback);
    ck_assert_uint_eq(a->acl, b->acl);
    ck_assert_uint_eq(a->threads, b->threads);
    ck_assert_int_eq(a->transport, b->transport);
    ck_assert_uint_eq(a->memory_budget_bytes, b->memory_budget_bytes);
    ck_assert_mem_eq(&a->tiers, &b->tiers, sizeof a->tiers);
    ck_assert_int_eq(a->adapt_tiers, b->adapt_tiers);
    ck_assert_uint_eq(a->extent_percent, b->extent_percent);
    ck_assert_uint_eq(a->pin_percent, b->pin_percent);
    ck_assert_int_eq(a->buffered_io, b->buffered_io);
    ck_assert_int_eq(a->sync, b->sync);
    ck_assert_uint_eq(a->commit_interval_ms, b->commit_interval_ms);
    ck_assert_uint_eq(a->checkpoint_interval_ms, b->checkpoint_interval_ms);
    ck_assert_uint_eq(a->log_buffer_bytes, b->log_buffer_bytes);
    ck_assert_uint_eq(a->touch_ahead_bytes, b->touch_ahead_bytes);
    ck_assert_uint_eq(a->read_ahead_bytes, b->read_ahead_bytes);
    ck_assert_str_eq(a->profile, b->profile);
    ck_assert_int_eq(a->count_requests, b->count_requests);
    ck_assert_str_eq(a->control, b->control);
    ck_assert_uint_eq(a->metrics, b->metrics);
    ck_assert_uint_eq(a->log_level, b->log_level);
    ck_assert_mem_eq(&a->alerts, &b->alerts, sizeof a->alerts);
}

START_TEST(the_mount_conf_of_the_tree_lists_every_default)
{
    struct fs_mount_options defaults, listed;
    struct kv_error error = {""};
    tool_config_defaults(&defaults);
    memset(&listed, 0x5a, sizeof listed); /* a key that is missing leaves this behind */
    listed.read_only = listed.allow_other = listed.writeback = true;
    listed.buffered_io = listed.count_requests = true;

    const int err = tool_config_read(KVFS_SOURCE_DIR "/mount.conf", &listed, &error);

    ck_assert_msg(err == 0, "%s", error.text);
    assert_same_settings(&listed, &defaults);
}
END_TEST

START_TEST(each_key_of_mount_conf_has_its_default_and_a_line_of_explanation)
{
    FILE *file = fopen(KVFS_SOURCE_DIR "/mount.conf", "r");
    ck_assert_ptr_nonnull(file);
    char line[256], before[256] = "", section[64] = "";
    size_t index = 0;
    while (fgets(line, sizeof line, file)) {
        if (line[0] == '[')
            ck_assert_int_eq(sscanf(line, "[%63[^]]]", section), 1);
        if (line[0] != '#' && line[0] != '[' && line[0] != '\n') {
            const struct tool_setting *setting = tool_config_setting(index++);
            char expected[256];
            ck_assert_ptr_nonnull(setting);
            snprintf(expected, sizeof expected, "%s = %s\n", setting->key, setting->default_value);
            ck_assert_str_eq(line, expected);
            ck_assert_str_eq(section, setting->section);
            ck_assert_int_eq(before[0], '#');
        }
        memcpy(before, line, sizeof before);
    }
    ck_assert_ptr_null(tool_config_setting(index));
    fclose(file);
}
END_TEST

START_TEST(a_file_and_options_set_the_same_things)
{
    struct fs_mount_options from_file, from_options;
    struct kv_error error;
    ck_assert_int_eq(read_text("[mount]\nro = yes\nthreads=4\n\n; remark\n[durability]\n"
                               "sync = always\ncommit_interval = 500ms\n"
                               "[memory]\nmemory_budget = 64M ; small\n",
                               &from_file, &error),
                     0);
    tool_config_defaults(&from_options);
    ck_assert_int_eq(tool_config_set("ro", NULL, &from_options, &error), 0);
    ck_assert_int_eq(tool_config_set("threads", "4", &from_options, &error), 0);
    ck_assert_int_eq(tool_config_set("sync", "always", &from_options, &error), 0);
    ck_assert_int_eq(tool_config_set("commit_interval", "500ms", &from_options, &error), 0);
    ck_assert_int_eq(tool_config_set("memory_budget", "64M", &from_options, &error), 0);

    assert_same_settings(&from_file, &from_options);
    ck_assert_uint_eq(from_file.memory_budget_bytes, 64u << 20);
    ck_assert_uint_eq(from_file.commit_interval_ms, 500);
    ck_assert(from_file.read_only);
}
END_TEST

START_TEST(a_mistake_in_a_file_is_named_with_file_line_and_key)
{
    static const struct {
        const char *text;
        int line;
        const char *words;
    } cases[] = {
        {"[mount]\nro = yes\ncolour = red\n", 3, "unknown key \"colour\""},
        {"[mount]\n\nthreads = many\n", 3, "key \"threads\": \"many\""},
        {"[mount]\ntransport = pigeon\n", 2, "key \"transport\": \"pigeon\""},
        {"[mount]\nthreads = 0\n", 2, "key \"threads\": \"0\""},
        {"[memory]\nmemory_budget = 1M\n", 2, "key \"memory_budget\": \"1M\""},
        {"[memory]\nmemory_budget = 64X\n", 2, "key \"memory_budget\": \"64X\""},
        {"[durability]\nsync = sometimes\n", 2, "key \"sync\": \"sometimes\""},
        {"[durability]\nro = yes\n", 2, "key \"ro\" does not belong to section [durability]"},
        {"[colours]\nro = yes\n", 2, "section [colours]"},
        {"ro = yes\n", 1, "before any section"},
        {"[mount]\nro = yes\nro = no\n", 3, "given twice"},
        {"[mount]\nro = yes\n  no\n", 3, "neither"}, /* no line goes on */
        {"[mount]\nnonsense\n", 2, "neither"},
        {"[mount\nro = yes\n", 1, "neither"},
        {"[mount]\nro = maybe\nwhat = else\n", 2, "key \"ro\""}, /* the first one */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fs_mount_options options;
        struct kv_error error = {""};
        char place[sizeof path + 16];
        snprintf(place, sizeof place, "%s:%d: ", path, cases[i].line);

        ck_assert_int_eq(read_text(cases[i].text, &options, &error), -EINVAL);

        ck_assert_msg(strncmp(error.text, place, strlen(place)) == 0, "%s", error.text);
        ck_assert_msg(strstr(error.text, cases[i].words) != NULL, "%s", error.text);
        ck_assert_ptr_null(strchr(error.text, '\n'));
    }
}
END_TEST

/* ---- policies -------------------------------------------------------------------------- */

START_TEST(policies_stand_in_the_order_of_the_file)
{
    struct fs_mount_options options;
    struct kv_error error = {""};
    ck_assert_msg(!read_text("[policy \"models/**\"] ; large ones\npin = yes\nprefetch=on\n"
                             "extent_size = 1M\ncodec=default\nttl = never\n"
                             "[mount]\nthreads = 3\n"
                             "[policy   \"[a-c];x\"x\"  ]\n  codec = none\n  extent_size = 4K\n"
                             "[policy \"*.log\"]\n  codec = zstd:9\n\tttl = 30d ; a month",
                             &options, &error),
                  "%s", error.text);
    const struct fs_policies *const policies = options.policies;
    ck_assert_ptr_nonnull(policies);
    ck_assert_uint_eq(options.threads, 3);
    ck_assert_uint_eq(fs_policies_count(policies), 3);

    const struct fs_policy *policy = fs_policies_at(policies, 0);
    ck_assert_str_eq(policy->pattern, "models/**");
    ck_assert_uint_eq(policy->sets, (1u << FS_POLICY_KEY_COUNT) - 1);
    ck_assert(policy->pin && policy->prefetch && !policy->has_codec && !policy->ttl_ns);
    ck_assert_uint_eq(policy->extent_bytes, 1u << 20);

    policy = fs_policies_at(policies, 1);
    ck_assert_str_eq(policy->pattern, "[a-c];x\"x");
    ck_assert(policy->has_codec && policy->codec.codec == KV_CODEC_NONE);
    ck_assert_uint_eq(policy->extent_bytes, 4096);
    ck_assert_uint_eq(policy->sets, 1u << FS_POLICY_CODEC | 1u << FS_POLICY_EXTENT_SIZE);

    policy = fs_policies_at(policies, 2);
    ck_assert(policy->codec.codec == KV_CODEC_ZSTD && policy->codec.level == 9);
    ck_assert_uint_eq(policy->ttl_ns, 30ull * 86400 * 1000000000);
    tool_config_release(&options);
    ck_assert_ptr_null(options.policies);
}
END_TEST

START_TEST(a_long_pattern_is_taken_whole_or_not_at_all)
{
    struct fs_mount_options options;
    struct kv_error error = {""};
    char text[600], pattern[FS_POLICY_PATTERN_MAX + 1];
    memset(pattern, 'p', sizeof pattern);
    pattern[sizeof pattern - 1] = '\0';
    snprintf(text, sizeof text, "[policy \"%s\"]\npin = yes\n", pattern);
    ck_assert_msg(!read_text(text, &options, &error), "%s", error.text);
    ck_assert_str_eq(fs_policies_at(options.policies, 0)->pattern, pattern);
    tool_config_release(&options);
    snprintf(text, sizeof text, "[policy \"%sp\"]\npin = yes\n", pattern);
    ck_assert_int_eq(read_text(text, &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, ":1: a policy's pattern is longer than 160 bytes"));
    snprintf(text, sizeof text, "\n# %s%s\n[mount]\nro = maybe\n", pattern, pattern);
    ck_assert_int_eq(read_text(text, &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, ":2: the line is longer than 198 bytes"));
}
END_TEST

START_TEST(a_mistake_in_a_policy_is_named_with_file_line_key_and_remedy)
{
#define LOG "[policy \"*.log\"]\n"
    static const struct {
        const char *text;
        int line;
        const char *words, *remedy;
    } cases[] = {
        {LOG "colour = red\n", 2, "unknown key \"colour\" of policy \"*.log\"", "codec, ttl, pin"},
        {LOG "level = 3\n", 2, "unknown key \"level\"", "prefetch and extent_size"},
        {LOG "codec = zstd:20\n", 2, "key \"codec\" of policy \"*.log\": \"zstd:20\"", "zstd:19"},
        {LOG "codec = zstd:0\n", 2, "\"zstd:0\"", "zstd:1 to"},
        {LOG "codec = gzip\n", 2, "\"gzip\"", "none, lz4"},
        {LOG "codec =\n", 2, "key \"codec\"", "none, lz4"},
        {LOG "ttl = soon\n", 2, "key \"ttl\" of policy \"*.log\": \"soon\"", "90s, 30m"},
        {LOG "ttl = 0\n", 2, "\"0\"", "never, or a time"},
        {LOG "ttl = 101y\n", 2, "\"101y\"", "never, or a time"},
        {LOG "pin = maybe\n", 2, "key \"pin\"", "yes or no"},
        {LOG "prefetch = 2\n", 2, "key \"prefetch\"", "yes or no"},
        {LOG "extent_size = 3K\n", 2, "key \"extent_size\"", "a power of two from 4K to 1M"},
        {LOG "extent_size = 2M\n", 2, "\"2M\"", "a power of two from 4K to 1M"},
        {LOG "extent_size = 2048\n", 2, "\"2048\"", "a power of two from 4K to 1M"},
        {LOG "pin = yes\npin = no\n", 3, "key \"pin\" of policy \"*.log\" is given twice",
         "keep one"},
        {LOG "threads = 3\n", 2, "unknown key \"threads\" of policy", "codec"},
        {LOG "pin = yes\n" LOG "ttl = 1h\n", 3, "policy \"*.log\" is there already", "one section"},
        {LOG "\n[mount]\nro = yes\n", 1, "policy \"*.log\" sets nothing", "give it a key"},
        {"[mount]\n" LOG, 2, "policy \"*.log\" sets nothing", "leave it out"},
        {"[policy *.log]\npin = yes\n", 1, "\"[policy *.log]\" is not", "[policy \"PATTERN\"]"},
        {"[policy]\npin = yes\n", 1, "\"[policy]\" is not", "[policy \"PATTERN\"]"},
        {"[policy \"\"]\npin = yes\n", 1, "is not of the form", "[policy \"PATTERN\"]"},
        {"[policy \"a\"\npin = yes\n", 1, "is not of the form", "[policy \"PATTERN\"]"},
        {"[policy \"a\"] pin = yes\n", 1, "is not of the form", "[policy \"PATTERN\"]"},
        {"[policy \"a[\"]\npin = yes\n", 1, "policy \"a[\": a [ is not closed", "\\["},
        {"[policy \"a/\"]\npin = yes\n", 1, "policy \"a/\"", "single slashes"},
        {"[policy \"a//b\"]\npin = yes\n", 1, "policy \"a//b\"", "single slashes"},
        {"[policy \"../b\"]\npin = yes\n", 1, "policy \"../b\"", "no . or .."},
        {"[policy \"a\\\"]\npin = yes\n", 1, "policy \"a\\\"", "backslash"},
        {"[policies \"a\"]\npin = yes\n", 2, "unknown key \"pin\"", "mount.conf"},
        {LOG "ttl = soon\n[policy \"[\"]\n", 2, "\"soon\"", "90s"}, /* the first one */
        {LOG "nonsense\nttl = soon\n", 2, "neither", "key = value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fs_mount_options options;
        struct kv_error error = {""};
        char place[sizeof path + 16];
        snprintf(place, sizeof place, "%s:%d: ", path, cases[i].line);

        ck_assert_msg(read_text(cases[i].text, &options, &error) == -EINVAL, "%s", cases[i].text);

        ck_assert_msg(strncmp(error.text, place, strlen(place)) == 0, "%s", error.text);
        ck_assert_msg(strstr(error.text, cases[i].words) != NULL, "%s", error.text);
        ck_assert_msg(strstr(error.text, cases[i].remedy) != NULL, "%s", error.text);
        ck_assert_ptr_null(strchr(error.text, '\n'));
        ck_assert_ptr_null(options.policies);
    }
}
END_TEST

START_TEST(too_many_policies_are_refused)
{
    struct fs_mount_options options;
    struct kv_error error = {""};
    char text[8192];
    size_t used = 0;
    for (unsigned i = 0; i <= FS_POLICY_MAX; i++)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "[policy \"n%u\"]\npin = yes\n", i);
    ck_assert_int_eq(read_text(text, &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(
        strstr(error.text, ":129: policy \"n64\" is one too many: there may be 64"));
}
END_TEST

START_TEST(a_file_that_can_not_be_read_is_named)
{
    struct fs_mount_options options;
    struct kv_error error = {""};
    ck_assert_int_eq(tool_config_read(path, &options, &error), -ENOENT);
    ck_assert_ptr_nonnull(strstr(error.text, path));
    ck_assert_int_lt(tool_config_read(dir, &options, &error), 0);
    ck_assert_ptr_nonnull(strstr(error.text, dir));
}
END_TEST

START_TEST(a_mistake_in_an_option_is_named)
{
    struct fs_mount_options options;
    struct kv_error error = {""};
    tool_config_defaults(&options);
    ck_assert_int_eq(tool_config_set("colour", "red", &options, &error), -ENOENT);
    ck_assert_int_eq(tool_config_set("threads", NULL, &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "threads needs a value"));
    ck_assert_int_eq(tool_config_set("threads", "257", &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "threads: \"257\""));
    ck_assert_uint_eq(options.threads, 10);
}
END_TEST

/* As mount.kvfs does it: profile, then the file, then the options. */
static void start(const char *text, const char *profile, const char *key, const char *value,
                  struct fs_mount_options *options)
{
    struct kv_error error = {""};
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
    tool_config_start(profile, path, options);
    ck_assert_msg(tool_config_read(path, options, &error) == 0, "%s", error.text);
    if (profile)
        ck_assert_int_eq(tool_config_set("profile", profile, options, &error), 0);
    if (key)
        ck_assert_int_eq(tool_config_set(key, value, options, &error), 0);
}

START_TEST(the_budget_that_nobody_names_fits_the_memory_there_is)
{
    struct fs_mount_options defaults, options;
    tool_config_defaults(&defaults);
    tool_config_start(NULL, NULL, &options);
    ck_assert_uint_eq(options.memory_budget_bytes,
                      tool_memory_modest(defaults.memory_budget_bytes, tool_memory_bytes()));

    start("[memory]\nmemory_budget = 256M\n", NULL, NULL, NULL, &options);
    ck_assert_uint_eq(options.memory_budget_bytes, 256u << 20);
}
END_TEST

START_TEST(a_profile_wins_over_defaults_and_all_else_wins_over_a_profile)
{
    struct fs_mount_options options;
    start("[mount]\nprofile = hdd\n", NULL, NULL, NULL, &options);
    ck_assert_str_eq(options.profile, "hdd");
    ck_assert_uint_eq(options.commit_interval_ms, 15000);
    ck_assert_uint_eq(options.checkpoint_interval_ms, 300000);
    ck_assert_uint_eq(options.read_ahead_bytes, 128u << 10); /* the profile does not say */

    /* wherever the file names it */
    start("[durability]\ncommit_interval = 3s\n[mount]\nread_ahead = 1M\nprofile = hdd\n", NULL,
          NULL, NULL, &options);
    ck_assert_uint_eq(options.commit_interval_ms, 3000);
    ck_assert_uint_eq(options.read_ahead_bytes, 1u << 20);
    ck_assert_uint_eq(options.checkpoint_interval_ms, 300000);

    /* and with whatever mistakes before it: who reads the file names them */
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs("[mount]\n  threads = 4\n  profile = hdd\nnonsense\n", file), 0);
    ck_assert_int_eq(fclose(file), 0);
    tool_config_start(NULL, path, &options);
    ck_assert_uint_eq(options.checkpoint_interval_ms, 300000);

    /* also when the file says what is the default anyway */
    start("[mount]\nprofile = hdd\n[durability]\ncommit_interval = 1s\n", NULL, "read_ahead", "64K",
          &options);
    ck_assert_uint_eq(options.commit_interval_ms, 1000);
    ck_assert_uint_eq(options.read_ahead_bytes, 64u << 10);
    ck_assert_uint_eq(options.checkpoint_interval_ms, 300000);
}
END_TEST

START_TEST(a_profile_among_the_options_takes_the_place_of_the_files)
{
    struct fs_mount_options options, plain;
    static const char text[] = "[mount]\nprofile = hdd\n[durability]\ncommit_interval = 3s\n";
    start(text, "cache", NULL, NULL, &options);
    ck_assert_str_eq(options.profile, "cache");
    ck_assert_int_eq(options.sync, KV_SYNC_CHECKPOINT);
    ck_assert_uint_eq(options.checkpoint_interval_ms, 30000); /* hdd's is not in force */
    ck_assert_uint_eq(options.commit_interval_ms, 3000);      /* the file's is */

    start(text, "none", "commit_interval", "1s", &options);
    tool_config_defaults(&plain);
    assert_same_settings(&options, &plain);
}
END_TEST

START_TEST(a_profile_that_is_not_known_is_refused_with_those_that_are)
{
    struct fs_mount_options options, plain;
    struct kv_error error = {""};
    ck_assert_int_eq(read_text("[mount]\nprofile = oltpp\n", &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(
        strstr(error.text, ":2: key \"profile\": \"oltpp\" is not none or one of"));
    ck_assert_ptr_nonnull(strstr(error.text, "oltp, olap"));
    ck_assert_ptr_nonnull(strstr(error.text, ", ci"));
    ck_assert_int_eq(read_text("[mount]\nprofile = ci\nprofile = ci\n", &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, ":3: key \"profile\" is given twice"));
    ck_assert_int_eq(tool_config_set("profile", "", &options, &error), -EINVAL);
    ck_assert_int_eq(tool_config_set("profile", "OLTP", &options, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "option profile: \"OLTP\" is not none or one of"));
    ck_assert_ptr_nonnull(strstr(error.text, ", ci"));
    ck_assert_int_eq(tool_config_set("profile", NULL, &options, &error), -EINVAL);

    /* for tool_config_start it counts for nothing, nor does a file that is not in order */
    tool_config_defaults(&plain);
    tool_config_start("oltpp", NULL, &options);
    assert_same_settings(&options, &plain);
    tool_config_start(NULL, dir, &options);
    assert_same_settings(&options, &plain);
    tool_config_start(NULL, "/nowhere", &options);
    assert_same_settings(&options, &plain);
}
END_TEST

START_TEST(a_budget_may_be_a_share_of_the_memory)
{
    struct fs_mount_options options;
    struct kv_error error = {""};
    tool_config_defaults(&options);
    ck_assert_int_eq(tool_config_set("memory_budget", "50%", &options, &error), 0);
    const uint64_t half = options.memory_budget_bytes;
    ck_assert_uint_eq(half % (1u << 20), 0);
    ck_assert_int_eq(tool_config_set("memory_budget", "25%", &options, &error), 0);
    ck_assert_uint_le(options.memory_budget_bytes, half);
    ck_assert_uint_ge(options.memory_budget_bytes, 8u << 20);
    static const char *const wrong[] = {"%", "0%", "91%", "1000%", "-5%", "5 %", "5%%", "x%"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_int_eq(tool_config_set("memory_budget", wrong[i], &options, &error), -EINVAL);
}
END_TEST

START_TEST(new_settings_have_bounds)
{
    static const struct {
        const char *key, *value;
        int result;
    } cases[] = {
        {"read_ahead", "4K", 0},
        {"read_ahead", "16M", 0},
        {"read_ahead", "4095", -EINVAL},
        {"read_ahead", "17M", -EINVAL},
        {"read_ahead", "8G", -EINVAL}, /* more than 32 bits */
        {"log_buffer", "64K", 0},
        {"log_buffer", "64M", 0},
        {"log_buffer", "63K", -EINVAL},
        {"log_buffer", "65M", -EINVAL},
        {"checkpoint_interval", "1s", 0},
        {"checkpoint_interval", "1h", 0},
        {"checkpoint_interval", "999ms", -EINVAL},
        {"checkpoint_interval", "61min", -EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fs_mount_options options;
        struct kv_error error = {""};
        tool_config_defaults(&options);
        ck_assert_msg(tool_config_set(cases[i].key, cases[i].value, &options, &error) ==
                          cases[i].result,
                      "%s=%s", cases[i].key, cases[i].value);
    }
}
END_TEST

/* What a mount shows of its settings can be given back to it. */
START_TEST(what_is_shown_can_be_set)
{
    struct fs_mount_options options, again;
    tool_config_start("low-memory", NULL, &options);
    struct kv_error error = {""};
    ck_assert_int_eq(tool_config_set("profile", "low-memory", &options, &error), 0);
    tool_config_defaults(&again);
    char line[256];
    for (size_t i = 0; tool_config_show(i, &options, line, sizeof line); i++) {
        char *value = strchr(line, '=');
        ck_assert_ptr_nonnull(value);
        *value++ = '\0';
        ck_assert_int_eq(tool_config_set(line, value, &again, &error), 0);
    }
    assert_same_settings(&options, &again);
}
END_TEST

/* What the manual says of a key, with the heading of its section; "" if it has none. */
static void find_in_manual(const char *manual, const char *key, char *said, size_t cap)
{
    char item[64];
    snprintf(item, sizeof item, ".It Cm %s ", key);
    const char *const from = strstr(manual, item), *section = manual;
    *said = '\0';
    if (!from)
        return;
    for (const char *next; (next = strstr(section + 1, ".Ss ")) && next < from;)
        section = next;
    const char *const first = strstr(section, ".It "), *const next = strstr(from + 1, "\n.It ");
    const char *const last = strstr(from, "\n.El");
    const char *const end = next && next < last ? next : last;
    snprintf(said, cap, "%.*s%.*s", (int)(first - section), section, (int)(end - from), from);
}

/* Set a key to the first of some values that may be and is not the default. */
static void set_another(const char *key, struct fs_mount_options *options)
{
    static const char *const values[] = {"yes",  "no",  "30%",    "1",    "7",   "3s",   "2M",
                                         "128K", "dev", "always", "name", "wal", "error"};
    struct fs_mount_options defaults;
    struct kv_error error;
    tool_config_defaults(&defaults);
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        tool_config_defaults(options);
        if (tool_config_set(key, values[i], options, &error) == 0 &&
            memcmp(options, &defaults, sizeof defaults) != 0)
            return;
    }
    ck_abort_msg("no value for %s", key);
}

START_TEST(the_manual_marks_what_can_change_while_it_is_mounted)
{
    static char manual[65536], said[8192];
    FILE *const file = fopen(KVFS_SOURCE_DIR "/docs/man/kvfs-mount.conf.5", "re");
    ck_assert_ptr_nonnull(file);
    manual[fread(manual, 1, sizeof manual - 1, file)] = '\0';
    ck_assert_int_eq(fclose(file), 0);
    const struct tool_setting *setting;
    for (size_t i = 0; (setting = tool_config_setting(i)); i++) {
        struct fs_mount_options defaults, changed;
        memset(&defaults, 0, sizeof defaults);
        memset(&changed, 0, sizeof changed);
        tool_config_defaults(&defaults);
        if (strcmp(setting->key, "profile") == 0) /* stands for others */
            continue;
        set_another(setting->key, &changed);
        find_in_manual(manual, setting->key, said, sizeof said);
        ck_assert_msg(*said, "%s: not in the manual", setting->key);
        const bool marked = strstr(said, "\nLive.") || strstr(said, "All are live.");
        ck_assert_msg(marked == fs_settings_can_change(&defaults, &changed), "%s: %s", setting->key,
                      marked ? "marked, but can not change" : "can change, but is not marked");
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tests = tcase_create("config");
    tcase_add_checked_fixture(tests, make_dir, remove_dir);
    tcase_add_test(tests, the_mount_conf_of_the_tree_lists_every_default);
    tcase_add_test(tests, each_key_of_mount_conf_has_its_default_and_a_line_of_explanation);
    tcase_add_test(tests, a_file_and_options_set_the_same_things);
    tcase_add_test(tests, a_mistake_in_a_file_is_named_with_file_line_and_key);
    tcase_add_test(tests, policies_stand_in_the_order_of_the_file);
    tcase_add_test(tests, a_long_pattern_is_taken_whole_or_not_at_all);
    tcase_add_test(tests, a_mistake_in_a_policy_is_named_with_file_line_key_and_remedy);
    tcase_add_test(tests, too_many_policies_are_refused);
    tcase_add_test(tests, a_file_that_can_not_be_read_is_named);
    tcase_add_test(tests, a_mistake_in_an_option_is_named);
    tcase_add_test(tests, the_budget_that_nobody_names_fits_the_memory_there_is);
    tcase_add_test(tests, a_profile_wins_over_defaults_and_all_else_wins_over_a_profile);
    tcase_add_test(tests, a_profile_among_the_options_takes_the_place_of_the_files);
    tcase_add_test(tests, a_profile_that_is_not_known_is_refused_with_those_that_are);
    tcase_add_test(tests, a_budget_may_be_a_share_of_the_memory);
    tcase_add_test(tests, new_settings_have_bounds);
    tcase_add_test(tests, what_is_shown_can_be_set);
    tcase_add_test(tests, the_manual_marks_what_can_change_while_it_is_mounted);
    suite_add_tcase(suite, tests);

    return test_run(suite);
}
