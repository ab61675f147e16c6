/*
 * tests/fs/test_apply.c: several changes as one: what each may do on what the others left, the
 * same changes one after the other as a model, and the text form.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/apply.h"
#include "fs/expiry.h"
#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/namespace.h"
#include "scratch_store.h"
#include "tests/run.h"

static const struct fs_caller caller = {.uid = 1000, .gid = 1000, .umask = 022};

/* An image with a filesystem in it. */
struct place {
    struct scratch_store scratch;
    struct fs_volume *volume;
};
static struct place a, b;

static int64_t clock_ns = INT64_C(1700000000000000000);
static int64_t tell_time(void)
{
    return clock_ns;
}

static void place_open(struct place *place)
{
    const struct fs_volume_options options = {.now = tell_time};
    struct kv_error error = {""};
    scratch_open(&place->scratch, 64u << 20, 0, 0);
    ck_assert_int_eq(fs_format(place->scratch.store, 0, 0, 0755), 0);
    ck_assert_int_eq(fs_volume_open(place->scratch.store, &options, &place->volume, &error), 0);
}

static void take_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    (void)context;
    ck_assert_msg(severity == KV_CHECK_NOTE, "%s: %s", what, text);
}

/* Whatever was done, the records fit together. */
static void place_close(struct place *place)
{
    const struct kv_check_options options = {.report = take_finding};
    struct kv_check_result result;
    fs_volume_close(place->volume);
    ck_assert_int_eq(fs_check(place->scratch.store, &options, &result), 0);
    ck_assert_uint_eq(result.damaged + result.repairable, 0);
    ck_assert_int_eq(kv_check(place->scratch.store, &options, &result), 0);
    ck_assert_uint_eq(result.damaged + result.repairable, 0);
    scratch_close(&place->scratch);
}

static void setup(void)
{
    place_open(&a);
}
static void teardown(void)
{
    place_close(&a);
}

static struct fs_apply_result result;

static int apply(const char *text)
{
    return fs_apply_text(a.volume, &caller, text, strlen(text), NULL, &result);
}

static void applies(const char *text)
{
    const int err = apply(text);
    ck_assert_msg(err == 0, "%s: %s", text, result.error.text);
}

static void refuses(const char *text, int err, uint64_t line, const char *words)
{
    ck_assert_int_eq(apply(text), err);
    ck_assert_uint_eq(result.line, line);
    ck_assert_msg(strstr(result.error.text, words) != NULL, "%s: %s", words, result.error.text);
}

struct content {
    char bytes[4096];
    size_t length;
};

static int take(void *context, const void *bytes, size_t length)
{
    struct content *content = context;
    if (content->length + length <= sizeof content->bytes)
        memcpy(content->bytes + content->length, bytes, length);
    content->length += length;
    return 0;
}

static void holds(const char *path, const char *value)
{
    struct content content = {.length = 0};
    const int err = fs_path_read(a.volume, path, take, &content);
    ck_assert_msg(err == (value ? 0 : -ENOENT), "%s: %s", path, strerror(-err));
    if (value) {
        ck_assert_uint_eq(content.length, strlen(value));
        ck_assert_mem_eq(content.bytes, value, content.length);
    }
}

/* ---- changes ------------------------------------------------------------------------ */

START_TEST(changes_build_on_each_other)
{
    applies("put users/42/name Ada\n"
            "put users/42/mail \"ada@example.org\"\n"
            "rename users/42 users/43\n"
            "put users/43/name Grace\n"
            "delete users/43/mail\n"
            "mkdir empty/in\n"
            "delete empty/in\n"
            "discard never\n");
    holds("users/43/name", "Grace");
    holds("users/43/mail", NULL);
    holds("users/42/name", NULL);
    applies("rename users/43/name top\ndelete users/43\ndelete users");
    holds("top", "Grace");
}
END_TEST

