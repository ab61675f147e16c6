/*
 * fs/counters.h: how often the kernel asked for what.
 *
 * Threads: any; counters are relaxed atomics, a reader sees each of them at its own moment.
 */
#ifndef FS_COUNTERS_H
#define FS_COUNTERS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define FS_OPCODE_LIMIT 64u /* what is beyond counts under 0 */

struct fs_counters {
    _Atomic uint64_t requests[FS_OPCODE_LIMIT]; /* by opcode of the FUSE protocol */
};

void fs_counters_add(struct fs_counters *counters, uint32_t opcode);

/*
 * Write a JSON object {"lookup": 3, ...} of what is not zero, like snprintf: returns the
 * length it has, whether or not it fits.
 */
size_t fs_counters_json(const struct fs_counters *counters, char *out, size_t cap);

#endif
