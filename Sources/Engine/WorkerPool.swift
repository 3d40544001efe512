// Owns the worker threads and the kernel variant they run. Knows nothing of what is computed.

import CEngine
import CKernels

/// Confined to the engine thread.
struct WorkerPool: ~Copyable {
  let workers: qe_workers
  let kernels: UnsafePointer<qk_kernels>
  private let pool: OpaquePointer
  private let callerCPU: Int32?
  /// Wishes that the system refused, a line each.
  let warnings: [String]

  init(threads: Int, kernels name: String?, placement: Placement = .byKernel) throws(EngineError) {
    let table: UnsafePointer<qk_kernels>
    if let name {
      guard let named = qk_kernels_named(name) else { throw .unknownKernels(name: name) }
      table = named
    } else {
      table = qk_kernels_best()
    }
    let spinNanoseconds = placement.spins ? Int(QK_POOL_SPIN_NANOSECONDS) : 0
    guard let pool = qk_pool_create_spinning(threads, spinNanoseconds) else { throw .poolFailed(threads: threads) }
    self.pool = pool
    kernels = table
    workers = qe_workers(pool: pool, kernels: table)
    let cpus = placement.workerCPUs.count == threads ? placement.workerCPUs : []
    let refused = cpus.isEmpty ? 0 : qk_pool_pin(pool, cpus)
    callerCPU = cpus.first
    warnings = refused > 0 ? ["pinThreads: the system refused to pin \(refused) of \(threads) threads"] : []
  }

  deinit { qk_pool_destroy(pool) }

  var threads: Int { qk_pool_threads(pool) }
  var kernelName: String { String(cString: kernels.pointee.name) }

  /// Pins the calling thread to worker 0's CPU, if pinning is asked for. Not in `init`: whoever makes the pool and loads the weights need
  /// not be the thread that runs the model, and threads that it starts would inherit its CPU. A refusal is a warning.
  func pinCaller() -> String? {
    guard let callerCPU else { return nil }
    let error = qk_pin_caller(callerCPU)
    return error == 0 ? nil : "pinThreads: the system refused to pin the engine thread to CPU \(callerCPU) (errno \(error))"
  }

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
