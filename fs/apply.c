/*
 * fs/apply.c: several changes of the tree as one.
 *
 * Owns       what a change may do, looked at in the state that those before it left.
 * Invariant  nothing is written before all changes have been found possible; then it is one
 *            batch, and the inode table learns what moved only when that is applied.
 * Locks      rename_mutex and all inode locks, from the first look to the end of kv_apply: which
 *            inodes are concerned shows only on the way. The observer is called without them.
 *
 * Only the last state is written (apply_write.c): a value that is put twice is stored once, and
 * what was made and removed again costs nothing.
 */
#include "fs/apply.h"

#include <stdio.h>

#include "fs/acl.h"
#include "fs/apply_state.h"
#include "fs/expiry.h"
#include "fs/policy_lookup.h"
#include "fs/reaper.h"
#include "fs/xattr.h"

/* ---- ways -------------------------------------------------------------------------------- */

static int make_directory(struct apply_state *state, struct apply_entry *entry)
{
    struct apply_node *node;
    return apply_state_new(state, entry, S_IFDIR | 0777u, &node);
}

/* Every name of a path, before anything is looked up. */
static int check_path(const char *path)
{
    for (const char *name = *path == '/' ? path + 1 : path;;) {
        const char *slash = strchrnul(name, '/');
        const int err = fs_name_check(name, (size_t)(slash - name));
        if (err || !*slash)
            return err;
        name = slash + 1;
    }
}

/*
 * The entry that a path names.
 *
 * make   directories that are missing on the way are made.
 * avoid  a directory that must not lie on the way (-EINVAL), or NULL.
 */
static int walk(struct apply_state *state, const char *path, bool make,
                const struct apply_node *avoid, struct apply_entry **entry)
{
    struct apply_node *directory = state->root;
    const char *name = *path == '/' ? path + 1 : path;
    int err = check_path(path);
    while (!err) {
        const char *slash = strchrnul(name, '/');
        const size_t name_len = (size_t)(slash - name);
        if (directory == state->root && fs_volume_is_reserved(state->volume, name, name_len))
            return -EACCES;
        err = apply_state_entry(state, directory, name, name_len, entry);
        if (err || !*slash)
            return err;
        if (!(*entry)->now && make)
            err = make_directory(state, *entry);
        if (err)
            return err;
        directory = (*entry)->now;
        if (!directory)
            return -ENOENT;
        if (!S_ISDIR(directory->item.record.mode))
            return -ENOTDIR;
        if (directory == avoid)
            return -EINVAL;
        name = slash + 1;
    }
    return err;
}

/* ---- one change --------------------------------------------------------------------------- */

/* A name of the node goes, and with the last one the node. The entry is the caller's. */
static int drop_name(struct apply_state *state, struct apply_entry *entry)
{
    struct apply_node *node = entry->now;
    struct fs_record *record = &node->item.record;
    const bool is_directory = S_ISDIR(record->mode);
    if (record->nlink == 0 || (!is_directory && record->nlink > 1 && !node->by_link))
        return -EUCLEAN;
    record->nlink = is_directory ? 0 : record->nlink - 1;
    record->ctime_ns = state->now;
    node->is_dirty = true;
    if (is_directory)
        entry->directory->item.record.nlink--;
    return 0;
}

static bool is_directory(const struct apply_node *node)
{
    return node && S_ISDIR(node->item.record.mode);
}

