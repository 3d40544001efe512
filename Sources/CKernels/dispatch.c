// Chooses the variant at run time, and holds what does not depend on it: buffer sizes and the work for all workers.
#include <stdlib.h>

#include "cache.h"
#include "scalar.h"
#include "variants.h"

const qk_kernels *qk_kernels_scalar(void) {
  static const qk_kernels table = QK_TABLE("scalar", qk_scalar_);
  return &table;
}

const qk_kernels *qk_kernels_avx2(void) {
  __builtin_cpu_init();
  const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return has ? &qk_table_avx2 : NULL;
}

const qk_kernels *qk_kernels_avxvnni(void) { return qk_kernels_avx2() && __builtin_cpu_supports("avxvnni") ? &qk_table_avxvnni : NULL; }

const qk_kernels *qk_kernels_avx512(void) {
  const bool has = qk_kernels_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  return has ? &qk_table_avx512 : NULL;
}

const qk_kernels *qk_kernels_avx512bf16(void) {
  return qk_kernels_avx512() && __builtin_cpu_supports("avx512bf16") ? &qk_table_avx512bf16 : NULL;
}

const qk_kernels *qk_kernels_avx512zen4(void) { return qk_kernels_avx512bf16() ? &qk_table_avx512zen4 : NULL; }
const qk_kernels *qk_kernels_avx512zen5(void) { return qk_kernels_avx512bf16() ? &qk_table_avx512zen5 : NULL; }

/// The table of AMD's cores with AVX-512: Zen 5 and what came after it have AVX-VNNI beside it, Zen 4 has not. NULL: not one of them.
static const qk_kernels *kernels_of_zen(void) {
  if (!qk_kernels_avx512bf16() || !__builtin_cpu_is("amd")) return NULL;
  return __builtin_cpu_supports("avxvnni") ? qk_kernels_avx512zen5() : qk_kernels_avx512zen4();
}

typedef struct vector_variant {
  const qk_kernels *table;
  const qk_kernels *(*if_present)(void);  // NULL on a CPU without its instructions
} vector_variant;

static const vector_variant *vector_variant_named(const char *name) {
  static const vector_variant variants[] = {
      {&qk_table_avx2, qk_kernels_avx2},
      {&qk_table_avxvnni, qk_kernels_avxvnni},
      {&qk_table_avx512, qk_kernels_avx512},
      {&qk_table_avx512bf16, qk_kernels_avx512bf16},
      {&qk_table_avx512zen4, qk_kernels_avx512zen4},
      {&qk_table_avx512zen5, qk_kernels_avx512zen5},
  };
  for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
    if (strcmp(name, variants[i].table->name) == 0) return &variants[i];
  return NULL;
}

const qk_kernels *qk_kernels_named(const char *name) {
  if (strcmp(name, "scalar") == 0) return qk_kernels_scalar();
  const vector_variant *v = vector_variant_named(name);
  return v ? v->if_present() : NULL;
}

const qk_kernels *qk_kernels_unchecked(const char *name) {
  const vector_variant *v = vector_variant_named(name);
  return v ? v->table : NULL;
}

const qk_kernels *qk_kernels_best(void) {
  const char *wanted = getenv("QUIRE_KERNELS");
  const qk_kernels *k = wanted ? qk_kernels_named(wanted) : NULL;
  if (!k) k = kernels_of_zen();
  if (!k) k = qk_kernels_avx512bf16();
  if (!k) k = qk_kernels_avx512();
  if (!k) k = qk_kernels_avxvnni();
  if (!k) k = qk_kernels_avx2();
  return k ? k : qk_kernels_scalar();
}

qk_activation qk_activation_for(qk_type weights) {
  const qk_format *f = qk_format_of(weights);
  if (weights == QK_INT16) return QK_ACT_INT16;
  return f && f->decode ? QK_ACT_Q8 : QK_ACT_BF16;
}

qk_int qk_activation_bytes(qk_activation kind, qk_int columns) {
  const qk_int lines = kind == QK_ACT_Q8 ? (columns + 31) / 32 : (2 * columns + 63) / 64 + (kind == QK_ACT_INT16);
  return (lines | 1) * 64;  // an odd number of cache lines, so that the same column of many tokens does not fall into one cache set
}

qk_int qk_matmul_scratch_bytes(qk_int columns) {
  const qk_int tiles = 12288 + 2 * QK_TOKEN_BLOCK * QK_ROW_GROUP * 4;  // two of unpacked blocks with their scales, and a block of tokens' sums
  return QK_ROW_GROUP * (columns + 64) * 4 + tiles;                    // or a group of rows as float32
}

