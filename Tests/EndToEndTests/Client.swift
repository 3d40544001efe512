// A small blocking HTTP/1.1 client over real sockets, independent of Quire's own HTTP code.
// Knows chunked bodies and server-sent events; no TLS.

import FoundationEssentials
import Glibc

struct Answer {
  var status = 0
  var headers: [String: String] = [:]
  var body: [UInt8] = []
  var text: String { String(decoding: body, as: UTF8.self) }
  func json<T: Decodable>(_ type: T.Type) throws -> T {
    do { return try JSONDecoder().decode(type, from: Data(body)) } catch { throw TestFailure("\(error) in \(text)") }
  }
}

/// One connection.
final class Client {
  private let descriptor: Int32
  private var buffer: [UInt8] = []
  private var position = 0

  init(port: Int, timeoutSeconds: Int = 120) throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(UInt16(port)).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var timeout = timeval(tv_sec: timeoutSeconds, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
    if result != 0 {
      close(descriptor)
      throw TestFailure("cannot connect to port \(port): errno \(errno)")
    }
  }

  deinit { close(descriptor) }

  func get(_ path: String, headers: [String] = []) throws -> Answer {
    try send("GET \(path) HTTP/1.1\r\nHost: test\r\n" + headers.map { $0 + "\r\n" }.joined() + "\r\n")
    return try readAnswer()
  }

  func post(_ path: String, _ body: String, headers: [String] = []) throws -> Answer {
    try sendPost(path, body, headers: headers)
    return try readAnswer()
  }

  func sendPost(_ path: String, _ body: String, headers: [String] = []) throws {
    let head =
      "POST \(path) HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: \(body.utf8.count)\r\n"
      + headers.map { $0 + "\r\n" }.joined() + "\r\n"
    try send(head + body)
  }

  func send(_ text: String) throws {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
      let count = bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      guard count > 0 else { throw TestFailure("send failed: errno \(errno)") }
      bytes = bytes.dropFirst(count)
    }
  }

  /// Reads one answer; every piece of a chunked body goes to `onChunk` as it comes (return false to stop reading).
  func readAnswer(onChunk: (([UInt8]) -> Bool)? = nil) throws -> Answer {
    var answer = Answer()
    let statusLine = try readLine().split(separator: " ")
    guard statusLine.count >= 2, let status = Int(statusLine[1]) else { throw TestFailure("bad status line \(statusLine)") }
    answer.status = status
    while case let line = try readLine(), !line.isEmpty {
      let parts = line.split(separator: ":", maxSplits: 1)
      if parts.count == 2 { answer.headers[parts[0].lowercased()] = parts[1].drop { $0 == " " }.description }
    }
    if status == 100 { return try readAnswer(onChunk: onChunk) }
    if answer.headers["transfer-encoding"] == "chunked" {
      while let size = Int(try readLine(), radix: 16), size > 0 {
        let chunk = try read(size)
        _ = try readLine()
        answer.body += chunk
        if let onChunk, !onChunk(chunk) { return answer }
      }
      _ = try readLine()
    } else if let length = answer.headers["content-length"].flatMap({ Int($0) }) {
      answer.body = try read(length)
    }
    return answer
  }

  private func readLine() throws -> String {
    while true {
      if let end = buffer[position...].firstIndex(of: 10) {
        let line = buffer[position..<end]
        position = end + 1
        return String(decoding: line.last == 13 ? line.dropLast() : line, as: UTF8.self)
      }
      try fill()
    }
  }

  private func read(_ count: Int) throws -> [UInt8] {
    while buffer.count - position < count { try fill() }
    defer { position += count }
    return Array(buffer[position..<position + count])
  }

  private func fill() throws {
    if position > 0 {
      buffer.removeFirst(position)
      position = 0
    }
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    let count = recv(descriptor, &chunk, chunk.count, 0)
    guard count > 0 else { throw TestFailure(count == 0 ? "connection closed" : "receive failed: errno \(errno)") }
    buffer += chunk.prefix(count)
  }
}

// MARK: - The answers of the API, as a client sees them

struct Completion: Decodable {
  struct Choice: Decodable {
    let index: Int
    let text: String
    let finish_reason: String?
    let logprobs: LogProbabilities?
  }
  struct LogProbabilities: Decodable {
    let tokens: [String]
    let token_logprobs: [Double?]
    let top_logprobs: [[String: Double]?]?
    let text_offset: [Int]
  }
  struct Usage: Decodable {
    struct Details: Decodable { let cached_tokens: Int? }
    let prompt_tokens: Int
    let completion_tokens: Int
    let total_tokens: Int
    let prompt_tokens_details: Details?
  }
  let id: String
  let object: String
  let model: String
  let choices: [Choice]
  let usage: Usage?

  /// Ids of the tokens, when the request said `return_tokens_as_token_ids`.
  func tokenIDs(_ choice: Int = 0) -> [Int] {
    (choices[choice].logprobs?.tokens ?? []).compactMap { Int($0.split(separator: ":").last ?? "") }
  }
}

struct APIFailure: Decodable {
  struct Body: Decodable {
    let message: String
    let type: String
    let param: String?
    let code: String?
  }
  let error: Body
}

/// The payloads of a stream of server-sent events, without `data: `.
func events(_ body: [UInt8]) -> [String] {
  String(decoding: body, as: UTF8.self).split(separator: "\n").filter { $0.hasPrefix("data: ") }.map { String($0.dropFirst(6)) }
}
