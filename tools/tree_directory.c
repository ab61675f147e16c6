/*
 * tools/tree_directory.c: a directory as a source of trees, by plain system calls.
 *
 * Owns       one buffer for content and one for attributes, used for each file in turn; names of
 *            the directories from the top to where the walk is.
 * Invariant  no symlink is followed and no special file opened; other file systems that are
 *            mounted in it are left out. All names of a directory come before what is in them, so
 *            that an image gets neighbours together.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "kv/base.h"
#include "tools/descent.h"
#include "tools/tree.h"
#include "tools/tree_ahead.h"

#define PIECE_BYTES (1u << 20)
#define XATTR_BYTES 65536u

struct source {
    struct tree_job *job;
    dev_t device;
    struct tree_links *links;
    struct tree_ahead *ahead; /* may be NULL */
    struct tree_xattrs xattrs;
    char *buffer;    /* PIECE_BYTES */
    char *names;     /* XATTR_BYTES, and as many for a value */
    bool has_hinted; /* since reading ahead became worth it */
};

/* A file that is being read. */
struct reading {
    struct source *source;
    int fd;
    uint64_t offset, size;
    bool has_holes;
};

/* tree_find_fn */
static int find_data(void *context, uint64_t *offset, uint64_t *end)
{
    const struct reading *reading = context;
    *end = reading->size;
    if (!reading->has_holes || *offset >= reading->size)
        return 0;
    const off_t data = lseek(reading->fd, (off_t)*offset, SEEK_DATA);
    const off_t hole = data < 0 ? data : lseek(reading->fd, data, SEEK_HOLE);
    if (hole < 0 && errno != ENXIO)
        return -errno;
    *offset = hole < 0 ? reading->size : kv_min_u64((uint64_t)data, reading->size);
    *end = hole < 0 ? reading->size : kv_min_u64((uint64_t)hole, reading->size);
    return 0;
}

