/*
 * tests/kv/test_btree_guide.c: a guide says what its page says, or nothing.
 */
#include "kv/btree_guide.h"
#include "support_pages.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <pthread.h>

#define NODE_BYTES    4096u
#define DEVICE_BLOCKS 60000u
#define LOOKS         5000u /* enough for a guide to be made */
#define GETS          60000u
#define NUMBERS       3000u

static struct test_pages pages;
static struct kv_btree tree;

static void setup(void)
{
    test_tree_init(&pages, &tree, DEVICE_BLOCKS, NODE_BYTES, 1000 * NODE_BYTES, 6000);
}

static void teardown(void)
{
    test_tree_release(&pages, &tree);
}

/* Keys of several lengths, which begin alike; some tell each other apart late. */
static size_t make_key(uint64_t number, uint8_t key[40])
{
    const int length = number % 5 ? snprintf((char *)key, 40, "a/name/%08u", (unsigned)number)
                                  : snprintf((char *)key, 40, "a/name/%05u/and/more/%u",
                                             (unsigned)number / 100, (unsigned)number % 100);
    return (size_t)length;
}

static void put_key(const uint8_t *key, size_t key_len, size_t value_len)
{
    static const uint8_t value[1000];
    const struct kv_btree_drop nobody = {0};
    ck_assert_uint_le(value_len, sizeof value);
    ck_assert_int_eq(kv_btree_put(&tree, (struct kv_bytes){key, key_len}, KV_VALUE_INLINE,
                                  (struct kv_bytes){value, value_len}, nobody),
                     0);
}

static void put(uint64_t number)
{
    uint8_t key[40];
    put_key(key, make_key(number, key), 100);
}

static void del(uint64_t number)
{
    const struct kv_btree_drop nobody = {0};
    uint8_t key[40];
    const struct kv_bytes bytes = {.data = key, .length = make_key(number, key)};
    ck_assert_int_eq(kv_btree_del(&tree, bytes, nobody), 0);
}

static int get(uint64_t number)
{
    uint8_t key[40], value[100], kind;
    size_t length;
    const size_t key_len = make_key(number, key);
    return kv_btree_get(&tree, key, key_len, value, sizeof value, &length, &kind);
}

static void view_root(struct kv_page_view *root)
{
    ck_assert_int_eq(kv_pager_view(pages.pager, tree.root, root), 0);
    ck_assert_uint_gt(kv_node_level_racy(root->bytes), 0);
}

/* Does the root have a guide now? */
static bool find(const void *key, size_t key_len, struct kv_btree_way *way)
{
    struct kv_page_view root;
    view_root(&root);
    return kv_btree_guide_find(&tree, tree.root, &root, key, key_len, way);
}

static void make_guide(void)
{
    struct kv_page_view root;
    view_root(&root);
    for (unsigned i = 0; i < LOOKS; i++)
        kv_btree_guide_missed(&tree, tree.root, &root);
}

/* The guide of the root, if it says anything, says what the root says. */
static bool agrees(const uint8_t *key, size_t key_len)
{
    struct kv_page_view root;
    struct kv_btree_way way;
    unsigned slot;
    view_root(&root);
    if (!kv_btree_guide_find(&tree, tree.root, &root, key, key_len, &way))
        return false;
    ck_assert_uint_eq(way.child, kv_node_child_racy(root.bytes, NODE_BYTES, key, key_len, &slot));
    ck_assert_uint_eq(way.level + 1u, kv_node_level_racy(root.bytes));
    return true;
}

START_TEST(it_leads_where_its_page_leads)
{
    struct test_random random = {.state = 1};
    for (uint64_t i = 0; i < NUMBERS; i++)
        put(i);
    make_guide();
    unsigned said = 0;
    for (uint64_t i = 0; i < NUMBERS; i++) {
        uint8_t key[40];
        const size_t key_len = make_key(i, key);
        for (size_t length = 1; length <= key_len; length++)
            (void)agrees(key, length);
        said += agrees(key, key_len);
        for (unsigned k = 0; k < 8; k++) {
            key[test_random_below(&random, key_len)] = (uint8_t)test_random_next(&random);
            (void)agrees(key, key_len);
        }
    }
    ck_assert_uint_gt(said, NUMBERS / 2);
}
END_TEST

/* Numbers without a gap: what separates two leaves is the whole first key of the second. */
START_TEST(it_leads_keys_that_are_what_separates_two_children)
{
    uint8_t key[40];
    for (unsigned i = 0; i < NUMBERS / 10; i++) {
        const int length = snprintf((char *)key, sizeof key, "n/%06u", i);
        put_key(key, (size_t)length, 1000);
    }
    make_guide();
    for (unsigned i = 0; i < NUMBERS / 10; i++) {
        const size_t key_len = (size_t)snprintf((char *)key, sizeof key, "n/%06u", i);
        ck_assert(agrees(key, key_len));
        /* Bytes of zero after it, or missing, make another key, of which heads say as much. */
        key[key_len] = key[key_len + 1] = key[key_len + 2] = 0;
        for (size_t length = 1; length <= key_len + 3; length++)
            (void)agrees(key, length);
    }
}
END_TEST

