/*
 * fs/acl.c: POSIX access control lists, as they stand in extended attributes.
 *
 * Invariant  a list is validated before any of its entries is acted on.
 */
#include "fs/acl.h"

#include <assert.h>

static_assert(sizeof(struct fs_disk_acl_header) == 4, "list header is the kernel's");
static_assert(sizeof(struct fs_disk_acl_entry) == 8, "list entry is the kernel's");

/* Where the three permission groups of the mode come from; a null pointer: not present. */
struct shape {
    struct fs_disk_acl_entry *user, *group, *mask, *other;
    bool named; /* USER or GROUP entries are there */
};

static size_t entry_count(size_t length)
{
    return (length - sizeof(struct fs_disk_acl_header)) / sizeof(struct fs_disk_acl_entry);
}

static struct fs_disk_acl_entry *entries_of(void *acl)
{
    return (struct fs_disk_acl_entry *)((uint8_t *)acl + sizeof(struct fs_disk_acl_header));
}

/* Note one entry in the shape; false if it may not follow those before it. */
static bool accept_entry(struct shape *shape, struct fs_disk_acl_entry *entry)
{
    if (kv_le16_get(entry->perm) > 7)
        return false;
    switch (kv_le16_get(entry->tag)) {
    case FS_ACL_USER_OBJ:
        if (shape->user)
            return false;
        shape->user = entry;
        return true;
    case FS_ACL_USER:
        shape->named = true;
        return shape->user && !shape->group && kv_le32_get(entry->id) != FS_ACL_NO_ID;
    case FS_ACL_GROUP_OBJ:
        if (!shape->user || shape->group)
            return false;
        shape->group = entry;
        return true;
    case FS_ACL_GROUP:
        shape->named = true;
        return shape->group && !shape->mask && !shape->other &&
               kv_le32_get(entry->id) != FS_ACL_NO_ID;
    case FS_ACL_MASK:
        if (!shape->group || shape->mask || shape->other)
            return false;
        shape->mask = entry;
        return true;
    case FS_ACL_OTHER:
        if (!shape->group || shape->other)
            return false;
        shape->other = entry;
        return true;
    default:
        return false;
    }
}

static int parse(void *acl, size_t length, struct shape *shape)
{
    struct fs_disk_acl_header header;
    *shape = (struct shape){0};
    if (length < sizeof header)
        return -EINVAL;
    memcpy(&header, acl, sizeof header);
    if (kv_le32_get(header.version) != FS_ACL_VERSION)
        return -EOPNOTSUPP;
    if ((length - sizeof header) % sizeof(struct fs_disk_acl_entry))
        return -EINVAL;
    const size_t count = entry_count(length);
    if (count == 0)
        return -ENODATA;
    struct fs_disk_acl_entry *const entries = entries_of(acl);
    for (size_t i = 0; i < count; i++)
        if (!accept_entry(shape, &entries[i]))
            return -EINVAL;
    if (!shape->other || (shape->named && !shape->mask))
        return -EINVAL;
    return 0;
}

/* For those who only look: parse itself changes nothing. */
static int parse_const(const void *acl, size_t length, struct shape *shape)
{
    union {
        const void *in;
        void *out;
    } borrowed = {.in = acl};
    return parse(borrowed.out, length, shape);
}

int fs_acl_validate(const void *acl, size_t length)
{
    struct shape shape;
    return parse_const(acl, length, &shape);
}

static uint32_t shape_bits(const struct shape *shape)
{
    const struct fs_disk_acl_entry *const group =
        shape->mask && !KV_PLANT(acl_mask_ignored) ? shape->mask : shape->group;
    return (uint32_t)kv_le16_get(shape->user->perm) << 6 | (uint32_t)kv_le16_get(group->perm) << 3 |
           kv_le16_get(shape->other->perm);
}

int fs_acl_to_mode(const void *acl, size_t length, uint32_t *bits, bool *minimal)
{
    struct shape shape;
    const int err = parse_const(acl, length, &shape);
    if (err)
        return err;
    *bits = shape_bits(&shape);
    *minimal = !shape.mask;
    return 0;
}

static void set_bits(const struct shape *shape, uint32_t mode)
{
    struct fs_disk_acl_entry *const group = shape->mask ? shape->mask : shape->group;
    shape->user->perm = kv_le16_of((mode >> 6) & 7);
    group->perm = kv_le16_of((mode >> 3) & 7);
    shape->other->perm = kv_le16_of(mode & 7);
}

int fs_acl_set_mode(void *acl, size_t length, uint32_t mode)
{
    struct shape shape;
    const int err = parse(acl, length, &shape);
    if (!err)
        set_bits(&shape, mode);
    return err;
}

int fs_acl_inherit(const void *default_acl, size_t length, uint32_t umask, uint32_t *mode,
                   void *access, bool *keep_access)
{
    *keep_access = false;
    if (length == 0) {
        *mode &= ~(umask & 0777u);
        return 0;
    }
    struct shape shape;
    const int err = parse_const(default_acl, length, &shape);
    if (err)
        return err;
    *mode &= ~0777u | shape_bits(&shape);
    memcpy(access, default_acl, length);
    *keep_access = shape.mask != NULL;
    return fs_acl_set_mode(access, length, *mode);
}
