/*
 * kv/blob_read.c: reading blobs, whole or in frames, and verifying them.
 *
 * Owns       the memory that stored bytes are read to, until they were given out.
 * Invariant  no byte is given out whose digest was not found right, by way of the reference or of
 *            the table that the caller has.
 * Locks      none.
 *
 * Of a blob in frames only those are read that are wanted, if the caller has their entries of the
 * table; unpacked or as they are they go to where they are wanted, and to the cache when it is
 * little that is wanted. Who asks for one frame after the other gets twice as many read each time.
 *
 * Who does not wait (kv_blobs_read_begin) holds nothing that would keep the blob: its blocks may
 * have been given to another by the time its bytes are there. The digests are seeded with the place
 * and the epoch of writing, so nothing else passes for it, and what fails is read again by the
 * caller under its lock: as kv_get does with large values.
 */
#include "kv/blob.h"
#include "kv/codec.h"

static struct kv_disk_blob_ref disk_ref(const struct kv_blob_ref *ref)
{
    struct kv_disk_blob_ref disk;
    memcpy(&disk, ref->bytes, sizeof disk);
    return disk;
}

/* A blob, or frames of it, on its way into memory. */
struct load {
    struct kv_disk_blob_ref disk;
    uint32_t raw;          /* bytes before packing */
    uint32_t frame_bytes;  /* 0: it is not in frames */
    uint32_t first, count; /* frames that are read; count 0: all of the blob, as one */
    const uint8_t *table;  /* if count: the first entry is that of table_first */
    uint32_t table_first;
    uint8_t *memory; /* where the device puts what is read */
    size_t room;
    uint8_t *stored;                 /* in it: the first stored byte that is this blob's */
    uint32_t stored_at;              /* and which of the blob's that is */
    struct kv_blob_neighbours *near; /* who else is in `memory`; NULL: nobody */
    bool in_memory;                  /* its stored bytes were, and stay so for a while */
    bool lent; /* `memory` is the caller's: what is wanted is what is stored */
    const struct kv_blob_part *part; /* what is wanted of it, and the next two are for reading */
    bool ended;                      /* it was verified and given out, or `result` says why not */
    int result;
};

static void describe(struct load *load, const struct kv_blob_ref *ref)
{
    load->disk = disk_ref(ref);
    load->raw = kv_le32_get(load->disk.raw_bytes);
    load->frame_bytes = load->disk.form == KV_BLOB_FORM_FRAMES
                            ? kv_blob_frame_bytes(load->disk.ptr.codec, load->raw)
                            : 0;
}

/* ---- memory and requests ------------------------------------------------------------ */

/* Find memory for `count` blocks from `block` on (`target`, unless NULL), fill in the request. */
static int begin_request(struct kv_blobs *blobs, uint64_t block, uint32_t count, void *target,
                         struct load *load, struct kv_io *io)
{
    load->room = count * (size_t)KV_BLOCK_BYTES;
    load->lent = target;
    load->memory = target ? target : kv_buffers_take(blobs->buffers, load->room);
    if (!load->memory)
        return -ENOMEM;
    load->stored = load->memory;
    *io = (struct kv_io){
        .kind = KV_IO_READ, .block = block, .block_count = count, .buf = load->memory};
    return 0;
}

static void end_load(struct kv_blobs *blobs, struct load *load)
{
    if (!load->lent)
        kv_buffers_give(blobs->buffers, load->memory, load->room);
    free(load->near);
}

static void count_read(struct kv_blobs *blobs, const struct load *load)
{
    (void)atomic_fetch_add_explicit(&blobs->reads, 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&blobs->read_bytes, load->room, memory_order_relaxed);
}

/* Is all of the blob what the reference means? `stored` is. */
static int verify_whole(const struct load *load)
{
    const struct kv_disk_ptr *ptr = &load->disk.ptr;
    uint64_t digest;
    if (load->frame_bytes) {
        uint8_t table[KV_BLOB_TABLE_MAX];
        const size_t length = kv_blob_frames_table(&load->disk, load->stored, table);
        if (!length)
            return -EBADMSG; /* what the reference means would have one */
        digest = kv_blob_frames_root(&load->disk, table, length);
    } else {
        const uint64_t seed =
            kv_digest_seed(kv_le64_get(ptr->block), kv_le64_get(ptr->birth_epoch));
        digest = kv_digest(load->stored, kv_le32_get(ptr->length_bytes), seed);
    }
    return digest == kv_le64_get(ptr->digest) || KV_PLANT(blob_checksum_ignored) ? 0 : -EBADMSG;
}

