// Attention over latent pages, absorbed and expanded, in every variant: against a naive double-precision softmax, and bit for
// bit independent of chunking, page size, page order, splits and neighbours. Also the cache rows themselves.

import CKernels
import Glibc
import Testing

/// A sequence in the cache: `positions` rows in shuffled pages, and the same rows as float32.
private final class Cache {
  let c: Int, r: Int, positions: Int
  let memory: Memory
  var table: [Int32]
  var pages: qk_pages
  var rows: [[Float]] = []  // [positions][c + r], as read back

  init(_ type: qk_cache_type, c: Int, r: Int, positions: Int, pageTokens: Int, seed: UInt64, mean: Float = 0) {
    (self.c, self.r, self.positions) = (c, r, positions)
    var random = Random(seed)
    let rowBytes = qk_cache_row_bytes(type, c, r)
    let pageCount = (positions + pageTokens - 1) / pageTokens
    memory = Memory((pageCount + 1) * pageTokens * rowBytes)
    table = (0..<pageCount).map { Int32($0) }
    for i in stride(from: pageCount - 1, to: 0, by: -1) { table.swapAt(i, Int(random.bits() >> 33) % (i + 1)) }
    let tablePointer = UnsafeMutablePointer<Int32>.allocate(capacity: pageCount)
    tablePointer.initialize(from: table, count: pageCount)
    pages = qk_pages(
      base: memory.base, page_stride: pageTokens * rowBytes, row_stride: rowBytes, table: tablePointer, page_tokens: Int32(pageTokens),
      c: Int32(c), r: Int32(r), type: type)
    var values = Random(seed &+ 1)  // the rows do not depend on the paging
    for p in 0..<positions {
      let row = values.normals(c + r).map { $0 + mean }
      let at = memory.base + Int(table[p / pageTokens]) * pages.page_stride + p % pageTokens * rowBytes
      row.withUnsafeBufferPointer { if let x = $0.baseAddress { qk_kernels_scalar().pointee.cache_store_row(type, c, r, x, x + c, at) } }
      var back = [Float](repeating: 0, count: c + r)
      back.withUnsafeMutableBufferPointer { b in
        if let x = b.baseAddress { qk_kernels_scalar().pointee.cache_load_rows(&pages, p, p + 1, x, c + r, x + c, c + r) }
      }
      rows.append(back)
    }
  }
  deinit { pages.table?.deallocate() }
}

/// m, l, u of some rows.
private final class State {
  let m: UnsafeMutablePointer<Float>, l: UnsafeMutablePointer<Float>, u: UnsafeMutablePointer<Float>
  let rows: Int, width: Int
  var value: qk_softmax_state
  /// Of the call that made it.
  var scratch: Memory?
  init(rows: Int, width: Int) {
    (self.rows, self.width) = (rows, width)
    m = .allocate(capacity: rows + 1)
    l = .allocate(capacity: rows + 1)
    u = .allocate(capacity: rows * width + 1)
    m.initialize(repeating: 7, count: rows + 1)
    l.initialize(repeating: 7, count: rows + 1)
    u.initialize(repeating: 7, count: rows * width + 1)
    value = qk_softmax_state(m: m, l: l, u: u, u_stride: width)
  }
  deinit {
    m.deallocate()
    l.deallocate()
    u.deallocate()
  }
  func finished(_ k: UnsafePointer<qk_kernels>) -> [Float] {
    var out = [Float](repeating: 7, count: rows * width)
    k.pointee.attention_finish(&value, rows, width, &out, width)
    return out
  }
}

/// The absorbed form for tokens at first ..< first + tokens, queries row-major [tokens * heads][c + r].
/// `after`: the scratch of a call for the same queries.
private func latent(
  _ k: UnsafePointer<qk_kernels>, _ cache: Cache, _ q: ArraySlice<Float>, heads: Int, first: Int, keys: Range<Int>? = nil, exact: Bool,
  after: Memory? = nil
) -> State {
  let width = cache.c + cache.r
  let rows = q.count / width
  let state = State(rows: rows, width: cache.c)
  let scratch = after ?? Memory(qk_attention_scratch_bytes(rows, width, cache.c))
  q.withUnsafeBufferPointer { buffer in
    guard let base = buffer.baseAddress else { return }
    var call = qk_latent_attention(
      q: base, q_stride: width, tokens: Int32(rows / heads), heads: Int32(heads), first_position: first, begin: keys?.lowerBound ?? 0,
      end: keys?.upperBound ?? Int.max / 2, pages: cache.pages, state: state.value,
      next_table: cache.pages.table, next_begin: 0, next_end: cache.positions, beside: base, beside_bytes: q.count * 4, exact: exact,
      same_queries: after != nil)
    k.pointee.attention_latent(&call, scratch.base)
    state.scratch = scratch
  }
  return state
}

