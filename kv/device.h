/*
 * kv/device.h: the image as an array of blocks, and the seam for tests.
 *
 * A device reads and writes whole blocks at block offsets and flushes. Calls are
 * synchronous, but for kv_device_begin; those that take several requests have them in flight
 * together. Every buffer is aligned to KV_BLOCK_BYTES (kv_device_alloc gives such memory).
 *
 * Durability: a flush makes every write durable that had completed before the flush was
 * called. Nothing else does. After a flush that failed every later one fails, and what is
 * written with it is not.
 *
 * Errors are few, since others mean something higher up: -EIO, -ENOMEM, of writes and flushes
 * -ENOSPC (a sparse image on a full host), -EROFS and -EINVAL of misuse. A request that the host
 * interrupts, puts off or cuts short is gone on with, some dozens of times.
 *
 * Threads: any number, except close.
 */
#ifndef KV_DEVICE_H
#define KV_DEVICE_H

#include "kv/base.h"
#include "kv/kv.h"
#include "kv/metrics.h"

enum kv_io_kind { KV_IO_READ, KV_IO_WRITE };

struct kv_io {
    enum kv_io_kind kind;
    uint64_t block;       /* first */
    uint32_t block_count; /* 1.. ; the whole transfer or an error */
    void *buf;            /* aligned; borrowed until the call returns */
    int result;           /* out: 0 or negative errno */
    /*
     * Not NULL: it may be called, once and by the thread that waits, as soon as the request has its
     * result, while others are still under way; or not at all. It makes no call to the device.
     */
    void (*done)(struct kv_io *io);
    void *context; /* of done */
};

static inline uint64_t kv_io_bytes(const struct kv_io *io)
{
    return (uint64_t)io->block_count * KV_BLOCK_BYTES;
}

/* Requests that are under way. Implementations embed this as their first member. */
struct kv_device_flight {
    enum kv_histogram_id histogram; /* for the statistics, like the next */
    uint64_t begin_ns;              /* or 0 */
};

struct kv_device_counts {
    uint64_t reads, read_bytes, writes, write_bytes, flushes;
};

/*
 * What an implementation supplies. Tests make their own: one in memory that records every
 * write and flush, one that fails on order.
 */
struct kv_device_ops {
    /*
     * Do all requests, in any order; then, when `flush` is set and all writes succeeded, a
     * flush. Each request's result is set. Returns 0, or the first error.
     */
    int (*submit)(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush);
    int (*discard)(struct kv_device *device, uint64_t block, uint64_t block_count);
    void (*close)(struct kv_device *device);
    /* The next two may be NULL: as kv_device_begin and kv_device_end. */
    struct kv_device_flight *(*begin)(struct kv_device *device, struct kv_io *ios, size_t io_count);
    int (*end)(struct kv_device *device, struct kv_device_flight *flight);
    /* The next four may be NULL: see the functions of the same names. */
    int (*reserve)(struct kv_device *device, uint64_t block, uint64_t block_count);
    int (*room)(struct kv_device *device, uint64_t *block_count);
    int (*zero)(struct kv_device *device, uint64_t block, uint64_t block_count);
    bool (*is_written)(struct kv_device *device, uint64_t block, uint64_t block_count);
    /* NULL: only the device itself can read. The descriptor of kv_device_describe_read. */
    int (*descriptor)(struct kv_device *device);
};

/* Implementations embed this as their first member. */
struct kv_device {
    const struct kv_device_ops *ops;
    uint64_t block_count;           /* immutable after open */
    bool direct_io;                 /* immutable after open */
    bool thin;                      /* immutable after open; see kv_device_reserve */
    struct kv_device_counts counts; /* relaxed atomics (__atomic) */
    struct kv_metrics *metrics;     /* borrowed, set at open; NULL: nobody wants to know */
};

enum kv_device_flags {
    KV_DEVICE_READ_ONLY = 1,
    KV_DEVICE_BUFFERED = 2, /* do not try O_DIRECT */
    KV_DEVICE_NO_LOCK = 4   /* kv_image_info only */
};

