/*
 * kv/store_prefetch.c: bringing keys into memory before they are asked for, or for ever.
 *
 * Owns       nothing.
 * Invariant  no more leaves are read than the caller allows, or than fit beside what is used.
 * Locks      none.
 */
#include "kv/store.h"

/* What one call reads when the caller does not say: a part of what hot and warm can hold. */
#define PREFETCH_PART 2u

/* What is done with the pages that hold a range, `count` of them at a time. */
typedef void pages_fn(struct kv_pager *pager, const uint64_t *page_ids, size_t count);

/* Leaves that cover the range, and with `with_above` what is above them; at most `left` leaves. */
static int each_page(struct kv_store *store, const void *lower, size_t lower_len,
                     const struct kv_bytes upper, bool with_above, uint64_t left, pages_fn *act,
                     uint64_t *seen)
{
    struct kv_btree_ahead ahead = {.max = KV_PAGES_AT_ONCE, .next_len = lower_len, .more = true};
    uint8_t *scratch = malloc(store->node_bytes);
    if (!scratch)
        return -ENOMEM;
    if (lower_len)
        memcpy(ahead.next, lower, lower_len);
    int err = 0;
    while (ahead.more && left && !err) {
        ahead.max = (unsigned)kv_min_u64(left, KV_PAGES_AT_ONCE);
        err = kv_btree_leaves_further(&store->trees[KV_TREE_KEYS], upper, scratch, &ahead);
        if (err)
            break;
        if (with_above)
            act(store->pager, ahead.above, ahead.above_count);
        act(store->pager, ahead.page_ids, ahead.count);
        left -= ahead.count;
        *seen += ahead.count;
    }
    free(scratch);
    return err;
}

int kv_retain(struct kv_store *store, const void *lower, size_t lower_len, const void *upper,
              size_t upper_len)
{
    struct kv_pager_stats stats;
    uint64_t seen = 0;
    if (lower_len > KV_KEY_MAX || upper_len > KV_KEY_MAX)
        return -EINVAL;
    kv_pager_stats(store->pager, &stats);
    const uint64_t most = stats.retained_max_bytes / store->node_bytes;
    const struct kv_bytes end = {.data = upper, .length = upper_len};
    return most ? each_page(store, lower, lower_len, end, true, most, kv_pager_retain, &seen) : 0;
}

static void read_pages(struct kv_pager *pager, const uint64_t *page_ids, size_t count)
{
    (void)kv_pager_prefetch(pager, page_ids, count);
}

int kv_prefetch(struct kv_store *store, const void *lower, size_t lower_len, const void *upper,
                size_t upper_len, uint64_t bytes_max, uint64_t *bytes_read)
{
    uint64_t seen = 0;
    if (bytes_read)
        *bytes_read = 0;
    if (lower_len > KV_KEY_MAX || upper_len > KV_KEY_MAX)
        return -EINVAL;
    const uint64_t room = kv_pager_page_room(store->pager) / PREFETCH_PART;
    const uint64_t most = bytes_max ? kv_min_u64(bytes_max / store->node_bytes, room) : room;
    const struct kv_bytes end = {.data = upper, .length = upper_len};
    const int err = each_page(store, lower, lower_len, end, false, most, read_pages, &seen);
    if (bytes_read)
        *bytes_read = seen * store->node_bytes;
    return err;
}
