#!/usr/bin/env bash
# Starts Node-RED with one of the flows here, without its editor, until Ctrl-C.
#
#   run.sh FLOW.json PORT [CLIENTS_ADDRESS API_ADDRESS]
#
# The flows name a gateway as it is without a configuration; the addresses take that one's place.
# NODE_RED is a folder in which `npm install node-red@4` was done.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
flow=$1 port=$2 clients=${3:-127.0.0.1:8080} api=${4:-127.0.0.1:8081}
red=${NODE_RED:-$here/../../target/node-red}/node_modules/node-red/red.js
[ -e "$red" ] || {
  echo "no Node-RED in ${NODE_RED:-target/node-red}; install it there: npm install node-red@4" >&2
  exit 1
}

# What Node-RED keeps goes with it.
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
sed -e "s/127\.0\.0\.1:8080/$clients/g" -e "s/127\.0\.0\.1:8081/$api/g" "$here/$flow" > "$home/flows.json"
cat > "$home/settings.js" <<SETTINGS
module.exports = {
  uiHost: "127.0.0.1",
  httpAdminRoot: false,
  credentialSecret: false,
  telemetry: { enabled: false, updateNotification: false },
  logging: { console: { level: "info", metrics: false, audit: false } },
};
SETTINGS

trap 'kill "$red_pid" 2>/dev/null || true' INT TERM
node "$red" --userDir "$home" --settings "$home/settings.js" --port "$port" "$home/flows.json" &
red_pid=$!
# A signal ends the first wait early; the second one is for Node-RED's own end.
wait "$red_pid" || true
wait "$red_pid" 2>/dev/null || true
