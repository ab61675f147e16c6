/*
 * tools/settings_live.c: the settings of a mount that is there, read and changed.
 *
 * Owns       nothing. The daemon keeps them; its control directory shows and takes them.
 */
#include "tools/settings_live.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/settings.h"
#include "tools/config.h"
#include "tools/options.h"

#define LINE_BYTES 256u

/* The path of the file that shows and takes them. */
static int find_config(const char *dir, char path[PATH_MAX], struct kv_error *error)
{
    char name[FS_CONTROL_NAME_MAX + 1];
    const ssize_t length = getxattr(dir, FS_XATTR_CONTROL, name, sizeof name - 1);
    if (length < 0) {
        const int err = -errno;
        snprintf(error->text, sizeof error->text, "%.200s: its settings can not be read: %s", dir,
                 tool_error_text(err));
        return err;
    }
    name[length] = '\0';
    if (strcmp(name, "none") == 0) {
        snprintf(error->text, sizeof error->text,
                 "%.200s: mounted with control=none, so its settings can not be seen or changed",
                 dir);
        return -ENODATA;
    }
    const int used = snprintf(path, PATH_MAX, "%s/%s/config", dir, name);
    return used < 0 || used >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static int take_line(char *line, struct fs_mount_options *now)
{
    struct kv_error ignored = {""};
    char *value = strchr(line, '=');
    line[strcspn(line, "\n")] = '\0';
    if (!value)
        return -EUCLEAN;
    *value++ = '\0';
    const int err = tool_config_set(line, value, now, &ignored);
    return err == -ENOENT || err == -EINVAL ? -EUCLEAN : err;
}

int tool_settings_read(const char *dir, struct fs_mount_options *now, struct kv_error *error)
{
    char path[PATH_MAX], line[LINE_BYTES];
    int err = find_config(dir, path, error);
    if (err)
        return err;
    FILE *file = fopen(path, "re");
    if (!file) {
        err = -errno;
        goto out;
    }
    memset(now, 0, sizeof *now); /* settings are compared byte by byte */
    tool_config_defaults(now);
    while (!err && fgets(line, sizeof line, file))
        err = take_line(line, now);
    if (!err && ferror(file))
        err = -EIO;
    (void)fclose(file); /* only read */
out:
    if (err)
        snprintf(error->text, sizeof error->text, "%.200s: %s", path,
                 err == -EUCLEAN ? "a setting of the daemon is not known here; use the mount.kvfs "
                                   "that it was mounted with"
                                 : tool_error_text(err));
    return err;
}

/* The lines in which they differ, in `text`; -EINVAL one of them can not change. */
static int list_changes(const struct fs_mount_options *now, const struct fs_mount_options *to,
                        char *text, size_t cap, const char *dir, struct kv_error *error)
{
    char before[LINE_BYTES], after[LINE_BYTES];
    size_t length = 0;
    text[0] = '\0';
    for (size_t i = 0; tool_config_show(i, now, before, sizeof before) &&
                       tool_config_show(i, to, after, sizeof after);
         i++) {
        if (strcmp(before, after) == 0)
            continue;
        struct fs_mount_options one;
        struct kv_error ignored = {""};
        const char *key = tool_config_setting(i)->key;
        memcpy(&one, now, sizeof one);
        const int err = tool_config_set(key, after + strlen(key) + 1, &one, &ignored);
        if (err || !fs_settings_can_change(now, &one)) {
            snprintf(error->text, sizeof error->text,
                     "%.150s: %.100s can not change while it is mounted (%.100s now); unmount it "
                     "and mount it again",
                     dir, after, before);
            return -EINVAL;
        }
        const int used = snprintf(text + length, cap - length, "%s\n", after);
        if (used < 0 || (size_t)used >= cap - length)
            return -ENAMETOOLONG;
        length += (size_t)used;
    }
    return 0;
}

int tool_settings_change(const char *dir, const struct fs_mount_options *now,
                         const struct fs_mount_options *to, struct kv_error *error)
{
    char path[PATH_MAX], text[4096];
    int err = list_changes(now, to, text, sizeof text, dir, error);
    if (err || !*text)
        return err;
    err = find_config(dir, path, error);
    if (err)
        return err;
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) { /* one write is one change */
        err = -errno;
        snprintf(error->text, sizeof error->text, "%.200s: %s", path, tool_error_text(err));
    }
    if (fd >= 0)
        close(fd);
    return err;
}
