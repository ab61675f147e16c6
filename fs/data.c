/*
 * fs/data.c: the content of one file, as F records of the store.
 *
 * Owns       the choice between inline, packed and extent, and every rule on F records.
 * Invariant  records of one inode do not overlap; a packed record does not cross a multiple
 *            of packed_bytes; an extent lies inside its blob; nothing but preallocation lies
 *            behind the size; fs_file.blocks is the sum that fs/data.h defines.
 * Locks      none of its own: the caller holds the inode's lock.
 * On disk    the three values of an F record, little-endian:
 *
 *    PACKED     | 1 | bytes ...
 *    EXTENT     | 2 | 0 0 0 | length(4) | blob offset(4) | blob reference(40)
 *    UNWRITTEN  | 3 | length(8)
 *
 * How writing chooses. Small files and small pieces are packed: they cost a log record and
 * no block of their own. Appends, and overwrites in order, of less than FS_DIRECT_BYTES are
 * packed too, and when they complete half an extent the whole run is gathered into one
 * extent: so a file written in small pieces is written once to the log and once to its place.
 * Larger writes become extents at once; one that continues a smaller extent takes it in, so that
 * pieces at least double (the logarithmic method of Bentley and Saxe 1980). An overwrite splits the
 * extent below it; a remainder that would keep a mostly dead blob alive is taken in.
 */
#include "fs/data.h"

#include <assert.h>

#define FS_PACKED_FILE_MAX 8192u  /* a file up to here is packed whole */
#define FS_DIRECT_BYTES    16384u /* a write of this length is an extent at once */
#define FS_SHARE_MIN       4096u  /* shorter pieces of extents are copied, not shared */
#define FS_PACKED_MAX      4096u  /* greatest packed_bytes */
#define FS_RANGE_DELETE    16u    /* more keys than this go by one range deletion */

struct fs_disk_extent {
    uint8_t kind;
    uint8_t reserved[3];
    kv_le32 length_bytes;
    kv_le32 blob_offset;
};
static_assert(sizeof(struct fs_disk_extent) == 12, "extent head size is part of the format");

struct fs_disk_unwritten {
    uint8_t kind;
    kv_le64 length_bytes;
};
static_assert(sizeof(struct fs_disk_unwritten) == 9, "unwritten size is part of the format");

static inline uint64_t align_down(uint64_t offset, uint64_t unit)
{
    return offset & ~(unit - 1);
}

static inline uint64_t record_end(const struct fs_data_record *record)
{
    return record->offset + record->length;
}

void fs_data_init(struct fs_data *data, struct kv_store *store)
{
    struct kv_image_info info;
    kv_store_info(store, &info);
    data->store = store;
    /* A value stays in the leaf up to a quarter of a node; an eighth leaves room for keys. */
    data->packed_bytes = (uint32_t)kv_min_u64(info.node_bytes / 8u, FS_PACKED_MAX);
    data->extent_bytes = info.extent_bytes;
}

/* ---- changes ------------------------------------------------------------------ */

int fs_data_change_init(struct fs_data_change *change, struct kv_store *store)
{
    *change = (struct fs_data_change){.store = store, .batch = kv_batch_new()};
    return change->batch ? 0 : -ENOMEM;
}

void fs_data_change_applied(struct fs_data_change *change)
{
    change->blob_count = 0;
    kv_batch_clear(change->batch);
}

void fs_data_change_abort(struct fs_data_change *change)
{
    for (size_t i = 0; i < change->blob_count; i++)
        kv_blob_discard(change->store, &change->blobs[i]);
    fs_data_change_applied(change);
}

int fs_data_change_apply(struct fs_data_change *change, unsigned flags, uint64_t *position)
{
    const int err = kv_apply(change->store, change->batch, flags, position);
    if (err)
        fs_data_change_abort(change);
    else
        fs_data_change_applied(change);
    return err;
}

void fs_data_change_release(struct fs_data_change *change)
{
    if (!change->batch)
        return;
    fs_data_change_abort(change);
    kv_batch_free(change->batch);
    free(change->blobs);
    *change = (struct fs_data_change){0};
}

