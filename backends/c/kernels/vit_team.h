/* Workers that compute one inference together.
 *
 * A model for several threads is one function that every worker runs from start to end. A kernel call
 * computes a worker's own piece of the result (`part` of `parts` in the kernel's shape), and behind
 * every call the workers wait for each other. What an element becomes does not depend on the worker
 * that computes it, so results are the same for any number of workers.
 *
 * Compiled with -DVIT_THREADS=1 there are no threads, and nothing of the operating system is used. */
#ifndef VIT_TEAM_H
#define VIT_TEAM_H

#include <stdint.h>

typedef struct vit_team vit_team;

/* What a worker does: all calls of a model, for its part of `parts`. */
typedef void (*vit_work)(const void *model, vit_team *team, int32_t part, int32_t parts);

/* Runs `work` on up to `threads` workers, of which the caller is one, and returns when all are done.
 * Where the system gives no more threads, fewer workers do the same. */
void vit_team_run(int32_t threads, vit_work work, const void *model);

/* Waits until all workers are here. */
void vit_team_wait(vit_team *team);

#endif
