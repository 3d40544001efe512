// One event loop: a long block on its own serial Dispatch queue that runs epoll_wait. Everything about a
// connection is touched on its loop only; other threads reach it by `post`. Without connections and work it
// sleeps without a timeout. Knows no HTTP: it wakes EventHandlers.

import CNet
import Dispatch
import Glibc
import Synchronization

/// A descriptor's owner. Called on the loop only. Implemented by Connection and Acceptor.
protocol EventHandler: AnyObject {
  func handleEvents(_ events: UInt32)
  func handleDeadline(_ kind: DeadlineKind)
  /// Called once at the end of every turn in which `needsEndOfTurn` was called for it.
  func handleEndOfTurn()
  /// The loop stops: close the descriptor, tell the waiting.
  func handleStop()
}

/// System calls of one loop, for tests and tuning.
package struct LoopCounters: Sendable {
  package var turns = 0
  package var wakeWrites = 0
  package var receiveCalls = 0
  package var sendCalls = 0
  package var acceptedConnections = 0
}

/// The mutable state is confined to the loop's thread, but for `inbox` and the atomics.
package final class EventLoop: @unchecked Sendable {
  package let index: Int
  /// Connections assigned to this loop; the acceptor picks the loop with the fewest.
  let connectionCount = Atomic<Int>(0)

  private struct Inbox {
    var work: [@Sendable () -> Void] = []
    var isWakeSent = false
    var isStopped = false
    var wakeWrites = 0
  }
  private struct Slot {
    var generation: UInt32 = 0
    var handler: (any EventHandler)?
    var isTurnEndWanted = false
  }

  private static let eventCapacity = 256
  private static let scratchBytes = 65_536

  private let queue: DispatchQueue
  private let epollDescriptor: Int32
  private let wakeDescriptor: Int32
  private let inbox = Locked(Inbox())
  private let thread = Atomic<UInt>(0)
  private let events = UnsafeMutablePointer<epoll_event>.allocate(capacity: eventCapacity)
  /// What `recv` fills: one buffer for all connections of the loop. [scratchBytes]
  let scratch = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: scratchBytes)

  private var slots: [Slot] = []
  private var freeSlots: [Int] = []
  private var deadlines = DeadlineQueue()
  private var timers: [(deadlineNanoseconds: UInt64, work: () -> Void)] = []  // a handful at most
  private var turnEnds: [Int] = []  // slots
  private var taken: [@Sendable () -> Void] = []  // posted work of this turn
  private var isStopping = false
  private(set) var nowNanoseconds: UInt64 = cnet_monotonic_nanoseconds()
  var counters = LoopCounters()
  var dates = DateCache()

  init(index: Int) throws(ServerError) {
    self.index = index
    queue = DispatchQueue(label: "quire.http.loop.\(index)")
    epollDescriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
    guard epollDescriptor >= 0 else { throw .system(call: "epoll_create1", errno: errno) }
    wakeDescriptor = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
    guard wakeDescriptor >= 0 else {
      let code = errno
      close(epollDescriptor)
      throw .system(call: "eventfd", errno: code)
    }
    var event = epoll_event(events: EPOLLIN.rawValue, data: epoll_data_t(u64: UInt64.max))
    epoll_ctl(epollDescriptor, EPOLL_CTL_ADD, wakeDescriptor, &event)
    scratch.initialize(repeating: 0)
  }

  deinit {
    close(epollDescriptor)
    close(wakeDescriptor)
    events.deallocate()
    scratch.deallocate()
  }

  /// Starts the loop's thread; `group` is left when the loop has ended.
  func start(group: DispatchGroup) {
    queue.async(group: group) { @Sendable in self.run() }
  }

  /// Runs `work` on the loop, in order of posting. From any thread; the first of a batch wakes the loop, the
  /// rest ride along. Work posted after the loop has stopped is dropped.
  package func post(_ work: @escaping @Sendable () -> Void) {
    let isWakeNeeded = inbox.withLock { inbox in
      guard !inbox.isStopped else { return false }
      inbox.work.append(work)
      guard !inbox.isWakeSent else { return false }
      inbox.isWakeSent = true
      inbox.wakeWrites += 1
      return true
    }
    if isWakeNeeded { wake() }
  }

  package var isCurrent: Bool { thread.load(ordering: .relaxed) == cnet_current_thread() }

  /// Runs `work` on the loop's thread once the time has passed. On the loop only; meant for a few rare timers.
  package func schedule(afterMilliseconds: Int, _ work: @escaping () -> Void) {
    assertCurrent()
    timers.append((deadline(afterMilliseconds: afterMilliseconds), work))
  }

  /// On the loop only.
  package func snapshotCounters() -> LoopCounters {
    assertCurrent()
    var snapshot = counters
    snapshot.wakeWrites = inbox.withLock { $0.wakeWrites }
    return snapshot
  }

  @inline(__always) func assertCurrent() {
    assert(isCurrent, "a loop-confined object was touched off its loop")
  }

  func stop() { post { self.isStopping = true } }

  // MARK: Descriptors (on the loop only)

  /// Watches the descriptor; the returned slot names the handler in the calls below. Nil when the kernel refuses.
  func register(_ descriptor: Int32, events: UInt32, handler: any EventHandler) -> Int? {
    assertCurrent()
    let slot = freeSlots.popLast() ?? slots.count
    if slot == slots.count { slots.append(Slot()) }
    slots[slot].handler = handler
    guard control(EPOLL_CTL_ADD, descriptor, slot: slot, events: events) else {
      release(slot: slot)
      return nil
    }
    return slot
  }

  func setInterest(_ descriptor: Int32, slot: Int, events: UInt32) {
    _ = control(EPOLL_CTL_MOD, descriptor, slot: slot, events: events)
  }

  /// Forgets the handler; the caller closes the descriptor right after (which takes it out of epoll).
  func unregister(_ descriptor: Int32, slot: Int) {
    _ = control(EPOLL_CTL_DEL, descriptor, slot: slot, events: 0)
    release(slot: slot)
  }

  func setDeadline(slot: Int, kind: DeadlineKind, afterMilliseconds: Int) {
    deadlines.set(slot: slot, kind: kind, deadlineNanoseconds: deadline(afterMilliseconds: afterMilliseconds))
  }

  func clearDeadline(slot: Int) { deadlines.clear(slot: slot) }

  func needsEndOfTurn(slot: Int) {
    guard !slots[slot].isTurnEndWanted else { return }
    slots[slot].isTurnEndWanted = true
    turnEnds.append(slot)
  }

  /// The handlers now registered (a copy: they may unregister while being visited).
  var handlers: [any EventHandler] { slots.compactMap(\.handler) }

  // MARK: The turn

  private func run() {
    thread.store(cnet_current_thread(), ordering: .relaxed)
    while !isStopping {
      let count = epoll_wait(epollDescriptor, events, Int32(Self.eventCapacity), waitMilliseconds())
      nowNanoseconds = cnet_monotonic_nanoseconds()
      counters.turns += 1
      if count > 0 { handleEvents(count: Int(count)) }
      expire()
      endTurn()
    }
    for handler in handlers { handler.handleStop() }
    let dropped = inbox.withLock { inbox in
      inbox.isStopped = true
      defer { inbox.work = [] }
      return inbox.work
    }
    _ = dropped  // released outside the lock: a closure's last reference may run a deinit that posts
    timers = []
    thread.store(0, ordering: .relaxed)
  }

  private func handleEvents(count: Int) {
    var isWoken = false
    for position in 0..<count {
      let event = events[position]
      guard event.data.u64 != UInt64.max else {
        isWoken = true
        continue
      }
      // A slot freed and taken again earlier in this very turn has another generation: a stale event is dropped.
      let slot = Int(event.data.u64 & 0xFFFF_FFFF)
      let generation = UInt32(event.data.u64 >> 32)
      guard slot < slots.count, slots[slot].generation == generation, let handler = slots[slot].handler else { continue }
      handler.handleEvents(event.events)
    }
    if isWoken { runPosted() }
  }

  private func runPosted() {
    var value: UInt64 = 0
    _ = read(wakeDescriptor, &value, MemoryLayout<UInt64>.size)
    // Two arrays take turns, so that posting allocates no storage in the steady state.
    inbox.withLock { inbox in
      inbox.isWakeSent = false
      swap(&inbox.work, &taken)
    }
    for item in taken { item() }
    taken.removeAll(keepingCapacity: true)
  }

  private func expire() {
    while let (slot, kind) = deadlines.takeExpired(nowNanoseconds: nowNanoseconds) {
      slots[slot].handler?.handleDeadline(kind)
    }
    guard timers.contains(where: { $0.deadlineNanoseconds <= nowNanoseconds }) else { return }
    let due = timers.filter { $0.deadlineNanoseconds <= nowNanoseconds }
    timers.removeAll { $0.deadlineNanoseconds <= nowNanoseconds }
    for timer in due { timer.work() }
  }

  private func endTurn() {
    // Ending a turn may answer further pipelined requests, which want an end of turn again.
    while !turnEnds.isEmpty {
      let ending = turnEnds
      turnEnds.removeAll(keepingCapacity: true)
      for slot in ending where slots[slot].isTurnEndWanted {
        slots[slot].isTurnEndWanted = false
        slots[slot].handler?.handleEndOfTurn()
      }
    }
  }

  private func waitMilliseconds() -> Int32 {
    var earliest = deadlines.earliestNanoseconds
    for timer in timers { earliest = min(earliest ?? timer.deadlineNanoseconds, timer.deadlineNanoseconds) }
    guard let earliest else { return -1 }
    guard earliest > nowNanoseconds else { return 0 }
    return Int32(clamping: (earliest - nowNanoseconds + 999_999) / 1_000_000)
  }

  private func deadline(afterMilliseconds: Int) -> UInt64 {
    let (delay, overflow) = UInt64(max(0, afterMilliseconds)).multipliedReportingOverflow(by: 1_000_000)
    return overflow ? UInt64.max : nowNanoseconds.addingReportingOverflow(delay).partialValue
  }

  private func wake() {
    var one: UInt64 = 1
    _ = write(wakeDescriptor, &one, MemoryLayout<UInt64>.size)
  }

  private func control(_ operation: Int32, _ descriptor: Int32, slot: Int, events: UInt32) -> Bool {
    let name = UInt64(slots[slot].generation) << 32 | UInt64(slot)
    var event = epoll_event(events: events, data: epoll_data_t(u64: name))
    return epoll_ctl(epollDescriptor, operation, descriptor, &event) == 0
  }

  private func release(slot: Int) {
    deadlines.clear(slot: slot)
    slots[slot] = Slot(generation: slots[slot].generation &+ 1)
    freeSlots.append(slot)
  }
}
