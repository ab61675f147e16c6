/*
 * bench/kv-compare/raw.c: the machine without an engine.
 *
 * Owns       its file, the memory that it touches, the thread that has this faulted in.
 * Invariant  the clock runs only while the device or the memory is used.
 */
#include "bench/kv-compare/raw.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bench/measure.h"
#include "kv/histogram.h"

#define SYNC_BYTES       4096u
#define FILL_BYTES       (1u << 20)
#define FILL_FILE_BYTES  (256u << 20)
#define MEMORY_STEP      (2u << 20)  /* is faulted in at a time: a large page */
#define MEMORY_PAGE      (16u << 10) /* as a page of ours; 1,000 make an operation */
#define MEMORY_LINE_STEP 1024u       /* of a page one line in so many bytes is touched */
#define MEMORY_GROWS     90u         /* percent of the time; then it is all there */

struct timing {
    const struct workload *work;
    struct kv_histogram *latencies;
    struct measure_clock clock;
    uint64_t operation_count;
};

static void end_operation(struct timing *timing)
{
    kv_histogram_add(timing->latencies, measure_clock_stop(&timing->clock));
    timing->operation_count++;
}

static void sleep_until(uint64_t due_ns)
{
    const struct timespec due = {.tv_sec = (time_t)(due_ns / 1000000000u),
                                 .tv_nsec = (long)(due_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
        ;
}

/* ---- the device -------------------------------------------------------------------------- */

static int write_piece(struct timing *timing, int fd, const uint8_t *bytes, size_t length,
                       uint64_t offset)
{
    const bool flush = timing->work->operation == WORKLOAD_RAW_SYNC;
    measure_clock_start(&timing->clock);
    const ssize_t written = pwrite(fd, bytes, length, (off_t)offset);
    if (written < 0 || (flush && fdatasync(fd)))
        return -errno;
    if ((size_t)written != length)
        return -ENOSPC;
    end_operation(timing);
    return 0;
}

static int append_and_flush(struct timing *timing, int fd)
{
    uint8_t block[SYNC_BYTES];
    int err = 0;
    measure_fill(block, sizeof block, timing->work->seed, 0);
    while (!err && timing->clock.elapsed_ns < timing->work->time_max_ns)
        err = write_piece(timing, fd, block, sizeof block, timing->operation_count * sizeof block);
    return err;
}

static int write_at_random(struct timing *timing, int fd)
{
    const struct workload *work = timing->work;
    void *bytes;
    if (posix_memalign(&bytes, 4096, FILL_BYTES))
        return -ENOMEM;
    measure_fill(bytes, FILL_BYTES, work->seed, 0);
    int err = -posix_fallocate(fd, 0, FILL_FILE_BYTES);
    const uint64_t begun_ns = measure_now_ns(), end_ns = begun_ns + work->time_max_ns;
    uint64_t due_ns = begun_ns;
    while (!err && due_ns < end_ns) {
        sleep_until(due_ns);
        const uint64_t piece =
            measure_mix(work->seed + timing->operation_count) % (FILL_FILE_BYTES / FILL_BYTES);
        err = write_piece(timing, fd, bytes, FILL_BYTES, piece * FILL_BYTES);
        /* Who was held up does not make up for it. */
        due_ns = kv_max_u64(due_ns + FILL_BYTES * 1000000000ull / work->raw_bytes_per_second,
                            measure_now_ns());
    }
    free(bytes);
    return err;
}

static int use_device(struct timing *timing, const char *directory)
{
    const bool fills = timing->work->operation == WORKLOAD_RAW_FILL;
    char *path = engine_path(directory, "raw");
    if (!path)
        return -ENOMEM;
    const int fd =
        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | (fills ? O_DIRECT : 0), 0600);
    int err = fd < 0 ? -errno : fills ? write_at_random(timing, fd) : append_and_flush(timing, fd);
    if (fd >= 0 && close(fd) && !err)
        err = -errno;
    free(path);
    return err;
}

/* ---- the memory -------------------------------------------------------------------------- */

struct memory {
    uint8_t *bytes;
    uint64_t length, begun_ns, grown_ns; /* all of it is there at grown_ns */
    _Atomic uint64_t there;              /* bytes that were faulted in */
};

static void *grow_memory(void *context)
{
    struct memory *memory = context;
    const uint64_t step_ns = (memory->grown_ns - memory->begun_ns) / (memory->length / MEMORY_STEP);
    for (uint64_t at = 0; at < memory->length; at += MEMORY_STEP) {
        sleep_until(memory->begun_ns + at / MEMORY_STEP * step_ns);
        memset(memory->bytes + at, 1, MEMORY_STEP);
        atomic_store_explicit(&memory->there, at + MEMORY_STEP, memory_order_release);
    }
    return NULL;
}

/* Change some lines of random pages of those that are there. */
static void touch_pages(struct timing *timing, struct memory *memory, uint64_t page_count)
{
    const unsigned count = timing->work->batch_count;
    const uint64_t first = timing->work->seed + timing->operation_count * count;
    measure_clock_start(&timing->clock);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *page = memory->bytes + measure_mix(first + i) % page_count * MEMORY_PAGE;
        for (size_t at = 0; at < MEMORY_PAGE; at += MEMORY_LINE_STEP)
            page[at]++;
    }
    end_operation(timing);
}

static int use_memory(struct timing *timing)
{
    const struct workload *work = timing->work;
    struct memory memory = {.length =
                                kv_max_u64(work->raw_memory_bytes / MEMORY_STEP, 1) * MEMORY_STEP};
    const size_t mapped = memory.length + MEMORY_STEP;
    uint8_t *const map =
        mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return -ENOMEM;
    memory.bytes = map + (MEMORY_STEP - (uintptr_t)map % MEMORY_STEP) % MEMORY_STEP;
    (void)madvise(memory.bytes, memory.length, MADV_HUGEPAGE); /* a hint */
    memory.begun_ns = measure_now_ns();
    memory.grown_ns = memory.begun_ns + work->time_max_ns / 100 * MEMORY_GROWS;
    pthread_t grower;
    const int err = -pthread_create(&grower, NULL, grow_memory, &memory);
    while (!err && measure_now_ns() < memory.begun_ns + work->time_max_ns) {
        const uint64_t there = atomic_load_explicit(&memory.there, memory_order_acquire);
        if (there)
            touch_pages(timing, &memory, there / MEMORY_PAGE);
    }
    if (!err)
        pthread_join(grower, NULL);
    (void)munmap(map, mapped);
    return err;
}

/* ---- either ------------------------------------------------------------------------------ */

int raw_run(const char *directory, const struct workload *work, struct workload_result *result)
{
    struct timing timing = {.work = work, .latencies = calloc(1, sizeof *timing.latencies)};
    if (!timing.latencies)
        return -ENOMEM;
    const int err = work->operation == WORKLOAD_RAW_MEMORY ? use_memory(&timing)
                                                           : use_device(&timing, directory);
    result->operation_count = timing.operation_count;
    const double count = (double)timing.operation_count * 1e9;
    result->per_second = count / (double)kv_max_u64(timing.clock.elapsed_ns, 1);
    result->per_cpu_second = count / (double)kv_max_u64(timing.clock.cpu_ns, 1);
    result->p50_ns = kv_histogram_at(timing.latencies, 500);
    result->p99_ns = kv_histogram_at(timing.latencies, 990);
    result->p999_ns = kv_histogram_at(timing.latencies, 999);
    result->longest_ns = timing.latencies->max;
    free(timing.latencies);
    return err;
}
