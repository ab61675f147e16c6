/*
 * tests/faults/damage/scene_fsck.c: what fsck.kvfs makes of a scene, in process or by the program.
 *
 * Owns       the file that the program is given.
 */
#include "scene.h"

#include "fs/fsck.h"
#include "kv/superblock.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STATUS_OK = 0, STATUS_CORRECTED = 1, STATUS_LEFT = 4, STATUS_ERROR = 8 };

/* ---- words --------------------------------------------------------------------------- */

#define WORDS_MAX 64u

struct words {
    char words[WORDS_MAX][24];
    size_t count;
};

static void note_word(struct words *words, const char *word)
{
    size_t at = 0;
    while (at < words->count && strcmp(words->words[at], word) < 0)
        at++;
    if (at < words->count && strcmp(words->words[at], word) == 0)
        return;
    KV_ASSERT(words->count < WORDS_MAX);
    memmove(words->words[at + 1], words->words[at], (words->count - at) * sizeof words->words[0]);
    snprintf(words->words[at], sizeof words->words[0], "%s", word);
    words->count++;
}

static void print_words(const struct words *words, struct fsck_verdict *verdict)
{
    verdict->words[0] = '\0';
    for (size_t i = 0; i < words->count; i++) {
        const size_t used = strlen(verdict->words);
        snprintf(verdict->words + used, sizeof verdict->words - used, "%s%s", i ? " " : "",
                 words->words[i]);
    }
}

/* ---- in process ---------------------------------------------------------------------- */

/* What tools/fsck_kvfs.c keeps of a run, as far as the verdict depends on it. */
struct run {
    enum fsck_mode mode;
    struct words words;
    bool opening, looking; /* only what is found then is noted */
    uint64_t found_opening;
    struct fsck_verdict *verdict;
};

static void note_finding(void *context, enum kv_check_severity severity, const char *what,
                         const char *text)
{
    struct run *run = context;
    if (severity == KV_CHECK_NOTE)
        return;
    run->found_opening += run->opening;
    if (!run->opening && !run->looking)
        return;
    note_word(&run->words, what);
    const size_t used = strlen(run->verdict->details);
    snprintf(run->verdict->details + used, sizeof run->verdict->details - used, "    %s: %s\n",
             what, text);
}

static bool is_damage(int err)
{
    return err == -EBADMSG || err == -EUCLEAN || err == -EIO || err == -ESTALE;
}

/* The filesystem of a damaged store is looked at when that is mended, or as far as it goes. */
static int check_files(struct kv_store *store, const struct run *run,
                       const struct kv_check_options *options, bool store_damaged,
                       struct kv_check_result *result)
{
    const bool unsure = run->looking && store_damaged;
    if (unsure && run->mode == FSCK_YES)
        return 0;
    const int err = fs_check(store, options, result);
    return unsure && is_damage(err) ? 0 : err;
}

/* Returns 0 or what broke it off. */
static int check_pass(struct kv_store *store, struct run *run, bool repair, uint64_t *found,
                      uint64_t *damaged)
{
    const struct kv_check_options options = {
        .repair = repair, .read_blobs = true, .report = note_finding, .context = run};
    struct kv_check_result in_store, in_fs = {0};
    int err = kv_check(store, &options, &in_store);
    if (!err)
        err = check_files(store, run, &options, in_store.damaged > 0, &in_fs);
    if (err)
        return err;
    *damaged = in_store.damaged + in_fs.damaged;
    *found = in_store.repairable + in_fs.repairable + *damaged;
    return 0;
}

static int check_and_mend(struct kv_store *store, struct run *run, uint64_t *found, uint64_t *left)
{
    uint64_t damaged, ignored;
    run->looking = true;
    int err = check_pass(store, run, false, found, &damaged);
    run->looking = false;
    *left = *found;
    if (err || !*found || run->mode == FSCK_LOOK || (run->mode == FSCK_PREEN && damaged))
        goto out;
    err = check_pass(store, run, true, &ignored, &damaged);
    if (!err)
        err = kv_checkpoint(store);
    if (!err)
        err = check_pass(store, run, false, left, &damaged);
out:
    *found += run->found_opening;
    if (run->mode == FSCK_LOOK) /* mended in memory only */
        *left += run->found_opening;
    return err;
}

