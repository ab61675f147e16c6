/*
 * bench/smallfiles.c: how fast are many small files on a file system, operation by operation?
 *
 * Creates, stats, lists with attributes, reads, renames and unlinks --files files of --size
 * bytes in --dirs directories below any directory, so that two file systems can be measured
 * side by side. Every content, size and name is verified, and a checksum of what was seen is
 * part of the result: two file systems that did the same work print the same checksums.
 *
 * Owns       one directory below --dir, made at the start and removed at the end (--keep, --name).
 * Invariant  no descriptor below --dir is open between two phases, so it can be unmounted there.
 * Threads    each thread works on its own stretch of the files; they share only what is constant.
 */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "bench/options.h"
#include "bench/phases.h"

enum phase {
    PHASE_CREATE,
    PHASE_STAT,
    PHASE_LIST,
    PHASE_READ,
    PHASE_RENAME,
    PHASE_UNLINK,
    PHASE_COUNT
};

#define FILE_BYTES_MAX  (64u << 20)
#define THREADS_MAX     256u
#define NAME_PREFIX_OLD 'f'
#define NAME_PREFIX_NEW 'r'

struct options {
    char *dir, *name, *remount_command;
    uint64_t file_count, dir_count, file_bytes, seed;
    unsigned thread_count, run_count;
    unsigned daemon_pid; /* 0: none named */
    bool selected[PHASE_COUNT];
    bool fsync, keep, renamed, shuffled, drop_caches, verbose;
};

/* One thread's part of a phase. */
struct worker {
    struct phase_tally tally;
    uint8_t *expected; /* file_bytes: what the file must hold */
    uint8_t *found;    /* file_bytes and one more, to see a file that is too long */
};

struct bench {
    const struct options *options;
    char root[PATH_MAX];
    uint64_t files_per_dir;
    uint64_t *order;               /* of the files in shuffled phases; NULL: ascending */
    char prefix;                   /* of the files' names now */
    const struct phase_kind *kind; /* the phase that runs */
    struct worker *workers;        /* options->thread_count */
    struct phase_result results[PHASE_COUNT];
};

/* Do one operation on item `index`, a file or a directory. */
typedef int visit_fn(struct bench *bench, struct worker *worker, uint64_t index);

struct phase_kind {
    const char *name;
    visit_fn *visit;
    bool per_directory;
    bool may_shuffle;
};

static int complain(const char *path, int err)
{
    fprintf(stderr, "bench-smallfiles: %s: %s\n", path, strerror(-err));
    return err;
}

static int complain_errno(const char *path)
{
    return complain(path, -errno);
}

/* ---- names and contents ------------------------------------------------------ */

static void format_dir(const struct bench *bench, uint64_t dir, char path[PATH_MAX])
{
    /* root is kept short enough for every name below it (check_root) */
    (void)snprintf(path, PATH_MAX, "%.4000s/d%05" PRIu64, bench->root, dir);
}

static void format_file(const struct bench *bench, char prefix, uint64_t file, char path[PATH_MAX])
{
    (void)snprintf(path, PATH_MAX, "%.4000s/d%05" PRIu64 "/%c%09" PRIu64, bench->root,
                   file / bench->files_per_dir, prefix, file);
}

static uint64_t file_seed(const struct bench *bench, uint64_t file)
{
    return measure_mix(bench->options->seed ^ measure_mix(file));
}

static uint64_t attribute_digest(const char *name, off_t size)
{
    return XXH3_64bits_withSeed(name, strlen(name), (uint64_t)size);
}

static int fsync_directory(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return complain_errno(path);
    const int err = fsync(fd) ? complain_errno(path) : 0;
    (void)close(fd); /* nothing was written through it */
    return err;
}

/* ---- the phases ---------------------------------------------------------------- */

