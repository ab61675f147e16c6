/*
 * tests/run.c: a suite in a directory of its own, of which nothing is left.
 */
#include "tests/run.h"

#include <ftw.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *where)
{
    (void)stat;
    (void)type;
    (void)where;
    (void)remove(path); /* what could not be detached stays */
    return 0;
}

/* Detach the newest mount below directory. False where there is none, or where this process may
 * not: a plain user's test unmounts through fusermount3. */
static bool detach_newest(const char *directory)
{
    const size_t length = strlen(directory);
    char newest[4096] = "";
    FILE *const mounts = setmntent("/proc/self/mounts", "r");
    if (!mounts)
        return false;
    for (const struct mntent *entry; (entry = getmntent(mounts));) {
        if (!strncmp(entry->mnt_dir, directory, length) && entry->mnt_dir[length] == '/')
            (void)snprintf(newest, sizeof newest, "%s", entry->mnt_dir);
    }
    (void)endmntent(mounts);
    return newest[0] && !umount2(newest, MNT_DETACH | UMOUNT_NOFOLLOW);
}

int test_run(Suite *suite)
{
    char directory[TEST_RUN_TMP_MAX + 24];
    const char *const named = getenv("TMPDIR");
    const bool fits = named && named[0] == '/' && strlen(named) <= TEST_RUN_TMP_MAX;
    (void)snprintf(directory, sizeof directory, "%s/kvfs-run-XXXXXX", fits ? named : "/tmp");
    /* Some tests are other users. Without the directory files go where they would. */
    const bool made =
        mkdtemp(directory) && !chmod(directory, 0711) && !setenv("TMPDIR", directory, 1);

    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (made) {
        while (detach_newest(directory))
            ;
        (void)nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    }
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
