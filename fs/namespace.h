/*
 * fs/namespace.h: the filesystem by path, for tools that work on an image that is not mounted.
 *
 * A path is a key as users write it: names with single slashes between them, from the root;
 * one leading slash is allowed, "" and "/" are the root. Symlinks are not followed. -EINVAL:
 * an empty name, "." or ".."; -ENAMETOOLONG; -ENOTDIR a file on the way; -ENOENT.
 */
#ifndef FS_NAMESPACE_H
#define FS_NAMESPACE_H

#include "fs/volume.h"

KV_MUST_CHECK int fs_path_stat(struct fs_volume *volume, const char *path,
                               struct fs_record *record);

/* The entries of a directory in byte order, without "." and ".."; a file: itself. */
KV_MUST_CHECK int fs_path_list(struct fs_volume *volume, const char *path, fs_dirent_fn *emit,
                               void *context);

/* Takes bytes; a negative errno ends the reading and is returned. */
typedef int fs_sink_fn(void *context, const void *bytes, size_t length);
/* Gives up to cap bytes: how many, 0 at the end, or a negative errno. */
typedef ssize_t fs_source_fn(void *context, void *buf, size_t cap);

/* All of a file's content, or a symlink's target, in pieces. -EISDIR. */
KV_MUST_CHECK int fs_path_read(struct fs_volume *volume, const char *path, fs_sink_fn *sink,
                               void *context);

/*
 * Make or replace a file: whole or not at all. Directories on the way are made. What is
 * replaced hands on what fs_copy_attributes copies. -EISDIR.
 */
KV_MUST_CHECK int fs_path_write(struct fs_volume *volume, const struct fs_caller *caller,
                                const char *path, fs_source_fn *source, void *context);
/* The same, and it expires so many seconds from now; 0: as its directory and policies say. */
KV_MUST_CHECK int fs_path_write_for(struct fs_volume *volume, const struct fs_caller *caller,
                                    const char *path, uint64_t ttl_seconds, fs_source_fn *source,
                                    void *context);

/* Makes a new file what it is to be; it has no name yet. A negative errno ends it. */
typedef int fs_fill_fn(void *context, struct fs_volume *volume, uint64_t ino);

/* The same with content and attributes as `fill` gives them; what is replaced hands on nothing. */
KV_MUST_CHECK int fs_path_replace(struct fs_volume *volume, const struct fs_caller *caller,
                                  const char *path, fs_fill_fn *fill, void *context);

/* fs_describe_json by path. */
KV_MUST_CHECK int fs_path_describe_json(struct fs_volume *volume, const char *path, char *text,
                                        size_t cap);
/* fs_setxattr by path. */
KV_MUST_CHECK int fs_path_setxattr(struct fs_volume *volume, const char *path, const char *name,
                                   const void *value, size_t length);

/* Make a directory and those on the way to it; one that is there is no error. */
KV_MUST_CHECK int fs_path_mkdirs(struct fs_volume *volume, const struct fs_caller *caller,
                                 const char *path);

/* Remove a file or, if `recursive`, also a directory with all in it. -EISDIR; -EBUSY the root. */
KV_MUST_CHECK int fs_path_remove(struct fs_volume *volume, const char *path, bool recursive);

#endif
