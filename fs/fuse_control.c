/*
 * fs/fuse_control.c: requests about the control directory, in terms of fs/control.h.
 *
 * Owns       nothing.
 * Caching    the kernel may keep what a node holds and its attributes, for they do not change but
 *            by its own requests; it may not keep the name of a node, so that who opens the file
 *            again gets a new one.
 */
#define FUSE_USE_VERSION 314

#include "fs/fuse_control.h"

#include <unistd.h>

#include "fs/control.h"

static struct fs_fuse *fuse_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static struct fs_control *control_of(fuse_req_t req)
{
    return fuse_of(req)->control;
}

bool fs_fuse_is_operator(fuse_req_t req)
{
    const uint32_t uid = fuse_req_ctx(req)->uid;
    return uid == 0 || uid == fuse_of(req)->owner;
}

static void reply_error(fuse_req_t req, int err)
{
    (void)fuse_reply_err(req, -err); /* nobody waits, or he gets it: see fs/fuse_ops.c */
}

bool fs_fuse_control_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fs_control *control = control_of(req);
    if (!fs_control_has_entry(control, parent, name))
        return false;
    struct fuse_entry_param entry = {.attr_timeout = (double)FS_CACHE_SECONDS};
    const int err =
        fs_control_lookup(control, parent, name, fs_fuse_is_operator(req), &entry.ino, &entry.attr);
    if (err) {
        reply_error(req, err);
        return true;
    }
    if (parent == FS_ROOT_INO)
        entry.entry_timeout = (double)FS_CACHE_SECONDS; /* the directory stays what it is */
    if (fuse_reply_entry(req, &entry))                  /* interrupted: the kernel did not count */
        fs_control_forget(control, entry.ino, 1);
    return true;
}

static void reply_attributes(fuse_req_t req, fuse_ino_t ino)
{
    struct stat stat;
    const int err = fs_control_getattr(control_of(req), ino, &stat);
    if (err)
        reply_error(req, err);
    else
        (void)fuse_reply_attr(req, &stat, (double)FS_CACHE_SECONDS);
}

bool fs_fuse_control_getattr(fuse_req_t req, fuse_ino_t ino)
{
    if (!fs_control_owns(ino))
        return false;
    reply_attributes(req, ino);
    return true;
}

/* Only what opening for writing, and writing, asks for: length 0, and times, which stay. */
bool fs_fuse_control_setattr(fuse_req_t req, fuse_ino_t ino, const struct stat *attr, int to_set)
{
    if (!fs_control_owns(ino))
        return false;
    int err = 0;
    if (!fs_fuse_is_operator(req) ||
        (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
        err = fs_control_refuse(control_of(req), "setattr", NULL);
    else if (to_set & FUSE_SET_ATTR_SIZE)
        err = fs_control_truncate(control_of(req), ino, (uint64_t)attr->st_size);
    if (err)
        reply_error(req, err);
    else
        reply_attributes(req, ino);
    return true;
}

bool fs_fuse_control_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset)
{
    if (!fs_control_owns(ino))
        return false;
    void *buf = fs_transport_buffer();
    size_t got = 0;
    int err = buf && size <= FS_REPLY_MAX ? 0 : -ENOMEM;
    if (!err)
        err = offset < 0 ? -EINVAL
                         : fs_control_read(control_of(req), ino, (uint64_t)offset, buf, size, &got);
    if (err)
        reply_error(req, err);
    else
        (void)fuse_reply_buf(req, buf, got);
    return true;
}

bool fs_fuse_control_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size,
                           off_t offset, bool by_kernel)
{
    if (!fs_control_owns(ino))
        return false;
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    /* What the kernel gathered it writes in nobody's name: then it is who mounted, at most. */
    const struct fs_caller caller = {.uid = by_kernel ? fuse_of(req)->owner : ctx->uid,
                                     .gid = by_kernel ? (uint32_t)getegid() : ctx->gid,
                                     .umask = ctx->umask};
    int err;
    /* Of pages that it gathered, the kernel has asked who may when the file was opened. */
    if (!by_kernel && !fs_fuse_is_operator(req))
        err = -EPERM;
    else
        err = offset < 0
                  ? -EINVAL
                  : fs_control_write(control_of(req), ino, &caller, (uint64_t)offset, bytes, size);
    if (err)
        reply_error(req, err);
    else
        (void)fuse_reply_write(req, size);
    return true;
}

bool fs_fuse_control_list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t cookie,
                          bool with_attributes)
{
    struct stat directory;
    if (!fs_control_owns(ino))
        return false;
    char *bytes = fs_transport_buffer();
    const size_t cap = kv_min_u64(size, FS_REPLY_MAX);
    int err = bytes ? fs_control_getattr(control_of(req), ino, &directory) : -ENOMEM;
    if (!err && !S_ISDIR(directory.st_mode))
        err = -ENOTDIR;
    if (err) {
        reply_error(req, err);
        return true;
    }
    size_t used = 0;
    for (size_t i = cookie < 0 ? SIZE_MAX / 2 : (size_t)cookie;; i++) {
        /* Number 0: nothing is known of the node, there is none before it is looked up. */
        struct fuse_entry_param entry = {.ino = 0};
        const char *name = fs_control_entry(i, &entry.attr);
        if (!name)
            break;
        const off_t next = (off_t)i + 1;
        const size_t length =
            with_attributes
                ? fuse_add_direntry_plus(req, bytes + used, cap - used, name, &entry, next)
                : fuse_add_direntry(req, bytes + used, cap - used, name, &entry.attr, next);
        if (length > cap - used)
            break;
        used += length;
    }
    (void)fuse_reply_buf(req, bytes, used);
    return true;
}

bool fs_fuse_control_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence)
{
    struct stat stat;
    if (!fs_control_owns(ino))
        return false;
    int err = fs_control_getattr(control_of(req), ino, &stat);
    if (!err && whence != SEEK_DATA && whence != SEEK_HOLE)
        err = -EINVAL;
    else if (!err && (offset < 0 || offset >= stat.st_size))
        err = -ENXIO;
    if (err)
        reply_error(req, err);
    else
        (void)fuse_reply_lseek(req, whence == SEEK_DATA ? offset : stat.st_size);
    return true;
}

bool fs_fuse_control_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    if (!fs_control_owns(ino))
        return false;
    fs_control_forget(control_of(req), ino, count);
    return true;
}

bool fs_fuse_control_refuse(fuse_req_t req, const char *what, fuse_ino_t parent, const char *name)
{
    struct fs_control *control = control_of(req);
    if (!fs_control_has_entry(control, parent, name))
        return false;
    reply_error(req, fs_control_refuse(control, what, name));
    return true;
}

bool fs_fuse_control_answer(fuse_req_t req, fuse_ino_t ino, int err)
{
    if (!fs_control_owns(ino))
        return false;
    reply_error(req, err);
    return true;
}
