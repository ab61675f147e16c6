/*
 * tests/kv/support_pages.c: the rows below the trees over a device, and a tree, without a store.
 */
#include "support_pages.h"

#include "support_devices.h"

#define GROUP_FIRST 16u
#define MAP_BLOCKS  64u

static void note_failure(void *context, int error, const char *what)
{
    struct test_pages *const pages = context;
    (void)what;
    __atomic_store_n(&pages->failure, error, __ATOMIC_RELAXED);
}

static void note_damage(void *context, uint64_t page_id, int error)
{
    struct test_pages *const pages = context;
    (void)page_id;
    (void)error;
    (void)__atomic_fetch_add(&pages->damage_count, 1, __ATOMIC_RELAXED);
}

static bool note_crowded(void *context)
{
    struct test_pages *const pages = context;
    pages->crowded_count += pages->is_cleaned;
    return pages->is_cleaned;
}

static void open_rows(struct test_pages *pages)
{
    int err = kv_space_open(pages->device, &pages->space_config, pages->durable_epoch,
                            pages->bitmap_digest, &pages->space);
    KV_ASSERT(err == 0);
    pages->buffers = kv_buffers_new();
    KV_ASSERT(pages->buffers);
    err = kv_pagemap_open(pages->device, pages->space, &pages->root, MAP_BLOCKS, &pages->map);
    KV_ASSERT(err == 0);
    pages->epoch = pages->durable_epoch + 2;
    pages->pager = NULL;
    if (!pages->budget_bytes)
        return;
    const struct kv_pager_config config = {
        .device = pages->device,
        .space = pages->space,
        .map = pages->map,
        .buffers = pages->buffers,
        .node_bytes = pages->node_bytes,
        .budget_bytes = pages->budget_bytes,
        .tiers = pages->tiers,
        .form = {.codec = pages->codec, .bare = true},
        .image_id = pages->space_config.log_id,
        .epoch = pages->epoch,
        .on_failure = note_failure,
        .on_damage = note_damage,
        .on_crowded = note_crowded,
        .context = pages,
    };
    err = kv_pager_open(&config, &pages->pager);
    KV_ASSERT(err == 0);
}

static void close_rows(struct test_pages *pages)
{
    kv_pager_close(pages->pager);
    kv_pagemap_close(pages->map);
    kv_buffers_free(pages->buffers);
    kv_space_close(pages->space);
}

void test_pages_init(struct test_pages *pages, struct kv_device *device, size_t node_bytes,
                     uint64_t budget_bytes, enum kv_codec codec)
{
    *pages = (struct test_pages){
        .device = device,
        .node_bytes = node_bytes,
        .budget_bytes = budget_bytes,
        .codec = {codec, 0},
        .durable_epoch = 1,
    };
    const uint64_t data_blocks = device->block_count - GROUP_FIRST;
    pages->space_config = (struct kv_space_config){
        .group_first_block = GROUP_FIRST,
        .group_count = (uint32_t)((data_blocks + KV_GROUP_BLOCKS - 1) / KV_GROUP_BLOCKS),
        .end_block = device->block_count,
        .cluster_blocks = (uint32_t)(node_bytes / KV_BLOCK_BYTES),
        .log_id = 4711,
    };
    uint64_t used;
    const int err = kv_space_format(device, &pages->space_config, 1, &pages->bitmap_digest, &used);
    KV_ASSERT(err == 0);
    open_rows(pages);
}

void test_pages_release(struct test_pages *pages)
{
    close_rows(pages);
}

uint64_t test_pages_close_epoch(struct test_pages *pages)
{
    const uint64_t closed = pages->epoch++;
    if (pages->pager)
        kv_pager_open_epoch(pages->pager, pages->epoch);
    return closed;
}

int test_pages_write(struct test_pages *pages, uint64_t epoch)
{
    const uint64_t page_id_next = kv_pagemap_next_id(pages->map);
    uint64_t bitmap_digest, used;
    struct kv_pagemap_root root;
    int err = pages->pager ? kv_pager_write_epoch(pages->pager, epoch, false) : 0;
    if (!err)
        err = kv_pagemap_write(pages->map, epoch, page_id_next, &root);
    if (!err)
        err = kv_space_write(pages->space, epoch, &bitmap_digest, &used);
    if (!err)
        err = kv_device_flush(pages->device);
    if (err)
        return err;
    pages->durable_epoch = epoch;
    pages->bitmap_digest = bitmap_digest;
    pages->root = root;
    kv_pagemap_written(pages->map, epoch);
    kv_space_written(pages->space, epoch);
    return 0;
}

void test_pages_checkpoint(struct test_pages *pages)
{
    const int err = test_pages_write(pages, test_pages_close_epoch(pages));
    KV_ASSERT(err == 0);
}

void test_pages_reopen(struct test_pages *pages)
{
    close_rows(pages);
    open_rows(pages);
}

void test_tree_init(struct test_pages *pages, struct kv_btree *tree, uint64_t device_blocks,
                    size_t node_bytes, uint64_t budget_bytes, uint64_t reserved)
{
    test_pages_init(pages, memory_device_new(device_blocks), node_bytes, budget_bytes,
                    KV_CODEC_NONE);
    KV_ASSERT(kv_btree_init(tree, pages->pager, node_bytes, 0, 0) == 0);
    KV_ASSERT(kv_pager_reserve(pages->pager, reserved, false) == 0);
    KV_ASSERT(kv_btree_create(tree) == 0);
}

void test_tree_release(struct test_pages *pages, struct kv_btree *tree)
{
    struct kv_device *const device = pages->device;
    kv_pager_unreserve(pages->pager);
    kv_btree_release(tree);
    test_pages_release(pages);
    kv_device_close(device);
}

uint64_t test_pages_used_blocks(struct test_pages *pages)
{
    struct kv_space_stats stats;
    kv_space_stats(pages->space, &stats);
    return stats.busy_blocks - stats.deferred_blocks;
}
