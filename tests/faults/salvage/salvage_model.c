/*
 * tests/faults/salvage/salvage_model.c: a store filled by numbers, what was ever written to it,
 * and where on the device each of its parts lies.
 */
#include "salvage_model.h"

#include "kv/check_walk.h"

#define BLOB_BYTES_MAX 30000u
#define LARGE_BYTES    40000u

/* At the head of every value. */
struct label {
    uint32_t number, version;
    uint64_t content; /* decides the bytes that follow, or those of the blob */
};

enum form { FORM_SHORT, FORM_LONG, FORM_LARGE, FORM_BLOB };

static enum form form_of(const struct label *label)
{
    const uint64_t mix = (label->number * 31u + label->version) * 0x9e3779b97f4a7c15ull;
    const unsigned choice = (unsigned)(mix >> 32) % 100;
    return choice < 70   ? FORM_SHORT
           : choice < 85 ? FORM_LONG
           : choice < 88 ? FORM_LARGE
                         : FORM_BLOB;
}

static size_t content_bytes(const struct label *label)
{
    switch (form_of(label)) {
    case FORM_SHORT:
        return 4 + label->content % 100;
    case FORM_LONG:
        return 300 + label->content % 300;
    case FORM_LARGE:
        return LARGE_BYTES + label->content % 1000;
    case FORM_BLOB:
        break;
    }
    return 5000 + label->content % (BLOB_BYTES_MAX - 5000);
}

/* Keys of many lengths, with long common prefixes. */
static size_t key_of(unsigned number, uint8_t key[64])
{
    return (size_t)snprintf((char *)key, 64, "dir%03u/%s%05u", number / 97,
                            number % 7 ? "f" : "a-much-longer-name-", number);
}

/* ---- writing -------------------------------------------------------------------------- */

struct shared {
    struct kv_blob_ref ref;
    uint64_t content;
    bool there;
};

static int put_blob(struct model *model, struct kv_batch *batch, const uint8_t *key, size_t key_len,
                    struct label *label, struct shared *shared)
{
    static uint8_t bytes[BLOB_BYTES_MAX];
    struct kv_blob_ref ref;
    size_t written;
    /* Sometimes it is one more holder of a blob that this batch has put. */
    if (shared->there && test_random_below(&model->random, 3) == 0) {
        label->content = shared->content;
        return kv_batch_put_blob(batch, key, key_len, label, sizeof *label, &shared->ref,
                                 KV_BLOB_SHARED);
    }
    const size_t length = content_bytes(label);
    test_fill(bytes, length, label->content);
    int err = kv_blob_write(model->store, bytes, length, NULL, &ref, &written);
    KV_ASSERT(err == 0);
    KV_ASSERT(written == length);
    err = kv_batch_put_blob(batch, key, key_len, label, sizeof *label, &ref, KV_BLOB_NEW);
    *shared = (struct shared){.ref = ref, .content = label->content, .there = true};
    return err;
}

static void put(struct model *model, struct kv_batch *batch, unsigned number, struct shared *shared)
{
    static uint8_t value[sizeof(struct label) + LARGE_BYTES + 1000];
    uint8_t key[64];
    const size_t key_len = key_of(number, key);
    struct label label = {.number = number,
                          .version = ++model->last[number],
                          .content = test_random_next(&model->random)};
    int err;
    if (form_of(&label) == FORM_BLOB) {
        err = put_blob(model, batch, key, key_len, &label, shared);
    } else {
        const size_t length = content_bytes(&label);
        memcpy(value, &label, sizeof label);
        test_fill(value + sizeof label, length, label.content);
        err = kv_batch_put(batch, key, key_len, value, sizeof label + length);
    }
    KV_ASSERT(err == 0);
    model->current[number] = label.version;
    model->touched[number] = true;
}

static void del(struct model *model, struct kv_batch *batch, unsigned number)
{
    uint8_t key[64];
    const size_t key_len = key_of(number, key);
    const int err = kv_batch_del(batch, key, key_len);
    KV_ASSERT(err == 0);
    model->current[number] = 0;
    model->touched[number] = true;
}

