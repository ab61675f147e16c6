/*
 * tools/tree_json.c: lines of JSON as a source and a sink of trees, one object for each name.
 *
 *    {"key":"a/b","type":"value","mode":"0644","uid":0,"gid":0,"mtime":T,"atime":T,
 *     "xattrs":{"user.x":"..."},"size":5,"value":"bytes"}
 *
 * type     value (left out: this), directory, symlink, fifo, socket, block, character
 * value    content; of a file with holes "extents" instead: [{"offset":0,"value":"..."}, ...]
 * target   of a symlink; rdev: [major, minor] of a device
 * link     the key that this one is one more name of; then nothing but "key" matters
 * T        "2026-01-31T12:00:00.123456789Z"
 *
 * What is left out is as for a file that is made now. Bytes that are not UTF-8 are \udc80 to \udcff
 * (tools/json.h).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kv/base.h"
#include "tools/command.h"
#include "tools/json.h"
#include "tools/json_read.h"
#include "tools/options.h"
#include "tools/tree.h"

static const struct {
    const char *name;
    mode_t type;
} types[] = {
    {"value", S_IFREG},   {"directory", S_IFDIR}, {"symlink", S_IFLNK},   {"fifo", S_IFIFO},
    {"socket", S_IFSOCK}, {"block", S_IFBLK},     {"character", S_IFCHR},
};
#define TYPE_COUNT (sizeof types / sizeof types[0])

/* ---- reading ---------------------------------------------------------------------------- */

struct source {
    struct tree_job *job;
    struct tree_xattrs xattrs;
    uint32_t uid, gid, mask;
    uint64_t line;
};

/* A file's content in the document; `extent` is the next one. */
struct reading {
    const struct tool_json_value *value, *extent;
    uint64_t size;
};

static int read_piece(void *context, struct tree_piece *piece)
{
    struct reading *reading = context;
    *piece = (struct tree_piece){.length = 0};
    if (reading->value) {
        piece->bytes = reading->value->text;
        piece->length = reading->value->length;
        reading->value = NULL;
        return 0;
    }
    while (reading->extent && piece->length == 0) {
        const struct tool_json_value *value =
            tool_json_member(reading->extent, "value", TOOL_JSON_STRING);
        const struct tool_json_value *offset =
            tool_json_member(reading->extent, "offset", TOOL_JSON_NUMBER);
        int64_t number;
        if (!value || tool_json_integer(offset, &number) || number < 0)
            return -EINVAL;
        piece->bytes = value->text;
        piece->length = value->length;
        piece->offset = (uint64_t)number;
        if (piece->length > reading->size || piece->offset > reading->size - piece->length)
            return -EINVAL;
        reading->extent = reading->extent->next;
    }
    return 0;
}

static int refuse(struct source *source, const char *what)
{
    snprintf(source->job->error.text, sizeof source->job->error.text, "line %llu: %s",
             (unsigned long long)source->line, what);
    return -EINVAL;
}

/* A number of 0 to `most`, if it is given. */
static int take_number(struct source *source, const struct tool_json_value *object,
                       const char *name, uint32_t *number)
{
    const struct tool_json_value *value = tool_json_member(object, name, TOOL_JSON_NUMBER);
    int64_t given;
    if (!value)
        return 0;
    if (tool_json_integer(value, &given) || given < 0 || given > UINT32_MAX)
        return refuse(source, "\"uid\" and \"gid\" are numbers of 32 bits");
    *number = (uint32_t)given;
    return 0;
}

static int take_time(struct source *source, const struct tool_json_value *object, const char *name,
                     int64_t *ns)
{
    const struct tool_json_value *value = tool_json_member(object, name, TOOL_JSON_STRING);
    if (value && tool_parse_time(value->text, ns))
        return refuse(source, "a time is \"2026-01-31T12:00:00.123456789Z\"");
    return 0;
}

static int take_mode(struct source *source, const struct tool_json_value *object, uint32_t *mode)
{
    const struct tool_json_value *type = tool_json_member(object, "type", TOOL_JSON_STRING);
    const struct tool_json_value *given = tool_json_member(object, "mode", TOOL_JSON_STRING);
    size_t i = 0;
    while (type && i < TYPE_COUNT && strcmp(types[i].name, type->text) != 0)
        i++;
    if (i == TYPE_COUNT)
        return refuse(source, "\"type\" is value, directory, symlink, fifo, socket, block or "
                              "character");
    uint32_t bits = types[i].type == S_IFLNK   ? 0777
                    : types[i].type == S_IFDIR ? 0777 & ~source->mask
                                               : 0666 & ~source->mask;
    if (given) {
        char *end;
        const unsigned long number = strtoul(given->text, &end, 8);
        if (!*given->text || *end || number > 07777)
            return refuse(source, "\"mode\" is an octal number, \"0644\"");
        bits = (uint32_t)number;
    }
    *mode = types[i].type | bits;
    return 0;
}

