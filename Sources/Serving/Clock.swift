// The clocks of the server: monotonic for every duration, wall time only for `created` fields. Knows no policy.

import Glibc

package enum Clock {
  /// Nanoseconds of CLOCK_MONOTONIC.
  package static func nanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: time.tv_nsec)
  }

  /// Seconds since 1970, for `created`.
  package static func unixSeconds() -> Int { time(nil) }

  /// `end - start` in seconds; 0 if the order is wrong.
  package static func seconds(from start: UInt64, to end: UInt64) -> Double {
    end > start ? Double(end - start) * 1e-9 : 0
  }
}
