/*
 * tools/keys_mount.c: the keys of a mounted directory, by plain system calls.
 *
 * Owns       a descriptor of the directory; walks open one directory after the other from it.
 * Invariant  no symlink is followed, no special file opened.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/apply.h"
#include "fs/expiry.h"
#include "fs/xattr.h"
#include "kv/base.h"
#include "tools/command.h"
#include "tools/keys_backend.h"
#include "tools/keys_directory.h"
#include "tools/mounts.h"
#include "tools/options.h"

#define CHUNK_BYTES (1u << 20)
/* Walks in each other, each with its directory open; those in them have the names in memory. */
#define WALKS_OPEN_MAX 64u

struct keys_backend {
    int root_fd;
    char mount_dir[PATH_MAX];
    char below[PATH_MAX]; /* the directory, from there; "" the same */
    unsigned walks;       /* that are under way, each in the one before */
};

/* Where in the mount the directory is. */
static int find_below(const char *dir, struct keys_backend *backend)
{
    char resolved[PATH_MAX];
    if (!realpath(dir, resolved))
        return -errno;
    const size_t length = strcmp(backend->mount_dir, "/") == 0 ? 0 : strlen(backend->mount_dir);
    const bool is_below = strncmp(resolved, backend->mount_dir, length) == 0;
    if (is_below && resolved[length] == '/')
        strcpy(backend->below, resolved + length + 1);
    return 0;
}

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
    strcpy(opened->mount_dir, mount.dir);
    err = find_below(dir, opened);
    if (err) {
        close(opened->root_fd);
        goto failed;
    }
    *backend = opened;
    return 0;
failed:
    free(opened);
    snprintf(error->text, sizeof error->text, "%.200s: %s", dir, tool_error_text(err));
    return err;
}

bool keys_mount_is_top(const struct keys_backend *backend)
{
    return !*backend->below;
}

static int mount_close(struct keys_backend *backend)
{
    close(backend->root_fd); /* what was put has been synced */
    free(backend);
    return 0;
}

/* Open the directory `name` in `dir`; make: it may have to be made. Returns it or an error. */
static int enter(int dir, const char *name, bool make)
{
    int fd = openat(dir, name, KEYS_OPEN_DIRECTORY);
    if (fd >= 0)
        return fd;
    if (errno != ENOENT || !make)
        return -errno;
    if (mkdirat(dir, name, 0777) && errno != EEXIST) /* someone else may be faster */
        return -errno;
    fd = openat(dir, name, KEYS_OPEN_DIRECTORY);
    return fd < 0 ? -errno : fd;
}

/*
 * Walk to the directory that holds what `path` names.
 *
 * make  directories that are missing on the way are made.
 * last  out: points to the last component in `path`; "." for the top.
 *
 * Returns a descriptor, to be closed, or a negative errno.
 */
static int walk(const struct keys_backend *backend, const char *path, bool make, const char **last)
{
    *last = ".";
    int at = openat(backend->root_fd, ".", KEYS_OPEN_DIRECTORY);
    if (at < 0)
        return -errno;
    const char *component = path;
    for (const char *slash; (slash = strchr(component, '/')); component = slash + 1) {
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)(slash - component), component);
        const int child = enter(at, name, make);
        close(at);
        if (child < 0)
            return child;
        at = child;
    }
    if (*component)
        *last = component;
    return at;
}

/* ---- looking ---------------------------------------------------------------------- */

static int look_at(int dir, const char *name, struct keys_attributes *attributes)
{
    struct stat status;
    if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW))
        return -errno;
    *attributes = (struct keys_attributes){.mode = status.st_mode,
                                           .size = (uint64_t)status.st_size,
                                           .mtime_ns = (int64_t)status.st_mtim.tv_sec * 1000000000 +
                                                       status.st_mtim.tv_nsec};
    return 0;
}

static int mount_look(struct keys_backend *backend, const char *path,
                      struct keys_attributes *attributes)
{
    const char *name;
    const int dir = walk(backend, path, false, &name);
    if (dir < 0)
        return dir;
    const int err = look_at(dir, name, attributes);
    close(dir);
    return err;
}

