/*
 * tests/faults/daemon/host_full.c: a sparse image on a host that runs out of room.
 *
 * Given      a store on a thin device (support_thin.h) and a model of what was written.
 * When       the host is full, over and over: keys are written until -ENOSPC, deleted, written
 *            again; the store is closed or abandoned and opened while there is no room; somebody
 *            else takes what is left; the host gets room again.
 * Then       no write needs room that was not promised; the store never turns read-only; a
 *            delete always works; each key has the value that the model says; the check is
 *            clean; with room, writing goes on without opening anew.
 *
 * usage: host_full [ROUNDS]; KVFS_SEED chooses the random numbers. Prints its counts.
 */
#include "kv/kv.h"
#include "support_store.h"
#include "support_thin.h"

#include "support_devices.h"

#include <inttypes.h>
#include <pthread.h>

#define IMAGE_BLOCKS 65536u /* 256 MiB */
#define KEY_COUNT    6000u
#define VALUE_MAX    60000u
#define WRITERS      3u
#define MIB_BLOCKS   256u
/* What the host gives in the end: less than the keys take. */
#define HOST_BLOCKS_MAX (24u * MIB_BLOCKS)

struct counts {
    uint64_t puts, refused_puts, deletes, opens, checks, unaided_rises;
};

struct scene {
    struct thin *thin;
    struct kv_store *store;
    struct test_random random;
    struct counts counts;
    uint32_t lengths[KEY_COUNT]; /* of the values that the model has; 0: none */
    uint32_t versions[KEY_COUNT];
    enum kv_sync_mode sync;
    bool background;
};

static void fill_value(uint8_t *bytes, uint32_t key, uint32_t version, uint32_t length)
{
    test_fill(bytes, length, (uint64_t)version << 32 | key);
}

/* Put the next version of a key; false: no room. The model learns what came of it. */
static bool put_key(struct scene *scene, uint32_t key, uint32_t length)
{
    static __thread uint8_t bytes[VALUE_MAX];
    char name[24];
    const size_t name_length = test_number_key(name, key);
    fill_value(bytes, key, scene->versions[key] + 1, length);
    const int err = kv_put(scene->store, name, name_length, bytes, length);
    KV_ASSERT(!err || err == -ENOSPC);
    KV_ASSERT(!kv_store_failure(scene->store));
    if (err)
        return false;
    scene->versions[key]++;
    scene->lengths[key] = length;
    return true;
}

static void delete_key(struct scene *scene, uint32_t key)
{
    char name[24];
    const size_t name_length = test_number_key(name, key);
    const int err = kv_del(scene->store, name, name_length);
    if (err)
        fprintf(stderr, "delete of key %u: %s\n", key, strerror(-err));
    KV_ASSERT(!err);
    scene->lengths[key] = 0;
}

static void verify(struct scene *scene)
{
    static uint8_t bytes[VALUE_MAX], wanted[VALUE_MAX];
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        char name[24];
        const size_t name_length = test_number_key(name, key);
        size_t length;
        const int err = kv_get(scene->store, name, name_length, bytes, sizeof bytes, &length);
        if (!scene->lengths[key]) {
            KV_ASSERT(err == -ENOENT);
            continue;
        }
        KV_ASSERT(!err);
        KV_ASSERT(length == scene->lengths[key]);
        fill_value(wanted, key, scene->versions[key], scene->lengths[key]);
        KV_ASSERT(!memcmp(bytes, wanted, length));
    }
}

static void check_clean(struct scene *scene)
{
    struct kv_check_result result;
    KV_ASSERT(test_check(scene->store, &result) == 0);
    KV_ASSERT(thin_take_unpromised(scene->thin) == 0);
    scene->counts.checks++;
}

static void open_store(struct scene *scene)
{
    const struct kv_open_options options = {.device = thin_device(scene->thin),
                                            .memory_budget_bytes = 8u << 20,
                                            .sync = scene->sync,
                                            .commit_interval_ms = 20,
                                            .no_background = !scene->background,
                                            .log = test_log_nothing};
    struct kv_error error = {""};
    const int err = kv_open(NULL, &options, &scene->store, &error);
    if (err)
        fprintf(stderr, "open: %s: %s\n", strerror(-err), error.text);
    KV_ASSERT(!err);
    scene->counts.opens++;
}

