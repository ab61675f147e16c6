/*
 * kv/format.h: what lies on disk, all of it. The story is told in kv/README.md.
 *
 *    block 0        superblock A
 *    block 256      superblock B, 1 MiB away
 *    block 512 ..   log ring
 *    group_first .. allocation groups of 1 GiB, each: two bitmap copies, then blocks
 *    last block     superblock backup
 *
 * All integers are little-endian. Reserved bytes are written zero. A block
 * number counts KV_BLOCK_BYTES from the start of the image.
 */
#ifndef KV_FORMAT_H
#define KV_FORMAT_H

#include "kv/base.h"

#include <assert.h>

/*
 * 1: a stored page is the packed node. Never released.
 * 2: a stored page begins with its header in the clear, and says its length, codec and digest.
 */
#define KV_FORMAT_VERSION 2u

#define KV_SUPERBLOCK_A_BLOCK 0u
#define KV_SUPERBLOCK_B_BLOCK 256u
#define KV_LOG_FIRST_BLOCK    512u

#define KV_GROUP_BLOCKS       262144u /* 1 GiB */
#define KV_GROUP_COPY_BLOCKS  9u      /* one header block, 32 KiB of bits */
#define KV_GROUP_META_BLOCKS  (2u * KV_GROUP_COPY_BLOCKS)
#define KV_GROUP_BITMAP_BYTES (KV_GROUP_BLOCKS / 8u)

#define KV_NODE_BYTES_MIN 4096u
#define KV_NODE_BYTES_MAX 65536u
#define KV_TREE_DEPTH_MAX 24u /* levels; more is damage */

#define KV_IMAGE_BYTES_MIN (16ull << 20)
#define KV_IMAGE_BYTES_MAX ((uint64_t)UINT32_MAX * KV_GROUP_BLOCKS * KV_BLOCK_BYTES)
#define KV_LOG_BYTES_MIN   (1ull << 20)

/*
 * Feature sets. An unknown incompatible bit refuses the image, an unknown
 * read-only-compatible bit refuses writing, an unknown compatible bit nothing.
 */
#define KV_FEATURE_COMPAT_KNOWN   0ull
#define KV_FEATURE_ROCOMPAT_KNOWN 0ull
#define KV_FEATURE_INCOMPAT_KNOWN                                                                  \
    (KV_FEATURE_INCOMPAT_THIRDS | KV_FEATURE_INCOMPAT_FRAMES | KV_FEATURE_INCOMPAT_DENSE |         \
     KV_FEATURE_INCOMPAT_BARE)

/*
 * A cell of a leaf may take a third of what is in it; without this, no more than a quarter of the
 * page. Set in new images, and in others before anything is written to them.
 */
#define KV_FEATURE_INCOMPAT_THIRDS 1ull
/*
 * Blobs may be in frames (KV_BLOB_FORM_FRAMES), and more than KV_BLOB_HEAD_MAX bytes may stand
 * before a reference to one that is. Set in new images; others go on without.
 */
#define KV_FEATURE_INCOMPAT_FRAMES 2ull
/*
 * A page that is not packed may be stored without the free bytes between its slots and its cells
 * (kv/stored_page.h). Set in new images; others go on without.
 */
#define KV_FEATURE_INCOMPAT_DENSE 4ull
/*
 * A page may be stored without its slots (KV_STORED_BARE), packed or not. Set in new images; others
 * go on without.
 */
#define KV_FEATURE_INCOMPAT_BARE 8ull

/*
 * Where something lies, and the proof that it is that: the digest is XXH3-64
 * of the stored bytes, seeded with the identity of the thing and its birth
 * epoch, so that lost, torn and misdirected writes are all seen.
 * block 0 means: nothing is there.
 */
struct kv_disk_ptr {
    kv_le64 block;
    kv_le32 length_bytes; /* stored, after packing */
    uint8_t codec;        /* enum kv_codec */
    uint8_t reserved;
    kv_le16 free_slots; /* page map only: null pointers below this one, saturating */
    kv_le64 birth_epoch;
    kv_le64 digest;
};
static_assert(sizeof(struct kv_disk_ptr) == 32, "pointer size is part of the format");

/* A reference to a blob, as it stands in leaves and in the log. */
struct kv_disk_blob_ref {
    struct kv_disk_ptr ptr; /* identity for the digest: ptr.block */
    kv_le32 raw_bytes;      /* before packing */
    uint8_t form;           /* enum kv_blob_form: what the digest is of */
    uint8_t reserved[3];
};
static_assert(sizeof(struct kv_disk_blob_ref) == 40, "blob reference size is part of the format");