/// One query row over `seen` keys in double precision: softmax(q . key) . value.
private func naive(_ q: ArraySlice<Float>, keys: (Int) -> ArraySlice<Float>, values: (Int) -> ArraySlice<Float>, seen: Int) -> [Double] {
  let scores = (0..<seen).map { s in dot(q, keys(s)) }
  let largest = scores.max() ?? 0
  let weights = scores.map { exp($0 - largest) }
  let total = weights.reduce(0, +)
  var out = [Double](repeating: 0, count: values(0).count)
  out.withUnsafeMutableBufferPointer { o in
    for s in 0..<seen {
      values(s).withUnsafeBufferPointer { v in
        for j in 0..<o.count { o[j] += weights[s] / total * Double(v[j]) }
      }
    }
  }
  return out
}

private func dot(_ a: ArraySlice<Float>, _ b: ArraySlice<Float>) -> Double {
  a.withUnsafeBufferPointer { x in
    b.withUnsafeBufferPointer { y in
      var sum = 0.0
      for i in 0..<x.count { sum += Double(x[i]) * Double(y[i]) }
      return sum
    }
  }
}

private func worst(_ a: some Sequence<Float>, _ b: some Sequence<Double>) -> Double {
  zip(a, b).reduce(0.0) { max($0, abs(Double($1.0) - $1.1)) }
}

private let cacheTypes = [QK_CACHE_F32, QK_CACHE_BF16, QK_CACHE_INT16, QK_CACHE_INT8, QK_CACHE_INT6]

/// What value i of a row may lose: half a step of its group's scale (and what the scale itself is rounded by), or half a bf16 step.
private func roundingBound(_ type: qk_cache_type, _ x: [Float], at i: Int, c: Int) -> Float {
  if type == QK_CACHE_F32 { return 0 }
  let hasRopeScale = type != QK_CACHE_BF16
  if type == QK_CACHE_INT16 || (i >= c && hasRopeScale) {
    let part = i < c ? x[..<c] : x[c...]
    return part.reduce(0) { $0 + $1 * $1 }.squareRoot() / 32700 / 2 * 1.01
  }
  if type == QK_CACHE_BF16 { return abs(x[i]) / 256 }
  let (group, steps): (Int, Float) = type == QK_CACHE_INT8 ? (128, 127) : (32, 31)
  let first = i / group * group
  let largest = x[first..<min(first + group, c)].reduce(0) { max($0, abs($1)) }
  return largest / steps / 2 * 1.01 + (type == QK_CACHE_INT6 ? largest / 256 : 0)
}

/// Rows [begin, end) of the pages as float32 bits, c + r each, with every NaN made the same.
private func loaded(_ k: UnsafePointer<qk_kernels>, _ pages: qk_pages, _ range: Range<Int>) -> [UInt32] {
  let (c, r) = (Int(pages.c), Int(pages.r))
  var rows = [Float](repeating: 0, count: range.count * (c + r))
  var pages = pages
  rows.withUnsafeMutableBufferPointer { buffer in
    guard let x = buffer.baseAddress else { return }
    k.pointee.cache_load_rows(&pages, range.lowerBound, range.upperBound, x, c + r, x + c, c + r)
  }
  return rows.map { $0.isNaN ? Float.nan.bitPattern : $0.bitPattern }
}

