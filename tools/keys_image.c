/*
 * tools/keys_image.c: the keys of an image that nobody has mounted, by opening it.
 *
 * Owns       the store and the volume in it; a keys_dir is the inode number of a directory, of
 *            which one reference is ours until it is left.
 * Invariant  for reading the store is open read-only: nothing is written.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/volume.h"
#include "kv/base.h"
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

int keys_image_open(const char *image, bool read_only, struct keys_backend **backend,
                    struct kv_error *error)
{
    const struct kv_open_options store_options = {.read_only = read_only, .log = log_line};
    const struct fs_volume_options volume_options = {.read_only = read_only, .log = log_line};
    struct keys_backend *opened = calloc(1, sizeof *opened);
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

static int image_close(struct keys_backend *backend)
{
    fs_volume_close(backend->volume);
    const int err = kv_close(backend->store);
    free(backend);
    return err;
}

static keys_dir image_root(struct keys_backend *backend)
{
    (void)backend;
    return FS_ROOT_INO;
}

static void image_leave(struct keys_backend *backend, keys_dir dir)
{
    fs_forget(backend->volume, (uint64_t)dir, 1);
}

static int lookup(struct keys_backend *backend, keys_dir dir, const char *name,
                  struct fs_record *record)
{
    return fs_lookup(backend->volume, (uint64_t)dir, name, strlen(name), record);
}

static int image_enter(struct keys_backend *backend, keys_dir dir, const char *name,
                       keys_dir *child)
{
    struct fs_record record;
    const int err = lookup(backend, dir, name, &record);
    if (err)
        return err;
    if (!S_ISDIR(record.mode)) {
        fs_forget(backend->volume, record.file.ino, 1);
        return S_ISLNK(record.mode) ? -ELOOP : -ENOTDIR;
    }
    *child = (keys_dir)record.file.ino;
    return 0;
}

static int image_make(struct keys_backend *backend, keys_dir dir, const char *name)
{
    const struct fs_new_node node = {.mode = S_IFDIR | 0777};
    struct fs_record record;
    const int err = fs_create(backend->volume, &backend->caller, (uint64_t)dir, name, strlen(name),
                              &node, &record);
    if (!err)
        fs_forget(backend->volume, record.file.ino, 1);
    return err;
}

static struct keys_attributes attributes_of(const struct fs_record *record)
{
    return (struct keys_attributes){
        .mode = record->mode, .size = record->file.size, .mtime_ns = record->mtime_ns};
}

static int image_look(struct keys_backend *backend, keys_dir dir, const char *name,
                      struct keys_attributes *attributes)
{
    struct fs_record record;
    const int err = lookup(backend, dir, name, &record);
    if (err)
        return err;
    *attributes = attributes_of(&record);
    fs_forget(backend->volume, record.file.ino, 1);
    return 0;
}

/* A listing in progress. */
struct emitting {
    keys_name_fn *visit;
    void *context;
    uint64_t *inodes; /* references that the listing took */
    size_t inode_count, inode_capacity;
    int err;
};

static bool emit(void *context, const struct fs_dirent *entry)
{
    struct emitting *emitting = context;
    if (!entry->record) /* "." and ".." */
        return true;
    if (emitting->inode_count == emitting->inode_capacity) {
        const size_t capacity = emitting->inode_capacity ? emitting->inode_capacity * 2 : 64;
        uint64_t *inodes = reallocarray(emitting->inodes, capacity, sizeof *inodes);
        if (!inodes) {
            emitting->err = -ENOMEM;
            return false;
        }
        emitting->inodes = inodes;
        emitting->inode_capacity = capacity;
    }
    char name[FS_NAME_MAX + 1];
    const size_t name_len = kv_min_u64(entry->name_len, FS_NAME_MAX);
    memcpy(name, entry->name, name_len);
    name[name_len] = '\0';
    const struct keys_attributes attributes = attributes_of(entry->record);
    emitting->err = emitting->visit(emitting->context, name, &attributes);
    if (emitting->err)
        return false;
    emitting->inodes[emitting->inode_count++] = entry->ino;
    return true;
}

static int image_list(struct keys_backend *backend, keys_dir dir, keys_name_fn *visit,
                      void *context)
{
    struct emitting emitting = {.visit = visit, .context = context};
    int err = fs_readdir(backend->volume, (uint64_t)dir, 0, true, emit, &emitting);
    if (!err)
        err = emitting.err;
    for (size_t i = 0; i < emitting.inode_count; i++)
        fs_forget(backend->volume, emitting.inodes[i], 1);
    free(emitting.inodes);
    return err;
}

