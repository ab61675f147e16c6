/*
 * tests/faults/io/workload.c: what the workloads share.
 */
#include "workload.h"

#include "../../kv/support_store.h"

#include <stdarg.h>

static const char *point_name = "no fault";

void violate_name_point(const char *point)
{
    point_name = point;
}

void violate(const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "VIOLATION (%s): ", point_name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

bool tolerable(const struct tolerance *tolerance, const struct kv_store *store, int err,
               bool changes)
{
    /* Borrowed as const only to say that it is not changed. */
    const bool failed = store && kv_store_failure((struct kv_store *)store);
    if (failed && changes && (err == -EROFS || err == -EIO))
        return true;
    if (tolerance->io && err == -EIO)
        return true;
    if (tolerance->space && err == -ENOSPC)
        return true;
    if (tolerance->memory && err == -ENOMEM)
        return true;
    return tolerance->damage && failed && (err == -EBADMSG || err == -EUCLEAN);
}

struct kv_open_options workload_open_options(const struct workload_config *config)
{
    return (struct kv_open_options){.memory_budget_bytes = 8u << 20,
                                    .blob_percent = 25,
                                    .no_background = true,
                                    .buffered_io = config->buffered_io,
                                    .log = test_log_nothing};
}

void workload_fill(void *out, size_t length, uint64_t identity)
{
    struct test_random random = {identity};
    uint8_t *const bytes = out;
    const bool repeats = test_random_next(&random) & 1;
    uint64_t word = 0;
    for (size_t i = 0; i < length; i += sizeof word) {
        if (!repeats || i % 512 == 0)
            word = test_random_next(&random);
        memcpy(bytes + i, &word, kv_min_u64(sizeof word, length - i));
    }
}

void workload_expect_clean(struct kv_store *store)
{
    struct kv_check_result result;
    const uint64_t findings = test_check(store, &result);
    if (findings)
        violate("the check has %llu findings", (unsigned long long)findings);
}
