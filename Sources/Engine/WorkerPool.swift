// Owns the worker threads and the kernel variant they run. Knows nothing of what is computed.

import CEngine
import CKernels

/// Confined to the engine thread.
struct WorkerPool: ~Copyable {
  let workers: qe_workers
  let kernels: UnsafePointer<qk_kernels>
  private let pool: OpaquePointer

  init(threads: Int, kernels name: String?) throws(EngineError) {
    let table: UnsafePointer<qk_kernels>
    if let name {
      guard let named = qk_kernels_named(name) else { throw .unknownKernels(name: name) }
      table = named
    } else {
      table = qk_kernels_best()
    }
    guard let pool = qk_pool_create(threads) else { throw .poolFailed(threads: threads) }
    self.pool = pool
    kernels = table
    workers = qe_workers(pool: pool, kernels: table)
  }

  deinit { qk_pool_destroy(pool) }

  var threads: Int { qk_pool_threads(pool) }
  var kernelName: String { String(cString: kernels.pointee.name) }

  /// Grows every worker's scratch to at least `bytes`.
  func reserveScratch(bytes: Int) throws(EngineError) {
    guard qk_pool_reserve(pool, bytes) == 0 else { throw .mapFailed(bytes: bytes, errno: outOfMemory) }
  }

  /// What the machine can do at best with these workers.
  func measureLimits() -> MachineLimits {
    let limits = qk_pool_measure(pool, kernels)
    return MachineLimits(
      bytesPerSecond: limits.bytes_per_second, int8PerSecond: limits.int8_per_second, bf16PerSecond: limits.bf16_per_second,
      int16PerSecond: limits.int16_per_second)
  }

  func multiply(_ tasks: UnsafeMutablePointer<qk_matmul_task>, count: Int) {
    guard count > 0 else { return }
    qk_pool_matmul(pool, kernels, tasks, count)
  }
}

/// Measured rates of all workers together: memory read, int8, bfloat16 and int16 operations (a multiplication and an addition are two).
package struct MachineLimits: Sendable, Encodable {
  package let bytesPerSecond: Double
  package let int8PerSecond: Double
  package let bf16PerSecond: Double
  package let int16PerSecond: Double
}

private let outOfMemory: Int32 = 12  // ENOMEM
