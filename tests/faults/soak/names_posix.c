/*
 * tests/faults/soak/names_posix.c: a directory of a mounted file system, by system calls.
 *
 * Owns       a descriptor of the directory and those of the slots.
 */
#include "names.h"

#include "soak.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

void names_posix_open(struct names_posix *posix, const char *directory)
{
    posix->root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SOAK_MUST(posix->root >= 0);
    for (unsigned i = 0; i < NAMES_SLOTS; i++)
        posix->slots[i] = -1;
}

void names_posix_close(struct names_posix *posix)
{
    for (unsigned i = 0; i < NAMES_SLOTS; i++)
        if (posix->slots[i] >= 0)
            close(posix->slots[i]);
    close(posix->root);
}

/* Attributes have no calls with a directory: their paths go through /proc. */
static const char *full_path(const struct names_posix *posix, const char *path)
{
    static char full[NAMES_PATH_MAX + 64];
    snprintf(full, sizeof full, "/proc/self/fd/%d/%s", posix->root, path);
    return full;
}

static void took(struct name_result *result, const void *bytes, ssize_t length)
{
    if (length < 0)
        return;
    result->length = (uint64_t)length;
    result->digest = names_digest(1, bytes, (size_t)length);
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct name_entry *)a)->name, ((const struct name_entry *)b)->name);
}

static int list_directory(void *context, const char *path, struct name_list *list)
{
    const struct names_posix *posix = context;
    const int fd = openat(posix->root, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    list->count = 0;
    if (!stream)
        return -errno;
    const struct dirent *dirent;
    while ((dirent = readdir(stream))) {
        if (!strcmp(dirent->d_name, ".") || !strcmp(dirent->d_name, ".."))
            continue;
        SOAK_MUST(list->count < NAMES_LIST_MAX);
        struct name_entry *entry = &list->entries[list->count++];
        snprintf(entry->name, sizeof entry->name, "%s", dirent->d_name);
        entry->type = DTTOIF(dirent->d_type);
    }
    closedir(stream);
    qsort(list->entries, list->count, sizeof list->entries[0], compare_entries);
    return 0;
}

/* The names that a listing of attributes gives come in any order. */
static void list_attributes(const struct names_posix *posix, const struct name_op *op,
                            struct name_result *result)
{
    char names[4096];
    const ssize_t length = llistxattr(full_path(posix, op->path), names, sizeof names);
    if (length < 0) {
        result->err = -errno;
        return;
    }
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
        if (!strncmp(names + at, "security.", 9))
            continue; /* a security module's, not ours */
        result->length += strlen(names + at) + 1;
        result->digest += names_digest(1, names + at, strlen(names + at));
    }
}

static int open_slot(struct names_posix *posix, const struct name_op *op)
{
    const int fd = op->kind == NAME_OPEN
                       ? openat(posix->root, op->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC)
                       : openat(posix->root, op->path, O_RDWR | O_TMPFILE | O_CLOEXEC, op->mode);
    if (fd >= 0)
        posix->slots[op->slot] = fd;
    return fd < 0 ? -1 : 0;
}

static int link_slot(const struct names_posix *posix, const struct name_op *op)
{
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", posix->slots[op->slot]);
    return linkat(AT_FDCWD, self, posix->root, op->path, AT_SYMLINK_FOLLOW);
}

static int close_slot(struct names_posix *posix, unsigned slot)
{
    const int status = close(posix->slots[slot]);
    posix->slots[slot] = -1;
    return status;
}

