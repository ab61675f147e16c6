/*
 * fs/data.c: reading, writing and truncating the content of one file.
 *
 * Owns       the choice between inline, packed and extent; a change's new blobs until they are
 *            applied.
 * Invariant  what fs/data_edit.c says of records; nothing but preallocation lies behind the
 *            size.
 * Locks      none of its own: the caller holds the inode's lock.
 *
 * How writing chooses. Small files and small pieces are packed: they cost a log record and
 * no block of their own. Appends, and overwrites in order, of less than FS_DIRECT_BYTES are
 * packed too, and when they complete half an extent the whole run is gathered into one
 * extent: so a file written in small pieces is written once to the log and once to its place.
 * Larger writes become extents at once; one that continues a smaller extent takes it in, so that
 * pieces at least double (the logarithmic method of Bentley and Saxe 1980). An overwrite splits the
 * extent below it; a remainder that would keep a mostly dead blob alive is taken in by a large one.
 * A small overwrite at a random place is an extent of its own and touches nothing else: what stays
 * of the old blobs is at most what the file took before, until the last piece of each is gone. None
 * of this taking in happens when space is short, for it takes more space until the next checkpoint.
 */
#include "fs/data_edit.h"

#define FS_PACKED_FILE_MAX 8192u /* a file up to here is packed whole */
#define PREFETCH_EXTENTS   16u   /* of a range, the rest is left */

static inline uint64_t align_down(uint64_t offset, uint64_t unit)
{
    return offset & ~(unit - 1);
}

void fs_data_init(struct fs_data *data, struct kv_store *store)
{
    struct kv_image_info info;
    kv_store_info(store, &info);
    data->store = store;
    /* A value stays in the leaf up to a quarter of a node at least; an eighth leaves room for keys.
     */
    data->packed_bytes = (uint32_t)kv_min_u64(info.node_bytes / 8u, FS_PACKED_MAX);
    data->extent_bytes = info.extent_bytes;
    data->retain = false;
    data->counts = NULL;
}

/* ---- changes ------------------------------------------------------------------ */

int fs_data_change_init(struct fs_data_change *change, struct kv_store *store)
{
    *change = (struct fs_data_change){.store = store, .blob_cap = FS_CHANGE_FEW};
    change->blobs = change->few;
    /* Before anything is read for the change: of what was not flushed the device may have lost
     * some, and that is not the answer to a change that can not be made anyway. */
    if (kv_store_failure(store))
        return -EROFS;
    change->batch = kv_batch_new();
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
    if (change->blobs != change->few)
        free(change->blobs);
    *change = (struct fs_data_change){0};
}

