/*
 * tests/faults/damage/scene.h: an image with a filesystem in it that a recipe damages, what
 * fsck.kvfs makes of it, and what must have survived.
 *
 * The sound image is made once; each scene has a copy of it in memory. What does not work though
 * it should ends the program.
 *
 * One thread.
 */
#ifndef DAMAGE_SCENE_H
#define DAMAGE_SCENE_H

#include "fs/record.h"
#include "fs/volume.h"
#include "kv/check_walk.h"
#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"

#define SCENE_BLOCKS    4096u /* 16 MiB */
#define SCENE_ITEMS_MAX 1024u

/* A file, directory or symlink of the sound image. */
struct scene_item {
    char path[64];
    uint64_t ino, parent;
    uint32_t mode, nlink;
    uint64_t size;    /* of a file's content */
    uint64_t content; /* identity for test_fill; bit 63: compressible */
};

struct scene_base {
    struct kv_device *device; /* sound and closed */
    struct scene_item items[SCENE_ITEMS_MAX];
    size_t item_count;
};

struct scene {
    const struct scene_base *base;
    struct kv_device *device; /* the image; stores only borrow it */
    uint64_t shown_blocks;    /* how many blocks the image is seen to have; 0: all */
    struct kv_store *store;   /* while it is open */
    bool excused[SCENE_ITEMS_MAX];
    bool all_excused;
};

struct scene_base *scene_base_new(void);
void scene_base_free(struct scene_base *base);

void scene_init(struct scene *scene, const struct scene_base *base);
void scene_copy(struct scene *copy, const struct scene *scene);
void scene_release(struct scene *scene);

/* ---- for recipes --------------------------------------------------------------------- */

struct kv_store *scene_open(struct scene *scene);
/* As fsck.kvfs does; may fail. */
KV_MUST_CHECK int scene_open_for_fsck(struct scene *scene, bool past_damage, bool read_only,
                                      kv_check_report_fn *report, void *context);
void scene_close(struct scene *scene); /* cleanly */
void scene_crash(struct scene *scene);

const struct scene_item *scene_find(const struct scene *scene, const char *path);
/* These items, and what is below them, may be gone or changed in the end. */
void scene_excuse(struct scene *scene, const char *path);
void scene_excuse_ino(struct scene *scene, uint64_t ino);
/* Those that have a record in the page, which is looked up in the open store. */
void scene_excuse_page(struct scene *scene, uint64_t page_id);

/* Of the closed image. */
void scene_read(const struct scene *scene, uint64_t block, void *bytes);
void scene_write(struct scene *scene, uint64_t block, const void *bytes);
void scene_flip(struct scene *scene, uint64_t block, size_t offset);
void scene_zero(struct scene *scene, uint64_t block);
struct kv_disk_superblock scene_superblock(const struct scene *scene);
/* Write it to both slots and to the end, its digest made right. */
void scene_put_superblock(struct scene *scene, struct kv_disk_superblock *superblock);

/* Keys of the open store, as they are. */
void scene_put(struct scene *scene, const struct fs_key *key, const void *value, size_t length);
void scene_del(struct scene *scene, const struct fs_key *key);
struct fs_key scene_entry_key(uint64_t directory, const char *name);
struct fs_key scene_ino_key(enum fs_key_type type, uint64_t ino);
struct fs_record scene_record(struct scene *scene, const struct fs_key *key);
void scene_put_record(struct scene *scene, const struct fs_key *key,
                      const struct fs_record *record);
void scene_put_link(struct scene *scene, uint64_t directory, const char *name, uint64_t ino,
                    uint32_t type);
void scene_put_parent(struct scene *scene, uint64_t ino, uint64_t parent, const char *name);

/* The page on the way to a key of a tree, `up` levels above the leaf (capped at the root). */
uint64_t scene_page(struct scene *scene, unsigned tree, const struct fs_key *key, unsigned up);
struct kv_disk_ptr scene_page_ptr(struct scene *scene, uint64_t page_id);
/* Where the durable map block (level, index) lies. */
uint64_t scene_map_block(struct scene *scene, int level, uint64_t index);
unsigned scene_map_depth(struct scene *scene);

/*
 * Of the open store, which is closed first and open again afterwards: change the bytes of a
 * stored page (node_bytes, not packed), and make every digest above it right.
 */
typedef void scene_edit_fn(void *node, size_t node_bytes, int argument);
void scene_edit_page(struct scene *scene, uint64_t page_id, scene_edit_fn *edit, int argument);
/* The same for the pointer that says where a page lies. */
typedef void scene_edit_ptr_fn(struct kv_disk_ptr *ptr, int argument);
void scene_edit_ptr(struct scene *scene, uint64_t page_id, scene_edit_ptr_fn *edit, int argument);

/* ---- fsck ---------------------------------------------------------------------------- */

enum fsck_mode { FSCK_LOOK, FSCK_PREEN, FSCK_YES }; /* -n -f, -p -f, -y -f */

struct fsck_verdict {
    int status;         /* as fsck.kvfs exits */
    char words[512];    /* of the findings at first: sorted, each once, with blanks in between */
    char details[1024]; /* the first findings as they read */
};

/* Do in process what tools/fsck_kvfs.c does. */
void scene_fsck(struct scene *scene, enum fsck_mode mode, struct fsck_verdict *verdict);
/* The program itself, on a file with the image in it, which is read back. */
void scene_fsck_program(struct scene *scene, const char *program, enum fsck_mode mode,
                        struct fsck_verdict *verdict);

/*
 * Is everything there that is not excused, with the right content? Returns how much is not, and
 * says what.
 */
unsigned scene_compare(struct scene *scene);

#endif
