"""Works off the orders that take.py wrote down, and answers each to the client that sent it."""

import json
import os
import sys
import time

import redis

from publish import publish

API = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8581"
REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:8583")
PATH = "/ws/api"
ORDERS = "answer-later:orders"
WORK_SECONDS = 2.0

connection = redis.Redis.from_url(REDIS, decode_responses=True)


def answer(number, order):
    done = {"done": order["order"], "seconds": round(time.time() - order["taken"], 1)}
    is_there = publish(API, PATH, {"payload": done, "_session": order["_session"]})
    # Only then: if this process ends in between, the next one answers again.
    connection.hdel(ORDERS, number)
    print("answered:" if is_there else "nobody waits any more for:", order["order"], flush=True)


def main():
    print("working off orders", flush=True)
    while True:
        try:
            for number, text in connection.hscan_iter(ORDERS):
                order = json.loads(text)
                if time.time() - order["taken"] >= WORK_SECONDS:
                    answer(number, order)
        except (redis.RedisError, OSError) as error:
            print("later:", error, file=sys.stderr)
        time.sleep(0.2)


main()
