// The bytes of pseudo-random weights, Q8_0 blocks and floats: always the same, and quickly made even in a debug build.
// Knows no model and no file.

import ModelFile

/// Q8_0 values come from one table of blocks, which every tensor enters at another place. Its length is a prime, so rows do not repeat
/// within a matrix of the sizes here.
struct WeightNoise {
  private static let blockCount = 65537
  private static let (blockElements, blockBytes) = (TensorType.q8_0.blockElements, TensorType.q8_0.blockBytes)
  /// Of uniform values in -128...127.
  private static let int8Deviation: Float = 73.9

  private var table = [UInt8](repeating: 0, count: blockCount * blockBytes)
  private var scale: Float16 = 0
  private var state: UInt64 = 7

  init() {
    for byte in stride(from: 0, to: table.count, by: 1) where byte % Self.blockBytes >= 2 {
      table[byte] = UInt8(truncatingIfNeeded: next() >> 56)
    }
  }

  /// Calls `body` with pieces that together are the tensor's data.
  mutating func withBytes(of tensor: MiniTensor, _ body: (ArraySlice<UInt8>) -> Void) {
    guard tensor.type == .q8_0 else { return body(floats(tensor)[...]) }
    use(scale: Float16(tensor.deviation / Self.int8Deviation))
    var first = Int(next() % UInt64(Self.blockCount))
    var left = tensor.count / Self.blockElements
    while left > 0 {
      let blocks = min(left, Self.blockCount - first)
      body(table[first * Self.blockBytes..<(first + blocks) * Self.blockBytes])
      left -= blocks
      first = 0
    }
  }

  /// Writes the scale, a little-endian half, into every block of the table.
  private mutating func use(scale wanted: Float16) {
    guard wanted != scale else { return }
    scale = wanted
    let low = UInt8(truncatingIfNeeded: wanted.bitPattern)
    let high = UInt8(truncatingIfNeeded: wanted.bitPattern >> 8)
    for byte in stride(from: 0, to: table.count, by: Self.blockBytes) {
      table[byte] = low
      table[byte + 1] = high
    }
  }

  /// Uniform around the mean.
  private mutating func floats(_ tensor: MiniTensor) -> [UInt8] {
    let halfWidth = tensor.deviation * Float(3).squareRoot()
    var bytes: [UInt8] = []
    for _ in 0..<tensor.count {
      let unit = Float(next() >> 40) / Float(1 << 23) - 1
      withUnsafeBytes(of: (tensor.mean + halfWidth * unit).bitPattern.littleEndian) { bytes += $0 }
    }
    return bytes
  }

  /// SplitMix64.
  private mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
