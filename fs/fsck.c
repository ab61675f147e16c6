/*
 * fs/fsck.c: whether a filesystem's records fit together, for fsck.kvfs.
 *
 * Owns       what a run has learnt: sets of inode numbers, and a node for each directory and
 *            each inode that has a record under its number. Here are the rounds, and the passes
 *            over inodes, names and connectivity.
 * Invariant  without `repair` nothing is written.
 * Locks      none: nothing else may use the store.
 *
 * A mend may bring other things to light (a directory in lost+found is one more link of it),
 * so a repair goes over everything again until a round finds nothing. What is told and
 * counted is what the first round finds.
 */
#include "fs/fsck.h"

#include <stdarg.h>
#include <stdio.h>

#include "fs/fsck_run.h"

#define ROUNDS_MAX  6
#define STAGE_COUNT 9u /* as progress is told */

enum color { COLOR_NEW, COLOR_ON_PATH, COLOR_DONE };

/* ---- findings ------------------------------------------------------------------ */

bool fs_fsck_finding(struct fs_fsck *c, enum kv_check_severity severity, const char *what,
                     const char *format, ...)
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

struct fs_fsck_shown fs_fsck_show(const char *name, size_t name_len)
{
    struct fs_fsck_shown shown;
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

/* ---- walking -------------------------------------------------------------------- */

int fs_fsck_read_item(struct kv_cursor *cursor, struct fs_fsck_item *item)
{
    item->key = kv_cursor_key(cursor, &item->key_len);
    return kv_cursor_value(cursor, &item->value, &item->value_len);
}

int fs_fsck_scan_prefix(struct fs_fsck *c, const void *prefix, size_t prefix_len,
                        fs_fsck_visit_fn *visit)
{
    struct kv_cursor *cursor;
    int err = kv_cursor_open_prefix(c->store, prefix, prefix_len, &cursor);
    if (err)
        return err;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        struct fs_fsck_item item;
        err = fs_fsck_read_item(cursor, &item);
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

int fs_fsck_scan(struct fs_fsck *c, enum fs_key_type type, fs_fsck_visit_fn *visit)
{
    const uint8_t prefix = (uint8_t)type;
    return fs_fsck_scan_prefix(c, &prefix, 1, visit);
}

int fs_fsck_has_prefix(struct fs_fsck *c, const struct fs_key *prefix, bool *found)
{
    struct kv_cursor *cursor;
    int err = kv_cursor_open_prefix(c->store, prefix->bytes, prefix->length, &cursor);
    if (err)
        return err;
    err = kv_cursor_first(cursor);
    kv_cursor_close(cursor);
    *found = !err;
    return err == -ENOENT ? 0 : err;
}

struct fs_fsck_node *fs_fsck_find_node(struct fs_fsck *c, uint64_t ino)
{
    return fs_ino_map_find(&c->nodes, ino);
}

/* ---- I and O ---------------------------------------------------------------------- */

/* Decode what stands under an I or O key; false: reported, and deleted if that is wished. */
static bool decode_numbered(struct fs_fsck *c, const struct fs_fsck_item *item,
                            enum fs_key_type type, struct fs_record *record, int *err)
{
    uint64_t ino;
    *err = 0;
    const bool sound =
        item->key_len == 9 && fs_key_ino_parse(item->key, item->key_len, type, &ino) == 0 &&
        fs_record_decode(item->value, item->value_len, record) == 0 && record->file.ino == ino;
    if (sound && fs_fsck_is_possible(c, ino))
        return true;
    if (fs_fsck_finding(c, KV_CHECK_DAMAGE, sound ? "inode-number" : "inode-record",
                        "an inode record under the key %s %s",
                        fs_fsck_show(item->key, item->key_len).text,
                        sound ? "has a number that was never given" : "can not be decoded"))
        *err = fs_fsck_delete_now(c, item->key, item->key_len);
    return false;
}

static int visit_inode(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    struct fs_record record;
    int err;
    if (!decode_numbered(c, item, FS_KEY_INODE, &record, &err))
        return err;
    const uint64_t ino = record.file.ino;
    const bool is_directory = S_ISDIR(record.mode);
    if (is_directory != (ino == FS_ROOT_INO)) {
        if (fs_fsck_finding(c, KV_CHECK_DAMAGE, "inode-type",
                            is_directory ? "inode %llu is a directory without a name"
                                         : "inode %llu is the root, but no directory",
                            fs_fsck_ull(ino)))
            err = is_directory ? fs_fsck_rehome_later(c, item->key, item->key_len)
                               : fs_fsck_delete_now(c, item->key, item->key_len);
        if (err || !is_directory)
            return err;
    }
    struct fs_fsck_node *const node = fs_ino_map_add(&c->nodes, ino);
    if (!node)
        return -ENOMEM;
    node->is_inode = true;
    node->is_directory = is_directory;
    node->nlink = record.nlink;
    node->type = record.mode & S_IFMT;
    return fs_fsck_check_record(c, item, &record, false);
}

static int visit_orphan(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    struct fs_record record;
    int err;
    if (!decode_numbered(c, item, FS_KEY_ORPHAN, &record, &err))
        return err;
    const uint64_t ino = record.file.ino;
    if (fs_ino_set_has(&c->known, ino)) {
        if (fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "orphan-in-use",
                            "inode %llu is in use and among those to be deleted; it stays",
                            fs_fsck_ull(ino)))
            err = fs_fsck_delete_now(c, item->key, item->key_len);
        return err;
    }
    bool changed = false;
    if (record.nlink != 0) {
        changed = fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "orphan-links",
                                  "inode %llu has no name, but a link count of %u",
                                  fs_fsck_ull(ino), record.nlink);
        record.nlink = 0;
    }
    if (!changed)
        (void)fs_fsck_finding(c, KV_CHECK_NOTE, "orphan",
                              "inode %llu has no name; the next mount deletes it",
                              fs_fsck_ull(ino));
    struct fs_fsck_node *const node = fs_ino_map_add(&c->nodes, ino);
    if (!node)
        return -ENOMEM;
    node->is_orphan = true;
    node->is_directory = S_ISDIR(record.mode);
    node->type = record.mode & S_IFMT;
    return fs_fsck_check_record(c, item, &record, changed);
}

