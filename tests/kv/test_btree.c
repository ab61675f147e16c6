/*
 * tests/kv/test_btree.c: the tree against a sorted array, in little memory.
 *
 * KVFS_SEED chooses the random numbers, KVFS_STEPS how many steps each walk makes.
 */
#include "kv/btree.h"
#include "support_devices.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <inttypes.h>

#define DEVICE_BLOCKS 60000u
#define KEYS_MAX      5000u

static uint64_t seed_start;
static uint64_t steps_wanted;

/* ---- the model: a sorted array -------------------------------------------------------------- */

struct entry {
    uint8_t key[KV_KEY_MAX];
    size_t key_len;
    uint8_t *value;
    size_t value_len;
    uint8_t kind;
};

struct scene {
    struct kv_device *device;
    struct test_pages pages;
    struct kv_btree tree;
    struct test_random random;
    struct entry *entries[KEYS_MAX];
    size_t count;
    uint64_t dropped, expected_dropped; /* sums over what vanished, as told and as known */
    uint8_t *copy, *scratch;
};

static size_t below(struct scene *scene, size_t limit)
{
    return test_random_below(&scene->random, limit);
}

/* A number that tells values apart. */
static uint64_t value_sum(uint8_t kind, const void *value, size_t length)
{
    const uint8_t *const bytes = value;
    uint64_t sum = 0xcbf29ce484222325u + kind;
    for (size_t i = 0; i < length; i++)
        sum = (sum ^ bytes[i]) * 0x100000001b3u;
    return sum | 1;
}

static int note_drop(void *context, uint8_t kind, struct kv_bytes value)
{
    struct scene *const scene = context;
    scene->dropped += value_sum(kind, value.data, value.length);
    return 0;
}

static struct kv_btree_drop drop_of(struct scene *scene)
{
    return (struct kv_btree_drop){.note = note_drop, .context = scene};
}

static size_t find(const struct scene *scene, const void *key, size_t key_len, bool *exact)
{
    size_t low = 0, high = scene->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const struct entry *const entry = scene->entries[middle];
        if (kv_key_compare(entry->key, entry->key_len, key, key_len) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    const struct entry *const entry = low < scene->count ? scene->entries[low] : NULL;
    *exact = entry && !kv_key_compare(entry->key, entry->key_len, key, key_len);
    return low;
}

static void forget(struct scene *scene, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        struct entry *const entry = scene->entries[i];
        scene->expected_dropped += value_sum(entry->kind, entry->value, entry->value_len);
        free(entry->value);
        free(entry);
    }
    memmove(&scene->entries[first], &scene->entries[end],
            (scene->count - end) * sizeof scene->entries[0]);
    scene->count -= end - first;
}

static struct scene *scene_new(size_t node_bytes, uint64_t salt)
{
    struct scene *const scene = calloc(1, sizeof *scene);
    ck_assert_ptr_nonnull(scene);
    scene->random.state = seed_start * 100 + salt;
    scene->device = memory_device_new(DEVICE_BLOCKS);
    test_pages_init(&scene->pages, scene->device, node_bytes, 80 * node_bytes, KV_CODEC_LZ4);
    ck_assert_int_eq(kv_btree_init(&scene->tree, scene->pages.pager, node_bytes, 0, 0), 0);
    ck_assert_int_eq(kv_btree_create(&scene->tree), 0);
    scene->copy = malloc(node_bytes);
    scene->scratch = malloc(node_bytes);
    ck_assert_ptr_nonnull(scene->copy);
    ck_assert_ptr_nonnull(scene->scratch);
    return scene;
}

static void scene_free(struct scene *scene)
{
    forget(scene, 0, scene->count);
    kv_btree_release(&scene->tree);
    test_pages_release(&scene->pages);
    kv_device_close(scene->device);
    free(scene->copy);
    free(scene->scratch);
    free(scene);
}

/* ---- changes ------------------------------------------------------------------------------- */

struct name {
    uint8_t bytes[KV_KEY_MAX];
    size_t length;
};

