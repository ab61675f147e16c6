/*
 * tests/faults/io/memory_faults.h: allocations that fail on order.
 *
 * memory_faults.c is linked with --wrap for the functions that it names (MEMORY_FAULTS_WRAPPED
 * in CMakeLists.txt), so it reaches what is linked into the program and not what libc and
 * other shared libraries allocate for themselves. One thread.
 */
#ifndef TESTS_FAULTS_MEMORY_FAULTS_H
#define TESTS_FAULTS_MEMORY_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

/* From now on count allocations; fail the one after so many, or all from that one on. */
void memory_fault_order(uint64_t after, bool lasting);
/* Nothing fails, nothing is counted. */
void memory_fault_end(void);
uint64_t memory_fault_seen(void);
uint64_t memory_fault_hits(void);

#endif
