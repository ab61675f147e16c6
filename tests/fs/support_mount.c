/*
 * tests/fs/support_mount.c: make, mount, unmount, kill, remove.
 */
#include "support_mount.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "fs/format.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>

/* libfuse frees the name of its mount point only where it unmounts by itself. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:fuse_session_mount";
}
#endif

static void die(const char *what, const char *why)
{
    fprintf(stderr, "test mount: %s: %s\n", what, why);
    abort();
}

bool test_mount_possible(void)
{
    if (geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0)
        return true;
    printf("skipped: mounting needs root and /dev/fuse\n");
    return false;
}

static void make_image(const struct test_mount *mount, unsigned image_mib)
{
    const struct kv_create_options create = {.size_bytes = (uint64_t)image_mib << 20};
    struct kv_error error = {.text = ""};
    struct kv_store *store;
    if (kv_create(mount->image, &create, &error))
        die("create", error.text);
    if (kv_open(mount->image, NULL, &store, &error))
        die("open", error.text);
    if (fs_format(store, geteuid(), getegid(), 0755))
        die("format", mount->image);
    if (kv_close(store))
        die("close", mount->image);
}

void test_mount_begin(struct test_mount *mount, const struct fs_mount_options *options,
                      unsigned image_mib)
{
    memset(mount, 0, sizeof *mount);
    const char *tmp = getenv("TMPDIR");
    snprintf(mount->base, sizeof mount->base, "%s/kvfs-mount-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(mount->base) || chmod(mount->base, 0755))
        die(mount->base, strerror(errno));
    snprintf(mount->image, sizeof mount->image, "%s/image", mount->base);
    snprintf(mount->dir, sizeof mount->dir, "%s/mnt", mount->base);
    if (mkdir(mount->dir, 0755))
        die(mount->dir, strerror(errno));
    if (options)
        mount->options = *options;
    mount->options.image = mount->image;
    mount->options.dir = mount->dir;
    mount->options.allow_other = true;
    const char *transport = getenv("KVFS_TRANSPORT");
    if (transport && strcmp(transport, "dev") == 0)
        mount->options.transport = FS_TRANSPORT_DEVICE;
    make_image(mount, image_mib);
    test_mount_start(mount);
}

/* In the child. Tells the parent through `report` whether the mount stands. */
static int run_daemon(const struct fs_mount_options *options, int report)
{
    struct kv_error error = {.text = ""};
    struct fs_mount *mounted;
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM); /* a failed test leaves no mount behind */
    int err = fs_mount_open(options, &mounted, &error);
    if (err)
        fprintf(stderr, "test mount: %s\n", error.text);
    if (write(report, &err, sizeof err) != sizeof err || err)
        return 1;
    close(report);
    err = fs_mount_serve(mounted);
    const int close_err = fs_mount_close(mounted);
    return err || close_err ? 1 : 0;
}

void test_mount_start(struct test_mount *mount)
{
    int report[2], err = -EIO;
    if (pipe(report))
        die("pipe", strerror(errno));
    fflush(NULL);
    mount->daemon = fork();
    if (mount->daemon < 0)
        die("fork", strerror(errno));
    if (mount->daemon == 0) {
        close(report[0]);
        const int status = run_daemon(&mount->options, report[1]);
        fflush(NULL);
#if defined(__SANITIZE_ADDRESS__)
        __lsan_do_leak_check(); /* _exit does not */
#endif
        _exit(status);
    }
    close(report[1]);
    if (read(report[0], &err, sizeof err) != sizeof err || err)
        die("mount", strerror(-err));
    close(report[0]);
}

int test_mount_unmount(struct test_mount *mount)
{
    int status;
    for (int tries = 0; umount2(mount->dir, 0) != 0; tries++) {
        if (tries == 100 || errno != EBUSY)
            die("umount", strerror(errno));
        usleep(20 * 1000);
    }
    if (waitpid(mount->daemon, &status, 0) != mount->daemon)
        die("waitpid", strerror(errno));
    mount->daemon = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void test_mount_kill(struct test_mount *mount)
{
    int status;
    kill(mount->daemon, SIGKILL);
    if (waitpid(mount->daemon, &status, 0) != mount->daemon)
        die("waitpid", strerror(errno));
    mount->daemon = 0;
    if (umount2(mount->dir, MNT_DETACH))
        die("umount", strerror(errno));
}

static int remove_one(const char *path, const struct stat *stat_buf, int type, struct FTW *ftw)
{
    (void)stat_buf;
    (void)type;
    (void)ftw;
    return remove(path);
}

void test_mount_end(struct test_mount *mount)
{
    if (mount->daemon && test_mount_unmount(mount) != 0)
        die("daemon", "did not end well");
    if (nftw(mount->base, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT))
        die(mount->base, strerror(errno));
}

const char *test_path(const struct test_mount *mount, const char *format, ...)
{
    static __thread char buffers[4][PATH_MAX];
    static __thread unsigned next;
    char *path = buffers[next++ % 4];
    const int used = snprintf(path, PATH_MAX, "%s/", mount->dir);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(path + used, PATH_MAX - (size_t)used, format, args);
    va_end(args);
    return path;
}

static char *read_stats(const struct test_mount *mount)
{
    char *text = calloc(1, 65536);
    if (!text || getxattr(mount->dir, FS_XATTR_STATS, text, 65535) < 0)
        die(FS_XATTR_STATS, strerror(errno));
    return text;
}

uint64_t test_figure(const struct test_mount *mount, const char *name)
{
    char *text = read_stats(mount);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\"%s\": ", name);
    const char *at = strstr(text, wanted);
    const uint64_t value = at ? strtoull(at + strlen(wanted), NULL, 10) : 0;
    free(text);
    return value;
}

uint64_t test_requests(const struct test_mount *mount, const char *operation)
{
    if (operation)
        return test_figure(mount, operation);
    char *text = read_stats(mount);
    uint64_t total = 0;
    char *end = strchr(text + 1, '}'); /* the end of "requests" */
    for (char *at = strchr(text + 1, '{'); at && at < end; at = strchr(at + 1, ':')) {
        if (*at == ':')
            total += strtoull(at + 1, NULL, 10);
    }
    free(text);
    return total;
}

int test_as_user(unsigned uid, unsigned gid, int (*function)(void *), void *context)
{
    fflush(NULL);
    const pid_t child = fork();
    if (child < 0)
        die("fork", strerror(errno));
    if (child == 0) {
        if (setgroups(0, NULL) || setgid(gid) || setuid(uid))
            _exit(125);
        _exit(function(context));
    }
    int status;
    if (waitpid(child, &status, 0) != child)
        die("waitpid", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

uint64_t test_seed(void)
{
    const char *given = getenv("KVFS_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t seed =
        given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec;
    printf("KVFS_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

uint64_t test_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t test_below(uint64_t *state, uint64_t limit)
{
    return test_random(state) % limit;
}
