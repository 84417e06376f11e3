"""Publishes a made-up reading every second: one POST, and every client of the path has it."""

import datetime
import json
import random
import sys
import time
import urllib.error
import urllib.request

API = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8181"


def publish(path, payload):
    """Broadcasts to everybody on the path; what the gateway says to it."""
    request = urllib.request.Request(
        f"{API}/v1/publish{path}",
        data=json.dumps({"payload": payload}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def towards(value, middle, step):
    """A random step, drawn back to the middle a little."""
    return value + random.gauss(0, step) + (middle - value) * 0.05


temperature, humidity = 21.5, 45.0
while True:
    temperature, humidity = towards(temperature, 21.5, 0.2), towards(humidity, 45.0, 0.8)
    now = datetime.datetime.now(datetime.timezone.utc)
    reading = {
        "type": "sensor_update",
        "temperature": round(temperature, 1),
        "humidity": round(humidity, 1),
        "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    try:
        answer = publish("/ws/sensors", reading)
        # `receivers` counts pods, not clients: with one pod, somebody is there or nobody is.
        heard = "heard" if answer["receivers"] else "nobody is there"
        print(f"{reading['temperature']} °C  {reading['humidity']} %  ({heard})", flush=True)
    except urllib.error.HTTPError as error:
        print("refused:", error.read().decode(), file=sys.stderr)
    except OSError as error:
        print("the gateway does not answer:", error, file=sys.stderr)
    time.sleep(1)
