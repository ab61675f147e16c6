/*
 * tools/tree_into_directory.c: a directory as a sink of trees, by plain system calls.
 *
 * Owns       a descriptor of the directory, and of the one that was put into last.
 * Invariant  no symlink is followed on the way, whatever the tree says. A regular file, and what
 *            replaces another, is made under a name of its own first, always the same for the same
 *            file: what one that was interrupted has left goes when it is made again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>

#include "fs/expiry.h"
#include "fs/xattr.h"
#include "kv/base.h"
#include "tools/keys_backend.h"
#include "tools/tree.h"

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define TEMPORARY_MAX  (32u + KEYS_ENDING_MAX)

struct sink {
    struct tree_sink base;
    struct tree_job *job;
    int top_fd;
    int last_fd;     /* the directory `last_path`; -1: none */
    char *last_path; /* owned */
    bool inherits;   /* it has a default ACL */
    bool is_root;
    struct tree_directories *directories;
};

static int close_last(struct sink *sink)
{
    if (sink->last_fd >= 0)
        close(sink->last_fd);
    free(sink->last_path);
    sink->last_fd = -1;
    sink->last_path = NULL;
    return 0;
}

/*
 * Open the directory `path`, which may have to be made, and so may those on the way; the last one
 * with this mode. A descriptor to be closed, or an error.
 */
static int open_directory_as(struct sink *sink, const char *path, mode_t mode)
{
    int at = fcntl(sink->top_fd, F_DUPFD_CLOEXEC, 0);
    if (at < 0)
        return -errno;
    while (*path) {
        char name[256];
        const char *slash = strchrnul(path, '/');
        snprintf(name, sizeof name, "%.*s", (int)(slash - path), path);
        int next = openat(at, name, OPEN_DIRECTORY);
        if (next < 0 && errno == ENOENT &&
            (mkdirat(at, name, *slash ? 0777 : mode) == 0 || errno == EEXIST))
            next = openat(at, name, OPEN_DIRECTORY);
        const int err = next < 0 ? -errno : 0;
        close(at);
        if (err)
            return err == -ELOOP ? -ENOTDIR : err;
        at = next;
        path = *slash ? slash + 1 : slash;
    }
    return at;
}

static int open_directory(struct sink *sink, const char *path)
{
    return open_directory_as(sink, path, 0777);
}

/* The directory that an item is put into, and its name there. A borrowed descriptor or an error. */
static int place(struct sink *sink, const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');
    const size_t length = slash ? (size_t)(slash - path) : 0;
    *name = slash ? slash + 1 : path;
    if (sink->last_path && strlen(sink->last_path) == length &&
        memcmp(sink->last_path, path, length) == 0)
        return sink->last_fd;
    close_last(sink);
    char *above = strndup(path, length);
    if (!above)
        return -ENOMEM;
    const int fd = open_directory(sink, above);
    if (fd < 0) {
        free(above);
        return fd;
    }
    sink->last_fd = fd;
    sink->last_path = above;
    sink->inherits = fgetxattr(fd, FS_XATTR_DEFAULT_ACL, NULL, 0) > 0;
    return fd;
}

/* ---- attributes --------------------------------------------------------------------- */

static int set_xattr(struct sink *sink, int fd, const char *path,
                     const struct fs_apply_xattr *xattr)
{
    const int failed = fd >= 0 ? fsetxattr(fd, xattr->name, xattr->value, xattr->length, 0)
                               : lsetxattr(path, xattr->name, xattr->value, xattr->length, 0);
    if (!failed)
        return 0;
    if (errno != ENOTSUP && errno != EPERM && errno != EACCES)
        return -errno;
    sink->job->not_kept++; /* not by this user, or not in this file system */
    return 0;
}

/* Take away an ACL that was inherited and is not the source's. */
static int drop_acl(int fd, const char *path, const char *name,
                    const struct fs_apply_attributes *to)
{
    for (size_t i = 0; i < to->xattr_count; i++)
        if (strcmp(to->xattrs[i].name, name) == 0)
            return 0;
    const int failed = fd >= 0 ? fremovexattr(fd, name) : lremovexattr(path, name);
    return failed && errno != ENODATA && errno != ENOTSUP ? -errno : 0;
}

static int set_permissions(struct sink *sink, int fd, const char *path,
                           const struct fs_apply_attributes *to)
{
    mode_t permissions = to->mode & 07777u;
    struct stat there;
    const int flags = AT_SYMLINK_NOFOLLOW;
    if (!sink->is_root && (permissions & 06000u)) {
        if (fd >= 0 ? fstat(fd, &there) : fstatat(AT_FDCWD, path, &there, flags))
            return -errno;
        permissions = tree_permissions(to, there.st_uid, there.st_gid);
        sink->job->not_kept += permissions != (to->mode & 07777u);
    }
    return (fd >= 0 ? fchmod(fd, permissions) : fchmodat(AT_FDCWD, path, permissions, flags))
               ? -errno
               : 0;
}

