// `quire generate`: one prompt on the terminal, streamed. Drives the engine's step directly, without a server.

import ArgumentParser
import Engine
import Glibc
import Serving
import Tokenizer

struct Generate: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Continue one prompt on the terminal.")

  @OptionGroup var model: ModelOptions

  @Option(help: ArgumentHelp("Tokens to generate at most.", valueName: "n"))
  var maxTokens: String = "256"

  @Option(help: ArgumentHelp("0 takes the most probable token; up to 2.", valueName: "x"))
  var temperature: String = "0.8"

  @Option(help: ArgumentHelp("Repeats the same text.", valueName: "n"))
  var seed: UInt64?

  @Argument(help: "The text to continue.")
  var prompt: String

  func run() throws {
    let count = try numberList(maxTokens, flag: "--max-tokens", in: 1...1 << 20)
    guard count.count == 1, let maxNewTokens = count.first else { throw InputFailure("--max-tokens \(maxTokens): one number") }
    guard let heat = Float(temperature), heat >= 0, heat <= 2 else {
      throw InputFailure("--temperature \(temperature): a number from 0 to 2")
    }
    var settings = ServerSettings()
    try model.apply(to: &settings)
    // A token is at least one byte, so this always suffices, and a terminal program does not take all free memory.
    if settings.cacheTokens == 0 { settings.cacheTokens = prompt.utf8.count + maxNewTokens + 2 * settings.blockTokens }
    let loaded = try loadModel(try settings.checked())
    let tokens = loaded.served.promptTokens(prompt)
    guard !tokens.isEmpty else { throw InputFailure("the prompt is empty and the model has no token to begin with") }
    let room = loaded.served.maxContextTokens - tokens.count
    guard room > 0 else {
      throw InputFailure("the prompt has \(tokens.count) tokens; the context holds \(loaded.served.maxContextTokens)")
    }
    try stream(
      loaded,
      GenerationRequest(
        promptTokens: tokens, maxNewTokens: min(maxNewTokens, room),
        sampling: SamplingParameters(temperature: heat, topK: 0, topP: 1, minP: 0, seed: seed ?? UInt64.random(in: 0 ... .max)),
        stopTokens: loaded.served.stopTokens))
  }

  private func stream(_ loaded: LoadedModel, _ request: GenerationRequest) throws {
    let core = loaded.makeCore()
    if let warning = core.adoptThread?() { noteWarning(warning) }
    var decoder = StreamDecoder(loaded.served.tokenizer)
    let start = Clock.nanoseconds()
    var timing: SequenceTiming?
    var generated = 0
    do {
      _ = try core.add(request)
      while core.hasWork {
        try core.step()
        for event in core.events {
          timing = event.timing
          generated = event.generatedCount
          if !event.isStopToken { emit(decoder.append(event.token)) }
        }
        core.clearEvents()
      }
    } catch { throw InputFailure("\(error)") }
    emit(decoder.finish() + [10])
    guard Terminal.isErrorATerminal, let timing else { return }
    let prefill = Clock.seconds(from: start, to: timing.firstToken)
    let decode = Clock.seconds(from: timing.firstToken, to: timing.lastToken)
    let rate = generated > 1 && decode > 0 ? Double(generated - 1) / decode : 0
    Terminal.note("\(request.promptTokens.count) prompt tokens in \(rounded(prefill)) s, then \(rounded(rate)) tokens/s")
  }

  private func emit(_ bytes: [UInt8]) {
    guard !bytes.isEmpty else { return }
    Terminal.write(bytes)
  }
}

/// Two digits behind the point.
func rounded(_ value: Double) -> Double { (value * 100).rounded() / 100 }

func noteWarning(_ warning: String) { Terminal.note("quire: warning: \(warning)") }

/// Loads with progress; a bad model is bad input.
func loadModel(_ settings: ServerSettings) throws -> LoadedModel {
  let progress = Progress("quire: loading weights")
  defer { progress.finish() }
  do throws(ModelLoadError) {
    let loaded = try ModelLoader(settings).load(progress: { progress.update(done: $0, total: $1, unit: .bytes) })
    progress.finish()
    for warning in loaded.transformer.warnings { noteWarning(warning) }
    return loaded
  } catch { throw InputFailure("\(error)") }
}
