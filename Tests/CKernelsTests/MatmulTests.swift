// Matrix products of every type and variant: against a double-precision product of the dequantised weights, and bit for bit
// independent of the number of tokens, of row ranges, and of gathering.

import CKernels
import Glibc
import Testing

/// A random matrix of one type in both layouts, its values, and activations for `tokens` tokens.
private final class Problem {
  let type: qk_type
  let rows: Int, columns: Int, tokens: Int
  let file: Memory, packedMemory: Memory, scratch: Memory
  var scales: [Float]
  let x: [Float]  // [tokens, columns]
  var exact = qk_matrix()
  var packed = qk_matrix()
  var values: [Float]  // [rows, columns]

  /// `weightBits`: what all bytes of a block are but its float16 scales; `activation`: what all of x is. Without: random.
  init(_ type: qk_type, rows: Int, columns: Int, tokens: Int, seed: UInt64, weightBits: UInt8? = nil, activation: Float? = nil) {
    var random = Random(seed)
    (self.type, self.rows, self.columns, self.tokens) = (type, rows, columns, tokens)
    x = activation.map { [Float](repeating: $0, count: tokens * columns) } ?? random.normals(tokens * columns)
    scales = (0..<((rows + 127) / 128 + 1) * ((columns + 127) / 128)).map { _ in 0.5 + random.unit() }
    file = Memory(rows * qk_row_bytes(type, columns))
    packedMemory = Memory(qk_packed_bytes(type, rows, columns))
    scratch = Memory(qk_matmul_scratch_bytes(columns))
    values = [Float](repeating: 0, count: rows * columns)
    fillWithRandomWeights(file, type: type, bits: weightBits, &random)
    if type == QK_INT16 { fillWithIntegerRows(file, rows: rows, columns: columns, &random) }
    let base = scales.withUnsafeMutableBufferPointer { $0.baseAddress }  // the array is never changed again
    exact = qk_file_matrix(type, file.base, rows, columns, type == QK_F8_E4M3 ? UnsafePointer(base) : nil)
    packed = qk_packed_matrix(exact, packedMemory.base)
    qk_pack(exact, packedMemory.base, 0, qk_group_count(rows))
    qk_kernels_scalar().pointee.dequantize_rows(&exact, 0, rows, &values, columns)
  }

  /// y [tokens, rows] for the tokens and rows given; other values stay 7.
  func product(_ k: UnsafePointer<qk_kernels>, fast: Bool, tokens: Range<Int>, rows range: Range<Int>? = nil, index: [Int32]? = nil)
    -> [Float]
  {
    let range = range ?? 0..<rows
    let count = index?.count ?? tokens.count
    var y = [Float](repeating: 7, count: count * rows)
    x.withUnsafeBufferPointer { buffer in
      guard let first = buffer.baseAddress.map({ $0 + tokens.lowerBound * columns }) else { return }
      if fast {
        let kind = qk_activation_for(type)
        let activations = Memory(tokens.count * qk_activation_bytes(kind, columns))
        k.pointee.quantize_activations(kind, first, columns, tokens.count, columns, activations.base, qk_activation_bytes(kind, columns))
        k.pointee.matmul_fast(&packed, range.lowerBound, range.upperBound, activations.base, index, count, &y, rows, scratch.base)
      } else {
        k.pointee.matmul_exact(&exact, range.lowerBound, range.upperBound, first, columns, index, count, &y, rows, scratch.base)
      }
    }
    return y
  }

  /// Largest |y - W x| / (|W row| |x|) over all results, in double precision.
  func relativeError(_ y: [Float]) -> Double {
    var worst = 0.0
    for t in 0..<tokens {
      for i in 0..<rows {
        var sum = 0.0, ww = 0.0, xx = 0.0
        for k in 0..<columns {
          let (w, v) = (Double(values[i * columns + k]), Double(x[t * columns + k]))
          sum += w * v
          ww += w * w
          xx += v * v
        }
        worst = max(worst, abs(Double(y[t * rows + i]) - sum) / max((ww * xx).squareRoot(), 1e-30))
      }
    }
    return worst
  }
}