/* ---- D ------------------------------------------------------------------------------ */

struct place {
    uint64_t directory;
    const char *name;
    size_t name_len;
};

static int drop_entry(struct fs_fsck *c, const struct fs_fsck_item *item, const struct place *at,
                      const char *what, const char *why)
{
    if (!fs_fsck_finding(c, KV_CHECK_DAMAGE, what, "directory %llu: the entry %s %s; it is removed",
                         fs_fsck_ull(at->directory), fs_fsck_show(at->name, at->name_len).text,
                         why))
        return 0;
    return fs_fsck_delete_now(c, item->key, item->key_len);
}

/* An orphan that has a name after all goes to its I key; links are counted in the next round. */
static int revive_orphan(struct fs_fsck *c, const struct place *at, uint64_t ino)
{
    uint8_t value[FS_RECORD_BYTES_MAX];
    size_t length;
    struct fs_record record;
    struct fs_key from, to;
    if (!fs_fsck_finding(
            c, KV_CHECK_REPAIRABLE, "orphan-in-use",
            "directory %llu: the entry %s leads to inode %llu, which is among those to be "
            "deleted; it stays",
            fs_fsck_ull(at->directory), fs_fsck_show(at->name, at->name_len).text,
            fs_fsck_ull(ino)))
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
    err = fs_fsck_put_record(c, to.bytes, to.length, &record);
    return err ? err : fs_fsck_delete_now(c, from.bytes, from.length);
}

