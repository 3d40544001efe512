// What Swift cannot reach by itself on Linux: epoll, eventfd, signalfd, accept4 with the peer's
// address as text, and OpenSSL (macros, callbacks) and zlib behind a handful of plain functions, so
// that their headers stay out of the Swift importer. Knows nothing of HTTP or of Quire.
#pragma once

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#ifdef __cplusplus
extern "C" {
#endif

// CLOCK_MONOTONIC in nanoseconds; CLOCK_REALTIME in whole seconds.
uint64_t cnet_monotonic_nanoseconds(void);
int64_t cnet_wall_seconds(void);

// Accepts one connection: non-blocking, close-on-exec, no Nagle delay, keep-alive probes. Writes the
// peer's numeric address (at most address_size bytes with the NUL; "" when unknown).
// Returns the descriptor, or -errno.
int cnet_accept(int listener, char *address, size_t address_size);

// send(2) without SIGPIPE. Returns the bytes sent, or -errno.
ptrdiff_t cnet_send(int descriptor, const uint8_t *bytes, size_t count);
// recv(2). Returns the bytes received, 0 at the end of the stream, or -errno.
ptrdiff_t cnet_receive(int descriptor, uint8_t *bytes, size_t count);

// pthread_kill without pthread_t in the signature (tests of signal watching).
int cnet_signal_thread(uintptr_t thread, int signal_number);
uintptr_t cnet_current_thread(void);

// TLS (1.2 and newer, ALPN http/1.1) as a filter between memory buffers: no socket inside,
// hence no SIGPIPE and no hidden system calls.
typedef struct cnet_tls_context cnet_tls_context;
typedef struct cnet_tls_session cnet_tls_session;

enum {
  CNET_TLS_WANT_MORE = 0,  // nothing to read until more ciphertext comes
  CNET_TLS_CLOSED = -1,    // the peer sent close_notify
  CNET_TLS_FAILED = -2,    // protocol error; an alert may be waiting in the output
};

// NULL on failure, with one line of reason in error (error_size bytes with the NUL).
cnet_tls_context *cnet_tls_context_create(const char *certificate_path, const char *key_path, char *error, size_t error_size);
// A client's context that trusts exactly the certificates in the file (for loopback tools and tests).
cnet_tls_context *cnet_tls_client_context_create(const char *trusted_path, char *error, size_t error_size);
void cnet_tls_context_destroy(cnet_tls_context *context);
cnet_tls_session *cnet_tls_session_create(cnet_tls_context *context);
void cnet_tls_session_destroy(cnet_tls_session *session);
// Gives ciphertext from the network. Returns 1, or 0 when out of memory.
int cnet_tls_feed(cnet_tls_session *session, const uint8_t *bytes, size_t count);
// Takes plaintext out: > 0 bytes, or one of the codes above. Drives the handshake as well.
ptrdiff_t cnet_tls_read(cnet_tls_session *session, uint8_t *bytes, size_t capacity);
// Encrypts all of bytes. Returns 1, or 0 on failure (for instance before the handshake is done).
int cnet_tls_write(cnet_tls_session *session, const uint8_t *bytes, size_t count);
// Whether the handshake is done.
int cnet_tls_is_ready(cnet_tls_session *session);
// Queues close_notify.
void cnet_tls_shutdown(cnet_tls_session *session);
// Ciphertext waiting for the network, and taking it (returns the bytes taken).
size_t cnet_tls_pending(cnet_tls_session *session);
size_t cnet_tls_take(cnet_tls_session *session, uint8_t *bytes, size_t capacity);

// The largest gzip output of count input bytes; compressing them (returns the bytes written, 0 on failure);
// expanding a whole gzip member (returns the bytes written, or -1 on failure or lack of room).
size_t cnet_gzip_bound(size_t count);
size_t cnet_gzip(const uint8_t *bytes, size_t count, uint8_t *output, size_t capacity, int level);
ptrdiff_t cnet_gunzip(const uint8_t *bytes, size_t count, uint8_t *output, size_t capacity);

#ifdef __cplusplus
}
#endif
