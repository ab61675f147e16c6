/*
 * tests/faults/soak/names.h: random operations on names and attributes, done to two file systems
 * side by side: the same answers, and the same tree, are what is asked for.
 *
 * A side is a backend: a directory of a mounted file system (names_posix), or a volume without a
 * kernel (names_volume), which is given what the kernel would do before it asks a file system.
 */
#ifndef TESTS_FAULTS_NAMES_H
#define TESTS_FAULTS_NAMES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "volume_image.h"

#define NAMES_PATH_MAX  3900u
#define NAMES_VALUE_MAX 256u
#define NAMES_SLOTS     6u     /* files held open */
#define NAMES_FILE_MAX  20000u /* bytes of a file */
#define NAMES_LIST_MAX  64u    /* entries of a directory */

enum name_kind {
    NAME_MKNOD, /* files too */
    NAME_MKDIR,
    NAME_SYMLINK, /* path -> other, which leads nowhere */
    NAME_UNLINK,
    NAME_RMDIR,
    NAME_RENAME, /* path to other */
    NAME_LINK,   /* path to other */
    NAME_READLINK,
    NAME_CHMOD, /* follows symlinks, as the next one does not */
    NAME_CHOWN,
    NAME_UTIMES,
    NAME_SETXATTR,
    NAME_GETXATTR,
    NAME_REMOVEXATTR,
    NAME_LISTXATTR,
    NAME_TRUNCATE, /* follows symlinks */
    NAME_LIST,
    NAME_OPEN,      /* a file into a slot */
    NAME_OPEN_TEMP, /* a file without a name into a slot */
    NAME_LINK_SLOT, /* gives it the name `path` */
    NAME_CLOSE,
    NAME_PWRITE,
    NAME_PREAD,
    NAME_FTRUNCATE,
    NAME_KINDS
};

struct name_op {
    enum name_kind kind;
    char path[NAMES_PATH_MAX], other[NAMES_PATH_MAX]; /* relative; "." is the root */
    uint32_t mode, uid, gid;
    uint64_t rdev;
    int flags; /* of rename and setxattr */
    unsigned slot;
    uint64_t offset, length, seed;
    int64_t atime, mtime; /* seconds */
    const char *attribute;
    uint8_t value[NAMES_VALUE_MAX]; /* `length` bytes */
};

struct name_result {
    int err;         /* 0 or negative */
    uint64_t length; /* of what was read */
    uint64_t digest; /* of what was read */
};

struct name_entry {
    char name[256];
    uint32_t type; /* S_IFMT bits */
};

struct name_list {
    struct name_entry entries[NAMES_LIST_MAX];
    unsigned count;
};

struct names_backend {
    void *context;
    void (*run)(void *context, const struct name_op *op, struct name_result *result);
    int (*stat)(void *context, const char *path, struct stat *stat_buf);
    int (*list)(void *context, const char *path, struct name_list *list); /* without . and .. */
    int (*read)(void *context, const char *path, void *buf, size_t cap, size_t *got);
    void (*reopen)(void *context); /* NULL: no such thing */
};

uint64_t names_digest(uint64_t digest, const void *bytes, size_t length);
/* What a write of this seed writes; length <= NAMES_FILE_MAX. */
void names_fill(uint8_t *out, size_t length, uint64_t seed);

/*
 * `count` operations on both; every `cycle` of them `ours` is closed, checked and opened again.
 * The trees are compared then and now and then.
 */
void names_run(const struct names_backend *ours, const struct names_backend *reference,
               uint64_t count, uint64_t cycle);

/* A directory of a mounted file system. */
struct names_posix {
    int root;
    int slots[NAMES_SLOTS];
};
void names_posix_open(struct names_posix *posix, const char *directory);
void names_posix_close(struct names_posix *posix);
struct names_backend names_posix_backend(struct names_posix *posix);
/* Remove all that is in it, and close it. */
void names_posix_empty(struct names_posix *posix);

/* A volume. */
struct names_volume {
    struct volume_image image;
    uint64_t slots[NAMES_SLOTS]; /* inode numbers, a reference counted; 0: empty */
    bool linkable[NAMES_SLOTS];  /* made without a name, and never had one */
};
struct names_backend names_volume_backend(struct names_volume *volume);

#endif
