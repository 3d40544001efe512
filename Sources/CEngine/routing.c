// Expert choice (SPEC 2.5) and the sorting of (token, slot) pairs by expert. See quire_engine.h.
#include <math.h>
#include <string.h>

#include "engine_jobs.h"

// Keeps the best groups: choice of all others becomes -inf. Ties: the lower group.
static void limit_groups(const qe_route *job, float *choice) {
  qk_int size = job->experts / job->groups;
  float scores[QE_MAX_GROUPS];
  bool kept[QE_MAX_GROUPS] = {false};
  for (qk_int g = 0; g < job->groups; g++) {
    float first = -INFINITY, second = -INFINITY;
    for (qk_int e = g * size; e < (g + 1) * size; e++) {
      if (choice[e] > first) {
        second = first;
        first = choice[e];
      } else if (choice[e] > second) {
        second = choice[e];
      }
    }
    // A group of one expert has no second best.
    scores[g] = job->selection == QE_GROUP_BIASED && size > 1 ? first + second : first;
  }
  for (qk_int k = 0; k < job->groups_kept; k++) {
    qk_int best = -1;
    for (qk_int g = 0; g < job->groups; g++) {
      if (!kept[g] && (best < 0 || scores[g] > scores[best])) best = g;
    }
    if (best >= 0) kept[best] = true;
  }
  for (qk_int g = 0; g < job->groups; g++) {
    if (kept[g]) continue;
    for (qk_int e = g * size; e < (g + 1) * size; e++) choice[e] = -INFINITY;
  }
}

// The `chosen` largest, best first; ties: the lower id. A NaN is never larger; with too few comparable values the lowest free ids fill up.
static void choose(const qe_route *job, const float *choice, int32_t *slots) {
  bool taken[QE_MAX_EXPERTS] = {false};
  for (qk_int k = 0; k < job->chosen; k++) {
    qk_int best = -1;
    for (qk_int e = 0; e < job->experts; e++) {
      if (!taken[e] && (best < 0 || choice[e] > choice[best] || (choice[best] != choice[best] && choice[e] == choice[e]))) best = e;
    }
    slots[k] = (int32_t)best;
    taken[best] = true;
  }
}

typedef struct {
  const qk_kernels *kernels;
  const qe_route *job;
} route_context;

static void route_token(void *context, qk_int t, qk_int worker) {
  (void)worker;
  const route_context *c = context;
  const qe_route *job = c->job;
  float *scores = job->logits + t * job->experts;
  if (job->sigmoid) {
    c->kernels->sigmoid(scores, job->experts);
  } else {
    c->kernels->softmax(scores, job->experts);
  }
  float choice[QE_MAX_EXPERTS];
  for (qk_int e = 0; e < job->experts; e++) choice[e] = job->bias ? scores[e] + job->bias[e] : scores[e];
  if (job->selection != QE_GREEDY && job->groups > 1) limit_groups(job, choice);
  int32_t *slots = job->slots + t * job->chosen;
  float *weights = job->weights + t * job->chosen;
  choose(job, choice, slots);
  float sum = 0;
  for (qk_int k = 0; k < job->chosen; k++) {
    weights[k] = scores[slots[k]];
    sum += weights[k];
  }
  if (job->normalize) {
    for (qk_int k = 0; k < job->chosen; k++) weights[k] = weights[k] / (sum + 1e-20f);
  }
  for (qk_int k = 0; k < job->chosen; k++) weights[k] *= job->scale;
}

void qe_run_route(qe_workers workers, const qe_route *job) {
  route_context context = {workers.kernels, job};
  qe_run_rows(workers, route_token, &context, job->count, job->experts * (job->chosen + 4));
}

void qe_group_by_expert(const qe_grouping *job) {
  qk_int pairs = job->count * job->chosen;
  memset(job->first, 0, (size_t)(job->experts + 1) * sizeof(int32_t));
  for (qk_int p = 0; p < pairs; p++) job->first[job->slots[p] + 1]++;
  for (qk_int e = 0; e < job->experts; e++) {
    job->load[e] += (uint64_t)job->first[e + 1];
    job->first[e + 1] += job->first[e];
  }
  // Place the pairs; `first` runs ahead by its own counts and is moved back afterwards.
  for (qk_int t = 0; t < job->count; t++) {
    for (qk_int k = 0; k < job->chosen; k++) {
      int32_t expert = job->slots[t * job->chosen + k];
      int32_t place = job->first[expert]++;
      job->pair_token[place] = (int32_t)t;
      job->pair_of_slot[t * job->chosen + k] = place;
    }
  }
  for (qk_int e = job->experts; e > 0; e--) job->first[e] = job->first[e - 1];
  job->first[0] = 0;
}
