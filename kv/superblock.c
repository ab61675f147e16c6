/*
 * kv/superblock.c: the two superblocks and their backup: read, judge, write.
 *
 * Owns       blocks 0 and 256, and the last block of the image.
 * Invariant  a new superblock goes to one slot, is flushed, and only then to the other one: a
 *            torn write leaves a whole copy, and later damage to either copy loses nothing.
 *            While the backup is the same as the newest of them, no write of either is under
 *            way: it is written after both were flushed, and changed before the next is written.
 * Locks      none.
 */
#include "kv/superblock.h"

#include "kv/codec.h"
#include "kv/error.h"

#include <time.h>

uint64_t kv_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

uint64_t kv_superblock_log_id(const struct kv_disk_superblock *superblock)
{
    const uint64_t created = kv_le64_get(superblock->created_ns);
    return kv_digest(superblock->uuid, sizeof superblock->uuid, created);
}

static uint64_t digest_of(const struct kv_disk_superblock *superblock)
{
    return kv_digest(superblock, offsetof(struct kv_disk_superblock, digest), 0);
}

/* 0, or what is wrong with this copy by itself. */
static int judge_copy(const struct kv_disk_superblock *superblock)
{
    if (memcmp(superblock->magic, KV_SUPERBLOCK_MAGIC, sizeof superblock->magic) != 0)
        return -EMEDIUMTYPE;
    if (kv_le64_get(superblock->digest) != digest_of(superblock) &&
        !KV_PLANT(superblock_digest_ignored)) {
        /* A later version may keep its digest elsewhere: say the version, if it is one. */
        const uint32_t version = kv_le32_get(superblock->version);
        const bool other_version = version > KV_FORMAT_VERSION && version < 0x10000;
        return other_version ? -EPROTONOSUPPORT : -EBADMSG;
    }
    if (kv_le32_get(superblock->version) != KV_FORMAT_VERSION)
        return -EPROTONOSUPPORT;
    return 0;
}

/*
 * A copy that seems to be of another version, but whose digest is wrong: both copies are written
 * by the same software, so unless the other one says the same, it is damaged.
 */
static int judge_version(const struct kv_disk_superblock *copy,
                         const struct kv_disk_superblock *other)
{
    const bool sealed = kv_le64_get(copy->digest) == digest_of(copy);
    const bool agree = kv_le32_get(copy->version) == kv_le32_get(other->version);
    return sealed || agree ? -EPROTONOSUPPORT : -EBADMSG;
}

/* The numbers of a copy whose digest is right may still be an author's fraud. */
static bool geometry_possible(const struct kv_disk_superblock *superblock)
{
    const uint64_t image = kv_le64_get(superblock->image_blocks);
    const uint64_t log_first = kv_le64_get(superblock->log_first_block);
    const uint64_t log_count = kv_le64_get(superblock->log_block_count);
    const uint64_t group_first = kv_le64_get(superblock->group_first_block);
    const uint32_t groups = kv_le32_get(superblock->group_count);
    const uint32_t node = kv_le32_get(superblock->node_bytes);
    const uint32_t extent = kv_le32_get(superblock->extent_bytes);
    uint64_t log_end;
    if (image > UINT64_MAX / KV_BLOCK_BYTES || kv_add_u64(log_first, log_count, &log_end))
        return false;
    if (node < KV_NODE_BYTES_MIN || node > KV_NODE_BYTES_MAX || (node & (node - 1)))
        return false;
    if (extent < KV_BLOCK_BYTES || extent > KV_BLOB_MAX || (extent & (extent - 1)))
        return false;
    if (log_first < KV_LOG_FIRST_BLOCK || log_count < KV_LOG_BYTES_MIN / KV_BLOCK_BYTES ||
        log_end > group_first || group_first >= image || group_first % 16)
        return false;
    const uint64_t span = image - 1 - group_first;
    return groups > 0 && groups <= span / KV_GROUP_BLOCKS + 1 &&
           superblock->codec <= KV_CODEC_ZSTD && kv_le64_get(superblock->epoch) <= KV_EPOCH_MAX;
}

