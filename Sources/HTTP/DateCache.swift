// The Date header's value (IMF-fixdate, RFC 9110 section 5.6.7), rendered at most once a second and only when asked.

package struct DateCache: Sendable {
  private var second = Int64.min
  private var text: [UInt8] = []

  package init() {}

  /// `wallSeconds`: seconds since 1970 UTC.
  package mutating func bytes(wallSeconds: Int64) -> [UInt8] {
    if wallSeconds != second {
      second = wallSeconds
      text = Self.render(wallSeconds)
    }
    return text
  }

  private static let dayNames = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]  // 1970-01-01 was a Thursday
  private static let monthNames = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

  package static func render(_ wallSeconds: Int64) -> [UInt8] {
    let seconds = Int(clamping: max(0, min(wallSeconds, 253_402_300_799)))  // up to the year 9999
    let days = seconds / 86_400
    let (year, month, day) = civil(daysSince1970: days)
    let clock = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60].map(twoDigits).joined(separator: ":")
    return Array("\(dayNames[days % 7]), \(twoDigits(day)) \(monthNames[month - 1]) \(year) \(clock) GMT".utf8)
  }

  /// The Gregorian date, by eras of 400 years that start in March (so that the leap day is the last of a year).
  private static func civil(daysSince1970: Int) -> (year: Int, month: Int, day: Int) {
    let shifted = daysSince1970 + 719_468  // days since 0000-03-01
    let era = shifted / 146_097
    let dayOfEra = shifted % 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let marchMonth = (5 * dayOfYear + 2) / 153
    let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
    return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * marchMonth + 2) / 5 + 1)
  }

  private static func twoDigits(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
}
