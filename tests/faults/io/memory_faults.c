/*
 * tests/faults/io/memory_faults.c: allocations that fail on order.
 *
 * Owns       the wrapped allocators, and those of a library's that the store calls to have a
 *            context made.
 */
#include "memory_faults.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

static struct {
    bool armed, lasting;
    uint64_t after, seen, hits;
} memory;

void memory_fault_order(uint64_t after, bool lasting)
{
    memory.after = after;
    memory.lasting = lasting;
    memory.seen = memory.hits = 0;
    memory.armed = true;
}

void memory_fault_end(void)
{
    memory.armed = false;
}

uint64_t memory_fault_seen(void)
{
    return memory.seen;
}

uint64_t memory_fault_hits(void)
{
    return memory.hits;
}

static bool fails(void)
{
    if (!memory.armed)
        return false;
    const uint64_t at = memory.seen++;
    const bool struck = memory.lasting ? at >= memory.after : at == memory.after;
    memory.hits += struck;
    if (struck)
        errno = ENOMEM;
    return struck;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t length);
void *__real_ZSTD_createCCtx(void);
void *__real_ZSTD_createDCtx(void);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t length);
void *__wrap_ZSTD_createCCtx(void);
void *__wrap_ZSTD_createDCtx(void);

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    return fails() ? ENOMEM : __real_posix_memalign(out, alignment, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

char *__wrap_strndup(const char *text, size_t length)
{
    return fails() ? NULL : __real_strndup(text, length);
}

void *__wrap_ZSTD_createCCtx(void)
{
    return fails() ? NULL : __real_ZSTD_createCCtx();
}

void *__wrap_ZSTD_createDCtx(void)
{
    return fails() ? NULL : __real_ZSTD_createDCtx();
}
