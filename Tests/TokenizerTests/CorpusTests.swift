// Compares ids with those the Python package `tokenizers` gave on a large corpus (issue 2, must hold 3). Runs only when
// QUIRE_TOKENIZER_JSON and QUIRE_TOKENIZER_CORPUS name a tokenizer.json and the output of Tests/Fixtures/tokenizer/compare_tokenizers.py.

import FoundationEssentials
import Testing

@testable import Tokenizer

private let environment = ProcessInfo.processInfo.environment

struct CorpusTests {
  @Test(.enabled(if: environment["QUIRE_TOKENIZER_JSON"] != nil && environment["QUIRE_TOKENIZER_CORPUS"] != nil))
  func idsEqualThoseOfTheReferenceOnTheWholeCorpus() throws {
    let json = try fileBytes(environment["QUIRE_TOKENIZER_JSON"] ?? "")
    let tokenizer = try Tokenizer(tokenizerJSON: json)
    var corpus = LittleEndianBytes(try fileBytes(environment["QUIRE_TOKENIZER_CORPUS"] ?? ""))
    let lineCount = Int(corpus.next())
    var differences = 0
    var idCount = 0
    for line in 0..<lineCount {
      let text = corpus.take(Int(corpus.next()))
      let expected = (0..<Int(corpus.next())).map { _ in Int32(bitPattern: corpus.next()) }
      let found = tokenizer.encode(text)
      idCount += expected.count
      // Without special tokens skipped, the text comes back byte by byte.
      let decoded = Array(tokenizer.decode(found, skipSpecial: false).utf8)
      guard found != expected || decoded != text else { continue }
      differences += 1
      if differences <= 20 {
        Issue.record("line \(line) \(String(decoding: text, as: UTF8.self).debugDescription): \(found) instead of \(expected)")
      }
    }
    print("tokenizer corpus: \(lineCount) lines, \(idCount) ids, \(differences) differences")
    #expect(differences == 0)
    #expect(lineCount >= 20_000)
  }
}
