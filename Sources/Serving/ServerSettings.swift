// What an operator can set: every key of config/server.json5 with its default, its unit in its name and its range.
// The shipped file is the manual; a test holds it equal to the defaults here. Knows no command line: flags go through `override`.

/// The settings of `quire serve`. Plain values; `validate` in SettingsFile.swift checks ranges.
package struct ServerSettings: Sendable, Equatable {
  // The model
  package var model = "config/models/austen/austen-q8_0.gguf"
  package var modelName: String?

  // Where it listens
  package var host = "127.0.0.1"
  package var port = 8080
  package var tlsCertificate: String?
  package var tlsKey: String?
  package var apiKeyFile: String?
  package var protectMetrics = false

  // Engine
  package var threads = 0
  package var pinThreads = false
  package var numaInterleave = true
  package var compute = "fast"
  package var cacheType = "int16"
  package var cacheTokens = 0
  package var blockTokens = 16
  package var memoryReserveMiB = 1024

  // Scheduler
  package var maxBatchTokens = 512
  package var maxPrefillChunkTokens = 256
  package var prefillTokensBesideDecodes = 32
  package var maxSequences = 64
  package var maxWaitingSequences = 1024
  package var maxContextTokens = 0
  package var prefixCaching = true

  // Requests
  package var maxChoicesPerRequest = 128
  package var prepareThreads = 2
  package var maxPreparingRequests = 256

  // Connections
  package var ioLoops = 2
  package var listenBacklog = 1024
  package var maxConnections = 4096
  package var maxHeadBytes = 16_384
  package var maxHeaderFields = 100
  package var maxBodyBytes = 8_388_608
  package var maxBufferedBodyBytes = 268_435_456
  package var maxPipelinedRequests = 16
  package var maxPendingOutputBytes = 4_194_304
  package var gzipMinimumBytes = 1024
  package var headTimeoutMilliseconds = 10_000
  package var bodyTimeoutMilliseconds = 30_000
  package var idleTimeoutMilliseconds = 75_000
  package var writeTimeoutMilliseconds = 30_000
  package var drainTimeoutMilliseconds = 120_000

  // Log
  package var logLevel = "info"

  package init() {}
}

/// One key of the file: where its value lives and what it may be.
package struct SettingKey: Sendable {
  package enum Kind: Sendable {
    case integer(any WritableKeyPath<ServerSettings, Int> & Sendable, ClosedRange<Int>)
    case boolean(any WritableKeyPath<ServerSettings, Bool> & Sendable)
    case text(any WritableKeyPath<ServerSettings, String> & Sendable)
    case choice(any WritableKeyPath<ServerSettings, String> & Sendable, [String])
    case optionalText(any WritableKeyPath<ServerSettings, String?> & Sendable)
  }

  package let name: String
  package let kind: Kind

  private init(_ name: String, _ kind: Kind) {
    self.name = name
    self.kind = kind
  }

  /// In the order of config/server.json5.
  package static let all: [SettingKey] = [
    SettingKey("model", .text(\.model)),
    SettingKey("modelName", .optionalText(\.modelName)),
    SettingKey("host", .text(\.host)),
    SettingKey("port", .integer(\.port, 0...65_535)),
    SettingKey("tlsCertificate", .optionalText(\.tlsCertificate)),
    SettingKey("tlsKey", .optionalText(\.tlsKey)),
    SettingKey("apiKeyFile", .optionalText(\.apiKeyFile)),
    SettingKey("protectMetrics", .boolean(\.protectMetrics)),
    SettingKey("threads", .integer(\.threads, 0...1024)),
    SettingKey("pinThreads", .boolean(\.pinThreads)),
    SettingKey("numaInterleave", .boolean(\.numaInterleave)),
    SettingKey("compute", .choice(\.compute, ["fast", "exact"])),
    SettingKey("cacheType", .choice(\.cacheType, ["int16", "bf16", "f32", "int8", "int6"])),
    SettingKey("cacheTokens", .integer(\.cacheTokens, 0...1 << 30)),
    SettingKey("blockTokens", .integer(\.blockTokens, 1...1024)),
    SettingKey("memoryReserveMiB", .integer(\.memoryReserveMiB, 0...1 << 24)),
    SettingKey("maxBatchTokens", .integer(\.maxBatchTokens, 1...1 << 16)),
    SettingKey("maxPrefillChunkTokens", .integer(\.maxPrefillChunkTokens, 1...1 << 16)),
    SettingKey("prefillTokensBesideDecodes", .integer(\.prefillTokensBesideDecodes, 1...1 << 16)),
    SettingKey("maxSequences", .integer(\.maxSequences, 1...1 << 14)),
    SettingKey("maxWaitingSequences", .integer(\.maxWaitingSequences, 1...1 << 20)),
    SettingKey("maxContextTokens", .integer(\.maxContextTokens, 0...1 << 30)),
    SettingKey("prefixCaching", .boolean(\.prefixCaching)),
    SettingKey("maxChoicesPerRequest", .integer(\.maxChoicesPerRequest, 1...4096)),
    SettingKey("prepareThreads", .integer(\.prepareThreads, 1...64)),
    SettingKey("maxPreparingRequests", .integer(\.maxPreparingRequests, 1...1 << 16)),
    SettingKey("ioLoops", .integer(\.ioLoops, 1...64)),
    SettingKey("listenBacklog", .integer(\.listenBacklog, 1...65_535)),
    SettingKey("maxConnections", .integer(\.maxConnections, 1...1 << 20)),
    SettingKey("maxHeadBytes", .integer(\.maxHeadBytes, 1024...1 << 20)),
    SettingKey("maxHeaderFields", .integer(\.maxHeaderFields, 8...10_000)),
    SettingKey("maxBodyBytes", .integer(\.maxBodyBytes, 1024...1 << 30)),
    SettingKey("maxBufferedBodyBytes", .integer(\.maxBufferedBodyBytes, 1 << 20...1 << 40)),
    SettingKey("maxPipelinedRequests", .integer(\.maxPipelinedRequests, 1...1024)),
    SettingKey("maxPendingOutputBytes", .integer(\.maxPendingOutputBytes, 65_536...1 << 30)),
    SettingKey("gzipMinimumBytes", .integer(\.gzipMinimumBytes, 0...1 << 30)),
    SettingKey("headTimeoutMilliseconds", .integer(\.headTimeoutMilliseconds, 100...3_600_000)),
    SettingKey("bodyTimeoutMilliseconds", .integer(\.bodyTimeoutMilliseconds, 100...3_600_000)),
    SettingKey("idleTimeoutMilliseconds", .integer(\.idleTimeoutMilliseconds, 100...3_600_000)),
    SettingKey("writeTimeoutMilliseconds", .integer(\.writeTimeoutMilliseconds, 100...3_600_000)),
    SettingKey("drainTimeoutMilliseconds", .integer(\.drainTimeoutMilliseconds, 0...86_400_000)),
    SettingKey("logLevel", .choice(\.logLevel, ["trace", "debug", "info", "notice", "warning", "error", "critical"])),
  ]

  package static func named(_ name: String) -> SettingKey? { all.first { $0.name == name } }

  /// What the value must be, as an error message says it.
  package var requirement: String {
    switch kind {
    case .integer(_, let range): "a whole number from \(range.lowerBound) to \(range.upperBound)"
    case .boolean: "true or false"
    case .text: "a string that is not empty"
    case .choice(_, let values): "one of " + values.map { "\"\($0)\"" }.joined(separator: ", ")
    case .optionalText: "a string that is not empty, or null"
    }
  }
}
