/*
 * tests/faults/io/clients.c: programs on a mount whose device fails, and what they are told.
 *
 *    test-fault-clients run DIR CONTROL LIST KIND once|lasting AFTER SEED
 *    test-fault-clients quiet DIR CONTROL LIST
 *    test-fault-clients order CONTROL KIND once|lasting AFTER SEED
 *    test-fault-clients check DIR LIST
 *
 * run: threads write files and fsync them; when all are at it, the fault is ordered from the
 * daemon. LIST gets the files that an fsync has acknowledged. From the first error on, each
 * thread is told EIO by fsync and EROFS by what would change something, and reads what was
 * acknowledged or EIO. quiet: nobody waits for the flush that fails. check: all files of LIST are
 * there. KIND is a name of ring_fault_name, with "@writes" behind it for writes only.
 */
#include "ring_faults.h"
#include "workload.h"

#include "../../kv/support_store.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREAD_COUNT 6u
#define FILES_MAX    4000u
#define LENGTH_MAX   70000u
#define WARM_FILES   3u

struct client {
    pthread_t thread;
    const char *dir;
    FILE *list; /* shared; stdio locks it */
    unsigned index;
    uint64_t seed;
    unsigned acknowledged;
    unsigned first_by_fsync; /* 1: the first error came from an fsync */
    unsigned reads, read_errors;
    uint8_t *bytes; /* LENGTH_MAX, aligned */
};

static _Atomic unsigned warm; /* clients that have some files */

static uint64_t identity_of(const struct client *client, unsigned file)
{
    struct test_random random = {client->seed * 1000003u + client->index * 4099u + file};
    return test_random_next(&random);
}

static size_t length_of(uint64_t identity)
{
    return 1 + identity % (identity % 7 ? 3000 : LENGTH_MAX - 1);
}

static void path_of(const struct client *client, unsigned file, char path[512])
{
    snprintf(path, 512, "%s/t%u-%u", client->dir, client->index, file);
}

/* 0, or the negative errno of the call that failed; *by_fsync which it was. */
static int write_durably(struct client *client, unsigned file, bool *by_fsync)
{
    char path[512];
    const uint64_t identity = identity_of(client, file);
    const size_t length = length_of(identity);
    path_of(client, file, path);
    workload_fill(client->bytes, length, identity);
    *by_fsync = false;
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int err = 0;
    /* The kernel may hand it on in parts, and says how far it came when one fails. */
    for (size_t done = 0; !err && done < length;) {
        const ssize_t written = write(fd, client->bytes + done, length - done);
        if (written < 0)
            err = -errno;
        else if (written == 0)
            violate("%s: %zu of %zu bytes were written", path, done, length);
        else
            done += (size_t)written;
    }
    if (!err && fsync(fd)) {
        err = -errno;
        *by_fsync = true;
    }
    if (err) {
        /* Whatever is asked of this file from now on, nothing is promised. */
        if (!fsync(fd))
            violate("%s: an fsync succeeded after %s", path, strerror(-err));
        if (errno != EIO)
            violate("%s: fsync after the failure: %s", path, strerror(errno));
        if (pwrite(fd, "x", 1, 0) >= 0)
            violate("%s: a write succeeded after %s", path, strerror(-err));
        if (errno != EROFS)
            violate("%s: write after the failure: %s", path, strerror(errno));
    }
    close(fd);
    return err;
}

