/*
 * kv/wal_replay.c: reading the log back: where it ends, and its records.
 *
 * Owns       nothing but memory for the time of a replay.
 * Invariant  what is visited is a chain of whole blocks from the tail on; what does not continue
 *            it is the end of the log, or damage.
 * Locks      wal->mutex for positions; not held while the device works. Nothing is appended before
 *            a replay has ended.
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
 */
#include "kv/wal_ring.h"

#include "kv/codec.h"

/* ---- blocks --------------------------------------------------------------------- */

/* What the first block after a replay carries instead of its predecessor's digest. */
static uint64_t restart_link(uint64_t link)
{
    const kv_le64 bytes = kv_le64_of(link);
    return kv_digest(&bytes, sizeof bytes, KV_LOG_MAGIC);
}

uint64_t kv_wal_block_digest(uint8_t *block)
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
           (kv_wal_block_digest(bytes) == block->digest || KV_PLANT(log_digest_ignored));
}

/* ---- reading the ring -------------------------------------------------------- */

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
 * The block at the end may itself be whole, and vouches for nothing; but its epoch counts: what is
 * appended from now on must not be what it once continued.
 */
static void look_for_voucher(struct ring_reader *reader, struct log_shape *shape)
{
    const struct kv_wal *wal = reader->wal;
    const uint64_t limit =
        kv_min_u64(wal->open_tail + wal->block_count, shape->end + WINDOW_BLOCKS + 2);
    const uint64_t epoch_least = shape->epoch_max;
    for (uint64_t position = shape->end; position < limit; position++) {
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
    reader.chunk =
        kv_device_alloc_unset((size_t)kv_min_u64(READ_BLOCKS, wal->block_count) * KV_BLOCK_BYTES);
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
    if (err && !kv_error_is_contradiction(err))
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

/* ---- scrubbing ------------------------------------------------------------------- */

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
