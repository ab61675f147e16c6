/*
 * fs/apply.h: several changes of the tree as one: all of them or none, also over a crash.
 *
 * The changes take effect in their order, each on what those before it left; what one of them
 * may not do, no change is made at all. Together they are one batch of the store, hence one
 * record of its log. Keys are paths as in fs/namespace.h: no symlink is followed.
 *
 * Nothing else reads or changes the filesystem meanwhile, and what the kernel has cached of it
 * is out of date afterwards: who mounts it says so to the kernel, by the observer.
 *
 * Text form, for people, scripts and the daemon's control file: a line for each change, its
 * words with single spaces or tabs between them.
 *
 *    put KEY VALUE      store a value; directories on the way are made
 *    put KEY @LENGTH    the value is the LENGTH bytes after this line, and a newline ends it
 *    delete KEY         remove a value, a link or an empty directory; it must be there
 *    discard KEY        the same; it need not be there
 *    rename KEY NEW     move, in place of what NEW may name; directories on the way are made
 *    link KEY FILE      one more name, KEY, for the value FILE
 *    mkdir KEY          make a directory and those on the way; it may be there
 *    # remark           so is an empty line
 *
 * A word is bytes without space, tab, newline, backslash and double quote, the first of them no
 * "@" or "#"; or anything between double quotes, with \\ \" \n \r \t \0 and \xHH for the bytes
 * that they name. A text that begins with "inode N" says nothing more: the changes stand in the
 * regular file with that inode number, which some program keeps open.
 */
#ifndef FS_APPLY_H
#define FS_APPLY_H

#include "fs/volume.h"

#define FS_APPLY_TEXT_MAX (64u << 20) /* bytes */

enum fs_apply_kind {
    FS_APPLY_PUT,     /* path, bytes; what is replaced hands on mode, owner and attributes */
    FS_APPLY_DELETE,  /* path */
    FS_APPLY_DISCARD, /* path */
    FS_APPLY_RENAME,  /* path, to */
    FS_APPLY_LINK,    /* path: the new name; to: the file */
    FS_APPLY_MKDIR,   /* path */
    FS_APPLY_STORE,   /* path, bytes (or a symlink's target), attributes */
};

struct fs_apply_xattr {
    const char *name;
    const void *value;
    size_t length;
};

/*
 * What FS_APPLY_STORE stores besides the content; of a directory that is there, it changes it. The
 * default time of a directory, user.kvfs.ttl, holds for what other batches make in it; empty: there
 * is none, from here on.
 */
struct fs_apply_attributes {
    uint32_t mode; /* type and permissions */
    uint32_t uid, gid;
    uint64_t rdev;
    int64_t atime_ns, mtime_ns;
    const struct fs_apply_xattr *xattrs;
    size_t xattr_count;
    bool keep_same; /* what has this type, size, mtime, mode and owner already is left alone; a
                       directory only if it has the user.kvfs.ttl, too, if one is given */
};

/* The user.kvfs.ttl among them, or NULL. */
const struct fs_apply_xattr *fs_apply_ttl_of(const struct fs_apply_attributes *attributes);

/* One change. All that it points to is borrowed for the call. */
struct fs_apply_change {
    enum fs_apply_kind kind;
    const char *path, *to;
    const void *bytes;
    size_t length;
    const struct fs_apply_attributes *attributes;
};

/* Called when the changes are made, under no lock, of what the kernel knows. Either may be NULL. */
struct fs_apply_observer {
    void (*entry)(void *context, uint64_t directory, const char *name, size_t name_len);
    void (*inode)(void *context, uint64_t ino); /* known before; attributes, or a listing */
    void *context;
};

struct fs_apply_result {
    uint64_t change_count;
    size_t failed;         /* index of the change that may not be; change_count: none of them */
    uint64_t line;         /* of the text; 0: it is not about a line */
    struct kv_error error; /* names line, key and remedy */
};

/*
 * Make the changes. flags: enum kv_apply_flags.
 *
 * Returns 0; -EINVAL, -ENAMETOOLONG a path; -ENOENT, -EISDIR, -ENOTDIR, -ENOTEMPTY, -EEXIST,
 * -EMEDIUMTYPE (neither a value nor a directory), -EPERM, -EMLINK as the change's own operation;
 * -EOPNOTSUPP an attribute that it can not have; -EACCES a name that fs_volume_reserve has set
 * aside; -E2BIG more than the log takes at once; what fs/volume.h names. `result` is filled in
 * always.
 */
KV_MUST_CHECK int fs_apply(struct fs_volume *volume, const struct fs_caller *caller,
                           const struct fs_apply_change *changes, size_t count, unsigned flags,
                           const struct fs_apply_observer *observer,
                           struct fs_apply_result *result);

/*
 * Make the changes that a text names; they are durable on return. -EINVAL also for a line that is
 * not well formed; -E2BIG a text longer than FS_APPLY_TEXT_MAX; observer may be NULL.
 */
KV_MUST_CHECK int fs_apply_text(struct fs_volume *volume, const struct fs_caller *caller,
                                const void *text, size_t length,
                                const struct fs_apply_observer *observer,
                                struct fs_apply_result *result);

/* ---- the text, without a filesystem -------------------------------------------- */

struct fs_apply_batch; /* changes, and the memory of what they point to */

/* The text is borrowed as long as the batch lives. -EINVAL, -E2BIG with line and words. */
KV_MUST_CHECK int fs_apply_parse(const void *text, size_t length, struct fs_apply_batch **batch,
                                 struct fs_apply_result *result);
void fs_apply_batch_free(struct fs_apply_batch *batch);
size_t fs_apply_batch_changes(const struct fs_apply_batch *batch,
                              const struct fs_apply_change **changes);
/* The line of the text, from 1, in which a change begins. */
uint64_t fs_apply_batch_line(const struct fs_apply_batch *batch, size_t index);

#endif
