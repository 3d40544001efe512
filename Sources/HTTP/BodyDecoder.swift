// Sans-IO decoder of a request body by length or by chunks (RFC 9112 section 7.1). Trailers are checked and dropped;
// chunk extensions are bounded. Knows no sockets and no request.

package struct BodyDecoder: Sendable {
  private enum Stage: Sendable {
    case fixed(remaining: Int)
    case chunkSize
    case chunkData(remaining: Int)
    case chunkEnd
    case trailer
    case complete
  }

  private static let maxSizeDigits = 16
  private static let maxSizeLineBytes = 256
  /// Bytes of size lines beyond the digits and of trailers that one body may carry in all.
  private static let maxOverheadBytes = 16_384

  private let limits: ParserLimits
  private var stage: Stage
  private var line: [UInt8] = []  // the current size or trailer line, without its end
  private var overheadBytes = 0
  private var trailerCount = 0
  package private(set) var body: [UInt8] = []

  package init(framing: BodyFraming, limits: ParserLimits) {
    self.limits = limits
    switch framing {
    case .none, .length(0): stage = .complete
    case .length(let count): stage = .fixed(remaining: count)
    case .chunked: stage = .chunkSize
    }
  }

  package var isComplete: Bool { if case .complete = stage { true } else { false } }

  /// Takes what belongs to the body from `input[start...]`; returns the position after it.
  package mutating func consume(_ input: [UInt8], from start: Int) throws(Rejection) -> Int {
    var position = start
    while position < input.count, !isComplete {
      switch stage {
      case .fixed(let remaining):
        let count = take(input, from: position, atMost: remaining)
        position += count
        stage = count == remaining ? .complete : .fixed(remaining: remaining - count)
      case .chunkData(let remaining):
        let count = take(input, from: position, atMost: remaining)
        position += count
        stage = count == remaining ? .chunkEnd : .chunkData(remaining: remaining - count)
      case .chunkSize:
        guard try takeLine(input, &position) else { return position }
        try beginChunk()
      case .chunkEnd:
        guard try takeLine(input, &position) else { return position }
        guard line.isEmpty else { throw Rejection(400, "a chunk is longer than its size") }
        stage = .chunkSize
      case .trailer:
        guard try takeLine(input, &position) else { return position }
        try endTrailerLine()
      case .complete: break
      }
    }
    return position
  }

  private mutating func take(_ input: [UInt8], from position: Int, atMost remaining: Int) -> Int {
    let count = min(remaining, input.count - position)
    body.append(contentsOf: input[position..<(position + count)])
    return count
  }

  /// Collects bytes into `line`; true when its CRLF has come (and been taken off).
  private mutating func takeLine(_ input: [UInt8], _ position: inout Int) throws(Rejection) -> Bool {
    while position < input.count {
      let byte = input[position]
      position += 1
      if byte == UInt8(ascii: "\n") {
        guard line.last == UInt8(ascii: "\r") else { throw Rejection(400, "a chunk line ends without CR") }
        line.removeLast()
        return true
      }
      if line.last == UInt8(ascii: "\r") { throw Rejection(400, "a CR inside a chunk line") }
      line.append(byte)
      try checkOverhead()
    }
    return false
  }

  private mutating func checkOverhead() throws(Rejection) {
    switch stage {
    case .chunkEnd:
      guard line.count <= 1 else { throw Rejection(400, "a chunk is longer than its size") }
    case .chunkSize:
      guard line.count <= Self.maxSizeLineBytes else { throw Rejection(400, "a chunk extension is too long") }
      if line.count > Self.maxSizeDigits + 1 { overheadBytes += 1 }
    default: overheadBytes += 1
    }
    guard overheadBytes <= Self.maxOverheadBytes else { throw Rejection(431, "chunk extensions or trailers are too long") }
  }

  private mutating func beginChunk() throws(Rejection) {
    let end = line.firstIndex(of: UInt8(ascii: ";")) ?? line.count
    guard end > 0, end <= Self.maxSizeDigits, line[end...].allSatisfy(ASCII.isFieldValue) else { throw Rejection(400, "bad chunk size") }
    var size = 0
    for byte in line[..<end] {
      guard let digit = ASCII.hexValue(byte) else { throw Rejection(400, "bad chunk size") }
      let (high, isOverflow) = size.multipliedReportingOverflow(by: 16)
      guard !isOverflow else { throw Rejection(400, "chunk size overflow") }
      size = high | Int(digit)
    }
    guard size <= limits.maxBodyBytes - body.count else { throw Rejection(413, "the body is larger than \(limits.maxBodyBytes) bytes") }
    line.removeAll(keepingCapacity: true)
    stage = size == 0 ? .trailer : .chunkData(remaining: size)
  }

  private mutating func endTrailerLine() throws(Rejection) {
    guard !line.isEmpty else {
      stage = .complete
      return
    }
    trailerCount += 1
    guard trailerCount <= limits.maxHeaderFields else { throw Rejection(431, "too many trailers") }
    _ = try FieldLine.parse(line[...])
    line.removeAll(keepingCapacity: true)
  }
}
