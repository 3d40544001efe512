// Method and path to handler. Patterns: "/v1/models/{id}" (one segment) and "/files/{path...}" (the rest, slashes
// included). Knows no connections.

package typealias Handler = @Sendable (Exchange) -> Void

package struct Router: Sendable {
  private enum Segment: Sendable, Equatable {
    case literal(String)
    case parameter(String)
    case rest(String)
  }
  private struct Route: Sendable {
    let pattern: String
    let segments: [Segment]
    var handlers: [(method: String, handler: Handler)]
  }

  enum Match {
    case handler(Handler, pattern: String, parameters: [String: String])
    /// An OPTIONS request, answered by the server itself.
    case options(allow: String, pattern: String?)
    case methodNotAllowed(allow: String, pattern: String)
    case unknownMethod
    case notFound
  }

  private static let knownMethods: Set<String> = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]

  private var routes: [Route] = []

  package init() {}

  /// Routes are tried in the order of their first `add`. A GET handler answers HEAD too.
  package mutating func add(_ method: String, _ pattern: String, _ handler: @escaping Handler) {
    precondition(pattern.utf8.first == UInt8(ascii: "/"), "a route pattern starts with /")
    if let index = routes.firstIndex(where: { $0.pattern == pattern }) {
      routes[index].handlers.append((method, handler))
      return
    }
    let parts = pattern.dropFirst().split(separator: "/", omittingEmptySubsequences: false)
    let segments = parts.map { part -> Segment in
      guard part.hasPrefix("{"), part.hasSuffix("}") else { return .literal(String(part)) }
      let name = part.dropFirst().dropLast()
      return name.hasSuffix("...") ? .rest(String(name.dropLast(3))) : .parameter(String(name))
    }
    routes.append(Route(pattern: pattern, segments: segments, handlers: [(method, handler)]))
  }

  func match(method: String, target: RequestTarget) -> Match {
    guard Self.knownMethods.contains(method) else { return .unknownMethod }
    if target.isAsterisk { return .options(allow: allow(routes.flatMap { $0.handlers.map(\.method) }), pattern: nil) }
    var refused: (allow: String, pattern: String)?
    for route in routes {
      guard let parameters = parameters(of: route, target.segments) else { continue }
      let wanted = route.handlers.first { $0.method == method } ?? (method == "HEAD" ? route.handlers.first { $0.method == "GET" } : nil)
      if let wanted { return .handler(wanted.handler, pattern: route.pattern, parameters: parameters) }
      let methods = allow(route.handlers.map(\.method))
      if method == "OPTIONS" { return .options(allow: methods, pattern: route.pattern) }
      refused = refused ?? (methods, route.pattern)
    }
    if let refused { return .methodNotAllowed(allow: refused.allow, pattern: refused.pattern) }
    return .notFound
  }

  private func parameters(of route: Route, _ segments: [String]) -> [String: String]? {
    var parameters: [String: String] = [:]
    for (index, segment) in route.segments.enumerated() {
      guard index < segments.count else { return nil }
      switch segment {
      // Bytes are bytes: String equality would take "e\u{301}" for "é".
      case .literal(let text): guard text.utf8.elementsEqual(segments[index].utf8) else { return nil }
      case .parameter(let name):
        guard !segments[index].isEmpty else { return nil }
        parameters[name] = segments[index]
      case .rest(let name):
        let rest = segments[index...].joined(separator: "/")
        guard !rest.isEmpty else { return nil }
        parameters[name] = rest
        return parameters
      }
    }
    return segments.count == route.segments.count ? parameters : nil
  }

  private func allow(_ methods: [String]) -> String {
    var all = Set(methods).union(["OPTIONS"])
    if all.contains("GET") { all.insert("HEAD") }
    return all.sorted().joined(separator: ", ")
  }
}
