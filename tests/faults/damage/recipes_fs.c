/*
 * tests/faults/damage/recipes_fs.c: filesystems whose records contradict each other.
 */
#include "recipes.h"

#include "fs/acl.h"
#include "fs/xattr.h"

#define STRAY_INO 900u /* no inode has it; below the volume's next number */

static struct fs_record new_record(uint64_t ino, uint32_t mode, uint32_t nlink)
{
    return (struct fs_record){.file = {.ino = ino, .is_inline = true},
                              .mode = mode,
                              .nlink = nlink,
                              .codec = FS_CODEC_INHERIT};
}

static uint64_t ino_of(const struct scene *scene, const char *path)
{
    return scene_find(scene, path)->ino;
}

/* Where the inode of a path with one name stands. */
static struct fs_key key_of(const struct scene *scene, const char *path)
{
    const struct scene_item *item = scene_find(scene, path);
    const char *slash = strrchr(path, '/');
    return scene_entry_key(item->parent, slash ? slash + 1 : path);
}

/* The number from which on none was given moves, so that the stray inodes are below it. */
static void make_room_for_inodes(struct scene *scene)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    const struct fs_volume_record volume = {.next_ino = STRAY_INO + 1000};
    fs_key_volume(&key);
    fs_volume_record_encode(&volume, &disk);
    scene_put(scene, &key, &disk, sizeof disk);
}

static void begin(struct scene *scene)
{
    scene_open(scene);
    make_room_for_inodes(scene);
}

static void put_data(struct scene *scene, uint64_t ino, uint64_t offset, const void *value,
                     size_t length)
{
    struct fs_key key = {.length = FS_DATA_KEY_BYTES};
    fs_data_key(key.bytes, ino, offset);
    scene_put(scene, &key, value, length);
}

/* ---- the volume ---------------------------------------------------------------------- */

/* 0: nonsense, 1: gone, 2: a number too small. */
static void volume_record(struct scene *scene, int which)
{
    struct fs_key key;
    scene_open(scene);
    fs_key_volume(&key);
    if (which == 0)
        scene_put(scene, &key, "nonsense", 8);
    if (which == 1)
        scene_del(scene, &key);
    if (which == 2) {
        const struct fs_volume_record volume = {.next_ino = 4};
        struct fs_disk_volume disk;
        fs_volume_record_encode(&volume, &disk);
        scene_put(scene, &key, &disk, sizeof disk);
    }
    scene_close(scene);
}

/* 0: gone, 1: nonsense, 2: a file. */
static void root_record(struct scene *scene, int which)
{
    begin(scene);
    const struct fs_key key = scene_ino_key(FS_KEY_INODE, FS_ROOT_INO);
    struct fs_record record = scene_record(scene, &key);
    if (which == 0)
        scene_del(scene, &key);
    if (which == 1)
        scene_put(scene, &key, "\1zzz", 4);
    if (which == 2) {
        record.mode = S_IFREG | 0644;
        scene_put_record(scene, &key, &record);
    }
    scene_close(scene);
}

static void unknown_key(struct scene *scene, int argument)
{
    const struct fs_key key = {.length = 5, .bytes = {'Z', 'e', 'b', 'r', 'a'}};
    (void)argument;
    begin(scene);
    scene_put(scene, &key, "1", 1);
    scene_close(scene);
}

/* ---- names --------------------------------------------------------------------------- */

static void bad_entry(struct scene *scene, int length)
{
    begin(scene);
    const struct fs_key key = scene_entry_key(ino_of(scene, "d03"), "bad");
    scene_put(scene, &key, "\1rubbish", (size_t)length);
    scene_close(scene);
}

/* An entry of a file that is there becomes nonsense; what else it has comes to lost+found. */
static void entry_lost(struct scene *scene, int argument)
{
    (void)argument;
    begin(scene);
    const struct fs_key key = key_of(scene, "d03/f06");
    scene_put(scene, &key, "\1rubbish", 8);
    scene_excuse(scene, "d03/f06");
    scene_close(scene);
}