/* ---- giving out ------------------------------------------------------------------------ */

/* So much at once is kept; a whole blob up to this length is, too: reading 32 KiB takes the device
 * hardly longer than reading one block. */
#define KEEP_BYTES 32768u

/* Is what is read for this part worth keeping? */
static bool is_kept(const struct kv_blobs *blobs, const struct load *load)
{
    if (!blobs->cache)
        return false;
    return load->part->retain || load->part->length <= KEEP_BYTES ||
           (!load->frame_bytes && load->part->length < load->raw);
}

static int unpack(struct kv_blobs *blobs, const struct load *load, const uint8_t *stored,
                  size_t length, uint8_t *content, size_t content_length)
{
    const uint8_t codec = load->disk.ptr.codec;
    struct kv_metrics *metrics = blobs->device->metrics;
    const uint64_t begin = kv_metrics_begin(metrics, KV_METRIC_CODEC);
    const int err = kv_codec_unpack(codec, stored, length, content, content_length);
    kv_metrics_unpacked(metrics, begin, codec, content_length);
    return err;
}

/* A stretch of a blob's content that is packed by itself: a frame, or all of it. */
struct stretch {
    uint32_t piece;        /* its number in the cache */
    size_t offset, length; /* of its content in the blob's */
    const uint8_t *stored;
    size_t stored_length;
    bool packed;
};

/* Give out what the part wants of it, and keep it if `kept`. It was verified. */
static int give_stretch(struct kv_blobs *blobs, const struct load *load,
                        const struct stretch *stretch, bool kept)
{
    const struct kv_blob_part *const part = load->part;
    const size_t begin = kv_max_u64(part->offset, stretch->offset);
    const size_t end = kv_min_u64(part->offset + part->length, stretch->offset + stretch->length);
    const bool wanted = begin < end, all = wanted && end - begin == stretch->length;
    uint8_t *const into = wanted ? (uint8_t *)part->buf + (begin - part->offset) : NULL;
    const uint8_t *content = stretch->stored;
    uint8_t *scratch = NULL;
    int err = 0;
    if (!wanted && !kept)
        return 0;
    if (stretch->packed) {
        if (!all)
            scratch = kv_buffers_take(blobs->buffers, stretch->length);
        uint8_t *const whole = all ? into : scratch;
        if (!whole)
            return -ENOMEM;
        err = unpack(blobs, load, stretch->stored, stretch->stored_length, whole, stretch->length);
        content = whole;
    } else if (stretch->stored_length != stretch->length) {
        return -EUCLEAN;
    }
    if (!err && wanted && content + (begin - stretch->offset) != into)
        memcpy(into, content + (begin - stretch->offset), end - begin);
    if (!err && kept)
        kv_blob_cache_keep(blobs->cache, &load->disk, stretch->piece, content, stretch->length,
                           !part->length     ? KV_BLOB_AHEAD
                           : part->retain    ? KV_BLOB_RETAIN
                           : load->in_memory ? KV_BLOB_SPARE
                                             : KV_BLOB_USED);
    kv_buffers_give(blobs->buffers, scratch, stretch->length);
    return err;
}

/* Frame `index` of a load, as it lies in memory. */
static struct stretch stretch_of(const struct load *load, uint32_t index,
                                 const struct kv_blob_frame *frame)
{
    const size_t length = kv_blob_frame_raw(load->raw, load->frame_bytes, index);
    return (struct stretch){.piece = index,
                            .offset = (size_t)index * load->frame_bytes,
                            .length = length,
                            .stored = load->stored + (frame->at - load->stored_at),
                            .stored_length = frame->length_bytes,
                            .packed = load->disk.ptr.codec != KV_CODEC_NONE &&
                                      frame->length_bytes < length};
}

