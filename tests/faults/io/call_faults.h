/*
 * tests/faults/io/call_faults.h: calls of the system that fail on order.
 *
 * call_faults.c is linked with --wrap for the functions that it names (CALL_FAULTS_WRAPPED in
 * CMakeLists.txt). Only the calls of the thread that gave the order are counted and fail.
 */
#ifndef TESTS_FAULTS_CALL_FAULTS_H
#define TESTS_FAULTS_CALL_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A function, and one of the ways in which it is made to fail. */
struct call_fault {
    const char *function;
    int error; /* errno; 0: it finds nothing (readdir, fgets) */
};
extern const struct call_fault call_faults[];
extern const size_t call_fault_count;

/* From now on count the calls of call_faults[index]'s function; the one after so many fails, or
 * all from that one on. */
void call_fault_order(size_t index, uint64_t after, bool lasting);
/* Nothing fails any more. Returns how many did; *seen: how many were counted. */
uint64_t call_fault_end(uint64_t *seen);

#endif
