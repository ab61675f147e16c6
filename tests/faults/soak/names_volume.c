/*
 * tests/faults/soak/names_volume.c: a volume without a kernel, and what the kernel would do
 * before and after it asks: walking paths, telling types apart, holding open files.
 *
 * Owns       references on the inodes of a walk (until its end) and of the slots.
 * Invariant  all is done as root, and symlinks lead nowhere: so nobody needs to be refused
 *            permission, and a symlink on the way is the end of it (-ENOENT).
 */
#include "names.h"

#include "soak.h"

#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>

#define WALK_REFS_MAX 200u

static const struct fs_caller root_caller = {.umask = 022};

/* The inodes that were looked up on the way to a name. */
struct walk {
    struct fs_volume *volume;
    uint64_t refs[WALK_REFS_MAX];
    unsigned count;
};

static int look_up(struct walk *walk, uint64_t directory, const char *name, size_t length,
                   struct fs_record *record)
{
    const int err = fs_lookup(walk->volume, directory, name, length, record);
    if (!err) {
        SOAK_MUST(walk->count < WALK_REFS_MAX);
        walk->refs[walk->count++] = record->file.ino;
    }
    return err;
}

static void walk_end(struct walk *walk)
{
    while (walk->count)
        fs_forget(walk->volume, walk->refs[--walk->count], 1);
}

/* Where a path's last name is to be found. */
struct place {
    uint64_t directory;
    const char *name;
    size_t length; /* 0: the root itself */
};

static int find_place(struct walk *walk, const char *path, struct place *place)
{
    *place = (struct place){.directory = FS_ROOT_INO, .name = path};
    if (!strcmp(path, "."))
        return 0;
    if (!strncmp(path, "./", 2))
        place->name += 2;
    for (;;) {
        const char *end = strchr(place->name, '/');
        place->length = end ? (size_t)(end - place->name) : strlen(place->name);
        if (!end)
            return 0;
        struct fs_record record;
        const int err = look_up(walk, place->directory, place->name, place->length, &record);
        if (err)
            return err;
        if (S_ISLNK(record.mode))
            return -ENOENT;
        if (!S_ISDIR(record.mode))
            return -ENOTDIR;
        place->directory = record.file.ino;
        place->name = end + 1;
    }
}

/* What stands there; -ENOENT. */
static int find(struct walk *walk, const struct place *place, struct fs_record *record)
{
    if (!place->length)
        return fs_getattr(walk->volume, FS_ROOT_INO, record);
    return look_up(walk, place->directory, place->name, place->length, record);
}

static int find_path(struct walk *walk, const char *path, struct fs_record *record)
{
    struct place place;
    const int err = find_place(walk, path, &place);
    return err ? err : find(walk, &place, record);
}

/* The same for calls that follow a symlink, which leads nowhere. */
static int find_target(struct walk *walk, const char *path, struct fs_record *record)
{
    const int err = find_path(walk, path, record);
    return !err && S_ISLNK(record->mode) ? -ENOENT : err;
}

/* ---- names ------------------------------------------------------------------------------ */

static int create(struct walk *walk, const struct name_op *op, uint32_t mode)
{
    struct place place;
    struct fs_record record;
    int err = find_place(walk, op->path, &place);
    if (err)
        return err;
    if (!place.length)
        return -EEXIST;
    const struct fs_new_node node = {
        .mode = mode,
        .rdev = op->rdev,
        .target = S_ISLNK(mode) ? op->other : NULL,
        .target_len = S_ISLNK(mode) ? strlen(op->other) : 0,
    };
    err = fs_create(walk->volume, &root_caller, place.directory, place.name, place.length, &node,
                    &record);
    if (!err)
        fs_forget(walk->volume, record.file.ino, 1);
    return err;
}

static int remove_name(struct walk *walk, const struct name_op *op)
{
    struct place place;
    int err = find_place(walk, op->path, &place);
    if (err)
        return err;
    if (!place.length) /* "." */
        return op->kind == NAME_RMDIR ? -EINVAL : -EISDIR;
    return op->kind == NAME_RMDIR
               ? fs_rmdir(walk->volume, place.directory, place.name, place.length)
               : fs_unlink(walk->volume, place.directory, place.name, place.length);
}

