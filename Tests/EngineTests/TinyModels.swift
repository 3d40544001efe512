// Finds the tiny checkpoints with goldens (SPEC 8) and runs them: in the shared folder beside the repository (or $QUIRE_TINY) and in
// Tests/Fixtures/tiny. Knows nothing of what is expected of them.

import CKernels
import FoundationEssentials
import Glibc
import ModelFile
import Scheduler
import Testing

@testable import Engine

struct Golden: Decodable {
  struct Prompt: Decodable {
    let ids: [Int32]
    let logits_last: [Float]
    let greedy_32: [Int32]
    let min_greedy_margin: Double?
  }
  struct Trace: Decodable {
    let last_token_residual_after_layer: [[Float]]
    let prompt_index: Int
  }
  let prompts: [Prompt]
  let trace: Trace?
}

struct GoldenGGUF: Decodable {
  struct File: Decodable {
    let types: [String]
    let prompts: [Golden.Prompt]
  }
  let files: [String: File]
}

struct TinyModel: CustomTestStringConvertible, Sendable {
  let path: String
  let prompts: [PromptCase]
  let residuals: [[Float]]?
  let tracedPrompt: Int

  struct PromptCase: Sendable {
    let ids: [Int32]
    let logits: [Float]
    let greedy: [Int32]
    let margin: Double?
  }

  var name: String { path.split(separator: "/").suffix(2).joined(separator: "/") }
  var testDescription: String { name }
  var longestPrompt: Int { prompts.indices.max { prompts[$0].ids.count < prompts[$1].ids.count } ?? 0 }
}

enum TinyModels {
  private static let repository = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }

  private static var roots: [String] {
    var result = [repository + "/Tests/Fixtures/tiny"]
    if let path = getenv("QUIRE_TINY") {
      result.append(String(cString: path))
    } else {
      result.append(repository + "/../shared/reference/tiny")
    }
    return result
  }

  /// Directories with config.json and golden.json.
  static let directories: [TinyModel] = roots.flatMap { root in
    list(root).compactMap { name -> TinyModel? in
      let path = root + "/" + name
      guard let golden: Golden = decode(path + "/golden.json") else { return nil }
      return TinyModel(
        path: path, prompts: golden.prompts.map(TinyModel.PromptCase.init), residuals: golden.trace?.last_token_residual_after_layer,
        tracedPrompt: golden.trace?.prompt_index ?? 0)
    }
  }

  static let ggufFiles: [TinyModel] = roots.flatMap { root -> [TinyModel] in
    guard let golden: GoldenGGUF = decode(root + "/gguf/golden-gguf.json") else { return [] }
    return golden.files.sorted { $0.key < $1.key }.compactMap { name, file in
      let path = root + "/gguf/" + name
      guard access(path, R_OK) == 0 else { return nil }
      return TinyModel(
        path: path, prompts: file.prompts.map(TinyModel.PromptCase.init), residuals: nil, tracedPrompt: 0)
    }
  }

  /// A few of them where one of each form is enough: split and joined kv_b, several quantised types.
  static let ggufSample: [TinyModel] = ggufFiles.filter {
    $0.path.contains("/mixed-") || $0.path.hasSuffix("v2lite-legacy-q4_k_m.gguf") || $0.path.hasSuffix("v2lite-q5_k_m.gguf")
      || $0.path.hasSuffix("v3-q8_0.gguf")
  }

  static func noteIfMissing() {
    if directories.isEmpty { print("note: no tiny checkpoints found (\(roots.joined(separator: ", "))): golden tests are skipped") }
  }

  /// The kernel variants of this CPU.
  static var kernelVariants: [String] {
    ["scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "avx512zen4", "avx512zen5"].filter { qk_kernels_named($0) != nil }
  }

  private static func list(_ directory: String) -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []).sorted()
  }

  /// nil if there is no such file. A golden that cannot be read is a broken test, not a missing one.
  private static func decode<T: Decodable>(_ path: String) -> T? {
    guard let data = FileManager.default.contents(atPath: path) else { return nil }
    do { return try JSONDecoder().decode(T.self, from: data) } catch { preconditionFailure("\(path): \(error)") }
  }
}

extension TinyModel.PromptCase {
  init(_ prompt: Golden.Prompt) {
    ids = prompt.ids
    logits = prompt.logits_last
    greedy = prompt.greedy_32
    margin = prompt.min_greedy_margin
  }
}

/// One sequence driven by hand: its tokens, the blocks it owns.
struct HandDriven {
  var tokens: [Int32]
  var computed = 0
  let blocks: [Int32]
}

