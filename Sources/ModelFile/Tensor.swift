// One tensor as a view into a mapped file, and the shape arithmetic that makes the view safe. Knows no names of layers.

/// A view of file bytes. It keeps the mapping alive, but a copy of `bytes` alone does not: hold the tensor or its `ModelFile`.
/// Unchecked because of the pointer: the mapping is read-only.
package struct Tensor: @unchecked Sendable {
  package let name: String
  package let type: TensorType
  package let rows: Int  // product of all dimensions but the fastest
  package let columns: Int  // the fastest dimension
  package let shape: [Int]  // slowest first, as in Hugging Face files
  package let bytes: UnsafeRawBufferPointer  // exactly rows * columns / blockElements * blockBytes; alignment not guaranteed
  package let scales: [Float]?  // F8 only: [ceil(rows/128), ceil(columns/128)], row-major, multiply
  package let fileOffset: Int  // of bytes[0] in its file
  private let file: MappedFile

  init(name: String, type: TensorType, shape: [Int], extent: TensorExtent, file: MappedFile, range: Range<Int>, scales: [Float]? = nil) {
    self.name = name
    self.type = type
    self.shape = shape
    self.file = file
    self.scales = scales
    rows = extent.rows
    columns = extent.columns
    bytes = UnsafeRawBufferPointer(rebasing: file.bytes[range])
    fileOffset = range.lowerBound
  }

  package var path: String { file.path }
  /// Of the file, for reading: the tensor begins at `fileOffset`.
  package var descriptor: Int32 { file.descriptor }

  package var elementCount: Int { rows * columns }

  func with(scales: [Float]) -> Tensor {
    let extent = TensorExtent(rows: rows, columns: columns, byteCount: bytes.count)
    return Tensor(
      name: name, type: type, shape: shape, extent: extent, file: file, range: fileOffset..<fileOffset + bytes.count, scales: scales)
  }
}

/// Byte size and matrix form of a shape, computed without overflow.
struct TensorExtent {
  let rows: Int
  let columns: Int
  let byteCount: Int

  init(rows: Int, columns: Int, byteCount: Int) {
    self.rows = rows
    self.columns = columns
    self.byteCount = byteCount
  }

  /// nil when a dimension is not positive, a row is not a whole number of blocks, or a product does not fit `Int`.
  init?(shape: [Int], type: TensorType) {
    guard shape.allSatisfy({ $0 > 0 }) else { return nil }
    columns = shape.last ?? 1
    guard columns % type.blockElements == 0 else { return nil }
    var product = 1
    for dimension in shape.dropLast() {
      let (next, overflow) = product.multipliedReportingOverflow(by: dimension)
      guard !overflow else { return nil }
      product = next
    }
    rows = product
    let (elements, elementsOverflow) = rows.multipliedReportingOverflow(by: columns)
    let (bytes, bytesOverflow) = (elements / type.blockElements).multipliedReportingOverflow(by: type.blockBytes)
    guard !elementsOverflow, !bytesOverflow else { return nil }
    byteCount = bytes
  }
}

/// Refuses tensors whose data overlap inside one file: no writer makes such files, and they hide a wrong offset.
func checkNoOverlap(_ tensors: [Tensor], path: String) throws(ModelFileError) {
  var end = 0
  var previous = ""
  for tensor in tensors.sorted(by: { $0.fileOffset < $1.fileOffset }) {
    guard tensor.fileOffset >= end else {
      throw .malformed(path: path, byteOffset: tensor.fileOffset, reason: "data of tensor \(tensor.name) overlaps tensor \(previous)")
    }
    end = tensor.fileOffset + tensor.bytes.count
    previous = tensor.name
  }
}
