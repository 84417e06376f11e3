"""Sends what clients of /ws/prices wish for to the exchange: one POST to the upstream.

What the exchange sends needs no program: the upstream's `to` broadcasts it.
"""

import json
import re
import sys
import time
import urllib.error
import urllib.request

API = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8781"
PATH, UPSTREAM = "/ws/prices", "exchange"
SYMBOL = re.compile("[A-Z]{1,8}")


def events():
    """The path's events, from now on, as (type, event); ends when the stream does."""
    # The gateway writes something every 15 s: silence for longer means that it is gone.
    with urllib.request.urlopen(f"{API}/v1/events{PATH}", timeout=45) as stream:
        print("listening to", PATH, flush=True)
        kind = None
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def wish(symbol):
    request = urllib.request.Request(
        f"{API}/v1/upstreams/{UPSTREAM}",
        data=json.dumps({"payload": {"watch": symbol}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            # "sent", or "queued" while the exchange is away: then it goes out when that is back.
            print("wished for", symbol, "-", json.load(answer)["result"], flush=True)
    except urllib.error.HTTPError as error:
        print("not sent:", error.read().decode(), file=sys.stderr)


def main():
    while True:
        try:
            for kind, event in events():
                # Whatever comes from clients is looked at before it goes anywhere.
                if kind == "message" and SYMBOL.fullmatch(str(event["msg"]["payload"])):
                    wish(event["msg"]["payload"])
        except OSError as error:
            print("the gateway does not answer:", error, file=sys.stderr)
        time.sleep(1)


main()
