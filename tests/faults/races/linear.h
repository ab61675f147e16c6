/*
 * tests/faults/races/linear.h: is a history of concurrent operations on one key what a register
 * could have answered, whatever the threads?
 *
 * A history is linearizable if each operation can be given one moment between its call and its
 * return so that, in the order of these moments, every read gives what the last write wrote
 * (Herlihy and Wing 1990). Keys are independent, and linearizability is local, so each key's
 * history is judged by itself. Method: the search of Wing and Gong (1993) with the states that
 * were seen remembered (Lowe 2017).
 */
#ifndef TESTS_FAULTS_LINEAR_H
#define TESTS_FAULTS_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINEAR_OPS_MAX 64u
#define LINEAR_ABSENT  0u /* the value of a key that is not there */

/* One operation on the key. Times are from one clock that all threads share. */
struct linear_op {
    bool is_write;
    uint64_t value; /* written, or read; LINEAR_ABSENT: deleted, or not there */
    uint64_t call, end;
};

/*
 * Is there an order? `first` is the value before; values that are written should differ, else
 * more is accepted than should be. count <= LINEAR_OPS_MAX.
 */
bool linear_check(const struct linear_op *ops, size_t count, uint64_t first);

#endif
