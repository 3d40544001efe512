// The splits that DeepSeek's pre-tokenizers are made of (SPEC 4.2, 4.3): for each its pattern, as tokenizer.json has it, and a
// hand-written matcher that finds what that regular expression finds at a position. Matchers run over Unicode scalars and are linear.
// It knows nothing of vocabularies, and of JSON only what a pattern looks like.

/// Text decoded for matching: one entry per Unicode scalar.
struct ScalarText {
  var values: [UInt32] = []
  /// `ScalarClasses` bits of each.
  var masks: [UInt8] = []

  var count: Int { values.count }

  /// - Parameter bytes: valid UTF-8.
  mutating func decode(_ bytes: ArraySlice<UInt8>, classes: ScalarClasses) {
    values.removeAll(keepingCapacity: true)
    masks.removeAll(keepingCapacity: true)
    for scalar in String(decoding: bytes, as: UTF8.self).unicodeScalars {
      values.append(scalar.value)
      masks.append(classes[scalar.value])
    }
  }

  /// First position at or after `start` that has none of the bits; `end` when all have.
  @inline(__always)
  func runEnd(_ start: Int, _ end: Int, _ bits: UInt8) -> Int {
    var index = start
    while index < end, masks[index] & bits != 0 { index += 1 }
    return index
  }

  @inline(__always)
  func has(_ index: Int, _ bits: UInt8) -> Bool { masks[index] & bits != 0 }

  @inline(__always)
  func isNewline(_ index: Int) -> Bool { values[index] == 0x0A || values[index] == 0x0D }
}

enum SplitRule: CaseIterable {
  case newline, casedLetters, widePunctuation, trailingSpace, eastAsian, digits  // deepseek-llm
  case letters, punctuation, number  // deepseek-coder
  case upToThreeNumbers, hanAndKana, words  // deepseek-v3

  /// The regular expression in tokenizer.json, escapes of code points and of \r \n \t resolved; nil: not a regular expression.
  var pattern: String? {
    switch self {
    case .newline: "[\r\n]"
    case .casedLetters: "\\s?" + CharacterClass.casedLetters.pattern + "+"
    case .widePunctuation: "\\s?" + CharacterClass.widePunctuation.pattern + "+"
    case .trailingSpace: "\\s+$"
    case .eastAsian: CharacterClass.eastAsian.pattern + "+"
    case .digits: nil
    case .letters: "\\s?\\p{L}+"
    case .punctuation: "\\s?\\p{P}+"
    case .number: "\\p{N}"
    case .upToThreeNumbers: "\\p{N}{1,3}"
    case .hanAndKana: CharacterClass.hanAndKana.pattern + "+"
    case .words:
      // In the file the carriage returns and line feeds of this one are characters, not escapes.
      ##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\##r\##n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##
        + ##"| ?[\p{P}\p{S}]+[\##r\##n]*|\s*[\##r\##n]+|\s+(?!\S)|\s+"##
    }
  }

  /// Puts the boundaries that this split adds into `out`: matches and the text between them each become a piece ("Isolated").
  ///
  /// - Parameter bounds: ends of the pieces so far, as positions in `text`, ascending, with a leading 0.
  func apply(to text: ScalarText, bounds: [Int], into out: inout [Int]) {
    switch self {
    case .newline: split(bounds, &out) { start, _ in text.isNewline(start) ? start + 1 : start }
    case .casedLetters: split(bounds, &out) { spaced(text, $0, $1) { text.has($0, ScalarClasses.cased) } }
    case .widePunctuation: split(bounds, &out) { spaced(text, $0, $1) { CharacterClass.widePunctuation.contains(text.values[$0]) } }
    case .trailingSpace: splitTrailingSpace(text, bounds, &out)
    case .eastAsian: split(bounds, &out) { run(text, $0, $1, CharacterClass.eastAsian) }
    case .digits: split(bounds, &out) { start, _ in text.has(start, ScalarClasses.digit) ? start + 1 : start }
    case .letters: split(bounds, &out) { spaced(text, $0, $1) { text.has($0, ScalarClasses.letter) } }
    case .punctuation: split(bounds, &out) { spaced(text, $0, $1) { text.has($0, ScalarClasses.punctuation) } }
    case .number: split(bounds, &out) { start, _ in text.has(start, ScalarClasses.number) ? start + 1 : start }
    case .upToThreeNumbers: split(bounds, &out) { text.runEnd($0, min($1, $0 + 3), ScalarClasses.number) }
    case .hanAndKana: split(bounds, &out) { run(text, $0, $1, CharacterClass.hanAndKana) }
    case .words: split(bounds, &out) { wordEnd(text, $0, $1) }
    }
  }
}

