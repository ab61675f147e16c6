/*
 * tests/faults/damage/damage_store.c: silent damage to every kind of block of a store.
 *
 *   damage_store [SHARE]     try one of SHARE pieces of damage (1: all of them); KVFS_SEED
 *
 * Four samples (small and large pages, closed and crashed), every block of each, every way in
 * which a block is damaged. Each piece of damage is shown to a store that is opened anew (each
 * key gives its value or an error, and an error only where the damage explains it), to the check
 * of an image, and to a scrub of a store that is open. What is not in use changes nothing.
 *
 * The last line has the counts. Exit status 0: no violation.
 */
#include "harm.h"

#include "kv/check_walk.h"

#include <stdarg.h>

/* What became of the damage of one role. */
struct tally {
    uint64_t tried, harmless, by_reading, by_check, by_scrub, scrubbed;
};

struct trial {
    struct sample *sample;
    struct test_random random;
    uint64_t share;
    struct tally tallies[ROLE_COUNT];
    uint64_t kinds[HARM_COUNT];
    uint64_t violations, errors_served, keys_read;
};

struct subject {
    uint64_t block;
    enum role role;
    enum harm_kind kind;
    const struct harm *harm;
};

static void violation(struct trial *trial, const struct subject *subject, const char *format, ...)
    KV_PRINTF(3, 4);

static void violation(struct trial *trial, const struct subject *subject, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    trial->violations++;
    if (trial->violations <= 50)
        printf("VIOLATION: %s, block %llu (%s), %s: %s\n", trial->sample->kind.name,
               (unsigned long long)subject->block, role_names[subject->role],
               harm_names[subject->kind], text);
}

static bool is_damage(int error)
{
    return error == -EBADMSG || error == -EUCLEAN || error == -EIO;
}

/* ---- what is to be expected ---------------------------------------------------------- */

/*
 * Can nobody know? Of the log's end no later block says that it was ever whole. One superblock
 * may be one checkpoint behind the other, where a power cut leaves it so; the backup is as old
 * as the last close.
 */
static bool is_deniable(const struct trial *trial, const struct subject *subject)
{
    const bool stale = subject->kind == HARM_OLD_CONTENT || subject->kind == HARM_OLDER_CONTENT;
    const uint64_t selected =
        trial->sample->superblock_sequence & 1 ? ROLE_SUPERBLOCK_B : ROLE_SUPERBLOCK_A;
    if (subject->role == ROLE_LOG_END)
        return true;
    if (subject->role == ROLE_SUPERBLOCK_BACKUP)
        return stale;
    return subject->kind == HARM_OLD_CONTENT && !trial->sample->kind.clean &&
           (subject->role == ROLE_SUPERBLOCK_A || subject->role == ROLE_SUPERBLOCK_B) &&
           subject->role != selected;
}

/* Does reading keys lead there at all? */
static bool is_read_by_keys(enum role role)
{
    return role == ROLE_LEAF || role == ROLE_INNER || role == ROLE_MAP_0 || role == ROLE_MAP_1 ||
           role == ROLE_BLOB_NONE || role == ROLE_BLOB_LZ4 || role == ROLE_BLOB_ZSTD;
}

/* May this key fail? */
static bool is_excused(const struct trial *trial, const struct subject *subject, size_t key)
{
    for (size_t i = 0; subject->harm->changes && i < subject->harm->count; i++)
        if (sample_is_below(trial->sample, subject->harm->blocks[i], key))
            return true;
    return false;
}

/* ---- reading ------------------------------------------------------------------------- */

struct log_watch {
    bool superblock; /* a line spoke of one */
};

static void watch_log(void *context, enum kv_log_level level, const char *line)
{
    struct log_watch *watch = context;
    if (level <= KV_LOG_WARNING && strstr(line, "superblock"))
        watch->superblock = true;
}

static int open_state(struct kv_device *device, bool read_only, bool repair,
                      struct log_watch *watch, struct kv_store **store)
{
    const struct kv_open_options options = {.read_only = read_only,
                                            .repair = repair,
                                            .memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .log = watch_log,
                                            .log_context = watch,
                                            .device = device};
    return kv_open("sample", &options, store, NULL);
}

/* Of the log's keys a prefix must be there, at least what is vouched for. */
static bool may_be_absent(const struct trial *trial, const struct subject *subject, size_t key,
                          unsigned *log_seen)
{
    const struct sample *sample = trial->sample;
    if (!sample->keys[key].in_log || subject->role != ROLE_LOG_END || !subject->harm->changes)
        return false;
    return *log_seen >= sample->log_keys_durable;
}

