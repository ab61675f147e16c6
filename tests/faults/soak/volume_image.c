/*
 * tests/faults/soak/volume_image.c: make, reopen, check, remove.
 *
 * Owns       a directory by mkdtemp and the image in it; both go also when the program fails.
 */
#include "volume_image.h"

#include "fs/format.h"
#include "fs/fsck.h"
#include "soak.h"

#include <string.h>
#include <unistd.h>

static void quiet(void *context, enum kv_log_level level, const char *line)
{
    (void)context;
    if (level == KV_LOG_ERROR)
        fprintf(stderr, "%s\n", line);
}

static struct kv_store *open_store(const char *path)
{
    const struct kv_open_options options = {
        .memory_budget_bytes = 8u << 20, .buffered_io = true, .no_background = true, .log = quiet};
    struct kv_store *store = NULL;
    struct kv_error error = {""};
    const int err = kv_open(path, &options, &store, &error);
    if (err)
        soak_fail("open: %s (%s)", error.text, strerror(-err));
    return store;
}

static void open_volume(struct volume_image *image)
{
    const struct fs_volume_options options = {.log = quiet};
    struct kv_error error = {""};
    image->store = open_store(image->path);
    const int err = fs_volume_open(image->store, &options, &image->volume, &error);
    if (err)
        soak_fail("open the volume: %s", error.text);
}

static void remove_files(void *context)
{
    const struct volume_image *image = context;
    unlink(image->path);
    rmdir(image->directory);
}

void volume_image_make(struct volume_image *image, uint64_t size_bytes)
{
    const char *tmp = getenv("TMPDIR");
    *image = (struct volume_image){0};
    SOAK_MUST((size_t)snprintf(image->directory, sizeof image->directory, "%s/kvfs-soak-XXXXXX",
                               tmp ? tmp : "/tmp") < sizeof image->directory);
    SOAK_MUST(mkdtemp(image->directory) != NULL);
    snprintf(image->path, sizeof image->path, "%s/image", image->directory);
    soak_at_failure(remove_files, image);
    const struct kv_create_options options = {.size_bytes = size_bytes,
                                              .node_bytes = 4096u << soak_below(3),
                                              .extent_bytes = 16384u << soak_below(4),
                                              .log_bytes = 4u << 20};
    struct kv_error error = {""};
    int err = kv_create(image->path, &options, &error);
    if (err)
        soak_fail("create: %s", error.text);
    struct kv_store *store = open_store(image->path);
    err = fs_format(store, 0, 0, 0755);
    if (err || kv_close(store))
        soak_fail("format: %s", strerror(-err));
    open_volume(image);
}

static void say_finding(void *context, enum kv_check_severity severity, const char *what,
                        const char *text)
{
    (void)context;
    if (severity != KV_CHECK_NOTE)
        fprintf(stderr, "check: %s: %s\n", what, text);
}

void volume_image_check(const char *path)
{
    struct kv_store *store = open_store(path);
    const struct kv_check_options options = {.report = say_finding};
    struct kv_check_result blocks = {0}, files = {0};
    int err = kv_check(store, &options, &blocks);
    if (!err)
        err = fs_check(store, &options, &files);
    const uint64_t findings = blocks.repairable + blocks.damaged + files.repairable + files.damaged;
    if (err || findings)
        soak_fail("the check of the image: %s, %llu findings", strerror(-err),
                  (unsigned long long)findings);
    if (kv_close(store))
        soak_fail("closing the checked image");
}

void volume_image_reopen(struct volume_image *image, enum volume_end end)
{
    int err = 0;
    fs_volume_close(image->volume);
    if (end == VOLUME_CRASH)
        kv_abandon(image->store);
    else
        err = kv_close(image->store);
    if (err)
        soak_fail("close: %s", strerror(-err));
    volume_image_check(image->path);
    open_volume(image);
    image->reopened++;
}

void volume_image_remove(struct volume_image *image)
{
    fs_volume_close(image->volume);
    if (kv_close(image->store))
        soak_fail("close");
    remove_files(image);
    soak_at_failure(NULL, NULL);
}
