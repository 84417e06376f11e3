#!/usr/bin/env bash
# Clients ask, workers that share the path's streams answer each of them alone. Ctrl-C ends it.
here=$(dirname "${BASH_SOURCE[0]}")
PAGE=request-response exec "$here/../start.sh" stream-workers "respond.py respond.py" 8380 8381 8382 8383
