/*
 * fs/fuse_ops.h: libfuse's requests, handed to the operations of fs/volume.h.
 */
#ifndef FS_FUSE_OPS_H
#define FS_FUSE_OPS_H

#include "fs/protocol.h"
#include "fs/repeats.h"
#include "fs/scrub.h"

struct fs_control;
struct fs_prefetch;
struct fs_streams;

struct fuse_lowlevel_ops;

/* The session's user data. Immutable once requests come, but for what says otherwise. */
struct fs_fuse {
    struct fs_volume *volume;
    struct fs_protocol protocol;  /* its own atomics */
    struct fs_counters counters;  /* atomic */
    struct fs_scrub *scrub;       /* its own lock */
    struct fs_control *control;   /* its own lock; NULL: there is no control directory */
    struct fs_prefetch *prefetch; /* its own lock; NULL: nothing is read ahead */
    struct fs_streams *streams;   /* its own lock; NULL: likewise */
    bool writeback;               /* the kernel gathers writes */
    bool without_acl;             /* access lists are not supported */
    bool read_only;               /* as it was mounted */
    uint32_t owner;               /* user that mounted */
    uint32_t read_ahead_bytes;    /* by the kernel; 0: its default */
    struct fs_repeats repeats;    /* atomic; of names and content */
};

/* The table to give to fuse_session_new. */
extern const struct fuse_lowlevel_ops fs_fuse_ops;

/* For struct fs_volume_options: about the caller of the request that this thread serves. */
bool fs_fuse_keeps_setgid(uint32_t gid);
bool fs_fuse_kills_privileges(void);
bool fs_fuse_is_owner(uint32_t uid);

#endif
