// What is made of /sys and /proc, on trees written by the test: ordinary machines, containers, missing and mad files. And that pinning pins
// and interleaving reaches the kernel, as far as a machine with one node can show it.

import CKernels
import FoundationEssentials
import Glibc
import ModelFile
import Testing

@testable import Engine

/// A root directory with the given files in it, gone at the end of the test.
private final class Tree {
  let root: String

  init(_ files: [String: String] = [:]) {
    root = "/tmp/quire-topology-\(getpid())-\(UInt64.random(in: 0 ... .max))"
    mkdir(root, 0o700)
    for (path, text) in files { write(path, text) }
  }

  func write(_ path: String, _ text: String) { write(path, Array(text.utf8)) }

  func write(_ path: String, _ bytes: [UInt8]) {
    let directory = root + path.split(separator: "/").dropLast().map { "/\($0)" }.joined()
    do {
      try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
      try Data(bytes).write(to: URL(filePath: root + path))
    } catch { Issue.record("\(path): \(error)") }
  }

  deinit { try? FileManager.default.removeItem(atPath: root) }
}

private let cpuDirectory = "/sys/devices/system/cpu"
private let nodeDirectory = "/sys/devices/system/node"

/// `siblings[i]`: the list of CPU i.
private func machine(siblings: [String], packages: [Int]? = nil, nodes: [String] = []) -> [String: String] {
  var files = ["\(cpuDirectory)/online": "0-\(siblings.count - 1)\n"]
  for (cpu, list) in siblings.enumerated() {
    files["\(cpuDirectory)/cpu\(cpu)/topology/core_cpus_list"] = list + "\n"
    files["\(cpuDirectory)/cpu\(cpu)/topology/physical_package_id"] = "\(packages?[cpu] ?? 0)\n"
  }
  if !nodes.isEmpty { files["\(nodeDirectory)/online"] = nodes.count == 1 ? "0\n" : "0-\(nodes.count - 1)\n" }
  for (node, list) in nodes.enumerated() { files["\(nodeDirectory)/node\(node)/cpulist"] = list + "\n" }
  return files
}

private let smtMachine = machine(siblings: (0..<8).map { "\($0 % 4),\($0 % 4 + 4)" }, nodes: ["0-7"])

@Suite struct TopologyTests {
  private func read(_ files: [String: String], affinity: [Int]? = nil) -> Topology {
    let tree = Tree(files)
    return Topology.read(root: tree.root, affinity: affinity)
  }

  @Test func simultaneousMultithreading() {
    let topology = read(smtMachine, affinity: Array(0..<8))
    #expect(topology.cores == [[0, 4], [1, 5], [2, 6], [3, 7]])
    #expect(topology.defaultThreads == 4 && topology.nodes == [0] && topology.packageCount == 1 && topology.quota == nil)
    let pinned = topology.placement(threads: 4, pins: true, interleaves: true)
    #expect(pinned.workerCPUs == [0, 1, 2, 3] && pinned.memoryNodes.isEmpty && pinned.spins && pinned.warnings.isEmpty)
    #expect(pinned.summary == "4 physical cores (8 CPUs), 1 NUMA node, 4 threads, pinned to CPU 0-3")
    // More threads than cores: the second threads of the cores. More than CPUs: nowhere to pin them, and spinning would hurt.
    let wide = topology.placement(threads: 6, pins: true, interleaves: true)
    #expect(wide.workerCPUs == [0, 1, 2, 3, 4, 5] && wide.spins)
    let crowded = topology.placement(threads: 9, pins: true, interleaves: true)
    #expect(crowded.workerCPUs.isEmpty && !crowded.spins && crowded.warnings.count == 1)
    let free = topology.placement(threads: 2, pins: false, interleaves: false)
    #expect(free.workerCPUs.isEmpty && free.summary.hasSuffix("1 NUMA node, 2 threads, not pinned"))
    // The name of the list before Linux 5.4.
    let old = Dictionary(
      uniqueKeysWithValues: smtMachine.map { ($0.key.replacing("core_cpus_list", with: "thread_siblings_list"), $0.value) })
    #expect(read(old).cores == topology.cores)
  }

