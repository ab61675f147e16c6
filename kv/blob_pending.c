/*
 * kv/blob_pending.c: blobs on their way to the device.
 *
 * Owns       a ring of memory for stored bytes, and a ring of pieces: a blob in it.
 * Invariant  oldest <= written <= taken <= begun, numbers of pieces that only grow. What lies
 *            before `oldest` is forgotten, before `written` on the device, before `taken` handed
 *            to it. A piece from `oldest` on has its memory to itself. One that is filled, and
 *            was not forgotten, is in the hash. After a failure `written` stays.
 * Locks      pending->mutex guards all but the bytes of the ring: these belong to who fills a
 *            piece until it is filled, and do not change until it is forgotten. It is released
 *            while the device works; one thread at a time writes (`leading`), or has been given
 * what is to be written. Innermost: nothing is taken under it.
 *
 * Pieces are written in their order, as many as one submission takes; those that lie side by side
 * in memory and on the device are one request. Blocks are handed out in order, too, so blobs of a
 * block each, at whatever places of whatever files, mostly become one long write.
 */
#include "kv/blob_pending.h"

#include <pthread.h>

#define NONE UINT32_MAX

/* Requests of one submission, and the longest. */
#define IO_COUNT_MAX  64u
#define IO_BLOCKS_MAX 256u
/* So much, or a quarter of the memory, is worth waking up for. */
#define WAKE_BLOCKS 256u

struct piece {
    struct kv_disk_blob_ref ref; /* once filled */
    uint64_t block;
    uint32_t block_count;
    uint64_t at;        /* it has the blocks from at % config.block_count on of the memory */
    uint32_t hash_next; /* slot of the piece ring */
    uint32_t pins;
    bool filled, cancelled;
    bool leaves; /* who wants to know has been told, or nobody wants it */
};

struct kv_blob_pending {
    struct kv_blob_pending_config config; /* immutable after new, as are the next four */
    uint8_t *memory;
    struct piece *pieces; /* piece n is at n % config.block_count: each has a block at least */
    uint32_t *buckets;
    uint32_t bucket_mask;

    pthread_mutex_t mutex;
    pthread_cond_t moved;  /* written, leading, failure, a piece's filled or pins changed */
    pthread_cond_t wanted; /* there is work for who serves */
    uint64_t oldest, written, taken, begun;
    uint64_t told;        /* who serves has told of the pieces before it; no more than a hint */
    uint64_t head;        /* end of the last piece, counted as `at` is */
    uint32_t ready_count; /* blocks of pieces that are filled and not taken */
    bool leading, serving, stopping;
    int failure;
};

struct kv_blob_pending *kv_blob_pending_new(const struct kv_blob_pending_config *config)
{
    KV_ASSERT(config->block_count >= 2);
    struct kv_blob_pending *const pending = calloc(1, sizeof *pending);
    if (!pending)
        return NULL;
    pthread_mutex_init(&pending->mutex, NULL);
    pthread_cond_init(&pending->moved, NULL);
    pthread_cond_init(&pending->wanted, NULL);
    pending->config = *config;
    uint32_t buckets = 16;
    while (buckets < config->block_count)
        buckets *= 2;
    pending->bucket_mask = buckets - 1;
    pending->memory = kv_device_alloc_unset((size_t)config->block_count * KV_BLOCK_BYTES);
    pending->pieces = calloc(config->block_count, sizeof *pending->pieces);
    pending->buckets = malloc(buckets * sizeof *pending->buckets);
    if (!pending->memory || !pending->pieces || !pending->buckets) {
        kv_blob_pending_free(pending);
        return NULL;
    }
    for (uint32_t i = 0; i < buckets; i++)
        pending->buckets[i] = NONE;
    return pending;
}

void kv_blob_pending_free(struct kv_blob_pending *pending)
{
    if (!pending)
        return;
    KV_ASSERT(!pending->leading);
    free(pending->memory);
    free(pending->pieces);
    free(pending->buckets);
    pthread_cond_destroy(&pending->moved);
    pthread_cond_destroy(&pending->wanted);
    pthread_mutex_destroy(&pending->mutex);
    free(pending);
}

uint32_t kv_blob_pending_blocks_max(const struct kv_blob_pending *pending)
{
    return pending->config.block_count / 2; /* so one always fits before or behind another */
}

/* ---- pieces and their hash; pending->mutex held ------------------------------------- */

static uint32_t slot_of(const struct kv_blob_pending *pending, uint64_t number)
{
    return (uint32_t)(number % pending->config.block_count);
}

static struct piece *piece_at(struct kv_blob_pending *pending, uint64_t number)
{
    return &pending->pieces[slot_of(pending, number)];
}