/* Write a blob that the change owns until it is applied. */
static int write_blob(struct fs_data_change *change, const uint8_t *bytes, size_t length,
                      const struct kv_codec_spec *codec, struct kv_blob_ref *ref, size_t *written)
{
    if (change->blob_count == change->blob_cap) {
        const size_t cap = change->blob_cap ? change->blob_cap * 2 : 8;
        struct kv_blob_ref *grown = realloc(change->blobs, cap * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        change->blobs = grown;
        change->blob_cap = cap;
    }
    const int err = kv_blob_write(change->store, bytes, length, codec, ref, written);
    if (err)
        return err;
    change->blobs[change->blob_count++] = *ref;
    return 0;
}

/* ---- records ------------------------------------------------------------------ */

void fs_data_key(uint8_t key[FS_DATA_KEY_BYTES], uint64_t ino, uint64_t offset)
{
    key[0] = 'F';
    kv_be64_put(key + 1, ino);
    kv_be64_put(key + 9, offset);
}

static int decode_extent(const uint8_t *value, size_t value_len, struct fs_data_record *record)
{
    struct fs_disk_extent head;
    if (value_len != sizeof head + sizeof record->blob)
        return -EUCLEAN;
    memcpy(&head, value, sizeof head);
    memcpy(&record->blob, value + sizeof head, sizeof record->blob);
    record->length = kv_le32_get(head.length_bytes);
    record->blob_offset = kv_le32_get(head.blob_offset);
    const uint64_t blob_end = record->blob_offset + record->length; /* both below 2^32 */
    if (blob_end > kv_blob_length(&record->blob))
        return -EUCLEAN;
    return 0;
}

int fs_data_record_decode(const struct fs_data *data, const void *key, size_t key_len,
                          const void *value, size_t value_len, struct fs_data_record *record)
{
    const uint8_t *const k = key, *const v = value;
    if (key_len != FS_DATA_KEY_BYTES || k[0] != 'F' || value_len < 2)
        return -EUCLEAN;
    *record = (struct fs_data_record){
        .ino = kv_be64_take(k + 1), .offset = kv_be64_take(k + 9), .kind = (enum fs_data_kind)v[0]};
    struct fs_disk_unwritten unwritten;
    switch (v[0]) {
    case FS_DATA_PACKED:
        record->bytes = v + 1;
        record->length = value_len - 1;
        if (record->offset % data->packed_bytes + record->length > data->packed_bytes)
            return -EUCLEAN;
        break;
    case FS_DATA_EXTENT: {
        const int err = decode_extent(v, value_len, record);
        if (err)
            return err;
        break;
    }
    case FS_DATA_UNWRITTEN:
        if (value_len != sizeof unwritten)
            return -EUCLEAN;
        memcpy(&unwritten, v, sizeof unwritten);
        record->length = kv_le64_get(unwritten.length_bytes);
        break;
    default:
        return -EUCLEAN;
    }
    uint64_t end;
    if (record->length == 0 || kv_add_u64(record->offset, record->length, &end) ||
        end > FS_SIZE_MAX)
        return -EUCLEAN;
    return 0;
}

/* ---- walking ------------------------------------------------------------------ */

/*
 * The records that overlap [start, end) in order. Inline content is met as a packed record
 * at offset 0, so that nobody else need tell the two apart.
 */
struct walk {
    const struct fs_data *data;
    const struct fs_file *file;
    uint64_t start, end;
    struct kv_cursor *cursor; /* NULL for an inline file */
    uint64_t last_end;        /* of the record before, to see overlaps */
    bool begun;
    struct fs_data_record record; /* its bytes hold until the next step */
};

static int walk_open(struct walk *walk, const struct fs_data *data, const struct fs_file *file,
                     uint64_t start, uint64_t end)
{
    *walk = (struct walk){.data = data, .file = file, .start = start, .end = end};
    if (file->is_inline || start >= end)
        return 0;
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    fs_data_key(lower, file->ino, 0);
    fs_data_key(upper, file->ino, end);
    return kv_cursor_open(data->store, lower, sizeof lower, upper, sizeof upper, &walk->cursor);
}

static void walk_close(struct walk *walk)
{
    if (walk->cursor)
        kv_cursor_close(walk->cursor);
}

static int decode_cursor(const struct fs_data *data, struct kv_cursor *cursor,
                         struct fs_data_record *record)
{
    const void *value;
    size_t value_len, key_len;
    const int err = kv_cursor_value(cursor, &value, &value_len);
    if (err)
        return err;
    const void *const key = kv_cursor_key(cursor, &key_len);
    return fs_data_record_decode(data, key, key_len, value, value_len, record);
}

/* To the record that covers `start`, or the first one behind it. */
static int walk_begin(struct walk *walk)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, walk->file->ino, walk->start + 1);
    int err = kv_cursor_seek_before(walk->cursor, key, sizeof key);
    if (err == -ENOENT) {
        err = kv_cursor_seek(walk->cursor, key, sizeof key);
        return err ? err : decode_cursor(walk->data, walk->cursor, &walk->record);
    }
    if (err)
        return err;
    err = decode_cursor(walk->data, walk->cursor, &walk->record);
    if (err || record_end(&walk->record) > walk->start)
        return err;
    err = kv_cursor_next(walk->cursor);
    return err ? err : decode_cursor(walk->data, walk->cursor, &walk->record);
}

/* Step to the next record: 0, or -ENOENT when there is none. */
static int walk_next(struct walk *walk)
{
    const bool first = !walk->begun;
    walk->begun = true;
    if (walk->file->is_inline) {
        if (!first || walk->start >= walk->end || walk->start >= walk->file->inline_len)
            return -ENOENT;
        walk->record = (struct fs_data_record){.ino = walk->file->ino,
                                               .length = walk->file->inline_len,
                                               .kind = FS_DATA_PACKED,
                                               .bytes = walk->file->inline_data};
        return 0;
    }
    if (!walk->cursor)
        return -ENOENT;
    int err;
    if (first) {
        err = walk_begin(walk);
    } else {
        err = kv_cursor_next(walk->cursor);
        if (!err)
            err = decode_cursor(walk->data, walk->cursor, &walk->record);
    }
    if (err)
        return err;
    if (walk->record.offset < walk->last_end)
        return -EUCLEAN;
    walk->last_end = record_end(&walk->record);
    return 0;
}

/* ---- reading ------------------------------------------------------------------ */

/* Copy stored bytes [offset, offset + length) whatever the size is; gaps become zeros. */
static int read_range(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                      uint8_t *buf, size_t length)
{
    const uint64_t end = offset + length;
    uint64_t at = offset;
    struct walk walk;
    int err = walk_open(&walk, data, file, offset, end);
    while (!err && !(err = walk_next(&walk))) {
        const struct fs_data_record *const r = &walk.record;
        const uint64_t from = kv_max_u64(r->offset, offset);
        const uint64_t to = kv_min_u64(record_end(r), end);
        memset(buf + (at - offset), 0, from - at);
        uint8_t *const into = buf + (from - offset);
        switch (r->kind) {
        case FS_DATA_PACKED:
            memcpy(into, r->bytes + (from - r->offset), to - from);
            break;
        case FS_DATA_EXTENT:
            err = kv_blob_read(data->store, &r->blob, r->blob_offset + (from - r->offset), into,
                               to - from);
            if (err == -ERANGE)
                err = -EUCLEAN;
            break;
        case FS_DATA_UNWRITTEN:
            memset(into, 0, to - from);
            break;
        }
        at = to;
    }
    walk_close(&walk);
    if (err != -ENOENT)
        return err;
    memset(buf + (at - offset), 0, end - at);
    return 0;
}

int fs_data_read(const struct fs_data *data, const struct fs_file *file, uint64_t offset, void *buf,
                 size_t length, size_t *got)
{
    *got = 0;
    if (offset >= file->size || length == 0)
        return 0;
    const size_t take = (size_t)kv_min_u64(length, file->size - offset);
    const int err = read_range(data, file, offset, buf, take);
    if (!err)
        *got = take;
    return err;
}