/* 0, or the negative errno; bytes that are read must be right. `direct`: not from the cache. */
static int read_back(const char *path, size_t length, uint64_t identity, uint8_t *bytes,
                     bool direct)
{
    static __thread uint8_t expected[LENGTH_MAX];
    const int fd = open(path, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
    if (fd < 0)
        return -errno;
    size_t at = 0;
    int err = 0;
    while (at < length) {
        const ssize_t got = pread(fd, bytes + at, length - at, (off_t)at);
        if (got <= 0) {
            err = got ? -errno : -ENODATA;
            break;
        }
        at += (size_t)got;
    }
    close(fd);
    if (err)
        return err;
    workload_fill(expected, length, identity);
    if (memcmp(bytes, expected, length) != 0)
        violate("%s: wrong bytes", path);
    return 0;
}

static void expect_readable(struct client *client)
{
    char path[512];
    for (unsigned file = 0; file < client->acknowledged; file++) {
        const uint64_t identity = identity_of(client, file);
        path_of(client, file, path);
        const int err = read_back(path, length_of(identity), identity, client->bytes, file % 2);
        if (err && err != -EIO)
            violate("%s: acknowledged, and then: %s", path, strerror(-err));
        client->reads++;
        client->read_errors += err != 0;
    }
}

static void expect_read_only(struct client *client)
{
    char path[512], other[520];
    snprintf(path, sizeof path, "%s/new-%u", client->dir, client->index);
    if (!mkdir(path, 0700) || errno != EROFS)
        violate("mkdir after the failure: %s", strerror(errno));
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 || errno != EROFS)
        violate("creating a file after the failure: %s", strerror(errno));
    if (client->acknowledged) {
        path_of(client, 0, path);
        snprintf(other, sizeof other, "%s.new", path);
        if (!rename(path, other) || errno != EROFS)
            violate("rename after the failure: %s", strerror(errno));
    }
}

static void *run_client(void *context)
{
    struct client *const client = context;
    bool by_fsync = false;
    int err = 0;
    for (unsigned file = 0; file < FILES_MAX && !err; file++) {
        err = write_durably(client, file, &by_fsync);
        if (err)
            break;
        client->acknowledged = file + 1;
        const uint64_t identity = identity_of(client, file);
        fprintf(client->list, "t%u-%u %zu %" PRIu64 "\n", client->index, file, length_of(identity),
                identity);
        if (file + 1 == WARM_FILES)
            (void)atomic_fetch_add_explicit(&warm, 1, memory_order_relaxed);
    }
    if (!err)
        violate("client %u was never told of the failure", client->index);
    if (err != -EIO && (by_fsync || err != -EROFS))
        violate("client %u: %s: %s", client->index, by_fsync ? "fsync" : "write", strerror(-err));
    client->first_by_fsync = by_fsync;
    expect_read_only(client);
    expect_readable(client);
    return NULL;
}

static struct ring_fault parse_fault(char **argv)
{
    struct ring_fault fault = {.targets = RING_READS | RING_WRITES | RING_FLUSHES};
    char name[32];
    snprintf(name, sizeof name, "%s", argv[0]);
    char *const only = strchr(name, '@');
    if (only) {
        *only = '\0';
        fault.targets = RING_WRITES;
    }
    while (strcmp(name, ring_fault_name(fault.kind)) != 0)
        if (++fault.kind == RING_KIND_COUNT)
            violate("no kind of fault is called %s", name);
    fault.lasting = strcmp(argv[1], "lasting") == 0;
    fault.after = strtoull(argv[2], NULL, 0);
    fault.seed = strtoull(argv[3], NULL, 0);
    return fault;
}

static struct ring_control *map_control(const char *path)
{
    struct ring_control *const control = ring_control_map(path);
    if (!control)
        violate("%s: %s", path, strerror(errno));
    return control;
}

static FILE *open_list(const char *path, const char *mode)
{
    FILE *const list = fopen(path, mode);
    if (!list)
        violate("%s: %s", path, strerror(errno));
    return list;
}

static uint8_t *bytes_new(void)
{
    void *bytes;
    if (posix_memalign(&bytes, 4096, LENGTH_MAX + 4096))
        violate("no memory");
    return bytes;
}