static int put(struct apply_state *state, const struct fs_apply_change *change)
{
    struct apply_entry *entry;
    int err = walk(state, change->path, true, NULL, &entry);
    if (err)
        return err;
    struct apply_node *node = entry->now, *const old = node;
    if (is_directory(old))
        return -EISDIR;
    if (old && !S_ISREG(old->item.record.mode))
        return -EMEDIUMTYPE;
    if (!old || !old->is_new || old->by_link) {
        err = old ? drop_name(state, entry) : 0;
        if (!err)
            err = apply_state_new(state, entry, S_IFREG | 0666u, &node);
        if (err)
            return err;
    }
    if (old && old != node) {
        node->item.record.mode = old->item.record.mode;
        node->item.record.uid = old->item.record.uid;
        node->item.record.gid = old->item.record.gid;
        node->replaces = old->is_new ? old->replaces : old;
        node->inherits = old->is_new ? old->inherits : NULL;
    }
    node->content = change->bytes;
    node->content_len = change->length;
    return 0;
}

static int remove_entry(struct apply_state *state, const struct fs_apply_change *change)
{
    struct apply_entry *entry;
    int err = walk(state, change->path, false, NULL, &entry);
    if (!err && !entry->now)
        err = -ENOENT;
    if (err)
        return err == -ENOENT && change->kind == FS_APPLY_DISCARD ? 0 : err;
    if (is_directory(entry->now))
        err = apply_state_is_empty(state, entry->now);
    if (!err)
        err = drop_name(state, entry);
    if (!err)
        apply_state_set(state, entry, NULL);
    return err;
}

static int check_replaced(struct apply_state *state, const struct apply_node *node,
                          struct apply_node *replaced)
{
    if (!replaced)
        return 0;
    if (!is_directory(node))
        return is_directory(replaced) ? -EISDIR : 0;
    return is_directory(replaced) ? apply_state_is_empty(state, replaced) : -ENOTDIR;
}

static int rename_entry(struct apply_state *state, const struct fs_apply_change *change)
{
    struct apply_entry *from, *to;
    int err = walk(state, change->path, false, NULL, &from);
    if (!err && !from->now)
        err = -ENOENT;
    if (err)
        return err;
    struct apply_node *const node = from->now;
    err = walk(state, change->to, true, node, &to);
    if (err || to->now == node) /* two names of one file: both are left alone, as by rename(2) */
        return err;
    err = check_replaced(state, node, to->now);
    if (!err && is_directory(node) && to->directory->item.record.nlink >= FS_LINK_MAX)
        err = -EMLINK;
    if (!err && to->now)
        err = drop_name(state, to);
    if (err)
        return err;
    if (is_directory(node)) {
        from->directory->item.record.nlink--;
        to->directory->item.record.nlink++;
    }
    apply_state_set(state, from, NULL);
    apply_state_set(state, to, node);
    node->item.record.ctime_ns = state->now;
    node->is_dirty = true;
    return 0;
}

static int link_entry(struct apply_state *state, const struct fs_apply_change *change)
{
    struct apply_entry *file, *entry;
    int err = walk(state, change->to, false, NULL, &file);
    if (!err && !file->now)
        err = -ENOENT;
    if (err)
        return err;
    struct apply_node *const node = file->now;
    if (is_directory(node) || node->item.record.expiry_ns || node->default_ttl_ns)
        return -EPERM; /* what expires has one name */
    err = walk(state, change->path, true, NULL, &entry);
    if (err || entry->now == node)
        return err;
    if (is_directory(entry->now))
        return -EISDIR;
    if (node->item.record.nlink >= FS_LINK_MAX)
        return -EMLINK;
    if (entry->now)
        err = drop_name(state, entry);
    if (err)
        return err;
    node->item.record.nlink++;
    node->item.record.ctime_ns = state->now;
    node->by_link = node->is_dirty = true;
    node->home = NULL;
    apply_state_set(state, entry, node);
    return 0;
}

static int mkdir_entry(struct apply_state *state, const struct fs_apply_change *change)
{
    struct apply_entry *entry;
    const int err = walk(state, change->path, true, NULL, &entry);
    if (err || is_directory(entry->now))
        return err;
    return entry->now ? -EEXIST : make_directory(state, entry);
}

