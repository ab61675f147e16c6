/*
 * tests/fs/test_mount_attributes.c: modes, owners, times, extended attributes, ACLs, space.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/acl.h"
#include "one_mount.h"
#include "tests/run.h"

#define OTHER_USER  4711u
#define OTHER_GROUP 4712u

static void make(const char *name, mode_t mode)
{
    const int fd = open(at(name), O_CREAT | O_EXCL | O_WRONLY, 0600);
    ck_assert_msg(fd >= 0, "%s: %s", name, strerror(errno));
    ck_assert_int_eq(write(fd, "text", 4), 4);
    ck_assert_int_eq(fchmod(fd, mode), 0);
    close(fd);
}

static struct stat stat_of(const char *name)
{
    struct stat st;
    ck_assert_msg(lstat(at(name), &st) == 0, "%s: %s", name, strerror(errno));
    return st;
}

static mode_t mode_of(const char *name)
{
    return stat_of(name).st_mode & 07777;
}

START_TEST(modes_and_owners_are_kept)
{
    make("owned", 06751);
    ck_assert_uint_eq(mode_of("owned"), 06751);
    ck_assert_int_eq(lchown(at("owned"), 12, 0xfffffffe), 0);
    ck_assert_uint_eq(stat_of("owned").st_uid, 12);
    ck_assert_uint_eq(stat_of("owned").st_gid, 0xfffffffe);
    ck_assert_uint_eq(mode_of("owned"), 0751); /* a change of owner ends setuid and setgid */
    ck_assert_int_eq(unlink(at("owned")), 0);
}
END_TEST

START_TEST(the_umask_counts_once)
{
    const mode_t old = umask(027);
    ck_assert_int_eq(mkdir(at("masked-dir"), 0777), 0);
    const int fd = open(at("masked"), O_CREAT | O_WRONLY, 0666);
    close(fd);
    umask(old);
    ck_assert_uint_eq(mode_of("masked-dir"), 0750);
    ck_assert_uint_eq(mode_of("masked"), 0640);
    ck_assert_int_eq(rmdir(at("masked-dir")), 0);
    ck_assert_int_eq(unlink(at("masked")), 0);
}
END_TEST

START_TEST(a_setgid_directory_hands_on_its_group)
{
    ck_assert_int_eq(mkdir(at("team"), 0755), 0);
    ck_assert_int_eq(chown(at("team"), 0, OTHER_GROUP), 0);
    ck_assert_int_eq(chmod(at("team"), 02775), 0);
    make("team/file", 0644);
    ck_assert_int_eq(mkdir(at("team/sub"), 0755), 0);
    ck_assert_uint_eq(stat_of("team/file").st_gid, OTHER_GROUP);
    ck_assert_uint_eq(stat_of("team/sub").st_gid, OTHER_GROUP);
    ck_assert_uint_eq(mode_of("team/sub"), 02755);
    ck_assert_int_eq(rmdir(at("team/sub")), 0);
    ck_assert_int_eq(unlink(at("team/file")), 0);
    ck_assert_int_eq(rmdir(at("team")), 0);
}
END_TEST

