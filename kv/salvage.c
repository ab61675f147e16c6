/*
 * kv/salvage.c: which leaves of the keys' tree can be found without the page map, and which of
 * them counts where.
 *
 * Owns       the leaves noted, their fences, the pieces.
 * Invariant  what is noted was whole, in its place and of this image when it was looked at.
 * Locks      none; nothing may be changed meanwhile.
 *
 * The pieces are found by sweeping over the fences in key order with a heap of the leaves that
 * are open at that point, the one that counts on top.
 */
#include "kv/salvage.h"

#include "kv/check_walk.h"
#include "kv/stored_page.h"

#define SCAN_IO_BLOCKS 128u /* of one request */
#define SCAN_IOS       8u   /* in flight together */
#define SCAN_BLOCKS    (SCAN_IO_BLOCKS * SCAN_IOS)

int kv_salvage_init(struct kv_salvage *salvage, struct kv_store *store)
{
    *salvage = (struct kv_salvage){.store = store};
    salvage->node = kv_device_alloc(store->node_bytes);
    return salvage->node ? 0 : -ENOMEM;
}

void kv_salvage_clear(struct kv_salvage *salvage)
{
    for (size_t i = 0; i < salvage->leaf_count; i++)
        free(salvage->leaves[i].fences);
    salvage->leaf_count = 0;
    salvage->piece_count = 0;
    salvage->epoch_max = 0;
    salvage->unreadable_blocks = 0;
}

void kv_salvage_release(struct kv_salvage *salvage)
{
    kv_salvage_clear(salvage);
    free(salvage->leaves);
    free(salvage->pieces);
    free(salvage->node);
    *salvage = (struct kv_salvage){0};
}

/* ---- noting leaves ------------------------------------------------------------------- */

static struct kv_bytes low_of(const struct kv_salvage_leaf *leaf)
{
    return (struct kv_bytes){leaf->fences, leaf->low_bytes};
}

static struct kv_bytes high_of(const struct kv_salvage_leaf *leaf)
{
    if (leaf->unbounded)
        return (struct kv_bytes){0};
    return (struct kv_bytes){leaf->fences + leaf->low_bytes, leaf->high_bytes};
}

/* Room for one more item of an array. */
static int make_room(void **items, size_t count, size_t *capacity, size_t item_bytes)
{
    if (count < *capacity)
        return 0;
    const size_t more = *capacity ? 2 * *capacity : 256;
    void *moved = reallocarray(*items, more, item_bytes);
    if (!moved)
        return -ENOMEM;
    *items = moved;
    *capacity = more;
    return 0;
}

/* The bitmaps tell which blocks the last checkpoint reached. */
bool kv_salvage_tells_age(const struct kv_store *store)
{
    return !store->bitmaps_rebuilt && !store->superblocks_lost;
}

/* Was this epoch's checkpoint made durable, as far as can be known? */
static bool epoch_counts(const struct kv_store *store, uint64_t epoch)
{
    if (store->superblocks_lost || epoch <= store->info.epoch)
        return true;
    return store->epoch_first && epoch >= store->epoch_first;
}

/* Is this version of a page the one that the last checkpoint reached, as far as can be known? */
static bool is_current(const struct kv_store *store, uint64_t page_id, uint64_t block,
                       uint32_t length)
{
    struct kv_disk_ptr ptr;
    if (!store->superblocks_lost && !kv_pagemap_get(store->map, page_id, &ptr) &&
        kv_le64_get(ptr.block) == block)
        return true;
    return kv_salvage_tells_age(store) &&
           kv_space_owned(store->space, block, (uint32_t)kv_blocks_for(length));
}

