/*
 * kv/create.c: an empty image: geometry, log, bitmaps, two empty trees.
 *
 * Owns       the layout of a new image.
 * Invariant  the superblock is the last thing written: an unfinished image is no image.
 * Locks      none: the device is not shared yet.
 */
#include "kv/error.h"
#include "kv/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define NODE_DEFAULT   16384u
#define EXTENT_DEFAULT 131072u
#define LOG_DEFAULT    (256ull << 20)
#define LOOK_BYTES     (128u << 10) /* how much of the start is looked at before overwriting */

/* ---- geometry ------------------------------------------------------------------- */

static bool power_of_two_within(uint64_t n, uint64_t least, uint64_t most)
{
    return n >= least && n <= most && !(n & (n - 1));
}

static int check_options(const struct kv_create_options *options, struct kv_error *error)
{
    if (options->node_bytes &&
        !power_of_two_within(options->node_bytes, KV_NODE_BYTES_MIN, KV_NODE_BYTES_MAX)) {
        kv_error_set(error, "node size %u: must be a power of two from %u to %u",
                     options->node_bytes, KV_NODE_BYTES_MIN, KV_NODE_BYTES_MAX);
        return -EINVAL;
    }
    if (options->extent_bytes &&
        !power_of_two_within(options->extent_bytes, KV_BLOCK_BYTES, KV_BLOB_MAX)) {
        kv_error_set(error, "extent size %u: must be a power of two from %u to %u",
                     options->extent_bytes, KV_BLOCK_BYTES, KV_BLOB_MAX);
        return -EINVAL;
    }
    if (options->label && strlen(options->label) > KV_LABEL_MAX) {
        kv_error_set(error, "label is longer than %u bytes; shorten it", KV_LABEL_MAX);
        return -EINVAL;
    }
    if (options->log_bytes && options->log_bytes < KV_LOG_BYTES_MIN) {
        kv_error_set(error, "log size %llu: the least is %llu bytes",
                     (unsigned long long)options->log_bytes, (unsigned long long)KV_LOG_BYTES_MIN);
        return -EINVAL;
    }
    if (options->codec.codec > KV_CODEC_ZSTD || options->codec.level < 0 ||
        options->codec.level > 19) {
        kv_error_set(error, "codec %d level %d: codecs are none, lz4 and zstd, levels 1 to 19",
                     (int)options->codec.codec, options->codec.level);
        return -EINVAL;
    }
    return 0;
}

/* Is the image neither too small nor too large? */
static int check_size(uint64_t size_bytes, struct kv_error *error)
{
    if (size_bytes >= KV_IMAGE_BYTES_MIN && size_bytes <= KV_IMAGE_BYTES_MAX)
        return 0;
    const bool small = size_bytes < KV_IMAGE_BYTES_MIN;
    kv_error_set(error, "an image of %llu bytes is too %s; the %s is %llu",
                 (unsigned long long)size_bytes, small ? "small" : "large",
                 small ? "least" : "most",
                 (unsigned long long)(small ? KV_IMAGE_BYTES_MIN : KV_IMAGE_BYTES_MAX));
    return small ? -ENOSPC : -EFBIG;
}

/* Divide the image: superblocks, log, groups, backup. */
static int lay_out(struct kv_disk_superblock *sb, uint64_t image_blocks, uint64_t log_bytes,
                   struct kv_error *error)
{
    const int err = check_size(image_blocks * KV_BLOCK_BYTES, error);
    if (err)
        return err;
    if (!log_bytes)
        log_bytes = kv_min_u64(image_blocks * KV_BLOCK_BYTES / 8, LOG_DEFAULT);
    const uint64_t log_blocks = log_bytes / KV_BLOCK_BYTES;
    const uint64_t first = (KV_LOG_FIRST_BLOCK + log_blocks + 15) / 16 * 16;
    /* A last group must be worth its bitmaps. */
    const uint64_t least = KV_GROUP_META_BLOCKS + 256;
    if (log_blocks > image_blocks / 2 || first + least + 1 > image_blocks) {
        kv_error_set(error, "a log of %llu bytes leaves no room in the image; make it smaller",
                     (unsigned long long)log_bytes);
        return -ENOSPC;
    }
    const uint64_t span = image_blocks - 1 - first;
    uint64_t groups = span / KV_GROUP_BLOCKS;
    if (span % KV_GROUP_BLOCKS >= least)
        groups++;
    sb->image_blocks = kv_le64_of(image_blocks);
    sb->log_first_block = kv_le64_of(KV_LOG_FIRST_BLOCK);
    sb->log_block_count = kv_le64_of(log_blocks);
    sb->group_first_block = kv_le64_of(first);
    sb->group_count = kv_le32_of((uint32_t)groups);
    return 0;
}

