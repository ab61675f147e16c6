/*
 * kv/space.c: who owns each block, as two bitmaps per allocation group.
 *
 * Owns       the bitmaps in memory and both copies of them on disk, the runs that open epochs
 *            commit and free, the count of reserved clusters.
 * Invariant  committed is a subset of busy. The copy on disk that the durable superblock
 *            counts on (the active one) is never written; a checkpoint writes the other.
 *            A block is allocated only from a backed piece, and only clusters of backed pieces
 *            count as whole ones; a group's bitmaps have their room before any of it is used.
 * Locks      space->mutex guards everything that is not marked otherwise. It is released
 *            while bitmaps are being written and while the device is asked for room; `committed`,
 * `active` and the copies' epochs belong to the one thread that runs the checkpoint (or opens, or
 * repairs). On disk    a group begins with two copies of 9 blocks: header, 32 KiB of bits.
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
#include "kv/space.h"

#include "kv/backing.h"
#include "kv/codec.h"
#include "kv/format.h"

#include <pthread.h>

#define GROUP_WORDS (KV_GROUP_BLOCKS / 64u)

/* How many groups' bitmaps are read or written with one submission. */
#define BATCH_GROUPS 16u

/* Run lists longer than this give their memory back when they are emptied. */
#define RUNS_KEPT 4096u

#define EMERGENCY_CLUSTERS_MIN 64u
#define EMERGENCY_PART         50u /* of all clusters */

/* Data of extents of 32 blocks needs a page of 4 blocks for 100 of them, when it is half full. */
#define DATA_BLOCKS_PER_PAGE_BLOCK 512u
/* Data of single blocks in holes needs a page, so a cluster, for 100 of them, and its copies. */
#define HOLE_BLOCKS_PER_CLUSTER 64u

#define GROUP_PIECES (KV_GROUP_BLOCKS / KV_BACKING_PIECE_BLOCKS)
#define PIECE_WORDS  (KV_BACKING_PIECE_BLOCKS / 64u)

/* How often the host may refuse room in one call: by the way, and when it matters most. */
#define REFUSALS_MAX      8u
#define REFUSALS_MAX_OPEN 4096u

struct run {
    uint64_t block;
    uint32_t count;
};

struct run_list {
    struct run *runs;
    size_t count, cap;
};

/* What an open epoch will change. */
struct epoch_changes {
    uint64_t epoch; /* 0: unused */
    bool applied;   /* kv_space_write has taken it into `committed` */
    struct run_list commits, frees;
};

struct group {
    uint64_t *busy;      /* 1 = not allocatable; set beyond the group's last block */
    uint64_t *committed; /* the checkpoint's; zero beyond the group's last block */
    uint64_t *leaving;   /* freed, waiting for a checkpoint; NULL until first needed */
    uint32_t block_count;
    uint32_t free_count;     /* zero bits of busy */
    uint32_t unbacked_count; /* of these, in pieces that are not backed */
    uint32_t whole_clusters; /* clusters without any busy block, in backed pieces */
    uint32_t used_count;     /* bits of committed, metadata included; the checkpoint's */
    uint32_t run_bound;      /* no free run is longer than this */
    uint32_t hole_bound;     /* the same outside whole clusters */
    uint8_t active;          /* the copy that counts; the checkpoint's */
    bool dirty;              /* the next checkpoint writes this group; the checkpoint's */
    bool other_unknown;      /* ... and wipes the other copy (repair) */
    bool meta_backed;        /* the copies have their room */
    uint64_t active_epoch;   /* the checkpoint's, as is the digest */
    uint64_t active_digest;  /* of the header */
};

struct kv_space {
    struct kv_device *device;      /* immutable after open */
    struct kv_space_config config; /* immutable after open */
    struct group *groups;          /* the array is immutable after open */
    uint64_t total_blocks;         /* immutable after open: data blocks */
    uint64_t cluster_count;        /* immutable after open: whole ones when all is free */

    pthread_mutex_t mutex;
    struct kv_backing *backing;
    unsigned refusals_max;    /* that one call takes from the host: many while opening */
    uint64_t unbacked_blocks; /* not busy, in pieces that are not backed */
    struct epoch_changes changes[2];
    uint64_t free_blocks;
    uint64_t deferred_blocks;
    uint64_t whole_clusters;
    uint64_t reserved_clusters;
    uint32_t hint_group, hint_word; /* where the last allocation ended */
};

/* ---- bits --------------------------------------------------------------- */

/* `count` ones from bit `first` on; first + count <= 64, count > 0. */
static uint64_t bit_run(unsigned first, unsigned count)
{
    return (count == 64 ? ~0ull : (1ull << count) - 1) << first;
}

static uint32_t popcount(uint64_t word)
{
    return (uint32_t)__builtin_popcountll(word);
}

/* The part of a run of bits that lies in one word; walk with run_part_next. */
struct run_part {
    uint32_t word;
    uint64_t mask;
    uint32_t at, left;
};

static bool run_part_next(struct run_part *part)
{
    if (!part->left)
        return false;
    const uint32_t bit = part->at % 64;
    const uint32_t count = part->left < 64 - bit ? part->left : 64 - bit;
    part->word = part->at / 64;
    part->mask = bit_run(bit, count);
    part->at += count;
    part->left -= count;
    return true;
}

