/*
 * tests/faults/damage/sample.c: an image in memory with every kind of block in it.
 *
 * Owns       the recording, the notes of what each block is for, older versions of pages.
 * Invariant  `below` is made from the stored pages alone: what a block holds up is what can not
 *            be reached without it.
 */
#include "sample.h"

#include "kv/check_walk.h"
#include "kv/stored_page.h"

#define LOG_BYTES  (1u << 20)
#define ROUNDS     3u
#define BATCH_KEYS 20u
#define BLOBS_EACH 8u  /* for each codec */
#define LARGE_KEYS 4u  /* values of several blobs */
#define LOG_KEYS   12u /* batches that only the log has */

const char *const role_names[ROLE_COUNT] = {
    [ROLE_FREE] = "free",
    [ROLE_BITMAP_INACTIVE] = "bitmap, inactive copy",
    [ROLE_SUPERBLOCK_A] = "superblock A",
    [ROLE_SUPERBLOCK_B] = "superblock B",
    [ROLE_SUPERBLOCK_BACKUP] = "superblock, backup",
    [ROLE_LOG_DURABLE] = "log, vouched for",
    [ROLE_LOG_END] = "log, its end",
    [ROLE_BITMAP_HEADER] = "bitmap, header",
    [ROLE_BITMAP_BITS] = "bitmap, bits",
    [ROLE_MAP_0] = "page map, level 0",
    [ROLE_MAP_1] = "page map, level 1",
    [ROLE_LEAF] = "leaf",
    [ROLE_INNER] = "inner page",
    [ROLE_REFS_LEAF] = "leaf of the counts",
    [ROLE_REFS_INNER] = "inner page of the counts",
    [ROLE_BLOB_NONE] = "blob, not packed",
    [ROLE_BLOB_LZ4] = "blob, lz4",
    [ROLE_BLOB_ZSTD] = "blob, zstd",
};

static void must_work(int err, const char *what)
{
    if (err)
        printf("%s: %s\n", what, strerror(-err));
    KV_ASSERT(err == 0);
}

static void *must_have(void *memory)
{
    KV_ASSERT(memory);
    return memory;
}

/* ---- content ------------------------------------------------------------------------- */

static struct sample_key *add_key(struct sample *sample)
{
    KV_ASSERT(sample->key_count < SAMPLE_KEYS_MAX);
    return &sample->keys[sample->key_count++];
}

static void put_value(struct kv_batch *batch, const struct sample_key *key)
{
    uint8_t *value = must_have(malloc(key->length));
    test_fill(value, key->length, key->identity);
    must_work(kv_batch_put(batch, key->key, key->key_len, value, key->length), "put");
    free(value);
}

/* Change every `step`th value of the first `count` keys, in small batches that are durable. */
static void put_round(struct sample *sample, struct kv_store *store, size_t count, unsigned step,
                      unsigned round)
{
    struct kv_batch *batch = must_have(kv_batch_new());
    for (size_t i = 0; i < count; i += step) {
        struct sample_key *key = &sample->keys[i];
        key->identity = i + 100000ull * round;
        key->length = 30 + (i * 7 + round * 13) % 120;
        put_value(batch, key);
        if (kv_batch_count(batch) < BATCH_KEYS && i + step < count)
            continue;
        must_work(kv_apply(store, batch, KV_APPLY_SYNC, NULL), "apply");
        kv_batch_clear(batch);
    }
    kv_batch_free(batch);
}