static int read_piece(void *context, struct tree_piece *piece)
{
    struct reading *reading = context;
    uint64_t end;
    piece->length = 0;
    const int err = find_data(reading, &reading->offset, &end);
    if (err || reading->offset >= end)
        return err;
    /* Whole pieces lie where a target's own pieces do. */
    const uint64_t aligned = (reading->offset / PIECE_BYTES + 1) * PIECE_BYTES;
    const size_t wanted = (size_t)(kv_min_u64(end, aligned) - reading->offset);
    ssize_t got;
    do {
        got = pread(reading->fd, reading->source->buffer, wanted, (off_t)reading->offset);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    piece->bytes = reading->source->buffer;
    piece->length = (size_t)got;
    piece->offset = reading->offset;
    reading->offset = got ? reading->offset + (size_t)got : reading->size;
    return 0;
}

/* ---- attributes ----------------------------------------------------------------------- */

/* Of what fd is open on or, without one, what `path` names. */
static int read_xattrs(struct source *source, int fd, const char *path, struct tree_item *item)
{
    char *const value = source->names + XATTR_BYTES;
    tree_xattrs_clear(&source->xattrs);
    const ssize_t total = fd >= 0 ? flistxattr(fd, source->names, XATTR_BYTES)
                                  : llistxattr(path, source->names, XATTR_BYTES);
    if (total < 0 && errno != ENOTSUP && errno != ENOSYS)
        return -errno;
    int err = 0;
    for (const char *name = source->names; !err && total > 0 && name < source->names + total;
         name += strlen(name) + 1) {
        const ssize_t length = fd >= 0 ? fgetxattr(fd, name, value, XATTR_BYTES)
                                       : lgetxattr(path, name, value, XATTR_BYTES);
        if (length < 0 && errno != ENODATA) /* ENODATA: removed meanwhile */
            return -errno;
        if (length >= 0)
            err = tree_xattrs_add(source->job, &source->xattrs, name, value, (size_t)length);
    }
    tree_xattrs_end(&source->xattrs, item);
    return err;
}

static struct tree_item item_of(const struct stat *status, const char *path)
{
    return (struct tree_item){
        .path = path,
        .attributes = {.mode = status->st_mode,
                       .uid = status->st_uid,
                       .gid = status->st_gid,
                       .rdev = S_ISCHR(status->st_mode) || S_ISBLK(status->st_mode)
                                   ? status->st_rdev
                                   : 0,
                       .atime_ns = fs_time_ns(&status->st_atim),
                       .mtime_ns = fs_time_ns(&status->st_mtim)},
        .size = S_ISREG(status->st_mode) ? (uint64_t)status->st_size : 0,
        .may_have_holes = (uint64_t)status->st_blocks * 512 < (uint64_t)status->st_size,
    };
}

/* ---- one name ---------------------------------------------------------------------------- */

/* O_NOATIME is for who owns the file. */
static int open_file(int directory, const char *name)
{
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    const int fd = openat(directory, name, flags | O_NOATIME);
    return fd < 0 && errno == EPERM ? openat(directory, name, flags) : fd;
}

static int put_regular(struct source *source, int directory, const char *name,
                       struct tree_item *item)
{
    const int fd = open_file(directory, name);
    if (fd < 0)
        return -errno;
    struct reading reading = {
        .source = source, .fd = fd, .size = item->size, .has_holes = item->may_have_holes};
    int err = read_xattrs(source, fd, NULL, item);
    item->read = read_piece;
    item->find = find_data;
    item->read_context = &reading;
    if (!err)
        err = tree_put(source->job, item);
    item->read_context = NULL;
    close(fd);
    return err;
}

static int put_other(struct source *source, int directory, const char *name, struct tree_item *item)
{
    char target[4096], path[64 + 256];
    snprintf(path, sizeof path, "/proc/self/fd/%d/%.255s", directory, name);
    int err = read_xattrs(source, -1, path, item);
    if (!err && S_ISLNK(item->attributes.mode)) {
        const ssize_t length = readlinkat(directory, name, target, sizeof target - 1);
        if (length < 0)
            return -errno;
        target[length] = '\0';
        item->target = target;
    }
    return err ? err : tree_put(source->job, item);
}

/* Put what a name means. is_directory: out. */
static int put_name(struct source *source, int directory, const char *name, const char *path,
                    bool *is_directory)
{
    struct stat status;
    *is_directory = false;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW))
        return errno == ENOENT ? 0 : -errno; /* removed meanwhile */
    if (status.st_dev != source->device)
        return 0;
    int err = 0;
    struct tree_item item = item_of(&status, path);
    *is_directory = S_ISDIR(status.st_mode);
    if (!*is_directory && status.st_nlink > 1)
        item.link = tree_links_meet(source->links, status.st_dev, status.st_ino, path, &err);
    if (!err && item.link)
        return tree_put(source->job, &item);
    if (!err)
        err = S_ISREG(status.st_mode) ? put_regular(source, directory, name, &item)
                                      : put_other(source, directory, name, &item);
    return err == -ENOENT && !*source->job->error.text ? 0 : err; /* removed meanwhile */
}

/* ---- directories ---------------------------------------------------------------------------- */

struct names {
    char **items; /* owned, and what they point to */
    size_t count, capacity;
};

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_release(struct names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->items[i]);
    free(names->items);
}

/* Takes the descriptor over. */
static int read_names(int fd, struct names *names)
{
    DIR *stream = fdopendir(fd);
    int err = 0;
    if (!stream) {
        err = -errno;
        close(fd);
        return err;
    }
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry) {
            err = -errno; /* 0 at the end */
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (names->count == names->capacity) {
            const size_t capacity = names->capacity ? names->capacity * 2 : 64;
            char **items = reallocarray(names->items, capacity, sizeof *items);
            err = items ? 0 : -ENOMEM;
            if (err)
                break;
            names->items = items;
            names->capacity = capacity;
        }
        names->items[names->count] = strdup(entry->d_name);
        if (!names->items[names->count]) {
            err = -ENOMEM;
            break;
        }
        names->count++;
    }
    (void)closedir(stream); /* only read */
    if (!err && names->count > 1)
        qsort(names->items, names->count, sizeof *names->items, compare_names);
    return err;
}

