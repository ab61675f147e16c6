/*
 * fs/apply_packed.c: changes as bytes, and back.
 *
 * Invariant  what unpacking gives points into the bytes and nowhere else, and every path, name and
 *            target in it ends where its length says. What the filesystem makes of it, fs/apply.c
 *            decides.
 */
#include "fs/apply_packed.h"

#include "fs/xattr.h"

struct fs_disk_packed_change {
    uint8_t kind; /* enum fs_apply_kind */
    uint8_t keep_same;
    uint8_t reserved[2];
    kv_le32 path_len, to_len; /* without their zeros; to_len of FS_APPLY_LINK only */
    kv_le32 mode, uid, gid;
    kv_le64 rdev, atime_ns, mtime_ns;
    kv_le32 length; /* of the bytes */
    kv_le32 xattr_count;
};

struct fs_disk_packed_xattr {
    kv_le32 name_len, value_len; /* the first without its zero */
};

static_assert(sizeof(struct fs_disk_packed_header) == 16, "no holes");
static_assert(sizeof(struct fs_disk_packed_change) == 56, "no holes");
static_assert(sizeof(struct fs_disk_packed_xattr) == 8, "no holes");

#define XATTRS_MAX (FS_XATTR_LIST_MAX / 2) /* of one inode: each has a name */

/* ---- packing --------------------------------------------------------------------------- */

static bool is_link(const struct fs_apply_change *change)
{
    return change->kind == FS_APPLY_LINK;
}

uint64_t fs_apply_packed_size(const struct fs_apply_change *change)
{
    uint64_t size = sizeof(struct fs_disk_packed_change) + strlen(change->path) + 1;
    if (is_link(change))
        return size + strlen(change->to) + 1;
    size += change->length;
    for (size_t i = 0; i < change->attributes->xattr_count; i++) {
        const struct fs_apply_xattr *xattr = &change->attributes->xattrs[i];
        size += sizeof(struct fs_disk_packed_xattr) + strlen(xattr->name) + 1 + xattr->length;
    }
    return size;
}

static uint8_t *add(uint8_t *at, const void *bytes, size_t length)
{
    if (length > 0)
        memcpy(at, bytes, length);
    return at + length;
}

static uint8_t *add_string(uint8_t *at, const char *string)
{
    return add(at, string, strlen(string) + 1);
}

static uint8_t *pack_one(const struct fs_apply_change *change, uint8_t *at)
{
    struct fs_disk_packed_change head = {
        .kind = (uint8_t)change->kind,
        .path_len = kv_le32_of((uint32_t)strlen(change->path)),
    };
    if (is_link(change)) {
        head.to_len = kv_le32_of((uint32_t)strlen(change->to));
        return add_string(add_string(add(at, &head, sizeof head), change->path), change->to);
    }
    const struct fs_apply_attributes *attributes = change->attributes;
    head.keep_same = attributes->keep_same;
    head.mode = kv_le32_of(attributes->mode);
    head.uid = kv_le32_of(attributes->uid);
    head.gid = kv_le32_of(attributes->gid);
    head.rdev = kv_le64_of(attributes->rdev);
    head.atime_ns = kv_le64_of((uint64_t)attributes->atime_ns);
    head.mtime_ns = kv_le64_of((uint64_t)attributes->mtime_ns);
    head.length = kv_le32_of((uint32_t)change->length);
    head.xattr_count = kv_le32_of((uint32_t)attributes->xattr_count);
    at = add_string(add(at, &head, sizeof head), change->path);
    at = add(at, change->bytes, change->length);
    for (size_t i = 0; i < attributes->xattr_count; i++) {
        const struct fs_apply_xattr *xattr = &attributes->xattrs[i];
        const struct fs_disk_packed_xattr one = {kv_le32_of((uint32_t)strlen(xattr->name)),
                                                 kv_le32_of((uint32_t)xattr->length)};
        at = add_string(add(at, &one, sizeof one), xattr->name);
        at = add(at, xattr->value, xattr->length);
    }
    return at;
}

void fs_apply_pack(const struct fs_apply_change *changes, size_t count, void *out)
{
    uint8_t *at = (uint8_t *)out + sizeof(struct fs_disk_packed_header);
    for (size_t i = 0; i < count; i++)
        at = pack_one(&changes[i], at);
    const size_t length = (size_t)(at - (uint8_t *)out);
    KV_ASSERT(length <= FS_APPLY_PACKED_MAX);
    struct fs_disk_packed_header header = {.length = kv_le32_of((uint32_t)length),
                                           .count = kv_le32_of((uint32_t)count)};
    memcpy(header.magic, FS_APPLY_PACKED_MAGIC, sizeof header.magic);
    memcpy(out, &header, sizeof header);
}

