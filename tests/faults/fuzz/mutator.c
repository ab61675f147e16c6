/*
 * tests/faults/fuzz/mutator.c: how libFuzzer changes an input whose first byte says that the course
 * is drawn (FUZZ_DRAWN).
 *
 * As it does by itself, but that bit stays as it was: else half of all mutations would choose a
 * course that takes long, and few inputs would be tried.
 */
#include "tests/faults/fuzz/fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t length, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t room, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t room, unsigned seed)
{
    (void)seed; /* LLVMFuzzerMutate has it already */
    const uint8_t drawn = length ? bytes[0] & FUZZ_DRAWN : 0;
    length = LLVMFuzzerMutate(bytes, length, room);
    if (length)
        bytes[0] = (uint8_t)((bytes[0] & ~FUZZ_DRAWN) | drawn);
    return length;
}
