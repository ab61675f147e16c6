/*
 * fs/fsck_owned.c: the passes over what belongs to inodes: content, attributes, indexes.
 *
 * Owns       the comparison of an inode's record with what stands under its number, and the
 *            search for content, attributes and index records that no inode owns.
 * Invariant  an inode's record is looked at before what nobody owns is searched for, so that
 *            `known`, `contents` and `flagged` are complete by then.
 * Locks      none: nothing else may use the store.
 */
#include <assert.h>

#include "fs/acl.h"
#include "fs/expiry.h"
#include "fs/fsck_run.h"
#include "fs/xattr.h"

/* The flags that an inode's attributes must be announced by, each with its set of inodes. */
static const uint32_t announced[] = {FS_RECORD_XATTRS, FS_RECORD_ACCESS_ACL, FS_RECORD_DEFAULT_ACL,
                                     FS_RECORD_CAPABILITY};
static_assert(sizeof announced / sizeof *announced == FS_FSCK_ANNOUNCED, "a set for each flag");

/* ---- one inode's record ---------------------------------------------------------- */

/* What the F records of a file add up to. */
struct content {
    uint64_t units;   /* for st_blocks */
    uint64_t end;     /* of the last written byte */
    uint64_t covered; /* bytes from the start on without a hole */
};

/*
 * Is the record's part of its blob's table right? All of a table is held against the reference, a
 * part against the blob. A blob that can not be read is told of by the store's own check.
 * gone  out: the record was deleted.
 */
static int check_table(struct fs_fsck *c, const struct fs_fsck_item *item,
                       const struct fs_data_record *r, bool *gone)
{
    *gone = false;
    uint8_t table[KV_BLOB_TABLE_MAX];
    size_t length, at, whole_at;
    if (!r->table)
        return 0;
    const size_t part = kv_blob_table_range(&r->blob, r->blob_offset, r->length, &at);
    const bool whole =
        part == kv_blob_table_range(&r->blob, 0, kv_blob_length(&r->blob), &whole_at);
    if (whole && kv_blob_table_agrees(&r->blob, r->blob_offset, r->length, r->table))
        return 0;
    int err = kv_blob_table(c->store, &r->blob, table, &length);
    if (err || memcmp(table + at, r->table, part) == 0)
        return err == -ENOMEM ? err : 0;
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "data-table",
                         "inode %llu: digests in a record of its content are not those of what it "
                         "refers to",
                         fs_fsck_ull(r->ino)))
        return 0;
    err = fs_fsck_put_table(c, item, r, table + at);
    if (err != -ENOENT)
        return err;
    *gone = true; /* a value that looks like it, but holds no blob */
    return fs_fsck_delete_now(c, item->key, item->key_len);
}

static int measure_content(struct fs_fsck *c, uint64_t ino, struct content *content)
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
        struct fs_fsck_item item;
        struct fs_data_record r;
        err = fs_fsck_read_item(cursor, &item);
        if (err)
            break;
        if (c->round == 0)
            c->result->keys++;
        const bool sound = fs_data_record_decode(&c->data, item.key, item.key_len, item.value,
                                                 item.value_len, &r) == 0;
        if (!sound || r.offset < last_end) {
            if (fs_fsck_finding(c, KV_CHECK_DAMAGE, sound ? "data-overlap" : "data-record",
                                "inode %llu: a record of its content %s; that part becomes a hole",
                                fs_fsck_ull(ino),
                                sound ? "overlaps the one before" : "can not be decoded"))
                err = fs_fsck_delete_now(c, item.key, item.key_len);
            if (err)
                break;
            continue;
        }
        bool gone;
        err = check_table(c, &item, &r, &gone);
        if (err)
            break;
        if (gone)
            continue;
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

