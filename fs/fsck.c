/*
 * fs/fsck.c: whether a filesystem's records fit together, for fsck.kvfs.
 *
 * Owns       what a run has learnt: sets of inode numbers, and a node for each directory and
 *            each inode that has a record under its number.
 * Invariant  without `repair` nothing is written. A mend is a batch of its own, applied at
 *            once, so a run that breaks off leaves what it has mended.
 *
 * A mend may bring other things to light (a directory in lost+found is one more link of it),
 * so a repair goes over everything again until a round finds nothing. What is told and
 * counted is what the first round finds.
 */
#include "fs/fsck.h"

#include <stdarg.h>
#include <stdio.h>

#include "fs/acl.h"
#include "fs/data.h"
#include "fs/ino_map.h"
#include "fs/record.h"
#include "fs/xattr.h"

#define ROUNDS_MAX      6
#define LOST_FOUND      "lost+found"
#define LOST_FOUND_MODE 0700u
#define NAME_TRIES      1000 /* names tried in lost+found before giving up */
#define STAGE_COUNT     9u   /* as progress is told */

/* A directory, or an inode that stands under its I key. */
struct node {
    uint64_t ino;
    uint64_t parent;
    uint32_t nlink;    /* as recorded */
    uint32_t links;    /* names found */
    uint32_t subdirs;  /* directories found in it */
    uint32_t type;     /* S_IFMT bits */
    bool is_directory; /* a record says so */
    bool is_inode;     /* stands under I */
    bool is_orphan;    /* stands under O */
    bool has_entries;
    uint8_t color; /* of the walk up to the root */
};
enum color { COLOR_NEW, COLOR_ON_PATH, COLOR_DONE };

struct expiring {
    uint64_t ino, expiry_ns;
};

struct flag_fix {
    uint64_t ino;
    uint64_t flags; /* to be set in its record */
};

/* The flags that an inode's attributes must be announced by, each with its set of inodes. */
static const uint32_t announced[] = {FS_RECORD_XATTRS, FS_RECORD_ACCESS_ACL, FS_RECORD_DEFAULT_ACL,
                                     FS_RECORD_CAPABILITY};
#define ANNOUNCED_COUNT (sizeof announced / sizeof *announced)

struct check {
    struct kv_store *store;
    const struct kv_check_options *options;
    struct kv_check_result *result;
    struct fs_data data;
    struct fs_data_change change; /* the mend in preparation */
    int round;
    uint64_t found; /* in this round */

    struct fs_volume_record volume;
    bool has_volume;       /* the volume record was sound */
    uint64_t greatest_ino; /* seen */
    uint64_t lost_found;   /* inode number, 0: not looked for yet */

    struct fs_ino_set known;    /* inodes that have a record */
    struct fs_ino_set contents; /* those whose content is in F records */
    struct fs_ino_set flagged[ANNOUNCED_COUNT];
    struct fs_ino_map nodes;    /* struct node */
    struct fs_ino_map expiring; /* struct expiring */
    struct fs_ino_map fixes;    /* struct flag_fix */

    struct fs_key *homeless; /* D and I keys whose inodes go to lost+found */
    size_t homeless_count, homeless_cap;
};

/* A record under a key, as the visitors get it; borrowed from the cursor. */
struct item {
    const void *key, *value;
    size_t key_len, value_len;
};

typedef int visit_fn(struct check *c, const struct item *item);

/* ---- findings ------------------------------------------------------------------ */

/* Tell a finding. Returns whether it is to be mended. */
static bool KV_PRINTF(4, 5) finding(struct check *c, enum kv_check_severity severity,
                                    const char *what, const char *format, ...)
{
    if (severity != KV_CHECK_NOTE)
        c->found++;
    if (c->round > 0)
        return severity != KV_CHECK_NOTE;
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* a cut line is still a line */
    va_end(args);
    if (severity == KV_CHECK_REPAIRABLE)
        c->result->repairable++;
    else if (severity == KV_CHECK_DAMAGE)
        c->result->damaged++;
    if (c->options->report)
        c->options->report(c->options->context, severity, what, text);
    return severity != KV_CHECK_NOTE && c->options->repair;
}

/* A name for people: one line, printable, not too long. */
struct shown {
    char text[128];
};

static struct shown show(const char *name, size_t name_len)
{
    struct shown shown;
    size_t used = 0;
    for (size_t i = 0; i < name_len && used + 8 < sizeof shown.text; i++) {
        const unsigned char byte = (unsigned char)name[i];
        const bool plain = byte >= 0x20 && byte != 0x7f && byte != '\\';
        used += (size_t)snprintf(shown.text + used, sizeof shown.text - used,
                                 plain ? "%c" : "\\x%02x", byte);
    }
    shown.text[used] = '\0';
    return shown;
}

static unsigned long long ull(uint64_t n)
{
    return n;
}

/* ---- mending -------------------------------------------------------------------- */

static int commit(struct check *c)
{
    return fs_data_change_apply(&c->change, KV_APPLY_URGENT, NULL);
}

static int put_record(struct check *c, const void *key, size_t key_len,
                      const struct fs_record *record)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    return kv_batch_put(c->change.batch, key, key_len, value, fs_record_encode(record, value));
}

static int delete_now(struct check *c, const void *key, size_t key_len)
{
    const int err = kv_batch_del(c->change.batch, key, key_len);
    return err ? err : commit(c);
}

static int put_parent(struct check *c, uint64_t ino, uint64_t parent, const char *name,
                      size_t name_len)
{
    struct fs_key key;
    uint8_t value[8 + FS_NAME_MAX];
    fs_key_ino(&key, FS_KEY_PARENT, ino);
    return kv_batch_put(c->change.batch, key.bytes, key.length, value,
                        fs_parent_encode(parent, name, name_len, value));
}

static int put_volume(struct check *c)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    fs_key_volume(&key);
    fs_volume_record_encode(&c->volume, &disk);
    return kv_batch_put(c->change.batch, key.bytes, key.length, &disk, sizeof disk);
}

static struct fs_record new_record(uint64_t ino, uint32_t mode)
{
    const int64_t now = fs_time_now();
    return (struct fs_record){
        .file = {.ino = ino, .is_inline = true},
        .atime_ns = now,
        .mtime_ns = now,
        .ctime_ns = now,
        .btime_ns = now,
        .mode = mode,
        .nlink = S_ISDIR(mode) ? 2 : 1,
        .codec = FS_CODEC_INHERIT,
    };
}

