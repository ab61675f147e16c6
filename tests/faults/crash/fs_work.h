/*
 * tests/faults/crash/fs_work.h: changes of a volume, each beside a model that is compared with
 * the volume after it, and with the promises that were made.
 *
 * All is decided by one source of random numbers. One thread.
 */
#ifndef TESTS_FAULTS_CRASH_FS_WORK_H
#define TESTS_FAULTS_CRASH_FS_WORK_H

#include "../../kv/support_promises.h"
#include "../../kv/support_store.h"
#include "fs_model.h"

#include "fs/volume.h"

/* What an operation needs and is not there, it does to something else. */
enum work_op {
    OP_MKNOD,   /* a file */
    OP_SPECIAL, /* a FIFO or a device node */
    OP_MKDIR,
    OP_SYMLINK,
    OP_LINK,
    OP_UNLINK,
    OP_UNLINK_OPEN, /* the file lives on and is written to */
    OP_FORGET,      /* all that lives without a name goes */
    OP_RMDIR,
    OP_RENAME, /* to a new name, in any directory */
    OP_RENAME_OVER,
    OP_RENAME_NOREPLACE,
    OP_RENAME_EXCHANGE,
    OP_RENAME_DIR,
    OP_WRITE_SMALL, /* stays in the record */
    OP_WRITE,       /* some thousand bytes, anywhere */
    OP_WRITE_LARGE, /* several extents */
    OP_APPEND,
    OP_SHRINK,
    OP_GROW,
    OP_PUNCH,
    OP_ZERO,
    OP_ALLOCATE,
    OP_COLLAPSE,
    OP_INSERT,
    OP_COPY,
    OP_CHMOD,
    OP_CHOWN,
    OP_UTIMES,
    OP_XATTR_SET,
    OP_XATTR_REMOVE,
    OP_ACL,
    OP_DEFAULT_ACL,
    OP_TTL,     /* a file is to expire, long after the test */
    OP_TMPFILE, /* written to, never linked */
    OP_TMPFILE_LINK,
    OP_PUBLISH,
    OP_APPLY, /* several changes of names and values as one */
    OP_COUNT
};
extern const char *const work_op_names[OP_COUNT];

enum work_settle { SETTLE_NOT, SETTLE_FSYNC, SETTLE_CHECKPOINT, SETTLE_UNMOUNT, SETTLE_COUNT };
extern const char *const work_settle_names[SETTLE_COUNT];

struct fs_work {
    struct kv_device *device; /* the caller's, as the next four */
    struct promises *promises;
    struct model *model;
    struct test_random *random;
    enum kv_sync_mode sync;

    struct kv_store *store;
    struct fs_volume *volume;
    uint64_t *versions; /* what walk_volume says of each; [0] is the state at the start */
    size_t version_count, version_capacity;
    uint64_t orphans[64]; /* inode numbers that we hold a reference to */
    size_t orphan_count;
    unsigned name_next;
    uint8_t *bytes;
};

/* Open quietly; prints why not. */
KV_MUST_CHECK int fs_work_open(struct kv_device *device, enum kv_sync_mode sync, bool read_only,
                               struct kv_store **store, struct fs_volume **volume);

/* Opens the device; version 0 is what is there, which must be the model. */
KV_MUST_CHECK int fs_work_begin(struct fs_work *work);
/* Leaves the volume as a crash would. The versions stay. */
void fs_work_end(struct fs_work *work);
/* Free the versions. */
void fs_work_release(struct fs_work *work);

/* Returns 0; what the volume says; -EUCLEAN the volume is not what the model is (printed). */
KV_MUST_CHECK int fs_work_step(struct fs_work *work, enum work_op op, enum work_settle settle);

/* fs_work_apply.c: OP_APPLY. */
KV_MUST_CHECK int fs_work_apply(struct fs_work *work);

#endif
