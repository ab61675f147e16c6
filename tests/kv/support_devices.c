/*
 * tests/kv/support_devices.c: devices for tests, in memory, recording, and failing.
 *
 * Owns       block contents: a memory device those written to it, a recorder those of its log.
 * Invariant  a block's bytes never change once they are in a table, so that tables may share
 *            them: a write puts fresh bytes in their place. NULL in a table stands for zeros.
 * Locks      one mutex in each device guards its tables and log.
 */
#include "support_devices.h"
#include "support_store.h"

#include <pthread.h>

/* ---- block tables ------------------------------------------------------- */

static void *must(void *memory)
{
    KV_ASSERT(memory != NULL);
    return memory;
}

static uint8_t *copy_block(const void *bytes)
{
    return memcpy(must(malloc(KV_BLOCK_BYTES)), bytes, KV_BLOCK_BYTES);
}

static const uint8_t **copy_table(const uint8_t *const *table, uint64_t block_count)
{
    const size_t bytes = (size_t)block_count * sizeof *table;
    return memcpy(must(malloc(bytes)), table, bytes);
}

static void read_table(const uint8_t *const *table, const struct kv_io *io)
{
    for (uint32_t i = 0; i < io->block_count; i++) {
        uint8_t *to = (uint8_t *)io->buf + (size_t)i * KV_BLOCK_BYTES;
        const uint8_t *from = table[io->block + i];
        if (from)
            memcpy(to, from, KV_BLOCK_BYTES);
        else
            memset(to, 0, KV_BLOCK_BYTES);
    }
}

static const void *io_block(const struct kv_io *io, uint32_t index)
{
    return (const uint8_t *)io->buf + (size_t)index * KV_BLOCK_BYTES;
}

/* ---- memory ------------------------------------------------------------- */

struct memory_device {
    struct kv_device base;
    pthread_mutex_t mutex;
    const uint8_t **table; /* mutex */
    uint8_t **owned;       /* mutex; NULL, or the block's bytes in the table */
};

static void write_memory(struct memory_device *memory, const struct kv_io *io)
{
    for (uint32_t i = 0; i < io->block_count; i++) {
        uint8_t **owned = &memory->owned[io->block + i];
        if (*owned)
            memcpy(*owned, io_block(io, i), KV_BLOCK_BYTES);
        else
            *owned = copy_block(io_block(io, i));
        memory->table[io->block + i] = *owned;
    }
}

static int submit_memory(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    (void)flush; /* always durable */
    struct memory_device *memory = (struct memory_device *)device;
    pthread_mutex_lock(&memory->mutex);
    for (size_t i = 0; i < io_count; i++) {
        if (ios[i].kind == KV_IO_READ)
            read_table(memory->table, &ios[i]);
        else
            write_memory(memory, &ios[i]);
        ios[i].result = 0;
    }
    pthread_mutex_unlock(&memory->mutex);
    return 0;
}

static int discard_memory(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct memory_device *memory = (struct memory_device *)device;
    pthread_mutex_lock(&memory->mutex);
    for (uint64_t i = block; i < block + block_count; i++) {
        free(memory->owned[i]);
        memory->owned[i] = NULL;
        memory->table[i] = NULL;
    }
    pthread_mutex_unlock(&memory->mutex);
    return 0;
}

static void close_memory(struct kv_device *device)
{
    struct memory_device *memory = (struct memory_device *)device;
    for (uint64_t i = 0; i < memory->base.block_count; i++)
        free(memory->owned[i]);
    free(memory->owned);
    free(memory->table);
    pthread_mutex_destroy(&memory->mutex);
    free(memory);
}

static const struct kv_device_ops memory_ops = {
    .submit = submit_memory,
    .discard = discard_memory,
    .close = close_memory,
};

/* Takes the table over. */
static struct memory_device *new_memory(const uint8_t **table, uint64_t block_count)
{
    struct memory_device *memory = must(calloc(1, sizeof *memory));
    memory->base.ops = &memory_ops;
    memory->base.block_count = block_count;
    memory->base.direct_io = true;
    memory->table = table;
    memory->owned = must(calloc((size_t)block_count, sizeof *memory->owned));
    pthread_mutex_init(&memory->mutex, NULL);
    return memory;
}

struct kv_device *memory_device_new(uint64_t block_count)
{
    const uint8_t **table = must(calloc((size_t)block_count, sizeof *table));
    return &new_memory(table, block_count)->base;
}

/* ---- recorder ----------------------------------------------------------- */

struct recorder {
    struct kv_device device;
    struct memory_device *base; /* the state before the first event */
    pthread_mutex_t mutex;
    const uint8_t **table;         /* mutex; the state after the last event */
    struct recorded_event *events; /* mutex; each owns its bytes */
    size_t event_count;            /* mutex */
    size_t event_capacity;         /* mutex */
};

/* Under the mutex. */
static void record(struct recorder *recorder, struct recorded_event event)
{
    if (recorder->event_count == recorder->event_capacity) {
        recorder->event_capacity = recorder->event_capacity ? recorder->event_capacity * 2 : 256;
        recorder->events =
            must(realloc(recorder->events, recorder->event_capacity * sizeof *recorder->events));
    }
    recorder->events[recorder->event_count++] = event;
    if (!event.is_flush)
        recorder->table[event.block] = event.bytes;
}