START_TEST(keys_that_end_in_zeros_are_told_apart)
{
    /* Of each number a key and five that have zeros after it. */
    uint8_t key[16] = {'z'};
    for (unsigned i = 0; i < NUMBERS / 10; i++) {
        memset(key + 1, 0, sizeof key - 1);
        key[1] = (uint8_t)(i / 6);
        key[2] = 1;
        put_key(key, 3 + i % 6, 1000);
    }
    make_guide();
    for (unsigned i = 0; i < NUMBERS / 10; i++) {
        memset(key + 1, 0, sizeof key - 1);
        key[1] = (uint8_t)(i / 6);
        key[2] = 1;
        for (size_t length = 1; length <= sizeof key; length++)
            (void)agrees(key, length);
        (void)agrees(key, 3 + i % 6);
    }
}
END_TEST

START_TEST(it_says_nothing_once_its_page_has_changed)
{
    struct kv_btree_way way;
    uint8_t key[40];
    for (uint64_t i = 0; i < NUMBERS; i += 2)
        put(i);
    make_guide();
    const size_t key_len = make_key(11, key);
    ck_assert(find(key, key_len, &way));
    struct kv_page_view before, now;
    view_root(&before);
    uint64_t i = 1;
    for (view_root(&now); now.version == before.version; view_root(&now), i += 2)
        put(i);
    ck_assert(!find(key, key_len, &way));
    /* And another one is made. */
    make_guide();
    ck_assert(find(key, key_len, &way));
}
END_TEST

START_TEST(a_child_is_looked_for_where_it_was_and_elsewhere)
{
    for (uint64_t i = 0; i < NUMBERS; i++)
        put(i);
    make_guide();
    uint8_t key[40];
    struct kv_btree_way way;
    const size_t key_len = make_key(NUMBERS / 2 + 1, key);
    ck_assert(find(key, key_len, &way));
    ck_assert_uint_eq(way.frame, KV_FRAME_NONE);
    ck_assert_int_eq(kv_btree_resident(&tree, key, key_len, &(uint64_t){0}), true);
    struct kv_page_view child;
    /* The descent, unless a hint made it needless, has noted where the child is. */
    if (find(key, key_len, &way) && way.frame != KV_FRAME_NONE)
        ck_assert(kv_btree_way_view(&tree, &way, &child));
    /* A frame that holds another page, or is none, is not taken for it. */
    const uint32_t wrong[] = {0, 1, 999, UINT32_MAX - 1, KV_FRAME_NONE};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        way.frame = wrong[i];
        if (kv_btree_way_view(&tree, &way, &child))
            ck_assert_int_eq(kv_node_validate(child.bytes, NODE_BYTES, way.child), 0);
        atomic_store(way.noted, wrong[i]);
        ck_assert_int_eq(get(NUMBERS / 2 + 1), 0);
    }
}
END_TEST

static _Atomic bool stopping;

/* Even numbers are there all the time. */
static void *read_even(void *context)
{
    struct test_random random = {.state = (uintptr_t)context};
    for (unsigned i = 0; i < GETS; i++) {
        const uint64_t number = 2 * test_random_below(&random, NUMBERS / 2);
        if (get(number))
            return "not found";
    }
    atomic_store(&stopping, true);
    return NULL;
}

START_TEST(readers_find_everything_while_pages_split_and_merge)
{
    for (uint64_t i = 0; i < NUMBERS; i += 2)
        put(i);
    pthread_t readers[2];
    atomic_store(&stopping, false);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&readers[i], NULL, read_even, (void *)(uintptr_t)(i + 1)),
                         0);
    while (!atomic_load(&stopping)) {
        for (uint64_t i = 1; i < NUMBERS && !atomic_load(&stopping); i += 2)
            put(i);
        for (uint64_t i = 1; i < NUMBERS && !atomic_load(&stopping); i += 2)
            del(i);
    }
    for (unsigned i = 0; i < 2; i++) {
        void *wrong;
        pthread_join(readers[i], &wrong);
        ck_assert_ptr_null(wrong);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("btree guide");
    TCase *tcase = tcase_create("core");
    suite_add_tcase(suite, tcase);
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, it_leads_where_its_page_leads);
    tcase_add_test(tcase, it_leads_keys_that_are_what_separates_two_children);
    tcase_add_test(tcase, keys_that_end_in_zeros_are_told_apart);
    tcase_add_test(tcase, it_says_nothing_once_its_page_has_changed);
    tcase_add_test(tcase, a_child_is_looked_for_where_it_was_and_elsewhere);
    tcase_add_test(tcase, readers_find_everything_while_pages_split_and_merge);
    return test_run(suite);
}
