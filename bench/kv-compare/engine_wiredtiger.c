/*
 * bench/kv-compare/engine_wiredtiger.c: WiredTiger, a row store of raw byte strings.
 *
 * Owns       the database in the engine's directory.
 * Durability logged; without `sync` the log is neither written nor flushed by a commit.
 * Memory     cache_size.
 */
#include "bench/kv-compare/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wiredtiger.h>

struct engine {
    WT_CONNECTION *connection;
    size_t value_bytes;
};

struct engine_session {
    struct engine *engine;
    WT_SESSION *session;
    WT_CURSOR *cursor;
    uint8_t *values; /* copies, for get_many: a cursor stands on one key only */
};

static int complain(const char *what, int code)
{
    if (!code)
        return 0;
    fprintf(stderr, "wiredtiger: %s: %s\n", what, wiredtiger_strerror(code));
    return code > 0 ? -code : -EIO;
}

static int make_table(WT_CONNECTION *connection)
{
    WT_SESSION *session;
    int code = connection->open_session(connection, NULL, NULL, &session);
    if (!code)
        code = session->create(session, "table:kv", "key_format=u,value_format=u");
    if (!code)
        code = session->close(session, NULL);
    return code;
}

static int open_engine(const struct engine_config *config, struct engine **out)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return -ENOMEM;
    engine->value_bytes = config->value_bytes;
    char options[256];
    (void)snprintf(options, sizeof options, /* fits: one number */
                   "create,cache_size=%llu,log=(enabled=true),transaction_sync=(enabled=%s)",
                   (unsigned long long)config->cache_bytes, config->sync ? "true" : "false");
    int code = wiredtiger_open(config->directory, NULL, options, &engine->connection);
    if (!code)
        code = make_table(engine->connection);
    if (code) {
        if (engine->connection)
            (void)engine->connection->close(engine->connection, NULL); /* it failed already */
        free(engine);
        return complain("open", code);
    }
    *out = engine;
    return 0;
}

static int close_engine(struct engine *engine)
{
    const int code = engine->connection->close(engine->connection, NULL);
    free(engine);
    return complain("close", code);
}

static void session_close(struct engine_session *session)
{
    if (session->session)
        (void)session->session->close(session->session, NULL); /* nothing is open in it */
    free(session->values);
    free(session);
}

static int session_open(struct engine *engine, struct engine_session **out)
{
    struct engine_session *session = calloc(1, sizeof *session);
    if (!session)
        return -ENOMEM;
    session->engine = engine;
    session->values = calloc(ENGINE_MANY_MAX, engine->value_bytes);
    int code = engine->connection->open_session(engine->connection, NULL, NULL, &session->session);
    if (!code)
        code = session->session->open_cursor(session->session, "table:kv", NULL, NULL,
                                             &session->cursor);
    if (code || !session->values) {
        session_close(session);
        return code ? complain("session", code) : -ENOMEM;
    }
    *out = session;
    return 0;
}

static int put_in_transaction(struct engine_session *session, const struct engine_record *records,
                              size_t count)
{
    WT_CURSOR *cursor = session->cursor;
    int code = 0;
    for (size_t i = 0; i < count && !code; i++) {
        const WT_ITEM key = {.data = records[i].key.bytes, .size = ENGINE_KEY_BYTES};
        const WT_ITEM value = {.data = records[i].value, .size = session->engine->value_bytes};
        cursor->set_key(cursor, &key);
        cursor->set_value(cursor, &value);
        code = cursor->insert(cursor);
    }
    return code;
}

static int put(struct engine_session *session, const struct engine_record *records, size_t count)
{
    WT_SESSION *own = session->session;
    int code = session->cursor->reset(session->cursor);
    while (!code) {
        code = own->begin_transaction(own, NULL);
        if (code)
            break;
        code = put_in_transaction(session, records, count);
        if (!code) {
            code = own->commit_transaction(own, NULL);
            break;
        }
        const int ended = own->rollback_transaction(own, NULL);
        if (code != WT_ROLLBACK)
            break;
        code = ended;
    }
    return complain("put", code);
}

