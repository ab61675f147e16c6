/*
 * tools/keys_image.c: the keys of an image that nobody has mounted, by opening it.
 *
 * Owns       the store and the volume in it. The work is done by fs/namespace.h.
 * Invariant  for reading the store is open read-only: nothing is written.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/apply.h"
#include "fs/control.h"
#include "fs/namespace.h"
#include "fs/volume.h"
#include "fs/walk.h"
#include "tools/keys_backend.h"
#include "tools/mounts.h"
#include "tools/options.h"

struct keys_backend {
    struct kv_store *store;
    struct fs_volume *volume;
    struct fs_caller caller;
};

/* Errors come back as errno; only what a person should know of by itself is printed. */
static void log_line(void *context, enum kv_log_level level, const char *line)
{
    (void)context;
    if (level <= KV_LOG_WARNING)
        tool_complain("%s", line);
}

int keys_image_open(const char *image, enum tool_keys_access access,
                    const struct fs_policies *policies, struct keys_backend **backend,
                    struct kv_error *error)
{
    const bool read_only = access == TOOL_KEYS_READ;
    const struct kv_open_options store_options = {
        .read_only = read_only,
        .sync = access == TOOL_KEYS_IMPORT ? KV_SYNC_CHECKPOINT : KV_SYNC_FSYNC,
        .log = log_line};
    const struct fs_volume_options volume_options = {
        .read_only = read_only, .log = log_line, .policies = policies};
    struct keys_backend *opened = calloc(1, sizeof *opened);
    (void)tool_await_daemon(image); /* kv_open tells who still has it */
    int err = opened ? kv_open(image, &store_options, &opened->store, error) : -ENOMEM;
    if (err)
        goto failed;
    err = fs_volume_open(opened->store, &volume_options, &opened->volume, error);
    if (err) {
        (void)!kv_close(opened->store); /* nothing was changed */
        goto failed;
    }
    const mode_t mask = umask(0);
    (void)umask(mask);
    opened->caller = (struct fs_caller){.uid = getuid(), .gid = getgid(), .umask = mask};
    *backend = opened;
    return 0;
failed:
    free(opened);
    if (err == -EBUSY)
        tool_describe_holder(image, error);
    else if (!*error->text)
        snprintf(error->text, sizeof error->text, "%.200s: %s", image, tool_error_text(err));
    return err;
}

struct fs_volume *keys_image_volume(const struct tool_keys *keys)
{
    return keys->ops == &keys_image_ops ? keys->backend->volume : NULL;
}

const struct fs_caller *keys_image_caller(const struct tool_keys *keys)
{
    return keys->ops == &keys_image_ops ? &keys->backend->caller : NULL;
}

bool keys_is_top(const struct tool_keys *keys)
{
    return keys->ops == &keys_image_ops || keys_mount_is_top(keys->backend);
}

bool keys_control_name(const struct tool_keys *keys, char *name)
{
    if (keys->ops != &keys_image_ops)
        return keys_mount_control_name(keys->backend, name);
    strcpy(name, FS_CONTROL_NAME_DEFAULT);
    return true;
}

static int image_close(struct keys_backend *backend)
{
    fs_volume_close(backend->volume);
    const int err = kv_close(backend->store);
    free(backend);
    return err;
}

static int image_look(struct keys_backend *backend, const char *path,
                      struct keys_attributes *attributes)
{
    struct fs_record record;
    const int err = fs_path_stat(backend->volume, path, &record);
    if (!err)
        *attributes = (struct keys_attributes){
            .mode = record.mode, .size = record.file.size, .mtime_ns = record.mtime_ns};
    return err;
}

/* The names of a directory; attributes are looked up when the listing is over. */
struct names {
    char **items; /* owned, and what they point to */
    size_t count, capacity;
    int err;
};

static bool take_name(void *context, const struct fs_dirent *entry)
{
    struct names *names = context;
    if (names->count == names->capacity) {
        const size_t capacity = names->capacity ? names->capacity * 2 : 64;
        char **items = reallocarray(names->items, capacity, sizeof *items);
        if (!items) {
            names->err = -ENOMEM;
            return false;
        }
        names->items = items;
        names->capacity = capacity;
    }
    char *name = strndup(entry->name, entry->name_len);
    if (!name) {
        names->err = -ENOMEM;
        return false;
    }
    names->items[names->count++] = name;
    return true;
}

static int visit_name(struct keys_backend *backend, const char *path, const char *name,
                      keys_name_fn *visit, void *context)
{
    struct keys_attributes attributes;
    char *below = keys_join(path, name);
    if (!below)
        return -ENOMEM;
    const int err = image_look(backend, below, &attributes);
    free(below);
    return err ? err : visit(context, name, &attributes);
}

static int image_list(struct keys_backend *backend, const char *path, keys_name_fn *visit,
                      void *context)
{
    struct names names = {0};
    int err = fs_path_list(backend->volume, path, take_name, &names);
    if (!err)
        err = names.err;
    for (size_t i = 0; i < names.count; i++) {
        if (!err)
            err = visit_name(backend, path, names.items[i], visit, context);
        free(names.items[i]);
    }
    free(names.items);
    return err;
}

struct walk {
    keys_name_fn *visit;
    void *context;
};

static int walk_entry(void *context, const char *name, size_t name_len,
                      const struct fs_record *record)
{
    const struct walk *walk = context;
    const struct keys_attributes attributes = {
        .mode = record->mode, .size = record->file.size, .mtime_ns = record->mtime_ns};
    char copy[FS_NAME_MAX + 1];
    memcpy(copy, name, name_len);
    copy[name_len] = '\0';
    return walk->visit(walk->context, copy, &attributes);
}

static int image_walk(struct keys_backend *backend, const char *path, bool reverse,
                      const char *from, keys_name_fn *visit, void *context)
{
    struct walk walk = {visit, context};
    struct fs_record record;
    const int err = fs_path_stat(backend->volume, path, &record);
    return err ? err
               : fs_walk(backend->volume, record.file.ino, reverse, from, strlen(from), walk_entry,
                         &walk);
}

static int image_get(struct keys_backend *backend, const char *path, tool_sink_fn *sink,
                     void *context)
{
    return fs_path_read(backend->volume, path, sink, context);
}

static ssize_t read_in(void *context, void *buf, size_t cap)
{
    size_t got = 0;
    const int err = keys_read_full(*(const int *)context, buf, cap, &got);
    return err ? err : (ssize_t)got;
}

static int image_put(struct keys_backend *backend, const char *path, int in_fd,
                     uint64_t ttl_seconds)
{
    return fs_path_write_for(backend->volume, &backend->caller, path, ttl_seconds, read_in, &in_fd);
}

static int image_remove(struct keys_backend *backend, const char *path, bool recursive)
{
    return fs_path_remove(backend->volume, path, recursive);
}

static int image_apply(struct keys_backend *backend, const char *text, size_t length,
                       const struct fs_apply_batch *batch, struct kv_error *error)
{
    (void)batch;
    struct fs_apply_result result;
    const int err = fs_apply_text(backend->volume, &backend->caller, text, length, NULL, &result);
    if (err)
        *error = result.error;
    return err;
}

const struct keys_backend_ops keys_image_ops = {
    .look = image_look,
    .list = image_list,
    .walk = image_walk,
    .get = image_get,
    .put = image_put,
    .remove = image_remove,
    .apply = image_apply,
    .close = image_close,
};
