/*
 * tests/fs/test_volume.c: the operations without a kernel: threads against each other, and
 * what the key space looks like afterwards.
 */
#include <check.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/cookie.h"
#include "fs/format.h"
#include "fs/inode.h"
#include "fs/volume.h"
#include "scratch_store.h"
#include "support_mount.h"
#include "tests/run.h"

#define DIRECTORY_COUNT 4u
#define NAME_COUNT      12u
#define THREAD_COUNT    4u
#define STEP_COUNT      4000u

static struct scratch_store scratch;
static struct kv_store *store;
static struct fs_volume *volume;
static const struct fs_caller root_caller;

static void open_volume(void)
{
    const struct fs_volume_options options = {.read_only = false};
    struct kv_error error = {.text = ""};
    const int err = fs_volume_open(store, &options, &volume, &error);
    ck_assert_msg(err == 0, "%s", error.text);
}

static void setup(void)
{
    scratch_open(&scratch, 64u << 20, 0, 0);
    store = scratch.store;
    ck_assert_int_eq(fs_format(store, 0, 0, 0755), 0);
    open_volume();
}

static void teardown(void)
{
    fs_volume_close(volume);
    scratch_close(&scratch);
}

/* ---- what the keys must say -------------------------------------------------------- */

#define INODE_LIMIT 200000u

struct census {
    uint32_t names[INODE_LIMIT];   /* entries that lead to an inode */
    uint32_t subdirs[INODE_LIMIT]; /* directories in a directory */
    uint32_t nlink[INODE_LIMIT];   /* what the record says; 0: no record */
    uint32_t mode[INODE_LIMIT];
    uint64_t entries, orphans, parents;
};

static void count_record(struct census *census, const struct fs_record *record)
{
    const uint64_t ino = record->file.ino;
    ck_assert_uint_lt(ino, INODE_LIMIT);
    ck_assert_msg(census->nlink[ino] == 0, "inode %llu has two records", (unsigned long long)ino);
    census->nlink[ino] = record->nlink;
    census->mode[ino] = record->mode;
}

static void count_entry(struct census *census, const uint8_t *key, size_t key_len,
                        const void *value, size_t value_len)
{
    uint64_t directory;
    const char *name;
    size_t name_len;
    struct fs_entry entry;
    struct fs_record record;
    ck_assert_int_eq(fs_key_entry_parse(key, key_len, &directory, &name, &name_len), 0);
    ck_assert_int_eq(fs_entry_decode(value, value_len, &entry), 0);
    ck_assert_uint_lt(entry.ino, INODE_LIMIT);
    census->entries++;
    census->names[entry.ino]++;
    census->subdirs[directory] += S_ISDIR(entry.type) ? 1u : 0u;
    if (!entry.is_link) {
        ck_assert_int_eq(fs_record_decode(value, value_len, &record), 0);
        count_record(census, &record);
    }
}

static void check_parent(const uint8_t *key, const void *value, size_t value_len)
{
    uint64_t parent;
    const char *name;
    size_t name_len, length;
    struct fs_key entry;
    uint8_t record[FS_RECORD_BYTES_MAX];
    struct fs_entry found;
    ck_assert_int_eq(fs_parent_decode(value, value_len, &parent, &name, &name_len), 0);
    fs_key_entry(&entry, parent, name, name_len);
    ck_assert_int_eq(kv_get(store, entry.bytes, entry.length, record, sizeof record, &length), 0);
    ck_assert_int_eq(fs_entry_decode(record, length, &found), 0);
    ck_assert_uint_eq(found.ino, kv_be64_take(key + 1));
    ck_assert(S_ISDIR(found.type));
}

