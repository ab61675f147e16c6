/*
 * tools/keys_backend.h: what a kind of target offers to tools/keys.c.
 *
 * Paths are well-formed keys (keys.c has checked them); "" is the top of the target. Functions
 * return 0 or a negative errno; keys.c finds the words. No symlink is followed.
 */
#ifndef TOOLS_KEYS_BACKEND_H
#define TOOLS_KEYS_BACKEND_H

#include <sys/types.h>

#include "kv/kv.h"
#include "tools/keys.h"

struct fs_apply_batch;
struct keys_backend; /* an open target; each kind has its own */

struct keys_attributes {
    mode_t mode;
    uint64_t size;
    int64_t mtime_ns; /* since 1970 */
};

/* Something other than 0 ends the listing and is returned from it. */
typedef int keys_name_fn(void *context, const char *name, const struct keys_attributes *attributes);

struct keys_backend_ops {
    int (*look)(struct keys_backend *backend, const char *path, struct keys_attributes *attributes);
    /* What is in a directory, in any order, without "." and "..". */
    int (*list)(struct keys_backend *backend, const char *path, keys_name_fn *visit, void *context);
    /*
     * The same in byte order of names, one after the other: what `visit` does meanwhile may be
     * a walk, too. from: no name before it is visited, or with reverse none from it on; may be "".
     */
    int (*walk)(struct keys_backend *backend, const char *path, bool reverse, const char *from,
                keys_name_fn *visit, void *context);
    int (*get)(struct keys_backend *backend, const char *path, tool_sink_fn *sink, void *context);
    /* Makes the directories on the way; replaces as a whole, handing on owner, mode, access list
     * and attributes. */
    int (*put)(struct keys_backend *backend, const char *path, int in_fd, uint64_t ttl_seconds);
    /* A directory only if recursive, and with what is in it; else -EISDIR. */
    int (*remove)(struct keys_backend *backend, const char *path, bool recursive);
    /* Changes that were taken apart already; all or none, durable; `error` has the words. */
    int (*apply)(struct keys_backend *backend, const char *text, size_t length,
                 const struct fs_apply_batch *batch, struct kv_error *error);
    /* Changes are durable on 0; the backend is gone whatever is returned. */
    int (*close)(struct keys_backend *backend);
};

struct tool_keys {
    const char *target; /* borrowed from the caller of open */
    const struct keys_backend_ops *ops;
    struct keys_backend *backend;
};

/* Put the words for a failure at a key together. Returns err. */
int keys_describe(const char *key, int err, struct kv_error *error);

/* tools/keys_mount.c: through the kernel. */
extern const struct keys_backend_ops keys_mount_ops;
KV_MUST_CHECK int keys_mount_open(const char *dir, struct keys_backend **backend,
                                  struct kv_error *error);

/* tools/keys_image.c: by opening the image. */
extern const struct keys_backend_ops keys_image_ops;
KV_MUST_CHECK int keys_image_open(const char *image, enum tool_keys_access access,
                                  const struct fs_policies *policies, struct keys_backend **backend,
                                  struct kv_error *error);

/* The volume of an image, and who works with it; NULL: the target is a mount. */
struct fs_volume;
struct fs_caller;
struct fs_volume *keys_image_volume(const struct tool_keys *keys);
const struct fs_caller *keys_image_caller(const struct tool_keys *keys);
/* Is the target a whole image or mount, not a directory in it? */
bool keys_is_top(const struct tool_keys *keys);
/*
 * The name at the top that a mount hides what is there behind, FS_NAME_MAX + 1 bytes: its control
 * directory's, or, for an image, the default. false: there is none.
 */
bool keys_control_name(const struct tool_keys *keys, char *name);
bool keys_mount_is_top(const struct keys_backend *backend);
bool keys_mount_control_name(const struct keys_backend *backend, char *name);
/* Where in its mount the directory of an open mount is; "" the root. */
const char *keys_mount_below(const struct tool_keys *keys);
/*
 * Let the daemon of a mount make packed changes (fs/apply_packed.h), whose keys are from the root
 * of the mount. length 0: only look whether it would. -ENOENT no control directory; -EACCES, -EPERM
 * not for this user; or why it refused, with words.
 */
KV_MUST_CHECK int keys_mount_send(const struct tool_keys *keys, const void *bytes, size_t length,
                                  struct kv_error *error);

/* All of `length` bytes, or an error. */
KV_MUST_CHECK int keys_write_all(int fd, const void *bytes, size_t length);
/* Up to `length` bytes, fewer only at the end. */
KV_MUST_CHECK int keys_read_full(int fd, void *bytes, size_t length, size_t *got);

/* "path/name", or "name" at the top; to be freed. NULL: no memory. */
char *keys_join(const char *path, const char *name);

/*
 * What a name ends with, its last dot included, if that is at most so long; else "". For a name of
 * what is not in place yet: policies that go by the ending hold for it, too.
 */
#define KEYS_ENDING_MAX 32u
const char *keys_ending_of(const char *name);

#endif
