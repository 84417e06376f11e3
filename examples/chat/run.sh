#!/usr/bin/env bash
# Rooms in which everybody hears everybody. Ctrl-C ends it.
exec "$(dirname "${BASH_SOURCE[0]}")/../start.sh" chat rooms.py 8380 8381 8382