/*
 * Open a file or block device with io_uring and, unless asked otherwise or refused by the
 * host (then direct_io is false), O_DIRECT; become its only owner (kv/owner.h; also when it is
 * opened for reading). Waits while the last I/O of an owner that was killed is under way.
 *
 * Returns 0; -EBUSY somebody owns it; -ENXIO a loop device over what can not be reached;
 * -ENOENT, -EACCES ...; -EINVAL neither file nor block device; -ENOSYS no io_uring.
 * `error` (may be NULL) gets the words.
 */
KV_MUST_CHECK int kv_device_open(const char *path, unsigned flags, struct kv_device **device,
                                 struct kv_error *error);
void kv_device_close(struct kv_device *device);

/*
 * Give a file its length; nothing may use the device meanwhile. -EINVAL a block device, or not
 * from kv_device_open; what ftruncate(2) says.
 */
KV_MUST_CHECK int kv_device_resize(struct kv_device *device, uint64_t bytes);

/*
 * A device over `below` (owned, closed with it) that keeps what is written in memory and
 * never writes through: a read-only open can recover on it.
 */
KV_MUST_CHECK int kv_device_overlay(struct kv_device *below, struct kv_device **device);

/* All counted in device->counts; ranges are checked against block_count (-EINVAL). */
KV_MUST_CHECK int kv_device_submit(struct kv_device *device, struct kv_io *ios, size_t io_count,
                                   bool flush);
/*
 * Have requests of one kind under way: the same thread waits for them with kv_device_end, which
 * returns what kv_device_submit would. The ios and what they name are borrowed until then.
 *
 * Returns NULL where that can not be, or not now (rings and memory are few): nothing has begun.
 * Then kv_device_submit does it, after all that this thread has under way was waited for: it may
 * have to wait for a ring.
 */
struct kv_device_flight *kv_device_begin(struct kv_device *device, struct kv_io *ios,
                                         size_t io_count);
KV_MUST_CHECK int kv_device_end(struct kv_device *device, struct kv_device_flight *flight);
/*
 * A read that the caller has the kernel make, without waiting: block `block` of the device is at
 * byte KV_BLOCK_BYTES * block of the descriptor, which stays the device's. It is counted here.
 * Only if ops->descriptor is there. -EINVAL out of range.
 */
KV_MUST_CHECK int kv_device_describe_read(struct kv_device *device, const struct kv_io *io,
                                          int *descriptor);
KV_MUST_CHECK int kv_device_read(struct kv_device *device, uint64_t block, uint32_t block_count,
                                 void *buf);
KV_MUST_CHECK int kv_device_write(struct kv_device *device, uint64_t block, uint32_t block_count,
                                  const void *buf);
KV_MUST_CHECK int kv_device_flush(struct kv_device *device);
/* Tell the host that blocks hold nothing; a hint, errors are ignored by callers. */
int kv_device_discard(struct kv_device *device, uint64_t block, uint64_t block_count);

/*
 * On a thin device (a file that may be sparse) a block that was never written has room on the
 * host only after it was reserved; then writing it, also again, can not fail for want of room.
 * It stays so until the device is closed, and after that as long as nobody punches holes.
 * What the blocks hold does not change; those that have room already need none.
 * Returns 0, also where the host can not promise (then writing may say -ENOSPC) or the device is
 * not thin; -ENOSPC; -EIO ...
 */
KV_MUST_CHECK int kv_device_reserve(struct kv_device *device, uint64_t block, uint64_t block_count);
/* How many blocks the host could still find room for, now and as far as it knows; not thin:
 * UINT64_MAX. */
uint64_t kv_device_room(struct kv_device *device);
/* Make blocks read as zeroes, without taking room for them where the host can. */
KV_MUST_CHECK int kv_device_zero(struct kv_device *device, uint64_t block, uint64_t block_count);
/*
 * Were all of the blocks written before, as far as the host can tell? Where not, a flush of what is
 * written there makes notes of the host's durable, too, and takes longer.
 */
bool kv_device_is_written(struct kv_device *device, uint64_t block, uint64_t block_count);
/* Make blocks read as zeroes by writing: from then on they are. */
KV_MUST_CHECK int kv_device_write_zeroes(struct kv_device *device, uint64_t block,
                                         uint64_t block_count);

/* Aligned, zeroed memory, freed with free(). NULL: no memory. */
void *kv_device_alloc(size_t bytes);
/* The same with any bytes in it: for what is filled before it is looked at. */
void *kv_device_alloc_unset(size_t bytes);

#endif
