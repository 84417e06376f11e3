"""A worker as the tests need one: hears a path by the examples' consumer, and writes down in Redis
what it handles, in one list for all workers.

    worker.py REDIS_PORT PATH GROUP [MILLISECONDS_PER_EVENT]
"""

import pathlib
import sys
import time

import redis

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

from stream_consumer import Consumer  # noqa: E402

port, path, group = sys.argv[1:4]
seconds = float(sys.argv[4]) / 1000 if len(sys.argv) > 4 else 0
connection = redis.Redis(port=int(port), decode_responses=True)


def handle(event):
    if seconds:
        time.sleep(seconds)
    line = f"{event['id']} {event['session']} {event['seq']} {event['type']} {consumer.name}"
    connection.rpush("handled", line)


consumer = Consumer(connection, path, group)
consumer.run(handle)
