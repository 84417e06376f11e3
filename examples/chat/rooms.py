"""Who is in which room, and what is said there: hears all rooms, and publishes to each.

A client of /ws/rooms/tea?name=Ada is Ada in the room `tea`, and what it sends is said there. It hears
JSON of three types: `here` (to the newcomer alone: who is there), `who` (somebody came or left) and
`said`.
"""

import http.client
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

API = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8381"
PATTERN = "/ws/rooms/{room}"
NAME_CHARS_MAX = 32

# The concrete path → session → name.
rooms = {}


def events():
    """The events of all rooms, from now on, as (type, event); ends when the stream does."""
    url = f"{API}/v1/events{urllib.parse.quote(PATTERN)}"
    # The gateway writes something every 15 s: silence for longer means that it is gone.
    with urllib.request.urlopen(url, timeout=45) as stream:
        print("listening to", PATTERN, flush=True)
        kind = None
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def publish(path, payload, session=None):
    """To everybody in the room; with a session to that client alone."""
    msg = {"payload": payload}
    if session:
        msg["_session"] = {"type": "websocket", "id": session}
    request = urllib.request.Request(
        f"{API}/v1/publish{path}",
        data=json.dumps(msg).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        # 410: the client has gone meanwhile. 422: there is nothing to send.
        print("not sent:", error.read().decode(), file=sys.stderr)


def name_of(event):
    """What the client calls itself in its URL."""
    query = urllib.parse.parse_qs(event.get("query", ""))
    return query.get("name", ["somebody"])[0][:NAME_CHARS_MAX]


def hear(kind, event):
    path, session = event["path"], event["session"]
    room = rooms.setdefault(path, {})
    if kind == "connect":
        room[session] = name_of(event)
        publish(path, {"type": "here", "names": sorted(room.values())}, session)
        publish(path, {"type": "who", "name": room[session], "came": True})
    elif kind == "message" and isinstance(event["msg"]["payload"], str):
        # A client that came before this program was started has no name here.
        name = room.get(session, "somebody")
        said = {"name": name, "text": event["msg"]["payload"], "time": event["time"]}
        publish(path, {"type": "said"} | said)
    elif kind == "disconnect":
        name = room.pop(session, "somebody")
        if not room:
            del rooms[path]
        publish(path, {"type": "who", "name": name, "came": False})


def main():
    while True:
        try:
            for kind, event in events():
                if kind == "gap":
                    print("too slow: missed", event["missed"], "events", file=sys.stderr)
                else:
                    print(event["path"], kind, f"{event['session'][:20]}…", flush=True)
                    hear(kind, event)
        # The latter: it ended in the middle of a line.
        except (OSError, http.client.HTTPException) as error:
            print("the gateway does not answer:", error, file=sys.stderr)
        time.sleep(1)


main()
