// Cuts text into the pieces that byte pair encoding works on, by one of the pre-tokenizers this server knows. Which one is read off the
// patterns in tokenizer.json, or GGUF's `tokenizer.ggml.pre`; anything else is refused, since a wrong split gives wrong tokens silently.
// It knows nothing of vocabularies.

struct PreTokenizer: Sendable, Equatable {
  enum Scheme: String, Sendable, CaseIterable {
    /// DeepSeek LLM, V2, V2.5, Coder-V2 (SPEC 4.2).
    case deepseekLLM = "deepseek-llm"
    /// DeepSeek Coder (the first).
    case deepseekCoder = "deepseek-coder"
    /// V3, R1, V3.1 and later (SPEC 4.3).
    case deepseekV3 = "deepseek-v3"
    /// Byte-level BPE with GPT-2's split.
    case gpt2 = "gpt-2"
  }

  let scheme: Scheme

  private var rules: [SplitRule] {
    switch scheme {
    case .deepseekLLM: [.newline, .casedLetters, .widePunctuation, .trailingSpace, .eastAsian, .digits]
    case .deepseekCoder: [.newline, .letters, .punctuation, .eastAsian, .digits]
    case .deepseekV3: [.upToThreeNumbers, .hanAndKana, .words]
    case .gpt2: []
    }
  }

  /// Arrays reused between calls.
  struct Scratch {
    fileprivate var text = ScalarText()
    fileprivate var bounds: [Int] = []
    fileprivate var next: [Int] = []
  }

  /// Calls `piece` with each piece of `bytes` in order. Time is linear in the number of bytes.
  ///
  /// - Parameter bytes: valid UTF-8.
  func forEachPiece(of bytes: ArraySlice<UInt8>, _ scratch: inout Scratch, _ piece: (ArraySlice<UInt8>) -> Void) {
    scratch.text.decode(bytes, classes: .shared)
    scratch.bounds.removeAll(keepingCapacity: true)
    scratch.bounds.append(0)
    if scratch.text.count > 0 { scratch.bounds.append(scratch.text.count) }
    for rule in rules {
      rule.apply(to: scratch.text, bounds: scratch.bounds, into: &scratch.next)
      swap(&scratch.bounds, &scratch.next)
    }
    if scheme == .gpt2 {
      let text = scratch.text
      split(scratch.bounds, &scratch.next) { gpt2WordEnd(text, $0, $1) }
      swap(&scratch.bounds, &scratch.next)
    }
    var position = 0
    var offset = bytes.startIndex
    for bound in scratch.bounds.dropFirst() {
      let start = offset
      while position < bound {
        offset += scratch.text.values[position].utf8Length
        position += 1
      }
      piece(bytes[start..<offset])
    }
  }
}

extension UInt32 {
  fileprivate var utf8Length: Int { self < 0x80 ? 1 : self < 0x800 ? 2 : self < 0x10000 ? 3 : 4 }
}

// MARK: recognition

extension PreTokenizer {
  /// - Parameter ggufName: `tokenizer.ggml.pre`.
  init(ggufName: String?) throws(TokenizerError) {
    let known = Scheme.allCases.map(\.rawValue).joined(separator: ", ")
    guard let ggufName else { throw .unsupported("the file has no tokenizer.ggml.pre (known: \(known))") }
    guard let scheme = Scheme.allCases.first(where: { $0.rawValue.utf8.elementsEqual(ggufName.utf8) }) else {
      throw .unsupported("tokenizer.ggml.pre '\(ggufName)' (known: \(known))")
    }
    self.scheme = scheme
  }

