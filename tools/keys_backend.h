/*
 * tools/keys_backend.h: what a kind of target offers to tools/keys.c.
 *
 * A backend works on one directory at a time, named by a handle; keys.c walks the paths,
 * recurses and words the errors. Functions return 0 or a negative errno.
 */
#ifndef TOOLS_KEYS_BACKEND_H
#define TOOLS_KEYS_BACKEND_H

#include <sys/types.h>

#include "kv/kv.h"

struct keys_backend; /* an open target; each kind has its own */

/* A directory in use: a file descriptor or an inode number. */
typedef int64_t keys_dir;

struct keys_attributes {
    mode_t mode;
    uint64_t size;
    int64_t mtime_ns;
};

typedef int keys_name_fn(void *context, const char *name, const struct keys_attributes *attributes);

struct keys_backend_ops {
    keys_dir (*root)(struct keys_backend *backend); /* not to be released */
    int (*enter)(struct keys_backend *backend, keys_dir dir, const char *name, keys_dir *child);
    int (*make)(struct keys_backend *backend, keys_dir dir, const char *name); /* -EEXIST */
    void (*leave)(struct keys_backend *backend, keys_dir dir);
    int (*look)(struct keys_backend *backend, keys_dir dir, const char *name,
                struct keys_attributes *attributes);
    /* In any order; ends with what `visit` returns, if that is not 0. */
    int (*list)(struct keys_backend *backend, keys_dir dir, keys_name_fn *visit, void *context);
    int (*get)(struct keys_backend *backend, keys_dir dir, const char *name, int out_fd);
    int (*put)(struct keys_backend *backend, keys_dir dir, const char *name, int in_fd);
    int (*remove)(struct keys_backend *backend, keys_dir dir, const char *name, bool is_directory);
    int (*close)(struct keys_backend *backend); /* durable on 0; gone whatever is returned */
};

/* tools/keys_mount.c: through the kernel. */
extern const struct keys_backend_ops keys_mount_ops;
KV_MUST_CHECK int keys_mount_open(const char *dir, struct keys_backend **backend,
                                  struct kv_error *error);

/* tools/keys_image.c: by opening the image. */
extern const struct keys_backend_ops keys_image_ops;
KV_MUST_CHECK int keys_image_open(const char *image, bool read_only, struct keys_backend **backend,
                                  struct kv_error *error);

/* All of `length` bytes, or an error. */
KV_MUST_CHECK int keys_write_all(int fd, const void *bytes, size_t length);
/* Up to `length` bytes, fewer only at the end. */
KV_MUST_CHECK int keys_read_full(int fd, void *bytes, size_t length, size_t *got);

#define KEYS_CHUNK_BYTES (1u << 20)

/* A name for a value that is not in place yet, unlike any other process's; a buffer of 64. */
void keys_temporary_name(char name[64]);

#endif