static uint32_t random_length(struct scene *scene)
{
    const bool small = test_random_below(&scene->random, 3) > 0;
    return 1 + (uint32_t)test_random_below(&scene->random, small ? 2000 : VALUE_MAX - 1);
}

/* Write until there is no room. */
static void fill_up(struct scene *scene)
{
    for (uint64_t written = 0;; written++) {
        const uint32_t key = (uint32_t)test_random_below(&scene->random, KEY_COUNT);
        if (!put_key(scene, key, random_length(scene))) {
            scene->counts.refused_puts++;
            return;
        }
        scene->counts.puts++;
        KV_ASSERT(written < 20 * KEY_COUNT); /* all of them take more than the host has */
    }
}

static void give_room(struct scene *scene, uint64_t blocks)
{
    const uint64_t used = thin_used(scene->thin);
    const uint64_t most = used < HOST_BLOCKS_MAX ? HOST_BLOCKS_MAX - used : 0;
    thin_set_room(scene->thin, kv_min_u64(blocks, most));
}

static void delete_some(struct scene *scene, unsigned one_in)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        if (scene->lengths[key] && !test_random_below(&scene->random, one_in)) {
            delete_key(scene, key);
            scene->counts.deletes++;
        }
    }
}

/* What is durable is all that was done: a crash then is compared with the same model. */
static void reopen(struct scene *scene)
{
    if (test_random_below(&scene->random, 2)) {
        KV_ASSERT(kv_sync(scene->store) == 0);
        kv_abandon(scene->store);
    } else {
        KV_ASSERT(kv_close(scene->store) == 0);
    }
    open_store(scene);
}

static void run_round(struct scene *scene)
{
    switch (test_random_below(&scene->random, 6)) {
    case 0:
        delete_some(scene, 8);
        break;
    case 1: /* space comes back without any room on the host */
        thin_set_room(scene->thin, 0);
        delete_some(scene, 2);
        KV_ASSERT(kv_checkpoint(scene->store) == 0);
        fill_up(scene);
        break;
    case 2:
        fill_up(scene);
        reopen(scene);
        break;
    case 3: /* somebody else's files */
        give_room(scene, test_random_below(&scene->random, 2 * MIB_BLOCKS));
        fill_up(scene);
        break;
    case 4: /* full, all deleted */
        fill_up(scene);
        delete_some(scene, 1);
        break;
    default: /* room again: it goes on as it is */
        fill_up(scene);
        if (thin_used(scene->thin) + 5 * MIB_BLOCKS <= HOST_BLOCKS_MAX) {
            give_room(scene, (5 + test_random_below(&scene->random, 5)) * MIB_BLOCKS);
            KV_ASSERT(put_key(scene, 0, 20000));
            scene->counts.unaided_rises++;
        }
        fill_up(scene);
        break;
    }
    KV_ASSERT(thin_take_unpromised(scene->thin) == 0);
    verify(scene);
}

static struct scene *scene_new(uint64_t seed)
{
    struct scene *scene = calloc(1, sizeof *scene);
    KV_ASSERT(scene != NULL);
    scene->random.state = seed;
    scene->thin =
        thin_new(memory_device_new(IMAGE_BLOCKS),
                 test_random_below(&scene->random, 2) ? THIN_TAKES_REST : THIN_TAKES_NOTHING);
    scene->sync = (enum kv_sync_mode)test_random_below(&scene->random, 3);
    scene->background = test_random_below(&scene->random, 2);
    const uint64_t log_mib = (uint64_t)1 << test_random_below(&scene->random, 6);
    const uint32_t node_bytes = 4096u << test_random_below(&scene->random, 3);
    test_create_on(thin_device(scene->thin), node_bytes, KV_CODEC_LZ4, log_mib << 20);
    printf("log %" PRIu64 " MiB, pages of %u, %" PRIu64 " KiB on the host after mkfs\n", log_mib,
           node_bytes, thin_used(scene->thin) * 4);
    (void)thin_take_unpromised(scene->thin); /* mkfs may fail for want of room */
    thin_set_room(scene->thin, (4 + test_random_below(&scene->random, 6)) * MIB_BLOCKS);
    return scene;
}