/// Random bytes, or the one given, with sane float16 scales, or random numbers.
private func fillWithRandomWeights(_ memory: Memory, type: qk_type, bits: UInt8? = nil, _ random: inout Random) {
  let f16Fields: [UInt32: [Int]] = [
    2: [0], 3: [0, 2], 6: [0], 7: [0, 2], 8: [0], 10: [80, 82], 11: [108], 12: [0, 2], 13: [0, 2], 14: [208], 20: [0], 23: [0],
  ]
  let (elementBytes, count) = (qk_block_bytes(type), memory.byteCount / qk_block_bytes(type))
  for i in 0..<count {
    let at = memory.base + i * elementBytes
    switch type {
    case QK_F32: at.storeBytes(of: random.normal(), as: Float.self)
    case QK_F16: at.storeBytes(of: UInt16(0x2C00 + random.below(0x1000)) | UInt16(random.below(2)) << 15, as: UInt16.self)
    case QK_BF16: at.storeBytes(of: UInt16(truncatingIfNeeded: random.normal().bitPattern >> 16), as: UInt16.self)
    case QK_F8_E4M3: at.storeBytes(of: UInt8(random.below(0x7F)) | UInt8(random.below(2)) << 7, as: UInt8.self)
    case QK_INT16: break  // filled row by row
    default:
      for b in 0..<elementBytes { at.storeBytes(of: bits ?? UInt8(truncatingIfNeeded: random.bits()), toByteOffset: b, as: UInt8.self) }
      for field in f16Fields[type.rawValue] ?? [] {
        at.storeBytes(of: UInt16(0x2000 + random.below(0x800)) | UInt16(random.below(2)) << 15, toByteOffset: field, as: UInt16.self)
      }
    }
  }
}

/// INT16 rows keep the rule that no sum of products overflows: made as the kernels make them, from random numbers.
private func fillWithIntegerRows(_ memory: Memory, rows: Int, columns: Int, _ random: inout Random) {
  let one = Memory(qk_activation_bytes(QK_ACT_INT16, columns))
  let rowBytes = qk_row_bytes(QK_INT16, columns)
  for row in 0..<rows {
    qk_kernels_scalar().pointee.quantize_activations(QK_ACT_INT16, random.normals(columns), columns, 1, columns, one.base, 0)
    (memory.base + row * rowBytes).copyMemory(from: one.base, byteCount: 4)
    (memory.base + row * rowBytes + 4).copyMemory(from: one.base + 64, byteCount: rowBytes - 4)
  }
}

private func columnChoices(_ type: qk_type) -> [Int] {
  switch qk_block_elements(type) {
  case 1: return [1, 2, 3, 17, 31, 48, 100, 130, 257]
  case 32: return [32, 64, 224, 288, 544]
  default: return [256, 768]
  }
}

extension Optional where Wrapped == [Int32] {
  fileprivate func withPointer<R>(_ body: (UnsafePointer<Int32>?) throws -> R) rethrows -> R {
    guard let self else { return try body(nil) }
    return try self.withUnsafeBufferPointer { try body($0.baseAddress) }
  }
}

/// The file's types and the kernels' own.
private let productTypes = allTypes + [QK_INT16]

@Suite struct MatmulTests {
  @Test(arguments: productTypes.map(\.rawValue)) func exactProduct(rawType: UInt32) {
    for columns in columnChoices(qk_type(rawValue: rawType)) {
      for (rows, tokens) in [(1, 1), (5, 3), (33, 9)] {
        let p = Problem(qk_type(rawValue: rawType), rows: rows, columns: columns, tokens: tokens, seed: UInt64(columns * 97 + rows))
        for variant in allVariants {
          let error = p.relativeError(p.product(variant, fast: false, tokens: 0..<tokens))
          #expect(error < 2e-6, "\(variantName(variant)) type \(rawType) \(rows)x\(columns)x\(tokens): \(error)")
        }
      }
    }
  }

