/*
 * kv/wal_room.c: is there room for a record, in the ring and on the host?
 *
 * Owns       how much of the ring has room on the host.
 * Invariant  a slot is used only when it has room; one is given room only while the log that counts
 *            does not lie there, and it can not come there before it has.
 * Locks      wal->mutex; not held while the device is asked, which one thread at a time does:
 *            whoever appends, or who writes behind.
 *
 * Room on the host. On a thin device (kv/device.h) only the first `backed_blocks` slots of the
 * ring are certain to have room, and only these are used. It grows when what is logged between
 * two checkpoints takes more than half of it. Where it can not grow, and where so little is logged
 * that it need not, the log jumps back to slot 0: the seal of a checkpoint makes everything durable
 * and moves on to the start of a later lap, more than one lap on, so that there is no room until
 * the trim. Were there room before, records behind the jump could be promised while a superblock
 * still names a tail from which no chain leads to them.
 */
#include "kv/wal_ring.h"

/* The part of the ring that has room on the host doubles, up to 2 MiB at a time: a writer may have
 * to wait for it. */
#define BACK_BLOCKS_MAX 512u
/* So that none has to, where zeroes are written it grows when this part of it is left, at most so
 * many blocks: what is logged while the zeroes are written. */
#define LEFT_PART       8u
#define LEFT_BLOCKS_MAX 256u
/* Between two flushes, so that the first lap may make the host note that blocks are written. */
#define FLUSHED_SELDOM_BLOCKS 64u
/* After a jump writers wait for the whole checkpoint: by choice only for one that is brief, after
 * no more log than this. */
#define JUMP_BLOCKS_MAX KV_WAL_BACKED_BLOCKS_MIN
/* It grows by choice only while the host has so many times the room that the rest would take. */
#define BACK_HOST_SHARE 4u

/* The first position from the next one on whose block has no certain room. */
uint64_t kv_wal_backed_end(const struct kv_wal *wal)
{
    if (wal->backed_blocks == wal->block_count)
        return UINT64_MAX;
    const uint64_t next = next_position(wal);
    const uint64_t slot = next % wal->block_count;
    return slot < wal->backed_blocks ? next - slot + wal->backed_blocks : next;
}

bool kv_wal_should_jump(const struct kv_wal *wal, bool brief)
{
    return kv_wal_backed_end(wal) - wal->sealed < wal->backed_blocks / 2 &&
           (wal->stuck || (brief && wal->sealed - wal->tail <= JUMP_BLOCKS_MAX));
}

/* Lately, since the part with room came to be what it is? Then it has been filled once since. */
static bool is_flushed_often(const struct kv_wal *wal)
{
    const uint64_t filled = kv_min_u64(wal->backed_blocks, BACK_BLOCKS_MAX);
    return (wal->flushes - wal->backed_flushes) * FLUSHED_SELDOM_BLOCKS > filled;
}

/* The mutex is released. */
static int ask_host(struct kv_wal *wal, uint64_t from, uint64_t to)
{
    const bool often = is_flushed_often(wal);
    pthread_mutex_unlock(&wal->mutex);
    int err = kv_device_reserve(wal->device, wal->first_block + from, to - from);
    if (!err && often)
        err = kv_device_write_zeroes(wal->device, wal->first_block + from, to - from);
    pthread_mutex_lock(&wal->mutex);
    return err;
}

/*
 * Have room for at least the first `wanted` slots. Where little comes between two flushes, what is
 * new is written with zeroes: a flush of blocks that were written before need not make the host's
 * own notes durable too. Where much comes the log is written once as it is.
 * -EAGAIN: the log that counts may lie there, from when the part was larger (an earlier opening).
 */
static int back_slots(struct kv_wal *wal, uint64_t wanted)
{
    const uint64_t to = kv_min_u64(wanted, wal->block_count);
    int err = 0;
    pthread_mutex_lock(&wal->mutex);
    while (wal->backing)
        pthread_cond_wait(&wal->changed, &wal->mutex);
    const uint64_t from = wal->backed_blocks;
    if (to <= from)
        goto out;
    err = -EAGAIN;
    if (wal->tail % wal->block_count + (next_position(wal) - wal->tail) > from)
        goto out;
    wal->backing = true;
    err = ask_host(wal, from, to);
    wal->backing = false;
    if (!err) {
        wal->backed_blocks = to;
        wal->backed_flushes = wal->flushes;
    }
    pthread_cond_broadcast(&wal->changed);
out:
    pthread_mutex_unlock(&wal->mutex);
    return err;
}

