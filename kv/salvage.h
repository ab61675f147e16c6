/*
 * kv/salvage.h: which leaves of the keys' tree can be found without the page map, and which of
 * them counts where.
 *
 * A stored page says what it is (kv/stored_page.h), so a look at every block finds each version
 * of each leaf that was not overwritten. Of those that cover a key the newest counts: the leaves
 * of one moment divide the whole key space among them, and a leaf is written after every leaf
 * that covered its keys before. kv/README.md argues it.
 *
 * Memory: 56 bytes and its two fences for each version of a leaf that is noted; 40 for each piece.
 * Threads: one; nothing may be changed while leaves are looked for.
 */
#ifndef KV_SALVAGE_H
#define KV_SALVAGE_H

#include "kv/store.h"

struct kv_salvage_leaf {
    uint64_t block, page_id, epoch, order;
    uint32_t length_bytes;
    uint16_t low_bytes, high_bytes;
    bool unbounded;  /* it has no high fence */
    bool current;    /* of the last checkpoint, and not of an older one */
    uint8_t *fences; /* low, then high */
};

/* A range of keys, and the leaf that counts there. */
struct kv_salvage_piece {
    const struct kv_salvage_leaf *leaf; /* NULL: none was found */
    struct kv_bytes low, high;          /* high.data NULL: no end */
};

struct kv_salvage {
    struct kv_store *store;
    struct kv_salvage_leaf *leaves;
    size_t leaf_count, leaf_capacity;
    struct kv_salvage_piece *pieces; /* after kv_salvage_resolve: in key order, without gaps */
    size_t piece_count, piece_capacity;
    uint64_t epoch_max;         /* of the leaves */
    uint64_t unreadable_blocks; /* met by the scan */
    uint8_t *node;              /* node_bytes */
};

/* -ENOMEM. To be released also after an error. */
KV_MUST_CHECK int kv_salvage_init(struct kv_salvage *salvage, struct kv_store *store);
void kv_salvage_release(struct kv_salvage *salvage);
/* Forget all leaves. */
void kv_salvage_clear(struct kv_salvage *salvage);

/* Note the page that the page map knows under this id, if it is a sound leaf. -ENOMEM. */
KV_MUST_CHECK int kv_salvage_add_mapped(struct kv_salvage *salvage, uint64_t page_id);
/*
 * Look at every block of the groups and note each sound leaf. What can not be read is left out.
 * Leaves that only an unfinished checkpoint wrote are left out too, unless both superblocks
 * were lost: then nobody can tell.
 *
 * progress  NULL: none; done and total are blocks.
 *
 * -ENOMEM.
 */
KV_MUST_CHECK int kv_salvage_scan(struct kv_salvage *salvage,
                                  void (*progress)(void *context, uint64_t done, uint64_t total),
                                  void *context);

/* Divide the key space among the leaves that were noted. -ENOMEM. */
KV_MUST_CHECK int kv_salvage_resolve(struct kv_salvage *salvage);

/* Return 0 to go on. The piece is cut to the range that was asked for. */
typedef int kv_salvage_visit_fn(void *context, const struct kv_salvage_piece *piece);
/* Visit the pieces of [low, high) in key order. high.data NULL: no end. */
KV_MUST_CHECK int kv_salvage_each(const struct kv_salvage *salvage, struct kv_bytes low,
                                  struct kv_bytes high, kv_salvage_visit_fn *visit, void *context);

/* Is it known which leaves are of the last checkpoint? Otherwise the epochs alone decide. */
bool kv_salvage_tells_age(const struct kv_store *store);

/* Read a noted leaf again. -EBADMSG, -EUCLEAN, -EIO: it is not there any more; -ENOMEM. */
KV_MUST_CHECK int kv_salvage_read(const struct kv_salvage *salvage,
                                  const struct kv_salvage_leaf *leaf, uint8_t *node);

/* The slots of a leaf whose keys lie in a piece: [*first, return value). */
unsigned kv_salvage_slots(const struct kv_salvage *salvage, const struct kv_salvage_piece *piece,
                          const uint8_t *node, unsigned *first);

/*
 * Keep the leaves that count in [low, high), and the blobs that they refer to and that are whole,
 * from being overwritten: they belong to somebody until the bitmaps are corrected. -ENOMEM.
 */
KV_MUST_CHECK int kv_salvage_protect(const struct kv_salvage *salvage, struct kv_bytes low,
                                     struct kv_bytes high);

#endif