static int take_device(struct source *source, const struct tool_json_value *object, uint64_t *rdev)
{
    const struct tool_json_value *pair = tool_json_member(object, "rdev", TOOL_JSON_ARRAY);
    int64_t major_number, minor_number;
    if (!pair || !pair->first || !pair->first->next ||
        tool_json_integer(pair->first, &major_number) ||
        tool_json_integer(pair->first->next, &minor_number) || major_number < 0 || minor_number < 0)
        return refuse(source, "a device wants \"rdev\":[major,minor]");
    *rdev = makedev((unsigned)major_number, (unsigned)minor_number);
    return 0;
}

static int take_xattrs(struct source *source, const struct tool_json_value *object,
                       struct tree_item *item)
{
    const struct tool_json_value *xattrs = tool_json_member(object, "xattrs", TOOL_JSON_OBJECT);
    int err = 0;
    tree_xattrs_clear(&source->xattrs);
    for (const struct tool_json_value *at = xattrs ? xattrs->first : NULL; !err && at;
         at = at->next) {
        if (at->kind != TOOL_JSON_STRING)
            return refuse(source, "\"xattrs\" has strings only");
        err = tree_xattrs_add(source->job, &source->xattrs, at->name, at->text, at->length);
    }
    tree_xattrs_end(&source->xattrs, item);
    return err;
}

static int take_content(struct source *source, const struct tool_json_value *object,
                        struct tree_item *item, struct reading *reading)
{
    const struct tool_json_value *extents = tool_json_member(object, "extents", TOOL_JSON_ARRAY);
    const struct tool_json_value *size = tool_json_member(object, "size", TOOL_JSON_NUMBER);
    reading->value = tool_json_member(object, "value", TOOL_JSON_STRING);
    if (reading->value && reading->value->length == 0)
        reading->value = NULL;
    item->size = reading->value ? reading->value->length : 0;
    if (extents) {
        int64_t number;
        if (tool_json_integer(size, &number) || number < 0)
            return refuse(source, "\"extents\" want \"size\", a number");
        item->size = (uint64_t)number;
        item->may_have_holes = true;
        reading->value = NULL;
        reading->extent = extents->first;
    }
    reading->size = item->size;
    return 0;
}

static int put_object(struct source *source, const struct tool_json_value *object)
{
    const struct tool_json_value *key = tool_json_member(object, "key", TOOL_JSON_STRING);
    const struct tool_json_value *link = tool_json_member(object, "link", TOOL_JSON_STRING);
    const struct tool_json_value *target = tool_json_member(object, "target", TOOL_JSON_STRING);
    struct reading reading = {NULL, NULL, 0};
    struct kv_error error;
    const int64_t now = fs_time_now();
    struct tree_item item = {
        .attributes = {.uid = source->uid, .gid = source->gid, .atime_ns = now, .mtime_ns = now},
        .read = read_piece,
        .read_context = &reading,
    };
    if (!key || strlen(key->text) != key->length)
        return refuse(source, "wants a \"key\", a string without zero bytes");
    item.path = key->text;
    int err = take_mode(source, object, &item.attributes.mode);
    if (err)
        return err;
    if (*item.path ? tool_check_key(item.path, &error) : !S_ISDIR(item.attributes.mode))
        return refuse(source, "\"key\" has names with single slashes between them");
    if (link && tool_check_key(link->text, &error))
        return refuse(source, "\"link\" is a key");
    item.link = link ? link->text : NULL;
    item.target = target ? target->text : NULL;
    if (S_ISLNK(item.attributes.mode) && (!target || target->length == 0))
        return refuse(source, "a symlink wants a \"target\"");
    err = take_number(source, object, "uid", &item.attributes.uid);
    if (!err)
        err = take_number(source, object, "gid", &item.attributes.gid);
    if (!err)
        err = take_time(source, object, "mtime", &item.attributes.mtime_ns);
    item.attributes.atime_ns = item.attributes.mtime_ns;
    if (!err)
        err = take_time(source, object, "atime", &item.attributes.atime_ns);
    if (!err && (S_ISBLK(item.attributes.mode) || S_ISCHR(item.attributes.mode)))
        err = take_device(source, object, &item.attributes.rdev);
    if (!err)
        err = take_xattrs(source, object, &item);
    if (!err && S_ISREG(item.attributes.mode))
        err = take_content(source, object, &item, &reading);
    return err ? err : tree_put(source->job, &item);
}

