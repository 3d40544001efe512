// The configuration file: the shipped one is the defaults, and everything wrong in one is a single line.

import Engine
import FoundationEssentials
import Testing

@testable import Serving

@Suite("Server settings")
struct ServerSettingsTests {
  private let shippedPath = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/") + "/config/server.json5"

  private func read(_ text: String) throws(SettingsError) -> ServerSettings {
    try ServerSettings(json5: Array(text.utf8), path: "test.json5")
  }

  @Test("the shipped file holds every key, at its default, with a reason")
  func shippedFile() throws {
    #expect(try ServerSettings(file: shippedPath) == ServerSettings())
    let data = try #require(FileManager.default.contents(atPath: shippedPath))
    let lines = String(decoding: data, as: UTF8.self).split(separator: "\n")
    for key in SettingKey.all {
      let line = lines.filter { $0.hasPrefix("  \(key.name): ") }
      #expect(line.count == 1, "\(key.name)")
      #expect(line.first?.contains(" // ") == true, "\(key.name) has no reason")
    }
    // Each key in the file is really read: changing it changes the settings.
    #expect(lines.filter { $0.hasPrefix("  ") && !$0.hasPrefix("  //") }.count == SettingKey.all.count)
  }

  @Test("values arrive at their place")
  func values() throws {
    let settings = try read("{model: '/m', modelName: 'x', port: 0x1F90, prefixCaching: false, tlsKey: 'k', tlsCertificate: 'c',}")
    #expect(settings.model == "/m" && settings.modelName == "x" && settings.port == 8080 && !settings.prefixCaching)
    #expect(settings.tlsKey == "k")
    for key in SettingKey.all {
      guard case .integer(let place, let range) = key.kind else { continue }
      for value in [range.lowerBound, range.upperBound] {
        let changed = try read("{\(key.name): \(value)}")
        #expect(changed[keyPath: place] == value)
      }
      for value in ["\(range.lowerBound - 1)", "\(range.upperBound + 1)", "1.5", "1e400", "99999999999999999999", "'5'", "null", "[]"] {
        let error = #expect(throws: SettingsError.self) { try read("{\(key.name): \(value)}") }
        #expect(error?.description.hasPrefix("test.json5: \(key.name) must be a whole number from") == true)
      }
    }
  }

  @Test(
    "each mistake is one line that names it",
    arguments: [
      ("{prot: 1}", "test.json5: unknown key \"prot\""),
      ("{compute: 'slow'}", "test.json5: compute must be one of \"fast\", \"exact\", not \"slow\""),
      ("{compute: 1}", "test.json5: compute must be one of \"fast\", \"exact\", not 1"),
      ("{model: ''}", "test.json5: model must be a string that is not empty, not \"\""),
      ("{model: null}", "test.json5: model must be a string that is not empty, not null"),
      ("{pinThreads: 'yes'}", "test.json5: pinThreads must be true or false, not \"yes\""),
      ("{numaInterleave: 2}", "test.json5: numaInterleave must be true or false, not 2"),
      ("{prefixCaching: 1}", "test.json5: prefixCaching must be true or false, not 1"),
      ("{tlsKey: 'x'}", "tlsCertificate and tlsKey must be set together: one of them is missing"),
      ("{\n  port: 1,\n  host 'x',\n}", "test.json5: not valid JSON5 near line 3"),
      ("[]", "test.json5: not valid JSON5 near line 1"),
      ("", "test.json5: not valid JSON5 near line 1"),
    ])
  func mistakes(text: String, message: String) {
    let error = #expect(throws: SettingsError.self) { try read(text) }
    #expect(error?.description == message)
  }

  @Test("flags override and are checked the same way")
  func overrides() throws {
    var settings = ServerSettings()
    try settings.override("port", with: "99", flag: "--port")
    try settings.override("compute", with: "exact", flag: "--compute")
    try settings.override("apiKeyFile", with: "/k", flag: "--api-key-file")
    #expect(settings.port == 99 && settings.compute == "exact" && settings.apiKeyFile == "/k")
    for type in CacheType.allCases {
      try settings.override("cacheType", with: type.rawValue, flag: "--cache-type")
      #expect(settings.cacheType == type.rawValue)
    }
    for (key, text) in [
      ("port", "70000"), ("port", "x"), ("port", ""), ("cacheType", "fp4"), ("threads", "-3"), ("pinThreads", "1"),
    ] {
      let error = #expect(throws: SettingsError.self) { try settings.override(key, with: text, flag: "--flag") }
      #expect(error?.description.hasPrefix("--flag: \(key) must be ") == true)
      if !text.isEmpty { #expect(error?.description.contains(text) == true) }
    }
  }

  @Test("threads: one per physical core unless set; pinning and interleaving reach the engine's options")
  func placement() throws {
    let topology = Topology.read()
    var settings = ServerSettings()
    #expect(!settings.pinThreads && settings.numaInterleave)
    #expect(settings.engineOptions.threads == topology.defaultThreads)
    settings.threads = 3
    #expect(settings.engineOptions.threads == 3)
    #expect(settings.engineOptions.placement == topology.placement(threads: 3, pins: false, interleaves: true))
    settings = try read("{threads: 1, pinThreads: true, numaInterleave: false}")
    #expect(settings.engineOptions.placement == topology.placement(threads: 1, pins: true, interleaves: false))
    #expect(settings.engineOptions.placement.summary.hasSuffix(", 1 thread, pinned to CPU \(try #require(Topology.affinity()?.first))"))
    try settings.override("pinThreads", with: "false", flag: "--pin-threads")
    try settings.override("numaInterleave", with: "true", flag: "--numa-interleave")
    #expect(settings.engineOptions.placement == topology.placement(threads: 1, pins: false, interleaves: true))
  }

  @Test("missing and huge files")
  func unreadable() {
    let error = #expect(throws: SettingsError.self) { try ServerSettings(file: "/nowhere.json5") }
    #expect(error?.description.hasPrefix("/nowhere.json5: ") == true)
    #expect(throws: SettingsError.self) { try ServerSettings(file: "/tmp") }
  }
}