/* Read every key. Returns how many failed. */
static uint64_t read_keys(struct trial *trial, const struct subject *subject,
                          struct kv_store *store)
{
    const struct sample *sample = trial->sample;
    uint64_t failed = 0;
    unsigned log_seen = 0;
    bool log_ended = false;
    for (size_t i = 0; i < sample->key_count; i++) {
        const int err = sample_read(sample, store, i);
        trial->keys_read++;
        if (!err && sample->keys[i].in_log) {
            log_seen++;
            if (log_ended)
                violation(trial, subject, "%s is there, one before it is not", sample->keys[i].key);
        }
        if (!err)
            continue;
        failed++;
        if (err == -ENOENT && may_be_absent(trial, subject, i, &log_seen))
            log_ended = true;
        else if (!is_damage(err))
            violation(trial, subject, "%s: %s", sample->keys[i].key,
                      err == 1 ? "a wrong value" : strerror(-err));
        else if (!is_excused(trial, subject, i))
            violation(trial, subject, "%s fails without need: %s", sample->keys[i].key,
                      strerror(-err));
    }
    return failed;
}

/* Walk with a cursor: keys in order, each with a value, up to an error that is explained. */
static void walk_keys(struct trial *trial, const struct subject *subject, struct kv_store *store)
{
    struct kv_cursor *cursor;
    uint8_t last[KV_KEY_MAX];
    size_t last_len = 0, count = 0;
    int err = kv_cursor_open(store, NULL, 0, NULL, 0, &cursor);
    KV_ASSERT(err == 0);
    for (err = kv_cursor_first(cursor); !err; err = kv_cursor_next(cursor)) {
        size_t key_len;
        const void *key = kv_cursor_key(cursor, &key_len);
        if (count++ && kv_key_compare(last, last_len, key, key_len) >= 0)
            violation(trial, subject, "the cursor goes backwards");
        memcpy(last, key, key_len);
        last_len = key_len;
    }
    kv_cursor_close(cursor);
    if (err != -ENOENT && !is_damage(err))
        violation(trial, subject, "the cursor says %s", strerror(-err));
    else if (is_damage(err) && !subject->harm->changes)
        violation(trial, subject, "the cursor fails without need: %s", strerror(-err));
    else if (err == -ENOENT && count < trial->sample->key_count && subject->role != ROLE_LOG_END)
        violation(trial, subject, "the cursor leaves out keys");
}

static void show_to_reader(struct trial *trial, const struct subject *subject)
{
    struct kv_device *device = sample_device(trial->sample);
    struct log_watch watch = {.superblock = false};
    struct kv_store *store;
    struct tally *tally = &trial->tallies[subject->role];
    harm_apply(subject->harm, device);
    const bool read_only = test_random_below(&trial->random, 2);
    const int err = open_state(device, read_only, false, &watch, &store);
    if (err) {
        if (!is_damage(err))
            violation(trial, subject, "opening says %s", strerror(-err));
        else if (!subject->harm->changes)
            violation(trial, subject, "opening fails without need: %s", strerror(-err));
        tally->by_reading++;
        return;
    }
    const uint64_t failed = read_keys(trial, subject, store);
    walk_keys(trial, subject, store);
    trial->errors_served += failed;
    const bool seen = failed || watch.superblock;
    tally->by_reading += seen && subject->harm->changes;
    if (seen && !subject->harm->changes)
        violation(trial, subject, "something is wrong, though nothing is");
    if (!seen && subject->harm->changes && !is_deniable(trial, subject) &&
        (is_read_by_keys(subject->role) || subject->role <= ROLE_SUPERBLOCK_B))
        violation(trial, subject, "nobody notices when keys are read");
    if (subject->harm->changes &&
        (subject->role == ROLE_LOG_DURABLE || subject->role == ROLE_BITMAP_HEADER ||
         subject->role == ROLE_BITMAP_BITS))
        violation(trial, subject, "it opens");
    kv_abandon(store);
}

/* ---- the check ----------------------------------------------------------------------- */

struct findings {
    uint64_t count;
    char first[24];
};

static void count_finding(void *context, enum kv_check_severity severity, const char *what,
                          const char *text)
{
    struct findings *findings = context;
    (void)text;
    /* Of an image that was closed, a bad backup may have been torn at the end of the closing. */
    if (severity == KV_CHECK_NOTE && strcmp(what, "superblock-backup") != 0 &&
        strcmp(what, "superblock-copy") != 0)
        return;
    if (!findings->count++)
        snprintf(findings->first, sizeof findings->first, "%s", what);
}

