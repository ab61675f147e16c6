/*
 * bench/measure.c: what every benchmark needs to be repeatable and honest.
 *
 * Owns       nothing that outlives a call, but for the samples of measure_latencies.
 * Invariant  the same seed gives the same contents and the same order on every machine.
 */
#include "bench/measure.h"

#include <ctype.h>
#include <inttypes.h>
#include <pthread.h>
#include <time.h>

static uint64_t clock_ns(clockid_t which)
{
    struct timespec now;
    if (clock_gettime(which, &now))
        abort(); /* cannot fail for the clocks that are asked for */
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t measure_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

void measure_clock_start(struct measure_clock *clock)
{
    clock->cpu_begun_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    clock->begun_ns = measure_now_ns();
}

uint64_t measure_clock_stop(struct measure_clock *clock)
{
    const uint64_t took_ns = measure_now_ns() - clock->begun_ns;
    clock->elapsed_ns += took_ns;
    clock->cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - clock->cpu_begun_ns;
    return took_ns;
}

uint64_t measure_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void measure_fill(void *buf, size_t length, uint64_t seed, unsigned compressible_percent)
{
    const size_t constant_words = compressible_percent * 8u / 100u;
    uint8_t *out = buf;
    for (size_t at = 0; at < length; at += 8) {
        const size_t word = at / 8;
        const uint64_t n =
            word % 8 < constant_words ? 0x6b76667320202020u : measure_mix(seed + word);
        const size_t left = length - at;
        memcpy(out + at, &n, left < 8 ? left : 8);
    }
}

uint64_t *measure_shuffled(uint64_t count, uint64_t seed)
{
    uint64_t *order = calloc(count ? count : 1, sizeof *order);
    if (!order)
        return NULL;
    for (uint64_t i = 0; i < count; i++)
        order[i] = i;
    for (uint64_t i = count; i > 1; i--) {
        const uint64_t other = measure_mix(seed ^ (i * 0x2545f4914f6cdd1du)) % i;
        const uint64_t held = order[i - 1];
        order[i - 1] = order[other];
        order[other] = held;
    }
    return order;
}

int measure_parse_size(const char *text, uint64_t *bytes)
{
    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    char *end;
    errno = 0;
    const unsigned long long number = strtoull(text, &end, 10);
    if (errno)
        return -ERANGE;

    static const char suffixes[] = "KMGT";
    uint64_t unit = 1;
    if (*end) {
        const char *suffix = strchr(suffixes, toupper((unsigned char)*end));
        if (!suffix || end[1])
            return -EINVAL;
        unit <<= 10 * (unsigned)(suffix - suffixes + 1);
    }
    return kv_mul_u64(number, unit, bytes) ? -ERANGE : 0;
}

int measure_parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *number)
{
    const int err = measure_parse_size(text, number);
    if (err)
        return err;
    return *number < least || *number > most ? -ERANGE : 0;
}

int measure_parse_unsigned(const char *text, unsigned least, unsigned most, unsigned *number)
{
    uint64_t wide = 0;
    const int err = measure_parse_number(text, least, most, &wide);
    if (!err)
        *number = (unsigned)wide;
    return err;
}

static int reserve_samples(struct measure_latencies *latencies, size_t more)
{
    const size_t needed = latencies->count + more;
    if (needed <= latencies->cap)
        return 0;
    size_t cap = latencies->cap ? latencies->cap : 1024;
    while (cap < needed)
        cap *= 2;
    uint64_t *ns = reallocarray(latencies->ns, cap, sizeof *ns);
    if (!ns)
        return -ENOMEM;
    latencies->ns = ns;
    latencies->cap = cap;
    return 0;
}

int measure_latencies_add(struct measure_latencies *latencies, uint64_t ns)
{
    const int err = reserve_samples(latencies, 1);
    if (err)
        return err;
    latencies->ns[latencies->count++] = ns;
    return 0;
}

