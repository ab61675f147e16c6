/*
 * tests/fs/test_namespace.c: paths on a store that is not mounted.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/format.h"
#include "fs/namespace.h"
#include "scratch_store.h"
#include "tests/run.h"

static struct scratch_store scratch;
static struct fs_volume *volume;
static const struct fs_caller caller = {.umask = 022};

static void setup(void)
{
    const struct fs_volume_options options = {.read_only = false};
    scratch_open(&scratch, 64u << 20, 0, 0);
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    ck_assert_int_eq(fs_volume_open(scratch.store, &options, &volume, NULL), 0);
}

static void teardown(void)
{
    uint64_t known, bytes;
    fs_volume_usage(volume, &known, &bytes);
    ck_assert_uint_eq(known, 0); /* no walk keeps a reference */
    fs_volume_close(volume);
    scratch_close(&scratch);
}

struct text {
    const char *bytes;
    size_t length, at;
    int fail_at_end;
};

static ssize_t give(void *context, void *buf, size_t cap)
{
    struct text *text = context;
    const size_t length = kv_min_u64(cap, kv_min_u64(text->length - text->at, 100000));
    if (length == 0 && text->fail_at_end)
        return text->fail_at_end;
    memcpy(buf, text->bytes + text->at, length);
    text->at += length;
    return (ssize_t)length;
}

static int compare(void *context, const void *bytes, size_t length)
{
    struct text *text = context;
    ck_assert_uint_le(text->at + length, text->length);
    ck_assert_int_eq(memcmp(text->bytes + text->at, bytes, length), 0);
    text->at += length;
    return 0;
}

static int put(const char *path, const char *bytes, size_t length)
{
    struct text text = {.bytes = bytes, .length = length};
    return fs_path_write(volume, &caller, path, give, &text);
}

static void expect(const char *path, const char *bytes, size_t length)
{
    struct text text = {.bytes = bytes, .length = length};
    ck_assert_int_eq(fs_path_read(volume, path, compare, &text), 0);
    ck_assert_uint_eq(text.at, length);
}

static bool append_name(void *context, const struct fs_dirent *entry)
{
    char *list = context;
    strncat(list, entry->name, entry->name_len);
    strcat(list, " ");
    return true;
}

START_TEST(what_is_put_is_got)
{
    static char large[3000000];
    for (size_t i = 0; i < sizeof large; i++)
        large[i] = (char)(i * 7 / 3);
    ck_assert_int_eq(put("a/b/c", "value", 5), 0);
    expect("a/b/c", "value", 5);
    expect("/a/b/c", "value", 5);
    ck_assert_int_eq(put("a/b/c", large, sizeof large), 0);
    expect("a/b/c", large, sizeof large);
    ck_assert_int_eq(put("a/b/c", "", 0), 0);
    expect("a/b/c", "", 0);
}
END_TEST

START_TEST(a_value_that_fails_half_way_leaves_the_old_one)
{
    struct text text = {.bytes = "half", .length = 4, .fail_at_end = -EIO};
    ck_assert_int_eq(put("key", "old", 3), 0);
    ck_assert_int_eq(fs_path_write(volume, &caller, "key", give, &text), -EIO);
    expect("key", "old", 3);
}
END_TEST

START_TEST(what_is_replaced_hands_on_its_mode)
{
    struct fs_record record;
    const struct fs_attr_change change = {.valid = FS_ATTR_MODE, .mode = 0600};
    ck_assert_int_eq(put("secret", "1", 1), 0);
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "secret", 6, &record), 0);
    ck_assert_uint_eq(record.mode & 07777, 0644);
    ck_assert_int_eq(fs_setattr(volume, record.file.ino, &change, &record), 0);
    fs_forget(volume, record.file.ino, 1);
    ck_assert_int_eq(put("secret", "2", 1), 0);
    ck_assert_int_eq(fs_path_stat(volume, "secret", &record), 0);
    ck_assert_uint_eq(record.mode & 07777, 0600);
}
END_TEST

/* The value of an attribute of a path; its length, or an error. */
static int attribute(const char *path, const char *name, void *value, size_t cap)
{
    struct fs_record record;
    size_t length;
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, path, strlen(path), &record), 0);
    const int err = fs_getxattr(volume, record.file.ino, name, value, cap, &length);
    fs_forget(volume, record.file.ino, 1);
    return err ? err : (int)length;
}

/* user::rw-, user:1000:rw-, group::---, mask::rw-, other::--- */
static const uint8_t list_of_1000[] = {
    2, 0,    0,    0,    1,    0,    6,  0, 0xff, 0xff, 0xff, 0xff, 2,    0,   6,
    0, 0xe8, 3,    0,    0,    4,    0,  0, 0,    0xff, 0xff, 0xff, 0xff, 16,  0,
    6, 0,    0xff, 0xff, 0xff, 0xff, 32, 0, 0,    0,    0xff, 0xff, 0xff, 0xff};

