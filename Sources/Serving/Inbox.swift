// The way into the engine thread: any thread posts, the engine takes everything at once and sleeps when there is nothing.
// Knows nothing of what the messages mean.

import Glibc

/// A list behind a mutex and a condition variable. One consumer.
package final class Inbox<Message: Sendable>: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let arrived = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var messages: [Message] = []

  package init() {
    mutex.initialize(to: pthread_mutex_t())
    arrived.initialize(to: pthread_cond_t())
    pthread_mutex_init(mutex, nil)
    pthread_cond_init(arrived, nil)
  }

  deinit {
    pthread_cond_destroy(arrived)
    pthread_mutex_destroy(mutex)
    arrived.deallocate()
    mutex.deallocate()
  }

  package func post(_ message: Message) {
    pthread_mutex_lock(mutex)
    let wasEmpty = messages.isEmpty
    messages.append(message)
    pthread_mutex_unlock(mutex)
    if wasEmpty { pthread_cond_signal(arrived) }
  }

  /// Moves everything into `taken` (emptied first). Sleeps until there is something if `waits`.
  package func take(into taken: inout [Message], waits: Bool) {
    taken.removeAll(keepingCapacity: true)
    pthread_mutex_lock(mutex)
    while waits && messages.isEmpty { pthread_cond_wait(arrived, mutex) }
    swap(&taken, &messages)
    pthread_mutex_unlock(mutex)
  }
}
