#!/usr/bin/env bash
# Clients ask, workers that share the path's streams answer each of them alone. Ctrl-C ends it.
set -euo pipefail

command -v redis-server >/dev/null && python3 -c 'import redis' 2>/dev/null || {
  echo "this needs: apt-get install redis-server && python3 -m pip install redis" >&2
  exit 1
}
port=${REDIS_PORT:-8383}
export REDIS_URL=redis://127.0.0.1:$port PATHCAST__BROKER__URL=redis://127.0.0.1:$port
# It keeps nothing.
PAGE=request-response exec "$(dirname "${BASH_SOURCE[0]}")/../start.sh" stream-workers "respond.py respond.py" 8380 8381 8382 \
  "$port" redis-server --port "$port" --bind 127.0.0.1 --save "" --appendonly no --loglevel warning
