/*
 * tests/fs/test_mount_reading.c: many reads from the disk at a time, beside what takes their blocks
 * away: overwriting, truncating, replacing files, checkpoints; and the end while they are under
 * way.
 *
 * Each block of a file says 512 times which file, block and version it is. Who writes notes a
 * version before and after; what is read must be whole, and no older than what had been written
 * when the read began, nor newer than what was being written when it ended.
 *
 * KVFS_SEED chooses the random numbers.
 */
#include "tests/fs/support_mount.h"
#include "tests/run.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define BLOCK   4096u
#define BLOCKS  512u /* of a file: 2 MiB */
#define FILES   3u   /* one is overwritten, one truncated, one replaced */
#define READERS 12u
#define CHANGES 400u
#define RUN     8u /* blocks of one write */

enum role { OVERWRITTEN, TRUNCATED, REPLACED };

struct work {
    struct test_mount mount;
    uint64_t seed;
    _Atomic uint32_t begun[FILES][BLOCKS], done[FILES][BLOCKS];
    _Atomic bool over;
    _Atomic uint64_t reads;
};

struct reader {
    struct work *work;
    unsigned number;
    pthread_t thread;
};

static void fill(uint64_t *block, unsigned file, unsigned number, uint32_t version)
{
    for (unsigned i = 0; i < BLOCK / 8; i++)
        block[i] = ((uint64_t)version << 32) + (file << 16) + number;
}

/* ---- who changes ------------------------------------------------------------------ */

static const char *write_run(struct work *work, int fd, unsigned file, unsigned first,
                             uint32_t version)
{
    static uint64_t bytes[RUN * BLOCK / 8] __attribute__((aligned(BLOCK)));
    for (unsigned i = 0; i < RUN; i++) {
        fill(bytes + i * (BLOCK / 8), file, first + i, version);
        atomic_store(&work->begun[file][first + i], version);
    }
    if (pwrite(fd, bytes, sizeof bytes, (off_t)first * BLOCK) != (ssize_t)sizeof bytes)
        return "write";
    for (unsigned i = 0; i < RUN; i++)
        atomic_store(&work->done[file][first + i], version);
    return NULL;
}

static const char *write_all(struct work *work, const char *path, unsigned file, uint32_t version)
{
    const int fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0644);
    const char *failed = fd < 0 ? "open" : NULL;
    for (unsigned first = 0; first < BLOCKS && !failed; first += RUN)
        failed = write_run(work, fd, file, first, version);
    if (fd >= 0 && close(fd))
        failed = "close";
    return failed;
}

static void path_of(const struct work *work, unsigned file, const char *suffix, char *path)
{
    snprintf(path, PATH_MAX, "%s/file%u%s", work->mount.dir, file, suffix);
}

static const char *change(struct work *work, uint64_t *state, unsigned file, uint32_t version)
{
    char path[PATH_MAX], other[PATH_MAX];
    path_of(work, file, "", path);
    path_of(work, file, ".new", other);
    if (file == REPLACED) {
        const char *failed = version % 8 ? NULL : write_all(work, other, file, version);
        return failed || version % 8 || !rename(other, path) ? failed : "rename";
    }
    const unsigned first = (unsigned)test_below(state, BLOCKS / RUN) * RUN;
    if (file == TRUNCATED && version % 4 == 0 && truncate(path, (off_t)first * BLOCK))
        return "truncate";
    const int fd = open(path, O_RDWR | O_DIRECT);
    const char *failed = fd < 0 ? "open" : write_run(work, fd, file, first, version);
    if (fd >= 0 && close(fd))
        failed = "close";
    return failed;
}

/* ---- who reads --------------------------------------------------------------------- */

/* Is it all of one version, and the right block? 0: nothing but zeros. */
static bool is_whole(const uint64_t *block, unsigned file, unsigned number, uint32_t *version)
{
    *version = (uint32_t)(block[0] >> 32);
    for (unsigned i = 0; i < BLOCK / 8; i++)
        if (block[i] != block[0])
            return false;
    return !block[0] || (uint32_t)block[0] == (file << 16) + number;
}

static const char *read_one(struct work *work, const int *fds, uint64_t *state, uint64_t *bytes)
{
    const unsigned file = (unsigned)test_below(state, FILES);
    const unsigned number = (unsigned)test_below(state, BLOCKS);
    const uint32_t least = atomic_load(&work->done[file][number]);
    uint32_t version;
    const ssize_t got = pread(fds[file], bytes, BLOCK, (off_t)number * BLOCK);
    const uint32_t most = atomic_load(&work->begun[file][number]);
    if (got != BLOCK)
        return file == TRUNCATED && !got ? NULL : "a read is short";
    if (!is_whole(bytes, file, number, &version))
        return "a block is another, or of several versions";
    if (version > most)
        return "a block is newer than what was written";
    /* A name may have been given to a newer file since it was opened. */
    if (file == OVERWRITTEN && version < least)
        return "a block is older than what had been written";
    atomic_fetch_add(&work->reads, 1);
    return NULL;
}

