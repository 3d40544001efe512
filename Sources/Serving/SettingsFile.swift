// Reads config/server.json5 (JSON5) into ServerSettings and checks it: an unknown key, a wrong type or a value out of range is
// one clear line. Knows the table of keys, not what they do.

import FoundationEssentials

/// What is wrong with the configuration. `description` is one line.
package enum SettingsError: Error, Equatable, Sendable, CustomStringConvertible {
  case unreadable(path: String, reason: String)
  case syntax(path: String, line: Int)
  case unknownKey(path: String, key: String)
  case badValue(source: String, key: String, value: String, requirement: String)
  case conflict(String)

  package var description: String {
    switch self {
    case .unreadable(let path, let reason): "\(path): \(reason)"
    case .syntax(let path, let line): "\(path): not valid JSON5 near line \(line)"
    case .unknownKey(let path, let key): "\(path): unknown key \"\(key)\""
    case .badValue(let source, let key, let value, let requirement):
      "\(source): \(key) must be \(requirement)" + (value.isEmpty ? "" : ", not \(value)")
    case .conflict(let message): message
    }
  }
}

extension ServerSettings {
  /// Largest configuration file that is read.
  private static let fileByteLimit = 1 << 20

  /// Defaults, overridden by the keys in the file.
  package init(file path: String) throws(SettingsError) {
    guard let data = FileManager.default.contents(atPath: path) else {
      throw .unreadable(path: path, reason: "cannot be read (no such file, a directory, or no permission)")
    }
    guard data.count <= Self.fileByteLimit else { throw .unreadable(path: path, reason: "is larger than \(Self.fileByteLimit) bytes") }
    try self.init(json5: Array(data), path: path)
  }

  /// `path` is for messages only.
  package init(json5 bytes: [UInt8], path: String) throws(SettingsError) {
    self.init()
    let entries: FileEntries
    do { entries = try Self.decoder().decode(FileEntries.self, from: Data(bytes)) } catch {
      throw .syntax(path: path, line: Self.lineOfError(bytes))
    }
    for name in entries.container.allKeys.map(\.stringValue).sorted() {
      guard let key = SettingKey.named(name) else { throw .unknownKey(path: path, key: name) }
      guard let value = entries.value(key) else {
        throw .badValue(source: path, key: name, value: entries.literal(name), requirement: key.requirement)
      }
      try set(key, value, source: path)
    }
    try checkTogether()
  }

  /// A command-line flag: `key` is a key of the file, `text` the flag's value, `flag` its name for the message (`--port`).
  package mutating func override(_ key: String, with text: String, flag: String) throws(SettingsError) {
    guard let key = SettingKey.named(key) else { throw .unknownKey(path: flag, key: key) }
    let value: SettingValue? =
      switch key.kind {
      case .integer: Int(text).map { .integer($0) }
      case .boolean: ["true": .boolean(true), "false": .boolean(false)][text]
      case .text, .choice, .optionalText: .text(text)
      }
    guard let value else { throw .badValue(source: flag, key: key.name, value: "\"\(text)\"", requirement: key.requirement) }
    try set(key, value, source: flag)
  }

  /// Rules over more than one key; call again after overrides.
  package func checkTogether() throws(SettingsError) {
    if (tlsCertificate == nil) != (tlsKey == nil) {
      throw .conflict("tlsCertificate and tlsKey must be set together: one of them is missing")
    }
  }

  private mutating func set(_ key: SettingKey, _ value: SettingValue, source: String) throws(SettingsError) {
    func bad(_ literal: String) -> SettingsError {
      .badValue(source: source, key: key.name, value: literal, requirement: key.requirement)
    }
    switch (key.kind, value) {
    case (.integer(let place, let range), .integer(let number)):
      guard range.contains(number) else { throw bad("\(number)") }
      self[keyPath: place] = number
    case (.boolean(let place), .boolean(let flag)):
      self[keyPath: place] = flag
    case (.text(let place), .text(let text)):
      guard !text.isEmpty else { throw bad("\"\"") }
      self[keyPath: place] = text
    case (.choice(let place, let values), .text(let text)):
      guard values.contains(text) else { throw bad("\"\(text)\"") }
      self[keyPath: place] = text
    case (.optionalText(let place), .text(let text)):
      guard !text.isEmpty else { throw bad("\"\"") }
      self[keyPath: place] = text
    case (.optionalText(let place), .null):
      self[keyPath: place] = nil
    default:
      throw bad("")
    }
  }

  private static func decoder() -> JSONDecoder {
    let decoder = JSONDecoder()
    decoder.allowsJSON5 = true
    return decoder
  }

  /// The decoder does not say where it stopped. The file is one object with a key per line, so the last line up to which it
  /// parses (with the brace closed) is the line before the error.
  private static func lineOfError(_ bytes: [UInt8]) -> Int {
    let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    guard lines.count <= 2000 else { return 1 }
    var good = 0
    var prefix: [UInt8] = []
    for (index, line) in lines.enumerated() {
      prefix += line + [UInt8(ascii: "\n")]
      let closed = Data(prefix + [UInt8(ascii: "}")])
      if (try? decoder().decode(FileEntries.self, from: closed)) != nil { good = index + 1 }
    }
    return min(good + 1, lines.count)
  }
}

private enum SettingValue {
  case integer(Int)
  case boolean(Bool)
  case text(String)
  case null
}

/// The file's object, value by value.
private struct FileEntries: Decodable {
  let container: KeyedDecodingContainer<NamedKey>

  init(from decoder: any Decoder) throws {
    container = try decoder.container(keyedBy: NamedKey.self)
  }

  /// The value if it has the key's type.
  func value(_ key: SettingKey) -> SettingValue? {
    let name = NamedKey(stringValue: key.name)
    switch key.kind {
    case .integer: return (try? container.decode(Int.self, forKey: name)).map { .integer($0) }
    case .boolean: return (try? container.decode(Bool.self, forKey: name)).map { .boolean($0) }
    case .text, .choice: return (try? container.decode(String.self, forKey: name)).map { .text($0) }
    case .optionalText:
      if (try? container.decodeNil(forKey: name)) == true { return .null }
      return (try? container.decode(String.self, forKey: name)).map { .text($0) }
    }
  }

  /// A scalar as written, for messages; empty for anything else.
  func literal(_ key: String) -> String {
    let name = NamedKey(stringValue: key)
    if let number = try? container.decode(Int.self, forKey: name) { return "\(number)" }
    if let number = try? container.decode(Double.self, forKey: name) { return "\(number)" }
    if let flag = try? container.decode(Bool.self, forKey: name) { return "\(flag)" }
    if let text = try? container.decode(String.self, forKey: name) { return "\"\(text.prefix(60))\"" }
    return (try? container.decodeNil(forKey: name)) == true ? "null" : ""
  }
}

/// Any member name.
struct NamedKey: CodingKey {
  let stringValue: String
  var intValue: Int? { nil }
  init(stringValue: String) { self.stringValue = stringValue }
  init?(intValue: Int) { nil }
}