/* Note the leaf in salvage->node. */
static int note_leaf(struct kv_salvage *salvage, uint64_t block, uint32_t length, uint64_t order)
{
    const struct kv_store *store = salvage->store;
    const struct kv_disk_node *header = (const struct kv_disk_node *)salvage->node;
    if (header->level || header->tree != KV_TREE_KEYS ||
        !epoch_counts(store, kv_le64_get(header->epoch)))
        return 0;
    void *items = salvage->leaves;
    const int err =
        make_room(&items, salvage->leaf_count, &salvage->leaf_capacity, sizeof *salvage->leaves);
    if (err)
        return err;
    salvage->leaves = items;
    const struct kv_bytes low = kv_node_low(salvage->node, store->node_bytes);
    const struct kv_bytes high = kv_node_high(salvage->node, store->node_bytes);
    uint8_t *fences = malloc(low.length + high.length + 1);
    if (!fences)
        return -ENOMEM;
    if (low.length)
        memcpy(fences, low.data, low.length);
    if (high.length)
        memcpy(fences + low.length, high.data, high.length);
    struct kv_salvage_leaf *leaf = &salvage->leaves[salvage->leaf_count++];
    const uint64_t page_id = kv_le64_get(header->page_id);
    *leaf = (struct kv_salvage_leaf){.block = block,
                                     .page_id = page_id,
                                     .epoch = kv_le64_get(header->epoch),
                                     .order = order,
                                     .length_bytes = length,
                                     .low_bytes = (uint16_t)low.length,
                                     .high_bytes = (uint16_t)high.length,
                                     .unbounded = !high.data,
                                     .current = is_current(store, page_id, block, length),
                                     .fences = fences};
    salvage->epoch_max = kv_max_u64(salvage->epoch_max, leaf->epoch);
    return 0;
}

int kv_salvage_add_mapped(struct kv_salvage *salvage, uint64_t page_id)
{
    const struct kv_store *store = salvage->store;
    struct kv_disk_ptr ptr;
    int err = kv_pagemap_get(store->map, page_id, &ptr);
    if (!err)
        err = kv_pager_read_stored(store->pager, page_id, &ptr, salvage->node);
    if (err)
        return err == -ENOMEM ? err : 0; /* unreadable: it holds nothing for us */
    return note_leaf(salvage, kv_le64_get(ptr.block), kv_le32_get(ptr.length_bytes), 0);
}

/* ---- the scan ------------------------------------------------------------------------ */

struct scan {
    struct kv_salvage *salvage;
    uint64_t image_id;
    uint8_t *bytes; /* SCAN_BLOCKS blocks */
};

/* Block by block: what can not be read is taken for zeroes. */
static void read_singly(struct scan *scan, const struct kv_io *io)
{
    struct kv_device *device = scan->salvage->store->device;
    for (uint32_t i = 0; i < io->block_count; i++) {
        uint8_t *block = (uint8_t *)io->buf + (size_t)i * KV_BLOCK_BYTES;
        if (!kv_device_read(device, io->block + i, 1, block))
            continue;
        memset(block, 0, KV_BLOCK_BYTES);
        scan->salvage->unreadable_blocks++;
    }
}

static void read_window(struct scan *scan, uint64_t first, uint32_t count)
{
    struct kv_io ios[SCAN_IOS];
    size_t io_count = 0;
    for (uint32_t at = 0; at < count; at += SCAN_IO_BLOCKS)
        ios[io_count++] =
            (struct kv_io){.kind = KV_IO_READ,
                           .block = first + at,
                           .block_count = (uint32_t)kv_min_u64(SCAN_IO_BLOCKS, count - at),
                           .buf = scan->bytes + (size_t)at * KV_BLOCK_BYTES,
                           .result = -EIO};
    /* Each request has its own result. */
    kv_ignore(kv_device_submit(scan->salvage->store->device, ios, io_count, false));
    for (size_t i = 0; i < io_count; i++)
        if (ios[i].result)
            read_singly(scan, &ios[i]);
}

