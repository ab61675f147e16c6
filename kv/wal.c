/*
 * kv/wal.c: the redo log. A record is durable once its position is.
 *
 * Owns       the log ring, the append buffer, the leader of a flush.
 * Invariant  durable <= written <= sealed <= next, next - tail <= block_count; a trim may move
 *            tail and durable past written, what lies between is then never written. A block
 *            that was handed to the device is never changed. No block is sealed more than
 *            WINDOW_BLOCKS after `durable`.
 * Locks      wal->mutex guards everything that is not marked otherwise. The leader releases it
 *            while the device works; it reads sealed blocks of the buffer, which nobody
 *            changes before `written` has passed them.
 * On disk    struct kv_disk_log_header, payload, zeroes. The payloads are one stream of bytes:
 *            a record, and its header, may begin and end anywhere in a block.
 *
 * Telling damage from the end. The log ends at the first block that does not continue it. A
 * block after that which says "everything below d was durable" with d beyond the bad block
 * proves that the bad one was once whole and promised. As a block at p is only sealed when
 * p - durable < WINDOW_BLOCKS, whatever proves it lies within WINDOW_BLOCKS of it or comes
 * after something that does; looking that far is enough.
 *
 * Going on after a replay. Appending goes on in the block after the one that holds the end of
 * the last accepted record. Three kinds of leftovers must not come back:
 *
 *  - bytes after that record in its own block (a record that was cut or refused). The block
 *    may be durable, so it is not rewritten. The next block's `restart` field says how many of
 *    its payload bytes still count.
 *  - whole blocks of the dropped end, still in place where the new ones go. The first new block
 *    does not carry the plain digest of its predecessor but a digest of that, and the superblock
 *    of a checkpoint that begins there holds the same. An old block continues neither.
 *  - blocks behind a damaged one, which vouch for it (repair only). Appending goes on a whole
 *    lap later: there, every old block is out of place. There is no room until a trim.
 *
 * Room on the host. On a thin device (kv/device.h) only the first `backed_blocks` slots of the
 * ring are certain to have room, and only these are used. It grows when what is logged between
 * two checkpoints takes more than half of it. Where it can not grow, and where it need not, the
 * log jumps back to slot 0: the seal of a checkpoint makes everything durable and moves on to
 * the start of a later lap, more than one lap on, so that there is no room until the trim. Were
 * there room before, records behind the jump could be promised while a superblock still names a
 * tail from which no chain leads to them.
 */
#include "kv/wal.h"

#include "kv/codec.h"
#include "kv/format.h"

#include <pthread.h>

#define BUFFER_BYTES_DEFAULT (4u << 20)
#define BUFFER_BLOCKS_MIN    4u

/* How far blocks may be sealed beyond what is durable: 8 MiB. */
#define WINDOW_BLOCKS 2048u

/* Blocks that replay reads at once. */
#define READ_BLOCKS 256u

/* No image lives long enough to get here. */
#define POSITION_MAX (UINT64_MAX / 4)

#define RING_BLOCKS_MIN 8u

/* The part of the ring that has room on the host doubles, up to 8 MiB at a time. */
#define BACK_BLOCKS_MAX 2048u
/* It grows by choice only while the host has so many times the room that the rest would take. */
#define BACK_HOST_SHARE 4u

struct kv_wal {
    struct kv_device *device; /* immutable after open */
    uint64_t first_block;     /* immutable after open, as are the next four */
    uint64_t block_count;
    uint64_t log_id;
    uint64_t open_tail, open_link; /* where replay begins */

    pthread_mutex_t mutex;
    pthread_cond_t changed; /* durable, written, leading or error changed */

    /* Block p lies at p % buffer_blocks of the buffer, for written <= p < next. */
    uint8_t *buffer;        /* immutable after open */
    uint32_t buffer_blocks; /* immutable after open */

