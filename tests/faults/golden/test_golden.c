/*
 * tests/faults/golden/test_golden.c: images of every version of the format there was are opened,
 * found sound, and hold what they held.
 *
 *   test_golden DIR     each DIR/golden-vN.image.zst, with DIR/golden-vN.manifest
 *
 * Each is opened read-only, its log replayed in memory, then for writing, then changed, closed and
 * opened once more; the last line has the counts. Exit status 0: all is as it was.
 */
#include "golden.h"

#include "fs/fsck.h"
#include "fs/volume.h"
#include "kv/base.h"
#include "tests/kv/support_devices.h"
#include "tests/kv/support_store.h"

#include <glob.h>
#include <zstd.h>

#define IMAGE_BYTES (16u << 20)

struct result {
    unsigned images, lines, problems;
};

static void problem(struct result *result, const char *image, const char *what, int err)
{
    result->problems++;
    printf("PROBLEM: %s: %s%s%s\n", image, what, err ? ": " : "", err ? strerror(-err) : "");
}

/* ---- files --------------------------------------------------------------------------- */

static char *read_file(const char *path, size_t *length)
{
    FILE *file = fopen(path, "re");
    char *bytes = malloc(IMAGE_BYTES);
    KV_ASSERT(bytes);
    if (!file) {
        free(bytes);
        return NULL;
    }
    *length = fread(bytes, 1, IMAGE_BYTES - 1, file);
    bytes[*length] = '\0';
    fclose(file);
    return bytes;
}

/* The image unpacked, on a device that outlives the stores on it. NULL: it is no such file. */
static struct faulty *load_image(const char *path)
{
    size_t packed_len;
    char *packed = read_file(path, &packed_len);
    uint8_t *image = kv_device_alloc(IMAGE_BYTES);
    KV_ASSERT(image);
    const size_t got = packed ? ZSTD_decompress(image, IMAGE_BYTES, packed, packed_len) : 0;
    struct faulty *device = NULL;
    if (got == IMAGE_BYTES) {
        device = faulty_new(memory_device_new(IMAGE_BYTES / KV_BLOCK_BYTES));
        const int err =
            kv_device_write(faulty_device(device), 0, IMAGE_BYTES / KV_BLOCK_BYTES, image);
        KV_ASSERT(err == 0);
    }
    free(image);
    free(packed);
    return device;
}

/* ---- looking ------------------------------------------------------------------------- */

static int open_image(struct faulty *device, bool read_only, struct kv_store **store)
{
    const struct kv_open_options options = {.read_only = read_only,
                                            .memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .log = test_log_nothing,
                                            .device = faulty_device(device)};
    struct kv_error why = {""};
    const int err = kv_open("golden", &options, store, &why);
    if (err)
        printf("  %s\n", why.text);
    return err;
}

static void print_finding(void *context, enum kv_check_severity severity, const char *what,
                          const char *text)
{
    (void)context;
    if (severity != KV_CHECK_NOTE)
        printf("  %s: %s\n", what, text);
}

static void check(struct result *result, const char *image, struct kv_store *store)
{
    const struct kv_check_options options = {.read_blobs = true, .report = print_finding};
    struct kv_check_result found;
    int err = kv_check(store, &options, &found);
    if (err || found.repairable + found.damaged)
        problem(result, image, "the store's check", err);
    err = fs_check(store, &options, &found);
    if (err || found.repairable + found.damaged)
        problem(result, image, "the filesystem's check", err);
}

/* Line by line, so that a difference says where it is. */
static void compare(struct result *result, const char *image, struct kv_store *store,
                    const char *wanted)
{
    char *got = NULL;
    size_t got_len = 0;
    FILE *out = open_memstream(&got, &got_len);
    KV_ASSERT(out);
    const int err = golden_manifest(store, out);
    fclose(out);
    if (err)
        problem(result, image, "its manifest", err);
    const char *a = got, *b = wanted;
    while (*a || *b) {
        const size_t a_len = strcspn(a, "\n"), b_len = strcspn(b, "\n");
        result->lines++;
        if (a_len != b_len || memcmp(a, b, a_len) != 0) {
            printf("  is    : %.*s\n  should: %.*s\n", (int)a_len, a, (int)b_len, b);
            problem(result, image, "it holds something else", 0);
            break;
        }
        a += a_len + (a[a_len] == '\n');
        b += b_len + (b[b_len] == '\n');
    }
    free(got);
}

/* ---- an image ------------------------------------------------------------------------ */

static void look(struct result *result, const char *image, struct faulty *device, bool read_only,
                 const char *manifest)
{
    struct kv_store *store;
    int err = open_image(device, read_only, &store);
    if (err) {
        problem(result, image, read_only ? "it does not open to be read" : "it does not open", err);
        return;
    }
    check(result, image, store);
    compare(result, image, store, manifest);
    err = kv_close(store);
    if (err)
        problem(result, image, "it does not close", err);
}

/* It must be of use, too: the orphan goes, a file comes. */
static void use(struct result *result, const char *image, struct faulty *device)
{
    const struct fs_caller caller = {.uid = 1, .gid = 1};
    const struct fs_volume_options quiet = {.log = test_log_nothing};
    const struct fs_new_node node = {.mode = S_IFREG | 0644};
    struct fs_volume *volume;
    struct fs_record record;
    struct kv_store *store;
    int err = open_image(device, false, &store);
    if (err) {
        problem(result, image, "it does not open once more", err);
        return;
    }
    err = fs_volume_open(store, &quiet, &volume, NULL);
    if (!err) {
        err = fs_create(volume, &caller, FS_ROOT_INO, "new", 3, &node, &record);
        if (!err)
            err = fs_write(volume, record.file.ino, 0, "new", 3, false);
        fs_volume_close(volume);
    }
    if (err)
        problem(result, image, "it can not be used", err);
    check(result, image, store);
    err = kv_close(store);
    if (err)
        problem(result, image, "it does not close", err);
}

static void try_image(struct result *result, const char *path)
{
    char manifest_path[4096];
    size_t length;
    const int stem = (int)(strlen(path) - strlen(".image.zst"));
    snprintf(manifest_path, sizeof manifest_path, "%.*s.manifest", stem, path);
    char *manifest = read_file(manifest_path, &length);
    struct faulty *device = load_image(path);
    result->images++;
    if (!manifest || !device) {
        problem(result, path, manifest ? "it does not unpack" : "it has no manifest", 0);
    } else {
        look(result, path, device, true, manifest);
        look(result, path, device, false, manifest);
        use(result, path, device);
    }
    if (device)
        faulty_free(device);
    free(manifest);
}

int main(int argc, char **argv)
{
    struct result result = {0};
    char pattern[4096];
    glob_t found;
    if (argc != 2) {
        fputs("usage: test_golden DIR\n", stderr);
        return 2;
    }
    snprintf(pattern, sizeof pattern, "%s/golden-v*.image.zst", argv[1]);
    if (glob(pattern, 0, NULL, &found)) {
        printf("%s: no golden image\n", argv[1]);
        return 1;
    }
    for (size_t i = 0; i < found.gl_pathc; i++)
        try_image(&result, found.gl_pathv[i]);
    globfree(&found);
    printf("test_golden: %u images, %u lines compared, %u problems\n", result.images, result.lines,
           result.problems);
    return result.problems ? 1 : 0;
}