static int judge_image(const struct kv_device *device, const char *name,
                       const struct kv_disk_superblock *superblock, struct kv_error *error)
{
    const uint64_t unknown = kv_le64_get(superblock->feature_incompat) & ~KV_FEATURE_INCOMPAT_KNOWN;
    if (unknown) {
        kv_error_set(error,
                     "%s: uses incompatible features 0x%llx that this version does not know; "
                     "use a newer kvfs",
                     name, (unsigned long long)unknown);
        return -EPROTONOSUPPORT;
    }
    if (!geometry_possible(superblock)) {
        kv_error_set(error, "%s: the superblock's geometry is impossible; run fsck.kvfs", name);
        return -EUCLEAN;
    }
    if (kv_le64_get(superblock->image_blocks) > device->block_count) {
        kv_error_set(error,
                     "%s: truncated: the image has %llu bytes, %llu are there; "
                     "restore the missing end",
                     name,
                     (unsigned long long)(kv_le64_get(superblock->image_blocks) * KV_BLOCK_BYTES),
                     (unsigned long long)(device->block_count * KV_BLOCK_BYTES));
        return -ENODATA;
    }
    return 0;
}

/*
 * Read one block into `io`. Once more after an error: the copy that can not be read may be the
 * newer one, and a store that goes on from the older loses what came between.
 */
static int read_copy(struct kv_device *device, uint64_t block, void *io)
{
    const int err = kv_device_read(device, block, 1, io);
    return err ? kv_device_read(device, block, 1, io) : 0;
}

/*
 * The backup superblock at the end of the device, of an image that ends there. -EMEDIUMTYPE: there
 * is none; or what reading says.
 */
static int read_backup(struct kv_device *device, void *io, struct kv_disk_superblock *backup)
{
    if (device->block_count <= KV_LOG_FIRST_BLOCK)
        return -EMEDIUMTYPE;
    const int err = read_copy(device, device->block_count - 1, io);
    if (err)
        return err;
    memcpy(backup, io, sizeof *backup);
    return !judge_copy(backup) && kv_le64_get(backup->image_blocks) == device->block_count
               ? 0
               : -EMEDIUMTYPE;
}

/* Say why no copy could be used. backup: 0, there is one, which was not asked for. */
static int refuse(const char *name, const int results[2], const struct kv_disk_superblock *any,
                  bool with_backup, int backup, struct kv_error *error)
{
    for (unsigned i = 0; i < 2; i++)
        if (results[i] == -EPROTONOSUPPORT) {
            kv_error_set(error, "%s: format version %u, this version reads %u; use a matching kvfs",
                         name, kv_le32_get(any[i].version), KV_FORMAT_VERSION);
            return -EPROTONOSUPPORT;
        }
    if (with_backup && backup != -EMEDIUMTYPE) {
        kv_error_set(error, "%s: can not read the backup superblock: %s%s", name, strerror(-backup),
                     kv_error_remedy(backup));
        return backup;
    }
    for (unsigned i = 0; i < 2; i++)
        if (results[i] == -EBADMSG) {
            kv_error_set(error,
                         with_backup ? "%s: both superblocks and their backup are damaged, nothing "
                                       "else says how the image is laid out; restore a copy of it"
                                     : "%s: both superblocks are damaged; run fsck.kvfs -y",
                         name);
            return -EBADMSG;
        }
    for (unsigned i = 0; i < 2; i++)
        if (results[i] != -EMEDIUMTYPE) {
            kv_error_set(error, "%s: can not read the superblock: %s%s", name,
                         strerror(-results[i]), kv_error_remedy(results[i]));
            return results[i];
        }
    if (!backup) {
        kv_error_set(
            error,
            "%s: no superblock is where one should be, but there is a backup of one at the "
            "end; if nothing else was put here since, fsck.kvfs -y makes use of it",
            name);
        return -EBADMSG;
    }
    kv_error_set(error, "%s: not a kvfs image; make one with mkfs.kvfs", name);
    return -EMEDIUMTYPE;
}

/*
 * Is the backup proof that both copies were durable and that no write of a newer one had begun?
 * Such a backup is exactly `best`: it is written after both, and changed before the next.
 */
static bool backup_vouches(struct kv_device *device, const struct kv_disk_superblock *best,
                           void *io)
{
    const uint64_t image_blocks = kv_le64_get(best->image_blocks);
    return best->clean == 1 && image_blocks > 0 && image_blocks <= device->block_count &&
           !kv_device_read(device, image_blocks - 1, 1, io) && !memcmp(io, best, sizeof *best);
}

