// Attention in expanded form (SPEC 2.8) for a long piece of one sequence, one range of keys at a time. See quire_engine.h.
#include "engine_jobs.h"

enum { KEYS_PER_JOB = 16 };

typedef struct {
  qe_workers workers;
  const qe_expanded *job;
} expanded_context;

static qk_int rounded(qk_int bytes) { return (bytes + 63) / 64 * 64; }

qk_int qe_expanded_keys_bytes(qk_int keys, qk_int n, qk_int v) {
  return rounded(keys * n * (qk_int)sizeof(float)) + rounded(keys * v * (qk_int)sizeof(float));
}

static void load_keys(void *context, qk_int i, qk_int worker) {
  (void)worker;
  const expanded_context *c = context;
  const qe_expanded *job = c->job;
  qk_int keys = job->end - job->begin, first = i * KEYS_PER_JOB, last = first + KEYS_PER_JOB < keys ? first + KEYS_PER_JOB : keys;
  c->workers.kernels->cache_load_rows(&job->pages, job->begin + first, job->begin + last, job->latents + first * job->c, job->c, NULL, 0);
  for (qk_int k = first; k < last; k++) qe_emit(c->workers.kernels, &job->latent_forms, k, job->c);
}

// matmul_fast or matmul_exact of all rows of `w` for the keys of the range.
static void expand(const expanded_context *c, const qk_matrix *w, float *out, void *scratch) {
  const qe_expanded *job = c->job;
  const qk_kernels *kernels = c->workers.kernels;
  qk_int keys = job->end - job->begin;
  if (w->layout == QK_FILE) {
    kernels->matmul_exact(w, 0, w->rows, job->latents, job->c, NULL, keys, out, w->rows, scratch);
  } else {
    const qk_activation form = qk_activation_for(w->type);
    const void *x = form == QK_ACT_Q8 ? job->latent_forms.q8 : form == QK_ACT_BF16 ? job->latent_forms.bf16 : job->latent_forms.int16;
    kernels->matmul_fast(w, 0, w->rows, x, NULL, keys, out, w->rows, scratch);
  }
}

static void attend_head(void *context, qk_int head, qk_int worker) {
  const expanded_context *c = context;
  const qe_expanded *job = c->job;
  const qk_kernels *kernels = c->workers.kernels;
  uint8_t *scratch = qk_pool_scratch(c->workers.pool, worker);
  qk_int keys = job->end - job->begin, width = job->n + job->r;
  float *k = (float *)scratch;
  float *values = (float *)(scratch + rounded(keys * job->n * (qk_int)sizeof(float)));
  void *rest = scratch + qe_expanded_keys_bytes(keys, job->n, job->v);
  expand(c, job->key_heads + head, k, rest);
  expand(c, job->value_heads + head, values, rest);
  qk_int row = head * job->tokens_capacity;
  qk_softmax_state state = {job->m + row, job->l + row, job->u + row * job->v, job->v};
  if (job->first) kernels->attention_reset(&state, job->tokens, job->v);
  qk_expanded_attention call = {
      .q = job->q + head * width,
      .q_stride = job->heads * width,
      .tokens = (int32_t)job->tokens,
      .n = (int32_t)job->n,
      .v = (int32_t)job->v,
      .first_position = job->first_position,
      .begin = job->begin,
      .end = job->end,
      .k = k,
      .k_stride = job->n,
      .values = values,
      .v_stride = job->v,
      .pages = job->pages,
      .state = state,
      .exact = job->exact,
  };
  kernels->attention_expanded(&call, rest);
  if (job->last) kernels->attention_finish(&state, job->tokens, job->v, job->out + head * job->v, job->heads * job->v);
}

void qe_run_expanded(qe_workers workers, const qe_expanded *job) {
  expanded_context context = {workers, job};
  qk_pool_run(workers.pool, load_keys, &context, (job->end - job->begin + KEYS_PER_JOB - 1) / KEYS_PER_JOB);
  qk_pool_run(workers.pool, attend_head, &context, job->heads);
}
