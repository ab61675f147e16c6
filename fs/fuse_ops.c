/*
 * fs/fuse_ops.c: what the kernel asks, in terms of fs/volume.h, and the answers.
 *
 * Invariant  every request gets exactly one answer, and never while a lock is held: the
 *            operations have returned by then.
 * Caching    nothing but this mount changes the image, so every answer is good for ever; the
 *            kernel itself invalidates what its own requests change.
 *
 * open and opendir answer ENOSYS: that tells the kernel, once, that there is nothing to do,
 * and so does libfuse for flush and access, which have no handler. Nor has create: MKNOD and
 * no open are one request, CREATE is two (the file it opens is released). Locks have none
 * either, so the kernel keeps them.
 */
#define FUSE_USE_VERSION 314

#include "fs/fuse_control.h"

#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include "fs/control.h"
#include "fs/cookie.h"
#include "fs/describe.h"
#include "fs/expiry.h"
#include "fs/mount.h"
#include "fs/prefetch.h"
#include "fs/process.h"
#include "fs/streams.h"
#include "fs/xattr.h"

static struct fs_fuse *fuse_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static struct fs_volume *volume_of(fuse_req_t req)
{
    return fuse_of(req)->volume;
}

static struct fs_caller caller_of(fuse_req_t req)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    return (struct fs_caller){.uid = ctx->uid, .gid = ctx->gid, .umask = ctx->umask};
}

/* ---- answers ------------------------------------------------------------------- */

/*
 * A reply fails when the caller was interrupted or the mount is gone: nobody waits for it, so
 * the results of fuse_reply_* are of no use to anyone.
 */

/* Answer with an error (or 0). Damage is named in the log and is EIO for the program. */
static void reply_err(fuse_req_t req, const char *what, uint64_t ino, const char *name, int err)
{
    err = fs_volume_visible_error(volume_of(req), what, ino, name, err);
    (void)fuse_reply_err(req, -err);
}

/* How long the kernel may take what it is told of an entry for true. */
static double cache_seconds(const struct fs_volume *volume, const struct fs_record *record)
{
    if (!record->expiry_ns || S_ISDIR(record->mode))
        return (double)FS_CACHE_SECONDS;
    const double left_ns = (double)record->expiry_ns - (double)fs_expiry_now(volume);
    return left_ns < 0 ? 0 : left_ns / 1e9;
}

static struct fuse_entry_param entry_of(const struct fs_volume *volume,
                                        const struct fs_record *record)
{
    const double seconds = cache_seconds(volume, record);
    struct fuse_entry_param entry = {
        .ino = record->file.ino,
        .generation = record->generation,
        .attr_timeout = seconds,
        .entry_timeout = seconds,
    };
    fs_record_stat(record, &entry.attr);
    return entry;
}

/* Answer with an entry; a reference has been counted for it. */
static void reply_entry(fuse_req_t req, const struct fs_record *record)
{
    struct fs_volume *volume = volume_of(req); /* the reply frees the request */
    const struct fuse_entry_param entry = entry_of(volume, record);
    if (fuse_reply_entry(req, &entry)) /* interrupted: the kernel did not count */
        fs_forget(volume, record->file.ino, 1);
}

static void reply_attr(fuse_req_t req, const struct fs_record *record)
{
    struct stat stat;
    fs_record_stat(record, &stat);
    (void)fuse_reply_attr(req, &stat, (double)FS_CACHE_SECONDS);
}

/* ---- session -------------------------------------------------------------------- */

static void do_init(void *userdata, struct fuse_conn_info *conn)
{
    const struct fs_fuse *fuse = userdata;
    fs_protocol_negotiate(conn, fuse->writeback, !fuse->without_acl, fuse->read_ahead_bytes);
}

/* ---- names ------------------------------------------------------------------------ */