    uint64_t backed_blocks; /* whoever appends; slots that have room on the host */
    bool stuck;             /* whoever appends; that could not grow when it was last wanted */
    uint64_t tail, durable, written, sealed;
    uint32_t fill;    /* payload bytes in the block at `sealed`, which is being filled */
    uint64_t epoch;   /* of that block */
    uint64_t link;    /* what that block's `link` must be */
    uint64_t restart; /* what its `restart` must be */
    bool leading;     /* somebody is writing or flushing */
    int error;        /* the failure that ended the log's use, or 0 */
    uint64_t records, record_bytes, flushes;
};

static uint8_t *buffer_block(const struct kv_wal *wal, uint64_t position)
{
    return wal->buffer + (size_t)(position % wal->buffer_blocks) * KV_BLOCK_BYTES;
}

static uint64_t next_position(const struct kv_wal *wal)
{
    return wal->sealed + (wal->fill > 0);
}

/* What the first block after a replay carries instead of its predecessor's digest. */
static uint64_t restart_link(uint64_t link)
{
    const kv_le64 bytes = kv_le64_of(link);
    return kv_digest(&bytes, sizeof bytes, KV_LOG_MAGIC);
}

/* The digest of a block, which it also holds. */
static uint64_t block_digest(uint8_t *block)
{
    struct kv_disk_log_header header;
    memcpy(&header, block, sizeof header);
    const kv_le64 kept = header.digest;
    header.digest = kv_le64_of(0);
    memcpy(block, &header, sizeof header);
    const uint64_t digest = kv_digest(block, KV_BLOCK_BYTES, 0);
    header.digest = kept;
    memcpy(block, &header, sizeof header);
    return digest;
}

/* ---- room on the host; by whoever appends ------------------------------------- */

/* The first position from the next one on whose block has no certain room. */
static uint64_t backed_end(const struct kv_wal *wal)
{
    if (wal->backed_blocks == wal->block_count)
        return UINT64_MAX;
    const uint64_t next = next_position(wal);
    const uint64_t slot = next % wal->block_count;
    return slot < wal->backed_blocks ? next - slot + wal->backed_blocks : next;
}

/*
 * Have room for at least the first `wanted` slots. What is new is written with zeroes: a flush of
 * blocks that were written before need not make the host's own notes durable too.
 * -EAGAIN: the log that counts may lie there, from when the part was larger (an earlier opening).
 */
static int back_slots(struct kv_wal *wal, uint64_t wanted)
{
    const uint64_t from = wal->backed_blocks;
    const uint64_t to = kv_min_u64(wanted, wal->block_count);
    if (to <= from)
        return 0;
    pthread_mutex_lock(&wal->mutex);
    const bool in_use = wal->tail % wal->block_count + (next_position(wal) - wal->tail) > from;
    pthread_mutex_unlock(&wal->mutex);
    if (in_use)
        return -EAGAIN;
    int err = kv_device_reserve(wal->device, wal->first_block + from, to - from);
    if (!err)
        err = kv_device_write_zeroes(wal->device, wal->first_block + from, to - from);
    if (!err)
        wal->backed_blocks = to;
    return err;
}

static bool host_has_plenty(const struct kv_wal *wal)
{
    const uint64_t missing = wal->block_count - wal->backed_blocks;
    return kv_device_room(wal->device) / BACK_HOST_SHARE >= missing;
}

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
    wal->open_tail = config->tail;
    wal->open_link = config->tail_link;
    wal->tail = wal->durable = wal->written = wal->sealed = config->tail;
    wal->link = config->tail_link;
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

/* ---- reading the ring -------------------------------------------------------- */

/* A block that is whole, of this log and in its place. */
struct log_block {
    uint8_t *payload;
    uint32_t payload_bytes;
    uint64_t durable, epoch, link, restart, digest;
};

static bool decode_block(const struct kv_wal *wal, uint8_t *bytes, uint64_t position,
                         struct log_block *block)
{
    struct kv_disk_log_header header;
    memcpy(&header, bytes, sizeof header);
    *block = (struct log_block){
        .payload = bytes + sizeof header,
        .payload_bytes = kv_le32_get(header.payload_bytes),
        .durable = kv_le64_get(header.durable),
        .epoch = kv_le64_get(header.epoch),
        .link = kv_le64_get(header.link),
        .restart = kv_le64_get(header.restart),
        .digest = kv_le64_get(header.digest),
    };
    return kv_le32_get(header.magic) == KV_LOG_MAGIC && kv_le64_get(header.log_id) == wal->log_id &&
           kv_le64_get(header.position) == position && block->epoch <= KV_EPOCH_MAX &&
           block->payload_bytes > 0 && block->payload_bytes <= KV_LOG_PAYLOAD_BYTES &&
           block->durable <= position && block->restart <= KV_LOG_PAYLOAD_BYTES + 1 &&
           (block_digest(bytes) == block->digest || KV_PLANT(log_digest_ignored));
}

