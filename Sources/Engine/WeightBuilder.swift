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
  /// Scratch that one worker needs for the largest transposition.
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

  /// Rows looked up one by one, straight from the mapped file in either mode.
  mutating func table(_ tensor: Tensor) -> Matrix {
    let matrices = arena.room(qk_matrix.self, 1)
    widestColumns = max(widestColumns, tensor.columns)
    if !measuring { matrices.initialize(to: source(tensor)) } else { _ = source(tensor) }
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
  mutating func source(_ tensor: Tensor) -> qk_matrix {
    sourceBytes += tensor.bytes.count
    var scales: UnsafePointer<Float>?
    if let grid = tensor.scales {
      let copy = arena.room(Float.self, grid.count)
      if !measuring { copy.initialize(from: grid, count: grid.count) }
      scales = UnsafePointer(copy)
    }
    return fileMatrix(tensor, rows: 0..<tensor.rows, scales: scales)
  }

  /// Matrices that products read, each packed by itself in fast mode, in the mapped file in exact mode.
  mutating func list(_ sources: [qk_matrix]) -> MatrixList {
    let matrices = arena.room(qk_matrix.self, sources.count)
    for (index, source) in sources.enumerated() {
      widestColumns = max(widestColumns, source.columns)
      var matrix = source
      if compute == .fast {
        let destination = arena.bytes(qk_packed_bytes(source.type, source.rows, source.columns))
        matrix = qk_packed_matrix(source, destination)
        addPackPieces(source, destination)
      } else {
        mappedBytes += source.row_bytes * source.rows
      }
      if !measuring { (matrices + index).initialize(to: matrix) }
    }
    return MatrixList(first: matrices, count: sources.count)
  }

  /// Transposed matrices (SPEC 3.5 "kernel forms"): float32 in exact mode, packed 16-bit integers in fast mode.
  mutating func transposed(_ sources: [qk_matrix]) -> MatrixList {
    let matrices = arena.room(qk_matrix.self, sources.count)
    for (index, source) in sources.enumerated() {
      let rows = source.columns
      let columns = source.rows
      widestColumns = max(widestColumns, columns)
      scratchBytes = max(scratchBytes, qe_transpose_scratch_bytes(source.rows, source.columns))
      let matrix: qk_matrix
      let destination: UnsafeMutableRawPointer
      if compute == .fast {
        destination = arena.bytes(qk_packed_bytes(QK_INT16, rows, columns))
        matrix = qk_packed_matrix(qk_file_matrix(QK_INT16, nil, rows, columns, nil), destination)
      } else {
        destination = UnsafeMutableRawPointer(arena.room(Float.self, rows, columns))
        matrix = qk_file_matrix(QK_F32, destination, rows, columns, nil)
      }
      guard !measuring else { continue }
      (matrices + index).initialize(to: matrix)
      let kind = compute == .fast ? QE_LOAD_TRANSPOSE_INT16 : QE_LOAD_TRANSPOSE_F32
      pieces.append(qe_load_piece(source: source, destination: destination, begin: 0, end: 0, kind: kind))
    }
    return MatrixList(first: matrices, count: sources.count)
  }

  private mutating func copyAsFloats(_ source: qk_matrix) -> UnsafeMutablePointer<Float> {
    let data = arena.room(Float.self, source.rows, source.columns)
    addPieces(source, data, rows: source.rows, bytesPerRow: source.columns * 4, kind: QE_LOAD_FLOATS)
    return data
  }

  private mutating func addPackPieces(_ source: qk_matrix, _ destination: UnsafeMutableRawPointer) {
    let groups = qk_group_count(source.rows)
    addPieces(source, destination, rows: groups, bytesPerRow: source.row_bytes * Int(QK_ROW_GROUP), kind: QE_LOAD_PACK)
  }

  private mutating func addPieces(
    _ source: qk_matrix, _ destination: UnsafeMutableRawPointer, rows: Int, bytesPerRow: Int, kind: qe_load_kind
  ) {
    guard !measuring else { return }
    let step = max(Self.pieceBytes / max(bytesPerRow, 1), 1)
    for begin in stride(from: 0, to: rows, by: step) {
      pieces.append(qe_load_piece(source: source, destination: destination, begin: begin, end: min(begin + step, rows), kind: kind))
    }
  }
}