/* ---- unpacking ------------------------------------------------------------------------- */

bool fs_apply_is_packed(const void *bytes, size_t length)
{
    return length >= sizeof(struct fs_disk_packed_header) &&
           memcmp(bytes, FS_APPLY_PACKED_MAGIC, sizeof FS_APPLY_PACKED_MAGIC - 1) == 0;
}

int fs_apply_packed_length(const void *bytes, size_t *length_all)
{
    struct fs_disk_packed_header header;
    memcpy(&header, bytes, sizeof header);
    *length_all = kv_le32_get(header.length);
    return *length_all < sizeof header || *length_all > FS_APPLY_PACKED_MAX ? -EINVAL : 0;
}

/* Bytes that are being read. */
struct reader {
    const uint8_t *at;
    size_t left;
};

/* The next so many bytes, or NULL if there are not so many. */
static const void *take(struct reader *reader, size_t length)
{
    const void *taken = reader->at;
    if (length > reader->left)
        return NULL;
    reader->at += length;
    reader->left -= length;
    return taken;
}

/* A string of so many bytes, and its zero. */
static const char *take_string(struct reader *reader, size_t length)
{
    const char *string = length < reader->left ? take(reader, length + 1) : NULL;
    return string && !memchr(string, '\0', length) && string[length] == '\0' ? string : NULL;
}

static bool take_xattr(struct reader *reader, struct fs_apply_xattr *xattr)
{
    struct fs_disk_packed_xattr head;
    const void *bytes = take(reader, sizeof head);
    if (!bytes)
        return false;
    memcpy(&head, bytes, sizeof head);
    xattr->length = kv_le32_get(head.value_len);
    xattr->name = take_string(reader, kv_le32_get(head.name_len));
    xattr->value = xattr->name ? take(reader, xattr->length) : NULL;
    return xattr->value != NULL;
}

/* What only some kinds of inodes have: content, a device's number. */
static bool is_of_its_kind(const struct fs_apply_change *change)
{
    const uint32_t mode = change->attributes->mode;
    if (mode & ~(uint32_t)(S_IFMT | 07777))
        return false;
    if (change->attributes->rdev > (S_ISCHR(mode) || S_ISBLK(mode) ? UINT32_MAX : 0))
        return false;
    switch (mode & S_IFMT) {
    case S_IFREG:
        return true;
    case S_IFLNK:
        return change->length >= 1 && change->length <= FS_SYMLINK_MAX &&
               !memchr(change->bytes, '\0', change->length);
    default:
        return change->length == 0;
    }
}

/* Changes that are being unpacked. */
struct unpacking {
    struct reader reader;
    struct fs_apply_unpacked *out;
    size_t xattr_count, xattr_capacity;
};

/*
 * The attributes of the change at `index`. They may move until all are there, so that what points
 * to them is set at the end (point_to_xattrs).
 */
static int unpack_xattrs(struct unpacking *unpacking, size_t index, size_t count)
{
    struct fs_apply_unpacked *out = unpacking->out;
    if (count > XATTRS_MAX)
        return -EINVAL;
    if (count > unpacking->xattr_capacity - unpacking->xattr_count) {
        const size_t capacity = 2 * unpacking->xattr_capacity + count;
        struct fs_apply_xattr *xattrs = reallocarray(out->xattrs, capacity, sizeof *xattrs);
        if (!xattrs)
            return -ENOMEM;
        out->xattrs = xattrs;
        unpacking->xattr_capacity = capacity;
    }
    for (size_t i = 0; i < count; i++)
        if (!take_xattr(&unpacking->reader, &out->xattrs[unpacking->xattr_count++]))
            return -EINVAL;
    out->attributes[index].xattr_count = count;
    return 0;
}