void scene_fsck(struct scene *scene, enum fsck_mode mode, struct fsck_verdict *verdict)
{
    struct run run = {.mode = mode, .verdict = verdict};
    uint64_t found = 0, left = 0;
    *verdict = (struct fsck_verdict){.status = 0};
    scene->store = NULL;
    run.opening = true;
    int err = scene_open_for_fsck(scene, mode != FSCK_PREEN, mode == FSCK_LOOK, note_finding, &run);
    run.opening = false;
    if (!err) {
        err = check_and_mend(scene->store, &run, &found, &left);
        const int close_err = kv_close(scene->store);
        scene->store = NULL;
        err = err ? err : close_err;
    }
    if (err == -EBADMSG || err == -EUCLEAN) {
        note_word(&run.words, "unreadable");
        verdict->status = STATUS_LEFT;
    } else if (err) {
        verdict->status = STATUS_ERROR;
    } else {
        verdict->status = left ? STATUS_LEFT : found ? STATUS_CORRECTED : STATUS_OK;
    }
    print_words(&run.words, verdict);
}

/* ---- the program --------------------------------------------------------------------- */

/* Copy the image to a file, sparse, or back. */
static void copy_image(struct scene *scene, int fd, bool to_file)
{
    static const uint8_t zeros[KV_BLOCK_BYTES];
    uint8_t bytes[KV_BLOCK_BYTES];
    const uint64_t blocks = scene->shown_blocks ? scene->shown_blocks : SCENE_BLOCKS;
    for (uint64_t block = 0; block < blocks; block++) {
        const off_t at = (off_t)(block * KV_BLOCK_BYTES);
        ssize_t done = KV_BLOCK_BYTES;
        if (to_file) {
            scene_read(scene, block, bytes);
            if (memcmp(bytes, zeros, sizeof bytes) != 0)
                done = pwrite(fd, bytes, sizeof bytes, at);
        } else {
            done = pread(fd, bytes, sizeof bytes, at);
            scene_write(scene, block, bytes);
        }
        KV_ASSERT(done == KV_BLOCK_BYTES);
    }
}

/* The word of each finding that is worse than a note and was found at first. */
static void parse_findings(const char *json, struct words *words)
{
    for (const char *at = json; (at = strstr(at, "\"severity\":\"")) != NULL;) {
        at += strlen("\"severity\":\"");
        const bool is_note = strncmp(at, "note", 4) == 0;
        const char *after = strstr(at, "\"after_repair\":");
        const char *what = strstr(at, "\"what\":\"");
        KV_ASSERT(after && what);
        char word[24];
        what += strlen("\"what\":\"");
        snprintf(word, sizeof word, "%.*s", (int)strcspn(what, "\""), what);
        if (!is_note && after[strlen("\"after_repair\":")] == 'f')
            note_word(words, word);
    }
}

/* Run it and keep what it prints. Returns its exit status. */
static int run_program(const char *program, const char *flag, const char *image, char *out,
                       size_t cap)
{
    int ends[2];
    KV_ASSERT(pipe2(ends, O_CLOEXEC) == 0);
    const pid_t child = fork();
    KV_ASSERT(child >= 0);
    if (!child) {
        const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, STDIN_FILENO);
        dup2(ends[1], STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        execl(program, program, flag, "-f", "-j", image, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got; (got = read(ends[0], out + used, cap - 1 - used)) > 0;)
        used += (size_t)got;
    out[used] = '\0';
    close(ends[0]);
    int how = 0;
    while (waitpid(child, &how, 0) < 0)
        KV_ASSERT(errno == EINTR);
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128;
}

void scene_fsck_program(struct scene *scene, const char *program, enum fsck_mode mode,
                        struct fsck_verdict *verdict)
{
    static const char *const flags[] = {[FSCK_LOOK] = "-n", [FSCK_PREEN] = "-p", [FSCK_YES] = "-y"};
    static char out[1u << 20];
    char image[] = "/tmp/kvfs-damage-XXXXXX";
    struct words words = {.count = 0};
    *verdict = (struct fsck_verdict){.status = 0};
    const int fd = mkstemp(image);
    KV_ASSERT(fd >= 0);
    const uint64_t blocks = scene->shown_blocks ? scene->shown_blocks : SCENE_BLOCKS;
    KV_ASSERT(ftruncate(fd, (off_t)(blocks * KV_BLOCK_BYTES)) == 0);
    copy_image(scene, fd, true);
    verdict->status = run_program(program, flags[mode], image, out, sizeof out);
    copy_image(scene, fd, false);
    close(fd);
    unlink(image);
    parse_findings(out, &words);
    print_words(&words, verdict);
    snprintf(verdict->details, sizeof verdict->details, "%.1000s", out);
}
