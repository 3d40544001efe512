// The storage types of tensors that Quire can read, with the size of their blocks (SPEC 3.1, 3.4, 3.6).
// Knows no kernels: how a block is decoded is CKernels' business.

/// Raw values are the ggml type ids of GGUF, except `f8_e4m3`, which exists in safetensors only and has an id of ours.
package enum TensorType: UInt32, Sendable, CaseIterable {
  case f32 = 0
  case f16 = 1
  case q4_0 = 2
  case q4_1 = 3
  case q5_0 = 6
  case q5_1 = 7
  case q8_0 = 8
  case q2_K = 10
  case q3_K = 11
  case q4_K = 12
  case q5_K = 13
  case q6_K = 14
  case iq4_NL = 20
  case iq4_XS = 23
  case bf16 = 30
  case f8_e4m3 = 100

  /// Elements in one block; a row is a whole number of blocks.
  package var blockElements: Int {
    switch self {
    case .f32, .f16, .bf16, .f8_e4m3: 1
    case .q4_0, .q4_1, .q5_0, .q5_1, .q8_0, .iq4_NL: 32
    case .q2_K, .q3_K, .q4_K, .q5_K, .q6_K, .iq4_XS: 256
    }
  }

  /// Bytes of one block.
  package var blockBytes: Int {
    switch self {
    case .f32: 4
    case .f16, .bf16: 2
    case .f8_e4m3: 1
    case .q4_0, .iq4_NL: 18
    case .q4_1: 20
    case .q5_0: 22
    case .q5_1: 24
    case .q8_0: 34
    case .q2_K: 84
    case .q3_K: 110
    case .q4_K: 144
    case .q5_K: 176
    case .q6_K: 210
    case .iq4_XS: 136
    }
  }

  /// The name operators know from llama.cpp and safetensors.
  package var name: String {
    switch self {
    case .f32: "F32"
    case .f16: "F16"
    case .bf16: "BF16"
    case .f8_e4m3: "F8_E4M3"
    case .q4_0: "Q4_0"
    case .q4_1: "Q4_1"
    case .q5_0: "Q5_0"
    case .q5_1: "Q5_1"
    case .q8_0: "Q8_0"
    case .q2_K: "Q2_K"
    case .q3_K: "Q3_K"
    case .q4_K: "Q4_K"
    case .q5_K: "Q5_K"
    case .q6_K: "Q6_K"
    case .iq4_NL: "IQ4_NL"
    case .iq4_XS: "IQ4_XS"
    }
  }

  /// Types that hold one plain number per element: what norms and biases may be stored in.
  package var isPlainFloat: Bool { self == .f32 || self == .f16 || self == .bf16 }

  /// The type of a GGUF tensor; nil for ids that GGUF files do not use or Quire does not read.
  init?(ggml id: UInt32) {
    guard id < 100, let type = TensorType(rawValue: id) else { return nil }
    self = type
  }

  /// The type of a safetensors `dtype`; nil if Quire does not read it.
  init?(safeTensors dtype: String) {
    switch dtype {
    case "F32": self = .f32
    case "F16": self = .f16
    case "BF16": self = .bf16
    case "F8_E4M3": self = .f8_e4m3
    default: return nil
    }
  }

  /// The usual name of any ggml type id, for messages about types that are not supported.
  static func ggmlName(_ id: UInt32) -> String {
    if let type = TensorType(ggml: id) { return type.name }
    let names: [UInt32: String] = [
      4: "Q4_2 (removed)", 5: "Q4_3 (removed)", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
      21: "IQ3_S", 22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0",
      39: "MXFP4",
    ]
    return names[id] ?? "ggml type \(id)"
  }
}
