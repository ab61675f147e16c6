/*
 * tests/faults/io/memory_preload.c: allocations of a whole program that fail on order, its
 * libraries' and libc's own included: memory-faults.so, to be preloaded.
 *
 * KVFS_MEMORY_FAULTS is AFTER:once|lasting:FILE[:LEAST]; FILE gets, as 8 bytes of this machine, how
 * many allocations there were, also those of the processes that were forked. With LEAST smaller
 * ones do not count. What happens before main does not count. Nor does what libseccomp asks for: it
 * uses what it gets without a look (2.5.4, seccomp_load), so that a daemon which has no memory for
 * its filter dies in there.
 */
#include <dlfcn.h>
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
static unsigned long long least_bytes;

__attribute__((constructor)) static void begin(void)
{
    char how[16], path[256];
    unsigned long long number;
    const char *const order = getenv("KVFS_MEMORY_FAULTS");
    if (!order || sscanf(order, "%llu:%15[^:]:%255[^:]:%llu", &number, how, path, &least_bytes) < 3)
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

/* `caller`: an address in who asks. */
static bool fails(const void *caller, size_t bytes)
{
    Dl_info object;
    if (!seen || bytes < least_bytes ||
        (dladdr(caller, &object) && object.dli_fname && strstr(object.dli_fname, "libseccomp")))
        return false;
    const uint64_t at = atomic_fetch_add_explicit(seen, 1, memory_order_relaxed);
    return lasting ? at >= after : at == after;
}

void *malloc(size_t bytes)
{
    if (!fails(__builtin_return_address(0), bytes))
        return __libc_malloc(bytes);
    errno = ENOMEM;
    return NULL;
}

void *calloc(size_t count, size_t bytes)
{
    if (!fails(__builtin_return_address(0), count * bytes))
        return __libc_calloc(count, bytes);
    errno = ENOMEM;
    return NULL;
}

void *realloc(void *old, size_t bytes)
{
    if (!fails(__builtin_return_address(0), bytes))
        return __libc_realloc(old, bytes);
    errno = ENOMEM;
    return NULL;
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    if (!fails(__builtin_return_address(0), bytes))
        return __libc_memalign(alignment, bytes);
    errno = ENOMEM;
    return NULL;
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    void *const memory =
        fails(__builtin_return_address(0), bytes) ? NULL : __libc_memalign(alignment, bytes);
    if (memory)
        *out = memory;
    return memory ? 0 : ENOMEM;
}
