/*
 * tests/tools/test_tree_into_directory.c: what others can see and do while a tree is written into
 * a directory.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/run.h"
#include "tools/tree.h"

#define NOBODY 65534u

static char top[64];
static struct tree_job job;

static const char *below(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", top, name);
    return path;
}

static void setup(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(top, sizeof top, "%s/into-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(top));
    job = (struct tree_job){.sink = NULL};
}

static void open_sink(void)
{
    job.sink = tree_to_directory(&job, top);
    ck_assert_msg(job.sink != NULL, "%s", job.error.text);
}

static void close_sink(void)
{
    const int err = job.sink->finish(job.sink);
    ck_assert_msg(err == 0, "%s", job.error.text);
    job.sink->free(job.sink);
}

static struct stat look(const char *name)
{
    struct stat status;
    ck_assert_msg(lstat(below(name), &status) == 0, "%s: %s", name, strerror(errno));
    return status;
}

/* Content of one piece; `meanwhile` is called before it is given. */
struct content {
    const char *bytes;
    bool is_read;
    void (*meanwhile)(void);
};

static int read_content(void *context, struct tree_piece *piece)
{
    struct content *content = context;
    if (content->meanwhile)
        content->meanwhile();
    *piece = (struct tree_piece){.bytes = content->bytes,
                                 .length = content->is_read ? 0 : strlen(content->bytes)};
    content->is_read = true;
    return 0;
}

static int put(const char *path, mode_t mode, uid_t uid, gid_t gid, struct content *content)
{
    const struct tree_item item = {
        .path = path,
        .attributes = {.mode = mode, .uid = uid, .gid = gid, .mtime_ns = 1000},
        .size = content ? strlen(content->bytes) : 0,
        .read = read_content,
        .read_context = content,
    };
    return tree_put(&job, &item);
}

static int put_file(const char *path, mode_t mode, uid_t uid, gid_t gid)
{
    struct content content = {.bytes = "content"};
    return put(path, S_IFREG | mode, uid, gid, &content);
}

/* ---- modes ------------------------------------------------------------------------------- */

START_TEST(a_directory_is_nobody_elses_before_it_has_its_mode)
{
    (void)umask(0);
    open_sink();
    ck_assert_int_eq(put("d", S_IFDIR | 0755, getuid(), getgid(), NULL), 0);
    ck_assert_uint_eq(look("d").st_mode & 07777, 0700);
    ck_assert_int_eq(put_file("d/implied/file", 0644, getuid(), getgid()), 0);
    close_sink();
    ck_assert_uint_eq(look("d").st_mode & 07777, 0755);
    /* The source says nothing of this one. */
    ck_assert_uint_eq(look("d/implied").st_mode & 07777, 0777);
}
END_TEST

/* Who is not root owns what he makes, whatever the source says. */
static void become_nobody(void)
{
    if (geteuid() != 0)
        return;
    ck_assert_int_eq(chown(top, NOBODY, NOBODY), 0);
    ck_assert_int_eq(setresgid(NOBODY, NOBODY, NOBODY), 0);
    ck_assert_int_eq(setresuid(NOBODY, NOBODY, NOBODY), 0);
    ck_assert_int_eq(prctl(PR_SET_DUMPABLE, 1), 0); /* /proc/self is his again */
}

START_TEST(setuid_goes_where_the_owner_can_not_be_kept)
{
    become_nobody();
    const uid_t uid = geteuid();
    const gid_t gid = getegid();
    for (unsigned again = 0; again < 2; again++) {
        open_sink();
        ck_assert_int_eq(put("d", S_IFDIR | 02755, 0, 0, NULL), 0);
        ck_assert_int_eq(put_file("roots", 06755, 0, gid), 0);
        ck_assert_int_eq(put_file("a groups", 07755, uid, gid + 1), 0);
        ck_assert_int_eq(put_file("his own", 06755, uid, gid), 0);
        ck_assert_int_eq(put("fifo", S_IFIFO | 04622, 0, 0, NULL), 0);
        close_sink();
        ck_assert_uint_eq(look("d").st_mode & 07777, 02755);
        ck_assert_uint_eq(look("roots").st_mode & 07777, 0755);
        ck_assert_uint_eq(look("a groups").st_mode & 07777, 01755);
        ck_assert_uint_eq(look("his own").st_mode & 07777, 06755);
        ck_assert_uint_eq(look("fifo").st_mode & 07777, 0622);
        /* It is told once, and what is as it can be is left alone. */
        ck_assert_uint_eq(job.not_kept, 3);
        ck_assert_uint_eq(job.left_alone, again * 4);
    }
}
END_TEST

/* ---- symlinks ------------------------------------------------------------------------------ */

static char swap_for[128]; /* "" nothing: what a new special file is replaced by at once */

int mknodat(int directory, const char *name, mode_t mode, dev_t device)
{
    const int made = (int)syscall(SYS_mknodat, directory, name, mode, (unsigned)device);
    if (made == 0 && *swap_for) {
        ck_assert_int_eq(unlinkat(directory, name, 0), 0);
        ck_assert_int_eq(symlinkat(swap_for, directory, name), 0);
    }
    return made;
}

START_TEST(a_mode_is_not_given_to_what_a_symlink_names)
{
    strcpy(swap_for, below("victim"));
    const int fd = open(swap_for, O_WRONLY | O_CREAT, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
    open_sink();
    ck_assert_int_ne(put("fifo", S_IFIFO | 0666, getuid(), getgid(), NULL), 0);
    ck_assert_uint_eq(look("victim").st_mode & 07777, 0600);
    job.sink->free(job.sink);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tree_into_directory");
    TCase *cases = tcase_create("tree_into_directory");
    tcase_add_checked_fixture(cases, setup, NULL);
    tcase_add_test(cases, a_directory_is_nobody_elses_before_it_has_its_mode);
    tcase_add_test(cases, setuid_goes_where_the_owner_can_not_be_kept);
    tcase_add_test(cases, a_mode_is_not_given_to_what_a_symlink_names);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
