/*
 * tests/faults/damage/recipes_page.c: pages and pointers to them that are nonsense, under digests
 * that are right.
 */
#include "recipes.h"

enum edit {
    OTHER_MAGIC,
    OTHER_LEVEL,
    OTHER_TREE,
    OTHER_ID,
    OTHER_EPOCH,
    MANY_SLOTS,
    NO_SLOTS,
    HEAP_FAR,
    LOW_FENCE,
    FENCE_LENGTH,
    NO_HIGH_FENCE,
    PREFIX_LENGTH,
    SLOTS_SWAPPED,
    SLOT_FAR,
    SLOT_KEY_LONG,
    SLOT_HEAD,
    VALUE_LONG,
    VALUE_KIND,
    VALUE_REFS,
    CHILD_ITSELF,
    CHILD_NOWHERE,
    CHILDREN_SWAPPED,
    CHILD_TWICE,
    CHILD_OTHER_TREE,
};

static struct kv_disk_slot *slot_of(uint8_t *node, unsigned slot)
{
    return (struct kv_disk_slot *)(node + sizeof(struct kv_disk_node)) + slot;
}

static struct kv_disk_leaf_cell *cell_of(uint8_t *node, unsigned slot)
{
    return (struct kv_disk_leaf_cell *)(node + kv_le16_get(slot_of(node, slot)->offset));
}

static void edit_header(struct kv_disk_node *header, enum edit edit)
{
    switch (edit) {
    case OTHER_MAGIC:
        header->magic = kv_le32_of(1);
        break;
    case OTHER_LEVEL:
        header->level = (uint8_t)(header->level + 1);
        break;
    case OTHER_TREE:
        header->tree = !header->tree;
        break;
    case OTHER_ID:
        header->page_id = kv_le64_of(kv_le64_get(header->page_id) + 1);
        break;
    case OTHER_EPOCH:
        header->epoch = kv_le64_of(kv_le64_get(header->epoch) + 1);
        break;
    case MANY_SLOTS:
        header->slot_count = kv_le16_of(60000);
        break;
    case NO_SLOTS:
        header->slot_count = kv_le16_of(0);
        break;
    case HEAP_FAR:
        header->heap_start = kv_le32_of(1u << 30);
        break;
    case FENCE_LENGTH:
        header->low_bytes = kv_le16_of(4000);
        break;
    case NO_HIGH_FENCE:
        header->flags |= KV_NODE_HIGH_INF;
        header->high_bytes = kv_le16_of(0);
        break;
    default:
        header->prefix_bytes = kv_le16_of(500);
        break;
    }
}

static void edit_slots(uint8_t *node, size_t node_bytes, enum edit edit)
{
    const struct kv_disk_node *header = (const struct kv_disk_node *)node;
    struct kv_disk_slot *slot = slot_of(node, 3);
    const struct kv_disk_slot kept = *slot;
    switch (edit) {
    case LOW_FENCE:
        node[node_bytes - kv_le16_get(header->high_bytes) - 1] ^= 1;
        break;
    case SLOTS_SWAPPED:
        *slot = slot[1];
        slot[1] = kept;
        break;
    case SLOT_FAR:
        slot->offset = kv_le16_of(65000);
        break;
    case SLOT_KEY_LONG:
        slot->key_bytes = kv_le16_of(600);
        break;
    case SLOT_HEAD:
        slot->head = kv_le32_of(kv_le32_get(slot->head) ^ 1);
        break;
    case VALUE_LONG:
        cell_of(node, 3)->value_bytes = kv_le16_of(60000);
        break;
    case VALUE_KIND:
        cell_of(node, 3)->kind = 9;
        break;
    default: /* bytes that are no references */
        cell_of(node, 3)->kind = KV_VALUE_LARGE;
        break;
    }
}

