/*
 * tests/faults/soak/soak_content_mount.c: the content of files through the kernel: by read and
 * write, by mapped memory, by O_DIRECT and by copy_file_range, one after the other on the same
 * files, with what the kernel caches dropped now and then.
 *
 *   KVFS_SEED            where the random numbers start (printed)
 *   KVFS_SOAK_OPS        how many operations (6000)
 *   KVFS_SOAK_CYCLE      how many from one mount to the next (1000)
 *   KVFS_SOAK_WRITEBACK  1: the kernel gathers writes (0)
 *   KVFS_SOAK_SYNC       0 fsync, 1 always, 2 checkpoint: enum kv_sync_mode (0)
 *   KVFS_SOAK_LOG        a file that gets every operation
 */
#include "content.h"
#include "soak.h"
#include "support_mount.h"
#include "volume_image.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct files {
    struct test_mount mount;
    int fd[CONTENT_FILES], direct[CONTENT_FILES];
    uint64_t mounted;
};

static const char *path_of(const struct files *files, unsigned file)
{
    return test_path(&files->mount, "%c", (int)('a' + file));
}

static void open_file(struct files *files, unsigned file)
{
    files->fd[file] = open(path_of(files, file), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    SOAK_MUST(files->fd[file] >= 0);
    files->direct[file] = open(path_of(files, file), O_RDWR | O_DIRECT | O_CLOEXEC);
    SOAK_MUST(files->direct[file] >= 0);
}

static void close_file(struct files *files, unsigned file)
{
    SOAK_MUST(close(files->fd[file]) == 0);
    SOAK_MUST(close(files->direct[file]) == 0);
}

static int read_fd(int fd, uint64_t offset, void *buf, size_t length, size_t *got)
{
    ssize_t step = 1;
    for (*got = 0; *got < length && step > 0; *got += (size_t)step) {
        step = pread(fd, (char *)buf + *got, length - *got, (off_t)(offset + *got));
        if (step < 0)
            return -errno;
    }
    return 0;
}

static int write_fd(int fd, uint64_t offset, const void *buf, size_t length)
{
    size_t done = 0;
    while (done < length) {
        const ssize_t step =
            pwrite(fd, (const char *)buf + done, length - done, (off_t)(offset + done));
        if (step <= 0)
            return step ? -errno : -EIO;
        done += (size_t)step;
    }
    return 0;
}

static int read_file(void *context, unsigned file, uint64_t offset, void *buf, size_t length,
                     size_t *got)
{
    const struct files *files = context;
    return read_fd(files->fd[file], offset, buf, length, got);
}

static int write_file(void *context, unsigned file, uint64_t offset, const void *buf, size_t length)
{
    const struct files *files = context;
    return write_fd(files->fd[file], offset, buf, length);
}

static int direct_read(void *context, unsigned file, uint64_t offset, void *buf, size_t length,
                       size_t *got)
{
    const struct files *files = context;
    return read_fd(files->direct[file], offset, buf, length, got);
}

static int direct_write(void *context, unsigned file, uint64_t offset, const void *buf,
                        size_t length)
{
    const struct files *files = context;
    return write_fd(files->direct[file], offset, buf, length);
}

static int truncate_file(void *context, unsigned file, uint64_t size)
{
    const struct files *files = context;
    const int status = soak_chance(2) ? ftruncate(files->fd[file], (off_t)size)
                                      : truncate(path_of(files, file), (off_t)size);
    return status ? -errno : 0;
}

static int fallocate_file(void *context, unsigned file, int mode, uint64_t offset, uint64_t length)
{
    const struct files *files = context;
    return fallocate(files->fd[file], mode, (off_t)offset, (off_t)length) ? -errno : 0;
}

static int copy_file(void *context, unsigned from, uint64_t from_offset, unsigned to,
                     uint64_t to_offset, uint64_t length, uint64_t *copied)
{
    const struct files *files = context;
    off_t in = (off_t)from_offset, out = (off_t)to_offset;
    ssize_t step = 1;
    for (*copied = 0; *copied < length && step > 0; *copied += (uint64_t)step) {
        step = copy_file_range(files->fd[from], &in, files->fd[to], &out, length - *copied, 0);
        if (step < 0)
            return -errno;
    }
    return 0;
}

static int seek_file(void *context, unsigned file, uint64_t offset, int whence, uint64_t *found)
{
    const struct files *files = context;
    const off_t at = lseek(files->fd[file], (off_t)offset, whence);
    *found = at < 0 ? 0 : (uint64_t)at;
    return at < 0 ? -errno : 0;
}

static int size_file(void *context, unsigned file, uint64_t *size)
{
    struct stat stat_buf;
    const struct files *files = context;
    if (fstat(files->fd[file], &stat_buf))
        return -errno;
    *size = (uint64_t)stat_buf.st_size;
    return 0;
}

static int sync_file(void *context, unsigned file)
{
    const struct files *files = context;
    return (soak_chance(2) ? fsync(files->fd[file]) : fdatasync(files->fd[file])) ? -errno : 0;
}

struct window {
    uint8_t *base;
    size_t length, skip;
};

static int map_window(int fd, uint64_t offset, size_t length, int protection, struct window *window)
{
    const uint64_t start = offset / 4096 * 4096;
    window->skip = (size_t)(offset - start);
    window->length = window->skip + length;
    window->base = mmap(NULL, window->length, protection, MAP_SHARED, fd, (off_t)start);
    return window->base == MAP_FAILED ? -errno : 0;
}

static int map_read(void *context, unsigned file, uint64_t offset, void *buf, size_t length)
{
    const struct files *files = context;
    struct window window;
    const int err = map_window(files->fd[file], offset, length, PROT_READ, &window);
    if (err)
        return err;
    memcpy(buf, window.base + window.skip, length);
    return munmap(window.base, window.length) ? -errno : 0;
}

static int map_write(void *context, unsigned file, uint64_t offset, const void *buf, size_t length)
{
    const struct files *files = context;
    struct window window;
    const int err = map_window(files->fd[file], offset, length, PROT_READ | PROT_WRITE, &window);
    if (err)
        return err;
    memcpy(window.base + window.skip, buf, length);
    /* The kernel asks for holes without writing out what it holds: so it writes now. */
    if (msync(window.base, window.length, MS_SYNC))
        return -errno;
    return munmap(window.base, window.length) ? -errno : 0;
}

static void drop(void *context, unsigned file)
{
    struct files *files = context;
    (void)posix_fadvise(files->fd[file], 0, 0, POSIX_FADV_DONTNEED); /* a wish */
    close_file(files, file);
    open_file(files, file);
}

static void reopen(void *context, bool synced)
{
    struct files *files = context;
    for (unsigned file = 0; file < CONTENT_FILES; file++)
        close_file(files, file);
    if (synced)
        test_mount_kill(&files->mount);
    else if (test_mount_unmount(&files->mount) != 0)
        soak_fail("the daemon did not end well");
    volume_image_check(files->mount.image);
    test_mount_start(&files->mount);
    for (unsigned file = 0; file < CONTENT_FILES; file++)
        open_file(files, file);
    files->mounted++;
}

static void clean_up(void *context)
{
    struct files *files = context;
    for (unsigned file = 0; file < CONTENT_FILES; file++) {
        close(files->fd[file]);
        close(files->direct[file]);
    }
    if (files->mount.daemon)
        test_mount_kill(&files->mount);
    test_mount_end(&files->mount);
}

int main(void)
{
    if (!test_mount_possible())
        return 77;
    struct files files = {.mounted = 1};
    soak_begin("soak_content_mount");
    const bool writeback = soak_env("KVFS_SOAK_WRITEBACK", 0) != 0;
    const struct fs_mount_options options = {
        .writeback = writeback,
        .sync = (enum kv_sync_mode)soak_env("KVFS_SOAK_SYNC", KV_SYNC_FSYNC),
        .memory_budget_bytes = 8u << 20,
        .threads = 4};
    test_mount_begin(&files.mount, &options, 128);
    for (unsigned file = 0; file < CONTENT_FILES; file++)
        open_file(&files, file);
    soak_at_failure(clean_up, &files);
    const struct content_backend backend = {
        .context = &files,
        .read = read_file,
        .write = write_file,
        .truncate = truncate_file,
        .fallocate = fallocate_file,
        .copy = copy_file,
        .seek = seek_file,
        .size = size_file,
        .sync = sync_file,
        .map_read = map_read,
        .map_write = map_write,
        .direct_read = direct_read,
        .direct_write = direct_write,
        .drop = drop,
        .reopen = reopen,
        .all_data = writeback,
    };
    content_run(&backend, soak_env("KVFS_SOAK_OPS", 6000), soak_env("KVFS_SOAK_CYCLE", 1000));
    for (unsigned file = 0; file < CONTENT_FILES; file++)
        close_file(&files, file);
    test_mount_end(&files.mount);
    printf("soak_content_mount: %llu operations, %llu mounts, no difference\n",
           (unsigned long long)soak_count(), (unsigned long long)files.mounted);
    return 0;
}
