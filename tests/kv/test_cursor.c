/*
 * tests/kv/test_cursor.c: bounds, edges and values of cursors.
 *
 * tests/kv/test_store_model.c walks cursors at random; here are the cases that chance may miss.
 */
#include "kv/format.h"
#include "kv/kv.h"
#include "support_devices.h"
#include "support_store.h"
#include "tests/run.h"

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define IMAGE_BLOCKS (2 * KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)

static struct kv_store *store_new(void)
{
    struct kv_device *const device = memory_device_new(IMAGE_BLOCKS);
    test_create_on(device, 4096, KV_CODEC_NONE, 0);
    return test_open_on(device);
}

static void put(struct kv_store *store, const char *key, size_t key_len)
{
    ck_assert_int_eq(kv_put(store, key, key_len, key, key_len), 0);
}

static struct kv_cursor *cursor_new(struct kv_store *store, const char *lower, const char *upper)
{
    struct kv_cursor *cursor = NULL;
    ck_assert_int_eq(kv_cursor_open(store, lower, lower ? strlen(lower) : 0, upper,
                                    upper ? strlen(upper) : 0, &cursor),
                     0);
    return cursor;
}

static void expect_on(struct kv_cursor *cursor, int err, const char *key)
{
    size_t key_len = 77;
    ck_assert_int_eq(err, key ? 0 : -ENOENT);
    const void *const found = kv_cursor_key(cursor, &key_len);
    if (!key) {
        ck_assert_ptr_null(found);
        ck_assert_uint_eq(key_len, 0);
        return;
    }
    ck_assert_uint_eq(key_len, strlen(key));
    ck_assert_mem_eq(found, key, key_len);
}

