/*
 * tests/faults/damage/damage_corpus.c: damaged images, each made by a recipe, and what fsck.kvfs
 * makes of them.
 *
 *   damage_corpus [FSCK [SHARE]]     FSCK: the program, which is run on one of SHARE images too
 *   damage_corpus --print [NAME]     what was found, as rows for the tables; or of one recipe
 *
 * Of each image: what -n finds, and that it changes nothing; what -p mends; what -y mends; that a
 * second run finds nothing left after a run that says so; that what the damage did not reach is
 * there in the end. In process all of them, by the program a part.
 *
 * KVFS_EVERY=N: only every N-th recipe. The last line has the counts. Exit status 0: all verdicts
 * were as expected.
 */
#include "recipes.h"

#include "kv/codec.h"

#include <stdarg.h>

struct corpus {
    const struct scene_base *base;
    const char *program; /* NULL: none */
    uint64_t share;
    uint64_t images, by_program, clean, mended_by_preen, mended_by_yes, left, problems;
};

typedef void fsck_fn(struct scene *scene, const char *program, enum fsck_mode mode,
                     struct fsck_verdict *verdict);

static void fsck_in_process(struct scene *scene, const char *program, enum fsck_mode mode,
                            struct fsck_verdict *verdict)
{
    (void)program;
    scene_fsck(scene, mode, verdict);
}

static const char *const mode_names[] = {"-n", "-p", "-y"};

static void problem(struct corpus *corpus, const struct recipe *recipe, const char *format, ...)
    KV_PRINTF(3, 4);

static void problem(struct corpus *corpus, const struct recipe *recipe, const char *format, ...)
{
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    corpus->problems++;
    printf("PROBLEM: %s: %s\n", recipe->name, text);
}

static uint64_t digest_image(const struct scene *scene)
{
    uint8_t bytes[KV_BLOCK_BYTES];
    uint64_t digest = 0;
    for (uint64_t block = 0; block < SCENE_BLOCKS; block++) {
        scene_read(scene, block, bytes);
        digest = kv_digest(bytes, sizeof bytes, digest);
    }
    return digest;
}

/* Look: the right words, and not a byte is changed. */
static void look(struct corpus *corpus, const struct recipe *recipe, const struct scene *damaged,
                 fsck_fn *fsck)
{
    struct scene scene;
    struct fsck_verdict verdict;
    scene_copy(&scene, damaged);
    const uint64_t before = digest_image(&scene);
    fsck(&scene, corpus->program, FSCK_LOOK, &verdict);
    if (verdict.status != recipe->look || strcmp(verdict.words, recipe->words) != 0)
        problem(corpus, recipe, "-n: %d \"%s\", not %d \"%s\"\n%s", verdict.status, verdict.words,
                recipe->look, recipe->words, verdict.details);
    if (digest_image(&scene) != before)
        problem(corpus, recipe, "-n changes the image");
    scene_release(&scene);
}

/* Mend in one of the two ways: the right status; after it nothing is left and nothing lost. */
static void mend(struct corpus *corpus, const struct recipe *recipe, const struct scene *damaged,
                 enum fsck_mode mode, fsck_fn *fsck)
{
    const int expected = mode == FSCK_PREEN ? recipe->preen : recipe->yes;
    struct scene scene;
    struct fsck_verdict verdict, again;
    scene_copy(&scene, damaged);
    fsck(&scene, corpus->program, mode, &verdict);
    if (verdict.status != expected)
        problem(corpus, recipe, "%s: %d \"%s\", not %d\n%s", mode_names[mode], verdict.status,
                verdict.words, expected, verdict.details);
    if (verdict.status <= 1) {
        fsck(&scene, corpus->program, FSCK_LOOK, &again);
        if (again.status)
            problem(corpus, recipe, "after %s: %d \"%s\"\n%s", mode_names[mode], again.status,
                    again.words, again.details);
    }
    const bool opens = verdict.status <= 1 || (mode == FSCK_YES && verdict.status == 4 &&
                                               strcmp(verdict.words, "unreadable") != 0);
    if (opens && !scene.shown_blocks) {
        const unsigned missing = scene_compare(&scene);
        if (missing)
            problem(corpus, recipe, "after %s: %u items are gone or changed", mode_names[mode],
                    missing);
    }
    if (mode == FSCK_PREEN)
        corpus->mended_by_preen += verdict.status == 1;
    else if (verdict.status == 0)
        corpus->clean++;
    else if (verdict.status == 1)
        corpus->mended_by_yes++;
    else
        corpus->left++;
    scene_release(&scene);
}

