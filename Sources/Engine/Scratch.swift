// Every buffer that a forward pass writes, sized once from the limits, so that no step allocates. Knows shapes, not their use.

import CEngine
import CKernels
import ModelFile

/// The quantised forms of some rows of activations, `copies` times; fast mode only. 16-bit integers only where transposed matrices may read.
struct QuantisedForms {
  private let q8: UnsafeMutableRawPointer?
  private let bf16: UnsafeMutableRawPointer?
  private let int16: UnsafeMutableRawPointer?
  private let columns: Int

  init(_ arena: inout Arena, copies: Int = 1, rows: Int, columns: Int, compute: ComputeMode, integers: Bool) {
    self.columns = columns
    func room(_ kind: qk_activation, _ wanted: Bool) -> UnsafeMutableRawPointer? {
      guard wanted, compute == .fast, columns > 0 else { return nil }
      return UnsafeMutableRawPointer(arena.room(UInt8.self, copies, rows, qk_activation_bytes(kind, columns)))
    }
    q8 = room(QK_ACT_Q8, columns % 32 == 0)
    bf16 = room(QK_ACT_BF16, true)
    int16 = room(QK_ACT_INT16, integers)
  }

  func bytes(_ kind: qk_activation) -> Int { qk_activation_bytes(kind, columns) }

  func rows(_ needs: ActivationNeeds, f32: UnsafeMutablePointer<Float>) -> qe_activations {
    qe_activations(
      f32: f32, f32_stride: columns, q8: needs.q8 ? q8 : nil, bf16: needs.bf16 ? bf16 : nil, int16: needs.int16 ? int16 : nil,
      q8_bytes: bytes(QK_ACT_Q8), bf16_bytes: bytes(QK_ACT_BF16), int16_bytes: bytes(QK_ACT_INT16))
  }

  func heads(_ needs: ActivationNeeds, capacity: Int) -> qe_head_activations {
    qe_head_activations(
      q8: needs.q8 ? q8 : nil, bf16: needs.bf16 ? bf16 : nil, int16: needs.int16 ? int16 : nil, q8_bytes: bytes(QK_ACT_Q8),
      bf16_bytes: bytes(QK_ACT_BF16), int16_bytes: bytes(QK_ACT_INT16), capacity: capacity)
  }

  /// Row `row` in the form that `matrix` reads.
  func row(_ row: Int, for matrix: Matrix) -> UnsafeRawPointer {
    let kind = matrix.activation
    guard let base = kind == QK_ACT_Q8 ? q8 : kind == QK_ACT_BF16 ? bf16 : int16 else {
      preconditionFailure("no activations in the form this matrix reads")
    }
    return UnsafeRawPointer(base + row * bytes(kind))
  }
}

/// Rows of activations and the quantised forms that fast mode reads.
struct ActivationBuffer {
  let f32: UnsafeMutablePointer<Float>  // [rows, columns]
  let columns: Int
  private let quantised: QuantisedForms

  init(_ arena: inout Arena, rows: Int, columns: Int, compute: ComputeMode, integers: Bool = false) {
    self.columns = columns
    f32 = arena.room(Float.self, rows, columns)
    quantised = QuantisedForms(&arena, rows: rows, columns: columns, compute: compute, integers: integers)
  }

  /// The view that jobs write.
  func forms(_ needs: ActivationNeeds) -> qe_activations { quantised.rows(needs, f32: f32) }

  /// Row `row` in the form that `matrix` reads.
  func source(for matrix: Matrix, row: Int = 0) -> (pointer: UnsafeRawPointer, stride: Int) {
    matrix.isPacked ? (quantised.row(row, for: matrix), 0) : (UnsafeRawPointer(f32 + row * columns), columns)
  }
}

/// Head-major quantised activations, [heads][rows]; fast mode only.
struct HeadActivationBuffer {
  private let quantised: QuantisedForms
  private let rows: Int

  init(_ arena: inout Arena, heads: Int, rows: Int, columns: Int, compute: ComputeMode, integers: Bool = false) {
    self.rows = rows
    quantised = QuantisedForms(&arena, copies: heads, rows: rows, columns: columns, compute: compute, integers: integers)
  }

