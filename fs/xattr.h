/*
 * fs/xattr.h: extended attributes, as X records of the store.
 *
 *    key   'X' inode(8, big-endian) name    the whole name with its namespace
 *    value the attribute's bytes
 *
 * FS_RECORD_XATTRS in the inode's record says that there may be X records; without it nothing
 * is looked up. The bits for the two ACLs and for security.capability are exact. Functions
 * that change attributes keep these bits in the caller's copy of them.
 *
 * Locks: the caller holds the inode's lock, shared for get and list, exclusive for the rest.
 * Errors common to all that read: what kv/kv.h says of reading; -ENOMEM.
 */
#ifndef FS_XATTR_H
#define FS_XATTR_H

#include "fs/record.h"
#include "kv/kv.h"

#define FS_XATTR_NAME_MAX  255u
#define FS_XATTR_VALUE_MAX 65536u
#define FS_XATTR_LIST_MAX  65536u /* bytes of all names of an inode, each with its NUL */

#define FS_XATTR_ACCESS_ACL  "system.posix_acl_access"
#define FS_XATTR_DEFAULT_ACL "system.posix_acl_default"
#define FS_XATTR_CAPABILITY  "security.capability"

/*
 * May an attribute have this name? user., trusted., security. with something behind it, and
 * the two ACLs. Returns 0; -EOPNOTSUPP another namespace; -EINVAL nothing behind it; -ERANGE
 * longer than FS_XATTR_NAME_MAX.
 */
KV_MUST_CHECK int fs_xattr_check_name(const char *name);

/* The bit of enum fs_record_flags that stands for just this attribute, or 0. */
uint32_t fs_xattr_flag(const char *name);

/*
 * Copy an attribute's value.
 *
 * flags   of the inode's record.
 * cap     of buf; 0 asks for the length only.
 * length  out: whole length; set on 0 and on -ERANGE.
 *
 * Returns 0; -ENODATA; -ERANGE buf too small; what fs_xattr_check_name returns.
 */
KV_MUST_CHECK int fs_xattr_get(struct kv_store *store, uint64_t ino, uint32_t flags,
                               const char *name, void *buf, size_t cap, size_t *length);

/*
 * Copy all names, each terminated by NUL, in byte order.
 *
 * with_trusted  trusted.* too (the caller may see them).
 * cap, length   as in fs_xattr_get.
 *
 * Returns 0; -ERANGE buf too small.
 */
KV_MUST_CHECK int fs_xattr_list(struct kv_store *store, uint64_t ino, uint32_t flags,
                                bool with_trusted, char *buf, size_t cap, size_t *length);

/* Has any inode an attribute at all? 0 with *any; what a cursor returns. */
KV_MUST_CHECK int fs_xattr_any(struct kv_store *store, bool *any);

/*
 * Add the setting of an attribute to a batch. An ACL is stored as it is: fs/acl.h and the
 * mode are the caller's.
 *
 * flags      in, out: of the inode's record.
 * set_flags  XATTR_CREATE, XATTR_REPLACE or 0.
 *
 * Returns 0; -EEXIST; -ENODATA; -E2BIG value too long; -ENOSPC all names together would be
 * longer than FS_XATTR_LIST_MAX; -EINVAL bad set_flags; what fs_xattr_check_name returns.
 */
KV_MUST_CHECK int fs_xattr_set(struct kv_store *store, uint64_t ino, uint32_t *flags,
                               const char *name, const void *value, size_t length, int set_flags,
                               struct kv_batch *batch);

/* Add the removal of an attribute to a batch. 0; -ENODATA; fs_xattr_check_name's. */
KV_MUST_CHECK int fs_xattr_remove(struct kv_store *store, uint64_t ino, uint32_t *flags,
                                  const char *name, struct kv_batch *batch);

/* Add the removal of all attributes of an inode that goes away. 0; -ENOMEM. */
KV_MUST_CHECK int fs_xattr_delete_all(uint64_t ino, struct kv_batch *batch);

/*
 * Take an X key apart: `name` points into `key`, without a NUL.
 * -EUCLEAN it is none, or no attribute may have this name.
 */
KV_MUST_CHECK int fs_xattr_key_parse(const void *key, size_t key_len, uint64_t *ino,
                                     const char **name, size_t *name_len);

#endif