/* Say by its path which file may have lost content. */
static void tell_content(struct fs_fsck *c, const struct fs_fsck_item *item, uint64_t counted,
                         uint64_t there)
{
    char text[256];
    if (fs_check_show_key(c->store, item->key, item->key_len, text, sizeof text))
        (void)fs_fsck_finding(c, KV_CHECK_NOTE, "salvage-content",
                              "%s: of %llu blocks of its content %llu are there; the rest reads as "
                              "zeroes",
                              text, fs_fsck_ull(counted), fs_fsck_ull(there));
}

/*
 * Compare a file's record with its content, and correct the record.
 *
 * changed  out: the record is to be stored.
 * lost     out: nothing is left that it could stand for.
 */
static int check_content(struct fs_fsck *c, const struct fs_fsck_item *item,
                         struct fs_record *record, bool *changed, bool *lost)
{
    struct fs_file *const file = &record->file;
    struct content content = {.units = fs_data_units(file->inline_len),
                              .end = file->inline_len,
                              .covered = file->inline_len};
    *lost = false;
    const int err = file->is_inline ? 0 : measure_content(c, file->ino, &content);
    if (err)
        return err;
    if (S_ISLNK(record->mode) && content.covered < file->size) {
        *changed |= fs_fsck_finding(
            c, KV_CHECK_DAMAGE, "symlink-target",
            "inode %llu: only %llu of %llu bytes of the symlink's target are "
            "there; it is cut",
            fs_fsck_ull(file->ino), fs_fsck_ull(content.covered), fs_fsck_ull(file->size));
        file->size = content.covered;
        *lost = content.covered == 0;
    }
    if (content.end > file->size) {
        *changed |= fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "size",
                                    "inode %llu: the size is %llu, but content ends at %llu",
                                    fs_fsck_ull(file->ino), fs_fsck_ull(file->size),
                                    fs_fsck_ull(content.end));
        file->size = content.end;
    }
    if (content.units != file->blocks) {
        *changed |= fs_fsck_finding(
            c, KV_CHECK_REPAIRABLE, "blocks", "inode %llu: %llu blocks are counted, there are %llu",
            fs_fsck_ull(file->ino), fs_fsck_ull(file->blocks), fs_fsck_ull(content.units));
        if (content.units < file->blocks)
            tell_content(c, item, file->blocks, content.units);
        file->blocks = content.units;
    }
    return 0;
}

/* Is the index's entry of a record that expires there, and does it name the record's place? */
static int read_index(struct fs_fsck *c, const struct fs_fsck_item *item,
                      const uint8_t key[FS_EXPIRY_KEY_BYTES], uint8_t place[FS_EXPIRY_VALUE_BYTES],
                      size_t *place_len, bool *agrees)
{
    uint8_t stored[FS_EXPIRY_VALUE_BYTES];
    uint64_t directory;
    const char *name;
    size_t name_len, stored_len;
    int err = fs_key_entry_parse(item->key, item->key_len, &directory, &name, &name_len);
    if (err)
        return err;
    *place_len = fs_parent_encode(directory, name, name_len, place);
    err = kv_get(c->store, key, FS_EXPIRY_KEY_BYTES, stored, sizeof stored, &stored_len);
    *agrees = !err && stored_len == *place_len && !memcmp(stored, place, stored_len);
    return err == -ENOENT || err == -ERANGE ? 0 : err;
}

