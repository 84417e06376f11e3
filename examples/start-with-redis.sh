#!/usr/bin/env bash
# As start.sh, with a Redis of the example's own, which keeps nothing. REDIS_PORT sets its port from outside.
#
#   start-with-redis.sh EXAMPLE SCRIPTS CLIENTS_PORT API_PORT PAGE_PORT REDIS_PORT
set -euo pipefail

command -v redis-server >/dev/null && python3 -c 'import redis' 2>/dev/null || {
  echo "this needs: apt-get install redis-server && python3 -m pip install redis" >&2
  exit 1
}
port=${REDIS_PORT:-$6}
export REDIS_URL=redis://127.0.0.1:$port PATHCAST__BROKER__URL=redis://127.0.0.1:$port
exec "$(dirname "${BASH_SOURCE[0]}")/start.sh" "${@:1:5}" \
  "$port" redis-server --port "$port" --bind 127.0.0.1 --save "" --appendonly no --loglevel warning
