/*
 * tools/keys.c: the keys of a target: paths, recursion and the words of errors.
 *
 * Owns       the open target; directories in hand are left again by the function that entered.
 * Invariant  nothing reaches a backend but well-formed components.
 */
#include "tools/keys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kv/base.h"
#include "tools/keys_backend.h"
#include "tools/options.h"

struct tool_keys {
    const char *target; /* borrowed from the caller of open */
    const struct keys_backend_ops *ops;
    struct keys_backend *backend;
};

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

void keys_temporary_name(char name[64])
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* can not fail for this clock */
    snprintf(name, 64, ".kvfs-put-%d-%lld%09ld", (int)getpid(), (long long)now.tv_sec, now.tv_nsec);
}

/* ---- open and close -------------------------------------------------------------- */

int tool_keys_open(const char *target, enum tool_keys_access access, struct tool_keys **keys,
                   struct kv_error *error)
{
    struct stat status;
    if (stat(target, &status)) {
        const int err = -errno;
        snprintf(error->text, sizeof error->text,
                 "%.200s: %s; give an image or a mounted directory", target, tool_error_text(err));
        return err;
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
        err = keys_image_open(target, access == TOOL_KEYS_READ, &opened->backend, error);
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

/* ---- walking ------------------------------------------------------------------- */

/* Put the words for a failure at a key together. Returns err. */
static int describe(const char *key, int err, struct kv_error *error)
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

/* Leave a directory unless it is the root, which is not ours to leave. */
static void leave(struct tool_keys *keys, keys_dir dir)
{
    if (dir != keys->ops->root(keys->backend))
        keys->ops->leave(keys->backend, dir);
}

/* The directory `name` in `dir`; make: it may have to be made. */
static int enter(struct tool_keys *keys, keys_dir dir, const char *name, bool make, keys_dir *child)
{
    int err = keys->ops->enter(keys->backend, dir, name, child);
    if (err != -ENOENT || !make)
        return err;
    err = keys->ops->make(keys->backend, dir, name);
    if (err && err != -EEXIST) /* someone else was faster */
        return err;
    return keys->ops->enter(keys->backend, dir, name, child);
}

/*
 * Walk to the directory that holds a key.
 *
 * key   well formed.
 * dir   out: to be left by the caller.
 * last  out: points to the last component in `key`.
 */
static int walk(struct tool_keys *keys, const char *key, bool make, keys_dir *dir,
                const char **last)
{
    keys_dir at = keys->ops->root(keys->backend);
    const char *component = key;
    for (const char *slash; (slash = strchr(component, '/')); component = slash + 1) {
        char name[256];
        keys_dir child;
        snprintf(name, sizeof name, "%.*s", (int)(slash - component), component);
        const int err = enter(keys, at, name, make, &child);
        leave(keys, at);
        if (err)
            return err;
        at = child;
    }
    *dir = at;
    *last = component;
    return 0;
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

/* All of a directory, in byte order of names. The caller releases `listing` in any case. */
static int read_directory(struct tool_keys *keys, keys_dir dir, struct listing *listing)
{
    *listing = (struct listing){0};
    const int err = keys->ops->list(keys->backend, dir, collect, listing);
    if (!err && listing->count > 0)
        qsort(listing->entries, listing->count, sizeof *listing->entries, compare_names);
    return err;
}

/* What a listing in progress carries along. */
struct visit {
    struct tool_keys *keys;
    bool recursive;
    tool_entry_fn *visit;
    void *context;
};

static char *join(const char *prefix, const char *name)
{
    char *path;
    const bool has_prefix = prefix && *prefix;
    if (asprintf(&path, "%s%s%s", has_prefix ? prefix : "", has_prefix ? "/" : "", name) < 0)
        return NULL;
    return path;
}

static void visit_entry(const struct visit *visit, const char *path,
                        const struct keys_attributes *attributes)
{
    const struct tool_entry entry = {.key = path,
                                     .mode = attributes->mode,
                                     .size = attributes->size,
                                     .mtime_ns = attributes->mtime_ns};
    visit->visit(visit->context, &entry);
}

/* Visit the entries of `dir`, whose key is `prefix`. */
static int list_directory(const struct visit *visit, keys_dir dir, const char *prefix)
{
    struct tool_keys *keys = visit->keys;
    struct listing listing;
    char *path = NULL;
    int err = read_directory(keys, dir, &listing);
    for (size_t i = 0; !err && i < listing.count; i++) {
        const struct listed *entry = &listing.entries[i];
        free(path);
        path = join(prefix, entry->name);
        if (!path) {
            err = -ENOMEM;
            break;
        }
        visit_entry(visit, path, &entry->attributes);
        if (!visit->recursive || !S_ISDIR(entry->attributes.mode))
            continue;
        keys_dir child;
        err = keys->ops->enter(keys->backend, dir, entry->name, &child);
        if (err == -ENOENT) { /* removed meanwhile */
            err = 0;
            continue;
        }
        if (err)
            break;
        err = list_directory(visit, child, path);
        keys->ops->leave(keys->backend, child);
    }
    free(path);
    listing_release(&listing);
    return err;
}

int tool_keys_list(struct tool_keys *keys, const char *key, bool recursive, tool_entry_fn *visit,
                   void *context, struct kv_error *error)
{
    const struct visit visiting = {
        .keys = keys, .recursive = recursive, .visit = visit, .context = context};
    if (!key) {
        const int err = list_directory(&visiting, keys->ops->root(keys->backend), "");
        return err ? describe(keys->target, err, error) : 0;
    }
    int err = tool_check_key(key, error);
    if (err)
        return err;
    keys_dir parent;
    const char *name;
    err = walk(keys, key, false, &parent, &name);
    if (err)
        return describe(key, err, error);
    struct keys_attributes attributes;
    err = keys->ops->look(keys->backend, parent, name, &attributes);
    if (!err && S_ISDIR(attributes.mode)) {
        keys_dir dir;
        err = keys->ops->enter(keys->backend, parent, name, &dir);
        if (!err) {
            err = list_directory(&visiting, dir, key);
            keys->ops->leave(keys->backend, dir);
        }
    } else if (!err) {
        visit_entry(&visiting, key, &attributes);
    }
    leave(keys, parent);
    return err ? describe(key, err, error) : 0;
}

/* ---- values ------------------------------------------------------------------------ */

int tool_keys_get(struct tool_keys *keys, const char *key, int out_fd, struct kv_error *error)
{
    int err = tool_check_key(key, error);
    if (err)
        return err;
    keys_dir dir;
    const char *name;
    err = walk(keys, key, false, &dir, &name);
    if (err)
        return describe(key, err, error);
    err = keys->ops->get(keys->backend, dir, name, out_fd);
    leave(keys, dir);
    return err ? describe(key, err, error) : 0;
}

int tool_keys_put(struct tool_keys *keys, const char *key, int in_fd, struct kv_error *error)
{
    int err = tool_check_key(key, error);
    if (err)
        return err;
    keys_dir dir;
    const char *name;
    err = walk(keys, key, true, &dir, &name);
    if (err)
        return describe(key, err, error);
    struct keys_attributes old;
    err = keys->ops->look(keys->backend, dir, name, &old);
    if (!err && !S_ISREG(old.mode))
        err = S_ISDIR(old.mode) ? -EISDIR : -EMEDIUMTYPE;
    if (!err || err == -ENOENT)
        err = keys->ops->put(keys->backend, dir, name, in_fd);
    leave(keys, dir);
    return err ? describe(key, err, error) : 0;
}

/* Remove `name` in `dir`, and what is in it first. */
static int remove_tree(struct tool_keys *keys, keys_dir dir, const char *name)
{
    struct listing listing;
    keys_dir child;
    int err = keys->ops->enter(keys->backend, dir, name, &child);
    if (err)
        return err;
    err = read_directory(keys, child, &listing);
    for (size_t i = 0; !err && i < listing.count; i++) {
        const struct listed *entry = &listing.entries[i];
        err = S_ISDIR(entry->attributes.mode)
                  ? remove_tree(keys, child, entry->name)
                  : keys->ops->remove(keys->backend, child, entry->name, false);
    }
    listing_release(&listing);
    keys->ops->leave(keys->backend, child);
    return err ? err : keys->ops->remove(keys->backend, dir, name, true);
}

int tool_keys_remove(struct tool_keys *keys, const char *key, bool recursive,
                     struct kv_error *error)
{
    int err = tool_check_key(key, error);
    if (err)
        return err;
    keys_dir dir;
    const char *name;
    err = walk(keys, key, false, &dir, &name);
    if (err)
        return describe(key, err, error);
    struct keys_attributes attributes;
    err = keys->ops->look(keys->backend, dir, name, &attributes);
    if (!err && !S_ISDIR(attributes.mode))
        err = keys->ops->remove(keys->backend, dir, name, false);
    else if (!err)
        err = recursive ? remove_tree(keys, dir, name) : -EISDIR;
    leave(keys, dir);
    return err ? describe(key, err, error) : 0;
}
