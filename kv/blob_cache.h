/*
 * kv/blob_cache.h: the contents of blobs that were read lately, verified and unpacked; and of those
 * written lately.
 *
 * What is kept is a piece: a frame (kv/blob_frames.h), or all of a blob that has none. That is the
 * unit of checksum and compression, so the first read of a part of it costs the whole. What was got
 * that way stays here, in case the other parts are wanted; and so does a small blob, which costs a
 * read of its own. Who reads much at once goes by. What is written is kept, too, as far as there is
 * room; where it is packed, as it is stored. A reference names one content for ever (its
 * epoch and digest are part of it), so nothing here is ever out of date; what is dropped makes
 * room.
 *
 * Threads: any; one mutex inside, not held while bytes are copied.
 */
#ifndef KV_BLOB_CACHE_H
#define KV_BLOB_CACHE_H

#include "kv/arena.h"
#include "kv/format.h"

struct kv_blob_cache;

struct kv_blob_cache_stats {
    uint64_t hits, misses, bytes;                /* bytes: of contents that are in memory */
    uint64_t retained_bytes, retained_max_bytes; /* memory of contents that stay */
};

/*
 * All memory it will ever use is bytes_max, taken from the system as it fills; of that,
 * retain_percent for contents that are to stay. NULL: no memory.
 */
struct kv_blob_cache *kv_blob_cache_new(uint64_t bytes_max, uint32_t retain_percent);
/* Where the contents are: for who goes ahead of them. */
struct kv_arena *kv_blob_cache_arena(struct kv_blob_cache *cache);
void kv_blob_cache_free(struct kv_blob_cache *cache); /* NULL is fine */

enum kv_blob_wanted {
    KV_BLOB_WANTED,
    KV_BLOB_WANTED_ONCE,  /* in order: what came ahead of its use leaves with its last byte */
    KV_BLOB_WANTED_RETAIN /* it stays from now on, until others that are to stay are used more */
};
/* Copy bytes [offset, offset + length) of a piece, which lie inside it. false: it is not here. */
bool kv_blob_cache_copy(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                        uint32_t piece, size_t offset, void *buf, size_t length,
                        enum kv_blob_wanted use);
/* The number of a piece that is all of a blob as it is stored: packed. To ask for it counts neither
 * as a hit nor as a miss. */
#define KV_BLOB_PIECE_STORED UINT32_MAX
/* What a copy did not find was in memory nevertheless: that miss was a hit. */
void kv_blob_cache_was_hit(struct kv_blob_cache *cache);
/* Nobody will want the blob any more: what is here of its `piece_count` pieces, and all of it as it
 * is stored, makes room at once, or when who copies it now is done. */
void kv_blob_cache_drop(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                        uint32_t piece_count);
/* How many of the `most` pieces right before `piece` are here; that changes nothing. */
uint32_t kv_blob_cache_run(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                           uint32_t piece, uint32_t most);
/* Is the piece here? That changes nothing. */
bool kv_blob_cache_has(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                       uint32_t piece);
enum kv_blob_kept {
    KV_BLOB_USED,    /* somebody wanted it */
    KV_BLOB_RETAIN,  /* and it stays, as above */
    KV_BLOB_AHEAD,   /* nobody did, yet */
    KV_BLOB_WRITTEN, /* nor here; and it makes next to nothing leave that somebody did */
    KV_BLOB_SPARE    /* somebody did, but nothing has to leave for it */
};
/* Keep a copy of a piece, `length` bytes (not 0), if there is room to be made. */
void kv_blob_cache_keep(struct kv_blob_cache *cache, const struct kv_disk_blob_ref *ref,
                        uint32_t piece, const uint8_t *content, size_t length,
                        enum kv_blob_kept kept);
/* Of the contents that came ahead of their use, is as much used as it takes for
 * them to be worth it? Now and then true when not, to see whether that has changed. */
bool kv_blob_cache_ahead_pays(struct kv_blob_cache *cache);
void kv_blob_cache_stats(struct kv_blob_cache *cache, struct kv_blob_cache_stats *stats);

#endif
