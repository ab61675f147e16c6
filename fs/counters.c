/*
 * fs/counters.c: requests per operation, and how long they took.
 *
 * Owns the histograms; the counters lie in the mount.
 */
#include "fs/counters.h"

#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>

#include "kv/base.h"

static const char *const opcode_names[FS_OPCODE_LIMIT] = {
    [0] = "other",
    [FUSE_LOOKUP] = "lookup",
    [FUSE_FORGET] = "forget",
    [FUSE_GETATTR] = "getattr",
    [FUSE_SETATTR] = "setattr",
    [FUSE_READLINK] = "readlink",
    [FUSE_SYMLINK] = "symlink",
    [FUSE_MKNOD] = "mknod",
    [FUSE_MKDIR] = "mkdir",
    [FUSE_UNLINK] = "unlink",
    [FUSE_RMDIR] = "rmdir",
    [FUSE_RENAME] = "rename",
    [FUSE_LINK] = "link",
    [FUSE_OPEN] = "open",
    [FUSE_READ] = "read",
    [FUSE_WRITE] = "write",
    [FUSE_STATFS] = "statfs",
    [FUSE_RELEASE] = "release",
    [FUSE_FSYNC] = "fsync",
    [FUSE_SETXATTR] = "setxattr",
    [FUSE_GETXATTR] = "getxattr",
    [FUSE_LISTXATTR] = "listxattr",
    [FUSE_REMOVEXATTR] = "removexattr",
    [FUSE_FLUSH] = "flush",
    [FUSE_INIT] = "init",
    [FUSE_OPENDIR] = "opendir",
    [FUSE_READDIR] = "readdir",
    [FUSE_RELEASEDIR] = "releasedir",
    [FUSE_FSYNCDIR] = "fsyncdir",
    [FUSE_GETLK] = "getlk",
    [FUSE_SETLK] = "setlk",
    [FUSE_SETLKW] = "setlkw",
    [FUSE_ACCESS] = "access",
    [FUSE_CREATE] = "create",
    [FUSE_INTERRUPT] = "interrupt",
    [FUSE_BMAP] = "bmap",
    [FUSE_DESTROY] = "destroy",
    [FUSE_IOCTL] = "ioctl",
    [FUSE_POLL] = "poll",
    [FUSE_NOTIFY_REPLY] = "notify_reply",
    [FUSE_BATCH_FORGET] = "batch_forget",
    [FUSE_FALLOCATE] = "fallocate",
    [FUSE_READDIRPLUS] = "readdirplus",
    [FUSE_RENAME2] = "rename2",
    [FUSE_LSEEK] = "lseek",
    [FUSE_COPY_FILE_RANGE] = "copy_file_range",
    [FUSE_SYNCFS] = "syncfs",
    [FUSE_TMPFILE] = "tmpfile",
    [52] = "statx", /* FUSE_STATX, newer than the header of Debian 12 */
    [53] = "copy_file_range_64",
};

int fs_counters_init(struct fs_counters *counters, unsigned categories)
{
    counters->latencies = kv_histogram_set_new(FS_OPCODE_LIMIT);
    counters->begun_ns = kv_clock_ns();
    atomic_store_explicit(&counters->categories, categories, memory_order_relaxed);
    return counters->latencies ? 0 : -ENOMEM;
}

void fs_counters_release(struct fs_counters *counters)
{
    kv_histogram_set_free(counters->latencies);
    counters->latencies = NULL;
}

static uint32_t slot_of(uint32_t opcode)
{
    return opcode < FS_OPCODE_LIMIT && opcode_names[opcode] ? opcode : 0;
}

void fs_counters_add(struct fs_counters *counters, uint32_t opcode)
{
    atomic_fetch_add_explicit(&counters->requests[slot_of(opcode)], 1, memory_order_relaxed);
}

uint64_t fs_counters_begin(const struct fs_counters *counters)
{
    const unsigned on = atomic_load_explicit(&counters->categories, memory_order_relaxed);
    return counters->latencies && (on & KV_METRIC_FUSE) ? kv_clock_ns() : 0;
}

void fs_counters_end(struct fs_counters *counters, uint32_t opcode, uint64_t begun_ns)
{
    kv_histogram_set_add(counters->latencies, slot_of(opcode), kv_clock_ns() - begun_ns);
}

void fs_counters_latency(const struct fs_counters *counters, uint32_t opcode,
                         struct kv_histogram *out)
{
    if (counters->latencies && opcode < FS_OPCODE_LIMIT)
        kv_histogram_set_read(counters->latencies, opcode, out);
    else
        memset(out, 0, sizeof *out);
}

const char *fs_counters_name(uint32_t opcode)
{
    return opcode < FS_OPCODE_LIMIT ? opcode_names[opcode] : NULL;
}

size_t fs_counters_json(const struct fs_counters *counters, char *out, size_t cap)
{
    size_t used = 0;
    const char *separator = "{";
    for (uint32_t i = 0; i < FS_OPCODE_LIMIT; i++) {
        const uint64_t count = atomic_load_explicit(&counters->requests[i], memory_order_relaxed);
        if (!count)
            continue;
        const int length =
            snprintf(used < cap ? out + used : NULL, used < cap ? cap - used : 0, "%s\"%s\": %llu",
                     separator, opcode_names[i], (unsigned long long)count);
        used += length > 0 ? (size_t)length : 0;
        separator = ", ";
    }
    const int length = snprintf(used < cap ? out + used : NULL, used < cap ? cap - used : 0, "%s",
                                used ? "}" : "{}");
    return used + (length > 0 ? (size_t)length : 0);
}
