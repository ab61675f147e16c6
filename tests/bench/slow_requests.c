/*
 * tests/bench/slow_requests.c: preloaded into mount.kvfs, it makes each request take ten
 * milliseconds longer: a loss that no noise hides, for bench/gate to find.
 *
 * Busy, since the daemon may not be allowed to sleep.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

struct fuse_session;
struct fuse_buf;
typedef void process_fn(struct fuse_session *session, const struct fuse_buf *buf);

process_fn fuse_session_process_buf; /* the one that is preloaded */

void fuse_session_process_buf(struct fuse_session *session, const struct fuse_buf *buf)
{
    enum { DELAY_NS = 10000000, NS_PER_S = 1000000000 };
    /* A function's address in an object's: as POSIX has it for dlsym. */
    union {
        void *object;
        process_fn *function;
    } next = {.object = dlsym(RTLD_NEXT, "fuse_session_process_buf")};
    struct timespec begun, now;
    (void)clock_gettime(CLOCK_MONOTONIC, &begun); /* it is there */
    do
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - begun.tv_sec) * NS_PER_S + now.tv_nsec - begun.tv_nsec < DELAY_NS);
    if (!next.object)
        abort();
    next.function(session, buf);
}
