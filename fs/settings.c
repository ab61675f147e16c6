/*
 * fs/settings.c: settings that are shown and changed while a mount is in use.
 *
 * Owns       the settings as they are now.
 * Invariant  what stands in `now` is in effect, or will be never (it can not change).
 * Locks      settings->mutex, over a change and its taking effect; under it those of what changes.
 */
#include "fs/settings.h"

#include <pthread.h>
#include <stdatomic.h>

#include "fs/policy_lookup.h"
#include "fs/text.h"

#define LINE_BYTES 256u

struct fs_settings {
    struct fs_settings_parts parts; /* immutable */
    pthread_mutex_t mutex;
    struct fs_mount_options now; /* mutex */
};

struct fs_settings *fs_settings_new(const struct fs_mount_options *options,
                                    const struct fs_settings_parts *parts)
{
    struct fs_settings *settings = calloc(1, sizeof *settings);
    if (!settings)
        return NULL;
    settings->parts = *parts;
    memcpy(&settings->now, options, sizeof settings->now); /* compared with memcmp: padding, too */
    settings->now.image = settings->now.dir = settings->now.extra = NULL;
    pthread_mutex_init(&settings->mutex, NULL); /* does not fail on Linux */
    return settings;
}

void fs_settings_free(struct fs_settings *settings)
{
    if (!settings)
        return;
    pthread_mutex_destroy(&settings->mutex);
    free(settings);
}

size_t fs_settings_text(struct fs_settings *settings, char *out, size_t cap)
{
    struct fs_text text = {.out = out, .cap = cap};
    char line[LINE_BYTES];
    pthread_mutex_lock(&settings->mutex);
    const struct fs_settings_words *words = settings->now.words;
    for (size_t i = 0; words && words->show(i, &settings->now, line, sizeof line); i++)
        fs_text_add(&text, "%s\n", line);
    const struct fs_policies *const policies = fs_volume_policies(settings->parts.volume);
    for (size_t i = 0; policies && i < fs_policies_count(policies); i++) {
        char policy_line[FS_POLICY_LINE];
        fs_policy_line(fs_policies_at(policies, i), policy_line);
        fs_text_add(&text, FS_SETTINGS_POLICY "%s\n", policy_line);
    }
    pthread_mutex_unlock(&settings->mutex);
    return text.length;
}

/* Are all settings the same? Both are copies of the same struct, byte by byte, so padding is, too.
 */
static bool are_equal(const struct fs_mount_options *a, const struct fs_mount_options *b)
{
    const void *bytes_a = a, *bytes_b = b;
    return memcmp(bytes_a, bytes_b, sizeof *a) == 0;
}

/* Take over from `to` what can change while it is mounted. */
static void take_changeable(struct fs_mount_options *options, const struct fs_mount_options *to)
{
    options->commit_interval_ms = to->commit_interval_ms;
    options->metrics = to->metrics;
    options->log_level = to->log_level;
    options->alerts = to->alerts;
    options->tiers = to->tiers;
}

bool fs_settings_can_change(const struct fs_mount_options *now, const struct fs_mount_options *to)
{
    struct fs_mount_options possible;
    memcpy(&possible, now, sizeof possible);
    take_changeable(&possible, to);
    return are_equal(&possible, to);
}

static void take_effect(struct fs_settings *settings)
{
    const struct fs_mount_options *now = &settings->now;
    struct kv_store *store = fs_volume_store(settings->parts.volume);
    if (now->commit_interval_ms)
        kv_ignore(kv_set_commit_interval(store, now->commit_interval_ms)); /* it is not 0 */
    kv_set_metrics(store, now->metrics);
    atomic_store_explicit(&settings->parts.counters->categories, now->metrics,
                          memory_order_relaxed);
    atomic_store_explicit(settings->parts.log_level, now->log_level, memory_order_relaxed);
    fs_health_set_alerts(settings->parts.health, &now->alerts);
}

/* One line of a change, in `line`, which is cut up. Under the mutex. */
static int change_line(struct fs_settings *settings, char *line, struct fs_mount_options *to)
{
    struct fs_volume *volume = settings->parts.volume;
    char *value = strchr(line, '=');
    if (!value || value == line) {
        fs_volume_log(volume, KV_LOG_WARNING, "config: \"%s\" is not of the form key=value", line);
        return -EINVAL;
    }
    *value++ = '\0';
    for (char *end = value - 2; end >= line && (*end == ' ' || *end == '\t'); end--)
        *end = '\0';
    value += strspn(value, " \t");
    struct kv_error error = {""};
    int err = settings->now.words->set(line, value, to, &error);
    if (err == -ENOENT)
        fs_volume_log(volume, KV_LOG_WARNING,
                      "config: %s is no setting; reading the file shows all", line);
    else if (err)
        fs_volume_log(volume, KV_LOG_WARNING, "config: %s", error.text);
    if (err)
        return -EINVAL;
    if (!fs_settings_can_change(&settings->now, to)) {
        fs_volume_log(volume, KV_LOG_WARNING,
                      "config: %s can not change while it is mounted; set %s=%s with -o or in "
                      "mount.conf, unmount and mount again",
                      line, line, value);
        return -EINVAL;
    }
    return 0;
}

/* Called under the mutex for a whole text. */
static int change_lines(struct fs_settings *settings, const char *text, size_t length,
                        struct fs_mount_options *to)
{
    for (size_t at = 0; at < length;) {
        const char *newline = memchr(text + at, '\n', length - at);
        const size_t end = newline ? (size_t)(newline - text) : length;
        char line[LINE_BYTES];
        if (end - at >= sizeof line || memchr(text + at, '\0', end - at)) {
            fs_volume_log(settings->parts.volume, KV_LOG_WARNING,
                          "config: a line is too long, or no text");
            return -EINVAL;
        }
        memcpy(line, text + at, end - at);
        line[end - at] = '\0';
        const int err = *line && *line != '#' ? change_line(settings, line, to) : 0;
        if (err)
            return err;
        at = end + 1;
    }
    return 0;
}

/* The ratios of a whole text, which make sense together or not at all. Under the mutex. */
static int change_tiers(struct fs_settings *settings, const struct kv_tiers *to)
{
    if (memcmp(to, &settings->now.tiers, sizeof *to) == 0)
        return 0;
    const int err = kv_set_tiers(fs_volume_store(settings->parts.volume), to);
    if (err)
        fs_volume_log(settings->parts.volume, KV_LOG_WARNING,
                      "config: hot_ratio and warm_ratio can not both be 0: give one of them some");
    return err;
}

int fs_settings_change(struct fs_settings *settings, const char *text, size_t length)
{
    struct fs_mount_options to;
    pthread_mutex_lock(&settings->mutex);
    memcpy(&to, &settings->now, sizeof to);
    int err = to.words ? change_lines(settings, text, length, &to) : -EINVAL;
    if (!err) /* last: whatever else there is can not fail */
        err = change_tiers(settings, &to.tiers);
    if (!err && !are_equal(&to, &settings->now)) {
        char before[LINE_BYTES], after[LINE_BYTES];
        for (size_t i = 0; to.words->show(i, &settings->now, before, sizeof before) &&
                           to.words->show(i, &to, after, sizeof after);
             i++)
            if (strcmp(before, after) != 0)
                fs_volume_log(settings->parts.volume, KV_LOG_INFO, "config: %s now, %s before",
                              after, before);
        memcpy(&settings->now, &to, sizeof to);
        take_effect(settings);
    }
    pthread_mutex_unlock(&settings->mutex);
    return err;
}