static int visit_link(struct fs_fsck *c, const struct fs_fsck_item *item, const struct place *at,
                      const struct fs_entry *entry)
{
    struct fs_fsck_node *const node = fs_fsck_find_node(c, entry->ino);
    if (node && node->is_orphan && !node->is_directory)
        return revive_orphan(c, at, entry->ino);
    if (!node || !node->is_inode || node->is_directory)
        return drop_entry(c, item, at, "entry-dangling", "leads to no inode");
    node->links++;
    if (node->type == entry->type)
        return 0;
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "entry-type",
                         "directory %llu: the entry %s says another type than inode %llu",
                         fs_fsck_ull(at->directory), fs_fsck_show(at->name, at->name_len).text,
                         fs_fsck_ull(entry->ino)))
        return 0;
    return fs_fsck_put_link(c, item, entry->ino, node->type);
}

/* The P record of a directory must say where its entry is. */
static int check_parent(struct fs_fsck *c, uint64_t ino, const struct place *at)
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
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "parent",
                         "directory %llu (%s in %llu): its parent record is %s", fs_fsck_ull(ino),
                         fs_fsck_show(at->name, at->name_len).text, fs_fsck_ull(at->directory),
                         err == -ENOENT ? "missing" : "wrong"))
        return 0;
    err = fs_fsck_put_parent(c, ino, at->directory, at->name, at->name_len);
    return err ? err : fs_fsck_commit(c);
}

static int visit_directory(struct fs_fsck *c, const struct place *at,
                           const struct fs_record *record)
{
    struct fs_fsck_node *const node = fs_ino_map_add(&c->nodes, record->file.ino);
    if (!node)
        return -ENOMEM;
    node->is_directory = true;
    node->type = S_IFDIR;
    node->parent = at->directory;
    node->nlink = record->nlink;
    struct fs_fsck_node *const parent = fs_fsck_find_node(c, at->directory);
    KV_ASSERT(parent); /* visit_entry made it */
    parent->subdirs++;
    return check_parent(c, record->file.ino, at);
}

/*
 * Has an entry whose inode number is not its own content of its own? It has if that is in its
 * record; and what is in F records is its as long as nobody else who has the number has any.
 */
static bool has_own_content(const struct fs_fsck *c, const struct fs_record *record)
{
    if (!S_ISREG(record->mode) && !S_ISLNK(record->mode))
        return false;
    return record->file.is_inline ? record->file.inline_len > 0
                                  : !fs_ino_set_has(&c->contents, record->file.ino);
}

/* A file whose inode number is not its own gets another one, and what it has goes with it. */
static int keep_content(struct fs_fsck *c, const struct fs_fsck_item *item, const struct place *at,
                        const struct fs_record *record, const char *what, const char *why)
{
    const uint64_t ino = record->file.ino;
    int err = 0;
    if (!record->file.is_inline)
        err = fs_ino_set_add(&c->contents, ino);
    if (!err && record->flags && !fs_ino_set_has(&c->flagged[0], ino))
        err = fs_ino_set_add(&c->handed, ino);
    if (err || !fs_fsck_finding(c, KV_CHECK_REPAIRABLE, what,
                                "directory %llu: the entry %s %s, %llu; it keeps its content under "
                                "another",
                                fs_fsck_ull(at->directory),
                                fs_fsck_show(at->name, at->name_len).text, why, fs_fsck_ull(ino)))
        return err;
    return fs_fsck_renumber_later(c, item->key, item->key_len);
}

/* An entry whose inode number is taken: keep the inode, and the name if that can be. */
static int visit_taken(struct fs_fsck *c, const struct fs_fsck_item *item, const struct place *at,
                       const struct fs_record *record)
{
    const uint64_t ino = record->file.ino;
    struct fs_fsck_node *const node = fs_fsck_find_node(c, ino);
    if (has_own_content(c, record))
        return keep_content(c, item, at, record, "inode-twice",
                            "claims an inode number that is taken");
    if (!node || !node->is_inode || node->is_directory || S_ISDIR(record->mode))
        return drop_entry(c, item, at, "inode-twice", "claims an inode number that is taken");
    node->links++;
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "inode-twice",
                         "directory %llu: the entry %s repeats inode %llu and becomes a link to it",
                         fs_fsck_ull(at->directory), fs_fsck_show(at->name, at->name_len).text,
                         fs_fsck_ull(ino)))
        return 0;
    return fs_fsck_put_link(c, item, ino, node->type);
}

