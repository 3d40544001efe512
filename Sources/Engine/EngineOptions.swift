// What the operator chooses about the engine, its limits, and what can be wrong with the choice. Knows no config file.

import CKernels
import Glibc

/// fast: activations rounded to bf16 or int8 blocks. exact: float32 activations and accumulation, weights dequantised on the fly.
package enum ComputeMode: String, Sendable, CaseIterable { case fast, exact }

/// Element type of the latent cache. int16 keeps a float32 scale for the latent and one for the rope key, int8 a float32 scale per 64
/// latents, int6 a bf16 scale per 32; these two keep the rope key in bf16.
package enum CacheType: String, Sendable, CaseIterable {
  case f32, bf16, int16, int8, int6

  var kernelType: qk_cache_type {
    switch self {
    case .f32: QK_CACHE_F32
    case .bf16: QK_CACHE_BF16
    case .int16: QK_CACHE_INT16
    case .int8: QK_CACHE_INT8
    case .int6: QK_CACHE_INT6
    }
  }
}

package struct EngineOptions: Sendable {
  package var threads: Int
  package var compute: ComputeMode
  package var cacheType: CacheType
  /// Tokens the latent cache holds; nil: what fits into free memory.
  package var cacheTokens: Int?
  package var blockTokens: Int
  package var maxBatchTokens: Int
  package var maxSequences: Int
  /// Left free for everything else when the cache's size follows from free memory.
  package var memoryReserveBytes: Int
  /// "scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "avx512zen4", "avx512zen5"; nil: the widest of this CPU.
  package var kernels: String?
  /// Fast mode: a sequence's piece of at least this many tokens attends in expanded form, which is cheaper from about 171 tokens on
  /// (SPEC 2.8) but rounds differently, so results then depend in their last bits on how a long prompt is cut. nil: never, and every result
  /// is the same bits however prompts are cut and whoever else runs. Exact mode never takes it.
  package var expandedFromTokens: Int?
  /// Only for tests: lets the two forms be compared in float32.
  var expandsInExactMode = false
  /// Where workers and memory are, made for this number of threads.
  package var placement: Placement

  package init(
    threads: Int, compute: ComputeMode = .fast, cacheType: CacheType = .int16, cacheTokens: Int? = nil, blockTokens: Int = 16,
    maxBatchTokens: Int = 512, maxSequences: Int = 64, memoryReserveBytes: Int = 1 << 30, kernels: String? = nil,
    expandedFromTokens: Int? = 256, placement: Placement = .byKernel
  ) {
    self.threads = threads
    self.compute = compute
    self.cacheType = cacheType
    self.cacheTokens = cacheTokens
    self.blockTokens = blockTokens
    self.maxBatchTokens = maxBatchTokens
    self.maxSequences = maxSequences
    self.memoryReserveBytes = memoryReserveBytes
    self.kernels = kernels
    self.expandedFromTokens = expandedFromTokens
    self.placement = placement
  }

  /// Upper limits that keep every product of sizes far inside `Int`.
  package static let maximumThreads = Int(QK_POOL_MAX_THREADS)
  package static let maximumBatchTokens = 65_536
  package static let maximumSequences = 65_536
  package static let maximumBlockTokens = 1024

  func check() throws(EngineError) {
    try check("threads", threads, in: 1...Self.maximumThreads)
    try check("block tokens", blockTokens, in: 1...Self.maximumBlockTokens)
    try check("max batch tokens", maxBatchTokens, in: 1...Self.maximumBatchTokens)
    try check("max sequences", maxSequences, in: 1...Self.maximumSequences)
    try check("memory reserve bytes", memoryReserveBytes, in: 0...(1 << 46))
    if let cacheTokens { try check("cache tokens", cacheTokens, in: 1...(1 << 40)) }
    if let expandedFromTokens { try check("expanded-from tokens", expandedFromTokens, in: 1...Int.max) }
  }

  private func check(_ name: String, _ value: Int, in range: ClosedRange<Int>) throws(EngineError) {
    guard range.contains(value) else {
      throw .badOption(name: name, value: value, allowed: "\(range.lowerBound)...\(range.upperBound)")
    }
  }
}

/// One line each for the operator.
package enum EngineError: Error, Equatable, Sendable, CustomStringConvertible {
  case badOption(name: String, value: Int, allowed: String)
  case unknownKernels(name: String)
  case notEnoughMemory(neededBytes: Int, availableBytes: Int, what: String)
  case mapFailed(bytes: Int, errno: Int32)
  case poolFailed(threads: Int)
  case weightsUnreadable(errno: Int32)
  case unsupportedModel(reason: String)
  /// A batch outside the limits that the engine was made for: a mistake of the caller, found before any memory is touched.
  case badBatch(reason: String)

  package var description: String {
    switch self {
    case .badOption(let name, let value, let allowed): "\(name) = \(value): allowed is \(allowed)"
    case .unknownKernels(let name):
      "kernels \"\(name)\" are unknown or this CPU lacks them (scalar, avx2, avxvnni, avx512, avx512bf16, avx512zen4, avx512zen5)"
    case .notEnoughMemory(let needed, let available, let what):
      "\(what) needs \(byteText(needed)), but only \(byteText(available)) of memory are available"
    case .mapFailed(let bytes, let errno): "the system refused \(byteText(bytes)) of memory (errno \(errno))"
    case .poolFailed(let threads): "the system refused \(threads) worker threads"
    case .weightsUnreadable(let errno):
      errno == ENODATA
        ? "a model file ended before its weights did: it was changed while it was read"
        : "the model's weights could not be read (errno \(errno))"
    case .unsupportedModel(let reason): "the model is not supported: \(reason)"
    case .badBatch(let reason): "batch outside the engine's limits: \(reason)"
    }
  }
}

/// "31.1 KB" style text in powers of 1024, named as such.
package func byteText(_ bytes: Int) -> String {
  let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
  var value = Double(bytes)
  var unit = 0
  while value >= 1024 && unit < units.count - 1 {
    value /= 1024
    unit += 1
  }
  guard unit > 0 else { return "\(bytes) B" }
  let tenths = Int((value * 10).rounded())
  return "\(tenths / 10).\(tenths % 10) \(units[unit])"
}