/* Write blobs that the change owns until it is applied, also those before one that fails. */
static int write_blobs(struct fs_data_change *change, struct kv_blob_source *sources, size_t count,
                       const struct kv_codec_spec *codec)
{
    if (change->blob_cap - change->blob_count < count) {
        const bool few = change->blobs == change->few;
        const size_t cap = 2 * change->blob_cap + count;
        struct kv_blob_ref *grown = realloc(few ? NULL : change->blobs, cap * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        if (few)
            memcpy(grown, change->few, sizeof change->few);
        change->blobs = grown;
        change->blob_cap = cap;
    }
    const int err = kv_blob_write_many(change->store, sources, count, codec);
    for (size_t i = 0; i < count; i++)
        if (sources[i].written)
            change->blobs[change->blob_count++] = sources[i].ref;
    return err;
}

/* ---- reading ------------------------------------------------------------------ */

int fs_data_read(const struct fs_data *data, const struct fs_file *file, uint64_t offset, void *buf,
                 size_t length, size_t *got)
{
    *got = 0;
    if (offset >= file->size || length == 0)
        return 0;
    const size_t take = (size_t)kv_min_u64(length, file->size - offset);
    const int err = fs_data_read_range(data, file, offset, buf, take);
    if (!err)
        *got = take;
    return err;
}

int fs_data_read_begin(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                       void *buf, size_t length, size_t *got, struct kv_blob_reading **reading,
                       struct kv_blob_transfer *transfer)
{
    *reading = NULL;
    if (file->is_inline || offset >= file->size || length == 0)
        return -EOPNOTSUPP;
    const size_t take = (size_t)kv_min_u64(length, file->size - offset);
    const int err = fs_data_begin_range(data, file, offset, buf, take, reading, transfer);
    if (!err)
        *got = take;
    return err;
}

void fs_data_prefetch(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                      size_t length)
{
    struct kv_blob_ref refs[PREFETCH_EXTENTS];
    size_t count = 0;
    struct fs_data_walk walk;
    if (file->is_inline || offset >= file->size)
        return;
    int err = fs_data_walk_open(&walk, data, file, offset, kv_min_u64(file->size, offset + length));
    while (!err && count < PREFETCH_EXTENTS && !(err = fs_data_walk_next(&walk))) {
        if (walk.record.kind == FS_DATA_EXTENT)
            refs[count++] = walk.record.blob;
    }
    fs_data_walk_close(&walk);
    kv_blob_prefetch(data->store, refs, count);
}

/* ---- seeking ------------------------------------------------------------------ */

int fs_data_seek(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                 enum fs_data_seek_kind kind, uint64_t *found)
{
    if (offset >= file->size)
        return -ENXIO;
    uint64_t at = offset;
    bool in_data = false;
    struct fs_data_walk walk;
    int err = fs_data_walk_open(&walk, data, file, offset, file->size);
    while (!err && !(err = fs_data_walk_next(&walk))) {
        const bool written = walk.record.kind != FS_DATA_UNWRITTEN;
        if (kind == FS_SEEK_DATA && written) {
            at = kv_max_u64(at, walk.record.offset);
            in_data = true;
            break;
        }
        if (kind == FS_SEEK_HOLE) {
            if (!written || walk.record.offset > at)
                break;
            at = fs_data_record_end(&walk.record);
        }
    }
    fs_data_walk_close(&walk);
    if (err && err != -ENOENT)
        return err;
    if (kind == FS_SEEK_DATA && (!in_data || at >= file->size))
        return -ENXIO;
    *found = kv_min_u64(at, file->size);
    return 0;
}

/* ---- writing ------------------------------------------------------------------ */

/* A write, and the region around it that is stored anew: [from, to) holds [offset, end). */
struct span {
    uint64_t offset, end;
    const uint8_t *bytes;
    uint64_t from, to;
};

/* So many records of the windows are remembered. */
#define SURVEY_RECORDS 8u

/* Records that were met. */
struct met {
    size_t count;
    struct fs_data_record records[SURVEY_RECORDS];
    uint8_t tables[SURVEY_RECORDS][KV_BLOB_TABLE_MAX]; /* theirs */
};

/* What lies where a write goes, seen in one walk over the packed windows that it touches. */
struct survey {
    struct met *met;
    uint64_t met_from, met_to; /* the windows */
    bool met_all;              /* `met` are all records that overlap them; none is packed */
    bool any;                  /* some record overlaps the write */
    bool solid;                /* some record with content overlaps it */
    uint64_t packed_bytes;     /* of the write that packed records cover */
    bool first_has_packed;     /* in the window where the write begins */
    bool last_has_packed;      /* in the window where it ends */
    uint64_t first_content;    /* least offset of content in the first window */
    uint64_t last_content;     /* end of content in the last window */
    bool has_host;             /* a packed record that the write lies in or continues */
    uint64_t host_offset, host_length;
    bool only_host;                   /* nothing else overlaps the write */
    uint64_t small_left, small_right; /* ends of remainders worth taking in, or the write's */
};

/*
 * What a write leaves of a record keeps a blob alive that is mostly dead. A small write takes in
 * next to nothing: reading and storing the rest again would cost it more than itself.
 */
static bool is_remnant(const struct fs_data_record *record, const struct span *span,
                       uint64_t overwritten)
{
    const uint64_t most = kv_blob_length(&record->blob) / 8;
    const bool small = span->end - span->offset < FS_DIRECT_BYTES;
    return record->kind == FS_DATA_EXTENT &&
           record->length - overwritten < (small ? kv_min_u64(most, FS_SHARE_MIN) : most);
}

static void survey_record(struct survey *s, const struct span *span, uint64_t window_first,
                          uint64_t window_last, uint64_t window_bytes,
                          const struct fs_data_record *r)
{
    const uint64_t end = fs_data_record_end(r);
    const bool overlaps = r->offset < span->end && end > span->offset;
    const bool packed = r->kind == FS_DATA_PACKED;
    const bool hosts = packed && r->offset <= span->offset && span->offset <= end;
    if (overlaps) {
        const uint64_t overwritten =
            kv_min_u64(end, span->end) - kv_max_u64(r->offset, span->offset);
        const bool remnant = is_remnant(r, span, overwritten);
        s->any = true;
        if (r->kind != FS_DATA_UNWRITTEN)
            s->solid = true;
        if (packed)
            s->packed_bytes += overwritten;
        if (!hosts)
            s->only_host = false;
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

/* Note a record for fs_data_carve_met; the bytes of a packed one are gone by then. */
static void note_met(struct survey *s, const struct fs_data_record *r)
{
    struct met *const met = s->met;
    if (met->count == SURVEY_RECORDS || r->kind == FS_DATA_PACKED) {
        s->met_all = false;
        return;
    }
    met->records[met->count] = *r;
    if (r->table) {
        size_t at;
        met->records[met->count].table = met->tables[met->count];
        memcpy(met->tables[met->count], r->table,
               kv_blob_table_range(&r->blob, r->blob_offset, r->length, &at));
    }
    met->count++;
}

/* s->met is the caller's memory. */
static int survey(struct survey *s, const struct fs_data_edit *edit, const struct span *span)
{
    const uint64_t window = edit->data->packed_bytes;
    const uint64_t first = align_down(span->offset, window);
    const uint64_t last = align_down(span->end - 1, window);
    s->met->count = 0;
    *s = (struct survey){.met = s->met,
                         .first_content = span->offset,
                         .last_content = span->end,
                         .met_from = first,
                         .met_to = last + window,
                         .met_all = true,
                         .only_host = true,
                         .small_left = span->offset,
                         .small_right = span->end};
    if (!edit->before.is_inline && last + window <= FS_SIZE_MAX) {
        uint8_t value[FS_DATA_VALUE_MAX];
        struct fs_data_record record;
        const int err =
            fs_data_find(edit->data, &edit->before, last + window - 1, 0, value, &record);
        const bool alone = !err && record.offset <= first; /* those before it end before that */
        if (alone && fs_data_record_end(&record) > first) {
            survey_record(s, span, first, last, window, &record);
            note_met(s, &record);
        }
        if (alone || (err && err != -ENOENT))
            return err;
    }
    struct fs_data_walk walk;
    int err = fs_data_walk_open(&walk, edit->data, &edit->before, first,
                                kv_min_u64(last + window, FS_SIZE_MAX));
    while (!err && !(err = fs_data_walk_next(&walk))) {
        survey_record(s, span, first, last, window, &walk.record);
        note_met(s, &walk.record);
    }
    fs_data_walk_close(&walk);
    return err == -ENOENT ? 0 : err;
}

/* See the head comment. */
static bool wants_extent(const struct fs_data_edit *edit, const struct survey *s,
                         const struct span *span)
{
    const uint64_t size = edit->before.size, length = span->end - span->offset;
    if (kv_max_u64(size, span->end) <= FS_PACKED_FILE_MAX)
        return false;
    if (length >= (edit->change->tight ? FS_SHARE_MIN : FS_DIRECT_BYTES))
        return true;
    if ((span->end > size && size > 0) || (s->any && edit->change->in_order)) {
        const uint64_t gather = edit->data->extent_bytes / 2;
        return span->offset / gather != span->end / gather;
    }
    return length >= FS_SHARE_MIN && s->packed_bytes < length;
}

/*
 * Lower span->from over the records that end where it begins, while they are packed, or
 * extents no longer than what is being written, and lie in the same extent_bytes.
 */
static int take_in_before(const struct fs_data_edit *edit, struct span *span)
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
        err = fs_data_decode_cursor(data, cursor, &r);
        if (err)
            break;
        if (fs_data_record_end(&r) < span->from || r.kind == FS_DATA_UNWRITTEN)
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
static int span_bytes(const struct fs_data_edit *edit, const struct span *span, uint64_t from,
                      uint64_t to, uint8_t *scratch, const uint8_t **bytes)
{
    if (from >= span->offset && to <= span->end) {
        *bytes = span->bytes + (from - span->offset);
        return 0;
    }
    int err = 0;
    if (from < span->offset)
        err = fs_data_read_range(edit->data, &edit->before, from, scratch,
                                 kv_min_u64(to, span->offset) - from);
    const uint64_t behind = kv_max_u64(from, span->end);
    if (!err && to > behind)
        err = fs_data_read_range(edit->data, &edit->before, behind, scratch + (behind - from),
                                 to - behind);
    if (err)
        return err;
    const uint64_t begin = kv_max_u64(from, span->offset), end = kv_min_u64(to, span->end);
    if (begin < end)
        memcpy(scratch + (begin - from), span->bytes + (begin - span->offset), end - begin);
    *bytes = scratch;
    return 0;
}

static int add_fresh_packed(struct fs_data_edit *edit, uint64_t from, uint64_t to)
{
    const uint64_t window = edit->data->packed_bytes;
    int err = 0;
    while (!err && from < to) {
        const uint64_t end = kv_min_u64(to, align_down(from, window) + window);
        const struct fs_data_fresh fresh = {
            .offset = from, .length = (uint32_t)(end - from), .packed = true};
        err = fs_data_edit_add(edit, &fresh);
        from = end;
    }
    return err;
}

/* Extents of a region that are written together. */
struct gathered {
    struct kv_blob_source sources[KV_BLOB_SOURCES_MAX];
    uint8_t tables[KV_BLOB_SOURCES_MAX][KV_BLOB_TABLE_MAX];
    uint64_t offsets[KV_BLOB_SOURCES_MAX];
    size_t count;
};

static int add_fresh_extent(struct fs_data_edit *edit, uint64_t offset,
                            const struct kv_blob_source *source)
{
    struct fs_data_fresh fresh = {
        .offset = offset, .length = (uint32_t)source->written, .blob = source->ref};
    memcpy(fresh.table, source->table, source->table_length);
    return fs_data_edit_add(edit, &fresh);
}

static int write_gathered(struct fs_data_edit *edit, struct gathered *gathered,
                          const struct kv_codec_spec *codec)
{
    if (!gathered->count)
        return 0;
    int err = write_blobs(edit->change, gathered->sources, gathered->count, codec);
    for (size_t i = 0; i < gathered->count && !err; i++) {
        struct kv_blob_source *const source = &gathered->sources[i];
        uint64_t offset = gathered->offsets[i];
        err = add_fresh_extent(edit, offset, source);
        /* Fragmented space may take a blob in several pieces. */
        while (!err && source->written < source->length) {
            offset += source->written;
            source->bytes = (const uint8_t *)source->bytes + source->written;
            source->length -= source->written;
            err = write_blobs(edit->change, source, 1, codec);
            if (!err)
                err = add_fresh_extent(edit, offset, source);
        }
    }
    gathered->count = 0;
    return err;
}

/* Write the blobs of a region; a last piece too short for one becomes packed. */
static int add_fresh_extents(struct fs_data_edit *edit, const struct span *span,
                             const struct kv_codec_spec *codec)
{
    const uint64_t unit = edit->data->extent_bytes;
    struct gathered gathered;
    gathered.count = 0;
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
            err = write_gathered(edit, &gathered, codec); /* fresh ones are in order */
            if (!err)
                err = add_fresh_packed(edit, from, to);
            from = to;
            continue;
        }
        struct kv_blob_source *const source = &gathered.sources[gathered.count];
        const uint8_t *bytes;
        err = span_bytes(edit, span, from, to, scratch, &bytes);
        *source = (struct kv_blob_source){
            .bytes = bytes, .length = to - from, .table = gathered.tables[gathered.count]};
        gathered.offsets[gathered.count++] = from;
        /* There is one scratch, for one extent at a time. */
        if (!err && (bytes == scratch || gathered.count == KV_BLOB_SOURCES_MAX))
            err = write_gathered(edit, &gathered, codec);
        from = to;
    }
    if (!err)
        err = write_gathered(edit, &gathered, codec);
    free(scratch);
    return err;
}

static int put_one_fresh(struct fs_data_edit *edit, const struct span *span,
                         const struct fs_data_fresh *f)
{
    if (!f->packed)
        return fs_data_put_extent(edit, f->offset, f->length, 0, &f->blob, f->table, KV_BLOB_NEW);
    uint8_t scratch[FS_PACKED_MAX];
    const uint8_t *bytes;
    const int err = span_bytes(edit, span, f->offset, f->offset + f->length, scratch, &bytes);
    return err ? err : fs_data_put_packed(edit, f->offset, bytes, f->length);
}

static int put_fresh(struct fs_data_edit *edit, const struct span *span)
{
    int err = 0;
    for (size_t i = 0; !err && i < edit->fresh_count; i++)
        err = put_one_fresh(edit, span, &edit->fresh[i]);
    return err;
}

/* Overwrite or continue the one packed record that a small write concerns. */
static int patch_host(struct fs_data_edit *edit, const struct survey *s, const struct span *span)
{
    uint8_t key[FS_DATA_KEY_BYTES];
    fs_data_key(key, edit->file->ino, s->host_offset);
    const uint64_t length = kv_max_u64(s->host_length, span->end - s->host_offset);
    fs_data_uncount(edit->file, s->host_length);
    fs_data_count(edit->file, length);
    return kv_batch_patch(edit->change->batch, key, sizeof key, 1 + (span->offset - s->host_offset),
                          span->bytes, span->end - span->offset);
}

static int write_records(struct fs_data_edit *edit, struct span *span,
                         const struct kv_codec_spec *codec)
{
    struct met met;
    struct survey s = {.met = &met};
    int err = survey(&s, edit, span);
    if (err)
        return err;
    err = fs_data_spill(edit);
    if (err)
        return err;
    if (wants_extent(edit, &s, span)) {
        const bool tight = edit->change->tight;
        span->from = tight ? span->offset : s.small_left;
        span->to = tight ? span->end : s.small_right;
        if (!tight && (span->end > edit->before.size || edit->change->in_order))
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
        if (s.met_all && span->from >= s.met_from && to <= s.met_to)
            err = fs_data_carve_met(edit, span->from, to, met.records, met.count);
        else
            err = fs_data_carve(edit, span->from, &to, SIZE_MAX);
    }
    return err ? err : put_fresh(edit, span);
}

static void write_inline(struct fs_file *file, uint64_t offset, const void *buf, size_t length)
{
    const uint64_t end = offset + length;
    fs_data_uncount(file, file->inline_len);
    if (offset > file->inline_len)
        memset(file->inline_data + file->inline_len, 0, offset - file->inline_len);
    memcpy(file->inline_data + offset, buf, length);
    file->inline_len = (uint16_t)kv_max_u64(file->inline_len, end);
    fs_data_count(file, file->inline_len);
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
        struct fs_data_edit edit;
        fs_data_edit_init(&edit, data, file, change);
        struct span span = {.offset = offset, .end = end, .bytes = buf, .from = offset, .to = end};
        err = write_records(&edit, &span, codec);
        fs_data_edit_release(&edit);
    }
    if (!err)
        file->size = kv_max_u64(file->size, end);
    return err;
}

