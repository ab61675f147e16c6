/*
 * tests/faults/damage/recipes_superblock.c: damaged superblocks, and ones whose digests are right
 * and whose numbers are not; images that are cut or are none.
 */
#include "recipes.h"

#include <stddef.h>

/* ---- damaged copies ------------------------------------------------------------------ */

static const uint64_t slots[] = {KV_SUPERBLOCK_A_BLOCK, KV_SUPERBLOCK_B_BLOCK, SCENE_BLOCKS - 1};

/* Bits of `which`: A, B, backup. */
static void flip_copies(struct scene *scene, int which)
{
    for (unsigned i = 0; i < 3; i++)
        if (which >> i & 1)
            scene_flip(scene, slots[i], 300);
}

static void zero_copies(struct scene *scene, int which)
{
    for (unsigned i = 0; i < 3; i++)
        if (which >> i & 1)
            scene_zero(scene, slots[i]);
}

/* A slot goes back to what it held three checkpoints ago. */
static void stale_copy(struct scene *scene, int slot)
{
    uint8_t old[KV_BLOCK_BYTES];
    scene_read(scene, slots[slot], old);
    for (unsigned i = 0; i < 3; i++) {
        scene_open(scene);
        scene_close(scene);
    }
    scene_write(scene, slots[slot], old);
}

/* The same of an image that crashed: two behind is no crash, one behind may be. */
static void stale_after_crash(struct scene *scene, int slot)
{
    uint8_t old[KV_BLOCK_BYTES];
    scene_read(scene, slots[slot], old);
    scene_open(scene);
    const struct fs_key key = scene_entry_key(FS_ROOT_INO, "later");
    for (unsigned i = 0; i < 3; i++) {
        scene_put_link(scene, FS_ROOT_INO, "later", 5, S_IFREG);
        scene_del(scene, &key);
        const int err = kv_checkpoint(scene->store);
        KV_ASSERT(err == 0);
    }
    scene_crash(scene);
    scene_write(scene, slots[slot], old);
}

/* A power cut in the middle of a superblock: no damage. */
static void torn_by_crash(struct scene *scene, int argument)
{
    (void)argument;
    scene_open(scene);
    scene_crash(scene);
    struct kv_disk_superblock superblock = scene_superblock(scene);
    const unsigned selected = kv_le64_get(superblock.sequence) & 1;
    uint8_t bytes[KV_BLOCK_BYTES];
    scene_read(scene, slots[!selected], bytes);
    memset(bytes + 512, 0, sizeof bytes - 512);
    scene_write(scene, slots[!selected], bytes);
}

/* ---- numbers that can not be --------------------------------------------------------- */

enum field {
    NODE_BYTES_ZERO,
    NODE_BYTES_ODD,
    NODE_BYTES_LARGE,
    EXTENT_BYTES_ODD,
    GROUPS_NONE,
    GROUPS_MANY,
    GROUP_FIRST_FAR,
    GROUP_FIRST_ODD,
    LOG_FIRST_ZERO,
    LOG_COUNT_SMALL,
    LOG_COUNT_HUGE,
    IMAGE_LARGER,
    IMAGE_HUGE,
    CODEC_UNKNOWN,
    EPOCH_HUGE,
    VERSION_NEWER,
    VERSION_OLDER,
    FEATURE_INCOMPAT,
    FEATURE_ROCOMPAT,
    FEATURE_COMPAT,
    MAGIC_OTHER,
    MAP_DEPTH_HUGE,
    MAP_DEPTH_ZERO,
    MAP_DEPTH_MORE,
    MAP_ROOT_FAR,
    MAP_ROOT_LENGTH,
    MAP_ROOT_DIGEST,
    MAP_ROOT_EPOCH,
    PAGE_IDS_FEW,
    PAGE_IDS_HUGE,
    ROOT_UNKNOWN,
    ROOT_OF_COUNTS_UNKNOWN,
    ROOTS_SWAPPED,
    ROOT_ZERO,
    LOG_TAIL_HUGE,
    BITMAP_DIGEST,
    NOT_CLEAN,
};

