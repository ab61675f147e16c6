/*
 * kv/scrub.c: read all that is in use and verify its checksums, while the store is at work.
 *
 * Owns       nothing; what it has seen so far lives on its stack and heap.
 * Invariant  a finding is no race: what only a checkpoint changes is read under
 *            checkpoint.mutex, some blocks at a time. Pages and blobs are read under no lock;
 *            one that fails is looked up again, and only if it still is where it was, it is
 *            read once more with writers and checkpoints held off. Then a page can move once at
 *            most, by being written early, so its pointer before and after the reading tells;
 *            and a blob that a key holds can not be freed.
 * Locks      checkpoint.mutex for a step, writer for the second reading only. Nothing is held
 *            while it pauses, reports or tells of its progress.
 *
 * Coverage. Pages are visited by their ids. A key may meanwhile move from a page that was not
 * reached yet to one that was passed. So after the first round a checkpoint is made, and pages
 * that were written since the beginning are visited again, for the blobs that were not seen.
 */
#include "kv/check_walk.h"
#include "kv/codec.h"
#include "kv/error.h"

#include <stdarg.h>
#include <time.h>

#define LOG_STEP_BLOCKS 64u         /* of the log, under one hold of checkpoint.mutex */
#define PAUSE_NS        50000000ull /* progress is told at least so often */
#define BURST_NS        100000000ull
#define LOOKUPS_MAX     8u  /* of a page that keeps moving, before writers are held off */
#define KEY_TEXT_BYTES  96u /* of a key in a report */
#define SEEN_BYTES      (KV_GROUP_BLOCKS / 8u)
#define NANOSECONDS     1000000000ull

struct scrub {
    struct kv_store *store;
    const struct kv_scrub_options *options;
    struct kv_scrub_result *result;
    uint64_t total;   /* bytes, a guess */
    uint64_t free_ns; /* monotonic; when the next byte may be read */
    uint64_t first_epoch;
    bool again;          /* the second round */
    bool map_is_damaged; /* a map block was a finding */
    uint8_t *node;       /* node_bytes, aligned */
    uint8_t *value;      /* node_bytes */
    uint64_t **seen;     /* for each group NULL, or a bit for each block that begins a blob */
    uint64_t first_block;
    uint32_t group_count;
};

/* ---- telling ------------------------------------------------------------------------- */

static void report(struct scrub *scrub, const char *what, int error, struct kv_bytes key,
                   const char *format, ...) KV_PRINTF(5, 6);

static void report(struct scrub *scrub, const char *what, int error, struct kv_bytes key,
                   const char *format, ...)
{
    char text[320];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length >= 0 && (size_t)length < sizeof text)
        snprintf(text + length, sizeof text - (size_t)length, ": %s", strerror(-error));
    scrub->result->findings++;
    (void)atomic_fetch_add_explicit(&scrub->store->scrub_findings, 1, memory_order_relaxed);
    const struct kv_scrub_finding finding = {
        .what = what, .text = text, .error = error, .key = key.data, .key_len = key.length};
    if (scrub->options->report)
        scrub->options->report(scrub->options->context, &finding);
    else
        kv_store_log(scrub->store, KV_LOG_ERROR, "scrub: %s: %s", what, text);
}

static const struct kv_bytes no_key = {NULL, 0};

/* A key for people: bytes that do not print as \xNN. */
static const char *key_text(struct kv_bytes key, char text[KEY_TEXT_BYTES])
{
    const uint8_t *bytes = key.data;
    size_t used = 0;
    for (size_t i = 0; i < key.length; i++) {
        if (used + 8 > KEY_TEXT_BYTES) {
            strcpy(text + used, "...");
            return text;
        }
        const bool plain = bytes[i] > ' ' && bytes[i] < 0x7f && bytes[i] != '\\';
        used += (size_t)snprintf(text + used, 5, plain ? "%c" : "\\x%02x", bytes[i]);
    }
    text[used] = '\0';
    return text;
}

