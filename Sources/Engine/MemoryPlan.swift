// How much memory a model takes with given options and how many tokens its latent cache holds, found before anything is loaded.
// The arithmetic is SPEC 5.2's; the text says what is compared with what.

import CKernels
import ModelFile

package struct MemoryPlan: Sendable, Equatable {
  /// Weights in the engine's own memory.
  package let weightBytes: Int
  /// Weights read from the mapped file in every step (exact mode).
  package let mappedBytes: Int
  /// Activations, logits, workers' scratch; none of it grows later.
  package let scratchBytes: Int
  package let cacheType: CacheType
  /// All layers: L rows of c + r values.
  package let cacheBytesPerToken: Int
  package let blockTokens: Int
  package let blockCount: Int
  /// What the expanded keys and values of all heads would take in 16 bits: L H (n + r + v) values.
  package let multiHeadBytesPerToken: Int
  /// What the same latents take in 16 bits.
  package let latentBytesPerToken16: Int
  /// nil if the system does not say.
  package let availableBytes: Int?
  package let reserveBytes: Int

  package var cacheTokens: Int { blockTokens * blockCount }
  package var cacheBytes: Int { cacheTokens * cacheBytesPerToken }
  package var totalBytes: Int { weightBytes + mappedBytes + scratchBytes + cacheBytes }

  /// Reads shapes only. `availableBytes` stands in for the system's answer in tests.
  package static func make(
    model: ModelFile, options: EngineOptions, availableBytes: Int? = SystemMemory.availableBytes()
  ) throws(EngineError) -> MemoryPlan {
    try options.check()
    let weights = try WeightPlan(model: model, options: options)
    let scratch = try ScratchLayout.byteCount(model.hyperparameters, options, weights)
    return try make(
      shape: model.hyperparameters, options: options, weightBytes: weights.arenaBytes, mappedBytes: weights.mappedBytes,
      scratchBytes: scratch, availableBytes: availableBytes)
  }

  static func make(
    shape: Hyperparameters, options: EngineOptions, weightBytes: Int, mappedBytes: Int, scratchBytes: Int, availableBytes: Int?
  ) throws(EngineError) -> MemoryPlan {
    let perToken = shape.layerCount * LatentCache.rowBytes(shape, options.cacheType)
    let blockBytes = perToken * options.blockTokens
    let fixed = weightBytes + mappedBytes + scratchBytes
    var blocks: Int
    if let tokens = options.cacheTokens {
      blocks = (tokens + options.blockTokens - 1) / options.blockTokens
      let (bytes, overflow) = blocks.multipliedReportingOverflow(by: blockBytes)
      if let availableBytes, overflow || bytes > max(availableBytes - fixed, 0) {
        throw .notEnoughMemory(
          neededBytes: overflow ? .max : fixed + bytes, availableBytes: availableBytes, what: "a cache of \(tokens) tokens with this model")
      }
    } else {
      guard let availableBytes else { throw .badOption(name: "cache tokens", value: 0, allowed: "a number, as free memory is unknown") }
      let free = availableBytes - fixed - options.memoryReserveBytes
      blocks = max(free, 0) / blockBytes
      // More than every sequence at its full length would never be used.
      let perSequence = (shape.maxContext + options.blockTokens - 1) / options.blockTokens
      let (useful, overflow) = perSequence.multipliedReportingOverflow(by: options.maxSequences)
      if !overflow { blocks = min(blocks, useful) }
      guard blocks >= 1 else {
        throw .notEnoughMemory(
          neededBytes: fixed + options.memoryReserveBytes + blockBytes, availableBytes: availableBytes, what: "this model with its reserve")
      }
    }
    guard blocks < Int(Int32.max) else { throw .badOption(name: "cache blocks", value: blocks, allowed: "under 2^31") }
    return MemoryPlan(
      weightBytes: weightBytes, mappedBytes: mappedBytes, scratchBytes: scratchBytes, cacheType: options.cacheType,
      cacheBytesPerToken: perToken, blockTokens: options.blockTokens, blockCount: blocks,
      multiHeadBytesPerToken: 2 * shape.layerCount * shape.headCount * (shape.nopeDim + shape.ropeDim + shape.valueDim),
      latentBytesPerToken16: 2 * shape.layerCount * (shape.latentRank + shape.ropeDim), availableBytes: availableBytes,
      reserveBytes: options.memoryReserveBytes)
  }

  /// What is printed at start, one line each.
  package var lines: [String] {
    var result: [String] = []
    if weightBytes > 0 { result.append("weights: \(byteText(weightBytes)) in memory") }
    if mappedBytes > 0 { result.append("weights: \(byteText(mappedBytes)) read from the mapped file") }
    result.append("work space: \(byteText(scratchBytes))")
    result.append(
      "latent cache (\(cacheType.rawValue)): \(cacheTokens) tokens in \(blockCount) blocks of \(blockTokens), "
        + "\(cacheBytesPerToken) bytes per token, \(byteText(cacheBytes))")
    let fits = cacheBytes / max(multiHeadBytesPerToken, 1)
    result.append(
      "the expanded keys and values of all heads would take \(multiHeadBytesPerToken) bytes per token in 16 bits: "
        + "the same memory would hold \(fits) tokens")
    result.append(
      "latents in 16 bits are \(percent(latentBytesPerToken16, of: multiHeadBytesPerToken)) % of that, "
        + "this cache \(percent(cacheBytesPerToken, of: multiHeadBytesPerToken)) %")
    if let availableBytes {
      result.append("memory available before loading: \(byteText(availableBytes)), kept free: \(byteText(reserveBytes))")
    }
    return result
  }

  /// Two decimals.
  private func percent(_ part: Int, of whole: Int) -> String {
    let hundredths = Int((Double(part) / Double(max(whole, 1)) * 10_000).rounded())
    let fraction = hundredths % 100
    return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
  }
}
