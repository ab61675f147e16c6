/*
 * tests/fs/test_expiry.c: files that end by themselves, by a clock that the test sets.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>

#include "fs/expiry.h"
#include "fs/format.h"
#include "fs/fsck.h"
#include "scratch_store.h"
#include "tests/run.h"

#define SECOND INT64_C(1000000000)

static struct scratch_store scratch;
static struct fs_volume *volume;
static int64_t clock_ns;
static const struct fs_caller root_caller;

static int64_t test_clock(void)
{
    return clock_ns;
}

static void open_volume(void)
{
    const struct fs_volume_options options = {.now = test_clock};
    struct kv_error error = {.text = ""};
    const int err = fs_volume_open(scratch.store, &options, &volume, &error);
    ck_assert_msg(err == 0, "%s", error.text);
}

static void setup(void)
{
    scratch_open(&scratch, 64u << 20, 0, 0);
    clock_ns = 1000 * SECOND;
    ck_assert_int_eq(fs_format(scratch.store, 0, 0, 0755), 0);
    open_volume();
}

static void remount(void)
{
    fs_volume_close(volume);
    scratch_reopen(&scratch);
    open_volume();
}

static void note_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    (void)context;
    if (severity != KV_CHECK_NOTE) /* what is still held has no name, and that is all right */
        ck_abort_msg("the check found %s: %s", what, text);
}

static void expect_sound(void)
{
    const struct kv_check_options options = {.report = note_finding};
    struct kv_check_result result = {0};
    ck_assert_int_eq(fs_check(scratch.store, &options, &result), 0);
}

static void teardown(void)
{
    expect_sound();
    fs_volume_close(volume);
    expect_sound();
    scratch_close(&scratch);
}

/* ---- short words ------------------------------------------------------------------------ */

static int make_node(uint64_t directory, const char *name, uint32_t mode, uint64_t *ino)
{
    struct fs_record record;
    const struct fs_new_node node = {.mode = mode};
    const int err = fs_create(volume, &root_caller, directory, name, strlen(name), &node, &record);
    if (!err)
        *ino = record.file.ino;
    return err;
}

static uint64_t make(uint64_t directory, const char *name, uint32_t mode)
{
    uint64_t ino;
    ck_assert_int_eq(make_node(directory, name, mode, &ino), 0);
    return ino;
}

static int look(uint64_t directory, const char *name)
{
    struct fs_record record;
    const int err = fs_lookup(volume, directory, name, strlen(name), &record);
    if (!err)
        fs_forget(volume, record.file.ino, 1);
    return err;
}

static int set_ttl(uint64_t ino, const char *text)
{
    return fs_setxattr(volume, ino, FS_XATTR_TTL, text, strlen(text), 0, false);
}

static int rename_in(uint64_t from, const char *name, uint64_t to, const char *new_name,
                     unsigned flags)
{
    return fs_rename(volume, from, name, strlen(name), to, new_name, strlen(new_name), flags);
}

/* What the attribute says; "" without one. */
static const char *ttl_of(uint64_t ino)
{
    static char text[32];
    size_t length = 0;
    const int err = fs_getxattr(volume, ino, FS_XATTR_TTL, text, sizeof text - 1, &length);
    ck_assert(err == 0 || err == -ENODATA);
    text[err ? 0 : length] = '\0';
    return text;
}

static bool count_entry(void *context, const struct fs_dirent *entry)
{
    *(unsigned *)context += entry->name[0] != '.';
    return true;
}

static unsigned count_entries(uint64_t directory)
{
    unsigned count = 0;
    ck_assert_int_eq(fs_readdir(volume, directory, 0, false, count_entry, &count), 0);
    return count;
}

static uint64_t expire(uint64_t most)
{
    uint64_t count;
    int64_t next;
    ck_assert_int_eq(fs_expire(volume, most, NULL, NULL, &count, &next), 0);
    return count;
}

