/*
 * tests/faults/requests/hostile_requests.c: the daemon against a kernel that is not to be
 * trusted: raw FUSE requests through the real transport, protocol, libfuse and operations, over
 * a socket in place of /dev/fuse.
 *
 *    KVFS_SEED=S KVFS_REQUESTS=N hostile_requests
 *
 * Rounds of requests; in odd ones the kernel is careful: all requests are whole, and references
 * are counted. After each round all references are given back, and the inode table must be
 * empty; then the store and the filesystem are checked.
 *
 * Checked of each reply: it belongs to the request whose turn it is (one worker: in order), is
 * as long as it says, its error is one, its body has the form that the operation has.
 */
#define FUSE_USE_VERSION 314

#include <fuse_lowlevel.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/control.h"
#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/fuse_ops.h"
#include "fs/ino_map.h"
#include "kv/device.h"
#include "tests/faults/requests/request_maker.h"
#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"
#include "tools/config.h"

#define IMAGE_BYTES      (64u << 20)
#define ROUND_REQUESTS   5000u
#define REQUESTS_DEFAULT 30000u
#define IN_FLIGHT_MAX    16u
#define REPLY_MAX        (1u << 18)
#define HANG_SECONDS     120u
#define STATX_OPCODE     52u
#define STATX_BYTES      288u

/* A reference count, kept as a kernel keeps it. */
struct held {
    uint64_t ino;
    uint64_t count;
};

struct waiting {
    uint64_t unique;
    uint32_t opcode;
    bool optional; /* may go unanswered */
    bool whole;
    uint32_t size; /* that the request asked for, when it asks for so many bytes */
};

/* What the control directory is made of. */
struct control_parts {
    struct fs_health *health;
    struct fs_prefetch *prefetch;
    struct fs_notifier *notifier; /* not started: there is no kernel to be told */
    struct fs_control_apply *apply;
    struct fs_settings *settings;
    _Atomic unsigned log_level;
};

struct harness {
    struct control_parts control;
    struct kv_device *device;
    struct kv_store *store;
    struct fs_fuse fuse;
    struct fuse_session *session;
    struct fs_transport *transport;
    int kernel_end, daemon_end;

    struct request_maker maker;
    struct waiting queue[IN_FLIGHT_MAX];
    size_t queue_first, queue_count;
    struct fs_ino_map held; /* struct held */
    uint64_t unique;
    uint64_t interrupt; /* the unique of the last INTERRUPT */
    uint64_t sent, answered, refused, tables_emptied;
};

static uint8_t reply[REPLY_MAX];

/* ---- a mount without a kernel ------------------------------------------------------ */

static void open_control(struct harness *harness)
{
    struct control_parts *parts = &harness->control;
    struct fs_fuse *fuse = &harness->fuse;
    struct fs_mount_options options = {.words = &tool_config_words, .metrics = KV_METRIC_ALL};
    KV_ASSERT(fs_counters_init(&fuse->counters, KV_METRIC_ALL) == 0);
    parts->health = fs_health_new(fuse->volume, &fuse->counters, false, &options.alerts);
    parts->prefetch = fs_prefetch_new(fuse->volume);
    parts->notifier = fs_notifier_new(fuse->volume);
    KV_ASSERT(parts->health);
    KV_ASSERT(parts->prefetch);
    KV_ASSERT(parts->notifier);
    parts->apply = fs_control_apply_new(fuse->volume, parts->notifier);
    const struct fs_settings_parts settings_parts = {.volume = fuse->volume,
                                                     .counters = &fuse->counters,
                                                     .health = parts->health,
                                                     .log_level = &parts->log_level};
    parts->settings = fs_settings_new(&options, &settings_parts);
    KV_ASSERT(parts->apply);
    KV_ASSERT(parts->settings);
    const struct fs_control_parts control_parts = {.volume = fuse->volume,
                                                   .counters = &fuse->counters,
                                                   .health = parts->health,
                                                   .prefetch = parts->prefetch,
                                                   .settings = parts->settings,
                                                   .apply = parts->apply,
                                                   .name = ""};
    KV_ASSERT(fs_control_new(&control_parts, &fuse->control, NULL) == 0);
    fuse->protocol.control = fuse->control;
}

