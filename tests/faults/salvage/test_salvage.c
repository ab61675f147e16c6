/*
 * tests/faults/salvage/test_salvage.c: destroy what leads to the leaves, salvage, compare.
 *
 * Each round makes a store with one codec and node size, works on it through several
 * checkpoints, and destroys some of: the root and inner blocks of the page map, the roots and
 * inner pages of the trees, leaves, blobs, the bitmaps, both superblocks. Then:
 *
 *   - a check that only looks writes nothing;
 *   - a repair may be cut off at any write, and another one may follow;
 *   - after the repair a second check finds nothing;
 *   - every key whose leaf and blobs were not hit has its value; a key that was deleted stays so;
 *   - every other key is absent or has a value that it once had, and this was told;
 *   - nothing is there that was never written.
 *
 *   KVFS_SEED=N KVFS_ROUNDS=N test_salvage
 */
#include "salvage_model.h"

#define IMAGE_BLOCKS ((64ull << 20) / KV_BLOCK_BYTES)

enum target {
    HIT_MAP_ROOT = 1,
    HIT_MAP = 2,
    HIT_TREE_ROOT = 4,
    HIT_INNER = 8,
    HIT_LEAVES = 16,
    HIT_BLOBS = 32,
    HIT_REFS = 64,
    HIT_BITMAPS = 128,
    HIT_SUPERBLOCKS = 256,
    HIT_ALL = 511
};

/* What a run told, by the words of its findings. */
struct told {
    unsigned findings, stale, lost, dropped, salvaged, blobs;
};

struct totals {
    uint64_t rounds, keys, kept, older, gone, interrupted, leaves_hit;
};

static void note(void *context, enum kv_check_severity severity, const char *what, const char *text)
{
    struct told *told = context;
    if (test_env("KVFS_VERBOSE", 0))
        printf("  %d %s: %s\n", (int)severity, what, text);
    told->findings += severity != KV_CHECK_NOTE;
    told->stale += strcmp(what, "salvage-stale") == 0;
    told->lost += strcmp(what, "salvage-lost") == 0;
    told->dropped += strcmp(what, "salvage-dropped") == 0;
    told->salvaged += strcmp(what, "salvaged") == 0;
    told->blobs += strcmp(what, "blob-checksum") == 0;
}

static int try_open(struct kv_device *device, bool read_only, struct told *told,
                    struct kv_store **store)
{
    const struct kv_open_options options = {.memory_budget_bytes = 8u << 20,
                                            .no_background = true,
                                            .read_only = read_only,
                                            .repair = true,
                                            .report = note,
                                            .report_context = told,
                                            .log = test_log_nothing,
                                            .device = device};
    struct kv_error error = {""};
    const int err = kv_open(NULL, &options, store, &error);
    if (err && test_env("KVFS_VERBOSE", 0))
        printf("  opening: %s\n", error.text);
    return err;
}

/* ---- destroying ---------------------------------------------------------------------------- */

struct wreck {
    struct kv_device *device;
    struct test_random *random;
    bool hit[IMAGE_BLOCKS];
    unsigned hit_count;
};

static void destroy_block(struct wreck *wreck, uint64_t block)
{
    uint8_t *bytes = kv_device_alloc(KV_BLOCK_BYTES);
    KV_ASSERT(bytes);
    int err = kv_device_read(wreck->device, block, 1, bytes);
    KV_ASSERT(err == 0);
    switch (test_random_below(wreck->random, 3)) {
    case 0:
        memset(bytes, 0, KV_BLOCK_BYTES);
        break;
    case 1:
        for (size_t i = 0; i < KV_BLOCK_BYTES; i++)
            bytes[i] = (uint8_t)test_random_next(wreck->random);
        break;
    default: /* in the header, which no page is without: behind it may be slack */
        bytes[test_random_below(wreck->random, 40)] ^= 4;
    }
    err = kv_device_write(wreck->device, block, 1, bytes);
    KV_ASSERT(err == 0);
    free(bytes);
    wreck->hit[block] = true;
    wreck->hit_count++;
}

static void destroy(struct wreck *wreck, struct model_extent extent)
{
    destroy_block(wreck, extent.block);
    for (uint32_t i = 0; i < extent.block_count; i++)
        wreck->hit[extent.block + i] = true;
}

static void destroy_some(struct wreck *wreck, const struct model_extent *extents, size_t count,
                         size_t one_in)
{
    for (size_t i = 0; i < count; i++)
        if (i == 0 || test_random_below(wreck->random, one_in) == 0)
            destroy(wreck, extents[i]);
}

