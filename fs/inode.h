/*
 * fs/inode.h: what the operations share: an open volume, an inode in hand, a change of it.
 *
 * For the files of fs/ that implement fs/volume.h; nobody else needs it.
 *
 * A changing operation: take the locks (fs/lock.h); fetch items; begin a change; edit the
 * items and put them; apply; tell the inode table what moved; drop the locks; reply.
 */
#ifndef FS_INODE_H
#define FS_INODE_H

#include <pthread.h>

#include "fs/data.h"
#include "fs/inode_table.h"
#include "fs/lock.h"
#include "fs/volume.h"

#include <stdatomic.h>

#define FS_WRITE_ENDS 256u /* a power of two */

struct fs_policy_lookup;

struct fs_volume {
    struct kv_store *store;       /* borrowed; immutable after open */
    struct fs_data data;          /* immutable after open */
    struct fs_data_counts reads;  /* atomic; `data` counts here */
    struct fs_inode_table *table; /* its own locks */
    struct fs_locks *locks;
    struct fs_reaper *reaper; /* its own locks */
    bool read_only;           /* immutable after open */
    kv_log_fn *log;           /* immutable after open */
    void *log_context;
    bool (*keeps_setgid)(uint32_t gid); /* immutable after open */
    bool (*kills_privileges)(void);     /* immutable after open */
    bool (*is_owner)(uint32_t uid);     /* immutable after open */
    pthread_mutex_t rename_mutex;       /* one rename between directories at a time */
    pthread_mutex_t ino_mutex;
    uint64_t ino_next;                     /* ino_mutex: the next to hand out */
    uint64_t ino_limit;                    /* ino_mutex: what the volume record says */
    struct fs_volume_record volume_record; /* ino_mutex */
    struct fs_policy_lookup *policies;     /* its own locks; NULL: there are none */
    char reserved[FS_NAME_MAX + 1];        /* immutable once it is used; "": none */
    /* Where the last write of a file ended, mixed with its number; files share places by hash. A
     * guess at who writes in order: relaxed, and whoever was overwritten is taken for random. */
    _Atomic uint64_t write_ends[FS_WRITE_ENDS];
    int64_t (*now)(void);         /* immutable after open; NULL: the wall clock */
    pthread_mutex_t expiry_mutex; /* innermost */
    pthread_cond_t expiry_nearer;
    int64_t expiry_next_ns; /* expiry_mutex: when something expires that fs_expire has not met */
};

/* Is that name in the root set aside? */
bool fs_volume_is_reserved(const struct fs_volume *volume, const char *name, size_t name_len);

/* An inode in hand: what it is, and the key under which that stands. */
struct fs_item {
    struct fs_key key;
    struct fs_record record;
};

/* What stands under a key. -ENOENT; -EUCLEAN. The caller holds the inode's lock. */
KV_MUST_CHECK int fs_record_load(struct fs_volume *volume, const struct fs_key *key,
                                 struct fs_record *record);

/* Fetch a known inode. The caller holds its lock. -ESTALE; -EUCLEAN it should be there. */
KV_MUST_CHECK int fs_item_load(struct fs_volume *volume, uint64_t ino, struct fs_item *item);

/*
 * The same before the caller has changed anything of it: what was left with the lock
 * (fs_lock_leave) is taken as it is, and the store is not asked.
 */
KV_MUST_CHECK int fs_item_load_first(struct fs_volume *volume, uint64_t ino, struct fs_item *item);

/*
 * Fetch what a directory has under a name. item->key is where the record stands: the D key,
 * or the I key if the entry is a link. The caller holds the directory's lock. -ENOENT; also for
 * what has expired.
 */
KV_MUST_CHECK int fs_item_find(struct fs_volume *volume, uint64_t directory, const char *name,
                               size_t name_len, struct fs_item *item);

/* The same, expired or not. */
KV_MUST_CHECK int fs_item_find_any(struct fs_volume *volume, uint64_t directory, const char *name,
                                   size_t name_len, struct fs_item *item);

/*
 * The number under a name, 0 if there is none; for choosing locks, so it holds nothing.
 * -EKEYEXPIRED: what is there has expired; who wants the name clears it (fs/expiry.h).
 */
