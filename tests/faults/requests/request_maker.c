/*
 * tests/faults/requests/request_maker.c: requests as a broken or bought kernel would send them.
 *
 * Invariant  a request is decided by the state of the generator and by what was noted.
 */
#include "tests/faults/requests/request_maker.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FUSE_STATX_OPCODE 52u
#define NAME_COUNT        24u
/* Its number in every mount (fs/control.c). */
#define CONTROL_DIRECTORY (1ull << 63)

static size_t below(struct request_maker *maker, size_t limit)
{
    return test_random_below(&maker->random, limit);
}

static bool one_in(struct request_maker *maker, size_t many)
{
    return below(maker, many) == 0;
}

void request_maker_note_inode(struct request_maker *maker, uint64_t ino)
{
    if (maker->inode_count < INODES_MAX)
        maker->inodes[maker->inode_count++] = ino;
    else
        maker->inodes[below(maker, INODES_MAX)] = ino;
}

void request_maker_note_cookie(struct request_maker *maker, uint64_t cookie)
{
    const size_t most = sizeof maker->cookies / sizeof maker->cookies[0];
    maker->cookies[maker->cookie_count++ % most] = cookie;
}

/* ---- fields ---------------------------------------------------------------------- */

static uint64_t any_number(struct request_maker *maker)
{
    static const uint64_t edges[] = {0,         1,          2,          255,
                                     256,       4095,       4096,       65535,
                                     65536,     1u << 20,   INT32_MAX,  UINT32_MAX,
                                     INT64_MAX, UINT64_MAX, 1ull << 63, (1ull << 63) - 4096};
    switch (below(maker, 4)) {
    case 0:
        return edges[below(maker, sizeof edges / sizeof edges[0])];
    case 1:
        return below(maker, 256);
    case 2:
        return below(maker, 300000);
    default:
        return test_random_next(&maker->random);
    }
}

/* Small numbers more often: those at which something is. */
static uint64_t an_offset(struct request_maker *maker)
{
    return one_in(maker, 4) ? any_number(maker) : below(maker, 200000);
}

static uint32_t any_u32(struct request_maker *maker)
{
    return (uint32_t)any_number(maker);
}

static uint64_t a_node(struct request_maker *maker)
{
    if (!maker->careful && one_in(maker, 24))
        return any_number(maker);
    if (!maker->inode_count || one_in(maker, 3))
        return FUSE_ROOT_ID;
    return maker->inodes[below(maker, maker->inode_count)];
}

static uint32_t a_mode(struct request_maker *maker)
{
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFDIR,  S_IFLNK,
                                     S_IFCHR, S_IFIFO, S_IFSOCK, S_IFBLK};
    if (one_in(maker, 16))
        return any_u32(maker);
    return types[below(maker, sizeof types / sizeof types[0])] | (uint32_t)below(maker, 07777 + 1);
}

/* ---- parts of a request ------------------------------------------------------------- */

static void add(struct made_request *request, const void *bytes, size_t length)
{
    KV_ASSERT(length <= REQUEST_MAX - request->length);
    if (length)
        memcpy(request->bytes + request->length, bytes, length);
    request->length += length;
}

static void add_control_name(struct request_maker *maker, struct made_request *request)
{
    static const char *const names[] = {".kvfs",  "stats", "metrics", "health", "prefetch",
                                        "config", "apply", "apply",   "config"};
    const char *const name = names[below(maker, sizeof names / sizeof names[0])];
    add(request, name, strlen(name) + 1);
}

/* A name with its NUL: one of few, so that they meet; or one that is not allowed. */
static void add_name(struct request_maker *maker, struct made_request *request)
{
    static const char *const odd[] = {"", ".", "..", "a/b", "/", "../x", "\xff\xfe", "\n"};
    char name[4200];
    if (one_in(maker, 12)) {
        add_control_name(maker, request);
        return;
    }
    if (one_in(maker, 12)) {
        snprintf(name, sizeof name, "%s", odd[below(maker, sizeof odd / sizeof odd[0])]);
    } else if (one_in(maker, 16)) {
        static const size_t lengths[] = {254, 255, 256, 1000, 4095};
        const size_t length = lengths[below(maker, sizeof lengths / sizeof lengths[0])];
        memset(name, 'n', length);
        name[length] = '\0';
    } else {
        snprintf(name, sizeof name, "name-%zu", below(maker, NAME_COUNT));
    }
    add(request, name, strlen(name) + 1);
}

