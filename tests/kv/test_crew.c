/*
 * tests/kv/test_crew.c: each item is worked on once, whoever helps.
 */
#include "kv/crew.h"
#include "tests/run.h"

#include <pthread.h>
#include <stdatomic.h>

#define ITEMS   40u
#define CALLERS 3u
#define ROUNDS  200u

struct task {
    struct kv_crew *crew;
    _Atomic unsigned done[ITEMS];
};

static void work(void *context, size_t item)
{
    struct task *const task = context;
    (void)atomic_fetch_add(&task->done[item], 1);
}

static void *call(void *context)
{
    struct task task = {.crew = context};
    for (unsigned round = 0; round < ROUNDS; round++) {
        const size_t count = round % (ITEMS + 1);
        for (size_t i = 0; i < ITEMS; i++)
            atomic_store(&task.done[i], 0);
        kv_crew_do(task.crew, work, &task, count);
        for (size_t i = 0; i < ITEMS; i++)
            ck_assert_uint_eq(atomic_load(&task.done[i]), i < count);
    }
    return NULL;
}

START_TEST(each_item_is_done_once_when_the_call_returns)
{
    struct kv_crew *crew;
    pthread_t callers[CALLERS];
    ck_assert_int_eq(kv_crew_new(&crew), 0);
    for (unsigned i = 0; i < CALLERS; i++)
        ck_assert_int_eq(pthread_create(&callers[i], NULL, call, crew), 0);
    for (unsigned i = 0; i < CALLERS; i++)
        pthread_join(callers[i], NULL);
    kv_crew_free(crew);
    (void)call(NULL); /* alone */
    kv_crew_free(NULL);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("crew");
    TCase *const tcase = tcase_create("crew");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, each_item_is_done_once_when_the_call_returns);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
