/*
 * kv/owner.c: one process owns an image at a time, whatever way leads to it.
 *
 * Owns       the descriptors of what lies under a loop device, and the thread of the living.
 * Invariant  who owns an image has the lock of the inode at the bottom: paths, links, mount
 *            namespaces and loop devices end at the same one. Locks are taken from the bottom
 *            up, so of those that start together exactly one wins and no loser holds anything.
 * Locks      owner->mutex guards what the thread and its maker tell each other.
 * Lifetime   begin, open, lock, end; the image's descriptor, which the caller closes, comes last.
 *
 * Two locks on each inode of the way.
 *
 *  - flock, exclusive, on the open file that all I/O goes through. It alone decides. The kernel
 *    keeps it until nothing refers to that open file any more: not the process, not a child, not
 *    a request that is still under way when the process is long gone. So whoever gets it never
 *    meets a late write of the owner before. A block device is opened with O_EXCL besides, which
 *    lasts as long and also holds off the kernel's own users.
 *
 *  - a record lock on one byte beyond the end, which says only that the owner is alive. Who is
 *    refused the flock has to know whether to give up at once, or to wait for the last flush of
 *    somebody who was killed, and that may take long on a busy disk. The number of the process
 *    does not tell: in another PID namespace there is none, and a process that is gone may still
 *    have requests under way. Such a lock ends with the table of open files that it was taken
 *    through; the table of a process lives on while one of its threads waits for the disk. So a
 *    thread with a table of its own (close_range(2) with CLOSE_RANGE_UNSHARE) takes it and
 *    sleeps: SIGKILL ends that thread at once, in any namespace, however long the others need.
 *    Its l_pid, where it can be seen, names the owner. It is a hint: where it can not be had (a
 *    network file system may refuse it) an owner elsewhere is told after a minute, not sooner.
 *
 * What was weighed: a pid file or a record in the image needs the number of a process and goes
 * stale; a lease, or signals from F_SETOWN, need the holder to act; an OFD lock on the I/O's
 * descriptor lasts as long as flock does and so says the same.
 */
#include "kv/owner.h"

#include "kv/error.h"
#include "kv/holder.h"
#include "kv/loopdev.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BELOW_MAX   8u /* loop devices that lie one over the other */
#define STACK_BYTES (128u << 10)

struct kv_owner {
    int below[BELOW_MAX];            /* what lies under the image, the bottom first; owned */
    dev_t own_device[BELOW_MAX + 1]; /* the block devices of the way */
    unsigned below_count, own_device_count;
    bool shares_bottom; /* of the bottom it owns a part only */

    int fds[BELOW_MAX + 1]; /* the thread keeps these, in order of their numbers */
    unsigned fd_count;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool is_locked, is_over; /* mutex */
};

/* ---- waiting -------------------------------------------------------------------- */

enum {
    PAUSE_MS = 10,
    ALIVE_MS = 100,   /* a kill may just be on its way */
    UNSEEN_MS = 1000, /* and takes longer to be seen from elsewhere when the machine is busy */
    WAIT_MAX_MS = 60000
};

/* Of one who waits: for so long without a break the holder looked like that. */
struct patience {
    int waited_ms, alive_ms, unseen_ms;
    struct kv_holder holder; /* as last seen */
};

static void pause_a_little(void)
{
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    (void)nanosleep(&pause, NULL); /* shorter is as good */
}

/*
 * Wait a little for whoever holds a file, or give up on it. `unknown`: who that is would not
 * have the lock, so it is none of us.
 */
static bool is_worth_waiting(struct patience *patience, int fd, const struct stat *status,
                             bool unknown)
{
    patience->holder = kv_holder_find(fd, status);
    const enum kv_holder_state state = patience->holder.state;
    const bool alive = state == KV_HOLDER_ALIVE || (state == KV_HOLDER_NONE && unknown);
    patience->alive_ms = alive ? patience->alive_ms + PAUSE_MS : 0;
    patience->unseen_ms = state == KV_HOLDER_UNSEEN ? patience->unseen_ms + PAUSE_MS : 0;
    if (patience->alive_ms >= ALIVE_MS || patience->unseen_ms >= UNSEEN_MS ||
        patience->waited_ms >= WAIT_MAX_MS)
        return false;
    patience->waited_ms += PAUSE_MS;
    pause_a_little();
    return true;
}