static void add_xattr_name(struct request_maker *maker, struct made_request *request)
{
    static const char *const names[] = {"user.a",
                                        "user.b",
                                        "trusted.c",
                                        "security.capability",
                                        "system.posix_acl_access",
                                        "system.posix_acl_default",
                                        "system.kvfs.stats",
                                        "system.kvfs.control",
                                        "system.kvfs.sync",
                                        "user.",
                                        "nothing"};
    if (one_in(maker, 12))
        add_name(maker, request);
    else {
        const char *const name = names[below(maker, sizeof names / sizeof names[0])];
        add(request, name, strlen(name) + 1);
    }
}

/* An ACL that is nearly one, or noise. */
static size_t make_value(struct request_maker *maker, uint8_t *out, size_t most)
{
    static const uint8_t acl[] = {2, 0, 0,   0,   1,   0,   6,  0, 255, 255, 255, 255, 4,   0,
                                  4, 0, 255, 255, 255, 255, 32, 0, 4,   0,   255, 255, 255, 255};
    if (one_in(maker, 3)) {
        memcpy(out, acl, sizeof acl);
        if (one_in(maker, 2))
            out[below(maker, sizeof acl)] ^= (uint8_t)(1u << below(maker, 8));
        return sizeof acl;
    }
    const size_t length = one_in(maker, 8) ? below(maker, most + 1) : below(maker, 300);
    test_fill(out, length, test_random_next(&maker->random));
    return length;
}

/* ---- the operations ------------------------------------------------------------------- */

static void add_forget(struct request_maker *maker, struct made_request *request)
{
    const struct fuse_forget_in in = {.nlookup = maker->careful ? 0 : any_number(maker)};
    add(request, &in, sizeof in);
}

static void add_batch_forget(struct request_maker *maker, struct made_request *request)
{
    const size_t count = below(maker, 32);
    struct fuse_batch_forget_in in = {.count = (uint32_t)count};
    if (!maker->careful && one_in(maker, 8))
        in.count = any_u32(maker);
    add(request, &in, sizeof in);
    for (size_t i = 0; i < count; i++) {
        const struct fuse_forget_one one = {.nodeid = a_node(maker),
                                            .nlookup = maker->careful ? 0 : any_number(maker) % 4};
        add(request, &one, sizeof one);
    }
}

static void add_setattr(struct request_maker *maker, struct made_request *request)
{
    const struct fuse_setattr_in in = {
        .valid = one_in(maker, 2) ? 1u << below(maker, 12) : any_u32(maker),
        .size = an_offset(maker),
        .atime = any_number(maker),
        .mtime = any_number(maker),
        .ctime = any_number(maker),
        .atimensec = any_u32(maker),
        .mtimensec = any_u32(maker),
        .mode = a_mode(maker),
        .uid = any_u32(maker),
        .gid = any_u32(maker),
    };
    add(request, &in, sizeof in);
}

static void add_read(struct request_maker *maker, struct made_request *request, bool listing)
{
    struct fuse_read_in in = {
        .fh = any_number(maker),
        .offset = an_offset(maker),
        .size = one_in(maker, 8) ? any_u32(maker) : (uint32_t)below(maker, 131072),
        .read_flags = any_u32(maker),
    };
    if (listing) {
        const size_t known =
            kv_min_u64(maker->cookie_count, sizeof maker->cookies / sizeof maker->cookies[0]);
        in.offset = one_in(maker, 3) ? 0 : any_number(maker);
        if (known && one_in(maker, 2))
            in.offset = maker->cookies[below(maker, known)];
        in.size %= 65536; /* so that a reply fits a message */
    } else {
        in.size %= 131072 + 1;
    }
    if (!maker->careful && one_in(maker, 64))
        in.size = any_u32(maker) | 0x200000u; /* more than there may be */
    add(request, &in, sizeof in);
}

/* Lines that files of the control directory may obey, and some that they may not. */
static size_t make_lines(struct request_maker *maker, char *out, size_t cap)
{
    static const char *const lines[] = {
        "begin",
        "commit",
        "put name-1 text",
        "put name-2/name-3 \"a b\"",
        "put name-4 @3\nabc\n",
        "delete name-1",
        "discard name-5",
        "rename name-1 name-6",
        "link name-7 name-1",
        "mkdir name-8",
        "inode 2",
        "inode 99999",
        "name-1",
        "**/name-*",
        "name-2/**",
        "*",
        "../x",
        "metrics=none",
        "metrics=all",
        "commit_interval=10ms",
        "memory_budget=8M",
        "log_level=error",
        "alert_interval=1s",
        "=",
        "put",
        "",
        "# remark",
        "put .kvfs/x y",
    };
    size_t used = 0;
    for (size_t count = below(maker, 6) + 1; count; count--)
        used += (size_t)snprintf(out + used, cap - used, "%s%s",
                                 lines[below(maker, sizeof lines / sizeof lines[0])],
                                 one_in(maker, 12) ? "" : "\n");
    return used;
}

