/*
 * bench/kv-compare/engine.h: what every store under comparison can do.
 *
 * Each engine is one file, engine_NAME.c, that fills in one struct engine_kind. It is opened in a
 * directory of its own, by one process at a time.
 *
 * Invariant  a value is read in place where the engine can, else copied once into memory of the
 *            session: whatever costs least by the engine's own interface.
 * Threads    an engine is shared; a session belongs to one thread at a time.
 * Errors     0 or a negative errno; what the engine itself says goes to standard error first.
 */
#ifndef BENCH_KV_COMPARE_ENGINE_H
#define BENCH_KV_COMPARE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kv/base.h"

#define ENGINE_KEY_BYTES 16u
#define ENGINE_MANY_MAX  64u /* gets in one get_many */

struct engine_key {
    uint8_t bytes[ENGINE_KEY_BYTES];
};

struct engine_value {
    const uint8_t *bytes; /* the engine's: until the next call with the same session */
    size_t length;
};

struct engine_record {
    struct engine_key key;
    const uint8_t *value; /* config.value_bytes of them */
};

struct engine_config {
    const char *directory; /* it is there and holds nothing but this engine's files */
    uint64_t record_count; /* that it will hold at most */
    size_t value_bytes;
    uint64_t cache_bytes; /* what the engine may cache; those without a cache have the kernel's */
    bool limited;         /* cache_bytes is less than the data: buffers come out of it, too */
    bool sync;            /* a batch is durable before `put` returns */
    unsigned session_count;
};

struct engine;
struct engine_session;

/* false ends the scan. */
typedef bool engine_visit_fn(void *context, const uint8_t *key, size_t key_len,
                             const uint8_t *value, size_t value_len);

struct engine_kind {
    const char *name;     /* on the command line and in the results */
    const char *package;  /* Debian's, with what building needs */
    const char *settings; /* what was set, for the report */
    const char *version;  /* of the library; NULL: not built in */

    KV_MUST_CHECK int (*open)(const struct engine_config *config, struct engine **engine);
    KV_MUST_CHECK int (*close)(struct engine *engine); /* gone, whatever it returns */
    KV_MUST_CHECK int (*session_open)(struct engine *engine, struct engine_session **session);
    void (*session_close)(struct engine_session *session);

    /* Apply `count` records as one batch. */
    KV_MUST_CHECK int (*put)(struct engine_session *session, const struct engine_record *records,
                             size_t count);
    /* The latest value. -ENOENT. */
    KV_MUST_CHECK int (*get)(struct engine_session *session, const struct engine_key *key,
                             struct engine_value *value);
    /* The same for several keys, by what the engine has for that. NULL: `get` for each. */
    KV_MUST_CHECK int (*get_many)(struct engine_session *session, const struct engine_key *keys,
                                  size_t count, struct engine_value *values);
    /* All records in order of their keys. */
    KV_MUST_CHECK int (*scan)(struct engine_session *session, engine_visit_fn *visit,
                              void *context);

    /* Everything that was put is durable after this. NULL: the files are flushed one by one. */
    KV_MUST_CHECK int (*flush)(struct engine *engine);
    /* Bring to an end what would be done in the background: compaction, a checkpoint. */
    KV_MUST_CHECK int (*settle)(struct engine *engine);
    /* Bytes in use for the data, of those that the files take. NULL: not known. */
    uint64_t (*used_bytes)(struct engine *engine);
};

extern const struct engine_kind engine_kvfs, engine_kvfs_none;
extern const struct engine_kind engine_lmdb, engine_lmdb_writemap;
extern const struct engine_kind engine_rocksdb, engine_leveldb, engine_wiredtiger;
extern const struct engine_kind engine_sqlite, engine_berkeleydb;

/* All of them, built in or not, kvfs first; NULL after the last. */
const struct engine_kind *engine_at(unsigned index);
#define ENGINE_COUNT 9u

/* DIRECTORY/NAME; caller frees. NULL: no memory. */
char *engine_path(const char *directory, const char *name);

#endif
