/*
 * fs/data_edit.c: F records: decoding, walking over them, cutting and storing them.
 *
 * Owns       every rule on F records, and their bytes.
 * Invariant  records of one inode do not overlap; a packed record does not cross a multiple
 *            of packed_bytes; an extent lies inside its blob; fs_file.blocks is the sum that
 *            fs/data.h defines.
 * Locks      none of its own: the caller holds the inode's lock.
 * On disk    the three values of an F record, little-endian:
 *
 *    PACKED     | 1 | bytes ...
 *    EXTENT     | 2 | 0 0 0 | length(4) | blob offset(4) | table | blob reference(40)
 *
 * The table is what the bytes of the record need of their blob's, if that is in frames: digests of
 * what this record shows, and no others, however often an extent is cut.
 *    UNWRITTEN  | 3 | length(8)
 */
#include "fs/data_edit.h"

#include <assert.h>

#define FS_RANGE_DELETE 16u /* more keys than this go by one range deletion */

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
    if (value_len < sizeof head + sizeof record->blob)
        return -EUCLEAN;
    memcpy(&head, value, sizeof head);
    memcpy(&record->blob, value + value_len - sizeof record->blob, sizeof record->blob);
    record->length = kv_le32_get(head.length_bytes);
    record->blob_offset = kv_le32_get(head.blob_offset);
    const uint64_t blob_end = record->blob_offset + record->length; /* both below 2^32 */
    if (blob_end > kv_blob_length(&record->blob))
        return -EUCLEAN;
    size_t at;
    const size_t table_len = value_len - sizeof head - sizeof record->blob;
    record->table = table_len ? value + sizeof head : NULL;
    return table_len == kv_blob_table_range(&record->blob, record->blob_offset, record->length, &at)
               ? 0
               : -EUCLEAN;
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

int fs_data_walk_open(struct fs_data_walk *walk, const struct fs_data *data,
                      const struct fs_file *file, uint64_t start, uint64_t end)
{
    *walk = (struct fs_data_walk){.data = data, .file = file, .start = start, .end = end};
    if (file->is_inline || start >= end)
        return 0;
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    fs_data_key(lower, file->ino, 0);
    fs_data_key(upper, file->ino, end);
    return kv_cursor_open(data->store, lower, sizeof lower, upper, sizeof upper, &walk->cursor);
}

void fs_data_walk_close(struct fs_data_walk *walk)
{
    if (walk->cursor)
        kv_cursor_close(walk->cursor);
}

int fs_data_decode_cursor(const struct fs_data *data, struct kv_cursor *cursor,
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
static int walk_begin(struct fs_data_walk *walk)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, walk->file->ino, walk->start + 1);
    int err = kv_cursor_seek_before(walk->cursor, key, sizeof key);
    if (err == -ENOENT) {
        err = kv_cursor_seek(walk->cursor, key, sizeof key);
        return err ? err : fs_data_decode_cursor(walk->data, walk->cursor, &walk->record);
    }
    if (err)
        return err;
    err = fs_data_decode_cursor(walk->data, walk->cursor, &walk->record);
    if (err || fs_data_record_end(&walk->record) > walk->start)
        return err;
    err = kv_cursor_next(walk->cursor);
    return err ? err : fs_data_decode_cursor(walk->data, walk->cursor, &walk->record);
}

int fs_data_walk_next(struct fs_data_walk *walk)
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
            err = fs_data_decode_cursor(walk->data, walk->cursor, &walk->record);
    }
    if (err)
        return err;
    if (walk->record.offset < walk->last_end)
        return -EUCLEAN;
    walk->last_end = fs_data_record_end(&walk->record);
    return 0;
}