/* Is this a whole superblock of the same image, of the same time or before? */
static bool is_backup_of(const struct kv_disk_superblock *copy,
                         const struct kv_disk_superblock *newest)
{
    return !judge_copy(copy) && !memcmp(copy->uuid, newest->uuid, sizeof copy->uuid) &&
           kv_le64_get(copy->image_blocks) == kv_le64_get(newest->image_blocks) &&
           kv_le64_get(copy->sequence) <= kv_le64_get(newest->sequence);
}

/*
 * What became of the copy beside `best`? With sequence s the slot that s selects was written
 * and flushed first, the other one after it; s + 1 will begin with that other one. So a power
 * cut tears only the slot that s does not select, or leaves s - 1 in it; and when the backup
 * vouches, neither was being written. `twin_error`: why the copy is no superblock, or 0.
 */
static enum kv_superblock_twin judge_twin(struct kv_device *device,
                                          const struct kv_disk_superblock *best, unsigned slot,
                                          const struct kv_disk_superblock *copy, int twin_error,
                                          void *io)
{
    const uint64_t sequence = kv_le64_get(best->sequence);
    const bool selected = (sequence & 1) == slot;
    if (!twin_error && kv_le64_get(copy->sequence) == sequence)
        return KV_TWIN_GOOD;
    if (!selected || backup_vouches(device, best, io))
        return KV_TWIN_DAMAGED;
    if (!twin_error)
        return kv_le64_get(copy->sequence) + 1 == sequence ? KV_TWIN_GOOD : KV_TWIN_DAMAGED;
    return KV_TWIN_TORN;
}

static void say_no_memory(struct kv_error *error, const char *name)
{
    kv_error_set(error, "%s: no memory to read the superblock", name);
}

int kv_superblock_read(struct kv_device *device, const char *name, bool with_backup,
                       struct kv_disk_superblock *out, enum kv_superblock_twin *twin,
                       struct kv_error *error)
{
    struct kv_disk_superblock copies[2];
    const uint64_t blocks[2] = {KV_SUPERBLOCK_A_BLOCK, KV_SUPERBLOCK_B_BLOCK};
    int results[2];
    void *io = kv_device_alloc(KV_BLOCK_BYTES);
    if (!io) {
        say_no_memory(error, name);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < 2; i++) {
        results[i] = -EMEDIUMTYPE;
        memset(&copies[i], 0, sizeof copies[i]);
        if (blocks[i] >= device->block_count)
            continue;
        results[i] = read_copy(device, blocks[i], io);
        if (results[i] == -ENOMEM) {
            say_no_memory(error, name);
            free(io);
            return -ENOMEM;
        }
        if (!results[i]) {
            memcpy(&copies[i], io, sizeof copies[i]);
            results[i] = judge_copy(&copies[i]);
        }
    }
    for (unsigned i = 0; i < 2; i++)
        if (results[i] == -EPROTONOSUPPORT)
            results[i] = judge_version(&copies[i], &copies[1 - i]);
    int err = 0;
    int best = -1;
    for (int i = 0; i < 2; i++)
        if (!results[i] &&
            (best < 0 || kv_le64_get(copies[i].sequence) > kv_le64_get(copies[best].sequence)))
            best = i;
    struct kv_disk_superblock backup;
    const int backup_err = best < 0 ? read_backup(device, io, &backup) : -EMEDIUMTYPE;
    if (!backup_err && with_backup) {
        copies[0] = backup;
        best = 0;
    }
    if (best < 0) {
        err = refuse(name, results, copies, with_backup, backup_err, error);
    } else {
        *out = copies[best];
        err = judge_image(device, name, out, error);
        *twin = KV_TWIN_GOOD;
        if (!err)
            *twin =
                judge_twin(device, out, (unsigned)best, &copies[1 - best], results[1 - best], io);
    }
    free(io);
    return err;
}

