/*
 * tools/kvfs_stress.c: kvfs stress: write, rename, truncate, remove and read files in threads for a
 * while, and see that each holds what was written; if wanted, also after the daemon was killed.
 *
 * Owns       a directory in the mount, which is removed in the end; each thread its own files.
 * Invariant  what a file holds follows from its number and version; a thread knows the history of
 *            each of its files (tools/stress_history.h).
 * Locks      stress->mutex guards the crash that threads and the one who kills agree on.
 */
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount.h"
#include "kv/base.h"
#include "tools/json.h"
#include "tools/mounts.h"
#include "tools/options.h"
#include "tools/remount.h"
#include "tools/stress_history.h"

#define FILE_BYTES_MAX  65536u
#define PIECE_BYTES     9000u
#define THREADS_MAX     256u
#define BETWEEN_KILLS_S 2u /* on average, unless told */

/* When what was done is durable. */
enum durability { DURABLE_WITH_FSYNC, DURABLE_AT_ONCE, DURABLE_SOME_TIME };

struct stress {
    char directory[4096];
    uint64_t files, seconds, seed;
    unsigned threads;
    atomic_bool stop;
    atomic_uint_fast64_t operations, verified, bytes, wrong;

    /* With kills: */
    bool kills;
    uint64_t between_kills_ms;
    enum durability durability;
    bool is_written_back;       /* the kernel holds back what is written until the file is closed */
    atomic_uint_fast64_t clock; /* moments of begin and acknowledgement; from 1 on */
    atomic_uint_fast64_t durable_before; /* what was acknowledged before that moment is durable */
    atomic_bool killed;                  /* failures are to be expected */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned running, parked, judged; /* mutex: threads in all, that wait, that have judged */
    uint64_t crash;                   /* mutex: how often it was mounted again */
    uint64_t shows_begun;             /* mutex: the latest that any file shows */
    uint64_t lost_acknowledged;       /* mutex: the earliest that is lost */
    uint64_t lost;                    /* mutex: changes that nobody asked to be durable */
    uint64_t durable_at_crash;        /* durable_before then; others go on while one judges */
    uint64_t mounts_ms_most;
};

struct worker {
    struct stress *stress;
    unsigned number;
    uint64_t random, file_count;
    struct stress_history *files;
    uint32_t versions;    /* given out so far */
    char *wanted, *found; /* FILE_BYTES_MAX each */
    char complaint[256];
};

static volatile sig_atomic_t interrupted;

static void note_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* What a version of a file is: its length, and the bytes in `wanted`. */
static uint32_t make_content(const struct worker *worker, uint32_t version)
{
    uint64_t random = worker->stress->seed ^ (uint64_t)worker->number << 32 ^ version;
    const uint64_t kind = next_random(&random);
    const uint64_t length = kind % 4 ? kind / 4 % 3000 : kind / 4 % FILE_BYTES_MAX;
    for (size_t at = 0; at < length; at += 8) {
        const uint64_t word = at % 64 < 32 ? next_random(&random) : 0; /* half of it packs well */
        memcpy(worker->wanted + at, &word, kv_min_u64(8, length - at));
    }
    return (uint32_t)length;
}

static void path_of(const struct worker *worker, uint64_t file, char path[4352])
{
    snprintf(path, 4352, "%s/t%u/f%" PRIu64, worker->stress->directory, worker->number, file);
}

static void complain(struct worker *worker, const char *what, uint64_t file, const char *why)
{
    if (!*worker->complaint)
        snprintf(worker->complaint, sizeof worker->complaint, "t%u/f%" PRIu64 ": %s%s%s",
                 worker->number, file, what, why ? ": " : "", why ? why : "");
    atomic_fetch_add_explicit(&worker->stress->wrong, 1, memory_order_relaxed);
}

/* A system call failed: that is a complaint, unless the daemon is gone. */
static bool failed(struct worker *worker, const char *what, uint64_t file)
{
    const int err = errno;
    if (!atomic_load(&worker->stress->killed)) /* set before the kill */
        complain(worker, what, file, tool_error_text(err));
    return false;
}

/* ---- moments -------------------------------------------------------------------------- */

static uint64_t moment(struct stress *stress)
{
    return atomic_fetch_add(&stress->clock, 1);
}

