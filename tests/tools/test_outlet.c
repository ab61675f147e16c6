/*
 * tests/tools/test_outlet.c: what is written has its name when it is whole, and then durably.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/run.h"
#include "tools/outlet.h"

static char top[64], target[80];

static void setup(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(top, sizeof top, "%s/outlet-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(top));
    snprintf(target, sizeof target, "%s/target", top);
}

/* ---- what reaches the disk, in its order: fsync and rename in place of the C library's --------
 */

static char calls[256];
static int fsync_errno; /* of files; 0: it works */

int fsync(int fd)
{
    struct stat status;
    if (fstat(fd, &status))
        return -1;
    strcat(calls, S_ISDIR(status.st_mode) ? "directory " : "file ");
    if (!S_ISDIR(status.st_mode) && fsync_errno) {
        errno = fsync_errno;
        return -1;
    }
    return 0;
}

int rename(const char *from, const char *to)
{
    strcat(calls, "rename ");
    return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

/* ---- what is there --------------------------------------------------------------------------- */

static size_t count_names(void)
{
    struct dirent **entries;
    const int count = scandir(top, &entries, NULL, NULL);
    ck_assert_int_ge(count, 2);
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return (size_t)count - 2;
}

static void holds(const char *path, const char *content)
{
    char found[64] = "";
    const int fd = open(path, O_RDONLY);
    ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
    ck_assert_int_ge(read(fd, found, sizeof found - 1), 0);
    close(fd);
    ck_assert_str_eq(found, content);
}

static void fill(const char *path, const char *content)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_eq(write(fd, content, strlen(content)), (ssize_t)strlen(content));
    close(fd);
}

static void put(struct tool_outlet *outlet, const char *content)
{
    ck_assert_int_eq(write(outlet->fd, content, strlen(content)), (ssize_t)strlen(content));
}

START_TEST(a_file_appears_when_it_is_whole_and_durable)
{
    struct tool_outlet outlet;
    (void)umask(027);
    fill(target, "old");
    ck_assert_int_eq(tool_outlet_open(&outlet, target), 0);
    put(&outlet, "new");
    holds(target, "old");
    ck_assert_int_eq(tool_outlet_close(&outlet, 0), 0);
    holds(target, "new");
    ck_assert_str_eq(calls, "file rename directory ");
    ck_assert_uint_eq(count_names(), 1);
    struct stat status;
    ck_assert_int_eq(stat(target, &status), 0);
    ck_assert_uint_eq(status.st_mode & 07777, 0640);
}
END_TEST

START_TEST(a_stream_is_written_out_before)
{
    struct tool_outlet outlet;
    ck_assert_int_eq(tool_outlet_open(&outlet, target), 0);
    ck_assert_int_ge(fputs("by a stream", tool_outlet_stream(&outlet)), 0);
    ck_assert_int_eq(tool_outlet_close(&outlet, 0), 0);
    holds(target, "by a stream");
}
END_TEST

START_TEST(a_name_without_a_directory_is_one)
{
    struct tool_outlet outlet;
    ck_assert_int_eq(chdir(top), 0);
    ck_assert_int_eq(tool_outlet_open(&outlet, "here"), 0);
    put(&outlet, "new");
    ck_assert_int_eq(tool_outlet_close(&outlet, 0), 0);
    holds("here", "new");
    ck_assert_str_eq(calls, "file rename directory ");
}
END_TEST

START_TEST(a_name_may_be_as_long_as_names_are)
{
    struct tool_outlet outlet;
    char path[400];
    snprintf(path, sizeof path, "%s/%0255d", top, 7);
    ck_assert_int_eq(tool_outlet_open(&outlet, path), 0);
    put(&outlet, "new");
    ck_assert_int_eq(tool_outlet_close(&outlet, 0), 0);
    holds(path, "new");
}
END_TEST

START_TEST(nothing_is_left_of_what_is_not_whole)
{
    struct tool_outlet outlet;
    ck_assert_int_eq(tool_outlet_open(&outlet, target), 0);
    put(&outlet, "half");
    ck_assert_int_eq(tool_outlet_close(&outlet, -EBADMSG), -EBADMSG);
    fsync_errno = ENOSPC;
    ck_assert_int_eq(tool_outlet_open(&outlet, target), 0);
    ck_assert_int_eq(tool_outlet_close(&outlet, 0), -ENOSPC);
    ck_assert_uint_eq(count_names(), 0);
    ck_assert_int_eq(tool_outlet_open(&outlet, "/nowhere/at/all"), -ENOENT);
    ck_assert_int_eq(tool_outlet_close(&outlet, -ENOENT), -ENOENT);
}
END_TEST

START_TEST(what_someone_has_put_there_is_not_written_into)
{
    struct tool_outlet one, other;
    char part[100], victim[100];
    snprintf(part, sizeof part, "%s.part", target);
    snprintf(victim, sizeof victim, "%s/victim", top);
    fill(victim, "untouched");
    ck_assert_int_eq(symlink(victim, part), 0);
    ck_assert_int_eq(tool_outlet_open(&one, target), 0);
    ck_assert_int_eq(tool_outlet_open(&other, target), 0);
    put(&one, "one");
    put(&other, "other");
    ck_assert_int_eq(tool_outlet_close(&one, 0), 0);
    holds(target, "one");
    ck_assert_int_eq(tool_outlet_close(&other, 0), 0);
    holds(target, "other");
    holds(victim, "untouched");
}
END_TEST

START_TEST(what_is_no_file_is_written_to_as_it_is)
{
    struct tool_outlet outlet;
    ck_assert_int_eq(tool_outlet_open(&outlet, "/dev/null"), 0);
    put(&outlet, "nothing");
    ck_assert_int_eq(tool_outlet_close(&outlet, 0), 0);
    ck_assert_int_eq(tool_outlet_open(&outlet, "-"), 0);
    ck_assert_int_eq(outlet.fd, STDOUT_FILENO);
    ck_assert_ptr_eq(tool_outlet_stream(&outlet), stdout);
    ck_assert_int_eq(tool_outlet_close(&outlet, 0), 0);
    ck_assert_int_ge(fcntl(STDOUT_FILENO, F_GETFD), 0);
    ck_assert_ptr_null(strstr(calls, "rename"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("outlet");
    TCase *cases = tcase_create("outlet");
    tcase_add_checked_fixture(cases, setup, NULL);
    tcase_add_test(cases, a_file_appears_when_it_is_whole_and_durable);
    tcase_add_test(cases, a_stream_is_written_out_before);
    tcase_add_test(cases, a_name_without_a_directory_is_one);
    tcase_add_test(cases, a_name_may_be_as_long_as_names_are);
    tcase_add_test(cases, nothing_is_left_of_what_is_not_whole);
    tcase_add_test(cases, what_someone_has_put_there_is_not_written_into);
    tcase_add_test(cases, what_is_no_file_is_written_to_as_it_is);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