  func forms(_ needs: ActivationNeeds) -> qe_head_activations { quantised.heads(needs, capacity: rows) }

  func source(for matrix: Matrix, head: Int, row: Int) -> UnsafeRawPointer { quantised.row(head * rows + row, for: matrix) }
}

/// Gate and up products of a feed-forward part; the hidden activations replace the gate's.
struct GatedScratch {
  let gate: ActivationBuffer  // [rows, columns]
  let up: UnsafeMutablePointer<Float>  // [rows, columns]

  init(_ arena: inout Arena, rows: Int, columns: Int, compute: ComputeMode) {
    gate = ActivationBuffer(&arena, rows: rows, columns: columns, compute: compute)
    up = arena.room(Float.self, rows, columns)
  }

  /// Where a gated pair leaves the hidden activations of row `row` on, as int8 blocks.
  func hidden(row: Int = 0) -> (rows: UnsafeMutableRawPointer?, bytes: Int) {
    let forms = gate.forms(ActivationNeeds(q8: true))
    return (forms.q8.map { $0 + row * forms.q8_bytes }, forms.q8_bytes)
  }

  func silu(rows: Int, needs: ActivationNeeds) -> qe_silu {
    qe_silu(count: rows, width: gate.columns, up: up, rows: gate.forms(needs))
  }
}

/// Neighbouring rows of the batch.
struct TokenSpan {
  var first: Int
  var count: Int
}

/// Sizes of the attention's bookkeeping, also needed to size the workers' scratch.
struct AttentionLimits {
  let tileTokens: Int
  let items: Int
  let slots: Int
  /// Keys of a range in expanded form, whose latents are in scratch at once: queries become integers anew for each range.
  static let expandedRange = 4 * Int(QE_EXPANDED_KEYS)
  /// Query rows of one call of the absorbed kernel, about.
  private static let tileRows = 128

  init(_ shape: Hyperparameters, _ options: EngineOptions) {
    tileTokens = max(Self.tileRows / max(shape.headCount, 1), 1)
    slots = min(max(8 * options.threads + 64, shape.maxContext / Int(QK_SPLIT) + 1), 256)
    items = options.maxBatchTokens * 2 + slots * 4 + 16 * options.threads
  }
}

struct Scratch {
  let residual: UnsafeMutablePointer<Float>  // [tokens, hidden]
  let normed: ActivationBuffer  // [tokens, hidden]
  let delta: UnsafeMutablePointer<Float>  // [tokens, hidden]
  let queryLow: UnsafeMutablePointer<Float>  // [tokens, queryRank]
  let queryLowNormed: ActivationBuffer  // [tokens, queryRank]
  let query: UnsafeMutablePointer<Float>  // [tokens, heads * (n + r)]
  let latent: UnsafeMutablePointer<Float>  // [tokens, c + r]
  let queryLatent: UnsafeMutablePointer<Float>  // [tokens * heads, c + r]
  let nope: HeadActivationBuffer  // [heads][tokens] of n
  let softmaxMaximum: UnsafeMutablePointer<Float>  // [tokens * heads]
  let softmaxSum: UnsafeMutablePointer<Float>  // [tokens * heads]
  let attended: UnsafeMutablePointer<Float>  // [tokens * heads, c]
  let attendedHeads: HeadActivationBuffer  // [heads][tokens] of c
  let slotMaximum: UnsafeMutablePointer<Float>  // [slots * heads]
  let slotSum: UnsafeMutablePointer<Float>  // [slots * heads]
  let slotAttended: UnsafeMutablePointer<Float>  // [slots * heads, c]
  let values: ActivationBuffer  // [tokens, heads * v]
  let dense: GatedScratch  // [tokens, dense width]
  let shared: GatedScratch  // [tokens, shared width]
  let routed: GatedScratch  // [pairs, expertWidth]
  let expertOut: UnsafeMutablePointer<Float>  // [pairs, hidden]
  let routerLogits: UnsafeMutablePointer<Float>  // [tokens, experts]
  let slotExperts: UnsafeMutablePointer<Int32>  // [tokens, k]
  let slotWeights: UnsafeMutablePointer<Float>  // [tokens, k]
  let firstPair: UnsafeMutablePointer<Int32>  // [experts + 1]
  let pairToken: UnsafeMutablePointer<Int32>  // [pairs]
  let pairOfSlot: UnsafeMutablePointer<Int32>  // [tokens, k]
  let cosine: UnsafeMutablePointer<Float>  // [tokens, r / 2]
  let sine: UnsafeMutablePointer<Float>  // [tokens, r / 2]
  let cacheRows: UnsafeMutablePointer<Int64>  // [tokens]
  let wantedRows: UnsafeMutablePointer<Int32>  // [logitsRows]
  let final: ActivationBuffer  // [logitsRows, hidden]
  let logits: UnsafeMutablePointer<Float>  // [logitsRows, vocabulary]
  let tasks: UnsafeMutablePointer<qk_matmul_task>  // [max(2 experts + 8, heads)]
  let spans: UnsafeMutablePointer<TokenSpan>  // [sequences + 1] of tokens that attend in absorbed form
  let expandedEntries: UnsafeMutablePointer<Int32>  // [sequences] entries that attend in expanded form
  let items: UnsafeMutablePointer<qe_attention_item>  // [limits.items]
  let merges: UnsafeMutablePointer<qe_attention_merge>  // [limits.slots]
  let expanded: ExpandedScratch?
  let limits: AttentionLimits