/* Blocks of one lap from the tail, a chunk at a time. */
struct ring_reader {
    const struct kv_wal *wal;
    uint8_t *chunk;
    uint64_t first; /* position of the chunk's first block */
    uint32_t count; /* 0: nothing was read */
};

static int read_ring(struct ring_reader *reader, uint64_t position, uint32_t count)
{
    const struct kv_wal *wal = reader->wal;
    reader->count = 0;
    const int err = kv_device_read(wal->device, wal->first_block + position % wal->block_count,
                                   count, reader->chunk);
    if (err)
        return err;
    reader->first = position;
    reader->count = count;
    return 0;
}

/* The bytes of the block at `position`, valid until the next call. */
static int reader_get(struct ring_reader *reader, uint64_t position, uint8_t **bytes)
{
    const struct kv_wal *wal = reader->wal;
    if (position < reader->first || position >= reader->first + reader->count) {
        const uint64_t lap_left = wal->open_tail + wal->block_count - position;
        const uint64_t ring_left = wal->block_count - position % wal->block_count;
        const uint32_t count = (uint32_t)kv_min_u64(READ_BLOCKS, kv_min_u64(lap_left, ring_left));
        int err = read_ring(reader, position, count);
        if (err && count > 1) /* one bad block must not hide its neighbours */
            err = read_ring(reader, position, 1);
        if (err)
            return err;
    }
    *bytes = reader->chunk + (size_t)(position - reader->first) * KV_BLOCK_BYTES;
    return 0;
}

/* ---- replay, first pass: where the log ends ------------------------------------ */

/* At `position` a replay was followed by new blocks. */
struct restart {
    uint64_t position;
    uint32_t kept_bytes; /* of the payload of the block before */
};

struct log_shape {
    uint64_t end;           /* first position that does not continue the chain */
    uint64_t known_durable; /* everything below it is vouched for */
    uint64_t epoch_max;     /* of all blocks seen */
    bool damaged;           /* the block at `end` is vouched for */
    struct restart *restarts;
    size_t restart_count, restart_cap;
};

static int note_restart(struct log_shape *shape, uint64_t position, uint64_t restart)
{
    if (shape->restart_count == shape->restart_cap) {
        const size_t cap = shape->restart_cap ? shape->restart_cap * 2 : 8;
        struct restart *restarts = realloc(shape->restarts, cap * sizeof *restarts);
        if (!restarts)
            return -ENOMEM;
        shape->restarts = restarts;
        shape->restart_cap = cap;
    }
    shape->restarts[shape->restart_count++] =
        (struct restart){.position = position, .kept_bytes = (uint32_t)(restart - 1)};
    return 0;
}

/* Follow the chain from the tail to its end. */
static int follow_chain(struct ring_reader *reader, struct log_shape *shape)
{
    const struct kv_wal *wal = reader->wal;
    const uint64_t lap_end = wal->open_tail + wal->block_count;
    uint64_t link = wal->open_link;
    for (shape->end = wal->open_tail; shape->end < lap_end; shape->end++) {
        uint8_t *bytes;
        struct log_block block;
        int err = reader_get(reader, shape->end, &bytes);
        if (err)
            return err;
        if (!decode_block(wal, bytes, shape->end, &block))
            return 0;
        if (block.link != link && !(block.restart && block.link == restart_link(link)) &&
            !KV_PLANT(log_link_ignored))
            return 0;
        if (block.restart) {
            err = note_restart(shape, shape->end, block.restart);
            if (err)
                return err;
        }
        link = block.digest;
        shape->epoch_max = kv_max_u64(shape->epoch_max, block.epoch);
        shape->known_durable = kv_max_u64(shape->known_durable, block.durable);
    }
    return 0;
}

