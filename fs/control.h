/*
 * fs/control.h: the control directory in the root of a mount: figures, health and settings as
 * files that are not in the image.
 *
 * The kernel does not tell when a file is opened or closed (fs/fuse_ops.c), so what a file holds is
 * made when its name is looked up, and each lookup makes a new node: whoever opens a file reads
 * one moment of it to the end, and its size is right. The kernel may not keep the name, so it
 * looks it up for every open. A node lives until it is forgotten; how many there may be at a
 * time is bounded.
 *
 * What is written is obeyed before the write returns, each write for itself: there is no later
 * moment at which an error could be told.
 *
 * Node numbers have the highest bit set, which no inode number of an image has.
 *
 * Threads: any, but for new and free.
 */
#ifndef FS_CONTROL_H
#define FS_CONTROL_H

#include <sys/stat.h>

#include "fs/control_apply.h"
#include "fs/health.h"
#include "fs/prefetch.h"
#include "fs/settings.h"

struct fs_control;

#define FS_CONTROL_NAME_DEFAULT ".kvfs"
#define FS_CONTROL_NONE         "none"

/* All borrowed until fs_control_free. */
struct fs_control_parts {
    struct fs_volume *volume;
    const struct fs_counters *counters;
    struct fs_health *health;
    struct fs_prefetch *prefetch;
    struct fs_settings *settings;
    struct fs_control_apply *apply;
    const char *name; /* copied; "" is the default */
    bool read_only;
    uint32_t owner, group; /* of the files; who besides root may change settings */
};

/*
 * -EEXIST the image has an entry of that name in its root: `error` says so, and the remedy;
 * -ENOMEM; or what looking for it says.
 */
KV_MUST_CHECK int fs_control_new(const struct fs_control_parts *parts, struct fs_control **control,
                                 struct kv_error *error);
void fs_control_free(struct fs_control *control); /* NULL is fine */
const char *fs_control_name(const struct fs_control *control);
unsigned fs_control_node_count(struct fs_control *control); /* that are not forgotten */

static inline bool fs_control_owns(uint64_t ino)
{
    return ino >> 63;
}
/* Is it the directory itself, or something in it? control may be NULL: nothing is. */
bool fs_control_has_entry(const struct fs_control *control, uint64_t directory, const char *name);
/* Say in the log (not too often) that nobody may do that there. Returns -EPERM. */
int fs_control_refuse(struct fs_control *control, const char *what, const char *name);

/*
 * For an entry that fs_control_has_entry. is_operator: the caller may do what owner and root may.
 * Counts a reference to *ino; stat->st_ino is what programs see, and always the same for a file.
 * -ENOENT; -ENFILE too many nodes; -ENOMEM.
 */
KV_MUST_CHECK int fs_control_lookup(struct fs_control *control, uint64_t directory,
                                    const char *name, bool is_operator, uint64_t *ino,
                                    struct stat *stat);
/* All of these for nodes that fs_control_owns; -ESTALE it is none. */
void fs_control_forget(struct fs_control *control, uint64_t ino, uint64_t count);
KV_MUST_CHECK int fs_control_getattr(struct fs_control *control, uint64_t ino, struct stat *stat);
/* -EISDIR; -EPERM it can not be written; -EINVAL another size than 0. */
KV_MUST_CHECK int fs_control_truncate(struct fs_control *control, uint64_t ino, uint64_t size);
/* -EISDIR. */
KV_MUST_CHECK int fs_control_read(struct fs_control *control, uint64_t ino, uint64_t offset,
                                  void *buf, size_t length, size_t *got);
/* Obey. -EISDIR; -EPERM it can not be written; -EINVAL it makes no sense (the log says why); ... */
KV_MUST_CHECK int fs_control_write(struct fs_control *control, uint64_t ino,
                                   const struct fs_caller *caller, uint64_t offset,
                                   const void *bytes, size_t length);
/* The entries of the directory, "." and ".." first; NULL past the last. stat: number and type. */
const char *fs_control_entry(size_t index, struct stat *stat);

#endif