/* Owner, mode, attributes, times, in this order: each may change what comes after it. */
static int set_attributes(struct sink *sink, int fd, const char *path,
                          const struct fs_apply_attributes *to)
{
    const struct timespec times[2] = {fs_timespec(to->atime_ns), fs_timespec(to->mtime_ns)};
    const int flags = AT_SYMLINK_NOFOLLOW;
    if (sink->is_root && (fd >= 0 ? fchown(fd, to->uid, to->gid)
                                  : fchownat(AT_FDCWD, path, to->uid, to->gid, flags)))
        return -errno;
    int err = 0;
    if (S_ISDIR(to->mode))
        err = drop_acl(fd, path, FS_XATTR_DEFAULT_ACL, to);
    if (!err && !S_ISLNK(to->mode) && (sink->inherits || S_ISDIR(to->mode)))
        err = drop_acl(fd, path, FS_XATTR_ACCESS_ACL, to);
    if (!err && !S_ISLNK(to->mode))
        err = set_permissions(sink, fd, path, to);
    if (err)
        return err;
    for (size_t i = 0; i < to->xattr_count; i++) {
        err = set_xattr(sink, fd, path, &to->xattrs[i]);
        if (err)
            return err;
    }
    return (fd >= 0 ? futimens(fd, times) : utimensat(AT_FDCWD, path, times, flags)) ? -errno : 0;
}

static bool is_same(const struct sink *sink, const struct stat *there, const struct tree_item *item)
{
    const struct fs_apply_attributes *wanted = &item->attributes;
    const bool special = S_ISCHR(there->st_mode) || S_ISBLK(there->st_mode);
    return (there->st_mode & S_IFMT) == (wanted->mode & S_IFMT) &&
           (there->st_mode & 07777) == tree_permissions(wanted, there->st_uid, there->st_gid) &&
           fs_time_ns(&there->st_mtim) == wanted->mtime_ns &&
           (!S_ISREG(there->st_mode) || (uint64_t)there->st_size == item->size) &&
           (!special || there->st_rdev == wanted->rdev) &&
           (!sink->is_root || (there->st_uid == wanted->uid && there->st_gid == wanted->gid));
}

/* ---- one item -------------------------------------------------------------------------- */

static int write_content(int fd, const struct tree_item *item)
{
    struct tree_piece piece;
    int err;
    while (!(err = item->read(item->read_context, &piece)) && piece.length > 0) {
        for (size_t done = 0; done < piece.length;) {
            const ssize_t written = pwrite(fd, (const char *)piece.bytes + done,
                                           piece.length - done, (off_t)(piece.offset + done));
            if (written < 0 && errno == EINTR)
                continue;
            if (written < 0)
                return -errno;
            done += (size_t)written;
        }
    }
    struct stat status;
    if (!err && fstat(fd, &status))
        err = -errno;
    if (!err && (uint64_t)status.st_size != item->size && ftruncate(fd, (off_t)item->size))
        err = -errno;
    return err;
}

static int make_regular(struct sink *sink, int directory, const char *name,
                        const struct tree_item *item)
{
    const int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int err = write_content(fd, item);
    if (!err)
        err = set_attributes(sink, fd, NULL, &item->attributes);
    if (close(fd) && !err)
        err = -errno;
    return err;
}

static int make_other(struct sink *sink, int directory, const char *name,
                      const struct tree_item *item)
{
    char path[64 + 256];
    const mode_t mode = item->attributes.mode;
    const int failed =
        S_ISLNK(mode) ? symlinkat(item->target, directory, name)
                      : mknodat(directory, name, (mode & S_IFMT) | 0600, item->attributes.rdev);
    if (failed)
        return -errno;
    snprintf(path, sizeof path, "/proc/self/fd/%d/%.255s", directory, name);
    return set_attributes(sink, -1, path, &item->attributes);
}

static int make_link(struct sink *sink, int directory, const char *name,
                     const struct tree_item *item)
{
    const char *slash = strrchr(item->link, '/');
    char *above = strndup(item->link, slash ? (size_t)(slash - item->link) : 0);
    if (!above)
        return -ENOMEM;
    const int from = open_directory(sink, above);
    free(above);
    if (from < 0)
        return from;
    const char *old = slash ? slash + 1 : item->link;
    const int err = linkat(from, old, directory, name, 0) ? -errno : 0;
    close(from);
    return err;
}

static int make(struct sink *sink, int directory, const char *name, const struct tree_item *item)
{
    if (item->link)
        return make_link(sink, directory, name, item);
    return S_ISREG(item->attributes.mode) ? make_regular(sink, directory, name, item)
                                          : make_other(sink, directory, name, item);
}

/*
 * A name for what is not whole yet, unlike that of any other file: a hash of the final one. It ends
 * as the final one does: policies of a mount that go by that hold for what is written.
 */
