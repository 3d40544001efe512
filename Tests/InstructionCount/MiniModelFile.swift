// Writes a GGUF file of the `mini` shape (0.5 B parameters, Q8_0) with the same pseudo-random weights every time, straight to disk.
// Only what a forward pass needs: no vocabulary, no text. Knows nothing of how the file is read.

import Glibc
import ModelFile

enum MiniModelFile {
  static let (layers, hidden, heads, vocabulary, context) = (8, 1024, 16, 32000, 32768)
  static let (latentRank, queryRank, nopeDim, ropeDim, valueDim) = (512, 384, 128, 64, 128)
  static let (experts, expertsPerToken, sharedExperts, expertWidth, denseWidth, denseLayers) = (32, 4, 2, 512, 2816, 1)

  struct WriteFailure: Error, CustomStringConvertible {
    let path: String
    let errno: Int32
    var description: String { "cannot write \(path): errno \(errno)" }
  }

  /// 0.5 GB; a few tenths of a second if the disk keeps up.
  static func write(to path: String) throws(WriteFailure) {
    guard let file = fopen(path, "w") else { throw WriteFailure(path: path, errno: errno) }
    var header = GGUFHeader()
    addMetadata(to: &header)
    let tensors = self.tensors
    for tensor in tensors { header.add(tensor) }
    var noise = WeightNoise()
    var isWhole = write(header.bytes, to: file)
    for tensor in tensors where isWhole {
      noise.withBytes(of: tensor) { bytes in isWhole = isWhole && write(bytes, to: file) }
      isWhole = isWhole && write([UInt8](repeating: 0, count: GGUFHeader.padding(after: tensor.byteCount)), to: file)
    }
    let problem = errno
    guard fclose(file) == 0, isWhole else { throw WriteFailure(path: path, errno: isWhole ? errno : problem) }
  }

  private static func write(_ bytes: some Collection<UInt8>, to file: UnsafeMutablePointer<FILE>) -> Bool {
    bytes.withContiguousStorageIfAvailable { fwrite($0.baseAddress, 1, $0.count, file) == $0.count } ?? false
  }

  private static func addMetadata(to header: inout GGUFHeader) {
    header.add("general.architecture", "deepseek2")
    let numbers: [(String, Int)] = [
      ("block_count", layers), ("context_length", context), ("embedding_length", hidden), ("feed_forward_length", denseWidth),
      ("vocab_size", vocabulary), ("attention.head_count", heads), ("attention.head_count_kv", 1), ("attention.q_lora_rank", queryRank),
      ("attention.kv_lora_rank", latentRank), ("attention.key_length", latentRank + ropeDim), ("attention.value_length", latentRank),
      ("attention.key_length_mla", nopeDim + ropeDim), ("attention.value_length_mla", valueDim), ("rope.dimension_count", ropeDim),
      ("rope.scaling.original_context_length", 4096), ("leading_dense_block_count", denseLayers), ("expert_count", experts),
      ("expert_used_count", expertsPerToken), ("expert_shared_count", sharedExperts), ("expert_feed_forward_length", expertWidth),
      ("expert_gating_func", 1),
    ]
    for (key, value) in numbers { header.add("deepseek2." + key, UInt32(value)) }
    let fractions: [(String, Float)] = [
      ("rope.freq_base", 10000), ("rope.scaling.factor", 40), ("rope.scaling.yarn_log_multiplier", 0.0707),
      ("attention.layer_norm_rms_epsilon", 1e-6), ("expert_weights_scale", 1),
    ]
    for (key, value) in fractions { header.add("deepseek2." + key, value) }
    header.add("deepseek2.rope.scaling.type", "yarn")
  }

