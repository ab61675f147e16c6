/*
 * tests/faults/crash/fs_walk.c: all that a volume shows, as digests.
 *
 * Owns       nothing; takes a reference to each inode that it looks at, and gives it back.
 */
#include "fs_walk.h"

#include "fs_model.h"

#include "fs/xattr.h"
#include "kv/codec.h"

struct walk {
    struct fs_volume *volume;
    bool print;
    uint64_t like_model, all;
};

/* A directory's entries, to be looked at after the listing. */
struct listed {
    char name[FS_NAME_MAX + 1];
    struct fs_record record;
};
struct listing {
    struct listed *items;
    size_t count, capacity;
};

static bool take_entry(void *context, const struct fs_dirent *entry)
{
    struct listing *listing = context;
    if (!entry->record)
        return true; /* "." and ".." */
    if (listing->count == listing->capacity) {
        listing->capacity = listing->capacity ? listing->capacity * 2 : 16;
        listing->items = realloc(listing->items, listing->capacity * sizeof *listing->items);
        KV_ASSERT(listing->items != NULL);
    }
    struct listed *item = &listing->items[listing->count++];
    memcpy(item->name, entry->name, entry->name_len);
    item->name[entry->name_len] = '\0';
    item->record = *entry->record;
    return true;
}

static int digest_content(struct walk *walk, const struct fs_record *record, uint64_t *digest)
{
    const uint64_t size = record->file.size;
    char target[FS_SYMLINK_MAX + 1];
    if (S_ISLNK(record->mode)) {
        const int err = fs_readlink(walk->volume, record->file.ino, target);
        *digest = kv_digest(target, strlen(target), 0);
        return err;
    }
    if (!S_ISREG(record->mode) || !size)
        return 0;
    if (size > 64u << 20)
        return -EFBIG; /* no test of ours makes such a file */
    uint8_t *bytes = malloc(size);
    KV_ASSERT(bytes != NULL);
    size_t got = 0;
    int err = fs_read(walk->volume, record->file.ino, 0, bytes, size, &got);
    if (!err && got != size)
        err = -EUCLEAN;
    if (!err)
        *digest = kv_digest(bytes, size, 0);
    free(bytes);
    return err;
}

static int digest_xattrs(struct walk *walk, const struct fs_record *record, uint64_t *digest)
{
    char names[4096];
    size_t length;
    int err = fs_listxattr(walk->volume, record->file.ino, true, names, sizeof names, &length);
    for (size_t at = 0; !err && at < length; at += strlen(names + at) + 1) {
        uint8_t value[4096];
        size_t value_len;
        err = fs_getxattr(walk->volume, record->file.ino, names + at, value, sizeof value,
                          &value_len);
        if (!err)
            *digest += model_xattr_digest(names + at, value, value_len);
    }
    return err;
}

static int look_at(struct walk *walk, uint64_t parent_ino, const char *name,
                   const struct fs_record *record)
{
    const bool has_content = S_ISREG(record->mode) || S_ISLNK(record->mode);
    struct model_item item = {.parent_ino = parent_ino,
                              .ino = record->file.ino,
                              .mode = record->mode,
                              .uid = record->uid,
                              .gid = record->gid,
                              .nlink = record->nlink,
                              .rdev = record->rdev,
                              .size = has_content ? record->file.size : 0};
    int err = digest_content(walk, record, &item.content);
    if (!err)
        err = digest_xattrs(walk, record, &item.xattrs);
    if (err) {
        printf("inode %llu, %s: %s\n", (unsigned long long)record->file.ino, name, strerror(-err));
        return err;
    }
    const uint64_t digest = model_item_digest(&item, name, strlen(name));
    const uint64_t rest[] = {(uint64_t)record->atime_ns, (uint64_t)record->mtime_ns,
                             (uint64_t)record->ctime_ns, (uint64_t)record->btime_ns,
                             record->file.blocks,        record->file.size,
                             record->generation,         record->flags};
    walk->like_model += digest;
    walk->all += kv_digest(rest, sizeof rest, digest);
    if (walk->print)
        printf("  %llu/%s: inode %llu mode %o owner %u:%u links %u size %llu content %llx xattrs "
               "%llx mtime %lld ctime %lld\n",
               (unsigned long long)parent_ino, name, (unsigned long long)item.ino, item.mode,
               item.uid, item.gid, item.nlink, (unsigned long long)record->file.size,
               (unsigned long long)item.content, (unsigned long long)item.xattrs,
               (long long)record->mtime_ns, (long long)record->ctime_ns);
    return 0;
}

static int walk_directory(struct walk *walk, uint64_t ino, unsigned depth)
{
    struct listing listing = {0};
    if (depth > 64)
        return -ELOOP;
    int err = fs_readdir(walk->volume, ino, 0, true, take_entry, &listing);
    for (size_t i = 0; i < listing.count; i++) {
        const struct listed *item = &listing.items[i];
        if (!err)
            err = look_at(walk, ino, item->name, &item->record);
        if (!err && S_ISDIR(item->record.mode))
            err = walk_directory(walk, item->record.file.ino, depth + 1);
        fs_forget(walk->volume, item->record.file.ino, 1);
    }
    free(listing.items);
    return err;
}

int walk_volume(struct fs_volume *volume, bool print, uint64_t *like_model, uint64_t *all)
{
    struct walk walk = {.volume = volume, .print = print};
    struct fs_record root;
    int err = fs_getattr(volume, FS_ROOT_INO, &root);
    if (!err)
        err = look_at(&walk, 0, "", &root);
    if (!err)
        err = walk_directory(&walk, FS_ROOT_INO, 0);
    if (err)
        printf("reading the tree: %s\n", strerror(-err));
    *like_model = walk.like_model;
    *all = walk.all ? walk.all : 1;
    return err;
}
