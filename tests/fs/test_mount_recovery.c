/*
 * tests/fs/test_mount_recovery.c: the daemon ends at the wrong moment.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/record.h"
#include "one_mount.h"
#include "tests/run.h"

/* Keys of a type in the image, which is not mounted. */
static unsigned count_keys(enum fs_key_type type)
{
    const uint8_t prefix = (uint8_t)type;
    const struct kv_open_options options = {.read_only = true};
    struct kv_error error = {.text = ""};
    struct kv_store *store;
    struct kv_cursor *cursor;
    unsigned count = 0;
    const int err = kv_open(mount.image, &options, &store, &error);
    ck_assert_msg(err == 0, "%s", error.text);
    ck_assert_int_eq(kv_cursor_open_prefix(store, &prefix, 1, &cursor), 0);
    for (int more = kv_cursor_first(cursor); more == 0; more = kv_cursor_next(cursor))
        count++;
    kv_cursor_close(cursor);
    ck_assert_int_eq(kv_close(store), 0);
    return count;
}

/* A file of a few records, which stays open. */
static int make_large(const char *name)
{
    static char bytes[1 << 20];
    const int fd = open(at(name), O_CREAT | O_RDWR, 0644);
    ck_assert_int_ge(fd, 0);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(write(fd, bytes, sizeof bytes), (ssize_t)sizeof bytes);
    ck_assert_int_eq(fsetxattr(fd, "user.note", "x", 1, 0), 0);
    return fd;
}

START_TEST(a_deleted_open_file_is_cleared_away_after_a_crash)
{
    const int large = make_large("large");
    const int small = open(at("small"), O_CREAT | O_RDWR, 0644);
    ck_assert_int_eq(write(small, "inline", 6), 6);
    ck_assert_int_eq(unlink(at("large")), 0);
    ck_assert_int_eq(unlink(at("small")), 0);
    ck_assert_int_eq(fsync(small), 0);
    test_mount_kill(&mount);
    close(large);
    close(small);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 2);
    ck_assert_uint_gt(count_keys(FS_KEY_DATA), 0);

    test_mount_start(&mount);
    ck_assert_int_eq(test_mount_unmount(&mount), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_DATA), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_XATTR), 0);
}
END_TEST

START_TEST(nothing_is_left_of_deleted_files_after_a_clean_end)
{
    const int large = make_large("large");
    ck_assert_int_eq(link(at("large"), at("linked")), 0);
    ck_assert_int_eq(mkdir(at("dir"), 0755), 0);
    ck_assert_int_eq(unlink(at("large")), 0);
    ck_assert_int_eq(unlink(at("linked")), 0);
    ck_assert_int_eq(rmdir(at("dir")), 0);
    close(large);
    ck_assert_int_eq(test_mount_unmount(&mount), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_ORPHAN), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_DATA), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_XATTR), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_ENTRY), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_PARENT), 0);
    ck_assert_uint_eq(count_keys(FS_KEY_INODE), 1);
}
END_TEST

START_TEST(what_was_synced_survives_the_daemon)
{
    char buf[16] = "";
    int fd = open(at("synced"), O_CREAT | O_RDWR, 0644);
    ck_assert_int_eq(write(fd, "kept", 4), 4);
    ck_assert_int_eq(fsync(fd), 0);
    const int last = open(at("later"), O_CREAT | O_RDWR, 0644); /* promised nothing */
    test_mount_kill(&mount);
    close(fd);
    close(last);
    test_mount_start(&mount);
    fd = open(at("synced"), O_RDONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(read(fd, buf, sizeof buf), 4);
    ck_assert_str_eq(buf, "kept");
    close(fd);
}
END_TEST

START_TEST(inode_numbers_are_not_used_twice_over_a_crash)
{
    struct stat before, after;
    int fd = open(at("first"), O_CREAT | O_RDWR, 0644);
    ck_assert_int_eq(fstat(fd, &before), 0);
    ck_assert_int_eq(fsync(fd), 0);
    test_mount_kill(&mount);
    close(fd);
    test_mount_start(&mount);
    fd = open(at("second"), O_CREAT | O_RDWR, 0644);
    ck_assert_int_eq(fstat(fd, &after), 0);
    close(fd);
    ck_assert_uint_gt(after.st_ino, before.st_ino);
}
END_TEST

START_TEST(a_signal_ends_the_daemon_as_unmounting_does)
{
    int status;
    const int fd = open(at("file"), O_CREAT | O_RDWR, 0644);
    ck_assert_int_eq(write(fd, "text", 4), 4);
    close(fd);
    ck_assert_int_eq(kill(mount.daemon, SIGTERM), 0);
    ck_assert_int_eq(waitpid(mount.daemon, &status, 0), mount.daemon);
    mount.daemon = 0;
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(access(at("file"), F_OK), -1); /* the mount is gone */
    test_mount_start(&mount);
    ck_assert_int_eq(access(at("file"), F_OK), 0);
}
END_TEST

START_TEST(a_signal_ends_the_daemon_also_while_files_are_open)
{
    int status;
    const int fd = open(at("held"), O_CREAT | O_RDWR, 0644);
    ck_assert_int_eq(write(fd, "text", 4), 4);
    ck_assert_int_eq(kill(mount.daemon, SIGTERM), 0);
    ck_assert_int_eq(waitpid(mount.daemon, &status, 0), mount.daemon);
    mount.daemon = 0;
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(write(fd, "more", 4), -1);
    close(fd);
    test_mount_start(&mount);
    ck_assert_int_eq(access(at("held"), F_OK), 0);
}
END_TEST

int main(void)
{
    if (!test_mount_possible())
        return 0;
    Suite *suite = suite_create("mount_recovery");
    TCase *tcase = tcase_create("recovery");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_deleted_open_file_is_cleared_away_after_a_crash);
    tcase_add_test(tcase, nothing_is_left_of_deleted_files_after_a_clean_end);
    tcase_add_test(tcase, what_was_synced_survives_the_daemon);
    tcase_add_test(tcase, inode_numbers_are_not_used_twice_over_a_crash);
    tcase_add_test(tcase, a_signal_ends_the_daemon_as_unmounting_does);
    tcase_add_test(tcase, a_signal_ends_the_daemon_also_while_files_are_open);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
