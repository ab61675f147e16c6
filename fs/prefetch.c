/*
 * fs/prefetch.c: reading ahead of need, by path and pattern.
 *
 * Owns       the thread, the lines that wait, the counts.
 * Invariant  `started` says that there is a thread to join; only while `running` does it work.
 *            Every reference that a listing counts is given back.
 * Locks      prefetch->mutex, a leaf: nothing else is taken under it.
 */
#include "fs/prefetch.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fs/pattern.h"
#include "fs/policy_lookup.h"
#include "fs/text.h"

/* How deep directories may be nested below each other that are walked. */
#define DEPTH_MAX 64u
/* Entries that are taken from a listing at once. */
#define BATCH_ENTRIES 32u
/*
 * Content is read in pieces: a part of an extent makes the store keep all of it, which it would not
 * for one that is large and read as a whole.
 */
#define PIECE_BYTES 8192u
/* A file up to here is small. */
#define SMALL_BYTES 65536u
/* Directories that wait because they were listed; and how many are remembered to have been. */
#define LISTED_WAITING  64u
#define LISTED_LATELY   256u
#define LISTED_PAUSE_NS INT64_C(10000000000)
/* Of the memory budget, what prefetching may fill with content. */
#define BUDGET_PERCENT  75u
#define LISTING_PERCENT 15u /* a listed directory alone */

struct fs_prefetch {
    struct fs_volume *volume; /* immutable, as the next */
    bool reads_listed;        /* some policy wants it */
    atomic_bool stop;
    pthread_mutex_t mutex;
    /* mutex, all below */
    pthread_t thread;
    bool started, running, shut;
    char *waiting; /* lines, each with a newline */
    size_t waiting_len;
    uint64_t files, bytes, directories, unmatched, full, errors;
    uint64_t listed[LISTED_WAITING]; /* directories that were listed, the oldest first */
    size_t listed_count;
    struct {
        uint64_t directory;
        int64_t when_ns; /* CLOCK_MONOTONIC */
    } lately[LISTED_LATELY];
    uint64_t listings; /* that were followed by reading */
};

/* One line being done; the thread's own. */
struct walk {
    struct fs_prefetch *prefetch;
    uint64_t room; /* bytes that may still be read */
    uint64_t files, bytes, directories, errors, matches;
    bool is_full;
    bool is_listing; /* a directory that was listed, not a line */
};

/* ---- the walk ------------------------------------------------------------------------- */

static bool is_over(const struct walk *walk)
{
    return walk->is_full || atomic_load_explicit(&walk->prefetch->stop, memory_order_relaxed);
}

static void warm_file(struct walk *walk, const struct fs_record *record)
{
    struct fs_volume *volume = walk->prefetch->volume;
    uint8_t piece[PIECE_BYTES];
    int err = 0;
    walk->matches++;
    for (uint64_t at = 0; at < record->file.size && !err && !is_over(walk); at += PIECE_BYTES) {
        const uint64_t more = kv_min_u64(record->file.size - at, PIECE_BYTES);
        if (more > walk->room) {
            walk->is_full = true;
            return;
        }
        /* A hole takes no memory, so skip to where there is data. */
        uint64_t data = at;
        err = fs_seek(volume, record->file.ino, at, SEEK_DATA, &data);
        if (err == -ENXIO) {
            err = 0;
            break;
        }
        if (!err && data - data % PIECE_BYTES > at) {
            at = data - data % PIECE_BYTES - PIECE_BYTES;
            continue;
        }
        size_t got;
        if (!err)
            err = fs_read(volume, record->file.ino, at, piece, sizeof piece, &got);
        walk->room -= more;
        walk->bytes += more;
    }
    walk->files += !err;
    walk->errors += err != 0;
}

struct found {
    struct fs_record record;
    char name[FS_NAME_MAX + 1];
};

struct batch {
    struct found entries[BATCH_ENTRIES];
    size_t count;
    uint64_t cookie;
};

static bool take_entry(void *context, const struct fs_dirent *dirent)
{
    struct batch *batch = context;
    if (!dirent->record) { /* "." and "..", and what is damaged */
        batch->cookie = dirent->cookie;
        return true;
    }
    if (batch->count == BATCH_ENTRIES)
        return false;
    struct found *found = &batch->entries[batch->count++];
    found->record = *dirent->record;
    memcpy(found->name, dirent->name, dirent->name_len);
    found->name[dirent->name_len] = '\0';
    batch->cookie = dirent->cookie;
    return true;
}

static void walk_directory(struct walk *walk, uint64_t ino, const char *pattern, unsigned depth);

