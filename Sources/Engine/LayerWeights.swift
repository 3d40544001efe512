// The weights of one layer in the form that the forward pass reads: plain pointers, copied freely. Knows no files.

struct LayerWeights {
  let attentionNorm: UnsafePointer<Float>  // [hidden]
  let attention: AttentionWeights
  /// What is read after attention whatever a step's tokens are, in the order in which it is read: W_UV, the output projection, the router,
  /// gate and up of the dense part or of the shared experts. Empty in exact mode, whose matrices lie in the file.
  let afterAttention: UnsafeRawBufferPointer
  let feedForwardNorm: UnsafePointer<Float>  // [hidden]
  let feedForward: FeedForwardWeights
}

struct AttentionWeights {
  let queryA: Matrix?  // [queryRank, hidden]; nil: no low rank
  let queryABias: UnsafePointer<Float>?
  let queryNorm: UnsafePointer<Float>?  // [queryRank]
  let query: Matrix  // [heads * (n + r), queryRank or hidden]
  let latent: Matrix  // [c + r, hidden]
  let latentBias: UnsafePointer<Float>?
  let latentNorm: UnsafePointer<Float>  // [c]
  let absorbedKeys: MatrixList  // heads of [c, n]: W_UK transposed
  let expandedKeys: MatrixList?  // heads of [n, c]: W_UK; nil if the expanded form is never taken
  let values: MatrixList  // heads of [v, c]: W_UV
  let output: Matrix  // [hidden, heads * v]
  let outputBias: UnsafePointer<Float>?
  let inputNeeds: ActivationNeeds  // of the normalised residual
  let queryNeeds: ActivationNeeds  // of the query's latent
  let nopeNeeds: ActivationNeeds  // of q_nope
  let latentNeeds: ActivationNeeds  // of expanded latents
  let valueNeeds: ActivationNeeds  // of the attended latents
  let outputNeeds: ActivationNeeds  // of the heads' values
}

struct GatedWeights {
  let gate: Matrix  // [width, hidden]
  let up: Matrix  // [width, hidden]
  let down: Matrix  // [hidden, width]
  /// Gate and up as one pass that leaves the hidden activations as int8 blocks (qk_matmul_task.up).
  let isFused: Bool

  var width: Int { gate.rows }
}

enum FeedForwardWeights {
  case dense(GatedWeights, inputNeeds: ActivationNeeds, hiddenNeeds: ActivationNeeds)
  case experts(ExpertWeights)
}

extension FeedForwardWeights {
  /// The last matrix, in the order of reading, that is read whatever the router says.
  var lastCertain: Matrix {
    switch self {
    case .dense(let gated, _, _): gated.up
    case .experts(let experts): experts.shared?.up ?? experts.router
    }
  }
}

struct ExpertWeights {
  let router: Matrix  // [experts, hidden] float32
  let bias: UnsafePointer<Float>?  // [experts]
  let gate: MatrixList  // experts of [width, hidden]
  let up: MatrixList
  let down: MatrixList  // experts of [hidden, width]
  let shared: GatedWeights?
  let isFused: Bool  // of the routed experts
  let inputNeeds: ActivationNeeds
  let hiddenNeeds: ActivationNeeds  // of the routed experts
  let sharedHiddenNeeds: ActivationNeeds
}