static int look_up(struct engine_session *session, const struct engine_key *key,
                   struct engine_value *value)
{
    WT_CURSOR *cursor = session->cursor;
    const WT_ITEM wanted = {.data = key->bytes, .size = ENGINE_KEY_BYTES};
    cursor->set_key(cursor, &wanted);
    int code = cursor->search(cursor);
    if (code == WT_NOTFOUND)
        return -ENOENT;
    WT_ITEM found;
    if (!code)
        code = cursor->get_value(cursor, &found);
    if (!code)
        *value = (struct engine_value){found.data, found.size};
    return complain("get", code);
}

/* The cursor gives up its place, and so its snapshot, before it looks for the next key. */
static int get(struct engine_session *session, const struct engine_key *key,
               struct engine_value *value)
{
    const int code = session->cursor->reset(session->cursor);
    return code ? complain("reset", code) : look_up(session, key, value);
}

static int get_many(struct engine_session *session, const struct engine_key *keys, size_t count,
                    struct engine_value *values)
{
    WT_SESSION *own = session->session;
    int code = session->cursor->reset(session->cursor);
    if (!code)
        code = own->begin_transaction(own, "isolation=snapshot");
    if (code)
        return complain("begin", code);
    int err = 0;
    for (size_t i = 0; i < count && !err; i++) {
        err = look_up(session, &keys[i], &values[i]);
        if (!err && values[i].length > session->engine->value_bytes)
            err = -EUCLEAN;
        if (err)
            break;
        uint8_t *copy = session->values + i * session->engine->value_bytes;
        memcpy(copy, values[i].bytes, values[i].length);
        values[i].bytes = copy;
    }
    code = session->cursor->reset(session->cursor);
    const int ended = own->commit_transaction(own, NULL);
    return err ? err : complain("get_many", code ? code : ended);
}

static int scan(struct engine_session *session, engine_visit_fn *visit, void *context)
{
    WT_CURSOR *cursor = session->cursor;
    int code = cursor->reset(cursor);
    while (!code) {
        code = cursor->next(cursor);
        WT_ITEM key, value;
        if (!code)
            code = cursor->get_key(cursor, &key);
        if (!code)
            code = cursor->get_value(cursor, &value);
        if (!code && !visit(context, key.data, key.size, value.data, value.size))
            break;
    }
    const int reset = cursor->reset(cursor);
    if (code == WT_NOTFOUND)
        code = reset;
    return complain("scan", code);
}

/* One call in a session of its own. */
static int run_alone(struct engine *engine, int (*call)(WT_SESSION *session), const char *what)
{
    WT_SESSION *session;
    int code = engine->connection->open_session(engine->connection, NULL, NULL, &session);
    if (code)
        return complain(what, code);
    code = call(session);
    const int closed = session->close(session, NULL);
    return complain(what, code ? code : closed);
}

static int flush_log(WT_SESSION *session)
{
    return session->log_flush(session, "sync=on");
}

static int make_checkpoint(WT_SESSION *session)
{
    return session->checkpoint(session, NULL);
}

static int flush(struct engine *engine)
{
    return run_alone(engine, flush_log, "log_flush");
}

static int settle(struct engine *engine)
{
    return run_alone(engine, make_checkpoint, "checkpoint");
}

#define STRING_(x) #x
#define STRING(x)  STRING_(x)

const struct engine_kind engine_wiredtiger = {
    .name = "wiredtiger",
    .package = "libwiredtiger-dev",
    .settings = "cache_size = cache, log on, no compression (its default)",
    .version = STRING(WIREDTIGER_VERSION_MAJOR) "." STRING(WIREDTIGER_VERSION_MINOR) "." STRING(
        WIREDTIGER_VERSION_PATCH),
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