static void close_control(struct harness *harness)
{
    struct control_parts *parts = &harness->control;
    fs_control_free(harness->fuse.control);
    fs_control_apply_free(parts->apply);
    fs_notifier_free(parts->notifier);
    fs_settings_free(parts->settings);
    fs_prefetch_free(parts->prefetch);
    fs_health_free(parts->health);
    fs_counters_release(&harness->fuse.counters);
}

/* It holds references while it is at work. */
static void await_prefetch(struct harness *harness)
{
    char text[512];
    do
        (void)fs_prefetch_text(harness->control.prefetch, text, sizeof text);
    while (!strstr(text, "state idle"));
}

static void open_session(struct harness *harness)
{
    char name[] = "kvfs";
    char *arguments[] = {name, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, arguments);
    const struct fs_volume_options options = {.log = test_log_nothing};
    struct kv_error error = {""};
    char device[32];
    int ends[2];
    memset(&harness->fuse, 0, sizeof harness->fuse);
    KV_ASSERT(fs_volume_open(harness->store, &options, &harness->fuse.volume, &error) == 0);
    fs_protocol_init(&harness->fuse.protocol, harness->fuse.volume, &harness->fuse.counters);
    open_control(harness);
    harness->session = fuse_session_new(&args, &fs_fuse_ops, sizeof fs_fuse_ops, &harness->fuse);
    KV_ASSERT(harness->session);
    fuse_opt_free_args(&args);
    KV_ASSERT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    harness->kernel_end = ends[0];
    harness->daemon_end = ends[1];
    /* To libfuse this is a device that somebody else has opened and mounted. */
    snprintf(device, sizeof device, "/dev/fd/%d", ends[1]);
    KV_ASSERT(fuse_session_mount(harness->session, device) == 0);
    const struct fs_transport_hooks hooks =
        fs_protocol_hooks(&harness->fuse.protocol, test_log_nothing, NULL);
    KV_ASSERT(fs_transport_open(harness->session, FS_TRANSPORT_DEVICE, 1, &hooks,
                                &harness->transport, NULL) == 0);
    KV_ASSERT(fs_transport_start(harness->transport) == 0);
}

static void close_session(struct harness *harness)
{
    fs_transport_stop(harness->transport);
    fs_transport_close(harness->transport);
    fuse_session_destroy(harness->session); /* closes the daemon's end */
    close(harness->kernel_end);
    close_control(harness);
    fs_volume_close(harness->fuse.volume);
}

/* ---- references, as the kernel counts them ----------------------------------------------- */

static void hold(struct harness *harness, uint64_t ino)
{
    if (!ino)
        return; /* an absent name */
    struct held *const held = fs_ino_map_add(&harness->held, ino);
    KV_ASSERT(held);
    held->count++;
    request_maker_note_inode(&harness->maker, ino);
}

/* ---- replies ------------------------------------------------------------------------------- */

static void check_attr(const struct fuse_attr *attr)
{
    KV_ASSERT(attr->ino > 0);
    KV_ASSERT(attr->size <= INT64_MAX);
    KV_ASSERT(attr->atimensec < 1000000000);
    KV_ASSERT(attr->mtimensec < 1000000000);
    KV_ASSERT(attr->ctimensec < 1000000000);
    KV_ASSERT((attr->mode & ~(uint32_t)(S_IFMT | 07777)) == 0);
}

static void check_entry(struct harness *harness, const uint8_t *body)
{
    struct fuse_entry_out entry;
    memcpy(&entry, body, sizeof entry);
    if (entry.nodeid) {
        /* Nodes of the control directory come and go; what they show stays. */
        KV_ASSERT(entry.nodeid == entry.attr.ino || fs_control_owns(entry.nodeid));
        check_attr(&entry.attr);
    }
    hold(harness, entry.nodeid);
}