START_TEST(an_empty_store_has_nothing_to_stand_on)
{
    struct kv_store *const store = store_new();
    struct kv_cursor *const cursor = cursor_new(store, NULL, NULL);
    const void *value;
    size_t length;
    expect_on(cursor, kv_cursor_next(cursor), NULL);
    expect_on(cursor, kv_cursor_prev(cursor), NULL);
    expect_on(cursor, kv_cursor_first(cursor), NULL);
    expect_on(cursor, kv_cursor_last(cursor), NULL);
    expect_on(cursor, kv_cursor_seek(cursor, "k", 1), NULL);
    expect_on(cursor, kv_cursor_seek(cursor, "", 0), NULL);
    expect_on(cursor, kv_cursor_seek_before(cursor, "k", 1), NULL);
    expect_on(cursor, kv_cursor_seek_before(cursor, "", 0), NULL);
    ck_assert_int_eq(kv_cursor_value(cursor, &value, &length), -ENOENT);
    kv_cursor_close(cursor);
    kv_cursor_close(NULL);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

/* Counts how often whoever made it waits for reads, and what everyone reads. */
struct counted {
    struct kv_device base;
    struct kv_device *below;
    pthread_t walker;
    unsigned waits;          /* of the walker */
    _Atomic unsigned blocks; /* read */
};

static int submit_counted(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct counted *const counted = (struct counted *)device;
    if (pthread_equal(pthread_self(), counted->walker))
        counted->waits += io_count && ios[0].kind == KV_IO_READ;
    const int err = kv_device_submit(counted->below, ios, io_count, flush);
    for (size_t i = 0; i < io_count; i++)
        (void)atomic_fetch_add(&counted->blocks,
                               ios[i].kind == KV_IO_READ ? ios[i].block_count : 0);
    return err;
}

static void close_counted(struct kv_device *device)
{
    (void)device; /* it is opened again */
}

/* What a walk over some of the keys costs. */
struct walk {
    unsigned waits, blocks;
};

#define LEAF_KEYS 30u /* more than a leaf holds */

static const char *key_of(char *key, unsigned number)
{
    snprintf(key, 101, "%0100u", number);
    return key;
}

static void load_above(struct kv_store *store, const char *key)
{
    size_t length;
    ck_assert_int_eq(kv_get(store, key, strlen(key), NULL, 0, &length), -ERANGE);
}

/*
 * `blocks` not 0, what all of it takes: a thread reads ahead, and has all the time it needs after
 * the first key and after some leaves.
 */
static struct walk walk(struct counted *counted, bool walks_on, unsigned blocks)
{
    char from[101], to[101];
    struct kv_store *const store = test_open_on(&counted->base);
    load_above(store, key_of(from, 970)); /* what is above the leaves is in memory then */
    load_above(store, key_of(to, 1430));
    struct kv_cursor *const cursor = cursor_new(store, key_of(from, 1000), key_of(to, 1400));
    if (walks_on)
        kv_cursor_walk_on(cursor);
    if (blocks)
        ck_assert_int_eq(kv_start_background(store), 0);
    counted->waits = 0;
    atomic_store(&counted->blocks, 0);
    unsigned found = 0;
    for (int err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        const unsigned least = found == 0 ? 4 + 16 : found == 6 * LEAF_KEYS ? blocks : 0;
        while (blocks && atomic_load(&counted->blocks) < least)
            sched_yield();
        found++;
    }
    ck_assert_uint_eq(found, 400);
    const struct walk walked = {.waits = counted->waits, .blocks = atomic_load(&counted->blocks)};
    kv_cursor_close(cursor);
    ck_assert_int_eq(kv_close(store), 0);
    return walked;
}

/* 4,000 keys, some 15 of them in a leaf of one block. */
static void fill_counted(struct counted *counted)
{
    static const struct kv_device_ops ops = {.submit = submit_counted, .close = close_counted};
    struct kv_device *const below = memory_device_new(IMAGE_BLOCKS);
    test_create_on(below, 4096, KV_CODEC_NONE, 0);
    *counted = (struct counted){.base = {.ops = &ops, .block_count = below->block_count},
                                .below = below,
                                .walker = pthread_self()};
    char key[101];
    struct kv_store *const store = test_open_on(&counted->base);
    for (unsigned i = 0; i < 4000; i++)
        put(store, key_of(key, i), 100);
    ck_assert_int_eq(kv_close(store), 0);
}

START_TEST(who_walks_on_waits_once_for_the_first_few_leaves)
{
    struct counted counted;
    fill_counted(&counted);
    const struct walk untold = walk(&counted, false, 0);
    const struct walk told = walk(&counted, true, 0);
    const struct walk helped = walk(&counted, true, untold.blocks);
    printf("%u, %u and %u waits, %u, %u and %u blocks\n", untold.waits, told.waits, helped.waits,
           untold.blocks, told.blocks, helped.blocks);
    ck_assert_uint_gt(untold.waits, 4);
    ck_assert_uint_eq(told.waits, 2);
    ck_assert_uint_eq(helped.waits, 1);
    ck_assert_uint_eq(untold.blocks, told.blocks); /* not one leaf beyond the bound */
    ck_assert_uint_eq(untold.blocks, helped.blocks);
    kv_device_close(counted.below);
}
END_TEST

/*
 * Walk over 20 ranges of 30 keys each, two or three leaves, in order or the last one first; no
 * thread reads ahead.
 */
static struct walk walk_ranges(struct counted *counted, bool in_order)
{
    char from[101], to[101];
    struct kv_store *const store = test_open_on(&counted->base);
    load_above(store, key_of(from, 970));
    load_above(store, key_of(to, 1630));
    counted->waits = 0;
    atomic_store(&counted->blocks, 0);
    for (unsigned i = 0; i < 20; i++) {
        const unsigned start = 1000 + 30 * (in_order ? i : 19 - i);
        struct kv_cursor *const cursor =
            cursor_new(store, key_of(from, start), key_of(to, start + 30));
        kv_cursor_walk_on(cursor);
        unsigned found = 0;
        for (int err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor))
            found++;
        ck_assert_uint_eq(found, 30);
        kv_cursor_close(cursor);
    }
    const struct walk walked = {.waits = counted->waits, .blocks = atomic_load(&counted->blocks)};
    ck_assert_int_eq(kv_close(store), 0);
    return walked;
}

