/*
 * fs/control_apply.c: batches from the control file `apply`.
 *
 * Owns       what is known of the last batch; batches that are gathered belong to their files.
 * Locks      apply->mutex, a leaf, for that.
 */
#include "fs/control_apply.h"

#include <inttypes.h>
#include <pthread.h>

#include "fs/apply_packed.h"
#include "fs/text.h"

#include <stdatomic.h>

/* What programs that have more to write fill before they write is a multiple of it. */
#define PIECE_BYTES 4096u

struct fs_control_apply {
    struct fs_volume *volume;     /* immutable, as is the next */
    struct fs_notifier *notifier; /* its own lock */
    _Atomic size_t gathered;      /* bytes of memory in all batches */
    pthread_mutex_t mutex;
    /* mutex, all below */
    enum { LAST_NEVER, LAST_DONE, LAST_REFUSED } state;
    struct fs_apply_result last;
};

static void note_entry(void *context, uint64_t directory, const char *name, size_t name_len)
{
    struct fs_control_apply *apply = context;
    fs_notifier_entry(apply->notifier, directory, name, name_len);
}

static void note_inode(void *context, uint64_t ino)
{
    struct fs_control_apply *apply = context;
    fs_notifier_inode(apply->notifier, ino);
}

static void note_result(struct fs_control_apply *apply, int err,
                        const struct fs_apply_result *result)
{
    if (err)
        fs_volume_log(apply->volume, KV_LOG_WARNING, "apply: %s", result->error.text);
    pthread_mutex_lock(&apply->mutex);
    apply->state = err ? LAST_REFUSED : LAST_DONE;
    apply->last = *result;
    pthread_mutex_unlock(&apply->mutex);
}

static int apply_text(struct fs_control_apply *apply, const struct fs_caller *caller,
                      const char *text, size_t length, struct fs_apply_result *result)
{
    const struct fs_apply_observer observer = {
        .entry = note_entry, .inode = note_inode, .context = apply};
    const int err = fs_apply_text(apply->volume, caller, text, length, &observer, result);
    if (err && !result->error.text[0])
        (void)snprintf(result->error.text, sizeof result->error.text, "%s", strerror(-err));
    return err;
}

static int apply_and_note(struct fs_control_apply *apply, const struct fs_caller *caller,
                          const char *text, size_t length)
{
    struct fs_apply_result result = {.change_count = 0};
    const int err = apply_text(apply, caller, text, length, &result);
    if (!err)
        fs_notifier_wait(apply->notifier);
    note_result(apply, err, &result);
    return err;
}

/* ---- packed changes -------------------------------------------------------------------- */

/* Not durable yet: who has many says when all are there, and syncs. */
static int apply_packed(struct fs_control_apply *apply, const struct fs_caller *caller,
                        const char *bytes, size_t length)
{
    const struct fs_apply_observer observer = {
        .entry = note_entry, .inode = note_inode, .context = apply};
    struct fs_apply_result result = {.change_count = 0};
    struct fs_apply_unpacked unpacked;
    int err = fs_apply_unpack(bytes, length, &unpacked, &result.error);
    if (!err) {
        err = fs_apply_confine(&unpacked, caller, &result.error);
        if (!err)
            err = fs_apply(apply->volume, caller, unpacked.changes, unpacked.count, 0, &observer,
                           &result);
        fs_apply_unpacked_release(&unpacked);
    }
    if (err && !*result.error.text)
        (void)snprintf(result.error.text, sizeof result.error.text, "%s", strerror(-err));
    if (!err)
        fs_notifier_wait(apply->notifier);
    note_result(apply, err, &result);
    return err;
}

/* ---- batches in several writes -------------------------------------------------------- */

static const char begin_line[] = "begin\n";
static const char commit_line[] = "commit\n";
#define BEGIN_BYTES  (sizeof begin_line - 1)
#define COMMIT_BYTES (sizeof commit_line - 1)

struct fs_control_batch {
    struct fs_control_apply *apply;
    uint64_t offset;      /* in the file, of its first byte */
    size_t packed_length; /* of packed changes, when all are there; 0: it is a text */
    size_t length, capacity;
    char *text;
};

void fs_control_batch_free(struct fs_control_batch *batch)
{
    if (!batch)
        return;
    (void)atomic_fetch_sub_explicit(&batch->apply->gathered, batch->capacity, memory_order_relaxed);
    free(batch->text);
    free(batch);
}

/* Make room for so many bytes. -E2BIG, -ENOMEM. */
static int grow_batch(struct fs_control_batch *batch, size_t wanted)
{
    if (wanted > FS_APPLY_TEXT_MAX)
        return -E2BIG;
    if (wanted <= batch->capacity)
        return 0;
    const size_t capacity = kv_min_u64(kv_max_u64(wanted, batch->capacity * 2), FS_APPLY_TEXT_MAX);
    const size_t growth = capacity - batch->capacity;
    const size_t before =
        atomic_fetch_add_explicit(&batch->apply->gathered, growth, memory_order_relaxed);
    char *text = before + growth <= FS_APPLY_TEXT_MAX ? realloc(batch->text, capacity) : NULL;
    if (!text) {
        (void)atomic_fetch_sub_explicit(&batch->apply->gathered, growth, memory_order_relaxed);
        return before + growth <= FS_APPLY_TEXT_MAX ? -ENOMEM : -E2BIG;
    }
    batch->text = text;
    batch->capacity = capacity;
    return 0;
}