/* Every inode has one record, as many names as it says, and every directory a P key. */
static void expect_sound(void)
{
    struct census *census = calloc(1, sizeof *census);
    struct kv_cursor *cursor;
    ck_assert_int_eq(kv_cursor_open(store, NULL, 0, NULL, 0, &cursor), 0);
    int err;
    for (err = kv_cursor_first(cursor); err == 0; err = kv_cursor_next(cursor)) {
        size_t key_len, value_len;
        const uint8_t *key = kv_cursor_key(cursor, &key_len);
        const void *value;
        struct fs_record record;
        ck_assert_int_eq(kv_cursor_value(cursor, &value, &value_len), 0);
        switch (key[0]) {
        case FS_KEY_ENTRY:
            count_entry(census, key, key_len, value, value_len);
            break;
        case FS_KEY_INODE:
            ck_assert_int_eq(fs_record_decode(value, value_len, &record), 0);
            count_record(census, &record);
            break;
        case FS_KEY_ORPHAN:
            census->orphans++;
            break;
        case FS_KEY_PARENT:
            census->parents++;
            check_parent(key, value, value_len);
            break;
        default:
            break;
        }
    }
    ck_assert_int_eq(err, -ENOENT);
    kv_cursor_close(cursor);

    uint64_t directories = 0;
    for (uint64_t ino = FS_ROOT_INO; ino < INODE_LIMIT; ino++) {
        const bool is_directory = S_ISDIR(census->mode[ino]);
        const uint32_t want = is_directory ? 2 + census->subdirs[ino] : census->names[ino];
        ck_assert_msg(census->nlink[ino] == want, "inode %llu says %u links and has %u",
                      (unsigned long long)ino, census->nlink[ino], want);
        directories += is_directory;
    }
    ck_assert_uint_eq(census->parents, directories - 1);
    ck_assert_uint_eq(census->orphans, 0);
    free(census);
}

/* ---- threads ------------------------------------------------------------------------- */

struct player {
    uint64_t state;
    uint64_t directories[DIRECTORY_COUNT];
    const char *failed; /* operation that said what it never should */
    int err;
};

/* What may happen when others are at the same names; anything else is a fault. */
static void judge(struct player *player, const char *what, int err)
{
    switch (err) {
    case 0:
    case -ENOENT:
    case -EEXIST:
    case -ENOTDIR:
    case -EISDIR:
    case -ENOTEMPTY:
    case -EPERM:
    case -EMLINK:
    case -ENODATA:
    case -ENXIO:
    case -EINVAL:
        return;
    default:
        player->failed = what;
        player->err = err;
    }
}

static bool ignore_entry(void *context, const struct fs_dirent *entry)
{
    (void)entry;
    return ++*(unsigned *)context < 20;
}

struct taken {
    struct player *player;
    uint64_t inos[NAME_COUNT * 2];
    unsigned count;
};

static bool take_entry(void *context, const struct fs_dirent *entry)
{
    struct taken *taken = context;
    if (taken->count == NAME_COUNT * 2)
        return false;
    if (entry->record)
        taken->inos[taken->count++] = entry->ino;
    return true;
}

static void play_with_file(struct player *player, uint64_t ino)
{
    static const char bytes[5000] = "content";
    char back[100];
    struct fs_record record;
    size_t got;
    const uint64_t length = 1 + test_below(&player->state, sizeof bytes);
    const struct fs_attr_change change = {
        .valid = FS_ATTR_SIZE | FS_ATTR_MODE, .size = length, .mode = 0640};
    switch (test_below(&player->state, 6)) {
    case 0:
        judge(player, "write",
              fs_write(volume, ino, test_below(&player->state, 10000), bytes, length, true));
        break;
    case 1:
        judge(player, "read", fs_read(volume, ino, 0, back, sizeof back, &got));
        break;
    case 2:
        judge(player, "setattr", fs_setattr(volume, ino, &change, &record));
        break;
    case 3:
        judge(player, "setxattr", fs_setxattr(volume, ino, "user.x", bytes, 10, 0, false));
        break;
    case 4:
        judge(player, "removexattr", fs_removexattr(volume, ino, "user.x"));
        break;
    default:
        judge(player, "getattr", fs_getattr(volume, ino, &record));
    }
}

