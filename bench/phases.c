/* bench/phases.c: see phases.h. */
#include "bench/phases.h"

#include <errno.h>
#include <string.h>

int phase_result_take(struct phase_result *result, struct phase_tally *tally)
{
    result->running.operation_count += tally->operation_count;
    result->running.checksum += tally->checksum;
    tally->operation_count = 0;
    tally->checksum = 0;
    return measure_latencies_merge(&result->latencies, &tally->latencies);
}

int phase_result_end_run(struct phase_result *result, unsigned run, uint64_t operation_count,
                         uint64_t elapsed_ns)
{
    const uint64_t done = result->running.operation_count;
    const uint64_t checksum = result->running.checksum;
    result->running.operation_count = 0;
    result->running.checksum = 0;
    if (done != operation_count || (run && checksum != result->checksum))
        return -EUCLEAN;
    result->operation_count = done;
    result->checksum = checksum;
    result->ops_per_s[run] = (double)done / ((double)kv_max_u64(elapsed_ns, 1) / 1000000000.0);
    return 0;
}

void phase_result_release(struct phase_result *result)
{
    measure_latencies_release(&result->latencies);
}

int phase_select(phase_name_fn *name, char *list, bool *selected)
{
    for (unsigned phase = 0; name(phase); phase++)
        selected[phase] = false;
    char *rest;
    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        unsigned phase = 0;
        while (name(phase) && strcmp(word, name(phase)) != 0)
            phase++;
        if (!name(phase))
            return -EINVAL;
        selected[phase] = true;
    }
    return 0;
}
