/*
 * fs/protocol.c: requests and replies that libfuse 3.14 can not read or write.
 *
 * What libfuse gets to see is whole (fs/request_form.h): it does not look itself.
 */
#define FUSE_USE_VERSION 314

#include "fs/protocol.h"

#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#include "fs/control.h"
#include "fs/request_form.h"

/* Newer than the header of Debian 12 (Linux 6.1); names as in later headers, ours in front. */
#define FS_STATX_BASIC_STATS  0x7ffu
#define FS_STATX_BTIME        0x800u
#define FS_FUSE_OVER_IO_URING (1ull << 41)

#define MAX_BACKGROUND 64u

struct fs_fuse_sx_time {
    int64_t tv_sec;
    uint32_t tv_nsec;
    int32_t reserved;
};

struct fs_fuse_statx {
    uint32_t mask;
    uint32_t blksize;
    uint64_t attributes;
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint16_t mode;
    uint16_t spare0;
    uint64_t ino;
    uint64_t size;
    uint64_t blocks;
    uint64_t attributes_mask;
    struct fs_fuse_sx_time atime, btime, ctime, mtime;
    uint32_t rdev_major;
    uint32_t rdev_minor;
    uint32_t dev_major;
    uint32_t dev_minor;
    uint64_t spare2[14];
};

struct fs_fuse_statx_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec;
    uint32_t flags;
    uint64_t spare[2];
    struct fs_fuse_statx stat;
};
static_assert(sizeof(struct fs_fuse_statx) == 256, "as struct statx of the kernel");
static_assert(sizeof(struct fs_fuse_statx_out) == 288, "as the kernel has it");

void fs_protocol_init(struct fs_protocol *protocol, struct fs_volume *volume,
                      struct fs_counters *counters)
{
    *protocol = (struct fs_protocol){.volume = volume, .counters = counters};
}

/* Returns what writing it says: -ENOENT means that nobody waits for it any more. */
static int answer(uint64_t unique, int err, const void *body, size_t length)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof header + (err ? 0 : length)),
        .error = err,
        .unique = unique,
    };
    struct iovec pieces[2] = {
        {.iov_base = &header, .iov_len = sizeof header},
        {.iov_base = (void *)(uintptr_t)body, .iov_len = length},
    };
    return fs_transport_reply(pieces, err ? 1 : 2);
}

/* The kernel keeps nothing for an error, or for what it may ask again. */
static void answer_alone(uint64_t unique, int err, const void *body, size_t length)
{
    (void)answer(unique, err, body, length);
}

static struct fs_fuse_sx_time sx_time(int64_t ns)
{
    const struct timespec time = fs_timespec(ns);
    return (struct fs_fuse_sx_time){.tv_sec = time.tv_sec, .tv_nsec = (uint32_t)time.tv_nsec};
}

/* The attributes of a node of the control directory, as a record. */
static int control_record(struct fs_control *control, uint64_t ino, struct fs_record *record)
{
    struct stat stat;
    const int err = fs_control_getattr(control, ino, &stat);
    if (err)
        return err;
    const int64_t made_ns = fs_time_ns(&stat.st_mtim);
    *record = (struct fs_record){
        .file = {.ino = stat.st_ino, .size = (uint64_t)stat.st_size},
        .mode = stat.st_mode,
        .uid = stat.st_uid,
        .gid = stat.st_gid,
        .nlink = (uint32_t)stat.st_nlink,
        .atime_ns = made_ns,
        .mtime_ns = made_ns,
        .ctime_ns = made_ns,
        .btime_ns = made_ns,
    };
    return 0;
}

static void serve_statx(struct fs_protocol *protocol, const struct fuse_in_header *header)
{
    struct fs_record record;
    int err = fs_control_owns(header->nodeid)
                  ? control_record(protocol->control, header->nodeid, &record)
                  : fs_getattr(protocol->volume, header->nodeid, &record);
    if (err) {
        answer_alone(header->unique,
                     fs_volume_visible_error(protocol->volume, "statx", header->nodeid, NULL, err),
                     NULL, 0);
        return;
    }
    const struct fs_fuse_statx_out out = {
        .attr_valid = FS_CACHE_SECONDS,
        .stat =
            {
                .mask = FS_STATX_BASIC_STATS | FS_STATX_BTIME,
                .blksize = KV_BLOCK_BYTES,
                .nlink = record.nlink,
                .uid = record.uid,
                .gid = record.gid,
                .mode = (uint16_t)record.mode,
                .ino = record.file.ino,
                .size = record.file.size,
                .blocks = record.file.blocks,
                .atime = sx_time(record.atime_ns),
                .btime = sx_time(record.btime_ns),
                .ctime = sx_time(record.ctime_ns),
                .mtime = sx_time(record.mtime_ns),
                .rdev_major = major(record.rdev),
                .rdev_minor = minor(record.rdev),
            },
    };
    answer_alone(header->unique, 0, &out, sizeof out);
}

