/*
 * bench/kv-compare/engine_berkeleydb.c: Berkeley DB, a B-tree in a transactional environment.
 *
 * Owns       the environment in the engine's directory, with its regions in private memory.
 * Durability without `sync` DB_TXN_NOSYNC: a commit neither writes nor flushes the log.
 * Memory     cachesize, divided into 1 GiB parts.
 */
#include "bench/kv-compare/engine.h"

#include <db.h>
#include <stdio.h>
#include <stdlib.h>

#define LOCKS_MAX 200000u /* a batch of random keys locks as many pages */
#define GIB       ((uint64_t)1 << 30)

struct engine {
    DB_ENV *env;
    DB *db;
    size_t value_bytes;
};

struct engine_session {
    struct engine *engine;
    uint8_t *values; /* ENGINE_MANY_MAX of them */
};

static int complain(const char *what, int code)
{
    if (!code)
        return 0;
    fprintf(stderr, "berkeleydb: %s: %s\n", what, db_strerror(code));
    return code > 0 ? -code : -EIO;
}

static int open_environment(struct engine *engine, const struct engine_config *config)
{
    DB_ENV *env = engine->env;
    const uint64_t parts = config->cache_bytes / GIB + 1;
    int code = env->set_cachesize(env, (uint32_t)(config->cache_bytes / GIB),
                                  (uint32_t)(config->cache_bytes % GIB), (int)parts);
    if (!code)
        code = env->set_lk_max_locks(env, LOCKS_MAX);
    if (!code)
        code = env->set_lk_max_objects(env, LOCKS_MAX);
    if (!code)
        code = env->set_lk_detect(env, DB_LOCK_DEFAULT);
    if (!code && !config->sync)
        code = env->set_flags(env, DB_TXN_NOSYNC, 1);
    if (!code)
        code = env->log_set_config(env, DB_LOG_AUTO_REMOVE, 1);
    if (!code)
        code = env->open(env, config->directory,
                         DB_CREATE | DB_INIT_MPOOL | DB_INIT_LOCK | DB_INIT_LOG | DB_INIT_TXN |
                             DB_THREAD | DB_PRIVATE | DB_RECOVER,
                         0600);
    return code;
}

static int open_engine(const struct engine_config *config, struct engine **out)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return -ENOMEM;
    engine->value_bytes = config->value_bytes;
    int code = db_env_create(&engine->env, 0);
    if (!code)
        code = open_environment(engine, config);
    if (!code)
        code = db_create(&engine->db, engine->env, 0);
    if (!code)
        code = engine->db->open(engine->db, NULL, "kv.db", NULL, DB_BTREE,
                                DB_CREATE | DB_AUTO_COMMIT | DB_THREAD, 0600);
    if (code) {
        if (engine->db)
            (void)engine->db->close(engine->db, 0); /* it failed already */
        if (engine->env)
            (void)engine->env->close(engine->env, 0);
        free(engine);
        return complain("open", code);
    }
    *out = engine;
    return 0;
}

static int settle(struct engine *engine)
{
    return complain("checkpoint", engine->env->txn_checkpoint(engine->env, 0, 0, DB_FORCE));
}

static int close_engine(struct engine *engine)
{
    int err = settle(engine);
    const int closed = complain("close", engine->db->close(engine->db, 0));
    if (!err)
        err = closed;
    const int ended = complain("close", engine->env->close(engine->env, 0));
    free(engine);
    return err ? err : ended;
}

static int session_open(struct engine *engine, struct engine_session **out)
{
    struct engine_session *session = calloc(1, sizeof *session);
    uint8_t *values = calloc(ENGINE_MANY_MAX, engine->value_bytes);
    if (!session || !values) {
        free(session);
        free(values);
        return -ENOMEM;
    }
    session->engine = engine;
    session->values = values;
    *out = session;
    return 0;
}

static void session_close(struct engine_session *session)
{
    free(session->values);
    free(session);
}

