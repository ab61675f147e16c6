/*
 * fs/confine.c: what a daemon gives up once it has all it needs.
 *
 * Owns       the list of system calls that serving makes.
 * Threads    one, before the others are started.
 *
 * The filter sees calls and not what io_uring does: a ring is made and entered under it, and what
 * is asked of the ring is up to us. It still keeps the daemon from running programs, from
 * tracing, from mounting, from making namespaces, and from whatever call is new and untried.
 */
#include "fs/confine.h"

#include <cap-ng.h>
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "fs/mount_point.h"

/* Sanitizers make calls of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTER_POSSIBLE false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FILTER_POSSIBLE false
#endif
#endif
#ifndef FILTER_POSSIBLE
#define FILTER_POSSIBLE true
#endif

static const int allowed_calls[] = {
    /* requests and answers, the image, the log */
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(pread64),
    SCMP_SYS(preadv),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(pwrite64),
    SCMP_SYS(pwritev),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
    SCMP_SYS(fdatasync),
    SCMP_SYS(fsync),
    SCMP_SYS(fallocate),
    SCMP_SYS(fstatfs),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(fcntl),
    SCMP_SYS(ioctl),
    SCMP_SYS(statx), /* is it our mount that is to go? */
    SCMP_SYS(umount2),
    /* syslog: a socket, the time zone, again when the socket went away */
    SCMP_SYS(openat),
    SCMP_SYS(socket),
    SCMP_SYS(connect),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    /* memory */
    SCMP_SYS(brk),
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(getrandom),
    SCMP_SYS(sysinfo),
    /* threads, and a wait for them */
    SCMP_SYS(clone),
    SCMP_SYS(clone3),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(futex),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(sched_setaffinity),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(tgkill),
    SCMP_SYS(prctl),
    SCMP_SYS(wait4),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    /* signals and time */
    SCMP_SYS(signalfd4),
    SCMP_SYS(eventfd2),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    /* who am I; libfuse asks before it unmounts */
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
};

static void say(kv_log_fn *log, void *log_context, const char *what, int err)
{
    char line[256];
    snprintf(line, sizeof line, "%s: %s; the daemon keeps more rights than it needs", what,
             strerror(err));
    if (log)
        log(log_context, KV_LOG_WARNING, line);
    else
        fprintf(stderr, "kvfs: %s\n", line);
}

static int install_filter(void)
{
    const scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!filter)
        return -ENOMEM;
    int err = 0;
    for (size_t i = 0; i < sizeof allowed_calls / sizeof allowed_calls[0] && !err; i++)
        err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    if (!err) /* also for the thread that keeps the image's lock (kv/owner.c) */
        err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!err) /* looks a call up in a tree instead of a list */
        err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (!err)
        err = seccomp_load(filter);
    seccomp_release(filter);
    return err;
}

/*
 * Does the way to a directory lead through one that root may not search by its mode, but may by the
 * capability that there is for it?
 */
static bool needs_search(const char *dir)
{
    struct fs_mount_identity mount;
    return !capng_get_caps_process() &&
           capng_have_capability(CAPNG_PERMITTED, CAP_DAC_READ_SEARCH) &&
           !capng_updatev(CAPNG_DROP, CAPNG_EFFECTIVE, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, -1) &&
           !capng_apply(CAPNG_SELECT_CAPS) && fs_mount_identify(dir, &mount) == -EACCES;
}

static int give_up_capabilities(const char *dir)
{
    const capng_type_t kept = (capng_type_t)(CAPNG_EFFECTIVE | CAPNG_PERMITTED);
    const bool search = needs_search(dir);
    capng_clear(CAPNG_SELECT_ALL);
    return capng_update(CAPNG_ADD, kept, CAP_SYS_ADMIN) ||
                   (search && capng_update(CAPNG_ADD, kept, CAP_DAC_READ_SEARCH)) ||
                   capng_apply(CAPNG_SELECT_ALL)
               ? -EPERM
               : 0;
}

void fs_confine(const char *dir, bool filter, kv_log_fn *log, void *log_context)
{
    if (geteuid() != 0)
        return;
    if (give_up_capabilities(dir))
        say(log, log_context, "capabilities can not be given up", errno ? errno : EPERM);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) {
        say(log, log_context, "new privileges can not be ruled out", errno);
        return; /* no filter without it */
    }
    const int err = filter && FILTER_POSSIBLE ? install_filter() : 0;
    if (err)
        say(log, log_context, "system calls can not be filtered", -err);
}
