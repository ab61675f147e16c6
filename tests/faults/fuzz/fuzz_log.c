/*
 * tests/faults/fuzz/fuzz_log.c: the blocks of the log ring and the records in them (kv/wal.h,
 * kv/batch.h).
 *
 * Input      tail(1) records(1), then patches block(1) offset(2) length(1) bytes of the ring
 *            until a length of 0, how to seal(1), then one more record's body.
 * Checked    replay ends, and twice the same way; each record that it gives comes apart; what
 *            is appended after it is there after the next opening, right behind what was
 *            accepted.
 */
#include "tests/faults/fuzz/fuzz.h"

#include "kv/batch.h"
#include "kv/codec.h"
#include "kv/format.h"
#include "kv/wal.h"
#include "tests/faults/fuzz/image_bytes.h"

#define RING_BLOCKS 16u
#define LOG_ID      0x1122334455667788u
#define MARK        "appended after the replay"

static struct image_bytes *image;

struct seen {
    uint64_t records, digest, last_digest;
    uint8_t refuse; /* the record of this number is refused; 0: none */
    bool damage;
};

/* Takes each record apart like the store does. kv_wal_visit_fn. */
static int visit(void *context, const void *body, size_t length, uint64_t epoch, bool known_durable)
{
    struct seen *const seen = context;
    struct kv_redo redo;
    size_t at = 0;
    int err;
    (void)known_durable;
    while (!(err = kv_record_next(body, length, &at, &redo))) {
        KV_ASSERT(at <= length);
        KV_ASSERT(!redo.key.length ||
                  redo.key.data + redo.key.length <= (const uint8_t *)body + length);
        KV_ASSERT(!redo.value.length ||
                  redo.value.data + redo.value.length <= (const uint8_t *)body + length);
    }
    KV_ASSERT(err == -ENOENT || err == -EUCLEAN);
    if (seen->refuse && seen->records + 1 == seen->refuse)
        return seen->damage ? -EBADMSG : -ECANCELED;
    seen->records++;
    seen->last_digest = kv_digest(body, length, 0);
    seen->digest = kv_digest(&seen->last_digest, sizeof seen->last_digest, seen->digest ^ epoch);
    return 0;
}

static struct kv_wal *open_wal(uint64_t tail, uint64_t link)
{
    const struct kv_wal_config config = {.block_count = RING_BLOCKS,
                                         .log_id = LOG_ID,
                                         .tail = tail,
                                         .tail_link = link,
                                         .buffer_bytes = 4 * KV_BLOCK_BYTES};
    struct kv_wal *wal;
    KV_ASSERT(kv_wal_open(image_bytes_device(image), &config, &wal) == 0);
    return wal;
}

/* Fill the ring with a history: records of all sizes, some syncs. */
static void write_history(uint64_t tail, unsigned records)
{
    struct kv_wal *const wal = open_wal(tail, 0);
    struct kv_record record = {0};
    for (unsigned i = 0; i < records; i++) {
        uint8_t value[3000];
        memset(value, (int)i, sizeof value);
        const struct kv_redo redo = {.kind = KV_REDO_PUT,
                                     .key = {(const uint8_t *)"key", 3},
                                     .value = {value, (i * 977) % sizeof value}};
        record.length = 0;
        KV_ASSERT(kv_record_add(&record, &redo) == 0);
        if (kv_wal_room(wal, record.length))
            break;
        uint64_t position;
        KV_ASSERT(kv_wal_append(wal, record.bytes, record.length, 5, &position) == 0);
        if (i % 3 == 0)
            KV_ASSERT(kv_wal_sync(wal, position) == 0);
    }
    KV_ASSERT(kv_wal_sync(wal, kv_wal_position(wal)) == 0);
    kv_record_release(&record);
    kv_wal_close(wal);
}

