// The instruction counts on record, Tests/Fixtures/counts/instructions.json, and what a new count is beside them.
// Knows not how they are counted.

import FoundationEssentials

struct CountRecord: Codable {
  static let path = "/" + #filePath.split(separator: "/").dropLast(2).joined(separator: "/") + "/Fixtures/counts/instructions.json"

  let command: [String]
  let instructions: InstructionCounts

  init(_ instructions: InstructionCounts) {
    command = ["quire-count write mini.gguf", "valgrind " + Callgrind.options.joined(separator: " ") + " quire-count run mini.gguf"]
    self.instructions = instructions
  }

  static func read() throws -> CountRecord {
    try JSONDecoder().decode(CountRecord.self, from: Data(contentsOf: URL(filePath: path)))
  }

  func write() throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    try (encoder.encode(self) + Data("\n".utf8)).write(to: URL(filePath: Self.path))
  }
}

/// A count beside the one on record.
struct CountChange {
  enum Verdict { case grown, kept, shrunk }

  let counted: Int
  let recorded: Int

  /// Ten per cent decide, either way.
  var verdict: Verdict {
    if counted * 10 > recorded * 11 { return .grown }
    return counted * 10 < recorded * 9 ? .shrunk : .kept
  }

  var text: String {
    let hundredths = Int((Double(counted - recorded) / Double(max(recorded, 1)) * 10_000).rounded())
    let (whole, fraction) = (hundredths.magnitude / 100, hundredths.magnitude % 100)
    return "\(counted) instructions, \(recorded) on record (\(hundredths < 0 ? "-" : "+")\(whole).\(fraction < 10 ? "0" : "")\(fraction) %)"
  }
}
