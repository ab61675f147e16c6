/* bench/zipf.c: see zipf.h. */
#include "bench/zipf.h"

#include <math.h>

#include "kv/base.h"

static double zeta(uint64_t count, double theta)
{
    double sum = 0;
    for (uint64_t i = 1; i <= count; i++)
        sum += pow((double)i, -theta);
    return sum;
}

void zipf_init(struct zipf *zipf, uint64_t count, double theta)
{
    *zipf = (struct zipf){.count = count, .theta = theta};
    zipf->zeta = zeta(count, theta);
    zipf->alpha = 1 / (1 - theta);
    zipf->half = pow(0.5, theta);
    zipf->eta = (1 - pow(2 / (double)count, 1 - theta)) / (1 - (1 + zipf->half) / zipf->zeta);
}

uint64_t zipf_rank(const struct zipf *zipf, uint64_t random)
{
    const double u = (double)(random >> 11) / 9007199254740992.0; /* 2^53 */
    const double uz = u * zipf->zeta;
    if (uz < 1)
        return 0;
    if (uz < 1 + zipf->half)
        return 1;
    const double rank = (double)zipf->count * pow(zipf->eta * u - zipf->eta + 1, zipf->alpha);
    return kv_min_u64((uint64_t)rank, zipf->count - 1);
}
