/*
 * bench/kv-compare/engine_rocksdb.c: RocksDB through its C interface.
 *
 * Owns       the database in the engine's directory.
 * Durability without `sync` the log is written by each batch and not flushed.
 * Memory     block cache; when the data is more than that, a quarter of it are write buffers.
 */
#include "bench/kv-compare/engine.h"

#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>

struct engine {
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_block_based_table_options_t *table;
    rocksdb_cache_t *cache;
    rocksdb_writeoptions_t *write_options;
    rocksdb_readoptions_t *read_options;
    rocksdb_column_family_handle_t *family;
    size_t value_bytes;
};

struct engine_session {
    struct engine *engine;
    rocksdb_writebatch_t *batch;
    rocksdb_pinnableslice_t *found[ENGINE_MANY_MAX]; /* values of the last call */
    size_t found_count;
};

/* Frees `why`, which the library allocated; NULL: no error. */
static int complain(const char *what, char *why)
{
    if (!why)
        return 0;
    fprintf(stderr, "rocksdb: %s: %s\n", what, why);
    rocksdb_free(why);
    return -EIO;
}

static void release(struct engine *engine)
{
    if (engine->family)
        rocksdb_column_family_handle_destroy(engine->family);
    if (engine->db)
        rocksdb_close(engine->db);
    rocksdb_options_destroy(engine->options);
    rocksdb_block_based_options_destroy(engine->table);
    rocksdb_cache_destroy(engine->cache);
    rocksdb_writeoptions_destroy(engine->write_options);
    rocksdb_readoptions_destroy(engine->read_options);
    free(engine);
}

static int open_engine(const struct engine_config *config, struct engine **out)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return -ENOMEM;
    const uint64_t buffers = config->limited ? config->cache_bytes / 4 : 0;
    engine->value_bytes = config->value_bytes;
    engine->options = rocksdb_options_create();
    engine->table = rocksdb_block_based_options_create();
    engine->cache = rocksdb_cache_create_lru(config->cache_bytes - buffers);
    engine->write_options = rocksdb_writeoptions_create();
    engine->read_options = rocksdb_readoptions_create();
    rocksdb_block_based_options_set_block_cache(engine->table, engine->cache);
    rocksdb_options_set_block_based_table_factory(engine->options, engine->table);
    rocksdb_options_set_create_if_missing(engine->options, 1);
    if (buffers) /* one fills while the other is written */
        rocksdb_options_set_write_buffer_size(engine->options, buffers / 2);
    rocksdb_writeoptions_set_sync(engine->write_options, config->sync);
    char *why = NULL;
    /* By its column family, which only get_many needs, and which open alone does not tell. */
    const char *const family_name = "default";
    const rocksdb_options_t *const family_options = engine->options;
    engine->db = rocksdb_open_column_families(engine->options, config->directory, 1, &family_name,
                                              &family_options, &engine->family, &why);
    if (why) {
        engine->family = NULL;
        release(engine);
        return complain("open", why);
    }
    *out = engine;
    return 0;
}

static int close_engine(struct engine *engine)
{
    release(engine);
    return 0;
}

static int session_open(struct engine *engine, struct engine_session **out)
{
    struct engine_session *session = calloc(1, sizeof *session);
    if (!session)
        return -ENOMEM;
    session->engine = engine;
    session->batch = rocksdb_writebatch_create();
    *out = session;
    return 0;
}

static void free_found(struct engine_session *session)
{
    while (session->found_count)
        rocksdb_pinnableslice_destroy(session->found[--session->found_count]);
}

static void session_close(struct engine_session *session)
{
    free_found(session);
    rocksdb_writebatch_destroy(session->batch);
    free(session);
}

static int put(struct engine_session *session, const struct engine_record *records, size_t count)
{
    rocksdb_writebatch_clear(session->batch);
    for (size_t i = 0; i < count; i++)
        rocksdb_writebatch_put(session->batch, (const char *)records[i].key.bytes, ENGINE_KEY_BYTES,
                               (const char *)records[i].value, session->engine->value_bytes);
    char *why = NULL;
    rocksdb_write(session->engine->db, session->engine->write_options, session->batch, &why);
    return complain("put", why);
}

static void take_value(const rocksdb_pinnableslice_t *found, struct engine_value *value)
{
    value->bytes = (const uint8_t *)rocksdb_pinnableslice_value(found, &value->length);
}

static int get(struct engine_session *session, const struct engine_key *key,
               struct engine_value *value)
{
    free_found(session);
    char *why = NULL;
    rocksdb_pinnableslice_t *found =
        rocksdb_get_pinned(session->engine->db, session->engine->read_options,
                           (const char *)key->bytes, ENGINE_KEY_BYTES, &why);
    if (!found)
        return why ? complain("get", why) : -ENOENT;
    take_value(found, value);
    session->found[session->found_count++] = found;
    return 0;
}

static int get_many(struct engine_session *session, const struct engine_key *keys, size_t count,
                    struct engine_value *values)
{
    const char *starts[ENGINE_MANY_MAX];
    size_t lengths[ENGINE_MANY_MAX];
    rocksdb_pinnableslice_t *found[ENGINE_MANY_MAX];
    char *why[ENGINE_MANY_MAX];
    KV_ASSERT(count <= ENGINE_MANY_MAX);
    free_found(session);
    for (size_t i = 0; i < count; i++) {
        starts[i] = (const char *)keys[i].bytes;
        lengths[i] = ENGINE_KEY_BYTES;
    }
    rocksdb_batched_multi_get_cf(session->engine->db, session->engine->read_options,
                                 session->engine->family, count, starts, lengths, found, why,
                                 false);
    int err = 0;
    for (size_t i = 0; i < count; i++) {
        if (!found[i]) {
            err = why[i] ? complain("get_many", why[i]) : -ENOENT;
            continue;
        }
        take_value(found[i], &values[i]);
        session->found[session->found_count++] = found[i];
    }
    return err;
}

static int scan(struct engine_session *session, engine_visit_fn *visit, void *context)
{
    struct engine *engine = session->engine;
    rocksdb_iterator_t *at = rocksdb_create_iterator(engine->db, engine->read_options);
    for (rocksdb_iter_seek_to_first(at); rocksdb_iter_valid(at); rocksdb_iter_next(at)) {
        size_t key_len, value_len;
        const char *key = rocksdb_iter_key(at, &key_len);
        const char *value = rocksdb_iter_value(at, &value_len);
        if (!visit(context, (const uint8_t *)key, key_len, (const uint8_t *)value, value_len))
            break;
    }
    char *why = NULL;
    rocksdb_iter_get_error(at, &why);
    rocksdb_iter_destroy(at);
    return complain("scan", why);
}

static int flush(struct engine *engine)
{
    char *why = NULL;
    rocksdb_flush_wal(engine->db, 1, &why);
    return complain("flush", why);
}

static int settle(struct engine *engine)
{
    rocksdb_compact_range(engine->db, NULL, 0, NULL, 0);
    return 0;
}

const struct engine_kind engine_rocksdb = {
    .name = "rocksdb",
    .package = "librocksdb-dev",
    .settings = "block cache = cache, snappy (its default); compacted after a load",
    .version = KV_COMPARE_HAVE_ROCKSDB,
    .open = open_engine,
    .close = close_engine,
    .session_open = session_open,
    .session_close = session_close,
    .put = put,
    .get = get,
    .get_many = get_many,
    .scan = scan,
    .flush = flush,
    .settle = settle,
};