/* Does `path` lie in the directory `above`, or is it that directory? */
static bool lies_in(const char *path, const char *above)
{
    const size_t length = strlen(above);
    return !strncmp(path, above, length) && (path[length] == '/' || path[length] == '\0');
}

static int rename_name(struct walk *walk, const struct name_op *op)
{
    struct place from, to;
    struct fs_record source, target;
    int err = find_place(walk, op->path, &from);
    if (!err)
        err = find_place(walk, op->other, &to);
    if (err)
        return err;
    const bool no_replace = op->flags & FS_RENAME_NOREPLACE;
    if (!from.length || !to.length)
        return !to.length && from.length && no_replace ? -EEXIST : -EBUSY;
    err = find(walk, &from, &source);
    if (err)
        return err;
    err = find(walk, &to, &target);
    if (err && err != -ENOENT)
        return err;
    const bool there = !err, exchange = op->flags & FS_RENAME_EXCHANGE;
    if (no_replace && there)
        return -EEXIST;
    if (exchange && !there)
        return -ENOENT;
    if (lies_in(op->other, op->path) && strcmp(op->other, op->path) != 0)
        return -EINVAL;
    if (lies_in(op->path, op->other) && strcmp(op->other, op->path) != 0)
        return exchange ? -EINVAL : -ENOTEMPTY;
    return fs_rename(walk->volume, from.directory, from.name, from.length, to.directory, to.name,
                     to.length, (unsigned)op->flags);
}

/* Give an inode the name that `path` is. */
static int link_ino(struct walk *walk, uint64_t ino, const char *path)
{
    struct place place;
    struct fs_record record;
    int err = find_place(walk, path, &place);
    if (err)
        return err;
    err = find(walk, &place, &record);
    if (err != -ENOENT)
        return err ? err : -EEXIST;
    err = fs_link(walk->volume, ino, place.directory, place.name, place.length, &record);
    if (!err)
        fs_forget(walk->volume, ino, 1);
    return err;
}

static int read_target(struct walk *walk, const struct name_op *op, struct name_result *result)
{
    char target[FS_SYMLINK_MAX + 1];
    struct fs_record record;
    int err = find_path(walk, op->path, &record);
    if (!err)
        err = fs_readlink(walk->volume, record.file.ino, target);
    if (err)
        return err;
    result->length = strlen(target);
    result->digest = names_digest(1, target, result->length);
    return 0;
}

/* ---- attributes -------------------------------------------------------------------------- */

static int change_attributes(struct walk *walk, const struct name_op *op)
{
    struct fs_attr_change change = {0};
    struct fs_record record;
    const bool follows = op->kind == NAME_CHMOD || op->kind == NAME_TRUNCATE;
    const int err =
        follows ? find_target(walk, op->path, &record) : find_path(walk, op->path, &record);
    if (err)
        return err;
    switch (op->kind) {
    case NAME_CHMOD:
        change = (struct fs_attr_change){.valid = FS_ATTR_MODE, .mode = op->mode & 07777u};
        break;
    case NAME_CHOWN:
        change = (struct fs_attr_change){
            .valid = FS_ATTR_UID | FS_ATTR_GID, .uid = op->uid, .gid = op->gid};
        break;
    case NAME_TRUNCATE:
        change = (struct fs_attr_change){.valid = FS_ATTR_SIZE, .size = op->offset};
        break;
    default:
        change = (struct fs_attr_change){.valid = FS_ATTR_ATIME | FS_ATTR_MTIME,
                                         .atime_ns = op->atime * 1000000000 + 123456789,
                                         .mtime_ns = op->mtime * 1000000000 + 987654321};
        break;
    }
    return fs_setattr(walk->volume, record.file.ino, &change, &record);
}

static int use_attribute(struct walk *walk, const struct name_op *op, struct name_result *result)
{
    static uint8_t value[65536];
    struct fs_record record;
    int err = find_path(walk, op->path, &record);
    if (err)
        return err;
    const uint64_t ino = record.file.ino;
    const bool user = !strncmp(op->attribute, "user.", 5);
    if (user && !S_ISREG(record.mode) && !S_ISDIR(record.mode))
        return op->kind == NAME_GETXATTR ? -ENODATA : -EPERM;
    if (S_ISLNK(record.mode) && strstr(op->attribute, "posix_acl"))
        return -EOPNOTSUPP;
    size_t length = 0;
    switch (op->kind) {
    case NAME_SETXATTR:
        return fs_setxattr(walk->volume, ino, op->attribute, op->value, op->length, op->flags,
                           false);
    case NAME_REMOVEXATTR:
        return fs_removexattr(walk->volume, ino, op->attribute);
    default:
        err = fs_getxattr(walk->volume, ino, op->attribute, value, sizeof value, &length);
        if (err)
            return err;
        result->length = length;
        result->digest = names_digest(1, value, length);
        return 0;
    }
}

