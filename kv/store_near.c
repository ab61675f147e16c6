/*
 * kv/store_near.c: which blobs the values beside a key refer to.
 *
 * Owns       nothing.
 * Invariant  only the leaf that holds the key is looked at: it was just used, so it is in memory.
 * Locks      none: a copy of the leaf, as for a cursor.
 */
#include "kv/store.h"

/* Does a value end with a reference to a blob that begins there? */
static bool refers_to(struct kv_bytes value, uint8_t kind, uint64_t block, uint32_t block_count,
                      struct kv_blob_ref *ref)
{
    struct kv_disk_blob_ref disk;
    if (kind != KV_VALUE_REF || value.length < sizeof disk)
        return false;
    memcpy(&disk, (const uint8_t *)value.data + value.length - sizeof disk, sizeof disk);
    const uint64_t begin = kv_le64_get(disk.ptr.block);
    memcpy(ref, &disk, sizeof *ref);
    return begin >= block && begin - block < block_count;
}

size_t kv_store_find_near(void *context, const void *key, size_t key_len, uint64_t block,
                          uint32_t block_count, struct kv_blob_ref *refs, size_t max)
{
    struct kv_store *const store = context;
    uint8_t *const leaf = kv_buffers_take(store->buffers, store->node_bytes);
    size_t found = 0;
    if (!leaf)
        return 0;
    if (!kv_btree_leaf_at(&store->trees[KV_TREE_KEYS], key, key_len, leaf)) {
        const unsigned count = kv_node_count(leaf);
        for (unsigned slot = 0; slot < count && found < max; slot++) {
            uint8_t kind;
            const struct kv_bytes value = kv_node_value(leaf, slot, &kind);
            if (refers_to(value, kind, block, block_count, &refs[found]))
                found++;
        }
    }
    kv_buffers_give(store->buffers, leaf, store->node_bytes);
    return found;
}
