// The numbers that define a DeepSeek-V2-family graph, whatever file they came from, and their validation (SPEC 1.3).
// Knows no file formats.

/// YaRN frequency scaling (SPEC 2.3). `mscale` and `mscaleAllDim` are nil when the file does not say.
package struct YarnScaling: Sendable, Equatable {
  package var factor: Double
  package var originalContext: Int
  package var betaFast: Double = 32
  package var betaSlow: Double = 1
  package var mscale: Double?
  package var mscaleAllDim: Double?
  package var attentionFactor: Double?

  package init(
    factor: Double, originalContext: Int, betaFast: Double = 32, betaSlow: Double = 1, mscale: Double? = nil, mscaleAllDim: Double? = nil,
    attentionFactor: Double? = nil
  ) {
    self.factor = factor
    self.originalContext = originalContext
    self.betaFast = betaFast
    self.betaSlow = betaSlow
    self.mscale = mscale
    self.mscaleAllDim = mscaleAllDim
    self.attentionFactor = attentionFactor
  }
}

package struct Hyperparameters: Sendable, Equatable {
  /// The router's non-linearity.
  package enum Scoring: String, Sendable { case softmax, sigmoid }
  /// How experts are chosen: `greedy`, `group_limited_greedy` (group score: maximum), `noaux_tc` (bias for selection
  /// only, group score: sum of the two best biased).
  package enum Selection: String, Sendable { case greedy, groupLimitedGreedy, biasedGroups }

  package var architecture = ""  // "deepseek_v2", "deepseek_v3", ... or GGUF's "deepseek2"
  package var vocabularySize = 0
  package var hiddenSize = 0  // D
  package var layerCount = 0  // L, without MTP layers
  package var headCount = 0  // H
  package var queryRank: Int?  // ql; nil: one full query matrix
  package var latentRank = 0  // c
  package var nopeDim = 0  // n, per head
  package var ropeDim = 0  // r, per head
  package var valueDim = 0  // v, per head
  package var isMixtureOfExperts: [Bool] = []  // [layerCount]
  package var denseWidth = 0
  package var expertWidth = 0  // F
  package var expertCount = 0  // E; 0: all layers dense
  package var expertsPerToken = 0  // k
  package var sharedExpertCount = 0  // S_h
  package var groupCount = 1
  package var groupsPerToken = 1
  package var scoring = Scoring.softmax
  package var selection = Selection.greedy
  package var normalizesTopK = false
  package var routedScale: Float = 1
  package var normEpsilon: Float = 1e-6
  package var ropeTheta = 10000.0
  package var yarn: YarnScaling?
  package var ropeInterleaved = true
  package var maxContext = 0
  package var tiedEmbeddings = false
  package var attentionBias = false
  package var bosToken: Int32?
  package var eosTokens: [Int32] = []
  package var assumptions: [String] = []  // what was guessed; printed at start

  package init() {}

  /// The eps of the two latent norms (q_a_layernorm, kv_a_layernorm): a constant, not `normEpsilon` (SPEC 2.2).
  package static let latentNormEpsilon: Float = 1e-6

  package var denseLayerCount: Int { isMixtureOfExperts.count { !$0 } }
  /// Width of one query head, n + r.
  package var queryHeadDim: Int { nopeDim + ropeDim }
  /// Values in one latent cache row, c + r.
  package var latentRowWidth: Int { latentRank + ropeDim }
}

// MARK: - Validation

