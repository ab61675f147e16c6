/*
 * fs/protocol.h: what libfuse 3.14 does not know of the FUSE protocol.
 *
 * Some things pass by here on their way between the kernel and libfuse:
 *
 *  - INIT: HANDLE_KILLPRIV_V2 is set in the reply, so that the kernel says when a write or
 *    truncation ends setuid, rather than asking for security.capability before every write;
 *    SETXATTR_EXT, so that it says when an ACL ends setgid; the ring, if it is to be used.
 *  - WRITE, SETATTR, SETXATTR: those flags are noted for the handler.
 *  - whatever does not have the bytes that it says it has: answered with EIO.
 *  - INTERRUPT: answered with ENOSYS, so that the kernel sends no more of them.
 *  - TMPFILE and STATX: answered here. libfuse would say ENOSYS, and the kernel would never
 *    ask again.
 */
#ifndef FS_PROTOCOL_H
#define FS_PROTOCOL_H

#include "fs/counters.h"
#include "fs/transport.h"
#include "fs/volume.h"

struct fs_control;
struct fuse_conn_info;

struct fs_protocol {
    struct fs_volume *volume;
    struct fs_counters *counters;
    struct fs_control *control;        /* NULL: none; immutable once requests come */
    _Atomic uint64_t init_unique;      /* of the INIT request on its way, 0: none */
    _Atomic uint64_t init_offered;     /* what the kernel can do: flags, flags2 above */
    _Atomic bool init_done;            /* INIT was answered well: what it offered is settled */
    _Atomic bool kill_privileges_told; /* the kernel says when setuid ends */
    kv_log_fn *log;                    /* NULL: standard error; immutable */
    void *log_context;
};

enum fs_protocol_note {
    FS_NOTE_KILL_PRIVILEGES = 1,
    FS_NOTE_KILL_SETGID = 2,
};

/* Seconds for which the kernel may keep what it is told: nothing else changes the image. */
#define FS_CACHE_SECONDS 1000000000ull

void fs_protocol_init(struct fs_protocol *protocol, struct fs_volume *volume,
                      struct fs_counters *counters);
/*
 * For libfuse's init: ask the kernel for what kvfs wants, as far as libfuse has a name for it.
 * The hooks ask for the rest. writeback: the kernel may gather writes; read_ahead_bytes: 0 is its
 * own choice, and more than that is not to be had here (fs/read_ahead.h). acl: the kernel holds
 * access lists; else it lets everybody ask us for them.
 */
void fs_protocol_negotiate(struct fuse_conn_info *conn, bool writeback, bool acl,
                           uint32_t read_ahead_bytes);
/* The transport's hooks; their context is the protocol, which must outlive the transport. */
struct fs_transport_hooks fs_protocol_hooks(struct fs_protocol *protocol, kv_log_fn *log,
                                            void *log_context);

#endif