  @Test(arguments: productTypes.map(\.rawValue)) func fastProduct(rawType: UInt32) {
    for columns in columnChoices(qk_type(rawValue: rawType)) {
      for (rows, tokens) in [(1, 1), (5, 3), (33, 9), (70, 18)] {
        let p = Problem(qk_type(rawValue: rawType), rows: rows, columns: columns, tokens: tokens, seed: UInt64(columns * 89 + rows))
        let oracle = p.product(allVariants[0], fast: true, tokens: 0..<tokens)
        #expect(p.relativeError(oracle) < 5e-3, "scalar type \(rawType) \(rows)x\(columns)x\(tokens): \(p.relativeError(oracle))")
        for variant in allVariants.dropFirst() {
          let y = p.product(variant, fast: true, tokens: 0..<tokens)
          #expect(p.relativeError(y) < 5e-3, "\(variantName(variant)) type \(rawType) \(rows)x\(columns)x\(tokens): \(p.relativeError(y))")
          // The same integers in every variant: only the order of float additions may differ.
          let scale = zip(y, oracle).reduce(Float(1e-20)) { max($0, abs($1.1)) }
          let difference = zip(y, oracle).reduce(Float(0)) { max($0, abs($1.0 - $1.1)) }
          #expect(difference <= scale * 2e-5, "\(variantName(variant)) type \(rawType) \(rows)x\(columns)x\(tokens): \(difference / scale)")
        }
      }
    }
  }

  /// All weights and activations as large as they can be, of either sign: no sum inside a block overflows.
  @Test(arguments: productTypes.filter { qk_activation_for($0) == QK_ACT_Q8 }.map(\.rawValue)) func largestSums(rawType: UInt32) {
    let type = qk_type(rawValue: rawType)
    for (bits, activation) in [(0xFF, 1), (0xFF, -1), (0, 1), (0, -1), (0x80, 1), (0x80, -1), (0x7F, -1)] as [(UInt8, Float)] {
      for tokens in [1, 2, 3, 4, 9] {
        let p = Problem(type, rows: 33, columns: 256, tokens: tokens, seed: 7, weightBits: bits, activation: activation)
        for variant in allVariants {
          let error = p.relativeError(p.product(variant, fast: true, tokens: 0..<tokens))
          #expect(error < 1e-5, "\(variantName(variant)) type \(rawType), bytes \(bits) x \(activation), \(tokens) tokens: \(error)")
        }
      }
    }
  }

  @Test(arguments: productTypes.map(\.rawValue), [false, true]) func bitsDoNotDependOnTheBatch(rawType: UInt32, fast: Bool) {
    let type = qk_type(rawValue: rawType)
    let columns = qk_block_elements(type) == 1 ? 275 : qk_block_elements(type) == 32 ? 352 : 512
    let (rows, tokens) = (53, 70)
    let p = Problem(type, rows: rows, columns: columns, tokens: tokens, seed: 5)
    for variant in allVariants {
      let all = p.product(variant, fast: fast, tokens: 0..<tokens)
      for chunk in [1, 2, 3, 5, 7, 8, 13, 16, 33, 64] {
        var start = 0
        while start < tokens {
          let part = start..<min(tokens, start + chunk)
          let y = p.product(variant, fast: fast, tokens: part)
          if y.map(\.bitPattern) != all[part.lowerBound * rows..<part.upperBound * rows].map(\.bitPattern) {
            Issue.record("\(variantName(variant)) type \(rawType) fast \(fast): tokens \(part) differ")
          }
          start += chunk == 1 ? 9 : chunk
        }
      }
      for range in fast ? [0..<16, 16..<48, 32..<53, 48..<53] : [0..<1, 1..<6, 7..<24, 24..<53] {
        let y = p.product(variant, fast: fast, tokens: 0..<5, rows: range)
        for t in 0..<5 {
          for i in 0..<rows {
            let expected = range.contains(i) ? all[t * rows + i] : 7
            if y[t * rows + i].bitPattern != expected.bitPattern {
              Issue.record("\(variantName(variant)) type \(rawType): row \(i) of \(range)")
            }
          }
        }
      }
      let index: [Int32] = [69, 3, 3, 0, 41]
      let gathered = p.product(variant, fast: fast, tokens: 0..<tokens, index: index)
      for (j, t) in index.enumerated() where (0..<rows).contains(where: { gathered[j * rows + $0] != all[Int(t) * rows + $0] }) {
        Issue.record("\(variantName(variant)) type \(rawType): gathered token \(t) differs")
      }
    }
  }

