/*
 * tests/programs/crashload.c: what was promised before a crash, and is it there after it?
 *
 * `run` loads a directory from several threads until the time is over or the file system goes
 * away under it. Before each change it writes to a log outside that file system what it is about
 * to do, and after fsync returned 0 that it is done. `check` reads the log and the directory:
 *
 *    a file whose fsync returned has its content; an unlink whose directory was fsynced stays;
 *    a change that was on its way has left the old bytes or the new ones, nothing else;
 *    a rename over a file shows the old or the new one whole, never one before the last fsync;
 *    what was appended and fsynced is there, and behind it only what was appended or zeros.
 *
 * Owns       the log and one directory for each thread, `DIR/tN`.
 * Invariant  a path belongs to one thread, so its records are in the log in their order; each
 *            record is one write in append mode. A content follows from path and generation.
 */
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "bench/measure.h"

#define THREADS_MAX     64u
#define FILES_PER_DIR   100u
#define TARGET_COUNT    8u
#define FILE_BYTES_MAX  (256u << 10)
#define APPEND_FILE_MAX (8u << 20)
#define CHURN_NAMES     60u

enum role { ROLE_FILES, ROLE_RENAME, ROLE_APPEND, ROLE_CHURN, ROLE_COUNT };

enum record_kind {
    RECORD_PUT_BEGIN = 1,
    RECORD_PUT_DONE,
    RECORD_UNLINK_BEGIN,
    RECORD_UNLINK_DONE,
    RECORD_RENAME_BEGIN,
    RECORD_RENAME_DONE,
    RECORD_APPEND_BEGIN,
    RECORD_APPEND_DONE,
};

struct record {
    uint32_t kind, thread, file, reserved;
    uint64_t value; /* generation; of APPEND: length in bytes */
    uint64_t check;
};

/* What the log says of one path. */
struct promise {
    bool exists;      /* the last thing that is done made or removed it */
    bool put_pending; /* begun, not done */
    bool unlink_pending;
    uint64_t done;  /* generation or length that is durable */
    uint64_t begun; /* the newest generation or length that may be there */
};

struct load {
    const char *dir;
    uint64_t seed;
    unsigned thread_count;
    uint64_t end_ns;
    int log_fd;
    atomic_uint_fast64_t promise_count; /* relaxed: a statistic */
    atomic_bool failed;                 /* relaxed: set for an error that no crash explains */
};

/* One thread of the load, or of its check. */
struct worker {
    struct load *load;
    unsigned thread;
    char dir[PATH_MAX];
    uint64_t step; /* numbers the random decisions */
    uint8_t *buf;  /* FILE_BYTES_MAX */
    uint8_t *old;  /* FILE_BYTES_MAX */
    struct promise promises[FILES_PER_DIR];
};

/* ---- contents ---------------------------------------------------------------------- */

static uint64_t path_seed(const struct worker *worker, uint32_t file)
{
    return measure_mix(worker->load->seed ^ measure_mix(((uint64_t)worker->thread << 32) | file));
}

static uint64_t draw(struct worker *worker)
{
    return measure_mix(worker->load->seed + ((uint64_t)worker->thread << 48) + worker->step++);
}

/* Mostly small, some a few pages, few large; never 0. */
static size_t size_from(uint64_t random)
{
    static const uint32_t limits[8] = {200, 200, 4096, 4096, 10000, 10000, 40000, FILE_BYTES_MAX};
    return 1 + (random >> 8) % limits[random % 8];
}

/* A file keeps its size over all generations, so that old and new can be told byte by byte. */
static size_t file_size(const struct worker *worker, uint32_t file)
{
    return size_from(path_seed(worker, file));
}

static void fill_file(const struct worker *worker, uint32_t file, uint64_t generation, uint8_t *buf)
{
    measure_fill(buf, file_size(worker, file), path_seed(worker, file) + (generation << 20), 30);
}

/* A renamed file begins with its generation, and its size follows from that. */
static size_t target_size(const struct worker *worker, uint32_t file, uint64_t generation)
{
    return 8 + size_from(measure_mix(path_seed(worker, file) + generation)) % (FILE_BYTES_MAX - 8);
}

static void fill_target(const struct worker *worker, uint32_t file, uint64_t generation,
                        uint8_t *buf)
{
    kv_be64_put(buf, generation);
    measure_fill(buf + 8, target_size(worker, file, generation) - 8,
                 path_seed(worker, file) + (generation << 20), 30);
}