START_TEST(nothing_is_made_when_one_may_not_be)
{
    applies("put a 1\nput d/b 2\n");
    refuses("put a 3\ndelete d/b\nput c 4\ndelete missing\n", -ENOENT, 4, "missing: no such key");
    holds("a", "1");
    holds("d/b", "2");
    holds("c", NULL);
    refuses("delete d\n", -ENOTEMPTY, 1, "d: ");
    refuses("put d x\n", -EISDIR, 1, "d: ");
    refuses("put a/b x\n", -ENOTDIR, 1, "a/b: ");
    refuses("rename a d\n", -EISDIR, 1, "a, d: ");
    refuses("rename d d/e/f\n", -EINVAL, 1, "d, d/e/f: ");
    refuses("put ok 1\n\n# remark\nput a//b 1\n", -EINVAL, 4, "line 4: a//b: ");
    refuses("mkdir a\n", -EEXIST, 1, "a: ");
    refuses("link x d\n", -EPERM, 1, "x, d: ");
    holds("ok", NULL);
    applies("delete d/b\ndelete d\nput d value\n");
    holds("d", "value");
}
END_TEST

START_TEST(many_changes_are_one_record_of_the_log)
{
    struct kv_stats before, after;
    char *text = malloc(2000 * 32);
    int length = 0;
    ck_assert_ptr_nonnull(text);
    applies("put first 1\n"); /* and the inode numbers for what follows */
    for (int i = 0; i < 2000; i++)
        length += sprintf(text + length, "put d%d/k%d value%d\n", i % 7, i, i);
    kv_store_stats(a.scratch.store, &before);
    ck_assert_int_eq(fs_apply_text(a.volume, &caller, text, (size_t)length, NULL, &result), 0);
    kv_store_stats(a.scratch.store, &after);
    ck_assert_uint_eq(after.log_records - before.log_records, 1);
    ck_assert_uint_eq(result.change_count, 2000);
    holds("d4/k1999", "value1999");
    free(text);
}
END_TEST

START_TEST(more_than_the_log_takes_is_refused_whole)
{
    const size_t length = 40u << 20;
    char *text = malloc(length + 4096);
    size_t at = 0;
    ck_assert_ptr_nonnull(text);
    for (unsigned i = 0; at < length; i++) {
        at += (size_t)sprintf(text + at, "put k%u @1000\n", i);
        memset(text + at, 'v', 1000);
        at += 1000;
        text[at++] = '\n';
    }
    ck_assert_int_eq(fs_apply_text(a.volume, &caller, text, at, NULL, &result), -E2BIG);
    ck_assert_msg(strstr(result.error.text, "log") != NULL, "%s", result.error.text);
    holds("k0", NULL);
    free(text);
}
END_TEST

START_TEST(a_replaced_value_keeps_mode_owner_and_attributes)
{
    struct fs_record old, new;
    char value[16];
    size_t length;
    applies("put file old\n");
    ck_assert_int_eq(fs_lookup(a.volume, FS_ROOT_INO, "file", 4, &old), 0);
    const struct fs_attr_change change = {
        .valid = FS_ATTR_MODE | FS_ATTR_UID, .mode = 0604, .uid = 77};
    ck_assert_int_eq(fs_setattr(a.volume, old.file.ino, &change, &old), 0);
    ck_assert_int_eq(fs_setxattr(a.volume, old.file.ino, "user.x", "yes", 3, 0, false), 0);
    ck_assert_int_eq(fs_setxattr(a.volume, old.file.ino, "security.capability", "c", 1, 0, false),
                     0);
    applies("put file new\n");
    ck_assert_int_eq(fs_lookup(a.volume, FS_ROOT_INO, "file", 4, &new), 0);
    ck_assert_uint_ne(new.file.ino, old.file.ino);
    ck_assert_uint_eq(new.mode, S_IFREG | 0604);
    ck_assert_uint_eq(new.uid, 77);
    ck_assert_int_eq(fs_getxattr(a.volume, new.file.ino, "user.x", value, sizeof value, &length),
                     0);
    ck_assert_uint_eq(length, 3);
    ck_assert_int_eq(
        fs_getxattr(a.volume, new.file.ino, "security.capability", value, sizeof value, &length),
        -ENODATA);
    /* Whoever has the old one open goes on reading it. */
    size_t got;
    ck_assert_int_eq(fs_read(a.volume, old.file.ino, 0, value, sizeof value, &got), 0);
    ck_assert_uint_eq(got, 3);
    ck_assert_mem_eq(value, "old", 3);
    fs_forget(a.volume, old.file.ino, 1);
    fs_forget(a.volume, new.file.ino, 1);
}
END_TEST

