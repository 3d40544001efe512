// Decides for each weight where it lives (mapped file, packed copy, float32 copy, transposed copy), measures that, and has the workers do it.
// The same calls run twice: measuring, for the memory plan, and building. Knows tensors and layouts, not what a layer computes.

import CEngine
import CKernels
import ModelFile

struct WeightBuilder {
  let compute: ComputeMode
  /// Whether the expanded form of attention is ever taken.
  let expands: Bool
  private(set) var arena: Arena
  /// Bytes of file tensors that stay mapped and are read by every step.
  private(set) var mappedBytes = 0
  /// Bytes of file tensors read so far.
  private(set) var sourceBytes = 0
  /// Scratch that one worker needs for the largest piece.
  private(set) var scratchBytes = 0
  /// The widest row of any matrix: sizes the kernels' scratch.
  private(set) var widestColumns = 0
  private(set) var pieces: [qe_load_piece] = []
  private let measuring: Bool

  /// About this much of a tensor is one job.
  private static let pieceBytes = 1 << 20

  init(options: EngineOptions, arena: Arena, measuring: Bool) {
    compute = options.compute
    expands = options.expandedThreshold != nil
    self.arena = arena
    self.measuring = measuring
  }

  mutating func clearPieces() { pieces.removeAll(keepingCapacity: true) }

  // MARK: whole tensors

  /// A matrix that products read: mapped in exact mode, packed in fast mode.
  mutating func matrix(_ tensor: Tensor) -> Matrix { list([source(tensor)])[0] }

  /// Rows looked up one by one: in the mapped file in exact mode, as they are in memory in fast mode, where a step should never wait for
  /// a page of the file that the system has taken back.
  mutating func table(_ tensor: Tensor) -> Matrix {
    let matrices = arena.room(qk_matrix.self, 1)
    let source = source(tensor)
    var matrix = source.matrix
    widestColumns = max(widestColumns, matrix.columns)
    if compute == .fast {
      let destination = arena.bytes(tensor.bytes.count)
      addPieces(source, destination, unitRows: 1, unitBytes: matrix.row_bytes, kind: QE_LOAD_COPY)
      matrix.data = UnsafeRawPointer(destination)
    }
    if !measuring { matrices.initialize(to: matrix) }
    return Matrix(descriptor: matrices)
  }

  /// Norms, biases: dequantised to float32.
  mutating func floats(_ tensor: Tensor) -> UnsafePointer<Float> { UnsafePointer(copyAsFloats(source(tensor))) }

  mutating func floats(_ tensor: Tensor?) -> UnsafePointer<Float>? {
    guard let tensor else { return nil }
    return floats(tensor)
  }

  /// The router: float32 whatever the file says (SPEC 7.8).
  mutating func floatMatrix(_ tensor: Tensor) -> Matrix {
    let data = copyAsFloats(source(tensor))
    let matrices = arena.room(qk_matrix.self, 1)
    widestColumns = max(widestColumns, tensor.columns)
    if !measuring { matrices.initialize(to: qk_file_matrix(QK_F32, data, tensor.rows, tensor.columns, nil)) }
    return Matrix(descriptor: matrices)
  }

  /// The activation forms that these matrices read; nothing while measuring.
  func needs(of matrices: [Matrix?]) -> ActivationNeeds {
    var needs = ActivationNeeds()
    guard !measuring else { return needs }
    for matrix in matrices { needs.add(matrix) }
    return needs
  }

  func needs(of first: MatrixList, _ second: MatrixList? = nil, _ others: [Matrix?] = []) -> ActivationNeeds {
    var needs = needs(of: others)
    guard !measuring else { return needs }
    needs.add(first)
    needs.add(second)
    return needs
  }

  /// The arena from the beginning of one matrix to the end of another that was dealt out later; empty if they are not there, as in exact mode.
  func range(from first: Matrix, to last: Matrix) -> UnsafeRawBufferPointer {
    let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
    guard !measuring, compute == .fast else { return nothing }
    let end = last.descriptor.pointee
    guard let from = first.descriptor.pointee.data, let to = end.data, from <= to else { return nothing }
    return UnsafeRawBufferPointer(start: from, count: to - from + end.row_bytes * end.rows)
  }

  /// Whether gate and up of these experts can be one pass: int8 blocks in, and nothing but int8 blocks wanted of the hidden activations.
  func fuses(_ gates: MatrixList, _ ups: MatrixList, hidden: ActivationNeeds) -> Bool {
    guard !measuring, hidden.isQ8Only else { return false }
    let inputs = needs(of: gates, ups)
    return inputs.isQ8Only && gates[0].rows % 32 == 0
  }

