/*
 * fs/data_range.c: what is done to a range of a file's content without new bytes.
 *
 * Owns       punching, zeroing, preallocation, collapse and insert, clones, and the deletion of
 *            all content in steps.
 * Invariant  as fs/data.c's; no function here writes a blob of its own: records are cut, moved,
 *            and share the blobs they have. A clone too short to share is a write.
 * Locks      none of its own: the caller holds the inode's lock.
 *
 * What is too much for one change goes in steps: each leaves a sound file and says how far it got.
 * Moving is atomic, so it has a bound instead.
 */
#include "fs/data_edit.h"

/* ---- punching, zeroing, allocating --------------------------------------------- */

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
            fs_data_uncount(file, file->inline_len);
            file->inline_len = (uint16_t)offset;
            fs_data_count(file, offset);
        } else if (offset < file->inline_len) {
            memset(file->inline_data + offset, 0, length);
        }
        return 0;
    }
    struct fs_data_edit edit;
    fs_data_edit_init(&edit, data, file, change);
    uint64_t reached = end;
    err = fs_data_carve(&edit, offset, &reached, max_records);
    fs_data_edit_release(&edit);
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
    struct fs_data_edit edit;
    fs_data_edit_init(&edit, data, file, change);
    uint64_t reached = end;
    err = fs_data_spill(&edit);
    if (!err)
        err = fs_data_carve(&edit, offset, &reached, max_records);
    *done = reached == end;
    if (!err && *done)
        err = fs_data_put_unwritten(&edit, offset, length);
    fs_data_edit_release(&edit);
grow:
    if (!err && *done && !keep_size)
        file->size = kv_max_u64(file->size, end);
    return err;
}

/* Fill the holes of [offset, end) until max_records are met or made; *reached says where. */
static int fill_holes(struct fs_data_edit *edit, uint64_t offset, uint64_t end, size_t max_records,
                      uint64_t *reached)
{
    uint64_t at = offset, holes = 0;
    size_t made = 0;
    struct fs_data_walk walk;
    int err = fs_data_walk_open(&walk, edit->data, &edit->before, offset, end);
    while (!err && !(err = fs_data_walk_next(&walk))) {
        if (made == max_records)
            break;
        if (walk.record.offset > at) {
            err = fs_data_put_unwritten(edit, at, walk.record.offset - at);
            holes += walk.record.offset - at;
            made++;
        }
        at = kv_min_u64(fs_data_record_end(&walk.record), end);
    }
    fs_data_walk_close(&walk);
    if (err == -ENOENT && at < end && made < max_records) {
        err = fs_data_put_unwritten(edit, at, end - at);
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
        struct fs_data_edit edit;
        fs_data_edit_init(&edit, data, file, change);
        uint64_t reached = offset;
        err = fs_data_spill(&edit);
        if (!err)
            err = fill_holes(&edit, offset, end, max_records, &reached);
        fs_data_edit_release(&edit);
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
static int move_record(struct fs_data_edit *edit, const struct fs_data_record *r, uint64_t keep,
                       uint64_t border, uint64_t at)
{
    const uint64_t from = kv_max_u64(r->offset, border);
    const bool moves = from < fs_data_record_end(r);
    int err = 0;
    fs_data_uncount(edit->file, r->length);
    if (moves)
        err = fs_data_put_part(edit, r, from, fs_data_record_end(r), at);
    if (err)
        return err;
    if (r->offset < keep)
        return fs_data_put_part(edit, r, r->offset, keep, r->offset);
    /* What begins at the start of a collapsed range and outlasts it gets its own key back. */
    return moves && at == r->offset ? 0 : fs_data_delete_key(edit, r->offset);
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
            fs_data_uncount(file, file->inline_len);
            file->inline_len = 0;
        }
        file->size -= length;
        return 0;
    }
    struct fs_data_edit edit;
    fs_data_edit_init(&edit, data, file, change);
    size_t records = 0;
    uint64_t bytes = 0;
    struct fs_data_walk walk;
    err = fs_data_walk_open(&walk, data, &edit.before, offset, FS_SIZE_MAX);
    /* Ascending: a record's new place lies before every record that is still to move. */
    while (!err && !(err = fs_data_walk_next(&walk))) {
        const uint64_t from = kv_max_u64(walk.record.offset, end);
        err = charge_move(&walk.record, &records, &bytes);
        if (!err)
            err = move_record(&edit, &walk.record, offset, end, from - length);
    }
    fs_data_walk_close(&walk);
    fs_data_edit_release(&edit);
    if (err != -ENOENT)
        return err;
    file->size -= length;
    return 0;
}

