/*
 * tools/tree_into_image.c: an image as a sink of trees, in batches of changes.
 *
 * Owns       the changes of the batch that is being gathered, and copies of all they point to.
 * Invariant  what is large or has holes is written by itself, after the batch before it: under no
 *            name at first, and published when it is whole. A directory gets its attributes with
 *            its name, and once more in the end if its batch was not the last that put into it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/expiry.h"
#include "fs/namespace.h"
#include "fs/xattr.h"
#include "kv/base.h"
#include "tools/keys_backend.h"
#include "tools/tree.h"

#define BATCH_CHANGES  1000u
#define BATCH_BYTES    (8u << 20)
#define CONTENT_GATHER (1u << 20) /* content up to here is gathered in batches */

struct sink {
    struct tree_sink base;
    struct tree_job *job;
    struct fs_volume *volume;
    const struct fs_caller *caller;
    char *below; /* owned */
    struct fs_apply_change *changes;
    struct fs_apply_attributes *attributes; /* of the change of the same index */
    size_t count;
    char **blocks; /* owned memory of the changes */
    size_t block_count, block_capacity;
    size_t block_used, bytes; /* of the last block; of all */
    struct tree_directories *directories;
};

#define BLOCK_BYTES (256u << 10)

/* Memory that lasts as long as the batch. */
static void *take(struct sink *sink, size_t length)
{
    length = (length + 15) & ~(size_t)15;
    const bool own = length > BLOCK_BYTES / 4;
    if (own || sink->block_count == 0 || sink->block_used + length > BLOCK_BYTES) {
        if (sink->block_count == sink->block_capacity) {
            const size_t capacity = sink->block_capacity ? sink->block_capacity * 2 : 64;
            char **blocks = reallocarray(sink->blocks, capacity, sizeof *blocks);
            if (!blocks)
                return NULL;
            sink->blocks = blocks;
            sink->block_capacity = capacity;
        }
        char *block = malloc(own ? length : BLOCK_BYTES);
        if (!block)
            return NULL;
        sink->blocks[sink->block_count++] = block;
        sink->bytes += length;
        sink->block_used = own ? BLOCK_BYTES : length;
        return block;
    }
    void *at = sink->blocks[sink->block_count - 1] + sink->block_used;
    sink->block_used += length;
    sink->bytes += length;
    return at;
}

static void *take_copy(struct sink *sink, const void *bytes, size_t length)
{
    void *copy = take(sink, length ? length : 1);
    if (copy && length > 0)
        memcpy(copy, bytes, length);
    return copy;
}

static void empty(struct sink *sink)
{
    for (size_t i = 0; i < sink->block_count; i++)
        free(sink->blocks[i]);
    sink->block_count = sink->count = sink->block_used = sink->bytes = 0;
}

static int flush(struct sink *sink)
{
    struct fs_apply_result result;
    if (sink->count == 0)
        return 0;
    const int err =
        fs_apply(sink->volume, sink->caller, sink->changes, sink->count, 0, NULL, &result);
    if (err && !*sink->job->error.text)
        sink->job->error = result.error;
    empty(sink);
    return err;
}

static char *place(const struct sink *sink, const char *path)
{
    return *path ? keys_join(sink->below, path) : strdup(sink->below);
}

/* ---- what is gathered ---------------------------------------------------------------- */

/* A copy of an item's attributes for the change that comes next. */
static int copy_attributes(struct sink *sink, const struct tree_item *item,
                           struct fs_apply_change *change)
{
    struct fs_apply_attributes *to = &sink->attributes[sink->count];
    *to = item->attributes;
    to->keep_same = true;
    change->attributes = to;
    if (to->xattr_count == 0)
        return 0;
    struct fs_apply_xattr *xattrs = take(sink, to->xattr_count * sizeof *xattrs);
    if (!xattrs)
        return -ENOMEM;
    for (size_t i = 0; i < to->xattr_count; i++) {
        const struct fs_apply_xattr *from = &item->attributes.xattrs[i];
        xattrs[i].name = take_copy(sink, from->name, strlen(from->name) + 1);
        xattrs[i].value = take_copy(sink, from->value, from->length);
        xattrs[i].length = from->length;
        if (!xattrs[i].name || !xattrs[i].value)
            return -ENOMEM;
    }
    to->xattrs = xattrs;
    return 0;
}

