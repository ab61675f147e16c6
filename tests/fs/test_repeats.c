/*
 * tests/fs/test_repeats.c: what was asked for before is known again, and nothing else is.
 */
#include <check.h>

#include "fs/repeats.h"
#include "tests/run.h"

static struct fs_repeats repeats;

START_TEST(what_was_seen_is_known_again)
{
    ck_assert(!fs_repeats_see(&repeats, 1, 2, 3));
    ck_assert(fs_repeats_see(&repeats, 1, 2, 3));
    ck_assert(fs_repeats_see(&repeats, 1, 2, 3));
}
END_TEST

START_TEST(each_of_the_three_counts)
{
    ck_assert(!fs_repeats_see(&repeats, 7, 11, 13));
    ck_assert(!fs_repeats_see(&repeats, 8, 11, 13));
    ck_assert(!fs_repeats_see(&repeats, 7, 12, 13));
    ck_assert(!fs_repeats_see(&repeats, 7, 11, 14));
    ck_assert(!fs_repeats_see(&repeats, 11, 7, 13));
    ck_assert(!fs_repeats_see(&repeats, 0, 0, 0));
}
END_TEST

/* What came first may have lost its place; what is told must have been seen. */
START_TEST(nothing_is_told_that_was_not_seen)
{
    for (uint64_t i = 0; i < 8 * FS_REPEATS_MARKS; i++)
        ck_assert_msg(!fs_repeats_see(&repeats, 3, 1000 + i, i * 4096), "%llu",
                      (unsigned long long)i);
}
END_TEST

START_TEST(a_small_set_is_known_again_nearly_whole)
{
    const unsigned count = FS_REPEATS_MARKS / 16;
    unsigned known = 0;
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < count; i++)
            known += fs_repeats_see(&repeats, 4, 77, i);
    ck_assert_uint_ge(known, count / 10 * 8);
    ck_assert_uint_le(known, count);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("repeats");
    TCase *tests = tcase_create("repeats");
    tcase_add_test(tests, what_was_seen_is_known_again);
    tcase_add_test(tests, each_of_the_three_counts);
    tcase_add_test(tests, nothing_is_told_that_was_not_seen);
    tcase_add_test(tests, a_small_set_is_known_again_nearly_whole);
    suite_add_tcase(suite, tests);

    return test_run(suite);
}
