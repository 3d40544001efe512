// Brings weights from the model file into the engine's memory, in pieces that the workers claim. See quire_engine.h.
//
// A piece is read into the worker's scratch, not through the mapping: a read of many pages costs a fraction of as many page faults,
// the kernel reads ahead of it in large folios, and a file that has become too short is an error here where the mapping raises SIGBUS.
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "engine_jobs.h"

qk_type qe_transposed_type(qk_matrix source) {
  return qk_activation_for(source.type) == QK_ACT_Q8 && source.rows % qk_block_elements(QK_Q8_0) == 0 ? QK_Q8_0 : QK_INT16;
}

static qk_int transpose_bytes(qk_matrix source) {
  const qk_int floats = qe_rounded(source.rows * source.columns * (qk_int)sizeof(float));
  const qk_int packed = qe_rounded(source.columns * qk_row_bytes(qe_transposed_type(source), source.rows));
  return 2 * floats + packed + qk_activation_bytes(QK_ACT_INT16, source.rows);
}

qk_int qe_load_scratch_bytes(qk_matrix source, qe_load_kind kind) {
  qk_int read = qe_rounded(source.rows * source.row_bytes);
  switch (kind) {
    case QE_LOAD_COPY: return 0;
    case QE_LOAD_FLOATS:
    case QE_LOAD_PACK: return read;
    case QE_LOAD_TRANSPOSE_F32:
    case QE_LOAD_TRANSPOSE_PACK: return read + transpose_bytes(source);
  }
  return 0;
}

// A row of activations is a row of the matrix: integers of one scale. `activations`: room for one.
static void encode_int16(const qk_kernels *kernels, const float *x, qk_matrix to, qk_int row, uint8_t *data, uint8_t *activations) {
  kernels->quantize_activations(QK_ACT_INT16, x, to.columns, 1, to.columns, activations, 0);
  memcpy(data + row * to.row_bytes, activations, sizeof(float));
  memcpy(data + row * to.row_bytes + sizeof(float), activations + 64, (size_t)to.row_bytes - sizeof(float));
}

static void transpose(const qk_kernels *kernels, qk_matrix source, const qe_load_piece *piece, uint8_t *scratch) {
  qk_int rows = source.rows, columns = source.columns;
  qk_int floats = qe_rounded(rows * columns * (qk_int)sizeof(float));
  float *plain = (float *)scratch;
  kernels->dequantize_rows(&source, 0, rows, plain, columns);
  if (piece->kind == QE_LOAD_TRANSPOSE_F32) {
    qk_transpose_f32(plain, rows, columns, columns, piece->destination, rows);
    return;
  }
  float *turned = (float *)(scratch + floats);
  uint8_t *data = scratch + 2 * floats;
  qk_transpose_f32(plain, rows, columns, columns, turned, rows);
  const qk_matrix to = qk_file_matrix(qe_transposed_type(source), data, columns, rows, NULL);
  for (qk_int i = 0; i < columns; i++) {
    if (to.type == QK_Q8_0) qk_encode_q8_0(turned + i * rows, rows, data + i * to.row_bytes);
    else encode_int16(kernels, turned + i * rows, to, i, data, data + qe_rounded(columns * to.row_bytes));
  }
  qk_pack(to, piece->destination, 0, qk_group_count(columns));
}

/// 0 or an errno.
static int read_rows(const qe_file_rows *rows, uint8_t *to) {
  off_t offset = rows->offset;
  size_t left = (size_t)(rows->matrix.rows * rows->matrix.row_bytes);
  while (left > 0) {
    ssize_t count = pread(rows->descriptor, to, left, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count < 0 ? errno : ENODATA;
    to += count;
    offset += count;
    left -= (size_t)count;
  }
  return 0;
}

typedef struct {
  qe_workers workers;
  const qe_load_piece *pieces;
  atomic_int error;
} load_context;

static void load_piece(void *context, qk_int i, qk_int worker) {
  load_context *c = context;
  const qe_load_piece *piece = &c->pieces[i];
  if (atomic_load_explicit(&c->error, memory_order_relaxed) != 0) return;
  uint8_t *scratch = qk_pool_scratch(c->workers.pool, worker);
  int error = read_rows(&piece->source, piece->kind == QE_LOAD_COPY ? piece->destination : scratch);
  if (error != 0) {
    atomic_store_explicit(&c->error, error, memory_order_relaxed);
    return;
  }
  qk_matrix rows = piece->source.matrix;
  rows.data = scratch;
  switch (piece->kind) {
    case QE_LOAD_COPY:
      break;
    case QE_LOAD_FLOATS:
      c->workers.kernels->dequantize_rows(&rows, 0, rows.rows, piece->destination, rows.columns);
      break;
    case QE_LOAD_PACK:
      qk_pack(rows, piece->destination, 0, qk_group_count(rows.rows));
      break;
    case QE_LOAD_TRANSPOSE_F32:
    case QE_LOAD_TRANSPOSE_PACK:
      transpose(c->workers.kernels, rows, piece, scratch + qe_rounded(rows.rows * rows.row_bytes));
      break;
  }
}

int qe_run_load(qe_workers workers, const qe_load_piece *pieces, qk_int count) {
  load_context context = {workers, pieces, 0};
  qk_pool_run(workers.pool, load_piece, &context, count);
  return atomic_load_explicit(&context.error, memory_order_relaxed);
}