static void check_name(const uint8_t *name, size_t length)
{
    KV_ASSERT(length >= 1);
    KV_ASSERT(length <= 255);
    KV_ASSERT(!memchr(name, '/', length));
    KV_ASSERT(!memchr(name, '\0', length));
}

static void check_listing(struct harness *harness, const uint8_t *body, size_t length, bool plus)
{
    const size_t before = plus ? sizeof(struct fuse_entry_out) : 0;
    const size_t name_at = before + offsetof(struct fuse_dirent, name);
    for (size_t at = 0; at < length;) {
        struct fuse_dirent dirent;
        KV_ASSERT(length - at >= name_at);
        memcpy(&dirent, body + at + before, offsetof(struct fuse_dirent, name));
        const size_t whole = FUSE_DIRENT_ALIGN(name_at + dirent.namelen);
        KV_ASSERT(whole <= length - at);
        check_name(body + at + name_at, dirent.namelen);
        request_maker_note_cookie(&harness->maker, dirent.off);
        if (plus)
            check_entry(harness, body + at);
        at += whole;
    }
}

/* The body of an answer without an error. */
static void check_body(struct harness *harness, const struct waiting *waiting, const uint8_t *body,
                       size_t length)
{
    switch (waiting->opcode) {
    case FUSE_LOOKUP:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
        KV_ASSERT(length == sizeof(struct fuse_entry_out));
        check_entry(harness, body);
        break;
    case FUSE_TMPFILE:
        KV_ASSERT(length == sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out));
        check_entry(harness, body);
        break;
    case FUSE_GETATTR:
    case FUSE_SETATTR: {
        struct fuse_attr_out out;
        KV_ASSERT(length == sizeof out);
        memcpy(&out, body, sizeof out);
        check_attr(&out.attr);
        break;
    }
    case STATX_OPCODE:
        KV_ASSERT(length == STATX_BYTES);
        break;
    case FUSE_READLINK:
        KV_ASSERT(length >= 1);
        KV_ASSERT(length <= 4095);
        break;
    case FUSE_READ:
        KV_ASSERT(!waiting->whole || length <= waiting->size);
        break;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        KV_ASSERT(!waiting->whole || length <= waiting->size);
        check_listing(harness, body, length, waiting->opcode == FUSE_READDIRPLUS);
        break;
    case FUSE_WRITE:
    case FUSE_COPY_FILE_RANGE: {
        struct fuse_write_out out;
        KV_ASSERT(length == sizeof out);
        memcpy(&out, body, sizeof out);
        KV_ASSERT(!waiting->whole || waiting->opcode != FUSE_WRITE || out.size <= waiting->size);
        break;
    }
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        KV_ASSERT(!waiting->whole || (waiting->size ? length <= waiting->size
                                                    : length == sizeof(struct fuse_getxattr_out)));
        break;
    case FUSE_STATFS:
        KV_ASSERT(length == sizeof(struct fuse_statfs_out));
        break;
    case FUSE_LSEEK:
        KV_ASSERT(length == sizeof(struct fuse_lseek_out));
        break;
    case FUSE_INIT:
        KV_ASSERT(length == sizeof(struct fuse_init_out));
        break;
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_FALLOCATE:
        KV_ASSERT(length == 0);
        break;
    default:
        KV_ASSERT(false && "an operation that nobody serves was answered");
    }
}

/* Take one reply from the daemon. */
static void take_reply(struct harness *harness)
{
    const ssize_t length = recv(harness->kernel_end, reply, sizeof reply, 0);
    struct fuse_out_header header;
    KV_ASSERT(length >= (ssize_t)sizeof header);
    memcpy(&header, reply, sizeof header);
    KV_ASSERT(header.len == (size_t)length);
    KV_ASSERT(header.error <= 0);
    KV_ASSERT(header.error > -512);
    KV_ASSERT(!header.error || header.len == sizeof header);
    for (;;) {
        KV_ASSERT(harness->queue_count > 0); /* else nobody asked */
        const struct waiting *const waiting = &harness->queue[harness->queue_first];
        harness->queue_first = (harness->queue_first + 1) % IN_FLIGHT_MAX;
        harness->queue_count--;
        if (waiting->optional && waiting->unique != header.unique)
            continue;
        if (waiting->unique != header.unique)
            fprintf(stderr, "answer to %llu (error %d) where %llu, operation %u, waits\n",
                    (unsigned long long)header.unique, header.error,
                    (unsigned long long)waiting->unique, waiting->opcode);
        KV_ASSERT(waiting->unique == header.unique);
        harness->answered++;
        harness->refused += header.error != 0;
        if (!header.error)
            check_body(harness, waiting, reply + sizeof header, (size_t)length - sizeof header);
        return;
    }
}

