/*
 * tests/faults/soak/soak.c: seed, generator, log of operations.
 *
 * Owns       the one run that a program is: the state below is the process's.
 */
#include "soak.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINES_KEPT 60u
#define LINE_BYTES 240u

static struct {
    uint64_t seed, state, count;
    char lines[LINES_KEPT][LINE_BYTES];
    FILE *log;
    void (*at_failure)(void *);
    void *context;
} run;

uint64_t soak_env(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

void soak_begin(const char *program)
{
    run.seed = soak_env("KVFS_SEED", (uint64_t)time(NULL) * 1000 + (uint64_t)getpid());
    run.state = run.seed;
    const char *path = getenv("KVFS_SOAK_LOG");
    if (path && *path)
        run.log = fopen(path, "we");
    printf("%s: KVFS_SEED=%llu\n", program, (unsigned long long)run.seed);
    fflush(stdout);
}

uint64_t soak_random(void)
{
    uint64_t z = (run.state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t soak_below(uint64_t limit)
{
    return soak_random() % limit;
}

bool soak_chance(uint64_t n)
{
    return soak_below(n) == 0;
}

void soak_note(const char *format, ...)
{
    char *line = run.lines[run.count % LINES_KEPT];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(line, LINE_BYTES, format, arguments); /* a cut line is still a line */
    va_end(arguments);
    run.count++;
    if (run.log)
        fprintf(run.log, "%llu %s\n", (unsigned long long)run.count, line);
}

uint64_t soak_count(void)
{
    return run.count;
}

void soak_at_failure(void (*function)(void *), void *context)
{
    run.at_failure = function;
    run.context = context;
}

void soak_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fprintf(stderr, "FAILED in operation %llu: ", (unsigned long long)run.count);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nthe last operations:\n");
    va_end(arguments);
    const uint64_t kept = run.count < LINES_KEPT ? run.count : LINES_KEPT;
    for (uint64_t i = run.count - kept; i < run.count; i++)
        fprintf(stderr, "  %llu %s\n", (unsigned long long)i + 1, run.lines[i % LINES_KEPT]);
    fprintf(stderr, "KVFS_SEED=%llu and the same sizes do the same again\n",
            (unsigned long long)run.seed);
    if (run.log)
        (void)fclose(run.log); /* nothing to do about it now */
    void (*function)(void *) = run.at_failure;
    run.at_failure = NULL;
    if (function)
        function(run.context);
    _exit(1);
}