/* A blob under one key, or under two: then it is counted. */
static void put_blob(struct sample *sample, struct kv_store *store, enum kv_codec codec,
                     unsigned number, size_t length, unsigned holders)
{
    uint8_t *bytes = must_have(malloc(length));
    const struct kv_codec_spec spec = {.codec = codec};
    struct kv_blob_ref ref;
    size_t written;
    const uint64_t identity = 5000000 + number;
    /* The first half packs well; the whole of it must, for a codec to be used. */
    test_fill(bytes, length, identity);
    if (codec != KV_CODEC_NONE)
        memset(bytes + length / 4, (int)number, length - length / 4);
    must_work(kv_blob_write(store, bytes, length, &spec, &ref, &written), "blob");
    KV_ASSERT(written == length);
    free(bytes);
    struct kv_batch *batch = must_have(kv_batch_new());
    for (unsigned i = 0; i < holders; i++) {
        struct sample_key *key = add_key(sample);
        key->key_len =
            (size_t)snprintf(key->key, sizeof key->key, "blob %d %04u %u", codec, number, i);
        key->is_blob = true;
        key->identity = identity;
        key->length = length;
        must_work(kv_batch_put_blob(batch, key->key, key->key_len, "head", 4, &ref,
                                    i ? KV_BLOB_SHARED : KV_BLOB_NEW),
                  "put blob");
    }
    must_work(kv_apply(store, batch, 0, NULL), "apply");
    kv_batch_free(batch);
}

static void put_blobs(struct sample *sample, struct kv_store *store)
{
    for (unsigned codec = KV_CODEC_NONE; codec <= KV_CODEC_ZSTD; codec++)
        for (unsigned i = 0; i < BLOBS_EACH; i++)
            put_blob(sample, store, (enum kv_codec)codec, codec * 100 + i, 6000 + 5000 * (i % 4),
                     1 + i % 2);
    /* With small pages enough that the counts have an inner page. */
    const unsigned shared = sample->kind.node_bytes == 4096 ? 180 : 10;
    for (unsigned i = 0; i < shared; i++)
        put_blob(sample, store, KV_CODEC_NONE, 1000 + i, 1500, 2);
}

static void put_large(struct sample *sample, struct kv_store *store)
{
    struct kv_batch *batch = must_have(kv_batch_new());
    for (unsigned i = 0; i < LARGE_KEYS; i++) {
        struct sample_key *key = add_key(sample);
        key->key_len = (size_t)snprintf(key->key, sizeof key->key, "large %u", i);
        key->identity = 7000000 + i;
        key->length = 140000 + 10000 * i;
        put_value(batch, key);
    }
    must_work(kv_apply(store, batch, 0, NULL), "apply");
    kv_batch_free(batch);
}

/* Batches for the log, each flushed by itself: a new key, and a key that counts them. */
static void put_log(struct sample *sample, struct kv_store *store)
{
    struct kv_batch *batch = must_have(kv_batch_new());
    for (unsigned i = 0; i < LOG_KEYS; i++) {
        struct sample_key *key = add_key(sample);
        key->key_len = (size_t)snprintf(key->key, sizeof key->key, "log %03u", i);
        key->identity = 8000000 + i;
        key->length = 60;
        key->in_log = true;
        kv_batch_clear(batch);
        put_value(batch, key);
        must_work(kv_apply(store, batch, KV_APPLY_SYNC, NULL), "apply");
    }
    kv_batch_free(batch);
    sample->log_keys = LOG_KEYS;
}

/* ---- older versions ------------------------------------------------------------------ */

struct snapshot {
    struct sample *sample;
    struct kv_store *store;
};

static void read_blocks(struct kv_store *store, uint64_t block, uint32_t count, uint8_t *out)
{
    uint8_t *io = must_have(kv_device_alloc((size_t)count * KV_BLOCK_BYTES));
    must_work(kv_device_read(store->device, block, count, io), "read");
    memcpy(out, io, (size_t)count * KV_BLOCK_BYTES);
    free(io);
}

static uint64_t map_identity(int level, uint64_t index)
{
    return KV_MAP_ID((unsigned)level, index);
}