/* The kernel may keep what it is told: was it told the same before? */
static void count_again(struct fs_fuse *fuse, uint32_t opcode, uint64_t ino, uint64_t which,
                        _Atomic uint64_t *counter)
{
    if (fs_repeats_see(&fuse->repeats, opcode, ino, which))
        (void)atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    if (fs_fuse_control_lookup(req, parent, name))
        return;
    struct fs_record record;
    const int err = fs_lookup(volume_of(req), parent, name, strlen(name), &record);
    if (err == -ENOENT) {
        const struct fuse_entry_param absent = {.entry_timeout = (double)FS_CACHE_SECONDS};
        (void)fuse_reply_entry(req, &absent);
        return;
    }
    if (err) {
        reply_err(req, "lookup", parent, name, err);
        return;
    }
    struct fs_fuse *fuse = fuse_of(req);
    count_again(fuse, FUSE_LOOKUP, parent, record.file.ino, &fuse->counters.names_again);
    reply_entry(req, &record);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    if (!fs_fuse_control_forget(req, ino, count))
        fs_forget(volume_of(req), ino, count);
    fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        if (!fs_fuse_control_forget(req, forgets[i].ino, forgets[i].nlookup))
            fs_forget(volume_of(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

static void make_node(fuse_req_t req, const char *what, fuse_ino_t parent, const char *name,
                      const struct fs_new_node *node)
{
    if (fs_fuse_control_refuse(req, what, parent, name))
        return;
    const struct fs_caller caller = caller_of(req);
    struct fs_record record;
    const int err = fs_create(volume_of(req), &caller, parent, name, strlen(name), node, &record);
    if (err)
        reply_err(req, what, parent, name, err);
    else
        reply_entry(req, &record);
}

static void do_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    const struct fs_new_node node = {.mode = mode, .rdev = rdev};
    make_node(req, "mknod", parent, name, &node);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    const struct fs_new_node node = {.mode = S_IFDIR | (mode & 07777u)};
    make_node(req, "mkdir", parent, name, &node);
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    const struct fs_new_node node = {
        .mode = S_IFLNK | 0777,
        .target = target,
        .target_len = strlen(target),
    };
    make_node(req, "symlink", parent, name, &node);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    if (fs_fuse_control_refuse(req, "unlink", parent, name))
        return;
    const int err = fs_unlink(volume_of(req), parent, name, strlen(name));
    reply_err(req, "unlink", parent, name, err);
}

static void do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    if (fs_fuse_control_refuse(req, "rmdir", parent, name))
        return;
    const int err = fs_rmdir(volume_of(req), parent, name, strlen(name));
    reply_err(req, "rmdir", parent, name, err);
}

static void do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    if (fs_fuse_control_refuse(req, "link", parent, name) ||
        fs_fuse_control_answer(req, ino, -EPERM))
        return;
    struct fs_record record;
    const int err = fs_link(volume_of(req), ino, parent, name, strlen(name), &record);
    if (err)
        reply_err(req, "link", ino, name, err);
    else
        reply_entry(req, &record);
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    if (fs_fuse_control_refuse(req, "rename", parent, name) ||
        fs_fuse_control_refuse(req, "rename", new_parent, new_name))
        return;
    const int err = fs_rename(volume_of(req), parent, name, strlen(name), new_parent, new_name,
                              strlen(new_name), flags);
    reply_err(req, "rename", parent, name, err);
}

static void do_readlink(fuse_req_t req, fuse_ino_t ino)
{
    if (fs_fuse_control_answer(req, ino, -EINVAL))
        return;
    char target[FS_SYMLINK_MAX + 1];
    const int err = fs_readlink(volume_of(req), ino, target);
    if (err)
        reply_err(req, "readlink", ino, NULL, err);
    else
        (void)fuse_reply_readlink(req, target);
}

/*
 * Files and directories have no state per open: the kernel asks once, and keeps cached pages
 * and listings from one open to the next.
 */
static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    (void)fuse_reply_err(req, ENOSYS);
}

static void do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    (void)fuse_reply_err(req, 0); /* of a file that TMPFILE has opened */
}

/* ---- attributes --------------------------------------------------------------------- */

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    if (fs_fuse_control_getattr(req, ino))
        return;
    struct fs_record record;
    const int err = fs_getattr(volume_of(req), ino, &record);
    if (err)
        reply_err(req, "getattr", ino, NULL, err);
    else
        reply_attr(req, &record);
}

