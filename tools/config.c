/*
 * tools/config.c: the settings of a mount, from mount.conf and from -o options.
 *
 * Owns       the table of settings: the one place that knows names, defaults and bounds.
 * Invariant  mount.conf at the top of the tree lists exactly this table (tests/tools).
 */
#include "tools/config.h"

#include <assert.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/figures.h"
#include "fs/policy.h"
#include "kv/base.h"
#include "tools/config_policy.h"
#include "tools/memory.h"
#include "tools/options.h"
#include "tools/profiles.h"

enum setting_kind {
    SETTING_BOOL,
    SETTING_U32,
    SETTING_SIZE, /* below 4G */
    SETTING_MS,
    SETTING_CHOICE,
    SETTING_CATEGORIES, /* of metrics */
    SETTING_NAME,       /* FS_CONTROL_NAME_MAX bytes of text */
    SETTING_MEMORY,     /* a size, or a share of the memory there is */
    SETTING_PROFILE,    /* FS_PROFILE_NAME_MAX bytes: the name of one, or none */
};

struct setting {
    struct tool_setting shown;
    enum setting_kind kind;
    size_t offset;              /* of the field in struct fs_mount_options */
    uint64_t least, most;       /* numbers only */
    const char *const *choices; /* choices only: by the value that they stand for */
};

#define FIELD(name) offsetof(struct fs_mount_options, name)

static const char *const sync_choices[] = {
    [KV_SYNC_FSYNC] = "fsync",
    [KV_SYNC_ALWAYS] = "always",
    [KV_SYNC_CHECKPOINT] = "checkpoint",
    NULL,
};
static const char *const transport_choices[] = {
    [FS_TRANSPORT_AUTO] = "auto",
    [FS_TRANSPORT_RING] = "ring",
    [FS_TRANSPORT_DEVICE] = "dev",
    NULL,
};

static const char *const log_level_choices[] = {
    [FS_LOG_DEBUG] = "debug",
    [FS_LOG_INFO] = "info",
    [FS_LOG_WARNING] = "warning",
    [FS_LOG_ERROR] = "error",
    NULL,
};

static const char *const acl_choices[] = {
    [FS_ACL_HELD] = "yes",
    [FS_ACL_OFF] = "no",
    NULL,
};

#define PERCENT_OR_NEVER "a number from 0 to 100, 0 for never"
#define TIME_OR_NEVER    "a time from 0 to 1h, such as 100ms; 0 for never"

