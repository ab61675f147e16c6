/*
 * kv/kv.h: the only door into the store.
 *
 * A store is one image (a file or a block device) that holds one ordered set of
 * keys with values. Keys are byte strings, ordered by memcmp and then length.
 * Changes go in as batches: a batch is applied whole or not at all, also over a
 * crash, and what a crash leaves is a prefix of the batches in the order in
 * which they were applied.
 *
 * Functions return 0 or a negative errno unless they say otherwise. Common to
 * all that read: -EBADMSG a checksum failed, -EUCLEAN a structure contradicts
 * itself, -EIO the device failed, -ENOMEM. Common to all that write: -EROFS the
 * store was opened read-only or turned read-only after a failed write.
 *
 * Threads: a store may be used by any number of threads. A batch or a cursor
 * belongs to one thread at a time.
 */
#ifndef KV_KV_H
#define KV_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef KV_MUST_CHECK
#define KV_MUST_CHECK __attribute__((warn_unused_result))
#endif

struct kv_store;
struct kv_batch;
struct kv_cursor;
struct kv_device;    /* kv/device.h; only tests pass one */
struct kv_histogram; /* kv/histogram.h; for programs that link the static library */

#define KV_KEY_MAX   512u        /* bytes of a key; the least is 1 */
#define KV_VALUE_MAX (16u << 20) /* bytes of a value given to kv_batch_put */
#define KV_BLOB_MAX  (1u << 20)  /* bytes of one blob */
#define KV_LABEL_MAX 63u         /* bytes */

enum kv_codec { KV_CODEC_NONE = 0, KV_CODEC_LZ4 = 1, KV_CODEC_ZSTD = 2 };
#define KV_CODEC_COUNT 3u

/* "none", "lz4", "zstd" by enum kv_codec; "?" for any other number. */
const char *kv_codec_name(unsigned codec);

struct kv_codec_spec {
    enum kv_codec codec;
    int level; /* zstd 1..19; others ignore it; 0 = the codec's default */
};

/* What went wrong, for a person: names the thing and the remedy, one line, no newline. */
struct kv_error {
    char text[512];
};

/*
 * Does an error, as any function here returns it, say that the image contradicts itself: a failed
 * checksum (-EBADMSG), or content that no writer makes (-EUCLEAN)? Only then a repair is the
 * remedy; what can not be read (-EIO), or has no memory (-ENOMEM), may be whole. False for 0.
 * Threads: any.
 */
bool kv_error_is_contradiction(int error);

/* ---- an image's life ---------------------------------------------------- */

struct kv_create_options {
    uint64_t size_bytes;   /* 0: the whole of an existing file or device */
    uint32_t node_bytes;   /* power of two, 4096..65536; 0 = 16384 */
    uint32_t extent_bytes; /* power of two, 4096..KV_BLOB_MAX; 0 = 131072 */
    uint64_t log_bytes;    /* 0 = min(1/8 of the image, 256 MiB) */
    struct kv_codec_spec codec;
    uint8_t uuid[16];  /* all zero: a random one */
    const char *label; /* NULL: none */
    bool force;        /* overwrite what looks like a filesystem or image */
};

/*
 * Make an empty image at `path` (created if it is not there and a size is given).
 *
 * Returns 0; -EINVAL a bad option; -EEXIST something is there and force is not set;
 * -EBUSY in use; -ENOSPC smaller than the least image; -EFBIG larger than the largest; or what
 * open, ftruncate or writing say. `error` (may be NULL) gets the words.
 */
KV_MUST_CHECK int kv_create(const char *path, const struct kv_create_options *options,
                            struct kv_error *error);

/*
 * The same, and open the new image with the default options before anybody else can.
 * store: out, set on 0 only.
 */
KV_MUST_CHECK int kv_create_open(const char *path, const struct kv_create_options *options,
                                 struct kv_store **store, struct kv_error *error);

enum kv_sync_mode {
    KV_SYNC_FSYNC = 0,  /* durable at kv_sync, and every commit_interval (default) */
    KV_SYNC_ALWAYS,     /* every batch is durable before kv_apply returns */
    KV_SYNC_CHECKPOINT, /* no log: durable at each checkpoint; kv_sync makes one */
};

enum kv_log_level { KV_LOG_ERROR = 0, KV_LOG_WARNING, KV_LOG_INFO, KV_LOG_DEBUG };
typedef void kv_log_fn(void *context, enum kv_log_level level, const char *line);

/*
 * Says what a key is, for people, in one line of at most text_cap bytes with the zero. false: it
 * is not known, the bytes are to be shown.
 */
typedef bool kv_show_key_fn(void *context, const void *key, size_t key_len, char *text,
                            size_t text_cap);