static int visit_create(struct bench *bench, struct worker *worker, uint64_t file)
{
    const struct options *options = bench->options;
    char path[PATH_MAX];
    format_file(bench, bench->prefix, file, path);
    measure_fill(worker->expected, options->file_bytes, file_seed(bench, file), 50);
    worker->tally.checksum += XXH3_64bits(worker->expected, options->file_bytes);

    const uint64_t begun_ns = measure_now_ns();
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return complain_errno(path);
    int err = 0;
    for (size_t done = 0; done < options->file_bytes && !err;) {
        const ssize_t n = write(fd, worker->expected + done, options->file_bytes - done);
        if (n < 0)
            err = complain_errno(path);
        else
            done += (size_t)n;
    }
    if (!err && options->fsync && fsync(fd))
        err = complain_errno(path);
    if (close(fd) && !err)
        err = complain_errno(path);
    if (err)
        return err;
    worker->tally.operation_count++;
    return measure_latencies_add(&worker->tally.latencies, measure_now_ns() - begun_ns);
}

static int visit_stat(struct bench *bench, struct worker *worker, uint64_t file)
{
    char path[PATH_MAX];
    format_file(bench, bench->prefix, file, path);
    const uint64_t begun_ns = measure_now_ns();
    struct stat st;
    if (lstat(path, &st))
        return complain_errno(path);
    const uint64_t took_ns = measure_now_ns() - begun_ns;
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != bench->options->file_bytes)
        return complain(path, -EUCLEAN);
    worker->tally.checksum += attribute_digest(strrchr(path, '/') + 1, st.st_size);
    worker->tally.operation_count++;
    return measure_latencies_add(&worker->tally.latencies, took_ns);
}

/* What listing a directory must add up to. */
static uint64_t expected_listing(const struct bench *bench, uint64_t dir, uint64_t *entry_count)
{
    const uint64_t first = dir * bench->files_per_dir;
    const uint64_t end = kv_min_u64(first + bench->files_per_dir, bench->options->file_count);
    uint64_t sum = 0;
    *entry_count = 0;
    for (uint64_t file = first; file < end; file++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%c%09" PRIu64, bench->prefix, file); /* fits */
        sum += attribute_digest(name, (off_t)bench->options->file_bytes);
        ++*entry_count;
    }
    return sum;
}

/* As `ls -l` does: each entry and its attributes. */
static int list_directory(const char *path, uint64_t *sum, uint64_t *entry_count)
{
    DIR *stream = opendir(path);
    if (!stream)
        return complain_errno(path);
    int err = 0;
    *sum = 0;
    *entry_count = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry) {
            err = errno ? complain_errno(path) : 0;
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        struct stat st;
        if (fstatat(dirfd(stream), entry->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
            err = complain_errno(entry->d_name);
            break;
        }
        *sum += attribute_digest(entry->d_name, st.st_size);
        ++*entry_count;
    }
    (void)closedir(stream); /* only read */
    return err;
}

/* One latency is one whole directory; an operation is one entry. */
static int visit_list(struct bench *bench, struct worker *worker, uint64_t dir)
{
    char path[PATH_MAX];
    format_dir(bench, dir, path);
    uint64_t sum = 0, entry_count = 0, wanted_count;
    const uint64_t begun_ns = measure_now_ns();
    const int err = list_directory(path, &sum, &entry_count);
    if (err)
        return err;
    const uint64_t took_ns = measure_now_ns() - begun_ns;
    if (sum != expected_listing(bench, dir, &wanted_count) || entry_count != wanted_count) {
        fprintf(stderr, "bench-smallfiles: %s: listed %" PRIu64 " entries, %" PRIu64 " are right\n",
                path, entry_count, wanted_count);
        return -EUCLEAN;
    }
    worker->tally.checksum += sum;
    worker->tally.operation_count += entry_count;
    return measure_latencies_add(&worker->tally.latencies, took_ns);
}

/* Read all of a file; -EUCLEAN when it does not have exactly `length` bytes. */
static int read_file(const char *path, uint8_t *buf, size_t length)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return complain_errno(path);
    int err = 0;
    size_t done = 0;
    while (done <= length) {
        const ssize_t n = read(fd, buf + done, length + 1 - done);
        if (n < 0)
            err = complain_errno(path);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    (void)close(fd); /* only read */
    if (!err && done != length)
        err = complain(path, -EUCLEAN);
    return err;
}

