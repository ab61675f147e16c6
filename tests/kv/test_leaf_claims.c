/*
 * tests/kv/test_leaf_claims.c: leaves of a hostile image that claim keys which the tree looks for
 * in another leaf, under right digests: an error, at once, and nothing else.
 */
#include "support_scene.h"
#include "tests/run.h"

#include <check.h>

#define KEYS       1000u
#define MIDDLE     (KEYS / 2)
#define VALUE_LEN  60u
#define NODE_BYTES 4096u

/* A store of small values with three leaves next to each other, by the numbers of their keys. */
struct fixture {
    struct test_dir dir;
    struct kv_store *store;
    unsigned left, middle, right, end; /* where they begin, and where the right one ends */
};

/* Keys differ in their first eight bytes, which leaves are remembered by. */
static size_t number_key(char key[24], unsigned number)
{
    return (size_t)snprintf(key, 24, "%08u", number);
}

static void open_store(struct fixture *f)
{
    struct kv_error error = {""};
    const int err = kv_open(f->dir.image, &scene_quiet, &f->store, &error);
    ck_assert_msg(err == 0, "%s", error.text);
}

static uint64_t leaf_of(struct fixture *f, unsigned number)
{
    uint64_t ids[KV_TREE_DEPTH_MAX];
    char key[24];
    const size_t key_len = number_key(key, number);
    return ids[scene_path(f->store, KV_TREE_KEYS, key, key_len, ids) - 1];
}

/* The first number of the leaf that a key lies in. */
static unsigned first_of(struct fixture *f, unsigned number)
{
    const uint64_t leaf = leaf_of(f, number);
    while (number > 0 && leaf_of(f, number - 1) == leaf)
        number--;
    return number;
}