/* kv_pagemap_visit_fn: keep a copy of each map block and page. */
static int keep_version(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                        int error)
{
    struct snapshot *snapshot = context;
    struct sample *sample = snapshot->sample;
    must_work(error, "map");
    if (sample->version_count == sample->version_capacity) {
        sample->version_capacity = sample->version_capacity ? 2 * sample->version_capacity : 256;
        sample->versions = must_have(
            realloc(sample->versions, sample->version_capacity * sizeof *sample->versions));
    }
    struct sample_version *version = &sample->versions[sample->version_count++];
    version->role = level < 0 ? ROLE_LEAF : ROLE_MAP_0;
    version->identity = level < 0 ? index : map_identity(level, index);
    version->count = (uint32_t)kv_blocks_for(kv_le32_get(ptr->length_bytes));
    version->bytes = must_have(malloc((size_t)version->count * KV_BLOCK_BYTES));
    read_blocks(snapshot->store, kv_le64_get(ptr->block), version->count, version->bytes);
    return 0;
}

static void keep_versions(struct sample *sample, struct kv_store *store)
{
    struct snapshot snapshot = {.sample = sample, .store = store};
    must_work(kv_checkpoint(store), "checkpoint");
    must_work(kv_pagemap_walk(store->map, keep_version, &snapshot), "walk");
}

const struct sample_version *sample_older_version(const struct sample *sample, uint64_t block)
{
    const struct sample_block *info = &sample->blocks[block];
    if (info->role < ROLE_MAP_0 || info->role > ROLE_REFS_INNER)
        return NULL;
    for (size_t i = 0; i < sample->version_count; i++) {
        const struct sample_version *version = &sample->versions[i];
        if (version->identity == info->identity)
            return version;
    }
    return NULL;
}

const uint8_t *sample_older_content(const struct sample *sample, uint64_t block, unsigned back)
{
    static const uint8_t zeros[KV_BLOCK_BYTES];
    unsigned newer = 0;
    for (size_t i = recorder_event_count(sample->recorder); i-- > 0;) {
        const struct recorded_event event = recorder_event(sample->recorder, i);
        if (event.is_flush || event.block != block)
            continue;
        if (newer++ == back + 1)
            return event.bytes ? event.bytes : zeros;
    }
    return NULL;
}

/* ---- what each block is for --------------------------------------------------------------------
 */

static void mark(struct sample *sample, uint64_t block, uint64_t bytes, enum role role,
                 uint64_t identity)
{
    const uint32_t count = (uint32_t)kv_blocks_for(bytes);
    for (uint32_t i = 0; i < count; i++) {
        KV_ASSERT(block + i < SAMPLE_BLOCKS);
        struct sample_block *info = &sample->blocks[block + i];
        *info = (struct sample_block){.role = role,
                                      .used_bytes = (uint32_t)kv_min_u64(
                                          bytes - (uint64_t)i * KV_BLOCK_BYTES, KV_BLOCK_BYTES),
                                      .first = block,
                                      .count = count,
                                      .identity = identity};
    }
}

static void hang_key(struct sample *sample, uint64_t block, uint32_t count, size_t key)
{
    for (uint32_t i = 0; i < count; i++)
        sample->below[block + i][key / 64] |= 1ull << key % 64;
}

bool sample_is_below(const struct sample *sample, uint64_t block, size_t key)
{
    return sample->below[block][key / 64] >> key % 64 & 1;
}

static void map_superblocks_and_bitmaps(struct sample *sample, struct kv_store *store)
{
    const struct kv_disk_superblock *superblock = &store->checkpoint.superblock;
    mark(sample, KV_SUPERBLOCK_A_BLOCK, KV_BLOCK_BYTES, ROLE_SUPERBLOCK_A, 0);
    mark(sample, KV_SUPERBLOCK_B_BLOCK, KV_BLOCK_BYTES, ROLE_SUPERBLOCK_B, 0);
    mark(sample, SAMPLE_BLOCKS - 1, KV_BLOCK_BYTES, ROLE_SUPERBLOCK_BACKUP, 0);
    sample->superblock_sequence = kv_le64_get(superblock->sequence);
    const uint64_t group = kv_le64_get(superblock->group_first_block);
    struct kv_disk_bitmap_header headers[2];
    for (unsigned copy = 0; copy < 2; copy++)
        read_blocks(store, group + copy * KV_GROUP_COPY_BLOCKS, 1, (uint8_t *)&headers[copy]);
    const unsigned active = kv_le64_get(headers[1].epoch) > kv_le64_get(headers[0].epoch);
    const uint64_t here = group + active * KV_GROUP_COPY_BLOCKS;
    const uint64_t other = group + !active * KV_GROUP_COPY_BLOCKS;
    mark(sample, here, KV_BLOCK_BYTES, ROLE_BITMAP_HEADER, 0);
    mark(sample, here + 1, (uint64_t)(KV_GROUP_COPY_BLOCKS - 1) * KV_BLOCK_BYTES, ROLE_BITMAP_BITS,
         0);
    mark(sample, other, (uint64_t)KV_GROUP_COPY_BLOCKS * KV_BLOCK_BYTES, ROLE_BITMAP_INACTIVE, 0);
}

