/*
 * kv/metrics.h: what the rows of a store note of their work beyond plain counts: how long it took
 * and how much it was. By categories, which can be switched at any time.
 *
 * A row finds it by its device. What is switched off costs one load and a branch, and reads no
 * clock; what is on costs two readings of the clock and an addition, around a transfer, a
 * checkpoint, or the packing of a page: never around a step in a tree.
 *
 * Threads: any, but for init and release.
 */
#ifndef KV_METRICS_H
#define KV_METRICS_H

#include "kv/base.h"
#include "kv/counter.h"
#include "kv/histogram.h"
#include "kv/kv.h"

struct kv_metrics {
    _Atomic unsigned on;                 /* enum kv_metric_category */
    struct kv_histogram_set *histograms; /* immutable; by enum kv_histogram_id */
    struct {
        struct kv_counter raw_bytes, stored_bytes; /* packed so */
        struct kv_counter unpacked_bytes;
    } codecs[KV_CODEC_COUNT];
};

/* -ENOMEM. */
KV_MUST_CHECK int kv_metrics_init(struct kv_metrics *metrics, unsigned categories);
void kv_metrics_release(struct kv_metrics *metrics);

static inline bool kv_metrics_on(const struct kv_metrics *metrics, unsigned category)
{
    return metrics && (atomic_load_explicit(&metrics->on, memory_order_relaxed) & category);
}

/* The time, or 0: nobody wants to know. metrics may be NULL. */
static inline uint64_t kv_metrics_begin(const struct kv_metrics *metrics, unsigned category)
{
    return kv_metrics_on(metrics, category) ? kv_clock_ns() : 0;
}

static inline void kv_metrics_note(struct kv_metrics *metrics, enum kv_histogram_id id,
                                   uint64_t number)
{
    kv_histogram_set_add(metrics->histograms, id, number);
}

/* begin: from kv_metrics_begin. */
static inline void kv_metrics_end(struct kv_metrics *metrics, enum kv_histogram_id id,
                                  uint64_t begin)
{
    if (begin)
        kv_metrics_note(metrics, id, kv_clock_ns() - begin);
}

/* `raw` bytes were packed to `stored`, or none were saved and `codec` is NONE; in vain counts. */
void kv_metrics_packed(struct kv_metrics *metrics, uint64_t begin, enum kv_codec codec, size_t raw,
                       size_t stored);
/* codec: as read from disk. */
void kv_metrics_unpacked(struct kv_metrics *metrics, uint64_t begin, uint8_t codec, size_t raw);

#endif
