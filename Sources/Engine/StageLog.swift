// Where the time of the forward passes goes: nanoseconds, bytes of weights and cache read, and operations of every stage of a layer.
// Running totals, wall time of the engine thread; reading resets nothing. `quire bench` makes its roofline table of them.

import CKernels
import Glibc

/// The stages of a forward pass, in the order of a layer.
package enum Stage: Int, CaseIterable, Sendable {
  case prepare, embed, norm, project, latents, absorb, attention, values, output, route, gateUp, activate, down, head

  /// As bench and metrics print it.
  package var name: String {
    switch self {
    case .prepare: "prepare"
    case .embed: "embedding"
    case .norm: "residual+norm"
    case .project: "q, kv projections"
    case .latents: "rope, cache store"
    case .absorb: "absorb W_UK"
    case .attention: "attention"
    case .values: "W_UV"
    case .output: "output projection"
    case .route: "router"
    case .gateUp: "gate+up"
    case .activate: "silu, quantise"
    case .down: "down"
    case .head: "head"
    }
  }
}

/// What one stage has done so far.
package struct StageTotals: Sendable, Equatable {
  package var nanoseconds: UInt64 = 0
  /// Weights and cache rows, as stored.
  package var bytes: UInt64 = 0
  /// Multiplications and additions of the matrix products and of attention.
  package var operations: UInt64 = 0

  package init(nanoseconds: UInt64 = 0, bytes: UInt64 = 0, operations: UInt64 = 0) {
    self.nanoseconds = nanoseconds
    self.bytes = bytes
    self.operations = operations
  }

  package static func - (left: StageTotals, right: StageTotals) -> StageTotals {
    StageTotals(
      nanoseconds: left.nanoseconds &- right.nanoseconds, bytes: left.bytes &- right.bytes, operations: left.operations &- right.operations)
  }
}

/// Confined to the engine thread. No allocation after `init`.
final class StageLog {
  private(set) var totals = [StageTotals](repeating: StageTotals(), count: Stage.allCases.count)
  private var last: UInt64 = 0

  /// A forward pass begins.
  func start() { last = Self.now() }

  /// The time since the last mark belongs to `stage`.
  func mark(_ stage: Stage) {
    let now = Self.now()
    totals[stage.rawValue].nanoseconds &+= now &- last
    last = now
  }

  func add(_ stage: Stage, bytes: Int, operations: Int) {
    totals[stage.rawValue].bytes &+= UInt64(clamping: bytes)
    totals[stage.rawValue].operations &+= UInt64(clamping: operations)
  }

  /// The work of some products.
  func add(_ stage: Stage, _ tasks: UnsafePointer<qk_matmul_task>, count: Int) {
    for index in 0..<count {
      let matrix = tasks[index].w.pointee
      let matrices = tasks[index].up == nil ? 1 : 2
      add(
        stage, bytes: matrices &* matrix.rows &* matrix.row_bytes,
        operations: 2 &* matrices &* matrix.rows &* matrix.columns &* tasks[index].tokens)
    }
  }

  private static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(bitPattern: Int64(time.tv_sec)) &* 1_000_000_000 &+ UInt64(bitPattern: Int64(time.tv_nsec))
  }
}