  @Test func twoNodes() {
    let files = machine(
      siblings: (0..<8).map { "\($0)" }, packages: [0, 0, 0, 0, 1, 1, 1, 1], nodes: ["0-3", "4-7", ""])
    let topology = read(files, affinity: Array(0..<8))
    #expect(topology.cores.count == 8 && topology.packageCount == 2)
    // Node 2 has memory only.
    #expect(topology.nodes == [0, 1])
    let placement = topology.placement(threads: topology.defaultThreads, pins: false, interleaves: true)
    #expect(placement.memoryNodes == [0, 1])
    #expect(placement.summary == "8 physical cores in 2 sockets, 2 NUMA nodes (memory interleaved), 8 threads, not pinned")
    #expect(topology.placement(threads: 8, pins: false, interleaves: false).memoryNodes.isEmpty)
    // Bound to one node by its affinity, the process wants its memory there.
    #expect(read(files, affinity: [5, 6]).placement(threads: 2, pins: false, interleaves: true).memoryNodes.isEmpty)
  }

  /// Three CPUs of a large host, two of them one core, and a quota of one and a half: /sys shows the host's.
  @Test func container() {
    var files = machine(siblings: (0..<64).map { "\($0 % 32),\($0 % 32 + 32)" }, nodes: ["0-31", "32-63"])
    files["/proc/self/cgroup"] = "0::/\n"
    files["/sys/fs/cgroup/cpu.max"] = "150000 100000\n"
    let topology = read(files, affinity: [4, 5, 37])
    #expect(topology.cores == [[4], [5, 37]] && topology.quota == 2 && topology.defaultThreads == 2)
    #expect(topology.placement(threads: 2, pins: true, interleaves: false).workerCPUs == [4, 5])
    #expect(topology.placement(threads: 2, pins: false, interleaves: false).spins)
    #expect(!topology.placement(threads: 3, pins: false, interleaves: false).spins)
    #expect(
      topology.placement(threads: 2, pins: true, interleaves: true).summary
        == "2 physical cores (3 CPUs), a quota of 2 CPUs, 2 NUMA nodes (memory interleaved), 2 threads, pinned to CPU 4-5")
    files["/sys/fs/cgroup/cpu.max"] = "50000 100000\n"
    #expect(read(files, affinity: [4, 5, 37]).defaultThreads == 1)
  }

  @Test func quotas() {
    func quota(_ files: [String: String]) -> Int? { read(files).quota }
    // v2, without /proc, and the smallest of the own group and those above it.
    #expect(quota(["/sys/fs/cgroup/cpu.max": "max 100000\n"]) == nil)
    #expect(quota(["/sys/fs/cgroup/cpu.max": "100001 100000\n"]) == 2)
    let nested = [
      "/proc/self/cgroup": "0::/a.slice/b.service\n", "/sys/fs/cgroup/a.slice/cpu.max": "300000 100000\n",
      "/sys/fs/cgroup/a.slice/b.service/cpu.max": "700000 100000\n",
    ]
    #expect(quota(nested) == 3)
    // v1; in a container without a namespace the path is the host's, and the mount is the container's group.
    var older = ["/proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/0123\n0::/\n"]
    for (mount, time) in [("cpu", "250000"), ("cpu,cpuacct", "450000")] {
      older["/sys/fs/cgroup/\(mount)/cpu.cfs_quota_us"] = time + "\n"
      older["/sys/fs/cgroup/\(mount)/cpu.cfs_period_us"] = "100000\n"
    }
    #expect(quota(older) == 3)
    older["/sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = "-1\n"
    #expect(quota(older) == 5)
    // Nothing outside of the mount is read.
    #expect(quota(["/proc/self/cgroup": "0::/../../x\n", "/sys/x/cpu.max": "100000 100000\n"]) == nil)
    for bad in ["", "x y", "1", "-5 100", "5 0", "0 5", "9223372036854775808 1", "1 2 3", "+5 1"] {
      #expect(CPUQuota.quota(bad) == nil, "\(bad)")
    }
    #expect(CPUQuota.quota("9223372036854775807 1") == .max && CPUQuota.quota("200000 100000") == 2 && CPUQuota.quota("1 100000") == 1)
  }

  @Test func missingFiles() {
    let nothing = read([:])
    #expect(nothing.cores == [[0]] && nothing.nodes.isEmpty && nothing.packageCount == 1 && nothing.defaultThreads == 1)
    #expect(
      nothing.placement(threads: 1, pins: false, interleaves: true).summary == "1 physical core, 1 NUMA node, 1 thread, not pinned")
    #expect(read([:], affinity: [3, 9]).cores == [[3], [9]])
    #expect(read(["\(cpuDirectory)/online": "0-2\n"]).cores == [[0], [1], [2]])
    // A list of others than ours is somebody else's.
    #expect(read(["\(cpuDirectory)/online": "0-2\n"], affinity: [7]).cores == [[7]])
    #expect(read(["\(cpuDirectory)/online": "0-2\n"], affinity: [1, 7]).cores == [[1]])
    #expect(read([:], affinity: []).cores == [[0]])
  }

  @Test func lists() {
    let good: [(String, [Int])] = [("0", [0]), ("0-3,8\n", [0, 1, 2, 3, 8]), ("5,7-7", [5, 7]), ("99\n1", [99])]
    for (text, numbers) in good { #expect(SystemFiles.numbers(text, below: 100) == numbers) }
    let bad = [
      "", "\n", "x", "-1", "+1", "1-", "-", "3-1", "0-100", "100", "1,1", "2,1", "0-3,2", "1,,2", "1,", "0-1-2", "0x1", "1.5", " 1",
      "99999999999999999999", "0-9223372036854775807", "٣",
    ]
    for text in bad { #expect(SystemFiles.numbers(text, below: 100) == nil, "\(text)") }
    #expect(Topology.rangesText([0, 1, 2, 5, 4, 6, 7]) == "0-2,5,4,6-7")
    #expect(Topology.rangesText([.max, .max]) == "2147483647,2147483647")
  }

  /// Whatever the files hold: every usable CPU in one core, none twice, numbers within their limits.
  @Test func madFiles() {
    var random = SystemRandomNumberGenerator()
    let texts = [
      "", "0-8191", "0,8191", "0-8192", "0-99999999999", "-1", "4294967296", "max max", "-1 -1", "9223372036854775807", "0-3", "1-2", "5",
      "0::/\n1:cpu:/\n::::\n4:cpu:/../..", String(repeating: "1,", count: 40_000), String(repeating: "/x", count: 30_000),
      "0::" + String(repeating: "/x", count: 30_000), "1 1", "3 0",
    ]
    for round in 0..<200 {
      let tree = Tree()
      var files = ["\(cpuDirectory)/online", "\(nodeDirectory)/online", "/proc/self/cgroup", "/sys/fs/cgroup/cpu.max"]
      files += ["/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"]
      for cpu in 0..<4 {
        files += ["core_cpus_list", "thread_siblings_list", "physical_package_id"].map { "\(cpuDirectory)/cpu\(cpu)/topology/\($0)" }
        files.append("\(nodeDirectory)/node\(cpu)/cpulist")
      }
      for file in files where Int.random(in: 0..<4, using: &random) > 0 {
        if Bool.random(using: &random), let text = texts.randomElement(using: &random) {
          tree.write(file, text)
        } else {
          tree.write(file, (0..<Int.random(in: 0..<40, using: &random)).map { _ in UInt8.random(in: 0 ... .max, using: &random) })
        }
      }
      let affinity = [nil, [0, 1, 2, 3], [2], [-5, 1 << 40, .max], [0, 3, 8191]][round % 5]
      let topology = Topology.read(root: tree.root, affinity: affinity)
      let cpus = topology.cores.flatMap { $0 }
      #expect(!cpus.isEmpty && Set(cpus).count == cpus.count && cpus.allSatisfy { (0..<Topology.maximumCPUs).contains($0) })
      #expect(topology.cores.allSatisfy { !$0.isEmpty && $0.count <= Topology.maximumThreadsPerCore && $0 == $0.sorted() })
      #expect(topology.packageCount >= 1 && topology.nodes.allSatisfy { (0..<Topology.maximumNodes).contains($0) })
      #expect(topology.quota ?? 1 >= 1 && (1...EngineOptions.maximumThreads).contains(topology.defaultThreads))
      _ = topology.placement(threads: 1 + round, pins: true, interleaves: true)
    }
  }

  @Test func thisMachine() throws {
    let affinity = try #require(Topology.affinity())
    let topology = Topology.read()
    #expect(topology.cores.flatMap { $0 }.sorted() == affinity)
    #expect(topology.cores.count <= affinity.count && topology.defaultThreads >= 1)
    #expect(try EngineOptions(threads: topology.defaultThreads).check() == ())
  }
}

@Suite struct PlacementTests {
  /// What each worker says of itself.
  private struct Seen {
    var affinity: UnsafeMutablePointer<[Int]>  // [threads]
  }

  private static let look: @convention(c) (UnsafeMutableRawPointer?, Int, Int) -> Void = { context, _, worker in
    guard let seen = context?.assumingMemoryBound(to: Seen.self).pointee else { return }
    seen.affinity[worker] = Topology.affinity() ?? [-1]
    usleep(500)  // so that every worker gets some of the jobs
  }

  /// The affinity of each worker, 0 being the calling thread.
  private static func affinities(_ pool: borrowing WorkerPool) -> [[Int]] {
    let affinity = UnsafeMutablePointer<[Int]>.allocate(capacity: pool.threads)
    affinity.initialize(repeating: [], count: pool.threads)
    defer {
      affinity.deinitialize(count: pool.threads)
      affinity.deallocate()
    }
    var seen = Seen(affinity: affinity)
    for _ in 0..<200 {
      qk_pool_run(pool.workers.pool, look, &seen, 4 * pool.threads)
      if (0..<pool.threads).allSatisfy({ !affinity[$0].isEmpty }) { break }
    }
    return (0..<pool.threads).map { affinity[$0] }
  }

  /// On a thread of its own: the test's thread must not stay pinned.
  private static func onOwnThread(_ body: @escaping () throws -> Void) throws {
    final class Work {
      let body: () throws -> Void
      var error: (any Error)?
      init(_ body: @escaping () throws -> Void) { self.body = body }
    }
    let work = Work(body)
    var thread = pthread_t()
    let result = pthread_create(
      &thread, nil,
      { @Sendable raw in
        guard let raw else { return nil }
        let work = Unmanaged<Work>.fromOpaque(raw).takeUnretainedValue()
        do { try work.body() } catch { work.error = error }
        return nil
      }, Unmanaged.passUnretained(work).toOpaque())
    try #require(result == 0)
    pthread_join(thread, nil)
    if let error = work.error { throw error }
  }

  @Test func pinningPins() throws {
    try Self.onOwnThread {
      let topology = Topology.read()
      let threads = topology.cpuCount
      let placement = topology.placement(threads: threads, pins: true, interleaves: false)
      #expect(placement.workerCPUs.count == threads)
      let before = Topology.affinity()
      let pool = try WorkerPool(threads: threads, kernels: nil, placement: placement)
      #expect(pool.warnings.isEmpty && Topology.affinity() == before)
      #expect(pool.pinCaller() == nil)
      #expect(Self.affinities(pool) == placement.workerCPUs.map { [Int($0)] })
    }
  }

  /// Kernels before 6.12 do not say, and do nothing.
  @Test func computingThreadsHaveLongTurns() throws {
    let turns = UnsafeMutablePointer<Int64>.allocate(capacity: 2)
    defer { turns.deallocate() }
    turns.initialize(repeating: -1, count: 2)
    try Self.onOwnThread {
      let before = qk_turn_nanoseconds()
      let nice = getpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0)
      let pool = try WorkerPool(threads: 2, kernels: nil)
      let look: qk_job = { raw, _, worker in raw?.assumingMemoryBound(to: Int64.self)[worker] = qk_turn_nanoseconds() }
      for _ in 0..<10_000 where turns[1] < 0 { qk_pool_run(pool.workers.pool, look, turns, 64) }
      #expect(turns[0] == before)
      #expect(turns[1] == (before == 0 ? 0 : Int64(QK_LONG_TURN_NANOSECONDS)))
      #expect(qk_take_long_turns() == 0)
      #expect(qk_turn_nanoseconds() == turns[1])
      #expect(getpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0) == nice)
    }
  }

  @Test func withoutPinningTheKernelChooses() throws {
    let pool = try WorkerPool(threads: 2, kernels: nil)
    #expect(pool.pinCaller() == nil)
    let all = try #require(Topology.affinity())
    #expect(Self.affinities(pool) == [all, all])
  }

  @Test func refusedPinsAreWarnings() throws {
    let nowhere = Int32(Topology.maximumCPUs - 1)
    let placement = Placement(workerCPUs: [nowhere, nowhere, -1], memoryNodes: [], spins: false, summary: "", warnings: [])
    let pool = try WorkerPool(threads: 3, kernels: nil, placement: placement)
    #expect(pool.warnings == ["pinThreads: the system refused to pin 2 of 3 threads"])
    #expect(pool.pinCaller()?.contains("refused to pin the engine thread to CPU \(nowhere)") == true)
    let all = try #require(Topology.affinity())
    #expect(Self.affinities(pool) == [all, all, all])
  }

  /// The kernel's own list of mappings says what became of the call.
  @Test func interleavingReachesTheKernel() throws {
    func policy(_ memory: borrowing MappedMemory) -> String? {
      let address = String(UInt(bitPattern: memory.base), radix: 16)
      guard let data = FileManager.default.contents(atPath: "/proc/self/numa_maps") else { return nil }
      let line = String(decoding: data, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix(address + " ") }
      return line.map { String($0.split(separator: " ")[1]) }
    }
    let plain = try MappedMemory(byteCount: 1 << 22)
    #expect(plain.interleaveErrno == 0 && policy(plain) ?? "default" == "default")
    // One node: no call at all, not even for one that does not exist.
    #expect(try MappedMemory(byteCount: 1 << 22, interleavedOver: [1023]).interleaveErrno == 0)
    let spread = try MappedMemory(byteCount: 1 << 22, interleavedOver: [0, 0])
    if spread.interleaveErrno == 0 {
      #expect(policy(spread) ?? "interleave:0" == "interleave:0")
    } else {
      #expect([EPERM, ENOSYS].contains(spread.interleaveErrno), "a container may refuse, nothing else")
    }
    spread.base.storeBytes(of: 7, toByteOffset: 1 << 21, as: Int.self)
    #expect(spread.base.load(fromByteOffset: 1 << 21, as: Int.self) == 7)
    for nodes in [[1022, 1023], [-1, 0], [0, 1024]] as [[Int32]] {
      let refused = try MappedMemory(byteCount: 1 << 22, interleavedOver: nodes)
      #expect(refused.interleaveErrno != 0)
      refused.base.storeBytes(of: 7, as: Int.self)
    }
  }

  /// A model whose wishes are all refused says so and computes the same bits.
  @Test func aRefusedPlacementChangesNothing() throws {
    guard let tiny = TinyModels.directories.first else { return TinyModels.noteIfMissing() }
    let model = try ModelFile(path: tiny.path)
    var options = GoldenTests.options(.exact)
    let plain = try Driver(model, options).run(tiny.prompts[0].ids, greedy: 2).all
    options.placement = Placement(
      workerCPUs: .init(repeating: -1, count: options.threads), memoryNodes: [1022, 1023], spins: false, summary: "", warnings: ["first"])
    let driver = try Driver(model, options)
    let warnings = driver.transformer.warnings
    #expect(warnings.first == "first" && warnings.last?.contains("refused to interleave") == true)
    #expect(warnings.count == (options.threads > 1 ? 3 : 2))
    #expect(driver.transformer.adoptThread()?.contains("refused") == true)
    #expect(driver.run(tiny.prompts[0].ids, greedy: 2).all == plain)
  }
}
