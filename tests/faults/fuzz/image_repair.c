/*
 * tests/faults/fuzz/image_repair.c: makes the checksums of a changed image right again.
 *
 * Invariant  nothing outside the image is touched, whatever the image says; each walk ends
 *            after PLACES_MAX steps.
 */
#include "tests/faults/fuzz/image_repair.h"

#include "kv/codec.h"
#include "kv/node.h"
#include "kv/stored_page.h"
#include "kv/superblock.h"

#define PLACES_MAX  2048u
#define LOG_MAX     256u /* blocks of the log that are sealed again */
#define RECORDS_MAX (LOG_MAX * KV_LOG_PAYLOAD_BYTES)

/* ---- superblocks ----------------------------------------------------------------- */

static bool looks_like_superblock(const struct kv_disk_superblock *superblock)
{
    return !memcmp(superblock->magic, KV_SUPERBLOCK_MAGIC, sizeof superblock->magic);
}

static void seal_superblock(struct image_bytes *image, uint64_t block)
{
    struct kv_disk_superblock *const superblock =
        (struct kv_disk_superblock *)image_bytes_change(image, block);
    if (superblock && looks_like_superblock(superblock))
        superblock->digest =
            kv_le64_of(kv_digest(superblock, offsetof(struct kv_disk_superblock, digest), 0));
}

void image_repair_superblocks(struct image_bytes *image)
{
    seal_superblock(image, KV_SUPERBLOCK_A_BLOCK);
    seal_superblock(image, KV_SUPERBLOCK_B_BLOCK);
    seal_superblock(image, image_bytes_count(image) - 1);
}

bool image_superblock(const struct image_bytes *image, struct kv_disk_superblock *superblock,
                      uint64_t *block)
{
    static const uint64_t blocks[] = {KV_SUPERBLOCK_A_BLOCK, KV_SUPERBLOCK_B_BLOCK};
    bool found = false;
    for (size_t i = 0; i < 2; i++) {
        struct kv_disk_superblock copy;
        memcpy(&copy, image_bytes_at(image, blocks[i], 1), sizeof copy);
        if (!looks_like_superblock(&copy) || kv_le32_get(copy.version) != KV_FORMAT_VERSION)
            continue;
        if (found && kv_le64_get(copy.sequence) <= kv_le64_get(superblock->sequence))
            continue;
        found = true;
        *superblock = copy;
        *block = blocks[i];
    }
    return found;
}

static size_t node_bytes_of(const struct kv_disk_superblock *superblock)
{
    const size_t bytes = kv_le32_get(superblock->node_bytes);
    return bytes >= KV_NODE_BYTES_MIN && bytes <= KV_NODE_BYTES_MAX ? bytes : 0;
}

/* ---- the page map ------------------------------------------------------------------ */

struct places {
    const struct image_bytes *image;
    struct image_place *list;
    size_t count, most;
};

static void find_below(struct places *places, int level, uint64_t index, uint64_t ptr_block,
                       uint32_t ptr_at)
{
    struct image_place place = {
        .level = level, .index = index, .ptr_block = ptr_block, .ptr_at = ptr_at};
    memcpy(&place.ptr, image_bytes_at(places->image, ptr_block, 1) + ptr_at, sizeof place.ptr);
    const uint64_t block = kv_le64_get(place.ptr.block);
    const uint32_t length = kv_le32_get(place.ptr.length_bytes);
    if (!block || !length || length > KV_NODE_BYTES_MAX || places->count == places->most ||
        !image_bytes_at(places->image, block, kv_blocks_for(length)))
        return;
    places->list[places->count++] = place;
    for (unsigned i = 0; level >= 0 && i < KV_MAP_FANOUT; i++)
        find_below(places, level - 1, index * KV_MAP_FANOUT + i, block,
                   i * (uint32_t)sizeof place.ptr);
}