static const struct setting settings[] = {
    {{"mount", "profile", "none", "none or one of " TOOL_PROFILE_NAMES},
     SETTING_PROFILE,
     FIELD(profile),
     0,
     0,
     NULL},
    {{"mount", "ro", "no", "yes or no"}, SETTING_BOOL, FIELD(read_only), 0, 0, NULL},
    {{"mount", "allow_other", "no", "yes or no"}, SETTING_BOOL, FIELD(allow_other), 0, 0, NULL},
    {{"mount", "writeback", "no", "yes or no"}, SETTING_BOOL, FIELD(writeback), 0, 0, NULL},
    {{"mount", "acl", "yes", "yes or no"}, SETTING_CHOICE, FIELD(acl), 0, 0, acl_choices},
    {{"mount", "transport", "auto", "auto, ring or dev"},
     SETTING_CHOICE,
     FIELD(transport),
     0,
     0,
     transport_choices},
    {{"mount", "threads", "10", "a number from 1 to 256"},
     SETTING_U32,
     FIELD(threads),
     1,
     256,
     NULL},
    {{"mount", "read_ahead", "128K", "a size from 4K to 16M, such as 1M"},
     SETTING_SIZE,
     FIELD(read_ahead_bytes),
     4u << 10,
     16u << 20,
     NULL},
    {{"mount", "seccomp", "yes", "yes or no"}, SETTING_BOOL, FIELD(seccomp), 0, 0, NULL},
    {{"mount", "control", ".kvfs", "a name for the control directory, or none"},
     SETTING_NAME,
     FIELD(control),
     0,
     0,
     NULL},
    {{"memory", "memory_budget", "256M",
      "a size of at least 8M, such as 256M, or a share of the memory, such as 25%"},
     SETTING_MEMORY,
     FIELD(memory_budget_bytes),
     8u << 20,
     1ull << 50,
     NULL},
    {{"memory", "hot_ratio", "12", "a number from 0 to 10000"},
     SETTING_U32,
     FIELD(tiers.ratio[KV_TIER_HOT]),
     0,
     KV_TIER_RATIO_MAX,
     NULL},
    {{"memory", "warm_ratio", "3", "a number from 0 to 10000"},
     SETTING_U32,
     FIELD(tiers.ratio[KV_TIER_WARM]),
     0,
     KV_TIER_RATIO_MAX,
     NULL},
    {{"memory", "cold_ratio", "0", "a number from 0 to 10000"},
     SETTING_U32,
     FIELD(tiers.ratio[KV_TIER_COLD]),
     0,
     KV_TIER_RATIO_MAX,
     NULL},
    {{"memory", "frozen_ratio", "0", "a number from 0 to 10000"},
     SETTING_U32,
     FIELD(tiers.ratio[KV_TIER_FROZEN]),
     0,
     KV_TIER_RATIO_MAX,
     NULL},
    {{"memory", "adapt_tiers", "yes", "yes or no"}, SETTING_BOOL, FIELD(adapt_tiers), 0, 0, NULL},
    {{"memory", "extent_percent", "25", "a number from 0 to 75"},
     SETTING_U32,
     FIELD(extent_percent),
     0,
     75,
     NULL},
    {{"memory", "pin_percent", "25", "a number from 0 to 50"},
     SETTING_U32,
     FIELD(pin_percent),
     0,
     50,
     NULL},
    {{"memory", "log_buffer", "4M", "a size from 64K to 64M, such as 1M"},
     SETTING_SIZE,
     FIELD(log_buffer_bytes),
     64u << 10,
     64u << 20,
     NULL},
    {{"memory", "touch_ahead", "64M", "a size from 0 to 2G, such as 64M"},
     SETTING_SIZE,
     FIELD(touch_ahead_bytes),
     0,
     2u << 30,
     NULL},
    {{"memory", "buffered_io", "no", "yes or no"}, SETTING_BOOL, FIELD(buffered_io), 0, 0, NULL},
    {{"durability", "sync", "fsync", "fsync, always or checkpoint"},
     SETTING_CHOICE,
     FIELD(sync),
     0,
     0,
     sync_choices},
    {{"durability", "commit_interval", "1s", "a time from 10ms to 1h, such as 1s"},
     SETTING_MS,
     FIELD(commit_interval_ms),
     10,
     3600000,
     NULL},
    {{"durability", "checkpoint_interval", "30s", "a time from 1s to 1h, such as 5min"},
     SETTING_MS,
     FIELD(checkpoint_interval_ms),
     1000,
     3600000,
     NULL},
    {{"diagnostics", "count_requests", "no", "yes or no"},
     SETTING_BOOL,
     FIELD(count_requests),
     0,
     0,
     NULL},
    {{"diagnostics", "log_level", "debug", "debug, info, warning or error"},
     SETTING_CHOICE,
     FIELD(log_level),
     0,
     0,
     log_level_choices},
    {{"metrics", "metrics", "all", "all, none, or some of cache,wal,io,fuse,tree,codec,space"},
     SETTING_CATEGORIES,
     FIELD(metrics),
     0,
     0,
     NULL},
    {{"alerts", "alert_space_warning", "10", PERCENT_OR_NEVER},
     SETTING_U32,
     FIELD(alerts.space_warning_percent),
     0,
     100,
     NULL},
    {{"alerts", "alert_space_critical", "3", PERCENT_OR_NEVER},
     SETTING_U32,
     FIELD(alerts.space_critical_percent),
     0,
     100,
     NULL},
    {{"alerts", "alert_log_warning", "95", PERCENT_OR_NEVER},
     SETTING_U32,
     FIELD(alerts.log_warning_percent),
     0,
     100,
     NULL},
    {{"alerts", "alert_scattered_warning", "90", PERCENT_OR_NEVER},
     SETTING_U32,
     FIELD(alerts.scattered_warning_percent),
     0,
     100,
     NULL},
    {{"alerts", "alert_hits_warning", "0", PERCENT_OR_NEVER},
     SETTING_U32,
     FIELD(alerts.hits_warning_percent),
     0,
     100,
     NULL},
    {{"alerts", "alert_latency_warning", "1s", TIME_OR_NEVER},
     SETTING_MS,
     FIELD(alerts.latency_warning_ms),
     0,
     3600000,
     NULL},
    {{"alerts", "alert_latency_critical", "10s", TIME_OR_NEVER},
     SETTING_MS,
     FIELD(alerts.latency_critical_ms),
     0,
     3600000,
     NULL},
    {{"alerts", "alert_interval", "10s", TIME_OR_NEVER},
     SETTING_MS,
     FIELD(alerts.interval_ms),
     0,
     3600000,
     NULL},
};
#define SETTING_COUNT (sizeof settings / sizeof settings[0])

