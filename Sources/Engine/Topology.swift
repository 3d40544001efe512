// The physical cores and memory nodes that this process may use, as /sys says it under a given root. In a container those files may be
// missing, cut or made up: every number is checked, and what makes no sense counts as not said. Knows no threads; see Placement.swift.

import CKernels
import Glibc

package struct Topology: Sendable, Equatable {
  /// The usable CPUs of each physical core, ascending, in the order of their first ones. Never empty; every usable CPU is in one of them.
  let cores: [[Int]]
  /// Sockets that have one of these cores; at least 1.
  let packageCount: Int
  /// Memory nodes that have one of these cores, ascending; empty if the system does not say. A node without a usable CPU does not count:
  /// memory there would be far from every worker.
  let nodes: [Int]
  /// The CPU quota of the cgroup, rounded up; nil: none.
  let quota: Int?

  static let maximumCPUs = Int(QK_MAX_CPUS)
  static let maximumNodes = Int(QK_MAX_NODES)
  /// More siblings than any CPU has: a list that is longer is not believed.
  static let maximumThreadsPerCore = 8
  private static let maximumPackages = 1024

  var cpuCount: Int { cores.reduce(0) { $0 + $1.count } }
  /// CPUs that may run at the same time.
  var parallelism: Int { min(cpuCount, quota ?? .max) }

  /// - Parameters:
  ///   - root: stands in for "/" in tests; no slash at its end.
  ///   - affinity: the CPUs that the process may use; nil: not known.
  package static func read(root: String = "", affinity: [Int]? = affinity()) -> Topology {
    let files = SystemFiles(root: root)
    let online = files.numbers("/sys/devices/system/cpu/online", below: maximumCPUs)
    let wanted = affinity.map { Set($0.filter { (0..<maximumCPUs).contains($0) }) } ?? []
    var usable = wanted.isEmpty ? Set(online ?? [0]) : wanted
    // The affinity is the kernel's own word about this process; a list that contradicts it is not believed.
    if let online, !usable.isDisjoint(with: online) { usable.formIntersection(online) }

    let cores = cores(of: usable, files)
    let packages = Set(cores.map { files.number("\(directory(ofCPU: $0[0]))/physical_package_id", below: maximumPackages) })
    let nodes = (files.numbers("/sys/devices/system/node/online", below: maximumNodes) ?? []).filter {
      let cpus = files.numbers("/sys/devices/system/node/node\($0)/cpulist", below: maximumCPUs)
      return !usable.isDisjoint(with: cpus ?? [])
    }
    return Topology(cores: cores, packageCount: packages.count, nodes: nodes, quota: CPUQuota.wholeCPUs(files))
  }

  /// The CPUs that the calling thread may use; nil if the system does not say.
  package static func affinity() -> [Int]? {
    var usable = [UInt8](repeating: 0, count: maximumCPUs)
    guard qk_affinity(&usable) == 0 else { return nil }
    return usable.indices.filter { usable[$0] != 0 }
  }

  private static func directory(ofCPU cpu: Int) -> String { "/sys/devices/system/cpu/cpu\(cpu)/topology" }

  private static func cores(of usable: Set<Int>, _ files: SystemFiles) -> [[Int]] {
    var left = usable
    var cores: [[Int]] = []
    for cpu in usable.sorted() where left.contains(cpu) {
      let directory = directory(ofCPU: cpu)
      // The second is the older name of the first.
      let said =
        files.numbers("\(directory)/core_cpus_list", below: maximumCPUs)
        ?? files.numbers("\(directory)/thread_siblings_list", below: maximumCPUs)
      var core = [cpu]
      if let said, said.count <= maximumThreadsPerCore, said.contains(cpu) { core = said.filter { left.contains($0) } }
      left.subtract(core)
      cores.append(core)
    }
    return cores
  }
}

/// Reads small files of the system under a root directory.
struct SystemFiles {
  let root: String

  /// A list of 8192 CPUs, each alone and with its comma, is shorter.
  static let byteLimit = 1 << 16

  /// nil if there is no such file or it is too long.
  func text(_ path: String) -> String? {
    guard let file = fopen(root + path, "r") else { return nil }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: Self.byteLimit + 1)
    let count = fread(&bytes, 1, bytes.count, file)
    return count <= Self.byteLimit ? String(decoding: bytes.prefix(count), as: UTF8.self) : nil
  }

  func number(_ path: String, below limit: Int) -> Int? {
    text(path).flatMap { Self.number($0.prefix { !$0.isNewline }) }.flatMap { $0 < limit ? $0 : nil }
  }

  func numbers(_ path: String, below limit: Int) -> [Int]? { text(path).flatMap { Self.numbers($0, below: limit) } }

  /// The kernel's lists, ascending such as `0-3,8` (Documentation/admin-guide/cputopology.rst). nil for an empty one and for anything else.
  static func numbers(_ text: String, below limit: Int) -> [Int]? {
    var result: [Int] = []
    for part in text.prefix(while: { !$0.isNewline }).split(separator: ",", omittingEmptySubsequences: false) {
      let ends = part.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
      guard let first = number(ends[0]), let last = number(ends[ends.count - 1]) else { return nil }
      // Ascending, so that a list is never longer than `limit`, whatever it says.
      guard first > result.last ?? -1, first <= last, last < limit else { return nil }
      result += first...last
    }
    return result
  }

  /// Digits only: `Int` alone would take a sign.
  static func number(_ text: Substring) -> Int? {
    text.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) } ? Int(text) : nil
  }
}