START_TEST(walks_that_follow_one_another_read_beyond_their_ends)
{
    struct counted counted;
    fill_counted(&counted);
    const struct walk ordered = walk_ranges(&counted, true);
    const struct walk reversed = walk_ranges(&counted, false);
    printf("%u and %u waits, %u and %u blocks\n", ordered.waits, reversed.waits, ordered.blocks,
           reversed.blocks);
    ck_assert_uint_ge(reversed.waits, 20);
    ck_assert_uint_le(ordered.waits, 1 + (reversed.blocks + 15) / 16);
    /* Beyond the last range no more than is read together; nothing is read twice. */
    ck_assert_uint_lt(ordered.blocks, reversed.blocks + 16);
    kv_device_close(counted.below);
}
END_TEST

/*
 * Ask for 400 keys of some 23 leaves in order, or the last one first. helped: a thread reads ahead,
 * and has all the time it needs: behind leaves 4, 9 and 19, which are waited for, it reads as many.
 */
static struct walk ask_for_each(struct counted *counted, bool in_order, bool helped, bool read_only)
{
    static const unsigned read_after[] = {0, 0, 0, 0, 8, 18, 24};
    char key[101];
    const struct kv_open_options options = {.device = &counted->base,
                                            .memory_budget_bytes = 16u << 20,
                                            .no_background = true,
                                            .read_only = read_only};
    struct kv_store *store;
    ck_assert_int_eq(kv_open(NULL, &options, &store, NULL), 0);
    load_above(store, key_of(key, 970)); /* what is above the leaves is in memory then */
    load_above(store, key_of(key, 1430));
    if (helped)
        ck_assert_int_eq(kv_start_background(store), 0);
    counted->waits = 0;
    atomic_store(&counted->blocks, 0);
    for (unsigned i = 0; i < 400; i++) {
        load_above(store, key_of(key, in_order ? 1000 + i : 1399 - i));
        const unsigned least =
            helped && in_order && counted->waits < 7 ? read_after[counted->waits] : 0;
        while (atomic_load(&counted->blocks) < least)
            sched_yield();
    }
    const struct walk walked = {.waits = counted->waits, .blocks = atomic_load(&counted->blocks)};
    ck_assert_int_eq(kv_close(store), 0);
    return walked;
}

START_TEST(who_asks_for_key_after_key_in_order_waits_less_and_less)
{
    struct counted counted;
    fill_counted(&counted);
    const struct walk alone = ask_for_each(&counted, true, false, false);
    const struct walk helped = ask_for_each(&counted, true, true, false);
    const struct walk looking = ask_for_each(&counted, true, true, true);
    const struct walk reversed = ask_for_each(&counted, false, true, false);
    printf("%u, %u and %u waits, %u, %u and %u blocks\n", alone.waits, helped.waits, reversed.waits,
           alone.blocks, helped.blocks, reversed.blocks);
    ck_assert_uint_gt(alone.waits, 19);
    ck_assert_uint_eq(helped.waits, 6);
    ck_assert_uint_eq(looking.waits, 6);            /* read-only likewise */
    ck_assert_uint_gt(helped.blocks, alone.blocks); /* it goes on beyond the last key */
    ck_assert_uint_eq(alone.blocks, alone.waits);
    ck_assert_uint_eq(reversed.blocks, alone.blocks); /* nothing in vain where there is no order */
    kv_device_close(counted.below);
}
END_TEST