static void play_once(struct player *player)
{
    uint64_t *state = &player->state;
    const uint64_t dir = player->directories[test_below(state, DIRECTORY_COUNT)];
    const uint64_t other = player->directories[test_below(state, DIRECTORY_COUNT)];
    char name[16], to[16];
    snprintf(name, sizeof name, "n%u", (unsigned)test_below(state, NAME_COUNT));
    snprintf(to, sizeof to, "n%u", (unsigned)test_below(state, NAME_COUNT));
    const size_t name_len = strlen(name), to_len = strlen(to);
    struct fs_record record, linked;
    int err;

    switch (test_below(state, 10)) {
    case 0:
    case 1: {
        const struct fs_new_node node = {.mode = (test_below(state, 4) ? S_IFREG : S_IFDIR) | 0755};
        err = fs_create(volume, &root_caller, dir, name, name_len, &node, &record);
        judge(player, "create", err);
        if (!err)
            fs_forget(volume, record.file.ino, 1);
        break;
    }
    case 2:
        judge(player, "unlink", fs_unlink(volume, dir, name, name_len));
        break;
    case 3:
        judge(player, "rmdir", fs_rmdir(volume, dir, name, name_len));
        break;
    case 4:
        judge(player, "rename",
              fs_rename(volume, dir, name, name_len, other, to, to_len,
                        test_below(state, 3) ? 0 : FS_RENAME_EXCHANGE));
        break;
    case 5: {
        struct taken taken = {.player = player};
        judge(player, "readdirplus", fs_readdir(volume, dir, 0, true, take_entry, &taken));
        for (unsigned i = 0; i < taken.count; i++)
            fs_forget(volume, taken.inos[i], 1);
        break;
    }
    case 6: {
        unsigned count = 0;
        judge(player, "readdir", fs_readdir(volume, dir, 0, false, ignore_entry, &count));
        break;
    }
    case 7:
        err = fs_create_unnamed(volume, &root_caller, dir, 0600, &record);
        judge(player, "create_unnamed", err);
        if (err)
            break;
        judge(player, "publish", fs_publish(volume, record.file.ino, dir, name, name_len));
        fs_forget(volume, record.file.ino, 1);
        break;
    default:
        err = fs_lookup(volume, dir, name, name_len, &record);
        judge(player, "lookup", err);
        if (err)
            break;
        if (test_below(state, 3) == 0) {
            err = fs_link(volume, record.file.ino, other, to, to_len, &linked);
            judge(player, "link", err);
            if (!err)
                fs_forget(volume, linked.file.ino, 1);
        } else if (S_ISREG(record.mode)) {
            play_with_file(player, record.file.ino);
        }
        fs_forget(volume, record.file.ino, 1);
    }
}

static void *play(void *argument)
{
    struct player *player = argument;
    for (unsigned step = 0; step < STEP_COUNT && !player->failed; step++)
        play_once(player);
    return NULL;
}

START_TEST(threads_that_fight_over_names_leave_a_sound_tree)
{
    uint64_t seed = test_seed();
    struct player players[THREAD_COUNT];
    pthread_t threads[THREAD_COUNT];
    uint64_t directories[DIRECTORY_COUNT] = {FS_ROOT_INO};
    for (unsigned i = 1; i < DIRECTORY_COUNT; i++) {
        const struct fs_new_node node = {.mode = S_IFDIR | 0755};
        struct fs_record record;
        char name[16];
        const int length = snprintf(name, sizeof name, "dir%u", i);
        ck_assert_int_eq(
            fs_create(volume, &root_caller, FS_ROOT_INO, name, (size_t)length, &node, &record), 0);
        directories[i] = record.file.ino; /* the reference is kept */
    }
    for (unsigned i = 0; i < THREAD_COUNT; i++) {
        players[i] = (struct player){.state = seed + i};
        memcpy(players[i].directories, directories, sizeof directories);
        ck_assert_int_eq(pthread_create(&threads[i], NULL, play, &players[i]), 0);
    }
    for (unsigned i = 0; i < THREAD_COUNT; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_msg(!players[i].failed, "%s: %s", players[i].failed, strerror(-players[i].err));
    }
    for (unsigned i = 1; i < DIRECTORY_COUNT; i++)
        fs_forget(volume, directories[i], 1);
    uint64_t known, bytes;
    fs_volume_usage(volume, &known, &bytes);
    ck_assert_uint_eq(known, 0); /* every reference was given back */
    (void)fs_reap(volume);
    expect_sound();

    fs_volume_close(volume);
    scratch_reopen(&scratch);
    store = scratch.store;
    open_volume();
    expect_sound();
}
END_TEST

START_TEST(an_unknown_inode_is_stale)
{
    struct fs_record record;
    ck_assert_int_eq(fs_getattr(volume, 4711, &record), -ESTALE);
    ck_assert_int_eq(fs_unlink(volume, 4711, "x", 1), -ENOENT);
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "..", 2, &record), -EINVAL);
    fs_forget(volume, 4711, 3);
}
END_TEST

