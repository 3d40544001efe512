// Reads typed members out of a request's JSON object. Every failure names the parameter; nothing a client sends can trap.
// Knows JSON types and ranges, no particular endpoint.

import FoundationEssentials

/// Decodes `Request` from a body, turning every decoding failure into a 400.
enum RequestBody {
  static func decode<Request: Decodable>(_ type: Request.Type, from body: [UInt8]) throws(APIError) -> Request {
    guard !body.isEmpty else { throw .invalid(nil, "The request body is empty; it must be a JSON object.") }
    do {
      return try JSONDecoder().decode(Request.self, from: Data(body))
    } catch let error as APIError {
      throw error
    } catch DecodingError.typeMismatch {
      throw .invalid(nil, "The request body must be a JSON object.")
    } catch {
      throw .invalid(nil, "The request body is not valid JSON (RFC 8259, UTF-8, at most 512 levels deep).")
    }
  }
}

/// The members of one JSON object; null counts as absent.
struct RequestFields {
  let container: KeyedDecodingContainer<NamedKey>

  init(_ decoder: any Decoder) throws {
    container = try decoder.container(keyedBy: NamedKey.self)
  }

  private func isPresent(_ name: String) -> Bool {
    let key = NamedKey(stringValue: name)
    return container.contains(key) && (try? container.decodeNil(forKey: key)) != true
  }

  /// nil if absent; an error if the value is no `Value`.
  func value<Value: Decodable>(_ name: String, _ type: Value.Type, expected: String) throws(APIError) -> Value? {
    guard isPresent(name) else { return nil }
    guard let value = try? container.decode(Value.self, forKey: NamedKey(stringValue: name)) else {
      throw .invalid(name, "`\(name)` must be \(expected).")
    }
    return value
  }

  func boolean(_ name: String) throws(APIError) -> Bool? { try value(name, Bool.self, expected: "true or false") }

  func string(_ name: String) throws(APIError) -> String? { try value(name, String.self, expected: "a string") }

  func integer(_ name: String, _ range: ClosedRange<Int>) throws(APIError) -> Int? {
    let expected = "a whole number from \(range.lowerBound) to \(range.upperBound)"
    guard let number = try value(name, Int.self, expected: expected) else { return nil }
    guard range.contains(number) else { throw .invalid(name, "`\(name)` must be \(expected), not \(number).") }
    return number
  }

  /// Any integer that fits 64 bits, signed or unsigned, as bits.
  func bits(_ name: String) throws(APIError) -> UInt64? {
    guard isPresent(name) else { return nil }
    let key = NamedKey(stringValue: name)
    if let number = try? container.decode(Int64.self, forKey: key) { return UInt64(bitPattern: number) }
    if let number = try? container.decode(UInt64.self, forKey: key) { return number }
    throw .invalid(name, "`\(name)` must be a 64-bit integer.")
  }

  func number(_ name: String, _ range: ClosedRange<Double>) throws(APIError) -> Double? {
    let expected = "a number from \(range.lowerBound) to \(range.upperBound)"
    guard let number = try value(name, Double.self, expected: expected) else { return nil }
    guard range.contains(number) else { throw .invalid(name, "`\(name)` must be \(expected), not \(number).") }
    return number
  }

  /// A parameter that is not built yet: absent or at the value that does nothing is fine.
  func neutralNumber(_ name: String, neutral: Double) throws(APIError) {
    guard let number = try value(name, Double.self, expected: "a number"), number != neutral else { return }
    throw .unsupported(name, "; only \(neutral) is accepted")
  }

  /// A nested object, or nil if absent.
  func object(_ name: String) throws(APIError) -> RequestFields? {
    guard isPresent(name) else { return nil }
    guard let inner = try? container.nestedContainer(keyedBy: NamedKey.self, forKey: NamedKey(stringValue: name)) else {
      throw .invalid(name, "`\(name)` must be an object.")
    }
    return RequestFields(inner)
  }

  private init(_ container: KeyedDecodingContainer<NamedKey>) { self.container = container }

  func isEmptyObject(_ name: String) throws(APIError) -> Bool {
    guard let inner = try object(name) else { return true }
    return inner.container.allKeys.isEmpty
  }

  /// First alternative that fits, in order; nil if absent or none fits.
  func first<Value>(_ name: String, of attempts: [(KeyedDecodingContainer<NamedKey>, NamedKey) -> Value?]) -> Value? {
    let key = NamedKey(stringValue: name)
    for attempt in attempts {
      if let value = attempt(container, key) { return value }
    }
    return nil
  }

  func contains(_ name: String) -> Bool { isPresent(name) }
}
