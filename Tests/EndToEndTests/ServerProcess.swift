// Starts the real `quire` executable as a child process, waits until it listens, and ends it.
// Knows nothing of requests; see Client.swift.

import FoundationEssentials
import Glibc
import Testing

/// One running `quire serve`, or any other `quire` command run to its end.
final class ServerProcess {
  let processID: pid_t
  private(set) var port = 0
  private let outputPath: String
  private var exitStatus: Int32?

  /// The executable beside the test binary, or the one that QUIRE_BINARY names.
  static var binary: String {
    if let path = getenv("QUIRE_BINARY") { return String(cString: path) }
    var buffer = [CChar](repeating: 0, count: 4096)
    let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
    let test = String(decoding: buffer.prefix(max(count, 0)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return test.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/") + "/quire"
  }

  init(_ arguments: [String], environment: [String] = []) throws {
    outputPath = "/tmp/quire-test-\(getpid())-\(UInt64.random(in: 0 ... .max)).log"
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, outputPath, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0o600)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    let strings = ([Self.binary] + arguments).map { strdup($0) } + [nil]
    let variables = (environment.map { strdup($0) }) + Self.inheritedEnvironment() + [nil]
    defer { (strings + variables).forEach { free($0) } }
    var child: pid_t = 0
    let result = posix_spawn(&child, Self.binary, &actions, nil, strings, variables)
    guard result == 0 else { throw TestFailure("cannot start \(Self.binary): errno \(result)") }
    processID = child
  }

  private static func inheritedEnvironment() -> [UnsafeMutablePointer<CChar>?] {
    var all: [UnsafeMutablePointer<CChar>?] = []
    var next = environ
    while let entry = next.pointee {
      all.append(strdup(entry))
      next = next.advanced(by: 1)
    }
    return all
  }

  /// `quire serve` on a free port, up and ready.
  static func serve(_ arguments: [String], environment: [String] = []) throws -> ServerProcess {
    let server = try ServerProcess(["serve", "--host", "127.0.0.1", "--port", "0"] + arguments, environment: environment)
    do { try server.waitUntilReady() } catch {
      server.kill()
      throw error
    }
    return server
  }

  var output: String {
    guard let file = fopen(outputPath, "r") else { return "" }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { bytes += buffer.prefix(count) }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// Waits for the line `quire: listening on http://HOST:PORT` and then for `/ready`.
  private func waitUntilReady(seconds: Int = 120) throws {
    for _ in 0..<seconds * 50 {
      if port == 0, let line = output.split(separator: "\n").first(where: { $0.contains("listening on http") }) {
        let digits = line.split(separator: ":").last.map { $0.prefix { $0.isNumber } }
        port = digits.flatMap { Int($0) } ?? 0
      }
      if port > 0, (try? Client(port: port).get("/ready").status) == 200 { return }
      if hasExited { throw TestFailure("the server ended early: \(output)") }
      usleep(20_000)
    }
    throw TestFailure("the server did not become ready: \(output)")
  }

  private var hasExited: Bool {
    if exitStatus != nil { return true }
    var status: Int32 = 0
    guard waitpid(processID, &status, WNOHANG) == processID else { return false }
    exitStatus = status
    return true
  }

  func signal(_ number: Int32) { _ = Glibc.kill(processID, number) }

  /// The exit code, or 128 + the signal that ended it.
  func wait(seconds: Int = 60) throws -> Int32 {
    for _ in 0..<seconds * 100 {
      if hasExited, let status = exitStatus { return status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F) }
      usleep(10_000)
    }
    throw TestFailure("process \(processID) did not end: \(output)")
  }

  func kill() {
    if !hasExited {
      signal(SIGKILL)
      _ = try? wait()
    }
    unlink(outputPath)
  }

  /// Resident bytes, from /proc.
  var residentBytes: Int {
    let fields = readSmallFile("/proc/\(processID)/statm").split(separator: " ")
    return fields.count > 1 ? (Int(fields[1]) ?? 0) * Int(sysconf(Int32(_SC_PAGESIZE))) : 0
  }

  /// User and system time, in seconds.
  var processorSeconds: Double {
    let text = readSmallFile("/proc/\(processID)/stat")
    guard let end = text.lastIndex(of: ")") else { return 0 }
    let fields = text[end...].split(separator: " ")
    guard fields.count > 13, let user = Double(fields[12]), let system = Double(fields[13]) else { return 0 }
    return (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
  }

  /// How often its threads have gone to sleep.
  var timesSlept: Int {
    let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(processID)/task")) ?? []
    return tasks.reduce(0) { sum, task in
      let lines = readSmallFile("/proc/\(processID)/task/\(task)/status").split(separator: "\n")
      let line = lines.first { $0.hasPrefix("voluntary_ctxt_switches:") }
      return sum + (line?.split(separator: "\t").last.flatMap { Int($0) } ?? 0)
    }
  }
}

struct TestFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

func readSmallFile(_ path: String) -> String {
  guard let file = fopen(path, "r") else { return "" }
  defer { fclose(file) }
  var buffer = [UInt8](repeating: 0, count: 16384)
  let count = fread(&buffer, 1, buffer.count, file)
  return String(decoding: buffer.prefix(count), as: UTF8.self)
}

/// Runs a `quire` command to its end: exit code and everything it printed.
func runToEnd(_ arguments: [String], seconds: Int = 120) throws -> (code: Int32, output: String) {
  let process = try ServerProcess(arguments)
  defer { process.kill() }
  let code = try process.wait(seconds: seconds)
  return (code, process.output)
}

/// The JSON object that `quire bench --json` printed. Progress goes to standard error, which the harness keeps in the same file: the report
/// is the braces from the first to the last.
func printedReport<Report: Decodable>(_ type: Report.Type, in output: String) throws -> Report {
  guard let start = output.firstIndex(of: "{"), let end = output.lastIndex(of: "}") else { throw TestFailure("no JSON in \(output)") }
  return try JSONDecoder().decode(type, from: Data(output[start...end].utf8))
}

/// The repository's fixtures, and the larger reference checkpoints when the workplace has them beside the repository.
enum Fixtures {
  static let directory = "/" + #filePath.split(separator: "/").dropLast(2).joined(separator: "/") + "/Fixtures"
  static let tiny = directory + "/tiny"
  static let reference = getenv("QUIRE_TINY").map { String(cString: $0) } ?? directory + "/../../../shared/reference/tiny"
  static let austen = directory + "/../../config/models/austen/austen-q8_0.gguf"
  static let checkpoints = ["v2lite-bf16", "v2-bf16", "v3-bf16", "v3-fp8", "moonlight", "odd"]

  static func bytes(_ path: String) throws -> Data {
    guard let file = fopen(path, "r") else { throw TestFailure("missing \(path)") }
    defer { fclose(file) }
    var all = Data()
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { all.append(contentsOf: buffer.prefix(count)) }
    return all
  }
}
