/*
 * tests/tools/test_tree_into_directory.c: what others can see and do while a tree is written into
 * a directory.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

/* Content of one piece; `meanwhile` is called before it is given, and may say that there is none.
 */
struct content {
    const char *bytes;
    bool is_read;
    int (*meanwhile)(void);
};

static int read_content(void *context, struct tree_piece *piece)
{
    struct content *content = context;
    const int err = content->meanwhile ? content->meanwhile() : 0;
    if (err)
        return err;
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

/* ---- names --------------------------------------------------------------------------------- */

/* What is in the directory, each name with a slash behind it. */
static const char *names(void)
{
    static char text[1024];
    struct dirent **entries;
    *text = '\0';
    const int count = scandir(top, &entries, NULL, alphasort);
    ck_assert_int_ge(count, 0);
    for (int i = 0; i < count; i++) {
        if (strcmp(entries[i]->d_name, ".") != 0 && strcmp(entries[i]->d_name, "..") != 0) {
            strcat(text, entries[i]->d_name);
            strcat(text, "/");
        }
        free(entries[i]);
    }
    free(entries);
    return text;
}

static int is_not_there_yet(void)
{
    ck_assert_int_ne(access(below("new.log"), F_OK), 0);
    /* What policies say of the ending of its name holds for it. */
    ck_assert_msg(strstr(names(), ".log/") != NULL, "%s", names());
    return 0;
}

START_TEST(a_file_gets_its_name_when_it_is_whole)
{
    struct content content = {.bytes = "content", .meanwhile = is_not_there_yet};
    open_sink();
    ck_assert_int_eq(put("new.log", S_IFREG | 0644, getuid(), getgid(), &content), 0);
    close_sink();
    ck_assert_uint_eq((uint64_t)look("new.log").st_size, strlen("content"));
    ck_assert_str_eq(names(), "new.log/");
}
END_TEST

static int fail_to_read(void)
{
    return -EIO;
}

START_TEST(nothing_is_left_of_a_file_that_can_not_be_read)
{
    struct content content = {.bytes = "content", .meanwhile = fail_to_read};
    open_sink();
    ck_assert_int_eq(put("new", S_IFREG | 0644, getuid(), getgid(), &content), -EIO);
    job.sink->free(job.sink);
    ck_assert_str_eq(names(), "");
}
END_TEST

static int be_killed(void)
{
    _exit(0);
}

START_TEST(nothing_is_left_of_one_that_was_killed_when_it_is_done_again)
{
    struct content content = {.bytes = "content", .meanwhile = be_killed};
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        open_sink();
        (void)put("new", S_IFREG | 0644, getuid(), getgid(), &content);
        _exit(1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_str_ne(names(), "");
    open_sink();
    ck_assert_int_eq(put_file("new", 0644, getuid(), getgid()), 0);
    close_sink();
    ck_assert_str_eq(names(), "new/");
}
END_TEST

static int put_another(void)
{
    struct tree_job *const outer = &job;
    const struct tree_job kept = *outer;
    open_sink();
    ck_assert_int_eq(put_file("other", 0644, getuid(), getgid()), 0);
    close_sink();
    *outer = kept;
    return 0;
}

START_TEST(two_may_write_into_a_directory_at_once)
{
    struct content content = {.bytes = "content", .meanwhile = put_another};
    open_sink();
    ck_assert_int_eq(put("new", S_IFREG | 0644, getuid(), getgid(), &content), 0);
    close_sink();
    ck_assert_str_eq(names(), "new/other/");
    ck_assert_uint_eq((uint64_t)look("new").st_size, strlen("content"));
    ck_assert_uint_eq((uint64_t)look("other").st_size, strlen("content"));
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
    tcase_add_test(cases, a_file_gets_its_name_when_it_is_whole);
    tcase_add_test(cases, nothing_is_left_of_a_file_that_can_not_be_read);
    tcase_add_test(cases, nothing_is_left_of_one_that_was_killed_when_it_is_done_again);
    tcase_add_test(cases, two_may_write_into_a_directory_at_once);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