/*
 * Does a block after the chain's end vouch for the block at the end? Blocks of an earlier epoch
 * than the chain's last are from a history that was given up. Unreadable blocks say nothing.
 */
static void look_for_voucher(struct ring_reader *reader, struct log_shape *shape)
{
    const struct kv_wal *wal = reader->wal;
    const uint64_t limit =
        kv_min_u64(wal->open_tail + wal->block_count, shape->end + WINDOW_BLOCKS + 2);
    const uint64_t epoch_least = shape->epoch_max;
    for (uint64_t position = shape->end + 1; position < limit; position++) {
        uint8_t *bytes;
        struct log_block block;
        if (reader_get(reader, position, &bytes))
            continue;
        if (!decode_block(wal, bytes, position, &block) || block.epoch < epoch_least)
            continue;
        shape->epoch_max = kv_max_u64(shape->epoch_max, block.epoch);
        shape->known_durable = kv_max_u64(shape->known_durable, block.durable);
    }
    shape->damaged = shape->known_durable > shape->end && !KV_PLANT(log_damage_cut_off);
}

/* ---- replay, second pass: the records ------------------------------------------- */

enum replay_state { REPLAY_ON, REPLAY_ENDED };

struct record_parser {
    const struct kv_wal *wal;
    const struct log_shape *shape;
    kv_wal_visit_fn *visit;
    void *context;

    uint8_t *bytes; /* header and body of the record being put together */
    size_t cap, have;
    uint64_t start, epoch; /* of the block in which it begins */

    uint64_t records;
    uint64_t resume;      /* where appending goes on */
    uint64_t resume_link; /* digest of the block before that */
    uint32_t kept_bytes;  /* of that block's payload */
};

/* Length of the record as far as its header is there, header included. */
static size_t wanted_bytes(const struct record_parser *parser)
{
    struct kv_disk_record_header header;
    if (parser->have < sizeof header)
        return sizeof header;
    memcpy(&header, parser->bytes, sizeof header);
    return sizeof header + kv_le32_get(header.length_bytes);
}

static int parser_reserve(struct record_parser *parser, size_t length)
{
    if (length <= parser->cap)
        return 0;
    size_t cap = parser->cap ? parser->cap : 64 * 1024;
    while (cap < length)
        cap *= 2;
    uint8_t *bytes = realloc(parser->bytes, cap);
    if (!bytes)
        return -ENOMEM;
    parser->bytes = bytes;
    parser->cap = cap;
    return 0;
}

/* A whole record, the last byte of which is in the block at `position`. */
static int finish_record(struct record_parser *parser, uint64_t position, enum replay_state *state)
{
    struct kv_disk_record_header header;
    memcpy(&header, parser->bytes, sizeof header);
    const uint8_t *body = parser->bytes + sizeof header;
    const size_t length = parser->have - sizeof header;
    const bool known_durable = position < parser->shape->known_durable;

    parser->have = 0;
    if (kv_digest(body, length, parser->start) != kv_le64_get(header.digest) &&
        !KV_PLANT(record_digest_ignored)) {
        *state = REPLAY_ENDED;
        return known_durable ? -EBADMSG : 0;
    }
    const int err = parser->visit(parser->context, body, length, parser->epoch, known_durable);
    if (err) {
        *state = REPLAY_ENDED;
        return err == -ECANCELED ? 0 : err;
    }
    parser->records++;
    return 0;
}