/* ---- the rate ------------------------------------------------------------------------ */

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec;
}

static int may_go_on(struct scrub *scrub)
{
    const struct kv_scrub_options *options = scrub->options;
    const uint64_t done = scrub->result->bytes;
    if (options->progress &&
        !options->progress(options->context, done, kv_max_u64(done, scrub->total)))
        return -ECANCELED;
    return kv_store_failure(scrub->store) ? -EIO : 0;
}

/* Account for what was read and wait until more may be. What was not used up is not saved. */
static int pace(struct scrub *scrub, uint64_t bytes)
{
    const uint64_t rate = scrub->options->bytes_per_second;
    scrub->result->bytes += bytes;
    (void)atomic_fetch_add_explicit(&scrub->store->scrub_bytes, bytes, memory_order_relaxed);
    int err = may_go_on(scrub);
    if (!rate)
        return err;
    uint64_t now = monotonic_ns();
    /* bytes is at most some MiB, so this does not overflow */
    scrub->free_ns = kv_max_u64(scrub->free_ns, now - BURST_NS) + bytes * NANOSECONDS / rate;
    while (!err && now < scrub->free_ns) {
        const uint64_t pause_ns = kv_min_u64(scrub->free_ns - now, PAUSE_NS);
        const struct timespec pause = {.tv_nsec = (long)pause_ns};
        (void)nanosleep(&pause, NULL); /* a shorter one does no harm */
        now = monotonic_ns();
        err = may_go_on(scrub);
    }
    return err;
}

/* ---- what only a checkpoint changes -------------------------------------------------- */

/* The slots hold what was written last; a store that is read-only found them as they are. */
static int verify_slot(struct kv_store *store, unsigned slot)
{
    if (!store->read_only)
        return kv_superblock_verify(store->device, &store->checkpoint.superblock, slot);
    struct kv_disk_superblock superblock;
    enum kv_superblock_twin twin = KV_TWIN_GOOD;
    const int err =
        slot ? 0 : kv_superblock_read(store->device, "the image", false, &superblock, &twin, NULL);
    return !err && twin == KV_TWIN_DAMAGED ? -EBADMSG : err;
}

static int scrub_superblocks(struct scrub *scrub)
{
    struct kv_store *store = scrub->store;
    int errors[3];
    pthread_mutex_lock(&store->checkpoint.mutex);
    errors[0] = verify_slot(store, 0);
    errors[1] = verify_slot(store, 1);
    errors[2] = kv_superblock_verify_backup(store->device, &store->checkpoint.superblock);
    const bool failed = kv_store_failure(store) != 0; /* the slots may be half written then */
    pthread_mutex_unlock(&store->checkpoint.mutex);
    static const char *const names[] = {"first superblock", "second superblock",
                                        "backup superblock at the end of the image"};
    if (failed)
        return -EIO;
    for (unsigned i = 0; i < 3; i++) {
        if (errors[i] && !kv_error_is_damage(errors[i]))
            return errors[i];
        if (errors[i])
            report(scrub, "superblock-copy", errors[i], no_key, "the %s", names[i]);
    }
    return pace(scrub, 3ull * KV_BLOCK_BYTES);
}

static int scrub_bitmaps(struct scrub *scrub)
{
    struct kv_store *store = scrub->store;
    int err = 0;
    for (uint32_t group = 0; group < scrub->group_count && !err; group++) {
        uint64_t bytes;
        pthread_mutex_lock(&store->checkpoint.mutex);
        err = kv_space_verify(store->space, group, &bytes);
        const bool failed = kv_store_failure(store) != 0;
        pthread_mutex_unlock(&store->checkpoint.mutex);
        if (failed)
            err = -EIO;
        else if (kv_error_is_damage(err)) {
            report(scrub, "bitmap", err, no_key, "the allocation bitmap of group %u", group);
            err = 0;
        }
        if (!err)
            err = pace(scrub, bytes);
    }
    return err;
}

