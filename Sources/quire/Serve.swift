// `quire serve`: settings, signals, service, model, and a graceful end. The order matters: signals are blocked before any thread
// starts, and the port is bound before minutes are spent on loading a model.

import ArgumentParser
import Dispatch
import Engine
import Glibc
import HTTP
import Logging
import ModelFile
import Serving

struct Serve: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Serve a model over HTTP: /v1/completions, /v1/models, /health, /ready, /metrics.")

  @Option(help: ArgumentHelp("Settings (JSON5); config/server.json5 lists every key.", valueName: "file"))
  var config: String?

  @OptionGroup var model: ModelOptions

  @Option(help: ArgumentHelp("Address to listen on.", valueName: "addr"))
  var host: String?

  @Option(help: ArgumentHelp("Port to listen on; 0: any free one.", valueName: "n"))
  var port: String?

  @Option(help: ArgumentHelp("Accepted API keys, one per line.", valueName: "file"))
  var apiKeyFile: String?

  @Option(help: ArgumentHelp("PEM certificate chain; with --tls-key it turns https on.", valueName: "file"))
  var tlsCertificate: String?

  @Option(help: ArgumentHelp("PEM private key.", valueName: "file"))
  var tlsKey: String?

  func run() throws {
    let settings = try settings()
    let ending = Ending()
    let watcher: SignalWatcher
    do throws(ServerError) { watcher = try SignalWatcher(signals: [SIGTERM, SIGINT]) { _ in ending.signalled() } } catch {
      throw InputFailure("\(error)")
    }
    defer { watcher.cancel() }
    let logger = logger(settings)
    let service: Service
    do throws(SettingsError) {
      service = try Service(settings: settings, version: BuildInformation.version, logger: logger)
    } catch { throw InputFailure("\(error)") }
    do throws(ServerError) { try service.start() } catch { throw InputFailure("\(error)") }
    defer { service.stop() }
    let address = ServerAddress(settings: settings, port: service.port)
    Terminal.print("quire: listening on \(address.url)")

    do throws(ModelLoadError) { service.install(try load(settings)) } catch { throw InputFailure("\(error)") }
    Terminal.print("quire: ready. Try:\n\n  \(address.tryLine)\n")
    ending.drain(service)
    ending.wait()
    logger.info("drained, ending")
  }

  private func settings() throws -> ServerSettings {
    var settings = ServerSettings()
    do throws(SettingsError) { if let config { settings = try ServerSettings(file: config) } } catch { throw InputFailure("\(error)") }
    try model.apply(to: &settings)
    try settings.take("host", host, flag: "--host")
    try settings.take("port", port, flag: "--port")
    try settings.take("apiKeyFile", apiKeyFile, flag: "--api-key-file")
    try settings.take("tlsCertificate", tlsCertificate, flag: "--tls-certificate")
    try settings.take("tlsKey", tlsKey, flag: "--tls-key")
    return try settings.checked()
  }

  private func logger(_ settings: ServerSettings) -> Logger {
    LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
    var logger = Logger(label: "quire")
    logger.logLevel = Logger.Level(rawValue: settings.logLevel) ?? .info
    return logger
  }

  private func load(_ settings: ServerSettings) throws(ModelLoadError) -> LoadedModel {
    let progress = Progress("quire: loading weights")
    defer { progress.finish() }
    return try ModelLoader(settings).load(describe: printPlan) { done, total in
      progress.update(done: done, total: total, unit: .bytes)
    }
  }
}

/// The machine, the memory plan and what was guessed about the model, before the weights are read.
func printPlan(_ file: ModelFile, _ plan: MemoryPlan, _ placement: Placement) {
  Terminal.note("quire: model \(file.name) (\(file.path))")
  Terminal.note("quire:   \(placement.summary)")
  for line in plan.lines { Terminal.note("quire:   \(line)") }
  for line in file.hyperparameters.assumptions { Terminal.note("quire:   assumed: \(line)") }
  for line in file.warnings { Terminal.note("quire:   warning: \(line)") }
}

/// How the process ends: the first signal drains, the second ends at once, one that comes while the model loads ends at once too.
private final class Ending: Sendable {
  private struct State: Sendable {
    var service: Service?
    var isDraining = false
  }

  private let state = Locked(State())
  private let finished = DispatchSemaphore(value: 0)

  func signalled() {
    let service: Service? = state.withLock { state in
      // Nothing runs yet, or the operator insists.
      guard let service = state.service, !state.isDraining else { return nil }
      state.isDraining = true
      return service
    }
    guard let service else { _exit(state.withLock { $0.isDraining } ? 130 : 0) }
    Terminal.note("quire: draining; a second signal ends at once")
    service.drain { @Sendable [finished] in finished.signal() }
  }

  /// From now on a signal drains this service.
  func drain(_ service: Service) { state.withLock { $0.service = service } }

  func wait() { finished.wait() }
}

/// How a client on this machine reaches the server.
private struct ServerAddress {
  let url: String
  let tryLine: String

  init(settings: ServerSettings, port: Int) {
    let host =
      switch settings.host {
      case "0.0.0.0", "": "127.0.0.1"
      case "::": "[::1]"
      case let host where host.contains(":"): "[\(host)]"
      default: settings.host
      }
    url = "\(settings.tlsKey == nil ? "http" : "https")://\(host):\(port)"
    let key = settings.apiKeyFile == nil ? "" : #"-H "Authorization: Bearer $KEY" "#
    tryLine =
      "curl -N \(settings.tlsKey == nil ? "" : "-k ")\(url)/v1/completions \(key)-H 'Content-Type: application/json' "
      + #"-d '{"prompt": "It is a truth universally acknowledged", "max_tokens": 120, "temperature": 0.8, "stream": true}'"#
  }
}