static int check_expiry(struct fs_fsck *c, const struct fs_fsck_item *item,
                        struct fs_record *record, bool *changed)
{
    if (!record->expiry_ns || S_ISDIR(record->mode))
        return 0;
    if (*(const uint8_t *)item->key != FS_KEY_ENTRY) {
        if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "expiry-name",
                             "inode %llu expires, but not by the only name it has; it stays",
                             fs_fsck_ull(record->file.ino)))
            return 0;
        record->expiry_ns = 0;
        *changed = true;
        return 0;
    }
    struct fs_fsck_expiring *const expiring = fs_ino_map_add(&c->expiring, record->file.ino);
    if (!expiring)
        return -ENOMEM;
    expiring->expiry_ns = record->expiry_ns;
    uint8_t key[FS_EXPIRY_KEY_BYTES], place[FS_EXPIRY_VALUE_BYTES];
    size_t place_len;
    bool agrees;
    fs_key_expiry(key, record->expiry_ns, record->file.ino);
    int err = read_index(c, item, key, place, &place_len, &agrees);
    if (err || agrees)
        return err;
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "expiry-missing",
                         "inode %llu expires, but the index of expiries does not say so",
                         fs_fsck_ull(record->file.ino)))
        return 0;
    err = kv_batch_put(c->change.batch, key, sizeof key, place, place_len);
    return err ? err : fs_fsck_commit(c);
}

/* Is every attribute there that the record announces? If not, it shall not do so. */
static int check_announcements(struct fs_fsck *c, struct fs_record *record, bool *changed)
{
    static const char *const names[FS_FSCK_ANNOUNCED] = {"", FS_XATTR_ACCESS_ACL,
                                                         FS_XATTR_DEFAULT_ACL, FS_XATTR_CAPABILITY};
    uint32_t missing = 0;
    for (size_t i = 0; i < FS_FSCK_ANNOUNCED; i++) {
        struct fs_key key;
        bool found;
        if (!(record->flags & announced[i]))
            continue;
        fs_key_ino(&key, FS_KEY_XATTR, record->file.ino);
        memcpy(key.bytes + key.length, names[i], strlen(names[i]));
        key.length = (uint16_t)(key.length + strlen(names[i]));
        const int err = fs_fsck_has_prefix(c, &key, &found);
        if (err)
            return err;
        if (!found)
            missing |= announced[i];
    }
    if (!missing)
        return 0;
    *changed |= fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "attribute-missing",
                                "inode %llu: its record tells of attributes that are not there",
                                fs_fsck_ull(record->file.ino));
    record->flags &= ~missing;
    return 0;
}

int fs_fsck_learn(struct fs_fsck *c, const struct fs_record *record)
{
    const uint64_t ino = record->file.ino;
    c->greatest_ino = kv_max_u64(c->greatest_ino, ino);
    int err = fs_ino_set_add(&c->known, ino);
    if (!err && !record->file.is_inline)
        err = fs_ino_set_add(&c->contents, ino);
    for (size_t i = 0; !err && i < FS_FSCK_ANNOUNCED; i++)
        if (record->flags & announced[i])
            err = fs_ino_set_add(&c->flagged[i], ino);
    return err;
}

int fs_fsck_check_record(struct fs_fsck *c, const struct fs_fsck_item *item,
                         struct fs_record *record, bool changed)
{
    bool lost = false;
    int err = record->flags ? check_announcements(c, record, &changed) : 0;
    if (!err)
        err = fs_fsck_learn(c, record);
    if (!err && (S_ISREG(record->mode) || S_ISLNK(record->mode)))
        err = check_content(c, item, record, &changed, &lost);
    if (!err)
        err = check_expiry(c, item, record, &changed);
    if (err || !changed)
        return err;
    if (lost)
        return fs_fsck_delete_now(c, item->key, item->key_len);
    err = fs_fsck_put_record(c, item->key, item->key_len, record);
    return err ? err : fs_fsck_commit(c);
}

/* ---- what belongs to inodes -------------------------------------------------------------- */

static int delete_contents(struct fs_fsck *c, uint64_t ino)
{
    bool done = false;
    int err = 0;
    while (!err && !done) {
        err = fs_data_delete_step(&c->data, ino, FS_DATA_STEP_RECORDS, &c->change, &done);
        if (!err)
            err = fs_fsck_commit(c);
    }
    return err;
}

/*
 * Content without an inode becomes a file in lost+found, as long as the content is. It keeps the
 * number it stands under if an inode can have that and none has.
 */