/* The log's chain, by its positions alone: the image is sound. */
static void map_log(struct sample *sample, struct kv_store *store)
{
    const struct kv_disk_superblock *superblock = &store->checkpoint.superblock;
    const uint64_t first = kv_le64_get(superblock->log_first_block);
    const uint64_t count = kv_le64_get(superblock->log_block_count);
    const uint64_t tail = kv_le64_get(superblock->log_tail);
    uint64_t end = tail, durable = 0;
    for (;; end++) {
        uint8_t bytes[KV_BLOCK_BYTES];
        struct kv_disk_log_header header;
        read_blocks(store, first + end % count, 1, bytes);
        memcpy(&header, bytes, sizeof header);
        if (kv_le32_get(header.magic) != KV_LOG_MAGIC || kv_le64_get(header.position) != end)
            break;
        durable = kv_max_u64(durable, kv_le64_get(header.durable));
    }
    for (uint64_t position = tail; position < end; position++)
        mark(sample, first + position % count, KV_BLOCK_BYTES,
             position < durable ? ROLE_LOG_DURABLE : ROLE_LOG_END, position);
    /* One batch a block: each was flushed by itself. */
    sample->log_keys_durable = (unsigned)(kv_max_u64(durable, tail) - tail);
}

struct mapping {
    struct sample *sample;
    struct kv_store *store;
};

static int note_map_block(void *context, int level, uint64_t index, const struct kv_disk_ptr *ptr,
                          int error)
{
    struct mapping *mapping = context;
    must_work(error, "map");
    if (level >= 0)
        mark(mapping->sample, kv_le64_get(ptr->block), KV_BLOCK_BYTES,
             level ? ROLE_MAP_1 : ROLE_MAP_0, map_identity(level, index));
    return 0;
}

/* The blocks on the way to a page: itself, those of pages above it, and the map blocks of all. */
struct path {
    uint64_t blocks[512];
    size_t count;
};

static void path_add(struct path *path, uint64_t block, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        KV_ASSERT(path->count < sizeof path->blocks / sizeof path->blocks[0]);
        path->blocks[path->count++] = block + i;
    }
}

static uint64_t find_map_block(const struct sample *sample, uint64_t identity)
{
    for (uint64_t i = 0; i < SAMPLE_BLOCKS; i++) {
        const enum role role = sample->blocks[i].role;
        if ((role == ROLE_MAP_0 || role == ROLE_MAP_1) && sample->blocks[i].identity == identity)
            return i;
    }
    return 0;
}

static size_t find_key(const struct sample *sample, const uint8_t *key, size_t key_len)
{
    for (size_t i = 0; i < sample->key_count; i++)
        if (sample->keys[i].key_len == key_len && !memcmp(sample->keys[i].key, key, key_len))
            return i;
    return SIZE_MAX;
}

static void map_blob(struct sample *sample, struct kv_store *store, const struct kv_blob_ref *ref,
                     size_t key)
{
    static const enum role roles[] = {ROLE_BLOB_NONE, ROLE_BLOB_LZ4, ROLE_BLOB_ZSTD};
    struct kv_disk_blob_ref disk;
    uint64_t block;
    uint32_t count;
    memcpy(&disk, ref, sizeof disk);
    must_work(kv_blobs_extent(&store->blobs, ref, &block, &count), "extent");
    mark(sample, block, kv_le32_get(disk.ptr.length_bytes), roles[disk.ptr.codec], block);
    hang_key(sample, block, count, key);
}

