// Reading weights from files that change under us. What the weights are once loaded is the golden tests' business.

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
