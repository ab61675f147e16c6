/*
 * tools/kvfs_plan.c: kvfs plan: how large an image and how much memory so many keys take.
 *
 * The layout is the one of fs/record.h and fs/data.h: a record for each key; content of up to
 * 256 bytes in it, of up to 8 KiB in pieces in the tree, of more in extents. Leaves are filled in
 * order, as an import fills them, so it is enough to lay some files out and to multiply.
 */
#include "tools/command.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "fs/data.h"
#include "fs/record.h"
#include "kv/base.h"
#include "tools/json.h"
#include "tools/options.h"

#define NODE_HEADER_BYTES   64u   /* of a page, in the clear */
#define ENTRY_BYTES         16u   /* of a key in a leaf, besides key and value */
#define INNER_ENTRY_BYTES   48u   /* of a leaf in its parent */
#define EXTENT_RECORD_BYTES 67u   /* its key and value: fs/data.h */
#define PACKED_FILE_MAX     8192u /* content up to here is packed whole */
#define PACKED_MAX          2048u /* the longest piece */
#define EXTENT_LEAST        4096u /* a last piece shorter than this is packed */
/* What a codec makes of keys and records, which are alike, in a page. */
#define META_RATIO 0.28
/* What a process that works on an image takes without any page; and what an import gathers at once:
 * tools/tree_gather.c. */
#define PROCESS_BYTES    11800000u
#define BATCH_BYTES_MAX  (8u << 20)
#define BATCH_CHANGES    1000u
#define PENDING_BYTES    (16u << 20) /* of extents on their way to the device */
#define SAMPLE_FILES_MAX 20000u
#define AHEAD_LEAST      (2u << 20) /* of pages: with less nothing is faulted in ahead */

struct plan {
    uint64_t keys, name_bytes, value_bytes, node_bytes, extent_bytes;
    double ratio; /* bytes of content before packing for one after */
};

struct forecast {
    double pages, page_bytes; /* leaves and what is above them; stored */
    double extent_bytes;      /* stored */
    double map_bytes;
    double memory_bytes, working_bytes;
    uint64_t image_bytes; /* to be made */
};

/* Leaves that are filled one after the other. */
struct leaves {
    const struct plan *plan;
    double content_ratio; /* of value bytes */
    uint64_t used, pages; /* of the last leaf; finished ones */
    double packed;        /* what the last leaf's bytes make when packed */
    double stored;        /* bytes of finished leaves */
};

static void finish_leaf(struct leaves *leaves)
{
    if (leaves->used == 0)
        return;
    /* Leaves differ by some percent in what a codec makes of them, and take whole blocks. */
    const uint64_t most = leaves->plan->node_bytes / KV_BLOCK_BYTES;
    for (int percent = 94; percent <= 106; percent += 3) {
        const uint64_t packed = (uint64_t)(leaves->packed * percent / 100) + NODE_HEADER_BYTES;
        leaves->stored += (double)kv_min_u64(kv_blocks_for(packed), most) * KV_BLOCK_BYTES / 5;
    }
    leaves->pages++;
    leaves->used = 0;
    leaves->packed = 0;
}

static void add_entry(struct leaves *leaves, uint64_t meta_bytes, uint64_t content_bytes)
{
    const uint64_t bytes = meta_bytes + content_bytes + ENTRY_BYTES;
    if (leaves->used + bytes > leaves->plan->node_bytes - NODE_HEADER_BYTES)
        finish_leaf(leaves);
    leaves->used += bytes;
    leaves->packed += (double)(meta_bytes + ENTRY_BYTES) * META_RATIO +
                      (double)content_bytes * leaves->content_ratio;
}

/* What one file adds to the leaves of content, and its extents' stored bytes. */
static double add_content(struct leaves *leaves, const struct plan *plan)
{
    const uint64_t size = plan->value_bytes;
    double stored = 0;
    for (uint64_t at = 0; size > FS_INLINE_MAX && at < size;) {
        const bool packed = size <= PACKED_FILE_MAX;
        const uint64_t piece = kv_min_u64(size - at, packed ? PACKED_MAX : plan->extent_bytes);
        if (packed || piece < EXTENT_LEAST) {
            add_entry(leaves, FS_DATA_KEY_BYTES + 1, piece);
        } else {
            const uint64_t raw = kv_blocks_for(piece);
            const uint64_t blocks = kv_blocks_for((uint64_t)((double)piece / plan->ratio));
            stored += (double)kv_min_u64(raw, blocks) * KV_BLOCK_BYTES;
            add_entry(leaves, EXTENT_RECORD_BYTES, 0);
        }
        at += piece;
    }
    return stored;
}