START_TEST(links_follow_their_file)
{
    struct fs_record record;
    applies("put one 1\nlink two one\nlink d/three two\nrename one four\n");
    ck_assert_int_eq(fs_path_stat(a.volume, "d/three", &record), 0);
    ck_assert_uint_eq(record.nlink, 3);
    applies("put two other\ndelete four\n");
    holds("d/three", "1");
    holds("two", "other");
    ck_assert_int_eq(fs_path_stat(a.volume, "d/three", &record), 0);
    ck_assert_uint_eq(record.nlink, 1);
    applies("rename d/three four\nlink five four\ndelete four\ndelete five\n");
    holds("five", NULL);
}
END_TEST

START_TEST(a_large_value_is_stored_as_it_is)
{
    const size_t sizes[] = {255, 257, 8192, 8193, 1u << 20, (1u << 20) + 1, (5u << 20) + 12345};
    uint64_t random = 7;
    char *text = malloc(6u << 20), *back = malloc(6u << 20);
    ck_assert(text && back);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int head = sprintf(text, "put large%zu @%zu\n", i, sizes[i]);
        for (size_t at = 0; at < sizes[i]; at++)
            text[(size_t)head + at] = (char)(scratch_random(&random) >> (at & 32));
        const size_t length = (size_t)head + sizes[i];
        ck_assert_int_eq(fs_apply_text(a.volume, &caller, text, length, NULL, &result), 0);
        struct fs_record record;
        char name[16];
        const int name_len = sprintf(name, "large%zu", i);
        size_t got = 0;
        ck_assert_int_eq(fs_lookup(a.volume, FS_ROOT_INO, name, (size_t)name_len, &record), 0);
        ck_assert_uint_eq(record.file.size, sizes[i]);
        ck_assert_int_eq(fs_read(a.volume, record.file.ino, 0, back, 6u << 20, &got), 0);
        ck_assert_uint_eq(got, sizes[i]);
        ck_assert_int_eq(memcmp(back, text + head, got), 0);
        fs_forget(a.volume, record.file.ino, 1);
    }
    free(text);
    free(back);
}
END_TEST

