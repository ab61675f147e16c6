/*
 * bench/kv-compare/raw.h: the machine without an engine: its device and its memory, used as an
 * engine uses them.
 */
#ifndef BENCH_KV_COMPARE_RAW_H
#define BENCH_KV_COMPARE_RAW_H

#include "bench/kv-compare/workload.h"

/*
 * Do WORKLOAD_RAW_*, in this process; files are made in `directory`. Rates and times go into the
 * result. -EIO and others of the device, -ENOMEM.
 */
KV_MUST_CHECK int raw_run(const char *directory, const struct workload *work,
                          struct workload_result *result);

#endif
