// Weight matrices as the kernels see them. Views: they own nothing and live as long as the memory behind them.

import CKernels
import ModelFile

/// One matrix [rows, columns] in stable storage, so that the workers can be given its address.
struct Matrix {
  let descriptor: UnsafePointer<qk_matrix>

  var rows: Int { descriptor.pointee.rows }
  var columns: Int { descriptor.pointee.columns }
  var isPacked: Bool { descriptor.pointee.layout == QK_PACKED }
  /// What a packed matrix reads on its right side.
  var activation: qk_activation { qk_activation_for(descriptor.pointee.type) }
}

/// Some matrices of one shape: the heads of a layer, the experts of a layer.
struct MatrixList {
  let first: UnsafePointer<qk_matrix>
  let count: Int

  subscript(index: Int) -> Matrix { Matrix(descriptor: first + index) }
}

/// The quantised forms of activations that a set of matrices reads.
struct ActivationNeeds {
  var q8 = false
  var bf16 = false
  var int16 = false
  /// Read as they are: no quantised form.
  var f32 = false

  /// Whether one form, int8 blocks, serves all.
  var isQ8Only: Bool { q8 && !bf16 && !int16 && !f32 }

  mutating func add(_ matrix: Matrix?) {
    guard let matrix else { return }
    guard matrix.isPacked else {
      f32 = true
      return
    }
    switch matrix.activation {
    case QK_ACT_Q8: q8 = true
    case QK_ACT_INT16: int16 = true
    default: bf16 = true
    }
  }

  mutating func add(_ list: MatrixList?) {
    guard let list else { return }
    for index in 0..<list.count { add(list[index]) }
  }
}

extension qk_matmul_task {
  /// One product, y = w x.
  init(
    w: UnsafePointer<qk_matrix>, x: UnsafeRawPointer, x_stride: Int, index: UnsafePointer<Int32>?, tokens: Int,
    y: UnsafeMutablePointer<Float>, y_stride: Int
  ) {
    self.init(
      w: w, x: x, x_stride: x_stride, index: index, tokens: tokens, y: y, y_stride: y_stride, up: nil, hidden: nil, hidden_bytes: 0,
      first_job: 0, job_rows: 0)
  }
}

extension TensorType {
  var kernelType: qk_type { qk_type(rawValue: rawValue) }
}

/// A matrix over rows of a mapped tensor; `scales` must outlive it.
func fileMatrix(_ tensor: Tensor, scales: UnsafePointer<Float>?) -> qk_matrix {
  qk_file_matrix(tensor.type.kernelType, tensor.bytes.baseAddress, tensor.rows, tensor.columns, scales)
}
