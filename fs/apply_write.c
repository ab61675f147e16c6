/*
 * fs/apply_write.c: what changes leave in the end, as operations of one batch.
 *
 * Invariant  a key is written at most once, whatever the changes did to it on the way; keys of
 *            one kind are added in their order, so that the store finds neighbours together.
 * Locks      all inode locks, held by the caller.
 */
#include "fs/apply_state.h"

#include "fs/acl.h"
#include "fs/expiry.h"
#include "fs/policy_lookup.h"
#include "fs/xattr.h"

/* ---- content and attributes of a new inode ------------------------------------------- */

/*
 * What policies say of the name that a node will have. The directories above it may be new, or have
 * moved, so the way down is the one that the changes leave. Nothing, if it has no single name.
 */
static int choose(const struct apply_state *state, const struct apply_node *node,
                  struct fs_policy_choice *choice)
{
    const struct fs_policies *const policies = fs_volume_policies(state->volume);
    const struct apply_entry **above = NULL;
    size_t depth = 0;
    *choice = (struct fs_policy_choice){.by = {0}};
    if (!policies || node->by_link || !node->home || S_ISDIR(node->item.record.mode))
        return 0;
    for (const struct apply_entry *at = node->home; at; at = at->directory->home)
        depth++;
    above = calloc(depth, sizeof *above);
    if (!above)
        return -ENOMEM;
    size_t left = depth;
    for (const struct apply_entry *at = node->home; at; at = at->directory->home)
        above[--left] = at;
    struct fs_policy_state below;
    uint64_t matches = 0;
    fs_policies_start(policies, &below);
    for (size_t i = 0; i < depth; i++) {
        char name[FS_NAME_MAX + 1];
        memcpy(name, above[i]->name, above[i]->name_len);
        name[above[i]->name_len] = '\0';
        matches = fs_policies_step(policies, &below, name, &below);
    }
    free(above);
    *choice = fs_policies_choose(policies, matches);
    return 0;
}

static int find_ttl(const struct apply_state *state, const struct apply_node *node,
                    uint64_t *ttl_ns)
{
    const struct fs_policies *const policies = fs_volume_policies(state->volume);
    struct fs_policy_choice choice;
    const int err = choose(state, node, &choice);
    const struct fs_policy *const policy =
        !err && policies ? fs_policy_for(policies, &choice, FS_POLICY_TTL) : NULL;
    *ttl_ns = policy ? policy->ttl_ns : 0;
    return err;
}

/*
 * In pieces that begin where a whole number of extents has ended: none concerns what another has
 * added to the change and the store does not have yet.
 */
static int write_content(struct apply_state *state, struct fs_data_change *change,
                         struct apply_node *node)
{
    struct fs_policy_choice choice;
    struct fs_policy_effect effect;
    int err = choose(state, node, &choice);
    fs_policy_apply_choice(state->volume, &node->item.record, &choice, &effect);
    const uint8_t *bytes = node->content;
    for (size_t at = 0; !err && at < node->content_len;) {
        const size_t piece = kv_min_u64(node->content_len - at, FS_WRITE_MAX);
        err = fs_data_write(&effect.data, &node->item.record.file, at, bytes + at, piece,
                            effect.codec, change);
        at += piece;
    }
    return err;
}

/* An access list of a new inode, as its mode has it; none, if it says no more than the mode. */
static int set_access_acl(struct apply_state *state, struct fs_data_change *change,
                          struct fs_record *record, const struct fs_apply_xattr *xattr,
                          uint32_t *flags)
{
    uint32_t bits;
    bool is_minimal;
    int err = fs_acl_to_mode(xattr->value, xattr->length, &bits, &is_minimal);
    if (err || is_minimal)
        return err == -ENODATA ? 0 : err;
    void *acl = malloc(xattr->length);
    if (!acl)
        return -ENOMEM;
    memcpy(acl, xattr->value, xattr->length);
    if (bits != (record->mode & 0777u))
        err = fs_acl_set_mode(acl, xattr->length, record->mode);
    if (!err)
        err = fs_xattr_set(state->volume->store, record->file.ino, flags, xattr->name, acl,
                           xattr->length, 0, change->batch);
    free(acl);
    return err;
}

