/*
 * tests/fs/test_policy.c: patterns and policies, alone and on a volume.
 *
 * An oracle takes whole paths and tries every split that a `**` may stand for. KVFS_SEED chooses
 * the random patterns and paths.
 */
#include <check.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/apply.h"
#include "fs/describe.h"
#include "fs/expiry.h"
#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/pattern.h"
#include "fs/policy_lookup.h"
#include "scratch_store.h"
#include "tests/run.h"

#define SECOND        INT64_C(1000000000)
#define PATH_MAX_TEST 200u

/* ---- patterns ------------------------------------------------------------------------------ */

START_TEST(a_component_matches_as_in_a_shell)
{
    static const struct {
        const char *pattern, *name;
        bool as_shell, plain;
    } cases[] = {
        {"a", "a", true, true},        {"a", "b", false, false},
        {"*", "abc", true, true},      {"*", ".hidden", false, true},
        {".*", ".hidden", true, true}, {"*.c", "x.c", true, true},
        {"*.c", ".c", false, true},    {"*.c", "x.h", false, false},
        {"?", "ab", false, false},     {"[a-c]x", "bx", true, true},
        {"[!a]x", "ax", false, false}, {"\\*", "*", true, true},
        {"\\*", "a", false, false},    {"a*b?[c]", "axxb-c", true, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t length = strlen(cases[i].pattern);
        ck_assert_msg(fs_pattern_matches(cases[i].pattern, length, cases[i].name,
                                         FS_PATTERN_DOTS_WRITTEN) == cases[i].as_shell,
                      "%s %s", cases[i].pattern, cases[i].name);
        ck_assert_msg(fs_pattern_matches(cases[i].pattern, length, cases[i].name,
                                         FS_PATTERN_DOTS_PLAIN) == cases[i].plain,
                      "%s %s", cases[i].pattern, cases[i].name);
    }
}
END_TEST

START_TEST(what_is_wrong_with_a_pattern_is_told)
{
    static const char *const good[] = {"a",   "a/b",   "**",       "a/**/b", "[]a]", "[!]]",
                                       "\\[", "a\\\\", "[a\\]b]c", "...",    "*.log"};
    static const struct {
        const char *pattern, *words;
    } bad[] = {
        {"", "no name"},        {"/", "no name"},          {"a/", "no name"},
        {"a//b", "no name"},    {"a/../b", "no name"},     {".", "no name"},
        {"[a", "not closed"},   {"a/[b/c]", "not closed"}, {"[]", "not closed"},
        {"[!]", "not closed"},  {"x[a-", "not closed"},    {"a\\", "backslash"},
        {"a\\/b", "backslash"}, {"[a\\", "not closed"},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        ck_assert_msg(!fs_pattern_fault(good[i], strlen(good[i])), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *fault = fs_pattern_fault(bad[i].pattern, strlen(bad[i].pattern));
        ck_assert_msg(fault && strstr(fault, bad[i].words), "%s: %s", bad[i].pattern,
                      fault ? fault : "-");
    }
}
END_TEST

/* ---- policies ---------------------------------------------------------------------------------
 */

static struct fs_policy *add(struct fs_policies *policies, const char *pattern)
{
    struct fs_policy *policy;
    const char *fault;
    ck_assert_msg(!fs_policies_add(policies, pattern, &policy, &fault), "%s", pattern);
    return policy;
}

/* The policies that a path matches. */
static uint64_t match(const struct fs_policies *policies, const char *path)
{
    struct fs_policy_state state;
    uint64_t matches = 0;
    char copy[PATH_MAX_TEST], *rest = copy;
    snprintf(copy, sizeof copy, "%s", path);
    fs_policies_start(policies, &state);
    for (char *name; (name = strsep(&rest, "/"));)
        matches = fs_policies_step(policies, &state, name, &state);
    return matches;
}

START_TEST(patterns_mean_what_the_manual_says)
{
    static const struct {
        const char *pattern, *path;
        bool matches;
    } cases[] = {
        {"*.log", "a.log", true},
        {"*.log", "var/log/a.log", true},
        {"*.log", "a.log/b", false},
        {"*.log", ".log", true},
        {"/*.log", "a.log", true},
        {"/*.log", "var/a.log", false},
        {"models/**", "models/a", true},
        {"models/**", "models/a/b/c", true},
        {"models/**", "models", false},
        {"models/**", "x/models/a", false},
        {"**/models/**", "x/models/a", true},
        {"**/models/**", "models/a", true},
        {"models/*", "models/a/b", false},
        {"models/*", "models/.a", true},
        {"a/**/z", "a/z", true},
        {"a/**/z", "a/b/c/z", true},
        {"a/**/z", "a/b/z/c", false},
        {"a/**/b/**/c", "a/b/b/x/c", true},
        {"**", "a/b", true},
        {"/**", "a/b", true},
        {"models/**", "models/.cache/x", true},
        {"a/?", "a/b", true},
        {"core", "x/core", true},
        {"core*", "x/core.12", true},
        {"core", "x/score", false},
        {"a\\*", "x/a*", true},
        {"a\\*", "x/ab", false},
        {"**/a/**", "a", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fs_policies *const policies = fs_policies_new();
        (void)add(policies, cases[i].pattern);
        ck_assert_msg(match(policies, cases[i].path) == cases[i].matches, "%s %s", cases[i].pattern,
                      cases[i].path);
        ck_assert_msg(fs_pattern_matches_path(cases[i].pattern, cases[i].path,
                                              FS_PATTERN_DOTS_PLAIN) == cases[i].matches,
                      "as a path: %s %s", cases[i].pattern, cases[i].path);
        fs_policies_free(policies);
    }
}
END_TEST

START_TEST(each_key_is_decided_by_the_first_that_has_it)
{
    struct fs_policies *const policies = fs_policies_new();
    struct fs_policy *policy = add(policies, "keep/**");
    policy->sets = 1u << FS_POLICY_TTL;
    policy = add(policies, "*.log");
    policy->sets = 1u << FS_POLICY_CODEC | 1u << FS_POLICY_TTL;
    policy = add(policies, "**/x.log");
    policy->sets = 1u << FS_POLICY_CODEC | 1u << FS_POLICY_PIN;

    const struct fs_policy_choice choice =
        fs_policies_choose(policies, match(policies, "keep/x.log"));
    ck_assert_uint_eq(choice.by[FS_POLICY_TTL], 1);
    ck_assert_uint_eq(choice.by[FS_POLICY_CODEC], 2);
    ck_assert_uint_eq(choice.by[FS_POLICY_PIN], 3);
    ck_assert_uint_eq(choice.by[FS_POLICY_PREFETCH], 0);
    ck_assert_ptr_null(fs_policy_for(policies, &choice, FS_POLICY_EXTENT_SIZE));
    ck_assert_str_eq(fs_policy_for(policies, &choice, FS_POLICY_PIN)->pattern, "**/x.log");
    ck_assert(fs_policies_have(policies, FS_POLICY_PIN));
    ck_assert(!fs_policies_have(policies, FS_POLICY_PREFETCH));
    fs_policies_free(policies);
}
END_TEST

START_TEST(what_can_not_be_added_changes_nothing)
{
    struct fs_policies *const policies = fs_policies_new();
    struct fs_policy *policy;
    const char *fault;
    char text[FS_POLICY_PATTERN_MAX + 2];
    (void)add(policies, "a");
    ck_assert_int_eq(fs_policies_add(policies, "a", &policy, &fault), -EEXIST);
    ck_assert_int_eq(fs_policies_add(policies, "b[", &policy, &fault), -EINVAL);
    ck_assert_ptr_nonnull(fault);
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    ck_assert_int_eq(fs_policies_add(policies, text, &policy, &fault), -ENAMETOOLONG);
    for (unsigned i = 1; i < FS_POLICY_MAX; i++) {
        snprintf(text, sizeof text, "n%u", i);
        (void)add(policies, text);
    }
    ck_assert_int_eq(fs_policies_add(policies, "one more", &policy, &fault), -E2BIG);
    ck_assert_uint_eq(fs_policies_count(policies), FS_POLICY_MAX);
    ck_assert_uint_eq(match(policies, "x/n63"), UINT64_C(1) << 63);
    fs_policies_free(policies);

    struct fs_policies *const deep = fs_policies_new();
    int err = 0;
    for (unsigned i = 0; !err; i++) {
        snprintf(text, sizeof text, "a/b/c/d/e/f/g/h/i/%u", i);
        err = fs_policies_add(deep, text, &policy, &fault);
    }
    ck_assert_int_eq(err, -E2BIG);
    ck_assert_uint_eq(fs_policies_count(deep), FS_POLICY_STEPS_MAX / 10);
    fs_policies_free(deep);
}
END_TEST

/* ---- against an oracle
 * --------------------------------------------------------------------------- */

static bool oracle_names(char **pattern, size_t patterns, char **path, size_t names)
{
    if (!patterns)
        return !names;
    if (strcmp(*pattern, "**") == 0) {
        if (patterns == 1)
            return names > 0;
        for (size_t skip = 0; skip <= names; skip++)
            if (oracle_names(pattern + 1, patterns - 1, path + skip, names - skip))
                return true;
        return false;
    }
    return names && fnmatch(*pattern, *path, 0) == 0 &&
           oracle_names(pattern + 1, patterns - 1, path + 1, names - 1);
}

static size_t split(char *text, char **parts)
{
    size_t count = 0;
    for (char *part; (part = strsep(&text, "/"));)
        parts[count++] = part;
    return count;
}

static bool oracle(const char *pattern, const char *path)
{
    char pattern_copy[PATH_MAX_TEST], path_copy[PATH_MAX_TEST];
    char *patterns[PATH_MAX_TEST], *names[PATH_MAX_TEST];
    snprintf(path_copy, sizeof path_copy, "%s", path);
    const size_t name_count = split(path_copy, names);
    if (!strchr(pattern, '/'))
        return fnmatch(pattern, names[name_count - 1], 0) == 0;
    snprintf(pattern_copy, sizeof pattern_copy, "%s", pattern + (*pattern == '/'));
    const size_t pattern_count = split(pattern_copy, patterns);
    return oracle_names(patterns, pattern_count, names, name_count);
}

static void make_random(uint64_t *random, const char *const *words, size_t word_count, char *out,
                        size_t cap)
{
    const size_t parts = 1 + scratch_random(random) % 5;
    size_t used = 0;
    for (size_t i = 0; i < parts; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%s", i ? "/" : "",
                                 words[scratch_random(random) % word_count]);
}

START_TEST(random_paths_are_judged_as_by_the_oracle)
{
    static const char *const pattern_words[] = {"a",  "b",  "ab", "*",    "**",  "**",
                                                "a*", "*b", "?",  "[ab]", "a?b", "*.a"};
    static const char *const path_words[] = {"a", "b", "ab", "ba", "abb", ".a", "b.a", "aab"};
    uint64_t random = scratch_seed();
    unsigned matched = 0;
    for (unsigned round = 0; round < 300; round++) {
        struct fs_policies *const policies = fs_policies_new();
        for (unsigned i = 0; i < 20; i++) {
            char pattern[PATH_MAX_TEST];
            struct fs_policy *policy;
            const char *fault;
            make_random(&random, pattern_words, sizeof pattern_words / sizeof pattern_words[0],
                        pattern, sizeof pattern);
            const int err = fs_policies_add(policies, pattern, &policy, &fault);
            ck_assert_msg(!err || err == -EEXIST, "%s", pattern);
        }
        for (unsigned i = 0; i < 50; i++) {
            char path[PATH_MAX_TEST];
            make_random(&random, path_words, sizeof path_words / sizeof path_words[0], path,
                        sizeof path);
            const uint64_t found = match(policies, path);
            for (size_t at = 0; at < fs_policies_count(policies); at++) {
                const char *pattern = fs_policies_at(policies, at)->pattern;
                const bool expected = oracle(pattern, path);
                ck_assert_msg((found >> at & 1) == expected, "%s %s", pattern, path);
                ck_assert_msg(fs_pattern_matches_path(pattern, path, FS_PATTERN_DOTS_PLAIN) ==
                                  expected,
                              "as a path: %s %s", pattern, path);
                matched += expected;
            }
        }
        fs_policies_free(policies);
    }
    ck_assert_uint_gt(matched, 1000);
}
END_TEST

/* ---- on a volume -------------------------------------------------------------------------------
 */

static struct scratch_store scratch;
static struct fs_volume *volume;
static struct fs_policies *policies;
static int64_t clock_ns;
static const struct fs_caller root_caller;
static uint8_t content[1u << 20];

static int64_t test_clock(void)
{
    return clock_ns;
}

static void open_volume(void)
{
    const struct fs_volume_options options = {.now = test_clock, .policies = policies};
    struct kv_error error = {.text = ""};
    const int err = fs_volume_open(scratch.store, &options, &volume, &error);
    ck_assert_msg(err == 0, "%s", error.text);
}

static void setup(void)
{
    scratch_open(&scratch, 128u << 20, 0, 0);
    clock_ns = 1000 * SECOND;
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    policies = fs_policies_new();
    struct fs_policy *policy = add(policies, "*.log");
    policy->sets = 1u << FS_POLICY_CODEC | 1u << FS_POLICY_EXTENT_SIZE;
    policy->has_codec = true;
    policy->codec = (struct kv_codec_spec){.codec = KV_CODEC_ZSTD, .level = 3};
    policy->extent_bytes = 32768;
    policy = add(policies, "raw/**");
    policy->sets = 1u << FS_POLICY_CODEC | 1u << FS_POLICY_EXTENT_SIZE;
    policy->has_codec = true;
    policy->codec = (struct kv_codec_spec){.codec = KV_CODEC_LZ4};
    policy->extent_bytes = 1u << 20;
    policy = add(policies, "*.tmp");
    policy->sets = 1u << FS_POLICY_TTL;
    policy->ttl_ns = 100 * (uint64_t)SECOND;
    policy = add(policies, "**/spool/*");
    policy->sets = 1u << FS_POLICY_TTL;
    policy->ttl_ns = 50 * (uint64_t)SECOND;
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i / 100);
    open_volume();
}

static void note_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    (void)context;
    if (severity != KV_CHECK_NOTE)
        ck_abort_msg("the check found %s: %s", what, text);
}

static void teardown(void)
{
    const struct kv_check_options options = {.report = note_finding};
    struct kv_check_result result = {0};
    fs_volume_close(volume);
    ck_assert_int_eq(fs_check(scratch.store, &options, &result), 0);
    fs_policies_free(policies);
    scratch_close(&scratch);
}

static uint64_t make(uint64_t directory, const char *name, uint32_t mode)
{
    const struct fs_new_node node = {.mode = mode};
    struct fs_record record;
    ck_assert_int_eq(fs_create(volume, &root_caller, directory, name, strlen(name), &node, &record),
                     0);
    return record.file.ino;
}

static void fill(uint64_t ino)
{
    ck_assert_int_eq(fs_write(volume, ino, 0, content, sizeof content, false), 0);
}

/* How its extents are packed and how many there are, after a write of 1 MiB. */
static void expect_extents(uint64_t ino, enum kv_codec codec, uint64_t count)
{
    struct fs_description description;
    ck_assert_int_eq(fs_describe(volume, ino, &description), 0);
    ck_assert_uint_eq(description.extent_count, count);
    ck_assert_uint_eq(description.extents_by_codec[codec], count);
}

static void expect_written(uint64_t ino, enum kv_codec codec, uint64_t count)
{
    fill(ino);
    expect_extents(ino, codec, count);
}

static uint64_t ttl_of(uint64_t ino)
{
    struct fs_record record;
    ck_assert_int_eq(fs_getattr(volume, ino, &record), 0);
    return record.expiry_ns ? (record.expiry_ns - (uint64_t)clock_ns) / (uint64_t)SECOND : 0;
}

static void move_to(uint64_t from, const char *name, uint64_t to, const char *new_name)
{
    ck_assert_int_eq(fs_rename(volume, from, name, strlen(name), to, new_name, strlen(new_name), 0),
                     0);
}

START_TEST(codec_and_extent_size_go_by_the_present_name)
{
    const uint64_t plain = make(FS_ROOT_INO, "a", S_IFREG | 0644);
    const uint64_t log = make(FS_ROOT_INO, "a.log", S_IFREG | 0644);
    const uint64_t raw = make(FS_ROOT_INO, "raw", S_IFDIR | 0755);
    const uint64_t below = make(raw, "below", S_IFDIR | 0755);
    const uint64_t deep = make(below, "deep", S_IFREG | 0644);
    const uint64_t both = make(below, "both.log", S_IFREG | 0644);
    expect_written(plain, KV_CODEC_NONE, 8);
    expect_written(log, KV_CODEC_ZSTD, 32);
    expect_written(deep, KV_CODEC_LZ4, 1);
    expect_written(both, KV_CODEC_ZSTD, 32); /* the first section */

    move_to(FS_ROOT_INO, "a", FS_ROOT_INO, "b.log");
    expect_extents(plain, KV_CODEC_NONE, 8); /* what is written stays */
    expect_written(plain, KV_CODEC_ZSTD, 32);
    move_to(FS_ROOT_INO, "b.log", below, "c");
    expect_written(plain, KV_CODEC_LZ4, 1);

    /* All that is below a directory goes with it. */
    move_to(FS_ROOT_INO, "raw", FS_ROOT_INO, "cooked");
    expect_written(deep, KV_CODEC_NONE, 8);
    expect_written(plain, KV_CODEC_NONE, 8);
    expect_written(both, KV_CODEC_ZSTD, 32);
    move_to(FS_ROOT_INO, "cooked", FS_ROOT_INO, "raw");
    expect_written(deep, KV_CODEC_LZ4, 1);

    fs_volume_close(volume);
    scratch_reopen(&scratch);
    open_volume();
    struct fs_record record;
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "raw", 3, &record), 0);
    ck_assert_int_eq(fs_lookup(volume, record.file.ino, "below", 5, &record), 0);
    ck_assert_int_eq(fs_lookup(volume, record.file.ino, "deep", 4, &record), 0);
    expect_extents(deep, KV_CODEC_LZ4, 1);
    expect_written(deep, KV_CODEC_LZ4, 1);
}
END_TEST