static struct fuse_attr fuse_attr_of(const struct fs_record *record)
{
    const struct timespec atime = fs_timespec(record->atime_ns);
    const struct timespec mtime = fs_timespec(record->mtime_ns);
    const struct timespec ctime = fs_timespec(record->ctime_ns);
    return (struct fuse_attr){
        .ino = record->file.ino,
        .size = record->file.size,
        .blocks = record->file.blocks,
        .atime = (uint64_t)atime.tv_sec,
        .mtime = (uint64_t)mtime.tv_sec,
        .ctime = (uint64_t)ctime.tv_sec,
        .atimensec = (uint32_t)atime.tv_nsec,
        .mtimensec = (uint32_t)mtime.tv_nsec,
        .ctimensec = (uint32_t)ctime.tv_nsec,
        .mode = record->mode,
        .nlink = record->nlink,
        .uid = record->uid,
        .gid = record->gid,
        .blksize = KV_BLOCK_BYTES,
    };
}

static void serve_tmpfile(struct fs_protocol *protocol, const struct fuse_in_header *header,
                          const struct fuse_create_in *in)
{
    const struct fs_caller caller = {.uid = header->uid, .gid = header->gid, .umask = in->umask};
    struct fs_record record;
    if (fs_control_owns(header->nodeid)) {
        answer_alone(header->unique, fs_control_refuse(protocol->control, "tmpfile", NULL), NULL,
                     0);
        return;
    }
    int err = fs_create_unnamed(protocol->volume, &caller, header->nodeid, in->mode, &record);
    if (err) {
        answer_alone(
            header->unique,
            fs_volume_visible_error(protocol->volume, "tmpfile", header->nodeid, NULL, err), NULL,
            0);
        return;
    }
    const struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = {
        .entry =
            {
                .nodeid = record.file.ino,
                .generation = record.generation,
                .entry_valid = FS_CACHE_SECONDS,
                .attr_valid = FS_CACHE_SECONDS,
                .attr = fuse_attr_of(&record),
            },
        .open = {.open_flags = FOPEN_KEEP_CACHE},
    };
    if (answer(header->unique, 0, &out, sizeof out) == -ENOENT)
        fs_forget(protocol->volume, record.file.ino, 1); /* interrupted: it did not count */
}

/* The longer form of SETXATTR to the one libfuse reads; the flag in it becomes a note. */
static size_t shorten_setxattr(uint8_t *bytes, size_t length)
{
    struct fuse_in_header header;
    struct fuse_setxattr_in in;
    memcpy(&header, bytes, sizeof header);
    memcpy(&in, bytes + sizeof header, sizeof in);
    if (in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID)
        fs_transport_note(FS_NOTE_KILL_SETGID);
    const size_t cut = sizeof in - FUSE_COMPAT_SETXATTR_IN_SIZE;
    const size_t rest = sizeof header + sizeof in;
    memmove(bytes + rest - cut, bytes + rest, length - rest);
    header.len -= (uint32_t)cut;
    memcpy(bytes, &header, sizeof header);
    return length - cut;
}

static uint64_t offered_flags(const struct fuse_init_in *in, size_t length)
{
    uint64_t flags = in->flags;
    if ((flags & FUSE_INIT_EXT) && length >= sizeof *in)
        flags |= (uint64_t)in->flags2 << 32;
    return flags;
}

static size_t see_request(void *context, void *bytes, size_t length)
{
    struct fs_protocol *protocol = context;
    struct fuse_in_header header;
    if (length < sizeof header)
        return 0; /* there is nobody to answer */
    memcpy(&header, bytes, sizeof header);
    fs_counters_add(protocol->counters, header.opcode);
    const uint64_t begun_ns = fs_counters_begin(protocol->counters);
    if (begun_ns)
        fs_transport_begun(header.opcode, begun_ns);
    const bool long_setxattr = atomic_load(&protocol->init_offered) & FUSE_SETXATTR_EXT;
    if (!fs_request_is_whole(bytes, length, long_setxattr)) {
        if (fs_request_is_answered(header.opcode))
            answer_alone(header.unique, -EIO, NULL, 0);
        return 0;
    }
    const uint8_t *body = (const uint8_t *)bytes + sizeof header;
    const size_t body_len = length - sizeof header;

    switch (header.opcode) {
    case FUSE_INIT: {
        struct fuse_init_in in = {0};
        memcpy(&in, body, body_len < sizeof in ? body_len : sizeof in);
        if (atomic_load(&protocol->init_done))
            return length; /* the first one counts; libfuse refuses this one */
        atomic_store(&protocol->init_offered, offered_flags(&in, body_len));
        atomic_store(&protocol->init_unique, header.unique);
        return length;
    }
    case FUSE_WRITE: {
        struct fuse_write_in in;
        memcpy(&in, body, sizeof in);
        if (in.write_flags & FUSE_WRITE_KILL_SUIDGID)
            fs_transport_note(FS_NOTE_KILL_PRIVILEGES);
        return length;
    }
    case FUSE_SETATTR: {
        struct fuse_setattr_in in;
        memcpy(&in, body, sizeof in);
        if (in.valid & FATTR_KILL_SUIDGID)
            fs_transport_note(FS_NOTE_KILL_PRIVILEGES);
        return length;
    }
    case FUSE_SETXATTR:
        return long_setxattr ? shorten_setxattr(bytes, length) : length;
    case FUSE_INTERRUPT:
        /* No operation here waits for long, or looks whether it is to end: send no more. */
        answer_alone(header.unique, -ENOSYS, NULL, 0);
        return 0;
    case FUSE_NOTIFY_REPLY:
        return 0; /* nothing is ever asked of the kernel */
    case FUSE_TMPFILE: {
        struct fuse_create_in in;
        memcpy(&in, body, sizeof in);
        serve_tmpfile(protocol, &header, &in);
        return 0;
    }
    case FS_FUSE_STATX:
        serve_statx(protocol, &header);
        return 0;
    default:
        return length;
    }
}

