/*
 * bench/kv-compare/engines.c: the list of engines, and names for those that are not built in.
 *
 * KV_COMPARE_HAVE_* are defined by CMakeLists.txt for each library that it found.
 */
#include "bench/kv-compare/engine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define MISSING(variable, its_name, its_package)                                                   \
    const struct engine_kind variable = {.name = its_name, .package = its_package}

#ifndef KV_COMPARE_HAVE_LMDB
MISSING(engine_lmdb, "lmdb", "liblmdb-dev");
MISSING(engine_lmdb_writemap, "lmdb-writemap", "liblmdb-dev");
#endif
#ifndef KV_COMPARE_HAVE_ROCKSDB
MISSING(engine_rocksdb, "rocksdb", "librocksdb-dev");
#endif
#ifndef KV_COMPARE_HAVE_LEVELDB
MISSING(engine_leveldb, "leveldb", "libleveldb-dev");
#endif
#ifndef KV_COMPARE_HAVE_WIREDTIGER
MISSING(engine_wiredtiger, "wiredtiger", "libwiredtiger-dev");
#endif
#ifndef KV_COMPARE_HAVE_SQLITE
MISSING(engine_sqlite, "sqlite", "libsqlite3-dev");
#endif
#ifndef KV_COMPARE_HAVE_BERKELEYDB
MISSING(engine_berkeleydb, "berkeleydb", "libdb5.3-dev");
#endif

static const struct engine_kind *const engines[] = {
    &engine_kvfs,    &engine_kvfs_none,  &engine_lmdb,   &engine_lmdb_writemap, &engine_rocksdb,
    &engine_leveldb, &engine_wiredtiger, &engine_sqlite, &engine_berkeleydb};
static_assert(sizeof engines / sizeof *engines == ENGINE_COUNT, "the header says how many");

const struct engine_kind *engine_at(unsigned index)
{
    return index < ENGINE_COUNT ? engines[index] : NULL;
}

char *engine_path(const char *directory, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}
