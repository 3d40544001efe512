// A blocking client for the socket tests: raw bytes out, parsed answers in, with a generous limit on every wait so
// that a hang is a failure and not a stuck suite. Can speak TLS. Knows the server only by its port.

import CNet
import Glibc
import Testing

@testable import HTTP

struct ClientFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

struct ClientResponse {
  var status = 0
  var headers: [(String, String)] = []
  var body: [UInt8] = []
  var text: String { String(decoding: body, as: UTF8.self) }
  func header(_ name: String) -> String? { headers.first { $0.0.lowercased() == name.lowercased() }?.1 }
}

final class TestClient {
  static let waitMilliseconds: Int32 = 120_000
  let descriptor: Int32
  private var buffer: [UInt8] = []
  private var tls: TLSSession?
  private var isOpen = true

  init(port: Int, isIPv6: Bool = false, receiveBufferBytes: Int32? = nil, tls context: TLSContext? = nil) throws {
    descriptor = socket(isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { throw ClientFailure("socket: errno \(errno)") }
    if var bytes = receiveBufferBytes {
      setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
    }
    guard Self.connect(descriptor, port: port, isIPv6: isIPv6) == 0 else {
      let code = errno
      Glibc.close(descriptor)
      isOpen = false
      throw ClientFailure("connect: errno \(code)")
    }
    if let context {
      tls = TLSSession(context)
      try sendRaw([])
      while try !handshakeIsDone() { try receiveMore() }
    }
  }

  deinit { close() }

  static func connect(_ descriptor: Int32, port: Int, isIPv6: Bool) -> Int32 {
    let networkPort = UInt16(port).bigEndian
    if isIPv6 {
      var address = sockaddr_in6()
      address.sin6_family = sa_family_t(AF_INET6)
      address.sin6_port = networkPort
      address.sin6_addr = in6addr_loopback
      return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
        }
      }
    }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = networkPort
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
  }

  // MARK: Sending

  func send(_ text: String) throws { try send(Array(text.utf8)) }

  func send(_ bytes: [UInt8]) throws {
    guard let tls else { return try sendRaw(bytes) }
    guard tls.send(bytes) else { throw ClientFailure("TLS write failed") }
    try sendRaw([])
  }

  /// What TLS has waiting, then the bytes as they are.
  private func sendRaw(_ bytes: [UInt8]) throws {
    var all: [UInt8] = []
    tls?.takeOutput(into: &all)
    all += bytes
    var sent = 0
    while sent < all.count {
      let count = all[sent...].withUnsafeBufferPointer { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      guard count > 0 else { throw ClientFailure("send: errno \(errno)") }
      sent += count
    }
  }

  private func handshakeIsDone() throws -> Bool {
    guard let tls else { return true }
    var plaintext: [UInt8] = []
    // An empty read drives the handshake.
    guard tls.receive(UnsafeBufferPointer(start: nil, count: 0), plaintext: &plaintext) != .failed else {
      throw ClientFailure("TLS handshake failed")
    }
    try sendRaw([])
    return tls.isReady
  }

  func shutdownWriting() { Glibc.shutdown(descriptor, Int32(SHUT_WR)) }

  func close() {
    guard isOpen else { return }
    isOpen = false
    Glibc.close(descriptor)
  }

  /// Closes with RST.
  func reset() {
    var option = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    close()
  }

  // MARK: Receiving

  /// False at the end of the stream.
  @discardableResult
  func receiveMore() throws -> Bool {
    var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    guard poll(&poller, 1, Self.waitMilliseconds) > 0 else { throw ClientFailure("no answer in \(Self.waitMilliseconds) ms") }
    var chunk = [UInt8](repeating: 0, count: 65_536)
    let count = recv(descriptor, &chunk, chunk.count, 0)
    if count < 0 { throw ClientFailure("recv: errno \(errno)") }
    if count == 0 { return false }
    guard let tls else {
      buffer += chunk[..<count]
      return true
    }
    let before = buffer.count
    let reading = chunk[..<count].withUnsafeBufferPointer { tls.receive($0, plaintext: &buffer) }
    try sendRaw([])
    if reading == .failed { throw ClientFailure("TLS read failed") }
    return reading == .open || buffer.count > before
  }

  /// Whether bytes (or the end) can be read within the time.
  func isReadable(withinMilliseconds milliseconds: Int32) -> Bool {
    var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return !buffer.isEmpty || poll(&poller, 1, milliseconds) > 0
  }

  func readToEnd() throws -> [UInt8] {
    while try receiveMore() {}
    defer { buffer = [] }
    return buffer
  }

  /// True when the server closes, by FIN or RST, without another byte.
  func isClosedByServer() -> Bool {
    do { return try buffer.isEmpty && !receiveMore() } catch let failure as ClientFailure {
      return failure.description.contains("errno \(ECONNRESET)")
    } catch { return false }
  }

  func readResponse(hasBody: Bool = true) throws -> ClientResponse {
    var response = try readHead()
    guard hasBody, response.status >= 200, response.status != 204, response.status != 304 else { return response }
    if response.header("Transfer-Encoding") == "chunked" {
      while true {
        guard let size = Int(try readLine(), radix: 16) else { throw ClientFailure("bad chunk size") }
        response.body += try take(size)
        guard try readLine().isEmpty else { throw ClientFailure("bad chunk end") }
        if size == 0 { return response }
      }
    }
    if let length = response.header("Content-Length").flatMap({ Int($0) }) {
      response.body = try take(length)
    } else {
      response.body = try readToEnd()
    }
    return response
  }

  func readHead() throws -> ClientResponse {
    var response = ClientResponse()
    let parts = try readLine().split(separator: " ", maxSplits: 2)
    guard parts.count == 3, parts[0] == "HTTP/1.1", let status = Int(parts[1]) else { throw ClientFailure("bad status line \(parts)") }
    response.status = status
    while true {
      let line = try readLine()
      if line.isEmpty { return response }
      guard let colon = line.firstIndex(of: ":") else { throw ClientFailure("bad header \(line)") }
      response.headers.append((String(line[..<colon]), String(line[line.index(colon, offsetBy: 2)...])))
    }
  }

  /// One chunk of a chunked answer; nil at the end.
  func readChunk() throws -> [UInt8]? {
    guard let size = Int(try readLine(), radix: 16) else { throw ClientFailure("bad chunk size") }
    let chunk = try take(size)
    guard try readLine().isEmpty else { throw ClientFailure("bad chunk end") }
    return size == 0 ? nil : chunk
  }

  private func take(_ count: Int) throws -> [UInt8] {
    while buffer.count < count { guard try receiveMore() else { throw ClientFailure("the stream ended in a body") } }
    defer { buffer.removeFirst(count) }
    return Array(buffer[..<count])
  }

  private func readLine() throws -> String {
    while true {
      if let feed = buffer.firstIndex(of: 10) {
        guard feed > 0, buffer[feed - 1] == 13 else { throw ClientFailure("a bare LF") }
        defer { buffer.removeFirst(feed + 1) }
        return String(decoding: buffer[..<(feed - 1)], as: UTF8.self)
      }
      guard try receiveMore() else { throw ClientFailure("the stream ended in a head") }
    }
  }

  func get(_ path: String, headers: String = "") throws -> ClientResponse {
    try send("GET \(path) HTTP/1.1\r\nHost: test\r\n\(headers)\r\n")
    return try readResponse()
  }
}
