// What this build calls itself. Knows nothing else.

enum BuildInformation {
  static let version = "0.1.0"
}