static void bad_name(struct scene *scene, int which)
{
    static const char *const names[] = {"x/y", "..", "."};
    begin(scene);
    const struct fs_record record =
        which == 1 ? new_record(STRAY_INO, S_IFDIR | 0700, 2) : new_record(STRAY_INO, S_IFREG, 1);
    const struct fs_key key = scene_entry_key(FS_ROOT_INO, names[which]);
    scene_put_record(scene, &key, &record);
    scene_close(scene);
}

/* A file with content, or 1: a directory with entries, has a name with a slash. */
static void renamed(struct scene *scene, int which)
{
    const char *const path = which == 0 ? "d03/f06" : "d02/sub";
    begin(scene);
    const struct fs_key old = key_of(scene, path);
    const struct fs_record record = scene_record(scene, &old);
    const struct fs_key key = scene_entry_key(scene_find(scene, path)->parent, "x/y");
    scene_del(scene, &old);
    scene_put_record(scene, &key, &record);
    scene_excuse(scene, path); /* it moves to lost+found */
    if (which == 1) {
        scene_put_parent(scene, record.file.ino, scene_find(scene, path)->parent, "x/y");
        scene_excuse(scene, "d02"); /* has a link less */
    }
    scene_close(scene);
}

/* A number that was never given, with content. */
static void bad_number(struct scene *scene, int argument)
{
    static const uint8_t packed[100] = {FS_DATA_PACKED};
    (void)argument;
    begin(scene);
    struct fs_record record = new_record(FS_INO_MAX, S_IFREG | 0644, 1);
    record.file.is_inline = false;
    record.file.size = sizeof packed;
    const struct fs_key key = scene_entry_key(FS_ROOT_INO, "number");
    scene_put_record(scene, &key, &record);
    put_data(scene, FS_INO_MAX, 0, packed, sizeof packed);
    scene_close(scene);
}

static void dangling_entry(struct scene *scene, int argument)
{
    (void)argument;
    begin(scene);
    scene_put_link(scene, FS_ROOT_INO, "nowhere", STRAY_INO, S_IFREG);
    scene_close(scene);
}

static void other_type(struct scene *scene, int argument)
{
    (void)argument;
    begin(scene);
    scene_put_link(scene, FS_ROOT_INO, "hard1", ino_of(scene, "hard1"), S_IFIFO);
    scene_close(scene);
}

static void link_count(struct scene *scene, int which)
{
    begin(scene);
    const struct fs_key keys[] = {key_of(scene, "d01/f01"), key_of(scene, "d02/sub"),
                                  scene_ino_key(FS_KEY_INODE, FS_ROOT_INO),
                                  scene_ino_key(FS_KEY_INODE, ino_of(scene, "hard1"))};
    struct fs_record record = scene_record(scene, &keys[which]);
    record.nlink = 9;
    scene_put_record(scene, &keys[which], &record);
    scene_close(scene);
}

/* One of two names gone, or both. */
static void name_gone(struct scene *scene, int both)
{
    begin(scene);
    const struct fs_key one = key_of(scene, "hard1"), two = key_of(scene, "d00/hard2");
    scene_del(scene, &one);
    if (both)
        scene_del(scene, &two);
    scene_excuse(scene, "hard1");
    scene_excuse(scene, "d00/hard2"); /* its count of links is another one now */
    scene_close(scene);
}

static void inode_twice(struct scene *scene, int which)
{
    begin(scene);
    const uint64_t to = ino_of(scene, "d04");
    if (which == 0) { /* a file */
        const struct fs_key from = key_of(scene, "d03/f01");
        const struct fs_record record = scene_record(scene, &from);
        const struct fs_key key = scene_entry_key(to, "again");
        scene_put_record(scene, &key, &record);
        scene_excuse(scene, "d03/f01"); /* which of the two has it in the end is open */
    } else if (which == 1) {            /* the record of what has links */
        const struct fs_record record = new_record(ino_of(scene, "hard1"), S_IFREG | 0644, 1);
        const struct fs_key key = scene_entry_key(to, "again");
        scene_put_record(scene, &key, &record);
        scene_excuse_ino(scene, record.file.ino);
    } else if (which == 2) { /* a directory */
        const struct fs_key from = key_of(scene, "d02/sub");
        const struct fs_record record = scene_record(scene, &from);
        const struct fs_key key = scene_entry_key(to, "again");
        scene_put_record(scene, &key, &record);
    } else { /* the other keeps what it has, under another number */
        const struct fs_record record = new_record(ino_of(scene, "big"), S_IFREG | 0644, 1);
        const struct fs_key key = scene_entry_key(FS_ROOT_INO, "a");
        scene_put_record(scene, &key, &record);
        scene_excuse(scene, "big");
    }
    scene_close(scene);
}

