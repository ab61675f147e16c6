/*
 * tools/kvfs_stress.c: kvfs stress: write, rename, truncate, remove and read files in threads for a
 * while, and see that each holds what was written.
 *
 * Owns       a directory in the mount, which is removed in the end; each thread its own files.
 * Invariant  what a file holds follows from its number and version; a thread knows the version of
 *            each of its files.
 */
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kv/base.h"
#include "tools/json.h"
#include "tools/mounts.h"
#include "tools/options.h"

#define FILE_BYTES_MAX 65536u
#define THREADS_MAX    256u

struct file {
    uint32_t version; /* that it holds; 0: it is not there */
};

struct stress {
    char directory[4096];
    uint64_t files, seconds, seed;
    unsigned threads;
    atomic_bool stop;
    atomic_uint_fast64_t operations, verified, bytes, wrong;
};

struct worker {
    struct stress *stress;
    unsigned number;
    uint64_t random, file_count;
    struct file *files;
    char *wanted, *found; /* FILE_BYTES_MAX each */
    char complaint[256];
};

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* What a version of a file is: its length, and the bytes in `wanted`. */
static size_t make_content(const struct worker *worker, uint64_t file, uint32_t version)
{
    uint64_t random = worker->stress->seed ^ file << 40 ^ (uint64_t)worker->number << 32 ^ version;
    const uint64_t kind = next_random(&random);
    const size_t length = kind % 4 ? kind / 4 % 3000 : kind / 4 % FILE_BYTES_MAX;
    for (size_t at = 0; at < length; at += 8) {
        const uint64_t word = at % 64 < 32 ? next_random(&random) : 0; /* half of it packs well */
        memcpy(worker->wanted + at, &word, kv_min_u64(8, length - at));
    }
    return length;
}

static void path_of(const struct worker *worker, uint64_t file, char path[4352])
{
    snprintf(path, 4352, "%s/t%u/f%" PRIu64, worker->stress->directory, worker->number, file);
}

static bool complain(struct worker *worker, const char *what, uint64_t file)
{
    if (!*worker->complaint)
        snprintf(worker->complaint, sizeof worker->complaint, "t%u/f%" PRIu64 ": %s: %s",
                 worker->number, file, what, tool_error_text(errno));
    atomic_fetch_add_explicit(&worker->stress->wrong, 1, memory_order_relaxed);
    return false;
}

static bool write_file(struct worker *worker, uint64_t file)
{
    char path[4352], temporary[4400];
    struct file *known = &worker->files[file];
    const size_t length = make_content(worker, file, known->version + 1);
    const bool by_rename = next_random(&worker->random) % 2;
    path_of(worker, file, path);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    const int fd =
        open(by_rename ? temporary : path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return complain(worker, "open", file);
    for (size_t at = 0; at < length;) {
        const ssize_t written = write(fd, worker->wanted + at, kv_min_u64(length - at, 9000));
        if (written < 0 && errno != EINTR) {
            close(fd);
            return complain(worker, "write", file);
        }
        at += written > 0 ? (size_t)written : 0;
    }
    const bool sync = next_random(&worker->random) % 16 == 0;
    if ((sync && fsync(fd)) | close(fd))
        return complain(worker, "fsync", file);
    if (by_rename && rename(temporary, path))
        return complain(worker, "rename", file);
    known->version++;
    atomic_fetch_add_explicit(&worker->stress->bytes, length, memory_order_relaxed);
    return true;
}

static bool verify_file(struct worker *worker, uint64_t file)
{
    char path[4352];
    const struct file *known = &worker->files[file];
    path_of(worker, file, path);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT && known->version == 0 ? true : complain(worker, "open", file);
    size_t got = 0;
    for (ssize_t count = 1; count > 0 && got<FILE_BYTES_MAX; got += count> 0 ? (size_t)count : 0)
        count = read(fd, worker->found + got, FILE_BYTES_MAX - got);
    close(fd);
    errno = EBADMSG;
    if (known->version == 0)
        return complain(worker, "is there though it was removed", file);
    const size_t length = make_content(worker, file, known->version);
    if (length != got || memcmp(worker->wanted, worker->found, got) != 0)
        return complain(worker, "holds other bytes than were written", file);
    atomic_fetch_add_explicit(&worker->stress->verified, 1, memory_order_relaxed);
    return true;
}

static bool remove_file(struct worker *worker, uint64_t file)
{
    char path[4352];
    if (worker->files[file].version == 0)
        return true;
    path_of(worker, file, path);
    if (unlink(path))
        return complain(worker, "unlink", file);
    worker->files[file].version = 0;
    return true;
}

static void *work(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;
    bool good = true;
    while (good && !atomic_load_explicit(&stress->stop, memory_order_relaxed)) {
        const uint64_t file = next_random(&worker->random) % worker->file_count;
        switch (next_random(&worker->random) % 8) {
        case 0:
            good = remove_file(worker, file);
            break;
        case 1:
        case 2:
        case 3:
            good = write_file(worker, file);
            break;
        default:
            good = verify_file(worker, file);
            break;
        }
        atomic_fetch_add_explicit(&stress->operations, 1, memory_order_relaxed);
    }
    for (uint64_t file = 0; good && file < worker->file_count; file++)
        good = verify_file(worker, file);
    return NULL;
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
    return worker->files && worker->wanted && worker->found && mkdir(path, 0700) == 0;
}

static void worker_release(struct worker *worker)
{
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

static void sleep_until_done(struct stress *stress)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    for (uint64_t pauses = 0; pauses < stress->seconds * 10; pauses++) {
        if (atomic_load_explicit(&stress->wrong, memory_order_relaxed))
            return;
        (void)nanosleep(&pause, NULL); /* a shorter pause does no harm */
    }
}

/* Returns whether all went well; complains. */
static bool run_threads(struct stress *stress)
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
    while (good && started < ready) {
        const int err = pthread_create(&threads[started], NULL, work, &workers[started]);
        if (err)
            tool_complain("thread %u: %s", started, tool_error_text(err));
        good = !err;
        started += good;
    }
    if (good)
        sleep_until_done(stress);
    atomic_store_explicit(&stress->stop, true, memory_order_relaxed);
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
    uint64_t number;
    stress->files = 1000;
    stress->threads = 4;
    stress->seconds = 10;
    stress->seed = (uint64_t)time(NULL);
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
        if (tool_parse_duration(duration, &number) || number == 0) {
            tool_complain("--duration %s: give a time, as in 30s or 5min", duration);
            return false;
        }
        stress->seconds = (number + 999) / 1000;
    }
    if (seed && tool_parse_number(seed, &stress->seed)) {
        tool_complain("--seed %s: give a number", seed);
        return false;
    }
    return true;
}