/* What is wanted of a blob whose stored bytes are all there and right. */
static int give_whole(struct kv_blobs *blobs, const struct load *load, bool kept)
{
    if (!load->frame_bytes) {
        const struct stretch stretch = {.length = load->raw,
                                        .stored = load->stored,
                                        .stored_length = kv_le32_get(load->disk.ptr.length_bytes),
                                        .packed = load->disk.ptr.codec != KV_CODEC_NONE};
        return give_stretch(blobs, load, &stretch, kept);
    }
    const uint32_t count = kv_blob_frame_count(load->raw, load->frame_bytes);
    struct kv_blob_frame frame = {
        .at = load->disk.ptr.codec == KV_CODEC_NONE ? 0 : count * (uint32_t)sizeof(kv_le32)};
    int err = 0;
    for (uint32_t i = 0; i < count && !err; i++, frame.at += frame.length_bytes) {
        frame.length_bytes = kv_blob_frame_raw(load->raw, load->frame_bytes, i);
        if (load->disk.ptr.codec != KV_CODEC_NONE) {
            kv_le32 length;
            memcpy(&length, load->stored + i * sizeof length, sizeof length);
            frame.length_bytes = kv_le32_get(length);
        }
        const struct stretch stretch = stretch_of(load, i, &frame);
        err = give_stretch(blobs, load, &stretch, kept);
    }
    return err;
}

/* Frames that were read: verify each, and give out what is wanted. */
static int give_frames(struct kv_blobs *blobs, const struct load *load, bool kept)
{
    struct kv_blob_frame frames[KV_BLOB_FRAMES_MAX];
    int err = kv_blob_frames_from_table(&load->disk, load->table, load->table_first, load->first,
                                        load->count, frames);
    for (uint32_t i = 0; i < load->count && !err; i++) {
        const struct stretch stretch = stretch_of(load, load->first + i, &frames[i]);
        const size_t wanted_end = load->part->offset + load->part->length;
        err = kv_blob_frame_verify(&load->disk, &frames[i], stretch.stored);
        if (!err)
            err = give_stretch(blobs, load, &stretch, kept);
        if (err && stretch.offset >= wanted_end)
            return 0; /* read ahead: whoever wants it will hear of it */
    }
    return err;
}

/* ---- what is in memory ------------------------------------------------------------------ */

/* Who reads much at once goes by, also by what was read ahead for him. */
static enum kv_blob_wanted use_of(const struct kv_blob_part *part)
{
    if (part->retain)
        return KV_BLOB_WANTED_RETAIN;
    return part->length > KEEP_BYTES ? KV_BLOB_WANTED_ONCE : KV_BLOB_WANTED;
}

/* Take the part from the cache, if all of it is there. */
static bool is_cached(struct kv_blobs *blobs, const struct load *load)
{
    const struct kv_blob_part *const part = load->part;
    if (!blobs->cache)
        return false;
    if (!load->frame_bytes)
        return kv_blob_cache_copy(blobs->cache, &load->disk, 0, part->offset, part->buf,
                                  part->length, use_of(part));
    if (load->disk.ptr.codec == KV_CODEC_NONE && use_of(part) == KV_BLOB_WANTED_ONCE &&
        kv_blob_cache_copy(blobs->cache, &load->disk, KV_BLOB_PIECE_STORED, part->offset, part->buf,
                           part->length, KV_BLOB_WANTED_ONCE))
        return true; /* read ahead, as it is */
    size_t done = 0;
    while (done < part->length) {
        const size_t offset = part->offset + done;
        const uint32_t piece = (uint32_t)(offset / load->frame_bytes);
        const size_t inside = offset % load->frame_bytes;
        const size_t take = kv_min_u64(load->frame_bytes - inside, part->length - done);
        if (!kv_blob_cache_copy(blobs->cache, &load->disk, piece, inside,
                                (uint8_t *)part->buf + done, take, use_of(part)))
            return false;
        done += take;
    }
    return true;
}

/* What is in memory as it is stored, need it be there unpacked, too? Who wants a part will want
 * others; who wants all of it is served by unpacking it once more. */