enum kv_check_severity { KV_CHECK_NOTE, KV_CHECK_REPAIRABLE, KV_CHECK_DAMAGE };

/* Called for each finding; `what` is a stable word for machines, `text` one line for people. */
typedef void kv_check_report_fn(void *context, enum kv_check_severity severity, const char *what,
                                const char *text);

/*
 * The tiers of memory for pages. Hot and warm are pages as they are used; cold and frozen are pages
 * that left warm, packed: as they lie on the device or by lz4, and by zstd.
 */
enum kv_tier { KV_TIER_HOT, KV_TIER_WARM, KV_TIER_COLD, KV_TIER_FROZEN, KV_TIER_COUNT };

/*
 * What each tier may take of the memory for pages, in relation to the others: 10, 20, 30, 40 and
 * 1, 2, 3, 4 are the same. All 0: the defaults. Hot or warm must have some, cold and frozen may
 * have none. What cold and frozen do not use (nothing has left yet, or it does not pack) is hot's
 * and warm's.
 */
struct kv_tiers {
    uint32_t ratio[KV_TIER_COUNT]; /* each 0..KV_TIER_RATIO_MAX */
};
#define KV_TIER_RATIO_MAX 10000u
/*
 * Hot and warm as they are, cold and frozen with the share beside them that bench-tiers found best.
 * Threads: any.
 */
struct kv_tiers kv_tiers_with_packed(const struct kv_tiers *tiers);

/* What is timed and counted beyond the plain counts of kv_stats; costs some percent at most. */
enum kv_metric_category {
    KV_METRIC_CACHE = 1,  /* pages and extents in memory */
    KV_METRIC_WAL = 2,    /* the log: flushes, groups, checkpoints */
    KV_METRIC_IO = 4,     /* the device */
    KV_METRIC_FUSE = 8,   /* requests; not the store's */
    KV_METRIC_TREE = 16,  /* batches, gets, pages */
    KV_METRIC_CODEC = 32, /* packing and unpacking */
    KV_METRIC_SPACE = 64, /* free space and how it is cut up */
    KV_METRIC_ALL = 127
};

#define KV_TOUCH_AHEAD_MAX (64u << 20)

struct kv_open_options {
    bool read_only; /* nothing is written; a log that needs replay is replayed in memory */
    enum kv_sync_mode sync;
    uint64_t memory_budget_bytes; /* 0 = 256 MiB; the least is 8 MiB */
    uint32_t commit_interval_ms;  /* 0 = 1000 */
    struct kv_tiers tiers;        /* of what the budget has for pages */
    /* Else cold and frozen, where they have no share, get one for as long as that spares reads. */
    bool fixed_tiers;
    uint32_t blob_percent; /* of the budget, for blobs that were read lately: 0..75; 0 = none */
    /* Of what there is for pages, and for blobs, how much may be retained (kv_retain): 0..50. */
    uint32_t retain_percent;
    bool buffered_io;   /* host page cache instead of O_DIRECT */
    bool no_background; /* no threads yet, or ever: then the caller checkpoints and syncs */
    /*
     * fsck: open what is damaged, as far as it goes, for kv_check to mend. The log may be
     * damaged before its durable end (it ends there), the backup superblock is used when both
     * copies are damaged, bitmaps that are damaged are made anew from the trees. What was
     * done so is logged. A tree that is damaged is mended before the log is replayed into it;
     * what was found then is reported, as kv_check would, or logged. When both superblocks are
     * lost and what lies on the device is newer than the backup, kv_check makes the trees anew
     * from all leaves that are found, and the log is given up. May be combined with read_only.
     */
    bool repair;
    kv_check_report_fn *report; /* NULL: findings are logged */
    void *report_context;
    kv_show_key_fn *show_key; /* as in kv_check_options, with report_context */
    kv_log_fn *log;           /* NULL: standard error */
    void *log_context;
    struct kv_device *device; /* tests: instead of a path; closed by kv_close or a failed open */
    unsigned metrics;         /* enum kv_metric_category; 0: none */
    /*
     * The longest that changes are in the log alone, or with KV_SYNC_CHECKPOINT in memory alone;
     * many of them, in relation to memory and log, ask for a checkpoint earlier. 0 = 30000
     */
    uint32_t checkpoint_interval_ms;
    /* For records until they are written; 0 = 4 MiB, or a 32nd of a budget below 128 MiB */
    uint32_t log_buffer_bytes;
    /*
     * Memory of the budget that is faulted in before it is used, by a thread of its own: so much
     * at least, or as much as is used already up to KV_TOUCH_AHEAD_MAX. 0: only the latter.
     */
    uint64_t touch_ahead_bytes;
};

