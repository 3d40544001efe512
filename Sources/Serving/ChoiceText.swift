// Turns the tokens of one choice into the text a client may see: complete UTF-8 only, nothing of a stop string, and log-probabilities that
// keep step with the text. A pure value; knows no JSON and no HTTP.

import Engine
import Tokenizer

/// One token in an answer's `logprobs`.
package struct LogProbabilityEntry: Sendable, Equatable {
  package let token: [UInt8]
  package let logProbability: Float
  package let top: [(token: [UInt8], logProbability: Float)]
  /// Where the token begins in the choice's text, in Unicode scalars.
  package let textOffset: Int

  package static func == (left: LogProbabilityEntry, right: LogProbabilityEntry) -> Bool {
    left.token == right.token && left.logProbability == right.logProbability && left.textOffset == right.textOffset
      && left.top.elementsEqual(right.top) { $0.token == $1.token && $0.logProbability == $1.logProbability }
  }
}

/// What one more token adds to an answer.
package struct TextDelta: Sendable {
  package var text: [UInt8] = []
  package var logProbabilities: [LogProbabilityEntry] = []
  package var finish: FinishReason?
  /// A stop string ended the choice; the engine does not know yet.
  package var isStopString = false
}

package struct ChoiceText: Sendable {
  private let model: ServedModel
  private let tokensAsIDs: Bool
  private let minTokens: Int
  private var decoder: StreamDecoder
  private var matcher: StopMatcher
  private var isFinished = false
  /// Of the decoded text, stop strings included.
  private var decodedByteCount = 0
  private var decodedScalarCount: Int
  private var emittedByteCount = 0
  private var waiting: [(startByte: Int, entry: LogProbabilityEntry)] = []

  /// `scalarOffset`: scalars of the choice's text before the first generated one (an echoed prompt).
  package init(model: ServedModel, sampling: SamplingFields, tokensAsIDs: Bool = false, scalarOffset: Int = 0) {
    self.model = model
    self.tokensAsIDs = tokensAsIDs
    minTokens = sampling.minTokens
    decoder = StreamDecoder(model.tokenizer, skipSpecial: sampling.skipSpecialTokens)
    matcher = StopMatcher(stops: sampling.stops)
    decodedScalarCount = scalarOffset
  }

  /// Takes the next token of the choice. After a delta with `finish` nothing more comes out.
  package mutating func append(_ event: TokenEvent) -> TextDelta {
    var delta = TextDelta()
    guard !isFinished else { return delta }
    noteLogProbabilities(of: event)
    if !event.isStopToken { take(decoder.append(event.token), canStop: event.generatedCount > minTokens, into: &delta) }
    if !isFinished, let finish = event.finish {
      take(decoder.finish(), canStop: true, into: &delta)
      if !isFinished {
        emit(matcher.finish(), into: &delta)
        delta.finish = finish
        isFinished = true
      }
    }
    releaseEntries(into: &delta)
    return delta
  }

  private mutating func noteLogProbabilities(of event: TokenEvent) {
    guard let values = event.logProbabilities else { return }
    var top = values.top.map { (token: model.display($0.token, asID: tokensAsIDs), logProbability: $0.logProbability) }
    // The chosen token is always there, so there may be one more than asked for (OpenAI's rule).
    if !values.top.contains(where: { $0.token == event.token }) {
      top.append((model.display(event.token, asID: tokensAsIDs), values.chosen))
    }
    let entry = LogProbabilityEntry(
      token: model.display(event.token, asID: tokensAsIDs), logProbability: values.chosen, top: top, textOffset: decodedScalarCount)
    waiting.append((decodedByteCount, entry))
  }

  private mutating func take(_ bytes: [UInt8], canStop: Bool, into delta: inout TextDelta) {
    decodedByteCount += bytes.count
    decodedScalarCount += bytes.count { $0 & 0xC0 != 0x80 }
    guard canStop else { return emit(bytes, into: &delta) }
    let result = matcher.append(bytes)
    emit(result.bytes, into: &delta)
    guard result.stop != nil else { return }
    delta.finish = .stop
    delta.isStopString = true
    isFinished = true
  }

  private mutating func emit(_ bytes: [UInt8], into delta: inout TextDelta) {
    delta.text += bytes
    emittedByteCount += bytes.count
  }

  /// Entries wait until the first byte of their token's text is out (it may be half a character, or the start of a stop string); those
  /// of a stop string never come out.
  private mutating func releaseEntries(into delta: inout TextDelta) {
    let isWhole = delta.finish != nil && !delta.isStopString
    let count = isWhole ? waiting.count : waiting.prefix { $0.startByte < emittedByteCount }.count
    delta.logProbabilities += waiting.prefix(count).map(\.entry)
    waiting.removeFirst(count)
  }
}
