/*
 * fs/fsck_run.h: a run of the check of records, for fs/fsck*.c: what it has learnt, its passes
 * and its mends.
 *
 * Errors common to all that return int: what kv/kv.h says of reading and, when mending, of
 * writing; -ENOMEM. A finding is no error.
 * Threads: one; nothing else may use the store.
 */
#ifndef FS_FSCK_RUN_H
#define FS_FSCK_RUN_H

#include "fs/data.h"
#include "fs/fsck.h"
#include "fs/ino_map.h"
#include "fs/record.h"

#define FS_FSCK_LOST_FOUND "lost+found"
#define FS_FSCK_ANNOUNCED  4u /* flags of a record that announce attributes */

/* A directory, or an inode that stands under its I key. */
struct fs_fsck_node {
    uint64_t ino;
    uint64_t parent;
    uint32_t nlink;    /* as recorded */
    uint32_t links;    /* names found */
    uint32_t subdirs;  /* directories found in it */
    uint32_t type;     /* S_IFMT bits */
    bool is_directory; /* a record says so */
    bool is_inode;     /* stands under I */
    bool is_orphan;    /* stands under O */
    bool has_entries;
    uint8_t color; /* of the walk up to the root */
};

/* An inode whose entry has no legal name. */
struct fs_fsck_nameless {
    uint64_t ino;
    uint32_t mode, nlink, flags; /* as recorded */
    bool is_inline;
};

/* A key, also one that is longer than any that the filesystem makes. */
struct fs_fsck_key {
    size_t length;
    uint8_t bytes[];
};

/* Keys whose mend waits for the end of a pass; owned. */
struct fs_fsck_keys {
    struct fs_fsck_key **keys;
    size_t count, cap;
};

struct fs_fsck_expiring {
    uint64_t ino, expiry_ns;
};

struct fs_fsck_flag_fix {
    uint64_t ino;
    uint64_t flags; /* to be set in its record */
};

/* One run. fs_check makes it; each round begins with empty sets and maps. */
struct fs_fsck {
    struct kv_store *store;
    const struct kv_check_options *options;
    struct kv_check_result *result;
    struct fs_data data;
    struct fs_data_change change; /* the mend in preparation */
    int round;
    uint64_t found; /* in this round */

    struct fs_volume_record volume;
    bool has_volume;       /* the volume record was sound */
    uint64_t greatest_ino; /* seen */
    uint64_t lost_found;   /* inode number, 0: not looked for yet */

    struct fs_ino_set known;                      /* inodes that have a record */
    struct fs_ino_set contents;                   /* those whose content is in F records */
    struct fs_ino_set flagged[FS_FSCK_ANNOUNCED]; /* by the flags that announce attributes */
    struct fs_ino_map nodes;                      /* struct fs_fsck_node */
    struct fs_ino_map nameless;                   /* struct fs_fsck_nameless */
    struct fs_ino_map expiring;                   /* struct fs_fsck_expiring */
    struct fs_ino_map fixes;                      /* struct fs_fsck_flag_fix */

    struct fs_fsck_keys homeless; /* D, I and O keys whose inodes go to lost+found */
    struct fs_fsck_keys twins;    /* D keys of files that need an inode number of their own */
    struct fs_ino_set handed;     /* numbers whose attributes go with a twin */
};

/* A record under a key, as the visitors get it; borrowed from the cursor. */
struct fs_fsck_item {
    const void *key, *value;
    size_t key_len, value_len;
};

typedef int fs_fsck_visit_fn(struct fs_fsck *c, const struct fs_fsck_item *item);

/* ---- findings (fs/fsck.c) ---------------------------------------------------------- */

/* Tell a finding. Returns whether it is to be mended. */
bool fs_fsck_finding(struct fs_fsck *c, enum kv_check_severity severity, const char *what,
                     const char *format, ...) KV_PRINTF(4, 5);

/* A name for people: one line, printable, not too long. */
struct fs_fsck_shown {
    char text[128];
};

struct fs_fsck_shown fs_fsck_show(const char *name, size_t name_len);

static inline unsigned long long fs_fsck_ull(uint64_t n)
{
    return n;
}

/* ---- walking (fs/fsck.c) ----------------------------------------------------------- */

/* What a cursor stands on; borrowed until it moves. */
KV_MUST_CHECK int fs_fsck_read_item(struct kv_cursor *cursor, struct fs_fsck_item *item);
/* Visit every key with a prefix, in order, and count it; the visitor may change the store. */
KV_MUST_CHECK int fs_fsck_scan_prefix(struct fs_fsck *c, const void *prefix, size_t prefix_len,
                                      fs_fsck_visit_fn *visit);
KV_MUST_CHECK int fs_fsck_scan(struct fs_fsck *c, enum fs_key_type type, fs_fsck_visit_fn *visit);
/* NULL: none is known. */
struct fs_fsck_node *fs_fsck_find_node(struct fs_fsck *c, uint64_t ino);