/// Runs sequences on a transformer without the scheduler.
struct Driver {
  let transformer: Transformer

  init(_ model: ModelFile, _ options: EngineOptions) throws {
    transformer = try Transformer(model: model, options: options)
  }

  /// Blocks `first`, `first + step`, ... enough for `tokens` positions: scattered on purpose.
  func blocks(forTokens tokens: Int, first: Int, step: Int) -> [Int32] {
    let count = (tokens + transformer.plan.blockTokens - 1) / transformer.plan.blockTokens
    return (0..<count).map { Int32(first + $0 * step) }
  }

  /// One step over pieces of sequences; the logits of the last token of each piece.
  func step(_ pieces: [(sequence: Int, count: Int)], _ sequences: inout [HandDriven]) -> [[Float]] {
    var batch = Batch()
    for (id, piece) in pieces.enumerated() {
      let sequence = sequences[piece.sequence]
      let first = batch.tokens.count
      let table = batch.blockTable.count
      batch.tokens += sequence.tokens[sequence.computed..<sequence.computed + piece.count]
      let used = (sequence.computed + piece.count + transformer.plan.blockTokens - 1) / transformer.plan.blockTokens
      batch.blockTable += sequence.blocks.prefix(used)
      batch.entries.append(
        Batch.Entry(
          sequence: SequenceID(rawValue: UInt64(id)), startPosition: sequence.computed, tokens: first..<first + piece.count,
          blockTable: table..<table + used, logitsRows: piece.count - 1..<piece.count, isPrefill: piece.count > 1))
      batch.logitsRowCount += 1
      sequences[piece.sequence].computed += piece.count
    }
    let logits = transformer.forward(batch)
    let vocabulary = transformer.hyperparameters.vocabularySize
    return pieces.indices.map { Array(logits[$0 * vocabulary..<($0 + 1) * vocabulary]) }
  }

  /// Prefills alone in pieces of `chunk`, then decodes greedily. The logits after the prompt, and `count` tokens.
  func run(_ ids: [Int32], chunk: Int = .max, greedy count: Int, firstBlock: Int = 0) -> (logits: [Float], tokens: [Int32], all: [[Float]])
  {
    var sequences = [HandDriven(tokens: ids, blocks: blocks(forTokens: ids.count + count, first: firstBlock, step: 1))]
    var last: [Float] = []
    while sequences[0].computed < ids.count {
      let piece = min(chunk, transformer.options.maxBatchTokens, ids.count - sequences[0].computed)
      last = step([(0, piece)], &sequences)[0]
    }
    let prompt = last
    var all = [last]
    var tokens: [Int32] = []
    for index in 0..<count {
      let token = argmax(last)
      tokens.append(token)
      guard index + 1 < count else { break }
      sequences[0].tokens.append(token)
      last = step([(0, 1)], &sequences)[0]
      all.append(last)
    }
    return (prompt, tokens, all)
  }
}

/// Three tokens of one sequence in one block: a batch that is all right.
struct TestBatch {
  var batch = Batch()

  static let empty = Batch()

  init() {
    batch.tokens = [1, 2, 3]
    batch.blockTable = [0]
    batch.entries = [
      Batch.Entry(
        sequence: SequenceID(rawValue: 1), startPosition: 0, tokens: 0..<3, blockTable: 0..<1, logitsRows: 2..<3, isPrefill: true)
    ]
    batch.logitsRowCount = 1
  }
}

func argmax(_ row: [Float]) -> Int32 {
  var best = 0
  for index in row.indices where row[index] > row[best] { best = index }
  return Int32(best)
}

func logSoftmax(_ row: [Float]) -> [Double] {
  let largest = Double(row.max() ?? 0)
  let sum = row.reduce(0.0) { $0 + exp(Double($1) - largest) }
  return row.map { Double($0) - largest - log(sum) }
}

func largestDifference(_ a: [Float], _ b: [Float]) -> Double {
  zip(logSoftmax(a), logSoftmax(b)).map { abs($0 - $1) }.max() ?? .infinity
}

/// rms of the difference over the standard deviation of `reference` (SPEC 8).
func relativeRMS(_ a: [Float], _ reference: [Float]) -> Double {
  let n = Double(reference.count)
  let mean = reference.reduce(0.0) { $0 + Double($1) } / n
  let variance = reference.reduce(0.0) { $0 + (Double($1) - mean) * (Double($1) - mean) } / n
  let square = zip(a, reference).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) } / n
  return (square / variance).squareRoot()
}
