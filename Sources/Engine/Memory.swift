// Memory owned by the engine: anonymous mappings that ask for huge pages, and the arena that deals out parts of one.
// Also what the system says is free. Knows nothing of what is stored.

import CKernels
import Glibc

/// An anonymous private mapping, zero-filled, given back at the end of its life.
struct MappedMemory: ~Copyable {
  let base: UnsafeMutableRawPointer
  let byteCount: Int
  /// The errno of a refused interleave; 0: it was not refused, or not asked for.
  let interleaveErrno: Int32

  static let pageBytes = 1 << 12

  /// `nodes`: two or more take the pages in turn; otherwise the kernel's own policy holds (the node of the thread that touches a page first).
  init(byteCount: Int, interleavedOver nodes: [Int32] = []) throws(EngineError) {
    let page = Self.pageBytes
    let (padded, overflow) = byteCount.addingReportingOverflow(page - 1)
    guard byteCount >= 0, !overflow else { throw .mapFailed(bytes: byteCount, errno: EINVAL) }
    let length = max(padded / page * page, page)
    let mapped = mmap(nil, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let mapped, mapped != MAP_FAILED else { throw .mapFailed(bytes: byteCount, errno: errno) }
    // Before anything touches it, and a wish only: on one node's memory everything works, slower.
    interleaveErrno = nodes.count > 1 ? qk_interleave(mapped, length, nodes, nodes.count) : 0
    // Advice only: without huge pages everything works, with more TLB misses.
    if length >= 1 << 21 { madvise(mapped, length, MADV_HUGEPAGE) }
    base = mapped
    self.byteCount = length
  }

  /// Has the pages there before they are needed, so that the first request does not pay for them. Advice only: kernels before 5.14 cannot.
  func populate() { _ = Self.populate(from: UInt(bitPattern: base), to: UInt(bitPattern: base) + UInt(byteCount)) }

  /// The same for the pages with these bytes, of any mapping; false if the kernel did not.
  static func populate(from begin: UInt, to end: UInt) -> Bool {
    let first = begin / UInt(pageBytes) * UInt(pageBytes)
    return madvise(UnsafeMutableRawPointer(bitPattern: first), Int(end - first), adviceToPopulate) == 0
  }

  deinit { munmap(base, byteCount) }
}

private let adviceToPopulate: Int32 = 23  // MADV_POPULATE_WRITE, which Swift's Glibc module lacks

/// Deals out 64-byte aligned parts. Without memory behind it, it only measures: the pointers are then not to be followed.
struct Arena {
  private let base: UnsafeMutableRawPointer
  private let limit: Int
  private(set) var byteCount = 0
  private(set) var overflowed = false

  static let alignment = 64

  /// For measuring; nothing dealt out may be used.
  static func measuring() -> Arena {
    // An address that is aligned and not null; only offsets from it are formed.
    Arena(base: UnsafeMutableRawPointer(bitPattern: UInt(1 << 12)).unsafelyUnwrapped, limit: .max)
  }

  init(_ memory: borrowing MappedMemory) { self.init(base: memory.base, limit: memory.byteCount) }

  private init(base: UnsafeMutableRawPointer, limit: Int) {
    self.base = base
    self.limit = limit
  }

  mutating func bytes(_ count: Int) -> UnsafeMutableRawPointer {
    let begin = byteCount
    let (end, overflow) = begin.addingReportingOverflow(count)
    guard count >= 0, !overflow, end <= Int.max - Self.alignment else {
      overflowed = true
      return base
    }
    byteCount = (end + Self.alignment - 1) / Self.alignment * Self.alignment
    precondition(byteCount <= limit, "the arena was measured too small")
    return base + begin
  }

  /// Room for the product of `factors` elements.
  mutating func room<T>(_ type: T.Type, _ factors: Int...) -> UnsafeMutablePointer<T> {
    var count = MemoryLayout<T>.stride
    for factor in factors {
      let (product, overflow) = count.multipliedReportingOverflow(by: factor)
      guard factor >= 0, !overflow else {
        overflowed = true
        return base.assumingMemoryBound(to: type)
      }
      count = product
    }
    return bytes(count).bindMemory(to: type, capacity: max(count / MemoryLayout<T>.stride, 1))
  }
}

/// What the machine and the container leave us.
package enum SystemMemory {
  /// MemAvailable of /proc/meminfo, or less if the cgroup's limit (v2 or v1) leaves less. nil if the system does not say.
  package static func availableBytes() -> Int? {
    var result = meminfoAvailable(readFile("/proc/meminfo") ?? "")
    let groups = [
      ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
      ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ]
    for (limitPath, usagePath) in groups {
      guard let limit = readFile(limitPath).flatMap(leadingNumber), let usage = readFile(usagePath).flatMap(leadingNumber) else { continue }
      // Usage counts page cache that would be given up for us; being careful here is right.
      let left = max(limit - usage, 0)
      result = min(result ?? left, left)
    }
    return result
  }

  /// The value of the MemAvailable line in bytes.
  static func meminfoAvailable(_ text: String) -> Int? {
    for line in text.split(separator: "\n") where line.hasPrefix("MemAvailable:") {
      let digits = line.drop { !$0.isNumber }.prefix { $0.isNumber }
      guard let kibibytes = Int(digits) else { return nil }
      let (bytes, overflow) = kibibytes.multipliedReportingOverflow(by: 1024)
      return overflow ? nil : bytes
    }
    return nil
  }

  /// nil for "max" and anything else that is not a number.
  static func leadingNumber(_ text: String) -> Int? { Int(text.prefix { $0.isNumber }) }

  private static func readFile(_ path: String) -> String? {
    guard let file = fopen(path, "r") else { return nil }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 8192)
    let count = fread(&bytes, 1, bytes.count, file)
    return String(decoding: bytes.prefix(count), as: UTF8.self)
  }
}