enum kv_blob_form {
    KV_BLOB_FORM_WHOLE = 0,  /* the stored bytes */
    KV_BLOB_FORM_FRAMES = 1, /* the blob's table of frames, see kv/blob_frames.h */
};

/* An entry of the table of a blob in frames that is not packed: all that has to be known of one. */
struct kv_disk_blob_frame {
    kv_le64 digest; /* XXH3-64 of the frame as it is stored; the seed is that of the blob's own */
};
static_assert(sizeof(struct kv_disk_blob_frame) == 8, "frame entry size is part of the format");

/* The same where it is packed. The stored bytes then begin with the frames' lengths, kv_le32 each.
 */
struct kv_disk_packed_blob_frame {
    kv_le64 digest;
    kv_le32 at;           /* in the stored bytes */
    kv_le32 length_bytes; /* stored; of a frame that did not shrink: its own */
};
static_assert(sizeof(struct kv_disk_packed_blob_frame) == 16,
              "frame entry size is part of the format");

#define KV_SUPERBLOCK_MAGIC "KVFS\r\n\x1a\n"

struct kv_disk_superblock {
    uint8_t magic[8];
    kv_le32 version;
    kv_le32 node_bytes;
    kv_le64 feature_compat;
    kv_le64 feature_rocompat;
    kv_le64 feature_incompat;
    uint8_t uuid[16];
    uint8_t label[64]; /* UTF-8, zero-padded, at most 63 bytes */
    kv_le64 image_blocks;
    kv_le64 log_first_block;
    kv_le64 log_block_count;
    kv_le64 group_first_block;
    kv_le32 group_count;
    kv_le32 extent_bytes; /* longest blob that a file extent uses */
    uint8_t codec;        /* default for pages and blobs */
    int8_t codec_level;
    uint8_t clean; /* 1: closed cleanly, the log is empty */
    uint8_t reserved0[5];
    kv_le64 created_ns; /* since 1970 */

    /* What a checkpoint changes. */
    kv_le64 sequence; /* +1 for each superblock; the low bit says which slot was first */
    kv_le64 epoch;
    kv_le64 written_ns;
    struct kv_disk_ptr map_root; /* identity: see KV_MAP_ID */
    kv_le32 map_depth;           /* levels of the page map, 0 when empty */
    kv_le32 reserved1;
    kv_le64 page_id_next;  /* no page id from here on was ever used */
    kv_le64 tree_root[2];  /* page ids: user keys, blob reference counts */
    kv_le64 log_tail;      /* replay starts at this position */
    kv_le64 log_tail_link; /* digest of the log block before it */
    kv_le64 bitmap_digest; /* over (epoch, digest) of every group's active bitmap */
    kv_le64 used_blocks;
    uint8_t reserved2[3792];
    kv_le64 digest; /* XXH3-64 of all bytes before it */
};
static_assert(sizeof(struct kv_disk_superblock) == KV_BLOCK_BYTES, "superblock is one block");
static_assert(offsetof(struct kv_disk_superblock, digest) == KV_BLOCK_BYTES - 8,
              "superblock digest ends the block");

/* First block of a bitmap copy; 8 blocks of bits follow, 1 = in use. */
struct kv_disk_bitmap_header {
    kv_le32 magic; /* KV_BITMAP_MAGIC */
    kv_le32 group;
    kv_le64 epoch;
    kv_le32 block_count; /* of this group, its own metadata included */
    kv_le32 used_count;
    kv_le64 bits_digest; /* XXH3-64 of the bits */
    uint8_t reserved[4056];
    kv_le64 digest; /* XXH3-64 of all bytes before it, seeded with the image's log id */
};
static_assert(sizeof(struct kv_disk_bitmap_header) == KV_BLOCK_BYTES, "bitmap header is one block");
#define KV_BITMAP_MAGIC 0x4d42564bu /* "KVBM" */

/*
 * A block of the log ring. Position p lies at ring block p % block_count.
 * `link` is the digest of the block at position - 1: a block left over from
 * another history can not continue this one. The first block after a replay
 * holds a digest of that digest instead, see kv/wal_replay.c.
 */
struct kv_disk_log_header {
    kv_le32 magic; /* KV_LOG_MAGIC */
    kv_le32 payload_bytes;
    kv_le64 log_id; /* of the image */
    kv_le64 position;
    kv_le64 durable; /* every position below this was durable when the block was sealed */
    kv_le64 epoch;
    kv_le64 link;
    kv_le64 restart; /* 0; in the first block after a replay: 1 + the payload bytes of the block
                        before it that still count (the rest was dropped) */
    kv_le64 digest;  /* XXH3-64 of the whole block with this field zero */
};
static_assert(sizeof(struct kv_disk_log_header) == 64, "log header size is part of the format");
#define KV_LOG_MAGIC         0x474c564bu /* "KVLG" */
#define KV_LOG_PAYLOAD_BYTES (KV_BLOCK_BYTES - (uint32_t)sizeof(struct kv_disk_log_header))

