// The worker pool: every job runs exactly once, whatever the number of threads and runs; scratch is per worker.
// Meant to run under ThreadSanitizer too: the jobs below touch plain memory on purpose.

import CKernels
import Testing

private struct PoolCase {
  var hits: UnsafeMutablePointer<Int32>  // [jobs], plain memory
  var scratchSum: UnsafeMutablePointer<Int>  // [threads]
  var pool: OpaquePointer
}

private let countHit: @convention(c) (UnsafeMutableRawPointer?, Int, Int) -> Void = { context, job, worker in
  guard let state = context?.assumingMemoryBound(to: PoolCase.self).pointee else { return }
  state.hits[job] += Int32(truncatingIfNeeded: job + 1)
  state.scratchSum[worker] += 1
  if let scratch = qk_pool_scratch(state.pool, worker) { scratch.storeBytes(of: worker, as: Int.self) }
}

@Suite struct PoolTests {
  @Test(arguments: [1, 2, 3, 5, 16], [Int(QK_POOL_SPIN_NANOSECONDS), 0]) func everyJobRunsOnce(threads: Int, spin: Int) throws {
    let pool = try #require(qk_pool_create_spinning(threads, spin))
    defer { qk_pool_destroy(pool) }
    #expect(qk_pool_threads(pool) == threads)
    #expect(qk_pool_reserve(pool, 100) == 0)
    #expect(qk_pool_scratch_bytes(pool) >= 100)
    let largest = 70
    let hits = UnsafeMutablePointer<Int32>.allocate(capacity: largest)
    let sums = UnsafeMutablePointer<Int>.allocate(capacity: threads)
    defer {
      hits.deallocate()
      sums.deallocate()
    }
    sums.initialize(repeating: 0, count: threads)
    var state = PoolCase(hits: hits, scratchSum: sums, pool: pool)
    var total = 0
    for run in 0..<600 {
      let jobs = (run * 7) % (largest + 1)
      hits.initialize(repeating: 0, count: largest)
      qk_pool_run(pool, countHit, &state, jobs)
      total += jobs
      for job in 0..<largest where hits[job] != (job < jobs ? Int32(job + 1) : 0) {
        Issue.record("run \(run): job \(job) of \(jobs) has \(hits[job])")
      }
    }
    #expect((0..<threads).reduce(0) { $0 + sums[$1] } == total)
  }

  @Test func runsAfterWorkersSlept() throws {
    let pool = try #require(qk_pool_create(3))
    defer { qk_pool_destroy(pool) }
    var hits = [Int32](repeating: 0, count: 8)
    var sums = [0, 0, 0]
    for pause in [0, 50, 300, 3000] as [UInt32] {
      hits = [Int32](repeating: 0, count: 8)
      sleepMicroseconds(pause)
      hits.withUnsafeMutableBufferPointer { h in
        sums.withUnsafeMutableBufferPointer { s in
          guard let hBase = h.baseAddress, let sBase = s.baseAddress else { return }
          var state = PoolCase(hits: hBase, scratchSum: sBase, pool: pool)
          qk_pool_run(pool, countHit, &state, 8)
        }
      }
      #expect(hits == [1, 2, 3, 4, 5, 6, 7, 8])
    }
  }

  /// A worker may look at the pool for the first time when it is already ending; it must not go to sleep then. Hangs if one does.
  @Test func endsWhileWorkersWake() throws {
    for turn in 0..<2000 {
      let pool = try #require(qk_pool_create_spinning(16, 0))
      for _ in 0..<turn % 8 { qk_pool_run(pool, { _, _, _ in }, nil, 16) }
      qk_pool_destroy(pool)
    }
  }

  @Test func refusesBadSizes() {
    #expect(qk_pool_create(0) == nil)
    #expect(qk_pool_create(Int(QK_POOL_MAX_THREADS) + 1) == nil)
    #expect(qk_pool_create_spinning(2, -1) == nil)
    #expect(qk_pool_create_spinning(2, Int(QK_POOL_SPIN_NANOSECONDS) + 1) == nil)
    qk_pool_destroy(nil)
  }
}