static void make_name(struct scene *scene, struct name *name)
{
    switch (below(scene, 12)) {
    case 0:
        name->length = 1 + below(scene, 3);
        for (size_t i = 0; i < name->length; i++)
            name->bytes[i] = (uint8_t)(below(scene, 3) * 127);
        break;
    case 1:
        memset(name->bytes, 'm', sizeof name->bytes);
        name->length = KV_KEY_MAX - below(scene, 2);
        name->bytes[name->length - 1] = (uint8_t)below(scene, 256);
        break;
    default:
        name->length = (size_t)snprintf((char *)name->bytes, sizeof name->bytes, "dir%02zu/%05zu",
                                        below(scene, 7), below(scene, 3000));
    }
}

static void pick_name(struct scene *scene, struct name *name)
{
    if (!scene->count || below(scene, 4) == 0) {
        make_name(scene, name);
        return;
    }
    const struct entry *const entry = scene->entries[below(scene, scene->count)];
    memcpy(name->bytes, entry->key, entry->key_len);
    name->length = entry->key_len;
}

static void begin(struct scene *scene)
{
    const int err = kv_pager_reserve(scene->pages.pager, 40, false);
    KV_ASSERT(err == 0);
}

static void end(struct scene *scene, int err)
{
    KV_ASSERT(err == 0);
    KV_ASSERT(scene->dropped == scene->expected_dropped);
    kv_pager_unreserve(scene->pages.pager);
}

static void put(struct scene *scene, const struct name *name, uint8_t kind, size_t value_len)
{
    struct entry *const entry = calloc(1, sizeof *entry);
    KV_ASSERT(entry);
    memcpy(entry->key, name->bytes, name->length);
    entry->key_len = name->length;
    entry->kind = kind;
    entry->value_len = value_len;
    entry->value = malloc(entry->value_len + 1);
    KV_ASSERT(entry->value);
    test_fill(entry->value, entry->value_len, test_random_next(&scene->random));

    bool exact;
    const size_t at = find(scene, name->bytes, name->length, &exact);
    begin(scene);
    const int err =
        kv_btree_put(&scene->tree, (struct kv_bytes){name->bytes, name->length}, entry->kind,
                     (struct kv_bytes){entry->value, entry->value_len}, drop_of(scene));
    if (exact)
        forget(scene, at, at + 1);
    memmove(&scene->entries[at + 1], &scene->entries[at],
            (scene->count - at) * sizeof scene->entries[0]);
    scene->entries[at] = entry;
    scene->count++;
    end(scene, err);
}

static void put_random(struct scene *scene)
{
    struct name name;
    pick_name(scene, &name);
    if (below(scene, 10) == 0) {
        const size_t refs = 1 + below(scene, KV_NODE_REFS_MIN);
        put(scene, &name, KV_VALUE_LARGE, refs * sizeof(struct kv_disk_blob_ref));
        return;
    }
    const size_t most = kv_node_inline_max(scene->pages.node_bytes, name.length);
    static const size_t parts[] = {400, 100, 100, 20, 20, 1};
    put(scene, &name, KV_VALUE_INLINE,
        below(scene, most / parts[below(scene, 6)] + 2) % (most + 1));
}

static void del(struct scene *scene, const struct name *name)
{
    bool exact;
    const size_t at = find(scene, name->bytes, name->length, &exact);
    begin(scene);
    const int err =
        kv_btree_del(&scene->tree, (struct kv_bytes){name->bytes, name->length}, drop_of(scene));
    if (exact)
        forget(scene, at, at + 1);
    end(scene, err);
}

static void del_range(struct scene *scene, const struct name *lower, const struct name *upper)
{
    bool exact, more = true;
    const size_t first = find(scene, lower->bytes, lower->length, &exact);
    const size_t last = upper ? find(scene, upper->bytes, upper->length, &exact) : scene->count;
    struct name at = *lower;
    const struct kv_bytes until = {upper ? upper->bytes : NULL, upper ? upper->length : 0};
    int err = 0;
    if (upper && kv_key_compare(lower->bytes, lower->length, upper->bytes, upper->length) >= 0)
        return;
    begin(scene);
    while (!err && more)
        err = kv_btree_del_leaf(&scene->tree, (struct kv_bytes){at.bytes, at.length}, until,
                                drop_of(scene), at.bytes, &at.length, &more);
    forget(scene, first, last);
    end(scene, err);
}

