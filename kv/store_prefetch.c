/*
 * kv/store_prefetch.c: bringing keys into memory before they are asked for.
 *
 * Owns       nothing.
 * Invariant  no more leaves are read than the caller allows, or than fit beside what is used.
 * Locks      none.
 */
#include "kv/store.h"

/* What one call reads when the caller does not say: a part of what hot and warm can hold. */
#define PREFETCH_PART 2u

int kv_prefetch(struct kv_store *store, const void *lower, size_t lower_len, const void *upper,
                size_t upper_len, uint64_t bytes_max, uint64_t *bytes_read)
{
    if (bytes_read)
        *bytes_read = 0;
    if (lower_len > KV_KEY_MAX || upper_len > KV_KEY_MAX)
        return -EINVAL;
    struct kv_btree_ahead ahead = {.max = KV_PAGES_AT_ONCE, .next_len = lower_len, .more = true};
    uint8_t *scratch = malloc(store->node_bytes);
    if (!scratch)
        return -ENOMEM;
    if (lower_len)
        memcpy(ahead.next, lower, lower_len);
    const uint64_t room = kv_pager_page_room(store->pager) / PREFETCH_PART;
    uint64_t left = bytes_max ? kv_min_u64(bytes_max / store->node_bytes, room) : room;
    int err = 0;
    while (ahead.more && left && !err) {
        uint8_t from[KV_KEY_MAX];
        const struct kv_bytes begin = {.data = from, .length = ahead.next_len};
        const struct kv_bytes end = {.data = upper, .length = upper_len};
        memcpy(from, ahead.next, ahead.next_len);
        ahead.max = (unsigned)kv_min_u64(left, KV_PAGES_AT_ONCE);
        err = kv_btree_leaves_ahead(&store->trees[KV_TREE_KEYS], begin, end, scratch, &ahead);
        if (err)
            break;
        kv_pager_prefetch(store->pager, ahead.page_ids, ahead.count);
        left -= ahead.count;
        if (bytes_read)
            *bytes_read += ahead.count * (uint64_t)store->node_bytes;
    }
    free(scratch);
    return err;
}
