/*
 * tests/kv/support_scene.h: images to be damaged: what is in them, where it lies, what is left.
 *
 * A test makes a scene (a closed image with known keys and values), does one kind of harm to it,
 * opens it again, and has it mended. Which keys may be lost by that is known beforehand: those of
 * the leaves that were hit and no others. Every function fails the test that calls it.
 */
#ifndef TESTS_KV_SUPPORT_SCENE_H
#define TESTS_KV_SUPPORT_SCENE_H

#include "kv/check_walk.h"
#include "support_store.h"

#define SCENE_KEYS         12000u
#define SCENE_BLOBS        40u
#define SCENE_FINDINGS_MAX 4096u

struct findings {
    size_t count; /* worse than notes */
    char words[SCENE_FINDINGS_MAX][24];
    struct kv_check_result result;
};

/* An image, and what was put in it. */
struct scene {
    struct test_dir dir;
    struct kv_store *store;   /* while it is open */
    bool lost[SCENE_KEYS];    /* keys that may be gone */
    bool any_blob_lost;       /* likewise the keys of shared blobs */
    struct findings findings; /* of the last look, or repair */
};

/* Of images, for loops over them. */
#define SCENE_KINDS 4
extern const struct scene_kind {
    uint32_t node_bytes;
    enum kv_codec codec;
} scene_kinds[SCENE_KINDS];

/* Nothing happens by itself, and no line is printed. */
extern const struct kv_open_options scene_quiet;

/* ---- the image ------------------------------------------------------------------------ */

/* A closed image with keys in it. */
struct scene *scene_make(uint32_t node_bytes, enum kv_codec codec);
/* Of a closed one. */
void scene_free(struct scene *scene);
struct kv_store *scene_open_with(struct scene *scene, const struct kv_open_options *options);
struct kv_store *scene_open(struct scene *scene);
struct kv_store *scene_open_for_repair(struct scene *scene);
void scene_expect_open_fails(const struct scene *scene, int error);
void scene_close(struct scene *scene);
/* Put keys with a flush after each few, and leave the image as after a crash. */
void scene_crash_with_log(struct scene *scene, unsigned first, unsigned count);

/* The key of a number, and that of a shared blob's holder. Return the length. */
size_t scene_key(unsigned number, char key[24]);
size_t scene_blob_key(unsigned number, unsigned holder, char key[24]);
/* How many keys hold a shared blob. */
unsigned scene_holders(unsigned blob);

/* ---- looking, mending ---------------------------------------------------------------- */

/* Check the open store, and read its blobs; what is found replaces scene->findings. */
void scene_look(struct scene *scene);
/* The same, and mend it. */
void scene_mend(struct scene *scene);
size_t scene_count_of(const struct scene *scene, const char *word);
/* What was found last is `word`, so many times, and nothing else. */
void scene_expect_only(const struct scene *scene, const char *word, size_t count);
/* Looks by itself: what was found last stays known. */
void scene_expect_clean(struct scene *scene);
/* Every key that is there has its value; every one that may not be lost is there. */
void scene_expect_keys(struct scene *scene);
/*
 * The store is open and damaged: mend it. It must be clean then, and stay so when it is closed
 * and opened; all that may be asked for must be there. What was mended stays in the findings.
 */
void scene_expect_mended(struct scene *scene);
/* Deleting everything must leave nothing behind: no count and no block was wrong. */
void scene_expect_all_can_be_deleted(struct scene *scene);
/* The end of most tests: nothing is wrong with the open store, it does what it should, and all of
 * it can be deleted. Closes and frees. */
void scene_end_sound(struct scene *scene);

/* ---- where things lie, and harm ----------------------------------------------------------- */

/* Page ids from the root to the leaf that covers a key; returns how many. */
unsigned scene_path(struct kv_store *store, unsigned tree, const char *key, size_t key_len,
                    uint64_t ids[KV_TREE_DEPTH_MAX]);
/* The page on the path to key `number`, `up` levels above the leaf. */
uint64_t scene_page_above(struct kv_store *store, unsigned number, unsigned up);
uint64_t scene_page_block(struct kv_store *store, uint64_t page_id);
/* Where the durable map block (level, index) lies. */
uint64_t scene_map_block(struct kv_store *store, int level, uint64_t index);
/* Of the closed image. */
struct kv_disk_superblock scene_superblock(const struct scene *scene);

/* May the leaf that a key lies in be hit? Marks the keys of all leaves for which it says so. */
void scene_mark_lost(struct scene *scene, bool (*hit)(uint64_t leaf, const void *context),
                     const void *context);
/* For that: it is the page whose id the context points to. */
bool scene_is_page(uint64_t leaf, const void *context);

/* Flip a bit of the closed image. */
void scene_harm(const struct scene *scene, uint64_t block, size_t offset);
/* Both copies of the first group's bitmap. */
void scene_harm_bitmaps(const struct scene *scene);

#endif