static void del_range_random(struct scene *scene)
{
    struct name lower, upper;
    pick_name(scene, &lower);
    bool exact;
    const size_t first = find(scene, lower.bytes, lower.length, &exact);
    const size_t last = first + below(scene, below(scene, 8) ? 30 : 600);
    if (last < scene->count && below(scene, 2)) {
        memcpy(upper.bytes, scene->entries[last]->key, scene->entries[last]->key_len);
        upper.length = scene->entries[last]->key_len;
    } else {
        make_name(scene, &upper);
    }
    del_range(scene, &lower, &upper);
}

static void overwrite(struct scene *scene)
{
    if (!scene->count)
        return;
    struct entry *const entry = scene->entries[below(scene, scene->count)];
    if (entry->kind != KV_VALUE_INLINE || !entry->value_len)
        return;
    const size_t offset = below(scene, entry->value_len);
    const size_t length = below(scene, entry->value_len - offset + 1);
    test_fill(entry->value + offset, length, test_random_next(&scene->random));
    begin(scene);
    end(scene, kv_btree_overwrite(&scene->tree, (struct kv_bytes){entry->key, entry->key_len},
                                  offset, (struct kv_bytes){entry->value + offset, length}));
}

/* ---- looking ----------------------------------------------------------------- */

static void expect_get(struct scene *scene, const struct name *name)
{
    static uint8_t buf[KV_NODE_BYTES_MAX];
    size_t length = 0;
    uint8_t kind = 77;
    uint64_t missing;
    bool exact;
    const size_t at = find(scene, name->bytes, name->length, &exact);
    int err =
        kv_btree_get(&scene->tree, name->bytes, name->length, buf, sizeof buf, &length, &kind);
    for (unsigned again = 0; again < 2; again++) {
        KV_ASSERT(err == (exact ? 0 : -ENOENT));
        if (exact) {
            const struct entry *const entry = scene->entries[at];
            KV_ASSERT(kind == entry->kind);
            KV_ASSERT(length == entry->value_len);
            KV_ASSERT(memcmp(buf, entry->value, length) == 0);
        }
        /* The path was just walked, so it is in memory. */
        err = kv_btree_get_resident(&scene->tree, name->bytes, name->length, buf, sizeof buf,
                                    &length, &kind, &missing);
    }
}

/* The leaf that covers a key has what the model has between its fences. */
static void expect_leaf(struct scene *scene, const uint8_t *leaf)
{
    const size_t node_bytes = scene->pages.node_bytes;
    const struct kv_bytes low = kv_node_low(leaf, node_bytes);
    const struct kv_bytes high = kv_node_high(leaf, node_bytes);
    bool exact;
    const size_t first = find(scene, low.data, low.length, &exact);
    const size_t last = high.data ? find(scene, high.data, high.length, &exact) : scene->count;
    KV_ASSERT(kv_node_count(leaf) == last - first);
    for (size_t i = first; i < last; i++) {
        uint8_t key[KV_KEY_MAX];
        const size_t key_len = kv_node_key(leaf, node_bytes, (unsigned)(i - first), key);
        KV_ASSERT(
            !kv_key_compare(key, key_len, scene->entries[i]->key, scene->entries[i]->key_len));
    }
}

static void expect_leaf_at(struct scene *scene, const struct name *name)
{
    const size_t node_bytes = scene->pages.node_bytes;
    const int err = kv_btree_leaf_at(&scene->tree, name->bytes, name->length, scene->copy);
    KV_ASSERT(err == 0);
    const struct kv_bytes low = kv_node_low(scene->copy, node_bytes);
    const struct kv_bytes high = kv_node_high(scene->copy, node_bytes);
    KV_ASSERT(kv_key_compare(low.data, low.length, name->bytes, name->length) <= 0);
    KV_ASSERT(!high.data || kv_key_compare(name->bytes, name->length, high.data, high.length) < 0);
    expect_leaf(scene, scene->copy);
}