static int visit_read(struct bench *bench, struct worker *worker, uint64_t file)
{
    const size_t length = bench->options->file_bytes;
    char path[PATH_MAX];
    format_file(bench, bench->prefix, file, path);
    const uint64_t begun_ns = measure_now_ns();
    const int err = read_file(path, worker->found, length);
    if (err)
        return err;
    const uint64_t took_ns = measure_now_ns() - begun_ns;
    measure_fill(worker->expected, length, file_seed(bench, file), 50);
    if (memcmp(worker->expected, worker->found, length) != 0) {
        fprintf(stderr, "bench-smallfiles: %s: not the content that was written\n", path);
        return -EUCLEAN;
    }
    worker->tally.checksum += XXH3_64bits(worker->found, length);
    worker->tally.operation_count++;
    return measure_latencies_add(&worker->tally.latencies, took_ns);
}

static int visit_rename(struct bench *bench, struct worker *worker, uint64_t file)
{
    char from[PATH_MAX], to[PATH_MAX], dir[PATH_MAX];
    format_file(bench, NAME_PREFIX_OLD, file, from);
    format_file(bench, NAME_PREFIX_NEW, file, to);
    format_dir(bench, file / bench->files_per_dir, dir);
    const uint64_t begun_ns = measure_now_ns();
    if (rename(from, to))
        return complain_errno(from);
    const int err = bench->options->fsync ? fsync_directory(dir) : 0;
    if (err)
        return err;
    const uint64_t took_ns = measure_now_ns() - begun_ns;
    worker->tally.checksum += measure_mix(file);
    worker->tally.operation_count++;
    return measure_latencies_add(&worker->tally.latencies, took_ns);
}

static int visit_unlink(struct bench *bench, struct worker *worker, uint64_t file)
{
    char path[PATH_MAX], dir[PATH_MAX];
    format_file(bench, bench->prefix, file, path);
    format_dir(bench, file / bench->files_per_dir, dir);
    const uint64_t begun_ns = measure_now_ns();
    if (unlink(path))
        return complain_errno(path);
    const int err = bench->options->fsync ? fsync_directory(dir) : 0;
    if (err)
        return err;
    const uint64_t took_ns = measure_now_ns() - begun_ns;
    worker->tally.checksum += measure_mix(file);
    worker->tally.operation_count++;
    return measure_latencies_add(&worker->tally.latencies, took_ns);
}

static const struct phase_kind phase_kinds[PHASE_COUNT] = {
    [PHASE_CREATE] = {"create", visit_create, false, false},
    [PHASE_STAT] = {"stat", visit_stat, false, true},
    [PHASE_LIST] = {"list", visit_list, true, false},
    [PHASE_READ] = {"read", visit_read, false, true},
    [PHASE_RENAME] = {"rename", visit_rename, false, true},
    [PHASE_UNLINK] = {"unlink", visit_unlink, false, true},
};

/* ---- running them -------------------------------------------------------------- */

/* measure_work_fn: one thread's stretch of the files or directories. */
static int run_worker(void *context, unsigned thread)
{
    struct bench *bench = context;
    struct worker *worker = &bench->workers[thread];
    const struct phase_kind *kind = bench->kind;
    const uint64_t count =
        kind->per_directory ? bench->options->dir_count : bench->options->file_count;
    const uint64_t begin = count * thread / bench->options->thread_count;
    const uint64_t end = count * (thread + 1) / bench->options->thread_count;
    const bool shuffled = kind->may_shuffle && bench->order;

    for (uint64_t i = begin; i < end; i++) {
        const int err = kind->visit(bench, worker, shuffled ? bench->order[i] : i);
        if (err)
            return err;
    }
    return 0;
}

static int prepare_caches(const struct options *options)
{
    if (options->remount_command) {
        fflush(NULL);
        const int status = system(options->remount_command);
        if (status == -1 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            fprintf(stderr, "bench-smallfiles: --remount: the command failed: %s\n",
                    options->remount_command);
            return -ECHILD;
        }
    }
    if (options->drop_caches) {
        static const char path[] = "/proc/sys/vm/drop_caches";
        sync();
        const int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            return complain_errno(path);
        const ssize_t n = write(fd, "3\n", 2);
        const int err = n < 0 ? complain_errno(path) : 0;
        (void)close(fd); /* the write has happened or not */
        return err;
    }
    return 0;
}

