/*
 * tools/mounts.c: which image is mounted where, as the kernel's mount table tells it.
 *
 * Owns       nothing: each call reads /proc anew, for the table changes behind our back.
 * Invariant  a file is recognised by what it is (device and inode), not by how it is spelled.
 */
#include "tools/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/control.h"
#include "fs/mount.h"
#include "kv/base.h"
#include "tools/options.h"

#define OWN_TABLE "/proc/self/mountinfo"

/* A line of mountinfo(5), split in place. */
struct mount_line {
    dev_t device;
    char *dir, *options, *type, *source;
};

/* Undo the octal escapes of blanks and backslashes, in place. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        unsigned code;
        if (from[0] == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
            *to = (char)code;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* ID PARENT MAJOR:MINOR ROOT DIR OPTIONS [TAG...] - TYPE SOURCE SUPER; false: not of that form. */
static bool split_line(char *line, struct mount_line *out)
{
    enum { FIELD_DEVICE = 2, FIELD_DIR = 4, FIELD_OPTIONS = 5, FIELD_FIRST_TAG = 6 };
    char *rest = line;
    unsigned major = 0, minor = 0;
    for (unsigned field = 0; field < FIELD_FIRST_TAG; field++) {
        char *word = strsep(&rest, " \n");
        if (!rest)
            return false;
        if (field == FIELD_DEVICE && sscanf(word, "%u:%u", &major, &minor) != 2)
            return false;
        if (field == FIELD_DIR)
            out->dir = word;
        if (field == FIELD_OPTIONS)
            out->options = word;
    }
    for (const char *word = ""; strcmp(word, "-") != 0;)
        if (word = strsep(&rest, " \n"), !rest)
            return false;
    out->type = strsep(&rest, " \n");
    out->source = rest ? strsep(&rest, " \n") : NULL;
    if (!out->source)
        return false;
    out->device = makedev(major, minor);
    unescape(out->dir);
    unescape(out->source);
    return true;
}

typedef bool match_fn(const struct mount_line *line, const void *wanted);

/* Does the table have a line that matches? The last one counts: it is mounted on top. */
static int find_line(const char *table, match_fn *match, const void *wanted,
                     struct tool_mount *mount)
{
    FILE *file = fopen(table, "re");
    if (!file)
        return -errno;
    int err = -ENOENT;
    char *text = NULL;
    size_t capacity = 0;
    struct mount_line line = {0};
    while (getline(&text, &capacity, file) >= 0) {
        if (!split_line(text, &line) || !match(&line, wanted))
            continue;
        snprintf(mount->dir, sizeof mount->dir, "%s", line.dir);
        snprintf(mount->source, sizeof mount->source, "%s", line.source);
        mount->read_only = strncmp(line.options, "ro", 2) == 0 &&
                           (line.options[2] == '\0' || line.options[2] == ',');
        err = 0;
    }
    free(text);
    (void)fclose(file); /* only read */
    return err;
}

static bool is_kvfs(const struct mount_line *line)
{
    return strcmp(line->type, "fuse.kvfs") == 0;
}

static bool is_on_dir(const struct mount_line *line, const void *dir)
{
    return strcmp(line->dir, dir) == 0;
}

static bool is_kvfs_on_dir(const struct mount_line *line, const void *dir)
{
    return is_kvfs(line) && is_on_dir(line, dir);
}

static bool is_kvfs_device(const struct mount_line *line, const void *device)
{
    return is_kvfs(line) && line->device == *(const dev_t *)device;
}

/* What a mount is looked for by, and the root of the process whose mount table is searched. */
struct sought {
    const char *image; /* it shows this one; or NULL */
    int holder;        /* it shows what this process holds */
    const char *root;
};

static bool is_sought(const struct mount_line *line, const void *wanted)
{
    const struct sought *sought = wanted;
    char path[PATH_MAX];
    if (!is_kvfs(line) ||
        (size_t)snprintf(path, sizeof path, "%s%s", sought->root, line->source) >= sizeof path)
        return false;
    return sought->image ? kv_image_same(path, sought->image)
                         : kv_image_holder(path) == sought->holder;
}

