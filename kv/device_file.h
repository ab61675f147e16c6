/*
 * kv/device_file.h: a file or block device driven by io_uring; for kv/device_*.c only.
 */
#ifndef KV_DEVICE_FILE_H
#define KV_DEVICE_FILE_H

#include "kv/device.h"
#include "kv/owner.h"

#include <pthread.h>

/* The least that an offset under O_DIRECT is a multiple of. */
#define SECTOR_BYTES 512u

struct ring;

struct file_device {
    struct kv_device base;
    int fd;                 /* immutable after open */
    struct kv_owner *owner; /* immutable after open; NULL: opened without the lock */
    bool read_only;         /* immutable after open */
    bool is_block_device;   /* immutable after open */

    pthread_mutex_t flush_mutex;
    int flush_failure; /* flush_mutex; sticky: what the first failed flush said, or 0 */

    pthread_mutex_t mutex;
    pthread_cond_t ring_idle;
    struct ring *idle;   /* mutex */
    unsigned ring_count; /* mutex; idle and taken */
};

/* ---- its rings (device_ring.c) ---------------------------------------------------- */

/* At open, so that a host without io_uring is told at once. -ENOSYS: it has none. */
KV_MUST_CHECK int kv_device_make_first_ring(struct file_device *file, struct kv_error *error);
/* At close; nobody is inside. */
void kv_device_free_rings(struct file_device *file);
/* As kv_device_submit. */
KV_MUST_CHECK int kv_device_submit_file(struct kv_device *device, struct kv_io *ios,
                                        size_t io_count, bool flush);
/* As kv_device_begin and kv_device_end. */
struct kv_device_flight *kv_device_begin_file(struct kv_device *device, struct kv_io *ios,
                                              size_t io_count);
int kv_device_end_file(struct kv_device *device, struct kv_device_flight *flight);

#endif