static void edit_children(uint8_t *node, enum edit edit)
{
    const unsigned slot = kv_node_count(node) / 2 - 1; /* it has two at least */
    const uint64_t first = kv_node_child(node, slot), second = kv_node_child(node, slot + 1);
    switch (edit) {
    case CHILD_ITSELF:
        kv_node_set_child(node, slot, kv_le64_get(((struct kv_disk_node *)node)->page_id));
        break;
    case CHILD_NOWHERE:
        kv_node_set_child(node, slot, 100000);
        break;
    case CHILDREN_SWAPPED:
        kv_node_set_child(node, slot, second);
        kv_node_set_child(node, slot + 1, first);
        break;
    case CHILD_TWICE:
        kv_node_set_child(node, slot, second);
        break;
    default:
        kv_node_set_child(node, slot, 2); /* the root of the counts: ids are given in order */
        break;
    }
}

static void edit_node(void *node, size_t node_bytes, int argument)
{
    const enum edit edit = (enum edit)argument;
    switch (edit) {
    case LOW_FENCE:
    case SLOTS_SWAPPED:
    case SLOT_FAR:
    case SLOT_KEY_LONG:
    case SLOT_HEAD:
    case VALUE_LONG:
    case VALUE_KIND:
    case VALUE_REFS:
        edit_slots(node, node_bytes, edit);
        break;
    case CHILD_ITSELF:
    case CHILD_NOWHERE:
    case CHILDREN_SWAPPED:
    case CHILD_TWICE:
    case CHILD_OTHER_TREE:
        edit_children(node, edit);
        break;
    default:
        edit_header(node, edit);
        break;
    }
}

static void edit_leaf(struct scene *scene, int edit)
{
    scene_open(scene);
    const struct fs_key key = scene_entry_key(scene_find(scene, "d05")->ino, "f30");
    const uint64_t page = scene_page(scene, KV_TREE_KEYS, &key, 0);
    scene_excuse_page(scene, page);
    scene_edit_page(scene, page, edit_node, edit);
}

/* Of an inner page no leaf is lost: the check finds them again. */
static void edit_root(struct scene *scene, int edit)
{
    scene_open(scene);
    scene_edit_page(scene, scene->store->trees[KV_TREE_KEYS].root, edit_node, edit);
}

/* The page above the leaves. */
static void edit_inner(struct scene *scene, int edit)
{
    scene_open(scene);
    const struct fs_key key = scene_entry_key(scene_find(scene, "d05")->ino, "f30");
    scene_edit_page(scene, scene_page(scene, KV_TREE_KEYS, &key, 1), edit_node, edit);
}

static void edit_counts(struct scene *scene, int edit)
{
    scene_open(scene);
    scene_edit_page(scene, scene->store->trees[KV_TREE_REFS].root, edit_node, edit);
}

/* ---- pointers ------------------------------------------------------------------------ */

enum ptr_edit { PTR_BEYOND, PTR_IN_LOG, PTR_LONG, PTR_EMPTY, PTR_CODEC, PTR_EPOCH, PTR_NULL };

static void edit_ptr(struct kv_disk_ptr *ptr, int argument)
{
    switch ((enum ptr_edit)argument) {
    case PTR_BEYOND:
        ptr->block = kv_le64_of(SCENE_BLOCKS + 5);
        break;
    case PTR_IN_LOG:
        ptr->block = kv_le64_of(KV_LOG_FIRST_BLOCK + 3);
        break;
    case PTR_LONG:
        ptr->length_bytes = kv_le32_of(1u << 20);
        break;
    case PTR_EMPTY:
        ptr->length_bytes = kv_le32_of(0);
        break;
    case PTR_CODEC:
        ptr->codec = 200;
        break;
    case PTR_EPOCH:
        ptr->birth_epoch = kv_le64_of(1);
        break;
    case PTR_NULL:
        memset(ptr, 0, sizeof *ptr);
        break;
    }
}

static void edit_leaf_ptr(struct scene *scene, int edit)
{
    scene_open(scene);
    const struct fs_key key = scene_entry_key(scene_find(scene, "d05")->ino, "f30");
    const uint64_t page = scene_page(scene, KV_TREE_KEYS, &key, 0);
    scene_excuse_page(scene, page);
    scene_edit_ptr(scene, page, edit_ptr, edit);
}

