// A GGUF model as a whole: finds the shards of a split file (SPEC 3.4), then metadata, tensors and tokenizer.

enum GGUFReader {
  static let shardLimit = 4096

  static func read(_ path: String) throws(ModelFileError) -> ModelFile.Parts {
    if path.hasSuffix(".safetensors") { throw .cannotOpen(path: path, reason: "for safetensors name the model's directory") }
    let shards = try open(path)
    guard let first = shards.first else { throw .cannotOpen(path: path, reason: "no shard") }
    let tensors = shards.flatMap(\.tensors)
    var index = try TensorIndex(tensors, path: path)
    let config = try GGUFConfig(first.metadata, tensors: index.tensorsByName)
    var h = config.hyperparameters
    let model = try GGUFLayout.tensors(h, &index)
    let leftovers = try index.leftovers { GGUFLayout.isIgnored($0, h, blockCount: config.blockCount) }
    var warnings = config.warnings + leftovers
    let tokenizer = try GGUFTokenizer(first.metadata)
    if let tokenizer {
      if tokenizer.tokens.count > h.vocabularySize {
        warnings.append("the tokenizer has \(tokenizer.tokens.count) tokens, the model only \(h.vocabularySize)")
      }
      if let position = tokenizer.tokens.firstIndex(of: Array(AddedTokens.endOfTurn.utf8)),
        let id = checkedToken(position, vocabularySize: h.vocabularySize, key: AddedTokens.endOfTurn, warnings: &warnings),
        !h.eosTokens.contains(id)
      {
        h.eosTokens.append(id)
      }
    }
    let name = try first.metadata.string("general.name") ?? ""
    return ModelFile.Parts(
      name: name.isEmpty ? stem(path) : printable(name, limit: 200), format: .gguf(version: first.version), hyperparameters: h,
      tensors: tensors, model: model, tokenizerSource: tokenizer.map { .gguf($0) } ?? .none,
      chatTemplate: try first.metadata.string("tokenizer.chat_template"), warnings: warnings,
      metadata: first.metadata.keys.map { (printable($0, limit: 100), first.metadata.text($0)) }, files: shards.map(\.file))
  }

  /// The file itself, or all files of its split, in order.
  private static func open(_ path: String) throws(ModelFileError) -> [GGUFShard] {
    guard let split = SplitName(path) else {
      let shard = try GGUFShard(path: path)
      if let count = try shard.metadata.integer("split.count"), count > 1 {
        throw .badValue(
          path: path, key: "split.count", reason: "is \(count), but the file is not named …-00001-of-\(SplitName.digits(count)).gguf")
      }
      return [shard]
    }
    guard split.count <= shardLimit else {
      throw .cannotOpen(path: path, reason: "a split of \(split.count) files, the limit is \(shardLimit)")
    }
    var shards: [GGUFShard] = []
    for number in 1...split.count {
      let shard = try GGUFShard(path: split.path(number))
      try check(shard, "split.count", is: split.count)
      try check(shard, "split.no", is: number - 1)
      shards.append(shard)
    }
    let total = shards.reduce(0) { $0 + $1.tensors.count }
    for shard in shards { try check(shard, "split.tensors.count", is: total) }
    return shards
  }

  private static func check(_ shard: GGUFShard, _ key: String, is expected: Int) throws(ModelFileError) {
    if let value = try shard.metadata.integer(key), value != expected {
      throw .badValue(path: shard.file.path, key: key, reason: "is \(value), expected \(expected)")
    }
  }

  private static func stem(_ path: String) -> String {
    let file = path.split(separator: "/").last.map(String.init) ?? path
    return file.hasSuffix(".gguf") ? String(file.dropLast(5)) : file
  }
}

/// `name-00002-of-00005.gguf`
private struct SplitName {
  let stem: String
  let count: Int

  init?(_ path: String) {
    let suffix = Array(path.utf8.suffix(20))  // -00002-of-00005.gguf
    guard suffix.count == 20, suffix[0] == UInt8(ascii: "-"), suffix[6..<10].elementsEqual("-of-".utf8),
      suffix[15...].elementsEqual(".gguf".utf8), let number = SplitName.number(suffix[1..<6]),
      let count = SplitName.number(suffix[10..<15]),
      number >= 1, number <= count
    else { return nil }
    stem = String(decoding: path.utf8.dropLast(20), as: UTF8.self)
    self.count = count
  }

  func path(_ number: Int) -> String { "\(stem)-\(SplitName.digits(number))-of-\(SplitName.digits(count)).gguf" }

  static func digits(_ number: Int) -> String {
    let text = String(number)
    return String(repeating: "0", count: max(0, 5 - text.count)) + text
  }

  private static func number(_ digits: ArraySlice<UInt8>) -> Int? {
    guard digits.allSatisfy({ $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }) else { return nil }
    return Int(String(decoding: digits, as: UTF8.self))
  }
}
