/*
 * kv/device_file.c: the image as a file or block device: opening it, its size, its holes.
 *
 * Owns       the descriptor, and the ownership of the image (kv/owner.h).
 * Invariant  what is open is what was locked: whatever else comes to stand at the path.
 * Locks      none; transfers and flushes are in device_ring.c.
 */
#include "kv/device_file.h"
#include "kv/error.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int discard_file(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct file_device *file = (struct file_device *)device;
    if (file->read_only)
        return -EROFS;

    const uint64_t offset = block * KV_BLOCK_BYTES;
    const uint64_t length = block_count * KV_BLOCK_BYTES;
    if (file->is_block_device) {
        uint64_t range[2] = {offset, length};
        return ioctl(file->fd, BLKDISCARD, range) ? -errno : 0;
    }
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return fallocate(file->fd, mode, (off_t)offset, (off_t)length) ? -errno : 0;
}

/* The host's words for "no room", whoever set the limit. */
static bool is_no_room(int err)
{
    return err == -ENOSPC || err == -EDQUOT || err == -EFBIG;
}

static int allocate_file(struct file_device *file, int mode, uint64_t block, uint64_t block_count)
{
    const off_t offset = (off_t)(block * KV_BLOCK_BYTES);
    const off_t length = (off_t)(block_count * KV_BLOCK_BYTES);
    int err;
    do
        err = fallocate(file->fd, mode, offset, length) ? -errno : 0;
    while (err == -EINTR);
    return is_no_room(err) ? -ENOSPC : err;
}

static int reserve_file(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct file_device *file = (struct file_device *)device;
    if (file->read_only)
        return -EROFS;
    const int err = allocate_file(file, FALLOC_FL_KEEP_SIZE, block, block_count);
    return err == -EOPNOTSUPP || err == -ENOSYS ? 0 : err;
}

static int room_of_file(struct kv_device *device, uint64_t *block_count)
{
    struct file_device *file = (struct file_device *)device;
    struct statvfs host;
    if (fstatvfs(file->fd, &host))
        return -errno;
    *block_count = (uint64_t)host.f_bavail * host.f_frsize / KV_BLOCK_BYTES;
    return 0;
}

static int zero_file(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct file_device *file = (struct file_device *)device;
    if (file->read_only)
        return -EROFS;
    /* Discarding on a disk promises nothing about what is read then; what has room keeps it. */
    if (!file->base.thin)
        return -EOPNOTSUPP;
    return allocate_file(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, block, block_count);
}

/* What was only allocated is a hole to the host, too; one that knows no holes has none. */
static bool file_is_written(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    const struct file_device *file = (const struct file_device *)device;
    if (file->is_block_device)
        return true;
    const off_t hole = lseek(file->fd, (off_t)(block * KV_BLOCK_BYTES), SEEK_HOLE);
    return hole < 0 || (uint64_t)hole >= (block + block_count) * KV_BLOCK_BYTES;
}

static void close_file(struct kv_device *device)
{
    struct file_device *file = (struct file_device *)device;
    kv_device_free_rings(file);
    pthread_cond_destroy(&file->ring_idle);
    pthread_mutex_destroy(&file->mutex);
    kv_owner_end(file->owner);
    pthread_mutex_destroy(&file->flush_mutex);
    if (file->fd >= 0)
        close(file->fd); /* all that must last was flushed; the lock goes with it */
    free(file);
}

static int descriptor_of_file(struct kv_device *device)
{
    return ((struct file_device *)device)->fd;
}

static const struct kv_device_ops file_ops = {
    .submit = kv_device_submit_file,
    .begin = kv_device_begin_file,
    .end = kv_device_end_file,
    .discard = discard_file,
    .close = close_file,
    .reserve = reserve_file,
    .room = room_of_file,
    .zero = zero_file,
    .is_written = file_is_written,
    .descriptor = descriptor_of_file,
};

/* ---- opening ------------------------------------------------------------ */

static void say_open_failed(const char *path, bool read_only, int err, struct kv_error *error)
{
    const char *remedy = "check the path";
    if (err == -ENOENT)
        remedy = "check the path, or make an image with mkfs.kvfs";
    else if (err == -EACCES || err == -EPERM)
        remedy = "check its permissions, or run as a user who may use it";
    else if (err == -EROFS)
        remedy = read_only ? "check the path" : "open it read-only";
    kv_error_set(error, "can not open %s: %s; %s", path, strerror(-err), remedy);
}

/* Open the path, with O_DIRECT when `direct`. Sets file->fd. */
static int open_descriptor(struct file_device *file, const char *path, unsigned flags, bool direct,
                           struct kv_error *error)
{
    const int open_flags =
        (flags & KV_DEVICE_READ_ONLY ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0);
    if (file->owner)
        return kv_owner_open(file->owner, path, open_flags, &file->fd, error);
    file->fd = open(path, open_flags | O_CLOEXEC);
    return file->fd < 0 ? -errno : 0;
}

/* Some file systems accept O_DIRECT and then refuse to read, or want more than 4 KiB. */
static int probe_direct_read(int fd)
{
    void *block = kv_device_alloc(KV_BLOCK_BYTES);
    if (!block)
        return -ENOMEM;
    const int err = pread(fd, block, KV_BLOCK_BYTES, 0) < 0 ? -errno : 0;
    free(block);
    return err;
}

