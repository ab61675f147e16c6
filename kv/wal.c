/*
 * kv/wal.c: the redo log: appending, and making durable what was appended.
 *
 * Owns       the log ring, the append buffer, the leader of a flush.
 * Invariant  see kv/wal_ring.h, for all parts of the log: reading it back is in wal_replay.c, room
 *            for it in wal_room.c.
 * Locks      wal->mutex, which the leader releases while the device works.
 */
#include "kv/wal_ring.h"

#include "kv/codec.h"

#define BUFFER_BYTES_DEFAULT (4u << 20)
#define BUFFER_BLOCKS_MIN    4u

/* No image lives long enough to get here. */
#define POSITION_MAX (UINT64_MAX / 4)

#define RING_BLOCKS_MIN 8u

/* Requests for the log's own blocks: the ring and the buffer wrap once each. */
#define OWN_IOS 3u

/* ---- opening --------------------------------------------------------------- */

int kv_wal_open(struct kv_device *device, const struct kv_wal_config *config, struct kv_wal **out)
{
    uint64_t end;
    if (config->block_count < RING_BLOCKS_MIN || config->tail > POSITION_MAX ||
        kv_add_u64(config->first_block, config->block_count, &end) || end > device->block_count)
        return -EUCLEAN;

    struct kv_wal *wal = calloc(1, sizeof *wal);
    if (!wal)
        return -ENOMEM;
    const uint32_t bytes = config->buffer_bytes ? config->buffer_bytes : BUFFER_BYTES_DEFAULT;
    wal->buffer_blocks = (uint32_t)kv_min_u64(kv_max_u64(kv_blocks_for(bytes), BUFFER_BLOCKS_MIN),
                                              config->block_count);
    wal->buffer = kv_device_alloc_unset((size_t)wal->buffer_blocks * KV_BLOCK_BYTES);
    int err = -ENOMEM;
    if (!wal->buffer)
        goto out_wal;
    err = -pthread_mutex_init(&wal->mutex, NULL);
    if (err)
        goto out_buffer;
    err = -pthread_cond_init(&wal->changed, NULL);
    if (err)
        goto out_mutex;

    wal->device = device;
    wal->first_block = config->first_block;
    wal->block_count = config->block_count;
    wal->log_id = config->log_id;
    wal->before_flush = config->before_flush;
    wal->after_flush = config->after_flush;
    wal->context = config->context;
    wal->open_tail = config->tail;
    wal->open_link = config->tail_link;
    wal->tail = wal->durable = wal->written = wal->sealed = wal->flushing = config->tail;
    wal->link = config->tail_link;
    wal->group.rest_next = KV_WAL_REST_FLUSHES;
    if (!device->thin) {
        wal->backed_blocks = config->block_count;
    } else {
        wal->backed_blocks = kv_min_u64(config->block_count, KV_WAL_BACKED_BLOCKS_MIN);
        err = kv_device_reserve(device, config->first_block, wal->backed_blocks);
        if (err)
            goto out_cond;
    }
    *out = wal;
    return 0;

out_cond:
    pthread_cond_destroy(&wal->changed);
out_mutex:
    pthread_mutex_destroy(&wal->mutex);
out_buffer:
    free(wal->buffer);
out_wal:
    free(wal);
    return err;
}

void kv_wal_close(struct kv_wal *wal)
{
    if (!wal)
        return;
    KV_ASSERT(!wal->leading);
    pthread_cond_destroy(&wal->changed);
    pthread_mutex_destroy(&wal->mutex);
    free(wal->buffer);
    free(wal);
}

/* ---- writing; wal->mutex held ------------------------------------------------------ */

static uint8_t *buffer_block(const struct kv_wal *wal, uint64_t position)
{
    return wal->buffer + (size_t)(position % wal->buffer_blocks) * KV_BLOCK_BYTES;
}

