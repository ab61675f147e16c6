/*
 * fs/inode_table.h: what the kernel knows of, and where it stands in the store.
 *
 * The kernel names an inode by its number, the store by a key that changes with rename, link
 * and unlink. The table maps the one to the other and counts the kernel's references, from
 * the first LOOKUP to the last FORGET. It is the only memory that grows with the kernel's
 * caches, so an entry is small: about 50 bytes and the name.
 *
 * Threads: any. A key read here stays right as long as the caller holds the inode's lock
 * (fs/lock.h): whoever moves a key holds that lock exclusively.
 */
#ifndef FS_INODE_TABLE_H
#define FS_INODE_TABLE_H

#include "fs/record.h"

struct fs_inode_table;
struct fs_cookies;

struct fs_inode_table *fs_inode_table_new(void); /* NULL: no memory */
void fs_inode_table_free(struct fs_inode_table *table);

/*
 * The key of an inode that is known. 0; -ESTALE it is not, or has no reference any more. The
 * root is always known.
 */
KV_MUST_CHECK int fs_inode_table_key(struct fs_inode_table *table, uint64_t ino,
                                     struct fs_key *key);

/*
 * Count one reference; an inode not known so far enters with `key` (a D, I or O key).
 * One that is known keeps its key. 0; -ENOMEM.
 */
KV_MUST_CHECK int fs_inode_table_ref(struct fs_inode_table *table, uint64_t ino,
                                     const struct fs_key *key);

/*
 * Take `count` references off. Returns true, once, when none is left and the inode stands under
 * an O key: it stays in the table until the caller has deleted it and calls
 * fs_inode_table_drop. Otherwise an inode without references leaves the table.
 */
bool fs_inode_table_unref(struct fs_inode_table *table, uint64_t ino, uint64_t count);

/* The same; units: out: of an orphan what fs_inode_table_hint said, else 0. */
bool fs_inode_table_forget(struct fs_inode_table *table, uint64_t ino, uint64_t count,
                           uint64_t *units);

/* Forget an orphan that nobody refers to. False: somebody does again, or it is none. */
bool fs_inode_table_drop(struct fs_inode_table *table, uint64_t ino);

/* References counted now; 0 also for what is not known. */
uint64_t fs_inode_table_references(struct fs_inode_table *table, uint64_t ino);

/*
 * The inode stands under another key now; nothing happens if it is not known. In two steps,
 * since the second must not fail: reserve before the batch is applied, move or cancel after.
 *
 * move returns whether the inode is known. One that has just become an orphan and is not is
 * the caller's to delete; asking for references before or after would not do, since forgets
 * come at any time.
 */
struct fs_inode_move {
    struct fs_inode *entry; /* NULL: not known */
};
KV_MUST_CHECK int fs_inode_table_reserve(uint64_t ino, const struct fs_key *key,
                                         struct fs_inode_move *move);
/* With an O key: so many units of content it has now, for who deletes it. */
void fs_inode_table_hint(struct fs_inode_move *move, uint64_t units);
bool fs_inode_table_move(struct fs_inode_table *table, struct fs_inode_move *move);
void fs_inode_table_cancel(struct fs_inode_move *move);

/*
 * What was decided of an inode (fs/policy_lookup.h): a few bits, good for one generation, which is
 * never 0. They are gone when it stands under another key. False: nothing, or in another one.
 */
bool fs_inode_table_choice(struct fs_inode_table *table, uint64_t ino, uint32_t generation,
                           uint16_t *choice);
void fs_inode_table_choose(struct fs_inode_table *table, uint64_t ino, uint32_t generation,
                           uint16_t choice);

/*
 * The listing cookies of a known directory, made when first asked for. They live until the
 * kernel forgets the directory. NULL: not known, or no memory.
 */
struct fs_cookies *fs_inode_table_cookies(struct fs_inode_table *table, uint64_t ino);

/*
 * Let the listing cookies of all directories forget what was not asked for lately
 * (fs_cookies_age). A listing does so for its directory, and fs_inode_table_usage for all, by the
 * monotonic clock.
 */
void fs_inode_table_age(struct fs_inode_table *table, int64_t now_ns);

/*
 * How many inodes have references, and the bytes that all take, listing cookies included. It goes
 * through all directories that were listed.
 */
void fs_inode_table_usage(struct fs_inode_table *table, uint64_t *inode_count,
                          uint64_t *memory_bytes);

#endif
