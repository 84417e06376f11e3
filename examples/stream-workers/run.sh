#!/usr/bin/env bash
# Clients ask, workers that share the path's streams answer each of them alone. Ctrl-C ends it.
PAGE=request-response exec "$(dirname "${BASH_SOURCE[0]}")/../start-with-redis.sh" stream-workers "respond.py respond.py" \
  8980 8981 8982 8983