@Suite struct AttentionTests {
  @Test func cacheRowsReadBackTheSameInEveryVariant() {
    var random = Random(4)
    for (c, r) in [(128, 16), (512, 64), (100, 6), (1, 2), (129, 3), (70, 0), (31, 5), (50, 1), (0, 4)] {
      var x = random.normals(c + r)
      if c == 129 { x[128] = .nan }
      for type in cacheTypes {
        let bytes = qk_cache_row_bytes(type, c, r)
        var stored: [[UInt8]] = []
        for variant in allVariants {
          let memory = Memory(bytes)
          x.withUnsafeBufferPointer { if let p = $0.baseAddress { variant.pointee.cache_store_row(type, c, r, p, p + c, memory.base) } }
          stored.append([UInt8](UnsafeRawBufferPointer(start: memory.base, count: bytes)))
          var table: Int32 = 0
          let back = State(rows: 1, width: c + r)
          withUnsafePointer(to: &table) { t in
            var pages = qk_pages(
              base: memory.base, page_stride: bytes, row_stride: bytes, table: t, page_tokens: 1, c: Int32(c), r: Int32(r), type: type)
            variant.pointee.cache_load_rows(&pages, 0, 1, back.u, c, back.u + c, r)
          }
          // Where a scale serves the whole part, one NaN in it is seen in all of it.
          func mayBeNaN(_ i: Int) -> Bool { type == QK_CACHE_INT16 && i < c ? x[..<c].contains { $0.isNaN } : x[i].isNaN }
          for i in 0..<c + r where !(abs(back.u[i] - x[i]) <= roundingBound(type, x, at: i, c: c)) && !(mayBeNaN(i) && back.u[i].isNaN) {
            Issue.record("\(variantName(variant)) type \(type.rawValue) \(c)+\(r): \(i) is \(back.u[i]), not \(x[i])")
          }
        }
        #expect(stored.allSatisfy { $0 == stored[0] }, "type \(type.rawValue) \(c)+\(r)")
      }
    }
  }

  /// Sizes, specials and magnitudes at which a group's scale is not an ordinary number: the same bytes in every variant, and what is not
  /// finite shows, in its own group only.
  @Test func groupsOfZerosTinyHugeAndNotFinite() {
    let specials: [(Float, Float)] = [
      (0, 0), (1e-38, 0), (1e-31, 0), (1e-29, 1e-29), (3e38, 3e38), (.infinity, .nan), (-.infinity, .nan), (.nan, .nan),
    ]
    for (type, group) in [(QK_CACHE_INT8, 128), (QK_CACHE_INT6, 32)] {
      for (special, expected) in specials {
        let (c, r) = (2 * group + 3, 2)
        var x = [Float](repeating: 1, count: c + r)
        for i in 0..<group { x[i] = special.isFinite ? special : 0.5 }
        x[7] = special
        var stored: [[UInt8]] = []
        for variant in allVariants {
          let bytes = qk_cache_row_bytes(type, c, r)
          let memory = Memory(bytes)
          x.withUnsafeBufferPointer { if let p = $0.baseAddress { variant.pointee.cache_store_row(type, c, r, p, p + c, memory.base) } }
          stored.append([UInt8](UnsafeRawBufferPointer(start: memory.base, count: bytes)))
          var table: Int32 = 0
          let back = withUnsafePointer(to: &table) { t in
            let pages = qk_pages(
              base: memory.base, page_stride: bytes, row_stride: bytes, table: t, page_tokens: 1, c: Int32(c), r: Int32(r), type: type)
            return loaded(variant, pages, 0..<1).map { Float(bitPattern: $0) }
          }
          let first = back[..<group]
          let isRight = first.allSatisfy { expected.isNaN ? $0.isNaN : abs($0 - expected) <= expected / 128 }
          #expect(isRight, "\(variantName(variant)) type \(type.rawValue): \(special)")
          #expect(back[group...].allSatisfy { abs($0 - 1) < 1.0 / 128 }, "type \(type.rawValue): a neighbour's \(special) leaked")
        }
        #expect(stored.allSatisfy { $0 == stored[0] }, "type \(type.rawValue): \(special)")
      }
    }
  }

