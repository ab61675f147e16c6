/*
 * tools/mkfs_kvfs.c: mkfs.kvfs makes an empty filesystem in a file or block device.
 *
 * Invariant  after an error, an image that was not there before is not there now.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/format.h"
#include "kv/base.h"
#include "kv/kv.h"
#include "tools/mounts.h"
#include "tools/options.h"

enum { STATUS_FAILED = 1, STATUS_USAGE = 2 };

static const char usage[] =
    "usage: mkfs.kvfs [-f] [-q] [-s SIZE] [-n NODE_SIZE] [-e EXTENT_SIZE] [-l LOG_SIZE]\n"
    "                 [-L LABEL] [-U UUID] [-c none|lz4|zstd[:LEVEL]] IMAGE\n"
    "\n"
    "Make an empty filesystem in IMAGE, a file or a block device.\n"
    "\n"
    "  -s, --size SIZE         of the image, e.g. 64G; a file becomes sparse. Without it an\n"
    "                          existing file or device is used whole\n"
    "  -n, --node-size SIZE    of a tree page: a power of two from 4K to 64K (16K)\n"
    "  -e, --extent-size SIZE  longest piece of a large file that is packed and stored: a power "
    "of\n"
    "                          two from 4K to 1M (128K)\n"
    "  -l, --log-size SIZE     of the redo log (1/8 of the image, at most 256M)\n"
    "  -L, --label LABEL       at most 63 bytes\n"
    "  -U, --uuid UUID         instead of a random one\n"
    "  -c, --codec CODEC       how pages and data are packed: none, lz4, zstd or zstd:1 to "
    "zstd:19\n"
    "                          (lz4)\n"
    "  -f, --force             overwrite what is there\n"
    "  -q, --quiet             say nothing but errors\n"
    "  -h, --help  -V, --version\n"
    "\n"
    "Exit status: 0 made, 1 failed, 2 usage.\n"
    "\n"
    "Example: mkfs.kvfs -s 64G -L data data.img && mount.kvfs data.img /mnt\n";

struct request {
    const char *image;
    bool quiet;
    struct kv_create_options create;
};

/* A size that is a power of two within bounds. */
static bool take_power(const char *value, uint64_t least, uint64_t most, uint32_t *bytes)
{
    uint64_t size;
    if (tool_parse_size(value, &size) || size < least || size > most || (size & (size - 1)))
        return false;
    *bytes = (uint32_t)size;
    return true;
}

/* Take one option; false: it was complained about. */
static bool take_option(int option, const char *value, struct request *request)
{
    struct kv_create_options *create = &request->create;
    switch (option) {
    case 'f':
        create->force = true;
        return true;
    case 'q':
        request->quiet = true;
        return true;
    case 's':
        if (tool_parse_size(value, &create->size_bytes) == 0 && create->size_bytes > 0)
            return true;
        tool_complain("-s %s: not a size; write for instance 64G", value);
        return false;
    case 'n':
        if (take_power(value, 4096, 65536, &create->node_bytes))
            return true;
        tool_complain("-n %s: not a power of two from 4K to 64K", value);
        return false;
    case 'e':
        if (take_power(value, 4096, KV_BLOB_MAX, &create->extent_bytes))
            return true;
        tool_complain("-e %s: not a power of two from 4K to 1M", value);
        return false;
    case 'l':
        if (tool_parse_size(value, &create->log_bytes) == 0 && create->log_bytes > 0)
            return true;
        tool_complain("-l %s: not a size; write for instance 64M", value);
        return false;
    case 'L':
        create->label = value;
        if (strlen(value) <= KV_LABEL_MAX)
            return true;
        tool_complain("-L: the label has %zu bytes; shorten it to %u", strlen(value), KV_LABEL_MAX);
        return false;
    case 'U':
        if (tool_parse_uuid(value, create->uuid) == 0)
            return true;
        tool_complain("-U %s: not a UUID; uuidgen makes one", value);
        return false;
    case 'c':
        if (tool_parse_codec(value, &create->codec) == 0)
            return true;
        tool_complain("-c %s: not none, lz4, zstd or zstd:1 to zstd:19", value);
        return false;
    default:
        return false; /* getopt_long has complained */
    }
}

