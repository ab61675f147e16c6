/*
 * fs/apply_state.c: the tree as changes that are not made yet leave it.
 *
 * Owns       nodes and entries, in two hash tables that never shrink.
 * Invariant  an inode is one node, a name in a directory one entry; what hangs from an entry
 *            was fetched with the entry. A node with `home` has no other name.
 * Locks      as in the header.
 */
#include "fs/apply_state.h"

#include "fs/expiry.h"

#define SLOTS_LEAST 64u
#define SLOTS_MOST  (1u << 20)

static size_t hash_ino(const struct apply_state *state, uint64_t ino)
{
    return (size_t)((ino * 0x9e3779b97f4a7c15u) >> 32) & (state->slot_count - 1);
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo), begun with the directory's number. */
static size_t hash_name(const struct apply_state *state, uint64_t directory, const char *name,
                        size_t name_len)
{
    uint64_t hash = (directory + 1) * 0xcbf29ce484222325u;
    for (size_t i = 0; i < name_len; i++)
        hash = (hash ^ (uint8_t)name[i]) * 0x100000001b3u;
    return (size_t)(hash >> 32) & (state->slot_count - 1);
}

static struct apply_node *find_node(const struct apply_state *state, uint64_t ino)
{
    struct apply_node *node = state->nodes[hash_ino(state, ino)];
    while (node && node->item.record.file.ino != ino)
        node = node->next;
    return node;
}

static struct apply_node *add_node(struct apply_state *state, const struct fs_item *item)
{
    struct apply_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->item = *item;
    struct apply_node **slot = &state->nodes[hash_ino(state, item->record.file.ino)];
    node->next = *slot;
    *slot = node;
    state->node_count++;
    return node;
}

int apply_state_init(struct apply_state *state, struct fs_volume *volume,
                     const struct fs_caller *caller, size_t hint)
{
    *state = (struct apply_state){.volume = volume, .caller = caller, .now = fs_time_now()};
    state->slot_count = SLOTS_LEAST;
    while (state->slot_count < hint && state->slot_count < SLOTS_MOST)
        state->slot_count *= 2;
    state->nodes = calloc(state->slot_count, sizeof *state->nodes);
    state->entries = calloc(state->slot_count, sizeof *state->entries);
    struct fs_item item;
    int err =
        state->nodes && state->entries ? fs_directory_load(volume, FS_ROOT_INO, &item) : -ENOMEM;
    if (!err) {
        state->root = add_node(state, &item);
        err = state->root ? 0 : -ENOMEM;
    }
    if (err)
        apply_state_release(state);
    return err;
}

void apply_state_release(struct apply_state *state)
{
    for (size_t i = 0; state->nodes && i < state->slot_count; i++) {
        for (struct apply_node *node = state->nodes[i], *next; node; node = next) {
            next = node->next;
            fs_inode_table_cancel(&node->move);
            free(node);
        }
    }
    for (size_t i = 0; state->entries && i < state->slot_count; i++) {
        for (struct apply_entry *entry = state->entries[i], *next; entry; entry = next) {
            next = entry->next;
            free(entry);
        }
    }
    free(state->nodes);
    free(state->entries);
    *state = (struct apply_state){0};
}

void apply_state_set(struct apply_state *state, struct apply_entry *entry, struct apply_node *node)
{
    struct apply_node *const directory = entry->directory;
    directory->added -= !entry->was && entry->now;
    directory->added += !entry->was && node;
    directory->item.record.mtime_ns = directory->item.record.ctime_ns = state->now;
    directory->is_dirty = true;
    entry->now = node;
    if (node && !node->by_link)
        node->home = entry;
    if (node && S_ISDIR(node->item.record.mode))
        node->parent = directory;
}

