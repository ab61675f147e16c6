/*
 * tests/faults/soak/soak.h: what the soak programs share: numbers from the environment, a
 * generator, and the log of operations that a failure prints.
 *
 * A run is decided by its seed and its sizes alone: the same ones do the same operations. So a
 * failure is replayed by running again with the seed that it printed; KVFS_SOAK_LOG names a file
 * that gets every operation, not only the last ones.
 *
 * One thread.
 */
#ifndef TESTS_FAULTS_SOAK_H
#define TESTS_FAULTS_SOAK_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* A number from the environment, or `otherwise`. */
uint64_t soak_env(const char *name, uint64_t otherwise);

/* Begin: takes KVFS_SEED (else the clock) and prints it with the program's name. */
void soak_begin(const char *program);

/* splitmix64 (Steele, Lea, Flood 2014): the next number, one below a limit, one chance in n. */
uint64_t soak_random(void);
uint64_t soak_below(uint64_t limit);
bool soak_chance(uint64_t n);

/* Note the operation that is about to be done. Counted. */
void soak_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t soak_count(void);

/* What to do about a failure before the program ends, e.g. unmount. NULL: nothing. */
void soak_at_failure(void (*function)(void *), void *context);

/* Say what is wrong, the seed and the last operations; end the program with status 1. */
void soak_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* For what is no difference but a machine that does not play along. */
#define SOAK_MUST(condition)                                                                       \
    do {                                                                                           \
        if (!(condition))                                                                          \
            soak_fail("%s:%d: %s (%s)", __FILE__, __LINE__, #condition, strerror(errno));          \
    } while (0)

#endif
