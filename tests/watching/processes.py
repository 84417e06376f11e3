"""What a test of the dashboard starts: gateways and Prometheus, ended with it, and how it waits for them."""

import hashlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "deploy/prometheus/alerts.yaml"
BUILT = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/pathcast"
BINARY = os.environ.get("PATHCAST", str(BUILT))
KEY = "a-key-for-everything-here"
METRICS_KEY = "a-key-for-metrics-only"
DEADLINE_S = 40
# Settle, window and timeout together.
DRAIN_S = 3 + 2 + 2

# Whatever the environment says of proxies, this is loopback.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

CONFIG = """
[clients]
listen = "127.0.0.1:0"
[api]
listen = "127.0.0.1:0"
[[api.key]]
name = "all"
sha256 = "{key}"
scopes = ["admin"]
[[api.key]]
name = "prometheus"
sha256 = "{metrics_key}"
scopes = ["metrics"]
[broker]
url = "redis+unix://{folder}/redis.sock"
[limits]
sessions_max = 2000
sessions_soft_max = 1000
outbox_bytes_max = "256KiB"
slow_after = "2s"
[drain]
settle = "3s"
window = "2s"
timeout = "2s"
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

children = []


def eventually(what, is_true):
    """Asks until the answer is something true, and returns it."""
    until = time.monotonic() + DEADLINE_S
    while True:
        answer = is_true()
        if answer:
            return answer
        if time.monotonic() > until:
            sys.exit(f"not within {DEADLINE_S} s: {what() if callable(what) else what}")
        time.sleep(0.1)


def child(command, log, **options):
    """A process that is ended with this one."""
    with open(log, "ab") as file:
        process = subprocess.Popen([str(word) for word in command], **{"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL, **options})
    children.append(process)
    return process


def end_children():
    """At once: what they would leave in good order is thrown away with the folder."""
    for process in children:
        process.kill()
        process.wait()


class Gateway:
    def __init__(self, name, folder, **values):
        self.name = name
        config = folder / f"{name}.toml"
        hashes = {"key": hashlib.sha256(KEY.encode()).hexdigest(), "metrics_key": hashlib.sha256(METRICS_KEY.encode()).hexdigest()}
        config.write_text(CONFIG.format(folder=folder, **hashes, **values))
        self.log = folder / f"{name}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PATHCAST")}
        self.child = child([BINARY, "--config", config], self.log, env=environment, stdout=subprocess.PIPE)
        said = ""
        while "  api " not in said:
            line = self.child.stdout.readline().decode()
            if not line:
                sys.exit(f"{name} did not start: {self.log.read_text()}")
            said += line
        host, port = re.search(r"clients \w+://([\d.]+):(\d+)", said).groups()
        self.clients = (host, int(port))
        self.api = re.search(r"api http://(\S+)", said)[1]
        eventually(f"{name} is ready", lambda: self.call("GET", "/readyz")[0] == 200)

    def call(self, method, target, body=None, content_type="application/json", key=KEY):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": content_type}
        request = urllib.request.Request(f"http://{self.api}{target}", body and body.encode(), headers, method=method)
        try:
            with DIRECT.open(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def publish(self, path, payload, query=""):
        return self.call("POST", f"/v1/publish{path}{query}", json.dumps({"payload": payload}))[0]

    def metrics(self):
        return self.call("GET", "/metrics", key=METRICS_KEY)[1]


class Prometheus:
    """Started with the project's own configuration; only addresses and how often it looks are others.

    The same pods are scraped twice: as they are, and with the labels that they have on Kubernetes.
    """

    def __init__(self, folder, gateways):
        key = folder / "metrics_key"
        key.write_text(METRICS_KEY + "\n")
        targets = [gateway.api for gateway in gateways]
        config = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
        for there, here in (
            ("scrape_interval: 5s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            ("- alerts.yaml", f"- {RULES}"),
            ("/run/secrets/metrics_key", str(key)),
            ('["gateway-1:8081", "gateway-2:8081"]', json.dumps(targets)),
        ):
            assert there in config, f"prometheus.yml has no {there}"
            config = config.replace(there, here)
        config += f"  - job_name: kubernetes/pathcast\n    authorization: {{ credentials_file: {key} }}\n    static_configs:\n"
        for number, target in enumerate(targets):
            config += f"      - {{ targets: [{target!r}], labels: {{ cluster: east, namespace: ws, pod: pathcast-{number} }} }}\n"
        file = folder / "prometheus.yml"
        file.write_text(config)
        self.log = folder / "prometheus.log"
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", "--web.listen-address=127.0.0.1:0"]
        self.child = child(command, self.log)
        self.url = "http://" + eventually("Prometheus listens", self.address)
        eventually("Prometheus is ready", self.is_ready)

    def address(self):
        """Where it listens, once it has said so."""
        said = self.log.read_text()
        if self.child.poll() is not None:
            sys.exit(f"Prometheus does not start: {said}")
        found = re.search(r'msg="Listening on" address=(\S+)', said)
        return found and found[1]

    def is_ready(self):
        try:
            with DIRECT.open(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def ask(self, call, **parameters):
        query = urllib.parse.urlencode({name.replace("match", "match[]"): value for name, value in parameters.items()})
        try:
            with DIRECT.open(f"{self.url}/api/v1/{call}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            sys.exit(f"{parameters}: {error.read().decode()}")

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
