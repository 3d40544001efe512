// Whole models: names, shapes, layouts, what is refused and what is only warned about, split files and indexes.

import Testing

@testable import ModelFile

/// Opens a GGUF that a writer describes.
func openGGUF(_ writer: GGUFWriter) throws -> ModelFile {
  let folder = TemporaryFolder()
  return try ModelFile(path: try folder.write("small.gguf", writer.bytes()))
}

func openHuggingFace(config: String = SmallModel.config, tensors: [TestTensor] = SmallModel.huggingFaceTensors) throws -> ModelFile {
  let folder = TemporaryFolder()
  try SmallModel.huggingFace(folder, config: config, tensors: tensors)
  return try ModelFile(path: folder.path)
}

/// The error that opening gives, or nil.
func failure(_ open: () throws -> ModelFile) -> ModelFileError? {
  do {
    _ = try open()
    return nil
  } catch {
    return error as? ModelFileError
  }
}

@Suite struct ModelFileTests {
  @Test func huggingFaceLayers() throws {
    let model = try openHuggingFace()
    #expect(model.format == .huggingFace)
    #expect(model.warnings == [])
    #expect(model.hyperparameters.isMixtureOfExperts == [false, true])
    #expect(model.hyperparameters.denseLayerCount == 1)
    let layer = model.layer(1)
    #expect(layer.queryB?.name == "model.layers.1.self_attn.q_b_proj.weight")
    guard case .joined(let keyValue) = layer.keyValueB, case .experts(let router, let bias, let gate, _, let down, let shared) = layer.ffn
    else {
      Issue.record("wrong form")
      return
    }
    #expect(keyValue.shape == [14, 5])
    #expect(router.rows == 4 && bias?.columns == 4 && bias?.rows == 1)
    #expect(gate.expertCount == 4)
    #expect(down.rows(ofExpert: 3).tensor.name == "model.layers.1.mlp.experts.3.down_proj.weight")
    #expect(shared?.down.shape == [8, 3])
    let written = SmallModel.huggingFaceTensors[0]
    #expect(model.embedding.bytes.elementsEqual(written.bytes))
    #expect(model.tensor(named: written.name)?.shape == written.shape)
    #expect(model.tensor(named: "nothing") == nil)
  }