/* ---- editing ------------------------------------------------------------------ */

/* A record that an edit is going to store: a new blob, or bytes. */
struct fresh {
    uint64_t offset;
    uint32_t length;
    bool packed;
    struct kv_blob_ref blob; /* unless packed */
};

struct edit {
    const struct fs_data *data;
    struct fs_file before; /* as stored; walks use it */
    struct fs_file *file;  /* becomes what is to be stored */
    struct fs_data_change *change;
    struct fresh *fresh; /* ascending */
    size_t fresh_count, fresh_cap;
};

static void edit_init(struct edit *edit, const struct fs_data *data, struct fs_file *file,
                      struct fs_data_change *change)
{
    *edit = (struct edit){.data = data, .before = *file, .file = file, .change = change};
}

static void edit_release(struct edit *edit)
{
    free(edit->fresh);
}

/* The stored count is input: one that is too small must not wrap. fsck mends it. */
static void uncount(struct fs_file *file, uint64_t length)
{
    file->blocks -= kv_min_u64(file->blocks, fs_data_units(length));
}

static void count(struct fs_file *file, uint64_t length)
{
    file->blocks += fs_data_units(length);
}

static int put_packed(struct edit *edit, uint64_t offset, const uint8_t *bytes, size_t length)
{
    KV_ASSERT(length >= 1);
    KV_ASSERT(offset % edit->data->packed_bytes + length <= edit->data->packed_bytes);
    uint8_t key[FS_DATA_KEY_BYTES], value[1 + FS_PACKED_MAX];
    fs_data_key(key, edit->file->ino, offset);
    value[0] = FS_DATA_PACKED;
    memcpy(value + 1, bytes, length);
    count(edit->file, length);
    return kv_batch_put(edit->change->batch, key, sizeof key, value, 1 + length);
}

static int put_extent(struct edit *edit, uint64_t offset, uint64_t length, uint64_t blob_offset,
                      const struct kv_blob_ref *blob, enum kv_blob_use use)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, edit->file->ino, offset);
    const struct fs_disk_extent head = {.kind = FS_DATA_EXTENT,
                                        .length_bytes = kv_le32_of((uint32_t)length),
                                        .blob_offset = kv_le32_of((uint32_t)blob_offset)};
    count(edit->file, length);
    return kv_batch_put_blob(edit->change->batch, key, sizeof key, &head, sizeof head, blob, use);
}

static int put_unwritten(struct edit *edit, uint64_t offset, uint64_t length)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, edit->file->ino, offset);
    const struct fs_disk_unwritten value = {.kind = FS_DATA_UNWRITTEN,
                                            .length_bytes = kv_le64_of(length)};
    count(edit->file, length);
    return kv_batch_put(edit->change->batch, key, sizeof key, &value, sizeof value);
}

/* Store the part [from, to) of a stored record again, at offset `at`. */
static int put_part(struct edit *edit, const struct fs_data_record *record, uint64_t from,
                    uint64_t to, uint64_t at)
{
    const uint64_t skip = from - record->offset;
    switch (record->kind) {
    case FS_DATA_PACKED:
        return put_packed(edit, at, record->bytes + skip, to - from);
    case FS_DATA_EXTENT:
        return put_extent(edit, at, to - from, record->blob_offset + skip, &record->blob,
                          KV_BLOB_SHARED);
    case FS_DATA_UNWRITTEN:
        break;
    }
    return put_unwritten(edit, at, to - from);
}

static int delete_key(struct edit *edit, uint64_t offset)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, edit->file->ino, offset);
    return kv_batch_del(edit->change->batch, key, sizeof key);
}

static int delete_range(struct edit *edit, uint64_t from, uint64_t to)
{
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    fs_data_key(lower, edit->file->ino, from);
    fs_data_key(upper, edit->file->ino, to);
    return kv_batch_del_range(edit->change->batch, lower, sizeof lower, upper, sizeof upper);
}

/* Give inline content a record of its own; `before` goes on showing it as one. */
static int spill(struct edit *edit)
{
    struct fs_file *const file = edit->file;
    if (!file->is_inline)
        return 0;
    file->is_inline = false;
    const uint16_t length = file->inline_len;
    file->inline_len = 0;
    if (length == 0)
        return 0;
    uncount(file, length);
    return put_packed(edit, 0, file->inline_data, length);
}

/*
 * Free [from, *to) of records: those inside go, those that stick out keep the rest. What
 * sticks out is stored before its record is deleted, so a blob is never without a holder.
 * Keys that `fresh` will store anew are left to it.
 *
 * max_records  at most so many are touched; *to is then lowered to the next one's start.
 */
static int carve(struct edit *edit, uint64_t from, uint64_t *to, size_t max_records)
{
    uint64_t doomed[FS_RANGE_DELETE];
    size_t doomed_count = 0, seen = 0, next_fresh = 0;
    struct walk walk;
    int err = walk_open(&walk, edit->data, &edit->before, from, *to);
    while (!err && !(err = walk_next(&walk))) {
        const struct fs_data_record *const r = &walk.record;
        const uint64_t end = record_end(r);
        if (seen++ == max_records) {
            *to = r->offset;
            err = -ENOENT;
            break;
        }
        uncount(edit->file, r->length);
        if (end > *to)
            err = put_part(edit, r, *to, end, *to);
        if (err)
            break;
        if (r->offset < from) {
            err = put_part(edit, r, r->offset, from, r->offset);
            continue;
        }
        while (next_fresh < edit->fresh_count && edit->fresh[next_fresh].offset < r->offset)
            next_fresh++;
        if (next_fresh < edit->fresh_count && edit->fresh[next_fresh].offset == r->offset)
            continue;
        if (doomed_count < FS_RANGE_DELETE)
            doomed[doomed_count] = r->offset;
        doomed_count++;
    }
    walk_close(&walk);
    if (err != -ENOENT)
        return err;
    if (doomed_count > FS_RANGE_DELETE)
        return delete_range(edit, from, *to);
    err = 0;
    for (size_t i = 0; !err && i < doomed_count; i++)
        err = delete_key(edit, doomed[i]);
    return err;
}

