/*
 * tests/faults/requests/hostile_operations.c: the operations of fs/volume.h, given what no
 * request could carry through libfuse as well: names with a NUL in them, lengths that lie,
 * offsets up to the last bit.
 *
 *    KVFS_SEED=S KVFS_OPERATIONS=N hostile_operations
 *
 * Every reference that an operation counts is noted and given back; then the inode table must
 * be empty, and the store and the filesystem sound.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/ino_map.h"
#include "fs/volume.h"
#include "fs/xattr.h"
#include "kv/device.h"
#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"

#define IMAGE_BYTES        (64u << 20)
#define ROUND_OPERATIONS   5000u
#define OPERATIONS_DEFAULT 40000u
#define KNOWN_MAX          64u
#define IO_BYTES           65536u

struct held {
    uint64_t ino;
    uint64_t count;
};

struct run {
    struct test_random random;
    struct kv_store *store;
    struct fs_volume *volume;
    struct fs_ino_map held; /* struct held */
    uint64_t known[KNOWN_MAX];
    size_t known_count;
    uint64_t cookie;
    uint64_t done, failed;
    uint8_t io[IO_BYTES];
};

static size_t below(struct run *run, size_t limit)
{
    return test_random_below(&run->random, limit);
}

static uint64_t any_number(struct run *run)
{
    switch (below(run, 5)) {
    case 0:
        return UINT64_MAX - below(run, 4097);
    case 1:
        return (uint64_t)INT64_MAX - 2048 + below(run, 4097);
    case 2:
        return test_random_next(&run->random);
    default:
        return below(run, 200000);
    }
}

static uint64_t a_node(struct run *run)
{
    if (below(run, 20) == 0)
        return any_number(run);
    return run->known_count && below(run, 3) ? run->known[below(run, run->known_count)]
                                             : FS_ROOT_INO;
}

/* A name of its length, without a NUL behind it unless it is part of it. */
static size_t a_name(struct run *run, char *name)
{
    static const size_t lengths[] = {0, 1, 2, 255, 256, 300};
    static const char odd[] = {'/', '\0', '.', '\n', (char)0xff};
    size_t length = (size_t)sprintf(name, "name-%zu", below(run, 16));
    if (below(run, 10) == 0)
        name[below(run, length)] = odd[below(run, sizeof odd)];
    if (below(run, 14) == 0) {
        length = lengths[below(run, sizeof lengths / sizeof lengths[0])];
        memset(name, odd[below(run, sizeof odd)], length);
    }
    return length;
}

static void hold(struct run *run, int err, const struct fs_record *record)
{
    if (err)
        return;
    struct held *const held = fs_ino_map_add(&run->held, record->file.ino);
    KV_ASSERT(held);
    held->count++;
    if (run->known_count < KNOWN_MAX)
        run->known[run->known_count++] = record->file.ino;
    else
        run->known[below(run, KNOWN_MAX)] = record->file.ino;
}

/* ---- operations ---------------------------------------------------------------------- */

static int change_names(struct run *run, size_t what)
{
    char name[512], other[512];
    const size_t name_len = a_name(run, name);
    const size_t other_len = a_name(run, other);
    const uint64_t directory = a_node(run);
    const struct fs_caller caller = {.uid = (uint32_t)any_number(run),
                                     .gid = (uint32_t)any_number(run),
                                     .umask = (uint32_t)any_number(run)};
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK, S_IFCHR};
    const struct fs_new_node node = {.mode = below(run, 12) ? types[below(run, 6)] |
                                                                  (uint32_t)below(run, 010000)
                                                            : (uint32_t)any_number(run),
                                     .rdev = any_number(run),
                                     .target = other,
                                     .target_len = other_len};
    struct fs_record record;
    int err;
    switch (what) {
    case 0:
        err = fs_lookup(run->volume, directory, name, name_len, &record);
        hold(run, err, &record);
        return err;
    case 1:
        err = fs_create(run->volume, &caller, directory, name, name_len, &node, &record);
        hold(run, err, &record);
        return err;
    case 2:
        err = fs_create_unnamed(run->volume, &caller, directory, node.mode, &record);
        hold(run, err, &record);
        return err;
    case 3:
        err = fs_link(run->volume, a_node(run), directory, name, name_len, &record);
        hold(run, err, &record);
        return err;
    case 4:
        return fs_unlink(run->volume, directory, name, name_len);
    case 5:
        return fs_rmdir(run->volume, directory, name, name_len);
    case 6:
        return fs_publish(run->volume, a_node(run), directory, name, name_len);
    default:
        return fs_rename(run->volume, directory, name, name_len, a_node(run), other, other_len,
                         below(run, 8) ? (unsigned)below(run, 3) : (unsigned)any_number(run));
    }
}

