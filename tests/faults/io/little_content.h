/*
 * tests/faults/io/little_content.h: keys, large values and blobs that say of themselves whether
 * they are right, and one batch that changes a good part of them.
 *
 * What does not work though it should ends the program; what may fail returns its error.
 */
#ifndef TESTS_FAULTS_LITTLE_CONTENT_H
#define TESTS_FAULTS_LITTLE_CONTENT_H

#include "kv/base.h"
#include "kv/kv.h"

/* What a store holds. Two that hold the same have the same sum. */
struct little_sum {
    uint64_t keys, old, changed, blobs;
    uint64_t sum;
};

/* Some 700 keys: small and large values, blobs that one key holds, and blobs that two hold. */
void little_fill(struct kv_store *store);

/* A batch with every kind of operation; all it puts is of the second version. */
KV_MUST_CHECK int little_change(struct kv_store *store, unsigned flags);

/* Small batches, so that the log has many records. */
void little_log(struct kv_store *store);

/* Read everything from the first key to the last. A wrong byte ends the program. */
KV_MUST_CHECK int little_read(struct kv_store *store, struct little_sum *sum);

/* The same by all other ways to read; 0 also where there was nothing to be read. */
KV_MUST_CHECK int little_read_about(struct kv_store *store);

#endif
