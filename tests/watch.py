#!/usr/bin/env python3
"""The dashboard and the alerts, on a real Prometheus that scrapes two real gateways under load.

Needs `prometheus`, `promtool` and `redis-server`; the gateway is PATHCAST, or what cargo built. Everything runs on loopback, in
temporary folders, and is ended.
"""

import contextlib
import http.server
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from proofs import programs
from proofs.programs import ROOT, eventually
from watching.processes import RULES, Gateway, Prometheus
from watching.traffic import Backend, Client, Redis, Traffic, come_and_go, remote_server

BEGUN = time.monotonic()
DASHBOARD = ROOT / "deploy/grafana/pathcast.json"

# Queries of panels that honestly show nothing but zeros while nothing goes wrong. All others have to show something.
MAY_BE_ZERO = {
    ("Deaf pods", "A"),
    ("Leaving pods", "A"),
    ("Shard imbalance", "A"),
    ("Listeners", "C"),
    ("Draining", "A"),
    ("Sessions still there", "A"),
    ("Waiting to leave", "A"),
    ("Restarts and mistakes", "A"),
    ("Restarts and mistakes", "B"),
    ("Restarts and mistakes", "C"),
}


def say(text):
    print(f"{time.monotonic() - BEGUN:5.1f} s  {text}", flush=True)


def all_of(prometheus, variable, values):
    """What Grafana puts in for a variable when All is chosen, by the `values` of those before it."""
    if variable["type"] != "query":
        return variable["current"].get("value", "")
    matcher, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
    found = prometheus.ask(f"label/{label}/values", **{"match[]": fill(matcher, values)})
    if variable["allValue"] is not None:
        return variable["allValue"]
    assert found, f"nothing to choose for ${variable['name']}"
    return "(" + "|".join(found) + ")"


def fill(query, values):
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], query)