/*
 * The request that this thread serves, for as long as an operation may ask who its caller is:
 * operations find that out under their locks, and only for the few files where it matters.
 */
static __thread fuse_req_t serving;

/*
 * Whether setuid and setgid end with this change of content. With HANDLE_KILLPRIV_V2 the
 * kernel says so; without, everybody but root loses them.
 */
static bool kills_privileges(fuse_req_t req)
{
    if (atomic_load(&fuse_of(req)->protocol.kill_privileges_told))
        return fs_transport_noted() & FS_NOTE_KILL_PRIVILEGES;
    return fuse_req_ctx(req)->uid != 0;
}

static bool is_capable(unsigned capability)
{
    const struct fuse_ctx *caller = fuse_req_ctx(serving);
    return fs_process_is_capable(caller->pid, caller->uid, capability);
}

bool fs_fuse_kills_privileges(void)
{
    return !serving || !is_capable(FS_CAPABILITY_FSETID);
}

bool fs_fuse_keeps_setgid(uint32_t gid)
{
    if (!serving)
        return true;
    const struct fuse_ctx *caller = fuse_req_ctx(serving);
    return caller->gid == gid || fs_process_in_group(caller->pid, gid) ||
           is_capable(FS_CAPABILITY_FSETID);
}

bool fs_fuse_is_owner(uint32_t uid)
{
    return !serving || fuse_req_ctx(serving)->uid == uid || is_capable(FS_CAPABILITY_FOWNER);
}

/*
 * A SETATTR that changes nothing is what the kernel makes of chown(2) without owner and group,
 * which takes setuid and setgid of one's own files, and of what fallocate and copy_file_range
 * take before they begin, by anyone who can write. The two look alike: what only an owner may
 * do is done for owners here, and for all others with the change of content that follows.
 */
static bool changes_nothing(fuse_req_t req, int to_set)
{
    return !to_set && atomic_load(&fuse_of(req)->protocol.kill_privileges_told);
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi)
{
    (void)fi;
    if (fs_fuse_control_setattr(req, ino, attr, to_set))
        return;
    static const struct {
        int asked;
        unsigned valid;
    } bits[] = {
        {FUSE_SET_ATTR_MODE, FS_ATTR_MODE},       {FUSE_SET_ATTR_UID, FS_ATTR_UID},
        {FUSE_SET_ATTR_GID, FS_ATTR_GID},         {FUSE_SET_ATTR_SIZE, FS_ATTR_SIZE},
        {FUSE_SET_ATTR_ATIME, FS_ATTR_ATIME},     {FUSE_SET_ATTR_MTIME, FS_ATTR_MTIME},
        {FUSE_SET_ATTR_ATIME_NOW, FS_ATTR_ATIME}, {FUSE_SET_ATTR_MTIME_NOW, FS_ATTR_MTIME},
        {FUSE_SET_ATTR_CTIME, FS_ATTR_CTIME},
    };
    struct fs_attr_change change = {
        .mode = attr->st_mode,
        .uid = attr->st_uid,
        .gid = attr->st_gid,
        .size = (uint64_t)attr->st_size,
        .atime_ns = fs_time_ns(&attr->st_atim),
        .mtime_ns = fs_time_ns(&attr->st_mtim),
        .ctime_ns = fs_time_ns(&attr->st_ctim),
    };
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        if (to_set & bits[i].asked)
            change.valid |= bits[i].valid;
    }
    const int64_t now = fs_time_now();
    if (to_set & FUSE_SET_ATTR_ATIME_NOW)
        change.atime_ns = now;
    if (to_set & FUSE_SET_ATTR_MTIME_NOW)
        change.mtime_ns = now;
    if (kills_privileges(req))
        change.valid |= FS_ATTR_KILL_PRIVILEGES;
    if (changes_nothing(req, to_set))
        change.valid |= FS_ATTR_KILL_IF_OWNER;

    struct fs_record record;
    serving = req;
    const int err = fs_setattr(volume_of(req), ino, &change, &record);
    serving = NULL;
    if (err)
        reply_err(req, "setattr", ino, NULL, err);
    else
        reply_attr(req, &record);
}

/* ---- content --------------------------------------------------------------------------- */

