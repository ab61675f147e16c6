/*
 * tests/fs/test_mount_namespace.c: names, through the kernel.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "one_mount.h"
#include "tests/run.h"

static void put(const char *name, const char *text)
{
    const int fd = open(at(name), O_CREAT | O_TRUNC | O_WRONLY, 0644);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    ck_assert_int_eq(close(fd), 0);
}

static void expect(const char *name, const char *text)
{
    char buf[256] = "";
    const int fd = open(at(name), O_RDONLY);
    ck_assert_msg(fd >= 0, "%s: %s", name, strerror(errno));
    const ssize_t got = read(fd, buf, sizeof buf - 1);
    ck_assert_int_ge(got, 0);
    close(fd);
    ck_assert_str_eq(buf, text);
}

static void expect_absent(const char *name)
{
    struct stat st;
    ck_assert_int_eq(lstat(at(name), &st), -1);
    ck_assert_int_eq(errno, ENOENT);
}

static struct stat stat_of(const char *name)
{
    struct stat st;
    ck_assert_msg(lstat(at(name), &st) == 0, "%s: %s", name, strerror(errno));
    return st;
}

START_TEST(a_file_is_what_was_written_to_it)
{
    put("written", "some text");
    expect("written", "some text");
    ck_assert_int_eq(stat_of("written").st_size, 9);
    ck_assert_int_eq(unlink(at("written")), 0);
    expect_absent("written");
}
END_TEST

START_TEST(every_type_of_node_can_be_made)
{
    ck_assert_int_eq(mkfifo(at("fifo"), 0600), 0);
    ck_assert_int_eq(mknod(at("socket"), S_IFSOCK | 0600, 0), 0);
    ck_assert_int_eq(mknod(at("char"), S_IFCHR | 0600, makedev(5, 300)), 0);
    ck_assert_int_eq(mknod(at("block"), S_IFBLK | 0600, makedev(259, 7)), 0);
    ck_assert_int_eq(symlink("some/where", at("link")), 0);

    ck_assert(S_ISFIFO(stat_of("fifo").st_mode));
    ck_assert(S_ISSOCK(stat_of("socket").st_mode));
    ck_assert(S_ISCHR(stat_of("char").st_mode));
    ck_assert_uint_eq(stat_of("char").st_rdev, makedev(5, 300));
    ck_assert(S_ISBLK(stat_of("block").st_mode));
    ck_assert_uint_eq(stat_of("block").st_rdev, makedev(259, 7));
    ck_assert(S_ISLNK(stat_of("link").st_mode));
    ck_assert_int_eq(stat_of("link").st_size, 10);
}
END_TEST

START_TEST(symlinks_of_every_length_read_back)
{
    const size_t lengths[] = {1, 255, 256, 257, 4000, 4095};
    char target[4097], back[4097];
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memset(target, 'a' + (int)i, lengths[i]);
        target[lengths[i]] = '\0';
        ck_assert_int_eq(symlink(target, at("long")), 0);
        const ssize_t got = readlink(at("long"), back, sizeof back);
        ck_assert_int_eq(got, (ssize_t)lengths[i]);
        ck_assert_int_eq(memcmp(back, target, lengths[i]), 0);
        ck_assert_int_eq(unlink(at("long")), 0);
    }
}
END_TEST

START_TEST(names_have_at_most_255_bytes)
{
    char name[257];
    memset(name, 'n', sizeof name);
    name[255] = '\0';
    put(name, "x");
    expect(name, "x");
    name[255] = 'n';
    name[256] = '\0';
    ck_assert_int_eq(mkdir(at(name), 0755), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    ck_assert_int_eq(open(at(name), O_CREAT | O_RDWR, 0644), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    struct stat st;
    ck_assert_int_eq(lstat(at(name), &st), -1);
    ck_assert_int_eq(errno, ENAMETOOLONG);
    name[255] = '\0';
    ck_assert_int_eq(unlink(at(name)), 0);
}
END_TEST

START_TEST(names_may_hold_any_byte_but_slash_and_nul)
{
    char name[256];
    for (int i = 1, n = 0; i < 256; i++) {
        if (i == '/')
            continue;
        name[n++] = (char)i;
        name[n] = '\0';
    }
    put(name, "odd");
    expect(name, "odd");
    ck_assert_int_eq(unlink(at(name)), 0);
}
END_TEST

START_TEST(a_directory_counts_its_subdirectories)
{
    ck_assert_int_eq(mkdir(at("dir"), 0755), 0);
    ck_assert_uint_eq(stat_of("dir").st_nlink, 2);
    ck_assert_int_eq(mkdir(at("dir/a"), 0755), 0);
    ck_assert_int_eq(mkdir(at("dir/b"), 0755), 0);
    put("dir/file", "");
    ck_assert_uint_eq(stat_of("dir").st_nlink, 4);
    ck_assert_int_eq(rmdir(at("dir")), -1);
    ck_assert_int_eq(errno, ENOTEMPTY);
    ck_assert_int_eq(rmdir(at("dir/a")), 0);
    ck_assert_uint_eq(stat_of("dir").st_nlink, 3);
    ck_assert_int_eq(rmdir(at("dir/b")), 0);
    ck_assert_int_eq(rmdir(at("dir/file")), -1);
    ck_assert_int_eq(errno, ENOTDIR);
    ck_assert_int_eq(unlink(at("dir/file")), 0);
    ck_assert_int_eq(unlink(at("dir")), -1);
    ck_assert_int_eq(errno, EISDIR);
    ck_assert_int_eq(rmdir(at("dir")), 0);
    expect_absent("dir");
}
END_TEST

START_TEST(a_name_that_is_taken_is_not_made_again)
{
    put("taken", "first");
    ck_assert_int_eq(mkdir(at("taken"), 0755), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(symlink("x", at("taken")), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(open(at("taken"), O_CREAT | O_EXCL | O_WRONLY, 0644), -1);
    ck_assert_int_eq(errno, EEXIST);
    expect("taken", "first");
    ck_assert_int_eq(unlink(at("taken")), 0);
}
END_TEST

START_TEST(hard_links_share_one_inode)
{
    put("one", "shared");
    ck_assert_int_eq(mkdir(at("other"), 0755), 0);
    ck_assert_int_eq(link(at("one"), at("other/two")), 0);
    ck_assert_int_eq(link(at("other/two"), at("three")), 0);
    ck_assert_uint_eq(stat_of("one").st_nlink, 3);
    ck_assert_uint_eq(stat_of("one").st_ino, stat_of("other/two").st_ino);
    put("three", "changed");
    expect("one", "changed");
    ck_assert_int_eq(unlink(at("one")), 0);
    ck_assert_uint_eq(stat_of("three").st_nlink, 2);
    ck_assert_int_eq(rename(at("three"), at("other/three")), 0);
    ck_assert_int_eq(unlink(at("other/two")), 0);
    ck_assert_uint_eq(stat_of("other/three").st_nlink, 1);
    expect("other/three", "changed");
    ck_assert_int_eq(rename(at("other/three"), at("four")), 0);
    expect("four", "changed");
    ck_assert_int_eq(unlink(at("four")), 0);
    ck_assert_int_eq(link(at("other"), at("directory")), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(rmdir(at("other")), 0);
}
END_TEST

START_TEST(rename_moves_and_replaces)
{
    put("old", "content of old");
    put("new", "content of new");
    const ino_t ino = stat_of("old").st_ino;
    ck_assert_int_eq(rename(at("old"), at("new")), 0);
    expect_absent("old");
    expect("new", "content of old");
    ck_assert_uint_eq(stat_of("new").st_ino, ino);
    ck_assert_int_eq(unlink(at("new")), 0);
}
END_TEST

START_TEST(rename_of_two_names_of_one_file_does_nothing)
{
    put("a-name", "x");
    ck_assert_int_eq(link(at("a-name"), at("b-name")), 0);
    ck_assert_int_eq(rename(at("a-name"), at("b-name")), 0);
    ck_assert_uint_eq(stat_of("a-name").st_nlink, 2);
    ck_assert_int_eq(unlink(at("a-name")), 0);
    ck_assert_int_eq(unlink(at("b-name")), 0);
}
END_TEST

START_TEST(rename_obeys_its_flags)
{
    put("left", "L");
    put("right", "R");
    ck_assert_int_eq(renameat2(AT_FDCWD, at("left"), AT_FDCWD, at("right"), RENAME_NOREPLACE), -1);
    ck_assert_int_eq(errno, EEXIST);
    ck_assert_int_eq(renameat2(AT_FDCWD, at("left"), AT_FDCWD, at("right"), RENAME_EXCHANGE), 0);
    expect("left", "R");
    expect("right", "L");
    ck_assert_int_eq(renameat2(AT_FDCWD, at("left"), AT_FDCWD, at("gone"), RENAME_EXCHANGE), -1);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_int_eq(renameat2(AT_FDCWD, at("left"), AT_FDCWD, at("gone"), RENAME_NOREPLACE), 0);
    expect("gone", "R");
    ck_assert_int_eq(unlink(at("gone")), 0);
    ck_assert_int_eq(unlink(at("right")), 0);
}
END_TEST

START_TEST(directories_move_with_all_in_them)
{
    ck_assert_int_eq(mkdir(at("from"), 0755), 0);
    ck_assert_int_eq(mkdir(at("to"), 0755), 0);
    ck_assert_int_eq(mkdir(at("from/dir"), 0755), 0);
    put("from/dir/file", "inside");
    ck_assert_int_eq(rename(at("from/dir"), at("to/moved")), 0);
    expect("to/moved/file", "inside");
    ck_assert_uint_eq(stat_of("from").st_nlink, 2);
    ck_assert_uint_eq(stat_of("to").st_nlink, 3);
    ck_assert_uint_eq(stat_of("to/moved/..").st_ino, stat_of("to").st_ino);

    ck_assert_int_eq(rename(at("to"), at("to/moved/deeper")), -1);
    ck_assert_int_eq(errno, EINVAL);
    put("plain", "p");
    ck_assert_int_eq(rename(at("to"), at("plain")), -1);
    ck_assert_int_eq(errno, ENOTDIR);
    ck_assert_int_eq(rename(at("plain"), at("to")), -1);
    ck_assert_int_eq(errno, EISDIR);
    ck_assert_int_eq(rename(at("from"), at("to")), -1);
    ck_assert_int_eq(errno, ENOTEMPTY);

    /* A directory and a file change places over two parents. */
    ck_assert_int_eq(renameat2(AT_FDCWD, at("to/moved"), AT_FDCWD, at("from"), RENAME_EXCHANGE), 0);
    expect("from/file", "inside");
    ck_assert_uint_eq(stat_of("to").st_nlink, 3);
    ck_assert_int_eq(renameat2(AT_FDCWD, at("to/moved"), AT_FDCWD, at("plain"), RENAME_EXCHANGE),
                     0);
    expect("to/moved", "p");
    ck_assert_uint_eq(stat_of("to").st_nlink, 2);
    ck_assert_int_eq(rename(at("plain"), at("to/empty")), 0);
    ck_assert_uint_eq(stat_of("to").st_nlink, 3);
    ck_assert_int_eq(rmdir(at("to/empty")), 0);
    ck_assert_int_eq(unlink(at("to/moved")), 0);
    ck_assert_int_eq(rmdir(at("to")), 0);
    ck_assert_int_eq(unlink(at("from/file")), 0);
    ck_assert_int_eq(rmdir(at("from")), 0);
}
END_TEST