static void scene_free(struct scene *scene)
{
    thin_free(scene->thin);
    free(scene);
}

static void alone(uint64_t seed, uint64_t rounds, struct counts *total)
{
    struct scene *scene = scene_new(seed);
    open_store(scene);
    for (uint64_t round = 0; round < rounds; round++)
        run_round(scene);
    check_clean(scene);
    KV_ASSERT(kv_close(scene->store) == 0);
    open_store(scene);
    verify(scene);
    KV_ASSERT(kv_close(scene->store) == 0);
    KV_ASSERT(thin_refusals(scene->thin) > 0);
    total->puts += scene->counts.puts;
    total->refused_puts += scene->counts.refused_puts;
    total->deletes += scene->counts.deletes;
    total->opens += scene->counts.opens;
    total->checks += scene->counts.checks;
    total->unaided_rises += scene->counts.unaided_rises;
    scene_free(scene);
}

/* ---- several writers while the room comes and goes -------------------------------- */

struct writer {
    pthread_t thread;
    struct scene *scene;
    struct test_random random;
    uint32_t first; /* its keys: first, first + WRITERS, ... */
    uint64_t steps, puts, refused_puts;
};

static void *write_some(void *context)
{
    struct writer *writer = context;
    for (uint64_t i = 0; i < writer->steps; i++) {
        const uint32_t key = writer->first + WRITERS * (uint32_t)test_random_below(
                                                           &writer->random, KEY_COUNT / WRITERS);
        const uint32_t length = 1 + (uint32_t)test_random_below(&writer->random, VALUE_MAX - 1);
        const size_t choice = test_random_below(&writer->random, 10);
        if (choice == 0)
            KV_ASSERT(kv_sync(writer->scene->store) == 0);
        else if (choice <= 3)
            delete_key(writer->scene, key);
        else if (put_key(writer->scene, key, length))
            writer->puts++;
        else
            writer->refused_puts++;
    }
    return NULL;
}

static void together(uint64_t seed, uint64_t steps, struct counts *total)
{
    struct scene *scene = scene_new(seed);
    struct writer writers[WRITERS];
    scene->background = true;
    open_store(scene);
    for (unsigned turn = 0; turn < 4; turn++) {
        thin_set_room(scene->thin, turn % 2 ? 0 : 6 * MIB_BLOCKS);
        for (unsigned i = 0; i < WRITERS; i++) {
            writers[i] = (struct writer){
                .scene = scene, .first = i, .steps = steps, .random.state = seed + turn + 31 * i};
            KV_ASSERT(!pthread_create(&writers[i].thread, NULL, write_some, &writers[i]));
        }
        for (unsigned i = 0; i < WRITERS; i++) {
            KV_ASSERT(!pthread_join(writers[i].thread, NULL));
            total->puts += writers[i].puts;
            total->refused_puts += writers[i].refused_puts;
        }
        verify(scene);
        reopen(scene);
    }
    check_clean(scene);
    total->opens += scene->counts.opens;
    total->checks += scene->counts.checks;
    KV_ASSERT(kv_close(scene->store) == 0);
    scene_free(scene);
}

int main(int argc, char **argv)
{
    const uint64_t seed = test_env("KVFS_SEED", 1);
    setlinebuf(stdout);
    const uint64_t scenes = argc > 1 ? strtoull(argv[1], NULL, 10) : 4;
    struct counts total = {0};
    printf("KVFS_SEED=%" PRIu64 "\n", seed);
    for (uint64_t i = 0; i < scenes; i++) {
        alone(seed * 1000 + i, 10, &total);
        if (i % 2 == 0)
            together(seed * 1000 + i, 120, &total);
    }
    printf("host_full: %" PRIu64 " scenes, %" PRIu64 " puts, %" PRIu64 " refused, %" PRIu64
           " deletes, %" PRIu64 " opens, %" PRIu64 " checks, %" PRIu64
           " times room again: 0 violations\n",
           scenes, total.puts, total.refused_puts, total.deletes, total.opens, total.checks,
           total.unaided_rises);
    return 0;
}
