// What touches the whole process: signals, and running out of descriptors (in a child process of its own).

import CNet
import Glibc
import Testing

@testable import HTTP

@Suite struct ProcessTests {
  @Test func signalsBecomeCalls() throws {
    let probe = Probe()
    let seen = Locked<[Int32]>([])
    let watcher = try SignalWatcher(signals: [SIGUSR1, SIGUSR2]) { signal in seen.withLock { $0.append(signal) } }
    #expect(probe.eventually { watcher.readerThread.withLock { $0 != nil } })
    let thread = try #require(watcher.readerThread.withLock { $0 })
    // To the watching thread: other threads of the test process do not block these signals.
    #expect(cnet_signal_thread(thread, SIGUSR2) == 0)
    #expect(probe.eventually { seen.withLock { $0.contains(SIGUSR2) } })
    #expect(cnet_signal_thread(thread, SIGUSR1) == 0)
    #expect(probe.eventually { seen.withLock { $0.count } == 2 })
    watcher.cancel()
  }

  @Test func outOfDescriptorsIsSurvived() async {
    await #expect(processExitsWith: .success) {
      let test = try TestServer { $0.loopCount = 1 }
      #expect(try test.client().get("/hello").status == 200)
      // Sockets made before the limit, so that only the server runs out.
      let clients = (0..<60).map { _ in socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0) }
      let highest = clients.max() ?? 0
      var limit = rlimit(rlim_cur: rlim_t(highest + 6), rlim_max: rlim_t(highest + 6))
      #expect(setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0)
      for client in clients { #expect(TestClient.connect(client, port: test.server.port, isIPv6: false) == 0) }
      // Some are served, the others are turned away at once instead of left hanging.
      var served = 0
      for client in clients {
        let request = Array("GET /hello HTTP/1.0\r\n\r\n".utf8)
        _ = send(client, request, request.count, Int32(MSG_NOSIGNAL))
        var byte: UInt8 = 0
        if recv(client, &byte, 1, 0) == 1 { served += 1 }
      }
      #expect(served >= 1)
      for client in clients { close(client) }
      #expect(test.probe.eventually { test.server.connectionCount == 0 })
      // The loop neither spins nor is deaf afterwards.
      #expect(try test.client().get("/hello").text == "hello")
      let before = test.counters()
      usleep(100_000)
      #expect(test.counters().turns - before.turns <= 4)
      exit(0)
    }
  }
}