START_TEST(what_has_no_single_name_is_under_no_policy)
{
    struct fs_record record;
    const uint64_t log = make(FS_ROOT_INO, "a.log", S_IFREG | 0644);
    expect_written(log, KV_CODEC_ZSTD, 32);
    ck_assert_int_eq(fs_link(volume, log, FS_ROOT_INO, "b.log", 5, &record), 0);
    expect_written(log, KV_CODEC_NONE, 8);

    ck_assert_int_eq(fs_create_unnamed(volume, &root_caller, FS_ROOT_INO, 0600, &record), 0);
    const uint64_t unnamed = record.file.ino;
    expect_written(unnamed, KV_CODEC_NONE, 8);
    ck_assert_int_eq(fs_publish(volume, unnamed, FS_ROOT_INO, "c.log", 5), 0);
    expect_written(unnamed, KV_CODEC_ZSTD, 32);
}
END_TEST

START_TEST(files_that_get_a_name_get_its_time_to_live)
{
    struct fs_record record;
    const uint64_t tmp = make(FS_ROOT_INO, "a.tmp", S_IFREG | 0644);
    const uint64_t spool = make(FS_ROOT_INO, "spool", S_IFDIR | 0755);
    const uint64_t job = make(spool, "job", S_IFREG | 0644);
    const uint64_t later = make(FS_ROOT_INO, "later", S_IFREG | 0644);
    ck_assert_uint_eq(ttl_of(tmp), 100);
    ck_assert_uint_eq(ttl_of(job), 50);
    ck_assert_uint_eq(ttl_of(later), 0);
    ck_assert_uint_eq(ttl_of(make(spool, "x.tmp", S_IFREG | 0644)), 100); /* the first section */
    ck_assert_int_eq(fs_getattr(volume, spool, &record), 0);
    ck_assert_uint_eq(record.expiry_ns, 0); /* policies are about files */

    move_to(FS_ROOT_INO, "later", FS_ROOT_INO, "later.tmp"); /* as programs put files in place */
    ck_assert_uint_eq(ttl_of(later), 100);
    clock_ns += 10 * SECOND;
    move_to(FS_ROOT_INO, "later.tmp", spool, "later"); /* what has a time keeps it */
    ck_assert_uint_eq(ttl_of(later), 90);

    ck_assert_int_eq(fs_create_unnamed(volume, &root_caller, FS_ROOT_INO, 0600, &record), 0);
    ck_assert_int_eq(fs_publish(volume, record.file.ino, spool, "new", 3), 0);
    ck_assert_uint_eq(ttl_of(record.file.ino), 50);
    ck_assert_int_eq(fs_create_unnamed(volume, &root_caller, FS_ROOT_INO, 0600, &record), 0);
    ck_assert_int_eq(fs_publish_for(volume, record.file.ino, spool, "longer", 6, 700), 0);
    ck_assert_uint_eq(ttl_of(record.file.ino), 700);
    ck_assert_int_eq(fs_create_unnamed(volume, &root_caller, FS_ROOT_INO, 0600, &record), 0);
    const uint64_t linked = record.file.ino;
    ck_assert_int_eq(fs_link(volume, linked, spool, "linked", 6, &record), 0);
    ck_assert_uint_eq(ttl_of(linked), 50);

    /* With a directory's default, the sooner counts. */
    ck_assert_int_eq(fs_setxattr(volume, spool, FS_XATTR_TTL, "20", 2, 0, false), 0);
    ck_assert_uint_eq(ttl_of(make(spool, "y.tmp", S_IFREG | 0644)), 20);
    ck_assert_int_eq(fs_setxattr(volume, spool, FS_XATTR_TTL, "1d", 2, 0, false), 0);
    ck_assert_uint_eq(ttl_of(make(spool, "z.tmp", S_IFREG | 0644)), 100);

    uint64_t count;
    int64_t next_ns;
    clock_ns += 1000 * SECOND;
    ck_assert_int_eq(fs_expire(volume, 1000, NULL, NULL, &count, &next_ns), 0);
    ck_assert_uint_eq(count, 9);
}
END_TEST

