/*
 * tests/faults/fuzz/replay.c: runs a fuzz target over its corpus, without libFuzzer.
 *
 *    replay-X CORPUS_DIRECTORY [INPUT_FILE...]
 *
 * Each file of the corpus is run, then KVFS_FUZZ_RUNS inputs made from them by mutation. Run
 * number i depends on KVFS_SEED (1 unless said: the test command replays, a search gives seeds of
 * its own), i and the corpus only. With KVFS_FUZZ_KEEP=FILE each input
 * is written to FILE before it is run, so that FILE holds the one that failed. With input
 * files given, these alone are run.
 *
 * Owns       the watchdog, which aborts.
 * Invariant  an input that was run leaves nothing that the next one could see, but for what
 *            the target makes once.
 */
#include "tests/faults/fuzz/fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#define INPUT_MAX    16384u /* bytes of one input */
#define HANG_SECONDS 60u    /* a machine under load is slow; a hang does not end at all */
#define RUNS_DEFAULT 2000u

struct corpus {
    struct corpus_file {
        char *name;
        uint8_t *bytes;
        size_t length;
    } * files;
    size_t count;
};

/* ---- limits ------------------------------------------------------------------- */

static char running[512]; /* what a signal handler may print */

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return; /* nobody listens; the exit status tells the rest */
}

static void on_alarm(int number)
{
    (void)number;
    say("hangs: ");
    say(running);
    say("\n");
    abort();
}

static void on_abort(int number)
{
    (void)number;
    say("failed: ");
    say(running);
    say("\n");
    signal(SIGABRT, SIG_DFL);
    abort();
}

/* ---- running ------------------------------------------------------------------- */

static void keep(const uint8_t *bytes, size_t length)
{
    const char *const path = getenv("KVFS_FUZZ_KEEP");
    FILE *const file = path ? fopen(path, "wb") : NULL;
    if (!file)
        return;
    KV_ASSERT(fwrite(bytes, 1, length, file) == length);
    KV_ASSERT(fclose(file) == 0);
}

/* In memory of just its length, so that a byte too far is seen. */
static void run(const uint8_t *bytes, size_t length)
{
    const struct fuzz_input input = {bytes, length};
    keep(bytes, length);
    uint8_t *const copy = fuzz_copy(&input);
    alarm(HANG_SECONDS);
    (void)LLVMFuzzerTestOneInput(copy, length);
    alarm(0);
    free(copy);
}

static void read_file(const char *path, struct corpus_file *file)
{
    FILE *const stream = fopen(path, "rb");
    if (!stream) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(1);
    }
    file->name = strdup(path);
    file->bytes = malloc(INPUT_MAX);
    KV_ASSERT(file->name && file->bytes);
    file->length = fread(file->bytes, 1, INPUT_MAX, stream);
    fclose(stream);
}

static void add_file(struct corpus *corpus, const char *path)
{
    struct corpus_file *const files =
        realloc(corpus->files, (corpus->count + 1) * sizeof *corpus->files);
    KV_ASSERT(files);
    corpus->files = files;
    read_file(path, &files[corpus->count++]);
}

/* In the order of their names, so that a seed means the same everywhere. */
static void read_directory(struct corpus *corpus, const char *directory)
{
    struct dirent **entries = NULL;
    const int count = scandir(directory, &entries, NULL, alphasort);
    if (count < 0) {
        fprintf(stderr, "%s: %s\n", directory, strerror(errno));
        exit(1);
    }
    for (int i = 0; i < count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.')
            add_file(corpus, path);
        free(entries[i]);
    }
    free(entries);
}

static void run_corpus(const struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->count; i++) {
        snprintf(running, sizeof running, "%s", corpus->files[i].name);
        run(corpus->files[i].bytes, corpus->files[i].length);
    }
}

static void release(struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->count; i++) {
        free(corpus->files[i].name);
        free(corpus->files[i].bytes);
    }
    free(corpus->files);
}

/* ---- mutation ------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t random_below(uint64_t *state, size_t limit)
{
    return (size_t)(random_next(state) % limit);
}

/* Numbers at which code changes its mind. */
static uint64_t random_edge(uint64_t *state)
{
    static const uint64_t edges[] = {
        0,    1,    2,    4,     16,    255,      256,       511,        512,       513,
        4095, 4096, 4097, 65535, 65536, 1u << 20, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};
    return edges[random_below(state, sizeof edges / sizeof edges[0])];
}