static int set_xattrs(struct apply_state *state, struct fs_data_change *change,
                      struct apply_node *node)
{
    struct fs_record *record = &node->item.record;
    const struct fs_apply_attributes *attributes = node->attributes;
    int err = 0;
    if (!node->is_new && (record->flags & FS_RECORD_XATTRS))
        err = fs_xattr_delete_all(record->file.ino, change->batch);
    /* Whoever sets one asks what there is: of a new inode nothing, of this one nothing any more. */
    uint32_t flags = 0;
    for (size_t i = 0; !err && i < attributes->xattr_count; i++) {
        const struct fs_apply_xattr *xattr = &attributes->xattrs[i];
        uint32_t one = 0;
        if (strcmp(xattr->name, FS_XATTR_TTL) == 0)
            continue; /* no record: write_expiry */
        const uint32_t known = fs_xattr_flag(xattr->name);
        if (known == FS_RECORD_ACCESS_ACL)
            err = set_access_acl(state, change, record, xattr, &one);
        else if (known != FS_RECORD_DEFAULT_ACL ||
                 xattr->length > sizeof(struct fs_disk_acl_header))
            err = fs_xattr_set(state->volume->store, record->file.ino, &one, xattr->name,
                               xattr->value, xattr->length, 0, change->batch);
        flags |= one;
    }
    record->flags = flags;
    return err;
}

static int set_attributes(struct apply_state *state, struct fs_data_change *change,
                          struct apply_node *node)
{
    struct fs_record *record = &node->item.record;
    const struct fs_apply_attributes *attributes = node->attributes;
    record->mode = attributes->mode;
    record->uid = attributes->uid;
    record->gid = attributes->gid;
    record->rdev = attributes->rdev;
    record->atime_ns = attributes->atime_ns;
    record->mtime_ns = attributes->mtime_ns;
    record->ctime_ns = state->now;
    return set_xattrs(state, change, node);
}

static int complete(struct apply_state *state, struct fs_data_change *change,
                    struct apply_node *node)
{
    static const struct fs_record plain; /* a directory without a default ACL */
    struct fs_record *record = &node->item.record;
    int err = node->is_new ? write_content(state, change, node) : 0;
    if (err)
        return err;
    if (node->attributes)
        return set_attributes(state, change, node);
    if (!node->is_new)
        return 0;
    if (node->replaces)
        return fs_change_copy_xattrs(state->volume, change, record, &node->replaces->item.record);
    const struct apply_node *from = node->inherits;
    return fs_change_inherit_acl(state->volume, change,
                                 from && !from->attributes ? &from->item.record : &plain,
                                 state->caller->umask, record);
}

/* ---- records and entries ---------------------------------------------------------------- */

/* Where the record of a node stands once the changes are made. */
static void final_key(const struct apply_node *node, struct fs_key *key)
{
    const uint64_t ino = node->item.record.file.ino;
    if (node->item.record.nlink == 0)
        fs_key_ino(key, FS_KEY_ORPHAN, ino);
    else if (node->by_link || !node->home)
        fs_key_ino(key, FS_KEY_INODE, ino);
    else
        fs_key_entry(key, node->home->directory->item.record.file.ino, node->home->name,
                     node->home->name_len);
}

static int put_parent(struct fs_data_change *change, const struct apply_node *node)
{
    const uint64_t ino = node->item.record.file.ino;
    if (node->item.record.nlink == 0)
        return fs_change_del_ino(change, FS_KEY_PARENT, ino);
    return fs_change_put_parent(change, ino, node->parent->item.record.file.ino, node->home->name,
                                node->home->name_len);
}

