/*
 * tests/faults/salvage/salvage_model.h: a store filled by numbers, what was ever written to it,
 * and where on the device each of its parts lies.
 *
 * A value says which number and version it is, and its bytes follow from that: so what is read
 * after a salvage can be told to be right, older, or never written.
 */
#ifndef TESTS_FAULTS_SALVAGE_MODEL_H
#define TESTS_FAULTS_SALVAGE_MODEL_H

#include "kv/store.h"
#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"

#define MODEL_KEYS 4000u

struct model_extent {
    uint64_t block;
    uint32_t block_count;
};

struct model_leaf {
    struct model_extent at;
    uint8_t low[KV_KEY_MAX];
    size_t low_len;
};

struct model_blob {
    unsigned number; /* of the key that holds it */
    struct model_extent at;
};

/* Blocks by what lies there, as the last checkpoint left them. */
struct model_layout {
    struct model_leaf *leaves; /* in key order */
    struct model_blob *blobs;
    struct model_extent *inner; /* inner pages of the keys' tree, not its root */
    struct model_extent *map;   /* map blocks, not the root */
    size_t leaf_count, blob_count, inner_count, map_count;
    struct model_extent tree_roots[2], map_root;
    uint64_t bitmap_block; /* of the first group, copy 0 */
};

struct model {
    struct test_random random;
    struct kv_store *store;       /* while it is open */
    uint32_t current[MODEL_KEYS]; /* version, 0: absent */
    uint32_t last[MODEL_KEYS];    /* the greatest ever written */
    uint32_t durable[MODEL_KEYS]; /* as `current` at the last model_mark */
    bool touched[MODEL_KEYS];     /* changed since */
};

/* A phase of work on the open store: batches that insert, overwrite and delete. */
void model_work(struct model *model, unsigned batch_count);
/* Checkpoint; that state is what the layout shows. */
void model_mark(struct model *model, struct model_layout *layout);
void model_layout_release(struct model_layout *layout);

/* The leaf of the layout that covers a number's key. */
size_t model_leaf_of(const struct model_layout *layout, unsigned number);

/* The version that the store has of a number, 0: none. Bytes that were never written, or of
 * another number, end the test. */
uint32_t model_read(struct kv_store *store, unsigned number, const struct model *model);
/* How many keys the store has. */
uint64_t model_count(struct kv_store *store);

#endif
