/*
 * tests/kv/test_btree_hint.c: hints lead to the leaf that a descent leads to, or nowhere.
 */
#include "kv/btree_hint.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>

#define NODE_BYTES    4096u
#define DEVICE_BLOCKS 60000u

static struct test_pages pages;
static struct kv_btree tree;

static void setup(void)
{
    test_tree_init(&pages, &tree, DEVICE_BLOCKS, NODE_BYTES, 400 * NODE_BYTES, 3000);
}

static void teardown(void)
{
    test_tree_release(&pages, &tree);
}

/* Keys of 12 bytes; those of one `place` begin alike. */
struct name {
    uint8_t bytes[12];
};

static struct name name_of(uint64_t place, uint32_t number)
{
    struct name name;
    kv_be64_put(name.bytes, place);
    for (unsigned i = 0; i < 4; i++)
        name.bytes[8 + i] = (uint8_t)(number >> (24 - 8 * i));
    return name;
}

static void put(uint64_t place, uint32_t number)
{
    const struct name name = name_of(place, number);
    static const uint8_t value[100];
    const struct kv_btree_drop nobody = {0};
    ck_assert_int_eq(kv_btree_put(&tree, (struct kv_bytes){&name, sizeof name}, KV_VALUE_INLINE,
                                  (struct kv_bytes){value, sizeof value}, nobody),
                     0);
}

static int get(uint64_t place, uint32_t number)
{
    const struct name name = name_of(place, number);
    uint8_t value[100], kind;
    size_t length;
    return kv_btree_get(&tree, &name, sizeof name, value, sizeof value, &length, &kind);
}

static bool is_hinted(uint64_t place, uint32_t number)
{
    const struct name name = name_of(place, number);
    struct kv_page_view leaf;
    if (!kv_btree_hint_view(&tree, &name, sizeof name, &leaf))
        return false;
    ck_assert(kv_node_covers_racy(leaf.bytes, NODE_BYTES, &name, sizeof name));
    return true;
}

START_TEST(neighbours_are_found_without_a_descent)
{
    for (uint32_t i = 0; i < 1000; i++)
        put(7, i);
    ck_assert_int_eq(get(7, 500), 0);
    ck_assert(is_hinted(7, 500));
    ck_assert(is_hinted(7, 501) || is_hinted(7, 499));
    ck_assert(!is_hinted(7, 10)); /* another leaf */
    ck_assert_int_eq(get(7, 10), 0);
    ck_assert(is_hinted(7, 10));
    ck_assert(is_hinted(7, 500)); /* several are remembered */
}
END_TEST

START_TEST(a_hint_ends_with_its_leaf)
{
    const struct kv_btree_drop nobody = {0};
    for (uint32_t i = 0; i < 1000; i++)
        put(7, i);
    ck_assert_int_eq(get(7, 500), 0);
    ck_assert(is_hinted(7, 500));
    for (uint32_t i = 0; i < 1000; i++) {
        const struct name name = name_of(7, i);
        ck_assert_int_eq(kv_btree_del(&tree, (struct kv_bytes){&name, sizeof name}, nobody), 0);
        for (uint32_t k = 0; k < 1000; k += 37)
            ck_assert_int_eq(get(7, k), k <= i ? -ENOENT : 0);
    }
    struct kv_page_view root;
    ck_assert_int_eq(kv_pager_view(pages.pager, tree.root, &root), 0);
    ck_assert_uint_eq(kv_node_level_racy(root.bytes), 0); /* all have merged */
}
END_TEST

START_TEST(places_where_hints_do_not_serve_are_left_alone)
{
    struct test_random random = {.state = 1};
    for (uint32_t i = 0; i < 4000; i++)
        put(7, i);
    for (unsigned i = 0; i < 400; i++)
        ck_assert_int_eq(get(7, (uint32_t)test_random_below(&random, 4000)), 0);
    unsigned hinted = 0;
    for (uint32_t i = 0; i < 4000; i++)
        hinted += is_hinted(7, i);
    ck_assert_uint_eq(hinted, 0);
    /* Until somebody stays in one place again. */
    for (uint32_t i = 0; i < 4000; i++)
        put(7, i);
    ck_assert(is_hinted(7, 3999));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("btree hint");
    TCase *tcase = tcase_create("core");
    suite_add_tcase(suite, tcase);
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, neighbours_are_found_without_a_descent);
    tcase_add_test(tcase, a_hint_ends_with_its_leaf);
    tcase_add_test(tcase, places_where_hints_do_not_serve_are_left_alone);
    return test_run(suite);
}
