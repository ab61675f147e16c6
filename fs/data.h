/*
 * fs/data.h: the content of one file, as F records of the store.
 *
 * A file's content is a set of records that do not overlap, in key order:
 *
 *    key   'F' inode(8, big-endian) offset(8, big-endian)
 *    value PACKED     kind(1) bytes              short pieces, inside the leaf
 *          EXTENT     struct fs_disk_extent, part of the blob's table, blob reference (40)
 *          UNWRITTEN  kind(1) length(8)          preallocated: counted, read as zeros
 *
 * What no record covers is a hole and reads as zeros. Content of at most FS_INLINE_MAX
 * bytes has no record at all: it stands in the inode's own record (fs_file.inline_data).
 *
 * st_blocks is the sum over the records of their length rounded up to 512 bytes; inline
 * content counts the same way. It is the logical allocated size: neither compression nor
 * sharing lessens it. Every function keeps fs_file.blocks exact.
 *
 * Changes: each function reads the stored state and adds operations to a change, without
 * applying anything. At most one of them may be used in a change per file, because none
 * sees what another has added. After an error, and after a change that is not applied, the
 * caller throws its copy of fs_file away.
 *
 * Locks: the caller holds the inode's lock, shared for read and seek, exclusive for the
 * rest. A `struct fs_data` may be used by all threads.
 *
 * Errors common to all: what kv/kv.h says of reading; -EUCLEAN a record that contradicts
 * itself or its neighbours; -ENOMEM; -EFBIG a range that ends behind FS_SIZE_MAX.
 */
#ifndef FS_DATA_H
#define FS_DATA_H

#include "kv/base.h"
#include "kv/kv.h"

#include <stdatomic.h>

#define FS_INLINE_MAX 256u
#define FS_SIZE_MAX   ((uint64_t)INT64_MAX)
#define FS_WRITE_MAX  (1u << 20) /* bytes of one fs_data_write */
/* Records that one change of a stepwise function touches, if the caller has no other wish. */
#define FS_DATA_STEP_RECORDS 4096u
/* Collapse and insert move at most so many records, and packed bytes; more: -EOPNOTSUPP. */
#define FS_DATA_MOVE_RECORDS 16384u
#define FS_DATA_MOVE_BYTES   (1u << 20)

/* Long reads, and what they were made of: how far files are cut up where that is felt. */
#define FS_LONG_READ_BYTES 65536u
struct fs_data_counts {
    _Atomic uint64_t reads, bytes, pieces; /* extents, and records that are packed */
};

/*
 * Where content goes. Needs no release; who wants one file treated otherwise changes a copy
 * (fs/policy_lookup.h).
 */
struct fs_data {
    struct kv_store *store;
    uint32_t packed_bytes;         /* longest packed record; none crosses a multiple of it */
    uint32_t extent_bytes;         /* longest extent that writing makes; a power of two */
    bool retain;                   /* extents that are read stay in memory (kv_retain) */
    struct fs_data_counts *counts; /* the caller's; NULL, as after fs_data_init: nobody counts */
};

/* The part of an inode's record that content operations read and change. */
struct fs_file {
    uint64_t ino;
    uint64_t size;       /* bytes */
    uint64_t blocks;     /* 512-byte units, exact */
    bool is_inline;      /* then no F record exists; a new or empty file is inline */
    uint16_t inline_len; /* <= size; behind it, up to size, is a hole */
    uint8_t inline_data[FS_INLINE_MAX];
};

#define FS_CHANGE_FEW 2u
/* A transaction in progress: operations, and the new blobs that die if it is not applied. It stays
 * where it was made. */
struct fs_data_change {
    struct kv_store *store;    /* borrowed */
    struct kv_batch *batch;    /* owned by the change; the caller adds its own operations too */
    struct kv_blob_ref *blobs; /* `few` until there are more */
    size_t blob_count, blob_cap;
    struct kv_blob_ref few[FS_CHANGE_FEW];
    bool tight; /* space is short: a write of a block or more stores that and nothing else anew */
    bool in_order; /* the file's write before this one ended where this one begins */
};