/// Searches each piece from left to right. `match` gives the end of a match at a position, or the position itself for none.
@inline(__always)
func split(_ bounds: [Int], _ out: inout [Int], _ match: (_ start: Int, _ end: Int) -> Int) {
  out.removeAll(keepingCapacity: true)
  out.append(0)
  var last = 0
  var start = 0
  for end in bounds.dropFirst() {
    while start < end {
      let matched = match(start, end)
      guard matched > start else {
        start += 1
        continue
      }
      if start > last { out.append(start) }
      out.append(matched)
      start = matched
      last = matched
    }
    if end > last { out.append(end) }
    last = end
  }
}

/// `[class]+`
@inline(__always)
private func run(_ text: ScalarText, _ start: Int, _ end: Int, _ characters: CharacterClass) -> Int {
  var index = start
  while index < end, characters.contains(text.values[index]) { index += 1 }
  return index
}

/// `\s?[class]+`. A space that is itself in the class needs no member after it.
@inline(__always)
private func spaced(_ text: ScalarText, _ start: Int, _ end: Int, _ isMember: (Int) -> Bool) -> Int {
  var index = start
  if text.has(start, ScalarClasses.space), start + 1 < end, isMember(start + 1) { index += 1 }
  while index < end, isMember(index) { index += 1 }
  return index
}

/// `\s+$`, found from the end of each piece: searching from the front would be quadratic in a long run of spaces.
private func splitTrailingSpace(_ text: ScalarText, _ bounds: [Int], _ out: inout [Int]) {
  out.removeAll(keepingCapacity: true)
  out.append(0)
  var start = 0
  for end in bounds.dropFirst() {
    var spaces = end
    while spaces > start, text.has(spaces - 1, ScalarClasses.space) { spaces -= 1 }
    if spaces > start, spaces < end { out.append(spaces) }
    out.append(end)
    start = end
  }
}

/// The last split of deepseek-v3 (SPEC 4.3): its alternatives in their order; `start` when none matches.
private func wordEnd(_ text: ScalarText, _ start: Int, _ end: Int) -> Int {
  let punctuationOrSymbol = ScalarClasses.punctuation | ScalarClasses.symbol
  let letterOrMark = ScalarClasses.letter | ScalarClasses.mark
  let next = start + 1
  // [ASCII punctuation][A-Za-z]+ : all 32 ASCII members of P and S are in the list.
  if text.values[start] < 0x80, text.has(start, punctuationOrSymbol) {
    var index = next
    while index < end, isASCIILetter(text.values[index]) { index += 1 }
    if index > next { return index }
  }
  // [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
  let prefixes = !text.has(start, punctuationOrSymbol | ScalarClasses.letter) && !text.isNewline(start)
  if prefixes, next < end, text.has(next, letterOrMark) { return text.runEnd(next, end, letterOrMark) }
  if text.has(start, letterOrMark) { return text.runEnd(start, end, letterOrMark) }
  //  ?[\p{P}\p{S}]+[\r\n]*
  let symbols = text.values[start] == 0x20 ? next : start
  if symbols < end, text.has(symbols, punctuationOrSymbol) {
    var index = text.runEnd(symbols, end, punctuationOrSymbol)
    while index < end, text.isNewline(index) { index += 1 }
    return index
  }
  guard text.has(start, ScalarClasses.space) else { return start }
  return spaceEnd(text, start, text.runEnd(start, end, ScalarClasses.space), end, untilNewline: true)
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`, the first only if wanted, at a run of white space.
private func spaceEnd(_ text: ScalarText, _ start: Int, _ runEnd: Int, _ end: Int, untilNewline: Bool) -> Int {
  if untilNewline {
    var index = runEnd
    while index > start, !text.isNewline(index - 1) { index -= 1 }
    if index > start { return index }
  }
  if runEnd == end || runEnd == start + 1 { return runEnd }
  return runEnd - 1  // the last space goes with the word behind it
}

private func isASCIILetter(_ value: UInt32) -> Bool { (0x61...0x7A).contains(value | 0x20) && value < 0x80 }

/// GPT-2's own split, that of `ByteLevel` with `use_regex`:
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
func gpt2WordEnd(_ text: ScalarText, _ start: Int, _ end: Int) -> Int {
  if text.values[start] == 0x27, start + 1 < end {
    let first = text.values[start + 1]
    let second = start + 2 < end ? text.values[start + 2] : 0
    if [0x73, 0x74, 0x6D, 0x64].contains(first) { return start + 2 }  // s t m d
    if (first == 0x72 || first == 0x76) && second == 0x65 || first == 0x6C && second == 0x6C { return start + 3 }  // re ve ll
  }
  let body = text.values[start] == 0x20 && start + 1 < end ? start + 1 : start
  if text.has(body, ScalarClasses.letter) { return text.runEnd(body, end, ScalarClasses.letter) }
  if text.has(body, ScalarClasses.number) { return text.runEnd(body, end, ScalarClasses.number) }
  let known = ScalarClasses.letter | ScalarClasses.number | ScalarClasses.space
  if !text.has(body, known) {
    var index = body
    while index < end, !text.has(index, known) { index += 1 }
    return index
  }
  return spaceEnd(text, start, text.runEnd(start, end, ScalarClasses.space), end, untilNewline: false)
}