static struct forecast lay_out(const struct plan *plan)
{
    struct leaves names = {.plan = plan, .content_ratio = 1 / plan->ratio};
    struct leaves contents = names;
    struct forecast forecast = {.pages = 0};
    const uint64_t sample = kv_min_u64(plan->keys, SAMPLE_FILES_MAX);
    const bool in_record = plan->value_bytes <= FS_INLINE_MAX;
    for (uint64_t i = 0; i < sample; i++) {
        add_entry(&names, 1 + 8 + plan->name_bytes + sizeof(struct fs_disk_record),
                  in_record ? plan->value_bytes : 0);
        forecast.extent_bytes += add_content(&contents, plan);
    }
    finish_leaf(&names);
    finish_leaf(&contents);
    const double times = (double)plan->keys / (double)sample;
    const double leaf_count = (double)(names.pages + contents.pages) * times;
    const double inner = leaf_count * INNER_ENTRY_BYTES / (double)plan->node_bytes + 1;
    forecast.extent_bytes *= times;
    forecast.pages = leaf_count + inner;
    forecast.page_bytes = (names.stored + contents.stored) * times + inner * KV_BLOCK_BYTES;
    forecast.map_bytes = (forecast.pages / 128 + 2) * KV_BLOCK_BYTES;
    return forecast;
}

/*
 * An import's batches: one is made while the next is gathered. The copies were measured; with one
 * batch there are the gathered bytes and those of its operations, with several also memory that
 * the second thread has given back and the first does not use yet.
 */
static double batch_memory(const struct plan *plan)
{
    const double each = (double)plan->value_bytes + 200;
    const double total = (double)plan->keys * each;
    const double gathered = (double)BATCH_CHANGES * each;
    const double most = gathered < BATCH_BYTES_MAX ? gathered : BATCH_BYTES_MAX;
    const double batch = most < total ? most : total;
    if (plan->value_bytes > PACKED_FILE_MAX) {
        const double several = PENDING_BYTES + 1.85 * batch;
        return several < 1.75 * total ? several : 1.75 * total;
    }
    const double batches = total / batch;
    const double more = batches <= 1.5 ? 0 : batches >= 3 ? 1 : (batches - 1.5) / 1.5;
    return batch * (2.3 + 2.6 * more);
}

static struct forecast forecast_of(const struct plan *plan)
{
    struct forecast forecast = lay_out(plan);
    const double used = forecast.page_bytes + forecast.extent_bytes + forecast.map_bytes;
    forecast.working_bytes = forecast.pages * (double)plan->node_bytes;
    const double budget = 256.0 * 1024 * 1024;
    /* As much as is used is faulted in ahead. */
    const double most =
        forecast.working_bytes < KV_TOUCH_AHEAD_MAX ? forecast.working_bytes : KV_TOUCH_AHEAD_MAX;
    const double ahead = forecast.working_bytes < AHEAD_LEAST ? 0 : most;
    const double pages = forecast.working_bytes + ahead;
    forecast.memory_bytes = PROCESS_BYTES + batch_memory(plan) + (pages < budget ? pages : budget);
    /* Room for what is rewritten between two checkpoints, the reserves, and the log. */
    const double data = used * 1.1 + (64u << 20);
    const double log = data / 7 < (256u << 20) ? data / 7 : (256u << 20);
    const uint64_t unit = 1u << 20;
    forecast.image_bytes = ((uint64_t)(data + log) / unit + 1) * unit;
    return forecast;
}

/* ---- the command -------------------------------------------------------------------- */

static bool parse_ratio(const char *text, double *ratio)
{
    char *end;
    *ratio = strtod(text, &end);
    return end != text && !*end && *ratio >= 1 && *ratio <= 1000;
}