static void wreck_image(struct wreck *wreck, const struct model_layout *layout, unsigned targets)
{
    if (targets & HIT_MAP_ROOT)
        destroy(wreck, layout->map_root);
    if (targets & HIT_MAP)
        destroy_some(wreck, layout->map, layout->map_count, 2);
    if (targets & HIT_TREE_ROOT)
        destroy(wreck, layout->tree_roots[0]);
    if (targets & HIT_REFS)
        destroy(wreck, layout->tree_roots[1]);
    if (targets & HIT_INNER)
        destroy_some(wreck, layout->inner, layout->inner_count, 3);
    if (targets & HIT_LEAVES)
        for (size_t i = 0; i < layout->leaf_count; i++)
            if (test_random_below(wreck->random, 20) == 0)
                destroy(wreck, layout->leaves[i].at);
    if (targets & HIT_BLOBS)
        for (size_t i = 0; i < layout->blob_count; i++)
            if (test_random_below(wreck->random, 20) == 0)
                destroy(wreck, layout->blobs[i].at);
    if (targets & HIT_BITMAPS) {
        destroy_block(wreck, layout->bitmap_block);
        destroy_block(wreck, layout->bitmap_block + KV_GROUP_COPY_BLOCKS);
    }
    if (targets & HIT_SUPERBLOCKS) {
        destroy_block(wreck, KV_SUPERBLOCK_A_BLOCK);
        destroy_block(wreck, KV_SUPERBLOCK_B_BLOCK);
    }
}

static bool is_hit(const struct wreck *wreck, struct model_extent extent)
{
    for (uint32_t i = 0; i < extent.block_count; i++)
        if (wreck->hit[extent.block + i])
            return true;
    return false;
}

/* ---- salvaging ------------------------------------------------------------------------------ */

static uint64_t writes_of(const struct kv_device *device)
{
    return __atomic_load_n(&device->counts.writes, __ATOMIC_RELAXED);
}

static void look_only(struct kv_device *device, const struct wreck *wreck)
{
    struct told told = {0};
    struct kv_store *store;
    struct kv_check_result result;
    const uint64_t writes = writes_of(device);
    int err = try_open(device, true, &told, &store);
    KV_ASSERT(err == 0);
    const struct kv_check_options options = {
        .read_blobs = true, .estimate = true, .report = note, .context = &told};
    err = kv_check(store, &options, &result);
    KV_ASSERT(err == 0);
    KV_ASSERT((told.findings > 0) == (wreck->hit_count > 0));
    kv_abandon(store);
    KV_ASSERT(writes_of(device) == writes);
}

static void repair(struct kv_device *device, struct told *told)
{
    struct kv_store *store;
    struct kv_check_result result;
    int err = try_open(device, false, told, &store);
    KV_ASSERT(err == 0);
    struct kv_check_options options = {
        .repair = true, .read_blobs = true, .report = note, .context = told};
    err = kv_check(store, &options, &result);
    KV_ASSERT(err == 0);
    err = kv_close(store);
    KV_ASSERT(err == 0);
}

/* A repair that ends at its n-th write, as by a power cut. */
static void repair_in_part(struct faulty *faulty, uint64_t writes)
{
    struct told told = {0};
    struct kv_store *store;
    struct kv_check_result result;
    faulty_arm(
        faulty,
        (struct fault){.targets = FAULT_WRITES, .after = writes, .lasting = true, .error = -EIO});
    if (!try_open(faulty_device(faulty), false, &told, &store)) {
        const struct kv_check_options options = {
            .repair = true, .read_blobs = true, .report = note, .context = &told};
        kv_ignore(kv_check(store, &options, &result)); /* it fails, or ends before the fault */
        kv_abandon(store);
    }
    faulty_arm(faulty, (struct fault){0});
}

/* ---- comparing ------------------------------------------------------------------------------ */

struct round {
    struct model model;
    struct model_layout layout;
    struct wreck wreck;
    unsigned targets;
    bool interrupted;
    bool touched_replayed; /* what the log held after the last checkpoint is to be there */
};

static void compare(struct round *round, struct kv_store *store, const struct told *told,
                    struct totals *totals)
{
    const struct model *model = &round->model;
    static bool blob_hit[MODEL_KEYS];
    uint64_t present = 0, older = 0, gone = 0;
    memset(blob_hit, 0, sizeof blob_hit);
    for (size_t i = 0; i < round->layout.blob_count; i++)
        if (is_hit(&round->wreck, round->layout.blobs[i].at))
            blob_hit[round->layout.blobs[i].number] = true;
    for (unsigned number = 0; number < MODEL_KEYS; number++) {
        const size_t leaf = model_leaf_of(&round->layout, number);
        const bool safe =
            !is_hit(&round->wreck, round->layout.leaves[leaf].at) && !blob_hit[number];
        const bool replayed = round->touched_replayed && model->touched[number];
        const uint32_t wanted = replayed ? model->current[number] : model->durable[number];
        if (blob_hit[number] && !replayed &&
            !is_hit(&round->wreck, round->layout.leaves[leaf].at)) {
            /* The key of a damaged blob may stay, and says so when it is read. */
            continue;
        }
        const uint32_t found = model_read(store, number, model);
        present += found != 0;
        if ((safe || replayed) && found != wanted) {
            fprintf(stderr, "key %u of a sound leaf: version %u, not %u (targets %u)\n", number,
                    found, wanted, round->targets);
            abort();
        }
        older += found != wanted && found;
        gone += found != wanted && !found;
    }
    totals->kept += present - older;
    totals->older += older;
    totals->gone += gone;
    totals->keys += MODEL_KEYS;
    /* An interrupted repair has told it in its own run. */
    if ((older || gone) && !round->interrupted && !(told->stale + told->lost + told->dropped) &&
        !(round->targets & (HIT_BITMAPS | HIT_SUPERBLOCKS))) {
        fprintf(stderr, "%llu older and %llu missing keys of which nothing was told\n",
                (unsigned long long)older, (unsigned long long)gone);
        abort();
    }
}

