/*
 * tools/tree_gather.c: items of a tree as changes of one batch.
 *
 * Owns       the changes, and copies of all that they point to, in blocks that are freed together.
 * Invariant  what is gathered takes little more than BATCH_BYTES and one item.
 */
#include "tools/tree_gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/expiry.h"
#include "kv/base.h"
#include "tools/keys_backend.h"

#define BATCH_CHANGES 1000u
#define BATCH_BYTES   (8u << 20)

struct tree_gather {
    char *below; /* owned */
    struct fs_apply_change *changes;
    struct fs_apply_attributes *attributes; /* of the change of the same index */
    size_t count;
    char **blocks; /* owned memory of the changes */
    size_t block_count, block_capacity;
    size_t block_used, bytes; /* of the last block; of all */
};

#define BLOCK_BYTES (256u << 10)

/* Memory that lasts as long as the batch. */
static void *take(struct tree_gather *gather, size_t length)
{
    length = (length + 15) & ~(size_t)15;
    const bool own = length > BLOCK_BYTES / 4;
    if (own || gather->block_count == 0 || gather->block_used + length > BLOCK_BYTES) {
        if (gather->block_count == gather->block_capacity) {
            const size_t capacity = gather->block_capacity ? gather->block_capacity * 2 : 64;
            char **blocks = reallocarray(gather->blocks, capacity, sizeof *blocks);
            if (!blocks)
                return NULL;
            gather->blocks = blocks;
            gather->block_capacity = capacity;
        }
        char *block = malloc(own ? length : BLOCK_BYTES);
        if (!block)
            return NULL;
        gather->blocks[gather->block_count++] = block;
        gather->bytes += length;
        gather->block_used = own ? BLOCK_BYTES : length;
        return block;
    }
    void *at = gather->blocks[gather->block_count - 1] + gather->block_used;
    gather->block_used += length;
    gather->bytes += length;
    return at;
}

static void *take_copy(struct tree_gather *gather, const void *bytes, size_t length)
{
    void *copy = take(gather, length ? length : 1);
    if (copy && length > 0)
        memcpy(copy, bytes, length);
    return copy;
}

void tree_gather_empty(struct tree_gather *gather)
{
    for (size_t i = 0; i < gather->block_count; i++)
        free(gather->blocks[i]);
    gather->block_count = gather->count = gather->block_used = gather->bytes = 0;
}

/* A copy of an item's attributes for the change that comes next. */
static int copy_attributes(struct tree_gather *gather, const struct tree_item *item,
                           struct fs_apply_change *change)
{
    struct fs_apply_attributes *to = &gather->attributes[gather->count];
    *to = item->attributes;
    to->keep_same = true;
    change->attributes = to;
    if (to->xattr_count == 0)
        return 0;
    struct fs_apply_xattr *xattrs = take(gather, to->xattr_count * sizeof *xattrs);
    if (!xattrs)
        return -ENOMEM;
    for (size_t i = 0; i < to->xattr_count; i++) {
        const struct fs_apply_xattr *from = &item->attributes.xattrs[i];
        const bool waits = item->ttl_waits && strcmp(from->name, FS_XATTR_TTL) == 0;
        xattrs[i].length = waits ? 0 : from->length;
        xattrs[i].name = take_copy(gather, from->name, strlen(from->name) + 1);
        xattrs[i].value = take_copy(gather, from->value, xattrs[i].length);
        if (!xattrs[i].name || !xattrs[i].value)
            return -ENOMEM;
    }
    to->xattrs = xattrs;
    return 0;
}

static int copy_content(struct tree_gather *gather, const struct tree_item *item,
                        struct fs_apply_change *change)
{
    char *bytes = take(gather, item->size ? item->size : 1);
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

bool tree_gather_leaves(const struct tree_item *item)
{
    uint64_t xattr_bytes = 0;
    for (size_t i = 0; i < item->attributes.xattr_count; i++)
        xattr_bytes += item->attributes.xattrs[i].length;
    return S_ISREG(item->attributes.mode) && !item->link &&
           (item->size > TREE_GATHER_CONTENT || xattr_bytes > TREE_GATHER_CONTENT ||
            (item->may_have_holes && item->size > KV_BLOCK_BYTES));
}

char *tree_gather_place(const struct tree_gather *gather, const char *path)
{
    return *path ? keys_join(gather->below, path) : strdup(gather->below);
}

/* A key that lasts as long as the batch. NULL: no memory. */
static const char *take_place(struct tree_gather *gather, const char *path)
{
    const size_t below_len = strlen(gather->below), path_len = strlen(path);
    const size_t separator = below_len > 0 && path_len > 0;
    char *key = take(gather, below_len + separator + path_len + 1);
    if (!key)
        return NULL;
    memcpy(key, gather->below, below_len);
    if (separator)
        key[below_len] = '/';
    memcpy(key + below_len + separator, path, path_len + 1);
    return key;
}

int tree_gather_add(struct tree_gather *gather, const struct tree_item *item)
{
    struct fs_apply_change *change = &gather->changes[gather->count];
    *change = (struct fs_apply_change){.kind = FS_APPLY_STORE};
    change->path = take_place(gather, item->path);
    int err = change->path ? 0 : -ENOMEM;
    if (!err && item->link) {
        change->kind = FS_APPLY_LINK;
        change->to = take_place(gather, item->link);
        err = change->to ? 0 : -ENOMEM;
    } else if (!err) {
        err = copy_attributes(gather, item, change);
        if (!err && S_ISREG(item->attributes.mode))
            err = copy_content(gather, item, change);
        if (!err && S_ISLNK(item->attributes.mode)) {
            change->length = strlen(item->target);
            change->bytes = take_copy(gather, item->target, change->length);
            err = change->bytes ? 0 : -ENOMEM;
        }
    }
    if (!err)
        gather->count++;
    return err;
}

bool tree_gather_is_full(const struct tree_gather *gather)
{
    return gather->count == BATCH_CHANGES || gather->bytes > BATCH_BYTES;
}

size_t tree_gather_changes(const struct tree_gather *gather, const struct fs_apply_change **changes)
{
    *changes = gather->changes;
    return gather->count;
}

struct tree_gather *tree_gather_new(const char *below)
{
    struct tree_gather *gather = calloc(1, sizeof *gather);
    if (!gather)
        return NULL;
    gather->below = strdup(below);
    gather->changes = calloc(BATCH_CHANGES, sizeof *gather->changes);
    gather->attributes = calloc(BATCH_CHANGES, sizeof *gather->attributes);
    if (!gather->below || !gather->changes || !gather->attributes) {
        tree_gather_free(gather);
        return NULL;
    }
    return gather;
}

void tree_gather_free(struct tree_gather *gather)
{
    if (!gather)
        return;
    tree_gather_empty(gather);
    free(gather->blocks);
    free(gather->changes);
    free(gather->attributes);
    free(gather->below);
    free(gather);
}
