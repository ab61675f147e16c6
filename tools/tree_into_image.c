/*
 * tools/tree_into_image.c: an image as a sink of trees, in batches of changes.
 *
 * Owns       the batch that is being gathered.
 * Invariant  what is large or has holes is written by itself, after the batch before it: under no
 *            name at first, and published when it is whole. A directory gets its attributes with
 *            its name, and once more in the end if its batch was not the last that put into it; a
 *            time for what is made in it only then, for what is imported has its own or none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/expiry.h"
#include "fs/namespace.h"
#include "fs/xattr.h"
#include "kv/base.h"
#include "tools/keys_backend.h"
#include "tools/tree_flusher.h"

struct sink {
    struct tree_sink base;
    struct tree_job *job;
    struct fs_volume *volume;
    const struct fs_caller *caller;
    struct tree_flusher *flusher;
    struct tree_directories *directories;
};

/* tree_flush_fn */
static int flush(void *context, const struct fs_apply_change *changes, size_t count,
                 struct kv_error *error)
{
    const struct sink *sink = context;
    struct fs_apply_result result;
    const int err = fs_apply(sink->volume, sink->caller, changes, count, 0, NULL, &result);
    if (err)
        *error = result.error;
    return err;
}

/* ---- what is written by itself ---------------------------------------------------------- */

static int fill(void *context, struct fs_volume *volume, uint64_t ino)
{
    const struct tree_item *item = context;
    const struct fs_apply_attributes *attributes = &item->attributes;
    struct tree_piece piece;
    struct fs_record record = {.mode = 0};
    int err;
    while (!(err = item->read(item->read_context, &piece)) && piece.length > 0) {
        for (size_t at = 0; !err && at < piece.length;) {
            const size_t step = kv_min_u64(piece.length - at, FS_WRITE_MAX);
            err = fs_write(volume, ino, piece.offset + at, (const char *)piece.bytes + at, step,
                           false);
            at += step;
        }
        if (err)
            return err;
    }
    if (err)
        return err;
    const struct fs_attr_change size = {.valid = FS_ATTR_SIZE, .size = item->size};
    err = fs_setattr(volume, ino, &size, &record);
    /* What it has inherited from its directory. */
    if (!err && (record.flags & FS_RECORD_ACCESS_ACL))
        err = fs_removexattr(volume, ino, FS_XATTR_ACCESS_ACL);
    const struct fs_attr_change change = {.valid = FS_ATTR_MODE | FS_ATTR_UID | FS_ATTR_GID,
                                          .mode = attributes->mode & 07777u,
                                          .uid = attributes->uid,
                                          .gid = attributes->gid};
    if (!err)
        err = fs_setattr(volume, ino, &change, &record);
    for (size_t i = 0; !err && i < attributes->xattr_count; i++) {
        const struct fs_apply_xattr *xattr = &attributes->xattrs[i];
        if (strcmp(xattr->name, FS_XATTR_TTL) != 0) /* only what has a name can have that */
            err = fs_setxattr(volume, ino, xattr->name, xattr->value, xattr->length, 0, false);
    }
    /* The owner took setuid and setgid away, and an ACL may have changed the mode. */
    const struct fs_attr_change last = {.valid =
                                            FS_ATTR_ATIME | FS_ATTR_MTIME |
                                            (record.mode != attributes->mode ? FS_ATTR_MODE : 0u),
                                        .mode = attributes->mode & 07777u,
                                        .atime_ns = attributes->atime_ns,
                                        .mtime_ns = attributes->mtime_ns};
    return err ? err : fs_setattr(volume, ino, &last, &record);
}

static bool is_there(struct sink *sink, const struct tree_item *item, const char *path)
{
    const struct fs_apply_attributes *wanted = &item->attributes;
    struct fs_record record;
    return fs_path_stat(sink->volume, path, &record) == 0 && record.mode == wanted->mode &&
           record.uid == wanted->uid && record.gid == wanted->gid &&
           record.mtime_ns == wanted->mtime_ns && record.file.size == item->size;
}

static int write_to(struct sink *sink, const struct tree_item *item, const char *path)
{
    if (is_there(sink, item, path)) {
        sink->job->left_alone++;
        return 0;
    }
    int err = fs_path_replace(sink->volume, sink->caller, path, fill, (void *)(uintptr_t)item);
    const struct fs_apply_xattr *const ttl = fs_apply_ttl_of(&item->attributes);
    if (!err && ttl)
        err = fs_path_setxattr(sink->volume, path, ttl->name, ttl->value, ttl->length);
    return err;
}

static int write_alone(struct sink *sink, const struct tree_item *item)
{
    int err = tree_flusher_drain(sink->flusher, &sink->job->error);
    char *path = err ? NULL : tree_flusher_place(sink->flusher, item->path);
    if (!err)
        err = path ? write_to(sink, item, path) : -ENOMEM;
    free(path);
    return err;
}

/* ---- the sink ------------------------------------------------------------------------------ */

static int put(struct tree_sink *base, const struct tree_item *item)
{
    struct sink *sink = (struct sink *)base;
    if (tree_gather_leaves(item))
        return write_alone(sink, item);
    if (!S_ISDIR(item->attributes.mode))
        return tree_flusher_add(sink->flusher, item, &sink->job->error);
    struct tree_item first = *item;
    first.ttl_waits = true;
    const int err = tree_directories_add(sink->directories, item);
    return err ? err : tree_flusher_add(sink->flusher, &first, &sink->job->error);
}

static int finish(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    const struct tree_item *item;
    int err = tree_flusher_drain(sink->flusher, &sink->job->error);
    while (!err && (item = tree_directories_take(sink->directories)))
        err = tree_flusher_add(sink->flusher, item, &sink->job->error);
    if (!err)
        err = tree_flusher_drain(sink->flusher, &sink->job->error);
    if (!err)
        err = fs_sync(sink->volume);
    return err ? tree_failed(sink->job, "", err) : 0;
}

static void release(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    tree_flusher_free(sink->flusher);
    tree_directories_free(sink->directories);
    free(sink);
}

struct tree_sink *tree_to_image(struct tree_job *job, struct fs_volume *volume,
                                const struct fs_caller *caller, const char *below)
{
    struct sink *sink = calloc(1, sizeof *sink);
    int err = sink ? 0 : -ENOMEM;
    if (!err) {
        sink->base = (struct tree_sink){.put = put, .finish = finish, .free = release};
        sink->job = job;
        sink->volume = volume;
        sink->caller = caller;
        sink->flusher = tree_flusher_new(below, flush, sink);
        sink->directories = tree_directories_new();
        if (!sink->flusher || !sink->directories)
            err = -ENOMEM;
    }
    if (!err && *below)
        err = fs_path_mkdirs(volume, caller, below);
    if (err) {
        (void)tree_failed(job, below, err); /* the words are all that is wanted */
        if (sink)
            release(&sink->base);
        return NULL;
    }
    return &sink->base;
}