START_TEST(what_is_replaced_hands_on_its_list_and_attributes)
{
    /* Given a file that its group may not read: the group's bits of the mode are the mask's. */
    char value[64];
    struct fs_record record;
    ck_assert_int_eq(put("secret", "1", 1), 0);
    ck_assert_int_eq(fs_path_setxattr(volume, "secret", "system.posix_acl_access", list_of_1000,
                                      sizeof list_of_1000),
                     0);
    ck_assert_int_eq(fs_path_setxattr(volume, "secret", "user.colour", "red", 3), 0);
    ck_assert_int_eq(fs_path_setxattr(volume, "secret", "security.capability", "any", 3), 0);
    /* When another value takes its place, */
    ck_assert_int_eq(put("secret", "2", 1), 0);
    /* then that is still so, and the capability went with the content. */
    ck_assert_int_eq(attribute("secret", "system.posix_acl_access", value, sizeof value),
                     sizeof list_of_1000);
    ck_assert_mem_eq(value, list_of_1000, sizeof list_of_1000);
    ck_assert_int_eq(fs_path_stat(volume, "secret", &record), 0);
    ck_assert_uint_eq(record.mode & 07777, 0660);
    ck_assert_int_eq(attribute("secret", "user.colour", value, sizeof value), 3);
    ck_assert_int_eq(attribute("secret", "security.capability", value, sizeof value), -ENODATA);
    expect("secret", "2", 1);
}
END_TEST

static void take_away(const char *path, const char *name)
{
    struct fs_record record;
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, path, strlen(path), &record), 0);
    ck_assert_int_eq(fs_removexattr(volume, record.file.ino, name), 0);
    fs_forget(volume, record.file.ino, 1);
}

START_TEST(there_are_no_labels_where_nothing_has_an_attribute)
{
    static const char label[] = "security.selinux";
    char value[64];
    ck_assert_int_eq(put("plain", "1", 1), 0);
    ck_assert_int_eq(put("other", "1", 1), 0);
    ck_assert_int_eq(attribute("plain", label, value, sizeof value), -EOPNOTSUPP);
    ck_assert_int_eq(attribute("plain", "user.selinux", value, sizeof value), -ENODATA);
    /* From the first attribute on there may be labels, */
    ck_assert_int_eq(fs_path_setxattr(volume, "other", "user.colour", "red", 3), 0);
    ck_assert_int_eq(attribute("plain", label, value, sizeof value), -ENODATA);
    ck_assert_int_eq(fs_path_setxattr(volume, "plain", label, "l", 2), 0);
    ck_assert_int_eq(attribute("plain", label, value, sizeof value), 2);
    ck_assert_int_eq(attribute("other", label, value, sizeof value), -ENODATA);
    /* and with the last one they are gone. */
    take_away("other", "user.colour");
    take_away("plain", label);
    ck_assert_int_eq(attribute("other", label, value, sizeof value), -EOPNOTSUPP);
}
END_TEST

/* More than the log takes at once: it is half of 8 MiB. */
START_TEST(what_is_replaced_hands_on_any_number_of_attributes)
{
    enum { COUNT = 2400, LENGTH = 2000 };
    static char value[LENGTH], found[LENGTH + 1];
    struct fs_record record;
    char name[32];
    ck_assert_int_eq(put("rich", "1", 1), 0);
    ck_assert_int_eq(fs_path_setxattr(volume, "rich", "user.first", "1", 1), 0);
    ck_assert_int_eq(fs_path_setxattr(volume, "rich", "system.posix_acl_access", list_of_1000,
                                      sizeof list_of_1000),
                     0);
    ck_assert_int_eq(fs_path_stat(volume, "rich", &record), 0);
    const uint64_t ino = record.file.ino;
    for (int i = 0; i < COUNT; i++) { /* to set them one by one looks at all of them each time */
        struct fs_key key;
        fs_key_ino(&key, FS_KEY_XATTR, ino);
        const int length = snprintf(name, sizeof name, "user.%d", i);
        memcpy(key.bytes + key.length, name, (size_t)length);
        memset(value, i, sizeof value);
        ck_assert_int_eq(
            kv_put(scratch.store, key.bytes, key.length + (size_t)length, value, sizeof value), 0);
    }
    ck_assert_int_eq(put("rich", "2", 1), 0);
    expect("rich", "2", 1);
    ck_assert_int_eq(fs_path_stat(volume, "rich", &record), 0);
    ck_assert_uint_ne(record.file.ino, ino);
    ck_assert_uint_eq(record.mode & 07777, 0660);
    ck_assert_int_eq(attribute("rich", "system.posix_acl_access", found, sizeof found),
                     sizeof list_of_1000);
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "user.%d", i);
        memset(value, i, sizeof value);
        ck_assert_int_eq(attribute("rich", name, found, sizeof found), LENGTH);
        ck_assert_mem_eq(found, value, LENGTH);
    }
}
END_TEST

