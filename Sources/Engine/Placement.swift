// Which CPU each worker stays on and which memory nodes share the weights, decided from the machine's topology and the operator's wishes.
// Makes no system call: WorkerPool and MappedMemory carry it out. Knows no config file.

package struct Placement: Sendable, Equatable {
  /// CPU of each worker, the engine thread first; empty: left to the kernel.
  let workerCPUs: [Int32]
  /// Nodes that take the pages of weights and latent cache in turn; empty: left to the kernel.
  let memoryNodes: [Int32]
  /// False with more threads than CPUs: a thread that spins would keep one that works from its CPU.
  let spins: Bool
  /// What was found and what is done about it, for the line at start.
  package let summary: String
  /// Wishes that cannot be granted, a line each.
  let warnings: [String]

  /// Everything left to the kernel.
  package static let byKernel = Placement(workerCPUs: [], memoryNodes: [], spins: true, summary: "", warnings: [])
}

extension Topology {
  /// One per physical core (the second thread of a core shares its multipliers and caches, and only adds to the waiting at the end of a
  /// job), no more than the quota pays for.
  package var defaultThreads: Int { min(cores.count, quota ?? .max, EngineOptions.maximumThreads) }

  package func placement(threads: Int, pins: Bool, interleaves: Bool) -> Placement {
    var warnings: [String] = []
    var workerCPUs: [Int32] = []
    if pins {
      let order = pinningOrder
      if threads <= order.count {
        workerCPUs = order.prefix(threads).map { Int32(clamping: $0) }
      } else {
        warnings.append("pinThreads: \(threads) threads are more than the \(order.count) usable CPUs, so none is pinned")
      }
    }
    let memoryNodes = interleaves && nodes.count > 1 ? nodes.map { Int32(clamping: $0) } : []
    return Placement(
      workerCPUs: workerCPUs, memoryNodes: memoryNodes, spins: threads <= parallelism,
      summary: summary(threads: threads, workerCPUs: workerCPUs, isInterleaved: !memoryNodes.isEmpty), warnings: warnings)
  }

  /// The first CPU of every core, then the second ones, and so on.
  private var pinningOrder: [Int] {
    (0..<Self.maximumThreadsPerCore).flatMap { thread in cores.compactMap { thread < $0.count ? $0[thread] : nil } }
  }

  private func summary(threads: Int, workerCPUs: [Int32], isInterleaved: Bool) -> String {
    func counted(_ count: Int, _ noun: String) -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }
    var parts = [counted(cores.count, "physical core")]
    if cpuCount > cores.count { parts[0] += " (\(cpuCount) CPUs)" }
    if packageCount > 1 { parts[0] += " in \(packageCount) sockets" }
    if let quota, quota < cpuCount { parts.append("a quota of \(counted(quota, "CPU"))") }
    parts.append(counted(max(nodes.count, 1), "NUMA node") + (isInterleaved ? " (memory interleaved)" : ""))
    parts.append(counted(threads, "thread"))
    parts.append(workerCPUs.isEmpty ? "not pinned" : "pinned to CPU \(Self.rangesText(workerCPUs))")
    return parts.joined(separator: ", ")
  }

  /// Runs of consecutive numbers as `0-3`; workers in order, so not sorted.
  static func rangesText(_ numbers: [Int32]) -> String {
    var runs: [ClosedRange<Int32>] = []
    for number in numbers {
      if let last = runs.last, Int(number) == Int(last.upperBound) + 1 {
        runs[runs.count - 1] = last.lowerBound...number
      } else {
        runs.append(number...number)
      }
    }
    return runs.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" }.joined(separator: ",")
  }
}
