/*
 * tests/faults/permissions/operations.c: what a program may try on a file in a directory.
 */
#include "operations.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "scene.h"

#define D   "b/d"
#define F   "b/d/f"
#define SUB "b/d/sub"
#define L   "b/d/l"
#define N   "b/d/n" /* not there yet */
#define E   "b/e"
#define X   "b/e/x"
#define EN  "b/e/n" /* not there yet */

uint64_t hash_bytes(const void *bytes, size_t length, uint64_t seed)
{
    uint64_t hash = seed ^ 14695981039346656037u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return hash;
}

uint64_t hash_names(const char *names, size_t length)
{
    uint64_t sum = 0;
    for (size_t at = 0; at < length; at += strlen(names + at) + 1)
        sum += hash_bytes(names + at, strlen(names + at), 0);
    return sum;
}

static int outcome(long result)
{
    return result < 0 ? -errno : 0;
}

/* ---- opening ---------------------------------------------------------------------- */

static int open_and_close(const char *path, int flags, mode_t mode)
{
    const int fd = open(path, flags | O_CLOEXEC, mode);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

#define OPENS(name, path, flags, mode)                                                             \
    static int name(const struct caller *caller, uint64_t *content)                                \
    {                                                                                              \
        (void)caller;                                                                              \
        (void)content;                                                                             \
        return open_and_close(path, flags, mode);                                                  \
    }

OPENS(open_read, F, O_RDONLY, 0)
OPENS(open_write, F, O_WRONLY, 0)
OPENS(open_both, F, O_RDWR, 0)
OPENS(open_truncate, F, O_WRONLY | O_TRUNC, 0)
OPENS(open_read_truncate, F, O_RDONLY | O_TRUNC, 0)
OPENS(open_create_there, F, O_WRONLY | O_CREAT, 0666)
OPENS(open_exclusive_there, F, O_WRONLY | O_CREAT | O_EXCL, 0666)
OPENS(open_create, N, O_RDWR | O_CREAT, 0666)
OPENS(open_create_all_bits, N, O_RDWR | O_CREAT, 07777)
OPENS(open_create_no_bits, N, O_RDWR | O_CREAT | O_EXCL, 0)
OPENS(open_create_below, SUB "/n", O_WRONLY | O_CREAT, 0644)
OPENS(open_noatime, F, O_RDONLY | O_NOATIME, 0)
OPENS(open_nofollow_link, L, O_RDONLY | O_NOFOLLOW, 0)
OPENS(open_link, L, O_RDWR, 0)
OPENS(open_path, F, O_PATH, 0)
OPENS(open_dir, D, O_RDONLY | O_DIRECTORY, 0)
OPENS(open_dir_write, D, O_WRONLY, 0)
OPENS(open_sub, SUB, O_RDONLY | O_DIRECTORY, 0)
OPENS(open_unnamed, D, O_TMPFILE | O_RDWR, 0666)

static int unnamed_gets_name(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    (void)content;
    char path[64];
    const int fd = open(D, O_TMPFILE | O_WRONLY | O_CLOEXEC, 06666);
    if (fd < 0)
        return -errno;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const int result = outcome(linkat(AT_FDCWD, path, AT_FDCWD, EN, AT_SYMLINK_FOLLOW));
    close(fd);
    return result;
}

/* Do something with a file that was opened. */
typedef long with_fd_fn(int fd);

static int with_file(const char *path, int flags, with_fd_fn *work)
{
    const int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const int result = outcome(work(fd));
    close(fd);
    return result;
}

static long write_byte(int fd)
{
    return write(fd, "w", 1);
}

static long write_nothing(int fd)
{
    return write(fd, "", 0);
}

static long truncate_open(int fd)
{
    return ftruncate(fd, 3);
}

static long allocate(int fd)
{
    return fallocate(fd, 0, 0, 10000);
}

static long punch(int fd)
{
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4);
}

