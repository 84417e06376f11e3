#!/usr/bin/env python3
"""Writes pathcast.json, the dashboard for Grafana 11 and later; with --check only says whether it is current.

A panel is one call here and forty lines there. In queries `@pods` is what the variables choose among pods, and `@paths` that and the
configured path. Pods are told apart by `pod` and `instance` together: without Kubernetes there is no label `pod`, and that is then empty.
"""

import json
import pathlib
import sys

FILE = pathlib.Path(__file__).with_name("pathcast.json")
PODS = 'cluster=~"$cluster",namespace=~"$namespace",job=~"$job",pod=~"$pod",instance=~"$instance"'
PATHS = f'{PODS},path=~"$path"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
BY_POD = "{{pod}} {{instance}}"
WIDTH = 24

panels = []


def place(width, height):
    """To the right of the panel before it, or below, when there is no room."""
    if not panels:
        return {"x": 0, "y": 0, "w": width, "h": height}
    last = panels[-1]["gridPos"]
    x, y = last["x"] + last["w"], last["y"]
    if x + width > WIDTH:
        x, y = 0, last["y"] + last["h"]
    return {"x": x, "y": y, "w": width, "h": height}


def row(title):
    panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place(WIDTH, 1)})


def panel(kind, title, description, queries, unit, width, height, options, defaults, **target):
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "expr": query.replace("@pods", PODS).replace("@paths", PATHS),
            "legendFormat": legend,
            **target,
        }
        for number, (query, legend) in enumerate(queries)
    ]
    panels.append({
        "id": len(panels) + 1,
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": place(width, height),
        "targets": targets,
        "options": options,
        "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": []},
    })


def thresholds(*steps):
    """Colours from a value on; the first one holds from the start."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in steps]}


GREEN = thresholds((None, "green"))
NONE_IS_GOOD = thresholds((None, "green"), (0.001, "red"))


def stat(title, description, query, unit="short", colours=GREEN):
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    }
    panel("stat", title, description, [(query, "")], unit, 3, 4, options, {"thresholds": colours, "color": {"mode": "thresholds"}})


def chart(title, description, *queries, unit="short", width=8, stacked=False, lowest=0, bound=None):
    """`bound`: a value at which a red line is drawn."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 10,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if bound is None else "dashed"},
    }
    colours = GREEN if bound is None else thresholds((None, "green"), (bound, "red"))
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"custom": custom, "min": lowest, "color": {"mode": "palette-classic"}, "thresholds": colours}
    panel("timeseries", title, description, queries, unit, width, 8, options, defaults)


def heat_map(title, description, query, unit):
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "exponent": 0.5, "steps": 64, "reverse": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    panel("heatmap", title, description, [(query, "{{le}}")], unit, 12, 8, options, {"custom": {}}, format="heatmap")


def quantiles(family, by=""):
    """Median, 90 % and 99 % of a histogram; `by`: a label that stays."""
    labels = f"le, {by}" if by else "le"
    legend = "{{" + by + "}} " if by else ""
    return [
        (f"histogram_quantile({part}, sum by ({labels}) (rate({family}_bucket{{@pods}}[$__rate_interval])))", f"{legend}{name}")
        for part, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    ]


def rates(family, by, more="", where="@pods"):
    return (f"sum by ({by}) (rate({family}{{{where}{more}}}[$__rate_interval]))", " ".join("{{" + label + "}}" for label in by.split(", ")))


row("At a glance")
stat("Sessions", "Open sessions of the chosen pods and paths.", "sum(pathcast_sessions{@paths})")
stat("Pods", "Gateways that are scraped.", "count(pathcast_broker_up{@pods})")
stat("Deaf pods", "Pods whose link to Redis is down: their clients get nothing.",
     "count(pathcast_broker_up{@pods} == 0) or vector(0)", colours=NONE_IS_GOOD)
stat("Published", "Messages taken for broadcast, from all sources.",
     "sum(rate(pathcast_published_total{@paths}[$__rate_interval]))", unit="cps")
stat("Delivered", "Frames of broadcasts handed to sessions.",
     "sum(rate(pathcast_deliveries_total{@paths}[$__rate_interval]))", unit="cps")
