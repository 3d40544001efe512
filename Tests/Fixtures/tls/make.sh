#!/bin/sh
# Makes the self-signed certificate of the TLS tests (localhost, 127.0.0.1, ::1; valid for 100 years; worth nothing).
set -eu
cd "$(dirname "$0")"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=localhost" \
  -addext "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1" -keyout key.pem -out certificate.pem
