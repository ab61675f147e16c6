/*
 * fs/control.c: the nodes of the control directory, and what stands in them.
 *
 * Owns       the nodes, each with its content.
 * Invariant  a node's content changes only by being truncated, or, of `apply`, to what became of
 *            what was written to it. It is freed when its last reference goes. There are at most
 *            NODES_MAX.
 * Locks      control->mutex, for the table of nodes; a leaf. Contents are made without it.
 */
#include "fs/control.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define NODE_BIT      (UINT64_C(1) << 63)
#define DIRECTORY_INO NODE_BIT
#define SERIAL_SHIFT  4u /* below it: what programs see */

/* Nodes at a time; the last of them are for the owner and root. */
#define NODES_MAX      256u
#define NODES_RESERVED 64u
/* Longest content. */
#define CONTENT_MAX       524288u
#define APPLY_CONTENT_MAX 2048u /* of what became of a batch */
/* Refusals that are said in the log within a second. */
#define REFUSALS_SAID 10u

struct node {
    uint64_t ino;
    uint64_t references;
    int64_t made_ns;
    unsigned kind; /* enum file_kind */
    char *content; /* length bytes */
    size_t length;
    bool written;
    struct fs_control_batch *batch; /* of KIND_APPLY, what is gathered; NULL: nothing */
};

struct fs_control {
    struct fs_control_parts parts; /* immutable, as is the next */
    char name[FS_NAME_MAX + 1];
    int64_t made_ns;
    pthread_mutex_t mutex;
    /* mutex, all below */
    struct node *nodes[NODES_MAX];
    unsigned node_count;
    uint64_t serial;
    uint64_t refusal_second;
    unsigned refusals;
};

/* ---- the files ------------------------------------------------------------------------ */

static size_t make_stats(struct fs_control *control, char *out, size_t cap)
{
    struct fs_figures figures;
    fs_figures_read(control->parts.volume, control->parts.counters, control->parts.read_only,
                    &figures);
    return fs_figures_json(&figures, fs_volume_store(control->parts.volume),
                           control->parts.counters, out, cap);
}

static size_t make_metrics(struct fs_control *control, char *out, size_t cap)
{
    struct fs_figures figures;
    fs_figures_read(control->parts.volume, control->parts.counters, control->parts.read_only,
                    &figures);
    return fs_figures_prometheus(&figures, fs_volume_store(control->parts.volume),
                                 control->parts.counters, out, cap);
}

static size_t make_health(struct fs_control *control, char *out, size_t cap)
{
    enum fs_health_state state;
    return fs_health_text(control->parts.health, out, cap, &state);
}

static size_t make_config(struct fs_control *control, char *out, size_t cap)
{
    return fs_settings_text(control->parts.settings, out, cap);
}

static size_t make_prefetch(struct fs_control *control, char *out, size_t cap)
{
    return fs_prefetch_text(control->parts.prefetch, out, cap);
}

static int obey_config(struct fs_control *control, const struct fs_caller *caller,
                       const char *bytes, size_t length)
{
    (void)caller;
    return fs_settings_change(control->parts.settings, bytes, length);
}

static int obey_prefetch(struct fs_control *control, const struct fs_caller *caller,
                         const char *bytes, size_t length)
{
    (void)caller;
    const int err = fs_prefetch_add(control->parts.prefetch, bytes, length);
    if (err == -EINVAL)
        fs_volume_log(control->parts.volume, KV_LOG_WARNING,
                      "prefetch: a line is no path from the root of the mount; write names with "
                      "single slashes between them");
    return err;
}

/* What can be written, but goes a way of its own. */
static int obey_nothing(struct fs_control *control, const struct fs_caller *caller,
                        const char *bytes, size_t length)
{
    (void)control;
    (void)caller;
    (void)bytes;
    (void)length;
    return -EINVAL;
}

static size_t make_apply(struct fs_control *control, char *out, size_t cap)
{
    return fs_control_apply_text(control->parts.apply, out, cap);
}

enum file_kind {
    KIND_STATS,
    KIND_METRICS,
    KIND_HEALTH,
    KIND_CONFIG,
    KIND_PREFETCH,
    KIND_APPLY,
    KIND_COUNT
};

