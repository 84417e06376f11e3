"""Takes what clients of /ws/api send, says so, and writes down who asked: `_session` is all it takes.

What is written down is there when this process and the gateway's backend are restarted; answer.py
works it off.
"""

import json
import os
import signal
import sys
import time

import redis

from publish import publish
from stream_consumer import Consumer

API = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8581"
REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:8583")
PATH = "/ws/api"
ORDERS = "answer-later:orders"  # a hash: event id → order

connection = redis.Redis.from_url(REDIS, decode_responses=True)


def handle(event):
    if event["type"] != "message":
        return
    msg = event["msg"]
    order = {"_session": msg["_session"], "order": msg["payload"], "taken": time.time()}
    # By the event's id, so that one that comes again is no second order.
    if connection.hsetnx(ORDERS, event["id"], json.dumps(order)):
        print("taken:", msg["payload"], flush=True)
        taken = {"taken": msg["payload"]}
        publish(API, PATH, {"payload": taken, "_session": msg["_session"]})


def main():
    consumer = Consumer(connection, PATH, "orders")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: consumer.stop())
    print("taking orders from", PATH, flush=True)
    consumer.run(handle)


main()