/* What was acknowledged before that moment is durable. */
static void note_durable(struct stress *stress, uint64_t before)
{
    uint_fast64_t known = atomic_load(&stress->durable_before);
    while (known < before && !atomic_compare_exchange_weak(&stress->durable_before, &known, before))
        ;
}

/* A flush of a file or directory. */
static bool flush(struct stress *stress, int fd)
{
    const uint64_t begun = moment(stress);
    if (fsync(fd))
        return false;
    if (stress->durability != DURABLE_SOME_TIME)
        note_durable(stress, begun);
    return true;
}

/* A change was acknowledged, or it is not known whether it was made. */
static bool record(struct worker *worker, uint64_t file, struct stress_change change,
                   bool acknowledged)
{
    struct stress *stress = worker->stress;
    change.acknowledged = acknowledged ? moment(stress) : STRESS_NEVER;
    if (acknowledged && (!stress->kills || stress->durability == DURABLE_AT_ONCE))
        note_durable(stress, change.acknowledged + 1);
    if (stress_history_add(&worker->files[file], &change, atomic_load(&stress->durable_before))) {
        complain(worker, "its history", file, tool_error_text(ENOMEM));
        return false;
    }
    return acknowledged;
}

/* ---- operations ------------------------------------------------------------------------- */

static bool write_pieces(const struct worker *worker, int fd, size_t length)
{
    for (size_t at = 0; at < length;) {
        const ssize_t written =
            write(fd, worker->wanted + at, kv_min_u64(length - at, PIECE_BYTES));
        if (written < 0 && errno != EINTR)
            return false;
        at += written > 0 ? (size_t)written : 0;
    }
    return true;
}

static bool write_in_place(struct worker *worker, uint64_t file, const char *path, bool sync)
{
    struct stress_change change = {.version = ++worker->versions, .in_place = true};
    change.length_bytes = make_content(worker, change.version);
    change.begun = moment(worker->stress);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good = fd >= 0 || failed(worker, "open", file);
    if (good)
        good = write_pieces(worker, fd, change.length_bytes) || failed(worker, "write", file);
    good = record(worker, file, change, good);
    if (good && sync)
        good = flush(worker->stress, fd) || failed(worker, "fsync", file);
    if (fd >= 0 && close(fd) && good)
        good = failed(worker, "close", file);
    if (good)
        atomic_fetch_add_explicit(&worker->stress->bytes, change.length_bytes,
                                  memory_order_relaxed);
    return good;
}

/* The content under another name, flushed if wanted. */
static bool prepare_content(struct worker *worker, uint64_t file, const char *path, size_t length,
                            bool sync)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good = fd >= 0 || failed(worker, "open", file);
    if (good)
        good = write_pieces(worker, fd, length) || failed(worker, "write", file);
    if (good && sync)
        good = flush(worker->stress, fd) || failed(worker, "fsync", file);
    if (fd >= 0 && close(fd) && good)
        good = failed(worker, "close", file);
    return good;
}

static bool flush_directory(struct worker *worker, uint64_t file)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/t%u", worker->stress->directory, worker->number);
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return failed(worker, "open of its directory", file);
    const bool good = flush(worker->stress, fd) || failed(worker, "fsync of its directory", file);
    close(fd);
    return good;
}

static bool write_by_rename(struct worker *worker, uint64_t file, const char *path, bool sync)
{
    char temporary[4400];
    struct stress_change change = {.version = ++worker->versions};
    snprintf(temporary, sizeof temporary, "%s.new", path);
    change.length_bytes = make_content(worker, change.version);
    if (!prepare_content(worker, file, temporary, change.length_bytes, sync))
        return false; /* the file itself is as it was */
    change.begun = moment(worker->stress);
    const bool renamed = rename(temporary, path) == 0 || failed(worker, "rename", file);
    if (!record(worker, file, change, renamed))
        return false;
    atomic_fetch_add_explicit(&worker->stress->bytes, change.length_bytes, memory_order_relaxed);
    return !sync || flush_directory(worker, file);
}

static bool write_file(struct worker *worker, uint64_t file)
{
    char path[4352];
    const bool in_place = next_random(&worker->random) % 2 && !worker->stress->is_written_back;
    const bool sync = next_random(&worker->random) % 16 == 0;
    path_of(worker, file, path);
    return in_place ? write_in_place(worker, file, path, sync)
                    : write_by_rename(worker, file, path, sync);
}