/* Names [at, ...) are next: have those read that come some hints after them. */
static void hint_names(struct source *source, int fd, const struct names *names, size_t at)
{
    const size_t far = TREE_AHEAD_HINTS * (size_t)TREE_AHEAD_NAMES;
    if (at % TREE_AHEAD_NAMES != 0 || at + TREE_AHEAD_NAMES >= names->count)
        return;
    if (!tree_ahead_is_worth(source->ahead)) {
        source->has_hinted = false;
        return;
    }
    /* At the beginning of a directory, or when it became worth it just now, nothing is ahead. */
    size_t from = at == 0 || !source->has_hinted ? at + TREE_AHEAD_NAMES : at + far;
    const size_t end = kv_min_u64(at + far + TREE_AHEAD_NAMES, names->count);
    for (; from < end; from += TREE_AHEAD_NAMES)
        tree_ahead_names(source->ahead, fd, names->items + from,
                         kv_min_u64(names->count - from, TREE_AHEAD_NAMES));
    source->has_hinted = true;
}

/* The directory at `at` of `count` is entered. */
static void hint_directories(struct source *source, int fd, const struct names *names, size_t at,
                             size_t count)
{
    if (!tree_ahead_is_worth(source->ahead)) {
        source->has_hinted = false;
        return;
    }
    size_t from = at == 0 || !source->has_hinted ? at + 1 : at + TREE_AHEAD_HINTS;
    for (; from < count && from <= at + TREE_AHEAD_HINTS; from++)
        tree_ahead_directory(source->ahead, fd, names->items[from]);
    source->has_hinted = true;
}

/* see_fn: the work ahead, for the progress: no more than a look at everything. */
static int estimate_name(struct source *source, int directory, const char *name, const char *path,
                         bool *is_directory)
{
    struct stat status;
    (void)path;
    *is_directory = false;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) || status.st_dev != source->device)
        return 0;
    source->job->total += tree_work(S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0);
    *is_directory = S_ISDIR(status.st_mode);
    return 0;
}

/* A directory on the way from the top to where the walk is. */
struct level {
    struct names names; /* those of directories first, when all names were seen */
    size_t directory_count, at;
    size_t path_length; /* of its own path, which that of the walk begins with */
};

/* See what a name means. is_directory: out: to be entered. */
typedef int see_fn(struct source *source, int directory, const char *name, const char *path,
                   bool *is_directory);

struct walk {
    struct source *source;
    see_fn *see;
    bool is_estimate; /* what can not be read is not complained of, nor read ahead */
    struct descent descent;
    struct level *levels; /* owned; as many as there are in the descent */
    size_t capacity;
    char *path; /* owned; of what is looked at, from the top */
    size_t path_capacity;
};

/* Let the path be that of a name in a directory; length: of the directory's. */
static int set_path(struct walk *walk, size_t length, const char *name)
{
    const size_t name_len = strlen(name);
    if (length + name_len + 2 > walk->path_capacity) {
        const size_t capacity = 2 * (length + name_len + 2);
        char *grown = realloc(walk->path, capacity);
        if (!grown)
            return -ENOMEM;
        walk->path = grown;
        walk->path_capacity = capacity;
    }
    if (length > 0)
        walk->path[length++] = '/';
    memcpy(walk->path + length, name, name_len + 1);
    return 0;
}

/* The directory that walk->path names can not be read: is that the end? */
static int complain(struct walk *walk, int err)
{
    return walk->is_estimate ? 0 : tree_failed(walk->source->job, walk->path, err);
}