/* An entry of a directory against what is left of the pattern there. */
static void meet(struct walk *walk, const struct found *found, const char *pattern, unsigned depth)
{
    const size_t length = strcspn(pattern, "/");
    const char *rest = pattern[length] ? pattern + length + 1 : NULL;
    const bool is_directory = S_ISDIR(found->record.mode);
    if (fs_pattern_is_any_depth(pattern, length)) {
        while (rest && fs_pattern_is_any_depth(
                           rest, strcspn(rest, "/"))) { /* twice any number is any number */
            pattern = rest;
            rest = rest[2] ? rest + 3 : NULL;
        }
        /* Any number of directories: none, so that the rest stands here; or this one. */
        if (rest)
            meet(walk, found, rest, depth);
        else if (S_ISREG(found->record.mode))
            warm_file(walk, &found->record);
        if (is_directory && found->name[0] != '.')
            walk_directory(walk, found->record.file.ino, pattern, depth + 1);
        return;
    }
    if (!fs_pattern_matches(pattern, length, found->name, FS_PATTERN_DOTS_WRITTEN))
        return;
    if (rest && is_directory) {
        walk_directory(walk, found->record.file.ino, rest, depth + 1);
    } else if (!rest && is_directory) {
        walk->matches++;
        walk_directory(walk, found->record.file.ino, NULL, depth + 1);
    } else if (!rest && S_ISREG(found->record.mode)) {
        warm_file(walk, &found->record);
    } else if (!rest) {
        walk->matches++; /* its attributes are in memory now */
    }
}

/* A policy may have a listed directory's small files read. */
static void meet_listed(struct walk *walk, uint64_t directory, const struct found *found)
{
    struct fs_volume *const volume = walk->prefetch->volume;
    struct fs_policy_choice choice;
    if (!S_ISREG(found->record.mode) || found->record.file.size > SMALL_BYTES ||
        fs_policy_choice_of_name(volume, directory, found->name, strlen(found->name), &choice))
        return; /* not to be read; or who needs the directories above will hear why */
    const struct fs_policy *const policy =
        fs_policy_for(fs_volume_policies(volume), &choice, FS_POLICY_PREFETCH);
    if (policy && policy->prefetch)
        warm_file(walk, &found->record);
}

/* pattern NULL: only list, or what policies say of a listing. */
static void walk_directory(struct walk *walk, uint64_t ino, const char *pattern, unsigned depth)
{
    if (depth > DEPTH_MAX)
        return;
    struct batch *batch = malloc(sizeof *batch);
    if (!batch) {
        walk->errors++;
        return;
    }
    walk->directories++;
    batch->cookie = 0;
    for (bool more = true; more && !is_over(walk);) {
        batch->count = 0;
        const int err =
            fs_readdir(walk->prefetch->volume, ino, batch->cookie, true, take_entry, batch);
        /* What was listed may be gone by now. */
        walk->errors += err && !(walk->is_listing && (err == -ESTALE || err == -ENOENT));
        more = !err && batch->count > 0;
        for (size_t i = 0; i < batch->count; i++) {
            if (pattern && !is_over(walk))
                meet(walk, &batch->entries[i], pattern, depth);
            else if (walk->is_listing && !is_over(walk))
                meet_listed(walk, ino, &batch->entries[i]);
            fs_forget(walk->prefetch->volume, batch->entries[i].record.file.ino, 1);
        }
    }
    free(batch);
}

/* A path without wildcards is looked up; a pattern is searched from the last plain directory. */
static void walk_line(struct walk *walk, const char *line)
{
    struct fs_volume *volume = walk->prefetch->volume;
    uint64_t ino = FS_ROOT_INO;
    const char *at = line;
    for (;;) {
        const size_t length = strcspn(at, "/");
        struct found found;
        if (strcspn(at, "*?[\\") < length) {
            walk_directory(walk, ino, at, 0);
            break;
        }
        const int err = fs_lookup(volume, ino, at, length, &found.record);
        if (ino != FS_ROOT_INO)
            fs_forget(volume, ino, 1);
        if (err) {
            walk->errors += err != -ENOENT && err != -ENOTDIR;
            return;
        }
        ino = found.record.file.ino;
        if (at[length]) {
            at += length + 1;
            continue;
        }
        memcpy(found.name, at, length);
        found.name[length] = '\0';
        meet(walk, &found, found.name, 0);
        break;
    }
    if (ino != FS_ROOT_INO)
        fs_forget(volume, ino, 1);
}

/* ---- the thread ----------------------------------------------------------------------- */

