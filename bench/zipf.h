/*
 * bench/zipf.h: numbers of which few come often and most seldom.
 *
 * Method     Gray et al., Quickly Generating Billion-Record Synthetic Databases (1994).
 * Threads    any, after zipf_init.
 */
#ifndef BENCH_ZIPF_H
#define BENCH_ZIPF_H

#include <stdint.h>

#define ZIPF_THETA_USUAL 0.99

struct zipf {
    uint64_t count;
    double theta, zeta, alpha, eta, half;
};

/* Ranks 0..count-1; theta in (0, 1): the greater, the more uneven. Takes time in order of count. */
void zipf_init(struct zipf *zipf, uint64_t count, double theta);
/* The rank for a random number; 0 is the most frequent. */
uint64_t zipf_rank(const struct zipf *zipf, uint64_t random);

#endif
