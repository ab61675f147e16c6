/* Tests of tests/run.c: what a failed test leaves behind, files and mounts, goes with it. */
#include "tests/run.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Leaves a file, a mount and a mount in it, and fails. */
START_TEST(leaves_everything_behind)
{
    char path[256];
    snprintf(path, sizeof path, "%s/mnt", getenv("TMPDIR"));
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert_int_eq(mount("none", path, "tmpfs", 0, NULL), 0);
    snprintf(path, sizeof path, "%s/mnt/inner", getenv("TMPDIR"));
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert_int_eq(mount("none", path, "tmpfs", 0, NULL), 0);
    snprintf(path, sizeof path, "%s/mnt/inner/file", getenv("TMPDIR"));
    FILE *const file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    (void)fclose(file);
    _exit(1);
}
END_TEST

static Suite *careless(void)
{
    Suite *const suite = suite_create("careless");
    TCase *const tcase = tcase_create("leaves");
    tcase_add_test(tcase, leaves_everything_behind);
    suite_add_tcase(suite, tcase);
    return suite;
}

static size_t entries_in(const char *path)
{
    DIR *const directory = opendir(path);
    ck_assert_ptr_nonnull(directory);
    size_t count = 0;
    for (const struct dirent *entry; (entry = readdir(directory));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}

START_TEST(a_failed_test_leaves_no_file_and_no_mount)
{
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        (void)setenv("CK_VERBOSITY", "silent", 1);
        _exit(test_run(careless()));
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), EXIT_FAILURE);
    ck_assert_uint_eq(entries_in(getenv("TMPDIR")), 0);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("run");
    TCase *const tcase = tcase_create("clean-up");
    if (geteuid() == 0) /* a plain user can not mount a tmpfs */
        tcase_add_test(tcase, a_failed_test_leaves_no_file_and_no_mount);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