/* Is there a leaf at this block, `left` blocks of which were read? *taken: blocks it takes. */
static int look_at(struct scan *scan, uint8_t *bytes, uint64_t block, uint32_t left,
                   uint32_t *taken)
{
    struct kv_salvage *salvage = scan->salvage;
    const size_t node_bytes = salvage->store->node_bytes;
    const size_t length = kv_stored_page_length(bytes, node_bytes);
    const uint32_t block_count = (uint32_t)kv_blocks_for(length);
    *taken = 1;
    if (!length || block_count > left ||
        !kv_stored_page_genuine(bytes, length, scan->image_id, block))
        return 0;
    *taken = block_count;
    const struct kv_disk_node *header = (const struct kv_disk_node *)bytes;
    if (header->level || header->tree != KV_TREE_KEYS)
        return 0;
    const uint64_t order = kv_le64_get(header->stored_order);
    const int err =
        kv_stored_page_unpack(bytes, length, header->stored_codec, kv_le64_get(header->page_id),
                              kv_le64_get(header->epoch), salvage->node, node_bytes);
    if (err)
        return err == -ENOMEM ? err : 0;
    return note_leaf(salvage, block, (uint32_t)length, order);
}

/* A page lies within one group. */
static int scan_group(struct scan *scan, uint64_t first, uint64_t end, uint64_t *done,
                      uint64_t total,
                      void (*progress)(void *context, uint64_t done, uint64_t total), void *context)
{
    const uint32_t page_blocks = (uint32_t)(scan->salvage->store->node_bytes / KV_BLOCK_BYTES);
    while (first < end) {
        const uint32_t count = (uint32_t)kv_min_u64(SCAN_BLOCKS, end - first);
        /* A page that begins in the last blocks of a window is left to the next one. */
        const bool last = first + count == end;
        const uint32_t ours = last ? count : count - (page_blocks - 1);
        read_window(scan, first, count);
        uint32_t at = 0;
        while (at < ours) {
            uint32_t taken;
            const int err = look_at(scan, scan->bytes + (size_t)at * KV_BLOCK_BYTES, first + at,
                                    count - at, &taken);
            if (err)
                return err;
            at += taken;
        }
        first += at;
        *done += at;
        if (progress)
            progress(context, *done, total);
    }
    return 0;
}

int kv_salvage_scan(struct kv_salvage *salvage,
                    void (*progress)(void *context, uint64_t done, uint64_t total), void *context)
{
    const struct kv_disk_superblock *sb = &salvage->store->checkpoint.superblock;
    const uint64_t first = kv_le64_get(sb->group_first_block);
    const uint64_t end = kv_le64_get(sb->image_blocks) - 1;
    const uint32_t groups = kv_le32_get(sb->group_count);
    struct scan scan = {.salvage = salvage, .image_id = kv_superblock_log_id(sb)};
    scan.bytes = kv_device_alloc((size_t)SCAN_BLOCKS * KV_BLOCK_BYTES);
    int err = scan.bytes ? 0 : -ENOMEM;
    uint64_t done = 0;
    for (uint32_t i = 0; i < groups && !err; i++) {
        const uint64_t start = first + (uint64_t)i * KV_GROUP_BLOCKS;
        err = scan_group(&scan, start + KV_GROUP_META_BLOCKS,
                         kv_min_u64(end, start + KV_GROUP_BLOCKS), &done, end - first, progress,
                         context);
    }
    free(scan.bytes);
    return err;
}

/* ---- who counts where ------------------------------------------------------------------ */

static int compare_keys(struct kv_bytes a, struct kv_bytes b)
{
    return kv_key_compare(a.data, a.length, b.data, b.length);
}

/* A high fence against a key: no fence is above every key. */
static bool ends_after(struct kv_bytes high, struct kv_bytes key)
{
    return !high.data || compare_keys(high, key) > 0;
}

static int compare_leaves(const void *a, const void *b)
{
    return compare_keys(low_of(a), low_of(b));
}

/* Does a count where both lie? The last is for two versions that say the same. */
static bool outranks(const struct kv_salvage_leaf *a, const struct kv_salvage_leaf *b)
{
    if (a->current != b->current)
        return a->current;
    if (a->epoch != b->epoch)
        return a->epoch > b->epoch;
    return a->order != b->order ? a->order > b->order : a->block > b->block;
}