static void count_bytes(_Atomic uint64_t *counter, size_t bytes)
{
    (void)atomic_fetch_add_explicit(counter, bytes, memory_order_relaxed);
}

/* A READ, and what it waits for. */
struct read_request {
    fuse_req_t req;
    uint64_t ino, offset;
    uint8_t *buf; /* the reply's */
    size_t size, got;
    struct kv_blob_reading *reading;
};

static void answer_read(const struct read_request *read, int err)
{
    if (err) {
        reply_err(read->req, "read", read->ino, NULL, err);
        return;
    }
    struct fs_fuse *fuse = fuse_of(read->req);
    count_again(fuse, FUSE_READ, read->ino, read->offset, &fuse->counters.reads_again);
    count_bytes(&fuse->counters.read_bytes, read->got);
    (void)fuse_reply_buf(read->req, (const char *)read->buf, read->got);
}

static void end_read(void *context, int result)
{
    struct read_request *read = context;
    answer_read(read, fs_read_end(volume_of(read->req), read->ino, read->offset, read->buf,
                                  read->size, &read->got, read->reading, result));
    free(read);
}

/* What is not in memory is read while this worker serves others. */
static int begin_read(struct read_request *read)
{
    struct kv_blob_transfer transfer;
    struct read_request *const waiting = malloc(sizeof *waiting);
    if (!waiting) /* then here */
        return fs_read(volume_of(read->req), read->ino, read->offset, read->buf, read->size,
                       &read->got);
    int err = fs_read_begin(volume_of(read->req), read->ino, read->offset, read->buf, read->size,
                            &read->got, &read->reading, &transfer);
    if (err || !read->reading) {
        free(waiting);
        return err;
    }
    *waiting = *read;
    const struct fs_transport_read wanted = {.fd = transfer.descriptor,
                                             .offset = transfer.offset,
                                             .buf = transfer.buf,
                                             .length = transfer.length,
                                             .done = end_read,
                                             .context = waiting};
    fs_transport_await(&wanted);
    return 0;
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    (void)fi;
    if (fs_fuse_control_read(req, ino, size, offset))
        return;
    struct read_request read = {.req = req,
                                .ino = ino,
                                .offset = (uint64_t)offset,
                                .buf = fs_transport_buffer(),
                                .size = size};
    int err = read.buf && size <= FS_REPLY_MAX ? 0 : -ENOMEM;
    if (!err && fuse_of(req)->streams)
        fs_streams_read(fuse_of(req)->streams, ino, read.offset, size);
    if (!err && fs_transport_should_await())
        err = begin_read(&read);
    else if (!err)
        err = fs_read(volume_of(req), ino, read.offset, read.buf, size, &read.got);
    if (err || !read.reading)
        answer_read(&read, err);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
    if (fs_fuse_control_write(req, ino, bytes, size, offset, fi->writepage))
        return;
    size_t done;
    serving = req;
    const int err = fs_write_most(volume_of(req), ino, (uint64_t)offset, bytes, size,
                                  kills_privileges(req), &done);
    serving = NULL;
    count_bytes(&fuse_of(req)->counters.written_bytes, done);
    /* A program takes a short write for what it is; the kernel, of its own pages, does not. */
    if (err && (!done || fi->writepage))
        reply_err(req, "write", ino, NULL, err);
    else
        (void)fuse_reply_write(req, done);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)fi;
    (void)datasync;
    if (fs_fuse_control_answer(req, ino, 0))
        return;
    reply_err(req, "fsync", ino, NULL, fs_sync(volume_of(req)));
}

static void do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
    (void)fi;
    if (fs_fuse_control_answer(req, ino, -EPERM))
        return;
    serving = req;
    const int err = offset < 0 || length <= 0 ? -EINVAL
                                              : fs_fallocate(volume_of(req), ino, mode,
                                                             (uint64_t)offset, (uint64_t)length);
    serving = NULL;
    reply_err(req, "fallocate", ino, NULL, err);
}