static void expect_leaf_before(struct scene *scene, const struct name *name)
{
    const size_t node_bytes = scene->pages.node_bytes;
    const struct kv_bytes key = {name ? name->bytes : NULL, name ? name->length : 0};
    const int err = kv_btree_leaf_before(&scene->tree, key, scene->copy, scene->scratch);
    KV_ASSERT(err == 0);
    const struct kv_bytes low = kv_node_low(scene->copy, node_bytes);
    const struct kv_bytes high = kv_node_high(scene->copy, node_bytes);
    if (name) { /* low < key <= high */
        KV_ASSERT(kv_key_compare(low.data, low.length, key.data, key.length) < 0);
        KV_ASSERT(!high.data || kv_key_compare(key.data, key.length, high.data, high.length) <= 0);
    } else {
        KV_ASSERT(!high.data);
    }
    expect_leaf(scene, scene->copy);
}

/* Every leaf, from one fence to the next, forward and backward. */
static void expect_all(struct scene *scene)
{
    const size_t node_bytes = scene->pages.node_bytes;
    struct name at = {.length = 0};
    size_t seen = 0;
    unsigned leaves = 0;
    for (;;) {
        expect_leaf_at(scene, &at);
        leaves++;
        seen += kv_node_count(scene->copy);
        const struct kv_bytes high = kv_node_high(scene->copy, node_bytes);
        if (!high.data)
            break;
        memcpy(at.bytes, high.data, high.length);
        at.length = high.length;
    }
    KV_ASSERT(seen == scene->count);
    const struct name *before = NULL;
    for (; leaves; leaves--) {
        expect_leaf_before(scene, before);
        const struct kv_bytes low = kv_node_low(scene->copy, node_bytes);
        memcpy(at.bytes, low.data, low.length);
        at.length = low.length;
        before = &at;
    }
    KV_ASSERT(at.length == 0);
    for (size_t i = 0; i < scene->count; i += 7) {
        memcpy(at.bytes, scene->entries[i]->key, scene->entries[i]->key_len);
        at.length = scene->entries[i]->key_len;
        expect_get(scene, &at);
    }
}

/* Levels, fences and page ids of the whole tree. Returns the pages. */
static size_t expect_shape(struct scene *scene, uint64_t page_id, int level, struct kv_bytes low,
                           struct kv_bytes high)
{
    const size_t node_bytes = scene->pages.node_bytes;
    struct kv_page page;
    size_t pages = 1;
    int err = kv_pager_pin(scene->pages.pager, page_id, &page);
    KV_ASSERT(err == 0);
    err = kv_node_validate(page.bytes, node_bytes, page_id);
    KV_ASSERT(err == 0);
    const struct kv_bytes own_low = kv_node_low(page.bytes, node_bytes);
    const struct kv_bytes own_high = kv_node_high(page.bytes, node_bytes);
    KV_ASSERT(level < 0 || kv_node_level(page.bytes) == level);
    KV_ASSERT(!kv_key_compare(own_low.data, own_low.length, low.data, low.length));
    KV_ASSERT(!own_high.data == !high.data);
    KV_ASSERT(!high.data ||
              !kv_key_compare(own_high.data, own_high.length, high.data, high.length));
    const unsigned count = kv_node_count(page.bytes);
    for (unsigned slot = 0; kv_node_level(page.bytes) && slot < count; slot++) {
        uint8_t from[KV_KEY_MAX], to[KV_KEY_MAX];
        struct kv_bytes child_low = own_low, child_high = own_high;
        if (slot > 0)
            child_low = (struct kv_bytes){from, kv_node_key(page.bytes, node_bytes, slot, from)};
        if (slot + 1 < count)
            child_high = (struct kv_bytes){to, kv_node_key(page.bytes, node_bytes, slot + 1, to)};
        pages += expect_shape(scene, kv_node_child(page.bytes, slot), kv_node_level(page.bytes) - 1,
                              child_low, child_high);
    }
    kv_pager_unpin(scene->pages.pager, &page);
    return pages;
}

