#!/usr/bin/env bash
# What all examples do: start the gateway with the example's pathcast.toml, serve its page, run its
# scripts, say what to open, and stop all of it on Ctrl-C.
#
#   start.sh EXAMPLE SCRIPTS CLIENTS_PORT API_PORT PAGE_PORT [PORT PROGRAM…]
#
# The program, where there is one, is started first, and listens on that port.
# The ports can be set from outside, by CLIENTS_PORT, API_PORT and PAGE_PORT. PAGE names another example
# whose page is served. EDIT, an expression of sed, changes the example's configuration. PATHCAST names a
# gateway that is built already; without it cargo builds one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

example=$1 scripts=$2
clients_port=${CLIENTS_PORT:-$3} api_port=${API_PORT:-$4} page_port=${PAGE_PORT:-$5}
export PATHCAST__CLIENTS__LISTEN=127.0.0.1:$clients_port
export PATHCAST__API__LISTEN=127.0.0.1:$api_port
export PATHCAST__LOG__LEVEL=${PATHCAST__LOG__LEVEL:-warn}

# What examples share lies beside this script. Unbuffered, lines of two of them would mix.
export PYTHONPATH=$PWD PYTHONUNBUFFERED=

config=$example/pathcast.toml edited=
if [ -n "${EDIT:-}" ]; then
  edited=$(mktemp)
  sed "$EDIT" "$config" > "$edited"
  config=$edited
fi

# Started with `&` by a script, a program ignores Ctrl-C; so this script passes it on, as TERM, and to the gateway, which
# listens to it all the same, as INT: whoever sits here does not wait for its clients to be moved. The last one goes first, so
# that each finds whom it has something to tell.
gateway_pid=
stop() {
  trap - EXIT INT TERM
  local job
  for job in $(jobs -p | tac); do
    kill -s "$([ "$job" = "$gateway_pid" ] && echo INT || echo TERM)" "$job" 2>/dev/null || true
    wait "$job" || true
  done
  [ -z "$edited" ] || rm -f "$edited"
}
trap stop EXIT
trap 'exit 0' INT TERM

if [ -n "${PATHCAST:-}" ]; then
  gateway=("$PATHCAST")
else
  cargo build --release
  gateway=(cargo run --release --quiet --)
fi

# listens PORT NAME: waits until the program started last listens there.
listens() {
  until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
    kill -0 $! 2>/dev/null || { echo "$2 did not start" >&2; exit 1; }
    sleep 0.1
  done
}

if [ $# -gt 6 ]; then
  "${@:7}" &
  listens "$6" "$7"
fi
"${gateway[@]}" --config "$config" &
gateway_pid=$!
listens "$api_port" "the gateway"
python3 -m http.server --bind 127.0.0.1 "$page_port" >/dev/null &
listens "$page_port" "the page's server"
for script in $scripts; do
  python3 "$example/$script" "http://127.0.0.1:$api_port" &
done

page=http://127.0.0.1:$page_port/${PAGE:-$example}/
[ "$clients_port" = "$3" ] && [ -z "${PAGE:-}" ] || page+="?port=$clients_port"
printf '\n  Open %s   (Ctrl-C ends everything)\n\n' "$page"

# They all run until somebody says stop; one that ends by itself has failed.
wait -n || true
echo "a part of the example ended; stopping the rest" >&2
exit 1