static void print_result(const struct stress *stress, bool good, bool as_json)
{
    const uint64_t operations = atomic_load(&stress->operations);
    const uint64_t verified = atomic_load(&stress->verified);
    const uint64_t bytes = atomic_load(&stress->bytes);
    if (as_json) {
        struct tool_json json;
        tool_json_init(&json, stdout);
        tool_json_open(&json, NULL, '{');
        tool_json_number(&json, "seed", stress->seed);
        tool_json_number(&json, "operations", operations);
        tool_json_number(&json, "verified", verified);
        tool_json_number(&json, "written_bytes", bytes);
        tool_json_bool(&json, "good", good);
        tool_json_close(&json, '}');
        return;
    }
    char size[TOOL_SIZE_TEXT];
    tool_format_size(bytes, size);
    printf("seed %" PRIu64 ": %" PRIu64 " operations, %s written, %" PRIu64 " files verified, %s\n",
           stress->seed, operations, size, verified, good ? "all as written" : "NOT AS WRITTEN");
}

static int run_stress(const struct tool_arguments *arguments)
{
    static struct stress stress; /* large; there is one */
    struct tool_mount mount;
    if (!parse(arguments, &stress))
        return TOOL_USAGE;
    const int err = tool_mount_of_path(arguments->operands[0], &mount);
    if (err) {
        tool_complain("%s: %s", arguments->operands[0],
                      err == -ENOENT ? "not in a kvfs mount; give a mounted directory"
                                     : tool_error_text(err));
        return TOOL_FAILED;
    }
    snprintf(stress.directory, sizeof stress.directory, "%.4000s/kvfs-stress-XXXXXX",
             arguments->operands[0]);
    if (!mkdtemp(stress.directory)) {
        tool_complain("%s: %s; give a directory that can be written", stress.directory,
                      tool_error_text(errno));
        return TOOL_FAILED;
    }
    const bool good = run_threads(&stress);
    if (good)
        remove_all(&stress);
    else
        tool_complain("%s: left as it is, to be looked at", stress.directory);
    print_result(&stress, good, tool_given(arguments, 'j'));
    return tool_finish_output(good ? TOOL_OK : TOOL_FAILED);
}

static const struct option stress_options[] = {
    {"files", required_argument, NULL, 'f'},    {"threads", required_argument, NULL, 't'},
    {"duration", required_argument, NULL, 'd'}, {"seed", required_argument, NULL, 's'},
    {"json", no_argument, NULL, 'j'},           {0},
};

const struct tool_command tool_command_stress = {
    .name = "stress",
    .synopsis = "[--files N] [--threads N] [--duration TIME] [--seed N] [--json] DIR",
    .help =
        "Write, replace, remove and read files in a new directory in DIR, in threads, and verify "
        "that\n"
        "each holds what was written to it, all the time and in the end. The directory is removed\n"
        "when all was right.\n"
        "\n"
        "  -f, --files N        how many, over all threads (1000)\n"
        "  -t, --threads N      how many (4)\n"
        "  -d, --duration TIME  as in 30s or 5min (10s)\n"
        "  -s, --seed N         where the random numbers start\n"
        "  -j, --json           the result as one JSON object\n"
        "\n"
        "Exit status: 0 all was as written, 1 not, or it could not be tried, 2 usage.\n"
        "\n"
        "Example: kvfs stress --files 10000 --threads 8 --duration 1min /mnt\n",
    .options = stress_options,
    .operands_least = 1,
    .operands_most = 1,
    .run = run_stress,
};