/* ---- writing ------------------------------------------------------------------ */

/* A write, and the region around it that is stored anew: [from, to) holds [offset, end). */
struct span {
    uint64_t offset, end;
    const uint8_t *bytes;
    uint64_t from, to;
};

/* What lies where a write goes, seen in one walk over the packed windows that it touches. */
struct survey {
    bool any;               /* some record overlaps the write */
    bool solid;             /* some record with content overlaps it */
    uint64_t packed_bytes;  /* of the write that packed records cover */
    bool first_has_packed;  /* in the window where the write begins */
    bool last_has_packed;   /* in the window where it ends */
    uint64_t first_content; /* least offset of content in the first window */
    uint64_t last_content;  /* end of content in the last window */
    bool has_host;          /* a packed record that the write lies in or continues */
    uint64_t host_offset, host_length;
    bool only_host;      /* nothing else overlaps the write */
    bool continues_trim; /* the extent below has lost its head, up to here: writes in order */
    uint64_t small_left, small_right; /* ends of remainders worth taking in, or the write's */
};

/* What a write leaves of a record keeps a blob alive that is mostly dead. */
static bool is_remnant(const struct fs_data_record *record, uint64_t overwritten)
{
    return record->kind == FS_DATA_EXTENT &&
           record->length - overwritten < kv_blob_length(&record->blob) / 8;
}

static void survey_record(struct survey *s, const struct span *span, uint64_t window_first,
                          uint64_t window_last, uint64_t window_bytes,
                          const struct fs_data_record *r)
{
    const uint64_t end = record_end(r);
    const bool overlaps = r->offset < span->end && end > span->offset;
    const bool packed = r->kind == FS_DATA_PACKED;
    const bool hosts = packed && r->offset <= span->offset && span->offset <= end;
    if (overlaps) {
        const uint64_t overwritten =
            kv_min_u64(end, span->end) - kv_max_u64(r->offset, span->offset);
        const bool remnant = is_remnant(r, overwritten);
        s->any = true;
        if (r->kind != FS_DATA_UNWRITTEN)
            s->solid = true;
        if (packed)
            s->packed_bytes += overwritten;
        if (!hosts)
            s->only_host = false;
        if (r->kind == FS_DATA_EXTENT && r->blob_offset > 0 && r->offset >= span->offset &&
            r->offset - span->offset < window_bytes)
            s->continues_trim = true;
        if (r->offset < span->offset && remnant)
            s->small_left = r->offset;
        if (end > span->end && remnant)
            s->small_right = end;
    }
    if (hosts) {
        /* Of two, one ends where the other begins: then the write overlaps the second. */
        s->only_host = s->only_host && !(s->has_host && overlaps);
        s->has_host = true;
        s->host_offset = r->offset;
        s->host_length = r->length;
    }
    if (r->kind == FS_DATA_UNWRITTEN)
        return;
    if (r->offset < window_first + window_bytes) {
        s->first_content = kv_min_u64(s->first_content, kv_max_u64(r->offset, window_first));
        s->first_has_packed |= packed;
    }
    if (end > window_last) {
        s->last_content = kv_max_u64(s->last_content, kv_min_u64(end, window_last + window_bytes));
        s->last_has_packed |= packed;
    }
}

static int survey(struct survey *s, const struct edit *edit, const struct span *span)
{
    const uint64_t window = edit->data->packed_bytes;
    const uint64_t first = align_down(span->offset, window);
    const uint64_t last = align_down(span->end - 1, window);
    *s = (struct survey){.first_content = span->offset,
                         .last_content = span->end,
                         .only_host = true,
                         .small_left = span->offset,
                         .small_right = span->end};
    struct walk walk;
    int err =
        walk_open(&walk, edit->data, &edit->before, first, kv_min_u64(last + window, FS_SIZE_MAX));
    while (!err && !(err = walk_next(&walk)))
        survey_record(s, span, first, last, window, &walk.record);
    walk_close(&walk);
    return err == -ENOENT ? 0 : err;
}

/* See the head comment. */
static bool wants_extent(const struct edit *edit, const struct survey *s, const struct span *span)
{
    const uint64_t size = edit->before.size, length = span->end - span->offset;
    if (kv_max_u64(size, span->end) <= FS_PACKED_FILE_MAX)
        return false;
    if (length >= FS_DIRECT_BYTES)
        return true;
    if ((span->end > size && size > 0) || s->continues_trim) {
        const uint64_t gather = edit->data->extent_bytes / 2;
        return span->offset / gather != span->end / gather;
    }
    return length >= FS_SHARE_MIN && s->packed_bytes < length;
}

/*
 * Lower span->from over the records that end where it begins, while they are packed, or
 * extents no longer than what is being written, and lie in the same extent_bytes.
 */
