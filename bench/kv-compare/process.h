/*
 * bench/kv-compare/process.h: each piece of work in a process of its own.
 *
 * So memory is that of one engine and one piece of work, nothing is warm that the work did not
 * warm, and an engine that crashes or hangs spoils one figure.
 */
#ifndef BENCH_KV_COMPARE_PROCESS_H
#define BENCH_KV_COMPARE_PROCESS_H

#include "bench/kv-compare/workload.h"

/*
 * Run `work` in a child and wait for it.
 *
 * group      the cgroup it moves to before it opens the engine; NULL: none.
 * timeout_s  it is killed after that.
 * why        out, when an error is returned: what happened, in a few words.
 */
KV_MUST_CHECK int process_run(const struct engine_kind *kind, const char *directory,
                              const struct workload *work, const char *group, unsigned timeout_s,
                              struct workload_result *result, char *why, size_t why_cap);

#endif
