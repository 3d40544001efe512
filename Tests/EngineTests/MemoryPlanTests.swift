// The memory arithmetic of SPEC 5.2 and what is done when memory is short.

import ModelFile
import Testing

@testable import Engine

@Suite struct MemoryPlanTests {
  static func shape(layers: Int, heads: Int, n: Int = 128, v: Int = 128, context: Int = 163_840) -> Hyperparameters {
    var shape = Hyperparameters()
    shape.layerCount = layers
    shape.headCount = heads
    shape.nopeDim = n
    shape.ropeDim = 64
    shape.valueDim = v
    shape.latentRank = 512
    shape.maxContext = context
    return shape
  }

  static func plan(_ shape: Hyperparameters, _ cache: CacheType, tokens: Int? = 4096, available: Int? = 1 << 40) throws -> MemoryPlan {
    var options = EngineOptions(threads: 1, cacheType: cache, cacheTokens: tokens, maxSequences: 4, memoryReserveBytes: 1 << 30)
    options.blockTokens = 16
    return try MemoryPlan.make(
      shape: shape, options: options, weightBytes: 1 << 30, mappedBytes: 0, scratchBytes: 1 << 20, availableBytes: available)
  }

  @Test(arguments: [
    (27, 16, 128, 128, 31_104, 276_480), (60, 128, 128, 128, 69_120, 4_915_200), (61, 128, 128, 128, 70_272, 4_997_120),
    (61, 64, 128, 128, 70_272, 2_498_560), (47, 20, 192, 256, 54_144, 962_560),
  ])
  func bytesPerToken(layers: Int, heads: Int, n: Int, v: Int, latent: Int, expanded: Int) throws {
    let shape = Self.shape(layers: layers, heads: heads, n: n, v: v)
    let plan = try Self.plan(shape, .bf16)
    #expect(plan.cacheBytesPerToken == latent)
    #expect(plan.multiHeadBytesPerToken == expanded)
    #expect(plan.cacheBytes == 4096 * latent)
    #expect(try Self.plan(shape, .f32).cacheBytesPerToken == 2 * latent)
    // A float32 scale and an offset per 128 latents, the rope key's scale, 64 int16 rope values, 512 int8 latents.
    #expect(try Self.plan(shape, .int8).cacheBytesPerToken == layers * (16 + 16 + 4 + 128 + 512))
    // A bf16 scale per 32 latents, the rope key's scale, 64 int16 rope values, 512 latents of 6 bits.
    #expect(try Self.plan(shape, .int6).cacheBytesPerToken == layers * (32 + 4 + 128 + 384))
  }

  @Test func linesSayWhatIsCompared() throws {
    let lines = try Self.plan(Self.shape(layers: 27, heads: 16), .bf16).lines.joined(separator: "\n")
    #expect(lines.contains("4096 tokens in 256 blocks of 16, 31104 bytes per token, 121.5 MiB"))
    #expect(lines.contains("276480 bytes per token in 16 bits: the same memory would hold 460 tokens"))
    #expect(lines.contains("latents in 16 bits are 11.25 % of that, this cache 11.25 %"))
    let int8 = try Self.plan(Self.shape(layers: 27, heads: 16), .int8).lines.joined(separator: "\n")
    #expect(int8.contains("latents in 16 bits are 11.25 % of that, this cache 6.60 %"))
    let int6 = try Self.plan(Self.shape(layers: 27, heads: 16), .int6).lines.joined(separator: "\n")
    #expect(int6.contains("latent cache (int6)") && int6.contains("latents in 16 bits are 11.25 % of that, this cache 5.35 %"))
  }

  @Test func sizeFollowsFromFreeMemory() throws {
    let shape = Self.shape(layers: 27, heads: 16)
    let gigabyte = 1 << 30
    // 5 GiB less 1 of weights, 1 of reserve, 1 MiB of scratch.
    let plan = try Self.plan(shape, .bf16, tokens: nil, available: 5 * gigabyte)
    #expect(plan.blockCount == (3 * gigabyte - (1 << 20)) / (31_104 * 16))
    // Never more than all sequences can use.
    let small = try Self.plan(Self.shape(layers: 27, heads: 16, context: 1000), .bf16, tokens: nil, available: 100 * gigabyte)
    #expect(small.cacheTokens == 1008 * 4)
    #expect(throws: EngineError.self) { try Self.plan(shape, .bf16, tokens: nil, available: 2 * gigabyte) }
    #expect(throws: EngineError.self) { try Self.plan(shape, .bf16, tokens: 1 << 40) }
    #expect(throws: EngineError.self) { try Self.plan(shape, .bf16, tokens: nil, available: nil) }
    #expect(try Self.plan(shape, .bf16, tokens: 5, available: nil).blockCount == 1)
  }

  @Test func systemTexts() {
    #expect(SystemMemory.meminfoAvailable("MemTotal: 9 kB\nMemAvailable:   123 kB\n") == 123 * 1024)
    #expect(SystemMemory.meminfoAvailable("MemAvailable: 99999999999999999999 kB") == nil)
    #expect(SystemMemory.meminfoAvailable("MemAvailable: 9223372036854775807 kB") == nil)
    #expect(SystemMemory.meminfoAvailable("") == nil)
    #expect(SystemMemory.leadingNumber("max\n") == nil)
    #expect(SystemMemory.leadingNumber("4096\n") == 4096)
    #expect((SystemMemory.availableBytes() ?? 0) > 0)
  }

  @Test func optionsAreChecked() {
    #expect(throws: EngineError.badOption(name: "threads", value: 0, allowed: "1...256")) { try EngineOptions(threads: 0).check() }
    #expect(throws: EngineError.self) { try EngineOptions(threads: 1, blockTokens: 0).check() }
    #expect(throws: EngineError.self) { try EngineOptions(threads: 1, blockTokens: 1025).check() }
    #expect(throws: EngineError.self) { try EngineOptions(threads: 1, maxBatchTokens: .max).check() }
    #expect(throws: EngineError.self) { try EngineOptions(threads: 1, cacheTokens: -1).check() }
    #expect(throws: EngineError.self) { try EngineOptions(threads: 1, memoryReserveBytes: .max).check() }
    #expect(throws: EngineError.unknownKernels(name: "mmx")) { _ = try WorkerPool(threads: 1, kernels: "mmx") }
  }

  /// The plan of a real file: what it says is what loading takes.
  @Test func planOfAFile() throws {
    guard let tiny = TinyModels.directories.first else { return TinyModels.noteIfMissing() }
    let model = try ModelFile(path: tiny.path)
    let exact = try MemoryPlan.make(model: model, options: GoldenTests.options(.exact))
    let fast = try MemoryPlan.make(model: model, options: GoldenTests.options(.fast))
    #expect(exact.mappedBytes > exact.weightBytes && fast.mappedBytes == 0)
    #expect(fast.weightBytes > exact.mappedBytes)
    var reports: [(Int, Int)] = []
    let transformer = try Transformer(model: model, options: GoldenTests.options(.fast), plan: fast) { reports.append(($0, $1)) }
    #expect(reports.first?.0 == 0 && reports.last.map { $0.0 == $0.1 } == true)
    #expect(zip(reports, reports.dropFirst()).allSatisfy { $0.0 <= $1.0 })
    #expect(transformer.plan == fast)
  }
}
