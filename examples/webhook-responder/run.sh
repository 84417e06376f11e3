#!/usr/bin/env bash
# Clients ask, a backend that pathcast calls answers each of them alone. Ctrl-C ends it.
set -euo pipefail

# Known to the two of them only, and only this time.
WEBHOOK_SECRET=whsec_$(head -c 32 /dev/urandom | base64)
export WEBHOOK_SECRET
export EDIT=s/8883/${WEBHOOK_PORT:-8883}/
PAGE=request-response exec "$(dirname "${BASH_SOURCE[0]}")/../start.sh" webhook-responder respond.py 8880 8881 8882
