// A small blocking HTTP/1.1 client on loopback, for the tests of this target. Independent of our own HTTP code.

import FoundationEssentials
import Glibc

@testable import Serving

struct ClientFailure: Error, CustomStringConvertible {
  let description: String
}

struct TestAnswer {
  var status = 0
  var headers: [String: String] = [:]
  var body: [UInt8] = []
  var text: String { String(decoding: body, as: UTF8.self) }

  func completion() throws -> DecodedCompletion { try JSONDecoder().decode(DecodedCompletion.self, from: Data(body)) }
  func errorBody() throws -> DecodedError.Body { try JSONDecoder().decode(DecodedError.self, from: Data(body)).error }

  /// The payloads of a stream.
  var payloads: [String] {
    text.split(separator: "\n\n").map { $0.hasPrefix("data: ") ? String($0.dropFirst(6)) : "no event: \($0)" }
  }
}

struct DecodedError: Decodable {
  struct Body: Decodable {
    let message: String
    let type: String
    let param: String?
    let code: String?
  }
  let error: Body
}

/// One connection; closed with the object.
final class TestClient {
  private var descriptor: Int32
  private var buffer: [UInt8] = []

  init(_ service: Service) throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(UInt16(service.port)).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var timeout = timeval(tv_sec: 60, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
    guard result == 0 else { throw ClientFailure(description: "connect: errno \(errno)") }
  }

  deinit { hangUp() }

  func hangUp() {
    if descriptor >= 0 { close(descriptor) }
    descriptor = -1
  }

  func send(_ text: String) throws {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
      let count = bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      guard count > 0 else { throw ClientFailure(description: "send: errno \(errno)") }
      bytes = bytes.dropFirst(count)
    }
  }

  func get(_ path: String, _ headers: String...) throws -> TestAnswer {
    try send("GET \(path) HTTP/1.1\r\nHost: t\r\n" + headers.map { $0 + "\r\n" }.joined() + "\r\n")
    return try answer()
  }

  func sendCompletion(_ body: String, _ headers: [String] = ["Content-Type: application/json"]) throws {
    let fields = headers.map { $0 + "\r\n" }.joined()
    try send("POST /v1/completions HTTP/1.1\r\nHost: t\r\n\(fields)Content-Length: \(body.utf8.count)\r\n\r\n\(body)")
  }

  func complete(_ body: String, _ headers: [String] = ["Content-Type: application/json"]) throws -> TestAnswer {
    try sendCompletion(body, headers)
    return try answer()
  }

  /// `onChunk`: false stops reading in the middle.
  func answer(onChunk: ([UInt8]) -> Bool = { _ in true }) throws -> TestAnswer {
    var answer = TestAnswer()
    answer.status = Int(try line().split(separator: " ").dropFirst().first ?? "") ?? 0
    while case let field = try line(), !field.isEmpty {
      let parts = field.split(separator: ":", maxSplits: 1)
      if parts.count == 2 { answer.headers[parts[0].lowercased()] = String(parts[1].drop { $0 == " " }) }
    }
    guard answer.headers["transfer-encoding"] == "chunked" else {
      answer.body = try take(Int(answer.headers["content-length"] ?? "") ?? 0)
      return answer
    }
    while let size = Int(try line(), radix: 16), size > 0 {
      let chunk = try take(size)
      _ = try line()
      answer.body += chunk
      if !onChunk(chunk) { return answer }
    }
    _ = try line()
    return answer
  }

  private func line() throws -> String {
    while true {
      if let end = buffer.firstIndex(of: 10) {
        let line = buffer[..<end]
        buffer.removeFirst(end + 1)
        return String(decoding: line.last == 13 ? line.dropLast() : line, as: UTF8.self)
      }
      try fill()
    }
  }

  private func take(_ count: Int) throws -> [UInt8] {
    while buffer.count < count { try fill() }
    defer { buffer.removeFirst(count) }
    return Array(buffer.prefix(count))
  }

  private func fill() throws {
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    let count = recv(descriptor, &chunk, chunk.count, 0)
    guard count > 0 else { throw ClientFailure(description: count == 0 ? "closed" : "receive: errno \(errno)") }
    buffer += chunk.prefix(count)
  }
}