KV_MUST_CHECK int fs_entry_peek(struct fs_volume *volume, uint64_t directory, const char *name,
                                size_t name_len, uint64_t *ino);

/* Is the key there? 0, -ENOENT, or another error. */
KV_MUST_CHECK int fs_key_exists(struct fs_volume *volume, const struct fs_key *key);

/* Add "store the item under its key", or "there is a link to it" under `key`, or "delete". */
KV_MUST_CHECK int fs_change_put(struct fs_data_change *change, const struct fs_item *item);
KV_MUST_CHECK int fs_change_put_link(struct fs_data_change *change, const struct fs_key *key,
                                     const struct fs_record *record);
KV_MUST_CHECK int fs_change_put_parent(struct fs_data_change *change, uint64_t ino,
                                       uint64_t directory, const char *name, size_t name_len);
KV_MUST_CHECK int fs_change_del(struct fs_data_change *change, const struct fs_key *key);
KV_MUST_CHECK int fs_change_del_ino(struct fs_data_change *change, enum fs_key_type type,
                                    uint64_t ino);

/*
 * A name of the item goes: count it off, and if it was the last, move the record under its
 * O key. The caller deletes the entry itself. item->key changes; `move` is set up when the
 * inode moved, to be completed after applying.
 *
 * Returns 0; -EUCLEAN the count contradicts itself.
 */
KV_MUST_CHECK int fs_change_drop_name(struct fs_data_change *change, struct fs_item *item,
                                      int64_t now, struct fs_inode_move *move);

/*
 * Setuid, setgid and file capabilities end with a change by others. A setgid bit that does not
 * go with execution by the group stays if who asks is in that group (fs_volume_options).
 */
KV_MUST_CHECK int fs_change_kill_privileges(struct fs_volume *volume, struct fs_data_change *change,
                                            struct fs_item *item, bool kill_mode_bits);

/* The mode has changed: the access ACL, if there is one, follows. */
KV_MUST_CHECK int fs_change_acl_mode(struct fs_volume *volume, struct fs_data_change *change,
                                     struct fs_record *record);
/*
 * A new inode's mode: as its directory's default ACL says, which it inherits, or by the umask
 * where there is none.
 */
KV_MUST_CHECK int fs_change_inherit_acl(struct fs_volume *volume, struct fs_data_change *change,
                                        const struct fs_record *parent, uint32_t umask,
                                        struct fs_record *record);

/*
 * The attributes of another inode, lists among them, in place of its own; but not what was said of
 * the other's content, its capability. The mode that goes with an access list is the caller's.
 */
KV_MUST_CHECK int fs_change_copy_xattrs(struct fs_volume *volume, struct fs_data_change *change,
                                        struct fs_record *record, const struct fs_record *from);

/* Apply; deletions pass KV_APPLY_URGENT. The change is empty afterwards, to be used again. */
KV_MUST_CHECK int fs_change_apply(struct fs_volume *volume, struct fs_data_change *change,
                                  unsigned flags);

/* The directory that is about to change; -ENOTDIR; -ENOENT it is deleted itself. */
KV_MUST_CHECK int fs_directory_load(struct fs_volume *volume, uint64_t directory,
                                    struct fs_item *item);
/* Where a directory hangs; the root in itself. -EUCLEAN: it should say. */
KV_MUST_CHECK int fs_directory_parent(struct fs_volume *volume, uint64_t directory,
                                      uint64_t *parent);
/*
 * 0; -ENOTEMPTY; -EKEYEXPIRED nothing but what has expired is in it. The caller holds the
 * directory's lock.
 */
KV_MUST_CHECK int fs_directory_is_empty(struct fs_volume *volume, uint64_t directory);

/* A number never used before. */
KV_MUST_CHECK int fs_ino_allocate(struct fs_volume *volume, uint64_t *ino);

/* A new inode in the directory `parent`: empty, with one name, stamped with the time. */
struct fs_record fs_record_new(const struct fs_caller *caller, uint64_t ino, uint32_t mode,
                               const struct fs_record *parent);

/* How a file's content is to be packed; NULL: as the image says. */
const struct kv_codec_spec *fs_record_codec(const struct fs_record *record,
                                            struct kv_codec_spec *spec);

#endif