static int visit_record(struct fs_fsck *c, const struct fs_fsck_item *item, const struct place *at)
{
    struct fs_record record;
    if (fs_record_decode(item->value, item->value_len, &record))
        return drop_entry(c, item, at, "entry-value", "can not be decoded");
    const uint64_t ino = record.file.ino;
    if (!fs_fsck_is_possible(c, ino)) {
        static const char why[] = "has a number that was never given";
        return has_own_content(c, &record) ? keep_content(c, item, at, &record, "inode-number", why)
                                           : drop_entry(c, item, at, "inode-number", why);
    }
    const struct fs_fsck_node *const node = fs_fsck_find_node(c, ino);
    int err = 0;
    if (node && node->is_orphan) {
        if (fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "orphan-in-use",
                            "inode %llu is in use and among those to be deleted; it stays",
                            fs_fsck_ull(ino))) {
            struct fs_key key;
            fs_key_ino(&key, FS_KEY_ORPHAN, ino);
            err = fs_fsck_delete_now(c, key.bytes, key.length);
        }
        /* The next round sees it without the other; what it owns must still be there then. */
        return err ? err : fs_fsck_learn(c, &record);
    }
    if (ino == FS_ROOT_INO || fs_ino_set_has(&c->known, ino))
        return visit_taken(c, item, at, &record);
    if (S_ISDIR(record.mode))
        err = visit_directory(c, at, &record);
    bool changed = false;
    if (!err && !S_ISDIR(record.mode) && record.nlink != 1) {
        changed = fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "link-count",
                                  "inode %llu has one name, but a link count of %u",
                                  fs_fsck_ull(ino), record.nlink);
        record.nlink = 1;
    }
    return err ? err : fs_fsck_check_record(c, item, &record, changed);
}

static int visit_nameless(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    struct fs_record record;
    if (fs_record_decode(item->value, item->value_len, &record) == 0 &&
        fs_fsck_is_possible(c, record.file.ino)) {
        struct fs_fsck_nameless *nameless = fs_ino_map_find(&c->nameless, record.file.ino);
        if (nameless) { /* the first one keeps the number; any may be whose content is there */
            nameless->is_inline &= record.file.is_inline;
        } else {
            nameless = fs_ino_map_add(&c->nameless, record.file.ino);
            if (!nameless)
                return -ENOMEM;
            nameless->mode = record.mode;
            nameless->nlink = record.nlink;
            nameless->flags = record.flags;
            nameless->is_inline = record.file.is_inline;
        }
    }
    if (!fs_fsck_finding(c, KV_CHECK_DAMAGE, "entry-name",
                         "an entry under the key %s has no legal name",
                         fs_fsck_show(item->key, item->key_len).text))
        return 0;
    return fs_fsck_rehome_later(c, item->key, item->key_len);
}

static int learn_nameless(struct fs_fsck *c, const struct fs_fsck_nameless *nameless)
{
    const struct fs_record record = {
        .file = {.ino = nameless->ino, .is_inline = nameless->is_inline},
        .mode = nameless->mode,
        .nlink = nameless->nlink,
        .flags = nameless->flags};
    const int err = fs_fsck_learn(c, &record);
    if (err || !S_ISDIR(record.mode))
        return err;
    struct fs_fsck_node *const node = fs_ino_map_add(&c->nodes, nameless->ino);
    if (!node)
        return -ENOMEM;
    node->is_directory = true;
    node->type = S_IFDIR;
    node->parent = FS_ROOT_INO; /* where lost+found is: it ends every way up */
    node->nlink = record.nlink;
    return 0;
}

