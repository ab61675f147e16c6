/*
 * fs/volume.h: the operations of the filesystem on an open store, without FUSE.
 *
 * Each is what the kernel's request of that name asks for; the mount, the tools that work on
 * an unmounted image and the tests all call these. Each changing operation is one batch,
 * applied whole or not at all (very large truncations, deletions and clones: a sequence of
 * batches, each of which leaves a sound filesystem).
 *
 * Inodes are named by number. A number is usable from the call that returned it with a
 * reference counted (marked "counts") until fs_forget has taken all references off; the root
 * is always usable. Permissions are the caller's business, except for what a change of
 * content or owner does to setuid bits and capabilities.
 *
 * Errors common to all: -ESTALE an inode that is not known; -EBADMSG or -EUCLEAN damage;
 * -EIO; -ENOMEM; and of changes: -EROFS, -ENOSPC. Names: -ENAMETOOLONG, -EINVAL.
 * Threads: any, except for open and close.
 */
#ifndef FS_VOLUME_H
#define FS_VOLUME_H

#include <sys/statvfs.h>

#include "fs/record.h"

struct fs_volume;
struct fs_policies;

struct fs_volume_options {
    bool read_only;
    kv_log_fn *log; /* NULL: standard error */
    void *log_context;
    /*
     * Of who asks for the change of content or owner that this thread is about: may a setgid
     * bit stay that is not for execution by the group `gid`? NULL: it may.
     */
    bool (*keeps_setgid)(uint32_t gid);
    /* Are setuid and setgid to go with fs_fallocate and fs_copy_range? NULL: they are. */
    bool (*kills_privileges)(void);
    /* May the caller do what the owner `uid` may? NULL: yes. */
    bool (*is_owner)(uint32_t uid);
    const struct fs_policies *policies; /* borrowed until fs_volume_close; NULL: none */
    int64_t (*now)(void); /* tests: ns since 1970, for what expires; NULL: the wall clock */
};

/*
 * Use the filesystem in an open store, which is borrowed until fs_volume_close. Unless it is
 * read-only, what is left of files that were deleted while open goes now.
 *
 * Returns 0; -EMEDIUMTYPE no filesystem in it; -EPROTONOSUPPORT another version; or as above.
 */
KV_MUST_CHECK int fs_volume_open(struct kv_store *store, const struct fs_volume_options *options,
                                 struct fs_volume **volume, struct kv_error *error);
/* Delete what the kernel had open without a name, and release everything but the store. */
void fs_volume_close(struct fs_volume *volume);

/*
 * Set a name in the root aside, which nothing in the image has: fs_apply makes none of it. For
 * what a mount shows there; single operations are refused above (fs/fuse_control.h). Before
 * anybody uses the volume; name: at most FS_NAME_MAX bytes.
 */
void fs_volume_reserve(struct fs_volume *volume, const char *name);

struct kv_store *fs_volume_store(struct fs_volume *volume);
void fs_volume_log(struct fs_volume *volume, enum kv_log_level level, const char *format, ...)
    KV_PRINTF(3, 4);
/*
 * What programs shall see of an operation's error: damage is EIO, and a line in the log that names
 * the inode, or the entry of it (name may be NULL). After a failed write or flush there is no such
 * line: the failure itself was logged, and what was not durable may be gone without any damage to
 * the image.
 */
int fs_volume_visible_error(struct fs_volume *volume, const char *what, uint64_t ino,
                            const char *name, int err);

/* Who asks. */
struct fs_caller {
    uint32_t uid, gid;
    uint32_t umask;
};

/* ---- names ------------------------------------------------------------------ */

/* -ENOENT. Counts. */
KV_MUST_CHECK int fs_lookup(struct fs_volume *volume, uint64_t directory, const char *name,
                            size_t name_len, struct fs_record *record);
/* Take references off; with the last one an inode without a name is deleted. */
void fs_forget(struct fs_volume *volume, uint64_t ino, uint64_t count);

struct fs_new_node {
    uint32_t mode;      /* type and permissions as asked for, before umask and ACL */
    uint64_t rdev;      /* of device nodes */
    const char *target; /* of symlinks; borrowed */
    size_t target_len;
};
/* File, directory, symlink or special file. -EEXIST; -ENOENT the directory is gone. Counts. */
KV_MUST_CHECK int fs_create(struct fs_volume *volume, const struct fs_caller *caller,
                            uint64_t directory, const char *name, size_t name_len,
                            const struct fs_new_node *node, struct fs_record *record);
/* A file without a name (O_TMPFILE), which lives until forgotten or linked. Counts. */
KV_MUST_CHECK int fs_create_unnamed(struct fs_volume *volume, const struct fs_caller *caller,
                                    uint64_t directory, uint32_t mode, struct fs_record *record);
/* -EISDIR, -ENOENT. */
KV_MUST_CHECK int fs_unlink(struct fs_volume *volume, uint64_t directory, const char *name,
                            size_t name_len);