START_TEST(a_new_value_inherits_the_default_acl_through_new_directories)
{
    /* version 2; user rwx, user 99 rwx, group r-x, mask rwx, other --- (fs/acl.h) */
    static const uint8_t acl[] = {2,  0, 0, 0,                         /* */
                                  1,  0, 7, 0, 0xff, 0xff, 0xff, 0xff, /* */
                                  2,  0, 7, 0, 99,   0,    0,    0,    /* */
                                  4,  0, 5, 0, 0xff, 0xff, 0xff, 0xff, /* */
                                  16, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, /* */
                                  32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
    struct fs_record record;
    applies("mkdir top\n");
    ck_assert_int_eq(fs_lookup(a.volume, FS_ROOT_INO, "top", 3, &record), 0);
    ck_assert_int_eq(fs_setxattr(a.volume, record.file.ino, "system.posix_acl_default", acl,
                                 sizeof acl, 0, false),
                     0);
    fs_forget(a.volume, record.file.ino, 1);
    applies("put top/new/deep/file value\n");
    ck_assert_int_eq(fs_path_stat(a.volume, "top/new/deep/file", &record), 0);
    ck_assert_uint_eq(record.flags & FS_RECORD_ACCESS_ACL, FS_RECORD_ACCESS_ACL);
    ck_assert_int_eq(fs_path_stat(a.volume, "top/new/deep", &record), 0);
    ck_assert_uint_eq(record.flags & FS_RECORD_DEFAULT_ACL, FS_RECORD_DEFAULT_ACL);
}
END_TEST

START_TEST(what_expires_does_so_through_batches)
{
    struct fs_record record;
    applies("mkdir d\nput plain 1\n");
    ck_assert_int_eq(fs_path_setxattr(a.volume, "d", FS_XATTR_TTL, "100", 3), 0);
    ck_assert_int_eq(fs_path_setxattr(a.volume, "plain", FS_XATTR_TTL, "50", 2), 0);
    applies("put d/new 1\nput d/in/deep 2\nrename plain moved\nput d/gone 3\ndelete d/gone\n");
    ck_assert_int_eq(fs_path_stat(a.volume, "d/in/deep", &record), 0);
    ck_assert_uint_eq(record.expiry_ns, (uint64_t)clock_ns + UINT64_C(100000000000));
    refuses("link x moved\n", -EPERM, 1, "moved");
    refuses("put d/y 1\nlink x d/y\n", -EPERM, 2, "d/y");
    clock_ns += INT64_C(60000000000);
    refuses("delete moved\n", -ENOENT, 1, "moved: no such key");
    applies("put moved again\n");
    holds("moved", "again");
    applies("rename d/new d/newer\nput d/in/deep 4\n");
    clock_ns += INT64_C(50000000000);
    holds("d/newer", NULL);
    holds("d/in/deep", "4");
    clock_ns += INT64_C(60000000000);
    applies("delete d/in\n"); /* nothing but what is over is in it */
    applies("rename moved d/kept\n");
    ck_assert_int_eq(fs_path_stat(a.volume, "d/kept", &record), 0);
    ck_assert_uint_eq(record.expiry_ns, 0);
}
END_TEST

/* A directory like that of before in all but its default time, which is `ttl`. */
static struct fs_apply_change directory_with_ttl(const char *path, const char *ttl,
                                                 struct fs_apply_xattr *xattr,
                                                 struct fs_apply_attributes *attributes)
{
    *xattr = (struct fs_apply_xattr){FS_XATTR_TTL, ttl, strlen(ttl)};
    *attributes = (struct fs_apply_attributes){.mode = S_IFDIR | 0755,
                                               .mtime_ns = 1000,
                                               .xattrs = xattr,
                                               .xattr_count = 1,
                                               .keep_same = true};
    return (struct fs_apply_change){.kind = FS_APPLY_STORE, .path = path, .attributes = attributes};
}

START_TEST(the_default_time_of_a_directory_is_stored_though_all_else_is_the_same)
{
    static const char *const ttls[] = {"100", "200", "200", "", "1m"};
    static const uint64_t seconds[] = {100, 200, 200, 0, 60};
    struct fs_apply_xattr xattr;
    struct fs_apply_attributes attributes;
    struct fs_record record;
    for (size_t i = 0; i < sizeof ttls / sizeof ttls[0]; i++) {
        const struct fs_apply_change change = directory_with_ttl("d", ttls[i], &xattr, &attributes);
        ck_assert_int_eq(fs_apply(a.volume, &caller, &change, 1, 0, NULL, &result), 0);
        ck_assert_int_eq(fs_path_stat(a.volume, "d", &record), 0);
        ck_assert_uint_eq(record.expiry_ns, seconds[i] * FS_NS_PER_SECOND);
        ck_assert_int_eq(record.mtime_ns, 1000);
    }
}
END_TEST

START_TEST(an_empty_default_time_is_none_for_what_comes_after)
{
    struct fs_apply_xattr xattrs[2];
    struct fs_apply_attributes attributes[3];
    struct fs_record record;
    struct fs_apply_change changes[3] = {
        directory_with_ttl("d", "100", &xattrs[0], &attributes[0])};
    ck_assert_int_eq(fs_apply(a.volume, &caller, changes, 1, 0, NULL, &result), 0);
    changes[0] = directory_with_ttl("d", "", &xattrs[0], &attributes[0]);
    changes[1] = directory_with_ttl("d/in", "", &xattrs[1], &attributes[1]);
    attributes[2] = (struct fs_apply_attributes){.mode = S_IFREG | 0644};
    changes[2] = (struct fs_apply_change){
        .kind = FS_APPLY_STORE, .path = "d/in/file", .attributes = &attributes[2]};
    ck_assert_int_eq(fs_apply(a.volume, &caller, changes, 3, 0, NULL, &result), 0);
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_eq(fs_path_stat(a.volume, changes[i].path, &record), 0);
        ck_assert_uint_eq(record.expiry_ns, 0);
    }
}
END_TEST