size_t image_places(const struct image_bytes *image, struct image_place *list, size_t most)
{
    struct places places = {.image = image, .list = list, .most = most};
    struct kv_disk_superblock superblock;
    uint64_t block;
    if (!image_superblock(image, &superblock, &block))
        return 0;
    const uint32_t depth = kv_le32_get(superblock.map_depth);
    if (depth > 0 && depth <= KV_MAP_DEPTH_MAX)
        find_below(&places, (int)depth - 1, 0, block,
                   offsetof(struct kv_disk_superblock, map_root));
    return places.count;
}

static void write_ptr(struct image_bytes *image, const struct image_place *place,
                      const struct kv_disk_ptr *ptr)
{
    memcpy(image_bytes_change(image, place->ptr_block) + place->ptr_at, ptr, sizeof *ptr);
}

/* The pointer as it is now: an earlier change may have moved what it names. */
static struct kv_disk_ptr read_ptr(const struct image_bytes *image, const struct image_place *place)
{
    struct kv_disk_ptr ptr;
    memcpy(&ptr, image_bytes_at(image, place->ptr_block, 1) + place->ptr_at, sizeof ptr);
    return ptr;
}

static const uint8_t *stored_at(const struct image_bytes *image, const struct kv_disk_ptr *ptr)
{
    return image_bytes_at(image, kv_le64_get(ptr->block),
                          kv_blocks_for(kv_le32_get(ptr->length_bytes)));
}

static void seal_ptr(struct image_bytes *image, const struct image_place *place)
{
    struct kv_disk_ptr ptr = read_ptr(image, place);
    const uint64_t identity =
        place->level < 0 ? place->index : KV_MAP_ID((unsigned)place->level, place->index);
    const uint8_t *const stored = stored_at(image, &ptr);
    if (!stored)
        return;
    ptr.digest = kv_le64_of(kv_digest(stored, kv_le32_get(ptr.length_bytes),
                                      kv_digest_seed(identity, kv_le64_get(ptr.birth_epoch))));
    write_ptr(image, place, &ptr);
}

/* ---- pages ------------------------------------------------------------------------- */

bool image_page_read(const struct image_bytes *image, const struct image_place *place,
                     uint8_t *node, size_t node_bytes)
{
    const size_t head = sizeof(struct kv_disk_node);
    const struct kv_disk_ptr ptr = read_ptr(image, place);
    const uint8_t *const stored = stored_at(image, &ptr);
    const uint32_t length = kv_le32_get(ptr.length_bytes);
    if (!stored || length < head || length > node_bytes ||
        kv_codec_unpack(ptr.codec, stored + head, length - head, node + head, node_bytes - head))
        return false;
    memcpy(node, stored, head);
    return true;
}

/* Some blocks behind all that is in use, which nobody will miss. */
static uint64_t spare_blocks(const struct image_bytes *image, const struct image_place *place,
                             uint64_t count)
{
    const uint64_t used = image_bytes_count(image) - 1;
    const uint64_t wanted = (place->index % 64 + 1) * (KV_NODE_BYTES_MAX / KV_BLOCK_BYTES);
    return used > wanted + count ? used - wanted : 0;
}

