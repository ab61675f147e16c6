/*
 * tools/tree_into_mount.c: a mounted directory as a sink of trees: batches of changes that its
 * daemon makes.
 *
 * Owns       the batch that is being gathered, and a sink for the directory as such.
 * Invariant  what is large or has holes goes through the kernel, after the batch before it. What
 *            was sent is there, and the kernel knows; it is durable at the end. A directory gets a
 *            time for what is made in it in the end: what is imported has its own or none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/apply_packed.h"
#include "tools/keys_backend.h"
#include "tools/tree_flusher.h"

struct sink {
    struct tree_sink base;
    struct tree_job *job;
    const struct tool_keys *keys;
    struct tree_flusher *flusher;
    struct tree_directories *directories;
    struct tree_sink *plain; /* the same directory by system calls */
    struct fs_apply_xattr *kept;
    size_t kept_capacity;
    bool is_root;
};

/* tree_flush_fn */
static int flush(void *context, const struct fs_apply_change *changes, size_t count,
                 struct kv_error *error)
{
    const struct sink *sink = context;
    uint64_t length = sizeof(struct fs_disk_packed_header);
    for (size_t i = 0; i < count; i++)
        length += fs_apply_packed_size(&changes[i]);
    if (length > FS_APPLY_PACKED_MAX)
        return -E2BIG;
    void *bytes = malloc(length);
    if (!bytes)
        return -ENOMEM;
    fs_apply_pack(changes, count, bytes);
    const int err = keys_mount_send(sink->keys, bytes, length, error);
    free(bytes);
    return err;
}

/* Leave out what this user may not set, as all is his. `kept` is the item's until the next one. */
static int drop_privileged(struct sink *sink, struct tree_item *item)
{
    struct fs_apply_attributes *attributes = &item->attributes;
    size_t count = 0;
    if (sink->is_root)
        return 0;
    const uint32_t permissions = tree_permissions(attributes, geteuid(), getegid());
    sink->job->not_kept += permissions != (attributes->mode & 07777u);
    attributes->mode = (attributes->mode & S_IFMT) | permissions;
    if (attributes->xattr_count == 0)
        return 0;
    if (attributes->xattr_count > sink->kept_capacity) {
        struct fs_apply_xattr *kept =
            reallocarray(sink->kept, attributes->xattr_count, sizeof *kept);
        if (!kept)
            return -ENOMEM;
        sink->kept = kept;
        sink->kept_capacity = attributes->xattr_count;
    }
    for (size_t i = 0; i < attributes->xattr_count; i++)
        if (!fs_apply_is_privileged(attributes->xattrs[i].name))
            sink->kept[count++] = attributes->xattrs[i];
    sink->job->not_kept += attributes->xattr_count - count;
    attributes->xattrs = sink->kept;
    attributes->xattr_count = count;
    return 0;
}

static int gather(struct sink *sink, const struct tree_item *given)
{
    struct tree_item item = *given;
    int err = drop_privileged(sink, &item);
    return err ? err : tree_flusher_add(sink->flusher, &item, &sink->job->error);
}

static int put(struct tree_sink *base, const struct tree_item *item)
{
    struct sink *sink = (struct sink *)base;
    if (tree_gather_leaves(item)) {
        const int err = tree_flusher_drain(sink->flusher, &sink->job->error);
        return err ? err : sink->plain->put(sink->plain, item);
    }
    if (!S_ISDIR(item->attributes.mode) || item->link)
        return gather(sink, item);
    struct tree_item first = *item;
    first.ttl_waits = true;
    const int err = tree_directories_add(sink->directories, item);
    return err ? err : gather(sink, &first);
}

static int finish(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    const struct tree_item *item;
    int err = tree_flusher_drain(sink->flusher, &sink->job->error);
    while (!err && (item = tree_directories_take(sink->directories)))
        err = gather(sink, item);
    if (!err)
        err = tree_flusher_drain(sink->flusher, &sink->job->error);
    return err ? err : sink->plain->finish(sink->plain);
}

static void release(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    if (sink->plain)
        sink->plain->free(sink->plain);
    tree_flusher_free(sink->flusher);
    tree_directories_free(sink->directories);
    free(sink->kept);
    free(sink);
}

struct tree_sink *tree_to_mount(struct tree_job *job, const struct tool_keys *keys,
                                const char *below, const char *path)
{
    struct kv_error ignored;
    /* No control directory, or not for this user: then the kernel does as it does for anyone. */
    if (keys_mount_send(keys, NULL, 0, &ignored))
        return tree_to_directory(job, path);
    const char *directory = keys_mount_below(keys);
    char *place = *below ? keys_join(directory, below) : strdup(directory);
    struct sink *sink = calloc(1, sizeof *sink);
    if (place && sink) {
        sink->base = (struct tree_sink){.put = put, .finish = finish, .free = release};
        sink->job = job;
        sink->keys = keys;
        sink->is_root = geteuid() == 0;
        sink->flusher = tree_flusher_new(place, flush, sink);
        sink->directories = tree_directories_new();
        sink->plain = tree_to_directory(job, path);
    }
    free(place);
    if (sink && sink->flusher && sink->directories && sink->plain)
        return &sink->base;
    (void)tree_failed(job, path, -ENOMEM); /* the words are all that is wanted */
    if (sink)
        release(&sink->base);
    return NULL;
}
