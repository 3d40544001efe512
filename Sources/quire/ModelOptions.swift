// The flags that every command with a model shares, and how they become settings.
// A flag overrides the configuration file; both are checked by the same code in Serving.

import ArgumentParser
import Serving

struct ModelOptions: ParsableArguments {
  @Option(help: ArgumentHelp("A GGUF file or a Hugging Face directory.", valueName: "path"))
  var model: String?

  @Option(help: ArgumentHelp("Worker threads; 0: one per physical core.", valueName: "n"))
  var threads: String?

  @Flag(inversion: .prefixedNo, help: "Keep each worker on a core of its own. (default: no)")
  var pinThreads: Bool?

  @Flag(inversion: .prefixedNo, help: "Spread weights and cache over all NUMA nodes. (default: yes)")
  var numaInterleave: Bool?

  @Option(help: ArgumentHelp("fast: activations in bf16 or int8 blocks. exact: float32 throughout.", valueName: "fast|exact"))
  var compute: String?

  @Option(help: ArgumentHelp("Element type of the latent cache.", valueName: "int16|bf16|f32|int8|int6"))
  var cacheType: String?

  @Option(help: ArgumentHelp("Tokens the latent cache holds; 0: what fits into free memory.", valueName: "n"))
  var cacheTokens: String?

  @Option(help: ArgumentHelp("Tokens per cache block.", valueName: "n"))
  var blockTokens: String?

  @Option(help: ArgumentHelp("Tokens computed in one step at most.", valueName: "n"))
  var maxBatchTokens: String?

  @Option(help: ArgumentHelp("Sequences that run at once.", valueName: "n"))
  var maxSequences: String?

  func apply(to settings: inout ServerSettings) throws {
    try settings.take("model", model, flag: "--model")
    try settings.take("threads", threads, flag: "--threads")
    try settings.take("pinThreads", pinThreads.map { "\($0)" }, flag: "--pin-threads")
    try settings.take("numaInterleave", numaInterleave.map { "\($0)" }, flag: "--numa-interleave")
    try settings.take("compute", compute, flag: "--compute")
    try settings.take("cacheType", cacheType, flag: "--cache-type")
    try settings.take("cacheTokens", cacheTokens, flag: "--cache-tokens")
    try settings.take("blockTokens", blockTokens, flag: "--block-tokens")
    try settings.take("maxBatchTokens", maxBatchTokens, flag: "--max-batch-tokens")
    try settings.take("maxSequences", maxSequences, flag: "--max-sequences")
  }
}

extension ServerSettings {
  mutating func take(_ key: String, _ value: String?, flag: String) throws {
    guard let value else { return }
    do throws(SettingsError) { try override(key, with: value, flag: flag) } catch { throw InputFailure("\(error)") }
  }

  func checked() throws -> ServerSettings {
    do throws(SettingsError) { try checkTogether() } catch { throw InputFailure("\(error)") }
    return self
  }
}

/// A list of whole numbers such as `1,8,32`, each within a range.
func numberList(_ text: String, flag: String, in range: ClosedRange<Int>) throws -> [Int] {
  let values = text.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
  guard !values.isEmpty, values.count <= 64, values.allSatisfy({ $0.map(range.contains) ?? false }) else {
    throw InputFailure("\(flag) \(text): whole numbers from \(range.lowerBound) to \(range.upperBound), separated by commas")
  }
  return values.compactMap { $0 }
}
