/*
 * tests/faults/io/test_every_call.c: making an image, opening it, asking whose it is: each once for
 * each call of the system that is made on the way, which fails, alone or with all that follow.
 *
 * Whatever fails: there is an error with one line of words, or it is done; no descriptor stays
 * open; a file that was to be made is not there half made; who has opened the image owns what is
 * at the bottom, so that nobody else can; and what was put before is there afterwards.
 *
 * As root some of it is done over a loop device, too.
 *
 * Environment: KVFS_POINTS how many of the calls of one function, made on the same way, fail in
 * turn (12).
 */
#include "call_faults.h"

#include "../../kv/support_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define IMAGE_BYTES  (16ull << 20)
#define POINTS_MAX   12u /* of one function in one subject, unless KVFS_POINTS says fewer */
#define OFFSET_BYTES (1ull << 20)

static struct {
    struct test_dir dir;
    char way[96];          /* that leads to the image */
    uint64_t offset_bytes; /* where in the file it begins */
    const char *subject;
    const struct call_fault *fault;
    uint64_t point;
    bool lasting;
    pid_t holder; /* who has the image, or 0 */
} now;

static void require(bool holds, const char *what, const char *words)
{
    uint64_t seen;
    if (holds)
        return;
    (void)call_fault_end(&seen);
    (void)fprintf(stderr, "test_every_call: %s: %s says %s, %s %" PRIu64 ": %s: %s\n", now.subject,
                  now.fault ? now.fault->function : "nothing",
                  now.fault ? strerror(now.fault->error) : "nothing",
                  now.lasting ? "lasting" : "once", now.point, what, words);
    if (now.holder)
        (void)kill(now.holder, SIGKILL);
    (void)unlink(now.dir.image);
    (void)rmdir(now.dir.dir);
    exit(1);
}

/* ---- helpers ----------------------------------------------------------------------- */

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *const directory = opendir("/proc/self/fd");
    require(directory != NULL, "/proc/self/fd", "can not be listed");
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static const struct kv_open_options quiet = {
    .memory_budget_bytes = 8u << 20, .no_background = true, .log = test_log_nothing};

/* What is at the bottom must be locked: nobody else can have it. */
static void require_owned(void)
{
    uint64_t seen;
    (void)call_fault_end(&seen);
    const int fd = open(now.dir.image, O_RDONLY | O_CLOEXEC);
    require(fd >= 0, "the image", strerror(errno));
    require(flock(fd, LOCK_EX | LOCK_NB) != 0, "the image is open and not locked", now.way);
    close(fd);
}

static void make_image(void)
{
    const struct kv_create_options options = {
        .size_bytes = now.offset_bytes ? 0 : IMAGE_BYTES, .node_bytes = 4096, .force = true};
    struct kv_error error = {""};
    struct kv_store *store;
    require(kv_create(now.way, &options, &error) == 0, "kv_create", error.text);
    require(kv_open(now.way, &quiet, &store, &error) == 0, "kv_open", error.text);
    require(test_put_number(store, 1, 100) == 0, "kv_put", "");
    require(kv_close(store) == 0, "kv_close", "");
}

static void require_whole(void)
{
    struct kv_error error = {""};
    struct kv_store *store;
    struct kv_check_result result;
    require(kv_open(now.way, &quiet, &store, &error) == 0, "it can not be opened", error.text);
    require(test_check(store, &result) == 0, "it is not sound", "");
    require(test_get_number(store, 1, 100) == 0, "what was put is not there", "");
    require(kv_close(store) == 0, "kv_close", "");
}

/* ---- what is done ------------------------------------------------------------------- */

static int act_make(struct kv_error *error)
{
    const struct kv_create_options options = {.size_bytes = IMAGE_BYTES, .node_bytes = 4096};
    const int err = kv_create(now.dir.image, &options, error);
    if (!err)
        (void)truncate(now.dir.image, (off_t)IMAGE_BYTES);
    return err;
}

static int act_make_again(struct kv_error *error)
{
    const struct kv_create_options options = {
        .size_bytes = now.offset_bytes ? 0 : IMAGE_BYTES, .node_bytes = 4096, .force = true};
    struct kv_store *store;
    int err = kv_create_open(now.way, &options, &store, error);
    if (err)
        return err;
    require_owned();
    err = test_put_number(store, 1, 100);
    const int close_err = kv_close(store);
    return err ? err : close_err;
}