/* ---- directories --------------------------------------------------------------------- */

/* 0: wrong, 1: gone, 2: nonsense, 3: of a file, 4: of nothing. */
static void parent_record(struct scene *scene, int which)
{
    begin(scene);
    const uint64_t sub = ino_of(scene, "d02/sub");
    const struct fs_key key = scene_ino_key(FS_KEY_PARENT, sub);
    if (which == 0)
        scene_put_parent(scene, sub, FS_ROOT_INO, "sub");
    if (which == 1)
        scene_del(scene, &key);
    if (which == 2)
        scene_put(scene, &key, "x", 1);
    if (which == 3)
        scene_put_parent(scene, ino_of(scene, "d01/f01"), ino_of(scene, "d01"), "f01");
    if (which == 4)
        scene_put_parent(scene, STRAY_INO, FS_ROOT_INO, "stray");
    scene_close(scene);
}

/* Its name is gone; 1: and its parent too. */
static void directory_lost(struct scene *scene, int parent_too)
{
    begin(scene);
    const struct fs_key entry = key_of(scene, "d02/sub");
    const struct fs_key parent = scene_ino_key(FS_KEY_PARENT, ino_of(scene, "d02/sub"));
    scene_del(scene, &entry);
    if (parent_too) {
        scene_del(scene, &parent);
        scene_excuse(scene, "d02/sub");
        scene_excuse(scene, "d02"); /* has a link less */
    } else {
        scene_excuse(scene, "d02/sub"); /* what the record said besides is lost: times, mode */
    }
    scene_close(scene);
}

static void entry_in_file(struct scene *scene, int argument)
{
    (void)argument;
    begin(scene);
    const struct fs_record record = new_record(STRAY_INO, S_IFREG | 0600, 1);
    const struct fs_key key = scene_entry_key(ino_of(scene, "d01/f01"), "inside");
    scene_put_record(scene, &key, &record);
    scene_close(scene);
}

/* d02/sub hangs below d02/sub/deep. */
static void loop(struct scene *scene, int argument)
{
    (void)argument;
    begin(scene);
    const struct fs_key old = key_of(scene, "d02/sub");
    const struct fs_record record = scene_record(scene, &old);
    const uint64_t deep = ino_of(scene, "d02/sub/deep");
    const struct fs_key key = scene_entry_key(deep, "sub");
    scene_del(scene, &old);
    scene_put_record(scene, &key, &record);
    scene_put_parent(scene, record.file.ino, deep, "sub");
    scene_excuse(scene, "d02"); /* and below: it moves to lost+found */
    scene_close(scene);
}

/* ---- inode records ------------------------------------------------------------------- */

static void inode_record(struct scene *scene, int which)
{
    begin(scene);
    const struct fs_key key = scene_ino_key(FS_KEY_INODE, STRAY_INO);
    const struct fs_record file = new_record(STRAY_INO + 1, S_IFREG | 0600, 1);
    const struct fs_record nameless = new_record(STRAY_INO, S_IFREG | 0600, 1);
    const struct fs_record directory = new_record(STRAY_INO, S_IFDIR | 0700, 2);
    if (which == 0)
        scene_put(scene, &key, "zz", 2);
    if (which == 1)
        scene_put_record(scene, &key, &file); /* another number */
    if (which == 2)
        scene_put_record(scene, &key, &directory);
    if (which == 3)
        scene_put_record(scene, &key, &nameless);
    scene_close(scene);
}