static DBT key_of(const struct engine_key *key)
{
    return (DBT){.data = (void *)(uintptr_t)key->bytes,
                 .size = ENGINE_KEY_BYTES,
                 .ulen = ENGINE_KEY_BYTES,
                 .flags = DB_DBT_USERMEM};
}

static int put_in_transaction(struct engine_session *session, DB_TXN *txn,
                              const struct engine_record *records, size_t count)
{
    DB *db = session->engine->db;
    int code = 0;
    for (size_t i = 0; i < count && !code; i++) {
        DBT key = key_of(&records[i].key);
        DBT value = {.data = (void *)(uintptr_t)records[i].value,
                     .size = (uint32_t)session->engine->value_bytes};
        code = db->put(db, txn, &key, &value, 0);
    }
    return code;
}

static int put(struct engine_session *session, const struct engine_record *records, size_t count)
{
    DB_ENV *env = session->engine->env;
    for (;;) {
        DB_TXN *txn;
        int code = env->txn_begin(env, NULL, &txn, 0);
        if (code)
            return complain("begin", code);
        code = put_in_transaction(session, txn, records, count);
        if (!code)
            return complain("commit", txn->commit(txn, 0));
        const int ended = txn->abort(txn);
        if (code != DB_LOCK_DEADLOCK || ended)
            return complain("put", code);
    }
}

static int look_up(struct engine_session *session, const struct engine_key *wanted, uint8_t *buf,
                   struct engine_value *value)
{
    DB *db = session->engine->db;
    DBT key = key_of(wanted);
    DBT found = {
        .data = buf, .ulen = (uint32_t)session->engine->value_bytes, .flags = DB_DBT_USERMEM};
    int code;
    do {
        code = db->get(db, NULL, &key, &found, 0);
    } while (code == DB_LOCK_DEADLOCK);
    if (code == DB_NOTFOUND)
        return -ENOENT;
    *value = (struct engine_value){buf, found.size};
    return complain("get", code);
}

static int get(struct engine_session *session, const struct engine_key *key,
               struct engine_value *value)
{
    return look_up(session, key, session->values, value);
}

static int get_many(struct engine_session *session, const struct engine_key *keys, size_t count,
                    struct engine_value *values)
{
    KV_ASSERT(count <= ENGINE_MANY_MAX);
    int err = 0;
    for (size_t i = 0; i < count && !err; i++)
        err = look_up(session, &keys[i], session->values + i * session->engine->value_bytes,
                      &values[i]);
    return err;
}

static int scan(struct engine_session *session, engine_visit_fn *visit, void *context)
{
    DB *db = session->engine->db;
    DBC *cursor;
    int code = db->cursor(db, NULL, &cursor, 0);
    if (code)
        return complain("cursor", code);
    struct engine_key key_bytes;
    DBT key = {.data = key_bytes.bytes, .ulen = ENGINE_KEY_BYTES, .flags = DB_DBT_USERMEM};
    DBT value = {.data = session->values,
                 .ulen = (uint32_t)session->engine->value_bytes,
                 .flags = DB_DBT_USERMEM};
    do {
        code = cursor->get(cursor, &key, &value, DB_NEXT);
    } while (!code && visit(context, key.data, key.size, value.data, value.size));
    const int closed = cursor->close(cursor);
    return complain("scan", code == DB_NOTFOUND ? closed : code);
}

static int flush(struct engine *engine)
{
    return complain("log_flush", engine->env->log_flush(engine->env, NULL));
}

#define STRING_(x) #x
#define STRING(x)  STRING_(x)

const struct engine_kind engine_berkeleydb = {
    .name = "berkeleydb",
    .package = "libdb5.3-dev",
    .settings = "cachesize = cache, transactions, private regions, log files removed when old",
    .version = STRING(DB_VERSION_MAJOR) "." STRING(DB_VERSION_MINOR) "." STRING(DB_VERSION_PATCH),
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
