/*
 * tests/faults/io/workload_fs.c: the operations of fs/volume.h, remounts, and their model: names
 * in a few directories, and the files, symlinks and attributes that they lead to.
 *
 * The model keeps a digest of the whole tree for each version, one version an operation. What a
 * volume holds is read back into the same digest.
 */
#include "workload.h"

#include "../../kv/support_store.h"
#include "fs/format.h"
#include "fs/fsck.h"
#include "fs/volume.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRECTORY_COUNT 4u  /* the root is the first */
#define NAME_COUNT      12u /* in each */
#define OBJECT_COUNT    (DIRECTORY_COUNT * NAME_COUNT + 1)
#define SIZE_MAX_BYTES  100000u
#define WRITE_MAX       40000u
#define VERSIONS_MAX    20000u
#define ATTRIBUTE_MAX   3000u
#define NOTHING         UINT32_MAX

struct object {
    uint32_t names; /* that lead to it; 0: it is free */
    uint32_t type, mode;
    uint32_t size, attribute_length;
    uint8_t content[SIZE_MAX_BYTES]; /* of a file; of a symlink its target. Zero behind the end */
    uint8_t attribute[ATTRIBUTE_MAX];
};

struct run {
    const struct workload_config *config;
    struct kv_store *store;
    struct fs_volume *volume;
    struct test_random random;
    uint64_t directories[DIRECTORY_COUNT]; /* inode numbers; each counts while mounted */
    unsigned directories_made;
    uint32_t names[DIRECTORY_COUNT][NAME_COUNT]; /* objects, or NOTHING */
    struct object objects[OBJECT_COUNT];
    uint64_t digests[VERSIONS_MAX];
    uint32_t version, durable;
    unsigned after_failure;
    uint8_t buffer[SIZE_MAX_BYTES];
};

static const struct fs_caller caller = {0, 0, 0};

/* ---- errors ------------------------------------------------------------------------- */

static bool has_failed(const struct run *run)
{
    return run->store && kv_store_failure(run->store) != 0;
}

static void expect_tolerable(const struct run *run, const char *what, int err, bool changes)
{
    if (err && !tolerable(&run->config->tolerance, run->store, err, changes))
        violate("%s: %s (store: %s)", what, strerror(-err),
                run->store ? strerror(-kv_store_failure(run->store)) : "closed");
}

static bool is_over(struct run *run)
{
    return !run->volume || (has_failed(run) && run->after_failure++ > 12);
}

/* ---- digests ------------------------------------------------------------------------ */

/* FNV-1a (Fowler, Noll, Vo), eight bytes at a time. */
static uint64_t mix(uint64_t digest, const void *bytes, size_t length)
{
    const uint8_t *const at = bytes;
    for (size_t i = 0; i < length; i += 8) {
        uint64_t word = 0;
        memcpy(&word, at + i, kv_min_u64(8, length - i));
        digest = (digest ^ word) * 0x100000001b3u;
        digest ^= digest >> 29;
    }
    return (digest ^ length) * 0x9e3779b97f4a7c15u;
}

static uint64_t digest_of(uint32_t directory, uint32_t name, const struct object *object)
{
    const uint32_t head[6] = {directory,    name,         object->type,
                              object->mode, object->size, object->names};
    uint64_t digest = mix(14695981039346656037u, head, sizeof head);
    digest = mix(digest, object->content, object->size);
    return mix(digest, object->attribute, object->attribute_length);
}

static uint64_t model_digest(const struct run *run)
{
    uint64_t digest = run->directories_made;
    for (uint32_t i = 0; i < DIRECTORY_COUNT; i++)
        for (uint32_t j = 0; j < NAME_COUNT; j++)
            if (run->names[i][j] != NOTHING)
                digest += digest_of(i, j, &run->objects[run->names[i][j]]);
    return digest;
}

/* ---- the outcome of an operation -------------------------------------------------------- */

/* Does the model take the change? When the store failed with it, it is whole or absent. */
static bool took_place(const struct run *run, const char *what, int err, bool failed_before)
{
    expect_tolerable(run, what, err, true);
    if (!err && failed_before)
        violate("%s succeeded after the store had turned read-only", what);
    return !err || (!failed_before && has_failed(run));
}

