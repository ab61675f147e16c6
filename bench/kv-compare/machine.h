/* bench/kv-compare/machine.h: what the figures were measured on, for the report. */
#ifndef BENCH_KV_COMPARE_MACHINE_H
#define BENCH_KV_COMPARE_MACHINE_H

#include "bench/kv-compare/report.h"

/* Fill in what is known of machine, source and time; `directory` says which file system. */
void machine_describe(struct report *report, const char *directory);

#endif
