// The two standard outputs, by descriptor: nothing is buffered, so lines keep their order and none is lost at an abrupt end.
// Knows nothing of what is written.

import Glibc

enum Terminal {
  static var isErrorATerminal: Bool { isatty(STDERR_FILENO) == 1 }

  static func write(_ bytes: [UInt8]) { write(bytes, to: STDOUT_FILENO) }
  static func print(_ line: String) { write(Array((line + "\n").utf8), to: STDOUT_FILENO) }
  /// Progress and remarks: standard output stays clean for what was asked for.
  static func note(_ text: String, terminator: String = "\n") { write(Array((text + terminator).utf8), to: STDERR_FILENO) }

  private static func write(_ bytes: [UInt8], to descriptor: Int32) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }
}
