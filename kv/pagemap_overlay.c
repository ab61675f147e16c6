/*
 * kv/pagemap_overlay.c: what an epoch has changed: page id to pointer.
 *
 * Owns       the slots.
 * Invariant  at least a quarter of a part's slots are empty, so that a search ends.
 * Locks      the caller's map->mutex.
 */
#include "kv/pagemap_blocks.h"

#define PART_CAPACITY_MIN 8u

static size_t part_of(uint64_t page_id)
{
    return hash_id(page_id) / (1ull << 32) % OVERLAY_PARTS;
}

struct overlay_slot *kv_overlay_find(const struct overlay *overlay, uint64_t page_id)
{
    const struct overlay_part *part = &overlay->parts[part_of(page_id)];
    if (!part->count)
        return NULL;
    for (size_t i = hash_id(page_id);; i++) {
        struct overlay_slot *slot = &part->slots[i & (part->capacity - 1)];
        if (slot->page_id == page_id)
            return slot;
        if (!slot->page_id)
            return NULL;
    }
}

static void part_place(struct overlay_part *part, const struct overlay_slot *entry)
{
    size_t i = hash_id(entry->page_id);
    while (part->slots[i & (part->capacity - 1)].page_id)
        i++;
    part->slots[i & (part->capacity - 1)] = *entry;
    part->count++;
}

static int part_grow(struct overlay_part *part)
{
    struct overlay_part bigger = {.capacity =
                                      part->capacity ? 2 * part->capacity : PART_CAPACITY_MIN};
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    if (!bigger.slots)
        return -ENOMEM;
    for (uint32_t i = 0; i < part->capacity; i++)
        if (part->slots[i].page_id)
            part_place(&bigger, &part->slots[i]);
    free(part->slots);
    *part = bigger;
    return 0;
}

int kv_overlay_set(struct overlay *overlay, uint64_t page_id, const struct kv_disk_ptr *ptr)
{
    struct overlay_slot *slot = kv_overlay_find(overlay, page_id);
    if (slot) {
        slot->ptr = *ptr;
        return 0;
    }
    struct overlay_part *part = &overlay->parts[part_of(page_id)];
    if (part->count + 1 > part->capacity - part->capacity / 4) {
        const int err = part_grow(part);
        if (err)
            return err;
    }
    const struct overlay_slot entry = {.page_id = page_id, .ptr = *ptr};
    part_place(part, &entry);
    overlay->count++;
    return 0;
}

void kv_overlay_clear(struct overlay *overlay)
{
    for (size_t i = 0; i < OVERLAY_PARTS; i++)
        free(overlay->parts[i].slots);
    *overlay = (struct overlay){0};
}

const struct overlay_slot *kv_overlay_next(const struct overlay *overlay, struct overlay_walk *walk)
{
    for (; walk->part < OVERLAY_PARTS; walk->part++, walk->slot = 0) {
        const struct overlay_part *part = &overlay->parts[walk->part];
        while (walk->slot < part->capacity) {
            const struct overlay_slot *slot = &part->slots[walk->slot++];
            if (slot->page_id)
                return slot;
        }
    }
    return NULL;
}

size_t kv_overlay_memory(const struct overlay *overlay)
{
    size_t slots = 0;
    for (size_t i = 0; i < OVERLAY_PARTS; i++)
        slots += overlay->parts[i].capacity;
    return slots * sizeof(struct overlay_slot);
}