static void try_recipe(struct corpus *corpus, const struct recipe *recipe)
{
    struct scene damaged;
    scene_init(&damaged, corpus->base);
    recipe->make(&damaged, recipe->argument);
    KV_ASSERT(!damaged.store);
    corpus->images++;
    look(corpus, recipe, &damaged, fsck_in_process);
    mend(corpus, recipe, &damaged, FSCK_PREEN, fsck_in_process);
    mend(corpus, recipe, &damaged, FSCK_YES, fsck_in_process);
    if (corpus->program && corpus->images % corpus->share == 0) {
        struct corpus counts = *corpus; /* counted once */
        look(&counts, recipe, &damaged, scene_fsck_program);
        mend(&counts, recipe, &damaged, FSCK_PREEN, scene_fsck_program);
        mend(&counts, recipe, &damaged, FSCK_YES, scene_fsck_program);
        corpus->problems = counts.problems;
        corpus->by_program++;
    }
    scene_release(&damaged);
}

static void print_recipe(struct corpus *corpus, const struct recipe *recipe, bool details)
{
    struct scene damaged;
    struct fsck_verdict verdicts[3];
    scene_init(&damaged, corpus->base);
    recipe->make(&damaged, recipe->argument);
    for (enum fsck_mode mode = FSCK_LOOK; mode <= FSCK_YES; mode++) {
        struct scene scene;
        scene_copy(&scene, &damaged);
        scene_fsck(&scene, mode, &verdicts[mode]);
        scene_release(&scene);
    }
    printf("%-45s \"%s\", %d, %d, %d\n", recipe->name, verdicts[0].words, verdicts[0].status,
           verdicts[1].status, verdicts[2].status);
    if (details)
        fputs(verdicts[0].details, stdout);
    scene_release(&damaged);
}

struct table {
    const struct recipe *recipes;
    size_t count;
};

int main(int argc, char **argv)
{
    const struct table tables[] = {{superblock_recipes, superblock_recipe_count},
                                   {store_recipes, store_recipe_count},
                                   {page_recipes, page_recipe_count},
                                   {fs_recipes, fs_recipe_count}};
    const bool print = argc > 1 && strcmp(argv[1], "--print") == 0;
    struct scene_base *base = scene_base_new();
    struct corpus corpus = {.base = base,
                            .program = argc > 1 && !print ? argv[1] : NULL,
                            .share = argc > 2 && !print ? strtoull(argv[2], NULL, 0) : 1};
    if (!corpus.share)
        corpus.share = 1;
    const uint64_t every = kv_max_u64(test_env("KVFS_EVERY", 1), 1);
    uint64_t number = 0;
    printf("KVFS_SEED=0 (the recipes decide), one in %llu (KVFS_EVERY)\n",
           (unsigned long long)every);
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++)
        for (size_t i = 0; i < tables[t].count; i++) {
            const struct recipe *recipe = &tables[t].recipes[i];
            if (print && (argc < 3 || strstr(recipe->name, argv[2])))
                print_recipe(&corpus, recipe, argc > 2);
            else if (!print && number++ % every == 0)
                try_recipe(&corpus, recipe);
            fflush(stdout);
        }
    scene_base_free(base);
    if (print)
        return 0;
    printf("damage_corpus: %llu images (%llu by the program too): %llu sound, %llu mended by -p, "
           "%llu by -y, %llu not; %llu problems\n",
           (unsigned long long)corpus.images, (unsigned long long)corpus.by_program,
           (unsigned long long)corpus.clean, (unsigned long long)corpus.mended_by_preen,
           (unsigned long long)corpus.mended_by_yes, (unsigned long long)corpus.left,
           (unsigned long long)corpus.problems);
    return corpus.problems ? 1 : 0;
}
