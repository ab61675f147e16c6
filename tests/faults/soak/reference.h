/*
 * tests/faults/soak/reference.h: the directory of another file system that is the other side.
 */
#ifndef TESTS_FAULTS_REFERENCE_H
#define TESTS_FAULTS_REFERENCE_H

#include "names.h"

/*
 * Make an empty directory: in KVFS_SOAK_REFERENCE, else in /tmp. False, and a word about it, if
 * the file system there is none that counts links as ext4 does.
 */
bool reference_open(struct names_posix *reference);

#endif
