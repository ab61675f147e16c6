/*
 * kv/device.c: what all devices share: their ranges are checked, their transfers counted.
 *
 * Owns       nothing; a device is its implementation's (device_file.c, device_overlay.c, the
 *            tests').
 * Invariant  an implementation sees only transfers inside the device, to aligned memory.
 * Locks      none; the counts are atomic.
 */
#include "kv/device.h"

#include <sys/mman.h>

void kv_device_close(struct kv_device *device)
{
    if (!device)
        return;
    device->metrics = NULL; /* a test's device goes on without the store */
    device->ops->close(device);
}

static bool in_range(const struct kv_device *device, uint64_t block, uint64_t block_count)
{
    uint64_t end;
    return block_count > 0 && !kv_add_u64(block, block_count, &end) && end <= device->block_count;
}

static int check_ranges(const struct kv_device *device, struct kv_io *ios, size_t io_count)
{
    int err = 0;
    for (size_t i = 0; i < io_count; i++) {
        KV_ASSERT((uintptr_t)ios[i].buf % KV_BLOCK_BYTES == 0);
        if (!in_range(device, ios[i].block, ios[i].block_count))
            err = -EINVAL;
    }
    for (size_t i = 0; err && i < io_count; i++)
        ios[i].result = in_range(device, ios[i].block, ios[i].block_count) ? -ECANCELED : -EINVAL;
    return err;
}

/* Figures only; nothing is ordered by them. */
static void count_up(uint64_t *counter, uint64_t amount)
{
    __atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

static void count_ios(struct kv_device_counts *counts, const struct kv_io *ios, size_t io_count)
{
    for (size_t i = 0; i < io_count; i++) {
        if (ios[i].kind == KV_IO_READ) {
            count_up(&counts->reads, 1);
            count_up(&counts->read_bytes, kv_io_bytes(&ios[i]));
        } else {
            count_up(&counts->writes, 1);
            count_up(&counts->write_bytes, kv_io_bytes(&ios[i]));
        }
    }
}

/* Reads and writes are never submitted together. */
static enum kv_histogram_id submission_kind(const struct kv_io *ios, bool flush)
{
    if (flush)
        return KV_HISTOGRAM_DEVICE_FLUSH;
    return ios[0].kind == KV_IO_READ ? KV_HISTOGRAM_DEVICE_READ : KV_HISTOGRAM_DEVICE_WRITE;
}

int kv_device_submit(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    const int err = check_ranges(device, ios, io_count);
    if (err)
        return err;
    count_ios(&device->counts, ios, io_count);
    if (flush)
        count_up(&device->counts.flushes, 1);
    const uint64_t begin = kv_metrics_begin(device->metrics, KV_METRIC_IO);
    const int result = device->ops->submit(device, ios, io_count, flush);
    if (begin)
        kv_metrics_end(device->metrics, submission_kind(ios, flush), begin);
    return result;
}

struct kv_device_flight *kv_device_begin(struct kv_device *device, struct kv_io *ios,
                                         size_t io_count)
{
    if (!device->ops->begin || !io_count || check_ranges(device, ios, io_count))
        return NULL;
    const uint64_t begin_ns = kv_metrics_begin(device->metrics, KV_METRIC_IO);
    struct kv_device_flight *const flight = device->ops->begin(device, ios, io_count);
    if (!flight)
        return NULL;
    count_ios(&device->counts, ios, io_count);
    flight->histogram = submission_kind(ios, false);
    flight->begin_ns = begin_ns;
    return flight;
}

int kv_device_end(struct kv_device *device, struct kv_device_flight *flight)
{
    const struct kv_device_flight begun = *flight;
    const int result = device->ops->end(device, flight);
    kv_metrics_end(device->metrics, begun.histogram, begun.begin_ns);
    return result;
}

int kv_device_describe_read(struct kv_device *device, const struct kv_io *io, int *descriptor)
{
    KV_ASSERT(io->kind == KV_IO_READ);
    KV_ASSERT((uintptr_t)io->buf % KV_BLOCK_BYTES == 0);
    KV_ASSERT(device->ops->descriptor);
    if (!in_range(device, io->block, io->block_count))
        return -EINVAL;
    count_ios(&device->counts, io, 1);
    *descriptor = device->ops->descriptor(device);
    return 0;
}

int kv_device_read(struct kv_device *device, uint64_t block, uint32_t block_count, void *buf)
{
    struct kv_io io = {.kind = KV_IO_READ, .block = block, .block_count = block_count, .buf = buf};
    return kv_device_submit(device, &io, 1, false);
}

int kv_device_write(struct kv_device *device, uint64_t block, uint32_t block_count, const void *buf)
{
    /* A write only reads the buffer; kv_io serves both directions. */
    struct kv_io io = {
        .kind = KV_IO_WRITE, .block = block, .block_count = block_count, .buf = (void *)buf};
    return kv_device_submit(device, &io, 1, false);
}

int kv_device_flush(struct kv_device *device)
{
    return kv_device_submit(device, NULL, 0, true);
}

int kv_device_discard(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    if (!in_range(device, block, block_count))
        return -EINVAL;
    return device->ops->discard(device, block, block_count);
}

int kv_device_reserve(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    if (!in_range(device, block, block_count))
        return -EINVAL;
    return device->thin && device->ops->reserve ? device->ops->reserve(device, block, block_count)
                                                : 0;
}

uint64_t kv_device_room(struct kv_device *device)
{
    uint64_t block_count;
    /* A host that does not know sets no limit either. */
    if (!device->thin || !device->ops->room || device->ops->room(device, &block_count))
        return UINT64_MAX;
    return block_count;
}

bool kv_device_is_written(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    return !in_range(device, block, 1) || block_count > device->block_count - block ||
           !device->ops->is_written || device->ops->is_written(device, block, block_count);
}

/* How much is written at once where zeroes must be written: a flush may have to wait for it. */
#define ZERO_BLOCKS 64u

int kv_device_zero(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    if (!in_range(device, block, block_count))
        return -EINVAL;
    const int err = device->ops->zero ? device->ops->zero(device, block, block_count) : -EOPNOTSUPP;
    return err == -EOPNOTSUPP || err == -ENOSYS ? kv_device_write_zeroes(device, block, block_count)
                                                : err;
}

int kv_device_write_zeroes(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    /* All of it is the kernel's one page of zeroes: no memory is filled to be written. */
    const size_t bytes = (size_t)kv_min_u64(block_count, ZERO_BLOCKS) * KV_BLOCK_BYTES;
    if (!bytes)
        return 0;
    void *const zeroes = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeroes == MAP_FAILED)
        return -ENOMEM;
    int err = 0;
    while (block_count && !err) {
        const uint32_t now = (uint32_t)kv_min_u64(block_count, ZERO_BLOCKS);
        err = kv_device_write(device, block, now, zeroes);
        block += now;
        block_count -= now;
    }
    (void)munmap(zeroes, bytes); /* it was just mapped */
    return err;
}

void *kv_device_alloc_unset(size_t bytes)
{
    if (bytes > SIZE_MAX - KV_BLOCK_BYTES)
        return NULL;
    const size_t size = (size_t)kv_blocks_for(bytes) * KV_BLOCK_BYTES;
    void *memory;
    return posix_memalign(&memory, KV_BLOCK_BYTES, size ? size : KV_BLOCK_BYTES) ? NULL : memory;
}

void *kv_device_alloc(size_t bytes)
{
    void *memory = kv_device_alloc_unset(bytes);
    if (memory)
        memset(memory, 0, (size_t)kv_blocks_for(bytes) * KV_BLOCK_BYTES);
    return memory;
}
