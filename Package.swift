// swift-tools-version: 6.2
// Quire: an HTTP inference server for DeepSeek-V2-family models on plain x86-64 CPUs.
// The targets and what each may know are described in README.md, section "How it is built".

import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]

// Numeric loops must run at full speed in debug builds too, or the tests crawl.
let fastC: [CSetting] = [.unsafeFlags(["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])]

let package = Package(
  name: "quire",
  products: [.executable(name: "quire", targets: ["quire"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
  ],
  targets: [
    .target(name: "CNet", linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto"), .linkedLibrary("z")]),
    .target(name: "CKernels", cSettings: fastC),
    .target(name: "CEngine", dependencies: ["CKernels"], cSettings: fastC),
    .target(name: "HTTP", dependencies: ["CNet"], swiftSettings: strict),
    .target(name: "Tokenizer", swiftSettings: strict),
    .target(name: "ModelFile", swiftSettings: strict),
    .target(name: "Scheduler", swiftSettings: strict),
    .target(name: "Engine", dependencies: ["CKernels", "CEngine", "ModelFile", "Scheduler"], swiftSettings: strict),
    .target(
      name: "Serving",
      dependencies: ["HTTP", "Tokenizer", "ModelFile", "Scheduler", "Engine", .product(name: "Logging", package: "swift-log")],
      swiftSettings: strict),
    .target(name: "LoadClient", swiftSettings: strict),
    .executableTarget(
      name: "quire",
      dependencies: ["Serving", "LoadClient", .product(name: "ArgumentParser", package: "swift-argument-parser")],
      swiftSettings: strict),
    .testTarget(name: "CKernelsTests", dependencies: ["CKernels"], swiftSettings: strict),
    .testTarget(name: "HTTPTests", dependencies: ["HTTP", "CNet"], swiftSettings: strict),
    .testTarget(name: "TokenizerTests", dependencies: ["Tokenizer"], swiftSettings: strict),
    .testTarget(name: "ModelFileTests", dependencies: ["ModelFile"], swiftSettings: strict),
    .testTarget(name: "SchedulerTests", dependencies: ["Scheduler"], swiftSettings: strict),
    // Counts malloc calls, so that a test can hold a decode step to none.
    .target(name: "AllocationCounter", path: "Tests/AllocationCounter"),
    .testTarget(
      name: "EngineTests", dependencies: ["Engine", "CKernels", "CEngine", "ModelFile", "Scheduler", "AllocationCounter"],
      swiftSettings: strict),
    // Runs single steps of a model of `mini`'s shape for callgrind, which gives up on Swift's debug information. No target depends on it:
    // these linker flags would be theirs too.
    .executableTarget(
      name: "quire-count", dependencies: ["Engine", "ModelFile", "Scheduler"], path: "Tests/InstructionCount", swiftSettings: strict,
      linkerSettings: [.unsafeFlags(["-Xlinker", "--strip-debug"])]),
    .testTarget(name: "InstructionCountTests", dependencies: ["CKernels"], swiftSettings: strict),
    .testTarget(name: "ServingTests", dependencies: ["Serving"], swiftSettings: strict),
    .testTarget(name: "LoadClientTests", dependencies: ["LoadClient"], swiftSettings: strict),
    .testTarget(name: "EndToEndTests", dependencies: ["quire"], swiftSettings: strict),
  ],
  swiftLanguageModes: [.v6]
)