struct seen {
    size_t entries, inodes;
};
static void see_entry(void *context, uint64_t directory, const char *name, size_t name_len)
{
    if (directory == FS_ROOT_INO)
        ck_assert(name_len == 1 && (*name == 'x' || *name == 'y'));
    else
        ck_assert(name_len == 3 && memcmp(name, "new", 3) == 0);
    ((struct seen *)context)->entries++;
}
static void see_inode(void *context, uint64_t ino)
{
    ck_assert_uint_ge(ino, FS_ROOT_INO);
    ((struct seen *)context)->inodes++;
}

START_TEST(the_observer_sees_what_a_cache_must_forget)
{
    struct seen seen = {0};
    const struct fs_apply_observer observer = {see_entry, see_inode, &seen};
    static const char text[] = "rename x y\nput y/new 1\nput y/gone 2\ndelete y/gone\n";
    struct fs_record record;
    applies("put x/old 1\nput unknown/old 1\n");
    ck_assert_int_eq(fs_lookup(a.volume, FS_ROOT_INO, "x", 1, &record), 0);
    ck_assert_int_eq(fs_apply_text(a.volume, &caller, text, sizeof text - 1, &observer, &result),
                     0);
    ck_assert_uint_eq(seen.entries, 3);
    ck_assert_uint_eq(seen.inodes, 2); /* the root and the directory that moved */
    fs_forget(a.volume, record.file.ino, 1);
    /* Of a directory that the kernel does not know it has cached nothing. */
    seen = (struct seen){0};
    static const char more[] = "put unknown/new 1\nput y/more 1\n";
    ck_assert_int_eq(fs_apply_text(a.volume, &caller, more, sizeof more - 1, &observer, &result),
                     0);
    ck_assert_uint_eq(seen.entries + seen.inodes, 0);
}
END_TEST

/* ---- against single changes ------------------------------------------------------------ */

struct census {
    char text[1 << 20];
    size_t length;
};

static void dump(struct place *place, const char *path, struct census *census);

struct lister {
    struct place *place;
    const char *path;
    struct census *census;
};

static bool dump_entry(void *context, const struct fs_dirent *entry)
{
    const struct lister *lister = context;
    char below[512];
    snprintf(below, sizeof below, "%s%s%.*s", lister->path, *lister->path ? "/" : "",
             (int)entry->name_len, entry->name);
    dump(lister->place, below, lister->census);
    return true;
}

static void dump(struct place *place, const char *path, struct census *census)
{
    struct fs_record record;
    struct content content = {.length = 0};
    ck_assert_int_eq(fs_path_stat(place->volume, path, &record), 0);
    if (S_ISREG(record.mode))
        ck_assert_int_eq(fs_path_read(place->volume, path, take, &content), 0);
    census->length += (size_t)snprintf(
        census->text + census->length, sizeof census->text - census->length, "%s %o %u %.*s\n",
        path, record.mode, record.nlink, (int)content.length, content.bytes);
    ck_assert_uint_lt(census->length, sizeof census->text);
    struct lister lister = {place, path, census};
    if (S_ISDIR(record.mode))
        ck_assert_int_eq(fs_path_list(place->volume, path, dump_entry, &lister), 0);
}

