// Finds added tokens in text: at each position the longest, the leftmost first. A byte trie; nodes are rows of plain arrays.
// It knows only texts and ids. The work per byte of text is bounded by the longest token (TokenizerLimits.addedTokenBytes).

struct AddedTokenTrie: Sendable {
  /// The child of the root for each first byte; -1: none. [256]
  private var roots = [Int32](repeating: -1, count: 256)
  // Per node: the byte that leads to it, the token that ends there (-1: none), its first child and next sibling (-1: none).
  private var labels: [UInt8] = []
  private var tokens: [Int32] = []
  private var firstChild: [Int32] = []
  private var nextSibling: [Int32] = []

  var isEmpty: Bool { labels.isEmpty }

  mutating func insert(_ content: [UInt8], id: Int32) {
    guard let first = content.first else { return }
    if roots[Int(first)] < 0 { roots[Int(first)] = newNode(first) }
    var node = Int(roots[Int(first)])
    for byte in content.dropFirst() {
      if let child = child(of: node, byte) {
        node = child
        continue
      }
      let child = newNode(byte)
      nextSibling[Int(child)] = firstChild[node]
      firstChild[node] = child
      node = Int(child)
    }
    tokens[node] = id
  }

  /// The token with exactly this text.
  func id(of content: [UInt8]) -> Int32? {
    guard let match = longestMatch(in: content[...], at: 0), match.end == content.count else { return nil }
    return match.id
  }

  /// Calls `text` with each stretch between tokens (never empty) and `token` with each token, in order.
  func forEachPart(of bytes: ArraySlice<UInt8>, text: (ArraySlice<UInt8>) -> Void, token: (Int32) -> Void) {
    var start = bytes.startIndex
    var index = start
    while index < bytes.endIndex, !isEmpty {
      guard roots[Int(bytes[index])] >= 0, let match = longestMatch(in: bytes, at: index) else {
        index += 1
        continue
      }
      if start < index { text(bytes[start..<index]) }
      token(match.id)
      start = match.end
      index = match.end
    }
    if start < bytes.endIndex { text(bytes[start...]) }
  }

  private func longestMatch(in bytes: ArraySlice<UInt8>, at start: Int) -> (id: Int32, end: Int)? {
    guard start < bytes.endIndex, roots[Int(bytes[start])] >= 0 else { return nil }
    var node = Int(roots[Int(bytes[start])])
    var index = start + 1
    var best: (id: Int32, end: Int)?
    while true {
      if tokens[node] >= 0 { best = (tokens[node], index) }
      guard index < bytes.endIndex, let child = child(of: node, bytes[index]) else { return best }
      node = child
      index += 1
    }
  }

  private func child(of node: Int, _ byte: UInt8) -> Int? {
    var child = firstChild[node]
    while child >= 0 {
      if labels[Int(child)] == byte { return Int(child) }
      child = nextSibling[Int(child)]
    }
    return nil
  }

  private mutating func newNode(_ label: UInt8) -> Int32 {
    labels.append(label)
    tokens.append(-1)
    firstChild.append(-1)
    nextSibling.append(-1)
    return Int32(truncatingIfNeeded: labels.count - 1)
  }
}