START_TEST(an_empty_directory_may_be_replaced_by_one)
{
    ck_assert_int_eq(mkdir(at("full"), 0755), 0);
    ck_assert_int_eq(mkdir(at("empty"), 0755), 0);
    put("full/file", "kept");
    const nlink_t before = stat_of("").st_nlink;
    ck_assert_int_eq(rename(at("full"), at("empty")), 0);
    expect("empty/file", "kept");
    ck_assert_uint_eq(stat_of("").st_nlink, before - 1);
    ck_assert_int_eq(unlink(at("empty/file")), 0);
    ck_assert_int_eq(rmdir(at("empty")), 0);
}
END_TEST

START_TEST(an_open_file_outlives_its_name)
{
    char buf[16] = "";
    put("doomed", "still here");
    const int fd = open(at("doomed"), O_RDWR);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(unlink(at("doomed")), 0);
    expect_absent("doomed");
    put("doomed", "another");
    ck_assert_int_eq(pread(fd, buf, sizeof buf, 0), 10);
    ck_assert_str_eq(buf, "still here");
    ck_assert_int_eq(pwrite(fd, "STILL", 5, 0), 5);
    ck_assert_int_eq(ftruncate(fd, 5), 0);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_eq(st.st_nlink, 0);
    ck_assert_int_eq(st.st_size, 5);
    ck_assert_int_eq(fchmod(fd, 0600), 0);
    close(fd);
    expect("doomed", "another");
    ck_assert_int_eq(unlink(at("doomed")), 0);
}
END_TEST

