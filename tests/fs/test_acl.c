/*
 * tests/fs/test_acl.c: fs/acl.c against the rules of POSIX.1e draft 17.
 */
#include "fs/acl.h"
#include "tests/run.h"

#include <check.h>

struct list {
    uint8_t bytes[4 + 8 * 8];
    size_t length;
};

static void start(struct list *list)
{
    const kv_le32 version = kv_le32_of(FS_ACL_VERSION);
    memcpy(list->bytes, &version, sizeof version);
    list->length = sizeof version;
}

static void add(struct list *list, enum fs_acl_tag tag, uint16_t perm, uint32_t id)
{
    const struct fs_disk_acl_entry entry = {
        .tag = kv_le16_of((uint16_t)tag), .perm = kv_le16_of(perm), .id = kv_le32_of(id)};
    memcpy(list->bytes + list->length, &entry, sizeof entry);
    list->length += sizeof entry;
}

static uint16_t perm_at(const struct list *list, size_t index)
{
    struct fs_disk_acl_entry entry;
    memcpy(&entry, list->bytes + 4 + 8 * index, sizeof entry);
    return kv_le16_get(entry.perm);
}

/* u::rwx u:1000:r-x g::r-- m::rw- o::--x */
static void extended(struct list *list)
{
    start(list);
    add(list, FS_ACL_USER_OBJ, 7, FS_ACL_NO_ID);
    add(list, FS_ACL_USER, 5, 1000);
    add(list, FS_ACL_GROUP_OBJ, 4, FS_ACL_NO_ID);
    add(list, FS_ACL_MASK, 6, FS_ACL_NO_ID);
    add(list, FS_ACL_OTHER, 1, FS_ACL_NO_ID);
}

static void minimal(struct list *list, uint32_t bits)
{
    start(list);
    add(list, FS_ACL_USER_OBJ, (bits >> 6) & 7, FS_ACL_NO_ID);
    add(list, FS_ACL_GROUP_OBJ, (bits >> 3) & 7, FS_ACL_NO_ID);
    add(list, FS_ACL_OTHER, bits & 7, FS_ACL_NO_ID);
}

START_TEST(lists_out_of_order_or_incomplete_are_invalid)
{
    static const struct {
        enum fs_acl_tag tags[6];
        int result;
    } cases[] = {
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_OTHER}, 0},
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_MASK, FS_ACL_OTHER}, 0},
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_GROUP, FS_ACL_MASK, FS_ACL_OTHER}, 0},
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ}, -EINVAL},
        {{FS_ACL_USER_OBJ, FS_ACL_OTHER}, -EINVAL},
        {{FS_ACL_GROUP_OBJ, FS_ACL_USER_OBJ, FS_ACL_OTHER}, -EINVAL},
        {{FS_ACL_USER_OBJ, FS_ACL_USER, FS_ACL_GROUP_OBJ, FS_ACL_OTHER}, -EINVAL},
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_USER, FS_ACL_MASK, FS_ACL_OTHER}, -EINVAL},
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_OTHER, FS_ACL_OTHER}, -EINVAL},
        {{FS_ACL_USER_OBJ, FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_OTHER}, -EINVAL},
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_OTHER, FS_ACL_MASK}, -EINVAL},
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_MASK, FS_ACL_MASK, FS_ACL_OTHER}, -EINVAL},
        {{FS_ACL_USER_OBJ, FS_ACL_GROUP_OBJ, FS_ACL_OTHER, (enum fs_acl_tag)3}, -EINVAL},
        {{0}, -ENODATA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct list list;
        start(&list);
        for (size_t t = 0; t < 6 && cases[i].tags[t]; t++)
            add(&list, cases[i].tags[t], 7, 5);
        ck_assert_msg(fs_acl_validate(list.bytes, list.length) == cases[i].result, "case %zu", i);
    }
}
END_TEST