static int run(char **argv)
{
    static struct client clients[THREAD_COUNT];
    struct ring_control *const control = map_control(argv[1]);
    const struct ring_fault fault = parse_fault(argv + 3);
    FILE *const list = open_list(argv[2], "w");
    for (unsigned i = 0; i < THREAD_COUNT; i++) {
        clients[i] = (struct client){
            .dir = argv[0], .list = list, .index = i, .seed = fault.seed, .bytes = bytes_new()};
        if (pthread_create(&clients[i].thread, NULL, run_client, &clients[i]))
            violate("no thread");
    }
    while (atomic_load_explicit(&warm, memory_order_relaxed) < THREAD_COUNT)
        (void)usleep(1000);
    ring_fault_order(control, fault);

    unsigned acknowledged = 0, by_fsync = 0, reads = 0, read_errors = 0;
    for (unsigned i = 0; i < THREAD_COUNT; i++) {
        pthread_join(clients[i].thread, NULL);
        acknowledged += clients[i].acknowledged;
        by_fsync += clients[i].first_by_fsync;
        reads += clients[i].reads;
        read_errors += clients[i].read_errors;
        free(clients[i].bytes);
    }
    if (!by_fsync && fault.kind == RING_LOST)
        violate("nobody heard of the failed flush by fsync");
    if (!ring_fault_hits(control))
        violate("the fault never struck");
    if (fclose(list))
        violate("%s: %s", argv[2], strerror(errno));
    printf("%u files acknowledged; %u of %u clients heard of it by fsync; %u files read, %u EIO\n",
           acknowledged, by_fsync, THREAD_COUNT, reads, read_errors);
    ring_control_unmap(control);
    return 0;
}

/* The committer's flush fails in the background; whoever comes later hears of it. */
static int run_quiet(char **argv)
{
    struct ring_control *const control = map_control(argv[1]);
    char path[512];
    snprintf(path, sizeof path, "%s/early", argv[0]);
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, "durable", 7) != 7 || fsync(fd))
        violate("%s: %s", path, strerror(errno));
    FILE *const list = open_list(argv[2], "w");
    if (fclose(list))
        violate("%s: %s", argv[2], strerror(errno));

    ring_fault_order(control, (struct ring_fault){.targets = RING_FLUSHES, .kind = RING_LOST});
    if (pwrite(fd, "changed", 7, 0) != 7)
        violate("%s: %s", path, strerror(errno));
    for (unsigned waits = 0; !ring_fault_hits(control); waits++) {
        if (waits == 60000)
            violate("the committer never flushed");
        (void)usleep(1000);
    }
    if (!fsync(fd) || errno != EIO)
        violate("an fsync after the failed flush: %s", strerror(errno));
    if (pwrite(fd, "x", 1, 0) >= 0 || errno != EROFS)
        violate("a write after the failed flush: %s", strerror(errno));
    close(fd);
    puts("an fsync after a flush that failed in the background says EIO");
    ring_control_unmap(control);
    return 0;
}

static int check(char **argv)
{
    FILE *const list = open_list(argv[1], "r");
    uint8_t *const bytes = bytes_new();
    char name[64], path[512];
    size_t length;
    uint64_t identity;
    unsigned count = 0;
    while (fscanf(list, "%63s %zu %" SCNu64, name, &length, &identity) == 3) {
        snprintf(path, sizeof path, "%s/%s", argv[0], name);
        if (length > LENGTH_MAX)
            violate("%s: a list that was not made here", argv[1]);
        const int err = read_back(path, length, identity, bytes, false);
        if (err)
            violate("%s: acknowledged, and lost: %s", path, strerror(-err));
        count++;
    }
    fclose(list); /* was only read */
    free(bytes);
    printf("%u acknowledged files are there\n", count);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 9 && strcmp(argv[1], "run") == 0)
        return run(argv + 2);
    if (argc == 5 && strcmp(argv[1], "quiet") == 0)
        return run_quiet(argv + 2);
    if (argc == 4 && strcmp(argv[1], "check") == 0)
        return check(argv + 2);
    if (argc == 7 && strcmp(argv[1], "order") == 0) {
        ring_fault_order(map_control(argv[2]), parse_fault(argv + 3));
        return 0;
    }
    fprintf(stderr, "usage: see the head of tests/faults/io/clients.c\n");
    return 2;
}
