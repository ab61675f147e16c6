/*
 * fs/describe.h: what one inode is made of, for people.
 */
#ifndef FS_DESCRIBE_H
#define FS_DESCRIBE_H

#include "fs/policy.h"
#include "fs/volume.h"

#define FS_XATTR_INFO "system.kvfs.info" /* of any inode: fs_describe_json */

struct fs_description {
    struct fs_record record;
    uint64_t inline_bytes;               /* content in the record itself */
    uint64_t packed_count, packed_bytes; /* short pieces in leaves */
    uint64_t extent_count, extent_bytes; /* as long as the file has them */
    uint64_t stored_bytes;               /* what their blobs take on the device */
    uint64_t unwritten_bytes;            /* preallocated */
    uint64_t extents_by_codec[3];        /* enum kv_codec */
    uint64_t xattr_count;
    struct fs_policy_choice choice; /* of a file: which policies decide what */
};

/* -ESTALE as fs_getattr, and what reading says. */
KV_MUST_CHECK int fs_describe(struct fs_volume *volume, uint64_t ino,
                              struct fs_description *description);

/* The same as one JSON object. Like snprintf: returns the length it has, or a negative errno. */
KV_MUST_CHECK int fs_describe_json(struct fs_volume *volume, uint64_t ino, char *text, size_t cap);

#endif
