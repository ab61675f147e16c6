/*
 * tools/keys.h: the keys of a target, which is a mounted directory or an image that nobody uses.
 *
 * Both look alike from here: a key is a path, `users/42/name`, relative to the directory or to
 * the root of the image. What it names is a value (a regular file), or a directory of keys.
 * Symlinks on the way are not followed: a key is what is stored under it.
 *
 * Functions return 0 or a negative errno with one line in `error` that names the key and the
 * remedy. -EINVAL and -ENAMETOOLONG: the key itself is not well formed.
 * Threads: one at a time for each target.
 */
#ifndef TOOLS_KEYS_H
#define TOOLS_KEYS_H

#include <sys/types.h>

#include "kv/kv.h"

struct tool_keys;

/*
 * For an import an image is opened without its log: pages are written once, when they are full or
 * at a checkpoint, and a crash leaves what the last checkpoint had.
 */
enum tool_keys_access { TOOL_KEYS_READ, TOOL_KEYS_WRITE, TOOL_KEYS_IMPORT };

/* -ENOENT, -ENOTDIR: neither a mounted directory nor a file; -EBUSY an image in use; as kv_open. */
KV_MUST_CHECK int tool_keys_open(const char *target, enum tool_keys_access access,
                                 struct tool_keys **keys, struct kv_error *error);

/*
 * The same; an image is read as under a mount with these policies, which are borrowed until
 * tool_keys_close. NULL: none. -EINVAL with policies for a mount: it has its own.
 */
struct fs_policies;
KV_MUST_CHECK int tool_keys_open_under(const char *target, enum tool_keys_access access,
                                       const struct fs_policies *policies, struct tool_keys **keys,
                                       struct kv_error *error);

/* Changes are durable when it returns 0; `keys` is gone whatever is returned. */
KV_MUST_CHECK int tool_keys_close(struct tool_keys *keys, struct kv_error *error);

struct tool_entry {
    const char *key; /* whole, borrowed for the call */
    mode_t mode;
    uint64_t size;
    int64_t mtime_ns; /* since 1970 */
};
typedef void tool_entry_fn(void *context, const struct tool_entry *entry);

/*
 * Visit what is in the directory `key`, or in the whole target if NULL, names in byte order.
 * A key that is no directory is visited itself. recursive: below a directory's entry come
 * those in it.
 */
KV_MUST_CHECK int tool_keys_list(struct tool_keys *keys, const char *key, bool recursive,
                                 tool_entry_fn *visit, void *context, struct kv_error *error);

/* Takes bytes; a negative errno ends the reading and is returned. */
typedef int tool_sink_fn(void *context, const void *bytes, size_t length);

/* Read the value, in pieces. -EISDIR; -EMEDIUMTYPE a symlink or special file. */
KV_MUST_CHECK int tool_keys_get(struct tool_keys *keys, const char *key, tool_sink_fn *sink,
                                void *context, struct kv_error *error);

/* Which keys a scan visits. "" or NULL: no bound. */
struct tool_scan {
    const char *prefix; /* of their bytes */
    const char *from;   /* the first */
    const char *to;     /* the first that is not visited any more */
    bool reverse;
    uint64_t limit; /* 0: all of them */
};
/* Something other than 0 ends the scan; a negative errno is returned from it. */
typedef int tool_scan_fn(void *context, const struct tool_entry *entry);

/*
 * Visit all values, in byte order of whole keys; a key that comes or goes meanwhile may be visited
 * or not. Memory: for the directories above the one that is being visited (tools/keys_scan.c).
 */
KV_MUST_CHECK int tool_keys_scan(struct tool_keys *keys, const struct tool_scan *scan,
                                 tool_scan_fn *visit, void *context, struct kv_error *error);

/*
 * Store what a descriptor gives until its end. Directories on the way are made; an old value
 * is replaced as a whole, keeping its mode, owner, access list and attributes: others see the old
 * one or the new one.
 *
 * ttl_seconds  the value expires so long from now (fs/expiry.h); 0: as its directory and policies
 *              say.
 */
KV_MUST_CHECK int tool_keys_put(struct tool_keys *keys, const char *key, int in_fd,
                                uint64_t ttl_seconds, struct kv_error *error);

/* Remove a key; a directory only if recursive, with all that is in it. */
KV_MUST_CHECK int tool_keys_remove(struct tool_keys *keys, const char *key, bool recursive,
                                   struct kv_error *error);

#endif
