// Bytes on their way to a socket. Knows no socket.

struct OutputBuffer {
  /// An idle connection keeps at most this much memory.
  private static let maxKeptBytes = 16_384

  var bytes: [UInt8] = []
  private var sentCount = 0

  var count: Int { bytes.count - sentCount }
  var isEmpty: Bool { count == 0 }

  func withUnsent<Result>(_ body: (UnsafeBufferPointer<UInt8>) -> Result) -> Result {
    bytes.withUnsafeBufferPointer { body(UnsafeBufferPointer(rebasing: $0[sentCount...])) }
  }

  mutating func didSend(_ count: Int) {
    sentCount += count
    if sentCount == bytes.count {
      bytes.removeAll(keepingCapacity: bytes.capacity <= Self.maxKeptBytes)
      sentCount = 0
    } else if sentCount > bytes.count / 2 {
      // Amortised: what moves is less than what was sent.
      bytes.removeFirst(sentCount)
      sentCount = 0
    }
  }
}