void image_page_write(struct image_bytes *image, const struct image_place *place, uint8_t *node,
                      size_t node_bytes)
{
    uint8_t packed[KV_NODE_BYTES_MAX], scratch[KV_NODE_BYTES_MAX];
    struct kv_disk_superblock superblock;
    uint64_t superblock_at;
    if (!image_superblock(image, &superblock, &superblock_at))
        return;
    struct kv_disk_ptr ptr = read_ptr(image, place);
    /* Only what is a node can be stored without its slots. */
    const uint64_t features = kv_le64_get(superblock.feature_incompat);
    const bool is_node = !kv_node_validate(node, node_bytes, kv_node_page_id(node));
    const struct kv_stored_form form = {
        .codec = {.codec = ptr.codec <= KV_CODEC_ZSTD ? ptr.codec : 0},
        .dense = features & KV_FEATURE_INCOMPAT_DENSE,
        .bare = is_node && (features & KV_FEATURE_INCOMPAT_BARE)};
    enum kv_codec used;
    const size_t length = kv_stored_page_pack(
        node, node_bytes, form, kv_superblock_log_id(&superblock), scratch, packed, &used);
    if (kv_blocks_for(length) > kv_blocks_for(kv_le32_get(ptr.length_bytes))) {
        const uint64_t block = spare_blocks(image, place, kv_blocks_for(length));
        if (!block)
            return;
        ptr.block = kv_le64_of(block);
    }
    if (!image_bytes_write(image, kv_le64_get(ptr.block), packed, length))
        return;
    ptr.length_bytes = kv_le32_of((uint32_t)length);
    ptr.codec = (uint8_t)used;
    write_ptr(image, place, &ptr);
}

static void seal_blob_ref(const struct image_bytes *image, uint8_t *at)
{
    struct kv_disk_blob_ref ref;
    memcpy(&ref, at, sizeof ref);
    const uint32_t length = kv_le32_get(ref.ptr.length_bytes);
    const uint8_t *const stored = stored_at(image, &ref.ptr);
    if (!stored || !length || length > KV_BLOB_MAX)
        return;
    const uint64_t seed =
        kv_digest_seed(kv_le64_get(ref.ptr.block), kv_le64_get(ref.ptr.birth_epoch));
    ref.ptr.digest = kv_le64_of(kv_digest(stored, length, seed));
    memcpy(at, &ref, sizeof ref);
}

/* Seal the references that a leaf cell's value ends with; returns whether there are any. */
static bool seal_value(const struct image_bytes *image, uint8_t *value, size_t length, uint8_t kind)
{
    const size_t size = sizeof(struct kv_disk_blob_ref);
    if ((kind != KV_VALUE_REF && kind != KV_VALUE_LARGE) || length < size)
        return false;
    for (size_t at = kind == KV_VALUE_REF ? length - size : 0; at + size <= length; at += size)
        seal_blob_ref(image, value + at);
    return true;
}

static uint32_t head_of(const uint8_t *key, size_t length)
{
    uint32_t head = 0;
    memcpy(&head, key, length < sizeof head ? length : sizeof head);
    return __builtin_bswap32(head);
}

/* One slot; returns the bytes of its cell, and whether the node was changed. */
static size_t mend_slot(const struct image_bytes *image, uint8_t *node, size_t node_bytes,
                        unsigned index, bool plausible, bool *changed)
{
    struct kv_disk_node *const header = (struct kv_disk_node *)node;
    struct kv_disk_slot *const slot = (struct kv_disk_slot *)(node + sizeof *header) + index;
    const size_t offset = kv_le16_get(slot->offset);
    const size_t key_bytes = kv_le16_get(slot->key_bytes);
    size_t length =
        (header->level ? sizeof(struct kv_disk_inner_cell) : sizeof(struct kv_disk_leaf_cell));
    if (offset + length + key_bytes > node_bytes)
        return 0;
    const uint32_t head = head_of(node + offset + length, key_bytes);
    if (plausible && head != kv_le32_get(slot->head)) {
        slot->head = kv_le32_of(head);
        *changed = true;
    }
    length += key_bytes;
    if (header->level)
        return length;
    const struct kv_disk_leaf_cell *const cell = (struct kv_disk_leaf_cell *)(node + offset);
    const size_t value_bytes = kv_le16_get(cell->value_bytes);
    if (offset + length + value_bytes > node_bytes)
        return 0;
    if (seal_value(image, node + offset + length, value_bytes, cell->kind))
        *changed = true;
    return length + value_bytes;
}