/* Is there an answer that must come? */
static bool must_wait(const struct harness *harness)
{
    for (size_t i = 0; i < harness->queue_count; i++)
        if (!harness->queue[(harness->queue_first + i) % IN_FLIGHT_MAX].optional)
            return true;
    return false;
}

static void drain(struct harness *harness)
{
    while (must_wait(harness))
        take_reply(harness);
}

/* ---- requests ---------------------------------------------------------------- */

static bool is_answered(uint32_t opcode)
{
    return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_NOTIFY_REPLY;
}

/* How many bytes a request asks for: the same place in all that do. */
static uint32_t size_asked(const struct made_request *request)
{
    const uint8_t *const body = request->bytes + sizeof(struct fuse_in_header);
    struct fuse_read_in read_in;
    struct fuse_write_in write_in;
    struct fuse_getxattr_in getxattr_in;
    switch (request->opcode) {
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        memcpy(&read_in, body, sizeof read_in);
        return read_in.size;
    case FUSE_WRITE:
        memcpy(&write_in, body, sizeof write_in);
        return write_in.size;
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        memcpy(&getxattr_in, body, sizeof getxattr_in);
        return getxattr_in.size;
    default:
        return 0;
    }
}

static void send_request(struct harness *harness, const struct made_request *request,
                         uint64_t unique)
{
    if (harness->queue_count == IN_FLIGHT_MAX && !must_wait(harness))
        harness->queue_count = 0; /* whoever may stay silent did */
    while (harness->queue_count == IN_FLIGHT_MAX)
        take_reply(harness);
    while (send(harness->kernel_end, request->bytes, request->length, MSG_DONTWAIT) < 0) {
        KV_ASSERT(errno == EAGAIN);
        struct pollfd poll_fd = {.fd = harness->kernel_end, .events = POLLIN | POLLOUT};
        KV_ASSERT(poll(&poll_fd, 1, -1) == 1);
        if (poll_fd.revents & POLLIN)
            take_reply(harness);
    }
    harness->sent++;
    if (!is_answered(request->opcode))
        return;
    const size_t last = (harness->queue_first + harness->queue_count++) % IN_FLIGHT_MAX;
    harness->queue[last] = (struct waiting){.unique = unique,
                                            .opcode = request->opcode,
                                            .optional = request->opcode == FUSE_INTERRUPT,
                                            .whole = request->whole,
                                            .size = request->whole ? size_asked(request) : 0};
}

static void greet(struct harness *harness)
{
    static struct made_request request;
    request_make_init(++harness->unique, &request);
    send_request(harness, &request, harness->unique);
    drain(harness);
}

/* Something shorter than a header: nobody can answer it, and the daemon goes on. */
static void send_stump(struct harness *harness)
{
    uint8_t bytes[sizeof(struct fuse_in_header) - 1] = {0};
    const size_t length = 1 + test_random_below(&harness->maker.random, sizeof bytes);
    drain(harness);
    KV_ASSERT(send(harness->kernel_end, bytes, length, 0) == (ssize_t)length);
}

static uint64_t next_unique(struct harness *harness)
{
    const uint64_t last = harness->unique++;
    /* Sometimes one that is under way; but silence must not pass for another's answer. */
    const bool again = !harness->maker.careful && last % 32 == 0 && last != harness->interrupt;
    return again ? last : harness->unique;
}