static struct run_part run_parts(uint32_t first, uint32_t count)
{
    return (struct run_part){.at = first, .left = count};
}

/* A bit at the start of each cluster of the word that is wholly free. */
static uint64_t whole_clusters_of(uint64_t busy_word, uint32_t cluster_blocks)
{
    uint64_t starts = ~busy_word;
    for (uint32_t shift = 1; shift < cluster_blocks; shift <<= 1)
        starts &= starts >> shift;
    uint64_t mask = 1;
    for (uint32_t step = cluster_blocks; step < 64; step <<= 1)
        mask |= mask << step;
    return starts & mask;
}

static bool all_set(const uint64_t *bits, uint32_t first, uint32_t count)
{
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        if ((bits[part.word] & part.mask) != part.mask)
            return false;
    }
    return true;
}

static bool all_clear(const uint64_t *bits, uint32_t first, uint32_t count)
{
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        if (bits[part.word] & part.mask)
            return false;
    }
    return true;
}

/* Both return how many bits changed. */
static uint32_t set_bits(uint64_t *bits, uint32_t first, uint32_t count)
{
    uint32_t changed = 0;
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        changed += popcount(part.mask & ~bits[part.word]);
        bits[part.word] |= part.mask;
    }
    return changed;
}

static uint32_t clear_bits(uint64_t *bits, uint32_t first, uint32_t count)
{
    uint32_t changed = 0;
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        changed += popcount(part.mask & bits[part.word]);
        bits[part.word] &= ~part.mask;
    }
    return changed;
}

/* ---- geometry ----------------------------------------------------------- */

static uint64_t group_start(const struct kv_space_config *config, uint32_t index)
{
    return config->group_first_block + (uint64_t)index * KV_GROUP_BLOCKS;
}

static uint32_t group_block_count(const struct kv_space_config *config, uint32_t index)
{
    return (uint32_t)kv_min_u64(KV_GROUP_BLOCKS, config->end_block - group_start(config, index));
}

static uint64_t copy_block(const struct kv_space_config *config, uint32_t index, unsigned copy)
{
    return group_start(config, index) + (uint64_t)copy * KV_GROUP_COPY_BLOCKS;
}

/* Does the geometry, which comes from a superblock, make sense on this device? */
static bool config_is_sane(const struct kv_device *device, const struct kv_space_config *config)
{
    const uint32_t cluster = config->cluster_blocks;
    if (cluster == 0 || cluster > KV_NODE_BYTES_MAX / KV_BLOCK_BYTES || (cluster & (cluster - 1)))
        return false;
    if (config->group_count == 0 || config->end_block > device->block_count)
        return false;
    if (config->group_first_block % (KV_NODE_BYTES_MAX / KV_BLOCK_BYTES))
        return false;
    if (config->group_first_block >= config->end_block)
        return false;
    const uint64_t span = config->end_block - config->group_first_block;
    const uint64_t before_last = (uint64_t)(config->group_count - 1) * KV_GROUP_BLOCKS;
    return span > before_last + KV_GROUP_META_BLOCKS && span <= before_last + KV_GROUP_BLOCKS;
}

/* Take a run apart; false unless it lies in one group's data area. */
static bool locate(const struct kv_space *space, uint64_t block, uint64_t count, uint32_t *index,
                   uint32_t *first)
{
    uint64_t end;
    if (count == 0 || block < space->config.group_first_block || kv_add_u64(block, count, &end) ||
        end > space->config.end_block)
        return false;
    const uint64_t offset = block - space->config.group_first_block;
    const uint64_t within = offset % KV_GROUP_BLOCKS;
    if (within < KV_GROUP_META_BLOCKS || within + count > KV_GROUP_BLOCKS)
        return false;
    *index = (uint32_t)(offset / KV_GROUP_BLOCKS);
    *first = (uint32_t)within;
    return true;
}

/* ---- the busy view; space->mutex held (or not shared yet) ---------------- */

static bool word_is_backed(const struct kv_space *space, const struct group *group, uint32_t word)
{
    const uint64_t index = (uint64_t)(group - space->groups);
    return kv_backing_has(space->backing, index * GROUP_PIECES + word / PIECE_WORDS);
}

static void mark_busy(struct kv_space *space, struct group *group, uint32_t first, uint32_t count)
{
    const uint32_t cluster = space->config.cluster_blocks;
    uint32_t broken = 0, unbacked = 0;
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        uint64_t *word = &group->busy[part.word];
        KV_ASSERT((*word & part.mask) == 0);
        if (!word_is_backed(space, group, part.word)) {
            unbacked += popcount(part.mask);
            *word |= part.mask;
            continue;
        }
        broken += popcount(whole_clusters_of(*word, cluster));
        *word |= part.mask;
        broken -= popcount(whole_clusters_of(*word, cluster));
    }
    group->free_count -= count;
    group->unbacked_count -= unbacked;
    space->unbacked_blocks -= unbacked;
    group->whole_clusters -= broken;
    if (broken)
        group->hole_bound = group->block_count;
    space->free_blocks -= count;
    space->whole_clusters -= broken;
}

