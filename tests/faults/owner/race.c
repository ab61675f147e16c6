/*
 * tests/faults/owner/race.c: many processes want the same image at the same moment.
 *
 * Each round, all start together, by its path, a symbolic link and a hard link. Exactly one
 * becomes the owner; each of the others is refused and told the number of that one's process.
 * Then the owner closes the image, or is killed, by turns, and it can be opened at once.
 *
 * Owns       a temporary directory, and the processes, which end when this one does.
 * Environment: KVFS_SEED, OWNER_ROUNDS (60), OWNER_PROCESSES (6).
 */
#include "kv/device.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESSES_MAX 64u
#define IMAGE_BYTES   (1 << 20)

enum { WAYS = 3 };

struct scene {
    char directory[64];
    char ways[WAYS][96]; /* path, symbolic link, hard link */
    unsigned process_count;
    uint64_t random;
};

struct answer {
    pid_t pid;
    int err;
    struct kv_error error;
};

/* What went wrong ends the program; the children see the pipes close. */
static void require(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "race: FAILED: %s (errno: %s)\n", what, strerror(errno));
    exit(1);
}

static uint64_t draw(struct scene *scene)
{
    scene->random = scene->random * 6364136223846793005u + 1442695040888963407u;
    return scene->random >> 33;
}

static unsigned from_environment(const char *name, unsigned usual)
{
    const char *text = getenv(name);
    return text ? (unsigned)strtoul(text, NULL, 0) : usual;
}

/* In the child: wait for the start, try, answer, hold what was won until told to end. */
static void contend(const char *path, unsigned flags, int start, int answers, int finish)
{
    struct kv_device *device;
    struct answer answer = {.pid = getpid()};
    char byte;
    if (read(start, &byte, 1) != 0)
        _exit(2);
    answer.err = kv_device_open(path, flags, &device, &answer.error);
    if (write(answers, &answer, sizeof answer) != sizeof answer)
        _exit(2);
    if (!answer.err) {
        if (read(finish, &byte, 1) != 0)
            _exit(2);
        kv_device_close(device);
    }
    _exit(0);
}

static void check_answers(const struct answer *answers, unsigned count, pid_t *winner)
{
    *winner = 0;
    for (unsigned i = 0; i < count; i++) {
        require(answers[i].err == 0 || answers[i].err == -EBUSY, answers[i].error.text);
        require(answers[i].err || !*winner, "two processes own the image");
        if (!answers[i].err)
            *winner = answers[i].pid;
    }
    require(*winner != 0, "no process owns the image");
    char name[32];
    snprintf(name, sizeof name, "process %d ", (int)*winner);
    for (unsigned i = 0; i < count; i++)
        require(!answers[i].err || strstr(answers[i].error.text, name), answers[i].error.text);
}

static void run_round(struct scene *scene, bool kill_winner)
{
    int start[2], answer_pipe[2], finish[2];
    struct answer answers[PROCESSES_MAX];
    require(!pipe(start) && !pipe(answer_pipe) && !pipe(finish), "pipe");
    for (unsigned i = 0; i < scene->process_count; i++) {
        const char *way = scene->ways[draw(scene) % WAYS];
        const unsigned flags = draw(scene) % 4 ? 0 : KV_DEVICE_READ_ONLY;
        const pid_t child = fork();
        require(child >= 0, "fork");
        if (child == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(start[1]);
            close(answer_pipe[0]);
            close(finish[1]);
            contend(way, flags, start[0], answer_pipe[1], finish[0]);
        }
    }
    close(start[0]);
    close(start[1]); /* now */
    for (unsigned i = 0; i < scene->process_count; i++)
        require(read(answer_pipe[0], &answers[i], sizeof answers[i]) == sizeof answers[i],
                "a process ended without an answer");
    pid_t winner;
    check_answers(answers, scene->process_count, &winner);
    require(kv_image_holder(scene->ways[draw(scene) % WAYS]) == winner, "the holder is not told");

    if (kill_winner)
        require(!kill(winner, SIGKILL), "kill");
    else
        close(finish[1]);
    struct kv_device *device;
    struct kv_error error = {""};
    if (!kill_winner) /* one that is about to close is alive, and would be told */
        require(waitpid(winner, NULL, 0) == winner, "waitpid");
    require(!kv_device_open(scene->ways[0], 0, &device, &error), error.text);
    kv_device_close(device);
    require(kv_image_holder(scene->ways[0]) == 0, "a lock was left behind");
    while (waitpid(-1, NULL, 0) > 0)
        continue;
    if (kill_winner)
        close(finish[1]);
    close(finish[0]);
    close(answer_pipe[0]);
    close(answer_pipe[1]);
}

static void set_up(struct scene *scene)
{
    strcpy(scene->directory, "/tmp/kvfs-race-XXXXXX");
    require(mkdtemp(scene->directory) != NULL, "mkdtemp");
    static const char *const names[WAYS] = {"image", "symbolic", "hard"};
    for (unsigned i = 0; i < WAYS; i++)
        snprintf(scene->ways[i], sizeof scene->ways[i], "%s/%s", scene->directory, names[i]);
    const int fd = open(scene->ways[0], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    require(fd >= 0 && !ftruncate(fd, IMAGE_BYTES) && !close(fd), "making the file");
    require(!symlink("image", scene->ways[1]) && !link(scene->ways[0], scene->ways[2]), "linking");
}

static struct scene scene;

static void clean_up(void)
{
    for (unsigned i = 0; i < WAYS; i++)
        unlink(scene.ways[i]);
    rmdir(scene.directory);
}

int main(void)
{
    const unsigned rounds = from_environment("OWNER_ROUNDS", 60);
    scene.random = from_environment("KVFS_SEED", 1);
    scene.process_count = from_environment("OWNER_PROCESSES", 6);
    printf("KVFS_SEED=%llu\n", (unsigned long long)scene.random);
    require(scene.process_count >= 1 && scene.process_count <= PROCESSES_MAX, "OWNER_PROCESSES");
    (void)fflush(stdout); /* not once more from each child */
    set_up(&scene);
    (void)atexit(clean_up); /* children leave by _exit */
    for (unsigned round = 0; round < rounds; round++)
        run_round(&scene, round % 2);
    printf("%u rounds of %u processes: one owner in each, %u of them killed, no lock left\n",
           rounds, scene.process_count, rounds / 2);
    return 0;
}
