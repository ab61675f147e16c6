/*
 * bench/kv-compare/engine_kvfs.c: the store of kv/kv.h, with lz4 (its default) and without.
 *
 * Owns       the image DIRECTORY/image, made sparse and large enough at the first open.
 * Durability without `sync` the log is flushed every second and at the end; with it, each batch
 *            is durable before the return.
 */
#include "bench/kv-compare/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kv/kv.h"

#define IMAGE_BYTES_MIN ((uint64_t)1 << 30)
#define BUDGET_MIN      ((uint64_t)8 << 20)

struct engine {
    struct kv_store *store;
    size_t value_bytes;
    unsigned apply_flags;
};

struct engine_session {
    struct engine *engine;
    struct kv_batch *batch;
    uint8_t *values; /* ENGINE_MANY_MAX of them */
};

static int complain(const char *what, int err)
{
    fprintf(stderr, "kvfs: %s: %s\n", what, strerror(-err));
    return err;
}

static int make_image(const char *path, const struct engine_config *config, enum kv_codec codec)
{
    const uint64_t data_bytes = config->record_count * (config->value_bytes + ENGINE_KEY_BYTES);
    const struct kv_create_options options = {
        .size_bytes = kv_max_u64(data_bytes * 8, IMAGE_BYTES_MIN) & ~(uint64_t)4095,
        .codec.codec = codec};
    struct kv_error why = {{0}};
    const int err = kv_create(path, &options, &why);
    if (err)
        fprintf(stderr, "kvfs: %s\n", why.text);
    return err;
}

static int open_with(const struct engine_config *config, enum kv_codec codec, struct engine **out)
{
    struct engine *engine = calloc(1, sizeof *engine);
    char *path = engine_path(config->directory, "image");
    int err = engine && path ? 0 : -ENOMEM;
    if (!err && access(path, F_OK))
        err = make_image(path, config, codec);
    if (err)
        goto out;
    /* Where memory is limited, what it does not cache itself nobody else caches for it: 5/6 of the
     * limit, of which cache_bytes is 5/8. */
    const uint64_t cache_bytes =
        config->limited ? config->cache_bytes / 3 * 4 : config->cache_bytes;
    const struct kv_open_options options = {.memory_budget_bytes =
                                                kv_max_u64(cache_bytes, BUDGET_MIN)};
    struct kv_error why = {{0}};
    err = kv_open(path, &options, &engine->store, &why);
    if (err) {
        fprintf(stderr, "kvfs: %s\n", why.text);
        goto out;
    }
    engine->value_bytes = config->value_bytes;
    engine->apply_flags = config->sync ? KV_APPLY_SYNC : 0;
    *out = engine;
    engine = NULL;
out:
    free(engine);
    free(path);
    return err;
}

static int open_lz4(const struct engine_config *config, struct engine **out)
{
    return open_with(config, KV_CODEC_LZ4, out);
}

static int open_none(const struct engine_config *config, struct engine **out)
{
    return open_with(config, KV_CODEC_NONE, out);
}

static int close_engine(struct engine *engine)
{
    const int err = kv_close(engine->store);
    free(engine);
    return err ? complain("close", err) : 0;
}

static void session_close(struct engine_session *session)
{
    if (session->batch)
        kv_batch_free(session->batch);
    free(session->values);
    free(session);
}

static int session_open(struct engine *engine, struct engine_session **out)
{
    struct engine_session *session = calloc(1, sizeof *session);
    if (!session)
        return -ENOMEM;
    session->engine = engine;
    session->batch = kv_batch_new();
    session->values = calloc(ENGINE_MANY_MAX, engine->value_bytes);
    if (!session->batch || !session->values) {
        session_close(session);
        return -ENOMEM;
    }
    *out = session;
    return 0;
}

static int put(struct engine_session *session, const struct engine_record *records, size_t count)
{
    kv_batch_clear(session->batch);
    int err = 0;
    for (size_t i = 0; i < count && !err; i++)
        err = kv_batch_put(session->batch, records[i].key.bytes, ENGINE_KEY_BYTES, records[i].value,
                           session->engine->value_bytes);
    if (!err)
        err = kv_apply(session->engine->store, session->batch, session->engine->apply_flags, NULL);
    return err ? complain("put", err) : 0;
}

static int get(struct engine_session *session, const struct engine_key *key,
               struct engine_value *value)
{
    const int err = kv_get(session->engine->store, key->bytes, ENGINE_KEY_BYTES, session->values,
                           session->engine->value_bytes, &value->length);
    value->bytes = session->values;
    return err && err != -ENOENT ? complain("get", err) : err;
}

static int get_many(struct engine_session *session, const struct engine_key *keys, size_t count,
                    struct engine_value *values)
{
    struct kv_lookup lookups[ENGINE_MANY_MAX];
    KV_ASSERT(count <= ENGINE_MANY_MAX);
    const size_t value_bytes = session->engine->value_bytes;
    for (size_t i = 0; i < count; i++)
        lookups[i] = (struct kv_lookup){.key = keys[i].bytes,
                                        .key_len = ENGINE_KEY_BYTES,
                                        .buf = session->values + i * value_bytes,
                                        .buf_cap = value_bytes};
    const int err = kv_get_many(session->engine->store, lookups, count);
    if (err)
        return complain("get_many", err);
    for (size_t i = 0; i < count; i++) {
        if (lookups[i].result)
            return complain("get_many", lookups[i].result);
        values[i] = (struct engine_value){lookups[i].buf, lookups[i].value_len};
    }
    return 0;
}

static int scan(struct engine_session *session, engine_visit_fn *visit, void *context)
{
    struct kv_cursor *cursor;
    int err = kv_cursor_open(session->engine->store, NULL, 0, NULL, 0, &cursor);
    if (err)
        return complain("cursor", err);
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        size_t key_len, value_len;
        const void *value;
        const void *key = kv_cursor_key(cursor, &key_len);
        err = kv_cursor_value(cursor, &value, &value_len);
        if (err || !visit(context, key, key_len, value, value_len))
            break;
    }
    kv_cursor_close(cursor);
    return err && err != -ENOENT ? complain("scan", err) : 0;
}

static int flush(struct engine *engine)
{
    const int err = kv_sync(engine->store);
    return err ? complain("sync", err) : 0;
}

static int settle(struct engine *engine)
{
    const int err = kv_checkpoint(engine->store);
    return err ? complain("checkpoint", err) : 0;
}

static uint64_t used_bytes(struct engine *engine)
{
    struct kv_stats stats;
    kv_store_stats(engine->store, &stats);
    return stats.total_bytes - stats.free_bytes;
}

#define COMMON                                                                                     \
    .package = "part of kvfs", .version = KVFS_VERSION, .close = close_engine,                     \
    .session_open = session_open, .session_close = session_close, .put = put, .get = get,          \
    .get_many = get_many, .scan = scan, .flush = flush, .settle = settle, .used_bytes = used_bytes

const struct engine_kind engine_kvfs = {
    .name = "kvfs",
    .settings = "memory_budget = cache, lz4, log on (flushed each second), O_DIRECT",
    .open = open_lz4,
    COMMON};
const struct engine_kind engine_kvfs_none = {
    .name = "kvfs-none", .settings = "as kvfs, without lz4", .open = open_none, COMMON};
