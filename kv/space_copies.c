/*
 * kv/space_copies.c: the bitmaps on disk, two copies a group.
 *
 * Owns       both copies of each group's bitmap.
 * Invariant  the copy that the durable superblock counts on (the active one) is never written; a
 *            checkpoint writes the other. A copy has its room on the host before any of its group
 *            is used.
 * Locks      `committed`, `active` and the copies' epochs belong to the one thread that runs the
 *            checkpoint (or opens, or repairs), so that nothing is held over the device.
 * On disk    a group begins with two copies of 9 blocks: header, 32 KiB of bits.
 *
 * Which copy counts. A superblock of epoch E names, by bitmap_digest, the newest copy of each
 * group that is not newer than E. When a checkpoint N dies between its bitmaps and its
 * superblock, copies stamped N remain although E stands. N must not become "newest, not newer
 * than the superblock" when a later checkpoint M >= N leaves the group alone. Hence a group
 * whose inactive copy is newer than E is dirty from the start: checkpoint M overwrites that
 * copy. The same goes for a copy that is torn: when a later checkpoint dies while it writes the
 * copy again, the few blocks of it that reach the disk may be just what makes the old N whole.
 * If M dies as well, the copy is torn or newer than E still.
 */
#include "kv/space_groups.h"

#include "kv/codec.h"

/* How many groups' bitmaps are read or written with one submission. */
#define BATCH_GROUPS 16u

struct copy_image {
    struct kv_disk_bitmap_header header;
    uint8_t bits[KV_GROUP_BITMAP_BYTES];
};
static_assert(sizeof(struct copy_image) == KV_GROUP_COPY_BLOCKS * KV_BLOCK_BYTES,
              "a bitmap copy is nine blocks");

/* Room, of any content, for `each` copies of as many groups as are read or written at once. */
static struct copy_image *alloc_copies(uint32_t group_count, size_t each)
{
    const size_t groups = (size_t)kv_min_u64(group_count, BATCH_GROUPS);
    return kv_device_alloc_unset(groups * each * sizeof(struct copy_image));
}

/* Fill in a copy; returns its header's digest. */
static uint64_t encode_copy(struct copy_image *image, const struct kv_space_config *config,
                            uint32_t index, uint64_t epoch, uint32_t used_count,
                            const uint64_t *bits)
{
    memset(&image->header, 0, sizeof image->header);
    memcpy(image->bits, bits, sizeof image->bits);
    struct kv_disk_bitmap_header *header = &image->header;
    header->magic = kv_le32_of(KV_BITMAP_MAGIC);
    header->group = kv_le32_of(index);
    header->epoch = kv_le64_of(epoch);
    header->block_count = kv_le32_of(group_block_count(config, index));
    header->used_count = kv_le32_of(used_count);
    header->bits_digest = kv_le64_of(kv_digest(image->bits, sizeof image->bits, 0));
    const uint64_t digest =
        kv_digest(header, offsetof(struct kv_disk_bitmap_header, digest), config->log_id);
    header->digest = kv_le64_of(digest);
    return digest;
}

/* Is this a whole copy of this group's bitmap, of this image, that does not contradict itself? */
static bool copy_is_valid(const struct copy_image *image, const struct kv_space_config *config,
                          uint32_t index)
{
    const struct kv_disk_bitmap_header *header = &image->header;
    if (kv_le32_get(header->magic) != KV_BITMAP_MAGIC ||
        kv_le64_get(header->digest) !=
            kv_digest(header, offsetof(struct kv_disk_bitmap_header, digest), config->log_id))
        return false;
    const uint32_t block_count = group_block_count(config, index);
    if (kv_le32_get(header->group) != index || kv_le32_get(header->block_count) != block_count)
        return false;
    if (kv_le64_get(header->bits_digest) != kv_digest(image->bits, sizeof image->bits, 0))
        return false;

    uint64_t bits[GROUP_WORDS];
    memcpy(bits, image->bits, sizeof bits);
    uint32_t used_count = 0;
    for (uint32_t i = 0; i < word_count(block_count); i++)
        used_count += popcount(bits[i]);
    return used_count == kv_le32_get(header->used_count) &&
           all_set(bits, 0, KV_GROUP_META_BLOCKS) &&
           all_clear(bits, block_count, KV_GROUP_BLOCKS - block_count);
}