/* The inode that a name in the store leads to, as it was there: entry->was. */
static int fetch(struct apply_state *state, struct apply_entry *entry)
{
    struct fs_item item;
    const int err = fs_item_find_any(state->volume, entry->directory->item.record.file.ino,
                                     entry->name, entry->name_len, &item);
    if (err)
        return err == -ENOENT ? 0 : err;
    const bool by_link = item.key.bytes[0] == FS_KEY_INODE;
    struct apply_node *node = find_node(state, item.record.file.ino);
    if (node && (!by_link || !node->by_link))
        return -EUCLEAN; /* a second name of what has but one */
    if (!node) {
        node = add_node(state, &item);
        if (!node)
            return -ENOMEM;
        node->by_link = by_link;
        node->home = by_link ? NULL : entry;
        node->parent = S_ISDIR(item.record.mode) ? entry->directory : NULL;
    }
    entry->was = entry->now = node;
    entry->was_link = by_link;
    if (fs_is_expired(state->volume,
                      &item.record)) { /* it is over with it: it goes with the rest */
        node->item.record.nlink = 0;
        apply_state_set(state, entry, NULL);
        node->is_dirty = true;
    }
    return 0;
}

int apply_state_entry(struct apply_state *state, struct apply_node *directory, const char *name,
                      size_t name_len, struct apply_entry **entry_out)
{
    const size_t slot = hash_name(state, directory->item.record.file.ino, name, name_len);
    struct apply_entry *entry = state->entries[slot];
    for (; entry; entry = entry->next) {
        if (entry->directory == directory && entry->name_len == name_len &&
            memcmp(entry->name, name, name_len) == 0) {
            *entry_out = entry;
            return 0;
        }
    }
    entry = calloc(1, sizeof *entry);
    if (!entry)
        return -ENOMEM;
    entry->directory = directory;
    entry->name_len = (uint8_t)name_len;
    memcpy(entry->name, name, name_len);
    const int err = directory->is_new ? 0 : fetch(state, entry);
    if (err) {
        free(entry);
        return err;
    }
    entry->next = state->entries[slot];
    state->entries[slot] = entry;
    state->entry_count++;
    *entry_out = entry;
    return 0;
}

int apply_state_new(struct apply_state *state, struct apply_entry *entry, uint32_t mode,
                    struct apply_node **node_out)
{
    struct apply_node *const directory = entry->directory;
    struct fs_item item = {.key = {.length = 0}};
    uint64_t ino;
    if (S_ISDIR(mode) && directory->item.record.nlink >= FS_LINK_MAX)
        return -EMLINK;
    const int err = fs_ino_allocate(state->volume, &ino);
    if (err)
        return err;
    item.record = fs_record_new(state->caller, ino, mode, &directory->item.record);
    struct apply_node *node = add_node(state, &item);
    if (!node)
        return -ENOMEM;
    node->is_new = node->is_dirty = true;
    /* A directory that is not stored yet has the default ACL of the one above it. */
    node->inherits = directory->is_new ? directory->inherits : directory;
    if (directory->is_new && directory->attributes)
        node->inherits = NULL;
    node->default_ttl_ns = directory->item.record.expiry_ns;
    if (S_ISDIR(mode))
        node->item.record.expiry_ns = node->default_ttl_ns;
    apply_state_set(state, entry, node);
    if (S_ISDIR(mode))
        directory->item.record.nlink++;
    *node_out = node;
    return 0;
}

/* Is each name that the store has in a directory gone by now? */
static int all_gone(struct apply_state *state, struct apply_node *directory)
{
    struct fs_key prefix;
    struct kv_cursor *cursor;
    fs_key_entries(&prefix, directory->item.record.file.ino);
    int err = kv_cursor_open_prefix(state->volume->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        size_t key_len, name_len;
        const void *key = kv_cursor_key(cursor, &key_len);
        uint64_t ino;
        const char *name;
        struct apply_entry *entry = NULL;
        err = fs_key_entry_parse(key, key_len, &ino, &name, &name_len);
        if (!err)
            err = apply_state_entry(state, directory, name, name_len, &entry);
        if (!err && entry->now)
            err = -ENOTEMPTY;
        if (err)
            break;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

int apply_state_is_empty(struct apply_state *state, struct apply_node *directory)
{
    if (directory->added > 0)
        return -ENOTEMPTY;
    return directory->is_new ? 0 : all_gone(state, directory);
}