START_TEST(times_have_nanoseconds_and_reach_back_before_1970)
{
    const struct timespec times[2] = {{.tv_sec = -123456, .tv_nsec = 987654321},
                                      {.tv_sec = 4102444800, .tv_nsec = 1}};
    make("timed", 0644);
    ck_assert_int_eq(utimensat(AT_FDCWD, at("timed"), times, 0), 0);
    struct stat st = stat_of("timed");
    ck_assert_int_eq(st.st_atim.tv_sec, -123456);
    ck_assert_int_eq(st.st_atim.tv_nsec, 987654321);
    ck_assert_int_eq(st.st_mtim.tv_sec, 4102444800);
    ck_assert_int_eq(st.st_mtim.tv_nsec, 1);

    const struct timespec omit[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
    const time_t before = time(NULL);
    ck_assert_int_eq(utimensat(AT_FDCWD, at("timed"), omit, 0), 0);
    st = stat_of("timed");
    ck_assert_int_eq(st.st_atim.tv_sec, -123456);
    ck_assert_int_ge(st.st_mtim.tv_sec, before - 1);
    ck_assert_int_ge(st.st_ctim.tv_sec, before - 1);
    ck_assert_int_eq(unlink(at("timed")), 0);
}
END_TEST

START_TEST(the_birth_time_stays)
{
    struct statx first, later;
    make("born", 0644);
    ck_assert_int_eq(statx(AT_FDCWD, at("born"), 0, STATX_BASIC_STATS | STATX_BTIME, &first), 0);
    ck_assert_msg(first.stx_mask & STATX_BTIME, "no birth time");
    ck_assert_int_gt(first.stx_btime.tv_sec, 1700000000);
    usleep(20 * 1000);
    ck_assert_int_eq(chmod(at("born"), 0600), 0);
    ck_assert_int_eq(rename(at("born"), at("moved")), 0);
    ck_assert_int_eq(statx(AT_FDCWD, at("moved"), 0, STATX_BASIC_STATS | STATX_BTIME, &later), 0);
    ck_assert_int_eq(first.stx_btime.tv_sec, later.stx_btime.tv_sec);
    ck_assert_uint_eq(first.stx_btime.tv_nsec, later.stx_btime.tv_nsec);
    ck_assert_uint_eq(later.stx_mode & 07777, 0600);
    ck_assert_int_eq(unlink(at("moved")), 0);
}
END_TEST

START_TEST(what_changes_a_directory_changes_its_times)
{
    ck_assert_int_eq(mkdir(at("clock"), 0755), 0);
    const struct timespec past[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    ck_assert_int_eq(utimensat(AT_FDCWD, at("clock"), past, 0), 0);
    make("clock/file", 0644);
    ck_assert_int_gt(stat_of("clock").st_mtim.tv_sec, 1000);
    ck_assert_int_eq(utimensat(AT_FDCWD, at("clock"), past, 0), 0);
    ck_assert_int_eq(rename(at("clock/file"), at("clock/other")), 0);
    ck_assert_int_gt(stat_of("clock").st_mtim.tv_sec, 1000);
    ck_assert_int_eq(utimensat(AT_FDCWD, at("clock"), past, 0), 0);
    ck_assert_int_eq(unlink(at("clock/other")), 0);
    ck_assert_int_gt(stat_of("clock").st_mtim.tv_sec, 1000);
    ck_assert_int_eq(rmdir(at("clock")), 0);
}
END_TEST

/* ---- as another user -------------------------------------------------------------- */

static int try_others_files(void *context)
{
    (void)context;
    if (open(at("private"), O_RDONLY) != -1 || errno != EACCES)
        return 1;
    if (open(at("readable"), O_RDONLY) < 0)
        return 2;
    if (open(at("readable"), O_WRONLY) != -1 || errno != EACCES)
        return 3;
    if (unlink(at("readable")) != -1 || errno != EACCES)
        return 4;
    if (chmod(at("readable"), 0777) != -1 || errno != EPERM)
        return 5;
    if (unlink(at("sticky/file")) != -1 || errno != EPERM)
        return 6;
    if (mkdir(at("sticky/mine"), 0700) || rmdir(at("sticky/mine")))
        return 7;
    if (access(at("private"), R_OK) != -1 || errno != EACCES)
        return 8;
    return 0;
}

START_TEST(permissions_hold_for_other_users)
{
    make("private", 0600);
    make("readable", 0644);
    ck_assert_int_eq(mkdir(at("sticky"), 0755), 0);
    ck_assert_int_eq(chmod(at("sticky"), 01777), 0);
    make("sticky/file", 0666);
    ck_assert_int_eq(test_as_user(OTHER_USER, OTHER_GROUP, try_others_files, NULL), 0);
    ck_assert_int_eq(unlink(at("sticky/file")), 0);
    ck_assert_int_eq(rmdir(at("sticky")), 0);
    ck_assert_int_eq(unlink(at("private")), 0);
    ck_assert_int_eq(unlink(at("readable")), 0);
}
END_TEST

static int overwrite(void *context)
{
    const int fd = open(at(context), O_WRONLY);
    if (fd < 0)
        return 1;
    return pwrite(fd, "x", 1, 0) == 1 ? 0 : 2;
}

static int cut(void *context)
{
    return truncate(at(context), 1) ? 1 : 0;
}

START_TEST(a_write_by_others_ends_setuid_and_one_by_root_does_not)
{
    make("program", 0777);
    ck_assert_int_eq(chmod(at("program"), 06777), 0);
    ck_assert_int_eq(overwrite((void *)(uintptr_t) "program"), 0);
    ck_assert_uint_eq(mode_of("program"), 06777);
    ck_assert_int_eq(
        test_as_user(OTHER_USER, OTHER_GROUP, overwrite, (void *)(uintptr_t) "program"), 0);
    ck_assert_uint_eq(mode_of("program"), 0777);
    ck_assert_int_eq(chmod(at("program"), 06777), 0);
    ck_assert_int_eq(test_as_user(OTHER_USER, OTHER_GROUP, cut, (void *)(uintptr_t) "program"), 0);
    ck_assert_uint_eq(mode_of("program"), 0777);
    ck_assert_int_eq(unlink(at("program")), 0);
}
END_TEST

START_TEST(a_write_ends_file_capabilities)
{
    /* A version 2 capability set: cap_net_raw permitted and effective. */
    const uint8_t caps[20] = {1, 0, 0, 2, 0, 0x20};
    uint8_t back[64];
    make("capable", 0755);
    ck_assert_int_eq(setxattr(at("capable"), "security.capability", caps, sizeof caps, 0), 0);
    ck_assert_int_gt(getxattr(at("capable"), "security.capability", back, sizeof back), 0);
    ck_assert_int_eq(overwrite((void *)(uintptr_t) "capable"), 0);
    ck_assert_int_eq(getxattr(at("capable"), "security.capability", back, sizeof back), -1);
    ck_assert_int_eq(errno, ENODATA);
    ck_assert_int_eq(unlink(at("capable")), 0);
}
END_TEST

/* ---- extended attributes ------------------------------------------------------------- */

START_TEST(extended_attributes_of_every_size_are_kept)
{
    static char value[65536], back[65536];
    const size_t lengths[] = {0, 1, 300, 5000, 65536};
    make("attributed", 0644);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "user.size%zu", lengths[i]);
        memset(value, (int)('a' + i), sizeof value);
        ck_assert_int_eq(setxattr(at("attributed"), name, value, lengths[i], XATTR_CREATE), 0);
        ck_assert_int_eq(setxattr(at("attributed"), name, value, lengths[i], XATTR_CREATE), -1);
        ck_assert_int_eq(errno, EEXIST);
        ck_assert_int_eq(getxattr(at("attributed"), name, NULL, 0), (ssize_t)lengths[i]);
        ck_assert_int_eq(getxattr(at("attributed"), name, back, sizeof back), (ssize_t)lengths[i]);
        ck_assert_int_eq(memcmp(value, back, lengths[i]), 0);
    }
    const ssize_t listed = listxattr(at("attributed"), back, sizeof back);
    size_t names = 0;
    for (ssize_t i = 0; i < listed; i++)
        names += back[i] == '\0';
    ck_assert_uint_eq(names, sizeof lengths / sizeof lengths[0]);
    ck_assert_int_eq(getxattr(at("attributed"), "user.size300", back, 10), -1);
    ck_assert_int_eq(errno, ERANGE);
    ck_assert_int_eq(removexattr(at("attributed"), "user.size300"), 0);
    ck_assert_int_eq(removexattr(at("attributed"), "user.size300"), -1);
    ck_assert_int_eq(errno, ENODATA);
    ck_assert_int_eq(setxattr(at("attributed"), "user.none", "x", 1, XATTR_REPLACE), -1);
    ck_assert_int_eq(errno, ENODATA);
    ck_assert_int_eq(setxattr(at("attributed"), "other.name", "x", 1, 0), -1);
    ck_assert_int_eq(errno, EOPNOTSUPP);
    ck_assert_int_eq(link(at("attributed"), at("linked")), 0);
    ck_assert_int_eq(unlink(at("attributed")), 0);
    ck_assert_int_eq(getxattr(at("linked"), "user.size1", back, sizeof back), 1);
    ck_assert_int_eq(unlink(at("linked")), 0);
}
END_TEST

