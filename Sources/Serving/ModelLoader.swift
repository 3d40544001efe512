// From a path to everything the server runs: model file, tokenizer, weights, and the rules for BOS, stop and masked tokens
// (SPEC 4.5, 4.6). The one place where ModelFile, Tokenizer and Engine meet. Knows no HTTP.

import Engine
import ModelFile
import Scheduler
import Tokenizer

/// One line for the operator.
package enum ModelLoadError: Error, Sendable, CustomStringConvertible {
  case file(ModelFileError)
  case tokenizer(path: String, TokenizerError)
  case noTokenizer(path: String)
  case engine(path: String, EngineError)

  package var description: String {
    switch self {
    case .file(let error): error.description
    case .tokenizer(let path, let error): "\(path): tokenizer: \(error)"
    case .noTokenizer(let path): "\(path): there is no tokenizer in the model (tokenizer.json, or tokenizer.ggml.* in a GGUF file)"
    case .engine(let path, let error): "\(path): \(error)"
    }
  }
}

/// A model in memory, before a thread owns it.
package final class LoadedModel {
  package let served: ServedModel
  package let transformer: Transformer
  package let configuration: SchedulerConfiguration
  package let maskedTokens: [Int32]
  package let chatTemplate: String?

  init(served: ServedModel, transformer: Transformer, configuration: SchedulerConfiguration, maskedTokens: [Int32], chatTemplate: String?) {
    self.served = served
    self.transformer = transformer
    self.configuration = configuration
    self.maskedTokens = maskedTokens
    self.chatTemplate = chatTemplate
  }

  /// Scheduler, forward pass and sampler together.
  package func makeCore() -> EngineCore {
    let transformer = transformer
    let core = EngineCore(
      configuration: configuration, vocabularySize: served.vocabularySize, maskedTokens: maskedTokens, modelStopTokens: served.stopTokens,
      transformer: transformer
    ) { batch throws(EngineError) in
      try transformer.check(batch)
      return transformer.forward(batch)
    }
    core.adoptThread = { transformer.adoptThread() }
    core.rest = { transformer.rest() }
    core.readGauges = {
      var gauges = EngineGauges()
      gauges.expertLoadImbalance = transformer.expertLoad.worstImbalance
      let totals = transformer.stageTotals
      gauges.phaseNanoseconds = Stage.allCases.map { ("\($0)", totals[$0.rawValue].nanoseconds) }
      return gauges
    }
    return core
  }

  package var info: ModelInfo {
    var info = ModelInfo()
    info.name = served.name
    info.maxContextTokens = served.maxContextTokens
    info.weightsBytes = transformer.plan.weightBytes + transformer.plan.mappedBytes
    info.cacheBytesPerToken = transformer.plan.cacheBytesPerToken
    info.blockTokens = transformer.plan.blockTokens
    info.blockCount = transformer.plan.blockCount
    info.kernels = transformer.kernelName
    info.compute = transformer.options.compute.rawValue
    info.cacheType = transformer.options.cacheType.rawValue
    return info
  }
}