/* Does any key begin so? */
KV_MUST_CHECK int fs_fsck_has_prefix(struct fs_fsck *c, const struct fs_key *prefix, bool *found);

/* Can an inode have this number: was it given, or is it at least within reach? */
static inline bool fs_fsck_is_possible(const struct fs_fsck *c, uint64_t ino)
{
    return ino != 0 && (ino < c->volume.next_ino || ino <= FS_INO_TAKEN_MAX);
}

/* ---- what belongs to inodes (fs/fsck_owned.c) --------------------------------------- */

/* Learn that an inode has a record, and what that says belongs to it. */
KV_MUST_CHECK int fs_fsck_learn(struct fs_fsck *c, const struct fs_record *record);
/*
 * Learn an inode and hold its record against its content. `changed`: the caller has corrected
 * it already. Stores what has been corrected.
 */
KV_MUST_CHECK int fs_fsck_check_record(struct fs_fsck *c, const struct fs_fsck_item *item,
                                       struct fs_record *record, bool changed);
/* Passes, in this order, when all inodes are known: F keys; X keys; P and expiry keys. */
KV_MUST_CHECK int fs_fsck_check_content_owners(struct fs_fsck *c);
KV_MUST_CHECK int fs_fsck_scan_xattrs(struct fs_fsck *c);
KV_MUST_CHECK int fs_fsck_scan_indexes(struct fs_fsck *c);

/* ---- mending (fs/fsck_repair.c) ----------------------------------------------------- */

/* Apply the mend in preparation. */
KV_MUST_CHECK int fs_fsck_commit(struct fs_fsck *c);
/* Add to the mend in preparation. */
KV_MUST_CHECK int fs_fsck_put_record(struct fs_fsck *c, const void *key, size_t key_len,
                                     const struct fs_record *record);
KV_MUST_CHECK int fs_fsck_put_parent(struct fs_fsck *c, uint64_t ino, uint64_t parent,
                                     const char *name, size_t name_len);
KV_MUST_CHECK int fs_fsck_put_volume(struct fs_fsck *c);
/*
 * Take an inode number that nothing has, also no content or entry whose owner is gone; the volume
 * record that says so is added to the mend in preparation. Only when all inodes are known. -ENOSPC:
 * none is left.
 */
KV_MUST_CHECK int fs_fsck_take_ino(struct fs_fsck *c, uint64_t *ino);
/* Name an inode in lost+found; `value` is what its entry holds. -EEXIST: no name is free. */
KV_MUST_CHECK int fs_fsck_put_lost(struct fs_fsck *c, uint64_t ino, bool is_directory,
                                   const void *value, size_t value_len);
/* The record of a new inode without content, its times now. */
struct fs_record fs_fsck_new_record(uint64_t ino, uint32_t mode);

/* Mends of their own, applied when these return. */
KV_MUST_CHECK int fs_fsck_delete_now(struct fs_fsck *c, const void *key, size_t key_len);
/* Store an extent's record with another table. */
KV_MUST_CHECK int fs_fsck_put_table(struct fs_fsck *c, const struct fs_fsck_item *item,
                                    const struct fs_data_record *record, const uint8_t *table);
/* Make an entry a link to an inode. */
KV_MUST_CHECK int fs_fsck_put_link(struct fs_fsck *c, const struct fs_fsck_item *item, uint64_t ino,
                                   uint32_t type);
/* A new record for a directory: where its parent record says, or else in lost+found. */
KV_MUST_CHECK int fs_fsck_restore_directory(struct fs_fsck *c, uint64_t ino);
/* Set the link count of the record under a key. */
KV_MUST_CHECK int fs_fsck_store_nlink(struct fs_fsck *c, const struct fs_key *key, uint32_t nlink);
/* To lost+found, but not yet: only a whole pass shows which inode numbers are free. */
KV_MUST_CHECK int fs_fsck_rehome_later(struct fs_fsck *c, const void *key, size_t key_len);
KV_MUST_CHECK int fs_fsck_rehome_all(struct fs_fsck *c);
/*
 * Give the file under a D key a number of its own, which what is its goes to: content in F records
 * if its record says so; the attributes of a number that is `handed`, and copies of others. Not
 * yet, for the same reason.
 */
KV_MUST_CHECK int fs_fsck_renumber_later(struct fs_fsck *c, const void *key, size_t key_len);
KV_MUST_CHECK int fs_fsck_renumber_all(struct fs_fsck *c);
/* Let the content that stands under one number stand under another, which has none. */
KV_MUST_CHECK int fs_fsck_move_contents(struct fs_fsck *c, uint64_t from, uint64_t to);
void fs_fsck_keys_clear(struct fs_fsck_keys *keys);

/* The key a directory's record stands under. -ENOENT: not found. */
KV_MUST_CHECK int fs_fsck_directory_key(struct fs_fsck *c, uint64_t ino, struct fs_key *key);

#endif
