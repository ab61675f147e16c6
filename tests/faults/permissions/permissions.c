/*
 * tests/faults/permissions/permissions.c: who may do what, on a mount and on ext4.
 *
 * Each case is a caller, a scene (a file in a directory; scene.h) and an operation. It is run
 * on both file systems, made anew where something has changed. The result, what was read, and
 * all that root can see of the scene afterwards must be the same.
 *
 * First all callers, directories, files and operations of the tables below, each with each;
 * then scenes that are put together at random. An operation's umask goes through its values.
 *
 * Owns       the mount (support_mount.h), a directory on ext4, and two processes per caller.
 * Environment: KVFS_SEED, PERMISSIONS_SCENES: random scenes, each with all callers and
 *              operations (4); PERMISSIONS_TABLES=0: only these.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "operations.h"
#include "scene.h"
#include "tests/fs/support_mount.h"

#define EXT4_MAGIC    0xef53
#define SHOWN_OF_EACH 2u /* differences, of an operation */

/* ---- who ------------------------------------------------------------------------------ */

struct identity {
    const char *name;
    struct caller caller;
    gid_t groups[2];
    int group_count;
    uint64_t capabilities; /* all that are left */
};

#define CAP(number) (1ull << (number))
#define ALL_CAPS    UINT64_MAX

static const struct identity identities[] = {
    {"root", {0, 0, 2000}, {0}, 0, ALL_CAPS},
    {"owner", {1000, 1000, 2000}, {0}, 0, 0},
    {"owner in another group", {1000, 2000, 1000}, {1000}, 1, 0},
    {"of the group", {1001, 1000, 2000}, {0}, 0, 0},
    {"of the group, as one of several", {1001, 1001, 1000}, {1000, 2000}, 2, 0},
    {"stranger", {1002, 1002, 1000}, {0}, 0, 0},
    {"stranger in a named group", {1002, 1002, 2000}, {2000}, 1, 0},
    {"root without capabilities", {0, 0, 1000}, {0}, 0, 0},
    {"stranger who keeps setgid", {1002, 1002, 2000}, {0}, 0, CAP(CAP_FSETID)},
    {"stranger who may do as owners do", {1002, 1002, 2000}, {0}, 0, CAP(CAP_FOWNER)},
    {"stranger who passes all modes", {1002, 1002, 2000}, {0}, 0, CAP(CAP_DAC_OVERRIDE)},
    {"stranger who administers", {1002, 1002, 2000}, {0}, 0, CAP(CAP_SYS_ADMIN)},
};
enum { IDENTITY_COUNT = sizeof identities / sizeof identities[0] };

