"""Answers what clients of /ws/api send, each of them alone; any number of these share the work.

Requests come from the path's streams in Redis, so none is lost while all workers are restarted. One
that was handled twice is answered twice, which does no harm here.
"""

import json
import os
import signal
import sys
import time

import redis

from publish import publish
from stream_consumer import Consumer

API = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8981"
REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:8983")
PATH = "/ws/api"
STARTED = time.monotonic()


def status():
    return {
        "status": "online",
        "uptime": round(time.monotonic() - STARTED, 1),
        "worker": os.getpid(),
    }


def answer_to(payload):
    """`payload` is what the client sent: a string. ValueError when it is not JSON."""
    request = json.loads(payload) if isinstance(payload, str) else payload
    if isinstance(request, dict) and request.get("action") == "get_status":
        return status()
    return request


def handle(event):
    if event["type"] != "message":
        return
    msg = event["msg"]
    print(f"{event['session'][:20]}… sent", msg["payload"], flush=True)
    try:
        answer = answer_to(msg["payload"])
    except (ValueError, RecursionError) as error:
        print("error: not JSON, not answered:", error, file=sys.stderr)
        return
    publish(API, PATH, {"payload": answer, "_session": msg["_session"]})


def main():
    consumer = Consumer(redis.Redis.from_url(REDIS, decode_responses=True), PATH, "responders")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: consumer.stop())
    print("working for", PATH, flush=True)
    consumer.run(handle)


main()