qk_int qk_cache_row_bytes(qk_cache_type type, qk_int c, qk_int r) {
  const qk_int scaled = qk_cache_latent_offset(type, c, r);  // 0 where the latent comes first
  const qk_int bytes = type == QK_CACHE_F32    ? 4 * (c + r)
                       : type == QK_CACHE_BF16 ? 2 * (c + r)
                       : type == QK_CACHE_INT16 ? QK_INT16_SCALES_BYTES + 2 * (c + r)
                       : type == QK_CACHE_INT8 ? scaled + c
                                               : scaled + qk_int6_bytes(c);
  return (bytes + 3) / 4 * 4;
}

qk_int qk_attention_scratch_bytes(qk_int rows, qk_int key_width, qk_int value_width) {
  // Latent and rope are padded each by itself.
  const qk_int key = (key_width + 63) / 64 * 64 + 64, value = (value_width + 63) / 64 * 64, padded_rows = (rows + 15) / 16 * 16;
  const qk_int queries = padded_rows * key, tile = QK_KEY_TILE * (key + value), row = key + value, part = padded_rows * (value + 4);
  return 4 * (queries + tile + row + part) + 4096;
}

// ------------------------------------------------------------------------------- work for all workers

// A run of products is cut into jobs of about equal work, many enough that an uneven end or a busy core costs little, large enough that
// weights stream.
// A job's products of up to QK_TOKEN_BLOCK tokens are held in the worker's scratch: those of a gated pair until both are there; those of
// LEAST_HELD or more tokens by themselves until they can go to `y` in long pieces, for there the rows of tokens are often a power of two apart,
// and what one row group has for each of them falls into one cache set [M: one core of Zen 5, Q8_0, jobs of 128 rows, 512 tokens: 1024x512 602
// GOP/s straight to y, 713 held; 3072x384 537 and 676; 1024x2048 700 and 742; Q4_K 3072x384, 32 tokens: 519 and 570].
enum { GATED_ROWS = 256, GATED_STEP = 32, HELD_ROWS = 128, HELD_STRIDE = HELD_ROWS + 16, LEAST_HELD = 24 };
enum { JOBS_PER_THREAD = 20, LEAST_JOB_BYTES = 8 << 10, MOST_JOB_BYTES = 1 << 20, MOST_ROWS_OF_MANY = 128, MANY_TOKENS = 32, FEW_TOKENS = 4 };
// More tokens than this are multiplied with two row groups at a time where the registers allow it: jobs are whole pairs then.
enum { ONE_GROUP_TOKENS = 8, PAIR_ROWS = 2 * QK_ROW_GROUP };

typedef struct matmul_run {
  qk_pool *pool;
  const qk_kernels *kernels;
  const qk_matmul_task *tasks;
  qk_int count;
} matmul_run;

static qk_int at_least(qk_int a, qk_int b) { return a > b ? a : b; }
static qk_int at_most(qk_int a, qk_int b) { return a < b ? a : b; }

/// Up to a few tokens cost what reading the weights costs.
static qk_int row_bytes(const qk_matmul_task *t) { return at_least(t->w->row_bytes, 1) * (t->up ? 2 : 1); }
static qk_int row_work(const qk_matmul_task *t) { return row_bytes(t) * at_least(t->tokens, FEW_TOKENS); }

static qk_int rows_per_job(const qk_matmul_task *t, qk_int work_per_job) {
  const qk_int step = t->up ? GATED_STEP : t->tokens > ONE_GROUP_TOKENS ? PAIR_ROWS : QK_ROW_GROUP, bytes = row_bytes(t);
  const qk_int most_rows = t->tokens > MANY_TOKENS ? MOST_ROWS_OF_MANY : t->up ? GATED_ROWS : t->w->rows, most = at_most(MOST_JOB_BYTES / bytes, most_rows);
  const qk_int rows = at_least(at_most(work_per_job / row_work(t), most), LEAST_JOB_BYTES / bytes);
  const qk_int job = at_least((rows + step - 1) / step, 1) * step;
  return t->up ? at_most(job, GATED_ROWS) : job;
}

qk_int qk_pool_matmul_scratch_bytes(qk_int columns) { return qk_matmul_scratch_bytes(columns) + 2 * QK_TOKEN_BLOCK * GATED_ROWS * 4; }

/// Tokens first ... first + count of a task against some rows of its matrix.
static void multiply(const qk_kernels *k, const qk_matmul_task *t, const qk_matrix *rows, qk_int first, qk_int count, float *y, qk_int y_stride,
                     void *scratch) {
  const qk_int x_bytes = qk_activation_bytes(qk_activation_for(rows->type), rows->columns);
  const void *x = t->index ? t->x : (const uint8_t *)t->x + first * x_bytes;
  k->matmul_fast(rows, 0, rows->rows, x, t->index ? t->index + first : NULL, count, y, y_stride, scratch);
}

