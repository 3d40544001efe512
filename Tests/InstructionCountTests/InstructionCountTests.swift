// Holds one prefill of 128 tokens and one decode step of `mini` (Q8_0, one thread, AVX2) to the instruction counts on record: unlike
// times, they are the same on a busy machine. `QUIRE_RECORD_COUNTS=1 deploy/test --filter InstructionCountTests` renews the record.

import CKernels
import Glibc
import Testing

@Suite("Instruction counts") struct InstructionCountTests {
  @Test(
    "a step of mini takes at most 10 % more instructions than recorded",
    .enabled(if: Callgrind.valgrind != nil, "valgrind is not installed (deploy/test installs it): NO INSTRUCTIONS WERE COUNTED"),
    .enabled(if: qk_kernels_avx2() != nil, "the counts are those of the AVX2 kernels, which this CPU lacks"),
    .timeLimit(.minutes(20)))
  func mini() async throws {
    let counted = try await Callgrind.count(with: try #require(Callgrind.valgrind))
    if getenv("QUIRE_RECORD_COUNTS") != nil {
      try CountRecord(counted).write()
      print("instructions: prefill of 128 \(counted.prefill128), decode \(counted.decode), recorded in \(CountRecord.path)")
      return
    }
    let recorded = try CountRecord.read().instructions
    for (name, change) in [
      ("prefill of 128", CountChange(counted: counted.prefill128, recorded: recorded.prefill128)),
      ("decode", CountChange(counted: counted.decode, recorded: recorded.decode)),
    ] {
      print("\(name): \(change.text)")
      if change.verdict == .shrunk { print("note: \(name) got cheaper, renew the record: QUIRE_RECORD_COUNTS=1") }
      #expect(change.verdict != .grown, "\(name): \(change.text)")
    }
  }

  @Test("ten per cent more is kept, anything beyond has grown") func limits() {
    #expect(CountChange(counted: 1100, recorded: 1000).verdict == .kept)
    #expect(CountChange(counted: 1101, recorded: 1000).verdict == .grown)
    #expect(CountChange(counted: 900, recorded: 1000).verdict == .kept)
    #expect(CountChange(counted: 899, recorded: 1000).verdict == .shrunk)
    #expect(CountChange(counted: 1017, recorded: 1000).text == "1017 instructions, 1000 on record (+1.70 %)")
    #expect(CountChange(counted: 998, recorded: 1000).text == "998 instructions, 1000 on record (-0.20 %)")
  }
}