START_TEST(a_replaced_open_file_keeps_its_content)
{
    char buf[16] = "";
    put("target", "before");
    put("source", "after");
    const int fd = open(at("target"), O_RDONLY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(rename(at("source"), at("target")), 0);
    ck_assert_int_eq(pread(fd, buf, sizeof buf, 0), 6);
    ck_assert_str_eq(buf, "before");
    close(fd);
    expect("target", "after");
    ck_assert_int_eq(unlink(at("target")), 0);
}
END_TEST

START_TEST(nothing_is_made_in_a_removed_directory)
{
    ck_assert_int_eq(mkdir(at("removed"), 0755), 0);
    const int fd = open(at("removed"), O_RDONLY | O_DIRECTORY);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(rmdir(at("removed")), 0);
    ck_assert_int_eq(openat(fd, "file", O_CREAT | O_WRONLY, 0644), -1);
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_int_eq(mkdirat(fd, "dir", 0755), -1);
    ck_assert_int_eq(errno, ENOENT);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    close(fd);
}
END_TEST

START_TEST(a_file_without_a_name_can_be_given_one)
{
    char proc[64], buf[16] = "";
    int fd = open(mount.dir, O_TMPFILE | O_RDWR, 0640);
    ck_assert_msg(fd >= 0, "O_TMPFILE: %s", strerror(errno));
    ck_assert_int_eq(write(fd, "unnamed", 7), 7);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_eq(st.st_nlink, 0);
    ck_assert_int_eq(st.st_size, 7);
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    ck_assert_int_eq(linkat(AT_FDCWD, proc, AT_FDCWD, at("named"), AT_SYMLINK_FOLLOW), 0);
    close(fd);
    expect("named", "unnamed");
    ck_assert_uint_eq(stat_of("named").st_nlink, 1);
    ck_assert_uint_eq(stat_of("named").st_mode & 07777, 0640);
    ck_assert_int_eq(unlink(at("named")), 0);

    /* And one that gets none just goes. */
    fd = open(mount.dir, O_TMPFILE | O_RDWR, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, "lost", 4), 4);
    ck_assert_int_eq(pread(fd, buf, 4, 0), 4);
    close(fd);
}
END_TEST