static void do_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                     struct fuse_file_info *fi)
{
    (void)fi;
    if (fs_fuse_control_lseek(req, ino, offset, whence))
        return;
    /*
     * With gathered writes the kernel asks without writing them out first, and what is not
     * written yet would be taken for a hole. Told ENOSYS it takes all of a file for data.
     */
    if (fuse_of(req)->writeback) {
        (void)fuse_reply_err(req, ENOSYS);
        return;
    }
    uint64_t found;
    const int err =
        offset < 0 ? -ENXIO : fs_seek(volume_of(req), ino, (uint64_t)offset, whence, &found);
    if (err)
        reply_err(req, "lseek", ino, NULL, err);
    else
        (void)fuse_reply_lseek(req, (off_t)found);
}

static void do_copy_file_range(fuse_req_t req, fuse_ino_t from_ino, off_t from,
                               struct fuse_file_info *from_fi, fuse_ino_t to_ino, off_t to,
                               struct fuse_file_info *to_fi, size_t length, int flags)
{
    (void)from_fi;
    (void)to_fi;
    if (fs_fuse_control_answer(req, from_ino, -EOPNOTSUPP) ||
        fs_fuse_control_answer(req, to_ino, -EOPNOTSUPP))
        return;
    uint64_t copied = 0;
    serving = req;
    const int err = flags || from < 0 || to < 0
                        ? -EINVAL
                        : fs_copy_range(volume_of(req), from_ino, (uint64_t)from, to_ino,
                                        (uint64_t)to, length, &copied);
    serving = NULL;
    if (err)
        reply_err(req, "copy_file_range", to_ino, NULL, err);
    else
        (void)fuse_reply_write(req, copied);
}

/* ---- listing -------------------------------------------------------------------------- */

struct listing_buffer {
    fuse_req_t req;
    char *bytes;
    size_t used, cap;
    bool with_attributes;
};

static bool add_entry(void *context, const struct fs_dirent *dirent)
{
    struct listing_buffer *buffer = context;
    char name[FS_NAME_MAX + 1];
    memcpy(name, dirent->name, dirent->name_len);
    name[dirent->name_len] = '\0';

    char *at = buffer->bytes + buffer->used;
    const size_t room = buffer->cap - buffer->used;
    struct fuse_entry_param entry = {.attr = {.st_ino = dirent->ino, .st_mode = dirent->type}};
    if (dirent->record)
        entry = entry_of(volume_of(buffer->req), dirent->record);
    const off_t cookie = (off_t)dirent->cookie;
    const size_t length = buffer->with_attributes
                              ? fuse_add_direntry_plus(buffer->req, at, room, name, &entry, cookie)
                              : fuse_add_direntry(buffer->req, at, room, name, &entry.attr, cookie);
    if (length > room)
        return false;
    buffer->used += length;
    return true;
}

/* A listing with attributes did not arrive: the kernel counted none of its entries. */
static void forget_listed(struct fs_volume *volume, const char *bytes, size_t length)
{
    struct fuse_direntplus entry;
    for (size_t at = 0; at < length; at += FUSE_DIRENTPLUS_SIZE(&entry)) {
        memcpy(&entry, bytes + at, offsetof(struct fuse_direntplus, dirent.name));
        if (entry.entry_out.nodeid) /* "." and ".." have none */
            fs_forget(volume, entry.entry_out.nodeid, 1);
    }
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t cookie, bool with_attributes)
{
    if (fs_fuse_control_list(req, ino, size, cookie, with_attributes))
        return;
    struct listing_buffer buffer = {
        .req = req,
        .bytes = fs_transport_buffer(),
        .cap = kv_min_u64(size, FS_REPLY_MAX),
        .with_attributes = with_attributes,
    };
    int err = buffer.bytes ? 0 : -ENOMEM;
    if (!err)
        err =
            fs_readdir(volume_of(req), ino, (uint64_t)cookie, with_attributes, add_entry, &buffer);
    /* What came before an error goes out; the next request runs into it and reports it. */
    struct fs_volume *volume = volume_of(req);
    struct fs_prefetch *prefetch = fuse_of(req)->prefetch;
    if (err && !buffer.used)
        reply_err(req, "readdir", ino, NULL, err);
    else if (fuse_reply_buf(req, buffer.bytes, buffer.used) && with_attributes)
        forget_listed(volume, buffer.bytes, buffer.used);
    if (!err && cookie == 0 && prefetch)
        fs_prefetch_listed(prefetch, ino);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t cookie,
                       struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, cookie, false);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t cookie,
                           struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, cookie, true);
}

