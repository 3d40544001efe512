// Who may ask: Bearer keys from a file (RFC 6750). Comparison takes the same time whatever a client sends. Knows no routes.

import FoundationEssentials

package struct APIKeys: Sendable {
  package enum Answer: Sendable, Equatable {
    /// `cacheSalt` keeps the cached prefixes of different keys apart, so that nobody can find out by timing what others asked.
    case allowed(cacheSalt: UInt64)
    case refused
  }

  private static let fileByteLimit = 1 << 20
  private static let maxKeyBytes = 512
  private let keys: [(bytes: [UInt8], cacheSalt: UInt64)]

  /// Everybody may ask.
  package static let none = APIKeys(keys: [])

  package init(keys: [[UInt8]]) {
    self.keys = keys.map { key in
      // Seeded per process: the salt tells nothing about the key.
      var hasher = Hasher()
      hasher.combine(key)
      return (key, UInt64(bitPattern: Int64(hasher.finalize())) | 1)
    }
  }

  /// One key per line; empty lines and lines from # on do not count.
  package init(file path: String) throws(SettingsError) {
    guard let data = FileManager.default.contents(atPath: path), data.count <= Self.fileByteLimit else {
      throw .unreadable(path: path, reason: "the API key file cannot be read")
    }
    let lines = Array(data).split(separator: UInt8(ascii: "\n")).map(Self.trimmed)
    let keys = lines.filter { !$0.isEmpty && $0.first != UInt8(ascii: "#") }
    guard !keys.isEmpty else { throw .unreadable(path: path, reason: "the API key file holds no key") }
    for key in keys {
      guard key.count <= Self.maxKeyBytes, key.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
        throw .unreadable(path: path, reason: "an API key must be up to \(Self.maxKeyBytes) visible ASCII characters without spaces")
      }
    }
    self.init(keys: keys.map(Array.init))
  }

  package var isEmpty: Bool { keys.isEmpty }

  /// `authorization`: the values of all Authorization fields.
  package func check(_ authorization: [ArraySlice<UInt8>]) -> Answer {
    guard !keys.isEmpty else { return .allowed(cacheSalt: 0) }
    guard authorization.count == 1, let value = authorization.first, value.count > 7, value.count <= Self.maxKeyBytes + 64,
      value.prefix(7).map({ $0 | 0x20 }).elementsEqual("bearer ".utf8)
    else { return .refused }
    let offered = Array(Self.trimmed(value.dropFirst(7)))
    var salt: UInt64?
    // All keys are compared, to the end, whatever is found.
    for key in keys where Self.isEqual(key.bytes, offered) { salt = key.cacheSalt }
    return salt.map { .allowed(cacheSalt: $0) } ?? .refused
  }

  /// Takes the time that the offered key's length asks for, not that of the first difference.
  private static func isEqual(_ key: [UInt8], _ offered: [UInt8]) -> Bool {
    var difference = key.count ^ offered.count
    for (index, byte) in offered.enumerated() { difference |= Int(byte ^ key[index % key.count]) }
    return difference == 0
  }

  private static func trimmed(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    let isSpace = { (byte: UInt8) in byte == 0x20 || byte == 0x09 || byte == 0x0D }
    var rest = line.drop(while: isSpace)
    while let last = rest.last, isSpace(last) { rest.removeLast() }
    return rest
  }
}