/* flock, with patience. kind: LOCK_EX or LOCK_SH. */
static int take_flock(int fd, int kind, const char *path, const struct stat *status,
                      struct kv_error *error)
{
    struct patience patience = {0};
    while (flock(fd, kind | LOCK_NB)) {
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK)
            return -errno;
        if (is_worth_waiting(&patience, fd, status, false))
            continue;
        kv_holder_say(path, &patience.holder, error);
        return -EBUSY;
    }
    return 0;
}

/* Open with O_EXCL what is a block device, with patience. */
static int open_exclusive(const char *path, int flags, int *fd, struct kv_error *error)
{
    struct patience patience = {0};
    struct stat status;
    while ((*fd = open(path, flags | O_EXCL | O_CLOEXEC)) < 0) {
        if (errno != EBUSY)
            return -errno;
        const int look = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (look < 0 || fstat(look, &status)) {
            const int err = -errno;
            if (look >= 0)
                close(look);
            return err;
        }
        /* Where the lock is free, the device is not held by an image's owner. */
        const bool is_free = flock(look, LOCK_SH | LOCK_NB) == 0;
        const bool worth = is_worth_waiting(&patience, look, &status, is_free);
        close(look);
        if (!worth) {
            kv_holder_say(path, &patience.holder, error);
            return -EBUSY;
        }
    }
    return 0;
}

/* ---- what lies under the image ---------------------------------------------------- */

static void note_device(struct kv_owner *owner, const struct stat *status)
{
    if (S_ISBLK(status->st_mode) && owner->own_device_count <= BELOW_MAX)
        owner->own_device[owner->own_device_count++] = status->st_rdev;
}

/* Of what lies under a loop device that shows only a part, lock that part. */
static int lock_part(int fd, const struct kv_loop *loop, const char *path, struct kv_error *error)
{
    struct flock range = {.l_type = F_WRLCK,
                          .l_whence = SEEK_SET,
                          .l_start = (off_t)loop->offset_bytes,
                          .l_len = (off_t)loop->length_bytes};
    if (range.l_start < 0 || range.l_len <= 0 || range.l_start >= KV_LIFE_OFFSET - range.l_len)
        return -EINVAL;
    int result = fcntl(fd, F_OFD_SETLK, &range);
    if (result && errno == EBADF) { /* only open for reading: who else reads does no harm */
        range.l_type = F_RDLCK;
        result = fcntl(fd, F_OFD_SETLK, &range);
    }
    if (!result)
        return 0;
    if (errno != EAGAIN && errno != EACCES)
        return -errno;
    kv_error_set(error, "%s is in use: another loop device shows the same part of it", path);
    return -EBUSY;
}

static int lock_below(struct kv_owner *owner, int *fd, const struct kv_loop *loop,
                      struct kv_error *error)
{
    struct stat status;
    int err = fstat(*fd, &status) ? -errno : 0;
    const bool is_part = loop->offset_bytes != 0;
    if (!err && S_ISBLK(status.st_mode) && !is_part) {
        close(*fd);
        err = open_exclusive(loop->path, O_RDONLY, fd, error);
    }
    if (err)
        return err;
    err = take_flock(*fd, is_part ? LOCK_SH : LOCK_EX, loop->path, &status, error);
    if (!err && is_part)
        err = lock_part(*fd, loop, loop->path, error);
    owner->shares_bottom |= is_part;
    return err;
}

static int say_unreachable(const char *path, const struct kv_loop *loop, struct kv_error *error)
{
    kv_error_set(error,
                 "%s lies over %s, which can not be reached from here, so that nobody can tell "
                 "whether it is in use; make that path lead to it, or name the file itself",
                 path, loop->path);
    return -ENXIO;
}

/*
 * Go down from a device that is open, which is closed, to the bottom, and lock on the way back.
 * Depth is bounded, and each step leads down: a loop device can not lie over itself.
 */
static int lock_all_below(struct kv_owner *owner, const char *path, int device_fd, unsigned depth,
                          struct kv_error *error)
{
    struct kv_loop *loop = malloc(sizeof *loop);
    struct stat status;
    int fd = -1;
    int err = loop ? kv_loop_below(device_fd, loop, &fd) : -ENOMEM;
    if (!fstat(device_fd, &status))
        note_device(owner, &status);
    if (err == -ENODEV) {
        err = 0;
        goto out;
    }
    if (!err && depth == BELOW_MAX)
        err = -ENXIO;
    if (err == -ENXIO)
        err = say_unreachable(path, loop, error);
    if (!err)
        err = lock_all_below(owner, loop->path, fd, depth + 1, error);
    if (!err)
        err = lock_below(owner, &fd, loop, error);
    if (!err) {
        owner->below[owner->below_count++] = fd;
        fd = -1;
    }
out:
    if (fd >= 0)
        close(fd);
    free(loop);
    return err;
}