/* RFC 4122 version 4, unless the caller chose one. */
static int choose_uuid(struct kv_disk_superblock *sb, const uint8_t wanted[16])
{
    static const uint8_t none[16];
    if (memcmp(wanted, none, sizeof none) != 0) {
        memcpy(sb->uuid, wanted, sizeof sb->uuid);
        return 0;
    }
    if (getrandom(sb->uuid, sizeof sb->uuid, 0) != (ssize_t)sizeof sb->uuid)
        return -EIO;
    sb->uuid[6] = (uint8_t)((sb->uuid[6] & 0x0f) | 0x40);
    sb->uuid[8] = (uint8_t)((sb->uuid[8] & 0x3f) | 0x80);
    return 0;
}

/* ---- writing ---------------------------------------------------------------------- */

static int refuse_if_used(struct kv_device *device, struct kv_error *error)
{
    const uint32_t count = (uint32_t)kv_min_u64(LOOK_BYTES / KV_BLOCK_BYTES, device->block_count);
    uint8_t *bytes = kv_device_alloc(LOOK_BYTES);
    if (!bytes)
        return -ENOMEM;
    int err = kv_device_read(device, 0, count, bytes);
    for (size_t i = 0; i < count * (size_t)KV_BLOCK_BYTES && !err; i++)
        if (bytes[i])
            err = -EEXIST;
    if (err == -EEXIST)
        kv_error_set(error, memcmp(bytes, KV_SUPERBLOCK_MAGIC, 8) == 0
                                ? "it holds a kvfs image already; use -f to overwrite it"
                                : "it is not empty; use -f to overwrite what it holds");
    free(bytes);
    return err;
}

/* Nothing of an older image may be taken for this one's. */
static int wipe(struct kv_device *device, const struct kv_disk_superblock *sb)
{
    int err = kv_device_zero(device, 0, KV_LOG_FIRST_BLOCK);
    if (!err)
        err = kv_device_zero(device, kv_le64_get(sb->log_first_block),
                             kv_le64_get(sb->log_block_count));
    if (!err && device->thin)
        err = kv_device_write_zeroes(
            device, kv_le64_get(sb->log_first_block),
            kv_min_u64(kv_le64_get(sb->log_block_count), KV_WAL_BACKED_BLOCKS_MIN));
    if (!err)
        err = kv_device_zero(device, kv_le64_get(sb->image_blocks) - 1, 1);
    return err;
}

/* Open the empty image in memory, give it its trees, and write the first superblocks. */
static int plant_trees(struct kv_device *device, struct kv_disk_superblock *sb,
                       struct kv_error *error)
{
    const struct kv_open_options options = {.memory_budget_bytes = 16u << 20,
                                            .no_background = true};
    struct kv_store *store = kv_store_new();
    if (!store)
        return -ENOMEM;
    store->device = device;
    int err = kv_store_assemble(store, sb, &options, error);
    for (unsigned i = 0; i < KV_TREE_COUNT && !err; i++) {
        err = kv_btree_create(&store->trees[i]);
        store->checkpoint.superblock.tree_root[i] = kv_le64_of(store->trees[i].root);
    }
    if (!err) {
        pthread_mutex_lock(&store->checkpoint.mutex);
        err = kv_checkpoint_run(&store->checkpoint, true);
        pthread_mutex_unlock(&store->checkpoint.mutex);
    }
    if (!err)
        err = kv_superblock_write_backup(device, &store->checkpoint.superblock);
    store->device = NULL; /* the caller's */
    kv_store_disassemble(store);
    return err;
}