/* Finish the block that is being filled. */
static void seal_current(struct kv_wal *wal)
{
    KV_ASSERT(wal->fill > 0);
    uint8_t *block = buffer_block(wal, wal->sealed);
    struct kv_disk_log_header header = {
        .magic = kv_le32_of(KV_LOG_MAGIC),
        .payload_bytes = kv_le32_of(wal->fill),
        .log_id = kv_le64_of(wal->log_id),
        .position = kv_le64_of(wal->sealed),
        .durable = kv_le64_of(KV_PLANT(durable_position_lied) ? wal->sealed : wal->durable),
        .epoch = kv_le64_of(wal->epoch),
        .link = kv_le64_of(wal->link),
        .restart = kv_le64_of(wal->restart),
    };
    memcpy(block, &header, sizeof header);
    if (wal->fill < KV_LOG_PAYLOAD_BYTES)
        memset(block + sizeof header + wal->fill, 0, KV_LOG_PAYLOAD_BYTES - wal->fill);
    wal->link = kv_wal_block_digest(block);
    header.digest = kv_le64_of(wal->link);
    memcpy(block, &header, sizeof header);
    wal->restart = 0;
    wal->fill = 0;
    wal->sealed++;
}

/* Requests for the sealed blocks [from, to), cut where the ring or the buffer wraps. */
static size_t plan_writes(const struct kv_wal *wal, uint64_t from, uint64_t to,
                          struct kv_io ios[OWN_IOS])
{
    size_t io_count = 0;
    while (from < to) {
        const uint64_t ring_left = wal->block_count - from % wal->block_count;
        const uint64_t buffer_left = wal->buffer_blocks - from % wal->buffer_blocks;
        const uint64_t count = kv_min_u64(to - from, kv_min_u64(ring_left, buffer_left));
        KV_ASSERT(io_count < OWN_IOS);
        ios[io_count++] = (struct kv_io){.kind = KV_IO_WRITE,
                                         .block = wal->first_block + from % wal->block_count,
                                         .block_count = (uint32_t)count,
                                         .buf = buffer_block(wal, from)};
        from += count;
    }
    return io_count;
}

enum lead_mode { LEAD_WRITE, LEAD_FLUSH };

/*
 * What the records refer to may be submitted with the blocks that hold them: until the flush is
 * over, nothing vouches for either, and a replay looks whether both are there.
 */
static int submit_flush(struct kv_wal *wal, const struct kv_io own[OWN_IOS], size_t own_count)
{
    struct kv_io ios[KV_WAL_GUESTS_MAX + OWN_IOS];
    size_t guests = 0;
    if (wal->before_flush && !KV_PLANT(sync_without_blobs)) {
        const int err = wal->before_flush(wal->context, ios, &guests);
        if (err)
            return err;
    }
    memcpy(ios + guests, own, own_count * sizeof *own);
    const int err = kv_device_submit(wal->device, ios, guests + own_count,
                                     !own_count || !KV_PLANT(sync_without_flush));
    if (guests)
        wal->after_flush(wal->context, ios, guests);
    return err;
}

/* Write what is sealed; the mutex is released meanwhile. Nobody else may be leading. */
static void lead(struct kv_wal *wal, enum lead_mode mode)
{
    KV_ASSERT(!wal->leading);
    KV_ASSERT(!wal->error);
    wal->written = kv_max_u64(wal->written, wal->tail); /* trimmed: not needed any more */
    const uint64_t to = wal->sealed;
    struct kv_io ios[OWN_IOS];
    const size_t io_count = plan_writes(wal, wal->written, to, ios);
    const uint64_t records = wal->records;
    struct kv_metrics *metrics = wal->device->metrics;

    wal->leading = true;
    wal->called = false;
    if (mode == LEAD_FLUSH) {
        wal->flushing = to;
        wal->group.arrived = 0;
    }
    pthread_mutex_unlock(&wal->mutex);
    const uint64_t begin = mode == LEAD_FLUSH ? kv_metrics_begin(metrics, KV_METRIC_WAL) : 0;
    int err = 0;
    if (mode == LEAD_FLUSH)
        err = submit_flush(wal, ios, io_count);
    else if (io_count)
        err = kv_device_submit(wal->device, ios, io_count, false);
    kv_metrics_end(metrics, KV_HISTOGRAM_LOG_FLUSH, begin);
    pthread_mutex_lock(&wal->mutex);
    wal->leading = false;

    if (err && !KV_PLANT(failed_flush_forgotten)) {
        wal->error = err;
    } else {
        wal->written = to;
        if (mode == LEAD_FLUSH) {
            wal->durable = kv_max_u64(wal->durable, to);
            wal->flushes++;
            if (begin)
                kv_metrics_note(metrics, KV_HISTOGRAM_LOG_GROUP, records - wal->flushed_records);
            wal->flushed_records = records;
        }
    }
    pthread_cond_broadcast(&wal->changed);
}

