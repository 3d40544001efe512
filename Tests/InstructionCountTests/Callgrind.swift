// Runs `quire-count` under callgrind and reads how many instructions each counted step took. Knows no limits.

import FoundationEssentials
import Glibc

struct InstructionCounts: Codable, Equatable {
  var prefill128: Int
  var decode: Int
}

struct CallgrindFailure: Error, CustomStringConvertible {
  let description: String
}

enum Callgrind {
  /// Only what happens inside the named function counts, and every return from it ends a file.
  static let options = [
    "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=quire_counted_forward", "--dump-after=quire_counted_forward",
  ]

  static let valgrind: String? = (getenv("PATH").map { String(cString: $0) } ?? "/usr/bin").split(separator: ":")
    .map { $0 + "/valgrind" }.first { access($0, X_OK) == 0 }

  /// The test executable's neighbour, which every build of the tests makes.
  private static var program: String {
    var buffer = [CChar](repeating: 0, count: 4096)
    let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
    let test = String(decoding: buffer.prefix(max(count, 0)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return test.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/") + "/quire-count"
  }

  /// Writes the model (0.5 GB, deleted afterwards), then counts. About 80 s of one core, 0.7 GB of memory.
  static func count(with valgrind: String) async throws -> InstructionCounts {
    let folder = FileManager.default.temporaryDirectory.appending(path: "quire-count-\(UUID().uuidString)").path(percentEncoded: false)
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let model = folder + "/mini.gguf"
    try await run([program, "write", model], outputPath: folder + "/write.log")
    // Behind the tests that run beside it, some of which look at clocks.
    try await run(
      ["nice", valgrind] + options + ["--callgrind-out-file=\(folder)/counts", program, "run", model], outputPath: folder + "/run.log")
    return InstructionCounts(prefill128: try total(folder + "/counts.1"), decode: try total(folder + "/counts.2"))
  }

  /// The line `totals: N` of one of callgrind's files.
  private static func total(_ path: String) throws -> Int {
    let lines = try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n")
    guard let line = lines.last(where: { $0.hasPrefix("totals: ") }), let total = Int(line.dropFirst("totals: ".count)), total > 0 else {
      throw CallgrindFailure(description: "\(path) holds no count")
    }
    return total
  }

  /// Runs a command to its end without holding a thread of the test runner.
  private static func run(_ command: [String], outputPath: String) async throws {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, outputPath, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0o600)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    let arguments = command.map { strdup($0) } + [nil]
    defer { arguments.forEach { free($0) } }
    var child: pid_t = 0
    let result = posix_spawnp(&child, command[0], &actions, nil, arguments, environ)
    guard result == 0 else { throw CallgrindFailure(description: "cannot start \(command[0]): errno \(result)") }
    var status: Int32 = 0
    do {
      while waitpid(child, &status, WNOHANG) == 0 { try await Task.sleep(for: .milliseconds(100)) }
    } catch {
      kill(child, SIGKILL)
      waitpid(child, &status, 0)
      throw error
    }
    guard status == 0 else {
      let output = (try? String(contentsOfFile: outputPath, encoding: .utf8)) ?? ""
      throw CallgrindFailure(description: "\(command.joined(separator: " ")): wait status \(status)\n\(output)")
    }
  }
}
