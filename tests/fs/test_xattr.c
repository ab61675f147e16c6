/*
 * tests/fs/test_xattr.c: fs/xattr.c over a store.
 */
#include "fs/xattr.h"
#include "tests/fs/scratch_store.h"
#include "tests/run.h"

#include <sys/xattr.h>

#define INO 77u

struct bench {
    struct scratch_store scratch;
    struct kv_batch *batch;
    uint32_t flags;
};

static void bench_open(struct bench *b)
{
    scratch_open(&b->scratch, 64u << 20, 0, 0);
    b->batch = kv_batch_new();
    ck_assert_ptr_nonnull(b->batch);
    b->flags = 0;
}

static void bench_close(struct bench *b)
{
    kv_batch_free(b->batch);
    scratch_close(&b->scratch);
}

static void apply(struct bench *b)
{
    ck_assert_int_eq(kv_apply(b->scratch.store, b->batch, 0, NULL), 0);
    kv_batch_clear(b->batch);
}

static int set(struct bench *b, const char *name, const void *value, size_t length, int set_flags)
{
    const int err =
        fs_xattr_set(b->scratch.store, INO, &b->flags, name, value, length, set_flags, b->batch);
    if (!err)
        apply(b);
    return err;
}

static int take_away(struct bench *b, const char *name)
{
    const int err = fs_xattr_remove(b->scratch.store, INO, &b->flags, name, b->batch);
    if (!err)
        apply(b);
    return err;
}

START_TEST(what_was_set_is_got_and_listed_until_removed)
{
    struct bench b;
    char buf[100], names[100];
    size_t length;
    bench_open(&b);
    ck_assert_int_eq(set(&b, "user.b", "two", 3, 0), 0);
    ck_assert_int_eq(set(&b, "trusted.c", "", 0, 0), 0);
    ck_assert_int_eq(set(&b, "user.a", "one", 3, 0), 0);
    scratch_reopen(&b.scratch);
    struct kv_store *const store = b.scratch.store;
    ck_assert_int_eq(fs_xattr_get(store, INO, b.flags, "user.a", buf, sizeof buf, &length), 0);
    ck_assert_uint_eq(length, 3);
    ck_assert_int_eq(memcmp(buf, "one", 3), 0);
    ck_assert_int_eq(fs_xattr_get(store, INO, b.flags, "trusted.c", buf, sizeof buf, &length), 0);
    ck_assert_uint_eq(length, 0);
    ck_assert_int_eq(fs_xattr_list(store, INO, b.flags, true, names, sizeof names, &length), 0);
    ck_assert_uint_eq(length, 24);
    ck_assert_int_eq(memcmp(names, "trusted.c\0user.a\0user.b", 24), 0);
    ck_assert_int_eq(fs_xattr_list(store, INO, b.flags, false, names, sizeof names, &length), 0);
    ck_assert_uint_eq(length, 14);
    ck_assert_int_eq(take_away(&b, "user.a"), 0);
    ck_assert_int_eq(take_away(&b, "user.a"), -ENODATA);
    ck_assert_uint_eq(b.flags, FS_RECORD_XATTRS);
    ck_assert_int_eq(take_away(&b, "trusted.c"), 0);
    ck_assert_int_eq(take_away(&b, "user.b"), 0);
    ck_assert_uint_eq(b.flags, 0);
    bench_close(&b);
}
END_TEST

START_TEST(a_length_can_be_asked_for_and_a_small_buffer_is_refused)
{
    struct bench b;
    char buf[4];
    size_t length;
    bench_open(&b);
    ck_assert_int_eq(set(&b, "user.x", "12345", 5, 0), 0);
    struct kv_store *const store = b.scratch.store;
    ck_assert_int_eq(fs_xattr_get(store, INO, b.flags, "user.x", NULL, 0, &length), 0);
    ck_assert_uint_eq(length, 5);
    ck_assert_int_eq(fs_xattr_get(store, INO, b.flags, "user.x", buf, 4, &length), -ERANGE);
    ck_assert_uint_eq(length, 5);
    ck_assert_int_eq(fs_xattr_list(store, INO, b.flags, true, NULL, 0, &length), 0);
    ck_assert_uint_eq(length, 7);
    ck_assert_int_eq(fs_xattr_list(store, INO, b.flags, true, buf, 4, &length), -ERANGE);
    bench_close(&b);
}
END_TEST

START_TEST(create_and_replace_say_what_was_there)
{
    struct bench b;
    bench_open(&b);
    ck_assert_int_eq(set(&b, "user.x", "1", 1, XATTR_REPLACE), -ENODATA);
    ck_assert_int_eq(set(&b, "user.x", "1", 1, XATTR_CREATE), 0);
    ck_assert_int_eq(set(&b, "user.x", "2", 1, XATTR_CREATE), -EEXIST);
    ck_assert_int_eq(set(&b, "user.x", "3", 1, XATTR_REPLACE), 0);
    ck_assert_int_eq(set(&b, "user.x", "3", 1, 64), -EINVAL);
    bench_close(&b);
}
END_TEST