/*
 * Open the image at `path`, replay its log, and hold its exclusive lock until kv_close.
 *
 * options    NULL for the defaults; borrowed for the call (log_context for the store's life).
 * store      out: set on 0 only.
 *
 * Returns 0; -EBUSY in use by another process (the text names it); -ENXIO a loop device over
 * a file that can not be reached from here; -EMEDIUMTYPE not an
 * image; -EPROTONOSUPPORT a version or feature that this build does not know; -EBADMSG or
 * -EUCLEAN damaged (the text says what fsck.kvfs would do); -ENODATA truncated; -EINVAL.
 */
KV_MUST_CHECK int kv_open(const char *path, const struct kv_open_options *options,
                          struct kv_store **store, struct kv_error *error);

/*
 * Start the threads that kv_open did not: for who must fork, or give up rights, in between.
 * Nothing to do (0) for a store that has them; one that is read-only has the one that reads pages
 * ahead. -EAGAIN no thread to be had.
 */
KV_MUST_CHECK int kv_start_background(struct kv_store *store);

/*
 * Checkpoint, mark the image clean, release everything. The store is gone whatever is
 * returned; an error means that the last checkpoint failed and the log will be replayed.
 */
KV_MUST_CHECK int kv_close(struct kv_store *store);

/* Release everything without writing: what is left is as after a crash. For tests. */
void kv_abandon(struct kv_store *store);

/*
 * The process that owns the image at `path`, itself or by a loop device; -1: one in a PID
 * namespace that can not be seen from here; 0: none that is alive.
 */
int kv_image_holder(const char *path);
/* Do both paths lead to the same image: by links, or by a loop device over it? */
bool kv_image_same(const char *a, const char *b);

struct kv_image_info {
    uint8_t uuid[16];
    char label[KV_LABEL_MAX + 1];
    uint32_t version;
    uint32_t node_bytes, extent_bytes;
    uint64_t image_bytes, log_bytes;
    struct kv_codec_spec codec;
    uint64_t feature_compat, feature_rocompat, feature_incompat;
    uint64_t epoch;
    uint64_t created_ns, written_ns; /* since 1970 */
    bool clean;                      /* closed cleanly */
    bool superblock_damaged;         /* one copy is damaged; the other was used */
};

/* Read the superblock only; takes no lock, so it works on a mounted image. */
KV_MUST_CHECK int kv_image_info(const char *path, struct kv_image_info *info,
                                struct kv_error *error);
/* Of an open store: as it was opened, but for the epoch, which is the open one. Never waits. */
void kv_store_info(struct kv_store *store, struct kv_image_info *info);

/* ---- reading ------------------------------------------------------------ */

/*
 * Copy the value stored under a key.
 *
 * buf        caller's memory, buf_cap bytes; NULL if buf_cap is 0.
 * value_len  out: whole length in bytes; set on 0 and on -ERANGE.
 *
 * Returns 0; -ENOENT no such key; -ERANGE buf too small, nothing useful copied;
 * -EINVAL a key length out of range.
 * Threads: any; sees every batch applied before the call.
 * Method: optimistic lock coupling (Leis et al. 2016, 2019).
 */
KV_MUST_CHECK int kv_get(struct kv_store *store, const void *key, size_t key_len, void *buf,
                         size_t buf_cap, size_t *value_len);

/*
 * kv_get for the last key that is not above `key`: as a cursor finds it, for less.
 *
 * found  out: that key, KV_KEY_MAX bytes of the caller's; set on 0 and on -ERANGE.
 *
 * Returns what kv_get returns; -ENOENT: all keys are above.
 */
KV_MUST_CHECK int kv_get_floor(struct kv_store *store, const void *key, size_t key_len, void *found,
                               size_t *found_len, void *buf, size_t buf_cap, size_t *value_len);

struct kv_lookup {
    const void *key;
    size_t key_len;
    void *buf;
    size_t buf_cap;
    size_t value_len; /* out, as in kv_get */
    int result;       /* out, as kv_get returns */
};

/* kv_get for each of `count` lookups; cache misses are started together. Returns 0 or -ENOMEM. */
KV_MUST_CHECK int kv_get_many(struct kv_store *store, struct kv_lookup *lookups, size_t count);

/*
 * A cursor walks the keys of [lower, upper) in order. It sees each leaf as it was at one
 * moment: a key inserted or deleted while it walks may or may not be seen, every other
 * key is seen exactly once. It holds nothing that stops writers.
 *
 * lower/upper  borrowed for the call; length 0: unbounded.
 */
KV_MUST_CHECK int kv_cursor_open(struct kv_store *store, const void *lower, size_t lower_len,
                                 const void *upper, size_t upper_len, struct kv_cursor **cursor);