static void show_to_check(struct trial *trial, const struct subject *subject)
{
    struct kv_device *device = sample_device(trial->sample);
    struct log_watch watch = {.superblock = false};
    struct findings findings = {.count = 0};
    struct kv_store *store;
    harm_apply(subject->harm, device);
    int err = open_state(device, true, true, &watch, &store);
    if (!err) {
        struct kv_check_result result;
        const struct kv_check_options options = {
            .read_blobs = true, .report = count_finding, .context = &findings};
        err = kv_check(store, &options, &result);
        kv_abandon(store);
    }
    if (err && !is_damage(err))
        violation(trial, subject, "the check says %s", strerror(-err));
    const bool seen = err || findings.count;
    trial->tallies[subject->role].by_check += seen && subject->harm->changes;
    if (seen && !subject->harm->changes)
        violation(trial, subject, "the check finds %s", err ? strerror(-err) : findings.first);
    if (!seen && subject->harm->changes && !is_deniable(trial, subject))
        violation(trial, subject, "the check finds nothing");
}

/* ---- the scrub ----------------------------------------------------------------------- */

static void count_scrub_finding(void *context, const struct kv_scrub_finding *finding)
{
    struct findings *findings = context;
    if (!findings->count++)
        snprintf(findings->first, sizeof findings->first, "%s", finding->what);
}

/* Damage under a store that is open, seen by a scrub, and undone. */
static void show_to_scrub(struct trial *trial, const struct subject *subject,
                          struct kv_store *store)
{
    struct findings findings = {.count = 0};
    const struct kv_scrub_options options = {.report = count_scrub_finding, .context = &findings};
    struct kv_scrub_result result;
    struct tally *tally = &trial->tallies[subject->role];
    harm_apply(subject->harm, store->device);
    const int err = kv_scrub(store, &options, &result);
    harm_undo(subject->harm, store->device);
    tally->scrubbed++;
    if (err)
        violation(trial, subject, "the scrub says %s", strerror(-err));
    tally->by_scrub += findings.count && subject->harm->changes;
    if (findings.count && !subject->harm->changes)
        violation(trial, subject, "the scrub finds %s", findings.first);
    /* An older backup is a whole one; all else is known to the store exactly. */
    if (!findings.count && subject->harm->changes &&
        !(subject->role == ROLE_SUPERBLOCK_BACKUP && is_deniable(trial, subject)))
        violation(trial, subject, "the scrub finds nothing");
}

/* ---- all of them --------------------------------------------------------------------- */

/* Every block that is in use, and a few that are not. */
static bool is_tried(struct trial *trial, uint64_t block)
{
    const enum role role = trial->sample->blocks[block].role;
    if (role <= ROLE_BITMAP_INACTIVE && test_random_below(&trial->random, 40) != 0)
        return false;
    return true;
}

/* Blocks of which there are few are all tried, of the rest one of `share`. */
static bool is_picked(struct trial *trial, enum role role)
{
    const bool many = role == ROLE_LEAF || role == ROLE_BLOB_NONE;
    const uint64_t share = many ? trial->share : (trial->share + 3) / 4;
    return test_random_below(&trial->random, share) == 0;
}

typedef void show_fn(struct trial *trial, const struct subject *subject, struct kv_store *store);

static void show_damaged_image(struct trial *trial, const struct subject *subject,
                               struct kv_store *store)
{
    struct tally *tally = &trial->tallies[subject->role];
    (void)store;
    tally->tried++;
    tally->harmless += !subject->harm->changes;
    trial->kinds[subject->kind]++;
    show_to_reader(trial, subject);
    show_to_check(trial, subject);
}

static void each_damage(struct trial *trial, struct kv_device *device, struct kv_store *store,
                        show_fn *show)
{
    for (uint64_t block = 0; block < SAMPLE_BLOCKS; block++) {
        if (!is_tried(trial, block))
            continue;
        for (enum harm_kind kind = 0; kind < HARM_COUNT; kind++) {
            struct harm harm;
            if (!is_picked(trial, trial->sample->blocks[block].role) ||
                !harm_make(&harm, trial->sample, device, block, kind, &trial->random))
                continue;
            const struct subject subject = {.block = block,
                                            .role = trial->sample->blocks[block].role,
                                            .kind = kind,
                                            .harm = &harm};
            show(trial, &subject, store);
            harm_release(&harm);
        }
    }
}

