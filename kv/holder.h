/*
 * kv/holder.h: who holds the lock of an image, and is that process still there?
 *
 * Owns       nothing: each call looks anew, at locks and at /proc.
 * Threads: any.
 */
#ifndef KV_HOLDER_H
#define KV_HOLDER_H

#include <sys/stat.h>

#include "kv/base.h"
#include "kv/kv.h"

/*
 * The byte on which an owner holds a lock for as long as it is alive (kv/owner.c). It lies
 * beyond every image, so that file systems whose locks stop others from reading stop nobody.
 */
#define KV_LIFE_OFFSET ((off_t)1 << 62)

enum kv_holder_state {
    KV_HOLDER_NONE,   /* nobody that can be told: free, or a dead process' I/O is under way */
    KV_HOLDER_DYING,  /* a process that was killed and is not gone yet */
    KV_HOLDER_ALIVE,  /* a process, by its number */
    KV_HOLDER_UNSEEN, /* a process that lives in a PID namespace which can not be seen from here */
};

struct kv_holder {
    enum kv_holder_state state;
    int pid; /* of DYING and ALIVE */
};

/*
 * Look who holds the lock of a file or device.
 *
 * fd      open on it, in any mode; -1: it can not be opened, then less is seen.
 * status  of it.
 */
struct kv_holder kv_holder_find(int fd, const struct stat *status);

/* "IMAGE is in use by process 123 (name); ..." */
void kv_holder_say(const char *path, const struct kv_holder *holder, struct kv_error *error);

#endif