const struct fs_apply_xattr *fs_apply_ttl_of(const struct fs_apply_attributes *attributes)
{
    for (size_t i = 0; i < attributes->xattr_count; i++)
        if (strcmp(attributes->xattrs[i].name, FS_XATTR_TTL) == 0)
            return &attributes->xattrs[i];
    return NULL;
}

/* Has a directory the default time that it is to have, if one is given? */
static bool has_ttl(const struct fs_record *record, const struct fs_apply_attributes *to)
{
    const struct fs_apply_xattr *const ttl = fs_apply_ttl_of(to);
    uint64_t seconds = 0;
    return !ttl || ((ttl->length == 0 || !fs_ttl_parse(ttl->value, ttl->length, &seconds)) &&
                    record->expiry_ns == seconds * FS_NS_PER_SECOND);
}

/*
 * Is what is there the same as what is to be stored, as far as size, times and owner tell? And of a
 * directory the default time, which an import gives it when all is in it.
 */
static bool is_same(const struct fs_record *record, const struct fs_apply_change *change)
{
    const struct fs_apply_attributes *to = change->attributes;
    return record->mode == to->mode && record->uid == to->uid && record->gid == to->gid &&
           record->rdev == to->rdev && record->mtime_ns == to->mtime_ns &&
           (S_ISDIR(record->mode) ? has_ttl(record, to) : record->file.size == change->length);
}

/* May an inode of this mode have the attribute? */
static bool is_xattr_fit(uint32_t mode, const struct fs_apply_xattr *xattr)
{
    const uint32_t flag = fs_xattr_flag(xattr->name);
    const bool is_default = flag == FS_RECORD_DEFAULT_ACL;
    if (fs_xattr_check_name(xattr->name) || xattr->length > FS_XATTR_VALUE_MAX)
        return false;
    if (!is_default && flag != FS_RECORD_ACCESS_ACL)
        return true;
    if (S_ISLNK(mode) || (is_default && !S_ISDIR(mode)))
        return false;
    const int err = fs_acl_validate(xattr->value, xattr->length);
    return !err || err == -ENODATA;
}

/* -EOPNOTSUPP: there is one that it can not have, or together they are too many. */
static int check_xattrs(const struct fs_apply_attributes *attributes)
{
    uint64_t names_bytes = 0;
    for (size_t i = 0; i < attributes->xattr_count; i++) {
        if (!is_xattr_fit(attributes->mode, &attributes->xattrs[i]))
            return -EOPNOTSUPP;
        names_bytes += strlen(attributes->xattrs[i].name) + 1;
    }
    return names_bytes > FS_XATTR_LIST_MAX ? -EOPNOTSUPP : 0;
}

static void give_attributes(struct apply_node *node, const struct fs_apply_attributes *attributes)
{
    const struct fs_apply_xattr *const ttl = fs_apply_ttl_of(attributes);
    if (ttl && ttl->length == 0 && is_directory(node))
        node->item.record.expiry_ns = 0;
    node->attributes = attributes;
    node->is_dirty = true;
}

/* The inode of an entry is as it is elsewhere from here on. */
static int store_at(struct apply_state *state, const struct fs_apply_change *change,
                    struct apply_entry *entry)
{
    const struct fs_apply_attributes *attributes = change->attributes;
    struct apply_node *node = entry->now;
    if (node && is_directory(node) != S_ISDIR(attributes->mode))
        return is_directory(node) ? -EISDIR : -ENOTDIR;
    if (node && !node->is_new && attributes->keep_same && is_same(&node->item.record, change))
        return 0;
    if (!node || !S_ISDIR(node->item.record.mode)) {
        int err = node ? drop_name(state, entry) : 0;
        if (!err)
            err = apply_state_new(state, entry, attributes->mode, &node);
        if (err)
            return err;
        node->content = change->bytes;
        node->content_len = change->length;
    }
    give_attributes(node, attributes);
    return 0;
}