static uint8_t *piece_bytes(const struct kv_blob_pending *pending, const struct piece *piece)
{
    return pending->memory + (size_t)(piece->at % pending->config.block_count) * KV_BLOCK_BYTES;
}

static uint32_t *bucket_of(const struct kv_blob_pending *pending,
                           const struct kv_disk_blob_ref *ref)
{
    const uint64_t mixed = kv_le64_get(ref->ptr.digest) ^ kv_le64_get(ref->ptr.block);
    return &pending
                ->buckets[(uint32_t)((mixed * 0x9e3779b97f4a7c15ull) >> 32) & pending->bucket_mask];
}

static void hash_add(struct kv_blob_pending *pending, uint32_t slot)
{
    uint32_t *const bucket = bucket_of(pending, &pending->pieces[slot].ref);
    pending->pieces[slot].hash_next = *bucket;
    *bucket = slot;
}

static void hash_remove(struct kv_blob_pending *pending, uint32_t slot)
{
    uint32_t *link = bucket_of(pending, &pending->pieces[slot].ref);
    while (*link != slot)
        link = &pending->pieces[*link].hash_next;
    *link = pending->pieces[slot].hash_next;
}

/* The number of the piece that `ref` names; false: it is not here. */
static bool find(struct kv_blob_pending *pending, const struct kv_disk_blob_ref *ref,
                 uint64_t *number)
{
    uint32_t slot = *bucket_of(pending, ref);
    while (slot != NONE && memcmp(&pending->pieces[slot].ref, ref, sizeof *ref) != 0)
        slot = pending->pieces[slot].hash_next;
    if (slot == NONE)
        return false;
    const uint32_t from_oldest =
        (slot + pending->config.block_count - slot_of(pending, pending->oldest)) %
        pending->config.block_count;
    *number = pending->oldest + from_oldest;
    return true;
}

/* ---- writing; pending->mutex held, and released while the device works --------------- */

/* Take filled pieces from `taken` on into requests. Returns how many requests, ios_max at most. */
static size_t take_pieces(struct kv_blob_pending *pending, struct kv_io *ios, size_t ios_max)
{
    size_t count = 0;
    for (; pending->taken < pending->begun; pending->taken++) {
        const struct piece *const piece = piece_at(pending, pending->taken);
        if (!piece->filled)
            break;
        uint8_t *const bytes = piece_bytes(pending, piece);
        struct kv_io *const last = count ? &ios[count - 1] : NULL;
        if (piece->cancelled) {
            pending->ready_count -= piece->block_count;
            continue;
        }
        if (last && last->block + last->block_count == piece->block &&
            (uint8_t *)last->buf + kv_io_bytes(last) == bytes &&
            last->block_count + piece->block_count <= IO_BLOCKS_MAX) {
            last->block_count += piece->block_count;
        } else if (count == ios_max) {
            break;
        } else {
            ios[count++] = (struct kv_io){.kind = KV_IO_WRITE,
                                          .block = piece->block,
                                          .block_count = piece->block_count,
                                          .buf = bytes};
        }
        pending->ready_count -= piece->block_count;
    }
    return count;
}

/* Is there enough to be written for somebody to wake up? */
static bool has_work(struct kv_blob_pending *pending)
{
    const uint32_t enough = (uint32_t)kv_min_u64(WAKE_BLOCKS, pending->config.block_count / 4);
    return !pending->failure && !pending->leading && pending->ready_count >= enough &&
           piece_at(pending, pending->taken)->filled;
}

/* What was taken is on the device, or the device has failed. */
static void note_written(struct kv_blob_pending *pending, int err)
{
    if (err)
        pending->failure = -EIO;
    else
        pending->written = pending->taken;
    pthread_cond_broadcast(&pending->moved);
    if (pending->serving && has_work(pending))
        pthread_cond_signal(&pending->wanted);
}

/* The requests that were taken have an end. The mutex is not held before, and held after. */
static void stop_leading(struct kv_blob_pending *pending, int err)
{
    if (err) /* one word for all that a device may say */
        pending->config.on_failure(pending->config.context, -EIO);
    pthread_mutex_lock(&pending->mutex);
    pending->leading = false;
    note_written(pending, err);
}

/*
 * Lead: take what is filled, as much as goes with so many requests. Returns how many there are; if
 * any, submit_taken or stop_leading must follow. Nobody else may be leading.
 */
static size_t start_leading(struct kv_blob_pending *pending, struct kv_io *ios, size_t ios_max)
{
    KV_ASSERT(!pending->leading);
    KV_ASSERT(!pending->failure);
    const size_t count = take_pieces(pending, ios, ios_max);
    if (count)
        pending->leading = true;
    else
        note_written(pending, 0);
    return count;
}