/* -ENOTDIR, -ENOTEMPTY, -ENOENT. */
KV_MUST_CHECK int fs_rmdir(struct fs_volume *volume, uint64_t directory, const char *name,
                           size_t name_len);
/* -EPERM a directory; -EMLINK; -EEXIST. Counts. */
KV_MUST_CHECK int fs_link(struct fs_volume *volume, uint64_t ino, uint64_t directory,
                          const char *name, size_t name_len, struct fs_record *record);

/*
 * Give a file without a name the name, in place of the file that may have it: anybody sees
 * the old content or the new. -EISDIR; -EINVAL the file has a name. Does not count.
 */
KV_MUST_CHECK int fs_publish(struct fs_volume *volume, uint64_t ino, uint64_t directory,
                             const char *name, size_t name_len);
/*
 * The same, and the file expires so many seconds from now, whatever its directory and policies say
 * (fs/expiry.h). ttl_seconds: as fs_ttl_parse gives it; 0: as fs_publish.
 */
KV_MUST_CHECK int fs_publish_for(struct fs_volume *volume, uint64_t ino, uint64_t directory,
                                 const char *name, size_t name_len, uint64_t ttl_seconds);

enum fs_rename_flags { FS_RENAME_NOREPLACE = 1, FS_RENAME_EXCHANGE = 2 };
/*
 * -ENOENT; -EEXIST with NOREPLACE; -EISDIR, -ENOTDIR, -ENOTEMPTY of what would be replaced;
 * -EINVAL other flags, or a directory would move into itself.
 */
KV_MUST_CHECK int fs_rename(struct fs_volume *volume, uint64_t directory, const char *name,
                            size_t name_len, uint64_t new_directory, const char *new_name,
                            size_t new_name_len, unsigned flags);

/* target: FS_SYMLINK_MAX + 1 bytes, terminated. -EINVAL not a symlink. */
KV_MUST_CHECK int fs_readlink(struct fs_volume *volume, uint64_t ino, char *target);

/* ---- attributes --------------------------------------------------------------- */

KV_MUST_CHECK int fs_getattr(struct fs_volume *volume, uint64_t ino, struct fs_record *record);

enum fs_attr_bits {
    FS_ATTR_MODE = 1,
    FS_ATTR_UID = 2,
    FS_ATTR_GID = 4,
    FS_ATTR_SIZE = 8,
    FS_ATTR_ATIME = 16,
    FS_ATTR_MTIME = 32,
    FS_ATTR_CTIME = 64,
    FS_ATTR_KILL_IF_OWNER = 256,   /* the same, if the caller is the owner; else nothing */
    FS_ATTR_KILL_PRIVILEGES = 128, /* setuid and setgid go (with a change of owner, always) */
};
struct fs_attr_change {
    unsigned valid; /* enum fs_attr_bits */
    uint32_t mode, uid, gid;
    uint64_t size;
    int64_t atime_ns, mtime_ns, ctime_ns;
};
/* -EINVAL or -EISDIR a size for what has none; -EFBIG. */
KV_MUST_CHECK int fs_setattr(struct fs_volume *volume, uint64_t ino,
                             const struct fs_attr_change *change, struct fs_record *record);

/* For stat(2). */
void fs_record_stat(const struct fs_record *record, struct stat *stat);

/* ---- content -------------------------------------------------------------------- */

KV_MUST_CHECK int fs_read(struct fs_volume *volume, uint64_t ino, uint64_t offset, void *buf,
                          size_t length, size_t *got);
/* Have extents of the range read into memory. A hint: errors are for who reads it. */
void fs_prefetch_range(struct fs_volume *volume, uint64_t ino, uint64_t offset, size_t length);
/*
 * As fs_read, for who does not wait for the device. 0 and *reading NULL: it is read. 0 and
 * *reading: *transfer is to be made, then fs_read_end called, and `buf` stays until then.
 */
KV_MUST_CHECK int fs_read_begin(struct fs_volume *volume, uint64_t ino, uint64_t offset, void *buf,
                                size_t length, size_t *got, struct kv_blob_reading **reading,
                                struct kv_blob_transfer *transfer);
/* result: bytes of the transfer, or a negative errno; *got is that of fs_read_begin. */
KV_MUST_CHECK int fs_read_end(struct fs_volume *volume, uint64_t ino, uint64_t offset, void *buf,
                              size_t length, size_t *got, struct kv_blob_reading *reading,
                              int result);
/*
 * length 1..FS_WRITE_MAX, all of it or nothing is written.
 * kill_privileges: setuid and setgid go (the writer is not privileged).
 */
KV_MUST_CHECK int fs_write(struct fs_volume *volume, uint64_t ino, uint64_t offset, const void *buf,
                           size_t length, bool kill_privileges);
/*
 * The same for any length, in pieces: as much as there is room for. *written: how much, also
 * after an error.
 */