static int store(struct apply_state *state, const struct fs_apply_change *change)
{
    struct apply_entry *entry;
    if (!fs_mode_is_known(change->attributes->mode))
        return -EINVAL;
    int err = check_xattrs(change->attributes);
    if (err)
        return err;
    if (!*change->path || strcmp(change->path, "/") == 0) { /* of the root, its attributes */
        if (!S_ISDIR(change->attributes->mode))
            return -EISDIR;
        give_attributes(state->root, change->attributes);
        return 0;
    }
    err = walk(state, change->path, true, NULL, &entry);
    return err ? err : store_at(state, change, entry);
}

static int change_one(struct apply_state *state, const struct fs_apply_change *change)
{
    switch (change->kind) {
    case FS_APPLY_PUT:
        return put(state, change);
    case FS_APPLY_DELETE:
    case FS_APPLY_DISCARD:
        return remove_entry(state, change);
    case FS_APPLY_RENAME:
        return rename_entry(state, change);
    case FS_APPLY_LINK:
        return link_entry(state, change);
    case FS_APPLY_MKDIR:
        return mkdir_entry(state, change);
    case FS_APPLY_STORE:
        return store(state, change);
    }
    return -EINVAL;
}

/* ---- all of them ---------------------------------------------------------------------------- */

/* The words for a change that may not be made. */
static void explain(const struct fs_apply_change *change, int err, struct kv_error *error)
{
    static const struct {
        int err;
        const char *words;
    } known[] = {
        {-ENOENT, "no such key"},
        {-EISDIR, "a directory of keys; delete what is in it first"},
        {-ENOTDIR, "a component on the way is a value, not a directory"},
        {-ENOTEMPTY, "a directory that is not empty; delete what is in it first"},
        {-EEXIST, "there is a value of this name; delete it first"},
        {-EMEDIUMTYPE, "neither a value nor a directory; delete it first"},
        {-EINVAL, "not a key: names with single slashes between them, none of them . or ..; and no "
                  "directory moves into itself"},
        {-ENAMETOOLONG, "a name in it is longer than 255 bytes"},
        {-EACCES, "the control directory of the mount stands there"},
        {-EPERM, "a directory, or what expires, can not have a second name"},
        {-EOPNOTSUPP, "an attribute or ACL that it can not have; see getfattr -d -m - and getfacl"},
    };
    const char *words = strerror(-err);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].err == err)
            words = known[i].words;
    const bool two = change->to && (err == -EINVAL || err == -EPERM || err == -ENAMETOOLONG ||
                                    change->kind == FS_APPLY_RENAME || err == -ENOENT);
    (void)snprintf(error->text, sizeof error->text, "%.120s%s%.120s: %s", change->path,
                   two ? ", " : "", two ? change->to : "", words);
}

static void explain_whole(struct fs_volume *volume, int err, struct kv_error *error)
{
    struct kv_image_info info;
    kv_store_info(volume->store, &info);
    switch (err) {
    case -E2BIG:
        (void)snprintf(error->text, sizeof error->text,
                       "more at once than the log of %llu MiB takes; make several batches of it",
                       (unsigned long long)(info.log_bytes >> 20));
        break;
    case -ENOSPC:
        (void)snprintf(error->text, sizeof error->text, "no space left; remove some keys first");
        break;
    case -EROFS:
        (void)snprintf(error->text, sizeof error->text,
                       "the filesystem is read-only; mount it without ro");
        break;
    default:
        (void)snprintf(error->text, sizeof error->text, "%s", strerror(-err));
    }
}

/* The inode table learns what has moved. Returns the inodes that are nobody's, or NULL. */
static size_t settle(struct apply_state *state, uint64_t *unused)
{
    size_t count = 0;
    bool directory_moved = false;
    for (size_t i = 0; i < state->slot_count; i++) {
        for (struct apply_node *node = state->nodes[i]; node; node = node->next) {
            directory_moved |= node->move.entry && is_directory(node);
            const bool known = fs_inode_table_move(state->volume->table, &node->move);
            if (!known && !node->is_new && node->item.record.nlink == 0)
                unused[count++] = node->item.record.file.ino;
        }
    }
    if (directory_moved)
        fs_policy_directory_moved(state->volume);
    return count;
}