/// The name of each number in the file it came from, so that an error names the key an operator can look up.
struct HyperparameterKeys {
  var vocabularySize = "vocab_size"
  var hiddenSize = "hidden_size"
  var layerCount = "num_hidden_layers"
  var headCount = "num_attention_heads"
  var queryRank = "q_lora_rank"
  var latentRank = "kv_lora_rank"
  var nopeDim = "qk_nope_head_dim"
  var ropeDim = "qk_rope_head_dim"
  var valueDim = "v_head_dim"
  var denseWidth = "intermediate_size"
  var expertWidth = "moe_intermediate_size"
  var expertCount = "n_routed_experts"
  var expertsPerToken = "num_experts_per_tok"
  var sharedExpertCount = "n_shared_experts"
  var groupCount = "n_group"
  var groupsPerToken = "topk_group"
  var routedScale = "routed_scaling_factor"
  var normEpsilon = "rms_norm_eps"
  var ropeTheta = "rope_theta"
  var yarn = "rope_scaling"
  var maxContext = "max_position_embeddings"

  static let huggingFace = HyperparameterKeys()

  static let gguf = {
    var keys = HyperparameterKeys()
    keys.vocabularySize = "deepseek2.vocab_size"
    keys.hiddenSize = "deepseek2.embedding_length"
    keys.layerCount = "deepseek2.block_count"
    keys.headCount = "deepseek2.attention.head_count"
    keys.queryRank = "deepseek2.attention.q_lora_rank"
    keys.latentRank = "deepseek2.attention.kv_lora_rank"
    keys.nopeDim = "deepseek2.attention.key_length_mla (or key_length) minus rope.dimension_count"
    keys.ropeDim = "deepseek2.rope.dimension_count"
    keys.valueDim = "deepseek2.attention.value_length_mla (or value_length)"
    keys.denseWidth = "deepseek2.feed_forward_length"
    keys.expertWidth = "deepseek2.expert_feed_forward_length"
    keys.expertCount = "deepseek2.expert_count"
    keys.expertsPerToken = "deepseek2.expert_used_count"
    keys.sharedExpertCount = "deepseek2.expert_shared_count"
    keys.groupCount = "deepseek2.expert_group_count"
    keys.groupsPerToken = "deepseek2.expert_group_used_count"
    keys.routedScale = "deepseek2.expert_weights_scale"
    keys.normEpsilon = "deepseek2.attention.layer_norm_rms_epsilon"
    keys.ropeTheta = "deepseek2.rope.freq_base"
    keys.yarn = "deepseek2.rope.scaling"
    keys.maxContext = "deepseek2.context_length"
    return keys
  }()
}

/// Plausibility limits. They are far above every released model, and small enough that every product the engine forms
/// (vocabulary x D, H(n+v) x c, E x F x D, ...) fits `Int`.
enum HyperparameterLimits {
  static let layers = 1024
  static let heads = 1 << 14
  static let dimension = 1 << 20
  static let experts = 4096
  static let vocabulary = 1 << 22
  static let context = 1 << 30
}

extension Hyperparameters {
  /// Refuses what the graph cannot compute (SPEC 1.3) and what no model has.
  func validate(path: String, keys: HyperparameterKeys) throws(ModelFileError) {
    let check = RangeCheck(path: path)
    try check(vocabularySize, keys.vocabularySize, 1...HyperparameterLimits.vocabulary)
    try check(hiddenSize, keys.hiddenSize, 1...HyperparameterLimits.dimension)
    try check(layerCount, keys.layerCount, 1...HyperparameterLimits.layers)
    try check(headCount, keys.headCount, 1...HyperparameterLimits.heads)
    if let queryRank { try check(queryRank, keys.queryRank, 1...HyperparameterLimits.dimension) }
    try check(latentRank, keys.latentRank, 1...HyperparameterLimits.dimension)
    try check(nopeDim, keys.nopeDim, 1...HyperparameterLimits.dimension)
    try check(ropeDim, keys.ropeDim, 2...HyperparameterLimits.dimension)
    guard ropeDim % 2 == 0 else { throw .badValue(path: path, key: keys.ropeDim, reason: "is \(ropeDim), must be even") }
    try check(valueDim, keys.valueDim, 1...HyperparameterLimits.dimension)
    try check(maxContext, keys.maxContext, 1...HyperparameterLimits.context)
    if isMixtureOfExperts.contains(false) { try check(denseWidth, keys.denseWidth, 1...HyperparameterLimits.dimension) }
    if isMixtureOfExperts.contains(true) { try validateExperts(path: path, keys: keys, check) }
    guard normEpsilon.isFinite, normEpsilon >= 0, normEpsilon < 1 else {
      throw .badValue(path: path, key: keys.normEpsilon, reason: "is \(normEpsilon), must be in 0 ..< 1")
    }
    guard ropeTheta.isFinite, ropeTheta > 1 else {
      throw .badValue(path: path, key: keys.ropeTheta, reason: "is \(ropeTheta), must be over 1")
    }
    if let yarn { try validate(yarn, path: path, key: keys.yarn) }
  }

