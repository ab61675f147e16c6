/*
 * tests/tools/test_stress_history.c: what a file may hold after its daemon was killed, and what
 * not.
 *
 * Content of a version here: so many times its number.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/run.h"
#include "tools/stress_history.h"

#define PIECE 9000u

static struct stress_history history;

/* What was found: `length` bytes of `version`; version 0: nothing. */
struct sight {
    uint32_t version;
};

static bool holds(void *context, uint32_t version)
{
    return ((const struct sight *)context)->version == version;
}

static struct stress_verdict judge(uint32_t version, uint32_t length, uint64_t durable_before)
{
    struct sight sight = {.version = version};
    const struct stress_found found = {.is_there = version != 0,
                                       .length_bytes = length,
                                       .piece_bytes = PIECE,
                                       .holds = holds,
                                       .context = &sight};
    return stress_history_judge(&history, &found, durable_before);
}

static void change(uint32_t version, uint32_t length, bool in_place, uint64_t begun,
                   uint64_t acknowledged)
{
    const struct stress_change made = {.version = version,
                                       .length_bytes = length,
                                       .in_place = in_place,
                                       .begun = begun,
                                       .acknowledged = acknowledged};
    ck_assert_int_eq(stress_history_add(&history, &made, 0), 0);
}

static void setup(void)
{
    ck_assert_int_eq(stress_history_init(&history), 0);
}

static void teardown(void)
{
    stress_history_release(&history);
}

START_TEST(what_is_durable_may_not_be_lost)
{
    change(1, 100, false, 10, 11);
    change(2, 200, false, 20, 21);
    ck_assert(judge(0, 0, 0).is_right);
    ck_assert(judge(1, 100, 0).is_right);
    ck_assert(judge(2, 200, 0).is_right);
    ck_assert(!judge(0, 0, 12).is_right);
    ck_assert(judge(1, 100, 12).is_right);
    ck_assert(judge(1, 100, 21).is_right); /* begun at that moment: not before it */
    ck_assert(!judge(1, 100, 22).is_right);
    ck_assert(judge(2, 200, 22).is_right);
}
END_TEST

START_TEST(what_was_not_written_may_not_be_there)
{
    change(1, 100, false, 10, 11);
    ck_assert(!judge(7, 100, 0).is_right);
    ck_assert(!judge(1, 99, 0).is_right);
    ck_assert(!judge(1, 101, 0).is_right);
}
END_TEST

START_TEST(a_change_in_place_may_be_cut_where_writes_are)
{
    change(1, 100, false, 10, 11);
    change(2, 30000, true, 20, 21);
    ck_assert(judge(2, 0, 0).is_right);
    ck_assert(judge(2, 2 * PIECE, 0).is_right);
    ck_assert(judge(2, 4096, 0).is_right);
    ck_assert(!judge(2, 4097, 0).is_right);
    ck_assert(!judge(2, 2 * PIECE, 22).is_right); /* not when all of it is durable */

    const struct stress_verdict verdict = judge(2, PIECE, 0);
    ck_assert_uint_eq(verdict.shows_begun, 20);
    ck_assert_uint_eq(verdict.lost_acknowledged, 21);
    ck_assert_uint_eq(verdict.lost_count, 1);
    ck_assert_uint_eq(verdict.stands.length_bytes, PIECE);
}
END_TEST

START_TEST(what_was_under_way_is_there_or_not)
{
    change(1, 100, false, 10, 11);
    change(0, 0, false, 20, STRESS_NEVER);
    ck_assert(judge(0, 0, 12).is_right);
    const struct stress_verdict verdict = judge(1, 100, 12);
    ck_assert(verdict.is_right);
    ck_assert_uint_eq(verdict.lost_count, 0); /* nobody was told that it is done */
    ck_assert_uint_eq(verdict.lost_acknowledged, STRESS_NEVER);
}
END_TEST

START_TEST(it_tells_what_is_shown_and_what_is_lost)
{
    change(1, 100, false, 10, 11);
    change(2, 200, false, 20, 21);
    change(3, 300, false, 30, 31);
    struct stress_verdict verdict = judge(2, 200, 0);
    ck_assert_uint_eq(verdict.shows_begun, 20);
    ck_assert_uint_eq(verdict.lost_acknowledged, 31);
    verdict = judge(1, 100, 12);
    ck_assert_uint_eq(verdict.shows_begun, 0); /* it is durable: nothing new */
    ck_assert_uint_eq(verdict.lost_acknowledged, 21);
    ck_assert_uint_eq(verdict.lost_count, 2);
}
END_TEST

START_TEST(two_changes_that_leave_the_same_accuse_nobody)
{
    change(1, 100, false, 10, 11);
    change(0, 0, false, 20, 21);
    const struct stress_verdict verdict = judge(0, 0, 0);
    ck_assert(verdict.is_right);
    ck_assert_uint_eq(verdict.shows_begun, 0);
    ck_assert_uint_eq(verdict.lost_acknowledged, STRESS_NEVER);
}
END_TEST

START_TEST(it_goes_on_from_where_the_file_stands)
{
    change(1, 30000, true, 10, 11);
    struct stress_verdict verdict = judge(1, PIECE, 0);
    stress_history_restart(&history, &verdict.stands);
    ck_assert_uint_eq(stress_history_last(&history)->length_bytes, PIECE);
    verdict = judge(1, PIECE, 0);
    ck_assert(verdict.is_right);
    ck_assert_uint_eq(verdict.lost_count, 0);
    ck_assert(!judge(1, 0, 0).is_right);
    ck_assert(!judge(0, 0, 0).is_right);
}
END_TEST

START_TEST(what_is_durable_is_forgotten_but_for_the_last)
{
    for (uint32_t version = 1; version <= 1000; version++) {
        const struct stress_change made = {
            .version = version, .begun = 10 * version, .acknowledged = 10 * version + 1};
        ck_assert_int_eq(stress_history_add(&history, &made, 10 * version), 0);
    }
    ck_assert_uint_eq(history.count, 2);
    ck_assert_uint_eq(stress_history_last(&history)->version, 1000);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stress_history");
    TCase *tests = tcase_create("judge");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, what_is_durable_may_not_be_lost);
    tcase_add_test(tests, what_was_not_written_may_not_be_there);
    tcase_add_test(tests, a_change_in_place_may_be_cut_where_writes_are);
    tcase_add_test(tests, what_was_under_way_is_there_or_not);
    tcase_add_test(tests, it_tells_what_is_shown_and_what_is_lost);
    tcase_add_test(tests, two_changes_that_leave_the_same_accuse_nobody);
    tcase_add_test(tests, it_goes_on_from_where_the_file_stands);
    tcase_add_test(tests, what_is_durable_is_forgotten_but_for_the_last);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
