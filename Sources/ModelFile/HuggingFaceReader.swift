// A Hugging Face model directory as a whole: config files, safetensors with or without an index (SPEC 3.1), tokenizer files.

enum HuggingFaceReader {
  static let indexBytesLimit = 64 << 20
  static let tokenizerConfigBytesLimit = 16 << 20
  static let fileLimit = 4096

  static func read(directory: String) throws(ModelFileError) -> ModelFile.Parts {
    let configPath = directory + "/config.json"
    guard let configBytes = try readSmallFile(configPath, limitBytes: HuggingFaceConfig.bytesLimit) else {
      throw .cannotOpen(
        path: configPath, reason: "no such file (a model directory needs config.json and safetensors; for GGUF name the file)")
    }
    let config = try HuggingFaceConfig(configBytes, path: configPath, generation: try object(directory, "generation_config.json"))
    var h = config.hyperparameters
    var warnings = config.warnings
    let tokenizer = try self.tokenizer(directory)
    addTokens(tokenizer, &h, &warnings)
    let files = try weightFiles(directory)
    var stored: [Tensor] = []
    for file in files { stored += try SafeTensors.tensors(in: file) }
    let tensors = try BlockScales.attach(to: stored)
    var index = try TensorIndex(tensors, path: directory)
    let layout = HuggingFaceLayout(h, nextTokenLayerCount: config.nextTokenLayerCount, index)
    let model = try layout.tensors(&index)
    warnings += try index.leftovers(isIgnored: layout.isIgnored)
    let name = resolvedPath(directory).split(separator: "/").last.map(String.init) ?? directory
    return ModelFile.Parts(
      name: printable(name, limit: 200), format: .huggingFace, hyperparameters: h, tensors: tensors, model: model,
      tokenizerSource: tokenizer.source, chatTemplate: tokenizer.chatTemplate, warnings: warnings,
      metadata: config.document.printableMembers(), files: files)
  }

  private static func object(_ directory: String, _ file: String) throws(ModelFileError) -> JSONObject? {
    let path = directory + "/" + file
    guard let bytes = try readSmallFile(path, limitBytes: HuggingFaceConfig.bytesLimit) else { return nil }
    return try JSONObject(try JSONValue(parsing: bytes, path: path), path: path)
  }

  // MARK: Weights

  private static func weightFiles(_ directory: String) throws(ModelFileError) -> [MappedFile] {
    let indexPath = directory + "/model.safetensors.index.json"
    var names: [String]
    if let bytes = try readSmallFile(indexPath, limitBytes: indexBytesLimit) {
      names = try indexedFiles(bytes, path: indexPath)
    } else {
      names = try fileNames(in: directory, limit: 100_000).filter { $0.hasSuffix(".safetensors") }
      if names.contains("model.safetensors") { names = ["model.safetensors"] }
    }
    guard !names.isEmpty else { throw .cannotOpen(path: directory, reason: "holds no .safetensors file") }
    guard names.count <= fileLimit else { throw .cannotOpen(path: directory, reason: "more than \(fileLimit) weight files") }
    var files: [MappedFile] = []
    for name in names { files.append(try MappedFile(path: directory + "/" + name)) }
    return files
  }

  /// The distinct file names of `weight_map`, sorted. Names that leave the directory are refused.
  private static func indexedFiles(_ bytes: [UInt8], path: String) throws(ModelFileError) -> [String] {
    var names: Set<String> = []
    var hasMap = false
    var reader = JSONReader(bytes, path: path)
    try reader.object { (reader, key) throws(ModelFileError) in
      guard key == "weight_map" else { return try reader.skip() }
      hasMap = true
      try reader.object { (reader, _) throws(ModelFileError) in
        let offset = reader.fileOffset
        let name = try reader.string()
        guard !name.isEmpty, name != ".", name != "..", !name.utf8.contains(UInt8(ascii: "/")), !name.utf8.contains(0) else {
          throw reader.malformed("file name \"\(name)\" leaves the directory", at: offset)
        }
        names.insert(name)
      }
    }
    try reader.finish()
    guard hasMap else { throw .missingKey(path: path, key: "weight_map") }
    return names.sorted()
  }

  // MARK: Tokenizer

  private struct TokenizerFiles {
    var source = TokenizerSource.none
    var chatTemplate: String?
    var config = TokenizerConfigValues()
    var addedTokens: [String: Int] = [:]
  }

  private static func tokenizer(_ directory: String) throws(ModelFileError) -> TokenizerFiles {
    var files = TokenizerFiles()
    let configPath = directory + "/tokenizer_config.json"
    if let bytes = try readSmallFile(configPath, limitBytes: tokenizerConfigBytesLimit) {
      files.config = try TokenizerConfigValues(bytes, path: configPath)
    }
    // Newer repositories keep the template in a file of its own, which wins.
    if let template = try readSmallFile(directory + "/chat_template.jinja", limitBytes: tokenizerConfigBytesLimit) {
      files.config.chatTemplate = String(decoding: template, as: UTF8.self)
    }
    files.chatTemplate = files.config.chatTemplate
    let tokenizerPath = directory + "/tokenizer.json"
    if let bytes = try readSmallFile(tokenizerPath, limitBytes: AddedTokens.fileBytesLimit) {
      files.addedTokens = try AddedTokens.ids(inTokenizerJSON: bytes, path: tokenizerPath)
      files.source = .json(tokenizerJSON: bytes, config: files.config)
    }
    return files
  }

  /// tokenizer_config's eos text and `<|EOT|>` stop too (SPEC 4.6); its bos counts when no id was given.
  private static func addTokens(_ tokenizer: TokenizerFiles, _ h: inout Hyperparameters, _ warnings: inout [String]) {
    for text in [tokenizer.config.eosToken, AddedTokens.endOfTurn].compactMap({ $0 }) {
      guard let position = tokenizer.addedTokens[text] else { continue }
      if let id = checkedToken(position, vocabularySize: h.vocabularySize, key: printable(text), warnings: &warnings),
        !h.eosTokens.contains(id)
      {
        h.eosTokens.append(id)
      }
    }
    if h.bosToken == nil, let text = tokenizer.config.bosToken, let position = tokenizer.addedTokens[text] {
      h.bosToken = checkedToken(position, vocabularySize: h.vocabularySize, key: printable(text), warnings: &warnings)
    }
  }
}
