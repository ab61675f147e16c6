/*
 * fs/namespace.c: paths to inodes, over the operations of fs/volume.h.
 *
 * Invariant  every reference that a walk counts is given back before it returns.
 */
#include "fs/namespace.h"

#include "fs/describe.h"

#define COPY_BYTES (1u << 20)
#define DEPTH_MAX  4096u /* of directories that are removed with all in them */

/* A place in the tree that a path leads to; its last name may not be there. */
struct walk {
    uint64_t directory; /* a reference is held */
    const char *name;   /* the last name; empty: the path is the root */
    size_t name_len;
};

static const char *skip_root(const char *path)
{
    return *path == '/' ? path + 1 : path;
}

static int enter(struct fs_volume *volume, const struct fs_caller *make, uint64_t directory,
                 const char *name, size_t name_len, uint64_t *ino)
{
    struct fs_record record;
    int err = fs_lookup(volume, directory, name, name_len, &record);
    if (err == -ENOENT && make) {
        const struct fs_new_node node = {.mode = S_IFDIR | 0777};
        err = fs_create(volume, make, directory, name, name_len, &node, &record);
    }
    if (err)
        return err;
    if (!S_ISDIR(record.mode)) {
        fs_forget(volume, record.file.ino, 1);
        return -ENOTDIR;
    }
    *ino = record.file.ino;
    return 0;
}

/* Every name of a path, before anything is made on the way. The root has none. */
static int check_path(const char *path)
{
    const char *name = skip_root(path);
    if (!*name)
        return 0;
    for (;;) {
        const char *slash = strchrnul(name, '/');
        const int err = fs_name_check(name, (size_t)(slash - name));
        if (err || !*slash)
            return err;
        name = slash + 1;
    }
}

/* make: directories that are missing on the way are made for this caller; NULL: -ENOENT. */
static int walk_to(struct fs_volume *volume, const struct fs_caller *make, const char *path,
                   struct walk *walk)
{
    int err = check_path(path);
    if (err)
        return err;
    *walk = (struct walk){.directory = FS_ROOT_INO, .name = skip_root(path)};
    for (;;) {
        const char *slash = strchrnul(walk->name, '/');
        uint64_t next;
        walk->name_len = (size_t)(slash - walk->name);
        if (!*slash)
            return 0;
        err = enter(volume, make, walk->directory, walk->name, walk->name_len, &next);
        fs_forget(volume, walk->directory, 1);
        if (err)
            return err;
        walk->directory = next;
        walk->name = slash + 1;
    }
}

/* The inode a path leads to, with a reference. */
static int find(struct fs_volume *volume, const char *path, struct fs_record *record)
{
    struct walk walk;
    int err = walk_to(volume, NULL, path, &walk);
    if (err)
        return err;
    if (walk.name_len == 0)
        return fs_getattr(volume, FS_ROOT_INO, record); /* counts nothing, as the walk did not */
    err = fs_lookup(volume, walk.directory, walk.name, walk.name_len, record);
    fs_forget(volume, walk.directory, 1);
    return err;
}

int fs_path_stat(struct fs_volume *volume, const char *path, struct fs_record *record)
{
    const int err = find(volume, path, record);
    if (!err)
        fs_forget(volume, record->file.ino, 1);
    return err;
}

struct lister {
    fs_dirent_fn *emit;
    void *context;
};

static bool skip_dots(void *context, const struct fs_dirent *entry)
{
    const struct lister *lister = context;
    if (entry->name[0] == '.' &&
        (entry->name_len == 1 || (entry->name_len == 2 && entry->name[1] == '.')))
        return true;
    return lister->emit(lister->context, entry);
}

int fs_path_list(struct fs_volume *volume, const char *path, fs_dirent_fn *emit, void *context)
{
    struct fs_record record;
    int err = find(volume, path, &record);
    if (err)
        return err;
    struct lister lister = {.emit = emit, .context = context};
    if (S_ISDIR(record.mode)) {
        err = fs_readdir(volume, record.file.ino, 0, false, skip_dots, &lister);
    } else {
        const char *slash = strrchr(path, '/');
        const char *name = slash ? slash + 1 : path;
        const struct fs_dirent self = {
            .name = name,
            .name_len = strlen(name),
            .ino = record.file.ino,
            .type = record.mode & S_IFMT,
            .record = &record,
        };
        (void)emit(context, &self); /* there is nothing after it to stop */
    }
    fs_forget(volume, record.file.ino, 1);
    return err;
}