/* Take in the payload of one block. `payload_bytes` is what of it counts. */
static int parse_block(struct record_parser *parser, uint64_t position,
                       const struct log_block *block, uint32_t payload_bytes,
                       enum replay_state *state)
{
    /* All that the log still holds from this block on: no record needs more. */
    const uint64_t left_bytes = (parser->shape->end - position) * KV_LOG_PAYLOAD_BYTES;
    uint32_t at = 0;
    while (at < payload_bytes) {
        if (parser->have == 0) {
            parser->start = position;
            parser->epoch = block->epoch;
        }
        size_t wanted = wanted_bytes(parser);
        if (wanted - parser->have > left_bytes) {
            *state = REPLAY_ENDED; /* its end was never written */
            if (KV_PLANT(torn_record_applied) &&
                parser->have > sizeof(struct kv_disk_record_header))
                return parser->visit(
                    parser->context, parser->bytes + sizeof(struct kv_disk_record_header),
                    parser->have - sizeof(struct kv_disk_record_header), parser->epoch, false);
            return 0;
        }
        int err = parser_reserve(parser, wanted);
        if (err)
            return err;
        const size_t take = (size_t)kv_min_u64(wanted - parser->have, payload_bytes - at);
        memcpy(parser->bytes + parser->have, block->payload + at, take);
        parser->have += take;
        at += (uint32_t)take;

        if (parser->have < sizeof(struct kv_disk_record_header) ||
            parser->have < wanted_bytes(parser))
            continue;
        err = finish_record(parser, position, state);
        if (err || *state == REPLAY_ENDED)
            return err;
        parser->resume = position + 1;
        parser->resume_link = block->digest;
        parser->kept_bytes = at;
    }
    return 0;
}

static int parse_records(struct ring_reader *reader, struct record_parser *parser)
{
    const struct log_shape *shape = parser->shape;
    const struct kv_wal *wal = parser->wal;
    enum replay_state state = REPLAY_ON;
    size_t next_restart = 0; /* the first restart behind `position` */
    for (uint64_t position = wal->open_tail; position < shape->end && state == REPLAY_ON;
         position++) {
        uint8_t *bytes;
        struct log_block block;
        int err = reader_get(reader, position, &bytes);
        if (err)
            return err;
        if (!decode_block(wal, bytes, position, &block))
            return -EBADMSG; /* it was whole a moment ago */

        while (next_restart < shape->restart_count &&
               shape->restarts[next_restart].position <= position)
            next_restart++;
        const bool cut = next_restart < shape->restart_count &&
                         shape->restarts[next_restart].position == position + 1;
        const uint32_t payload_bytes =
            cut ? shape->restarts[next_restart].kept_bytes : block.payload_bytes;
        if (payload_bytes > block.payload_bytes)
            return -EUCLEAN;
        err = parse_block(parser, position, &block, payload_bytes, &state);
        if (err)
            return err;
        if (cut && state == REPLAY_ON && parser->have > 0)
            return -EUCLEAN; /* a restart keeps whole records only */
    }
    return 0;
}

/* Go on after what was accepted, see the head of this file. */
static void resume_after(struct kv_wal *wal, const struct log_shape *shape,
                         const struct record_parser *parser)
{
    pthread_mutex_lock(&wal->mutex);
    KV_ASSERT(wal->records == 0);
    wal->sealed = shape->damaged ? shape->end + wal->block_count : parser->resume;
    wal->written = wal->sealed;
    /* What was read may be in the host's cache only: nothing is durable before a flush. */
    wal->durable = wal->open_tail;
    wal->fill = 0;
    wal->link =
        KV_PLANT(restart_link_plain) ? parser->resume_link : restart_link(parser->resume_link);
    wal->restart = KV_PLANT(restart_keeps_all) ? 0 : (uint64_t)parser->kept_bytes + 1;
    pthread_mutex_unlock(&wal->mutex);
}

int kv_wal_replay(struct kv_wal *wal, kv_wal_visit_fn *visit, void *context, struct kv_wal_end *end)
{
    struct log_shape shape = {0};
    struct record_parser parser = {
        .wal = wal,
        .shape = &shape,
        .visit = visit,
        .context = context,
        .resume = wal->open_tail,
        .resume_link = wal->open_link,
    };
    struct ring_reader reader = {.wal = wal};
    *end = (struct kv_wal_end){.position = wal->open_tail};
    int err = -ENOMEM;
    reader.chunk = kv_device_alloc_unset((size_t)READ_BLOCKS * KV_BLOCK_BYTES);
    if (!reader.chunk)
        goto out;

    err = follow_chain(&reader, &shape);
    if (err)
        goto out;
    look_for_voucher(&reader, &shape);
    err = parse_records(&reader, &parser);
    end->position = shape.damaged ? shape.end : parser.resume;
    end->records = parser.records;
    end->epoch_max = shape.epoch_max;
    if (!err && shape.damaged)
        err = -EBADMSG;
    if (err && err != -EBADMSG && err != -EUCLEAN)
        goto out;
    if (err) /* a bad record in a whole block ends the log like a bad block */
        shape.damaged = true;
    resume_after(wal, &shape, &parser);
out:
    free(parser.bytes);
    free(shape.restarts);
    free(reader.chunk);
    return err;
}