/* Before each record in the stream of payloads; a record may span blocks. */
struct kv_disk_record_header {
    kv_le32 length_bytes; /* of the body that follows */
    kv_le32 reserved;
    kv_le64 digest; /* XXH3-64 of the body, seeded with the position it starts at */
};
static_assert(sizeof(struct kv_disk_record_header) == 16, "record header is part of the format");

/*
 * A B+tree node: header, slots growing up, free space, cells growing down,
 * fences at the very end. See kv/node.h.
 *
 * Stored, the header stands in the clear, and what follows it is packed as a whole, or not at
 * all. The fields named stored_ belong to that form; in memory they are zero.
 */
struct kv_disk_node {
    kv_le32 magic; /* KV_NODE_MAGIC */
    uint8_t level; /* 0 = leaf */
    uint8_t flags; /* KV_NODE_* */
    kv_le16 slot_count;
    kv_le64 page_id;
    kv_le64 epoch;         /* the epoch it was written in */
    kv_le32 heap_start;    /* first byte used by cells */
    kv_le32 garbage_bytes; /* dead bytes inside the heap */
    kv_le16 low_bytes;     /* low fence, inclusive; ends at node_bytes - high_bytes */
    kv_le16 high_bytes;    /* high fence, exclusive; ends at node_bytes */
    kv_le16 prefix_bytes;  /* leading bytes that all keys share, kept in the low fence */
    kv_le16 last_insert;   /* slot of the last insertion + 1; a hint for splits */
    uint8_t tree;          /* 0 user keys, 1 blob reference counts */
    uint8_t stored_codec;  /* enum kv_codec, of what follows the header */
    uint8_t stored_shape;  /* enum kv_stored_shape */
    uint8_t reserved;
    kv_le32 stored_bytes;  /* header included */
    kv_le64 stored_order;  /* of two pages of one epoch, the greater one is the later one */
    kv_le64 stored_digest; /* XXH3-64 of the stored bytes with this field zero, seeded with the
                              block where they lie and the image's log id */
};
static_assert(sizeof(struct kv_disk_node) == 64, "node header is 64 bytes");
enum kv_stored_shape {
    KV_STORED_NODE = 0, /* all of it, but for the free bytes where an image is dense */
    KV_STORED_BARE = 1, /* a bare node: see kv/node_bare.c */
};

#define KV_NODE_MAGIC    0x444e564bu /* "KVND" */
#define KV_NODE_HIGH_INF 1u          /* no high fence: up to the end of the key space */

struct kv_disk_slot {
    kv_le16 offset;    /* of the cell, from the start of the node */
    kv_le16 key_bytes; /* without the prefix */
    kv_le32 head;      /* first 4 key bytes after the prefix, as a big-endian number */
};
static_assert(sizeof(struct kv_disk_slot) == 8, "slot size is part of the format");

/* Leaf cell: this header, key bytes, value bytes. */
struct kv_disk_leaf_cell {
    kv_le16 value_bytes;
    uint8_t kind; /* enum kv_value_kind */
    uint8_t reserved;
};
static_assert(sizeof(struct kv_disk_leaf_cell) == 4, "leaf cell header is part of the format");

/* Inner cell: this header, key bytes. Slot 0 has an empty key: the low fence. */
struct kv_disk_inner_cell {
    kv_le64 child;
};
static_assert(sizeof(struct kv_disk_inner_cell) == 8, "inner cell header is part of the format");

/* What the bytes of a leaf's value are. */
enum kv_value_kind {
    KV_VALUE_INLINE = 0, /* the value */
    KV_VALUE_REF = 1,    /* caller's head bytes, then one kv_disk_blob_ref */
    KV_VALUE_LARGE = 2,  /* kv_disk_blob_refs whose contents, in order, are the value */
};

/* A block of the page map: 128 pointers, to map blocks or (level 0) to pages. */
#define KV_MAP_FANOUT 128u
static_assert(KV_MAP_FANOUT * sizeof(struct kv_disk_ptr) == KV_BLOCK_BYTES, "map block");
/* Identity of map block `index` of `level`, for digests; page ids never reach it. */
#define KV_MAP_ID(level, index) (((uint64_t)((level) + 1u) << 56) | (index))
#define KV_MAP_DEPTH_MAX        8u
#define KV_PAGE_ID_MAX          ((1ull << 48) - 1)

/* No image lives long enough to get here; whatever claims a later epoch is damaged. */
#define KV_EPOCH_MAX (UINT64_MAX / 2)

#endif
