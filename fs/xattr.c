/*
 * fs/xattr.c: extended attributes, as X records of the store.
 *
 * Invariant  a stored name passes fs_xattr_check_name.
 */
#include "fs/xattr.h"

#include <sys/xattr.h>

#define PREFIX_BYTES  9u /* of a key, before the name */
#define KEY_BYTES_MAX (PREFIX_BYTES + FS_XATTR_NAME_MAX)

static const struct known_name {
    const char *name;
    uint32_t flag;
} known_names[] = {
    {FS_XATTR_ACCESS_ACL, FS_RECORD_ACCESS_ACL},
    {FS_XATTR_DEFAULT_ACL, FS_RECORD_DEFAULT_ACL},
    {FS_XATTR_CAPABILITY, FS_RECORD_CAPABILITY},
};

int fs_xattr_check_name(const char *name)
{
    static const char *const namespaces[] = {"user.", "trusted.", "security."};
    const size_t length = strlen(name);
    if (length > FS_XATTR_NAME_MAX)
        return -ERANGE;
    for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++) {
        const size_t prefix = strlen(namespaces[i]);
        if (strncmp(name, namespaces[i], prefix) == 0)
            return length > prefix ? 0 : -EINVAL;
    }
    if (strcmp(name, FS_XATTR_ACCESS_ACL) == 0 || strcmp(name, FS_XATTR_DEFAULT_ACL) == 0)
        return 0;
    return -EOPNOTSUPP;
}

uint32_t fs_xattr_flag(const char *name)
{
    for (size_t i = 0; i < sizeof known_names / sizeof *known_names; i++)
        if (strcmp(name, known_names[i].name) == 0)
            return known_names[i].flag;
    return 0;
}

static size_t make_key(uint8_t key[KEY_BYTES_MAX], uint64_t ino, const char *name)
{
    const size_t name_len = strlen(name);
    KV_ASSERT(name_len <= FS_XATTR_NAME_MAX);
    key[0] = FS_KEY_XATTR;
    kv_be64_put(key + 1, ino);
    memcpy(key + PREFIX_BYTES, name, name_len);
    return PREFIX_BYTES + name_len;
}

/* The record's flags say that there can be no such attribute. */
static bool is_absent(uint32_t flags, const char *name)
{
    const uint32_t own = fs_xattr_flag(name);
    return !(flags & FS_RECORD_XATTRS) || (own && !(flags & own));
}

int fs_xattr_get(struct kv_store *store, uint64_t ino, uint32_t flags, const char *name, void *buf,
                 size_t cap, size_t *length)
{
    int err = fs_xattr_check_name(name);
    if (err)
        return err;
    if (is_absent(flags, name))
        return -ENODATA;
    uint8_t key[KEY_BYTES_MAX];
    const size_t key_len = make_key(key, ino, name);
    err = kv_get(store, key, key_len, buf, cap, length);
    if (err == -ERANGE && cap == 0)
        return 0;
    return err == -ENOENT ? -ENODATA : err;
}