/* ---- writing; wal->mutex held ------------------------------------------------------ */

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
    wal->link = block_digest(block);
    header.digest = kv_le64_of(wal->link);
    memcpy(block, &header, sizeof header);
    wal->restart = 0;
    wal->fill = 0;
    wal->sealed++;
}

/* Requests for the sealed blocks [from, to), cut where the ring or the buffer wraps. */
static size_t plan_writes(const struct kv_wal *wal, uint64_t from, uint64_t to, struct kv_io ios[3])
{
    size_t io_count = 0;
    while (from < to) {
        const uint64_t ring_left = wal->block_count - from % wal->block_count;
        const uint64_t buffer_left = wal->buffer_blocks - from % wal->buffer_blocks;
        const uint64_t count = kv_min_u64(to - from, kv_min_u64(ring_left, buffer_left));
        KV_ASSERT(io_count < 3);
        ios[io_count++] = (struct kv_io){.kind = KV_IO_WRITE,
                                         .block = wal->first_block + from % wal->block_count,
                                         .block_count = (uint32_t)count,
                                         .buf = buffer_block(wal, from)};
        from += count;
    }
    return io_count;
}

enum lead_mode { LEAD_WRITE, LEAD_FLUSH };

/* Write what is sealed; the mutex is released meanwhile. Nobody else may be leading. */
static void lead(struct kv_wal *wal, enum lead_mode mode)
{
    KV_ASSERT(!wal->leading);
    KV_ASSERT(!wal->error);
    wal->written = kv_max_u64(wal->written, wal->tail); /* trimmed: not needed any more */
    const uint64_t to = wal->sealed;
    struct kv_io ios[3];
    const size_t io_count = plan_writes(wal, wal->written, to, ios);

    wal->leading = true;
    pthread_mutex_unlock(&wal->mutex);
    int err = 0;
    if (io_count)
        err = kv_device_submit(wal->device, ios, io_count,
                               mode == LEAD_FLUSH && !KV_PLANT(sync_without_flush));
    else if (mode == LEAD_FLUSH)
        err = kv_device_flush(wal->device);
    pthread_mutex_lock(&wal->mutex);
    wal->leading = false;

    if (err && !KV_PLANT(failed_flush_forgotten)) {
        wal->error = err;
    } else {
        wal->written = to;
        if (mode == LEAD_FLUSH) {
            wal->durable = kv_max_u64(wal->durable, to);
            wal->flushes++;
        }
    }
    pthread_cond_broadcast(&wal->changed);
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
            memset(buffer_block(wal, wal->sealed), 0, KV_BLOCK_BYTES);
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
        memcpy(buffer_block(wal, wal->sealed) + sizeof(struct kv_disk_log_header) + wal->fill,
               bytes, take);
        wal->fill += (uint32_t)take;
        bytes += take;
        length -= take;
        if (wal->fill == KV_LOG_PAYLOAD_BYTES)
            seal_current(wal);
    }
    return 0;
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
static bool has_room(const struct kv_wal *wal, size_t length)
{
    const uint64_t used = next_position(wal) - wal->tail;
    const uint64_t wanted = record_blocks(length);
    return (used <= wal->block_count && wanted <= wal->block_count - used &&
            wanted <= backed_end(wal) - next_position(wal)) ||
           KV_PLANT(log_room_unchecked);
}

/*
 * Grow what is backed when that is what a record lacks. It must when the record takes more than
 * half of it: after a jump each smaller one fits. Else it may; -ENOSPC then is no failure.
 */