static void send_requests(struct harness *harness, uint64_t count)
{
    static struct made_request request;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t unique = next_unique(harness);
        request_make(&harness->maker, unique, &request);
        if (request.opcode == FUSE_INTERRUPT) {
            unique = harness->interrupt = ++harness->unique;
            memcpy(request.bytes + offsetof(struct fuse_in_header, unique), &unique, sizeof unique);
        }
        send_request(harness, &request, unique);
        if (!harness->maker.careful && i % 500 == 0)
            send_stump(harness);
    }
    drain(harness);
}

/* Give all references back: exactly those that there are, or, when nobody knows, many more. */
static void forget_all(struct harness *harness)
{
    static struct made_request request;
    for (size_t i = 0; i < harness->held.count; i++) {
        const struct held *const held = fs_ino_map_at(&harness->held, i);
        const uint64_t count = harness->maker.careful ? held->count : UINT64_MAX;
        request_make_forget(++harness->unique, held->ino, count, &request);
        send_request(harness, &request, harness->unique);
    }
    greet(harness); /* refused, but answered after them */
    fs_ino_map_release(&harness->held);
    fs_ino_map_init(&harness->held, sizeof(struct held));
    harness->maker.inode_count = 0;

    uint64_t inode_count, memory;
    await_prefetch(harness);
    KV_ASSERT(fs_control_node_count(harness->fuse.control) == 0);
    fs_volume_usage(harness->fuse.volume, &inode_count, &memory);
    if (inode_count)
        fprintf(stderr, "%llu inodes are still referred to\n", (unsigned long long)inode_count);
    KV_ASSERT(inode_count == 0);
    harness->tables_emptied++;
}

/* ---- rounds ------------------------------------------------------------------ */

static void print_finding(void *context, enum kv_check_severity severity, const char *what,
                          const char *text)
{
    uint64_t *const findings = context;
    if (severity == KV_CHECK_NOTE)
        return;
    printf("fsck: %s: %s\n", what, text);
    ++*findings;
}

static void check_all(struct harness *harness)
{
    uint64_t findings = 0;
    struct kv_check_result result;
    const struct kv_check_options options = {.report = print_finding, .context = &findings};
    KV_ASSERT(test_check(harness->store, &result) == 0);
    KV_ASSERT(fs_check(harness->store, &options, &result) == 0);
    KV_ASSERT(findings == 0);
}

static void run_round(struct harness *harness, uint64_t requests, bool careful)
{
    harness->maker.careful = careful;
    open_session(harness);
    fs_ino_map_init(&harness->held, sizeof(struct held));
    greet(harness);
    send_requests(harness, requests);
    forget_all(harness);
    close_session(harness);
    fs_ino_map_release(&harness->held);
    check_all(harness);
}

int main(void)
{
    static struct harness harness;
    const uint64_t seed = test_env("KVFS_SEED", (uint64_t)getpid());
    const uint64_t requests = test_env("KVFS_REQUESTS", REQUESTS_DEFAULT);
    printf("KVFS_SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    harness.maker.random.state = seed;
    harness.device = memory_device_new(IMAGE_BYTES / KV_BLOCK_BYTES);
    test_create_on(harness.device, 0, KV_CODEC_LZ4, 0);
    harness.store = test_open_on(harness.device);
    KV_ASSERT(fs_format(harness.store, 0, 0, 0755) == 0);
    for (uint64_t round = 0; harness.sent < requests; round++) {
        alarm(HANG_SECONDS); /* a daemon that does not answer any more */
        run_round(&harness, kv_min_u64(ROUND_REQUESTS, requests - harness.sent), round & 1);
    }
    alarm(0);
    KV_ASSERT(kv_close(harness.store) == 0);
    printf("hostile_requests: %llu requests, %llu answers, %llu of them errors; "
           "%llu times all forgotten and checked\n",
           (unsigned long long)harness.sent, (unsigned long long)harness.answered,
           (unsigned long long)harness.refused, (unsigned long long)harness.tables_emptied);
    return 0;
}
