/*
 * tools/memory.h: how much memory there is to take a share of.
 */
#ifndef TOOLS_MEMORY_H
#define TOOLS_MEMORY_H

#include <stdint.h>

/* That of the machine, or less: what the control groups that this process is in may use. Never 0.
 */
uint64_t tool_memory_bytes(void);

/*
 * The least limit that holds for a process, and at most `most`. groups: a file like
 * /proc/self/cgroup; root: where control groups are mounted, /sys/fs/cgroup.
 */
uint64_t tool_memory_limit(const char *groups, const char *root, uint64_t most);

/*
 * What a store may be given that was not told: so many bytes, and at most a third of the memory
 * there is, so that a daemon in a small control group is not ended for what it caches. Whole MiB,
 * at least 8 MiB.
 */
uint64_t tool_memory_modest(uint64_t wanted, uint64_t memory);

#endif