/* Of what the kernel does not know it has cached nothing; what it learns now is as it is now. */
static bool is_known(const struct apply_state *state, const struct apply_node *node)
{
    const uint64_t ino = node->item.record.file.ino;
    return ino == FS_ROOT_INO || fs_inode_table_references(state->volume->table, ino) > 0;
}

static void observe(const struct apply_state *state, const struct fs_apply_observer *observer)
{
    for (size_t i = 0; observer->entry && i < state->slot_count; i++)
        for (const struct apply_entry *entry = state->entries[i]; entry; entry = entry->next)
            if (entry->was != entry->now && !entry->directory->is_new &&
                is_known(state, entry->directory))
                observer->entry(observer->context, entry->directory->item.record.file.ino,
                                entry->name, entry->name_len);
    for (size_t i = 0; observer->inode && i < state->slot_count; i++)
        for (const struct apply_node *node = state->nodes[i]; node; node = node->next)
            if (node->is_dirty && !node->is_new && is_known(state, node))
                observer->inode(observer->context, node->item.record.file.ino);
}

/* Under the locks. unused: out, to be freed: inodes to be deleted, `unused_count` of them. */
static int apply_locked(struct apply_state *state, const struct fs_apply_change *changes,
                        size_t count, unsigned flags, struct fs_apply_result *result,
                        uint64_t **unused, size_t *unused_count)
{
    struct fs_data_change change;
    int err = 0;
    for (size_t i = 0; !err && i < count; i++) {
        err = change_one(state, &changes[i]);
        if (err) {
            result->failed = i;
            explain(&changes[i], err, &result->error);
        }
    }
    if (err)
        return err;
    err = fs_data_change_init(&change, state->volume->store);
    if (err)
        return err;
    err = apply_state_write(state, &change);
    if (!err && !(*unused = calloc(state->node_count, sizeof **unused)))
        err = -ENOMEM;
    if (!err && kv_batch_count(change.batch) > 0)
        err = fs_change_apply(state->volume, &change, flags);
    if (!err)
        *unused_count = settle(state, *unused);
    fs_data_change_release(&change);
    return err;
}

static int apply_once(struct fs_volume *volume, const struct fs_caller *caller,
                      const struct fs_apply_change *changes, size_t count, unsigned flags,
                      const struct fs_apply_observer *observer, struct fs_apply_result *result)
{
    struct apply_state state;
    uint64_t *unused = NULL;
    size_t unused_count = 0;
    *result = (struct fs_apply_result){.change_count = count, .failed = count};
    pthread_mutex_lock(&volume->rename_mutex);
    fs_lock_take_all(volume->locks);
    int err = apply_state_init(&state, volume, caller, count);
    if (!err)
        err = apply_locked(&state, changes, count, flags, result, &unused, &unused_count);
    fs_lock_drop_all(volume->locks);
    pthread_mutex_unlock(&volume->rename_mutex);

    if (err && !*result->error.text)
        explain_whole(volume, err, &result->error);
    for (size_t i = 0; i < unused_count; i++)
        fs_reaper_add(volume, unused[i]);
    if (!err && observer)
        observe(&state, observer);
    apply_state_release(&state);
    free(unused);
    return err;
}

int fs_apply(struct fs_volume *volume, const struct fs_caller *caller,
             const struct fs_apply_change *changes, size_t count, unsigned flags,
             const struct fs_apply_observer *observer, struct fs_apply_result *result)
{
    int err;
    do
        err = apply_once(volume, caller, changes, count, flags, observer, result);
    while (err == -ENOSPC && fs_reap(volume));
    return err;
}