static int list_attributes(struct walk *walk, const struct name_op *op, struct name_result *result)
{
    char names[4096];
    struct fs_record record;
    size_t length = 0;
    int err = find_path(walk, op->path, &record);
    if (!err)
        err = fs_listxattr(walk->volume, record.file.ino, true, names, sizeof names, &length);
    if (err)
        return err;
    for (size_t at = 0; at < length; at += strlen(names + at) + 1) {
        result->length += strlen(names + at) + 1;
        result->digest += names_digest(1, names + at, strlen(names + at));
    }
    return 0;
}

/* ---- listings ------------------------------------------------------------------------------ */

static bool take_entry(void *context, const struct fs_dirent *entry)
{
    struct name_list *list = context;
    if ((entry->name_len == 1 && entry->name[0] == '.') ||
        (entry->name_len == 2 && !memcmp(entry->name, "..", 2)))
        return true;
    SOAK_MUST(list->count < NAMES_LIST_MAX);
    struct name_entry *out = &list->entries[list->count++];
    memcpy(out->name, entry->name, entry->name_len);
    out->name[entry->name_len] = '\0';
    out->type = entry->type;
    return true;
}

static int list_directory(void *context, const char *path, struct name_list *list)
{
    struct names_volume *volume = context;
    struct walk walk = {.volume = volume->image.volume};
    struct fs_record record;
    list->count = 0;
    int err = find_path(&walk, path, &record);
    if (!err && !S_ISDIR(record.mode))
        err = -ENOTDIR;
    if (!err)
        err = fs_readdir(walk.volume, record.file.ino, 0, false, take_entry, list);
    walk_end(&walk);
    return err;
}

/* ---- open files ----------------------------------------------------------------------------- */

static int open_slot(struct names_volume *volume, struct walk *walk, const struct name_op *op)
{
    struct fs_record record;
    int err = find_path(walk, op->path, &record);
    if (err)
        return err;
    if (op->kind == NAME_OPEN_TEMP) {
        if (S_ISLNK(record.mode))
            return -ENOENT;
        if (!S_ISDIR(record.mode))
            return -ENOTDIR;
        err = fs_create_unnamed(walk->volume, &root_caller, record.file.ino, op->mode, &record);
        if (err)
            return err;
    } else {
        SOAK_MUST(S_ISREG(record.mode));
        walk->count--; /* the last reference is the slot's now */
    }
    volume->slots[op->slot] = record.file.ino;
    volume->linkable[op->slot] = op->kind == NAME_OPEN_TEMP;
    return 0;
}

/* What has lost its last name gets no other one. */
static int link_slot(struct names_volume *volume, struct walk *walk, const struct name_op *op)
{
    struct place place;
    struct fs_record record, there;
    int err = find_place(walk, op->path, &place);
    if (err)
        return err;
    err = find(walk, &place, &there);
    if (err != -ENOENT)
        return err ? err : -EEXIST;
    err = fs_getattr(walk->volume, volume->slots[op->slot], &record);
    if (!err && !record.nlink && !volume->linkable[op->slot])
        err = -ENOENT;
    if (!err)
        err = link_ino(walk, record.file.ino, op->path);
    if (!err)
        volume->linkable[op->slot] = false;
    return err;
}