static size_t expect_tree(struct scene *scene)
{
    const size_t pages =
        expect_shape(scene, scene->tree.root, -1, (struct kv_bytes){"", 0}, (struct kv_bytes){0});
    KV_ASSERT(pages <= kv_pagemap_used_ids(scene->pages.map));
    expect_all(scene);
    return pages;
}

static int root_level(struct scene *scene)
{
    struct kv_page page;
    ck_assert_int_eq(kv_pager_pin(scene->pages.pager, scene->tree.root, &page), 0);
    const int level = kv_node_level(page.bytes);
    kv_pager_unpin(scene->pages.pager, &page);
    return level;
}

/* ---- tests ------------------------------------------------------------------- */

static void step(struct scene *scene, bool growing)
{
    const size_t dice = below(scene, 1000);
    struct name name;
    pick_name(scene, &name);
    if (dice < (growing ? 500u : 150u))
        put_random(scene);
    else if (dice < 700)
        del(scene, &name);
    else if (dice < (growing ? 705u : 740u))
        del_range_random(scene);
    else if (dice < 800)
        overwrite(scene);
    else if (dice < 900)
        expect_get(scene, &name);
    else if (dice < 950)
        expect_leaf_at(scene, &name);
    else if (dice < 990)
        expect_leaf_before(scene, below(scene, 10) ? &name : NULL);
    else
        test_pages_checkpoint(&scene->pages);
}

START_TEST(random_changes_agree_with_a_sorted_array)
{
    static const size_t node_sizes[] = {4096, 16384, 65536};
    struct scene *const scene = scene_new(node_sizes[_i], (uint64_t)_i);
    for (unsigned round = 0; round < 4; round++) {
        for (uint64_t i = 0; i < steps_wanted && scene->count < KEYS_MAX - 1; i++)
            step(scene, round % 2 == 0);
        (void)expect_tree(scene);
    }
    scene_free(scene);
}
END_TEST

static void fill(struct scene *scene, size_t count, size_t value_len)
{
    for (size_t i = 0; i < count; i++) {
        struct name name;
        name.length = (size_t)snprintf((char *)name.bytes, sizeof name.bytes, "key%06zu", i);
        put(scene, &name, KV_VALUE_INLINE, value_len);
    }
}

START_TEST(deleting_everything_one_by_one_leaves_an_empty_root)
{
    struct scene *const scene = scene_new(4096, 10);
    fill(scene, 4000, 40);
    ck_assert_int_ge(root_level(scene), 1);
    while (scene->count) {
        struct name name;
        const struct entry *const entry = scene->entries[_i == 0   ? 0
                                                         : _i == 1 ? scene->count - 1
                                                                   : below(scene, scene->count)];
        memcpy(name.bytes, entry->key, entry->key_len);
        name.length = entry->key_len;
        del(scene, &name);
        if (scene->count % 500 == 0)
            (void)expect_tree(scene);
    }
    ck_assert_uint_eq(expect_tree(scene), 1);
    ck_assert_int_eq(root_level(scene), 0);
    fill(scene, 500, 100);
    (void)expect_tree(scene);
    scene_free(scene);
}
END_TEST

START_TEST(deleting_the_whole_range_leaves_an_empty_root)
{
    static const size_t node_sizes[] = {4096, 16384, 65536};
    struct scene *const scene = scene_new(node_sizes[_i], 11);
    const struct name first = {.length = 0};
    fill(scene, 4000, 40);
    test_pages_checkpoint(&scene->pages);
    del_range(scene, &first, NULL);
    ck_assert_uint_eq(scene->count, 0);
    ck_assert_uint_eq(expect_tree(scene), 1);
    test_pages_checkpoint(&scene->pages);
    test_pages_checkpoint(&scene->pages);
    ck_assert_uint_le(test_pages_used_blocks(&scene->pages), 40);
    scene_free(scene);
}
END_TEST