static void mark_free(struct kv_space *space, struct group *group, uint32_t first, uint32_t count)
{
    const uint32_t cluster = space->config.cluster_blocks;
    uint32_t mended = 0, unbacked = 0;
    struct run_part part = run_parts(first, count);
    while (run_part_next(&part)) {
        uint64_t *word = &group->busy[part.word];
        KV_ASSERT((*word & part.mask) == part.mask);
        if (!word_is_backed(space, group, part.word)) {
            unbacked += popcount(part.mask);
            *word &= ~part.mask;
            continue;
        }
        mended -= popcount(whole_clusters_of(*word, cluster));
        *word &= ~part.mask;
        mended += popcount(whole_clusters_of(*word, cluster));
    }
    group->free_count += count;
    group->unbacked_count += unbacked;
    space->unbacked_blocks += unbacked;
    group->whole_clusters += mended;
    group->run_bound = group->block_count;
    group->hole_bound = group->block_count;
    space->free_blocks += count;
    space->whole_clusters += mended;
}

/* Words that have blocks of the group; behind them all is busy, and nothing committed. */
static uint32_t word_count(uint32_t block_count)
{
    return (block_count + 63) / 64;
}

/* Count what the two views say. */
static void count_group(const struct kv_space *space, struct group *group)
{
    group->used_count = 0;
    group->free_count = 0;
    group->unbacked_count = 0;
    group->whole_clusters = 0;
    for (uint32_t i = 0; i < word_count(group->block_count); i++) {
        group->used_count += popcount(group->committed[i]);
        group->free_count += popcount(~group->busy[i]);
        if (word_is_backed(space, group, i))
            group->whole_clusters +=
                popcount(whole_clusters_of(group->busy[i], space->config.cluster_blocks));
        else
            group->unbacked_count += popcount(~group->busy[i]);
    }
    group->run_bound = group->block_count;
    group->hole_bound = group->block_count;
}

/* Make busy what is committed, and count. */
static void busy_from_committed(const struct kv_space *space, struct group *group)
{
    memcpy(group->busy, group->committed, KV_GROUP_BITMAP_BYTES);
    set_bits(group->busy, group->block_count, KV_GROUP_BLOCKS - group->block_count);
    if (group->leaving)
        memset(group->leaving, 0, KV_GROUP_BITMAP_BYTES);
    count_group(space, group);
}

static void sum_groups(struct kv_space *space)
{
    space->free_blocks = 0;
    space->unbacked_blocks = 0;
    space->whole_clusters = 0;
    for (uint32_t i = 0; i < space->config.group_count; i++) {
        space->free_blocks += space->groups[i].free_count;
        space->unbacked_blocks += space->groups[i].unbacked_count;
        space->whole_clusters += space->groups[i].whole_clusters;
    }
}

/* ---- room on the host ------------------------------------------------------ */

/* Is there anything to win by backing the piece? The group's first one brings the bitmaps. */
static bool piece_is_wanted(void *context, uint64_t piece)
{
    const struct kv_space *space = context;
    const struct group *group = &space->groups[piece / GROUP_PIECES];
    const uint32_t within = (uint32_t)(piece % GROUP_PIECES);
    if (!group->unbacked_count || (within && !group->meta_backed))
        return false;
    for (uint32_t i = within * PIECE_WORDS; i < (within + 1) * PIECE_WORDS; i++) {
        if (~group->busy[i])
            return true;
    }
    return false;
}

static void piece_is_backed(void *context, uint64_t piece)
{
    struct kv_space *space = context;
    struct group *group = &space->groups[piece / GROUP_PIECES];
    const uint32_t within = (uint32_t)(piece % GROUP_PIECES);
    uint32_t free_count = 0, whole_clusters = 0;
    for (uint32_t i = within * PIECE_WORDS; i < (within + 1) * PIECE_WORDS; i++) {
        free_count += popcount(~group->busy[i]);
        whole_clusters += popcount(whole_clusters_of(group->busy[i], space->config.cluster_blocks));
    }
    group->unbacked_count -= free_count;
    space->unbacked_blocks -= free_count;
    group->whole_clusters += whole_clusters;
    space->whole_clusters += whole_clusters;
    group->run_bound = group->block_count;
    group->hole_bound = group->block_count;
    if (!within)
        group->meta_backed = true;
}

/* Room for both copies of a group's bitmap. The checkpoint's or the opener's; no mutex. */
static int back_meta(struct kv_space *space, uint32_t index)
{
    pthread_mutex_lock(&space->mutex);
    const bool backed = space->groups[index].meta_backed;
    pthread_mutex_unlock(&space->mutex);
    if (backed)
        return 0;
    const int err = kv_device_reserve(space->device, copy_block(&space->config, index, 0),
                                      KV_GROUP_META_BLOCKS);
    if (err)
        return err;
    pthread_mutex_lock(&space->mutex);
    space->groups[index].meta_backed = true;
    pthread_mutex_unlock(&space->mutex);
    return 0;
}

/*
 * While opening, what the replay needs has room of old on a full host, and is worth a long search
 * for. That ends with the first search in vain and with the first checkpoint.
 */