/* ---- rounds ------------------------------------------------------------------ */

static void make_image(struct round *round, struct kv_device *device, unsigned node_bytes,
                       enum kv_codec codec)
{
    struct model *model = &round->model;
    test_create_on(device, node_bytes, codec, 4u << 20);
    model->store = test_open_on(device);
    for (unsigned phase = 0; phase < 3; phase++) {
        model_work(model, 40);
        const int err = kv_checkpoint(model->store);
        KV_ASSERT(err == 0);
    }
    int err = kv_close(model->store); /* writes the backup superblock */
    KV_ASSERT(err == 0);
    model->store = test_open_on(device);
    model_work(model, 10 + (unsigned)test_random_below(&model->random, 40));
    model_mark(model, &round->layout);
    round->touched_replayed = false;
    if (test_random_below(&model->random, 2)) {
        model_work(model, 8);
        err = kv_sync(model->store);
        KV_ASSERT(err == 0);
        round->touched_replayed = true;
    }
    kv_abandon(model->store);
}

static void run_round(uint64_t seed, unsigned number, struct totals *totals)
{
    static const unsigned node_sizes[] = {4096, 8192, 16384, 32768, 65536};
    static struct round round;
    memset(&round, 0, sizeof round);
    round.model.random.state = seed * 1000003u + number;
    struct test_random *random = &round.model.random;
    const unsigned node_bytes = node_sizes[number % 5];
    const enum kv_codec codec = (enum kv_codec)(number / 5 % 3);
    round.targets = 1u << number % 9;
    if (number >= 9)
        round.targets |= (unsigned)test_random_next(random) & HIT_ALL;
    struct faulty *faulty = faulty_new(memory_device_new(IMAGE_BLOCKS));
    struct kv_device *device = faulty_device(faulty);
    make_image(&round, device, node_bytes, codec);

    round.wreck.device = device;
    round.wreck.random = random;
    if (round.targets & HIT_SUPERBLOCKS)
        round.touched_replayed = false; /* the log is given up with them */
    wreck_image(&round.wreck, &round.layout, round.targets);
    look_only(device, &round.wreck);
    round.interrupted = test_random_below(random, 3) == 0;
    if (round.interrupted)
        repair_in_part(faulty, test_random_below(random, 60));
    struct told told = {0};
    repair(device, &told);

    struct told again = {0};
    struct kv_store *store;
    struct kv_check_result result;
    int err = try_open(device, false, &again, &store);
    KV_ASSERT(err == 0);
    const struct kv_check_options options = {.read_blobs = true, .report = note, .context = &again};
    err = kv_check(store, &options, &result);
    KV_ASSERT(err == 0);
    if (again.findings != again.blobs) {
        fprintf(stderr, "a second check finds more (targets %u)\n", round.targets);
        abort();
    }
    compare(&round, store, &told, totals);
    err = kv_close(store);
    KV_ASSERT(err == 0);
    totals->rounds++;
    totals->interrupted += round.interrupted;
    for (size_t i = 0; i < round.layout.leaf_count; i++)
        totals->leaves_hit += is_hit(&round.wreck, round.layout.leaves[i].at);
    model_layout_release(&round.layout);
    faulty_free(faulty);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* what was said before an abort is to be seen */
    const uint64_t seed = test_env("KVFS_SEED", 1);
    const unsigned first = (unsigned)test_env("KVFS_FIRST", 0);
    const unsigned rounds = (unsigned)test_env("KVFS_ROUNDS", 30);
    struct totals totals = {0};
    printf("seed: %llu (KVFS_SEED), rounds: %u (KVFS_ROUNDS)\n", (unsigned long long)seed, rounds);
    for (unsigned i = first; i < first + rounds; i++) {
        if (test_env("KVFS_VERBOSE", 0))
            printf("round %u\n", i);
        fflush(stdout);
        run_round(seed, i, &totals);
    }
    printf("salvage: %llu rounds, %llu interrupted once, %llu leaves destroyed; of %llu keys %llu "
           "kept, %llu as an older state had them, %llu gone; 0 wrong\n",
           (unsigned long long)totals.rounds, (unsigned long long)totals.interrupted,
           (unsigned long long)totals.leaves_hit, (unsigned long long)totals.keys,
           (unsigned long long)totals.kept, (unsigned long long)totals.older,
           (unsigned long long)totals.gone);
    return 0;
}
