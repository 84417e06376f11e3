#!/usr/bin/env bash
# What another WebSocket server sends, to everybody who looks, and back what they ask for. Ctrl-C ends it.
set -euo pipefail

port=${REMOTE_PORT:-8783}
export EDIT=s/8783/$port/
exec "$(dirname "${BASH_SOURCE[0]}")/../start.sh" upstream-bridge wishes.py 8780 8781 8782 \
  "$port" python3 upstream-bridge/exchange.py "$port"
