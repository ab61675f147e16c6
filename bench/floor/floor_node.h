/*
 * bench/floor/floor_node.h: files, directories and symlinks that live in memory only, but for
 * contents of files where floor_disk.h has been told to keep them.
 *
 * Owns       nodes; the kernel's references to them, their attributes and contents.
 * Invariant  a node lives while it has a name or the kernel has a reference to it.
 * Locks      `lock` guards what is marked so. It is innermost, and held for one node at a time;
 *            entries of directories have a lock of their own (floor_dir.h), taken before it.
 */
#ifndef BENCH_FLOOR_NODE_H
#define BENCH_FLOOR_NODE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "kv/base.h"

struct floor_dir;
struct floor_disk_file;

/* Contents are kept in pieces of this many bytes; the last one may be shorter. */
#define FLOOR_CHUNK_BYTES 65536u

/* Bytes from `cap` on, to the end of the piece, are zero. */
struct floor_chunk {
    uint8_t *bytes;
    uint32_t cap;
};

struct floor_node {
    pthread_mutex_t lock;
    uint64_t lookups;             /* lock: references of the kernel */
    uint64_t names;               /* lock */
    struct stat stat;             /* lock; type and st_ino immutable */
    struct floor_dir *dir;        /* of a directory; immutable */
    char *target;                 /* of a symlink; immutable */
    struct floor_chunk *chunks;   /* lock; of a file: bytes beyond its size are zero */
    size_t chunk_count;           /* lock */
    struct floor_disk_file *disk; /* instead of chunks; made once, under `lock` */
};

/*
 * Have memory at hand that the system need not give any more: for as many bytes, the nodes and
 * contents made later cost no page fault. To be called once, before anything else.
 * 0; -ENOMEM.
 */
KV_MUST_CHECK int floor_memory_prepare(size_t bytes);

/* A node with neither names nor references; NULL: no memory. parent: of a directory, its number. */
struct floor_node *floor_node_new(mode_t mode, uid_t uid, gid_t gid, dev_t rdev, uint64_t parent);
/* Of a node that neither has. */
void floor_node_free(struct floor_node *node);

/* One reference more, and the attributes. */
void floor_node_ref(struct floor_node *node, struct stat *stat);
/* References taken off; frees the node with the last of references and names. */
void floor_node_unref(struct floor_node *node, uint64_t count);
/* A name more; for a directory, that is its only one. */
void floor_node_name(struct floor_node *node);
/* A name less; frees as above. */
void floor_node_unname(struct floor_node *node);
/* A directory has got or lost a directory in it, or just an entry (0). */
void floor_node_touch(struct floor_node *node, int subdirectories);

void floor_node_stat(struct floor_node *node, struct stat *stat);
/* Take over the attributes of `from` that to_set (FUSE_SET_ATTR_*) names. stat: out. */
void floor_node_set(struct floor_node *node, const struct stat *from, int to_set,
                    struct stat *stat);
/* Where its contents are, if not here; NULL. size: out. */
struct floor_disk_file *floor_node_disk(struct floor_node *node, uint64_t *size);
/* Copies what there is of `length` bytes; returns how many. */
size_t floor_node_read(struct floor_node *node, uint64_t offset, uint8_t *out, size_t length);
/* 0; -ENOMEM, or what the disk says: nothing or part of it is written. */
KV_MUST_CHECK int floor_node_write(struct floor_node *node, uint64_t offset, const uint8_t *bytes,
                                   size_t length);

#endif
