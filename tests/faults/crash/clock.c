/*
 * tests/faults/crash/clock.c: a wall clock that is set by the test.
 *
 * Owns       the time. One thread.
 */
#include "clock.h"

#include <time.h>

/* The names are the linker's, for --wrap. */
int __real_clock_gettime(clockid_t clock, struct timespec *out); /* NOLINT */
int __wrap_clock_gettime(clockid_t clock, struct timespec *out); /* NOLINT */

static uint64_t now_ms = 1700000000000u;

void clock_set(uint64_t seconds)
{
    now_ms = seconds * 1000;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *out) /* NOLINT */
{
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
        return __real_clock_gettime(clock, out);
    now_ms++;
    out->tv_sec = (time_t)(now_ms / 1000);
    out->tv_nsec = (long)(now_ms % 1000) * 1000000;
    return 0;
}