static_assert(sizeof((struct fs_mount_options *)0)->threads == sizeof(uint32_t) &&
                  sizeof(enum kv_sync_mode) == sizeof(uint32_t) &&
                  sizeof(enum fs_transport_kind) == sizeof(uint32_t) &&
                  sizeof(unsigned) == sizeof(uint32_t),
              "threads and choices are stored as 32-bit settings");

const struct tool_setting *tool_config_setting(size_t index)
{
    return index < SETTING_COUNT ? &settings[index].shown : NULL;
}

static const struct setting *find_setting(const char *key)
{
    for (size_t i = 0; i < SETTING_COUNT; i++)
        if (strcmp(settings[i].shown.key, key) == 0)
            return &settings[i];
    return NULL;
}

/* A name that may stand in a directory and after -o. */
static int store_name(const char *text, char field[FS_CONTROL_NAME_MAX])
{
    const size_t length = strlen(text);
    if (length >= FS_CONTROL_NAME_MAX)
        return -ERANGE;
    if (!length || strchr(text, '/') || strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
        return -EINVAL;
    memset(field, 0, FS_CONTROL_NAME_MAX); /* equal settings are equal bytes */
    memcpy(field, text, length);
    return 0;
}

static int store_profile(const char *text, char field[FS_PROFILE_NAME_MAX])
{
    const bool is_none = strcmp(text, TOOL_PROFILE_NONE) == 0;
    if (!is_none && !tool_profile_find(text))
        return -EINVAL;
    memset(field, 0, FS_PROFILE_NAME_MAX); /* equal settings are equal bytes */
    memcpy(field, text, strlen(text));     /* the table's names fit */
    return 0;
}

/* A size, or "25%" of what the machine has: whole MiB, and no less than the least budget. */
static int parse_memory(const char *text, uint64_t *bytes)
{
    const size_t length = strlen(text);
    char digits[4];
    uint64_t percent;
    if (!length || text[length - 1] != '%')
        return tool_parse_size(text, bytes);
    if (length - 1 >= sizeof digits)
        return -EINVAL;
    memcpy(digits, text, length - 1);
    digits[length - 1] = '\0';
    const int err = tool_parse_number(digits, &percent);
    if (err)
        return err;
    if (percent < 1 || percent > 90)
        return -ERANGE;
    *bytes = kv_max_u64(tool_memory_bytes() / 100 * percent >> 20, 8) << 20;
    return 0;
}

/* Put `text` into the setting's field; -EINVAL or -ERANGE when it may not stand there. */
static int store_value(const struct setting *setting, const char *text,
                       struct fs_mount_options *options)
{
    void *field = (char *)options + setting->offset;
    uint64_t number = 0;
    int err = 0;
    switch (setting->kind) {
    case SETTING_BOOL:
        return tool_parse_bool(text, field);
    case SETTING_CHOICE:
        return tool_parse_choice(text, setting->choices, field);
    case SETTING_CATEGORIES:
        return fs_categories_parse(text, field);
    case SETTING_NAME:
        return store_name(text, field);
    case SETTING_PROFILE:
        return store_profile(text, field);
    case SETTING_MEMORY:
        err = parse_memory(text, &number);
        break;
    case SETTING_SIZE:
        err = tool_parse_size(text, &number);
        break;
    case SETTING_MS:
        err = tool_parse_duration(text, &number);
        break;
    case SETTING_U32:
        err = tool_parse_number(text, &number);
        break;
    }
    if (err)
        return err;
    if (number < setting->least || number > setting->most)
        return -ERANGE;

    if (setting->kind == SETTING_MEMORY)
        *(uint64_t *)field = number;
    else
        *(uint32_t *)field = (uint32_t)number;
    return 0;
}

static void show_size(uint64_t bytes, char *text, size_t cap)
{
    const bool mib = bytes % (1u << 20) == 0, kib = bytes % 1024 == 0;
    (void)snprintf(text, cap, "%" PRIu64 "%s", mib ? bytes >> 20 : (kib ? bytes >> 10 : bytes),
                   mib ? "M" : (kib ? "K" : ""));
}

/* The value as text that store_value would take. */
static void show_value(const struct setting *setting, const struct fs_mount_options *options,
                       char *text, size_t cap)
{
    const void *field = (const char *)options + setting->offset;
    uint32_t number;
    switch (setting->kind) {
    case SETTING_BOOL:
        (void)snprintf(text, cap, "%s", *(const bool *)field ? "yes" : "no");
        return;
    case SETTING_MEMORY:
        show_size(*(const uint64_t *)field, text, cap);
        return;
    case SETTING_SIZE:
        show_size(*(const uint32_t *)field, text, cap);
        return;
    case SETTING_PROFILE:
    case SETTING_NAME:
        (void)snprintf(text, cap, "%s", (const char *)field);
        return;
    default:
        memcpy(&number, field, sizeof number);
    }
    if (setting->kind == SETTING_CHOICE)
        (void)snprintf(text, cap, "%s", setting->choices[number]);
    else if (setting->kind == SETTING_CATEGORIES)
        fs_categories_text(number, text);
    else if (setting->kind == SETTING_MS && number % 1000 == 0)
        (void)snprintf(text, cap, "%" PRIu32 "s", number / 1000);
    else
        (void)snprintf(text, cap, "%" PRIu32 "%s", number, setting->kind == SETTING_MS ? "ms" : "");
}

bool tool_config_show(size_t index, const struct fs_mount_options *options, char *line, size_t cap)
{
    char value[FS_CATEGORIES_TEXT + FS_CONTROL_NAME_MAX];
    if (index >= SETTING_COUNT)
        return false;
    show_value(&settings[index], options, value, sizeof value);
    (void)snprintf(line, cap, "%s=%s", settings[index].shown.key, value);
    return true;
}

const struct fs_settings_words tool_config_words = {
    .set = tool_config_set,
    .show = tool_config_show,
};

int tool_config_environment(struct fs_mount_options *options, struct kv_error *error)
{
    const char *metrics = getenv("KVFS_METRICS");
    if (!metrics)
        return 0;
    const int err = tool_config_set("metrics", metrics, options, error);
    if (err)
        (void)snprintf(error->text, sizeof error->text,
                       "the environment's KVFS_METRICS: \"%.80s\" is not %s", metrics,
                       find_setting("metrics")->shown.form);
    return err;
}

void tool_config_defaults(struct fs_mount_options *options)
{
    *options = (struct fs_mount_options){0};
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const int err = store_value(&settings[i], settings[i].shown.default_value, options);
        KV_ASSERT(err == 0); /* the table is ours */
    }
}