static int take_in_before(const struct edit *edit, struct span *span)
{
    const struct fs_data *const data = edit->data;
    if (span->from % data->extent_bytes == 0)
        return 0;
    if (edit->before.is_inline) {
        if (span->from <= edit->before.inline_len)
            span->from = 0;
        return 0;
    }
    const uint64_t floor = align_down(span->from, data->extent_bytes);
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    fs_data_key(lower, edit->file->ino, floor);
    fs_data_key(upper, edit->file->ino, span->from);
    struct kv_cursor *cursor;
    int err = kv_cursor_open(data->store, lower, sizeof lower, upper, sizeof upper, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_last(cursor); !err; err = kv_cursor_prev(cursor)) {
        struct fs_data_record r;
        err = decode_cursor(data, cursor, &r);
        if (err)
            break;
        if (record_end(&r) < span->from || r.kind == FS_DATA_UNWRITTEN)
            break;
        if (r.kind == FS_DATA_EXTENT &&
            (r.length >= data->extent_bytes / 2 || r.length > span->to - span->from))
            break;
        span->from = r.offset;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

/* Bytes [from, to) of what a region will hold: the write's own, or a mixture in `scratch`. */
static int span_bytes(const struct edit *edit, const struct span *span, uint64_t from, uint64_t to,
                      uint8_t *scratch, const uint8_t **bytes)
{
    if (from >= span->offset && to <= span->end) {
        *bytes = span->bytes + (from - span->offset);
        return 0;
    }
    int err = 0;
    if (from < span->offset)
        err = read_range(edit->data, &edit->before, from, scratch,
                         kv_min_u64(to, span->offset) - from);
    const uint64_t behind = kv_max_u64(from, span->end);
    if (!err && to > behind)
        err = read_range(edit->data, &edit->before, behind, scratch + (behind - from), to - behind);
    if (err)
        return err;
    const uint64_t begin = kv_max_u64(from, span->offset), end = kv_min_u64(to, span->end);
    if (begin < end)
        memcpy(scratch + (begin - from), span->bytes + (begin - span->offset), end - begin);
    *bytes = scratch;
    return 0;
}

static int add_fresh(struct edit *edit, const struct fresh *fresh)
{
    if (edit->fresh_count == edit->fresh_cap) {
        const size_t cap = edit->fresh_cap ? edit->fresh_cap * 2 : 16;
        struct fresh *const grown = realloc(edit->fresh, cap * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        edit->fresh = grown;
        edit->fresh_cap = cap;
    }
    edit->fresh[edit->fresh_count++] = *fresh;
    return 0;
}

static int add_fresh_packed(struct edit *edit, uint64_t from, uint64_t to)
{
    const uint64_t window = edit->data->packed_bytes;
    int err = 0;
    while (!err && from < to) {
        const uint64_t end = kv_min_u64(to, align_down(from, window) + window);
        const struct fresh fresh = {
            .offset = from, .length = (uint32_t)(end - from), .packed = true};
        err = add_fresh(edit, &fresh);
        from = end;
    }
    return err;
}

/* Write the blobs of a region; a last piece too short for one becomes packed. */
static int add_fresh_extents(struct edit *edit, const struct span *span,
                             const struct kv_codec_spec *codec)
{
    const uint64_t unit = edit->data->extent_bytes;
    uint8_t *scratch = NULL;
    int err = 0;
    if (span->from < span->offset || span->to > span->end) {
        scratch = malloc(unit);
        if (!scratch)
            return -ENOMEM;
    }
    for (uint64_t from = span->from; !err && from < span->to;) {
        const uint64_t to = kv_min_u64(span->to, align_down(from, unit) + unit);
        if (to - from < FS_SHARE_MIN) {
            err = add_fresh_packed(edit, from, to);
            from = to;
            continue;
        }
        const uint8_t *bytes;
        err = span_bytes(edit, span, from, to, scratch, &bytes);
        /* Fragmented space may take a blob in several pieces. */
        while (!err && from < to) {
            struct fresh fresh = {.offset = from};
            size_t written;
            err = write_blob(edit->change, bytes, to - from, codec, &fresh.blob, &written);
            if (err)
                break;
            fresh.length = (uint32_t)written;
            err = add_fresh(edit, &fresh);
            from += written;
            bytes += written;
        }
    }
    free(scratch);
    return err;
}

static int put_fresh(struct edit *edit, const struct span *span)
{
    int err = 0;
    for (size_t i = 0; !err && i < edit->fresh_count; i++) {
        const struct fresh *const f = &edit->fresh[i];
        if (!f->packed) {
            err = put_extent(edit, f->offset, f->length, 0, &f->blob, KV_BLOB_NEW);
            continue;
        }
        uint8_t scratch[FS_PACKED_MAX];
        const uint8_t *bytes;
        err = span_bytes(edit, span, f->offset, f->offset + f->length, scratch, &bytes);
        if (!err)
            err = put_packed(edit, f->offset, bytes, f->length);
    }
    return err;
}

/* Overwrite or continue the one packed record that a small write concerns. */
static int patch_host(struct edit *edit, const struct survey *s, const struct span *span)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, edit->file->ino, s->host_offset);
    const uint64_t length = kv_max_u64(s->host_length, span->end - s->host_offset);
    uncount(edit->file, s->host_length);
    count(edit->file, length);
    return kv_batch_patch(edit->change->batch, key, sizeof key, 1 + (span->offset - s->host_offset),
                          span->bytes, span->end - span->offset);
}

static int write_records(struct edit *edit, struct span *span, const struct kv_codec_spec *codec)
{
    struct survey s;
    int err = survey(&s, edit, span);
    if (err)
        return err;
    err = spill(edit);
    if (err)
        return err;
    if (wants_extent(edit, &s, span)) {
        span->from = s.small_left;
        span->to = s.small_right;
        if (span->end > edit->before.size || s.continues_trim)
            err = take_in_before(edit, span);
        if (!err)
            err = add_fresh_extents(edit, span, codec);
    } else {
        const uint64_t window = edit->data->packed_bytes;
        if (s.has_host && s.only_host && span->end <= align_down(s.host_offset, window) + window)
            return patch_host(edit, &s, span);
        /* A window that has content in the way, or pieces already, becomes one record. */
        if (s.solid || s.first_has_packed)
            span->from = s.first_content;
        if (s.solid || s.last_has_packed)
            span->to = s.last_content;
        err = add_fresh_packed(edit, span->from, span->to);
    }
    if (err)
        return err;
    if (s.any || span->from < span->offset || span->to > span->end) {
        uint64_t to = span->to;
        err = carve(edit, span->from, &to, SIZE_MAX);
    }
    return err ? err : put_fresh(edit, span);
}

static void write_inline(struct fs_file *file, uint64_t offset, const void *buf, size_t length)
{
    const uint64_t end = offset + length;
    uncount(file, file->inline_len);
    if (offset > file->inline_len)
        memset(file->inline_data + file->inline_len, 0, offset - file->inline_len);
    memcpy(file->inline_data + offset, buf, length);
    file->inline_len = (uint16_t)kv_max_u64(file->inline_len, end);
    count(file, file->inline_len);
}

int fs_data_write(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                  const void *buf, size_t length, const struct kv_codec_spec *codec,
                  struct fs_data_change *change)
{
    if (length == 0 || length > FS_WRITE_MAX)
        return -EINVAL;
    if (offset > FS_SIZE_MAX - length)
        return -EFBIG;
    const uint64_t end = offset + length;
    int err = 0;
    if (file->is_inline && end <= FS_INLINE_MAX) {
        write_inline(file, offset, buf, length);
    } else {
        struct edit edit;
        edit_init(&edit, data, file, change);
        struct span span = {.offset = offset, .end = end, .bytes = buf, .from = offset, .to = end};
        err = write_records(&edit, &span, codec);
        edit_release(&edit);
    }
    if (!err)
        file->size = kv_max_u64(file->size, end);
    return err;
}

/* ---- ranges ------------------------------------------------------------------- */

/*
 * Where the last max_records of the records behind `floor` begin; `floor` if there are not
 * more. A truncation goes from the end, so that each of its steps leaves a shorter file.
 */
static int tail_start(const struct edit *edit, uint64_t floor, size_t max_records, uint64_t *start)
{
    *start = floor;
    if (edit->before.is_inline)
        return 0;
    struct walk walk;
    size_t seen = 0;
    int err = walk_open(&walk, edit->data, &edit->before, floor, FS_SIZE_MAX);
    while (!err && seen <= max_records && !(err = walk_next(&walk)))
        seen++;
    if (err || seen <= max_records)
        goto out;
    err = kv_cursor_last(walk.cursor);
    for (seen = 1; !err && seen < max_records; seen++)
        err = kv_cursor_prev(walk.cursor);
    struct fs_data_record record;
    if (!err)
        err = decode_cursor(edit->data, walk.cursor, &record);
    if (!err)
        *start = kv_max_u64(floor, record.offset);
out:
    walk_close(&walk);
    return err == -ENOENT ? 0 : err;
}

static void truncate_inline(struct fs_file *file, uint64_t size)
{
    if (size < file->inline_len) {
        uncount(file, file->inline_len);
        file->inline_len = (uint16_t)size;
        count(file, size);
    }
    file->size = size;
}

int fs_data_truncate(const struct fs_data *data, struct fs_file *file, uint64_t size,
                     size_t max_records, struct fs_data_change *change, bool *done)
{
    *done = true;
    if (size > FS_SIZE_MAX)
        return -EFBIG;
    if (file->is_inline) {
        truncate_inline(file, size);
        return 0;
    }
    struct edit edit;
    edit_init(&edit, data, file, change);
    uint64_t start, end = FS_SIZE_MAX;
    int err = tail_start(&edit, size, max_records, &start);
    if (!err)
        err = carve(&edit, start, &end, SIZE_MAX);
    edit_release(&edit);
    if (err)
        return err;
    *done = start == size;
    file->size = *done ? size : kv_min_u64(file->size, start);
    if (file->size == 0 && *done) {
        file->is_inline = true;
        file->inline_len = 0;
        file->blocks = 0;
    }
    return 0;
}

/* Check a range and set its end; a length of 0 is no range. */
static int range_end(uint64_t offset, uint64_t length, uint64_t *end)
{
    if (length == 0)
        return -EINVAL;
    if (kv_add_u64(offset, length, end) || *end > FS_SIZE_MAX)
        return -EFBIG;
    return 0;
}

int fs_data_punch(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                  uint64_t length, size_t max_records, struct fs_data_change *change, bool *done)
{
    uint64_t end;
    *done = true;
    int err = range_end(offset, length, &end);
    if (err)
        return err;
    if (file->is_inline) {
        if (offset < file->inline_len && end >= file->inline_len) {
            uncount(file, file->inline_len);
            file->inline_len = (uint16_t)offset;
            count(file, offset);
        } else if (offset < file->inline_len) {
            memset(file->inline_data + offset, 0, length);
        }
        return 0;
    }
    struct edit edit;
    edit_init(&edit, data, file, change);
    uint64_t reached = end;
    err = carve(&edit, offset, &reached, max_records);
    edit_release(&edit);
    *done = reached == end;
    return err;
}

static int check_room(const struct fs_data *data, uint64_t bytes)
{
    struct kv_stats stats;
    kv_store_stats(data->store, &stats);
    return bytes > stats.available_bytes ? -ENOSPC : 0;
}

int fs_data_zero(const struct fs_data *data, struct fs_file *file, uint64_t offset, uint64_t length,
                 bool keep_size, size_t max_records, struct fs_data_change *change, bool *done)
{
    uint64_t end;
    *done = true;
    int err = range_end(offset, length, &end);
    if (err)
        return err;
    if (file->is_inline && end <= FS_INLINE_MAX) {
        if (offset < file->inline_len)
            memset(file->inline_data + offset, 0, kv_min_u64(end, file->inline_len) - offset);
        goto grow;
    }
    err = check_room(data, length);
    if (err)
        return err;
    struct edit edit;
    edit_init(&edit, data, file, change);
    uint64_t reached = end;
    err = spill(&edit);
    if (!err)
        err = carve(&edit, offset, &reached, max_records);
    *done = reached == end;
    if (!err && *done)
        err = put_unwritten(&edit, offset, length);
    edit_release(&edit);
grow:
    if (!err && *done && !keep_size)
        file->size = kv_max_u64(file->size, end);
    return err;
}

/* Fill the holes of [offset, end) until max_records are met or made; *reached says where. */
static int fill_holes(struct edit *edit, uint64_t offset, uint64_t end, size_t max_records,
                      uint64_t *reached)
{
    uint64_t at = offset, holes = 0;
    size_t made = 0;
    struct walk walk;
    int err = walk_open(&walk, edit->data, &edit->before, offset, end);
    while (!err && !(err = walk_next(&walk))) {
        if (made == max_records)
            break;
        if (walk.record.offset > at) {
            err = put_unwritten(edit, at, walk.record.offset - at);
            holes += walk.record.offset - at;
            made++;
        }
        at = kv_min_u64(record_end(&walk.record), end);
    }
    walk_close(&walk);
    if (err == -ENOENT && at < end && made < max_records) {
        err = put_unwritten(edit, at, end - at);
        holes += end - at;
        at = end;
    } else if (err == -ENOENT) {
        err = 0;
    }
    *reached = at;
    return err ? err : check_room(edit->data, holes);
}

int fs_data_allocate(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                     uint64_t length, bool keep_size, size_t max_records,
                     struct fs_data_change *change, bool *done)
{
    uint64_t end;
    *done = true;
    int err = range_end(offset, length, &end);
    if (err)
        return err;
    if (!file->is_inline || end > FS_INLINE_MAX) {
        struct edit edit;
        edit_init(&edit, data, file, change);
        uint64_t reached = offset;
        err = spill(&edit);
        if (!err)
            err = fill_holes(&edit, offset, end, max_records, &reached);
        edit_release(&edit);
        *done = reached == end;
    }
    if (!err && *done && !keep_size)
        file->size = kv_max_u64(file->size, end);
    return err;
}

/* ---- moving ------------------------------------------------------------------- */

/* Counts what a move touches against what one batch may take. */
static int charge_move(const struct fs_data_record *record, size_t *records, uint64_t *bytes)
{
    *records += 1;
    if (record->kind == FS_DATA_PACKED)
        *bytes += record->length;
    return *records > FS_DATA_MOVE_RECORDS || *bytes > FS_DATA_MOVE_BYTES ? -EOPNOTSUPP : 0;
}

/* Move the part of a record behind `border` to `at`, keep what lies before `keep`. */
static int move_record(struct edit *edit, const struct fs_data_record *r, uint64_t keep,
                       uint64_t border, uint64_t at)
{
    const uint64_t from = kv_max_u64(r->offset, border);
    const bool moves = from < record_end(r);
    int err = 0;
    uncount(edit->file, r->length);
    if (moves)
        err = put_part(edit, r, from, record_end(r), at);
    if (err)
        return err;
    if (r->offset < keep)
        return put_part(edit, r, r->offset, keep, r->offset);
    /* What begins at the start of a collapsed range and outlasts it gets its own key back. */
    return moves && at == r->offset ? 0 : delete_key(edit, r->offset);
}

int fs_data_collapse(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                     uint64_t length, struct fs_data_change *change)
{
    uint64_t end;
    int err = range_end(offset, length, &end);
    if (err)
        return err;
    if (offset % KV_BLOCK_BYTES || length % KV_BLOCK_BYTES || end >= file->size)
        return -EINVAL;
    if (file->is_inline) {
        if (offset == 0) { /* inline content ends before the least range does */
            uncount(file, file->inline_len);
            file->inline_len = 0;
        }
        file->size -= length;
        return 0;
    }
    struct edit edit;
    edit_init(&edit, data, file, change);
    size_t records = 0;
    uint64_t bytes = 0;
    struct walk walk;
    err = walk_open(&walk, data, &edit.before, offset, FS_SIZE_MAX);
    /* Ascending: a record's new place lies before every record that is still to move. */
    while (!err && !(err = walk_next(&walk))) {
        const uint64_t from = kv_max_u64(walk.record.offset, end);
        err = charge_move(&walk.record, &records, &bytes);
        if (!err)
            err = move_record(&edit, &walk.record, offset, end, from - length);
    }
    walk_close(&walk);
    edit_release(&edit);
    if (err != -ENOENT)
        return err;
    file->size -= length;
    return 0;
}

static int insert_records(struct edit *edit, uint64_t offset, uint64_t length)
{
    size_t records = 0;
    uint64_t bytes = 0;
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    fs_data_key(lower, edit->file->ino, 0);
    fs_data_key(upper, edit->file->ino, FS_SIZE_MAX);
    struct kv_cursor *cursor;
    int err = kv_cursor_open(edit->data->store, lower, sizeof lower, upper, sizeof upper, &cursor);
    if (err)
        return err;
    /* Descending: a record's new place lies behind every record that is still to move. */
    for (err = kv_cursor_last(cursor); !err; err = kv_cursor_prev(cursor)) {
        struct fs_data_record r;
        err = decode_cursor(edit->data, cursor, &r);
        if (err)
            break;
        if (record_end(&r) <= offset) {
            err = -ENOENT;
            break;
        }
        if (record_end(&r) > FS_SIZE_MAX - length) {
            err = -EFBIG;
            break;
        }
        err = charge_move(&r, &records, &bytes);
        if (!err)
            err = move_record(edit, &r, offset, offset, kv_max_u64(r.offset, offset) + length);
        if (err)
            break;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

int fs_data_insert(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                   uint64_t length, struct fs_data_change *change)
{
    uint64_t end;
    int err = range_end(offset, length, &end);
    if (err)
        return err;
    if (offset % KV_BLOCK_BYTES || length % KV_BLOCK_BYTES || offset >= file->size)
        return -EINVAL;
    if (length > FS_SIZE_MAX - file->size)
        return -EFBIG;
    struct edit edit;
    edit_init(&edit, data, file, change);
    if (!file->is_inline) {
        err = insert_records(&edit, offset, length);
    } else if (offset == 0) {
        const uint16_t inline_len = file->inline_len;
        file->is_inline = false;
        file->inline_len = 0;
        uncount(file, inline_len);
        if (inline_len)
            err = put_packed(&edit, length, file->inline_data, inline_len);
    }
    edit_release(&edit);
    if (!err)
        file->size += length;
    return err;
}

/* ---- seeking ------------------------------------------------------------------ */

int fs_data_seek(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                 enum fs_data_seek_kind kind, uint64_t *found)
{
    if (offset >= file->size)
        return -ENXIO;
    uint64_t at = offset;
    bool in_data = false;
    struct walk walk;
    int err = walk_open(&walk, data, file, offset, file->size);
    while (!err && !(err = walk_next(&walk))) {
        const bool written = walk.record.kind != FS_DATA_UNWRITTEN;
        if (kind == FS_SEEK_DATA && written) {
            at = kv_max_u64(at, walk.record.offset);
            in_data = true;
            break;
        }
        if (kind == FS_SEEK_HOLE) {
            if (!written || walk.record.offset > at)
                break;
            at = record_end(&walk.record);
        }
    }
    walk_close(&walk);
    if (err && err != -ENOENT)
        return err;
    if (kind == FS_SEEK_DATA && (!in_data || at >= file->size))
        return -ENXIO;
    *found = kv_min_u64(at, file->size);
    return 0;
}

/* ---- cloning ------------------------------------------------------------------ */

/* How far [from, end) of the source can go into one change. */
static int clone_extent(const struct fs_data *data, const struct fs_file *source, uint64_t from,
                        uint64_t *end, size_t max_records)
{
    size_t seen = 0;
    uint64_t packed = 0;
    struct walk walk;
    int err = walk_open(&walk, data, source, from, *end);
    while (!err && !(err = walk_next(&walk))) {
        if (seen > 0 && (seen >= max_records || packed >= FS_DATA_MOVE_BYTES)) {
            *end = walk.record.offset;
            break;
        }
        seen++;
        if (walk.record.kind == FS_DATA_PACKED)
            packed += walk.record.length;
    }
    walk_close(&walk);
    return err == -ENOENT ? 0 : err;
}

static int put_windows(struct edit *edit, uint64_t offset, const uint8_t *bytes, uint64_t length)
{
    const uint64_t window = edit->data->packed_bytes;
    int err = 0;
    while (!err && length > 0) {
        const uint64_t take = kv_min_u64(length, window - offset % window);
        err = put_packed(edit, offset, bytes, take);
        offset += take;
        bytes += take;
        length -= take;
    }
    return err;
}

/* Give the target at `at` the part [from, to) of a source's record. */
static int clone_part(struct edit *edit, const struct fs_data_record *r, uint64_t from, uint64_t to,
                      uint64_t at)
{
    const uint64_t skip = from - r->offset;
    if (r->kind == FS_DATA_UNWRITTEN)
        return 0;
    if (r->kind == FS_DATA_PACKED)
        return put_windows(edit, at, r->bytes + skip, to - from);
    if (to - from >= FS_SHARE_MIN)
        return put_extent(edit, at, to - from, r->blob_offset + skip, &r->blob, KV_BLOB_SHARED);
    uint8_t bytes[FS_SHARE_MIN];
    const int err =
        kv_blob_read(edit->data->store, &r->blob, r->blob_offset + skip, bytes, to - from);
    if (err)
        return err == -ERANGE ? -EUCLEAN : err;
    return put_windows(edit, at, bytes, to - from);
}

static int clone_records(struct edit *edit, const struct fs_file *source, uint64_t from,
                         uint64_t end, uint64_t to)
{
    struct walk walk;
    int err = walk_open(&walk, edit->data, source, from, end);
    while (!err && !(err = walk_next(&walk))) {
        const uint64_t begin = kv_max_u64(walk.record.offset, from);
        err = clone_part(edit, &walk.record, begin, kv_min_u64(record_end(&walk.record), end),
                         to + (begin - from));
    }
    walk_close(&walk);
    return err == -ENOENT ? 0 : err;
}

static int clone_by_copy(const struct fs_data *data, const struct fs_file *source, uint64_t from,
                         struct fs_file *target, uint64_t to, uint64_t length,
                         struct fs_data_change *change)
{
    uint8_t bytes[FS_DIRECT_BYTES];
    const int err = read_range(data, source, from, bytes, length);
    return err ? err : fs_data_write(data, target, to, bytes, length, NULL, change);
}

int fs_data_clone(const struct fs_data *data, const struct fs_file *source, uint64_t from,
                  struct fs_file *target, uint64_t to, uint64_t length, size_t max_records,
                  struct fs_data_change *change, uint64_t *cloned)
{
    *cloned = 0;
    if (from >= source->size || length == 0)
        return 0;
    length = kv_min_u64(length, source->size - from);
    if (to > FS_SIZE_MAX - length)
        return -EFBIG;
    if (source->ino == target->ino && from < to + length && to < from + length)
        return -EINVAL;
    int err;
    if (length < FS_DIRECT_BYTES) {
        err = clone_by_copy(data, source, from, target, to, length, change);
        if (!err)
            *cloned = length;
        return err;
    }
    const struct fs_file original = *source; /* the target may be the same */
    struct edit edit;
    edit_init(&edit, data, target, change);
    uint64_t end = from + length;
    err = clone_extent(data, &original, from, &end, max_records);
    if (!err)
        err = spill(&edit);
    uint64_t reached = to + (end - from);
    if (!err)
        err = carve(&edit, to, &reached, max_records);
    if (!err)
        err = clone_records(&edit, &original, from, from + (reached - to), to);
    edit_release(&edit);
    if (err)
        return err;
    target->size = kv_max_u64(target->size, reached);
    *cloned = reached - to;
    return 0;
}

/* ---- deleting ----------------------------------------------------------------- */

int fs_data_delete_step(const struct fs_data *data, uint64_t ino, size_t max_records,
                        struct fs_data_change *change, bool *done)
{
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    size_t upper_len = 9, seen = 0;
    fs_data_key(lower, ino, 0);
    fs_data_key(upper, ino + 1, 0);
    if (ino == UINT64_MAX) {
        upper[0] = 'F' + 1;
        upper_len = 1;
    }
    *done = true;
    struct kv_cursor *cursor;
    int err = kv_cursor_open(data->store, lower, 9, upper, upper_len, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err && seen < max_records; err = kv_cursor_next(cursor))
        seen++;
    if (!err) {
        size_t key_len;
        const void *const key = kv_cursor_key(cursor, &key_len);
        *done = false;
        err = kv_batch_del_range(change->batch, lower, 9, key, key_len);
    } else if (err == -ENOENT) {
        err = seen ? kv_batch_del_range(change->batch, lower, 9, upper, upper_len) : 0;
    }
    kv_cursor_close(cursor);
    return err;
}
