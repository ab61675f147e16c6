/*
 * fs/repeats.h: was the same asked for before, lately?
 *
 * What the kernel keeps it does not ask for again. So that somebody may know whether it keeps
 * anything, each answer leaves a mark, in a table of FS_REPEATS_MARKS that hold 32 bits of its
 * hash; where the mark is there already, it is a repetition. Who came between may have taken the
 * place: what is told is never too much (but for one of 2^32), and covers about as many answers as
 * there are marks.
 *
 * Threads: any; a mark is a relaxed atomic. One that is lost is a repetition less.
 */
#ifndef FS_REPEATS_H
#define FS_REPEATS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FS_REPEATS_MARKS 32768u /* a power of two; 128 KiB */

struct fs_repeats {
    _Atomic uint32_t marks[FS_REPEATS_MARKS]; /* all zero: nothing was asked for */
};

/* Leave the mark of what these three name; was it there? */
bool fs_repeats_see(struct fs_repeats *repeats, uint64_t kind, uint64_t ino, uint64_t which);

#endif
