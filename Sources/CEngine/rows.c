// Row-by-row work between the matrix products: embedding, residual sums and norms, latents, activations. See quire_engine.h.
#include <string.h>

#include "engine_jobs.h"

void qe_emit(const qk_kernels *kernels, const qe_activations *out, qk_int row, qk_int width) {
  const float *x = out->f32 + row * out->f32_stride;
  if (out->q8) kernels->quantize_activations(QK_ACT_Q8, x, width, 1, width, (uint8_t *)out->q8 + row * out->q8_bytes, out->q8_bytes);
  if (out->bf16) kernels->quantize_activations(QK_ACT_BF16, x, width, 1, width, (uint8_t *)out->bf16 + row * out->bf16_bytes, out->bf16_bytes);
  if (out->int16) kernels->quantize_activations(QK_ACT_INT16, x, width, 1, width, (uint8_t *)out->int16 + row * out->int16_bytes, out->int16_bytes);
}

void qe_emit_head(const qk_kernels *kernels, const qe_head_activations *out, qk_int head, qk_int row, const float *x, qk_int width) {
  qk_int place = head * out->capacity + row;
  if (out->q8) kernels->quantize_activations(QK_ACT_Q8, x, width, 1, width, (uint8_t *)out->q8 + place * out->q8_bytes, out->q8_bytes);
  if (out->bf16) kernels->quantize_activations(QK_ACT_BF16, x, width, 1, width, (uint8_t *)out->bf16 + place * out->bf16_bytes, out->bf16_bytes);
  if (out->int16) kernels->quantize_activations(QK_ACT_INT16, x, width, 1, width, (uint8_t *)out->int16 + place * out->int16_bytes, out->int16_bytes);
}

// One row is one job; below this many floats in all the caller does them alone, which is cheaper than waking anybody.
void qe_run_rows(qe_workers workers, qk_job job, void *context, qk_int rows, qk_int floats_per_row) {
  if (rows < 2 || rows * floats_per_row < QE_SERIAL_FLOATS || qk_pool_threads(workers.pool) == 1) {
    for (qk_int i = 0; i < rows; i++) job(context, i, 0);
  } else {
    qk_pool_run(workers.pool, job, context, rows);
  }
}

typedef struct {
  const qk_kernels *kernels;
  const void *job;
} row_context;

static void embed_row(void *context, qk_int i, qk_int worker) {
  (void)worker;
  const row_context *c = context;
  const qe_embed *job = c->job;
  qk_int token = job->tokens[i], width = job->table->columns;
  c->kernels->dequantize_rows(job->table, token, token + 1, job->residual + i * width, width);
}

void qe_run_embed(qe_workers workers, const qe_embed *job) {
  row_context context = {workers.kernels, job};
  qe_run_rows(workers, embed_row, &context, job->count, job->table->columns);
}

static void residual_norm_row(void *context, qk_int i, qk_int worker) {
  (void)worker;
  const row_context *c = context;
  const qk_kernels *kernels = c->kernels;
  const qe_residual_norm *job = c->job;
  qk_int token = job->rows ? job->rows[i] : i, width = job->width;
  float *residual = job->residual + token * width;
  float *out = job->out.f32 + i * job->out.f32_stride;
  const float *sum = NULL;
  if (job->expert_out) {
    memset(out, 0, (size_t)width * sizeof(float));
    for (qk_int slot = 0; slot < job->experts_per_token; slot++) {
      qk_int place = token * job->experts_per_token + slot;
      kernels->axpy(out, job->slot_weights[place], job->expert_out + job->pair_of_slot[place] * width, width);
    }
    if (job->delta) kernels->add(out, job->delta + token * width, width);
    sum = out;
  } else if (job->delta) {
    sum = job->delta + token * width;
  }
  if (sum) kernels->add(residual, sum, width);
  if (job->bias) kernels->add(residual, job->bias, width);
  kernels->rms_norm(residual, job->norm, job->epsilon, width, out);
  qe_emit(kernels, &job->out, i, width);
}