static void map_leaf(struct sample *sample, struct kv_store *store, const uint8_t *leaf,
                     const struct path *path)
{
    for (unsigned slot = 0; slot < kv_node_count(leaf); slot++) {
        uint8_t key[KV_KEY_MAX], kind;
        const size_t key_len = kv_node_key(leaf, store->node_bytes, slot, key);
        const struct kv_bytes value = kv_node_value(leaf, slot, &kind);
        const size_t number = find_key(sample, key, key_len);
        KV_ASSERT(number < sample->key_count);
        for (size_t i = 0; i < path->count; i++)
            hang_key(sample, path->blocks[i], 1, number);
        struct kv_blob_ref ref;
        for (size_t at = 0; kv_value_next_ref(kind, value, &at, &ref);)
            map_blob(sample, store, &ref, number);
    }
}

static void map_page(struct sample *sample, struct kv_store *store, uint8_t tree, uint64_t page_id,
                     struct path *path)
{
    const size_t before = path->count;
    struct kv_disk_ptr ptr;
    uint8_t *node = must_have(kv_device_alloc(store->node_bytes));
    /* The durable place: of a store that only replayed, pages were not written since. */
    must_work(kv_pagemap_get(store->map, page_id, &ptr), "map");
    must_work(kv_pager_read_stored(store->pager, page_id, &ptr, node), "page");
    const uint64_t block = kv_le64_get(ptr.block);
    const uint32_t length = kv_le32_get(ptr.length_bytes);
    const bool leaf = kv_node_level(node) == 0;
    mark(sample, block, length,
         tree == KV_TREE_KEYS ? (leaf ? ROLE_LEAF : ROLE_INNER)
                              : (leaf ? ROLE_REFS_LEAF : ROLE_REFS_INNER),
         page_id);
    path_add(path, block, (uint32_t)kv_blocks_for(length));
    const uint64_t index = page_id / KV_MAP_FANOUT;
    path_add(path, find_map_block(sample, map_identity(0, index)), 1);
    const uint64_t above = find_map_block(sample, map_identity(1, index / KV_MAP_FANOUT));
    if (above)
        path_add(path, above, 1);
    for (unsigned slot = 0; !leaf && slot < kv_node_count(node); slot++)
        map_page(sample, store, tree, kv_node_child(node, slot), path);
    if (leaf && tree == KV_TREE_KEYS)
        map_leaf(sample, store, node, path);
    path->count = before;
    free(node);
}

void sample_map(struct sample *sample, struct kv_store *store)
{
    struct mapping mapping = {.sample = sample, .store = store};
    struct path path = {.count = 0};
    memset(sample->blocks, 0, sizeof sample->blocks);
    memset(sample->below, 0, SAMPLE_BLOCKS * sizeof *sample->below);
    map_superblocks_and_bitmaps(sample, store);
    map_log(sample, store);
    must_work(kv_pagemap_walk(store->map, note_map_block, &mapping), "walk");
    for (uint8_t tree = 0; tree < KV_TREE_COUNT; tree++)
        map_page(sample, store, tree, store->trees[tree].root, &path);
}

/* ---- new, free ----------------------------------------------------------------------------------
 */

struct kv_device *sample_device(const struct sample *sample)
{
    const struct crash_choice all = {.kept = NULL};
    return crash_walk_state(&sample->walk, &all);
}