START_TEST(bounds_hold_for_every_move)
{
    struct kv_store *const store = store_new();
    for (char letter = 'a'; letter <= 'i'; letter++)
        put(store, &letter, 1);
    struct kv_cursor *cursor = cursor_new(store, "c", "g"); /* c d e f */
    expect_on(cursor, kv_cursor_first(cursor), "c");
    expect_on(cursor, kv_cursor_prev(cursor), NULL);
    expect_on(cursor, kv_cursor_last(cursor), "f");
    expect_on(cursor, kv_cursor_next(cursor), NULL);
    expect_on(cursor, kv_cursor_seek(cursor, "a", 1), "c");
    expect_on(cursor, kv_cursor_seek(cursor, "", 0), "c");
    expect_on(cursor, kv_cursor_seek(cursor, "d", 1), "d");
    expect_on(cursor, kv_cursor_seek(cursor, "d0", 2), "e");
    expect_on(cursor, kv_cursor_seek(cursor, "f0", 2), NULL);
    expect_on(cursor, kv_cursor_seek(cursor, "z", 1), NULL);
    expect_on(cursor, kv_cursor_seek_before(cursor, "z", 1), "f");
    expect_on(cursor, kv_cursor_seek_before(cursor, "g", 1), "f");
    expect_on(cursor, kv_cursor_seek_before(cursor, "d", 1), "c");
    expect_on(cursor, kv_cursor_seek_before(cursor, "c", 1), NULL);
    expect_on(cursor, kv_cursor_seek_before(cursor, "a", 1), NULL);
    kv_cursor_close(cursor);

    cursor = cursor_new(store, "g", "c"); /* nothing */
    expect_on(cursor, kv_cursor_first(cursor), NULL);
    expect_on(cursor, kv_cursor_last(cursor), NULL);
    expect_on(cursor, kv_cursor_seek(cursor, "e", 1), NULL);
    kv_cursor_close(cursor);
    cursor = cursor_new(store, "c", "c");
    expect_on(cursor, kv_cursor_first(cursor), NULL);
    expect_on(cursor, kv_cursor_last(cursor), NULL);
    kv_cursor_close(cursor);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

START_TEST(a_prefix_ends_where_no_key_can_begin_with_it)
{
    struct kv_store *const store = store_new();
    static const struct {
        const char *bytes;
        size_t length;
    } keys[] = {{"\xfe", 1},     {"\xfe\xff", 2}, {"\xfe\xff\xff", 3},  {"\xff", 1},
                {"\xff\xfe", 2}, {"\xff\xff", 2}, {"\xff\xff\x01", 3},  {"\xff\xff\xff", 3},
                {"a", 1},        {"a\xff", 2},    {"a\xff\xff\xff", 4}, {"b", 1}};
    static const struct {
        const char *bytes;
        size_t length, expected;
    } prefixes[] = {{"\xff", 1, 5},  {"\xff\xff", 2, 3}, {"\xfe\xff", 2, 2}, {"\xfe", 1, 3},
                    {"a\xff", 2, 2}, {"a", 1, 3},        {"", 0, 12},        {"c", 1, 0}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        put(store, keys[i].bytes, keys[i].length);
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        struct kv_cursor *cursor;
        size_t forward = 0, backward = 0;
        ck_assert_int_eq(
            kv_cursor_open_prefix(store, prefixes[i].bytes, prefixes[i].length, &cursor), 0);
        for (int err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor))
            forward++;
        for (int err = kv_cursor_last(cursor); !err; err = kv_cursor_prev(cursor))
            backward++;
        ck_assert_uint_eq(forward, prefixes[i].expected);
        ck_assert_uint_eq(backward, prefixes[i].expected);
        kv_cursor_close(cursor);
    }
    struct kv_cursor *cursor;
    static const char too_long[KV_KEY_MAX + 1];
    ck_assert_int_eq(kv_cursor_open_prefix(store, too_long, sizeof too_long, &cursor), -EINVAL);
    ck_assert_int_eq(kv_cursor_open(store, too_long, sizeof too_long, NULL, 0, &cursor), -EINVAL);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

START_TEST(a_walk_crosses_emptied_leaves_both_ways)
{
    struct kv_store *const store = store_new();
    char key[24];
    for (uint64_t i = 0; i < 3000; i++)
        ck_assert_int_eq(test_put_number(store, i, 100), 0);
    for (uint64_t i = 10; i < 2990; i++)
        ck_assert_int_eq(kv_del(store, key, test_number_key(key, i)), 0);
    struct kv_cursor *const cursor = cursor_new(store, NULL, NULL);
    uint64_t seen = 0;
    for (int err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        (void)test_number_key(key, seen < 10 ? seen : seen + 2980);
        expect_on(cursor, 0, key);
        seen++;
    }
    ck_assert_uint_eq(seen, 20);
    for (int err = kv_cursor_last(cursor); !err; err = kv_cursor_prev(cursor)) {
        seen--;
        (void)test_number_key(key, seen < 10 ? seen : seen + 2980);
        expect_on(cursor, 0, key);
    }
    ck_assert_uint_eq(seen, 0);
    kv_cursor_close(cursor);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

START_TEST(a_large_value_is_borrowed_until_the_cursor_moves)
{
    struct kv_store *const store = store_new();
    const void *first, *second;
    size_t length;
    ck_assert_int_eq(test_put_number(store, 1, 100000), 0);
    ck_assert_int_eq(test_put_number(store, 2, 50), 0);
    struct kv_cursor *const cursor = cursor_new(store, NULL, NULL);
    ck_assert_int_eq(kv_cursor_first(cursor), 0);
    ck_assert_int_eq(kv_cursor_value(cursor, &first, &length), 0);
    ck_assert_uint_eq(length, 100000);
    uint8_t *const expected = malloc(100000);
    ck_assert_ptr_nonnull(expected);
    test_fill(expected, 100000, 1);
    ck_assert_int_eq(memcmp(first, expected, length), 0);
    /* Asking again, also after the key was changed, does not take it away. */
    ck_assert_int_eq(kv_put(store, "key00000001", 11, "now small", 9), 0);
    ck_assert_int_eq(kv_cursor_value(cursor, &second, &length), 0);
    ck_assert_uint_eq(length, 100000);
    ck_assert_int_eq(memcmp(first, expected, 100000), 0);
    ck_assert_int_eq(memcmp(second, expected, 100000), 0);
    ck_assert_int_eq(kv_cursor_next(cursor), 0);
    ck_assert_int_eq(kv_cursor_value(cursor, &first, &length), 0);
    ck_assert_uint_eq(length, 50);
    free(expected);
    kv_cursor_close(cursor);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

/* The leaf was copied with the references; the value is read as it is when it is asked for. */
START_TEST(a_large_value_that_changed_meanwhile_is_read_as_it_is_now)
{
    struct kv_store *const store = store_new();
    const void *value;
    size_t length;
    for (unsigned turn = 0; turn < 3; turn++) {
        ck_assert_int_eq(test_put_number(store, 1, 100000), 0);
        struct kv_cursor *const cursor = cursor_new(store, NULL, NULL);
        ck_assert_int_eq(kv_cursor_first(cursor), 0);
        if (turn == 0)
            ck_assert_int_eq(kv_put(store, "key00000001", 11, "small", 5), 0);
        else if (turn == 1)
            ck_assert_int_eq(kv_put(store, "key00000001", 11, NULL, 0), 0);
        else
            ck_assert_int_eq(kv_del(store, "key00000001", 11), 0);
        ck_assert_int_eq(kv_checkpoint(store), 0);              /* its blocks are free now ... */
        ck_assert_int_eq(test_put_number(store, 5, 300000), 0); /* ... and used again */
        ck_assert_int_eq(kv_cursor_value(cursor, &value, &length), turn == 2 ? -ENOENT : 0);
        ck_assert(turn || (length == 5 && !memcmp(value, "small", 5)));
        ck_assert(turn != 1 || length == 0);
        kv_cursor_close(cursor);
    }
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

/* As kv_get_floor should answer, with a cursor. */
static void expect_floor(struct kv_store *store, const void *key, size_t key_len)
{
    enum { CAP = 300 };
    uint8_t found[KV_KEY_MAX], value[CAP];
    size_t found_len = 0, value_len = 0, expected_len = 0;
    struct kv_cursor *const cursor = cursor_new(store, NULL, NULL);
    size_t at_len = 0;
    int expected = kv_cursor_seek(cursor, key, key_len);
    const void *at = kv_cursor_key(cursor, &at_len);
    if (expected || at_len != key_len || memcmp(at, key, key_len) != 0) {
        expected = kv_cursor_seek_before(cursor, key, key_len);
        at = kv_cursor_key(cursor, &at_len);
    }
    const void *bytes = NULL;
    if (!expected) {
        ck_assert_int_eq(kv_cursor_value(cursor, &bytes, &expected_len), 0);
        expected = expected_len <= CAP ? 0 : -ERANGE;
    }
    ck_assert_int_eq(kv_get_floor(store, key, key_len, found, &found_len, value, CAP, &value_len),
                     expected);
    if (expected != -ENOENT) {
        ck_assert_uint_eq(found_len, at_len);
        ck_assert_mem_eq(found, at, at_len);
        ck_assert_uint_eq(value_len, expected_len);
    }
    if (!expected && expected_len)
        ck_assert_mem_eq(value, bytes, expected_len);
    kv_cursor_close(cursor);
}

START_TEST(the_last_key_that_is_not_above_is_what_a_cursor_finds)
{
    enum { KEYS = 3000 };
    struct kv_store *const store = store_new();
    struct test_random random = {.state = test_env("KVFS_SEED", 1)};
    static uint8_t large[9000];
    expect_floor(store, "k", 1);
    for (unsigned i = 0; i < KEYS; i++) {
        uint8_t key[8];
        kv_be64_put(key, test_random_below(&random, 60000) * 2);
        const size_t length =
            test_random_below(&random, 50) ? test_random_below(&random, 60) : sizeof large;
        ck_assert_int_eq(kv_put(store, key, 4 + i % 5, large, length), 0);
    }
    for (unsigned i = 0; i < 2 * KEYS; i++) {
        uint8_t key[8];
        kv_be64_put(key, test_random_below(&random, 120100));
        expect_floor(store, key, 1 + test_random_below(&random, 8));
        if (i == KEYS) { /* leaves that begin with nothing, or are empty */
            uint8_t upper[8];
            kv_be64_put(key, 20000);
            kv_be64_put(upper, 90000);
            struct kv_batch *const batch = kv_batch_new();
            ck_assert_ptr_nonnull(batch);
            ck_assert_int_eq(kv_batch_del_range(batch, key, 8, upper, 8), 0);
            ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
            kv_batch_free(batch);
        }
    }
    size_t length;
    ck_assert_int_eq(kv_get_floor(store, "", 0, large, &length, NULL, 0, &length), -EINVAL);
    ck_assert_int_eq(kv_close(store), 0);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("cursor");
    TCase *const cursor = tcase_create("cursor");
    tcase_set_timeout(cursor, 120);
    tcase_add_test(cursor, an_empty_store_has_nothing_to_stand_on);
    tcase_add_test(cursor, who_walks_on_waits_once_for_the_first_few_leaves);
    tcase_add_test(cursor, walks_that_follow_one_another_read_beyond_their_ends);
    tcase_add_test(cursor, who_asks_for_key_after_key_in_order_waits_less_and_less);
    tcase_add_test(cursor, bounds_hold_for_every_move);
    tcase_add_test(cursor, a_prefix_ends_where_no_key_can_begin_with_it);
    tcase_add_test(cursor, the_last_key_that_is_not_above_is_what_a_cursor_finds);
    tcase_add_test(cursor, a_walk_crosses_emptied_leaves_both_ways);
    tcase_add_test(cursor, a_large_value_is_borrowed_until_the_cursor_moves);
    tcase_add_test(cursor, a_large_value_that_changed_meanwhile_is_read_as_it_is_now);
    suite_add_tcase(suite, cursor);
    return test_run(suite);
}