/* Complains; false. */
static bool parse_plan(const struct tool_arguments *arguments, struct plan *plan)
{
    const char *keys = tool_value(arguments, 'k'), *name = tool_value(arguments, 'n');
    const char *value = tool_value(arguments, 's'), *ratio = tool_value(arguments, 'c');
    *plan =
        (struct plan){.name_bytes = 16, .node_bytes = 16384, .extent_bytes = 131072, .ratio = 1};
    if (!keys || !value) {
        tool_complain("plan: --keys and --value-size are wanted; kvfs plan --help tells more");
        return false;
    }
    if (tool_parse_number(keys, &plan->keys) || plan->keys == 0) {
        tool_complain("--keys %s: give a number of keys, at least 1", keys);
        return false;
    }
    if (name && (tool_parse_number(name, &plan->name_bytes) || plan->name_bytes == 0 ||
                 plan->name_bytes > FS_NAME_MAX)) {
        tool_complain("--key-size %s: give bytes, 1 to %u", name, FS_NAME_MAX);
        return false;
    }
    if (tool_parse_size(value, &plan->value_bytes) || plan->value_bytes > (UINT64_C(1) << 46)) {
        tool_complain("--value-size %s: give a size, as in 4096 or 64K", value);
        return false;
    }
    if (ratio && !parse_ratio(ratio, &plan->ratio)) {
        tool_complain("--compress %s: give a ratio from 1, as in 2.5", ratio);
        return false;
    }
    return true;
}

static void print_forecast(const struct plan *plan, const struct forecast *forecast, bool as_json)
{
    const double used = forecast->page_bytes + forecast->extent_bytes + forecast->map_bytes;
    const struct {
        const char *name, *label;
        double value;
    } rows[] = {
        {"content_bytes", "content", (double)plan->keys * (double)plan->value_bytes},
        {"used_bytes", "used in image", used},
        {"tree_bytes", "of it, tree", forecast->page_bytes + forecast->map_bytes},
        {"extent_bytes", "of it, extents", forecast->extent_bytes},
        {"image_bytes", "image to make", (double)forecast->image_bytes},
        {"memory_import_bytes", "import takes", forecast->memory_bytes},
        {"memory_working_bytes", "tree in memory", forecast->working_bytes},
    };
    struct tool_json json;
    tool_json_init(&json, stdout);
    if (as_json)
        tool_json_open(&json, NULL, '{');
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char size[TOOL_SIZE_TEXT];
        tool_format_size((uint64_t)rows[i].value, size);
        if (as_json)
            tool_json_number(&json, rows[i].name, (uint64_t)rows[i].value);
        else
            printf("%-15s %s\n", rows[i].label, size);
    }
    if (as_json)
        tool_json_number(&json, "page_count", (uint64_t)forecast->pages);
    if (as_json)
        tool_json_close(&json, '}');
}

static int run_plan(const struct tool_arguments *arguments)
{
    struct plan plan;
    if (!parse_plan(arguments, &plan))
        return TOOL_USAGE;
    const struct forecast forecast = forecast_of(&plan);
    print_forecast(&plan, &forecast, tool_given(arguments, 'j'));
    return tool_finish_output(TOOL_OK);
}

static const struct option plan_options[] = {
    {"keys", required_argument, NULL, 'k'},
    {"key-size", required_argument, NULL, 'n'},
    {"value-size", required_argument, NULL, 's'},
    {"compress", required_argument, NULL, 'c'},
    {"json", no_argument, NULL, 'j'},
    {0},
};

const struct tool_command tool_command_plan = {
    .name = "plan",
    .synopsis = "--keys N --value-size SIZE [--key-size BYTES] [--compress RATIO] [--json]",
    .help =
        "Say how large an image for so many keys has to be, what of it will be in use, and what\n"
        "memory an import of them and the whole tree take. Within 15 % of what an import then\n"
        "takes, for pages and extents as mkfs.kvfs makes them by default.\n"
        "\n"
        "  -k, --keys N           how many\n"
        "  -s, --value-size SIZE  of one value, on average\n"
        "  -n, --key-size BYTES   of a key behind its last slash (16)\n"
        "  -c, --compress RATIO   what the codec makes of values: 2 is half (1)\n"
        "  -j, --json             one JSON object\n"
        "\n"
        "Example: kvfs plan --keys 1000000 --value-size 4K --compress 2\n",
    .options = plan_options,
    .operands_least = 0,
    .operands_most = 0,
    .run = run_plan,
};
