/*
 * tests/faults/io/workload.h: a fixed piece of work that is done over and over, each time with
 * another fault, and what has to hold whatever fails.
 *
 * A workload keeps a model of what its calls have said. A call that succeeds changed what it
 * says; one that fails changed nothing, unless the store turned read-only with it: then its
 * change is whole or absent. What was promised to be durable is there after the next opening,
 * and all that is there is a prefix of what was done. Whatever does not hold ends the program
 * with words.
 *
 * One thread.
 */
#ifndef TESTS_FAULTS_WORKLOAD_H
#define TESTS_FAULTS_WORKLOAD_H

#include "kv/base.h"
#include "kv/kv.h"

/* What calls may say while faults are about. All false: every call must succeed. */
struct tolerance {
    bool io;     /* -EIO */
    bool space;  /* -ENOSPC of the host; the store itself has plenty */
    bool memory; /* -ENOMEM */
    bool damage; /* -EBADMSG, -EUCLEAN: writes were lost after the store turned read-only */
};

struct workload_config {
    const char *image; /* path; made anew */
    uint64_t seed;
    unsigned scale;   /* 1..: how much work */
    bool buffered_io; /* host page cache instead of O_DIRECT */
    struct tolerance tolerance;
    void (*start)(void *context); /* called before the first call that faults may strike */
    void (*stop)(void *context);  /* from here on nothing fails */
    void *context;
};

/* Do the work, then open what it leaves without faults and compare it with the model. */
void workload_kv_run(const struct workload_config *config);
void workload_fs_run(const struct workload_config *config);

/* ---- shared by the workloads ----------------------------------------------------- */

/* Something does not hold: say so, with the point that is being tried, and abort. */
__attribute__((noreturn, format(printf, 1, 2))) void violate(const char *format, ...);
/* What is being tried now, for violate; kept as a pointer. */
void violate_name_point(const char *point);

/* May a call that changes something (or only reads) say this now? -EIO and so on, not 0. */
bool tolerable(const struct tolerance *tolerance, const struct kv_store *store, int err,
               bool changes);

/* Quiet, with the least budget and no threads, so that all happens in order. */
struct kv_open_options workload_open_options(const struct workload_config *config);

/* Fill with what `identity` alone decides; half of them compress well. */
void workload_fill(void *out, size_t length, uint64_t identity);

/* kv_check with everything on finds nothing. */
void workload_expect_clean(struct kv_store *store);

#endif