stat("Not delivered", "Frames that a session should have got and did not.",
     "sum(rate(pathcast_undelivered_total{@paths}[$__rate_interval]))", unit="cps", colours=thresholds((None, "green"), (0.001, "orange")))
stat("Fan-out, p99", "From a broadcast's receipt on a pod to its last socket there.",
     "histogram_quantile(0.99, sum by (le) (rate(pathcast_fanout_seconds_bucket{@pods}[$__rate_interval])))", unit="s")
stat("Leaving pods", "Pods that drain.", "sum(pathcast_draining{@pods})", colours=thresholds((None, "green"), (0.5, "blue")))

row("Sessions")
chart("Sessions by path", "Open sessions of each configured path; a pattern is one of them.",
      ("sum by (path) (pathcast_sessions{@paths})", "{{path}}"), stacked=True)
chart("Sessions by pod", "Open sessions of each pod; they should be near each other.",
      ("sum by (pod, instance) (pathcast_sessions{@paths})", BY_POD))
chart("Shard imbalance", "Sessions of a pod's fullest shard less those of its emptiest: more than a tenth is unexpected.",
      ("max by (pod, instance) (pathcast_shard_imbalance{@pods})", BY_POD))
chart("Connects", "Sessions opened, by path.",
      rates("pathcast_sessions_opened_total", "path", where="@paths"), unit="cps")
chart("Disconnects by code", "Sessions ended: 1000 and 1001 the client left, 1006 its connection broke, 1012 a pod left, 1013 it was too slow.",
      rates("pathcast_sessions_closed_total", "code", where="@paths"), unit="cps", stacked=True)
chart("Handshakes by result", "What was answered to clients that wanted in; docs/metrics.md lists the results.",
      rates("pathcast_handshakes_total", "result"), unit="cps", stacked=True)

row("Messages")
chart("Published by source", "HTTP counts each broadcast once; Redis once for each pod with somebody on the path.",
      rates("pathcast_published_total", "source", where="@paths"), unit="cps")
chart("Published by path", "Messages taken for broadcast.",
      rates("pathcast_published_total", "path", where="@paths"), unit="cps")
chart("From clients", "Complete messages that clients sent.",
      rates("pathcast_messages_in_total", "path", where="@paths"), unit="cps")
chart("Delivered by path", "Frames of broadcasts put on sockets or into outboxes.",
      rates("pathcast_deliveries_total", "path", where="@paths"), unit="cps")
chart("Delivered bytes", "Bytes of broadcasts as they went out, by pod.",
      (rates("pathcast_delivery_bytes_total", "pod, instance")[0], BY_POD), unit="Bps")
chart("Not delivered, by reason", "Frames that a session did not get: slow, dropped and overload are worth a look, closed is not.",
      rates("pathcast_undelivered_total", "reason", where="@paths"), unit="cps", stacked=True)
chart("Unicasts by result", "Verdicts on messages to one session; unknown means that its pod did not answer in time.",
      rates("pathcast_unicast_total", "result"), unit="cps")
chart("Frames in a write", "How many frames of broadcasts share one write: writes cost, frames do not.",
      ("sum(rate(pathcast_deliveries_total{@pods}[$__rate_interval])) / sum(rate(pathcast_delivery_writes_total{@pods}[$__rate_interval]))", "frames"))
chart("Deflated to", "Size of deflated messages against their size before, on paths with compress.",
      ('sum(rate(pathcast_deflate_bytes_total{@pods,side="after"}[$__rate_interval]))'
       ' / sum(rate(pathcast_deflate_bytes_total{@pods,side="before"}[$__rate_interval]))', "ratio"), unit="percentunit")

row("Fan-out")
heat_map("Fan-out latency", "How many fan-outs took how long, from receipt on a pod to its last socket written or queued.",
         "sum by (le) (increase(pathcast_fanout_seconds_bucket{@pods}[$__rate_interval]))", "s")
chart("Fan-out quantiles", "The same over all chosen pods; a path's flush_interval is part of it.",
      *quantiles("pathcast_fanout_seconds"), unit="s", width=12)

row("Slow clients")
chart("Outboxes", "What waits for sockets that did not take it, by pod.",
      ("sum by (pod, instance) (pathcast_outbox_bytes{@pods})", BY_POD), unit="bytes")