/* Does it end with the line "commit", or are all packed changes there? */
static bool is_complete(const struct fs_control_batch *batch)
{
    const size_t length = batch->length;
    if (batch->packed_length)
        return length >= batch->packed_length;
    return length >= BEGIN_BYTES + COMMIT_BYTES &&
           memcmp(batch->text + length - COMMIT_BYTES, commit_line, COMMIT_BYTES) == 0 &&
           batch->text[length - COMMIT_BYTES - 1] == '\n';
}

static int refuse(struct fs_control_apply *apply, int err, const char *why)
{
    struct fs_apply_result result = {.change_count = 0};
    (void)snprintf(result.error.text, sizeof result.error.text, "%s", why);
    note_result(apply, err, &result);
    return err;
}

int fs_control_apply_refuse(struct fs_control_apply *apply)
{
    return refuse(apply, -EINVAL,
                  "a batch is what is written at once, or all from a line \"begin\" to a line "
                  "\"commit\", and here one was complete; open the file again for another");
}

/*
 * Put a piece where it belongs: where the last one ended, or over that, since the kernel hands a
 * page that it gathers in once more when it is fuller.
 */
static int add_piece(struct fs_control_batch *batch, const struct fs_control_piece *piece)
{
    if (piece->offset < batch->offset || piece->offset - batch->offset > batch->length)
        return -EINVAL;
    const size_t at = (size_t)(piece->offset - batch->offset);
    const int err = grow_batch(batch, at + piece->length);
    if (err)
        return err;
    memcpy(batch->text + at, piece->text, piece->length);
    batch->length = kv_max_u64(batch->length, at + piece->length);
    return 0;
}

/* Gather, and apply what is complete. *batch is there. */
static int gather(struct fs_control_apply *apply, struct fs_control_batch **batch,
                  const struct fs_caller *caller, const struct fs_control_piece *piece)
{
    int err = add_piece(*batch, piece);
    if (err) {
        (void)refuse(apply, err,
                     err == -E2BIG    ? "more is being gathered than can be; give it to kvfs apply"
                     : err == -EINVAL ? "a batch is written from its beginning to its end"
                                      : strerror(-err));
    } else {
        if (!is_complete(*batch))
            return 0;
        if ((*batch)->packed_length) {
            err = apply_packed(apply, caller, (*batch)->text, (*batch)->length);
        } else {
            /* The first line becomes a remark, so that lines have the numbers that users gave. */
            (*batch)->text[0] = '#';
            err = apply_and_note(apply, caller, (*batch)->text, (*batch)->length - COMMIT_BYTES);
        }
    }
    fs_control_batch_free(*batch);
    *batch = NULL;
    return err;
}

int fs_control_apply_write(struct fs_control_apply *apply, struct fs_control_batch **batch,
                           const struct fs_caller *caller, const struct fs_control_piece *piece)
{
    if (*batch)
        return gather(apply, batch, caller, piece);
    const bool is_packed = fs_apply_is_packed(piece->text, piece->length);
    size_t packed_length = 0;
    if (is_packed && fs_apply_packed_length(piece->text, &packed_length))
        return refuse(apply, -EINVAL, "packed changes of a length that they can not have");
    if (is_packed ||
        (piece->length >= BEGIN_BYTES && memcmp(piece->text, begin_line, BEGIN_BYTES) == 0)) {
        *batch = calloc(1, sizeof **batch);
        if (!*batch)
            return -ENOMEM;
        (*batch)->apply = apply;
        (*batch)->offset = piece->offset;
        (*batch)->packed_length = packed_length;
        return gather(apply, batch, caller, piece);
    }
    if (piece->length % PIECE_BYTES == 0)
        return refuse(apply, -EINVAL,
                      "so many bytes may be a piece of a longer batch: put it between a line "
                      "\"begin\" and a line \"commit\", or give it to kvfs apply");
    return apply_and_note(apply, caller, piece->text, piece->length);
}

size_t fs_control_apply_text(struct fs_control_apply *apply, char *out, size_t cap)
{
    static const char *const states[] = {"never", "done", "refused"};
    struct fs_text text = {.out = out, .cap = cap};
    pthread_mutex_lock(&apply->mutex);
    if (apply->state == LAST_REFUSED)
        fs_text_add(&text, "error %s\n", apply->last.error.text);
    fs_text_add(&text, "state %s\nchanges %" PRIu64 "\nline %" PRIu64 "\n", states[apply->state],
                apply->last.change_count, apply->last.line);
    pthread_mutex_unlock(&apply->mutex);
    return text.length;
}

struct fs_control_apply *fs_control_apply_new(struct fs_volume *volume,
                                              struct fs_notifier *notifier)
{
    struct fs_control_apply *apply = calloc(1, sizeof *apply);
    if (!apply)
        return NULL;
    apply->volume = volume;
    apply->notifier = notifier;
    pthread_mutex_init(&apply->mutex, NULL); /* does not fail on Linux */
    return apply;
}

void fs_control_apply_free(struct fs_control_apply *apply)
{
    if (!apply)
        return;
    pthread_mutex_destroy(&apply->mutex);
    free(apply);
}
