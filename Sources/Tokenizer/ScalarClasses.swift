// The Unicode class of a scalar in one table look-up, and the fixed character classes of DeepSeek's pre-tokenizers.
// It stands on UnicodeClassTable (what the `tokenizers` package answers), not on the Unicode version of the Swift in use,
// so token ids do not change with the compiler.

struct ScalarClasses: Sendable {
  static let letter: UInt8 = 1  // \p{L}
  static let mark: UInt8 = 2  // \p{M}
  static let number: UInt8 = 4  // \p{N}
  static let punctuation: UInt8 = 8  // \p{P}
  static let symbol: UInt8 = 16  // \p{S}
  static let space: UInt8 = 32  // \s
  static let digit: UInt8 = 64  // what the pre-tokenizer `Digits` takes: \p{N} of a newer Unicode version
  static let cased: UInt8 = 128  // the letters of deepseek-llm's second split

  static let shared = ScalarClasses()

  /// Page of each 256 scalars. [0x1100]
  private var pageOf: [UInt16]
  /// Class bits. [pages, 256], pages of equal content stored once.
  private var bits: [UInt8]

  private init() {
    var all = [UInt8](repeating: 0, count: 0x110000)
    let runs = UnicodeClassTable.runs
    for (index, run) in runs.enumerated() {
      let end = index + 1 < runs.count ? Int(runs[index + 1] >> 8) : all.count
      for scalar in Int(run >> 8)..<end { all[scalar] = UInt8(truncatingIfNeeded: run) }
    }
    for range in CharacterClass.casedLetters.ranges {
      for scalar in range { all[Int(scalar)] |= Self.cased }
    }
    pageOf = []
    bits = []
    var known: [[UInt8]: UInt16] = [:]
    for start in stride(from: 0, to: all.count, by: 256) {
      let content = Array(all[start..<start + 256])
      if let page = known[content] {
        pageOf.append(page)
      } else {
        let page = UInt16(truncatingIfNeeded: known.count)
        known[content] = page
        pageOf.append(page)
        bits.append(contentsOf: content)
      }
    }
  }

  /// Class bits of a scalar; 0 for anything that is none.
  subscript(_ scalar: UInt32) -> UInt8 {
    guard scalar < 0x110000 else { return 0 }
    return bits[Int(pageOf[Int(scalar >> 8)]) << 8 | Int(scalar & 0xFF)]
  }
}

/// A bracket expression `[a-bc]` of scalars, as it stands in a pattern.
struct CharacterClass: Sendable {
  let ranges: [ClosedRange<UInt32>]

  func contains(_ scalar: UInt32) -> Bool {
    for range in ranges where range.contains(scalar) { return true }
    return false
  }

  /// The class as written in tokenizer.json, escapes resolved.
  var pattern: String {
    var text = "["
    for range in ranges {
      if let first = Unicode.Scalar(range.lowerBound) { text.unicodeScalars.append(first) }
      guard range.count > 1, let last = Unicode.Scalar(range.upperBound) else { continue }
      text.unicodeScalars.append("-")
      text.unicodeScalars.append(last)
    }
    return text + "]"
  }

  /// Note that `:-~` takes in the ASCII letters.
  static let widePunctuation = CharacterClass(ranges: [
    0x21...0x2F, 0x3A...0x7E, 0xFF01...0xFF0F, 0xFF1A...0xFF5E, 0x2018...0x201F, 0x3000...0x3002,
  ])
  /// 0800-4E00 takes in most scripts of Asia, and some spaces.
  static let eastAsian = CharacterClass(ranges: [0x4E00...0x9FA5, 0x0800...0x4E00, 0xAC00...0xD7FF])
  static let hanAndKana = CharacterClass(ranges: [0x4E00...0x9FA5, 0x3040...0x309F, 0x30A0...0x30FF])
  static let casedLetters = CharacterClass(ranges: [
    0x41...0x5A, 0x61...0x7A, 0xB5...0xB5, 0xC0...0xD6, 0xD8...0xF6, 0xF8...0x1BA, 0x1BC...0x1BF, 0x1C4...0x293, 0x295...0x2AF,
    0x370...0x373, 0x376...0x376, 0x377...0x377, 0x37B...0x37D, 0x37F...0x37F, 0x386...0x386, 0x388...0x38A, 0x38C...0x38C,
    0x38E...0x3A1, 0x3A3...0x3F5, 0x3F7...0x481, 0x48A...0x52F, 0x531...0x556, 0x10A0...0x10C5, 0x13A0...0x13F5, 0x13F8...0x13FD,
    0x1C90...0x1CBA, 0x1CBD...0x1CBF, 0x1D00...0x1D2B, 0x1D6B...0x1D77, 0x1D79...0x1D9A, 0x1E00...0x1F15, 0x1F18...0x1F1D,
    0x1F20...0x1F45, 0x1F48...0x1F4D, 0x1F50...0x1F57, 0x1F59...0x1F59, 0x1F5B...0x1F5B, 0x1F5D...0x1F5D, 0x1F5F...0x1F7D,
    0x1F80...0x1FB4, 0x1FB6...0x1FBC, 0x1FBE...0x1FBE, 0x1FC2...0x1FC4, 0x1FC6...0x1FCC, 0x1FD0...0x1FD3, 0x1FD6...0x1FDB,
    0x1FE0...0x1FEC, 0x1FF2...0x1FF4, 0x1FF6...0x1FFC, 0x2102...0x2102, 0x2107...0x2107, 0x210A...0x2113, 0x2115...0x2115,
    0x2119...0x211D, 0x2124...0x2124, 0x2126...0x2126, 0x2128...0x2128, 0x212A...0x212D, 0x212F...0x2134, 0x2139...0x2139,
    0x213C...0x213F, 0x2145...0x2149, 0x214E...0x214E, 0x2183...0x2183, 0x2184...0x2184, 0x2C00...0x2C7B, 0x2C7E...0x2CE4,
    0x2CEB...0x2CEE, 0x2CF2...0x2CF2, 0x2CF3...0x2CF3, 0xA640...0xA66D, 0xA680...0xA69B, 0xA722...0xA76F, 0xA771...0xA787,
    0xA78B...0xA78E, 0xAB70...0xABBF, 0xFB00...0xFB06, 0xFB13...0xFB17, 0xFF21...0xFF3A, 0xFF41...0xFF5A, 0x10400...0x1044F,
    0x104B0...0x104D3, 0x104D8...0x104FB, 0x10C80...0x10CB2, 0x10CC0...0x10CF2, 0x118A0...0x118DF, 0x1E900...0x1E943,
  ])
}
