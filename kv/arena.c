/*
 * kv/arena.c: anonymous memory of a fixed size, of which what is needed next is faulted in ahead.
 *
 * Owns       the mapping.
 * Invariant  used and touched only grow, and end within the mapping. What is touched ahead is not
 *            written: it may be in use by then.
 */
#include "kv/arena.h"

#include "kv/kv.h"

#include <sys/mman.h>
#include <unistd.h>

#define STEP_BYTES ((size_t)2 << 20) /* a large page of most machines */

int kv_arena_map(struct kv_arena *arena, size_t bytes)
{
    memset(arena, 0, sizeof *arena);
    void *const memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    /* They also save a walk of the page table at every random access; a wish only. */
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    arena->memory = memory;
    arena->bytes = bytes;
    return 0;
}

void kv_arena_go_ahead(struct kv_arena *arena, const struct kv_arena_ahead *ahead)
{
    arena->ahead = *ahead;
}

void kv_arena_unmap(struct kv_arena *arena)
{
    if (arena->memory)
        (void)munmap(arena->memory, arena->bytes);
    memset(arena, 0, sizeof *arena);
}

/* Up to here it should be touched. */
static size_t touched_wanted(const struct kv_arena *arena)
{
    const size_t used = atomic_load_explicit(&arena->used, memory_order_relaxed);
    const size_t ahead = kv_max_u64(arena->ahead.bytes_min, kv_min_u64(used, KV_TOUCH_AHEAD_MAX));
    return ahead < arena->bytes - used ? used + ahead : arena->bytes;
}

void kv_arena_use_more(struct kv_arena *arena, size_t end)
{
    atomic_store_explicit(&arena->used, end, memory_order_relaxed);
    const size_t touched = atomic_load_explicit(&arena->touched, memory_order_relaxed);
    const size_t wanted = touched_wanted(arena);
    if (!arena->ahead.call || wanted <= touched ||
        (wanted - touched < STEP_BYTES && wanted < arena->bytes) ||
        atomic_exchange_explicit(&arena->called, true, memory_order_relaxed))
        return;
    arena->ahead.call(arena->ahead.context);
}

bool kv_arena_touch(struct kv_arena *arena)
{
    atomic_store_explicit(&arena->called, false, memory_order_relaxed);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t used = atomic_load_explicit(&arena->used, memory_order_relaxed);
    const size_t touched = atomic_load_explicit(&arena->touched, memory_order_relaxed);
    const size_t begin = kv_max_u64(touched, used) / page * page;
    if (!arena->memory || begin >= touched_wanted(arena))
        return false;
    /* To the end of a large page: half of one is a whole one. */
    const size_t lies = (size_t)(uintptr_t)arena->memory % STEP_BYTES;
    const size_t next = (begin + lies) / STEP_BYTES * STEP_BYTES + STEP_BYTES - lies;
    const size_t end = kv_min_u64(next, arena->bytes);
    /* Before Linux 5.14 there is no such thing, and without memory it is somebody else's affair. */
    const bool done = !madvise(arena->memory + begin, end - begin, MADV_POPULATE_WRITE);
    atomic_store_explicit(&arena->touched, done ? end : arena->bytes, memory_order_relaxed);
    return done;
}
