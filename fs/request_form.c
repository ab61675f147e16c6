/*
 * fs/request_form.c: the forms of all requests, as a table.
 *
 * Owns       nothing.
 * Invariant  no byte behind `length` is read.
 * Locks      none.
 */
#include "fs/request_form.h"

#include <linux/fuse.h>
#include <string.h>

#include "kv/base.h"

#define STATX_BYTES 24u /* getattr flags 4, reserved 4, handle 8, statx flags 4, mask 4 */

/* Before this version some requests were shorter; no kernel since 3.15 speaks it. */
#define LEAST_MINOR 23u

/* What may follow the fixed part and the names. */
enum tail {
    TAIL_NONE,
    TAIL_WRITE,  /* fuse_write_in.size bytes */
    TAIL_XATTR,  /* fuse_setxattr_in.size bytes, after the name */
    TAIL_FORGET, /* fuse_batch_forget_in.count times fuse_forget_one */
    TAIL_IOCTL,  /* fuse_ioctl_in.in_size bytes */
};

struct form {
    uint16_t fixed_bytes; /* after the header */
    uint8_t names;        /* strings with a NUL behind them */
    uint8_t tail;         /* enum tail */
};

static const struct form forms[] = {
    [FUSE_LOOKUP] = {0, 1, TAIL_NONE},
    [FUSE_FORGET] = {sizeof(struct fuse_forget_in), 0, TAIL_NONE},
    [FUSE_GETATTR] = {sizeof(struct fuse_getattr_in), 0, TAIL_NONE},
    [FUSE_SETATTR] = {sizeof(struct fuse_setattr_in), 0, TAIL_NONE},
    [FUSE_SYMLINK] = {0, 2, TAIL_NONE},
    [FUSE_MKNOD] = {sizeof(struct fuse_mknod_in), 1, TAIL_NONE},
    [FUSE_MKDIR] = {sizeof(struct fuse_mkdir_in), 1, TAIL_NONE},
    [FUSE_UNLINK] = {0, 1, TAIL_NONE},
    [FUSE_RMDIR] = {0, 1, TAIL_NONE},
    [FUSE_RENAME] = {sizeof(struct fuse_rename_in), 2, TAIL_NONE},
    [FUSE_LINK] = {sizeof(struct fuse_link_in), 1, TAIL_NONE},
    [FUSE_OPEN] = {sizeof(struct fuse_open_in), 0, TAIL_NONE},
    [FUSE_READ] = {sizeof(struct fuse_read_in), 0, TAIL_NONE},
    [FUSE_WRITE] = {sizeof(struct fuse_write_in), 0, TAIL_WRITE},
    [FUSE_RELEASE] = {sizeof(struct fuse_release_in), 0, TAIL_NONE},
    [FUSE_FSYNC] = {sizeof(struct fuse_fsync_in), 0, TAIL_NONE},
    [FUSE_SETXATTR] = {FUSE_COMPAT_SETXATTR_IN_SIZE, 1, TAIL_XATTR},
    [FUSE_GETXATTR] = {sizeof(struct fuse_getxattr_in), 1, TAIL_NONE},
    [FUSE_LISTXATTR] = {sizeof(struct fuse_getxattr_in), 0, TAIL_NONE},
    [FUSE_REMOVEXATTR] = {0, 1, TAIL_NONE},
    [FUSE_FLUSH] = {sizeof(struct fuse_flush_in), 0, TAIL_NONE},
    [FUSE_OPENDIR] = {sizeof(struct fuse_open_in), 0, TAIL_NONE},
    [FUSE_READDIR] = {sizeof(struct fuse_read_in), 0, TAIL_NONE},
    [FUSE_RELEASEDIR] = {sizeof(struct fuse_release_in), 0, TAIL_NONE},
    [FUSE_FSYNCDIR] = {sizeof(struct fuse_fsync_in), 0, TAIL_NONE},
    [FUSE_GETLK] = {sizeof(struct fuse_lk_in), 0, TAIL_NONE},
    [FUSE_SETLK] = {sizeof(struct fuse_lk_in), 0, TAIL_NONE},
    [FUSE_SETLKW] = {sizeof(struct fuse_lk_in), 0, TAIL_NONE},
    [FUSE_ACCESS] = {sizeof(struct fuse_access_in), 0, TAIL_NONE},
    [FUSE_CREATE] = {sizeof(struct fuse_create_in), 1, TAIL_NONE},
    [FUSE_INTERRUPT] = {sizeof(struct fuse_interrupt_in), 0, TAIL_NONE},
    [FUSE_BMAP] = {sizeof(struct fuse_bmap_in), 0, TAIL_NONE},
    [FUSE_IOCTL] = {sizeof(struct fuse_ioctl_in), 0, TAIL_IOCTL},
    [FUSE_POLL] = {sizeof(struct fuse_poll_in), 0, TAIL_NONE},
    [FUSE_NOTIFY_REPLY] = {sizeof(struct fuse_notify_retrieve_in), 0, TAIL_NONE},
    [FUSE_BATCH_FORGET] = {sizeof(struct fuse_batch_forget_in), 0, TAIL_FORGET},
    [FUSE_FALLOCATE] = {sizeof(struct fuse_fallocate_in), 0, TAIL_NONE},
    [FUSE_READDIRPLUS] = {sizeof(struct fuse_read_in), 0, TAIL_NONE},
    [FUSE_RENAME2] = {sizeof(struct fuse_rename2_in), 2, TAIL_NONE},
    [FUSE_LSEEK] = {sizeof(struct fuse_lseek_in), 0, TAIL_NONE},
    [FUSE_COPY_FILE_RANGE] = {sizeof(struct fuse_copy_file_range_in), 0, TAIL_NONE},
    [FUSE_SETUPMAPPING] = {sizeof(struct fuse_setupmapping_in), 0, TAIL_NONE},
    [FUSE_REMOVEMAPPING] = {sizeof(struct fuse_removemapping_in), 0, TAIL_NONE},
    [FUSE_SYNCFS] = {sizeof(struct fuse_syncfs_in), 0, TAIL_NONE},
    [FUSE_TMPFILE] = {sizeof(struct fuse_create_in), 1, TAIL_NONE},
    [FS_FUSE_STATX] = {STATX_BYTES, 0, TAIL_NONE},
};