static void forge_geometry(struct kv_disk_superblock *sb, enum field field)
{
    switch (field) {
    case NODE_BYTES_ZERO:
        sb->node_bytes = kv_le32_of(0);
        break;
    case NODE_BYTES_ODD:
        sb->node_bytes = kv_le32_of(5000);
        break;
    case NODE_BYTES_LARGE:
        sb->node_bytes = kv_le32_of(1u << 20);
        break;
    case EXTENT_BYTES_ODD:
        sb->extent_bytes = kv_le32_of(12345);
        break;
    case GROUPS_NONE:
        sb->group_count = kv_le32_of(0);
        break;
    case GROUPS_MANY:
        sb->group_count = kv_le32_of(9);
        break;
    case GROUP_FIRST_FAR:
        sb->group_first_block = kv_le64_of(1ull << 40);
        break;
    case GROUP_FIRST_ODD:
        sb->group_first_block = kv_le64_of(kv_le64_get(sb->group_first_block) + 1);
        break;
    case LOG_FIRST_ZERO:
        sb->log_first_block = kv_le64_of(0);
        break;
    case LOG_COUNT_SMALL:
        sb->log_block_count = kv_le64_of(3);
        break;
    case LOG_COUNT_HUGE:
        sb->log_block_count = kv_le64_of(UINT64_MAX - 5);
        break;
    case IMAGE_LARGER:
        sb->image_blocks = kv_le64_of(SCENE_BLOCKS + 1);
        break;
    case IMAGE_HUGE:
        sb->image_blocks = kv_le64_of(UINT64_MAX);
        break;
    default:
        sb->codec = 9;
        break;
    }
}

static void forge_identity(struct kv_disk_superblock *sb, enum field field)
{
    switch (field) {
    case EPOCH_HUGE:
        sb->epoch = kv_le64_of(UINT64_MAX - 2);
        break;
    case VERSION_NEWER:
        sb->version = kv_le32_of(KV_FORMAT_VERSION + 1);
        break;
    case VERSION_OLDER:
        sb->version = kv_le32_of(KV_FORMAT_VERSION - 1);
        break;
    case FEATURE_INCOMPAT:
        sb->feature_incompat = kv_le64_of(1ull << 60);
        break;
    case FEATURE_ROCOMPAT:
        sb->feature_rocompat = kv_le64_of(1ull << 60);
        break;
    case FEATURE_COMPAT:
        sb->feature_compat = kv_le64_of(1ull << 60);
        break;
    default:
        memcpy(sb->magic, "EXT4\0\0\0", 8);
        break;
    }
}

static void forge_trees(struct kv_disk_superblock *sb, enum field field)
{
    const kv_le64 keys = sb->tree_root[0];
    switch (field) {
    case MAP_DEPTH_HUGE:
        sb->map_depth = kv_le32_of(200);
        break;
    case MAP_DEPTH_ZERO:
        sb->map_depth = kv_le32_of(0);
        break;
    case MAP_DEPTH_MORE:
        sb->map_depth = kv_le32_of(kv_le32_get(sb->map_depth) + 1);
        break;
    case MAP_ROOT_FAR:
        sb->map_root.block = kv_le64_of(1ull << 50);
        break;
    case MAP_ROOT_LENGTH:
        sb->map_root.length_bytes = kv_le32_of(77);
        break;
    case MAP_ROOT_DIGEST:
        sb->map_root.digest = kv_le64_of(1);
        break;
    case MAP_ROOT_EPOCH:
        sb->map_root.birth_epoch = kv_le64_of(1);
        break;
    case PAGE_IDS_FEW:
        sb->page_id_next = kv_le64_of(2);
        break;
    case PAGE_IDS_HUGE:
        sb->page_id_next = kv_le64_of(1ull << 55);
        break;
    case ROOT_UNKNOWN:
        sb->tree_root[0] = kv_le64_of(12000);
        break;
    case ROOT_OF_COUNTS_UNKNOWN:
        sb->tree_root[1] = kv_le64_of(12000);
        break;
    case ROOTS_SWAPPED:
        sb->tree_root[0] = sb->tree_root[1];
        sb->tree_root[1] = keys;
        break;
    case ROOT_ZERO:
        sb->tree_root[0] = kv_le64_of(0);
        break;
    case LOG_TAIL_HUGE:
        sb->log_tail = kv_le64_of(UINT64_MAX - 1);
        break;
    case BITMAP_DIGEST:
        sb->bitmap_digest = kv_le64_of(3);
        break;
    default:
        sb->clean = 0;
        break;
    }
}

