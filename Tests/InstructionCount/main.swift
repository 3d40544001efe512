// `quire-count write FILE` writes the model, `quire-count run FILE` loads it and runs the steps to be counted under callgrind.
// Two commands, because writing need not be slow. Test code: InstructionCountTests starts it.

import Glibc

func fail(_ text: String, code: Int32) -> Never {
  let line = Array("quire-count: \(text)\n".utf8)
  _ = write(STDERR_FILENO, line, line.count)
  exit(code)
}

let arguments = CommandLine.arguments.dropFirst()
do {
  switch (arguments.first, arguments.dropFirst().first) {
  case ("write", let path?): try MiniModelFile.write(to: path)
  case ("run", let path?): try CountedSteps.run(modelAt: path)
  default: fail("usage: quire-count write|run FILE", code: 2)
  }
} catch {
  fail("\(error)", code: 1)
}