  @Test(arguments: [false, true])
  func ggufLayers(legacy: Bool) throws {
    let writer = SmallModel.gguf(legacy: legacy)
    let model = try openGGUF(writer)
    let reference = try openHuggingFace()
    #expect(model.format == .gguf(version: 3))
    #expect(model.name == "Small")
    #expect(model.warnings == [])
    var h = model.hyperparameters
    h.architecture = "deepseek_v3"
    #expect(h == reference.hyperparameters)
    switch model.layer(0).keyValueB {
    case .joined(let tensor): #expect(legacy && tensor.shape == [14, 5])
    case .split(let keyB, let valueB): #expect(!legacy && keyB.shape == [2, 5, 4] && valueB.shape == [2, 3, 5] && keyB.rows == 10)
    }
    guard case .experts(_, _, let gate, _, let down, _) = model.layer(1).ffn else {
      Issue.record("layer 1 has no experts")
      return
    }
    #expect(gate.rows(ofExpert: 2).rows == 6..<9)
    #expect(down.rows(ofExpert: 2).rows == 16..<24)
    #expect(gate.expertCount == 4)
    for tensor in writer.tensors { #expect(model.tensor(named: tensor.name)?.bytes.elementsEqual(tensor.bytes) == true) }
    guard case .gguf(let tokenizer) = model.tokenizerSource else {
      Issue.record("no tokenizer")
      return
    }
    #expect(tokenizer.tokens.count == 10 && tokenizer.tokens[2] == [UInt8(ascii: "c")] && tokenizer.types[1] == 3)
    #expect(tokenizer.bos == 0 && tokenizer.eos == 1 && tokenizer.addBos == true && tokenizer.addEos == nil)
    #expect(tokenizer.model == "gpt2" && tokenizer.pre == "deepseek-v3" && tokenizer.merges == [Array("a b".utf8)])
  }

  // MARK: Every tensor in turn

  @Test(arguments: SmallModel.huggingFaceTensors.indices)
  func huggingFaceTensorIsChecked(_ position: Int) throws {
    var tensors = SmallModel.huggingFaceTensors
    let removed = tensors.remove(at: position)
    #expect(failure { try openHuggingFace(tensors: tensors) }.map(missingName) == removed.name)
    for shape in wrongShapes(removed.shape) {
      tensors = SmallModel.huggingFaceTensors
      tensors[position].shape = shape
      #expect(failure { try openHuggingFace(tensors: tensors) }.map(wrongName) == removed.name, "\(shape)")
    }
  }

  @Test(arguments: [false, true])
  func ggufTensorsAreChecked(legacy: Bool) throws {
    let good = SmallModel.gguf(legacy: legacy)
    for position in good.tensors.indices where good.tensors[position].name != "output.weight" {
      var writer = good
      let removed = writer.tensors.remove(at: position)
      // Without attn_kv_b the split form is expected, and without its bias a router selects otherwise; both still fail or differ.
      let error = failure { try openGGUF(writer) }
      if removed.name.hasSuffix("exp_probs_b.bias") {
        #expect(try openGGUF(writer).hyperparameters.selection == .groupLimitedGreedy)
      } else if removed.name.hasSuffix("attn_kv_b.weight") {
        #expect(error.map(missingName) == removed.name.replacing("attn_kv_b", with: "attn_k_b"))
      } else {
        #expect(error.map(missingName) == removed.name)
      }
      for shape in wrongShapes(removed.shape) {
        writer = good
        writer.tensors[position].shape = shape
        #expect(failure { try openGGUF(writer) }.map(wrongName) == removed.name, "\(shape)")
      }
    }
  }

  private func wrongShapes(_ shape: [Int]) -> [[Int]] {
    var wrong = [shape + [1], [1] + shape]
    for axis in shape.indices {
      for difference in [-1, 1] {
        var changed = shape
        changed[axis] += difference
        if changed[axis] > 0 { wrong.append(changed) }
      }
    }
    if shape.count > 1, shape.reversed() != shape { wrong.append(shape.reversed()) }
    return wrong.filter { $0.count <= 4 }
  }

  private func missingName(_ error: ModelFileError) -> String {
    if case .missingTensor(_, let tensor, _) = error { tensor } else { "other error: \(error)" }
  }

  private func wrongName(_ error: ModelFileError) -> String {
    if case .wrongShape(_, let tensor, _, _, _) = error { tensor } else { "other error: \(error)" }
  }

  @Test func headIsOptionalInGGUF() throws {
    var writer = SmallModel.gguf()
    writer.tensors.removeAll { $0.name == "output.weight" }
    let model = try openGGUF(writer)
    #expect(model.head == nil && model.hyperparameters.tiedEmbeddings)
  }

  // MARK: Extra tensors

  @Test func unexpectedBiasIsRefused() throws {
    let bias = TestTensor(name: "model.layers.0.self_attn.q_a_proj.bias", shape: [SmallModel.ql])
    #expect(
      failure { try openHuggingFace(tensors: SmallModel.huggingFaceTensors + [bias]) }
        .map { if case .unexpectedBias(_, bias.name) = $0 { true } else { false } } == true)
    var writer = SmallModel.gguf()
    writer.tensors.append(TestTensor(name: "blk.1.attn_q_b.bias", shape: [12]))
    #expect(failure { try openGGUF(writer) }.map { if case .unexpectedBias = $0 { true } else { false } } == true)
  }

  @Test func attentionBiasIsUsed() throws {
    var tensors = SmallModel.huggingFaceTensors
    for layer in 0..<2 {
      for (name, count) in [("q_a_proj", SmallModel.ql), ("kv_a_proj_with_mqa", 7), ("o_proj", SmallModel.d)] {
        tensors.append(TestTensor(name: "model.layers.\(layer).self_attn.\(name).bias", shape: [count]))
      }
    }
    let config = try SmallModel.config(["attention_bias": "true"])
    let layer = try openHuggingFace(config: config, tensors: tensors).layer(1)
    #expect(layer.queryABias?.columns == 6 && layer.latentABias?.columns == 7 && layer.outputBias?.columns == 8)
    tensors.removeLast()
    #expect(failure { try openHuggingFace(config: config, tensors: tensors) } != nil)
  }

