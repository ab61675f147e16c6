/*
 * tests/faults/fuzz/volume_tour.h: a bit of everything that a program does with a filesystem.
 */
#ifndef TESTS_FAULTS_FUZZ_VOLUME_TOUR_H
#define TESTS_FAULTS_FUZZ_VOLUME_TOUR_H

#include "fs/volume.h"

/*
 * Walk the tree from the root, reading all that there is, then change things here and there, and
 * walk once more unless the volume is read_only. Any operation may fail; everything that was
 * looked up is forgotten in the end.
 */
void volume_tour(struct fs_volume *volume, bool read_only);

#endif