START_TEST(names_of_other_namespaces_and_bad_lengths_are_refused)
{
    char name[300];
    memset(name, 'n', sizeof name);
    memcpy(name, "user.", 5);
    name[255] = '\0';
    ck_assert_int_eq(fs_xattr_check_name(name), 0);
    name[255] = 'n';
    name[256] = '\0';
    ck_assert_int_eq(fs_xattr_check_name(name), -ERANGE);
    ck_assert_int_eq(fs_xattr_check_name("user."), -EINVAL);
    ck_assert_int_eq(fs_xattr_check_name("system.other"), -EOPNOTSUPP);
    ck_assert_int_eq(fs_xattr_check_name("nothing"), -EOPNOTSUPP);
    ck_assert_int_eq(fs_xattr_check_name(""), -EOPNOTSUPP);
    ck_assert_int_eq(fs_xattr_check_name(FS_XATTR_ACCESS_ACL), 0);
    ck_assert_int_eq(fs_xattr_check_name(FS_XATTR_DEFAULT_ACL), 0);
    ck_assert_int_eq(fs_xattr_check_name("security.selinux"), 0);
}
END_TEST

START_TEST(a_value_may_have_64_KiB_and_no_more)
{
    struct bench b;
    size_t length;
    bench_open(&b);
    uint8_t *const value = malloc(FS_XATTR_VALUE_MAX + 1), *const back = malloc(FS_XATTR_VALUE_MAX);
    memset(value, 'v', FS_XATTR_VALUE_MAX + 1);
    ck_assert_int_eq(set(&b, "user.big", value, FS_XATTR_VALUE_MAX + 1, 0), -E2BIG);
    ck_assert_int_eq(set(&b, "user.big", value, FS_XATTR_VALUE_MAX, 0), 0);
    ck_assert_int_eq(
        fs_xattr_get(b.scratch.store, INO, b.flags, "user.big", back, FS_XATTR_VALUE_MAX, &length),
        0);
    ck_assert_uint_eq(length, FS_XATTR_VALUE_MAX);
    ck_assert_int_eq(memcmp(value, back, length), 0);
    free(value);
    free(back);
    bench_close(&b);
}
END_TEST

START_TEST(all_names_together_stay_listable)
{
    struct bench b;
    char name[256];
    int err = 0, count = 0;
    bench_open(&b);
    while (!err) {
        snprintf(name, sizeof name, "user.%0250d", count);
        err = set(&b, name, "", 0, 0);
        count += !err;
    }
    ck_assert_int_eq(err, -ENOSPC);
    ck_assert_int_eq(count, 256);
    bench_close(&b);
}
END_TEST

START_TEST(the_flags_follow_the_attributes_that_have_one)
{
    struct bench b;
    size_t length;
    bench_open(&b);
    ck_assert_int_eq(set(&b, FS_XATTR_ACCESS_ACL, "a", 1, 0), 0);
    ck_assert_uint_eq(b.flags, FS_RECORD_XATTRS | FS_RECORD_ACCESS_ACL);
    ck_assert_int_eq(
        fs_xattr_get(b.scratch.store, INO, b.flags, FS_XATTR_DEFAULT_ACL, NULL, 0, &length),
        -ENODATA);
    ck_assert_int_eq(set(&b, FS_XATTR_CAPABILITY, "c", 1, 0), 0);
    ck_assert_int_eq(take_away(&b, FS_XATTR_ACCESS_ACL), 0);
    ck_assert_uint_eq(b.flags, FS_RECORD_XATTRS | FS_RECORD_CAPABILITY);
    bench_close(&b);
}
END_TEST

START_TEST(without_flags_nothing_is_looked_up)
{
    struct bench b;
    struct kv_stats before, after;
    size_t length;
    bench_open(&b);
    kv_store_stats(b.scratch.store, &before);
    ck_assert_int_eq(fs_xattr_get(b.scratch.store, INO, 0, "user.x", NULL, 0, &length), -ENODATA);
    ck_assert_int_eq(fs_xattr_list(b.scratch.store, INO, 0, true, NULL, 0, &length), 0);
    kv_store_stats(b.scratch.store, &after);
    ck_assert_uint_eq(before.gets, after.gets);
    bench_close(&b);
}
END_TEST

START_TEST(deleting_all_leaves_the_neighbours_alone)
{
    struct bench b;
    struct kv_store *store;
    uint32_t flags = 0;
    size_t length;
    bench_open(&b);
    store = b.scratch.store;
    for (uint64_t ino = INO - 1; ino <= INO + 1; ino++) {
        ck_assert_int_eq(fs_xattr_set(store, ino, &flags, "user.x", "1", 1, 0, b.batch), 0);
        apply(&b);
    }
    ck_assert_int_eq(fs_xattr_delete_all(INO, b.batch), 0);
    apply(&b);
    ck_assert_int_eq(fs_xattr_get(store, INO - 1, flags, "user.x", NULL, 0, &length), 0);
    ck_assert_int_eq(fs_xattr_get(store, INO, flags, "user.x", NULL, 0, &length), -ENODATA);
    ck_assert_int_eq(fs_xattr_get(store, INO + 1, flags, "user.x", NULL, 0, &length), 0);
    bench_close(&b);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("xattr");
    TCase *const tcase = tcase_create("xattr");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, what_was_set_is_got_and_listed_until_removed);
    tcase_add_test(tcase, a_length_can_be_asked_for_and_a_small_buffer_is_refused);
    tcase_add_test(tcase, create_and_replace_say_what_was_there);
    tcase_add_test(tcase, names_of_other_namespaces_and_bad_lengths_are_refused);
    tcase_add_test(tcase, a_value_may_have_64_KiB_and_no_more);
    tcase_add_test(tcase, all_names_together_stay_listable);
    tcase_add_test(tcase, the_flags_follow_the_attributes_that_have_one);
    tcase_add_test(tcase, without_flags_nothing_is_looked_up);
    tcase_add_test(tcase, deleting_all_leaves_the_neighbours_alone);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
