/*
 * tests/faults/soak/soak_names_volume.c: names and attributes of a volume without a kernel,
 * beside a directory of another file system.
 *
 *   KVFS_SEED            where the random numbers start (printed)
 *   KVFS_SOAK_OPS        how many operations (60000)
 *   KVFS_SOAK_CYCLE      how many from one reopening, with a whole check, to the next (5000)
 *   KVFS_SOAK_REFERENCE  a directory on ext4, xfs or tmpfs (/tmp)
 *   KVFS_SOAK_LOG        a file that gets every operation
 */
#include "names.h"
#include "reference.h"
#include "soak.h"

#include <unistd.h>

static void clean_up(void *context)
{
    names_posix_empty(context);
}

int main(void)
{
    static struct names_volume volume;
    struct names_posix reference;
    umask(022);
    if (!reference_open(&reference))
        return 77;
    soak_begin("soak_names_volume");
    volume_image_make(&volume.image, 96u << 20);
    soak_at_failure(clean_up, &reference);
    const struct names_backend ours = names_volume_backend(&volume);
    const struct names_backend theirs = names_posix_backend(&reference);
    names_run(&ours, &theirs, soak_env("KVFS_SOAK_OPS", 60000), soak_env("KVFS_SOAK_CYCLE", 5000));
    volume_image_remove(&volume.image);
    names_posix_empty(&reference);
    printf("soak_names_volume: %llu operations, %llu reopenings, no difference\n",
           (unsigned long long)soak_count(), (unsigned long long)volume.image.reopened);
    return 0;
}