struct digest_entry {
    kv_le64 epoch, digest;
};
static_assert(sizeof(struct digest_entry) == 16, "entries are digested as they lie");

static uint64_t digest_entries(const struct digest_entry *entries, uint32_t count)
{
    return kv_digest(entries, (size_t)count * sizeof *entries, 0);
}

int kv_space_format(struct kv_device *device, const struct kv_space_config *config, uint64_t epoch,
                    uint64_t *bitmap_digest, uint64_t *used_blocks)
{
    if (!kv_space_config_is_sane(device, config))
        return -EINVAL;

    struct copy_image *images = alloc_copies(config->group_count, 1);
    uint8_t *zeroes = kv_device_alloc(KV_BLOCK_BYTES);
    uint64_t *bits = calloc(1, KV_GROUP_BITMAP_BYTES);
    struct digest_entry *entries = calloc(config->group_count, sizeof *entries);
    int err = -ENOMEM;
    if (!images || !zeroes || !bits || !entries)
        goto out;

    set_bits(bits, 0, KV_GROUP_META_BLOCKS);
    err = 0;
    for (uint32_t base = 0; !err && base < config->group_count; base += BATCH_GROUPS) {
        struct kv_io ios[2 * BATCH_GROUPS];
        size_t io_count = 0;
        for (uint32_t i = base; i < config->group_count && i < base + BATCH_GROUPS; i++) {
            struct copy_image *image = &images[i - base];
            const uint64_t digest =
                encode_copy(image, config, i, epoch, KV_GROUP_META_BLOCKS, bits);
            entries[i] = (struct digest_entry){kv_le64_of(epoch), kv_le64_of(digest)};
            ios[io_count++] = (struct kv_io){.kind = KV_IO_WRITE,
                                             .block = copy_block(config, i, 0),
                                             .block_count = KV_GROUP_COPY_BLOCKS,
                                             .buf = image};
            ios[io_count++] = (struct kv_io){.kind = KV_IO_WRITE,
                                             .block = copy_block(config, i, 1),
                                             .block_count = 1,
                                             .buf = zeroes};
        }
        err = kv_device_submit(device, ios, io_count, false);
    }
    if (err)
        goto out;
    *bitmap_digest = digest_entries(entries, config->group_count);
    *used_blocks = (uint64_t)config->group_count * KV_GROUP_META_BLOCKS;
out:
    free(entries);
    free(bits);
    free(zeroes);
    free(images);
    return err;
}

/* ---- opening -------------------------------------------------------------------------- */

/* A copy that was never written, or wiped. */
static bool copy_is_blank(const struct copy_image *image)
{
    static const struct kv_disk_bitmap_header blank;
    return !memcmp(&image->header, &blank, sizeof blank);
}

/* Choose between the two copies just read of a group, see the head of this file. */
static int load_group(struct kv_space *space, uint32_t index, uint64_t epoch,
                      const struct copy_image copies[2], const struct kv_io ios[2])
{
    struct group *group = &space->groups[index];
    int best = -1;
    bool rewrite = false; /* what is in the inactive copy may become dangerous */
    for (int copy = 0; copy < 2; copy++) {
        if (ios[copy].result) {
            rewrite = true; /* unknown: treat it as the worst it can be */
            continue;
        }
        if (!copy_is_valid(&copies[copy], &space->config, index)) {
            rewrite = rewrite || !copy_is_blank(&copies[copy]);
            continue;
        }
        const uint64_t stamp = kv_le64_get(copies[copy].header.epoch);
        if (stamp > epoch && !KV_PLANT(bitmap_epoch_ignored))
            rewrite = true;
        else if (best < 0 || stamp > kv_le64_get(copies[best].header.epoch))
            best = copy;
    }
    if (best < 0) {
        if (ios[0].result)
            return ios[0].result;
        return ios[1].result ? ios[1].result : -EBADMSG;
    }

    group->active = (uint8_t)best;
    group->active_epoch = kv_le64_get(copies[best].header.epoch);
    group->active_digest = kv_le64_get(copies[best].header.digest);
    group->dirty = rewrite && !KV_PLANT(dead_bitmap_left);
    memcpy(group->committed, copies[best].bits, KV_GROUP_BITMAP_BYTES);
    kv_space_reset_busy(space, group);
    return 0;
}