static int copy_content(struct sink *sink, const struct tree_item *item,
                        struct fs_apply_change *change)
{
    char *bytes = take(sink, item->size ? item->size : 1);
    struct tree_piece piece;
    uint64_t end = 0;
    if (!bytes)
        return -ENOMEM;
    for (;;) {
        const int err = item->read(item->read_context, &piece);
        if (err)
            return err;
        if (piece.length == 0)
            break;
        if (piece.offset < end || piece.length > item->size ||
            piece.offset > item->size - piece.length)
            return -EUCLEAN;
        memset(bytes + end, 0, piece.offset - end);
        memcpy(bytes + piece.offset, piece.bytes, piece.length);
        end = piece.offset + piece.length;
    }
    memset(bytes + end, 0, item->size - end);
    change->bytes = bytes;
    change->length = item->size;
    return 0;
}

static int gather(struct sink *sink, const struct tree_item *item, char *path)
{
    struct fs_apply_change *change = &sink->changes[sink->count];
    *change = (struct fs_apply_change){.kind = FS_APPLY_STORE};
    change->path = take_copy(sink, path, strlen(path) + 1);
    int err = change->path ? 0 : -ENOMEM;
    if (!err && item->link) {
        char *to = place(sink, item->link);
        change->kind = FS_APPLY_LINK;
        change->to = to ? take_copy(sink, to, strlen(to) + 1) : NULL;
        err = change->to ? 0 : -ENOMEM;
        free(to);
    } else if (!err) {
        err = copy_attributes(sink, item, change);
        if (!err && S_ISREG(item->attributes.mode))
            err = copy_content(sink, item, change);
        if (!err && S_ISLNK(item->attributes.mode)) {
            change->length = strlen(item->target);
            change->bytes = take_copy(sink, item->target, change->length);
            err = change->bytes ? 0 : -ENOMEM;
        }
    }
    if (err)
        return err;
    sink->count++;
    return sink->count == BATCH_CHANGES || sink->bytes > BATCH_BYTES ? flush(sink) : 0;
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

static int write_alone(struct sink *sink, const struct tree_item *item, const char *path)
{
    int err = flush(sink);
    if (err)
        return err;
    if (is_there(sink, item, path)) {
        sink->job->left_alone++;
        return 0;
    }
    err = fs_path_replace(sink->volume, sink->caller, path, fill, (void *)(uintptr_t)item);
    for (size_t i = 0; !err && i < item->attributes.xattr_count; i++) {
        const struct fs_apply_xattr *xattr = &item->attributes.xattrs[i];
        if (strcmp(xattr->name, FS_XATTR_TTL) == 0)
            err = fs_path_setxattr(sink->volume, path, xattr->name, xattr->value, xattr->length);
    }
    return err;
}

/* ---- the sink ------------------------------------------------------------------------------ */

static int put(struct tree_sink *base, const struct tree_item *item)
{
    struct sink *sink = (struct sink *)base;
    char *path = place(sink, item->path);
    const bool is_regular = S_ISREG(item->attributes.mode) && !item->link;
    int err = path ? 0 : -ENOMEM;
    if (!err && S_ISDIR(item->attributes.mode))
        err = tree_directories_add(sink->directories, item);
    if (!err)
        err = is_regular && (item->size > CONTENT_GATHER ||
                             (item->may_have_holes && item->size > KV_BLOCK_BYTES))
                  ? write_alone(sink, item, path)
                  : gather(sink, item, path);
    free(path);
    return err;
}

static int finish(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    const struct tree_item *item;
    int err = flush(sink);
    while (!err && (item = tree_directories_take(sink->directories))) {
        char *path = place(sink, item->path);
        err = path ? gather(sink, item, path) : -ENOMEM;
        free(path);
    }
    if (!err)
        err = flush(sink);
    if (!err)
        err = fs_sync(sink->volume);
    return err ? tree_failed(sink->job, sink->below, err) : 0;
}

static void release(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    empty(sink);
    tree_directories_free(sink->directories);
    free(sink->blocks);
    free(sink->changes);
    free(sink->attributes);
    free(sink->below);
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
        sink->below = strdup(below);
        sink->changes = calloc(BATCH_CHANGES, sizeof *sink->changes);
        sink->attributes = calloc(BATCH_CHANGES, sizeof *sink->attributes);
        sink->directories = tree_directories_new();
        if (!sink->below || !sink->changes || !sink->attributes || !sink->directories)
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
