/*
 * tests/faults/damage/damage_fs.c: silent damage to the blocks of a filesystem's image.
 *
 *   damage_fs [SHARE]     try one of SHARE pieces of damage (1: all of them); KVFS_SEED
 *
 * Of every block that holds anything: a bit flipped, zeroed, swapped with another, garbage. Then
 * every file is looked up by its path and read: it is as it was, or there is an error that says
 * damage; nothing is another file, of another size or of other content. When a file fails, or the
 * volume does not open, fsck -n finds something; when fsck finds nothing, all is as it was.
 *
 * The last line has the counts. Exit status 0: no violation.
 */
#include "scene.h"

#include <stdarg.h>

enum harm { FLIP, ZERO, SWAP, GARBAGE, HARM_COUNT };
static const char *const harm_names[] = {"a bit", "zeroed", "swapped", "garbage"};

struct trial {
    const struct scene_base *base;
    struct test_random random;
    uint64_t share;
    uint64_t images, harmless, refused, files_read, files_failed, most_failed, violations;
};

static void violation(struct trial *trial, uint64_t block, enum harm harm, const char *format, ...)
    KV_PRINTF(4, 5);

static void violation(struct trial *trial, uint64_t block, enum harm harm, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (++trial->violations <= 50)
        printf("VIOLATION: block %llu, %s: %s\n", (unsigned long long)block, harm_names[harm],
               text);
}

static bool is_damage(int error)
{
    return error == -EBADMSG || error == -EUCLEAN || error == -EIO;
}

static bool is_blank(const struct scene *scene, uint64_t block)
{
    static const uint8_t zeros[KV_BLOCK_BYTES];
    uint8_t bytes[KV_BLOCK_BYTES];
    scene_read(scene, block, bytes);
    return memcmp(bytes, zeros, sizeof bytes) == 0;
}

static void do_harm(struct trial *trial, struct scene *scene, uint64_t block, enum harm harm)
{
    uint8_t bytes[KV_BLOCK_BYTES], other[KV_BLOCK_BYTES];
    uint64_t fellow;
    switch (harm) {
    case FLIP:
        scene_flip(scene, block, test_random_below(&trial->random, KV_BLOCK_BYTES));
        break;
    case ZERO:
        scene_zero(scene, block);
        break;
    case SWAP:
        do
            fellow = test_random_below(&trial->random, SCENE_BLOCKS);
        while (is_blank(scene, fellow));
        scene_read(scene, block, bytes);
        scene_read(scene, fellow, other);
        scene_write(scene, block, other);
        scene_write(scene, fellow, bytes);
        break;
    case GARBAGE:
    case HARM_COUNT:
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (uint8_t)test_random_next(&trial->random);
        scene_write(scene, block, bytes);
        break;
    }
}

/* Returns how many files fail, or -1: the volume does not open. */
static int64_t read_files(struct trial *trial, struct scene *scene, uint64_t block, enum harm harm)
{
    const struct fs_volume_options quiet = {.read_only = true, .log = test_log_nothing};
    struct fs_volume *volume;
    int64_t failed = 0;
    int err = scene_open_for_fsck(scene, false, true, NULL, NULL);
    if (err) {
        if (!is_damage(err))
            violation(trial, block, harm, "opening says %s", strerror(-err));
        return -1;
    }
    err = fs_volume_open(scene->store, &quiet, &volume, NULL);
    if (err && !is_damage(err))
        violation(trial, block, harm, "opening the volume says %s", strerror(-err));
    for (size_t i = 0; !err && i < trial->base->item_count; i++) {
        const char *problem;
        const int item_err = scene_read_item(volume, &trial->base->items[i], &problem);
        trial->files_read++;
        failed += item_err != 0;
        if (item_err && !is_damage(item_err))
            violation(trial, block, harm, "%s: %s", trial->base->items[i].path,
                      problem ? problem : strerror(-item_err));
    }
    if (!err)
        fs_volume_close(volume);
    scene_crash(scene);
    return err ? -1 : failed;
}

static void try_damage(struct trial *trial, const struct scene *sound, uint64_t block,
                       enum harm harm)
{
    struct scene scene;
    struct fsck_verdict verdict;
    scene_copy(&scene, sound);
    do_harm(trial, &scene, block, harm);
    const int64_t failed = read_files(trial, &scene, block, harm);
    scene_fsck(&scene, FSCK_LOOK, &verdict);
    trial->images++;
    trial->harmless += failed == 0 && verdict.status == 0;
    trial->refused += failed < 0;
    if (failed > 0) {
        trial->files_failed += (uint64_t)failed;
        trial->most_failed = kv_max_u64(trial->most_failed, (uint64_t)failed);
    }
    if (failed != 0 && verdict.status != 4)
        violation(trial, block, harm, "fsck says %d", verdict.status);
    scene_release(&scene);
}

int main(int argc, char **argv)
{
    struct trial trial = {.random = {test_env("KVFS_SEED", 1)},
                          .share = argc > 1 ? strtoull(argv[1], NULL, 0) : 12};
    if (!trial.share)
        trial.share = 1;
    printf("KVFS_SEED=%llu, one of %llu\n", (unsigned long long)trial.random.state,
           (unsigned long long)trial.share);
    struct scene_base *base = scene_base_new();
    struct scene sound;
    trial.base = base;
    scene_init(&sound, base);
    for (uint64_t block = 0; block < SCENE_BLOCKS; block++)
        for (enum harm harm = FLIP; harm < HARM_COUNT; harm++)
            if (!is_blank(&sound, block) && test_random_below(&trial.random, trial.share) == 0)
                try_damage(&trial, &sound, block, harm);
    scene_release(&sound);
    scene_base_free(base);
    printf("damage_fs: %llu damaged images, %llu of them harmless, %llu refused; %llu files read, "
           "%llu failed, %llu at most in one; %llu violations\n",
           (unsigned long long)trial.images, (unsigned long long)trial.harmless,
           (unsigned long long)trial.refused, (unsigned long long)trial.files_read,
           (unsigned long long)trial.files_failed, (unsigned long long)trial.most_failed,
           (unsigned long long)trial.violations);
    return trial.violations ? 1 : 0;
}
