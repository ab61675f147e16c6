/*
 * tests/tools/test_memory.c: the limits of control groups, of either version, at any level.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/run.h"
#include "tools/memory.h"

#define MACHINE (64ull << 30)

static char dir[] = "/tmp/kvfs-memory-XXXXXX";

static void make_dir(void)
{
    strcpy(dir + sizeof dir - 7, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void remove_dir(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

/* A file below the directory, with what is above it. */
static void make_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (char *slash = path + sizeof dir; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        (void)mkdir(path, 0700); /* it may be there */
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

static uint64_t limit_with(const char *groups)
{
    char groups_path[64], root[64];
    make_file("groups", groups);
    snprintf(groups_path, sizeof groups_path, "%s/groups", dir);
    snprintf(root, sizeof root, "%s/cgroup", dir);
    return tool_memory_limit(groups_path, root, MACHINE);
}

START_TEST(what_was_not_told_is_at_most_a_third_of_the_memory)
{
    const uint64_t mib = 1u << 20, wanted = 256 * mib;
    ck_assert_uint_eq(tool_memory_modest(wanted, MACHINE), wanted);
    ck_assert_uint_eq(tool_memory_modest(wanted, 768 * mib), wanted);
    ck_assert_uint_eq(tool_memory_modest(wanted, 767 * mib), 255 * mib);
    ck_assert_uint_eq(tool_memory_modest(wanted, 96 * mib), 32 * mib);
    ck_assert_uint_eq(tool_memory_modest(wanted, 24 * mib), 8 * mib);
    ck_assert_uint_eq(tool_memory_modest(wanted, 1), 8 * mib);
}
END_TEST

START_TEST(without_groups_the_machine_counts)
{
    ck_assert_uint_eq(tool_memory_limit("/nowhere", "/nowhere", MACHINE), MACHINE);
    ck_assert_uint_eq(limit_with(""), MACHINE);
    ck_assert_uint_eq(limit_with("nonsense\n0\n0:\n0::\n0::/gone/away\n5:memory:/gone\n"), MACHINE);
    ck_assert_uint_gt(tool_memory_bytes(), 1u << 20);
}
END_TEST

START_TEST(the_least_limit_of_a_group_and_all_above_counts)
{
    make_file("cgroup/a/b/memory.max", "max\n");
    ck_assert_uint_eq(limit_with("0::/a/b\n"), MACHINE);
    make_file("cgroup/a/memory.max", "2147483648\n");
    ck_assert_uint_eq(limit_with("0::/a/b\n"), 2ull << 30);
    make_file("cgroup/a/b/memory.max", "1073741824\n");
    ck_assert_uint_eq(limit_with("0::/a/b\n"), 1ull << 30);
    ck_assert_uint_eq(limit_with("0::/a\n"), 2ull << 30);
    ck_assert_uint_eq(limit_with("0::/\n"), MACHINE);
    make_file("cgroup/memory.max", "536870912\n"); /* as in a container */
    ck_assert_uint_eq(limit_with("0::/\n"), 512ull << 20);
    ck_assert_uint_eq(limit_with("0::/a/b\n"), 512ull << 20);
}
END_TEST

START_TEST(version_one_has_a_hierarchy_for_memory)
{
    make_file("cgroup/memory/job/memory.limit_in_bytes", "1073741824\n");
    make_file("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    ck_assert_uint_eq(limit_with("9:cpu:/job\n7:memory:/job\n1:name=systemd:/x\n0::/y\n"),
                      1ull << 30);
    ck_assert_uint_eq(limit_with("9:cpu:/job\n7:memory:/\n"), MACHINE);
}
END_TEST

START_TEST(a_limit_that_makes_no_sense_is_none)
{
    static const char *const texts[] = {"", "0\n", "-1\n", "lots\n", "99999999999999999999999\n"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        make_file("cgroup/a/memory.max", texts[i]);
        ck_assert_uint_eq(limit_with("0::/a\n"), MACHINE);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory");
    TCase *tests = tcase_create("memory");
    tcase_add_checked_fixture(tests, make_dir, remove_dir);
    tcase_add_test(tests, without_groups_the_machine_counts);
    tcase_add_test(tests, the_least_limit_of_a_group_and_all_above_counts);
    tcase_add_test(tests, version_one_has_a_hierarchy_for_memory);
    tcase_add_test(tests, a_limit_that_makes_no_sense_is_none);
    tcase_add_test(tests, what_was_not_told_is_at_most_a_third_of_the_memory);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