static int change_content(struct run *run, size_t what)
{
    static const int modes[] = {0,
                                FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE,
                                FALLOC_FL_COLLAPSE_RANGE,
                                FALLOC_FL_INSERT_RANGE};
    const uint64_t ino = a_node(run);
    const uint64_t offset = any_number(run);
    const size_t length = below(run, IO_BYTES + 1);
    uint64_t found, copied;
    size_t got = 0;
    int err;
    switch (what) {
    case 0:
        err = fs_read(run->volume, ino, offset, run->io, length, &got);
        KV_ASSERT(err || got <= length);
        return err;
    case 1:
        return fs_write(run->volume, ino, offset, run->io, length, below(run, 2));
    case 2:
        return fs_fallocate(run->volume, ino,
                            below(run, 8) ? modes[below(run, 6)] : (int)any_number(run),
                            offset & ~(uint64_t)(below(run, 2) ? 4095 : 0),
                            any_number(run) & ~(uint64_t)(below(run, 2) ? 4095 : 0));
    case 3:
        return fs_seek(run->volume, ino, offset,
                       below(run, 8) ? SEEK_DATA + (int)below(run, 2) : (int)any_number(run),
                       &found);
    default:
        return fs_copy_range(run->volume, ino, offset, a_node(run), any_number(run),
                             any_number(run), &copied);
    }
}

static int change_attributes(struct run *run, size_t what)
{
    static const char *const names[] = {"user.a",
                                        "user.b",
                                        "trusted.c",
                                        FS_XATTR_ACCESS_ACL,
                                        FS_XATTR_DEFAULT_ACL,
                                        FS_XATTR_CAPABILITY,
                                        "user.",
                                        "system.other",
                                        "",
                                        "x"};
    const char *const name = names[below(run, sizeof names / sizeof names[0])];
    const uint64_t ino = a_node(run);
    const size_t length = below(run, 4) ? below(run, 200) : below(run, IO_BYTES + 1);
    struct fs_attr_change change = {.valid = (unsigned)any_number(run),
                                    .mode = (uint32_t)any_number(run),
                                    .uid = (uint32_t)any_number(run),
                                    .gid = (uint32_t)any_number(run),
                                    .size = any_number(run),
                                    .atime_ns = (int64_t)any_number(run),
                                    .mtime_ns = (int64_t)any_number(run),
                                    .ctime_ns = (int64_t)any_number(run)};
    struct fs_record record;
    char target[FS_SYMLINK_MAX + 1];
    size_t got = 0;
    int err;
    switch (what) {
    case 0:
        return fs_getattr(run->volume, ino, &record);
    case 1:
        return fs_setattr(run->volume, ino, &change, &record);
    case 2:
        err = fs_getxattr(run->volume, ino, name, run->io, length, &got);
        KV_ASSERT(err || !length || got <= length); /* 0 asks how long it is */
        return err;
    case 3:
        return fs_setxattr(run->volume, ino, name, run->io, length,
                           below(run, 8) ? (int)below(run, 3) : (int)any_number(run),
                           below(run, 2));
    case 4:
        return fs_removexattr(run->volume, ino, name);
    case 5:
        err = fs_listxattr(run->volume, ino, below(run, 2), (char *)run->io, length, &got);
        KV_ASSERT(err || !length || got <= length); /* 0 asks how long it is */
        return err;
    default:
        err = fs_readlink(run->volume, ino, target);
        KV_ASSERT(err || memchr(target, '\0', sizeof target));
        return err;
    }
}

struct listing {
    struct run *run;
    size_t left;
    bool counts;
};