int kv_create_on_device(struct kv_device *device, const struct kv_create_options *options,
                        struct kv_error *error)
{
    struct kv_disk_superblock sb;
    memset(&sb, 0, sizeof sb);
    int err = check_options(options, error);
    if (!err)
        err = choose_uuid(&sb, options->uuid);
    if (!err)
        err = lay_out(&sb, device->block_count, options->log_bytes, error);
    if (!err && !options->force)
        err = refuse_if_used(device, error);
    if (err)
        return err;
    memcpy(sb.magic, KV_SUPERBLOCK_MAGIC, sizeof sb.magic);
    sb.version = kv_le32_of(KV_FORMAT_VERSION);
    sb.feature_incompat = kv_le64_of(KV_FEATURE_INCOMPAT_THIRDS | KV_FEATURE_INCOMPAT_FRAMES |
                                     KV_FEATURE_INCOMPAT_DENSE | KV_FEATURE_INCOMPAT_BARE);
    sb.node_bytes = kv_le32_of(options->node_bytes ? options->node_bytes : NODE_DEFAULT);
    sb.extent_bytes = kv_le32_of(options->extent_bytes ? options->extent_bytes : EXTENT_DEFAULT);
    sb.codec = (uint8_t)options->codec.codec;
    sb.codec_level = (int8_t)options->codec.level;
    if (options->label)
        memcpy(sb.label, options->label, strlen(options->label));
    sb.created_ns = kv_le64_of(kv_now_ns());
    sb.epoch = kv_le64_of(1);
    err = wipe(device, &sb);
    if (err)
        return err;
    const uint64_t first = kv_le64_get(sb.group_first_block);
    const struct kv_space_config config = {
        .group_first_block = first,
        .group_count = kv_le32_get(sb.group_count),
        .end_block = kv_min_u64(device->block_count - 1,
                                first + (uint64_t)kv_le32_get(sb.group_count) * KV_GROUP_BLOCKS),
        .cluster_blocks = kv_le32_get(sb.node_bytes) / KV_BLOCK_BYTES,
        .log_id = kv_superblock_log_id(&sb)};
    uint64_t bitmap_digest, used;
    err = kv_space_format(device, &config, 1, &bitmap_digest, &used);
    if (!err)
        err = kv_device_flush(device);
    if (err)
        return err;
    sb.bitmap_digest = kv_le64_of(bitmap_digest);
    sb.used_blocks = kv_le64_of(used);
    return plant_trees(device, &sb, error);
}

/* Make the file if it is not there; *created says so. What it holds is for its owner to change. */
static int make_file(const char *path, uint64_t size, bool *created, struct kv_error *error)
{
    struct stat st;
    *created = false;
    if (stat(path, &st) == 0)
        return 0;
    if (errno != ENOENT)
        return -errno;
    if (!size) {
        kv_error_set(error, "it is not there; give a size with -s to make it");
        return -ENOENT;
    }
    const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == EEXIST ? 0 : -errno; /* somebody was faster: the lock decides */
    *created = true;
    close(fd);
    return 0;
}

/* We made an empty file and can not open it as a device: take it away, if nobody uses it. */
static void remove_empty_file(const char *path)
{
    struct stat st, named;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return;
    if (!flock(fd, LOCK_EX | LOCK_NB) && !fstat(fd, &st) && S_ISREG(st.st_mode) && !st.st_size &&
        !stat(path, &named) && named.st_dev == st.st_dev && named.st_ino == st.st_ino)
        unlink(path); /* who waits for the lock will see that */
    close(fd);
}

/*
 * Make the file if need be, and become its owner. Who was faster may fail and take the file away
 * again while we wait for the lock: then all over again.
 */
static int own_file(const char *path, uint64_t size, struct kv_device **device, bool *created,
                    struct kv_error *inner, struct kv_error *error)
{
    enum { TRIES = 16 };
    int err = -ENOENT;
    for (unsigned i = 0; i < TRIES && err == -ENOENT; i++) {
        error->text[0] = '\0';
        err = make_file(path, size, created, inner);
        if (err) /* `inner` has the words, if there are any */
            return err;
        err = kv_device_open(path, 0, device, error);
        if (err && *created)
            remove_empty_file(path);
    }
    return err;
}

