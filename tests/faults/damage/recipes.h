/*
 * tests/faults/damage/recipes.h: how each image of the corpus is damaged, and the verdict.
 */
#ifndef DAMAGE_RECIPES_H
#define DAMAGE_RECIPES_H

#include "scene.h"

struct recipe {
    const char *name;
    void (*make)(struct scene *scene, int argument); /* the scene is closed before and after */
    int argument;
    /* What fsck.kvfs -n -f finds: the words of its findings, sorted. "": nothing. */
    const char *words;
    /* Exit status with -n, -p and -y. After 1 a second run finds nothing. */
    int look, preen, yes;
};

extern const struct recipe store_recipes[], superblock_recipes[], page_recipes[], fs_recipes[];
extern const size_t store_recipe_count, superblock_recipe_count, page_recipe_count, fs_recipe_count;

#endif
