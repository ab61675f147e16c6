/*
 * tools/keys.c: the keys of a target: what is well formed, recursion, the words of errors.
 *
 * Owns       the open target.
 * Invariant  nothing reaches a backend but well-formed keys, and "" for the top.
 */
#include "tools/keys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/keys_backend.h"
#include "tools/options.h"

/* ---- for the backends --------------------------------------------------------- */

int keys_write_all(int fd, const void *bytes, size_t length)
{
    for (const char *at = bytes; length > 0;) {
        const ssize_t written = write(fd, at, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        at += written;
        length -= (size_t)written;
    }
    return 0;
}

const char *keys_ending_of(const char *name)
{
    const char *const dot = strrchr(name, '.');
    return dot && strlen(dot) <= KEYS_ENDING_MAX ? dot : "";
}

int keys_read_full(int fd, void *bytes, size_t length, size_t *got)
{
    size_t total = 0;
    while (total < length) {
        const ssize_t count = read(fd, (char *)bytes + total, length - total);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        if (count == 0)
            break;
        total += (size_t)count;
    }
    *got = total;
    return 0;
}

char *keys_join(const char *path, const char *name)
{
    char *joined;
    if (asprintf(&joined, "%s%s%s", path, *path ? "/" : "", name) < 0)
        return NULL;
    return joined;
}

/* ---- open and close -------------------------------------------------------------- */

int tool_keys_open(const char *target, enum tool_keys_access access, struct tool_keys **keys,
                   struct kv_error *error)
{
    return tool_keys_open_under(target, access, NULL, keys, error);
}

int tool_keys_open_under(const char *target, enum tool_keys_access access,
                         const struct fs_policies *policies, struct tool_keys **keys,
                         struct kv_error *error)
{
    struct stat status;
    if (stat(target, &status)) {
        const int err = -errno;
        snprintf(error->text, sizeof error->text,
                 "%.200s: %s; give an image or a mounted directory", target, tool_error_text(err));
        return err;
    }
    if (policies && S_ISDIR(status.st_mode)) {
        snprintf(
            error->text, sizeof error->text,
            "%.200s: a mount has the policies that it was mounted with; give them for an image",
            target);
        return -EINVAL;
    }
    struct tool_keys *opened = calloc(1, sizeof *opened);
    if (!opened) {
        snprintf(error->text, sizeof error->text, "%.200s: %s", target, tool_error_text(ENOMEM));
        return -ENOMEM;
    }
    opened->target = target;
    int err;
    if (S_ISDIR(status.st_mode)) {
        opened->ops = &keys_mount_ops;
        err = keys_mount_open(target, &opened->backend, error);
    } else {
        opened->ops = &keys_image_ops;
        err = keys_image_open(target, access, policies, &opened->backend, error);
    }
    if (err) {
        free(opened);
        return err;
    }
    *keys = opened;
    return 0;
}

int tool_keys_close(struct tool_keys *keys, struct kv_error *error)
{
    const int err = keys->ops->close(keys->backend);
    if (err)
        snprintf(error->text, sizeof error->text, "%.200s: closing it: %s", keys->target,
                 tool_error_text(err));
    free(keys);
    return err;
}

/* Put the words for a failure at a key together. Returns err. */
int keys_describe(const char *key, int err, struct kv_error *error)
{
    static const struct {
        int err;
        const char *words;
    } remedies[] = {
        {-ENOENT, "no such key; kvfs ls shows what there is"},
        {-EISDIR, "a directory of keys; list it with kvfs ls, or remove it with kvfs rm -r"},
        {-ENOTDIR, "a component on the way is a value, not a directory"},
        {-ELOOP, "a component on the way is a symlink; keys are not followed through links"},
        {-EMEDIUMTYPE, "neither a value nor a directory; use the mount for links and devices"},
        {-ENOSPC, "no space left; remove some keys first"},
        {-EROFS, "the filesystem is read-only; mount it without ro"},
        {-EBADMSG, "damaged; see what fsck.kvfs -n says"},
        {-EUCLEAN, "damaged; see what fsck.kvfs -n says"},
    };
    const char *words = tool_error_text(err);
    for (size_t i = 0; i < sizeof remedies / sizeof remedies[0]; i++)
        if (remedies[i].err == err)
            words = remedies[i].words;
    snprintf(error->text, sizeof error->text, "%.150s: %s", key, words);
    return err;
}

/* ---- listing ---------------------------------------------------------------------- */

struct listed {
    char *name;
    struct keys_attributes attributes;
};

struct listing {
    struct listed *entries;
    size_t count, capacity;
};

static int collect(void *context, const char *name, const struct keys_attributes *attributes)
{
    struct listing *listing = context;
    if (listing->count == listing->capacity) {
        const size_t capacity = listing->capacity ? listing->capacity * 2 : 64;
        struct listed *entries = reallocarray(listing->entries, capacity, sizeof *entries);
        if (!entries)
            return -ENOMEM;
        listing->entries = entries;
        listing->capacity = capacity;
    }
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    listing->entries[listing->count++] = (struct listed){.name = copy, .attributes = *attributes};
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    const struct listed *one = a, *other = b;
    return strcmp(one->name, other->name);
}

static void listing_release(struct listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        free(listing->entries[i].name);
    free(listing->entries);
}

/* What a listing in progress carries along. */
struct visit {
    struct tool_keys *keys;
    bool recursive;
    tool_entry_fn *visit;
    void *context;
};

static void visit_entry(const struct visit *visit, const char *path,
                        const struct keys_attributes *attributes)
{
    const struct tool_entry entry = {.key = path,
                                     .mode = attributes->mode,
                                     .size = attributes->size,
                                     .mtime_ns = attributes->mtime_ns};
    visit->visit(visit->context, &entry);
}

/* Visit what is in the directory `path`, in byte order of names. */
static int list_directory(const struct visit *visit, const char *path)
{
    const struct keys_backend_ops *ops = visit->keys->ops;
    struct listing listing = {0};
    int err = ops->list(visit->keys->backend, path, collect, &listing);
    if (!err && listing.count > 0)
        qsort(listing.entries, listing.count, sizeof *listing.entries, compare_names);
    for (size_t i = 0; !err && i < listing.count; i++) {
        const struct listed *entry = &listing.entries[i];
        char *below = keys_join(path, entry->name);
        if (!below) {
            err = -ENOMEM;
            break;
        }
        visit_entry(visit, below, &entry->attributes);
        if (visit->recursive && S_ISDIR(entry->attributes.mode)) {
            err = list_directory(visit, below);
            if (err == -ENOENT) /* removed meanwhile */
                err = 0;
        }
        free(below);
    }
    listing_release(&listing);
    return err;
}

int tool_keys_list(struct tool_keys *keys, const char *key, bool recursive, tool_entry_fn *visit,
                   void *context, struct kv_error *error)
{
    const struct visit visiting = {
        .keys = keys, .recursive = recursive, .visit = visit, .context = context};
    int err = key ? tool_check_key(key, error) : 0;
    if (err)
        return err;
    struct keys_attributes attributes = {.mode = S_IFDIR};
    if (key)
        err = keys->ops->look(keys->backend, key, &attributes);
    if (!err && S_ISDIR(attributes.mode))
        err = list_directory(&visiting, key ? key : "");
    else if (!err)
        visit_entry(&visiting, key, &attributes);
    return err ? keys_describe(key ? key : keys->target, err, error) : 0;
}

/* ---- values ------------------------------------------------------------------------ */

/* 0 if there is a value under a key; -EISDIR or -EMEDIUMTYPE if something else is. */
static int look_for_value(struct tool_keys *keys, const char *key)
{
    struct keys_attributes attributes = {0};
    const int err = keys->ops->look(keys->backend, key, &attributes);
    if (err || S_ISREG(attributes.mode))
        return err;
    return S_ISDIR(attributes.mode) ? -EISDIR : -EMEDIUMTYPE;
}

int tool_keys_get(struct tool_keys *keys, const char *key, tool_sink_fn *sink, void *context,
                  struct kv_error *error)
{
    int err = tool_check_key(key, error);
    if (err)
        return err;
    err = look_for_value(keys, key);
    if (!err)
        err = keys->ops->get(keys->backend, key, sink, context);
    return err ? keys_describe(key, err, error) : 0;
}

int tool_keys_put(struct tool_keys *keys, const char *key, int in_fd, uint64_t ttl_seconds,
                  struct kv_error *error)
{
    int err = tool_check_key(key, error);
    if (err)
        return err;
    err = look_for_value(keys, key);
    if (!err || err == -ENOENT)
        err = keys->ops->put(keys->backend, key, in_fd, ttl_seconds);
    return err ? keys_describe(key, err, error) : 0;
}

int tool_keys_remove(struct tool_keys *keys, const char *key, bool recursive,
                     struct kv_error *error)
{
    int err = tool_check_key(key, error);
    if (err)
        return err;
    err = keys->ops->remove(keys->backend, key, recursive);
    return err ? keys_describe(key, err, error) : 0;
}