START_TEST(damage_in_one_record_leaves_the_rest_usable)
{
    const struct fs_new_node node = {.mode = S_IFREG | 0644};
    struct fs_record record;
    ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, "bad", 3, &node, &record), 0);
    fs_forget(volume, record.file.ino, 1);
    ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, "good", 4, &node, &record), 0);
    fs_forget(volume, record.file.ino, 1);

    struct fs_key key;
    struct kv_batch *batch = kv_batch_new();
    fs_key_entry(&key, FS_ROOT_INO, "bad", 3);
    ck_assert_int_eq(kv_batch_patch(batch, key.bytes, key.length, 1, "\xff\xff", 2), 0);
    ck_assert_int_eq(kv_apply(store, batch, 0, NULL), 0);
    kv_batch_free(batch);

    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "bad", 3, &record), -EUCLEAN);
    ck_assert_int_eq(fs_lookup(volume, FS_ROOT_INO, "good", 4, &record), 0);
    fs_forget(volume, record.file.ino, 1);

    /* Both are listed; only the sound one comes with attributes. */
    struct taken taken = {.count = 0};
    ck_assert_int_eq(fs_readdir(volume, FS_ROOT_INO, 0, true, take_entry, &taken), 0);
    ck_assert_uint_eq(taken.count, 1);
    fs_forget(volume, taken.inos[0], 1);
}
END_TEST

/* What no program could have named is passed over by a listing; the check moves it. */
START_TEST(a_name_that_can_not_be_is_not_listed_and_the_rest_is)
{
    static const char *const names[] = {"before", "behind", "f/g", "middle"};
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_key key;
    unsigned count = 0;
    struct fs_record record;
    const struct fs_new_node node = {.mode = S_IFREG | 0644};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strchr(names[i], '/'))
            ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, names[i],
                                       strlen(names[i]), &node, &record),
                             0);
    fs_key_entry(&key, FS_ROOT_INO, "middle", 6);
    ck_assert_int_eq(kv_get(scratch.store, key.bytes, key.length, value, sizeof value, &length), 0);
    fs_key_entry(&key, FS_ROOT_INO, "f/g", 3);
    ck_assert_int_eq(kv_put(scratch.store, key.bytes, key.length, value, length), 0);
    ck_assert_int_eq(fs_readdir(volume, FS_ROOT_INO, 0, false, ignore_entry, &count), 0);
    ck_assert_uint_eq(count, 2 + 3);
    ck_assert_int_eq(kv_del(scratch.store, key.bytes, key.length), 0);
}
END_TEST

/* The kernel may forget a directory while it is listed, by a hostile word or since the list is made
 * for the prefetch. */
struct forgetting {
    uint64_t directory;
    unsigned count;
};

static bool forget_it(void *context, const struct fs_dirent *entry)
{
    struct forgetting *const forgetting = context;
    (void)entry;
    if (forgetting->count++ == 2)
        fs_forget(volume, forgetting->directory, 1);
    return true;
}

START_TEST(a_directory_that_is_forgotten_while_it_is_listed_is_listed_to_its_end)
{
    struct fs_record record;
    const struct fs_new_node directory = {.mode = S_IFDIR | 0755}, file = {.mode = S_IFREG | 0644};
    struct forgetting forgetting = {.count = 0};
    ck_assert_int_eq(
        fs_create(volume, &root_caller, FS_ROOT_INO, "directory", 9, &directory, &record), 0);
    forgetting.directory = record.file.ino;
    for (unsigned i = 0; i < 100; i++) {
        char name[32];
        snprintf(name, sizeof name, "a longer name %u", i);
        ck_assert_int_eq(fs_create(volume, &root_caller, forgetting.directory, name, strlen(name),
                                   &file, &record),
                         0);
    }
    ck_assert_int_eq(fs_readdir(volume, forgetting.directory, 0, false, forget_it, &forgetting), 0);
    ck_assert_uint_eq(forgetting.count, 2 + 100);
    ck_assert_int_eq(fs_getattr(volume, forgetting.directory, &record), -ESTALE);
}
END_TEST