  /// A cache may hold anything (a page is not cleared before use): every variant reads the same, and attention over it does not trap.
  @Test(arguments: cacheTypes.map(\.rawValue)) func anyBitsAreHarmless(rawType: UInt32) {
    for (c, r) in [(512, 64), (100, 6), (33, 1), (15, 2), (16, 0)] {
      let cache = Cache(qk_cache_type(rawValue: rawType), c: c, r: r, positions: 70, pageTokens: 16, seed: 5)
      var random = Random(31)
      for i in 0..<cache.memory.byteCount {
        cache.memory.base.storeBytes(of: UInt8(truncatingIfNeeded: random.bits() >> 13), toByteOffset: i, as: UInt8.self)
      }
      let expected = loaded(qk_kernels_scalar(), cache.pages, 0..<70)
      let q = random.normals(3 * (c + r))
      for variant in allVariants {
        #expect(loaded(variant, cache.pages, 0..<70) == expected, "\(variantName(variant)) type \(rawType) \(c)+\(r)")
        for exact in [true, false] { _ = latent(variant, cache, q[...], heads: 3, first: 69, exact: exact).finished(variant) }
      }
    }
  }

  @Test(arguments: cacheTypes.map(\.rawValue)) func absorbedFormEqualsNaiveSoftmax(rawType: UInt32) {
    let type = qk_cache_type(rawValue: rawType)
    for (c, r, heads, tokens, first, pageTokens) in [
      (128, 16, 4, 3, 130, 16), (512, 64, 16, 1, 100, 16), (100, 6, 3, 5, 60, 7), (16, 2, 1, 70, 0, 64), (33, 1, 7, 1, 63, 1),
      (32, 32, 3, 9, 1020, 32),
    ] {
      let cache = Cache(type, c: c, r: r, positions: first + tokens, pageTokens: pageTokens, seed: UInt64(c))
      var random = Random(9)
      let width = c + r
      let q = random.normals(tokens * heads * width).map { $0 * 2 / Float(width).squareRoot() }
      for variant in allVariants {
        for exact in [true, false] {
          let out = latent(variant, cache, q[...], heads: heads, first: first, exact: exact).finished(variant)
          var error = 0.0
          for i in stride(from: 0, to: tokens * heads, by: 5) {
            let expected = naive(
              q[i * width..<(i + 1) * width], keys: { cache.rows[$0][...] }, values: { cache.rows[$0][..<c] }, seen: first + i / heads + 1)
            error = max(error, worst(out[i * c..<(i + 1) * c], expected))
          }
          #expect(error < (exact ? 1e-5 : 2e-2), "\(variantName(variant)) type \(rawType) exact \(exact) \(c)+\(r) x\(heads): \(error)")
        }
      }
    }
  }

  @Test(arguments: cacheTypes.map(\.rawValue)) func absorbedBitsDoNotDependOnChunksPagesOrSplits(rawType: UInt32) {
    let type = qk_cache_type(rawValue: rawType)
    for (c, r, heads) in [(48, 16, 3), (20, 2, 5)] {
      let (tokens, width) = (37, c + r)
      let start = Int(QK_SPLIT) - 11  // crosses a split
      var random = Random(21)
      let q = random.normals(tokens * heads * width)
      for variant in allVariants {
        for exact in [true, false] {
          let cache = Cache(type, c: c, r: r, positions: start + tokens, pageTokens: 16, seed: 77)
          let whole = latent(variant, cache, q[...], heads: heads, first: start, exact: exact).finished(variant)
          for (pageTokens, chunk) in [(64, 7), (5, 36), (1024, 2)] {
            let other = Cache(type, c: c, r: r, positions: start + tokens, pageTokens: pageTokens, seed: 77)
            var at = 0
            while at < tokens {
              let n = min(chunk, tokens - at)
              let part = latent(
                variant, other, q[at * heads * width..<(at + n) * heads * width], heads: heads, first: start + at, exact: exact)
              if part.finished(variant) != Array(whole[at * heads * c..<(at + n) * heads * c]) {
                Issue.record("\(variantName(variant)) type \(rawType) exact \(exact) \(c)+\(r): page \(pageTokens), chunk \(at)+\(n)")
              }
              at += n
            }
          }
          // Splits one by one, then merged.
          let rows = tokens * heads
          let left = latent(variant, cache, q[...], heads: heads, first: start, keys: 0..<Int(QK_SPLIT), exact: exact)
          let right = latent(variant, cache, q[...], heads: heads, first: start, keys: Int(QK_SPLIT)..<5000, exact: exact)
          let again = latent(
            variant, cache, q[...], heads: heads, first: start, keys: Int(QK_SPLIT)..<5000, exact: exact, after: left.scratch)
          let what = "\(variantName(variant)) type \(rawType) exact \(exact)"
          #expect(again.finished(variant) == right.finished(variant), "\(what): same queries")
          variant.pointee.attention_merge(&left.value, &right.value, rows, c)
          #expect(left.finished(variant) == whole, "\(variantName(variant)) type \(rawType) exact \(exact): splits")
        }
      }
    }
  }

