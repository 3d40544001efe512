// One blocking TCP connection that carries requests one after another. Knows sockets and the way requests are written; what the answers
// mean is AnswerParser's and the caller's business. Unsafe code: the socket calls.

import Glibc

/// Confined to one thread. Closed with the object.
final class ClientConnection {
  /// A server that says nothing for that long has failed: a long prompt on a slow machine takes minutes.
  static let silenceLimitSeconds = 900
  private static let receiveBytes = 65_536

  private let descriptor: Int32
  private let url: ServerURL
  private var buffer = [UInt8](repeating: 0, count: receiveBytes)
  /// A request has been answered on it.
  private(set) var isReused = false

  init(_ url: ServerURL) throws(LoadClientError) {
    self.url = url
    descriptor = try Self.connect(url)
    var on: Int32 = 1
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    var limit = timeval(tv_sec: Self.silenceLimitSeconds, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(descriptor) }

  /// The bytes of a request; `body` nil is a GET.
  static func request(_ url: ServerURL, path: String, body: [UInt8]?) -> [UInt8] {
    var head = "\(body == nil ? "GET" : "POST") \(url.prefix)\(path) HTTP/1.1\r\nHost: \(url.authority)\r\nAccept: */*\r\n"
    if let body { head += "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n" }
    return Array((head + "\r\n").utf8) + (body ?? [])
  }

  /// Sends and reads the answer to its end; body bytes go to `onBody` with the status as they arrive. Afterwards `parser` says whether
  /// the connection can be used again.
  func exchange(
    _ request: [UInt8], parser: inout AnswerParser, onBody: (Int, [UInt8]) throws(LoadClientError) -> Void
  ) throws(LoadClientError) {
    try send(request)
    while !parser.isDone {
      let count = try receive()
      guard count > 0 else {
        try parser.close()
        break
      }
      let body = try parser.feed(buffer[..<count])
      if !body.isEmpty { try onBody(parser.status, body) }
    }
    isReused = true
  }

  private func send(_ bytes: [UInt8]) throws(LoadClientError) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { throw .socket(call: "send", reason: Self.reason(errno)) }
      rest = rest.dropFirst(count)
    }
  }

  /// 0: the server has closed.
  private func receive() throws(LoadClientError) -> Int {
    while true {
      let count = recv(descriptor, &buffer, buffer.count, 0)
      if count >= 0 { return count }
      switch errno {
      case EINTR: continue
      case EAGAIN: throw .socket(call: "receive", reason: "nothing came for \(Self.silenceLimitSeconds) s")
      default: throw .socket(call: "receive", reason: Self.reason(errno))
      }
    }
  }

  private static func reason(_ code: Int32) -> String { String(cString: strerror(code)) }

  /// The first of the host's addresses that accepts.
  private static func connect(_ url: ServerURL) throws(LoadClientError) -> Int32 {
    var hints = addrinfo()
    hints.ai_flags = AI_NUMERICSERV
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let result = getaddrinfo(url.host, "\(url.port)", &hints, &list)
    guard result == 0 else { throw .unknownHost(url.host, reason: String(cString: gai_strerror(result))) }
    defer { freeaddrinfo(list) }
    var code = ECONNREFUSED
    var next = list
    while let entry = next?.pointee {
      next = entry.ai_next
      let descriptor = socket(entry.ai_family, entry.ai_socktype | Int32(SOCK_CLOEXEC.rawValue), entry.ai_protocol)
      guard descriptor >= 0 else {
        code = errno
        continue
      }
      if Glibc.connect(descriptor, entry.ai_addr, entry.ai_addrlen) == 0 { return descriptor }
      code = errno
      close(descriptor)
    }
    throw .cannotConnect(host: url.host, port: url.port, reason: reason(code))
  }
}