static void mend_page(struct image_bytes *image, const struct image_place *place, size_t node_bytes,
                      bool plausible)
{
    uint8_t node[KV_NODE_BYTES_MAX];
    if (!image_page_read(image, place, node, node_bytes))
        return;
    struct kv_disk_node *const header = (struct kv_disk_node *)node;
    const unsigned count = kv_le16_get(header->slot_count);
    const size_t room = (node_bytes - sizeof *header) / sizeof(struct kv_disk_slot);
    bool changed = false;
    size_t used = 0;
    for (unsigned i = 0; i < count && i < room; i++)
        used += mend_slot(image, node, node_bytes, i, plausible, &changed);
    const size_t heap = node_bytes - kv_le16_get(header->low_bytes) -
                        kv_le16_get(header->high_bytes) - kv_le32_get(header->heap_start);
    if (plausible && heap - used != kv_le32_get(header->garbage_bytes)) {
        header->garbage_bytes = kv_le32_of((uint32_t)(heap - used));
        changed = true;
    }
    const struct kv_disk_ptr ptr = read_ptr(image, place);
    if (plausible && memcmp(&header->epoch, &ptr.birth_epoch, sizeof ptr.birth_epoch) != 0) {
        header->epoch = ptr.birth_epoch;
        changed = true;
    }
    if (changed)
        image_page_write(image, place, node, node_bytes);
}

static void repair_pages(struct image_bytes *image, size_t node_bytes, bool plausible)
{
    struct image_place *const places = malloc(PLACES_MAX * sizeof *places);
    KV_ASSERT(places);
    const size_t count = image_places(image, places, PLACES_MAX);
    for (size_t i = count; i-- > 0;) {
        if (places[i].level < 0 && node_bytes)
            mend_page(image, &places[i], node_bytes, plausible);
        seal_ptr(image, &places[i]);
    }
    free(places);
}

/* ---- bitmaps ------------------------------------------------------------------------- */

#define COPY_BYTES ((size_t)KV_GROUP_COPY_BLOCKS * KV_BLOCK_BYTES)

/* Seal one copy; its epoch, or 0 when it is none. */
static uint64_t seal_bitmap(struct image_bytes *image, uint64_t block, uint64_t log_id,
                            uint64_t *digest)
{
    if (!image_bytes_at(image, block, KV_GROUP_COPY_BLOCKS))
        return 0;
    uint8_t *const bytes = image_bytes_change(image, block);
    struct kv_disk_bitmap_header *const header = (struct kv_disk_bitmap_header *)bytes;
    if (kv_le32_get(header->magic) != KV_BITMAP_MAGIC)
        return 0;
    const uint8_t *const bits = bytes + KV_BLOCK_BYTES;
    uint32_t used = 0;
    for (size_t i = 0; i < KV_GROUP_BITMAP_BYTES; i += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, bits + i, sizeof word);
        used += (uint32_t)__builtin_popcountll(word);
    }
    header->used_count = kv_le32_of(used);
    header->bits_digest = kv_le64_of(kv_digest(bits, KV_GROUP_BITMAP_BYTES, 0));
    *digest = kv_digest(header, offsetof(struct kv_disk_bitmap_header, digest), log_id);
    header->digest = kv_le64_of(*digest);
    return kv_le64_get(header->epoch);
}

static void repair_bitmaps(struct image_bytes *image, uint64_t superblock_block)
{
    struct kv_disk_superblock *const superblock =
        (struct kv_disk_superblock *)image_bytes_change(image, superblock_block);
    const uint64_t log_id = kv_superblock_log_id(superblock);
    const uint64_t first = kv_le64_get(superblock->group_first_block);
    const uint64_t epoch = kv_le64_get(superblock->epoch);
    kv_le64 best[2] = {{{0}}, {{0}}}; /* epoch, digest: of one group, these images have no more */
    for (unsigned copy = 0; copy < 2; copy++) {
        uint64_t digest = 0;
        const uint64_t stamp =
            seal_bitmap(image, first + copy * KV_GROUP_COPY_BLOCKS, log_id, &digest);
        if (stamp && stamp <= epoch && stamp > kv_le64_get(best[0])) {
            best[0] = kv_le64_of(stamp);
            best[1] = kv_le64_of(digest);
        }
    }
    superblock->bitmap_digest = kv_le64_of(kv_digest(best, sizeof best, 0));
}