START_TEST(a_batch_obeys_policies_where_it_leaves_things)
{
    static const char text[] = "mkdir old\nput old/spool/job @3\nabc\n"
                               "rename old new\nput new/raw.tmp x\nput plain y\n";
    static const char more[] = "rename new/spool/job settled\nrename plain new/spool/late\n";
    struct fs_apply_result result;
    struct fs_record record;
    ck_assert_msg(!fs_apply_text(volume, &root_caller, text, strlen(text), NULL, &result), "%s",
                  result.error.text);
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "new", 3, &record), 0);
    const uint64_t new = record.file.ino;
    ck_assert_int_eq(fs_lookup(volume, new, "raw.tmp", 7, &record), 0);
    ck_assert_uint_eq(ttl_of(record.file.ino), 100);
    ck_assert_int_eq(fs_lookup(volume, new, "spool", 5, &record), 0);
    const uint64_t spool = record.file.ino;
    ck_assert_int_eq(fs_lookup(volume, spool, "job", 3, &record), 0);
    ck_assert_uint_eq(ttl_of(record.file.ino), 50);
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "plain", 5, &record), 0);
    ck_assert_uint_eq(ttl_of(record.file.ino), 0);

    ck_assert_msg(!fs_apply_text(volume, &root_caller, more, strlen(more), NULL, &result), "%s",
                  result.error.text);
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "settled", 7, &record), 0);
    ck_assert_uint_eq(ttl_of(record.file.ino), 50); /* it keeps what it has */
    ck_assert_int_eq(fs_lookup(volume, spool, "late", 4, &record), 0);
    ck_assert_uint_eq(ttl_of(record.file.ino), 50);
}
END_TEST