  @Test func extraTensorsAreWarnedAbout() throws {
    let extra = [
      TestTensor(name: "model.strange.weight", shape: [2]), TestTensor(name: "model.layers.0.self_attn.rotary_emb.inv_freq", shape: [1]),
    ]
    let model = try openHuggingFace(tensors: SmallModel.huggingFaceTensors + extra)
    #expect(model.warnings.count == 1 && model.warnings.first?.contains("model.strange.weight") == true)
    #expect(model.warnings.first?.contains("inv_freq") == false)
  }

  @Test func nextTokenLayersAreSkipped() throws {
    let extra = [
      TestTensor(name: "model.layers.2.eh_proj.weight", shape: [8, 16]), TestTensor(name: "model.layers.2.odd.bias", shape: [3]),
    ]
    let config = try SmallModel.config(["num_nextn_predict_layers": "1"])
    #expect(try openHuggingFace(config: config, tensors: SmallModel.huggingFaceTensors + extra).warnings == [])
    #expect(failure { try openHuggingFace(tensors: SmallModel.huggingFaceTensors + extra) } != nil)  // nobody said layer 2 exists

    var writer = SmallModel.gguf()
    writer.set("deepseek2.block_count", .u32(3))
    writer.set("deepseek2.nextn_predict_layers", .u32(1))
    writer.tensors.append(TestTensor(name: "blk.2.nextn.eh_proj.weight", shape: [8, 16]))
    let model = try openGGUF(writer)
    #expect(model.hyperparameters.layerCount == 2 && model.warnings == [])
    writer.set("deepseek2.block_count", .u32(2))  // the key without the layer
    writer.tensors.removeLast()
    #expect(try openGGUF(writer).hyperparameters.layerCount == 2)
  }

  // MARK: Other layouts

  @Test func wrappedModel() throws {
    let config = "{\"model_type\": \"kimi_vl\", \"vision_config\": {}, \"eos_token_id\": 3, \"text_config\": \(SmallModel.config)}"
    var tensors = SmallModel.huggingFaceTensors
    for position in tensors.indices { tensors[position].name = "language_model." + tensors[position].name }
    tensors.append(TestTensor(name: "vision_tower.patch.bias", shape: [4]))
    let model = try openHuggingFace(config: config, tensors: tensors)
    #expect(model.warnings == [])
    #expect(model.hyperparameters.eosTokens == [1, 3])
    #expect(model.layer(0).latentA.name == "language_model.model.layers.0.self_attn.kv_a_proj_with_mqa.weight")
  }

  @Test func fusedExperts() throws {
    var tensors = SmallModel.huggingFaceTensors.filter { !$0.name.contains(".experts.") }
    tensors.append(TestTensor(name: "model.layers.1.mlp.experts.gate_up_proj", shape: [4, 6, 8]))
    tensors.append(TestTensor(name: "model.layers.1.mlp.experts.down_proj", shape: [4, 8, 3]))
    var writer = SmallModel.gguf()
    writer.tensors.removeAll { $0.name.contains("ffn_gate_exps") || $0.name.contains("ffn_up_exps") }
    writer.tensors.append(TestTensor(name: "blk.1.ffn_gate_up_exps.weight", shape: [4, 6, 8]))
    for model in [try openHuggingFace(tensors: tensors), try openGGUF(writer)] {
      guard case .experts(_, _, let gate, let up, let down, _) = model.layer(1).ffn else {
        Issue.record("no experts")
        return
      }
      #expect(gate.rows(ofExpert: 3).rows == 18..<21 && up.rows(ofExpert: 3).rows == 21..<24)
      #expect(gate.rows(ofExpert: 3).tensor.rows == 24 && down.rows(ofExpert: 3).rows == 24..<32)
    }
  }

  @Test func directQuery() throws {
    let config = try SmallModel.config(["q_lora_rank": "null"])
    var tensors = SmallModel.huggingFaceTensors.filter { !$0.name.contains("q_a_") && !$0.name.contains("q_b_") }
    for layer in 0..<2 { tensors.append(TestTensor(name: "model.layers.\(layer).self_attn.q_proj.weight", shape: [12, 8])) }
    let model = try openHuggingFace(config: config, tensors: tensors)
    #expect(model.layer(0).query?.shape == [12, 8] && model.layer(0).queryA == nil)
  }

  // MARK: Directories