static int image_get(struct keys_backend *backend, keys_dir dir, const char *name, int out_fd)
{
    struct fs_record record;
    int err = lookup(backend, dir, name, &record);
    if (err)
        return err;
    if (!S_ISREG(record.mode))
        err = S_ISDIR(record.mode) ? -EISDIR : -EMEDIUMTYPE;

    char *buffer = err ? NULL : malloc(KEYS_CHUNK_BYTES);
    if (!err && !buffer)
        err = -ENOMEM;
    for (uint64_t offset = 0; !err;) {
        size_t got = 0;
        err = fs_read(backend->volume, record.file.ino, offset, buffer, KEYS_CHUNK_BYTES, &got);
        if (!err && got == 0)
            break;
        if (!err)
            err = keys_write_all(out_fd, buffer, got);
        offset += got;
    }
    free(buffer);
    fs_forget(backend->volume, record.file.ino, 1);
    return err;
}

/* Fill the inode from in_fd. */
static int fill(struct keys_backend *backend, uint64_t ino, int in_fd)
{
    char *buffer = malloc(KEYS_CHUNK_BYTES);
    if (!buffer)
        return -ENOMEM;
    int err = 0;
    for (uint64_t offset = 0; !err;) {
        size_t got = 0;
        err = keys_read_full(in_fd, buffer, KEYS_CHUNK_BYTES, &got);
        if (!err && got == 0)
            break;
        if (!err)
            err = fs_write(backend->volume, ino, offset, buffer, got, false);
        offset += got;
    }
    free(buffer);
    return err;
}

/* Give the new inode the mode and owner of the value it replaces, if there is one. */
static int inherit(struct keys_backend *backend, keys_dir dir, const char *name, uint64_t ino)
{
    struct fs_record old, changed;
    int err = lookup(backend, dir, name, &old);
    if (err == -ENOENT)
        return 0;
    if (err)
        return err;
    const struct fs_attr_change change = {.valid = FS_ATTR_MODE | FS_ATTR_UID | FS_ATTR_GID,
                                          .mode = old.mode & 07777,
                                          .uid = old.uid,
                                          .gid = old.gid};
    err = fs_setattr(backend->volume, ino, &change, &changed);
    fs_forget(backend->volume, old.file.ino, 1);
    return err;
}

/* Give the filled inode its name, in the place of what has it now. */
static int put_in_place(struct keys_backend *backend, keys_dir dir, const char *name, uint64_t ino)
{
    const uint64_t directory = (uint64_t)dir;
    char temporary[64];
    struct fs_record linked;
    keys_temporary_name(temporary);
    int err = fs_link(backend->volume, ino, directory, temporary, strlen(temporary), &linked);
    if (err)
        return err;
    fs_forget(backend->volume, ino, 1); /* the link counted one more */
    err = fs_rename(backend->volume, directory, temporary, strlen(temporary), directory, name,
                    strlen(name), 0);
    if (err) /* the first error is the one to tell */
        (void)!fs_unlink(backend->volume, directory, temporary, strlen(temporary));
    return err;
}

static int image_put(struct keys_backend *backend, keys_dir dir, const char *name, int in_fd)
{
    /* Without a name while it is filled: a crash then leaves nothing behind. */
    struct fs_record record;
    int err = fs_create_unnamed(backend->volume, &backend->caller, (uint64_t)dir, S_IFREG | 0666,
                                &record);
    if (err)
        return err;
    const uint64_t ino = record.file.ino;
    err = fill(backend, ino, in_fd);
    if (!err)
        err = inherit(backend, dir, name, ino);
    if (!err)
        err = put_in_place(backend, dir, name, ino);
    fs_forget(backend->volume, ino, 1);
    return err;
}

static int image_remove(struct keys_backend *backend, keys_dir dir, const char *name,
                        bool is_directory)
{
    const uint64_t directory = (uint64_t)dir;
    return is_directory ? fs_rmdir(backend->volume, directory, name, strlen(name))
                        : fs_unlink(backend->volume, directory, name, strlen(name));
}

const struct keys_backend_ops keys_image_ops = {
    .root = image_root,
    .enter = image_enter,
    .make = image_make,
    .leave = image_leave,
    .look = image_look,
    .list = image_list,
    .get = image_get,
    .put = image_put,
    .remove = image_remove,
    .close = image_close,
};
