/*
 * kv/arena.h: anonymous memory of a fixed size, of which what is needed next is faulted in ahead.
 *
 * The first touch of memory is a fault, mostly under some lock: 0.2 ms for a large page, and 5.7 ms
 * on a virtual machine whose host took the memory back (bench/README.md, "First touch"). So an
 * arena knows how far it is used, and a thread that nobody waits for goes ahead of that: as far as
 * it is used already, so that little use stays little, within bounds. It is best done while nobody
 * else has work for the processor: so the thread waits for a pause as long as a good part of what
 * is ahead is left, and a burst takes from that. Whoever comes to memory that the thread has not
 * reached pays for it as ever.
 *
 * What was touched is never given back before the arena goes.
 */
#ifndef KV_ARENA_H
#define KV_ARENA_H

#include "kv/base.h"

#include <stdatomic.h>

/* Who goes ahead, and how far. */
struct kv_arena_ahead {
    size_t bytes_min;            /* also of an arena that is not used yet; 0: nothing waits */
    void (*call)(void *context); /* there is something for kv_arena_touch; any thread, any lock */
    void *context;
};

struct kv_arena {
    uint8_t *memory; /* immutable; NULL: there is none */
    size_t bytes;    /* immutable */
    struct kv_arena_ahead ahead;
    _Atomic size_t used;    /* by the lock of who gives it out */
    _Atomic size_t touched; /* by kv_arena_touch */
    _Atomic bool called;    /* until nothing is due, or it is touched */
    _Atomic bool pressed;   /* called again, since little is left; until somebody looks */
    bool hurried;           /* by who goes ahead: little was left, and not half is there yet */
};

/*
 * Map `bytes` of zeroes, in large pages where there are any. Nobody goes ahead yet. Returns 0 or
 * -ENOMEM. Then, and for an arena of zeroes, kv_arena_unmap.
 */
KV_MUST_CHECK int kv_arena_map(struct kv_arena *arena, size_t bytes);
void kv_arena_unmap(struct kv_arena *arena);
/* Before it is used: copied. */
void kv_arena_go_ahead(struct kv_arena *arena, const struct kv_arena_ahead *ahead);

enum kv_arena_due {
    KV_ARENA_DUE_NOTHING,
    KV_ARENA_DUE_LATER, /* in the next pause; there will be another call when less is left */
    KV_ARENA_DUE_NOW
};

/* For who goes ahead, one thread at a time. */
enum kv_arena_due kv_arena_due(struct kv_arena *arena);
/* Fault in one step of what is due, now or later. false: nothing was. */
bool kv_arena_touch(struct kv_arena *arena);

void kv_arena_use_more(struct kv_arena *arena, size_t end); /* of kv_arena_use */

/* The memory up to `end` (bytes from its start) is in use. Under the lock of who gives it out. */
static inline void kv_arena_use(struct kv_arena *arena, size_t end)
{
    if (end > atomic_load_explicit(&arena->used, memory_order_relaxed))
        kv_arena_use_more(arena, end);
}

#endif
