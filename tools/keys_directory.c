/*
 * tools/keys_directory.c: directories by descriptors: what is in one, and removing it.
 *
 * Owns       while a tree is removed, the directories from its top to where the work is.
 * Invariant  of these the last OPEN_MAX are open and no others; one that was closed is opened again
 *            from the one in it, and must be the same.
 */
#include "tools/keys_directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPEN_MAX 64u

const char *keys_next_name(DIR *stream, int *err)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry) {
            *err = -errno; /* 0 at the end */
            return NULL;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            return entry->d_name;
    }
}

DIR *keys_open_stream(int dir, const char *name)
{
    const int fd = openat(dir, name, KEYS_OPEN_DIRECTORY);
    if (fd < 0)
        return NULL;
    DIR *stream = fdopendir(fd);
    if (!stream) {
        const int err = errno;
        close(fd);
        errno = err;
    }
    return stream;
}

/* ---- removing ------------------------------------------------------------------------ */

/* A directory that is being emptied. */
struct level {
    char name[256]; /* in the one above */
    DIR *stream;    /* NULL: closed, since there are many in it */
    dev_t device;
    ino_t inode;
};

struct removal {
    int dir; /* borrowed; the top is in it */
    struct level *levels;
    size_t count, capacity;
};

static bool is_same(const struct level *level, const struct stat *status)
{
    return status->st_dev == level->device && status->st_ino == level->inode;
}

/* Begin with the directory `name` in the last one. */
static int push(struct removal *removal, const char *name)
{
    struct stat status;
    if (removal->count == removal->capacity) {
        const size_t capacity = removal->capacity ? removal->capacity * 2 : 16;
        struct level *levels = reallocarray(removal->levels, capacity, sizeof *levels);
        if (!levels)
            return -ENOMEM;
        removal->levels = levels;
        removal->capacity = capacity;
    }
    struct level *level = &removal->levels[removal->count];
    DIR *stream = keys_open_stream(removal->count ? dirfd(level[-1].stream) : removal->dir, name);
    if (!stream)
        return -errno;
    if (fstat(dirfd(stream), &status)) {
        const int err = -errno;
        (void)closedir(stream); /* only read */
        return err;
    }
    *level = (struct level){.stream = stream, .device = status.st_dev, .inode = status.st_ino};
    strcpy(level->name, name); /* readdir gave it, or a component of a key */
    if (removal->count++ >= OPEN_MAX) {
        struct level *first = level - OPEN_MAX;
        if (first->stream)
            (void)closedir(first->stream); /* only read */
        first->stream = NULL;
    }
    return 0;
}

/* Open the last but one again. What was read of it is gone by now: it is read from its beginning.
 */
static int reopen_above(struct removal *removal)
{
    struct level *last = &removal->levels[removal->count - 1], *above = last - 1;
    struct stat status;
    DIR *stream = keys_open_stream(dirfd(last->stream), "..");
    if (!stream)
        return -errno;
    int err = fstat(dirfd(stream), &status) ? -errno : 0;
    if (!err && !is_same(above, &status))
        err = -ESTALE;
    if (err)
        (void)closedir(stream); /* only read */
    else
        above->stream = stream;
    return err;
}

/* The last one is empty. */
static int pop(struct removal *removal)
{
    struct level *last = &removal->levels[removal->count - 1];
    const int err = removal->count > 1 && !last[-1].stream ? reopen_above(removal) : 0;
    if (err)
        return err;
    (void)closedir(last->stream); /* only read */
    removal->count--;
    const int dir = removal->count ? dirfd(last[-1].stream) : removal->dir;
    return unlinkat(dir, last->name, AT_REMOVEDIR) ? -errno : 0;
}

static int remove_next(struct removal *removal)
{
    const struct level *last = &removal->levels[removal->count - 1];
    struct stat status;
    int err = 0;
    const char *const name = keys_next_name(last->stream, &err);
    if (!name)
        return err ? err : pop(removal);
    if (fstatat(dirfd(last->stream), name, &status, AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (S_ISDIR(status.st_mode))
        return push(removal, name);
    return unlinkat(dirfd(last->stream), name, 0) ? -errno : 0;
}

int keys_remove_at(int dir, const char *name, bool recursive)
{
    struct removal removal = {.dir = dir};
    struct stat status;
    if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW))
        return -errno;
    if (!S_ISDIR(status.st_mode))
        return unlinkat(dir, name, 0) ? -errno : 0;
    if (!recursive)
        return -EISDIR;
    int err = push(&removal, name);
    while (!err && removal.count)
        err = remove_next(&removal);
    for (size_t i = 0; i < removal.count; i++)
        if (removal.levels[i].stream)
            (void)closedir(removal.levels[i].stream); /* only read */
    free(removal.levels);
    return err;
}
