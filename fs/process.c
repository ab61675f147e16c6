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

bool fs_process_is_capable(pid_t pid, uint32_t uid, unsigned capability)
{
    char *line = status_line(pid, "CapEff");
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
