/*
 * fs/health.c: the figures of a mount against its alerts.
 *
 * Owns       the thread, the readings of the last intervals, what was said of each row last.
 * Invariant  a row's words name the figure, the remedy and the setting.
 * Locks      health->mutex, a leaf but for what the figures' own layers take under it.
 */
#include "fs/health.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "fs/text.h"

#define LINE_BYTES 256u
/* Fewer than that say nothing about a ratio. */
#define LOOKUPS_LEAST  10000u
#define REQUESTS_LEAST 100u

/* What is compared with later. */
struct reading {
    uint64_t page_hits, page_misses;
    struct kv_histogram latency; /* of all requests */
};

struct fs_health {
    struct fs_volume *volume;           /* immutable */
    const struct fs_counters *counters; /* immutable */
    bool read_only;                     /* immutable */
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* stopping, or the interval */
    /* mutex, all below */
    struct fs_alerts alerts;
    pthread_t thread;
    bool started, stopping;
    struct reading before[2];      /* the older one first: two intervals ago, one ago */
    enum fs_health_state said[16]; /* of each row, in the log */
};

/* What a row finds. */
struct finding {
    enum fs_health_state state;
    char text[LINE_BYTES];
};

/* What rows look at. */
struct view {
    const struct fs_figures *figures;
    const struct fs_alerts *alerts;
    const struct reading *since; /* what came before the time that is looked at */
    const struct reading *now;
};

static void say(struct finding *finding, enum fs_health_state state, const char *format, ...)
    KV_PRINTF(3, 4);

