/*
 * tools/keys_mount.c: the keys of a mounted directory, by plain system calls.
 *
 * Owns       a descriptor of the directory; a keys_dir is a descriptor too.
 * Invariant  no symlink is followed, no special file opened.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/keys_backend.h"
#include "tools/mounts.h"
#include "tools/options.h"

struct keys_backend {
    int root_fd;
};

int keys_mount_open(const char *dir, struct keys_backend **backend, struct kv_error *error)
{
    struct tool_mount mount;
    int err = tool_mount_of_path(dir, &mount);
    if (err) {
        snprintf(error->text, sizeof error->text,
                 "%.200s: not in a kvfs mount; mount an image there with mount.kvfs", dir);
        return err;
    }
    struct keys_backend *opened = calloc(1, sizeof *opened);
    if (!opened) {
        err = -ENOMEM;
        goto failed;
    }
    opened->root_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened->root_fd < 0) {
        err = -errno;
        goto failed;
    }
    *backend = opened;
    return 0;
failed:
    free(opened);
    snprintf(error->text, sizeof error->text, "%.200s: %s", dir, tool_error_text(err));
    return err;
}

static int mount_close(struct keys_backend *backend)
{
    close(backend->root_fd); /* what was put has been synced */
    free(backend);
    return 0;
}

static keys_dir mount_root(struct keys_backend *backend)
{
    return backend->root_fd;
}

static int mount_enter(struct keys_backend *backend, keys_dir dir, const char *name,
                       keys_dir *child)
{
    (void)backend;
    const int fd = openat((int)dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *child = fd;
    return 0;
}

static int mount_make(struct keys_backend *backend, keys_dir dir, const char *name)
{
    (void)backend;
    return mkdirat((int)dir, name, 0777) ? -errno : 0;
}

static void mount_leave(struct keys_backend *backend, keys_dir dir)
{
    (void)backend;
    close((int)dir);
}

static int mount_look(struct keys_backend *backend, keys_dir dir, const char *name,
                      struct keys_attributes *attributes)
{
    (void)backend;
    struct stat status;
    if (fstatat((int)dir, name, &status, AT_SYMLINK_NOFOLLOW))
        return -errno;
    *attributes = (struct keys_attributes){.mode = status.st_mode,
                                           .size = (uint64_t)status.st_size,
                                           .mtime_ns = (int64_t)status.st_mtim.tv_sec * 1000000000 +
                                                       status.st_mtim.tv_nsec};
    return 0;
}

static int mount_list(struct keys_backend *backend, keys_dir dir, keys_name_fn *visit,
                      void *context)
{
    const int fd = openat((int)dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    DIR *stream = fdopendir(fd);
    if (!stream) {
        const int err = -errno;
        close(fd);
        return err;
    }
    int err = 0;
    while (!err) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry) {
            err = -errno; /* 0 at the end */
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        struct keys_attributes attributes;
        err = mount_look(backend, dir, entry->d_name, &attributes);
        if (err == -ENOENT) /* removed meanwhile */
            err = 0;
        else if (!err)
            err = visit(context, entry->d_name, &attributes);
    }
    (void)closedir(stream); /* only read */
    return err;
}

static int mount_get(struct keys_backend *backend, keys_dir dir, const char *name, int out_fd)
{
    struct keys_attributes attributes = {0};
    int err = mount_look(backend, dir, name, &attributes);
    if (err)
        return err;
    if (!S_ISREG(attributes.mode))
        return S_ISDIR(attributes.mode) ? -EISDIR : -EMEDIUMTYPE;

    const int fd = openat((int)dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    char *buffer = malloc(KEYS_CHUNK_BYTES);
    size_t got = 1;
    err = buffer ? 0 : -ENOMEM;
    while (!err && got > 0) {
        err = keys_read_full(fd, buffer, KEYS_CHUNK_BYTES, &got);
        if (!err)
            err = keys_write_all(out_fd, buffer, got);
    }
    free(buffer);
    close(fd);
    return err;
}

/* Fill the new file from in_fd and make it durable, like the old one in mode and owner. */
static int fill(int fd, int in_fd, const struct stat *old)
{
    char *buffer = malloc(KEYS_CHUNK_BYTES);
    size_t got = 1;
    int err = buffer ? 0 : -ENOMEM;
    while (!err && got > 0) {
        err = keys_read_full(in_fd, buffer, KEYS_CHUNK_BYTES, &got);
        if (!err)
            err = keys_write_all(fd, buffer, got);
    }
    free(buffer);
    /* An owner that we may not give is no reason to refuse the value; the mode then stays ours. */
    if (!err && old && fchown(fd, old->st_uid, old->st_gid) == 0 &&
        fchmod(fd, old->st_mode & 07777))
        err = -errno;
    if (!err && fsync(fd))
        err = -errno;
    return err;
}

static int mount_put(struct keys_backend *backend, keys_dir dir, const char *name, int in_fd)
{
    (void)backend;
    struct stat old;
    const bool has_old = fstatat((int)dir, name, &old, AT_SYMLINK_NOFOLLOW) == 0;
    char temporary[64];
    keys_temporary_name(temporary);
    const int fd = openat((int)dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return -errno;
    int err = fill(fd, in_fd, has_old ? &old : NULL);
    if (close(fd) && !err)
        err = -errno;
    if (!err && renameat((int)dir, temporary, (int)dir, name))
        err = -errno;
    if (err) {
        (void)unlinkat((int)dir, temporary, 0); /* the first error is the one to tell */
        return err;
    }
    return fsync((int)dir) ? -errno : 0;
}

static int mount_remove(struct keys_backend *backend, keys_dir dir, const char *name,
                        bool is_directory)
{
    (void)backend;
    return unlinkat((int)dir, name, is_directory ? AT_REMOVEDIR : 0) ? -errno : 0;
}

const struct keys_backend_ops keys_mount_ops = {
    .root = mount_root,
    .enter = mount_enter,
    .make = mount_make,
    .leave = mount_leave,
    .look = mount_look,
    .list = mount_list,
    .get = mount_get,
    .put = mount_put,
    .remove = mount_remove,
    .close = mount_close,
};
