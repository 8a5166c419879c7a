/* kernel: the workers of a model for several threads, and the barrier between its calls
 * method: threads are started for an inference and end with it, so that nothing is kept between
 *         inferences. The barrier is a counter and a round number; who waits looks at the round for a
 *         while, then lets others run
 * scratch: none
 */
#include "vit_team.h"

/* Workers of a team at most. */
enum { VIT_MOST_THREADS = 64 };

#if defined(VIT_THREADS) && VIT_THREADS == 1

struct vit_team {
    int unused;
};

void vit_team_run(int32_t threads, vit_work work, const void *model)
{
    (void)threads;
    work(model, 0, 0, 1);
}

void vit_team_wait(vit_team *team)
{
    (void)team;
}

#else

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* How often a waiting worker looks at the round before it lets others run: some microseconds. */
enum { LOOKS = 1024 };

struct vit_team {
    atomic_int arrived, round;
    atomic_int parts; /* 0 until all threads are started */
    vit_work work;
    const void *model;
};

typedef struct {
    vit_team *team;
    int32_t part;
} worker;

static void relax(int32_t look)
{
    if (look >= LOOKS) {
        sched_yield();
        return;
    }
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void vit_team_wait(vit_team *team)
{
    const int round = atomic_load_explicit(&team->round, memory_order_relaxed);
    const int parts = atomic_load_explicit(&team->parts, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == parts - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->round, round + 1, memory_order_release);
        return;
    }
    int32_t look = 0;
    while (atomic_load_explicit(&team->round, memory_order_acquire) == round) {
        relax(look);
        look += look < LOOKS;
    }
}

static void *start(void *argument)
{
    const worker *const own = (const worker *)argument;
    vit_team *const team = own->team;
    int parts = 0;
    int32_t look = 0;
    while ((parts = atomic_load_explicit(&team->parts, memory_order_acquire)) == 0) {
        relax(look);
        look += look < LOOKS;
    }
    team->work(team->model, team, own->part, parts);
    return 0;
}

void vit_team_run(int32_t threads, vit_work work, const void *model)
{
    vit_team team = {.work = work, .model = model};
    pthread_t handles[VIT_MOST_THREADS];
    worker workers[VIT_MOST_THREADS];
    int32_t parts = 1;
    for (; parts < threads && parts < VIT_MOST_THREADS; ++parts) {
        workers[parts].team = &team;
        workers[parts].part = parts;
        if (pthread_create(&handles[parts], 0, start, &workers[parts]) != 0) {
            break;
        }
    }
    atomic_store_explicit(&team.parts, parts, memory_order_release);
    work(model, &team, 0, parts);
    for (int32_t i = 1; i < parts; ++i) {
        pthread_join(handles[i], 0);
    }
}

#endif