static int mount_list(struct keys_backend *backend, const char *path, keys_name_fn *visit,
                      void *context)
{
    const char *last;
    const int dir = walk(backend, path, false, &last);
    if (dir < 0)
        return dir;
    DIR *stream = keys_open_stream(dir, last);
    int err = stream ? 0 : -errno;
    close(dir);
    if (!stream)
        return err;
    for (const char *name; !err && (name = keys_next_name(stream, &err));) {
        struct keys_attributes attributes;
        err = look_at(dirfd(stream), name, &attributes);
        if (err == -ENOENT) /* removed meanwhile */
            err = 0;
        else if (!err)
            err = visit(context, name, &attributes);
    }
    (void)closedir(stream); /* only read */
    return err;
}

/* ---- in order ---------------------------------------------------------------------- */

/*
 * The daemon lists in byte order. Backwards a directory is read once to remember where each so
 * many names begin, and then these pieces from the last to the first.
 */
#define PIECE_NAMES 1024u

struct pieces {
    long *starts; /* positions, as telldir gives them */
    size_t count, capacity;
};

static int find_pieces(DIR *stream, const char *before, struct pieces *pieces)
{
    int err = 0;
    size_t names = 0;
    for (;;) {
        const long at = telldir(stream);
        const char *name = keys_next_name(stream, &err);
        if (!name || (*before && strcmp(name, before) >= 0))
            return err;
        if (names++ % PIECE_NAMES != 0)
            continue;
        if (pieces->count == pieces->capacity) {
            const size_t capacity = pieces->capacity ? pieces->capacity * 2 : 64;
            long *starts = reallocarray(pieces->starts, capacity, sizeof *starts);
            if (!starts)
                return -ENOMEM;
            pieces->starts = starts;
            pieces->capacity = capacity;
        }
        pieces->starts[pieces->count++] = at;
    }
}

static int visit_name(DIR *stream, const char *name, keys_name_fn *visit, void *context)
{
    struct keys_attributes attributes;
    const int err = look_at(dirfd(stream), name, &attributes);
    if (err == -ENOENT) /* removed meanwhile */
        return 0;
    return err ? err : visit(context, name, &attributes);
}

/* The names from a position on, the last first; as many as there were in a piece, before `until`.
 */
static int visit_piece(DIR *stream, long start, const char *before, char (*names)[256],
                       char first[256], keys_name_fn *visit, void *context)
{
    size_t count = 0;
    int err = 0;
    seekdir(stream, start);
    while (count < PIECE_NAMES) {
        const char *name = keys_next_name(stream, &err);
        if (!name || (*before && strcmp(name, before) >= 0) ||
            (*first && strcmp(name, first) >= 0)) /* visited with the piece behind this */
            break;
        snprintf(names[count++], 256, "%s", name);
    }
    for (size_t i = count; !err && i-- > 0;)
        err = visit_name(stream, names[i], visit, context);
    if (count > 0)
        memcpy(first, names[0], 256);
    return err;
}

static int walk_backwards(DIR *stream, const char *before, keys_name_fn *visit, void *context)
{
    struct pieces pieces = {0};
    char first[256] = "";
    char(*names)[256] = malloc(PIECE_NAMES * sizeof *names);
    int err = names ? find_pieces(stream, before, &pieces) : -ENOMEM;
    for (size_t i = pieces.count; !err && i-- > 0;)
        err = visit_piece(stream, pieces.starts[i], before, names, first, visit, context);
    free(names);
    free(pieces.starts);
    return err;
}

static int walk_forwards(DIR *stream, const char *from, keys_name_fn *visit, void *context)
{
    int err = 0;
    for (const char *name; !err && (name = keys_next_name(stream, &err));)
        if (strcmp(name, from) >= 0)
            err = visit_name(stream, name, visit, context);
    return err;
}

/* Names that were visited, to be visited again. */
struct kept {
    struct {
        char *name; /* owned */
        struct keys_attributes attributes;
    } * items; /* owned */
    size_t count, capacity;
};

