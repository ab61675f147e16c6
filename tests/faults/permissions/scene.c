/*
 * tests/faults/permissions/scene.c: a file in a directory, with owners, modes and lists.
 */
#include "scene.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "operations.h"

static void require(int result, const char *what, const char *path)
{
    if (!result)
        return;
    fprintf(stderr, "permissions: %s %s: %s\n", what, path, strerror(errno));
    abort();
}

/* ---- access control lists -------------------------------------------------------------- */

enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32 };

struct entry {
    uint16_t tag, perm;
    uint32_t id;
};
#define NO_ID UINT32_MAX

size_t scene_acl_bytes(enum scene_acl kind, uint8_t *list)
{
    static const struct entry lists[SCENE_ACL_COUNT][6] = {
        [SCENE_ACL_USER] = {{USER_OBJ, 6, NO_ID},
                            {USER, 7, 1001},
                            {GROUP_OBJ, 5, NO_ID},
                            {MASK, 7, NO_ID},
                            {OTHER, 0, NO_ID}},
        [SCENE_ACL_MASKED] = {{USER_OBJ, 7, NO_ID},
                              {USER, 7, 1001},
                              {GROUP_OBJ, 7, NO_ID},
                              {MASK, 4, NO_ID},
                              {OTHER, 0, NO_ID}},
        [SCENE_ACL_GROUP] = {{USER_OBJ, 7, NO_ID},
                             {GROUP_OBJ, 4, NO_ID},
                             {GROUP, 0, 1000},
                             {GROUP, 7, 2000},
                             {MASK, 7, NO_ID},
                             {OTHER, 1, NO_ID}},
        [SCENE_ACL_BANNED] = {{USER_OBJ, 7, NO_ID},
                              {USER, 0, 1001},
                              {GROUP_OBJ, 7, NO_ID},
                              {MASK, 7, NO_ID},
                              {OTHER, 7, NO_ID}},
        [SCENE_ACL_MINIMAL] = {{USER_OBJ, 6, NO_ID}, {GROUP_OBJ, 5, NO_ID}, {OTHER, 4, NO_ID}},
    };
    const uint32_t version = 2;
    size_t length = sizeof version;
    memcpy(list, &version, sizeof version);
    for (size_t i = 0; i < 6 && lists[kind][i].tag; i++) {
        memcpy(list + length, &lists[kind][i], sizeof(struct entry));
        length += sizeof(struct entry);
    }
    return length;
}

static void set_acl(const char *path, const char *name, enum scene_acl kind)
{
    uint8_t list[SCENE_ACL_MAX];
    if (kind == SCENE_ACL_NONE)
        return;
    const size_t length = scene_acl_bytes(kind, list);
    require(setxattr(path, name, list, length, 0), name, path);
}

/* ---- making and removing ------------------------------------------------------------------ */

/* Paths of a directory that is only known by its descriptor. */
static const char *under(int root, const char *path)
{
    static char buffers[2][128];
    static unsigned next;
    char *buffer = buffers[next++ % 2];
    snprintf(buffer, sizeof buffers[0], "/proc/self/fd/%d/%s", root, path);
    return buffer;
}

static void dress(const char *path, const struct scene_node *node, bool is_dir)
{
    require(chown(path, node->uid, node->gid), "chown", path);
    require(chmod(path, node->mode), "chmod", path);
    set_acl(path, SCENE_ACCESS_ACL, node->access);
    if (is_dir)
        set_acl(path, SCENE_DEFAULT_ACL, node->inherited);
    require(setxattr(path, "user.kept", "k", 1, 0), "setxattr", path);
    if (is_dir)
        return;
    require(setxattr(path, "trusted.kept", "k", 1, 0), "setxattr", path);
    require(setxattr(path, "security.kept", "k", 1, 0), "setxattr", path);
}

static void make_file(const char *path)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    require(fd < 0, "open", path);
    require(write(fd, SCENE_CONTENT, SCENE_CONTENT_BYTES) != SCENE_CONTENT_BYTES, "write", path);
    close(fd);
}

void scene_make(int root, const struct scene *scene)
{
    static const char *const dirs[] = {"b", "b/e", "b/d", "b/d/sub"};
    (void)umask(0);
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++)
        require(mkdir(under(root, dirs[i]), 0755), "mkdir", dirs[i]);
    make_file(under(root, "b/d/f"));
    make_file(under(root, "b/e/x"));
    require(symlink("f", under(root, "b/d/l")), "symlink", "b/d/l");
    require(lchown(under(root, "b/d/l"), scene->file.uid, scene->file.gid), "lchown", "b/d/l");
    require(chown(under(root, "b/e/x"), scene->outer_uid, scene->outer_gid), "chown", "b/e/x");
    require(chmod(under(root, "b/e/x"), 0644), "chmod", "b/e/x");
    require(chmod(under(root, "b/e"), 0777), "chmod", "b/e");
    dress(under(root, "b/d/f"), &scene->file, false);
    dress(under(root, "b/d/sub"), &scene->file, true);
    dress(under(root, "b/d"), &scene->dir, true);
}

/* Names that a case may leave, those in a directory before it. */
static const char *const names[] = {
    "b/d/sub/n", "b/d/sub", "b/d/f/n", "b/d/f",   "b/d/l", "b/d/n/n", "b/d/n",
    "b/d",       "b/e/x/n", "b/e/x",   "b/e/n/n", "b/e/n", "b/e",     "b",
};
enum { NAME_COUNT = sizeof names / sizeof names[0] };

void scene_remove(int root)
{
    for (size_t i = 0; i < NAME_COUNT; i++) {
        if (unlinkat(root, names[i], 0) && errno == EISDIR)
            require(unlinkat(root, names[i], AT_REMOVEDIR), "rmdir", names[i]);
    }
}

/* ---- looking -------------------------------------------------------------------------------- */

static uint64_t hash_attributes(const char *path)
{
    char list[2048], value[1024];
    const ssize_t length = llistxattr(path, list, sizeof list);
    uint64_t sum = 0;
    require(length < 0, "listxattr", path);
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(list + at) + 1) {
        const ssize_t got = lgetxattr(path, list + at, value, sizeof value);
        require(got < 0, list + at, path);
        sum += hash_bytes(value, (size_t)got, hash_bytes(list + at, strlen(list + at), 0));
    }
    return sum;
}

char *scene_describe(int root)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    require(!out, "open_memstream", "");
    for (size_t i = NAME_COUNT; i-- > 0;) {
        struct stat st;
        if (fstatat(root, names[i], &st, AT_SYMLINK_NOFOLLOW)) {
            require(errno != ENOENT && errno != ENOTDIR, "stat", names[i]);
            continue;
        }
        const bool is_set = st.st_mtim.tv_sec == EXPLICIT_SECONDS;
        fprintf(out, "%s mode %o uid %u gid %u links %u size %lld%s attributes %016llx\n", names[i],
                st.st_mode, st.st_uid, st.st_gid, (unsigned)st.st_nlink,
                S_ISDIR(st.st_mode) ? 0 : (long long)st.st_size, is_set ? " time set" : "",
                (unsigned long long)hash_attributes(under(root, names[i])));
    }
    require(fclose(out), "fclose", "");
    return text;
}