int fs_data_find(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                 uint64_t end, uint8_t *value, struct fs_data_record *record)
{
    uint8_t key[FS_DATA_KEY_BYTES], found[KV_KEY_MAX];
    size_t found_len = 0, value_len = 0;
    KV_ASSERT(!file->is_inline);
    fs_data_key(key, file->ino, offset);
    int err = kv_get_floor(data->store, key, sizeof key, found, &found_len, value,
                           FS_DATA_VALUE_MAX, &value_len);
    if (err == -ERANGE || (!err && (found_len != sizeof key || memcmp(found, key, 9) != 0)))
        return -ENOENT; /* of somebody else */
    if (!err)
        err = fs_data_record_decode(data, found, found_len, value, value_len, record);
    if (!err && fs_data_record_end(record) < end)
        return -ENOENT;
    return err;
}

#define PARTS_MAX 32u /* extents that are read at the same time */

/* Extents that a read has come by: their bytes are fetched together. */
struct parts {
    const struct fs_data *data;
    struct kv_blob_part items[PARTS_MAX];
    uint8_t tables[PARTS_MAX][KV_BLOB_TABLE_MAX]; /* theirs; a record's goes with the record */
    uint8_t key[FS_DATA_KEY_BYTES];               /* of the first one's record */
    size_t count;
};

/* One alone may be all of a small file: then others that lie beside it come along. */
static int fetch_parts(struct parts *parts)
{
    if (parts->count == 1) {
        parts->items[0].key = parts->key;
        parts->items[0].key_len = sizeof parts->key;
    }
    const int err =
        parts->count ? kv_blob_read_many(parts->data->store, parts->items, parts->count) : 0;
    parts->count = 0;
    return err == -ERANGE ? -EUCLEAN : err;
}

/* [from, to) of an extent, into `into`. The table is the record's. */
static struct kv_blob_part part_of(const struct fs_data *data, const struct fs_data_record *r,
                                   uint64_t from, uint64_t to, uint8_t *into)
{
    struct kv_blob_part part = {.ref = r->blob,
                                .buf = into,
                                .offset = r->blob_offset + (from - r->offset),
                                .length = to - from,
                                .retain = data->retain};
    if (!r->table || part.length == kv_blob_length(&r->blob))
        return part; /* all of it is wanted */
    part.table = r->table;
    part.table_from = r->blob_offset;
    part.table_to = r->blob_offset + r->length;
    return part;
}

/* [from, to) of an extent, with fetch_parts into `into`. */
static void note_part(struct parts *parts, const struct fs_data_record *r, uint64_t from,
                      uint64_t to, uint8_t *into)
{
    uint8_t *const table = parts->tables[parts->count];
    if (!parts->count)
        fs_data_key(parts->key, r->ino, r->offset);
    struct kv_blob_part *const part = &parts->items[parts->count++];
    *part = part_of(parts->data, r, from, to, into);
    if (!part->table)
        return;
    part->table = table;
    size_t at;
    memcpy(table, r->table, kv_blob_table_range(&r->blob, part->table_from, r->length, &at));
}

/* [from, to) of a record, into `into`, now or with fetch_parts. */
static int read_record(struct parts *parts, const struct fs_data_record *r, uint64_t from,
                       uint64_t to, uint8_t *into)
{
    switch (r->kind) {
    case FS_DATA_PACKED:
        memcpy(into, r->bytes + (from - r->offset), to - from);
        break;
    case FS_DATA_EXTENT:
        note_part(parts, r, from, to, into);
        break;
    case FS_DATA_UNWRITTEN:
        memset(into, 0, to - from);
        break;
    }
    return parts->count == PARTS_MAX ? fetch_parts(parts) : 0;
}

/* Reads up to this length are mostly of few records. A cursor costs what finding seven does, and
 * for each record half of that. */
#define FS_FIND_BYTES   32768u
#define FS_FIND_RECORDS 8u

