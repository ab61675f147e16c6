/*
 * bench/kv-compare/engine_lmdb.c: LMDB, with and without MDB_WRITEMAP.
 *
 * Owns       the environment in the engine's directory.
 * Durability without `sync` MDB_NOSYNC (and MDB_MAPASYNC with MDB_WRITEMAP): after a power loss
 *            the database may be damaged, which none of the others risks.
 * Memory     its cache is the kernel's page cache; only a cgroup limits it.
 *
 * A read transaction is renewed for each get or get_many and given back with the next call.
 */
#include "bench/kv-compare/engine.h"

#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>

#define MAP_BYTES_MIN ((size_t)1 << 30)

struct engine {
    MDB_env *env;
    MDB_dbi dbi;
    size_t value_bytes;
};

struct engine_session {
    struct engine *engine;
    MDB_txn *reader;    /* NULL: not made yet */
    MDB_cursor *cursor; /* of the reader */
    bool reading;
};

static int complain(const char *what, int code)
{
    if (!code)
        return 0;
    fprintf(stderr, "lmdb: %s: %s\n", what, mdb_strerror(code));
    return code > 0 ? -code : -EIO;
}

static int open_table(struct engine *engine)
{
    MDB_txn *txn;
    int code = mdb_txn_begin(engine->env, NULL, 0, &txn);
    if (code)
        return code;
    code = mdb_dbi_open(txn, NULL, 0, &engine->dbi);
    if (code) {
        mdb_txn_abort(txn);
        return code;
    }
    return mdb_txn_commit(txn);
}

static int open_with(const struct engine_config *config, unsigned flags, struct engine **out)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return -ENOMEM;
    engine->value_bytes = config->value_bytes;
    if (!config->sync)
        flags |= MDB_NOSYNC | (flags & MDB_WRITEMAP ? MDB_MAPASYNC : 0u);
    const size_t data_bytes = config->record_count * (config->value_bytes + ENGINE_KEY_BYTES);
    int code = mdb_env_create(&engine->env);
    if (!code)
        code = mdb_env_set_mapsize(engine->env, (data_bytes * 8 + MAP_BYTES_MIN) & ~(size_t)4095);
    if (!code)
        code = mdb_env_open(engine->env, config->directory, flags | MDB_NOTLS, 0600);
    if (!code)
        code = open_table(engine);
    if (code) {
        if (engine->env)
            mdb_env_close(engine->env);
        free(engine);
        return complain("open", code);
    }
    *out = engine;
    return 0;
}

static int open_default(const struct engine_config *config, struct engine **out)
{
    return open_with(config, 0, out);
}

static int open_writemap(const struct engine_config *config, struct engine **out)
{
    return open_with(config, MDB_WRITEMAP, out);
}

static int flush(struct engine *engine)
{
    return complain("sync", mdb_env_sync(engine->env, 1));
}

static int close_engine(struct engine *engine)
{
    const int err = flush(engine);
    mdb_env_close(engine->env);
    free(engine);
    return err;
}

static int session_open(struct engine *engine, struct engine_session **out)
{
    struct engine_session *session = calloc(1, sizeof *session);
    if (!session)
        return -ENOMEM;
    session->engine = engine;
    *out = session;
    return 0;
}

static void session_close(struct engine_session *session)
{
    if (session->cursor)
        mdb_cursor_close(session->cursor);
    if (session->reader)
        mdb_txn_abort(session->reader);
    free(session);
}

static void stop_reading(struct engine_session *session)
{
    if (session->reading)
        mdb_txn_reset(session->reader);
    session->reading = false;
}

/* A snapshot of now. */
static int start_reading(struct engine_session *session)
{
    stop_reading(session);
    int code;
    if (!session->reader) {
        code = mdb_txn_begin(session->engine->env, NULL, MDB_RDONLY, &session->reader);
        if (!code)
            code = mdb_cursor_open(session->reader, session->engine->dbi, &session->cursor);
    } else {
        code = mdb_txn_renew(session->reader);
    }
    session->reading = !code;
    return code;
}

static int put(struct engine_session *session, const struct engine_record *records, size_t count)
{
    stop_reading(session);
    MDB_txn *txn;
    int code = mdb_txn_begin(session->engine->env, NULL, 0, &txn);
    if (code)
        return complain("begin", code);
    for (size_t i = 0; i < count && !code; i++) {
        MDB_val key = {ENGINE_KEY_BYTES, (void *)(uintptr_t)records[i].key.bytes};
        MDB_val value = {session->engine->value_bytes, (void *)(uintptr_t)records[i].value};
        code = mdb_put(txn, session->engine->dbi, &key, &value, 0);
    }
    if (!code)
        code = mdb_txn_commit(txn);
    else
        mdb_txn_abort(txn);
    return complain("put", code);
}

static int look_up(struct engine_session *session, const struct engine_key *key,
                   struct engine_value *value)
{
    MDB_val wanted = {ENGINE_KEY_BYTES, (void *)(uintptr_t)key->bytes};
    MDB_val found;
    const int code = mdb_get(session->reader, session->engine->dbi, &wanted, &found);
    if (code == MDB_NOTFOUND)
        return -ENOENT;
    if (!code)
        *value = (struct engine_value){found.mv_data, found.mv_size};
    return complain("get", code);
}

static int get(struct engine_session *session, const struct engine_key *key,
               struct engine_value *value)
{
    const int code = start_reading(session);
    return code ? complain("read", code) : look_up(session, key, value);
}

static int get_many(struct engine_session *session, const struct engine_key *keys, size_t count,
                    struct engine_value *values)
{
    int err = complain("read", start_reading(session));
    for (size_t i = 0; i < count && !err; i++)
        err = look_up(session, &keys[i], &values[i]);
    return err;
}

static int scan(struct engine_session *session, engine_visit_fn *visit, void *context)
{
    int code = start_reading(session);
    if (!code)
        code = mdb_cursor_renew(session->reader, session->cursor);
    MDB_val key, value;
    if (!code)
        code = mdb_cursor_get(session->cursor, &key, &value, MDB_FIRST);
    while (!code && visit(context, key.mv_data, key.mv_size, value.mv_data, value.mv_size))
        code = mdb_cursor_get(session->cursor, &key, &value, MDB_NEXT);
    stop_reading(session);
    return code == MDB_NOTFOUND ? 0 : complain("scan", code);
}

#define STRING_(x) #x
#define STRING(x)  STRING_(x)
#define COMMON                                                                                     \
    .package = "liblmdb-dev",                                                                      \
    .version =                                                                                     \
        STRING(MDB_VERSION_MAJOR) "." STRING(MDB_VERSION_MINOR) "." STRING(MDB_VERSION_PATCH),     \
    .close = close_engine, .session_open = session_open, .session_close = session_close,           \
    .put = put, .get = get, .get_many = get_many, .scan = scan, .flush = flush

const struct engine_kind engine_lmdb = {
    .name = "lmdb",
    .settings = "the kernel's page cache; NOTLS; MDB_NOSYNC where a row does not sync",
    .open = open_default,
    COMMON};
const struct engine_kind engine_lmdb_writemap = {
    .name = "lmdb-writemap",
    .settings = "as lmdb, with MDB_WRITEMAP; MDB_MAPASYNC where a row does not sync",
    .open = open_writemap,
    COMMON};