/* ---- truncation ---------------------------------------------------------------- */

/*
 * Where the last max_records of the records behind `floor` begin; `floor` if there are not
 * more. A truncation goes from the end, so that each of its steps leaves a shorter file.
 */
static int tail_start(const struct fs_data_edit *edit, uint64_t floor, size_t max_records,
                      uint64_t *start)
{
    *start = floor;
    if (edit->before.is_inline)
        return 0;
    struct fs_data_walk walk;
    size_t seen = 0;
    int err = fs_data_walk_open(&walk, edit->data, &edit->before, floor, FS_SIZE_MAX);
    while (!err && seen <= max_records && !(err = fs_data_walk_next(&walk)))
        seen++;
    if (err || seen <= max_records)
        goto out;
    err = kv_cursor_last(walk.cursor);
    for (seen = 1; !err && seen < max_records; seen++)
        err = kv_cursor_prev(walk.cursor);
    struct fs_data_record record;
    if (!err)
        err = fs_data_decode_cursor(edit->data, walk.cursor, &record);
    if (!err)
        *start = kv_max_u64(floor, record.offset);
out:
    fs_data_walk_close(&walk);
    return err == -ENOENT ? 0 : err;
}

static void truncate_inline(struct fs_file *file, uint64_t size)
{
    if (size < file->inline_len) {
        fs_data_uncount(file, file->inline_len);
        file->inline_len = (uint16_t)size;
        fs_data_count(file, size);
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
    struct fs_data_edit edit;
    fs_data_edit_init(&edit, data, file, change);
    uint64_t start, end = FS_SIZE_MAX;
    int err = tail_start(&edit, size, max_records, &start);
    if (!err)
        err = fs_data_carve(&edit, start + KV_PLANT(truncation_leaves_byte), &end, SIZE_MAX);
    fs_data_edit_release(&edit);
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