/* A read of few records without gaps, each found by its key. -ENOENT: it is not that. */
static int read_found(struct parts *parts, const struct fs_file *file, uint64_t offset,
                      uint64_t end, uint8_t *buf)
{
    const uint32_t step = parts->data->packed_bytes; /* no packed record crosses a multiple */
    uint8_t value[FS_DATA_VALUE_MAX];
    struct fs_data_record record;
    uint64_t at = offset;
    if (file->is_inline || offset == end)
        return -ENOENT;
    for (unsigned found = 0; at < end; found++) {
        if (found == FS_FIND_RECORDS)
            return -ENOENT;
        const uint64_t least = kv_min_u64(end, at - at % step + step);
        int err = fs_data_find(parts->data, file, at, least, value, &record);
        const uint64_t to = err ? at : kv_min_u64(fs_data_record_end(&record), end);
        if (!err && record.kind == FS_DATA_PACKED && (end - at) / step >= FS_FIND_RECORDS)
            return -ENOENT; /* there will be too many */
        if (!err)
            err = read_record(parts, &record, at, to, buf + (at - offset));
        if (err)
            return err;
        at = to;
    }
    return fetch_parts(parts);
}

static void count_long_read(const struct fs_data *data, size_t length, uint64_t pieces)
{
    if (!data->counts || length < FS_LONG_READ_BYTES)
        return;
    (void)atomic_fetch_add_explicit(&data->counts->reads, 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&data->counts->bytes, length, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&data->counts->pieces, pieces, memory_order_relaxed);
}

int fs_data_begin_range(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                        uint8_t *buf, size_t length, struct kv_blob_reading **reading,
                        struct kv_blob_transfer *transfer)
{
    uint8_t value[FS_DATA_VALUE_MAX];
    struct fs_data_record record;
    int err = fs_data_find(data, file, offset, offset + length, value, &record);
    if (err == -ENOENT || (!err && record.kind != FS_DATA_EXTENT))
        return -EOPNOTSUPP;
    if (err)
        return err;
    uint8_t key[FS_DATA_KEY_BYTES];
    struct kv_blob_part part = part_of(data, &record, offset, offset + length, buf);
    fs_data_key(key, record.ino, record.offset);
    part.key = key;
    part.key_len = sizeof key;
    err = kv_blob_read_begin(data->store, &part, reading, transfer);
    if (!err)
        count_long_read(data, length, 1);
    return err == -ERANGE ? -EUCLEAN : err;
}

int fs_data_read_range(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                       uint8_t *buf, size_t length)
{
    const uint64_t end = offset + length;
    uint64_t at = offset, pieces = 0;
    struct parts parts;
    struct fs_data_walk walk;
    parts.data = data;
    parts.count = 0;
    int err = length <= FS_FIND_BYTES ? read_found(&parts, file, offset, end, buf) : -ENOENT;
    if (err != -ENOENT)
        return err;
    parts.count = 0; /* what was found before that is met again */
    err = fs_data_walk_open(&walk, data, file, offset, end);
    while (!err && !(err = fs_data_walk_next(&walk))) {
        const struct fs_data_record *const r = &walk.record;
        const uint64_t from = kv_max_u64(r->offset, offset);
        const uint64_t to = kv_min_u64(fs_data_record_end(r), end);
        memset(buf + (at - offset), 0, from - at);
        err = read_record(&parts, r, from, to, buf + (from - offset));
        pieces += r->kind != FS_DATA_UNWRITTEN;
        at = to;
    }
    fs_data_walk_close(&walk);
    if (err == -ENOENT)
        err = fetch_parts(&parts);
    if (err)
        return err;
    count_long_read(data, length, pieces);
    if (!KV_PLANT(hole_not_zeroed))
        memset(buf + (at - offset), 0, end - at);
    return 0;
}

/* ---- editing ------------------------------------------------------------------ */

void fs_data_edit_init(struct fs_data_edit *edit, const struct fs_data *data, struct fs_file *file,
                       struct fs_data_change *change)
{
    edit->data = data;
    edit->before = *file;
    edit->file = file;
    edit->change = change;
    edit->fresh = edit->few;
    edit->more = NULL;
    edit->fresh_count = 0;
    edit->fresh_cap = FS_DATA_FEW;
}