  init(_ arena: inout Arena, _ shape: Hyperparameters, _ options: EngineOptions) {
    let (tokens, compute, heads) = (options.maxBatchTokens, options.compute, shape.headCount)
    let (d, c, r) = (shape.hiddenSize, shape.latentRank, shape.ropeDim)
    limits = AttentionLimits(shape, options)
    residual = arena.room(Float.self, tokens, d)
    normed = ActivationBuffer(&arena, rows: tokens, columns: d, compute: compute)
    delta = arena.room(Float.self, tokens, d)
    queryLow = arena.room(Float.self, tokens, shape.queryRank ?? 0)
    queryLowNormed = ActivationBuffer(&arena, rows: tokens, columns: shape.queryRank ?? 0, compute: compute)
    query = arena.room(Float.self, tokens, heads, shape.queryHeadDim)
    latent = arena.room(Float.self, tokens, c + r)
    queryLatent = arena.room(Float.self, tokens, heads, c + r)
    nope = HeadActivationBuffer(&arena, heads: heads, rows: tokens, columns: shape.nopeDim, compute: compute, integers: true)
    softmaxMaximum = arena.room(Float.self, tokens, heads)
    softmaxSum = arena.room(Float.self, tokens, heads)
    attended = arena.room(Float.self, tokens, heads, c)
    attendedHeads = HeadActivationBuffer(&arena, heads: heads, rows: tokens, columns: c, compute: compute)
    slotMaximum = arena.room(Float.self, limits.slots, heads)
    slotSum = arena.room(Float.self, limits.slots, heads)
    slotAttended = arena.room(Float.self, limits.slots, heads, c)
    values = ActivationBuffer(&arena, rows: tokens, columns: heads * shape.valueDim, compute: compute)
    let (hasDense, hasExperts) = (shape.isMixtureOfExperts.contains(false), shape.isMixtureOfExperts.contains(true))
    let k = hasExperts ? shape.expertsPerToken : 0
    dense = GatedScratch(&arena, rows: tokens, columns: hasDense ? shape.denseWidth : 0, compute: compute)
    shared = GatedScratch(&arena, rows: tokens, columns: hasExperts ? shape.sharedExpertCount * shape.expertWidth : 0, compute: compute)
    routed = GatedScratch(&arena, rows: tokens * k, columns: hasExperts ? shape.expertWidth : 0, compute: compute)
    expertOut = arena.room(Float.self, tokens, k, d)
    routerLogits = arena.room(Float.self, tokens, shape.expertCount)
    slotExperts = arena.room(Int32.self, tokens, k)
    slotWeights = arena.room(Float.self, tokens, k)
    firstPair = arena.room(Int32.self, shape.expertCount + 1)
    pairToken = arena.room(Int32.self, tokens, k)
    pairOfSlot = arena.room(Int32.self, tokens, k)
    cosine = arena.room(Float.self, tokens, r / 2)
    sine = arena.room(Float.self, tokens, r / 2)
    cacheRows = arena.room(Int64.self, tokens)
    let rows = options.maxLogitsRows
    wantedRows = arena.room(Int32.self, rows)
    final = ActivationBuffer(&arena, rows: rows, columns: d, compute: compute)
    logits = arena.room(Float.self, rows, shape.vocabularySize)
    tasks = arena.room(qk_matmul_task.self, max(2 * shape.expertCount + 8, heads))
    spans = arena.room(TokenSpan.self, options.maxSequences + 1)
    expandedEntries = arena.room(Int32.self, options.maxSequences)
    items = arena.room(qe_attention_item.self, limits.items)
    merges = arena.room(qe_attention_merge.self, limits.slots)
    expanded = options.expandedThreshold == nil ? nil : ExpandedScratch(&arena, shape, options)
  }