static void say(struct finding *finding, enum fs_health_state state, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(finding->text, sizeof finding->text, format, args);
    va_end(args);
    finding->state = state;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static double gib(uint64_t bytes)
{
    return (double)bytes / (1u << 30);
}

/* ---- the rows ------------------------------------------------------------------------- */

static void look_at_store(const struct view *view, struct finding *finding)
{
    if (view->figures->failed)
        say(finding, FS_HEALTH_CRITICAL,
            "a write failed and nothing can be written any more; look into the log of mount.kvfs "
            "for the reason, unmount, run fsck.kvfs, mount again");
    else
        say(finding, FS_HEALTH_OK, "%s", view->figures->read_only ? "read-only" : "writable");
}

static void look_at_damage(const struct view *view, struct finding *finding)
{
    const struct kv_stats *store = &view->figures->store;
    if (store->scrub_findings)
        say(finding, FS_HEALTH_CRITICAL,
            "scrubs found damage %" PRIu64 " times; kvfs scrub names it, fsck.kvfs mends",
            store->scrub_findings);
    else
        say(finding, FS_HEALTH_OK, "%" PRIu64 " scrubs, none found damage", store->scrubs);
}

static void look_at_space(const struct view *view, struct finding *finding)
{
    const struct kv_stats *store = &view->figures->store;
    const struct fs_alerts *alerts = view->alerts;
    const double left = percent(store->available_bytes, store->total_bytes);
    const bool critical = left <= alerts->space_critical_percent && alerts->space_critical_percent;
    const bool warning = left <= alerts->space_warning_percent && alerts->space_warning_percent;
    if (!critical && !warning)
        say(finding, FS_HEALTH_OK, "%.1f %% can still be written (%.2f GiB of %.2f GiB)", left,
            gib(store->available_bytes), gib(store->total_bytes));
    else
        say(finding, critical ? FS_HEALTH_CRITICAL : FS_HEALTH_WARNING,
            "only %.1f %% can still be written (%.2f GiB of %.2f GiB); delete files, or move to a "
            "larger image (%s=%u)",
            left, gib(store->available_bytes), gib(store->total_bytes),
            critical ? "alert_space_critical" : "alert_space_warning",
            critical ? alerts->space_critical_percent : alerts->space_warning_percent);
}

static void look_at_host(const struct view *view, struct finding *finding)
{
    if (view->figures->store.host_is_full)
        say(finding, FS_HEALTH_CRITICAL,
            "the file system that holds the image is full, writers get ENOSPC; make room there");
    else
        say(finding, FS_HEALTH_OK, "has room for the image");
}

static void look_at_scattered(const struct view *view, struct finding *finding)
{
    const struct kv_stats *store = &view->figures->store;
    const unsigned limit = view->alerts->scattered_warning_percent;
    const uint64_t whole = kv_min_u64(store->free_whole_bytes, store->free_bytes);
    const double share = percent(store->free_bytes - whole, store->free_bytes);
    const bool warning = limit && share >= limit;
    say(finding, warning ? FS_HEALTH_WARNING : FS_HEALTH_OK,
        "%.1f %% of the free space is in places too small for a page%s", share,
        warning ? "; copy the largest files anew, or move to a larger image "
                  "(alert_scattered_warning)"
                : "");
}

static void look_at_log(const struct view *view, struct finding *finding)
{
    const struct kv_stats *store = &view->figures->store;
    const unsigned limit = view->alerts->log_warning_percent;
    const double used = percent(store->log_used_bytes, store->log_limit_bytes);
    if (limit && used >= limit)
        say(finding, FS_HEALTH_WARNING,
            "%.1f %% of what it may hold is in use, writers wait for checkpoints; make the image "
            "with a larger log (mkfs.kvfs), or write less at once (alert_log_warning=%u)",
            used, limit);
    else
        say(finding, FS_HEALTH_OK, "%.1f %% of what it may hold is in use", used);
}

static void look_at_hits(const struct view *view, struct finding *finding)
{
    const uint64_t hits = view->now->page_hits - view->since->page_hits;
    const uint64_t misses = view->now->page_misses - view->since->page_misses;
    const unsigned limit = view->alerts->hits_warning_percent;
    const double share = percent(hits, hits + misses);
    if (hits + misses < LOOKUPS_LEAST)
        say(finding, FS_HEALTH_OK, "%" PRIu64 " pages looked for lately: too few to judge",
            hits + misses);
    else if (limit && share < limit)
        say(finding, FS_HEALTH_WARNING,
            "only %.1f %% of pages are found in memory; raise memory_budget (%" PRIu64
            " MiB now) (alert_hits_warning=%u)",
            share, view->figures->store.memory_budget_bytes >> 20, limit);
    else
        say(finding, FS_HEALTH_OK, "%.1f %% of pages are found in memory", share);
}

static void look_at_latency(const struct view *view, struct finding *finding)
{
    const struct fs_alerts *alerts = view->alerts;
    struct kv_histogram latency = view->now->latency;
    kv_histogram_subtract(&latency, &view->since->latency);
    const uint64_t p99_us = kv_histogram_at(&latency, 990) / 1000;
    const bool critical =
        alerts->latency_critical_ms && p99_us >= alerts->latency_critical_ms * UINT64_C(1000);
    const bool warning =
        alerts->latency_warning_ms && p99_us >= alerts->latency_warning_ms * UINT64_C(1000);
    if (latency.count < REQUESTS_LEAST)
        say(finding, FS_HEALTH_OK, "%" PRIu64 " requests lately: too few to judge", latency.count);
    else if (critical || warning)
        say(finding, critical ? FS_HEALTH_CRITICAL : FS_HEALTH_WARNING,
            "one request of a hundred takes %.1f ms or longer; kvfs top shows which, and whether "
            "the device is what they wait for (%s=%ums)",
            (double)p99_us / 1000, critical ? "alert_latency_critical" : "alert_latency_warning",
            critical ? alerts->latency_critical_ms : alerts->latency_warning_ms);
    else
        say(finding, FS_HEALTH_OK, "99 of 100 requests are served within %.2f ms",
            (double)p99_us / 1000);
}

static const struct {
    const char *name;
    void (*look)(const struct view *view, struct finding *finding);
    unsigned category; /* without it there is nothing to look at; 0: always */
} rows[] = {
    {"store", look_at_store, 0},         {"damage", look_at_damage, 0},
    {"space", look_at_space, 0},         {"host", look_at_host, 0},
    {"scattered", look_at_scattered, 0}, {"log", look_at_log, 0},
    {"hits", look_at_hits, 0},           {"latency", look_at_latency, KV_METRIC_FUSE},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

static const char *const state_words[] = {"OK", "WARN", "CRIT"};

/* ---- reading -------------------------------------------------------------------------- */

static void read_now(const struct fs_health *health, struct fs_figures *figures,
                     struct reading *now)
{
    struct kv_histogram one;
    fs_figures_read(health->volume, health->counters, health->read_only, figures);
    memset(now, 0, sizeof *now);
    now->page_hits = figures->store.page_hits;
    now->page_misses = figures->store.page_misses;
    for (uint32_t opcode = 0; opcode < FS_OPCODE_LIMIT; opcode++) {
        if (!atomic_load_explicit(&health->counters->requests[opcode], memory_order_relaxed))
            continue;
        fs_counters_latency(health->counters, opcode, &one);
        kv_histogram_merge(&now->latency, &one);
    }
}

/* Under the mutex. Returns whether there is such a row at all at present. */
static bool look_at(const struct fs_health *health, size_t row, const struct fs_figures *figures,
                    const struct reading *now, struct finding *finding)
{
    const struct view view = {
        .figures = figures, .alerts = &health->alerts, .since = &health->before[0], .now = now};
    if (rows[row].category && !(rows[row].category & figures->categories))
        return false;
    rows[row].look(&view, finding);
    return true;
}

size_t fs_health_text(struct fs_health *health, char *out, size_t cap, enum fs_health_state *state)
{
    struct fs_text text = {.out = out, .cap = cap};
    struct fs_figures figures;
    struct reading now;
    *state = FS_HEALTH_OK;
    read_now(health, &figures, &now);
    pthread_mutex_lock(&health->mutex);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        struct finding finding;
        if (!look_at(health, i, &figures, &now, &finding))
            continue;
        fs_text_add(&text, "%-4s  %-10s %s\n", state_words[finding.state], rows[i].name,
                    finding.text);
        if (finding.state > *state)
            *state = finding.state;
    }
    pthread_mutex_unlock(&health->mutex);
    return text.length;
}

/* ---- the thread ----------------------------------------------------------------------- */

void fs_health_look(struct fs_health *health)
{
    struct fs_figures figures;
    struct reading now;
    struct finding changed[ROW_COUNT];
    bool is_changed[ROW_COUNT] = {false};
    read_now(health, &figures, &now);
    pthread_mutex_lock(&health->mutex);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (!look_at(health, i, &figures, &now, &changed[i]))
            continue;
        is_changed[i] = changed[i].state != health->said[i];
        health->said[i] = changed[i].state;
    }
    health->before[0] = health->before[1];
    health->before[1] = now;
    pthread_mutex_unlock(&health->mutex);
    for (size_t i = 0; i < ROW_COUNT; i++)
        if (is_changed[i])
            fs_volume_log(health->volume,
                          changed[i].state == FS_HEALTH_OK        ? KV_LOG_INFO
                          : changed[i].state == FS_HEALTH_WARNING ? KV_LOG_WARNING
                                                                  : KV_LOG_ERROR,
                          "health: %s %s: %s", state_words[changed[i].state], rows[i].name,
                          changed[i].text);
}