static int collect_phase(struct bench *bench, enum phase phase, unsigned run, uint64_t elapsed_ns)
{
    struct phase_result *result = &bench->results[phase];
    for (unsigned i = 0; i < bench->options->thread_count; i++) {
        const int err = phase_result_take(result, &bench->workers[i].tally);
        if (err)
            return complain("latencies", err);
    }
    const int err = phase_result_end_run(result, run, bench->options->file_count, elapsed_ns);
    if (err)
        fprintf(stderr, "bench-smallfiles: %s: run %u did not do the work of the others\n",
                phase_kinds[phase].name, run + 1);
    return err;
}

static int run_phase(struct bench *bench, enum phase phase, unsigned run)
{
    int err = prepare_caches(bench->options);
    if (err)
        return err;
    bench->kind = &phase_kinds[phase];
    uint64_t elapsed_ns;
    err = measure_parallel(bench->options->thread_count, run_worker, bench, &elapsed_ns);
    if (err)
        return err;
    if (phase == PHASE_RENAME)
        bench->prefix = NAME_PREFIX_NEW;
    return collect_phase(bench, phase, run, elapsed_ns);
}

static int make_directories(const struct bench *bench)
{
    if (mkdir(bench->root, 0755))
        return complain_errno(bench->root);
    for (uint64_t dir = 0; dir < bench->options->dir_count; dir++) {
        char path[PATH_MAX];
        format_dir(bench, dir, path);
        if (mkdir(path, 0755))
            return complain_errno(path);
    }
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st; /* nftw's callback: these three say nothing that we need */
    (void)type;
    (void)ftw;
    return remove(path) ? complain_errno(path) : 0;
}

static int remove_tree(const struct bench *bench)
{
    const int result = nftw(bench->root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    if (result == -1 && errno != ENOENT)
        return complain_errno(bench->root);
    return result == -1 ? 0 : result;
}

static int run_all(struct bench *bench)
{
    const struct options *options = bench->options;
    int err = 0;
    for (unsigned run = 0; run < options->run_count && !err; run++) {
        bench->prefix = options->renamed ? NAME_PREFIX_NEW : NAME_PREFIX_OLD;
        if (options->selected[PHASE_CREATE])
            err = make_directories(bench);
        for (enum phase phase = 0; phase < PHASE_COUNT && !err; phase++)
            if (options->selected[phase])
                err = run_phase(bench, phase, run);
        /* What a failed run left is removed as well, but the first error counts. */
        if (!options->keep) {
            const int removed = remove_tree(bench);
            if (!err)
                err = removed;
        }
    }
    return err;
}

/* ---- results ------------------------------------------------------------------- */

/* What is in the caches of the kernel when a phase starts. */
static const char *cache_name(const struct options *options)
{
    return options->remount_command ? "remounted" : options->drop_caches ? "dropped" : "warm";
}

static void print_table(struct bench *bench)
{
    fprintf(stderr, "%-8s %12s %12s %10s %10s %10s\n", "phase", "operations", "per second",
            "p50 us", "p99 us", "max us");
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++) {
        if (!bench->options->selected[phase])
            continue;
        struct phase_result *result = &bench->results[phase];
        fprintf(stderr, "%-8s %12" PRIu64 " %12.0f %10.1f %10.1f %10.1f\n", phase_kinds[phase].name,
                result->operation_count,
                measure_median(result->ops_per_s, bench->options->run_count),
                (double)measure_latencies_at(&result->latencies, 500) / 1000.0,
                (double)measure_latencies_at(&result->latencies, 990) / 1000.0,
                (double)measure_latencies_at(&result->latencies, 1000) / 1000.0);
    }
}