static bool remove_file(struct worker *worker, uint64_t file)
{
    char path[4352];
    if (stress_history_last(&worker->files[file])->version == 0)
        return true;
    path_of(worker, file, path);
    const struct stress_change change = {.begun = moment(worker->stress)};
    const bool removed = unlink(path) == 0 || failed(worker, "unlink", file);
    return record(worker, file, change, removed);
}

/* What is there, in worker->found. False: it could not be read. */
static bool read_file(struct worker *worker, uint64_t file, bool *is_there, uint32_t *length)
{
    char path[4352];
    path_of(worker, file, path);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    *is_there = fd >= 0;
    *length = 0;
    if (fd < 0)
        return errno == ENOENT ? true : failed(worker, "open", file);
    ssize_t count = 1;
    while (count > 0 && *length < FILE_BYTES_MAX) {
        do
            count = read(fd, worker->found + *length, FILE_BYTES_MAX - *length);
        while (count < 0 && errno == EINTR);
        *length += count > 0 ? (uint32_t)count : 0;
    }
    const bool good = count >= 0 || failed(worker, "read", file);
    close(fd);
    return good;
}

static bool verify_file(struct worker *worker, uint64_t file)
{
    const struct stress_change *known = stress_history_last(&worker->files[file]);
    bool is_there;
    uint32_t length;
    if (!read_file(worker, file, &is_there, &length))
        return false;
    const char *wrong = NULL;
    if (is_there != (known->version != 0))
        wrong = is_there ? "is there though it was removed" : "is gone";
    else if (is_there) {
        (void)make_content(worker, known->version); /* its length may be less after a crash */
        if (length != known->length_bytes || memcmp(worker->wanted, worker->found, length) != 0)
            wrong = "holds other bytes than were written";
    }
    if (wrong && !(atomic_load(&worker->stress->killed) && !is_there))
        complain(worker, wrong, file, NULL);
    if (!wrong)
        atomic_fetch_add_explicit(&worker->stress->verified, 1, memory_order_relaxed);
    return !wrong;
}

/* ---- after a crash ----------------------------------------------------------------------- */

struct sight {
    const struct worker *worker;
    uint32_t length_bytes;
};

static bool holds(void *context, uint32_t version)
{
    const struct sight *sight = context;
    return make_content(sight->worker, version) >= sight->length_bytes &&
           memcmp(sight->worker->wanted, sight->worker->found, sight->length_bytes) == 0;
}

/* Judge a file by its history; the sums of all files are in `stress`. */
static bool judge_file(struct worker *worker, uint64_t file)
{
    struct stress *stress = worker->stress;
    char path[4400];
    struct sight sight = {.worker = worker};
    struct stress_found found = {.piece_bytes = PIECE_BYTES, .holds = holds, .context = &sight};
    path_of(worker, file, path);
    strcat(path, ".new");
    if (unlink(path) && errno != ENOENT)
        return failed(worker, "unlink of what was to be renamed to it", file);
    if (!read_file(worker, file, &found.is_there, &found.length_bytes))
        return false;
    sight.length_bytes = found.length_bytes;

    const struct stress_verdict verdict =
        stress_history_judge(&worker->files[file], &found, stress->durable_at_crash);
    if (!verdict.is_right) {
        complain(worker,
                 "after the kill it holds what it never held, or is older than what was "
                 "made durable",
                 file, NULL);
        return false;
    }
    stress_history_restart(&worker->files[file], &verdict.stands);
    atomic_fetch_add_explicit(&stress->verified, 1, memory_order_relaxed);
    (void)pthread_mutex_lock(&stress->mutex); /* a mutex that was initialised */
    stress->shows_begun = kv_max_u64(stress->shows_begun, verdict.shows_begun);
    stress->lost_acknowledged = kv_min_u64(stress->lost_acknowledged, verdict.lost_acknowledged);
    stress->lost += verdict.lost_count;
    (void)pthread_mutex_unlock(&stress->mutex); /* we hold it */
    return true;
}