/* ---- extended attributes ----------------------------------------------------------------- */

/* The text of an attribute of the mount itself, like snprintf. */
static size_t text_of(struct fs_fuse *fuse, const char *name, char *out, size_t cap)
{
    struct fs_figures figures;
    if (strcmp(name, FS_XATTR_SCRUB) == 0)
        return fs_scrub_text(fuse->scrub, out, cap);
    if (strcmp(name, FS_XATTR_CONTROL) == 0) {
        const char *control = fuse->control ? fs_control_name(fuse->control) : FS_CONTROL_NONE;
        return (size_t)snprintf(out, cap, "%s", control);
    }
    fs_figures_read(fuse->volume, &fuse->counters, fuse->read_only, &figures);
    return fs_figures_json(&figures, fs_volume_store(fuse->volume), &fuse->counters, out, cap);
}

static bool is_text(const char *name)
{
    return strcmp(name, FS_XATTR_STATS) == 0 || strcmp(name, FS_XATTR_SCRUB) == 0 ||
           strcmp(name, FS_XATTR_CONTROL) == 0;
}

/* More than is there now, for whoever asks how much memory to bring. */
#define TEXT_SLACK 1024u

/* Answer with a text of this mount's own. */
static void reply_text(fuse_req_t req, size_t size, const char *name)
{
    char *text = fs_transport_buffer();
    if (!text) {
        reply_err(req, "getxattr", FS_ROOT_INO, name, -ENOMEM);
        return;
    }
    const size_t length = text_of(fuse_of(req), name, text, FS_REPLY_MAX);
    if (size == 0) /* figures get longer from one call to the next */
        (void)fuse_reply_xattr(req, length + length / 4 + TEXT_SLACK);
    else if (size < length)
        (void)fuse_reply_err(req, ERANGE);
    else
        (void)fuse_reply_buf(req, text, length);
}

/* An access list, where they are not supported: who is told so once does not ask for more. */
static bool is_refused_list(fuse_req_t req, const char *name)
{
    return fuse_of(req)->without_acl && fs_xattr_flag(name) & FS_RECORD_ACLS;
}

static void do_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    if (is_refused_list(req, name)) {
        reply_err(req, "getxattr", ino, name, -EOPNOTSUPP);
        return;
    }
    if (fs_fuse_control_answer(req, ino, -ENODATA))
        return;
    if (ino == FS_ROOT_INO && is_text(name)) {
        reply_text(req, size, name);
        return;
    }
    void *value = fs_transport_buffer();
    const size_t cap = kv_min_u64(size, FS_REPLY_MAX);
    size_t length = 0;
    int err = -ENOMEM;
    if (value && strcmp(name, FS_XATTR_INFO) == 0) {
        err = fs_describe_json(volume_of(req), ino, value, cap);
        length = err > 0 ? (size_t)err : 0;
        err = err < 0 ? err : length > cap ? -ERANGE : 0;
    } else if (value) {
        err = fs_getxattr(volume_of(req), ino, name, value, cap, &length);
    }
    if (err == -ERANGE && size == 0)
        err = 0;
    if (err)
        reply_err(req, "getxattr", ino, name, err);
    else if (size == 0)
        (void)fuse_reply_xattr(req, length);
    else
        (void)fuse_reply_buf(req, value, length);
}

static void do_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags)
{
    const bool kill_setgid = fs_transport_noted() & FS_NOTE_KILL_SETGID;
    int err;
    if (fs_fuse_control_answer(req, ino, -EPERM))
        return;
    if (is_refused_list(req, name))
        err = -EOPNOTSUPP;
    else if (ino == FS_ROOT_INO && strcmp(name, FS_XATTR_SYNC) == 0)
        err = fs_fuse_is_operator(req) ? fs_checkpoint(volume_of(req)) : -EPERM;
    else if (ino == FS_ROOT_INO && strcmp(name, FS_XATTR_SCRUB) == 0)
        err =
            fs_fuse_is_operator(req) ? fs_scrub_command(fuse_of(req)->scrub, value, size) : -EPERM;
    else
        err = fs_setxattr(volume_of(req), ino, name, value, size, flags, kill_setgid);
    reply_err(req, "setxattr", ino, name, err);
}