/* Learn the geometry of `store`, which is borrowed for the life of `data`. */
void fs_data_init(struct fs_data *data, struct kv_store *store);

/* Begin an empty change. -ENOMEM; -EROFS the store has turned read-only. */
KV_MUST_CHECK int fs_data_change_init(struct fs_data_change *change, struct kv_store *store);
/* The batch was applied: its blobs belong to the tree now. Leaves an empty change to reuse. */
void fs_data_change_applied(struct fs_data_change *change);
/* The batch was not applied: discard its blobs and operations. Leaves an empty change. */
void fs_data_change_abort(struct fs_data_change *change);
/* kv_apply and then one of the two above. Returns what kv_apply returns. */
KV_MUST_CHECK int fs_data_change_apply(struct fs_data_change *change, unsigned flags,
                                       uint64_t *position);
/* Free the memory; what was not applied is aborted. */
void fs_data_change_release(struct fs_data_change *change);

/*
 * Copy content from `offset` on. Holes read as zeros.
 *
 * got  out: bytes copied; less than `length` only at the end of the file.
 */
KV_MUST_CHECK int fs_data_read(const struct fs_data *data, const struct fs_file *file,
                               uint64_t offset, void *buf, size_t length, size_t *got);

/*
 * The same for who does not wait for the device. 0 and *reading NULL: as fs_data_read. 0 and
 * *reading: once *transfer was made kv_blob_read_end puts the *got bytes where they belong, or can
 * not, for what is stored may change meanwhile: then fs_data_read does. -EOPNOTSUPP: only that
 * does, since the range is not part of one extent, or whatever else.
 */
KV_MUST_CHECK int fs_data_read_begin(const struct fs_data *data, const struct fs_file *file,
                                     uint64_t offset, void *buf, size_t length, size_t *got,
                                     struct kv_blob_reading **reading,
                                     struct kv_blob_transfer *transfer);

/* Have the extents of a range read into memory (kv_blob_prefetch). */
void fs_data_prefetch(const struct fs_data *data, const struct fs_file *file, uint64_t offset,
                      size_t length);

/*
 * Write `length` bytes (1..FS_WRITE_MAX), growing the file if need be.
 *
 * codec  packs new blobs; NULL: the image's default.
 *
 * Returns 0; -EINVAL a length out of range; -ENOSPC.
 */
KV_MUST_CHECK int fs_data_write(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                                const void *buf, size_t length, const struct kv_codec_spec *codec,
                                struct fs_data_change *change);

/*
 * Set the size. Growing leaves a hole; what lies behind the new size goes, preallocation
 * too.
 *
 * max_records  how many records a change may touch (>= 1).
 * done         out: false when there was more: file->size is then between the old and the
 *              new size, and after applying, the caller calls again with the same size.
 */
KV_MUST_CHECK int fs_data_truncate(const struct fs_data *data, struct fs_file *file, uint64_t size,
                                   size_t max_records, struct fs_data_change *change, bool *done);

/*
 * Make a hole of [offset, offset + length); the size stays (FALLOC_FL_PUNCH_HOLE).
 * Stepwise as fs_data_truncate: *done false means apply and call again with the same range.
 */
KV_MUST_CHECK int fs_data_punch(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                                uint64_t length, size_t max_records, struct fs_data_change *change,
                                bool *done);

/*
 * Make [offset, offset + length) read as zeros and be preallocated (FALLOC_FL_ZERO_RANGE).
 * keep_size: do not grow the file. Stepwise as fs_data_punch. -ENOSPC as fs_data_allocate.
 */
KV_MUST_CHECK int fs_data_zero(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                               uint64_t length, bool keep_size, size_t max_records,
                               struct fs_data_change *change, bool *done);

/*
 * Preallocate the holes of [offset, offset + length) (fallocate mode 0). They become
 * UNWRITTEN records: counted in blocks, read as zeros, a hole for fs_data_seek.
 * Stepwise as fs_data_punch.
 *
 * Copy-on-write can not keep particular blocks for a later write. What is promised, as by
 * other copy-on-write filesystems: -ENOSPC now if the store has not as much room as the
 * holes take; other writers may use it up later.
 */