static void add_ms(struct timespec *time, uint64_t milliseconds)
{
    const uint64_t ns = (uint64_t)time->tv_nsec + milliseconds % 1000 * 1000000u;
    time->tv_sec += (time_t)(milliseconds / 1000 + ns / 1000000000u);
    time->tv_nsec = (long)(ns % 1000000000u);
}

/* Under the mutex: wait for the interval to pass. False: it is over, or the interval changed. */
static bool wait_interval(struct fs_health *health)
{
    struct timespec until;
    const uint32_t interval_ms = health->alerts.interval_ms;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    add_ms(&until, interval_ms);
    int err = 0;
    while (!err && !health->stopping && health->alerts.interval_ms == interval_ms)
        err = interval_ms ? pthread_cond_timedwait(&health->changed, &health->mutex, &until)
                          : pthread_cond_wait(&health->changed, &health->mutex);
    return err == ETIMEDOUT;
}

static void *run(void *context)
{
    struct fs_health *health = context;
    pthread_mutex_lock(&health->mutex);
    while (!health->stopping) {
        if (!wait_interval(health))
            continue;
        pthread_mutex_unlock(&health->mutex);
        fs_health_look(health);
        pthread_mutex_lock(&health->mutex);
    }
    pthread_mutex_unlock(&health->mutex);
    return NULL;
}

int fs_health_start(struct fs_health *health)
{
    const int err = pthread_create(&health->thread, NULL, run, health);
    if (err)
        return -err;
    health->started = true;
    return 0;
}

void fs_health_stop(struct fs_health *health)
{
    pthread_mutex_lock(&health->mutex);
    health->stopping = true;
    pthread_cond_broadcast(&health->changed);
    pthread_mutex_unlock(&health->mutex);
    if (health->started)
        (void)pthread_join(health->thread, NULL); /* ours, and joined once */
    health->started = false;
}

void fs_health_set_alerts(struct fs_health *health, const struct fs_alerts *alerts)
{
    pthread_mutex_lock(&health->mutex);
    health->alerts = *alerts;
    pthread_cond_broadcast(&health->changed);
    pthread_mutex_unlock(&health->mutex);
}

/* ---- new, free ------------------------------------------------------------------------ */

struct fs_health *fs_health_new(struct fs_volume *volume, const struct fs_counters *counters,
                                bool read_only, const struct fs_alerts *alerts)
{
    struct fs_health *health = calloc(1, sizeof *health);
    if (!health)
        return NULL;
    health->volume = volume;
    health->counters = counters;
    health->read_only = read_only;
    health->alerts = *alerts;
    /* None of these fails on Linux: they need no memory. */
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&health->mutex, NULL);
    pthread_cond_init(&health->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return health;
}

void fs_health_free(struct fs_health *health)
{
    if (!health)
        return;
    pthread_cond_destroy(&health->changed);
    pthread_mutex_destroy(&health->mutex);
    free(health);
}
