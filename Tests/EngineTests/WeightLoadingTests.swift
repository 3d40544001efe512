// Reading weights from files that change under us, and where and as what they lie then. What they compute is the golden tests' business.

import CKernels
import FoundationEssentials
import Glibc
import ModelFile
import Testing

@testable import Engine

@Suite struct WeightLoadingTests {
  private static let names = ["gguf/mixed-v2lite.gguf", "v2lite-bf16", "v3-fp8"]

  private static let models = (TinyModels.directories + TinyModels.ggufFiles).filter { model in
    names.contains { model.path.hasSuffix("Fixtures/tiny/" + $0) }
  }

  /// A file that became shorter after it was opened is an error with a text, not a signal.
  @Test(arguments: [ComputeMode.exact, .fast])
  func truncatedAfterOpening(_ compute: ComputeMode) throws {
    try #require(Self.models.count == Self.names.count)
    for tiny in Self.models {
      let copy = try Self.copied(tiny)
      defer { try? FileManager.default.removeItem(atPath: copy) }
      let model = try ModelFile(path: copy)
      let weights = try #require(model.tensors.last)
      for length in [weights.fileOffset / 2, 1] {
        #expect(truncate(weights.path, length) == 0)
        #expect(throws: EngineError.weightsUnreadable(errno: ENODATA), "\(tiny.name) cut to \(length)") {
          _ = try Transformer(model: model, options: GoldenTests.options(compute))
        }
      }
    }
    #expect("\(EngineError.weightsUnreadable(errno: ENODATA))".contains("ended before its weights did"))
    #expect("\(EngineError.weightsUnreadable(errno: EIO))".contains("errno \(EIO)"))
  }

  /// In fast mode nothing is read from the file once the weights are loaded: it may go, and its pages too.
  @Test func fastModeNeedsNoFileOnceLoaded() throws {
    for tiny in Self.models {
      let copy = try Self.copied(tiny)
      defer { try? FileManager.default.removeItem(atPath: copy) }
      let expected = try Driver(try ModelFile(path: tiny.path), GoldenTests.options(.fast)).run(tiny.prompts[0].ids, greedy: 8)
      let model = try ModelFile(path: copy)
      let weights = try #require(model.tensors.last)
      let driver = try Driver(model, GoldenTests.options(.fast))
      #expect(truncate(weights.path, 1) == 0)
      let result = driver.run(tiny.prompts[0].ids, greedy: 8)
      #expect(result.logits == expected.logits && result.tokens == expected.tokens, "\(tiny.name)")
    }
  }

  /// W_UK in the form that the file does not hold: Q8_0 where the file's own type is multiplied in int8 blocks, else 16-bit integers; element by
  /// element what it is in exact mode, but for the rounding.
  @Test func transposedKeys() throws {
    var seen: Set<UInt32> = []
    for tiny in Self.models {
      let model = try ModelFile(path: tiny.path)
      let fast = try Transformer(model: model, options: GoldenTests.options(.fast))
      let exact = try Transformer(model: model, options: GoldenTests.options(.exact))
      for (layer, weights) in fast.weights.layers.enumerated() {
        let expandedKeys = try #require(weights.attention.expandedKeys)
        for head in 0..<expandedKeys.count {
          let source = exact.weights.layers[layer].attention.absorbedKeys[head]  // [c, n]
          // In exact mode what is transposed is float32.
          let isAbsorbedTransposed = source.descriptor.pointee.type == QK_F32
          let turned = isAbsorbedTransposed ? weights.attention.absorbedKeys[head] : expandedKeys[head]
          seen.insert(turned.descriptor.pointee.type.rawValue)
          var expected = Self.values(of: source)
          if !isAbsorbedTransposed {
            let keys = expected
            qk_transpose_f32(keys, source.rows, source.columns, source.columns, &expected, source.rows)
          }
          Self.expectRounded(turned, expected, "\(tiny.name) layer \(layer) head \(head)")
        }
      }
    }
    #expect(seen == [QK_Q8_0.rawValue, QK_INT16.rawValue])
  }

  /// Each element within its rounding of `expected` [rows, columns].
  private static func expectRounded(_ matrix: Matrix, _ expected: [Float], _ place: String) {
    let values = values(of: matrix)
    let (block, unit) = matrix.descriptor.pointee.type == QK_Q8_0 ? (32, Float(1) / 127) : (matrix.columns, Float(1) / 4096)
    for begin in stride(from: 0, to: matrix.rows * matrix.columns, by: block) {
      let range = begin..<begin + block
      let largest = expected[range].map(abs).max() ?? 0
      let error = zip(values[range], expected[range]).map { abs($0 - $1) }.max() ?? 0
      #expect(error <= 0.51 * unit * largest, "\(place) from \(begin)")
    }
  }

  /// [rows, columns]
  private static func values(of matrix: Matrix) -> [Float] {
    var whole = matrix.descriptor.pointee
    let bytes = qk_row_bytes(whole.type, whole.columns)
    var rows = [UInt8](repeating: 0, count: qk_group_count(whole.rows) * Int(QK_ROW_GROUP) * bytes)
    var out = [Float](repeating: 0, count: whole.rows * whole.columns)
    rows.withUnsafeMutableBytes { rows in
      if whole.layout == QK_PACKED, let base = rows.baseAddress {
        for group in 0..<qk_group_count(whole.rows) { qk_unpack_group(whole, group, base + group * Int(QK_ROW_GROUP) * bytes) }
        whole = qk_file_matrix(whole.type, base, whole.rows, whole.columns, whole.scales)
      }
      qk_kernels_scalar().pointee.dequantize_rows(&whole, 0, whole.rows, &out, whole.columns)
    }
    return out
  }

  /// What attention fetches ahead is what is read after it, and lies in the engine's memory: W_UV first, gate and up last.
  @Test func weightsAfterAttentionLieBehindOneAnother() throws {
    for tiny in Self.models {
      let model = try ModelFile(path: tiny.path)
      let fast = try Transformer(model: model, options: GoldenTests.options(.fast))
      for layer in 0..<model.hyperparameters.layerCount {
        let weights = fast.weights.layers[layer]
        let range = weights.afterAttention
        let begin = try #require(range.baseAddress)
        #expect(begin == weights.attention.values[0].descriptor.pointee.data)
        let certain =
          switch weights.feedForward {
          case .dense(let gated, _, _): [weights.attention.output, gated.gate, gated.up]
          case .experts(let experts):
            [weights.attention.output, experts.router] + [experts.shared?.gate, experts.shared?.up].compactMap { $0 }
          }
        var end = begin
        for matrix in certain.map(\.descriptor.pointee) {
          let data = try #require(matrix.data)
          #expect(data > end, "\(tiny.name): in the order in which they are read")
          end = data + matrix.row_bytes * matrix.rows
        }
        #expect(range.count == end - begin, "\(tiny.name): and nothing behind them")
      }
      let exact = try Transformer(model: model, options: GoldenTests.options(.exact))
      #expect(exact.weights.layers[0].afterAttention.isEmpty)
    }
  }

  /// Files stay open for reading as long as their model lives, no longer.
  @Test func filesAreClosed() throws {
    let copy = try Self.copied(try #require(Self.models.first { $0.path.hasSuffix(".gguf") }))
    defer { try? FileManager.default.removeItem(atPath: copy) }
    let descriptor = try ModelFile(path: copy).embedding.descriptor
    var file = stat()
    var opened = stat()
    #expect(stat(copy, &file) == 0)
    // Another test may have been given the number since: it has another file, as nobody else knows this one.
    #expect(fstat(descriptor, &opened) != 0 || (opened.st_dev, opened.st_ino) != (file.st_dev, file.st_ino))
  }

  private static func copied(_ model: TinyModel) throws -> String {
    let path = FileManager.default.temporaryDirectory.path(percentEncoded: false) + "quire-loading-\(UUID().uuidString)"
    try FileManager.default.copyItem(atPath: model.path, toPath: path)
    return path
  }
}
