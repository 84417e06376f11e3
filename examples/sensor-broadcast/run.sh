#!/usr/bin/env bash
# One reading a second, to everybody who looks. Ctrl-C ends it.
exec "$(dirname "${BASH_SOURCE[0]}")/../start.sh" sensor-broadcast publish.py 8180 8181 8182