KV_MUST_CHECK int fs_write_most(struct fs_volume *volume, uint64_t ino, uint64_t offset,
                                const void *buf, size_t length, bool kill_privileges,
                                size_t *written);
/* mode: FALLOC_FL_*. -EOPNOTSUPP others than fs/data.h offers. */
KV_MUST_CHECK int fs_fallocate(struct fs_volume *volume, uint64_t ino, int mode, uint64_t offset,
                               uint64_t length);
/* whence: SEEK_DATA or SEEK_HOLE. -ENXIO; -EINVAL. */
KV_MUST_CHECK int fs_seek(struct fs_volume *volume, uint64_t ino, uint64_t offset, int whence,
                          uint64_t *found);
/* copied: may be less than length; the caller goes on behind it. */
KV_MUST_CHECK int fs_copy_range(struct fs_volume *volume, uint64_t from_ino, uint64_t from,
                                uint64_t to_ino, uint64_t to, uint64_t length, uint64_t *copied);

/* ---- listing --------------------------------------------------------------------- */

struct fs_dirent {
    const char *name; /* borrowed for the call */
    size_t name_len;
    uint64_t ino;
    uint32_t type;                  /* S_IFMT bits */
    uint64_t cookie;                /* resumes after this entry; fs/cookie.h */
    const struct fs_record *record; /* with attributes only; NULL for "." and ".." */
};
/* Returns false when the entry does not fit: the listing ends before it. */
typedef bool fs_dirent_fn(void *context, const struct fs_dirent *entry);

/*
 * List a directory in byte order of names ("." and ".." first) from a cookie on, 0 = all.
 * with_attributes: each entry but "." and ".." that `emit` accepts counts a reference.
 */
KV_MUST_CHECK int fs_readdir(struct fs_volume *volume, uint64_t ino, uint64_t cookie,
                             bool with_attributes, fs_dirent_fn *emit, void *context);

/* ---- extended attributes ------------------------------------------------------------ */

/* Which names there may be, and how much of what: fs/xattr.h. length: out, also on -ERANGE.
 * -ENODATA; -EOPNOTSUPP the name, or a label (security.selinux) where no inode has any attribute.
 */
KV_MUST_CHECK int fs_getxattr(struct fs_volume *volume, uint64_t ino, const char *name, void *value,
                              size_t cap, size_t *length);
/*
 * flags: XATTR_CREATE, XATTR_REPLACE. -EEXIST; -ENODATA; -E2BIG; -EINVAL not a legal ACL.
 * kill_setgid: setting an access ACL takes the setgid bit (the caller is not in the group).
 */
KV_MUST_CHECK int fs_setxattr(struct fs_volume *volume, uint64_t ino, const char *name,
                              const void *value, size_t length, int flags, bool kill_setgid);
KV_MUST_CHECK int fs_removexattr(struct fs_volume *volume, uint64_t ino, const char *name);
/*
 * Names, each terminated. with_trusted: trusted. too, which only root may see.
 * length: out, also on -ERANGE (cap 0 asks for it).
 */
KV_MUST_CHECK int fs_listxattr(struct fs_volume *volume, uint64_t ino, bool with_trusted,
                               char *names, size_t cap, size_t *length);

/*
 * Let an inode have owner, mode, access list and attributes of another in place of its own: so that
 * who may do what stays as it was when it takes the other's name. What goes with the other's
 * content is not copied (security.capability, times), nor when it expires. Attributes that are many
 * go in several batches: an inode that nobody knows yet is meant.
 */
KV_MUST_CHECK int fs_copy_attributes(struct fs_volume *volume, uint64_t ino, uint64_t from_ino);

/* ---- the whole ------------------------------------------------------------------------ */

/*
 * Files that were deleted while nobody held them may wait to be cleared away, a few at a time.
 * Do it now. Returns whether any were: then what failed for lack of space is worth another try.
 * Operations see to that themselves, and fs_statfs and fs_checkpoint do it first.
 */
bool fs_reap(struct fs_volume *volume);
/* Everything applied so far is durable on return. */
KV_MUST_CHECK int fs_sync(struct fs_volume *volume);
/* And is in the tree, not only in the log. */
KV_MUST_CHECK int fs_checkpoint(struct fs_volume *volume);
void fs_statfs(struct fs_volume *volume, struct statvfs *out);

/* How many inodes are referred to, and the memory of the table of them, listings included. */
void fs_volume_usage(struct fs_volume *volume, uint64_t *inode_count, uint64_t *memory_bytes);

/* Reads of FS_LONG_READ_BYTES and more (fs/data.h). */
struct fs_long_reads {
    uint64_t count, bytes;
    uint64_t pieces; /* extents, and pieces in leaves, that they were put together of */
};
void fs_volume_long_reads(const struct fs_volume *volume, struct fs_long_reads *reads);

#endif