static void add_write(struct request_maker *maker, struct made_request *request)
{
    static uint8_t content[32768];
    const bool is_text = one_in(maker, 3);
    const size_t length = is_text            ? make_lines(maker, (char *)content, sizeof content)
                          : one_in(maker, 4) ? below(maker, sizeof content)
                                             : below(maker, 600);
    struct fuse_write_in in = {.fh = any_number(maker),
                               .offset = an_offset(maker),
                               .size = (uint32_t)length,
                               .write_flags = any_u32(maker),
                               .flags = any_u32(maker)};
    if (!maker->careful && one_in(maker, 16))
        in.size = any_u32(maker);
    add(request, &in, sizeof in);
    if (!is_text)
        memset(content, (int)below(maker, 256), length);
    add(request, content, length);
}

static void add_setxattr(struct request_maker *maker, struct made_request *request)
{
    static uint8_t value[60000];
    const size_t length = make_value(maker, value, sizeof value);
    struct fuse_setxattr_in in = {.size = (uint32_t)length,
                                  .flags =
                                      one_in(maker, 8) ? any_u32(maker) : (uint32_t)below(maker, 3),
                                  .setxattr_flags = any_u32(maker) & 3};
    if (!maker->careful && one_in(maker, 16))
        in.size = any_u32(maker);
    add(request, &in, sizeof in);
    add_xattr_name(maker, request);
    add(request, value, length);
}

static void add_fallocate(struct request_maker *maker, struct made_request *request)
{
    static const uint32_t modes[] = {0,
                                     FALLOC_FL_KEEP_SIZE,
                                     FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     FALLOC_FL_ZERO_RANGE,
                                     FALLOC_FL_COLLAPSE_RANGE,
                                     FALLOC_FL_INSERT_RANGE,
                                     FALLOC_FL_PUNCH_HOLE};
    struct fuse_fallocate_in in = {
        .fh = any_number(maker),
        .offset = an_offset(maker),
        .length = an_offset(maker),
        .mode = one_in(maker, 8) ? any_u32(maker)
                                 : modes[below(maker, sizeof modes / sizeof modes[0])]};
    if (one_in(maker, 2)) {
        in.offset &= ~4095ull;
        in.length &= ~4095ull;
    }
    add(request, &in, sizeof in);
}

static void add_copy(struct request_maker *maker, struct made_request *request)
{
    const struct fuse_copy_file_range_in in = {.fh_in = any_number(maker),
                                               .off_in = an_offset(maker),
                                               .nodeid_out = a_node(maker),
                                               .fh_out = any_number(maker),
                                               .off_out = an_offset(maker),
                                               .len = an_offset(maker),
                                               .flags = one_in(maker, 8) ? any_number(maker) : 0};
    add(request, &in, sizeof in);
}

/* What the body of an operation that nobody serves, or that takes only numbers, may be. */
static void add_noise(struct request_maker *maker, struct made_request *request)
{
    uint8_t noise[128];
    for (size_t i = 0; i < sizeof noise; i += 8) {
        const uint64_t number = any_number(maker);
        memcpy(noise + i, &number, sizeof number);
    }
    add(request, noise, sizeof noise);
}

