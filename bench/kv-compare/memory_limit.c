/* bench/kv-compare/memory_limit.c: see memory_limit.h. */
#include "bench/kv-compare/memory_limit.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CGROUP_ROOT  "/sys/fs/cgroup"
#define REMOVE_TRIES 100u /* a group is busy until its last process is gone for good */

static int read_text(const char *directory, const char *name, char *text, size_t text_cap)
{
    char path[1024];
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
        return -ENAMETOOLONG;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const ssize_t length = read(fd, text, text_cap - 1);
    const int err = length < 0 ? -errno : 0;
    (void)close(fd); /* only read */
    if (!err)
        text[length] = '\0';
    return err;
}

static int write_text(const char *directory, const char *name, const char *text)
{
    char path[1024];
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
        return -ENAMETOOLONG;
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const size_t length = strlen(text);
    int err = write(fd, text, length) == (ssize_t)length ? 0 : -errno;
    if (close(fd) && !err)
        err = -errno;
    return err;
}

static bool hands_out_memory(const char *directory)
{
    char text[512];
    if (read_text(directory, "cgroup.subtree_control", text, sizeof text))
        return false;
    char *rest;
    for (char *word = strtok_r(text, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
        if (strcmp(word, "memory") == 0)
            return access(directory, W_OK) == 0;
    return false;
}

static bool is_v1(const char *directory)
{
    char text[64];
    return !read_text(directory, "memory.limit_in_bytes", text, sizeof text);
}

/* Our own group in a hierarchy, "" for version 2; empty: we are in none. */
static void own_group(const char *controllers, char *group, size_t group_cap)
{
    char text[2048];
    group[0] = '\0';
    if (read_text("/proc/self", "cgroup", text, sizeof text))
        return;
    char *rest;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *const names = strchr(line, ':');
        char *const path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path = '\0';
        if (strcmp(names + 1, controllers) == 0)
            (void)snprintf(group, group_cap, "%s", path + 1); /* fits: text is no longer */
    }
}

/* In version 2 the nearest group from our own upwards that serves, in version 1 our own. */
static int find_above(struct memory_limit *limit)
{
    char group[2048], path[2048 + sizeof CGROUP_ROOT "/memory"];
    own_group("", group, sizeof group);
    while (group[0]) {
        (void)snprintf(path, sizeof path, CGROUP_ROOT "%s", group); /* fits, by its size */
        if (hands_out_memory(path)) {
            limit->parent = strdup(path);
            return limit->parent ? 0 : -ENOMEM;
        }
        *strrchr(group, '/') = '\0';
    }
    own_group("memory", group, sizeof group);
    (void)snprintf(path, sizeof path, CGROUP_ROOT "/memory%s", group); /* fits, by its size */
    limit->v1 = group[0] && is_v1(path) && access(path, W_OK) == 0;
    if (limit->v1)
        limit->parent = strdup(path);
    return limit->v1 && !limit->parent ? -ENOMEM : 0;
}

int memory_limit_find(const char *named, struct memory_limit *limit)
{
    *limit = (struct memory_limit){.parent = NULL};
    if (!named)
        return find_above(limit);
    limit->v1 = is_v1(named);
    if (!limit->v1 && !hands_out_memory(named))
        return -EINVAL;
    limit->parent = strdup(named);
    return limit->parent ? 0 : -ENOMEM;
}

void memory_limit_release(struct memory_limit *limit)
{
    free(limit->parent);
    limit->parent = NULL;
}

int memory_limit_make(const struct memory_limit *limit, uint64_t bytes, char **group)
{
    char *path;
    if (asprintf(&path, "%s/kv-compare.%ld", limit->parent, (long)getpid()) < 0)
        return -ENOMEM;
    int err = mkdir(path, 0755) ? -errno : 0;
    if (err) {
        free(path);
        return err;
    }
    char text[32];
    (void)snprintf(text, sizeof text, "%" PRIu64, bytes); /* fits: one number */
    err = write_text(path, limit->v1 ? "memory.limit_in_bytes" : "memory.max", text);
    if (!err) {
        /* Where swap is not accounted for there is no such file, nor a way to hold it off. */
        const int swap_err = limit->v1 ? write_text(path, "memory.swappiness", "0")
                                       : write_text(path, "memory.swap.max", "0");
        if (swap_err && swap_err != -ENOENT)
            err = swap_err;
    }
    if (err) {
        (void)rmdir(path); /* it holds nothing */
        free(path);
        return err;
    }
    *group = path;
    return 0;
}

int memory_limit_enter(const char *group)
{
    return write_text(group, "cgroup.procs", "0");
}

int memory_limit_remove(const char *group)
{
    for (unsigned tries = 0; rmdir(group); tries++) {
        if (errno != EBUSY || tries >= REMOVE_TRIES)
            return -errno;
        const struct timespec pause = {.tv_nsec = 10000000};
        (void)nanosleep(&pause, NULL); /* a shorter pause does no harm */
    }
    return 0;
}
