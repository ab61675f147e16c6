/*
 * fs/volume.c: the filesystem as a whole: open, close, inode numbers, orphans, space.
 *
 * Owns       struct fs_volume (laid open to the operations in fs/inode.h).
 * Invariant  every inode number in the store is below the volume record's next_ino, over any
 *            crash: numbers are handed out only after the record that covers them is applied.
 * Locks      volume->ino_mutex guards the numbers; it may be held over a kv_apply.
 */
#include "fs/expiry.h"
#include "fs/policy_lookup.h"
#include "fs/reaper.h"

#include <stdarg.h>
#include <stdio.h>

#define INO_CHUNK 4096u /* numbers that one write of the volume record covers */

void fs_volume_log(struct fs_volume *volume, enum kv_log_level level, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof line, format, args); /* a cut line is still a line */
    va_end(args);
    if (volume->log)
        volume->log(volume->log_context, level, line);
    else
        fprintf(stderr, "kvfs: %s\n", line);
}

int fs_volume_visible_error(struct fs_volume *volume, const char *what, uint64_t ino,
                            const char *name, int err)
{
    if (!kv_error_is_contradiction(err))
        return err;
    if (!kv_store_failure(volume->store))
        fs_volume_log(volume, KV_LOG_ERROR, "%s: inode %llu%s%s is damaged (%s); run fsck.kvfs",
                      what, (unsigned long long)ino, name ? ", entry " : "", name ? name : "",
                      strerror(-err));
    return -EIO;
}

static int read_volume_record(struct kv_store *store, struct fs_volume_record *record)
{
    struct fs_key key;
    struct fs_disk_volume disk;
    size_t length;
    fs_key_volume(&key);
    const int err = kv_get(store, key.bytes, key.length, &disk, sizeof disk, &length);
    if (err)
        return err == -ENOENT || err == -ERANGE ? -EMEDIUMTYPE : err;
    return fs_volume_record_decode(&disk, length, record);
}

static int say(struct kv_error *error, int err, const char *text)
{
    if (error)
        (void)snprintf(error->text, sizeof error->text, "%s", text);
    return err;
}

static int explain_open(struct kv_error *error, int err)
{
    switch (err) {
    case -EMEDIUMTYPE:
        return say(error, err, "the image holds keys but no filesystem; make one with mkfs.kvfs");
    case -EPROTONOSUPPORT:
        return say(error, err,
                   "the filesystem's version or features are not known to this build; use a "
                   "newer one");
    case -ENOMEM:
        return say(error, err, "not enough memory to open the filesystem");
    case -EBADMSG:
    case -EUCLEAN:
        return say(error, err, "the filesystem's own records are damaged; run fsck.kvfs");
    default:
        if (error)
            (void)snprintf(error->text, sizeof error->text,
                           "the filesystem's own records can not be read: %s%s", strerror(-err),
                           err == -EIO ? "; check the device" : "");
        return err;
    }
}

/*
 * Delete what has an O key. Every number is looked at once, whether or not its deletion
 * fails, so damage in one does not keep the others.
 */
static int run_orphans(struct fs_volume *volume)
{
    struct fs_key prefix = {.length = 1, .bytes = {FS_KEY_ORPHAN}};
    struct kv_cursor *cursor;
    int err = kv_cursor_open_prefix(volume->store, prefix.bytes, prefix.length, &cursor);
    if (err)
        return err;
    uint64_t count = 0;
    int first_error = 0;
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        size_t length;
        const void *key = kv_cursor_key(cursor, &length);
        uint64_t ino;
        int failed = fs_key_ino_parse(key, length, FS_KEY_ORPHAN, &ino);
        if (!failed)
            failed = fs_orphan_delete(volume, ino);
        if (failed && !first_error)
            first_error = failed;
        count += failed == 0;
    }
    kv_cursor_close(cursor);
    if (count)
        fs_volume_log(volume, KV_LOG_INFO, "deleted %llu files that had no name any more",
                      (unsigned long long)count);
    return err == -ENOENT ? first_error : err;
}

int fs_volume_open(struct kv_store *store, const struct fs_volume_options *options,
                   struct fs_volume **volume_out, struct kv_error *error)
{
    struct fs_volume *volume = calloc(1, sizeof *volume);
    if (!volume)
        return explain_open(error, -ENOMEM);
    volume->store = store;
    volume->read_only = options->read_only;
    volume->log = options->log;
    volume->log_context = options->log_context;
    volume->keeps_setgid = options->keeps_setgid;
    volume->kills_privileges = options->kills_privileges;
    volume->is_owner = options->is_owner;
    volume->now = options->now;
    pthread_mutex_init(&volume->ino_mutex, NULL);
    fs_expiry_init(volume);
    pthread_mutex_init(&volume->rename_mutex, NULL);
    fs_data_init(&volume->data, store);
    volume->data.counts = &volume->reads;

