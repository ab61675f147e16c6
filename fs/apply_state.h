/*
 * fs/apply_state.h: the tree as changes that are not made yet leave it, over the one in the store.
 *
 * For fs/apply.c and fs/apply_write.c. What a change looks at is fetched once and kept: nodes, the
 * inodes, and entries, the names in directories. An entry remembers what it was in the store.
 *
 * Locks: the caller holds all inode locks for the life of the state.
 */
#ifndef FS_APPLY_STATE_H
#define FS_APPLY_STATE_H

#include "fs/apply.h"
#include "fs/expiry.h"
#include "fs/inode.h"

struct apply_node {
    struct apply_node *next;   /* with the same hash */
    struct fs_item item;       /* key: of the record in the store; record: as it is to be */
    struct apply_node *parent; /* of a directory; NULL: the root */
    struct apply_entry *home;  /* its name, if it has but one; NULL: the root */
    bool is_new;               /* not in the store */
    bool is_dirty;             /* the record, or its key, is not as in the store */
    bool by_link;              /* its record is under the I key, its names are links */
    size_t added;              /* entries of a directory that are there now and were not */
    const void *content;       /* of a new one, borrowed; or a symlink's target */
    size_t content_len;
    const struct fs_apply_attributes *attributes; /* that it is to have; NULL: its own */
    const struct apply_node *inherits;            /* of a new one: from this one's default ACL */
    const struct apply_node *replaces;            /* hands on its attributes */
    uint64_t default_ttl_ns;                      /* of a new one: its directory's; 0: none */
    struct fs_inode_move move;
};

struct apply_entry {
    struct apply_entry *next; /* with the same hash */
    struct apply_node *directory;
    struct apply_node *was, *now; /* NULL: not there */
    bool was_link;                /* the store has {LINK, inode} here */
    uint8_t name_len;
    char name[FS_NAME_MAX];
};

struct apply_state {
    struct fs_volume *volume;
    const struct fs_caller *caller;
    int64_t now;
    struct apply_node **nodes; /* hash tables of as many slots each, owned, and what is in them */
    struct apply_entry **entries;
    size_t slot_count, node_count, entry_count;
    struct apply_node *root;
};

/* hint: how many changes there will be. -ENOMEM; or what reading the root says. */
KV_MUST_CHECK int apply_state_init(struct apply_state *state, struct fs_volume *volume,
                                   const struct fs_caller *caller, size_t hint);
void apply_state_release(struct apply_state *state);

/* What a directory has under a name: entry->now. */
KV_MUST_CHECK int apply_state_entry(struct apply_state *state, struct apply_node *directory,
                                    const char *name, size_t name_len, struct apply_entry **entry);

/* Let an entry mean something else; the directory's times, and what `added` counts, follow. */
void apply_state_set(struct apply_state *state, struct apply_entry *entry, struct apply_node *node);

/* A new inode under an entry that has none; content and attributes are the caller's to add. */
KV_MUST_CHECK int apply_state_new(struct apply_state *state, struct apply_entry *entry,
                                  uint32_t mode, struct apply_node **node);

/* 0; -ENOTEMPTY. */
KV_MUST_CHECK int apply_state_is_empty(struct apply_state *state, struct apply_node *directory);

/* fs/apply_write.c: add what has changed to a change, and reserve what moves in the inode table. */
KV_MUST_CHECK int apply_state_write(struct apply_state *state, struct fs_data_change *change);

#endif