static void temporary_name(const char *final, char name[TEMPORARY_MAX])
{
    const uint64_t hash = XXH3_64bits(final, strlen(final));
    snprintf(name, TEMPORARY_MAX, ".kvfs-import-%016llx%s", (unsigned long long)hash,
             keys_ending_of(final));
}

/* Make it, in place of what may be there. */
static int replace(struct sink *sink, int directory, const char *name, const struct tree_item *item)
{
    char temporary[TEMPORARY_MAX];
    temporary_name(name, temporary);
    int err = make(sink, directory, temporary, item);
    if (err == -EEXIST) /* from one that was interrupted */
        err = unlinkat(directory, temporary, 0) ? -errno : make(sink, directory, temporary, item);
    if (!err && renameat(directory, temporary, directory, name))
        err = -errno;
    if (err)
        (void)unlinkat(directory, temporary, 0); /* the first error is the one to tell */
    return err;
}

/* Is `name` a name of what stands at item->link? */
static bool is_linked(struct sink *sink, const struct stat *there, const struct tree_item *item)
{
    const char *slash = strrchr(item->link, '/');
    char *above = strndup(item->link, slash ? (size_t)(slash - item->link) : 0);
    const int fd = above ? open_directory(sink, above) : -1;
    struct stat first;
    const bool linked =
        fd >= 0 && fstatat(fd, slash ? slash + 1 : item->link, &first, AT_SYMLINK_NOFOLLOW) == 0 &&
        first.st_dev == there->st_dev && first.st_ino == there->st_ino;
    if (fd >= 0)
        close(fd);
    free(above);
    return linked;
}

/* What the directory gives to all that is made in it is not for what comes from the source. */
static int drop_ttl(int fd, const struct fs_apply_attributes *to)
{
    if (!fs_apply_ttl_of(to) || fremovexattr(fd, FS_XATTR_TTL) == 0 || errno == ENODATA ||
        errno == ENOTSUP || errno == EPERM || errno == EACCES) /* the end will tell of these two */
        return 0;
    return -errno;
}

static int put_directory(struct sink *sink, const struct tree_item *item)
{
    /* It is opened to others when it has its mode: in the end, when what is in it has its own. */
    const int fd = open_directory_as(sink, item->path, 0700);
    if (fd < 0)
        return fd;
    const int err = drop_ttl(fd, &item->attributes);
    close(fd);
    return err ? err : tree_directories_add(sink->directories, item);
}

static int put(struct tree_sink *base, const struct tree_item *item)
{
    struct sink *sink = (struct sink *)base;
    const char *name;
    struct stat there;
    if (S_ISDIR(item->attributes.mode) && !item->link)
        return put_directory(sink, item);
    const int directory = place(sink, item->path, &name);
    if (directory < 0)
        return directory;
    if (fstatat(directory, name, &there, AT_SYMLINK_NOFOLLOW)) {
        if (errno != ENOENT)
            return -errno;
        return S_ISREG(item->attributes.mode) && !item->link ? replace(sink, directory, name, item)
                                                             : make(sink, directory, name, item);
    }
    if (S_ISDIR(there.st_mode))
        return -EISDIR;
    if (item->link ? is_linked(sink, &there, item) : is_same(sink, &there, item)) {
        sink->job->left_alone++;
        return 0;
    }
    return replace(sink, directory, name, item);
}

static int finish(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    const struct tree_item *item;
    int err = close_last(sink);
    while (!err && (item = tree_directories_take(sink->directories))) {
        const int fd = open_directory(sink, item->path);
        err = fd < 0 ? fd : set_attributes(sink, fd, NULL, &item->attributes);
        if (fd >= 0)
            close(fd);
        if (err)
            (void)tree_failed(sink->job, item->path, err); /* the words are all that is wanted */
    }
    /* What is mounted by kvfs hears of the second only, and makes everything durable then. */
    if (!err && (syncfs(sink->top_fd) || fsync(sink->top_fd)))
        err = -errno;
    return err;
}

static void release(struct tree_sink *base)
{
    struct sink *sink = (struct sink *)base;
    close_last(sink);
    tree_directories_free(sink->directories);
    if (sink->top_fd >= 0)
        close(sink->top_fd);
    free(sink);
}

struct tree_sink *tree_to_directory(struct tree_job *job, const char *path)
{
    struct sink *sink = calloc(1, sizeof *sink);
    if (!sink) {
        (void)tree_failed(job, path, -ENOMEM); /* the words are all that is wanted */
        return NULL;
    }
    sink->base = (struct tree_sink){.put = put, .finish = finish, .free = release};
    sink->job = job;
    sink->last_fd = -1;
    sink->is_root = geteuid() == 0;
    sink->directories = tree_directories_new();
    sink->top_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (sink->top_fd < 0 || !sink->directories) {
        (void)tree_failed(job, path, sink->directories ? -errno : -ENOMEM); /* likewise */
        release(&sink->base);
        return NULL;
    }
    return &sink->base;
}
