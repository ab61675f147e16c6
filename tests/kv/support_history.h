/*
 * tests/kv/support_history.h: a sorted array that remembers every state it ever had, to find
 * out which of them a store is in.
 *
 * Version 0 is the state at the start, version i the one after i batches. A value that refers
 * to a blob is kept as its head with the blob's content behind it; such keys, and no others,
 * begin with HISTORY_BLOB_KEY, so that a value read from a store can be told to be one.
 *
 * One thread. Bytes that were given once are kept until the history is freed; a fork borrows
 * them and must be freed first.
 */
#ifndef TESTS_KV_SUPPORT_HISTORY_H
#define TESTS_KV_SUPPORT_HISTORY_H

#include "kv/base.h"
#include "kv/kv.h"

#define HISTORY_BLOB_KEY 'b'
#define HISTORY_NONE     SIZE_MAX

struct history_entry {
    const uint8_t *key;
    size_t key_len;
    const uint8_t *value; /* of a blob key: head, then the blob's content */
    size_t value_len;
    size_t head_len;        /* of a blob key */
    struct kv_blob_ref ref; /* of a blob key */
    uint64_t digest;        /* of key and value */
};

struct history_version {
    struct history_entry *entries; /* in key order */
    size_t count;
    uint64_t digest; /* sum over the entries */
};

struct history;

struct history *history_new(void);
/* A history that begins with the versions [first, last] of another, by the same numbers. */
struct history *history_fork(const struct history *history, size_t first, size_t last);
void history_free(struct history *history);
size_t history_last(const struct history *history);
const struct history_version *history_version(const struct history *history, size_t index);

/*
 * Begin a version that is like the last; change it; then commit it (returns its index) or drop
 * it. The version being made can be looked at between the changes.
 */
void history_begin(struct history *history);
size_t history_commit(struct history *history);
/* Undo the last commit. */
void history_drop(struct history *history);
const struct history_version *history_pending(const struct history *history);

void history_put(struct history *history, const void *key, size_t key_len, const void *value,
                 size_t value_len);
void history_put_blob(struct history *history, const void *key, size_t key_len, const void *head,
                      size_t head_len, const void *content, size_t content_len,
                      const struct kv_blob_ref *ref);
void history_del(struct history *history, const void *key, size_t key_len);
void history_del_range(struct history *history, const void *lower, size_t lower_len,
                       const void *upper, size_t upper_len);
void history_patch(struct history *history, const void *key, size_t key_len, size_t offset,
                   const void *bytes, size_t length);

/* Of all that the store holds: what the version that is the same has as its digest. */
KV_MUST_CHECK int history_digest(struct kv_store *store, uint64_t *digest);

/*
 * Read the whole store and find the newest version in [first, last] that it is in.
 *
 * index  out: HISTORY_NONE when it is in none of them; the differences to `last` and to the
 *        version that is most like it are printed then.
 *
 * Returns 0 or what reading the store says.
 */
KV_MUST_CHECK int history_find(const struct history *history, struct kv_store *store, size_t first,
                               size_t last, size_t *index);

#endif
