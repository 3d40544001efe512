# What both commands of the README need, once: Swift, the two C libraries, a place to be. Sourced by deploy/run and deploy/test, which
# names further programs that it needs in EXTRA_PROGRAMS. Idempotent; installs nothing that is there already, and names what it installs.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '%s\n' "$*" >&2; }

require_swift() {
  # A tarball toolchain in one of the usual places counts, also when a service's PATH lacks it.
  local place
  for place in "" /opt/swift/usr/bin /usr/local/swift/usr/bin "$HOME/.local/share/swiftly/bin"; do
    [ -n "$place" ] && [ -x "$place/swift" ] && PATH="$place:$PATH"
    command -v swift >/dev/null 2>&1 && break
  done
  if ! command -v swift >/dev/null 2>&1; then
    say "deploy: Swift is not installed (or not on PATH). Quire needs Swift 6.2 or newer:"
    say "  https://www.swift.org/install/linux/   (Debian 12: the tarball, unpacked, its usr/bin on PATH)"
    exit 2
  fi
  local version
  version="$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9]*\.[0-9]*\).*/\1/p' | head -n 1)"
  if [ -z "$version" ] || [ "$(printf '%s\n6.2\n' "$version" | sort -V | head -n 1)" != "6.2" ]; then
    say "deploy: Swift ${version:-of an unknown version} is too old; Quire needs 6.2 or newer: https://www.swift.org/install/linux/"
    exit 2
  fi
}

# Debian package -> a header that shows it is there (so that other distributions, with other package names, pass too).
require_library() {
  local package="$1" header="$2"
  if [ -e "/usr/include/$header" ] || ls /usr/include/*-linux-gnu/"$header" >/dev/null 2>&1; then return; fi
  MISSING+=("$package")
}

# A program whose Debian package has its name.
require_program() {
  command -v "$1" >/dev/null 2>&1 || MISSING+=("$1")
}

require_packages() {
  MISSING=()
  require_library libssl-dev openssl/ssl.h
  require_library zlib1g-dev zlib.h
  local program
  for program in ${EXTRA_PROGRAMS:-}; do require_program "$program"; done
  [ ${#MISSING[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null 2>&1; then
    say "deploy: please install what Debian calls ${MISSING[*]} (libssl-dev, zlib1g-dev: the development files of OpenSSL and zlib)"
    exit 2
  fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || { say "deploy: run as root once: apt-get install ${MISSING[*]}"; exit 2; }
    as_root=(sudo)
  fi
  say "deploy: installing ${MISSING[*]} (apt-get)"
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${MISSING[@]}" >/dev/null 2>&1; then
    "${as_root[@]}" apt-get update -qq >/dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${MISSING[@]}" >/dev/null
  fi
}

require_swift
require_packages
