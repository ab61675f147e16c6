/*
 * kv/pagemap_overlay.c: what an epoch has changed: page id to pointer.
 *
 * Owns       the slots.
 * Invariant  at least half of the slots are empty, so that a search ends.
 * Locks      the caller's map->mutex.
 */
#include "kv/pagemap_blocks.h"

struct overlay_slot *kv_overlay_find(const struct overlay *overlay, uint64_t page_id)
{
    if (!overlay->count)
        return NULL;
    for (size_t i = hash_id(page_id);; i++) {
        struct overlay_slot *slot = &overlay->slots[i & (overlay->capacity - 1)];
        if (slot->page_id == page_id)
            return slot;
        if (!slot->page_id)
            return NULL;
    }
}

static void overlay_place(struct overlay *overlay, const struct overlay_slot *entry)
{
    size_t i = hash_id(entry->page_id);
    while (overlay->slots[i & (overlay->capacity - 1)].page_id)
        i++;
    overlay->slots[i & (overlay->capacity - 1)] = *entry;
    overlay->count++;
}

int kv_overlay_set(struct overlay *overlay, uint64_t page_id, const struct kv_disk_ptr *ptr)
{
    struct overlay_slot *slot = kv_overlay_find(overlay, page_id);
    if (slot) {
        slot->ptr = *ptr;
        return 0;
    }
    if (2 * (overlay->count + 1) > overlay->capacity) {
        struct overlay bigger = {.capacity = overlay->capacity ? 2 * overlay->capacity : 64};
        bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
        if (!bigger.slots)
            return -ENOMEM;
        for (size_t i = 0; i < overlay->capacity; i++)
            if (overlay->slots[i].page_id)
                overlay_place(&bigger, &overlay->slots[i]);
        free(overlay->slots);
        *overlay = bigger;
    }
    const struct overlay_slot entry = {.page_id = page_id, .ptr = *ptr};
    overlay_place(overlay, &entry);
    return 0;
}

void kv_overlay_clear(struct overlay *overlay)
{
    free(overlay->slots);
    *overlay = (struct overlay){0};
}