static void die(const char *what)
{
    fprintf(stderr, "permissions: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void become(const struct identity *identity)
{
    const struct caller *caller = &identity->caller;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};
    if (identity->capabilities == ALL_CAPS && !caller->uid) {
        if (setgroups(0, NULL))
            die("setgroups");
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        data[i].permitted = (uint32_t)(identity->capabilities >> (32 * i));
        data[i].effective = data[i].permitted;
    }
    if (setgroups((size_t)identity->group_count, identity->groups) ||
        setresgid(caller->gid, caller->gid, caller->gid) || prctl(PR_SET_KEEPCAPS, 1) ||
        setresuid(caller->uid, caller->uid, caller->uid) || syscall(SYS_capset, &header, data))
        die(identity->name);
}

/* ---- where ------------------------------------------------------------------------------ */

/* One file system, and a process in it for each identity. */
struct place {
    const char *name;
    char dir[PATH_MAX];
    int root; /* descriptor of dir */
    struct {
        pid_t pid;
        int orders, answers;
    } workers[IDENTITY_COUNT];
    char *pristine; /* what the scene looks like before */
};

struct order {
    uint32_t operation, mask;
};

struct answer {
    int result;
    uint64_t content;
};

/* In the child: do as told until the pipe ends. */
static void work(const struct identity *identity, int orders, int answers)
{
    struct order order;
    become(identity);
    while (read(orders, &order, sizeof order) == sizeof order) {
        struct answer answer = {0};
        (void)umask(order.mask);
        answer.result = operations[order.operation].run(&identity->caller, &answer.content);
        if (write(answers, &answer, sizeof answer) != sizeof answer)
            break;
    }
    _exit(0);
}

static void start_workers(struct place *place)
{
    for (unsigned i = 0; i < IDENTITY_COUNT; i++) {
        int orders[2], answers[2];
        if (pipe2(orders, O_CLOEXEC) || pipe2(answers, O_CLOEXEC))
            die("pipe");
        const pid_t child = fork();
        if (child < 0)
            die("fork");
        if (child == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (fchdir(place->root))
                die("fchdir");
            close(orders[1]);
            close(answers[0]);
            work(&identities[i], orders[0], answers[1]);
        }
        close(orders[0]);
        close(answers[1]);
        place->workers[i].pid = child;
        place->workers[i].orders = orders[1];
        place->workers[i].answers = answers[0];
    }
}

static void stop_workers(struct place *place)
{
    for (unsigned i = 0; i < IDENTITY_COUNT; i++) {
        /* Later ones inherited the pipes of earlier ones: ended by hand. */
        (void)kill(place->workers[i].pid, SIGKILL);
        close(place->workers[i].orders);
        close(place->workers[i].answers);
        (void)waitpid(place->workers[i].pid, NULL, 0);
    }
    close(place->root);
}

static struct answer ask(struct place *place, unsigned identity, const struct order *order)
{
    struct answer answer = {0};
    if (write(place->workers[identity].orders, order, sizeof *order) != sizeof *order ||
        read(place->workers[identity].answers, &answer, sizeof answer) != sizeof answer)
        die("a worker ended");
    return answer;
}

/* ---- cases -------------------------------------------------------------------------------- */

struct tally {
    uint64_t cases, scenes, allowed, refused, differences, kernels;
    unsigned *shown; /* for each operation */
};

static void refresh(struct place *place, const struct scene *scene)
{
    scene_remove(place->root);
    scene_make(place->root, scene);
    free(place->pristine);
    place->pristine = scene_describe(place->root);
}

static void show_node(const char *name, const struct scene_node *node)
{
    printf("    %s: mode %o uid %u gid %u list %d default %d\n", name, node->mode, node->uid,
           node->gid, node->access, node->inherited);
}

static void show_difference(const struct scene *scene, unsigned identity, const struct order *order,
                            const struct place *places, const struct answer *answers,
                            char *const *after)
{
    printf("DIFFERENT: %s by %s, umask %o\n", operations[order->operation].name,
           identities[identity].name, order->mask);
    show_node("directory", &scene->dir);
    show_node("file", &scene->file);
    for (unsigned i = 0; i < 2; i++)
        printf("  %s: %s, content %016llx\n%s", places[i].name,
               answers[i].result < 0 ? strerror(-answers[i].result) : "allowed",
               (unsigned long long)answers[i].content, after[i]);
}

/*
 * What the kernel's FUSE makes impossible. chown(2) without owner and group takes setuid and
 * setgid, and so is refused to who is not the owner. The request it becomes is the same as what
 * precedes fallocate, which must go on: it is not refused, and has no effect.
 */
static bool is_kernels(const struct order *order, const struct answer *answers, char *const *after,
                       const struct place *places)
{
    return strcmp(operations[order->operation].name, "owner_none") == 0 &&
           answers[0].result == -EPERM && answers[1].result == 0 &&
           strcmp(after[1], places[1].pristine) == 0 && strcmp(after[0], after[1]) == 0;
}

static void try_case(struct place *places, const struct scene *scene, unsigned identity,
                     const struct order *order, struct tally *tally)
{
    struct answer answers[2];
    char *after[2];
    for (unsigned i = 0; i < 2; i++) {
        answers[i] = ask(&places[i], identity, order);
        after[i] = scene_describe(places[i].root);
    }
    tally->cases++;
    if (answers[0].result < 0)
        tally->refused++;
    else
        tally->allowed++;
    if (is_kernels(order, answers, after, places)) {
        tally->kernels++;
    } else if (answers[0].result != answers[1].result || answers[0].content != answers[1].content ||
               strcmp(after[0], after[1]) != 0) {
        tally->differences++;
        if (tally->shown[order->operation]++ < SHOWN_OF_EACH)
            show_difference(scene, identity, order, places, answers, after);
    }
    for (unsigned i = 0; i < 2; i++) {
        if (strcmp(after[i], places[i].pristine) != 0)
            refresh(&places[i], scene);
        free(after[i]);
    }
}

/* All callers and operations on one scene. */
static void try_scene(struct place *places, const struct scene *scene, struct tally *tally)
{
    static const uint32_t masks[] = {022, 0, 077, 002};
    tally->scenes++;
    for (unsigned i = 0; i < 2; i++)
        refresh(&places[i], scene);
    if (strcmp(places[0].pristine, places[1].pristine) != 0) {
        tally->differences++;
        printf("DIFFERENT as made by root:\n%s\n%s\n", places[0].pristine, places[1].pristine);
        return;
    }
    for (unsigned identity = 0; identity < IDENTITY_COUNT; identity++) {
        for (uint32_t i = 0; i < operation_count; i++) {
            const struct order order = {.operation = i,
                                        .mask = masks[(tally->scenes + i + identity) % 4]};
            try_case(places, scene, identity, &order, tally);
        }
    }
}

/* ---- scenes ---------------------------------------------------------------------------------- */

static const struct scene_node dir_table[] = {
    {0, 0, 0755, SCENE_ACL_NONE, SCENE_ACL_NONE},
    {1000, 1000, 0775, SCENE_ACL_NONE, SCENE_ACL_NONE},
    {0, 1000, 01777, SCENE_ACL_NONE, SCENE_ACL_NONE},
    {1000, 1000, 02775, SCENE_ACL_NONE, SCENE_ACL_USER},
    {0, 2000, 03777, SCENE_ACL_GROUP, SCENE_ACL_MASKED},
};

static const struct scene_node file_table[] = {
    {1000, 1000, 0640, SCENE_ACL_NONE, SCENE_ACL_NONE},
    {0, 0, 0666, SCENE_ACL_NONE, SCENE_ACL_NONE},
    {1000, 1000, 06777, SCENE_ACL_NONE, SCENE_ACL_NONE},
    {1000, 1000, 02766, SCENE_ACL_NONE, SCENE_ACL_NONE},
    {1000, 2000, 0600, SCENE_ACL_USER, SCENE_ACL_NONE},
};

static void add_outer(struct scene *scene)
{
    scene->outer_uid = 1000;
    scene->outer_gid = 1000;
}

static void try_tables(struct place *places, struct tally *tally)
{
    for (size_t d = 0; d < sizeof dir_table / sizeof dir_table[0]; d++) {
        for (size_t f = 0; f < sizeof file_table / sizeof file_table[0]; f++) {
            struct scene scene = {.dir = dir_table[d], .file = file_table[f]};
            add_outer(&scene);
            try_scene(places, &scene, tally);
        }
    }
}

static struct scene_node random_node(uint64_t *state)
{
    static const uid_t ids[] = {0, 1000, 1001, 1002};
    static const gid_t groups[] = {0, 1000, 2000, 1002};
    static const mode_t modes[] = {0755, 0700, 0770, 0777, 0711, 0733, 0300, 0500, 0,
                                   0644, 0600, 0660, 0666, 0444, 0111, 0077, 0707, 0070};
    struct scene_node node = {
        .uid = ids[test_below(state, 4)],
        .gid = groups[test_below(state, 4)],
        .mode = modes[test_below(state, sizeof modes / sizeof modes[0])],
    };
    if (test_below(state, 2))
        node.mode |= (mode_t)test_below(state, 8) << 9;
    if (test_below(state, 2))
        node.access = (enum scene_acl)test_below(state, SCENE_ACL_MINIMAL + 1);
    if (test_below(state, 2))
        node.inherited = (enum scene_acl)test_below(state, SCENE_ACL_MINIMAL + 1);
    return node;
}

static void try_random(struct place *places, uint64_t seed, uint64_t count, struct tally *tally)
{
    uint64_t state = seed;
    for (uint64_t i = 0; i < count; i++) {
        struct scene scene = {.dir = random_node(&state), .file = random_node(&state)};
        add_outer(&scene);
        if (test_below(&state, 2))
            scene.outer_uid = 1002;
        try_scene(places, &scene, tally);
    }
}

/* ---- the whole --------------------------------------------------------------- */

static bool is_like_ext4(const char *dir)
{
    struct statfs kind;
    struct statvfs flags;
    uint8_t list[SCENE_ACL_MAX];
    const size_t length = scene_acl_bytes(SCENE_ACL_USER, list);
    return !statfs(dir, &kind) && kind.f_type == EXT4_MAGIC && !statvfs(dir, &flags) &&
           !(flags.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC)) &&
           !setxattr(dir, SCENE_ACCESS_ACL, list, length, 0) && !removexattr(dir, SCENE_ACCESS_ACL);
}

