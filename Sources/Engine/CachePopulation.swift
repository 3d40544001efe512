// A thread that has the latent cache's memory there before its blocks are used. The kernel clears a page, and a virtual machine's host
// may first have to find it, when the page is touched first: up to 7 ms per 2 MiB, in every layer at once, in the middle of a step
// that streams wait for. Blocks are used lowest first (BlockPool), so it is enough to stay ahead of the highest one. The thread that does it
// takes a CPU from the workers for as long, so it does little more than it must while steps run and the rest while none does.

import Dispatch
import Glibc
import Synchronization

/// Populates `[layer][byte]` memory piece by piece, all layers at the same pace, a margin ahead of the blocks in use. It changes no
/// byte, so it may run beside anything.
final class CachePopulation: Sendable {
  /// Memory of all layers together that is there beyond the highest block used, once the engine has been at rest for long enough: some ten
  /// thousand tokens that come faster than pages are cleared.
  static let defaultMarginBytes = 512 << 20
  /// While steps run, the thread waits until less than this part of the margin is left.
  static let busyMarginDivisor = 4
  /// Of one layer: a piece that it may be behind, and one for the blocks of the step that asks.
  private static let leastMarginBytes = 2 * pieceBytes
  /// A huge page: what the kernel clears at once in any case.
  static let pieceBytes = 2 << 20

  let layerCount: Int
  let layerBytes: Int
  let blockBytes: Int
  private let marginBytes: Int  // of one layer, at rest
  private let base: UInt
  private let highestBlock = Atomic<Int>(-1)
  private let isResting = Atomic<Bool>(true)
  private let populated = Atomic<Int>(0)  // pieces of all layers together
  private let isEnding = Atomic<Bool>(false)
  private let signal = DispatchSemaphore(value: 0)
  private let thread = Mutex<pthread_t?>(nil)

  /// `base`: the first layer's first byte; `layerBytes` are a layer's, `blockBytes` a block's in one layer, `marginBytes` those of all
  /// layers together. The memory must stay mapped until `stop` has returned.
  init(
    base: UnsafeMutableRawPointer, layerCount: Int, layerBytes: Int, blockBytes: Int, marginBytes: Int = CachePopulation.defaultMarginBytes
  ) {
    self.base = UInt(bitPattern: base)
    self.layerCount = layerCount
    self.layerBytes = layerBytes
    self.blockBytes = blockBytes
    self.marginBytes = max(marginBytes / layerCount, Self.leastMarginBytes)
  }

  /// Pieces that are there. Tests wait for it.
  var populatedPieces: Int { populated.load(ordering: .acquiring) }

  /// Pieces of the whole cache.
  var pieceCount: Int { layerCount * ((layerBytes + Self.pieceBytes - 1) / Self.pieceBytes) }

  /// Pieces that should be there once `block` is in use: what it and the lower ones take in all layers, and the margin. One more with
  /// every 2 MiB, not one per layer at once: the margin bears the layers that are behind the others by one.
  func piecesNeeded(block: Int, resting: Bool = true) -> Int {
    let margin = resting ? marginBytes : max(marginBytes / Self.busyMarginDivisor, Self.leastMarginBytes)
    let bytes = min((block + 1) * blockBytes + margin, layerBytes)
    return bytes == layerBytes ? pieceCount : (bytes * layerCount + Self.pieceBytes - 1) / Self.pieceBytes
  }

  /// Starts the thread and populates the margin. Without a thread everything works: steps then wait for the kernel themselves.
  func start() {
    let handle = startThread(name: "cache memory", stackBytes: 1 << 20) { self.run() }
    thread.withLock { $0 = handle }
  }

  /// A step uses `block`. From one thread, as `rest`; allocates nothing, and wakes the thread only when a further piece is needed.
  func use(block: Int) {
    isResting.store(false, ordering: .relaxed)
    guard block > highestBlock.load(ordering: .relaxed) else { return }
    highestBlock.store(block, ordering: .relaxed)
    if populated.load(ordering: .relaxed) < wanted { signal.signal() }
  }

  /// No step is to come until something happens.
  func rest() {
    guard !isResting.exchange(true, ordering: .relaxed), populated.load(ordering: .relaxed) < wanted else { return }
    signal.signal()
  }

  private var wanted: Int {
    piecesNeeded(block: highestBlock.load(ordering: .relaxed), resting: isResting.load(ordering: .relaxed))
  }

  /// Ends the thread and waits for it. The memory may then go.
  func stop() {
    isEnding.store(true, ordering: .relaxed)
    signal.signal()
    let handle = thread.withLock { handle -> pthread_t? in
      defer { handle = nil }
      return handle
    }
    if let handle { pthread_join(handle, nil) }
  }

  private func run() {
    var next = 0
    while true {
      while next < wanted {
        guard !isEnding.load(ordering: .relaxed), populate(piece: next) else { return }
        next += 1
        populated.store(next, ordering: .releasing)
      }
      signal.wait()
      if isEnding.load(ordering: .relaxed) { return }
    }
  }

  /// False if the kernel cannot (before 5.14) or has no memory left: then it is left to the first touch.
  private func populate(piece: Int) -> Bool {
    let offset = piece / layerCount * Self.pieceBytes
    let layer = base + UInt(piece % layerCount * layerBytes)
    return MappedMemory.populate(from: layer + UInt(offset), to: layer + UInt(min(offset + Self.pieceBytes, layerBytes)))
  }
}