static int keep(void *context, const char *name, const struct keys_attributes *attributes)
{
    struct kept *kept = context;
    if (kept->count == kept->capacity) {
        const size_t capacity = kept->capacity ? kept->capacity * 2 : 64;
        void *items = reallocarray(kept->items, capacity, sizeof *kept->items);
        if (!items)
            return -ENOMEM;
        kept->items = items;
        kept->capacity = capacity;
    }
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    kept->items[kept->count].name = copy;
    kept->items[kept->count++].attributes = *attributes;
    return 0;
}

/* Visit what was kept, or only free it after an error. */
static int visit_kept(struct kept *kept, int err, keys_name_fn *visit, void *context)
{
    for (size_t i = 0; i < kept->count; i++) {
        if (!err)
            err = visit(context, kept->items[i].name, &kept->items[i].attributes);
        free(kept->items[i].name);
    }
    free(kept->items);
    return err;
}

static int mount_walk(struct keys_backend *backend, const char *path, bool reverse,
                      const char *from, keys_name_fn *visit, void *context)
{
    const char *last;
    const int dir = walk(backend, path, false, &last);
    if (dir < 0)
        return dir;
    DIR *stream = keys_open_stream(dir, last);
    int err = stream ? 0 : -errno;
    close(dir);
    if (!stream)
        return err;
    /* However deep directories lie in each other, so many are open and no more. */
    const bool keeps = backend->walks >= WALKS_OPEN_MAX;
    struct kept kept = {.items = NULL};
    keys_name_fn *const meet = keeps ? keep : visit;
    void *const with = keeps ? &kept : context;
    backend->walks++;
    err = reverse ? walk_backwards(stream, from, meet, with)
                  : walk_forwards(stream, from, meet, with);
    (void)closedir(stream); /* only read */
    if (keeps)
        err = visit_kept(&kept, err, visit, context);
    backend->walks--;
    return err;
}

/* ---- values ------------------------------------------------------------------------ */

static int write_to(void *context, const void *bytes, size_t length)
{
    return keys_write_all(*(const int *)context, bytes, length);
}

/* Give all that a descriptor gives, to the end. */
static int copy(int from, tool_sink_fn *sink, void *context)
{
    char *buffer = malloc(CHUNK_BYTES);
    if (!buffer)
        return -ENOMEM;
    size_t got = 1;
    int err = 0;
    while (!err && got > 0) {
        err = keys_read_full(from, buffer, CHUNK_BYTES, &got);
        if (!err)
            err = got > 0 ? sink(context, buffer, got) : 0;
    }
    free(buffer);
    return err;
}

static int mount_get(struct keys_backend *backend, const char *path, tool_sink_fn *sink,
                     void *context)
{
    const char *name;
    const int dir = walk(backend, path, false, &name);
    if (dir < 0)
        return dir;
    /* O_NONBLOCK: should a fifo have taken the place of the value, this does not wait. */
    const int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int err = fd < 0 ? -errno : copy(fd, sink, context);
    if (fd >= 0)
        close(fd);
    close(dir);
    return err;
}

#define TEMPORARY_BYTES 128u

/*
 * A name for a value that is not in place yet, unlike any other process's. It ends as the final one
 * does: policies that go by that hold for what is written.
 */
static void temporary_name(const char *final, char name[TEMPORARY_BYTES])
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* can not fail for this clock */
    snprintf(name, TEMPORARY_BYTES, ".kvfs-put-%d-%lld%09ld%s", (int)getpid(),
             (long long)now.tv_sec, now.tv_nsec, keys_ending_of(final));
}

static int set_ttl(int fd, uint64_t ttl_seconds)
{
    char text[32];
    const int length = snprintf(text, sizeof text, "%" PRIu64, ttl_seconds);
    return fsetxattr(fd, FS_XATTR_TTL, text, (size_t)length, 0) ? -errno : 0;
}

/* The path of what a descriptor, maybe of O_PATH, stands for; it may be given to anything. */
struct fd_path {
    char text[40];
};

static struct fd_path path_of(int fd)
{
    struct fd_path path;
    snprintf(path.text, sizeof path.text, "/proc/self/fd/%d", fd);
    return path;
}

/* What the new value gets of its own, or may not have: a capability was given to a content. */
static bool goes_with_content(const char *name)
{
    return strcmp(name, FS_XATTR_TTL) == 0 || strcmp(name, FS_XATTR_CAPABILITY) == 0;
}