/* A directory on ext4: in /tmp, or else in an image of our own. */
static void find_ext4(const struct test_mount *mount, char *dir, size_t capacity, bool *mounted)
{
    char command[5 * PATH_MAX + 128];
    snprintf(dir, capacity, "%s/ext4", mount->base);
    if (mkdir(dir, 0755))
        die(dir);
    *mounted = !is_like_ext4(dir);
    if (!*mounted) {
        if (chmod(dir, 0755)) /* the list has left its mark */
            die(dir);
        return;
    }
    snprintf(command, sizeof command,
             "truncate -s 64M '%s.image' && mkfs.ext4 -q '%s.image' && mount -o loop '%s.image' "
             "'%s' && chmod 755 '%s'",
             dir, dir, dir, dir, dir);
    if (system(command)) /* of our own making; the loop device goes with the mount */
        die("no ext4 to compare with: mkfs.ext4 and mount");
}

static uint64_t from_environment(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : usual;
}

int main(void)
{
    struct test_mount mount;
    struct place places[2] = {{.name = "ext4"}, {.name = "kvfs"}};
    struct tally tally = {0};
    bool mounted;
    tally.shown = calloc(operation_count, sizeof *tally.shown);
    if (!tally.shown)
        die("memory");
    if (!test_mount_possible()) {
        free(tally.shown);
        return 77;
    }
    const uint64_t seed = test_seed();
    (void)umask(0);
    test_mount_begin(&mount, NULL, 256);
    find_ext4(&mount, places[0].dir, sizeof places[0].dir, &mounted);
    snprintf(places[1].dir, sizeof places[1].dir, "%s", mount.dir);
    for (unsigned i = 0; i < 2; i++) {
        places[i].root = open(places[i].dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (places[i].root < 0)
            die(places[i].dir);
        (void)fflush(stdout); /* not once more from each child */
        start_workers(&places[i]);
    }

    if (from_environment("PERMISSIONS_TABLES", 1))
        try_tables(places, &tally);
    try_random(places, seed, from_environment("PERMISSIONS_SCENES", 4), &tally);

    for (unsigned i = 0; i < 2; i++) {
        scene_remove(places[i].root);
        stop_workers(&places[i]);
        free(places[i].pristine);
    }
    if (mounted && umount2(places[0].dir, 0))
        die("umount");
    test_mount_end(&mount);
    free(tally.shown);
    printf("%llu cases in %llu scenes, %llu allowed, %llu refused: %llu different from ext4, "
           "%llu as the kernel's FUSE has it\n",
           (unsigned long long)tally.cases, (unsigned long long)tally.scenes,
           (unsigned long long)tally.allowed, (unsigned long long)tally.refused,
           (unsigned long long)tally.differences, (unsigned long long)tally.kernels);
    return tally.differences ? 1 : 0;
}
