// Finds the block that already holds given tokens after a given prefix. It does not know who holds blocks or when they are evicted.
//
// The hash only finds candidates: an answer is given after comparing the tokens, the parent block and the salt, so neither a collision
// nor a hostile prompt can ever hand out another prompt's block. The seed keeps an attacker from building long bucket chains.

/// A chained hash table over full blocks; flat arrays by block number, nothing is allocated after `init`.
package struct PrefixIndex: Sendable {
  /// The parent of a first block.
  package static let root: Int32 = -1

  let blockTokens: Int
  private let keys: (UInt64, UInt64, UInt64)
  private let hashMask: UInt64
  // Buckets hold the first block of a chain through `following`, -1 ends it. A power of two, at least twice the blocks.
  private(set) var buckets: [Int32]
  private(set) var following: [Int32]  // [blockCount]
  private(set) var isIndexed: [Bool]  // [blockCount]
  private(set) var hashes: [UInt64]  // [blockCount]
  private(set) var parents: [Int32]  // [blockCount]
  private(set) var salts: [UInt64]  // [blockCount]
  private(set) var tokens: [Int32]  // [blockCount, blockTokens]
  package private(set) var count = 0

  /// - Parameter hashMask: bits of the hash that are used; tests pass few or none to force collisions.
  package init(blockCount: Int, blockTokens: Int, seed: UInt64, hashMask: UInt64 = .max) {
    self.blockTokens = blockTokens
    self.hashMask = hashMask
    // Odd multipliers from the seed; the increments are those of splitmix64.
    keys = (
      Self.finalized(seed &+ 0x9E37_79B9_7F4A_7C15) | 1, Self.finalized(seed &+ 0x3C6E_F372_FE94_F82A) | 1,
      Self.finalized(seed &+ 0xDAA6_6D2C_7DDF_743F)
    )
    var bucketCount = 2
    while bucketCount < 2 * blockCount { bucketCount *= 2 }
    buckets = Array(repeating: -1, count: bucketCount)
    following = Array(repeating: -1, count: blockCount)
    isIndexed = Array(repeating: false, count: blockCount)
    hashes = Array(repeating: 0, count: blockCount)
    parents = Array(repeating: Self.root, count: blockCount)
    salts = Array(repeating: 0, count: blockCount)
    tokens = Array(repeating: 0, count: blockCount * blockTokens)
  }

  /// The hash before a sequence's first block.
  package func rootHash(salt: UInt64) -> UInt64 {
    Self.finalized(Self.folded(salt ^ keys.2, keys.0) ^ keys.1) & hashMask
  }

  /// The hash of the block that holds `source[start ..< start + blockTokens]` after a prefix with hash `parent`.
  package func chainHash(parent: UInt64, source: [Int32], start: Int) -> UInt64 {
    var hash = parent ^ keys.2
    var position = start
    let end = start + blockTokens
    while position < end {
      let low = UInt64(UInt32(bitPattern: source[position]))
      let high = position + 1 < end ? UInt64(UInt32(bitPattern: source[position + 1])) << 32 : 0
      hash = Self.folded(hash ^ low ^ high, keys.0) &+ keys.1
      position += 2
    }
    return Self.finalized(hash) & hashMask
  }

  /// The indexed block with exactly these tokens, parent block and salt; nil if there is none.
  package func find(hash: UInt64, parent: Int32, salt: UInt64, source: [Int32], start: Int) -> Int32? {
    var block = buckets[bucket(of: hash)]
    while block >= 0 {
      let index = Int(block)
      if hashes[index] == hash, parents[index] == parent, salts[index] == salt, holds(index, source, start) { return block }
      block = following[index]
    }
    return nil
  }

  /// Indexes a full block. The caller made sure by `find` that no equal one is indexed, and that the parent is.
  package mutating func insert(_ block: Int32, hash: UInt64, parent: Int32, salt: UInt64, source: [Int32], start: Int) {
    let index = Int(block)
    precondition(!isIndexed[index], "block \(block) indexed twice")
    hashes[index] = hash
    parents[index] = parent
    salts[index] = salt
    for offset in 0..<blockTokens { tokens[index * blockTokens + offset] = source[start + offset] }
    isIndexed[index] = true
    let bucket = bucket(of: hash)
    following[index] = buckets[bucket]
    buckets[bucket] = block
    count += 1
  }

  /// Forgets an indexed block.
  package mutating func remove(_ block: Int32) {
    let index = Int(block)
    precondition(isIndexed[index], "block \(block) is not indexed")
    let bucket = bucket(of: hashes[index])
    if buckets[bucket] == block {
      buckets[bucket] = following[index]
    } else {
      var before = Int(buckets[bucket])
      while following[before] != block { before = Int(following[before]) }
      following[before] = following[index]
    }
    isIndexed[index] = false
    count -= 1
  }

  func bucket(of hash: UInt64) -> Int { Int(hash & UInt64(buckets.count - 1)) }

  private func holds(_ index: Int, _ source: [Int32], _ start: Int) -> Bool {
    let base = index * blockTokens
    for offset in 0..<blockTokens where tokens[base + offset] != source[start + offset] { return false }
    return true
  }

  /// High and low half of the 128-bit product, folded: each input bit reaches every output bit.
  private static func folded(_ value: UInt64, _ key: UInt64) -> UInt64 {
    let product = value.multipliedFullWidth(by: key)
    return product.high ^ product.low
  }

  /// The finaliser of splitmix64.
  private static func finalized(_ value: UInt64) -> UInt64 {
    var mixed = value
    mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
    return mixed ^ mixed >> 31
  }
}