static int read_all(struct fs_volume *volume, const struct fs_record *record, fs_sink_fn *sink,
                    void *context)
{
    char *buf = malloc(COPY_BYTES);
    if (!buf)
        return -ENOMEM;
    int err = 0;
    for (uint64_t offset = 0; !err && offset < record->file.size;) {
        size_t got = 0;
        err = fs_read(volume, record->file.ino, offset, buf, COPY_BYTES, &got);
        if (!err && got == 0)
            break;
        if (!err)
            err = sink(context, buf, got);
        offset += got;
    }
    free(buf);
    return err;
}

int fs_path_read(struct fs_volume *volume, const char *path, fs_sink_fn *sink, void *context)
{
    struct fs_record record;
    int err = find(volume, path, &record);
    if (err)
        return err;
    if (S_ISDIR(record.mode)) {
        err = -EISDIR;
    } else if (S_ISLNK(record.mode)) {
        char target[FS_SYMLINK_MAX + 1];
        err = fs_readlink(volume, record.file.ino, target);
        if (!err)
            err = sink(context, target, strlen(target));
    } else if (S_ISREG(record.mode)) {
        err = read_all(volume, &record, sink, context);
    }
    fs_forget(volume, record.file.ino, 1);
    return err;
}

static int fill(struct fs_volume *volume, uint64_t ino, fs_source_fn *source, void *context)
{
    char *buf = malloc(COPY_BYTES);
    if (!buf)
        return -ENOMEM;
    uint64_t offset = 0;
    ssize_t got;
    int err = 0;
    while (!err && (got = source(context, buf, COPY_BYTES)) != 0) {
        if (got < 0)
            err = (int)got;
        else
            err = fs_write(volume, ino, offset, buf, (size_t)got, false);
        if (!err)
            offset += (uint64_t)got;
    }
    free(buf);
    return err;
}

/* What is about to be replaced hands on who may do what with it, and its attributes. */
static int inherit(struct fs_volume *volume, const struct walk *walk, uint64_t ino)
{
    struct fs_record old;
    int err = fs_lookup(volume, walk->directory, walk->name, walk->name_len, &old);
    if (err)
        return err == -ENOENT ? 0 : err;
    if (S_ISDIR(old.mode))
        err = -EISDIR;
    else if (S_ISREG(old.mode))
        err = fs_copy_attributes(volume, ino, old.file.ino);
    fs_forget(volume, old.file.ino, 1);
    return err;
}

/* How the file that takes the place is filled; `walk` leads to the place. */
struct filling {
    fs_fill_fn *fill_new; /* NULL: from `source`, with what the file there has besides content */
    fs_source_fn *source;
    void *context;
    uint64_t ttl_seconds; /* as fs_publish_for has it */
};

static int fill_as(const struct filling *filling, struct fs_volume *volume, const struct walk *walk,
                   uint64_t ino)
{
    if (filling->fill_new)
        return filling->fill_new(filling->context, volume, ino);
    const int err = inherit(volume, walk, ino);
    return err ? err : fill(volume, ino, filling->source, filling->context);
}

static int replace(struct fs_volume *volume, const struct fs_caller *caller, const char *path,
                   const struct filling *filling)
{
    struct walk walk;
    struct fs_record record;
    int err = walk_to(volume, caller, path, &walk);
    if (err)
        return err;
    if (walk.name_len == 0) {
        err = -EISDIR;
        goto out_walk;
    }
    err = fs_create_unnamed(volume, caller, walk.directory, 0666, &record);
    if (err)
        goto out_walk;
    err = fill_as(filling, volume, &walk, record.file.ino);
    if (!err)
        err = fs_publish_for(volume, record.file.ino, walk.directory, walk.name, walk.name_len,
                             filling->ttl_seconds);
    fs_forget(volume, record.file.ino, 1); /* deletes it if it did not get its name */
out_walk:
    fs_forget(volume, walk.directory, 1);
    return err;
}

int fs_path_replace(struct fs_volume *volume, const struct fs_caller *caller, const char *path,
                    fs_fill_fn *fill_new, void *context)
{
    const struct filling filling = {.fill_new = fill_new, .context = context};
    return replace(volume, caller, path, &filling);
}

int fs_path_write(struct fs_volume *volume, const struct fs_caller *caller, const char *path,
                  fs_source_fn *source, void *context)
{
    return fs_path_write_for(volume, caller, path, 0, source, context);
}

