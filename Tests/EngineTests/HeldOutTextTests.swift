// What rounding the latent cache costs on real text: the default model on the parts of the novels that it never saw, as
// config/models/austen/text.py writes them (valid-*.npy) into the folder that QUIRE_HELD_OUT names. Skipped without the variable. The
// numbers of README.md are what this prints.

import CKernels
import FoundationEssentials
import Glibc
import ModelFile
import Scheduler
import Testing

@testable import Engine

@Suite struct HeldOutTextTests {
  static let directory = getenv("QUIRE_HELD_OUT").map { String(cString: $0) }
  static let modelPath =
    "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/") + "/config/models/austen/austen-q8_0.gguf"
  static let piece = 512

  /// Exact mode, so that the cache is all that differs: perplexity, and how far a token's log-probability is from the one with a float32 cache.
  @Test(.enabled(if: directory != nil)) func lossPerCacheType() throws {
    let model = try ModelFile(path: Self.modelPath)
    let texts = try Self.texts(tokens: model.hyperparameters.maxContext - 1)
    var reference: [Double] = []
    for cache in CacheType.allCases {
      let options = EngineOptions(
        threads: 2, compute: .exact, cacheType: cache, cacheTokens: 4096, maxBatchTokens: Self.piece, maxSequences: Self.piece,
        memoryReserveBytes: 0)
      let transformer = try Transformer(model: model, options: options)
      let logProbabilities = texts.flatMap { Self.logProbabilities($0, transformer) }
      if cache == .f32 { reference = logProbabilities }
      let count = Double(logProbabilities.count)
      let differences = zip(logProbabilities, reference).map { abs($0 - $1) }.sorted()
      let mean = differences.reduce(0, +) / count
      print(
        "held-out text, \(cache.rawValue) cache: \(transformer.plan.cacheBytesPerToken) bytes per token, \(logProbabilities.count) tokens, "
          + "perplexity \(exp(-logProbabilities.reduce(0, +) / count)), log-probability off by \(scientific(mean)) in the mean, "
          + "\(scientific(differences[differences.count * 99 / 100])) at the 99th percentile, \(scientific(differences.last ?? 0)) at most")
      #expect(count >= 5000 && mean < 0.05, "\(cache)")
    }
  }

  /// The first `tokens` of each held-out part.
  private static func texts(tokens: Int) throws -> [[Int32]] {
    let directory = directory ?? "."
    let names = try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.hasPrefix("valid-") && $0.hasSuffix(".npy") }
    return try names.sorted().map { name in
      // NumPy's format 1.0: 8 bytes of magic and version, the length of the header in 2, the header, then here little-endian uint16.
      let bytes = [UInt8](try Data(contentsOf: URL(filePath: directory + "/" + name)))
      try #require(bytes.count > 10 && bytes[6] == 1, "\(name) is no .npy file")
      let first = 10 + Int(bytes[8]) + Int(bytes[9]) << 8
      try #require(first <= bytes.count, "\(name) is cut off")
      let words = bytes[first...].count / 2
      return (0..<min(tokens, words)).map { Int32(bytes[first + 2 * $0]) + Int32(bytes[first + 2 * $0 + 1]) << 8 }
    }
  }

  /// The model's log-probability of every token of `ids`, each after those before it and the beginning of a text (token 0).
  private static func logProbabilities(_ ids: [Int32], _ transformer: Transformer) -> [Double] {
    let width = transformer.hyperparameters.vocabularySize
    let kernels = qk_kernels_best().pointee
    let blockTokens = transformer.plan.blockTokens
    let inputs = [0] + ids.dropLast()
    var result: [Double] = []
    for start in stride(from: 0, to: inputs.count, by: piece) {
      let tokens = Array(inputs[start..<min(start + piece, inputs.count)])
      let blocks = (start + tokens.count + blockTokens - 1) / blockTokens
      var batch = Batch()
      batch.tokens = tokens
      batch.blockTable = (0..<blocks).map { Int32($0) }
      batch.entries = [
        Batch.Entry(
          sequence: SequenceID(rawValue: 1), startPosition: start, tokens: 0..<tokens.count, blockTable: 0..<blocks,
          logitsRows: 0..<tokens.count, isPrefill: true)
      ]
      batch.logitsRowCount = tokens.count
      let logits = transformer.forward(batch)
      for row in tokens.indices {
        let scores = UnsafeBufferPointer(rebasing: logits[row * width..<(row + 1) * width])
        guard let base = scores.baseAddress else { continue }
        result.append(Double(scores[Int(ids[start + row])]) - kernels.logsumexp(base, width))
      }
    }
    return result
  }
}
