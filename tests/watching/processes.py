"""What a test of the dashboard starts: gateways with a bit of everything, and Prometheus as the project configures it."""

import hashlib
import json
import math
import time

from proofs import programs
from proofs.programs import ROOT

RULES = ROOT / "deploy/prometheus/alerts.yaml"
KEY = "a-key-for-everything-here"
METRICS_KEY = "a-key-for-metrics-only"

CONFIG = """
[[api.key]]
name = "all"
sha256 = "{key}"
scopes = ["admin"]
[[api.key]]
name = "prometheus"
sha256 = "{metrics_key}"
scopes = ["metrics"]
[limits]
sessions_max = 2000
sessions_soft_max = 1000
outbox_bytes_max = "256KiB"
slow_after = "2s"
[drain]
settle = "3s"
window = "2s"
timeout = "60s"
[webhook]
timeout = "60s"
[[path]]
path = "/ws/sensors"
compress = "64B"
[[path]]
path = "/ws/rooms/{{room}}"
[[path]]
path = "/ws/slow"
[[path]]
path = "/ws/latest"
slow = "latest"
[[path]]
path = "/ws/api"
backend = {{ webhook = "http://127.0.0.1:{backend}/", on_error = "drop" }}
[[path]]
path = "/ws/work"
backend = {{ stream = true }}
[[upstream]]
name = "feed"
url = "ws://127.0.0.1:{upstream}/"
to = "/ws/sensors"
reconnect_max = "1s"
[[upstream]]
name = "away"
url = "ws://127.0.0.1:{nobody}/"
reconnect_max = "1s"
"""


class Gateway(programs.Gateway):
    def __init__(self, name, redis, **values):
        hashes = {"key": hashlib.sha256(KEY.encode()).hexdigest(), "metrics_key": hashlib.sha256(METRICS_KEY.encode()).hexdigest()}
        super().__init__(name, redis, CONFIG.format(**hashes, **values))

    def call(self, method, target, body=None, content_type="application/json", key=KEY):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": content_type}
        return programs.call(f"http://{self.instance}{target}", body, headers, method)

    def publish(self, path, payload, query=""):
        return self.call("POST", f"/v1/publish{path}{query}", json.dumps({"payload": payload}))[0]

    def metrics(self):
        return self.call("GET", "/metrics", key=METRICS_KEY)[1]


class Prometheus(programs.Prometheus):
    """Started with the project's own configuration; only addresses and how often it looks are others.

    The same pods are scraped twice: as they are, and with the labels that they have on Kubernetes.
    """

    def __init__(self, gateways):
        targets = [gateway.instance for gateway in gateways]
        config = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
        for there, here in (
            ("scrape_interval: 5s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            ("- alerts.yaml", f"- {RULES}"),
            ("/run/secrets/metrics_key", "metrics_key"),
            ('["gateway-1:8081", "gateway-2:8081"]', json.dumps(targets)),
        ):
            assert there in config, f"prometheus.yml has no {there}"
            config = config.replace(there, here)
        config += "  - job_name: kubernetes/pathcast\n    authorization: { credentials_file: metrics_key }\n    static_configs:\n"
        for number, target in enumerate(targets):
            config += f"      - {{ targets: [{target!r}], labels: {{ cluster: east, namespace: ws, pod: pathcast-{number} }} }}\n"
        super().__init__(config)
        (self.root / "metrics_key").write_text(METRICS_KEY + "\n")

    def value(self, query):
        """Of the first series, now; None when there is none."""
        series = self.ask("query", query=query)["result"]
        return float(series[0]["value"][1]) if series else None

    def numbers(self, query):
        """What a panel would draw of the last half minute."""
        now = time.time()
        series = self.ask("query_range", query=query, start=now - 30, end=now, step=1)["result"]
        values = [float(value) for one in series for _, value in one["values"]]
        return [value for value in values if not math.isnan(value)]