  /// A dense feed-forward part, or the shared experts.
  mutating func gated(_ gate: Tensor, _ up: Tensor, _ down: Tensor) -> GatedWeights {
    let gates = list([source(gate)])
    let ups = list([source(up)])
    let down = matrix(down)
    return GatedWeights(gate: gates[0], up: ups[0], down: down, isFused: fuses(gates, ups, hidden: needs(of: [down])))
  }

  // MARK: parts of tensors

  /// The rows of a tensor as a source, its F8 scales copied beside the weights.
  mutating func source(_ tensor: Tensor) -> qe_file_rows {
    sourceBytes += tensor.bytes.count
    var scales: UnsafePointer<Float>?
    if let grid = tensor.scales {
      let copy = arena.room(Float.self, grid.count)
      if !measuring { copy.initialize(from: grid, count: grid.count) }
      scales = UnsafePointer(copy)
    }
    return qe_file_rows(matrix: fileMatrix(tensor, scales: scales), descriptor: tensor.descriptor, offset: tensor.fileOffset)
  }

  /// Matrices that products read, each packed by itself in fast mode, in the mapped file in exact mode.
  mutating func list(_ sources: [qe_file_rows]) -> MatrixList {
    let matrices = arena.room(qk_matrix.self, sources.count)
    for (index, source) in sources.enumerated() {
      var matrix = source.matrix
      widestColumns = max(widestColumns, matrix.columns)
      if compute == .fast {
        let destination = arena.bytes(qk_packed_bytes(matrix.type, matrix.rows, matrix.columns))
        let group = Int(QK_ROW_GROUP)
        addPieces(
          source, destination, unitRows: group, unitBytes: qk_packed_bytes(matrix.type, group, matrix.columns), kind: QE_LOAD_PACK)
        matrix = qk_packed_matrix(matrix, destination)
      } else {
        mappedBytes += matrix.row_bytes * matrix.rows
      }
      if !measuring { (matrices + index).initialize(to: matrix) }
    }
    return MatrixList(first: matrices, count: sources.count)
  }

  /// Transposed matrices (SPEC 3.5 "kernel forms"): float32 in exact mode, packed integers in fast mode.
  mutating func transposed(_ sources: [qe_file_rows]) -> MatrixList {
    let matrices = arena.room(qk_matrix.self, sources.count)
    let kind = compute == .fast ? QE_LOAD_TRANSPOSE_PACK : QE_LOAD_TRANSPOSE_F32
    for (index, source) in sources.enumerated() {
      let rows = source.matrix.columns
      let columns = source.matrix.rows
      widestColumns = max(widestColumns, columns)
      let matrix: qk_matrix
      let destination: UnsafeMutableRawPointer
      if compute == .fast {
        let type = qe_transposed_type(source.matrix)
        destination = arena.bytes(qk_packed_bytes(type, rows, columns))
        matrix = qk_packed_matrix(qk_file_matrix(type, nil, rows, columns, nil), destination)
      } else {
        destination = UnsafeMutableRawPointer(arena.room(Float.self, rows, columns))
        matrix = qk_file_matrix(QK_F32, destination, rows, columns, nil)
      }
      addPiece(source, destination, kind)
      if !measuring { (matrices + index).initialize(to: matrix) }
    }
    return MatrixList(first: matrices, count: sources.count)
  }

  private mutating func copyAsFloats(_ source: qe_file_rows) -> UnsafeMutablePointer<Float> {
    let data = arena.room(Float.self, source.matrix.rows, source.matrix.columns)
    addPieces(source, data, unitRows: 1, unitBytes: source.matrix.columns * 4, kind: QE_LOAD_FLOATS)
    return data
  }

  /// Pieces of about `pieceBytes` of the file, of whole units of `unitRows` rows, which take `unitBytes` each at the destination.
  private mutating func addPieces(
    _ source: qe_file_rows, _ destination: UnsafeMutableRawPointer, unitRows: Int, unitBytes: Int, kind: qe_load_kind
  ) {
    let units = max(Self.pieceBytes / max(source.matrix.row_bytes * unitRows, 1), 1)
    let rows = source.matrix.rows
    for begin in stride(from: 0, to: rows, by: units * unitRows) {
      addPiece(source.rows(begin..<min(begin + units * unitRows, rows)), destination + begin / unitRows * unitBytes, kind)
    }
  }

  private mutating func addPiece(_ source: qe_file_rows, _ destination: UnsafeMutableRawPointer, _ kind: qe_load_kind) {
    scratchBytes = max(scratchBytes, qe_load_scratch_bytes(source.matrix, kind))
    guard !measuring else { return }
    pieces.append(qe_load_piece(source: source, destination: destination, kind: kind))
  }
}

extension qe_file_rows {
  /// A part of these rows.
  func rows(_ range: Range<Int>) -> qe_file_rows {
    let part = qk_rows(matrix, range.lowerBound, range.upperBound)
    return qe_file_rows(matrix: part, descriptor: descriptor, offset: offset + range.lowerBound * matrix.row_bytes)
  }
}
