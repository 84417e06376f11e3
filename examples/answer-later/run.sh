#!/usr/bin/env bash
# One process takes orders, another one answers them seconds later, each to its client. Ctrl-C ends it.
PAGE=request-response exec "$(dirname "${BASH_SOURCE[0]}")/../start-with-redis.sh" answer-later "take.py answer.py" \
  8580 8581 8582 8583