/* Whoever may not read or give one of these can not keep it, and puts the value all the same. */
static bool is_not_allowed(int err)
{
    return err == -EPERM || err == -EACCES || err == -EOPNOTSUPP;
}

/* value: FS_XATTR_VALUE_MAX bytes of room. */
static int copy_attribute(int old_fd, int fd, const char *name, void *value)
{
    const ssize_t length = getxattr(path_of(old_fd).text, name, value, FS_XATTR_VALUE_MAX);
    if (length < 0)
        return errno == ENODATA ? 0 : -errno; /* removed meanwhile */
    return fsetxattr(fd, name, value, (size_t)length, 0) ? -errno : 0;
}

/* All attributes but lists, which go with the mode. */
static int copy_attributes(int old_fd, int fd, void *value)
{
    char *names = malloc(FS_XATTR_LIST_MAX);
    if (!names)
        return -ENOMEM;
    const ssize_t length = listxattr(path_of(old_fd).text, names, FS_XATTR_LIST_MAX);
    int err = length >= 0 || errno == EOPNOTSUPP ? 0 : -errno;
    const char *const end = names + (length > 0 ? length : 0);
    for (const char *name = names; !err && name < end; name += strlen(name) + 1) {
        if (!goes_with_content(name) && strcmp(name, FS_XATTR_ACCESS_ACL) != 0)
            err = copy_attribute(old_fd, fd, name, value);
        if (is_not_allowed(err))
            err = 0;
    }
    free(names);
    return err;
}

/*
 * Let those have access who had it to the old file. The file is its owner's alone until here; its
 * directory's list comes off before the mode opens it. With an owner or a list that we may not give
 * it stays ours alone: the mode's other bits were meant for others.
 */
static int copy_access(int old_fd, int fd, void *value)
{
    struct stat old;
    if (fstat(old_fd, &old))
        return -errno;
    int err = fchown(fd, old.st_uid, old.st_gid) ? -errno : 0;
    if (!err && fremovexattr(fd, FS_XATTR_ACCESS_ACL) && errno != ENODATA && errno != EOPNOTSUPP)
        err = -errno;
    if (!err)
        err = copy_attribute(old_fd, fd, FS_XATTR_ACCESS_ACL, value);
    if (err == -EOPNOTSUPP) /* a mount without lists: nobody has access by one */
        err = 0;
    if (err && !is_not_allowed(err))
        return err;
    return fchmod(fd, old.st_mode & (err ? 0700 : 07777)) ? -errno : 0;
}

static int copy_all(int old_fd, int fd)
{
    void *value = malloc(FS_XATTR_VALUE_MAX);
    int err = value ? copy_attributes(old_fd, fd, value) : -ENOMEM;
    if (!err)
        err = copy_access(old_fd, fd, value);
    free(value);
    return err;
}

/* The file that is about to be replaced: a descriptor of O_PATH, -ENOENT if there is none. */
static int open_old(int dir, const char *name)
{
    struct stat status;
    const int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = fstat(fd, &status) ? -errno : 0;
    if (!err && !S_ISREG(status.st_mode)) /* whose mode says nothing of a value */
        err = -ENOENT;
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

/* Fill the new file from in_fd and make it durable. */
static int fill(int fd, int in_fd, uint64_t ttl_seconds, int old_fd)
{
    int err = copy(in_fd, write_to, &fd);
    if (!err && ttl_seconds)
        err = set_ttl(fd, ttl_seconds);
    if (!err && old_fd >= 0)
        err = copy_all(old_fd, fd);
    if (!err && fsync(fd))
        err = -errno;
    return err;
}

/* Replace `name` in `dir`, or make it. */
static int replace(int dir, const char *name, int in_fd, uint64_t ttl_seconds)
{
    char temporary[TEMPORARY_BYTES];
    const int old_fd = open_old(dir, name);
    if (old_fd < 0 && old_fd != -ENOENT)
        return old_fd;
    temporary_name(name, temporary);
    /* Until it has the old one's access rights it is nobody else's. */
    const int fd =
        openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, old_fd >= 0 ? 0600 : 0666);
    int err = fd < 0 ? -errno : fill(fd, in_fd, ttl_seconds, old_fd);
    if (fd >= 0 && close(fd) && !err)
        err = -errno;
    if (old_fd >= 0)
        close(old_fd);
    if (fd < 0)
        return err;
    if (!err && renameat(dir, temporary, dir, name))
        err = -errno;
    if (err) {
        (void)unlinkat(dir, temporary, 0); /* the first error is the one to tell */
        return err;
    }
    return fsync(dir) ? -errno : 0;
}

