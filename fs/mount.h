/*
 * fs/mount.h: an image mounted at a directory, from open to close.
 *
 * Threads: one thread opens, serves and closes a mount; fs_mount_stop may come from any,
 * also from a signal handler.
 */
#ifndef FS_MOUNT_H
#define FS_MOUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/alerts.h"
#include "fs/transport.h"
#include "kv/kv.h"

struct fs_mount;
struct fs_mount_options;
struct fs_policies;
struct fs_volume;

/* The least important lines that are logged. */
enum fs_log_level { FS_LOG_DEBUG, FS_LOG_INFO, FS_LOG_WARNING, FS_LOG_ERROR };

/* Settings by their names, for who shows and changes them on a mount (fs/control.h). */
struct fs_settings_words {
    /* -ENOENT no such setting; -EINVAL, with the words in `error`, a value that may not be. */
    int (*set)(const char *key, const char *value, struct fs_mount_options *options,
               struct kv_error *error);
    /* "key=value" of the index-th; false: there are no more. */
    bool (*show)(size_t index, const struct fs_mount_options *options, char *line, size_t cap);
};

/* What becomes of access lists. */
enum fs_acl_use {
    FS_ACL_HELD = 0,
    FS_ACL_OFF /* they can neither be read nor set, and only modes say who may what */
};

#define FS_CONTROL_NAME_MAX 64u /* bytes, with the terminating zero */
#define FS_PROFILE_NAME_MAX 16u /* likewise */

/* What mounts may ask for. All zero is a sensible default; strings are borrowed for the call. */
struct fs_mount_options {
    const char *image; /* file or block device */
    const char *dir;   /* mount point, an existing directory */
    bool read_only;
    enum kv_sync_mode sync;
    uint32_t commit_interval_ms;  /* 0: the store's default */
    uint64_t memory_budget_bytes; /* 0: the store's default */
    struct kv_tiers tiers;        /* all 0: the store's defaults */
    bool adapt_tiers;        /* cold and frozen without a share get one while that spares reads */
    uint32_t extent_percent; /* of the budget, for extents read lately: 0..75 */
    uint32_t pin_percent;    /* of it, that policies may pin: 0..50 */
    bool buffered_io;        /* host page cache instead of O_DIRECT */
    unsigned threads;        /* most that serve requests at once, 0 = 10 */
    enum fs_transport_kind transport;
    bool allow_other;    /* users besides the mounting one may enter */
    bool writeback;      /* the kernel gathers writes; see fs/README.md */
    uint32_t acl;        /* enum fs_acl_use */
    bool count_requests; /* log the requests per operation at close */
    bool confine;        /* give up what serving does not need (fs/confine.h) ... */
    bool seccomp;        /* ... also system calls */
    bool auto_unmount;   /* a child unmounts when this process ends without doing so */
    const char *extra;   /* generic mount options, comma-separated: "noatime,nosuid" */
    char control[FS_CONTROL_NAME_MAX]; /* name of the control directory; "": .kvfs; "none" */
    uint32_t metrics;                  /* enum kv_metric_category; what is timed and shown */
    uint32_t log_level;                /* enum fs_log_level */
    struct fs_alerts alerts;
    struct fs_policies *policies;      /* borrowed until fs_mount_close; NULL: none */
    uint32_t checkpoint_interval_ms;   /* 0: the store's default */
    uint32_t log_buffer_bytes;         /* 0: the store's default */
    uint32_t touch_ahead_bytes;        /* of the budget, faulted in before it is used */
    uint32_t read_ahead_bytes;         /* by the kernel, of who reads in order; 0: its own choice */
    char profile[FS_PROFILE_NAME_MAX]; /* whose settings these are, for who asks */
    const struct fs_settings_words *words; /* NULL: settings can neither be shown nor changed */
    kv_log_fn *log;                        /* NULL: standard error */
    void *log_context;                     /* borrowed until fs_mount_close */
    void (*ready)(void *context);    /* NULL, or called once: requests are answered from now on */
    void (*stopping)(void *context); /* NULL, or called once, after `ready`: the end has begun */
    void *state_context;             /* of both; they are called by fs_mount_serve */
};

/*
 * Open the image, finish what a crash left of deleted files, and mount. When it returns 0
 * the directory is a mount point; requests wait until fs_mount_serve answers them.
 *
 * mount  out: set on 0 only.
 * error  may be NULL; gets one line that names the thing and the remedy.
 *
 * Returns 0; what kv_open returns; -EMEDIUMTYPE the image holds keys but no filesystem;
 * -EPROTONOSUPPORT a filesystem version this build does not know; -ENODEV no /dev/fuse;
 * -EEXIST the image has an entry where the control directory is to be;
 * -ENOTDIR or -ENOENT the directory; -EINVAL an option; -EPERM or -EIO mounting failed.
 */
KV_MUST_CHECK int fs_mount_open(const struct fs_mount_options *options, struct fs_mount **mount,
                                struct kv_error *error);

/*
 * Answer requests until the directory is unmounted, SIGINT, SIGTERM or SIGHUP arrives, or
 * fs_mount_stop is called. SIGUSR1 writes the request counters to the log.
 *
 * With options.confine the calling thread has given up its rights when this returns, and so has
 * every thread of the mount. One that arrives later, like a second SIGTERM, is noted and
 * dropped: nothing cuts the end short.
 *
 * Returns 0, or what ended the loop.
 */
KV_MUST_CHECK int fs_mount_serve(struct fs_mount *mount);

/* Make fs_mount_serve return. Async-signal-safe. */
void fs_mount_stop(struct fs_mount *mount);

/*
 * Unmount if that is still due, make everything durable, close the image. The mount is gone
 * whatever is returned; an error means that the last checkpoint failed (the log is replayed
 * at the next open).
 */
KV_MUST_CHECK int fs_mount_close(struct fs_mount *mount);

/*
 * Read-only attribute of the root directory: JSON with requests per operation and the store's
 * figures. Hidden from listings.
 */
#define FS_XATTR_STATS "system.kvfs.stats"
/* Likewise: the name of the control directory, or "none". */
#define FS_XATTR_CONTROL "system.kvfs.control"
/* Setting it (any value, root or the mount's owner only) returns when all is checkpointed. */
#define FS_XATTR_SYNC "system.kvfs.sync"
/* Setting it (likewise) starts or stops a scrub; reading it says how that is getting on and what
 * it found. The texts: fs/scrub.h. */
#define FS_XATTR_SCRUB "system.kvfs.scrub"

#endif