/* Give a regular file its size, now that nobody else can be using it. *was_empty: there was
 * nothing in it. */
static int fit_file(struct kv_device *device, const char *path, uint64_t size, bool force,
                    bool *was_empty, struct kv_error *error)
{
    struct stat st;
    *was_empty = false;
    if (stat(path, &st))
        return -errno;
    if (!S_ISREG(st.st_mode))
        return 0;
    *was_empty = st.st_size == 0;
    if (!size || (uint64_t)st.st_size == size)
        return 0;
    if (st.st_size > 0 && !force) {
        kv_error_set(error, "it is there with another size; use -f to overwrite it");
        return -EEXIST;
    }
    const int err = kv_device_resize(device, size);
    if (err == -EFBIG || err == -EINVAL) /* each says so of a size beyond its limit */
        kv_error_set(error,
                     "a file of %llu bytes is beyond the limit of the file system that is to hold "
                     "it (%s)",
                     (unsigned long long)size, strerror(-err));
    return err;
}

/*
 * What was begun in an empty file ends as it was before: no file, or an empty one. As its owner.
 * A file that we made and that somebody else was faster to fill is not empty, and not ours.
 */
static void undo(struct kv_device *device, const char *path, bool created, bool was_empty)
{
    if (!was_empty)
        return;
    if (created)
        unlink(path); /* who waits for the lock will see that */
    else
        (void)!kv_device_resize(device, 0); /* if not: it holds no image, may be overwritten */
}

/* Make the image and remain its owner. */
static int create(const char *path, const struct kv_create_options *options,
                  struct kv_device **device, struct kv_error *error)
{
    struct kv_error inner = {""}, words = {""};
    bool created = false, was_empty;
    int err = check_options(options, &inner);
    if (!err && options->size_bytes)
        err = check_size(options->size_bytes, &inner);
    const uint64_t size = options->size_bytes / KV_BLOCK_BYTES * KV_BLOCK_BYTES;
    if (!err)
        err = own_file(path, size, device, &created, &inner, &words);
    if (err && words.text[0]) {
        kv_error_set(error, "%s", words.text); /* they name the path themselves */
        return err;
    }
    if (err)
        goto out;
    err = fit_file(*device, path, size, options->force, &was_empty, &inner);
    if (!err)
        err = kv_create_on_device(*device, options, &inner);
    if (err) {
        undo(*device, path, created, was_empty);
        kv_device_close(*device);
        if (created && !was_empty) /* perhaps it is, and could not be looked at */
            remove_empty_file(path);
    }
out:
    if (err)
        kv_error_set(error, "%s: %s", path, inner.text[0] ? inner.text : strerror(-err));
    return err;
}

int kv_create(const char *path, const struct kv_create_options *options, struct kv_error *error)
{
    struct kv_device *device;
    const int err = create(path, options, &device, error);
    if (!err)
        kv_device_close(device);
    return err;
}

int kv_create_open(const char *path, const struct kv_create_options *options,
                   struct kv_store **store, struct kv_error *error)
{
    struct kv_device *device;
    const int err = create(path, options, &device, error);
    if (err)
        return err;
    const struct kv_open_options open_options = {.device = device};
    return kv_open(path, &open_options, store, error); /* closes the device if it fails */
}

int kv_image_info(const char *path, struct kv_image_info *info, struct kv_error *error)
{
    struct kv_device *device;
    int err = kv_device_open(path, KV_DEVICE_READ_ONLY | KV_DEVICE_NO_LOCK | KV_DEVICE_BUFFERED,
                             &device, error);
    if (err)
        return err;
    struct kv_disk_superblock superblock;
    enum kv_superblock_twin twin;
    err = kv_superblock_read(device, path, false, &superblock, &twin, error);
    if (!err) {
        kv_superblock_info(&superblock, info);
        info->superblock_damaged = twin != KV_TWIN_GOOD;
    }
    kv_device_close(device);
    return err;
}
