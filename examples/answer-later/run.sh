#!/usr/bin/env bash
# One process takes orders, another one answers them seconds later, each to its client. Ctrl-C ends it.
set -euo pipefail

command -v redis-server >/dev/null && python3 -c 'import redis' 2>/dev/null || {
  echo "this needs: apt-get install redis-server && python3 -m pip install redis" >&2
  exit 1
}
port=${REDIS_PORT:-8583}
export REDIS_URL=redis://127.0.0.1:$port PATHCAST__BROKER__URL=redis://127.0.0.1:$port
# It keeps nothing.
PAGE=request-response exec "$(dirname "${BASH_SOURCE[0]}")/../start.sh" answer-later "take.py answer.py" 8580 8581 8582 \
  "$port" redis-server --port "$port" --bind 127.0.0.1 --save "" --appendonly no --loglevel warning
