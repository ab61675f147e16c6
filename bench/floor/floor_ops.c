/*
 * bench/floor/floor_ops.c: what kvfs answers, from memory (or from plain files) and without an
 * engine.
 *
 * Invariant  the kernel is told the same as by kvfs (fs/fuse_ops.c): the same flags at INIT, the
 *            same lifetimes, ENOSYS for the same operations. So the same requests come.
 * Locks      none is held when a request is answered.
 *
 * A node's number is its address: the kernel names none that it has not been told. What the
 * workloads do not need is left out: permissions are the kernel's, setgid is not inherited,
 * there are no extended attributes (but the answer ENODATA, which keeps the kernel asking).
 */
#define FUSE_USE_VERSION 314

#include "bench/floor/floor_ops.h"

#include <fuse_lowlevel.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <unistd.h>

#include "bench/floor/floor_dir.h"
#include "bench/floor/floor_disk.h"
#include "fs/mount.h"
#include "fs/request_form.h"

static struct floor *floor_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static struct floor_node *node_of(fuse_req_t req, fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? floor_of(req)->root : (struct floor_node *)(uintptr_t)ino;
}

/* ---- answers ---------------------------------------------------------------------- */

/* A reference has been counted for it, unless node is NULL: there is no such name. */
static void reply_node(fuse_req_t req, struct floor_node *node, const struct stat *stat)
{
    struct fuse_entry_param entry = {.entry_timeout = (double)FS_CACHE_SECONDS};
    if (node) {
        entry.ino = (uintptr_t)node;
        entry.attr = *stat;
        entry.attr_timeout = (double)FS_CACHE_SECONDS;
    }
    if (fuse_reply_entry(req, &entry) && node) /* interrupted: the kernel did not count */
        floor_node_unref(node, 1);
}

/* Nobody waits for an answer that can not be given: its result is of no use. */
static void reply_err(fuse_req_t req, int err)
{
    (void)fuse_reply_err(req, -err);
}

/* ---- names ------------------------------------------------------------------------ */

static void do_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    fs_protocol_negotiate(conn, false, true, 0);
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct floor_dir *dir = node_of(req, parent)->dir;
    struct stat stat;
    floor_dir_lock(dir);
    const struct floor_entry *entry = floor_dir_find(dir, name);
    struct floor_node *node = entry ? entry->node : NULL;
    if (node)
        floor_node_ref(node, &stat);
    floor_dir_unlock(dir);
    reply_node(req, node, &stat);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    if (ino != FUSE_ROOT_ID)
        floor_node_unref(node_of(req, ino), count);
    fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        if (forgets[i].ino != FUSE_ROOT_ID)
            floor_node_unref(node_of(req, forgets[i].ino), forgets[i].nlookup);
    fuse_reply_none(req);
}

/* Give a node a name that must not be there. Counts a reference. */
static int add_name(struct floor_node *parent, const char *name, struct floor_node *node,
                    struct stat *stat)
{
    floor_dir_lock(parent->dir);
    int err = floor_dir_find(parent->dir, name) ? -EEXIST : 0;
    if (!err)
        err = floor_dir_add(parent->dir, name, node);
    if (!err) {
        floor_node_name(node);
        floor_node_ref(node, stat);
        floor_node_touch(parent, node->dir ? 1 : 0);
    }
    floor_dir_unlock(parent->dir);
    return err;
}

static void make_node(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev,
                      const char *target)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    struct stat stat;
    struct floor_node *node =
        floor_node_new(mode & ~(target ? 0 : ctx->umask), ctx->uid, ctx->gid, rdev, parent);
    int err = node ? 0 : -ENOMEM;
    if (!err && target) {
        node->target = strdup(target);
        node->stat.st_size = (off_t)strlen(target);
        err = node->target ? 0 : -ENOMEM;
    }
    if (!err)
        err = add_name(node_of(req, parent), name, node, &stat);
    if (!err) {
        reply_node(req, node, &stat);
        return;
    }
    if (node)
        floor_node_free(node);
    reply_err(req, err);
}

static void do_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    make_node(req, parent, name, mode, rdev, NULL);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    make_node(req, parent, name, S_IFDIR | (mode & 07777u), 0, NULL);
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    make_node(req, parent, name, S_IFLNK | 0777, 0, target);
}

static void do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct floor_node *node = node_of(req, ino);
    struct stat stat;
    const int err = add_name(node_of(req, parent), name, node, &stat);
    if (err)
        reply_err(req, err);
    else
        reply_node(req, node, &stat);
}

