// Attention over latent pages: the calls of one layer spread over the workers, splits merged, results made ready for W_UV. See quire_engine.h.
#include <string.h>

#include "engine_jobs.h"

typedef struct {
  const qk_kernels *kernels;
  qk_pool *pool;
  const qe_attention *job;
  qk_int queries[QK_POOL_MAX_THREADS];  // of each worker, the item whose queries its scratch holds; -1: none
} attention_context;

static void finish_rows(const attention_context *c, qk_softmax_state state, qk_int token, qk_int tokens, qk_int head, qk_int heads) {
  const qe_attention *job = c->job;
  c->kernels->attention_finish(&state, tokens * heads, job->c, state.u, job->c);
  for (qk_int i = 0; i < tokens * heads; i++) {
    qe_emit_head(c->kernels, &job->out, head + i % heads, token + i / heads, state.u + i * job->c, job->c);
  }
}

static bool have_same_rows(const qe_attention_item *a, const qe_attention_item *b) {
  return a->token == b->token && a->tokens == b->tokens && a->head == b->head && a->heads == b->heads;
}

static const float *queries_of(const qe_attention *job, const qe_attention_item *item) {
  return job->q_latent + (item->token * job->heads + item->head) * (job->c + job->r);
}

qk_int qe_attention_state_bytes(qk_int heads, qk_int c) { return qe_rounded(heads * c * (qk_int)sizeof(float)); }

static void attention_item(void *context, qk_int i, qk_int worker) {
  attention_context *c = context;
  const qe_attention *job = c->job;
  const qe_attention_item *item = &job->items[i];
  qk_int width = job->c + job->r;
  qk_int row = item->token * job->heads + item->head;
  uint8_t *scratch = qk_pool_scratch(c->pool, worker);
  qk_softmax_state state;
  const bool aside = item->tokens == 1 && (job->out.q8 || job->out.bf16 || job->out.int16);
  if (item->slot < 0 && aside) {
    state = (qk_softmax_state){job->m + row, job->l + row, (float *)scratch, job->c};
  } else if (item->slot < 0) {
    state = (qk_softmax_state){job->m + row, job->l + row, job->u + row * job->c, job->c};
  } else {
    qk_int place = item->slot * job->heads + item->head;
    state = (qk_softmax_state){job->slot_m + place, job->slot_l + place, job->slot_u + place * job->c, job->c};
  }
  qk_latent_attention call = {
      .q = queries_of(job, item),
      .q_stride = width,
      .tokens = item->tokens,
      .heads = item->heads,
      .first_position = item->first_position,
      .begin = item->begin,
      .end = item->end,
      .pages = job->pages,
      .state = state,
      .exact = job->exact,
  };
  call.pages.table = job->tables + item->table;
  const qk_int before = c->queries[worker];
  call.same_queries = before >= 0 && have_same_rows(item, &job->items[before]);
  c->queries[worker] = i;
  const qk_int next = i + 1;  // what this worker will be asked next, most of the time
  if (next < job->item_count) {
    const qe_attention_item *other = &job->items[next];
    call.next_table = job->tables + other->table;
    call.next_begin = other->begin;
    call.next_end = other->end;
    if (!have_same_rows(item, other)) {
      call.beside = queries_of(job, other);
      call.beside_bytes = (qk_int)other->tokens * other->heads * width * (qk_int)sizeof(float);
    }
  }
  if (job->ahead_bytes > 0) {
    const qk_int at = job->ahead_bytes * i / job->item_count, end = job->ahead_bytes * (i + 1) / job->item_count;
    const qk_int most = (item->end - item->begin) * job->pages.row_stride;  // no more than what attention reads itself
    call.beside = (const uint8_t *)job->ahead + at;
    call.beside_bytes = end - at < most ? end - at : most;
  }
  c->kernels->attention_latent(&call, scratch + qe_attention_state_bytes(job->heads, job->c));
  if (item->slot < 0) finish_rows(c, state, item->token, item->tokens, item->head, item->heads);
}

// The splits of one head of one token.
static void merge_head(void *context, qk_int i, qk_int worker) {
  (void)worker;
  const attention_context *c = context;
  const qe_attention *job = c->job;
  const qe_attention_merge *merge = &job->merges[i / job->heads];
  const qk_int head = i % job->heads, row = merge->token * job->heads + head;
  const qk_softmax_state into = {job->m + row, job->l + row, job->u + row * job->c, job->c};
  for (qk_int s = 0; s < merge->slots; s++) {
    const qk_int place = (merge->slot + s) * job->heads + head;
    const qk_softmax_state from = {job->slot_m + place, job->slot_l + place, job->slot_u + place * job->c, job->c};
    if (s == 0) {
      *into.m = *from.m;
      *into.l = *from.l;
      memcpy(into.u, from.u, (size_t)job->c * sizeof(float));
    } else {
      c->kernels->attention_merge(&into, &from, 1, job->c);
    }
  }
  finish_rows(c, into, merge->token, 1, head, 1);
}

void qe_run_attention(qe_workers workers, const qe_attention *job) {
  attention_context context = {.kernels = workers.kernels, .pool = workers.pool, .job = job};
  for (qk_int i = 0; i < qk_pool_threads(workers.pool); i++) context.queries[i] = -1;
  qk_pool_run(workers.pool, attention_item, &context, job->item_count);
  // A head has about four splits where there are any: what a row costs decides who does it.
  qe_run_rows(workers, merge_head, &context, job->merge_count * job->heads, 4 * job->c);
}