static void note_served(void *context, uint32_t opcode, uint64_t begun_ns)
{
    struct fs_protocol *protocol = context;
    fs_counters_end(protocol->counters, opcode, begun_ns);
}

static void note_waited(void *context)
{
    struct fs_protocol *protocol = context;
    (void)atomic_fetch_add_explicit(&protocol->counters->thread_waits, 1, memory_order_relaxed);
}

void fs_protocol_negotiate(struct fuse_conn_info *conn, bool writeback, bool acl,
                           uint32_t read_ahead_bytes)
{
    const unsigned wanted =
        FUSE_CAP_ASYNC_READ | FUSE_CAP_DONT_MASK | FUSE_CAP_READDIRPLUS |
        FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
        FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPLICIT_INVAL_DATA |
        (acl ? FUSE_CAP_POSIX_ACL : 0u) | (writeback ? FUSE_CAP_WRITEBACK_CACHE : 0u);
    /*
     * All that libfuse asks for by itself and is not in the list is off: atomic O_TRUNC
     * (open is never sent, so truncation must come as SETATTR), splice (a copy is cheaper
     * than a pipe here, and the bytes must pass fs/transport.c), ioctl on directories.
     */
    conn->want = conn->capable & wanted;
    if (read_ahead_bytes && read_ahead_bytes < conn->max_readahead)
        conn->max_readahead = read_ahead_bytes; /* more is not to be had here: fs/read_ahead.h */
    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = MAX_BACKGROUND * 3 / 4;
    conn->time_gran = 1;
}

/* Ask for the ring. False: the kernel does not offer it. */
static bool ask_for_ring(struct fs_protocol *protocol, uint64_t offered, struct fuse_init_out *out)
{
    if (!(offered & FS_FUSE_OVER_IO_URING)) {
        static const char line[] =
            "requests come over /dev/fuse: the kernel does not offer the ring";
        if (protocol->log)
            protocol->log(protocol->log_context, KV_LOG_WARNING, line);
        else
            fprintf(stderr, "kvfs: %s\n", line);
        return false;
    }
    out->flags |= FUSE_INIT_EXT;
    out->flags2 |= (uint32_t)(FS_FUSE_OVER_IO_URING >> 32);
    return true;
}

static bool see_reply(void *context, struct iovec *pieces, int count, bool ring)
{
    struct fs_protocol *protocol = context;
    struct fuse_out_header header;
    struct fuse_init_out out;
    const uint64_t init_unique = atomic_load_explicit(&protocol->init_unique, memory_order_relaxed);
    if (!init_unique || count < 2 || pieces[0].iov_len < sizeof header)
        return false;
    memcpy(&header, pieces[0].iov_base, sizeof header);
    if (header.unique != init_unique || header.error || pieces[1].iov_len < sizeof out)
        return false;

    memcpy(&out, pieces[1].iov_base, sizeof out);
    const uint64_t offered = atomic_load(&protocol->init_offered);
    const uint64_t wanted = FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT;
    out.flags |= (uint32_t)(offered & wanted);
    if (out.flags & FUSE_HANDLE_KILLPRIV_V2) {
        out.flags &= ~(uint32_t)FUSE_HANDLE_KILLPRIV;
        atomic_store(&protocol->kill_privileges_told, true);
    }
    const bool asked = ring && ask_for_ring(protocol, offered, &out);
    memcpy(pieces[1].iov_base, &out, sizeof out);
    atomic_store(&protocol->init_unique, 0);
    atomic_store(&protocol->init_done, true);
    return asked;
}

struct fs_transport_hooks fs_protocol_hooks(struct fs_protocol *protocol, kv_log_fn *log,
                                            void *log_context)
{
    protocol->log = log;
    protocol->log_context = log_context;
    return (struct fs_transport_hooks){
        .context = protocol,
        .request = see_request,
        .served = note_served,
        .waited = note_waited,
        .reply = see_reply,
        .log = log,
        .log_context = log_context,
    };
}