/* An exit status, or -1 to go on. */
static int parse(int argc, char **argv, struct request *request)
{
    static const struct option options[] = {
        {"size", required_argument, NULL, 's'},
        {"node-size", required_argument, NULL, 'n'},
        {"extent-size", required_argument, NULL, 'e'},
        {"log-size", required_argument, NULL, 'l'},
        {"label", required_argument, NULL, 'L'},
        {"uuid", required_argument, NULL, 'U'},
        {"codec", required_argument, NULL, 'c'},
        {"force", no_argument, NULL, 'f'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0},
    };
    for (int option;
         (option = getopt_long(argc, argv, "fqs:n:e:l:L:U:c:hV", options, NULL)) != -1;) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == 'V') {
            puts("mkfs.kvfs " KVFS_VERSION);
            return 0;
        }
        if (!take_option(option, optarg, request))
            return STATUS_USAGE;
    }
    if (argc - optind != 1) {
        tool_complain("give one IMAGE; mkfs.kvfs --help shows how");
        return STATUS_USAGE;
    }
    request->image = argv[optind];
    return -1;
}

/* Make the image and put an empty root directory into it, under one lock. */
static int make(const struct request *request, bool is_new, struct kv_error *error)
{
    const char *image = request->image;
    struct kv_store *store;
    int err = kv_create_open(image, &request->create, &store, error);
    if (err)
        return err;
    err = fs_format(store, getuid(), getgid(), 0755);
    if (err && is_new)
        (void)unlink(image); /* while it is ours: later it may be another's */
    const int close_err = kv_close(store);
    if (!err)
        err = close_err;
    if (err)
        snprintf(error->text, sizeof error->text,
                 "%.200s: writing the root directory: %s; see whether the device is whole", image,
                 tool_error_text(err));
    return err;
}

static int report(const char *image)
{
    struct kv_error error = {""};
    struct kv_image_info info;
    const int err = kv_image_info(image, &info, &error);
    if (err) {
        tool_complain("%s", error.text);
        return STATUS_FAILED;
    }
    char uuid[TOOL_UUID_TEXT], codec[TOOL_CODEC_TEXT];
    char size[TOOL_SIZE_TEXT], node[TOOL_SIZE_TEXT], log[TOOL_SIZE_TEXT];
    tool_format_uuid(info.uuid, uuid);
    tool_format_codec(&info.codec, codec);
    tool_format_size(info.image_bytes, size);
    tool_format_size(info.node_bytes, node);
    tool_format_size(info.log_bytes, log);
    printf("%s: %s, pages of %s, log of %s, codec %s\n", image, size, node, log, codec);
    printf("uuid %s%s%s\n", uuid, *info.label ? ", label " : "", info.label);
    return 0;
}

int main(int argc, char **argv)
{
    struct request request = {.create.codec.codec = KV_CODEC_LZ4};
    tool_open_streams();
    const int status = parse(argc, argv, &request);
    if (status >= 0)
        return status;

    struct kv_error error = {""};
    if (tool_await_daemon(request.image)) {
        tool_describe_holder(request.image, &error);
        tool_complain("%s", error.text);
        return STATUS_FAILED;
    }
    if (tool_device_in_use(request.image)) {
        tool_complain("%s: the kernel uses this device; findmnt %s tells where it is mounted",
                      request.image, request.image);
        return STATUS_FAILED;
    }

    struct stat before;
    const bool is_new = stat(request.image, &before) != 0 && errno == ENOENT;
    if (is_new && request.create.size_bytes == 0) {
        tool_complain("%s: not there; give -s SIZE to make a file", request.image);
        return STATUS_FAILED;
    }

    const int err = make(&request, is_new, &error);
    if (err) {
        if (err == -EBUSY && kv_image_holder(request.image))
            tool_describe_holder(request.image, &error);
        if (*error.text)
            tool_complain("%s", error.text);
        else
            tool_complain("%s: %s%s", request.image, tool_error_text(err),
                          err == -EEXIST ? "; give -f to overwrite it" : "");
        return STATUS_FAILED;
    }
    return request.quiet ? 0 : report(request.image);
}