static int adopt_contents(struct fs_fsck *c, uint64_t from, bool keeps_number)
{
    struct content content;
    uint64_t ino = from;
    int err = measure_content(c, from, &content);
    if (err)
        return err;
    if (content.end == 0)
        return delete_contents(c, from);
    if (!keeps_number)
        err = fs_fsck_take_ino(c, &ino);
    if (err)
        return err;
    struct fs_record record = fs_fsck_new_record(ino, S_IFREG | 0600);
    record.file.is_inline = false;
    record.file.size = content.end;
    record.file.blocks = content.units;
    uint8_t value[FS_RECORD_BYTES_MAX];
    err = fs_fsck_learn(c, &record); /* its attributes stay too */
    if (!err)
        err = fs_fsck_put_lost(c, ino, false, value, fs_record_encode(&record, value));
    if (!err)
        err = fs_fsck_commit(c);
    return err || keeps_number ? err : fs_fsck_move_contents(c, from, ino);
}

/* The first F key of an inode. */
static int check_content_owner(struct fs_fsck *c, uint64_t ino)
{
    if (fs_ino_set_has(&c->contents, ino))
        return 0;
    if (fs_ino_set_has(&c->known, ino) || !fs_fsck_is_possible(c, ino)) {
        if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "data-unused",
                             "there is content for inode %llu, which has none; it becomes a file "
                             "in " FS_FSCK_LOST_FOUND,
                             fs_fsck_ull(ino)))
            return 0;
        return adopt_contents(c, ino, false);
    }
    if (!fs_fsck_finding(c, KV_CHECK_DAMAGE, "data-ownerless",
                         "there is content for inode %llu, which does not exist; it becomes a file "
                         "in " FS_FSCK_LOST_FOUND,
                         fs_fsck_ull(ino)))
        return 0;
    return adopt_contents(c, ino, true);
}

/* Look at one F key of each inode. */
int fs_fsck_check_content_owners(struct fs_fsck *c)
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
            if (fs_fsck_finding(c, KV_CHECK_DAMAGE, "data-key",
                                "the key %s is no key of content; it is deleted",
                                fs_fsck_show(key, key_len).text))
                err = fs_fsck_delete_now(c, key, key_len);
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
static int check_announced(struct fs_fsck *c, uint64_t ino, uint32_t flags)
{
    uint32_t missing = 0;
    for (size_t i = 0; i < FS_FSCK_ANNOUNCED; i++)
        if ((flags & announced[i]) && !fs_ino_set_has(&c->flagged[i], ino))
            missing |= announced[i];
    if (!missing)
        return 0;
    const struct fs_fsck_flag_fix *const known = fs_ino_map_find(&c->fixes, ino);
    if (known && (known->flags & missing) == missing)
        return 0;
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "attribute-hidden",
                         "inode %llu has attributes that its record does not tell of",
                         fs_fsck_ull(ino)))
        return 0;
    struct fs_fsck_flag_fix *const fix = fs_ino_map_add(&c->fixes, ino);
    if (!fix)
        return -ENOMEM;
    fix->flags |= missing;
    return 0;
}

