// Mutated requests into parser and state machine: nothing may trap, and the cuts of the input may not change what is
// understood. Seeded; QUIRE_SOAK=1 runs far more rounds.

import Glibc
import Testing

@testable import HTTP

@Suite struct ParserFuzzTests {
  private static let tokens = [
    "\r\n", "\n", "\r", " ", "\t", ":", ",", ";", "\0", "%", "%2F", "%00", "chunked", "Content-Length: ", "Transfer-Encoding: ",
    "Host: a\r\n",
    "Connection: close\r\n", "Expect: 100-continue\r\n", "HTTP/1.1", "HTTP/1.0", "0\r\n\r\n", "FFFFFFFFFFFFFFFF", "18446744073709551616",
    "-1",
    "http://", "//", "*", "\u{FF}", "GET ", "POST ", "OPTIONS ", "\r\n\r\n",
  ]

  @Test func mutationsNeverDisagree() {
    let rounds = getenv("QUIRE_SOAK") == nil ? 6_000 : 2_000_000
    var random = SplitMix(seed: 20_240_607)
    let corpus =
      RequestParserTests.good.map { Array($0.0.utf8) } + RequestParserTests.bad.map { Array($0.0.utf8) }.filter { $0.count < 400 }
    var limits = ParserLimits()
    limits.maxHeadBytes = 400
    limits.maxTargetBytes = 100
    limits.maxHeaderFields = 8
    limits.maxBodyBytes = 200
    var handled = 0
    for round in 0..<rounds {
      var bytes = corpus[Int(random.next() % UInt64(corpus.count))]
      if random.next() % 4 == 0 { bytes += corpus[Int(random.next() % UInt64(corpus.count))] }
      for _ in 0..<(random.next() % 4) { mutate(&bytes, &random) }
      let whole = actions(for: [bytes], limits: limits)
      var pieces: [[UInt8]] = []
      var start = 0
      while start < bytes.count {
        let count = min(bytes.count - start, 1 + Int(random.next() % 30))
        pieces.append(Array(bytes[start..<(start + count)]))
        start += count
      }
      guard actions(for: pieces, limits: limits) == whole, actions(for: bytes.map { [$0] }, limits: limits) == whole else {
        Issue.record("round \(round): the cuts change the answer to \(String(decoding: bytes, as: UTF8.self).debugDescription)")
        return
      }
      for action in whole {
        guard case .handle(let request) = action else { continue }
        handled += 1
        #expect(request.body.count <= limits.maxBodyBytes && request.head.headers.count <= limits.maxHeaderFields)
        #expect(request.head.minorVersion == 0 || request.head.headers.values(of: "host").count == 1)
        #expect(request.head.headers.values(of: "transfer-encoding").isEmpty || request.head.headers.values(of: "content-length").isEmpty)
      }
    }
    #expect(handled > rounds / 20)  // the mutations leave enough alive to mean something
  }

  private func mutate(_ bytes: inout [UInt8], _ random: inout SplitMix) {
    let position = Int(random.next() % UInt64(bytes.count + 1))
    switch random.next() % 6 {
    case 0 where position < bytes.count: bytes[position] = UInt8(truncatingIfNeeded: random.next())
    case 1 where position < bytes.count: bytes.remove(at: position)
    case 2: bytes.insert(contentsOf: Self.tokens[Int(random.next() % UInt64(Self.tokens.count))].utf8, at: position)
    case 3: bytes.removeLast(bytes.count - position)
    case 4 where position < bytes.count: bytes[position] ^= 1 << UInt8(random.next() % 8)
    default:
      let end = min(bytes.count, position + Int(random.next() % 40))
      bytes.insert(contentsOf: Array(bytes[position..<end]), at: position)
    }
  }
}
