// How the process starts and ends (must-hold 7 and 8): drain on SIGTERM, one clear line and exit code 2 for bad input.

import FoundationEssentials
import Glibc
import Testing

@Suite("Start and end")
struct LifecycleTests {
  private let model = "\(Fixtures.tiny)/v2lite-bf16"

  @Test("SIGTERM during 8 streams: they finish, new requests get 503, exit code 0")
  func drain() throws {
    let server = try ServerProcess.serve(["--model", model, "--cache-tokens", "65536", "--compute", "exact"])
    defer { server.kill() }
    let streams = try (0..<8).map { n in
      let client = try Client(port: server.port)
      try client.sendPost(
        "/v1/completions", #"{"prompt": [\#(n), 9, 30], "max_tokens": 5000, "temperature": 0, "ignore_eos": true, "stream": true}"#)
      return client
    }
    while try Metrics(server)["vllm:num_requests_running"] < 8 { usleep(2000) }
    server.signal(SIGTERM)
    while try Client(port: server.port).get("/ready").status == 200 { usleep(1000) }
    let refused = try Client(port: server.port).post("/v1/completions", #"{"prompt": "hello"}"#)
    #expect(refused.status == 503)
    #expect(refused.headers["retry-after"] != nil)
    #expect(try refused.json(APIFailure.self).error.message.isEmpty == false)
    let fresh = try Client(port: server.port)
    #expect(try fresh.get("/ready").status == 503)
    for stream in streams {
      let payloads = events(try stream.readAnswer().body)
      #expect(payloads.last == "[DONE]")
      #expect(payloads.dropLast().last?.contains(#""finish_reason":"length""#) == true)
    }
    #expect(try server.wait() == 0)
  }

  @Test("SIGTERM when idle ends at once with 0")
  func idleTerm() throws {
    let server = try ServerProcess.serve(["--model", model, "--cache-tokens", "1024"])
    defer { server.kill() }
    server.signal(SIGTERM)
    #expect(try server.wait(seconds: 5) == 0)
  }

  private func expectRefusal(_ arguments: [String], mentions: [String], sourceLocation: SourceLocation = #_sourceLocation) throws {
    let (code, output) = try runToEnd(arguments)
    #expect(code == 2, "\(output)", sourceLocation: sourceLocation)
    let lines = output.split(separator: "\n").filter { $0.hasPrefix("quire: error:") }
    #expect(lines.count == 1, "\(output)", sourceLocation: sourceLocation)
    for word in mentions { #expect(lines.joined().contains(word), "\(output)", sourceLocation: sourceLocation) }
    #expect(!output.contains("Fatal error") && !output.contains("Stack dump"), sourceLocation: sourceLocation)
  }

  @Test("a missing file")
  func missingFile() throws {
    try expectRefusal(["serve", "--model", "/nowhere/model.gguf"], mentions: ["/nowhere/model.gguf"])
    try expectRefusal(["inspect", "/nowhere/model.gguf"], mentions: ["/nowhere/model.gguf"])
    try expectRefusal(["generate", "--model", "/nowhere", "hello"], mentions: ["/nowhere"])
    try expectRefusal(["serve", "--config", "/nowhere.json5"], mentions: ["/nowhere.json5"])
  }

  @Test("a truncated model", arguments: [40, 3000, 100_000])
  func truncated(keep: Int) throws {
    let path = "/tmp/quire-truncated-\(getpid())-\(keep).gguf"
    let bytes = try Fixtures.bytes("\(Fixtures.tiny)/gguf/mixed-v2lite.gguf").prefix(keep)
    let file = fopen(path, "w")
    _ = bytes.withUnsafeBytes { fwrite($0.baseAddress, 1, $0.count, file) }
    fclose(file)
    defer { unlink(path) }
    try expectRefusal(["serve", "--model", path, "--port", "0"], mentions: [path])
  }

  @Test("a tensor of the wrong shape")
  func wrongShape() throws {
    let directory = "/tmp/quire-shape-\(getpid())"
    mkdir(directory, 0o700)
    let source = "\(Fixtures.tiny)/v2lite-bf16"
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] { symlink("\(source)/\(name)", "\(directory)/\(name)") }
    let config = String(decoding: try Fixtures.bytes("\(source)/config.json"), as: UTF8.self)
    let file = fopen("\(directory)/config.json", "w")
    fputs(config.replacing("\"intermediate_size\": 96", with: "\"intermediate_size\": 97"), file)
    fclose(file)
    defer {
      for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"] { unlink("\(directory)/\(name)") }
    }
    try expectRefusal(["serve", "--model", directory], mentions: ["mlp.gate_proj", "97"])
  }

  @Test("a port in use")
  func portInUse() throws {
    let server = try ServerProcess.serve(["--model", model, "--cache-tokens", "1024"])
    defer { server.kill() }
    try expectRefusal(
      ["serve", "--model", model, "--cache-tokens", "1024", "--host", "127.0.0.1", "--port", "\(server.port)"],
      mentions: ["\(server.port)", "in use"])
  }

  @Test("an unknown configuration key, a value out of range, an unknown flag")
  func badConfiguration() throws {
    let path = "/tmp/quire-config-\(getpid()).json5"
    defer { unlink(path) }
    let file = fopen(path, "w")
    fputs("{ port: 0, prot: 1 }", file)
    fclose(file)
    try expectRefusal(["serve", "--config", path, "--model", model], mentions: [path, "prot"])
    try expectRefusal(["serve", "--port", "70000", "--model", model], mentions: ["70000"])
    try expectRefusal(["serve", "--threads", "-3", "--model", model], mentions: ["threads"])
    try expectRefusal(["serve", "--no-such-flag"], mentions: ["--no-such-flag"])
    try expectRefusal(["serve", "--cache-type", "fp4", "--model", model], mentions: ["fp4"])
    try expectRefusal(["bench", "--model", model, "--batch", "0"], mentions: ["batch"])
  }
}