static int open_and_close(const struct kv_open_options *options, struct kv_error *error)
{
    struct kv_store *store;
    int err = kv_open(now.way, options, &store, error);
    if (err)
        return err;
    if (!options->read_only)
        err = test_put_number(store, 2, 30000);
    kv_ignore(kv_checkpoint(store));
    require_owned();
    const int get_err = test_get_number(store, 1, 100);
    require(get_err == 0, "what was put is not there", strerror(-get_err));
    const int close_err = kv_close(store);
    return err ? err : close_err;
}

static int act_open(struct kv_error *error)
{
    return open_and_close(&quiet, error);
}

static int act_open_read_only(struct kv_error *error)
{
    struct kv_open_options options = quiet;
    options.read_only = true;
    return open_and_close(&options, error);
}

static int act_open_with_threads(struct kv_error *error)
{
    struct kv_open_options options = quiet;
    options.no_background = false;
    return open_and_close(&options, error);
}

/* Threads that could not be had once can be had later, and then they work. */
static int act_start_threads(struct kv_error *error)
{
    struct kv_open_options options = quiet;
    struct kv_store *store;
    struct kv_stats stats;
    uint64_t seen;
    options.checkpoint_interval_ms = 1;
    int err = kv_open(now.way, &options, &store, error);
    if (err)
        return err;
    kv_ignore(kv_start_background(store));
    (void)call_fault_end(&seen);
    err = kv_start_background(store);
    require(err == 0, "the threads do not start when nothing fails", strerror(-err));
    kv_store_stats(store, &stats);
    const uint64_t before = stats.checkpoints;
    require(test_put_number(store, 3, 100) == 0, "kv_put", "");
    (void)alarm(120); /* ends the program if they never do anything */
    while (stats.checkpoints == before) {
        (void)usleep(1000);
        kv_store_stats(store, &stats);
    }
    (void)alarm(0);
    return kv_close(store);
}

static int act_look(struct kv_error *error)
{
    struct kv_image_info info;
    const int err = kv_image_info(now.way, &info, error);
    require(err || info.node_bytes == 4096, "kv_image_info", "says something else");
    (void)kv_image_same(now.way, now.dir.image); /* what can not be looked at is not the same */
    return err;
}

/* Who has it is named, or not found; nobody else is. */
static int act_ask_holder(struct kv_error *error)
{
    const int holder = kv_image_holder(now.way);
    (void)error;
    require(holder == 0 || holder == -1 || holder == (int)now.holder, "kv_image_holder",
            "names another process");
    return 0;
}

static int act_open_held(struct kv_error *error)
{
    struct kv_store *store;
    const int err = kv_open(now.way, &quiet, &store, error);
    require(err != 0, "it is opened, and another process has it", "");
    return err == -EBUSY ? 0 : err;
}

/* A process that has the image until it is killed. */
static void hold(void)
{
    int ready[2];
    char byte;
    require(pipe(ready) == 0, "pipe", strerror(errno));
    now.holder = fork();
    require(now.holder >= 0, "fork", strerror(errno));
    if (!now.holder) {
        struct kv_store *store;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (kv_open(now.way, &quiet, &store, NULL) || write(ready[1], "r", 1) != 1)
            _exit(1);
        for (;;)
            (void)pause();
    }
    close(ready[1]);
    require(read(ready[0], &byte, 1) == 1, "the process that is to have the image", "ended");
    close(ready[0]);
}

static void let_go(void)
{
    (void)kill(now.holder, SIGKILL);
    (void)waitpid(now.holder, NULL, 0);
    now.holder = 0;
}

/* ---- points -------------------------------------------------------------------------- */

struct subject {
    const char *name;
    int (*act)(struct kv_error *error);
    bool makes;   /* there is no file before */
    bool is_held; /* another process has the image */
    uint64_t points_max;
};

static const struct subject subjects[] = {
    {.name = "make", .act = act_make, .makes = true, .points_max = POINTS_MAX},
    {.name = "make again", .act = act_make_again, .points_max = POINTS_MAX},
    {.name = "open", .act = act_open, .points_max = POINTS_MAX},
    {.name = "open read-only", .act = act_open_read_only, .points_max = POINTS_MAX},
    {.name = "open with threads", .act = act_open_with_threads, .points_max = POINTS_MAX},
    {.name = "start threads", .act = act_start_threads, .points_max = POINTS_MAX},
    {.name = "look", .act = act_look, .points_max = POINTS_MAX},
    {.name = "ask whose", .act = act_ask_holder, .is_held = true, .points_max = POINTS_MAX},
    {.name = "open what is held", .act = act_open_held, .is_held = true, .points_max = 1},
};

struct counts {
    uint64_t points, refused;
};