int tool_config_set(const char *key, const char *value, struct fs_mount_options *options,
                    struct kv_error *error)
{
    const struct setting *setting = find_setting(key);
    if (!setting)
        return -ENOENT;
    if (!value && setting->kind != SETTING_BOOL) {
        snprintf(error->text, sizeof error->text, "option %s needs a value: %s", key,
                 setting->shown.form);
        return -EINVAL;
    }
    if (store_value(setting, value ? value : "yes", options)) {
        snprintf(error->text, sizeof error->text, "option %s: \"%.80s\" is not %s", key, value,
                 setting->shown.form);
        return -EINVAL;
    }
    return 0;
}

/* What the INI parser's callback works on. */
struct reading {
    struct fs_mount_options *options;   /* NULL: only the profile is wanted */
    const struct tool_profile *profile; /* that is named; kept by note_profile only */
    bool seen[SETTING_COUNT];
    struct fs_policies *policies; /* owned until the end; NULL: none so far */
    struct fs_policy *policy;     /* whose section it is; NULL: another one */
    int policy_line;              /* where that begins */
    FILE *file;
    int line;                          /* that was read last, from 1 */
    int failed_line;                   /* the first one with a setting that is wrong; 0 none */
    int err;                           /* -ENOMEM, or 0 */
    char problem[TOOL_POLICY_PROBLEM]; /* of the line that failed */
};