/* See all names of the last directory. Those of directories move to the front. */
static int see_names(struct walk *walk, struct level *level)
{
    const int fd = descent_fd(&walk->descent);
    struct names *const names = &level->names;
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    int err = copy < 0 ? -errno : read_names(copy, names);
    if (err)
        return complain(walk, err);
    for (size_t i = 0; !err && i < names->count; i++) {
        bool is_directory = false;
        if (!walk->is_estimate)
            hint_names(walk->source, fd, names, i);
        err = set_path(walk, level->path_length, names->items[i]);
        if (!err)
            err = walk->see(walk->source, fd, names->items[i], walk->path, &is_directory);
        if (err)
            err = tree_failed(walk->source->job, walk->path, err);
        if (!err && is_directory) {
            char *const swapped = names->items[level->directory_count];
            names->items[level->directory_count++] = names->items[i];
            names->items[i] = swapped;
        }
    }
    return err;
}

/* Enter the directory `name` of the last one, which walk->path is that of, and see its names. */
static int enter(struct walk *walk, int top, const char *name)
{
    const size_t count = walk->descent.count;
    if (count == walk->capacity) {
        const size_t capacity = count ? count * 2 : 16;
        struct level *levels = reallocarray(walk->levels, capacity, sizeof *levels);
        if (!levels)
            return -ENOMEM;
        walk->levels = levels;
        walk->capacity = capacity;
    }
    const int err = descent_enter(&walk->descent, top, name);
    if (err) /* removed meanwhile, or not to be read */
        return err == -ENOENT ? 0 : complain(walk, err);
    walk->levels[count] = (struct level){.path_length = strlen(walk->path)};
    return see_names(walk, &walk->levels[count]);
}

/* All that is in a directory, however deep. */
static int walk_below(struct source *source, int top, see_fn *see)
{
    struct walk walk = {.source = source, .see = see, .is_estimate = see == estimate_name};
    int err = set_path(&walk, 0, "");
    if (!err)
        err = enter(&walk, top, ".");
    while (!err && walk.descent.count > 0) {
        struct level *const level = &walk.levels[walk.descent.count - 1];
        if (level->at < level->directory_count) {
            const char *const name = level->names.items[level->at];
            if (!walk.is_estimate)
                hint_directories(source, descent_fd(&walk.descent), &level->names, level->at,
                                 level->directory_count);
            level->at++;
            err = set_path(&walk, level->path_length, name);
            if (!err)
                err = enter(&walk, -1, name);
            continue;
        }
        walk.path[level->path_length] = '\0';
        names_release(&level->names);
        *level = (struct level){.path_length = 0};
        err = descent_leave(&walk.descent);
        if (err) { /* where the rest is, nobody knows */
            kv_ignore(complain(&walk, err));
            break;
        }
    }
    for (size_t i = 0; i < walk.descent.count; i++)
        names_release(&walk.levels[i].names);
    descent_release(&walk.descent);
    free(walk.levels);
    free(walk.path);
    return err;
}

int tree_from_directory(struct tree_job *job, const char *path)
{
    struct source source = {.job = job, .links = tree_links_new()};
    struct stat status = {.st_dev = 0};
    source.ahead = tree_ahead_new();
    source.buffer = malloc(PIECE_BYTES);
    source.names = malloc(2 * XATTR_BYTES);
    int err = source.links && source.buffer && source.names ? 0 : -ENOMEM;
    const int fd = err ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!err && (fd < 0 || fstat(fd, &status)))
        err = -errno;
    if (!err) {
        source.device = status.st_dev;
        if (job->progress.enabled)
            kv_ignore(walk_below(&source, fd, estimate_name)); /* who can not look will be told */
        tool_progress_stage(&job->progress, job->progress.stage); /* the clock starts now */
        struct tree_item item = item_of(&status, "");
        err = read_xattrs(&source, fd, NULL, &item);
        if (!err)
            err = tree_put(job, &item);
    }
    if (err)
        err = tree_failed(job, path, err);
    if (!err)
        err = walk_below(&source, fd, put_name);
    if (fd >= 0)
        close(fd);
    tree_xattrs_release(&source.xattrs);
    tree_links_free(source.links);
    tree_ahead_free(source.ahead);
    free(source.buffer);
    free(source.names);
    return err;
}
