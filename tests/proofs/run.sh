#!/usr/bin/env bash
# The proofs: what is promised of many gateways together, on real ones behind a real load balancer. Needs HAProxy, Prometheus, Redis (apt-get install haproxy
# prometheus redis-server) and what tests/chart.sh installs.
#
#   tests/proofs/run.sh          as docs/rollout.md has it: a release build, some ten minutes, a machine that does nothing else; writes the plot there
#   tests/proofs/run.sh small    the same with few clients, all at once, and with bars that a busy machine meets: part of tests/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH="$PATH:/usr/sbin"
export PYTHONDONTWRITEBYTECODE=1

target=${CARGO_TARGET_DIR:-target}
figures=$target/proofs
mkdir -p "$figures"

# prove NAME SCRIPT OPTION…: runs it, and keeps what it says and its figures.
prove() {
  local name=$1
  shift
  # Far more than it takes.
  timeout --kill-after 10 1200 python3 "tests/proofs/$1.py" "${@:2}" --write "$figures/$name.json" >"$figures/$name.log" 2>&1 && return
  echo "$name failed:"
  tail -n 60 "$figures/$name.log"
  return 1
}

small() {
  local proof failed=0 proofs=()
  prove rolling rolling_restart --clients 90 --witnesses 10 --processes 1 --settle 1 --window 5 --excess 2 & proofs+=($!)
  prove herd herd --clients 90 --witnesses 5 --rate 5 --limits bounded & proofs+=($!)
  prove autoscaling autoscaling --per-pod 30 --faster 60 --stay 6 --window 2 & proofs+=($!)
  prove two-builds two_builds --clients 30 --window 2 & proofs+=($!)
  for proof in "${proofs[@]}"; do wait "$proof" || failed=1; done
  return $failed
}

whole() {
  local name
  ulimit -n "$(ulimit -Hn)"
  for name in rolling-hint rolling-ignored herd autoscaling-adapter autoscaling-keda two-builds; do
    printf '\n== %s\n' "$name"
    case $name in
      rolling-hint) prove "$name" rolling_restart ;;
      rolling-ignored) prove "$name" rolling_restart --manner 3 ;;
      herd) prove "$name" herd ;;
      autoscaling-*) prove "$name" autoscaling --by "${name#*-}" ;;
      two-builds) prove "$name" two_builds ;;
    esac
    cat "$figures/$name.log"
  done
  python3 tests/proofs/plot.py "$figures/rolling-hint.json" "$figures/rolling-ignored.json" >docs/rolling-restart.svg
}

python3 -m unittest discover --start-directory tests/proofs --buffer
# PATHCAST names another build of the gateway.
case ${1:-} in
  small)
    [ -n "${PATHCAST:-}" ] || cargo build --locked --quiet
    export PATHCAST=${PATHCAST:-$(cd "$target" && pwd)/debug/pathcast}
    small
    ;;
  "")
    [ -n "${PATHCAST:-}" ] || cargo build --locked --release --quiet
    export PATHCAST=${PATHCAST:-$(cd "$target" && pwd)/release/pathcast}
    whole
    ;;
  *)
    echo "usage: tests/proofs/run.sh [small]" >&2
    exit 2
    ;;
esac
