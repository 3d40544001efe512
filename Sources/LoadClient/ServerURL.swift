// Where a server is: `http://host[:port][/prefix]`. Knows no sockets.

package struct ServerURL: Equatable, Sendable {
  package let host: String
  package let port: Int
  /// Before `/v1/...`; empty or with a slash in front and none behind.
  package let prefix: String

  package init(host: String, port: Int, prefix: String = "") {
    self.host = host
    self.port = port
    self.prefix = prefix
  }

  /// A trailing `/v1`, which other clients' base URLs have, is taken off.
  package init(_ text: String) throws(LoadClientError) {
    let scheme = "http://"
    guard text.lowercased().hasPrefix(scheme) else { throw .badURL(text, requirement: "a URL like http://host:port (https is not spoken)") }
    let rest = text.dropFirst(scheme.count)
    let isPlain = rest.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F } && !rest.contains { "?#@".contains($0) }
    guard isPlain else { throw .badURL(text, requirement: "a URL like http://host:port, without user, query or fragment") }
    let authority = rest.prefix { $0 != "/" }
    var path = rest.dropFirst(authority.count)
    while path.hasSuffix("/") { path.removeLast() }
    if path.hasSuffix("/v1") { path.removeLast(3) }
    prefix = String(path)

    var name = authority
    var digits: Substring?
    if authority.hasPrefix("["), let bracket = authority.firstIndex(of: "]") {
      name = authority[authority.index(after: authority.startIndex)..<bracket]
      let behind = authority[authority.index(after: bracket)...]
      guard behind.isEmpty || behind.hasPrefix(":") else { throw .badURL(text, requirement: "a URL like http://[::1]:port") }
      digits = behind.isEmpty ? nil : behind.dropFirst()
    } else if let colon = authority.firstIndex(of: ":") {
      name = authority[..<colon]
      digits = authority[authority.index(after: colon)...]
    }
    guard !name.isEmpty else { throw .badURL(text, requirement: "a URL like http://host:port; the host is missing") }
    host = String(name)
    guard let digits else {
      port = 80
      return
    }
    guard let number = Int(digits), (1...65_535).contains(number) else {
      throw .badURL(text, requirement: "the port must be a whole number from 1 to 65535")
    }
    port = number
  }

  /// For the Host field.
  var authority: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