package struct ModelLoader {
  private let settings: ServerSettings

  package init(_ settings: ServerSettings) { self.settings = settings }

  /// - Parameters:
  ///   - describe: called once the sizes are known, before the weights are read.
  ///   - progress: bytes of weights done and in all.
  package func load(
    describe: (ModelFile, MemoryPlan, Placement) -> Void = { _, _, _ in }, progress: @escaping (_ doneBytes: Int, _ totalBytes: Int) -> Void
  ) throws(ModelLoadError) -> LoadedModel {
    let path = settings.model
    let file: ModelFile
    do throws(ModelFileError) { file = try ModelFile(path: path) } catch { throw .file(error) }
    let tokenizer = try Self.tokenizer(of: file)
    let transformer: Transformer
    do throws(EngineError) {
      let options = settings.engineOptions
      let plan = try MemoryPlan.make(model: file, options: options)
      describe(file, plan, options.placement)
      transformer = try Transformer(model: file, options: options, plan: plan, progress: progress)
    } catch { throw .engine(path: path, error) }
    let configuration = settings.schedulerConfiguration(model: file.hyperparameters, plan: transformer.plan)
    let vocabularySize = file.hyperparameters.vocabularySize
    let served = ServedModel(
      name: settings.modelName ?? file.name, tokenizer: tokenizer, vocabularySize: vocabularySize,
      beginToken: Self.beginToken(file, tokenizer), stopTokens: Self.stopTokens(file, tokenizer),
      maxContextTokens: configuration.maxContextTokens)
    // The goldens' greedy tokens include ids that the tokenizer lacks, so `exact` shows the model as it is.
    let masked = settings.compute == "exact" ? [] : (0..<Int32(clamping: vocabularySize)).filter { !tokenizer.isUsable($0) }
    return LoadedModel(
      served: served, transformer: transformer, configuration: configuration, maskedTokens: masked, chatTemplate: file.chatTemplate)
  }

  /// Without a word about it.
  package func load() throws(ModelLoadError) -> LoadedModel { try load { _, _ in } }

  package static func tokenizer(of file: ModelFile) throws(ModelLoadError) -> Tokenizer {
    do throws(TokenizerError) {
      switch file.tokenizerSource {
      case .json(let json, _): return try Tokenizer(tokenizerJSON: json)
      case .gguf(let stored):
        return try Tokenizer(
          ggufModel: stored.model, pre: stored.pre, tokens: stored.tokens, types: stored.types, merges: stored.merges)
      case .none: break
      }
    } catch { throw .tokenizer(path: file.path, error) }
    throw .noTokenizer(path: file.path)
  }

  /// SPEC 4.5: exactly one BOS, if the file asks for it or the family is DeepSeek (whose files contradict each other).
  package static func beginToken(_ file: ModelFile, _ tokenizer: Tokenizer) -> Int32? {
    var token = file.hyperparameters.bosToken
    var isAsked = tokenizer.preTokenizerName.hasPrefix("deepseek")
    switch file.tokenizerSource {
    case .json(_, let config):
      token = config.bosToken.flatMap { tokenizer.id(ofAddedToken: $0) } ?? token
      isAsked = isAsked || config.addBos == true
    case .gguf(let stored):
      token = stored.bos ?? token
      isAsked = isAsked || stored.addBos == true
    case .none: break
    }
    guard isAsked, let token, token >= 0, Int(token) < file.hyperparameters.vocabularySize else { return nil }
    return token
  }

  /// SPEC 4.6: every end-of-sequence id that any of the files names, and `<|EOT|>` where the vocabulary has it.
  package static func stopTokens(_ file: ModelFile, _ tokenizer: Tokenizer) -> [Int32] {
    var tokens = file.hyperparameters.eosTokens
    switch file.tokenizerSource {
    case .json(_, let config): tokens += [config.eosToken.flatMap { tokenizer.id(ofAddedToken: $0) }].compactMap { $0 }
    case .gguf(let stored): tokens += [stored.eos, stored.eot].compactMap { $0 }
    case .none: break
    }
    tokens += [tokenizer.id(ofAddedToken: "<|EOT|>")].compactMap { $0 }
    return Set(tokens).filter { $0 >= 0 && Int($0) < file.hyperparameters.vocabularySize }.sorted()
  }
}

extension ServerSettings {
  package var engineOptions: EngineOptions {
    let topology = Topology.read()
    let threads = threads > 0 ? threads : topology.defaultThreads
    return EngineOptions(
      threads: threads, compute: ComputeMode(rawValue: compute) ?? .fast, cacheType: CacheType(rawValue: cacheType) ?? .int16,
      cacheTokens: cacheTokens > 0 ? cacheTokens : nil, blockTokens: blockTokens, maxBatchTokens: maxBatchTokens,
      maxSequences: maxSequences, memoryReserveBytes: memoryReserveMiB << 20,
      placement: topology.placement(threads: threads, pins: pinThreads, interleaves: numaInterleave))
  }

  func schedulerConfiguration(model: Hyperparameters, plan: MemoryPlan) -> SchedulerConfiguration {
    SchedulerConfiguration(
      blockTokens: plan.blockTokens, blockCount: plan.blockCount, maxBatchTokens: maxBatchTokens, maxSequences: maxSequences,
      maxWaiting: maxWaitingSequences,
      maxContextTokens: min(model.maxContext, maxContextTokens > 0 ? maxContextTokens : .max, plan.cacheTokens),
      prefixCaching: prefixCaching, maxPrefillChunkTokens: maxPrefillChunkTokens,
      prefillTokensBesideDecodes: prefillTokensBesideDecodes)
  }
}