/* When an inode ends, and the index of that. The item has the key that it is to have. */
static int write_expiry(struct apply_state *state, struct fs_data_change *change,
                        const struct apply_node *node, bool moves, struct fs_item *item)
{
    if (item->record.nlink == 0)
        return fs_change_end_expiry(change, &item->record);
    const struct fs_apply_xattr *const ttl =
        node->attributes ? fs_apply_ttl_of(node->attributes) : NULL;
    if (ttl && ttl->length == 0 && S_ISDIR(item->record.mode))
        return 0; /* it has none */
    if (ttl)
        return fs_change_ttl(state->volume, change, item, ttl->value, ttl->length, 0);
    const bool gets_name = (node->is_new || moves) && !S_ISDIR(item->record.mode);
    uint64_t ttl_ns;
    if (gets_name && !item->record.expiry_ns) {
        const int err = find_ttl(state, node, &ttl_ns);
        return err ? err
                   : fs_change_begin_expiry(state->volume, change, item,
                                            fs_sooner(node->default_ttl_ns, ttl_ns));
    }
    return moves ? fs_change_put_expiry(state->volume, change, item) : 0;
}

static int write_node(struct apply_state *state, struct fs_data_change *change,
                      struct apply_node *node)
{
    struct fs_item item;
    if (!node->is_dirty || (node->is_new && node->item.record.nlink == 0))
        return 0;
    int err = complete(state, change, node);
    if (err)
        return err;
    item.record = node->item.record;
    final_key(node, &item.key);
    const bool moves =
        !node->is_new && (item.key.length != node->item.key.length ||
                          memcmp(item.key.bytes, node->item.key.bytes, item.key.length) != 0);
    if (moves && node->item.key.bytes[0] == FS_KEY_INODE)
        err = fs_change_del(change, &node->item.key);
    if (!err && moves)
        err = fs_inode_table_reserve(item.record.file.ino, &item.key, &node->move);
    if (!err && S_ISDIR(item.record.mode) && (node->is_new || moves))
        err = put_parent(change, node);
    if (!err)
        err = write_expiry(state, change, node, moves, &item);
    return err ? err : fs_change_put(change, &item);
}

/* A name in the store that is none any more, or that leads to a record elsewhere. */
static int write_entry(struct fs_data_change *change, const struct apply_entry *entry)
{
    const bool is_link = entry->now && entry->now->by_link;
    struct fs_key key;
    if (entry->was == entry->now && entry->was_link == is_link)
        return 0;
    fs_key_entry(&key, entry->directory->item.record.file.ino, entry->name, entry->name_len);
    if (!entry->now)
        return fs_change_del(change, &key);
    return is_link ? fs_change_put_link(change, &key, &entry->now->item.record) : 0;
}

static int compare_nodes(const void *a, const void *b)
{
    struct fs_key one, other;
    final_key(*(struct apply_node *const *)a, &one);
    final_key(*(struct apply_node *const *)b, &other);
    const int order = memcmp(one.bytes, other.bytes, kv_min_u64(one.length, other.length));
    return order ? order : (int)one.length - (int)other.length;
}

static int write_nodes(struct apply_state *state, struct fs_data_change *change)
{
    struct apply_node **sorted = calloc(state->node_count, sizeof *sorted);
    size_t count = 0;
    int err = sorted ? 0 : -ENOMEM;
    for (size_t i = 0; !err && i < state->slot_count; i++)
        for (struct apply_node *node = state->nodes[i]; node; node = node->next)
            if (node->is_dirty)
                sorted[count++] = node;
    if (!err && count > 1)
        qsort(sorted, count, sizeof(struct apply_node *), compare_nodes);
    for (size_t i = 0; !err && i < count; i++)
        err = write_node(state, change, sorted[i]);
    free(sorted);
    return err;
}

int apply_state_write(struct apply_state *state, struct fs_data_change *change)
{
    int err = 0;
    for (size_t i = 0; !err && i < state->slot_count; i++)
        for (struct apply_entry *entry = state->entries[i]; !err && entry; entry = entry->next)
            err = write_entry(change, entry);
    return err ? err : write_nodes(state, change);
}