static void submit_taken(struct kv_blob_pending *pending, struct kv_io *ios, size_t count)
{
    pthread_mutex_unlock(&pending->mutex);
    stop_leading(pending, kv_device_submit(pending->config.device, ios, count, false));
}

/* Write what is filled, as much as goes with one submission. */
static void lead(struct kv_blob_pending *pending)
{
    struct kv_io ios[IO_COUNT_MAX];
    const size_t count = start_leading(pending, ios, IO_COUNT_MAX);
    if (count)
        submit_taken(pending, ios, count);
}

/*
 * Until the pieces before `number` are on the device, or the last of them taken: then *left of the
 * requests have still to be submitted. left NULL: none may.
 */
static int write_until(struct kv_blob_pending *pending, uint64_t number, struct kv_io *ios,
                       size_t ios_max, size_t *left)
{
    while (!pending->failure && pending->written < number) {
        if (pending->leading || !piece_at(pending, pending->taken)->filled) {
            pthread_cond_wait(&pending->moved, &pending->mutex);
            continue;
        }
        const size_t count = start_leading(pending, ios, ios_max);
        if (count && left && pending->taken >= number) {
            *left = count;
            return 0;
        }
        if (count)
            submit_taken(pending, ios, count);
    }
    return pending->written < number ? pending->failure : 0;
}

/* ---- room ---------------------------------------------------------------------------- */

/* The next piece goes behind the last one, or to the start of the memory if it would not fit. */
static uint64_t place_for(const struct kv_blob_pending *pending, uint32_t block_count)
{
    const uint32_t size = pending->config.block_count;
    const uint32_t left = size - (uint32_t)(pending->head % size);
    return block_count <= left ? pending->head : pending->head + left;
}

/* Is there a piece to be had, and memory for so many blocks? */
static bool has_room(struct kv_blob_pending *pending, uint32_t block_count)
{
    const uint32_t size = pending->config.block_count;
    if (pending->oldest == pending->begun)
        return true;
    return pending->begun - pending->oldest < size &&
           place_for(pending, block_count) + block_count <=
               piece_at(pending, pending->oldest)->at + size;
}

/* Tell who wants to know of a piece that will be forgotten. The mutex is released meanwhile. */
static void tell_leaving(struct kv_blob_pending *pending, struct piece *piece)
{
    piece->leaves = true;
    piece->pins++;
    pthread_mutex_unlock(&pending->mutex);
    pending->config.on_leave(pending->config.context, &piece->ref, piece_bytes(pending, piece));
    pthread_mutex_lock(&pending->mutex);
    piece->pins--;
    pthread_cond_broadcast(&pending->moved);
}

/* So that who needs memory finds it ready: tell of the oldest of what is on the device, while half
 * of the memory is taken by what came later. false: there is no such piece. */
static bool tell_ahead(struct kv_blob_pending *pending)
{
    pending->told = kv_max_u64(pending->told, pending->oldest);
    for (; pending->told < pending->written; pending->told++) {
        struct piece *const piece = piece_at(pending, pending->told);
        if (pending->head - piece->at <= pending->config.block_count / 2)
            return false;
        if (!piece->cancelled && !piece->leaves) {
            tell_leaving(pending, piece);
            return true;
        }
    }
    return false;
}

/* Forget what is on the device, the oldest first, until there is room; what is not is written. */
static int make_room(struct kv_blob_pending *pending, uint32_t block_count)
{
    while (!pending->failure && !has_room(pending, block_count)) {
        struct piece *const piece = piece_at(pending, pending->oldest);
        if (piece->pins) {
            pthread_cond_wait(&pending->moved, &pending->mutex);
        } else if (pending->oldest < pending->written && pending->config.on_leave &&
                   !piece->cancelled && !piece->leaves) {
            tell_leaving(pending, piece);
        } else if (pending->oldest < pending->written) {
            if (!piece->cancelled)
                hash_remove(pending, slot_of(pending, pending->oldest));
            pending->oldest++;
        } else if (pending->leading || !piece_at(pending, pending->taken)->filled) {
            pthread_cond_wait(&pending->moved, &pending->mutex);
        } else {
            lead(pending);
        }
    }
    return pending->failure;
}

/* ---- the interface --------------------------------------------------------------------- */

int kv_blob_pending_begin(struct kv_blob_pending *pending, uint64_t block, uint32_t block_count,
                          struct kv_blob_slot *slot)
{
    KV_ASSERT(block_count >= 1);
    KV_ASSERT(block_count <= kv_blob_pending_blocks_max(pending));
    pthread_mutex_lock(&pending->mutex);
    const int err = make_room(pending, block_count);
    if (!err) {
        const uint64_t at = place_for(pending, block_count);
        struct piece *const piece = piece_at(pending, pending->begun);
        *piece = (struct piece){.block = block, .block_count = block_count, .at = at};
        pending->head = at + block_count;
        slot->bytes = piece_bytes(pending, piece);
        slot->number = pending->begun++;
    }
    pthread_mutex_unlock(&pending->mutex);
    return err;
}