struct list {
    struct fs_disk_acl_header header;
    struct fs_disk_acl_entry entries[5];
};

static struct fs_disk_acl_entry entry_of(uint16_t tag, uint16_t perm, uint32_t id)
{
    return (struct fs_disk_acl_entry){
        .tag = kv_le16_of(tag), .perm = kv_le16_of(perm), .id = kv_le32_of(id)};
}

/* One more user may read and write; the mask is what the group bits show. */
static struct list list_for_user(uint32_t uid)
{
    return (struct list){
        .header = {.version = kv_le32_of(FS_ACL_VERSION)},
        .entries = {entry_of(FS_ACL_USER_OBJ, 6, FS_ACL_NO_ID), entry_of(FS_ACL_USER, 6, uid),
                    entry_of(FS_ACL_GROUP_OBJ, 4, FS_ACL_NO_ID),
                    entry_of(FS_ACL_MASK, 6, FS_ACL_NO_ID),
                    entry_of(FS_ACL_OTHER, 0, FS_ACL_NO_ID)},
    };
}

START_TEST(an_access_list_lets_one_more_user_in)
{
    const struct list list = list_for_user(OTHER_USER);
    char file[] = "listed";
    make(file, 0600);
    ck_assert_int_ne(test_as_user(OTHER_USER, OTHER_GROUP, overwrite, file), 0);
    ck_assert_int_eq(setxattr(at(file), "system.posix_acl_access", &list, sizeof list, 0), 0);
    ck_assert_uint_eq(mode_of(file), 0660);
    ck_assert_int_eq(test_as_user(OTHER_USER, OTHER_GROUP, overwrite, file), 0);
    ck_assert_int_ne(test_as_user(OTHER_USER + 1, OTHER_GROUP, overwrite, file), 0);
    ck_assert_int_eq(chmod(at(file), 0640), 0); /* narrows the mask */
    ck_assert_int_ne(test_as_user(OTHER_USER, OTHER_GROUP, overwrite, file), 0);
    ck_assert_int_eq(removexattr(at(file), "system.posix_acl_access"), 0);
    ck_assert_int_eq(unlink(at(file)), 0);
}
END_TEST