  /// What one worker needs for any job of a forward pass.
  static func workerBytes(_ shape: Hyperparameters, _ options: EngineOptions, widestColumns: Int) -> Int {
    let limits = AttentionLimits(shape, options)
    let product = qk_pool_matmul_scratch_bytes(widestColumns)
    let absorbed =
      qe_attention_state_bytes(shape.headCount, shape.latentRank)
      + qk_attention_scratch_bytes(
        limits.tileTokens * shape.headCount, shape.latentRank + shape.ropeDim, shape.latentRank)
    let result = max(product, absorbed, qe_sample_scratch_bytes(shape.vocabularySize))
    guard options.expandedThreshold != nil else { return result }
    let keys = qe_expanded_keys_bytes(shape.nopeDim, shape.valueDim, shape.latentRank)
    let expanded = qk_attention_scratch_bytes(options.maxBatchTokens, shape.nopeDim + shape.ropeDim, shape.valueDim)
    return max(result, keys + expanded)
  }
}

/// Room for the expanded form; fast mode only.
struct ExpandedScratch {
  let latents: ActivationBuffer  // [expandedRange, c]
  let maximum: UnsafeMutablePointer<Float>  // [heads, tokens]
  let sum: UnsafeMutablePointer<Float>  // [heads, tokens]
  let attended: UnsafeMutablePointer<Float>  // [heads, tokens, v]
  let tokensCapacity: Int

  init(_ arena: inout Arena, _ shape: Hyperparameters, _ options: EngineOptions) {
    let (tokens, heads) = (options.maxBatchTokens, shape.headCount)
    latents = ActivationBuffer(
      &arena, rows: AttentionLimits.expandedRange, columns: shape.latentRank, compute: options.compute, integers: true)
    maximum = arena.room(Float.self, heads, tokens)
    sum = arena.room(Float.self, heads, tokens)
    attended = arena.room(Float.self, heads, tokens, shape.valueDim)
    tokensCapacity = tokens
  }
}

enum ScratchLayout {
  /// Bytes of the arena that `Scratch` takes, and of all workers' scratch.
  static func byteCount(_ shape: Hyperparameters, _ options: EngineOptions, _ weights: WeightPlan) throws(EngineError) -> Int {
    let arena = try arenaBytes(shape, options)
    let workers = Scratch.workerBytes(shape, options, widestColumns: weights.widestColumns)
    return arena + options.threads * max(workers, weights.scratchBytes)
  }

  static func arenaBytes(_ shape: Hyperparameters, _ options: EngineOptions) throws(EngineError) -> Int {
    var arena = Arena.measuring()
    _ = Scratch(&arena, shape, options)
    guard !arena.overflowed else {
      throw .unsupportedModel(reason: "its activations for \(options.maxBatchTokens) tokens do not fit an address space")
    }
    return arena.byteCount
  }
}

extension EngineOptions {
  /// Rows of logits that one step may want: one per sequence.
  package var maxLogitsRows: Int { min(maxSequences, maxBatchTokens) }
  /// nil where the absorbed form is always taken.
  var expandedThreshold: Int? {
    guard compute == .fast || expandsInExactMode, let tokens = expandedFromTokens, tokens <= maxBatchTokens else { return nil }
    return tokens
  }
}
