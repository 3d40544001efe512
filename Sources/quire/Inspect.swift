// `quire inspect PATH`: what is in a model file, without loading it.

import ArgumentParser
import Engine
import ModelFile
import Serving

struct Inspect: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show what is in a model file: hyperparameters, tensors by type, memory plan, tokenizer and chat format.")

  @Argument(help: ArgumentHelp("A GGUF file or a Hugging Face directory.", valueName: "path"))
  var path: String

  @Flag(help: "List every tensor.")
  var tensors = false

  @Flag(help: "List every metadata key.")
  var metadata = false

  func run() throws {
    let file: ModelFile
    do throws(ModelFileError) { file = try ModelFile(path: path) } catch { throw InputFailure("\(error)") }
    let description = file.describe()
    Terminal.print("\(file.name) (\(formatName(file.format)), \(byteText(description.byteCount)), \(description.elementCount) parameters)")
    section("Hyperparameters", hyperparameterLines(file.hyperparameters))
    section(
      "Tensors by type",
      description.types.map { "\(padded($0.type.name, 8)) \(padded("\($0.tensorCount)", 6)) \(byteText($0.byteCount))" })
    section("Tokenizer", tokenizerLines(file))
    section("Memory plan on this machine, with the default settings", memoryLines(file))
    section("Assumed", file.hyperparameters.assumptions)
    section("Warnings", file.warnings)
    if metadata { section("Metadata", description.metadata.map { "\($0.key) = \($0.value)" }) }
    if tensors {
      section("Tensors", file.tensors.map { "\(padded($0.type.name, 8)) \($0.shape) \($0.name) at byte \($0.fileOffset)" })
    }
  }

  private func section(_ title: String, _ lines: [String]) {
    guard !lines.isEmpty else { return }
    Terminal.print("\n\(title)")
    for line in lines { Terminal.print("  \(line)") }
  }

  private func formatName(_ format: ModelFile.Format) -> String {
    switch format {
    case .gguf(let version): "GGUF version \(version)"
    case .huggingFace: "Hugging Face directory"
    }
  }

  private func hyperparameterLines(_ h: Hyperparameters) -> [String] {
    var lines = [
      "architecture           \(h.architecture)",
      "layers                 \(h.layerCount), the first \(h.denseLayerCount) dense",
      "hidden size            \(h.hiddenSize)",
      "vocabulary             \(h.vocabularySize)\(h.tiedEmbeddings ? " (head tied to the embedding)" : "")",
      "attention              \(h.headCount) heads; per head \(h.nopeDim) + \(h.ropeDim) rope for keys, \(h.valueDim) for values",
      "query latent           \(h.queryRank.map { "\($0)" } ?? "none")",
      "key-value latent       \(h.latentRank) + \(h.ropeDim) rope = \(h.latentRowWidth) values per token and layer",
      "context                \(h.maxContext) tokens",
      "rope                   theta \(h.ropeTheta), \(h.ropeInterleaved ? "interleaved" : "half-split")",
      "feed-forward           dense \(h.denseWidth)",
    ]
    if let yarn = h.yarn { lines.insert("yarn                   factor \(yarn.factor) from \(yarn.originalContext) tokens", at: 9) }
    if h.expertCount > 0 {
      lines.append(
        "experts                \(h.expertCount) of width \(h.expertWidth), \(h.expertsPerToken) per token, \(h.sharedExpertCount) shared")
      lines.append(
        "router                 \(h.scoring.rawValue), \(h.selection.rawValue), groups \(h.groupsPerToken) of \(h.groupCount), "
          + "scale \(h.routedScale)\(h.normalizesTopK ? ", weights normalised" : "")")
    }
    return lines
  }

  private func tokenizerLines(_ file: ModelFile) -> [String] {
    let source: String
    switch file.tokenizerSource {
    case .json(let json, _): source = "tokenizer.json, \(byteText(json.count))"
    case .gguf(let tokenizer):
      source = "GGUF \(tokenizer.model), pre-tokenizer \(tokenizer.pre ?? "not named"), \(tokenizer.tokens.count) tokens"
    case .none: source = "none"
    }
    return [source, "chat format: \(ChatFormat.name(ofTemplate: file.chatTemplate))"]
  }

  private func memoryLines(_ file: ModelFile) -> [String] {
    do throws(EngineError) {
      return try MemoryPlan.make(model: file, options: EngineOptions(threads: 1)).lines
    } catch { return ["\(error)"] }
  }

  private func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }
}

/// Chat formats told apart by the template's content (SPEC 4.7). Rendering them comes with the chat API.
enum ChatFormat {
  static func name(ofTemplate template: String?) -> String {
    guard let template else { return "none" }
    let utf8 = Array(template.utf8)
    func has(_ text: String) -> Bool { utf8.firstRange(of: Array(text.utf8)) != nil }
    if has("<｜User｜>") && has("<｜Assistant｜>") { return has("<think>") ? "DeepSeek R1" : "DeepSeek V3" }
    if has("Assistant: ") && has("User: ") { return "DeepSeek V2" }
    return "unknown (\(utf8.count) bytes of template)"
  }
}