static void orphan(struct scene *scene, int which)
{
    begin(scene);
    const uint64_t ino = which == 1   ? ino_of(scene, "d01/f01")
                         : which == 6 ? ino_of(scene, "big")
                                      : STRAY_INO;
    const struct fs_key key = scene_ino_key(FS_KEY_ORPHAN, ino);
    struct fs_record record = new_record(ino, S_IFREG | 0600, 0);
    if (which == 3)
        record.nlink = 1;
    if (which == 4)
        record.mode = S_IFDIR | 0700;
    if (which == 5)
        scene_put(scene, &key, "zz", 2);
    else
        scene_put_record(scene, &key, &record);
    if (which == 2)
        scene_put_link(scene, FS_ROOT_INO, "revived", STRAY_INO, S_IFREG);
    if (which == 4) {
        const struct fs_record child = new_record(STRAY_INO + 1, S_IFREG | 0600, 1);
        const struct fs_key entry = scene_entry_key(STRAY_INO, "child");
        scene_put_record(scene, &entry, &child);
    }
    scene_close(scene);
}

/* ---- content ------------------------------------------------------------------------- */

/* Of "big": 0 blocks, 1 size too small, 2 size larger (a hole at the end), 3 impossible. */
static void size(struct scene *scene, int which)
{
    begin(scene);
    const struct fs_key key = key_of(scene, "big");
    struct fs_record record = scene_record(scene, &key);
    if (which == 0)
        record.file.blocks += 3;
    if (which == 1)
        record.file.size = 1000;
    if (which == 2)
        record.file.size += 1000000;
    if (which == 3)
        record.file.size = UINT64_MAX;
    if (which != 0)
        scene_excuse(scene, "big");
    scene_put_record(scene, &key, &record);
    scene_close(scene);
}

static void data_record(struct scene *scene, int which)
{
    static const uint8_t packed[100] = {FS_DATA_PACKED};
    const struct fs_key odd = {.length = 3, .bytes = {'F', 'x', 'y'}};
    begin(scene);
    const uint64_t big = ino_of(scene, "big");
    switch (which) {
    case 0: /* nonsense */
        put_data(scene, big, 1u << 20, "\7what", 5);
        break;
    case 1: /* inside another extent */
        put_data(scene, big, 100, packed, sizeof packed);
        break;
    case 2: /* of what keeps its content in the record */
        put_data(scene, ino_of(scene, "d01/f01"), 0, packed, sizeof packed);
        break;
    case 3: /* of no inode, of a number that can not be */
        put_data(scene, UINT64_MAX, 0, packed, sizeof packed);
        break;
    case 4: /* a key that is none */
        scene_put(scene, &odd, packed, sizeof packed);
        break;
    case 5: /* of no inode */
        put_data(scene, STRAY_INO, 0, packed, sizeof packed);
        break;
    case 6: /* of a directory */
        put_data(scene, ino_of(scene, "d01"), 0, packed, sizeof packed);
        break;
    default: /* at the end of all offsets */
        put_data(scene, big, UINT64_MAX - 10, packed, sizeof packed);
        break;
    }
    if (which == 1)
        scene_excuse(scene, "big");
    scene_close(scene);
}

static void data_gone(struct scene *scene, int argument)
{
    struct fs_key key = {.length = FS_DATA_KEY_BYTES};
    (void)argument;
    begin(scene);
    fs_data_key(key.bytes, ino_of(scene, "big"), 0);
    scene_del(scene, &key);
    scene_excuse(scene, "big");
    scene_close(scene);
}

static void symlink_cut(struct scene *scene, int argument)
{
    (void)argument;
    begin(scene);
    const struct fs_key key = key_of(scene, "sym");
    struct fs_record record = scene_record(scene, &key);
    record.file.size = 100;
    scene_put_record(scene, &key, &record);
    scene_close(scene);
}

/* ---- attributes ---------------------------------------------------------------------- */

static void set_attribute(struct scene *scene, uint64_t ino, const char *name, const char *value)
{
    uint32_t flags = 0; /* nobody is told of it */
    struct kv_batch *batch = kv_batch_new();
    KV_ASSERT(batch);
    int err = fs_xattr_set(scene->store, ino, &flags, name, value, strlen(value), 0, batch);
    if (!err)
        err = kv_apply(scene->store, batch, 0, NULL);
    KV_ASSERT(err == 0);
    kv_batch_free(batch);
}

