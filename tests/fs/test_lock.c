/*
 * tests/fs/test_lock.c: the locks of inodes, and the records that are left with them.
 */
#include <check.h>
#include <stdlib.h>

#include "fs/lock.h"
#include "tests/run.h"

#define INO 7u

static struct fs_locks *locks;

static void make_locks(void)
{
    locks = fs_locks_new();
    ck_assert_ptr_nonnull(locks);
}

static void free_locks(void)
{
    fs_locks_free(locks);
}

static void take(struct fs_lock_set *set, uint64_t ino, enum fs_lock_mode mode)
{
    *set = (struct fs_lock_set)FS_LOCK_SET_INIT;
    fs_lock_add(set, ino, mode);
    fs_lock_take(locks, set);
}

/* Hold an inode's lock exclusively and leave a record with it, by whose size it is known. */
static void leave(uint64_t ino, uint64_t size)
{
    struct fs_lock_set set;
    const struct fs_record record = {.file = {.ino = ino, .size = size}};
    take(&set, ino, FS_LOCK_EXCLUSIVE);
    fs_lock_leave(locks, &set, &record);
    fs_lock_drop(locks, &set);
}

/* The size of what is left with an inode's lock; UINT64_MAX: nothing. */
static uint64_t size_left(uint64_t ino)
{
    struct fs_lock_set set;
    take(&set, ino, FS_LOCK_SHARED);
    const struct fs_record *const record = fs_lock_left(locks, ino);
    const uint64_t size = record ? record->file.size : UINT64_MAX;
    fs_lock_drop(locks, &set);
    return size;
}

START_TEST(what_is_left_is_found_by_all_who_share_the_lock)
{
    ck_assert_uint_eq(size_left(INO), UINT64_MAX);
    leave(INO, 100);
    ck_assert_uint_eq(size_left(INO), 100);
    ck_assert_uint_eq(size_left(INO), 100);
    leave(INO, 200);
    ck_assert_uint_eq(size_left(INO), 200);
}
END_TEST

START_TEST(who_holds_it_exclusively_and_leaves_nothing_takes_it_away)
{
    struct fs_lock_set set;
    leave(INO, 100);
    take(&set, INO, FS_LOCK_EXCLUSIVE);
    ck_assert_ptr_nonnull(fs_lock_left(locks, INO)); /* nothing is changed yet */
    fs_lock_drop(locks, &set);
    ck_assert_uint_eq(size_left(INO), UINT64_MAX);

    leave(INO, 100);
    fs_lock_take_all(locks);
    fs_lock_drop_all(locks);
    ck_assert_uint_eq(size_left(INO), UINT64_MAX);
}
END_TEST

START_TEST(of_several_inodes_each_keeps_what_was_left_with_its_own_lock)
{
    struct fs_lock_set set = FS_LOCK_SET_INIT;
    leave(INO, 100);
    leave(INO + 1, 200);
    fs_lock_add(&set, INO, FS_LOCK_EXCLUSIVE);
    fs_lock_add(&set, INO + 1, FS_LOCK_EXCLUSIVE);
    fs_lock_take(locks, &set);
    const struct fs_record record = {.file = {.ino = INO + 1, .size = 300}};
    fs_lock_leave(locks, &set, &record);
    fs_lock_drop(locks, &set);
    ck_assert_uint_eq(size_left(INO), UINT64_MAX);
    ck_assert_uint_eq(size_left(INO + 1), 300);
}
END_TEST

START_TEST(an_inode_never_finds_what_was_left_for_another_of_the_same_lock)
{
    uint64_t displaced = 0;
    leave(INO, 100);
    for (uint64_t ino = INO + 1; ino < 100000; ino++) {
        leave(ino, ino * 1000);
        ck_assert_uint_eq(size_left(ino), ino * 1000);
        const uint64_t left = size_left(INO);
        ck_assert(left == 100 || left == UINT64_MAX);
        if (left == UINT64_MAX) {
            displaced++;
            leave(INO, 100);
            ck_assert_uint_eq(size_left(ino), UINT64_MAX);
        }
    }
    ck_assert_uint_gt(displaced, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lock");
    TCase *tcase = tcase_create("records left with locks");
    tcase_add_checked_fixture(tcase, make_locks, free_locks);
    tcase_add_test(tcase, what_is_left_is_found_by_all_who_share_the_lock);
    tcase_add_test(tcase, who_holds_it_exclusively_and_leaves_nothing_takes_it_away);
    tcase_add_test(tcase, of_several_inodes_each_keeps_what_was_left_with_its_own_lock);
    tcase_add_test(tcase, an_inode_never_finds_what_was_left_for_another_of_the_same_lock);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