int kv_space_open(struct kv_device *device, const struct kv_space_config *config, uint64_t epoch,
                  uint64_t bitmap_digest, struct kv_space **out)
{
    struct kv_space *space = NULL;
    struct copy_image(*copies)[2] = NULL;
    struct digest_entry *entries = NULL;
    int read_err = 0; /* a copy that could not be read may be the one that counts */
    int err = kv_space_new(device, config, &space);
    if (err)
        return err;
    copies = (struct copy_image(*)[2])alloc_copies(config->group_count, 2);
    entries = calloc(config->group_count, sizeof *entries);
    if (!copies || !entries) {
        err = -ENOMEM;
        goto out;
    }

    for (uint32_t base = 0; base < config->group_count; base += BATCH_GROUPS) {
        struct kv_io ios[BATCH_GROUPS][2];
        const uint32_t end =
            (uint32_t)kv_min_u64(config->group_count, (uint64_t)base + BATCH_GROUPS);
        for (uint32_t i = base; i < end; i++) {
            for (unsigned copy = 0; copy < 2; copy++)
                ios[i - base][copy] = (struct kv_io){.kind = KV_IO_READ,
                                                     .block = copy_block(config, i, copy),
                                                     .block_count = KV_GROUP_COPY_BLOCKS,
                                                     .buf = &copies[i - base][copy],
                                                     .result = -EIO};
        }
        /* Each request has its own result, and one readable copy may be enough. */
        err = kv_device_submit(device, ios[0], (size_t)(end - base) * 2, false);
        if (err == -ENOMEM)
            goto out;
        read_err = read_err ? read_err : err;
        for (uint32_t i = base; i < end; i++) {
            err = kv_space_add_group(space,
                                     i); /* memory for no more than has been seen to be there */
            if (err)
                goto out;
            err = load_group(space, i, epoch, copies[i - base], ios[i - base]);
            if (err)
                goto out;
            entries[i] = (struct digest_entry){kv_le64_of(space->groups[i].active_epoch),
                                               kv_le64_of(space->groups[i].active_digest)};
        }
    }
    if (digest_entries(entries, config->group_count) != bitmap_digest) {
        err = read_err ? read_err : -EBADMSG;
        goto out;
    }
    kv_space_sum_groups(space);
    for (uint32_t i = 0; i < config->group_count; i++) {
        const struct group *group = &space->groups[i];
        err = group->dirty || group->used_count > KV_GROUP_META_BLOCKS
                  ? kv_space_back_meta(space, i)
                  : 0;
        if (err)
            goto out;
    }
    *out = space;
    space = NULL;
out:
    free(entries);
    free(copies);
    kv_space_close(space);
    return err;
}

/* ---- checkpoints ------------------------------------------------------------------------ */