static const struct {
    const char *name;
    uint32_t mode;
    size_t (*make)(struct fs_control *control, char *out, size_t cap); /* like snprintf */
    /* NULL: it can not be written. */
    int (*obey)(struct fs_control *control, const struct fs_caller *caller, const char *bytes,
                size_t length);
} files[KIND_COUNT] = {
    [KIND_STATS] = {"stats", 0444, make_stats, NULL},
    [KIND_METRICS] = {"metrics", 0444, make_metrics, NULL},
    [KIND_HEALTH] = {"health", 0444, make_health, NULL},
    [KIND_CONFIG] = {"config", 0600, make_config, obey_config},
    [KIND_PREFETCH] = {"prefetch", 0600, make_prefetch, obey_prefetch},
    [KIND_APPLY] = {"apply", 0600, make_apply, obey_nothing},
};

/* What programs see as its number: unlike the node's, it stays the same. */
static uint64_t shown_ino(unsigned kind)
{
    return NODE_BIT | (kind + 1);
}

const char *fs_control_entry(size_t index, struct stat *stat)
{
    static const char *const dots[] = {".", ".."};
    *stat = (struct stat){.st_mode = S_IFDIR, .st_ino = index ? FS_ROOT_INO : DIRECTORY_INO};
    if (index < 2)
        return dots[index];
    const unsigned kind = (unsigned)kv_min_u64(index - 2, KIND_COUNT);
    *stat = (struct stat){.st_mode = S_IFREG, .st_ino = shown_ino(kind)};
    return kind < KIND_COUNT ? files[kind].name : NULL;
}

/* ---- names ---------------------------------------------------------------------------- */

const char *fs_control_name(const struct fs_control *control)
{
    return control->name;
}

unsigned fs_control_node_count(struct fs_control *control)
{
    pthread_mutex_lock(&control->mutex);
    const unsigned count = control->node_count;
    pthread_mutex_unlock(&control->mutex);
    return count;
}

bool fs_control_has_entry(const struct fs_control *control, uint64_t directory, const char *name)
{
    if (directory == FS_ROOT_INO)
        return control && strcmp(name, control->name) == 0;
    return fs_control_owns(directory);
}

int fs_control_refuse(struct fs_control *control, const char *what, const char *name)
{
    struct timespec now;
    if (!control)
        return -EPERM;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* the arguments are right */
    pthread_mutex_lock(&control->mutex);
    if ((uint64_t)now.tv_sec != control->refusal_second)
        control->refusals = 0;
    control->refusal_second = (uint64_t)now.tv_sec;
    const bool is_said = control->refusals++ < REFUSALS_SAID;
    pthread_mutex_unlock(&control->mutex);
    if (is_said)
        fs_volume_log(control->parts.volume, KV_LOG_WARNING,
                      "%s of \"%.100s\" refused: %s is the control directory of the mount; mount "
                      "with -o control=NAME or control=none for the name to be free",
                      what, name ? name : "", control->name);
    return -EPERM;
}

/* ---- nodes ---------------------------------------------------------------------------- */

static void set_stat(const struct fs_control *control, uint64_t ino, uint32_t mode, uint64_t size,
                     int64_t made_ns, struct stat *stat)
{
    const struct timespec made = fs_timespec(made_ns);
    *stat = (struct stat){
        .st_ino = ino,
        .st_mode = mode,
        .st_nlink = S_ISDIR(mode) ? 2 : 1,
        .st_uid = control->parts.owner,
        .st_gid = control->parts.group,
        .st_size = (off_t)size,
        .st_blksize = (blksize_t)KV_BLOCK_BYTES,
        .st_atim = made,
        .st_mtim = made,
        .st_ctim = made,
    };
}

static void stat_directory(const struct fs_control *control, struct stat *stat)
{
    set_stat(control, DIRECTORY_INO, S_IFDIR | 0755, 0, control->made_ns, stat);
}

static void stat_node(const struct fs_control *control, const struct node *node, struct stat *stat)
{
    set_stat(control, shown_ino(node->kind), S_IFREG | files[node->kind].mode, node->length,
             node->made_ns, stat);
}

/* Under the mutex. */
static struct node *find_node(const struct fs_control *control, uint64_t ino)
{
    for (unsigned i = 0; i < control->node_count; i++)
        if (control->nodes[i]->ino == ino)
            return control->nodes[i];
    return NULL;
}

static void free_node(struct node *node)
{
    fs_control_batch_free(node->batch);
    free(node->content);
    free(node);
}