START_TEST(a_moved_directory_takes_what_was_decided_below_it_along_in_a_batch_too)
{
    const uint64_t raw = make(FS_ROOT_INO, "raw", S_IFDIR | 0755);
    const uint64_t file = make(raw, "file", S_IFREG | 0644);
    static const char text[] = "rename raw other\n";
    struct fs_apply_result result;
    expect_written(file, KV_CODEC_LZ4, 1);
    ck_assert_int_eq(fs_apply_text(volume, &root_caller, text, strlen(text), NULL, &result), 0);
    expect_written(file, KV_CODEC_NONE, 8);
}
END_TEST

START_TEST(what_holds_for_a_file_is_told_as_json)
{
    char text[4096];
    const uint64_t log = make(FS_ROOT_INO, "a.log", S_IFREG | 0644);
    const int length = fs_describe_json(volume, log, text, sizeof text);
    ck_assert_int_eq(length, (int)strlen(text));
    ck_assert_ptr_nonnull(strstr(text, "\"policy\":{\"codec\":{\"value\":\"zstd:3\",\"pattern\":"
                                       "\"*.log\"},\"extent_size\":{\"value\":\"32K\",\"pattern\":"
                                       "\"*.log\"}}}"));
    ck_assert_int_eq(fs_describe_json(volume, log, NULL, 0), length);
    ck_assert_int_gt(fs_describe_json(volume, FS_ROOT_INO, text, sizeof text), 0);
    ck_assert_ptr_nonnull(strstr(text, "\"policy\":{}}"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("policy");
    TCase *alone = tcase_create("alone"), *on_volume = tcase_create("volume");
    tcase_set_timeout(alone, 120);
    tcase_set_timeout(on_volume, 120);
    tcase_add_test(alone, a_component_matches_as_in_a_shell);
    tcase_add_test(alone, what_is_wrong_with_a_pattern_is_told);
    tcase_add_test(alone, patterns_mean_what_the_manual_says);
    tcase_add_test(alone, each_key_is_decided_by_the_first_that_has_it);
    tcase_add_test(alone, what_can_not_be_added_changes_nothing);
    tcase_add_test(alone, random_paths_are_judged_as_by_the_oracle);
    suite_add_tcase(suite, alone);
    tcase_add_checked_fixture(on_volume, setup, teardown);
    tcase_add_test(on_volume, codec_and_extent_size_go_by_the_present_name);
    tcase_add_test(on_volume, what_has_no_single_name_is_under_no_policy);
    tcase_add_test(on_volume, files_that_get_a_name_get_its_time_to_live);
    tcase_add_test(on_volume, a_batch_obeys_policies_where_it_leaves_things);
    tcase_add_test(on_volume,
                   a_moved_directory_takes_what_was_decided_below_it_along_in_a_batch_too);
    tcase_add_test(on_volume, what_holds_for_a_file_is_told_as_json);
    suite_add_tcase(suite, on_volume);
    return test_run(suite);
}
