/*
 * tests/fs/test_mount_listing.c: directories are listed whole and once, whatever happens
 * meanwhile.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "one_mount.h"
#include "tests/run.h"

#define ENTRY_COUNT 3000

static void touch(const char *path)
{
    const int fd = open(path, O_CREAT | O_WRONLY, 0644);
    ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
    close(fd);
}

/* Names of all lengths, some with long common beginnings. */
static void name_of(unsigned i, char name[64])
{
    switch (i % 3) {
    case 0:
        snprintf(name, 64, "%u", i);
        break;
    case 1:
        snprintf(name, 64, "a-rather-long-common-beginning-%06u", i);
        break;
    default:
        snprintf(name, 64, "%08x-%u", i * 2654435761u, i);
    }
}

static int number_of(const char *name)
{
    const char *dash = strrchr(name, '-');
    return atoi(dash ? dash + 1 : name);
}

static void fill(const char *dir)
{
    char name[64];
    ck_assert_int_eq(mkdir(test_path(&mount, "%s", dir), 0755), 0);
    for (unsigned i = 0; i < ENTRY_COUNT; i++) {
        name_of(i, name);
        touch(test_path(&mount, "%s/%s", dir, name));
    }
}

static void clear(const char *dir)
{
    DIR *d = opendir(test_path(&mount, "%s", dir));
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] != '.')
            ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
    }
    closedir(d);
    ck_assert_int_eq(rmdir(test_path(&mount, "%s", dir)), 0);
}

START_TEST(a_listing_is_complete_and_in_byte_order)
{
    fill("ordered");
    DIR *d = opendir(test_path(&mount, "ordered"));
    char last[256] = "";
    unsigned count = 0;
    for (struct dirent *e; (e = readdir(d)); count++) {
        if (count >= 2) {
            ck_assert_int_lt(strcmp(last, e->d_name), 0);
            ck_assert_int_eq(e->d_type, DT_REG);
        }
        snprintf(last, sizeof last, "%s", count >= 1 ? e->d_name : "");
    }
    ck_assert_uint_eq(count, ENTRY_COUNT + 2);
    closedir(d);
    clear("ordered");
}
END_TEST

START_TEST(removing_what_was_read_loses_nothing)
{
    fill("consumed");
    DIR *d = opendir(test_path(&mount, "consumed"));
    unsigned count = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
        count++;
    }
    closedir(d);
    ck_assert_uint_eq(count, ENTRY_COUNT);
    ck_assert_int_eq(rmdir(test_path(&mount, "consumed")), 0);
}
END_TEST

/*
 * One reader goes through the directory in small steps while others come and go at random;
 * what was there all the time is seen exactly once.
 */
START_TEST(what_stays_is_seen_exactly_once_while_others_come_and_go)
{
    uint64_t state = test_seed();
    static uint8_t seen[ENTRY_COUNT], removed[ENTRY_COUNT];
    char name[64];
    fill("busy");
    DIR *d = opendir(test_path(&mount, "busy"));
    unsigned made = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' || strncmp(e->d_name, "new", 3) == 0)
            continue;
        const int number = number_of(e->d_name);
        ck_assert_int_lt(number, ENTRY_COUNT);
        ck_assert_uint_eq(seen[number], 0);
        seen[number] = 1;
        const unsigned victim = (unsigned)test_below(&state, ENTRY_COUNT);
        if (!removed[victim] && victim % 2) {
            name_of(victim, name);
            ck_assert_int_eq(unlinkat(dirfd(d), name, 0), 0);
            removed[victim] = 1;
        }
        if (test_below(&state, 4) == 0)
            touch(test_path(&mount, "busy/new%u-%llx", made++,
                            (unsigned long long)test_random(&state)));
        if (test_below(&state, 200) == 0) { /* another reader makes the kernel drop its cache */
            DIR *other = opendir(test_path(&mount, "busy"));
            ck_assert_ptr_nonnull(readdir(other));
            closedir(other);
        }
    }
    closedir(d);
    for (unsigned i = 0; i < ENTRY_COUNT; i++)
        ck_assert_msg(seen[i] || removed[i], "entry %u was skipped", i);
    clear("busy");
}
END_TEST