/* Encode and write the dirty groups from *next on, at most a batch; notes their digests. */
static int write_batch(struct kv_space *space, uint64_t epoch, uint32_t *next,
                       struct copy_image *images, uint8_t *zeroes, struct digest_entry *entries)
{
    const struct kv_space_config *config = &space->config;
    struct kv_io ios[2 * BATCH_GROUPS];
    size_t io_count = 0;
    for (unsigned filled = 0; *next < config->group_count && filled < BATCH_GROUPS; ++*next) {
        const uint32_t index = *next;
        const struct group *group = &space->groups[index];
        if (!group->dirty)
            continue;
        KV_ASSERT(epoch > group->active_epoch);
        struct copy_image *image = &images[filled++];
        const uint64_t digest =
            encode_copy(image, config, index, epoch, group->used_count, group->committed);
        entries[index] = (struct digest_entry){kv_le64_of(epoch), kv_le64_of(digest)};
        ios[io_count++] = (struct kv_io){
            .kind = KV_IO_WRITE,
            .block = copy_block(config, index,
                                KV_PLANT(active_bitmap_written) ? group->active : !group->active),
            .block_count = KV_GROUP_COPY_BLOCKS,
            .buf = image};
        if (group->other_unknown)
            ios[io_count++] = (struct kv_io){.kind = KV_IO_WRITE,
                                             .block = copy_block(config, index, group->active),
                                             .block_count = 1,
                                             .buf = zeroes};
    }
    return io_count ? kv_device_submit(space->device, ios, io_count, false) : 0;
}

int kv_space_write(struct kv_space *space, uint64_t epoch, uint64_t *bitmap_digest,
                   uint64_t *used_blocks)
{
    const uint32_t group_count = space->config.group_count;
    struct copy_image *images = alloc_copies(group_count, 1);
    uint8_t *zeroes = kv_device_alloc(KV_BLOCK_BYTES);
    struct digest_entry *entries = calloc(group_count, sizeof *entries);
    int err = -ENOMEM;
    if (!images || !zeroes || !entries)
        goto out;

    pthread_mutex_lock(&space->mutex);
    /* Normally only `epoch` itself is there; an older one must come first. */
    const unsigned older = space->changes[1].epoch < space->changes[0].epoch;
    for (unsigned i = 0; i < 2; i++) {
        struct epoch_changes *changes = &space->changes[i ? !older : older];
        if (changes->epoch && changes->epoch <= epoch && !changes->applied)
            kv_space_changes_apply(space, changes);
    }
    pthread_mutex_unlock(&space->mutex);

    uint64_t used = 0;
    for (uint32_t i = 0; i < group_count; i++) {
        const struct group *group = &space->groups[i];
        entries[i] = (struct digest_entry){kv_le64_of(group->active_epoch),
                                           kv_le64_of(group->active_digest)};
        used += group->used_count;
    }
    err = 0;
    for (uint32_t i = 0; !err && i < group_count; i++)
        err = space->groups[i].dirty ? kv_space_back_meta(space, i) : 0;
    for (uint32_t next = 0; !err && next < group_count;)
        err = write_batch(space, epoch, &next, images, zeroes, entries);
    if (err)
        goto out;

    for (uint32_t i = 0; i < group_count; i++) {
        struct group *group = &space->groups[i];
        if (!group->dirty)
            continue;
        group->active = !group->active;
        group->active_epoch = kv_le64_get(entries[i].epoch);
        group->active_digest = kv_le64_get(entries[i].digest);
        group->dirty = false;
        group->other_unknown = false;
    }
    *bitmap_digest = digest_entries(entries, group_count);
    *used_blocks = used;
out:
    free(entries);
    free(zeroes);
    free(images);
    return err;
}

/* ---- scrubbing ------------------------------------------------------------------------- */

int kv_space_verify(struct kv_space *space, uint32_t index, uint64_t *bytes)
{
    KV_ASSERT(index < space->config.group_count);
    const struct group *group = &space->groups[index];
    *bytes = 0;
    if (group->other_unknown) /* opened without bitmaps, and nothing was written since */
        return 0;
    struct copy_image *image = kv_device_alloc(sizeof *image);
    if (!image)
        return -ENOMEM;
    int err = kv_device_read(space->device, copy_block(&space->config, index, group->active),
                             KV_GROUP_COPY_BLOCKS, image);
    if (!err && (!copy_is_valid(image, &space->config, index) ||
                 kv_le64_get(image->header.digest) != group->active_digest))
        err = -EBADMSG;
    *bytes = sizeof *image;
    free(image);
    return err;
}