const struct recipe page_recipes[] = {
    {"leaf of another magic", edit_leaf, OTHER_MAGIC, "page-structure", 4, 4, 1},
    {"leaf that says level 1", edit_leaf, OTHER_LEVEL, "page-structure", 4, 4, 1},
    {"leaf of the other tree", edit_leaf, OTHER_TREE, "page-structure", 4, 4, 1},
    {"leaf of another page id", edit_leaf, OTHER_ID, "page-structure", 4, 4, 1},
    {"leaf of another epoch", edit_leaf, OTHER_EPOCH, "page-structure", 4, 4, 1},
    {"leaf of 60000 slots", edit_leaf, MANY_SLOTS, "page-structure", 4, 4, 1},
    {"leaf of no slots", edit_leaf, NO_SLOTS, "page-structure", 4, 4, 1},
    {"leaf whose cells begin far off", edit_leaf, HEAP_FAR, "page-structure", 4, 4, 1},
    {"leaf with another low fence", edit_leaf, LOW_FENCE, "page-fences", 4, 4, 1},
    {"leaf with a long fence", edit_leaf, FENCE_LENGTH, "page-structure", 4, 4, 1},
    {"leaf without a high fence", edit_leaf, NO_HIGH_FENCE, "page-structure", 4, 4, 1},
    {"leaf with a long prefix", edit_leaf, PREFIX_LENGTH, "page-structure", 4, 4, 1},
    {"leaf out of order", edit_leaf, SLOTS_SWAPPED, "page-structure", 4, 4, 1},
    {"leaf with a cell outside", edit_leaf, SLOT_FAR, "page-structure", 4, 4, 1},
    {"leaf with a key of 600 bytes", edit_leaf, SLOT_KEY_LONG, "page-structure", 4, 4, 1},
    {"leaf with the head of another key", edit_leaf, SLOT_HEAD, "page-structure", 4, 4, 1},
    {"leaf with a value of 60000 bytes", edit_leaf, VALUE_LONG, "page-structure", 4, 4, 1},
    {"leaf with a value of an unknown kind", edit_leaf, VALUE_KIND, "page-structure", 4, 4, 1},
    {"leaf with references that are none", edit_leaf, VALUE_REFS, "blob-reference", 4, 4, 1},
    {"root that is its own child", edit_root, CHILD_ITSELF, "page-shared", 4, 4, 1},
    {"root with a child that is not there", edit_root, CHILD_NOWHERE, "page-missing", 4, 4, 1},
    {"root with children swapped", edit_root, CHILDREN_SWAPPED, "page-fences", 4, 4, 1},
    {"root with a child twice", edit_root, CHILD_TWICE, "page-fences", 4, 4, 1},
    {"root with a child of the other tree", edit_root, CHILD_OTHER_TREE, "page-structure", 4, 4, 1},
    {"root that says a level more", edit_root, OTHER_LEVEL, "page-structure", 4, 4, 1},
    {"root of no slots", edit_root, NO_SLOTS, "page-structure", 4, 4, 1},
    {"inner page out of order", edit_inner, SLOTS_SWAPPED, "page-structure", 4, 4, 1},
    {"counts that say another tree", edit_counts, OTHER_TREE, "page-structure", 4, 4, 1},
    {"counts of no slots", edit_counts, NO_SLOTS, "page-structure", 4, 4, 1},
    {"counts out of order", edit_counts, SLOTS_SWAPPED, "page-structure", 4, 4, 1},
    {"page beyond the end", edit_leaf_ptr, PTR_BEYOND, "page-structure", 4, 4, 1},
    {"page in the log", edit_leaf_ptr, PTR_IN_LOG, "page-structure", 4, 4, 1},
    {"page of 1 MiB", edit_leaf_ptr, PTR_LONG, "page-structure", 4, 4, 1},
    {"page of no bytes", edit_leaf_ptr, PTR_EMPTY, "page-structure", 4, 4, 1},
    {"page of an unknown codec", edit_leaf_ptr, PTR_CODEC, "page-structure", 4, 4, 1},
    {"page of the first epoch", edit_leaf_ptr, PTR_EPOCH, "page-checksum", 4, 4, 1},
    {"page nowhere", edit_leaf_ptr, PTR_NULL, "page-missing", 4, 4, 1},
};
const size_t page_recipe_count = sizeof page_recipes / sizeof page_recipes[0];