/* Take the entry and its node's name away. Under the lock of the entries. */
static void drop_entry(struct floor_node *parent, struct floor_entry *entry)
{
    struct floor_node *node = entry->node;
    floor_node_touch(parent, node->dir ? -1 : 0);
    floor_dir_remove(parent->dir, entry);
    floor_node_unname(node);
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct floor_node *above = node_of(req, parent);
    floor_dir_lock(above->dir);
    struct floor_entry *entry = floor_dir_find(above->dir, name);
    int err = entry ? 0 : -ENOENT;
    /* The kernel lets nobody into a directory that it removes: its count stands. */
    if (!err && entry->node->dir && floor_dir_count(entry->node->dir))
        err = -ENOTEMPTY;
    if (!err)
        drop_entry(above, entry);
    floor_dir_unlock(above->dir);
    reply_err(req, err);
}

/* Both directories are locked. */
static int move_entry(struct floor_node *from, const char *name, struct floor_node *to,
                      const char *new_name, unsigned flags)
{
    struct floor_entry *entry = floor_dir_find(from->dir, name);
    struct floor_entry *old = floor_dir_find(to->dir, new_name);
    if (!entry || ((flags & RENAME_EXCHANGE) && !old))
        return -ENOENT;
    if (flags & RENAME_EXCHANGE) {
        if (entry->node->dir || old->node->dir) /* links and parents would change with it */
            return -EOPNOTSUPP;
        struct floor_node *node = entry->node;
        entry->node = old->node;
        old->node = node;
        return 0;
    }
    if (old && (flags & RENAME_NOREPLACE))
        return -EEXIST;
    struct floor_node *node = entry->node;
    if (old && old->node == node)
        return 0;
    if (old && old->node->dir && floor_dir_count(old->node->dir))
        return -ENOTEMPTY;
    if (old)
        drop_entry(to, old);
    const int err = floor_dir_add(to->dir, new_name, node);
    if (err)
        return err;
    floor_dir_remove(from->dir, entry);
    floor_node_touch(from, node->dir ? -1 : 0);
    floor_node_touch(to, node->dir ? 1 : 0);
    return 0;
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    struct floor_node *from = node_of(req, parent);
    struct floor_node *to = node_of(req, new_parent);
    floor_dir_lock_two(from->dir, to->dir);
    const int err = move_entry(from, name, to, new_name, flags);
    const struct floor_entry *entry = err ? NULL : floor_dir_find(to->dir, new_name);
    if (entry && entry->node->dir)
        floor_dir_set_parent(entry->node->dir, new_parent);
    floor_dir_unlock_two(from->dir, to->dir);
    reply_err(req, err);
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
    (void)fuse_reply_readlink(req, node_of(req, ino)->target);
}

/* ---- attributes and contents ---------------------------------------------------------- */

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct stat stat;
    floor_node_stat(node_of(req, ino), &stat);
    (void)fuse_reply_attr(req, &stat, (double)FS_CACHE_SECONDS);
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    (void)fi;
    struct floor_node *node = node_of(req, ino);
    struct stat stat;
    const int err =
        to_set & FUSE_SET_ATTR_SIZE ? floor_disk_truncate(node->disk, (uint64_t)attr->st_size) : 0;
    if (err) {
        reply_err(req, err);
        return;
    }
    floor_node_set(node, attr, to_set, &stat);
    (void)fuse_reply_attr(req, &stat, (double)FS_CACHE_SECONDS);
}

/* As kvfs: there is nothing to do, and the kernel asks once. */
static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    reply_err(req, -ENOSYS);
}

/* ---- contents on the disk -------------------------------------------------------------- */

/* A read that waits for it. */
struct disk_read {
    fuse_req_t req;
    uint8_t *buf;
    size_t size; /* so much of the file there is */
};

static void answer_disk_read(const struct disk_read *read, int result)
{
    if (result < 0) {
        reply_err(read->req, result);
        return;
    }
    if ((size_t)result < read->size) /* a hole behind what was written */
        memset(read->buf + result, 0, read->size - (size_t)result);
    (void)fuse_reply_buf(read->req, (const char *)read->buf, read->size);
}

static void end_disk_read(void *context, int result)
{
    struct disk_read *read = context;
    answer_disk_read(read, result);
    free(read);
}

/* As kvfs does it: by itself in this thread, beside others in the ring. */
static void read_disk(struct disk_read *read, const struct floor_disk_file *disk, uint64_t offset)
{
    size_t length = read->size;
    const int fd = floor_disk_reader(disk, offset, read->buf, FS_REPLY_MAX, &length);
    struct disk_read *const waiting = fs_transport_should_await() ? malloc(sizeof *waiting) : NULL;
    if (!waiting) {
        const ssize_t got = pread(fd, read->buf, length, (off_t)offset);
        answer_disk_read(read, got < 0 ? -errno : (int)got);
        return;
    }
    *waiting = *read;
    const struct fs_transport_read wanted = {.fd = fd,
                                             .offset = offset,
                                             .buf = read->buf,
                                             .length = (uint32_t)length,
                                             .done = end_disk_read,
                                             .context = waiting};
    fs_transport_await(&wanted);
}

