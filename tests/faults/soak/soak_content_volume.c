/*
 * tests/faults/soak/soak_content_volume.c: the content of files through fs/volume.h, without a
 * kernel: many operations in little time.
 *
 *   KVFS_SEED        where the random numbers start (printed)
 *   KVFS_SOAK_OPS    how many operations (150000)
 *   KVFS_SOAK_CYCLE  how many from one reopening, with a whole check, to the next (3000)
 *   KVFS_SOAK_LOG    a file that gets every operation
 */
#include "content.h"
#include "soak.h"
#include "volume_image.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct files {
    struct volume_image image;
    uint64_t ino[CONTENT_FILES];
};

static int read_file(void *context, unsigned file, uint64_t offset, void *buf, size_t length,
                     size_t *got)
{
    struct files *files = context;
    return fs_read(files->image.volume, files->ino[file], offset, buf, length, got);
}

static int write_file(void *context, unsigned file, uint64_t offset, const void *buf, size_t length)
{
    struct files *files = context;
    return fs_write(files->image.volume, files->ino[file], offset, buf, length, false);
}

static int truncate_file(void *context, unsigned file, uint64_t size)
{
    struct files *files = context;
    const struct fs_attr_change change = {.valid = FS_ATTR_SIZE, .size = size};
    struct fs_record record;
    return fs_setattr(files->image.volume, files->ino[file], &change, &record);
}

static int fallocate_file(void *context, unsigned file, int mode, uint64_t offset, uint64_t length)
{
    struct files *files = context;
    return fs_fallocate(files->image.volume, files->ino[file], mode, offset, length);
}

static int copy_file(void *context, unsigned from, uint64_t from_offset, unsigned to,
                     uint64_t to_offset, uint64_t length, uint64_t *copied)
{
    struct files *files = context;
    int err = 0;
    *copied = 0;
    for (uint64_t step = 1; !err && step && *copied < length; *copied += step)
        err = fs_copy_range(files->image.volume, files->ino[from], from_offset + *copied,
                            files->ino[to], to_offset + *copied, length - *copied, &step);
    return *copied ? 0 : err;
}

static int seek_file(void *context, unsigned file, uint64_t offset, int whence, uint64_t *found)
{
    struct files *files = context;
    return fs_seek(files->image.volume, files->ino[file], offset, whence, found);
}

static int size_file(void *context, unsigned file, uint64_t *size)
{
    struct files *files = context;
    struct fs_record record;
    const int err = fs_getattr(files->image.volume, files->ino[file], &record);
    *size = err ? 0 : record.file.size;
    return err;
}

static int sync_file(void *context, unsigned file)
{
    struct files *files = context;
    (void)file; /* the store syncs all */
    return fs_sync(files->image.volume);
}

static void find_files(struct files *files)
{
    for (unsigned file = 0; file < CONTENT_FILES; file++) {
        const char name[2] = {(char)('a' + file), '\0'};
        struct fs_record record;
        const int err = fs_lookup(files->image.volume, FS_ROOT_INO, name, 1, &record);
        if (err)
            soak_fail("lookup of %s: %s", name, strerror(-err));
        files->ino[file] = record.file.ino;
    }
}

static void reopen(void *context, bool synced)
{
    struct files *files = context;
    volume_image_reopen(&files->image, synced ? VOLUME_CRASH : VOLUME_CLOSE);
    find_files(files);
}

int main(void)
{
    struct files files;
    soak_begin("soak_content_volume");
    volume_image_make(&files.image, 96u << 20);
    for (unsigned file = 0; file < CONTENT_FILES; file++) {
        const char name[2] = {(char)('a' + file), '\0'};
        const struct fs_new_node node = {.mode = S_IFREG | 0644};
        const struct fs_caller caller = {0};
        struct fs_record record;
        const int err =
            fs_create(files.image.volume, &caller, FS_ROOT_INO, name, 1, &node, &record);
        if (err)
            soak_fail("create: %s", strerror(-err));
        files.ino[file] = record.file.ino;
    }
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
        .reopen = reopen,
        .can_move = true,
    };
    content_run(&backend, soak_env("KVFS_SOAK_OPS", 150000), soak_env("KVFS_SOAK_CYCLE", 3000));
    volume_image_remove(&files.image);
    printf("soak_content_volume: %llu operations, %llu reopenings, no difference\n",
           (unsigned long long)soak_count(), (unsigned long long)files.image.reopened);
    return 0;
}