/* From the tail to what is durable now. A checkpoint in between moves the tail: go on there. */
static int scrub_log(struct scrub *scrub)
{
    struct kv_store *store = scrub->store;
    const struct kv_disk_superblock *superblock = &store->checkpoint.superblock;
    uint64_t position = 0, link = 0, stop = UINT64_MAX;
    int err = 0;
    while (!err && position < stop) {
        pthread_mutex_lock(&store->checkpoint.mutex);
        const uint64_t tail = kv_le64_get(superblock->log_tail);
        if (tail > position) {
            position = tail;
            link = kv_le64_get(superblock->log_tail_link);
        }
        if (stop == UINT64_MAX)
            stop = kv_wal_position(store->wal);
        const uint64_t from = position;
        err = kv_wal_verify(store->wal, &position, &link, LOG_STEP_BLOCKS);
        pthread_mutex_unlock(&store->checkpoint.mutex);
        const uint64_t blocks = position - from;
        scrub->result->log_blocks += blocks;
        if (kv_error_is_damage(err)) {
            report(scrub, "log-damaged", err, no_key,
                   "the log at position %llu; what it holds is in memory, a checkpoint saves it",
                   (unsigned long long)position);
            kv_store_want_checkpoint(store);
            err = -ENOENT; /* what comes after can not be told from what lay there before */
        }
        const int pace_err = pace(scrub, blocks * KV_BLOCK_BYTES);
        if (pace_err)
            return pace_err;
    }
    return err == -ENOENT ? 0 : err;
}

static int scrub_map_block(struct scrub *scrub, uint32_t level, uint64_t index)
{
    struct kv_store *store = scrub->store;
    bool present;
    pthread_mutex_lock(&store->checkpoint.mutex);
    int err = kv_pagemap_verify(store->map, level, index, &present);
    const bool failed = kv_store_failure(store) != 0;
    pthread_mutex_unlock(&store->checkpoint.mutex);
    if (!err && !present)
        return 0;
    if (failed)
        return -EIO;
    if (kv_error_is_damage(err)) {
        report(scrub, "map-damaged", err, no_key, "block %llu of level %u of the page map",
               (unsigned long long)index, level);
        scrub->map_is_damaged = true;
        err = 0;
    }
    scrub->result->map_blocks++;
    return err ? err : pace(scrub, KV_BLOCK_BYTES);
}

/* Level by level; what is empty is passed over, however large the image says it is. */
static int scrub_map(struct scrub *scrub)
{
    struct kv_pagemap *map = scrub->store->map;
    int err = 0;
    for (uint32_t level = kv_pagemap_depth(map); !err && level-- > 0;) {
        const unsigned shift = 7 * (level + 1); /* 128 = 2^7 ids for each block below */
        uint64_t page_id = 0;
        for (;;) {
            err = kv_pagemap_next_placed(map, (int)level, &page_id);
            if (err || page_id == UINT64_MAX)
                break;
            err = scrub_map_block(scrub, level, page_id >> shift);
            if (err)
                break;
            page_id = ((page_id >> shift) + 1) << shift;
        }
    }
    return err;
}

/* ---- blobs --------------------------------------------------------------------------- */

/* Note that the blob at `block` is dealt with. *before: it was already. */
static int note_seen(struct scrub *scrub, uint64_t block, bool look_only, bool *before)
{
    const uint64_t offset = block - scrub->first_block;
    uint64_t **group = &scrub->seen[offset / KV_GROUP_BLOCKS];
    const uint64_t within = offset % KV_GROUP_BLOCKS;
    *before = *group && ((*group)[within / 64] >> within % 64 & 1);
    if (look_only || *before)
        return 0;
    if (!*group) {
        *group = calloc(1, SEEN_BYTES);
        if (!*group)
            return -ENOMEM;
    }
    (*group)[within / 64] |= 1ull << within % 64;
    return 0;
}