/* A node without a number yet. NULL: no memory. */
static struct node *make_node(struct fs_control *control, unsigned kind)
{
    struct node *node = calloc(1, sizeof *node);
    char *text = malloc(CONTENT_MAX);
    if (!node || !text)
        goto no_memory;
    const size_t length = files[kind].make(control, text, CONTENT_MAX);
    node->kind = kind;
    node->references = 1;
    node->made_ns = fs_time_now();
    node->length = kv_min_u64(length, CONTENT_MAX - 1); /* the texts are far shorter */
    node->content = malloc(node->length + 1);
    if (!node->content)
        goto no_memory;
    memcpy(node->content, text, node->length);
    free(text);
    return node;
no_memory:
    free(text);
    free(node);
    return NULL;
}

/* Give it a number and a place. */
static int add_node(struct fs_control *control, struct node *node, bool is_operator, uint64_t *ino)
{
    const unsigned limit = is_operator ? NODES_MAX : NODES_MAX - NODES_RESERVED;
    pthread_mutex_lock(&control->mutex);
    const int err = control->node_count < limit ? 0 : -ENFILE;
    if (!err) {
        *ino = node->ino = NODE_BIT | ++control->serial << SERIAL_SHIFT;
        control->nodes[control->node_count++] = node;
    }
    pthread_mutex_unlock(&control->mutex);
    return err;
}

int fs_control_lookup(struct fs_control *control, uint64_t directory, const char *name,
                      bool is_operator, uint64_t *ino, struct stat *stat)
{
    if (!control)
        return -ESTALE;
    if (directory == FS_ROOT_INO) {
        stat_directory(control, stat);
        *ino = DIRECTORY_INO;
        return 0;
    }
    if (directory != DIRECTORY_INO)
        return -ENOTDIR;
    unsigned kind = 0;
    while (kind < KIND_COUNT && strcmp(name, files[kind].name) != 0)
        kind++;
    if (kind == KIND_COUNT)
        return -ENOENT;
    struct node *node = make_node(control, kind);
    if (!node)
        return -ENOMEM;
    stat_node(control, node, stat);
    const int err = add_node(control, node, is_operator, ino);
    if (err)
        free_node(node);
    return err;
}

void fs_control_forget(struct fs_control *control, uint64_t ino, uint64_t count)
{
    if (!control || ino == DIRECTORY_INO)
        return;
    struct node *gone = NULL;
    pthread_mutex_lock(&control->mutex);
    for (unsigned i = 0; i < control->node_count; i++) {
        struct node *node = control->nodes[i];
        if (node->ino != ino)
            continue;
        node->references -= kv_min_u64(node->references, count);
        if (!node->references) {
            control->nodes[i] = control->nodes[--control->node_count];
            gone = node;
        }
        break;
    }
    pthread_mutex_unlock(&control->mutex);
    if (gone && gone->batch)
        fs_volume_log(control->parts.volume, KV_LOG_WARNING,
                      "apply: a batch ended before it was whole (a text without a line "
                      "\"commit\"); nothing of it was done");
    if (gone)
        free_node(gone);
}

int fs_control_getattr(struct fs_control *control, uint64_t ino, struct stat *stat)
{
    if (!control)
        return -ESTALE;
    if (ino == DIRECTORY_INO) {
        stat_directory(control, stat);
        return 0;
    }
    pthread_mutex_lock(&control->mutex);
    const struct node *node = find_node(control, ino);
    if (node)
        stat_node(control, node, stat);
    pthread_mutex_unlock(&control->mutex);
    return node ? 0 : -ESTALE;
}

int fs_control_truncate(struct fs_control *control, uint64_t ino, uint64_t size)
{
    if (!control)
        return -ESTALE;
    if (ino == DIRECTORY_INO)
        return -EISDIR;
    pthread_mutex_lock(&control->mutex);
    struct node *node = find_node(control, ino);
    const int err = !node ? -ESTALE : !files[node->kind].obey ? -EPERM : size ? -EINVAL : 0;
    if (!err)
        node->length = 0;
    pthread_mutex_unlock(&control->mutex);
    return err;
}