static int mount_put(struct keys_backend *backend, const char *path, int in_fd,
                     uint64_t ttl_seconds)
{
    const char *name;
    const int dir = walk(backend, path, true, &name);
    if (dir < 0)
        return dir;
    const int err = replace(dir, name, in_fd, ttl_seconds);
    close(dir);
    return err;
}

/* ---- removing ------------------------------------------------------------------------ */

static int mount_remove(struct keys_backend *backend, const char *path, bool recursive)
{
    const char *name;
    const int dir = walk(backend, path, false, &name);
    if (dir < 0)
        return dir;
    int err = keys_remove_at(dir, name, recursive);
    if (!err && fsync(dir))
        err = -errno;
    close(dir);
    return err;
}

/* ---- several changes as one -------------------------------------------------------------- */

static uint64_t count_lines(const char *bytes, size_t length)
{
    uint64_t count = 0;
    for (const char *at = bytes, *const end = bytes + length;
         at < end && (at = memchr(at, '\n', (size_t)(end - at))); at++)
        count++;
    return count;
}

/* The value of a change in so many lines at most. Returns how many end in it. */
static uint64_t write_value(const struct fs_apply_change *change, uint64_t lines_max, FILE *out)
{
    const uint64_t lines = count_lines(change->bytes, change->length);
    if (lines + 2 > lines_max) {
        fputc(' ', out);
        tool_print_quoted(out, change->bytes, change->length);
        return 0;
    }
    fprintf(out, " @%zu\n", change->length);
    fwrite(change->bytes, 1, change->length, out);
    return lines + 1;
}

/*
 * The daemon makes them: it is told the inode of a file without a name that has them as text. Keys
 * are given from the root of the mount; each change is in the line in which the user has it.
 */
static int write_changes(const struct keys_backend *backend, const struct fs_apply_batch *batch,
                         FILE *out)
{
    static const char *const names[] = {
        [FS_APPLY_PUT] = "put",       [FS_APPLY_DELETE] = "delete", [FS_APPLY_DISCARD] = "discard",
        [FS_APPLY_RENAME] = "rename", [FS_APPLY_LINK] = "link",     [FS_APPLY_MKDIR] = "mkdir"};
    const struct fs_apply_change *changes;
    const size_t count = fs_apply_batch_changes(batch, &changes);
    uint64_t line = 1;
    for (size_t i = 0; i < count; i++, line++) {
        const char *const keys[] = {changes[i].path, changes[i].to};
        const uint64_t next = i + 1 < count ? fs_apply_batch_line(batch, i + 1) : UINT64_MAX;
        for (; line < fs_apply_batch_line(batch, i); line++)
            fputc('\n', out);
        fputs(names[changes[i].kind], out);
        for (size_t k = 0; k < 2 && keys[k]; k++) {
            char *whole = keys_join(backend->below, keys[k] + (*keys[k] == '/'));
            if (!whole)
                return -ENOMEM;
            fputc(' ', out);
            tool_print_quoted(out, whole, strlen(whole));
            free(whole);
        }
        if (changes[i].kind == FS_APPLY_PUT)
            line += write_value(&changes[i], next - line, out);
        fputc('\n', out);
    }
    return fflush(out) ? -errno : 0;
}