static int open_direct_or_buffered(struct file_device *file, const char *path, unsigned flags,
                                   struct kv_error *error)
{
    bool direct = !(flags & KV_DEVICE_BUFFERED);
    int err = open_descriptor(file, path, flags, direct, error);
    if (err == -EINVAL && direct) {
        direct = false;
        err = open_descriptor(file, path, flags, false, error);
    }
    if (err)
        return err;

    /* What else the probe says, reading will say again where it matters. */
    if (direct && probe_direct_read(file->fd) == -EINVAL) {
        const int status = fcntl(file->fd, F_GETFL);
        if (status < 0 || fcntl(file->fd, F_SETFL, status & ~O_DIRECT) < 0)
            return -errno;
        direct = false;
    }
    file->base.direct_io = direct;
    return 0;
}

static int measure(struct file_device *file, const char *path, const struct stat *image,
                   struct kv_error *error)
{
    uint64_t size_bytes = (uint64_t)image->st_size;
    if (file->is_block_device && ioctl(file->fd, BLKGETSIZE64, &size_bytes)) {
        const int err = -errno;
        kv_error_set(error, "can not learn the size of %s: %s; is it a whole disk or partition?",
                     path, strerror(-err));
        return err;
    }
    file->base.block_count = size_bytes / KV_BLOCK_BYTES;
    /* One that has room for every byte can not run out of it. */
    file->base.thin = !file->is_block_device && !file->read_only &&
                      (uint64_t)image->st_blocks * SECTOR_BYTES < size_bytes;
    return 0;
}

/* How the open image is. */
static int look_at(const struct file_device *file, const char *path, struct stat *image,
                   struct kv_error *error)
{
    const int err = fstat(file->fd, image) ? -errno : 0;
    if (err)
        say_open_failed(path, file->read_only, err, error);
    return err;
}

/* Open what is at the path now, lock it, and see how it is then. -ESTALE: something else is
 * there by then. */
static int open_and_lock(struct file_device *file, const char *path, unsigned flags,
                         struct stat *image, struct kv_error *error)
{
    struct stat before;
    if (stat(path, &before)) {
        const int err = -errno;
        say_open_failed(path, file->read_only, err, error);
        return err;
    }
    if (!S_ISREG(before.st_mode) && !S_ISBLK(before.st_mode)) {
        kv_error_set(error, "%s is neither a file nor a block device; name an image", path);
        return -EINVAL;
    }
    file->is_block_device = S_ISBLK(before.st_mode);
    int err = flags & KV_DEVICE_NO_LOCK ? 0 : kv_owner_begin(path, &file->owner, error);
    if (err && err != -EBUSY && err != -ENXIO && err != -ENOMEM)
        say_open_failed(path, file->read_only, err, error);
    if (err)
        return err;
    err = open_direct_or_buffered(file, path, flags, error);
    if (err) {
        if (err != -EBUSY)
            say_open_failed(path, file->read_only, err, error);
        return err;
    }
    err = look_at(file, path, image, error);
    if (err)
        return err;
    if (image->st_dev != before.st_dev || image->st_ino != before.st_ino)
        return -ESTALE;
    if (!file->owner)
        return 0;
    err = kv_owner_lock(file->owner, path, file->fd, error);
    if (err && err != -EBUSY && err != -ESTALE)
        kv_error_set(error, "can not lock %s: %s; use a file system with flock", path,
                     strerror(-err));
    if (err)
        return err;
    /* Once more: the owner before, while we waited for the lock, may have given it its size. */
    return look_at(file, path, image, error);
}

static void let_go(struct file_device *file)
{
    kv_owner_end(file->owner);
    file->owner = NULL;
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

int kv_device_open(const char *path, unsigned flags, struct kv_device **device,
                   struct kv_error *error)
{
    enum { TRIES = 16 };
    struct file_device *file = calloc(1, sizeof *file);
    if (!file) {
        kv_error_set(error, "no memory to open %s", path);
        return -ENOMEM;
    }
    file->base.ops = &file_ops;
    file->fd = -1;
    file->read_only = flags & KV_DEVICE_READ_ONLY;
    pthread_mutex_init(&file->flush_mutex, NULL);
    pthread_mutex_init(&file->mutex, NULL);
    pthread_cond_init(&file->ring_idle, NULL);

    struct stat image = {0};
    int err = -ESTALE;
    for (unsigned i = 0; i < TRIES && err == -ESTALE; i++) {
        let_go(file);
        err = open_and_lock(file, path, flags, &image, error);
    }
    if (err == -ESTALE) {
        kv_error_set(error, "%s was replaced again and again while it was opened; try again", path);
        err = -EAGAIN;
    }
    if (!err)
        err = measure(file, path, &image, error);
    if (!err)
        err = kv_device_make_first_ring(file, error);
    if (err) {
        close_file(&file->base);
        return err;
    }
    *device = &file->base;
    return 0;
}

int kv_device_resize(struct kv_device *device, uint64_t bytes)
{
    if (device->ops != &file_ops)
        return -EINVAL;
    struct file_device *file = (struct file_device *)device;
    if (file->is_block_device || bytes > INT64_MAX)
        return -EINVAL;
    if (ftruncate(file->fd, (off_t)bytes))
        return -errno;
    device->block_count = bytes / KV_BLOCK_BYTES;
    device->thin = true; /* what was added is a hole */
    return 0;
}
