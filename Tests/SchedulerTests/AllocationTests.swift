// Counts heap allocations of Swift objects (array storage among them) in steady-state steps, through the hook that the Swift runtime keeps
// for Instruments. It does not see `malloc` called directly, which the scheduler never does.

import FoundationEssentials
import Glibc
import Scheduler
import Testing

private typealias Allocate = @convention(c) (UnsafeRawPointer?, Int, Int) -> UnsafeMutableRawPointer?

/// Counts allocations of one thread while `counting` runs; the others go on as ever.
private enum AllocationCounter {
  nonisolated(unsafe) static var original: Allocate?
  nonisolated(unsafe) static var watched: pthread_t = 0
  nonisolated(unsafe) static var count = 0

  /// Nil when the runtime has no such hook.
  static func counting(_ body: () -> Void) -> Int? {
    guard let hook = dlsym(nil, "_swift_allocObject"),
      let flag = dlsym(nil, "_swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly")
    else { return nil }
    let function = hook.assumingMemoryBound(to: Allocate.self)
    original = function.pointee
    watched = pthread_self()
    count = 0
    function.pointee = { type, size, alignmentMask in
      if AllocationCounter.watched == pthread_self() { AllocationCounter.count += 1 }
      return AllocationCounter.original.flatMap { $0(type, size, alignmentMask) }
    }
    flag.storeBytes(of: 1, as: UInt8.self)
    body()
    flag.storeBytes(of: 0, as: UInt8.self)
    function.pointee = original ?? function.pointee
    return count
  }
}

/// Only on demand, and alone (`QUIRE_ALLOCATIONS=1 swift test --filter AllocationTests`): the hook is the whole process's, and a run
/// beside all the other tests crashed once.
@Suite(.serialized, .enabled(if: ProcessInfo.processInfo.environment["QUIRE_ALLOCATIONS"] == "1")) struct AllocationTests {
  private func warmed(_ sequences: Int) throws -> (Scheduler, Batch, [Int32]) {
    var scheduler = Scheduler(
      SchedulerConfiguration(
        blockTokens: 16, blockCount: 4000, maxBatchTokens: 64, maxSequences: 32, maxContextTokens: 4096, maxPrefillChunkTokens: 32))
    for number in 0..<sequences { _ = try scheduler.add(request(text(Int32(number), 20 + number), new: 1500)) }
    // One long prompt, so that steps hold prefill chunks beside decodes.
    _ = try scheduler.add(request(text(999, 4000), new: 10))
    var batch = Batch()
    batch.blockTable.reserveCapacity(4000)  // grows by doubling as contexts grow; here it is at its largest already
    let sampled = [Int32](repeating: 1, count: 64)
    for _ in 0..<20 {
      scheduler.plan(into: &batch)
      scheduler.commit(batch, sampledTokens: sampled)
    }
    return (scheduler, batch, sampled)
  }

  @Test func theHookCounts() {
    let array = [Int](repeating: 0, count: 3)
    var copies: [[Int]] = []
    copies.reserveCapacity(100)
    let count = AllocationCounter.counting {
      for number in 0..<100 {
        var copy = array
        copy[0] = number
        copies.append(copy)
      }
    }
    if let count { #expect(count >= 100) }
    #expect(copies.count == 100)
  }

  @Test func aSteadyStepAllocatesNothing() throws {
    var (scheduler, batch, sampled) = try warmed(24)
    let before = scheduler.statistics
    let count = AllocationCounter.counting {
      for _ in 0..<90 {
        scheduler.plan(into: &batch)
        scheduler.commit(batch, sampledTokens: sampled)
      }
    }
    #expect(batch.entries.count == 25 && batch.entries.contains { $0.isPrefill } && batch.tokens.count == 24 + 32)
    #expect(scheduler.statistics.blocksInUse > before.blocksInUse)  // blocks were taken and indexed on the way
    if let count { #expect(count == 0) }
  }
}
