/*
 * bench/floor/floor_ops.h: requests of FUSE, answered from memory.
 */
#ifndef BENCH_FLOOR_OPS_H
#define BENCH_FLOOR_OPS_H

#include "bench/floor/floor_node.h"
#include "fs/protocol.h"

struct fuse_lowlevel_ops;

/* The session's user data. */
struct floor {
    struct floor_node *root;
    struct fs_counters counters;
    struct fs_protocol protocol;      /* that of kvfs, without a volume behind it */
    struct fs_transport_hooks kernel; /* the protocol's own hooks */
};

extern const struct fuse_lowlevel_ops floor_ops;

/* An empty file system. 0; -ENOMEM. */
KV_MUST_CHECK int floor_init(struct floor *floor);
/* For the transport. `floor` must outlive it. */
struct fs_transport_hooks floor_hooks(struct floor *floor);

#endif
