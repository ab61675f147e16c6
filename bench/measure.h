/*
 * bench/measure.h: what every benchmark needs to be repeatable and honest.
 *
 * Owns       clock, seeded numbers and contents, latency samples, threads that start together.
 * Threads    latencies belong to one thread at a time; everything else is pure.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "kv/base.h"

/* Monotonic time in nanoseconds. */
uint64_t measure_now_ns(void);

/*
 * What a thread takes between start and stop, summed up: of the clock and of its processor. To be
 * started and stopped by the same thread; all zero at first. Stopping returns what was added to
 * elapsed_ns.
 */
struct measure_clock {
    uint64_t elapsed_ns, cpu_ns;
    uint64_t begun_ns, cpu_begun_ns; /* while it runs */
};
void measure_clock_start(struct measure_clock *clock);
uint64_t measure_clock_stop(struct measure_clock *clock);

/* A number that looks random and depends on `x` alone (the finaliser of splitmix64). */
uint64_t measure_mix(uint64_t x);

/*
 * Fill `length` bytes that depend on `seed` alone. Of each 64 bytes, about
 * `compressible_percent` (0..100) are constant; the rest do not compress.
 */
void measure_fill(void *buf, size_t length, uint64_t seed, unsigned compressible_percent);

/* The numbers 0..count-1 in an order that depends on `seed`; caller frees. NULL: no memory. */
uint64_t *measure_shuffled(uint64_t count, uint64_t seed);

/* "4096", "64K", "10M", "2G" to bytes. Returns 0; -EINVAL not such a number; -ERANGE. */
KV_MUST_CHECK int measure_parse_size(const char *text, uint64_t *bytes);
/* The same for any number from `least` to `most`. */
KV_MUST_CHECK int measure_parse_number(const char *text, uint64_t least, uint64_t most,
                                       uint64_t *number);
/* The same for what an unsigned holds; *number is set on 0 only. */
KV_MUST_CHECK int measure_parse_unsigned(const char *text, unsigned least, unsigned most,
                                         unsigned *number);

/* Samples of the time that one operation took. */
struct measure_latencies {
    uint64_t *ns;
    size_t count, cap;
};
#define MEASURE_LATENCIES_INIT                                                                     \
    {                                                                                              \
        NULL, 0, 0                                                                                 \
    }

KV_MUST_CHECK int measure_latencies_add(struct measure_latencies *latencies, uint64_t ns);
/* Move the samples of `from` behind those of `to`; `from` is empty after it. */
KV_MUST_CHECK int measure_latencies_merge(struct measure_latencies *to,
                                          struct measure_latencies *from);
void measure_latencies_sort(struct measure_latencies *latencies);
/* The sample that `permille` of 1000 do not exceed; 0 without samples. Sort first. */
uint64_t measure_latencies_at(const struct measure_latencies *latencies, unsigned permille);
uint64_t measure_latencies_sum(const struct measure_latencies *latencies);
void measure_latencies_release(struct measure_latencies *latencies);

/* The middle one; sorts `values` in place. */
double measure_median(double *values, size_t count);

/*
 * Run `work` in `thread_count` threads that start at one moment, and wait for all.
 *
 * elapsed_ns  out: from the start of the first to the end of the last.
 *
 * Returns 0; the first negative errno that a thread returned; -EAGAIN or -ENOMEM.
 */
typedef int measure_work_fn(void *context, unsigned thread);
KV_MUST_CHECK int measure_parallel(unsigned thread_count, measure_work_fn *work, void *context,
                                   uint64_t *elapsed_ns);

/* Write `text` as a JSON string, with its quotes. */
void measure_print_json_string(FILE *out, const char *text);

/* A field "NAME:   N kB" of /proc/PID/status in bytes; 0 when it cannot be read. */
uint64_t measure_process_memory(long pid, const char *name);
/* Bytes that process caused to be written to storage; 0 when it cannot be read. */
uint64_t measure_process_written(long pid);

#endif