void qe_run_residual_norm(qe_workers workers, const qe_residual_norm *job) {
  row_context context = {workers.kernels, job};
  qk_int summands = 2 + (job->expert_out ? job->experts_per_token : 0);
  qe_run_rows(workers, residual_norm_row, &context, job->count, job->width * summands);
}

static void norm_row(void *context, qk_int i, qk_int worker) {
  (void)worker;
  const row_context *c = context;
  const qe_norm *job = c->job;
  float *in = job->in + i * job->width;
  if (job->bias) c->kernels->add(in, job->bias, job->width);
  c->kernels->rms_norm(in, job->norm, job->epsilon, job->width, job->out.f32 + i * job->out.f32_stride);
  qe_emit(c->kernels, &job->out, i, job->width);
}

void qe_run_norm(qe_workers workers, const qe_norm *job) {
  row_context context = {workers.kernels, job};
  qe_run_rows(workers, norm_row, &context, job->count, job->width);
}

static void quantize_row(void *context, qk_int i, qk_int worker) {
  (void)worker;
  const row_context *c = context;
  const qe_quantize *job = c->job;
  qe_emit(c->kernels, &job->rows, i, job->width);
}

void qe_run_quantize(qe_workers workers, const qe_quantize *job) {
  if (!job->rows.q8 && !job->rows.bf16 && !job->rows.int16) return;
  row_context context = {workers.kernels, job};
  qe_run_rows(workers, quantize_row, &context, job->count, job->width);
}

static void latent_row(void *context, qk_int t, qk_int worker) {
  (void)worker;
  const row_context *c = context;
  const qk_kernels *kernels = c->kernels;
  const qe_latent_rows *job = c->job;
  qk_int key_width = job->n + job->r, half = job->r / 2;
  const float *cosine = job->cosine + t * half, *sine = job->sine + t * half;
  void (*rope)(float *, qk_int, qk_int, qk_int, const float *, const float *) =
      job->interleaved ? kernels->rope_interleaved : kernels->rope_half_split;

  float *latent = job->latent + t * (job->c + job->r);
  if (job->latent_bias) kernels->add(latent, job->latent_bias, job->c + job->r);
  kernels->rms_norm(latent, job->latent_norm, job->epsilon, job->c, latent);
  rope(latent + job->c, job->r, 1, job->r, cosine, sine);
  kernels->cache_store_row(job->cache_type, job->c, job->r, latent, latent + job->c, job->cache + job->cache_rows[t] * job->row_stride);

  float *q = job->q + t * job->heads * key_width;
  rope(q + job->n, key_width, job->heads, job->r, cosine, sine);
  kernels->scale(q, job->scale, job->heads * key_width);
  for (qk_int h = 0; h < job->heads; h++) {
    float *row = job->q_latent + (t * job->heads + h) * (job->c + job->r);
    memcpy(row + job->c, q + h * key_width + job->n, (size_t)job->r * sizeof(float));
    qe_emit_head(kernels, &job->nope, h, t, q + h * key_width, job->n);
  }
}

void qe_run_latent_rows(qe_workers workers, const qe_latent_rows *job) {
  row_context context = {workers.kernels, job};
  qe_run_rows(workers, latent_row, &context, job->count, job->heads * (job->n + job->r) + job->c);
}

typedef struct {
  const qk_kernels *kernels;
  const qe_silu *sets[2];
} silu_context;

static void silu_row(void *context, qk_int i, qk_int worker) {
  (void)worker;
  const silu_context *c = context;
  const qe_silu *job = c->sets[0];
  if (i >= job->count) {
    i -= job->count;
    job = c->sets[1];
  }
  float *gate = job->rows.f32 + i * job->rows.f32_stride;
  c->kernels->silu_mul(gate, job->up + i * job->width, job->width, gate);
  qe_emit(c->kernels, &job->rows, i, job->width);
}

void qe_run_silu(qe_workers workers, const qe_silu *first, const qe_silu *second) {
  silu_context context = {workers.kernels, {first, second}};
  qk_int rows = first->count + (second ? second->count : 0);
  qk_int width = second && second->width > first->width ? second->width : first->width;
  qe_run_rows(workers, silu_row, &context, rows, 4 * width);
}