static void add_version(struct run *run)
{
    run->version++;
    KV_ASSERT(run->version < VERSIONS_MAX);
    run->digests[run->version] = model_digest(run);
}

/* ---- names --------------------------------------------------------------------------- */

struct place {
    uint32_t directory, name;
    char text[16];
    size_t text_len;
    uint32_t object; /* or NOTHING */
};

static void name_place(struct place *place)
{
    place->text_len = (size_t)snprintf(place->text, sizeof place->text, "f%02u", place->name);
}

static struct place choose(struct run *run, bool taken)
{
    struct place place = {.object = NOTHING};
    for (unsigned tries = 0; tries < 200; tries++) {
        place.directory = (uint32_t)test_random_below(&run->random, DIRECTORY_COUNT);
        place.name = (uint32_t)test_random_below(&run->random, NAME_COUNT);
        place.object = run->names[place.directory][place.name];
        if ((place.object != NOTHING) == taken && place.directory <= run->directories_made)
            break;
    }
    name_place(&place);
    return place;
}

/* A name of a file or symlink; false: there is none. */
static bool choose_type(struct run *run, uint32_t type, struct place *place)
{
    for (unsigned tries = 0; tries < 60; tries++) {
        *place = choose(run, true);
        if (place->object != NOTHING && run->objects[place->object].type == type)
            return true;
    }
    return false;
}

static uint32_t free_object(const struct run *run)
{
    for (uint32_t i = 0; i < OBJECT_COUNT; i++)
        if (!run->objects[i].names)
            return i;
    violate("the model is full"); /* there are more objects than names */
}

static void set_name(struct run *run, const struct place *place, uint32_t object)
{
    uint32_t *const slot = &run->names[place->directory][place->name];
    if (object != NOTHING)
        run->objects[object].names++;
    if (*slot != NOTHING && !--run->objects[*slot].names)
        memset(&run->objects[*slot], 0, sizeof run->objects[*slot]);
    *slot = object;
}

/* The inode of a name, with a reference; 0 when it can not be had. */
static uint64_t look_up(struct run *run, const struct place *place)
{
    struct fs_record record;
    const int err = fs_lookup(run->volume, run->directories[place->directory], place->text,
                              place->text_len, &record);
    if (err == -ENOENT)
        violate("%s of directory %u is not there", place->text, place->directory);
    expect_tolerable(run, "fs_lookup", err, false);
    return err ? 0 : record.file.ino;
}

/* ---- operations ------------------------------------------------------------------------ */

static void create(struct run *run, bool symlink)
{
    const struct place place = choose(run, false);
    if (place.object != NOTHING)
        return;
    const uint32_t index = free_object(run);
    struct object *const object = &run->objects[index];
    object->type = symlink ? S_IFLNK : S_IFREG;
    object->mode = symlink ? 0777 : 0600 + (uint32_t)test_random_below(&run->random, 64);
    if (symlink) {
        object->size = 1 + (uint32_t)test_random_below(&run->random, 900);
        memset(object->content, 'a' + (int)test_random_below(&run->random, 26), object->size);
    }
    const struct fs_new_node node = {.mode = object->type | object->mode,
                                     .target = symlink ? (const char *)object->content : NULL,
                                     .target_len = symlink ? object->size : 0};
    struct fs_record record;
    const bool failed = has_failed(run);
    const int err = fs_create(run->volume, &caller, run->directories[place.directory], place.text,
                              place.text_len, &node, &record);
    if (!err)
        fs_forget(run->volume, record.file.ino, 1);
    if (took_place(run, "fs_create", err, failed)) {
        set_name(run, &place, index);
        add_version(run);
    } else {
        memset(object, 0, sizeof *object);
    }
}