static int back_more(struct kv_space *space)
{
    const int err = kv_backing_grow(space->backing, space->refusals_max);
    if (err)
        space->refusals_max = REFUSALS_MAX;
    return err;
}

/* What is kept of so many blocks that are in use or may be used: for deletions ... */
static uint64_t emergency_clusters(const struct kv_space *space, uint64_t blocks)
{
    const uint64_t least = EMERGENCY_CLUSTERS_MIN;
    const uint64_t most = kv_min_u64(kv_max_u64(least, space->cluster_count / EMERGENCY_PART),
                                     space->cluster_count / 8);
    return kv_min_u64(most,
                      kv_max_u64(least, blocks / space->config.cluster_blocks / EMERGENCY_PART));
}

/* ... and of that for a page map of pages that are packed to a block each, written anew. */
static uint64_t map_clusters(const struct kv_space *space, uint64_t blocks)
{
    const uint64_t map_blocks = blocks / (KV_MAP_FANOUT - 1) + KV_MAP_DEPTH_MAX;
    const uint64_t wanted = map_blocks / space->config.cluster_blocks + 1;
    const uint64_t emergency = emergency_clusters(space, blocks);
    return kv_min_u64(kv_max_u64(wanted, emergency / 4), emergency / 2);
}

/* Whole clusters that data leaves to the pages that will refer to it: for one batch ... */
static uint64_t batch_clusters(const struct kv_space *space)
{
    return kv_min_u64(KV_SPACE_BATCHES_CLUSTERS, space->cluster_count / 16);
}

/*
 * ... and for what goes into the holes that so many free blocks and whole clusters leave. So what
 * can be written ends with the holes, and not with holes that nothing can refer to any more.
 */
static uint64_t hole_clusters(const struct kv_space *space, uint64_t free_blocks,
                              uint64_t whole_clusters)
{
    const uint64_t whole_blocks = whole_clusters * space->config.cluster_blocks;
    return free_blocks > whole_blocks ? (free_blocks - whole_blocks) / HOLE_BLOCKS_PER_CLUSTER : 0;
}

/* Blocks that are in use or backed. */
static uint64_t blocks_in_reach(const struct kv_space *space)
{
    return space->total_blocks - space->unbacked_blocks;
}

/* ---- runs of an epoch; space->mutex held ---------------------------------- */

static int run_list_add(struct run_list *list, uint64_t block, uint32_t count)
{
    if (list->count) {
        struct run *last = &list->runs[list->count - 1];
        if (last->block + last->count == block && last->count <= KV_GROUP_BLOCKS - count) {
            last->count += count;
            return 0;
        }
    }
    if (list->count == list->cap) {
        const size_t cap = list->cap ? list->cap * 2 : 64;
        struct run *runs = realloc(list->runs, cap * sizeof *runs);
        if (!runs)
            return -ENOMEM;
        list->runs = runs;
        list->cap = cap;
    }
    list->runs[list->count++] = (struct run){.block = block, .count = count};
    return 0;
}

static void run_list_empty(struct run_list *list)
{
    list->count = 0;
    if (list->cap > RUNS_KEPT) {
        free(list->runs);
        *list = (struct run_list){0};
    }
}

static void changes_empty(struct epoch_changes *changes)
{
    run_list_empty(&changes->commits);
    run_list_empty(&changes->frees);
    changes->epoch = 0;
    changes->applied = false;
}

/* The changes of an open epoch; the caller keeps to two open ones. */
static struct epoch_changes *changes_of(struct kv_space *space, uint64_t epoch)
{
    struct epoch_changes *unused = NULL;
    for (unsigned i = 0; i < 2; i++) {
        struct epoch_changes *changes = &space->changes[i];
        if (changes->epoch == epoch) {
            KV_ASSERT(!changes->applied);
            return changes;
        }
        if (changes->epoch == 0)
            unused = changes;
    }
    KV_ASSERT(epoch != 0);
    KV_ASSERT(unused != NULL);
    unused->epoch = epoch;
    return unused;
}

/* ---- copies on disk ------------------------------------------------------ */

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
    if (!config_is_sane(device, config))
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

/* ---- opening -------------------------------------------------------------- */

void kv_space_close(struct kv_space *space)
{
    if (!space)
        return;
    for (unsigned i = 0; i < 2; i++) {
        free(space->changes[i].commits.runs);
        free(space->changes[i].frees.runs);
    }
    for (uint32_t i = 0; i < space->config.group_count; i++) {
        free(space->groups[i].busy);
        free(space->groups[i].committed);
        free(space->groups[i].leaving);
    }
    free(space->groups);
    kv_backing_close(space->backing);
    pthread_mutex_destroy(&space->mutex);
    free(space);
}

