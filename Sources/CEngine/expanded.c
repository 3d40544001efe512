// Attention in expanded form (SPEC 2.8) for a long piece of one sequence, one range of keys at a time. See quire_engine.h.
#include "engine_jobs.h"

enum { KEYS_PER_JOB = 16 };

typedef struct {
  qe_workers workers;
  const qe_expanded *job;
} expanded_context;

qk_int qe_expanded_keys_bytes(qk_int n, qk_int v, qk_int c) {
  const qk_int keys = QE_EXPANDED_KEYS * (qk_int)sizeof(float);
  return qe_rounded(keys * n) + qe_rounded(keys * v) + qe_rounded(qk_matmul_scratch_bytes(c));
}

static void load_keys(void *context, qk_int i, qk_int worker) {
  (void)worker;
  const expanded_context *c = context;
  const qe_expanded *job = c->job;
  qk_int keys = job->end - job->begin, first = i * KEYS_PER_JOB, last = first + KEYS_PER_JOB < keys ? first + KEYS_PER_JOB : keys;
  c->workers.kernels->cache_load_rows(&job->pages, job->begin + first, job->begin + last, job->latents + first * job->c, job->c, NULL, 0);
  for (qk_int k = first; k < last; k++) qe_emit(c->workers.kernels, &job->latent_forms, k, job->c);
}

// matmul_fast or matmul_exact of all rows of `w` for `keys` keys from key `first` of the range on.
static void expand(const expanded_context *c, const qk_matrix *w, qk_int first, qk_int keys, float *out, void *scratch) {
  const qe_expanded *job = c->job;
  const qe_activations *forms = &job->latent_forms;
  const qk_kernels *kernels = c->workers.kernels;
  if (w->layout == QK_FILE) {
    kernels->matmul_exact(w, 0, w->rows, job->latents + first * job->c, job->c, NULL, keys, out, w->rows, scratch);
  } else {
    const qk_activation form = qk_activation_for(w->type);
    const uint8_t *x = form == QK_ACT_Q8     ? (const uint8_t *)forms->q8 + first * forms->q8_bytes
                       : form == QK_ACT_BF16 ? (const uint8_t *)forms->bf16 + first * forms->bf16_bytes
                                             : (const uint8_t *)forms->int16 + first * forms->int16_bytes;
    kernels->matmul_fast(w, 0, w->rows, x, NULL, keys, out, w->rows, scratch);
  }
}

static void attend_head(void *context, qk_int head, qk_int worker) {
  const expanded_context *c = context;
  const qe_expanded *job = c->job;
  const qk_kernels *kernels = c->workers.kernels;
  uint8_t *scratch = qk_pool_scratch(c->workers.pool, worker);
  const qk_int width = job->n + job->r;
  float *k = (float *)scratch;
  float *values = (float *)(scratch + qe_rounded(QE_EXPANDED_KEYS * job->n * (qk_int)sizeof(float)));
  uint8_t *product = (uint8_t *)values + qe_rounded(QE_EXPANDED_KEYS * job->v * (qk_int)sizeof(float));
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
      .k = k,
      .k_stride = job->n,
      .values = values,
      .v_stride = job->v,
      .pages = job->pages,
      .state = state,
      .exact = job->exact,
  };
  for (qk_int begin = job->begin; begin < job->end; begin += QE_EXPANDED_KEYS) {
    const qk_int keys = job->end - begin < QE_EXPANDED_KEYS ? job->end - begin : QE_EXPANDED_KEYS;
    expand(c, job->key_heads + head, begin - job->begin, keys, k, product);
    expand(c, job->value_heads + head, begin - job->begin, keys, values, product);
    call.begin = begin;
    call.end = begin + keys;
    call.same_queries = begin > job->begin;
    kernels->attention_expanded(&call, scratch + qe_expanded_keys_bytes(job->n, job->v, job->c));
  }
  if (job->last) kernels->attention_finish(&state, job->tokens, job->v, job->out + head * job->v, job->heads * job->v);
}

void qe_run_expanded(qe_workers workers, const qe_expanded *job) {
  expanded_context context = {workers, job};
  qk_pool_run(workers.pool, load_keys, &context, (job->end - job->begin + KEYS_PER_JOB - 1) / KEYS_PER_JOB);
  qk_pool_run(workers.pool, attend_head, &context, job->heads);
}