KV_MUST_CHECK int kv_cursor_open_prefix(struct kv_store *store, const void *prefix,
                                        size_t prefix_len, struct kv_cursor **cursor);
void kv_cursor_close(struct kv_cursor *cursor);
/*
 * The caller means to go on to the upper bound, or as far as it needs: wherever keys are not in
 * memory, those that follow within the bounds are read with them, up to some hundred KiB; and
 * those beyond, when another such cursor has ended just before the first key of this one. Without
 * it that begins after some leaves in order. Not for going backward.
 */
void kv_cursor_walk_on(struct kv_cursor *cursor);

/* Each moves and returns 0 on a key, -ENOENT when there is none (the cursor is then on none). */
KV_MUST_CHECK int kv_cursor_first(struct kv_cursor *cursor);
KV_MUST_CHECK int kv_cursor_last(struct kv_cursor *cursor);
KV_MUST_CHECK int kv_cursor_seek(struct kv_cursor *cursor, const void *key,
                                 size_t key_len); /* the first key >= key */
KV_MUST_CHECK int kv_cursor_seek_before(struct kv_cursor *cursor, const void *key,
                                        size_t key_len); /* the last key < key */
KV_MUST_CHECK int kv_cursor_next(struct kv_cursor *cursor);
KV_MUST_CHECK int kv_cursor_prev(struct kv_cursor *cursor);

/* Of the key the cursor is on; borrowed until it moves. The value of a large key is read now. */
const void *kv_cursor_key(struct kv_cursor *cursor, size_t *key_len);
KV_MUST_CHECK int kv_cursor_value(struct kv_cursor *cursor, const void **value, size_t *value_len);

/* ---- blobs: bytes kept outside the tree, referred to by values --------------- */

/* A reference to a blob; may be copied freely and compared with memcmp. */
struct kv_blob_ref {
    uint8_t bytes[40];
};

/*
 * Write `length` bytes (1..KV_BLOB_MAX) as a blob, packed by `codec` (NULL: the image's
 * default; what does not shrink by a block is stored as it is). It is durable no later than the
 * batch that refers to it. The blob belongs to the caller until a batch with kv_batch_put_blob(..,
 * KV_BLOB_NEW) is applied, or kv_blob_discard. On fragmented space fewer bytes may be taken:
 * *written says how many.
 *
 * Returns 0; -ENOSPC; -EINVAL; -EROFS; -EIO.
 */
KV_MUST_CHECK int kv_blob_write(struct kv_store *store, const void *bytes, size_t length,
                                const struct kv_codec_spec *codec, struct kv_blob_ref *ref,
                                size_t *written);

/*
 * A blob may be in frames: then each can be read by itself, by who has its entry of the blob's
 * table. The table belongs to the caller, who keeps it beside the reference (in the head of
 * kv_batch_put_blob it is under the digest of the leaf), or does without: the whole is read then.
 */
#define KV_BLOB_TABLE_MAX 256u

/* Bytes that become a blob. */
struct kv_blob_source {
    const void *bytes;
    size_t length;
    void *table; /* out, room for KV_BLOB_TABLE_MAX bytes; NULL: it is not to be in frames */
    size_t table_length;    /* out; 0: it is not in frames (it is short, or the image is of old) */
    struct kv_blob_ref ref; /* out, if the next one is not 0 */
    size_t written;         /* out; 0: it was not written */
};
#define KV_BLOB_SOURCES_MAX 32u
/*
 * kv_blob_write for several, KV_BLOB_SOURCES_MAX at most: they are packed at the same time, and
 * placed one behind the other where there is room. The first error is returned; those that were
 * written before it belong to the caller, too.
 */
KV_MUST_CHECK int kv_blob_write_many(struct kv_store *store, struct kv_blob_source *sources,
                                     size_t count, const struct kv_codec_spec *codec);
void kv_blob_discard(struct kv_store *store, const struct kv_blob_ref *ref);

/*
 * What [offset, offset + length) of a blob needs of its table: bytes [*at, *at + the returned) of
 * it. 0: nothing, it is not in frames, or the range is empty or not inside it.
 */
size_t kv_blob_table_range(const struct kv_blob_ref *ref, size_t offset, size_t length, size_t *at);
/* Can this be what kv_blob_table_range says of the range? Only where that is all of it one can tell
 * without reading the blob; else true. */
bool kv_blob_table_agrees(const struct kv_blob_ref *ref, size_t offset, size_t length,
                          const void *table);

/* The table, made anew from all of the blob, which is read and verified. *length 0: it has none. */
KV_MUST_CHECK int kv_blob_table(struct kv_store *store, const struct kv_blob_ref *ref,
                                uint8_t table[KV_BLOB_TABLE_MAX], size_t *length);