KV_MUST_CHECK int fs_data_allocate(const struct fs_data *data, struct fs_file *file,
                                   uint64_t offset, uint64_t length, bool keep_size,
                                   size_t max_records, struct fs_data_change *change, bool *done);

/*
 * Remove [offset, offset + length) and move what follows down (FALLOC_FL_COLLAPSE_RANGE);
 * or move what lies from `offset` on up by `length`, leaving a hole (FALLOC_FL_INSERT_RANGE).
 * Both ranges are multiples of 4096; one change, so atomic.
 *
 * Returns 0; -EINVAL not aligned, or the range reaches the end of the file (offset, for
 * insert); -EOPNOTSUPP more to move than FS_DATA_MOVE_RECORDS or _BYTES.
 */
KV_MUST_CHECK int fs_data_collapse(const struct fs_data *data, struct fs_file *file,
                                   uint64_t offset, uint64_t length, struct fs_data_change *change);
KV_MUST_CHECK int fs_data_insert(const struct fs_data *data, struct fs_file *file, uint64_t offset,
                                 uint64_t length, struct fs_data_change *change);

enum fs_data_seek_kind { FS_SEEK_DATA, FS_SEEK_HOLE };

/*
 * The first offset >= `offset` that is in data (in a hole; the end of the file is one).
 * Returns 0; -ENXIO offset at or behind the end, or no more data.
 */
KV_MUST_CHECK int fs_data_seek(const struct fs_data *data, const struct fs_file *file,
                               uint64_t offset, enum fs_data_seek_kind kind, uint64_t *found);

/*
 * Let [to, to + length) of `target` have the content of [from, from + length) of `source`,
 * sharing blobs; pieces shorter than a block are copied. Grows the target if need be.
 * source and target may be one file (the same pointer) if the ranges do not overlap.
 *
 * cloned  out: how many bytes this change does, at least 1 unless length or what the source
 *         has from `from` on is 0; after applying, the caller may go on behind them.
 *
 * Returns 0; -EINVAL overlapping ranges; -ENOSPC.
 */
KV_MUST_CHECK int fs_data_clone(const struct fs_data *data, const struct fs_file *source,
                                uint64_t from, struct fs_file *target, uint64_t to, uint64_t length,
                                size_t max_records, struct fs_data_change *change,
                                uint64_t *cloned);

/*
 * Delete up to max_records F records of an inode that is going away.
 * done  out: none is left once the change is applied.
 */
KV_MUST_CHECK int fs_data_delete_step(const struct fs_data *data, uint64_t ino, size_t max_records,
                                      struct fs_data_change *change, bool *done);

/* ---- records, for the checker ---------------------------------------------- */

#define FS_DATA_KEY_BYTES 17u
enum fs_data_kind { FS_DATA_PACKED = 1, FS_DATA_EXTENT = 2, FS_DATA_UNWRITTEN = 3 };

struct fs_data_record {
    uint64_t ino, offset, length; /* length >= 1; offset + length <= FS_SIZE_MAX */
    enum fs_data_kind kind;
    const uint8_t *bytes;    /* PACKED: borrowed from the value */
    struct kv_blob_ref blob; /* EXTENT */
    uint32_t blob_offset;    /* EXTENT: of the first byte inside the blob */
    const uint8_t *table;    /* EXTENT: what kv_blob_table_range says of it, borrowed; or NULL */
};

void fs_data_key(uint8_t key[FS_DATA_KEY_BYTES], uint64_t ino, uint64_t offset);
/* -EUCLEAN unless key and value form a record that obeys every rule for one record. */
KV_MUST_CHECK int fs_data_record_decode(const struct fs_data *data, const void *key, size_t key_len,
                                        const void *value, size_t value_len,
                                        struct fs_data_record *record);
/* What a record, or inline content, of `length` bytes counts in st_blocks. */
static inline uint64_t fs_data_units(uint64_t length)
{
    return length / 512u + (length % 512u != 0);
}

#endif