void fs_data_edit_release(struct fs_data_edit *edit)
{
    free(edit->more);
}

int fs_data_edit_add(struct fs_data_edit *edit, const struct fs_data_fresh *fresh)
{
    if (edit->fresh_count == edit->fresh_cap) {
        const size_t cap = edit->more ? edit->fresh_cap * 2 : 16;
        struct fs_data_fresh *const grown = realloc(edit->more, cap * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        if (!edit->more)
            memcpy(grown, edit->few, sizeof edit->few);
        edit->more = edit->fresh = grown;
        edit->fresh_cap = cap;
    }
    edit->fresh[edit->fresh_count++] = *fresh;
    return 0;
}

int fs_data_put_packed(struct fs_data_edit *edit, uint64_t offset, const uint8_t *bytes,
                       size_t length)
{
    KV_ASSERT(length >= 1);
    KV_ASSERT(offset % edit->data->packed_bytes + length <= edit->data->packed_bytes);
    uint8_t key[FS_DATA_KEY_BYTES], value[1 + FS_PACKED_MAX];
    fs_data_key(key, edit->file->ino, offset);
    value[0] = FS_DATA_PACKED;
    memcpy(value + 1, bytes, length);
    fs_data_count(edit->file, length);
    return kv_batch_put(edit->change->batch, key, sizeof key, value, 1 + length);
}

int fs_data_put_extent(struct fs_data_edit *edit, uint64_t offset, uint64_t length,
                       uint64_t blob_offset, const struct kv_blob_ref *blob, const uint8_t *table,
                       enum kv_blob_use use)
{
    uint8_t key[FS_DATA_KEY_BYTES], value[sizeof(struct fs_disk_extent) + KV_BLOB_TABLE_MAX];
    size_t at;
    const size_t table_len = kv_blob_table_range(blob, blob_offset, length, &at);
    KV_ASSERT(table_len <= KV_BLOB_TABLE_MAX);
    fs_data_key(key, edit->file->ino, offset);
    const struct fs_disk_extent head = {.kind = FS_DATA_EXTENT,
                                        .length_bytes = kv_le32_of((uint32_t)length),
                                        .blob_offset = kv_le32_of((uint32_t)blob_offset)};
    memcpy(value, &head, sizeof head);
    if (table_len)
        memcpy(value + sizeof head, table, table_len);
    fs_data_count(edit->file, length);
    return kv_batch_put_blob(edit->change->batch, key, sizeof key, value, sizeof head + table_len,
                             blob, use);
}

int fs_data_put_unwritten(struct fs_data_edit *edit, uint64_t offset, uint64_t length)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, edit->file->ino, offset);
    const struct fs_disk_unwritten value = {.kind = FS_DATA_UNWRITTEN,
                                            .length_bytes = kv_le64_of(length)};
    fs_data_count(edit->file, length);
    return kv_batch_put(edit->change->batch, key, sizeof key, &value, sizeof value);
}

const uint8_t *fs_data_table_from(const struct fs_data_record *record, uint64_t from)
{
    size_t at, first;
    const uint64_t skip = from - record->offset;
    if (!record->table)
        return NULL;
    (void)kv_blob_table_range(&record->blob, record->blob_offset, record->length, &first);
    (void)kv_blob_table_range(&record->blob, record->blob_offset + skip, record->length - skip,
                              &at);
    return record->table + (at - first);
}

int fs_data_put_part(struct fs_data_edit *edit, const struct fs_data_record *record, uint64_t from,
                     uint64_t to, uint64_t at)
{
    const uint64_t skip = from - record->offset;
    switch (record->kind) {
    case FS_DATA_PACKED:
        return fs_data_put_packed(edit, at, record->bytes + skip, to - from);
    case FS_DATA_EXTENT:
        return fs_data_put_extent(edit, at, to - from, record->blob_offset + skip, &record->blob,
                                  fs_data_table_from(record, from), KV_BLOB_SHARED);
    case FS_DATA_UNWRITTEN:
        break;
    }
    return fs_data_put_unwritten(edit, at, to - from);
}