/*
 * When all legal names are known: what has none goes to lost+found with its record, so what stands
 * under its number is not without an owner. Who has a legal name, too, keeps the number.
 */
static int learn_all_nameless(struct fs_fsck *c)
{
    int err = 0;
    for (size_t i = 0; !err && i < c->nameless.count; i++) {
        const struct fs_fsck_nameless *const nameless = fs_ino_map_at(&c->nameless, i);
        const struct fs_fsck_node *const node = fs_fsck_find_node(c, nameless->ino);
        const bool is_orphan = node && node->is_orphan; /* it gives way, as in visit_record */
        if (nameless->ino != FS_ROOT_INO &&
            (is_orphan || !fs_ino_set_has(&c->known, nameless->ino)))
            err = learn_nameless(c, nameless);
        else if (!nameless->is_inline) /* the next round sees whose it is */
            err = fs_ino_set_add(&c->contents, nameless->ino);
    }
    return err;
}

static int visit_entry(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    struct place at;
    struct fs_entry entry;
    if (fs_key_entry_parse(item->key, item->key_len, &at.directory, &at.name, &at.name_len))
        return visit_nameless(c, item);
    struct fs_fsck_node *const directory = fs_ino_map_add(&c->nodes, at.directory);
    if (!directory)
        return -ENOMEM;
    directory->has_entries = true;
    if (fs_entry_decode(item->value, item->value_len, &entry))
        return drop_entry(c, item, &at, "entry-value", "can not be decoded");
    return entry.is_link ? visit_link(c, item, &at, &entry) : visit_record(c, item, &at);
}

/* ---- connectivity and counts ----------------------------------------------------------- */

static int check_root(struct fs_fsck *c)
{
    const struct fs_fsck_node *const root = fs_fsck_find_node(c, FS_ROOT_INO);
    if (root && root->is_directory)
        return 0;
    struct fs_key key;
    const struct fs_record record = fs_fsck_new_record(FS_ROOT_INO, S_IFDIR | 0755);
    if (!fs_fsck_finding(c, KV_CHECK_DAMAGE, "root",
                         "the root directory has no record; it gets a new one"))
        return 0;
    fs_key_ino(&key, FS_KEY_INODE, FS_ROOT_INO);
    const int err = fs_fsck_put_record(c, key.bytes, key.length, &record);
    return err ? err : fs_fsck_commit(c);
}

static int visit_misplaced(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    return fs_fsck_rehome_later(c, item->key, item->key_len);
}

/* A directory number under which entries stand, but which no sound record defines. */
static int check_undefined(struct fs_fsck *c, const struct fs_fsck_node *node)
{
    const uint64_t ino = node->ino;
    if (!node->has_entries || ino == FS_ROOT_INO)
        return 0;
    if (fs_ino_set_has(&c->known, ino) || !fs_fsck_is_possible(c, ino)) {
        if (!fs_fsck_finding(
                c, KV_CHECK_DAMAGE, "directory-none",
                "there are entries in %llu, which is no directory; they go to " FS_FSCK_LOST_FOUND,
                fs_fsck_ull(ino)))
            return 0;
        struct fs_key prefix;
        fs_key_entries(&prefix, ino);
        return fs_fsck_scan_prefix(c, prefix.bytes, prefix.length, visit_misplaced);
    }
    if (!fs_fsck_finding(c, KV_CHECK_DAMAGE, "directory-missing",
                         "directory %llu has entries but no record; it gets a new one",
                         fs_fsck_ull(ino)))
        return 0;
    c->greatest_ino = kv_max_u64(c->greatest_ino, ino);
    return fs_fsck_restore_directory(c, ino);
}