/* Offset and length are multiples of 8, so what is at an offset does not depend on the writes. */
static void fill_appended(const struct worker *worker, uint32_t file, uint64_t offset, uint8_t *buf,
                          size_t length)
{
    measure_fill(buf, length, path_seed(worker, file) + offset / 8, 0);
}

/* ---- the log ----------------------------------------------------------------------- */

static uint64_t record_check(const struct record *record)
{
    return measure_mix(record->kind ^ measure_mix(record->thread ^ measure_mix(record->file)) ^
                       measure_mix(record->value));
}

static void write_record(const struct worker *worker, enum record_kind kind, uint32_t file,
                         uint64_t value)
{
    struct record record = {.kind = kind, .thread = worker->thread, .file = file, .value = value};
    record.check = record_check(&record);
    if (write(worker->load->log_fd, &record, sizeof record) != (ssize_t)sizeof record) {
        perror("test-crashload: the log cannot be written");
        exit(EXIT_FAILURE); /* without the log nothing that follows means anything */
    }
    const bool done = kind == RECORD_PUT_DONE || kind == RECORD_UNLINK_DONE ||
                      kind == RECORD_RENAME_DONE || kind == RECORD_APPEND_DONE;
    if (done)
        atomic_fetch_add_explicit(&worker->load->promise_count, 1, memory_order_relaxed);
}

static void note_record(struct promise *promise, const struct record *record)
{
    switch ((enum record_kind)record->kind) {
    case RECORD_PUT_BEGIN:
        promise->put_pending = true;
        promise->begun = record->value;
        break;
    case RECORD_PUT_DONE:
        promise->put_pending = false;
        promise->exists = true;
        promise->done = record->value;
        break;
    case RECORD_UNLINK_BEGIN:
        promise->unlink_pending = true;
        break;
    case RECORD_UNLINK_DONE:
        promise->unlink_pending = false;
        promise->exists = false;
        break;
    case RECORD_RENAME_BEGIN:
    case RECORD_APPEND_BEGIN:
        promise->begun = record->value;
        break;
    case RECORD_RENAME_DONE:
    case RECORD_APPEND_DONE:
        promise->exists = true;
        promise->done = record->value;
        break;
    }
}

/* ---- small steps that change the file system ----------------------------------------- */

/*
 * Has the file system gone away under us, which is what the test is about? What was on its way
 * over a ring is cancelled or interrupted, or the kernel could not reach the daemon's memory any
 * more (EAGAIN, and "Copy to ring failed: -11" in the kernel's log).
 */
static bool is_crash(int err)
{
    return err == -ENOTCONN || err == -ECONNABORTED || err == -EIO || err == -ENODEV ||
           err == -ECANCELED || err == -EINTR || err == -EAGAIN;
}

static void format_path(const struct worker *worker, const char *prefix, uint32_t file,
                        char path[PATH_MAX])
{
    (void)snprintf(path, PATH_MAX, "%.4000s/%s%u", worker->dir, prefix, file); /* fits */
}