int fs_data_delete_key(struct fs_data_edit *edit, uint64_t offset)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, edit->file->ino, offset);
    return kv_batch_del(edit->change->batch, key, sizeof key);
}

static int delete_range(struct fs_data_edit *edit, uint64_t from, uint64_t to)
{
    uint8_t lower[FS_DATA_KEY_BYTES], upper[FS_DATA_KEY_BYTES];
    fs_data_key(lower, edit->file->ino, from);
    fs_data_key(upper, edit->file->ino, to);
    return kv_batch_del_range(edit->change->batch, lower, sizeof lower, upper, sizeof upper);
}

int fs_data_spill(struct fs_data_edit *edit)
{
    struct fs_file *const file = edit->file;
    if (!file->is_inline)
        return 0;
    file->is_inline = false;
    const uint16_t length = file->inline_len;
    file->inline_len = 0;
    if (length == 0)
        return 0;
    fs_data_uncount(file, length);
    return fs_data_put_packed(edit, 0, file->inline_data, length);
}

/* A range that is being freed, record by record in order. */
struct carving {
    struct fs_data_edit *edit;
    uint64_t from, to;
    uint64_t doomed[FS_RANGE_DELETE];
    size_t doomed_count, next_fresh;
};

static int carve_record(struct carving *carving, const struct fs_data_record *r)
{
    struct fs_data_edit *const edit = carving->edit;
    const uint64_t end = fs_data_record_end(r);
    int err = 0;
    fs_data_uncount(edit->file, r->length);
    if (end > carving->to)
        err = fs_data_put_part(edit, r, carving->to, end, carving->to);
    if (err)
        return err;
    if (r->offset < carving->from)
        return fs_data_put_part(edit, r, r->offset, carving->from, r->offset);
    size_t *const next = &carving->next_fresh;
    while (*next < edit->fresh_count && edit->fresh[*next].offset < r->offset)
        ++*next;
    if (*next < edit->fresh_count && edit->fresh[*next].offset == r->offset)
        return 0;
    if (carving->doomed_count < FS_RANGE_DELETE)
        carving->doomed[carving->doomed_count] = r->offset;
    carving->doomed_count++;
    return 0;
}

static int carve_end(struct carving *carving)
{
    if (carving->doomed_count > FS_RANGE_DELETE)
        return delete_range(carving->edit, carving->from, carving->to);
    int err = 0;
    for (size_t i = 0; !err && i < carving->doomed_count; i++)
        err = fs_data_delete_key(carving->edit, carving->doomed[i]);
    return err;
}

int fs_data_carve(struct fs_data_edit *edit, uint64_t from, uint64_t *to, size_t max_records)
{
    struct carving carving = {.edit = edit, .from = from, .to = *to};
    size_t seen = 0;
    struct fs_data_walk walk;
    int err = fs_data_walk_open(&walk, edit->data, &edit->before, from, *to);
    while (!err && !(err = fs_data_walk_next(&walk))) {
        if (seen++ == max_records) {
            carving.to = *to = walk.record.offset;
            err = -ENOENT;
            break;
        }
        err = carve_record(&carving, &walk.record);
    }
    fs_data_walk_close(&walk);
    return err == -ENOENT ? carve_end(&carving) : err;
}

int fs_data_carve_met(struct fs_data_edit *edit, uint64_t from, uint64_t to,
                      const struct fs_data_record *records, size_t count)
{
    struct carving carving = {.edit = edit, .from = from, .to = to};
    int err = 0;
    for (size_t i = 0; i < count && !err; i++)
        if (records[i].offset < to && fs_data_record_end(&records[i]) > from)
            err = carve_record(&carving, &records[i]);
    return err ? err : carve_end(&carving);
}
