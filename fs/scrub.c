/*
 * fs/scrub.c: a scrub of the store beside a mount's requests, and what it found in words.
 *
 * Owns       the thread, the lines of the last run.
 * Invariant  `started` says that there is a thread to join; only while `running` does it work.
 * Locks      scrub->mutex, a leaf: nothing else is taken under it.
 */
#include "fs/scrub.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fs/text.h"

struct fs_scrub {
    struct fs_volume *volume; /* immutable */
    atomic_bool stop;
    pthread_mutex_t mutex;
    /* mutex, all below */
    pthread_t thread;
    bool started, running, shut;
    uint64_t bytes_per_second;
    uint64_t run, done, total, findings;
    int error;
    char *lines[FS_SCRUB_KEPT];
};

/* ---- words --------------------------------------------------------------------------- */

static bool holds_filesystem(struct kv_store *store)
{
    struct fs_key key;
    struct fs_disk_volume volume;
    size_t length;
    fs_key_volume(&key);
    return !kv_get(store, key.bytes, key.length, &volume, sizeof volume, &length) &&
           length >= sizeof volume.magic && !memcmp(volume.magic, FS_VOLUME_MAGIC, 8);
}

/* Names may hold any byte; a line of a log may not. */
static void add_name(char *out, size_t cap, const uint8_t *name, size_t length)
{
    size_t used = strlen(out);
    for (size_t i = 0; i < length && used + 5 < cap; i++) {
        const bool plain = name[i] >= ' ' && name[i] != 0x7f && name[i] != '\\';
        used += (size_t)snprintf(out + used, cap - used, plain ? "%c" : "\\x%02x", name[i]);
    }
}

/* What a key of the filesystem is, or "". */
static void describe_key(const uint8_t *key, size_t length, char *out, size_t cap)
{
    *out = '\0';
    if (length < 9)
        return;
    const uint64_t ino = kv_be64_take(key + 1);
    switch (key[0]) {
    case FS_KEY_DATA:
        if (length == 17)
            snprintf(out, cap, "content of inode %" PRIu64 " from byte %" PRIu64, ino,
                     kv_be64_take(key + 9));
        break;
    case FS_KEY_XATTR:
        snprintf(out, cap, "of inode %" PRIu64 " the attribute ", ino);
        add_name(out, cap, key + 9, length - 9);
        break;
    case FS_KEY_ENTRY:
        snprintf(out, cap, "in directory %" PRIu64 " the entry ", ino);
        add_name(out, cap, key + 9, length - 9);
        break;
    case FS_KEY_INODE:
    case FS_KEY_ORPHAN:
    case FS_KEY_PARENT:
        snprintf(out, cap, "record of inode %" PRIu64, ino);
        break;
    default:
        break;
    }
}

void fs_scrub_describe(struct kv_store *store, const struct kv_scrub_finding *finding,
                       char line[FS_SCRUB_LINE])
{
    char where[320] = "";
    if (finding->key && holds_filesystem(store))
        describe_key(finding->key, finding->key_len, where, sizeof where);
    snprintf(line, FS_SCRUB_LINE, "%s %s%s%s", finding->what, where, *where ? ": " : "",
             finding->text);
}

/* ---- the run ------------------------------------------------------------------------- */

static void note_finding(void *context, const struct kv_scrub_finding *finding)
{
    struct fs_scrub *scrub = context;
    char line[FS_SCRUB_LINE];
    fs_scrub_describe(fs_volume_store(scrub->volume), finding, line);
    fs_volume_log(scrub->volume, KV_LOG_ERROR, "scrub: %s", line);
    char *copy = strdup(line); /* without memory the log and the count have it still */
    pthread_mutex_lock(&scrub->mutex);
    if (scrub->findings < FS_SCRUB_KEPT) {
        scrub->lines[scrub->findings] = copy;
        copy = NULL;
    }
    scrub->findings++;
    pthread_mutex_unlock(&scrub->mutex);
    free(copy);
}

static bool note_progress(void *context, uint64_t done, uint64_t total)
{
    struct fs_scrub *scrub = context;
    pthread_mutex_lock(&scrub->mutex);
    scrub->done = done;
    scrub->total = total;
    pthread_mutex_unlock(&scrub->mutex);
    return !atomic_load_explicit(&scrub->stop, memory_order_relaxed);
}