int kv_owner_begin(const char *path, struct kv_owner **out, struct kv_error *error)
{
    struct kv_owner *owner = calloc(1, sizeof *owner);
    if (!owner) {
        kv_error_set(error, "no memory to open %s", path);
        return -ENOMEM;
    }
    pthread_mutex_init(&owner->mutex, NULL);
    pthread_cond_init(&owner->changed, NULL);
    /* Who may not look below must not go on: it would own what somebody else has the bottom of. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int err = fd < 0 ? -errno : lock_all_below(owner, path, fd, 0, error);
    if (fd >= 0)
        close(fd);
    if (err)
        kv_owner_end(owner);
    else
        *out = owner;
    return err;
}

/* ---- the image itself --------------------------------------------------------------- */

int kv_owner_open(struct kv_owner *owner, const char *path, int flags, int *fd,
                  struct kv_error *error)
{
    struct stat status;
    (void)owner; /* it has what lies below */
    if (stat(path, &status))
        return -errno;
    if (S_ISBLK(status.st_mode))
        return open_exclusive(path, flags, fd, error);
    *fd = open(path, flags | O_CLOEXEC);
    return *fd < 0 ? -errno : 0;
}

struct above {
    const struct kv_owner *owner;
    struct kv_error *error;
};

/* Has somebody else a loop device over the image for himself? kv_loop_visit_fn. */
static int refuse_claimed(void *context, const char *node, dev_t device)
{
    struct above *above = context;
    struct stat status;
    for (unsigned i = 0; i < above->owner->own_device_count; i++)
        if (above->owner->own_device[i] == device)
            return 0;
    if (stat(node, &status) || !S_ISBLK(status.st_mode) || status.st_rdev != device)
        return 0;
    int fd;
    const int err = open_exclusive(node, O_RDONLY, &fd, above->error);
    if (!err)
        close(fd);
    return err == -EBUSY ? err : 0; /* who may not look at it may not tell */
}

/* ---- the lock of the living ------------------------------------------------------------ */

static int close_fds(unsigned first, unsigned last, unsigned flags)
{
    return first > last ? 0 : (int)syscall(SYS_close_range, first, last, flags);
}

/* Leave the table of open files that all other threads share, with nothing but our own. */
static int leave_shared_files(const struct kv_owner *owner)
{
    const unsigned last = (unsigned)owner->fds[owner->fd_count - 1];
    if (close_fds(last + 1, UINT32_MAX, CLOSE_RANGE_UNSHARE))
        return -errno;
    unsigned next = 0;
    for (unsigned i = 0; i < owner->fd_count; i++) {
        (void)close_fds(next, (unsigned)owner->fds[i] - 1, 0); /* can not fail any more */
        next = (unsigned)owner->fds[i] + 1;
    }
    return 0;
}

/* All that this thread does is wait and close: what rights it has nobody needs to find here. */
static void give_up_rights(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[2] = {{0}};
    (void)!syscall(SYS_capset, &header, none); /* one's own can always be given up */
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static void *live(void *context)
{
    struct kv_owner *owner = context;
    give_up_rights();
    const bool is_apart = leave_shared_files(owner) == 0;
    for (unsigned i = 0; i < owner->fd_count && is_apart; i++) {
        struct flock life = {
            .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = KV_LIFE_OFFSET, .l_len = 1};
        (void)!fcntl(owner->fds[i], F_SETLK, &life); /* a hint: see above */
    }
    pthread_mutex_lock(&owner->mutex);
    owner->is_locked = true;
    pthread_cond_broadcast(&owner->changed);
    while (!owner->is_over)
        pthread_cond_wait(&owner->changed, &owner->mutex);
    pthread_mutex_unlock(&owner->mutex);
    /* Before it ends, for who joins a thread may go on before its files are closed. */
    for (unsigned i = 0; i < owner->fd_count && is_apart; i++)
        close(owner->fds[i]);
    return NULL;
}

static void sort_in(struct kv_owner *owner, int fd)
{
    unsigned i = owner->fd_count++;
    for (; i > 0 && owner->fds[i - 1] > fd; i--)
        owner->fds[i] = owner->fds[i - 1];
    owner->fds[i] = fd;
}

static int start_living(struct kv_owner *owner, int fd)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    sort_in(owner, fd);
    for (unsigned i = 0; i < owner->below_count; i++)
        sort_in(owner, owner->below[i]);
    pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES); /* else the usual one */
    sigfillset(&all); /* signals are for the threads of the program */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int err = -pthread_create(&owner->thread, &attributes, live, owner);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (err)
        return err;
    owner->has_thread = true;
    pthread_mutex_lock(&owner->mutex);
    while (!owner->is_locked)
        pthread_cond_wait(&owner->changed, &owner->mutex);
    pthread_mutex_unlock(&owner->mutex);
    return 0;
}