/* Wait until the image is mounted again, then judge all files. False: it is over. */
static bool survive(struct worker *worker)
{
    struct stress *stress = worker->stress;
    (void)pthread_mutex_lock(&stress->mutex); /* a mutex that was initialised */
    const uint64_t crash = stress->crash;
    stress->parked++;
    (void)pthread_cond_broadcast(&stress->changed); /* a condition that was initialised */
    while (stress->crash == crash && !atomic_load(&stress->stop))
        (void)pthread_cond_wait(&stress->changed, &stress->mutex); /* likewise */
    const bool mounted = stress->crash != crash;
    (void)pthread_mutex_unlock(&stress->mutex); /* we hold it */

    bool good = mounted;
    for (uint64_t file = 0; good && file < worker->file_count; file++)
        good = judge_file(worker, file);
    (void)pthread_mutex_lock(&stress->mutex); /* as above */
    stress->judged++;
    (void)pthread_cond_broadcast(&stress->changed);
    (void)pthread_mutex_unlock(&stress->mutex);
    return good;
}

static bool operate(struct worker *worker)
{
    const uint64_t file = next_random(&worker->random) % worker->file_count;
    switch (next_random(&worker->random) % 8) {
    case 0:
        return remove_file(worker, file);
    case 1:
    case 2:
    case 3:
        return write_file(worker, file);
    default:
        return verify_file(worker, file);
    }
}

static void *work(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;
    bool good = true;
    while (good && !atomic_load(&stress->stop)) {
        good = operate(worker);
        if (good)
            atomic_fetch_add_explicit(&stress->operations, 1, memory_order_relaxed);
        else if (atomic_load(&stress->killed) && !*worker->complaint)
            good = survive(worker);
    }
    for (uint64_t file = 0; good && file < worker->file_count; file++)
        good = verify_file(worker, file);
    (void)pthread_mutex_lock(&stress->mutex); /* a mutex that was initialised */
    stress->running--;
    (void)pthread_cond_broadcast(&stress->changed); /* a condition that was initialised */
    (void)pthread_mutex_unlock(&stress->mutex);     /* we hold it */
    return NULL;
}

/* ---- kills --------------------------------------------------------------------------------- */

static uint64_t now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* it is there */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* What the settings of the mount promise. Complains. */
static bool read_settings(const struct tool_mount *mount, struct stress *stress)
{
    char settings[TOOL_REMOUNT_SETTINGS];
    if (tool_remount_settings(mount, settings)) {
        tool_complain("%s: without its control directory nobody can tell what is durable; mount it "
                      "without control=none",
                      mount->dir);
        return false;
    }
    stress->durability = tool_remount_has(settings, "sync=always")       ? DURABLE_AT_ONCE
                         : tool_remount_has(settings, "sync=checkpoint") ? DURABLE_SOME_TIME
                                                                         : DURABLE_WITH_FSYNC;
    stress->is_written_back = tool_remount_has(settings, "writeback=yes");
    return true;
}

/* Kill the daemon, mount again, have all files judged. Complains. */
static bool crash_once(struct stress *stress, struct tool_remount *remount)
{
    struct kv_error error = {""};
    atomic_store(&stress->killed, true);
    int err = tool_remount_kill(remount, &error);
    (void)pthread_mutex_lock(&stress->mutex); /* a mutex that was initialised */
    while (!err && stress->parked < stress->running)
        (void)pthread_cond_wait(&stress->changed, &stress->mutex); /* all is initialised */
    (void)pthread_mutex_unlock(&stress->mutex);                    /* we hold it */
    const uint64_t begun = now_ms();
    if (!err)
        err = tool_remount_again(remount, &error);
    if (err) {
        tool_complain("%s", error.text);
        return false;
    }
    stress->mounts_ms_most = kv_max_u64(stress->mounts_ms_most, now_ms() - begun);

    (void)pthread_mutex_lock(&stress->mutex); /* as above */
    atomic_store(&stress->killed, false);
    stress->crash++;
    stress->durable_at_crash = atomic_load(&stress->durable_before);
    stress->shows_begun = 0;
    stress->lost_acknowledged = STRESS_NEVER;
    (void)pthread_cond_broadcast(&stress->changed);
    while (stress->judged < stress->parked)
        (void)pthread_cond_wait(&stress->changed, &stress->mutex);
    stress->parked = stress->judged = 0;
    const bool in_order = stress->shows_begun <= stress->lost_acknowledged;
    (void)pthread_mutex_unlock(&stress->mutex);
    if (!in_order)
        tool_complain("%s: after the kill a change is there that was begun after another was done, "
                      "which is not",
                      stress->directory);
    return in_order;
}