/* A file without a name in the mount that holds the changes; a descriptor, or an error. */
static int make_text(const struct keys_backend *backend, const struct fs_apply_batch *batch)
{
    const int fd = open(backend->mount_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    const int copy_fd = dup(fd);
    FILE *out = copy_fd < 0 ? NULL : fdopen(copy_fd, "w");
    int err = out ? write_changes(backend, batch, out) : -errno;
    if (!out && copy_fd >= 0)
        close(copy_fd);
    if (out && fclose(out) && !err)
        err = -errno;
    if (!err && fsync(fd)) /* what the kernel holds back the daemon can not read */
        err = -errno;
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

/* Why the daemon refused, as it says itself if it can. */
static void explain_refusal(int control, const char *path, int err, struct kv_error *error)
{
    static const char word[] = "error "; /* of the line that says why */
    char words[sizeof error->text];
    /* What is read directly ends where the kernel knows the file to end, from the write. */
    const int flags = control < 0 ? -1 : fcntl(control, F_GETFL);
    const bool is_readable = flags >= 0 && fcntl(control, F_SETFL, flags & ~O_DIRECT) == 0;
    const ssize_t got = is_readable ? pread(control, words, sizeof words - 1, 0) : 0;
    words[got > 0 ? got : 0] = '\0';
    words[strcspn(words, "\n")] = '\0';
    if (strncmp(words, word, sizeof word - 1) == 0)
        snprintf(error->text, sizeof error->text, "%s", words + sizeof word - 1);
    else
        snprintf(error->text, sizeof error->text, "%.300s: %s%s", path, tool_error_text(err),
                 err == -EACCES || err == -EPERM ? "; only root and who mounted it may" : "");
}

/* Open the control file `apply`. A descriptor, or an error with words. */
static int open_control(const struct keys_backend *backend, char path[PATH_MAX],
                        struct kv_error *error)
{
    const int err = tool_mount_control(backend->mount_dir, "apply", path, error);
    if (err)
        return err;
    /* What is written goes to the daemon at once, and its answer comes back, whatever the mount
     * lets the kernel gather. */
    int control = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (control >= 0)
        return control;
    control = -errno;
    explain_refusal(-1, path, control, error);
    return control;
}

static int mount_apply(struct keys_backend *backend, const char *text, size_t length,
                       const struct fs_apply_batch *batch, struct kv_error *error)
{
    (void)text;
    (void)length;
    char path[PATH_MAX], command[40];
    struct stat status;
    const int control = open_control(backend, path, error);
    if (control < 0)
        return control;
    const int fd = make_text(backend, batch);
    int err = fd < 0 ? fd : fstat(fd, &status) ? -errno : 0;
    if (!err) {
        const int count =
            snprintf(command, sizeof command, "inode %llu\n", (unsigned long long)status.st_ino);
        err = keys_write_all(control, command, (size_t)count);
        if (err)
            explain_refusal(control, path, err, error);
    }
    if (fd >= 0)
        close(fd);
    close(control);
    return err;
}

/*
 * Write a batch in pieces that are one request each, one after the other: of a longer direct write
 * the kernel sends several requests at the same time, which may arrive in any order.
 */
static int write_in_order(int control, const char *bytes, size_t length)
{
    enum { REQUEST_BYTES = 65536 };
    int err = 0;
    for (size_t at = 0; !err && at < length; at += REQUEST_BYTES)
        err = keys_write_all(control, bytes + at, kv_min_u64(length - at, REQUEST_BYTES));
    return err;
}

/* ---- trees ----------------------------------------------------------------------------- */

int keys_mount_send(const struct tool_keys *keys, const void *bytes, size_t length,
                    struct kv_error *error)
{
    char path[PATH_MAX];
    const int control = open_control(keys->backend, path, error);
    if (control < 0)
        return control;
    const int err = write_in_order(control, bytes, length);
    if (err)
        explain_refusal(control, path, err, error);
    close(control);
    return err;
}

bool keys_mount_control_name(const struct keys_backend *backend, char *name)
{
    return tool_mount_control_name(backend->mount_dir, name) == 0;
}

const char *keys_mount_below(const struct tool_keys *keys)
{
    return keys->backend->below;
}

const struct keys_backend_ops keys_mount_ops = {
    .look = mount_look,
    .list = mount_list,
    .walk = mount_walk,
    .get = mount_get,
    .put = mount_put,
    .remove = mount_remove,
    .apply = mount_apply,
    .close = mount_close,
};