static void print_json(struct bench *bench, uint64_t daemon_written_bytes)
{
    const struct options *options = bench->options;
    struct statfs fs;
    const unsigned long fs_type = statfs(options->dir, &fs) ? 0 : (unsigned long)fs.f_type;
    fputs("{\"bench\":\"smallfiles\",\"dir\":", stdout);
    measure_print_json_string(stdout, options->dir);
    printf(",\"fs_type\":\"0x%lx\",\"files\":%" PRIu64 ",\"size_bytes\":%" PRIu64
           ",\"dirs\":%" PRIu64 ",\"threads\":%u,\"fsync\":%s,\"order\":\"%s\",\"cache\":\"%s\""
           ",\"runs\":%u,\"seed\":%" PRIu64 ",\"phases\":{",
           fs_type, options->file_count, options->file_bytes, options->dir_count,
           options->thread_count, options->fsync ? "true" : "false",
           options->shuffled ? "shuffled" : "ascending", cache_name(options), options->run_count,
           options->seed);
    const char *separator = "";
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++) {
        if (!options->selected[phase])
            continue;
        struct phase_result *result = &bench->results[phase];
        printf("%s\"%s\":{\"operations\":%" PRIu64 ",\"ops_per_s\":%.0f,\"calls_ns\":%" PRIu64
               ",\"p50_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64 ",\"max_ns\":%" PRIu64
               ",\"checksum\":\"%016" PRIx64 "\"}",
               separator, phase_kinds[phase].name, result->operation_count,
               measure_median(result->ops_per_s, options->run_count),
               measure_latencies_sum(&result->latencies),
               measure_latencies_at(&result->latencies, 500),
               measure_latencies_at(&result->latencies, 990),
               measure_latencies_at(&result->latencies, 1000), result->checksum);
        separator = ",";
    }
    fputs("}", stdout);
    if (options->daemon_pid)
        printf(",\"daemon_rss_bytes\":%" PRIu64 ",\"daemon_peak_rss_bytes\":%" PRIu64
               ",\"daemon_written_bytes\":%" PRIu64,
               measure_process_memory(options->daemon_pid, "VmRSS"),
               measure_process_memory(options->daemon_pid, "VmHWM"), daemon_written_bytes);
    fputs("}\n", stdout);
}

/* ---- the command line ---------------------------------------------------------- */

static const char *phase_name(unsigned phase)
{
    return phase < PHASE_COUNT ? phase_kinds[phase].name : NULL;
}

static int parse_phases(char *text, void *target)
{
    return phase_select(phase_name, text, target);
}

static int parse_name(char *text, void *target)
{
    *(char **)target = text;
    return *text == '\0' || strchr(text, '/') || *text == '.' ? -EINVAL : 0;
}

static int parse_options(int argc, char **argv, struct options *options)
{
    const struct bench_option table[] = {
        BENCH_TEXT("dir", "DIR", "measure the file system that DIR is on", &options->dir),
        BENCH_NUMBER("files", "N", "how many files (10000)", &options->file_count, 1, 100000000),
        BENCH_NUMBER("size", "BYTES", "bytes in each, with K or M (200)", &options->file_bytes, 0,
                     FILE_BYTES_MAX),
        BENCH_NUMBER("dirs", "N", "directories to spread them over (10)", &options->dir_count, 1,
                     100000),
        BENCH_SMALL("threads", "N", "how many work at the same time (1)", &options->thread_count, 1,
                    THREADS_MAX),
        BENCH_SMALL("runs", "N", "how often to repeat everything (1)", &options->run_count, 1,
                    PHASE_RUNS_MAX),
        BENCH_NUMBER("seed", "N", "contents and order depend on it (1)", &options->seed, 0,
                     UINT64_MAX),
        BENCH_FLAG("shuffled", "visit files in shuffled order in stat, read, rename, unlink",
                   &options->shuffled),
        BENCH_FLAG("fsync", "fsync each file made, and the directory after rename and unlink",
                   &options->fsync),
        BENCH_FLAG("drop-caches", "empty the kernel's caches before each phase (root)",
                   &options->drop_caches),
        BENCH_TEXT("remount", "CMD", "run CMD before each phase; it unmounts and mounts again",
                   &options->remount_command),
        BENCH_PARSED("phases", "LIST", "of create,stat,list,read,rename,unlink (all)", parse_phases,
                     options->selected),
        BENCH_PARSED("name", "NAME",
                     "work in DIR/NAME; without create it must hold what --keep left", parse_name,
                     &options->name),
        BENCH_FLAG("keep", "leave the files there", &options->keep),
        BENCH_FLAG("renamed", "what was left there has been through rename", &options->renamed),
        BENCH_SMALL("daemon", "PID", "report memory and written bytes of that process",
                    &options->daemon_pid, 1, INT_MAX),
        BENCH_OPTION_END,
    };
    return bench_options_parse("bench-smallfiles", "--dir DIR", table, &options->verbose, argc,
                               argv);
}

