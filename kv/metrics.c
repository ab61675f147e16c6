/*
 * kv/metrics.c: what the rows of a store note of their work.
 *
 * Owns       the histograms.
 * Locks      none.
 */
#include "kv/metrics.h"

#include <assert.h>

static_assert(KV_HISTOGRAM_PACK_NONE + KV_CODEC_ZSTD == KV_HISTOGRAM_PACK_ZSTD &&
                  KV_HISTOGRAM_UNPACK_NONE + KV_CODEC_ZSTD == KV_HISTOGRAM_UNPACK_ZSTD,
              "histograms of codecs stand in the order of the codecs");

int kv_metrics_init(struct kv_metrics *metrics, unsigned categories)
{
    atomic_init(&metrics->on, categories);
    metrics->histograms = kv_histogram_set_new(KV_HISTOGRAM_COUNT);
    return metrics->histograms ? 0 : -ENOMEM;
}

void kv_metrics_release(struct kv_metrics *metrics)
{
    kv_histogram_set_free(metrics->histograms);
}

void kv_metrics_packed(struct kv_metrics *metrics, uint64_t begin, enum kv_codec codec, size_t raw,
                       size_t stored)
{
    if (!begin)
        return;
    kv_metrics_end(metrics, (enum kv_histogram_id)(KV_HISTOGRAM_PACK_NONE + codec), begin);
    kv_counter_add(&metrics->codecs[codec].raw_bytes, raw);
    kv_counter_add(&metrics->codecs[codec].stored_bytes, stored);
}

void kv_metrics_unpacked(struct kv_metrics *metrics, uint64_t begin, uint8_t codec, size_t raw)
{
    if (!begin || codec > KV_CODEC_ZSTD)
        return;
    kv_metrics_end(metrics, (enum kv_histogram_id)(KV_HISTOGRAM_UNPACK_NONE + codec), begin);
    kv_counter_add(&metrics->codecs[codec].unpacked_bytes, raw);
}