static void run(void *context, const struct name_op *op, struct name_result *result)
{
    static uint8_t buf[NAMES_FILE_MAX];
    struct names_posix *posix = context;
    const int root = posix->root;
    const struct timespec times[2] = {{.tv_sec = op->atime, .tv_nsec = 123456789},
                                      {.tv_sec = op->mtime, .tv_nsec = 987654321}};
    struct name_list *list;
    ssize_t status = 0;
    switch (op->kind) {
    case NAME_MKNOD:
        status = mknodat(root, op->path, op->mode, op->rdev);
        break;
    case NAME_MKDIR:
        status = mkdirat(root, op->path, op->mode & 01777u);
        break;
    case NAME_SYMLINK:
        status = symlinkat(op->other, root, op->path);
        break;
    case NAME_UNLINK:
        status = unlinkat(root, op->path, 0);
        break;
    case NAME_RMDIR:
        status = unlinkat(root, op->path, AT_REMOVEDIR);
        break;
    case NAME_RENAME:
        status = renameat2(root, op->path, root, op->other, (unsigned)op->flags);
        break;
    case NAME_LINK:
        status = linkat(root, op->path, root, op->other, 0);
        break;
    case NAME_READLINK:
        status = readlinkat(root, op->path, (char *)buf, sizeof buf);
        took(result, buf, status);
        break;
    case NAME_CHMOD:
        status = fchmodat(root, op->path, op->mode & 07777u, 0);
        break;
    case NAME_CHOWN:
        status = fchownat(root, op->path, op->uid, op->gid, AT_SYMLINK_NOFOLLOW);
        break;
    case NAME_UTIMES:
        status = utimensat(root, op->path, times, AT_SYMLINK_NOFOLLOW);
        break;
    case NAME_SETXATTR:
        status =
            lsetxattr(full_path(posix, op->path), op->attribute, op->value, op->length, op->flags);
        break;
    case NAME_GETXATTR:
        status = lgetxattr(full_path(posix, op->path), op->attribute, buf, sizeof buf);
        took(result, buf, status);
        break;
    case NAME_REMOVEXATTR:
        status = lremovexattr(full_path(posix, op->path), op->attribute);
        break;
    case NAME_LISTXATTR:
        list_attributes(posix, op, result);
        return;
    case NAME_TRUNCATE:
        status = truncate(full_path(posix, op->path), (off_t)op->offset);
        break;
    case NAME_LIST:
        list = calloc(1, sizeof *list);
        SOAK_MUST(list != NULL);
        result->err = list_directory(context, op->path, list);
        result->length = list->count;
        free(list);
        return;
    case NAME_OPEN:
    case NAME_OPEN_TEMP:
        status = open_slot(posix, op);
        break;
    case NAME_LINK_SLOT:
        status = link_slot(posix, op);
        break;
    case NAME_CLOSE:
        status = close_slot(posix, op->slot);
        break;
    case NAME_PWRITE:
        names_fill(buf, op->length, op->seed);
        status = pwrite(posix->slots[op->slot], buf, op->length, (off_t)op->offset);
        result->length = status < 0 ? 0 : (uint64_t)status;
        break;
    case NAME_PREAD:
        status = pread(posix->slots[op->slot], buf, op->length, (off_t)op->offset);
        took(result, buf, status);
        break;
    case NAME_FTRUNCATE:
        status = ftruncate(posix->slots[op->slot], (off_t)op->offset);
        break;
    case NAME_KINDS:
        break;
    }
    result->err = status < 0 ? -errno : 0;
}

static int stat_path(void *context, const char *path, struct stat *stat_buf)
{
    const struct names_posix *posix = context;
    return fstatat(posix->root, path, stat_buf, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int read_path(void *context, const char *path, void *buf, size_t cap, size_t *got)
{
    const struct names_posix *posix = context;
    const int fd = openat(posix->root, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const ssize_t length = read(fd, buf, cap);
    const int err = length < 0 ? -errno : 0;
    close(fd);
    *got = err ? 0 : (size_t)length;
    return err;
}

struct names_backend names_posix_backend(struct names_posix *posix)
{
    return (struct names_backend){
        .context = posix, .run = run, .stat = stat_path, .list = list_directory, .read = read_path};
}

static int remove_one(const char *path, const struct stat *stat_buf, int type, struct FTW *ftw)
{
    (void)stat_buf;
    (void)type;
    if (ftw->level > 0)
        (void)remove(path); /* as much as goes */
    return 0;
}

void names_posix_empty(struct names_posix *posix)
{
    char path[64], directory[NAMES_PATH_MAX];
    snprintf(path, sizeof path, "/proc/self/fd/%d", posix->root);
    const ssize_t length = readlink(path, directory, sizeof directory - 1);
    names_posix_close(posix);
    if (length < 0)
        return;
    directory[length] = '\0';
    (void)nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    rmdir(directory);
}