/* A space whose groups have nothing but their metadata in use. */
static int space_new(struct kv_device *device, const struct kv_space_config *config,
                     struct kv_space **out)
{
    if (!config_is_sane(device, config))
        return -EUCLEAN;
    struct kv_space *space = calloc(1, sizeof *space);
    if (!space)
        return -ENOMEM;
    space->groups = calloc(config->group_count, sizeof *space->groups);
    if (!space->groups) {
        free(space);
        return -ENOMEM;
    }
    const int lock_err = pthread_mutex_init(&space->mutex, NULL);
    if (lock_err) {
        free(space->groups);
        free(space);
        return -lock_err;
    }
    space->device = device;
    space->config = *config;
    space->refusals_max = REFUSALS_MAX_OPEN;
    const struct kv_backing_config backing = {.device = device,
                                              .first_block = config->group_first_block,
                                              .block_count =
                                                  config->end_block - config->group_first_block,
                                              .mutex = &space->mutex,
                                              .wanted = piece_is_wanted,
                                              .backed = piece_is_backed,
                                              .context = space};
    const int backing_err = kv_backing_open(&backing, &space->backing);
    if (backing_err) {
        kv_space_close(space);
        return backing_err;
    }
    for (uint32_t i = 0; i < config->group_count; i++) {
        struct group *group = &space->groups[i];
        group->block_count = group_block_count(config, i);
        group->meta_backed = !device->thin;
        group->busy = malloc(KV_GROUP_BITMAP_BYTES);
        group->committed = calloc(1, KV_GROUP_BITMAP_BYTES);
        if (!group->busy || !group->committed) {
            kv_space_close(space);
            return -ENOMEM;
        }
        set_bits(group->committed, 0, KV_GROUP_META_BLOCKS);
        busy_from_committed(space, group);
        space->total_blocks += group->block_count - KV_GROUP_META_BLOCKS;
        for (uint32_t k = 0; k < GROUP_WORDS; k++)
            space->cluster_count +=
                popcount(whole_clusters_of(group->busy[k], config->cluster_blocks));
    }
    sum_groups(space);
    *out = space;
    return 0;
}

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
    busy_from_committed(space, group);
    return 0;
}