static void *read_blocks(void *argument)
{
    struct reader *reader = argument;
    struct work *work = reader->work;
    uint64_t state = work->seed + 1000 + reader->number;
    void *bytes = NULL;
    const char *failed = posix_memalign(&bytes, BLOCK, BLOCK) ? "memory" : NULL;
    while (!failed && !atomic_load(&work->over)) {
        int fds[FILES];
        for (unsigned file = 0; file < FILES; file++) {
            char path[PATH_MAX];
            path_of(work, file, "", path);
            fds[file] = open(path, O_RDONLY | O_DIRECT);
            if (fds[file] < 0)
                failed = "open to read";
        }
        for (unsigned i = 0; i < 100 && !failed; i++)
            failed = read_one(work, fds, &state, bytes);
        for (unsigned file = 0; file < FILES; file++)
            if (fds[file] >= 0)
                close(fds[file]);
    }
    free(bytes);
    return (void *)(uintptr_t)failed;
}

/* Nothing is kept of what is read, so each read is one of the device. */
static struct fs_mount_options without_memory(void)
{
    return (struct fs_mount_options){.memory_budget_bytes = 16u << 20, .extent_percent = 0};
}

static void checkpoint(const struct work *work)
{
    ck_assert_int_eq(setxattr(work->mount.dir, "system.kvfs.sync", "1", 1, 0), 0);
}

static void begin(struct work *work)
{
    const struct fs_mount_options options = without_memory();
    memset(work, 0, sizeof *work);
    work->seed = test_seed();
    test_mount_begin(&work->mount, &options, 128);
    for (unsigned file = 0; file < FILES; file++) {
        char path[PATH_MAX];
        path_of(work, file, "", path);
        ck_assert_ptr_null(write_all(work, path, file, 1));
    }
    checkpoint(work);
}

START_TEST(what_is_read_while_files_change_is_of_one_moment)
{
    static struct work work;
    static struct reader readers[READERS];
    begin(&work);
    uint64_t state = work.seed;
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.work = &work, .number = i};
        ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_blocks, &readers[i]), 0);
    }
    const char *failed = NULL;
    for (uint32_t version = 2; version < 2 + CHANGES && !failed; version++) {
        failed = change(&work, &state, version % FILES, version);
        /* Blocks that were given up are used again after a checkpoint only. */
        if (version % 16 == 0)
            checkpoint(&work);
    }
    atomic_store(&work.over, true);
    for (unsigned i = 0; i < READERS; i++) {
        void *found;
        pthread_join(readers[i].thread, &found);
        if (found)
            failed = found;
    }
    ck_assert_msg(!failed, "%s", failed ? failed : "");
    test_mount_end(&work.mount);
    printf("reads: %lu\n", (unsigned long)work.reads);
}
END_TEST

/* ---- the end ------------------------------------------------------------------------ */

/* A child with many reads under way until they fail or it is killed. */
static pid_t start_readers(struct work *work)
{
    const pid_t child = fork();
    if (child)
        return child;
    static struct reader readers[READERS];
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.work = work, .number = i};
        if (pthread_create(&readers[i].thread, NULL, read_blocks, &readers[i]))
            _exit(1);
    }
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i].thread, NULL);
    _exit(0);
}

START_TEST(the_daemon_ends_cleanly_with_reads_under_way)
{
    static struct work work;
    begin(&work);
    for (unsigned round = 0; round < 6; round++) {
        const pid_t child = start_readers(&work);
        usleep(20000 * (round + 1));
        int status;
        if (round % 2) {
            test_mount_kill(&work.mount);
        } else {
            ck_assert_int_eq(kill(work.mount.daemon, SIGTERM), 0);
            ck_assert_int_eq(waitpid(work.mount.daemon, &status, 0), work.mount.daemon);
            ck_assert_int_eq(status, 0);
            work.mount.daemon = 0;
        }
        kill(child, SIGKILL);
        ck_assert_int_eq(waitpid(child, NULL, 0), child);
        test_mount_start(&work.mount);
    }
    test_mount_end(&work.mount);
}
END_TEST

int main(void)
{
    if (!test_mount_possible())
        return EXIT_SUCCESS;
    Suite *suite = suite_create("reading");
    TCase *tests = tcase_create("reading");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, what_is_read_while_files_change_is_of_one_moment);
    tcase_add_test(tests, the_daemon_ends_cleanly_with_reads_under_way);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