/* The directory above a path, with a reference; its number. */
static uint64_t directory_of(struct place *place, const char *path, const char **name)
{
    uint64_t ino = FS_ROOT_INO;
    struct fs_record record;
    for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
        ck_assert_int_eq(fs_lookup(place->volume, ino, path, (size_t)(slash - path), &record), 0);
        ino = record.file.ino;
    }
    *name = path;
    return ino;
}

static ssize_t give(void *context, void *buf, size_t cap)
{
    const char **text = context;
    const size_t length = kv_min_u64(strlen(*text), cap);
    memcpy(buf, *text, length);
    *text += length;
    return (ssize_t)length;
}

static bool way_is_open(struct place *place, const char *path)
{
    char above[64];
    struct fs_record record;
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(above, sizeof above, "%.*s", (int)(slash - path), path);
        const int err = fs_path_stat(place->volume, above, &record);
        if (err == -ENOENT)
            return true;
        if (err || !S_ISDIR(record.mode))
            return false;
    }
    return true;
}

/* Do the change by the single operations; false: it may not be, and nothing was done. */
static bool change_single(struct place *place, const struct fs_apply_change *change)
{
    const char *name, *to_name, *text = change->bytes;
    struct fs_record record, to_record;
    const int there = fs_path_stat(place->volume, change->path, &record);
    switch (change->kind) {
    case FS_APPLY_PUT:
        if (!way_is_open(place, change->path) || (!there && !S_ISREG(record.mode)))
            return false;
        ck_assert_int_eq(fs_path_write(place->volume, &caller, change->path, give, &text), 0);
        return true;
    case FS_APPLY_MKDIR:
        if (!way_is_open(place, change->path) || (!there && !S_ISDIR(record.mode)))
            return false;
        ck_assert_int_eq(fs_path_mkdirs(place->volume, &caller, change->path), 0);
        return true;
    case FS_APPLY_DELETE: {
        if (there)
            return false;
        const uint64_t directory = directory_of(place, change->path, &name);
        return (S_ISDIR(record.mode)
                    ? fs_rmdir(place->volume, directory, name, strlen(name))
                    : fs_unlink(place->volume, directory, name, strlen(name))) == 0;
    }
    case FS_APPLY_LINK: {
        const int to_there = fs_path_stat(place->volume, change->to, &to_record);
        if (to_there || S_ISDIR(to_record.mode) || !there || !way_is_open(place, change->path))
            return false; /* links over what is there are left out here */
        char above[64];
        snprintf(above, sizeof above, "%s", change->path);
        if (strrchr(above, '/')) {
            *strrchr(above, '/') = '\0';
            ck_assert_int_eq(fs_path_mkdirs(place->volume, &caller, above), 0);
        }
        const uint64_t from = directory_of(place, change->to, &to_name);
        ck_assert_int_eq(fs_lookup(place->volume, from, to_name, strlen(to_name), &record), 0);
        const uint64_t directory = directory_of(place, change->path, &name);
        ck_assert_int_eq(
            fs_link(place->volume, record.file.ino, directory, name, strlen(name), &record), 0);
        fs_forget(place->volume, record.file.ino, 2);
        return true;
    }
    case FS_APPLY_RENAME: {
        if (there || !way_is_open(place, change->to))
            return false;
        const size_t length = strlen(change->path);
        if (strncmp(change->to, change->path, length) == 0 && change->to[length] == '/')
            return false;
        char above[64];
        const int to_there = fs_path_stat(place->volume, change->to, &to_record);
        snprintf(above, sizeof above, "%s", change->to);
        if (to_there && strrchr(above, '/')) {
            *strrchr(above, '/') = '\0';
            ck_assert_int_eq(fs_path_mkdirs(place->volume, &caller, above), 0);
        }
        const uint64_t directory = directory_of(place, change->path, &name);
        const uint64_t to = directory_of(place, change->to, &to_name);
        return fs_rename(place->volume, directory, name, strlen(name), to, to_name, strlen(to_name),
                         0) == 0;
    }
    default:
        ck_abort();
    }
    return false;
}

