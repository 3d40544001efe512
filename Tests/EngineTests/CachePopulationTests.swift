import Glibc
import Testing

@testable import Engine

/// Memory is there before the blocks that lie in it are used, and no byte of it changes.
struct CachePopulationTests {
  private static let mebibyte = 1 << 20

  /// 3 layers of 19 MiB in blocks of 64 KiB, far more than the margin of 4 MiB each, in pieces that do not end where layers do.
  private static let layerCount = 3
  private static let layerBytes = 19 * mebibyte + 12_288
  private static let blockBytes = 1 << 16
  private static let marginBytes = 3 * 4 * mebibyte

  /// Kernels before 5.14 leave it all to the first touch.
  private static var kernelPopulates: Bool {
    guard let memory = try? MappedMemory(byteCount: MappedMemory.pageBytes) else { return false }
    let base = UInt(bitPattern: memory.base)
    return MappedMemory.populate(from: base, to: base + UInt(MappedMemory.pageBytes))
  }

  private static func population(_ memory: borrowing MappedMemory) -> CachePopulation {
    CachePopulation(base: memory.base, layerCount: layerCount, layerBytes: layerBytes, blockBytes: blockBytes, marginBytes: marginBytes)
  }

  private static func residentBytes(_ memory: borrowing MappedMemory, layer: Int, upTo bytes: Int) -> Int {
    let page = MappedMemory.pageBytes
    let begin = (UInt(bitPattern: memory.base) + UInt(layer * layerBytes)) / UInt(page) * UInt(page)
    var pages = [UInt8](repeating: 0, count: (bytes + page - 1) / page)
    guard let start = UnsafeMutableRawPointer(bitPattern: begin), mincore(start, bytes, &pages) == 0 else { return -1 }
    return pages.count { $0 & 1 == 1 } * page
  }

  private static func wait(for pieces: Int, of population: CachePopulation) -> Bool {
    for _ in 0..<60_000 where population.populatedPieces < pieces { usleep(1000) }
    return population.populatedPieces >= pieces
  }

  @Test func piecesGrowByOneAndEndWithTheLast() throws {
    let memory = try MappedMemory(byteCount: Self.layerCount * Self.layerBytes)
    let population = Self.population(memory)
    let blocks = Self.layerBytes / Self.blockBytes
    var before = population.piecesNeeded(block: -1)
    #expect(before == Self.marginBytes / CachePopulation.pieceBytes)
    for block in 0..<blocks {
      let needed = population.piecesNeeded(block: block)
      // 192 KiB of all layers are a block; the last step takes the pieces that are cut short by their layers' ends with it.
      #expect(needed >= before && needed <= before + (needed == population.pieceCount ? 2 * Self.layerCount : 1), "block \(block)")
      // The layers that are behind the others still hold the block.
      let rows = needed / Self.layerCount
      #expect(min(rows * CachePopulation.pieceBytes, Self.layerBytes) >= (block + 1) * Self.blockBytes, "block \(block)")
      before = needed
    }
    #expect(before == population.pieceCount)
  }

  @Test(.enabled(if: kernelPopulates)) func memoryIsThereAheadOfTheBlocks() throws {
    let memory = try MappedMemory(byteCount: Self.layerCount * Self.layerBytes)
    let population = Self.population(memory)
    defer { population.stop() }
    let mark = memory.base + Self.layerBytes + 5
    mark.storeBytes(of: 0xA5, as: UInt8.self)
    population.start()
    #expect(Self.wait(for: population.piecesNeeded(block: -1), of: population))
    let margin = Self.marginBytes / Self.layerCount
    for layer in 0..<Self.layerCount { #expect(Self.residentBytes(memory, layer: layer, upTo: margin) >= margin, "layer \(layer)") }
    // The end is not there before it is needed: 4 MiB of 19, and up to 2 more where huge pages do not begin with the layer.
    #expect(Self.residentBytes(memory, layer: 2, upTo: Self.layerBytes) < Self.layerBytes / 2)

    population.use(block: Self.layerBytes / Self.blockBytes - 1)
    #expect(Self.wait(for: population.pieceCount, of: population))
    for layer in 0..<Self.layerCount {
      #expect(Self.residentBytes(memory, layer: layer, upTo: Self.layerBytes) >= Self.layerBytes, "layer \(layer)")
    }
    #expect(mark.loadUnaligned(as: UInt8.self) == 0xA5)
  }

  /// While steps run only what is needed soon is made ready; the rest of the margin when they have ended.
  @Test(.enabled(if: kernelPopulates)) func mostOfItIsDoneAtRest() throws {
    let memory = try MappedMemory(byteCount: Self.layerCount * Self.layerBytes)
    let margin = Self.layerCount * 16 * Self.mebibyte
    let population = CachePopulation(
      base: memory.base, layerCount: Self.layerCount, layerBytes: Self.layerBytes, blockBytes: Self.blockBytes, marginBytes: margin)
    defer { population.stop() }
    let few = population.piecesNeeded(block: 0, resting: false)
    let many = population.piecesNeeded(block: 0)
    #expect(few == (margin / 4 + Self.layerCount * Self.blockBytes + CachePopulation.pieceBytes - 1) / CachePopulation.pieceBytes)
    #expect(many > 2 * few && many < population.pieceCount)
    population.use(block: 0)
    population.start()
    #expect(Self.wait(for: few, of: population))
    usleep(20_000)
    #expect(population.populatedPieces == few)
    population.use(block: 0)
    population.rest()
    #expect(Self.wait(for: many, of: population))
    // Ahead by more than a busy engine needs: nothing to do until that is used up.
    population.use(block: 1)
    usleep(20_000)
    #expect(population.populatedPieces == many)
    population.use(block: Self.layerBytes / Self.blockBytes - 1)
    #expect(Self.wait(for: population.pieceCount, of: population))
  }

  /// Ending it does not wait for all that is wanted, and a smaller cache than the margin is populated whole.
  @Test(.enabled(if: kernelPopulates)) func endsInTheMiddleAndHoldsSmallCaches() throws {
    let memory = try MappedMemory(byteCount: Self.layerCount * Self.layerBytes)
    for _ in 0..<5 {
      let population = Self.population(memory)
      population.start()
      population.use(block: 100)
      population.stop()
      population.stop()
    }
    let small = CachePopulation(base: memory.base, layerCount: 2, layerBytes: 5000, blockBytes: 1000)
    defer { small.stop() }
    #expect(small.pieceCount == 2)
    #expect(small.piecesNeeded(block: -1) == 2)
    #expect(small.piecesNeeded(block: 4) == 2)
    small.start()
    #expect(Self.wait(for: 2, of: small))
  }
}
