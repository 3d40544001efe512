// Opens every tiny checkpoint (made by make_tiny.py; SPEC section 8): those kept in Tests/Fixtures/tiny, and all of them when
// the reference folder or QUIRE_TINY is there. Checks what comes out against facts known from the generator.

import FoundationEssentials
import Glibc
import Testing

@testable import ModelFile

private let fixtures = resolvedPath(
  URL(filePath: resolvedPath(#filePath)).deletingLastPathComponent().path(percentEncoded: false) + "/../Fixtures")

/// Folders that hold tiny checkpoints, the fullest first.
private let tinyRoots: [String] = {
  let tests = URL(filePath: resolvedPath(#filePath)).deletingLastPathComponent().deletingLastPathComponent()
  let repository = tests.deletingLastPathComponent()
  let candidates = [
    ProcessInfo.processInfo.environment["QUIRE_TINY"],
    repository.deletingLastPathComponent().path(percentEncoded: false) + "/shared/reference/tiny",
    fixtures + "/tiny",
  ]
  return candidates.compactMap { $0 }.filter(isDirectory)
}()

private func children(_ directory: String) -> [String] { (try? fileNames(in: directory, limit: 10_000)) ?? [] }

private let tinyDirectories = tinyRoots.flatMap { root in
  children(root).map { root + "/" + $0 }.filter { isDirectory($0) && children($0).contains("config.json") }
}
private let tinyGGUFs = tinyRoots.flatMap { root in
  [root, root + "/gguf"].flatMap { folder in children(folder).filter { $0.hasSuffix(".gguf") }.map { folder + "/" + $0 } }
}

@Suite struct TinyCheckpointTests {
  @Test(arguments: tinyDirectories + tinyGGUFs)
  func opens(_ path: String) throws {
    let model = try ModelFile(path: path)
    let h = model.hyperparameters
    #expect(model.warnings == [])
    #expect(model.embedding.shape == [h.vocabularySize, h.hiddenSize])
    #expect(model.outputNorm.elementCount == h.hiddenSize)
    #expect((model.head == nil) == h.tiedEmbeddings)
    #expect(h.eosTokens.count >= 1)
    #expect(h.bosToken != nil)
    for layer in 0..<h.layerCount {
      let tensors = model.layer(layer)
      #expect((tensors.query == nil) == (h.queryRank != nil))
      #expect((tensors.queryABias != nil) == (h.attentionBias && h.queryRank != nil))
      if case .experts(_, let bias, let gate, let up, let down, let shared) = tensors.ffn {
        #expect(h.isMixtureOfExperts[layer])
        #expect((bias != nil) == (h.selection == .biasedGroups))
        #expect((shared != nil) == (h.sharedExpertCount > 0))
        for expert in [0, h.expertCount - 1] {
          #expect(gate.rows(ofExpert: expert).rows.count == h.expertWidth)
          #expect(up.rows(ofExpert: expert).rows.count == h.expertWidth)
          #expect(down.rows(ofExpert: expert).rows.count == h.hiddenSize)
          #expect(down.rows(ofExpert: expert).rows.upperBound <= down.rows(ofExpert: expert).tensor.rows)
        }
      } else {
        #expect(!h.isMixtureOfExperts[layer])
      }
    }
    let description = model.describe()
    #expect(description.byteCount == model.tensors.reduce(0) { $0 + $1.bytes.count })
    #expect(!description.metadata.isEmpty)
    #expect(description.metadata.allSatisfy { $0.value.count <= 61 + 10 })
    var read = [UInt8](repeating: 0, count: model.embedding.bytes.count)
    #expect(pread(model.embedding.descriptor, &read, read.count, model.embedding.fileOffset) == read.count)
    #expect(read.elementsEqual(model.embedding.bytes))
  }

  /// Names, types, shapes and bytes against the Python packages `gguf` and `safetensors` (Fixtures/modelfile/make_fixtures.py).
  @Test func agreesWithThePythonReaders() throws {
    let oracle = try String(contentsOfFile: fixtures + "/modelfile/oracle.txt", encoding: .utf8)
    var checked = 0
    for line in oracle.split(separator: "\n") {
      let fields = line.split(separator: " ")
      let path = fixtures + "/tiny/" + fields[0]
      guard access(path, F_OK) == 0 else { continue }
      let tensors = try ModelFile(path: path).tensors.sorted { $0.name < $1.name }  // the model itself is gone: tensors keep their file
      #expect(String(tensors.count) == fields[1], "\(path)")
      var hash = FNV()
      for tensor in tensors {
        hash.add("\(tensor.name) \(tensor.type.name) \(tensor.shape.map(String.init).joined(separator: ","))\n".utf8)
        hash.add(tensor.bytes.prefix(64))
        hash.add(tensor.bytes.suffix(64))
      }
      #expect(
        hash.state == UInt64(fields[2], radix: 16), "\(path) differs from oracle.txt: run make_fixtures.py if the fixtures were made anew")
      checked += 1
    }
    #expect(checked > 0)
  }

  private struct FNV {
    var state: UInt64 = 0xCBF2_9CE4_8422_2325
    mutating func add(_ bytes: some Sequence<UInt8>) {
      for byte in bytes { state = (state ^ UInt64(byte)) &* 0x100_0000_01B3 }
    }
  }

  @Test func somethingWasOpened() { #expect(!tinyGGUFs.isEmpty || !tinyDirectories.isEmpty) }
}