static bool is_worth_unpacked(const struct load *load)
{
    return load->part->length < load->raw;
}

/* Is all of a packed blob in the cache as it is stored? Then the part of it. *found as below. */
static int read_stored(struct kv_blobs *blobs, struct load *load, bool *found)
{
    const uint32_t length = kv_le32_get(load->disk.ptr.length_bytes);
    *found = false;
    if (!blobs->cache || load->disk.ptr.codec == KV_CODEC_NONE || load->raw > KV_BLOB_WRITTEN_MAX ||
        !kv_blob_cache_has(blobs->cache, &load->disk, KV_BLOB_PIECE_STORED))
        return 0;
    uint8_t *const stored = kv_buffers_take(blobs->buffers, length);
    if (!stored)
        return -ENOMEM;
    int err = 0;
    *found = kv_blob_cache_copy(blobs->cache, &load->disk, KV_BLOB_PIECE_STORED, 0, stored, length,
                                use_of(load->part));
    if (*found) {
        load->stored = stored;
        load->in_memory = true;
        err = give_whole(blobs, load, is_worth_unpacked(load) && is_kept(blobs, load));
    }
    kv_buffers_give(blobs->buffers, stored, length);
    return err;
}

/* The part of a blob that waits to be written, or did so lately. *found false: it is not there. */
static int read_pending(struct kv_blobs *blobs, struct load *load, bool *found)
{
    uint64_t number;
    const uint8_t *stored =
        blobs->pending ? kv_blob_pending_pin(blobs->pending, &load->disk, &number) : NULL;
    *found = stored != NULL;
    if (!stored)
        return 0;
    load->stored = (uint8_t *)stored; /* only read */
    load->in_memory = load->raw <= KV_BLOB_WRITTEN_MAX;
    const struct kv_blob_part *const part = load->part;
    const bool packed = load->disk.ptr.codec != KV_CODEC_NONE;
    const bool again = !load->in_memory || is_worth_unpacked(load);
    int err = 0;
    if (!packed && !part->retain && part->length &&
        kv_le32_get(load->disk.ptr.length_bytes) == load->raw)
        memcpy(part->buf, stored + part->offset, part->length); /* as it is, in frames or not */
    else
        err = give_whole(blobs, load, ((packed && again) || part->retain) && is_kept(blobs, load));
    kv_blob_pending_unpin(blobs->pending, number);
    return err;
}

/* ---- what is on the device ---------------------------------------------------------------- */

/* So many frames before one that is wanted are looked at. */
#define RUN_MAX 16u

/* Choose the frames to be read. 0 and load->count 0: all of the blob. *ahead: more than is wanted
 * may be read; whether it is, on return. */
static int choose_frames(struct kv_blobs *blobs, struct load *load, bool *ahead)
{
    const bool may_read_ahead = *ahead;
    *ahead = false;
    const struct kv_blob_part *const part = load->part;
    if (!load->frame_bytes || !part->table || !part->length)
        return 0;
    const size_t end = part->offset + part->length;
    if (part->table_from > part->offset || part->table_to < end || part->table_to > load->raw)
        return -ERANGE;
    load->table = part->table;
    load->table_first = (uint32_t)(part->table_from / load->frame_bytes);
    load->first = (uint32_t)(part->offset / load->frame_bytes);
    uint32_t last = (uint32_t)((end - 1) / load->frame_bytes);
    if (may_read_ahead && is_kept(blobs, load)) {
        const uint32_t known_last = (uint32_t)((part->table_to - 1) / load->frame_bytes);
        const uint32_t run = kv_blob_cache_run(blobs->cache, &load->disk, load->first, RUN_MAX);
        *ahead = run && last < known_last;
        last = (uint32_t)kv_min_u64(last + run, known_last);
    }
    load->count = last - load->first + 1;
    if (load->count == kv_blob_frame_count(load->raw, load->frame_bytes))
        load->count = 0;
    return 0;
}

