/*
 * bench/kv-compare/workload.h: one kind of work on one engine, in this process.
 *
 * Keys are 16 decimal digits, so that their order is that of their numbers. A value begins with
 * the number of its key and a generation; the rest follows from both, half of it compressible.
 * Keys and values are made before the clock runs, 256 operations (or one batch) at a time; while
 * it runs the engine is called, and each value that it gives is looked at, all of its bytes.
 */
#ifndef BENCH_KV_COMPARE_WORKLOAD_H
#define BENCH_KV_COMPARE_WORKLOAD_H

#include "bench/kv-compare/engine.h"

enum workload_operation {
    WORKLOAD_PUT,       /* each number once, in batches, into what was empty */
    WORKLOAD_GET,       /* one after the other */
    WORKLOAD_GET_MANY,  /* WORKLOAD_MANY at once */
    WORKLOAD_MIXED,     /* four gets to one overwrite, which is a batch by itself */
    WORKLOAD_SCAN,      /* everything in order, again and again */
    WORKLOAD_RAW_SYNC,  /* no engine: 4 KiB are appended to a file and flushed (fdatasync) */
    WORKLOAD_RAW_FILL,  /* no engine: 1 MiB at a time goes to random places of a file, O_DIRECT */
    WORKLOAD_RAW_MEMORY /* no engine: batch_count random pages at a time, memory growing */
};

enum workload_pick {
    WORKLOAD_IN_ORDER, /* of WORKLOAD_PUT */
    WORKLOAD_SHUFFLED, /* of WORKLOAD_PUT */
    WORKLOAD_UNIFORM,
    WORKLOAD_ZIPF, /* 0.99, the frequent ones all over the keys */
    WORKLOAD_HOT   /* WORKLOAD_HOT_KEYS neighbours */
};

#define WORKLOAD_MANY        32u
#define WORKLOAD_HOT_KEYS    1000u
#define WORKLOAD_BATCH_MAX   1000u
#define WORKLOAD_THREADS_MAX 16u

struct workload {
    enum workload_operation operation;
    enum workload_pick pick;
    unsigned thread_count;
    unsigned batch_count; /* WORKLOAD_PUT: records in a batch */
    bool sync;            /* each batch is durable before the next */
    bool limited;         /* the cache is smaller than the data */
    bool scan_first;      /* read and verify everything before the clock runs */
    uint64_t record_count;
    size_t value_bytes;
    uint64_t cache_bytes;
    uint64_t operations_max;       /* 0: as many as fit the time */
    uint64_t time_max_ns;          /* 0: all of operations_max */
    uint64_t warm_ns;              /* the same work before the clock runs */
    uint64_t raw_bytes_per_second; /* WORKLOAD_RAW_FILL: no faster than this */
    uint64_t raw_memory_bytes;     /* WORKLOAD_RAW_MEMORY: so much in the end */
    uint64_t seed;
};

/* Plain numbers: it goes through a pipe. */
struct workload_result {
    int error;
    uint64_t operation_count;
    double per_second;
    double per_cpu_second; /* of the CPU time of the threads that call the engine */
    uint64_t p50_ns, p99_ns, p999_ns, longest_ns; /* of one operation, get_many or batch */
    uint64_t peak_rss_bytes;
    uint64_t disk_bytes;            /* that the engine's files take, after it was closed */
    uint64_t used_bytes;            /* of these, by the engine's own account; 0: it has none */
    uint64_t written_bytes, cpu_ns; /* of the whole process, from open to close */
};

/*
 * Open the engine in `directory`, do the work, close it. kind: NULL for WORKLOAD_RAW_*.
 * The error is returned and in the result.
 */
KV_MUST_CHECK int workload_run(const struct engine_kind *kind, const char *directory,
                               const struct workload *work, struct workload_result *result);

/* Visit each file below a directory, open for reading, until one says other than 0: then that is
 * returned. -1: the directory can not be walked, errno says why. */
typedef int workload_visit_file_fn(int fd);
KV_MUST_CHECK int workload_each_file(const char *directory, workload_visit_file_fn *visit);

/* Bytes that the files below a directory take. */
KV_MUST_CHECK int workload_disk_bytes(const char *directory, uint64_t *bytes);

#endif
