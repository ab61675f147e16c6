/*
 * kv/apply_blobs.c: blobs of the public interface: written before the batch that refers to them.
 *
 * Owns       nothing; kv/blob.h has the blobs.
 * Invariant  a blob that was written is nobody's until a batch refers to it, or it is discarded.
 * Locks      none are held; a checkpoint may be made for space.
 */
#include "kv/apply_record.h"

/* A checkpoint may help where there is no space. */
static int write_blob(struct kv_store *store, struct kv_blob_source *source,
                      const struct kv_codec_spec *codec)
{
    if (store->read_only)
        return -EROFS;
    for (unsigned tries = 0;; tries++) {
        const uint64_t epoch = atomic_load_explicit(&store->checkpoint.epoch, memory_order_relaxed);
        int err = kv_apply_write_blobs(store, source, 1, codec);
        if (err != -ENOSPC || tries == 1 || !kv_checkpoint_may_help(store)) {
            if (!err || err == -ENOSPC)
                kv_store_note_host(store, err == -ENOSPC);
            return err;
        }
        err = kv_store_checkpoint_of(store, epoch);
        if (err)
            return err;
    }
}

int kv_blob_write(struct kv_store *store, const void *bytes, size_t length,
                  const struct kv_codec_spec *codec, struct kv_blob_ref *ref, size_t *written)
{
    struct kv_blob_source source = {.bytes = bytes, .length = length};
    const int err = write_blob(store, &source, codec);
    if (err)
        return err;
    *ref = source.ref;
    *written = source.written;
    return 0;
}

int kv_blob_write_many(struct kv_store *store, struct kv_blob_source *sources, size_t count,
                       const struct kv_codec_spec *codec)
{
    for (size_t i = 0; i < count; i++)
        sources[i].written = 0;
    if (count > KV_BLOB_SOURCES_MAX)
        return -EINVAL;
    int err = store->read_only ? -EROFS : kv_apply_write_blobs(store, sources, count, codec);
    if (err != -ENOSPC) {
        if (!err)
            kv_store_note_host(store, false);
        return err;
    }
    err = 0;
    for (size_t i = 0; i < count && !err; i++) /* a checkpoint may help each of the others */
        if (!sources[i].written)
            err = write_blob(store, &sources[i], codec);
    return err;
}

void kv_blob_discard(struct kv_store *store, const struct kv_blob_ref *ref)
{
    kv_blobs_discard(&store->blobs, ref);
}

int kv_blob_table(struct kv_store *store, const struct kv_blob_ref *ref,
                  uint8_t table[KV_BLOB_TABLE_MAX], size_t *length)
{
    return kv_blobs_table(&store->blobs, ref, table, length);
}

int kv_blob_read(struct kv_store *store, const struct kv_blob_ref *ref, size_t offset, void *buf,
                 size_t length)
{
    const struct kv_blob_part part = {.ref = *ref, .buf = buf, .offset = offset, .length = length};
    return kv_blobs_read(&store->blobs, &part, 1);
}

int kv_blob_read_many(struct kv_store *store, const struct kv_blob_part *parts, size_t count)
{
    return kv_blobs_read(&store->blobs, parts, count);
}

void kv_blob_prefetch(struct kv_store *store, const struct kv_blob_ref *refs, size_t count)
{
    kv_blobs_prefetch(&store->blobs, refs, count);
}

int kv_blob_read_begin(struct kv_store *store, const struct kv_blob_part *part,
                       struct kv_blob_reading **reading, struct kv_blob_transfer *transfer)
{
    return kv_blobs_read_begin(&store->blobs, part, reading, transfer);
}

int kv_blob_read_end(struct kv_store *store, struct kv_blob_reading *reading, int result)
{
    return kv_blobs_read_end(&store->blobs, reading, result);
}
