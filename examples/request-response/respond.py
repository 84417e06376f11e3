"""Hears what clients of /ws/api send, and answers each of them alone.

Requests come as server-sent events; an answer is a publish with the asker's `_session` on it.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request

API = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8281"
PATH = "/ws/api"
STARTED = time.monotonic()


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


def status():
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return {
        "status": "online",
        "uptime": round(time.monotonic() - STARTED, 1),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def answer_to(payload):
    """`payload` is what the client sent: a string. ValueError when it is not JSON."""
    request = json.loads(payload) if isinstance(payload, str) else payload
    if isinstance(request, dict) and request.get("action") == "get_status":
        return status()
    return request


def send(session, payload):
    """To that client, and to nobody else."""
    request = urllib.request.Request(
        f"{API}/v1/publish{PATH}",
        data=json.dumps({"payload": payload, "_session": session}, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        # 410: the client has gone meanwhile.
        print("not answered:", error.read().decode(), file=sys.stderr)


def main():
    while True:
        try:
            for kind, event in events():
                if kind == "message":
                    msg = event["msg"]
                    print(f"{event['session'][:20]}… sent", msg["payload"], flush=True)
                    try:
                        send(msg["_session"], answer_to(msg["payload"]))
                    # The latter: JSON nested too deeply.
                    except (ValueError, RecursionError) as error:
                        print("error: not JSON, not answered:", error, file=sys.stderr)
                elif kind == "gap":
                    print("too slow: missed", event["missed"], "events", file=sys.stderr)
                else:
                    print(f"{event['session'][:20]}…", kind, flush=True)
        # The latter: it ended in the middle of a line.
        except (OSError, http.client.HTTPException) as error:
            print("the gateway does not answer:", error, file=sys.stderr)
        time.sleep(1)


main()