/* A store that is open, with a log that is not empty and nothing to checkpoint but that. */
static void scrub_live(struct trial *trial)
{
    struct kv_store *store = test_open_on(sample_device(trial->sample));
    struct findings findings = {.count = 0};
    const struct kv_scrub_options options = {.report = count_scrub_finding, .context = &findings};
    struct kv_scrub_result result;
    for (unsigned round = 0; round < 2; round++) {
        /* The first time the log has what is not in the trees; the second time it is empty. */
        for (uint64_t i = 0; i < 6 && round == 0; i++) {
            int err = kv_put(store, "scrubbed", 8, &i, sizeof i);
            if (!err)
                err = kv_sync(store);
            KV_ASSERT(err == 0);
        }
        struct sample *sample = trial->sample;
        struct kv_wal_stats wal;
        if (round == 1) {
            const int err = kv_del(store, "scrubbed", 8);
            KV_ASSERT(err == 0);
            const int checkpoint_err = kv_checkpoint(store);
            KV_ASSERT(checkpoint_err == 0);
            sample_map(sample, store);
            each_damage(trial, store->device, store, show_to_scrub);
            break;
        }
        kv_wal_stats(store->wal, &wal);
        for (uint64_t i = 0; i < wal.used_blocks; i++) {
            const struct kv_disk_superblock *sb = &store->checkpoint.superblock;
            const uint64_t position = kv_le64_get(sb->log_tail) + i;
            const uint64_t block =
                kv_le64_get(sb->log_first_block) + position % kv_le64_get(sb->log_block_count);
            sample->blocks[block] = (struct sample_block){
                .role = ROLE_LOG_DURABLE, .used_bytes = KV_BLOCK_BYTES, .first = block, .count = 1};
            for (enum harm_kind kind = 0; kind < HARM_SWAP; kind++) {
                struct harm harm;
                if (!harm_make(&harm, sample, store->device, block, kind, &trial->random))
                    continue;
                const struct subject subject = {
                    .block = block, .role = ROLE_LOG_DURABLE, .kind = kind, .harm = &harm};
                show_to_scrub(trial, &subject, store);
                harm_release(&harm);
            }
        }
    }
    const int err = kv_scrub(store, &options, &result);
    KV_ASSERT(err == 0);
    KV_ASSERT(findings.count == 0);
    kv_abandon(store);
}

static void print_tallies(const struct trial *trial)
{
    printf("%-26s %8s %9s %9s %9s %9s %9s\n", "block", "tried", "harmless", "reading", "check",
           "scrubbed", "found");
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        const struct tally *tally = &trial->tallies[role];
        printf("%-26s %8llu %9llu %9llu %9llu %9llu %9llu\n", role_names[role],
               (unsigned long long)tally->tried, (unsigned long long)tally->harmless,
               (unsigned long long)tally->by_reading, (unsigned long long)tally->by_check,
               (unsigned long long)tally->scrubbed, (unsigned long long)tally->by_scrub);
    }
    for (enum harm_kind kind = 0; kind < HARM_COUNT; kind++)
        printf("%-26s %8llu\n", harm_names[kind], (unsigned long long)trial->kinds[kind]);
}

int main(int argc, char **argv)
{
    static const struct sample_kind kinds[] = {
        {"small pages, crashed", 4096, KV_CODEC_LZ4, false},
        {"small pages, closed", 4096, KV_CODEC_NONE, true},
        {"large pages, crashed", 16384, KV_CODEC_ZSTD, false},
        {"large pages, closed", 16384, KV_CODEC_LZ4, true},
        {"large pages, not packed", 16384, KV_CODEC_NONE, false},
    };
    const uint64_t seed = test_env("KVFS_SEED", 1);
    struct trial trial = {.random = {seed}, .share = argc > 1 ? strtoull(argv[1], NULL, 0) : 40};
    if (!trial.share)
        trial.share = 1;
    printf("KVFS_SEED=%llu, one of %llu\n", (unsigned long long)seed,
           (unsigned long long)trial.share);
    fflush(stdout);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        trial.sample = sample_new(&kinds[i]);
        struct kv_device *device = sample_device(trial.sample);
        each_damage(&trial, device, NULL, show_damaged_image);
        kv_device_close(device);
        scrub_live(&trial);
        sample_free(trial.sample);
    }
    print_tallies(&trial);
    uint64_t tried = 0, found = 0, scrubbed = 0;
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        tried += trial.tallies[role].tried;
        found += trial.tallies[role].by_check;
        scrubbed += trial.tallies[role].scrubbed;
    }
    printf("damage_store: %llu damaged images, %llu found by the check, %llu scrubs of damage, "
           "%llu keys read, %llu errors, %llu violations\n",
           (unsigned long long)tried, (unsigned long long)found, (unsigned long long)scrubbed,
           (unsigned long long)trial.keys_read, (unsigned long long)trial.errors_served,
           (unsigned long long)trial.violations);
    return trial.violations ? 1 : 0;
}