/* fs_dirent_fn */
static bool take_entry(void *context, const struct fs_dirent *dirent)
{
    struct listing *const listing = context;
    KV_ASSERT(dirent->name_len >= 1);
    KV_ASSERT(dirent->name_len <= FS_NAME_MAX);
    if (!listing->left--)
        return false;
    if (dirent->record)
        hold(listing->run, 0, dirent->record);
    listing->run->cookie = dirent->cookie;
    return true;
}

static int list(struct run *run)
{
    struct listing listing = {.run = run, .left = below(run, 40)};
    const uint64_t cookie = below(run, 3) ? 0 : below(run, 2) ? run->cookie : any_number(run);
    return fs_readdir(run->volume, a_node(run), cookie, below(run, 2), take_entry, &listing);
}

static int operate(struct run *run)
{
    switch (below(run, 6)) {
    case 0:
    case 1:
        return change_names(run, below(run, 9));
    case 2:
    case 3:
        return change_content(run, below(run, 5));
    case 4:
        return change_attributes(run, below(run, 7));
    default:
        return list(run);
    }
}

/* ---- rounds -------------------------------------------------------------------------- */

/* What may be said to a program; damage may not: nothing is damaged. */
static void check_error(int err)
{
    KV_ASSERT(err <= 0);
    KV_ASSERT(err > -512);
    KV_ASSERT(err != -EUCLEAN);
    KV_ASSERT(err != -EBADMSG);
    KV_ASSERT(err != -EIO);
}

static void forget_all(struct run *run)
{
    uint64_t inode_count, memory;
    for (size_t i = 0; i < run->held.count; i++) {
        const struct held *const held = fs_ino_map_at(&run->held, i);
        fs_forget(run->volume, held->ino, held->count);
    }
    fs_forget(run->volume, 1ull << 40, 5); /* never heard of */
    fs_forget(run->volume, FS_ROOT_INO, UINT64_MAX);
    fs_volume_usage(run->volume, &inode_count, &memory);
    KV_ASSERT(inode_count == 0);
    fs_ino_map_release(&run->held);
    run->known_count = 0;
}

static void print_finding(void *context, enum kv_check_severity severity, const char *what,
                          const char *text)
{
    uint64_t *const findings = context;
    if (severity == KV_CHECK_NOTE)
        return;
    printf("fsck: %s: %s\n", what, text);
    ++*findings;
}

static void run_round(struct run *run, uint64_t operations)
{
    const struct fs_volume_options options = {.log = test_log_nothing};
    struct kv_error error = {""};
    uint64_t findings = 0;
    struct kv_check_result result;
    const struct kv_check_options check = {.report = print_finding, .context = &findings};
    KV_ASSERT(fs_volume_open(run->store, &options, &run->volume, &error) == 0);
    fs_ino_map_init(&run->held, sizeof(struct held));
    for (uint64_t i = 0; i < operations; i++) {
        const int err = operate(run);
        check_error(err);
        run->done++;
        run->failed += err != 0;
    }
    forget_all(run);
    fs_volume_close(run->volume);
    KV_ASSERT(test_check(run->store, &result) == 0);
    KV_ASSERT(fs_check(run->store, &check, &result) == 0);
    KV_ASSERT(findings == 0);
}

int main(void)
{
    static struct run run;
    const uint64_t seed = test_env("KVFS_SEED", (uint64_t)getpid());
    const uint64_t operations = test_env("KVFS_OPERATIONS", OPERATIONS_DEFAULT);
    printf("KVFS_SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    run.random.state = seed;
    struct kv_device *const device = memory_device_new(IMAGE_BYTES / KV_BLOCK_BYTES);
    test_create_on(device, 0, KV_CODEC_LZ4, 0);
    run.store = test_open_on(device);
    KV_ASSERT(fs_format(run.store, 0, 0, 0755) == 0);
    while (run.done < operations)
        run_round(&run, kv_min_u64(ROUND_OPERATIONS, operations - run.done));
    KV_ASSERT(kv_close(run.store) == 0);
    printf("hostile_operations: %llu operations, %llu of them refused\n",
           (unsigned long long)run.done, (unsigned long long)run.failed);
    return 0;
}