int fs_control_read(struct fs_control *control, uint64_t ino, uint64_t offset, void *buf,
                    size_t length, size_t *got)
{
    *got = 0;
    if (!control)
        return -ESTALE;
    if (ino == DIRECTORY_INO)
        return -EISDIR;
    pthread_mutex_lock(&control->mutex);
    const struct node *node = find_node(control, ino);
    if (node && offset < node->length) {
        *got = kv_min_u64(length, node->length - offset);
        memcpy(buf, node->content + offset, *got);
    }
    pthread_mutex_unlock(&control->mutex);
    return node ? 0 : -ESTALE;
}

/* A write to an `apply`; batch: what the node had gathered, which is not in it meanwhile. */
static int write_batch(struct fs_control *control, uint64_t ino, const struct fs_caller *caller,
                       const struct fs_control_piece *piece, struct fs_control_batch *batch,
                       bool is_second)
{
    if (is_second && !batch)
        return fs_control_apply_refuse(control->parts.apply);
    const int err = fs_control_apply_write(control->parts.apply, &batch, caller, piece);
    char *said = malloc(APPLY_CONTENT_MAX); /* without memory the old text stays */
    const size_t said_len = said ? make_apply(control, said, APPLY_CONTENT_MAX) : 0;
    pthread_mutex_lock(&control->mutex);
    struct node *node = find_node(control, ino);
    if (node && said) { /* for who reads the same open file */
        char *old = node->content;
        node->content = said;
        node->length = kv_min_u64(said_len, APPLY_CONTENT_MAX - 1);
        said = old;
    }
    if (node && !node->batch) {
        node->batch = batch;
        batch = NULL;
    }
    pthread_mutex_unlock(&control->mutex);
    free(said);
    fs_control_batch_free(batch); /* the node has gone meanwhile */
    return err;
}

int fs_control_write(struct fs_control *control, uint64_t ino, const struct fs_caller *caller,
                     uint64_t offset, const void *bytes, size_t length)
{
    if (!control)
        return -ESTALE;
    if (ino == DIRECTORY_INO)
        return -EISDIR;
    pthread_mutex_lock(&control->mutex);
    struct node *node = find_node(control, ino);
    const bool is_second = node && node->written;
    struct fs_control_batch *batch = node ? node->batch : NULL;
    const unsigned kind = node ? node->kind : KIND_COUNT;
    if (node) {
        node->written = true;
        node->batch = NULL; /* ours for now */
    }
    pthread_mutex_unlock(&control->mutex);
    if (kind == KIND_COUNT)
        return -ESTALE;
    const struct fs_control_piece piece = {.offset = offset, .text = bytes, .length = length};
    if (kind == KIND_APPLY)
        return write_batch(control, ino, caller, &piece, batch, is_second);
    return files[kind].obey ? files[kind].obey(control, caller, bytes, length) : -EPERM;
}

/* ---- new, free ------------------------------------------------------------------------ */

static int check_name(struct fs_volume *volume, const char *name, struct kv_error *error)
{
    struct fs_record record;
    const int err = fs_lookup(volume, FS_ROOT_INO, name, strlen(name), &record);
    if (!err)
        fs_forget(volume, record.file.ino, 1);
    if (err == -ENOENT)
        return 0;
    if (error)
        (void)snprintf(error->text, sizeof error->text,
                       err ? "the entry \"%.60s\" can not be looked for: %s"
                           : "the image has an entry \"%.60s\" of its own, where the control "
                             "directory is to be; mount with -o control=NAME or control=none",
                       name, strerror(-err));
    return err ? err : -EEXIST;
}

int fs_control_new(const struct fs_control_parts *parts, struct fs_control **out,
                   struct kv_error *error)
{
    const char *name = *parts->name ? parts->name : FS_CONTROL_NAME_DEFAULT;
    const int err = check_name(parts->volume, name, error);
    if (err)
        return err;
    struct fs_control *control = calloc(1, sizeof *control);
    if (!control)
        return -ENOMEM;
    control->parts = *parts;
    control->made_ns = fs_time_now();
    (void)snprintf(control->name, sizeof control->name, "%s", name);
    fs_volume_reserve(parts->volume, control->name);
    pthread_mutex_init(&control->mutex, NULL); /* does not fail on Linux */
    *out = control;
    return 0;
}

void fs_control_free(struct fs_control *control)
{
    if (!control)
        return;
    for (unsigned i = 0; i < control->node_count; i++)
        free_node(control->nodes[i]);
    pthread_mutex_destroy(&control->mutex);
    free(control);
}