static void attribute(struct scene *scene, int which)
{
    begin(scene);
    const uint64_t ino = ino_of(scene, "d01/f02");
    struct fs_key key = scene_ino_key(FS_KEY_XATTR, ino);
    if (which == 0) /* of no inode */
        set_attribute(scene, STRAY_INO, "user.x", "1");
    if (which == 1) { /* a name of no known kind */
        memcpy(key.bytes + key.length, "bogus.x", 7);
        key.length = (uint16_t)(key.length + 7);
        scene_put(scene, &key, "1", 1);
    }
    if (which == 2) /* not a list */
        set_attribute(scene, ino, FS_XATTR_ACCESS_ACL, "no list");
    if (which == 3) /* the inode does not know of it */
        set_attribute(scene, ino, "user.x", "1");
    if (which == 4) { /* the inode promises one that is not there */
        const struct fs_key file = key_of(scene, "d01/f02");
        struct fs_record record = scene_record(scene, &file);
        record.flags |= FS_RECORD_XATTRS | FS_RECORD_ACCESS_ACL;
        scene_put_record(scene, &file, &record);
    }
    scene_close(scene);
}

static void expiry(struct scene *scene, int which)
{
    struct fs_key key = {.length = 17, .bytes = {FS_KEY_EXPIRY}};
    begin(scene);
    const struct fs_key file = key_of(scene, "d01/f02");
    if (which == 0) {
        kv_be64_put(key.bytes + 1, 12345);
        kv_be64_put(key.bytes + 9, ino_of(scene, "d01/f02"));
        scene_put(scene, &key, NULL, 0);
    } else {
        struct fs_record record = scene_record(scene, &file);
        record.expiry_ns = UINT64_C(4102444800) * 1000000000; /* the year 2100 */
        scene_put_record(scene, &file, &record);
    }
    scene_close(scene);
}

