// What `quire bench --json` prints, and how tables are set. Knows no measuring.

import Engine
import FoundationEssentials
import Serving

/// `results` without, `http` with `--http`.
struct BenchReport: Encodable {
  let machine: BenchMachine
  let model: BenchModel
  var results: [BenchResult]?
  var http: [HTTPBenchResult]?

  func print() throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    Terminal.print(String(decoding: try encoder.encode(self), as: UTF8.self))
  }
}

/// Where the command ran; of a server elsewhere (`--url`) threads and kernels are not known.
struct BenchMachine: Encodable {
  let cpu: String
  var threads: Int?
  var kernels: String?
  var limits: MachineLimits?

  init() { cpu = Self.cpuName() }

  init(_ loaded: LoadedModel, limits: MachineLimits?) {
    self.init()
    threads = loaded.transformer.options.threads
    kernels = loaded.transformer.kernelName
    self.limits = limits
  }

  private static func cpuName() -> String {
    guard let data = FileManager.default.contents(atPath: "/proc/cpuinfo") else { return "unknown" }
    let line = String(decoding: data, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix("model name") }
    return line?.split(separator: ":").last.map { $0.drop { $0 == " " }.description } ?? "unknown"
  }
}

struct BenchModel: Encodable {
  let name: String
  var compute: String?
  var cacheType: String?
  /// Only of a server elsewhere.
  var url: String?

  init(name: String, url: String) {
    self.name = name
    self.url = url
  }

  init(_ loaded: LoadedModel) {
    name = loaded.served.name
    compute = loaded.transformer.options.compute.rawValue
    cacheType = loaded.transformer.options.cacheType.rawValue
  }
}

func left(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
func right(_ text: String, _ width: Int) -> String { String(repeating: " ", count: max(0, width - text.count)) + text }