static void write_file(struct run *run)
{
    struct place place;
    if (!choose_type(run, S_IFREG, &place))
        return;
    struct object *const object = &run->objects[place.object];
    const uint32_t length =
        1 + (uint32_t)test_random_below(&run->random,
                                        test_random_next(&run->random) % 3 ? 3000 : WRITE_MAX);
    const uint32_t most = (uint32_t)kv_min_u64(object->size + 5000, SIZE_MAX_BYTES - length);
    const uint32_t offset = (uint32_t)test_random_below(&run->random, most + 1);
    const uint64_t ino = look_up(run, &place);
    if (!ino)
        return;
    workload_fill(run->buffer, length, test_random_next(&run->random));
    const bool failed = has_failed(run);
    const int err = fs_write(run->volume, ino, offset, run->buffer, length, false);
    if (took_place(run, "fs_write", err, failed)) {
        memcpy(object->content + offset, run->buffer, length);
        object->size = (uint32_t)kv_max_u64(object->size, offset + length);
        add_version(run);
    }
    fs_forget(run->volume, ino, 1);
}

static void change_attributes(struct run *run, bool size)
{
    struct place place;
    if (!choose_type(run, S_IFREG, &place))
        return;
    struct object *const object = &run->objects[place.object];
    const uint64_t ino = look_up(run, &place);
    if (!ino)
        return;
    const struct fs_attr_change change = {
        .valid = size ? FS_ATTR_SIZE : FS_ATTR_MODE,
        .size = test_random_below(&run->random, object->size + 3000),
        .mode = 0600 + (uint32_t)test_random_below(&run->random, 64)};
    struct fs_record record;
    const bool failed = has_failed(run);
    if (size && change.size > SIZE_MAX_BYTES) {
        fs_forget(run->volume, ino, 1);
        return;
    }
    const int err = fs_setattr(run->volume, ino, &change, &record);
    if (took_place(run, "fs_setattr", err, failed)) {
        if (size) {
            if (change.size < object->size)
                memset(object->content + change.size, 0, object->size - change.size);
            object->size = (uint32_t)change.size;
        } else {
            object->mode = change.mode;
        }
        add_version(run);
    }
    fs_forget(run->volume, ino, 1);
}