def check_panels(prometheus, dashboard, traffic, chosen):
    """Each query has data, and shows something, unless it is among those that need not."""
    values = {"__rate_interval": "15s"}
    for variable in dashboard["templating"]["list"]:
        values[variable["name"]] = chosen.get(variable["name"]) or all_of(prometheus, variable, values)
    pending = {
        (panel["title"], target["refId"]): fill(target["expr"], values)
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    count = len(pending)

    def are_all_shown():
        if traffic.failure:
            raise traffic.failure
        for key, query in list(pending.items()):
            numbers = prometheus.numbers(query)
            if any(numbers) or numbers and key in MAY_BE_ZERO:
                del pending[key]
        return not pending

    eventually(lambda: "panels without data:\n" + "\n".join(f"{key}: {query}" for key, query in pending.items()), are_all_shown)
    say(f"{count} queries of panels have data, with {chosen or 'everything chosen'}")


def check_files(dashboard):
    """What can be said without a gateway."""
    folder = RULES.parent
    for command in (
        ["promtool", "check", "rules", "--lint-fatal", RULES],
        ["promtool", "check", "config", "--syntax-only", folder / "prometheus.yml"],
        ["promtool", "test", "rules", folder / "alerts.test.yaml"],
        [sys.executable, ROOT / "deploy/grafana/dashboard.py", "--check"],
    ):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")

    rules, tests = RULES.read_text(), (folder / "alerts.test.yaml").read_text()
    page = (ROOT / "docs/operations.md").read_text()
    headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
                for line in page.splitlines() if line.startswith("#")}
    alerts = re.findall(r"- alert: (\w+)", rules)
    for alert in alerts:
        assert f'alertname="{alert}"' in tests, f"no test in which {alert} fires"
        assert f"docs/operations.md#{alert.lower()}\n" in rules, f"{alert} has no runbook"
        assert alert.lower() in headings, f"docs/operations.md does not explain {alert}"
    for word in ("expr", "for", "severity", "summary", "description", "runbook"):
        assert len(re.findall(rf"^ +{word}:", rules, re.M)) == len(alerts), f"an alert has no {word}"

    chosen = {variable["name"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            missing = {name for name in chosen - {"path"} if f'=~"${name}"' not in target["expr"]}
            assert not missing, f"{panel['title']} shows what {missing} does not choose"
    assert chosen == {"cluster", "namespace", "job", "pod", "instance", "path"}

    places, ids = set(), set()
    for panel in dashboard["panels"]:
        where, title = panel["gridPos"], panel["title"]
        cells = {(x, y) for x in range(where["x"], where["x"] + where["w"]) for y in range(where["y"], where["y"] + where["h"])}
        assert not cells & places and max(x for x, _ in cells) < 24, f"{title} lies over another panel"
        assert panel["id"] not in ids, f"{title} has the number of another one"
        assert panel["type"] == "row" or panel["description"].endswith("."), f"{title} is not described"
        places |= cells
        ids.add(panel["id"])
    say(f"{len(alerts)} alerts fire and are over in promtool's tests; {len(ids)} panels and rows")


def check_dropping(gateways):
    """Clients that do not keep up, where only the latest counts, miss what is older on each gateway."""
    dropped = re.compile(r'^pathcast_undelivered_total{path="/ws/latest",reason="dropped"} [1-9]', re.M)
    eventually("messages are dropped for newer ones", lambda: all(dropped.search(gateway.metrics()) for gateway in gateways))
    say("slow clients of the latest miss what is older")


def check_rules(prometheus):
    """Each expression was evaluated on what the gateways tell, without an error or a warning."""
    def rules():
        found = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return found if found and all(rule["health"] != "unknown" for rule in found) else None
    for rule in eventually("the rules were evaluated", rules):
        assert rule["health"] == "ok" and not rule.get("lastError"), rule
        prometheus.ask("query", query=rule["query"])
    say("all rules are evaluated")


def check_exposition(gateways):
    for gateway in gateways:
        done = subprocess.run(["promtool", "check", "metrics"], input=gateway.metrics(), capture_output=True, text=True)
        if done.returncode or done.stdout or done.stderr:
            sys.exit(f"promtool check metrics, {gateway.name}:\n{done.stdout}{done.stderr}")
    say("promtool has nothing to say about /metrics")


def series(gateways):
    return {f"{gateway.name} {line.rsplit(' ', 1)[0]}" for gateway in gateways for line in gateway.metrics().splitlines() if not line.startswith("#")}


def check_cardinality(gateways):
    """Whatever clients and publishers make up, no series comes of it."""
    for gateway in gateways:
        # A result of handshakes is there when it was seen, and there are so many of them.
        come_and_go(gateway)
    before = series(gateways)
    name = lambda: f"{random.getrandbits(64):x}"
    clients, rooms = [], []
    for number in range(300):
        rooms.append(f"/ws/rooms/{name()}")
        clients.append(Client(gateways[number % 2], f"{rooms[-1]}?{name()}", Sec_WebSocket_Protocol=name(), User_Agent=name()))
        Client(gateways[number % 2], f"/{name()}/{name()}", Origin=f"http://{name()}.example")
        gateways[number % 2].publish(f"/{name()}", 1)
        gateways[number % 2].publish("/ws/rooms/7", 1, f"?session={name()}")
        gateways[number % 2].call("POST", f"/v1/upstreams/{name()}", '{"payload":1}')
    assert all(client.status == 101 for client in clients), "a room of its own for everybody"
    rooms += [f"/ws/rooms/{name()}" for _ in range(10_000 - len(rooms))]
    for gateway, some in zip(gateways, (rooms[::2], rooms[1::2])):
        lines = "".join(json.dumps({"path": room, "msg": {"payload": 1}}) + "\n" for room in some)
        status, text = gateway.call("POST", "/v1/publish", lines, "application/x-ndjson")
        taken = sum(json.loads(line)["status"] == 202 for line in text.splitlines())
        assert (status, taken) == (200, 5000), f"{status}, {taken} taken: {text[:300]}"
    for number, client in enumerate(clients):
        client.send(name())
        client.close(4000 + number)
    path = "/ws/rooms/{room}"
    closed = re.compile(rf'^pathcast_sessions_closed_total{{code="other",path="{re.escape(path)}"}} (\d+)', re.M)
    eventually("all have left", lambda: sum(int(closed.search(gateway.metrics())[1]) for gateway in gateways) >= 300)
    after = series(gateways)
    assert after == before, f"new series: {sorted(after - before)[:10]}, gone: {sorted(before - after)[:10]}"
    say(f"10,000 random paths, 300 sessions, 300 random targets: {len(after)} series on two pods, as before")


def check_leaving(prometheus, gateway):
    """The panels and the rules of the drain, while a pod really leaves."""
    this = f'{{job="pathcast",instance="{gateway.instance}"}}'
    overrun = 'ALERTS{alertname="PathcastDrainOverrun",alertstate="firing"}'
    client = Client(gateway, "/ws/api")
    assert client.status == 101, "it is let in"
    Backend.may_answer.clear()
    client.send("slowly")
    gateway.signal(signal.SIGTERM)
    eventually("a pod leaves", lambda: prometheus.value(f"pathcast_draining{this}") == 1)
    assert prometheus.value(f"max_over_time(pathcast_drain_remaining{this}[1m])") > 0, "sessions that it has to close"
    assert prometheus.value(overrun) is None, "it has hardly begun"
    eventually("a backend that takes nothing is told of", lambda: prometheus.value(overrun))
    Backend.may_answer.set()
    assert gateway.wait() == 0, gateway.said()
    assert "mid-farewell" not in gateway.said(), "it was answered in time"
    pending = f'ALERTS{{alertname="PathcastPodDown",alertstate="pending",instance="{gateway.instance}",job="pathcast"}}'
    eventually("a pod that has gone is noticed", lambda: prometheus.value(pending))
    assert prometheus.value(f"pathcast_draining{this}") is None, "what has gone does not drain"
    say("a pod that leaves is shown, and missed when it has gone")


def run(stack):
    dashboard = json.loads(DASHBOARD.read_text())
    check_files(dashboard)

    server = stack.enter_context(programs.Redis())
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    upstream = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=remote_server, args=[upstream], daemon=True).start()
    # Bound, and not listening: whoever connects to it is refused.
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    ports = {"backend": backend.server_port, "upstream": upstream.getsockname()[1], "nobody": nobody.getsockname()[1]}
    gateways = [stack.enter_context(Gateway(name, server, **ports)) for name in ("one", "two")]
    prometheus = stack.enter_context(Prometheus(gateways))
    say("Redis, two gateways and Prometheus run")

    traffic = Traffic(gateways, Redis(server.socket))
    traffic.start()
    eventually("all are scraped", lambda: prometheus.value("count(pathcast_broker_up)") == 2 * len(gateways))
    check_panels(prometheus, dashboard, traffic, {})
    check_panels(prometheus, dashboard, traffic, {"job": "pathcast"})
    check_panels(prometheus, dashboard, traffic, {"cluster": "east", "namespace": "ws", "pod": "(pathcast-0|pathcast-1)", "path": ".*"})
    check_dropping(gateways)
    check_rules(prometheus)
    check_exposition(gateways)
    traffic.stop()
    # It breaks their links now and then.
    eventually("all are linked", lambda: all("\npathcast_broker_up 1\n" in gateway.metrics() for gateway in gateways))
    check_cardinality(gateways)
    check_leaving(prometheus, gateways[1])


signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
with contextlib.ExitStack() as ended:
    run(ended)
say("all of it holds")