void model_work(struct model *model, unsigned batch_count)
{
    struct kv_batch *batch = kv_batch_new();
    KV_ASSERT(batch);
    for (unsigned i = 0; i < batch_count; i++) {
        struct shared shared = {.there = false};
        const unsigned start = (unsigned)test_random_below(&model->random, MODEL_KEYS);
        const size_t action = test_random_below(&model->random, 10);
        const unsigned count = 1 + (unsigned)test_random_below(&model->random, 60);
        for (unsigned k = 0; k < count; k++) {
            /* Runs make splits at one place and, deleted, merges; the rest is scattered. */
            const unsigned number = action < 6
                                        ? (start + k) % MODEL_KEYS
                                        : (unsigned)test_random_below(&model->random, MODEL_KEYS);
            if (action == 4 || action == 5 || (action == 9 && k % 2))
                del(model, batch, number);
            else
                put(model, batch, number, &shared);
        }
        const int err = kv_apply(model->store, batch, 0, NULL);
        KV_ASSERT(err == 0);
        kv_batch_clear(batch);
    }
    kv_batch_free(batch);
}

/* ---- the layout ------------------------------------------------------------------------ */

#define GROW(array, count)                                                                         \
    do {                                                                                           \
        (array) = realloc((array), ((count) + 1) * sizeof *(array));                               \
        KV_ASSERT(array);                                                                          \
    } while (0)

static struct model_extent extent_of(const struct kv_disk_ptr *ptr)
{
    return (struct model_extent){kv_le64_get(ptr->block),
                                 (uint32_t)kv_blocks_for(kv_le32_get(ptr->length_bytes))};
}

static struct model_extent extent_of_page(struct kv_store *store, uint64_t page_id)
{
    struct kv_disk_ptr ptr;
    const int err = kv_pagemap_get(store->map, page_id, &ptr);
    KV_ASSERT(err == 0);
    KV_ASSERT(kv_le64_get(ptr.block) != 0);
    return extent_of(&ptr);
}

static void add_blobs(struct model_layout *layout, struct kv_store *store, const uint8_t *leaf)
{
    for (unsigned slot = 0; slot < kv_node_count(leaf); slot++) {
        uint8_t key[KV_KEY_MAX], kind;
        const size_t key_len = kv_node_key(leaf, store->node_bytes, slot, key);
        KV_ASSERT(key_len >= 5);
        const struct kv_bytes value = kv_node_value(leaf, slot, &kind);
        struct kv_blob_ref ref;
        char digits[6] = "";
        memcpy(digits, key + key_len - 5, 5);
        for (size_t at = 0; kv_value_next_ref(kind, value, &at, &ref);) {
            struct model_blob blob = {.number = (unsigned)strtoul(digits, NULL, 10)};
            const int err =
                kv_blobs_extent(&store->blobs, &ref, &blob.at.block, &blob.at.block_count);
            KV_ASSERT(err == 0);
            GROW(layout->blobs, layout->blob_count);
            layout->blobs[layout->blob_count++] = blob;
        }
    }
}

static void add_leaves(struct model_layout *layout, struct kv_store *store)
{
    uint8_t key[KV_KEY_MAX];
    size_t key_len = 0;
    uint8_t *leaf = malloc(store->node_bytes);
    KV_ASSERT(leaf);
    for (bool more = true; more;) {
        const int err = kv_btree_leaf_at(&store->trees[KV_TREE_KEYS], key, key_len, leaf);
        KV_ASSERT(err == 0);
        GROW(layout->leaves, layout->leaf_count);
        struct model_leaf *added = &layout->leaves[layout->leaf_count++];
        const uint64_t page_id = kv_le64_get(((const struct kv_disk_node *)leaf)->page_id);
        added->at = extent_of_page(store, page_id);
        added->low_len = key_len;
        memcpy(added->low, key, key_len);
        add_blobs(layout, store, leaf);
        const struct kv_bytes high = kv_node_high(leaf, store->node_bytes);
        more = high.data;
        if (more) {
            memcpy(key, high.data, high.length);
            key_len = high.length;
        }
    }
    free(leaf);
}

struct visit {
    struct model_layout *layout;
    struct kv_store *store;
    uint8_t *node;
};