/* ---- reading and writing --------------------------------------------------------------- */

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    (void)fi;
    uint8_t *buf = fs_transport_buffer();
    if (!buf || size > FS_REPLY_MAX) {
        reply_err(req, -ENOMEM);
        return;
    }
    struct floor_node *node = node_of(req, ino);
    uint64_t end;
    const struct floor_disk_file *disk = floor_node_disk(node, &end);
    if (!disk) {
        const size_t got = floor_node_read(node, (uint64_t)offset, buf, size);
        (void)fuse_reply_buf(req, (const char *)buf, got);
        return;
    }
    const uint64_t behind = end > (uint64_t)offset ? end - (uint64_t)offset : 0;
    struct disk_read read = {.req = req, .buf = buf, .size = kv_min_u64(size, behind)};
    if (read.size)
        read_disk(&read, disk, (uint64_t)offset);
    else
        (void)fuse_reply_buf(req, NULL, 0);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    (void)fi;
    const int err =
        floor_node_write(node_of(req, ino), (uint64_t)offset, (const uint8_t *)bytes, size);
    if (err)
        reply_err(req, err);
    else
        (void)fuse_reply_write(req, size);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)datasync;
    (void)fi;
    uint64_t size;
    reply_err(req, floor_disk_sync(floor_node_disk(node_of(req, ino), &size)));
}

static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
    (void)fi;
    struct floor_node *node = node_of(req, ino);
    struct stat stat;
    if (mode) {
        reply_err(req, -EOPNOTSUPP);
        return;
    }
    floor_node_stat(node, &stat);
    if (stat.st_size < offset + length) {
        stat.st_size = offset + length;
        floor_node_set(node, &stat, FUSE_SET_ATTR_SIZE, &stat);
    }
    reply_err(req, 0);
}

static void do_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                     struct fuse_file_info *fi)
{
    (void)fi;
    struct stat stat;
    floor_node_stat(node_of(req, ino), &stat);
    if (offset < 0 || offset >= stat.st_size)
        reply_err(req, -ENXIO);
    else
        (void)fuse_reply_lseek(req, whence == SEEK_HOLE ? stat.st_size : offset);
}

/* ---- listing --------------------------------------------------------------------------- */

struct listing {
    fuse_req_t req;
    char *bytes;
    size_t used, cap;
    bool with_attributes;
};

/* Returns false when it is full. node: NULL for "." and "..", of which only `ino` is told. */
static bool add_entry(struct listing *listing, const char *name, uint64_t position,
                      struct floor_node *node, uint64_t ino)
{
    struct fuse_entry_param entry = {.attr = {.st_ino = ino, .st_mode = S_IFDIR}};
    if (node) {
        if (listing->with_attributes)
            floor_node_ref(node, &entry.attr);
        else
            floor_node_stat(node, &entry.attr);
        entry.ino = (uintptr_t)node;
        entry.attr_timeout = entry.entry_timeout = (double)FS_CACHE_SECONDS;
    }
    char *at = listing->bytes + listing->used;
    const size_t room = listing->cap - listing->used;
    const size_t length =
        listing->with_attributes
            ? fuse_add_direntry_plus(listing->req, at, room, name, &entry, (off_t)position)
            : fuse_add_direntry(listing->req, at, room, name, &entry.attr, (off_t)position);
    if (length > room) {
        if (node && listing->with_attributes)
            floor_node_unref(node, 1);
        return false;
    }
    listing->used += length;
    return true;
}

static void fill_listing(struct listing *listing, struct floor_node *node, uint64_t ino,
                         uint64_t position)
{
    if (position < FLOOR_POSITION_DOT) {
        if (!add_entry(listing, ".", FLOOR_POSITION_DOT, NULL, ino))
            return;
        position = FLOOR_POSITION_DOT;
    }
    if (position < FLOOR_POSITION_DOT_DOT) {
        if (!add_entry(listing, "..", FLOOR_POSITION_DOT_DOT, NULL, floor_dir_parent(node->dir)))
            return;
        position = FLOOR_POSITION_DOT_DOT;
    }
    const struct floor_entry *entry;
    while ((entry = floor_dir_after(node->dir, position)) &&
           add_entry(listing, entry->name, entry->position, entry->node, 0))
        position = entry->position;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t position, bool with_attributes)
{
    struct floor_node *node = node_of(req, ino);
    struct listing listing = {
        .req = req,
        .bytes = fs_transport_buffer(),
        .cap = kv_min_u64(size, FS_REPLY_MAX),
        .with_attributes = with_attributes,
    };
    if (!listing.bytes) {
        reply_err(req, -ENOMEM);
        return;
    }
    floor_dir_lock(node->dir);
    fill_listing(&listing, node, ino, (uint64_t)position);
    floor_dir_unlock(node->dir);
    /* A listing that does not arrive leaves its references behind: it ends with the mount. */
    (void)fuse_reply_buf(req, listing.bytes, listing.used);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t position,
                       struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, position, false);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t position,
                           struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, position, true);
}

