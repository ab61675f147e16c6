/*
 * tests/faults/damage/sample.h: an image in memory with every kind of block in it, and what each
 * block is for.
 *
 * What is written while the image is made is recorded, so that the older contents of each block
 * and the older versions of each page are there to be put back.
 *
 * One thread.
 */
#ifndef DAMAGE_SAMPLE_H
#define DAMAGE_SAMPLE_H

#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"

#define SAMPLE_BLOCKS   4096u /* 16 MiB */
#define SAMPLE_KEYS_MAX 3200u

enum role {
    ROLE_FREE, /* nothing is read from it: free, beyond the log's end */
    ROLE_BITMAP_INACTIVE,
    ROLE_SUPERBLOCK_A,
    ROLE_SUPERBLOCK_B,
    ROLE_SUPERBLOCK_BACKUP,
    ROLE_LOG_DURABLE, /* a later block vouches for it */
    ROLE_LOG_END,     /* nobody does */
    ROLE_BITMAP_HEADER,
    ROLE_BITMAP_BITS,
    ROLE_MAP_0, /* the lowest level of the page map */
    ROLE_MAP_1,
    ROLE_LEAF,
    ROLE_INNER,
    ROLE_REFS_LEAF,
    ROLE_REFS_INNER,
    ROLE_BLOB_NONE,
    ROLE_BLOB_LZ4,
    ROLE_BLOB_ZSTD,
    ROLE_COUNT,
};
extern const char *const role_names[ROLE_COUNT];

/* A block: what it is for, and as a part of what. */
struct sample_block {
    enum role role;
    uint32_t used_bytes; /* those before it mean something; the rest is padding */
    uint64_t first;      /* the first block of the page or blob that it is a part of */
    uint32_t count;      /* of its blocks */
    uint64_t identity;   /* page id, or level and index of a map block */
};

struct sample_key {
    char key[24];
    size_t key_len;
    uint64_t identity; /* of the value, or of the blob's content (test_fill) */
    size_t length;     /* likewise */
    bool is_blob;      /* the value is a head and a reference */
    bool in_log;       /* it is only in the log */
};

/* An older version of a page or map block. */
struct sample_version {
    enum role role;
    uint64_t identity;
    uint32_t count;
    uint8_t *bytes; /* count blocks */
};

struct sample_kind {
    const char *name;
    uint32_t node_bytes;
    enum kv_codec codec;
    bool clean; /* closed; otherwise as a crash left it, with a log */
};

struct sample {
    struct sample_kind kind;
    struct recorder *recorder;
    struct crash_walk walk; /* at the end of the recording */
    struct sample_block blocks[SAMPLE_BLOCKS];
    struct sample_key keys[SAMPLE_KEYS_MAX];
    size_t key_count;
    unsigned log_keys, log_keys_durable; /* of the log, in order; durable: vouched for */
    /* below[block] has a bit for each key that can not be read without the block */
    uint64_t (*below)[SAMPLE_KEYS_MAX / 64];
    struct sample_version *versions;
    size_t version_count, version_capacity;
    uint64_t superblock_sequence;
};

/* Make one. Ends the program when the machine does not play along. */
struct sample *sample_new(const struct sample_kind *kind);
void sample_free(struct sample *sample);

/* A device of its own in the sample's state; what is written to it is its own. */
struct kv_device *sample_device(const struct sample *sample);

/*
 * Find out anew what each block is for, of a store that is open on a sound device (which need
 * not be the sample's state any more). No checkpoint may be made afterwards.
 */
void sample_map(struct sample *sample, struct kv_store *store);

/* Can the key be lost when something is wrong with the block? */
bool sample_is_below(const struct sample *sample, uint64_t block, size_t key);

/*
 * Read a key and compare. Returns 0 the right value; -ENOENT; the error of reading; 1: a value
 * that it never had.
 */
int sample_read(const struct sample *sample, struct kv_store *store, size_t key);

/*
 * What the block held before, most recent first: `back` 0 is the content before the present one.
 * NULL: it was not written so often. The bytes may be those of zeros.
 */
const uint8_t *sample_older_content(const struct sample *sample, uint64_t block, unsigned back);
/* The version before of the page or map block that the block is a part of, or NULL. */
const struct sample_version *sample_older_version(const struct sample *sample, uint64_t block);

#endif
