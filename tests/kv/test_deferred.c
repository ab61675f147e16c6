/*
 * tests/kv/test_deferred.c: changes that wait, by their keys, in the round that gathers and in the
 * one that is settled.
 */
#include "kv/deferred.h"
#include "tests/run.h"

#include <check.h>

static struct kv_deferred *deferred;
static struct kv_batch *batch;

static void begin(void)
{
    deferred = kv_deferred_new();
    batch = kv_batch_new();
    ck_assert(deferred && batch);
}

static void end(void)
{
    kv_batch_free(batch);
    kv_deferred_free(deferred);
}

static void put(const char *key, const char *value)
{
    ck_assert_int_eq(kv_batch_put(batch, key, strlen(key), value, strlen(value)), 0);
}

static void del(const char *key)
{
    ck_assert_int_eq(kv_batch_del(batch, key, strlen(key)), 0);
}

/* Add what was put and deleted since. */
static int add(uint64_t clusters)
{
    struct kv_deferred_room room;
    const int err = kv_deferred_room(deferred, batch, &room);
    if (!err)
        ck_assert(kv_deferred_add(deferred, batch, &room, clusters));
    kv_batch_clear(batch);
    return err;
}

static void expect(const char *key, const char *value)
{
    char buf[32];
    size_t length = 0;
    ck_assert_int_eq(kv_deferred_get(deferred, key, strlen(key), buf, sizeof buf, &length), 0);
    ck_assert_uint_eq(length, strlen(value));
    ck_assert_mem_eq(buf, value, length);
}

static void expect_result(const char *key, int result)
{
    size_t length;
    ck_assert_int_eq(kv_deferred_get(deferred, key, strlen(key), NULL, 0, &length), result);
}

START_TEST(the_last_change_of_a_key_is_found)
{
    ck_assert(!kv_deferred_any(deferred) && !kv_deferred_due(deferred));
    expect_result("a", -EAGAIN);
    put("a", "one");
    put("b", "two");
    put("a", "three");
    del("c");
    ck_assert_int_eq(add(0), 0);
    ck_assert(kv_deferred_any(deferred) && kv_deferred_due(deferred));
    expect("a", "three");
    expect("b", "two");
    expect_result("c", -ENOENT);
    expect_result("d", -EAGAIN);
    put("c", "again");
    del("a");
    ck_assert_int_eq(add(0), 0);
    expect("c", "again");
    expect_result("a", -ENOENT);
}
END_TEST

START_TEST(as_much_of_a_value_is_copied_as_there_is_room_for)
{
    char buf[4] = "....";
    size_t length = 0;
    put("key", "value");
    ck_assert_int_eq(add(0), 0);
    ck_assert_int_eq(kv_deferred_get(deferred, "key", 3, buf, 2, &length), 0);
    ck_assert_uint_eq(length, 5);
    ck_assert_mem_eq(buf, "va..", 4);
}
END_TEST

START_TEST(what_gathers_while_a_round_is_settled_is_later)
{
    put("a", "old");
    put("b", "old");
    ck_assert_int_eq(add(7), 0);
    struct kv_deferred_round *const round = kv_deferred_turn(deferred);
    ck_assert_ptr_nonnull(round);
    ck_assert_uint_eq(round->batch->count, 2);
    ck_assert_uint_eq(round->clusters, 7);
    put("a", "new");
    ck_assert_int_eq(add(1), 0);
    expect("a", "new");
    expect("b", "old");
    ck_assert_uint_eq(round->batch->count, 2);
    ck_assert_ptr_eq(kv_deferred_turn(deferred), round); /* until it is done */
    kv_deferred_settled(deferred);
    expect("a", "new");
    expect_result("b", -EAGAIN);
    ck_assert_ptr_ne(kv_deferred_turn(deferred), round);
    kv_deferred_settled(deferred);
    ck_assert(!kv_deferred_any(deferred));
    ck_assert_ptr_null(kv_deferred_turn(deferred));
}
END_TEST

START_TEST(a_batch_that_asked_for_room_in_a_round_that_turned_asks_again)
{
    struct kv_deferred_room room;
    put("a", "one");
    ck_assert_int_eq(add(0), 0);
    put("b", "two");
    ck_assert_int_eq(kv_deferred_room(deferred, batch, &room), 0);
    ck_assert_uint_eq(room.count, 2);
    ck_assert_ptr_nonnull(kv_deferred_turn(deferred));
    ck_assert(!kv_deferred_add(deferred, batch, &room, 0));
    expect_result("b", -EAGAIN);
    ck_assert_int_eq(kv_deferred_room(deferred, batch, &room), 0);
    ck_assert_uint_eq(room.count, 1);
    ck_assert(kv_deferred_add(deferred, batch, &room, 0));
    expect("b", "two");
}
END_TEST

START_TEST(a_batch_touches_what_waits_in_either_round)
{
    put("a", "one");
    ck_assert_int_eq(add(0), 0);
    ck_assert_ptr_nonnull(kv_deferred_turn(deferred));
    put("b", "two");
    ck_assert_int_eq(add(0), 0);
    put("c", "");
    ck_assert(!kv_deferred_touches(deferred, batch));
    del("a");
    ck_assert(kv_deferred_touches(deferred, batch));
    kv_batch_clear(batch);
    put("b", "");
    ck_assert(kv_deferred_touches(deferred, batch));
}
END_TEST