static long copy_in(int fd)
{
    const int from = open(X, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return -1;
    const long result = copy_file_range(from, NULL, fd, NULL, 5, 0);
    const int err = errno;
    close(from);
    errno = err;
    return result;
}

static long change_mode_open(int fd)
{
    return fchmod(fd, 0640);
}

#define WITH(name, path, flags, work)                                                              \
    static int name(const struct caller *caller, uint64_t *content)                                \
    {                                                                                              \
        (void)caller;                                                                              \
        (void)content;                                                                             \
        return with_file(path, flags, work);                                                       \
    }

WITH(write_to, F, O_WRONLY, write_byte)
WITH(append_to, F, O_WRONLY | O_APPEND, write_byte)
WITH(write_nothing_to, F, O_WRONLY, write_nothing)
WITH(ftruncate_of, F, O_WRONLY, truncate_open)
WITH(fallocate_of, F, O_WRONLY, allocate)
WITH(punch_hole, F, O_RDWR, punch)
WITH(copy_range, F, O_WRONLY, copy_in)
WITH(fchmod_of, F, O_RDONLY, change_mode_open)

static int read_from(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    char bytes[64];
    const int fd = open(F, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const ssize_t length = read(fd, bytes, sizeof bytes);
    const int result = outcome(length);
    *content = hash_bytes(bytes, length > 0 ? (size_t)length : 0, 0);
    close(fd);
    return result;
}

static int list(const char *path, uint64_t *content)
{
    DIR *dir = opendir(path);
    if (!dir)
        return -errno;
    const struct dirent *entry;
    while ((entry = readdir(dir)))
        *content += hash_bytes(entry->d_name, strlen(entry->d_name), entry->d_type);
    closedir(dir);
    return 0;
}

static int list_dir(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    return list(D, content);
}

static int list_sub(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    return list(SUB, content);
}

/* What is there is no program: who may run it is told so. */
static int execute(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    (void)content;
    char *const arguments[] = {(char *)"f", NULL};
    return outcome(execve(F, arguments, arguments + 1));
}

/* ---- calls that take names only --------------------------------------------------------- */

#define CALLS(name, expression)                                                                    \
    static int name(const struct caller *caller, uint64_t *content)                                \
    {                                                                                              \
        (void)caller;                                                                              \
        (void)content;                                                                             \
        return outcome(expression);                                                                \
    }

CALLS(access_read, access(F, R_OK))
CALLS(access_write, access(F, W_OK))
CALLS(access_execute, access(F, X_OK))
CALLS(access_there, access(F, F_OK))
CALLS(access_all, faccessat(AT_FDCWD, F, R_OK | W_OK | X_OK, AT_EACCESS))
CALLS(access_dir_write, access(D, W_OK | X_OK))
CALLS(access_sub_search, access(SUB, X_OK))

CALLS(make_dir, mkdir(N, 0777))
CALLS(make_dir_all_bits, mkdir(N, 07777))
CALLS(make_dir_below, mkdir(SUB "/n", 0755))
CALLS(make_fifo, mknod(N, S_IFIFO | 0666, 0))
CALLS(make_regular, mknod(N, S_IFREG | 06777, 0))
CALLS(make_device, mknod(N, S_IFCHR | 0666, makedev(1, 3)))
CALLS(make_whiteout, mknod(N, S_IFCHR, 0))
CALLS(make_symlink, symlink("target", N))
CALLS(make_symlink_there, symlink("target", F))

CALLS(remove_file, unlink(F))
CALLS(remove_file_as_dir, rmdir(F))
CALLS(remove_link, unlink(L))
CALLS(remove_sub, rmdir(SUB))
CALLS(remove_sub_as_file, unlink(SUB))
CALLS(remove_absent, unlink(N))
CALLS(remove_dir, rmdir(D))

CALLS(rename_inside, rename(F, N))
CALLS(rename_out, rename(F, EN))
CALLS(rename_in, rename(X, N))
CALLS(rename_over_outer, rename(F, X))
CALLS(rename_over_inner, rename(X, F))
CALLS(rename_sub_out, rename(SUB, EN))
CALLS(rename_sub_inside, rename(SUB, N))
CALLS(rename_file_over_dir, rename(X, SUB))
CALLS(rename_exchange, renameat2(AT_FDCWD, F, AT_FDCWD, X, RENAME_EXCHANGE))
CALLS(rename_exchange_dir, renameat2(AT_FDCWD, SUB, AT_FDCWD, X, RENAME_EXCHANGE))
CALLS(rename_no_replace, renameat2(AT_FDCWD, X, AT_FDCWD, F, RENAME_NOREPLACE))

CALLS(link_inside, link(F, N))
CALLS(link_out, link(F, EN))
CALLS(link_in, link(X, N))
CALLS(link_symlink, link(L, EN))
CALLS(link_dir, link(SUB, EN))

CALLS(mode_plain, chmod(F, 0640))
CALLS(mode_all_bits, chmod(F, 07777))
CALLS(mode_setgid_only, chmod(F, 02644))
CALLS(mode_dir, chmod(D, 03777))
CALLS(mode_sub, chmod(SUB, 02770))

CALLS(owner_self, chown(F, caller->uid, (gid_t)-1))
CALLS(owner_other, chown(F, 1002, (gid_t)-1))
CALLS(owner_none, chown(F, (uid_t)-1, (gid_t)-1))
CALLS(group_own, chown(F, (uid_t)-1, caller->gid))
CALLS(group_other, chown(F, (uid_t)-1, caller->other_gid))
CALLS(owner_and_group, chown(F, caller->uid, caller->gid))
CALLS(group_dir, chown(D, (uid_t)-1, caller->gid))
CALLS(group_sub, chown(SUB, (uid_t)-1, caller->other_gid))
CALLS(owner_link, lchown(L, caller->uid, caller->gid))

static const struct timespec explicit_times[2] = {{EXPLICIT_SECONDS, 1}, {EXPLICIT_SECONDS, 2}};
static const struct timespec half_times[2] = {{0, UTIME_OMIT}, {EXPLICIT_SECONDS, 3}};
static const struct timespec half_now[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
static const struct timespec no_times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};

CALLS(times_now, utimensat(AT_FDCWD, F, NULL, 0))
CALLS(times_explicit, utimensat(AT_FDCWD, F, explicit_times, 0))
CALLS(times_half, utimensat(AT_FDCWD, F, half_times, 0))
CALLS(times_half_now, utimensat(AT_FDCWD, F, half_now, 0))
CALLS(times_none, utimensat(AT_FDCWD, F, no_times, 0))
CALLS(times_dir, utimensat(AT_FDCWD, D, explicit_times, 0))
CALLS(times_link, utimensat(AT_FDCWD, L, explicit_times, AT_SYMLINK_NOFOLLOW))

CALLS(truncate_shorter, truncate(F, 0))
CALLS(truncate_same, truncate(F, SCENE_CONTENT_BYTES))
CALLS(truncate_longer, truncate(F, 10000))
CALLS(truncate_dir, truncate(SUB, 0))

CALLS(change_dir, syscall(SYS_faccessat2, AT_FDCWD, D "/.", X_OK, AT_EACCESS))

static int status_of(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    struct stat status;
    if (stat(F, &status))
        return -errno;
    *content = ((uint64_t)status.st_mode << 32) + status.st_uid + status.st_gid;
    return 0;
}

static int status_of_link(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    char target[64];
    const ssize_t length = readlink(L, target, sizeof target);
    *content = length > 0 ? hash_bytes(target, (size_t)length, 0) : 0;
    return outcome(length);
}

static int status_of_fs(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    (void)content;
    struct statfs status;
    return outcome(statfs(F, &status));
}

/* ---- extended attributes ---------------------------------------------------------------- */

static int get(const char *path, const char *name, uint64_t *content)
{
    char value[1024];
    const ssize_t length = getxattr(path, name, value, sizeof value);
    *content = length > 0 ? hash_bytes(value, (size_t)length, 0) : 0;
    return outcome(length);
}

#define GETS(function, path, name)                                                                 \
    static int function(const struct caller *caller, uint64_t *content)                            \
    {                                                                                              \
        (void)caller;                                                                              \
        return get(path, name, content);                                                           \
    }

GETS(get_user, F, "user.kept")
GETS(get_user_dir, D, "user.kept")
GETS(get_trusted, F, "trusted.kept")
GETS(get_security, F, "security.kept")
GETS(get_acl, F, SCENE_ACCESS_ACL)
GETS(get_default_acl, D, SCENE_DEFAULT_ACL)
GETS(get_absent, F, "user.absent")

CALLS(set_user, setxattr(F, "user.new", "v", 1, 0))
CALLS(set_user_dir, setxattr(D, "user.new", "v", 1, 0))
CALLS(set_user_sub, setxattr(SUB, "user.new", "v", 1, 0))
CALLS(set_user_link, lsetxattr(L, "user.new", "v", 1, 0))
CALLS(set_trusted, setxattr(F, "trusted.new", "v", 1, 0))
CALLS(set_security, setxattr(F, "security.new", "v", 1, 0))
CALLS(set_create_there, setxattr(F, "user.kept", "v", 1, XATTR_CREATE))
CALLS(set_replace_absent, setxattr(F, "user.absent", "v", 1, XATTR_REPLACE))
CALLS(set_unknown, setxattr(F, "unknown.new", "v", 1, 0))
CALLS(remove_user, removexattr(F, "user.kept"))
CALLS(remove_trusted, removexattr(F, "trusted.kept"))
CALLS(remove_security, removexattr(F, "security.kept"))
CALLS(remove_absent_user, removexattr(F, "user.absent"))
CALLS(remove_acl, removexattr(F, SCENE_ACCESS_ACL))
CALLS(remove_default_acl, removexattr(D, SCENE_DEFAULT_ACL))

static int set_list(const char *path, const char *name, enum scene_acl kind)
{
    uint8_t list[SCENE_ACL_MAX];
    const size_t length = scene_acl_bytes(kind, list);
    return outcome(setxattr(path, name, list, length, 0));
}

#define SETS_ACL(function, path, name, kind)                                                       \
    static int function(const struct caller *caller, uint64_t *content)                            \
    {                                                                                              \
        (void)caller;                                                                              \
        (void)content;                                                                             \
        return set_list(path, name, kind);                                                         \
    }

SETS_ACL(set_acl, F, SCENE_ACCESS_ACL, SCENE_ACL_USER)
SETS_ACL(set_acl_minimal, F, SCENE_ACCESS_ACL, SCENE_ACL_MINIMAL)
SETS_ACL(set_acl_masked, F, SCENE_ACCESS_ACL, SCENE_ACL_MASKED)
SETS_ACL(set_acl_dir, D, SCENE_ACCESS_ACL, SCENE_ACL_GROUP)
SETS_ACL(set_default_acl, D, SCENE_DEFAULT_ACL, SCENE_ACL_GROUP)
SETS_ACL(set_default_acl_minimal, D, SCENE_DEFAULT_ACL, SCENE_ACL_MINIMAL)
SETS_ACL(set_default_acl_of_file, F, SCENE_DEFAULT_ACL, SCENE_ACL_USER)
SETS_ACL(set_empty_acl, F, SCENE_ACCESS_ACL, SCENE_ACL_EMPTY)

static int list_names(const struct caller *caller, uint64_t *content)
{
    (void)caller;
    char names[1024];
    const ssize_t length = listxattr(F, names, sizeof names);
    *content = length > 0 ? hash_names(names, (size_t)length) : 0;
    return outcome(length);
}

#define OPERATION(function)                                                                        \
    {                                                                                              \
#function, function                                                                        \
    }

const struct operation operations[] = {
    OPERATION(open_read),
    OPERATION(open_write),
    OPERATION(open_both),
    OPERATION(open_truncate),
    OPERATION(open_read_truncate),
    OPERATION(open_create_there),
    OPERATION(open_exclusive_there),
    OPERATION(open_create),
    OPERATION(open_create_all_bits),
    OPERATION(open_create_no_bits),
    OPERATION(open_create_below),
    OPERATION(open_noatime),
    OPERATION(open_nofollow_link),
    OPERATION(open_link),
    OPERATION(open_path),
    OPERATION(open_dir),
    OPERATION(open_dir_write),
    OPERATION(open_sub),
    OPERATION(open_unnamed),
    OPERATION(unnamed_gets_name),
    OPERATION(write_to),
    OPERATION(append_to),
    OPERATION(write_nothing_to),
    OPERATION(ftruncate_of),
    OPERATION(fallocate_of),
    OPERATION(punch_hole),
    OPERATION(copy_range),
    OPERATION(fchmod_of),
    OPERATION(read_from),
    OPERATION(list_dir),
    OPERATION(list_sub),
    OPERATION(execute),
    OPERATION(access_read),
    OPERATION(access_write),
    OPERATION(access_execute),
    OPERATION(access_there),
    OPERATION(access_all),
    OPERATION(access_dir_write),
    OPERATION(access_sub_search),
    OPERATION(make_dir),
    OPERATION(make_dir_all_bits),
    OPERATION(make_dir_below),
    OPERATION(make_fifo),
    OPERATION(make_regular),
    OPERATION(make_device),
    OPERATION(make_whiteout),
    OPERATION(make_symlink),
    OPERATION(make_symlink_there),
    OPERATION(remove_file),
    OPERATION(remove_file_as_dir),
    OPERATION(remove_link),
    OPERATION(remove_sub),
    OPERATION(remove_sub_as_file),
    OPERATION(remove_absent),
    OPERATION(remove_dir),
    OPERATION(rename_inside),
    OPERATION(rename_out),
    OPERATION(rename_in),
    OPERATION(rename_over_outer),
    OPERATION(rename_over_inner),
    OPERATION(rename_sub_out),
    OPERATION(rename_sub_inside),
    OPERATION(rename_file_over_dir),
    OPERATION(rename_exchange),
    OPERATION(rename_exchange_dir),
    OPERATION(rename_no_replace),
    OPERATION(link_inside),
    OPERATION(link_out),
    OPERATION(link_in),
    OPERATION(link_symlink),
    OPERATION(link_dir),
    OPERATION(mode_plain),
    OPERATION(mode_all_bits),
    OPERATION(mode_setgid_only),
    OPERATION(mode_dir),
    OPERATION(mode_sub),
    OPERATION(owner_self),
    OPERATION(owner_other),
    OPERATION(owner_none),
    OPERATION(group_own),
    OPERATION(group_other),
    OPERATION(owner_and_group),
    OPERATION(group_dir),
    OPERATION(group_sub),
    OPERATION(owner_link),
    OPERATION(times_now),
    OPERATION(times_explicit),
    OPERATION(times_half),
    OPERATION(times_half_now),
    OPERATION(times_none),
    OPERATION(times_dir),
    OPERATION(times_link),
    OPERATION(truncate_shorter),
    OPERATION(truncate_same),
    OPERATION(truncate_longer),
    OPERATION(truncate_dir),
    OPERATION(change_dir),
    OPERATION(status_of),
    OPERATION(status_of_link),
    OPERATION(status_of_fs),
    OPERATION(get_user),
    OPERATION(get_user_dir),
    OPERATION(get_trusted),
    OPERATION(get_security),
    OPERATION(get_acl),
    OPERATION(get_default_acl),
    OPERATION(get_absent),
    OPERATION(set_user),
    OPERATION(set_user_dir),
    OPERATION(set_user_sub),
    OPERATION(set_user_link),
    OPERATION(set_trusted),
    OPERATION(set_security),
    OPERATION(set_create_there),
    OPERATION(set_replace_absent),
    OPERATION(set_unknown),
    OPERATION(remove_user),
    OPERATION(remove_trusted),
    OPERATION(remove_security),
    OPERATION(remove_absent_user),
    OPERATION(remove_acl),
    OPERATION(remove_default_acl),
    OPERATION(set_acl),
    OPERATION(set_acl_minimal),
    OPERATION(set_acl_masked),
    OPERATION(set_acl_dir),
    OPERATION(set_default_acl),
    OPERATION(set_default_acl_minimal),
    OPERATION(set_default_acl_of_file),
    OPERATION(set_empty_acl),
    OPERATION(list_names),
};
const size_t operation_count = sizeof operations / sizeof operations[0];