  /// - Parameter json: the value of `pre_tokenizer` in tokenizer.json.
  init(json: JSONValue?) throws(TokenizerError) {
    guard let json else { throw .unsupported("tokenizer.json has no pre_tokenizer") }
    let steps = json.isType("Sequence") ? json["pretokenizers"]?.elements ?? [] : [json]
    guard let last = steps.last, last.isType("ByteLevel") else { throw .unsupported("a pre_tokenizer that does not end in ByteLevel") }
    if last["add_prefix_space"]?.flag ?? true { throw .unsupported("ByteLevel pre_tokenizer with add_prefix_space") }
    let usesRegex = last["use_regex"]?.flag ?? true
    var rules: [SplitRule] = []
    for step in steps.dropLast() { rules.append(try Self.rule(step)) }
    if rules.isEmpty, usesRegex {
      scheme = .gpt2
      return
    }
    if usesRegex { throw .unsupported("splits before a ByteLevel pre_tokenizer with use_regex") }
    // `Digits` and the single-number pattern are two spellings of one split (SPEC 4.2), but on different Unicode versions.
    guard let found = Scheme.allCases.first(where: { $0 != .gpt2 && PreTokenizer(scheme: $0).rules == rules }) else {
      throw .unsupported("this combination of pre_tokenizer splits: \(rules.map { "\($0)" }.joined(separator: ", "))")
    }
    scheme = found
  }

  private static func rule(_ step: JSONValue) throws(TokenizerError) -> SplitRule {
    if step.isType("Digits") {
      guard step["individual_digits"]?.flag == true else { throw .unsupported("Digits pre_tokenizer without individual_digits") }
      return .digits
    }
    guard step.isType("Split"), let pattern = step["pattern"]?["Regex"]?.text else {
      throw .unsupported("pre_tokenizer step '\(step.typeName)' without a regular expression")
    }
    guard step["behavior"]?.isText("Isolated") ?? false, step["invert"]?.flag != true else {
      throw .unsupported("Split pre_tokenizer that is not Isolated, or inverted")
    }
    let plain = resolvingEscapes(in: pattern)
    guard let rule = SplitRule.allCases.first(where: { $0.pattern?.utf8.elementsEqual(plain) ?? false }) else {
      throw .unsupported("split pattern '\(String(decoding: pattern.prefix(120), as: UTF8.self))' (known: deepseek-llm, -coder, -v3)")
    }
    return rule
  }

  /// Replaces the regular expression escapes `\r \n \t \uHHHH \x{H...}` by the characters they mean; `\\` and all others stay.
  static func resolvingEscapes(in pattern: [UInt8]) -> [UInt8] {
    var out: [UInt8] = []
    var index = 0
    while index < pattern.count {
      let rest = pattern[(index + 1)...]
      guard pattern[index] == UInt8(ascii: "\\"), let letter = rest.first else {
        out.append(pattern[index])
        index += 1
        continue
      }
      let parameter = rest.dropFirst()
      var hex: ArraySlice<UInt8>?
      switch letter {
      case UInt8(ascii: "r"): out.append(0x0D)
      case UInt8(ascii: "n"): out.append(0x0A)
      case UInt8(ascii: "t"): out.append(0x09)
      case UInt8(ascii: "u") where parameter.count >= 4: hex = parameter.prefix(4)
      case UInt8(ascii: "x") where parameter.first == UInt8(ascii: "{") && parameter.contains(UInt8(ascii: "}")):
        hex = parameter.prefix { $0 != UInt8(ascii: "}") }.dropFirst()
      default: out += [pattern[index], letter]
      }
      index += 2
      guard let hex else { continue }
      guard let value = UInt32(String(decoding: hex, as: UTF8.self), radix: 16), let scalar = Unicode.Scalar(value) else {
        out += [UInt8(ascii: "\\"), letter]
        continue
      }
      out += Array(String(Character(scalar)).utf8)
      index = hex.endIndex + (letter == UInt8(ascii: "x") ? 1 : 0)
    }
    return out
  }
}

extension JSONValue {
  func isType(_ name: String) -> Bool { self["type"]?.isText(name) ?? false }
  var typeName: String { self["type"]?.text.map { String(decoding: $0, as: UTF8.self) } ?? "" }
}
