// Damaged files: a valid model cut at every byte of its header and changed byte by byte must give a typed error or a model
// whose every tensor can be read; never a crash. QUIRE_SOAK=1 raises the number of cases.

import FoundationEssentials
import Glibc
import Testing

@testable import ModelFile

private let isSoak = ProcessInfo.processInfo.environment["QUIRE_SOAK"] == "1"

/// One file that is changed in place; the rest of the model stays.
private struct Victim {
  let folder: TemporaryFolder
  let modelPath: String
  let filePath: String
  let bytes: [UInt8]
  let headerBytes: Int

  static func gguf(legacy: Bool) throws -> Victim {
    let writer = SmallModel.gguf(legacy: legacy)
    let folder = TemporaryFolder()
    let path = try folder.write("x.gguf", writer.bytes())
    return Victim(folder: folder, modelPath: path, filePath: path, bytes: writer.bytes(), headerBytes: writer.header().count)
  }

  /// `file`: "model.safetensors", "config.json" or "model.safetensors.index.json"
  static func huggingFace(_ file: String) throws -> Victim {
    let folder = TemporaryFolder()
    try SmallModel.huggingFace(folder)
    let writer = SafeTensorsWriter(tensors: SmallModel.huggingFaceTensors)
    let map = SmallModel.huggingFaceTensors.map { "\"\($0.name)\":\"model.safetensors\"" }.joined(separator: ",")
    let contents = [
      "model.safetensors": writer.bytes(), "config.json": Array(SmallModel.config.utf8),
      "model.safetensors.index.json": Array("{\"metadata\":{},\"weight_map\":{\(map)}}".utf8),
    ]
    let bytes = contents[file] ?? []
    let path = try folder.write(file, bytes)
    let headerBytes = file == "model.safetensors" ? 8 + writer.headerText().utf8.count : bytes.count
    return Victim(folder: folder, modelPath: folder.path, filePath: path, bytes: bytes, headerBytes: headerBytes)
  }

  /// Opens the model, and if that works reads the first and last byte of every tensor and all that inspect prints.
  func open() -> Bool {
    do {
      let model = try ModelFile(path: modelPath)
      var sum = 0
      for tensor in model.tensors {
        sum &+= Int(tensor.bytes.first ?? 0) &+ Int(tensor.bytes.last ?? 0)
        #expect(tensor.bytes.count == tensor.elementCount / tensor.type.blockElements * tensor.type.blockBytes)
      }
      let h = model.hyperparameters
      for layer in 0..<h.layerCount {
        if case .experts(_, _, let gate, let up, let down, _) = model.layer(layer).ffn {
          for part in [gate, up, down] {
            let last = part.rows(ofExpert: h.expertCount - 1)
            #expect(last.rows.upperBound <= last.tensor.rows)
          }
        }
      }
      let description = model.describe()
      #expect(description.metadata.allSatisfy { !$0.value.contains("\n") })
      #expect(sum >= 0)
      return true
    } catch {
      #expect(!error.description.isEmpty && !error.description.contains { $0.isNewline })
      return false
    }
  }
}

@Suite struct ModelFileFuzzTests {
  private static func victims() throws -> [Victim] {
    [
      try .gguf(legacy: false), try .gguf(legacy: true), try .huggingFace("model.safetensors"), try .huggingFace("config.json"),
      try .huggingFace("model.safetensors.index.json"),
    ]
  }

  @Test(arguments: 0..<5)
  func truncated(_ kind: Int) throws {
    let victim = try Self.victims()[kind]
    #expect(victim.open())
    let step = isSoak ? 1 : 3
    var lengths = Array(stride(from: 0, to: victim.headerBytes, by: step))
    lengths += Array(stride(from: victim.headerBytes, to: victim.bytes.count, by: 97)) + [victim.bytes.count - 1]
    for length in lengths.reversed() {
      #expect(truncate(victim.filePath, length) == 0)
      #expect(!victim.open(), "cut to \(length) bytes")
    }
  }

  @Test(arguments: 0..<5)
  func oneByteChanged(_ kind: Int) throws {
    let victim = try Self.victims()[kind]
    var generator = SeededGenerator(state: UInt64(kind) + 1)
    let descriptor = Glibc.open(victim.filePath, O_RDWR | O_CLOEXEC)
    defer { close(descriptor) }
    var opened = 0
    let cases = isSoak ? 200_000 : 3000
    for _ in 0..<cases {
      let position = Int.random(in: 0..<victim.headerBytes, using: &generator)
      let old = victim.bytes[position]
      let interesting: [UInt8] = [
        0, 1, 0x7F, 0x80, 0xFF, old ^ (1 << UInt8.random(in: 0..<8, using: &generator)), UInt8.random(in: 0...255, using: &generator),
      ]
      var new = interesting.randomElement(using: &generator) ?? 0
      #expect(pwrite(descriptor, &new, 1, off_t(position)) == 1)
      if victim.open() { opened += 1 }
      var restored = old
      #expect(pwrite(descriptor, &restored, 1, off_t(position)) == 1)
    }
    #expect(opened > 0 && opened < cases)
  }

  /// Eight bytes at once: what counts, lengths and offsets are made of.
  @Test(arguments: 0..<3)
  func wordsChanged(_ kind: Int) throws {
    let victim = try Self.victims()[kind]
    var generator = SeededGenerator(state: UInt64(kind) + 100)
    let words: [UInt64] = [.max, 1 << 63, (1 << 63) - 1, 1 << 62, 1 << 60, 1 << 32, (1 << 32) - 1, 1 << 31, UInt64(victim.bytes.count), 0]
    let descriptor = Glibc.open(victim.filePath, O_RDWR | O_CLOEXEC)
    defer { close(descriptor) }
    for _ in 0..<(isSoak ? 100_000 : 1500) {
      let position = Int.random(in: 0..<victim.headerBytes - 8, using: &generator)
      var word = (words.randomElement(using: &generator) ?? 0) &- UInt64.random(in: 0...1, using: &generator)
      #expect(pwrite(descriptor, &word, 8, off_t(position)) == 8)
      _ = victim.open()
      let restored = Array(victim.bytes[position..<position + 8])
      #expect(pwrite(descriptor, restored, 8, off_t(position)) == 8)
    }
    #expect(victim.open())
  }
}