/*
 * Copy bytes [offset, offset + length) of a blob; the range must lie inside it (-ERANGE). All of
 * a blob (a frame) that is small or read in part stays in memory, as far as blob_percent of the
 * budget allows. The caller sees to it that the reference is not dropped meanwhile.
 */
KV_MUST_CHECK int kv_blob_read(struct kv_store *store, const struct kv_blob_ref *ref, size_t offset,
                               void *buf, size_t length);

/* Bytes [offset, offset + length) of a blob, and where they go. */
struct kv_blob_part {
    struct kv_blob_ref ref;
    void *buf; /* aligned to 4096, and whole frames or all of a blob wanted: may save a copy */
    size_t offset, length;
    bool retain; /* once read it stays in memory, as kv_retain has it; within blob_percent */
    /* What kv_blob_table_range says of [table_from, table_to), which the range lies in; may be
     * NULL: the whole blob is read. */
    const void *table;
    size_t table_from, table_to;
    /* The key whose value has the reference; length 0: not told. Where small blobs are read that
     * lie side by side on the device, those of keys beside this one may be read with it, into
     * memory. */
    const void *key;
    size_t key_len;
};
/* The same for several; the device reads them at the same time. The first error is returned. */
KV_MUST_CHECK int kv_blob_read_many(struct kv_store *store, const struct kv_blob_part *parts,
                                    size_t count);

/*
 * Read blobs that somebody will want soon: all of each is verified, unpacked and kept in memory, as
 * far as blob_percent allows. A hint: what can not be had is left out, and whoever asks for it
 * hears why; and nothing is read while most of what came so was not used. The references may be
 * dropped meanwhile.
 */
void kv_blob_prefetch(struct kv_store *store, const struct kv_blob_ref *refs, size_t count);

/*
 * The same for one part, for a thread that has better to do than to wait for the device: a read of
 * a file that it has the kernel make, all of it. The descriptor is the store's and good for this
 * one.
 */
struct kv_blob_transfer {
    int descriptor;
    uint64_t offset;
    void *buf; /* the part's, or the store's */
    uint32_t length;
};
struct kv_blob_reading; /* one under way */
/*
 * 0: *reading is NULL, and the part is in its place; or *transfer is to be made, then
 * kv_blob_read_end called, and until then the part's `buf` stays; the part itself need not.
 * -EOPNOTSUPP: by kv_blob_read_many only. Other errors: as that.
 */
KV_MUST_CHECK int kv_blob_read_begin(struct kv_store *store, const struct kv_blob_part *part,
                                     struct kv_blob_reading **reading,
                                     struct kv_blob_transfer *transfer);
/*
 * result: the bytes that were read, or a negative errno. Any thread; once.
 *
 * 0: what was stored under the reference when the reading began is in its place. An error need not
 * be one: the reference may have been dropped since, and its blocks be somebody else's; or the
 * kernel made less of it. kv_blob_read_many knows, with a reference that is not dropped meanwhile.
 */
KV_MUST_CHECK int kv_blob_read_end(struct kv_store *store, struct kv_blob_reading *reading,
                                   int result);
size_t kv_blob_length(const struct kv_blob_ref *ref);       /* bytes before packing */
size_t kv_blob_stored_bytes(const struct kv_blob_ref *ref); /* whole blocks on the device */
enum kv_codec
kv_blob_codec(const struct kv_blob_ref *ref); /* that packed it; NONE: it is as it is */

/* ---- writing ------------------------------------------------------------ */

struct kv_batch *kv_batch_new(void); /* NULL: no memory */
void kv_batch_free(struct kv_batch *batch);
void kv_batch_clear(struct kv_batch *batch);
size_t kv_batch_count(const struct kv_batch *batch); /* operations in it */

/*
 * Add an operation; operations take effect in the order in which they were added. Keys and
 * values are copied. All: -EINVAL a length out of range; -ENOMEM.
 */
KV_MUST_CHECK int kv_batch_put(struct kv_batch *batch, const void *key, size_t key_len,
                               const void *value, size_t value_len);
KV_MUST_CHECK int kv_batch_del(struct kv_batch *batch, const void *key,
                               size_t key_len); /* an absent key is no error */
KV_MUST_CHECK int kv_batch_del_range(struct kv_batch *batch, const void *lower, size_t lower_len,
                                     const void *upper, size_t upper_len); /* [lower, upper) */
/*
 * Overwrite bytes at `offset` of a value; an absent key counts as empty, a gap becomes zeros.
 * A value of kv_batch_put_blob can not be patched: -EINVAL, here or from kv_apply.
 */
KV_MUST_CHECK int kv_batch_patch(struct kv_batch *batch, const void *key, size_t key_len,
                                 size_t offset, const void *bytes, size_t length);