  private struct RangeCheck {
    let path: String
    func callAsFunction(_ value: Int, _ key: String, _ range: ClosedRange<Int>) throws(ModelFileError) {
      guard range.contains(value) else { throw .badValue(path: path, key: key, reason: "is \(value), must be in \(range)") }
    }
  }

  private func validateExperts(path: String, keys: HyperparameterKeys, _ check: RangeCheck) throws(ModelFileError) {
    try check(expertCount, keys.expertCount, 1...HyperparameterLimits.experts)
    try check(expertWidth, keys.expertWidth, 1...HyperparameterLimits.dimension)
    try check(sharedExpertCount, keys.sharedExpertCount, 0...HyperparameterLimits.experts)
    try check(groupCount, keys.groupCount, 1...expertCount)
    guard expertCount % groupCount == 0 else {
      throw .badValue(path: path, key: keys.groupCount, reason: "is \(groupCount), must divide the \(expertCount) experts")
    }
    try check(groupsPerToken, keys.groupsPerToken, 1...groupCount)
    try check(expertsPerToken, keys.expertsPerToken, 1...expertCount / groupCount * groupsPerToken)
    if selection == .biasedGroups, groupCount > 1, expertCount / groupCount < 2 {
      throw .badValue(path: path, key: keys.groupCount, reason: "is \(groupCount): groups of one expert have no two best scores (noaux_tc)")
    }
    guard routedScale.isFinite else { throw .badValue(path: path, key: keys.routedScale, reason: "is not finite in 32 bits") }
  }

  private func validate(_ yarn: YarnScaling, path: String, key: String) throws(ModelFileError) {
    func check(_ name: String, _ value: Double?, _ isGood: (Double) -> Bool, _ must: String) throws(ModelFileError) {
      guard let value else { return }
      guard value.isFinite, isGood(value) else {
        throw .badValue(path: path, key: "\(key).\(name)", reason: "is \(value), must be \(must)")
      }
    }
    try check("factor", yarn.factor, { $0 > 0 && $0 < 1e6 }, "over 0 and under 1e6")
    try check("beta_fast", yarn.betaFast, { $0 > 0 }, "over 0")
    try check("beta_slow", yarn.betaSlow, { $0 > 0 }, "over 0")
    try check("mscale", yarn.mscale, { abs($0) < 1e3 }, "under 1000")
    try check("mscale_all_dim", yarn.mscaleAllDim, { abs($0) < 1e3 }, "under 1000")
    try check("attention_factor", yarn.attentionFactor, { $0 > 0 }, "over 0")
    guard yarn.originalContext >= 1, yarn.originalContext <= HyperparameterLimits.context else {
      throw .badValue(
        path: path, key: "\(key) original context", reason: "is \(yarn.originalContext), must be in 1...\(HyperparameterLimits.context)")
    }
  }
}

/// A token id from a file, or nil when it is not one of this vocabulary's (recorded in `warnings`).
func checkedToken(_ id: Int, vocabularySize: Int, key: String, warnings: inout [String]) -> Int32? {
  guard id >= 0, id < vocabularySize else {
    warnings.append("\(key) = \(id) is outside the vocabulary of \(vocabularySize) and is ignored")
    return nil
  }
  return Int32(exactly: id)
}