int measure_latencies_merge(struct measure_latencies *to, struct measure_latencies *from)
{
    const int err = reserve_samples(to, from->count);
    if (err)
        return err;
    if (from->count)
        memcpy(to->ns + to->count, from->ns, from->count * sizeof *from->ns);
    to->count += from->count;
    measure_latencies_release(from);
    return 0;
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

void measure_latencies_sort(struct measure_latencies *latencies)
{
    if (latencies->count)
        qsort(latencies->ns, latencies->count, sizeof *latencies->ns, compare_u64);
}

uint64_t measure_latencies_at(const struct measure_latencies *latencies, unsigned permille)
{
    if (!latencies->count)
        return 0;
    const size_t at = latencies->count * permille / 1000;
    return latencies->ns[at < latencies->count ? at : latencies->count - 1];
}

uint64_t measure_latencies_sum(const struct measure_latencies *latencies)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < latencies->count; i++)
        sum += latencies->ns[i];
    return sum;
}

void measure_latencies_release(struct measure_latencies *latencies)
{
    free(latencies->ns);
    *latencies = (struct measure_latencies)MEASURE_LATENCIES_INIT;
}

static int compare_double(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double measure_median(double *values, size_t count)
{
    if (!count)
        return 0;
    qsort(values, count, sizeof *values, compare_double);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* One thread of measure_parallel. */
struct runner {
    pthread_t id;
    pthread_barrier_t *start; /* everyone and the caller meet here */
    measure_work_fn *work;
    void *context;
    unsigned index;
    uint64_t begun_ns, ended_ns; /* these and result: read by the caller after the join */
    int result;
};

static void *run_work(void *arg)
{
    struct runner *runner = arg;
    (void)pthread_barrier_wait(runner->start); /* tells who was last; nobody asks */
    runner->begun_ns = measure_now_ns();
    runner->result = runner->work(runner->context, runner->index);
    runner->ended_ns = measure_now_ns();
    return NULL;
}

int measure_parallel(unsigned thread_count, measure_work_fn *work, void *context,
                     uint64_t *elapsed_ns)
{
    KV_ASSERT(thread_count > 0);
    struct runner *runners = calloc(thread_count, sizeof *runners);
    if (!runners)
        return -ENOMEM;
    pthread_barrier_t start;
    int err = -pthread_barrier_init(&start, NULL, thread_count + 1);
    if (err)
        goto out;
    for (unsigned i = 0; i < thread_count; i++) {
        runners[i] = (struct runner){.start = &start, .work = work, .context = context, .index = i};
        if (pthread_create(&runners[i].id, NULL, run_work, &runners[i])) {
            /* Those already started wait at a barrier that can never be full. */
            fputs("cannot start the threads asked for\n", stderr);
            exit(EXIT_FAILURE);
        }
    }

    (void)pthread_barrier_wait(&start);
    uint64_t begun_ns = UINT64_MAX, ended_ns = 0;
    for (unsigned i = 0; i < thread_count; i++) {
        (void)pthread_join(runners[i].id, NULL); /* each is joined once and is not us */
        begun_ns = kv_min_u64(begun_ns, runners[i].begun_ns);
        ended_ns = kv_max_u64(ended_ns, runners[i].ended_ns);
        if (!err)
            err = runners[i].result;
    }
    *elapsed_ns = ended_ns - begun_ns;
    (void)pthread_barrier_destroy(&start);
out:
    free(runners);
    return err;
}

void measure_print_json_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

/* The number behind `name` at the start of a line of /proc/PID/FILE; 0 when not there. */
static uint64_t read_process_number(long pid, const char *file, const char *name)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%ld/%s", pid, file); /* fits: two numbers' worth */
    FILE *in = fopen(path, "re");
    if (!in)
        return 0;
    uint64_t number = 0;
    char line[256];
    const size_t name_len = strlen(name);
    while (fgets(line, sizeof line, in)) {
        if (strncmp(line, name, name_len) == 0 && line[name_len] == ':') {
            number = strtoull(line + name_len + 1, NULL, 10);
            break;
        }
    }
    (void)fclose(in); /* only read */
    return number;
}

uint64_t measure_process_memory(long pid, const char *name)
{
    return read_process_number(pid, "status", name) * 1024;
}

uint64_t measure_process_written(long pid)
{
    return read_process_number(pid, "io", "write_bytes");
}
