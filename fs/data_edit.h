/*
 * fs/data_edit.h: walking over the records of one file and editing them, for fs/data*.c.
 *
 * An edit reads the file as it was when the edit began (`before`), adds operations to a change,
 * and keeps `file` as what is to be stored; so nothing sees what the edit itself has added.
 *
 * Errors and locks: as fs/data.h says; a function that fails leaves a change to be aborted.
 */
#ifndef FS_DATA_EDIT_H
#define FS_DATA_EDIT_H

#include "fs/data.h"

#define FS_DIRECT_BYTES 16384u /* a write of this length is an extent at once */
#define FS_SHARE_MIN    4096u  /* shorter pieces of extents are copied, not shared */
#define FS_PACKED_MAX   4096u  /* greatest packed_bytes */
/* The longest value of an F record. */
#define FS_DATA_VALUE_MAX (1u + FS_PACKED_MAX)

static inline uint64_t fs_data_record_end(const struct fs_data_record *record)
{
    return record->offset + record->length;
}

/* ---- walking ------------------------------------------------------------------ */

/*
 * The records that overlap [start, end) in order. Inline content is met as a packed record
 * at offset 0, so that nobody else need tell the two apart.
 */
struct fs_data_walk {
    const struct fs_data *data;
    const struct fs_file *file;
    uint64_t start, end;
    struct kv_cursor *cursor; /* NULL for an inline file */
    uint64_t last_end;        /* of the record before, to see overlaps */
    bool begun;
    struct fs_data_record record; /* its bytes hold until the next step */
};

/* Close it whatever this returns. */
KV_MUST_CHECK int fs_data_walk_open(struct fs_data_walk *walk, const struct fs_data *data,
                                    const struct fs_file *file, uint64_t start, uint64_t end);
void fs_data_walk_close(struct fs_data_walk *walk);
/* Step to the next record: 0, or -ENOENT when there is none. */
KV_MUST_CHECK int fs_data_walk_next(struct fs_data_walk *walk);
/*
 * The last record of a file that is not inline which begins at `offset` or before, if it reaches as
 * far as `end`: 0 and the record, whose bytes lie in `value` (FS_DATA_VALUE_MAX bytes); -ENOENT:
 * walk instead.
 */
KV_MUST_CHECK int fs_data_find(const struct fs_data *data, const struct fs_file *file,
                               uint64_t offset, uint64_t end, uint8_t *value,
                               struct fs_data_record *record);
/* The record that a cursor over F keys stands on; its bytes hold until the cursor moves. */
KV_MUST_CHECK int fs_data_decode_cursor(const struct fs_data *data, struct kv_cursor *cursor,
                                        struct fs_data_record *record);
/* Copy stored bytes [offset, offset + length) whatever the size is; gaps become zeros. */
KV_MUST_CHECK int fs_data_read_range(const struct fs_data *data, const struct fs_file *file,
                                     uint64_t offset, uint8_t *buf, size_t length);
/* As fs_data_read_begin, of a file that is not inline. */
KV_MUST_CHECK int fs_data_begin_range(const struct fs_data *data, const struct fs_file *file,
                                      uint64_t offset, uint8_t *buf, size_t length,
                                      struct kv_blob_reading **reading,
                                      struct kv_blob_transfer *transfer);

/* ---- editing ------------------------------------------------------------------ */

/* A record that an edit is going to store: a new blob, or bytes. */
struct fs_data_fresh {
    uint64_t offset;
    uint32_t length;
    bool packed;
    struct kv_blob_ref blob; /* unless packed; and the table, if it has one */
    uint8_t table[KV_BLOB_TABLE_MAX];
};

#define FS_DATA_FEW 2u
/* It stays where it was made. */
struct fs_data_edit {
    const struct fs_data *data;
    struct fs_file before; /* as stored; walks use it */
    struct fs_file *file;  /* becomes what is to be stored */
    struct fs_data_change *change;
    struct fs_data_fresh *fresh; /* ascending; `few` until there are more, then these: */
    struct fs_data_fresh *more;  /* owned */
    size_t fresh_count, fresh_cap;
    struct fs_data_fresh few[FS_DATA_FEW];
};

void fs_data_edit_init(struct fs_data_edit *edit, const struct fs_data *data, struct fs_file *file,
                       struct fs_data_change *change);
void fs_data_edit_release(struct fs_data_edit *edit);
/* Add what a write brings to edit->fresh. */
KV_MUST_CHECK int fs_data_edit_add(struct fs_data_edit *edit, const struct fs_data_fresh *fresh);

/* The stored count is input: one that is too small must not wrap. fsck mends it. */
static inline void fs_data_uncount(struct fs_file *file, uint64_t length)
{
    file->blocks -= kv_min_u64(file->blocks, fs_data_units(length));
}

static inline void fs_data_count(struct fs_file *file, uint64_t length)
{
    file->blocks += fs_data_units(length);
}

/* Store one record; fs_file.blocks counts it. table: what kv_blob_table_range says of the extent.
 */
KV_MUST_CHECK int fs_data_put_packed(struct fs_data_edit *edit, uint64_t offset,
                                     const uint8_t *bytes, size_t length);
KV_MUST_CHECK int fs_data_put_extent(struct fs_data_edit *edit, uint64_t offset, uint64_t length,
                                     uint64_t blob_offset, const struct kv_blob_ref *blob,
                                     const uint8_t *table, enum kv_blob_use use);
/* What the part of an extent's record from file offset `from` on, which is inside it, needs of the
 * record's table: where that begins. */
const uint8_t *fs_data_table_from(const struct fs_data_record *record, uint64_t from);
KV_MUST_CHECK int fs_data_put_unwritten(struct fs_data_edit *edit, uint64_t offset,
                                        uint64_t length);
/* Store the part [from, to) of a stored record again, at offset `at`. */
KV_MUST_CHECK int fs_data_put_part(struct fs_data_edit *edit, const struct fs_data_record *record,
                                   uint64_t from, uint64_t to, uint64_t at);
/* Delete the record that begins at `offset`; the caller has uncounted it. */
KV_MUST_CHECK int fs_data_delete_key(struct fs_data_edit *edit, uint64_t offset);
/* Give inline content a record of its own; `before` goes on showing it as one. */
KV_MUST_CHECK int fs_data_spill(struct fs_data_edit *edit);
/*
 * Free [from, *to) of records: those inside go, those that stick out keep the rest. What
 * sticks out is stored before its record is deleted, so a blob is never without a holder.
 * Keys that `fresh` will store anew are left to it.
 *
 * max_records  at most so many are touched; *to is then lowered to the next one's start.
 */
KV_MUST_CHECK int fs_data_carve(struct fs_data_edit *edit, uint64_t from, uint64_t *to,
                                size_t max_records);
/* The same for who has met all records that overlap [from, to), and maybe others, already. */
KV_MUST_CHECK int fs_data_carve_met(struct fs_data_edit *edit, uint64_t from, uint64_t to,
                                    const struct fs_data_record *records, size_t count);

#endif
