/*
 * tests/fs/test_ino_map.c: fs/ino_map.c against plain arrays.
 */
#include "fs/ino_map.h"
#include "tests/run.h"

#include <check.h>

struct element {
    uint64_t ino, value;
};

START_TEST(a_map_finds_what_was_added_and_nothing_else)
{
    struct fs_ino_map map;
    fs_ino_map_init(&map, sizeof(struct element));
    ck_assert_ptr_null(fs_ino_map_find(&map, 0));
    for (uint64_t i = 0; i < 20000; i++) {
        struct element *const element = fs_ino_map_add(&map, i * i * 3);
        ck_assert_ptr_nonnull(element);
        ck_assert_uint_eq(element->value, 0);
        element->value = i;
    }
    ck_assert_uint_eq(map.count, 20000);
    for (uint64_t i = 0; i < 20000; i++) {
        struct element *const found = fs_ino_map_find(&map, i * i * 3);
        ck_assert_ptr_nonnull(found);
        ck_assert_uint_eq(found->value, i);
        ck_assert_ptr_eq(fs_ino_map_add(&map, i * i * 3), found);
        ck_assert_ptr_eq(fs_ino_map_at(&map, i), found);
        ck_assert_ptr_null(fs_ino_map_find(&map, i * i * 3 + 1));
    }
    fs_ino_map_release(&map);
    ck_assert_ptr_null(fs_ino_map_find(&map, 0));
}
END_TEST

START_TEST(a_set_has_its_numbers_at_both_ends_of_the_range)
{
    static const uint64_t members[] = {0, 1, 63, 64, 4095, 4096, UINT64_MAX - 1, UINT64_MAX};
    static const uint64_t others[] = {2, 62, 65, 4094, 4097, UINT64_MAX - 2, UINT64_MAX / 2};
    struct fs_ino_set set;
    fs_ino_set_init(&set);
    ck_assert(!fs_ino_set_has(&set, 0));
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        ck_assert_int_eq(fs_ino_set_add(&set, members[i]), 0);
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        ck_assert(fs_ino_set_has(&set, members[i]));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        ck_assert(!fs_ino_set_has(&set, others[i]));
    fs_ino_set_release(&set);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("ino_map");
    TCase *const tcase = tcase_create("ino_map");
    tcase_add_test(tcase, a_map_finds_what_was_added_and_nothing_else);
    tcase_add_test(tcase, a_set_has_its_numbers_at_both_ends_of_the_range);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