int fs_path_write_for(struct fs_volume *volume, const struct fs_caller *caller, const char *path,
                      uint64_t ttl_seconds, fs_source_fn *source, void *context)
{
    const struct filling filling = {
        .source = source, .context = context, .ttl_seconds = ttl_seconds};
    return replace(volume, caller, path, &filling);
}

int fs_path_describe_json(struct fs_volume *volume, const char *path, char *text, size_t cap)
{
    struct fs_record record;
    int err = find(volume, path, &record);
    if (err)
        return err;
    err = fs_describe_json(volume, record.file.ino, text, cap);
    fs_forget(volume, record.file.ino, 1);
    return err;
}

int fs_path_setxattr(struct fs_volume *volume, const char *path, const char *name,
                     const void *value, size_t length)
{
    struct fs_record record;
    int err = find(volume, path, &record);
    if (err)
        return err;
    err = fs_setxattr(volume, record.file.ino, name, value, length, 0, false);
    fs_forget(volume, record.file.ino, 1);
    return err;
}

int fs_path_mkdirs(struct fs_volume *volume, const struct fs_caller *caller, const char *path)
{
    struct walk walk;
    uint64_t ino = FS_ROOT_INO;
    int err = walk_to(volume, caller, path, &walk);
    if (err)
        return err;
    if (walk.name_len)
        err = enter(volume, caller, walk.directory, walk.name, walk.name_len, &ino);
    fs_forget(volume, walk.directory, 1);
    if (!err)
        fs_forget(volume, ino, 1);
    return err;
}

/* ---- removing a tree ------------------------------------------------------------- */

struct first_entry {
    char name[FS_NAME_MAX];
    size_t name_len; /* 0: none found */
    uint32_t type;
};

static bool take_first(void *context, const struct fs_dirent *entry)
{
    struct first_entry *first = context;
    if (first->name_len)
        return false;
    memcpy(first->name, entry->name, entry->name_len);
    first->name_len = entry->name_len;
    first->type = entry->type;
    return true;
}

static int find_first(struct fs_volume *volume, uint64_t directory, struct first_entry *first)
{
    struct lister lister = {.emit = take_first, .context = first};
    *first = (struct first_entry){.name_len = 0};
    return fs_readdir(volume, directory, 0, false, skip_dots, &lister);
}

/*
 * Empty a directory, depth first and without recursion: down into the first directory while
 * there is one, and back up when nothing is left.
 */
static int empty_directory(struct fs_volume *volume, uint64_t top)
{
    uint64_t *stack = malloc(DEPTH_MAX * sizeof *stack);
    struct first_entry *first = malloc(sizeof *first);
    size_t depth = 1;
    int err = stack && first ? 0 : -ENOMEM;
    if (!err)
        stack[0] = top;
    while (!err && depth > 0) {
        err = find_first(volume, stack[depth - 1], first);
        if (err)
            break;
        if (first->name_len == 0) {
            depth--;
            if (depth > 0)
                fs_forget(volume, stack[depth], 1);
            continue;
        }
        if (!S_ISDIR(first->type)) {
            err = fs_unlink(volume, stack[depth - 1], first->name, first->name_len);
            continue;
        }
        err = fs_rmdir(volume, stack[depth - 1], first->name, first->name_len);
        if (err != -ENOTEMPTY)
            continue;
        err = depth < DEPTH_MAX ? enter(volume, NULL, stack[depth - 1], first->name,
                                        first->name_len, &stack[depth])
                                : -ELOOP;
        if (!err)
            depth++;
    }
    while (err && depth > 1)
        fs_forget(volume, stack[--depth], 1);
    free(stack);
    free(first);
    return err;
}

int fs_path_remove(struct fs_volume *volume, const char *path, bool recursive)
{
    struct walk walk;
    struct fs_record record;
    int err = walk_to(volume, NULL, path, &walk);
    if (err)
        return err;
    if (walk.name_len == 0) {
        err = -EBUSY;
        goto out;
    }
    err = fs_lookup(volume, walk.directory, walk.name, walk.name_len, &record);
    if (err)
        goto out;
    if (!S_ISDIR(record.mode)) {
        err = fs_unlink(volume, walk.directory, walk.name, walk.name_len);
    } else if (!recursive) {
        err = -EISDIR;
    } else {
        err = empty_directory(volume, record.file.ino);
        if (!err)
            err = fs_rmdir(volume, walk.directory, walk.name, walk.name_len);
    }
    fs_forget(volume, record.file.ino, 1);
out:
    fs_forget(volume, walk.directory, 1);
    return err;
}