START_TEST(any_position_can_be_gone_back_to_after_its_entry_is_gone)
{
    uint64_t state = test_seed();
    static long positions[ENTRY_COUNT + 3];
    static char names[ENTRY_COUNT + 2][64];
    static uint8_t removed[ENTRY_COUNT + 2];
    fill("marks");
    DIR *d = opendir(test_path(&mount, "marks"));
    unsigned count = 0;
    for (;;) {
        positions[count] = telldir(d);
        struct dirent *e = readdir(d);
        if (!e)
            break;
        snprintf(names[count++], 64, "%.63s", e->d_name);
    }
    ck_assert_uint_eq(count, ENTRY_COUNT + 2);
    for (unsigned round = 0; round < 300; round++) {
        for (unsigned i = 0; i < 5; i++) {
            const unsigned victim = 2 + (unsigned)test_below(&state, ENTRY_COUNT);
            if (!removed[victim])
                ck_assert_int_eq(unlinkat(dirfd(d), names[victim], 0), 0);
            removed[victim] = 1;
        }
        if (round % 3 == 0)
            rewinddir(d);
        unsigned at = 2 + (unsigned)test_below(&state, ENTRY_COUNT);
        seekdir(d, positions[at]);
        while (at < count && removed[at])
            at++;
        /* The kernel may still hold entries that it has read before they were removed. */
        struct dirent *e;
        unsigned found;
        do {
            e = readdir(d);
            found = 0;
            while (e && found < count && strcmp(e->d_name, names[found]) != 0)
                found++;
            ck_assert(!e || found < count);
        } while (e && removed[found]);
        if (e)
            ck_assert_uint_eq(found, at);
        else
            ck_assert_uint_eq(count, at);
    }
    closedir(d);
    clear("marks");
}
END_TEST

START_TEST(dot_and_dotdot_name_the_directory_and_its_parent)
{
    struct stat self, parent;
    ck_assert_int_eq(mkdir(test_path(&mount, "outer"), 0755), 0);
    ck_assert_int_eq(mkdir(test_path(&mount, "outer/inner"), 0755), 0);
    ck_assert_int_eq(stat(test_path(&mount, "outer/inner"), &self), 0);
    ck_assert_int_eq(stat(test_path(&mount, "outer"), &parent), 0);
    DIR *d = opendir(test_path(&mount, "outer/inner"));
    struct dirent *e = readdir(d);
    ck_assert_str_eq(e->d_name, ".");
    ck_assert_uint_eq(e->d_ino, self.st_ino);
    e = readdir(d);
    ck_assert_str_eq(e->d_name, "..");
    ck_assert_uint_eq(e->d_ino, parent.st_ino);
    ck_assert_ptr_null(readdir(d));
    closedir(d);
    ck_assert_int_eq(rmdir(test_path(&mount, "outer/inner")), 0);
    ck_assert_int_eq(rmdir(test_path(&mount, "outer")), 0);
}
END_TEST

int main(void)
{
    if (!test_mount_possible())
        return 0;
    Suite *suite = suite_create("mount_listing");
    TCase *tcase = tcase_create("listing");
    tcase_set_timeout(tcase, 120);
    tcase_add_unchecked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_listing_is_complete_and_in_byte_order);
    tcase_add_test(tcase, removing_what_was_read_loses_nothing);
    tcase_add_test(tcase, what_stays_is_seen_exactly_once_while_others_come_and_go);
    tcase_add_test(tcase, any_position_can_be_gone_back_to_after_its_entry_is_gone);
    tcase_add_test(tcase, dot_and_dotdot_name_the_directory_and_its_parent);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