static int find_here(struct sought sought, struct tool_mount *mount)
{
    sought.root = "";
    return find_line(OWN_TABLE, is_sought, &sought, mount);
}

/* The same for a process that may live in another mount namespace, or under another root. */
static int find_around(int process, struct sought sought, struct tool_mount *mount)
{
    char table[64], root[64];
    snprintf(table, sizeof table, "/proc/%d/mountinfo", process);
    snprintf(root, sizeof root, "/proc/%d/root", process);
    sought.root = root;
    return find_line(table, is_sought, &sought, mount);
}

bool tool_mount_is_dead(int error)
{
    return error == ENOTCONN || error == ECONNABORTED; /* the latter: it died just now */
}

/*
 * The path without links and dots. The last component is not looked at when it can not be:
 * the root of a dead mount gives an error to everyone.
 */
static int resolve(const char *path, char out[PATH_MAX])
{
    if (realpath(path, out))
        return 0;
    if (!tool_mount_is_dead(errno) && errno != EIO)
        return -errno;

    char copy[PATH_MAX], parent[PATH_MAX];
    if ((size_t)snprintf(copy, sizeof copy, "%s", path) >= sizeof copy)
        return -ENAMETOOLONG;
    size_t length = strlen(copy);
    while (length > 1 && copy[length - 1] == '/')
        copy[--length] = '\0';
    char *slash = strrchr(copy, '/');
    const char *name = slash ? slash + 1 : copy;
    if (slash)
        *slash = '\0';
    const char *directory = slash ? (slash == copy ? "/" : copy) : ".";
    if (!realpath(directory, parent))
        return -errno;
    const char *separator = strcmp(parent, "/") == 0 ? "" : "/";
    if ((size_t)snprintf(out, PATH_MAX, "%s%s%s", parent, separator, name) >= PATH_MAX)
        return -ENAMETOOLONG;
    return 0;
}

int tool_mount_of_path(const char *path, struct tool_mount *mount)
{
    char resolved[PATH_MAX];
    int err = resolve(path, resolved);
    if (err)
        return err;
    err = find_line(OWN_TABLE, is_kvfs_on_dir, resolved, mount);
    if (err != -ENOENT)
        return err;

    struct stat status;
    if (stat(resolved, &status))
        return -errno;
    return find_line(OWN_TABLE, is_kvfs_device, &status.st_dev, mount);
}

int tool_mount_of_image(const char *path, struct tool_mount *mount)
{
    struct stat image;
    if (stat(path, &image))
        return -errno;
    const struct sought sought = {.image = path};
    const int err = find_here(sought, mount);
    if (err != -ENOENT)
        return err;
    const int holder = kv_image_holder(path);
    return holder > 0 ? find_around(holder, sought, mount) : -ENOENT;
}

int tool_mount_control_name(const char *mount_dir, char name[NAME_MAX + 1])
{
    const ssize_t length = getxattr(mount_dir, FS_XATTR_CONTROL, name, NAME_MAX);
    if (length < 0) /* a directory of a mount that is mounted once more elsewhere has none */
        return errno == ENODATA || errno == EOPNOTSUPP ? -ENOENT : -errno;
    name[length] = '\0';
    return strcmp(name, FS_CONTROL_NONE) == 0 ? -ENOENT : 0;
}

int tool_mount_control(const char *mount_dir, const char *file, char path[PATH_MAX],
                       struct kv_error *error)
{
    char name[NAME_MAX + 1];
    int err = tool_mount_control_name(mount_dir, name);
    if (!err) {
        const int used = snprintf(path, PATH_MAX, "%s/%s/%s", mount_dir, name, file);
        err = used < 0 || used >= PATH_MAX ? -ENAMETOOLONG : 0;
    }
    if (err == -ENOENT && error)
        snprintf(error->text, sizeof error->text,
                 "%.200s: mounted with control=none, or not the root of a mount: there is no "
                 "control directory to talk to; mount it with one",
                 mount_dir);
    else if (err && error)
        snprintf(error->text, sizeof error->text, "%.200s: %s", mount_dir, tool_error_text(err));
    return err;
}

