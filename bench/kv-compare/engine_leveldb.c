/*
 * bench/kv-compare/engine_leveldb.c: LevelDB through its C interface.
 *
 * Owns       the database in the engine's directory.
 * Durability without `sync` the log is written by each batch and not flushed.
 * Memory     block cache; when the data is more than that, a quarter of it are write buffers.
 */
#include "bench/kv-compare/engine.h"

#include <leveldb/c.h>
#include <stdio.h>
#include <stdlib.h>

struct engine {
    leveldb_t *db;
    leveldb_options_t *options;
    leveldb_cache_t *cache;
    leveldb_writeoptions_t *write_options;
    leveldb_readoptions_t *read_options;
    size_t value_bytes;
};

struct engine_session {
    struct engine *engine;
    leveldb_writebatch_t *batch;
    char *found[ENGINE_MANY_MAX]; /* values of the last call */
    size_t found_count;
};

/* Frees `why`, which the library allocated; NULL: no error. */
static int complain(const char *what, char *why)
{
    if (!why)
        return 0;
    fprintf(stderr, "leveldb: %s: %s\n", what, why);
    leveldb_free(why);
    return -EIO;
}

static void release(struct engine *engine)
{
    if (engine->db)
        leveldb_close(engine->db);
    if (engine->options)
        leveldb_options_destroy(engine->options);
    if (engine->cache)
        leveldb_cache_destroy(engine->cache);
    if (engine->write_options)
        leveldb_writeoptions_destroy(engine->write_options);
    if (engine->read_options)
        leveldb_readoptions_destroy(engine->read_options);
    free(engine);
}

static int open_engine(const struct engine_config *config, struct engine **out)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return -ENOMEM;
    const uint64_t buffers = config->limited ? config->cache_bytes / 4 : 0;
    engine->value_bytes = config->value_bytes;
    engine->options = leveldb_options_create();
    engine->cache = leveldb_cache_create_lru(config->cache_bytes - buffers);
    engine->write_options = leveldb_writeoptions_create();
    engine->read_options = leveldb_readoptions_create();
    leveldb_options_set_create_if_missing(engine->options, 1);
    leveldb_options_set_cache(engine->options, engine->cache);
    if (buffers) /* one fills while the other is written */
        leveldb_options_set_write_buffer_size(engine->options, buffers / 2);
    leveldb_writeoptions_set_sync(engine->write_options, config->sync);
    char *why = NULL;
    engine->db = leveldb_open(engine->options, config->directory, &why);
    if (why) {
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
    session->batch = leveldb_writebatch_create();
    *out = session;
    return 0;
}

static void free_found(struct engine_session *session)
{
    while (session->found_count)
        leveldb_free(session->found[--session->found_count]);
}

static void session_close(struct engine_session *session)
{
    free_found(session);
    leveldb_writebatch_destroy(session->batch);
    free(session);
}

static int put(struct engine_session *session, const struct engine_record *records, size_t count)
{
    leveldb_writebatch_clear(session->batch);
    for (size_t i = 0; i < count; i++)
        leveldb_writebatch_put(session->batch, (const char *)records[i].key.bytes, ENGINE_KEY_BYTES,
                               (const char *)records[i].value, session->engine->value_bytes);
    char *why = NULL;
    leveldb_write(session->engine->db, session->engine->write_options, session->batch, &why);
    return complain("put", why);
}

static int look_up(struct engine_session *session, const struct engine_key *key,
                   struct engine_value *value)
{
    char *why = NULL;
    char *found = leveldb_get(session->engine->db, session->engine->read_options,
                              (const char *)key->bytes, ENGINE_KEY_BYTES, &value->length, &why);
    if (!found)
        return why ? complain("get", why) : -ENOENT;
    value->bytes = (const uint8_t *)found;
    session->found[session->found_count++] = found;
    return 0;
}

static int get(struct engine_session *session, const struct engine_key *key,
               struct engine_value *value)
{
    free_found(session);
    return look_up(session, key, value);
}

static int get_many(struct engine_session *session, const struct engine_key *keys, size_t count,
                    struct engine_value *values)
{
    KV_ASSERT(count <= ENGINE_MANY_MAX);
    free_found(session);
    int err = 0;
    for (size_t i = 0; i < count && !err; i++)
        err = look_up(session, &keys[i], &values[i]);
    return err;
}

static int scan(struct engine_session *session, engine_visit_fn *visit, void *context)
{
    struct engine *engine = session->engine;
    leveldb_iterator_t *at = leveldb_create_iterator(engine->db, engine->read_options);
    for (leveldb_iter_seek_to_first(at); leveldb_iter_valid(at); leveldb_iter_next(at)) {
        size_t key_len, value_len;
        const char *key = leveldb_iter_key(at, &key_len);
        const char *value = leveldb_iter_value(at, &value_len);
        if (!visit(context, (const uint8_t *)key, key_len, (const uint8_t *)value, value_len))
            break;
    }
    char *why = NULL;
    leveldb_iter_get_error(at, &why);
    leveldb_iter_destroy(at);
    return complain("scan", why);
}

static int settle(struct engine *engine)
{
    leveldb_compact_range(engine->db, NULL, 0, NULL, 0);
    return 0;
}

const struct engine_kind engine_leveldb = {
    .name = "leveldb",
    .package = "libleveldb-dev",
    .settings = "block cache = cache, snappy (its default); compacted after a load",
    .version = KV_COMPARE_HAVE_LEVELDB,
    .open = open_engine,
    .close = close_engine,
    .session_open = session_open,
    .session_close = session_close,
    .put = put,
    .get = get,
    .get_many = get_many,
    .scan = scan,
    .settle = settle,
};