static void forge(struct scene *scene, int argument)
{
    const enum field field = (enum field)argument;
    struct kv_disk_superblock superblock = scene_superblock(scene);
    if (field <= CODEC_UNKNOWN)
        forge_geometry(&superblock, field);
    else if (field <= MAGIC_OTHER)
        forge_identity(&superblock, field);
    else
        forge_trees(&superblock, field);
    scene_put_superblock(scene, &superblock);
}

/* ---- cut, or none -----------------------------------------------------------------------------
 */

static void cut(struct scene *scene, int blocks)
{
    scene->shown_blocks = (uint64_t)blocks;
}

static void erase(struct scene *scene, int with_garbage)
{
    struct test_random random = {7};
    uint8_t bytes[KV_BLOCK_BYTES];
    for (uint64_t block = 0; block < SCENE_BLOCKS; block++) {
        for (size_t i = 0; i < sizeof bytes; i += 8) {
            const uint64_t word = with_garbage ? test_random_next(&random) : 0;
            memcpy(bytes + i, &word, sizeof word);
        }
        scene_write(scene, block, bytes);
    }
}

const struct recipe superblock_recipes[] = {
    {"superblock A, a bit", flip_copies, 1, "superblock-copy", 4, 1, 1},
    {"superblock B, a bit", flip_copies, 2, "superblock-copy", 4, 1, 1},
    {"superblock A, zeroed", zero_copies, 1, "superblock-copy", 4, 1, 1},
    {"superblock B, zeroed", zero_copies, 2, "superblock-copy", 4, 1, 1},
    {"superblock A and backup, a bit", flip_copies, 5, "", 0, 0, 0},
    {"both superblocks, a bit", flip_copies, 3, "superblock-copy", 4, 4, 1},
    {"both superblocks, zeroed", zero_copies, 3, "superblock-copy", 4, 8, 1},
    {"backup superblock, a bit", flip_copies, 4, "", 0, 0, 0},
    {"all three superblocks, a bit", flip_copies, 7, "unreadable", 4, 4, 4},
    {"all three superblocks, zeroed", zero_copies, 7, "", 8, 8, 8},
    {"superblock A, an old one", stale_copy, 0, "superblock-copy", 4, 1, 1},
    {"superblock B, an old one", stale_copy, 1, "superblock-copy", 4, 1, 1},
    {"superblock A, an old one after a crash", stale_after_crash, 0, "superblock-copy", 4, 1, 1},
    {"superblock B, an old one after a crash", stale_after_crash, 1, "superblock-copy", 4, 1, 1},
    {"a superblock torn by a crash", torn_by_crash, 0, "", 0, 0, 0},
    {"node size 0", forge, NODE_BYTES_ZERO, "unreadable", 4, 4, 4},
    {"node size no power of two", forge, NODE_BYTES_ODD, "unreadable", 4, 4, 4},
    {"node size of 1 MiB", forge, NODE_BYTES_LARGE, "unreadable", 4, 4, 4},
    {"extent size no power of two", forge, EXTENT_BYTES_ODD, "unreadable", 4, 4, 4},
    {"no groups", forge, GROUPS_NONE, "unreadable", 4, 4, 4},
    {"more groups than fit", forge, GROUPS_MANY, "unreadable", 4, 4, 4},
    {"groups beyond the end", forge, GROUP_FIRST_FAR, "unreadable", 4, 4, 4},
    {"groups not aligned", forge, GROUP_FIRST_ODD, "unreadable", 4, 4, 4},
    {"log over the superblock", forge, LOG_FIRST_ZERO, "unreadable", 4, 4, 4},
    {"log of three blocks", forge, LOG_COUNT_SMALL, "unreadable", 4, 4, 4},
    {"log of all blocks there are", forge, LOG_COUNT_HUGE, "unreadable", 4, 4, 4},
    {"image a block larger than it is", forge, IMAGE_LARGER, "", 8, 8, 8},
    {"image of 2^64 blocks", forge, IMAGE_HUGE, "unreadable", 4, 4, 4},
    {"codec unknown", forge, CODEC_UNKNOWN, "unreadable", 4, 4, 4},
    {"epoch near the end of time", forge, EPOCH_HUGE, "unreadable", 4, 4, 4},
    {"a later version", forge, VERSION_NEWER, "", 8, 8, 8},
    {"an earlier version", forge, VERSION_OLDER, "", 8, 8, 8},
    {"an incompatible feature", forge, FEATURE_INCOMPAT, "", 8, 8, 8},
    {"a read-only compatible feature", forge, FEATURE_ROCOMPAT, "", 0, 8, 8},
    {"a compatible feature", forge, FEATURE_COMPAT, "", 0, 0, 0},
    {"another magic", forge, MAGIC_OTHER, "", 8, 8, 8},
    {"page map of 200 levels", forge, MAP_DEPTH_HUGE, "page-missing", 4, 4, 1},
    {"page map of no level", forge, MAP_DEPTH_ZERO, "page-missing", 4, 4, 1},
    {"page map of a level more", forge, MAP_DEPTH_MORE, "map-block page-missing", 4, 4, 1},
    {"root of the map beyond the end", forge, MAP_ROOT_FAR, "map-block page-missing", 4, 4, 1},
    {"root of the map of 77 bytes", forge, MAP_ROOT_LENGTH, "map-block page-missing", 4, 4, 1},
    {"root of the map with another digest", forge, MAP_ROOT_DIGEST, "map-block page-missing", 4, 4,
     1},
    {"root of the map of another epoch", forge, MAP_ROOT_EPOCH, "map-block page-missing", 4, 4, 1},
    {"page ids beyond the next one", forge, PAGE_IDS_FEW, "page-structure", 4, 4, 1},
    {"next page id beyond what the map holds", forge, PAGE_IDS_HUGE, "page-missing", 4, 4, 1},
    {"root of the keys unknown", forge, ROOT_UNKNOWN, "page-missing", 4, 4, 1},
    {"root of the counts unknown", forge, ROOT_OF_COUNTS_UNKNOWN, "page-missing", 4, 4, 1},
    {"roots swapped", forge, ROOTS_SWAPPED, "page-structure", 4, 4, 1},
    {"root of the keys 0", forge, ROOT_ZERO, "page-missing", 4, 4, 1},
    {"log beginning beyond all positions", forge, LOG_TAIL_HUGE, "unreadable", 4, 4, 4},
    {"digest of the bitmaps wrong", forge, BITMAP_DIGEST, "bitmap", 4, 4, 1},
    {"not marked clean, though it is", forge, NOT_CLEAN, "", 0, 0, 0},
    {"cut by a block", cut, SCENE_BLOCKS - 1, "", 8, 8, 8},
    {"cut in the middle", cut, SCENE_BLOCKS / 2, "", 8, 8, 8},
    {"cut behind the log's beginning", cut, 600, "", 8, 8, 8},
    {"cut before superblock B", cut, 100, "", 8, 8, 8},
    {"all zeros", erase, 0, "", 8, 8, 8},
    {"all garbage", erase, 1, "", 8, 8, 8},
};
const size_t superblock_recipe_count = sizeof superblock_recipes / sizeof superblock_recipes[0];