__attribute__((format(printf, 2, 3))) static int fail_line(struct reading *reading,
                                                           const char *format, ...)
{
    va_list arguments;
    if (reading->failed_line)
        return 0; /* the first one is what we report */
    va_start(arguments, format);
    vsnprintf(reading->problem, sizeof reading->problem, format, arguments);
    va_end(arguments);
    reading->failed_line = reading->line;
    return 0;
}

/* The section of a policy is over. */
static void end_policy(struct reading *reading)
{
    const int line = reading->line;
    if (reading->policy && !reading->policy->sets) {
        reading->line = reading->policy_line;
        (void)fail_line(reading, "policy \"%s\" sets nothing; give it a key or leave it out",
                        reading->policy->pattern);
        reading->line = line;
    }
    reading->policy = NULL;
}

/* The parser would cut a long pattern, and end it at the first bracket: policies begin here. */
static void begin_section(struct reading *reading, char *line)
{
    char problem[TOOL_POLICY_PROBLEM];
    end_policy(reading);
    if (!tool_policy_is_header(line))
        return;
    reading->policy_line = reading->line;
    const int err = tool_policy_begin(line, &reading->policies, &reading->policy, problem);
    if (err == -ENOMEM)
        reading->err = err;
    else if (err)
        (void)fail_line(reading, "%s", problem);
    strcpy(line, "[policy]\n"); /* there is room: the parser's lines have 200 bytes */
}

/*
 * Read a line for the parser, which does not tell its callback where it is. Blanks before it go:
 * the parser would take the line for one that goes on.
 */
static char *read_line(char *line, int capacity, void *context)
{
    struct reading *reading = context;
    reading->line++;
    if (!fgets(line, capacity, reading->file)) {
        end_policy(reading);
        return NULL;
    }
    const size_t length = strlen(line), blank = strspn(line, " \t");
    if (length + 1 == (size_t)capacity && line[length - 1] != '\n') {
        int next = fgetc(reading->file);
        if (next != EOF && next != '\n')
            (void)fail_line(reading, "the line is longer than %d bytes", capacity - 2);
        while (next != EOF && next != '\n')
            next = fgetc(reading->file);
    }
    memmove(line, line + blank, length + 1 - blank);
    if (*line == '[')
        begin_section(reading, line);
    return line;
}