chart("Closed for being slow", "Sessions closed with 1013, by path.",
      rates("pathcast_sessions_closed_total", "path", ',code="1013"', where="@paths"), unit="cps")
chart("Dropped for slow clients", "Broadcasts that clients missed because they were slow, or that were dropped for newer ones, by path.",
      rates("pathcast_undelivered_total", "path, reason", ',reason=~"slow|dropped"', where="@paths"), unit="cps")

row("Redis")
chart("Link", "1 while a pod's link to Redis carries messages; always with the memory broker.",
      ("min by (pod, instance) (pathcast_broker_up{@pods})", BY_POD))
chart("Round trip", "A pod's ping to itself through Redis, once a second; nothing here is nothing heard.",
      *quantiles("pathcast_broker_roundtrip_seconds"), unit="s")
chart("Gaps and nonsense", "Breaks of the link in which broadcasts were missed, and what was published that is no msg.",
      ("sum(increase(pathcast_broker_gaps_total{@pods}[$__rate_interval]))", "gaps"),
      ("sum(increase(pathcast_broker_malformed_total{@pods}[$__rate_interval]))", "malformed"))

row("Backends and listeners")
chart("Events by result", "What became of events: repeated without taken is a backend that is away; dropped and refused are lost.",
      rates("pathcast_backend_events_total", "backend, result"), unit="cps")
chart("Backend latency", "From an event until its backend had it.",
      *quantiles("pathcast_backend_seconds", "backend"), unit="s")
chart("Held sessions", "Clients that are not read until a backend can take more.",
      ("sum by (backend) (pathcast_backend_held_sessions{@pods})", "{{backend}}"))
chart("Stream backlog", "Entries that some group of readers has not acknowledged, of the path's fullest stream; full at broker.stream_backlog_max.",
      ("max by (path) (pathcast_stream_backlog{@paths})", "{{path}}"), ("max(pathcast_stream_backlog_max{@pods})", "full"))
chart("Waiting for webhooks", "Bytes of events that wait to be posted, or are being posted, by pod.",
      ("sum by (pod, instance) (pathcast_webhook_waiting_bytes{@pods})", BY_POD), unit="bytes")
chart("Listeners", "Who hears server-sent events, the paths that pods tell each other of for them, and the events a second that they missed.",
      ("sum(pathcast_event_listeners{@pods})", "listeners"),
      ("sum(pathcast_event_taps{@pods})", "taps"),
      ("sum(rate(pathcast_events_missed_total{@pods}[$__rate_interval]))", "missed"))

row("Upstreams")
chart("Connected", "Pods connected to each upstream: 1, or 0 while nobody is.",
      ("sum by (name) (pathcast_upstream_connected{@pods})", "{{name}}"), width=6)
chart("Messages", "From and to upstreams; queued had to wait, refused and lost did not arrive.",
      rates("pathcast_upstream_messages_total", "name, result"), unit="cps", width=6)
chart("Waiting", "Bytes that wait to be sent to an upstream; full at its queue_bytes_max.",
      ("sum by (name) (pathcast_upstream_waiting_bytes{@pods})", "{{name}}"), unit="bytes", width=6)
chart("Attempts to connect", "By upstream and result.",
      rates("pathcast_upstream_dials_total", "name, result"), unit="cps", width=6)

row("Leaving")
chart("Draining", "1 while a pod leaves.",
      ("max by (pod, instance) (pathcast_draining{@pods})", BY_POD))
chart("Sessions still there", "What pods that leave still have to close.",
      ("sum by (pod, instance) (pathcast_drain_remaining{@pods})", BY_POD))
chart("Waiting to leave", "For how long pods that leave have waited for clients and backends since they closed their last session.",
      ("max by (pod, instance) (pathcast_drain_flush_seconds{@pods})", BY_POD), unit="s")

row("Saturation")
chart("Sessions against the hard limit", "At 100 % a pod answers new clients with 503.",
      ("sum by (pod, instance) (pathcast_sessions{@pods})"
       ' / sum by (pod, instance) (pathcast_sessions_limit{@pods,kind="hard"})', BY_POD), unit="percentunit", width=6, bound=0.9)