/* Returns whether the fault struck. */
static bool try_point(const struct subject *subject, size_t index, struct counts *counts)
{
    struct kv_error error = {""};
    uint64_t seen;
    const bool was_there = access(now.dir.image, F_OK) == 0;
    const unsigned before = open_descriptors();
    now.fault = &call_faults[index];
    call_fault_order(index, now.point, now.lasting);
    const int err = subject->act(&error);
    const uint64_t hits = call_fault_end(&seen);
    require(open_descriptors() == before, "a descriptor stays open", error.text);
    require(!err || (error.text[0] && !strchr(error.text, '\n')), "no line of words",
            strerror(-err));
    if (subject->makes && err && strcmp(now.fault->function, "unlink") != 0 && !now.lasting)
        require(access(now.dir.image, F_OK) != 0, "half a file is left", error.text);
    if (!was_there)
        (void)unlink(now.dir.image);
    counts->points++;
    counts->refused += err != 0;
    return hits > 0;
}

/* No signal comes again and again for ever; and who can not see who has an image waits a minute. */
static bool may_last(const struct subject *subject, size_t index)
{
    return call_faults[index].error != EINTR && subject->act != act_open_held;
}

static void try_subject(const struct subject *subject, struct counts *counts)
{
    now.subject = subject->name;
    printf("%s\n", subject->name);
    if (subject->makes)
        (void)unlink(now.dir.image);
    if (subject->is_held)
        hold();
    const uint64_t points_max =
        kv_min_u64(subject->points_max, test_env("KVFS_POINTS", POINTS_MAX));
    for (size_t index = 0; index < call_fault_count; index++)
        for (unsigned lasting = 0; lasting <= (may_last(subject, index) ? 1u : 0u); lasting++) {
            now.lasting = lasting;
            now.point = 0;
            while (now.point < points_max && try_point(subject, index, counts))
                now.point++;
        }
    if (subject->is_held)
        let_go();
    now.fault = NULL;
    if (subject->makes)
        make_image();
    /* An image that was to be made anew may be none. */
    if (subject->act == act_make_again)
        make_image();
    require_whole();
}

static void try_all(struct counts *counts)
{
    make_image();
    for (size_t i = 0; i < sizeof subjects / sizeof subjects[0]; i++)
        if (!subjects[i].makes || strcmp(now.way, now.dir.image) == 0)
            try_subject(&subjects[i], counts);
}

/* ---- loop devices -------------------------------------------------------------------- */

/* One over the image's file, gone when the descriptor is closed. -1: there is none to be had. */
static int loop_over(void)
{
    const int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    const int file = open(now.dir.image, O_RDWR | O_CLOEXEC);
    int loop = -1;
    for (unsigned tries = 0; tries < 16 && loop < 0 && control >= 0 && file >= 0; tries++) {
        const int number = ioctl(control, LOOP_CTL_GET_FREE);
        const struct loop_config config = {
            .fd = (uint32_t)file,
            .info = {.lo_flags = LO_FLAGS_AUTOCLEAR, .lo_offset = now.offset_bytes}};
        if (number < 0)
            break;
        (void)snprintf(now.way, sizeof now.way, "/dev/loop%d", number);
        loop = open(now.way, O_RDWR | O_CLOEXEC);
        if (loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &config)) { /* somebody was faster */
            close(loop);
            loop = -1;
        }
    }
    if (control >= 0)
        close(control);
    if (file >= 0)
        close(file);
    return loop;
}

static void try_over_loop(uint64_t offset_bytes, struct counts *counts)
{
    now.offset_bytes = offset_bytes;
    require(truncate(now.dir.image, (off_t)(offset_bytes + IMAGE_BYTES)) == 0, "truncate", "");
    const int loop = loop_over();
    if (loop < 0) {
        printf("  no loop device is to be had\n");
        return;
    }
    printf("over a loop device at %" PRIu64 "\n", offset_bytes);
    try_all(counts);
    close(loop);
}

int main(void)
{
    struct counts counts = {.points = 0};
    if (access("/dev/shm", W_OK) == 0)
        (void)setenv("TMPDIR", "/dev/shm", 1);
    test_dir_make(&now.dir);
    (void)snprintf(now.way, sizeof now.way, "%s", now.dir.image);
    try_all(&counts);
    try_over_loop(0, &counts);
    try_over_loop(OFFSET_BYTES, &counts);
    test_dir_remove(&now.dir);
    printf("%" PRIu64 " points tried, %" PRIu64 " refused; nothing was lost\n", counts.points,
           counts.refused);
    return 0;
}