/* Until it is over, with kills at random moments if wanted. Returns whether all went well. */
static bool let_work(struct stress *stress, struct tool_remount *remount)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    const uint64_t end = now_ms() + stress->seconds * 1000;
    uint64_t random = ~stress->seed, next_kill = 0;
    bool good = true;
    while (good && !interrupted && now_ms() < end &&
           !atomic_load_explicit(&stress->wrong, memory_order_relaxed)) {
        if (next_kill == 0)
            next_kill = now_ms() + stress->between_kills_ms / 2 +
                        next_random(&random) % (stress->between_kills_ms + 1);
        (void)nanosleep(&pause, NULL); /* a shorter pause does no harm */
        if (stress->kills && now_ms() >= next_kill) {
            good = crash_once(stress, remount);
            next_kill = 0;
        }
    }
    if (good && stress->kills && stress->crash == 0)
        good = crash_once(stress, remount); /* too short a time, but that is what was asked for */
    return good;
}

/* ---- a run --------------------------------------------------------------------------- */

static bool worker_init(struct worker *worker, struct stress *stress, unsigned number)
{
    char path[4200];
    *worker = (struct worker){.stress = stress,
                              .number = number,
                              .random = stress->seed + number * 7919u,
                              .file_count = kv_max_u64(1, stress->files / stress->threads)};
    worker->files = calloc(worker->file_count, sizeof *worker->files);
    worker->wanted = malloc(FILE_BYTES_MAX + 8);
    worker->found = malloc(FILE_BYTES_MAX);
    snprintf(path, sizeof path, "%s/t%u", stress->directory, number);
    if (!worker->files || !worker->wanted || !worker->found)
        return false;
    for (uint64_t file = 0; file < worker->file_count; file++)
        if (stress_history_init(&worker->files[file]))
            return false;
    return mkdir(path, 0700) == 0;
}

static void worker_release(struct worker *worker)
{
    for (uint64_t file = 0; worker->files && file < worker->file_count; file++)
        stress_history_release(&worker->files[file]);
    free(worker->files);
    free(worker->wanted);
    free(worker->found);
}

static void remove_all(const struct stress *stress)
{
    char path[4400];
    for (unsigned number = 0; number < stress->threads; number++) {
        const uint64_t count = kv_max_u64(1, stress->files / stress->threads);
        for (uint64_t file = 0; file < count; file++) {
            snprintf(path, sizeof path, "%s/t%u/f%" PRIu64, stress->directory, number, file);
            (void)unlink(path); /* it may not be there */
            strcat(path, ".new");
            (void)unlink(path); /* likewise */
        }
        snprintf(path, sizeof path, "%s/t%u", stress->directory, number);
        (void)rmdir(path); /* what is left is seen by who looks */
    }
    (void)rmdir(stress->directory); /* likewise */
}

/* The directories must be there after the first kill, too. */
static bool flush_mount(const struct tool_mount *mount)
{
    if (setxattr(mount->dir, FS_XATTR_SYNC, "1", 1, 0) == 0)
        return true;
    tool_complain("%s: %s", mount->dir, tool_error_text(errno));
    return false;
}

/* Returns whether all went well; complains. remount: NULL without kills. */
static bool run_threads(struct stress *stress, struct tool_remount *remount)
{
    struct worker *workers = calloc(stress->threads, sizeof *workers);
    pthread_t *threads = calloc(stress->threads, sizeof *threads);
    unsigned ready = 0, started = 0;
    bool good = workers && threads;
    while (good && ready < stress->threads) {
        good = worker_init(&workers[ready], stress, ready);
        ready++;
    }
    if (!good)
        tool_complain("%s: %s", stress->directory, tool_error_text(errno));
    if (good && remount)
        good = flush_mount(&remount->mount);
    stress->running = ready;
    while (good && started < ready) {
        const int err = pthread_create(&threads[started], NULL, work, &workers[started]);
        if (err)
            tool_complain("thread %u: %s", started, tool_error_text(err));
        good = !err;
        started += good;
    }
    if (good)
        good = let_work(stress, remount);
    (void)pthread_mutex_lock(&stress->mutex); /* so that nobody falls asleep after he has looked */
    atomic_store(&stress->stop, true);
    (void)pthread_cond_broadcast(&stress->changed); /* all is initialised */
    (void)pthread_mutex_unlock(&stress->mutex);     /* we hold it */
    for (unsigned i = 0; i < started; i++)
        (void)pthread_join(threads[i], NULL); /* they are there and joined once */
    for (unsigned i = 0; i < ready; i++) {
        if (*workers[i].complaint) {
            tool_complain("%s", workers[i].complaint);
            good = false;
        }
        worker_release(&workers[i]);
    }
    free(workers);
    free(threads);
    return good;
}

