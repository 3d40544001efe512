// How many processors this process may use: its affinity mask, and in a container the CPU quota of its cgroup. Knows no engine.

import Glibc

package enum ProcessorCount {
  /// At least 1.
  package static func usable() -> Int {
    max(1, min(affine() ?? Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))), quota(readText("/sys/fs/cgroup/cpu.max")) ?? .max))
  }

  private static func affine() -> Int? { allowed(readText("/proc/self/status")) }

  /// The bits of the `Cpus_allowed:` line. (Swift's Glibc module lacks sched_getaffinity.)
  static func allowed(_ status: String) -> Int? {
    guard let line = status.split(separator: "\n").first(where: { $0.hasPrefix("Cpus_allowed:") }) else { return nil }
    let count = line.dropFirst("Cpus_allowed:".count).reduce(0) { $0 + ($1.hexDigitValue?.nonzeroBitCount ?? 0) }
    return count > 0 ? count : nil
  }

  /// cgroup v2's `QUOTA PERIOD` in microseconds, rounded up; nil for `max` (no limit) or anything else.
  static func quota(_ text: String) -> Int? {
    let fields = text.split(whereSeparator: \.isWhitespace)
    guard fields.count == 2, let quota = Int(fields[0]), let period = Int(fields[1]), quota > 0, period > 0 else { return nil }
    return max(1, (quota - 1) / period + 1)
  }

  private static func readText(_ path: String) -> String {
    guard let file = fopen(path, "r") else { return "" }
    defer { fclose(file) }
    var buffer = [UInt8](repeating: 0, count: 8192)
    let count = fread(&buffer, 1, buffer.count, file)
    return String(decoding: buffer.prefix(count), as: UTF8.self)
  }
}