static int submit_recorder(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct recorder *recorder = (struct recorder *)device;
    pthread_mutex_lock(&recorder->mutex);
    for (size_t i = 0; i < io_count; i++) {
        ios[i].result = 0;
        if (ios[i].kind == KV_IO_READ) {
            read_table(recorder->table, &ios[i]);
            continue;
        }
        for (uint32_t b = 0; b < ios[i].block_count; b++)
            record(recorder, (struct recorded_event){.block = ios[i].block + b,
                                                     .bytes = copy_block(io_block(&ios[i], b))});
    }
    if (flush)
        record(recorder, (struct recorded_event){.is_flush = true});
    pthread_mutex_unlock(&recorder->mutex);
    return 0;
}

static int discard_recorder(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct recorder *recorder = (struct recorder *)device;
    pthread_mutex_lock(&recorder->mutex);
    for (uint64_t i = block; i < block + block_count; i++) {
        if (recorder->table[i])
            record(recorder, (struct recorded_event){.block = i});
    }
    pthread_mutex_unlock(&recorder->mutex);
    return 0;
}

static void close_recorder(struct kv_device *device)
{
    (void)device; /* recorder_free does it */
}

static const struct kv_device_ops recorder_ops = {
    .submit = submit_recorder,
    .discard = discard_recorder,
    .close = close_recorder,
};

struct recorder *recorder_new(struct kv_device *base)
{
    KV_ASSERT(base->ops == &memory_ops);
    struct recorder *recorder = must(calloc(1, sizeof *recorder));
    recorder->base = (struct memory_device *)base;
    recorder->device.ops = &recorder_ops;
    recorder->device.block_count = base->block_count;
    recorder->device.direct_io = true;
    recorder->table = copy_table(recorder->base->table, base->block_count);
    pthread_mutex_init(&recorder->mutex, NULL);
    return recorder;
}

void recorder_free(struct recorder *recorder)
{
    if (!recorder)
        return;
    for (size_t i = 0; i < recorder->event_count; i++)
        free((void *)recorder->events[i].bytes); /* const for readers, ours to free */
    free(recorder->events);
    free(recorder->table);
    pthread_mutex_destroy(&recorder->mutex);
    kv_device_close(&recorder->base->base);
    free(recorder);
}

struct kv_device *recorder_device(struct recorder *recorder)
{
    return &recorder->device;
}

size_t recorder_event_count(struct recorder *recorder)
{
    pthread_mutex_lock(&recorder->mutex);
    const size_t count = recorder->event_count;
    pthread_mutex_unlock(&recorder->mutex);
    return count;
}

struct recorded_event recorder_event(struct recorder *recorder, size_t index)
{
    pthread_mutex_lock(&recorder->mutex);
    KV_ASSERT(index < recorder->event_count);
    const struct recorded_event event = recorder->events[index];
    pthread_mutex_unlock(&recorder->mutex);
    return event;
}

/* ---- crashes ------------------------------------------------------------ */

void crash_walk_init(struct crash_walk *walk, struct recorder *recorder)
{
    *walk = (struct crash_walk){.recorder = recorder};
    walk->durable = copy_table(recorder->base->table, recorder->device.block_count);
}

void crash_walk_release(struct crash_walk *walk)
{
    free(walk->durable);
    *walk = (struct crash_walk){.recorder = NULL};
}

void crash_walk_advance(struct crash_walk *walk, size_t position)
{
    KV_ASSERT(position >= walk->position);
    KV_ASSERT(position <= walk->recorder->event_count);
    const struct recorded_event *events = walk->recorder->events;

    for (; walk->position < position; walk->position++) {
        if (!events[walk->position].is_flush)
            continue;
        for (; walk->flushed_position < walk->position; walk->flushed_position++) {
            const struct recorded_event *event = &events[walk->flushed_position];
            walk->durable[event->block] = event->bytes;
        }
        walk->flushed_position++; /* the flush itself */
    }
}

size_t crash_walk_pending(const struct crash_walk *walk)
{
    return walk->position - walk->flushed_position;
}

void crash_tear(const uint8_t *old, const uint8_t *new, const struct crash_choice *choice,
                uint8_t *out)
{
    KV_ASSERT(choice->torn_bytes % 512 == 0 && choice->torn_bytes <= KV_BLOCK_BYTES);
    const size_t kept = choice->torn_bytes;
    if (new)
        memcpy(out, new, kept);
    else
        memset(out, 0, kept);

    if (choice->rest == TORN_REST_OLD && old) {
        memcpy(out + kept, old + kept, KV_BLOCK_BYTES - kept);
    } else if (choice->rest == TORN_REST_RANDOM) {
        struct test_random random = {choice->random_seed};
        for (size_t i = kept; i < KV_BLOCK_BYTES; i += sizeof(uint64_t)) {
            const uint64_t word = test_random_next(&random);
            memcpy(out + i, &word, sizeof word);
        }
    } else {
        memset(out + kept, 0, KV_BLOCK_BYTES - kept);
    }
}

