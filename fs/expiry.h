/*
 * fs/expiry.h: files that end by themselves.
 *
 * A file (anything but a directory) may have a moment at which it expires. From then on its name
 * means nothing to anyone, and what it takes is given back in the background. The attribute
 * FS_XATTR_TTL sets, shows and removes that moment as seconds from now; on a directory it is what
 * files made in it begin with, and directories made in it too.
 *
 * On disk the moment stands in the inode's record, and so does a directory's default, as a
 * duration. The index of what expires when:
 *
 *    key   'T' expiry(8, big-endian) ino(8)      ns since 1970
 *    value directory(8) name                     as a P record's: where the file's D key is
 *
 * Invariant: a record that expires stands under a D key, and its T key is changed in the same
 * batch as that. So it has one name: what has several can not expire, and the other way round.
 */
#ifndef FS_EXPIRY_H
#define FS_EXPIRY_H

#include "fs/inode.h"

#define FS_XATTR_TTL          "user.kvfs.ttl"
#define FS_TTL_SECONDS_MAX    UINT64_C(3155760000) /* 100 years */
#define FS_EXPIRY_KEY_BYTES   17u
#define FS_EXPIRY_VALUE_BYTES (8u + FS_NAME_MAX)

/*
 * Seconds of a text: digits, and at most one of the letters s, m, h, d, w behind them.
 * 0; -EINVAL another text, 0 seconds, or more than FS_TTL_SECONDS_MAX.
 */
KV_MUST_CHECK int fs_ttl_parse(const void *text, size_t length, uint64_t *seconds);

/* The index key of a record that expires. */
void fs_key_expiry(uint8_t key[FS_EXPIRY_KEY_BYTES], uint64_t expiry_ns, uint64_t ino);

/* ---- for the operations, under the inode's lock ------------------------------------------- */

/* Is it over with a record? Never with a directory's. */
bool fs_is_expired(const struct fs_volume *volume, const struct fs_record *record);
/* The same of what stands under a D key. */
bool fs_entry_is_expired(const struct fs_volume *volume, const struct fs_entry *entry);

/* The record's expiry, if it has one, goes into the index, with the D key that the item has. */
KV_MUST_CHECK int fs_change_put_expiry(struct fs_volume *volume, struct fs_data_change *change,
                                       const struct fs_item *item);
/* It goes out of the index and the record: the last name goes, or the attribute. */
KV_MUST_CHECK int fs_change_end_expiry(struct fs_data_change *change, struct fs_record *record);
/*
 * A record under a D key that has no time yet expires so many nanoseconds from now; 0: it does not.
 * Of a directory this becomes the default.
 */
KV_MUST_CHECK int fs_change_begin_expiry(struct fs_volume *volume, struct fs_data_change *change,
                                         struct fs_item *item, uint64_t duration_ns);
#define FS_NS_PER_SECOND UINT64_C(1000000000)
/* The sooner of two durations; 0 is none. */
uint64_t fs_sooner(uint64_t one_ns, uint64_t other_ns);
/*
 * A new record, which is under a D key already, begins with its directory's default or what a
 * policy says of its name, whichever is over sooner. Directories have the default only.
 */
KV_MUST_CHECK int fs_change_inherit_expiry(struct fs_volume *volume, struct fs_data_change *change,
                                           const struct fs_record *parent, struct fs_item *item);

/*
 * A record that is to stand under another name (item->key) gets what a policy says of that, if it
 * has no time yet. For fs_change_put_expiry to put into the index.
 */
KV_MUST_CHECK int fs_expiry_of_new_name(struct fs_volume *volume, struct fs_item *item);

/*
 * FS_XATTR_TTL of an item: the text (length as of fs_getxattr), and a change of it.
 * value: NULL removes. -ENODATA; -EEXIST; -EINVAL; -EPERM a file with several names.
 */
KV_MUST_CHECK int fs_ttl_get(const struct fs_volume *volume, const struct fs_record *record,
                             void *value, size_t cap, size_t *length);
KV_MUST_CHECK int fs_change_ttl(struct fs_volume *volume, struct fs_data_change *change,
                                struct fs_item *item, const void *value, size_t length, int flags);

/* ---- without locks -------------------------------------------------------------------------- */

/*
 * Remove what has expired under a name, or all such names of a directory, so that the name can be
 * used again and the directory removed. 0 also if there is nothing to do.
 */
KV_MUST_CHECK int fs_expiry_clear_name(struct fs_volume *volume, uint64_t directory,
                                       const char *name, size_t name_len);
KV_MUST_CHECK int fs_expiry_clear_directory(struct fs_volume *volume, uint64_t directory);

/* Told of each name that is over, without locks, before it is removed. */
typedef void fs_expired_fn(void *context, uint64_t directory, const char *name, size_t name_len);

/*
 * Remove what has expired, the longest expired first, at most `most` files.
 *
 * count    out: how many index entries were dealt with; `most`: there may be more.
 * next_ns  out: when the next one expires, INT64_MAX: none is known to.
 *
 * An index entry that can not be acted on goes, and the log says so; fsck.kvfs puts it right.
 * Errors are those of changes, not of damage: the same can be tried again later.
 */
KV_MUST_CHECK int fs_expire(struct fs_volume *volume, uint64_t most, fs_expired_fn *expired,
                            void *context, uint64_t *count, int64_t *next_ns);

/* Now, as expiry has it. */
int64_t fs_expiry_now(const struct fs_volume *volume);
/* Something will expire then: who waits for an earlier moment than so far is woken. */
void fs_expiry_expect(struct fs_volume *volume, int64_t moment_ns);

/* For fs_volume_open and fs_volume_close. */
void fs_expiry_init(struct fs_volume *volume);
void fs_expiry_release(struct fs_volume *volume);

#endif
