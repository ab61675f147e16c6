/*
 * tools/tree.h: trees of files on their way from one place to another, one inode at a time.
 *
 * A source finds inodes, a directory before what is in it, and puts each into a sink. Sources: a
 * directory, an image, a tar stream, JSON lines. Sinks: the same four. What a sink has already,
 * by type, size, time, mode and owner, it leaves alone; and a file is in its place only when it
 * is whole: so whatever was interrupted can be done again.
 *
 * Functions return 0 or a negative errno with words in job->error. One thread.
 */
#ifndef TOOLS_TREE_H
#define TOOLS_TREE_H

#include <stdio.h>
#include <sys/stat.h>

#include "fs/apply.h"
#include "tools/progress.h"

struct fs_volume;
struct tool_keys;

/* Bytes of a file, in order; what lies between pieces, and behind the last one, is a hole. */
struct tree_piece {
    const void *bytes; /* borrowed until the next call */
    size_t length;     /* 0: there are no more */
    uint64_t offset;
};
typedef int tree_read_fn(void *context, struct tree_piece *piece);
/* The data at *offset or next behind it: *offset to *end; none is left: both are the file's size.
 */
typedef int tree_find_fn(void *context, uint64_t *offset, uint64_t *end);

/* An inode under one of its names. All is borrowed for the call. */
struct tree_item {
    const char *path; /* a key; "" the top itself, which is a directory */
    struct fs_apply_attributes attributes;
    bool ttl_waits; /* of directories: not yet what user.kvfs.ttl says, for what is to come has its
                       own time or none */
    uint64_t size;  /* of regular files */
    bool may_have_holes;
    const char *target; /* of symlinks */
    const char *link;   /* not NULL: one more name of what came before at this path */
    tree_read_fn *read; /* of regular files; may be left unused */
    tree_find_fn *find; /* may be called before `read`; NULL: only reading tells where holes are */
    void *read_context; /* of both */
};

struct tree_sink {
    int (*put)(struct tree_sink *sink, const struct tree_item *item);
    /* When all is there: what can only be done in the end. */
    int (*finish)(struct tree_sink *sink);
    /* Release everything; the sink is gone. */
    void (*free)(struct tree_sink *sink);
};

struct tree_job {
    struct tree_sink *sink;
    struct kv_error error;
    struct tool_progress progress;
    uint64_t total;          /* of work, for the progress; 0: not known */
    uint64_t entries, bytes; /* seen so far; bytes: of content */
    uint64_t left_alone;     /* that the sink had already */
    uint64_t not_kept;       /* attributes that the sink has no place for */
    const char *control;     /* a name at the top that is refused, for a mount hides it; or NULL */
};

/* What an entry with so many bytes counts in `total`. */
static inline uint64_t tree_work(uint64_t bytes)
{
    return bytes + 4096;
}

/* Put the words together: "PATH: text". Returns err. */
int tree_failed(struct tree_job *job, const char *path, int err);
/* Put an item into the sink, and show how far it is. */
KV_MUST_CHECK int tree_put(struct tree_job *job, const struct tree_item *item);

/* ---- sources ------------------------------------------------------------------------ */

/* Everything in the directory `path`, without going into other file systems' mount points. */
KV_MUST_CHECK int tree_from_directory(struct tree_job *job, const char *path);
/* below: a directory of the image; "" the root. */
KV_MUST_CHECK int tree_from_image(struct tree_job *job, struct fs_volume *volume,
                                  const char *below);
/* What libarchive can read, packed or not. */
KV_MUST_CHECK int tree_from_tar(struct tree_job *job, int fd);
KV_MUST_CHECK int tree_from_json(struct tree_job *job, FILE *in);

/* ---- sinks: NULL, with words in job->error ------------------------------------------ */

/* Into a directory, which is there. */
struct tree_sink *tree_to_directory(struct tree_job *job, const char *path);
/* below: a directory of the image, "" the root; it is made. The volume is the caller's. */
struct tree_sink *tree_to_image(struct tree_job *job, struct fs_volume *volume,
                                const struct fs_caller *caller, const char *below);
/*
 * Into a directory of an open mount: its daemon makes the changes, if it lets us. below: under the
 * directory that was opened; path: the directory itself, which is there.
 */
struct tree_sink *tree_to_mount(struct tree_job *job, const struct tool_keys *keys,
                                const char *below, const char *path);
struct tree_sink *tree_to_tar(struct tree_job *job, int fd);
struct tree_sink *tree_to_json(struct tree_job *job, FILE *out);

/* ---- for sources and sinks ------------------------------------------------------------ */

/*
 * The permissions of what has this owner. setuid and setgid lend the rights of the owner that it
 * has in the source: who can not make it his does not let it lend anyone else's, as cp and tar do
 * not.
 */
static inline uint32_t tree_permissions(const struct fs_apply_attributes *attributes, uid_t uid,
                                        gid_t gid)
{
    const bool is_his = uid == attributes->uid && gid == attributes->gid;
    return attributes->mode & (is_his || S_ISDIR(attributes->mode) ? 07777u : 01777u);
}

/* Extended attributes that were read, one after the other in one buffer. */
struct tree_xattrs {
    struct fs_apply_xattr *items;
    size_t count, capacity;
    char *bytes; /* owned; items point into it once tree_xattrs_end was called */
    size_t length, bytes_capacity;
};
void tree_xattrs_clear(struct tree_xattrs *xattrs);
void tree_xattrs_release(struct tree_xattrs *xattrs);
/* -ENOMEM. Names that no image can have (fs/xattr.h) are left out and counted. */
KV_MUST_CHECK int tree_xattrs_add(struct tree_job *job, struct tree_xattrs *xattrs,
                                  const char *name, const void *value, size_t length);
/* Let the item have them. */
void tree_xattrs_end(struct tree_xattrs *xattrs, struct tree_item *item);

/* The first paths of files with several names. */
struct tree_links;
struct tree_links *tree_links_new(void);
void tree_links_free(struct tree_links *links);
/* The path under which an inode was met first, or NULL: this is it. *err: -ENOMEM. */
const char *tree_links_meet(struct tree_links *links, uint64_t device, uint64_t ino,
                            const char *path, int *err);

/* Directories whose attributes wait until everything is in them. */
struct tree_directories;
struct tree_directories *tree_directories_new(void);
void tree_directories_free(struct tree_directories *directories);
KV_MUST_CHECK int tree_directories_add(struct tree_directories *directories,
                                       const struct tree_item *item);
/* The last one first; NULL behind the first. Borrowed until the directories are freed. */
const struct tree_item *tree_directories_take(struct tree_directories *directories);

#endif