/* Is what the part wants just what will be read? */
static bool wants_all(const struct load *load)
{
    const struct kv_blob_part *const part = load->part;
    const uint64_t begin = (uint64_t)load->first * load->frame_bytes;
    const uint64_t end =
        load->count ? kv_min_u64(load->raw, begin + (uint64_t)load->count * load->frame_bytes)
                    : load->raw;
    return part->offset == (load->count ? begin : 0) && part->offset + part->length == end;
}

/* Can the device write where the caller wants the bytes? */
static void *target_of(const struct load *load)
{
    const struct kv_blob_part *const part = load->part;
    const bool aligned =
        (uintptr_t)part->buf % KV_BLOCK_BYTES == 0 && part->length % KV_BLOCK_BYTES == 0;
    return load->disk.ptr.codec == KV_CODEC_NONE && aligned && wants_all(load) ? part->buf : NULL;
}

/* One request for all of a small blob and for those that lie beside it. false: they do not come
 * along. */
static bool begin_near(struct kv_blobs *blobs, uint64_t block, uint32_t block_count,
                       struct load *load, struct kv_io *io)
{
    const struct kv_blob_part *const part = load->part;
    if (!blobs->near || !part->key_len || part->length != load->raw ||
        block_count > KV_BLOB_NEAR_BLOB_BLOCKS || !is_kept(blobs, load))
        return false;
    struct kv_blob_neighbours *const near =
        kv_blob_near_choose(blobs, part->key, part->key_len, block, block_count);
    if (!near)
        return false;
    if (begin_request(blobs, near->block, near->block_count, NULL, load, io)) {
        free(near); /* less memory may be had */
        return false;
    }
    load->near = near;
    load->stored = load->memory + (block - near->block) * KV_BLOCK_BYTES;
    return true;
}

/* A request for what is wanted. The reference was checked. */
static int begin_load(struct kv_blobs *blobs, uint64_t block, uint32_t block_count,
                      struct load *load, bool *ahead, struct kv_io *io)
{
    const bool may_read_ahead = *ahead;
    int err = choose_frames(blobs, load, ahead);
    if (!err && !load->count && may_read_ahead && begin_near(blobs, block, block_count, load, io)) {
        *ahead = true;
        return 0;
    }
    if (err || !load->count)
        return err ? err : begin_request(blobs, block, block_count, target_of(load), load, io);
    struct kv_blob_frame frames[KV_BLOB_FRAMES_MAX];
    err = kv_blob_frames_from_table(&load->disk, load->table, load->table_first, load->first,
                                    load->count, frames);
    if (err)
        return err;
    const struct kv_blob_frame *const last = &frames[load->count - 1];
    const uint32_t begin_block = frames[0].at / KV_BLOCK_BYTES;
    const uint32_t end_block = (uint32_t)kv_blocks_for(last->at + last->length_bytes);
    KV_ASSERT(end_block <= block_count);
    load->stored_at = begin_block * KV_BLOCK_BYTES;
    return begin_request(blobs, block + begin_block, end_block - begin_block, target_of(load), load,
                         io);
}

/* Blobs side by side go with one request up to here; longer ones are verified as they come. */
#define MERGED_BLOCKS_MAX 32u

/* Requests of one submission, and for each the loads that it serves: [first, next request's). */
struct reading {
    struct kv_blobs *blobs;
    struct load loads[KV_BLOB_PARTS_MAX];
    struct kv_io ios[KV_BLOB_PARTS_MAX];
    size_t first[KV_BLOB_PARTS_MAX + 1];
    size_t load_count, io_count;
    bool may_ahead, was_ahead; /* frames that nobody asked for may be read; some were */
};

/* Who came along stays in memory, if he is sound: whoever wants one that is not will hear of it. */
static void keep_near(struct kv_blobs *blobs, const struct load *with)
{
    const struct kv_blob_neighbours *const near = with->near;
    for (uint32_t i = 0; i < near->count; i++) {
        const struct kv_blob_part nothing = {.ref = near->refs[i]};
        struct load load = {.part = &nothing};
        describe(&load, &nothing.ref);
        const uint64_t block = kv_le64_get(load.disk.ptr.block);
        load.stored = with->memory + (block - near->block) * KV_BLOCK_BYTES;
        if (!verify_whole(&load))
            kv_ignore(give_whole(blobs, &load, true));
    }
}

