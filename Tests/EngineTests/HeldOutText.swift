// Text that the default model never saw, and the log-probabilities that a transformer gives to it. Knows nothing of what is expected of them.

import CKernels
import FoundationEssentials
import Glibc
import Scheduler
import Testing

@testable import Engine

enum HeldOutText {
  static let repository = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
  static let modelPath = repository + "/config/models/austen/austen-q8_0.gguf"

  /// Token ids: the whole held-out parts, as config/models/austen/text.py writes them (valid-*.npy), in the folder that QUIRE_HELD_OUT
  /// names; without it the beginnings of three of them (Tests/Fixtures/heldout).
  private static let wholeDirectory = getenv("QUIRE_HELD_OUT").map { String(cString: $0) }
  private static let directory = wholeDirectory ?? repository + "/Tests/Fixtures/heldout"
  static let isWhole = wholeDirectory != nil

  /// The first `tokens` of each part.
  static func texts(tokens: Int) throws -> [[Int32]] {
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
}

/// Log-probabilities of texts, each token after those before it and the beginning of a text (token 0).
struct TextScores {
  static let piece = 512
  static let topCount = 20

  /// Of the tokens of the texts.
  private(set) var tokens: [Double] = []
  /// The most probable tokens at each of these places, [tokens.count, topCount], or those of the scores to compare with.
  private(set) var topIDs: [Int] = []
  private(set) var top: [Double] = []

  var perplexity: Double { exp(-tokens.reduce(0, +) / Double(tokens.count)) }

  static func options(_ compute: ComputeMode, _ cache: CacheType, expandedFromTokens: Int? = nil) -> EngineOptions {
    EngineOptions(
      threads: 2, compute: compute, cacheType: cache, cacheTokens: 4096, maxBatchTokens: piece, maxSequences: piece, memoryReserveBytes: 0,
      expandedFromTokens: expandedFromTokens)
  }

  init(_ texts: [[Int32]], _ transformer: Transformer, topOf reference: TextScores? = nil) {
    topIDs = reference?.topIDs ?? []
    for text in texts { add(text, transformer, choosesTop: reference == nil) }
  }

  private mutating func add(_ ids: [Int32], _ transformer: Transformer, choosesTop: Bool) {
    let width = transformer.hyperparameters.vocabularySize
    let kernels = qk_kernels_best().pointee
    let inputs = [0] + ids.dropLast()
    for start in stride(from: 0, to: inputs.count, by: Self.piece) {
      let piece = inputs[start..<min(start + Self.piece, inputs.count)]
      let logits = transformer.forward(Self.batch(piece, blockTokens: transformer.plan.blockTokens))
      for row in 0..<piece.count {
        let scores = UnsafeBufferPointer(rebasing: logits[row * width..<(row + 1) * width])
        guard let base = scores.baseAddress else { continue }
        let sum = kernels.logsumexp(base, width)
        if choosesTop { topIDs += Self.largest(scores) }
        let first = tokens.count * Self.topCount
        top += topIDs[first..<first + Self.topCount].map { Double(scores[$0]) - sum }
        tokens.append(Double(scores[Int(ids[start + row])]) - sum)
      }
    }
  }

  /// The tokens at `piece.indices` of one sequence, every row of logits wanted.
  private static func batch(_ piece: ArraySlice<Int32>, blockTokens: Int) -> Batch {
    let blocks = (piece.endIndex + blockTokens - 1) / blockTokens
    var batch = Batch()
    batch.tokens = Array(piece)
    batch.blockTable = (0..<blocks).map { Int32($0) }
    batch.entries = [
      Batch.Entry(
        sequence: SequenceID(rawValue: 1), startPosition: piece.startIndex, tokens: 0..<piece.count, blockTable: 0..<blocks,
        logitsRows: 0..<piece.count, isPrefill: true)
    ]
    batch.logitsRowCount = piece.count
    return batch
  }

  /// Indices of the `topCount` largest, in no order.
  private static func largest(_ row: UnsafeBufferPointer<Float>) -> [Int] {
    var chosen = Array(0..<topCount)
    var least = 0
    var bar = -Float.infinity
    for index in 0..<row.count where index < topCount || row[index] > bar {
      if index >= topCount { chosen[least] = index }
      guard index >= topCount - 1 else { continue }
      for slot in 0..<topCount where row[chosen[slot]] < row[chosen[least]] { least = slot }
      bar = row[chosen[least]]
    }
    return chosen
  }
}

/// How far numbers are from those they should be.
struct Distances {
  let mean: Double
  let percentile99: Double
  let largest: Double

  init(_ values: [Double], _ reference: [Double]) {
    let sorted = zip(values, reference).map { abs($0 - $1) }.sorted()
    mean = sorted.reduce(0, +) / Double(max(sorted.count, 1))
    percentile99 = sorted.isEmpty ? 0 : sorted[sorted.count * 99 / 100]
    largest = sorted.last ?? 0
  }
}

extension Distances: CustomStringConvertible {
  var description: String { "mean \(scientific(mean)), 99 % within \(scientific(percentile99)), all within \(scientific(largest))" }
}
