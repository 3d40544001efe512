// Bearer keys: which values of Authorization let somebody in.

import Glibc
import Testing

@testable import Serving

@Suite("API keys")
struct APIKeysTests {
  private func check(_ keys: APIKeys, _ values: String...) -> APIKeys.Answer { keys.check(values.map { Array($0.utf8)[...] }) }

  @Test("only the whole key, in the Bearer scheme, once")
  func check() {
    let keys = APIKeys(keys: [Array("first-key".utf8), Array("second".utf8)])
    guard case .allowed(let first) = check(keys, "Bearer first-key"), case .allowed(let second) = check(keys, "bearer  second ") else {
      Issue.record("a right key was refused")
      return
    }
    #expect(first != second && first != 0 && second != 0, "each key has its own cache")
    let wrong = [
      "Bearer first-ke", "Bearer first-keyy", "Bearer", "Bearer ", "first-key", "Basic first-key", "Bearer first-keyfirst-key", "",
      "Bearer second-key", "Bearersecond", "Bearer \u{0}",
    ]
    for value in wrong { #expect(check(keys, value) == .refused, "\(value)") }
    #expect(check(keys) == .refused)
    #expect(check(keys, "Bearer first-key", "Bearer first-key") == .refused)
    #expect(check(keys, "Bearer " + String(repeating: "x", count: 100_000)) == .refused)
    #expect(check(.none) == .allowed(cacheSalt: 0))
  }

  @Test("the file: a key per line, comments, and what is refused")
  func file() throws {
    let path = "/tmp/quire-keys-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    defer { unlink(path) }
    func write(_ text: String) {
      let file = fopen(path, "w")
      fputs(text, file)
      fclose(file)
    }
    write("# team a\nkey-a\n\n  key-b \r\n")
    let keys = try APIKeys(file: path)
    #expect(check(keys, "Bearer key-a") != .refused && check(keys, "Bearer key-b") != .refused)
    #expect(check(keys, "Bearer # team a") == .refused)
    for bad in ["", "# only\n", "two words\n", "kéy\n", String(repeating: "k", count: 600)] {
      write(bad)
      let error = #expect(throws: SettingsError.self) { try APIKeys(file: path) }
      #expect(error?.description.hasPrefix(path) == true)
    }
    #expect(throws: SettingsError.self) { try APIKeys(file: "/nowhere") }
  }
}