/* The bytes are there: verify them, and give out what is wanted. */
static void end_part(struct kv_blobs *blobs, struct load *load)
{
    load->ended = true;
    count_read(blobs, load);
    const bool kept = is_kept(blobs, load);
    if (load->count) {
        load->result = give_frames(blobs, load, kept);
        return;
    }
    load->result = verify_whole(load);
    if (!load->result && !(load->lent && !kept))
        load->result = give_whole(blobs, load, kept);
    if (load->near)
        keep_near(blobs, load);
}

/* A request is done, maybe while others are under way. */
static void end_request(struct kv_io *io)
{
    struct reading *const reading = io->context;
    const size_t at = (size_t)(io - reading->ios);
    KV_ASSERT(at < reading->io_count);
    for (size_t i = reading->first[at]; i < reading->first[at + 1] && !io->result; i++)
        end_part(reading->blobs, &reading->loads[i]);
}

/* A part from memory (*found), or a request for it. */
static int find_part(struct kv_blobs *blobs, const struct kv_blob_part *part, struct load *load,
                     bool *ahead, struct kv_io *io, bool *found)
{
    *load = (struct load){.part = part};
    describe(load, &part->ref);
    if (part->offset > load->raw || part->length > load->raw - part->offset)
        return -ERANGE;
    uint64_t block;
    uint32_t block_count;
    int err = kv_blobs_extent(blobs, &part->ref, &block, &block_count);
    *found = !err && is_cached(blobs, load);
    const bool missed = !err && !*found && blobs->cache;
    if (!err && !*found)
        err = read_stored(blobs, load, found);
    if (!err && !*found)
        err = read_pending(blobs, load, found);
    if (missed && *found)
        kv_blob_cache_was_hit(blobs->cache);
    return err || *found ? err : begin_load(blobs, block, block_count, load, ahead, io);
}

/* One more part: from memory, or with a request. */
static int add_part(struct reading *reading, const struct kv_blob_part *part)
{
    struct load *const load = &reading->loads[reading->load_count];
    struct kv_io *const io = &reading->ios[reading->io_count];
    bool ahead = reading->may_ahead, found = false;
    const int err = find_part(reading->blobs, part, load, &ahead, io, &found);
    if (err || found)
        return err;
    reading->was_ahead |= ahead;
    struct kv_io *const last = reading->io_count ? io - 1 : NULL;
    if (last && last->block + last->block_count == io->block &&
        (uint8_t *)last->buf + kv_io_bytes(last) == load->memory &&
        last->block_count + io->block_count <= MERGED_BLOCKS_MAX) {
        last->block_count += io->block_count;
    } else {
        io->done = end_request;
        io->context = reading;
        reading->first[reading->io_count++] = reading->load_count;
    }
    reading->first[reading->io_count] = ++reading->load_count;
    return 0;
}

/* At most KV_BLOB_PARTS_MAX parts. What is not in memory is read with one submission. */
static int read_together(struct kv_blobs *blobs, const struct kv_blob_part *parts, size_t count,
                         bool *ahead)
{
    struct reading reading;
    reading.blobs = blobs;
    reading.load_count = reading.io_count = 0;
    reading.may_ahead = *ahead;
    reading.was_ahead = false;
    int err = 0;
    for (size_t i = 0; i < count && !err; i++)
        err = add_part(&reading, &parts[i]);
    if (!err && reading.io_count)
        err = kv_device_submit(blobs->device, reading.ios, reading.io_count, false);
    for (size_t i = 0; i < reading.load_count; i++) {
        struct load *const load = &reading.loads[i];
        if (!err && !load->ended)
            end_part(blobs, load);
        if (!err)
            err = load->result;
        end_load(blobs, load);
    }
    *ahead = reading.was_ahead;
    return err;
}

int kv_blobs_read(struct kv_blobs *blobs, const struct kv_blob_part *parts, size_t count)
{
    int err = 0;
    for (size_t at = 0; at < count && !err; at += KV_BLOB_PARTS_MAX) {
        const size_t now = kv_min_u64(count - at, KV_BLOB_PARTS_MAX);
        bool ahead = true;
        err = read_together(blobs, parts + at, now, &ahead);
        if (err == -EIO && ahead) { /* maybe what nobody asked for can not be read */
            ahead = false;
            err = read_together(blobs, parts + at, now, &ahead);
        }
    }
    return err;
}