static int back_record(struct kv_wal *wal, size_t length)
{
    const uint64_t wanted = record_blocks(length);
    const uint64_t backed = wal->backed_blocks;
    pthread_mutex_lock(&wal->mutex);
    const bool lacking = wanted > backed_end(wal) - next_position(wal);
    pthread_mutex_unlock(&wal->mutex);
    if (wanted > backed / 2)
        return back_slots(wal, 2 * wanted);
    if (!lacking)
        return 0;
    const int err = host_has_plenty(wal)
                        ? back_slots(wal, backed + kv_min_u64(backed, BACK_BLOCKS_MAX))
                        : -ENOSPC;
    wal->stuck = err != 0;
    return err == -ENOSPC || err == -EAGAIN ? 0 : err;
}

int kv_wal_room(struct kv_wal *wal, size_t length)
{
    if (length > UINT32_MAX || record_blocks(length) > wal->block_count / 2)
        return -E2BIG;
    if (wal->backed_blocks < wal->block_count) {
        const int err = back_record(wal, length);
        if (err)
            return err;
    }
    pthread_mutex_lock(&wal->mutex);
    const bool room = has_room(wal, length);
    pthread_mutex_unlock(&wal->mutex);
    return room ? 0 : -EAGAIN;
}

bool kv_wal_is_short(struct kv_wal *wal)
{
    pthread_mutex_lock(&wal->mutex);
    const bool is_short =
        wal->stuck && backed_end(wal) - next_position(wal) < wal->backed_blocks / 4;
    pthread_mutex_unlock(&wal->mutex);
    return is_short;
}

int kv_wal_append(struct kv_wal *wal, const void *body, size_t length, uint64_t epoch,
                  uint64_t *position)
{
    KV_ASSERT(length <= UINT32_MAX);
    int err = 0;
    pthread_mutex_lock(&wal->mutex);
    KV_ASSERT(has_room(wal, length));
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
out:
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
    while (!wal->error && wal->durable < position) {
        if (wal->leading) {
            if (KV_PLANT(follower_acked_early))
                break;
            pthread_cond_wait(&wal->changed, &wal->mutex);
            continue;
        }
        if (wal->fill > 0)
            seal_current(wal);
        lead(wal, LEAD_FLUSH);
    }
    const int err = wal->error;
    pthread_mutex_unlock(&wal->mutex);
    return err;
}

/* See the head of this file. Nothing is appended meanwhile, and no block is being filled. */
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

int kv_wal_seal(struct kv_wal *wal, uint64_t epoch, uint64_t *position, uint64_t *link)
{
    (void)epoch; /* a block takes the epoch of the records that it begins with */
    pthread_mutex_lock(&wal->mutex);
    int err = wal->error;
    if (!err && wal->fill > 0)
        seal_current(wal);
    if (!err && backed_end(wal) - wal->sealed < wal->backed_blocks / 2)
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

int kv_wal_verify(struct kv_wal *wal, uint64_t *position, uint64_t *link, uint32_t count)
{
    pthread_mutex_lock(&wal->mutex);
    const uint64_t end = wal->tail <= *position ? wal->durable : 0;
    pthread_mutex_unlock(&wal->mutex);
    if (*position >= end)
        return -ENOENT;
    const uint64_t slot = *position % wal->block_count;
    count = (uint32_t)kv_min_u64(kv_min_u64(count, READ_BLOCKS),
                                 kv_min_u64(end - *position, wal->block_count - slot));
    uint8_t *bytes = kv_device_alloc((size_t)count * KV_BLOCK_BYTES);
    if (!bytes)
        return -ENOMEM;
    int err = kv_device_read(wal->device, wal->first_block + slot, count, bytes);
    for (uint32_t i = 0; i < count && !err; i++) {
        struct log_block block;
        if (!decode_block(wal, bytes + (size_t)i * KV_BLOCK_BYTES, *position, &block) ||
            block.link != *link) {
            err = -EBADMSG;
            break;
        }
        *link = block.digest;
        ++*position;
    }
    free(bytes);
    return err;
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
    };
    pthread_mutex_unlock(&wal->mutex);
}