const struct recipe fs_recipes[] = {
    {"volume record, nonsense", volume_record, 0, "volume-record", 4, 4, 1},
    {"volume record gone", volume_record, 1, "volume-record", 4, 4, 1},
    {"next inode number too small", volume_record, 2, "next-inode", 4, 1, 1},
    {"root gone", root_record, 0, "root", 4, 4, 1},
    {"root record, nonsense", root_record, 1, "inode-record root", 4, 4, 1},
    {"root that is a file", root_record, 2, "inode-type root", 4, 4, 1},
    {"key of an unknown type", unknown_key, 0, "", 0, 0, 0},
    {"entry, nonsense", bad_entry, 8, "entry-value", 4, 4, 1},
    {"entry, empty", bad_entry, 0, "entry-value", 4, 4, 1},
    {"entry of a file, nonsense", entry_lost, 0, "data-ownerless entry-value", 4, 4, 1},
    {"name with a slash", bad_name, 0, "entry-name", 4, 4, 1},
    {"directory called ..", bad_name, 1, "entry-name", 4, 4, 1},
    {"file called .", bad_name, 2, "entry-name", 4, 4, 1},
    {"file with content, a name with a slash", renamed, 0, "entry-name", 4, 4, 1},
    {"directory with entries, a name with a slash", renamed, 1, "entry-name link-count", 4, 4, 1},
    {"number that was never given", bad_number, 0, "inode-number", 4, 1, 1},
    {"name of nothing", dangling_entry, 0, "entry-dangling", 4, 4, 1},
    {"name that says another type", other_type, 0, "entry-type", 4, 1, 1},
    {"links of a file", link_count, 0, "link-count", 4, 1, 1},
    {"links of a directory", link_count, 1, "link-count", 4, 1, 1},
    {"links of the root", link_count, 2, "link-count", 4, 1, 1},
    {"links of what has two", link_count, 3, "link-count", 4, 1, 1},
    {"one of two names gone", name_gone, 0, "link-count", 4, 1, 1},
    {"both names gone", name_gone, 1, "unreferenced", 4, 1, 1},
    {"file under two names by itself", inode_twice, 0, "inode-twice", 4, 1, 1},
    {"linked file with a record of its own", inode_twice, 1, "inode-twice link-count", 4, 1, 1},
    {"directory under two names", inode_twice, 2, "inode-twice", 4, 4, 1},
    {"empty file under the number of one with content", inode_twice, 3, "inode-twice", 4, 1, 1},
    {"parent wrong", parent_record, 0, "parent", 4, 1, 1},
    {"parent gone", parent_record, 1, "parent", 4, 1, 1},
    {"parent, nonsense", parent_record, 2, "parent", 4, 1, 1},
    {"parent of a file", parent_record, 3, "parent-stray", 4, 1, 1},
    {"parent of nothing", parent_record, 4, "parent-stray", 4, 1, 1},
    {"directory without a name", directory_lost, 0, "directory-missing link-count", 4, 4, 1},
    {"directory without name or parent", directory_lost, 1, "directory-missing link-count", 4, 4,
     1},
    {"entry in a file", entry_in_file, 0, "directory-none", 4, 4, 1},
    {"loop of directories", loop, 0, "directory-loop link-count", 4, 1, 1},
    {"inode record, nonsense", inode_record, 0, "inode-record", 4, 4, 1},
    {"inode record of another number", inode_record, 1, "inode-record", 4, 4, 1},
    {"directory without a name of its own", inode_record, 2, "inode-type", 4, 4, 1},
    {"file without a name", inode_record, 3, "unreferenced", 4, 1, 1},
    {"orphan", orphan, 0, "", 0, 0, 0},
    {"orphan that has a name and a record", orphan, 1, "orphan-in-use", 4, 1, 1},
    {"orphan that has a name", orphan, 2, "orphan-in-use", 4, 1, 1},
    {"orphan with links", orphan, 3, "orphan-links", 4, 1, 1},
    {"orphan with entries", orphan, 4, "orphan-entries", 4, 1, 1},
    {"orphan without content, a file with content", orphan, 6, "orphan-in-use", 4, 1, 1},
    {"orphan, nonsense", orphan, 5, "inode-record", 4, 4, 1},
    {"blocks of a file", size, 0, "blocks", 4, 1, 1},
    {"size too small", size, 1, "size", 4, 1, 1},
    {"size beyond the content", size, 2, "", 0, 0, 0},
    {"size that can not be", size, 3, "data-ownerless entry-value", 4, 4, 1},
    {"content, nonsense", data_record, 0, "data-record", 4, 4, 1},
    {"extents that overlap", data_record, 1, "data-overlap", 4, 4, 1},
    {"content of what has it in its record", data_record, 2, "data-unused", 4, 1, 1},
    {"content of a number that can not be", data_record, 3, "data-unused", 4, 1, 1},
    {"content under no key", data_record, 4, "data-key", 4, 4, 1},
    {"content without an inode", data_record, 5, "data-ownerless", 4, 4, 1},
    {"content of a directory", data_record, 6, "data-unused", 4, 1, 1},
    {"content at the end of all offsets", data_record, 7, "data-record", 4, 4, 1},
    {"content of which a part is gone", data_gone, 0, "blocks", 4, 1, 1},
    {"symlink cut", symlink_cut, 0, "symlink-target", 4, 4, 1},
    {"attribute without an inode", attribute, 0, "attribute-ownerless", 4, 1, 1},
    {"attribute of an unknown kind", attribute, 1, "attribute-name", 4, 4, 1},
    {"access list that is none", attribute, 2, "attribute-value", 4, 4, 1},
    {"attribute that nobody announced", attribute, 3, "attribute-hidden", 4, 1, 1},
    {"attributes announced and not there", attribute, 4, "attribute-missing", 4, 1, 1},
    {"expiry of nothing", expiry, 0, "expiry-stray", 4, 1, 1},
    {"expiry not in the index", expiry, 1, "expiry-missing", 4, 1, 1},
};
const size_t fs_recipe_count = sizeof fs_recipes / sizeof fs_recipes[0];