static void fill(struct sample *sample, struct kv_store *store)
{
    const size_t count = sample->kind.node_bytes == 4096 ? 2400 : 2600;
    for (size_t i = 0; i < count; i++) {
        struct sample_key *key = add_key(sample);
        key->key_len = (size_t)snprintf(key->key, sizeof key->key, "key %06zu", i);
    }
    put_round(sample, store, count, 1, 1);
    put_blobs(sample, store);
    put_large(sample, store);
    put_round(sample, store, count, 2, 2);
    keep_versions(sample, store);
    /* Another third changes, and pages split, so that inner ones change too. */
    put_round(sample, store, count, 3, 3);
    struct kv_batch *batch = must_have(kv_batch_new());
    for (unsigned i = 0; i < 240; i++) {
        struct sample_key *key = add_key(sample);
        key->key_len = (size_t)snprintf(key->key, sizeof key->key, "key %06u+", i * 10);
        key->identity = 9000000 + i;
        key->length = 150;
        kv_batch_clear(batch);
        put_value(batch, key);
        must_work(kv_apply(store, batch, 0, NULL), "apply");
    }
    kv_batch_free(batch);
    for (unsigned i = 0; i < 12; i++) /* and the counts */
        put_blob(sample, store, KV_CODEC_NONE, 2000 + i, 1500, 2);
    must_work(kv_checkpoint(store), "checkpoint");
}

struct sample *sample_new(const struct sample_kind *kind)
{
    struct sample *sample = must_have(calloc(1, sizeof *sample));
    sample->kind = *kind;
    sample->below = must_have(calloc(SAMPLE_BLOCKS, sizeof *sample->below));
    sample->recorder = recorder_new(memory_device_new(SAMPLE_BLOCKS));
    struct kv_device *device = recorder_device(sample->recorder);
    test_create_on(device, kind->node_bytes, kind->codec, LOG_BYTES);
    struct kv_store *store = test_open_on(device);
    fill(sample, store);
    if (kind->clean) {
        must_work(kv_close(store), "close");
    } else {
        put_log(sample, store);
        kv_abandon(store);
    }
    crash_walk_init(&sample->walk, sample->recorder);
    crash_walk_advance(&sample->walk, recorder_event_count(sample->recorder));

    const struct kv_open_options options = {.read_only = true,
                                            .memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .log = test_log_nothing,
                                            .device = sample_device(sample)};
    must_work(kv_open("sample", &options, &store, NULL), "open");
    sample_map(sample, store);
    for (size_t i = 0; i < sample->key_count; i++)
        must_work(sample_read(sample, store, i), "a key of the sound sample");
    kv_abandon(store);
    return sample;
}

void sample_free(struct sample *sample)
{
    for (size_t i = 0; i < sample->version_count; i++)
        free(sample->versions[i].bytes);
    free(sample->versions);
    crash_walk_release(&sample->walk);
    recorder_free(sample->recorder);
    free(sample->below);
    free(sample);
}

/* ---- reading
 * -------------------------------------------------------------------------------------- */

static int compare_blob(const struct sample_key *key, struct kv_store *store, const uint8_t *value,
                        size_t length)
{
    struct kv_blob_ref ref;
    if (length != 4 + sizeof ref || memcmp(value, "head", 4) != 0)
        return 1;
    memcpy(&ref, value + 4, sizeof ref);
    if (kv_blob_length(&ref) != key->length)
        return 1;
    uint8_t *got = must_have(malloc(2 * key->length)), *want = got + key->length;
    int err = kv_blob_read(store, &ref, 0, got, key->length);
    if (!err) {
        test_fill(want, key->length, key->identity);
        const unsigned number = (unsigned)(key->identity - 5000000);
        if (number >= 100 && number < 300)
            memset(want + key->length / 4, (int)number, key->length - key->length / 4);
        err = memcmp(got, want, key->length) != 0;
    }
    free(got);
    return err;
}

int sample_read(const struct sample *sample, struct kv_store *store, size_t number)
{
    static uint8_t got[256 << 10], want[256 << 10];
    const struct sample_key *key = &sample->keys[number];
    size_t length;
    const int err = kv_get(store, key->key, key->key_len, got, sizeof got, &length);
    if (err)
        return err;
    if (key->is_blob)
        return compare_blob(key, store, got, length);
    if (length != key->length)
        return 1;
    test_fill(want, length, key->identity);
    return memcmp(got, want, length) != 0;
}