int tree_from_json(struct tree_job *job, FILE *in)
{
    const mode_t mask = umask(0);
    (void)umask(mask);
    struct source source = {.job = job, .uid = getuid(), .gid = getgid(), .mask = mask};
    struct stat status;
    const bool is_file = fstat(fileno(in), &status) == 0 && S_ISREG(status.st_mode);
    char *line = NULL;
    size_t capacity = 0;
    uint64_t done = 0;
    int err = 0;
    for (ssize_t length; !err && (length = getline(&line, &capacity, in)) >= 0;) {
        struct tool_json_document *document = NULL;
        const char *complaint = NULL;
        source.line++;
        done += (uint64_t)length;
        while (length > 0 && strchr("\r\n", line[length - 1]))
            length--;
        line[length] = '\0';
        if (strspn(line, " \t") >= (size_t)length)
            continue;
        err = tool_json_read(line, (size_t)length, &document, &complaint);
        err = err ? refuse(&source, complaint) : put_object(&source, tool_json_root(document));
        tool_json_document_free(document);
        if (is_file)
            tool_progress_step(&job->progress, done, (uint64_t)status.st_size);
    }
    if (!err && !feof(in)) /* the last line was not the end: no memory for the next, it may be */
        err = ferror(in) ? -EIO : -ENOMEM;
    free(line);
    tree_xattrs_release(&source.xattrs);
    return err ? tree_failed(job, "", err) : 0;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

struct sink {
    struct tree_sink base;
    struct tree_job *job;
    struct tool_json json;
};

static int write_content(struct sink *sink, const struct tree_item *item)
{
    struct tool_json *json = &sink->json;
    struct tree_piece piece;
    int err;
    tool_json_number(json, "size", item->size);
    if (!item->may_have_holes) {
        tool_json_begin_text(json, "value");
        while (!(err = item->read(item->read_context, &piece)) && piece.length > 0)
            tool_json_add_text(json, piece.bytes, piece.length);
        tool_json_end_text(json);
        return err;
    }
    tool_json_open(json, "extents", '[');
    while (!(err = item->read(item->read_context, &piece)) && piece.length > 0) {
        tool_json_open(json, NULL, '{');
        tool_json_number(json, "offset", piece.offset);
        tool_json_bytes(json, "value", piece.bytes, piece.length);
        tool_json_close(json, '}');
    }
    tool_json_close(json, ']');
    return err;
}

static int put(struct tree_sink *base, const struct tree_item *item)
{
    struct sink *sink = (struct sink *)base;
    struct tool_json *json = &sink->json;
    const struct fs_apply_attributes *from = &item->attributes;
    char text[TOOL_TIME_TEXT];
    int err = 0;
    size_t type = 0;
    while (type + 1 < TYPE_COUNT && types[type].type != (from->mode & S_IFMT))
        type++;
    tool_json_open(json, NULL, '{');
    tool_json_string(json, "key", item->path);
    tool_json_string(json, "type", types[type].name);
    if (item->link) {
        tool_json_string(json, "link", item->link);
    } else {
        snprintf(text, sizeof text, "%04o", from->mode & 07777);
        tool_json_string(json, "mode", text);
        tool_json_number(json, "uid", from->uid);
        tool_json_number(json, "gid", from->gid);
        tool_format_time(from->mtime_ns, true, text);
        tool_json_string(json, "mtime", text);
        tool_format_time(from->atime_ns, true, text);
        tool_json_string(json, "atime", text);
        if (S_ISBLK(from->mode) || S_ISCHR(from->mode)) {
            tool_json_open(json, "rdev", '[');
            tool_json_number(json, NULL, major(from->rdev));
            tool_json_number(json, NULL, minor(from->rdev));
            tool_json_close(json, ']');
        }
        if (S_ISLNK(from->mode))
            tool_json_string(json, "target", item->target);
        if (from->xattr_count > 0) {
            tool_json_open(json, "xattrs", '{');
            for (size_t i = 0; i < from->xattr_count; i++)
                tool_json_bytes(json, from->xattrs[i].name, from->xattrs[i].value,
                                from->xattrs[i].length);
            tool_json_close(json, '}');
        }
        if (S_ISREG(from->mode))
            err = write_content(sink, item);
    }
    tool_json_close(json, '}');
    json->has_members[0] = false; /* lines, not a list */
    return err ? err : ferror(json->out) ? -EIO : 0;
}

static int finish(struct tree_sink *base)
{
    const struct sink *sink = (struct sink *)base;
    return fflush(sink->json.out) || ferror(sink->json.out) ? -EIO : 0;
}

static void release(struct tree_sink *base)
{
    free(base);
}

struct tree_sink *tree_to_json(struct tree_job *job, FILE *out)
{
    struct sink *sink = calloc(1, sizeof *sink);
    if (!sink) {
        (void)tree_failed(job, "", -ENOMEM); /* the words are all that is wanted */
        return NULL;
    }
    sink->base = (struct tree_sink){.put = put, .finish = finish, .free = release};
    sink->job = job;
    tool_json_init(&sink->json, out);
    return &sink->base;
}