/* A heap of the leaves that may cover the point of the sweep; the one that counts is on top. */
struct heap {
    const struct kv_salvage_leaf **leaves;
    size_t count;
};

static void heap_push(struct heap *heap, const struct kv_salvage_leaf *leaf)
{
    size_t at = heap->count++;
    while (at && outranks(leaf, heap->leaves[(at - 1) / 2])) {
        heap->leaves[at] = heap->leaves[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap->leaves[at] = leaf;
}

static void heap_pop(struct heap *heap)
{
    const struct kv_salvage_leaf *leaf = heap->leaves[--heap->count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && outranks(heap->leaves[child + 1], heap->leaves[child]))
            child++;
        if (!outranks(heap->leaves[child], leaf))
            break;
        heap->leaves[at] = heap->leaves[child];
        at = child;
    }
    heap->leaves[at] = leaf;
}

static int add_piece(struct kv_salvage *salvage, const struct kv_salvage_leaf *leaf,
                     struct kv_bytes low, struct kv_bytes high)
{
    if (salvage->piece_count && salvage->pieces[salvage->piece_count - 1].leaf == leaf) {
        salvage->pieces[salvage->piece_count - 1].high = high;
        return 0;
    }
    void *items = salvage->pieces;
    const int err =
        make_room(&items, salvage->piece_count, &salvage->piece_capacity, sizeof *salvage->pieces);
    if (err)
        return err;
    salvage->pieces = items;
    salvage->pieces[salvage->piece_count++] =
        (struct kv_salvage_piece){.leaf = leaf, .low = low, .high = high};
    return 0;
}

int kv_salvage_resolve(struct kv_salvage *salvage)
{
    const size_t count = salvage->leaf_count;
    struct heap heap = {.leaves = reallocarray(NULL, count + 1, sizeof *heap.leaves)};
    if (!heap.leaves)
        return -ENOMEM;
    if (count)
        qsort(salvage->leaves, count, sizeof *salvage->leaves, compare_leaves);
    salvage->piece_count = 0;
    struct kv_bytes at = {"", 0};
    size_t next = 0;
    int err = 0;
    do {
        while (next < count && compare_keys(low_of(&salvage->leaves[next]), at) <= 0)
            heap_push(&heap, &salvage->leaves[next++]);
        while (heap.count && !ends_after(high_of(heap.leaves[0]), at))
            heap_pop(&heap);
        const struct kv_salvage_leaf *top = heap.count ? heap.leaves[0] : NULL;
        struct kv_bytes high = top ? high_of(top) : (struct kv_bytes){0};
        if (next < count && ends_after(high, low_of(&salvage->leaves[next])))
            high = low_of(&salvage->leaves[next]);
        err = add_piece(salvage, top, at, high);
        at = high;
    } while (!err && at.data);
    free(heap.leaves);
    return err;
}

int kv_salvage_each(const struct kv_salvage *salvage, struct kv_bytes low, struct kv_bytes high,
                    kv_salvage_visit_fn *visit, void *context)
{
    size_t first = 0, end = salvage->piece_count;
    while (first < end) { /* the first piece that ends after `low` */
        const size_t middle = first + (end - first) / 2;
        if (ends_after(salvage->pieces[middle].high, low))
            end = middle;
        else
            first = middle + 1;
    }
    int err = 0;
    for (size_t i = first; i < salvage->piece_count && !err; i++) {
        struct kv_salvage_piece piece = salvage->pieces[i];
        if (!ends_after(high, piece.low))
            break;
        if (compare_keys(piece.low, low) < 0)
            piece.low = low;
        if (high.data && ends_after(piece.high, high))
            piece.high = high;
        err = visit(context, &piece);
    }
    return err;
}

/* ---- reading what was found -------------------------------------------------------------- */

int kv_salvage_read(const struct kv_salvage *salvage, const struct kv_salvage_leaf *leaf,
                    uint8_t *node)
{
    const struct kv_store *store = salvage->store;
    const uint64_t image_id = kv_superblock_log_id(&store->checkpoint.superblock);
    uint8_t *stored = kv_buffers_take(store->buffers, store->node_bytes);
    if (!stored)
        return -ENOMEM;
    int err = kv_device_read(store->device, leaf->block,
                             (uint32_t)kv_blocks_for(leaf->length_bytes), stored);
    if (!err && (kv_stored_page_length(stored, store->node_bytes) != leaf->length_bytes ||
                 !kv_stored_page_genuine(stored, leaf->length_bytes, image_id, leaf->block)))
        err = -EBADMSG;
    if (!err)
        err = kv_stored_page_unpack(stored, leaf->length_bytes,
                                    ((const struct kv_disk_node *)stored)->stored_codec,
                                    leaf->page_id, leaf->epoch, node, store->node_bytes);
    kv_buffers_give(store->buffers, stored, store->node_bytes);
    return err;
}

unsigned kv_salvage_slots(const struct kv_salvage *salvage, const struct kv_salvage_piece *piece,
                          const uint8_t *node, unsigned *first)
{
    const size_t node_bytes = salvage->store->node_bytes;
    bool exact;
    *first = kv_node_search(node, node_bytes, piece->low.data, piece->low.length, &exact);
    if (!piece->high.data)
        return kv_node_count(node);
    return kv_node_search(node, node_bytes, piece->high.data, piece->high.length, &exact);
}

/* ---- keeping it ------------------------------------------------------------------------ */

struct protection {
    const struct kv_salvage *salvage;
    uint64_t first_block; /* of bit 0 */
    uint64_t *bits;
};

static void protect_run(struct protection *protection, uint64_t block, uint64_t count)
{
    if (!kv_space_contains(protection->salvage->store->space, block, count))
        return;
    for (uint64_t at = block - protection->first_block; count; at++, count--)
        protection->bits[at / 64] |= 1ull << at % 64;
}

static int protect_piece(void *context, const struct kv_salvage_piece *piece)
{
    struct protection *protection = context;
    const struct kv_salvage *salvage = protection->salvage;
    if (!piece->leaf)
        return 0;
    const int err = kv_salvage_read(salvage, piece->leaf, salvage->node);
    if (err)
        return err == -ENOMEM ? err : 0;
    protect_run(protection, piece->leaf->block, kv_blocks_for(piece->leaf->length_bytes));
    unsigned slot;
    const unsigned end = kv_salvage_slots(salvage, piece, salvage->node, &slot);
    for (; slot < end; slot++) {
        uint8_t kind;
        const struct kv_bytes value = kv_node_value(salvage->node, slot, &kind);
        struct kv_blob_ref ref;
        for (size_t at = 0; kv_value_next_ref(kind, value, &at, &ref);) {
            uint64_t block;
            uint32_t block_count;
            /* One that does not verify may long belong to something else, as to the log. */
            const int bad = kv_blobs_verify(&salvage->store->blobs, &ref);
            if (bad == -ENOMEM)
                return bad;
            if (!bad && !kv_blobs_extent(&salvage->store->blobs, &ref, &block, &block_count))
                protect_run(protection, block, block_count);
        }
    }
    return 0;
}

int kv_salvage_protect(const struct kv_salvage *salvage, struct kv_bytes low, struct kv_bytes high)
{
    const struct kv_disk_superblock *sb = &salvage->store->checkpoint.superblock;
    const size_t words =
        (size_t)kv_le32_get(sb->group_count) * KV_GROUP_BLOCKS / 64; /* a bit for each block */
    struct protection protection = {.salvage = salvage,
                                    .first_block = kv_le64_get(sb->group_first_block),
                                    .bits = calloc(words, sizeof *protection.bits)};
    if (!protection.bits)
        return -ENOMEM;
    const int err = kv_salvage_each(salvage, low, high, protect_piece, &protection);
    if (!err)
        kv_space_mark(salvage->store->space, protection.bits);
    free(protection.bits);
    return err;
}