/* Does the key hold the blob now? -ENOENT: no. Under the writer lock. */
static int find_holder(struct scrub *scrub, struct kv_bytes key, const struct kv_blob_ref *ref)
{
    struct kv_store *store = scrub->store;
    size_t length;
    uint8_t kind;
    const int err = kv_btree_get(&store->trees[KV_TREE_KEYS], key.data, key.length, scrub->value,
                                 store->node_bytes, &length, &kind);
    if (err)
        return err;
    const struct kv_bytes value = {scrub->value, kv_min_u64(length, store->node_bytes)};
    struct kv_blob_ref held;
    for (size_t at = 0; kv_value_next_ref(kind, value, &at, &held);)
        if (memcmp(&held, ref, sizeof held) == 0)
            return 0;
    return -ENOENT;
}

/*
 * A blob that a stored page refers to did not verify. Is it damaged, or gone by now? When the
 * trees above the key are damaged, the page itself must answer: is it still the stored one?
 */
static int confirm_blob(struct scrub *scrub, uint64_t page_id, const struct kv_disk_ptr *page,
                        struct kv_bytes key, const struct kv_blob_ref *ref)
{
    struct kv_store *store = scrub->store;
    pthread_mutex_lock(&store->checkpoint.mutex);
    pthread_mutex_lock(&store->writer);
    int err = find_holder(scrub, key, ref);
    if (kv_error_is_damage(err)) {
        struct kv_disk_ptr now;
        err = kv_pagemap_get(store->map, page_id, &now);
        if (!err && memcmp(&now, page, sizeof now) != 0)
            err = -ENOENT;
    }
    if (!err)
        err = kv_blobs_verify(&store->blobs, ref);
    pthread_mutex_unlock(&store->writer);
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return err == -ENOENT ? 0 : err;
}

static int scrub_blob(struct scrub *scrub, uint64_t page_id, const struct kv_disk_ptr *page,
                      struct kv_bytes key, const struct kv_blob_ref *ref)
{
    struct kv_store *store = scrub->store;
    char text[KEY_TEXT_BYTES];
    uint64_t block;
    uint32_t block_count;
    if (kv_blobs_extent(&store->blobs, ref, &block, &block_count)) {
        report(scrub, "blob-reference", -EUCLEAN, key, "key %s refers to a blob that can not be",
               key_text(key, text));
        return 0;
    }
    bool seen;
    int err = note_seen(scrub, block, true, &seen);
    if (seen)
        return err;
    err = kv_blobs_verify(&store->blobs, ref);
    const bool is_whole = !err;
    if (kv_error_is_damage(err))
        err = confirm_blob(scrub, page_id, page, key, ref);
    /* One that is gone is not noted: another may lie there soon, or another key hold it. */
    if (kv_error_is_damage(err)) {
        report(scrub, "blob-damaged", err, key, "key %s: the blob at block %llu",
               key_text(key, text), (unsigned long long)block);
        err = note_seen(scrub, block, false, &seen);
    } else if (is_whole) {
        err = note_seen(scrub, block, false, &seen);
    }
    scrub->result->blobs++;
    return err ? err : pace(scrub, (uint64_t)block_count * KV_BLOCK_BYTES);
}

static int scrub_blobs_of(struct scrub *scrub, uint64_t page_id, const struct kv_disk_ptr *page)
{
    const size_t node_bytes = scrub->store->node_bytes;
    const struct kv_disk_node *header = (const struct kv_disk_node *)scrub->node;
    if (kv_node_level(scrub->node) || header->tree != KV_TREE_KEYS)
        return 0;
    const unsigned count = kv_node_count(scrub->node);
    for (unsigned slot = 0; slot < count; slot++) {
        uint8_t bytes[KV_KEY_MAX], kind;
        const struct kv_bytes key = {bytes, kv_node_key(scrub->node, node_bytes, slot, bytes)};
        const struct kv_bytes value = kv_node_value(scrub->node, slot, &kind);
        struct kv_blob_ref ref;
        for (size_t at = 0; kv_value_next_ref(kind, value, &at, &ref);) {
            const int err = scrub_blob(scrub, page_id, page, key, &ref);
            if (err)
                return err;
        }
    }
    return 0;
}

