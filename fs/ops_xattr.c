/*
 * fs/ops_xattr.c: extended attributes, and the ACLs among them.
 *
 * Invariant  an access ACL and the mode never disagree: whoever changes the one changes the
 *            other in the same batch. A list that says no more than the mode is not stored.
 * Locks      the inode, shared to read, exclusive to change.
 */
#include <sys/xattr.h>

#include "fs/acl.h"
#include "fs/expiry.h"
#include "fs/inode.h"
#include "fs/xattr.h"

/*
 * Who lists with attributes asks for the SELinux label of each file, which is a request for each,
 * and stops when told that there are no labels here (ls does, for a file system). So that is the
 * answer where nothing has an attribute. Where SELinux is on it has its labels of a FUSE mount from
 * its policy, as it has for whoever says this when it mounts.
 */
static int without_labels(struct fs_volume *volume, const char *name)
{
    bool any = true;
    if (strcmp(name, "security.selinux") == 0 && !fs_xattr_any(volume->store, &any) && !any)
        return -EOPNOTSUPP;
    return -ENODATA;
}

int fs_getxattr(struct fs_volume *volume, uint64_t ino, const char *name, void *value, size_t cap,
                size_t *length)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    int err = fs_item_load_first(volume, ino, &item);
    if (!err)
        err = strcmp(name, FS_XATTR_TTL) == 0
                  ? fs_ttl_get(volume, &item.record, value, cap, length)
                  : fs_xattr_get(volume->store, ino, item.record.flags, name, value, cap, length);
    fs_lock_drop(volume->locks, &locks);
    return err == -ENODATA ? without_labels(volume, name) : err;
}

/* The attribute that is no X record. */
static int add_ttl_name(char *names, size_t cap, size_t *length)
{
    static const char name[] = FS_XATTR_TTL;
    const size_t at = *length;
    *length += sizeof name;
    if (*length > cap)
        return cap ? -ERANGE : 0;
    memcpy(names + at, name, sizeof name);
    return 0;
}

int fs_listxattr(struct fs_volume *volume, uint64_t ino, bool with_trusted, char *names, size_t cap,
                 size_t *length)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_item item;
    fs_lock_add(&locks, ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    int err = fs_item_load_first(volume, ino, &item);
    if (!err)
        err =
            fs_xattr_list(volume->store, ino, item.record.flags, with_trusted, names, cap, length);
    if ((!err || err == -ERANGE) && item.record.expiry_ns)
        err = add_ttl_name(names, cap, length);
    fs_lock_drop(volume->locks, &locks);
    return err;
}

static int remove_attribute(struct fs_volume *volume, struct fs_data_change *change,
                            struct fs_record *record, const char *name)
{
    return fs_xattr_remove(volume->store, record->file.ino, &record->flags, name, change->batch);
}

static int set_attribute(struct fs_volume *volume, struct fs_data_change *change,
                         struct fs_record *record, const char *name, const void *value,
                         size_t length, int flags)
{
    return fs_xattr_set(volume->store, record->file.ino, &record->flags, name, value, length, flags,
                        change->batch);
}

/* Remove a list if it is there. */
static int remove_list(struct fs_volume *volume, struct fs_data_change *change,
                       struct fs_record *record, const char *name)
{
    if (!(record->flags & fs_xattr_flag(name)))
        return 0;
    return remove_attribute(volume, change, record, name);
}

static int set_access_acl(struct fs_volume *volume, struct fs_data_change *change,
                          struct fs_record *record, const void *acl, size_t length, int flags,
                          bool kill_setgid)
{
    uint32_t bits;
    bool minimal;
    int err = fs_acl_to_mode(acl, length, &bits, &minimal);
    if (err == -ENODATA)
        return remove_list(volume, change, record, FS_XATTR_ACCESS_ACL);
    if (err)
        return err;
    record->mode = (record->mode & ~0777u) | bits;
    if (kill_setgid && !KV_PLANT(setgid_kept))
        record->mode &= ~(uint32_t)S_ISGID;
    if (minimal)
        return remove_list(volume, change, record, FS_XATTR_ACCESS_ACL);
    return set_attribute(volume, change, record, FS_XATTR_ACCESS_ACL, acl, length, flags);
}

static int set_default_acl(struct fs_volume *volume, struct fs_data_change *change,
                           struct fs_record *record, const void *acl, size_t length, int flags)
{
    const int err = fs_acl_validate(acl, length);
    if (err == -ENODATA)
        return remove_list(volume, change, record, FS_XATTR_DEFAULT_ACL);
    if (!S_ISDIR(record->mode)) /* first, as the kernel has it elsewhere */
        return -EACCES;
    if (err)
        return err;
    return set_attribute(volume, change, record, FS_XATTR_DEFAULT_ACL, acl, length, flags);
}

struct set_request {
    const char *name;
    const void *value; /* NULL: remove */
    size_t length;
    int flags;
    bool kill_setgid;
};