START_TEST(what_replaces_a_file_has_nothing_of_the_directorys_list)
{
    /* Given a file that is older than what its directory says of new ones, */
    char value[64];
    struct fs_record record;
    ck_assert_int_eq(put("secret", "1", 1), 0);
    ck_assert_int_eq(fs_path_setxattr(volume, "/", "system.posix_acl_default", list_of_1000,
                                      sizeof list_of_1000),
                     0);
    /* then what replaces it keeps to its mode alone. */
    ck_assert_int_eq(put("secret", "2", 1), 0);
    ck_assert_int_eq(attribute("secret", "system.posix_acl_access", value, sizeof value), -ENODATA);
    ck_assert_int_eq(fs_path_stat(volume, "secret", &record), 0);
    ck_assert_uint_eq(record.mode & 07777, 0644);
    ck_assert_uint_eq(record.flags, 0);
    ck_assert_int_eq(put("new", "1", 1), 0);
    ck_assert_int_eq(attribute("new", "system.posix_acl_access", value, sizeof value),
                     sizeof list_of_1000);
}
END_TEST

START_TEST(listings_are_in_byte_order)
{
    char list[64] = "";
    ck_assert_int_eq(put("dir/b", "", 0), 0);
    ck_assert_int_eq(put("dir/a", "", 0), 0);
    ck_assert_int_eq(fs_path_mkdirs(volume, &caller, "dir/Z/deep"), 0);
    ck_assert_int_eq(fs_path_mkdirs(volume, &caller, "dir/Z/deep"), 0);
    ck_assert_int_eq(fs_path_list(volume, "dir", append_name, list), 0);
    ck_assert_str_eq(list, "Z a b ");
    list[0] = '\0';
    ck_assert_int_eq(fs_path_list(volume, "dir/a", append_name, list), 0);
    ck_assert_str_eq(list, "a ");
}
END_TEST

START_TEST(bad_paths_are_refused)
{
    static const char *const bad[] = {"a//b", "./a", "a/..", "a/", "//"};
    char name[300];
    struct fs_record record;
    ck_assert_int_eq(put("file", "", 0), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_int_eq(put(bad[i], "x", 1), -EINVAL);
        ck_assert_int_eq(fs_path_stat(volume, "a", &record), -ENOENT); /* nothing was made */
    }
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    ck_assert_int_eq(put(name, "x", 1), -ENAMETOOLONG);
    ck_assert_int_eq(put("file/below", "x", 1), -ENOTDIR);
    ck_assert_int_eq(put("", "x", 1), -EISDIR);
    ck_assert_int_eq(fs_path_stat(volume, "none/none", &record), -ENOENT);
    ck_assert_int_eq(fs_path_stat(volume, "/", &record), 0);
    ck_assert_uint_eq(record.file.ino, FS_ROOT_INO);
}
END_TEST

START_TEST(trees_are_removed_whole)
{
    struct fs_record record;
    char path[600] = "tree";
    for (int depth = 0; depth < 100; depth++)
        strcat(path, "/dir");
    ck_assert_int_eq(fs_path_mkdirs(volume, &caller, path), 0);
    strcat(path, "/leaf");
    ck_assert_int_eq(put(path, "x", 1), 0);
    ck_assert_int_eq(put("tree/other", "y", 1), 0);
    ck_assert_int_eq(fs_path_remove(volume, "tree", false), -EISDIR);
    ck_assert_int_eq(fs_path_remove(volume, "tree/other", false), 0);
    ck_assert_int_eq(fs_path_remove(volume, "tree", true), 0);
    ck_assert_int_eq(fs_path_stat(volume, "tree", &record), -ENOENT);
    ck_assert_int_eq(fs_path_remove(volume, "", true), -EBUSY);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("namespace");
    TCase *tcase = tcase_create("namespace");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, what_is_put_is_got);
    tcase_add_test(tcase, a_value_that_fails_half_way_leaves_the_old_one);
    tcase_add_test(tcase, what_is_replaced_hands_on_its_mode);
    tcase_add_test(tcase, what_is_replaced_hands_on_its_list_and_attributes);
    tcase_add_test(tcase, there_are_no_labels_where_nothing_has_an_attribute);
    tcase_add_test(tcase, what_is_replaced_hands_on_any_number_of_attributes);
    tcase_add_test(tcase, what_replaces_a_file_has_nothing_of_the_directorys_list);
    tcase_add_test(tcase, listings_are_in_byte_order);
    tcase_add_test(tcase, bad_paths_are_refused);
    tcase_add_test(tcase, trees_are_removed_whole);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
