/*
 * tools/tree_image.c: an image that nobody has mounted as a source of trees.
 *
 * Owns       a buffer for content and one for attributes; a reference to each inode on the way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/expiry.h"
#include "fs/namespace.h"
#include "fs/volume.h"
#include "fs/walk.h"
#include "fs/xattr.h"
#include "kv/base.h"
#include "tools/keys_backend.h"
#include "tools/tree.h"

#define PIECE_BYTES (1u << 20)

struct source {
    struct tree_job *job;
    struct fs_volume *volume;
    struct tree_links *links;
    struct tree_xattrs xattrs;
    char *buffer; /* PIECE_BYTES */
    char *names;  /* FS_XATTR_LIST_MAX, and a value's FS_XATTR_VALUE_MAX */
};

struct reading {
    struct source *source;
    uint64_t ino, offset, size;
    bool has_holes;
};

/* tree_find_fn */
static int find_data(void *context, uint64_t *offset, uint64_t *end)
{
    const struct reading *reading = context;
    struct fs_volume *volume = reading->source->volume;
    const uint64_t from = *offset;
    *end = reading->size;
    if (!reading->has_holes || from >= reading->size)
        return 0;
    int err = fs_seek(volume, reading->ino, from, SEEK_DATA, offset);
    if (!err)
        err = fs_seek(volume, reading->ino, *offset, SEEK_HOLE, end);
    if (err == -ENXIO)
        *offset = *end = reading->size;
    return err == -ENXIO ? 0 : err;
}

static int read_piece(void *context, struct tree_piece *piece)
{
    struct reading *reading = context;
    struct fs_volume *volume = reading->source->volume;
    uint64_t end;
    piece->length = 0;
    int err = find_data(reading, &reading->offset, &end);
    if (err || reading->offset >= end)
        return err;
    const uint64_t aligned = (reading->offset / PIECE_BYTES + 1) * PIECE_BYTES;
    const size_t wanted = (size_t)(kv_min_u64(end, aligned) - reading->offset);
    err = fs_read(volume, reading->ino, reading->offset, reading->source->buffer, wanted,
                  &piece->length);
    piece->bytes = reading->source->buffer;
    piece->offset = reading->offset;
    reading->offset += piece->length;
    return err;
}

/* -ENOENT: it has expired since it was looked up. */
static int read_xattrs(struct source *source, const struct fs_record *record,
                       struct tree_item *item)
{
    const uint64_t ino = record->file.ino;
    char *const value = source->names + FS_XATTR_LIST_MAX;
    size_t total = 0;
    int err = 0;
    tree_xattrs_clear(&source->xattrs);
    if ((record->flags & FS_RECORD_XATTRS) || record->expiry_ns) /* user.kvfs.ttl is no record */
        err = fs_listxattr(source->volume, ino, true, source->names, FS_XATTR_LIST_MAX, &total);
    for (const char *name = source->names; !err && name < source->names + total;
         name += strlen(name) + 1) {
        size_t length;
        err = fs_getxattr(source->volume, ino, name, value, FS_XATTR_VALUE_MAX, &length);
        if (!err && length == 1 && *value == '0' && strcmp(name, FS_XATTR_TTL) == 0)
            err = -ENOENT;
        if (!err)
            err = tree_xattrs_add(source->job, &source->xattrs, name, value, length);
    }
    tree_xattrs_end(&source->xattrs, item);
    return err;
}

static struct tree_item item_of(const struct fs_record *record, const char *path)
{
    const bool is_regular = S_ISREG(record->mode);
    return (struct tree_item){
        .path = path,
        .attributes = {.mode = record->mode,
                       .uid = record->uid,
                       .gid = record->gid,
                       .rdev = record->rdev,
                       .atime_ns = record->atime_ns,
                       .mtime_ns = record->mtime_ns},
        .size = is_regular ? record->file.size : 0,
        .may_have_holes = is_regular && record->file.blocks * 512 < record->file.size,
    };
}

