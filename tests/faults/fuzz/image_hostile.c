/*
 * tests/faults/fuzz/image_hostile.c: small sound images, and what an input makes of them.
 *
 * Owns       the base images, for the life of the process.
 * Invariant  a base image has the same layout in every run: nothing in it is left to chance
 *            (its uuid is given, one thread makes it), so that an input found by one run means
 *            the same in all others. Only the times that it holds differ.
 */
#include "tests/faults/fuzz/image_hostile.h"

#include <sys/prctl.h>

#include "fs/acl.h"
#include "fs/format.h"
#include "fs/volume.h"
#include "fs/xattr.h"
#include "kv/store.h"
#include "tests/faults/fuzz/image_repair.h"
#include "tests/kv/support_store.h"

#define IMAGE_BLOCKS (KV_IMAGE_BYTES_MIN / KV_BLOCK_BYTES)
#define PLACES_MAX   512u
#define PATCHES_MAX  32u

/* ---- what is in a base image -------------------------------------------------------- */

static const struct fs_caller root_caller;

static uint64_t make(struct fs_volume *volume, uint64_t directory, const char *name, uint32_t mode,
                     const char *target)
{
    struct fs_record record;
    const struct fs_new_node node = {
        .mode = mode, .rdev = 0x103, .target = target, .target_len = target ? strlen(target) : 0};
    KV_ASSERT(fs_create(volume, &root_caller, directory, name, strlen(name), &node, &record) == 0);
    return record.file.ino;
}

static void fill(struct fs_volume *volume, uint64_t ino, uint64_t offset, size_t length)
{
    static uint8_t bytes[1u << 17];
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(i / 64 * (ino % 7 + 1));
    KV_ASSERT(fs_write(volume, ino, offset, bytes, length, false) == 0);
}

static void set_acl(struct fs_volume *volume, uint64_t ino, const char *name)
{
    static const struct {
        uint16_t tag, perm;
        uint32_t id;
    } entries[] = {{FS_ACL_USER_OBJ, 6, FS_ACL_NO_ID},
                   {FS_ACL_USER, 4, 1000},
                   {FS_ACL_GROUP_OBJ, 4, FS_ACL_NO_ID},
                   {FS_ACL_MASK, 4, FS_ACL_NO_ID},
                   {FS_ACL_OTHER, 0, FS_ACL_NO_ID}};
    uint8_t list[sizeof(struct fs_disk_acl_header) + 5 * sizeof(struct fs_disk_acl_entry)];
    const struct fs_disk_acl_header header = {kv_le32_of(FS_ACL_VERSION)};
    memcpy(list, &header, sizeof header);
    for (size_t i = 0; i < 5; i++) {
        const struct fs_disk_acl_entry entry = {.tag = kv_le16_of(entries[i].tag),
                                                .perm = kv_le16_of(entries[i].perm),
                                                .id = kv_le32_of(entries[i].id)};
        memcpy(list + sizeof header + i * sizeof entry, &entry, sizeof entry);
    }
    KV_ASSERT(fs_setxattr(volume, ino, name, list, sizeof list, 0, false) == 0);
}

static void add_long_names(struct fs_volume *volume, uint64_t directory)
{
    for (unsigned i = 0; i < 150; i++) {
        char name[FS_NAME_MAX + 1];
        memset(name, 'a' + (int)(i % 26), 200);
        snprintf(name + 200, sizeof name - 200, "%04u", i);
        make(volume, directory, name, S_IFREG | 0644, NULL);
    }
}