/* ---- the whole ---------------------------------------------------------------------------- */

/* The counts of requests, under the name that kvfs has for its figures; no other attribute, and of
 * labels what kvfs says where there are none. */
static void do_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    if (ino != FUSE_ROOT_ID || strcmp(name, FS_XATTR_STATS) != 0) {
        reply_err(req, strcmp(name, "security.selinux") == 0 ? -EOPNOTSUPP : -ENODATA);
        return;
    }
    char requests[2048], text[2200];
    (void)fs_counters_json(&floor_of(req)->counters, requests, sizeof requests);
    const size_t length = (size_t)snprintf(text, sizeof text, "{\"requests\": %s}\n", requests);
    if (size == 0)
        (void)fuse_reply_xattr(req, length);
    else if (size < length)
        reply_err(req, -ERANGE);
    else
        (void)fuse_reply_buf(req, text, length);
}

static void do_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    (void)ino;
    if (size == 0)
        (void)fuse_reply_xattr(req, 0);
    else
        (void)fuse_reply_buf(req, NULL, 0);
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
    (void)ino;
    const struct statvfs stat = {
        .f_bsize = 4096,
        .f_frsize = 4096,
        .f_blocks = 1u << 28,
        .f_bfree = 1u << 28,
        .f_bavail = 1u << 28,
        .f_namemax = NAME_MAX,
    };
    (void)fuse_reply_statfs(req, &stat);
}

const struct fuse_lowlevel_ops floor_ops = {
    .init = do_init,
    .lookup = do_lookup,
    .forget = do_forget,
    .forget_multi = do_forget_multi,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .readlink = do_readlink,
    .mknod = do_mknod,
    .mkdir = do_mkdir,
    .unlink = remove_name,
    .rmdir = remove_name,
    .symlink = do_symlink,
    .rename = do_rename,
    .link = do_link,
    .open = do_open,
    .opendir = do_open,
    .read = do_read,
    .write = do_write,
    .fsync = do_fsync,
    .readdir = do_readdir,
    .readdirplus = do_readdirplus,
    .fsyncdir = do_fsync,
    .statfs = do_statfs,
    .getxattr = do_getxattr,
    .listxattr = do_listxattr,
    .fallocate = do_fallocate,
    .lseek = do_lseek,
};

/* The two operations that the protocol of kvfs answers from its volume: ENOSYS here. */
static size_t see_request(void *context, void *bytes, size_t length)
{
    struct floor *floor = context;
    struct fuse_in_header header;
    if (length >= sizeof header) {
        memcpy(&header, bytes, sizeof header);
        if (header.opcode == FUSE_TMPFILE || header.opcode == FS_FUSE_STATX) {
            struct fuse_out_header out = {
                .len = sizeof out, .error = -ENOSYS, .unique = header.unique};
            const struct iovec piece = {.iov_base = &out, .iov_len = sizeof out};
            const int err = fs_transport_reply(&piece, 1);
            (void)err; /* nobody waits for it any more */
            return 0;
        }
    }
    return floor->kernel.request(floor->kernel.context, bytes, length);
}

static bool see_reply(void *context, struct iovec *pieces, int count, bool ring)
{
    struct floor *floor = context;
    return floor->kernel.reply(floor->kernel.context, pieces, count, ring);
}

int floor_init(struct floor *floor)
{
    floor->root = floor_node_new(S_IFDIR | 0755, 0, 0, 0, FUSE_ROOT_ID);
    if (!floor->root)
        return -ENOMEM;
    floor_node_name(floor->root);
    floor->root->stat.st_ino = FUSE_ROOT_ID;
    fs_protocol_init(&floor->protocol, NULL, &floor->counters);
    floor->kernel = fs_protocol_hooks(&floor->protocol, NULL, NULL);
    return 0;
}

struct fs_transport_hooks floor_hooks(struct floor *floor)
{
    return (struct fs_transport_hooks){
        .context = floor,
        .request = see_request,
        .reply = see_reply,
    };
}
