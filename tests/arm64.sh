#!/usr/bin/env bash
# Whether pathcast compiles for arm64, C parts included, on a machine that cannot run it. Takes some minutes; for Debian and Ubuntu
# on amd64.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v aarch64-linux-gnu-gcc >/dev/null || {
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" apt-get install -qy --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross
}
rustup target add aarch64-unknown-linux-gnu
exec cargo check --locked --target aarch64-unknown-linux-gnu "$@"