static void add_body(struct request_maker *maker, struct made_request *request)
{
    switch (request->opcode) {
    case FUSE_LOOKUP:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
        add_name(maker, request);
        break;
    case FUSE_REMOVEXATTR:
        add_xattr_name(maker, request);
        break;
    case FUSE_FORGET:
        add_forget(maker, request);
        break;
    case FUSE_BATCH_FORGET:
        add_batch_forget(maker, request);
        break;
    case FUSE_SETATTR:
        add_setattr(maker, request);
        break;
    case FUSE_SYMLINK:
        add_name(maker, request);
        add_name(maker, request);
        break;
    case FUSE_MKNOD: {
        const struct fuse_mknod_in in = {.mode = one_in(maker, 2) ? S_IFREG | 0644u : a_mode(maker),
                                         .rdev = any_u32(maker),
                                         .umask = any_u32(maker)};
        add(request, &in, sizeof in);
        add_name(maker, request);
        break;
    }
    case FUSE_MKDIR: {
        const struct fuse_mkdir_in in = {.mode = a_mode(maker), .umask = any_u32(maker)};
        add(request, &in, sizeof in);
        add_name(maker, request);
        break;
    }
    case FUSE_TMPFILE:
    case FUSE_CREATE: {
        const struct fuse_create_in in = {
            .flags = any_u32(maker), .mode = a_mode(maker), .umask = any_u32(maker)};
        add(request, &in, sizeof in);
        add_name(maker, request);
        break;
    }
    case FUSE_RENAME: {
        const struct fuse_rename_in in = {.newdir = a_node(maker)};
        add(request, &in, sizeof in);
        add_name(maker, request);
        add_name(maker, request);
        break;
    }
    case FUSE_RENAME2: {
        const struct fuse_rename2_in in = {.newdir = a_node(maker),
                                           .flags = one_in(maker, 8) ? any_u32(maker)
                                                                     : (uint32_t)below(maker, 3)};
        add(request, &in, sizeof in);
        add_name(maker, request);
        add_name(maker, request);
        break;
    }
    case FUSE_LINK: {
        const struct fuse_link_in in = {.oldnodeid = a_node(maker)};
        add(request, &in, sizeof in);
        add_name(maker, request);
        break;
    }
    case FUSE_READ:
        add_read(maker, request, false);
        break;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        add_read(maker, request, true);
        break;
    case FUSE_WRITE:
        add_write(maker, request);
        break;
    case FUSE_SETXATTR:
        add_setxattr(maker, request);
        break;
    case FUSE_GETXATTR: {
        const struct fuse_getxattr_in in = {.size = one_in(maker, 3) ? 0 : any_u32(maker)};
        add(request, &in, sizeof in);
        add_xattr_name(maker, request);
        break;
    }
    case FUSE_FALLOCATE:
        add_fallocate(maker, request);
        break;
    case FUSE_COPY_FILE_RANGE:
        add_copy(maker, request);
        break;
    case FUSE_LSEEK: {
        const struct fuse_lseek_in in = {
            .offset = an_offset(maker),
            .whence = one_in(maker, 8) ? any_u32(maker) : SEEK_DATA + (uint32_t)below(maker, 2)};
        add(request, &in, sizeof in);
        break;
    }
    default:
        add_noise(maker, request);
        break;
    }
}

static uint32_t an_opcode(struct request_maker *maker)
{
    static const uint32_t usual[] = {FUSE_LOOKUP,
                                     FUSE_LOOKUP,
                                     FUSE_FORGET,
                                     FUSE_GETATTR,
                                     FUSE_SETATTR,
                                     FUSE_READLINK,
                                     FUSE_SYMLINK,
                                     FUSE_MKNOD,
                                     FUSE_MKNOD,
                                     FUSE_MKNOD,
                                     FUSE_MKDIR,
                                     FUSE_MKDIR,
                                     FUSE_UNLINK,
                                     FUSE_RMDIR,
                                     FUSE_RENAME,
                                     FUSE_LINK,
                                     FUSE_OPEN,
                                     FUSE_READ,
                                     FUSE_WRITE,
                                     FUSE_WRITE,
                                     FUSE_STATFS,
                                     FUSE_RELEASE,
                                     FUSE_FSYNC,
                                     FUSE_SETXATTR,
                                     FUSE_GETXATTR,
                                     FUSE_LISTXATTR,
                                     FUSE_REMOVEXATTR,
                                     FUSE_FLUSH,
                                     FUSE_OPENDIR,
                                     FUSE_READDIR,
                                     FUSE_RELEASEDIR,
                                     FUSE_FSYNCDIR,
                                     FUSE_ACCESS,
                                     FUSE_CREATE,
                                     FUSE_INTERRUPT,
                                     FUSE_BATCH_FORGET,
                                     FUSE_FALLOCATE,
                                     FUSE_READDIRPLUS,
                                     FUSE_RENAME2,
                                     FUSE_LSEEK,
                                     FUSE_COPY_FILE_RANGE,
                                     FUSE_TMPFILE,
                                     FUSE_STATX_OPCODE};
    static const uint32_t rare[] = {FUSE_GETLK,
                                    FUSE_SETLK,
                                    FUSE_SETLKW,
                                    FUSE_BMAP,
                                    FUSE_IOCTL,
                                    FUSE_POLL,
                                    FUSE_INIT,
                                    FUSE_NOTIFY_REPLY,
                                    FUSE_SETUPMAPPING,
                                    FUSE_REMOVEMAPPING,
                                    FUSE_SYNCFS,
                                    0,
                                    7,
                                    19};
    if (one_in(maker, 40))
        return rare[below(maker, sizeof rare / sizeof rare[0])];
    if (!maker->careful && one_in(maker, 200)) {
        const uint32_t opcode = any_u32(maker);
        return opcode == FUSE_DESTROY ? FUSE_LOOKUP : opcode; /* that ends a session */
    }
    return usual[below(maker, sizeof usual / sizeof usual[0])];
}

