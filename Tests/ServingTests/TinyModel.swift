// The fixture model that the tests of this target run, and events as the engine would send them.

import Engine
import Glibc
import Logging
import ModelFile
import Scheduler
import Tokenizer

@testable import Serving

enum TinyModel {
  static let path = "/" + #filePath.split(separator: "/").dropLast(2).joined(separator: "/") + "/Fixtures/tiny/v2lite-bf16"

  /// Small and exact, on one worker.
  static var settings: ServerSettings {
    var settings = ServerSettings()
    settings.model = path
    settings.modelName = "tiny"
    settings.port = 0
    settings.threads = 1
    settings.compute = "exact"
    settings.cacheType = "f32"
    settings.cacheTokens = 4096
    settings.logLevel = "critical"
    return settings
  }

  static func load(_ settings: ServerSettings = settings) throws -> LoadedModel { try ModelLoader(settings).load() }

  /// Its tokenizer without its weights.
  static func served() throws -> ServedModel {
    let file = try ModelFile(path: path)
    let tokenizer = try ModelLoader.tokenizer(of: file)
    return ServedModel(
      name: "tiny", tokenizer: tokenizer, vocabularySize: file.hyperparameters.vocabularySize,
      beginToken: ModelLoader.beginToken(file, tokenizer), stopTokens: ModelLoader.stopTokens(file, tokenizer), maxContextTokens: 1024)
  }

  /// A running server with the model in it. `pace` slows its steps, so that requests outlast what a test does beside them however busy
  /// the machine is.
  static func service(pace: Pace? = nil, _ change: (inout ServerSettings) -> Void = { _ in }) throws -> Service {
    var settings = settings
    change(&settings)
    var logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    logger.logLevel = .critical
    let service = try Service(settings: settings, version: "test", logger: logger)
    try service.start()
    let loaded = try ModelLoader(settings).load()
    if let pace { service.install(loaded, beforeStep: { pace.wait() }) } else { service.install(loaded) }
    return service
  }
}

extension TokenEvent {
  /// The `count`-th token of a sequence.
  static func test(
    _ token: Int32, count: Int, finish: FinishReason? = nil, isStopToken: Bool = false, logProbabilities: TokenLogProbabilities? = nil,
    timing: SequenceTiming = SequenceTiming(arrival: 0)
  ) -> TokenEvent {
    TokenEvent(
      sequence: SequenceID(rawValue: 1), token: token, generatedCount: count, promptCount: 3, cachedPromptTokens: 0,
      logProbabilities: logProbabilities, finish: finish, isStopToken: isStopToken, timing: timing)
  }
}
