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

  mutating func add(_ matrix: Matrix?) {
    guard let matrix, matrix.isPacked else { return }
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

extension TensorType {
  var kernelType: qk_type { qk_type(rawValue: rawValue) }
}

/// A matrix over rows of a mapped tensor; `scales` must outlive it.
func fileMatrix(_ tensor: Tensor, rows: Range<Int>, scales: UnsafePointer<Float>?) -> qk_matrix {
  let whole = qk_file_matrix(tensor.type.kernelType, tensor.bytes.baseAddress, tensor.rows, tensor.columns, scales)
  return qk_rows(whole, rows.lowerBound, rows.upperBound)
}