/* When so many slots have room, will the host spare more? */
static bool host_has_plenty(const struct kv_wal *wal, uint64_t backed)
{
    return kv_device_room(wal->device) / BACK_HOST_SHARE >= wal->block_count - backed;
}

static uint64_t grown(uint64_t backed)
{
    return backed + kv_min_u64(backed, BACK_BLOCKS_MAX);
}

bool kv_wal_calls_for_room(struct kv_wal *wal)
{
    const uint64_t backed = wal->backed_blocks;
    const bool calls = backed < wal->block_count && wal->backed_called != backed && !wal->backing &&
                       kv_wal_backed_end(wal) - next_position(wal) <=
                           kv_min_u64(backed / LEFT_PART, LEFT_BLOCKS_MAX) &&
                       is_flushed_often(wal);
    if (calls)
        wal->backed_called = backed;
    return calls;
}

void kv_wal_make_room(struct kv_wal *wal)
{
    pthread_mutex_lock(&wal->mutex);
    const uint64_t backed = wal->backed_blocks;
    const bool called = backed < wal->block_count && wal->backed_called == backed;
    pthread_mutex_unlock(&wal->mutex);
    if (called && host_has_plenty(wal, backed))
        kv_ignore(back_slots(wal, grown(backed)));
}

/* Blocks that a record takes when it begins in a fresh one. */
static uint64_t record_blocks(size_t length)
{
    return ((uint64_t)length + sizeof(struct kv_disk_record_header) + KV_LOG_PAYLOAD_BYTES - 1) /
           KV_LOG_PAYLOAD_BYTES;
}

/*
 * The block that is being filled counts as full: a sync may seal it before the record begins.
 * Later none is cut short, as a record only waits between blocks.
 */
bool kv_wal_has_room(const struct kv_wal *wal, size_t length)
{
    const uint64_t used = next_position(wal) - wal->tail;
    const uint64_t wanted = record_blocks(length);
    return (used < wal->block_count && wanted <= wal->block_count - used &&
            wanted <= kv_wal_backed_end(wal) - next_position(wal)) ||
           KV_PLANT(log_room_unchecked);
}

/*
 * Grow what is backed when that is what a record lacks. It must when the record takes more than
 * half of it: after a jump each smaller one fits. Else it may; -ENOSPC then is no failure.
 */
static int back_record(struct kv_wal *wal, size_t length)
{
    const uint64_t wanted = record_blocks(length);
    pthread_mutex_lock(&wal->mutex);
    const uint64_t backed = wal->backed_blocks;
    const bool lacking = wanted > kv_wal_backed_end(wal) - next_position(wal);
    pthread_mutex_unlock(&wal->mutex);
    if (wanted > backed / 2)
        return back_slots(wal, 2 * wanted);
    if (!lacking)
        return 0;
    const int err = host_has_plenty(wal, backed) ? back_slots(wal, grown(backed)) : -ENOSPC;
    wal->stuck = err != 0;
    return err == -ENOSPC || err == -EAGAIN ? 0 : err;
}

int kv_wal_room(struct kv_wal *wal, size_t length)
{
    if (length > UINT32_MAX || record_blocks(length) > wal->block_count / 2)
        return -E2BIG;
    pthread_mutex_lock(&wal->mutex);
    const uint64_t backed = wal->backed_blocks;
    bool room = kv_wal_has_room(wal, length);
    pthread_mutex_unlock(&wal->mutex);
    if (backed < wal->block_count && (!room || record_blocks(length) > backed / 2)) {
        const int err = back_record(wal, length);
        if (err)
            return err;
        pthread_mutex_lock(&wal->mutex);
        room = kv_wal_has_room(wal, length);
        pthread_mutex_unlock(&wal->mutex);
    }
    return room ? 0 : -EAGAIN;
}

void kv_wal_give_back(struct kv_wal *wal)
{
    if (!wal->device->thin || wal->block_count <= KV_WAL_BACKED_BLOCKS_MIN)
        return;
    /* A hint: what the host does not take back stays. */
    (void)kv_device_discard(wal->device, wal->first_block + KV_WAL_BACKED_BLOCKS_MIN,
                            wal->block_count - KV_WAL_BACKED_BLOCKS_MIN);
    wal->backed_blocks = KV_WAL_BACKED_BLOCKS_MIN;
}

bool kv_wal_is_short(struct kv_wal *wal)
{
    if (!wal->stuck) /* ours: whoever appends */
        return false;
    pthread_mutex_lock(&wal->mutex);
    const bool is_short = kv_wal_backed_end(wal) - next_position(wal) < wal->backed_blocks / 4;
    pthread_mutex_unlock(&wal->mutex);
    return is_short;
}
