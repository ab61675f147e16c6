/*
 * fs/acl.h: POSIX access control lists, as they stand in extended attributes.
 *
 * The value of system.posix_acl_access and _default, little-endian:
 *
 *    0         4     6      8    12
 *    | version | tag | perm | id | ...
 *
 * Pure functions: nothing is stored here. A list of no entries means: no list. The rules
 * are those of POSIX.1e draft 17, section 23, as Linux keeps them.
 *
 * Threads: any: no state.
 */
#ifndef FS_ACL_H
#define FS_ACL_H

#include "kv/base.h"

#define FS_ACL_VERSION 2u
#define FS_ACL_NO_ID   0xffffffffu

enum fs_acl_tag {
    FS_ACL_USER_OBJ = 1,
    FS_ACL_USER = 2,
    FS_ACL_GROUP_OBJ = 4,
    FS_ACL_GROUP = 8,
    FS_ACL_MASK = 16,
    FS_ACL_OTHER = 32
};

struct fs_disk_acl_header {
    kv_le32 version;
};

struct fs_disk_acl_entry {
    kv_le16 tag;
    kv_le16 perm; /* 4 read, 2 write, 1 execute */
    kv_le32 id;   /* of USER and GROUP; else FS_ACL_NO_ID */
};

/*
 * Is this a list that may be stored? Entries come in the order of their tags, each tag but
 * USER and GROUP once, MASK if there is any of these two.
 *
 * Returns 0; -EINVAL; -EOPNOTSUPP another version; -ENODATA a sound list of no entries.
 */
KV_MUST_CHECK int fs_acl_validate(const void *acl, size_t length);

/*
 * The permission bits (0..0777) that a valid list stands for: the group's are the mask's
 * where there is one.
 *
 * minimal  out: the list says nothing that the bits do not, so it need not be stored.
 *
 * Returns 0, or what fs_acl_validate says.
 */
KV_MUST_CHECK int fs_acl_to_mode(const void *acl, size_t length, uint32_t *bits, bool *minimal);

/* chmod: let a valid list, changed in place, stand for `mode`'s permission bits. */
KV_MUST_CHECK int fs_acl_set_mode(void *acl, size_t length, uint32_t mode);

/*
 * The mode of a new inode, and its access list.
 *
 * default_acl  the directory's default list; length 0: there is none, and the umask counts.
 *              A new directory inherits it unchanged as its own default list; that is the
 *              caller's to store.
 * mode         in: as asked for, with all its other bits; out: what the inode gets.
 * access       out: `length` bytes for the access list.
 * keep_access  out: the access list says more than the mode and is to be stored.
 *
 * Returns 0, or what fs_acl_validate says of the default list.
 */
KV_MUST_CHECK int fs_acl_inherit(const void *default_acl, size_t length, uint32_t umask,
                                 uint32_t *mode, void *access, bool *keep_access);

#endif