static size_t index_length(void)
{
    static const uint8_t prefix[] = {FS_KEY_EXPIRY};
    struct kv_cursor *cursor;
    size_t count = 0;
    ck_assert_int_eq(kv_cursor_open_prefix(scratch.store, prefix, sizeof prefix, &cursor), 0);
    for (int err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor))
        count++;
    kv_cursor_close(cursor);
    return count;
}

/* ---- durations ---------------------------------------------------------------------------- */

START_TEST(a_duration_is_digits_and_perhaps_a_unit)
{
    static const struct {
        const char *text;
        uint64_t seconds; /* 0: refused */
    } cases[] = {
        {"1", 1},
        {"3600", 3600},
        {"90s", 90},
        {"5m", 300},
        {"2h", 7200},
        {"1d", 86400},
        {"1w", 604800},
        {"7\n", 7},
        {"3155760000", 3155760000u},
        {"", 0},
        {"0", 0},
        {"-1", 0},
        {"1.5", 0},
        {"s", 0},
        {"1x", 0},
        {"1mm", 0},
        {" 1", 0},
        {"3155760001", 0},
        {"99999999999999999999", 0},
        {"10000000000w", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t seconds = 0;
        const int err = fs_ttl_parse(cases[i].text, strlen(cases[i].text), &seconds);
        ck_assert_msg(err == (cases[i].seconds ? 0 : -EINVAL), "%s: %d", cases[i].text, err);
        ck_assert_uint_eq(seconds, cases[i].seconds);
    }
}
END_TEST

/* ---- one file ------------------------------------------------------------------------------- */

START_TEST(a_file_is_gone_at_its_moment_and_not_before)
{
    const uint64_t ino = make(1, "file", S_IFREG | 0644);
    ck_assert_int_eq(set_ttl(ino, "10"), 0);
    ck_assert_str_eq(ttl_of(ino), "10");
    clock_ns += 10 * SECOND - 1;
    ck_assert_int_eq(look(1, "file"), 0);
    ck_assert_str_eq(ttl_of(ino), "1");
    ck_assert_uint_eq(count_entries(1), 1);
    clock_ns += 1;
    ck_assert_int_eq(look(1, "file"), -ENOENT);
    ck_assert_uint_eq(count_entries(1), 0);
    ck_assert_int_eq(fs_unlink(volume, 1, "file", 4), -ENOENT);
    ck_assert_int_eq(rename_in(1, "file", 1, "other", 0), -ENOENT);
}
END_TEST

START_TEST(who_holds_it_still_reads_it_until_it_is_forgotten)
{
    char bytes[8];
    size_t got;
    const uint64_t ino = make(1, "file", S_IFREG | 0644);
    ck_assert_int_eq(fs_write(volume, ino, 0, "content", 7, false), 0);
    ck_assert_int_eq(set_ttl(ino, "1"), 0);
    clock_ns += SECOND;
    ck_assert_uint_eq(expire(100), 1);
    ck_assert_int_eq(fs_read(volume, ino, 0, bytes, sizeof bytes, &got), 0);
    ck_assert_uint_eq(got, 7);
    ck_assert_str_eq(ttl_of(ino), ""); /* it has ended */
    fs_forget(volume, ino, 1);
    ck_assert_int_eq(fs_read(volume, ino, 0, bytes, sizeof bytes, &got), -ESTALE);
}
END_TEST

START_TEST(the_attribute_can_be_changed_listed_and_removed)
{
    char names[64];
    size_t length;
    const uint64_t ino = make(1, "file", S_IFREG | 0644);
    ck_assert_int_eq(fs_removexattr(volume, ino, FS_XATTR_TTL), -ENODATA);
    ck_assert_int_eq(fs_setxattr(volume, ino, FS_XATTR_TTL, "5", 1, XATTR_REPLACE, false),
                     -ENODATA);
    ck_assert_int_eq(set_ttl(ino, "soon"), -EINVAL);
    ck_assert_int_eq(set_ttl(ino, "5"), 0);
    ck_assert_int_eq(fs_setxattr(volume, ino, FS_XATTR_TTL, "5", 1, XATTR_CREATE, false), -EEXIST);
    ck_assert_int_eq(fs_setxattr(volume, ino, "user.other", "x", 1, 0, false), 0);
    ck_assert_int_eq(fs_listxattr(volume, ino, true, names, sizeof names, &length), 0);
    ck_assert_uint_eq(length, sizeof "user.other" + sizeof FS_XATTR_TTL);
    ck_assert_str_eq(names + sizeof "user.other", FS_XATTR_TTL);
    ck_assert_int_eq(fs_listxattr(volume, ino, true, names, length - 1, &length), -ERANGE);
    ck_assert_int_eq(fs_listxattr(volume, ino, true, NULL, 0, &length), 0);
    ck_assert_uint_eq(length, sizeof "user.other" + sizeof FS_XATTR_TTL);

    ck_assert_int_eq(set_ttl(ino, "1h"), 0);
    ck_assert_uint_eq(index_length(), 1);
    clock_ns += 6 * SECOND;
    ck_assert_int_eq(look(1, "file"), 0);
    ck_assert_int_eq(fs_removexattr(volume, ino, FS_XATTR_TTL), 0);
    ck_assert_uint_eq(index_length(), 0);
    clock_ns += 7200 * SECOND;
    ck_assert_int_eq(look(1, "file"), 0);
}
END_TEST

START_TEST(expiry_goes_with_the_file_through_renames)
{
    const uint64_t directory = make(1, "directory", S_IFDIR | 0755);
    const uint64_t ino = make(1, "file", S_IFREG | 0644);
    const uint64_t other = make(directory, "other", S_IFREG | 0644);
    ck_assert_int_eq(set_ttl(ino, "5"), 0);
    ck_assert_int_eq(set_ttl(other, "50"), 0);
    ck_assert_int_eq(rename_in(1, "file", directory, "moved", 0), 0);
    ck_assert_int_eq(rename_in(directory, "moved", directory, "other", FS_RENAME_EXCHANGE), 0);
    ck_assert_int_eq(rename_in(1, "directory", 1, "renamed", 0), 0);
    expect_sound();
    clock_ns += 5 * SECOND;
    ck_assert_int_eq(look(directory, "other"), -ENOENT);
    ck_assert_int_eq(look(directory, "moved"), 0);
    ck_assert_uint_eq(expire(100), 1);
    clock_ns += 45 * SECOND;
    ck_assert_uint_eq(expire(100), 1);
    ck_assert_int_eq(fs_rmdir(volume, 1, "renamed", 7), 0);
}
END_TEST

START_TEST(what_expires_has_one_name)
{
    struct fs_record record;
    const uint64_t ino = make(1, "file", S_IFREG | 0644);
    const uint64_t linked = make(1, "linked", S_IFREG | 0644);
    ck_assert_int_eq(set_ttl(ino, "5"), 0);
    ck_assert_int_eq(fs_link(volume, ino, 1, "second", 6, &record), -EPERM);
    ck_assert_int_eq(fs_link(volume, linked, 1, "second", 6, &record), 0);
    ck_assert_int_eq(set_ttl(linked, "5"), -EPERM);
    ck_assert_int_eq(fs_link(volume, linked, 1, "file", 4, &record), -EEXIST);
    clock_ns += 5 * SECOND;
    ck_assert_int_eq(fs_link(volume, linked, 1, "file", 4, &record), 0);
    ck_assert_uint_eq(index_length(), 0);
}
END_TEST

START_TEST(a_name_that_is_over_can_be_used_again)
{
    for (int way = 0; way < 4; way++) {
        struct fs_record record;
        const uint64_t old = make(1, "name", S_IFREG | 0644);
        ck_assert_int_eq(set_ttl(old, "1"), 0);
        const uint64_t ino = way == 2 ? 0 : make(1, "new", S_IFREG | 0600);
        clock_ns += SECOND;
        if (way == 0) {
            ck_assert_int_eq(rename_in(1, "new", 1, "name", FS_RENAME_NOREPLACE), 0);
        } else if (way == 1) {
            ck_assert_int_eq(rename_in(1, "new", 1, "name", FS_RENAME_EXCHANGE), -ENOENT);
            ck_assert_int_eq(rename_in(1, "new", 1, "name", 0), 0);
        } else if (way == 2) {
            ck_assert_uint_ne(make(1, "name", S_IFREG | 0600), old);
        } else {
            ck_assert_int_eq(fs_create_unnamed(volume, &root_caller, 1, 0600, &record), 0);
            ck_assert_int_eq(fs_publish(volume, record.file.ino, 1, "name", 4), 0);
            ck_assert_int_eq(fs_unlink(volume, 1, "new", 3), 0);
        }
        ck_assert_int_eq(fs_lookup(volume, 1, "name", 4, &record), 0);
        ck_assert_uint_ne(record.file.ino, old);
        ck_assert(ino == 0 || way == 3 || record.file.ino == ino);
        ck_assert_uint_eq(record.expiry_ns, 0);
        ck_assert_int_eq(fs_unlink(volume, 1, "name", 4), 0);
        ck_assert_uint_eq(index_length(), 0);
    }
}
END_TEST

/* ---- directories ------------------------------------------------------------------------------
 */

START_TEST(a_directory_gives_its_default_to_what_is_made_in_it)
{
    struct fs_record record;
    const uint64_t directory = make(1, "directory", S_IFDIR | 0755);
    ck_assert_int_eq(set_ttl(directory, "1m"), 0);
    ck_assert_str_eq(ttl_of(directory), "60");
    const uint64_t file = make(directory, "file", S_IFREG | 0644);
    const uint64_t below = make(directory, "below", S_IFDIR | 0755);
    const uint64_t deep = make(below, "deep", S_IFREG | 0644);
    ck_assert_str_eq(ttl_of(file), "60");
    ck_assert_str_eq(ttl_of(below), "60");
    ck_assert_str_eq(ttl_of(deep), "60");
    /* A file without a name is not made in it before it gets one. */
    ck_assert_int_eq(fs_create_unnamed(volume, &root_caller, directory, 0600, &record), 0);
    const uint64_t unnamed = record.file.ino;
    clock_ns += 30 * SECOND;
    ck_assert_int_eq(fs_link(volume, unnamed, directory, "late", 4, &record), 0);
    ck_assert_str_eq(ttl_of(unnamed), "60");
    expect_sound();

    clock_ns += 30 * SECOND;
    ck_assert_int_eq(look(directory, "file"), -ENOENT);
    ck_assert_int_eq(look(directory, "below"), 0); /* a directory stays */
    ck_assert_int_eq(look(below, "deep"), -ENOENT);
    ck_assert_int_eq(look(directory, "late"), 0);
    ck_assert_int_eq(fs_removexattr(volume, directory, FS_XATTR_TTL), 0);
    ck_assert_str_eq(ttl_of(make(directory, "plain", S_IFREG | 0644)), "");
}
END_TEST

START_TEST(a_directory_that_holds_only_what_is_over_can_be_removed_and_replaced)
{
    for (int way = 0; way < 2; way++) {
        const uint64_t directory = make(1, "directory", S_IFDIR | 0755);
        const uint64_t other = make(1, "other", S_IFDIR | 0755);
        ck_assert_uint_ne(other, 0);
        for (int i = 0; i < 20; i++) {
            char name[16];
            snprintf(name, sizeof name, "file%d", i);
            ck_assert_int_eq(set_ttl(make(directory, name, S_IFREG | 0644), "1"), 0);
        }
        ck_assert_int_eq(fs_rmdir(volume, 1, "directory", 9), -ENOTEMPTY);
        clock_ns += SECOND;
        if (way == 0)
            ck_assert_int_eq(fs_rmdir(volume, 1, "directory", 9), 0);
        else
            ck_assert_int_eq(rename_in(1, "other", 1, "directory", 0), 0);
        ck_assert_int_eq(fs_rmdir(volume, 1, way ? "directory" : "other", way ? 9 : 5), 0);
        ck_assert_uint_eq(index_length(), 0);
    }
}
END_TEST

/* ---- in the background --------------------------------------------------------------------------
 */

struct told {
    unsigned count;
    char last[16];
};

static void note_expired(void *context, uint64_t directory, const char *name, size_t name_len)
{
    struct told *const told = context;
    ck_assert_uint_ne(directory, 0);
    told->count++;
    snprintf(told->last, sizeof told->last, "%.*s", (int)name_len, name);
}

START_TEST(what_is_over_goes_in_order_and_at_most_so_many_at_a_time)
{
    struct told told = {0};
    uint64_t count;
    int64_t next;
    for (int i = 0; i < 5; i++) {
        char name[16], ttl[16];
        snprintf(name, sizeof name, "file%d", i);
        snprintf(ttl, sizeof ttl, "%d", 10 - i);
        ck_assert_int_eq(set_ttl(make(1, name, S_IFREG | 0644), ttl), 0);
    }
    const int64_t start = clock_ns;
    ck_assert_int_eq(fs_expire(volume, 100, note_expired, &told, &count, &next), 0);
    ck_assert_uint_eq(count, 0);
    ck_assert_int_eq(next, start + 6 * SECOND);
    clock_ns += 8 * SECOND; /* file4, file3 and file2 are over */
    ck_assert_int_eq(fs_expire(volume, 2, note_expired, &told, &count, &next), 0);
    ck_assert_uint_eq(count, 2);
    ck_assert_uint_eq(told.count, 2);
    ck_assert_str_eq(told.last, "file3");
    ck_assert_int_le(next, clock_ns);
    ck_assert_int_eq(fs_expire(volume, 2, note_expired, &told, &count, &next), 0);
    ck_assert_uint_eq(count, 1);
    ck_assert_int_eq(next, start + 9 * SECOND);
    ck_assert_uint_eq(count_entries(1), 2);
}
END_TEST

START_TEST(the_clock_runs_on_while_nothing_is_mounted)
{
    const uint64_t directory = make(1, "directory", S_IFDIR | 0755);
    const uint64_t below = make(directory, "below", S_IFDIR | 0755);
    ck_assert_int_eq(set_ttl(make(below, "file", S_IFREG | 0644), "100"), 0);
    ck_assert_int_eq(set_ttl(make(1, "long", S_IFREG | 0644), "1000"), 0);
    remount();
    clock_ns += 100 * SECOND;
    ck_assert_uint_eq(expire(100), 1); /* its directory is not known to any kernel */
    expect_sound();
    ck_assert_uint_eq(index_length(), 1);
    clock_ns += 900 * SECOND;
    ck_assert_uint_eq(expire(100), 1);
}
END_TEST

START_TEST(an_index_that_lies_removes_nothing_and_is_put_away)
{
    uint8_t key[FS_EXPIRY_KEY_BYTES], place[FS_EXPIRY_VALUE_BYTES];
    const uint64_t plain = make(1, "plain", S_IFREG | 0644);
    const uint64_t later = make(1, "later", S_IFREG | 0644);
    ck_assert_int_eq(set_ttl(later, "1000"), 0);
    const struct {
        uint64_t expiry_ns, ino;
        const char *name;
    } lies[] = {
        {1, plain, "plain"}, {2, later, "later"}, {3, 77, "plain"}, {4, plain, "absent"},
        {5, 1, "plain"},     {6, plain, ""},      {7, 0, "plain"},
    };
    const size_t count = sizeof lies / sizeof *lies;
    for (size_t i = 0; i < count; i++) {
        fs_key_expiry(key, lies[i].expiry_ns, lies[i].ino);
        const size_t length = fs_parent_encode(1, lies[i].name, strlen(lies[i].name), place);
        ck_assert_int_eq(kv_put(scratch.store, key, sizeof key, place, length), 0);
    }
    ck_assert_uint_eq(expire(100), count);
    ck_assert_uint_eq(index_length(), 1);
    ck_assert_int_eq(look(1, "plain"), 0);
    ck_assert_int_eq(look(1, "later"), 0);
}
END_TEST

/* What can not be of the index goes, too: what is over behind it must not wait for it. */
START_TEST(a_key_of_another_length_does_not_hold_up_the_index)
{
    static const uint8_t keys[][3] = {{FS_KEY_EXPIRY}, {FS_KEY_EXPIRY, 0, 1}, {FS_KEY_EXPIRY, 9}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        ck_assert_int_eq(kv_put(scratch.store, keys[i], 1 + i, "place", 5), 0);
    ck_assert_int_eq(set_ttl(make(1, "file", S_IFREG | 0644), "1"), 0);
    clock_ns += SECOND;
    ck_assert_uint_eq(expire(100), 1);
    ck_assert_uint_eq(count_entries(1), 0);
    ck_assert_uint_eq(index_length(), 0);
}
END_TEST

/* The expirer has read where the file is; before it has its locks, the file is elsewhere. */
static void rename_it(void *context, uint64_t directory, const char *name, size_t name_len)
{
    const int64_t now = clock_ns;
    ck_assert(directory == 1 && name_len == 3 && !memcmp(name, "old", 3));
    clock_ns -= SECOND; /* it was renamed when it was not over yet */
    ck_assert_int_eq(rename_in(1, "old", 1, "new", 0), 0);
    clock_ns = now;
    ++*(unsigned *)context;
}

START_TEST(a_file_that_is_renamed_as_it_expires_is_removed_soon)
{
    unsigned renames = 0;
    uint64_t count;
    int64_t next;
    ck_assert_int_eq(set_ttl(make(1, "old", S_IFREG | 0644), "1"), 0);
    ck_assert_int_eq(set_ttl(make(1, "other", S_IFREG | 0644), "100"), 0);
    clock_ns += SECOND;
    ck_assert_int_eq(fs_expire(volume, 100, rename_it, &renames, &count, &next), 0);
    ck_assert_uint_eq(renames, 1);
    ck_assert_uint_eq(count, 0);
    ck_assert_int_le(next, clock_ns); /* so the next pass begins at once */
    ck_assert_uint_eq(expire(100), 1);
    ck_assert_uint_eq(index_length(), 1);
    ck_assert_uint_eq(count_entries(1), 1);
}
END_TEST

static void set_link_count(const char *name, uint32_t nlink)
{
    struct fs_key key;
    struct fs_record record;
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    fs_volume_close(volume);
    fs_key_entry(&key, 1, name, strlen(name));
    ck_assert_int_eq(kv_get(scratch.store, key.bytes, key.length, value, sizeof value, &length), 0);
    ck_assert_int_eq(fs_record_decode(value, length, &record), 0);
    record.nlink = nlink;
    length = fs_record_encode(&record, value);
    ck_assert_int_eq(kv_put(scratch.store, key.bytes, key.length, value, length), 0);
    open_volume();
}

/* A directory that counts no links has entries nevertheless: that is damage, and no reason to try
 * again and again. */
START_TEST(what_expires_in_a_directory_without_links_keeps_nobody_busy)
{
    for (int way = 0; way < 3; way++) {
        const uint64_t directory = make(1, "directory", S_IFDIR | 0755);
        (void)make(1, "other", S_IFDIR | 0755);
        ck_assert_int_eq(set_ttl(make(directory, "file", S_IFREG | 0644), "1"), 0);
        set_link_count("directory", 0);
        clock_ns += SECOND;
        (void)look(1, "directory");
        if (way == 0)
            ck_assert_int_eq(fs_rmdir(volume, 1, "directory", 9), -EUCLEAN);
        else if (way == 1)
            ck_assert_int_eq(rename_in(1, "other", 1, "directory", 0), -EUCLEAN);
        else
            ck_assert_uint_eq(expire(100), 1); /* the index entry is put away */
        set_link_count("directory", 2);
        ck_assert_int_eq(fs_rmdir(volume, 1, "directory", 9), 0);
        ck_assert_int_eq(fs_rmdir(volume, 1, "other", 5), 0);
        ck_assert_uint_eq(index_length(), 0);
    }
}
END_TEST

/* What has several names does not expire; a record that says so makes nobody try for ever. */
START_TEST(a_rename_over_a_link_that_says_it_has_expired_fails)
{
    struct fs_key key;
    struct fs_record record, link;
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    const uint64_t ino = make(1, "one", S_IFREG | 0644);
    (void)make(1, "other", S_IFREG | 0644);
    ck_assert_int_eq(fs_link(volume, ino, 1, "two", 3, &link), 0);
    fs_volume_close(volume);
    fs_key_ino(&key, FS_KEY_INODE, ino);
    ck_assert_int_eq(kv_get(scratch.store, key.bytes, key.length, value, sizeof value, &length), 0);
    ck_assert_int_eq(fs_record_decode(value, length, &record), 0);
    record.expiry_ns = 1;
    length = fs_record_encode(&record, value);
    ck_assert_int_eq(kv_put(scratch.store, key.bytes, key.length, value, length), 0);
    open_volume();
    ck_assert_int_eq(rename_in(1, "other", 1, "one", 0), -EUCLEAN);
    ck_assert_int_eq(rename_in(1, "one", 1, "other", 0), -EUCLEAN);
    fs_volume_close(volume);
    record.expiry_ns = 0;
    length = fs_record_encode(&record, value);
    ck_assert_int_eq(kv_put(scratch.store, key.bytes, key.length, value, length), 0);
    open_volume();
}
END_TEST

/* ---- at random
 * ------------------------------------------------------------------------------------ */

/*
 * Twelve names in two directories, changed at random while time goes by, against a model that
 * knows what each name holds and when that ends.
 */
#define NAMES 12u

struct model_name {
    uint64_t ino; /* 0: nothing */
    int64_t expiry;
};

static struct model_name *live(struct model_name *name)
{
    if (name->ino && name->expiry && name->expiry <= clock_ns)
        *name = (struct model_name){.ino = 0};
    return name;
}

START_TEST(names_come_go_and_expire_as_a_model_says)
{
    uint64_t state = scratch_seed();
    struct model_name model[NAMES] = {{.ino = 0}};
    const uint64_t directories[2] = {make(1, "one", S_IFDIR | 0755),
                                     make(1, "two", S_IFDIR | 0755)};
    for (unsigned step = 0; step < 6000; step++) {
        const unsigned a = (unsigned)scratch_below(&state, NAMES);
        const unsigned b = (unsigned)scratch_below(&state, NAMES);
        const uint64_t directory = directories[a % 2], to = directories[b % 2];
        struct model_name *const from_name = live(&model[a]), *const to_name = live(&model[b]);
        char name[16], other[16];
        uint64_t ino;
        snprintf(name, sizeof name, "n%u", a);
        snprintf(other, sizeof other, "n%u", b);
        switch (scratch_below(&state, 8)) {
        case 0:
        case 1:
            ck_assert_int_eq(make_node(directory, name, S_IFREG | 0644, &ino),
                             from_name->ino ? -EEXIST : 0);
            if (!from_name->ino) {
                *from_name = (struct model_name){.ino = ino};
                fs_forget(volume, ino, 1);
            }
            break;
        case 2:
        case 3: {
            struct fs_record record;
            char ttl[16];
            const int seconds = 1 + (int)scratch_below(&state, 30);
            snprintf(ttl, sizeof ttl, "%d", seconds);
            const int err = fs_lookup(volume, directory, name, strlen(name), &record);
            ck_assert_int_eq(err, from_name->ino ? 0 : -ENOENT);
            if (err)
                break;
            ck_assert_uint_eq(record.file.ino, from_name->ino);
            ck_assert_int_eq(set_ttl(record.file.ino, ttl), 0);
            from_name->expiry = clock_ns + seconds * SECOND;
            fs_forget(volume, record.file.ino, 1);
            break;
        }
        case 4: {
            const int err = rename_in(directory, name, to, other, 0);
            ck_assert_int_eq(err, from_name->ino ? 0 : -ENOENT);
            if (!err && a != b) {
                *to_name = *from_name;
                *from_name = (struct model_name){.ino = 0};
            }
            break;
        }
        case 5:
            ck_assert_int_eq(fs_unlink(volume, directory, name, strlen(name)),
                             from_name->ino ? 0 : -ENOENT);
            *from_name = (struct model_name){.ino = 0};
            break;
        case 6:
            clock_ns += (int64_t)scratch_below(&state, 3 * (uint64_t)SECOND);
            break;
        default:
            expire(1 + scratch_below(&state, 3));
            break;
        }
        if (step % 1000 == 999) {
            struct fs_record record;
            expect_sound();
            remount();
            ck_assert_int_eq(fs_lookup(volume, 1, "one", 3, &record), 0);
            ck_assert_int_eq(fs_lookup(volume, 1, "two", 3, &record), 0);
        }
    }
    for (unsigned i = 0; i < NAMES; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%u", i);
        ck_assert_int_eq(look(directories[i % 2], name), live(&model[i])->ino ? 0 : -ENOENT);
    }
    clock_ns += 100 * SECOND;
    expire(100);
    ck_assert_uint_eq(index_length(), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("expiry");
    TCase *words = tcase_create("durations");
    tcase_add_test(words, a_duration_is_digits_and_perhaps_a_unit);
    suite_add_tcase(s, words);

    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, setup, teardown);
    tcase_add_test(files, a_file_is_gone_at_its_moment_and_not_before);
    tcase_add_test(files, who_holds_it_still_reads_it_until_it_is_forgotten);
    tcase_add_test(files, the_attribute_can_be_changed_listed_and_removed);
    tcase_add_test(files, expiry_goes_with_the_file_through_renames);
    tcase_add_test(files, what_expires_has_one_name);
    tcase_add_test(files, a_name_that_is_over_can_be_used_again);
    tcase_add_test(files, a_directory_gives_its_default_to_what_is_made_in_it);
    tcase_add_test(files, a_directory_that_holds_only_what_is_over_can_be_removed_and_replaced);
    suite_add_tcase(s, files);

    TCase *background = tcase_create("background");
    tcase_add_checked_fixture(background, setup, teardown);
    tcase_set_timeout(background, 120);
    tcase_add_test(background, what_is_over_goes_in_order_and_at_most_so_many_at_a_time);
    tcase_add_test(background, the_clock_runs_on_while_nothing_is_mounted);
    tcase_add_test(background, an_index_that_lies_removes_nothing_and_is_put_away);
    tcase_add_test(background, a_key_of_another_length_does_not_hold_up_the_index);
    tcase_add_test(background, a_file_that_is_renamed_as_it_expires_is_removed_soon);
    tcase_add_test(background, what_expires_in_a_directory_without_links_keeps_nobody_busy);
    tcase_add_test(background, a_rename_over_a_link_that_says_it_has_expired_fails);
    tcase_add_test(background, names_come_go_and_expire_as_a_model_says);
    suite_add_tcase(s, background);
    return test_run(s);
}