static int edit(struct fs_volume *volume, struct fs_data_change *change, struct fs_item *item,
                const struct set_request *request)
{
    struct fs_record *const record = &item->record;
    if (strcmp(request->name, FS_XATTR_TTL) == 0)
        return fs_change_ttl(volume, change, item, request->value, request->length, request->flags);

    const uint32_t flag = fs_xattr_flag(request->name);
    const bool is_acl = flag & FS_RECORD_ACLS;
    if (is_acl && S_ISLNK(record->mode))
        return -EOPNOTSUPP;
    if (!request->value && is_acl) /* to have none is what is asked for: no error */
        return remove_list(volume, change, record, request->name);
    if (!request->value)
        return remove_attribute(volume, change, record, request->name);
    if (flag == FS_RECORD_ACCESS_ACL)
        return set_access_acl(volume, change, record, request->value, request->length,
                              request->flags, request->kill_setgid);
    if (flag == FS_RECORD_DEFAULT_ACL)
        return set_default_acl(volume, change, record, request->value, request->length,
                               request->flags);
    return set_attribute(volume, change, record, request->name, request->value, request->length,
                         request->flags);
}

static int change_attribute_once(struct fs_volume *volume, uint64_t ino,
                                 const struct set_request *request)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_data_change change;
    struct fs_item item;
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
    fs_lock_take(volume->locks, &locks);
    err = fs_item_load(volume, ino, &item);
    if (!err)
        err = edit(volume, &change, &item, request);
    if (!err) {
        item.record.ctime_ns = fs_time_now();
        err = fs_change_put(&change, &item);
    }
    if (!err)
        err = fs_change_apply(volume, &change, request->value ? 0 : KV_APPLY_URGENT);
    fs_lock_drop(volume->locks, &locks);
    fs_data_change_release(&change);
    return err;
}

static int change_attribute(struct fs_volume *volume, uint64_t ino,
                            const struct set_request *request)
{
    int err;
    do
        err = change_attribute_once(volume, ino, request);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}

int fs_setxattr(struct fs_volume *volume, uint64_t ino, const char *name, const void *value,
                size_t length, int flags, bool kill_setgid)
{
    const struct set_request request = {
        .name = name,
        .value = value ? value : "",
        .length = length,
        .flags = flags,
        .kill_setgid = kill_setgid,
    };
    return change_attribute(volume, ino, &request);
}

int fs_removexattr(struct fs_volume *volume, uint64_t ino, const char *name)
{
    const struct set_request request = {.name = name};
    return change_attribute(volume, ino, &request);
}

/* ---- all that another has ------------------------------------------------------- */

/* Bytes of attributes in a batch; one more may come on top. A log takes half a MiB, at least. */
#define COPY_BYTES (128u << 10)

/*
 * What is in a change goes ahead of the rest: the item's record tells of the attributes that it has
 * by then. Leaves an empty change.
 */
static int put_part(struct fs_volume *volume, struct fs_data_change *change, struct fs_item *item,
                    uint32_t flags)
{
    item->record.flags = flags;
    const int err = fs_change_put(change, item);
    return err ? err : fs_change_apply(volume, change, 0);
}

/* Add an attribute that a cursor stands on to the change, as another inode's. */
static int copy_attribute(struct fs_data_change *change, struct kv_cursor *cursor, uint64_t ino,
                          uint32_t *flags, size_t *bytes)
{
    size_t key_len, value_len, name_len;
    const void *value, *key = kv_cursor_key(cursor, &key_len);
    const char *name;
    uint64_t from;
    struct fs_key to;
    char terminated[FS_XATTR_NAME_MAX + 1];
    int err = fs_xattr_key_parse(key, key_len, &from, &name, &name_len);
    if (err)
        return err;
    memcpy(terminated, name, name_len);
    terminated[name_len] = '\0';
    const uint32_t flag = fs_xattr_flag(terminated);
    if (flag == FS_RECORD_CAPABILITY)
        return 0;
    err = kv_cursor_value(cursor, &value, &value_len);
    if (err)
        return err;
    fs_key_ino(&to, FS_KEY_XATTR, ino);
    memcpy(to.bytes + to.length, name, name_len);
    *flags |= FS_RECORD_XATTRS | flag;
    *bytes += to.length + name_len + value_len;
    return kv_batch_put(change->batch, to.bytes, to.length + name_len, value, value_len);
}

