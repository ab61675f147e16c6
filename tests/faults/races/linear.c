/*
 * tests/faults/races/linear.c: the search for an order.
 *
 * Owns       nothing beyond a call.
 * Invariant  a state is the set of operations that were given their moment, and the value that
 *            came of it; a state that led nowhere is not entered again.
 */
#include "linear.h"

#include <stdlib.h>
#include <string.h>

struct state {
    uint64_t done; /* a bit for each operation */
    uint64_t value;
};

/* States that lead nowhere: open addressing, grown as needed. */
struct memory {
    struct state *slots; /* done == 0: empty; the first state is never kept */
    size_t count, capacity;
};

struct search {
    const struct linear_op *ops;
    size_t count;
    uint64_t all;
    struct memory dead;
};

static size_t hash_state(const struct state *state, size_t capacity)
{
    const uint64_t mixed =
        (state->done * 0x9e3779b97f4a7c15u) ^ (state->value * 0xc2b2ae3d27d4eb4fu);
    return (size_t)(mixed ^ (mixed >> 29)) & (capacity - 1);
}

static struct state *find_slot(struct state *slots, size_t capacity, const struct state *state)
{
    size_t at = hash_state(state, capacity);
    while (slots[at].done && (slots[at].done != state->done || slots[at].value != state->value))
        at = (at + 1) & (capacity - 1);
    return &slots[at];
}

static void grow(struct memory *memory)
{
    const size_t capacity = memory->capacity ? 2 * memory->capacity : 256;
    struct state *slots = calloc(capacity, sizeof *slots);
    if (!slots)
        abort(); /* a test has nothing better to do */
    for (size_t i = 0; i < memory->capacity; i++)
        if (memory->slots[i].done)
            *find_slot(slots, capacity, &memory->slots[i]) = memory->slots[i];
    free(memory->slots);
    memory->slots = slots;
    memory->capacity = capacity;
}

static bool remembered(const struct memory *memory, const struct state *state)
{
    return memory->capacity && find_slot(memory->slots, memory->capacity, state)->done;
}

static void remember(struct memory *memory, const struct state *state)
{
    if (!state->done)
        return;
    if (2 * memory->count >= memory->capacity)
        grow(memory);
    *find_slot(memory->slots, memory->capacity, state) = *state;
    memory->count++;
}

/* The earliest end of what has no moment yet: whatever is next must have been called before it. */
static uint64_t deadline(const struct search *search, uint64_t done)
{
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < search->count; i++)
        if (!(done >> i & 1) && search->ops[i].end < least)
            least = search->ops[i].end;
    return least;
}

static bool extend(struct search *search, struct state state)
{
    if (state.done == search->all)
        return true;
    if (remembered(&search->dead, &state))
        return false;
    const uint64_t before = deadline(search, state.done);
    for (size_t i = 0; i < search->count; i++) {
        const struct linear_op *op = &search->ops[i];
        if ((state.done >> i & 1) || op->call > before)
            continue;
        if (!op->is_write && op->value != state.value)
            continue;
        const struct state next = {.done = state.done | 1ull << i,
                                   .value = op->is_write ? op->value : state.value};
        if (extend(search, next))
            return true;
    }
    remember(&search->dead, &state);
    return false;
}

bool linear_check(const struct linear_op *ops, size_t count, uint64_t first)
{
    if (count > LINEAR_OPS_MAX)
        abort();
    struct search search = {
        .ops = ops, .count = count, .all = count == 64 ? ~0ull : (1ull << count) - 1};
    const bool found = extend(&search, (struct state){.value = first});
    free(search.dead.slots);
    return found;
}