static void *run(void *context)
{
    struct fs_scrub *scrub = context;
    pthread_mutex_lock(&scrub->mutex);
    const struct kv_scrub_options options = {.bytes_per_second = scrub->bytes_per_second,
                                             .report = note_finding,
                                             .progress = note_progress,
                                             .context = scrub};
    pthread_mutex_unlock(&scrub->mutex);
    struct kv_scrub_result result;
    fs_volume_log(scrub->volume, KV_LOG_INFO, "scrub: started");
    const int err = kv_scrub(fs_volume_store(scrub->volume), &options, &result);
    fs_volume_log(scrub->volume, err && err != -ECANCELED ? KV_LOG_ERROR : KV_LOG_INFO,
                  "scrub: %s after %" PRIu64 " MiB, %" PRIu64 " pages and %" PRIu64
                  " blobs: %" PRIu64 " findings",
                  !err                ? "done"
                  : err == -ECANCELED ? "stopped"
                                      : strerror(-err),
                  result.bytes >> 20, result.pages, result.blobs, result.findings);
    pthread_mutex_lock(&scrub->mutex);
    scrub->error = -err;
    scrub->done = result.bytes;
    if (!err)
        scrub->total = result.bytes;
    scrub->running = false;
    pthread_mutex_unlock(&scrub->mutex);
    return NULL;
}

/* Under the mutex: nothing is running. */
static void forget_last_run(struct fs_scrub *scrub)
{
    for (unsigned i = 0; i < FS_SCRUB_KEPT; i++) {
        free(scrub->lines[i]);
        scrub->lines[i] = NULL;
    }
    scrub->done = scrub->total = scrub->findings = 0;
    scrub->error = 0;
}

static int start_locked(struct fs_scrub *scrub, uint64_t bytes_per_second)
{
    if (scrub->shut)
        return -ESHUTDOWN;
    if (scrub->running)
        return -EBUSY;
    if (scrub->started) /* it has unlocked the mutex for the last time, or is about to end */
        (void)pthread_join(scrub->thread, NULL);
    scrub->started = false;
    forget_last_run(scrub);
    scrub->bytes_per_second = bytes_per_second;
    atomic_store_explicit(&scrub->stop, false, memory_order_relaxed);
    const int err = pthread_create(&scrub->thread, NULL, run, scrub);
    if (err)
        return -err;
    scrub->started = scrub->running = true;
    scrub->run++;
    return 0;
}

/* "start RATE". */
static bool parse_start(const char *text, uint64_t *bytes_per_second)
{
    static const char word[] = "start ";
    char *end;
    if (strncmp(text, word, sizeof word - 1) != 0 || text[sizeof word - 1] < '0' ||
        text[sizeof word - 1] > '9')
        return false;
    errno = 0;
    *bytes_per_second = strtoull(text + sizeof word - 1, &end, 10);
    return !errno && !*end;
}

int fs_scrub_command(struct fs_scrub *scrub, const void *bytes, size_t length)
{
    char text[32];
    uint64_t bytes_per_second;
    if (length >= sizeof text)
        return -EINVAL;
    memcpy(text, bytes, length);
    text[length] = '\0';
    if (strcmp(text, "stop") == 0) {
        fs_scrub_stop(scrub, false);
        return 0;
    }
    if (!parse_start(text, &bytes_per_second))
        return -EINVAL;
    pthread_mutex_lock(&scrub->mutex);
    const int err = start_locked(scrub, bytes_per_second);
    pthread_mutex_unlock(&scrub->mutex);
    return err;
}

void fs_scrub_stop(struct fs_scrub *scrub, bool for_good)
{
    atomic_store_explicit(&scrub->stop, true, memory_order_relaxed);
    if (!for_good)
        return;
    pthread_mutex_lock(&scrub->mutex);
    scrub->shut = true;
    atomic_store_explicit(&scrub->stop, true, memory_order_relaxed); /* of one begun just now */
    pthread_mutex_unlock(&scrub->mutex);
}

/* ---- the text ------------------------------------------------------------------------ */

size_t fs_scrub_text(struct fs_scrub *scrub, char *out, size_t cap)
{
    struct fs_text text = {.out = out, .cap = cap};
    pthread_mutex_lock(&scrub->mutex);
    fs_text_add(&text, "state %s\nrun %" PRIu64 "\ndone %" PRIu64 "\ntotal %" PRIu64 "\n",
                scrub->running ? "running" : "idle", scrub->run, scrub->done, scrub->total);
    fs_text_add(&text, "error %d\nfindings %" PRIu64 "\n", scrub->error, scrub->findings);
    for (unsigned i = 0; i < FS_SCRUB_KEPT; i++)
        if (scrub->lines[i])
            fs_text_add(&text, "finding %s\n", scrub->lines[i]);
    pthread_mutex_unlock(&scrub->mutex);
    return text.length;
}

/* ---- new, free ----------------------------------------------------------------------- */

struct fs_scrub *fs_scrub_new(struct fs_volume *volume)
{
    struct fs_scrub *scrub = calloc(1, sizeof *scrub);
    if (!scrub)
        return NULL;
    scrub->volume = volume;
    pthread_mutex_init(&scrub->mutex, NULL); /* does not fail on Linux */
    return scrub;
}

void fs_scrub_free(struct fs_scrub *scrub)
{
    if (!scrub)
        return;
    fs_scrub_stop(scrub, true);
    if (scrub->started) /* nobody else is left to start or join one */
        (void)pthread_join(scrub->thread, NULL);
    forget_last_run(scrub);
    pthread_mutex_destroy(&scrub->mutex);
    free(scrub);
}