/* How many bytes the tail takes, as the fixed part says; the fixed part is there. */
static uint64_t tail_bytes(enum tail tail, const uint8_t *body)
{
    switch (tail) {
    case TAIL_WRITE: {
        struct fuse_write_in in;
        memcpy(&in, body, sizeof in);
        return in.size;
    }
    case TAIL_XATTR: {
        uint32_t size; /* the first field of both forms */
        memcpy(&size, body, sizeof size);
        return size;
    }
    case TAIL_FORGET: {
        struct fuse_batch_forget_in in;
        memcpy(&in, body, sizeof in);
        return (uint64_t)in.count * sizeof(struct fuse_forget_one);
    }
    case TAIL_IOCTL: {
        struct fuse_ioctl_in in;
        memcpy(&in, body, sizeof in);
        return in.in_size;
    }
    case TAIL_NONE:
        break;
    }
    return 0;
}

/* INIT has grown three times; its flags say how long it is. */
static bool init_is_whole(const uint8_t *body, size_t length)
{
    struct fuse_init_in in = {0};
    if (length < offsetof(struct fuse_init_in, flags2))
        return false;
    memcpy(&in, body, length < sizeof in ? length : sizeof in);
    if ((in.flags & FUSE_INIT_EXT) && length < sizeof in)
        return false;
    return in.major != FUSE_KERNEL_VERSION || in.minor >= LEAST_MINOR;
}

bool fs_request_is_whole(const void *bytes, size_t length, bool long_setxattr)
{
    struct fuse_in_header header;
    if (length < sizeof header)
        return false;
    memcpy(&header, bytes, sizeof header);
    if (header.len != length)
        return false;
    const uint8_t *body = (const uint8_t *)bytes + sizeof header;
    size_t left = length - sizeof header;
    if (header.opcode == FUSE_INIT)
        return init_is_whole(body, left);
    if (header.opcode >= sizeof forms / sizeof forms[0])
        return true;

    const struct form *form = &forms[header.opcode];
    const size_t fixed_bytes = header.opcode == FUSE_SETXATTR && long_setxattr
                                   ? sizeof(struct fuse_setxattr_in)
                                   : form->fixed_bytes;
    if (left < fixed_bytes)
        return false;
    const uint64_t tail = tail_bytes(form->tail, body);
    body += fixed_bytes;
    left -= fixed_bytes;
    for (unsigned i = 0; i < form->names; i++) {
        const uint8_t *end = left ? memchr(body, '\0', left) : NULL;
        if (!end)
            return false;
        left -= (size_t)(end + 1 - body);
        body = end + 1;
    }
    return tail <= left;
}

bool fs_request_is_answered(uint32_t opcode)
{
    return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
           opcode != FUSE_NOTIFY_REPLY;
}