static const char *random_path(uint64_t *random, char path[64])
{
    static const char *const names[] = {"a", "b", "c", "d"};
    *path = '\0';
    const uint64_t depth = 1 + scratch_below(random, 3);
    for (uint64_t i = 0; i < depth; i++) {
        strcat(path, i ? "/" : "");
        strcat(path, names[scratch_below(random, 4)]);
    }
    return path;
}

#define ROUNDS      80
#define CHANGES_MAX 24

/* Each round: changes that are possible one after the other are one batch in the other place. */
START_TEST(a_batch_is_as_its_changes_one_by_one)
{
    static const enum fs_apply_kind kinds[] = {FS_APPLY_PUT,    FS_APPLY_PUT,    FS_APPLY_PUT,
                                               FS_APPLY_DELETE, FS_APPLY_DELETE, FS_APPLY_RENAME,
                                               FS_APPLY_RENAME, FS_APPLY_MKDIR,  FS_APPLY_LINK};
    static char paths[CHANGES_MAX][2][64], values[CHANGES_MAX][700];
    static struct census one, other;
    uint64_t random = scratch_seed(), refused = 0, made = 0;
    place_open(&b);
    for (int round = 0; round < ROUNDS; round++) {
        struct fs_apply_change changes[CHANGES_MAX];
        size_t count = 0;
        const size_t wanted = 1 + scratch_below(&random, CHANGES_MAX);
        for (size_t tries = 0; count < wanted && tries < 100; tries++) {
            const size_t length = scratch_below(&random, sizeof values[count]);
            memset(values[count], (int)('a' + scratch_below(&random, 26)), length);
            values[count][length] = '\0';
            changes[count] = (struct fs_apply_change){
                .kind = kinds[scratch_below(&random, sizeof kinds / sizeof kinds[0])],
                .path = random_path(&random, paths[count][0]),
                .to = random_path(&random, paths[count][1]),
                .bytes = values[count],
                .length = length};
            if (change_single(&a, &changes[count])) {
                made++;
                count++;
            } else {
                refused++;
            }
        }
        ck_assert_msg(fs_apply(b.volume, &caller, changes, count, 0, NULL, &result) == 0,
                      "round %d: %s", round, result.error.text);
        one.length = other.length = 0;
        dump(&a, "", &one);
        dump(&b, "", &other);
        ck_assert_msg(one.length == other.length && !memcmp(one.text, other.text, one.length),
                      "round %d\n%s\n--- in one batch:\n%s", round, one.text, other.text);
    }
    place_close(&b);
    printf("%d batches, %llu changes, %llu refused: no difference\n", ROUNDS,
           (unsigned long long)made, (unsigned long long)refused);
}
END_TEST

/* ---- the text ------------------------------------------------------------------------------ */

START_TEST(words_are_binary_safe)
{
    static const char good[] = "put \"a b\\n\\x80\\\"\" \"\\0\\\\\\t\"\n"
                               "  put raw @5  \nA\n\0Bc\n"
                               "put\tempty @0\n\n"
                               "put quoted \"@5\"";
    struct fs_apply_batch *batch;
    const struct fs_apply_change *changes;
    ck_assert_msg(fs_apply_parse(good, sizeof good - 1, &batch, &result) == 0, "%s",
                  result.error.text);
    ck_assert_uint_eq(fs_apply_batch_changes(batch, &changes), 4);
    ck_assert_str_eq(changes[0].path, "a b\n\x80\"");
    ck_assert_uint_eq(changes[0].length, 3);
    ck_assert_mem_eq(changes[0].bytes, "\0\\\t", 3);
    ck_assert_uint_eq(changes[1].length, 5);
    ck_assert_mem_eq(changes[1].bytes, "A\n\0Bc", 5);
    ck_assert_uint_eq(changes[2].length, 0);
    ck_assert_mem_eq(changes[3].bytes, "@5", 2);
    fs_apply_batch_free(batch);
}
END_TEST

