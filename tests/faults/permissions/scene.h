/*
 * tests/faults/permissions/scene.h: a file in a directory, with owners, modes and lists.
 *
 * Owns       the tree "b" below a directory, made anew for a case and described after it.
 */
#ifndef PERMISSIONS_SCENE_H
#define PERMISSIONS_SCENE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SCENE_CONTENT       "content\n"
#define SCENE_CONTENT_BYTES 8
#define SCENE_ACCESS_ACL    "system.posix_acl_access"
#define SCENE_DEFAULT_ACL   "system.posix_acl_default"
#define SCENE_ACL_MAX       128u

enum scene_acl {
    SCENE_ACL_NONE,
    SCENE_ACL_USER,    /* user 1001 may all */
    SCENE_ACL_MASKED,  /* the same, but the mask leaves only reading */
    SCENE_ACL_GROUP,   /* group 2000 may write, group 1000 nothing */
    SCENE_ACL_BANNED,  /* user 1001 may nothing, others all */
    SCENE_ACL_MINIMAL, /* no more than a mode says */
    SCENE_ACL_EMPTY,   /* no entries */
    SCENE_ACL_COUNT
};

struct scene_node {
    uid_t uid;
    gid_t gid;
    mode_t mode;
    enum scene_acl access, inherited; /* inherited: of a directory */
};

struct scene {
    struct scene_node dir, file;
    uid_t outer_uid; /* of e/x */
    gid_t outer_gid;
};

/* The list as an attribute's value; at most SCENE_ACL_MAX bytes. */
size_t scene_acl_bytes(enum scene_acl kind, uint8_t *list);

/* Make "b" in the directory `root`, as root. Aborts on failure. */
void scene_make(int root, const struct scene *scene);
/* Remove all that is below "b". */
void scene_remove(int root);

/* All that can be seen of the tree by root, one line for each name; the caller frees it. */
char *scene_describe(int root);

#endif