  private static var tensors: [MiniTensor] {
    var all = [
      MiniTensor("token_embd.weight", [vocabulary, hidden], deviation: 0.6), MiniTensor(norm: "output_norm.weight", hidden),
      MiniTensor("output.weight", [vocabulary, hidden], deviation: 1.5 / Float(hidden).squareRoot()),
    ]
    for layer in 0..<layers {
      let p = "blk.\(layer)."
      all += [
        MiniTensor(norm: p + "attn_norm.weight", hidden), MiniTensor(norm: p + "ffn_norm.weight", hidden),
        MiniTensor(norm: p + "attn_q_a_norm.weight", queryRank), MiniTensor(norm: p + "attn_kv_a_norm.weight", latentRank),
        MiniTensor(p + "attn_q_a.weight", [queryRank, hidden]),
        MiniTensor(p + "attn_q_b.weight", [heads * (nopeDim + ropeDim), queryRank]),
        MiniTensor(p + "attn_kv_a_mqa.weight", [latentRank + ropeDim, hidden]),
        MiniTensor(p + "attn_k_b.weight", [heads, latentRank, nopeDim]), MiniTensor(p + "attn_v_b.weight", [heads, valueDim, latentRank]),
        MiniTensor(p + "attn_output.weight", [hidden, heads * valueDim]),
      ]
      if layer < denseLayers {
        all += gated(p, "", [denseWidth, hidden], [hidden, denseWidth])
      } else {
        all.append(MiniTensor(p + "ffn_gate_inp.weight", [experts, hidden], type: .f32))
        all += gated(p, "_exps", [experts, expertWidth, hidden], [experts, hidden, expertWidth])
        all += gated(p, "_shexp", [sharedExperts * expertWidth, hidden], [hidden, sharedExperts * expertWidth])
      }
    }
    return all
  }

  private static func gated(_ p: String, _ kind: String, _ wide: [Int], _ narrow: [Int]) -> [MiniTensor] {
    [("gate", wide), ("up", wide), ("down", narrow)].map { MiniTensor("\(p)ffn_\($0)\(kind).weight", $1) }
  }
}

/// A tensor to be written, Q8_0 or F32: shape slowest first, the mean and standard deviation of its values.
struct MiniTensor {
  let name: String
  let shape: [Int]
  let type: TensorType
  let mean: Float
  let deviation: Float

  /// Weights whose products keep about the size of what they multiply, unless `deviation` says otherwise.
  init(_ name: String, _ shape: [Int], type: TensorType = .q8_0, deviation: Float? = nil) {
    self.name = name
    self.shape = shape
    self.type = type
    mean = 0
    self.deviation = deviation ?? 0.7 / Float(shape.last ?? 1).squareRoot()
  }

  init(norm name: String, _ count: Int) {
    self.name = name
    shape = [count]
    type = .f32
    mean = 1
    deviation = 0.05
  }

  var count: Int { shape.reduce(1, *) }
  var byteCount: Int { count / type.blockElements * type.blockBytes }
}

/// The part of a GGUF 3 file before its data, in the order of the calls (`general.*` first, tensors last).
struct GGUFHeader {
  private var metadata: [UInt8] = []
  private var metadataCount = 0
  private var infos: [UInt8] = []
  private var tensorCount = 0
  private var dataBytes = 0

  /// Tensors begin at multiples of 32.
  static func padding(after byteCount: Int) -> Int { (32 - byteCount % 32) % 32 }

  mutating func add(_ key: String, _ value: UInt32) { add(key, type: 4) { Self.append(value, to: &$0) } }
  mutating func add(_ key: String, _ value: Float) { add(key, type: 6) { Self.append(value.bitPattern, to: &$0) } }
  mutating func add(_ key: String, _ value: String) { add(key, type: 8) { Self.append(value, to: &$0) } }

  private mutating func add(_ key: String, type: UInt32, _ appendValue: (inout [UInt8]) -> Void) {
    Self.append(key, to: &metadata)
    Self.append(type, to: &metadata)
    appendValue(&metadata)
    metadataCount += 1
  }

  mutating func add(_ tensor: MiniTensor) {
    Self.append(tensor.name, to: &infos)
    Self.append(UInt32(tensor.shape.count), to: &infos)
    for dimension in tensor.shape.reversed() { Self.append(UInt64(dimension), to: &infos) }
    Self.append(tensor.type.rawValue, to: &infos)
    Self.append(UInt64(dataBytes), to: &infos)
    dataBytes += tensor.byteCount + Self.padding(after: tensor.byteCount)
    tensorCount += 1
  }

  var bytes: [UInt8] {
    var all = Array("GGUF".utf8)
    Self.append(UInt32(3), to: &all)
    Self.append(UInt64(tensorCount), to: &all)
    Self.append(UInt64(metadataCount), to: &all)
    all += metadata + infos
    return all + [UInt8](repeating: 0, count: Self.padding(after: all.count))
  }

  private static func append<T: FixedWidthInteger>(_ value: T, to bytes: inout [UInt8]) {
    withUnsafeBytes(of: value.littleEndian) { bytes += $0 }
  }

  private static func append(_ text: String, to bytes: inout [UInt8]) {
    append(UInt64(text.utf8.count), to: &bytes)
    bytes += Array(text.utf8)
  }
}