/* ---- pages --------------------------------------------------------------------------- */

enum page_state {
    PAGE_WHOLE,
    PAGE_DAMAGED,
    PAGE_GONE,    /* nothing is stored under this id, or nothing new in the second round */
    PAGE_UNKNOWN, /* the map does not say */
};

/*
 * Look a page up and read it to scrub->node; again while it moves. A page of which only the
 * first `lookups` places were seen counts as damaged. *error: why.
 */
static enum page_state read_page(struct scrub *scrub, uint64_t page_id, unsigned lookups,
                                 struct kv_disk_ptr *ptr, int *error)
{
    struct kv_store *store = scrub->store;
    struct kv_disk_ptr before = {.block = kv_le64_of(0)};
    for (unsigned i = 0;; i++) {
        *error = kv_pagemap_get(store->map, page_id, ptr);
        if (*error)
            return PAGE_UNKNOWN;
        if (!kv_le64_get(ptr->block) ||
            (scrub->again && kv_le64_get(ptr->birth_epoch) < scrub->first_epoch))
            return PAGE_GONE;
        const bool same = memcmp(ptr, &before, sizeof before) == 0;
        if (i && (same || i > lookups))
            return PAGE_DAMAGED;
        *error = kv_pager_read_stored(store->pager, page_id, ptr, scrub->node);
        if (!*error)
            return PAGE_WHOLE;
        if (!kv_error_is_damage(*error))
            return PAGE_UNKNOWN;
        before = *ptr;
    }
}

/* Once more, where a page moves once at most while it is read. */
static enum page_state confirm_page(struct scrub *scrub, uint64_t page_id, struct kv_disk_ptr *ptr,
                                    int *error)
{
    struct kv_store *store = scrub->store;
    pthread_mutex_lock(&store->checkpoint.mutex);
    pthread_mutex_lock(&store->writer);
    const enum page_state state = read_page(scrub, page_id, UINT32_MAX, ptr, error);
    pthread_mutex_unlock(&store->writer);
    pthread_mutex_unlock(&store->checkpoint.mutex);
    return state;
}

static int scrub_page(struct scrub *scrub, uint64_t page_id, bool *skip_block)
{
    struct kv_disk_ptr ptr;
    int error;
    enum page_state state = read_page(scrub, page_id, LOOKUPS_MAX, &ptr, &error);
    if (state == PAGE_DAMAGED)
        state = confirm_page(scrub, page_id, &ptr, &error);
    switch (state) {
    case PAGE_GONE:
        return 0;
    case PAGE_UNKNOWN:
        if (!kv_error_is_damage(error))
            return error;
        /* The map block was told of; should it have been whole a moment ago, it is now. */
        if (!scrub->map_is_damaged)
            report(scrub, "map-damaged", error, no_key,
                   "the page map, where page %llu is looked up", (unsigned long long)page_id);
        scrub->map_is_damaged = true;
        *skip_block = true;
        return 0;
    case PAGE_DAMAGED:
        report(scrub, "page-damaged", error, no_key, "page %llu at block %llu",
               (unsigned long long)page_id, (unsigned long long)kv_le64_get(ptr.block));
        break;
    case PAGE_WHOLE:
        break;
    }
    scrub->result->pages++;
    const uint64_t blocks = kv_blocks_for(kv_le32_get(ptr.length_bytes));
    const int err = pace(scrub, blocks * KV_BLOCK_BYTES);
    if (err || state == PAGE_DAMAGED)
        return err;
    return scrub_blobs_of(scrub, page_id, &ptr);
}