/*
 * Store the value `head` (0..KV_BLOB_HEAD_MAX bytes; for a blob in frames KV_BLOB_TABLE_MAX more)
 * followed by the 40 bytes of `ref`; reading gives exactly these bytes back. The store counts
 * references: when the last value that holds the blob is overwritten or deleted, its space is
 * freed. KV_BLOB_NEW: the first reference to a blob of this store's kv_blob_write. KV_BLOB_SHARED:
 * one more reference to a blob that a stored value holds now.
 */
enum kv_blob_use { KV_BLOB_NEW, KV_BLOB_SHARED };
#define KV_BLOB_HEAD_MAX 256u
KV_MUST_CHECK int kv_batch_put_blob(struct kv_batch *batch, const void *key, size_t key_len,
                                    const void *head, size_t head_len,
                                    const struct kv_blob_ref *ref, enum kv_blob_use use);

enum kv_apply_flags {
    KV_APPLY_SYNC = 1,  /* durable before the return */
    KV_APPLY_URGENT = 2 /* frees space: may use the reserve that is kept for that */
};
/* When an image of 1,024 nodes or more is full, so many operations in an urgent batch have room in
 * the reserve for certain; more may be refused: then smaller batches are the remedy. */
#define KV_URGENT_OPS 4u

/*
 * Apply a batch, whole or not at all. The batch is unchanged and may be applied again.
 *
 * Up to eight puts and deletions of single keys, 16 KiB in all, do not wait for pages that are not
 * in memory: they are in the log, and visible, at once, and go into their pages later, many
 * together. Should such a page turn out to be damaged or unreadable, what was put there can still
 * be got by its key; but as long as it is, there are no checkpoints: kv_checkpoint and kv_close say
 * so, and so does this when the log is full. What is in the log stays there. Other batches, and
 * those with KV_APPLY_URGENT, get such an error themselves.
 *
 * position   out, may be NULL: give it to kv_sync_to for durability.
 *
 * Returns 0; -ENOSPC; -E2BIG more than the log can take at once; -ENOENT a KV_BLOB_SHARED
 * of a blob that nothing holds; -EROFS; -EIO.
 */
KV_MUST_CHECK int kv_apply(struct kv_store *store, const struct kv_batch *batch, unsigned flags,
                           uint64_t *position);

/* One-operation batches. */
KV_MUST_CHECK int kv_put(struct kv_store *store, const void *key, size_t key_len, const void *value,
                         size_t value_len);
KV_MUST_CHECK int kv_del(struct kv_store *store, const void *key, size_t key_len);

/* ---- durability --------------------------------------------------------- */

/*
 * Return when every batch applied before the call (kv_sync) or up to `position` is durable.
 * Concurrent callers share one device flush. -EIO: it is not, and the store is read-only now. With
 * KV_SYNC_CHECKPOINT also what reading says: a change waits for a page (kv_apply) and is not
 * durable.
 */
KV_MUST_CHECK int kv_sync(struct kv_store *store);
KV_MUST_CHECK int kv_sync_to(struct kv_store *store, uint64_t position);

/*
 * Make everything durable in the tree itself and empty the log. What reading says: a change waits
 * for a page that can not be read (kv_apply); nothing has happened. Else -EIO: the store is
 * read-only now.
 */
KV_MUST_CHECK int kv_checkpoint(struct kv_store *store);

/* 0, or the negative errno of the failure that turned the store read-only. */
int kv_store_failure(struct kv_store *store);

/* ---- memory ------------------------------------------------------------- */

/*
 * Bring the keys of [lower, upper) into memory, in order, with many reads at the same time. Large
 * values and blobs are not read. What was brought in stays as long as anything that was used once.
 *
 * lower/upper  borrowed for the call; length 0: unbounded.
 * bytes_max    of pages, whether they were in memory or not; 0, or more than that: half of what
 *              hot and warm have for sure.
 * bytes_read   out, may be NULL: of pages that were looked at.
 *
 * Returns 0, also when the range has more than that; -EINVAL a key length out of range. Threads:
 * any.
 */
KV_MUST_CHECK int kv_prefetch(struct kv_store *store, const void *lower, size_t lower_len,
                              const void *upper, size_t upper_len, uint64_t bytes_max,
                              uint64_t *bytes_read);

/*
 * Bring what holds `lower` and the keys up to `upper` into memory, and let it stay, whatever is
 * read: only other pages that are retained take its place, the least used first, once all that are
 * take the share that retain_percent allows. What changes stays too; a page that is split off does
 * when this is called again. Large values and blobs: kv_blob_part.retain.
 *
 * lower/upper  borrowed for the call; length 0: unbounded.
 *
 * Returns 0, also when the range has more than the share; -EINVAL a key length out of range; what
 * reading says. Threads: any.
 */