  @Test(arguments: cacheTypes.map(\.rawValue)) func expandedFormEqualsNaiveSoftmax(rawType: UInt32) {
    let type = qk_cache_type(rawValue: rawType)
    for (n, r, v, tokens, first) in [(128, 64, 128, 40, 0), (32, 16, 48, 17, 300), (13, 2, 5, 140, 3), (24, 0, 24, 1, 128)] {
      let cache = Cache(type, c: 20, r: r, positions: first + tokens, pageTokens: 16, seed: UInt64(n))
      var random = Random(15)
      let (positions, width) = (first + tokens, n + r)
      let q = random.normals(tokens * width).map { $0 * 2 / Float(width).squareRoot() }
      let (k, values) = (random.normals(positions * n), random.normals(positions * v))
      for variant in allVariants {
        for exact in [true, false] {
          var results: [[Float]] = []
          for (chunk, range) in [(tokens, positions), (3, Int(QK_KEY_TILE)), (11, 2 * Int(QK_KEY_TILE))] {
            var result: [Float] = []
            for at in stride(from: 0, to: tokens, by: chunk) {
              let count = min(chunk, tokens - at)
              let state = State(rows: count, width: v)
              variant.pointee.attention_reset(&state.value, count, v)
              let scratch = Memory(qk_attention_scratch_bytes(count, width, v))
              for begin in stride(from: 0, to: positions, by: range) {
                q.withUnsafeBufferPointer { qb in
                  k.withUnsafeBufferPointer { kb in
                    values.withUnsafeBufferPointer { vb in
                      guard let qBase = qb.baseAddress, let kBase = kb.baseAddress, let vBase = vb.baseAddress else { return }
                      var call = qk_expanded_attention(
                        q: qBase + at * width, q_stride: width, tokens: Int32(count), n: Int32(n), v: Int32(v), first_position: first + at,
                        begin: begin, end: min(positions, begin + range), k: kBase + begin * n, k_stride: n, values: vBase + begin * v,
                        v_stride: v, pages: cache.pages, state: state.value, exact: exact, same_queries: begin > 0)
                      variant.pointee.attention_expanded(&call, scratch.base)
                    }
                  }
                }
              }
              result += state.finished(variant)
            }
            results.append(result)
          }
          #expect(results.allSatisfy { $0 == results[0] }, "\(variantName(variant)) type \(rawType) exact \(exact) n \(n): chunks differ")
          var error = 0.0
          for i in stride(from: 0, to: tokens, by: 5) {
            let expected = naive(
              q[i * width..<(i + 1) * width], keys: { k[$0 * n..<($0 + 1) * n] + cache.rows[$0][20...] },
              values: { values[$0 * v..<($0 + 1) * v] }, seen: first + i + 1)
            error = max(error, worst(results[0][i * v..<(i + 1) * v], expected))
          }
          #expect(error < (exact ? 1e-5 : 2e-2), "\(variantName(variant)) type \(rawType) exact \(exact) n \(n): \(error)")
        }
      }
    }
  }

  /// One key has most of the weight, hundreds of others the rest, each less than a 255th of it: their share must not get lost, as it would
  /// if weights had 8 bits only. Also one row of queries like that beside others whose weights are alike.
  @Test func manySmallWeightsBesideOneLargeCount() {
    let (c, r, heads, seen) = (256, 32, 20, 700)
    let width = c + r
    for type in [QK_CACHE_INT8, QK_CACHE_INT6, QK_CACHE_INT16, QK_CACHE_BF16] {
      let cache = Cache(type, c: c, r: r, positions: seen, pageTokens: 16, seed: 12, mean: 1)
      var q = [Float](repeating: 0, count: heads * width)
      for (head, sink) in [(0, 3), (5, 140), (17, 699), (19, 600)] {
        let norm = cache.rows[sink].reduce(0) { $0 + ($1 - 1) * ($1 - 1) }
        for i in 0..<width { q[head * width + i] = 8 * (cache.rows[sink][i] - 1) / norm }
      }
      for variant in allVariants {
        let exact = latent(variant, cache, q[...], heads: heads, first: seen - 1, exact: true).finished(variant)
        let fast = latent(variant, cache, q[...], heads: heads, first: seen - 1, exact: false).finished(variant)
        let error = zip(exact, fast).reduce(Float(0)) { max($0, abs($1.0 - $1.1)) }
        // Latents of 6 bits are rounded again, to bytes with a scale for more of them.
        #expect(error < (type == QK_CACHE_INT6 ? 2e-2 : 1e-2), "\(variantName(variant)) type \(type.rawValue): \(error)")
      }
    }
  }