/* Give each block that claims to be of this log its digest, and chain it to the one before. */
static void seal(uint64_t tail, bool chain)
{
    uint64_t link = 0;
    for (uint64_t position = tail; position < tail + RING_BLOCKS; position++) {
        uint8_t *const block = image_bytes_change(image, position % RING_BLOCKS);
        struct kv_disk_log_header header;
        memcpy(&header, block, sizeof header);
        if (kv_le32_get(header.magic) != KV_LOG_MAGIC)
            continue;
        if (chain && kv_le64_get(header.restart)) {
            const kv_le64 bytes = kv_le64_of(link);
            header.link = kv_le64_of(kv_digest(&bytes, sizeof bytes, KV_LOG_MAGIC));
        } else if (chain) {
            header.link = kv_le64_of(link);
        }
        header.digest = kv_le64_of(0);
        memcpy(block, &header, sizeof header);
        link = kv_digest(block, KV_BLOCK_BYTES, 0);
        header.digest = kv_le64_of(link);
        memcpy(block, &header, sizeof header);
    }
}

static void patch_ring(struct fuzz_input *input)
{
    for (;;) {
        uint8_t *const block = image_bytes_change(image, fuzz_u8(input) % RING_BLOCKS);
        const size_t at = fuzz_u16(input) % KV_BLOCK_BYTES;
        size_t length = fuzz_u8(input);
        if (!length)
            return;
        length = kv_min_u64(length, KV_BLOCK_BYTES - at);
        fuzz_take(input, block + at, length);
    }
}

/* A body that no digest was ever asked for. */
static void parse_body(const struct fuzz_input *input)
{
    uint8_t *const body = fuzz_copy(input);
    struct seen seen = {0};
    kv_ignore(visit(&seen, body, input->left, 0, false));
    free(body);
}

/* What is appended is of a later epoch than all that was found, as a store's is. */
static void go_on(struct kv_wal *wal, uint64_t tail, const struct kv_wal_end *found,
                  const struct seen *before)
{
    const uint64_t epoch = found->epoch_max + 1;
    uint64_t position;
    if (epoch > KV_EPOCH_MAX || kv_wal_room(wal, sizeof MARK)) {
        kv_wal_close(wal);
        return;
    }
    KV_ASSERT(kv_wal_append(wal, MARK, sizeof MARK, epoch, &position) == 0);
    KV_ASSERT(kv_wal_sync(wal, position) == 0);
    kv_wal_close(wal);

    struct seen after = {0};
    struct kv_wal_end end;
    wal = open_wal(tail, 0);
    KV_ASSERT(kv_wal_replay(wal, visit, &after, &end) == 0);
    KV_ASSERT(after.records == before->records + 1);
    KV_ASSERT(after.last_digest == kv_digest(MARK, sizeof MARK, 0));
    kv_wal_close(wal);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (!image)
        image = image_bytes_new(RING_BLOCKS);
    image_bytes_restore(image);
    struct fuzz_input input = {bytes, length};
    const uint64_t tail = fuzz_u8(&input);
    write_history(tail, fuzz_u8(&input) % 24);
    patch_ring(&input);
    const uint8_t how = fuzz_u8(&input);
    if (how & 1)
        seal(tail, how & 2);

    struct seen seen = {.refuse = how >> 4, .damage = how & 8};
    struct kv_wal_end end;
    struct kv_wal *const wal = open_wal(tail, 0);
    const int err = kv_wal_replay(wal, visit, &seen, &end);
    KV_ASSERT(err == 0 || err == -EBADMSG || err == -EUCLEAN);
    KV_ASSERT(end.records == seen.records);
    KV_ASSERT(end.position >= tail);
    KV_ASSERT(end.position <= tail + RING_BLOCKS);
    struct seen again = {.refuse = how >> 4, .damage = how & 8};
    struct kv_wal_end end_again;
    KV_ASSERT(kv_wal_replay(wal, visit, &again, &end_again) == err);
    KV_ASSERT(again.digest == seen.digest);
    if (!err && !(how & 4))
        go_on(wal, tail, &end, &seen);
    else
        kv_wal_close(wal);
    parse_body(&input);
    return 0;
}