static void fixture_init(struct fixture *f)
{
    const struct kv_create_options options = {.size_bytes = 32u << 20, .node_bytes = NODE_BYTES};
    struct kv_error error = {""};
    *f = (struct fixture){.store = NULL};
    test_dir_make(&f->dir);
    const int err = kv_create(f->dir.image, &options, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    open_store(f);
    for (unsigned i = 0; i < KEYS; i++) {
        uint8_t value[VALUE_LEN];
        char key[24];
        const size_t key_len = number_key(key, i);
        test_fill(value, sizeof value, i);
        ck_assert_int_eq(kv_put(f->store, key, key_len, value, sizeof value), 0);
    }
    f->middle = first_of(f, MIDDLE);
    f->left = first_of(f, f->middle - 1);
    for (f->right = MIDDLE; leaf_of(f, f->right) == leaf_of(f, MIDDLE);)
        f->right++;
    for (f->end = f->right; leaf_of(f, f->end) == leaf_of(f, f->right);)
        f->end++;
    ck_assert_uint_lt(f->end, KEYS);
}

static void fixture_release(struct fixture *f)
{
    kv_abandon(f->store);
    test_dir_remove(&f->dir);
}

static void reopen(struct fixture *f)
{
    ck_assert_int_eq(kv_close(f->store), 0);
    open_store(f);
}

static void del_number(struct fixture *f, unsigned number)
{
    char key[24];
    ck_assert_int_eq(kv_del(f->store, key, number_key(key, number)), 0);
}

/* Copy a leaf of the open store. */
static void read_leaf(struct fixture *f, unsigned number, uint8_t leaf[NODE_BYTES])
{
    struct kv_page page;
    ck_assert_int_eq(kv_pager_pin(f->store->pager, leaf_of(f, number), &page), 0);
    memcpy(leaf, page.bytes, NODE_BYTES);
    kv_pager_unpin(f->store->pager, &page);
}

/* Let the leaf that a key lies in be this, whatever the page above says. */
static void replace_leaf(struct fixture *f, unsigned number, const uint8_t leaf[NODE_BYTES])
{
    struct kv_page page;
    pthread_mutex_lock(&f->store->writer);
    ck_assert_int_eq(kv_pager_pin(f->store->pager, leaf_of(f, number), &page), 0);
    ck_assert_int_eq(kv_node_validate(leaf, NODE_BYTES, page.id), 0);
    ck_assert_int_eq(kv_pager_dirty(f->store->pager, &page), 0);
    kv_pager_latch(f->store->pager, &page);
    memcpy(page.bytes, leaf, NODE_BYTES);
    kv_pager_unlatch(f->store->pager, &page);
    kv_pager_unpin(f->store->pager, &page);
    f->store->changed = true;
    pthread_mutex_unlock(&f->store->writer);
}

/* A leaf in the middle one's place, from the low fence of one to the high fence of another, with
 * the keys [first, end). */
static void claim(struct fixture *f, unsigned low, unsigned high, unsigned first, unsigned end)
{
    uint8_t leaf[NODE_BYTES], lowest[NODE_BYTES], highest[NODE_BYTES], value[VALUE_LEN],
        scratch[NODE_BYTES];
    read_leaf(f, low, lowest);
    read_leaf(f, high, highest);
    kv_node_init(leaf, NODE_BYTES, leaf_of(f, f->middle), KV_TREE_KEYS, 0,
                 kv_node_low(lowest, NODE_BYTES), kv_node_high(highest, NODE_BYTES));
    for (unsigned i = first; i < end; i++) {
        char key[24];
        const size_t key_len = number_key(key, i);
        test_fill(value, sizeof value, i);
        ck_assert(kv_node_insert(leaf, NODE_BYTES, i - first, key, key_len, KV_VALUE_INLINE,
                                 (struct kv_bytes){value, sizeof value}, scratch));
    }
    replace_leaf(f, f->middle, leaf);
    reopen(f);
}

START_TEST(a_floor_that_only_a_leaf_beside_its_place_has_is_damage)
{
    struct fixture f;
    char key[24], found[KV_KEY_MAX];
    uint8_t value[VALUE_LEN];
    size_t found_len, value_len;
    fixture_init(&f);
    /* The last key before the right leaf is one that the tree looks for in the left one. */
    const unsigned foreign = f.left + 1;
    del_number(&f, foreign);
    del_number(&f, f.right);
    claim(&f, f.left, f.middle, foreign, foreign + 1);
    const size_t key_len = number_key(key, f.right);
    ck_assert_int_eq(
        kv_get_floor(f.store, key, key_len, found, &found_len, value, sizeof value, &value_len),
        -EUCLEAN);
    /* What lies where it belongs is found. */
    const size_t other_len = number_key(key, f.right + 1);
    ck_assert_int_eq(
        kv_get_floor(f.store, key, other_len, found, &found_len, value, sizeof value, &value_len),
        0);
    fixture_release(&f);
}
END_TEST

START_TEST(a_patch_does_not_go_to_a_leaf_that_claims_the_key_and_has_it_not)
{
    struct fixture f;
    char key[24];
    uint8_t value[VALUE_LEN], wanted[VALUE_LEN];
    size_t length;
    fixture_init(&f);
    claim(&f, f.middle, f.right, f.middle, f.right);
    /* The first change leads to the middle leaf, which says that it covers the second key, too. */
    struct kv_batch *const batch = kv_batch_new();
    ck_assert_ptr_nonnull(batch);
    size_t key_len = number_key(key, f.middle);
    ck_assert_int_eq(kv_batch_patch(batch, key, key_len, 0, "1", 1), 0);
    key_len = number_key(key, f.right + 1);
    ck_assert_int_eq(kv_batch_patch(batch, key, key_len, 0, "2", 1), 0);
    ck_assert_int_eq(kv_apply(f.store, batch, 0, NULL), -EUCLEAN);
    kv_batch_free(batch);
    ck_assert_int_eq(kv_get(f.store, key, key_len, value, sizeof value, &length), 0);
    test_fill(wanted, sizeof wanted, f.right + 1);
    ck_assert_uint_eq(length, sizeof wanted);
    ck_assert_mem_eq(value, wanted, length);
    fixture_release(&f);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("leaf claims");
    TCase *const tests = tcase_create("leaf claims");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_floor_that_only_a_leaf_beside_its_place_has_is_damage);
    tcase_add_test(tests, a_patch_does_not_go_to_a_leaf_that_claims_the_key_and_has_it_not);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