static int visit_xattr(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    uint64_t ino;
    const char *name;
    size_t name_len;
    if (fs_xattr_key_parse(item->key, item->key_len, &ino, &name, &name_len)) {
        if (!fs_fsck_finding(c, KV_CHECK_DAMAGE, "attribute-name",
                             "the key %s is no attribute's; it is deleted",
                             fs_fsck_show(item->key, item->key_len).text))
            return 0;
        return fs_fsck_delete_now(c, item->key, item->key_len);
    }
    if (fs_ino_set_has(&c->handed, ino))
        return 0; /* what is left of them is another inode's in the next round */
    if (!fs_ino_set_has(&c->known, ino)) {
        if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "attribute-ownerless",
                             "there is an attribute %s for inode %llu, which does not exist; it is "
                             "deleted",
                             fs_fsck_show(name, name_len).text, fs_fsck_ull(ino)))
            return 0;
        return fs_fsck_delete_now(c, item->key, item->key_len);
    }
    char terminated[FS_XATTR_NAME_MAX + 1];
    memcpy(terminated, name, name_len);
    terminated[name_len] = '\0';
    const uint32_t flag = fs_xattr_flag(terminated);
    const bool is_acl = flag & FS_RECORD_ACLS;
    if (item->value_len > FS_XATTR_VALUE_MAX ||
        (is_acl && fs_acl_validate(item->value, item->value_len))) {
        if (!fs_fsck_finding(c, KV_CHECK_DAMAGE, "attribute-value",
                             "inode %llu: the value of attribute %s is not legal; it is deleted",
                             fs_fsck_ull(ino), fs_fsck_show(name, name_len).text))
            return 0;
        return fs_fsck_delete_now(c, item->key, item->key_len);
    }
    return check_announced(c, ino, FS_RECORD_XATTRS | flag);
}

/* Set what visit_xattr found missing, wherever the inode's record stands. */
static int visit_to_fix(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    struct fs_record record;
    if (fs_record_decode(item->value, item->value_len, &record))
        return 0; /* a link, or what another pass has to say something of */
    const struct fs_fsck_flag_fix *const fix = fs_ino_map_find(&c->fixes, record.file.ino);
    if (!fix)
        return 0;
    record.flags |= (uint32_t)fix->flags;
    const int err = fs_fsck_put_record(c, item->key, item->key_len, &record);
    return err ? err : fs_fsck_commit(c);
}

static int fix_flags(struct fs_fsck *c)
{
    static const enum fs_key_type types[] = {FS_KEY_INODE, FS_KEY_ORPHAN, FS_KEY_ENTRY};
    int err = 0;
    for (size_t i = 0; !err && c->fixes.count > 0 && i < sizeof types / sizeof *types; i++)
        err = fs_fsck_scan(c, types[i], visit_to_fix);
    return err;
}

static int visit_parent(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    uint64_t ino = 0;
    const bool sound =
        item->key_len == 9 && fs_key_ino_parse(item->key, item->key_len, FS_KEY_PARENT, &ino) == 0;
    const struct fs_fsck_node *const node = sound ? fs_fsck_find_node(c, ino) : NULL;
    if (node && node->is_directory && !node->is_orphan && ino != FS_ROOT_INO)
        return 0; /* check_parent has compared it */
    if (sound && (ino == c->lost_found || (node && node->has_entries && !node->is_orphan)))
        return 0; /* a record that was made in this round, or is to be made */
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "parent-stray",
                         "there is a parent record for %llu, which is no directory; it is deleted",
                         fs_fsck_ull(ino)))
        return 0;
    return fs_fsck_delete_now(c, item->key, item->key_len);
}

static int visit_expiry(struct fs_fsck *c, const struct fs_fsck_item *item)
{
    const uint8_t *const key = item->key;
    if (item->key_len == 17) {
        const struct fs_fsck_expiring *const expiring =
            fs_ino_map_find(&c->expiring, kv_be64_take(key + 9));
        if (expiring && expiring->expiry_ns == kv_be64_take(key + 1))
            return 0;
    }
    if (!fs_fsck_finding(c, KV_CHECK_REPAIRABLE, "expiry-stray",
                         "the index of expiries names what does not expire then; that is deleted"))
        return 0;
    return fs_fsck_delete_now(c, item->key, item->key_len);
}

int fs_fsck_scan_xattrs(struct fs_fsck *c)
{
    const int err = fs_fsck_scan(c, FS_KEY_XATTR, visit_xattr);
    return err ? err : fix_flags(c);
}

int fs_fsck_scan_indexes(struct fs_fsck *c)
{
    const int err = fs_fsck_scan(c, FS_KEY_PARENT, visit_parent);
    return err ? err : fs_fsck_scan(c, FS_KEY_EXPIRY, visit_expiry);
}