/* ---- the third step, and the end --------------------------------------------------------- */

int kv_owner_lock(struct kv_owner *owner, const char *path, int fd, struct kv_error *error)
{
    struct stat image, named, bottom;
    if (fstat(fd, &image))
        return -errno;
    int err = take_flock(fd, LOCK_EX, path, &image, error);
    if (err)
        return err;
    /* While we waited, the owner before may have removed or replaced what we opened. */
    if (stat(path, &named) || named.st_dev != image.st_dev || named.st_ino != image.st_ino)
        return -ESTALE;
    err = start_living(owner, fd);
    if (err || owner->shares_bottom)
        return err;
    if (fstat(owner->below_count ? owner->below[0] : fd, &bottom))
        return -errno;
    struct above above = {.owner = owner, .error = error};
    return kv_loop_each_over(&bottom, refuse_claimed, &above);
}

void kv_owner_end(struct kv_owner *owner)
{
    if (!owner)
        return;
    if (owner->has_thread) {
        pthread_mutex_lock(&owner->mutex);
        owner->is_over = true;
        pthread_cond_broadcast(&owner->changed);
        pthread_mutex_unlock(&owner->mutex);
        pthread_join(owner->thread, NULL);
    }
    for (unsigned i = owner->below_count; i > 0; i--)
        close(owner->below[i - 1]);
    pthread_cond_destroy(&owner->changed);
    pthread_mutex_destroy(&owner->mutex);
    free(owner);
}

/* ---- who is it? ------------------------------------------------------------------------------ */

/* Go down from a path, from device to file, while `look` says 0. */
static int each_on_the_way(const char *path,
                           int (*look)(int fd, const struct stat *status, bool is_part,
                                       void *context),
                           void *context)
{
    struct kv_loop *loop = malloc(sizeof *loop);
    struct stat status;
    bool is_part = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int found = (fd >= 0 ? fstat(fd, &status) : stat(path, &status))
                    ? 0
                    : look(fd, &status, is_part, context);
    for (unsigned depth = 0; !found && fd >= 0 && loop && depth < BELOW_MAX; depth++) {
        int next;
        if (kv_loop_below(fd, loop, &next))
            break;
        is_part |= loop->offset_bytes != 0;
        close(fd);
        fd = next;
        if (!fstat(fd, &status))
            found = look(fd, &status, is_part, context);
    }
    if (fd >= 0)
        close(fd);
    free(loop);
    return found;
}

static int look_for_holder(int fd, const struct stat *status, bool is_part, void *context)
{
    (void)context;
    if (is_part) /* of what lies below, others may own other parts */
        return 0;
    /* Of one that can not be looked at, only time tells whether a kill is on its way. */
    struct kv_holder holder = kv_holder_find(fd, status);
    for (int waited = 0; holder.state == KV_HOLDER_UNSEEN && waited < UNSEEN_MS;
         waited += PAUSE_MS) {
        pause_a_little();
        holder = kv_holder_find(fd, status);
    }
    if (holder.state == KV_HOLDER_UNSEEN)
        return -1;
    return holder.state == KV_HOLDER_ALIVE ? holder.pid : 0;
}

int kv_image_holder(const char *path)
{
    return each_on_the_way(path, look_for_holder, NULL);
}

/* Remember the last one that is whole. */
static int note_bottom(int fd, const struct stat *status, bool is_part, void *context)
{
    struct stat *bottom = context;
    (void)fd;
    if (!is_part)
        *bottom = *status;
    return 0;
}

bool kv_image_same(const char *a, const char *b)
{
    struct stat bottom_a = {0}, bottom_b = {0};
    (void)each_on_the_way(a, note_bottom, &bottom_a); /* it never ends the walk */
    (void)each_on_the_way(b, note_bottom, &bottom_b);
    if (!bottom_a.st_mode || !bottom_b.st_mode)
        return false;
    if (S_ISBLK(bottom_a.st_mode))
        return S_ISBLK(bottom_b.st_mode) && bottom_a.st_rdev == bottom_b.st_rdev;
    return bottom_a.st_dev == bottom_b.st_dev && bottom_a.st_ino == bottom_b.st_ino;
}
