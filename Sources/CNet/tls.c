// OpenSSL as a filter between memory buffers (two memory BIOs). Knows no sockets.
// References: RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 7301 (ALPN).
#include "CNet.h"

#include <limits.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cnet_tls_context {
  SSL_CTX *context;
  int is_client;
};

struct cnet_tls_session {
  SSL *ssl;
  BIO *input;   // ciphertext from the network; owned by ssl
  BIO *output;  // ciphertext for the network; owned by ssl
};

// Picks http/1.1 when the client offers it; a client that offers only other protocols is refused.
static int select_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_length, const unsigned char *in,
                           unsigned int in_length, void *unused) {
  (void)ssl;
  (void)unused;
  static const unsigned char ours[] = "\x08http/1.1";
  unsigned char *chosen = NULL;
  if (SSL_select_next_proto(&chosen, out_length, ours, sizeof ours - 1, in, in_length) != OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

static cnet_tls_context *context_failed(SSL_CTX *context, const char *what, const char *path, char *error, size_t error_size) {
  unsigned long code = ERR_peek_last_error();
  const char *reason = code ? ERR_reason_error_string(code) : NULL;
  snprintf(error, error_size, "%s %s: %s", what, path, reason ? reason : "unknown OpenSSL error");
  ERR_clear_error();
  SSL_CTX_free(context);
  return NULL;
}

static cnet_tls_context *wrap(SSL_CTX *context, int is_client, char *error, size_t error_size) {
  cnet_tls_context *result = malloc(sizeof *result);
  if (!result) return context_failed(context, "TLS", "memory", error, error_size);
  result->context = context;
  result->is_client = is_client;
  return result;
}

cnet_tls_context *cnet_tls_context_create(const char *certificate_path, const char *key_path, char *error, size_t error_size) {
  ERR_clear_error();
  SSL_CTX *context = SSL_CTX_new(TLS_server_method());
  if (!context) return context_failed(NULL, "TLS", "context", error, error_size);
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(context, select_protocol, NULL);
  if (SSL_CTX_use_certificate_chain_file(context, certificate_path) != 1)
    return context_failed(context, "TLS certificate", certificate_path, error, error_size);
  if (SSL_CTX_use_PrivateKey_file(context, key_path, SSL_FILETYPE_PEM) != 1)
    return context_failed(context, "TLS key", key_path, error, error_size);
  if (SSL_CTX_check_private_key(context) != 1) return context_failed(context, "TLS key", key_path, error, error_size);
  return wrap(context, 0, error, error_size);
}

cnet_tls_context *cnet_tls_client_context_create(const char *trusted_path, char *error, size_t error_size) {
  ERR_clear_error();
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  if (!context) return context_failed(NULL, "TLS", "context", error, error_size);
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
  static const unsigned char protocols[] = "\x08http/1.1";
  if (SSL_CTX_set_alpn_protos(context, protocols, sizeof protocols - 1) != 0)
    return context_failed(context, "TLS", "protocols", error, error_size);
  if (SSL_CTX_load_verify_locations(context, trusted_path, NULL) != 1)
    return context_failed(context, "TLS certificate", trusted_path, error, error_size);
  return wrap(context, 1, error, error_size);
}

void cnet_tls_context_destroy(cnet_tls_context *context) {
  if (!context) return;
  SSL_CTX_free(context->context);
  free(context);
}

cnet_tls_session *cnet_tls_session_create(cnet_tls_context *context) {
  cnet_tls_session *session = calloc(1, sizeof *session);
  if (!session) return NULL;
  session->ssl = SSL_new(context->context);
  session->input = BIO_new(BIO_s_mem());
  session->output = BIO_new(BIO_s_mem());
  if (!session->ssl || !session->input || !session->output) {
    SSL_free(session->ssl);
    BIO_free(session->input);
    BIO_free(session->output);
    free(session);
    return NULL;
  }
  SSL_set_bio(session->ssl, session->input, session->output);
  if (context->is_client) SSL_set_connect_state(session->ssl);
  else SSL_set_accept_state(session->ssl);
  return session;
}

void cnet_tls_session_destroy(cnet_tls_session *session) {
  if (!session) return;
  SSL_free(session->ssl);
  free(session);
}

int cnet_tls_feed(cnet_tls_session *session, const uint8_t *bytes, size_t count) {
  size_t written = 0;
  return count == 0 || (BIO_write_ex(session->input, bytes, count, &written) == 1 && written == count);
}

ptrdiff_t cnet_tls_read(cnet_tls_session *session, uint8_t *bytes, size_t capacity) {
  ERR_clear_error();
  size_t count = 0;
  int result = SSL_read_ex(session->ssl, bytes, capacity, &count);
  if (result == 1) return (ptrdiff_t)count;
  switch (SSL_get_error(session->ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      return CNET_TLS_WANT_MORE;
    case SSL_ERROR_ZERO_RETURN:
      return CNET_TLS_CLOSED;
    default:
      ERR_clear_error();
      return CNET_TLS_FAILED;
  }
}

int cnet_tls_write(cnet_tls_session *session, const uint8_t *bytes, size_t count) {
  // The output BIO grows, so a write is never partial; only an unfinished handshake or a dead session fails.
  ERR_clear_error();
  size_t done = 0;
  while (done < count) {
    size_t written = 0;
    if (SSL_write_ex(session->ssl, bytes + done, count - done, &written) != 1) {
      ERR_clear_error();
      return 0;
    }
    done += written;
  }
  return 1;
}

int cnet_tls_is_ready(cnet_tls_session *session) { return SSL_is_init_finished(session->ssl); }

void cnet_tls_shutdown(cnet_tls_session *session) {
  ERR_clear_error();
  if (SSL_is_init_finished(session->ssl)) SSL_shutdown(session->ssl);
  ERR_clear_error();
}

size_t cnet_tls_pending(cnet_tls_session *session) { return BIO_ctrl_pending(session->output); }

size_t cnet_tls_take(cnet_tls_session *session, uint8_t *bytes, size_t capacity) {
  size_t count = 0;
  if (capacity == 0 || BIO_read_ex(session->output, bytes, capacity, &count) != 1) return 0;
  return count;
}
