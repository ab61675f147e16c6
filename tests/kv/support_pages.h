/*
 * tests/kv/support_pages.h: the rows below the trees (space, page map, pager) over a device,
 * and a tree on them, without a store above.
 *
 * What a test expects to work aborts it when it does not.
 */
#ifndef TESTS_KV_SUPPORT_PAGES_H
#define TESTS_KV_SUPPORT_PAGES_H

#include "kv/btree.h"

struct test_pages {
    struct kv_device *device; /* the test's */
    struct kv_space_config space_config;
    size_t node_bytes;
    uint64_t budget_bytes;
    struct kv_codec_spec codec;
    struct kv_tiers tiers; /* as given to the pager when it is opened (again) */

    struct kv_space *space;
    struct kv_buffers *buffers;
    struct kv_pagemap *map;
    struct kv_pager *pager; /* NULL when budget_bytes is 0 */
    uint64_t epoch;         /* the open one */

    /* what the last checkpoint left */
    uint64_t durable_epoch;
    uint64_t bitmap_digest;
    struct kv_pagemap_root root;

    int failure;            /* atomic; what the pager reported */
    unsigned damage_count;  /* atomic; damaged pages that it reported */
    bool is_cleaned;        /* the test calls kv_pager_clean when it is asked for ... */
    unsigned crowded_count; /* ... and was so often */
};

/* Format the device and open everything. budget_bytes 0: no pager. */
void test_pages_init(struct test_pages *pages, struct kv_device *device, size_t node_bytes,
                     uint64_t budget_bytes, enum kv_codec codec);
void test_pages_release(struct test_pages *pages);

/* Close the open epoch; write it; make it what a reopening finds. The steps can be had alone. */
void test_pages_checkpoint(struct test_pages *pages);
/* The gate. Returns the epoch that was closed. */
uint64_t test_pages_close_epoch(struct test_pages *pages);
int test_pages_write(struct test_pages *pages, uint64_t epoch);

/* Forget what is in memory and open what the last checkpoint left. */
void test_pages_reopen(struct test_pages *pages);

/*
 * The same on a device in memory, which goes with the pages, and an empty tree in it. reserved:
 * clusters that its changes may take.
 */
void test_tree_init(struct test_pages *pages, struct kv_btree *tree, uint64_t device_blocks,
                    size_t node_bytes, uint64_t budget_bytes, uint64_t reserved);
void test_tree_release(struct test_pages *pages, struct kv_btree *tree);

/* Blocks in use now, without those that wait for a checkpoint. */
uint64_t test_pages_used_blocks(struct test_pages *pages);

#endif