/* Is it time for a flush, or else for a write, that nobody has to wait for? */
static bool should_flush(const struct kv_wal *wal)
{
    return wal->sealed - kv_min_u64(wal->durable, wal->sealed) >= WINDOW_BLOCKS / 2;
}
static bool should_write(const struct kv_wal *wal)
{
    return wal->sealed - kv_min_u64(wal->written, wal->sealed) >= wal->buffer_blocks / 2;
}

/*
 * Begin to fill the block at `sealed`: it needs a place in the buffer, and what is not durable
 * must stay within the window. May wait; syncs may pass meanwhile, but as no block is being
 * filled they seal none.
 */
static int begin_block(struct kv_wal *wal, uint64_t epoch)
{
    KV_ASSERT(wal->fill == 0);
    while (!wal->error) {
        if (!wal->leading)
            wal->written = kv_max_u64(wal->written, wal->tail);
        const bool window_full = wal->sealed - wal->durable >= WINDOW_BLOCKS;
        if (!window_full && wal->sealed - wal->written < wal->buffer_blocks) {
            wal->epoch = epoch;
            return 0;
        }
        if (wal->leading)
            pthread_cond_wait(&wal->changed, &wal->mutex);
        else
            lead(wal, window_full ? LEAD_FLUSH : LEAD_WRITE);
    }
    return wal->error;
}

/* Add bytes to the stream. */
static int append_bytes(struct kv_wal *wal, const uint8_t *bytes, size_t length, uint64_t epoch)
{
    while (length) {
        if (wal->fill == 0) {
            const int err = begin_block(wal, epoch);
            if (err)
                return err;
        }
        const size_t take = (size_t)kv_min_u64(length, KV_LOG_PAYLOAD_BYTES - wal->fill);
        kv_copy_short(buffer_block(wal, wal->sealed) + sizeof(struct kv_disk_log_header) +
                          wal->fill,
                      bytes, take);
        wal->fill += (uint32_t)take;
        bytes += take;
        length -= take;
        if (wal->fill == KV_LOG_PAYLOAD_BYTES)
            seal_current(wal);
    }
    return 0;
}

/* ---- the interface ------------------------------------------------------------------- */

int kv_wal_append(struct kv_wal *wal, const void *body, size_t length, uint64_t epoch,
                  uint64_t *position)
{
    KV_ASSERT(length <= UINT32_MAX);
    int err = 0;
    pthread_mutex_lock(&wal->mutex);
    KV_ASSERT(kv_wal_has_room(wal, length));
    if (wal->fill > 0 && wal->epoch != epoch)
        seal_current(wal);
    if (wal->fill == 0)
        err = begin_block(wal, epoch);
    if (!err)
        err = wal->error;
    if (err)
        goto out;
    const struct kv_disk_record_header header = {
        .length_bytes = kv_le32_of((uint32_t)length),
        .digest = kv_le64_of(kv_digest(body, length, wal->sealed)),
    };
    err = append_bytes(wal, (const uint8_t *)&header, sizeof header, epoch);
    if (!err)
        err = append_bytes(wal, body, length, epoch);
    if (err)
        goto out;
    wal->records++;
    wal->record_bytes += length;
    *position = next_position(wal);
    const bool room = kv_wal_calls_for_room(wal);
    const bool write = !wal->called && !wal->leading && (should_write(wal) || should_flush(wal));
    if (write)
        wal->called = true;
    if (write || room)
        atomic_store_explicit(&wal->behind, true, memory_order_relaxed);
out:
    pthread_mutex_unlock(&wal->mutex);
    return err;
}

