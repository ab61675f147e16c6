/*
 * tools/outlet.c: a file that gets its name when it is whole and durable.
 *
 * Invariant  what is not whole has a name in the same directory that nobody can have foreseen, and
 *            that nothing stood under: no symlink is followed, nobody else's file written into.
 */
#include "tools/outlet.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define BASE_MAX 200 /* bytes of the final name that the other one shows */
#define ATTEMPTS 100

/* The length of the directory in a path, with its slash; 0: there is none in it. */
static int directory_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (int)(slash - path) + 1 : 0;
}

static int open_temporary(struct tool_outlet *outlet)
{
    const int length = directory_length(outlet->path);
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        uint64_t number;
        if (getrandom(&number, sizeof number, 0) != sizeof number)
            return -EAGAIN;
        if (asprintf(&outlet->temporary, "%.*s%.*s.part-%016" PRIx64, length, outlet->path,
                     BASE_MAX, outlet->path + length, number) < 0) {
            outlet->temporary = NULL;
            return -ENOMEM;
        }
        outlet->fd = open(outlet->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (outlet->fd >= 0)
            return 0;
        const int err = -errno;
        free(outlet->temporary);
        outlet->temporary = NULL;
        if (err != -EEXIST)
            return err;
    }
    return -EEXIST;
}

int tool_outlet_open(struct tool_outlet *outlet, const char *path)
{
    struct stat status;
    *outlet = (struct tool_outlet){.fd = STDOUT_FILENO};
    if (strcmp(path, "-") == 0)
        return 0;
    outlet->path = realpath(path, NULL); /* a symlink stays; what it names is replaced */
    if (!outlet->path && errno == ENOENT)
        outlet->path = strdup(path);
    int err = outlet->path ? 0 : -errno;
    if (!err && (stat(path, &status) || S_ISREG(status.st_mode))) {
        err = open_temporary(outlet);
    } else if (!err) {
        outlet->fd = open(path, O_WRONLY | O_CLOEXEC);
        err = outlet->fd < 0 ? -errno : 0;
    }
    if (err) {
        free(outlet->path);
        outlet->path = NULL;
    }
    return err;
}

FILE *tool_outlet_stream(struct tool_outlet *outlet)
{
    if (!outlet->stream)
        outlet->stream = outlet->path ? fdopen(outlet->fd, "w") : stdout;
    return outlet->stream;
}

/* Of what can not be made durable it is not wanted. */
static int sync_file(int fd)
{
    return fsync(fd) && errno != EINVAL && errno != EROFS ? -errno : 0;
}

/* Make the new name durable. */
static int sync_name(const struct tool_outlet *outlet)
{
    const int length = directory_length(outlet->path);
    char *directory = length ? strndup(outlet->path, (size_t)length) : strdup(".");
    if (!directory)
        return -ENOMEM;
    const int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(directory);
    if (fd < 0) /* it may be written and not read: then with all else that its file system has */
        return syncfs(outlet->fd) ? -errno : 0;
    const int err = sync_file(fd);
    close(fd);
    return err;
}

int tool_outlet_close(struct tool_outlet *outlet, int err)
{
    if (!err && outlet->stream && fflush(outlet->stream))
        err = -errno;
    if (!outlet->path)
        return err;
    if (!err)
        err = sync_file(outlet->fd);
    if (outlet->temporary && (err || rename(outlet->temporary, outlet->path))) {
        err = err ? err : -errno;
        (void)unlink(outlet->temporary); /* the first error is the one to tell */
    } else if (outlet->temporary) {
        err = sync_name(outlet);
    }
    const int failed = outlet->stream ? fclose(outlet->stream) : close(outlet->fd);
    if (!err && failed)
        err = -errno;
    free(outlet->temporary);
    free(outlet->path);
    return err;
}
