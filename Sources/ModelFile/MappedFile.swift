// A read-only memory map of one file. Knows nothing of formats.
//
// Limit, not to be closed from here: when another process truncates the file while it is mapped, touching a page past
// the new end raises SIGBUS and ends the process. Sizes are checked once, at open. Replace model files by rename, never in place.

import FoundationEssentials
import Glibc

/// Owner of one mapping; the bytes are valid as long as the object lives. Immutable, so it may be shared between threads.
final class MappedFile: @unchecked Sendable {
  let path: String
  let bytes: UnsafeRawBufferPointer  // [file size], page aligned
  /// Open as long as the object lives, for those who read much of the file: a read costs less than the page faults of the mapping.
  let descriptor: Int32

  init(path: String) throws(ModelFileError) {
    // O_NONBLOCK: opening a FIFO by mistake must not hang the start.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .cannotOpen(path: path, reason: errorText(errno)) }
    var isKept = false
    defer { if !isKept { close(descriptor) } }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw .cannotOpen(path: path, reason: errorText(errno)) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw .cannotOpen(path: path, reason: "not a regular file") }
    guard let size = Int(exactly: status.st_size), size > 0 else {
      throw .malformed(path: path, byteOffset: 0, reason: "the file is empty")
    }
    guard let base = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0), base != MAP_FAILED else {
      throw .cannotOpen(path: path, reason: "mmap of \(size) bytes: \(errorText(errno))")
    }
    isKept = true  // from here on all members are set, and deinit closes
    self.path = path
    self.descriptor = descriptor
    self.bytes = UnsafeRawBufferPointer(start: base, count: size)
    // The usual accident with downloaded models; every format would only call it nonsense.
    guard !bytes.starts(with: "version https://git-lfs".utf8) else {
      throw .malformed(path: path, byteOffset: 0, reason: "a git-lfs pointer, not the file itself (git lfs pull fetches it)")
    }
  }

  deinit {
    munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
    close(descriptor)
  }

  var size: Int { bytes.count }
}

/// A whole small file as an array; refuses files over `limitBytes`. nil when the file does not exist.
func readSmallFile(_ path: String, limitBytes: Int) throws(ModelFileError) -> [UInt8]? {
  guard access(path, F_OK) == 0 else {
    if errno == ENOENT { return nil }
    throw .cannotOpen(path: path, reason: errorText(errno))
  }
  let file = try MappedFile(path: path)
  guard file.size <= limitBytes else {
    throw .malformed(path: path, byteOffset: limitBytes, reason: "the file has \(file.size) bytes, the limit is \(limitBytes)")
  }
  return [UInt8](file.bytes)
}

/// True if `path` is a directory. Errors other than "not found" count as no.
func isDirectory(_ path: String) -> Bool {
  var status = stat()
  return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
}

/// File names in a directory, sorted; at most `limit` of them.
func fileNames(in directory: String, limit: Int) throws(ModelFileError) -> [String] {
  guard let handle = opendir(directory) else { throw .cannotOpen(path: directory, reason: errorText(errno)) }
  defer { closedir(handle) }
  var names: [String] = []
  while let entry = readdir(handle) {
    // Not entry.pointee.d_name: that copies all 256 bytes of the declared array, past the end of a shorter record.
    guard let nameOffset = MemoryLayout<dirent>.offset(of: \dirent.d_name) else { continue }
    let name = String(cString: (UnsafeRawPointer(entry) + nameOffset).assumingMemoryBound(to: CChar.self))
    names.append(name)
    guard names.count <= limit else { throw .cannotOpen(path: directory, reason: "more than \(limit) files") }
  }
  return names.sorted()
}

/// The absolute path without symbolic links in it, or the path itself when it cannot be resolved.
func resolvedPath(_ path: String) -> String {
  guard let resolved = realpath(path, nil) else { return path }
  defer { free(resolved) }
  return String(cString: resolved)
}

private func errorText(_ code: Int32) -> String {
  switch code {
  case ENOENT: "no such file or directory"
  case EACCES: "permission denied"
  case EISDIR: "is a directory"
  case ENOTDIR: "a part of the path is not a directory"
  case ELOOP: "too many symbolic links"
  case EMFILE, ENFILE: "too many open files"
  case ENOMEM: "out of memory or address space"
  case EIO: "input/output error"
  default: "system error \(code)"
  }
}