START_TEST(a_directory_does_not_move_into_itself)
{
    const struct fs_new_node node = {.mode = S_IFDIR | 0755};
    struct fs_record outer, inner, other;
    ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, "outer", 5, &node, &outer), 0);
    const uint64_t ino = outer.file.ino;
    ck_assert_int_eq(fs_create(volume, &root_caller, ino, "inner", 5, &node, &inner), 0);
    ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, "other", 5, &node, &other), 0);
    ck_assert_int_eq(fs_rename(volume, FS_ROOT_INO, "outer", 5, ino, "x", 1, 0), -EINVAL);
    ck_assert_int_eq(fs_rename(volume, FS_ROOT_INO, "outer", 5, inner.file.ino, "x", 1, 0),
                     -EINVAL);
    ck_assert_int_eq(
        fs_rename(volume, ino, "inner", 5, FS_ROOT_INO, "outer", 5, FS_RENAME_EXCHANGE), -EINVAL);
    ck_assert_int_eq(fs_rename(volume, FS_ROOT_INO, "other", 5, inner.file.ino, "x", 1, 0), 0);
    ck_assert_int_eq(fs_rename(volume, ino, "inner", 5, FS_ROOT_INO, "y", 1, 0), 0);
    fs_forget(volume, ino, 1);
    fs_forget(volume, inner.file.ino, 1);
    fs_forget(volume, other.file.ino, 1);
    expect_sound();
}
END_TEST

START_TEST(a_mode_names_a_type_that_there_is)
{
    struct fs_record record;
    struct fs_new_node node = {.mode = 0170000 | 0644};
    ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, "x", 1, &node, &record), -EINVAL);
    node.mode = 0xffff0000u | S_IFREG | 0644;
    ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, "x", 1, &node, &record), 0);
    ck_assert_uint_eq(record.mode, S_IFREG | 0644);
    fs_forget(volume, record.file.ino, 1);
}
END_TEST

START_TEST(what_had_no_name_at_a_crash_is_deleted_at_the_next_open)
{
    const struct fs_new_node node = {.mode = S_IFREG | 0644};
    struct fs_record record;
    struct fs_key key;
    ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, "open", 4, &node, &record), 0);
    ck_assert_int_eq(fs_unlink(volume, FS_ROOT_INO, "open", 4), 0);
    fs_key_ino(&key, FS_KEY_ORPHAN, record.file.ino);
    size_t length;
    ck_assert_int_eq(kv_get(store, key.bytes, key.length, NULL, 0, &length), -ERANGE);
    ck_assert_int_eq(fs_sync(volume), 0);

    /* Closing the volume deletes it too, but not durably. */
    fs_volume_close(volume);
    kv_abandon(store);
    scratch_mount(&scratch);
    store = scratch.store;
    ck_assert_int_eq(kv_get(store, key.bytes, key.length, NULL, 0, &length), -ERANGE);
    open_volume();
    ck_assert_int_eq(kv_get(store, key.bytes, key.length, NULL, 0, &length), -ENOENT);
}
END_TEST

START_TEST(an_access_list_takes_the_setgid_bit_from_who_is_not_in_the_group)
{
    static const uint8_t list[] = {2,  0, 0, 0,                      /* version */
                                   1,  0, 6, 0, 255, 255, 255, 255,  /* owner rw- */
                                   4,  0, 5, 0, 255, 255, 255, 255,  /* group r-x */
                                   32, 0, 4, 0, 255, 255, 255, 255}; /* others r-- */
    const struct fs_new_node node = {.mode = S_IFREG | 02755};
    struct fs_record record;
    ck_assert_int_eq(fs_create(volume, &root_caller, FS_ROOT_INO, "file", 4, &node, &record), 0);
    const uint64_t ino = record.file.ino;
    for (int kill = 0; kill < 2; kill++) {
        ck_assert_int_eq(
            fs_setxattr(volume, ino, "system.posix_acl_access", list, sizeof list, 0, kill != 0),
            0);
        ck_assert_int_eq(fs_getattr(volume, ino, &record), 0);
        ck_assert_uint_eq(record.mode & 07777u, kill ? 0654u : 02654u);
    }
    fs_forget(volume, ino, 1);
}
END_TEST

START_TEST(records_that_can_not_be_read_are_not_called_damaged)
{
    /* Given a sound image whose medium has lost its end since the store was opened, */
    const struct kv_open_options look = {.read_only = true, .no_background = true};
    const struct fs_volume_options options = {.read_only = true};
    struct kv_error error = {.text = ""};
    struct kv_store *seen;
    struct fs_volume *none;
    struct scratch_store own;
    scratch_open(&own, 64u << 20, 0, 0);
    ck_assert_int_eq(fs_format(own.store, 0, 0, 0755), 0);
    ck_assert_int_eq(kv_close(own.store), 0);
    ck_assert_int_eq(kv_open(own.path, &look, &seen, &error), 0);
    ck_assert_int_eq(truncate(own.path, 4 << 20), 0);
    /* then the device is named, and nobody is told to mend the image. */
    ck_assert_int_eq(fs_volume_open(seen, &options, &none, &error), -EIO);
    ck_assert_str_eq(error.text, "the filesystem's own records can not be read: "
                                 "Input/output error; check the device");
    kv_abandon(seen);
    ck_assert_int_eq(unlink(own.path), 0);
    ck_assert_int_eq(rmdir(own.directory), 0);
}
END_TEST