START_TEST(a_line_that_is_not_well_formed_is_named)
{
    static const struct {
        const char *text, *words;
        uint64_t line;
    } bad[] = {
        {"put a 1\nset b 2\n", "no such change", 2},
        {"put\n", "a key is missing", 1},
        {"put a\n", "a value is missing", 1},
        {"rename a\n", "the new key is missing", 1},
        {"delete a b\n", "more than is wanted", 1},
        {"put a b c\n", "more than is wanted", 1},
        {"put \"a 1\n", "not closed", 1},
        {"put \"a\"b 1\n", "closing quote", 1},
        {"put a \"\\q\"\n", "no such escape", 1},
        {"put a \"\\x4\"\n", "hexadecimal", 1},
        {"put a \"\\", "after a backslash", 1},
        {"put a\\b 1\n", "wants quotes", 1},
        {"put @a 1\n", "wants quotes", 1},
        {"put a #1\n", "wants quotes", 1},
        {"put a @x\n", "number of bytes", 1},
        {"put a @99999999999999999999999\n", "number of bytes", 1},
        {"put a @10\nabc\n", "only 4 bytes", 1},
        {"put a @2\nabc\n", "no newline", 1},
        {"put a @3\na\nb\nput\n", "a key is missing", 4},
        {"put \"a\\0b\" 1\n", "zero byte", 1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refuses(bad[i].text, -EINVAL, bad[i].line, bad[i].words);
    applies("");
    applies("\n \n# nothing\n");
}
END_TEST

START_TEST(a_text_may_stand_in_a_file_of_the_filesystem)
{
    static const char text[] = "put from/file yes\n";
    struct fs_record record;
    char command[40];
    ck_assert_int_eq(fs_create_unnamed(a.volume, &caller, FS_ROOT_INO, 0600, &record), 0);
    ck_assert_int_eq(fs_write(a.volume, record.file.ino, 0, text, sizeof text - 1, false), 0);
    snprintf(command, sizeof command, "inode %llu\n", (unsigned long long)record.file.ino);
    applies(command);
    holds("from/file", "yes");
    fs_forget(a.volume, record.file.ino, 1);
    refuses(command, -EINVAL, 0, "that a program has open");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("apply");
    TCase *cases = tcase_create("apply");
    tcase_set_timeout(cases, 400);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_add_test(cases, changes_build_on_each_other);
    tcase_add_test(cases, nothing_is_made_when_one_may_not_be);
    tcase_add_test(cases, many_changes_are_one_record_of_the_log);
    tcase_add_test(cases, more_than_the_log_takes_is_refused_whole);
    tcase_add_test(cases, a_replaced_value_keeps_mode_owner_and_attributes);
    tcase_add_test(cases, links_follow_their_file);
    tcase_add_test(cases, a_large_value_is_stored_as_it_is);
    tcase_add_test(cases, a_new_value_inherits_the_default_acl_through_new_directories);
    tcase_add_test(cases, what_expires_does_so_through_batches);
    tcase_add_test(cases, the_default_time_of_a_directory_is_stored_though_all_else_is_the_same);
    tcase_add_test(cases, an_empty_default_time_is_none_for_what_comes_after);
    tcase_add_test(cases, the_observer_sees_what_a_cache_must_forget);
    tcase_add_test(cases, a_batch_is_as_its_changes_one_by_one);
    tcase_add_test(cases, words_are_binary_safe);
    tcase_add_test(cases, a_line_that_is_not_well_formed_is_named);
    tcase_add_test(cases, a_text_may_stand_in_a_file_of_the_filesystem);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