/* ---- ahead of need ----------------------------------------------------------------------------
 */

/* Blobs that are read for nobody yet. */
struct errand {
    struct kv_blobs *blobs;
    struct kv_blob_part nothing[KV_BLOBS_AT_ONCE];
    struct load loads[KV_BLOBS_AT_ONCE];
    struct kv_io ios[KV_BLOBS_AT_ONCE];
    size_t count;
};

static bool is_in_memory(struct kv_blobs *blobs, const struct load *load)
{
    return kv_blob_cache_has(blobs->cache, &load->disk, 0) ||
           kv_blob_cache_has(blobs->cache, &load->disk, KV_BLOB_PIECE_STORED);
}

static void end_errand(struct kv_io *io)
{
    struct errand *const errand = io->context;
    struct load *const load = &errand->loads[io - errand->ios];
    if (io->result || load->ended)
        return;
    load->ended = true;
    count_read(errand->blobs, load);
    if (verify_whole(load))
        return;
    if (load->frame_bytes && load->disk.ptr.codec == KV_CODEC_NONE)
        kv_blob_cache_keep(errand->blobs->cache, &load->disk, KV_BLOB_PIECE_STORED, load->stored,
                           load->raw, KV_BLOB_AHEAD);
    else
        kv_ignore(give_whole(errand->blobs, load, true));
}

static void add_errand(struct errand *errand, const struct kv_blob_ref *ref)
{
    struct load *const load = &errand->loads[errand->count];
    struct kv_io *const io = &errand->ios[errand->count];
    uint64_t block;
    uint32_t block_count;
    errand->nothing[errand->count] = (struct kv_blob_part){.ref = *ref};
    *load = (struct load){.part = &errand->nothing[errand->count]};
    describe(load, ref);
    if (kv_blobs_extent(errand->blobs, ref, &block, &block_count) ||
        is_in_memory(errand->blobs, load) ||
        begin_request(errand->blobs, block, block_count, NULL, load, io))
        return;
    io->result = -EIO; /* until it has one */
    io->done = end_errand;
    io->context = errand;
    errand->count++;
}

void kv_blobs_prefetch(struct kv_blobs *blobs, const struct kv_blob_ref *refs, size_t count)
{
    if (!blobs->cache || !kv_blob_cache_ahead_pays(blobs->cache))
        return;
    for (size_t at = 0; at < count;) {
        struct errand errand = {.blobs = blobs};
        while (at < count && errand.count < KV_BLOBS_AT_ONCE)
            add_errand(&errand, &refs[at++]);
        if (errand.count) /* each request has its own result */
            kv_ignore(kv_device_submit(blobs->device, errand.ios, errand.count, false));
        for (size_t i = 0; i < errand.count; i++) {
            end_errand(&errand.ios[i]);
            end_load(blobs, &errand.loads[i]);
        }
    }
}

/* ---- without waiting ------------------------------------------------------------------------- */

struct kv_blob_reading {
    struct kv_blob_part part; /* its table is: */
    uint8_t table[KV_BLOB_TABLE_MAX];
    struct load load;
    struct kv_io io;
    uint64_t begin_ns; /* 0: nobody wants to know */
};