/* A listing that takes some entries at a time, and stops behind each few. */
struct slowly {
    uint64_t cookie;
    unsigned taken, more;
    char last[FS_NAME_MAX + 1];
};

static bool take_some(void *context, const struct fs_dirent *entry)
{
    struct slowly *slowly = context;
    if (!slowly->more)
        return false;
    slowly->more--;
    slowly->cookie = entry->cookie;
    if (entry->name[0] == '.')
        return true;
    ck_assert_int_gt(strncmp(entry->name, slowly->last, entry->name_len), 0);
    memcpy(slowly->last, entry->name, entry->name_len);
    slowly->last[entry->name_len] = '\0';
    slowly->taken++;
    return true;
}

/* Two more hours have passed. hours: that passed before. */
static void forget_positions(int *hours)
{
    struct timespec clock;
    ck_assert_int_eq(clock_gettime(CLOCK_MONOTONIC, &clock), 0);
    for (const int end = *hours + 2; *hours < end;)
        fs_inode_table_age(volume->table, fs_time_ns(&clock) + ++*hours * FS_COOKIES_KEPT_NS);
}

START_TEST(a_listing_goes_on_after_its_positions_were_forgotten)
{
    enum { COUNT = 300 };
    const struct fs_new_node node = {.mode = S_IFREG | 0644};
    struct slowly slowly = {.cookie = 0};
    struct fs_record record;
    char name[64];
    int hours = 0;
    for (int i = 0; i < COUNT; i++) {
        const int length = snprintf(name, sizeof name, "%d nothing in common %d.x", i * 7919, i);
        ck_assert_int_eq(
            fs_create(volume, &root_caller, FS_ROOT_INO, name, (size_t)length, &node, &record), 0);
        fs_forget(volume, record.file.ino, 1);
    }
    /* Given a program that stops in the middle for longer than positions are kept, */
    slowly.more = COUNT / 3;
    ck_assert_int_eq(fs_readdir(volume, FS_ROOT_INO, slowly.cookie, false, take_some, &slowly), 0);
    forget_positions(&hours);
    /* when it goes on, then it gets what is left; */
    slowly.more = COUNT / 3;
    ck_assert_int_eq(fs_readdir(volume, FS_ROOT_INO, slowly.cookie, false, take_some, &slowly), 0);
    forget_positions(&hours);
    slowly.more = UINT_MAX;
    ck_assert_int_eq(fs_readdir(volume, FS_ROOT_INO, slowly.cookie, false, take_some, &slowly), 0);
    ck_assert_uint_eq(slowly.taken, COUNT);
    /* unless what it stopped behind was deleted. */
    forget_positions(&hours);
    ck_assert_int_eq(fs_unlink(volume, FS_ROOT_INO, slowly.last, strlen(slowly.last)), 0);
    ck_assert_int_eq(fs_readdir(volume, FS_ROOT_INO, slowly.cookie, false, take_some, &slowly),
                     -EINVAL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("volume");
    TCase *tcase = tcase_create("volume");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, threads_that_fight_over_names_leave_a_sound_tree);
    tcase_add_test(tcase, an_unknown_inode_is_stale);
    tcase_add_test(tcase, damage_in_one_record_leaves_the_rest_usable);
    tcase_add_test(tcase, a_name_that_can_not_be_is_not_listed_and_the_rest_is);
    tcase_add_test(tcase, a_directory_that_is_forgotten_while_it_is_listed_is_listed_to_its_end);
    tcase_add_test(tcase, a_directory_does_not_move_into_itself);
    tcase_add_test(tcase, a_mode_names_a_type_that_there_is);
    tcase_add_test(tcase, what_had_no_name_at_a_crash_is_deleted_at_the_next_open);
    tcase_add_test(tcase, an_access_list_takes_the_setgid_bit_from_who_is_not_in_the_group);
    tcase_add_test(tcase, records_that_can_not_be_read_are_not_called_damaged);
    tcase_add_test(tcase, a_listing_goes_on_after_its_positions_were_forgotten);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