/* What stands under a D key: 0, -ENOENT, or -EUCLEAN. */
static int get_entry(struct check *c, const struct fs_key *key, struct fs_entry *entry)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    const int err = kv_get(c->store, key->bytes, key->length, value, sizeof value, &length);
    if (err)
        return err == -ERANGE ? -EUCLEAN : err;
    return fs_entry_decode(value, length, entry);
}

/* Put an empty lost+found into the root, under the first name that is free. */
static int make_lost_found(struct check *c, const char *name)
{
    const uint64_t ino = kv_max_u64(c->volume.next_ino, c->greatest_ino + 1);
    if (ino >= FS_INO_MAX)
        return -ENOSPC;
    const struct fs_record record = new_record(ino, S_IFDIR | LOST_FOUND_MODE);
    struct fs_key key;
    c->volume.next_ino = ino + 1;
    c->greatest_ino = ino;
    fs_key_entry(&key, FS_ROOT_INO, name, strlen(name));
    int err = put_volume(c);
    if (!err)
        err = put_record(c, key.bytes, key.length, &record);
    if (!err)
        err = put_parent(c, ino, FS_ROOT_INO, name, strlen(name));
    if (!err)
        err = commit(c);
    if (!err)
        c->lost_found = ino;
    return err;
}

static int find_lost_found(struct check *c)
{
    char name[sizeof LOST_FOUND + 16] = LOST_FOUND;
    for (int i = 1; !c->lost_found && i < NAME_TRIES; i++) {
        struct fs_key key;
        struct fs_entry entry;
        fs_key_entry(&key, FS_ROOT_INO, name, strlen(name));
        const int err = get_entry(c, &key, &entry);
        if (err == -ENOENT)
            return make_lost_found(c, name);
        if (err && err != -EUCLEAN)
            return err;
        if (!err && S_ISDIR(entry.type))
            c->lost_found = entry.ino;
        snprintf(name, sizeof name, "%s~%d", LOST_FOUND, i);
    }
    return c->lost_found ? 0 : -EEXIST;
}

/* A free name in lost+found for an inode. */
static int lost_name(struct check *c, uint64_t ino, char name[48], struct fs_key *key)
{
    int err = find_lost_found(c);
    for (int i = 0; !err && i < NAME_TRIES; i++) {
        size_t length;
        snprintf(name, 48, i ? "#%llu~%d" : "#%llu", ull(ino), i);
        fs_key_entry(key, c->lost_found, name, strlen(name));
        err = kv_get(c->store, key->bytes, key->length, NULL, 0, &length);
        if (err == -ENOENT)
            return 0;
        err = err == -ERANGE ? 0 : err;
    }
    return err ? err : -EEXIST;
}

/* Name an inode in lost+found; `value` is what its entry holds. */
static int put_lost(struct check *c, uint64_t ino, bool is_directory, const void *value,
                    size_t value_len)
{
    char name[48];
    struct fs_key key;
    int err = lost_name(c, ino, name, &key);
    if (!err)
        err = kv_batch_put(c->change.batch, key.bytes, key.length, value, value_len);
    if (!err && is_directory)
        err = put_parent(c, ino, c->lost_found, name, strlen(name));
    return err;
}

/* Move what stands under a key (an entry of either kind, an I or O record) to lost+found. */
static int rehome(struct check *c, const void *key, size_t key_len)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_entry entry;
    int err = kv_get(c->store, key, key_len, value, sizeof value, &length);
    if (err == -ENOENT) /* another mend took it */
        return 0;
    if (err && err != -ERANGE)
        return err;
    if (err || fs_entry_decode(value, length, &entry))
        return delete_now(c, key, key_len);
    struct fs_record record;
    if (!entry.is_link && fs_record_decode(value, length, &record) == 0) {
        record.nlink = S_ISDIR(record.mode) ? record.nlink : 1;
        length = fs_record_encode(&record, value);
    }
    err = put_lost(c, entry.ino, S_ISDIR(entry.type), value, length);
    return err ? err : delete_now(c, key, key_len);
}