/* ---- the log --------------------------------------------------------------------------- */

struct log_ring {
    struct image_bytes *image;
    uint64_t first, count, tail, tail_link, log_id, end;
};

static uint8_t *log_block(const struct log_ring *ring, uint64_t position)
{
    return image_bytes_change(ring->image, ring->first + position % ring->count);
}

static struct log_ring ring_of(struct image_bytes *image,
                               const struct kv_disk_superblock *superblock)
{
    struct log_ring ring = {.image = image,
                            .first = kv_le64_get(superblock->log_first_block),
                            .count = kv_le64_get(superblock->log_block_count),
                            .tail = kv_le64_get(superblock->log_tail),
                            .tail_link = kv_le64_get(superblock->log_tail_link),
                            .log_id = kv_superblock_log_id(superblock)};
    ring.end = ring.tail;
    if (!ring.count || !image_bytes_at(image, ring.first, ring.count))
        return ring;
    while (ring.end - ring.tail < LOG_MAX && ring.end - ring.tail < ring.count) {
        const struct kv_disk_log_header *const header =
            (const struct kv_disk_log_header *)log_block(&ring, ring.end);
        if (kv_le32_get(header->magic) != KV_LOG_MAGIC || kv_le64_get(header->position) != ring.end)
            break;
        ring.end++;
    }
    return ring;
}

/* Copy the stream of payloads out of the blocks, or back into them. */
static size_t copy_payloads(const struct log_ring *ring, uint8_t *stream, uint32_t *starts,
                            bool back)
{
    size_t length = 0;
    for (uint64_t position = ring->tail; position < ring->end; position++) {
        uint8_t *const block = log_block(ring, position);
        struct kv_disk_log_header header;
        memcpy(&header, block, sizeof header);
        const size_t payload = kv_min_u64(kv_le32_get(header.payload_bytes), KV_LOG_PAYLOAD_BYTES);
        starts[position - ring->tail] = (uint32_t)length;
        if (back)
            memcpy(block + sizeof header, stream + length, payload);
        else
            memcpy(stream + length, block + sizeof header, payload);
        length += payload;
    }
    starts[ring->end - ring->tail] = (uint32_t)length;
    return length;
}

/* The references to new blobs that a record may hold are sealed where a reader looks. */
static void seal_redo(const struct image_bytes *image, uint8_t *body, size_t length)
{
    enum { HEAD = 16, KIND_REF = 5, KIND_LARGE = 6 }; /* of an operation, kv/batch.h */
    for (size_t at = 0; at + HEAD <= length;) {
        kv_le16 key_bytes;
        kv_le32 value_bytes;
        memcpy(&key_bytes, body + at + 2, sizeof key_bytes);
        memcpy(&value_bytes, body + at + 4, sizeof value_bytes);
        const size_t key = kv_le16_get(key_bytes);
        const size_t value = kv_le32_get(value_bytes);
        const uint8_t kind = body[at];
        at += HEAD + key;
        if (at > length || value > length - at)
            return;
        seal_value(image, body + at, value,
                   kind == KIND_REF     ? KV_VALUE_REF
                   : kind == KIND_LARGE ? KV_VALUE_LARGE
                                        : KV_VALUE_INLINE);
        at += value;
    }
}

static void seal_records(const struct log_ring *ring, uint8_t *stream, size_t length,
                         const uint32_t *starts)
{
    uint64_t block = 0;
    for (size_t at = 0; at + sizeof(struct kv_disk_record_header) <= length;) {
        struct kv_disk_record_header header;
        memcpy(&header, stream + at, sizeof header);
        const size_t body = kv_le32_get(header.length_bytes);
        while (starts[block + 1] <= at)
            block++;
        if (body > length - at - sizeof header)
            return;
        seal_redo(ring->image, stream + at + sizeof header, body);
        header.digest =
            kv_le64_of(kv_digest(stream + at + sizeof header, body, ring->tail + block));
        memcpy(stream + at, &header, sizeof header);
        at += sizeof header + body;
    }
}