    int err = read_volume_record(store, &volume->volume_record);
    if (err)
        goto out;
    if (volume->volume_record.feature_rocompat && !volume->read_only) {
        err = -EPROTONOSUPPORT;
        goto out;
    }
    volume->ino_next = volume->volume_record.next_ino;
    volume->ino_limit = volume->ino_next;
    err = -ENOMEM;
    volume->table = fs_inode_table_new();
    volume->locks = fs_locks_new();
    volume->reaper = fs_reaper_new();
    if (!volume->table || !volume->locks || !volume->reaper)
        goto out;
    if (options->policies && fs_policies_count(options->policies)) {
        volume->policies = fs_policy_lookup_new(options->policies);
        if (!volume->policies)
            goto out;
    }
    err = 0;
    if (!volume->read_only && !KV_PLANT(orphans_kept_at_mount)) {
        const int orphan_err = run_orphans(volume);
        if (orphan_err)
            fs_volume_log(volume, KV_LOG_WARNING,
                          "some deleted files could not be cleared away (%s)%s",
                          strerror(-orphan_err),
                          kv_error_is_contradiction(orphan_err) ? "; run fsck.kvfs" : "");
    }
    *volume_out = volume;
out:
    if (err) {
        fs_policy_lookup_free(volume->policies);
        fs_reaper_free(volume->reaper);
        fs_inode_table_free(volume->table);
        fs_locks_free(volume->locks);
        pthread_mutex_destroy(&volume->rename_mutex);
        pthread_mutex_destroy(&volume->ino_mutex);
        fs_expiry_release(volume);
        free(volume);
        return explain_open(error, err);
    }
    return 0;
}

void fs_volume_close(struct fs_volume *volume)
{
    if (!volume)
        return;
    const bool deletes = !volume->read_only && kv_store_failure(volume->store) == 0;
    if (deletes)
        (void)fs_reap(volume); /* what is left of these is deleted below */
    fs_inode_table_free(volume->table);
    volume->table = fs_inode_table_new(); /* nobody refers to anything any more */
    if (volume->table && deletes) {
        const int err = run_orphans(volume);
        if (err)
            fs_volume_log(volume, KV_LOG_WARNING,
                          "some deleted files will be cleared away at the next mount (%s)",
                          strerror(-err));
    }
    fs_reaper_free(volume->reaper);
    fs_policy_lookup_free(volume->policies);
    fs_inode_table_free(volume->table);
    fs_locks_free(volume->locks);
    pthread_mutex_destroy(&volume->rename_mutex);
    pthread_mutex_destroy(&volume->ino_mutex);
    fs_expiry_release(volume);
    free(volume);
}

void fs_volume_reserve(struct fs_volume *volume, const char *name)
{
    KV_ASSERT(strlen(name) <= FS_NAME_MAX);
    strcpy(volume->reserved, name);
}

bool fs_volume_is_reserved(const struct fs_volume *volume, const char *name, size_t name_len)
{
    return name_len == strlen(volume->reserved) && name_len &&
           memcmp(name, volume->reserved, name_len) == 0;
}

struct kv_store *fs_volume_store(struct fs_volume *volume)
{
    return volume->store;
}

/* Cover the next chunk of numbers. Under ino_mutex. */
static int extend_numbers(struct fs_volume *volume)
{
    if (volume->ino_next > FS_INO_MAX - INO_CHUNK)
        return -ENOSPC;
    struct fs_volume_record record = volume->volume_record;
    record.next_ino = volume->ino_next + INO_CHUNK;

    struct fs_key key;
    struct fs_disk_volume disk;
    fs_key_volume(&key);
    fs_volume_record_encode(&record, &disk);
    struct kv_batch *batch = kv_batch_new();
    if (!batch)
        return -ENOMEM;
    int err = kv_batch_put(batch, key.bytes, key.length, &disk, sizeof disk);
    if (!err)
        err = volume->read_only ? -EROFS : kv_apply(volume->store, batch, 0, NULL);
    kv_batch_free(batch);
    if (err)
        return err;
    volume->volume_record = record;
    volume->ino_limit = record.next_ino;
    return 0;
}

int fs_ino_allocate(struct fs_volume *volume, uint64_t *ino)
{
    int err = 0;
    pthread_mutex_lock(&volume->ino_mutex);
    if (volume->ino_next == volume->ino_limit && !KV_PLANT(inode_numbers_not_covered))
        err = extend_numbers(volume);
    if (!err)
        *ino = volume->ino_next++;
    pthread_mutex_unlock(&volume->ino_mutex);
    return err;
}

int fs_sync(struct fs_volume *volume)
{
    return volume->read_only ? 0 : kv_sync(volume->store);
}

int fs_checkpoint(struct fs_volume *volume)
{
    if (volume->read_only)
        return 0;
    (void)fs_reap(volume); /* whether or not there was anything */
    return kv_checkpoint(volume->store);
}

void fs_statfs(struct fs_volume *volume, struct statvfs *out)
{
    struct kv_stats stats;
    if (!volume->read_only)
        (void)fs_reap(volume); /* so that the figures are true */
    kv_store_stats(volume->store, &stats);
    *out = (struct statvfs){
        .f_bsize = KV_BLOCK_BYTES,
        .f_frsize = KV_BLOCK_BYTES,
        .f_blocks = stats.total_bytes / KV_BLOCK_BYTES,
        .f_bfree = stats.free_bytes / KV_BLOCK_BYTES,
        .f_bavail = stats.available_bytes / KV_BLOCK_BYTES,
        /* Inodes are keys like all others: no number of them is set aside. 0: no limit. */
        .f_namemax = FS_NAME_MAX,
    };
}

void fs_volume_usage(struct fs_volume *volume, uint64_t *inode_count, uint64_t *memory_bytes)
{
    fs_inode_table_usage(volume->table, inode_count, memory_bytes);
}

void fs_volume_long_reads(const struct fs_volume *volume, struct fs_long_reads *reads)
{
    reads->count = atomic_load_explicit(&volume->reads.reads, memory_order_relaxed);
    reads->bytes = atomic_load_explicit(&volume->reads.bytes, memory_order_relaxed);
    reads->pieces = atomic_load_explicit(&volume->reads.pieces, memory_order_relaxed);
}