/* Make the block's bytes those of a torn write over what the table holds. */
static void tear(struct memory_device *state, const struct recorded_event *event,
                 const struct crash_choice *choice)
{
    uint8_t *bytes = must(malloc(KV_BLOCK_BYTES));
    crash_tear(state->table[event->block], event->bytes, choice, bytes);
    free(state->owned[event->block]);
    state->owned[event->block] = bytes;
    state->table[event->block] = bytes;
}

struct kv_device *crash_walk_state(const struct crash_walk *walk, const struct crash_choice *choice)
{
    const uint64_t block_count = walk->recorder->device.block_count;
    struct memory_device *state = new_memory(copy_table(walk->durable, block_count), block_count);

    const size_t pending = crash_walk_pending(walk);
    KV_ASSERT(!choice->torn || choice->torn_index < pending);
    for (size_t i = 0; i < pending; i++) {
        const struct recorded_event *event = &walk->recorder->events[walk->flushed_position + i];
        if (choice->kept && !choice->kept[i])
            continue;
        if (choice->torn && choice->torn_index == i) {
            tear(state, event, choice);
            continue;
        }
        free(state->owned[event->block]); /* an older write that was torn */
        state->owned[event->block] = NULL;
        state->table[event->block] = event->bytes;
    }
    return &state->base;
}

/* ---- faults ------------------------------------------------------------- */

struct faulty {
    struct kv_device device;
    struct kv_device *below;
    pthread_mutex_t mutex;
    struct fault fault; /* mutex */
    uint64_t seen;      /* mutex; targets since it was armed */
    uint64_t failures;  /* mutex */
};

/* Does the next request of this kind fail? The fault that it fails with goes to *fault. */
static bool take_fault(struct faulty *faulty, unsigned target, struct fault *fault)
{
    bool fails = false;
    pthread_mutex_lock(&faulty->mutex);
    if (faulty->fault.targets & target) {
        fails = faulty->fault.lasting ? faulty->seen >= faulty->fault.after
                                      : faulty->seen == faulty->fault.after;
        faulty->seen++;
        faulty->failures += fails;
        *fault = faulty->fault;
    }
    pthread_mutex_unlock(&faulty->mutex);
    return fails;
}

static void do_io(struct faulty *faulty, struct kv_io *io)
{
    struct fault fault;
    const unsigned target = io->kind == KV_IO_READ ? FAULT_READS : FAULT_WRITES;
    if (!take_fault(faulty, target, &fault)) {
        io->result = kv_device_submit(faulty->below, io, 1, false);
        return;
    }
    struct kv_io partial = *io;
    partial.done = NULL;
    partial.block_count = (uint32_t)kv_min_u64(fault.partial_blocks, io->block_count - 1);
    if (partial.block_count)
        (void)!kv_device_submit(faulty->below, &partial, 1, false); /* it fails either way */
    io->result = fault.error;
}

static int submit_faulty(struct kv_device *device, struct kv_io *ios, size_t io_count, bool flush)
{
    struct faulty *faulty = (struct faulty *)device;
    int err = 0;
    for (size_t i = 0; i < io_count; i++) {
        do_io(faulty, &ios[i]);
        if (!err)
            err = ios[i].result;
    }
    struct fault fault;
    if (err || !flush)
        return err;
    if (take_fault(faulty, FAULT_FLUSHES, &fault))
        return fault.error;
    return kv_device_flush(faulty->below);
}

static int discard_faulty(struct kv_device *device, uint64_t block, uint64_t block_count)
{
    struct faulty *faulty = (struct faulty *)device;
    return kv_device_discard(faulty->below, block, block_count);
}

static void close_faulty(struct kv_device *device)
{
    (void)device; /* faulty_free does it */
}

static const struct kv_device_ops faulty_ops = {
    .submit = submit_faulty,
    .discard = discard_faulty,
    .close = close_faulty,
};

struct faulty *faulty_new(struct kv_device *below)
{
    struct faulty *faulty = must(calloc(1, sizeof *faulty));
    faulty->device.ops = &faulty_ops;
    faulty->device.block_count = below->block_count;
    faulty->device.direct_io = below->direct_io;
    faulty->below = below;
    pthread_mutex_init(&faulty->mutex, NULL);
    return faulty;
}

void faulty_free(struct faulty *faulty)
{
    if (!faulty)
        return;
    kv_device_close(faulty->below);
    pthread_mutex_destroy(&faulty->mutex);
    free(faulty);
}

struct kv_device *faulty_device(struct faulty *faulty)
{
    return &faulty->device;
}

void faulty_arm(struct faulty *faulty, struct fault fault)
{
    pthread_mutex_lock(&faulty->mutex);
    faulty->fault = fault;
    faulty->seen = 0;
    faulty->failures = 0;
    pthread_mutex_unlock(&faulty->mutex);
}

uint64_t faulty_failures(struct faulty *faulty)
{
    pthread_mutex_lock(&faulty->mutex);
    const uint64_t failures = faulty->failures;
    pthread_mutex_unlock(&faulty->mutex);
    return failures;
}