  @Test func indexedShards() throws {
    let folder = TemporaryFolder()
    try folder.write("config.json", SmallModel.config)
    let all = SmallModel.huggingFaceTensors
    let files = ["model-00001-of-00002.safetensors": all[..<20], "model-00002-of-00002.safetensors": all[20...]]
    var map: [String] = []
    for (name, tensors) in files {
      try folder.write(name, SafeTensorsWriter(tensors: Array(tensors)).bytes())
      map += tensors.map { "\"\($0.name)\": \"\(name)\"" }
    }
    let index = "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {\(map.joined(separator: ",\n"))}}"
    try folder.write("model.safetensors.index.json", index)
    try folder.write("unrelated.safetensors", "not read, because the index does not name it")
    #expect(try ModelFile(path: folder.path).tensors.count == all.count)

    for name in ["../x.safetensors", "/etc/passwd", "..", "", "a/b", "a\\u0000b"] {
      try folder.write("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"\(name)\"}}")
      #expect(failure { try ModelFile(path: folder.path) }?.description.contains("leaves the directory") == true)
    }
    try folder.write("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"absent.safetensors\"}}")
    #expect(failure { try ModelFile(path: folder.path) }?.description.contains("absent.safetensors: no such file") == true)
    try folder.write("model.safetensors.index.json", "{}")
    #expect(
      failure { try ModelFile(path: folder.path) } == .missingKey(path: folder.path + "/model.safetensors.index.json", key: "weight_map"))
  }

  @Test func shardsWithoutIndexAndDuplicates() throws {
    let folder = TemporaryFolder()
    try folder.write("config.json", SmallModel.config)
    let all = SmallModel.huggingFaceTensors
    try folder.write("a.safetensors", SafeTensorsWriter(tensors: Array(all[..<9])).bytes())
    try folder.write("b.safetensors", SafeTensorsWriter(tensors: Array(all[9...])).bytes())
    #expect(try ModelFile(path: folder.path).tensors.count == all.count)
    try folder.write("c.safetensors", SafeTensorsWriter(tensors: [all[3]]).bytes())
    #expect(failure { try ModelFile(path: folder.path) }?.description.contains("duplicate tensor name \(all[3].name)") == true)
  }

  @Test func missingFilesAreNamed() throws {
    let folder = TemporaryFolder()
    #expect(failure { try ModelFile(path: folder.path + "/absent") }?.description.contains("absent: no such file") == true)
    #expect(failure { try ModelFile(path: folder.path) }?.description.contains("config.json") == true)
    try folder.write("config.json", SmallModel.config)
    #expect(failure { try ModelFile(path: folder.path) }?.description.contains("no .safetensors file") == true)
    try folder.write("empty.gguf", "")
    #expect(failure { try ModelFile(path: folder.path + "/empty.gguf") }?.description.contains("empty") == true)
    try folder.write("pointer.gguf", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    #expect(failure { try ModelFile(path: folder.path + "/pointer.gguf") }?.description.contains("git-lfs pointer") == true)
    #expect(failure { try ModelFile(path: "/dev/null") }?.description.contains("not a regular file") == true)
    #expect(failure { try ModelFile(path: folder.path + "/x.safetensors") }?.description.contains("directory") == true)
  }

  @Test func tokenizerFiles() throws {
    let folder = TemporaryFolder()
    try SmallModel.huggingFace(folder, config: try SmallModel.config(["bos_token_id": nil]))
    try folder.write("generation_config.json", "{\"eos_token_id\": [2, 1, 99], \"bos_token_id\": null}")
    try folder.write(
      "tokenizer_config.json",
      """
      {"add_bos_token": true, "bos_token": {"content": "<s>"}, "eos_token": "</s>",
       "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}
      """)
    let tokenizer = """
      {"added_tokens": [{"id": 0, "content": "<s>"}, {"id": 4, "content": "</s>"}, {"id": 5, "content": "<|EOT|>"}, {"id": 6, "content": "x"}],
       "model": {"vocab": {"\u{e9}": 1, "e\u{301}": 2}}}
      """
    try folder.write("tokenizer.json", tokenizer)
    let model = try ModelFile(path: folder.path)
    #expect(model.hyperparameters.eosTokens == [1, 2, 4, 5])
    #expect(model.hyperparameters.bosToken == 0)
    #expect(model.warnings.count == 1 && model.warnings.first?.contains("99") == true)
    #expect(model.chatTemplate == "D")
    guard case .json(let bytes, let config) = model.tokenizerSource else {
      Issue.record("no tokenizer")
      return
    }
    #expect(bytes == Array(tokenizer.utf8))
    #expect(config == TokenizerConfigValues(addBos: true, bosToken: "<s>", eosToken: "</s>", chatTemplate: "D"))
    try folder.write("chat_template.jinja", "J")
    #expect(try ModelFile(path: folder.path).chatTemplate == "J")
  }

  // MARK: Split GGUF

  private func writeSplit(_ folder: TemporaryFolder, _ edit: (inout [GGUFWriter]) -> Void = { _ in }) throws -> String {
    let whole = SmallModel.gguf()
    var shards: [GGUFWriter] = []
    for number in 0..<3 {
      var shard = GGUFWriter()
      if number == 0 { shard.metadata = whole.metadata }
      shard.set("split.no", .u16(UInt16(number)))
      shard.set("split.count", .u16(3))
      shard.set("split.tensors.count", .i32(Int32(whole.tensors.count)))
      shard.tensors = whole.tensors.enumerated().filter { $0.offset * 3 / whole.tensors.count == number }.map(\.element)
      shards.append(shard)
    }
    edit(&shards)
    for (number, shard) in shards.enumerated() { try folder.write("m-0000\(number + 1)-of-00003.gguf", shard.bytes()) }
    return folder.path + "/m-00001-of-00003.gguf"
  }

  @Test func splitFiles() throws {
    let folder = TemporaryFolder()
    let path = try writeSplit(folder)
    let model = try ModelFile(path: path)
    #expect(model.tensors.map(\.name) == SmallModel.gguf().tensors.map(\.name))
    #expect(Set(model.tensors.map(\.path)).count == 3)
    #expect(try ModelFile(path: folder.path + "/m-00003-of-00003.gguf").tensors.count == model.tensors.count)
  }

  @Test func splitFilesAreChecked() throws {
    let edits: [(String, (inout [GGUFWriter]) -> Void)] = [
      ("split.count", { $0[1].set("split.count", .u16(4)) }), ("split.no", { $0[2].set("split.no", .u16(1)) }),
      ("split.tensors.count", { $0[0].set("split.tensors.count", .i32(7)) }),
      ("split.tensors.count", { $0[1].tensors.removeLast() }), ("duplicate tensor", { $0[1].tensors[0] = $0[0].tensors[0] }),
      ("of-00003.gguf: no such file", { $0.removeLast() }),
    ]
    for (text, edit) in edits {
      let folder = TemporaryFolder()
      let path = try writeSplit(folder, edit)
      #expect(failure { try ModelFile(path: path) }?.description.contains(text) == true, "\(text)")
    }
    var alone = SmallModel.gguf()
    alone.set("split.count", .u16(2))
    #expect(failure { try openGGUF(alone) }?.description.contains("split.count") == true)
  }

  // MARK: Description

  @Test func description() throws {
    var writer = SmallModel.gguf()
    writer.set("general.description", .string(String(repeating: "x", count: 500) + "\n"))
    writer.set("general.newline", .string("a\nb\u{1b}[31m"))
    let description = try openGGUF(writer).describe()
    #expect(description.types.count == 1)
    #expect(description.types.first?.tensorCount == writer.tensors.count)
    #expect(description.byteCount == writer.tensors.reduce(0) { $0 + $1.byteCount })
    #expect(description.elementCount * 4 == description.byteCount)
    let values = Dictionary(uniqueKeysWithValues: description.metadata.map { ($0.key, $0.value) })
    #expect(values["tokenizer.ggml.tokens"] == "[10 × string]")
    #expect(values["general.description"] == String(repeating: "x", count: 60) + "…")
    #expect(values["general.newline"] == "a\\u{a}b\\u{1b}[31m")
    #expect(values["deepseek2.expert_weights_scale"] == "2.5")
    #expect(values["deepseek2.block_count"] == "2")
    let config = try openHuggingFace().describe().metadata
    #expect(config.contains { $0.key == "rms_norm_eps" && $0.value == "1e-06" })
  }

  @Test func errorsAreOneLine() {
    let error = ModelFileError.missingTensor(path: "a\nb", tensor: String(repeating: "x", count: 5000) + "\r\n", expected: [1, 2])
    #expect(!error.description.contains { $0.isNewline })
    #expect(error.description.count < 500)
  }
}
