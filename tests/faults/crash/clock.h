/*
 * tests/faults/crash/clock.h: a wall clock that is set by the test, so that the same workload
 * gives the same bytes. Programs are linked with --wrap=clock_gettime.
 */
#ifndef TESTS_FAULTS_CRASH_CLOCK_H
#define TESTS_FAULTS_CRASH_CLOCK_H

#include <stdint.h>

/* From here on time passes by a millisecond each time that somebody looks at it. */
void clock_set(uint64_t seconds);

#endif
