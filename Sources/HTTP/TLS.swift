// TLS as a filter between two byte streams, over CNet's memory buffers. Knows no sockets and no HTTP.
// Unsafe code: the C handles.

import CNet

/// Certificate and key; shared by all loops (OpenSSL's SSL_CTX is thread-safe once set up).
final class TLSContext: @unchecked Sendable {
  fileprivate let handle: OpaquePointer

  init(_ files: TLSFiles) throws(ServerError) {
    var reason = [CChar](repeating: 0, count: 512)
    let handle = cnet_tls_context_create(files.certificatePath, files.keyPath, &reason, reason.count)
    guard let handle else { throw Self.failure(reason) }
    self.handle = handle
  }

  /// A client's side that trusts only the certificates of the file (loopback tools and tests).
  init(trustingPath path: String) throws(ServerError) {
    var reason = [CChar](repeating: 0, count: 512)
    guard let handle = cnet_tls_client_context_create(path, &reason, reason.count) else { throw Self.failure(reason) }
    self.handle = handle
  }

  private static func failure(_ reason: [CChar]) -> ServerError {
    .tls(String(decoding: reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
  }

  deinit { cnet_tls_context_destroy(handle) }
}

/// One connection's TLS. Confined to its loop.
final class TLSSession {
  enum Reading { case open, closed, failed }

  private static let recordBytes = 16_384
  private let handle: OpaquePointer
  private let context: TLSContext  // outlives the session

  init?(_ context: TLSContext) {
    guard let handle = cnet_tls_session_create(context.handle) else { return nil }
    self.handle = handle
    self.context = context
  }

  deinit { cnet_tls_session_destroy(handle) }

  /// Decrypts; drives the handshake (whose answer waits in `takeOutput`).
  func receive(_ ciphertext: UnsafeBufferPointer<UInt8>, plaintext: inout [UInt8]) -> Reading {
    guard cnet_tls_feed(handle, ciphertext.baseAddress, ciphertext.count) == 1 else { return .failed }
    return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: Self.recordBytes) { record in
      while true {
        let count = cnet_tls_read(handle, record.baseAddress, record.count)
        if count > 0 {
          plaintext.append(contentsOf: record[..<count])
          continue
        }
        if count == 0 { return .open }
        return count == CNET_TLS_CLOSED ? .closed : .failed
      }
    }
  }

  /// Whether the handshake is done.
  var isReady: Bool { cnet_tls_is_ready(handle) == 1 }

  /// False when the session is dead.
  func send(_ plaintext: [UInt8]) -> Bool {
    plaintext.withUnsafeBufferPointer { cnet_tls_write(handle, $0.baseAddress, $0.count) == 1 }
  }

  func shutdown() { cnet_tls_shutdown(handle) }

  /// Appends all ciphertext that waits for the network.
  func takeOutput(into output: inout [UInt8]) {
    let count = cnet_tls_pending(handle)
    guard count > 0 else { return }
    let taken = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      filled = cnet_tls_take(handle, buffer.baseAddress, count)
    }
    if output.isEmpty { output = taken } else { output.append(contentsOf: taken) }
  }
}
