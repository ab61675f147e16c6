/* bench/kv-compare/process.c: see process.h. */
#include "bench/kv-compare/process.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/kv-compare/memory_limit.h"

/* In the child: do the work, send the result, end. */
static _Noreturn void run_child(const struct engine_kind *kind, const char *directory,
                                const struct workload *work, const char *group, int out)
{
    struct workload_result result = {.error = 0};
    /* The parent's handlers are not ours: we end at once. */
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGHUP, SIG_DFL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL))
        result.error = -errno;
    if (!result.error && group)
        result.error = memory_limit_enter(group);
    if (!result.error)
        result.error = workload_run(kind, directory, work, &result);
    const bool sent = write(out, &result, sizeof result) == (ssize_t)sizeof result;
    _exit(sent ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* 0 when there is a result or will never be one; -ETIMEDOUT; -EINTR when we are to end. */
static int wait_for_result(int in, unsigned timeout_s)
{
    struct pollfd pipe = {.fd = in, .events = POLLIN};
    const int ready = poll(&pipe, 1, (int)kv_min_u64(timeout_s, 1000000) * 1000);
    return ready > 0 ? 0 : ready ? -errno : -ETIMEDOUT;
}

static int explain(int err, int status, const struct workload_result *result, char *why,
                   size_t why_cap)
{
    if (err == -ETIMEDOUT)
        (void)snprintf(why, why_cap, "not done in time");
    else if (WIFSIGNALED(status))
        (void)snprintf(why, why_cap, "killed by signal %d", WTERMSIG(status));
    else if (err)
        (void)snprintf(why, why_cap, "no result: %s", strerror(-err));
    else if (result->error)
        (void)snprintf(why, why_cap, "%s", strerror(-result->error));
    if (err || result->error)
        return err ? err : result->error;
    return WIFSIGNALED(status) ? -EIO : 0;
}

int process_run(const struct engine_kind *kind, const char *directory, const struct workload *work,
                const char *group, unsigned timeout_s, struct workload_result *result, char *why,
                size_t why_cap)
{
    int ends[2];
    if (pipe(ends)) {
        const int err = -errno;
        (void)snprintf(why, why_cap, "%s", strerror(-err));
        return err;
    }
    (void)fflush(NULL); /* what cannot be written is not written twice */
    const pid_t child = fork();
    if (child == 0) {
        (void)close(ends[0]); /* the parent's */
        run_child(kind, directory, work, group, ends[1]);
    }
    int err = child < 0 ? -errno : 0;
    (void)close(ends[1]); /* the child's */
    int status = 0;
    *result = (struct workload_result){.error = 0};
    if (!err) {
        err = wait_for_result(ends[0], timeout_s);
        if (!err && read(ends[0], result, sizeof *result) != (ssize_t)sizeof *result)
            err = -EIO; /* it ended without one */
        if (err)
            (void)kill(child, SIGKILL); /* ours, and not waited for yet */
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    }
    (void)close(ends[0]); /* only read */
    return explain(err, status, result, why, why_cap);
}
