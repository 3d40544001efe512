// The facade: opens a GGUF file (or split) or a Hugging Face directory, checks everything, and keeps the files mapped.
// Knows no kernels and no tokenization.

/// Immutable after init, so it may be shared between threads. Tensors are views into its mapped files.
package final class ModelFile: @unchecked Sendable {
  package enum Format: Sendable, Equatable {
    case gguf(version: Int)
    case huggingFace
  }

  package let path: String
  package let name: String  // general.name, directory name or file stem
  package let format: Format
  package let hyperparameters: Hyperparameters
  package let tensors: [Tensor]  // all, file order
  package let embedding: Tensor  // [vocabulary, D]
  package let outputNorm: Tensor  // [D]
  package let head: Tensor?  // [vocabulary, D]; nil: tied to the embedding
  package let tokenizerSource: TokenizerSource
  package let chatTemplate: String?
  package let warnings: [String]  // one line each, to be printed at start
  package let metadata: [(key: String, value: String)]  // printable, for `quire inspect`
  private let layers: [LayerTensors]
  private let byName: [String: Int]
  private let files: [MappedFile]

  /// What the two readers produce.
  struct Parts {
    var name: String
    var format: Format
    var hyperparameters: Hyperparameters
    var tensors: [Tensor]
    var model: ModelTensors
    var tokenizerSource: TokenizerSource
    var chatTemplate: String?
    var warnings: [String]
    var metadata: [(key: String, value: String)]
    var files: [MappedFile]
  }

  /// Opens a `.gguf` file (any shard of a split) or a Hugging Face directory. Every expected tensor is present with its
  /// exact shape when this returns.
  package init(path: String) throws(ModelFileError) {
    let parts = try isDirectory(path) ? HuggingFaceReader.read(directory: path) : GGUFReader.read(path)
    self.path = path
    name = parts.name
    format = parts.format
    hyperparameters = parts.hyperparameters
    tensors = parts.tensors
    embedding = parts.model.embedding
    outputNorm = parts.model.outputNorm
    head = parts.model.head
    layers = parts.model.layers
    tokenizerSource = parts.tokenizerSource
    chatTemplate = parts.chatTemplate
    warnings = parts.warnings
    metadata = parts.metadata
    files = parts.files
    byName = Dictionary(parts.tensors.enumerated().map { ($1.name, $0) }, uniquingKeysWith: { first, _ in first })
  }

  package func tensor(named name: String) -> Tensor? { byName[name].map { tensors[$0] } }

  /// The weights of layer `index`, 0 ..< hyperparameters.layerCount.
  package func layer(_ index: Int) -> LayerTensors { layers[index] }

  /// Bytes of all files together.
  package var fileBytes: Int { files.reduce(0) { $0 + $1.size } }
}