static void begin(struct made_request *request, uint32_t opcode, uint64_t unique, uint64_t nodeid)
{
    const struct fuse_in_header header = {.opcode = opcode, .unique = unique, .nodeid = nodeid};
    request->length = 0;
    request->opcode = opcode;
    request->nodeid = nodeid;
    request->whole = true;
    add(request, &header, sizeof header);
}

static void set_header_length(struct made_request *request)
{
    const uint32_t length = (uint32_t)request->length;
    memcpy(request->bytes, &length, sizeof length);
}

/* Cut it, stretch it, or let it lie; `opcode` and `unique` stay, so that an answer is known. */
static void scramble(struct request_maker *maker, struct made_request *request)
{
    const size_t header = sizeof(struct fuse_in_header);
    request->whole = false;
    switch (below(maker, 5)) {
    case 0: /* less than it says */
        request->length = header + below(maker, request->length - header + 1);
        break;
    case 1: /* less, and says so */
        request->length = header + below(maker, request->length - header + 1);
        set_header_length(request);
        break;
    case 2: { /* more */
        const size_t more = below(maker, REQUEST_MAX - request->length + 1) % 5000;
        memset(request->bytes + request->length, 'x', more);
        request->length += more;
        if (one_in(maker, 2))
            set_header_length(request);
        break;
    }
    case 3: { /* any length in the header */
        const uint32_t length = any_u32(maker);
        memcpy(request->bytes, &length, sizeof length);
        break;
    }
    default: /* bytes of the body */
        for (size_t i = below(maker, 16); i && request->length > header; i--)
            request->bytes[header + below(maker, request->length - header)] =
                (uint8_t)test_random_next(&maker->random);
        break;
    }
}

/* An answer must fit into one message of a socket: ask for less, or for what is refused. */
static void bound_answer(struct made_request *request)
{
    struct fuse_read_in in;
    uint8_t *const body = request->bytes + sizeof(struct fuse_in_header);
    if ((request->opcode != FUSE_READ && request->opcode != FUSE_READDIR &&
         request->opcode != FUSE_READDIRPLUS) ||
        request->length < sizeof(struct fuse_in_header) + sizeof in)
        return;
    memcpy(&in, body, sizeof in);
    const bool refused = request->opcode == FUSE_READ && in.size >= 0x200000;
    if (in.size > 131072 && !refused)
        in.size %= 131072;
    memcpy(body, &in, sizeof in);
}

void request_make(struct request_maker *maker, uint64_t unique, struct made_request *request)
{
    const uint32_t opcode = an_opcode(maker);
    /* Often enough that its files are found, a look into the control directory. */
    const bool in_control = opcode == FUSE_LOOKUP && one_in(maker, 4);
    begin(request, opcode, unique, in_control ? CONTROL_DIRECTORY : a_node(maker));
    if (in_control)
        add_control_name(maker, request);
    else
        add_body(maker, request);
    set_header_length(request);
    struct fuse_in_header header;
    memcpy(&header, request->bytes, sizeof header);
    header.uid = one_in(maker, 2) ? 0 : any_u32(maker);
    header.gid = one_in(maker, 2) ? 0 : any_u32(maker);
    header.pid = any_u32(maker);
    memcpy(request->bytes, &header, sizeof header);
    if (!maker->careful && one_in(maker, 6))
        scramble(maker, request);
    bound_answer(request);
}

void request_make_init(uint64_t unique, struct made_request *request)
{
    const struct fuse_init_in in = {.major = FUSE_KERNEL_VERSION,
                                    .minor = FUSE_KERNEL_MINOR_VERSION,
                                    .max_readahead = 131072,
                                    .flags = ~0u,
                                    .flags2 = ~0u};
    begin(request, FUSE_INIT, unique, 0);
    add(request, &in, sizeof in);
    set_header_length(request);
}

void request_make_forget(uint64_t unique, uint64_t ino, uint64_t count,
                         struct made_request *request)
{
    const struct fuse_forget_in in = {.nlookup = count};
    begin(request, FUSE_FORGET, unique, ino);
    add(request, &in, sizeof in);
    set_header_length(request);
}
