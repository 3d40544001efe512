// The CPU time that the process's control groups allow (cgroup v2 cpu.max, v1 cpu.cfs_quota_us). Knows no threads.

enum CPUQuota {
  /// Deeper groups than this are not looked for.
  static let maximumDepth = 64

  /// The smallest quota of the process's group and those above it, in CPUs, rounded up; nil: no limit.
  static func wholeCPUs(_ files: SystemFiles) -> Int? {
    var quotas: [Int] = []
    for line in (files.text("/proc/self/cgroup") ?? "0::/").split(separator: "\n") {
      // "0::/group" in v2, "4:cpu,cpuacct:/group" in v1.
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      for group in groups(fields[2]) {
        if fields[1].isEmpty {
          quotas += [files.text("/sys/fs/cgroup\(group)/cpu.max").flatMap { quota($0) }].compactMap { $0 }
        } else if fields[1].split(separator: ",").contains("cpu") {
          quotas += ["cpu", "cpu,cpuacct", "cpuacct,cpu"].compactMap { mount in
            let directory = "/sys/fs/cgroup/\(mount)\(group)"
            guard let time = files.text("\(directory)/cpu.cfs_quota_us"), let period = files.text("\(directory)/cpu.cfs_period_us") else {
              return nil
            }
            return quota("\(time) \(period)")
          }
        }
      }
    }
    return quotas.min()
  }

  /// The group's path and those above it, up to the root (""): in a container without a cgroup namespace the path is the host's, and
  /// what is mounted at the root is the container's own group.
  private static func groups(_ path: Substring) -> [String] {
    let names = path.split(separator: "/")
    // A process outside of its namespace's root has ".." in its path.
    guard names.count <= maximumDepth, !names.contains(".."), !names.contains(".") else { return [""] }
    return (0...names.count).map { count in names.prefix(count).map { "/\($0)" }.joined() }
  }

  /// `QUOTA PERIOD` in microseconds, rounded up to CPUs; nil for `max` and -1 (no limit) and for anything else.
  static func quota(_ text: String) -> Int? {
    let fields = text.split(whereSeparator: \.isWhitespace).map { SystemFiles.number($0) }
    guard fields.count == 2, let time = fields[0], let period = fields[1], time > 0, period > 0 else { return nil }
    return (time - 1) / period + 1
  }
}