  @Test func activationRoundingIsTheSameInEveryVariant() {
    var random = Random(3)
    let (tokens, columns) = (5, 160)
    var x = random.normals(tokens * columns)
    for i in 0..<32 { x[i] = 0 }
    for i in 32..<64 { x[i] = 1e-38 }
    x[70] = .infinity
    x[100] = .nan
    x[130] = 3e38
    for kind in [QK_ACT_Q8, QK_ACT_BF16, QK_ACT_INT16] {
      let bytes = tokens * qk_activation_bytes(kind, columns)
      let outputs = allVariants.map { variant in
        let memory = Memory(bytes)
        variant.pointee.quantize_activations(kind, x, columns, tokens, columns, memory.base, qk_activation_bytes(kind, columns))
        return [UInt8](UnsafeRawBufferPointer(start: memory.base, count: bytes))
      }
      for (variant, output) in zip(allVariants, outputs) {
        let wrong = zip(output, outputs[0]).enumerated().filter { $0.element.0 != $0.element.1 }.map(\.offset)
        #expect(wrong.isEmpty, "\(variantName(variant)) kind \(kind.rawValue): bytes \(wrong.prefix(5)) of \(bytes)")
      }
    }
  }

  @Test func anyBitsAreSurvived() {
    var random = Random(17)
    for type in productTypes {
      let p = Problem(type, rows: 20, columns: max(qk_block_elements(type), 256), tokens: 3, seed: 1)
      for i in 0..<p.file.byteCount {
        p.file.base.storeBytes(of: UInt8(truncatingIfNeeded: random.bits()), toByteOffset: i, as: UInt8.self)
      }
      qk_pack(p.exact, p.packedMemory.base, 0, 2)
      for variant in allVariants {
        for fast in [false, true] { #expect(p.product(variant, fast: fast, tokens: 0..<3).count == 60) }
        #expect(p.product(variant, fast: true, tokens: 0..<0).isEmpty)
        #expect(p.product(variant, fast: false, tokens: 0..<1, rows: 4..<4).allSatisfy { $0 == 7 })
      }
    }
  }

  /// silu(gate x) * (up x) as int8 blocks, made in the jobs of one run: the same bytes as by its parts, whatever the number of tokens.
  @Test func gatedPairEqualsItsParts() throws {
    let pool = try #require(qk_pool_create(2))
    defer { qk_pool_destroy(pool) }
    let (rows, columns, most) = (352, 512, 150)
    #expect(qk_pool_reserve(pool, qk_pool_matmul_scratch_bytes(columns)) == 0)
    let (gate, up) = (
      Problem(QK_Q4_K, rows: rows, columns: columns, tokens: most, seed: 3),
      Problem(QK_Q8_0, rows: rows, columns: columns, tokens: 1, seed: 4)
    )
    for variant in allVariants {
      let x = Memory(most * qk_activation_bytes(QK_ACT_Q8, columns))
      variant.pointee.quantize_activations(QK_ACT_Q8, gate.x, columns, most, columns, x.base, qk_activation_bytes(QK_ACT_Q8, columns))
      let hiddenBytes = qk_activation_bytes(QK_ACT_Q8, rows)
      let backwards: [Int32] = (0..<100).map { 149 - $0 }
      for (tokens, index) in [(1, nil), (7, [Int32](repeating: 149, count: 7)), (100, backwards), (150, nil)] as [(Int, [Int32]?)] {
        var parts = [[Float](repeating: 0, count: tokens * rows), [Float](repeating: 0, count: tokens * rows)]
        variant.pointee.matmul_fast(&gate.packed, 0, rows, x.base, index, tokens, &parts[0], rows, gate.scratch.base)
        variant.pointee.matmul_fast(&up.packed, 0, rows, x.base, index, tokens, &parts[1], rows, gate.scratch.base)
        var product = parts[0]
        variant.pointee.silu_mul(parts[0], parts[1], tokens * rows, &product)
        let expected = Memory(tokens * hiddenBytes)
        let hidden = Memory(tokens * hiddenBytes)
        variant.pointee.quantize_activations(QK_ACT_Q8, product, rows, tokens, rows, expected.base, hiddenBytes)
        try index.withPointer { index in
          try withUnsafePointer(to: gate.packed) { gatePointer in
            try withUnsafePointer(to: up.packed) { upPointer in
              let base = try #require(parts[0].withUnsafeMutableBufferPointer { $0.baseAddress })
              var task = qk_matmul_task(
                w: gatePointer, x: x.base, x_stride: 0, index: index, tokens: tokens, y: base, y_stride: rows, up: upPointer,
                hidden: hidden.base,
                hidden_bytes: hiddenBytes, first_job: 0, job_rows: 0)
              qk_pool_matmul(pool, variant, &task, 1)
            }
          }
        }
        let used = rows / 32 * 64
        for t in 0..<tokens where memcmp(hidden.base + t * hiddenBytes, expected.base + t * hiddenBytes, used) != 0 {
          Issue.record("\(variantName(variant)): token \(t) of \(tokens)")
        }
      }
    }
  }

  @Test func poolRunsManyProducts() throws {
    let pool = try #require(qk_pool_create(3))
    defer { qk_pool_destroy(pool) }
    // 24 tokens and more are held on their way to y, 72 and 128 rows at a time.
    let problems = [
      (QK_Q4_K, 130, 256, 3), (QK_BF16, 65, 77, 1), (QK_Q8_0, 16, 64, 0), (QK_Q6_K, 200, 512, 7), (QK_Q5_0, 300, 96, 24),
      (QK_Q4_K, 290, 512, 150), (QK_BF16, 140, 33, 73), (QK_Q8_0, 129, 256, 72),
    ].enumerated().map {
      Problem($1.0, rows: $1.1, columns: $1.2, tokens: $1.3, seed: UInt64($0))
    }
    #expect(qk_pool_reserve(pool, qk_pool_matmul_scratch_bytes(512)) == 0)
    for fast in [false, true] {
      let kernels = qk_kernels_best()
      var tasks: [qk_matmul_task] = []
      var kept: [(memory: Memory, y: UnsafeMutableBufferPointer<Float>)] = []
      for p in problems {
        let kind = qk_activation_for(p.type)
        let memory = Memory(max(1, p.tokens) * max(qk_activation_bytes(kind, p.columns), 4 * p.columns))
        if fast {
          kernels.pointee.quantize_activations(kind, p.x, p.columns, p.tokens, p.columns, memory.base, qk_activation_bytes(kind, p.columns))
          for i in 0..<p.packedMemory.byteCount { p.packedMemory.base.storeBytes(of: 0, toByteOffset: i, as: UInt8.self) }
          qk_pool_pack(pool, p.exact, p.packedMemory.base)
        } else {
          p.x.withUnsafeBytes { if let from = $0.baseAddress { memory.base.copyMemory(from: from, byteCount: $0.count) } }
        }
        let y = UnsafeMutableBufferPointer<Float>.allocate(capacity: max(1, p.tokens * p.rows))
        y.initialize(repeating: 7)
        kept.append((memory, y))
        guard let base = y.baseAddress else { continue }
        let matrix = UnsafeMutablePointer<qk_matrix>.allocate(capacity: 1)
        matrix.initialize(to: fast ? p.packed : p.exact)
        tasks.append(
          qk_matmul_task(
            w: matrix, x: memory.base, x_stride: p.columns, index: nil, tokens: p.tokens, y: base, y_stride: p.rows, up: nil, hidden: nil,
            hidden_bytes: 0, first_job: 0,
            job_rows: 0))
      }
      qk_pool_matmul(pool, kernels, &tasks, tasks.count)
      for (p, result) in zip(problems, kept) where p.tokens > 0 {
        #expect(Array(result.y) == p.product(kernels, fast: fast, tokens: 0..<p.tokens), "type \(p.type.rawValue) fast \(fast)")
      }
      for task in tasks { task.w.deallocate() }
      for result in kept { result.y.deallocate() }
    }
  }
}