chart("Sessions against the soft limit", "Above 100 % a pod is not ready, so that load balancers send clients elsewhere.",
      ("sum by (pod, instance) (pathcast_sessions{@pods})"
       ' / sum by (pod, instance) (pathcast_sessions_limit{@pods,kind="soft"})', BY_POD), unit="percentunit", width=6, bound=1)
chart("Open files against their limit", "Each session is an open file.",
      ("max by (pod, instance) (process_open_fds{@pods} / process_max_fds{@pods})", BY_POD), unit="percentunit", width=6, bound=0.85)
chart("Outboxes against their limit", "Of limits.outbox_total_bytes_max: at 100 % slow clients are closed.",
      ("sum by (pod, instance) (pathcast_outbox_bytes{@pods}) / sum by (pod, instance) (pathcast_outbox_bytes_max{@pods})", BY_POD), unit="percentunit", width=6, bound=0.9)

row("Resources")
chart("Processors", "Processors that a pod keeps busy.",
      ("sum by (pod, instance) (rate(process_cpu_seconds_total{@pods}[$__rate_interval]))", BY_POD), width=6)
chart("Memory", "Resident memory by pod.",
      ("sum by (pod, instance) (process_resident_memory_bytes{@pods})", BY_POD), unit="bytes", width=6)
chart("Threads", "Threads by pod: shards, workers, and a few besides.",
      ("sum by (pod, instance) (process_threads{@pods})", BY_POD), width=6)
chart("Restarts and mistakes", "Processes that began anew at the same address, sessions closed 1011 after a bug, and pods that could not take their new settings.",
      ("sum(changes(process_start_time_seconds{@pods}[$__rate_interval]))", "restarts"),
      ("sum(increase(pathcast_session_panics_total{@pods}[$__rate_interval]))", "panics"),
      ("sum(pathcast_configuration_refused{@pods})", "refused settings"), width=6)


def variable(name, label, query, all_is=None):
    """What can be chosen, several at once. `all_is`: what All means where the label may be missing."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "Prometheus"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": all_is,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


variables = [
    {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "current": {},
        "hide": 0,
    },
    # Of a Prometheus that sees several.
    variable("cluster", "Cluster", "label_values(pathcast_broker_up, cluster)", ".*"),
    variable("namespace", "Namespace", 'label_values(pathcast_broker_up{cluster=~"$cluster"}, namespace)', ".*"),
    # Always there, and All is those that have gateways: the families of processes have other owners, too.
    variable("job", "Job", 'label_values(pathcast_broker_up{cluster=~"$cluster",namespace=~"$namespace"}, job)'),
    variable("pod", "Pod", 'label_values(pathcast_broker_up{cluster=~"$cluster",namespace=~"$namespace",job=~"$job"}, pod)', ".*"),
    variable("instance", "Instance", 'label_values(pathcast_broker_up{cluster=~"$cluster",namespace=~"$namespace",job=~"$job",pod=~"$pod"}, instance)', ".*"),
    variable("path", "Path", 'label_values(pathcast_sessions{cluster=~"$cluster",namespace=~"$namespace",job=~"$job"}, path)', ".*"),
]

dashboard = {
    "uid": "pathcast",
    "title": "pathcast",
    "description": "A WebSocket gateway: who is connected, what is sent, what waits, what is full.",
    "tags": ["pathcast", "websocket"],
    # Grafana 11; later ones know how to bring it up to date.
    "schemaVersion": 39,
    "version": 1,
    "editable": True,
    "graphTooltip": 1,
    "refresh": "30s",
    "time": {"from": "now-1h", "to": "now"},
    "timezone": "browser",
    "annotations": {"list": []},
    "links": [],
    "templating": {"list": variables},
    "panels": panels,
}

# A panel is a line, so that a change of one is seen as that.
lines = ",\n".join("    " + json.dumps(one) for one in panels)
text = json.dumps({**dashboard, "panels": []}, indent=2).replace('"panels": []', f'"panels": [\n{lines}\n  ]') + "\n"
if sys.argv[1:] != ["--check"]:
    FILE.write_text(text)
elif not FILE.exists() or FILE.read_text() != text:
    sys.exit(f"{FILE.name} is not what dashboard.py writes: run it")