/* Make room for, or close, `length` bytes at `at`. */
static size_t move_tail(uint8_t *bytes, size_t length, size_t at, size_t count, bool insert)
{
    if (insert) {
        if (count > INPUT_MAX - length)
            count = INPUT_MAX - length;
        memmove(bytes + at + count, bytes + at, length - at);
        return length + count;
    }
    if (count > length - at)
        count = length - at;
    memmove(bytes + at, bytes + at + count, length - at - count);
    return length - count;
}

static size_t mutate_once(uint64_t *state, const struct corpus *corpus, uint8_t *bytes,
                          size_t length)
{
    const size_t at = random_below(state, length + 1);
    const size_t count = 1 + random_below(state, 16);
    switch (random_below(state, 6)) {
    case 0: /* insert noise */
        length = move_tail(bytes, length, at, count, true);
        for (size_t i = at; i < at + count && i < length; i++)
            bytes[i] = (uint8_t)random_next(state);
        return length;
    case 1: /* remove */
        return move_tail(bytes, length, at, count, false);
    case 2: /* flip a bit */
        if (at < length)
            bytes[at] ^= (uint8_t)(1u << random_below(state, 8));
        return length;
    case 3: { /* a number with an edge */
        const uint64_t edge = random_edge(state);
        const size_t width = (size_t)1 << random_below(state, 4);
        if (width <= length - at)
            memcpy(bytes + at, &edge, width);
        return length;
    }
    case 4: { /* a piece of another file */
        if (!corpus->count)
            return length;
        const struct corpus_file *const other = &corpus->files[random_below(state, corpus->count)];
        const size_t from = random_below(state, other->length + 1);
        size_t some = random_below(state, other->length - from + 1);
        if (some > INPUT_MAX - at)
            some = INPUT_MAX - at;
        memcpy(bytes + at, other->bytes + from, some);
        return length > at + some ? length : at + some;
    }
    default: /* overwrite with noise */
        for (size_t i = at; i < at + count && i < length; i++)
            bytes[i] = (uint8_t)random_next(state);
        return length;
    }
}

static void run_mutations(const struct corpus *corpus, uint64_t seed, uint64_t runs)
{
    uint8_t *const bytes = malloc(INPUT_MAX);
    KV_ASSERT(bytes);
    for (uint64_t i = 0; i < runs; i++) {
        uint64_t state = seed * 0x2545f4914f6cdd1du + i;
        size_t length = 0;
        if (corpus->count) {
            const struct corpus_file *const file =
                &corpus->files[random_below(&state, corpus->count)];
            length = file->length;
            memcpy(bytes, file->bytes, length);
        }
        for (size_t steps = 1 + random_below(&state, 8); steps; steps--)
            length = mutate_once(&state, corpus, bytes, length);
        snprintf(running, sizeof running, "KVFS_SEED=%llu, mutation %llu", (unsigned long long)seed,
                 (unsigned long long)i);
        run(bytes, length);
    }
    free(bytes);
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *const text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
    const uint64_t seed = number_from("KVFS_SEED", 1);
    const uint64_t runs = argc == 2 ? number_from("KVFS_FUZZ_RUNS", RUNS_DEFAULT) : 0;
    struct corpus corpus = {0};
    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS_DIRECTORY [INPUT_FILE...]\n", argv[0]);
        return 2;
    }
    signal(SIGALRM, on_alarm);
    signal(SIGABRT, on_abort);
    printf("KVFS_SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    if (argc == 2)
        read_directory(&corpus, argv[1]);
    for (int i = 2; i < argc; i++)
        add_file(&corpus, argv[i]);
    run_corpus(&corpus);
    run_mutations(&corpus, seed, runs);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const char *const slash = strrchr(argv[0], '/');
    printf("%s: %zu files, %llu mutations, at most %ld MiB of memory\n",
           slash ? slash + 1 : argv[0], corpus.count, (unsigned long long)runs,
           usage.ru_maxrss / 1024);
    release(&corpus);
    return 0;
}