static void punch(struct run *run)
{
    struct place place;
    if (!choose_type(run, S_IFREG, &place))
        return;
    struct object *const object = &run->objects[place.object];
    const uint32_t offset = (uint32_t)test_random_below(&run->random, object->size + 1u);
    const uint32_t length = 1 + (uint32_t)test_random_below(&run->random, 30000);
    const uint64_t ino = look_up(run, &place);
    if (!ino)
        return;
    const bool failed = has_failed(run);
    const int err =
        fs_fallocate(run->volume, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    if (took_place(run, "fs_fallocate", err, failed)) {
        if (offset < object->size)
            memset(object->content + offset, 0, kv_min_u64(length, object->size - offset));
        add_version(run);
    }
    fs_forget(run->volume, ino, 1);
}

static void copy(struct run *run)
{
    struct place from, to;
    if (!choose_type(run, S_IFREG, &from) || !choose_type(run, S_IFREG, &to) ||
        from.object == to.object || !run->objects[from.object].size)
        return;
    struct object *const source = &run->objects[from.object];
    struct object *const target = &run->objects[to.object];
    const uint64_t from_ino = look_up(run, &from);
    const uint64_t to_ino = look_up(run, &to);
    uint64_t copied = source->size;
    if (from_ino && to_ino) {
        const bool failed = has_failed(run);
        const int err = fs_copy_range(run->volume, from_ino, 0, to_ino, 0, source->size, &copied);
        if (!err && copied > source->size)
            violate("fs_copy_range copied %llu of %u bytes", (unsigned long long)copied,
                    source->size);
        if (took_place(run, "fs_copy_range", err, failed)) {
            const uint32_t length = err ? source->size : (uint32_t)copied;
            memcpy(target->content, source->content, length);
            target->size = (uint32_t)kv_max_u64(target->size, length);
            add_version(run);
        }
    }
    if (from_ino)
        fs_forget(run->volume, from_ino, 1);
    if (to_ino)
        fs_forget(run->volume, to_ino, 1);
}

static void set_attribute(struct run *run)
{
    struct place place;
    if (!choose_type(run, S_IFREG, &place))
        return;
    struct object *const object = &run->objects[place.object];
    const uint64_t ino = look_up(run, &place);
    if (!ino)
        return;
    const bool remove = object->attribute_length && test_random_next(&run->random) % 3 == 0;
    const uint32_t length = 1 + (uint32_t)test_random_below(&run->random, ATTRIBUTE_MAX - 1);
    workload_fill(run->buffer, length, test_random_next(&run->random));
    const bool failed = has_failed(run);
    const int err = remove ? fs_removexattr(run->volume, ino, "user.a")
                           : fs_setxattr(run->volume, ino, "user.a", run->buffer, length, 0, false);
    if (took_place(run, "fs_setxattr", err, failed)) {
        object->attribute_length = remove ? 0 : length;
        memcpy(object->attribute, run->buffer, object->attribute_length);
        add_version(run);
    }
    fs_forget(run->volume, ino, 1);
}

static void rename_one(struct run *run)
{
    const struct place from = choose(run, true);
    const struct place to = choose(run, test_random_next(&run->random) % 2);
    if (from.object == NOTHING || from.object == to.object)
        return;
    const bool exchange = to.object != NOTHING && test_random_next(&run->random) % 3 == 0;
    const bool failed = has_failed(run);
    const int err = fs_rename(run->volume, run->directories[from.directory], from.text,
                              from.text_len, run->directories[to.directory], to.text, to.text_len,
                              exchange ? FS_RENAME_EXCHANGE : 0);
    if (!took_place(run, "fs_rename", err, failed))
        return;
    if (exchange) {
        run->names[from.directory][from.name] = to.object;
        run->names[to.directory][to.name] = from.object;
    } else {
        set_name(run, &to, from.object);
        set_name(run, &from, NOTHING);
    }
    add_version(run);
}

static void link_one(struct run *run)
{
    struct place from;
    const struct place to = choose(run, false);
    if (!choose_type(run, S_IFREG, &from) || to.object != NOTHING)
        return;
    const uint64_t ino = look_up(run, &from);
    if (!ino)
        return;
    struct fs_record record;
    const bool failed = has_failed(run);
    const int err =
        fs_link(run->volume, ino, run->directories[to.directory], to.text, to.text_len, &record);
    if (took_place(run, "fs_link", err, failed)) {
        set_name(run, &to, from.object);
        add_version(run);
    }
    fs_forget(run->volume, ino, err ? 1 : 2);
}

/* Half of them while they are open: what has no name any more can be read until it is forgotten. */
static void unlink_one(struct run *run)
{
    const struct place place = choose(run, true);
    if (place.object == NOTHING)
        return;
    uint64_t ino = 0;
    if (test_random_next(&run->random) % 2)
        ino = look_up(run, &place);
    const struct object *const object = &run->objects[place.object];
    const uint32_t size = object->type == S_IFREG ? object->size : 0;
    const bool failed = has_failed(run);
    const int err =
        fs_unlink(run->volume, run->directories[place.directory], place.text, place.text_len);
    if (ino && size && !err) {
        size_t got = 0;
        const int read_err = fs_read(run->volume, ino, 0, run->buffer, size, &got);
        expect_tolerable(run, "reading what was unlinked", read_err, false);
        if (!read_err && (got != size || memcmp(run->buffer, object->content, size) != 0))
            violate("a file that was unlinked while open has other bytes");
    }
    if (ino)
        fs_forget(run->volume, ino, 1);
    if (took_place(run, "fs_unlink", err, failed)) {
        set_name(run, &place, NOTHING);
        add_version(run);
    }
}

/* New content for a name, all at once. */
static void publish(struct run *run)
{
    const struct place place = choose(run, test_random_next(&run->random) % 2);
    const uint32_t length = 1 + (uint32_t)test_random_below(&run->random, WRITE_MAX);
    const uint32_t index = free_object(run);
    struct fs_record record;
    int err =
        fs_create_unnamed(run->volume, &caller, run->directories[place.directory], 0640, &record);
    expect_tolerable(run, "fs_create_unnamed", err, true);
    if (err)
        return;
    workload_fill(run->buffer, length, test_random_next(&run->random));
    err = fs_write(run->volume, record.file.ino, 0, run->buffer, length, false);
    expect_tolerable(run, "fs_write", err, true);
    if (!err) {
        const bool failed = has_failed(run);
        err = fs_publish(run->volume, record.file.ino, run->directories[place.directory],
                         place.text, place.text_len);
        if (took_place(run, "fs_publish", err, failed)) {
            struct object *const object = &run->objects[index];
            object->type = S_IFREG;
            object->mode = 0640;
            object->size = length;
            memcpy(object->content, run->buffer, length);
            set_name(run, &place, index);
            add_version(run);
        }
    }
    fs_forget(run->volume, record.file.ino, 1);
}

static void sync_all(struct run *run, bool by_checkpoint)
{
    const bool failed = has_failed(run);
    const int err = by_checkpoint ? fs_checkpoint(run->volume) : fs_sync(run->volume);
    expect_tolerable(run, "fs_sync", err, true);
    if (!err && failed)
        violate("a store that is read-only after a failure promised durability");
    if (!err)
        run->durable = run->version;
}

/* ---- reading --------------------------------------------------------------------------- */

/* Read an inode as an object. */
static int read_object(struct run *run, const struct fs_record *record, struct object *object)
{
    const uint64_t ino = record->file.ino;
    size_t length = 0;
    memset(object, 0, sizeof *object);
    object->names = record->nlink;
    object->type = record->mode & S_IFMT;
    object->mode = record->mode & 07777;
    object->size = (uint32_t)record->file.size;
    if (record->file.size > SIZE_MAX_BYTES)
        violate("inode %llu has %llu bytes", (unsigned long long)ino,
                (unsigned long long)record->file.size);
    int err = 0;
    if (object->type == S_IFLNK) {
        char target[FS_SYMLINK_MAX + 1];
        err = fs_readlink(run->volume, ino, target);
        if (!err)
            memcpy(object->content, target, kv_min_u64(strlen(target), object->size));
        return err;
    }
    err = fs_read(run->volume, ino, 0, object->content, sizeof object->content, &length);
    if (!err && length != object->size)
        violate("inode %llu: %zu bytes are read, its size is %u", (unsigned long long)ino, length,
                object->size);
    if (err)
        return err;
    err = fs_getxattr(run->volume, ino, "user.a", object->attribute, sizeof object->attribute,
                      &length);
    if (err)
        return err == -ENODATA ? 0 : err;
    object->attribute_length = (uint32_t)length;
    return 0;
}

static void compare_one(struct run *run)
{
    static struct object found;
    const struct place place = choose(run, true);
    struct fs_record record;
    if (place.object == NOTHING)
        return;
    int err = fs_lookup(run->volume, run->directories[place.directory], place.text, place.text_len,
                        &record);
    if (err == -ENOENT && !has_failed(run))
        violate("%s of directory %u is not there", place.text, place.directory);
    if (err == -ENOENT)
        return; /* the operation that the store failed in is half seen in memory */
    if (!err) {
        err = read_object(run, &record, &found);
        fs_forget(run->volume, record.file.ino, 1);
    }
    expect_tolerable(run, "reading a file", err, false);
    if (!err && !has_failed(run) &&
        digest_of(place.directory, place.name, &found) !=
            digest_of(place.directory, place.name, &run->objects[place.object]))
        violate("%s of directory %u is not as it was written", place.text, place.directory);
}

struct listing {
    struct run *run;
    uint32_t directory;
    uint64_t digest;
    uint64_t inos[NAME_COUNT];
    uint32_t names[NAME_COUNT];
    size_t count;
};

static bool note_entry(void *context, const struct fs_dirent *entry)
{
    struct listing *const listing = context;
    if (entry->name[0] == '.')
        return true;
    if (entry->name[0] == 'd' && listing->directory == 0)
        return true; /* one of the directories */
    if (entry->name_len != 3 || entry->name[0] != 'f' || listing->count == NAME_COUNT)
        violate("%.*s is listed", (int)entry->name_len, entry->name);
    listing->names[listing->count++] =
        (uint32_t)(entry->name[1] - '0') * 10 + (uint32_t)(entry->name[2] - '0');
    return true;
}

/* The digest of all that a volume holds. */
static int volume_digest(struct run *run, uint64_t *digest)
{
    static struct object found;
    *digest = run->directories_made;
    for (uint32_t i = 0; i <= run->directories_made && i < DIRECTORY_COUNT; i++) {
        struct listing listing = {.run = run, .directory = i};
        int err = fs_readdir(run->volume, run->directories[i], 0, false, note_entry, &listing);
        for (size_t j = 0; j < listing.count && !err; j++) {
            struct place place = {.directory = i, .name = listing.names[j]};
            struct fs_record record;
            name_place(&place);
            err = fs_lookup(run->volume, run->directories[i], place.text, place.text_len, &record);
            if (err)
                break;
            err = read_object(run, &record, &found);
            fs_forget(run->volume, record.file.ino, 1);
            if (!err)
                *digest += digest_of(i, place.name, &found);
        }
        if (err)
            return err;
    }
    return 0;
}

/* ---- mounting --------------------------------------------------------------------------- */

/* References to the directories, as far as they were made. */
static int find_directories(struct run *run)
{
    run->directories[0] = FS_ROOT_INO;
    run->directories_made = 0;
    for (uint32_t i = 1; i < DIRECTORY_COUNT; i++) {
        char name[16];
        struct fs_record record;
        const int length = snprintf(name, sizeof name, "d%u", i);
        const int err = fs_lookup(run->volume, FS_ROOT_INO, name, (size_t)length, &record);
        if (err == -ENOENT)
            return 0;
        if (err)
            return err;
        run->directories[i] = record.file.ino;
        run->directories_made = i;
    }
    return 0;
}

static void make_directories(struct run *run)
{
    for (unsigned tries = 0; tries < 3 * DIRECTORY_COUNT &&
                             run->directories_made + 1 < DIRECTORY_COUNT && !is_over(run);
         tries++) {
        const struct fs_new_node node = {.mode = S_IFDIR | 0755};
        const uint32_t index = run->directories_made + 1;
        char name[16];
        struct fs_record record;
        const int length = snprintf(name, sizeof name, "d%u", index);
        const bool failed = has_failed(run);
        const int err =
            fs_create(run->volume, &caller, FS_ROOT_INO, name, (size_t)length, &node, &record);
        if (!err)
            run->directories[index] = record.file.ino;
        if (took_place(run, "making a directory", err, failed)) {
            run->directories_made = index;
            add_version(run);
        }
    }
}

static void abandon(struct run *run)
{
    fs_volume_close(run->volume);
    run->volume = NULL;
    if (run->store)
        kv_abandon(run->store);
    run->store = NULL;
}

static int try_mount(struct run *run)
{
    const struct kv_open_options options = workload_open_options(run->config);
    const struct fs_volume_options volume_options = {.log = test_log_nothing};
    struct kv_error error = {""};
    int err = kv_open(run->config->image, &options, &run->store, &error);
    if (!err)
        err = fs_volume_open(run->store, &volume_options, &run->volume, &error);
    if (!err)
        err = find_directories(run);
    if (err) {
        expect_tolerable(run, error.text[0] ? error.text : "mounting", err, true);
        abandon(run);
    }
    return err;
}

static void mount_volume(struct run *run)
{
    run->after_failure = 0;
    for (unsigned tries = 0; tries < 3 && try_mount(run); tries++)
        ;
}

/* Whatever was synced is there again, as if nothing had been. */
static void remount(struct run *run, bool close)
{
    if (is_over(run))
        return;
    sync_all(run, false);
    if (has_failed(run))
        return;
    if (run->durable != run->version)
        return; /* it could not be synced; go on */
    if (close) {
        fs_volume_close(run->volume);
        run->volume = NULL;
        const int err = kv_close(run->store);
        run->store = NULL;
        expect_tolerable(run, "kv_close", err, true);
    } else {
        abandon(run);
    }
    mount_volume(run);
}

/* Whether there is a filesystem now. */
static bool make_filesystem(struct run *run)
{
    const struct kv_create_options options = {.size_bytes = 64u << 20,
                                              .node_bytes = 4096,
                                              .extent_bytes = 16384,
                                              .log_bytes = 1u << 20,
                                              .codec = {KV_CODEC_ZSTD, 1},
                                              .uuid = {1},
                                              .force = true};
    for (unsigned tries = 0; tries < 3; tries++) {
        struct kv_error error = {""};
        int err = kv_create(run->config->image, &options, &error);
        if (!err) {
            const struct kv_open_options open_options = workload_open_options(run->config);
            err = kv_open(run->config->image, &open_options, &run->store, &error);
        }
        if (!err)
            err = fs_format(run->store, 0, 0, 0755);
        if (!err) {
            err = kv_close(run->store);
            run->store = NULL;
        }
        if (!err)
            return true;
        expect_tolerable(run, error.text[0] ? error.text : "making a filesystem", err, true);
        abandon(run);
    }
    return false;
}

/* ---- the work --------------------------------------------------------------------------- */

static void do_one(struct run *run)
{
    switch (test_random_below(&run->random, 20)) {
    case 0:
    case 1:
    case 2:
        create(run, false);
        break;
    case 3:
        create(run, true);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        write_file(run);
        break;
    case 8:
        change_attributes(run, true);
        break;
    case 9:
        change_attributes(run, false);
        break;
    case 10:
        punch(run);
        break;
    case 11:
        copy(run);
        break;
    case 12:
        set_attribute(run);
        break;
    case 13:
        rename_one(run);
        break;
    case 14:
        link_one(run);
        break;
    case 15:
        unlink_one(run);
        break;
    case 16:
        publish(run);
        break;
    default:
        compare_one(run);
    }
}

static void do_many(struct run *run, unsigned count)
{
    for (unsigned i = 0; i < count && !is_over(run); i++) {
        do_one(run);
        if (i % 3 == 0)
            sync_all(run, false);
        if (i % 60 == 59)
            sync_all(run, true);
    }
}

static void do_work(struct run *run)
{
    mount_volume(run);
    make_directories(run);
    do_many(run, 100 * run->config->scale);
    remount(run, false);
    do_many(run, 60 * run->config->scale);
    remount(run, true);
    do_many(run, 60 * run->config->scale);
    if (run->volume)
        sync_all(run, false);
}

/* Without faults the volume is in one of the states that it may be in. */
static void expect_promised(struct run *run)
{
    uint64_t digest;
    const int err = volume_digest(run, &digest);
    if (err)
        violate("reading everything: %s", strerror(-err));
    for (uint32_t version = run->version + 1; version > run->durable; version--)
        if (run->digests[version - 1] == digest)
            return;
    violate("the volume is in none of the states from %u (durable) to %u", run->durable,
            run->version);
}

static void print_finding(void *context, enum kv_check_severity severity, const char *what,
                          const char *text)
{
    (void)context;
    if (severity != KV_CHECK_NOTE)
        fprintf(stderr, "check: %s: %s\n", what, text);
}

static void expect_sound(struct run *run)
{
    const struct kv_check_options options = {.report = print_finding};
    struct kv_check_result result = {0};
    workload_expect_clean(run->store);
    const int err = fs_check(run->store, &options, &result);
    if (err || result.repairable || result.damaged)
        violate("fs_check: %s, %llu findings", strerror(-err),
                (unsigned long long)(result.repairable + result.damaged));
}

void workload_fs_run(const struct workload_config *config)
{
    struct run *const run = calloc(1, sizeof *run);
    KV_ASSERT(run);
    run->config = config;
    run->random.state = config->seed;
    for (uint32_t i = 0; i < DIRECTORY_COUNT; i++)
        for (uint32_t j = 0; j < NAME_COUNT; j++)
            run->names[i][j] = NOTHING;
    run->digests[0] = model_digest(run);
    (void)unlink(config->image); /* of the run before */

    config->start(config->context);
    const bool made = make_filesystem(run);
    if (made)
        do_work(run);
    config->stop(config->context);

    struct workload_config healthy = *config;
    healthy.tolerance = (struct tolerance){.io = false};
    run->config = &healthy;
    abandon(run);
    if (!made && !make_filesystem(run))
        violate("no filesystem can be made without faults either");
    mount_volume(run);
    expect_promised(run);
    fs_volume_close(run->volume); /* no orphans are left */
    expect_sound(run);
    const int err = kv_close(run->store);
    if (err)
        violate("kv_close: %s", strerror(-err));
    free(run);
}