/* part: the item whose record it is, to be written in parts; NULL: all is to be one change. */
static int copy_xattrs(struct fs_volume *volume, struct fs_data_change *change,
                       struct fs_record *record, const struct fs_record *from, struct fs_item *part)
{
    struct fs_key prefix;
    struct kv_cursor *cursor;
    uint32_t flags = 0;
    size_t bytes = 0;
    int err =
        record->flags & FS_RECORD_XATTRS ? fs_xattr_delete_all(record->file.ino, change->batch) : 0;
    record->flags = from->flags & ~(uint32_t)FS_RECORD_CAPABILITY;
    if (err || !(from->flags & FS_RECORD_XATTRS))
        return err;
    fs_key_ino(&prefix, FS_KEY_XATTR, from->file.ino);
    err = kv_cursor_open_prefix(volume->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        err = copy_attribute(change, cursor, record->file.ino, &flags, &bytes);
        if (!err && part && bytes >= COPY_BYTES) {
            err = put_part(volume, change, part, flags);
            bytes = 0;
        }
        if (err)
            break;
    }
    kv_cursor_close(cursor);
    record->flags = from->flags & ~(uint32_t)FS_RECORD_CAPABILITY;
    if (!flags)
        record->flags &= ~(uint32_t)FS_RECORD_XATTRS;
    return err == -ENOENT ? 0 : err;
}

int fs_change_copy_xattrs(struct fs_volume *volume, struct fs_data_change *change,
                          struct fs_record *record, const struct fs_record *from)
{
    return copy_xattrs(volume, change, record, from, NULL);
}

static int copy_attributes_once(struct fs_volume *volume, uint64_t ino, uint64_t from_ino)
{
    struct fs_lock_set locks = FS_LOCK_SET_INIT;
    struct fs_data_change change;
    struct fs_item item, from;
    int err = fs_data_change_init(&change, volume->store);
    if (err)
        return err;
    fs_lock_add(&locks, ino, FS_LOCK_EXCLUSIVE);
    fs_lock_add(&locks, from_ino, FS_LOCK_SHARED);
    fs_lock_take(volume->locks, &locks);
    err = fs_item_load(volume, ino, &item);
    if (!err)
        err = fs_item_load(volume, from_ino, &from);
    if (!err)
        err = copy_xattrs(volume, &change, &item.record, &from.record, &item);
    if (!err) {
        item.record.mode = (item.record.mode & S_IFMT) | (from.record.mode & 07777u);
        item.record.uid = from.record.uid;
        item.record.gid = from.record.gid;
        item.record.ctime_ns = fs_time_now();
        err = fs_change_put(&change, &item);
    }
    if (!err)
        err = fs_change_apply(volume, &change, 0);
    fs_lock_drop(volume->locks, &locks);
    fs_data_change_release(&change);
    return err;
}

int fs_copy_attributes(struct fs_volume *volume, uint64_t ino, uint64_t from_ino)
{
    int err;
    do
        err = copy_attributes_once(volume, ino, from_ino);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}

/* ---- ACLs of other operations ---------------------------------------------------- */

/* Fetch a list into memory that the caller frees. */
static int load_list(struct fs_volume *volume, const struct fs_record *record, const char *name,
                     void **list, size_t *length)
{
    *list = malloc(FS_XATTR_VALUE_MAX);
    if (!*list)
        return -ENOMEM;
    const int err = fs_xattr_get(volume->store, record->file.ino, record->flags, name, *list,
                                 FS_XATTR_VALUE_MAX, length);
    /* The record's flag promises that it is there. */
    return err == -ENODATA || err == -ERANGE ? -EUCLEAN : err;
}

int fs_change_acl_mode(struct fs_volume *volume, struct fs_data_change *change,
                       struct fs_record *record)
{
    if (!(record->flags & FS_RECORD_ACCESS_ACL))
        return 0;
    void *list;
    size_t length;
    int err = load_list(volume, record, FS_XATTR_ACCESS_ACL, &list, &length);
    if (!err)
        err = fs_acl_set_mode(list, length, record->mode) ? -EUCLEAN : 0;
    if (!err)
        err = set_attribute(volume, change, record, FS_XATTR_ACCESS_ACL, list, length, 0);
    free(list);
    return err;
}

int fs_change_inherit_acl(struct fs_volume *volume, struct fs_data_change *change,
                          const struct fs_record *parent, uint32_t umask, struct fs_record *record)
{
    if (S_ISLNK(record->mode))
        return 0;
    if (!(parent->flags & FS_RECORD_DEFAULT_ACL)) {
        record->mode &= ~(umask & 0777u);
        return 0;
    }
    void *list, *access = NULL;
    size_t length;
    bool keep = false;
    int err = load_list(volume, parent, FS_XATTR_DEFAULT_ACL, &list, &length);
    if (!err && !(access = malloc(length)))
        err = -ENOMEM;
    if (!err)
        err = fs_acl_inherit(list, length, umask, &record->mode, access, &keep) ? -EUCLEAN : 0;
    if (!err && keep)
        err = set_attribute(volume, change, record, FS_XATTR_ACCESS_ACL, access, length, 0);
    if (!err && S_ISDIR(record->mode))
        err = set_attribute(volume, change, record, FS_XATTR_DEFAULT_ACL, list, length, 0);
    free(access);
    free(list);
    return err;
}