static int insert_records(struct fs_data_edit *edit, uint64_t offset, uint64_t length)
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
        err = fs_data_decode_cursor(edit->data, cursor, &r);
        if (err)
            break;
        if (fs_data_record_end(&r) <= offset) {
            err = -ENOENT;
            break;
        }
        if (fs_data_record_end(&r) > FS_SIZE_MAX - length) {
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
    struct fs_data_edit edit;
    fs_data_edit_init(&edit, data, file, change);
    if (!file->is_inline) {
        err = insert_records(&edit, offset, length);
    } else if (offset == 0) {
        const uint16_t inline_len = file->inline_len;
        file->is_inline = false;
        file->inline_len = 0;
        fs_data_uncount(file, inline_len);
        if (inline_len)
            err = fs_data_put_packed(&edit, length, file->inline_data, inline_len);
    }
    fs_data_edit_release(&edit);
    if (!err)
        file->size += length;
    return err;
}

/* ---- cloning ------------------------------------------------------------------ */

/* How far [from, end) of the source can go into one change. */
static int clone_extent(const struct fs_data *data, const struct fs_file *source, uint64_t from,
                        uint64_t *end, size_t max_records)
{
    size_t seen = 0;
    uint64_t packed = 0;
    struct fs_data_walk walk;
    int err = fs_data_walk_open(&walk, data, source, from, *end);
    while (!err && !(err = fs_data_walk_next(&walk))) {
        if (seen > 0 && (seen >= max_records || packed >= FS_DATA_MOVE_BYTES)) {
            *end = walk.record.offset;
            break;
        }
        seen++;
        if (walk.record.kind == FS_DATA_PACKED)
            packed += walk.record.length;
    }
    fs_data_walk_close(&walk);
    return err == -ENOENT ? 0 : err;
}

static int put_windows(struct fs_data_edit *edit, uint64_t offset, const uint8_t *bytes,
                       uint64_t length)
{
    const uint64_t window = edit->data->packed_bytes;
    int err = 0;
    while (!err && length > 0) {
        const uint64_t take = kv_min_u64(length, window - offset % window);
        err = fs_data_put_packed(edit, offset, bytes, take);
        offset += take;
        bytes += take;
        length -= take;
    }
    return err;
}

/* Give the target at `at` the part [from, to) of a source's record. */
static int clone_part(struct fs_data_edit *edit, const struct fs_data_record *r, uint64_t from,
                      uint64_t to, uint64_t at)
{
    const uint64_t skip = from - r->offset;
    if (r->kind == FS_DATA_UNWRITTEN)
        return 0;
    if (r->kind == FS_DATA_PACKED)
        return put_windows(edit, at, r->bytes + skip, to - from);
    if (to - from >= FS_SHARE_MIN)
        return fs_data_put_extent(edit, at, to - from, r->blob_offset + skip, &r->blob,
                                  fs_data_table_from(r, from), KV_BLOB_SHARED);
    uint8_t bytes[FS_SHARE_MIN];
    const int err =
        kv_blob_read(edit->data->store, &r->blob, r->blob_offset + skip, bytes, to - from);
    if (err)
        return err == -ERANGE ? -EUCLEAN : err;
    return put_windows(edit, at, bytes, to - from);
}

static int clone_records(struct fs_data_edit *edit, const struct fs_file *source, uint64_t from,
                         uint64_t end, uint64_t to)
{
    struct fs_data_walk walk;
    int err = fs_data_walk_open(&walk, edit->data, source, from, end);
    while (!err && !(err = fs_data_walk_next(&walk))) {
        const uint64_t begin = kv_max_u64(walk.record.offset, from);
        err = clone_part(edit, &walk.record, begin,
                         kv_min_u64(fs_data_record_end(&walk.record), end), to + (begin - from));
    }
    fs_data_walk_close(&walk);
    return err == -ENOENT ? 0 : err;
}

static int clone_by_copy(const struct fs_data *data, const struct fs_file *source, uint64_t from,
                         struct fs_file *target, uint64_t to, uint64_t length,
                         struct fs_data_change *change)
{
    uint8_t bytes[FS_DIRECT_BYTES];
    const int err = fs_data_read_range(data, source, from, bytes, length);
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
    struct fs_data_edit edit;
    fs_data_edit_init(&edit, data, target, change);
    uint64_t end = from + length;
    err = clone_extent(data, &original, from, &end, max_records);
    if (!err)
        err = fs_data_spill(&edit);
    uint64_t reached = to + (end - from);
    if (!err)
        err = fs_data_carve(&edit, to, &reached, max_records);
    if (!err)
        err = clone_records(&edit, &original, from, from + (reached - to), to);
    fs_data_edit_release(&edit);
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