static int check_directory_links(struct fs_fsck *c, const struct fs_fsck_node *node)
{
    const uint32_t wanted = 2 + node->subdirs;
    if (node->nlink == wanted)
        return 0;
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "link-count",
                         "directory %llu has a link count of %u, it should be %u",
                         fs_fsck_ull(node->ino), node->nlink, wanted))
        return 0;
    struct fs_key key;
    const int err = fs_fsck_directory_key(c, node->ino, &key);
    if (err) /* its place is in dispute: the next round knows it */
        return err == -ENOENT ? 0 : err;
    return fs_fsck_store_nlink(c, &key, wanted);
}

static int check_inode_links(struct fs_fsck *c, const struct fs_fsck_node *node)
{
    struct fs_key key;
    fs_key_ino(&key, FS_KEY_INODE, node->ino);
    if (node->links == 0) {
        if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "unreferenced",
                             "inode %llu has no name; it goes to " FS_FSCK_LOST_FOUND,
                             fs_fsck_ull(node->ino)))
            return 0;
        return fs_fsck_rehome_later(c, key.bytes, key.length);
    }
    if (node->links == node->nlink)
        return 0;
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "link-count",
                         "inode %llu has %u names, but a link count of %u", fs_fsck_ull(node->ino),
                         node->links, node->nlink))
        return 0;
    return fs_fsck_store_nlink(c, &key, node->links);
}