bool tool_is_mount_point(const char *dir)
{
    char resolved[PATH_MAX];
    struct tool_mount mount;
    return resolve(dir, resolved) == 0 && find_line(OWN_TABLE, is_on_dir, resolved, &mount) == 0;
}

/* The name of a process, "?" when it can not be read. */
static void process_name(int pid, char name[32])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    FILE *file = fopen(path, "re");
    if (!file || !fgets(name, 32, file))
        strcpy(name, "?");
    if (file)
        (void)fclose(file); /* only read */
    name[strcspn(name, "\n")] = '\0';
}

/* Has the daemon a mount, as far as that can be seen? */
static bool serves_a_mount(int process)
{
    struct tool_mount mount;
    const struct sought sought = {.holder = process};
    return find_here(sought, &mount) == 0 || find_around(process, sought, &mount) == 0;
}

void tool_await_release(const char *image, int holder, unsigned seconds_max)
{
    enum { PAUSES_A_SECOND = 100, SECONDS_UNTIL_TOLD = 10 };
    const struct timespec pause = {.tv_nsec = 1000000000 / PAUSES_A_SECOND};
    const unsigned long pauses_max = seconds_max ? PAUSES_A_SECOND * seconds_max : ULONG_MAX;
    for (unsigned long pauses = 0; holder > 0 && pauses < pauses_max; pauses++) {
        if (kv_image_holder(image) != holder || serves_a_mount(holder))
            return;
        if (pauses == PAUSES_A_SECOND * SECONDS_UNTIL_TOLD)
            tool_complain("waiting for process %d to write the rest to %s", holder, image);
        (void)nanosleep(&pause, NULL); /* a shorter pause does no harm */
    }
}

int tool_await_daemon(const char *image)
{
    enum { SECONDS_MAX = 60 };
    char name[32];
    const int holder = kv_image_holder(image);
    if (holder <= 0)
        return holder;
    process_name(holder, name);
    if (strcmp(name, "mount.kvfs") != 0)
        return holder;
    tool_await_release(image, holder, SECONDS_MAX);
    return kv_image_holder(image);
}

void tool_describe_holder(const char *path, struct kv_error *error)
{
    struct tool_mount mount;
    char name[32] = "";
    const int holder = kv_image_holder(path);
    const bool mounted = tool_mount_of_image(path, &mount) == 0;
    if (holder > 0)
        process_name(holder, name);

    if (holder > 0 && mounted)
        snprintf(error->text, sizeof error->text,
                 "%.80s: in use by process %d (%s), mounted on %.80s; unmount it with: "
                 "kvfs umount %.80s",
                 path, holder, name, mount.dir, mount.dir);
    else if (mounted && holder < 0)
        snprintf(error->text, sizeof error->text,
                 "%.80s: in use by a process in another PID namespace, mounted on %.80s; unmount "
                 "it with: kvfs umount %.80s",
                 path, mount.dir, mount.dir);
    else if (mounted)
        snprintf(error->text, sizeof error->text,
                 "%.80s: in use, mounted on %.80s; unmount it with: kvfs umount %.80s", path,
                 mount.dir, mount.dir);
    else if (holder > 0)
        snprintf(error->text, sizeof error->text,
                 "%.200s: in use by process %d (%s); wait for it or end it", path, holder, name);
    else
        snprintf(error->text, sizeof error->text, "%.200s: in use by a process %s; end it first",
                 path, holder < 0 ? "in another PID namespace" : "that can not be seen from here");
}

bool tool_device_in_use(const char *path)
{
    struct stat status;
    if (stat(path, &status) || !S_ISBLK(status.st_mode))
        return false;
    /* The kernel grants O_EXCL on a block device to one user at a time, a mount being one. */
    const int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd < 0 && errno == EBUSY;
}