static bool parse(const struct tool_arguments *arguments, struct stress *stress)
{
    const char *files = tool_value(arguments, 'f'), *threads = tool_value(arguments, 't');
    const char *duration = tool_value(arguments, 'd'), *seed = tool_value(arguments, 's');
    const char *every = tool_value(arguments, 'e');
    uint64_t number;
    stress->files = 1000;
    stress->threads = 4;
    stress->seconds = 10;
    stress->seed = (uint64_t)time(NULL);
    stress->kills = tool_given(arguments, 'k');
    stress->between_kills_ms = BETWEEN_KILLS_S * 1000;
    if (files && (tool_parse_number(files, &stress->files) || stress->files == 0 ||
                  stress->files > UINT32_MAX)) {
        tool_complain("--files %s: give a number of files, at least 1", files);
        return false;
    }
    if (threads) {
        if (tool_parse_number(threads, &number) || number == 0 || number > THREADS_MAX) {
            tool_complain("--threads %s: give a number from 1 to %u", threads, THREADS_MAX);
            return false;
        }
        stress->threads = (unsigned)number;
    }
    if (duration) {
        if (tool_parse_duration(duration, &number) || number == 0 || number > UINT64_MAX / 2) {
            tool_complain("--duration %s: give a time, as in 30s, 5min or 1h", duration);
            return false;
        }
        stress->seconds = (number + 999) / 1000;
    }
    if (seed && tool_parse_number(seed, &stress->seed)) {
        tool_complain("--seed %s: give a number", seed);
        return false;
    }
    if (every && (tool_parse_duration(every, &stress->between_kills_ms) ||
                  stress->between_kills_ms == 0 || stress->between_kills_ms > UINT32_MAX)) {
        tool_complain("--every %s: give a time, as in 500ms or 10s", every);
        return false;
    }
    if (every && !stress->kills) {
        tool_complain("--every: only with --kill");
        return false;
    }
    return true;
}

static void print_json(const struct stress *stress, bool good)
{
    struct tool_json json;
    tool_json_init(&json, stdout);
    tool_json_open(&json, NULL, '{');
    tool_json_number(&json, "seed", stress->seed);
    tool_json_number(&json, "files", stress->files);
    tool_json_number(&json, "threads", stress->threads);
    tool_json_number(&json, "operations", atomic_load(&stress->operations));
    tool_json_number(&json, "verified", atomic_load(&stress->verified));
    tool_json_number(&json, "written_bytes", atomic_load(&stress->bytes));
    if (stress->kills) {
        tool_json_number(&json, "kills", stress->crash);
        tool_json_number(&json, "lost_not_durable", stress->lost);
        tool_json_number(&json, "mount_ms_most", stress->mounts_ms_most);
    }
    tool_json_bool(&json, "good", good);
    tool_json_close(&json, '}');
}

static void print_result(const struct stress *stress, bool good)
{
    char size[TOOL_SIZE_TEXT];
    tool_format_size(atomic_load(&stress->bytes), size);
    printf("seed %" PRIu64 ": %" PRIu64 " operations, %s written, %" PRIu64 " files verified, ",
           stress->seed, (uint64_t)atomic_load(&stress->operations), size,
           (uint64_t)atomic_load(&stress->verified));
    if (stress->kills)
        printf("%" PRIu64 " kills, mounted again in %" PRIu64 " ms at most, %" PRIu64
               " changes lost that were not durable yet, ",
               stress->crash, stress->mounts_ms_most, stress->lost);
    puts(good ? "all as written" : "NOT AS WRITTEN");
}

/* The end of time comes early: what was written is verified and removed all the same. */
static void end_on_signals(void)
{
    const struct sigaction action = {.sa_handler = note_interrupt, .sa_flags = SA_RESTART};
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGHUP, &action, NULL);
}