void kv_blob_pending_end(struct kv_blob_pending *pending, const struct kv_blob_slot *slot,
                         const struct kv_disk_blob_ref *ref)
{
    pthread_mutex_lock(&pending->mutex);
    struct piece *const piece = piece_at(pending, slot->number);
    KV_ASSERT(!piece->filled);
    piece->ref = *ref;
    piece->filled = true;
    hash_add(pending, slot_of(pending, slot->number));
    pending->ready_count += piece->block_count;
    pthread_cond_broadcast(&pending->moved);
    if (pending->serving && has_work(pending))
        pthread_cond_signal(&pending->wanted);
    pthread_mutex_unlock(&pending->mutex);
}

const uint8_t *kv_blob_pending_pin(struct kv_blob_pending *pending,
                                   const struct kv_disk_blob_ref *ref, uint64_t *number)
{
    const uint8_t *bytes = NULL;
    pthread_mutex_lock(&pending->mutex);
    if (find(pending, ref, number)) {
        struct piece *const piece = piece_at(pending, *number);
        piece->pins++;
        bytes = piece_bytes(pending, piece);
    }
    pthread_mutex_unlock(&pending->mutex);
    return bytes;
}

void kv_blob_pending_unpin(struct kv_blob_pending *pending, uint64_t number)
{
    pthread_mutex_lock(&pending->mutex);
    if (--piece_at(pending, number)->pins == 0)
        pthread_cond_broadcast(&pending->moved);
    pthread_mutex_unlock(&pending->mutex);
}

void kv_blob_pending_unwanted(struct kv_blob_pending *pending, const struct kv_disk_blob_ref *ref)
{
    uint64_t number;
    pthread_mutex_lock(&pending->mutex);
    if (find(pending, ref, &number))
        piece_at(pending, number)->leaves = true;
    pthread_mutex_unlock(&pending->mutex);
}

void kv_blob_pending_cancel(struct kv_blob_pending *pending, const struct kv_disk_blob_ref *ref)
{
    uint64_t number;
    pthread_mutex_lock(&pending->mutex);
    if (find(pending, ref, &number)) {
        piece_at(pending, number)->leaves = true;
        if (number >= pending->taken) {
            piece_at(pending, number)->cancelled = true;
            hash_remove(pending, slot_of(pending, number));
        }
        while (number < pending->taken && number >= pending->written && pending->leading)
            pthread_cond_wait(&pending->moved, &pending->mutex);
    }
    pthread_mutex_unlock(&pending->mutex);
}

int kv_blob_pending_flush(struct kv_blob_pending *pending)
{
    struct kv_io ios[IO_COUNT_MAX];
    pthread_mutex_lock(&pending->mutex);
    const int err = write_until(pending, pending->begun, ios, IO_COUNT_MAX, NULL);
    pthread_mutex_unlock(&pending->mutex);
    return err;
}

int kv_blob_pending_give(struct kv_blob_pending *pending, struct kv_io *ios, size_t ios_max,
                         size_t *count)
{
    KV_ASSERT(ios_max >= 1);
    KV_ASSERT(ios_max <= KV_BLOB_GIVEN_MAX);
    *count = 0;
    pthread_mutex_lock(&pending->mutex);
    const int err = write_until(pending, pending->begun, ios, ios_max, count);
    pthread_mutex_unlock(&pending->mutex);
    return err;
}

void kv_blob_pending_given(struct kv_blob_pending *pending, const struct kv_io *ios, size_t count)
{
    int err = 0;
    for (size_t i = 0; i < count && !err; i++)
        err = ios[i].result;
    stop_leading(pending, err);
    pthread_mutex_unlock(&pending->mutex);
}

void kv_blob_pending_serve(struct kv_blob_pending *pending)
{
    pthread_mutex_lock(&pending->mutex);
    pending->serving = true;
    while (!pending->stopping) {
        if (has_work(pending))
            lead(pending);
        else if (!pending->config.on_leave || !tell_ahead(pending))
            pthread_cond_wait(&pending->wanted, &pending->mutex);
    }
    pending->serving = false;
    pthread_mutex_unlock(&pending->mutex);
}

void kv_blob_pending_stop(struct kv_blob_pending *pending)
{
    pthread_mutex_lock(&pending->mutex);
    pending->stopping = true;
    pthread_cond_signal(&pending->wanted);
    pthread_mutex_unlock(&pending->mutex);
}