static int scrub_pages(struct scrub *scrub)
{
    struct kv_pagemap *map = scrub->store->map;
    const uint64_t end = kv_pagemap_next_id(map);
    int err = 0;
    for (uint64_t page_id = 1; page_id < end && !err; page_id++) {
        bool skip_block = false;
        if (page_id % KV_MAP_FANOUT == 0) {
            err = may_go_on(scrub); /* where nothing is stored nothing is paced */
            if (!err)
                err = kv_pagemap_next_placed(map, -1, &page_id);
            if (err || page_id >= end)
                break;
        }
        err = scrub_page(scrub, page_id, &skip_block);
        if (skip_block)
            page_id |= KV_MAP_FANOUT - 1;
    }
    return err;
}

/* ---- all of it ----------------------------------------------------------------------- */

static int scrub_begin(struct scrub *scrub)
{
    struct kv_store *store = scrub->store;
    struct kv_space_stats space;
    kv_space_stats(store->space, &space);
    pthread_mutex_lock(&store->checkpoint.mutex);
    scrub->first_block = kv_le64_get(store->checkpoint.superblock.group_first_block);
    scrub->group_count = kv_le32_get(store->checkpoint.superblock.group_count);
    pthread_mutex_unlock(&store->checkpoint.mutex);
    scrub->first_epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
    scrub->free_ns = monotonic_ns();
    scrub->total = (space.busy_blocks - space.deferred_blocks +
                    (uint64_t)scrub->group_count * KV_GROUP_COPY_BLOCKS) *
                   KV_BLOCK_BYTES;
    scrub->node = kv_device_alloc(store->node_bytes);
    scrub->value = malloc(store->node_bytes);
    scrub->seen = calloc(scrub->group_count, sizeof *scrub->seen);
    return scrub->node && scrub->value && scrub->seen ? 0 : -ENOMEM;
}

static void scrub_end(struct scrub *scrub)
{
    for (uint32_t i = 0; scrub->seen && i < scrub->group_count; i++)
        free(scrub->seen[i]);
    free(scrub->seen);
    free(scrub->value);
    free(scrub->node);
}

static int run(struct scrub *scrub)
{
    int err = scrub_begin(scrub);
    if (!err)
        err = scrub_superblocks(scrub);
    if (!err)
        err = scrub_bitmaps(scrub);
    if (!err)
        err = scrub_log(scrub);
    if (!err)
        err = scrub_map(scrub);
    if (!err)
        err = scrub_pages(scrub);
    if (err || scrub->store->read_only)
        return err;
    scrub->again = true;
    /* Not on top of damage: a checkpoint that runs into it would turn the store read-only. */
    if (!scrub->result->findings)
        err = kv_checkpoint(scrub->store);
    return err ? err : scrub_pages(scrub);
}

int kv_scrub(struct kv_store *store, const struct kv_scrub_options *options,
             struct kv_scrub_result *result)
{
    static const struct kv_scrub_options defaults;
    *result = (struct kv_scrub_result){0};
    if (kv_store_failure(store))
        return -EIO;
    bool idle = false;
    /* Acquire pairs with the release below: one scrub ends before the next begins. */
    if (!atomic_compare_exchange_strong_explicit(&store->scrubbing, &idle, true,
                                                 memory_order_acquire, memory_order_relaxed))
        return -EBUSY;
    struct scrub scrub = {
        .store = store, .options = options ? options : &defaults, .result = result};
    const int err = run(&scrub);
    scrub_end(&scrub);
    if (!err) {
        (void)atomic_fetch_add_explicit(&store->scrubs, 1, memory_order_relaxed);
        atomic_store_explicit(&store->scrub_finished_ns, kv_now_ns(), memory_order_relaxed);
    }
    atomic_store_explicit(&store->scrubbing, false, memory_order_release);
    return err;
}
