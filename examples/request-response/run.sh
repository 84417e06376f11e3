#!/usr/bin/env bash
# Clients ask, a script answers each of them alone. Ctrl-C ends it.
exec "$(dirname "${BASH_SOURCE[0]}")/../start.sh" request-response respond.py 8280 8281 8282
