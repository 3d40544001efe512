// Progress of long work: a line that is rewritten on a terminal, plain log lines elsewhere.
// Knows nothing of what is being done.

import Glibc

/// Shows how far a job of known size is. Confined to one thread.
final class Progress {
  private let label: String
  private let isTerminal = Terminal.isErrorATerminal
  private var lastShown: UInt64 = 0
  private var lastPercent = -1
  private var isOpen = false

  init(_ label: String) { self.label = label }

  /// Terminal: ten times a second at most. Elsewhere: a line per quarter.
  func update(done: Int, total: Int, unit: Unit) {
    let percent = total > 0 ? Int(100 * Double(done) / Double(total)) : 100
    let now = monotonicNanoseconds()
    if isTerminal {
      guard now - lastShown > 100_000_000 || done >= total else { return }
      lastShown = now
      isOpen = true
      Terminal.note("\r\u{1B}[K\(label) \(percent) %  (\(unit.text(done)) of \(unit.text(total)))", terminator: "")
    } else if percent / 25 > lastPercent / 25 || lastPercent < 0 {
      lastPercent = percent
      Terminal.note("\(label) \(percent) % (\(unit.text(done)) of \(unit.text(total)))")
    }
  }

  func finish() {
    if isOpen { Terminal.note("\r\u{1B}[K", terminator: "") }
    isOpen = false
  }

  enum Unit {
    case bytes
    case steps
    func text(_ value: Int) -> String { self == .bytes ? byteText(value) : "\(value)" }
  }
}

/// `1.5 GB`-like text, decimal units.
func byteText(_ bytes: Int) -> String {
  let units = ["B", "kB", "MB", "GB", "TB", "PB"]
  var value = Double(bytes)
  var unit = 0
  while value >= 1000, unit < units.count - 1 {
    value /= 1000
    unit += 1
  }
  return unit == 0 ? "\(bytes) B" : "\((value * 10).rounded() / 10) \(units[unit])"
}

func monotonicNanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
