/*
 * fs/repeats.c: was the same asked for before, lately?
 *
 * Owns       nothing.
 * Locks      none.
 */
#include "fs/repeats.h"

/* Spread all bits over all bits (the end of MurmurHash3's 64-bit finalizer does that). */
static uint64_t mixed(uint64_t number)
{
    number ^= number >> 33;
    number *= 0xff51afd7ed558ccdull;
    number ^= number >> 33;
    number *= 0xc4ceb9fe1a85ec53ull;
    return number ^ number >> 33;
}

bool fs_repeats_see(struct fs_repeats *repeats, uint64_t kind, uint64_t ino, uint64_t which)
{
    const uint64_t hash = mixed(mixed(mixed(kind + 1) + ino) + which);
    _Atomic uint32_t *const place = &repeats->marks[hash % FS_REPEATS_MARKS];
    const uint32_t mark = (uint32_t)(hash >> 32) | 1; /* 0: no mark */
    if (atomic_load_explicit(place, memory_order_relaxed) == mark)
        return true;
    atomic_store_explicit(place, mark, memory_order_relaxed);
    return false;
}