/* Whom to kill, and how to mount again. Nothing of us may be in the mount then. Complains. */
static bool prepare_kills(const struct tool_mount *mount, struct stress *stress,
                          struct tool_remount *remount)
{
    struct kv_error error = {""};
    if (!read_settings(mount, stress))
        return false;
    if (tool_remount_learn(mount, remount, &error)) {
        tool_complain("%s", error.text);
        return false;
    }
    (void)!chdir("/"); /* where nothing is mounted away */
    return true;
}

static int run_stress(const struct tool_arguments *arguments)
{
    static struct stress stress = {.clock = 1,
                                   .mutex = PTHREAD_MUTEX_INITIALIZER,
                                   .changed = PTHREAD_COND_INITIALIZER}; /* large; there is one */
    struct tool_mount mount;
    struct tool_remount remount = {.options = NULL};
    char directory[PATH_MAX];
    const char *operand = arguments->operands[0];
    if (!parse(arguments, &stress))
        return TOOL_USAGE;
    const int err = tool_mount_of_path(operand, &mount);
    if (err) {
        tool_complain("%s: %s", operand,
                      err == -ENOENT ? "not in a kvfs mount; give a mounted directory"
                                     : tool_error_text(err));
        return TOOL_FAILED;
    }
    if (!realpath(operand, directory)) {
        tool_complain("%s: %s", operand, tool_error_text(errno));
        return TOOL_FAILED;
    }
    if (stress.kills && !prepare_kills(&mount, &stress, &remount))
        return TOOL_FAILED;
    int status = TOOL_FAILED;
    snprintf(stress.directory, sizeof stress.directory, "%.4000s/kvfs-stress-XXXXXX", directory);
    if (!mkdtemp(stress.directory)) {
        tool_complain("%s: %s; give a directory that can be written", stress.directory,
                      tool_error_text(errno));
        goto out;
    }
    end_on_signals();
    const bool good = run_threads(&stress, stress.kills ? &remount : NULL);
    if (good)
        remove_all(&stress);
    else
        tool_complain("%s: left as it is, to be looked at", stress.directory);
    if (tool_given(arguments, 'j'))
        print_json(&stress, good);
    else
        print_result(&stress, good);
    status = tool_finish_output(good ? TOOL_OK : TOOL_FAILED);
out:
    tool_remount_release(&remount);
    return status;
}

static const struct option stress_options[] = {
    {"files", required_argument, NULL, 'f'},    {"threads", required_argument, NULL, 't'},
    {"duration", required_argument, NULL, 'd'}, {"kill", no_argument, NULL, 'k'},
    {"every", required_argument, NULL, 'e'},    {"seed", required_argument, NULL, 's'},
    {"json", no_argument, NULL, 'j'},           {0},
};

const struct tool_command tool_command_stress = {
    .name = "stress",
    .synopsis = "[--files N] [--threads N] [--duration TIME] [--kill] [OPTION]... DIR",
    .help =
        "Write, replace, remove and read files in a new directory in DIR, in threads, and verify "
        "that\n"
        "each holds what was written to it, all the time and in the end. The directory is removed\n"
        "when all was right. Ctrl-C ends it early, and as well.\n"
        "\n"
        "  -f, --files N        how many, over all threads (1000)\n"
        "  -t, --threads N      how many (4)\n"
        "  -d, --duration TIME  as in 30s, 5min or 1h (10s)\n"
        "  -k, --kill           now and then kill -9 the daemon and mount the image again, with\n"
        "                       the program and the options of its command line: settings changed\n"
        "                       since are forgotten. Others that use the mount get errors\n"
        "  -e, --every TIME     kill after about so long (2s)\n"
        "  -s, --seed N         where the random numbers start\n"
        "  -j, --json           the result as one JSON object\n"
        "\n"
        "After a kill no file is torn, each is as it was when something was last flushed or as it\n"
        "was later (with sync=always: last; sync=checkpoint: ever), and none shows a change that "
        "is\n"
        "younger than another's that is lost. With --kill the control directory must be there.\n"
        "\n"
        "Exit status: 0 all was as written, 1 not, or it could not be tried, 2 usage.\n"
        "\n"
        "Example: kvfs stress --files 10000 --threads 8 --duration 1h --kill /mnt\n",
    .options = stress_options,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_stress,
};