/// Hidden activations [begin, end) of all tokens of a gated pair.
static void gated_rows(const qk_kernels *k, const qk_matmul_task *t, qk_int begin, qk_int end, uint8_t *scratch) {
  const qk_matrix gate = qk_rows(*t->w, begin, end), up = qk_rows(*t->up, begin, end);
  const qk_int rows = end - begin;
  float *g = (float *)(scratch + qk_matmul_scratch_bytes(gate.columns)), *u = g + QK_TOKEN_BLOCK * GATED_ROWS;  // [tokens, rows]
  for (qk_int first = 0, count; first < t->tokens; first += count) {
    count = qk_next_block(t->tokens - first);
    multiply(k, t, &gate, first, count, g, rows, scratch);
    multiply(k, t, &up, first, count, u, rows, scratch);
    k->silu_mul(g, u, count * rows, g);
    k->quantize_activations(QK_ACT_Q8, g, rows, count, rows, (uint8_t *)t->hidden + first * t->hidden_bytes + qk_activation_offset(begin),
                            t->hidden_bytes);
  }
}

/// Rows [begin, end) of all tokens of a product, held on their way to y.
static void held_rows(const qk_kernels *k, const qk_matmul_task *t, qk_int begin, qk_int end, uint8_t *scratch) {
  float *held = (float *)(scratch + qk_matmul_scratch_bytes(t->w->columns));  // [tokens, HELD_STRIDE]
  for (qk_int i = begin; i < end; i += HELD_ROWS) {
    const qk_matrix rows = qk_rows(*t->w, i, at_most(i + HELD_ROWS, end));
    for (qk_int first = 0, count; first < t->tokens; first += count) {
      count = qk_next_block(t->tokens - first);
      multiply(k, t, &rows, first, count, held, HELD_STRIDE, scratch);
      for (qk_int n = 0; n < count; n++)
        memcpy(t->y + (first + n) * t->y_stride + i, held + n * HELD_STRIDE, (size_t)rows.rows * sizeof(float));
    }
  }
}

static void matmul_job(void *context, qk_int job, qk_int worker) {
  const matmul_run *run = context;
  qk_int low = 0, high = run->count - 1;  // the last task whose first job is not beyond
  while (low < high) {
    const qk_int middle = (low + high + 1) / 2;
    if (run->tasks[middle].first_job <= job) low = middle;
    else high = middle - 1;
  }
  const qk_matmul_task *t = &run->tasks[low];
  const qk_int begin = (job - t->first_job) * t->job_rows, end = at_most(begin + t->job_rows, t->w->rows);
  void *scratch = qk_pool_scratch(run->pool, worker);
  if (t->up)
    gated_rows(run->kernels, t, begin, end, scratch);
  else if (t->w->layout == QK_PACKED && t->tokens >= LEAST_HELD)
    held_rows(run->kernels, t, begin, end, scratch);
  else if (t->w->layout == QK_PACKED)
    run->kernels->matmul_fast(t->w, begin, end, t->x, t->index, t->tokens, t->y, t->y_stride, scratch);
  else
    run->kernels->matmul_exact(t->w, begin, end, t->x, t->x_stride, t->index, t->tokens, t->y, t->y_stride, scratch);
}

void qk_pool_matmul(qk_pool *pool, const qk_kernels *kernels, qk_matmul_task *tasks, qk_int count) {
  matmul_run run = {pool, kernels, tasks, count};
  qk_int work = 0, jobs = 0;
  for (qk_int i = 0; i < count; i++) work += tasks[i].w->rows * row_work(&tasks[i]);
  const qk_int work_per_job = work / (JOBS_PER_THREAD * qk_pool_threads(pool)) + 1;
  for (qk_int i = 0; i < count; i++) {
    qk_matmul_task *t = &tasks[i];
    t->first_job = jobs;
    t->job_rows = rows_per_job(t, work_per_job);
    if (t->tokens > 0) jobs += (t->w->rows + t->job_rows - 1) / t->job_rows;
  }
  qk_pool_run(pool, matmul_job, &run, jobs);
}

typedef struct pack_run {
  qk_matrix source;
  void *destination;
} pack_run;

enum { GROUPS_PER_JOB = 8 };

static void pack_job(void *context, qk_int job, qk_int worker) {
  (void)worker;
  const pack_run *run = context;
  const qk_int begin = job * GROUPS_PER_JOB, groups = qk_group_count(run->source.rows);
  qk_pack(run->source, run->destination, begin, begin + GROUPS_PER_JOB < groups ? begin + GROUPS_PER_JOB : groups);
}

void qk_pool_pack(qk_pool *pool, qk_matrix source, void *destination) {
  pack_run run = {source, destination};
  qk_pool_run(pool, pack_job, &run, (qk_group_count(source.rows) + GROUPS_PER_JOB - 1) / GROUPS_PER_JOB);
}