int kv_blobs_read_begin(struct kv_blobs *blobs, const struct kv_blob_part *part,
                        struct kv_blob_reading **out, struct kv_blob_transfer *transfer)
{
    *out = NULL;
    if (!blobs->device->ops->descriptor)
        return -EOPNOTSUPP;
    struct load wanted;
    struct kv_io io;
    bool ahead = true, found = false;
    int err = find_part(blobs, part, &wanted, &ahead, &io, &found);
    if (err || found)
        return err;
    struct kv_blob_reading *const reading = malloc(sizeof *reading);
    if (!reading) {
        end_load(blobs, &wanted);
        return -ENOMEM;
    }
    struct load *const load = &reading->load;
    *load = wanted;
    reading->io = io;
    err = kv_device_describe_read(blobs->device, &reading->io, &transfer->descriptor);
    if (err) {
        end_load(blobs, load);
        goto out;
    }
    transfer->offset = reading->io.block * KV_BLOCK_BYTES;
    transfer->buf = reading->io.buf;
    transfer->length = (uint32_t)kv_io_bytes(&reading->io);
    reading->begin_ns = kv_metrics_begin(blobs->device->metrics, KV_METRIC_IO);
    reading->part = *part;
    load->part = &reading->part;
    if (load->count) {
        size_t at;
        const size_t length = kv_blob_table_range(&part->ref, part->table_from,
                                                  part->table_to - part->table_from, &at);
        KV_ASSERT(length <= sizeof reading->table);
        memcpy(reading->table, part->table, length);
        load->table = reading->table;
    }
    *out = reading;
    return 0;
out:
    free(reading);
    return err;
}

int kv_blobs_read_end(struct kv_blobs *blobs, struct kv_blob_reading *reading, int result)
{
    struct load *const load = &reading->load;
    kv_metrics_end(blobs->device->metrics, KV_HISTOGRAM_DEVICE_READ, reading->begin_ns);
    int err = result < 0 || (uint64_t)result != kv_io_bytes(&reading->io) ? -EIO : 0;
    if (!err) {
        end_part(blobs, load);
        err = load->result;
    }
    end_load(blobs, load);
    free(reading);
    return err;
}

/* ---- verifying ------------------------------------------------------------------------------ */

int kv_blobs_table(struct kv_blobs *blobs, const struct kv_blob_ref *ref,
                   uint8_t table[KV_BLOB_TABLE_MAX], size_t *length)
{
    struct load load = {.part = NULL};
    struct kv_io io;
    uint64_t block;
    uint32_t block_count;
    *length = 0;
    int err = kv_blobs_extent(blobs, ref, &block, &block_count);
    describe(&load, ref);
    if (err || !load.frame_bytes)
        return err;
    err = kv_blobs_flush(blobs);
    if (!err)
        err = begin_request(blobs, block, block_count, NULL, &load, &io);
    if (err)
        return err;
    err = kv_device_submit(blobs->device, &io, 1, false);
    if (!err) {
        count_read(blobs, &load);
        err = verify_whole(&load);
    }
    if (!err)
        *length = kv_blob_frames_table(&load.disk, load.stored, table);
    end_load(blobs, &load);
    return err;
}

int kv_blobs_verify(struct kv_blobs *blobs, const struct kv_blob_ref *ref)
{
    int result;
    kv_blobs_verify_many(blobs, ref, 1, &result);
    return result;
}

void kv_blobs_verify_many(struct kv_blobs *blobs, const struct kv_blob_ref *refs, size_t count,
                          int *results)
{
    struct load loads[KV_BLOBS_AT_ONCE];
    struct kv_io ios[KV_BLOBS_AT_ONCE];
    size_t io_count = 0;
    KV_ASSERT(count <= KV_BLOBS_AT_ONCE);
    const int unwritten = kv_blobs_flush(blobs); /* damage is what was written and is not there */
    for (size_t i = 0; i < count; i++) {
        uint64_t block;
        uint32_t block_count;
        loads[i] = (struct load){.part = NULL};
        describe(&loads[i], &refs[i]);
        results[i] = kv_blobs_extent(blobs, &refs[i], &block, &block_count);
        if (!results[i])
            results[i] = begin_request(blobs, block, block_count, NULL, &loads[i], &ios[io_count]);
        if (!results[i])
            ios[io_count++].result = -EIO;
    }
    if (io_count) /* each request has its own result */
        kv_ignore(kv_device_submit(blobs->device, ios, io_count, false));
    for (size_t i = 0, at = 0; i < count; i++) {
        if (results[i])
            continue;
        results[i] = ios[at++].result;
        if (!results[i]) {
            count_read(blobs, &loads[i]);
            results[i] = verify_whole(&loads[i]);
        }
        if (results[i] == -EBADMSG && unwritten)
            results[i] = unwritten;
        end_load(blobs, &loads[i]);
    }
}
