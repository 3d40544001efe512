// Shared by the kernel tests: aligned memory, a seeded generator, random weights of every type, and error measures.
// Knows nothing of a single kernel.

import CKernels
import Glibc

/// SplitMix64: the same numbers on every run.
struct Random {
  private var state: UInt64
  init(_ seed: UInt64) { state = seed }
  mutating func bits() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
  mutating func unit() -> Float { Float(bits() >> 40) * 0x1p-24 }
  /// About normal, standard deviation 1.
  mutating func normal() -> Float { (unit() + unit() + unit() + unit() - 2) * 1.7320508 }
  mutating func normals(_ count: Int) -> [Float] { (0..<count).map { _ in normal() } }
  mutating func below(_ limit: Int) -> Int { Int(bits() % UInt64(limit)) }
}

/// 64-byte aligned memory, filled with 0xA5 so that reads of what nobody wrote show up.
final class Memory {
  let base: UnsafeMutableRawPointer
  let byteCount: Int
  init(_ byteCount: Int) {
    self.byteCount = byteCount
    base = UnsafeMutableRawPointer.allocate(byteCount: max(byteCount, 64), alignment: 64)
    base.initializeMemory(as: UInt8.self, repeating: 0xA5, count: max(byteCount, 64))
  }
  deinit { base.deallocate() }
}

func sleepMicroseconds(_ count: UInt32) { usleep(count) }

let allTypes: [qk_type] = [
  QK_F32, QK_F16, QK_BF16, QK_F8_E4M3, QK_Q4_0, QK_Q4_1, QK_Q5_0, QK_Q5_1, QK_Q8_0, QK_IQ4_NL, QK_Q2_K, QK_Q3_K, QK_Q4_K, QK_Q5_K,
  QK_Q6_K, QK_IQ4_XS,
]

/// The variants this CPU has, and those named in QUIRE_EMULATED, whose instructions Tests/Emulation/run supplies; the scalar one is first.
nonisolated(unsafe) let allVariants: [UnsafePointer<qk_kernels>] =
  [
    qk_kernels_scalar(), qk_kernels_avx2(), qk_kernels_avxvnni(), qk_kernels_avx512(), qk_kernels_avx512bf16(),
    qk_kernels_avx512zen4(), qk_kernels_avx512zen5(),
  ].compactMap { $0 } + emulatedVariants

private nonisolated(unsafe) let emulatedVariants: [UnsafePointer<qk_kernels>] = {
  let names = getenv("QUIRE_EMULATED").map { String(cString: $0) } ?? ""
  return names.split(separator: ",").map { name in
    guard let variant = qk_kernels_unchecked(String(name)) else { fatalError("QUIRE_EMULATED: \(name): there is no such variant") }
    return variant
  }
}()

func isEmulated(_ k: UnsafePointer<qk_kernels>) -> Bool { emulatedVariants.contains(k) }
func variantName(_ k: UnsafePointer<qk_kernels>) -> String { String(cString: k.pointee.name) }