START_TEST(ascending_insertions_leave_full_pages_behind)
{
    struct scene *const scene = scene_new(4096, 12);
    fill(scene, 4000, 40);
    const size_t pages = expect_tree(scene);
    /* 40 bytes of value and some for key and slot: at least 50 to a page. */
    ck_assert_uint_le(pages, 4000 / 50 + 4);
    scene_free(scene);
}
END_TEST

START_TEST(an_error_on_the_way_changes_nothing)
{
    struct faulty *const faulty = faulty_new(memory_device_new(DEVICE_BLOCKS));
    struct scene *const scene = scene_new(4096, 13);
    /* The same scene over a device that fails. */
    kv_btree_release(&scene->tree);
    test_pages_release(&scene->pages);
    test_pages_init(&scene->pages, faulty_device(faulty), 4096, 80 * 4096, KV_CODEC_NONE);
    ck_assert_int_eq(kv_btree_init(&scene->tree, scene->pages.pager, 4096, 0, 0), 0);
    ck_assert_int_eq(kv_btree_create(&scene->tree), 0);
    fill(scene, 4000, 120);
    test_pages_checkpoint(&scene->pages);
    unsigned failed = 0;
    for (unsigned i = 0; i < 300; i++) {
        struct name name;
        pick_name(scene, &name);
        const uint64_t changes = kv_pager_changes(scene->pages.pager);
        begin(scene);
        faulty_arm(faulty, (struct fault){.targets = FAULT_READS, .lasting = true, .error = -EIO});
        int err = 0;
        if (i % 2)
            err = kv_btree_put(&scene->tree, (struct kv_bytes){name.bytes, name.length},
                               KV_VALUE_INLINE, (struct kv_bytes){"new", 3},
                               (struct kv_btree_drop){0});
        else
            err = kv_btree_del(&scene->tree, (struct kv_bytes){name.bytes, name.length},
                               (struct kv_btree_drop){0});
        faulty_arm(faulty, (struct fault){0});
        kv_pager_unreserve(scene->pages.pager);
        if (err) {
            failed++;
            ck_assert_int_eq(err, -EIO);
            ck_assert_uint_eq(kv_pager_changes(scene->pages.pager), changes);
            expect_get(scene, &name);
            continue;
        }
        /* It was in memory: the model follows. */
        bool exact;
        const size_t at = find(scene, name.bytes, name.length, &exact);
        if (exact)
            forget(scene, at, at + 1);
        scene->dropped = scene->expected_dropped;
        if (i % 2) {
            scene->expected_dropped += value_sum(KV_VALUE_INLINE, "new", 3);
            put(scene, &name, KV_VALUE_INLINE, 30);
        }
    }
    ck_assert_uint_gt(failed, 20);
    (void)expect_tree(scene);
    struct kv_device *const unused = scene->device;
    scene->device = NULL;
    scene_free(scene);
    kv_device_close(unused);
    faulty_free(faulty);
}
END_TEST

static Suite *btree_suite(void)
{
    Suite *const suite = suite_create("btree");
    TCase *const btree = tcase_create("btree");
    tcase_set_timeout(btree, 300);
    tcase_add_loop_test(btree, random_changes_agree_with_a_sorted_array, 0, 3);
    tcase_add_loop_test(btree, deleting_everything_one_by_one_leaves_an_empty_root, 0, 3);
    tcase_add_loop_test(btree, deleting_the_whole_range_leaves_an_empty_root, 0, 3);
    tcase_add_test(btree, ascending_insertions_leave_full_pages_behind);
    tcase_add_test(btree, an_error_on_the_way_changes_nothing);
    suite_add_tcase(suite, btree);
    return suite;
}

int main(void)
{
    seed_start = test_env("KVFS_SEED", 1);
    steps_wanted = test_env("KVFS_STEPS", 4000);
    printf("seed: %" PRIu64 " (KVFS_SEED), steps: %" PRIu64 " (KVFS_STEPS)\n", seed_start,
           steps_wanted);
    return test_run(btree_suite());
}
