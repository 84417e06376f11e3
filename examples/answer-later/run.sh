#!/usr/bin/env bash
# One process takes orders, another one answers them seconds later, each to its client. Ctrl-C ends it.
here=$(dirname "${BASH_SOURCE[0]}")
PAGE=request-response exec "$here/../start.sh" answer-later "take.py answer.py" 8480 8481 8482 8483
