/*
 * tools/memory.c: how much memory there is to take a share of.
 *
 * Owns       nothing; no state. What can not be read limits nothing.
 */
#include "tools/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kv/base.h"

#define FALLBACK_BYTES (1ull << 30)

/* The number in a file, if there is one and it is less. "max" is none. */
static uint64_t lower_by_file(const char *path, uint64_t most)
{
    FILE *file = fopen(path, "re");
    uint64_t limit;
    if (!file)
        return most;
    if (fscanf(file, "%" SCNu64, &limit) == 1 && limit > 0 && limit < most)
        most = limit;
    (void)fclose(file); /* only read */
    return most;
}

/* Of a group and all above it. `group` is cut. */
static uint64_t lower_by_group(const char *root, const char *hierarchy, char *group,
                               const char *name, uint64_t most)
{
    char path[2 * PATH_MAX];
    for (;;) {
        (void)snprintf(path, sizeof path, "%s%s%s/%s", root, hierarchy, group, name);
        most = lower_by_file(path, most);
        char *slash = strrchr(group, '/');
        if (!slash)
            return most;
        *slash = '\0';
    }
}

uint64_t tool_memory_limit(const char *groups, const char *root, uint64_t most)
{
    FILE *file = fopen(groups, "re");
    char line[PATH_MAX + 64];
    if (!file)
        return most;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        /* "0::/group" of version 2, "7:memory:/group" of version 1 */
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        if (strcmp(group, "/") == 0)
            *group = '\0';
        if (strcmp(controllers, ":") == 0)
            most = lower_by_group(root, "", group, "memory.max", most);
        else if (strcmp(controllers, ":memory") == 0)
            most = lower_by_group(root, "/memory", group, "memory.limit_in_bytes", most);
    }
    (void)fclose(file); /* only read */
    return most;
}

uint64_t tool_memory_bytes(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    const uint64_t machine =
        pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : FALLBACK_BYTES;
    return tool_memory_limit("/proc/self/cgroup", "/sys/fs/cgroup", machine);
}

uint64_t tool_memory_modest(uint64_t wanted, uint64_t memory)
{
    const uint64_t least = 8u << 20, third = memory / 3 >> 20 << 20;
    return kv_min_u64(wanted, kv_max_u64(third, least));
}
