// The executable's entry: parse the command line, run the command, turn every error into one line and an exit code.
// Knows no command's insides.

import ArgumentParser
import Glibc

@main
struct Main {
  static func main() { exit(CommandLineRun.execute(Array(CommandLine.arguments.dropFirst()))) }
}

/// Exit codes: 0 done, 1 failed while running, 2 bad input (arguments, configuration, model, port).
enum CommandLineRun {
  static func execute(_ arguments: [String]) -> Int32 {
    do {
      var command = try Quire.parseAsRoot(arguments)
      try command.run()
      return 0
    } catch let failure as InputFailure {
      printError(failure.message)
      return 2
    } catch {
      if Quire.exitCode(for: error) == .success {
        Terminal.print(Quire.fullMessage(for: error))
        return 0
      }
      if let code = error as? ExitCode { return code.rawValue }
      printError(Quire.message(for: error))
      return 2
    }
  }
}

struct Quire: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "quire",
    abstract: "Serve DeepSeek-V2-family models (MLA + DeepSeekMoE) over HTTP on a plain CPU.",
    version: BuildInformation.version,
    subcommands: [Serve.self, Generate.self, Inspect.self, Bench.self])
}

/// What the user gave is wrong: one line, exit code 2.
struct InputFailure: Error {
  let message: String
  init(_ message: String) { self.message = message }
}

/// One line on standard error, whatever the message holds.
func printError(_ message: String) {
  let line = message.split(whereSeparator: \.isNewline).joined(separator: " ")
  Terminal.note("quire: error: \(line)")
}
