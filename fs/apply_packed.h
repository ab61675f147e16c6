/*
 * fs/apply_packed.h: changes of fs/apply.h as bytes, for who has many of them to hand over: an
 * import gives them to the control file `apply` of a mount.
 *
 *    0       8        12      16                         length
 *    | magic | length | count | change | change | ... |
 *
 * A change is a head of fixed size with the lengths of what follows it: path, other path, bytes,
 * and for each attribute a head of its own, name and value. Names and paths end with a zero.
 * Integers are little-endian. Only FS_APPLY_STORE and FS_APPLY_LINK can be packed.
 *
 * Threads: any: no state.
 */
#ifndef FS_APPLY_PACKED_H
#define FS_APPLY_PACKED_H

#include "fs/apply.h"
#include "fs/record.h"

#define FS_APPLY_PACKED_MAX   (32u << 20) /* bytes */
#define FS_APPLY_PACKED_MAGIC "kvfsPACK"

struct fs_disk_packed_header {
    uint8_t magic[8];
    kv_le32 length; /* of all, with this */
    kv_le32 count;  /* of changes */
};

/* How many bytes a change takes. */
uint64_t fs_apply_packed_size(const struct fs_apply_change *change);
/* Pack changes; `out` has room for the header and the sizes of all, at most FS_APPLY_PACKED_MAX. */
void fs_apply_pack(const struct fs_apply_change *changes, size_t count, void *out);

/*
 * Are these the first bytes of packed changes? bytes: at least sizeof(struct fs_disk_packed_header)
 * of them, else they are none. length_all: out; -EINVAL if no changes can be so long.
 */
bool fs_apply_is_packed(const void *bytes, size_t length);
KV_MUST_CHECK int fs_apply_packed_length(const void *bytes, size_t *length_all);

/* Changes, and the memory of what they point to besides the bytes. */
struct fs_apply_unpacked {
    struct fs_apply_change *changes;
    struct fs_apply_attributes *attributes;
    struct fs_apply_xattr *xattrs;
    size_t count;
};

/*
 * Unpack what came from anywhere. The bytes are borrowed as long as the result is used; release it
 * only after 0. -EINVAL: they contradict themselves, with words; -ENOMEM.
 */
KV_MUST_CHECK int fs_apply_unpack(const void *bytes, size_t length, struct fs_apply_unpacked *out,
                                  struct kv_error *error);
void fs_apply_unpacked_release(struct fs_apply_unpacked *unpacked);

/*
 * Let the changes be what a caller who is not root may do: all is his, no devices, no attributes
 * that only root sets. -EPERM, with words.
 */
KV_MUST_CHECK int fs_apply_confine(const struct fs_apply_unpacked *unpacked,
                                   const struct fs_caller *caller, struct kv_error *error);
/* May only root set an attribute of this name? */
bool fs_apply_is_privileged(const char *xattr_name);

#endif
