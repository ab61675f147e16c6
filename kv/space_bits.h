/*
 * kv/space_bits.h: runs of bits in arrays of 64-bit words, and the clusters among them. For
 * kv/space*.c only, hence the short names.
 */
#ifndef KV_SPACE_BITS_H
#define KV_SPACE_BITS_H

#include "kv/base.h"

/* `count` ones from bit `first` on; first + count <= 64, count > 0. */
static inline uint64_t bit_run(unsigned first, unsigned count)
{
    return (count == 64 ? ~0ull : (1ull << count) - 1) << first;
}

static inline uint32_t popcount(uint64_t word)
{
    return (uint32_t)__builtin_popcountll(word);
}

/* The part of a run of bits that lies in one word; walk with run_part_next. */
struct run_part {
    uint32_t word;
    uint64_t mask;
    uint32_t at, left;
};

static inline bool run_part_next(struct run_part *part)
{
    if (!part->left)
        return false;
    const uint32_t bit = part->at % 64;
    const uint32_t count = part->left < 64 - bit ? part->left : 64 - bit;
    part->word = part->at / 64;
    part->mask = bit_run(bit, count);
    part->at += count;
    part->left -= count;
    return true;
}

static inline struct run_part run_parts(uint32_t first, uint32_t count)
{
    return (struct run_part){.at = first, .left = count};
}

/* A bit at the start of each cluster of the word that is wholly free. */
static inline uint64_t whole_clusters_of(uint64_t busy_word, uint32_t cluster_blocks)
{
    uint64_t starts = ~busy_word;
    for (uint32_t shift = 1; shift < cluster_blocks; shift <<= 1)
        starts &= starts >> shift;
    uint64_t mask = 1;
    for (uint32_t step = cluster_blocks; step < 64; step <<= 1)
        mask |= mask << step;
    return starts & mask;
}

/* The free blocks of a word that are in no whole cluster. */
static inline uint64_t holes_of(uint64_t busy_word, uint32_t cluster_blocks)
{
    return ~busy_word &
           ~(whole_clusters_of(busy_word, cluster_blocks) * bit_run(0, cluster_blocks));
}

static inline bool all_set(const uint64_t *bits, uint32_t first, uint32_t count)
{
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        if ((bits[part.word] & part.mask) != part.mask)
            return false;
    }
    return true;
}

static inline bool all_clear(const uint64_t *bits, uint32_t first, uint32_t count)
{
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        if (bits[part.word] & part.mask)
            return false;
    }
    return true;
}

/* Both return how many bits changed. */
static inline uint32_t set_bits(uint64_t *bits, uint32_t first, uint32_t count)
{
    uint32_t changed = 0;
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        changed += popcount(part.mask & ~bits[part.word]);
        bits[part.word] |= part.mask;
    }
    return changed;
}

static inline uint32_t clear_bits(uint64_t *bits, uint32_t first, uint32_t count)
{
    uint32_t changed = 0;
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        changed += popcount(part.mask & bits[part.word]);
        bits[part.word] &= ~part.mask;
    }
    return changed;
}

#endif
