/*
 * fs/counters.h: how often the kernel asked for what, how long the answers took, and how much
 * content went through.
 *
 * Threads: any, but for init and release; counters are relaxed atomics, a reader sees each of
 * them at its own moment.
 */
#ifndef FS_COUNTERS_H
#define FS_COUNTERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kv/histogram.h"
#include "kv/kv.h"

#define FS_OPCODE_LIMIT 64u /* what is beyond counts under 0 */

struct fs_counters {
    _Atomic uint64_t requests[FS_OPCODE_LIMIT]; /* by opcode of the FUSE protocol */
    _Atomic uint64_t read_bytes, written_bytes; /* content of files, as programs see it */
    _Atomic uint64_t threads;                   /* that serve requests */
    _Atomic uint64_t thread_waits; /* a request waited when one of them came free, of all busy */
    _Atomic uint64_t names_again, reads_again; /* asked for again soon: fs/repeats.h */
    _Atomic unsigned categories;               /* enum kv_metric_category that are on */
    uint64_t begun_ns;                         /* by the monotonic clock; immutable */
    struct kv_histogram_set *latencies;        /* by opcode; immutable; NULL: none are noted */
};

/* All zero is a counter without latencies. -ENOMEM. */
KV_MUST_CHECK int fs_counters_init(struct fs_counters *counters, unsigned categories);
void fs_counters_release(struct fs_counters *counters);

void fs_counters_add(struct fs_counters *counters, uint32_t opcode);
/* The time, or 0: latencies are not wanted. */
uint64_t fs_counters_begin(const struct fs_counters *counters);
/* A request was served that began at `begun_ns` (not 0). */
void fs_counters_end(struct fs_counters *counters, uint32_t opcode, uint64_t begun_ns);
/* Nanoseconds of the requests of that opcode; all zero where there are none. */
void fs_counters_latency(const struct fs_counters *counters, uint32_t opcode,
                         struct kv_histogram *out);

/* "lookup", or NULL: no request counts under that opcode. */
const char *fs_counters_name(uint32_t opcode);

/*
 * Write a JSON object {"lookup": 3, ...} of what is not zero, like snprintf: returns the
 * length it has, whether or not it fits.
 */
size_t fs_counters_json(const struct fs_counters *counters, char *out, size_t cap);

#endif
