// Where every weight of one layer lives, uniform over GGUF and Hugging Face files. Knows no file formats.

package struct LayerTensors: Sendable {
  package var attentionNorm: Tensor  // [D]
  package var ffnNorm: Tensor  // [D]
  package var query: Tensor?  // [H(n+r), D]; nil when the query is low-rank
  package var queryA: Tensor?  // [ql, D]
  package var queryABias: Tensor?  // [ql]
  package var queryANorm: Tensor?  // [ql]
  package var queryB: Tensor?  // [H(n+r), ql]
  package var latentA: Tensor  // kv_a_proj_with_mqa [c+r, D]: rows 0 ..< c latent, then r of the shared rope key
  package var latentABias: Tensor?  // [c+r]
  package var latentANorm: Tensor  // [c]
  package var keyValueB: KeyValueB
  package var attentionOutput: Tensor  // [D, H*v]
  package var outputBias: Tensor?  // [D]
  package var ffn: FeedForward
}

/// The up-projection from the latent to keys and values of all heads.
package enum KeyValueB: Sendable {
  case joined(Tensor /* [H(n+v), c]: per head n key rows, then v value rows */)
  case split(keyB: Tensor /* [H, c, n]: transposed W_UK */, valueB: Tensor /* [H, v, c] */)
}

package enum FeedForward: Sendable {
  /// gate, up [width, D]; down [D, width]
  case dense(gate: Tensor, up: Tensor, down: Tensor)
  /// router [E, D]; bias [E]; experts gate, up [F, D], down [D, F] each; shared gate, up [S_h F, D], down [D, S_h F]
  case experts(
    router: Tensor, bias: Tensor?, gate: ExpertTensors, up: ExpertTensors, down: ExpertTensors,
    shared: (gate: Tensor, up: Tensor, down: Tensor)?)
}

/// One matrix of every expert.
package enum ExpertTensors: Sendable {
  /// Expert e has rows `e * rowStride + rowOffset ..< e * rowStride + rowOffset + rowsPerExpert` of the tensor.
  case stacked(Tensor, rowsPerExpert: Int, rowOffset: Int, rowStride: Int)
  /// Expert e has its own tensor.
  case separate([Tensor])

  /// The tensor and rows that hold expert `expert` (must be in 0 ..< E).
  package func rows(ofExpert expert: Int) -> (tensor: Tensor, rows: Range<Int>) {
    switch self {
    case .stacked(let tensor, let rowsPerExpert, let rowOffset, let rowStride):
      let begin = expert * rowStride + rowOffset
      return (tensor, begin..<begin + rowsPerExpert)
    case .separate(let tensors):
      return (tensors[expert], 0..<tensors[expert].rows)
    }
  }

  package var expertCount: Int {
    switch self {
    case .stacked(let tensor, _, _, let rowStride): tensor.rows / rowStride
    case .separate(let tensors): tensors.count
    }
  }
}

/// Everything outside the layers, and the layers.
struct ModelTensors {
  var embedding: Tensor  // [vocabulary, D]
  var outputNorm: Tensor  // [D]
  var head: Tensor?  // [vocabulary, D]; nil: the embedding
  var layers: [LayerTensors]
}
