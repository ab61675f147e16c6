/*
 * kv/loopdev.c: what lies under a loop device, and which loop devices lie over a file.
 *
 * Owns       nothing.
 * Invariant  a path from sysfs is only believed when the file there has the device and inode
 *            number that the loop device itself gives: the path may be of another mount
 *            namespace or of a file that was replaced.
 */
#include "kv/loopdev.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SECTOR_BYTES 512u

/* The first line of a file of sysfs, without its newline. */
static int read_line(const char *path, char *line, size_t capacity)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    const bool readable = fgets(line, (int)capacity, file) != NULL;
    (void)fclose(file); /* was only read */
    if (!readable)
        return -ENODATA;
    line[strcspn(line, "\n")] = '\0';
    return 0;
}

/* Where a partition begins on its disk; 0 of a whole disk. */
static uint64_t partition_start(dev_t device, bool *is_partition)
{
    char path[96], text[32];
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/start", major(device), minor(device));
    *is_partition = read_line(path, text, sizeof text) == 0;
    return *is_partition ? strtoull(text, NULL, 10) * SECTOR_BYTES : 0;
}

static int open_below(const char *path)
{
    const int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 ? fd : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

int kv_loop_below(int device_fd, struct kv_loop *loop, int *fd)
{
    struct stat device, file;
    struct loop_info64 info;
    bool is_partition;
    char path[96];
    *fd = -1;
    if (fstat(device_fd, &device))
        return -errno;
    if (!S_ISBLK(device.st_mode))
        return -ENODEV;
    if (ioctl(device_fd, LOOP_GET_STATUS64, &info))
        /* A loop device over nothing says ENXIO; what is none does not know the question. */
        return major(device.st_rdev) == LOOP_MAJOR && errno != ENXIO ? -errno : -ENODEV;

    const uint64_t start = partition_start(device.st_rdev, &is_partition);
    if (kv_add_u64(info.lo_offset, start, &loop->offset_bytes))
        return -EOVERFLOW;
    if (ioctl(device_fd, BLKGETSIZE64, &loop->length_bytes))
        return -errno;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%sloop/backing_file", major(device.st_rdev),
             minor(device.st_rdev), is_partition ? "../" : "");
    if (read_line(path, loop->path, sizeof loop->path)) {
        snprintf(loop->path, sizeof loop->path, "%.*s", LO_NAME_SIZE, (char *)info.lo_file_name);
        return -ENXIO;
    }
    *fd = open_below(loop->path);
    if (*fd >= 0 && !fstat(*fd, &file) && file.st_dev == info.lo_device &&
        file.st_ino == info.lo_inode)
        return 0;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return -ENXIO;
}

int kv_loop_each_over(const struct stat *file, kv_loop_visit_fn *visit, void *context)
{
    DIR *devices = opendir("/sys/block");
    if (!devices)
        return 0; /* no sysfs, nothing to see */

    int result = 0;
    const struct dirent *dirent;
    while (!result && (dirent = readdir(devices))) {
        char path[NAME_MAX + 64], backing[PATH_MAX], number[32];
        struct stat below;
        unsigned major_number, minor_number;
        if (strncmp(dirent->d_name, "loop", 4) != 0)
            continue;
        snprintf(path, sizeof path, "/sys/block/%s/loop/backing_file", dirent->d_name);
        if (read_line(path, backing, sizeof backing) || stat(backing, &below) ||
            below.st_dev != file->st_dev || below.st_ino != file->st_ino)
            continue;
        snprintf(path, sizeof path, "/sys/block/%s/dev", dirent->d_name);
        if (read_line(path, number, sizeof number) ||
            sscanf(number, "%u:%u", &major_number, &minor_number) != 2)
            continue;
        snprintf(path, sizeof path, "/dev/%s", dirent->d_name);
        result = visit(context, path, makedev(major_number, minor_number));
    }
    closedir(devices);
    return result;
}
