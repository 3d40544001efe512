// Drives a server with a number of clients at once, each on a thread of its own, and collects what they saw.
// Knows nothing of what the figures are for.

import Dispatch
import Glibc
import Synchronization

/// What to send: `requests` in all, `concurrency` at a time.
package struct LoadPlan: Sendable {
  package var url: ServerURL
  package var model: String
  /// Prompts are drawn from these ids.
  package var tokenIDs: Range<Int>
  package var promptTokens: Int
  package var maxTokens: Int
  package var concurrency: Int
  package var requests: Int

  package init(
    url: ServerURL, model: String, tokenIDs: Range<Int>, promptTokens: Int, maxTokens: Int, concurrency: Int, requests: Int
  ) {
    self.url = url
    self.model = model
    self.tokenIDs = tokenIDs
    self.promptTokens = promptTokens
    self.maxTokens = maxTokens
    self.concurrency = concurrency
    self.requests = requests
  }
}

package struct LoadResult: Sendable {
  package var samples: [CompletionSample] = []
  package var failures = 0
  package var firstError: LoadClientError?
  package var seconds = 0.0
}

package enum LoadRun {
  /// Blocks until every request has been answered or has failed. A client that fails goes on with the next request.
  /// - Parameter onFinished: on the caller's thread, with the number of requests that have ended so far.
  package static func run(_ plan: LoadPlan, onFinished: (Int) -> Void = { _ in }) -> LoadResult {
    let shared = Shared(plan)
    let start = CompletionClient.monotonicNanoseconds()
    let clients = (0..<plan.concurrency).map { _ in LoadClientThread(shared) }
    for count in 0..<plan.requests {
      shared.finished.wait()
      onFinished(count + 1)
    }
    var result = LoadResult()
    for client in clients { result.add(client.join()) }
    result.seconds = Double(CompletionClient.monotonicNanoseconds() - start) * 1e-9
    return result
  }

  /// What the threads share.
  final class Shared: Sendable {
    let plan: LoadPlan
    let finished = DispatchSemaphore(value: 0)
    private let taken = Atomic<Int>(0)

    init(_ plan: LoadPlan) { self.plan = plan }

    /// false: all requests have been taken.
    func takeRequest() -> Bool { taken.add(1, ordering: .relaxed).oldValue < plan.requests }
  }
}

extension LoadResult {
  mutating func add(_ other: LoadResult) {
    samples += other.samples
    failures += other.failures
    firstError = firstError ?? other.firstError
  }
}

/// One client. A real thread, not a Dispatch block: blocked clients would eat the pool that a server in this process works on.
/// `result` is the thread's until `join` returns.
private final class LoadClientThread: @unchecked Sendable {
  private static let stackBytes = 1 << 20

  private let shared: LoadRun.Shared
  private var result = LoadResult()
  private var handle = pthread_t()

  init(_ shared: LoadRun.Shared) {
    self.shared = shared
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, Self.stackBytes)
    defer { pthread_attr_destroy(&attributes) }
    let code = pthread_create(
      &handle, &attributes,
      { @Sendable raw in
        if let raw { Unmanaged<LoadClientThread>.fromOpaque(raw).takeRetainedValue().work() }
        return nil
      }, Unmanaged.passRetained(self).toOpaque())
    precondition(code == 0, "the system refused a client thread")
  }

  func join() -> LoadResult {
    pthread_join(handle, nil)
    return result
  }

  private func work() {
    let plan = shared.plan
    let client = CompletionClient(plan.url)
    var random = SystemRandomNumberGenerator()
    while shared.takeRequest() {
      // Fresh ids each time, so that no prefix cache has the answer.
      let prompt = (0..<plan.promptTokens).map { _ in Int.random(in: plan.tokenIDs, using: &random) }
      do throws(LoadClientError) {
        result.samples.append(try client.complete(model: plan.model, prompt: prompt, maxTokens: plan.maxTokens))
      } catch {
        result.failures += 1
        result.firstError = result.firstError ?? error
      }
      shared.finished.signal()
    }
  }
}
