// The merges of byte pair encoding: (left id, right id) -> (rank, merged id), in one open-addressing hash of integers.
// It knows nothing of text. Places are salted per process, so that a file cannot be made to collide.

struct MergeTable: Sendable {
  /// left << 32 | right; `empty` where free. [capacity], a power of two, at most half full.
  private var keys: [UInt64]
  /// rank << 32 | merged id.
  private var values: [UInt64]
  private let salt: UInt64
  private(set) var count = 0

  private static let empty = UInt64.max

  /// - Parameter minimumCapacity: the number of merges to come, at most `TokenizerLimits.merges`.
  init(minimumCapacity: Int) {
    var capacity = 16
    while capacity < minimumCapacity * 2 { capacity *= 2 }
    keys = [UInt64](repeating: Self.empty, count: capacity)
    values = [UInt64](repeating: 0, count: capacity)
    salt = UInt64.random(in: 0...UInt64.max)
  }

  private func place(_ key: UInt64) -> Int {
    // The finaliser of splitmix64.
    var hash = key ^ salt
    hash = (hash ^ hash >> 30) &* 0xBF58_476D_1CE4_E5B9
    hash = (hash ^ hash >> 27) &* 0x94D0_49BB_1331_11EB
    return Int(truncatingIfNeeded: hash ^ hash >> 31) & (keys.count - 1)
  }

  private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
    UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
  }

  /// A repeated pair takes the later rank, as in the `tokenizers` package. Beyond the capacity given to `init` nothing is stored.
  mutating func insert(left: Int32, right: Int32, rank: UInt32, merged: Int32) {
    let key = Self.key(left, right)
    var index = place(key)
    while keys[index] != Self.empty, keys[index] != key { index = (index + 1) & (keys.count - 1) }
    if keys[index] == Self.empty {
      guard count < keys.count / 2 else { return }
      count += 1
    }
    keys[index] = key
    values[index] = UInt64(rank) << 32 | UInt64(UInt32(bitPattern: merged))
  }

  /// rank << 32 | merged id; `UInt64.max` when the pair does not merge. Smaller merges first.
  func merge(_ left: Int32, _ right: Int32) -> UInt64 {
    let key = Self.key(left, right)
    var index = place(key)
    while true {
      let found = keys[index]
      if found == Self.empty { return UInt64.max }
      if found == key { return values[index] }
      index = (index + 1) & (keys.count - 1)
    }
  }
}
