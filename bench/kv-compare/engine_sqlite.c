/*
 * bench/kv-compare/engine_sqlite.c: SQLite, one table WITHOUT ROWID, prepared statements.
 *
 * Owns       DIRECTORY/kv.db with its log.
 * Durability journal_mode=WAL; synchronous=FULL with `sync`, OFF without.
 * Memory     each session has its own connection, and an equal share of the cache.
 */
#include "bench/kv-compare/engine.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUSY_TIMEOUT_MS 60000

struct engine {
    char *path;
    size_t value_bytes;
    uint64_t session_cache_bytes;
    bool sync;
};

struct engine_session {
    struct engine *engine;
    sqlite3 *db;
    sqlite3_stmt *begin, *commit, *put, *get, *scan;
    uint8_t *values; /* copies, for get_many: a statement stands on one row only */
};

static int complain(const char *what, sqlite3 *db, int code)
{
    if (code == SQLITE_OK || code == SQLITE_DONE || code == SQLITE_ROW)
        return 0;
    fprintf(stderr, "sqlite: %s: %s\n", what, db ? sqlite3_errmsg(db) : sqlite3_errstr(code));
    return code == SQLITE_NOMEM ? -ENOMEM : -EIO;
}

static int run_sql(sqlite3 *db, const char *sql)
{
    return complain(sql, db, sqlite3_exec(db, sql, NULL, NULL, NULL));
}

static int open_connection(struct engine *engine, sqlite3 **out)
{
    sqlite3 *db = NULL;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    int err = complain("open", NULL, sqlite3_open_v2(engine->path, &db, flags, NULL));
    if (!err)
        err = complain("timeout", db, sqlite3_busy_timeout(db, BUSY_TIMEOUT_MS));
    if (!err)
        err = run_sql(db, "PRAGMA journal_mode=WAL");
    if (!err)
        err = run_sql(db, engine->sync ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=OFF");
    char pragma[64];
    (void)snprintf(pragma, sizeof pragma, "PRAGMA cache_size=-%llu", /* fits: one number */
                   (unsigned long long)(engine->session_cache_bytes / 1024));
    if (!err)
        err = run_sql(db, pragma);
    if (err) {
        (void)sqlite3_close(db); /* nothing was prepared */
        return err;
    }
    *out = db;
    return 0;
}

static int open_engine(const struct engine_config *config, struct engine **out)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return -ENOMEM;
    engine->path = engine_path(config->directory, "kv.db");
    engine->value_bytes = config->value_bytes;
    engine->session_cache_bytes = config->cache_bytes / config->session_count;
    engine->sync = config->sync;
    sqlite3 *db = NULL;
    int err = engine->path ? open_connection(engine, &db) : -ENOMEM;
    if (!err) {
        err = run_sql(db, "CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) "
                          "WITHOUT ROWID");
        (void)sqlite3_close(db); /* nothing was prepared */
    }
    if (err) {
        free(engine->path);
        free(engine);
        return err;
    }
    *out = engine;
    return 0;
}

static int close_engine(struct engine *engine)
{
    free(engine->path);
    free(engine);
    return 0;
}

static void session_close(struct engine_session *session)
{
    sqlite3_stmt *const all[] = {session->begin, session->commit, session->put, session->get,
                                 session->scan};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        (void)sqlite3_finalize(all[i]); /* repeats the last error, which was told */
    if (sqlite3_close(session->db) != SQLITE_OK)
        fputs("sqlite: a connection stays open\n", stderr);
    free(session->values);
    free(session);
}

static int prepare(struct engine_session *session, const char *sql, sqlite3_stmt **statement)
{
    return complain(
        sql, session->db,
        sqlite3_prepare_v3(session->db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL));
}

static int session_open(struct engine *engine, struct engine_session **out)
{
    struct engine_session *session = calloc(1, sizeof *session);
    if (!session)
        return -ENOMEM;
    session->engine = engine;
    session->values = calloc(ENGINE_MANY_MAX, engine->value_bytes);
    int err = session->values ? open_connection(engine, &session->db) : -ENOMEM;
    if (!err)
        err = prepare(session, "BEGIN IMMEDIATE", &session->begin);
    if (!err)
        err = prepare(session, "COMMIT", &session->commit);
    if (!err)
        err = prepare(session, "INSERT OR REPLACE INTO kv VALUES (?, ?)", &session->put);
    if (!err)
        err = prepare(session, "SELECT v FROM kv WHERE k = ?", &session->get);
    if (!err)
        err = prepare(session, "SELECT k, v FROM kv ORDER BY k", &session->scan);
    if (err) {
        session_close(session);
        return err;
    }
    *out = session;
    return 0;
}

