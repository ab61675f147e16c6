/*
 * tools/tree_directory.c: a directory as a source of trees, by plain system calls.
 *
 * Owns       one buffer for content and one for attributes, used for each file in turn.
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
#include "tools/keys_backend.h"
#include "tools/tree.h"
#include "tools/tree_ahead.h"

#define PIECE_BYTES    (1u << 20)
#define XATTR_BYTES    65536u
#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

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

static int walk(struct source *source, int parent, const char *name, const char *path)
{
    struct names names = {0};
    size_t directory_count = 0;
    const int fd = openat(parent, name, OPEN_DIRECTORY);
    if (fd < 0)
        return errno == ENOENT ? 0 : tree_failed(source->job, path, -errno);
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    int err = copy < 0 ? -errno : read_names(copy, &names);
    if (err)
        err = tree_failed(source->job, path, err);
    /* Names of directories move to the front, to be entered when all names were put. */
    for (size_t i = 0; !err && i < names.count; i++) {
        bool is_directory = false;
        hint_names(source, fd, &names, i);
        char *below = keys_join(path, names.items[i]);
        err = below ? put_name(source, fd, names.items[i], below, &is_directory) : -ENOMEM;
        if (err)
            err = tree_failed(source->job, below ? below : path, err);
        if (!err && is_directory) {
            char *const swapped = names.items[directory_count];
            names.items[directory_count++] = names.items[i];
            names.items[i] = swapped;
        }
        free(below);
    }
    for (size_t i = 0; !err && i < directory_count; i++) {
        hint_directories(source, fd, &names, i, directory_count);
        char *below = keys_join(path, names.items[i]);
        err = below ? walk(source, fd, names.items[i], below) : -ENOMEM;
        free(below);
    }
    names_release(&names);
    close(fd);
    return err;
}

/* The work ahead, for the progress: no more than a look at everything. */
static void estimate(struct source *source, int parent, const char *name)
{
    const int fd = openat(parent, name, OPEN_DIRECTORY);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (!stream) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (const struct dirent *entry; (entry = readdir(stream));) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) ||
            status.st_dev != source->device)
            continue;
        source->job->total += tree_work(S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0);
        if (S_ISDIR(status.st_mode))
            estimate(source, fd, entry->d_name);
    }
    (void)closedir(stream); /* only read */
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
            estimate(&source, fd, ".");
        tool_progress_stage(&job->progress, job->progress.stage); /* the clock starts now */
        struct tree_item item = item_of(&status, "");
        err = read_xattrs(&source, fd, NULL, &item);
        if (!err)
            err = tree_put(job, &item);
    }
    if (err)
        err = tree_failed(job, path, err);
    if (!err)
        err = walk(&source, fd, ".", "");
    if (fd >= 0)
        close(fd);
    tree_xattrs_release(&source.xattrs);
    tree_links_free(source.links);
    tree_ahead_free(source.ahead);
    free(source.buffer);
    free(source.names);
    return err;
}