/* kv_pagemap_visit_fn. */
static int visit_map(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                     int error)
{
    const struct visit *visit = context;
    struct model_layout *layout = visit->layout;
    KV_ASSERT(error == 0);
    if (level >= 0) {
        GROW(layout->map, layout->map_count);
        layout->map[layout->map_count++] = extent_of(ptr);
        if (level + 1 == (int)kv_le32_get(visit->store->checkpoint.superblock.map_depth)) {
            layout->map_root = extent_of(ptr);
            layout->map_count--;
        }
        return 0;
    }
    const int err = kv_pager_read_stored(visit->store->pager, index, ptr, visit->node);
    KV_ASSERT(err == 0);
    const struct kv_disk_node *header = (const struct kv_disk_node *)visit->node;
    if (header->tree == KV_TREE_KEYS && header->level > 0 &&
        index != visit->store->trees[KV_TREE_KEYS].root) {
        GROW(layout->inner, layout->inner_count);
        layout->inner[layout->inner_count++] = extent_of(ptr);
    }
    return 0;
}

void model_mark(struct model *model, struct model_layout *layout)
{
    struct kv_store *store = model->store;
    int err = kv_checkpoint(store);
    KV_ASSERT(err == 0);
    memcpy(model->durable, model->current, sizeof model->durable);
    memset(model->touched, 0, sizeof model->touched);

    *layout = (struct model_layout){
        .bitmap_block = kv_le64_get(store->checkpoint.superblock.group_first_block)};
    add_leaves(layout, store);
    struct visit visit = {
        .layout = layout, .store = store, .node = kv_device_alloc(store->node_bytes)};
    KV_ASSERT(visit.node);
    err = kv_pagemap_walk(store->map, visit_map, &visit);
    KV_ASSERT(err == 0);
    free(visit.node);
    for (unsigned i = 0; i < 2; i++)
        layout->tree_roots[i] = extent_of_page(store, store->trees[i].root);
}

void model_layout_release(struct model_layout *layout)
{
    free(layout->leaves);
    free(layout->blobs);
    free(layout->inner);
    free(layout->map);
}

size_t model_leaf_of(const struct model_layout *layout, unsigned number)
{
    uint8_t key[64];
    const size_t key_len = key_of(number, key);
    size_t at = 0, end = layout->leaf_count; /* the last leaf whose low fence is <= key */
    while (at + 1 < end) {
        const size_t middle = at + (end - at) / 2;
        const struct model_leaf *leaf = &layout->leaves[middle];
        if (kv_key_compare(leaf->low, leaf->low_len, key, key_len) <= 0)
            at = middle;
        else
            end = middle;
    }
    return at;
}

/* ---- reading ---------------------------------------------------------------------------- */

static void fail_value(unsigned number, const struct label *label, const char *what)
{
    fprintf(stderr, "key %u: %s (number %u, version %u)\n", number, what, label->number,
            label->version);
    abort();
}

uint32_t model_read(struct kv_store *store, unsigned number, const struct model *model)
{
    static uint8_t value[sizeof(struct label) + LARGE_BYTES + 1000], wanted[sizeof value];
    uint8_t key[64];
    size_t length;
    const size_t key_len = key_of(number, key);
    struct label label = {0};
    int err = kv_get(store, key, key_len, value, sizeof value, &length);
    if (err == -ENOENT)
        return 0;
    if (err || length < sizeof label)
        fail_value(number, &label, err ? strerror(-err) : "it is too short");
    memcpy(&label, value, sizeof label);
    if (label.number != number || !label.version || label.version > model->last[number])
        fail_value(number, &label, "a value that was never written");
    const uint8_t *content = value + sizeof label;
    size_t content_len = length - sizeof label;
    if (form_of(&label) == FORM_BLOB) {
        struct kv_blob_ref ref;
        if (content_len != sizeof ref)
            fail_value(number, &label, "no reference");
        memcpy(&ref, content, sizeof ref);
        content_len = kv_blob_length(&ref);
        err = content_len <= sizeof value ? kv_blob_read(store, &ref, 0, value, content_len)
                                          : -ERANGE;
        if (err)
            fail_value(number, &label, "its blob can not be read");
        content = value;
    } else if (content_len != content_bytes(&label)) {
        fail_value(number, &label, "another length than was written");
    }
    test_fill(wanted, content_len, label.content);
    if (memcmp(content, wanted, content_len) != 0)
        fail_value(number, &label, "bytes that were never written");
    return label.version;
}

uint64_t model_count(struct kv_store *store)
{
    struct kv_cursor *cursor;
    uint64_t count = 0;
    int err = kv_cursor_open(store, NULL, 0, NULL, 0, &cursor);
    KV_ASSERT(err == 0);
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor))
        count++;
    KV_ASSERT(err == -ENOENT);
    kv_cursor_close(cursor);
    return count;
}