/* Run a statement that gives no rows. */
static int step_once(struct engine_session *session, sqlite3_stmt *statement, const char *what)
{
    const int err = complain(what, session->db, sqlite3_step(statement));
    (void)sqlite3_reset(statement); /* repeats the error of the step */
    return err;
}

static int put_one(struct engine_session *session, const struct engine_record *record)
{
    int code =
        sqlite3_bind_blob(session->put, 1, record->key.bytes, ENGINE_KEY_BYTES, SQLITE_STATIC);
    if (code == SQLITE_OK)
        code = sqlite3_bind_blob(session->put, 2, record->value, (int)session->engine->value_bytes,
                                 SQLITE_STATIC);
    const int err = complain("bind", session->db, code);
    return err ? err : step_once(session, session->put, "put");
}

static int put(struct engine_session *session, const struct engine_record *records, size_t count)
{
    (void)sqlite3_reset(session->get); /* a statement that stands on a row reads on */
    int err = step_once(session, session->begin, "begin");
    for (size_t i = 0; i < count && !err; i++)
        err = put_one(session, &records[i]);
    return err ? err : step_once(session, session->commit, "commit");
}

static int get(struct engine_session *session, const struct engine_key *key,
               struct engine_value *value)
{
    (void)sqlite3_reset(session->get); /* repeats an error that was told */
    int code = sqlite3_bind_blob(session->get, 1, key->bytes, ENGINE_KEY_BYTES, SQLITE_STATIC);
    if (code == SQLITE_OK)
        code = sqlite3_step(session->get);
    if (code == SQLITE_DONE)
        return -ENOENT;
    if (code != SQLITE_ROW)
        return complain("get", session->db, code);
    value->bytes = sqlite3_column_blob(session->get, 0);
    value->length = (size_t)sqlite3_column_bytes(session->get, 0);
    return 0;
}

static int get_many(struct engine_session *session, const struct engine_key *keys, size_t count,
                    struct engine_value *values)
{
    (void)sqlite3_reset(session->get);
    int err = run_sql(session->db, "BEGIN");
    if (err)
        return err;
    for (size_t i = 0; i < count && !err; i++) {
        err = get(session, &keys[i], &values[i]);
        if (!err && values[i].length > session->engine->value_bytes)
            err = -EUCLEAN;
        if (err)
            break;
        uint8_t *copy = session->values + i * session->engine->value_bytes;
        memcpy(copy, values[i].bytes, values[i].length);
        values[i].bytes = copy;
    }
    (void)sqlite3_reset(session->get);
    const int ended = step_once(session, session->commit, "commit");
    return err ? err : ended;
}

static int scan(struct engine_session *session, engine_visit_fn *visit, void *context)
{
    int code;
    while ((code = sqlite3_step(session->scan)) == SQLITE_ROW) {
        const uint8_t *key = sqlite3_column_blob(session->scan, 0);
        const uint8_t *value = sqlite3_column_blob(session->scan, 1);
        if (!visit(context, key, (size_t)sqlite3_column_bytes(session->scan, 0), value,
                   (size_t)sqlite3_column_bytes(session->scan, 1)))
            break;
    }
    const int err = complain("scan", session->db, code);
    (void)sqlite3_reset(session->scan);
    return err;
}

/* The log goes into the database, and the log is empty. */
static int settle(struct engine *engine)
{
    sqlite3 *db;
    int err = open_connection(engine, &db);
    if (err)
        return err;
    err = run_sql(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    (void)sqlite3_close(db); /* nothing was prepared */
    return err;
}

const struct engine_kind engine_sqlite = {
    .name = "sqlite",
    .package = "libsqlite3-dev",
    .settings = "cache_size = cache, WAL, synchronous FULL or OFF, WITHOUT ROWID",
    .version = SQLITE_VERSION,
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