START_TEST(a_default_list_is_inherited)
{
    const struct list list = list_for_user(OTHER_USER);
    struct list back;
    ck_assert_int_eq(mkdir(at("shared"), 0755), 0);
    ck_assert_int_eq(setxattr(at("shared"), "system.posix_acl_default", &list, sizeof list, 0), 0);
    ck_assert_int_eq(mkdir(at("shared/sub"), 0777), 0);
    ck_assert_int_eq(getxattr(at("shared/sub"), "system.posix_acl_default", &back, sizeof back),
                     (ssize_t)sizeof back);
    ck_assert_int_eq(memcmp(&list, &back, sizeof back), 0);
    const mode_t old = umask(077); /* does not count here */
    const int fd = open(at("shared/file"), O_CREAT | O_WRONLY, 0666);
    umask(old);
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert_uint_eq(mode_of("shared/file"), 0660);
    char file[] = "shared/file";
    ck_assert_int_eq(test_as_user(OTHER_USER, OTHER_GROUP, overwrite, file), 0);
    ck_assert_int_eq(unlink(at("shared/file")), 0);
    ck_assert_int_eq(rmdir(at("shared/sub")), 0);
    ck_assert_int_eq(rmdir(at("shared")), 0);
}
END_TEST

static void remount_with(enum fs_acl_use acl)
{
    ck_assert_int_eq(test_mount_unmount(&mount), 0);
    mount.options.acl = acl;
    test_mount_start(&mount);
}

static void expect_unsupported(int result)
{
    ck_assert_int_eq(result, -1);
    ck_assert_int_eq(errno, EOPNOTSUPP);
}

START_TEST(without_access_lists_modes_decide_alone)
{
    static const char access[] = "system.posix_acl_access",
                      inherited[] = "system.posix_acl_default";
    const struct list list = list_for_user(OTHER_USER);
    char file[] = "listed", names[256];
    struct list back;
    make(file, 0640);
    ck_assert_int_eq(mkdir(at("shared"), 0755), 0);
    ck_assert_int_eq(setxattr(at(file), access, &list, sizeof list, 0), 0);
    ck_assert_int_eq(setxattr(at(file), "user.colour", "red", 3, 0), 0);
    remount_with(FS_ACL_OFF);
    ck_assert_int_ne(test_as_user(OTHER_USER, OTHER_GROUP, overwrite, file), 0);
    expect_unsupported((int)getxattr(at(file), access, &back, sizeof back));
    expect_unsupported(setxattr(at(file), access, &list, sizeof list, 0));
    expect_unsupported(setxattr(at("shared"), inherited, &list, sizeof list, 0));
    expect_unsupported(removexattr(at(file), access));
    /* Other attributes are as ever, */
    ck_assert_int_eq(getxattr(at(file), "user.colour", names, sizeof names), 3);
    ck_assert_int_eq(listxattr(at(file), names, sizeof names), sizeof "user.colour");
    ck_assert_str_eq(names, "user.colour");
    const mode_t old = umask(027);
    ck_assert_int_eq(mkdir(at("shared/made"), 0777), 0);
    umask(old);
    ck_assert_uint_eq(mode_of("shared/made"), 0750);
    /* and nothing is lost. */
    remount_with(FS_ACL_HELD);
    ck_assert_int_eq(test_as_user(OTHER_USER, OTHER_GROUP, overwrite, file), 0);
    ck_assert_int_eq(getxattr(at(file), access, &back, sizeof back), (ssize_t)sizeof back);
    ck_assert_int_eq(memcmp(&list, &back, sizeof back), 0);
    ck_assert_int_eq(unlink(at(file)), 0);
    ck_assert_int_eq(rmdir(at("shared/made")), 0);
    ck_assert_int_eq(rmdir(at("shared")), 0);
}
END_TEST