/* A thing of each kind; inode numbers are in the order of making. */
static void populate(struct fs_volume *volume, enum hostile_base base)
{
    struct fs_record record;
    uint64_t copied;
    const uint64_t directory = make(volume, FS_ROOT_INO, "directory", S_IFDIR | 0755, NULL);
    const uint64_t below = make(volume, directory, "below", S_IFDIR | 01777, NULL);
    const uint64_t small = make(volume, below, "inline", S_IFREG | 0644, NULL);
    fill(volume, small, 0, 100);
    const uint64_t packed = make(volume, FS_ROOT_INO, "packed", S_IFREG | 04755, NULL);
    fill(volume, packed, 0, 1500);
    fill(volume, packed, 9000, 700);
    const uint64_t extents = make(volume, FS_ROOT_INO, "extents", S_IFREG | 0600, NULL);
    fill(volume, extents, 0, 100000);
    KV_ASSERT(fs_fallocate(volume, extents, 0, 200000, 50000) == 0);
    const uint64_t clone = make(volume, directory, "clone", S_IFREG | 0600, NULL);
    KV_ASSERT(fs_copy_range(volume, extents, 0, clone, 4096, 65536, &copied) == 0);
    make(volume, FS_ROOT_INO, "symlink", S_IFLNK | 0777, "directory/below/inline");
    make(volume, FS_ROOT_INO, "device", S_IFCHR | 0600, NULL);
    KV_ASSERT(fs_link(volume, packed, below, "link", 4, &record) == 0);
    KV_ASSERT(fs_setxattr(volume, extents, "user.name", "value", 5, 0, false) == 0);
    KV_ASSERT(fs_setxattr(volume, directory, "trusted.big", "x", 1, 0, false) == 0);
    set_acl(volume, packed, FS_XATTR_ACCESS_ACL);
    set_acl(volume, directory, FS_XATTR_DEFAULT_ACL);
    for (unsigned i = 0; i < 24; i++) {
        char name[32];
        snprintf(name, sizeof name, "file with number %02u", i);
        make(volume, below, name, S_IFREG | 0644, NULL);
    }
    if (base == HOSTILE_LONG)
        add_long_names(volume, directory);
    /* Without a name, and still there: what a crash leaves of an open file. */
    const uint64_t orphan = make(volume, FS_ROOT_INO, "orphan", S_IFREG | 0600, NULL);
    fill(volume, orphan, 0, 20000);
    KV_ASSERT(fs_unlink(volume, FS_ROOT_INO, "orphan", 6) == 0);
}

/* Keys that no filesystem has: a value of several blobs, long keys. */
static void add_keys(struct kv_store *store)
{
    static uint8_t value[150000];
    uint8_t key[KV_KEY_MAX];
    test_fill(value, sizeof value, 2);
    KV_ASSERT(kv_put(store, "Zlarge", 6, value, sizeof value) == 0);
    memset(key, 'Z', sizeof key);
    KV_ASSERT(kv_put(store, key, sizeof key, value, 900) == 0);
}

static void change_more(struct fs_volume *volume)
{
    struct fs_record record;
    const uint64_t late = make(volume, FS_ROOT_INO, "late", S_IFREG | 0644, NULL);
    fill(volume, late, 0, 40000);
    KV_ASSERT(fs_lookup(volume, FS_ROOT_INO, "packed", 6, &record) == 0);
    fill(volume, record.file.ino, 100, 3000);
    KV_ASSERT(fs_rename(volume, FS_ROOT_INO, "symlink", 7, FS_ROOT_INO, "symbolic", 8, 0) == 0);
}

static struct image_bytes *build(enum hostile_base base)
{
    struct image_bytes *const image = image_bytes_new(IMAGE_BLOCKS);
    const bool large = base == HOSTILE_PACKED || base == HOSTILE_DENSE;
    const enum kv_codec codec = base == HOSTILE_PACKED  ? KV_CODEC_LZ4
                                : base == HOSTILE_DENSE ? KV_CODEC_NONE
                                                        : KV_CODEC_ZSTD;
    const struct kv_create_options options = {
        .node_bytes = large ? 16384 : KV_NODE_BYTES_MIN,
        .extent_bytes = 65536,
        .log_bytes = KV_LOG_BYTES_MIN,
        .codec = {codec, 1},
        .uuid = {'h', 'o', 's', 't', 'i', 'l', 'e', (uint8_t)base}};
    struct kv_error error;
    KV_ASSERT(kv_create_on_device(image_bytes_device(image), &options, &error) == 0);
    struct kv_store *store = test_open_on(image_bytes_device(image));
    const struct fs_volume_options volume_options = {.log = test_log_nothing};
    struct fs_volume *volume;
    KV_ASSERT(fs_format(store, 0, 0, 0755) == 0);
    KV_ASSERT(fs_volume_open(store, &volume_options, &volume, &error) == 0);
    populate(volume, base);
    add_keys(store);
    KV_ASSERT(kv_checkpoint(store) == 0);
    if (base == HOSTILE_LOG) {
        change_more(volume);
        KV_ASSERT(kv_sync(store) == 0);
    }
    /* But for the one that is closed, the image is as a crash at this point leaves it. */
    if (base != HOSTILE_CLOSED)
        image_bytes_keep(image);
    fs_volume_close(volume);
    KV_ASSERT(kv_close(store) == 0);
    if (base == HOSTILE_CLOSED)
        image_bytes_keep(image);
    return image;
}

