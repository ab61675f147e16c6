/*
 * tests/faults/io/memory_preload.c: allocations of a whole program that fail on order, its
 * libraries' and libc's own included: memory-faults.so, to be preloaded.
 *
 * KVFS_MEMORY_FAULTS is AFTER:once|lasting:FILE; FILE gets, as 8 bytes of this machine, how many
 * allocations there were, also those of the processes that were forked. What happens before main
 * does not count.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* glibc's own names for what we stand before. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static _Atomic uint64_t *seen; /* NULL: nothing is counted, nothing fails */
static uint64_t after;
static bool lasting;

__attribute__((constructor)) static void begin(void)
{
    char how[16], path[256];
    unsigned long long number;
    const char *const order = getenv("KVFS_MEMORY_FAULTS");
    if (!order || sscanf(order, "%llu:%15[^:]:%255s", &number, how, path) != 3)
        return;
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *seen))
        abort();
    void *const map = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        abort();
    close(fd);
    after = number;
    lasting = strcmp(how, "lasting") == 0;
    seen = map;
}

static bool fails(void)
{
    if (!seen)
        return false;
    const uint64_t at = atomic_fetch_add_explicit(seen, 1, memory_order_relaxed);
    return lasting ? at >= after : at == after;
}

void *malloc(size_t bytes)
{
    if (!fails())
        return __libc_malloc(bytes);
    errno = ENOMEM;
    return NULL;
}

void *calloc(size_t count, size_t bytes)
{
    if (!fails())
        return __libc_calloc(count, bytes);
    errno = ENOMEM;
    return NULL;
}

void *realloc(void *old, size_t bytes)
{
    if (!fails())
        return __libc_realloc(old, bytes);
    errno = ENOMEM;
    return NULL;
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    if (!fails())
        return __libc_memalign(alignment, bytes);
    errno = ENOMEM;
    return NULL;
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    void *const memory = fails() ? NULL : __libc_memalign(alignment, bytes);
    if (memory)
        *out = memory;
    return memory ? 0 : ENOMEM;
}
