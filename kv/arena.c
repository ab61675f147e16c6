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

#define STEP_BYTES   ((size_t)2 << 20) /* a large page of most machines */
#define HURRY_PART   4u /* when less than this part is left of what should be ahead */
#define HURRIED_PART 2u /* until this part is there */

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

/* Where an arena stands. */
struct stand {
    size_t used, touched;
    size_t wanted; /* up to here it should be touched */
};

static struct stand stand_of(const struct kv_arena *arena)
{
    const size_t used = atomic_load_explicit(&arena->used, memory_order_relaxed);
    const size_t ahead = kv_max_u64(arena->ahead.bytes_min, kv_min_u64(used, KV_TOUCH_AHEAD_MAX));
    return (struct stand){.used = used,
                          .touched = atomic_load_explicit(&arena->touched, memory_order_relaxed),
                          .wanted = ahead < arena->bytes - used ? used + ahead : arena->bytes};
}

/* Less than this part of what should be ahead is left; or there is nothing that could last. */
static bool is_short(const struct kv_arena *arena, const struct stand *stand, size_t part)
{
    return !arena->ahead.bytes_min || stand->touched < stand->used ||
           stand->touched - stand->used < (stand->wanted - stand->used) / part;
}

void kv_arena_use_more(struct kv_arena *arena, size_t end)
{
    atomic_store_explicit(&arena->used, end, memory_order_relaxed);
    const struct stand stand = stand_of(arena);
    if (!arena->ahead.call || stand.wanted <= stand.touched ||
        (stand.wanted - stand.touched < STEP_BYTES && stand.wanted < arena->bytes))
        return;
    bool call = !atomic_exchange_explicit(&arena->called, true, memory_order_relaxed);
    if (is_short(arena, &stand, HURRY_PART))
        call |= !atomic_exchange_explicit(&arena->pressed, true, memory_order_relaxed);
    if (call)
        arena->ahead.call(arena->ahead.context);
}

/* Where the next step begins. */
static size_t next_step(const struct stand *stand)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return kv_max_u64(stand->touched, stand->used) / page * page;
}

enum kv_arena_due kv_arena_due(struct kv_arena *arena)
{
    atomic_store_explicit(&arena->called, false, memory_order_relaxed);
    atomic_store_explicit(&arena->pressed, false, memory_order_relaxed);
    const struct stand stand = stand_of(arena);
    if (!arena->memory || next_step(&stand) >= stand.wanted) {
        arena->hurried = false;
        return KV_ARENA_DUE_NOTHING;
    }
    arena->hurried = is_short(arena, &stand, arena->hurried ? HURRIED_PART : HURRY_PART);
    if (arena->hurried)
        return KV_ARENA_DUE_NOW;
    atomic_store_explicit(&arena->called, true, memory_order_relaxed);
    return KV_ARENA_DUE_LATER;
}

bool kv_arena_touch(struct kv_arena *arena)
{
    atomic_store_explicit(&arena->called, false, memory_order_relaxed);
    const struct stand stand = stand_of(arena);
    const size_t begin = next_step(&stand);
    if (!arena->memory || begin >= stand.wanted)
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