static int check_node(struct fs_fsck *c, const struct fs_fsck_node *node)
{
    if (node->is_orphan) {
        if (!node->has_entries)
            return 0;
        if (!fs_fsck_finding(
                c, KV_CHECK_REPAIRABLE, "orphan-entries",
                "inode %llu is to be deleted but has entries; it goes to " FS_FSCK_LOST_FOUND,
                fs_fsck_ull(node->ino)))
            return 0;
        struct fs_key key;
        fs_key_ino(&key, FS_KEY_ORPHAN, node->ino);
        return fs_fsck_rehome_later(c, key.bytes, key.length);
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

static int check_nodes(struct fs_fsck *c)
{
    int err = 0;
    for (size_t i = 0; !err && i < c->nodes.count; i++) {
        /* A copy: mending may add nodes. */
        const struct fs_fsck_node node = *(const struct fs_fsck_node *)fs_ino_map_at(&c->nodes, i);
        err = check_node(c, &node);
    }
    return err;
}

/* Walk up from a directory. A walk that comes back to its own path has found a loop. */
static int check_loop(struct fs_fsck *c, struct fs_fsck_node *start)
{
    struct fs_fsck_node *at = start;
    while (at && at->color == COLOR_NEW) {
        at->color = COLOR_ON_PATH;
        at = at->ino == FS_ROOT_INO ? NULL : fs_fsck_find_node(c, at->parent);
    }
    const bool loop = at && at->color == COLOR_ON_PATH;
    const uint64_t in_loop = loop ? at->ino : 0;
    for (at = start; at && at->color == COLOR_ON_PATH; at = fs_fsck_find_node(c, at->parent))
        at->color = COLOR_DONE;
    if (!loop ||
        !fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "directory-loop",
                         "directory %llu lies inside itself; it goes to " FS_FSCK_LOST_FOUND,
                         fs_fsck_ull(in_loop)))
        return 0;
    struct fs_key key;
    const int err = fs_fsck_directory_key(c, in_loop, &key);
    if (err)
        return err == -ENOENT ? 0 : err;
    return fs_fsck_rehome_later(c, key.bytes, key.length);
}

static int check_loops(struct fs_fsck *c)
{
    int err = 0;
    for (size_t i = 0; !err && i < c->nodes.count; i++) {
        struct fs_fsck_node *const node = fs_ino_map_at(&c->nodes, i);
        if (node->is_directory && !node->is_orphan)
            err = check_loop(c, node);
    }
    return err;
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* Keys of types that this build does not know are told of, and left alone. */
static int check_types(struct fs_fsck *c)
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
            (void)fs_fsck_finding(c, KV_CHECK_NOTE, "key-type",
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
static int read_volume(struct fs_fsck *c, bool *none)
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

static int check_volume(struct fs_fsck *c)
{
    const uint64_t wanted = kv_max_u64(c->volume.next_ino, c->greatest_ino + 1);
    bool mend = false;
    if (!c->has_volume)
        mend = fs_fsck_finding(c, KV_CHECK_DAMAGE, "volume-record",
                               "the volume record can not be decoded; it gets a new one");
    else if (wanted != c->volume.next_ino)
        mend = fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "next-inode",
                               "inode %llu is in use, but the next to be handed out is %llu",
                               fs_fsck_ull(c->greatest_ino), fs_fsck_ull(c->volume.next_ino));
    if (!mend)
        return 0;
    c->volume.next_ino = wanted;
    const int err = fs_fsck_put_volume(c);
    return err ? err : fs_fsck_commit(c);
}

static void init_tables(struct fs_fsck *c)
{
    fs_ino_set_init(&c->known);
    fs_ino_set_init(&c->contents);
    for (size_t i = 0; i < FS_FSCK_ANNOUNCED; i++)
        fs_ino_set_init(&c->flagged[i]);
    fs_ino_set_init(&c->handed);
    fs_ino_map_init(&c->nodes, sizeof(struct fs_fsck_node));
    fs_ino_map_init(&c->nameless, sizeof(struct fs_fsck_nameless));
    fs_ino_map_init(&c->expiring, sizeof(struct fs_fsck_expiring));
    fs_ino_map_init(&c->fixes, sizeof(struct fs_fsck_flag_fix));
    c->lost_found = 0;
    c->greatest_ino = FS_ROOT_INO;
    c->found = 0;
}

static void release_tables(struct fs_fsck *c)
{
    fs_ino_set_release(&c->known);
    fs_ino_set_release(&c->contents);
    for (size_t i = 0; i < FS_FSCK_ANNOUNCED; i++)
        fs_ino_set_release(&c->flagged[i]);
    fs_ino_map_release(&c->nodes);
    fs_ino_map_release(&c->nameless);
    fs_ino_map_release(&c->expiring);
    fs_ino_map_release(&c->fixes);
    fs_ino_set_release(&c->handed);
    fs_fsck_keys_clear(&c->homeless);
    fs_fsck_keys_clear(&c->twins);
}

static int scan_inodes(struct fs_fsck *c)
{
    return fs_fsck_scan(c, FS_KEY_INODE, visit_inode);
}

static int scan_orphans(struct fs_fsck *c)
{
    return fs_fsck_scan(c, FS_KEY_ORPHAN, visit_orphan);
}

static int scan_entries(struct fs_fsck *c)
{
    const int err = fs_fsck_scan(c, FS_KEY_ENTRY, visit_entry);
    return err ? err : learn_all_nameless(c);
}

static int check_tree(struct fs_fsck *c)
{
    int err = check_root(c);
    if (!err)
        err = check_volume(c); /* before lost+found needs a number */
    if (!err)
        err = check_nodes(c);
    if (!err)
        err = check_loops(c);
    if (!err)
        err = fs_fsck_renumber_all(c);
    return err;
}

static int run_round(struct fs_fsck *c)
{
    /* In this order: each looks at what those before it have learnt. */
    static int (*const stages[STAGE_COUNT])(struct fs_fsck *) = {scan_inodes,
                                                                 scan_orphans,
                                                                 scan_entries,
                                                                 check_tree,
                                                                 fs_fsck_check_content_owners,
                                                                 fs_fsck_scan_xattrs,
                                                                 fs_fsck_scan_indexes,
                                                                 fs_fsck_rehome_all,
                                                                 check_types};
    bool none;
    init_tables(c);
    int err = read_volume(c, &none);
    if (none) {
        (void)fs_fsck_finding(c, KV_CHECK_NOTE, "no-filesystem", "the store holds no filesystem");
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
    struct fs_fsck c = {.store = store, .options = options, .result = result};
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
    return err;
}