/* Take one `key = value` line; the parser wants 1 for success and 0 for an error. */
static int take_line(void *context, const char *section, const char *key, const char *value)
{
    struct reading *reading = context;
    if (reading->failed_line)
        return 1; /* the parser goes on; the first error is what we report */

    if (reading->policy) {
        char problem[TOOL_POLICY_PROBLEM];
        return tool_policy_set(reading->policy, key, value, problem)
                   ? fail_line(reading, "%s", problem)
                   : 1;
    }
    const struct setting *setting = find_setting(key);
    if (!setting)
        return fail_line(reading, "unknown key \"%.60s\"; mount.conf lists all keys", key);
    if (!*section)
        return fail_line(reading, "key \"%s\" stands before any section; put it under [%s]", key,
                         setting->shown.section);
    if (strcmp(section, setting->shown.section) != 0)
        return fail_line(reading,
                         "key \"%s\" does not belong to section [%.50s]; put it under [%s]", key,
                         section, setting->shown.section);
    const size_t index = (size_t)(setting - settings);
    if (reading->seen[index])
        return fail_line(reading, "key \"%s\" is given twice; keep one", key);
    reading->seen[index] = true;
    if (store_value(setting, value, reading->options))
        return fail_line(reading, "key \"%s\": \"%.60s\" is not %s", key, value,
                         setting->shown.form);
    return 1;
}

/* Note the profile that a file names; everything else, mistakes too, is left to who reads it. */
static int note_profile(void *context, const char *section, const char *key, const char *value)
{
    struct reading *reading = context;
    if (strcmp(section, "mount") == 0 && strcmp(key, "profile") == 0)
        reading->profile = tool_profile_find(value);
    return 1;
}

static const struct tool_profile *find_profile(const char *path)
{
    struct reading reading = {.file = fopen(path, "re")};
    if (!reading.file)
        return NULL;
    /* Whoever reads the file says what is wrong. */
    (void)ini_parse_stream(read_line, &reading, note_profile, &reading);
    (void)fclose(reading.file); /* only read */
    fs_policies_free(reading.policies);
    return reading.profile;
}

void tool_config_start(const char *profile_name, const char *path, struct fs_mount_options *options)
{
    const struct tool_profile *const profile = profile_name ? tool_profile_find(profile_name)
                                               : path       ? find_profile(path)
                                                            : NULL;
    tool_config_defaults(options);
    options->memory_budget_bytes =
        tool_memory_modest(options->memory_budget_bytes, tool_memory_bytes());
    for (size_t i = 0; profile && profile->settings[i].key; i++) {
        struct kv_error error;
        const int err =
            tool_config_set(profile->settings[i].key, profile->settings[i].value, options, &error);
        KV_ASSERT(err == 0); /* the table is ours */
    }
}

void tool_config_release(struct fs_mount_options *options)
{
    fs_policies_free(options->policies);
    options->policies = NULL;
}

int tool_config_read(const char *path, struct fs_mount_options *options, struct kv_error *error)
{
    struct reading reading = {.options = options, .file = fopen(path, "re")};
    if (!reading.file) {
        const int err = -errno;
        snprintf(error->text, sizeof error->text, "%.200s: %s; give -c a readable file", path,
                 tool_error_text(err));
        return err;
    }

    const int line = ini_parse_stream(read_line, &reading, take_line, &reading);
    int err = 0;
    if (ferror(reading.file)) {
        err = -EIO;
        snprintf(error->text, sizeof error->text, "%.200s: can not be read; give -c a text file",
                 path);
    } else if (line < 0 || reading.err) {
        err = -ENOMEM;
        snprintf(error->text, sizeof error->text, "%.200s: %s", path, tool_error_text(err));
    } else if (line > 0 || reading.failed_line) {
        const bool is_known = reading.failed_line && (!line || reading.failed_line <= line);
        err = -EINVAL;
        snprintf(error->text, sizeof error->text, "%.100s:%d: %s", path,
                 is_known ? reading.failed_line : line,
                 is_known ? reading.problem : "is neither [section] nor key = value nor # comment");
    }
    (void)fclose(reading.file); /* only read */
    if (err)
        fs_policies_free(reading.policies);
    else if (reading.policies)
        options->policies = reading.policies;
    return err;
}