KV_MUST_CHECK int kv_retain(struct kv_store *store, const void *lower, size_t lower_len,
                            const void *upper, size_t upper_len);

/*
 * Change what the tiers may take, as kv_open_options.tiers and fixed_tiers have it. What is over
 * its share then leaves as others need the memory.
 *
 * Returns 0; -EINVAL: neither hot nor warm has any, or a ratio is above KV_TIER_RATIO_MAX.
 * Threads: any.
 */
KV_MUST_CHECK int kv_set_tiers(struct kv_store *store, const struct kv_tiers *tiers);

/* ---- figures ------------------------------------------------------------ */

/*
 * A page that is not in hot or warm is looked for in cold and frozen, then read. ghost_hits tell
 * what a larger share would have been good for: pages that were read from the device, or unpacked,
 * and had left lately; those of hot and warm are told together with warm, of cold and frozen with
 * frozen.
 */
struct kv_tier_stats {
    uint64_t bytes;      /* of memory that it takes now */
    uint64_t bytes_max;  /* that it may take, as long as others use theirs */
    uint64_t pages;      /* in it */
    uint64_t hits;       /* uses of pages that were found in it */
    uint64_t promotions; /* pages that came up into it because they were used */
    uint64_t evictions;  /* pages that left it downwards */
    uint64_t ghost_hits;
};

struct kv_stats {
    uint64_t total_bytes;     /* that keys and blobs can take */
    uint64_t free_bytes;      /* free now or after the next checkpoint */
    uint64_t available_bytes; /* free_bytes less the reserves */
    uint64_t page_count;      /* B+tree pages in use */
    uint64_t epoch;
    uint64_t memory_budget_bytes, memory_used_bytes;
    uint64_t frames_total, frames_hot, frames_warm, frames_dirty;
    uint64_t page_hits, page_misses, page_evictions, page_writes, page_write_bytes;
    struct kv_tier_stats tiers[KV_TIER_COUNT];
    uint64_t pages_packed, pages_repacked; /* by the background: for cold, for frozen */
    uint64_t pages_unpackable;             /* that gain too little from it */
    uint64_t blob_reads, blob_read_bytes, blob_writes, blob_write_bytes; /* of the device */
    uint64_t blob_hits, blob_misses, blob_cached_bytes; /* of what blob_percent is for */
    uint64_t retained_bytes, retained_max_bytes;        /* pages, which count as hot, and blobs */
    uint64_t device_reads, device_read_bytes, device_writes, device_write_bytes, device_flushes;
    uint64_t log_records, log_bytes, log_flushes, log_used_bytes, log_total_bytes;
    uint64_t checkpoints, batches, gets;
    uint64_t batch_bytes; /* of operations that batches brought: keys, values, and some bytes each;
                             blobs of kv_blob_write are not in it. device_write_bytes to both is
                             what writing is amplified by */
    uint64_t scrubs, scrub_bytes, scrub_findings; /* kv_scrub since the store was opened */
    uint64_t scrub_finished_ns;                   /* since 1970, of the last whole one; 0: none */
    uint64_t log_limit_bytes;        /* when so much of this kind is in use, writers wait */
    uint64_t log_waits, log_wait_ns; /* how often batches did, and how long in all */
    uint64_t batches_deferred;       /* that did not wait for their pages to be read (kv_apply) */
    bool direct_io;                  /* O_DIRECT is in use */
    bool host_is_full;               /* it had no room when it was last asked */
    /* Of `checkpoints`: since the log or memory got full; asked for by the user. The others: in
     * time, and at the end. */
    uint64_t checkpoints_wanted, checkpoints_asked;
    uint64_t page_promotions;  /* to the pages that are used again and again */
    uint64_t checkpoint_bytes; /* pages and page map, of all checkpoints */
    /*
     * Free bytes in whole, aligned places for a page; and an upper bound for the longest free
     * stretch. How far free space is cut up: little of it is in whole places.
     */
    uint64_t free_whole_bytes, free_longest_bytes;
    /* By enum kv_codec, while KV_METRIC_CODEC is on: what was packed so, to how much; unpacked. */
    uint64_t packed_raw_bytes[KV_CODEC_COUNT], packed_stored_bytes[KV_CODEC_COUNT],
        unpacked_bytes[KV_CODEC_COUNT];
};
void kv_store_stats(struct kv_store *store, struct kv_stats *stats);