bool kv_wal_is_behind(struct kv_wal *wal)
{
    return atomic_load_explicit(&wal->behind, memory_order_relaxed) &&
           atomic_exchange_explicit(&wal->behind, false, memory_order_relaxed);
}

int kv_wal_write_behind(struct kv_wal *wal)
{
    kv_wal_make_room(wal);
    pthread_mutex_lock(&wal->mutex);
    if (!wal->error && !wal->leading && (should_write(wal) || should_flush(wal)))
        lead(wal, should_flush(wal) ? LEAD_FLUSH : LEAD_WRITE);
    wal->called = false;
    const int err = wal->error;
    pthread_mutex_unlock(&wal->mutex);
    return err;
}

uint64_t kv_wal_position(struct kv_wal *wal)
{
    pthread_mutex_lock(&wal->mutex);
    const uint64_t position = next_position(wal);
    pthread_mutex_unlock(&wal->mutex);
    return position;
}

int kv_wal_sync(struct kv_wal *wal, uint64_t position)
{
    pthread_mutex_lock(&wal->mutex);
    KV_ASSERT(position <= next_position(wal));
    if (wal->durable < position && wal->flushing < position)
        kv_wal_note_asker(wal);
    while (!wal->error && wal->durable < position) {
        if (wal->leading) {
            if (KV_PLANT(follower_acked_early))
                break;
            pthread_cond_wait(&wal->changed, &wal->mutex);
            continue;
        }
        kv_wal_gather(wal);
        if (wal->error || wal->durable >= position) { /* a trim made it so: others may lead */
            pthread_cond_broadcast(&wal->changed);
            break;
        }
        if (wal->fill > 0)
            seal_current(wal);
        lead(wal, LEAD_FLUSH);
    }
    const int err = wal->error;
    pthread_mutex_unlock(&wal->mutex);
    return err;
}

/* See the head of kv/wal_room.c. Nothing is appended meanwhile, and no block is being filled. */
static int jump_to_start(struct kv_wal *wal)
{
    while (!wal->error && (wal->leading || wal->durable < wal->sealed)) {
        if (wal->leading)
            pthread_cond_wait(&wal->changed, &wal->mutex);
        else
            lead(wal, LEAD_FLUSH);
    }
    if (wal->error)
        return wal->error;
    const uint64_t target = (wal->sealed / wal->block_count + 2) * wal->block_count;
    wal->sealed = wal->written = wal->durable = target;
    return 0;
}

int kv_wal_seal(struct kv_wal *wal, bool brief, uint64_t *position, uint64_t *link)
{
    pthread_mutex_lock(&wal->mutex);
    int err = wal->error;
    if (!err && wal->fill > 0)
        seal_current(wal);
    if (!err && kv_wal_should_jump(wal, brief))
        err = jump_to_start(wal);
    if (!err) {
        *position = wal->sealed;
        *link = wal->link;
    }
    pthread_mutex_unlock(&wal->mutex);
    return err;
}

void kv_wal_trim(struct kv_wal *wal, uint64_t position)
{
    pthread_mutex_lock(&wal->mutex);
    KV_ASSERT(position <= wal->sealed);
    wal->tail = kv_max_u64(wal->tail, position);
    wal->durable = kv_max_u64(wal->durable, position);
    pthread_cond_broadcast(&wal->changed);
    pthread_mutex_unlock(&wal->mutex);
}

void kv_wal_stats(struct kv_wal *wal, struct kv_wal_stats *stats)
{
    pthread_mutex_lock(&wal->mutex);
    *stats = (struct kv_wal_stats){
        .records = wal->records,
        .record_bytes = wal->record_bytes,
        .flushes = wal->flushes,
        .used_blocks = kv_min_u64(next_position(wal) - wal->tail, wal->block_count),
        .total_blocks = wal->block_count,
        .buffer_blocks = wal->buffer_blocks,
    };
    pthread_mutex_unlock(&wal->mutex);
}
