/*
 * fs/process.h: what the kernel's requests do not say of the process that asks.
 *
 * A request names a thread, its user and its group; capabilities and further groups are read
 * from /proc. That thread waits for the answer meanwhile, so its number is its own.
 *
 * Threads: any.
 */
#ifndef FS_PROCESS_H
#define FS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Numbers of capabilities(7). */
#define FS_CAPABILITY_FOWNER    3u
#define FS_CAPABILITY_FSETID    4u
#define FS_CAPABILITY_SYS_ADMIN 21u

/* Has the process this capability? If it can not be looked at: as its user says (root has all). */
bool fs_process_is_capable(pid_t pid, uint32_t uid, unsigned capability);

/* Is it in this group, besides the one that the request names? If it can not be looked at: no. */
bool fs_process_in_group(pid_t pid, uint32_t gid);

#endif