  /// The last key of a chunk is not finite: in integers the tokens before it do not see that, not even in their rounding. (As floats a value
  /// that is not a number times a weight of zero is none either.)
  @Test(arguments: [QK_CACHE_BF16, QK_CACHE_INT16, QK_CACHE_INT8, QK_CACHE_INT6].map(\.rawValue))
  func whatIsNotFiniteIsNotSeenBefore(rawType: UInt32) {
    let type = qk_cache_type(rawValue: rawType)
    let (c, r, heads, tokens, first) = (256, 32, 3, 3, 135)
    let width = c + r
    var random = Random(4)
    let q = random.normals(tokens * heads * width).map { $0 / 8 }
    let clean = Cache(type, c: c, r: r, positions: first + tokens, pageTokens: 16, seed: 6)
    let last = first + tokens - 1
    for special in [Float.nan, .infinity] {
      let cache = Cache(type, c: c, r: r, positions: first + tokens, pageTokens: 16, seed: 6)
      let row = [Float](repeating: special, count: width)
      let at = cache.memory.base + Int(cache.table[last / 16]) * cache.pages.page_stride + last % 16 * cache.pages.row_stride
      row.withUnsafeBufferPointer { if let x = $0.baseAddress { qk_kernels_scalar().pointee.cache_store_row(type, c, r, x, x + c, at) } }
      for variant in allVariants.dropFirst() {
        let expected = latent(variant, clean, q[...], heads: heads, first: first, exact: false).finished(variant)
        let out = latent(variant, cache, q[...], heads: heads, first: first, exact: false).finished(variant)
        let before = (tokens - 1) * heads * c
        #expect(out[..<before] == expected[..<before], "\(variantName(variant)) type \(rawType): \(special) is seen before")
      }
    }
  }

  @Test func rowsThatSeeNothingAreZero() {
    let cache = Cache(QK_CACHE_BF16, c: 32, r: 32, positions: 300, pageTokens: 16, seed: 3)
    var random = Random(2)
    let q = random.normals(2 * 64)
    for variant in allVariants {
      let state = latent(variant, cache, q[...], heads: 1, first: 10, keys: Int(QK_KEY_TILE)..<2 * Int(QK_KEY_TILE), exact: false)
      #expect(state.m[0] == -.infinity && state.l[1] == 0)
      #expect(state.finished(variant).allSatisfy { $0 == 0 })
      let other = latent(variant, cache, q[...], heads: 1, first: 10, exact: false)
      let before = other.finished(variant)
      variant.pointee.attention_merge(&other.value, &state.value, 2, 32)
      #expect(other.finished(variant) == before)
      variant.pointee.attention_merge(&state.value, &other.value, 2, 32)
      #expect(state.finished(variant) == before)
      _ = latent(variant, cache, q[..<0], heads: 1, first: 10, exact: true)
    }
  }

  @Test func hugeScoresAndNotANumberDoNotTrap() {
    for type in cacheTypes {
      let cache = Cache(type, c: 32, r: 4, positions: 40, pageTokens: 16, seed: 8)
      for special in [1e30, -1e30, Float.infinity, .nan] {
        let q = [Float](repeating: special, count: 36) + [Float](repeating: 0.1, count: 36)
        for variant in allVariants {
          let out = latent(variant, cache, q[...], heads: 2, first: 39, exact: false).finished(variant)
          #expect(out.count == 64 && out[32...].allSatisfy { $0.isFinite }, "\(variantName(variant)): a neighbour's \(special) leaked")
        }
      }
    }
  }
}
