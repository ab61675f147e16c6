/*
 * fs/process.c: what the kernel's requests do not say of the process that asks.
 *
 * Owns       nothing.
 * Invariant  what can not be read is decided as the kernel of a plain FUSE mount would: by the
 *            user and the group that the request names.
 */
#include "fs/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The rest of the line "NAME: ..." of /proc/PID/status; the caller frees it. NULL: none. */
static char *status_line(pid_t pid, const char *name)
{
    char path[64];
    if (pid <= 0) /* in a PID namespace that we do not see */
        return NULL;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *status = fopen(path, "re");
    if (!status)
        return NULL;
    const size_t name_len = strlen(name);
    char *line = NULL, *found = NULL;
    size_t capacity = 0;
    while (!found && getline(&line, &capacity, status) >= 0)
        if (strncmp(line, name, name_len) == 0 && line[name_len] == ':')
            found = strdup(line + name_len + 1);
    free(line);
    (void)fclose(status); /* was only read */
    return found;
}

#define USERS_MAX 4096u

/* The users of a process's namespace, as text. */
static size_t users_of(const char *process, char text[USERS_MAX])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/uid_map", process);
    FILE *map = fopen(path, "re");
    if (!map)
        return 0;
    const size_t length = fread(text, 1, USERS_MAX, map);
    (void)fclose(map); /* was only read */
    return length;
}

/* Anybody has all capabilities in a user namespace that he makes for himself: they count there. */
static bool is_of_our_users(pid_t pid)
{
    char process[16], its[USERS_MAX], ours[USERS_MAX];
    snprintf(process, sizeof process, "%d", (int)pid);
    const size_t length = users_of(process, its);
    return length > 0 && length == users_of("self", ours) && !memcmp(its, ours, length);
}

bool fs_process_is_capable(pid_t pid, uint32_t uid, unsigned capability)
{
    char *line = is_of_our_users(pid) ? status_line(pid, "CapEff") : NULL;
    if (!line)
        return uid == 0;
    const bool capable = strtoull(line, NULL, 16) >> capability & 1;
    free(line);
    return capable;
}

bool fs_process_in_group(pid_t pid, uint32_t gid)
{
    char *line = status_line(pid, "Groups");
    bool is_member = false;
    char *end = line;
    for (char *at = line; at && !is_member; at = end) {
        const unsigned long group = strtoul(at, &end, 10);
        if (end == at)
            break;
        is_member = group == gid;
    }
    free(line);
    return is_member;
}
