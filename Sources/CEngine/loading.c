// Brings weights from the mapped file into the engine's memory, in pieces that the workers claim. See quire_engine.h.
#include <string.h>

#include "engine_jobs.h"

static qk_int rounded(qk_int bytes) { return (bytes + 63) / 64 * 64; }

qk_int qe_transpose_scratch_bytes(qk_int rows, qk_int columns) {
  qk_int floats = rounded(rows * columns * (qk_int)sizeof(float));
  return 2 * floats + rounded(columns * qk_row_bytes(QK_INT16, rows)) + qk_activation_bytes(QK_ACT_INT16, rows);
}

static void transpose(const qk_kernels *kernels, const qe_load_piece *piece, uint8_t *scratch) {
  qk_int rows = piece->source.rows, columns = piece->source.columns;
  qk_int floats = rounded(rows * columns * (qk_int)sizeof(float));
  float *plain = (float *)scratch;
  kernels->dequantize_rows(&piece->source, 0, rows, plain, columns);
  if (piece->kind == QE_LOAD_TRANSPOSE_F32) {
    qk_transpose_f32(plain, rows, columns, columns, piece->destination, rows);
    return;
  }
  float *turned = (float *)(scratch + floats);
  uint8_t *integers = scratch + 2 * floats, *one = integers + rounded(columns * qk_row_bytes(QK_INT16, rows));
  qk_transpose_f32(plain, rows, columns, columns, turned, rows);
  // A row of activations is a row of the matrix: integers of one scale.
  qk_matrix source = qk_file_matrix(QK_INT16, integers, columns, rows, NULL);
  for (qk_int i = 0; i < columns; i++) {
    kernels->quantize_activations(QK_ACT_INT16, turned + i * rows, rows, 1, rows, one, 0);
    memcpy(integers + i * source.row_bytes, one, sizeof(float));
    memcpy(integers + i * source.row_bytes + sizeof(float), one + 64, (size_t)source.row_bytes - sizeof(float));
  }
  qk_pack(source, piece->destination, 0, qk_group_count(columns));
}

typedef struct {
  qe_workers workers;
  const qe_load_piece *pieces;
} load_context;

static void load_piece(void *context, qk_int i, qk_int worker) {
  const load_context *c = context;
  const qe_load_piece *piece = &c->pieces[i];
  switch (piece->kind) {
    case QE_LOAD_FLOATS: {
      qk_int columns = piece->source.columns;
      c->workers.kernels->dequantize_rows(&piece->source, piece->begin, piece->end, (float *)piece->destination + piece->begin * columns, columns);
      break;
    }
    case QE_LOAD_PACK:
      qk_pack(piece->source, piece->destination, piece->begin, piece->end);
      break;
    case QE_LOAD_TRANSPOSE_F32:
    case QE_LOAD_TRANSPOSE_INT16:
      transpose(c->workers.kernels, piece, qk_pool_scratch(c->workers.pool, worker));
      break;
  }
}

void qe_run_load(qe_workers workers, const qe_load_piece *pieces, qk_int count) {
  load_context context = {workers, pieces};
  qk_pool_run(workers.pool, load_piece, &context, count);
}