struct image_bytes *hostile_image(enum hostile_base base)
{
    static struct image_bytes *images[HOSTILE_COUNT];
    if (!images[base]) {
        /* Huge pages would be zeroed for each store that is opened, and hardly used. */
        (void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
        images[base] = build(base);
    }
    image_bytes_restore(images[base]);
    return images[base];
}

/* ---- patches ---------------------------------------------------------------------------- */

static void patch_bytes(uint8_t *bytes, size_t room, struct fuzz_input *input)
{
    const size_t at = fuzz_u16(input) % room;
    const size_t length = 1 + fuzz_u8(input) % 16;
    fuzz_take(input, bytes + at, kv_min_u64(length, room - at));
}

static void patch_block(struct image_bytes *image, uint64_t block, struct fuzz_input *input)
{
    uint8_t *const bytes = image_bytes_change(image, block);
    if (bytes)
        patch_bytes(bytes, KV_BLOCK_BYTES, input);
}

/* The number-th place with a level of this kind; false: there is none. */
static bool choose_place(const struct image_bytes *image, bool page, size_t number,
                         struct image_place *place)
{
    static struct image_place places[PLACES_MAX];
    const size_t count = image_places(image, places, PLACES_MAX);
    size_t matching = 0;
    for (size_t i = 0; i < count; i++)
        matching += (places[i].level < 0) == page;
    if (!matching)
        return false;
    number %= matching;
    for (size_t i = 0; i < count; i++)
        if ((places[i].level < 0) == page && number-- == 0) {
            *place = places[i];
            break;
        }
    return true;
}

static size_t node_bytes_of(const struct image_bytes *image)
{
    struct kv_disk_superblock superblock;
    uint64_t block;
    if (!image_superblock(image, &superblock, &block))
        return 0;
    const uint32_t bytes = kv_le32_get(superblock.node_bytes);
    return bytes >= KV_NODE_BYTES_MIN && bytes <= KV_NODE_BYTES_MAX ? bytes : 0;
}

/* The value, or the key, of a leaf's slot. */
static void patch_cell(uint8_t *node, size_t node_bytes, bool value, struct fuzz_input *input)
{
    struct kv_disk_node header;
    struct kv_disk_slot slot;
    struct kv_disk_leaf_cell cell;
    memcpy(&header, node, sizeof header);
    const size_t count = kv_le16_get(header.slot_count);
    const size_t index = fuzz_u8(input) % (count ? count : 1);
    if (sizeof header + (index + 1) * sizeof slot > node_bytes)
        return;
    memcpy(&slot, node + sizeof header + index * sizeof slot, sizeof slot);
    const size_t offset = kv_le16_get(slot.offset);
    const size_t key_at = offset + (header.level ? sizeof(struct kv_disk_inner_cell) : sizeof cell);
    const size_t key_bytes = kv_le16_get(slot.key_bytes);
    if (key_at + key_bytes > node_bytes)
        return;
    memcpy(&cell, node + offset, sizeof cell);
    const size_t value_bytes = header.level ? 0 : kv_le16_get(cell.value_bytes);
    if (!value) {
        if (key_bytes)
            patch_bytes(node + key_at, key_bytes, input);
    } else if (value_bytes && key_at + key_bytes + value_bytes <= node_bytes) {
        patch_bytes(node + key_at + key_bytes, value_bytes, input);
    }
}

enum page_patch { PATCH_PAGE, PATCH_KEY, PATCH_VALUE, PATCH_COPY };

static void patch_page(struct image_bytes *image, enum page_patch what, struct fuzz_input *input)
{
    uint8_t node[KV_NODE_BYTES_MAX];
    const size_t node_bytes = node_bytes_of(image);
    struct image_place place, other;
    if (!choose_place(image, true, fuzz_u8(input), &place) || !node_bytes ||
        !image_page_read(image, &place, node, node_bytes))
        return;
    if (what == PATCH_PAGE) {
        patch_bytes(node, node_bytes, input);
    } else if (what == PATCH_COPY) {
        /* What stands in one page also stands under another's number. */
        if (!choose_place(image, true, fuzz_u8(input), &other))
            return;
        ((struct kv_disk_node *)node)->page_id = kv_le64_of(other.index);
        place = other;
    } else {
        patch_cell(node, node_bytes, what == PATCH_VALUE, input);
    }
    image_page_write(image, &place, node, node_bytes);
}

/* A pointer of the map: the pages, and the blocks, that it names. */
static void patch_ptr(struct image_bytes *image, bool page, struct fuzz_input *input)
{
    struct image_place place, other;
    if (!choose_place(image, page, fuzz_u8(input), &place))
        return;
    uint8_t *const at = image_bytes_change(image, place.ptr_block) + place.ptr_at;
    const uint8_t what = fuzz_u8(input);
    if (what & 1) {
        if (choose_place(image, what & 2, fuzz_u8(input), &other))
            memcpy(at, &other.ptr, sizeof other.ptr);
    } else {
        patch_bytes(at, sizeof place.ptr, input);
    }
}

static void patch_log(struct image_bytes *image, struct fuzz_input *input)
{
    struct kv_disk_superblock superblock;
    uint64_t block;
    if (!image_superblock(image, &superblock, &block))
        return;
    const uint64_t count = kv_le64_get(superblock.log_block_count);
    const uint64_t position = kv_le64_get(superblock.log_tail) + fuzz_u8(input);
    if (count)
        patch_block(image, kv_le64_get(superblock.log_first_block) + position % count, input);
}

static void patch_bitmap(struct image_bytes *image, struct fuzz_input *input)
{
    struct kv_disk_superblock superblock;
    uint64_t block;
    if (!image_superblock(image, &superblock, &block))
        return;
    const uint64_t first = kv_le64_get(superblock.group_first_block);
    patch_block(image, first + fuzz_u8(input) % KV_GROUP_META_BLOCKS, input);
}

/* A record that a log never held. */
static void append_record(struct image_bytes *image, struct fuzz_input *input)
{
    const struct fuzz_input body = fuzz_part(input, fuzz_u16(input) % KV_LOG_PAYLOAD_BYTES);
    if (body.left)
        image_log_append(image, body.at, body.left);
}

void hostile_patch(struct image_bytes *image, struct fuzz_input *input)
{
    for (unsigned i = 0; i < PATCHES_MAX; i++) {
        const uint8_t kind = fuzz_u8(input);
        if (!kind)
            return;
        switch (kind % 13) {
        case 0:
            patch_block(image, fuzz_u16(input) % image_bytes_count(image), input);
            break;
        case 1:
            patch_block(image, KV_SUPERBLOCK_A_BLOCK, input);
            break;
        case 2:
            patch_ptr(image, false, input);
            break;
        case 3:
            patch_ptr(image, true, input);
            break;
        case 4:
        case 5:
            patch_page(image, PATCH_PAGE, input);
            break;
        case 6:
            patch_page(image, PATCH_KEY, input);
            break;
        case 7:
        case 8:
            patch_page(image, PATCH_VALUE, input);
            break;
        case 9:
            patch_page(image, PATCH_COPY, input);
            break;
        case 10:
            patch_bitmap(image, input);
            break;
        case 11:
            patch_log(image, input);
            break;
        default:
            append_record(image, input);
            break;
        }
    }
}