int kv_superblock_write(struct kv_device *device, struct kv_disk_superblock *superblock)
{
    void *io = kv_device_alloc(KV_BLOCK_BYTES);
    if (!io)
        return -ENOMEM;
    const uint64_t sequence = kv_le64_get(superblock->sequence) + 1;
    superblock->sequence = kv_le64_of(sequence);
    superblock->written_ns = kv_le64_of(kv_now_ns());
    superblock->digest = kv_le64_of(digest_of(superblock));
    memcpy(io, superblock, sizeof *superblock);
    struct kv_io write = {.kind = KV_IO_WRITE,
                          .block = (sequence & 1) && !KV_PLANT(superblock_slot_fixed)
                                       ? KV_SUPERBLOCK_B_BLOCK
                                       : KV_SUPERBLOCK_A_BLOCK,
                          .block_count = 1,
                          .buf = io};
    int err = kv_device_submit(device, &write, 1, !KV_PLANT(superblock_not_flushed));
    if (!err) {
        write.block = KV_SUPERBLOCK_A_BLOCK + KV_SUPERBLOCK_B_BLOCK - write.block;
        err = kv_device_submit(device, &write, 1, false);
    }
    free(io);
    return err;
}

static int read_block(struct kv_device *device, uint64_t block, struct kv_disk_superblock *out)
{
    void *io = kv_device_alloc(KV_BLOCK_BYTES);
    if (!io)
        return -ENOMEM;
    const int err = kv_device_read(device, block, 1, io);
    if (!err)
        memcpy(out, io, sizeof *out);
    free(io);
    return err;
}

int kv_superblock_verify(struct kv_device *device, const struct kv_disk_superblock *newest,
                         unsigned slot)
{
    struct kv_disk_superblock copy;
    const int err = read_block(device, slot ? KV_SUPERBLOCK_B_BLOCK : KV_SUPERBLOCK_A_BLOCK, &copy);
    if (err)
        return err;
    return memcmp(&copy, newest, sizeof copy) ? -EBADMSG : 0;
}

int kv_superblock_verify_backup(struct kv_device *device, const struct kv_disk_superblock *newest)
{
    struct kv_disk_superblock copy;
    const int err = read_block(device, kv_le64_get(newest->image_blocks) - 1, &copy);
    if (err)
        return err;
    return is_backup_of(&copy, newest) ? 0 : -EBADMSG;
}

int kv_superblock_write_backup(struct kv_device *device,
                               const struct kv_disk_superblock *superblock)
{
    void *io = kv_device_alloc(KV_BLOCK_BYTES);
    if (!io)
        return -ENOMEM;
    memcpy(io, superblock, sizeof *superblock);
    struct kv_io write = {.kind = KV_IO_WRITE,
                          .block = kv_le64_get(superblock->image_blocks) - 1,
                          .block_count = 1,
                          .buf = io};
    int err = kv_device_flush(device);
    if (!err)
        err = kv_device_submit(device, &write, 1, true);
    free(io);
    return err;
}

int kv_superblock_mark_used(struct kv_device *device, const struct kv_disk_superblock *superblock)
{
    struct kv_disk_superblock *io = kv_device_alloc(KV_BLOCK_BYTES);
    if (!io)
        return -ENOMEM;
    memcpy(io, superblock, sizeof *superblock);
    io->clean = 0;
    io->digest = kv_le64_of(digest_of(io));
    const int err = kv_device_write(device, kv_le64_get(io->image_blocks) - 1, 1, io);
    free(io);
    return err;
}

void kv_superblock_info(const struct kv_disk_superblock *superblock, struct kv_image_info *info)
{
    memset(info, 0, sizeof *info);
    memcpy(info->uuid, superblock->uuid, sizeof info->uuid);
    memcpy(info->label, superblock->label, KV_LABEL_MAX);
    info->version = kv_le32_get(superblock->version);
    info->node_bytes = kv_le32_get(superblock->node_bytes);
    info->extent_bytes = kv_le32_get(superblock->extent_bytes);
    info->image_bytes = kv_le64_get(superblock->image_blocks) * KV_BLOCK_BYTES;
    info->log_bytes = kv_le64_get(superblock->log_block_count) * KV_BLOCK_BYTES;
    info->codec.codec = superblock->codec;
    info->codec.level = superblock->codec_level;
    info->feature_compat = kv_le64_get(superblock->feature_compat);
    info->feature_rocompat = kv_le64_get(superblock->feature_rocompat);
    info->feature_incompat = kv_le64_get(superblock->feature_incompat);
    info->epoch = kv_le64_get(superblock->epoch);
    info->created_ns = kv_le64_get(superblock->created_ns);
    info->written_ns = kv_le64_get(superblock->written_ns);
    info->clean = superblock->clean == 1;
}