/* Put an inode that a reference is held to. */
static int put_inode(struct source *source, const struct fs_record *record, const char *path)
{
    char target[FS_SYMLINK_MAX + 1];
    struct tree_item item = item_of(record, path);
    struct reading reading = {.source = source,
                              .ino = record->file.ino,
                              .size = item.size,
                              .has_holes = item.may_have_holes};
    int err = 0;
    if (!S_ISDIR(record->mode) && record->nlink > 1)
        item.link = tree_links_meet(source->links, 0, record->file.ino, path, &err);
    if (err || item.link)
        return err ? err : tree_put(source->job, &item);
    err = read_xattrs(source, record, &item);
    if (!err && S_ISLNK(record->mode))
        err = fs_readlink(source->volume, record->file.ino, target);
    item.target = target;
    item.read = read_piece;
    item.find = find_data;
    item.read_context = &reading;
    return err ? err : tree_put(source->job, &item);
}

struct level {
    struct source *source;
    uint64_t directory; /* a reference is held */
    const char *path;
};

static int walk(struct source *source, uint64_t directory, const char *path);

static int take_name(void *context, const char *name, size_t name_len,
                     const struct fs_record *record)
{
    const struct level *level = context;
    struct source *source = level->source;
    struct fs_record found;
    char copy[FS_NAME_MAX + 1];
    memcpy(copy, name, name_len);
    copy[name_len] = '\0';
    char *below = keys_join(level->path, copy);
    if (!below)
        return -ENOMEM;
    (void)record; /* asked for again, with the reference that reading wants */
    int err = fs_lookup(source->volume, level->directory, name, name_len, &found);
    if (!err) {
        err = put_inode(source, &found, below);
        if (!err && S_ISDIR(found.mode))
            err = walk(source, found.file.ino, below);
        fs_forget(source->volume, found.file.ino, 1);
    }
    if (err == -ENOENT && !*source->job->error.text)
        err = 0; /* expired meanwhile */
    if (err)
        err = tree_failed(source->job, below, err);
    free(below);
    return err;
}

static int walk(struct source *source, uint64_t directory, const char *path)
{
    struct level level = {source, directory, path};
    return fs_walk(source->volume, directory, false, "", 0, take_name, &level);
}

/* The work ahead, for the progress. */
static int count_name(void *context, const char *name, size_t name_len,
                      const struct fs_record *record)
{
    struct source *source = context;
    (void)name;
    (void)name_len;
    source->job->total += tree_work(S_ISREG(record->mode) ? record->file.size : 0);
    return S_ISDIR(record->mode)
               ? fs_walk(source->volume, record->file.ino, false, "", 0, count_name, source)
               : 0;
}

/* Inodes are usable while a reference is held, which a path does not: so it is walked here. */
static int find(struct fs_volume *volume, const char *below, struct fs_record *record)
{
    int err = fs_getattr(volume, FS_ROOT_INO, record);
    while (!err && *below) {
        const char *slash = strchrnul(below, '/');
        const uint64_t directory = record->file.ino;
        err = fs_lookup(volume, directory, below, (size_t)(slash - below), record);
        if (directory != FS_ROOT_INO)
            fs_forget(volume, directory, 1);
        below = *slash ? slash + 1 : slash;
    }
    if (!err && !S_ISDIR(record->mode)) {
        fs_forget(volume, record->file.ino, 1);
        err = -ENOTDIR;
    }
    return err;
}

int tree_from_image(struct tree_job *job, struct fs_volume *volume, const char *below)
{
    struct source source = {.job = job, .volume = volume, .links = tree_links_new()};
    struct fs_record record;
    source.buffer = malloc(PIECE_BYTES);
    source.names = malloc(FS_XATTR_LIST_MAX + FS_XATTR_VALUE_MAX);
    int err =
        source.links && source.buffer && source.names ? find(volume, below, &record) : -ENOMEM;
    if (!err) {
        const uint64_t ino = record.file.ino;
        if (job->progress.enabled)
            err = fs_walk(volume, ino, false, "", 0, count_name, &source);
        tool_progress_stage(&job->progress, job->progress.stage); /* the clock starts now */
        if (!err)
            err = put_inode(&source, &record, "");
        if (!err)
            err = walk(&source, ino, "");
        if (ino != FS_ROOT_INO)
            fs_forget(volume, ino, 1);
    }
    if (err)
        err = tree_failed(job, below, err);
    tree_xattrs_release(&source.xattrs);
    tree_links_free(source.links);
    free(source.buffer);
    free(source.names);
    return err;
}