int fs_xattr_any(struct kv_store *store, bool *any)
{
    static const uint8_t prefix[] = {FS_KEY_XATTR};
    struct kv_cursor *cursor;
    int err = kv_cursor_open_prefix(store, prefix, sizeof prefix, &cursor);
    if (err)
        return err;
    err = kv_cursor_first(cursor);
    *any = !err;
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

static int open_names(struct kv_store *store, uint64_t ino, struct kv_cursor **cursor)
{
    uint8_t prefix[PREFIX_BYTES] = {FS_KEY_XATTR};
    kv_be64_put(prefix + 1, ino);
    return kv_cursor_open_prefix(store, prefix, sizeof prefix, cursor);
}

static const char *name_at(struct kv_cursor *cursor, size_t *name_len)
{
    size_t key_len;
    const char *const key = kv_cursor_key(cursor, &key_len);
    *name_len = key_len - PREFIX_BYTES; /* the cursor's prefix is that long */
    return key + PREFIX_BYTES;
}

int fs_xattr_list(struct kv_store *store, uint64_t ino, uint32_t flags, bool with_trusted,
                  char *buf, size_t cap, size_t *length)
{
    static const char trusted[] = "trusted.";
    *length = 0;
    if (!(flags & FS_RECORD_XATTRS))
        return 0;
    struct kv_cursor *cursor;
    int err = open_names(store, ino, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        size_t name_len;
        const char *const name = name_at(cursor, &name_len);
        if (!with_trusted && name_len >= sizeof trusted - 1 &&
            memcmp(name, trusted, sizeof trusted - 1) == 0)
            continue;
        const size_t at = *length;
        *length += name_len + 1;
        if (*length > cap)
            continue;
        memcpy(buf + at, name, name_len);
        buf[at + name_len] = '\0';
    }
    kv_cursor_close(cursor);
    if (err != -ENOENT)
        return err;
    return cap > 0 && *length > cap ? -ERANGE : 0;
}

/* Is there such an attribute? 0 or -ENODATA. */
static int probe(struct kv_store *store, uint64_t ino, uint32_t flags, const char *name)
{
    size_t length;
    return fs_xattr_get(store, ino, flags, name, NULL, 0, &length);
}

int fs_xattr_set(struct kv_store *store, uint64_t ino, uint32_t *flags, const char *name,
                 const void *value, size_t length, int set_flags, struct kv_batch *batch)
{
    if (set_flags & ~(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    if (length > FS_XATTR_VALUE_MAX)
        return -E2BIG;
    int err = probe(store, ino, *flags, name);
    if (err && err != -ENODATA)
        return err;
    if (err && (set_flags & XATTR_REPLACE))
        return -ENODATA;
    if (!err && (set_flags & XATTR_CREATE) && !KV_PLANT(xattr_create_overwrites))
        return -EEXIST;
    if (err) {
        size_t names_bytes;
        err = fs_xattr_list(store, ino, *flags, true, NULL, 0, &names_bytes);
        if (err)
            return err;
        if (names_bytes + strlen(name) + 1 > FS_XATTR_LIST_MAX)
            return -ENOSPC;
    }
    uint8_t key[KEY_BYTES_MAX];
    const size_t key_len = make_key(key, ino, name);
    err = kv_batch_put(batch, key, key_len, value, length);
    if (!err)
        *flags |= FS_RECORD_XATTRS | fs_xattr_flag(name);
    return err;
}

/* Has the inode an attribute besides `name`? */
static int has_other(struct kv_store *store, uint64_t ino, const char *name, bool *other)
{
    struct kv_cursor *cursor;
    int err = open_names(store, ino, &cursor);
    if (err)
        return err;
    *other = false;
    for (err = kv_cursor_first(cursor); !err && !*other; err = kv_cursor_next(cursor)) {
        size_t name_len;
        const char *const found = name_at(cursor, &name_len);
        *other = name_len != strlen(name) || memcmp(found, name, name_len) != 0;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

int fs_xattr_remove(struct kv_store *store, uint64_t ino, uint32_t *flags, const char *name,
                    struct kv_batch *batch)
{
    int err = probe(store, ino, *flags, name);
    if (err)
        return err;
    bool other;
    err = has_other(store, ino, name, &other);
    if (err)
        return err;
    uint8_t key[KEY_BYTES_MAX];
    const size_t key_len = make_key(key, ino, name);
    err = kv_batch_del(batch, key, key_len);
    if (err)
        return err;
    *flags &= ~fs_xattr_flag(name);
    if (!other)
        *flags &= ~(uint32_t)FS_RECORD_XATTRS;
    return 0;
}

int fs_xattr_delete_all(uint64_t ino, struct kv_batch *batch)
{
    uint8_t lower[PREFIX_BYTES] = {FS_KEY_XATTR}, upper[PREFIX_BYTES] = {FS_KEY_XATTR};
    size_t upper_len = sizeof upper;
    kv_be64_put(lower + 1, ino);
    kv_be64_put(upper + 1, ino + 1);
    if (ino == UINT64_MAX) {
        upper[0] = FS_KEY_XATTR + 1;
        upper_len = 1;
    }
    return kv_batch_del_range(batch, lower, sizeof lower, upper, upper_len);
}

int fs_xattr_key_parse(const void *key, size_t key_len, uint64_t *ino, const char **name,
                       size_t *name_len)
{
    char copy[FS_XATTR_NAME_MAX + 1];
    const int err = fs_key_ino_parse(key, key_len, FS_KEY_XATTR, ino);
    if (err)
        return err;
    *name = (const char *)key + PREFIX_BYTES;
    *name_len = key_len - PREFIX_BYTES;
    if (*name_len > FS_XATTR_NAME_MAX || memchr(*name, '\0', *name_len))
        return -EUCLEAN;
    memcpy(copy, *name, *name_len);
    copy[*name_len] = '\0';
    return fs_xattr_check_name(copy) ? -EUCLEAN : 0;
}
