// The pool of latent cache rows: [layer][block][token] rows of the normalised latent and the rotated key, nothing per head.
// One owner for all sequences; which block belongs to whom is the scheduler's business.

import CKernels
import ModelFile

struct LatentCache: ~Copyable {
  let type: CacheType
  let blockTokens: Int
  let blockCount: Int
  let rowBytes: Int
  private let latentWidth: Int
  private let ropeWidth: Int
  private let layerBytes: Int
  private let memory: MappedMemory
  private let population: CachePopulation

  init(
    _ shape: Hyperparameters, type: CacheType, blockTokens: Int, blockCount: Int, memoryNodes: [Int32] = []
  ) throws(EngineError) {
    let row = Self.rowBytes(shape, type)
    let (rows, rowsOverflow) = blockTokens.multipliedReportingOverflow(by: blockCount)
    let (bytes, bytesOverflow) = rows.multipliedReportingOverflow(by: row)
    let (total, totalOverflow) = bytes.multipliedReportingOverflow(by: shape.layerCount)
    guard !rowsOverflow, !bytesOverflow, !totalOverflow else { throw .mapFailed(bytes: .max, errno: 0) }
    memory = try MappedMemory(byteCount: total, interleavedOver: memoryNodes)
    self.type = type
    self.blockTokens = blockTokens
    self.blockCount = blockCount
    latentWidth = shape.latentRank
    ropeWidth = shape.ropeDim
    rowBytes = row
    layerBytes = bytes
    population = CachePopulation(
      base: memory.base, layerCount: shape.layerCount, layerBytes: bytes, blockBytes: blockTokens * row)
  }

  deinit { population.stop() }

  static func rowBytes(_ shape: Hyperparameters, _ type: CacheType) -> Int {
    qk_cache_row_bytes(type.kernelType, shape.latentRank, shape.ropeDim)
  }

  var interleaveErrno: Int32 { memory.interleaveErrno }

  /// From now on memory is there before its blocks are used.
  func startPopulation() { population.start() }

  /// A step uses `block`.
  func use(block: Int) { population.use(block: block) }

  /// No step is to come until something happens.
  func rest() { population.rest() }

  func base(layer: Int) -> UnsafeMutableRawPointer { memory.base + layer * layerBytes }

  /// The pages of a layer as the kernels read them; the block table is set per sequence.
  func pages(layer: Int) -> qk_pages {
    qk_pages(
      base: base(layer: layer), page_stride: blockTokens * rowBytes, row_stride: rowBytes, table: nil, page_tokens: Int32(blockTokens),
      c: Int32(latentWidth), r: Int32(ropeWidth), type: type.kernelType)
  }
}