START_TEST(a_range_touches_what_waits_in_it)
{
    static const struct {
        const char *lower, *upper;
        bool touches;
    } ranges[] = {{"a", "c", true}, {"b", "c", true},  {"a", "b", false}, {"c", "", false},
                  {"", "", true},   {"b0", "", false}, {"", "b", false},  {"", "b0", true}};
    put("b", "value");
    ck_assert_int_eq(add(0), 0);
    for (unsigned turned = 0; turned < 2; turned++) {
        for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
            ck_assert_int_eq(kv_batch_del_range(batch, ranges[i].lower, strlen(ranges[i].lower),
                                                ranges[i].upper, strlen(ranges[i].upper)),
                             0);
            ck_assert_int_eq(kv_deferred_touches(deferred, batch), ranges[i].touches);
            kv_batch_clear(batch);
        }
        ck_assert_ptr_nonnull(kv_deferred_turn(deferred));
    }
}
END_TEST

START_TEST(a_round_takes_so_many_operations_and_bytes)
{
    char key[16];
    static uint8_t large[KV_DEFERRED_BYTES_MAX / 2];
    for (unsigned i = 0; i < KV_DEFERRED_OPS_MAX; i++) {
        snprintf(key, sizeof key, "%u", i);
        put(key, key);
        ck_assert_int_eq(add(0), 0);
    }
    put("more", "");
    ck_assert_int_eq(add(0), -ENOBUFS);
    for (unsigned i = 0; i < KV_DEFERRED_OPS_MAX; i++) {
        snprintf(key, sizeof key, "%u", i);
        expect(key, key);
    }
    ck_assert_ptr_nonnull(kv_deferred_turn(deferred));
    kv_deferred_settled(deferred);
    ck_assert_int_eq(kv_batch_put(batch, "a", 1, large, sizeof large), 0);
    ck_assert_int_eq(add(0), 0);
    ck_assert_int_eq(kv_batch_put(batch, "b", 1, large, sizeof large), 0);
    ck_assert_int_eq(add(0), -ENOBUFS);
}
END_TEST

START_TEST(what_could_not_be_settled_gathers_again_unless_it_is_outdated)
{
    put("a", "old");
    put("b", "old");
    put("c", "old");
    put("b", "newer");
    ck_assert_int_eq(add(9), 0);
    struct kv_deferred_round *round = kv_deferred_turn(deferred);
    ck_assert(kv_deferred_counts(round, 0));
    ck_assert(!kv_deferred_counts(round, 1)); /* b has a later one */
    ck_assert(kv_deferred_counts(round, 3));
    put("a", "new");
    ck_assert_int_eq(add(1), 0);

    put("a", "old");
    put("b", "newer");
    ck_assert_int_eq(kv_deferred_settled_but(deferred, batch, 5), 0);
    expect("a", "new");
    expect("b", "newer");
    expect_result("c", -EAGAIN);
    ck_assert(kv_deferred_due(deferred)); /* "a" has not been tried */

    round = kv_deferred_turn(deferred);
    ck_assert_uint_eq(round->batch->count, 2);
    ck_assert_uint_eq(round->clusters, 6);
    kv_batch_clear(batch);
    put("b", "newer");
    ck_assert_int_eq(kv_deferred_settled_but(deferred, batch, 0), 0);
    ck_assert(kv_deferred_any(deferred));
    ck_assert(!kv_deferred_due(deferred)); /* all that is left was tried */
    ck_assert_ptr_nonnull(kv_deferred_turn(deferred));
    kv_deferred_settled(deferred);
    ck_assert(!kv_deferred_any(deferred));
}
END_TEST

START_TEST(rounds_that_come_back_do_not_grow_for_ever)
{
    char key[16];
    unsigned added = 0;
    for (unsigned i = 0; i < 100 * KV_DEFERRED_OPS_MAX; i++) {
        snprintf(key, sizeof key, "%u", i);
        put(key, key);
        const int err = add(0);
        added += !err;
        if (err != -ENOBUFS)
            continue;
        /* Nothing of it could be settled. */
        struct kv_deferred_round *const round = kv_deferred_turn(deferred);
        ck_assert_ptr_nonnull(round);
        ck_assert_int_eq(kv_deferred_settled_but(deferred, round->batch, 0), 0);
    }
    ck_assert_uint_eq(added, KV_DEFERRED_OPS_MAX);
    for (unsigned i = 0; i < added; i++) {
        snprintf(key, sizeof key, "%u", i);
        expect(key, key);
    }
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("deferred");
    TCase *const tcase = tcase_create("deferred");
    tcase_add_checked_fixture(tcase, begin, end);
    tcase_add_test(tcase, the_last_change_of_a_key_is_found);
    tcase_add_test(tcase, as_much_of_a_value_is_copied_as_there_is_room_for);
    tcase_add_test(tcase, what_gathers_while_a_round_is_settled_is_later);
    tcase_add_test(tcase, a_batch_that_asked_for_room_in_a_round_that_turned_asks_again);
    tcase_add_test(tcase, a_batch_touches_what_waits_in_either_round);
    tcase_add_test(tcase, a_range_touches_what_waits_in_it);
    tcase_add_test(tcase, a_round_takes_so_many_operations_and_bytes);
    tcase_add_test(tcase, what_could_not_be_settled_gathers_again_unless_it_is_outdated);
    tcase_add_test(tcase, rounds_that_come_back_do_not_grow_for_ever);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
