/*
 * tests/faults/crash/fs_model.h: a small tree of files in memory, to hold a volume against.
 *
 * Inodes and entries stand in arrays and are named by index; inode 0 is the root. Content is
 * kept as it is. One thread; aborts without memory, and when an array is full.
 */
#ifndef TESTS_FAULTS_CRASH_FS_MODEL_H
#define TESTS_FAULTS_CRASH_FS_MODEL_H

#include <sys/stat.h>

#include "kv/base.h"

#define MODEL_INODES      128u
#define MODEL_ENTRIES     256u
#define MODEL_XATTRS      8u
#define MODEL_NAME_BYTES  24u
#define MODEL_VALUE_BYTES 320u
#define MODEL_NONE        SIZE_MAX

struct model_xattr {
    char name[MODEL_NAME_BYTES + 8];
    uint8_t value[MODEL_VALUE_BYTES];
    size_t length;
};

struct model_inode {
    bool used;
    uint64_t ino;
    uint32_t mode, uid, gid;
    uint64_t rdev;
    uint8_t *content; /* of files; the target of symlinks */
    size_t size;
    struct model_xattr xattrs[MODEL_XATTRS];
    size_t xattr_count;
};

struct model_entry {
    bool used;
    size_t parent, inode;
    char name[MODEL_NAME_BYTES];
};

struct model {
    struct model_inode inodes[MODEL_INODES];
    struct model_entry entries[MODEL_ENTRIES];
};

/* A root directory and nothing else. */
struct model *model_new(uint64_t root_ino, uint32_t root_mode);
struct model *model_copy(const struct model *from);
void model_free(struct model *model);

size_t model_add_inode(struct model *model, uint64_t ino, uint32_t mode);
void model_drop_inode(struct model *model, size_t inode);
size_t model_add_entry(struct model *model, size_t parent, const char *name, size_t inode);
/* How many names an inode has. */
size_t model_names(const struct model *model, size_t inode);
uint32_t model_nlink(const struct model *model, size_t inode);
bool model_is_empty(const struct model *model, size_t directory);
/* Is `inode` the directory `above`, or somewhere below it? */
bool model_is_below(const struct model *model, size_t inode, size_t above);

/* Bytes [size, new size) are zeros. */
void model_resize(struct model_inode *inode, size_t size);
void model_write(struct model_inode *inode, size_t offset, const void *bytes, size_t length);

/* NULL: there is none of that name. */
struct model_xattr *model_xattr_find(struct model_inode *inode, const char *name);
void model_xattr_set(struct model_inode *inode, const char *name, const void *value, size_t length);
void model_xattr_remove(struct model_inode *inode, const char *name);

/* ---- digests ------------------------------------------------------------------ */

/* What counts of an inode under one of its names. */
struct model_item {
    uint64_t parent_ino, ino;
    uint32_t mode, uid, gid, nlink;
    uint64_t rdev, size;      /* size: of files and symlinks */
    uint64_t content, xattrs; /* digests */
};
uint64_t model_item_digest(const struct model_item *item, const char *name, size_t name_len);
uint64_t model_xattr_digest(const char *name, const void *value, size_t length);

/* Of the whole tree: the sum over its names and the root. */
uint64_t model_digest(const struct model *model);

#endif