/* What is noted while its category is on; durations in nanoseconds. */
enum kv_histogram_id {
    KV_HISTOGRAM_DEVICE_READ,      /* IO: a submission of reads, to the last one's end */
    KV_HISTOGRAM_DEVICE_WRITE,     /* IO: the same of writes without a flush */
    KV_HISTOGRAM_DEVICE_FLUSH,     /* IO: a flush, with the writes that it was submitted with */
    KV_HISTOGRAM_LOG_FLUSH,        /* WAL: a flush of the log by its leader */
    KV_HISTOGRAM_LOG_GROUP,        /* WAL: batches that one flush made durable */
    KV_HISTOGRAM_CHECKPOINT,       /* WAL: a checkpoint */
    KV_HISTOGRAM_CHECKPOINT_BYTES, /* WAL: pages and page map that it wrote */
    KV_HISTOGRAM_PACK_NONE,        /* CODEC: packing that saved nothing, by enum kv_codec */
    KV_HISTOGRAM_PACK_LZ4,
    KV_HISTOGRAM_PACK_ZSTD,
    KV_HISTOGRAM_UNPACK_NONE, /* CODEC: likewise */
    KV_HISTOGRAM_UNPACK_LZ4,
    KV_HISTOGRAM_UNPACK_ZSTD,
    KV_HISTOGRAM_COUNT
};
/* Since the store was opened. */
void kv_store_histogram(struct kv_store *store, enum kv_histogram_id id, struct kv_histogram *out);

/* ---- settings that can change while a store is open; from any thread ----------------- */

/* categories: enum kv_metric_category. */
void kv_set_metrics(struct kv_store *store, unsigned categories);
/* As in kv_open_options; takes effect at once. 0: -EINVAL. */
KV_MUST_CHECK int kv_set_commit_interval(struct kv_store *store, uint32_t milliseconds);

/* ---- checking ----------------------------------------------------------- */

struct kv_check_options {
    bool repair;     /* mend what is repairable; the store must be open for writing */
    bool read_blobs; /* read and verify every blob too */
    bool estimate;   /* without repair: tell what one would find again of what is damaged */
    kv_check_report_fn *report;
    void *context;
    void (*progress)(void *context, uint64_t done, uint64_t total); /* NULL: none */
    kv_show_key_fn *show_key; /* NULL: keys are shown as bytes; may read the store */
};

struct kv_check_result {
    uint64_t pages, blobs, keys, shared_blobs;
    uint64_t repairable, repaired, damaged; /* findings */
    /* Of places whose pages are damaged, what was found on the device (or would be): */
    uint64_t salvaged_keys; /* put back as they were */
    uint64_t stale_keys;    /* put back as an older state had them */
    uint64_t dropped_keys;  /* whose blobs are damaged or gone */
    uint64_t lost_ranges;   /* of keys, of which nothing was found */
};

/*
 * Verify everything the store can know of itself: superblocks, bitmaps, page map, every
 * page's checksum and order, blobs, reference counts, and that each used block has exactly
 * one owner. Nothing else may use the store meanwhile.
 * Returns 0 when the check ran to its end, whatever it found.
 */
KV_MUST_CHECK int kv_check(struct kv_store *store, const struct kv_check_options *options,
                           struct kv_check_result *result);

/* ---- scrubbing ---------------------------------------------------------- */

struct kv_scrub_finding {
    const char *what; /* a stable word for machines */
    const char *text; /* one line for people */
    int error;        /* -EBADMSG, -EUCLEAN or -EIO */
    const void *key;  /* of a damaged blob: one that holds it; else NULL */
    size_t key_len;
};

struct kv_scrub_options {
    uint64_t bytes_per_second; /* 0: as fast as it goes */
    /* Called for each finding, under no lock. NULL: findings go to the store's log. */
    void (*report)(void *context, const struct kv_scrub_finding *finding);
    /*
     * Called after each step and some times a second while it pauses; bytes, `total` a guess.
     * NULL: none. false ends the scrub.
     */
    bool (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

struct kv_scrub_result {
    uint64_t pages, map_blocks, blobs, log_blocks; /* that were read */
    uint64_t bytes;
    uint64_t findings;
};

/*
 * Read everything that is in use from the device and verify its checksum: superblocks, bitmaps,
 * the log, the page map, the stored version of every page, every blob. The store may be used,
 * changed and checkpointed meanwhile; what moves or goes while it is read is no finding. What
 * is damaged is named and left as it is; only for a damaged log a checkpoint is asked for.
 *
 * Returns 0 when it ran to its end, whatever it found; -ECANCELED `progress` said so; -EBUSY
 * another one is running; -EIO the store has failed; -ENOMEM. `result` is filled in always.
 * Threads: any, one scrub at a time. The store must not be closed before it returns.
 */
KV_MUST_CHECK int kv_scrub(struct kv_store *store, const struct kv_scrub_options *options,
                           struct kv_scrub_result *result);

#ifdef __cplusplus
}
#endif

#endif
