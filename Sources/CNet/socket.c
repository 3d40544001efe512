// Socket calls and clocks for Swift: errors come back as -errno, so that no caller races on errno.
// Knows nothing of event loops or HTTP.
#define _GNU_SOURCE
#include "CNet.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

uint64_t cnet_monotonic_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int64_t cnet_wall_seconds(void) { return (int64_t)time(NULL); }

static void write_address(const struct sockaddr_storage *peer, socklen_t length, char *address, size_t address_size) {
  char text[NI_MAXHOST];
  address[0] = 0;
  if (getnameinfo((const struct sockaddr *)peer, length, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0) return;
  // An IPv4 client of a dual-stack socket: "::ffff:192.0.2.1" is shown as "192.0.2.1".
  const char *shown = strncmp(text, "::ffff:", 7) == 0 && strchr(text, '.') ? text + 7 : text;
  if (strlen(shown) < address_size) strcpy(address, shown);
}

int cnet_accept(int listener, char *address, size_t address_size) {
  struct sockaddr_storage peer;
  socklen_t length = sizeof peer;
  int descriptor;
  do {
    descriptor = accept4(listener, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) return -errno;
  int on = 1, idle_seconds = 30, interval_seconds = 10;
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  // A peer that vanished without a word (power, cable) is noticed even while it waits in the queue.
  setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, &idle_seconds, sizeof idle_seconds);
  setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, &interval_seconds, sizeof interval_seconds);
  write_address(&peer, length, address, address_size);
  return descriptor;
}

ptrdiff_t cnet_send(int descriptor, const uint8_t *bytes, size_t count) {
  ssize_t sent;
  do {
    sent = send(descriptor, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

ptrdiff_t cnet_receive(int descriptor, uint8_t *bytes, size_t count) {
  ssize_t received;
  do {
    received = recv(descriptor, bytes, count, MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  return received < 0 ? -errno : received;
}

int cnet_signal_thread(uintptr_t thread, int signal_number) { return pthread_kill((pthread_t)thread, signal_number); }

uintptr_t cnet_current_thread(void) { return (uintptr_t)pthread_self(); }
