// Server-sent events framing (WHATWG HTML, section 9.2). Knows no HTTP and no JSON.

package enum SSE {
  /// One event with the payload in `data:` lines: a line break inside the payload starts another `data:` line,
  /// so that no payload can forge a field or end the event.
  package static func data(_ payload: [UInt8]) -> [UInt8] {
    var event: [UInt8] = []
    event.reserveCapacity(payload.count + 8)
    event.append(contentsOf: prefix)
    var previous: UInt8 = 0
    for byte in payload {
      switch byte {
      case UInt8(ascii: "\n") where previous == UInt8(ascii: "\r"): break  // CRLF is one line break
      case UInt8(ascii: "\n"), UInt8(ascii: "\r"):
        event.append(UInt8(ascii: "\n"))
        event.append(contentsOf: prefix)
      default: event.append(byte)
      }
      previous = byte
    }
    event.append(UInt8(ascii: "\n"))
    event.append(UInt8(ascii: "\n"))
    return event
  }

  private static let prefix = Array("data: ".utf8)
}