/* The first block after a replay carries a digest of a digest: see the head of kv/wal_replay.c. */
static uint64_t link_after(uint64_t link, const struct kv_disk_log_header *header)
{
    if (!kv_le64_get(header->restart))
        return link;
    const kv_le64 bytes = kv_le64_of(link);
    return kv_digest(&bytes, sizeof bytes, KV_LOG_MAGIC);
}

static void seal_log_blocks(const struct log_ring *ring)
{
    uint64_t link = ring->tail_link;
    for (uint64_t position = ring->tail; position < ring->end; position++) {
        uint8_t *const block = log_block(ring, position);
        struct kv_disk_log_header header;
        memcpy(&header, block, sizeof header);
        /* A block at the tail may continue either the superblock's link or its digest. */
        if (position > ring->tail || kv_le64_get(header.link) != link)
            header.link = kv_le64_of(link_after(link, &header));
        header.log_id = kv_le64_of(ring->log_id);
        header.digest = kv_le64_of(0);
        memcpy(block, &header, sizeof header);
        link = kv_digest(block, KV_BLOCK_BYTES, 0);
        header.digest = kv_le64_of(link);
        memcpy(block, &header, sizeof header);
    }
}

static void repair_log(struct image_bytes *image, const struct kv_disk_superblock *superblock)
{
    const struct log_ring ring = ring_of(image, superblock);
    if (ring.end == ring.tail)
        return;
    static uint8_t stream[RECORDS_MAX];
    uint32_t starts[LOG_MAX + 1];
    const size_t length = copy_payloads(&ring, stream, starts, false);
    seal_records(&ring, stream, length, starts);
    copy_payloads(&ring, stream, starts, true);
    seal_log_blocks(&ring);
}

void image_log_append(struct image_bytes *image, const uint8_t *body, size_t length)
{
    struct kv_disk_superblock superblock;
    uint64_t block;
    if (!image_superblock(image, &superblock, &block))
        return;
    const struct log_ring ring = ring_of(image, &superblock);
    const struct kv_disk_record_header record = {.length_bytes = kv_le32_of((uint32_t)length)};
    if (!ring.count || !image_bytes_at(image, ring.first, ring.count) ||
        length > KV_LOG_PAYLOAD_BYTES - sizeof record || ring.end - ring.tail >= LOG_MAX ||
        ring.end - ring.tail >= ring.count)
        return;
    const struct kv_disk_log_header header = {
        .magic = kv_le32_of(KV_LOG_MAGIC),
        .payload_bytes = kv_le32_of((uint32_t)(sizeof record + length)),
        .log_id = kv_le64_of(ring.log_id),
        .position = kv_le64_of(ring.end),
        .durable = kv_le64_of(ring.tail),
        .epoch = kv_le64_of(kv_le64_get(superblock.epoch) + 1),
    };
    uint8_t *const at = log_block(&ring, ring.end);
    memset(at, 0, KV_BLOCK_BYTES);
    memcpy(at, &header, sizeof header);
    memcpy(at + sizeof header, &record, sizeof record);
    memcpy(at + sizeof header + sizeof record, body, length);
}

/* ---- all of it -------------------------------------------------------------------------- */

void image_repair(struct image_bytes *image, bool plausible)
{
    struct kv_disk_superblock superblock;
    uint64_t block;
    if (image_superblock(image, &superblock, &block)) {
        repair_pages(image, node_bytes_of(&superblock), plausible);
        repair_bitmaps(image, block);
        repair_log(image, &superblock);
    }
    image_repair_superblocks(image);
}
