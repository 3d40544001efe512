// Listening sockets. Knows no event loop and no HTTP. Unsafe code: the sockaddr calls.

import Glibc

enum Socket {
  static let maxPortTries = 16

  static func describe(_ code: Int32) -> String { String(cString: strerror(code)) }

  /// Non-blocking listeners on every address of the host, all on one port ("localhost" has two addresses).
  static func listen(host: String, port: Int, backlog: Int) throws(ServerError) -> (descriptors: [Int32], port: Int) {
    guard (0...65_535).contains(port) else { throw .badAddress(host: host, reason: "port \(port) is not in 0...65535") }
    var failure = ServerError.addressInUse(host: host, port: port)
    for _ in 0..<maxPortTries {
      do {
        return try listenOnce(host: host, port: port, backlog: backlog)
      } catch {
        failure = error
        // A port that was free for the first address may be taken for the second: try another, if any port will do.
        guard port == 0, case .addressInUse = error else { break }
      }
    }
    throw failure
  }

  private static func listenOnce(host: String, port: Int, backlog: Int) throws(ServerError) -> (descriptors: [Int32], port: Int) {
    var hints = addrinfo()
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let result = getaddrinfo(host.isEmpty ? nil : host, "0", &hints, &list)
    guard result == 0 else { throw .badAddress(host: host, reason: String(cString: gai_strerror(result))) }
    defer { freeaddrinfo(list) }
    var descriptors: [Int32] = []
    var boundPort = port
    var failure: ServerError?
    var next = list
    while let entry = next {
      next = entry.pointee.ai_next
      do {
        let descriptor = try bindAndListen(entry.pointee, host: host, port: boundPort, backlog: backlog)
        descriptors.append(descriptor)
        boundPort = try localPort(descriptor)
      } catch {
        // A host without IPv6 still has the IPv4 half of "localhost"; a port in use is an error on any address.
        failure = error
        if case .badAddress = error { continue }
        break
      }
    }
    if let failure, descriptors.isEmpty || !failure.isMissingAddress {
      for descriptor in descriptors { close(descriptor) }
      throw failure
    }
    guard !descriptors.isEmpty else { throw .badAddress(host: host, reason: "it has no address") }
    return (descriptors, boundPort)
  }

  private static func bindAndListen(_ entry: addrinfo, host: String, port: Int, backlog: Int) throws(ServerError) -> Int32 {
    let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let descriptor = socket(entry.ai_family, type, entry.ai_protocol)
    guard descriptor >= 0 else { throw failure(of: "socket", host: host, port: port) }
    var on: Int32 = 1
    var isOnlyIPv6: Int32 = host == "::" || host.isEmpty ? 0 : 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
    var storage = sockaddr_storage()
    let length = entry.ai_addrlen
    guard let address = entry.ai_addr, length <= MemoryLayout<sockaddr_storage>.size else {
      close(descriptor)
      throw .badAddress(host: host, reason: "its address is too long")
    }
    withUnsafeMutableBytes(of: &storage) { $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: Int(length))) }
    let networkPort = UInt16(truncatingIfNeeded: port).bigEndian
    withUnsafeMutablePointer(to: &storage) { pointer in
      if entry.ai_family == AF_INET6 {
        setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &isOnlyIPv6, socklen_t(MemoryLayout<Int32>.size))
        pointer.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { $0.pointee.sin6_port = networkPort }
      } else {
        pointer.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { $0.pointee.sin_port = networkPort }
      }
    }
    let bound = withUnsafePointer(to: &storage) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
    }
    guard bound == 0, Glibc.listen(descriptor, Int32(clamping: backlog)) == 0 else {
      let error = failure(of: bound == 0 ? "listen" : "bind", host: host, port: port)
      close(descriptor)
      throw error
    }
    return descriptor
  }

  private static func failure(of call: String, host: String, port: Int) -> ServerError {
    switch errno {
    case EADDRINUSE: .addressInUse(host: host, port: port)
    case EACCES: .permissionDenied(host: host, port: port)
    case EADDRNOTAVAIL, EAFNOSUPPORT: .badAddress(host: host, reason: describe(errno))
    default: .system(call: call, errno: errno)
    }
  }

  private static func localPort(_ descriptor: Int32) throws(ServerError) -> Int {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let result = withUnsafeMutablePointer(to: &storage) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
    }
    guard result == 0 else { throw .system(call: "getsockname", errno: errno) }
    let isIPv6 = storage.ss_family == sa_family_t(AF_INET6)
    return withUnsafePointer(to: &storage) { pointer in
      isIPv6
        ? pointer.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { Int(UInt16(bigEndian: $0.pointee.sin6_port)) }
        : pointer.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { Int(UInt16(bigEndian: $0.pointee.sin_port)) }
    }
  }
}

extension ServerError {
  fileprivate var isMissingAddress: Bool { if case .badAddress = self { true } else { false } }
}