int kv_space_open(struct kv_device *device, const struct kv_space_config *config, uint64_t epoch,
                  uint64_t bitmap_digest, struct kv_space **out)
{
    struct kv_space *space = NULL;
    struct copy_image(*copies)[2] = NULL;
    struct digest_entry *entries = NULL;
    int read_err = 0; /* a copy that could not be read may be the one that counts */
    int err = space_new(device, config, &space);
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
    sum_groups(space);
    for (uint32_t i = 0; i < config->group_count; i++) {
        const struct group *group = &space->groups[i];
        err = group->dirty || group->used_count > KV_GROUP_META_BLOCKS ? back_meta(space, i) : 0;
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

int kv_space_open_empty(struct kv_device *device, const struct kv_space_config *config,
                        struct kv_space **out)
{
    struct kv_space *space = NULL;
    const int err = space_new(device, config, &space);
    if (err)
        return err;
    KV_ASSERT(space);
    for (uint32_t i = 0; i < config->group_count; i++) {
        space->groups[i].active = 1; /* neither; the first checkpoint writes copy 0 */
        space->groups[i].dirty = true;
        space->groups[i].other_unknown = true;
    }
    *out = space;
    return 0;
}

/* ---- allocation; space->mutex held ---------------------------------------- */

enum search_where {
    SEARCH_ANY,
    SEARCH_HOLES /* leave whole free clusters alone */
};

struct found {
    uint32_t first, count;
};

/* The blocks of a word that a search may take. */
static uint64_t available(const struct kv_space *space, uint64_t busy_word, enum search_where where)
{
    if (where == SEARCH_ANY)
        return ~busy_word;
    const uint32_t cluster = space->config.cluster_blocks;
    return ~busy_word & ~(whole_clusters_of(busy_word, cluster) * bit_run(0, cluster));
}

/*
 * Scan from a word to the group's end. Stops at the first run of `count` blocks; `longest`
 * is that run, or the longest that was seen.
 *
 * A run begins at a busy block's end or at a word's start, never inside a whole cluster. So
 * taking n blocks of it breaks at most n / cluster_blocks whole clusters, rounded up.
 */
static void scan_words(const struct kv_space *space, const struct group *group, uint32_t word,
                       enum search_where where, uint32_t count, struct found *longest)
{
    struct found run = {0};
    for (; word < GROUP_WORDS; word++) {
        uint64_t bits =
            word_is_backed(space, group, word) ? available(space, group->busy[word], where) : 0;
        uint32_t at = 0;
        while (at < 64) {
            if (!(bits & 1)) {
                run.count = 0;
                if (!bits)
                    break;
                const uint32_t gap = (uint32_t)__builtin_ctzll(bits);
                at += gap;
                bits >>= gap;
            }
            const uint32_t ones = ~bits ? (uint32_t)__builtin_ctzll(~bits) : 64;
            const uint32_t length = ones < 64 - at ? ones : 64 - at;
            if (run.count == 0)
                run.first = word * 64 + at;
            run.count += length;
            if (run.count > longest->count)
                *longest = run;
            if (longest->count >= count) {
                longest->count = count;
                return;
            }
            at += length;
            bits = length < 64 ? bits >> length : 0;
        }
    }
}

/* Look for `count` blocks in a group, else for the longest run of at least `least`. */
static bool search_group(struct kv_space *space, uint32_t index, enum search_where where,
                         uint32_t count, uint32_t least, struct found *found)
{
    struct group *group = &space->groups[index];
    uint32_t room = group->free_count;
    if (where == SEARCH_HOLES)
        room -= group->whole_clusters * space->config.cluster_blocks;
    uint32_t *bound = where == SEARCH_HOLES ? &group->hole_bound : &group->run_bound;
    if (room < least || *bound < least)
        return false;

    const uint32_t hint = index == space->hint_group ? space->hint_word : 0;
    *found = (struct found){0};
    scan_words(space, group, hint, where, count, found);
    if (found->count < count && hint) {
        *found = (struct found){0};
        scan_words(space, group, 0, where, count, found);
    }
    if (found->count < count)
        *bound = found->count; /* the whole group was seen */
    return found->count >= least;
}

static bool search(struct kv_space *space, enum search_where where, uint32_t count, uint32_t least,
                   uint32_t *index, struct found *found)
{
    const uint32_t group_count = space->config.group_count;
    for (uint32_t i = 0; i < group_count; i++) {
        *index = (uint32_t)(((uint64_t)space->hint_group + i) % group_count);
        if (search_group(space, *index, where, count, least, found))
            return true;
    }
    return false;
}

/* Clusters that may be broken while there are holes. */
static uint64_t spare_clusters(const struct kv_space *space)
{
    const uint64_t backed_free = space->free_blocks - space->unbacked_blocks;
    const uint64_t kept = (KV_PLANT(reserve_given_away) ? 0 : space->reserved_clusters) +
                          emergency_clusters(space, blocks_in_reach(space)) +
                          batch_clusters(space) +
                          hole_clusters(space, backed_free, space->whole_clusters);
    return space->whole_clusters > kept ? space->whole_clusters - kept : 0;
}

/* A full run where there is room to spare; before anything is broken up more is backed. */
static bool find_spare(struct kv_space *space, uint32_t count, uint32_t *index, struct found *found)
{
    return count <= spare_clusters(space) * space->config.cluster_blocks &&
           search(space, SEARCH_ANY, count, count, index, found);
}

/*
 * With room to spare, anywhere. When short, holes first; then, for data, as much as may be
 * taken without touching what is kept, and for pages anywhere. A full run is preferred to a
 * shorter one at each step.
 */
static bool find_room(struct kv_space *space, enum kv_space_purpose purpose, uint32_t count,
                      uint32_t least, uint32_t *index, struct found *found)
{
    const uint32_t cluster = space->config.cluster_blocks;
    const uint64_t spare_blocks = spare_clusters(space) * cluster;
    if (find_spare(space, count, index, found))
        return true;
    if (search(space, SEARCH_HOLES, count, count, index, found))
        return true;
    if (purpose == KV_SPACE_PAGE && search(space, SEARCH_ANY, count, least, index, found))
        return true;
    if (least <= spare_blocks &&
        search(space, SEARCH_ANY, (uint32_t)kv_min_u64(count, spare_blocks), least, index, found))
        return true;
    return least < count && search(space, SEARCH_HOLES, count, least, index, found);
}

int kv_space_alloc(struct kv_space *space, enum kv_space_purpose purpose, uint32_t count,
                   uint32_t least, uint64_t *block, uint32_t *got)
{
    KV_ASSERT(least > 0);
    KV_ASSERT(least <= count);
    if (least > KV_GROUP_BLOCKS - KV_GROUP_META_BLOCKS)
        return -ENOSPC;

    uint32_t index;
    struct found found;
    int err = purpose == KV_SPACE_DATA ? 0 : -ENOSPC;
    pthread_mutex_lock(&space->mutex);
    while (!err && !find_spare(space, count, &index, &found))
        err = back_more(space);
    if (err && err != -ENOSPC)
        goto out;
    err = -ENOSPC;
    if (find_room(space, purpose, count, least, &index, &found)) {
        mark_busy(space, &space->groups[index], found.first, found.count);
        space->hint_group = index;
        space->hint_word = (found.first + found.count) / 64 % GROUP_WORDS;
        *block = group_start(&space->config, index) + found.first;
        *got = found.count;
        err = 0;
    }
out:
    pthread_mutex_unlock(&space->mutex);
    return err;
}

int kv_space_claim(struct kv_space *space, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    if (!locate(space, block, count, &index, &first))
        return -EUCLEAN;
    int err = back_meta(space, index);
    if (err)
        return err;
    err = -EUCLEAN;
    pthread_mutex_lock(&space->mutex);
    struct group *group = &space->groups[index];
    if (all_clear(group->busy, first, count)) {
        mark_busy(space, group, first, count);
        err = 0;
    }
    pthread_mutex_unlock(&space->mutex);
    return err;
}

void kv_space_unalloc(struct kv_space *space, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    const bool located = locate(space, block, count, &index, &first);
    KV_ASSERT(located);
    pthread_mutex_lock(&space->mutex);
    struct group *group = &space->groups[index];
    /* What a damaged pointer shared, and freed, is freed once. */
    if (group->leaving)
        space->deferred_blocks -= clear_bits(group->leaving, first, count);
    mark_free(space, group, first, count);
    pthread_mutex_unlock(&space->mutex);
}

int kv_space_commit(struct kv_space *space, uint64_t epoch, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    const bool located = locate(space, block, count, &index, &first);
    KV_ASSERT(located);
    pthread_mutex_lock(&space->mutex);
    KV_ASSERT(all_set(space->groups[index].busy, first, count));
    const int err = run_list_add(&changes_of(space, epoch)->commits, block, count);
    pthread_mutex_unlock(&space->mutex);
    return err;
}

int kv_space_free(struct kv_space *space, uint64_t epoch, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    if (!locate(space, block, count, &index, &first))
        return -EUCLEAN;
    int err;
    pthread_mutex_lock(&space->mutex);
    struct group *group = &space->groups[index];
    if (!group->leaving) {
        group->leaving = calloc(1, KV_GROUP_BITMAP_BYTES);
        if (!group->leaving) {
            err = -ENOMEM;
            goto out;
        }
    }
    if (!all_set(group->busy, first, count) || !all_clear(group->leaving, first, count)) {
        err = -EUCLEAN;
        goto out;
    }
    err = run_list_add(&changes_of(space, epoch)->frees, block, count);
    if (err)
        goto out;
    set_bits(group->leaving, first, count);
    space->deferred_blocks += count;
out:
    pthread_mutex_unlock(&space->mutex);
    return err;
}

bool kv_space_contains(struct kv_space *space, uint64_t block, uint64_t count)
{
    uint32_t index, first;
    return locate(space, block, count, &index, &first);
}

bool kv_space_owned(struct kv_space *space, uint64_t block, uint32_t count)
{
    uint32_t index, first;
    if (!locate(space, block, count, &index, &first))
        return false;
    pthread_mutex_lock(&space->mutex);
    const struct group *group = &space->groups[index];
    const bool owned = all_set(group->busy, first, count) &&
                       (!group->leaving || all_clear(group->leaving, first, count));
    pthread_mutex_unlock(&space->mutex);
    return owned;
}

/* Clusters that a reservation must leave alone. */
static uint64_t kept_from(const struct kv_space *space, enum kv_space_need need)
{
    switch (need) {
    case KV_SPACE_NORMAL:
        return emergency_clusters(space, blocks_in_reach(space));
    case KV_SPACE_URGENT:
        return map_clusters(space, blocks_in_reach(space));
    case KV_SPACE_LAST:
        break;
    }
    return 0;
}

static bool has_clusters(const struct kv_space *space, uint64_t cluster_count,
                         enum kv_space_need need)
{
    const uint64_t taken = space->reserved_clusters + kept_from(space, need);
    return taken <= space->whole_clusters && cluster_count <= space->whole_clusters - taken;
}

int kv_space_reserve(struct kv_space *space, uint64_t cluster_count, enum kv_space_need need)
{
    int err = 0;
    pthread_mutex_lock(&space->mutex);
    while (!err && !has_clusters(space, cluster_count, need))
        err = need == KV_SPACE_LAST ? -ENOSPC : back_more(space);
    if (!err)
        space->reserved_clusters += cluster_count;
    pthread_mutex_unlock(&space->mutex);
    return err;
}

int kv_space_back_reserve(struct kv_space *space)
{
    int err = 0;
    pthread_mutex_lock(&space->mutex);
    while (!err && !has_clusters(space, 0, KV_SPACE_NORMAL))
        err = back_more(space);
    pthread_mutex_unlock(&space->mutex);
    return err == -ENOSPC ? 0 : err;
}

void kv_space_unreserve(struct kv_space *space, uint64_t cluster_count)
{
    pthread_mutex_lock(&space->mutex);
    KV_ASSERT(cluster_count <= space->reserved_clusters);
    space->reserved_clusters -= cluster_count;
    pthread_mutex_unlock(&space->mutex);
}

/* ---- checkpoints ---------------------------------------------------------- */

/* Take an epoch's changes into `committed`. A run may be both committed and freed in it. */
static void apply_changes(struct kv_space *space, struct epoch_changes *changes)
{
    uint32_t index, first;
    for (size_t i = 0; i < changes->commits.count; i++) {
        const struct run *run = &changes->commits.runs[i];
        const bool located = locate(space, run->block, run->count, &index, &first);
        KV_ASSERT(located);
        struct group *group = &space->groups[index];
        group->used_count += set_bits(group->committed, first, run->count);
        group->dirty = true;
    }
    for (size_t i = 0; i < changes->frees.count; i++) {
        const struct run *run = &changes->frees.runs[i];
        const bool located = locate(space, run->block, run->count, &index, &first);
        KV_ASSERT(located);
        struct group *group = &space->groups[index];
        group->used_count -= clear_bits(group->committed, first, run->count);
        group->dirty = true;
    }
    changes->applied = true;
}

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
            apply_changes(space, changes);
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
        err = space->groups[i].dirty ? back_meta(space, i) : 0;
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

/* A run that an epoch freed becomes free, but for blocks that were given back before. */
static void leave(struct kv_space *space, struct group *group, uint32_t first, uint32_t count)
{
    if (all_set(group->leaving, first, count)) {
        space->deferred_blocks -= clear_bits(group->leaving, first, count);
        mark_free(space, group, first, count);
        return;
    }
    for (uint32_t i = first; i < first + count; i++)
        if (clear_bits(group->leaving, i, 1)) {
            space->deferred_blocks--;
            mark_free(space, group, i, 1);
        }
}

void kv_space_written(struct kv_space *space, uint64_t epoch)
{
    pthread_mutex_lock(&space->mutex);
    for (unsigned i = 0; i < 2; i++) {
        struct epoch_changes *changes = &space->changes[i];
        if (!changes->applied || changes->epoch > epoch)
            continue;
        for (size_t k = 0; k < changes->frees.count; k++) {
            const struct run *run = &changes->frees.runs[k];
            uint32_t index, first;
            const bool located = locate(space, run->block, run->count, &index, &first);
            KV_ASSERT(located);
            if (!KV_PLANT(freed_space_lost))
                leave(space, &space->groups[index], first, run->count);
        }
        changes_empty(changes);
    }
    space->refusals_max = REFUSALS_MAX;
    pthread_mutex_unlock(&space->mutex);
}

/*
 * What data can take, now or after the next checkpoint, when the host gives `room` blocks more:
 * without what is kept and the pages that will refer to it. When nothing is left for these,
 * nothing can be written, however many holes there are.
 */
static uint64_t available_blocks(const struct kv_space *space, uint64_t room)
{
    const uint64_t cluster = space->config.cluster_blocks;
    const uint64_t pieces = room / KV_BACKING_PIECE_BLOCKS; /* less than one is of no use */
    const uint64_t growth = kv_min_u64(pieces * KV_BACKING_PIECE_BLOCKS, space->unbacked_blocks);
    const uint64_t free_blocks =
        space->free_blocks + space->deferred_blocks - (space->unbacked_blocks - growth);
    const uint64_t whole = space->whole_clusters + (space->deferred_blocks + growth) / cluster;
    const uint64_t kept = space->reserved_clusters +
                          emergency_clusters(space, blocks_in_reach(space) + growth) +
                          batch_clusters(space);
    if (whole < kept)
        return 0;
    const uint64_t leave = (kept + hole_clusters(space, free_blocks, whole)) * cluster;
    const uint64_t left = free_blocks > leave ? free_blocks - leave : 0;
    return left - left / DATA_BLOCKS_PER_PAGE_BLOCK;
}

void kv_space_stats(struct kv_space *space, struct kv_space_stats *stats)
{
    const uint64_t cluster = space->config.cluster_blocks;
    const uint64_t room = kv_device_room(space->device);
    pthread_mutex_lock(&space->mutex);
    *stats = (struct kv_space_stats){
        .total_blocks = space->total_blocks,
        .busy_blocks = space->total_blocks - space->free_blocks,
        .deferred_blocks = space->deferred_blocks,
        .reserved_blocks = space->reserved_clusters * cluster,
        .emergency_blocks = emergency_clusters(space, blocks_in_reach(space)) * cluster,
        .unbacked_blocks = space->unbacked_blocks,
        .available_blocks = available_blocks(space, room),
        .host_is_full = kv_backing_refused(space->backing),
    };
    pthread_mutex_unlock(&space->mutex);
}

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

void kv_space_compare(struct kv_space *space, const uint64_t *seen, bool repair, uint64_t *leaked,
                      uint64_t *unmarked)
{
    *leaked = 0;
    *unmarked = 0;
    pthread_mutex_lock(&space->mutex);
    for (uint32_t i = 0; i < space->config.group_count; i++) {
        struct group *group = &space->groups[i];
        const uint64_t *seen_words = seen + (size_t)i * GROUP_WORDS;
        struct run_part part =
            run_parts(KV_GROUP_META_BLOCKS, group->block_count - KV_GROUP_META_BLOCKS);
        while (run_part_next(&part)) {
            const uint64_t owned = seen_words[part.word] & part.mask;
            uint64_t *word = &group->committed[part.word];
            *leaked += popcount(*word & part.mask & ~owned);
            *unmarked += popcount(owned & ~*word);
            if (repair)
                *word = (*word & ~part.mask) | owned;
        }
        if (repair) {
            busy_from_committed(space, group);
            group->dirty = true;
        }
    }
    if (repair) {
        changes_empty(&space->changes[0]);
        changes_empty(&space->changes[1]);
        space->deferred_blocks = 0;
        sum_groups(space);
    }
    pthread_mutex_unlock(&space->mutex);
}

void kv_space_mark(struct kv_space *space, const uint64_t *seen)
{
    pthread_mutex_lock(&space->mutex);
    for (uint32_t i = 0; i < space->config.group_count; i++) {
        struct group *group = &space->groups[i];
        const uint64_t *seen_words = seen + (size_t)i * GROUP_WORDS;
        struct run_part part =
            run_parts(KV_GROUP_META_BLOCKS, group->block_count - KV_GROUP_META_BLOCKS);
        uint64_t added = 0;
        while (run_part_next(&part)) {
            const uint64_t owned = seen_words[part.word] & part.mask;
            added |= owned & ~group->committed[part.word];
            group->committed[part.word] |= owned;
            group->busy[part.word] |= owned;
        }
        if (!added)
            continue;
        count_group(space, group);
        group->dirty = true;
    }
    sum_groups(space);
    pthread_mutex_unlock(&space->mutex);
}