static int use_slot(struct names_volume *volume, const struct name_op *op,
                    struct name_result *result)
{
    static uint8_t buf[NAMES_FILE_MAX];
    const uint64_t ino = volume->slots[op->slot];
    struct fs_volume *files = volume->image.volume;
    size_t got = 0;
    int err = 0;
    switch (op->kind) {
    case NAME_CLOSE:
        fs_forget(files, ino, 1);
        volume->slots[op->slot] = 0;
        break;
    case NAME_PWRITE:
        names_fill(buf, op->length, op->seed);
        err = fs_write(files, ino, op->offset, buf, op->length, false);
        result->length = err ? 0 : op->length;
        break;
    case NAME_PREAD:
        err = fs_read(files, ino, op->offset, buf, op->length, &got);
        result->length = err ? 0 : got;
        result->digest = err ? 0 : names_digest(1, buf, got);
        break;
    default: {
        struct fs_record record;
        const struct fs_attr_change change = {.valid = FS_ATTR_SIZE, .size = op->offset};
        err = fs_setattr(files, ino, &change, &record);
    }
    }
    return err;
}

/* ---- the backend ----------------------------------------------------------------------------- */

static int run_one(struct names_volume *volume, struct walk *walk, const struct name_op *op,
                   struct name_result *result)
{
    struct fs_record record;
    struct name_list *list;
    int err;
    switch (op->kind) {
    case NAME_MKNOD:
        return create(walk, op, op->mode);
    case NAME_MKDIR:
        return create(walk, op, S_IFDIR | (op->mode & 01777u));
    case NAME_SYMLINK:
        return create(walk, op, S_IFLNK | 0777u);
    case NAME_UNLINK:
    case NAME_RMDIR:
        return remove_name(walk, op);
    case NAME_RENAME:
        return rename_name(walk, op);
    case NAME_LINK: {
        struct place place;
        err = find_path(walk, op->path, &record);
        if (!err)
            err = find_place(walk, op->other, &place);
        if (err)
            return err;
        struct fs_record there;
        err = find(walk, &place, &there);
        if (err != -ENOENT)
            return err ? err : -EEXIST;
        return S_ISDIR(record.mode) ? -EPERM : link_ino(walk, record.file.ino, op->other);
    }
    case NAME_READLINK:
        return read_target(walk, op, result);
    case NAME_CHMOD:
    case NAME_CHOWN:
    case NAME_UTIMES:
    case NAME_TRUNCATE:
        return change_attributes(walk, op);
    case NAME_SETXATTR:
    case NAME_GETXATTR:
    case NAME_REMOVEXATTR:
        return use_attribute(walk, op, result);
    case NAME_LISTXATTR:
        return list_attributes(walk, op, result);
    case NAME_LIST:
        list = calloc(1, sizeof *list);
        SOAK_MUST(list != NULL);
        err = list_directory(volume, op->path, list);
        result->length = list->count;
        free(list);
        return err;
    case NAME_OPEN:
    case NAME_OPEN_TEMP:
        return open_slot(volume, walk, op);
    case NAME_LINK_SLOT:
        return link_slot(volume, walk, op);
    default:
        return use_slot(volume, op, result);
    }
}

static void run(void *context, const struct name_op *op, struct name_result *result)
{
    struct names_volume *volume = context;
    struct walk walk = {.volume = volume->image.volume};
    result->err = run_one(volume, &walk, op, result);
    walk_end(&walk);
}

static int stat_path(void *context, const char *path, struct stat *stat_buf)
{
    struct names_volume *volume = context;
    struct walk walk = {.volume = volume->image.volume};
    struct fs_record record;
    const int err = find_path(&walk, path, &record);
    if (!err)
        fs_record_stat(&record, stat_buf);
    walk_end(&walk);
    return err;
}

static int read_path(void *context, const char *path, void *buf, size_t cap, size_t *got)
{
    struct names_volume *volume = context;
    struct walk walk = {.volume = volume->image.volume};
    struct fs_record record;
    int err = find_path(&walk, path, &record);
    if (!err)
        err = fs_read(walk.volume, record.file.ino, 0, buf, cap, got);
    walk_end(&walk);
    return err;
}

static void reopen(void *context)
{
    struct names_volume *volume = context;
    int err = 0;
    const bool crash = soak_chance(2);
    if (crash)
        err = fs_sync(volume->image.volume);
    if (err)
        soak_fail("sync: %s", strerror(-err));
    volume_image_reopen(&volume->image, crash ? VOLUME_CRASH : VOLUME_CLOSE);
}

struct names_backend names_volume_backend(struct names_volume *volume)
{
    return (struct names_backend){.context = volume,
                                  .run = run,
                                  .stat = stat_path,
                                  .list = list_directory,
                                  .read = read_path,
                                  .reopen = reopen};
}