/* Under the mutex: the first line that waits, or NULL. The caller frees it. */
static char *take_line(struct fs_prefetch *prefetch)
{
    if (!prefetch->waiting_len)
        return NULL;
    const char *newline = memchr(prefetch->waiting, '\n', prefetch->waiting_len);
    KV_ASSERT(newline);
    const size_t length = (size_t)(newline - prefetch->waiting);
    char *line = strndup(prefetch->waiting, length);
    prefetch->waiting_len -= length + 1;
    memmove(prefetch->waiting, newline + 1, prefetch->waiting_len);
    if (!line)
        prefetch->errors++;
    return line;
}

/* Under the mutex: the directory that waits for the longest time. */
static uint64_t take_listed(struct fs_prefetch *prefetch)
{
    const uint64_t directory = prefetch->listed[0];
    prefetch->listed_count--;
    memmove(prefetch->listed, prefetch->listed + 1,
            prefetch->listed_count * sizeof prefetch->listed[0]);
    return directory;
}

static bool has_work(const struct fs_prefetch *prefetch)
{
    return prefetch->waiting_len || prefetch->listed_count;
}

/* Under the mutex, as the next two. */
static void add_counts(struct fs_prefetch *prefetch, const struct walk *walk)
{
    prefetch->files += walk->files;
    prefetch->bytes += walk->bytes;
    prefetch->directories += walk->directories;
    prefetch->errors += walk->errors;
    prefetch->full += walk->is_full;
}

static void do_line(struct fs_prefetch *prefetch, struct walk *walk)
{
    char *line = take_line(prefetch);
    pthread_mutex_unlock(&prefetch->mutex);
    walk->files = walk->bytes = walk->directories = walk->errors = walk->matches = 0;
    if (line && !is_over(walk))
        walk_line(walk, line);
    free(line);
    pthread_mutex_lock(&prefetch->mutex);
    add_counts(prefetch, walk);
    prefetch->unmatched += !walk->matches && !walk->is_full;
}

static void do_listing(struct fs_prefetch *prefetch, uint64_t room)
{
    struct walk walk = {.prefetch = prefetch, .room = room, .is_listing = true};
    const uint64_t directory = take_listed(prefetch);
    pthread_mutex_unlock(&prefetch->mutex);
    if (!is_over(&walk))
        walk_directory(&walk, directory, NULL, 0);
    pthread_mutex_lock(&prefetch->mutex);
    add_counts(prefetch, &walk);
    prefetch->listings += walk.files > 0;
}

static void *run(void *context)
{
    struct fs_prefetch *prefetch = context;
    struct kv_stats stats;
    kv_store_stats(fs_volume_store(prefetch->volume), &stats);
    const uint64_t percent = stats.memory_budget_bytes / 100;
    struct walk walk = {.prefetch = prefetch, .room = percent * BUDGET_PERCENT};
    pthread_mutex_lock(&prefetch->mutex);
    while (has_work(prefetch)) {
        if (prefetch->waiting_len) /* somebody asked for it */
            do_line(prefetch, &walk);
        else
            do_listing(prefetch, percent * LISTING_PERCENT);
    }
    prefetch->running = false;
    pthread_mutex_unlock(&prefetch->mutex);
    return NULL;
}

/* Under the mutex. */
static int start_locked(struct fs_prefetch *prefetch)
{
    if (prefetch->running)
        return 0;
    if (prefetch->started) /* it has unlocked the mutex for the last time, or is about to */
        (void)pthread_join(prefetch->thread, NULL);
    prefetch->started = false;
    const int err = pthread_create(&prefetch->thread, NULL, run, prefetch);
    if (err)
        return -err;
    prefetch->started = prefetch->running = true;
    return 0;
}

static int append_locked(struct fs_prefetch *prefetch, const char *line, size_t length)
{
    if (prefetch->waiting_len + length + 1 > FS_PREFETCH_TEXT_MAX)
        return -EAGAIN;
    if (!prefetch->waiting)
        prefetch->waiting = malloc(FS_PREFETCH_TEXT_MAX);
    if (!prefetch->waiting)
        return -ENOMEM;
    memcpy(prefetch->waiting + prefetch->waiting_len, line, length);
    prefetch->waiting[prefetch->waiting_len + length] = '\n';
    prefetch->waiting_len += length + 1;
    return 0;
}