static void do_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    if (fs_fuse_control_answer(req, ino, -EPERM))
        return;
    reply_err(req, "removexattr", ino, name,
              is_refused_list(req, name) ? -EOPNOTSUPP : fs_removexattr(volume_of(req), ino, name));
}

static const char trusted_prefix[] = "trusted.";
static const char list_prefix[] = "system.posix_acl_";

/* Take the names that begin so out of a list. Returns its new length. */
static size_t drop_names(char *names, size_t length, const char *prefix)
{
    size_t kept = 0;
    for (size_t at = 0; at < length;) {
        const size_t name_bytes = strlen(names + at) + 1;
        if (strncmp(names + at, prefix, strlen(prefix)) != 0) {
            memmove(names + kept, names + at, name_bytes);
            kept += name_bytes;
        }
        at += name_bytes;
    }
    return kept;
}

static bool has_trusted(const char *names, size_t length)
{
    for (size_t at = 0; at < length; at += strlen(names + at) + 1)
        if (strncmp(names + at, trusted_prefix, sizeof trusted_prefix - 1) == 0)
            return true;
    return false;
}

/* cap: 0 asks for the length only. Trusted attributes are for who has CAP_SYS_ADMIN. */
static int list_names(fuse_req_t req, fuse_ino_t ino, char *names, size_t cap, size_t *length)
{
    const struct fuse_ctx *caller = fuse_req_ctx(req);
    const int err = fs_listxattr(volume_of(req), ino, true, names, FS_REPLY_MAX, length);
    if (err)
        return err;
    if (has_trusted(names, *length) &&
        !fs_process_is_capable(caller->pid, caller->uid, FS_CAPABILITY_SYS_ADMIN))
        *length = drop_names(names, *length, trusted_prefix);
    if (fuse_of(req)->without_acl)
        *length = drop_names(names, *length, list_prefix);
    return cap && *length > cap ? -ERANGE : 0;
}

static void do_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    if (fs_control_owns(ino)) {
        if (size == 0)
            (void)fuse_reply_xattr(req, 0);
        else
            (void)fuse_reply_buf(req, NULL, 0);
        return;
    }
    char *names = fs_transport_buffer();
    size_t length = 0;
    int err =
        names ? list_names(req, ino, names, kv_min_u64(size, FS_REPLY_MAX), &length) : -ENOMEM;
    if (err == -ERANGE && size == 0)
        err = 0;
    if (err)
        reply_err(req, "listxattr", ino, NULL, err);
    else if (size == 0)
        (void)fuse_reply_xattr(req, length);
    else
        (void)fuse_reply_buf(req, names, length);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
    (void)ino;
    struct statvfs stat;
    fs_statfs(volume_of(req), &stat);
    (void)fuse_reply_statfs(req, &stat);
}

const struct fuse_lowlevel_ops fs_fuse_ops = {
    .init = do_init,
    .lookup = do_lookup,
    .forget = do_forget,
    .forget_multi = do_forget_multi,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .readlink = do_readlink,
    .mknod = do_mknod,
    .mkdir = do_mkdir,
    .unlink = do_unlink,
    .rmdir = do_rmdir,
    .symlink = do_symlink,
    .rename = do_rename,
    .link = do_link,
    .open = do_open,
    .release = do_release,
    .opendir = do_open,
    .read = do_read,
    .write = do_write,
    .fsync = do_fsync,
    .readdir = do_readdir,
    .readdirplus = do_readdirplus,
    .fsyncdir = do_fsync,
    .statfs = do_statfs,
    .setxattr = do_setxattr,
    .getxattr = do_getxattr,
    .listxattr = do_listxattr,
    .removexattr = do_removexattr,
    .fallocate = do_fallocate,
    .lseek = do_lseek,
    .copy_file_range = do_copy_file_range,
};