START_TEST(bytes_that_are_no_list_are_refused)
{
    struct list list;
    extended(&list);
    for (size_t length = 0; length < list.length; length++)
        ck_assert_int_ne(fs_acl_validate(list.bytes, length), 0);
    list.bytes[0] = 3;
    ck_assert_int_eq(fs_acl_validate(list.bytes, list.length), -EOPNOTSUPP);
    extended(&list);
    list.bytes[6] = 8; /* no such permission */
    ck_assert_int_eq(fs_acl_validate(list.bytes, list.length), -EINVAL);
    start(&list);
    add(&list, FS_ACL_USER_OBJ, 7, FS_ACL_NO_ID);
    add(&list, FS_ACL_USER, 7, FS_ACL_NO_ID); /* nobody in particular */
    add(&list, FS_ACL_GROUP_OBJ, 7, FS_ACL_NO_ID);
    add(&list, FS_ACL_MASK, 7, FS_ACL_NO_ID);
    add(&list, FS_ACL_OTHER, 7, FS_ACL_NO_ID);
    ck_assert_int_eq(fs_acl_validate(list.bytes, list.length), -EINVAL);
}
END_TEST

START_TEST(a_list_of_three_entries_is_only_a_mode)
{
    struct list list;
    uint32_t bits;
    bool is_minimal;
    for (uint32_t mode = 0; mode < 01000; mode++) {
        minimal(&list, mode);
        ck_assert_int_eq(fs_acl_to_mode(list.bytes, list.length, &bits, &is_minimal), 0);
        ck_assert_uint_eq(bits, mode);
        ck_assert(is_minimal);
    }
}
END_TEST

START_TEST(the_group_bits_of_an_extended_list_are_its_mask)
{
    struct list list;
    uint32_t bits;
    bool is_minimal;
    extended(&list);
    ck_assert_int_eq(fs_acl_to_mode(list.bytes, list.length, &bits, &is_minimal), 0);
    ck_assert_uint_eq(bits, 0761);
    ck_assert(!is_minimal);
}
END_TEST

START_TEST(chmod_changes_the_mask_and_not_the_owning_group)
{
    struct list list;
    extended(&list);
    ck_assert_int_eq(fs_acl_set_mode(list.bytes, list.length, 0100640), 0);
    ck_assert_uint_eq(perm_at(&list, 0), 6);
    ck_assert_uint_eq(perm_at(&list, 1), 5);
    ck_assert_uint_eq(perm_at(&list, 2), 4);
    ck_assert_uint_eq(perm_at(&list, 3), 4);
    ck_assert_uint_eq(perm_at(&list, 4), 0);
}
END_TEST

START_TEST(without_a_default_list_the_umask_counts)
{
    uint32_t mode = 0107666;
    bool keep = true;
    ck_assert_int_eq(fs_acl_inherit(NULL, 0, 0022, &mode, NULL, &keep), 0);
    ck_assert_uint_eq(mode, 0107644);
    ck_assert(!keep);
}
END_TEST

START_TEST(a_default_list_masks_the_mode_and_the_umask_does_not)
{
    struct list list, access;
    uint32_t mode = 0102666;
    bool keep;
    extended(&list);
    ck_assert_int_eq(fs_acl_inherit(list.bytes, list.length, 0777, &mode, access.bytes, &keep), 0);
    ck_assert_uint_eq(mode, 0102660);
    ck_assert(keep);
    access.length = list.length;
    ck_assert_uint_eq(perm_at(&access, 0), 6);
    ck_assert_uint_eq(perm_at(&access, 1), 5);
    ck_assert_uint_eq(perm_at(&access, 2), 4);
    ck_assert_uint_eq(perm_at(&access, 3), 6);
    ck_assert_uint_eq(perm_at(&access, 4), 0);
}
END_TEST

START_TEST(a_minimal_default_list_leaves_no_access_list)
{
    struct list list, access;
    uint32_t mode = 0666;
    bool keep;
    minimal(&list, 0750);
    ck_assert_int_eq(fs_acl_inherit(list.bytes, list.length, 0, &mode, access.bytes, &keep), 0);
    ck_assert_uint_eq(mode, 0640);
    ck_assert(!keep);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("acl");
    TCase *const tcase = tcase_create("acl");
    tcase_add_test(tcase, lists_out_of_order_or_incomplete_are_invalid);
    tcase_add_test(tcase, bytes_that_are_no_list_are_refused);
    tcase_add_test(tcase, a_list_of_three_entries_is_only_a_mode);
    tcase_add_test(tcase, the_group_bits_of_an_extended_list_are_its_mask);
    tcase_add_test(tcase, chmod_changes_the_mask_and_not_the_owning_group);
    tcase_add_test(tcase, without_a_default_list_the_umask_counts);
    tcase_add_test(tcase, a_default_list_masks_the_mode_and_the_umask_does_not);
    tcase_add_test(tcase, a_minimal_default_list_leaves_no_access_list);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