static int write_all(int fd, const uint8_t *bytes, size_t length, uint64_t offset, size_t chunk)
{
    for (size_t done = 0; done < length;) {
        const size_t left = length - done;
        const ssize_t n =
            pwrite(fd, bytes + done, left < chunk ? left : chunk, (off_t)(offset + done));
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

static int write_file(const char *path, int flags, const uint8_t *bytes, size_t length,
                      size_t chunk, bool durable)
{
    const int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
    if (fd < 0)
        return -errno;
    int err = write_all(fd, bytes, length, 0, chunk);
    if (!err && durable && fsync(fd))
        err = -errno;
    if (close(fd) && !err)
        err = -errno;
    return err;
}

static int fsync_directory(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const int err = fsync(fd) ? -errno : 0;
    (void)close(fd); /* nothing was written through it */
    return err;
}

/* ---- the roles of `run` --------------------------------------------------------------- */

static int put_file(struct worker *worker, uint32_t file, struct promise *promise)
{
    char path[PATH_MAX];
    format_path(worker, "f", file, path);
    const uint64_t generation = promise->begun + 1;
    fill_file(worker, file, generation, worker->buf);
    write_record(worker, RECORD_PUT_BEGIN, file, generation);
    const size_t chunk = draw(worker) % 2 ? FILE_BYTES_MAX : 4096;
    const int err = write_file(path, O_CREAT, worker->buf, file_size(worker, file), chunk, true);
    if (err)
        return err;
    write_record(worker, RECORD_PUT_DONE, file, generation);
    promise->begun = generation;
    promise->exists = true;
    return 0;
}

static int unlink_file(struct worker *worker, uint32_t file, struct promise *promise)
{
    char path[PATH_MAX];
    format_path(worker, "f", file, path);
    write_record(worker, RECORD_UNLINK_BEGIN, file, 0);
    if (unlink(path))
        return -errno;
    const int err = fsync_directory(worker->dir);
    if (err)
        return err;
    write_record(worker, RECORD_UNLINK_DONE, file, 0);
    promise->exists = false;
    return 0;
}

static int step_files(struct worker *worker)
{
    const uint32_t file = (uint32_t)(draw(worker) % FILES_PER_DIR);
    struct promise *promise = &worker->promises[file];
    if (promise->exists && draw(worker) % 4 == 0)
        return unlink_file(worker, file, promise);
    return put_file(worker, file, promise);
}

static int step_rename(struct worker *worker)
{
    const uint32_t file = (uint32_t)(draw(worker) % TARGET_COUNT);
    struct promise *promise = &worker->promises[file];
    const uint64_t generation = promise->begun + 1;
    char temporary[PATH_MAX], target[PATH_MAX];
    format_path(worker, "tmp", file, temporary);
    format_path(worker, "target", file, target);
    fill_target(worker, file, generation, worker->buf);
    const bool durable_first = draw(worker) % 2;
    int err = write_file(temporary, O_CREAT | O_TRUNC, worker->buf,
                         target_size(worker, file, generation), 16384, durable_first);
    if (err)
        return err;
    write_record(worker, RECORD_RENAME_BEGIN, file, generation);
    if (rename(temporary, target))
        return -errno;
    promise->begun = generation;
    if (!durable_first || draw(worker) % 3)
        return 0;
    err = fsync_directory(worker->dir);
    if (!err)
        write_record(worker, RECORD_RENAME_DONE, file, generation);
    return err;
}

static int append_some(struct worker *worker, int fd, uint32_t file, struct promise *promise)
{
    const unsigned appends = 1 + (unsigned)(draw(worker) % 8);
    for (unsigned i = 0; i < appends; i++) {
        const size_t length = 8 * (1 + draw(worker) % 500);
        fill_appended(worker, file, promise->begun, worker->buf, length);
        write_record(worker, RECORD_APPEND_BEGIN, file, promise->begun + length);
        /* A file system that goes away in the middle may have taken a part. */
        for (size_t done = 0; done < length;) {
            const ssize_t n = write(fd, worker->buf + done, length - done);
            if (n < 0)
                return -errno;
            done += (size_t)n;
        }
        promise->begun += length;
    }
    if (draw(worker) % 2 ? fdatasync(fd) : fsync(fd))
        return -errno;
    write_record(worker, RECORD_APPEND_DONE, file, promise->begun);
    return 0;
}

static int step_append(struct worker *worker)
{
    uint32_t file = 0;
    while (file < FILES_PER_DIR - 1 && worker->promises[file].begun > APPEND_FILE_MAX)
        file++;
    char path[PATH_MAX];
    format_path(worker, "append", file, path);
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    int err = append_some(worker, fd, file, &worker->promises[file]);
    if (close(fd) && !err)
        err = -errno;
    return err;
}

/* Names and attributes that come and go, of which nothing is promised. */
static int step_churn(struct worker *worker)
{
    char a[PATH_MAX], b[PATH_MAX];
    format_path(worker, "n", (uint32_t)(draw(worker) % CHURN_NAMES), a);
    format_path(worker, "n", (uint32_t)(draw(worker) % CHURN_NAMES), b);
    const uint64_t random = draw(worker);
    const size_t size = size_from(draw(worker));
    int result = 0;
    switch (random % 10) {
    case 0:
        result = mkdir(a, 0755);
        break;
    case 1:
        result = rmdir(a);
        break;
    case 2:
        result = link(a, b);
        break;
    case 3:
        result = symlink(b, a);
        break;
    case 4:
        result = rename(a, b);
        break;
    case 5:
        result = unlink(a);
        break;
    case 6:
        result = truncate(a, (off_t)size);
        break;
    case 7:
        /* Some file systems say ENOSPC for an attribute that does not fit its place. */
        result = setxattr(a, "user.churn", worker->buf, size % 2000, 0);
        if (result && errno == ENOSPC)
            result = 0;
        break;
    default: {
        memset(worker->buf, (int)(random >> 8 & 0xff), size);
        const int err =
            write_file(a, O_CREAT | O_NOFOLLOW, worker->buf, size, FILE_BYTES_MAX, false);
        return is_crash(err) || err == -ENOSPC ? err : 0;
    }
    }
    /* Two random names do not suit every operation; only the great errors count. */
    return result && (is_crash(-errno) || errno == ENOSPC) ? -errno : 0;
}

static const struct role_kind {
    const char *name;
    int (*step)(struct worker *worker);
} role_kinds[ROLE_COUNT] = {
    [ROLE_FILES] = {"files", step_files},
    [ROLE_RENAME] = {"rename", step_rename},
    [ROLE_APPEND] = {"append", step_append},
    [ROLE_CHURN] = {"churn", step_churn},
};

static enum role role_of(unsigned thread)
{
    return (enum role)(thread % ROLE_COUNT);
}

static int init_worker(struct worker *worker, struct load *load, unsigned thread)
{
    worker->load = load;
    worker->thread = thread;
    (void)snprintf(worker->dir, sizeof worker->dir, "%.4000s/t%u", load->dir, thread); /* fits */
    worker->buf = malloc(FILE_BYTES_MAX);
    worker->old = malloc(FILE_BYTES_MAX);
    return worker->buf && worker->old ? 0 : -ENOMEM;
}

static void release_worker(struct worker *worker)
{
    free(worker->buf);
    free(worker->old);
}

/* measure_work_fn */
static int run_worker(void *context, unsigned thread)
{
    struct load *load = context;
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return -ENOMEM;
    int err = init_worker(worker, load, thread);
    if (!err && mkdir(worker->dir, 0755))
        err = -errno;
    while (!err && measure_now_ns() < load->end_ns)
        err = role_kinds[role_of(thread)].step(worker);
    if (err && !is_crash(err)) {
        fprintf(stderr, "test-crashload: thread %u (%s), step %" PRIu64 ": %s\n", thread,
                role_kinds[role_of(thread)].name, worker->step, strerror(-err));
        atomic_store_explicit(&load->failed, true, memory_order_relaxed);
    }
    release_worker(worker);
    free(worker);
    return err;
}

static int run_load(struct load *load, const char *log_path)
{
    load->log_fd = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    if (load->log_fd < 0) {
        perror(log_path);
        return -errno;
    }
    uint64_t elapsed_ns;
    int err = measure_parallel(load->thread_count, run_worker, load, &elapsed_ns);
    const uint64_t promises = atomic_load_explicit(&load->promise_count, memory_order_relaxed);
    printf("load: %" PRIu64 " promises in %.1f s, ended by %s\n", promises,
           (double)elapsed_ns / 1000000000.0,
           is_crash(err) ? "the crash" : (err ? "an error" : "the clock"));
    (void)close(load->log_fd); /* each record was written; the host does not crash */
    if (atomic_load_explicit(&load->failed, memory_order_relaxed))
        return -EPROTO;
    return is_crash(err) ? 0 : err;
}

/* ---- `check` -------------------------------------------------------------------------- */

static int broken(const struct worker *worker, const char *path, const char *what)
{
    fprintf(stderr, "test-crashload: BROKEN (%s): %s: %s\n",
            role_kinds[role_of(worker->thread)].name, path, what);
    return -EUCLEAN;
}

/* Read at most `cap` bytes from `offset`. Returns 0, -ENOENT, or what open and read say. */
static int read_some(const char *path, uint64_t offset, uint8_t *buf, size_t cap, size_t *length)
{
    *length = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = 0;
    while (*length < cap) {
        const ssize_t n = pread(fd, buf + *length, cap - *length, (off_t)(offset + *length));
        if (n < 0)
            err = -errno;
        if (n <= 0)
            break;
        *length += (size_t)n;
    }
    (void)close(fd); /* only read */
    return err;
}

/* Every byte is that of `a` or that of `b`; b == NULL: that of `a` or zero. */
static bool is_mixture(const uint8_t *found, size_t length, const uint8_t *a, const uint8_t *b)
{
    for (size_t i = 0; i < length; i++)
        if (found[i] != a[i] && found[i] != (b ? b[i] : 0))
            return false;
    return true;
}

static int check_file(struct worker *worker, uint32_t file, const struct promise *promise,
                      uint8_t *found)
{
    char path[PATH_MAX];
    format_path(worker, "f", file, path);
    const size_t size = file_size(worker, file);
    struct stat st;
    if (stat(path, &st)) {
        if (errno != ENOENT)
            return broken(worker, path, strerror(errno));
        return promise->exists && !promise->unlink_pending
                   ? broken(worker, path, "was fsynced and is not there")
                   : 0;
    }
    if (!promise->exists && !promise->put_pending)
        return broken(worker, path, "was unlinked, the directory fsynced, and is there");
    if ((uint64_t)st.st_size > size || (promise->exists && (uint64_t)st.st_size != size))
        return broken(worker, path, "has a wrong size");

    size_t length;
    const int err = read_some(path, 0, found, size, &length);
    if (err || length != (uint64_t)st.st_size)
        return broken(worker, path, err ? strerror(-err) : "is shorter than its size");
    fill_file(worker, file, promise->put_pending ? promise->begun : promise->done, worker->buf);
    if (promise->put_pending && promise->exists)
        fill_file(worker, file, promise->done, worker->old);
    if (promise->put_pending)
        return is_mixture(found, length, worker->buf, promise->exists ? worker->old : NULL)
                   ? 0
                   : broken(worker, path, "holds what was never written to it");
    return memcmp(found, worker->buf, length) == 0
               ? 0
               : broken(worker, path, "does not hold what was fsynced");
}

static int check_target(struct worker *worker, uint32_t file, const struct promise *promise,
                        uint8_t *found)
{
    char path[PATH_MAX];
    format_path(worker, "target", file, path);
    size_t length;
    const int err = read_some(path, 0, found, FILE_BYTES_MAX, &length);
    if (err == -ENOENT)
        return promise->done ? broken(worker, path, "is not there") : 0;
    if (err)
        return broken(worker, path, strerror(-err));
    if (length < 8)
        return broken(worker, path, "is not whole");
    const uint64_t generation = kv_be64_take(found);
    if (generation < promise->done)
        return broken(worker, path, "is older than what was fsynced");
    if (generation == 0 || generation > promise->begun)
        return broken(worker, path, "is none of the files renamed to it");
    if (length != target_size(worker, file, generation))
        return broken(worker, path, "is not whole: wrong size");
    fill_target(worker, file, generation, worker->buf);
    return memcmp(found, worker->buf, length) == 0 ? 0 : broken(worker, path, "is not whole");
}

static int check_appended(struct worker *worker, uint32_t file, const struct promise *promise,
                          uint8_t *found)
{
    char path[PATH_MAX];
    format_path(worker, "append", file, path);
    struct stat st;
    if (stat(path, &st)) {
        if (errno != ENOENT || promise->done)
            return broken(worker, path, strerror(errno));
        return 0;
    }
    const uint64_t size = (uint64_t)st.st_size;
    if (size < promise->done)
        return broken(worker, path, "is shorter than what was fsynced");
    if (size > promise->begun)
        return broken(worker, path, "is longer than what was written");
    for (uint64_t offset = 0; offset < size; offset += FILE_BYTES_MAX) {
        size_t length;
        const int err = read_some(path, offset, found, FILE_BYTES_MAX, &length);
        if (err)
            return broken(worker, path, strerror(-err));
        fill_appended(worker, file, offset, worker->buf, length);
        const uint64_t durable = promise->done > offset ? promise->done - offset : 0;
        const size_t exact = (size_t)kv_min_u64(durable, length);
        if (memcmp(found, worker->buf, exact) != 0)
            return broken(worker, path, "lost what was appended and fsynced");
        if (!is_mixture(found + exact, length - exact, worker->buf + exact, NULL))
            return broken(worker, path, "holds what was never appended");
    }
    return 0;
}

/* Nothing is promised of these but that each can be looked at and listed. */
static int check_churn(struct worker *worker)
{
    DIR *stream = opendir(worker->dir);
    if (!stream)
        return errno == ENOENT ? 0 : broken(worker, worker->dir, strerror(errno));
    int err = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry) {
            err = errno ? broken(worker, worker->dir, strerror(errno)) : 0;
            break;
        }
        struct stat st;
        if (fstatat(dirfd(stream), entry->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
            err = broken(worker, entry->d_name, strerror(errno));
            break;
        }
    }
    (void)closedir(stream); /* only read */
    return err;
}

/* Check all that belongs to a thread; every broken promise is named. */
static int check_worker(struct worker *worker, uint8_t *found)
{
    const enum role role = role_of(worker->thread);
    if (role == ROLE_CHURN)
        return check_churn(worker);
    const uint32_t count = role == ROLE_RENAME ? TARGET_COUNT : FILES_PER_DIR;
    int err = 0;
    for (uint32_t file = 0; file < count; file++) {
        const struct promise *promise = &worker->promises[file];
        int result;
        if (role == ROLE_FILES)
            result = check_file(worker, file, promise, found);
        else if (role == ROLE_RENAME)
            result = check_target(worker, file, promise, found);
        else
            result = check_appended(worker, file, promise, found);
        if (!err)
            err = result;
    }
    return err;
}

/* Let each worker know what the log promises. */
static int read_log(const char *log_path, const struct load *load, struct worker *workers,
                    uint64_t *record_count)
{
    FILE *log = fopen(log_path, "re");
    if (!log) {
        perror(log_path);
        return -EIO;
    }
    int err = 0;
    struct record record;
    *record_count = 0;
    while (!err && fread(&record, sizeof record, 1, log) == 1) {
        if (record.check != record_check(&record) || record.thread >= load->thread_count ||
            record.file >= FILES_PER_DIR) {
            fprintf(stderr, "test-crashload: %s: not a log of such a run\n", log_path);
            err = -EINVAL;
        } else {
            note_record(&workers[record.thread].promises[record.file], &record);
            ++*record_count;
        }
    }
    (void)fclose(log); /* only read */
    return err;
}

static int check_load(struct load *load, const char *log_path)
{
    struct worker *workers = calloc(load->thread_count, sizeof *workers);
    uint8_t *found = malloc(FILE_BYTES_MAX);
    int err = workers && found ? 0 : -ENOMEM;
    for (unsigned i = 0; i < load->thread_count && !err; i++)
        err = init_worker(&workers[i], load, i);
    uint64_t record_count = 0;
    if (!err)
        err = read_log(log_path, load, workers, &record_count);
    if (err)
        goto out;
    for (unsigned i = 0; i < load->thread_count; i++) {
        const int result = check_worker(&workers[i], found);
        if (!err)
            err = result;
    }
    if (!err)
        printf("check: every promise of %" PRIu64 " records was kept\n", record_count);
out:
    for (unsigned i = 0; workers && i < load->thread_count; i++)
        release_worker(&workers[i]);
    free(workers);
    free(found);
    return err;
}

/* ---- the command line ------------------------------------------------------------------ */

static void print_usage(void)
{
    fputs("usage: test-crashload run   DIR LOG [--threads N] [--seed N] [--seconds N]\n"
          "       test-crashload check DIR LOG [--threads N] [--seed N]\n",
          stderr);
}

static const struct option long_options[] = {
    {"threads", required_argument, NULL, 't'},
    {"seed", required_argument, NULL, 's'},
    {"seconds", required_argument, NULL, 'd'},
    {NULL, 0, NULL, 0},
};

int main(int argc, char **argv)
{
    uint64_t threads = 5, seed = 1, seconds = 10;
    int key, err = 0;
    while ((key = getopt_long(argc, argv, "", long_options, NULL)) != -1 && !err) {
        if (key == 't')
            err = measure_parse_size(optarg, &threads);
        else if (key == 's')
            err = measure_parse_size(optarg, &seed);
        else if (key == 'd')
            err = measure_parse_size(optarg, &seconds);
        else
            err = -EINVAL;
    }
    if (err || argc - optind != 3 || threads < 1 || threads > THREADS_MAX || seconds > 1000000) {
        print_usage();
        return 2;
    }
    struct load load = {.dir = argv[optind + 1],
                        .seed = seed,
                        .thread_count = (unsigned)threads,
                        .end_ns = measure_now_ns() + seconds * 1000000000u,
                        .log_fd = -1};
    if (strcmp(argv[optind], "run") == 0) {
        err = run_load(&load, argv[optind + 2]);
    } else if (strcmp(argv[optind], "check") == 0) {
        err = check_load(&load, argv[optind + 2]);
    } else {
        print_usage();
        return 2;
    }
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