/* Called for each line that is not empty; stops at the first error. */
static int each_line(const char *text, size_t length, struct fs_prefetch *prefetch,
                     int (*take)(struct fs_prefetch *prefetch, const char *line, size_t length))
{
    int err = 0;
    for (size_t at = 0; at < length && !err;) {
        const char *newline = memchr(text + at, '\n', length - at);
        const size_t end = newline ? (size_t)(newline - text) : length;
        if (end > at)
            err = take(prefetch, text + at, end - at);
        at = end + 1;
    }
    return err;
}

static int check_line(struct fs_prefetch *prefetch, const char *line, size_t length)
{
    (void)prefetch;
    return fs_pattern_is_path(line, length) ? 0 : -EINVAL;
}

int fs_prefetch_add(struct fs_prefetch *prefetch, const char *text, size_t length)
{
    int err = each_line(text, length, prefetch, check_line);
    if (err)
        return err;
    pthread_mutex_lock(&prefetch->mutex);
    const size_t before = prefetch->waiting_len;
    if (prefetch->shut)
        err = -ESHUTDOWN;
    if (!err)
        err = each_line(text, length, prefetch, append_locked);
    if (!err && prefetch->waiting_len)
        err = start_locked(prefetch);
    if (err)
        prefetch->waiting_len = before;
    pthread_mutex_unlock(&prefetch->mutex);
    return err;
}

/* Under the mutex. Was the directory's turn a moment ago? From now on it was. */
static bool was_lately(struct fs_prefetch *prefetch, uint64_t directory)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t now_ns = fs_time_ns(&now);
    const size_t slot = (directory * 0x9e3779b97f4a7c15ull >> 32) % LISTED_LATELY;
    if (prefetch->lately[slot].directory == directory &&
        now_ns - prefetch->lately[slot].when_ns < LISTED_PAUSE_NS)
        return true;
    prefetch->lately[slot].directory = directory;
    prefetch->lately[slot].when_ns = now_ns;
    return false;
}

void fs_prefetch_listed(struct fs_prefetch *prefetch, uint64_t directory)
{
    if (!prefetch->reads_listed)
        return;
    pthread_mutex_lock(&prefetch->mutex);
    if (!prefetch->shut && prefetch->listed_count < LISTED_WAITING &&
        !was_lately(prefetch, directory)) {
        prefetch->listed[prefetch->listed_count++] = directory;
        if (start_locked(prefetch)) /* no thread to be had: nobody waits for it */
            prefetch->listed_count = 0;
    }
    pthread_mutex_unlock(&prefetch->mutex);
}

size_t fs_prefetch_text(struct fs_prefetch *prefetch, char *out, size_t cap)
{
    struct fs_text text = {.out = out, .cap = cap};
    pthread_mutex_lock(&prefetch->mutex);
    uint64_t waiting = 0;
    for (size_t i = 0; i < prefetch->waiting_len; i++)
        waiting += prefetch->waiting[i] == '\n';
    fs_text_add(&text,
                "state %s\nwaiting %" PRIu64 "\nfiles %" PRIu64 "\nbytes %" PRIu64
                "\ndirectories %" PRIu64 "\nunmatched %" PRIu64 "\nfull %" PRIu64
                "\nerrors %" PRIu64 "\nlistings %" PRIu64 "\n",
                prefetch->running ? "running" : "idle", waiting, prefetch->files, prefetch->bytes,
                prefetch->directories, prefetch->unmatched, prefetch->full, prefetch->errors,
                prefetch->listings);
    pthread_mutex_unlock(&prefetch->mutex);
    return text.length;
}

void fs_prefetch_stop(struct fs_prefetch *prefetch)
{
    pthread_mutex_lock(&prefetch->mutex);
    prefetch->shut = true;
    atomic_store_explicit(&prefetch->stop, true, memory_order_relaxed);
    pthread_mutex_unlock(&prefetch->mutex);
}

struct fs_prefetch *fs_prefetch_new(struct fs_volume *volume)
{
    struct fs_prefetch *prefetch = calloc(1, sizeof *prefetch);
    if (!prefetch)
        return NULL;
    const struct fs_policies *const policies = fs_volume_policies(volume);
    prefetch->volume = volume;
    prefetch->reads_listed = policies && fs_policies_have(policies, FS_POLICY_PREFETCH);
    pthread_mutex_init(&prefetch->mutex, NULL); /* does not fail on Linux */
    return prefetch;
}

void fs_prefetch_free(struct fs_prefetch *prefetch)
{
    if (!prefetch)
        return;
    fs_prefetch_stop(prefetch);
    if (prefetch->started) /* nobody else is left to start or join one */
        (void)pthread_join(prefetch->thread, NULL);
    pthread_mutex_destroy(&prefetch->mutex);
    free(prefetch->waiting);
    free(prefetch);
}
