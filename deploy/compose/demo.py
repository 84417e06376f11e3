"""Something to look at: serves the page of examples/sensor-broadcast, and publishes a made-up reading every second, to the
gateways in turn. Whichever of them holds a client, it gets all."""

import functools
import http.server
import itertools
import json
import os
import pathlib
import random
import threading
import time
import urllib.request

GATEWAYS = ["http://gateway-1:8081", "http://gateway-2:8081"]
KEY = pathlib.Path("/run/secrets/publisher_key").read_text()
PORT, API_PORT = os.environ["PORT"], os.environ["API_PORT"]

WELCOME = f"""
  Open http://localhost:{PORT}/   readings, published to one gateway and the other in turn
       http://localhost:{os.environ["GRAFANA_PORT"]}/   Grafana
       http://localhost:{os.environ["PROMETHEUS_PORT"]}/   Prometheus
       http://localhost:{os.environ["JAEGER_PORT"]}/  Jaeger

  Publish yourself:
       KEY=$(docker compose exec demo cat /run/secrets/publisher_key)
       curl -H "Authorization: Bearer $KEY" --json '{{"payload":"hello"}}' http://localhost:{API_PORT}/v1/publish/ws/sensors
"""


class Pages(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            self.send_response(302)
            self.send_header("Location", f"/sensor-broadcast/?port={PORT}")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        """What was looked at is of no interest."""


def publish(gateway, payload):
    request = urllib.request.Request(
        f"{gateway}/v1/publish/ws/sensors",
        data=json.dumps({"payload": payload}).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    urllib.request.urlopen(request, timeout=5).close()


def towards(value, middle, step):
    """A random step, drawn back to the middle a little."""
    return value + random.gauss(0, step) + (middle - value) * 0.05


pages = http.server.ThreadingHTTPServer(("", 8000), functools.partial(Pages, directory="/examples"))
threading.Thread(target=pages.serve_forever, daemon=True).start()
print(WELCOME, flush=True)

temperature, humidity = 21.5, 45.0
for gateway in itertools.cycle(GATEWAYS):
    temperature, humidity = towards(temperature, 21.5, 0.2), towards(humidity, 45.0, 0.8)
    reading = {
        "type": "sensor_update",
        "temperature": round(temperature, 1),
        "humidity": round(humidity, 1),
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        publish(gateway, reading)
    except OSError as error:
        print(f"{gateway}: {error}", flush=True)
    time.sleep(1)