/* The options that contradict each other. NULL: none do. */
static const char *find_contradiction(const struct options *options)
{
    if (!options->dir)
        return "--dir is missing";
    if (strlen(options->dir) + (options->name ? strlen(options->name) : 0) > 3900)
        return "--dir is too long";
    if (options->dir_count > options->file_count)
        return "--dirs is more than --files";
    if (!options->selected[PHASE_CREATE] && !options->name)
        return "--phases without create needs --name";
    if (options->renamed && (options->selected[PHASE_CREATE] || options->selected[PHASE_RENAME]))
        return "--renamed is for what neither creates nor renames";
    if (options->run_count > 1 && (!options->selected[PHASE_CREATE] || options->keep))
        return "--runs needs the phase create and no --keep";
    return NULL;
}

static int init_bench(struct bench *bench, const struct options *options)
{
    bench->options = options;
    bench->prefix = NAME_PREFIX_OLD;
    bench->files_per_dir = (options->file_count + options->dir_count - 1) / options->dir_count;
    if (options->name)
        (void)snprintf(bench->root, sizeof bench->root, "%s/%s", options->dir, options->name);
    else
        (void)snprintf(bench->root, sizeof bench->root, "%s/smallfiles.%ld", options->dir,
                       (long)getpid());
    if (options->shuffled && !(bench->order = measure_shuffled(options->file_count, options->seed)))
        return -ENOMEM;
    bench->workers = calloc(options->thread_count, sizeof *bench->workers);
    if (!bench->workers)
        return -ENOMEM;
    for (unsigned i = 0; i < options->thread_count; i++) {
        struct worker *worker = &bench->workers[i];
        worker->expected = malloc(options->file_bytes + 1);
        worker->found = malloc(options->file_bytes + 1);
        if (!worker->expected || !worker->found)
            return -ENOMEM;
    }
    return 0;
}

static void release_bench(struct bench *bench)
{
    for (unsigned i = 0; bench->workers && i < bench->options->thread_count; i++) {
        free(bench->workers[i].expected);
        free(bench->workers[i].found);
        measure_latencies_release(&bench->workers[i].tally.latencies);
    }
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
        phase_result_release(&bench->results[phase]);
    free(bench->workers);
    free(bench->order);
    free(bench);
}

int main(int argc, char **argv)
{
    struct options options = {
        .file_count = 10000,
        .file_bytes = 200,
        .dir_count = 10,
        .thread_count = 1,
        .run_count = 1,
        .seed = 1,
    };
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
        options.selected[phase] = true;

    const int status = parse_options(argc, argv, &options);
    if (status != BENCH_GO_ON)
        return status;
    const char *contradiction = find_contradiction(&options);
    if (contradiction) {
        fprintf(stderr, "bench-smallfiles: %s\n", contradiction);
        return 2;
    }

    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench) {
        fputs("bench-smallfiles: no memory\n", stderr);
        return EXIT_FAILURE;
    }
    int err = init_bench(bench, &options);
    if (err) {
        (void)complain("setup", err);
        goto out;
    }
    const uint64_t written_before =
        options.daemon_pid ? measure_process_written(options.daemon_pid) : 0;
    err = run_all(bench);
    if (err)
        goto out;
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
        measure_latencies_sort(&bench->results[phase].latencies);
    if (options.verbose)
        print_table(bench);
    print_json(bench, options.daemon_pid
                          ? measure_process_written(options.daemon_pid) - written_before
                          : 0);
out:
    release_bench(bench);
    return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
