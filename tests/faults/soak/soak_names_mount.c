/*
 * tests/faults/soak/soak_names_mount.c: names and attributes of a mount, beside a directory of
 * another file system, by the same system calls.
 *
 *   KVFS_SEED            where the random numbers start (printed)
 *   KVFS_SOAK_OPS        how many operations (10000)
 *   KVFS_SOAK_CYCLE      how many from one mount, with a whole check, to the next (2500)
 *   KVFS_SOAK_REFERENCE  a directory on ext4, xfs or tmpfs (/tmp)
 *   KVFS_SOAK_WRITEBACK  1: the kernel gathers writes (0)
 *   KVFS_SOAK_LOG        a file that gets every operation
 */
#include "names.h"
#include "reference.h"
#include "soak.h"
#include "support_mount.h"

#include <unistd.h>

struct sides {
    struct test_mount mount;
    struct names_posix ours, reference;
    uint64_t mounted;
};

static void reopen(struct sides *sides)
{
    names_posix_close(&sides->ours);
    if (test_mount_unmount(&sides->mount) != 0)
        soak_fail("the daemon did not end well");
    volume_image_check(sides->mount.image);
    test_mount_start(&sides->mount);
    names_posix_open(&sides->ours, sides->mount.dir);
    sides->mounted++;
}

static void clean_up(void *context)
{
    struct sides *sides = context;
    names_posix_empty(&sides->reference);
    names_posix_close(&sides->ours);
    if (sides->mount.daemon)
        test_mount_kill(&sides->mount);
    test_mount_end(&sides->mount);
}

/* The backend's context is the directory; this is what lies around it. */
static struct sides sides;

static void reopen_ours(void *context)
{
    (void)context;
    reopen(&sides);
}

int main(void)
{
    umask(022);
    if (!test_mount_possible() || !reference_open(&sides.reference))
        return 77;
    soak_begin("soak_names_mount");
    sides.mounted = 1;
    const struct fs_mount_options options = {.writeback = soak_env("KVFS_SOAK_WRITEBACK", 0) != 0,
                                             .memory_budget_bytes = 8u << 20,
                                             .threads = 4,
                                             .extra = "dev,suid"};
    test_mount_begin(&sides.mount, &options, 64);
    names_posix_open(&sides.ours, sides.mount.dir);
    soak_at_failure(clean_up, &sides);
    struct names_backend ours = names_posix_backend(&sides.ours);
    const struct names_backend theirs = names_posix_backend(&sides.reference);
    ours.reopen = reopen_ours;
    names_run(&ours, &theirs, soak_env("KVFS_SOAK_OPS", 10000), soak_env("KVFS_SOAK_CYCLE", 2500));
    names_posix_empty(&sides.reference);
    names_posix_close(&sides.ours);
    test_mount_end(&sides.mount);
    printf("soak_names_mount: %llu operations, %llu mounts, no difference\n",
           (unsigned long long)soak_count(), (unsigned long long)sides.mounted);
    return 0;
}