int main(void)
{
    if (!test_mount_possible())
        return 0;
    Suite *suite = suite_create("mount_namespace");
    TCase *tcase = tcase_create("names");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_file_is_what_was_written_to_it);
    tcase_add_test(tcase, every_type_of_node_can_be_made);
    tcase_add_test(tcase, symlinks_of_every_length_read_back);
    tcase_add_test(tcase, names_have_at_most_255_bytes);
    tcase_add_test(tcase, names_may_hold_any_byte_but_slash_and_nul);
    tcase_add_test(tcase, a_directory_counts_its_subdirectories);
    tcase_add_test(tcase, a_name_that_is_taken_is_not_made_again);
    tcase_add_test(tcase, hard_links_share_one_inode);
    tcase_add_test(tcase, rename_moves_and_replaces);
    tcase_add_test(tcase, rename_of_two_names_of_one_file_does_nothing);
    tcase_add_test(tcase, rename_obeys_its_flags);
    tcase_add_test(tcase, directories_move_with_all_in_them);
    tcase_add_test(tcase, an_empty_directory_may_be_replaced_by_one);
    tcase_add_test(tcase, an_open_file_outlives_its_name);
    tcase_add_test(tcase, a_replaced_open_file_keeps_its_content);
    tcase_add_test(tcase, nothing_is_made_in_a_removed_directory);
    tcase_add_test(tcase, a_file_without_a_name_can_be_given_one);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