/* To lost+found, but not yet: only a whole pass shows which inode numbers are free. */
static int rehome_later(struct check *c, const void *key, size_t key_len)
{
    if (key_len > sizeof c->homeless->bytes)
        return delete_now(c, key, key_len);
    if (c->homeless_count == c->homeless_cap) {
        const size_t cap = c->homeless_cap ? c->homeless_cap * 2 : 16;
        struct fs_key *const grown = reallocarray(c->homeless, cap, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        c->homeless = grown;
        c->homeless_cap = cap;
    }
    struct fs_key *const kept = &c->homeless[c->homeless_count++];
    kept->length = (uint16_t)key_len;
    memcpy(kept->bytes, key, key_len);
    return 0;
}

static int rehome_all(struct check *c)
{
    int err = 0;
    for (size_t i = 0; !err && i < c->homeless_count; i++)
        err = rehome(c, c->homeless[i].bytes, c->homeless[i].length);
    return err;
}

/* ---- walking -------------------------------------------------------------------- */

static int read_item(struct kv_cursor *cursor, struct item *item)
{
    item->key = kv_cursor_key(cursor, &item->key_len);
    return kv_cursor_value(cursor, &item->value, &item->value_len);
}

static int scan_prefix(struct check *c, const void *prefix, size_t prefix_len, visit_fn *visit)
{
    struct kv_cursor *cursor;
    int err = kv_cursor_open_prefix(c->store, prefix, prefix_len, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        struct item item;
        err = read_item(cursor, &item);
        if (!err)
            err = visit(c, &item);
        if (err)
            break;
        if (c->round == 0)
            c->result->keys++;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

static int scan(struct check *c, enum fs_key_type type, visit_fn *visit)
{
    const uint8_t prefix = (uint8_t)type;
    return scan_prefix(c, &prefix, 1, visit);
}

static struct node *find_node(struct check *c, uint64_t ino)
{
    return fs_ino_map_find(&c->nodes, ino);
}

/* ---- one inode's record ---------------------------------------------------------- */

/* What the F records of a file add up to. */
struct content {
    uint64_t units;   /* for st_blocks */
    uint64_t end;     /* of the last written byte */
    uint64_t covered; /* bytes from the start on without a hole */
};

static int measure_content(struct check *c, uint64_t ino, struct content *content)
{
    *content = (struct content){0};
    uint64_t last_end = 0;
    struct fs_key prefix;
    struct kv_cursor *cursor;
    fs_key_ino(&prefix, FS_KEY_DATA, ino);
    int err = kv_cursor_open_prefix(c->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        struct item item;
        struct fs_data_record r;
        err = read_item(cursor, &item);
        if (err)
            break;
        if (c->round == 0)
            c->result->keys++;
        const bool sound = fs_data_record_decode(&c->data, item.key, item.key_len, item.value,
                                                 item.value_len, &r) == 0;
        if (!sound || r.offset < last_end) {
            if (finding(c, KV_CHECK_DAMAGE, sound ? "data-overlap" : "data-record",
                        "inode %llu: a record of its content %s; that part becomes a hole",
                        ull(ino), sound ? "overlaps the one before" : "can not be decoded"))
                err = delete_now(c, item.key, item.key_len);
            if (err)
                break;
            continue;
        }
        last_end = r.offset + r.length;
        content->units += fs_data_units(r.length);
        if (r.kind == FS_DATA_UNWRITTEN)
            continue;
        content->end = last_end;
        if (r.offset == content->covered)
            content->covered = last_end;
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

/*
 * Compare a file's record with its content, and correct the record.
 *
 * changed  out: the record is to be stored.
 * lost     out: nothing is left that it could stand for.
 */
static int check_content(struct check *c, struct fs_record *record, bool *changed, bool *lost)
{
    struct fs_file *const file = &record->file;
    struct content content = {.units = fs_data_units(file->inline_len),
                              .end = file->inline_len,
                              .covered = file->inline_len};
    *lost = false;
    if (!file->is_inline) {
        int err = fs_ino_set_add(&c->contents, file->ino);
        if (!err)
            err = measure_content(c, file->ino, &content);
        if (err)
            return err;
    }
    if (S_ISLNK(record->mode) && content.covered < file->size) {
        *changed |= finding(c, KV_CHECK_DAMAGE, "symlink-target",
                            "inode %llu: only %llu of %llu bytes of the symlink's target are "
                            "there; it is cut",
                            ull(file->ino), ull(content.covered), ull(file->size));
        file->size = content.covered;
        *lost = content.covered == 0;
    }
    if (content.end > file->size) {
        *changed |= finding(c, KV_CHECK_REPAIRABLE, "size",
                            "inode %llu: the size is %llu, but content ends at %llu",
                            ull(file->ino), ull(file->size), ull(content.end));
        file->size = content.end;
    }
    if (content.units != file->blocks) {
        *changed |= finding(c, KV_CHECK_REPAIRABLE, "blocks",
                            "inode %llu: %llu blocks are counted, there are %llu", ull(file->ino),
                            ull(file->blocks), ull(content.units));
        file->blocks = content.units;
    }
    return 0;
}

static int check_expiry(struct check *c, const struct fs_record *record)
{
    if (!record->expiry_ns)
        return 0;
    struct expiring *const expiring = fs_ino_map_add(&c->expiring, record->file.ino);
    if (!expiring)
        return -ENOMEM;
    expiring->expiry_ns = record->expiry_ns;
    uint8_t key[17] = {FS_KEY_EXPIRY};
    size_t length;
    kv_be64_put(key + 1, record->expiry_ns);
    kv_be64_put(key + 9, record->file.ino);
    int err = kv_get(c->store, key, sizeof key, NULL, 0, &length);
    if (err != -ENOENT)
        return err == -ERANGE ? 0 : err;
    if (!finding(c, KV_CHECK_REPAIRABLE, "expiry-missing",
                 "inode %llu expires, but is not in the index of expiries", ull(record->file.ino)))
        return 0;
    err = kv_batch_put(c->change.batch, key, sizeof key, NULL, 0);
    return err ? err : commit(c);
}

/*
 * Learn an inode and hold its record against its content. `changed`: the caller has corrected
 * it already. Stores what has been corrected.
 */
static int check_record(struct check *c, const struct item *item, struct fs_record *record,
                        bool changed)
{
    const uint64_t ino = record->file.ino;
    bool lost = false;
    c->greatest_ino = kv_max_u64(c->greatest_ino, ino);
    int err = fs_ino_set_add(&c->known, ino);
    for (size_t i = 0; !err && i < ANNOUNCED_COUNT; i++)
        if (record->flags & announced[i])
            err = fs_ino_set_add(&c->flagged[i], ino);
    if (!err && (S_ISREG(record->mode) || S_ISLNK(record->mode)))
        err = check_content(c, record, &changed, &lost);
    if (!err)
        err = check_expiry(c, record);
    if (err || !changed)
        return err;
    if (lost)
        return delete_now(c, item->key, item->key_len);
    err = put_record(c, item->key, item->key_len, record);
    return err ? err : commit(c);
}

/* ---- I and O ---------------------------------------------------------------------- */

/* Decode what stands under an I or O key; false: reported, and deleted if that is wished. */
static bool decode_numbered(struct check *c, const struct item *item, enum fs_key_type type,
                            struct fs_record *record, int *err)
{
    uint64_t ino;
    *err = 0;
    if (item->key_len == 9 && fs_key_ino_parse(item->key, item->key_len, type, &ino) == 0 &&
        fs_record_decode(item->value, item->value_len, record) == 0 && record->file.ino == ino)
        return true;
    if (finding(c, KV_CHECK_DAMAGE, "inode-record",
                "an inode record under the key %s can not be decoded",
                show(item->key, item->key_len).text))
        *err = delete_now(c, item->key, item->key_len);
    return false;
}

static int visit_inode(struct check *c, const struct item *item)
{
    struct fs_record record;
    int err;
    if (!decode_numbered(c, item, FS_KEY_INODE, &record, &err))
        return err;
    const uint64_t ino = record.file.ino;
    const bool is_directory = S_ISDIR(record.mode);
    if (is_directory != (ino == FS_ROOT_INO)) {
        if (finding(c, KV_CHECK_DAMAGE, "inode-type",
                    is_directory ? "inode %llu is a directory without a name"
                                 : "inode %llu is the root, but no directory",
                    ull(ino)))
            err = is_directory ? rehome_later(c, item->key, item->key_len)
                               : delete_now(c, item->key, item->key_len);
        if (err || !is_directory)
            return err;
    }
    struct node *const node = fs_ino_map_add(&c->nodes, ino);
    if (!node)
        return -ENOMEM;
    node->is_inode = true;
    node->is_directory = is_directory;
    node->nlink = record.nlink;
    node->type = record.mode & S_IFMT;
    return check_record(c, item, &record, false);
}

static int visit_orphan(struct check *c, const struct item *item)
{
    struct fs_record record;
    int err;
    if (!decode_numbered(c, item, FS_KEY_ORPHAN, &record, &err))
        return err;
    const uint64_t ino = record.file.ino;
    if (fs_ino_set_has(&c->known, ino)) {
        if (finding(c, KV_CHECK_REPAIRABLE, "orphan-in-use",
                    "inode %llu is in use and among those to be deleted; it stays", ull(ino)))
            err = delete_now(c, item->key, item->key_len);
        return err;
    }
    bool changed = false;
    if (record.nlink != 0) {
        changed = finding(c, KV_CHECK_REPAIRABLE, "orphan-links",
                          "inode %llu has no name, but a link count of %u", ull(ino), record.nlink);
        record.nlink = 0;
    }
    if (!changed)
        (void)finding(c, KV_CHECK_NOTE, "orphan",
                      "inode %llu has no name; the next mount deletes it", ull(ino));
    struct node *const node = fs_ino_map_add(&c->nodes, ino);
    if (!node)
        return -ENOMEM;
    node->is_orphan = true;
    node->is_directory = S_ISDIR(record.mode);
    node->type = record.mode & S_IFMT;
    return check_record(c, item, &record, changed);
}

/* ---- D ------------------------------------------------------------------------------ */

struct place {
    uint64_t directory;
    const char *name;
    size_t name_len;
};

static int drop_entry(struct check *c, const struct item *item, const struct place *at,
                      const char *what, const char *why)
{
    if (!finding(c, KV_CHECK_DAMAGE, what, "directory %llu: the entry %s %s; it is removed",
                 ull(at->directory), show(at->name, at->name_len).text, why))
        return 0;
    return delete_now(c, item->key, item->key_len);
}

static int put_link(struct check *c, const struct item *item, uint64_t ino, uint32_t type)
{
    struct fs_disk_link link;
    fs_link_encode(ino, type, &link);
    const int err = kv_batch_put(c->change.batch, item->key, item->key_len, &link, sizeof link);
    return err ? err : commit(c);
}

/* An orphan that has a name after all goes to its I key; links are counted in the next round. */
static int revive_orphan(struct check *c, const struct place *at, uint64_t ino)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_record record;
    struct fs_key from, to;
    if (!finding(c, KV_CHECK_REPAIRABLE, "orphan-in-use",
                 "directory %llu: the entry %s leads to inode %llu, which is among those to be "
                 "deleted; it stays",
                 ull(at->directory), show(at->name, at->name_len).text, ull(ino)))
        return 0;
    fs_key_ino(&from, FS_KEY_ORPHAN, ino);
    fs_key_ino(&to, FS_KEY_INODE, ino);
    int err = kv_get(c->store, from.bytes, from.length, value, sizeof value, &length);
    if (err) /* a second entry finds it moved already */
        return err == -ENOENT ? 0 : err;
    err = fs_record_decode(value, length, &record);
    if (err)
        return err;
    record.nlink = 1;
    err = put_record(c, to.bytes, to.length, &record);
    return err ? err : delete_now(c, from.bytes, from.length);
}

static int visit_link(struct check *c, const struct item *item, const struct place *at,
                      const struct fs_entry *entry)
{
    struct node *const node = find_node(c, entry->ino);
    if (node && node->is_orphan && !node->is_directory)
        return revive_orphan(c, at, entry->ino);
    if (!node || !node->is_inode || node->is_directory)
        return drop_entry(c, item, at, "entry-dangling", "leads to no inode");
    node->links++;
    if (node->type == entry->type)
        return 0;
    if (!finding(c, KV_CHECK_REPAIRABLE, "entry-type",
                 "directory %llu: the entry %s says another type than inode %llu",
                 ull(at->directory), show(at->name, at->name_len).text, ull(entry->ino)))
        return 0;
    return put_link(c, item, entry->ino, node->type);
}

/* The P record of a directory must say where its entry is. */
static int check_parent(struct check *c, uint64_t ino, const struct place *at)
{
    struct fs_key key;
    uint8_t stored[8 + FS_NAME_MAX + 1], wanted[8 + FS_NAME_MAX];
    size_t length = 0;
    fs_key_ino(&key, FS_KEY_PARENT, ino);
    int err = kv_get(c->store, key.bytes, key.length, stored, sizeof stored, &length);
    if (err && err != -ENOENT && err != -ERANGE)
        return err;
    const size_t wanted_len = fs_parent_encode(at->directory, at->name, at->name_len, wanted);
    if (!err && length == wanted_len && memcmp(stored, wanted, wanted_len) == 0)
        return 0;
    if (!finding(c, KV_CHECK_REPAIRABLE, "parent",
                 "directory %llu (%s in %llu): its parent record is %s", ull(ino),
                 show(at->name, at->name_len).text, ull(at->directory),
                 err == -ENOENT ? "missing" : "wrong"))
        return 0;
    err = put_parent(c, ino, at->directory, at->name, at->name_len);
    return err ? err : commit(c);
}

static int visit_directory(struct check *c, const struct place *at, const struct fs_record *record)
{
    struct node *const node = fs_ino_map_add(&c->nodes, record->file.ino);
    if (!node)
        return -ENOMEM;
    node->is_directory = true;
    node->type = S_IFDIR;
    node->parent = at->directory;
    node->nlink = record->nlink;
    struct node *const parent = find_node(c, at->directory);
    KV_ASSERT(parent); /* visit_entry made it */
    parent->subdirs++;
    return check_parent(c, record->file.ino, at);
}

/* An entry whose inode number is taken: keep the inode, and the name if that can be. */
static int visit_taken(struct check *c, const struct item *item, const struct place *at,
                       const struct fs_record *record)
{
    const uint64_t ino = record->file.ino;
    struct node *const node = find_node(c, ino);
    if (!node || !node->is_inode || node->is_directory || S_ISDIR(record->mode))
        return drop_entry(c, item, at, "inode-twice", "claims an inode number that is taken");
    node->links++;
    if (!finding(c, KV_CHECK_REPAIRABLE, "inode-twice",
                 "directory %llu: the entry %s repeats inode %llu and becomes a link to it",
                 ull(at->directory), show(at->name, at->name_len).text, ull(ino)))
        return 0;
    return put_link(c, item, ino, node->type);
}

static int visit_record(struct check *c, const struct item *item, const struct place *at)
{
    struct fs_record record;
    if (fs_record_decode(item->value, item->value_len, &record))
        return drop_entry(c, item, at, "entry-value", "can not be decoded");
    const uint64_t ino = record.file.ino;
    const struct node *const node = find_node(c, ino);
    int err = 0;
    if (node && node->is_orphan) {
        if (finding(c, KV_CHECK_REPAIRABLE, "orphan-in-use",
                    "inode %llu is in use and among those to be deleted; it stays", ull(ino))) {
            struct fs_key key;
            fs_key_ino(&key, FS_KEY_ORPHAN, ino);
            err = delete_now(c, key.bytes, key.length);
        }
        return err; /* the next round sees it without the other */
    }
    if (ino == FS_ROOT_INO || fs_ino_set_has(&c->known, ino))
        return visit_taken(c, item, at, &record);
    if (S_ISDIR(record.mode))
        err = visit_directory(c, at, &record);
    bool changed = false;
    if (!err && !S_ISDIR(record.mode) && record.nlink != 1) {
        changed =
            finding(c, KV_CHECK_REPAIRABLE, "link-count",
                    "inode %llu has one name, but a link count of %u", ull(ino), record.nlink);
        record.nlink = 1;
    }
    return err ? err : check_record(c, item, &record, changed);
}

static int visit_entry(struct check *c, const struct item *item)
{
    struct place at;
    struct fs_entry entry;
    if (fs_key_entry_parse(item->key, item->key_len, &at.directory, &at.name, &at.name_len)) {
        if (!finding(c, KV_CHECK_DAMAGE, "entry-name",
                     "an entry under the key %s has no legal name",
                     show(item->key, item->key_len).text))
            return 0;
        return rehome_later(c, item->key, item->key_len);
    }
    struct node *const directory = fs_ino_map_add(&c->nodes, at.directory);
    if (!directory)
        return -ENOMEM;
    directory->has_entries = true;
    if (fs_entry_decode(item->value, item->value_len, &entry))
        return drop_entry(c, item, &at, "entry-value", "can not be decoded");
    return entry.is_link ? visit_link(c, item, &at, &entry) : visit_record(c, item, &at);
}

/* ---- connectivity and counts ----------------------------------------------------------- */

static int check_root(struct check *c)
{
    const struct node *const root = find_node(c, FS_ROOT_INO);
    if (root && root->is_directory)
        return 0;
    struct fs_key key;
    const struct fs_record record = new_record(FS_ROOT_INO, S_IFDIR | 0755);
    if (!finding(c, KV_CHECK_DAMAGE, "root", "the root directory has no record; it gets a new one"))
        return 0;
    fs_key_ino(&key, FS_KEY_INODE, FS_ROOT_INO);
    const int err = put_record(c, key.bytes, key.length, &record);
    return err ? err : commit(c);
}

static int visit_misplaced(struct check *c, const struct item *item)
{
    return rehome_later(c, item->key, item->key_len);
}

/* The entry key that a directory's parent record names. -ENOENT: it names none. */
static int parent_key(struct check *c, uint64_t ino, struct fs_key *key)
{
    struct fs_key stored;
    uint8_t value[8 + FS_NAME_MAX];
    size_t length, name_len;
    uint64_t parent;
    const char *name;
    fs_key_ino(&stored, FS_KEY_PARENT, ino);
    const int err = kv_get(c->store, stored.bytes, stored.length, value, sizeof value, &length);
    if (err)
        return err == -ERANGE ? -ENOENT : err;
    if (fs_parent_decode(value, length, &parent, &name, &name_len))
        return -ENOENT;
    fs_key_entry(key, parent, name, name_len);
    return 0;
}

/* The key a directory's record stands under. -ENOENT: not found. */
static int directory_key(struct check *c, uint64_t ino, struct fs_key *key)
{
    if (ino == FS_ROOT_INO) {
        fs_key_ino(key, FS_KEY_INODE, ino);
        return 0;
    }
    struct fs_entry entry;
    int err = parent_key(c, ino, key);
    if (!err)
        err = get_entry(c, key, &entry);
    if (err == -EUCLEAN || (!err && (entry.is_link || entry.ino != ino)))
        return -ENOENT;
    return err;
}

/* A new record for a directory: where its parent record says, or else in lost+found. */
static int restore_directory(struct check *c, uint64_t ino)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    const struct fs_record record = new_record(ino, S_IFDIR | LOST_FOUND_MODE);
    const size_t length = fs_record_encode(&record, value);
    struct fs_key key;
    struct fs_entry entry;
    int err = parent_key(c, ino, &key);
    const bool has_parent = err == 0;
    if (!err)
        err = get_entry(c, &key, &entry);
    if (has_parent && err == -ENOENT)
        err = kv_batch_put(c->change.batch, key.bytes, key.length, value, length);
    else if (!err || err == -ENOENT || err == -EUCLEAN)
        err = put_lost(c, ino, true, value, length);
    return err ? err : commit(c);
}

/* A directory number under which entries stand, but which no sound record defines. */
static int check_undefined(struct check *c, const struct node *node)
{
    const uint64_t ino = node->ino;
    if (!node->has_entries || ino == FS_ROOT_INO)
        return 0;
    if (fs_ino_set_has(&c->known, ino) || ino > FS_INO_MAX || ino == 0) {
        if (!finding(c, KV_CHECK_DAMAGE, "directory-none",
                     "there are entries in %llu, which is no directory; they go to " LOST_FOUND,
                     ull(ino)))
            return 0;
        struct fs_key prefix;
        fs_key_entries(&prefix, ino);
        return scan_prefix(c, prefix.bytes, prefix.length, visit_misplaced);
    }
    if (!finding(c, KV_CHECK_DAMAGE, "directory-missing",
                 "directory %llu has entries but no record; it gets a new one", ull(ino)))
        return 0;
    c->greatest_ino = kv_max_u64(c->greatest_ino, ino);
    return restore_directory(c, ino);
}

/* Set the link count of the record under a key. */
static int store_nlink(struct check *c, const struct fs_key *key, uint32_t nlink)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_record record;
    int err = kv_get(c->store, key->bytes, key->length, value, sizeof value, &length);
    if (!err)
        err = fs_record_decode(value, length, &record);
    if (err) /* another mend took it */
        return err == -ENOENT || err == -EUCLEAN ? 0 : err;
    record.nlink = nlink;
    err = put_record(c, key->bytes, key->length, &record);
    return err ? err : commit(c);
}

static int check_directory_links(struct check *c, const struct node *node)
{
    const uint32_t wanted = 2 + node->subdirs;
    if (node->nlink == wanted)
        return 0;
    if (!finding(c, KV_CHECK_REPAIRABLE, "link-count",
                 "directory %llu has a link count of %u, it should be %u", ull(node->ino),
                 node->nlink, wanted))
        return 0;
    struct fs_key key;
    const int err = directory_key(c, node->ino, &key);
    if (err) /* its place is in dispute: the next round knows it */
        return err == -ENOENT ? 0 : err;
    return store_nlink(c, &key, wanted);
}

static int check_inode_links(struct check *c, const struct node *node)
{
    struct fs_key key;
    fs_key_ino(&key, FS_KEY_INODE, node->ino);
    if (node->links == 0) {
        if (!finding(c, KV_CHECK_REPAIRABLE, "unreferenced",
                     "inode %llu has no name; it goes to " LOST_FOUND, ull(node->ino)))
            return 0;
        return rehome_later(c, key.bytes, key.length);
    }
    if (node->links == node->nlink)
        return 0;
    if (!finding(c, KV_CHECK_REPAIRABLE, "link-count",
                 "inode %llu has %u names, but a link count of %u", ull(node->ino), node->links,
                 node->nlink))
        return 0;
    return store_nlink(c, &key, node->links);
}

static int check_node(struct check *c, const struct node *node)
{
    if (node->is_orphan) {
        if (!node->has_entries)
            return 0;
        if (!finding(c, KV_CHECK_REPAIRABLE, "orphan-entries",
                     "inode %llu is to be deleted but has entries; it goes to " LOST_FOUND,
                     ull(node->ino)))
            return 0;
        struct fs_key key;
        fs_key_ino(&key, FS_KEY_ORPHAN, node->ino);
        return rehome_later(c, key.bytes, key.length);
    }
    if (node->is_directory)
        return check_directory_links(c, node);
    if (node->is_inode) {
        const int err = check_inode_links(c, node);
        if (err)
            return err;
    }
    return check_undefined(c, node);
}

static int check_nodes(struct check *c)
{
    int err = 0;
    for (size_t i = 0; !err && i < c->nodes.count; i++) {
        /* A copy: mending may add nodes. */
        const struct node node = *(const struct node *)fs_ino_map_at(&c->nodes, i);
        err = check_node(c, &node);
    }
    return err;
}

/* Walk up from a directory. A walk that comes back to its own path has found a loop. */
static int check_loop(struct check *c, struct node *start)
{
    struct node *at = start;
    while (at && at->color == COLOR_NEW) {
        at->color = COLOR_ON_PATH;
        at = at->ino == FS_ROOT_INO ? NULL : find_node(c, at->parent);
    }
    const bool loop = at && at->color == COLOR_ON_PATH;
    const uint64_t in_loop = loop ? at->ino : 0;
    for (at = start; at && at->color == COLOR_ON_PATH; at = find_node(c, at->parent))
        at->color = COLOR_DONE;
    if (!loop ||
        !finding(c, KV_CHECK_REPAIRABLE, "directory-loop",
                 "directory %llu lies inside itself; it goes to " LOST_FOUND, ull(in_loop)))
        return 0;
    struct fs_key key;
    const int err = directory_key(c, in_loop, &key);
    if (err)
        return err == -ENOENT ? 0 : err;
    return rehome_later(c, key.bytes, key.length);
}

static int check_loops(struct check *c)
{
    int err = 0;
    for (size_t i = 0; !err && i < c->nodes.count; i++) {
        struct node *const node = fs_ino_map_at(&c->nodes, i);
        if (node->is_directory && !node->is_orphan)
            err = check_loop(c, node);
    }
    return err;
}

/* ---- what belongs to inodes -------------------------------------------------------------- */

static int delete_contents(struct check *c, uint64_t ino)
{
    bool done = false;
    int err = 0;
    while (!err && !done) {
        err = fs_data_delete_step(&c->data, ino, FS_DATA_STEP_RECORDS, &c->change, &done);
        if (!err)
            err = commit(c);
    }
    return err;
}

/* Content without an inode becomes a file in lost+found, as long as the content is. */
static int adopt_contents(struct check *c, uint64_t ino)
{
    struct content content;
    int err = measure_content(c, ino, &content);
    if (err)
        return err;
    if (content.end == 0)
        return delete_contents(c, ino);
    struct fs_record record = new_record(ino, S_IFREG | 0600);
    record.file.is_inline = false;
    record.file.size = content.end;
    record.file.blocks = content.units;
    uint8_t value[FS_RECORD_BYTES_MAX];
    c->greatest_ino = kv_max_u64(c->greatest_ino, ino);
    err = fs_ino_set_add(&c->known, ino); /* its attributes stay too */
    if (!err)
        err = put_lost(c, ino, false, value, fs_record_encode(&record, value));
    return err ? err : commit(c);
}

/* The first F key of an inode. */
static int check_content_owner(struct check *c, uint64_t ino)
{
    if (fs_ino_set_has(&c->contents, ino))
        return 0;
    if (fs_ino_set_has(&c->known, ino) || ino == 0 || ino > FS_INO_MAX) {
        if (!finding(c, KV_CHECK_REPAIRABLE, "data-unused",
                     "there is content for inode %llu, which has none; it is deleted", ull(ino)))
            return 0;
        return delete_contents(c, ino);
    }
    if (!finding(c, KV_CHECK_DAMAGE, "data-ownerless",
                 "there is content for inode %llu, which does not exist; it becomes a file "
                 "in " LOST_FOUND,
                 ull(ino)))
        return 0;
    return adopt_contents(c, ino);
}

/* Look at one F key of each inode. */
static int check_content_owners(struct check *c)
{
    const uint8_t type = FS_KEY_DATA;
    struct kv_cursor *cursor;
    int err = kv_cursor_open_prefix(c->store, &type, 1, &cursor);
    if (err)
        return err;
    err = kv_cursor_first(cursor);
    while (!err) {
        size_t key_len;
        uint64_t ino;
        const void *const key = kv_cursor_key(cursor, &key_len);
        if (fs_key_ino_parse(key, key_len, FS_KEY_DATA, &ino)) {
            if (finding(c, KV_CHECK_DAMAGE, "data-key",
                        "the key %s is no key of content; it is deleted", show(key, key_len).text))
                err = delete_now(c, key, key_len);
            if (!err)
                err = kv_cursor_next(cursor);
            continue;
        }
        err = check_content_owner(c, ino);
        if (err)
            break;
        if (ino == UINT64_MAX)
            break;
        struct fs_key next;
        fs_key_ino(&next, FS_KEY_DATA, ino + 1);
        err = kv_cursor_seek(cursor, next.bytes, next.length);
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

/* Is an attribute announced in its inode's record? If not, note that it must be. */
static int check_announced(struct check *c, uint64_t ino, uint32_t flags)
{
    uint32_t missing = 0;
    for (size_t i = 0; i < ANNOUNCED_COUNT; i++)
        if ((flags & announced[i]) && !fs_ino_set_has(&c->flagged[i], ino))
            missing |= announced[i];
    if (!missing)
        return 0;
    const struct flag_fix *const known = fs_ino_map_find(&c->fixes, ino);
    if (known && (known->flags & missing) == missing)
        return 0;
    if (!finding(c, KV_CHECK_REPAIRABLE, "attribute-hidden",
                 "inode %llu has attributes that its record does not tell of", ull(ino)))
        return 0;
    struct flag_fix *const fix = fs_ino_map_add(&c->fixes, ino);
    if (!fix)
        return -ENOMEM;
    fix->flags |= missing;
    return 0;
}

static int visit_xattr(struct check *c, const struct item *item)
{
    uint64_t ino;
    const char *name;
    size_t name_len;
    if (fs_xattr_key_parse(item->key, item->key_len, &ino, &name, &name_len)) {
        if (!finding(c, KV_CHECK_DAMAGE, "attribute-name",
                     "the key %s is no attribute's; it is deleted",
                     show(item->key, item->key_len).text))
            return 0;
        return delete_now(c, item->key, item->key_len);
    }
    if (!fs_ino_set_has(&c->known, ino)) {
        if (!finding(c, KV_CHECK_REPAIRABLE, "attribute-ownerless",
                     "there is an attribute %s for inode %llu, which does not exist; it is "
                     "deleted",
                     show(name, name_len).text, ull(ino)))
            return 0;
        return delete_now(c, item->key, item->key_len);
    }
    char terminated[FS_XATTR_NAME_MAX + 1];
    memcpy(terminated, name, name_len);
    terminated[name_len] = '\0';
    const uint32_t flag = fs_xattr_flag(terminated);
    const bool is_acl = flag & (FS_RECORD_ACCESS_ACL | FS_RECORD_DEFAULT_ACL);
    if (item->value_len > FS_XATTR_VALUE_MAX ||
        (is_acl && fs_acl_validate(item->value, item->value_len))) {
        if (!finding(c, KV_CHECK_DAMAGE, "attribute-value",
                     "inode %llu: the value of attribute %s is not legal; it is deleted", ull(ino),
                     show(name, name_len).text))
            return 0;
        return delete_now(c, item->key, item->key_len);
    }
    return check_announced(c, ino, FS_RECORD_XATTRS | flag);
}

/* Set what visit_xattr found missing, wherever the inode's record stands. */
static int visit_to_fix(struct check *c, const struct item *item)
{
    struct fs_record record;
    if (fs_record_decode(item->value, item->value_len, &record))
        return 0; /* a link, or what another pass has to say something of */
    const struct flag_fix *const fix = fs_ino_map_find(&c->fixes, record.file.ino);
    if (!fix)
        return 0;
    record.flags |= (uint32_t)fix->flags;
    const int err = put_record(c, item->key, item->key_len, &record);
    return err ? err : commit(c);
}

static int fix_flags(struct check *c)
{
    static const enum fs_key_type types[] = {FS_KEY_INODE, FS_KEY_ORPHAN, FS_KEY_ENTRY};
    int err = 0;
    for (size_t i = 0; !err && c->fixes.count > 0 && i < sizeof types / sizeof *types; i++)
        err = scan(c, types[i], visit_to_fix);
    return err;
}

static int visit_parent(struct check *c, const struct item *item)
{
    uint64_t ino = 0;
    const bool sound =
        item->key_len == 9 && fs_key_ino_parse(item->key, item->key_len, FS_KEY_PARENT, &ino) == 0;
    const struct node *const node = sound ? find_node(c, ino) : NULL;
    if (node && node->is_directory && !node->is_orphan && ino != FS_ROOT_INO)
        return 0; /* check_parent has compared it */
    if (sound && (ino == c->lost_found || (node && node->has_entries && !node->is_orphan)))
        return 0; /* a record that was made in this round, or is to be made */
    if (!finding(c, KV_CHECK_REPAIRABLE, "parent-stray",
                 "there is a parent record for %llu, which is no directory; it is deleted",
                 ull(ino)))
        return 0;
    return delete_now(c, item->key, item->key_len);
}

static int visit_expiry(struct check *c, const struct item *item)
{
    const uint8_t *const key = item->key;
    if (item->key_len == 17) {
        const struct expiring *const expiring =
            fs_ino_map_find(&c->expiring, kv_be64_take(key + 9));
        if (expiring && expiring->expiry_ns == kv_be64_take(key + 1))
            return 0;
    }
    if (!finding(c, KV_CHECK_REPAIRABLE, "expiry-stray",
                 "the index of expiries names what does not expire then; that is deleted"))
        return 0;
    return delete_now(c, item->key, item->key_len);
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* Keys of types that this build does not know are told of, and left alone. */
static int check_types(struct check *c)
{
    static const char known[] = {FS_KEY_VOLUME, FS_KEY_ENTRY, FS_KEY_INODE, FS_KEY_ORPHAN,
                                 FS_KEY_PARENT, FS_KEY_DATA,  FS_KEY_XATTR, FS_KEY_EXPIRY};
    struct kv_cursor *cursor;
    int err = kv_cursor_open(c->store, NULL, 0, NULL, 0, &cursor);
    if (err)
        return err;
    err = kv_cursor_first(cursor);
    while (!err) {
        size_t key_len;
        const uint8_t *const key = kv_cursor_key(cursor, &key_len);
        const uint8_t type = key[0];
        if (!memchr(known, type, sizeof known))
            (void)finding(c, KV_CHECK_NOTE, "key-type",
                          "there are keys of the type \\x%02x, which is not known", type);
        if (type == UINT8_MAX)
            break;
        const uint8_t next = (uint8_t)(type + 1);
        err = kv_cursor_seek(cursor, &next, 1);
    }
    kv_cursor_close(cursor);
    return err == -ENOENT ? 0 : err;
}

/* Read the volume record. *none: there is no filesystem in the store. */
static int read_volume(struct check *c, bool *none)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    size_t length;
    *none = false;
    c->has_volume = false;
    c->volume = (struct fs_volume_record){.next_ino = FS_ROOT_INO + 1};
    fs_key_volume(&key);
    int err = kv_get(c->store, key.bytes, key.length, &disk, sizeof disk, &length);
    if (!err) {
        struct fs_volume_record volume;
        err = fs_volume_record_decode(&disk, length, &volume);
        if (!err) {
            c->volume = volume;
            c->has_volume = true;
        }
        return err == -EPROTONOSUPPORT ? err : 0;
    }
    if (err == -ERANGE)
        return 0;
    if (err != -ENOENT)
        return err;
    fs_key_ino(&key, FS_KEY_INODE, FS_ROOT_INO);
    err = kv_get(c->store, key.bytes, key.length, NULL, 0, &length);
    *none = err == -ENOENT;
    return err == -ENOENT || err == -ERANGE ? 0 : err;
}

static int check_volume(struct check *c)
{
    const uint64_t wanted = kv_max_u64(c->volume.next_ino, c->greatest_ino + 1);
    bool mend = false;
    if (!c->has_volume)
        mend = finding(c, KV_CHECK_DAMAGE, "volume-record",
                       "the volume record can not be decoded; it gets a new one");
    else if (wanted != c->volume.next_ino)
        mend = finding(c, KV_CHECK_REPAIRABLE, "next-inode",
                       "inode %llu is in use, but the next to be handed out is %llu",
                       ull(c->greatest_ino), ull(c->volume.next_ino));
    if (!mend)
        return 0;
    c->volume.next_ino = wanted;
    const int err = put_volume(c);
    return err ? err : commit(c);
}

static void init_tables(struct check *c)
{
    fs_ino_set_init(&c->known);
    fs_ino_set_init(&c->contents);
    for (size_t i = 0; i < ANNOUNCED_COUNT; i++)
        fs_ino_set_init(&c->flagged[i]);
    fs_ino_map_init(&c->nodes, sizeof(struct node));
    fs_ino_map_init(&c->expiring, sizeof(struct expiring));
    fs_ino_map_init(&c->fixes, sizeof(struct flag_fix));
    c->homeless_count = 0;
    c->lost_found = 0;
    c->greatest_ino = FS_ROOT_INO;
    c->found = 0;
}

static void release_tables(struct check *c)
{
    fs_ino_set_release(&c->known);
    fs_ino_set_release(&c->contents);
    for (size_t i = 0; i < ANNOUNCED_COUNT; i++)
        fs_ino_set_release(&c->flagged[i]);
    fs_ino_map_release(&c->nodes);
    fs_ino_map_release(&c->expiring);
    fs_ino_map_release(&c->fixes);
}

static int scan_inodes(struct check *c)
{
    return scan(c, FS_KEY_INODE, visit_inode);
}

static int scan_orphans(struct check *c)
{
    return scan(c, FS_KEY_ORPHAN, visit_orphan);
}

static int scan_entries(struct check *c)
{
    return scan(c, FS_KEY_ENTRY, visit_entry);
}

static int check_tree(struct check *c)
{
    int err = check_root(c);
    if (!err)
        err = check_volume(c); /* before lost+found needs a number */
    if (!err)
        err = check_nodes(c);
    if (!err)
        err = check_loops(c);
    return err;
}

static int scan_xattrs(struct check *c)
{
    const int err = scan(c, FS_KEY_XATTR, visit_xattr);
    return err ? err : fix_flags(c);
}

static int scan_indexes(struct check *c)
{
    const int err = scan(c, FS_KEY_PARENT, visit_parent);
    return err ? err : scan(c, FS_KEY_EXPIRY, visit_expiry);
}

static int run_round(struct check *c)
{
    /* In this order: each looks at what those before it have learnt. */
    static int (*const stages[STAGE_COUNT])(struct check *) = {
        scan_inodes, scan_orphans, scan_entries, check_tree, check_content_owners,
        scan_xattrs, scan_indexes, rehome_all,   check_types};
    bool none;
    init_tables(c);
    int err = read_volume(c, &none);
    if (none) {
        (void)finding(c, KV_CHECK_NOTE, "no-filesystem", "the store holds no filesystem");
        return err;
    }
    for (size_t i = 0; !err && i < STAGE_COUNT; i++) {
        err = stages[i](c);
        if (c->options->progress && c->round == 0)
            c->options->progress(c->options->context, i + 1, STAGE_COUNT);
    }
    return err;
}

int fs_check(struct kv_store *store, const struct kv_check_options *options,
             struct kv_check_result *result)
{
    struct check c = {.store = store, .options = options, .result = result};
    *result = (struct kv_check_result){0};
    fs_data_init(&c.data, store);
    int err = fs_data_change_init(&c.change, store);
    if (err)
        return err;
    do {
        err = run_round(&c);
        release_tables(&c);
    } while (!err && options->repair && c.found > 0 && ++c.round < ROUNDS_MAX);
    if (!err && options->repair) {
        const uint64_t all = result->repairable + result->damaged;
        result->repaired = all - kv_min_u64(all, c.found);
    }
    fs_data_change_release(&c.change);
    free(c.homeless);
    return err;
}