/* ---- the mount itself ------------------------------------------------------------------- */

START_TEST(the_space_in_use_shows_in_statvfs)
{
    static char bytes[1 << 20];
    struct statvfs before, after;
    uint64_t state = test_seed();
    for (size_t i = 0; i < sizeof bytes; i += 8) {
        const uint64_t word = test_random(&state);
        memcpy(bytes + i, &word, 8);
    }
    ck_assert_int_eq(statvfs(mount.dir, &before), 0);
    ck_assert_uint_eq(before.f_namemax, 255);
    const int fd = open(at("space"), O_CREAT | O_WRONLY, 0644);
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(write(fd, bytes, sizeof bytes), (ssize_t)sizeof bytes);
    ck_assert_int_eq(fsync(fd), 0);
    ck_assert_int_eq(statvfs(mount.dir, &after), 0);
    ck_assert_uint_ge((before.f_bfree - after.f_bfree) * before.f_frsize, 8u << 20);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_int_eq(st.st_blocks, (8 << 20) / 512);
    close(fd);
    ck_assert_int_eq(unlink(at("space")), 0);
}
END_TEST

START_TEST(the_mount_table_names_the_image)
{
    char line[8192], wanted[2 * PATH_MAX];
    bool found = false;
    FILE *table = fopen("/proc/mounts", "r");
    snprintf(wanted, sizeof wanted, "%s %s fuse.kvfs ", mount.image, mount.dir);
    while (fgets(line, sizeof line, table))
        found |= strncmp(line, wanted, strlen(wanted)) == 0;
    fclose(table);
    ck_assert(found);
}
END_TEST

START_TEST(a_read_only_mount_changes_nothing)
{
    struct test_mount own;
    const struct fs_mount_options options = {.read_only = true};
    test_mount_begin(&own, &options, 64);
    ck_assert_int_eq(mkdir(test_path(&own, "dir"), 0755), -1);
    ck_assert_int_eq(errno, EROFS);
    struct stat st;
    ck_assert_int_eq(stat(own.dir, &st), 0);
    test_mount_end(&own);
}
END_TEST

int main(void)
{
    if (!test_mount_possible())
        return 0;
    Suite *suite = suite_create("mount_attributes");
    TCase *tcase = tcase_create("attributes");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, modes_and_owners_are_kept);
    tcase_add_test(tcase, the_umask_counts_once);
    tcase_add_test(tcase, a_setgid_directory_hands_on_its_group);
    tcase_add_test(tcase, times_have_nanoseconds_and_reach_back_before_1970);
    tcase_add_test(tcase, the_birth_time_stays);
    tcase_add_test(tcase, what_changes_a_directory_changes_its_times);
    tcase_add_test(tcase, permissions_hold_for_other_users);
    tcase_add_test(tcase, a_write_by_others_ends_setuid_and_one_by_root_does_not);
    tcase_add_test(tcase, a_write_ends_file_capabilities);
    tcase_add_test(tcase, extended_attributes_of_every_size_are_kept);
    tcase_add_test(tcase, an_access_list_lets_one_more_user_in);
    tcase_add_test(tcase, a_default_list_is_inherited);
    tcase_add_test(tcase, the_space_in_use_shows_in_statvfs);
    tcase_add_test(tcase, the_mount_table_names_the_image);
    tcase_add_test(tcase, a_read_only_mount_changes_nothing);
    suite_add_tcase(suite, tcase);
    /* With mounts of its own, since it mounts anew. */
    TCase *const own = tcase_create("own mount");
    tcase_set_timeout(own, 60);
    tcase_add_checked_fixture(own, setup, teardown);
    tcase_add_test(own, without_access_lists_modes_decide_alone);
    suite_add_tcase(suite, own);
    return test_run(suite);
}