static int unpack_one(struct unpacking *unpacking, size_t index)
{
    struct reader *reader = &unpacking->reader;
    struct fs_apply_change *change = &unpacking->out->changes[index];
    struct fs_disk_packed_change head;
    const void *bytes = take(reader, sizeof head);
    if (!bytes)
        return -EINVAL;
    memcpy(&head, bytes, sizeof head);
    if (head.reserved[0] || head.reserved[1] || head.keep_same > 1)
        return -EINVAL;
    change->kind = head.kind;
    change->path = take_string(reader, kv_le32_get(head.path_len));
    if (!change->path)
        return -EINVAL;
    if (head.kind == FS_APPLY_LINK) {
        change->to = take_string(reader, kv_le32_get(head.to_len));
        return change->to && !kv_le32_get(head.length) && !kv_le32_get(head.xattr_count) ? 0
                                                                                         : -EINVAL;
    }
    if (head.kind != FS_APPLY_STORE || kv_le32_get(head.to_len))
        return -EINVAL;
    struct fs_apply_attributes *attributes = &unpacking->out->attributes[index];
    *attributes = (struct fs_apply_attributes){
        .mode = kv_le32_get(head.mode),
        .uid = kv_le32_get(head.uid),
        .gid = kv_le32_get(head.gid),
        .rdev = kv_le64_get(head.rdev),
        .atime_ns = (int64_t)kv_le64_get(head.atime_ns),
        .mtime_ns = (int64_t)kv_le64_get(head.mtime_ns),
        .keep_same = head.keep_same,
    };
    change->attributes = attributes;
    change->length = kv_le32_get(head.length);
    change->bytes = take(reader, change->length);
    if (!change->bytes || !is_of_its_kind(change))
        return -EINVAL;
    return unpack_xattrs(unpacking, index, kv_le32_get(head.xattr_count));
}

static void point_to_xattrs(struct fs_apply_unpacked *out)
{
    struct fs_apply_xattr *next = out->xattrs;
    for (size_t i = 0; i < out->count; i++) {
        out->attributes[i].xattrs = next;
        if (next)
            next += out->attributes[i].xattr_count;
    }
}

int fs_apply_unpack(const void *bytes, size_t length, struct fs_apply_unpacked *out,
                    struct kv_error *error)
{
    struct fs_disk_packed_header header;
    size_t length_all;
    *out = (struct fs_apply_unpacked){.count = 0};
    int err =
        fs_apply_is_packed(bytes, length) ? fs_apply_packed_length(bytes, &length_all) : -EINVAL;
    if (!err && length_all != length)
        err = -EINVAL;
    if (err) {
        (void)snprintf(error->text, sizeof error->text,
                       "packed changes do not have the length that they say they have");
        return err;
    }
    memcpy(&header, bytes, sizeof header);
    const size_t count = kv_le32_get(header.count);
    struct unpacking unpacking = {
        .reader = {(const uint8_t *)bytes + sizeof header, length - sizeof header}, .out = out};
    if (count > unpacking.reader.left / sizeof(struct fs_disk_packed_change))
        err = -EINVAL;
    if (!err && count > 0) {
        out->changes = calloc(count, sizeof *out->changes);
        out->attributes = calloc(count, sizeof *out->attributes);
        err = out->changes && out->attributes ? 0 : -ENOMEM;
    }
    for (size_t i = 0; !err && i < count; i++) {
        err = unpack_one(&unpacking, i);
        if (err == -EINVAL)
            (void)snprintf(error->text, sizeof error->text,
                           "packed change %zu of %zu is not well formed", i + 1, count);
    }
    if (!err && unpacking.reader.left > 0)
        err = -EINVAL;
    if (err == -EINVAL && !*error->text)
        (void)snprintf(error->text, sizeof error->text,
                       "packed changes are not as many as they say");
    if (err) {
        fs_apply_unpacked_release(out);
        return err;
    }
    out->count = count;
    point_to_xattrs(out);
    return 0;
}

void fs_apply_unpacked_release(struct fs_apply_unpacked *unpacked)
{
    free(unpacked->changes);
    free(unpacked->attributes);
    free(unpacked->xattrs);
    *unpacked = (struct fs_apply_unpacked){.count = 0};
}

/* ---- whose they are -------------------------------------------------------------------- */

bool fs_apply_is_privileged(const char *xattr_name)
{
    return strncmp(xattr_name, "trusted.", 8) == 0 || strncmp(xattr_name, "security.", 9) == 0;
}

int fs_apply_confine(const struct fs_apply_unpacked *unpacked, const struct fs_caller *caller,
                     struct kv_error *error)
{
    if (caller->uid == 0)
        return 0;
    for (size_t i = 0; i < unpacked->count; i++) {
        struct fs_apply_attributes *attributes = &unpacked->attributes[i];
        bool may = !S_ISCHR(attributes->mode) && !S_ISBLK(attributes->mode);
        for (size_t x = 0; may && x < attributes->xattr_count; x++)
            may = !fs_apply_is_privileged(attributes->xattrs[x].name);
        if (!may) {
            (void)snprintf(error->text, sizeof error->text,
                           "%.300s: devices and trusted or security attributes are for root",
                           unpacked->changes[i].path);
            return -EPERM;
        }
        attributes->uid = caller->uid;
        attributes->gid = caller->gid;
    }
    return 0;
}
